#!/usr/bin/env python3
"""python3 tests/decode_rows.py    Polar codes, sketches, codebooks, TurboQuant, KakeyaLattice.

Decodes tests/golden/rows-*.bin from the manual of latticequant.h alone ("Polar codes, sketches,
codebooks, TurboQuant, Kakeya") and compares every bit with the .f32 beside it. A file begins with u32s:
kind, dims, rows, four numbers that say how (test_golden.c tells which), the levels of its book.
The last line is "decode_rows.py: N passed, M failed".
"""
import glob
import math
import os
import struct
import sys

sys.dont_write_bytecode = True  # decode.py lies beside this file; its folder stays as it is

from decode import Bad, butterflies, f32, log2_q16, need, sign_bit, sincos_q30

POLAR, QJL, TURBO, CODEBOOK, KAKEYA = 1, 2, 3, 4, 5
GAUSSIAN, HADAMARD = 1, 2
MASK64 = (1 << 64) - 1


class Tape:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(self.at + count <= len(self.data), "ends early")
        self.at += count
        return self.data[self.at - count:self.at]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def i32(self):
        return struct.unpack("<i", self.take(4))[0]

    def scale(self):
        """m and e of m 2^e."""
        s = struct.unpack("<H", self.take(2))[0]
        return (0, 0) if s == 0 else (256 + (s & 255), (s >> 8) - 135)

    def codes(self, count, bits):
        """Lowest bit first, to a byte."""
        x = int.from_bytes(self.take((count * bits + 7) // 8), "little")
        return [x >> i * bits & (1 << bits) - 1 for i in range(count)]


def hadamard_block(dims):
    return min(dims & -dims, 512)


def unrotate(y):
    """Butterflies of each block, then signs, without a factor."""
    butterflies(y, hadamard_block(len(y)))
    return [-v if sign_bit(i) else v for i, v in enumerate(y)]


def shift_round(x, n):
    return (x + (1 << n - 1)) >> n if n > 0 else x << -n


# ---- polar ----
def polar_rows(tape, dims, rows, of):
    radius_bits, angle_bits, group = of[:3]
    radius = [tape.u32() for _ in range(1 << radius_bits)]
    angle = [(tape.i32(), tape.i32()) for _ in range(1 << angle_bits)]
    out = []
    for _ in range(rows):
        points, scales = [], []
        for _ in range(dims // group):
            scales.append(tape.scale())
            for code in tape.codes(group // 2, radius_bits + angle_bits):
                r = radius[code & (1 << radius_bits) - 1]
                points += [(r * c + (1 << 13)) >> 14 for c in angle[code >> radius_bits]]
        span = max(group, hadamard_block(dims))
        y, top = [], []
        for i in range(dims):
            first = i // span * span // group
            e_most = max([e for m, e in scales[first:first + span // group] if m], default=0)
            m, e = scales[i // group]
            n = e_most - e + 5
            y.append(0 if m == 0 or n > 30 else shift_round(points[i] * m, n))
            top.append(e_most)
        out += [math.ldexp(v, t - 9) for v, t in zip(unrotate(y), top)]
    return out


# ---- QJL ----
def random_of(seed, turn, i):
    z = (((seed << 32) + (turn << 30) + i + 1) * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK64
    return z ^ z >> 31


def gaussian_pair(seed, turn, i):
    z = random_of(seed, turn, i)
    r = math.isqrt((2097152 - log2_q16((z >> 32) + 1)) * 1488522236)
    s, c = sincos_q30(z & 0xFFFFFFFF)
    return [(r * v + (1 << 40)) >> 41 for v in (c, s)]


class Sketch:
    def __init__(self, dims, signs, rounds, projection, seed):
        self.dims, self.signs, self.rounds = dims, signs, rounds
        self.projection, self.seed = projection, seed
        self.matrices = [self.matrix(t) for t in range(rounds)] if projection == GAUSSIAN else []

    def matrix(self, turn):
        flat = []
        for i in range(0, self.signs * self.dims, 2):
            flat += gaussian_pair(self.seed, turn, i)
        return [flat[j * self.dims:(j + 1) * self.dims] for j in range(self.signs)]

    def back(self, turn, s):
        """u = S' s"""
        if self.projection == GAUSSIAN:
            rows = self.matrices[turn]
            return [sum(rows[j][k] * s[j] for j in range(self.signs)) for k in range(self.dims)]
        u = list(s)
        butterflies(u, hadamard_block(self.dims))
        return [-v if random_of(self.seed, turn, i) >> 63 else v for i, v in enumerate(u)]

    def row(self, tape):
        parts = []
        for turn in range(self.rounds):
            m, e = tape.scale()
            signs = [2 * b - 1 for b in tape.codes(self.signs, 1)]
            if m:
                parts.append((m, e, self.back(turn, signs)))
        if not parts:
            return [0.0] * self.dims
        most = max(e for _, e, _ in parts)
        total = [0] * self.dims
        for m, e, u in parts:
            if e - most > -52:
                for i in range(self.dims):
                    total[i] += shift_round(u[i] * m, most - e - 12)
        return [math.ldexp(v, most - 12) for v in total]


# ---- codebooks, TurboQuant ----
def turbo_rows(tape, dims, rows, of):
    bits, rounds, projection, seed = of
    levels = [tape.i32() for _ in range(1 << bits)]
    sketch = Sketch(dims, dims, rounds, projection, seed)
    out = []
    for _ in range(rows):
        m, e = tape.scale()
        y = unrotate([levels[c] for c in tape.codes(dims, bits)])
        x = [f32(math.ldexp(v * m, e - 16)) for v in y]
        if rounds:
            x = [f32(a + f32(b)) for a, b in zip(x, sketch.row(tape))]
        out += x
    return out


def codebook_rows(tape, dims, rows, of):
    bits = of[0]
    scale = struct.unpack("<f", struct.pack("<I", of[1]))[0]
    levels = [tape.i32() for _ in range(1 << bits)]
    return [levels[c] / 65536 * scale for c in tape.codes(dims * rows, bits)]


# ---- KakeyaLattice ----
def kakeya_point(number, n, q, whole):
    """Coordinates, doubled."""
    if number < whole:
        number, radix, coset = 2 * number, 2 * q + 1, 0
    else:
        number, radix, coset = number - whole, 2 * q, 1
    digits = []
    for i in range(n):
        base = q if coset and i == 0 else radix
        digits.append(number % base * (2 if coset and i == 0 else 1))
        number //= base
    need(number == 0, "no point")
    digits[0] += sum(digits) & 1 if coset else 0
    return [2 * (d - q) + coset for d in reversed(digits)]


def f16(h):
    return struct.unpack("<e", struct.pack("<H", h))[0]


def kakeya_rows(tape, dims, rows, of):
    quantizer, q = of[:2]
    n = 4 if quantizer == 2 else 8
    whole = ((2 * q + 1) ** n + 1) // 2
    count = whole + ((2 * q) ** 8 // 2 if n == 8 else 0)
    bits = (count - 1).bit_length()
    d = dims.bit_length() - 1
    out = []
    for _ in range(rows):
        norm, most = struct.unpack("<HH", tape.take(4))
        x = []
        for number in tape.codes(dims // n, bits):
            x += kakeya_point(number, n, q, whole)
        butterflies(x, dims)
        factor = int(f16(most) * 2 ** 24) * (759250125 if d & 1 else 1 << 30)
        unit = math.ldexp(f32((2 * factor + q) // (2 * q)), -79 - (d >> 1))
        out += [f32(f32(v * int(f16(norm) * 2 ** 24)) * unit) for v in x]
    return out


def numbers(data):
    tape = Tape(data)
    kind, dims, rows = (tape.u32() for _ in range(3))
    of = [tape.u32() for _ in range(4)]
    if kind == QJL:
        sketch = Sketch(dims, *of)
        out = [x for _ in range(rows) for x in sketch.row(tape)]
    else:
        need(kind in (POLAR, TURBO, CODEBOOK, KAKEYA), "kind")
        out = {POLAR: polar_rows, TURBO: turbo_rows, CODEBOOK: codebook_rows,
               KAKEYA: kakeya_rows}[kind](tape, dims, rows, of)
    need(tape.at == len(data), "bytes behind the last row")
    return out


def main():
    passed = failed = 0
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
    for path in sorted(glob.glob(os.path.join(folder, "rows-*.bin"))):
        name = os.path.basename(path)[:-4]
        with open(path, "rb") as f:
            data = f.read()
        with open(path[:-4] + ".f32", "rb") as f:
            wanted = f.read()
        try:
            have = b"".join(struct.pack("<f", x) for x in numbers(data))
            fault = None if have == wanted else "%d of %d numbers differ" % (
                sum(have[i:i + 4] != wanted[i:i + 4] for i in range(0, len(wanted), 4)),
                len(wanted) // 4)
        except (Bad, IndexError, struct.error) as e:
            fault = e
        passed += fault is None
        failed += fault is not None
        if fault is not None:
            print("FAILED: %s: %s" % (name, fault))
    print("decode_rows.py: %d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
