#!/usr/bin/env python3
"""python3 tests/decode.py    Decodes tests/golden/*.lqa, from the manual of latticequant.h alone.

A second decoder, in plain Python without numpy, that shares no line with the C code: what it needs
and the manual does not say is a fault of the manual. Parts are named like those of the manual. It
decodes the same tokens as test_golden.c does and compares every bit with NAME.f16. The last line
is "decode.py: N passed, M failed".

Not decoded: calibrated heads of live caches, values that are among the keys, external profiles.
"""
import hashlib
import math
import os
import struct
import sys

Z, D4, E8, E8_RELAXED, TRELLIS_8, TRELLIS_64 = 1, 2, 3, 4, 5, 6
K, V, KV = 1, 2, 3
HADAMARD, DENSE, NAMED = 2, 3, 4  # bases of profiles
NONE16, NONE32, NONE64 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class Bad(Exception):
    """Bytes that are no stream of the format."""


def need(condition, text):
    if not condition:
        raise Bad(text)


# ---- numbers ----
def f32(x):
    """Rounded to a binary32, ties to even."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def f32_bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def f16_bits(x):
    return struct.unpack("<H", struct.pack("<e", x))[0]


def floor_log2(x):
    return x.bit_length() - 1


def i8(x):
    return x - 256 if x > 127 else x


def unzigzag(n):
    return n >> 1 ^ -(n & 1)


def clamp(x, low, high):
    return low if x < low else high if x > high else x


class Bits:
    """Bits of bytes, the lowest of each byte first."""

    def __init__(self, data):
        self.value = int.from_bytes(data, "little")
        self.count = 8 * len(data)
        self.at = 0

    def get(self, bits):
        need(self.at + bits <= self.count, "bits run out")
        x = self.value >> self.at & ((1 << bits) - 1)
        self.at += bits
        return x

    def golomb(self, order, most):
        """Exp-Golomb code of `order`, zigzagged."""
        length = order
        while self.get(1) == 0:
            length += 1
            need(length <= most, "a code is too long")
        return unzigzag(self.get(length) + (1 << length) - (1 << order))

    def rice(self, order):
        """Ones, a zero and `order` bits, or 24 ones and 16 bits; zigzagged, of 16 bits."""
        ones = 0
        while ones < 24 and self.get(1):
            ones += 1
        n = self.get(order) | ones << order if ones < 24 else self.get(16)
        return unzigzag(n & 65535)

    def end(self):
        """Less than a byte is left, of zeros."""
        need(self.count - self.at < 8 and self.value >> self.at == 0, "bits are left")


# ---- Integer functions ----
def root_q30(k):
    """round(2^(2^-k) 2^30)"""
    x = 2 << 200
    for _ in range(k):
        x = math.isqrt(x << 200)
    return ((x >> 169) + 1) >> 1


ROOTS = [root_q30(k) for k in range(1, 17)]


def log2_q16(x):
    n = floor_log2(x)
    m = x >> n - 31 if n > 31 else x << 31 - n
    r = n
    for _ in range(16):
        m = m * m >> 31
        r *= 2
        if m >> 32:
            m >>= 1
            r += 1
    return r


def log2_q16_of_f32(x):
    u = f32_bits(x)
    return log2_q16(u & 0x7FFFFF | 0x800000) + ((u >> 23) - 150) * 65536


def exp2_q30(x):
    """2^(x / 2^16) in q30, x below 2^16"""
    m = 1 << 30
    for k in range(16):
        if x >> 15 - k & 1:
            m = (m * ROOTS[k] + (1 << 29)) >> 30
    return m


def exp2_eighths_q30(eighths):
    up = eighths + 48
    return exp2_q30((up & 7) << 13) << (up >> 3) >> 6


def exp2_neg_q36(e):
    """2^-e in q36, e in q32"""
    n = e >> 32
    f = (1 << 32) - (e & 0xFFFFFFFF)
    if n > 40:
        return 0
    if f >> 32:
        return (1 << 36) >> n
    m = exp2_q30(f >> 16)
    m += m * ((f & 65535) * 45426 >> 16) >> 32
    return (m << 6) >> n + 1


def gauss_q36(t):
    """exp(-t^2 / 2) in q36, t in q16"""
    return exp2_neg_q36((t * t >> 8) * 3098164009 >> 24)


def sincos_q30(phase):
    quadrant = (phase + 0x20000000) >> 30 & 3
    r = phase - ((phase + 0x20000000) >> 30 << 30)
    a = (r * 1686629713 + (1 << 29)) >> 30
    z = (a * a + (1 << 29)) >> 30
    s = 2959
    for c in (-213044, 8947849, -178956971):
        s = (s * z >> 30) + c
    s = a + ((s * z >> 30) * a >> 30)
    c = -296
    for d in (26631, -1491308, 44739243, -536870912, 1 << 30):
        c = (c * z >> 30) + d
    return ((s, c), (c, -s), (-s, -c), (-c, s))[quadrant]


# ---- Tables ----
MASS = [0]
for _i in range(2048):
    MASS.append(MASS[_i] + gauss_q36((2 * _i + 1) * 128))
AT_0, AT_1_4, AT_1_2, AT_3_4, AT_0_PLAIN = range(5)
ONE, WIDE, SPARE, CLASS_MAX, LIVE = 33, 53, 25, 121, 15
COSET_ONE = (
    (16, 16, 16, 45, 203, 665, 1770, 3820, 6971, 11047, 15622, 20157, 24159, 27349, 29649, 31160,
     32024, 32490, 32684, 32745, 32768, 32768, 32768, 32768, 32768),
    (16, 16, 16, 70, 299, 929, 2358, 4883, 8629, 13284, 18365, 23284, 27506, 30827, 33198, 34710,
     35603, 36065, 36253, 36321, 36345, 36345, 36345, 36345, 36345))


def mass_of(t):
    i = t >> 16
    if i >= 2048:
        return MASS[2048]
    return MASS[i] + ((MASS[i + 1] - MASS[i]) * (t & 65535) >> 16)


def dead_zone_q16(class_):
    e = class_ - ONE
    if class_ > WIDE:
        return 0
    if e <= -12:
        return 29491
    zone = 3932 * exp2_eighths_q30(-2 * e)
    if e < 8:
        zone += 46 * exp2_eighths_q30(-6 * e)
    return min(zone >> 30, 29491)


def cell_edge(k, offset, zone):
    """Lower edge of the cell of k, q16."""
    edge = k * 65536 - 32768
    if offset == AT_0:
        return edge + zone if k > 0 else edge - zone
    return edge + (0 if offset == AT_0_PLAIN else offset * 16384)


def single_end(at, ideal, following):
    least = (at // 1024 + 1) * 1024 if at % 1024 else at + 1
    end = max(ideal, least)
    inside = end % 1024
    if inside and inside + following < 1024:
        down = end - inside >= least and 2 * inside + following <= 1024
        end = end - inside if down else end - inside + 1024 - following
    return end


def lay_single(freq, rare, big, turn):
    """[(value + 16, slots)] and what is lost, None where it cannot be done."""
    order = [(0, freq[0])]
    placed = {0}
    at = ideal = freq[0]
    loss = 0
    for i in range(len(big)):
        b = big[(i + turn) % len(big)]
        end = single_end(at, ideal + freq[b], 1024)
        ideal += freq[b]
        best = 0
        least = None
        for j in range(1, len(rare)):
            if j not in placed:
                to = single_end(at, ideal, freq[rare[j]])
                if least is None or abs(to - ideal) < least:
                    best, end, least = j, to, abs(to - ideal)
        if i == len(big) - 1:
            end = 65536 - (freq[rare[best]] if best else 0)
            if single_end(at, end, 1024) != end:
                return None, None
        order.append((b, end - at))
        loss += ((end - at - freq[b]) ** 2 << 16) // freq[b]
        at = end
        if best:
            placed.add(best)
            order.append((rare[best], freq[rare[best]]))
            at += freq[rare[best]]
            ideal += freq[rare[best]]
    return order, loss


def lay_double(freq, rare, big):
    order = []
    r = b = 0
    for s in range(len(rare) + len(big)):
        is_rare = s < 2 or s >= 2 * len(big) + 2 or s % 2 == 1
        if (is_rare and r < len(rare)) or b == len(big):
            order.append((rare[r], freq[rare[r]]))
            r += 1
        else:
            order.append((big[b], freq[big[b]]))
            b += 1
    return order


class Table:
    """Intervals of the 2^16 slots: of each slot its value (None: escape), freq and begin."""

    def __init__(self, freq):
        freq = list(freq)
        while True:
            big = [i for i in range(1, 32) if freq[i] >= 1024]
            rare = [0] + [i for i in range(1, 32) if 0 < freq[i] < 1024]
            if len(rare) <= len(big) + 3:
                break
            least = min(freq[i] for i in rare[1:])
            rarest = max(i for i in rare[1:] if freq[i] == least)
            freq[0] += freq[rarest]
            freq[rarest] = 0
        order = lay_double(freq, rare, big)
        if len(rare) <= len(big) + 1:
            least = None
            for turn in range(len(big)):
                laid, loss = lay_single(freq, rare, big, turn)
                if laid and (least is None or loss < least):
                    order, least = laid, loss
        self.lay([(value - 16 if value else None, count) for value, count in order])

    def lay(self, order):
        """Intervals one behind the other."""
        self.of_bucket = [[] for _ in range(64)]
        begin = 0
        for value, count in order:
            end = begin + count
            for bucket in range(begin >> 10, (end + 1023) >> 10):
                self.of_bucket[bucket].append((end, value, count, begin))
            begin = end
        need(begin == 65536, "slots of a table")

    def find(self, slot):
        for interval in self.of_bucket[slot >> 10]:
            if slot < interval[0]:
                return interval
        raise Bad("slot")


def gauss_table(class_, offset):
    inverse = exp2_eighths_q30(ONE - class_)
    zone = dead_zone_q16(class_)
    whole = MASS[2048]

    def below(k):
        edge = cell_edge(k, offset, zone)
        m = mass_of(abs(edge) * inverse >> 22)
        return -m if edge < 0 else m

    freq = [0] * 32
    for k in range(-15, 16):
        f = (((below(k + 1) - below(k)) << 15) + whole // 2) // whole
        freq[k + 16] = f if f >= 16 else 0
    total = sum(freq)
    most = 1
    for i in range(1, 32):
        if freq[i] > freq[most]:
            most = i
    freq[0] = 16 if total + 16 > 65536 else 65536 - total
    freq[most] += 65536 - total - freq[0]
    return Table(freq)


BOTH = 20  # below this class both sets have zero
CHECKS = {TRELLIS_8: (0o13, 0o4), TRELLIS_64: (0o103, 0o24)}  # h0, h1


def trellis_fit(class_, a, b, most):
    s = exp2_eighths_q30(2 * (ONE - max(class_, 9))) >> 14
    return min((a * s + b * (s * s >> 16)) >> 16, most)


def trellis_edge(class_, which, n):
    """Where the n levels of one sign next to zero end, q16."""
    if which == 0:
        return 65536 * n + 32768 + trellis_fit(class_, 1720, 180, 36045)
    if class_ < BOTH:
        return 65536 * n + 32768 if n else 36864
    return 65536 * n + trellis_fit(class_, 3441, 328, 32768) if n else 0


def trellis_table(class_, which):
    inverse = exp2_eighths_q30(ONE - class_)
    inverse += inverse >> 7
    whole = MASS[2048]
    plain = int(which == 1 and class_ >= BOTH)
    freq = [0] * 32
    below = 0
    for a in range(16):
        n = a + plain
        m = mass_of(trellis_edge(class_, which, n) * inverse >> 22)
        f = (((m - below) << (15 if n else 16)) + whole // 2) // whole
        below = m
        if f < 16:
            f = 16 if n <= 2 and class_ >= BOTH else 0
        freq[16 + a] = f
        if n < 16:
            freq[16 - n] = f
    total = sum(freq)
    freq[0] = max(16, 65536 - total)
    freq[16] += 65536 - total - freq[0]
    return Table(freq)


def trellis_next(quantizer, state, bit):
    h0, h1 = CHECKS[quantizer]
    return state >> 1 ^ (h0 >> 1 if state & 1 else 0) ^ (h1 >> 1 if bit else 0)


TABLES = {}


def trellis_table_of(class_, which):
    key = "trellis", which, class_
    if key not in TABLES:
        TABLES[key] = trellis_table(class_, which)
    return TABLES[key]


def table_of(class_, offset):
    if (class_, offset) not in TABLES:
        TABLES[class_, offset] = gauss_table(class_, offset)
    return TABLES[class_, offset]


def coset_table(relaxed, class_):
    key = "coset", relaxed, class_
    if key not in TABLES:
        freq = [0] * 32
        freq[0] = 16
        freq[17] = COSET_ONE[relaxed][clamp(class_, 9, 33) - 9]
        freq[16] = 65536 - 16 - freq[17]
        TABLES[key] = Table(freq)
    return TABLES[key]


# ---- Integers to coefficients ----
def tail_mean(a, b):
    span = min((16 << 32) // (a + 65536), b - a)
    total = moment = 0
    for j in range(1, 64, 2):
        d = span * j >> 6
        weight = exp2_neg_q36((a * d + d * d // 2) * 94548 >> 16) >> 12
        total += weight
        moment += weight * d
    return moment // max(total, 1)


def centroid_shift(class_, k):
    """How far inside of |k| = 1 .. 4 (4: and above) the value lies, q12."""
    if class_ == 0:
        return 0
    if class_ > WIDE:
        down = 2 * (class_ - ONE)
        slope = (1 << 60) // (exp2_eighths_q30(down & 7) * 12)
        return min((slope >> (down >> 3)) * k >> 18, 2048)
    sigma = exp2_eighths_q30(class_ - ONE) >> 10
    inverse = exp2_eighths_q30(ONE - class_)
    zone = dead_zone_q16(class_)
    a = cell_edge(k, AT_0, zone) * inverse >> 30
    b = cell_edge(k + 1, AT_0, zone) * inverse >> 30
    mass = mass_of(b << 8) - mass_of(a << 8)
    if mass >> 24:
        at = ((gauss_q36(a) - gauss_q36(b)) * sigma + mass // 2) // mass
    else:
        at = (a + tail_mean(a, b)) * sigma >> 24
    return k * 4096 - at


def wiener_q15(quantizer, class_):
    moment = 7100 if quantizer == D4 else 4698
    octaves = 2 * (ONE - class_)
    whole = octaves >> 3
    ratio = moment * exp2_q30((octaves & 7) << 13)
    ratio = ratio << whole if whole >= 0 else 0 if whole < -40 else ratio >> -whole
    return (1 << 31) // (65536 + (ratio >> 30))


def trellis_level(class_, which, k):
    """The level of an integer, q12."""
    n = -1 - k if which and class_ >= BOTH and k < 0 else abs(k)
    if class_ < BOTH:
        x = 4096 * n - (2048 if n > 1 else -614 + 2048) * which if n else 0
    elif which == 0:
        x = 4096 * n - (trellis_fit(class_, 1638, 0, 7864) >> 4) if n else 0
    else:
        near = trellis_fit(class_, 636, 87, 14418)
        x = 4096 * n + 2048 - ((trellis_fit(class_, 1311, 0, 6554) if n else near) >> 4)
    return -x if k < 0 else x


# ---- Rows ----
class Row:
    def __init__(self, kind, class_, row):
        self.kind = kind
        self.class_ = class_
        self.row = row  # in the matrix
        self.coset = None  # matrix row of the block's coset
        self.before = 0  # HALF: rows of the block before this one
        self.relaxed = False
        self.lead = False
        self.groups = None  # of a table of counts, by number
        self.trellis = None  # the quantizer, if the row is a trellis's
        self.begins = False  # and a path begins here
        own = class_ - 8 if kind == "half" else class_
        raw = 0 if kind == "coset" else max(0, (own - WIDE + 7) >> 3)
        self.raw = [raw, raw]


def block_dims(quantizer):
    return 1 if quantizer == Z else 4 if quantizer == D4 else 8


def is_block(classes, quantizer):
    return 0 not in classes and (quantizer not in CHECKS or max(classes) <= WIDE)


def plan_of(classes, lead, quantizer):
    """The coded rows, and the number of rows of the matrix."""
    dims = block_dims(quantizer)
    rows = []
    at = 0
    i = 0
    on = False  # right behind a block
    while i < len(classes):
        n = 1 if i < lead or len(classes) - i < dims else dims
        block = classes[i:i + n]
        lattice = n > 1 and is_block(block, quantizer)
        if lattice and quantizer in CHECKS:
            for j, c in enumerate(block):
                r = Row("trellis", c, at)
                r.trellis, r.begins = quantizer, j == 0 and not on
                rows.append(r)
                at += 1
        elif lattice:
            coset = None
            if n == 8:
                coset = at
                rows.append(Row("coset", (sum(block) + 4) >> 3, at))
                at += 1
            for j, c in enumerate(block):
                kind = "half" if j == n - 1 else "shifted" if n == 8 else "plain"
                r = Row(kind, c, at)
                at += 1
                r.coset = coset
                if kind == "half":
                    r.before = n - 1
                    if quantizer == E8_RELAXED:
                        r.relaxed = True
                        r.raw[1] = max(0, (c - WIDE + 7) >> 3)
                rows.append(r)
        else:
            at += n == 8 and quantizer not in CHECKS
            for c in block:
                if c:
                    r = Row("plain" if i < lead else "z", c, at)
                    r.lead = i < lead
                    rows.append(r)
                at += 1
        on = lattice
        i += n
    # the payload's bits
    have = sum(r.raw[0] for r in rows)
    spare = [r for r in rows if r.kind in ("z", "plain", "shifted") and not r.lead and
             r.class_ - 8 * r.raw[0] >= SPARE]
    spare.sort(key=lambda r: -r.class_)
    for r in spare[:max(0, 14 - have)]:
        r.raw = [r.raw[0] + 1, r.raw[1] + 1]
    for i, r in enumerate(rows):
        r.block_raw = any(r.raw) or any(rows[i - j].raw[0] for j in range(1, r.before + 1))
        r.table = [row_table(r, p, c, quantizer) for p in (0, 1) for c in (0, 1)]
    return rows, at


def row_table(r, parity, coset, quantizer):
    if r.coset is None and r.kind != "trellis" and coset:
        coset = 0
    raw = r.raw[coset]
    class_ = r.class_ - 8 * raw
    if r.kind in ("z", "plain"):
        if raw:
            return table_of(class_, AT_1_4 if raw == 1 else AT_1_2)
        return table_of(class_, AT_0 if r.kind == "z" else AT_0_PLAIN)
    if r.kind == "trellis":
        return trellis_table_of(class_, coset)
    if r.kind == "coset":
        return coset_table(int(quantizer == E8_RELAXED), r.class_)
    if r.kind == "shifted" or (r.relaxed and coset):
        return table_of(class_, AT_1_2 if raw or coset else AT_0_PLAIN)
    if r.block_raw:
        return table_of(class_ - 8, AT_1_2 if raw else AT_1_4 + coset)
    return table_of(class_ - 8, (AT_0_PLAIN, AT_1_4, AT_1_2, AT_3_4)[2 * parity + coset])


# ---- The stream ----
def rans_decode(body, rows, matrix_rows, tokens):
    """The matrix: a list of columns for each row."""
    lanes = min(tokens, 32)
    octave_bytes = (lanes + 1) // 2
    need(len(body) >= octave_bytes, "octaves")
    octaves = [body[i // 2] >> 4 * (i & 1) & 15 for i in range(lanes)]
    need(lanes % 2 == 0 or body[octave_bytes - 1] >> 4 == 0, "octaves' padding")
    at = octave_bytes + (sum(octaves) + 7) // 8
    need(len(body) >= at + 2 * lanes, "states")
    bits = Bits(body[octave_bytes:at])
    states = [(1 << o | bits.get(o)) << 16 for o in octaves]
    bits.end()
    for i in range(lanes):
        states[i] |= body[at] | body[at + 1] << 8
        at += 2
    values = [[0] * tokens for _ in range(matrix_rows)]
    escapes = []
    trellis = [0] * tokens  # states
    for r in rows:
        symbols = values[r.row]
        escaped = []
        if r.begins:
            trellis = [0] * tokens
        for t in range(tokens):
            coset = values[r.coset][t] & 1 if r.coset is not None else 0
            if r.trellis:
                coset = trellis[t] & 1
            parity = 0
            if r.before and not r.block_raw:
                for j in range(1, r.before + 1):
                    parity ^= values[r.row - j][t] & 1
            x = states[t % 32]
            lo = x & 65535
            _, symbol, freq, begin = r.table[2 * parity + coset].find(lo)
            x = freq * (x >> 16) + lo - begin
            if x < 65536:
                need(at + 2 <= len(body), "words run out")
                x = x << 16 | body[at] | body[at + 1] << 8
                at += 2
            states[t % 32] = x
            if symbol is None:
                need(r.kind != "coset", "a coset escapes")
                escaped.append(t)
                symbol = 0
            symbols[t] = symbol
            if r.trellis:
                trellis[t] = trellis_next(r.trellis, trellis[t], symbol & 1)
        escapes.append(escaped)
    # the raw section: the last states, then the rest of the body
    payload = count = 0
    for x in states:
        o = floor_log2(x >> 16)
        payload |= (o | ((x >> 16) - (1 << o)) << 4 | (x & 65535) << 4 + o) << count
        count += 20 + o
    rest = len(body) - at
    raw = Bits(b"")
    raw.value = payload | int.from_bytes(body[at:], "little") << count
    raw.count = count + 8 * rest
    low = []
    for r in rows:
        if r.groups:
            low.append([0] * tokens)
            continue
        cosets = values[r.coset] if r.coset is not None else [0] * tokens
        low.append([raw.get(r.raw[cosets[t] & 1]) for t in range(tokens)])
    for r, escaped in zip(rows, escapes):
        for t in range(tokens) if r.groups else ():
            if t not in escaped:
                group = r.groups[values[r.row][t]]
                which = raw.get(group.bits)
                need(which < len(group.values), "a value of a group")
                values[r.row][t] = group.values[which]
    for r, escaped in zip(rows, escapes):
        for t in escaped:
            values[r.row][t] = raw.golomb(2, 16)
            need(not r.trellis or values[r.row][t] % 2 == 0, "an odd integer escapes")
    left = raw.count - raw.at
    need((left < 8 or rest == 0) and raw.value >> raw.at == 0, "the raw section does not end")
    for r, bits in zip(rows, low):
        for t in range(tokens):
            coset = values[r.coset][t] & 1 if r.coset is not None else 0
            z = values[r.row][t] << r.raw[coset] | bits[t]
            if r.kind == "half" and not (r.relaxed and coset):
                parity = 0
                for j in range(1, r.before + 1):
                    parity ^= values[r.row - j][t] & 1
                z = z << 1 | parity
            need(-32768 <= z <= 32767, "an integer is too large")
            values[r.row][t] = z
    return values


# ---- TABLES OF COUNTS ----
class CountsGroup:
    def __init__(self, bits):
        self.bits, self.values = bits, []


class CountsTable(Table):
    def __init__(self, bits):
        count = bits.get(5) + 2
        need(count <= 32, "intervals of a table")
        grouped = bits.get(1)
        self.shift = 0 if grouped else bits.get(4)
        low = 1 if grouped else bits.get(16) - 32768
        need(self.shift <= 14, "raw bits of a table")
        order = []
        left = 65536
        for i in range(count):
            symbol = bits.get(5) if i else 0
            freq = bits.get(16) if i + 1 < count else left
            need(symbol < count and (symbol > 0) == (i > 0) and 2 <= freq <= left, "an interval")
            order.append((symbol - 1 + low if symbol else None, freq))
            left -= freq
        need(len(set(value for value, _ in order)) == count, "a value twice")
        self.lay(order)
        self.groups = self.read_groups(bits, count) if grouped else None

    def read_groups(self, bits, count):
        groups = [None] + [CountsGroup(bits.get(5)) for _ in range(count - 1)]
        value = bits.get(16) - 32768
        left = bits.get(16) + 1
        need(value + left <= 32768, "a range")
        while left:
            g = bits.get(5)
            zeros = 0
            while bits.get(1) == 0:
                zeros += 1
            run = bits.get(zeros) + (1 << zeros)
            need(g < count and run <= left, "a run")
            if g:
                groups[g].values += range(value, value + run)
            value += run
            left -= run
        for g in groups[1:]:
            need(g.bits <= 16 and 0 < len(g.values) <= 1 << g.bits, "a group")
        return groups


def counts_tables(data):
    magic, version, zero, count, checksum = struct.unpack_from("<4sBBHI", data)
    need((magic, version, zero) == (b"LQRT", 1, 0) and 1 <= count <= 256, "tables' header")
    need(checksum == xxh32(data[12:], xxh32(data[:8])), "tables' checksum")
    bits = Bits(data[12:])
    tables = [CountsTable(bits) for _ in range(count)]
    bits.end()
    return tables


def counts_rows(tables):
    rows = []
    for i, table in enumerate(tables):
        r = Row("plain", 0, i)
        r.raw = [table.shift] * 2
        r.table = [table] * 4
        r.groups = table.groups
        rows.append(r)
    return rows


# ---- checksums ----
def xxh32(data, seed=0):
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    mask = 0xFFFFFFFF

    def rotate(x, n):
        return (x << n | x >> 32 - n) & mask

    n = len(data)
    at = 0
    if n >= 16:
        v = [(seed + p1 + p2) & mask, (seed + p2) & mask, seed, (seed - p1) & mask]
        while at + 16 <= n:
            for j, word in enumerate(struct.unpack_from("<4I", data, at)):
                v[j] = rotate((v[j] + word * p2) & mask, 13) * p1 & mask
            at += 16
        h = sum(rotate(v[j], (1, 7, 12, 18)[j]) for j in range(4)) & mask
    else:
        h = (seed + p5) & mask
    h = (h + n) & mask
    while at + 4 <= n:
        h = rotate((h + struct.unpack_from("<I", data, at)[0] * p3) & mask, 17) * p4 & mask
        at += 4
    for b in data[at:]:
        h = rotate((h + b * p5) & mask, 11) * p1 & mask
    h = (h ^ h >> 15) * p2 & mask
    h = (h ^ h >> 13) * p3 & mask
    return h ^ h >> 16


# ---- PROFILE FORMAT ----
class Profile:
    """A row is (mean, sigma); the sigma of a dead one is None."""

    def __init__(self, data):
        need(len(data) >= 20 and data[:4] == b"LQPF" and data[4] == 1, "profile's head")
        need(xxh32(data[20:], xxh32(data[:16])) == struct.unpack_from("<I", data, 16)[0],
             "profile's checksum")
        self.stream, self.basis, orders = data[5], data[6], data[7]
        self.slices, self.dims = struct.unpack_from("<2H", data, 8)
        self.mean_exponent = i8(data[12])
        self.gains = struct.unpack_from("<H", data, 14)[0]
        need(K <= self.stream <= KV and 1 <= self.basis <= NAMED, "stream or basis of a profile")
        need(data[13] == 0 and 1 <= self.slices <= self.dims <= 16384, "dims of a profile")
        most = self.slices - (self.stream == KV)
        least = most if self.basis < DENSE else 1
        need(self.gains == 0 if self.stream == K else least <= self.gains <= most and
             (self.stream == V or self.basis >= DENSE), "gains of a profile")
        self.dense = None
        rank, at = self.dims, 20
        if self.basis == NAMED:
            self.name, rank = data[20:36], struct.unpack_from("<H", data, 36)[0]
            at = 38
        elif self.basis == DENSE:
            self.name = hashlib.blake2s(data, digest_size=16).digest()
            self.dense = Basis(self, data)
            rank, at = self.dense.rank, self.dense.bits_at
        need(1 <= rank <= self.dims, "rank")
        bits = Bits(data[at:])
        self.read_rows(bits, orders, self.gains + rank)
        if self.dense:
            self.dense.read(bits, self.sigma[self.gains:])
        bits.end()

    def read_rows(self, bits, orders, count):
        self.mean, self.sigma = [], []
        last = 0
        for _ in range(count):
            delta = bits.golomb(orders & 15, 20)
            self.mean.append(bits.golomb(orders >> 4, 20))
            if delta == 8200:
                self.sigma.append(None)
            else:
                last += delta
                need(-4096 <= last <= 4096, "sigma")
                self.sigma.append(last)
        left = self.gains + self.dims - count
        self.mean += [0] * left
        self.sigma += [None] * left


ELEMENT_ROOTS = (1073741824, 1276901417, 1518500250, 1805811302)


def element(q, quarters):
    """q 2^(quarters / 4) in q22"""
    shift = 8 - (quarters >> 2)
    if q == 0 or shift > 62:
        return 0
    need(shift > 0, "an element is too large")
    v = (q * ELEMENT_ROOTS[quarters & 3] + (1 << shift - 1)) >> shift
    need(abs(v) < 1 << 28, "an element is too large")
    return v


class Basis:
    """A dense basis: the head of the form, then the inverse matrix."""

    def __init__(self, profile, data):
        self.rank, metric, self.center_exponent, self.precision, self.floor, self.mean_exponent, \
            queries, ratio, self.model = struct.unpack_from("<HBbhhbBHQ", data, 20)
        self.ratio = ratio / 256
        need(metric <= 2 and 0 <= queries <= (metric == 1 and profile.stream != V) and 1 <= self.rank <= min(profile.dims, 12288) and
             (16 <= ratio <= 4096 if profile.stream == KV else ratio == 256), "a dense basis")
        self.slices = [struct.unpack_from("<HbbH", data, 40 + 6 * i)
                       for i in range(profile.slices)]
        self.dims = [x[0] for x in self.slices]
        self.exponents = [x[1] for x in self.slices]
        self.gains = [None if x[3] == NONE16 else x[3] for x in self.slices]
        need(sum(self.dims) == profile.dims and self.dims.count(0) == 0, "slices of a basis")
        self.check_gains(profile)
        at = 40 + 6 * profile.slices
        self.mean = struct.unpack_from("<%dh" % profile.dims, data, at)
        at += 2 * profile.dims
        self.center = []  # keys have none: 0
        for dims, exponent, gain in zip(self.dims, self.exponents, self.gains):
            if gain is None:
                self.center += [0.0] * dims
                continue
            unit = 2.0 ** (self.center_exponent + exponent)
            unit = unit if unit >= 2.0 ** -126 else 0.0
            self.center += [f32(m * unit) for m in struct.unpack_from("<%dh" % dims, data, at)]
            at += 2 * dims
        if metric == 1:
            keys = [d for d, g in zip(self.dims, self.gains) if g is None]
            at += sum(d * (d + 1) for d in keys)
            for d in keys * queries:
                need(-64 <= struct.unpack_from("b", data, at)[0] <= 64, "a mean query")
                at += 1 + 2 * d
        self.bits_at = at

    def check_gains(self, profile):
        """0, 1 .. of slices of V that lie side by side."""
        gains, before = 0, None
        for gain in self.gains:
            if gain is not None and gain != before:
                need(gain == gains, "gains of a basis")
                gains += 1
            before = gain
        streams = KV if None in self.gains and gains else V if gains else K
        need(gains == profile.gains and streams == profile.stream, "streams of a basis")

    def read(self, bits, sigma):
        """Elements to the inverse matrix: a row and an exponent for each dim."""
        dims = sum(self.dims)
        columns = []
        for i in range(self.rank):
            octaves, order = bits.get(4), bits.get(4)
            need(sigma[i] is not None, "a dead row of a basis")
            quarters = clamp((self.precision - max(sigma[i], self.floor)) >> 2, -240, 28)
            columns.append([element(bits.rice(order), quarters + 4 * octaves)
                            for _ in range(dims)])
        self.inverse, self.inverse_exponents = [], []
        for d in range(dims):
            row = [column[d] for column in columns]
            norm = sum((v >> 3) ** 2 for v in row)
            e = -3
            while norm > 1024000000 << 2 * (e + 4):
                e += 1
            need(e <= 8, "a row of a basis is too large")
            self.inverse_exponents.append(e)
            self.inverse.append([clamp((v + (1 << e + 6)) >> e + 7, -32767, 32767) for v in row])


# ---- ARCHIVE FORMAT ----
class Rope:
    """first: the first dim that it turns; always 0 in archives."""

    def __init__(self, layout, freqs, magnitude, first=0):
        self.layout = layout
        self.freqs = freqs
        self.first = first
        self.pairs = len(freqs)
        self.steps = [phase_step(f) for f in freqs]
        self.magnitude = magnitude

    def pair(self, i):
        a, b = (2 * i, 2 * i + 1) if self.layout == 2 else (i, i + self.pairs)
        return self.first + a, self.first + b


class Group:
    pass


class Run:
    pass


class Archive:
    def __init__(self, data):
        need(len(data) >= 80 and data[:8] == b"\x89LQKV\r\n\x1a", "magic")
        need(struct.unpack_from("<H", data, 8)[0] == 1 and data[10] == 1 and data[11] == 1,
             "version")
        need(xxh32(data[:28]) == struct.unpack_from("<I", data, 28)[0], "header checksum")
        self.data = data
        self.groups, self.ropes, self.profiles, self.runs, self.metas = [], [], [], [], {}
        self.loaded = []
        at = len(data) - 48
        directories = []
        while at != NONE64:
            magic, size, offset, previous, _, _, _, checksum, own = \
                struct.unpack_from("<4sIQQIIQII", data, at)
            need(magic == b"LQF\x9a" and offset + size == at, "footer")
            need(xxh32(data[at:at + 44]) == own, "footer checksum")
            need(xxh32(data[offset:at]) == checksum, "directory checksum")
            need(previous == NONE64 or previous <= offset - 48, "previous footer")
            directories.append((offset, at))
            at = previous
        for begin, end in reversed(directories):
            while begin < end:
                kind, flags, size = struct.unpack_from("<HHI", data, begin)
                self.record(kind, flags, data[begin + 8:begin + 8 + size])
                begin += 8 + (size + 3) // 4 * 4

    def record(self, kind, flags, p):
        if kind == 1:
            g = Group()
            g.stream = p[0]
            rope = struct.unpack_from("<H", p, 2)[0]
            rope = None if rope == NONE16 else self.ropes[rope]
            count = struct.unpack_from("<H", p, 8)[0]
            need(K <= g.stream <= KV and p[1] <= 1 and (p[1] or g.stream < KV), "a group")
            size = 12 if p[1] else 8
            need(len(p) == 12 + size * count, "slices of a group")
            g.slices = [struct.unpack_from("<4H", p, 12 + size * i) for i in range(count)]
            g.dims = [s[3] for s in g.slices]
            g.streams = [g.stream] * count
            g.ropes = [rope] * count
            for i in range(count if p[1] else 0):
                g.streams[i], zero, own = struct.unpack_from("<BBH", p, 20 + size * i)
                need(g.streams[i] in (K, V) and zero == 0, "stream of a slice")
                if own:
                    g.ropes[i] = None if own == NONE16 else self.ropes[own - 1]
                need(g.streams[i] == K or own == 0, "a rope of values")
                if g.streams[i] == V and g.stream == KV:
                    g.ropes[i] = None
            self.groups.append(g)
        elif kind == 2:
            count = struct.unpack_from("<H", p, 2)[0] // 2
            self.ropes.append(Rope(p[0], struct.unpack_from("<%df" % count, p, 8),
                                   struct.unpack_from("<f", p, 4)[0]))
        elif kind == 3:
            self.profiles.append(p[4:] if p[0] == 1 else None)
            self.loaded.append(None)
        elif kind == 4:
            r = Run()
            r.group, r.profile, r.sequence, r.first, r.tokens, r.page_tokens, r.code, align, \
                r.step, base = struct.unpack_from("<IIQQIHBBfQ", p, 0)
            at = 44
            ordered, form = flags >> 3 & 1, flags >> 1 & 3
            need(flags & ~14 == 0 and form < 3, "flags of a run")
            if form == 1:
                first, stride = struct.unpack_from("<qi", p, at)
                at += 12
                r.positions = [first + i * stride for i in range(r.tokens)]
            elif form == 2:
                r.positions = list(struct.unpack_from("<%dq" % r.tokens, p, at))
                at += 8 * r.tokens
            else:
                r.positions = [r.first + i for i in range(r.tokens)]
            count = (r.tokens + r.page_tokens - 1) // r.page_tokens
            r.steps = [r.step] * count
            r.tokens_of = [range(64 * i, min(64 * i + 64, r.tokens)) for i in range(count)]
            if r.page_tokens != 64:
                r.tokens_of = [range(r.page_tokens * i, min(r.page_tokens * (i + 1), r.tokens))
                               for i in range(count)]
            if ordered:
                at = self.order(r, p, at, count)
            r.pages = []
            start = 0
            for i in range(count):
                end, checksum = struct.unpack_from("<II", p, at + 8 * i)
                page = self.data[base + start:base + end]
                need(xxh32(page) == checksum, "page checksum")
                r.pages.append(page)
                start = (end + (1 << align) - 1) >> align << align
            self.runs.append(r)
        elif kind == 5:
            self.metas[struct.unpack_from("<I", p, 0)[0]] = p[4:]
        else:
            need(flags & 1, "unknown record")

    @staticmethod
    def order(r, p, at, count):
        """Steps of an ordered run's pages and the tokens that they hold; where these end."""
        need(r.page_tokens == 64, "tokens of an ordered page")
        r.steps = [f32(r.step * gain_f32(i8(s))) for s in p[at:at + count]]
        at += count
        end = at + (r.tokens + 1) // 2
        of = [p[at + t // 2] >> t % 2 * 4 & 15 for t in range(r.tokens)]
        need(r.tokens % 2 == 0 or p[end - 1] < 16, "padding of an order")
        tokens_of = [[] for _ in range((count + 15) // 16 * 16)]
        for t in range(r.tokens):
            tokens_of[t // 1024 * 16 + of[t]].append(t)
        need([len(x) for x in tokens_of[:count]] == [len(x) for x in r.tokens_of] and
             not any(tokens_of[count:]), "an order")
        r.tokens_of = tokens_of[:count]
        return end

    def profile(self, id):
        """A profile that the archive holds, with its basis."""
        if not self.loaded[id]:
            self.loaded[id] = Profile(self.profiles[id])
        p = self.loaded[id]
        for i in range(len(self.profiles) if p.basis == NAMED and not p.dense else 0):
            if self.profiles[i] and self.profiles[i][6] == DENSE and \
                    self.profile(i).name == p.name:
                p.dense = self.profile(i).dense
        need(p.basis < DENSE or p.dense, "a basis that is not there")
        return p

    def unpack(self, group, sequence, first, count):
        """Tokens first .. first + count: of each the numbers of all slices."""
        out = [None] * count
        for r in self.runs:  # the last run that holds a token counts
            if r.group != group or r.sequence != sequence:
                continue
            for i, page in enumerate(r.pages):
                tokens = r.tokens_of[i]
                wanted = [first <= r.first + t < first + count for t in tokens]
                if not any(wanted):
                    continue
                positions = [r.positions[t] for t in tokens]
                vectors = page_decode(self, r, page, r.steps[i], positions)
                for t, want, vector in zip(tokens, wanted, vectors):
                    if want:
                        out[r.first + t - first] = vector
        need(None not in out, "a token that no run holds")
        return out


# ---- PAGE FORMAT, Coefficients to vectors, RoPE in integers ----
def phase_step(freq):
    u = f32_bits(freq)
    e = u >> 23
    m = u & 0x7FFFFF | (0x800000 if e else 0)
    return m * 0x28BE60DB9391054A >> 150 - (e or 1)


def mean_q12(mean, exponent, step):
    u = f32_bits(step)
    shift = exponent + 12 - ((u >> 23) - 150)
    if mean == 0 or shift < 0:
        return 0
    m = u & 0x7FFFFF | 0x800000
    value = ((abs(mean) << shift) + m // 2) // m
    return -value if mean < 0 else value


def class_of(sigma, log_step):
    if sigma is None:
        return 0
    return clamp(((sigma * 4096 - log_step + 4096) >> 13) + ONE, 0, CLASS_MAX)


def gain_f32(gain):
    quarter = (1.0, f32(1.189207115), f32(1.414213562), f32(1.681792831))
    return f32(quarter[gain & 3] * 2.0 ** (gain >> 2))


def sign_bit(i):
    h = i + 1
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return (h ^ h >> 16) >> 31


def butterflies(x, block):
    """In place, unscaled, blocks of `block`."""
    h = 1
    while h < block:
        for i in range(0, len(x), 2 * h):
            for j in range(i, i + h):
                x[j], x[j + h] = x[j] + x[j + h], x[j] - x[j + h]
        h *= 2


def unrotate_q6(x):
    """The inverse Hadamard basis of one slice and token: q12 to q6."""
    x = [(v + 32) >> 6 for v in x]
    block = min(len(x) & -len(x), 512)
    butterflies(x, block)
    n = floor_log2(block)
    factor = 759250125 if n & 1 else 1 << 30
    shift = 30 + n // 2
    return [(v * (-factor if sign_bit(d) else factor) + (1 << shift - 1)) >> shift
            for d, v in enumerate(x)]


def fixed_token(code, dims, quantizer, bits):
    """The points of one token, doubled."""
    if quantizer == E8:
        out = []
        for i in range(0, dims, 8):
            word = int.from_bytes(code[i // 2:i // 2 + 4], "little")
            coset = bin(word & 0x11111111).count("1") & 1
            word ^= coset << 28
            out += [2 * ((word >> 4 * j & 15) - 8) + coset for j in range(8)]
        return out
    b = Bits(code)
    return [2 * (b.get(bits) - (1 << bits - 1)) + 1 for _ in range(dims)]


def page_decode(archive, run, page, step, positions):
    group = archive.groups[run.group]
    dims, tokens = sum(group.dims), len(positions)
    need(len(page) >= 4, "trailer")
    code, form, count, index = page[-4:]
    body = page[:-4]
    need(count == tokens, "tokens of a page")
    need(code in (1, 2, 3), "code of a page")
    if code == 1:
        return raw_page(body, form, tokens, dims)
    quantizer, bits = form & 15, form >> 4
    profile = archive.profile(run.profile + index)
    dense, lead = profile.dense, profile.gains
    need(profile.stream == group.stream and profile.dims == dims and
         profile.slices == len(group.dims), "another group's profile")
    log_step = log2_q16_of_f32(step)
    classes = [max(class_of(s, 0), ONE) for s in profile.sigma[:lead]]
    classes += [class_of(s, log_step) for s in profile.sigma[lead:]]
    if dense:
        need(dense.dims == group.dims and [g is not None for g in dense.gains] ==
             [s == V for s in group.streams], "another group's basis")
        classes[lead:] = [c if c >= LIVE else 0 for c in classes[lead:]]
    means = [0 if lead and not dense else mean_q12(m, profile.mean_exponent, step)
             for m in profile.mean[lead:]]
    if code == 2:
        need(not dense, "a fixed page of a dense basis")
        c, gains = fixed_page(body, tokens, dims, lead, means, quantizer, bits)
    else:
        need(bits == 0, "bits of a coded page")
        c, gains = coded_page(body, tokens, lead, classes, means, profile.mean, quantizer)
    if dense:
        alive = max([i + 1 for i, x in enumerate(classes[lead:]) if x], default=0)
        need(alive <= dense.rank, "coefficients that the basis has not")
        return back_dense([x[:alive] for x in c], gains, dense, group, step, positions)
    return back(c, gains, profile, group, step, positions)


def raw_page(body, form, tokens, dims):
    size = 4 if form == 1 else 2
    need(form in (1, 2, 3) and len(body) == tokens * dims * size, "a raw page")
    if form == 3:
        numbers = [struct.unpack("<f", struct.pack("<I", h << 16))[0]
                   for h in struct.unpack("<%dH" % (tokens * dims), body)]
    else:
        numbers = struct.unpack("<%d%s" % (tokens * dims, "f" if form == 1 else "e"), body)
    return [list(numbers[t * dims:(t + 1) * dims]) for t in range(tokens)]


def fixed_page(body, tokens, dims, lead, means, quantizer, bits):
    """Coefficients in q12, token by token, and gains."""
    size = dims // 2 if quantizer == E8 else (dims * bits + 7) // 8
    need(len(body) == tokens * (size + lead), "length of a fixed page")
    c, gains = [], []
    for t in range(tokens):
        points = fixed_token(body[t * size:(t + 1) * size], dims, quantizer, bits)
        c.append([p * 2048 + m for p, m in zip(points, means)])
        at = tokens * size + t * lead
        gains.append([i8(g) for g in body[at:at + lead]])
    return c, gains


def coded_page(body, tokens, lead, classes, means, profile_means, quantizer):
    rows, matrix_rows = plan_of(classes, lead, quantizer)
    values = rans_decode(body, rows, matrix_rows, tokens)
    gains = [[values[s][t] + profile_means[s] for s in range(lead)] for t in range(tokens)]
    need(all(abs(g) <= 127 for token in gains for g in token), "a gain")
    dims = len(classes) - lead
    block = block_dims(quantizer)
    c = [[0] * dims for _ in range(tokens)]
    at = lead
    on = False
    states = [0] * tokens
    for i in range(0, dims, block):
        n = min(block, dims - i)
        lattice = n > 1 and n == block and is_block(classes[lead + i:lead + i + n], quantizer)
        coset = None
        if n == 8 and quantizer not in CHECKS:
            coset = values[at]
            at += 1
        if not on:
            states = [0] * tokens
        on = lattice
        for j in range(i, i + n):
            class_ = classes[lead + j]
            if lattice and quantizer in CHECKS:
                for t, k in enumerate(values[at]):
                    c[t][j] = trellis_level(class_, states[t] & 1, k) + means[j]
                    states[t] = trellis_next(quantizer, states[t], k & 1)
            elif lattice:
                wiener = wiener_q15(quantizer, class_)
                for t in range(tokens):
                    p = 2 * values[at][t] + (coset[t] if coset else 0)
                    c[t][j] = (p * wiener >> 4) + means[j]
            else:
                shifts = [0] + [centroid_shift(class_, k) for k in (1, 2, 3, 4)]
                for t in range(tokens):
                    k = values[at][t]
                    v = abs(k) * 4096 - shifts[min(abs(k), 4)]
                    c[t][j] = (-v if k < 0 else v) + means[j]
            at += 1
    return c, gains


def back(c, gains, profile, group, step, positions):
    """Coefficients in q12 to vectors of floats: the basis in integers, then floats."""
    hadamard = profile.basis == HADAMARD
    lead = profile.gains
    center = None
    if lead and any(profile.mean[lead:]):
        center = []
        for s, dims in enumerate(group.dims):
            unit = 2.0 ** (profile.mean_exponent + (profile.mean[s] >> 2))
            center += [f32(m * unit)
                       for m in profile.mean[lead + len(center):lead + len(center) + dims]]
    vectors = []
    for t, token in enumerate(c):
        x = []
        for s, dims in enumerate(group.dims):
            part = token[len(x):len(x) + dims]
            unit = f32(step * (1 / 64 if hadamard else 1 / 4096))
            if lead:
                unit = f32(unit * gain_f32(gains[t][s]))
            if hadamard:
                part = unrotate_q6(part)
            for v in part:
                y = f32(v) * unit
                if center and not any(group.ropes):
                    y += center[len(x)]
                x.append(f32(y))
        if any(group.ropes):
            ropes_apply(x, group, positions[t])
            if center:
                x = [f32(v + m) for v, m in zip(x, center)]
        vectors.append(x)
    return vectors


def ropes_apply(x, group, position):
    """To each slice its own."""
    at = 0
    for dims, rope in zip(group.dims, group.ropes):
        if rope:
            rope_apply(x, at, rope, position)
        at += dims


def rope_apply(x, at, rope, position):
    scale = f32(rope.magnitude / 2 ** 30)
    for i in range(rope.pairs):
        phase = (position * rope.steps[i] & NONE64) >> 32
        sine, cosine = (f32(f32(v) * scale) for v in sincos_q30(phase))
        a, b = rope.pair(i)
        u, w = x[at + a], x[at + b]
        x[at + a] = f32(f32(u * cosine) - f32(w * sine))
        x[at + b] = f32(f32(w * cosine) + f32(u * sine))


# ---- Dense bases ----
def shifted_column(c):
    """A token's coefficients as numbers of 16 bits, and the shift."""
    energy = sum((v >> 4) ** 2 for v in c)
    shift = 0
    while energy > 3633789 << 2 * shift:
        shift += 1
    half = 1 << shift >> 1
    return [clamp((v + half) >> shift, -32767, 32767) for v in c], shift


def back_dense(c, gains, basis, group, step, positions):
    """Coefficients in q12, those up to the last that is not dead, to vectors of floats."""
    vectors = []
    for token, gain, position in zip(c, gains, positions):
        column, shift = shifted_column(token)
        x = []
        for dims, exponent, which in zip(basis.dims, basis.exponents, basis.gains):
            size = 2.0 ** exponent if which is None else f32(gain_f32(gain[which]) * basis.ratio)
            unit = f32(f32(step * 2.0 ** (shift - 27)) * size)
            for d in range(len(x), len(x) + dims):
                total = sum(m * v for m, v in zip(basis.inverse[d], column))
                scale = f32(unit * 2.0 ** basis.inverse_exponents[d])
                mean = f32(basis.mean[d] * 2.0 ** basis.mean_exponent)
                x.append(f32(f32(total) * scale + mean * size))
        ropes_apply(x, group, position)
        if gain:
            x = [f32(v + m) for v, m in zip(x, basis.center)]
        vectors.append(x)
    return vectors


# ---- LIVE CACHE ----
RAW, HOT, WARM = 1, 2, 3
HOT_LEVELS = {
    2: (-127, -38, 38, 127),
    3: (-127, -79, -44, -14, 14, 44, 79, 127),
    4: (-127, -98, -76, -59, -44, -31, -18, -6, 6, 18, 31, 44, 59, 76, 98, 127)}
for above in ((3, 9, 15, 21, 27, 33, 39, 45, 52, 60, 68, 76, 86, 97, 111, 127),
              (1, 3, 5, 7, 9, 11, 13, 15, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62, 66, 70,
               74, 78, 82, 87, 93, 99, 105, 111, 119, 127)):
    HOT_LEVELS[5 if len(above) == 16 else 6] = tuple(-x for x in reversed(above)) + above
HOT_E8 = (3, 8, 13, 18, 24, 30, 35, 41, 48, 55, 62, 71, 80, 92, 106, 127)
HOT_E8 = tuple(-x for x in reversed(HOT_E8)) + HOT_E8


class Policy:
    """How a head's keys or values are kept."""

    def __init__(self, kind, quantizer, bits, step, name):
        need(kind in (RAW, HOT, WARM), "kind of a policy")
        need(name is None, "a calibrated profile is needed")
        self.kind, self.quantizer, self.bits, self.step = kind, quantizer, bits, step


class LiveLayer:
    """A layer of its own: dims of K and V, v_in_k, RoPE or None, policies of K's and V's heads."""


class LiveDesc:
    """The descriptor in the record: type, sinks, window, sparse, and the layers; None for one that
    has no keys and values of its own."""

    def __init__(self, data):
        tape = Tape(data)
        count, _, _, self.sinks, self.window, self.type, self.sparse = tape.words(7)
        need(self.type in (1, 2, 3) and self.sparse in (0, 1), "type of raw tokens, or sparse")
        self.layers, ropes = [], {}
        for l in range(count):
            heads, owner, _ = tape.words(3)
            need(owner == l or (heads == 0 and (owner < l or owner == 0xFFFFFFFF)), "owner")
            self.layers.append(self.read_layer(tape, l, heads, ropes) if heads else None)
        need(tape.at == len(data), "the descriptor is too long")
        kinds = [p.kind for y in self.layers if y for s in y.policies for p in s]
        self.granule = 64 if self.sparse or WARM in kinds else 8
        self.early = self.granule + self.window >= 32

    @staticmethod
    def read_layer(tape, l, heads, ropes):
        y = LiveLayer()
        k, v, y.v_in_k, rotary, first, like = tape.words(6)
        y.dims = [k, v]
        y.rope = ropes.get(like)
        if rotary and like == l:
            layout = tape.words(1)[0]
            magnitude, *freqs = tape.floats(1 + rotary // 2)
            y.rope = ropes[l] = Rope(layout, freqs, magnitude, first)
        need(bool(y.rope) == (rotary > 0), "RoPE of a layer")
        y.policies = []
        for _ in range(1 if y.v_in_k else 2):
            count = tape.words(1)[0]
            need(count in (1, heads), "policies of a layer")
            own = []
            for _ in range(count):
                kind, quantizer, bits = tape.words(3)
                step = tape.floats(1)[0]
                own.append(Policy(kind, quantizer, bits, step,
                                  tape.bytes(16) if tape.words(1)[0] else None))
            y.policies.append(own * (heads // count))
        return y


class Tape:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def bytes(self, count):
        need(self.at + count <= len(self.data), "the record is too short")
        self.at += count
        return self.data[self.at - count:self.at]

    def numbers(self, count, form="Q"):
        return list(struct.unpack("<%d%s" % (count, form), self.bytes(8 * count)))

    def number(self):
        return self.numbers(1)[0]

    def words(self, count):
        return struct.unpack("<%dI" % count, self.bytes(4 * count))

    def floats(self, count):
        return struct.unpack("<%df" % count, self.bytes(4 * count))


def round_up(x, to):
    return (x + to - 1) // to * to


def hot_code(tile, bits, stream, wide, token, dim):
    """The code of a level, and (E8) the 32 bits that it is among."""
    lane, depth = (token, dim) if stream == K else (dim, token)
    lanes, depths = (64, wide) if stream == K else (wide, 64)
    fours = {8: 1, 6: 4, 5: 2, 4: 2, 3: 4, 2: 4}[bits]
    vectors = depths // 4 // fours
    block, vector = lane // 16, depth // 4 // fours
    group = block // 4 * 4
    vector = group * vectors + vector * min(lanes // 16 - group, 4) + block - group
    field = depth // 4 % fours
    j = lane % 16 * 4 + depth % 4
    byte = 64 * vector + j
    width = 8 // fours
    code = tile[byte] >> field * width & (1 << width) - 1
    if bits in (3, 5):
        behind = 64 // fours * wide + 8 * fours * vector + 8 * field
        code |= (tile[behind + j // 8] >> j % 8 & 1) << width
    if bits == 6:
        code = code << 4 | tile[16 * wide + 128 * vector + field // 2 * 64 + j] >> field % 2 * 4 & 15
    return code, tile[byte & ~3:(byte & ~3) + 4]


def hot_level(tile, policy, stream, wide, token, dim):
    code, word = hot_code(tile, policy.bits, stream, wide, token, dim)
    if policy.quantizer == E8:
        coset = bin(int.from_bytes(word, "little")).count("1") & 1
        z = code ^ code >> 1  # the inverse of the Gray code z ^ z >> 1
        z ^= z >> 2
        return HOT_E8[2 * z + coset]
    return code - 128 if policy.bits == 8 else HOT_LEVELS[policy.bits][code]


def hot_tile_bytes(policy, dims):
    return round_up(dims, 16) * 8 * policy.bits + 64


def hot_scale(code, base):
    if code == 0:
        return 0.0
    mantissa = ROOT_TWELFTH[code % 12]
    return f32(f32(mantissa) * 2.0 ** (code // 12 - 16 - 30) * 2.0 ** base)


def root_twelfth():
    """round(2^(k / 12) 2^30): integers, by the twelfth power"""
    out = []
    for k in range(12):
        low, high = 1 << 30, 1 << 31
        while high - low > 1:  # the last x with (x - 1/2)^12 <= 2^(k + 360)
            x = (low + high) // 2
            if (2 * x - 1) ** 12 <= 1 << k + 372:
                low = x
            else:
                high = x
        out.append(low)
    return out


ROOT_TWELFTH = root_twelfth()


def unrotate_floats(x):
    """The inverse Hadamard basis in floats, each operation rounded to a binary32."""
    block = min(len(x) & -len(x), 512)
    n = floor_log2(block)
    scale = f32(f32(0.70710678118654752 if n & 1 else 1.0) / 2.0 ** (n // 2))
    h = 1
    while h < block:
        for i in range(0, len(x), 2 * h):
            for j in range(i, i + h):
                a, b = x[j], x[j + h]
                x[j], x[j + h] = f32(a + b), f32(a - b)
        h *= 2
    return [f32((-v if sign_bit(d) else v) * scale) for d, v in enumerate(x)]


def scaled_float(value, exponent):
    """value * 2^exponent rounded once, ties to even, at most the largest finite one."""
    m = abs(value)
    if m == 0:
        return 0.0
    drop = max(floor_log2(m) + exponent, -126) - 23 - exponent
    if drop > 0:
        rest, half = m & (1 << drop) - 1, 1 << drop - 1
        m >>= drop
        m += rest > half or (rest == half and m & 1)
        exponent += drop
    x = min(math.ldexp(m, exponent), struct.unpack("<f", b"\xff\xff\x7f\x7f")[0])
    return -x if value < 0 else x


def turn_pair(a, b, sine, cosine):
    """A pair of floats by an angle, in fixed point."""
    bits = [f32_bits(a), f32_bits(b)]
    top = max(max(u >> 23 & 255 for u in bits), 1)
    fixed = []
    for u in bits:
        e = u >> 23 & 255
        m = (u & 0x7FFFFF | (0x800000 if e else 0)) << 7
        shift = top - max(e, 1)
        m = 0 if shift > 32 else ((m >> shift - 1) + 1) >> 1 if shift else m
        fixed.append(-m if u >> 31 else m)
    return (scaled_float(fixed[0] * cosine - fixed[1] * sine, top - 187),
            scaled_float(fixed[1] * cosine + fixed[0] * sine, top - 187))


class Entry:
    """A page of a layer."""


class Stream:
    """A layer's keys or values."""


class Live:
    def __init__(self, archive, sequence):
        self.archive, self.sequence = archive, sequence
        tape = Tape(archive.metas[0x564B514C + sequence])
        need(tape.number() == 6, "version of a live cache")
        self.desc = LiveDesc(tape.bytes(tape.number()))
        self.tokens, self.sinks, self.turned, _, self.group = tape.numbers(5)
        self.positions = tape.numbers(self.tokens, "q")
        self.turns = tape.numbers(self.tokens, "q") if self.turned else [0] * self.tokens
        tape.numbers(self.tokens)  # masses
        self.layers = []
        group = self.group
        for layer in self.desc.layers:
            self.layers.append(self.read_layer(tape, layer, group) if layer else None)
            group += len(layer.policies) if layer else 0
        need(tape.at == len(tape.data), "the record is too long")

    def read_layer(self, tape, layer, group):
        _, sealed, _, _, epochs, _, pages = tape.numbers(7)
        entries = []
        at = self.sinks
        for x in tape.numbers(pages):
            e = Entry()
            e.first, e.count, e.column, e.epoch = at, x & 255, x >> 8 & 255, x >> 32
            e.gone, e.joined = x >> 17 & 1, x >> 18 & 1
            at += e.count
            entries.append(e)
        need(at == sealed or (pages == 0 and sealed == self.sinks), "the page table")
        streams = []
        for v, policies in enumerate(layer.policies):
            s = Stream()
            g = self.archive.groups[group + v]
            s.heads, s.dims, s.group = len(policies), layer.dims[v], group + v
            need(g.stream == (V if v else K) and g.dims == [s.dims] * s.heads,
                 "a live cache's group")
            s.policies = policies
            s.rope = None if v else layer.rope
            s.sealed, s.entries, s.stream = sealed, entries, g.stream
            s.warm = sum(p.kind == WARM for p in s.policies)
            tape.numbers(s.heads * s.dims)  # sums
            s.numbers = []
            for _ in range((epochs + 3) // 4 if v else epochs):
                own = []
                for p in s.policies:
                    size = 0 if p.kind == RAW else 1 + s.dims // 2 * 3
                    own.append(tape.bytes(size + (2 + s.dims if p.kind == WARM else 0)))
                s.numbers.append(own)
            s.shapes = []
            if not v and epochs and any(p.kind != RAW for p in s.policies):
                size = 4 + s.dims // 2 + (96 if s.rope else 0)
                for _ in range(self.shape_of(epochs - 1) + 1):
                    s.shapes.append([tape.bytes(size) for _ in range(s.heads)])
            if s.warm:
                tape.numbers(s.heads * 2 * (s.dims + 1))  # the fit's sums
                tape.number()
            self.place(s)
            streams.append(s)
        return streams

    def shape_of(self, epoch):
        return epoch // 4 + (epoch > 0 and not self.desc.early)

    def place(self, s):
        """Bytes of each token's page, and where the heads' tiles begin."""
        s.pages = {}
        for r in self.archive.runs:
            if r.group == s.group and r.sequence == self.sequence:
                for i, page in enumerate(r.pages):
                    s.pages[r.first + 64 * i] = page
        size = 4 if self.desc.type == 1 else 2
        s.tiles = [0]
        for p in s.policies:
            own = 0 if p.kind == WARM else 64 * s.dims * size if p.kind == RAW else \
                hot_tile_bytes(p, s.dims)
            s.tiles.append(s.tiles[-1] + round_up(own, 64))

    def raw(self, data, at, count):
        if self.desc.type == 3:
            return [struct.unpack("<f", struct.pack("<I", h << 16))[0]
                    for h in struct.unpack_from("<%dH" % count, data, at)]
        form = "<%d%s" % (count, "f" if self.desc.type == 1 else "e")
        return list(struct.unpack_from(form, data, at))

    def read(self, layer, stream, token):
        """The numbers of a token's keys or values, head by head."""
        s = self.layers[layer][stream - 1]
        out = []
        for head in range(s.heads):
            x = self.read_head(s, head, token)
            if stream == K and s.rope and self.turns[token]:
                for i in range(s.rope.pairs):
                    phase = (self.turns[token] * s.rope.steps[i] & NONE64) >> 32
                    a, b = s.rope.pair(i)
                    x[a], x[b] = turn_pair(x[a], x[b], *sincos_q30(phase))
            out += x
        return out

    def read_head(self, s, head, token):
        size = 4 if self.desc.type == 1 else 2
        if not self.sinks <= token < s.sealed:
            first = max(f for f in s.pages if f <= token)
            page = s.pages[first]
            need(page[-4] == 1 and page[-3] == self.desc.type, "a raw page")
            return self.raw(page, ((token - first) * s.heads + head) * s.dims * size, s.dims)
        i = [e.first <= token < e.first + e.count for e in s.entries].index(True)
        e = s.entries[i]
        p = s.policies[head]
        page = s.pages[e.first]
        need(page[-4] == (5 if self.desc.granule == 64 else 4) and page[-2] == e.count and
             page[-1] == e.epoch & 255, "a page's trailer")
        while s.entries[i].joined:
            i -= 1
        tiles = s.pages[s.entries[i].first]
        tile = tiles[s.tiles[head]:s.tiles[head + 1]]
        column = e.column + token - e.first
        if p.kind == RAW:
            return self.raw(tile, column * s.dims * size, s.dims)
        epoch = e.epoch // 4 if s.stream == V else e.epoch
        numbers = s.numbers[epoch][head]
        if p.kind == HOT:
            x = self.hot(s, p, tile, i8(tiles[s.tiles[-1] + head]), column)
        else:
            x = self.warm(s, head, page, e, numbers)[token - e.first]
        shape = s.shapes[self.shape_of(e.epoch)][head] if s.stream == K else None
        if shape and shape[0] and p.kind == HOT:
            x = [f32(v * stretch(-(shape[4 + d // 2] >> d % 2 * 4 & 15)))
                 for d, v in enumerate(x)]
        x = [f32(v + m) for v, m in zip(x, mean_of(numbers, s.dims))]
        if shape:
            self.add_turning(s, x, shape, token)
        return x

    def hot(self, s, p, tile, base, column):
        wide = round_up(s.dims, 16)
        scale = hot_scale(tile[wide * 8 * p.bits + column], base)
        return unrotate_floats([f32(scale * hot_level(tile, p, s.stream, wide, column, d))
                                for d in range(s.dims)])

    def warm(self, s, head, page, e, numbers):
        """All tokens of a coded page."""
        if not hasattr(e, "opened"):
            e.opened = {}
        if (s.stream, head) in e.opened:
            return e.opened[s.stream, head]
        at = 0 if e.joined else s.tiles[-1]
        if at and any(p.kind == HOT for t in self.layer_of(s) for p in t.policies):
            at += s.heads
        heads = [h for h in range(s.heads) if s.policies[h].kind == WARM]
        bodies = at + 4 * len(heads)
        for h in heads:
            word = struct.unpack_from("<I", page, at)[0]
            at += 4
            if h == head:
                break
            bodies += word & 0xFFFFFF
        body = page[bodies:bodies + (word & 0xFFFFFF)]
        doublings = word >> 24
        p = s.policies[head]
        numbers = numbers[1 + s.dims // 2 * 3:]
        lead = 1 if s.stream == V else 0
        classes = [clamp(numbers[1], ONE, CLASS_MAX)] * lead
        classes += [clamp(c - 8 * doublings, 0, CLASS_MAX) for c in numbers[2:]]
        profile, group = Stream(), Group()
        profile.basis, profile.slices, profile.stream = 1, 1, s.stream
        profile.mean = [i8(numbers[0])] * lead + [0] * s.dims
        profile.gains = lead
        group.dims, group.ropes = [s.dims], [None]
        c, gains = coded_page(body, e.count, lead, classes, [0] * s.dims, profile.mean, p.quantizer)
        out = back(c, gains, profile, group, p.step * 2.0 ** doublings, None)
        e.opened[s.stream, head] = out
        return out

    def layer_of(self, s):
        for streams in self.layers:
            if s in streams:
                return streams
        raise Bad("layer")

    def add_turning(self, s, x, shape, token):
        unit = 2.0 ** (shape[2] - 128 - 8)
        at = 4 + s.dims // 2
        origin = self.positions[token] - self.turns[token]
        for j in range(shape[1]):
            pair = struct.unpack_from("<H", shape, at + 2 * j)[0]
            m, u = struct.unpack_from("<2h", shape, at + 32 + 4 * j)
            sine, cosine = sincos_q30((origin * s.rope.steps[pair] & NONE64) >> 32)
            a, b = s.rope.pair(pair)
            x[a] = f32(x[a] + ((m * cosine - u * sine + (1 << 21)) >> 22) * unit)
            x[b] = f32(x[b] + ((u * cosine + m * sine + (1 << 21)) >> 22) * unit)


def stretch(halves):
    return f32(1.41421356) * 2.0 ** ((halves - 1) // 2) if halves % 2 else 2.0 ** (halves // 2)


def mean_of(numbers, dims):
    unit = 2.0 ** (numbers[0] - 14)
    out = []
    for d in range(0, dims, 2):
        two = int.from_bytes(numbers[1 + d // 2 * 3:4 + d // 2 * 3], "little")
        out += [((two & 4095 ^ 2048) - 2048) * unit, ((two >> 12 ^ 2048) - 2048) * unit]
    return out


# ---- the golden files ----
passed = failed = 0


def check(name, wanted, numbers):
    check_bits(name, wanted, [f16_bits(x) for x in numbers])


def check_bits(name, wanted, have):
    global passed, failed
    want = list(struct.unpack("<%dH" % (len(wanted) // 2), wanted))
    if have == want:
        passed += 1
        return
    failed += 1
    wrong = sum(a != b for a, b in zip(have, want))
    print("FAILED: %s: %d of %d numbers differ, %d are wanted" %
          (name, wrong, len(have), len(want)))


def archive_numbers(data):
    """Tokens 60 .. 71 of both groups, slice by slice in each token. Slices have room for 24 and for
    16 dims or, if the first has 20, for 20 each."""
    archive = Archive(data)
    need(archive.metas.get(77) == b"golden", "meta record")
    out = []
    for group in (0, 1):
        dims = archive.groups[group].dims
        room = {16: (24, 16), 20: (20, 20)}.get(dims[0], dims)
        for token in archive.unpack(group, 5, 60, 12):
            at = 0
            for d, r in zip(dims, room):
                out += token[at:at + d] + [0.0] * (r - d)
                at += d
    return out


def joint_numbers(data):
    """Tokens 0 .. 11 and 1022 .. 1033 of a sequence, 254 .. 265 of another."""
    archive = Archive(data)
    return [x for sequence, first in ((5, 0), (5, 1022), (6, 254))
            for token in archive.unpack(0, sequence, first, 12) for x in token]


def live_numbers(name, data):
    """Tokens 0, 6 .. 102 of each layer, of edited ones 0, 12 .. 204, K then V; zeros where there
    are none."""
    live = Live(Archive(data), 9)
    out = []
    for layer in (0, 1):
        every = 12 if "edited" in name else 6
        for token in range(0, 18 * every, every):
            for stream in (K, V):
                if token < live.tokens:
                    out += live.read(layer, stream, token)
                else:
                    out += [0.0] * (3 * (16 if stream == K else 8))
    return out


def read(path):
    with open(path, "rb") as f:
        return f.read()


def counts_numbers(folder):
    """24 rows of 50 tokens; rows i have table i % 3."""
    tables = counts_tables(read(os.path.join(folder, "v1-counts.lqrt")))
    rows = counts_rows([tables[i % 3] for i in range(24)])
    values = rans_decode(read(os.path.join(folder, "v1-counts.rans")), rows, 24, 50)
    return [v & 65535 for row in values for v in row]


def main():
    global failed
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
    for file in sorted(os.listdir(folder)):
        name, end = os.path.splitext(file)
        if end != ".lqa":
            continue
        try:
            data = read(os.path.join(folder, file))
            numbers = live_numbers(name, data) if "live" in name else \
                joint_numbers(data) if "joint" in name else archive_numbers(data)
            check(name, read(os.path.join(folder, name + ".f16")), numbers)
        except (Bad, IndexError, struct.error) as e:
            failed += 1
            print("FAILED: %s: %s" % (name, e))
    try:
        check_bits("v1-counts", read(os.path.join(folder, "v1-counts.s16")),
                   counts_numbers(folder))
    except (Bad, IndexError, struct.error) as e:
        failed += 1
        print("FAILED: v1-counts: %s" % e)
    print("decode.py: %d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
