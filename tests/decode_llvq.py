#!/usr/bin/env python3
"""Golden files of lq_llvq_encode by a decoder that shares no line with the library.

python3 tests/decode_llvq.py: reads golden/llvq-KIND-FIRST-LAST-GAINS.bin (24 x 20 + 16 numbers,
sigma 0.9) and the .f32 beside it, which is what the library makes of it. Written from the manual
("LLVQ, as lq_llvq_encode writes it") and the theory of >>leech and >>llvq.
"""
import glob
import math
import os
import struct
import sys
from itertools import product

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 24 * 20 + 16
SIGMA = 0.9
COSINES = {2: 25476, 3: 27971, 4: 29194, 5: 29920, 6: 30398, 7: 30745, 8: 31001, 9: 31205,
           10: 31363, 11: 31490, 12: 31602, 13: 31695}
UNITS = {2: .7141, 3: .6003, 4: .5476, 5: .5057, 6: .4737, 7: .4456, 8: .4233, 9: .4041,
         10: .3879, 11: .3721, 12: .3592, 13: .3479}
LEVELS = [19858, 17677, 22287, 15793, 18712, 21325, 24493, 14159, 16290, 17898, 19336, 20749,
          22253, 24022, 26511, 12739, 14409, 15582, 16546, 17400, 18189, 18943, 19681, 20420,
          21177, 21969, 22821, 23769, 24875, 26272, 28361]


def word_of(message):
    parity, k, x, y = message >> 11, message >> 9 & 3, message >> 7 & 3, message >> 5 & 3
    times_w = {0: 0, 1: 2, 2: 3, 3: 1}
    z = x ^ y ^ times_w[k]
    tops = [message >> j & 1 for j in range(5)]
    tops.append((parity + sum(tops)) % 2)
    word = 0
    for j, digit in enumerate((x, x ^ k, y, y ^ k, z, z ^ k)):
        for bits in product((0, 1), repeat=4):
            value = (1 * bits[1]) ^ (2 * bits[2]) ^ (3 * bits[3])
            if bits[0] == tops[j] and sum(bits) % 2 == parity and value == digit:
                word |= sum(b << i for i, b in enumerate(bits)) << 4 * j
    return word


WORDS = [word_of(m) for m in range(4096)]
BY_WEIGHT = {w: [c for c in WORDS if bin(c).count('1') == w] for w in (0, 8, 12, 16, 24)}


def arrangements(counts):
    n = math.factorial(sum(counts))
    for c in counts:
        n //= math.factorial(c)
    return n


def arrangement(kinds, counts, rank):
    counts = list(counts)
    out = []
    while sum(counts):
        for i, kind in enumerate(kinds):
            if not counts[i]:
                continue
            counts[i] -= 1
            part = arrangements(counts)
            if rank < part:
                out.append(kind)
                break
            rank -= part
            counts[i] += 1
    return out


def counts_of(magnitudes, total, most):
    """Counts of magnitudes, largest letter first, whose squares sum up to total."""
    if not magnitudes:
        if total == 0:
            yield ()
        return
    a = magnitudes[0]
    for n in range(min(most, total // (a * a)) + 1):
        for rest in counts_of(magnitudes[1:], total - n * a * a, most - n):
            yield (n,) + rest


def classes(shell):
    for c in counts_of((14, 12, 10, 8, 6, 4, 2), 16 * shell, 24):
        n = dict(zip((14, 12, 10, 8, 6, 4, 2), c))
        w = n[14] + n[10] + n[6] + n[2]
        half = sum(a * k for a, k in n.items()) // 4
        if w not in BY_WEIGHT or (w == 0 and half % 2):
            continue
        free = n[4] + n[8] + n[12]
        on = [n[a] for a in (2, 6, 10, 14)]
        off = [24 - w - free] + [n[a] for a in (4, 8, 12)]
        size = len(BY_WEIGHT[w]) * arrangements(on) * arrangements(off) << (free + max(w - 1, 0))
        yield size, ('even', w, half % 2, free, on, off)
    for c in counts_of((13, 11, 9, 7, 5, 3, 1), 16 * shell, 24):
        if sum(c) != 24 or (c[6] + c[3] + c[2]) % 2 == 0:
            continue
        yield 4096 * arrangements(c), ('odd', c[::-1])


def point(number, first, last):
    for shell in range(first, last + 1):
        for size, what in classes(shell):
            if number >= size:
                number -= size
                continue
            return shell, (even(number, *what[1:]) if what[0] == 'even' else odd(number, what[1]))
    return 0, [0] * 24


def even(number, w, minus, free, on, off):
    number, signs_off = divmod(number, 1 << free)
    number, signs_on = divmod(number, 1 << max(w - 1, 0))
    number, r_off = divmod(number, arrangements(off))
    number, r_on = divmod(number, arrangements(on))
    word = BY_WEIGHT[w][number]
    if w and (bin(signs_on).count('1') + minus) % 2:
        signs_on |= 1 << (w - 1)
    a_off = arrangement((0, 4, 8, 12), off, r_off)
    a_on = arrangement((2, 6, 10, 14), on, r_on)
    x = []
    for i in range(24):
        if word >> i & 1:
            v = a_on.pop(0)
            x.append(-v if signs_on & 1 else v)
            signs_on >>= 1
        else:
            v = a_off.pop(0)
            if v:
                x.append(-v if signs_off & 1 else v)
                signs_off >>= 1
            else:
                x.append(0)
    return x


def odd(number, counts):
    message, rank = divmod(number, arrangements(counts))
    a = arrangement((1, 3, 5, 7, 9, 11, 13), counts, rank)
    word = WORDS[message]
    return [v if v % 4 == (3 if word >> i & 1 else 1) else -v for i, v in enumerate(a)]


E8_LAST = [((3, 5), True), ((5, 0, 3, 0), False), ((4, 3, 0, 1), False)]


def e8(code):
    rows = []
    for norm in range(0, 48, 8):
        for c in counts_of((6, 4, 2), norm, 8):
            if (sum(a * n for a, n in zip((6, 4, 2), c)) // 2) % 2 == 0:
                rows.append(((8 - sum(c),) + c[::-1], False))
        for c in counts_of((5, 3, 1), norm, 8):
            if sum(c) == 8:
                rows.append((c[::-1], True))
    for counts, is_odd in rows + E8_LAST:
        counts = tuple(counts) + (0,) * (4 - len(counts))
        free = 7 if is_odd else 8 - counts[0]
        size = arrangements(counts) << free
        if code >= size:
            code -= size
            continue
        rank, signs = divmod(code, 1 << free)
        a = arrangement(tuple(2 * k + is_odd for k in range(4)), counts, rank)
        if is_odd:
            last = [v * (-1 if signs >> i & 1 else 1) for i, v in enumerate(a)]
            if sum(last) % 4:
                last[7] = -last[7]
            return last
        x = []
        for v in a:
            x.append(-v if v and signs & 1 else v)
            signs >>= v != 0
        return x
    raise ValueError(code)


def decode(data, kind, first, last, gains):
    total = sum(size for s in range(first, last + 1) for size, _ in classes(s))
    bits = total.bit_length()
    width = bits + gains.bit_length() - 1
    stream = int.from_bytes(data, 'little')
    blocks = COUNT // 24
    out = []
    for n in range(blocks):
        code = stream >> n * width & ((1 << width) - 1)
        shell, x = point(code & ((1 << bits) - 1), first, last)
        gain = LEVELS[gains - 1 + (code >> bits)] / 4096 * COSINES[last] / 32768
        unit = UNITS[last] if kind == 2 else gain / math.sqrt(16 * max(shell, 1))
        out += [SIGMA * unit * v for v in x]
    at = (blocks * width + 7) // 8
    while len(out) < COUNT:
        out += [SIGMA * .4905 * v for v in e8(struct.unpack_from('<H', data, at)[0])]
        at += 2
    return out, at


def main():
    passed = failed = 0
    for path in sorted(glob.glob(os.path.join(HERE, 'golden', 'llvq-*.bin'))):
        kind, first, last, gains = (int(v) for v in path[:-4].split('-')[-4:])
        data = open(path, 'rb').read()
        want = struct.unpack('<%df' % COUNT, open(path[:-4] + '.f32', 'rb').read())
        got, used = decode(data, kind, first, last, gains)
        good = used == len(data) and all(abs(a - b) < 2e-3 for a, b in zip(got, want))
        passed += good
        failed += not good
        if not good:
            print('FAILED:', path, max(abs(a - b) for a, b in zip(got, want)))
    print('decode_llvq.py: %d passed, %d failed' % (passed, failed))
    return failed != 0 or passed == 0


if __name__ == '__main__':
    sys.exit(main())
