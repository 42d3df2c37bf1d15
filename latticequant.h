/* latticequant.h 0.1.0 - stores the KV cache of a language model in few bits, in one C header
   SPDX-License-Identifier: MIT (text in >>end)

   >>readme
   A KV cache holds, for each layer, kv head and token, one key and one value vector. This library
   turns such vectors into pages of 2 to 4 bits a number, or of about 1 bit with a profile that was
   calibrated for the model (q4_0 of llama.cpp takes 4.5 for the same error), puts pages into a
   checksummed, randomly readable archive, and reads them back: the same bytes and the same integers
   on every CPU, compiler and flag set. The quantizers, the entropy
   coder and the transforms are there as plain functions on arrays, too.

       #define LATTICEQUANT_IMPLEMENTATION        in one C or C++ file
       #include "latticequant.h"

       lq_tables_init(&tables, mem, lq_tables_bytes());                    once
       lq_archive_writer_init(&writer, &writer_desc);                      where bytes go
       lq_archive_add_rope(&writer, &rope, &rope_id);                      how K was rotated
       lq_archive_add_group(&writer, &group_desc, &group);                 the heads of a layer
       lq_archive_pack(&writer, &pack_desc, &k, &positions, tokens, ws, ws_bytes);
       lq_archive_finish(&writer);

       lq_archive_open(&reader, &source, mem2, mem2_bytes, &needed);
       lq_archive_unpack(&reader, &unpack_desc, &out, first, count, ws, ws_bytes);

   Complete programs: examples/. The main one:
       cc -O2 examples/pack_kv.c -o pack_kv -lm && ./pack_kv

   ------------------------------------------------------------------------------------------------
   >>manual
   Contents (search for the tag):
     >>readme >>manual   this comment: concepts, formats, guarantees, macros
     >>config >>types    version, linkage, status, descriptors
     >>api               declarations: kernels, coder, profiles, pages, archive
     >>base              implementation from here: glue, sizes, integer mathematics, hashes
     >>transform         half floats, Hadamard, RoPE, centring, the fixed-point front's arithmetic
     >>lattice           Z, D4, E8 and their fixed-width forms; rows with SIMD
     >>rans              tables, plan, encode, decode
     >>profile           geometry, the fixed-point front, fitting, the file form
     >>calibrate         eigenvectors; the Karhunen-Loeve basis of a group
     >>page              the page codec
     >>bits              rate control: bits and errors of a step, groups that share bits
     >>archive           many pages in one file
     >>dispatch          CPU level, kernel tables
     >>end               undefinitions, change log, licence

   CONCEPTS
   token, head, layer   as in the model. A vector is head_dim numbers of one token and kv head.
   slice                one head's dims (or part of them): {layer, head, first dim, dims}.
   group                slices coded together, of keys or of values: the heads of a layer, say.
                        Their vectors of one token, one behind the other, are the coefficients.
   page                 up to 64 tokens of one group. Pages are independent of each other.
   profile              mean and standard deviation of each coefficient, and the basis they are in.
                        Fitted to the sequence itself (lq_fit_*), or calibrated once for a model
                        (lq_klt_*): then the basis is the eigenbasis of all slices of the group.
   step                 width of the quantizer's cell. K has one step for all tokens, since softmax
                        sees absolute logit error; V's is relative to a gain per token and slice.
   class                8 log2(sigma / step): selects a coefficient's code table. One profile serves
                        every step.
   sinks                the first 4 tokens of a sequence: few and large, kept raw.
   run                  consecutive pages in an archive: one group, sequence, step, profile.

   FLOW
     K -- undo RoPE --.                                              .- fixed width -> fixed page
                      +-- basis - mean, / step -- quantizer (Z D4 E8)+
     V -- / gain -----'   (none, Hadamard, KLT)   to integers        '- rANS --------> coded page
     and back: integers -> centroid, + mean -> inverse basis -> x step, x gain, RoPE -> f16 or f32
   Everything up to the integers, and back to the inverse basis, is integer arithmetic.

   PAGE FORMAT, version 1
   All numbers are little-endian. A page is a body and, at its end, a trailer of four bytes, so that
   a body starts where its page starts.

   .- page ---------------------------------.- trailer: 4 bytes ---------------------------------.
   | body                                   | code, layout u8 | form u8 | tokens u8 | profile u8 |
   '----------------------------------------'----------------------------------------------------'
     code     low nibble: 1 raw, 2 fixed, 3 coded
     layout   high nibble: 0, interchange order as described here
     form     raw: 1 f32, 2 f16, 3 bf16. fixed, coded: quantizer + 16 * bits (coded: bits 0);
              quantizer 1 Z, 2 D4, 3 E8, 4 E8 relaxed
     tokens   1 .. 64
     profile  index relative to the run's first profile

   Raw body: for each token, for each slice, its numbers. Every bit is kept.

   Fixed body: for each token the codes of all coefficients, padded to a byte; then, for V, for each
   token and slice, its gain: i8, quarter octaves.
     Z   `bits` (8, 4, 3, 2) each, lowest bit first: level u - 2^(bits-1) + 1/2.
     E8  a u32 for 8 coefficients: nibble i is z_i + 8, the point is z + coset / 2. The sum of z is
         even, so the lowest bit of nibble 7 is implied by the others; in its place stands that bit
         XOR coset: the parity of the eight low bits is the coset.

   Coded body: one rANS stream of min(tokens, 32) lanes; >>rans says how rows map to tables.
   .- coded body -------------------------------------------------------------------------------.
   | octaves      4 bits a lane: floor(log2 hi) of its first state, low nibble first; to a byte  |
   | mantissas    hi without its leading one, `octave` bits a lane, lowest first; to a byte      |
   | words        u16: lo of each lane, then the words in the order the decoder takes them:      |
   |              step by step, lanes ascending                                                  |
   | raw section  bits lowest first, to a byte: those beyond the payload, which is the decoder's |
   |              last states: of each lane 4 bits octave, so many of hi, 16 of lo               |
   '---------------------------------------------------------------------------------------------'
     rows         V: a gain for each slice (less the profile's mean, quarter octaves); then the
                  coefficients, E8's with a coset row before each 8
     raw section  rows in order: of rows wider than their table, the low bits of each token; then
                  all escapes in the same order: Exp-Golomb code of order 2 of the zigzagged value
     The stream ends exactly where the raw section does.

   Coefficients, exactly. With step = m 2^e (24-bit m), a number x becomes X = round(x / 2^(e+15)),
   ties to even (V: step times the gain); RoPE is undone with sines of 30 bits, products rounded;
   Hadamard blocks are the largest power of two that divides the slice's dims, at most 512, with
   the fixed signs of lq__sign_bit; c = (X * round(2^53 / m) + 2^25) >> 26 is in units of step /
   4096. The integer is that of c - mean; it decodes to c' = 4096 k - shift(class, |k|) + mean
   (lattices: times a Wiener factor). See >>transform, >>profile, >>page: the C code is the
   specification.
   In a dense basis x, less the centre, is in units of step * 2^(exponent of its slice) / 4096 (V:
   step times the gain); columns are shifted to int16, multiplied by the rows of a matrix in 32
   bits, and shifted to q12: >>profile, "dense bases".

   PROFILE FORMAT, version 1
   .- profile ----------------------------------------------------------------------------------.
   |  0  magic          u8[4]  'L' 'Q' 'P' 'F'                                                   |
   |  4  version        u8     1                                                                 |
   |  5  stream         u8     1 K, 2 V                                                          |
   |  6  basis          u8     1 identity, 2 Hadamard, 3 dense, 4 dense but named only           |
   |  7  orders         u8     of the Exp-Golomb codes: sigmas' + 16 * means'                    |
   |  8  slices         u16    1 .. 4096                                                         |
   | 10  dims           u16    1 .. 8192                                                         |
   | 12  mean exponent  i8     means are in units of 2^exponent                                  |
   | 13  reserved       u8[3]  0                                                                 |
   | 16  checksum       u32    XXH32 of bytes 20 .., seeded with the XXH32 of bytes 0 .. 15      |
   | 20  rows           of each row, gains (V) first: 16 log2(sigma), less the last one coded     |
   |                    (8200: a dead row), and the mean; zigzagged Exp-Golomb codes, bits       |
   |                    lowest first, zeros up to a byte                                         |
   '---------------------------------------------------------------------------------------------'
   A profile is named by the BLAKE2s-128 of its file form. With basis 4 the rows are preceded by the
   name of the profile that holds the basis (u8[16]) and the number of coefficients that have rows
   (u16); the others are dead. With basis 3:
   .- profile with a dense basis, behind byte 20 ------------------------------------------------.
   | 20  rank             u16    coefficients, 1 .. dims                                         |
   | 22  metric           u8     0 none, 1 stored, 2 left out (the profile only decodes)         |
   | 23  centre exponent  i8     -64 .. 16                                                       |
   | 24  precision        i16    16 log2                                                         |
   | 26  floor            i16    16 log2                                                         |
   | 28  of each slice    u16 dims, i8 exponent, i8 metric exponent                              |
   |  -  centre           i16    of each dim: times 2^(centre exponent + exponent of its slice)  |
   |  -  metric 1         i16    of each slice its lower triangle, row by row: times 2^(metric   |
   |                             exponent - 15)                                                  |
   |  -  rows             as above: gains, then `rank` coefficients; from here on bits           |
   |  -  of each coefficient: octaves and Rice order (4 bits each), and of each dim an element   |
   |     q: ones, a zero, `order` bits of the zigzagged q; or 24 ones and its 16 bits            |
   '---------------------------------------------------------------------------------------------'
   The element is q 2^(e / 4 + octaves), e = (precision - max(sigma, floor)) >> 2: what one step of
   the coefficient adds to that dim, in the unit of the dim's slice.

   ARCHIVE FORMAT, version 1

   An archive holds many pages. It is written front to back without seeking, so into a pipe too; it
   grows by appending; a reader finds any page with one look-up and one read. All numbers are
   little-endian, `f32` are the bits of an IEEE 754 binary32, checksums are XXH32 with seed 0,
   reserved bytes are 0. Offsets count from the start of the file.

     .--------.-----------------------------------.-----------------------------------.-- - -
     | file   | segment 0                         | segment 1                         | ...
     | header | pages ... | directory    | footer | pages ... | directory    | footer |
     '--------'-----------------------------------'-----------------------------------'-- - -

   A reader starts from the last 48 bytes of the file, which must be a footer, and follows `previous
   footer` back to the first. A file that ends in anything else was cut short: the data are those of
   the last valid footer, and what follows it is lost. Appending starts right behind a footer.

   .- file header: 32 bytes ---------------------------------------------------------------------.
   |  0  magic            u8[8]   0x89 'L' 'Q' 'K' 'V' 0x0d 0x0a 0x1a                            |
   |  8  version          u16     1                                                              |
   | 10  checksum         u8      1: XXH32 (xxHash format specification)                         |
   | 11  hash             u8      1: BLAKE2s without key, 16 bytes of digest (RFC 7693)          |
   | 12  reserved         u8[16]                                                                 |
   | 28  header checksum  u32     of bytes 0 .. 27                                               |
   '---------------------------------------------------------------------------------------------'

   .- segment footer: 48 bytes ------------------------------------------------------------------.
   |  0  magic               u8[4]  'L' 'Q' 'F' 0x9a                                             |
   |  4  directory bytes     u32    a multiple of 4                                              |
   |  8  directory offset    u64    a multiple of 4; offset + bytes is where this footer lies    |
   | 16  previous footer     u64    its offset, at most directory offset - 48; all ones: none    |
   | 24  records             u32    in this directory                                            |
   | 28  runs                u32    in this directory                                            |
   | 32  pages               u64    in the runs of this directory                                |
   | 40  directory checksum  u32                                                                 |
   | 44  footer checksum     u32    of bytes 0 .. 43                                             |
   '---------------------------------------------------------------------------------------------'

   Pages may be preceded by padding, the directory by 0 .. 3 bytes. Padding is 0 and outside every
   checksum. A directory is a sequence of records; groups, ropes and profiles are numbered from 0
   over the whole archive in order of appearance, and a record refers to earlier ones only.

   .- record: 8 bytes and its payload -----------------------------------------------------------.
   |  0  type           u16                                                                      |
   |  2  flags          u16  bit 0: a reader that does not know the type may skip the record     |
   |                         (without it: the archive is refused); other bits as the type says   |
   |  4  payload bytes  u32  zeros up to a multiple of 4 follow the payload                      |
   '---------------------------------------------------------------------------------------------'

   .- type 1, GROUP: flags 0 --------------------------------------------------------------------.
   |  0  stream      u8     1 K, 2 V                                                             |
   |  1  reserved    u8                                                                          |
   |  2  rope        u16    id; 0xffff: none                                                     |
   |  4  page rule   u8[4]  the page codec's                                                     |
   |  8  slices      u16    1 .. 4096                                                            |
   | 10  reserved    u16                                                                         |
   | 12  of each slice: layer u16, head u16, first dim u16, dims u16; first dim + dims <= 65536, |
   |                    the dims of all slices together <= 8192                                  |
   '---------------------------------------------------------------------------------------------'

   .- type 2, ROPE: flags 0 ---------------------------------------------------------------------.
   |  0  layout       u8   1 pairs (i, i + rotary dims / 2), 2 pairs (2i, 2i + 1)                |
   |  1  reserved     u8                                                                         |
   |  2  rotary dims  u16  even, 2 .. 8192                                                       |
   |  4  magnitude    f32  finite, > 0                                                           |
   |  8  freqs        f32  rotary dims / 2 of them, radians per position, 0 <= f < 256           |
   '---------------------------------------------------------------------------------------------'

   .- type 3, PROFILE: flags 0 ------------------------------------------------------------------.
   |  0  form      u8     1 embedded, 2 external                                                 |
   |  1  reserved  u8[3]                                                                         |
   |  4  embedded: the profile's file form, at least 1 byte, up to the end of the payload        |
   |     external: u8[16], the hash of its file form                                             |
   '---------------------------------------------------------------------------------------------'

   .- type 4, RUN: flags = form of the positions * 2 --------------------------------------------.
   |  0  group            u32  id                                                                |
   |  4  profile          u32  id; 0xffffffff: none                                              |
   |  8  sequence         u64                                                                    |
   | 16  first token      u64  ordinal in the sequence; first token + tokens <= 2^63             |
   | 24  tokens           u32  at least 1                                                        |
   | 28  tokens per page  u16  at least 1; the last page may hold fewer                          |
   | 30  page code        u8   what all its pages are; 0: mixed (a summary, pages have headers)  |
   | 31  align_log2       u8   0 .. 16                                                           |
   | 32  step             f32  finite, >= 0                                                      |
   | 36  base             u64  offset of the first page, a multiple of 1 << align_log2           |
   | 44  positions        form 0: nothing, they are the ordinals                                 |
   |                      form 1: first i64, stride i32, not 0                                   |
   |                      form 2: i64 of each token                                              |
   |  -  of each page: end u32, relative to base, and checksum u32 of its bytes                  |
   '---------------------------------------------------------------------------------------------'

   The first page starts at base, every other at the end of the one before, rounded up to a multiple
   of 1 << align_log2; a page has at least one byte and ends at or before its directory. There are
   ceil(tokens / tokens per page) pages. Where several runs of a group and sequence hold a token,
   the last one counts. Runs may share pages.

   .- type 5, META: flags 1 ---------------------------------------------------------------------.
   |  0  tag    u32    of several with one tag the last counts                                   |
   |  4  bytes         up to the end of the payload                                              |
   '---------------------------------------------------------------------------------------------'

   It costs 32 bytes a file, 48 a segment, 52 a run (64 when positions are not the ordinals) and 8 a
   page. The checksums find accidents, not attacks: an archive is as trustworthy as its writer, and
   a reader relies on no byte that it has not checked.

   GUARANTEES
   Memory    Decoding is safe on any bytes: a status, never a crash, never a partial object. Sizes
             that come out of a stream are checked before they are used. Checksums find accidents;
             against attackers rely on the status alone.
   Exact     The same input with the same profile gives the same bytes, and the same bytes the same
             integers, on every CPU, compiler and flag set, -ffast-math included. The last step to
             floats may differ in the last bit. Calibration (lq_klt_*, rates) computes in floats:
             the same in one build at one CPU level; the profile that it writes is exact anywhere.
   Errors    Every function that can fail returns an int: LQ_OK or negative. On an error outputs are
             unspecified but in bounds, objects are as before, *written is 0. NaN and infinity are
             LQ_E_DATA; raw pages keep them.
   Imports   memcpy, memmove, memset. No allocation, no I/O, no threads, no state but the CPU level
             (one relaxed atomic int). Structs hold no code pointers but the caller's own callbacks.
   Threads   Functions may run in any number of threads on distinct objects; tables, codecs,
             profiles and readers are read-only once made and may be shared.
   Stack     At most 4 KB a function.

   MACROS
   LATTICEQUANT_IMPLEMENTATION  Affects: whether the code is there. Default: not defined. When: in
                                one file of a program, before the #include; a second time does no
                                harm.
   LQ_STATIC                    Affects: linkage, all functions static. Default: not defined. When:
   two
                                libraries of one program each bring their own copy.
   LQ_API                       Affects: the decoration of public functions. Default: extern,
                                extern "C" or static. When: a shared library exports them.
   LQ_ASSERT(x)                 Affects: checks for errors of the library itself. Default: nothing.
   LQ_NO_SIMD                   Affects: AVX2 and AVX-512 code is left out. Default: not defined.
                                When: a compiler cannot take it. Results are the same.

   WHAT IT DOES NOT DO (yet)
   No attention on compressed pages, no trellis or Leech lattice, no GPU code. */

/* ================================================================================================
   >>config   version, linkage                                        >>types   status, descriptors
   ============================================================================================== */
#ifndef LATTICEQUANT_H
#define LATTICEQUANT_H

#include <stddef.h>
#include <stdint.h>

#define LQ_VERSION_MAJOR 0
#define LQ_VERSION_MINOR 1
#define LQ_VERSION_PATCH 0
#define LQ_VERSION (LQ_VERSION_MAJOR * 10000 + LQ_VERSION_MINOR * 100 + LQ_VERSION_PATCH)

#ifndef LQ_API
#if defined(LQ_STATIC)
#if defined(__GNUC__) || defined(__clang__)
#define LQ_API static __attribute__((unused))
#else
#define LQ_API static
#endif
#elif defined(__cplusplus)
#define LQ_API extern "C"
#else
#define LQ_API extern
#endif
#endif

/* LQ_MUST marks a function whose status a caller may not drop. */
#if defined(__GNUC__) || defined(__clang__)
#define LQ_MUST __attribute__((warn_unused_result))
#else
#define LQ_MUST
#endif

/* One list makes the enum, lq_status_string and the table of the manual. */
#define LQ_STATUS_LIST(X)                                               \
    X(LQ_OK, 0, "ok")                                                   \
    X(LQ_E_ARG, -1, "invalid argument")                                 \
    X(LQ_E_SPACE, -2, "buffer too small")                               \
    X(LQ_E_DATA, -3, "corrupt, truncated or non-finite data")           \
    X(LQ_E_FORMAT, -4, "unknown format, version or mismatched profile") \
    X(LQ_E_RANGE, -5, "value or index out of range")                    \
    X(LQ_E_NOMEM, -6, "out of memory")                                  \
    X(LQ_E_IO, -7, "read or write callback failed")                     \
    X(LQ_E_INTERNAL, -8, "internal error: please report")

#define LQ__STATUS_ENUM(name, value, text) name = value,
enum { LQ_STATUS_LIST(LQ__STATUS_ENUM) LQ__STATUS_END = 1 };
#undef LQ__STATUS_ENUM

/* Element types of K/V in memory and of raw pages. */
enum { LQ_F32 = 1, LQ_F16 = 2, LQ_BF16 = 3 };

/* What a group's vectors are. K has one step for all tokens, V a gain per token and slice. */
enum { LQ_K = 1, LQ_V = 2 };

/* Page codes: how the integers (or floats) of a page are stored. */
enum { LQ_PAGE_RAW = 1, LQ_PAGE_FIXED = 2, LQ_PAGE_CODED = 3 };

/* Quantizers. LQ_E8_RELAXED drops the parity of the half-integer coset: a little better below
   1.75 bits, worse above 2.6. */
enum { LQ_Z = 1, LQ_D4 = 2, LQ_E8 = 3, LQ_E8_RELAXED = 4 };

/* Bases of a profile. LQ_BASIS_DENSE is a matrix over all slices of the group (lq_klt_*). */
enum { LQ_BASIS_IDENTITY = 1, LQ_BASIS_HADAMARD = 2, LQ_BASIS_DENSE = 3 };

/* Pairing of RoPE: (i, i + rotary_dims / 2) or (2i, 2i + 1). */
enum { LQ_ROPE_HALF = 1, LQ_ROPE_ADJACENT = 2 };

/* Rotary position embedding of one head; also the form in which archives carry it.
     freqs        radians per position of each pair (rotary_dims / 2), finite, 0 <= f < 256
     rotary_dims  leading dims of each head that are rotated, even; the others pass through
     layout       LQ_ROPE_HALF (default 0) or LQ_ROPE_ADJACENT
     magnitude    factor on the rotated dims (YaRN's attention factor); default 0 means 1 */
typedef struct lq_rope {
    const float *freqs;
    uint32_t rotary_dims;
    uint32_t layout;
    float magnitude;
} lq_rope;

/* Vectors of a group in the caller's memory. Slice s is one head's (or latent's) vectors; element d
   of token t lies at slices[s] + t * token_stride + d, in elements of `type`.
     token_stride  0 means tightly packed: the dims of that slice */
typedef struct lq_vectors {
    const void *const *slices;
    size_t token_stride;
    int type;
} lq_vectors;

typedef struct lq_vectors_out {
    void *const *slices;
    size_t token_stride;
    int type;
} lq_vectors_out;

/* Positions of consecutive tokens: first + i * stride, or list[i] where list is not NULL.
     stride  default 0 means 1 */
typedef struct lq_positions {
    int64_t first;
    int64_t stride;
    const int64_t *list;
} lq_positions;

/* One slice of a group: dims [first_dim, first_dim + dims) of a head of a layer. MLA latents,
   partial heads of a tensor-parallel shard and unequal layers are only other slices. */
typedef struct lq_slice {
    uint32_t layer;
    uint32_t head;
    uint32_t first_dim;
    uint32_t dims;
} lq_slice;

/* A dense basis, as lq_profile_load makes it from a profile's file form; private but for the first
   four. Vectors are centred, then coefficient i is row i of `forward` times the vector of all
   slices; a vector is `inverse` times the coefficients. Rows have a norm below 2^15 and an
   exponent.
     hash        of the file form it came from: names it
     rank        coefficients, at most dims, of falling variance */
typedef struct lq_basis {
    uint8_t hash[16];
    uint32_t dims;
    uint32_t slice_count;
    uint32_t rank;
    uint32_t stream;
    uint32_t encodes; /* 0: the file form left the metric out, so it only decodes */
    int32_t center_exponent;
    uint32_t forward_stride;
    uint32_t inverse_stride;
    const uint16_t *slice_dims;   /* (slice_count) */
    const int8_t *slice_exponent; /* (slice_count) K: a slice's unit is 2^exponent */
    const int16_t *center;        /* (dims) in slice units, times 2^center_exponent */
    const int16_t *forward;       /* (rank, forward_stride) */
    const int16_t *inverse;       /* (dims, inverse_stride) */
    const int8_t *forward_exponent;
    const int8_t *inverse_exponent;
    const int16_t *sigma; /* (rank) as calibrated, in the units of lq_profile */
} lq_basis;

/* A profile: what the coder knows of a group's coefficients. Arrays lie in the caller's memory.
   Rows are the V gains first (slice_count rows when stream is LQ_V), then the coefficients.
     mean        in units of 2^mean_exponent; gains: in quarter octaves
     sigma       16 * log2 of the standard deviation; gains: of the gain in quarter octaves;
                 LQ_SIGMA_DEAD marks a coefficient that is never coded
     dense       the basis, where that is LQ_BASIS_DENSE and the profile holds it; else NULL
     basis_hash  name of the dense basis: a refit names the basis it was fitted in */
#define LQ_SIGMA_DEAD (-32768)
typedef struct lq_profile {
    uint32_t stream;
    uint32_t basis;
    uint32_t slice_count;
    uint32_t dims;
    int32_t mean_exponent;
    int16_t *mean;
    int16_t *sigma;
    const lq_basis *dense;
    uint8_t basis_hash[16];
} lq_profile;

/* ================================================================================================
   >>api   kernels, codec, archive
   ============================================================================================== */
/* ---- library ---- */
LQ_API int lq_version(void);
LQ_API const char *lq_status_string(int status);

/* SIMD level in force: 0 C, 1 AVX2, 2 AVX-512. lq_cpu_limit caps it (negative: no cap) and returns
   what is in force then; results are the same at every level. Not while other threads work. */
LQ_API int lq_cpu_level(void);
LQ_API int lq_cpu_limit(int level);

/* ---- half floats: round to nearest, ties to even; infinities stay, NaNs stay NaN ---- */
/* One number. */
LQ_API uint16_t lq_f16_from_f32(float f);
LQ_API float lq_f32_from_f16(uint16_t h);
LQ_API uint16_t lq_bf16_from_f32(float f);
LQ_API float lq_f32_from_bf16(uint16_t h);

/* Arrays of `count`, any alignment; src and dst may not overlap. `type` is LQ_F32, LQ_F16 or
   LQ_BF16; any other is LQ_E_ARG. */
LQ_API LQ_MUST int lq_f32_from_type(float *dst, const void *src, size_t count, int type);
LQ_API LQ_MUST int lq_type_from_f32(void *dst, const float *src, size_t count, int type);
LQ_API size_t lq_type_bytes(int type);

/* Hadamard rotation with fixed signs, orthonormal, in place: x (count, dims) float.
   dims may be any number of 1 .. 65536: blocks of the largest power of two that divides it, at most
   512. lq_unrotate_f32 is the inverse. LQ_E_ARG: x is NULL, dims out of range.
   Results are the same at every CPU level. */
LQ_API LQ_MUST int lq_rotate_f32(float *x, size_t count, size_t dims);
LQ_API LQ_MUST int lq_unrotate_f32(float *x, size_t count, size_t dims);

/* Rotates (or, with lq_rope_undo_f32, rotates back) x (tokens, dims) float in place: one head.
   `stride` floats from token to token. LQ_E_ARG: NULL, rope not valid, rotary_dims > dims.
   Angles are positions times frequency modulo a turn, in 64-bit integers: exact for any position.
   */
LQ_API LQ_MUST int lq_rope_apply_f32(float *x, size_t tokens, size_t dims, size_t stride,
                                     const lq_rope *rope, const lq_positions *positions);
LQ_API LQ_MUST int lq_rope_undo_f32(float *x, size_t tokens, size_t dims, size_t stride,
                                    const lq_rope *rope, const lq_positions *positions);

/* Means over tokens: mean (dims) of x (tokens, dims); lq_center_f32 also subtracts it in place and
   lq_uncenter_f32 adds it back. LQ_E_ARG: NULL or a count of 0. */
LQ_API LQ_MUST int lq_mean_f32(float *mean, const float *x, size_t tokens, size_t dims);
LQ_API LQ_MUST int lq_center_f32(float *x, size_t tokens, size_t dims, float *mean);
LQ_API LQ_MUST int lq_uncenter_f32(float *x, size_t tokens, size_t dims, const float *mean);

/* ---- lattices: exact nearest points ---- */
/* Nearest points of src / step, count numbers in blocks of 1 (LQ_Z), 4 (LQ_D4) or 8 (LQ_E8,
   LQ_E8_RELAXED).
     points  (count) int16: the coordinates; E8's are doubled, so that halves are integers: all
             eight even or all eight odd
   The number that is rounded is src / step to the nearest 2^-12; ties go to the integer coset.
   LQ_E_ARG: NULL, step outside [2^-100, 2^100], unknown quantizer, count not a multiple of the
   block; LQ_E_DATA: not finite; LQ_E_RANGE: |src| above 2048 steps. The same points on every
   machine. Source: Conway and Sloane 1982, "Fast quantizing and decoding algorithms for lattice
   quantizers". */
LQ_API LQ_MUST int lq_lattice_nearest(int16_t *points, const float *src, size_t count, float step,
                                      int quantizer);

/* The inverse: dst = point * step (E8's points halved first). */
LQ_API LQ_MUST int lq_lattice_point(float *dst, const int16_t *points, size_t count, float step,
                                    int quantizer);

/* Numbers a block of the quantizer holds: 1, 4 or 8; 0 if unknown. */
LQ_API size_t lq_lattice_dims(int quantizer);

/* ---- fixed width ---- */
/* Codes of a fixed number of bits: LQ_Z with 8, 4, 3 or 2 bits (the half-integer grid, level
   u - 2^(bits-1) + 1/2) or LQ_E8 with 4 bits (32 bits for 8 numbers: see >>manual). Out-of-range
   numbers take the nearest code in range.
     dst  lq_fixed_bytes(count, quantizer, bits) bytes; 0 for an unknown form
   Errors as lq_lattice_nearest (count a multiple of 8 for E8), LQ_E_SPACE: dst too small. */
LQ_API size_t lq_fixed_bytes(size_t count, int quantizer, int bits);
LQ_API LQ_MUST int lq_fixed_encode(uint8_t *dst, size_t dst_bytes, const float *src, size_t count,
                                   float step, int quantizer, int bits);
LQ_API LQ_MUST int lq_fixed_decode(float *dst, const uint8_t *src, size_t src_bytes, size_t count,
                                   float step, int quantizer, int bits);

/* ---- entropy coder: integers with Gaussian statistics, one 32-lane rANS stream a page ---- */
/* Class of a row: sigma / step = 2^((class - LQ_CLASS_ONE) / 8), from 2^-4 (class 1) to 2^11.
   Class 0 is a dead row: not in the stream, zero when decoded. */
#define LQ_CLASS_ONE 33
#define LQ_CLASS_MAX 121

/* Rows of a page, lead rows included. */
#define LQ_RANS_ROWS_MAX 65536

/* The coder's tables, computed by integer arithmetic: the same on every machine. */
typedef struct lq_tables lq_tables;

/* Bytes of memory for lq_tables_init. */
LQ_API size_t lq_tables_bytes(void);

/* Builds the tables (1 ms) in the caller's memory, of any alignment; *tables points into it.
   Read-only afterwards: any number of threads and codecs may share them.
   LQ_E_ARG: NULL; LQ_E_SPACE: mem_bytes below lq_tables_bytes(). */
LQ_API LQ_MUST int lq_tables_init(const lq_tables **tables, void *mem, size_t mem_bytes);

/* How the rows of a page are coded: built alike by encoder and decoder from the classes. Points
   into the caller's memory.
     rows        of the matrix: lead rows, coefficients, and for E8 a coset row before each block
     coded_rows  those that are in the stream
     raw_bits    at most that many bits a token are stored beside it
     merge_first first coded row that has such bits, or a parity that waits for them */
typedef struct lq_rans_row lq_rans_row;
typedef struct lq_rans_plan {
    size_t rows;
    size_t coded_rows;
    size_t raw_bits;
    size_t merge_first;
    const lq_rans_row *coded;
} lq_rans_plan;

/* Rows of the matrix of `rows` rows of which the first `lead_rows` are lead rows; 0 if not valid.
   An E8 block is nine rows of the matrix: coset (0 or 1), z0 .. z7. */
LQ_API size_t lq_rans_matrix_rows(size_t rows, size_t lead_rows, int quantizer);

/* Bytes of memory for lq_rans_plan_init, any quantizer; 0 if not valid. */
LQ_API size_t lq_rans_plan_bytes(size_t rows);

/* Builds a plan in the caller's memory, of any alignment.
     classes    (rows) of the lead rows and the coefficients; none for coset rows
     lead_rows  leading rows of plain integers (the gains of V): never a dead zone, no lattice
     quantizer  LQ_Z, LQ_D4, LQ_E8 or LQ_E8_RELAXED: how the coefficients were quantized. A block
                of 4 or 8 with a dead row in it, and rows behind the last whole block, are Z
                (>>rans)
   LQ_E_ARG: NULL, no rows or too many, class above LQ_CLASS_MAX, unknown quantizer; LQ_E_SPACE. */
LQ_API LQ_MUST int lq_rans_plan_init(lq_rans_plan *plan, void *mem, size_t mem_bytes,
                                     const uint8_t *classes, size_t rows, size_t lead_rows,
                                     int quantizer);

/* One page of a batch.
     values       (plan rows, 64) int16, any alignment; column t is token t
     bytes        encode: the stream is written here; decode: read from here
     bytes_count  encode: room; decode: exact length of the stream
     written      encode: length of the stream, 0 on error; decode: not used
     tokens       1 .. 64 columns in use. Encode does not read the others, decode makes them zero
     status       of this page */
typedef struct lq_rans_page {
    int16_t *values;
    uint8_t *bytes;
    size_t bytes_count;
    size_t written;
    uint32_t tokens;
    int status;
} lq_rans_page;

/* Longest stream of a page with that many matrix rows; 0 if rows or tokens are out of range. */
LQ_API size_t lq_rans_bound(size_t rows, uint32_t tokens);

/* Workspace of lq_rans_encode and lq_rans_decode for that many matrix rows and pages in a call: it
   stops growing at 8 pages. */
LQ_API size_t lq_rans_workspace_bytes(size_t rows, size_t page_count);

/* Encodes pages of one plan; up to 8 are in flight, so batches are faster than single pages.
   Rows that are dead are not read. The same bytes on every machine.
   Returns the first page status that is not LQ_OK, each page has its own: LQ_E_ARG: NULL, tokens
   not 1 .. 64, a coset that is not 0 or 1, a block with an odd sum; LQ_E_SPACE: bytes_count
   (lq_rans_bound is always enough) or workspace too small. */
LQ_API LQ_MUST int lq_rans_encode(const lq_tables *tables, const lq_rans_plan *plan,
                                  lq_rans_page *pages, size_t page_count, void *workspace,
                                  size_t workspace_bytes);

/* Decodes pages of one plan. Returns as lq_rans_encode: LQ_E_ARG, LQ_E_SPACE (workspace),
   LQ_E_DATA: not a stream of this plan and token count; its values are then unspecified.
   Safe for untrusted input: reads bytes[0, bytes_count) only. */
LQ_API LQ_MUST int lq_rans_decode(const lq_tables *tables, const lq_rans_plan *plan,
                                  lq_rans_page *pages, size_t page_count, void *workspace,
                                  size_t workspace_bytes);
/* ---- profiles ---- */
/* What the vectors of a group are: shared by fitting and by the page codec.
     stream       LQ_K or LQ_V
     slice_count  1 .. 4096; slice_dims (slice_count), their sum at most 8192
     rope         RoPE to undo before coding (every slice has at least rotary_dims dims); NULL: none
     basis        LQ_BASIS_IDENTITY (default 0) or LQ_BASIS_HADAMARD, per slice; or LQ_BASIS_DENSE
     dense        the basis where that is LQ_BASIS_DENSE, of these dims, slices and stream; else
                  NULL. Steps are then in the basis' own unit (lq_klt_desc) */
typedef struct lq_geometry {
    uint32_t stream;
    uint32_t basis;
    uint32_t slice_count;
    const uint32_t *slice_dims;
    const lq_rope *rope;
    const lq_basis *dense;
} lq_geometry;

/* Rows of a profile: slice_count gains (V only) and then the coefficients; 0 if not valid. */
LQ_API size_t lq_geometry_rows(const lq_geometry *geometry);
LQ_API size_t lq_geometry_dims(const lq_geometry *geometry);

/* Bytes of memory for a profile's arrays of `rows`. */
LQ_API size_t lq_profile_bytes(size_t rows);

/* A profile with mean 0 and standard deviation `sigma` in every row (gains: 1 octave): the
   calibration-free start. LQ_E_ARG: geometry or sigma not valid; LQ_E_SPACE: mem_bytes below
   lq_profile_bytes(lq_geometry_rows(geometry)). */
LQ_API LQ_MUST int lq_profile_init(lq_profile *profile, void *mem, size_t mem_bytes,
                                   const lq_geometry *geometry, float sigma);

/* The file form (>>manual): lq_profile_save_bound bytes at most; the same profile gives the same
   bytes. Of a profile in a dense basis it holds the basis' name; lq_klt_profile writes the basis.
   load validates everything: LQ_E_DATA, LQ_E_FORMAT, LQ_E_SPACE (mem may be NULL then). *needed
   tells the memory that it takes: of a dense basis about 4 bytes for rank * dims. Safe for
   untrusted input. */
LQ_API size_t lq_profile_save_bound(size_t rows);
LQ_API LQ_MUST int lq_profile_save(uint8_t *dst, size_t dst_bytes, size_t *written,
                                   const lq_profile *profile);
LQ_API LQ_MUST int lq_profile_load(lq_profile *profile, void *mem, size_t mem_bytes, size_t *needed,
                                   const uint8_t *src, size_t src_bytes);

/* Drops from the file form of a dense basis what only encoding needs (the metric), in place: for
   archives that carry their own basis. Returns the bytes left, `count` for any other form. */
LQ_API size_t lq_profile_strip(uint8_t *file, size_t count);

/* Fits means and standard deviations to a sequence, in integer sums: any order of the same tokens
   gives the same profile. Leave out the sinks (the first 4 tokens); refit when lq_fit_due says so.
   */
typedef struct lq_fit {
    lq_geometry geometry;
    float step;
    uint64_t tokens;
    int64_t *sum;          /* q10 */
    uint64_t *sum_squares; /* q20 */
} lq_fit;

/* Memory for lq_fit_init, and for the workspace of lq_fit_add. */
LQ_API size_t lq_fit_bytes(const lq_geometry *geometry);
LQ_API size_t lq_fit_workspace_bytes(const lq_geometry *geometry);

/* `step` is the finest step in use: means come out in quarters of it. geometry and what it points
   to must outlive the fit. */
LQ_API LQ_MUST int lq_fit_init(lq_fit *fit, void *mem, size_t mem_bytes,
                               const lq_geometry *geometry, float step);

/* Adds tokens. LQ_E_DATA: NaN or infinity; LQ_E_RANGE: |x| above 2048 steps; then nothing was
added. */
LQ_API LQ_MUST int lq_fit_add(lq_fit *fit, const lq_vectors *src, const lq_positions *positions,
                              size_t tokens, void *workspace, size_t workspace_bytes);

/* The profile of all tokens so far. LQ_E_ARG: no tokens. Memory as lq_profile_init. */
LQ_API LQ_MUST int lq_fit_profile(const lq_fit *fit, lq_profile *profile, void *mem,
                                  size_t mem_bytes);

/* Whether a refit is due after `pages` pages: at 1, 2, 4, 8, ... */
LQ_API int lq_fit_due(uint64_t pages);

/* Whether a refit to the tokens so far would save more bits on `tokens` like them, at the fit's
   step, than its file form and a run of an archive take. profile: the one in use, in the fit's
   basis. LQ_E_ARG. */
LQ_API LQ_MUST int lq_fit_pays(int *pays, const lq_fit *fit, const lq_profile *profile,
                               uint64_t tokens);

/* ---- calibration: the Karhunen-Loeve basis of a group ---- */
/* One pass over samples of a group's K or V, and of the queries that read K, gives a profile with
   a dense basis: the eigenbasis of the covariance over all slices of the group, K's in the metric
   of the queries. It belongs to the model: calibrate once, on mixed text, without the sinks.
   Floats: the same in one build at one CPU level; the profile that comes out is exact anywhere. */
typedef struct lq_klt {
    lq_geometry geometry;
    uint64_t tokens;   /* fitted to */
    uint64_t held_out; /* every eighth block of 64: they judge the basis, then join in the fit */
    uint64_t queries;
    uint64_t blocks;
    float *center;      /* (dims) provisional: the mean of the first block */
    float *sum[2];      /* (dims) of fitted and of held-out tokens */
    float *products[2]; /* (dims, dims), j <= i */
    float *gain_sum;    /* (slice_count, 2) V: sums of the gain and its square */
    float *energy;      /* (slice_count) K: sum of squares */
    float *metric;      /* of each slice (dims, dims): sum of q q' of the queries that read it */
} lq_klt;

/* Memory: about 8 bytes for dims^2. 0 if the geometry is not valid (its basis does not count). */
LQ_API size_t lq_klt_bytes(const lq_geometry *geometry);

/* Starts a fit. geometry and what it points to must outlive it. LQ_E_ARG, LQ_E_SPACE. */
LQ_API LQ_MUST int lq_klt_init(lq_klt *klt, void *mem, size_t mem_bytes,
                               const lq_geometry *geometry);

/* Workspace of lq_klt_add and lq_klt_add_queries. */
LQ_API size_t lq_klt_workspace_bytes(const lq_geometry *geometry);

/* Adds tokens: K as it comes out of the model (the geometry's rope is undone here), or V.
   LQ_E_DATA: NaN or infinity; LQ_E_RANGE: magnitudes beyond 2^40 (V: 2^31); then nothing was added.
   */
LQ_API LQ_MUST int lq_klt_add(lq_klt *klt, const lq_vectors *src, const lq_positions *positions,
                              size_t tokens, void *workspace, size_t workspace_bytes);

/* Adds queries (after RoPE, as K): K's error is then weighed as the logits see it, averaged over
   distances from 1 to 1024 where the geometry has a rope.
     queries  slices[h] are the vectors of query head h, of the dims of the slice that it reads
     reads    (heads) the slice of each query head
   Errors as lq_klt_add; LQ_E_ARG also for a group of V. */
LQ_API LQ_MUST int lq_klt_add_queries(lq_klt *klt, const lq_vectors *queries, const uint32_t *reads,
                                      size_t heads, const lq_positions *positions, size_t tokens,
                                      void *workspace, size_t workspace_bytes);

/* How a profile is made.
     step       the finest step that it is to serve: sets the rank and the precision of the basis;
                default 0 means 0.1
     beta       exponent of the query metric, at most 1; default 0 means 0.5; negative: no metric
     absolute   K: 0 (default): steps are relative to the slice's root mean square, so that one step
                suits all groups; 1: steps are in K's own unit
     tolerance  what rounding the basis may add to the step's error; default 0 means 0.02
     own        1: the tokens that were added are the ones to be coded: all of them are fitted, none
                judge; default 0 */
typedef struct lq_klt_desc {
    float step;
    float beta;
    int absolute;
    float tolerance;
    int own;
} lq_klt_desc;

/* What came out. Bits are expected bits an element at `step`, on the held-out tokens (own: on all).
     shrinkage     weight of the covariance's diagonal, 1: channels are better than any rotation
     basis_loss    error of the rounded basis over step^2 / 12, expected
     logit_weight  K with a query metric: mean square error of a logit (q'k, before the attention's scale)
                   that a unit of lq_rate.error makes, mean of the slices; else 0 */
typedef struct lq_klt_report {
    uint32_t rank;
    float shrinkage;
    float channel_bits;
    float basis_bits;
    float basis_loss;
    float logit_weight;
} lq_klt_report;

LQ_API size_t lq_klt_profile_bound(const lq_klt *klt);
LQ_API size_t lq_klt_profile_workspace_bytes(const lq_klt *klt);

/* Writes the profile's file form; lq_profile_load makes it usable. report may be NULL.
   LQ_E_ARG: fewer than 64 tokens, a descriptor that is not valid; LQ_E_SPACE; LQ_E_RANGE: means or
   a metric that the file form cannot hold; LQ_E_INTERNAL: the eigenvalues did not converge. Takes
   in the order of dims^3 operations. */
LQ_API LQ_MUST int lq_klt_profile(const lq_klt *klt, uint8_t *dst, size_t dst_bytes,
                                  size_t *written, const lq_klt_desc *desc, lq_klt_report *report,
                                  void *workspace, size_t workspace_bytes);

/* ---- rate control ---- */
/* What coded pages of a profile cost and lose at a step, expected of Gaussian coefficients.
     bits    a token of the group: coefficients and gains, pages' headers not
     error   its squared error, summed over the coefficients, in the unit of the step */
typedef struct lq_rate {
    double bits;
    double error;
} lq_rate;

/* LQ_E_ARG: not valid. Z only: lattices lose 0.1 bit less for the same error. */
LQ_API LQ_MUST int lq_rate_of(lq_rate *rate, const lq_tables *tables, const lq_profile *profile,
                              float step);

/* A group that shares bits with others.
     profile  its profile
     weight   what a unit of its squared error does to the total error: 1 where steps are relative,
              lq_klt_report.logit_weight for a total of logit errors, or as measured
     step     out: its step
     rate     out: what it costs and loses */
typedef struct lq_rate_group {
    const lq_profile *profile;
    double weight;
    float step;
    lq_rate rate;
} lq_rate_group;

enum { LQ_RATE_BITS = 1, LQ_RATE_ERROR = 2 };

/* Steps of all groups such that the slope of weighted error against bits is the same everywhere,
   and the sum of their bits (LQ_RATE_BITS) a token, or of their weighted errors (LQ_RATE_ERROR), is
   `target` or just below. LQ_E_ARG; LQ_E_RANGE: no step from 2^-20 to 2^20 reaches it. */
LQ_API LQ_MUST int lq_rate_split(lq_rate_group *groups, size_t count, const lq_tables *tables,
                                 int kind, double target);

/* ---- pages ---- */
/* A codec turns up to 64 tokens of one group at a time into a page and back.
     tables         from lq_tables_init; needed by coded pages
     profile        rows must fit the geometry; fixed pages use its mean, coded ones also its sigma;
                    not needed by raw pages
     geometry       what the vectors are; its basis must be the profile's (0 takes the profile's)
     page           LQ_PAGE_CODED (default 0), LQ_PAGE_FIXED or LQ_PAGE_RAW
     quantizer      LQ_Z (default 0), LQ_D4, LQ_E8, LQ_E8_RELAXED; fixed pages: LQ_Z or LQ_E8
     bits           fixed pages: 8, 4 (default 0), 3, 2; E8: 4
     type           raw pages: LQ_F16 (default 0), LQ_F32 or LQ_BF16
     step           width of the quantizer's cell: K in its own unit, V relative to the gain
     profile_index  0 .. 255, stamped into each page: which profile of the run decodes it
   What the descriptor points to must outlive the codec. */
typedef struct lq_codec_desc {
    const lq_tables *tables;
    const lq_profile *profile;
    lq_geometry geometry;
    int page;
    int quantizer;
    int bits;
    int type;
    float step;
    uint32_t profile_index;
} lq_codec_desc;

typedef struct lq_codec lq_codec;

/* Memory of a codec; 0 if the descriptor is not valid. */
LQ_API size_t lq_codec_bytes(const lq_codec_desc *desc);

/* Builds a codec in the caller's memory. LQ_E_ARG: a descriptor that is not valid; LQ_E_SPACE;
   LQ_E_FORMAT: the profile does not fit the geometry; LQ_E_RANGE: a mean too large for the step.
   A codec is read-only afterwards: any number of threads may use it, each with its own workspace.
   */
LQ_API LQ_MUST int lq_codec_init(lq_codec **codec, void *mem, size_t mem_bytes,
                                 const lq_codec_desc *desc);

/* Largest page, and the workspace for lq_codec_encode and lq_codec_decode. */
LQ_API size_t lq_codec_page_bound(const lq_codec *codec);
LQ_API size_t lq_codec_workspace_bytes(const lq_codec *codec);

/* Tokens to pages, 64 to a page but the last: pages lie one behind the other in dst.
     page_bytes   (ceil(tokens / 64)) size of each page
     positions    of the tokens; may be NULL if the geometry has no rope
   LQ_E_SPACE: dst (lq_codec_page_bound each is always enough) or workspace too small; LQ_E_DATA:
   NaN
   or infinity in src (raw pages take them); LQ_E_RANGE: |x| above 2048 steps.
   Up to 8 pages are in flight. The same bytes on every machine. */
LQ_API LQ_MUST int lq_codec_encode(const lq_codec *codec, uint8_t *dst, size_t dst_bytes,
                                   size_t *written, size_t *page_bytes, const lq_vectors *src,
                                   const lq_positions *positions, size_t tokens, void *workspace,
                                   size_t workspace_bytes);

/* Pages to tokens: page i is pages[i], page_bytes[i] long, and holds tokens 64 i .. of `tokens`.
   LQ_E_DATA, LQ_E_FORMAT: not a page of this codec and token count. Safe for untrusted input. */
LQ_API LQ_MUST int lq_codec_decode(const lq_codec *codec, const lq_vectors_out *dst,
                                   const lq_positions *positions, size_t tokens,
                                   const uint8_t *const *pages, const size_t *page_bytes,
                                   void *workspace, size_t workspace_bytes);

/* Reads a page's trailer: which codec decodes it. LQ_E_DATA, LQ_E_FORMAT. Safe for untrusted
input. */
typedef struct lq_page_info {
    int page;
    int quantizer;
    int bits;
    int type;
    uint32_t tokens;
    uint32_t profile_index;
} lq_page_info;
LQ_API LQ_MUST int lq_page_inspect(lq_page_info *info, const uint8_t *page, size_t page_bytes);

/* ---- hashes ---- */

/* XXH32 of bytes: finds accidents, not attacks.
     src  `count` bytes, any alignment; may be NULL when count is 0
   Returns the hash. Safe for untrusted input.
   Source: xxHash fast digest algorithm, format specification 0.2.0, "XXH32". */
LQ_API uint32_t lq_xxh32(const void *src, size_t count, uint32_t seed);

/* BLAKE2s without a key, digest of 16 bytes: names a profile.
     src  `count` bytes, any alignment; may be NULL when count is 0
   Safe for untrusted input. Source: RFC 7693, sections 2 and 3. */
LQ_API void lq_blake2s_128(uint8_t digest[16], const void *src, size_t count);

/* ---- archive: many pages in one growing, randomly readable, checksummed file ---- */

#define LQ_ARCHIVE_NONE 0xffffffffu /* no rope, no profile */

enum {
    LQ_ARCHIVE_HEADER_BYTES = 32,
    LQ_ARCHIVE_FOOTER_BYTES = 48,
    LQ_ARCHIVE_MAX_SLICES = 4096,
    LQ_ARCHIVE_MAX_DIMS = 8192,
    LQ_ARCHIVE_MAX_ALIGN = 65536
};

/* A group: the slices whose vectors form one coefficient vector. No defaults.
     stream       LQ_K or LQ_V
     rope         id of a rope, or LQ_ARCHIVE_NONE
     page_rule    how the page codec made the pages; the archive carries it and does not look
     slices       1 .. LQ_ARCHIVE_MAX_SLICES; layers, heads and dims below 65536 and
                  together at most LQ_ARCHIVE_MAX_DIMS dims */
typedef struct lq_archive_group_desc {
    uint32_t stream;
    uint32_t rope;
    uint8_t page_rule[4];
    const lq_slice *slices;
    size_t slice_count;
} lq_archive_group_desc;

/* A profile: embedded, or the name of one that is kept elsewhere. One of the pointers is NULL.
     bytes  its file form, `count` bytes (at least 1)
     hash   lq_blake2s_128 of its file form, 16 bytes */
typedef struct lq_archive_profile_desc {
    const uint8_t *bytes;
    size_t count;
    const uint8_t *hash;
} lq_archive_profile_desc;

/* A run: consecutive pages of one group of one sequence.
     group            id of a group
     profile          id of a profile, or LQ_ARCHIVE_NONE
     sequence         any number: the caller's name of the sequence
     first_token      ordinal within the sequence; first_token + token_count <= 2^63
     token_count      at least 1
     tokens_per_page  default 0 means 64; at most 65535; every page but the last has so many
     code             the pages' LQ_PAGE_*, at most 255; default 0 means mixed
     align            bytes, a power of two, at most LQ_ARCHIVE_MAX_ALIGN; each page starts at a
                      multiple of it in the file; default 0 means 1 for LQ_PAGE_CODED, else 64
     step             quantizer step, finite, >= 0; default 0 means none
     positions        of its tokens: {first_token, 1} costs nothing, other first and stride 12
                      bytes; a list (token_count) or a stride beyond int32 8 bytes a token */
typedef struct lq_archive_run_desc {
    uint32_t group;
    uint32_t profile;
    uint64_t sequence;
    uint64_t first_token;
    uint32_t token_count;
    uint32_t tokens_per_page;
    uint32_t code;
    uint32_t align;
    float step;
    lq_positions positions;
} lq_archive_run_desc;

/* What a reader tells of a run.
     desc       as above; positions.list is NULL: lq_archive_positions gives them
     listed     1: positions are a list, and first and stride are 0
     offset     of its first page in the file
     bytes      from there to the end of its last page, padding included */
typedef struct lq_archive_run_info {
    lq_archive_run_desc desc;
    uint32_t page_count;
    uint32_t listed;
    uint64_t offset;
    uint64_t bytes;
} lq_archive_run_info;

/* Where a page lies, and which tokens it holds. */
typedef struct lq_page_ref {
    uint64_t offset;
    uint32_t bytes;
    uint32_t checksum;
    uint64_t first_token;
    uint32_t token_count;
    uint32_t run;
    uint32_t page;
} lq_page_ref;

/* Where a writer writes: write_fn, or mem. Exactly one of them.
     write_fn   takes `count` bytes in file order; nonzero means failure, after which the writer
                answers LQ_E_IO for ever
     mem        receives what this writer writes, also when it appends
     directory  collects one segment's directory; lq_archive_run_bytes tells what a run takes,
                a group 20 + 8 a slice, a rope 16 + 2 * rotary_dims, a profile 12 + its bytes
                or 28, user bytes 12 + theirs, each rounded up to 4; stays in use until finish */
typedef struct lq_archive_writer_desc {
    int (*write_fn)(void *user, const void *bytes, size_t count);
    void *user;
    void *mem;
    size_t mem_bytes;
    void *directory;
    size_t directory_bytes;
} lq_archive_writer_desc;

/* A writer in the caller's memory. Read `offset` (the file's size so far) and `written` (by this
   writer); the rest is private. */
typedef struct lq_archive_writer {
    uint64_t offset;
    uint64_t written;
    int (*write_fn)(void *user, const void *bytes, size_t count);
    void *user;
    uint8_t *mem;
    size_t mem_bytes;
    uint8_t *directory;
    size_t directory_bytes;
    size_t directory_used;
    uint64_t segment_start;
    uint64_t footer;
    uint64_t page_count;
    uint32_t record_count;
    uint32_t run_count;
    uint32_t group_count;
    uint32_t rope_count;
    uint32_t profile_count;
    uint32_t failed;
    uint32_t finished;
    uint32_t in_run;
    size_t run_start;
    uint8_t *run_pages;
    uint64_t run_base;
    uint64_t run_end;
    uint64_t run_align;
    uint32_t run_page_count;
    uint32_t run_page;
} lq_archive_writer;

/* Where a reader reads: bytes, or read_fn. Exactly one of them.
     bytes          `size` bytes, which stay as they are as long as the reader is in use
     read_fn        copies `count` bytes at `offset` (inside `size`); nonzero means failure
     size           of the file, at most 2^60
     recover_bytes  default 0: the file must end in a valid footer. Else a valid footer is looked
                    for in so many last bytes (UINT64_MAX: in all): the archive as of then */
typedef struct lq_archive_source {
    const void *bytes;
    int (*read_fn)(void *user, uint64_t offset, void *dst, size_t count);
    void *user;
    uint64_t size;
    uint64_t recover_bytes;
} lq_archive_source;

/* A reader in the caller's memory. Read the counts (ids and indices are below them) and `end`,
   where valid data end: less than the file's size after a recovery. The rest is private. */
typedef struct lq_archive_reader {
    uint64_t end;
    uint64_t page_count;
    uint32_t segment_count;
    uint32_t group_count;
    uint32_t rope_count;
    uint32_t profile_count;
    uint32_t run_count;
    uint32_t meta_count;
    const uint8_t *file;
    int (*read_fn)(void *user, uint64_t offset, void *dst, size_t count);
    void *user;
    uint64_t size;
    const uint8_t *directories;
    const uint8_t *index;
    const uint8_t *next;
    const uint8_t *heads;
    uint32_t head_mask;
} lq_archive_reader;

/* Starts an archive and writes the file header.
   Returns LQ_OK, LQ_E_ARG, LQ_E_SPACE (mem below 32 bytes) or LQ_E_IO; the writer is set only on
   LQ_OK. Writers and readers are plain structs: nothing to release. */
LQ_API LQ_MUST int lq_archive_writer_init(lq_archive_writer *writer,
                                          const lq_archive_writer_desc *desc);

/* Starts a writer that continues the archive of an open reader: ids count on, and what it writes
   belongs at byte reader->end of the file. After a recovery cut the file there first.
   Returns LQ_OK or LQ_E_ARG. The reader is not used afterwards. */
LQ_API LQ_MUST int lq_archive_writer_append(lq_archive_writer *writer,
                                            const lq_archive_writer_desc *desc,
                                            const lq_archive_reader *reader);

/* Adds a rope to the directory. `*id` counts up from 0 over the whole archive; may be NULL.
     rope  rotary_dims even, 2 .. LQ_ARCHIVE_MAX_DIMS; magnitude above 0
   Returns LQ_OK, LQ_E_ARG (also inside a run or after finish), LQ_E_DATA (a float is not finite),
   LQ_E_RANGE (a value outside its range, or 65535 ropes), LQ_E_SPACE (the directory is full: flush
   the segment) or LQ_E_IO. On error nothing has changed. */
LQ_API LQ_MUST int lq_archive_add_rope(lq_archive_writer *writer, const lq_rope *rope,
                                       uint32_t *id);

/* Adds a group to the directory. `*id` counts up from 0 over the whole archive; may be NULL.
   Returns LQ_OK, LQ_E_ARG (also inside a run or after finish), LQ_E_RANGE (unknown rope, or a slice
   or their number or dims outside the range), LQ_E_SPACE (the directory is full: flush the segment)
   or LQ_E_IO. On error nothing has changed. */
LQ_API LQ_MUST int lq_archive_add_group(lq_archive_writer *writer,
                                        const lq_archive_group_desc *group, uint32_t *id);

/* Adds a profile to the directory. `*id` counts up from 0 over the whole archive; may be NULL.
   Returns LQ_OK, LQ_E_ARG (also inside a run or after finish), LQ_E_SPACE (the directory is full:
   flush the segment) or LQ_E_IO. On error nothing has changed. */
LQ_API LQ_MUST int lq_archive_add_profile(lq_archive_writer *writer,
                                          const lq_archive_profile_desc *profile, uint32_t *id);

/* Adds user bytes under a tag; of several with one tag the newest counts.
     src  `count` bytes, any number; may be NULL when count is 0
   Returns LQ_OK, LQ_E_ARG (also inside a run or after finish), LQ_E_SPACE (the directory is full:
   flush the segment) or LQ_E_IO. On error nothing has changed. */
LQ_API LQ_MUST int lq_archive_add_meta(lq_archive_writer *writer, uint32_t tag, const void *src,
                                       size_t count);

/* Directory bytes that a run takes: 52, 8 a page, and its positions (see lq_archive_run_desc).
   Returns 0 for a run without tokens, or whose record would not fit in memory. */
LQ_API size_t lq_archive_run_bytes(const lq_archive_run_desc *run);

/* Opens a run; then one lq_archive_write_page a page, in order, and lq_archive_run_end.
   Returns LQ_OK, LQ_E_ARG (also inside a run or after finish), LQ_E_DATA (step not finite),
   LQ_E_RANGE (unknown group or profile, a value outside its range), LQ_E_SPACE (the directory is
   full: flush the segment) or LQ_E_IO. On error nothing has changed. */
LQ_API LQ_MUST int lq_archive_run_begin(lq_archive_writer *writer, const lq_archive_run_desc *run);

/* Writes the next page of the run, behind its padding.
     src  `count` bytes, at least 1
   Returns LQ_OK, LQ_E_ARG (no open run, or one page too many), LQ_E_RANGE (the run would pass
   4 GiB: end such runs earlier), LQ_E_SPACE (mem is full) or LQ_E_IO. On error but the last
   nothing has changed. */
LQ_API LQ_MUST int lq_archive_write_page(lq_archive_writer *writer, const void *src, size_t count);

/* Closes the run; all its pages must have been written.
   Returns LQ_OK, LQ_E_ARG (no open run, or pages are missing; the run stays open) or LQ_E_IO. */
LQ_API LQ_MUST int lq_archive_run_end(lq_archive_writer *writer);

/* Gives the open run up. Pages already written stay in the file as dead bytes.
   Returns LQ_OK, LQ_E_ARG (no open run) or LQ_E_IO. */
LQ_API LQ_MUST int lq_archive_run_drop(lq_archive_writer *writer);

/* Writes directory and footer: what has been written so far can now be read. The directory buffer
   is empty afterwards and more may follow. Does nothing when there is nothing new.
   Returns LQ_OK, LQ_E_ARG (inside a run or after finish), LQ_E_SPACE (mem is full: nothing has
   changed) or LQ_E_IO. */
LQ_API LQ_MUST int lq_archive_flush_segment(lq_archive_writer *writer);

/* Flushes the last segment and ends the writer. The file is writer->offset bytes.
   Returns as lq_archive_flush_segment. */
LQ_API LQ_MUST int lq_archive_finish(lq_archive_writer *writer);

/* Opens an archive: reads and checks every directory, but no page.
     mem      `mem_bytes`, any alignment, in use as long as the reader; about 48 a segment, 8 a
              record, 12 a run, and with read_fn all directories
     needed   bytes of mem, also on LQ_E_SPACE (a recovery that falls back on an older footer may
              ask twice), else 0 on error; may be NULL
   Returns LQ_OK, LQ_E_ARG, LQ_E_SPACE, LQ_E_IO, LQ_E_DATA (no archive, cut short or damaged),
   LQ_E_FORMAT (of an unknown version or with unknown records) or LQ_E_RANGE (too large). The reader
   is set only on LQ_OK.
   Safe for untrusted input. Several threads may use one reader if read_fn allows. */
LQ_API LQ_MUST int lq_archive_open(lq_archive_reader *reader, const lq_archive_source *source,
                                   void *mem, size_t mem_bytes, size_t *needed);

/* Describes a group.
     slices  room for `capacity`, to which group->slices then points; NULL: only counted
   Returns LQ_OK, LQ_E_ARG, LQ_E_RANGE (no such group) or LQ_E_SPACE. Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_group(const lq_archive_reader *reader, uint32_t id,
                                    lq_archive_group_desc *group, lq_slice *slices,
                                    size_t capacity);

/* Describes a rope.
     freqs  room for `capacity`, to which rope->freqs then points (rotary_dims / 2); NULL: only
            the other fields
   Returns LQ_OK, LQ_E_ARG, LQ_E_RANGE (no such rope) or LQ_E_SPACE. Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_rope(const lq_archive_reader *reader, uint32_t id, lq_rope *rope,
                                   float *freqs, size_t capacity);

/* Describes a profile; its pointers lead into the file's bytes or the reader's memory. The archive
   does not look inside an embedded one.
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (no such profile). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_profile(const lq_archive_reader *reader, uint32_t id,
                                      lq_archive_profile_desc *profile);

/* Finds the newest user bytes under a tag.
     bytes  set to `*count` bytes in the file's bytes or the reader's memory
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (no such tag). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_meta(const lq_archive_reader *reader, uint32_t tag,
                                   const uint8_t **bytes, size_t *count);

/* Describes a run; they are counted from the oldest.
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (no such run). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_run(const lq_archive_reader *reader, uint32_t run,
                                  lq_archive_run_info *info);

/* Tells where a page of a run lies: inside the file whatever its bytes.
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (no such page). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_run_page(const lq_archive_reader *reader, uint32_t run, uint32_t page,
                                       lq_page_ref *ref);

/* Finds the page that holds a token: of several the newest. Looks at the runs of this group and
   sequence only.
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (none holds it). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_find(const lq_archive_reader *reader, uint32_t group,
                                   uint64_t sequence, uint64_t token, lq_page_ref *ref);

/* Tells the end of a sequence: one past its highest token, 0 when there is none. Tokens below may
   be missing; lq_archive_find tells.
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (no such group). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_tokens(const lq_archive_reader *reader, uint32_t group,
                                     uint64_t sequence, uint64_t *count);

/* Gives the positions of tokens of a run.
     first  counted from the run's first token
     dst    (count)
   Returns LQ_OK, LQ_E_ARG or LQ_E_RANGE (no such run or tokens). Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_positions(const lq_archive_reader *reader, uint32_t run,
                                        uint32_t first, size_t count, int64_t *dst);

/* Gives a page's bytes and verifies their checksum.
     buffer  `buffer_bytes`, at least ref->bytes with read_fn; may be NULL without
     page    set to ref->bytes bytes in the file's bytes or in buffer; NULL on error
   Returns LQ_OK, LQ_E_ARG, LQ_E_RANGE (ref lies outside), LQ_E_SPACE, LQ_E_IO or LQ_E_DATA.
   Safe for untrusted input: the page is what was written, but whoever wrote it may be hostile. */
LQ_API LQ_MUST int lq_archive_page(const lq_archive_reader *reader, const lq_page_ref *ref,
                                   void *buffer, size_t buffer_bytes, const uint8_t **page);

/* ---- archive: a group's tokens in one call ---- */
#define LQ_NO_SINKS 0xffffffffu

/* How lq_archive_pack stores the tokens of one group of one sequence.
     tables       from lq_tables_init
     geometry     of the group (its slices' dims and its rope, as the archive describes them)
     group        its id in the archive
     sequence     the caller's name of the sequence
     first_token  ordinal of the first token within the sequence
     sinks        tokens kept raw (in the source's type) at the start of a sequence, that is where
                  first_token is 0: default 0 means 4; LQ_NO_SINKS: none
     page         LQ_PAGE_CODED (default 0), LQ_PAGE_FIXED or LQ_PAGE_RAW
     quantizer, bits, step   as lq_codec_desc
     profile      default NULL: fitted to these tokens and stored with them, basis as geometry says
     profile_id   id in the archive of `profile`, where that is not NULL
     refit        1: as a stream would, with a new fit after 1, 2, 4, 8, ... pages, each of the
                  tokens so far (with a profile in a dense basis: of its deviations, and only where
                  that pays); default 0: one fit of all of them, or `profile` as it is
     calibrate    1: fits a dense basis to these tokens, and stores and uses it where all bytes
                  together become fewer; without `profile` and refit only. Takes the memory and
                  time of lq_klt_profile. K keeps its own unit. Default 0
     queries      calibrate, K: the tokens' queries, as lq_klt_add_queries takes them: `query_heads`
                  of them, which read slices `reads`; default NULL */
typedef struct lq_archive_pack_desc {
    const lq_tables *tables;
    lq_geometry geometry;
    uint32_t group;
    uint64_t sequence;
    uint64_t first_token;
    uint32_t sinks;
    int page;
    int quantizer;
    int bits;
    float step;
    const lq_profile *profile;
    uint32_t profile_id;
    int refit;
    int calibrate;
    const lq_vectors *queries;
    const uint32_t *reads;
    size_t query_heads;
} lq_archive_pack_desc;

/* Workspace of lq_archive_pack; 0 if the descriptor is not valid. */
LQ_API size_t lq_archive_pack_workspace_bytes(const lq_archive_pack_desc *desc);

/* Packs tokens as runs of pages. Errors of fitting, coding and writing come through: LQ_E_DATA for
   NaN or infinity, LQ_E_RANGE, LQ_E_SPACE (workspace, directory or memory full), LQ_E_IO.
   After an error no part of the tokens is in the directory, except whole runs before it. */
LQ_API LQ_MUST int lq_archive_pack(lq_archive_writer *writer, const lq_archive_pack_desc *desc,
                                   const lq_vectors *src, const lq_positions *positions,
                                   size_t tokens, void *workspace, size_t workspace_bytes);

/* How lq_archive_unpack reads.
     tables         from lq_tables_init
     profile        file form of an external profile without a dense basis, profile_bytes long: used
                    where a run names its hash; default NULL
     calibrated     a loaded profile with a dense basis: used where a run names its hash, or a refit
                    of it; default NULL */
typedef struct lq_archive_unpack_desc {
    const lq_tables *tables;
    uint32_t group;
    uint64_t sequence;
    const uint8_t *profile;
    size_t profile_bytes;
    const lq_profile *calibrated;
} lq_archive_unpack_desc;

/* Workspace for any range of a group; 0 if there is no such group. */
LQ_API size_t lq_archive_unpack_workspace_bytes(const lq_archive_reader *reader, uint32_t group);

/* Reads tokens first .. first + tokens of a group: only the pages that hold them are touched.
     dst  as lq_vectors_out, token 0 of it is `first`
   LQ_E_RANGE: a token is not there; LQ_E_FORMAT: a profile is missing or does not fit; LQ_E_DATA,
   LQ_E_SPACE, LQ_E_IO. On error dst holds anything. Safe for untrusted input. */
LQ_API LQ_MUST int lq_archive_unpack(const lq_archive_reader *reader,
                                     const lq_archive_unpack_desc *desc, const lq_vectors_out *dst,
                                     uint64_t first, size_t tokens, void *workspace,
                                     size_t workspace_bytes);

#endif /* LATTICEQUANT_H: end of the declarations */

/* ================================================================================================
   >>base   implementation guard, compiler glue, loads and stores, sizes, integer mathematics,
   hashes
   ============================================================================================== */
#if defined(LATTICEQUANT_IMPLEMENTATION) && !defined(LATTICEQUANT_IMPLEMENTED)
#define LATTICEQUANT_IMPLEMENTED

#include <string.h> /* memcpy, memmove, memset and nothing else */

#ifndef LQ_ASSERT
#define LQ_ASSERT(condition) ((void)0)
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LQ__INLINE static inline __attribute__((always_inline, unused))
#define LQ__STATIC static __attribute__((unused))
#else
#define LQ__INLINE static inline
#define LQ__STATIC static
#endif

/* SIMD variants carry their own target attribute, so nobody passes -mavx2. Never the fma target:
   a contracted multiply-add would change stored results. */
#if !defined(LQ_NO_SIMD) && !defined(__CUDACC__) && (defined(__x86_64__) || defined(__i386__)) && \
    (defined(__GNUC__) || defined(__clang__))
#define LQ__X86 1
#if defined(__cplusplus) && !defined(__clang__)
/* g++ 12 warns of its own AVX-512 header (GCC bug 105593); popped in >>end */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#define LQ__TARGET_AVX2 __attribute__((target("avx2,f16c,popcnt,bmi,bmi2")))
#define LQ__TARGET_AVX512                                                                 \
    __attribute__((target("avx2,f16c,popcnt,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl," \
                          "avx512vbmi,avx512vbmi2,avx512vnni")))
#else
#define LQ__X86 0
#endif

#define LQ__MIN(a, b) ((a) < (b) ? (a) : (b))
#define LQ__MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- loads and stores: little-endian, any alignment, assembled from bytes ---- */
LQ__INLINE uint16_t lq__load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | (uint32_t)p[1] << 8);
}

LQ__INLINE uint32_t lq__load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

LQ__INLINE uint64_t lq__load64(const uint8_t *p)
{
    return lq__load32(p) | (uint64_t)lq__load32(p + 4) << 32;
}

LQ__INLINE void lq__store16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

LQ__INLINE void lq__store32(uint8_t *p, uint32_t v)
{
    lq__store16(p, v);
    lq__store16(p + 2, v >> 16);
}

LQ__INLINE void lq__store64(uint8_t *p, uint64_t v)
{
    lq__store32(p, (uint32_t)v);
    lq__store32(p + 4, (uint32_t)(v >> 32));
}

LQ__INLINE uint32_t lq__bits_of_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

LQ__INLINE float lq__f32_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* ---- sizes: every product or sum that could pass SIZE_MAX goes through these; 0 means overflow
---- */
LQ__INLINE int lq__mul_ok(size_t *r, size_t a, size_t b)
{
    *r = a * b;
    return a == 0 || *r / a == b;
}

LQ__INLINE int lq__add_ok(size_t *r, size_t a, size_t b)
{
    *r = a + b;
    return *r >= a;
}

/* Up to a multiple of 64: parts of a workspace lie so. */
LQ__INLINE size_t lq__align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* ---- integer mathematics: the same result on every CPU, compiler and flag set ---- */
LQ__INLINE uint32_t lq__log2_floor(uint64_t x) /* x > 0 */
{
#if LQ__X86 || ((defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__))
    return 63 - (uint32_t)__builtin_clzll(x); /* elsewhere it might be a call into libgcc */
#else
    uint32_t n = 0;
    uint32_t shift;
    for (shift = 32; shift; shift >>= 1) {
        if (x >> shift) {
            x >>= shift;
            n += shift;
        }
    }
    return n;
#endif
}

/* log2(x) * 2^16, x > 0, error below 2^-16: sixteen squarings of the mantissa. */
LQ__STATIC int32_t lq__log2_q16(uint64_t x)
{
    uint32_t n = lq__log2_floor(x);
    uint64_t m = n > 31 ? x >> (n - 31) : x << (31 - n); /* [2^31, 2^32) */
    int32_t r = (int32_t)n;
    int i;
    for (i = 0; i < 16; i++) {
        m = m * m >> 31; /* [2^31, 2^33) */
        r = r * 2;
        if (m >> 32) {
            m >>= 1;
            r++;
        }
    }
    return r;
}

/* 2^(x / 2^16) * 2^30 for 0 <= x < 2^16: the product of 2^(2^-k) over the bits of x. */
LQ__STATIC uint32_t lq__exp2_q30(uint32_t x)
{
    static const uint32_t root[16] = {/* round(2^(2^-(k+1)) * 2^30), k = 0 .. 15 */
                                      1518500250u, 1276901417u, 1170923762u, 1121280436u,
                                      1097253708u, 1085434106u, 1079572136u, 1076653033u,
                                      1075196443u, 1074468888u, 1074105294u, 1073923544u,
                                      1073832680u, 1073787251u, 1073764537u, 1073753181u};
    uint64_t m = (uint64_t)1 << 30;
    uint32_t k;
    for (k = 0; k < 16; k++) {
        if (x >> (15 - k) & 1) {
            m = (m * root[k] + ((uint64_t)1 << 29)) >> 30;
        }
    }
    return (uint32_t)m;
}

/* sin and cos of 2 pi * phase / 2^32, as integers times 2^30; error below 2^-27. The phase is
   reduced to an eighth turn and both series run in Q30. */
LQ__STATIC void lq__sincos_q30(uint32_t phase, int32_t *sine, int32_t *cosine)
{
    uint32_t quadrant = (phase + 0x20000000u) >> 30;
    int64_t r = (int32_t)(phase - (quadrant << 30));
    int64_t a = (r * 1686629713 + ((int64_t)1 << 29)) >> 30; /* radians: times pi / 2 */
    int64_t z = (a * a + ((int64_t)1 << 29)) >> 30;
    int64_t s = 2959;                /* 2^30 / 9! */
    int64_t c = -296;                /* -2^30 / 10! */
    s = ((s * z) >> 30) - 213044;    /* 7! */
    s = ((s * z) >> 30) + 8947849;   /* 5! */
    s = ((s * z) >> 30) - 178956971; /* 3! */
    s = a + ((((s * z) >> 30) * a) >> 30);
    c = ((c * z) >> 30) + 26631;     /* 8! */
    c = ((c * z) >> 30) - 1491308;   /* 6! */
    c = ((c * z) >> 30) + 44739243;  /* 4! */
    c = ((c * z) >> 30) - 536870912; /* 2! */
    c = ((int64_t)1 << 30) + ((c * z) >> 30);
    *sine = (int32_t)(quadrant & 1 ? c : s);
    *cosine = (int32_t)(quadrant & 1 ? s : c);
    if (quadrant & 2) {
        *sine = -*sine;
    }
    if ((quadrant + 1) & 2) {
        *cosine = -*cosine;
    }
}

/* Signed right shifts must be arithmetic; every compiler in use does so, and this line says it. */
typedef char lq__arithmetic_shift[(-1 >> 1) == -1 ? 1 : -1];

LQ_API int lq_version(void)
{
    return LQ_VERSION;
}

LQ_API const char *lq_status_string(int status)
{
#define LQ__STATUS_CASE(name, value, text) \
    if (status == value) {                 \
        return text;                       \
    }
    LQ_STATUS_LIST(LQ__STATUS_CASE)
#undef LQ__STATUS_CASE
    return "unknown status";
}

/* The level of SIMD in force: 0 the C code, 1 AVX2, 2 AVX-512. Defined in >>dispatch. */
static int lq__cpu_level(void);

/* ---- hashes: XXH32 finds accidents, BLAKE2s names profiles; both from their specification ---- */
LQ__INLINE uint32_t lq__rotl32(uint32_t x, uint32_t n) /* 0 < n < 32 */
{
    return x << n | x >> (32 - n);
}

/* One lane's step: a multiply, a rotation, a multiply. */
LQ__INLINE uint32_t lq__xxh32_round(uint32_t lane, uint32_t word)
{
    return lq__rotl32(lane + word * 0x85ebca77u, 13) * 0x9e3779b1u;
}

/* XXH32. Source: xxHash fast digest algorithm, format specification 0.2.0 (Y. Collet), "XXH32
   algorithm description", steps 1 to 7; the constants are its primes 1 to 5. */
LQ__STATIC uint32_t lq__xxh32(const uint8_t *src, size_t count, uint32_t seed)
{
    const uint32_t p1 = 0x9e3779b1u, p2 = 0x85ebca77u, p3 = 0xc2b2ae3du;
    const uint32_t p4 = 0x27d4eb2fu, p5 = 0x165667b1u;
    uint32_t h = seed + p5;
    size_t left = count;
    if (count >= 16) {
        uint32_t a = seed + p1 + p2, b = seed + p2, c = seed, d = seed - p1;
        for (; left >= 16; left -= 16, src += 16) {
            a = lq__xxh32_round(a, lq__load32(src));
            b = lq__xxh32_round(b, lq__load32(src + 4));
            c = lq__xxh32_round(c, lq__load32(src + 8));
            d = lq__xxh32_round(d, lq__load32(src + 12));
        }
        h = lq__rotl32(a, 1) + lq__rotl32(b, 7) + lq__rotl32(c, 12) + lq__rotl32(d, 18);
    }
    h += (uint32_t)count; /* the specification takes the length modulo 2^32 */
    for (; left >= 4; left -= 4, src += 4) {
        h = lq__rotl32(h + lq__load32(src) * p3, 17) * p4;
    }
    for (; left; left--, src++) {
        h = lq__rotl32(h + *src * p5, 11) * p1;
    }
    h = (h ^ h >> 15) * p2;
    h = (h ^ h >> 13) * p3;
    return h ^ h >> 16;
}

LQ_API uint32_t lq_xxh32(const void *src, size_t count, uint32_t seed)
{
    return lq__xxh32((const uint8_t *)src, count, seed);
}

/* The square roots of the first primes (RFC 7693, section 2.6): also SHA-256's. */
static const uint32_t lq__blake2s_iv[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                           0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

/* G of RFC 7693, section 3.1: rotations right by 16, 12, 8 and 7. */
LQ__INLINE void lq__blake2s_mix(uint32_t *v, size_t a, size_t b, size_t c, size_t d, uint32_t x,
                                uint32_t y)
{
    v[a] += v[b] + x;
    v[d] = lq__rotl32(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = lq__rotl32(v[b] ^ v[c], 20);
    v[a] += v[b] + y;
    v[d] = lq__rotl32(v[d] ^ v[a], 24);
    v[c] += v[d];
    v[b] = lq__rotl32(v[b] ^ v[c], 25);
}

/* F of RFC 7693, section 3.2: `total` bytes so far, `last` all ones on the last block. */
LQ__STATIC void lq__blake2s_block(uint32_t *h, const uint8_t *block, uint64_t total, uint32_t last)
{
    static const uint8_t sigma[10][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                          {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                          {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                          {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                          {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                          {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                          {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                          {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                          {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                          {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};
    uint32_t v[16];
    uint32_t m[16];
    size_t i, k;
    for (i = 0; i < 8; i++) {
        v[i] = h[i];
        v[i + 8] = lq__blake2s_iv[i];
    }
    v[12] ^= (uint32_t)total;
    v[13] ^= (uint32_t)(total >> 32);
    v[14] ^= last;
    for (i = 0; i < 16; i++) {
        m[i] = lq__load32(block + 4 * i);
    }
    for (i = 0; i < 10; i++) {
        const uint8_t *s = sigma[i];
        for (k = 0; k < 4; k++) { /* the columns, then the diagonals */
            lq__blake2s_mix(v, k, k + 4, k + 8, k + 12, m[s[2 * k]], m[s[2 * k + 1]]);
        }
        for (k = 0; k < 4; k++) {
            lq__blake2s_mix(v, k, 4 + (k + 1) % 4, 8 + (k + 2) % 4, 12 + (k + 3) % 4,
                            m[s[8 + 2 * k]], m[s[9 + 2 * k]]);
        }
    }
    for (i = 0; i < 8; i++) {
        h[i] ^= v[i] ^ v[i + 8];
    }
}

LQ_API void lq_blake2s_128(uint8_t digest[16], const void *src, size_t count)
{
    const uint8_t *p = (const uint8_t *)src;
    uint8_t block[64];
    uint32_t h[8];
    uint64_t total = 0;
    size_t i;
    memcpy(h, lq__blake2s_iv, sizeof h);
    h[0] ^= 0x01010000u ^ 16u; /* parameter block: fanout 1, depth 1, no key, 16 bytes of digest */
    for (; count > 64; count -= 64, p += 64) {
        total += 64;
        lq__blake2s_block(h, p, total, 0);
    }
    memset(block, 0, sizeof block); /* the last block, full or not, is never hashed in the loop */
    if (count) {
        memcpy(block, p, count);
    }
    lq__blake2s_block(h, block, total + count, 0xffffffffu);
    for (i = 0; i < 4; i++) {
        lq__store32(digest + 4 * i, h[i]);
    }
}
/* ================================================================================================
   >>transform   half floats, Hadamard, RoPE, centring; and the fixed-point front of the page codec

   Everything whose result is stored runs in integers. A vector enters as X = round(x / 2^E) with
   2^E at most step / 256; RoPE is undone with 30-bit sines; then X becomes a coefficient in units
   of step / 4096 ("q12"). Rows are coefficients, columns tokens: 64 columns always.
   ============================================================================================== */
#define LQ__TOKENS 64u        /* columns of a page */
#define LQ__HADAMARD_MAX 512u /* largest Hadamard block: lq__limit_bits tells why */

/* ---- rows: what the page codec and the fit run on, one kernel table per CPU level ---- */
typedef struct lq__row_kernels {
    uint32_t (*fixed_row)(int32_t *, const uint8_t *, int, size_t, int32_t);
    void (*scale_row)(int32_t *, const uint32_t *, int);
    void (*sincos_row)(int32_t *, int32_t *, const uint32_t *);
    void (*rope_rows)(int32_t *, int32_t *, const int32_t *, const int32_t *);
    void (*butterfly_rows)(int32_t *, size_t);
    int32_t (*z_row)(int16_t *, const int32_t *, int32_t, int32_t);
    int32_t (*d4_rows)(int16_t *, const int32_t *, const int32_t *);
    int32_t (*e8_rows)(int16_t *, const int32_t *, const int32_t *, int);
    void (*centroid_row)(int32_t *, const int16_t *, const int32_t *, int32_t);
    void (*float_row)(float *, const int32_t *, const float *);
    void (*rope_floats)(float *, float *, const float *, const float *);
    void (*store_row)(uint8_t *, const float *, size_t, int);
    void (*butterfly)(float *, size_t);
    void (*product)(int32_t *, const int16_t *, size_t, size_t, const int16_t *, size_t);
    void (*energy_rows)(uint64_t *, const int32_t *, size_t, int);
    void (*pair_rows)(int16_t *, const int32_t *, size_t, const uint8_t *);
    void (*shift_rows)(int32_t *, size_t, const uint8_t *, const int8_t *);
    void (*center_floats)(float *, const int32_t *, const float *, const float *, float, float);
    void (*turn_rows)(float *, const float *, size_t);
} lq__row_kernels;

static const lq__row_kernels *lq__rows_of_level(void);

/* ---- half floats ---- */
/* Bits of the float32 that a half float stands for: exact. */
LQ__INLINE uint32_t lq__bits_of_f16(uint32_t h)
{
    uint32_t sign = (h & 0x8000u) << 16;
    uint32_t e = h >> 10 & 31u;
    uint32_t m = h & 0x3ffu;
    if (e == 31) {
        return sign | 0x7f800000u | m << 13;
    }
    if (e == 0) {
        if (m == 0) {
            return sign;
        }
        e = lq__log2_floor(m);
        return sign | (e + 103) << 23 | (m << (23 - e) & 0x7fffffu);
    }
    return sign | (e + 112) << 23 | m << 13;
}

LQ__INLINE uint32_t lq__f16_of_bits(uint32_t u)
{
    uint32_t sign = u >> 16 & 0x8000u;
    uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u) {
        return sign | 0x7e00u | (a >> 13 & 0x3ffu);
    }
    if (a >= 0x47800000u) {
        return sign | 0x7c00u;
    }
    if (a < 0x38800000u) { /* below 2^-14: a subnormal or zero */
        uint32_t shift = 126u - (a >> 23);
        uint32_t m = (a & 0x7fffffu) | 0x800000u;
        uint32_t q;
        uint32_t rest;
        if (shift > 25) {
            return sign;
        }
        q = m >> shift;
        rest = m & ((1u << shift) - 1);
        q += rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && (q & 1u));
        return sign | q;
    }
    a -= 0x38000000u;
    return sign | (a + 0xfffu + (a >> 13 & 1u)) >> 13;
}

LQ__INLINE uint32_t lq__bf16_of_bits(uint32_t u)
{
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return u >> 16 | 0x40u;
    }
    return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

LQ_API uint16_t lq_f16_from_f32(float f)
{
    return (uint16_t)lq__f16_of_bits(lq__bits_of_f32(f));
}

LQ_API float lq_f32_from_f16(uint16_t h)
{
    return lq__f32_of_bits(lq__bits_of_f16(h));
}

LQ_API uint16_t lq_bf16_from_f32(float f)
{
    return (uint16_t)lq__bf16_of_bits(lq__bits_of_f32(f));
}

LQ_API float lq_f32_from_bf16(uint16_t h)
{
    return lq__f32_of_bits((uint32_t)h << 16);
}

LQ_API size_t lq_type_bytes(int type)
{
    return type == LQ_F32 ? 4 : type == LQ_F16 || type == LQ_BF16 ? 2 : 0;
}

/* Element i of an array of `type` in memory order of this machine, as float32 bits. */
LQ__INLINE uint32_t lq__element_bits(const uint8_t *src, size_t i, int type)
{
    uint32_t u;
    uint16_t h;
    if (type == LQ_F32) {
        memcpy(&u, src + 4 * i, 4);
        return u;
    }
    memcpy(&h, src + 2 * i, 2);
    return type == LQ_F16 ? lq__bits_of_f16(h) : (uint32_t)h << 16;
}

LQ__INLINE void lq__element_store(uint8_t *dst, size_t i, int type, float value)
{
    uint32_t u = lq__bits_of_f32(value);
    uint16_t h;
    if (type == LQ_F32) {
        memcpy(dst + 4 * i, &u, 4);
        return;
    }
    h = (uint16_t)(type == LQ_F16 ? lq__f16_of_bits(u) : lq__bf16_of_bits(u));
    memcpy(dst + 2 * i, &h, 2);
}

LQ_API int lq_f32_from_type(float *dst, const void *src, size_t count, int type)
{
    size_t i;
    if (lq_type_bytes(type) == 0 || (count && (!dst || !src))) {
        return LQ_E_ARG;
    }
    for (i = 0; i < count; i++) {
        dst[i] = lq__f32_of_bits(lq__element_bits((const uint8_t *)src, i, type));
    }
    return LQ_OK;
}

LQ_API int lq_type_from_f32(void *dst, const float *src, size_t count, int type)
{
    size_t i;
    if (lq_type_bytes(type) == 0 || (count && (!dst || !src))) {
        return LQ_E_ARG;
    }
    for (i = 0; i < count; i++) {
        lq__element_store((uint8_t *)dst, i, type, src[i]);
    }
    return LQ_OK;
}

/* ---- Hadamard ---- */
/* Fixed sign of dimension i: the top bit of MurmurHash3's 32-bit finaliser of i + 1. */
LQ__INLINE uint32_t lq__sign_bit(uint32_t i)
{
    uint32_t h = i + 1;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return (h ^ h >> 16) >> 31;
}

LQ__INLINE size_t lq__hadamard_block(size_t dims)
{
    size_t block = dims & (0 - dims);
    return LQ__MIN(block, LQ__HADAMARD_MAX);
}

/* 1 / sqrt(block), block a power of two: exact for powers of four. */
LQ__INLINE float lq__hadamard_scale(size_t block)
{
    uint32_t n = lq__log2_floor(block);
    float scale = n & 1 ? 0.70710678118654752f : 1.0f;
    return scale / (float)((uint32_t)1 << (n / 2));
}

static void lq__butterfly_c(float *x, size_t block)
{
    size_t h;
    size_t i;
    size_t j;
    for (h = 1; h < block; h *= 2) {
        for (i = 0; i < block; i += 2 * h) {
            for (j = i; j < i + h; j++) {
                float a = x[j];
                float b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
        }
    }
}

LQ__INLINE void lq__flip_signs(float *x, size_t dims, float scale)
{
    size_t i;
    for (i = 0; i < dims; i++) {
        x[i] = lq__sign_bit((uint32_t)i) ? -x[i] * scale : x[i] * scale;
    }
}

LQ_API int lq_rotate_f32(float *x, size_t count, size_t dims)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t block;
    size_t i;
    size_t d;
    if (!x || dims == 0 || dims > 65536) {
        return LQ_E_ARG;
    }
    block = lq__hadamard_block(dims);
    for (i = 0; i < count; i++, x += dims) {
        lq__flip_signs(x, dims, lq__hadamard_scale(block));
        for (d = 0; d < dims; d += block) {
            kernels->butterfly(x + d, block);
        }
    }
    return LQ_OK;
}

LQ_API int lq_unrotate_f32(float *x, size_t count, size_t dims)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t block;
    size_t i;
    size_t d;
    if (!x || dims == 0 || dims > 65536) {
        return LQ_E_ARG;
    }
    block = lq__hadamard_block(dims);
    for (i = 0; i < count; i++, x += dims) {
        for (d = 0; d < dims; d += block) {
            kernels->butterfly(x + d, block);
        }
        lq__flip_signs(x, dims, lq__hadamard_scale(block));
    }
    return LQ_OK;
}

/* ---- RoPE ---- */
LQ__STATIC int lq__rope_valid(const lq_rope *rope)
{
    uint32_t i;
    uint32_t magnitude = lq__bits_of_f32(rope->magnitude);
    if (!rope->freqs || rope->rotary_dims == 0 || rope->rotary_dims & 1 ||
        rope->rotary_dims > 65536 || rope->layout > LQ_ROPE_ADJACENT) {
        return 0;
    }
    if (magnitude != 0 && (magnitude <= 0x3f000000u || magnitude > 0x41800000u)) {
        return 0; /* above 1/2 (so that its inverse fits the fixed point), at most 16 */
    }
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        if (lq__bits_of_f32(rope->freqs[i]) >= 0x43800000u) {
            return 0; /* negative, NaN, infinite or >= 256 */
        }
    }
    return 1;
}

/* Turns per position, times 2^64: the float32 frequency over 2 pi, truncated. */
LQ__STATIC uint64_t lq__phase_step(float freq)
{
    uint32_t u = lq__bits_of_f32(freq);
    uint32_t e = u >> 23;
    uint64_t m = e ? (u & 0x7fffffu) | 0x800000u : u & 0x7fffffu;
    uint32_t shift = 150 - (e ? e : 1); /* freq = m / 2^shift; e <= 134, so shift >= 16 */
    uint64_t low = m * 0x9391054au;     /* 2^64 / (2 pi) = 0x28be60db'9391054a.. */
    uint64_t high = m * 0x28be60dbu + (low >> 32);
    low &= 0xffffffffu;
    if (shift <= 32) {
        return high << (32 - shift) | low >> shift;
    }
    return shift - 32 > 63 ? 0 : high >> (shift - 32);
}

LQ__INLINE int64_t lq__position(const lq_positions *p, size_t i)
{
    uint64_t stride = p->stride ? (uint64_t)p->stride : 1;
    return p->list ? p->list[i] : (int64_t)((uint64_t)p->first + stride * (uint64_t)i);
}

/* The positions from token `first` on. */
LQ__INLINE lq_positions lq__positions_from(const lq_positions *p, size_t first)
{
    lq_positions at = *p;
    if (at.list) {
        at.list += first;
    } else {
        at.first = lq__position(p, first);
    }
    return at;
}

LQ__INLINE void lq__rope_pair(const lq_rope *rope, size_t i, size_t *a, size_t *b)
{
    *a = rope->layout == LQ_ROPE_ADJACENT ? 2 * i : i;
    *b = rope->layout == LQ_ROPE_ADJACENT ? 2 * i + 1 : i + rope->rotary_dims / 2;
}

LQ__INLINE float lq__rope_magnitude(const lq_rope *rope)
{
    return lq__bits_of_f32(rope->magnitude) ? rope->magnitude : 1.0f;
}

LQ__STATIC int lq__rope_f32(float *x, size_t tokens, size_t dims, size_t stride,
                            const lq_rope *rope, const lq_positions *positions, int undo)
{
    size_t i;
    size_t t;
    float scale;
    if (!x || !rope || !positions || !lq__rope_valid(rope) || rope->rotary_dims > dims) {
        return LQ_E_ARG;
    }
    scale = lq__rope_magnitude(rope);
    scale = (undo ? 1.0f / scale : scale) / 1073741824.0f;
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        uint64_t step = lq__phase_step(rope->freqs[i]);
        size_t a;
        size_t b;
        lq__rope_pair(rope, i, &a, &b);
        for (t = 0; t < tokens; t++) {
            float *v = x + t * stride;
            float u = v[a];
            float w = v[b];
            int32_t sine;
            int32_t cosine;
            float s;
            float c;
            lq__sincos_q30((uint32_t)((uint64_t)lq__position(positions, t) * step >> 32), &sine,
                           &cosine);
            s = (float)(undo ? -sine : sine) * scale;
            c = (float)cosine * scale;
            v[a] = u * c - w * s;
            v[b] = w * c + u * s;
        }
    }
    return LQ_OK;
}

LQ_API int lq_rope_apply_f32(float *x, size_t tokens, size_t dims, size_t stride,
                             const lq_rope *rope, const lq_positions *positions)
{
    return lq__rope_f32(x, tokens, dims, stride, rope, positions, 0);
}

LQ_API int lq_rope_undo_f32(float *x, size_t tokens, size_t dims, size_t stride,
                            const lq_rope *rope, const lq_positions *positions)
{
    return lq__rope_f32(x, tokens, dims, stride, rope, positions, 1);
}

/* ---- centring ---- */
LQ_API int lq_mean_f32(float *mean, const float *x, size_t tokens, size_t dims)
{
    size_t t;
    size_t d;
    if (!mean || !x || tokens == 0 || dims == 0) {
        return LQ_E_ARG;
    }
    for (d = 0; d < dims; d++) {
        mean[d] = 0;
    }
    for (t = 0; t < tokens; t++) {
        for (d = 0; d < dims; d++) {
            mean[d] += x[t * dims + d];
        }
    }
    for (d = 0; d < dims; d++) {
        mean[d] /= (float)tokens;
    }
    return LQ_OK;
}

LQ_API int lq_uncenter_f32(float *x, size_t tokens, size_t dims, const float *mean)
{
    size_t t;
    size_t d;
    if (!mean || !x || tokens == 0 || dims == 0) {
        return LQ_E_ARG;
    }
    for (t = 0; t < tokens; t++) {
        for (d = 0; d < dims; d++) {
            x[t * dims + d] += mean[d];
        }
    }
    return LQ_OK;
}

LQ_API int lq_center_f32(float *x, size_t tokens, size_t dims, float *mean)
{
    size_t t;
    size_t d;
    int status = lq_mean_f32(mean, x, tokens, dims);
    if (status) {
        return status;
    }
    for (t = 0; t < tokens; t++) {
        for (d = 0; d < dims; d++) {
            x[t * dims + d] -= mean[d];
        }
    }
    return LQ_OK;
}

/* ---- fixed point ---- */
/* x / step as q12: X = round(x / 2^exponent), then (X * factor + 2^25) >> 26. */
typedef struct lq__scale {
    int32_t exponent;
    uint32_t factor;
} lq__scale;

/* The step as m * 2^e with 24-bit m. Steps lie in [2^-100, 2^100] (checked by lq__step_valid). */
LQ__INLINE int lq__step_valid(float step)
{
    uint32_t u = lq__bits_of_f32(step);
    return u >= 0x0d800000u && u <= 0x71800000u;
}

/* Scale for step * 2^(octaves_q2 / 4). The unit 2^exponent is at most step / 256, above step / 512;
   y = X * 2^exponent * 4096 / step = X * 2^27 / m, so factor = 2^53 / m is in (2^29, 2^30]. */
LQ__STATIC lq__scale lq__scale_of(float step, int32_t octaves_q2)
{
    static const uint32_t quarter[4] = {1073741824u, 1276901417u, 1518500250u, 1805811302u}; /* q30
    */
    uint32_t u = lq__bits_of_f32(step);
    int32_t e = (int32_t)(u >> 23) - 150 + (octaves_q2 >> 2);
    uint64_t m = (u & 0x7fffffu) | 0x800000u;
    lq__scale scale;
    m = (m * quarter[octaves_q2 & 3] + ((uint64_t)1 << 29)) >> 30;
    if (m >> 24) {
        m = (m + 1) >> 1;
        e++;
    }
    scale.exponent = e + 15;
    scale.factor = (uint32_t)((((uint64_t)1 << 53) + m / 2) / m);
    return scale;
}

/* Bits of the first |x| that a scale does not take: 2^20 units, at least 2048 steps. RoPE with a
   magnitude above 1/2 multiplies by less than 2 * sqrt(2), a Hadamard block by at most 512:
   2^30.5. */
LQ__INLINE uint32_t lq__limit_bits(int32_t exponent)
{
    int32_t e = exponent + 20 + 127;
    return e <= 0 ? 0 : e >= 255 ? 0x7f800000u : (uint32_t)e << 23;
}

/* round(x / 2^exponent), ties to even, for float32 bits below the limit. */
LQ__INLINE int32_t lq__fixed_of_bits(uint32_t u, int32_t exponent)
{
    int32_t e = (int32_t)(u >> 23 & 255u);
    uint32_t m = e ? (u & 0x7fffffu) | 0x800000u : u & 0x7fffffu;
    int32_t shift = exponent + 150 - (e ? e : 1);
    uint32_t q;
    if (shift > 25) {
        return 0;
    }
    if (shift <= 0) { /* below the limit this never passes 2^20 */
        q = shift < -8 ? 0 : m << -shift;
    } else {
        uint32_t rest = m & ((1u << shift) - 1);
        uint32_t half = 1u << (shift - 1);
        q = m >> shift;
        q += rest > half || (rest == half && (q & 1u));
    }
    return u >> 31 ? -(int32_t)q : (int32_t)q;
}

/* Fixed-point values of `count` elements; returns the largest |bits|, which the caller compares
   with lq__limit_bits: values at or above it are meaningless. */
static uint32_t lq__fixed_row_c(int32_t *dst, const uint8_t *src, int type, size_t count,
                                int32_t exponent)
{
    uint32_t most = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        uint32_t u = lq__element_bits(src, i, type);
        most = LQ__MAX(most, u & 0x7fffffffu);
        dst[i] = lq__fixed_of_bits(u, exponent);
    }
    return most;
}

static void lq__scale_row_c(int32_t *row, const uint32_t *factor, int shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        row[t] = (int32_t)((row[t] * (int64_t)factor[t] + half) >> shift);
    }
}

/* sin and cos of 64 phases. */
static void lq__sincos_row_c(int32_t *sine, int32_t *cosine, const uint32_t *phase)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        lq__sincos_q30(phase[t], &sine[t], &cosine[t]);
    }
}

/* Undoes RoPE on a pair of rows: cosine and sine (64) in Q30, the magnitude divided out. */
static void lq__rope_rows_c(int32_t *a, int32_t *b, const int32_t *cosine, const int32_t *sine)
{
    const int64_t half = (int64_t)1 << 29;
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        int64_t u = a[t];
        int64_t w = b[t];
        a[t] = (int32_t)((u * cosine[t] + w * sine[t] + half) >> 30);
        b[t] = (int32_t)((w * cosine[t] - u * sine[t] + half) >> 30);
    }
}

/* Butterflies over the rows of one block, all 64 columns; sums grow by the factor `block`. */
static void lq__butterfly_rows_c(int32_t *rows, size_t block)
{
    size_t h;
    size_t i;
    size_t j;
    size_t t;
    for (h = 1; h < block; h *= 2) {
        for (i = 0; i < block; i += 2 * h) {
            for (j = i; j < i + h; j++) {
                int32_t *a = rows + j * LQ__TOKENS;
                int32_t *b = rows + (j + h) * LQ__TOKENS;
                for (t = 0; t < LQ__TOKENS; t++) {
                    int32_t u = a[t];
                    int32_t w = b[t];
                    a[t] = u + w;
                    b[t] = u - w;
                }
            }
        }
    }
}

/* row * 1 / sqrt(block), rounded; flips signs where asked. */
static void lq__hadamard_scale_row_c(int32_t *row, size_t block, uint32_t flip)
{
    uint32_t n = lq__log2_floor(block);
    int64_t factor = n & 1 ? 759250125 : 1073741824; /* 2^30 or 2^30 / sqrt(2) */
    uint32_t shift = 30 + n / 2;
    size_t t;
    factor = flip ? -factor : factor;
    for (t = 0; t < LQ__TOKENS; t++) {
        row[t] = (int32_t)((row[t] * factor + ((int64_t)1 << (shift - 1))) >> shift);
    }
}

/* Coefficients to floats, RoPE on them, and the way into the caller's memory: floats from here on.
*/
static void lq__float_row_c(float *dst, const int32_t *row, const float *unit)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        dst[t] = (float)row[t] * unit[t];
    }
}

static void lq__rope_floats_c(float *a, float *b, const float *cosine, const float *sine)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        float u = a[t];
        float w = b[t];
        a[t] = u * cosine[t] - w * sine[t];
        b[t] = w * cosine[t] + u * sine[t];
    }
}

/* dst (8, 32): the first 8 columns of count <= 32 rows of 64, turned. */
static void lq__turn_rows_c(float *dst, const float *rows, size_t count)
{
    size_t i;
    size_t k;
    for (i = 0; i < count; i++) { /* a cache line of each row at a time */
        for (k = 0; k < 8; k++) {
            dst[k * 32 + i] = rows[i * LQ__TOKENS + k];
        }
    }
}

static void lq__store_row_c(uint8_t *dst, const float *src, size_t count, int type)
{
    size_t i;
    for (i = 0; i < count; i++) {
        lq__element_store(dst, i, type, src[i]);
    }
}

#define LQ__SHIFTED_MAX (1 << 27) /* lq__shift_rows clamps to it */

/* ---- integer products of a page: the C code ---- */
/* dst = matrix times x. dst (rows, 64); matrix (rows, stride) of which columns count; pairs
   (ceil(columns / 2), 64, 2): pair p, token t has rows 2p and 2p + 1 of x. Odd columns: one zero
   more in the matrix row and in x. Any alignment; rows and columns in 1 .. 8192.
   No sum overflows: a matrix row m has |m| <= 2^15, a column x has |x| < 2^16, and over any set S
   of indices |sum of m_i x_i| <= |m_S| |x_S| <= |m| |x| < 2^31 (Cauchy-Schwarz). Every partial sum
   of every order of summation is such a sum, a pair's sum too: any order gives the same bits.
   Beyond the bound all variants still agree: they wrap modulo 2^32. */
LQ__STATIC void lq__product_c(int32_t *dst, const int16_t *matrix, size_t stride, size_t rows,
                              const int16_t *pairs, size_t columns)
{
    uint32_t sum[LQ__TOKENS];
    size_t r;
    size_t i;
    size_t t;
    for (r = 0; r < rows; r++) {
        const int16_t *m = matrix + r * stride;
        memset(sum, 0, sizeof sum);
        for (i = 0; i < columns; i += 2) {
            const int16_t *x = pairs + i * LQ__TOKENS;
            int32_t m0 = m[i];
            int32_t m1 = m[i + 1];
            for (t = 0; t < LQ__TOKENS; t++) {
                sum[t] += (uint32_t)(m0 * x[2 * t]) + (uint32_t)(m1 * x[2 * t + 1]);
            }
        }
        memcpy(dst + r * LQ__TOKENS, sum, sizeof sum);
    }
}

/* energy[t] += sum of (row[t] >> shift)^2 over count rows. energy (64); rows (count, 64).
   |row >> shift| < 2^24 and count <= 8192: the sum is below 2^61. */
LQ__STATIC void lq__energy_rows_c(uint64_t *energy, const int32_t *rows, size_t count, int shift)
{
    size_t r;
    size_t t;
    for (r = 0; r < count; r++) {
        for (t = 0; t < LQ__TOKENS; t++) {
            int64_t v = rows[r * LQ__TOKENS + t] >> shift;
            energy[t] += (uint64_t)(v * v);
        }
    }
}

/* (v + 2^(shift-1)) >> shift, half up; v itself for shift 0. The bit below the cut is what the half
   would carry, so nothing overflows. */
LQ__INLINE int32_t lq__shift_half_up(int32_t v, uint32_t shift)
{
    return shift ? (v >> shift) + (v >> (shift - 1) & 1) : v;
}

/* Rows of int32 to pairs of int16, as lq__product_c takes them: rounded by shift[t] in 0 .. 30,
   saturated to +-32767. pairs (ceil(count / 2), 64, 2); rows (count, 64); shift (64). The partner
   that an odd count lacks is 0. */
LQ__STATIC void lq__pair_rows_c(int16_t *pairs, const int32_t *rows, size_t count,
                                const uint8_t *shift)
{
    size_t r;
    size_t t;
    for (r = 0; r < count + (count & 1); r++) {
        int16_t *dst = pairs + (r / 2 * LQ__TOKENS) * 2 + (r & 1);
        for (t = 0; t < LQ__TOKENS; t++) {
            int32_t v = r < count ? lq__shift_half_up(rows[r * LQ__TOKENS + t], shift[t]) : 0;
            v = LQ__MIN(v, 32767);
            dst[2 * t] = (int16_t)LQ__MAX(v, -32767);
        }
    }
}

/* rows *= 2^s, s = up[t] + row_exponent[r] in -40 .. 40: rounded half up, clamped to +-2^27. rows
   (count, 64), up (64), row_exponent (count). Beyond +-40 as at +-40: all is 0 or at the clamp. */
LQ__STATIC void lq__shift_rows_c(int32_t *rows, size_t count, const uint8_t *up,
                                 const int8_t *row_exponent)
{
    size_t r;
    size_t t;
    for (r = 0; r < count; r++) {
        for (t = 0; t < LQ__TOKENS; t++) {
            int64_t v = rows[r * LQ__TOKENS + t];
            int32_t s = up[t] + row_exponent[r];
            s = LQ__MIN(s, 31); /* from 28 on every v but 0 is clamped */
            s = LQ__MAX(s, -40);
            v = s < 0 ? (v + ((int64_t)1 << (-s - 1))) >> -s : v * ((int64_t)1 << s);
            v = LQ__MIN(v, LQ__SHIFTED_MAX);
            rows[r * LQ__TOKENS + t] = (int32_t)LQ__MAX(v, -LQ__SHIFTED_MAX);
        }
    }
}

/* Sums of a dense basis to floats: row * unit[t] * scale + center * gain[t]. */
static void lq__center_floats_c(float *dst, const int32_t *row, const float *unit,
                                const float *gain, float scale, float center)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        dst[t] = (float)row[t] * (unit[t] * scale) + center * gain[t];
    }
}

/* ================================================================================================
   >>lattice   Z, D4, E8: theory, exact decoders, entropy-coded and fixed forms

   Every quantizer is a residue, integers and one parity. A coordinate is z + coset / 2 with an
   integer z:
     Z           any z.
     D4          the sum of 4 z is even.                            second moment 0.076603 at
     volume 1 E8          coset 0 or 1 for the whole block, the sum of 8 z is even in both: D8 u
                                                                    (D8 + 1/2). second moment
                                                                    0.071682 at volume 1
     E8 relaxed  as E8, but the half coset has no parity: not a lattice, 1.5 points per unit volume.
   Nearest point (Conway and Sloane 1982): round each coordinate; if the parity is wrong, move the
   coordinate with the largest rounding error to its second-nearest integer. For E8 do so in both
   cosets and keep the nearer. One rounding serves both: with d the rounding error in coset 0, the
   errors in coset 1 are 1/2 - |d|, so relative to the sum of d^2
     coset 0 costs  parity odd ? 1 - 2 max|d| : 0
     coset 1 costs  2 - sum|d| + (parity odd ? 2 min|d| : 0).
   ============================================================================================== */
#define LQ__ONE 4096 /* one step in q12 */

LQ_API size_t lq_lattice_dims(int quantizer)
{
    switch (quantizer) {
    case LQ_Z:
        return 1;
    case LQ_D4:
        return 4;
    case LQ_E8:
    case LQ_E8_RELAXED:
        return 8;
    default:
        return 0;
    }
}

/* Rows of 64 columns: y (q12) minus mean, to integers. All return the largest |z|, for the range
   check. The dead zone widens the zero cell: |y| needs 1/2 + dead_zone to become 1. */
static int32_t lq__z_row_c(int16_t *z, const int32_t *y, int32_t mean, int32_t dead_zone)
{
    int32_t most = 0;
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        int32_t v = y[t] - mean;
        int32_t sign = v >> 31;
        int32_t a = (((v ^ sign) - sign) + LQ__ONE / 2 - dead_zone) >> 12;
        most = LQ__MAX(most, a);
        z[t] = (int16_t)((a ^ sign) - sign);
    }
    return most;
}

/* Integers back to q12: k less the centroid's shift, plus the mean. */
static void lq__centroid_row_c(int32_t *y, const int16_t *z, const int32_t *shift, int32_t mean)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t++) {
        int32_t k = z[t];
        int32_t sign = k >> 31;
        int32_t a = (k ^ sign) - sign;
        int32_t v = a * LQ__ONE - (a == 0 ? 0 : shift[a < 4 ? a - 1 : 3]);
        y[t] = ((v ^ sign) - sign) + mean;
    }
}

static int32_t lq__d4_rows_c(int16_t *z, const int32_t *y, const int32_t *mean)
{
    int32_t most = 0;
    size_t t;
    int i;
    for (t = 0; t < LQ__TOKENS; t++) {
        int32_t r[4];
        int32_t d[4];
        int32_t parity = 0;
        int32_t worst = -1;
        for (i = 0; i < 4; i++) {
            int32_t v = y[i * 64 + (int)t] - mean[i];
            int32_t key;
            r[i] = (v + LQ__ONE / 2) >> 12;
            d[i] = v - r[i] * LQ__ONE;
            key = (d[i] < 0 ? -d[i] : d[i]) * 8 + i;
            worst = LQ__MAX(worst, key);
            parity ^= r[i];
        }
        if (parity & 1) {
            r[worst & 7] += d[worst & 7] < 0 ? -1 : 1;
        }
        for (i = 0; i < 4; i++) {
            z[i * 64 + (int)t] = (int16_t)r[i];
            most = LQ__MAX(most, r[i] < 0 ? -r[i] : r[i]);
        }
    }
    return most;
}

/* One E8 block: v (8) q12 -> z (8); returns the coset. `relaxed` drops the parity of coset 1. */
LQ__INLINE int lq__e8_block(int32_t *z, const int32_t *v, int relaxed)
{
    int32_t d[8];
    int32_t sum = 0;
    int32_t parity0 = 0;
    int32_t parity1 = 0;
    int32_t most = -1;
    int32_t least = 0x7fffffff;
    int32_t cost0;
    int32_t cost1;
    int32_t flip;
    int coset;
    int i;
    for (i = 0; i < 8; i++) {
        int32_t r = (v[i] + LQ__ONE / 2) >> 12;
        int32_t a;
        d[i] = v[i] - r * LQ__ONE;
        a = d[i] < 0 ? -d[i] : d[i];
        sum += a;
        most = LQ__MAX(most, a * 8 + i);
        least = LQ__MIN(least, a * 8 + i);
        parity0 ^= r;
        parity1 ^= v[i] >> 12;
        z[i] = r;
    }
    parity1 = relaxed ? 0 : parity1;
    cost0 = parity0 & 1 ? LQ__ONE - 2 * (most >> 3) : 0;
    cost1 = 2 * LQ__ONE - sum + (parity1 & 1 ? 2 * (least >> 3) : 0);
    coset = cost1 < cost0;
    if (!coset) {
        flip = parity0 & 1 ? most & 7 : -1;
        if (flip >= 0) {
            z[flip] += d[flip] < 0 ? -1 : 1;
        }
        return 0;
    }
    flip = parity1 & 1 ? least & 7 : -1;
    for (i = 0; i < 8; i++) {
        z[i] = v[i] >> 12;
        if (i == flip) {
            z[i] += d[i] < 0 ? 1 : -1;
        }
    }
    return 1;
}

/* z: nine rows, the coset first. */
static int32_t lq__e8_rows_c(int16_t *z, const int32_t *y, const int32_t *mean, int relaxed)
{
    int32_t most = 0;
    size_t t;
    int i;
    for (t = 0; t < LQ__TOKENS; t++) {
        int32_t v[8];
        int32_t p[8];
        for (i = 0; i < 8; i++) {
            v[i] = y[i * 64 + (int)t] - mean[i];
        }
        z[t] = (int16_t)lq__e8_block(p, v, relaxed);
        for (i = 0; i < 8; i++) {
            z[(i + 1) * 64 + (int)t] = (int16_t)p[i];
            most = LQ__MAX(most, p[i] < 0 ? -p[i] : p[i]);
        }
    }
    return most;
}

/* ---- arrays ---- */
/* Numbers (count <= 64) to a row of q12 with 2^-12 accuracy: units of at most step / 8192 and a
   shift of 31. The rest of the row becomes 0. */
LQ__STATIC int lq__q12_row(int32_t *row, const float *src, size_t count, lq__scale scale)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    uint32_t factor[LQ__TOKENS];
    uint32_t most =
        kernels->fixed_row(row, (const uint8_t *)src, LQ_F32, count, scale.exponent - 5);
    size_t i;
    if (most >= lq__limit_bits(scale.exponent)) {
        return most >= 0x7f800000u ? LQ_E_DATA : LQ_E_RANGE;
    }
    for (i = 0; i < LQ__TOKENS; i++) {
        factor[i] = i < count ? scale.factor : 0;
        row[i] = i < count ? row[i] : 0;
    }
    kernels->scale_row(row, factor, 31);
    return LQ_OK;
}

/* Up to 64 blocks: numbers to points, E8 doubled. */
LQ__STATIC int lq__nearest_blocks(int16_t *points, const float *src, size_t count, lq__scale scale,
                                  int quantizer)
{
    static const int32_t mean[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t dims = lq_lattice_dims(quantizer);
    float column[LQ__TOKENS];
    int32_t y[8 * LQ__TOKENS];
    int16_t z[9 * LQ__TOKENS];
    size_t blocks = count / dims;
    size_t i;
    size_t t;
    for (i = 0; i < dims; i++) {
        int status;
        for (t = 0; t < blocks; t++) {
            column[t] = src[t * dims + i];
        }
        status = lq__q12_row(y + i * LQ__TOKENS, column, blocks, scale);
        if (status) {
            return status;
        }
    }
    if (dims == 8) {
        (void)kernels->e8_rows(z, y, mean, quantizer == LQ_E8_RELAXED);
    } else if (dims == 4) {
        (void)kernels->d4_rows(z, y, mean);
    } else {
        (void)kernels->z_row(z, y, 0, 0);
    }
    for (i = 0; i < dims; i++) {
        for (t = 0; t < blocks; t++) {
            points[t * dims + i] = (int16_t)(dims == 8 ? 2 * z[(i + 1) * LQ__TOKENS + t] + z[t]
                                                       : z[i * LQ__TOKENS + t]);
        }
    }
    return LQ_OK;
}

LQ_API int lq_lattice_nearest(int16_t *points, const float *src, size_t count, float step,
                              int quantizer)
{
    size_t dims = lq_lattice_dims(quantizer);
    size_t i;
    if (dims == 0 || count % dims || !lq__step_valid(step) || (count && (!points || !src))) {
        return LQ_E_ARG;
    }
    for (i = 0; i < count; i += dims * LQ__TOKENS) {
        int status = lq__nearest_blocks(points + i, src + i, LQ__MIN(count - i, dims * LQ__TOKENS),
                                        lq__scale_of(step, 0), quantizer);
        if (status) {
            return status;
        }
    }
    return LQ_OK;
}

LQ_API int lq_lattice_point(float *dst, const int16_t *points, size_t count, float step,
                            int quantizer)
{
    size_t dims = lq_lattice_dims(quantizer);
    float unit = dims == 8 ? step * 0.5f : step;
    size_t i;
    if (dims == 0 || count % dims || !lq__step_valid(step) || (count && (!dst || !points))) {
        return LQ_E_ARG;
    }
    for (i = 0; i < count; i++) {
        dst[i] = (float)points[i] * unit;
    }
    return LQ_OK;
}

/* ---- fixed width ---- */
LQ_API size_t lq_fixed_bytes(size_t count, int quantizer, int bits)
{
    if (quantizer == LQ_E8) {
        return bits == 4 && count % 8 == 0 ? count / 2 : 0;
    }
    if (quantizer != LQ_Z || !(bits == 2 || bits == 3 || bits == 4 || bits == 8)) {
        return 0;
    }
    return count / 8 * (size_t)bits + (count % 8 * (size_t)bits + 7) / 8;
}

LQ__INLINE int32_t lq__clamp(int32_t v, int32_t low, int32_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* Nearest E8 point in the box -8 <= z <= 7 of its coset, as one 32-bit word: nibble i is z_i + 8,
   but the lowest bit of nibble 7 (which the even sum implies) is exchanged so that the parity of
   all eight low bits is the coset. In the box, too, one move mends the parity: every coordinate
   has one cheapest neighbour of the other parity, and the cheapest of the eight moves is the best
   repair. */
LQ__STATIC uint32_t lq__e8_word(const int32_t *v)
{
    uint32_t best_word = 0;
    int64_t best_cost = -1;
    int coset;
    int i;
    for (coset = 0; coset < 2; coset++) {
        int64_t cost = 0;
        int64_t least = INT64_MAX;
        uint32_t word = 0;
        int32_t parity = 0;
        int32_t z[8];
        int move = 0;
        int32_t moved = 0;
        for (i = 0; i < 8; i++) {
            int32_t u = v[i] - coset * (LQ__ONE / 2);
            int32_t other;
            int64_t d;
            int64_t e;
            z[i] = lq__clamp((u + LQ__ONE / 2) >> 12, -8, 7);
            d = (int64_t)u - z[i] * LQ__ONE;
            other = d >= 0 ? z[i] + 1 : z[i] - 1;
            other = other > 7 ? 6 : other < -8 ? -7 : other;
            e = (int64_t)u - other * LQ__ONE;
            cost += d * d;
            parity ^= z[i];
            if (e * e - d * d < least) {
                least = e * e - d * d;
                move = i;
                moved = other;
            }
        }
        if (parity & 1) {
            z[move] = moved;
            cost += least;
        }
        for (i = 0; i < 8; i++) {
            word |= (uint32_t)(z[i] + 8) << 4 * i;
        }
        if (best_cost < 0 || cost < best_cost) {
            best_cost = cost;
            best_word = word ^ (uint32_t)coset << 28;
        }
    }
    return best_word;
}

/* The eight coordinates of a word, doubled. */
LQ__INLINE void lq__e8_of_word(int32_t *p, uint32_t word)
{
    uint32_t x = word & 0x11111111u;
    int32_t coset;
    int i;
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    coset = (int32_t)(x & 1u);
    word ^= (x & 1u) << 28;
    for (i = 0; i < 8; i++) {
        p[i] = 2 * ((int32_t)(word >> 4 * i & 15u) - 8) + coset;
    }
}

/* q12 numbers (count) to codes, and back to doubled coordinates. */
LQ__STATIC void lq__fixed_pack(uint8_t *dst, const int32_t *y, size_t count, int quantizer,
                               int bits)
{
    uint32_t buffer = 0;
    uint32_t have = 0;
    int32_t half = 1 << (bits - 1);
    size_t i;
    if (quantizer == LQ_E8) {
        for (i = 0; i < count; i += 8) {
            lq__store32(dst + i / 2, lq__e8_word(y + i));
        }
        return;
    }
    for (i = 0; i < count; i++) {
        buffer |= (uint32_t)lq__clamp((y[i] >> 12) + half, 0, 2 * half - 1) << have;
        have += (uint32_t)bits;
        while (have >= 8) {
            *dst++ = (uint8_t)buffer;
            buffer >>= 8;
            have -= 8;
        }
    }
    if (have) {
        *dst = (uint8_t)buffer;
    }
}

LQ__STATIC void lq__fixed_unpack(int32_t *p, const uint8_t *src, size_t count, int quantizer,
                                 int bits)
{
    uint32_t buffer = 0;
    uint32_t have = 0;
    int32_t half = 1 << (bits - 1);
    size_t i;
    if (quantizer == LQ_E8) {
        for (i = 0; i < count; i += 8) {
            lq__e8_of_word(p + i, lq__load32(src + i / 2));
        }
        return;
    }
    for (i = 0; i < count; i++) {
        if (have < (uint32_t)bits) {
            buffer |= (uint32_t)*src++ << have;
            have += 8;
        }
        p[i] = 2 * ((int32_t)(buffer & (uint32_t)(2 * half - 1)) - half) + 1;
        buffer >>= bits;
        have -= (uint32_t)bits;
    }
}

LQ_API int lq_fixed_encode(uint8_t *dst, size_t dst_bytes, const float *src, size_t count,
                           float step, int quantizer, int bits)
{
    size_t need = lq_fixed_bytes(count, quantizer, bits);
    lq__scale scale;
    size_t i;
    if ((need == 0 && count) || lq_fixed_bytes(8, quantizer, bits) == 0 || !lq__step_valid(step) ||
        (count && (!dst || !src))) {
        return LQ_E_ARG;
    }
    if (dst_bytes < need) {
        return LQ_E_SPACE;
    }
    scale = lq__scale_of(step, 0);
    for (i = 0; i < count; i += 64) { /* 64 codes of any width end on a byte */
        int32_t y[64];
        size_t n = LQ__MIN(count - i, 64);
        int status = lq__q12_row(y, src + i, n, scale);
        if (status) {
            return status;
        }
        lq__fixed_pack(dst + i / 8 * (size_t)bits, y, n, quantizer, bits);
    }
    return LQ_OK;
}

LQ_API int lq_fixed_decode(float *dst, const uint8_t *src, size_t src_bytes, size_t count,
                           float step, int quantizer, int bits)
{
    size_t need = lq_fixed_bytes(count, quantizer, bits);
    size_t i;
    size_t j;
    if ((need == 0 && count) || lq_fixed_bytes(8, quantizer, bits) == 0 || !lq__step_valid(step) ||
        (count && (!dst || !src))) {
        return LQ_E_ARG;
    }
    if (src_bytes < need) {
        return LQ_E_SPACE;
    }
    for (i = 0; i < count; i += 64) {
        int32_t p[64];
        size_t n = LQ__MIN(count - i, 64);
        lq__fixed_unpack(p, src + i / 8 * (size_t)bits, n, quantizer, bits);
        for (j = 0; j < n; j++) {
            dst[i + j] = (float)p[j] * (step * 0.5f);
        }
    }
    return LQ_OK;
}

/* ---- rows with AVX2: 8 columns at a time ---- */
#if LQ__X86
LQ__TARGET_AVX2 static uint32_t lq__fixed_row_avx2(int32_t *dst, const uint8_t *src, int type,
                                                   size_t count, int32_t exponent)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    __m256 scale;
    uint32_t lanes[8];
    uint32_t tail;
    size_t i;
    if (exponent < -126 || exponent > 126) {
        return lq__fixed_row_c(dst, src, type, count, exponent);
    }
    scale = _mm256_set1_ps(lq__f32_of_bits((uint32_t)(127 - exponent) << 23)); /* exact product */
    for (i = 0; i + 8 <= count; i += 8) {
        __m256 x;
        if (type == LQ_F32) {
            x = _mm256_loadu_ps((const float *)(const void *)(src + 4 * i));
        } else {
            __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i));
            x = type == LQ_F16
                    ? _mm256_cvtph_ps(h)
                    : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
        }
        most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(x), magnitude));
        x = _mm256_round_ps(_mm256_mul_ps(x, scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(void *)(dst + i), _mm256_cvttps_epi32(x));
    }
    tail = lq__fixed_row_c(dst + i, src + i * (type == LQ_F32 ? 4 : 2), type, count - i, exponent);
    _mm256_storeu_si256((__m256i *)(void *)lanes, most);
    for (i = 0; i < 8; i++) {
        tail = LQ__MAX(tail, lanes[i]);
    }
    return tail;
}

/* The low 32 bits of (a * b + c * d + 2^(shift-1)) >> shift on all lanes: 64-bit products of even
   and odd lanes. A logical shift serves, as only bits below 64 come down. */
#define LQ__MULADD_AVX2(a, b, c, d, shift)                                                     \
    _mm256_blend_epi32(                                                                        \
        _mm256_srli_epi64(                                                                     \
            _mm256_add_epi64(_mm256_add_epi64(_mm256_mul_epi32(a, b), _mm256_mul_epi32(c, d)), \
                             _mm256_set1_epi64x(1LL << ((shift)-1))),                          \
            shift),                                                                            \
        _mm256_slli_epi64(                                                                     \
            _mm256_srli_epi64(                                                                 \
                _mm256_add_epi64(                                                              \
                    _mm256_add_epi64(                                                          \
                        _mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32)),  \
                        _mm256_mul_epi32(_mm256_srli_epi64(c, 32), _mm256_srli_epi64(d, 32))), \
                    _mm256_set1_epi64x(1LL << ((shift)-1))),                                   \
                shift),                                                                        \
            32),                                                                               \
        0xaa)

#define LQ__LOAD_AVX2(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define LQ__STORE_AVX2(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)

LQ__TARGET_AVX2 static void lq__scale_row_avx2(int32_t *row, const uint32_t *factor, int shift)
{
    const __m256i zero = _mm256_setzero_si256();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i x = LQ__LOAD_AVX2(row + t);
        __m256i f = LQ__LOAD_AVX2(factor + t);
        LQ__STORE_AVX2(row + t, LQ__MULADD_AVX2(x, f, zero, zero, shift));
    }
}

/* lq__sincos_q30 on the even lanes. Products are 64-bit, everything else is right in its low half:
only
   that enters the next product. */
LQ__TARGET_AVX2 LQ__INLINE void lq__series_avx2(__m256i r, __m256i *sine, __m256i *cosine)
{
    const __m256i half = _mm256_set1_epi64x((int64_t)1 << 29);
    __m256i a = _mm256_mul_epi32(r, _mm256_set1_epi64x(1686629713));
    __m256i z;
    __m256i s = _mm256_set1_epi64x(2959);
    __m256i c = _mm256_set1_epi64x(-296);
#define LQ__TIMES_AVX2(x, y) _mm256_srli_epi64(_mm256_mul_epi32(x, y), 30)
    a = _mm256_srli_epi64(_mm256_add_epi64(a, half), 30);
    z = _mm256_srli_epi64(_mm256_add_epi64(_mm256_mul_epi32(a, a), half), 30);
    s = _mm256_sub_epi32(LQ__TIMES_AVX2(s, z), _mm256_set1_epi64x(213044));
    s = _mm256_add_epi32(LQ__TIMES_AVX2(s, z), _mm256_set1_epi64x(8947849));
    s = _mm256_sub_epi32(LQ__TIMES_AVX2(s, z), _mm256_set1_epi64x(178956971));
    *sine = _mm256_add_epi32(a, LQ__TIMES_AVX2(LQ__TIMES_AVX2(s, z), a));
    c = _mm256_add_epi32(LQ__TIMES_AVX2(c, z), _mm256_set1_epi64x(26631));
    c = _mm256_sub_epi32(LQ__TIMES_AVX2(c, z), _mm256_set1_epi64x(1491308));
    c = _mm256_add_epi32(LQ__TIMES_AVX2(c, z), _mm256_set1_epi64x(44739243));
    c = _mm256_sub_epi32(LQ__TIMES_AVX2(c, z), _mm256_set1_epi64x(536870912));
    *cosine = _mm256_add_epi32(LQ__TIMES_AVX2(c, z), _mm256_set1_epi64x((int64_t)1 << 30));
#undef LQ__TIMES_AVX2
}

LQ__TARGET_AVX2 static void lq__sincos_row_avx2(int32_t *sine, int32_t *cosine,
                                                const uint32_t *phase)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i one = _mm256_set1_epi32(1);
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i p = LQ__LOAD_AVX2(phase + t);
        __m256i q = _mm256_srli_epi32(_mm256_add_epi32(p, _mm256_set1_epi32(0x20000000)), 30);
        __m256i r = _mm256_sub_epi32(p, _mm256_slli_epi32(q, 30));
        __m256i swap = _mm256_sub_epi32(zero, _mm256_and_si256(q, one));
        __m256i minus_s = _mm256_sub_epi32(zero, _mm256_srli_epi32(q, 1));
        __m256i minus_c = _mm256_xor_si256(minus_s, swap); /* bit 1 of q + 1 */
        __m256i s0;
        __m256i c0;
        __m256i s1;
        __m256i c1;
        __m256i x;
        lq__series_avx2(r, &s0, &c0);
        lq__series_avx2(_mm256_srli_epi64(r, 32), &s1, &c1);
        s0 = _mm256_blend_epi32(s0, _mm256_slli_epi64(s1, 32), 0xaa);
        c0 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
        x = _mm256_blendv_epi8(s0, c0, swap);
        LQ__STORE_AVX2(sine + t, _mm256_sub_epi32(_mm256_xor_si256(x, minus_s), minus_s));
        x = _mm256_blendv_epi8(c0, s0, swap);
        LQ__STORE_AVX2(cosine + t, _mm256_sub_epi32(_mm256_xor_si256(x, minus_c), minus_c));
    }
}

LQ__TARGET_AVX2 static void lq__rope_rows_avx2(int32_t *a, int32_t *b, const int32_t *cosine,
                                               const int32_t *sine)
{
    const __m256i zero = _mm256_setzero_si256();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i u = LQ__LOAD_AVX2(a + t);
        __m256i w = LQ__LOAD_AVX2(b + t);
        __m256i c = LQ__LOAD_AVX2(cosine + t);
        __m256i s = LQ__LOAD_AVX2(sine + t);
        __m256i minus = _mm256_sub_epi32(zero, s);
        LQ__STORE_AVX2(a + t, LQ__MULADD_AVX2(u, c, w, s, 30));
        LQ__STORE_AVX2(b + t, LQ__MULADD_AVX2(w, c, u, minus, 30));
    }
}

LQ__TARGET_AVX2 static void lq__butterfly_rows_avx2(int32_t *rows, size_t block)
{
    size_t h;
    size_t i;
    size_t j;
    size_t t;
    for (h = 1; h < block; h *= 2) {
        for (i = 0; i < block; i += 2 * h) {
            for (j = i; j < i + h; j++) {
                int32_t *a = rows + j * LQ__TOKENS;
                int32_t *b = rows + (j + h) * LQ__TOKENS;
                for (t = 0; t < LQ__TOKENS; t += 8) {
                    __m256i u = LQ__LOAD_AVX2(a + t);
                    __m256i w = LQ__LOAD_AVX2(b + t);
                    LQ__STORE_AVX2(a + t, _mm256_add_epi32(u, w));
                    LQ__STORE_AVX2(b + t, _mm256_sub_epi32(u, w));
                }
            }
        }
    }
}

LQ__TARGET_AVX2 static int32_t lq__most_avx2(__m256i v)
{
    int32_t lanes[8];
    int32_t most = 0;
    int i;
    LQ__STORE_AVX2(lanes, v);
    for (i = 0; i < 8; i++) {
        most = LQ__MAX(most, lanes[i]);
    }
    return most;
}

LQ__TARGET_AVX2 static void lq__store_i16_avx2(int16_t *dst, __m256i v)
{
    v = _mm256_permute4x64_epi64(_mm256_packs_epi32(v, v), 0x08);
    _mm_storeu_si128((__m128i *)(void *)dst, _mm256_castsi256_si128(v));
}

LQ__TARGET_AVX2 static int32_t lq__z_row_avx2(int16_t *z, const int32_t *y, int32_t mean,
                                              int32_t dead_zone)
{
    const __m256i m = _mm256_set1_epi32(mean);
    const __m256i round = _mm256_set1_epi32(LQ__ONE / 2 - dead_zone);
    __m256i most = _mm256_setzero_si256();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i v = _mm256_sub_epi32(LQ__LOAD_AVX2(y + t), m);
        __m256i a = _mm256_srai_epi32(_mm256_add_epi32(_mm256_abs_epi32(v), round), 12);
        most = _mm256_max_epi32(most, a);
        /* sign of the not-quite-zero v: a zero v has a = 0 */
        lq__store_i16_avx2(z + t, _mm256_sign_epi32(a, v));
    }
    return lq__most_avx2(most);
}

LQ__TARGET_AVX2 static int32_t lq__d4_rows_avx2(int16_t *z, const int32_t *y, const int32_t *mean)
{
    const __m256i half = _mm256_set1_epi32(LQ__ONE / 2);
    const __m256i one = _mm256_set1_epi32(1);
    __m256i most = _mm256_setzero_si256();
    size_t t;
    int i;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i r[4];
        __m256i d[4];
        __m256i parity = _mm256_setzero_si256();
        __m256i worst = _mm256_set1_epi32(-1);
        __m256i odd;
        for (i = 0; i < 4; i++) {
            __m256i v =
                _mm256_sub_epi32(LQ__LOAD_AVX2(y + i * 64 + (int)t), _mm256_set1_epi32(mean[i]));
            r[i] = _mm256_srai_epi32(_mm256_add_epi32(v, half), 12);
            d[i] = _mm256_sub_epi32(v, _mm256_slli_epi32(r[i], 12));
            worst = _mm256_max_epi32(worst,
                                     _mm256_or_si256(_mm256_slli_epi32(_mm256_abs_epi32(d[i]), 3),
                                                     _mm256_set1_epi32(i)));
            parity = _mm256_xor_si256(parity, r[i]);
        }
        odd = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_and_si256(parity, one));
        worst = _mm256_and_si256(worst, _mm256_set1_epi32(7));
        for (i = 0; i < 4; i++) {
            __m256i here = _mm256_and_si256(odd, _mm256_cmpeq_epi32(worst, _mm256_set1_epi32(i)));
            __m256i move = _mm256_or_si256(_mm256_srai_epi32(d[i], 31), one); /* 1 or -1 */
            r[i] = _mm256_add_epi32(r[i], _mm256_and_si256(here, move));
            most = _mm256_max_epi32(most, _mm256_abs_epi32(r[i]));
            lq__store_i16_avx2(z + i * 64 + (int)t, r[i]);
        }
    }
    return lq__most_avx2(most);
}

LQ__TARGET_AVX2 static int32_t lq__e8_rows_avx2(int16_t *z, const int32_t *y, const int32_t *mean,
                                                int relaxed)
{
    const __m256i half = _mm256_set1_epi32(LQ__ONE / 2);
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i zero = _mm256_setzero_si256();
    __m256i greatest = zero;
    size_t t;
    int i;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i v[8];
        __m256i sum = zero;
        __m256i parity0 = zero;
        __m256i parity1 = zero;
        __m256i most = _mm256_set1_epi32(-1);
        __m256i least = _mm256_set1_epi32(0x7fffffff);
        __m256i odd0;
        __m256i odd1;
        __m256i cost0;
        __m256i cost1;
        __m256i coset;
        __m256i flip;
        for (i = 0; i < 8; i++) {
            __m256i r;
            __m256i a;
            v[i] = _mm256_sub_epi32(LQ__LOAD_AVX2(y + i * 64 + (int)t), _mm256_set1_epi32(mean[i]));
            r = _mm256_srai_epi32(_mm256_add_epi32(v[i], half), 12);
            a = _mm256_abs_epi32(_mm256_sub_epi32(v[i], _mm256_slli_epi32(r, 12)));
            sum = _mm256_add_epi32(sum, a);
            a = _mm256_or_si256(_mm256_slli_epi32(a, 3), _mm256_set1_epi32(i));
            most = _mm256_max_epi32(most, a);
            least = _mm256_min_epi32(least, a);
            parity0 = _mm256_xor_si256(parity0, r);
            parity1 = _mm256_xor_si256(parity1, _mm256_srai_epi32(v[i], 12));
        }
        odd0 = _mm256_sub_epi32(zero, _mm256_and_si256(parity0, one));
        odd1 = relaxed ? zero : _mm256_sub_epi32(zero, _mm256_and_si256(parity1, one));
        cost0 = _mm256_and_si256(
            odd0, _mm256_sub_epi32(_mm256_set1_epi32(LQ__ONE),
                                   _mm256_slli_epi32(_mm256_srli_epi32(most, 3), 1)));
        cost1 = _mm256_sub_epi32(_mm256_set1_epi32(2 * LQ__ONE), sum);
        cost1 = _mm256_add_epi32(
            cost1, _mm256_and_si256(odd1, _mm256_slli_epi32(_mm256_srli_epi32(least, 3), 1)));
        coset = _mm256_cmpgt_epi32(cost0, cost1);
        flip = _mm256_and_si256(_mm256_blendv_epi8(most, least, coset), _mm256_set1_epi32(7));
        flip = _mm256_or_si256(
            flip, _mm256_xor_si256(_mm256_blendv_epi8(odd0, odd1, coset), _mm256_set1_epi32(-1)));
        lq__store_i16_avx2(z + t, _mm256_and_si256(coset, one));
        for (i = 0; i < 8; i++) {
            __m256i r = _mm256_srai_epi32(_mm256_add_epi32(v[i], half), 12);
            __m256i d = _mm256_sub_epi32(v[i], _mm256_slli_epi32(r, 12));
            __m256i here = _mm256_cmpeq_epi32(flip, _mm256_set1_epi32(i));
            __m256i move = _mm256_or_si256(_mm256_xor_si256(_mm256_srai_epi32(d, 31), coset),
                                           one); /* 1 or -1, turned in
                coset 1 */
            r = _mm256_blendv_epi8(r, _mm256_srai_epi32(v[i], 12), coset);
            r = _mm256_add_epi32(r, _mm256_and_si256(here, move));
            greatest = _mm256_max_epi32(greatest, _mm256_abs_epi32(r));
            lq__store_i16_avx2(z + (i + 1) * 64 + (int)t, r);
        }
    }
    return lq__most_avx2(greatest);
}

LQ__TARGET_AVX2 static void lq__centroid_row_avx2(int32_t *y, const int16_t *z,
                                                  const int32_t *shift, int32_t mean)
{
    const __m256i table = _mm256_setr_epi32(0, shift[0], shift[1], shift[2], shift[3], 0, 0, 0);
    const __m256i m = _mm256_set1_epi32(mean);
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i k = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(z + t)));
        __m256i a = _mm256_abs_epi32(k);
        __m256i inward =
            _mm256_permutevar8x32_epi32(table, _mm256_min_epi32(a, _mm256_set1_epi32(4)));
        __m256i v = _mm256_sub_epi32(_mm256_slli_epi32(a, 12), inward);
        LQ__STORE_AVX2(y + t, _mm256_add_epi32(_mm256_sign_epi32(v, k), m));
    }
}

LQ__TARGET_AVX2 static void lq__float_row_avx2(float *dst, const int32_t *row, const float *unit)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256 x = _mm256_cvtepi32_ps(LQ__LOAD_AVX2(row + t));
        _mm256_storeu_ps(dst + t, _mm256_mul_ps(x, _mm256_loadu_ps(unit + t)));
    }
}

LQ__TARGET_AVX2 static void lq__rope_floats_avx2(float *a, float *b, const float *cosine,
                                                 const float *sine)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256 u = _mm256_loadu_ps(a + t);
        __m256 w = _mm256_loadu_ps(b + t);
        __m256 c = _mm256_loadu_ps(cosine + t);
        __m256 s = _mm256_loadu_ps(sine + t);
        _mm256_storeu_ps(a + t, _mm256_sub_ps(_mm256_mul_ps(u, c), _mm256_mul_ps(w, s)));
        _mm256_storeu_ps(b + t, _mm256_add_ps(_mm256_mul_ps(w, c), _mm256_mul_ps(u, s)));
    }
}

LQ__TARGET_AVX2 static void lq__store_row_avx2(uint8_t *dst, const float *src, size_t count,
                                               int type)
{
    size_t i = 0;
    for (; i + 8 <= count && type == LQ_F32; i += 8) {
        _mm256_storeu_ps((float *)(void *)(dst + 4 * i), _mm256_loadu_ps(src + i));
    }
    for (; i + 8 <= count && type == LQ_F16; i += 8) {
        _mm_storeu_si128((__m128i *)(void *)(dst + 2 * i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    }
    lq__store_row_c(dst + i * (type == LQ_F32 ? 4 : 2), src + i, count - i, type);
}

/* Stages below 8 add the partner lane to the lane, with the sign turned on upper lanes: the same
   sums as the C code. */
LQ__TARGET_AVX2 static void lq__butterfly_avx2(float *x, size_t block)
{
    const __m256 s1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 s2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 s4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    size_t h;
    size_t i;
    size_t j;
    if (block < 8) {
        lq__butterfly_c(x, block);
        return;
    }
    for (i = 0; i < block; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = _mm256_add_ps(_mm256_permute_ps(v, 0xb1), _mm256_mul_ps(v, s1));
        v = _mm256_add_ps(_mm256_permute_ps(v, 0x4e), _mm256_mul_ps(v, s2));
        v = _mm256_add_ps(_mm256_permute2f128_ps(v, v, 1), _mm256_mul_ps(v, s4));
        _mm256_storeu_ps(x + i, v);
    }
    for (h = 8; h < block; h *= 2) {
        for (i = 0; i < block; i += 2 * h) {
            for (j = i; j < i + h; j += 8) {
                __m256 a = _mm256_loadu_ps(x + j);
                __m256 b = _mm256_loadu_ps(x + j + h);
                _mm256_storeu_ps(x + j, _mm256_add_ps(a, b));
                _mm256_storeu_ps(x + j + h, _mm256_sub_ps(a, b));
            }
        }
    }
}

/* ---- rows with AVX-512: 16 columns at a time ---- */
#define LQ__LOAD_AVX512(p) _mm512_loadu_si512((const void *)(p))
#define LQ__STORE_AVX512(p, v) _mm512_storeu_si512((void *)(p), v)

LQ__TARGET_AVX512 static uint32_t lq__fixed_row_avx512(int32_t *dst, const uint8_t *src, int type,
                                                       size_t count, int32_t exponent)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();
    __m512 scale;
    uint32_t tail;
    size_t i;
    if (exponent < -126 || exponent > 126) {
        return lq__fixed_row_c(dst, src, type, count, exponent);
    }
    scale = _mm512_set1_ps(lq__f32_of_bits((uint32_t)(127 - exponent) << 23)); /* exact product */
    for (i = 0; i + 16 <= count; i += 16) {
        __m512 x;
        if (type == LQ_F32) {
            x = _mm512_loadu_ps((const void *)(src + 4 * i));
        } else {
            __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(src + 2 * i));
            x = type == LQ_F16
                    ? _mm512_cvtph_ps(h)
                    : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
        }
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
        LQ__STORE_AVX512(dst + i,
                         _mm512_cvt_roundps_epi32(_mm512_mul_ps(x, scale),
                                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    tail = lq__fixed_row_c(dst + i, src + i * (type == LQ_F32 ? 4 : 2), type, count - i, exponent);
    return LQ__MAX(tail, _mm512_reduce_max_epu32(most));
}

#define LQ__MULADD_AVX512(a, b, c, d, shift)                                                   \
    _mm512_mask_blend_epi32(                                                                   \
        0xaaaa,                                                                                \
        _mm512_srli_epi64(                                                                     \
            _mm512_add_epi64(_mm512_add_epi64(_mm512_mul_epi32(a, b), _mm512_mul_epi32(c, d)), \
                             _mm512_set1_epi64(1LL << ((shift)-1))),                           \
            shift),                                                                            \
        _mm512_slli_epi64(                                                                     \
            _mm512_srli_epi64(                                                                 \
                _mm512_add_epi64(                                                              \
                    _mm512_add_epi64(                                                          \
                        _mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32)),  \
                        _mm512_mul_epi32(_mm512_srli_epi64(c, 32), _mm512_srli_epi64(d, 32))), \
                    _mm512_set1_epi64(1LL << ((shift)-1))),                                    \
                shift),                                                                        \
            32))

LQ__TARGET_AVX512 static void lq__scale_row_avx512(int32_t *row, const uint32_t *factor, int shift)
{
    const __m512i zero = _mm512_setzero_si512();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i x = LQ__LOAD_AVX512(row + t);
        __m512i f = LQ__LOAD_AVX512(factor + t);
        LQ__STORE_AVX512(row + t, LQ__MULADD_AVX512(x, f, zero, zero, (unsigned)shift));
    }
}

LQ__TARGET_AVX512 LQ__INLINE void lq__series_avx512(__m512i r, __m512i *sine, __m512i *cosine)
{
    const __m512i half = _mm512_set1_epi64((int64_t)1 << 29);
    __m512i a = _mm512_mul_epi32(r, _mm512_set1_epi64(1686629713));
    __m512i z;
    __m512i s = _mm512_set1_epi64(2959);
    __m512i c = _mm512_set1_epi64(-296);
#define LQ__TIMES_AVX512(x, y) _mm512_srli_epi64(_mm512_mul_epi32(x, y), 30)
    a = _mm512_srli_epi64(_mm512_add_epi64(a, half), 30);
    z = _mm512_srli_epi64(_mm512_add_epi64(_mm512_mul_epi32(a, a), half), 30);
    s = _mm512_sub_epi32(LQ__TIMES_AVX512(s, z), _mm512_set1_epi64(213044));
    s = _mm512_add_epi32(LQ__TIMES_AVX512(s, z), _mm512_set1_epi64(8947849));
    s = _mm512_sub_epi32(LQ__TIMES_AVX512(s, z), _mm512_set1_epi64(178956971));
    *sine = _mm512_add_epi32(a, LQ__TIMES_AVX512(LQ__TIMES_AVX512(s, z), a));
    c = _mm512_add_epi32(LQ__TIMES_AVX512(c, z), _mm512_set1_epi64(26631));
    c = _mm512_sub_epi32(LQ__TIMES_AVX512(c, z), _mm512_set1_epi64(1491308));
    c = _mm512_add_epi32(LQ__TIMES_AVX512(c, z), _mm512_set1_epi64(44739243));
    c = _mm512_sub_epi32(LQ__TIMES_AVX512(c, z), _mm512_set1_epi64(536870912));
    *cosine = _mm512_add_epi32(LQ__TIMES_AVX512(c, z), _mm512_set1_epi64((int64_t)1 << 30));
#undef LQ__TIMES_AVX512
}

LQ__TARGET_AVX512 static void lq__sincos_row_avx512(int32_t *sine, int32_t *cosine,
                                                    const uint32_t *phase)
{
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i two = _mm512_set1_epi32(2);
    const __m512i zero = _mm512_setzero_si512();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i p = LQ__LOAD_AVX512(phase + t);
        __m512i q = _mm512_srli_epi32(_mm512_add_epi32(p, _mm512_set1_epi32(0x20000000)), 30);
        __m512i r = _mm512_sub_epi32(p, _mm512_slli_epi32(q, 30));
        __mmask16 swap = _mm512_test_epi32_mask(q, one);
        __mmask16 minus_s = _mm512_test_epi32_mask(q, two);
        __mmask16 minus_c = _mm512_test_epi32_mask(_mm512_add_epi32(q, one), two);
        __m512i s0;
        __m512i c0;
        __m512i s1;
        __m512i c1;
        __m512i x;
        lq__series_avx512(r, &s0, &c0);
        lq__series_avx512(_mm512_srli_epi64(r, 32), &s1, &c1);
        s0 = _mm512_mask_blend_epi32(0xaaaa, s0, _mm512_slli_epi64(s1, 32));
        c0 = _mm512_mask_blend_epi32(0xaaaa, c0, _mm512_slli_epi64(c1, 32));
        x = _mm512_mask_blend_epi32(swap, s0, c0);
        LQ__STORE_AVX512(sine + t, _mm512_mask_sub_epi32(x, minus_s, zero, x));
        x = _mm512_mask_blend_epi32(swap, c0, s0);
        LQ__STORE_AVX512(cosine + t, _mm512_mask_sub_epi32(x, minus_c, zero, x));
    }
}

LQ__TARGET_AVX512 static void lq__rope_rows_avx512(int32_t *a, int32_t *b, const int32_t *cosine,
                                                   const int32_t *sine)
{
    const __m512i zero = _mm512_setzero_si512();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i u = LQ__LOAD_AVX512(a + t);
        __m512i w = LQ__LOAD_AVX512(b + t);
        __m512i c = LQ__LOAD_AVX512(cosine + t);
        __m512i s = LQ__LOAD_AVX512(sine + t);
        __m512i minus = _mm512_sub_epi32(zero, s);
        LQ__STORE_AVX512(a + t, LQ__MULADD_AVX512(u, c, w, s, 30));
        LQ__STORE_AVX512(b + t, LQ__MULADD_AVX512(w, c, u, minus, 30));
    }
}

LQ__TARGET_AVX512 static void lq__butterfly_rows_avx512(int32_t *rows, size_t block)
{
    size_t h;
    size_t i;
    size_t j;
    size_t t;
    for (h = 1; h < block; h *= 2) {
        for (i = 0; i < block; i += 2 * h) {
            for (j = i; j < i + h; j++) {
                int32_t *a = rows + j * LQ__TOKENS;
                int32_t *b = rows + (j + h) * LQ__TOKENS;
                for (t = 0; t < LQ__TOKENS; t += 16) {
                    __m512i u = LQ__LOAD_AVX512(a + t);
                    __m512i w = LQ__LOAD_AVX512(b + t);
                    LQ__STORE_AVX512(a + t, _mm512_add_epi32(u, w));
                    LQ__STORE_AVX512(b + t, _mm512_sub_epi32(u, w));
                }
            }
        }
    }
}

LQ__TARGET_AVX512 static void lq__store_i16_avx512(int16_t *dst, __m512i v)
{
    _mm256_storeu_si256((__m256i *)(void *)dst, _mm512_cvtsepi32_epi16(v));
}

LQ__TARGET_AVX512 static int32_t lq__z_row_avx512(int16_t *z, const int32_t *y, int32_t mean,
                                                  int32_t dead_zone)
{
    const __m512i m = _mm512_set1_epi32(mean);
    const __m512i round = _mm512_set1_epi32(LQ__ONE / 2 - dead_zone);
    __m512i most = _mm512_setzero_si512();
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i v = _mm512_sub_epi32(LQ__LOAD_AVX512(y + t), m);
        __m512i a = _mm512_srai_epi32(_mm512_add_epi32(_mm512_abs_epi32(v), round), 12);
        most = _mm512_max_epi32(most, a);
        a = _mm512_mask_sub_epi32(a, _mm512_movepi32_mask(v), _mm512_setzero_si512(), a);
        lq__store_i16_avx512(z + t, a);
    }
    return _mm512_reduce_max_epi32(most);
}

LQ__TARGET_AVX512 static int32_t lq__d4_rows_avx512(int16_t *z, const int32_t *y,
                                                    const int32_t *mean)
{
    const __m512i half = _mm512_set1_epi32(LQ__ONE / 2);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i most = _mm512_setzero_si512();
    size_t t;
    int i;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i r[4];
        __m512i d[4];
        __m512i parity = _mm512_setzero_si512();
        __m512i worst = _mm512_set1_epi32(-1);
        __mmask16 odd;
        for (i = 0; i < 4; i++) {
            __m512i v =
                _mm512_sub_epi32(LQ__LOAD_AVX512(y + i * 64 + (int)t), _mm512_set1_epi32(mean[i]));
            r[i] = _mm512_srai_epi32(_mm512_add_epi32(v, half), 12);
            d[i] = _mm512_sub_epi32(v, _mm512_slli_epi32(r[i], 12));
            worst = _mm512_max_epi32(worst,
                                     _mm512_or_si512(_mm512_slli_epi32(_mm512_abs_epi32(d[i]), 3),
                                                     _mm512_set1_epi32(i)));
            parity = _mm512_xor_si512(parity, r[i]);
        }
        odd = _mm512_test_epi32_mask(parity, one);
        worst = _mm512_and_si512(worst, _mm512_set1_epi32(7));
        for (i = 0; i < 4; i++) {
            __mmask16 here = _mm512_mask_cmpeq_epi32_mask(odd, worst, _mm512_set1_epi32(i));
            __m512i move = _mm512_or_si512(_mm512_srai_epi32(d[i], 31), one); /* 1 or -1 */
            r[i] = _mm512_mask_add_epi32(r[i], here, r[i], move);
            most = _mm512_max_epi32(most, _mm512_abs_epi32(r[i]));
            lq__store_i16_avx512(z + i * 64 + (int)t, r[i]);
        }
    }
    return _mm512_reduce_max_epi32(most);
}

LQ__TARGET_AVX512 static int32_t lq__e8_rows_avx512(int16_t *z, const int32_t *y,
                                                    const int32_t *mean, int relaxed)
{
    const __m512i half = _mm512_set1_epi32(LQ__ONE / 2);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i greatest = _mm512_setzero_si512();
    size_t t;
    int i;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i v[8];
        __m512i r[8];
        __m512i d[8];
        __m512i sum = _mm512_setzero_si512();
        __m512i parity0 = sum;
        __m512i parity1 = sum;
        __m512i most = _mm512_set1_epi32(-1);
        __m512i least = _mm512_set1_epi32(0x7fffffff);
        __m512i cost0;
        __m512i cost1;
        __m512i flip;
        __mmask16 odd0;
        __mmask16 odd1;
        __mmask16 coset;
        __mmask16 moves;
        for (i = 0; i < 8; i++) {
            __m512i a;
            v[i] =
                _mm512_sub_epi32(LQ__LOAD_AVX512(y + i * 64 + (int)t), _mm512_set1_epi32(mean[i]));
            r[i] = _mm512_srai_epi32(_mm512_add_epi32(v[i], half), 12);
            d[i] = _mm512_sub_epi32(v[i], _mm512_slli_epi32(r[i], 12));
            a = _mm512_abs_epi32(d[i]);
            sum = _mm512_add_epi32(sum, a);
            a = _mm512_or_si512(_mm512_slli_epi32(a, 3), _mm512_set1_epi32(i));
            most = _mm512_max_epi32(most, a);
            least = _mm512_min_epi32(least, a);
            parity0 = _mm512_xor_si512(parity0, r[i]);
            v[i] = _mm512_srai_epi32(v[i], 12);
            parity1 = _mm512_xor_si512(parity1, v[i]);
        }
        odd0 = _mm512_test_epi32_mask(parity0, one);
        odd1 = relaxed ? (__mmask16)0 : _mm512_test_epi32_mask(parity1, one);
        cost0 = _mm512_maskz_sub_epi32(odd0, _mm512_set1_epi32(LQ__ONE),
                                       _mm512_slli_epi32(_mm512_srli_epi32(most, 3), 1));
        cost1 = _mm512_sub_epi32(_mm512_set1_epi32(2 * LQ__ONE), sum);
        cost1 = _mm512_mask_add_epi32(cost1, odd1, cost1,
                                      _mm512_slli_epi32(_mm512_srli_epi32(least, 3), 1));
        coset = _mm512_cmplt_epi32_mask(cost1, cost0);
        moves = (__mmask16)((coset & odd1) | (~coset & odd0));
        flip = _mm512_and_si512(_mm512_mask_blend_epi32(coset, most, least), _mm512_set1_epi32(7));
        lq__store_i16_avx512(z + t, _mm512_maskz_mov_epi32(coset, one));
        for (i = 0; i < 8; i++) {
            __mmask16 here = _mm512_mask_cmpeq_epi32_mask(moves, flip, _mm512_set1_epi32(i));
            __mmask16 down = (__mmask16)(_mm512_movepi32_mask(d[i]) ^ coset);
            __m512i p = _mm512_mask_blend_epi32(coset, r[i], v[i]);
            p = _mm512_mask_add_epi32(p, (__mmask16)(here & ~down), p, one);
            p = _mm512_mask_sub_epi32(p, (__mmask16)(here & down), p, one);
            greatest = _mm512_max_epi32(greatest, _mm512_abs_epi32(p));
            lq__store_i16_avx512(z + (i + 1) * 64 + (int)t, p);
        }
    }
    return _mm512_reduce_max_epi32(greatest);
}

LQ__TARGET_AVX512 static void lq__centroid_row_avx512(int32_t *y, const int16_t *z,
                                                      const int32_t *shift, int32_t mean)
{
    const __m512i table = _mm512_setr_epi32(0, shift[0], shift[1], shift[2], shift[3], 0, 0, 0, 0,
                                            0, 0, 0, 0, 0, 0, 0);
    const __m512i m = _mm512_set1_epi32(mean);
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i k =
            _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(z + t)));
        __m512i a = _mm512_abs_epi32(k);
        __m512i inward = _mm512_permutexvar_epi32(_mm512_min_epi32(a, _mm512_set1_epi32(4)), table);
        __m512i v = _mm512_sub_epi32(_mm512_slli_epi32(a, 12), inward);
        v = _mm512_mask_sub_epi32(v, _mm512_movepi32_mask(k), _mm512_setzero_si512(), v);
        LQ__STORE_AVX512(y + t, _mm512_add_epi32(v, m));
    }
}

LQ__TARGET_AVX512 static void lq__float_row_avx512(float *dst, const int32_t *row,
                                                   const float *unit)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512 x = _mm512_cvtepi32_ps(LQ__LOAD_AVX512(row + t));
        _mm512_storeu_ps(dst + t, _mm512_mul_ps(x, _mm512_loadu_ps(unit + t)));
    }
}

LQ__TARGET_AVX512 static void lq__rope_floats_avx512(float *a, float *b, const float *cosine,
                                                     const float *sine)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512 u = _mm512_loadu_ps(a + t);
        __m512 w = _mm512_loadu_ps(b + t);
        __m512 c = _mm512_loadu_ps(cosine + t);
        __m512 s = _mm512_loadu_ps(sine + t);
        _mm512_storeu_ps(a + t, _mm512_sub_ps(_mm512_mul_ps(u, c), _mm512_mul_ps(w, s)));
        _mm512_storeu_ps(b + t, _mm512_add_ps(_mm512_mul_ps(w, c), _mm512_mul_ps(u, s)));
    }
}

LQ__TARGET_AVX512 static void lq__store_row_avx512(uint8_t *dst, const float *src, size_t count,
                                                   int type)
{
    size_t i = 0;
    for (; i + 16 <= count && type == LQ_F32; i += 16) {
        _mm512_storeu_ps((void *)(dst + 4 * i), _mm512_loadu_ps(src + i));
    }
    for (; i + 16 <= count && type == LQ_F16; i += 16) {
        _mm256_storeu_si256((__m256i *)(void *)(dst + 2 * i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    }
    lq__store_row_c(dst + i * (type == LQ_F32 ? 4 : 2), src + i, count - i, type);
}

LQ__TARGET_AVX512 static void lq__butterfly_avx512(float *x, size_t block)
{
    const __m512 s1 = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
    const __m512 s2 = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
    const __m512 s4 = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
    const __m512 s8 = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
    size_t h;
    size_t i;
    size_t j;
    if (block < 16) {
        lq__butterfly_c(x, block);
        return;
    }
    for (i = 0; i < block; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        v = _mm512_add_ps(_mm512_permute_ps(v, 0xb1), _mm512_mul_ps(v, s1));
        v = _mm512_add_ps(_mm512_permute_ps(v, 0x4e), _mm512_mul_ps(v, s2));
        v = _mm512_add_ps(_mm512_shuffle_f32x4(v, v, 0xb1), _mm512_mul_ps(v, s4));
        v = _mm512_add_ps(_mm512_shuffle_f32x4(v, v, 0x4e), _mm512_mul_ps(v, s8));
        _mm512_storeu_ps(x + i, v);
    }
    for (h = 16; h < block; h *= 2) {
        for (i = 0; i < block; i += 2 * h) {
            for (j = i; j < i + h; j += 16) {
                __m512 a = _mm512_loadu_ps(x + j);
                __m512 b = _mm512_loadu_ps(x + j + h);
                _mm512_storeu_ps(x + j, _mm512_add_ps(a, b));
                _mm512_storeu_ps(x + j + h, _mm512_sub_ps(a, b));
            }
        }
    }
}
#endif

#if LQ__X86
/* ---- integer products with AVX2: 6 rows by 16 tokens, 12 sums in registers ---- */
LQ__TARGET_AVX2 LQ__INLINE __m256i lq__two_avx2(const int16_t *matrix)
{
    int32_t two;
    memcpy(&two, matrix, 4); /* becomes a broadcasting load */
    return _mm256_set1_epi32(two);
}

#define LQ__TIMES_AVX2(sum, x) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, m))
#define LQ__TIMES_ROW_AVX2(n)                                    \
    do {                                                         \
        const __m256i m = lq__two_avx2(matrix + n * stride + i); \
        LQ__TIMES_AVX2(a##n, x0);                                \
        LQ__TIMES_AVX2(b##n, x1);                                \
    } while (0)
#define LQ__STORE_ROW_AVX2(n)                   \
    LQ__STORE_AVX2(dst + n * LQ__TOKENS, a##n); \
    LQ__STORE_AVX2(dst + n * LQ__TOKENS + 8, b##n)

LQ__TARGET_AVX2 static void lq__product_six_avx2(int32_t *dst, const int16_t *matrix, size_t stride,
                                                 const int16_t *pairs, size_t columns)
{
    __m256i a0 = _mm256_setzero_si256(), b0 = a0, a1 = a0, b1 = a0, a2 = a0, b2 = a0;
    __m256i a3 = a0, b3 = a0, a4 = a0, b4 = a0, a5 = a0, b5 = a0;
    size_t i;
    for (i = 0; i < columns; i += 2) {
        __m256i x0 = LQ__LOAD_AVX2(pairs + i * LQ__TOKENS);
        __m256i x1 = LQ__LOAD_AVX2(pairs + i * LQ__TOKENS + 16);
        LQ__TIMES_ROW_AVX2(0);
        LQ__TIMES_ROW_AVX2(1);
        LQ__TIMES_ROW_AVX2(2);
        LQ__TIMES_ROW_AVX2(3);
        LQ__TIMES_ROW_AVX2(4);
        LQ__TIMES_ROW_AVX2(5);
    }
    LQ__STORE_ROW_AVX2(0);
    LQ__STORE_ROW_AVX2(1);
    LQ__STORE_ROW_AVX2(2);
    LQ__STORE_ROW_AVX2(3);
    LQ__STORE_ROW_AVX2(4);
    LQ__STORE_ROW_AVX2(5);
}

/* One row by 32 tokens: what six leave over. */
LQ__TARGET_AVX2 static void lq__product_one_avx2(int32_t *dst, const int16_t *matrix,
                                                 const int16_t *pairs, size_t columns)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    size_t i;
    for (i = 0; i < columns; i += 2) {
        const int16_t *x = pairs + i * LQ__TOKENS;
        const __m256i m = lq__two_avx2(matrix + i);
        LQ__TIMES_AVX2(a, LQ__LOAD_AVX2(x));
        LQ__TIMES_AVX2(b, LQ__LOAD_AVX2(x + 16));
        LQ__TIMES_AVX2(c, LQ__LOAD_AVX2(x + 32));
        LQ__TIMES_AVX2(d, LQ__LOAD_AVX2(x + 48));
    }
    LQ__STORE_AVX2(dst, a);
    LQ__STORE_AVX2(dst + 8, b);
    LQ__STORE_AVX2(dst + 16, c);
    LQ__STORE_AVX2(dst + 24, d);
}

LQ__TARGET_AVX2 static void lq__product_avx2(int32_t *dst, const int16_t *matrix, size_t stride,
                                             size_t rows, const int16_t *pairs, size_t columns)
{
    size_t r;
    size_t t;
    for (r = 0; r + 6 <= rows; r += 6) { /* six matrix rows stay in L1 for all tokens */
        for (t = 0; t < LQ__TOKENS; t += 16) {
            lq__product_six_avx2(dst + r * LQ__TOKENS + t, matrix + r * stride, stride,
                                 pairs + 2 * t, columns);
        }
    }
    for (; r < rows; r++) {
        for (t = 0; t < LQ__TOKENS; t += 32) {
            lq__product_one_avx2(dst + r * LQ__TOKENS + t, matrix + r * stride, pairs + 2 * t,
                                 columns);
        }
    }
}
#undef LQ__TIMES_AVX2
#undef LQ__TIMES_ROW_AVX2
#undef LQ__STORE_ROW_AVX2

LQ__TARGET_AVX2 static void lq__energy_rows_avx2(uint64_t *energy, const int32_t *rows,
                                                 size_t count, int shift)
{
    const __m128i s = _mm_cvtsi32_si128(shift);
    size_t r;
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i even = _mm256_setzero_si256();
        __m256i odd = even;
        __m256i low;
        __m256i high;
        for (r = 0; r < count; r++) {
            __m256i v = _mm256_sra_epi32(LQ__LOAD_AVX2(rows + r * LQ__TOKENS + t), s);
            __m256i w = _mm256_srli_epi64(v, 32);
            even = _mm256_add_epi64(even, _mm256_mul_epi32(v, v));
            odd = _mm256_add_epi64(odd, _mm256_mul_epi32(w, w));
        }
        low = _mm256_unpacklo_epi64(even, odd); /* tokens 0 1 4 5 */
        high = _mm256_unpackhi_epi64(even, odd);
        even = _mm256_permute2x128_si256(low, high, 0x20);
        odd = _mm256_permute2x128_si256(low, high, 0x31);
        LQ__STORE_AVX2(energy + t, _mm256_add_epi64(LQ__LOAD_AVX2(energy + t), even));
        LQ__STORE_AVX2(energy + t + 4, _mm256_add_epi64(LQ__LOAD_AVX2(energy + t + 4), odd));
    }
}

/* lq__shift_half_up: a shift of 0 has no bit below the cut, as a count of 2^32 - 1 leaves 0. */
LQ__TARGET_AVX2 LQ__INLINE __m256i lq__shift_half_up_avx2(__m256i v, __m256i shift)
{
    const __m256i one = _mm256_set1_epi32(1);
    __m256i below = _mm256_srlv_epi32(v, _mm256_sub_epi32(shift, one));
    return _mm256_add_epi32(_mm256_srav_epi32(v, shift), _mm256_and_si256(below, one));
}

LQ__TARGET_AVX2 LQ__INLINE __m256i lq__bytes_avx2(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

LQ__TARGET_AVX2 static void lq__pair_rows_avx2(int16_t *pairs, const int32_t *rows, size_t count,
                                               const uint8_t *shift)
{
    const __m256i order = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0,
                                           1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const __m256i least = _mm256_set1_epi16(-32767);
    size_t r;
    size_t t;
    for (r = 0; r < count; r += 2) {
        const int32_t *row = rows + r * LQ__TOKENS;
        for (t = 0; t < LQ__TOKENS; t += 8) {
            __m256i s = lq__bytes_avx2(shift + t);
            __m256i a = lq__shift_half_up_avx2(LQ__LOAD_AVX2(row + t), s);
            __m256i b = _mm256_setzero_si256();
            if (r + 1 < count) {
                b = lq__shift_half_up_avx2(LQ__LOAD_AVX2(row + LQ__TOKENS + t), s);
            }
            a = _mm256_max_epi16(_mm256_packs_epi32(a, b), least);
            LQ__STORE_AVX2(pairs + r * LQ__TOKENS + 2 * t, _mm256_shuffle_epi8(a, order));
        }
    }
}

/* v * 2^(s + 1), clamped, then (v + 1) >> 1: right and left shifts round alike. For the left
   shift the clamp comes first, for the right one the shift. Neighbouring rows mostly share their
   exponent, so the shifts are made anew only where it changes. */
LQ__TARGET_AVX2 static void lq__shift_rows_avx2(int32_t *rows, size_t count, const uint8_t *up,
                                                const int8_t *row_exponent)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i widest = _mm256_set1_epi32(28);
    size_t r;
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256i left = zero, right = zero, most = zero, least = zero;
        for (r = 0; r < count; r++) {
            int32_t *row = rows + r * LQ__TOKENS + t;
            __m256i v = LQ__LOAD_AVX2(row);
            if (r == 0 || row_exponent[r] != row_exponent[r - 1]) {
                const __m256i plus = _mm256_set1_epi32(row_exponent[r] + 1);
                __m256i s = _mm256_add_epi32(lq__bytes_avx2(up + t), plus);
                left = _mm256_min_epi32(_mm256_max_epi32(s, zero), widest);
                right = _mm256_max_epi32(_mm256_sub_epi32(zero, s), zero);
                most = _mm256_srlv_epi32(_mm256_set1_epi32(2 * LQ__SHIFTED_MAX), left);
                least = _mm256_sub_epi32(zero, most);
            }
            v = _mm256_srav_epi32(v, right);
            v = _mm256_max_epi32(_mm256_min_epi32(v, most), least);
            v = _mm256_add_epi32(_mm256_sllv_epi32(v, left), one);
            LQ__STORE_AVX2(row, _mm256_srai_epi32(v, 1));
        }
    }
}

/* ---- integer products with AVX-512 VNNI: 6 rows by 64 tokens, 24 sums in registers ---- */
LQ__TARGET_AVX512 LQ__INLINE __m512i lq__two_avx512(const int16_t *matrix)
{
    int32_t two;
    memcpy(&two, matrix, 4); /* becomes a broadcasting load */
    return _mm512_set1_epi32(two);
}

#define LQ__SUMS_AVX512(n) __m512i a##n = zero, b##n = zero, c##n = zero, d##n = zero
#define LQ__LOAD_X_AVX512                       \
    const int16_t *x = pairs + i * LQ__TOKENS;  \
    const __m512i x0 = LQ__LOAD_AVX512(x);      \
    const __m512i x1 = LQ__LOAD_AVX512(x + 32); \
    const __m512i x2 = LQ__LOAD_AVX512(x + 64); \
    const __m512i x3 = LQ__LOAD_AVX512(x + 96)
#define LQ__TIMES_ROW_AVX512(n)                                    \
    do {                                                           \
        const __m512i m = lq__two_avx512(matrix + n * stride + i); \
        a##n = _mm512_dpwssd_epi32(a##n, x0, m);                   \
        b##n = _mm512_dpwssd_epi32(b##n, x1, m);                   \
        c##n = _mm512_dpwssd_epi32(c##n, x2, m);                   \
        d##n = _mm512_dpwssd_epi32(d##n, x3, m);                   \
    } while (0)
#define LQ__STORE_ROW_AVX512(n, row)                     \
    LQ__STORE_AVX512(dst + (row)*LQ__TOKENS, a##n);      \
    LQ__STORE_AVX512(dst + (row)*LQ__TOKENS + 16, b##n); \
    LQ__STORE_AVX512(dst + (row)*LQ__TOKENS + 32, c##n); \
    LQ__STORE_AVX512(dst + (row)*LQ__TOKENS + 48, d##n)

LQ__TARGET_AVX512 static void lq__product_six_avx512(int32_t *dst, const int16_t *matrix,
                                                     size_t stride, const int16_t *pairs,
                                                     size_t columns)
{
    const __m512i zero = _mm512_setzero_si512();
    size_t i;
    LQ__SUMS_AVX512(0);
    LQ__SUMS_AVX512(1);
    LQ__SUMS_AVX512(2);
    LQ__SUMS_AVX512(3);
    LQ__SUMS_AVX512(4);
    LQ__SUMS_AVX512(5);
    for (i = 0; i < columns; i += 2) {
        LQ__LOAD_X_AVX512;
        LQ__TIMES_ROW_AVX512(0);
        LQ__TIMES_ROW_AVX512(1);
        LQ__TIMES_ROW_AVX512(2);
        LQ__TIMES_ROW_AVX512(3);
        LQ__TIMES_ROW_AVX512(4);
        LQ__TIMES_ROW_AVX512(5);
    }
    LQ__STORE_ROW_AVX512(0, 0);
    LQ__STORE_ROW_AVX512(1, 1);
    LQ__STORE_ROW_AVX512(2, 2);
    LQ__STORE_ROW_AVX512(3, 3);
    LQ__STORE_ROW_AVX512(4, 4);
    LQ__STORE_ROW_AVX512(5, 5);
}

/* Rows 0 and `second`, 0 or 1: one row alone would wait for its sums as long as two take. */
LQ__TARGET_AVX512 static void lq__product_two_avx512(int32_t *dst, const int16_t *matrix,
                                                     size_t stride, size_t second,
                                                     const int16_t *pairs, size_t columns)
{
    const __m512i zero = _mm512_setzero_si512();
    size_t i;
    LQ__SUMS_AVX512(0);
    LQ__SUMS_AVX512(1);
    stride *= second;
    for (i = 0; i < columns; i += 2) {
        LQ__LOAD_X_AVX512;
        LQ__TIMES_ROW_AVX512(0);
        LQ__TIMES_ROW_AVX512(1);
    }
    LQ__STORE_ROW_AVX512(0, 0);
    LQ__STORE_ROW_AVX512(1, second);
}

/* A matrix row is read once; x is read for every six rows, from L2 if it must: 256 bytes in the
   12 cycles that 24 products take. */
LQ__TARGET_AVX512 static void lq__product_avx512(int32_t *dst, const int16_t *matrix, size_t stride,
                                                 size_t rows, const int16_t *pairs, size_t columns)
{
    size_t r;
    for (r = 0; r + 6 <= rows; r += 6) {
        lq__product_six_avx512(dst + r * LQ__TOKENS, matrix + r * stride, stride, pairs, columns);
    }
    for (; r < rows; r += 2) {
        lq__product_two_avx512(dst + r * LQ__TOKENS, matrix + r * stride, stride, r + 1 < rows,
                               pairs, columns);
    }
}
#undef LQ__SUMS_AVX512
#undef LQ__LOAD_X_AVX512
#undef LQ__TIMES_ROW_AVX512
#undef LQ__STORE_ROW_AVX512

LQ__TARGET_AVX512 static void lq__energy_rows_avx512(uint64_t *energy, const int32_t *rows,
                                                     size_t count, int shift)
{
    const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i last = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    const __m128i s = _mm_cvtsi32_si128(shift);
    size_t r;
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        uint64_t *dst = energy + t;
        __m512i even = _mm512_setzero_si512();
        __m512i odd = even;
        for (r = 0; r < count; r++) {
            __m512i v = _mm512_sra_epi32(LQ__LOAD_AVX512(rows + r * LQ__TOKENS + t), s);
            __m512i w = _mm512_srli_epi64(v, 32);
            even = _mm512_add_epi64(even, _mm512_mul_epi32(v, v));
            odd = _mm512_add_epi64(odd, _mm512_mul_epi32(w, w));
        }
        LQ__STORE_AVX512(dst, _mm512_add_epi64(LQ__LOAD_AVX512(dst),
                                               _mm512_permutex2var_epi64(even, first, odd)));
        LQ__STORE_AVX512(dst + 8, _mm512_add_epi64(LQ__LOAD_AVX512(dst + 8),
                                                   _mm512_permutex2var_epi64(even, last, odd)));
    }
}

LQ__TARGET_AVX512 LQ__INLINE __m512i lq__shift_half_up_avx512(__m512i v, __m512i shift)
{
    const __m512i one = _mm512_set1_epi32(1);
    __m512i below = _mm512_srlv_epi32(v, _mm512_sub_epi32(shift, one));
    return _mm512_add_epi32(_mm512_srav_epi32(v, shift), _mm512_and_si512(below, one));
}

LQ__TARGET_AVX512 LQ__INLINE __m512i lq__bytes_avx512(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

LQ__TARGET_AVX512 static void lq__pair_rows_avx512(int16_t *pairs, const int32_t *rows,
                                                   size_t count, const uint8_t *shift)
{
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    const __m512i least = _mm512_set1_epi16(-32767);
    size_t r;
    size_t t;
    for (r = 0; r < count; r += 2) {
        const int32_t *row = rows + r * LQ__TOKENS;
        for (t = 0; t < LQ__TOKENS; t += 16) {
            __m512i s = lq__bytes_avx512(shift + t);
            __m512i a = lq__shift_half_up_avx512(LQ__LOAD_AVX512(row + t), s);
            __m512i b = _mm512_setzero_si512();
            if (r + 1 < count) {
                b = lq__shift_half_up_avx512(LQ__LOAD_AVX512(row + LQ__TOKENS + t), s);
            }
            a = _mm512_max_epi16(_mm512_packs_epi32(a, b), least);
            LQ__STORE_AVX512(pairs + r * LQ__TOKENS + 2 * t, _mm512_shuffle_epi8(a, order));
        }
    }
}

LQ__TARGET_AVX512 static void lq__shift_rows_avx512(int32_t *rows, size_t count, const uint8_t *up,
                                                    const int8_t *row_exponent)
{
    const __m512i zero = _mm512_setzero_si512();
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i widest = _mm512_set1_epi32(28);
    size_t r;
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512i left = zero, right = zero, most = zero, least = zero;
        for (r = 0; r < count; r++) {
            int32_t *row = rows + r * LQ__TOKENS + t;
            __m512i v = LQ__LOAD_AVX512(row);
            if (r == 0 || row_exponent[r] != row_exponent[r - 1]) {
                const __m512i plus = _mm512_set1_epi32(row_exponent[r] + 1);
                __m512i s = _mm512_add_epi32(lq__bytes_avx512(up + t), plus);
                left = _mm512_min_epi32(_mm512_max_epi32(s, zero), widest);
                right = _mm512_max_epi32(_mm512_sub_epi32(zero, s), zero);
                most = _mm512_srlv_epi32(_mm512_set1_epi32(2 * LQ__SHIFTED_MAX), left);
                least = _mm512_sub_epi32(zero, most);
            }
            v = _mm512_srav_epi32(v, right);
            v = _mm512_max_epi32(_mm512_min_epi32(v, most), least);
            v = _mm512_add_epi32(_mm512_sllv_epi32(v, left), one);
            LQ__STORE_AVX512(row, _mm512_srai_epi32(v, 1));
        }
    }
}

LQ__TARGET_AVX2 static void lq__turn_rows_avx2(float *dst, const float *rows, size_t count)
{
    size_t i = 0;
    int k;
    for (; i + 8 <= count; i += 8, rows += 8 * LQ__TOKENS) {
        __m256 a[8];
        __m256 b[8];
        for (k = 0; k < 8; k++) {
            a[k] = _mm256_loadu_ps(rows + (size_t)k * LQ__TOKENS);
        }
        for (k = 0; k < 8; k += 2) {
            b[k] = _mm256_unpacklo_ps(a[k], a[k + 1]);
            b[k + 1] = _mm256_unpackhi_ps(a[k], a[k + 1]);
        }
        for (k = 0; k < 8; k += 4) {
            a[k] = _mm256_shuffle_ps(b[k], b[k + 2], 0x44);
            a[k + 1] = _mm256_shuffle_ps(b[k], b[k + 2], 0xee);
            a[k + 2] = _mm256_shuffle_ps(b[k + 1], b[k + 3], 0x44);
            a[k + 3] = _mm256_shuffle_ps(b[k + 1], b[k + 3], 0xee);
        }
        for (k = 0; k < 4; k++) {
            _mm256_storeu_ps(dst + (size_t)k * 32 + i,
                             _mm256_permute2f128_ps(a[k], a[k + 4], 0x20));
            _mm256_storeu_ps(dst + (size_t)(k + 4) * 32 + i,
                             _mm256_permute2f128_ps(a[k], a[k + 4], 0x31));
        }
    }
    lq__turn_rows_c(dst + i, rows, count - i);
}

LQ__TARGET_AVX512 static void lq__turn_rows_avx512(float *dst, const float *rows, size_t count)
{
    lq__turn_rows_avx2(dst, rows, count);
}

LQ__TARGET_AVX2 static void lq__center_floats_avx2(float *dst, const int32_t *row,
                                                   const float *unit, const float *gain,
                                                   float scale, float center)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 8) {
        __m256 x = _mm256_cvtepi32_ps(LQ__LOAD_AVX2(row + t));
        __m256 u = _mm256_mul_ps(_mm256_loadu_ps(unit + t), _mm256_set1_ps(scale));
        __m256 c = _mm256_mul_ps(_mm256_loadu_ps(gain + t), _mm256_set1_ps(center));
        _mm256_storeu_ps(dst + t, _mm256_add_ps(_mm256_mul_ps(x, u), c));
    }
}

LQ__TARGET_AVX512 static void lq__center_floats_avx512(float *dst, const int32_t *row,
                                                       const float *unit, const float *gain,
                                                       float scale, float center)
{
    size_t t;
    for (t = 0; t < LQ__TOKENS; t += 16) {
        __m512 x = _mm512_cvtepi32_ps(LQ__LOAD_AVX512(row + t));
        __m512 u = _mm512_mul_ps(_mm512_loadu_ps(unit + t), _mm512_set1_ps(scale));
        __m512 c = _mm512_mul_ps(_mm512_loadu_ps(gain + t), _mm512_set1_ps(center));
        _mm512_storeu_ps(dst + t, _mm512_add_ps(_mm512_mul_ps(x, u), c));
    }
}
#endif

/* ================================================================================================
   >>rans   the entropy coder: tables, plan, encode, decode

   One page is one rANS stream of 32 lanes (Duda 2009, arXiv 0902.0271, "asymmetric numeral
   systems"; Giesen 2014, arXiv 1402.3392, interleaved streams). Lane l codes tokens l and 32 + l of
   each row, rows in order: a step is half a row, and all lanes of a step share the row's class, so
   a change of tables costs nothing.
     state    32 bits a lane, kept as two 16-bit halves x = hi << 16 | lo, x >= L = 2^16
     table    intervals [begin, begin + freq) of the M = 2^16 slots
     decode   slot = lo; x = freq * hi + slot - begin; if x < L: x = x << 16 | next word
     encode   if hi >= freq: write lo, x = hi; x = (x / freq) << 16 | begin + x % freq
   With M = L = 2^16 the halves need no shifts, both tests are 16-bit compares, and a symbol moves
   at most one word. freq <= 65520 and x >= L give freq * hi >= freq >= 16, so x >= L again after
   one word whatever the bytes are: no state has to be checked in the loop.
   Symbols: up to 31 integers of [-15, 15] and an escape; the escaped value follows in the raw
   section. Measured on Zen 5, 8 pages in flight: see bench/rans_peers.c.
   ============================================================================================== */
#if LQ__X86 && defined(__x86_64__)
#define LQ__RANS_SIMD 1
#else
#define LQ__RANS_SIMD 0
#endif

#define LQ__TOKENS_MAX 64u
#define LQ__LANES 32u
#define LQ__FLIGHT 8u        /* pages decoded together */
#define LQ__FLIGHT_ENCODE 4u /* pages encoded together */
#define LQ__TAIL 1024u       /* copy of the end of a stream, zeros behind */
#define LQ__BIG 1024u        /* slots of a bucket; also what makes an interval big */
#define LQ__MASS_COUNT 2048u /* 8 sigma in steps of 1/256 sigma */

/* Classes and numbers of tables. */
enum {
    LQ__CLASS_WIDE = 53,  /* sigma = 5.66 steps: the widest class without raw bits */
    LQ__CLASS_SPARE = 25, /* sigma = 0.5 steps: classes from here can spare one bit more */
    LQ__T_LOW = 7,        /* half-step rows need classes -7 .. 0 */
    LQ__T_CLASSES = LQ__CLASS_WIDE + LQ__T_LOW + 1,
    LQ__T_OFFSETS = 5,
    LQ__T_GAUSS = LQ__T_CLASSES * LQ__T_OFFSETS,
    LQ__COSET_LOW = 9,   /* mean classes up to here have no coset 1 */
    LQ__COSET_HIGH = 33, /* from here on the odds stay as they are */
    LQ__T_COSETS = LQ__COSET_HIGH - LQ__COSET_LOW + 1,
    LQ__T_COUNT = LQ__T_GAUSS + 2 * LQ__T_COSETS
};

/* Offsets o of the cell centres k + o. LQ__AT_0 is Z's, with its dead zone; LQ__AT_0_PLAIN is the
   lattices' and the lead rows', without. */
#define LQ__AT_0 0u
#define LQ__AT_1_4 1u
#define LQ__AT_1_2 2u
#define LQ__AT_3_4 3u
#define LQ__AT_0_PLAIN 4u

/* One table, 640 bytes. Intervals in slot order, the escape first:
     start       interval that holds slot 1024 b                  end    last slot of the interval
   and for the encoder, by value + 16 (0 and everything absent: the escape):
     reciprocal  float bits of just below 1 / freq in two halves, see lq__reciprocal_bits */
typedef struct lq__rans_table {
    uint8_t start[64];
    uint16_t end[32];
    uint16_t freq[32];
    uint16_t begin[32];
    int16_t value[32];
    uint16_t code_freq[32];
    uint16_t code_begin[32];
    uint16_t code_reciprocal[2][32]; /* low halves, high halves */
    uint32_t count;                  /* intervals */
    int32_t low;                     /* values low .. high have an interval */
    int32_t high;
    uint32_t wide; /* a frequency above LQ__FREQ_NARROW */
    uint32_t unused[12];
} lq__rans_table;

struct lq_tables {
    lq__rans_table table[LQ__T_COUNT];
    uint64_t mass[LQ__MASS_COUNT + 1];        /* integral of exp(-t^2 / 2) to i / 256, q36 * 256 */
    int16_t centroid[LQ__CLASS_WIDE + 1][16]; /* q12: |k| minus the centroid of its cell */
#if LQ__RANS_SIMD
    uint8_t expand[256][16];   /* pshufb: the next words to the 8 lanes of a set */
    uint8_t compress[256][16]; /* pshufb: the words of those lanes to the end */
#endif
};

/* ---- tables: the Gaussian in integers ---- */
/* 2^-e * 2^36 for e in q32: 2^-(n + 1) * 2^(1 - f), the low 16 bits of 1 - f by the derivative. */
LQ__STATIC uint64_t lq__exp2_neg_q36(uint64_t e)
{
    uint64_t n = e >> 32;
    uint64_t f = ((uint64_t)1 << 32) - (e & 0xffffffffu);
    uint64_t m;
    if (n > 40) {
        return 0;
    }
    if (f >> 32) {
        return ((uint64_t)1 << 36) >> n;
    }
    m = lq__exp2_q30((uint32_t)(f >> 16));
    m += (m * ((f & 65535) * 45426 >> 16)) >> 32; /* ln 2 * 2^16 */
    return (m << 6) >> (n + 1);
}

/* exp(-t^2 / 2) * 2^36 = 2^(-t^2 / (2 ln 2)), t in q16 below 2^20. */
LQ__STATIC uint64_t lq__gauss_q36(uint64_t t)
{
    return lq__exp2_neg_q36(((t * t >> 8) * 3098164009u) >> 24);
}

/* 2^(eighths / 8) in q30, -48 <= eighths <= 48. */
LQ__STATIC uint64_t lq__exp2_eighths_q30(int eighths)
{
    uint32_t up = (uint32_t)(eighths + 48);
    return ((uint64_t)lq__exp2_q30((up & 7) << 13) << (up >> 3)) >> 6;
}

/* Integral of exp(-t^2 / 2) from 0 to t (q24), in q36 * 256. Midpoint rule and linear
   interpolation: h^2 / 24 + h^2 / 8 times the largest slope, below 10^-6 of the whole at h = 1 /
   256. */
LQ__STATIC uint64_t lq__mass(const lq_tables *tables, uint64_t t)
{
    uint64_t i = t >> 16;
    if (i >= LQ__MASS_COUNT) {
        return tables->mass[LQ__MASS_COUNT];
    }
    return tables->mass[i] + ((tables->mass[i + 1] - tables->mass[i]) * (t & 65535) >> 16);
}

/* The dead zone of Z in q16 steps, on both sides of the zero cell: 0.06 / s^2 + 0.0007 / s^6 with
   s = sigma / step, at most 0.45, none where classes are wide. At a given slope of distortion
   against rate, the least cost of a Gaussian has 0.02 / s^2 + 0.0007 / s^6; real keys, heavier in
   the tails, want the first term larger (measured: 4 % fewer bits at 1.5 bits than with
   0.15 * 2^-s). */
LQ__STATIC int32_t lq__dead_zone_q16(int class_)
{
    int eighths = class_ - LQ_CLASS_ONE;
    uint64_t zone;
    if (class_ > LQ__CLASS_WIDE) {
        return 0;
    }
    if (eighths <= -12) {
        return 29491;
    }
    zone = 3932 * lq__exp2_eighths_q30(-2 * eighths);
    zone += eighths < 8 ? 46 * lq__exp2_eighths_q30(-6 * eighths) : 0; /* below 1 from s = 2 on */
    return (int32_t)LQ__MIN(zone >> 30, 29491);
}

/* Lower edge of the cell of k in q16 steps. */
LQ__STATIC int32_t lq__cell_edge(int k, uint32_t offset, int32_t dead_zone)
{
    int32_t edge = k * 65536 - 32768;
    if (offset == LQ__AT_0) {
        return k > 0 ? edge + dead_zone : edge - dead_zone;
    }
    return offset == LQ__AT_0_PLAIN ? edge : edge + (int32_t)offset * 16384;
}

/* Signed integral from 0 to an edge. */
LQ__STATIC int64_t lq__edge_mass(const lq_tables *tables, int32_t edge, uint64_t inverse_q30)
{
    uint64_t t = (uint64_t)(edge < 0 ? -edge : edge) * inverse_q30 >> 22;
    int64_t mass = (int64_t)lq__mass(tables, t);
    return edge < 0 ? -mass : mass;
}

/* Frequencies by value + 16, the escape at 0, to a table. Rare means below 1024 slots, big the
   rest. Order: escape and one rare, then big, rare, big, rare, ... , big, and the last two rares.
   Then no aligned bucket of 1024 slots has more than two boundaries strictly inside: three would
   enclose two neighbouring intervals of together less than 1024 slots, that is two neighbouring
   rares. Only the first and the last two are neighbours, and their outer boundaries, 0 and 65536,
   are not inside a bucket. So the interval of a slot is start[slot >> 10], or one of the next two.
   The order needs rares <= bigs + 3: the rarest values go to the escape until that holds. */
LQ__STATIC int lq__table_finish(lq__rans_table *t, uint32_t *freq)
{
    uint8_t rare[32];
    uint8_t big[32];
    uint32_t rares;
    uint32_t bigs;
    uint32_t at = 0;
    uint32_t r = 0;
    uint32_t b = 0;
    uint32_t s;
    uint32_t i;
    for (;;) {
        uint32_t least = 0;
        rares = 1;
        bigs = 0;
        rare[0] = 0;
        for (i = 1; i < 32; i++) {
            if (freq[i] >= LQ__BIG) {
                big[bigs++] = (uint8_t)i;
            } else if (freq[i]) {
                rare[rares++] = (uint8_t)i;
                least = least == 0 || freq[i] <= freq[least] ? i : least;
            }
        }
        if (rares <= bigs + 3) {
            break;
        }
        freq[0] += freq[least];
        freq[least] = 0;
    }
    memset(t, 0, sizeof *t);
    t->count = rares + bigs;
    for (s = 0; s < 32; s++) {
        int is_rare = s < 2 || s >= 2 * bigs + 2 || (s & 1);
        i = s >= t->count ? 0 : (is_rare && r < rares) || b == bigs ? rare[r++] : big[b++];
        t->freq[s] = (uint16_t)freq[i];
        t->begin[s] = (uint16_t)at;
        t->value[s] = (int16_t)(i ? (int)i - 16 : 0);
        at += s < t->count ? freq[i] : 0;
        t->end[s] = (uint16_t)(s < t->count ? at - 1 : 65535);
        if (s < t->count) {
            t->code_freq[i] = t->freq[s];
            t->code_begin[i] = t->begin[s];
        }
    }
    return at == 65536 && freq[0] < LQ__BIG ? LQ_OK : LQ_E_INTERNAL;
}

/* Float bits of a number just below 1 / freq, for the quotients of the SIMD encoders: floor(2^(23 +
   n) / freq) with n = ceil(log2 freq) is a mantissa of 24 bits, and five of its units less are
   taken.

   The quotient. x = hi << 16 | lo with hi < freq, and Q = x / freq < 2^16. The vectors compute
   p = float(x) * reciprocal and q = trunc(p). Whatever the rounding mode, each of the two roundings
   is off by less than a factor 1 +- 2^-23; the reciprocal is below 1 / freq by at least 5 units, a
   factor 1 - 5 * 2^-24, and at most 6 units of 2^-23. So
     Q (1 - 2^-23)^2 (1 - 6 * 2^-23) <= p <= Q (1 + 2^-23)^2 (1 - 5 * 2^-24),
   the right side is below Q, the left above Q - 2^16 * 8 * 2^-23 = Q - 1 / 16. Hence q is floor(Q)
   or one less, and d = x - q * freq lies in [0, freq + freq / 16]: one conditional step makes both
   exact. For freq <= 61680, d < 2^16 is known from its low half and the test is d >= freq; above,
   the low half may have wrapped, and the high half of x - q * freq is looked at too (`wide`). */
#define LQ__FREQ_NARROW 61680u

LQ__STATIC uint32_t lq__reciprocal_bits(uint32_t freq)
{
    uint32_t n = lq__log2_floor((uint64_t)freq * 2 - 1);
    uint32_t mantissa = (uint32_t)(((uint64_t)1 << (23 + n)) / freq);
    return ((127 - n) << 23) + (mantissa - (1u << 23)) - 5; /* may borrow from the exponent */
}

/* What follows from the intervals: bucket starts, the escape in the places of absent values,
   reciprocals. */
LQ__STATIC int lq__table_index(lq__rans_table *t)
{
    uint32_t s = 0;
    uint32_t i;
    t->low = 16;
    t->high = -16;
    for (i = 0; i < 64; i++) {
        while (t->end[s] < i * LQ__BIG) {
            s++;
        }
        if (t->end[LQ__MIN(s + 2, 31)] < i * LQ__BIG + LQ__BIG - 1) {
            return LQ_E_INTERNAL;
        }
        t->start[i] = (uint8_t)s;
    }
    for (i = 0; i < 32; i++) {
        uint32_t reciprocal;
        if (t->code_freq[i] == 0) {
            t->code_freq[i] = t->freq[0];
        } else if (i) {
            t->low = LQ__MIN(t->low, (int32_t)i - 16);
            t->high = LQ__MAX(t->high, (int32_t)i - 16);
        }
        reciprocal = lq__reciprocal_bits(t->code_freq[i]);
        t->code_reciprocal[0][i] = (uint16_t)reciprocal;
        t->code_reciprocal[1][i] = (uint16_t)(reciprocal >> 16);
        t->wide |= t->code_freq[i] > LQ__FREQ_NARROW;
    }
    return LQ_OK;
}

/* Frequencies of N(0, sigma) in cells of width one: values of at least 16 / 65536, what is left to
   the escape, the sum mended at the largest. */
LQ__STATIC int lq__table_gauss(const lq_tables *tables, lq__rans_table *t, int class_,
                               uint32_t offset)
{
    uint64_t inverse = lq__exp2_eighths_q30(LQ_CLASS_ONE - class_);
    uint64_t whole = tables->mass[LQ__MASS_COUNT];
    int32_t dead_zone = lq__dead_zone_q16(class_);
    int64_t below = lq__edge_mass(tables, lq__cell_edge(-15, offset, dead_zone), inverse);
    uint32_t freq[32] = {0};
    uint32_t sum = 0;
    uint32_t most = 1;
    int k;
    int status;
    for (k = -15; k <= 15; k++) {
        int64_t edge = lq__edge_mass(tables, lq__cell_edge(k + 1, offset, dead_zone), inverse);
        uint32_t f = (uint32_t)((((uint64_t)(edge - below) << 15) + whole / 2) / whole);
        below = edge;
        freq[k + 16] = f < 16 ? 0 : f;
        sum += freq[k + 16];
        most = freq[k + 16] > freq[most] ? (uint32_t)(k + 16) : most;
    }
    freq[0] = sum + 16 > 65536 ? 16 : 65536 - sum;
    freq[most] += 65536 - sum - freq[0];
    status = lq__table_finish(t, freq);
    return status ? status : lq__table_index(t);
}

/* Probability of coset 1 in 2^-16 by the mean class of the block, 9 .. 33: E8, then relaxed E8.
   Made by drawing 2^22 vectors of eight N(0, sigma), sigma = 2^((class - 33) / 8), and taking the
   exact nearest point of D8 u (D8 + 1/2), or D8 u (Z^8 + 1/2). From there on it is 1/2, or the
   constant 0.5546 that relaxing gives. Part of the format. */
LQ__STATIC int lq__table_coset(lq__rans_table *t, uint32_t relaxed, uint32_t index)
{
    static const uint16_t one[2][LQ__T_COSETS] = {
        {16,    16,    16,    45,    203,   665,   1770,  3820,  6971,  11047, 15622, 20157, 24159,
         27349, 29649, 31160, 32024, 32490, 32684, 32745, 32768, 32768, 32768, 32768, 32768},
        {16,    16,    16,    70,    299,   929,   2358,  4883,  8629,  13284, 18365, 23284, 27506,
         30827, 33198, 34710, 35603, 36065, 36253, 36321, 36345, 36345, 36345, 36345, 36345}};
    uint32_t freq[32] = {0};
    int status;
    freq[0] = 16;
    freq[17] = one[relaxed][index];
    freq[16] = 65536 - 16 - freq[17];
    status = lq__table_finish(t, freq);
    return status ? status : lq__table_index(t);
}

/* Mean of t - a over [a, b] under exp(-t^2 / 2) where that is too small to integrate: 32 midpoints
   of exp(-(t^2 - a^2) / 2), up to b or to where nothing is left. All in q16. */
LQ__STATIC uint64_t lq__tail_mean(uint64_t a, uint64_t b)
{
    uint64_t reach = ((uint64_t)16 << 32) / (a + 65536);
    uint64_t span = LQ__MIN(reach, b - a);
    uint64_t sum = 0;
    uint64_t moment = 0;
    uint32_t j;
    for (j = 1; j < 64; j += 2) {
        uint64_t d = span * j >> 6;
        uint64_t weight = lq__exp2_neg_q36((a * d + d * d / 2) * 94548 >> 16) >> 12; /* log2 e */
        sum += weight;
        moment += weight * d;
    }
    return moment / LQ__MAX(sum, 1);
}

/* Centroids of the cells |k| = 1 .. 15 with their dead zone:
     sigma * (exp(-a^2 / 2) - exp(-b^2 / 2)) / integral from a to b,  a and b the edges over sigma.
     */
LQ__STATIC void lq__centroids(const lq_tables *tables, int16_t *centroid, int class_)
{
    uint64_t sigma = lq__exp2_eighths_q30(class_ - LQ_CLASS_ONE) >> 10; /* q20 */
    uint64_t inverse = lq__exp2_eighths_q30(LQ_CLASS_ONE - class_);
    int32_t dead_zone = lq__dead_zone_q16(class_);
    int k;
    for (k = 1; k < 16; k++) {
        uint64_t a = (uint64_t)lq__cell_edge(k, LQ__AT_0, dead_zone) * inverse >> 30;
        uint64_t b = (uint64_t)lq__cell_edge(k + 1, LQ__AT_0, dead_zone) * inverse >> 30;
        uint64_t mass = lq__mass(tables, b << 8) - lq__mass(tables, a << 8);
        uint64_t at; /* q12 steps */
        if (mass >> 24) {
            at = (lq__gauss_q36(a) - lq__gauss_q36(b)) * sigma + mass / 2;
            at /= mass;
        } else {
            at = (a + lq__tail_mean(a, b)) * sigma >> 24;
        }
        centroid[k] = (int16_t)(k * 4096 - (int32_t)at);
    }
    centroid[0] = 0;
}

#if LQ__RANS_SIMD
LQ__STATIC void lq__shuffles(lq_tables *t)
{
    uint32_t set;
    uint32_t lane;
    for (set = 0; set < 256; set++) {
        uint32_t rank = 0;
        uint32_t place = 0;
        for (lane = 0; lane < 8; lane++) {
            place += 1 - (set >> lane & 1);
        }
        memset(t->expand[set], 128, 16);
        memset(t->compress[set], 128, 16);
        for (lane = 0; lane < 8; lane++) {
            if (set >> lane & 1) {
                t->expand[set][2 * lane] = (uint8_t)(2 * rank);
                t->expand[set][2 * lane + 1] = (uint8_t)(2 * rank + 1);
                t->compress[set][2 * (place + rank)] = (uint8_t)(2 * lane);
                t->compress[set][2 * (place + rank) + 1] = (uint8_t)(2 * lane + 1);
                rank++;
            }
        }
    }
}
#endif

LQ_API size_t lq_tables_bytes(void)
{
    return sizeof(lq_tables) + 63;
}

LQ_API int lq_tables_init(const lq_tables **tables, void *mem, size_t mem_bytes)
{
    lq_tables *t;
    uint32_t i;
    int status = LQ_OK;
    if (!tables || !mem) {
        return LQ_E_ARG;
    }
    if (mem_bytes < lq_tables_bytes()) {
        return LQ_E_SPACE;
    }
    t = (lq_tables *)(void *)((uint8_t *)mem + ((0 - (size_t)(uintptr_t)mem) & 63));
    t->mass[0] = 0;
    for (i = 0; i < LQ__MASS_COUNT; i++) {
        t->mass[i + 1] = t->mass[i] + lq__gauss_q36((2 * i + 1) * 128);
    }
    for (i = 0; i < LQ__T_GAUSS && !status; i++) {
        status = lq__table_gauss(t, &t->table[i], (int)(i / LQ__T_OFFSETS) - LQ__T_LOW,
                                 i % LQ__T_OFFSETS);
    }
    for (i = 0; i < 2 * LQ__T_COSETS && !status; i++) {
        status = lq__table_coset(&t->table[LQ__T_GAUSS + i], i / LQ__T_COSETS, i % LQ__T_COSETS);
    }
    memset(t->centroid, 0, sizeof t->centroid);
    for (i = 1; i <= LQ__CLASS_WIDE; i++) {
        lq__centroids(t, t->centroid[i], (int)i);
    }
#if LQ__RANS_SIMD
    lq__shuffles(t);
#endif
    *tables = t;
    return status;
}

/* Number of a table. Its class is at most LQ__CLASS_WIDE. */
LQ__INLINE uint16_t lq__table_of(int class_, uint32_t offset)
{
    return (uint16_t)((uint32_t)(class_ + LQ__T_LOW) * LQ__T_OFFSETS + offset);
}

/* Frequency of a value, the escape's if it has none; for tests. */
LQ__STATIC uint32_t lq__freq(const lq_tables *tables, int class_, uint32_t offset, int32_t value)
{
    const lq__rans_table *t = &tables->table[lq__table_of(class_, offset)];
    return t->code_freq[value < -15 || value > 15 ? 0 : value + 16];
}

/* How far inside of abs_k the centroid of Z's cell lies, in q12 steps; negative where the dead zone
   outweighs the slope. Beyond 15, and for the classes with raw bits, the slope alone: k / (12 s^2),
   at most what |k| = 15 has, at most 1/2. */
LQ__STATIC int32_t lq__centroid_q12(const lq_tables *tables, uint32_t class_, uint32_t abs_k)
{
    uint64_t slope;
    uint32_t down;
    if (class_ == 0 || abs_k == 0 || class_ > LQ_CLASS_MAX) {
        return 0;
    }
    if (class_ <= LQ__CLASS_WIDE) {
        return tables->centroid[class_][LQ__MIN(abs_k, 15)];
    }
    down = 2 * (class_ - LQ_CLASS_ONE); /* s^-2 = 2^(-down / 8) */
    slope = ((uint64_t)1 << 60) / (lq__exp2_eighths_q30((int)(down & 7)) * 12); /* q30 */
    slope = (slope >> (down >> 3)) * LQ__MIN(abs_k, 65535u) >> 18;
    return (int32_t)LQ__MIN(slope, 2048u);
}

/* The dead zone of Z in q12 steps: what the quantizer must use for its integers to fit the tables.
   */
LQ__STATIC int32_t lq__dead_zone_q12(const lq_tables *tables, uint32_t class_)
{
    (void)tables;
    return class_ ? (lq__dead_zone_q16((int)class_) + 8) >> 4 : 0;
}

/* ---- plan: the kind, the raw bits and the tables of every row ----
   A row's integer z is split into a coded symbol h = z >> shift and raw bits below it:
     z  plain    shift = raw                             z = h << raw | bits
        half     shift = raw + 1, k = z >> 1             z = (h << raw | bits) << 1 | parity
   Raw bits: as few as bring the class to at most 53, eight classes a bit. At 64 tokens the lanes'
   states carry about 880 bits of them for nothing; plans with less split off one more bit of rows
   with sigma >= 0.5 steps so far (not lead, half or coset rows), the highest class first, then the
   lowest row, until they have 896 or no row is left.
   Tables, by kind: offset o of the cells and class.
     Z           0 with the dead zone; with raw bits 1/4 if raw = 1, else 1/2
     PLAIN       0 without dead zone; with raw bits as Z. Lead rows, and D4's first three
     COSET       0 or 1, by the mean class of its block
     SHIFTED     coset / 2; with raw bits 1/2. E8's z0 .. z6
     HALF        class - 8, (parity + coset / 2) / 2, parity being the LSBs of the symbols before it
                 in its block, an escape's taken as 0. If any row of the block has raw bits the
                 symbol's LSB says nothing, and parity is left out: 1/4 + coset / 4, with own raw
                 bits 1/2. D4's z3, E8's z7
     relaxed E8  lanes of coset 1 have no parity: their z7 is a SHIFTED one in the HALF row
   Parity is the XOR of the true LSBs of the integers before, escapes and raw bits merged. A block
   with a dead row is no lattice block: all its rows are Z, its coset row is dead. */
enum { LQ__ROW_Z, LQ__ROW_PLAIN, LQ__ROW_COSET, LQ__ROW_SHIFTED, LQ__ROW_HALF };

/* What the table of a lane depends on; its number is table[2 parity + coset]. */
#define LQ__BY_COSET 1u
#define LQ__BY_PARITY 2u
#define LQ__BY_BOTH 3u

struct lq_rans_row {
    uint32_t row;   /* in the matrix */
    uint32_t coset; /* matrix row of the block's coset; its own number if there is none */
    uint16_t table[4];
    uint8_t raw[2];   /* by coset */
    uint8_t shift[2]; /* by coset */
    uint8_t kind;
    uint8_t by;
    uint8_t before;      /* HALF: coded rows of the block before this one */
    uint8_t class_;      /* COSET: the block's mean class */
    uint32_t merge_next; /* next row with raw bits or a parity to merge, else coded_rows */
};

/* Raw bits that bring a class to at most LQ__CLASS_WIDE. */
LQ__INLINE int lq__raw_of(int class_)
{
    return class_ > LQ__CLASS_WIDE ? (class_ - LQ__CLASS_WIDE + 7) >> 3 : 0;
}

/* Whether a block of rows is a lattice block: none is dead. */
LQ__STATIC int lq__block_is_lattice(const uint8_t *classes, size_t dims)
{
    size_t i;
    for (i = 0; i < dims; i++) {
        if (classes[i] == 0) {
            return 0;
        }
    }
    return 1;
}

LQ__INLINE size_t lq__rans_block(int quantizer)
{
    return quantizer == LQ_Z ? 1 : quantizer == LQ_D4 ? 4 : 8;
}

LQ_API size_t lq_rans_matrix_rows(size_t rows, size_t lead_rows, int quantizer)
{
    if (rows == 0 || rows > LQ_RANS_ROWS_MAX || lead_rows > rows || quantizer < LQ_Z ||
        quantizer > LQ_E8_RELAXED) {
        return 0;
    }
    return rows + (quantizer >= LQ_E8 ? (rows - lead_rows) / 8 : 0);
}

LQ_API size_t lq_rans_plan_bytes(size_t rows)
{
    size_t most = lq_rans_matrix_rows(rows, 0, LQ_E8);
    return most ? most * sizeof(lq_rans_row) + 3 : 0;
}

LQ__STATIC lq_rans_row *lq__row_add(lq_rans_row *r, size_t row, int kind, int class_)
{
    memset(r, 0, sizeof *r);
    r->row = (uint32_t)row;
    r->coset = (uint32_t)row;
    r->kind = (uint8_t)kind;
    r->class_ = (uint8_t)class_;
    if (kind != LQ__ROW_COSET) {
        r->raw[0] = (uint8_t)lq__raw_of(kind == LQ__ROW_HALF ? class_ - 8 : class_);
        r->raw[1] = r->raw[0];
    }
    return r + 1;
}

/* The rows of one lattice block. */
LQ__STATIC lq_rans_row *lq__block_add(lq_rans_row *r, size_t row, const uint8_t *classes,
                                      int quantizer)
{
    size_t dims = lq__rans_block(quantizer);
    size_t coset = row;
    int sum = 4;
    size_t i;
    if (dims == 8) {
        for (i = 0; i < 8; i++) {
            sum += classes[i];
        }
        r = lq__row_add(r, row++, LQ__ROW_COSET, sum >> 3);
    }
    for (i = 0; i < dims; i++) {
        int kind = i == dims - 1 ? LQ__ROW_HALF : dims == 8 ? LQ__ROW_SHIFTED : LQ__ROW_PLAIN;
        lq_rans_row *own = r;
        r = lq__row_add(r, row++, kind, classes[i]);
        own->coset = (uint32_t)(dims == 8 ? coset : own->row);
        own->before = (uint8_t)(kind == LQ__ROW_HALF ? dims - 1 : 0);
        if (kind == LQ__ROW_HALF && quantizer == LQ_E8_RELAXED) {
            own->raw[1] = (uint8_t)lq__raw_of(classes[i]);
        }
    }
    return r;
}

/* Splits off bits until the plan has 14 * 64 of them, about what the payload takes. */
LQ__STATIC void lq__plan_widen(lq_rans_row *rows, size_t count, size_t lead_rows)
{
    uint32_t have = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        have += rows[i].raw[0];
    }
    for (; have < 14; have++) {
        lq_rans_row *best = NULL;
        for (i = 0; i < count; i++) {
            lq_rans_row *r = &rows[i];
            int spare = r->kind == LQ__ROW_Z || r->kind == LQ__ROW_SHIFTED ||
                        (r->kind == LQ__ROW_PLAIN && r->row >= lead_rows);
            if (spare && r->class_ - 8 * r->raw[0] >= LQ__CLASS_SPARE && r->by == 0 &&
                (!best || r->class_ > best->class_)) {
                best = r;
            }
        }
        if (!best) {
            return;
        }
        best->raw[0]++;
        best->raw[1]++;
        best->by = 1; /* taken; lq__row_tables sets what it means */
    }
}

/* Tables and shifts of a row, its raw bits known. */
LQ__STATIC void lq__row_tables(lq_rans_row *r, int block_has_raw, int relaxed)
{
    int class_ = r->class_ - 8 * r->raw[0];
    uint32_t wide = r->raw[0] == 1 ? LQ__AT_1_4 : LQ__AT_1_2;
    uint32_t cosets = r->coset != r->row ? LQ__BY_COSET : 0;
    uint32_t i;
    r->by = 0;
    for (i = 0; i < 4; i++) {
        uint32_t coset = cosets ? i & 1 : 0;
        uint32_t offset = LQ__AT_0;
        int own = class_;
        r->shift[i & 1] = r->raw[i & 1];
        if (r->kind == LQ__ROW_COSET) {
            int index = LQ__MAX(r->class_, (int)LQ__COSET_LOW);
            index = LQ__MIN(index, (int)LQ__COSET_HIGH) - LQ__COSET_LOW;
            r->table[i] = (uint16_t)(LQ__T_GAUSS + (relaxed ? LQ__T_COSETS : 0) + index);
            continue;
        } else if (r->kind == LQ__ROW_Z) {
            offset = r->raw[0] ? wide : LQ__AT_0;
        } else if (r->kind == LQ__ROW_PLAIN) {
            offset = r->raw[0] ? wide : LQ__AT_0_PLAIN;
        } else if (r->kind == LQ__ROW_SHIFTED || (relaxed && coset)) {
            offset = r->raw[coset] || coset ? LQ__AT_1_2 : LQ__AT_0_PLAIN;
            own = r->class_ - 8 * r->raw[coset];
        } else {
            r->shift[i & 1]++;
            own = class_ - 8;
            offset = (i >> 1) * 2 + coset ? (i >> 1) * 2 + coset : LQ__AT_0_PLAIN;
            if (block_has_raw) {
                offset = r->raw[0] ? LQ__AT_1_2 : LQ__AT_1_4 + coset;
            } else {
                r->by = LQ__BY_PARITY;
            }
        }
        r->table[i] = lq__table_of(own, offset);
    }
    if (r->table[0] != r->table[1] || r->shift[0] != r->shift[1]) {
        r->by = (uint8_t)(r->by | cosets);
    }
}

LQ_API int lq_rans_plan_init(lq_rans_plan *plan, void *mem, size_t mem_bytes,
                             const uint8_t *classes, size_t rows, size_t lead_rows, int quantizer)
{
    size_t matrix_rows = lq_rans_matrix_rows(rows, lead_rows, quantizer);
    size_t dims = lq__rans_block(quantizer);
    lq_rans_row *first;
    lq_rans_row *r;
    size_t row = 0;
    size_t i;
    size_t j;
    if (!plan || !mem || !classes || matrix_rows == 0) {
        return LQ_E_ARG;
    }
    for (i = 0; i < rows; i++) {
        if (classes[i] > LQ_CLASS_MAX) {
            return LQ_E_ARG;
        }
    }
    if (mem_bytes < lq_rans_plan_bytes(rows)) {
        return LQ_E_SPACE;
    }
    first = (lq_rans_row *)(void *)((uint8_t *)mem + ((0 - (size_t)(uintptr_t)mem) & 3));
    r = first;
    for (i = 0; i < rows;) {
        size_t block = i < lead_rows || rows - i < dims ? 1 : dims;
        int lattice = block > 1 && lq__block_is_lattice(classes + i, block);
        if (lattice) {
            r = lq__block_add(r, row, classes + i, quantizer);
        }
        row += block == 8 && !lattice;
        for (j = 0; j < block && !lattice; j++) {
            if (classes[i + j]) {
                int kind = i < lead_rows ? LQ__ROW_PLAIN : LQ__ROW_Z;
                r = lq__row_add(r, row + j, kind, classes[i + j]);
            }
        }
        row += block + (block == 8 && lattice);
        i += block;
    }
    plan->rows = matrix_rows;
    plan->coded_rows = (size_t)(r - first);
    plan->coded = first;
    plan->raw_bits = 0;
    plan->merge_first = plan->coded_rows;
    lq__plan_widen(first, plan->coded_rows, lead_rows);
    for (i = 0; i < plan->coded_rows; i++) {
        int raw = first[i].raw[0] || first[i].raw[1];
        for (j = 1; j <= first[i].before; j++) {
            raw |= first[i - j].raw[0];
        }
        lq__row_tables(&first[i], raw, quantizer == LQ_E8_RELAXED);
        plan->raw_bits += LQ__MAX(first[i].raw[0], first[i].raw[1]);
    }
    for (i = plan->coded_rows; i-- > 0;) {
        first[i].merge_next = (uint32_t)plan->merge_first;
        if ((first[i].shift[0] || first[i].shift[1]) && !(first[i].by & LQ__BY_PARITY)) {
            plan->merge_first = i;
        }
    }
    return LQ_OK;
}

/* ---- pages in flight ---- */
typedef struct lq__rans_flow {
    uint16_t hi[32]; /* the lanes' states */
    uint16_t lo[32];
    int16_t *values;
    uint64_t *escape; /* (coded rows) tokens that escaped */
    uint64_t *parity; /* (coded rows) encoder: parity of HALF rows by token */
    uint8_t *words;   /* encoder: the words so far, growing downward */
    uint8_t *words_end;
    uint8_t *raw; /* the raw section, the lanes' payload first */
    size_t raw_bits;
    size_t payload_bits; /* encoder: those of the first states */
    const uint8_t *at;   /* decoder: next word; how far it may read */
    const uint8_t *end;
    const uint8_t *src_at; /* where the copy in `tail` comes from, NULL while there is none */
    const uint8_t *src_end;
    uint8_t *tail;
    uint64_t active; /* tokens in use */
    uint32_t tokens;
    uint32_t lanes;
    int overrun;
} lq__rans_flow;

/* One per CPU level. scan: selects tables, finds escapes and writes the raw section of a page to be
   encoded. encode, decode: all steps of 1 .. 8 pages. merge: raw bits into a decoded page. */
typedef struct lq__rans_kernels {
    int (*scan)(const lq_tables *, const lq_rans_plan *, lq__rans_flow *);
    void (*encode)(const lq_tables *, const lq_rans_plan *, lq__rans_flow *, size_t);
    void (*decode)(const lq_tables *, const lq_rans_plan *, lq__rans_flow *, size_t);
    void (*merge)(const lq_rans_plan *, lq__rans_flow *);
} lq__rans_kernels;

/* Bits, lowest first. A put writes 8 bytes from the current one on, a get reads 8. */
typedef struct lq__bits {
    uint8_t *at;
    uint64_t buffer;
    uint32_t count; /* below 8 */
} lq__bits;

LQ__INLINE void lq__bits_put(lq__bits *b, uint64_t value, uint32_t bits) /* bits <= 56 */
{
    b->buffer |= value << b->count;
    lq__store64(b->at, b->buffer);
    b->count += bits;
    b->at += b->count >> 3;
    b->buffer >>= b->count & 56;
    b->count &= 7;
}

LQ__INLINE uint64_t lq__bits_get(const uint8_t *src, size_t *position, uint32_t bits) /* <= 56 */
{
    uint64_t v = lq__load64(src + (*position >> 3)) >> (*position & 7);
    *position += bits;
    return v & (((uint64_t)1 << bits) - 1);
}

LQ__INLINE uint32_t lq__lowest_bit(uint64_t x) /* x > 0 */
{
#if defined(__GNUC__) || defined(__clang__)
    return (uint32_t)__builtin_ctzll(x);
#else
    return lq__log2_floor(x & (0 - x));
#endif
}

LQ__INLINE uint32_t lq__octave(uint32_t x) /* floor(log2 x), x > 0 */
{
#if defined(__GNUC__) || defined(__clang__)
    return 31 - (uint32_t)__builtin_clz(x);
#else
    return lq__log2_floor(x);
#endif
}

LQ__INLINE uint32_t lq__bit_of(uint64_t mask, uint32_t token)
{
    return (uint32_t)(mask >> token) & 1;
}

/* The coset of a token, 0 where the row has none. */
LQ__INLINE uint32_t lq__coset_of(const lq_rans_row *r, const int16_t *values, uint32_t token)
{
    return r->coset == r->row ? 0 : (uint32_t)values[(size_t)r->coset * 64 + token] & 1;
}

/* XOR of the LSBs of the rows before a HALF row. */
LQ__INLINE uint32_t lq__parity_of(const lq_rans_row *r, const int16_t *values, uint32_t token)
{
    int32_t x = 0;
    uint32_t j;
    for (j = 1; j <= r->before; j++) {
        x ^= values[(size_t)(r->row - j) * 64 + token];
    }
    return (uint32_t)x & 1;
}

/* ---- encode: scan ---- */
/* One token of a row. Returns 0 for what no lattice has. */
LQ__INLINE int lq__scan_token(const lq_tables *tables, const lq_rans_plan *plan, lq__rans_flow *f,
                              size_t i, uint32_t token, lq__bits *bits)
{
    const lq_rans_row *r = &plan->coded[i];
    int32_t own = f->values[(size_t)r->row * 64 + token];
    uint32_t coset = lq__coset_of(r, f->values, token);
    uint32_t parity = 0;
    int32_t z = own;
    uint32_t j;
    const lq__rans_table *t;
    int32_t h;
    if (r->kind == LQ__ROW_COSET && (z & ~1)) {
        return 0;
    }
    if (r->shift[coset] > r->raw[coset] &&
        ((lq__parity_of(r, f->values, token) ^ (uint32_t)z) & 1)) {
        return 0;
    }
    if (r->by & LQ__BY_PARITY) {
        for (j = 1; j <= r->before; j++) {
            z = f->values[(size_t)(r->row - j) * 64 + token];
            parity ^= (uint32_t)z & 1 & ~lq__bit_of(f->escape[i - j], token);
        }
    }
    t = &tables->table[r->table[2 * parity + coset]];
    h = own >> r->shift[coset];
    f->parity[i] |= (uint64_t)parity << token;
    f->escape[i] |= (uint64_t)(h < t->low || h > t->high) << token;
    if (r->raw[coset]) {
        lq__bits_put(bits,
                     (uint32_t)(own >> (r->shift[coset] - r->raw[coset])) &
                         ((1u << r->raw[coset]) - 1),
                     r->raw[coset]);
    }
    return 1;
}

/* Exp-Golomb code of order 2 of the zigzag of h: n - 2 zeros, a one, the n low bits of v = zigzag +
   4, n = floor(log2 v) <= 16: at most 31 bits, and raw + escape at most 31 too, for h has 16 - raw
   bits. */
LQ__STATIC void lq__escape_put(lq__bits *bits, int32_t h)
{
    uint32_t v = ((uint32_t)h * 2 ^ (uint32_t)(h >> 31)) + 4;
    uint32_t n = lq__octave(v);
    uint64_t low = v & ((1u << n) - 1);
    lq__bits_put(bits, (uint64_t)1 << (n - 2) | low << (n - 1), 2 * n - 1);
}

/* The escaped values, all rows, behind the raw bits; the length of the section. */
LQ__STATIC void lq__scan_finish(const lq_rans_plan *plan, lq__rans_flow *f, lq__bits *bits)
{
    size_t i;
    for (i = 0; i < plan->coded_rows; i++) {
        const lq_rans_row *r = &plan->coded[i];
        uint64_t escape;
        for (escape = f->escape[i]; escape; escape &= escape - 1) {
            uint32_t token = lq__lowest_bit(escape);
            uint32_t coset = lq__coset_of(r, f->values, token);
            lq__escape_put(bits, f->values[(size_t)r->row * 64 + token] >> r->shift[coset]);
        }
    }
    lq__store64(bits->at, bits->buffer);
    f->raw_bits = (size_t)(bits->at - f->raw) * 8 + bits->count;
}

LQ__STATIC int lq__rans_scan_c(const lq_tables *tables, const lq_rans_plan *plan, lq__rans_flow *f)
{
    uint32_t tokens = f->tokens;
    lq__bits bits = {f->raw, 0, 0};
    size_t i;
    uint32_t token;
    for (i = 0; i < plan->coded_rows; i++) {
        f->escape[i] = 0;
        f->parity[i] = 0;
        for (token = 0; token < tokens; token++) {
            if (!lq__scan_token(tables, plan, f, i, token, &bits)) {
                return LQ_E_ARG;
            }
        }
    }
    lq__scan_finish(plan, f, &bits);
    return LQ_OK;
}

/* ---- encode and decode: steps. This code is the specification ---- */
LQ__INLINE void lq__states_load(uint32_t *x, const lq__rans_flow *f)
{
    uint32_t l;
    for (l = 0; l < LQ__LANES; l++) {
        x[l] = (uint32_t)f->hi[l] << 16 | f->lo[l];
    }
}

LQ__INLINE void lq__states_store(lq__rans_flow *f, const uint32_t *x)
{
    uint32_t l;
    for (l = 0; l < LQ__LANES; l++) {
        f->hi[l] = (uint16_t)(x[l] >> 16);
        f->lo[l] = (uint16_t)x[l];
    }
}

/* The table of a token. */
LQ__INLINE const lq__rans_table *lq__table_at(const lq_tables *tables, const lq_rans_row *r,
                                              uint32_t coset, uint32_t parity)
{
    return &tables->table[r->table[2 * parity + coset]];
}

LQ__STATIC void lq__rans_encode_c(const lq_tables *tables, const lq_rans_plan *plan,
                                  lq__rans_flow *flows, size_t count)
{
    uint32_t states[LQ__LANES];
    size_t g;
    size_t i;
    uint32_t token;
    for (g = 0; g < count; g++) {
        lq__rans_flow *f = &flows[g];
        uint8_t *words = f->words;
        lq__states_load(states, f);
        for (i = plan->coded_rows; i-- > 0;) {
            const lq_rans_row *r = &plan->coded[i];
            const int16_t *v = f->values + (size_t)r->row * 64;
            const lq__rans_table *t = lq__table_at(tables, r, 0, 0);
            uint32_t shift = r->shift[0];
            for (token = f->tokens; token-- > 0;) {
                uint32_t x = states[token % LQ__LANES];
                uint32_t s;
                uint32_t freq;
                uint32_t out;
                if (r->by) {
                    uint32_t coset = lq__coset_of(r, f->values, token);
                    t = lq__table_at(tables, r, coset, lq__bit_of(f->parity[i], token));
                    shift = r->shift[coset];
                }
                s = (uint32_t)((v[token] >> shift) + 16);
                s = s > 31 ? 0 : s;
                freq = t->code_freq[s];
                lq__store16(words - 2, x); /* a step has room for a word, taken or not */
                out = x >> 16 >= freq;
                words -= 2 * out;
                x >>= 16 * out;
                states[token % LQ__LANES] = (x / freq << 16) + t->code_begin[s] + x % freq;
            }
        }
        f->words = words;
        lq__states_store(f, states);
    }
}

/* One symbol of one lane; the interval's number. A word is taken where x fell below L; behind the
   end there are zeros. */
LQ__INLINE uint32_t lq__decode_symbol(const lq__rans_table *t, uint32_t *state, const uint8_t **at,
                                      const uint8_t *end, int *overrun)
{
    uint32_t lo = *state & 65535;
    uint32_t s = t->start[lo >> 10];
    uint32_t word = 0;
    uint32_t need;
    uint32_t x;
    s += lo > t->end[s];
    s += lo > t->end[s];
    x = t->freq[s] * (*state >> 16) + lo - t->begin[s];
    need = x < 65536;
    if (end - *at >= 2) { /* no branch on need, which no processor predicts */
        word = lq__load16(*at);
        *at += 2 * need;
    } else {
        *overrun |= (int)need;
    }
    *state = x << 16 * need | (word & (0 - need));
    return s;
}

LQ__STATIC void lq__rans_decode_c(const lq_tables *tables, const lq_rans_plan *plan,
                                  lq__rans_flow *flows, size_t count)
{
    uint32_t states[LQ__LANES];
    size_t g;
    size_t i;
    uint32_t token;
    for (g = 0; g < count; g++) {
        lq__rans_flow *f = &flows[g];
        const uint8_t *at = f->at;
        int overrun = 0;
        lq__states_load(states, f);
        for (i = 0; i < plan->coded_rows; i++) {
            const lq_rans_row *r = &plan->coded[i];
            const lq__rans_table *t = lq__table_at(tables, r, 0, 0);
            int16_t *v = f->values + (size_t)r->row * 64;
            uint64_t escape = 0;
            for (token = 0; token < f->tokens; token++) {
                uint32_t coset = 0;
                uint32_t parity = 0;
                uint32_t s;
                if (r->by) {
                    coset = lq__coset_of(r, f->values, token);
                    parity = r->by & LQ__BY_PARITY ? lq__parity_of(r, f->values, token) : 0;
                    t = lq__table_at(tables, r, coset, parity);
                }
                s = lq__decode_symbol(t, &states[token % LQ__LANES], &at, f->end, &overrun);
                escape |= (uint64_t)(s == 0) << token;
                v[token] = t->value[s];
                if (r->by & LQ__BY_PARITY) { /* no raw bits: shift is 1 in the half lanes, else 0 */
                    v[token] = (int16_t)(v[token] * (1 << r->shift[coset]) +
                                         (int)(parity & r->shift[coset]));
                }
            }
            for (; token < 64; token++) {
                v[token] = 0;
            }
            f->escape[i] = escape;
        }
        f->at = at;
        f->overrun = overrun;
        lq__states_store(f, states);
    }
}

/* ---- decode: raw bits, escapes, parities ---- */
/* Raw bits of one token under its symbol, in place. HALF rows get their parity later. */
LQ__INLINE void lq__merge_token(const lq_rans_row *r, lq__rans_flow *f, uint32_t token,
                                size_t *position)
{
    int16_t *v = f->values + (size_t)r->row * 64 + token;
    uint32_t coset = lq__coset_of(r, f->values, token);
    uint32_t bits = (uint32_t)lq__bits_get(f->raw, position, r->raw[coset]);
    *v = (int16_t)(*v * (1 << r->shift[coset]) + (int)(bits << (r->shift[coset] - r->raw[coset])));
}

LQ__STATIC void lq__rans_merge_c(const lq_rans_plan *plan, lq__rans_flow *f)
{
    uint32_t tokens = f->tokens;
    size_t position = 0;
    size_t i;
    uint32_t token;
    for (i = plan->merge_first; i < plan->coded_rows; i = plan->coded[i].merge_next) {
        for (token = 0; token < tokens; token++) {
            lq__merge_token(&plan->coded[i], f, token, &position);
        }
    }
    f->raw_bits = position;
}

/* One escaped value added to what stands in its place, which is zero but for raw bits and parity.
   avail: bits of the raw section. Returns 0 if it runs out, or leaves 16 bits. */
LQ__STATIC int lq__escape_get(const lq_rans_row *r, lq__rans_flow *f, uint32_t token, size_t avail,
                              int *odd)
{
    int16_t *v = f->values + (size_t)r->row * 64 + token;
    uint32_t coset = lq__coset_of(r, f->values, token);
    size_t start = f->raw_bits;
    uint32_t code = (uint32_t)lq__bits_get(f->raw, &start, 31);
    uint32_t zeros = lq__lowest_bit(code | 32768);
    int32_t h;
    int32_t z;
    if (zeros == 15 || avail - f->raw_bits < 2 * zeros + 3 || r->kind == LQ__ROW_COSET) {
        return 0;
    }
    code = (code >> (zeros + 1) & ((1u << (zeros + 2)) - 1)) + (1u << (zeros + 2)) - 4;
    h = (int32_t)(code >> 1) ^ -(int32_t)(code & 1);
    f->raw_bits += 2 * zeros + 3;
    if (code > 65535) {
        return 0;
    }
    z = h * (1 << r->shift[coset]) + *v;
    if (z < -32768 || z > 32767) {
        return 0;
    }
    *v = (int16_t)z;
    *odd = h & 1;
    return 1;
}

/* All escapes. Where a HALF row's parity was taken from its block's symbols, each odd escape turns
   it: the rows of a block follow one another, so the HALF row is the next one of that kind. */
LQ__STATIC int lq__escapes_get(const lq_rans_plan *plan, lq__rans_flow *f, size_t avail)
{
    size_t i;
    size_t j;
    for (i = 0; i < plan->coded_rows; i++) {
        const lq_rans_row *r = &plan->coded[i];
        const lq_rans_row *half = NULL;
        uint64_t escape;
        if (!f->escape[i]) {
            continue;
        }
        for (j = i + 1; j < plan->coded_rows && j < i + 8 && !half; j++) {
            const lq_rans_row *next = &plan->coded[j];
            half = (next->by & LQ__BY_PARITY) && j - i <= next->before ? next : NULL;
        }
        for (escape = f->escape[i]; escape; escape &= escape - 1) {
            uint32_t token = lq__lowest_bit(escape);
            int odd = 0;
            if (!lq__escape_get(r, f, token, avail, &odd)) {
                return LQ_E_DATA;
            }
            if (odd && half && half->shift[lq__coset_of(half, f->values, token)]) {
                f->values[(size_t)half->row * 64 + token] ^= 1;
            }
        }
    }
    return LQ_OK;
}

/* Parities of the HALF rows of blocks with raw bits; relaxed E8 has none in coset 1. Unused columns
   are zero and stay so. */
LQ__STATIC void lq__parities_merge(const lq_rans_plan *plan, lq__rans_flow *f)
{
    size_t i;
    uint32_t j;
    uint32_t token;
    for (i = plan->merge_first; i < plan->coded_rows; i = plan->coded[i].merge_next) {
        const lq_rans_row *r = &plan->coded[i];
        int16_t *v = f->values + (size_t)r->row * 64;
        const int16_t *coset = f->values + (size_t)r->coset * 64;
        int16_t parity[64];
        int16_t relaxed = (int16_t)(r->shift[1] == r->raw[1]);
        if (r->kind != LQ__ROW_HALF) {
            continue;
        }
        memcpy(parity, v - 64, sizeof parity);
        for (j = 2; j <= r->before; j++) {
            const int16_t *other = v - 64 * (size_t)j;
            for (token = 0; token < 64; token++) {
                parity[token] = (int16_t)(parity[token] ^ other[token]);
            }
        }
        for (token = 0; token < 64; token++) {
            v[token] = (int16_t)(v[token] | (parity[token] & 1 & ~(relaxed & coset[token])));
        }
    }
}

#if LQ__RANS_SIMD
/* A load that must not be folded into the instruction that uses it; a number to be in a register.
   */
#define LQ__KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
#define LQ__OPAQUE(v) __asm__("" : "+r"(v))
#define LQ__INLINE_256 LQ__TARGET_AVX2 LQ__INLINE
#define LQ__INLINE_512 LQ__TARGET_AVX512 LQ__INLINE
#define LQ__STATIC_256 LQ__TARGET_AVX2 LQ__STATIC
#define LQ__STATIC_512 LQ__TARGET_AVX512 LQ__STATIC
#define LQ__FRAME_256 __attribute__((noinline)) LQ__STATIC_256 /* a stack frame of its own */
#define LQ__FRAME_512 __attribute__((noinline)) LQ__STATIC_512
#if defined(__clang__)
#define LQ__HIDE_CONSTANT(v) LQ__KEEP_IN_REGISTER(v)
#else
#define LQ__HIDE_CONSTANT(v) ((void)0)
#endif

/* ---- decode: two zones ----
   A row takes at most 128 bytes of words, and reads no further than 128 bytes ahead. While every
   page has 128 bytes a row, rows run unchecked. A page with less goes on in `tail`: a copy of its
   last bytes, below 128, with zeros behind them up to LQ__TAIL. When a page has run through that it
   read behind its end: its stream is bad, and it goes on among the zeros so that the others are not
   held up. */
#define LQ__ROW_BYTES 128u

/* Rows, at least one and at most `rows`, that every page can run unchecked. */
LQ__STATIC size_t lq__rows_room(lq__rans_flow *flows, size_t count, size_t rows)
{
    size_t g;
    for (g = 0; g < count; g++) {
        lq__rans_flow *f = &flows[g];
        size_t left = (size_t)(f->end - f->at);
        if (left < LQ__ROW_BYTES && !f->src_at) {
            f->src_at = f->at;
            f->src_end = f->end;
            memcpy(f->tail, f->at, left);
            memset(f->tail + left, 0, LQ__TAIL - left);
            f->at = f->tail;
            f->end = f->tail + LQ__TAIL;
        } else if (left < LQ__ROW_BYTES) {
            f->overrun = 1;
            f->at = f->tail + LQ__ROW_BYTES;
        }
        left = (size_t)(f->end - f->at) / LQ__ROW_BYTES;
        rows = LQ__MIN(rows, left);
    }
    return rows;
}

/* From the copy back to the stream. */
LQ__STATIC void lq__flow_land(lq__rans_flow *f)
{
    if (f->src_at) {
        size_t used = (size_t)(f->at - f->tail);
        f->overrun |= used > (size_t)(f->src_end - f->src_at);
        f->at = f->overrun ? f->src_end : f->src_at + used;
        f->end = f->src_end;
    }
}

/* Whether every page has 64 tokens: the kernels then need no lane masks. */
LQ__INLINE int lq__all_full(const lq__rans_flow *flows, size_t count)
{
    uint32_t least = 64;
    size_t g;
    for (g = 0; g < count; g++) {
        least = LQ__MIN(least, flows[g].tokens);
    }
    return least == 64;
}
#endif

/* ---- AVX2 and BMI2: raw bits ---- */
#if LQ__RANS_SIMD
/* Four tokens of `raw` bits: one in each 16-bit lane. */
LQ__INLINE uint64_t lq__raw_mask(uint32_t raw)
{
    return 0x0001000100010001u * ((1u << raw) - 1);
}

/* Tokens whose raw bits fit one put or get of at most 56 bits. */
LQ__INLINE uint32_t lq__raw_tokens(uint32_t raw)
{
    return raw <= 3 ? 16 : raw <= 7 ? 8 : 4;
}

/* Raw bits of a row, 4 .. 16 tokens a time. Lanes of relaxed E8 that differ go one by one. */
LQ__STATIC_256 void lq__raw_put_bmi2(const lq_rans_row *r, const lq__rans_flow *f, lq__bits *bits)
{
    const int16_t *v = f->values + (size_t)r->row * 64;
    uint32_t tokens = f->tokens;
    uint32_t raw = r->raw[0];
    uint64_t mask = lq__raw_mask(raw) << (r->shift[0] - raw);
    uint32_t step = lq__raw_tokens(raw);
    uint32_t t;
    uint32_t u;
    if (r->raw[0] != r->raw[1]) {
        for (t = 0; t < tokens; t++) {
            uint32_t coset = lq__coset_of(r, f->values, t);
            lq__bits_put(bits,
                         (uint32_t)(v[t] >> (r->shift[coset] - r->raw[coset])) &
                             ((1u << r->raw[coset]) - 1),
                         r->raw[coset]);
        }
        return;
    }
    for (t = 0; t < tokens; t += step) {
        uint32_t count = LQ__MIN(tokens - t, step) * raw;
        uint64_t all = 0;
        for (u = 0; u < step; u += 4) {
            uint64_t four;
            memcpy(&four, v + t + u, 8);
            all |= _pext_u64(four, mask) << u * raw;
        }
        lq__bits_put(bits, all & (((uint64_t)1 << count) - 1), count);
    }
}

/* The way back, in place. HALF rows get their parity later. */
LQ__STATIC_256 void lq__raw_get_bmi2(const lq_rans_row *r, lq__rans_flow *f, size_t *position)
{
    int16_t *v = f->values + (size_t)r->row * 64;
    uint32_t tokens = f->tokens;
    uint32_t raw = r->raw[0];
    uint64_t mask = lq__raw_mask(raw) << (r->shift[0] - raw);
    uint32_t step = lq__raw_tokens(raw);
    uint32_t t;
    uint32_t u;
    if (r->shift[0] != r->shift[1] || r->raw[0] != r->raw[1]) {
        for (t = 0; t < tokens; t++) {
            lq__merge_token(r, f, t, position);
        }
        return;
    }
    for (t = 0; t < tokens; t += step) {
        uint64_t bits = lq__bits_get(f->raw, position, LQ__MIN(tokens - t, step) * raw);
        for (u = 0; u < step; u += 4) {
            __m128i low = _mm_cvtsi64_si128((long long)_pdep_u64(bits >> u * raw, mask));
            __m128i high = _mm_loadl_epi64((const __m128i *)(const void *)(v + t + u));
            high = _mm_sll_epi16(high, _mm_cvtsi32_si128(r->shift[0]));
            _mm_storel_epi64((__m128i *)(void *)(v + t + u), _mm_or_si128(high, low));
        }
    }
}

LQ__STATIC_256 void lq__rans_merge_avx2(const lq_rans_plan *plan, lq__rans_flow *f)
{
    size_t position = 0;
    size_t i;
    for (i = plan->merge_first; i < plan->coded_rows; i = plan->coded[i].merge_next) {
        lq__raw_get_bmi2(&plan->coded[i], f, &position);
    }
    f->raw_bits = position;
}

/* ---- AVX2: 32 lanes of a page in two registers of 16 ----
   Interval numbers of all 32 lanes are bytes in one register, in the order of packus: lanes 0-7,
   16-23, 8-15, 24-31, which unpacking undoes. A table of 32 words is four byte tables of 16, looked
   up by pshufb: low and high bytes, intervals below and from 16. Words go to their lanes, and from
   them, by pshufb with a mask for every set of 8 lanes. */
typedef struct lq__pair_256 {
    __m256i a; /* lanes 0 .. 15 */
    __m256i b;
} lq__pair_256;

typedef struct lq__words_256 {
    __m256i low[2];
    __m256i high[2];
} lq__words_256;

LQ__INLINE_256 __m256i lq__load_256(const void *src)
{
    return _mm256_loadu_si256((const __m256i *)src);
}

LQ__INLINE_256 __m128i lq__load_128(const void *src)
{
    return _mm_loadu_si128((const __m128i *)src);
}

LQ__INLINE_256 __m256i lq__load_both_256(const void *src)
{
    return _mm256_broadcastsi128_si256(lq__load_128(src));
}

/* 32 words to byte tables. */
LQ__INLINE_256 void lq__words_load_256(lq__words_256 *k, const void *src)
{
    const __m256i mask = _mm256_set1_epi16(255);
    uint32_t i;
    for (i = 0; i < 2; i++) {
        __m256i x = lq__load_both_256((const uint16_t *)src + 16 * i);
        __m256i y = lq__load_both_256((const uint16_t *)src + 16 * i + 8);
        k->low[i] = _mm256_packus_epi16(_mm256_and_si256(x, mask), _mm256_and_si256(y, mask));
        k->high[i] = _mm256_packus_epi16(_mm256_srli_epi16(x, 8), _mm256_srli_epi16(y, 8));
    }
}

/* Bit 4 of each byte of s picks the second table. */
LQ__INLINE_256 __m256i lq__look_byte_256(const __m256i *table, __m256i s)
{
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(table[0], s), _mm256_shuffle_epi8(table[1], s),
                              _mm256_slli_epi16(s, 3));
}

LQ__INLINE_256 lq__pair_256 lq__look_word_256(const lq__words_256 *k, __m256i s)
{
    __m256i low = lq__look_byte_256(k->low, s);
    __m256i high = lq__look_byte_256(k->high, s);
    lq__pair_256 p;
    p.a = _mm256_unpacklo_epi8(low, high);
    p.b = _mm256_unpackhi_epi8(low, high);
    return p;
}

/* Lanes as a bit mask: from packed bytes. */
LQ__INLINE_256 uint32_t lq__lanes_256(__m256i bytes)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8));
}

LQ__INLINE_256 lq__pair_256 lq__blend_256(lq__pair_256 x, lq__pair_256 y, lq__pair_256 mask)
{
    x.a = _mm256_blendv_epi8(x.a, y.a, mask.a);
    x.b = _mm256_blendv_epi8(x.b, y.b, mask.b);
    return x;
}

LQ__INLINE_256 lq__pair_256 lq__half_row_256(const int16_t *values, size_t row, uint32_t half)
{
    lq__pair_256 p;
    p.a = lq__load_256(values + row * 64 + 32 * half);
    p.b = lq__load_256(values + row * 64 + 32 * half + 16);
    return p;
}

/* Lanes whose lowest bit is set. */
LQ__INLINE_256 lq__pair_256 lq__odd_256(lq__pair_256 v)
{
    v.a = _mm256_srai_epi16(_mm256_slli_epi16(v.a, 15), 15);
    v.b = _mm256_srai_epi16(_mm256_slli_epi16(v.b, 15), 15);
    return v;
}

LQ__INLINE_256 lq__pair_256 lq__coset_256(const lq_rans_row *r, const int16_t *values,
                                          uint32_t half)
{
    lq__pair_256 none;
    none.a = _mm256_setzero_si256();
    none.b = none.a;
    return r->coset == r->row ? none : lq__odd_256(lq__half_row_256(values, r->coset, half));
}

/* XOR of the rows of the block before a HALF row. */
LQ__INLINE_256 lq__pair_256 lq__parity_256(const lq_rans_row *r, const int16_t *values,
                                           uint32_t half)
{
    lq__pair_256 x = lq__half_row_256(values, r->row - 1, half);
    uint32_t j;
    for (j = 2; j <= r->before; j++) {
        lq__pair_256 y = lq__half_row_256(values, r->row - j, half);
        x.a = _mm256_xor_si256(x.a, y.a);
        x.b = _mm256_xor_si256(x.b, y.b);
    }
    return x;
}

LQ__INLINE_256 lq__pair_256 lq__and_256(lq__pair_256 x, lq__pair_256 y)
{
    x.a = _mm256_and_si256(x.a, y.a);
    x.b = _mm256_and_si256(x.b, y.b);
    return x;
}

/* Lanes of the tokens in use. */
LQ__INLINE_256 lq__pair_256 lq__active_256(uint32_t tokens, uint32_t half)
{
    const __m256i first = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i n = _mm256_set1_epi16((int16_t)((int32_t)tokens - 32 * (int32_t)half));
    lq__pair_256 p;
    p.a = _mm256_cmpgt_epi16(n, first);
    p.b = _mm256_cmpgt_epi16(_mm256_sub_epi16(n, _mm256_set1_epi16(16)), first);
    return p;
}

/* ---- AVX2: decode ---- */
typedef struct lq__look_256 {
    __m256i start[4];
    __m256i value[2];
    lq__words_256 end;
    lq__words_256 freq;
    lq__words_256 begin;
} lq__look_256;

typedef struct lq__found_256 {
    lq__pair_256 freq;
    lq__pair_256 rest;
    __m256i value;  /* bytes */
    __m256i escape; /* bytes */
} lq__found_256;

LQ__INLINE_256 void lq__look_load_256(lq__look_256 *k, const lq__rans_table *t)
{
    lq__words_256 value;
    uint32_t i;
    for (i = 0; i < 4; i++) {
        k->start[i] = lq__load_both_256(t->start + 16 * i);
    }
    lq__words_load_256(&value, t->value);
    k->value[0] = value.low[0];
    k->value[1] = value.low[1];
    lq__words_load_256(&k->end, t->end);
    lq__words_load_256(&k->freq, t->freq);
    lq__words_load_256(&k->begin, t->begin);
}

/* s + (lo > end), unsigned. */
LQ__INLINE_256 __m256i lq__step_up_256(const lq__look_256 *k, __m256i s, lq__pair_256 lo)
{
    const __m256i one = _mm256_set1_epi16(1);
    lq__pair_256 end = lq__look_word_256(&k->end, s);
    __m256i a = _mm256_min_epu16(_mm256_subs_epu16(lo.a, end.a), one);
    __m256i b = _mm256_min_epu16(_mm256_subs_epu16(lo.b, end.b), one);
    return _mm256_add_epi8(s, _mm256_packus_epi16(a, b));
}

LQ__INLINE_256 lq__found_256 lq__find_256(const lq__look_256 *k, lq__pair_256 lo)
{
    __m256i bucket = _mm256_packus_epi16(_mm256_srli_epi16(lo.a, 10), _mm256_srli_epi16(lo.b, 10));
    __m256i s =
        _mm256_blendv_epi8(lq__look_byte_256(k->start, bucket),
                           lq__look_byte_256(k->start + 2, bucket), _mm256_slli_epi16(bucket, 2));
    lq__found_256 found;
    s = lq__step_up_256(k, s, lo);
    s = lq__step_up_256(k, s, lo);
    found.freq = lq__look_word_256(&k->freq, s);
    found.rest = lq__look_word_256(&k->begin, s);
    found.rest.a = _mm256_sub_epi16(lo.a, found.rest.a);
    found.rest.b = _mm256_sub_epi16(lo.b, found.rest.b);
    found.value = lq__look_byte_256(k->value, s);
    found.escape = _mm256_cmpeq_epi8(s, _mm256_setzero_si256());
    return found;
}

LQ__INLINE_256 void lq__found_blend_256(lq__found_256 *x, const lq__found_256 *y, lq__pair_256 mask)
{
    __m256i bytes = _mm256_packs_epi16(mask.a, mask.b);
    x->freq = lq__blend_256(x->freq, y->freq, mask);
    x->rest = lq__blend_256(x->rest, y->rest, mask);
    x->value = _mm256_blendv_epi8(x->value, y->value, bytes);
    x->escape = _mm256_blendv_epi8(x->escape, y->escape, bytes);
}

/* Words for 8 lanes, and how far that takes the stream. */
LQ__INLINE_256 __m128i lq__words_256_take(const lq_tables *tables, const uint8_t **at,
                                          uint32_t need)
{
    __m128i words = lq__load_128(*at);
    *at += 2 * (size_t)(uint32_t)_mm_popcnt_u32(need);
    return _mm_shuffle_epi8(words, lq__load_128(tables->expand[need]));
}

/* As lq__advance_512. */
LQ__INLINE_256 void lq__advance_256(const lq_tables *tables, lq__pair_256 *hi, lq__pair_256 *lo,
                                    const uint8_t **at, const lq__found_256 *found,
                                    lq__pair_256 active, int full)
{
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i zero = _mm256_setzero_si256();
    lq__pair_256 low;
    lq__pair_256 high;
    lq__pair_256 need;
    lq__pair_256 words;
    uint32_t lanes;
    __m128i w;
    low.a = _mm256_add_epi16(_mm256_mullo_epi16(found->freq.a, hi->a), found->rest.a);
    low.b = _mm256_add_epi16(_mm256_mullo_epi16(found->freq.b, hi->b), found->rest.b);
    high.a = _mm256_min_epu16(_mm256_subs_epu16(found->rest.a, low.a), one);
    high.b = _mm256_min_epu16(_mm256_subs_epu16(found->rest.b, low.b), one);
    high.a = _mm256_add_epi16(high.a, _mm256_mulhi_epu16(found->freq.a, hi->a));
    high.b = _mm256_add_epi16(high.b, _mm256_mulhi_epu16(found->freq.b, hi->b));
    need.a = _mm256_cmpeq_epi16(high.a, zero);
    need.b = _mm256_cmpeq_epi16(high.b, zero);
    need = full ? need : lq__and_256(need, active);
    lanes = lq__lanes_256(_mm256_packs_epi16(need.a, need.b));
    w = lq__words_256_take(tables, at, lanes & 255);
    words.a = _mm256_castsi128_si256(w);
    words.a = _mm256_inserti128_si256(words.a, lq__words_256_take(tables, at, lanes >> 8 & 255), 1);
    w = lq__words_256_take(tables, at, lanes >> 16 & 255);
    words.b = _mm256_castsi128_si256(w);
    words.b = _mm256_inserti128_si256(words.b, lq__words_256_take(tables, at, lanes >> 24), 1);
    high = lq__blend_256(high, low, need);
    low = lq__blend_256(low, words, need);
    *hi = full ? high : lq__blend_256(*hi, high, active);
    *lo = full ? low : lq__blend_256(*lo, low, active);
}

/* One step of one page. full, and by where it is 0, are constants to the compiler. k: the four
   tables of the row. */
LQ__INLINE_256 void lq__decode_step_256(const lq_tables *tables, const lq__look_256 *k,
                                        const lq_rans_row *r, size_t i, lq__rans_flow *f,
                                        uint32_t half, uint32_t by, int full)
{
    lq__pair_256 active = lq__active_256(f->tokens, half);
    lq__pair_256 hi = lq__half_row_256((const int16_t *)(const void *)f->hi, 0, 0);
    lq__pair_256 lo = lq__half_row_256((const int16_t *)(const void *)f->lo, 0, 0);
    lq__found_256 found = lq__find_256(&k[0], lo);
    lq__pair_256 coset = lq__coset_256(r, f->values, half);
    lq__pair_256 v;
    int16_t *dst = f->values + (size_t)r->row * 64 + 32 * half;
    uint32_t escape;
    if (by & LQ__BY_COSET) {
        lq__found_256 other = lq__find_256(&k[1], lo);
        lq__found_blend_256(&found, &other, coset);
    }
    v.a = _mm256_setzero_si256();
    v.b = v.a;
    if (by & LQ__BY_PARITY) {
        lq__found_256 even = lq__find_256(&k[2], lo);
        v = lq__odd_256(lq__parity_256(r, f->values, half));
        if (by & LQ__BY_COSET) {
            lq__found_256 odd = lq__find_256(&k[3], lo);
            lq__found_blend_256(&even, &odd, coset);
        }
        lq__found_blend_256(&found, &even, v);
    }
    lq__advance_256(tables, &hi, &lo, &f->at, &found, active, full);
    _mm256_storeu_si256((__m256i *)(void *)f->hi, hi.a);
    _mm256_storeu_si256((__m256i *)(void *)(f->hi + 16), hi.b);
    _mm256_storeu_si256((__m256i *)(void *)f->lo, lo.a);
    _mm256_storeu_si256((__m256i *)(void *)(f->lo + 16), lo.b);
    if (!full) {
        found.escape = _mm256_and_si256(found.escape, _mm256_packs_epi16(active.a, active.b));
    }
    escape = lq__lanes_256(found.escape);
    memcpy((uint8_t *)&f->escape[i] + 4 * half, &escape, 4);
    if (by & LQ__BY_PARITY) { /* 2 k + parity in the half lanes */
        lq__pair_256 k2;
        k2.a = _mm256_srai_epi16(_mm256_unpacklo_epi8(found.value, found.value), 8);
        k2.b = _mm256_srai_epi16(_mm256_unpackhi_epi8(found.value, found.value), 8);
        v.a = _mm256_sub_epi16(_mm256_add_epi16(k2.a, k2.a), v.a);
        v.b = _mm256_sub_epi16(_mm256_add_epi16(k2.b, k2.b), v.b);
        v = r->shift[1] ? v : lq__blend_256(v, k2, coset);
    } else {
        v.a = _mm256_srai_epi16(_mm256_unpacklo_epi8(found.value, found.value), 8);
        v.b = _mm256_srai_epi16(_mm256_unpackhi_epi8(found.value, found.value), 8);
    }
    v = full ? v : lq__and_256(v, active);
    _mm256_storeu_si256((__m256i *)(void *)dst, v.a);
    _mm256_storeu_si256((__m256i *)(void *)(dst + 16), v.b);
}

LQ__INLINE_256 void lq__decode_row_256(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                       lq__rans_flow *flows, size_t count, lq__look_256 *k,
                                       uint32_t by, int full)
{
    uint32_t half;
    uint32_t j;
    size_t g;
    for (j = 0; j <= by; j++) {
        lq__look_load_256(&k[j], &tables->table[r->table[j]]);
    }
    for (half = 0; half < 2; half++) {
        for (g = 0; g < count; g++) {
            lq__decode_step_256(tables, k, r, i, &flows[g], half, by, full);
        }
    }
}

/* Functions of their own: their tables share no frame. */
LQ__FRAME_256 void lq__decode_plain_256(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                        lq__rans_flow *flows, size_t count, int full)
{
    lq__look_256 k[1];
    if (full) {
        lq__decode_row_256(tables, r, i, flows, count, k, 0, 1);
    } else {
        lq__decode_row_256(tables, r, i, flows, count, k, 0, 0);
    }
}

LQ__FRAME_256 void lq__decode_lattice_256(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                          lq__rans_flow *flows, size_t count, int full)
{
    lq__look_256 k[4];
    lq__look_256 *tables_of_row = k;
    LQ__OPAQUE(tables_of_row); /* else gcc copies them all into a frame of 5 KB */
    lq__decode_row_256(tables, r, i, flows, count, tables_of_row, r->by, full);
}

LQ__STATIC_256 void lq__rans_decode_avx2(const lq_tables *tables, const lq_rans_plan *plan,
                                         lq__rans_flow *flows, size_t count)
{
    int full = lq__all_full(flows, count);
    size_t i = 0;
    size_t g;
    while (i < plan->coded_rows) {
        size_t stop = i + lq__rows_room(flows, count, plan->coded_rows - i);
        for (; i < stop; i++) {
            if (plan->coded[i].by == 0) {
                lq__decode_plain_256(tables, &plan->coded[i], i, flows, count, full);
            } else {
                lq__decode_lattice_256(tables, &plan->coded[i], i, flows, count, full);
            }
        }
    }
    for (g = 0; g < count; g++) {
        lq__flow_land(&flows[g]);
    }
}

/* ---- AVX2: encode ---- */
typedef struct lq__code_256 {
    lq__words_256 freq;
    lq__words_256 begin;
    lq__words_256 reciprocal[2];
} lq__code_256;

typedef struct lq__coded_256 {
    lq__pair_256 freq;
    lq__pair_256 begin;
    lq__pair_256 reciprocal[2];
} lq__coded_256;

LQ__INLINE_256 void lq__code_load_256(lq__code_256 *k, const lq__rans_table *t)
{
    lq__words_load_256(&k->freq, t->code_freq);
    lq__words_load_256(&k->begin, t->code_begin);
    lq__words_load_256(&k->reciprocal[0], t->code_reciprocal[0]);
    lq__words_load_256(&k->reciprocal[1], t->code_reciprocal[1]);
}

LQ__INLINE_256 lq__coded_256 lq__code_of_256(const lq__code_256 *k, __m256i s)
{
    lq__coded_256 c;
    c.freq = lq__look_word_256(&k->freq, s);
    c.begin = lq__look_word_256(&k->begin, s);
    c.reciprocal[0] = lq__look_word_256(&k->reciprocal[0], s);
    c.reciprocal[1] = lq__look_word_256(&k->reciprocal[1], s);
    return c;
}

LQ__INLINE_256 void lq__coded_blend_256(lq__coded_256 *x, const lq__coded_256 *y, lq__pair_256 mask)
{
    x->freq = lq__blend_256(x->freq, y->freq, mask);
    x->begin = lq__blend_256(x->begin, y->begin, mask);
    x->reciprocal[0] = lq__blend_256(x->reciprocal[0], y->reciprocal[0], mask);
    x->reciprocal[1] = lq__blend_256(x->reciprocal[1], y->reciprocal[1], mask);
}

/* trunc(x * reciprocal) of eight states. There is no unsigned conversion: x >> 1 is converted and
   the reciprocal doubled by its exponent. What the shift drops is below 1 / freq of the quotient,
   and only downward: it is still floor(Q) or one less. */
LQ__INLINE_256 __m256i lq__trunc_256(__m256i x, __m256i reciprocal)
{
    __m256 r = _mm256_castsi256_ps(_mm256_add_epi32(reciprocal, _mm256_set1_epi32(1 << 23)));
    return _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 1)), r));
}

/* q = x / freq and r = x % freq in 16 lanes: see lq__reciprocal_bits. */
LQ__INLINE_256 void lq__quotient_256(__m256i *q, __m256i *r, __m256i hi, __m256i lo, __m256i freq,
                                     __m256i low, __m256i high)
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i even = lq__trunc_256(_mm256_blend_epi16(lo, _mm256_slli_epi32(hi, 16), 0xaa),
                                 _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa));
    __m256i odd = lq__trunc_256(_mm256_blend_epi16(_mm256_srli_epi32(lo, 16), hi, 0xaa),
                                _mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xaa));
    __m256i x = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
    __m256i product = _mm256_mullo_epi16(x, freq);
    __m256i y = _mm256_sub_epi16(lo, product);
    __m256i up = _mm256_cmpeq_epi16(_mm256_max_epu16(y, freq), y); /* y >= freq */
    __m256i borrow = _mm256_min_epu16(_mm256_subs_epu16(product, lo), one);
    __m256i wrap = _mm256_sub_epi16(_mm256_sub_epi16(hi, _mm256_mulhi_epu16(x, freq)), borrow);
    up = _mm256_or_si256(up, _mm256_cmpeq_epi16(wrap, one));
    *q = _mm256_sub_epi16(x, up);
    *r = _mm256_sub_epi16(y, _mm256_and_si256(up, freq));
}

/* Words of 8 lanes to the end of the stream, which grows downward: a full store whose last words
   count. */
LQ__INLINE_256 void lq__words_256_put(const lq_tables *tables, uint8_t **words, __m128i lo,
                                      uint32_t out)
{
    lo = _mm_shuffle_epi8(lo, lq__load_128(tables->compress[out]));
    _mm_storeu_si128((__m128i *)(void *)(*words - 16), lo);
    *words -= 2 * (size_t)(uint32_t)_mm_popcnt_u32(out);
}

/* Symbols of half a row: values without their raw bits, and the parity bit. */
LQ__INLINE_256 lq__pair_256 lq__symbols_256(const lq_rans_row *r, const int16_t *values,
                                            uint32_t half, lq__pair_256 coset)
{
    lq__pair_256 v = lq__half_row_256(values, r->row, half);
    lq__pair_256 h;
    __m128i shift = _mm_cvtsi32_si128(r->shift[0]);
    h.a = _mm256_sra_epi16(v.a, shift);
    h.b = _mm256_sra_epi16(v.b, shift);
    if (r->shift[0] != r->shift[1]) {
        shift = _mm_cvtsi32_si128(r->shift[1]);
        v.a = _mm256_sra_epi16(v.a, shift);
        v.b = _mm256_sra_epi16(v.b, shift);
        h = lq__blend_256(h, v, coset);
    }
    return h;
}

/* 32 bits to masks of 16-bit lanes. */
LQ__INLINE_256 lq__pair_256 lq__mask_256(uint32_t bits)
{
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                          8192, 16384, -32768);
    lq__pair_256 p;
    p.a = _mm256_set1_epi16((int16_t)(bits & 65535));
    p.b = _mm256_set1_epi16((int16_t)(bits >> 16));
    p.a = _mm256_cmpeq_epi16(_mm256_and_si256(p.a, bit), bit);
    p.b = _mm256_cmpeq_epi16(_mm256_and_si256(p.b, bit), bit);
    return p;
}

/* States above the frequency lose their low half to the stream. */
LQ__INLINE_256 void lq__shrink_256(const lq_tables *tables, lq__pair_256 *hi, lq__pair_256 *lo,
                                   uint8_t **words, lq__pair_256 freq, lq__pair_256 active,
                                   int full)
{
    lq__pair_256 out;
    uint32_t lanes;
    out.a = _mm256_cmpeq_epi16(_mm256_max_epu16(hi->a, freq.a), hi->a);
    out.b = _mm256_cmpeq_epi16(_mm256_max_epu16(hi->b, freq.b), hi->b);
    out = full ? out : lq__and_256(out, active);
    lanes = lq__lanes_256(_mm256_packs_epi16(out.a, out.b));
    lq__words_256_put(tables, words, _mm256_extracti128_si256(lo->b, 1), lanes >> 24);
    lq__words_256_put(tables, words, _mm256_castsi256_si128(lo->b), lanes >> 16 & 255);
    lq__words_256_put(tables, words, _mm256_extracti128_si256(lo->a, 1), lanes >> 8 & 255);
    lq__words_256_put(tables, words, _mm256_castsi256_si128(lo->a), lanes & 255);
    *lo = lq__blend_256(*lo, *hi, out);
    hi->a = _mm256_andnot_si256(out.a, hi->a);
    hi->b = _mm256_andnot_si256(out.b, hi->b);
}

/* One step of one page. full, and by where it is 0, are constants to the compiler. */
LQ__INLINE_256 void lq__encode_step_256(const lq_tables *tables, const lq__code_256 *k,
                                        const lq_rans_row *r, size_t i, lq__rans_flow *f,
                                        uint32_t half, uint32_t by, int full)
{
    const __m256i sixteen = _mm256_set1_epi16(16);
    const __m256i most = _mm256_set1_epi16(31);
    lq__pair_256 active = lq__active_256(f->tokens, half);
    lq__pair_256 coset = lq__coset_256(r, f->values, half);
    lq__pair_256 hi = lq__half_row_256((const int16_t *)(const void *)f->hi, 0, 0);
    lq__pair_256 lo = lq__half_row_256((const int16_t *)(const void *)f->lo, 0, 0);
    lq__pair_256 old = hi;
    lq__pair_256 old_lo = lo;
    lq__pair_256 s = lq__symbols_256(r, f->values, half, coset);
    lq__coded_256 c;
    __m256i bytes;
    s.a = _mm256_add_epi16(s.a, sixteen); /* 0 .. 31, else the escape at 0 */
    s.b = _mm256_add_epi16(s.b, sixteen);
    s.a = _mm256_and_si256(s.a, _mm256_cmpeq_epi16(_mm256_min_epu16(s.a, most), s.a));
    s.b = _mm256_and_si256(s.b, _mm256_cmpeq_epi16(_mm256_min_epu16(s.b, most), s.b));
    bytes = _mm256_packus_epi16(s.a, s.b);
    c = lq__code_of_256(&k[0], bytes);
    if (by & LQ__BY_COSET) {
        lq__coded_256 other = lq__code_of_256(&k[1], bytes);
        lq__coded_blend_256(&c, &other, coset);
    }
    if (by & LQ__BY_PARITY) {
        lq__coded_256 even = lq__code_of_256(&k[2], bytes);
        if (by & LQ__BY_COSET) {
            lq__coded_256 odd = lq__code_of_256(&k[3], bytes);
            lq__coded_blend_256(&even, &odd, coset);
        }
        lq__coded_blend_256(&c, &even, lq__mask_256((uint32_t)(f->parity[i] >> 32 * half)));
    }
    lq__shrink_256(tables, &hi, &lo, &f->words, c.freq, active, full);
    lq__quotient_256(&hi.a, &lo.a, hi.a, lo.a, c.freq.a, c.reciprocal[0].a, c.reciprocal[1].a);
    lq__quotient_256(&hi.b, &lo.b, hi.b, lo.b, c.freq.b, c.reciprocal[0].b, c.reciprocal[1].b);
    lo.a = _mm256_add_epi16(lo.a, c.begin.a);
    lo.b = _mm256_add_epi16(lo.b, c.begin.b);
    hi = full ? hi : lq__blend_256(old, hi, active);
    lo = full ? lo : lq__blend_256(old_lo, lo, active);
    _mm256_storeu_si256((__m256i *)(void *)f->hi, hi.a);
    _mm256_storeu_si256((__m256i *)(void *)(f->hi + 16), hi.b);
    _mm256_storeu_si256((__m256i *)(void *)f->lo, lo.a);
    _mm256_storeu_si256((__m256i *)(void *)(f->lo + 16), lo.b);
}

LQ__INLINE_256 void lq__encode_row_256(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                       lq__rans_flow *flows, size_t count, lq__code_256 *k,
                                       uint32_t by, int full)
{
    uint32_t half;
    uint32_t j;
    size_t g;
    for (j = 0; j <= by; j++) {
        lq__code_load_256(&k[j], &tables->table[r->table[j]]);
    }
    for (half = 2; half-- > 0;) {
        for (g = 0; g < count; g++) {
            lq__encode_step_256(tables, k, r, i, &flows[g], half, by, full);
        }
    }
}

/* Functions of their own: their tables share no frame. */
LQ__FRAME_256 void lq__encode_plain_256(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                        lq__rans_flow *flows, size_t count, int full)
{
    lq__code_256 k[1];
    if (full) {
        lq__encode_row_256(tables, r, i, flows, count, k, 0, 1);
    } else {
        lq__encode_row_256(tables, r, i, flows, count, k, 0, 0);
    }
}

LQ__FRAME_256 void lq__encode_lattice_256(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                          lq__rans_flow *flows, size_t count, int full)
{
    lq__code_256 k[4];
    lq__code_256 *tables_of_row = k;
    LQ__OPAQUE(tables_of_row); /* else gcc copies them all into a frame of 5 KB */
    lq__encode_row_256(tables, r, i, flows, count, tables_of_row, r->by, full);
}

LQ__STATIC_256 void lq__rans_encode_avx2(const lq_tables *tables, const lq_rans_plan *plan,
                                         lq__rans_flow *flows, size_t count)
{
    int full = lq__all_full(flows, count);
    size_t i;
    for (i = plan->coded_rows; i-- > 0;) {
        if (plan->coded[i].by == 0) {
            lq__encode_plain_256(tables, &plan->coded[i], i, flows, count, full);
        } else {
            lq__encode_lattice_256(tables, &plan->coded[i], i, flows, count, full);
        }
    }
}

/* As lq__escapes_512. */
LQ__INLINE_256 uint32_t lq__escapes_256(const lq_tables *tables, const lq_rans_row *r,
                                        const lq__rans_flow *f, uint32_t half, lq__pair_256 coset,
                                        lq__pair_256 parity, uint32_t by)
{
    lq__pair_256 h = lq__symbols_256(r, f->values, half, coset);
    lq__pair_256 low = h;
    lq__pair_256 span = h;
    uint32_t j;
    for (j = 0; j < 4; j++) {
        const lq__rans_table *t = &tables->table[r->table[j]];
        __m256i l = _mm256_set1_epi16((int16_t)t->low);
        __m256i n = _mm256_set1_epi16((int16_t)(t->high - t->low));
        lq__pair_256 lanes = j == 1 ? coset : parity;
        if ((j & by) != j) {
            continue;
        }
        if (j == 0) {
            lanes.a = _mm256_set1_epi16(-1);
            lanes.b = lanes.a;
        } else if (j == 3) {
            lanes.a = _mm256_and_si256(coset.a, parity.a);
            lanes.b = _mm256_and_si256(coset.b, parity.b);
        }
        low.a = _mm256_blendv_epi8(low.a, l, lanes.a);
        low.b = _mm256_blendv_epi8(low.b, l, lanes.b);
        span.a = _mm256_blendv_epi8(span.a, n, lanes.a);
        span.b = _mm256_blendv_epi8(span.b, n, lanes.b);
    }
    h.a = _mm256_subs_epu16(_mm256_sub_epi16(h.a, low.a), span.a); /* 0 inside */
    h.b = _mm256_subs_epu16(_mm256_sub_epi16(h.b, low.b), span.b);
    h.a = _mm256_cmpeq_epi16(h.a, _mm256_setzero_si256());
    h.b = _mm256_cmpeq_epi16(h.b, _mm256_setzero_si256());
    return ~lq__lanes_256(_mm256_packs_epi16(h.a, h.b));
}

/* As lq__scan_half_row_512. */
LQ__STATIC_256 uint64_t lq__scan_half_row_256(const lq_tables *tables, const lq_rans_plan *plan,
                                              lq__rans_flow *f, size_t i)
{
    const lq_rans_row *r = &plan->coded[i];
    uint64_t bad = 0;
    uint32_t half;
    uint32_t j;
    for (half = 0; half < 2; half++) {
        lq__pair_256 coset = lq__coset_256(r, f->values, half);
        lq__pair_256 x = lq__parity_256(r, f->values, half);
        lq__pair_256 z = lq__half_row_256(f->values, r->row, half);
        uint32_t odd;
        z.a = _mm256_xor_si256(z.a, x.a);
        z.b = _mm256_xor_si256(z.b, x.b);
        z = lq__odd_256(z);
        odd = lq__lanes_256(_mm256_packs_epi16(z.a, z.b));
        if (r->shift[1] == r->raw[1]) {
            odd &= ~lq__lanes_256(_mm256_packs_epi16(coset.a, coset.b));
        }
        bad |= (uint64_t)odd << 32 * half;
        for (j = 1; j <= r->before; j++) { /* an escape's LSB is taken as 0 */
            uint32_t escaped = (uint32_t)(f->escape[i - j] >> 32 * half);
            if (escaped) {
                lq__pair_256 mask = lq__mask_256(escaped);
                z = lq__half_row_256(f->values, r->row - j, half);
                x.a = _mm256_xor_si256(x.a, _mm256_and_si256(z.a, mask.a));
                x.b = _mm256_xor_si256(x.b, _mm256_and_si256(z.b, mask.b));
            }
        }
        x = lq__odd_256(x);
        if (!(r->by & LQ__BY_PARITY)) {
            x.a = _mm256_setzero_si256();
            x.b = x.a;
        }
        f->parity[i] |= (uint64_t)lq__lanes_256(_mm256_packs_epi16(x.a, x.b)) << 32 * half;
        f->escape[i] |= (uint64_t)lq__escapes_256(tables, r, f, half, coset, x, LQ__BY_BOTH)
                        << 32 * half;
    }
    return bad;
}

LQ__STATIC_256 int lq__rans_scan_avx2(const lq_tables *tables, const lq_rans_plan *plan,
                                      lq__rans_flow *f)
{
    lq__bits bits = {f->raw, 0, 0};
    uint64_t bad = 0;
    size_t i;
    uint32_t half;
    for (i = 0; i < plan->coded_rows; i++) {
        const lq_rans_row *r = &plan->coded[i];
        f->escape[i] = 0;
        f->parity[i] = 0;
        if (r->kind == LQ__ROW_HALF) {
            bad |= lq__scan_half_row_256(tables, plan, f, i);
        }
        for (half = 0; half < 2 && r->kind != LQ__ROW_HALF; half++) {
            lq__pair_256 coset = lq__coset_256(r, f->values, half);
            uint32_t escape = r->by == 0
                                  ? lq__escapes_256(tables, r, f, half, coset, coset, 0)
                                  : lq__escapes_256(tables, r, f, half, coset, coset, LQ__BY_COSET);
            f->escape[i] |= (uint64_t)escape << 32 * half;
        }
        f->escape[i] &= f->active;
        bad |= r->kind == LQ__ROW_COSET ? f->escape[i] : 0; /* 0 and 1 are its table */
        if (r->raw[0] | r->raw[1]) {
            lq__raw_put_bmi2(r, f, &bits);
        }
    }
    if (bad & f->active) {
        return LQ_E_ARG;
    }
    lq__scan_finish(plan, f, &bits);
    return LQ_OK;
}
#endif

/* ---- AVX-512: 32 lanes of a page in two registers ----
   A table of 32 words is one register and a permute looks 32 lanes up; two tables are one vpermi2w
   with the table's number in bit 5. A step of eight pages in flight takes 3.5 ns a page on Zen 5 at
   3 GHz; one page alone 20 ns, the latency of its chain, so pages take turns within a step and
   eight of them are spelt out to keep their states in registers. Compares into mask registers and
   back are slow (8 cycles), so s + (lo > end) is made of three short operations instead. */
#if LQ__RANS_SIMD
typedef struct lq__look_512 {
    __m512i start[2];
    __m512i end[2];
    __m512i freq[2];
    __m512i begin[2];
    __m512i value[2];
    __m512i first[2]; /* end[start] and end[start + 1] of the 64 buckets: one table only */
    __m512i second[2];
    __m512i one;
} lq__look_512;

/* What a step looks up: the interval's frequency, lo - begin, value, and whether it is the escape.
   */
typedef struct lq__found_512 {
    __m512i freq;
    __m512i rest;
    __m512i value;
    __mmask32 escape;
} lq__found_512;

/* The buckets' intervals are bytes: words with a zero above, two registers of 32. The interval
   behind the last is not looked at, whatever the wrapped permute makes of it: no slot is above
   65535. */
LQ__INLINE_512 void lq__look_load_512(lq__look_512 *k, const lq__rans_table *a,
                                      const lq__rans_table *b)
{
    __m512i one = _mm512_set1_epi16(1);
    uint32_t i;
    LQ__HIDE_CONSTANT(one);
    k->one = one;
    k->start[0] = _mm512_loadu_si512(a->start);
    k->start[1] = _mm512_or_si512(_mm512_loadu_si512(b->start), _mm512_set1_epi8(32));
    k->end[0] = _mm512_loadu_si512(a->end);
    k->end[1] = _mm512_loadu_si512(b->end);
    k->freq[0] = _mm512_loadu_si512(a->freq);
    k->freq[1] = _mm512_loadu_si512(b->freq);
    k->begin[0] = _mm512_loadu_si512(a->begin);
    k->begin[1] = _mm512_loadu_si512(b->begin);
    k->value[0] = _mm512_loadu_si512(a->value);
    k->value[1] = _mm512_loadu_si512(b->value);
    for (i = 0; i < 2; i++) {
        __m512i s = _mm512_cvtepu8_epi16(lq__load_256(a->start + 32 * i));
        k->first[i] = _mm512_permutexvar_epi16(s, k->end[0]);
        s = _mm512_min_epu16(_mm512_add_epi16(s, one), _mm512_set1_epi16(31));
        k->second[i] = _mm512_permutexvar_epi16(s, k->end[0]);
    }
}

/* s + (lo > end), unsigned. clang must not know that `one` is 1: it would make a compare. */
LQ__INLINE_512 __m512i lq__step_up_512(__m512i s, __m512i lo, __m512i end, __m512i one)
{
    return _mm512_add_epi16(s, _mm512_min_epu16(_mm512_subs_epu16(lo, end), one));
}

/* One table: both thresholds come from the bucket, so that the two tests do not wait for each
   other. In the byte permute the high byte of each word looks up start[0] = 0. */
LQ__INLINE_512 lq__found_512 lq__find_512(const lq__look_512 *k, __m512i lo)
{
    __m512i bucket = _mm512_srli_epi16(lo, 10);
    __m512i s = _mm512_permutexvar_epi8(bucket, k->start[0]);
    __m512i first = _mm512_permutex2var_epi16(k->first[0], bucket, k->first[1]);
    __m512i second = _mm512_permutex2var_epi16(k->second[0], bucket, k->second[1]);
    lq__found_512 found;
    s = lq__step_up_512(s, lo, first, k->one);
    s = lq__step_up_512(s, lo, second, k->one);
    found.freq = _mm512_permutexvar_epi16(s, k->freq[0]);
    found.rest = _mm512_sub_epi16(lo, _mm512_permutexvar_epi16(s, k->begin[0]));
    found.value = _mm512_permutexvar_epi16(s, k->value[0]);
    found.escape = _mm512_testn_epi16_mask(s, s);
    return found;
}

/* Two tables, the second in the lanes of `second`. */
LQ__INLINE_512 lq__found_512 lq__find_2_512(const lq__look_512 *k, __m512i lo, __mmask32 second)
{
    __m512i bucket = _mm512_srli_epi16(lo, 10);
    lq__found_512 found;
    __m512i s;
    bucket = _mm512_mask_add_epi16(bucket, second, bucket, _mm512_set1_epi16(64));
    s = _mm512_permutex2var_epi8(k->start[0], bucket, k->start[1]);
    s = lq__step_up_512(s, lo, _mm512_permutex2var_epi16(k->end[0], s, k->end[1]), k->one);
    s = lq__step_up_512(s, lo, _mm512_permutex2var_epi16(k->end[0], s, k->end[1]), k->one);
    found.freq = _mm512_permutex2var_epi16(k->freq[0], s, k->freq[1]);
    found.rest = _mm512_sub_epi16(lo, _mm512_permutex2var_epi16(k->begin[0], s, k->begin[1]));
    found.value = _mm512_permutex2var_epi16(k->value[0], s, k->value[1]);
    found.escape = _mm512_testn_epi16_mask(s, _mm512_set1_epi16(31));
    return found;
}

/* x = freq * hi + rest, and a word into each lane that fell below L. A carry out of the low half is
   low < rest. The load stays a load: folded into vpexpandw it is slower. */
LQ__INLINE_512 void lq__advance_512(__m512i *hi, __m512i *lo, const uint8_t **at,
                                    const lq__found_512 *found, __m512i one, __mmask32 active,
                                    int full)
{
    __m512i words = _mm512_loadu_si512(*at);
    __m512i low = _mm512_add_epi16(_mm512_mullo_epi16(found->freq, *hi), found->rest);
    __m512i high = lq__step_up_512(_mm512_mulhi_epu16(found->freq, *hi), found->rest, low, one);
    __mmask32 need = full ? _mm512_testn_epi16_mask(high, high)
                          : _mm512_mask_testn_epi16_mask(active, high, high);
    LQ__KEEP_IN_REGISTER(words);
    *at += 2 * (size_t)_mm_popcnt_u32(need);
    high = _mm512_mask_mov_epi16(high, need, low);
    low = _mm512_mask_expand_epi16(low, need, words);
    *hi = full ? high : _mm512_mask_mov_epi16(*hi, active, high);
    *lo = full ? low : _mm512_mask_mov_epi16(*lo, active, low);
}

LQ__INLINE_512 __m512i lq__half_row_512(const int16_t *values, size_t row, uint32_t half)
{
    return _mm512_loadu_si512(values + row * 64 + 32 * half);
}

/* Lanes of coset 1; none where the row has no coset. */
LQ__INLINE_512 __mmask32 lq__coset_512(const lq_rans_row *r, const int16_t *values, uint32_t half)
{
    __m512i coset = lq__half_row_512(values, r->coset, half);
    return r->coset == r->row ? 0 : _mm512_test_epi16_mask(coset, _mm512_set1_epi16(1));
}

/* XOR of the rows of the block before a HALF row. */
LQ__INLINE_512 __m512i lq__parity_512(const lq_rans_row *r, const int16_t *values, uint32_t half)
{
    __m512i x = lq__half_row_512(values, r->row - 1, half);
    uint32_t j;
    for (j = 2; j <= r->before; j++) {
        x = _mm512_xor_si512(x, lq__half_row_512(values, r->row - j, half));
    }
    return x;
}

/* 2 k + parity in the half lanes. */
LQ__INLINE_512 __m512i lq__double_512(const lq_rans_row *r, __m512i v, __mmask32 coset,
                                      __mmask32 parity)
{
    __mmask32 half = r->shift[1] ? 0xffffffffu : ~coset;
    v = _mm512_mask_add_epi16(v, half, v, v);
    return _mm512_mask_sub_epi16(v, half & parity, v, _mm512_set1_epi16(-1));
}

/* One step of one page. by and full are constants to the compiler, so are the branches on them. */
LQ__INLINE_512 void lq__decode_step_512(const lq__look_512 *k, const lq_rans_row *r, size_t i,
                                        lq__rans_flow *f, uint32_t half, __m512i *hi, __m512i *lo,
                                        const uint8_t **at, uint32_t by, int full)
{
    uint32_t active = (uint32_t)(f->active >> 32 * half);
    __mmask32 coset = by & LQ__BY_COSET ? lq__coset_512(r, f->values, half) : 0;
    __mmask32 parity = 0;
    lq__found_512 found;
    uint32_t escape;
    if (by & LQ__BY_PARITY) {
        parity = _mm512_test_epi16_mask(lq__parity_512(r, f->values, half), _mm512_set1_epi16(1));
    }
    found = by == 0 ? lq__find_512(&k[0], *lo)
                    : lq__find_2_512(&k[0], *lo, by == LQ__BY_PARITY ? parity : coset);
    if (by == LQ__BY_BOTH) {
        lq__found_512 other = lq__find_2_512(&k[1], *lo, coset);
        found.freq = _mm512_mask_mov_epi16(found.freq, parity, other.freq);
        found.rest = _mm512_mask_mov_epi16(found.rest, parity, other.rest);
        found.value = _mm512_mask_mov_epi16(found.value, parity, other.value);
        found.escape = (found.escape & ~parity) | (other.escape & parity);
    }
    lq__advance_512(hi, lo, at, &found, k->one, active, full);
    if (by & LQ__BY_PARITY) {
        found.value = lq__double_512(r, found.value, coset, parity);
    }
    escape = full ? found.escape : found.escape & active;
    memcpy((uint8_t *)&f->escape[i] + 4 * half, &escape, 4);
    _mm512_storeu_si512(f->values + (size_t)r->row * 64 + 32 * half,
                        full ? found.value : _mm512_maskz_mov_epi16(active, found.value));
}

LQ__INLINE_512 void lq__decode_look_512(lq__look_512 *k, const lq_tables *tables,
                                        const lq_rans_row *r, uint32_t by)
{
    lq__look_load_512(&k[0], &tables->table[r->table[0]],
                      &tables->table[r->table[by == LQ__BY_PARITY ? 2 : 1]]);
    lq__look_load_512(&k[1], &tables->table[r->table[2]], &tables->table[r->table[3]]);
}

#define LQ__EACH_OF_8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/* A row of eight full pages. */
LQ__INLINE_512 void lq__decode_row_8_512(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                         lq__rans_flow *flows, __m512i *hi, __m512i *lo,
                                         const uint8_t **at, uint32_t by)
{
    lq__look_512 k[2];
    uint32_t half;
    lq__decode_look_512(k, tables, r, by);
    for (half = 0; half < 2; half++) {
#define LQ__STEP(g) lq__decode_step_512(k, r, i, &flows[g], half, &hi[g], &lo[g], &at[g], by, 1);
        LQ__EACH_OF_8(LQ__STEP)
#undef LQ__STEP
    }
}

/* A row of any pages. */
LQ__INLINE_512 void lq__decode_row_512(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                       lq__rans_flow *flows, size_t count, __m512i *hi, __m512i *lo,
                                       uint32_t by)
{
    lq__look_512 k[2];
    uint32_t half;
    size_t g;
    lq__decode_look_512(k, tables, r, by);
    for (half = 0; half < 2; half++) {
        for (g = 0; g < count; g++) {
            lq__decode_step_512(k, r, i, &flows[g], half, &hi[g], &lo[g], &flows[g].at, by, 0);
        }
    }
}

LQ__FRAME_512 void lq__decode_8_512(const lq_tables *tables, const lq_rans_plan *plan,
                                    lq__rans_flow *flows)
{
    __m512i hi[8];
    __m512i lo[8];
    const uint8_t *at[8];
    size_t i = 0;
#define LQ__STEP(g)                          \
    hi[g] = _mm512_loadu_si512(flows[g].hi); \
    lo[g] = _mm512_loadu_si512(flows[g].lo);
    LQ__EACH_OF_8(LQ__STEP)
#undef LQ__STEP
    while (i < plan->coded_rows) {
        size_t stop = i + lq__rows_room(flows, 8, plan->coded_rows - i);
#define LQ__STEP(g) at[g] = flows[g].at;
        LQ__EACH_OF_8(LQ__STEP)
#undef LQ__STEP
        for (; i < stop; i++) {
            const lq_rans_row *r = &plan->coded[i];
            if (r->by == 0) {
                lq__decode_row_8_512(tables, r, i, flows, hi, lo, at, 0);
            } else if (r->by == LQ__BY_COSET) {
                lq__decode_row_8_512(tables, r, i, flows, hi, lo, at, LQ__BY_COSET);
            } else if (r->by == LQ__BY_PARITY) {
                lq__decode_row_8_512(tables, r, i, flows, hi, lo, at, LQ__BY_PARITY);
            } else {
                lq__decode_row_8_512(tables, r, i, flows, hi, lo, at, LQ__BY_BOTH);
            }
        }
#define LQ__STEP(g) flows[g].at = at[g];
        LQ__EACH_OF_8(LQ__STEP)
#undef LQ__STEP
    }
#define LQ__STEP(g)                          \
    _mm512_storeu_si512(flows[g].hi, hi[g]); \
    _mm512_storeu_si512(flows[g].lo, lo[g]);
    LQ__EACH_OF_8(LQ__STEP)
#undef LQ__STEP
}

LQ__FRAME_512 void lq__decode_any_512(const lq_tables *tables, const lq_rans_plan *plan,
                                      lq__rans_flow *flows, size_t count)
{
    __m512i hi[LQ__FLIGHT];
    __m512i lo[LQ__FLIGHT];
    size_t i = 0;
    size_t g;
    for (g = 0; g < count; g++) {
        hi[g] = _mm512_loadu_si512(flows[g].hi);
        lo[g] = _mm512_loadu_si512(flows[g].lo);
    }
    while (i < plan->coded_rows) {
        size_t stop = i + lq__rows_room(flows, count, plan->coded_rows - i);
        for (; i < stop; i++) {
            const lq_rans_row *r = &plan->coded[i];
            if (r->by == 0) {
                lq__decode_row_512(tables, r, i, flows, count, hi, lo, 0);
            } else if (r->by == LQ__BY_COSET) {
                lq__decode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_COSET);
            } else if (r->by == LQ__BY_PARITY) {
                lq__decode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_PARITY);
            } else {
                lq__decode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_BOTH);
            }
        }
    }
    for (g = 0; g < count; g++) {
        _mm512_storeu_si512(flows[g].hi, hi[g]);
        _mm512_storeu_si512(flows[g].lo, lo[g]);
    }
}

LQ__STATIC_512 void lq__rans_decode_avx512(const lq_tables *tables, const lq_rans_plan *plan,
                                           lq__rans_flow *flows, size_t count)
{
    size_t g;
    if (count == 8 && lq__all_full(flows, count)) {
        lq__decode_8_512(tables, plan, flows);
    } else {
        lq__decode_any_512(tables, plan, flows, count);
    }
    for (g = 0; g < count; g++) {
        lq__flow_land(&flows[g]);
    }
}

/* ---- AVX-512: encode ---- */
/* The even and the odd lanes of high << 16 | low, 16 each of 32 bits. */
LQ__INLINE_512 __m512i lq__even_512(__m512i high, __m512i low)
{
    return _mm512_mask_mov_epi16(low, 0xaaaaaaaau, _mm512_slli_epi32(high, 16));
}

LQ__INLINE_512 __m512i lq__odd_512(__m512i high, __m512i low)
{
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(low, 16), 0xaaaaaaaau, high);
}

/* What a symbol needs: frequency, begin, reciprocal in halves. */
typedef struct lq__coded_512 {
    __m512i freq;
    __m512i begin;
    __m512i reciprocal[2];
} lq__coded_512;

/* q = x / freq and r = x % freq in all lanes: see lq__reciprocal_bits. */
LQ__INLINE_512 void lq__quotient_512(__m512i *q, __m512i *r, __m512i hi, __m512i lo,
                                     const lq__coded_512 *c, int wide)
{
    const __m512i minus_one = _mm512_set1_epi16(-1);
    __m512 even = _mm512_castsi512_ps(lq__even_512(c->reciprocal[1], c->reciprocal[0]));
    __m512 odd = _mm512_castsi512_ps(lq__odd_512(c->reciprocal[1], c->reciprocal[0]));
    __m512i x = lq__even_512(hi, lo);
    __m512i y = lq__odd_512(hi, lo);
    __m512i product;
    __mmask32 up;
    x = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_cvtepu32_ps(x), even));
    y = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_cvtepu32_ps(y), odd));
    x = _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
    product = _mm512_mullo_epi16(x, c->freq);
    y = _mm512_sub_epi16(lo, product);
    up = _mm512_cmpge_epu16_mask(y, c->freq);
    if (wide) { /* high half of x - q * freq: 1 where the low half wrapped */
        __m512i high = _mm512_sub_epi16(hi, _mm512_mulhi_epu16(x, c->freq));
        high = _mm512_mask_add_epi16(high, _mm512_cmplt_epu16_mask(lo, product), high, minus_one);
        up |= _mm512_test_epi16_mask(high, high);
    }
    *q = _mm512_mask_sub_epi16(x, up, x, minus_one);
    *r = _mm512_mask_sub_epi16(y, up, y, c->freq);
}

typedef struct lq__code_512 {
    __m512i freq[2];
    __m512i begin[2];
    __m512i reciprocal[2][2];
} lq__code_512;

LQ__INLINE_512 void lq__code_load_512(lq__code_512 *k, const lq__rans_table *a,
                                      const lq__rans_table *b)
{
    k->freq[0] = _mm512_loadu_si512(a->code_freq);
    k->freq[1] = _mm512_loadu_si512(b->code_freq);
    k->begin[0] = _mm512_loadu_si512(a->code_begin);
    k->begin[1] = _mm512_loadu_si512(b->code_begin);
    k->reciprocal[0][0] = _mm512_loadu_si512(a->code_reciprocal[0]);
    k->reciprocal[0][1] = _mm512_loadu_si512(b->code_reciprocal[0]);
    k->reciprocal[1][0] = _mm512_loadu_si512(a->code_reciprocal[1]);
    k->reciprocal[1][1] = _mm512_loadu_si512(b->code_reciprocal[1]);
}

/* s = value + 16, 32 for what is out of range: a permute looks at five bits, so that is the escape.
   */
LQ__INLINE_512 lq__coded_512 lq__code_of_512(const lq__code_512 *k, __m512i s)
{
    lq__coded_512 c;
    c.freq = _mm512_permutexvar_epi16(s, k->freq[0]);
    c.begin = _mm512_permutexvar_epi16(s, k->begin[0]);
    c.reciprocal[0] = _mm512_permutexvar_epi16(s, k->reciprocal[0][0]);
    c.reciprocal[1] = _mm512_permutexvar_epi16(s, k->reciprocal[1][0]);
    return c;
}

/* Two tables, the second in the lanes of `second`. */
LQ__INLINE_512 lq__coded_512 lq__code_of_2_512(const lq__code_512 *k, __m512i s, __mmask32 second)
{
    lq__coded_512 c;
    s = _mm512_and_si512(s, _mm512_set1_epi16(31));
    s = _mm512_mask_add_epi16(s, second, s, _mm512_set1_epi16(32));
    c.freq = _mm512_permutex2var_epi16(k->freq[0], s, k->freq[1]);
    c.begin = _mm512_permutex2var_epi16(k->begin[0], s, k->begin[1]);
    c.reciprocal[0] = _mm512_permutex2var_epi16(k->reciprocal[0][0], s, k->reciprocal[0][1]);
    c.reciprocal[1] = _mm512_permutex2var_epi16(k->reciprocal[1][0], s, k->reciprocal[1][1]);
    return c;
}

/* Symbols of half a row: values without their raw bits, and the parity bit. */
LQ__INLINE_512 __m512i lq__symbols_512(const lq_rans_row *r, const int16_t *values, uint32_t half,
                                       __mmask32 coset)
{
    __m512i v = lq__half_row_512(values, r->row, half);
    __m512i h = v;
    if (r->shift[0]) {
        h = _mm512_sra_epi16(v, _mm_cvtsi32_si128(r->shift[0]));
    }
    if (r->shift[0] != r->shift[1]) {
        h = _mm512_mask_sra_epi16(h, coset, v, _mm_cvtsi32_si128(r->shift[1]));
    }
    return h;
}

/* Turns n words at the front of a register to its end: 32 words from place n on. A full store below
   the stream's end then leaves them there, and is faster than a masked one. */
static const uint16_t lq__turn_512[64] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
    22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
    12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

/* One step of one page. by, wide and full are constants to the compiler. */
LQ__INLINE_512 void lq__encode_step_512(const lq__code_512 *k, const lq_rans_row *r, size_t i,
                                        lq__rans_flow *f, uint32_t half, __m512i *hi, __m512i *lo,
                                        uint8_t **words, uint32_t by, int wide, int full)
{
    __mmask32 active = (__mmask32)(f->active >> 32 * half);
    __mmask32 coset = by & LQ__BY_COSET ? lq__coset_512(r, f->values, half) : 0;
    __mmask32 parity = by & LQ__BY_PARITY ? (__mmask32)(f->parity[i] >> 32 * half) : 0;
    __m512i s = _mm512_add_epi16(lq__symbols_512(r, f->values, half, coset), _mm512_set1_epi16(16));
    lq__coded_512 c;
    __mmask32 full_lanes;
    __m512i q;
    __m512i rest;
    __m512i high;
    __m512i low;
    uint32_t n;
    s = _mm512_min_epu16(s, _mm512_set1_epi16(32));
    c = by == 0 ? lq__code_of_512(&k[0], s)
                : lq__code_of_2_512(&k[0], s, by == LQ__BY_PARITY ? parity : coset);
    if (by == LQ__BY_BOTH) {
        lq__coded_512 other = lq__code_of_2_512(&k[1], s, coset);
        c.freq = _mm512_mask_mov_epi16(c.freq, parity, other.freq);
        c.begin = _mm512_mask_mov_epi16(c.begin, parity, other.begin);
        c.reciprocal[0] = _mm512_mask_mov_epi16(c.reciprocal[0], parity, other.reciprocal[0]);
        c.reciprocal[1] = _mm512_mask_mov_epi16(c.reciprocal[1], parity, other.reciprocal[1]);
    }
    full_lanes = full ? _mm512_cmpge_epu16_mask(*hi, c.freq)
                      : _mm512_mask_cmpge_epu16_mask(active, *hi, c.freq);
    n = (uint32_t)_mm_popcnt_u32(full_lanes);
    *words -= 2 * (size_t)n;
    _mm512_storeu_si512(*words + 2 * (size_t)n - 64,
                        _mm512_permutexvar_epi16(_mm512_loadu_si512(lq__turn_512 + n),
                                                 _mm512_maskz_compress_epi16(full_lanes, *lo)));
    low = _mm512_mask_mov_epi16(*lo, full_lanes, *hi);
    high = _mm512_mask_sub_epi16(*hi, full_lanes, *hi, *hi);
    lq__quotient_512(&q, &rest, high, low, &c, wide);
    rest = _mm512_add_epi16(rest, c.begin);
    *hi = full ? q : _mm512_mask_mov_epi16(*hi, active, q);
    *lo = full ? rest : _mm512_mask_mov_epi16(*lo, active, rest);
}

/* A row of any pages, half 1 first. */
LQ__INLINE_512 void lq__encode_row_512(const lq_tables *tables, const lq_rans_row *r, size_t i,
                                       lq__rans_flow *flows, size_t count, __m512i *hi, __m512i *lo,
                                       uint32_t by, int wide, int full)
{
    lq__code_512 k[2];
    uint32_t half;
    size_t g;
    lq__code_load_512(&k[0], &tables->table[r->table[0]],
                      &tables->table[r->table[by == LQ__BY_PARITY ? 2 : 1]]);
    lq__code_load_512(&k[1], &tables->table[r->table[2]], &tables->table[r->table[3]]);
    for (half = 2; half-- > 0;) {
        for (g = 0; g < count; g++) {
            lq__encode_step_512(k, r, i, &flows[g], half, &hi[g], &lo[g], &flows[g].words, by, wide,
                                full);
        }
    }
}

LQ__INLINE_512 void lq__encode_rows_512(const lq_tables *tables, const lq_rans_plan *plan,
                                        lq__rans_flow *flows, size_t count, int full)
{
    __m512i hi[LQ__FLIGHT_ENCODE];
    __m512i lo[LQ__FLIGHT_ENCODE];
    size_t i;
    size_t g;
    for (g = 0; g < count; g++) {
        hi[g] = _mm512_loadu_si512(flows[g].hi);
        lo[g] = _mm512_loadu_si512(flows[g].lo);
    }
    for (i = plan->coded_rows; i-- > 0;) {
        const lq_rans_row *r = &plan->coded[i];
        uint32_t wide = tables->table[r->table[0]].wide | tables->table[r->table[1]].wide;
        if (r->by == 0 && !wide) {
            lq__encode_row_512(tables, r, i, flows, count, hi, lo, 0, 0, full);
        } else if (r->by == 0) {
            lq__encode_row_512(tables, r, i, flows, count, hi, lo, 0, 1, full);
        } else if (r->by == LQ__BY_COSET && !wide) {
            lq__encode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_COSET, 0, full);
        } else if (r->by == LQ__BY_COSET) {
            lq__encode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_COSET, 1, full);
        } else if (r->by == LQ__BY_PARITY) {
            lq__encode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_PARITY, 1, full);
        } else {
            lq__encode_row_512(tables, r, i, flows, count, hi, lo, LQ__BY_BOTH, 1, full);
        }
    }
    for (g = 0; g < count; g++) {
        _mm512_storeu_si512(flows[g].hi, hi[g]);
        _mm512_storeu_si512(flows[g].lo, lo[g]);
    }
}

LQ__STATIC_512 void lq__rans_encode_avx512(const lq_tables *tables, const lq_rans_plan *plan,
                                           lq__rans_flow *flows, size_t count)
{
    if (count == LQ__FLIGHT_ENCODE && lq__all_full(flows, count)) {
        lq__encode_rows_512(tables, plan, flows, LQ__FLIGHT_ENCODE, 1);
    } else {
        lq__encode_rows_512(tables, plan, flows, count, 0);
    }
}

/* A mask as 64 bits, by way of a general register: gcc 12 spills masks as 4 bytes and then widens
   them by an 8-byte load. */
LQ__INLINE_512 uint64_t lq__tokens_512(__mmask32 mask, uint32_t half)
{
    uint32_t bits = mask;
    LQ__OPAQUE(bits);
    return (uint64_t)bits << 32 * half;
}

LQ__INLINE_512 __mmask32 lq__lsb_512(const int16_t *values, size_t row, uint32_t half)
{
    return _mm512_test_epi16_mask(lq__half_row_512(values, row, half), _mm512_set1_epi16(1));
}

/* Lanes of half a row whose symbol has no interval in its table. by is a constant to the compiler.
   */
LQ__INLINE_512 __mmask32 lq__escapes_512(const lq_tables *tables, const lq_rans_row *r,
                                         const lq__rans_flow *f, uint32_t half, __mmask32 coset,
                                         __mmask32 parity, uint32_t by)
{
    __m512i h = lq__symbols_512(r, f->values, half, coset);
    __m512i low = _mm512_setzero_si512();
    __m512i span = low;
    uint32_t j;
    for (j = 0; j < 4; j++) {
        const lq__rans_table *t = &tables->table[r->table[j]];
        __mmask32 lanes = (j & 1 ? coset : ~coset) & (j & 2 ? parity : ~parity);
        if (j == 0) {
            low = _mm512_set1_epi16((int16_t)t->low);
            span = _mm512_set1_epi16((int16_t)(t->high - t->low));
        } else if ((j & by) == j) {
            low = _mm512_mask_set1_epi16(low, lanes, (int16_t)t->low);
            span = _mm512_mask_set1_epi16(span, lanes, (int16_t)(t->high - t->low));
        }
    }
    return _mm512_cmpgt_epu16_mask(_mm512_sub_epi16(h, low), span);
}

/* A HALF row, as lq__scan_token; returns the tokens that no lattice has. */
LQ__STATIC_512 uint64_t lq__scan_half_row_512(const lq_tables *tables, const lq_rans_plan *plan,
                                              lq__rans_flow *f, size_t i)
{
    const lq_rans_row *r = &plan->coded[i];
    const __m512i one = _mm512_set1_epi16(1);
    uint64_t bad = 0;
    uint32_t half;
    uint32_t j;
    for (half = 0; half < 2; half++) {
        __mmask32 coset = lq__coset_512(r, f->values, half);
        __mmask32 parity = 0;
        __mmask32 escape;
        __m512i x = lq__parity_512(r, f->values, half);
        __mmask32 odd = _mm512_test_epi16_mask(
            _mm512_xor_si512(x, lq__half_row_512(f->values, r->row, half)), one);
        bad |= lq__tokens_512(r->shift[1] > r->raw[1] ? odd : odd & ~coset, half);
        if (r->by & LQ__BY_PARITY) {
            for (j = 1; j <= r->before; j++) { /* an escape's LSB is taken as 0 */
                __mmask32 escaped = (__mmask32)(f->escape[i - j] >> 32 * half);
                if (escaped) {
                    x = _mm512_xor_si512(
                        x, _mm512_maskz_mov_epi16(escaped,
                                                  lq__half_row_512(f->values, r->row - j, half)));
                }
            }
            parity = _mm512_test_epi16_mask(x, one);
        }
        escape = lq__escapes_512(tables, r, f, half, coset, parity, LQ__BY_BOTH);
        f->parity[i] |= lq__tokens_512(parity, half);
        f->escape[i] |= lq__tokens_512(escape, half);
    }
    f->parity[i] &= f->active;
    return bad;
}

LQ__STATIC_512 int lq__rans_scan_avx512(const lq_tables *tables, const lq_rans_plan *plan,
                                        lq__rans_flow *f)
{
    lq__bits bits = {f->raw, 0, 0};
    uint64_t bad = 0;
    size_t i;
    for (i = 0; i < plan->coded_rows; i++) {
        const lq_rans_row *r = &plan->coded[i];
        uint64_t escape;
        f->escape[i] = 0;
        f->parity[i] = 0;
        if (r->kind == LQ__ROW_HALF) {
            bad |= lq__scan_half_row_512(tables, plan, f, i);
            escape = f->escape[i];
        } else if (r->by == 0) {
            escape = lq__tokens_512(lq__escapes_512(tables, r, f, 0, 0, 0, 0), 0) |
                     lq__tokens_512(lq__escapes_512(tables, r, f, 1, 0, 0, 0), 1);
        } else {
            __mmask32 coset = lq__coset_512(r, f->values, 0);
            __mmask32 other = lq__coset_512(r, f->values, 1);
            coset = lq__escapes_512(tables, r, f, 0, coset, 0, LQ__BY_COSET);
            other = lq__escapes_512(tables, r, f, 1, other, 0, LQ__BY_COSET);
            escape = lq__tokens_512(coset, 0) | lq__tokens_512(other, 1);
        }
        f->escape[i] = escape & f->active;
        bad |= r->kind == LQ__ROW_COSET ? escape : 0; /* 0 and 1 are its table */
        if (r->raw[0] == 1 && r->raw[1] == 1 && r->shift[0] == 1 && f->tokens == 64) {
            lq__bits_put(&bits, lq__tokens_512(lq__lsb_512(f->values, r->row, 0), 0), 32);
            lq__bits_put(&bits, lq__tokens_512(lq__lsb_512(f->values, r->row, 1), 0), 32);
        } else if (r->raw[0] | r->raw[1]) {
            lq__raw_put_bmi2(r, f, &bits);
        }
    }
    if (bad & f->active) {
        return LQ_E_ARG;
    }
    lq__scan_finish(plan, f, &bits);
    return LQ_OK;
}

/* One raw bit a token is a mask; other rows go as they do in AVX2. */
LQ__STATIC_512 void lq__rans_merge_avx512(const lq_rans_plan *plan, lq__rans_flow *f)
{
    size_t position = 0;
    size_t i;
    uint32_t half;
    for (i = plan->merge_first; i < plan->coded_rows; i = plan->coded[i].merge_next) {
        const lq_rans_row *r = &plan->coded[i];
        int16_t *v = f->values + (size_t)r->row * 64;
        if (r->raw[0] != 1 || r->raw[1] != 1 || r->shift[0] != 1 || f->tokens != 64) {
            lq__raw_get_bmi2(r, f, &position);
            continue;
        }
        for (half = 0; half < 2; half++) {
            __mmask32 bits = (__mmask32)lq__bits_get(f->raw, &position, 32);
            __m512i h = _mm512_loadu_si512(v + 32 * half);
            h = _mm512_add_epi16(h, h);
            h = _mm512_mask_sub_epi16(h, bits, h, _mm512_set1_epi16(-1));
            _mm512_storeu_si512(v + 32 * half, h);
        }
    }
    f->raw_bits = position;
}
#endif

/* ---- dispatch ---- */
static const lq__rans_kernels lq__rans_of_level[3] = {
    {lq__rans_scan_c, lq__rans_encode_c, lq__rans_decode_c, lq__rans_merge_c},
#if LQ__RANS_SIMD
    {lq__rans_scan_avx2, lq__rans_encode_avx2, lq__rans_decode_avx2, lq__rans_merge_avx2},
    {lq__rans_scan_avx512, lq__rans_encode_avx512, lq__rans_decode_avx512, lq__rans_merge_avx512},
#else
    {lq__rans_scan_c, lq__rans_encode_c, lq__rans_decode_c, lq__rans_merge_c},
    {lq__rans_scan_c, lq__rans_encode_c, lq__rans_decode_c, lq__rans_merge_c},
#endif
};

/* ---- streams and batches ----
   bytes  ceil(lanes / 2)     octave o = floor(log2 hi) of each lane's first state, low nibble first
          ceil(sum of o / 8)  hi without its leading one, o bits a lane, lowest first, zero padded
          2 * lanes           lo of each lane's first state
          2 each              the words that the steps take: row, half row, lane ascending
          rest                the raw section beyond its payload, zero padded
   The raw section: the raw bits of every row and token, then the escapes (lq__escape_put), both row
   by row. Its first bits, the payload, are the states with which the encoder starts: for each lane
   4 bits of octave, so many bits of hi below its leading one, and 16 bits of lo; zeros where the
   section is shorter. A decoder finds them in the final states, so that they cost nothing: first
   and final states follow the same law (hi is as likely in each octave), hence a stream pays for
   neither. */
#define LQ__PAYLOAD_BYTES 144u /* at most 35 bits a lane, and a read beyond */
#define LQ__RAW_BYTES(rows) ((rows)*248 + LQ__PAYLOAD_BYTES + 16) /* 31 bits a value, one put */

LQ_API size_t lq_rans_bound(size_t rows, uint32_t tokens)
{
    size_t lanes = LQ__MIN(tokens, LQ__LANES);
    if (rows == 0 || rows > LQ_RANS_ROWS_MAX / 8 * 9 || tokens == 0 || tokens > LQ__TOKENS_MAX) {
        return 0;
    }
    return (lanes + 1) / 2 + (15 * lanes + 7) / 8 + 2 * lanes + 2 * rows * tokens +
           (31 * rows * tokens + 7) / 8;
}

LQ__STATIC size_t lq__encode_flow_bytes(size_t rows)
{
    return 2 * lq__align64(rows * 8) + rows * 128 + 64 + lq__align64(LQ__RAW_BYTES(rows));
}

LQ__STATIC size_t lq__decode_flow_bytes(size_t rows)
{
    return lq__align64(rows * 8) + LQ__TAIL;
}

LQ_API size_t lq_rans_workspace_bytes(size_t rows, size_t page_count)
{
    size_t flow = lq__align64(sizeof(lq__rans_flow) * LQ__FLIGHT);
    size_t encode = LQ__MIN(page_count, LQ__FLIGHT_ENCODE);
    size_t decode = LQ__MIN(page_count, LQ__FLIGHT);
    if (rows == 0 || rows > LQ_RANS_ROWS_MAX / 8 * 9) {
        return 0;
    }
    encode *= lq__encode_flow_bytes(rows);
    decode = decode * lq__decode_flow_bytes(rows) + lq__align64(LQ__RAW_BYTES(rows));
    return 63 + flow + LQ__MAX(encode, decode);
}

/* What both directions check of a page. */
LQ__STATIC int lq__flow_init(lq__rans_flow *f, const lq_rans_page *page)
{
    if (!page->values || !page->bytes || page->tokens == 0 || page->tokens > LQ__TOKENS_MAX) {
        return LQ_E_ARG;
    }
    f->values = page->values;
    f->active = ~(uint64_t)0 >> (64 - page->tokens);
    f->tokens = page->tokens;
    f->lanes = LQ__MIN(page->tokens, LQ__LANES);
    f->overrun = 0;
    f->src_at = NULL;
    return LQ_OK;
}

/* The lanes' first states, from the payload; zeros behind a short raw section. */
LQ__STATIC void lq__encode_begin(lq__rans_flow *f)
{
    size_t position = 0;
    uint32_t l;
    memset(f->raw + (f->raw_bits + 7) / 8, 0, LQ__PAYLOAD_BYTES);
    for (l = 0; l < LQ__LANES; l++) {
        uint32_t octave = l < f->lanes ? (uint32_t)lq__bits_get(f->raw, &position, 4) : 0;
        f->hi[l] = (uint16_t)(1u << octave | lq__bits_get(f->raw, &position, octave));
        f->lo[l] = (uint16_t)(l < f->lanes ? lq__bits_get(f->raw, &position, 16) : 0);
    }
    f->payload_bits = position;
}

/* States, words and the rest of the raw section to the page. */
LQ__STATIC int lq__encode_end(const lq__rans_flow *f, lq_rans_page *page)
{
    uint8_t head[16 + 60 + 16]; /* octaves, mantissas, one put beyond */
    size_t octaves = (f->lanes + 1) / 2;
    size_t words = (size_t)(f->words_end - f->words);
    size_t position = f->payload_bits;
    size_t rest = f->raw_bits > position ? (f->raw_bits - position + 7) / 8 : 0;
    size_t i;
    size_t size;
    uint8_t *dst = page->bytes;
    lq__bits bits;
    uint32_t l;
    memset(head, 0, sizeof head);
    bits.at = head + octaves;
    bits.buffer = 0;
    bits.count = 0;
    for (l = 0; l < f->lanes; l++) {
        uint32_t octave = lq__octave(f->hi[l]);
        head[l / 2] = (uint8_t)(head[l / 2] | octave << 4 * (l & 1));
        lq__bits_put(&bits, f->hi[l] - (1u << octave), octave);
    }
    size = (size_t)(bits.at - head) + (bits.count > 0);
    if (page->bytes_count < size ||
        page->bytes_count - size < 2 * (size_t)f->lanes + words + rest) {
        return LQ_E_SPACE;
    }
    memcpy(dst, head, size);
    dst += size;
    for (l = 0; l < f->lanes; l++) {
        lq__store16(dst + 2 * l, f->lo[l]);
    }
    dst += 2 * (size_t)f->lanes;
    memcpy(dst, f->words, words);
    dst += words;
    for (i = 0; i + 4 <= rest; i += 4) {
        lq__store32(dst + i, (uint32_t)lq__bits_get(f->raw, &position, 32));
    }
    for (; i < rest; i++) {
        dst[i] = (uint8_t)lq__bits_get(f->raw, &position, 8);
    }
    page->written = size + 2 * (size_t)f->lanes + words + rest;
    return LQ_OK;
}

/* The lanes' first states of a stream. */
LQ__STATIC int lq__decode_begin(lq__rans_flow *f, const lq_rans_page *page)
{
    uint8_t head[16 + 60 + 16];
    size_t octaves = (f->lanes + 1) / 2;
    size_t position = octaves * 8;
    size_t bits = 0;
    size_t size;
    uint32_t l;
    memset(f->hi, 0, sizeof f->hi);
    memset(f->lo, 0, sizeof f->lo);
    if (page->bytes_count < octaves) {
        return LQ_E_DATA;
    }
    for (l = 0; l < f->lanes; l++) {
        bits += page->bytes[l / 2] >> 4 * (l & 1) & 15;
    }
    size = octaves + (bits + 7) / 8;
    if (page->bytes_count < size + 2 * f->lanes ||
        (f->lanes & 1 && page->bytes[octaves - 1] >> 4)) {
        return LQ_E_DATA;
    }
    memset(head, 0, sizeof head);
    memcpy(head, page->bytes, size);
    for (l = 0; l < f->lanes; l++) {
        uint32_t octave = (uint32_t)head[l / 2] >> 4 * (l & 1) & 15;
        f->hi[l] = (uint16_t)(1u << octave | lq__bits_get(head, &position, octave));
        f->lo[l] = lq__load16(page->bytes + size + 2 * l);
    }
    if (lq__bits_get(head, &position, (uint32_t)(8 * size - position))) {
        return LQ_E_DATA;
    }
    f->at = page->bytes + size + 2 * (size_t)f->lanes;
    f->end = page->bytes + page->bytes_count;
    return LQ_OK;
}

/* The raw section of a decoded page: its payload out of the final states, its rest, zeros behind.
   Returns its length in bits. */
LQ__STATIC size_t lq__raw_collect(lq__rans_flow *f, size_t rest, size_t need)
{
    lq__bits bits;
    size_t total;
    size_t used;
    size_t i;
    uint32_t l;
    bits.at = f->raw;
    bits.buffer = 0;
    bits.count = 0;
    for (l = 0; l < f->lanes; l++) {
        uint32_t octave = lq__octave(f->hi[l]);
        uint32_t state = octave | (f->hi[l] - (1u << octave)) << 4;
        lq__bits_put(&bits, state | (uint64_t)f->lo[l] << (4 + octave), 20 + octave);
    }
    for (i = 0; i + 4 <= rest; i += 4) {
        lq__bits_put(&bits, lq__load32(f->at + i), 32);
    }
    for (; i < rest; i++) {
        lq__bits_put(&bits, f->at[i], 8);
    }
    lq__store64(bits.at, bits.buffer);
    total = 8 * (size_t)(bits.at - f->raw) + bits.count;
    used = (total + 7) / 8;
    memset(f->raw + used, 0, (need > used ? need - used : 0) + 8);
    return total;
}

LQ__STATIC int lq__decode_end(const lq__rans_kernels *kernels, const lq_rans_plan *plan,
                              lq__rans_flow *f)
{
    size_t rest = (size_t)(f->end - f->at);
    size_t total;
    uint32_t bad = 0;
    int status;
    if (f->overrun || rest > LQ__RAW_BYTES(plan->rows) - LQ__PAYLOAD_BYTES - 16) {
        return LQ_E_DATA;
    }
    total = lq__raw_collect(f, rest, (plan->raw_bits * f->tokens + 7) / 8);
    kernels->merge(plan, f);
    if (f->raw_bits > total) {
        return LQ_E_DATA;
    }
    status = lq__escapes_get(plan, f, total);
    if (status) {
        return status;
    }
    lq__parities_merge(plan, f);
    if (rest && total - f->raw_bits >= 8) { /* up to the end: zeros, less than a byte of rest */
        return LQ_E_DATA;
    }
    for (; f->raw_bits < total; f->raw_bits++) {
        bad |= f->raw[f->raw_bits >> 3] >> (f->raw_bits & 7) & 1u;
    }
    return bad ? LQ_E_DATA : LQ_OK;
}

/* Rows that are not in the stream. */
LQ__STATIC void lq__dead_rows_clear(const lq_rans_plan *plan, int16_t *values)
{
    size_t row = 0;
    size_t i;
    for (i = 0; i <= plan->coded_rows && plan->coded_rows < plan->rows; i++) {
        size_t next = i < plan->coded_rows ? plan->coded[i].row : plan->rows;
        if (next > row) {
            memset(values + row * 64, 0, (next - row) * 128);
        }
        row = next + 1;
    }
}

/* Aligned start of the workspace, NULL if it is too small. */
LQ__STATIC uint8_t *lq__rans_workspace(void *workspace, size_t workspace_bytes, size_t rows,
                                       size_t page_count)
{
    if (workspace_bytes < lq_rans_workspace_bytes(rows, page_count)) {
        return NULL;
    }
    return (uint8_t *)workspace + ((0 - (size_t)(uintptr_t)workspace) & 63);
}

LQ_API int lq_rans_encode(const lq_tables *tables, const lq_rans_plan *plan, lq_rans_page *pages,
                          size_t page_count, void *workspace, size_t workspace_bytes)
{
    const lq__rans_kernels *kernels = &lq__rans_of_level[lq__cpu_level()];
    int result = LQ_OK;
    lq__rans_flow *flows;
    uint8_t *at;
    size_t i;
    size_t g;
    if (!tables || !plan || !workspace || (!pages && page_count)) {
        return LQ_E_ARG;
    }
    at = lq__rans_workspace(workspace, workspace_bytes, plan->rows, page_count);
    if (!at) {
        return LQ_E_SPACE;
    }
    flows = (lq__rans_flow *)(void *)at;
    for (i = 0; i < page_count;) {
        lq_rans_page *flying[LQ__FLIGHT_ENCODE];
        size_t n = 0;
        at = (uint8_t *)flows + lq__align64(sizeof(lq__rans_flow) * LQ__FLIGHT);
        for (; i < page_count && n < LQ__FLIGHT_ENCODE; i++) {
            lq__rans_flow *f = &flows[n];
            f->escape = (uint64_t *)(void *)at;
            f->parity = (uint64_t *)(void *)(at + lq__align64(plan->rows * 8));
            f->words_end = at + 2 * lq__align64(plan->rows * 8) + plan->rows * 128;
            f->words = f->words_end;
            f->raw = f->words_end + 64;
            pages[i].written = 0;
            pages[i].status = lq__flow_init(f, &pages[i]);
            if (!pages[i].status) {
                pages[i].status = kernels->scan(tables, plan, f);
            }
            if (!pages[i].status) {
                lq__encode_begin(f);
                flying[n++] = &pages[i];
                at += lq__encode_flow_bytes(plan->rows);
            }
            result = result ? result : pages[i].status;
        }
        kernels->encode(tables, plan, flows, n);
        for (g = 0; g < n; g++) {
            flying[g]->status = lq__encode_end(&flows[g], flying[g]);
            result = result ? result : flying[g]->status;
        }
    }
    return result;
}

LQ_API int lq_rans_decode(const lq_tables *tables, const lq_rans_plan *plan, lq_rans_page *pages,
                          size_t page_count, void *workspace, size_t workspace_bytes)
{
    const lq__rans_kernels *kernels = &lq__rans_of_level[lq__cpu_level()];
    int result = LQ_OK;
    lq__rans_flow *flows;
    uint8_t *raw;
    uint8_t *at;
    size_t i;
    size_t g;
    if (!tables || !plan || !workspace || (!pages && page_count)) {
        return LQ_E_ARG;
    }
    at = lq__rans_workspace(workspace, workspace_bytes, plan->rows, page_count);
    if (!at) {
        return LQ_E_SPACE;
    }
    flows = (lq__rans_flow *)(void *)at;
    raw = at + lq__align64(sizeof(lq__rans_flow) * LQ__FLIGHT);
    for (i = 0; i < page_count;) {
        lq_rans_page *flying[LQ__FLIGHT];
        size_t n = 0;
        at = raw + lq__align64(LQ__RAW_BYTES(plan->rows));
        for (; i < page_count && n < LQ__FLIGHT; i++) {
            lq__rans_flow *f = &flows[n];
            f->escape = (uint64_t *)(void *)at;
            f->tail = at + lq__align64(plan->rows * 8);
            f->raw = raw;
            pages[i].status = lq__flow_init(f, &pages[i]);
            if (!pages[i].status) {
                pages[i].status = lq__decode_begin(f, &pages[i]);
            }
            if (!pages[i].status) {
                lq__dead_rows_clear(plan, f->values);
                flying[n++] = &pages[i];
                at += lq__decode_flow_bytes(plan->rows);
            }
            result = result ? result : pages[i].status;
        }
        kernels->decode(tables, plan, flows, n);
        for (g = 0; g < n; g++) {
            flying[g]->status = lq__decode_end(kernels, plan, &flows[g]);
            result = result ? result : flying[g]->status;
        }
    }
    return result;
}

/* ================================================================================================
   >>profile   geometry, the fixed-point front, fitting, the profile's file form
   ============================================================================================== */
#define LQ__DIMS_MAX 8192u
#define LQ__SLICES_MAX 4096u
#define LQ__GAIN_MAX 127 /* gains in quarter octaves: 2^-31.75 .. 2^31.75, an i8 in fixed pages */

LQ_API size_t lq_geometry_dims(const lq_geometry *g)
{
    size_t dims = 0;
    uint32_t s;
    if (!g || g->slice_count == 0 || g->slice_count > LQ__SLICES_MAX || !g->slice_dims) {
        return 0;
    }
    for (s = 0; s < g->slice_count; s++) {
        if (g->slice_dims[s] == 0 || g->slice_dims[s] > LQ__DIMS_MAX - dims) {
            return 0;
        }
        dims += g->slice_dims[s];
    }
    return dims;
}

LQ_API size_t lq_geometry_rows(const lq_geometry *g)
{
    size_t dims = lq_geometry_dims(g);
    uint32_t s;
    if (dims == 0 || (g->stream != LQ_K && g->stream != LQ_V) || g->basis > LQ_BASIS_DENSE ||
        (g->basis == LQ_BASIS_DENSE) != (g->dense != NULL)) {
        return 0;
    }
    if (g->dense && (g->dense->dims != dims || g->dense->slice_count != g->slice_count ||
                     g->dense->stream != g->stream)) {
        return 0;
    }
    for (s = 0; s < g->slice_count && g->dense; s++) {
        if (g->slice_dims[s] != g->dense->slice_dims[s]) {
            return 0;
        }
    }
    if (g->rope) {
        if (!lq__rope_valid(g->rope)) {
            return 0;
        }
        for (s = 0; s < g->slice_count; s++) {
            if (g->slice_dims[s] < g->rope->rotary_dims) {
                return 0;
            }
        }
    }
    return dims + (g->stream == LQ_V ? g->slice_count : 0);
}

/* Division rounded to nearest, ties away from zero; b > 0. */
LQ__INLINE int64_t lq__div_round(int64_t a, int64_t b)
{
    return a < 0 ? -((-a + b / 2) / b) : (a + b / 2) / b;
}

/* 2^(quarter octaves / 4). */
LQ__INLINE float lq__gain_f32(int32_t gain)
{
    static const float quarter[4] = {1.0f, 1.189207115f, 1.414213562f, 1.681792831f};
    return quarter[gain & 3] * lq__f32_of_bits((uint32_t)((gain >> 2) + 127) << 23);
}

LQ__STATIC lq_positions lq__positions_or_none(const lq_positions *positions, size_t first)
{
    lq_positions none = {0, 0, NULL};
    return positions ? lq__positions_from(positions, first) : none;
}

/* ---- the fixed-point front ---- */
/* Gain of a V vector, in quarter octaves: round(4 log2(rms)), from integers. */
LQ__STATIC int lq__gain_of(int32_t *gain, const uint8_t *src, size_t dims, int type)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t element = lq_type_bytes(type);
    int32_t buffer[256];
    uint32_t most = 0;
    uint64_t sum = 0;
    int32_t exponent;
    int32_t octave;
    size_t d;
    size_t i;
    for (d = 0; d < dims; d += 256) {
        uint32_t m = kernels->fixed_row(buffer, src + d * element, type, LQ__MIN(dims - d, 256), 0);
        most = LQ__MAX(most, m);
    }
    if (most >= 0x7f800000u) {
        return LQ_E_DATA;
    }
    exponent = (int32_t)(most >> 23) - 127 - 15; /* |X| < 2^16 */
    for (d = 0; d < dims && most; d += 256) {
        size_t n = LQ__MIN(dims - d, 256);
        (void)kernels->fixed_row(buffer, src + d * element, type, n, exponent);
        for (i = 0; i < n; i++) {
            sum += (uint64_t)((int64_t)buffer[i] * buffer[i]);
        }
    }
    if (sum == 0) { /* zeros, or subnormals far below the range of gains */
        *gain = -LQ__GAIN_MAX;
        return LQ_OK;
    }
    sum = (sum << 18) / dims; /* < 2^63; the mean square in q18 */
    octave = (int32_t)lq__log2_floor(sum);
    sum = octave > 31 ? sum >> (octave - 31) : sum << (31 - octave);
    /* rounds 2 log2 of the mean square up at 2^(1/4) and 2^(3/4) */
    *gain = 4 * exponent + 2 * (octave - 18) + (sum >= 2553802834u) + (sum >= 3611622603u);
    if (*gain > LQ__GAIN_MAX) {
        return LQ_E_RANGE;
    }
    *gain = LQ__MAX(*gain, -LQ__GAIN_MAX);
    return LQ_OK;
}

/* step * 2^exponent: the step of a slice of K in a dense basis, in K's own unit. */
LQ__INLINE float lq__slice_step(const lq_geometry *g, uint32_t s, float step)
{
    int32_t exponent = g->dense ? g->dense->slice_exponent[s] : 0;
    return step * lq__f32_of_bits((uint32_t)(exponent + 127) << 23);
}

/* Loads one slice: rows (dims, 64) int32 in units of each token's 2^exponent. */
LQ__STATIC int lq__load_slice(int32_t *rows, int16_t *gains, const lq_geometry *g, uint32_t dims,
                              const uint8_t *src, size_t stride, int type, size_t tokens,
                              float step)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t element = lq_type_bytes(type);
    lq__scale scale = lq__scale_of(step, 0);
    int32_t buffer[256];
    size_t t;
    size_t d;
    size_t i;
    for (t = 0; t < LQ__TOKENS; t++) {
        const uint8_t *v = src + t * stride * element;
        if (t >= tokens) {
            for (d = 0; d < dims; d++) {
                rows[d * LQ__TOKENS + t] = 0;
            }
            continue;
        }
        if (g->stream == LQ_V) {
            int32_t gain;
            int status = lq__gain_of(&gain, v, dims, type);
            if (status) {
                return status;
            }
            gains[t] = (int16_t)gain;
            scale = lq__scale_of(step, gain);
        }
        for (d = 0; d < dims; d += 256) {
            size_t n = LQ__MIN(dims - d, 256);
            uint32_t most = kernels->fixed_row(buffer, v + d * element, type, n, scale.exponent);
            if (most >= lq__limit_bits(scale.exponent)) {
                return most >= 0x7f800000u ? LQ_E_DATA : LQ_E_RANGE;
            }
            for (i = 0; i < n; i++) {
                rows[(d + i) * LQ__TOKENS + t] = buffer[i];
            }
        }
    }
    return LQ_OK;
}

/* Phases of pair i for a page; columns behind the tokens get 0. */
LQ__STATIC void lq__phases(uint32_t *phase, const lq_rope *rope, size_t i,
                           const lq_positions *positions, size_t tokens)
{
    uint64_t step = lq__phase_step(rope->freqs[i]);
    size_t t;
    if (!positions->list) {
        uint64_t at = (uint64_t)lq__position(positions, 0) * step;
        uint64_t by = (uint64_t)lq__position(positions, 1) * step - at;
        for (t = 0; t < LQ__TOKENS; t++, at += by) {
            phase[t] = (uint32_t)(at >> 32);
        }
        return;
    }
    for (t = 0; t < LQ__TOKENS; t++) {
        phase[t] = t < tokens ? (uint32_t)((uint64_t)lq__position(positions, t) * step >> 32) : 0;
    }
}

/* Undoes RoPE on all slices: one sine per pair and token serves them all. */
LQ__STATIC void lq__undo_rope(int32_t *rows, const lq_geometry *g, const lq_positions *positions,
                              size_t tokens)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    const lq_rope *rope = g->rope;
    const int64_t one = (int64_t)1 << 30;
    uint64_t magnitude = (uint64_t)(lq__rope_magnitude(rope) * 1073741824.0f);
    int64_t inverse = (int64_t)((((uint64_t)1 << 60) + magnitude / 2) / magnitude);
    size_t i;
    size_t t;
    uint32_t s;
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        uint32_t phase[LQ__TOKENS];
        int32_t sine[LQ__TOKENS];
        int32_t cosine[LQ__TOKENS];
        int32_t *slice = rows;
        size_t a;
        size_t b;
        lq__rope_pair(rope, i, &a, &b);
        lq__phases(phase, rope, i, positions, tokens);
        kernels->sincos_row(sine, cosine, phase);
        for (t = 0; t < LQ__TOKENS && inverse != one; t++) {
            sine[t] = (int32_t)((sine[t] * inverse + one / 2) >> 30);
            cosine[t] = (int32_t)((cosine[t] * inverse + one / 2) >> 30);
        }
        for (s = 0; s < g->slice_count; s++) {
            kernels->rope_rows(slice + a * LQ__TOKENS, slice + b * LQ__TOKENS, cosine, sine);
            slice += (size_t)g->slice_dims[s] * LQ__TOKENS;
        }
    }
}

/* Applies RoPE to float rows. Floats: this is the way out, where the last bit is free. */
LQ__STATIC void lq__apply_rope(float *rows, const lq_geometry *g, const lq_positions *positions,
                               size_t tokens)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    const lq_rope *rope = g->rope;
    float scale = lq__rope_magnitude(rope) / 1073741824.0f;
    size_t i;
    size_t t;
    uint32_t s;
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        uint32_t phase[LQ__TOKENS];
        int32_t y[LQ__TOKENS];
        int32_t x[LQ__TOKENS];
        float sine[LQ__TOKENS];
        float cosine[LQ__TOKENS];
        float *slice = rows;
        size_t a;
        size_t b;
        lq__rope_pair(rope, i, &a, &b);
        lq__phases(phase, rope, i, positions, tokens);
        kernels->sincos_row(y, x, phase);
        for (t = 0; t < LQ__TOKENS; t++) {
            sine[t] = (float)y[t] * scale;
            cosine[t] = (float)x[t] * scale;
        }
        for (s = 0; s < g->slice_count; s++) {
            kernels->rope_floats(slice + a * LQ__TOKENS, slice + b * LQ__TOKENS, cosine, sine);
            slice += (size_t)g->slice_dims[s] * LQ__TOKENS;
        }
    }
}

/* Hadamard over the rows of one slice; `inverse` flips the signs last instead of first. */
LQ__STATIC void lq__rotate_rows(int32_t *rows, size_t dims, int inverse)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t block = lq__hadamard_block(dims);
    size_t d;
    size_t t;
    for (d = 0; d < dims && !inverse; d++) {
        if (lq__sign_bit((uint32_t)d)) {
            for (t = 0; t < LQ__TOKENS; t++) {
                rows[d * LQ__TOKENS + t] = -rows[d * LQ__TOKENS + t];
            }
        }
    }
    for (d = 0; d < dims; d += block) {
        kernels->butterfly_rows(rows + d * LQ__TOKENS, block);
    }
    for (d = 0; d < dims; d++) {
        lq__hadamard_scale_row_c(rows + d * LQ__TOKENS, block,
                                 inverse ? lq__sign_bit((uint32_t)d) : 0);
    }
}

/* Loads all slices: rows (dims, 64) in units of each token's exponent, gains (slice_count, 64). */
LQ__STATIC int lq__load(int32_t *rows, int16_t *gains, const lq_geometry *g, float step,
                        const lq_vectors *src, size_t first, size_t tokens)
{
    size_t element = lq_type_bytes(src->type);
    uint32_t s;
    for (s = 0; s < g->slice_count; s++) {
        uint32_t dims = g->slice_dims[s];
        size_t stride = src->token_stride ? src->token_stride : dims;
        const uint8_t *p = (const uint8_t *)src->slices[s] + first * stride * element;
        int status = lq__load_slice(rows, gains + s * LQ__TOKENS, g, dims, p, stride, src->type,
                                    tokens, lq__slice_step(g, s, step));
        if (status) {
            return status;
        }
        rows += (size_t)dims * LQ__TOKENS;
    }
    return LQ_OK;
}

/* ---- dense bases ----
   A page's columns become int16 of one shift a column such that their norms stay below 2^15 - 1;
   rows of the matrices have norms of at most 2^15 and an exponent each. So no sum of the product
   passes 2^30, in whatever order it is made (Cauchy-Schwarz), and no float is involved. */

/* Shifts of the columns, and their pairs. An element is at most 16 (|row >> 4| + 1), so with the E
   below and 8192 rows a column's norm is at most 16 (sqrt(E) + 91), and rounding after the shift
   adds at most 46: under 2^15 - 1 when 256 E <= (31200 * 2^shift)^2. */
LQ__STATIC void lq__dense_pairs(int16_t *pairs, uint8_t *shift, const int32_t *rows, size_t count)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    uint64_t energy[LQ__TOKENS];
    size_t t;
    memset(energy, 0, sizeof energy);
    kernels->energy_rows(energy, rows, count, 4);
    for (t = 0; t < LQ__TOKENS; t++) {
        uint64_t limit = 3802500;
        for (shift[t] = 0; energy[t] > limit; shift[t]++) {
            limit *= 4;
        }
    }
    kernels->pair_rows(pairs, rows, count, shift);
}

/* A mean in units of 2^exponent as q12 of the step. With step = m * 2^e it is mean * 2^(exponent +
   12 - e) / m; LQ_E_RANGE beyond the 4096 steps that keep every sum inside 32 bits. */
LQ__STATIC int lq__mean_q12(int32_t *q12, int32_t mean, int32_t mean_exponent, float step)
{
    uint32_t u = lq__bits_of_f32(step);
    int32_t shift = mean_exponent + 12 - ((int32_t)(u >> 23) - 150);
    int64_t m = (u & 0x7fffffu) | 0x800000u;
    int64_t value;
    *q12 = 0;
    if (mean == 0 || shift < 0) { /* below 2^15 / 2^23 of 1/4096 step */
        return LQ_OK;
    }
    if (shift > 46) {
        return LQ_E_RANGE;
    }
    value = lq__div_round((int64_t)mean * ((int64_t)1 << shift), m);
    if (value > 1 << 24 || value < -(1 << 24)) {
        return LQ_E_RANGE;
    }
    *q12 = (int32_t)value;
    return LQ_OK;
}

/* Rows (dims, 64) q12 of the vectors to rows (rank, 64) q12 of the first `rank` coefficients.
   pairs: (dims + 1, 64) int16. */
LQ__STATIC int lq__dense_forward(int32_t *rows, int16_t *pairs, const lq_basis *b, float step,
                                 size_t tokens, size_t rank)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    uint8_t shift[LQ__TOKENS];
    size_t i;
    size_t t;
    if (!b->encodes) {
        return LQ_E_FORMAT;
    }
    for (i = 0; i < b->dims; i++) {
        int32_t *row = rows + i * LQ__TOKENS;
        int32_t center;
        int status = lq__mean_q12(&center, b->center[i], b->center_exponent, step);
        if (status) {
            return status;
        }
        for (t = 0; t < tokens; t++) {
            row[t] -= center;
        }
    }
    lq__dense_pairs(pairs, shift, rows, b->dims);
    kernels->product(rows, b->forward, b->forward_stride, rank, pairs, b->dims);
    kernels->shift_rows(rows, rank, shift, b->forward_exponent);
    return LQ_OK;
}

/* Vectors to coefficients: rows (dims, 64) q12, gains (slice_count, 64) for V. `tokens` <= 64.
   In a dense basis the first `rank` rows come out; pairs (dims + 1, 64) are for that basis only.
   Everything before the scale is linear, so V's gains may come last. */
LQ__STATIC int lq__front(int32_t *rows, int16_t *gains, int16_t *pairs, const lq_geometry *g,
                         float step, size_t rank, const lq_vectors *src, size_t first,
                         const lq_positions *positions, size_t tokens)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    uint32_t factor[LQ__TOKENS];
    int32_t *row = rows;
    uint32_t s;
    size_t d;
    size_t t;
    int status = lq__load(rows, gains, g, step, src, first, tokens);
    if (status) {
        return status;
    }
    if (g->rope) {
        lq__undo_rope(rows, g, positions, tokens);
    }
    for (s = 0; s < g->slice_count; s++) {
        if (g->basis == LQ_BASIS_HADAMARD) {
            lq__rotate_rows(row, g->slice_dims[s], 0);
        }
        for (t = 0; t < LQ__TOKENS; t++) { /* columns behind the tokens are zero */
            int32_t gain = g->stream == LQ_V && t < tokens ? gains[s * LQ__TOKENS + t] : 0;
            factor[t] = lq__scale_of(step, gain).factor;
        }
        for (d = 0; d < g->slice_dims[s]; d++, row += LQ__TOKENS) {
            kernels->scale_row(row, factor, 26);
        }
    }
    return g->dense ? lq__dense_forward(rows, pairs, g->dense, step, tokens, rank) : LQ_OK;
}

/* ---- profiles in memory ---- */
LQ__INLINE int lq__hash_differs(const uint8_t *a, const uint8_t *b)
{
    int differ = 0;
    size_t i;
    for (i = 0; i < 16; i++) {
        differ |= a[i] ^ b[i];
    }
    return differ;
}

LQ__INLINE size_t lq__profile_rows(const lq_profile *p)
{
    return (size_t)p->dims + (p->stream == LQ_V ? p->slice_count : 0);
}

LQ_API size_t lq_profile_bytes(size_t rows)
{
    return rows * 4;
}

LQ__STATIC int lq__profile_place(lq_profile *profile, void *mem, size_t mem_bytes, size_t rows)
{
    if (!mem || mem_bytes < lq_profile_bytes(rows)) {
        return LQ_E_SPACE;
    }
    profile->mean = (int16_t *)mem;
    profile->sigma = profile->mean + rows;
    return LQ_OK;
}

/* 2^16 log2(f) of a positive normal float. */
LQ__INLINE int32_t lq__log2_of_f32(float f)
{
    uint32_t u = lq__bits_of_f32(f);
    return lq__log2_q16((u & 0x7fffffu) | 0x800000u) + ((int32_t)(u >> 23) - 150) * 65536;
}

LQ_API int lq_profile_init(lq_profile *profile, void *mem, size_t mem_bytes, const lq_geometry *g,
                           float sigma)
{
    size_t rows = g ? lq_geometry_rows(g) : 0;
    lq_profile p;
    size_t i;
    if (!profile || rows == 0 || !lq__step_valid(sigma)) {
        return LQ_E_ARG;
    }
    if (lq__profile_place(&p, mem, mem_bytes, rows)) {
        return LQ_E_SPACE;
    }
    p.stream = g->stream;
    p.basis = g->basis ? g->basis : (uint32_t)LQ_BASIS_IDENTITY;
    p.slice_count = g->slice_count;
    p.dims = (uint32_t)lq_geometry_dims(g);
    p.mean_exponent = 0;
    p.dense = g->dense;
    memset(p.basis_hash, 0, sizeof p.basis_hash);
    if (g->dense) {
        memcpy(p.basis_hash, g->dense->hash, sizeof p.basis_hash);
    }
    for (i = 0; i < rows; i++) {
        int gain = i < rows - p.dims;
        int dead = g->dense && i - (rows - p.dims) >= g->dense->rank && !gain;
        p.mean[i] = 0;
        p.sigma[i] = (int16_t)(gain   ? 32
                               : dead ? LQ_SIGMA_DEAD
                                      : (lq__log2_of_f32(sigma) * 16 + 32768) >> 16);
    }
    *profile = p;
    return LQ_OK;
}

/* ---- fitting ---- */
LQ_API size_t lq_fit_bytes(const lq_geometry *g)
{
    return lq_geometry_rows(g) * 16;
}

LQ_API size_t lq_fit_workspace_bytes(const lq_geometry *g)
{
    size_t dims = lq_geometry_dims(g);
    size_t pairs = dims && g->dense ? dims * 2 + 2 : 0;
    return dims ? (dims * 4 + (size_t)g->slice_count * 2 + pairs) * LQ__TOKENS : 0;
}

LQ_API int lq_fit_init(lq_fit *fit, void *mem, size_t mem_bytes, const lq_geometry *g, float step)
{
    uint32_t s;
    size_t rows = g ? lq_geometry_rows(g) : 0;
    if (!fit || rows == 0 || !lq__step_valid(step)) {
        return LQ_E_ARG;
    }
    for (s = 0; s < g->slice_count; s++) {
        if (!lq__step_valid(lq__slice_step(g, s, step))) {
            return LQ_E_ARG;
        }
    }
    if (!mem || mem_bytes < lq_fit_bytes(g)) {
        return LQ_E_SPACE;
    }
    fit->geometry = *g;
    fit->step = step;
    fit->tokens = 0;
    fit->sum = (int64_t *)mem;
    fit->sum_squares = (uint64_t *)mem + rows;
    memset(mem, 0, lq_fit_bytes(g));
    return LQ_OK;
}

LQ__STATIC void lq__fit_row(lq_fit *fit, size_t row, int64_t v)
{
    int64_t q10 = (v + 2) >> 2;
    uint64_t square = (uint64_t)(q10 * q10);
    fit->sum[row] += q10;
    fit->sum_squares[row] += LQ__MIN(square, UINT64_MAX - fit->sum_squares[row]);
}

/* Tokens src_first .. of src; positions are already theirs. */
LQ__STATIC int lq__fit_add_from(lq_fit *fit, const lq_vectors *src, size_t src_first,
                                const lq_positions *positions, size_t tokens, void *workspace)
{
    size_t dims = lq_geometry_dims(&fit->geometry);
    size_t lead = fit->geometry.stream == LQ_V ? fit->geometry.slice_count : 0;
    int32_t *rows = (int32_t *)workspace;
    int16_t *gains = (int16_t *)workspace + 2 * dims * LQ__TOKENS;
    int16_t *pairs = gains + fit->geometry.slice_count * LQ__TOKENS;
    size_t rank = fit->geometry.dense ? fit->geometry.dense->rank : dims;
    size_t first;
    size_t i;
    size_t t;
    int pass;
    for (pass = 0; pass < 2; pass++) { /* all tokens are checked before the first is added */
        for (first = 0; first < tokens; first += LQ__TOKENS) {
            size_t n = LQ__MIN(tokens - first, LQ__TOKENS);
            lq_positions at = lq__positions_from(positions, first);
            int status =
                pass ? lq__front(rows, gains, pairs, &fit->geometry, fit->step, rank, src,
                                 src_first + first, &at, n)
                     : lq__load(rows, gains, &fit->geometry, fit->step, src, src_first + first, n);
            if (status) {
                return status;
            }
            for (i = 0; i < lead * (size_t)pass; i++) {
                for (t = 0; t < n; t++) {
                    lq__fit_row(fit, i, (int64_t)gains[i * LQ__TOKENS + t] * LQ__ONE);
                }
            }
            for (i = 0; i < rank * (size_t)pass; i++) {
                for (t = 0; t < n; t++) {
                    lq__fit_row(fit, lead + i, rows[i * LQ__TOKENS + t]);
                }
            }
        }
    }
    fit->tokens += tokens;
    return LQ_OK;
}

LQ_API int lq_fit_add(lq_fit *fit, const lq_vectors *src, const lq_positions *positions,
                      size_t tokens, void *workspace, size_t workspace_bytes)
{
    lq_positions none = {0, 0, NULL};
    if (!fit || !src || !src->slices || lq_type_bytes(src->type) == 0 || !workspace ||
        (fit->geometry.rope && !positions)) {
        return LQ_E_ARG;
    }
    if (workspace_bytes < lq_fit_workspace_bytes(&fit->geometry)) {
        return LQ_E_SPACE;
    }
    return lq__fit_add_from(fit, src, 0, positions ? positions : &none, tokens, workspace);
}

/* a * b in 128 bits: *high and the low half, which is returned. */
LQ__STATIC uint64_t lq__mul_wide(uint64_t *high, uint64_t a, uint64_t b)
{
    uint64_t al = a & 0xffffffffu;
    uint64_t bl = b & 0xffffffffu;
    uint64_t low = al * bl;
    uint64_t mid = (a >> 32) * bl + (low >> 32);
    uint64_t cross = al * (b >> 32) + (mid & 0xffffffffu);
    *high = (a >> 32) * (b >> 32) + (mid >> 32) + (cross >> 32);
    return cross << 32 | (low & 0xffffffffu);
}

/* q16 of 16 log2 of a row's standard deviation in steps; INT32_MIN if that is 0. The variance is
   (n sum(v^2) - sum(v)^2) / n^2, exact in 128 bits: a mean of many steps cancels without a trace.
   */
LQ__STATIC int32_t lq__fit_log_sigma(const lq_fit *fit, size_t row)
{
    uint64_t sum = (uint64_t)(fit->sum[row] < 0 ? -fit->sum[row] : fit->sum[row]);
    uint64_t high;
    uint64_t mean_high;
    uint64_t low = lq__mul_wide(&high, fit->tokens, fit->sum_squares[row]);
    uint64_t mean_low = lq__mul_wide(&mean_high, sum, sum);
    int32_t octaves = -20;
    if (high < mean_high || (high == mean_high && low <= mean_low)) {
        return INT32_MIN;
    }
    high -= mean_high + (low < mean_low);
    low -= mean_low;
    if (high) {
        uint32_t up = lq__log2_floor(high) + 1;
        low = up == 64 ? high : high << (64 - up) | low >> up;
        octaves += (int32_t)up;
    }
    return 8 * (lq__log2_q16(low) + (octaves * 65536 - 2 * lq__log2_q16(fit->tokens)));
}

/* In a dense basis the calibrated deviation, and a mean of 0, count as so many tokens. */
#define LQ__FIT_PRIOR 512u

/* Mean of two variances, given and returned as q16 of 16 log2 of the deviation. */
LQ__STATIC int32_t lq__fit_blend(int32_t fitted, int32_t prior, uint64_t tokens)
{
    int32_t high = LQ__MAX(fitted, prior);
    int32_t below = high - (fitted == INT32_MIN ? high - (1 << 30) : LQ__MIN(fitted, prior));
    uint64_t many = LQ__MIN(tokens, (uint64_t)1 << 20);
    uint64_t of_high = fitted > prior ? many : LQ__FIT_PRIOR;
    uint64_t of_low = many + LQ__FIT_PRIOR - of_high;
    uint32_t octaves = (uint32_t)below >> 19; /* of variance: 8 log2 steps a unit */
    uint32_t fraction = ((uint32_t)below >> 3) & 65535u;
    uint64_t low = octaves > 30 ? 0 : (uint64_t)1 << 60;
    if (low) {
        low = low / lq__exp2_q30(fraction) >> octaves; /* q30 of 2^-below */
    }
    low = (of_high << 30) + of_low * low;
    return high + 8 * (lq__log2_q16(low) - 30 * 65536 - lq__log2_q16(many + LQ__FIT_PRIOR));
}

LQ_API int lq_fit_profile(const lq_fit *fit, lq_profile *profile, void *mem, size_t mem_bytes)
{
    uint32_t step_bits;
    int32_t log_step;
    size_t rows;
    size_t lead;
    size_t i;
    lq_profile p;
    int status;
    if (!fit || !profile || fit->tokens == 0) {
        return LQ_E_ARG;
    }
    status = lq_profile_init(&p, mem, mem_bytes, &fit->geometry, 1.0f);
    if (status) {
        return status;
    }
    rows = lq__profile_rows(&p);
    lead = rows - p.dims;
    step_bits = lq__bits_of_f32(fit->step);
    log_step = lq__log2_of_f32(fit->step);
    p.mean_exponent = (int32_t)(step_bits >> 23) - 127 - 2;
    for (i = 0; i < rows; i++) {
        int64_t mean = lq__div_round(fit->sum[i] * 4, (int64_t)fit->tokens); /* q12 */
        int32_t log_sigma = lq__fit_log_sigma(fit, i);
        if (i >= lead + (p.dense ? p.dense->rank : p.dims)) {
            p.mean[i] = 0;
            p.sigma[i] = LQ_SIGMA_DEAD;
            continue;
        }
        if (i < lead) {
            mean = (mean + LQ__ONE / 2) >> 12;
        } else { /* q12 steps to quarters of the power of two below the step */
            mean = lq__div_round(mean * (int64_t)((step_bits & 0x7fffffu) | 0x800000u),
                                 (int64_t)1 << 33);
            log_sigma += log_sigma == INT32_MIN ? 0 : 16 * log_step;
            if (p.dense) {
                mean = mean * (int64_t)fit->tokens / (int64_t)(fit->tokens + LQ__FIT_PRIOR);
                log_sigma = lq__fit_blend(log_sigma, p.dense->sigma[i - lead] * 65536, fit->tokens);
            }
        }
        p.mean[i] = (int16_t)lq__clamp((int32_t)mean, -32767, 32767);
        p.sigma[i] = log_sigma == INT32_MIN
                         ? LQ_SIGMA_DEAD
                         : (int16_t)lq__clamp((log_sigma + 32768) >> 16, -4096, 4096);
    }
    *profile = p;
    return LQ_OK;
}

LQ_API int lq_fit_due(uint64_t pages)
{
    return pages != 0 && (pages & (pages - 1)) == 0;
}

/* ---- the file form ---- */
/* Bits, lowest first, behind a fixed capacity: past it writes are dropped and `full` is set; reads
   give zeros and set `bad`. */
typedef struct lq__bit_writer {
    uint8_t *dst;
    size_t capacity;
    size_t at; /* bits */
    int full;
} lq__bit_writer;

typedef struct lq__bit_reader {
    const uint8_t *src;
    size_t count; /* bits, whole bytes */
    size_t at;
    int bad;
} lq__bit_reader;

LQ__STATIC void lq__bit_put(lq__bit_writer *w, uint32_t value, uint32_t bits)
{
    while (bits) {
        size_t byte = w->at / 8;
        uint32_t used = (uint32_t)(w->at % 8);
        uint32_t n = LQ__MIN(bits, 8 - used);
        if (byte >= w->capacity) {
            w->full = 1;
            return;
        }
        if (used == 0) {
            w->dst[byte] = 0;
        }
        w->dst[byte] |= (uint8_t)((value & ((1u << n) - 1)) << used);
        w->at += n;
        value >>= n;
        bits -= n;
    }
}

/* The next 57 bits or more; zeros behind the end. */
LQ__INLINE uint64_t lq__bit_peek(const lq__bit_reader *r)
{
    size_t byte = r->at / 8;
    size_t left = r->count / 8 - byte;
    uint64_t v = 0;
    size_t i;
    if (left >= 8) {
        return lq__load64(r->src + byte) >> r->at % 8;
    }
    for (i = 0; i < left; i++) {
        v |= (uint64_t)r->src[byte + i] << 8 * i;
    }
    return v >> r->at % 8;
}

LQ__INLINE void lq__bit_skip(lq__bit_reader *r, uint32_t bits)
{
    if (bits > r->count - r->at) {
        r->bad = 1;
        r->at = r->count;
    } else {
        r->at += bits;
    }
}

LQ__STATIC uint32_t lq__bit_get(lq__bit_reader *r, uint32_t bits)
{
    uint32_t value = (uint32_t)(lq__bit_peek(r) & (((uint64_t)1 << bits) - 1));
    lq__bit_skip(r, bits);
    return r->bad ? 0 : value;
}

/* Exp-Golomb code of order k of a signed number: zeros, a one, then the value's bits. */
LQ__INLINE uint32_t lq__zigzag(int32_t v)
{
    return (uint32_t)v << 1 ^ (uint32_t)(v >> 31);
}

LQ__INLINE int32_t lq__unzigzag(uint32_t n)
{
    return (int32_t)(n >> 1) ^ -(int32_t)(n & 1u);
}

LQ__INLINE uint32_t lq__golomb_bits(int32_t v, uint32_t k)
{
    return 2 * lq__log2_floor((uint64_t)lq__zigzag(v) + ((uint64_t)1 << k)) - k + 1;
}

LQ__STATIC void lq__golomb_put(lq__bit_writer *w, int32_t v, uint32_t k)
{
    uint32_t n = lq__zigzag(v) + (1u << k);
    uint32_t length = lq__log2_floor(n);
    lq__bit_put(w, 0, length - k);
    lq__bit_put(w, 1, 1);
    lq__bit_put(w, n, length);
}

LQ__STATIC int32_t lq__golomb_get(lq__bit_reader *r, uint32_t k)
{
    uint32_t length = k;
    uint32_t n;
    while (!r->bad && lq__bit_get(r, 1) == 0) {
        if (++length > 20) {
            r->bad = 1;
        }
    }
    n = r->bad ? 0 : lq__bit_get(r, length) + (1u << length) - (1u << k);
    return lq__unzigzag(n);
}

/* Rice code of order k of a signed number of 16 bits: ones, a zero, k bits; or 24 ones and all 16
   bits. Elements of an eigenvector are near Gaussian: within 0.1 bit of their entropy. */
#define LQ__RICE_ONES 24u

LQ__INLINE uint32_t lq__rice_bits(uint32_t zigzag, uint32_t k)
{
    uint32_t ones = zigzag >> k;
    return ones < LQ__RICE_ONES ? ones + 1 + k : LQ__RICE_ONES + 16;
}

LQ__STATIC void lq__rice_put(lq__bit_writer *w, int32_t v, uint32_t k)
{
    uint32_t n = lq__zigzag(v);
    uint32_t ones = n >> k;
    if (ones < LQ__RICE_ONES) {
        lq__bit_put(w, (1u << ones) - 1, ones + 1);
        lq__bit_put(w, n, k);
    } else {
        lq__bit_put(w, (1u << LQ__RICE_ONES) - 1, LQ__RICE_ONES);
        lq__bit_put(w, n, 16);
    }
}

LQ__INLINE int32_t lq__rice_get(lq__bit_reader *r, uint32_t k)
{
    uint64_t v = lq__bit_peek(r);
    uint32_t ones = 0;
    uint32_t n;
    while (ones < LQ__RICE_ONES && (v & 1)) {
        v >>= 1;
        ones++;
    }
    if (ones < LQ__RICE_ONES) {
        n = ones << k | (uint32_t)(v >> 1 & ((1u << k) - 1));
        lq__bit_skip(r, ones + 1 + k);
    } else {
        n = (uint32_t)(v & 65535);
        lq__bit_skip(r, LQ__RICE_ONES + 16);
    }
    return lq__unzigzag(n & 65535);
}

/* sigma is coded as the difference to the row before; a dead row is one reserved difference. */
#define LQ__DEAD_DELTA 8200

LQ__STATIC int32_t lq__sigma_delta(const lq_profile *p, size_t i, int32_t *last)
{
    int32_t delta;
    if (p->sigma[i] == LQ_SIGMA_DEAD) {
        return LQ__DEAD_DELTA;
    }
    delta = p->sigma[i] - *last;
    *last = p->sigma[i];
    return delta;
}

/* The order (0 .. 15) that codes sigmas (which = 0) or means (1) of `rows` in the fewest bits. */
LQ__STATIC uint32_t lq__profile_order(const lq_profile *p, size_t rows, int which)
{
    uint32_t best = 0;
    uint64_t best_bits = UINT64_MAX;
    uint32_t k;
    size_t i;
    for (k = 0; k < 16; k++) {
        uint64_t bits = 0;
        int32_t last = 0;
        for (i = 0; i < rows; i++) {
            bits += lq__golomb_bits(which ? p->mean[i] : lq__sigma_delta(p, i, &last), k);
        }
        if (bits < best_bits) {
            best_bits = bits;
            best = k;
        }
    }
    return best;
}

#define LQ__PROFILE_HEADER 20
#define LQ__PROFILE_MAGIC 0x4650514cu /* "LQPF" */

/* The basis byte of the file form: a dense basis is there, or named. */
enum { LQ__FORM_DENSE = 3, LQ__FORM_NAMED = 4 };

LQ__STATIC int lq__profile_valid(const lq_profile *p)
{
    size_t i;
    if ((p->stream != LQ_K && p->stream != LQ_V) || p->basis < LQ_BASIS_IDENTITY ||
        p->basis > LQ_BASIS_DENSE || p->slice_count == 0 || p->slice_count > LQ__SLICES_MAX ||
        p->dims < p->slice_count || p->dims > LQ__DIMS_MAX || p->mean_exponent < -128 ||
        p->mean_exponent > 127 || !p->mean || !p->sigma) {
        return 0;
    }
    for (i = 0; i < lq__profile_rows(p); i++) {
        if (p->sigma[i] != LQ_SIGMA_DEAD && (p->sigma[i] < -4096 || p->sigma[i] > 4096)) {
            return 0;
        }
    }
    return 1;
}

/* Rows that the file form holds: all; of a dense basis those before the dead tail. */
LQ__STATIC size_t lq__profile_rows_held(const lq_profile *p)
{
    size_t lead = lq__profile_rows(p) - p->dims;
    size_t rows = lq__profile_rows(p);
    while (p->basis == LQ_BASIS_DENSE && rows > lead + 1 && p->sigma[rows - 1] == LQ_SIGMA_DEAD) {
        rows--;
    }
    return rows;
}

LQ_API size_t lq_profile_save_bound(size_t rows)
{
    return LQ__PROFILE_HEADER + 18 + (rows * (33 + 29) + 7) / 8; /* longest codes at order 0 */
}

/* The first 16 bytes; chooses the orders of `rows` rows. */
LQ__STATIC void lq__profile_head(uint8_t *dst, const lq_profile *p, uint32_t form, size_t rows)
{
    uint32_t order_sigma = lq__profile_order(p, rows, 0);
    uint32_t order_mean = lq__profile_order(p, rows, 1);
    lq__store32(dst, LQ__PROFILE_MAGIC);
    dst[4] = 1;
    dst[5] = (uint8_t)p->stream;
    dst[6] = (uint8_t)form;
    dst[7] = (uint8_t)(order_sigma | order_mean << 4);
    lq__store16(dst + 8, p->slice_count);
    lq__store16(dst + 10, p->dims);
    dst[12] = (uint8_t)p->mean_exponent;
    memset(dst + 13, 0, 3);
}

/* Rows by the orders in the head. */
LQ__STATIC void lq__profile_put_rows(lq__bit_writer *w, const uint8_t *head, const lq_profile *p,
                                     size_t rows)
{
    int32_t last = 0;
    size_t i;
    for (i = 0; i < rows; i++) {
        lq__golomb_put(w, lq__sigma_delta(p, i, &last), head[7] & 15u);
        lq__golomb_put(w, p->mean[i], head[7] >> 4);
    }
}

LQ__STATIC uint32_t lq__profile_checksum(const uint8_t *src, size_t src_bytes)
{
    return lq__xxh32(src + LQ__PROFILE_HEADER, src_bytes - LQ__PROFILE_HEADER,
                     lq__xxh32(src, 16, 0));
}

LQ_API int lq_profile_save(uint8_t *dst, size_t dst_bytes, size_t *written, const lq_profile *p)
{
    int named = p && p->basis == LQ_BASIS_DENSE;
    size_t fixed = LQ__PROFILE_HEADER + (named ? 18u : 0u);
    lq__bit_writer w;
    size_t rows;
    if (!written) {
        return LQ_E_ARG;
    }
    *written = 0;
    if (!dst || !p || !lq__profile_valid(p)) {
        return LQ_E_ARG;
    }
    if (dst_bytes < fixed) {
        return LQ_E_SPACE;
    }
    rows = lq__profile_rows_held(p);
    lq__profile_head(dst, p, named ? (uint32_t)LQ__FORM_NAMED : p->basis, rows);
    if (named) {
        memcpy(dst + LQ__PROFILE_HEADER, p->basis_hash, 16);
        lq__store16(dst + LQ__PROFILE_HEADER + 16,
                    (uint32_t)(rows - (lq__profile_rows(p) - p->dims)));
    }
    w.dst = dst + fixed;
    w.capacity = dst_bytes - fixed;
    w.at = 0;
    w.full = 0;
    lq__profile_put_rows(&w, dst, p, rows);
    if (w.full) {
        return LQ_E_SPACE;
    }
    *written = fixed + (w.at + 7) / 8;
    lq__store32(dst + 16, lq__profile_checksum(dst, *written));
    return LQ_OK;
}

/* The header of a profile: geometry and nothing that points anywhere. */
LQ__STATIC int lq__profile_header(lq_profile *p, const uint8_t *src, size_t src_bytes)
{
    if (src_bytes < LQ__PROFILE_HEADER || lq__load32(src) != LQ__PROFILE_MAGIC) {
        return LQ_E_DATA;
    }
    if (src[4] != 1 || src[6] < LQ_BASIS_IDENTITY || src[6] > LQ__FORM_NAMED) {
        return LQ_E_FORMAT;
    }
    memset(p, 0, sizeof *p);
    p->stream = src[5];
    p->basis = LQ__MIN(src[6], (uint32_t)LQ_BASIS_DENSE);
    p->slice_count = lq__load16(src + 8);
    p->dims = lq__load16(src + 10);
    p->mean_exponent = (int32_t)(src[12] ^ 0x80u) - 128;
    if ((p->stream != LQ_K && p->stream != LQ_V) || p->slice_count == 0 ||
        p->slice_count > LQ__SLICES_MAX || p->dims < p->slice_count || p->dims > LQ__DIMS_MAX ||
        src[13] || src[14] || src[15]) {
        return LQ_E_DATA;
    }
    return LQ_OK;
}

/* `held` rows; those behind are dead. */
LQ__STATIC int lq__profile_get_rows(lq_profile *p, lq__bit_reader *r, uint32_t orders, size_t held)
{
    size_t rows = lq__profile_rows(p);
    int32_t last = 0;
    size_t i;
    for (i = 0; i < held; i++) {
        int32_t delta = lq__golomb_get(r, orders & 15u);
        int32_t mean = lq__golomb_get(r, orders >> 4);
        last += delta == LQ__DEAD_DELTA ? 0 : delta;
        if (r->bad || last < -4096 || last > 4096 || mean < -32767 || mean > 32767) {
            return LQ_E_DATA;
        }
        p->sigma[i] = (int16_t)(delta == LQ__DEAD_DELTA ? LQ_SIGMA_DEAD : last);
        p->mean[i] = (int16_t)mean;
    }
    for (; i < rows; i++) {
        p->sigma[i] = LQ_SIGMA_DEAD;
        p->mean[i] = 0;
    }
    return LQ_OK;
}

/* The stream must end with its last byte, padded with zeros. */
LQ__STATIC int lq__bits_end(lq__bit_reader *r)
{
    size_t left = r->count - r->at;
    return !r->bad && left < 8 && lq__bit_get(r, (uint32_t)left) == 0 ? LQ_OK : LQ_E_DATA;
}

/* ---- the file form of a dense basis ----
   Behind the 20 bytes, all little-endian (>>manual has the diagram):
     rank u16, metric u8, centre's exponent i8, precision i16, floor i16
     of each slice: dims u16, exponent i8, metric's exponent i8
     the centre, i16 of each dim; of each slice with metric 1: its lower triangle, i16, row by row
     bits: rows of the profile (gains, then coefficients); of each coefficient 4 bits, octaves that
     its unit is coarser than the rule (no element passes 16 bits), 4 bits, the order of
     its Rice codes, and of each dim its element in units of 2^(e / 4), e = (precision -
     max(sigma, floor)) >> 2
   Element j of row i is d x_j / d c_i: what coefficient i adds to dim j. The forward matrix is its
   transpose times the metric: for K, A'A of each slice, A being what made the errors white.

   In memory a number of the matrix is v = q 2^(e / 4) in q22, below 2^28; a matrix's rows become
   int16 with an exponent such that their norm stays below 2^15. */
#define LQ__DENSE_FIXED 28u
#define LQ__DENSE_Q 22
#define LQ__DENSE_EXPONENT 8 /* no basis has rows of a larger one */

enum { LQ__METRIC_NONE = 0, LQ__METRIC_STORED = 1, LQ__METRIC_LEFT_OUT = 2 };

typedef struct lq__dense_form {
    uint32_t rank;
    uint32_t metric;
    int32_t center_exponent;
    int32_t precision;
    int32_t floor;
    const uint8_t *slices;
    const uint8_t *center;
    const uint8_t *metrics;
    const uint8_t *bits;
    size_t bits_bytes;
} lq__dense_form;

LQ__STATIC int lq__dense_form_read(lq__dense_form *f, const lq_profile *p, const uint8_t *src,
                                   size_t src_bytes)
{
    size_t fixed = LQ__DENSE_FIXED + (size_t)p->slice_count * 4 + (size_t)p->dims * 2;
    size_t dims = 0;
    size_t metric_bytes = 0;
    uint32_t s;
    if (src_bytes < fixed) {
        return LQ_E_DATA;
    }
    f->rank = lq__load16(src + 20);
    f->metric = src[22];
    f->center_exponent = (int32_t)(src[23] ^ 0x80u) - 128;
    f->precision = (int32_t)(lq__load16(src + 24) ^ 0x8000u) - 32768;
    f->floor = (int32_t)(lq__load16(src + 26) ^ 0x8000u) - 32768;
    f->slices = src + LQ__DENSE_FIXED;
    f->center = f->slices + (size_t)p->slice_count * 4;
    f->metrics = src + fixed;
    for (s = 0; s < p->slice_count; s++) {
        size_t d = lq__load16(f->slices + 4 * s);
        int32_t exponent = (int32_t)(f->slices[4 * s + 2] ^ 0x80u) - 128;
        int32_t metric_exponent = (int32_t)(f->slices[4 * s + 3] ^ 0x80u) - 128;
        dims += d;
        metric_bytes += f->metric == LQ__METRIC_STORED ? d * (d + 1) : 0;
        if (d == 0 || exponent < -64 || exponent > 64 || metric_exponent < -16 ||
            metric_exponent > 15) {
            return LQ_E_DATA;
        }
    }
    if (f->rank == 0 || f->rank > p->dims || f->metric > LQ__METRIC_LEFT_OUT || dims != p->dims ||
        f->center_exponent < -64 || f->center_exponent > 16 || metric_bytes > src_bytes - fixed) {
        return LQ_E_DATA;
    }
    f->bits = src + fixed + metric_bytes;
    f->bits_bytes = src_bytes - fixed - metric_bytes;
    return (size_t)f->rank * p->dims / 8 > f->bits_bytes ? LQ_E_DATA : LQ_OK;
}

/* Where things lie in the caller's memory. */
typedef struct lq__dense_place {
    lq_basis *basis;
    int16_t *rows; /* mean and sigma of the profile */
    int8_t *slice_exponent;
    uint16_t *slice_dims;
    int16_t *center;
    int16_t *forward;
    int16_t *inverse;
    int8_t *forward_exponent;
    int8_t *inverse_exponent;
    int64_t *vector; /* (2 dims) scratch, as all that follows */
    uint64_t *norm;  /* (dims) */
    int32_t *rows32; /* (dims, 64) */
    int16_t *pairs;  /* (dims + 1, 64) */
    int16_t *error;  /* (64, rank) */
    int32_t *sum;    /* (64, dims) */
    size_t bytes;
} lq__dense_place;

LQ__INLINE size_t lq__even(size_t n)
{
    return (n + 1) & ~(size_t)1;
}

LQ__STATIC lq__dense_place lq__dense_place_of(void *mem, const lq_profile *p, size_t rank)
{
    lq__dense_place d;
    size_t at = mem ? (0 - (size_t)(uintptr_t)mem) & 63 : 0;
    size_t begin = at;
    uint8_t *m = (uint8_t *)mem;
    size_t offset[15];
    size_t bytes[15];
    size_t i;
    bytes[0] = sizeof(lq_basis);
    bytes[1] = lq_profile_bytes(lq__profile_rows(p));
    bytes[2] = p->slice_count;
    bytes[3] = (size_t)p->slice_count * 2;
    bytes[4] = (size_t)p->dims * 2;
    bytes[5] = rank * lq__even(p->dims) * 2;
    bytes[6] = p->dims * lq__even(rank) * 2;
    bytes[7] = rank;
    bytes[8] = p->dims;
    bytes[9] = (size_t)p->dims * 16;
    bytes[10] = (size_t)p->dims * 8;
    bytes[11] = (size_t)p->dims * 4 * LQ__TOKENS;
    bytes[12] = ((size_t)p->dims + 1) * 2 * LQ__TOKENS;
    bytes[13] = lq__even(rank) * 2 * LQ__TOKENS;
    bytes[14] = (size_t)p->dims * 4 * LQ__TOKENS;
    for (i = 0; i < 15; i++) {
        offset[i] = at;
        at += lq__align64(bytes[i]);
    }
    memset(&d, 0, sizeof d);
    d.bytes = at - begin + 64;
    if (m) {
        d.basis = (lq_basis *)(void *)(m + offset[0]);
        d.rows = (int16_t *)(void *)(m + offset[1]);
        d.slice_exponent = (int8_t *)(m + offset[2]);
        d.slice_dims = (uint16_t *)(void *)(m + offset[3]);
        d.center = (int16_t *)(void *)(m + offset[4]);
        d.forward = (int16_t *)(void *)(m + offset[5]);
        d.inverse = (int16_t *)(void *)(m + offset[6]);
        d.forward_exponent = (int8_t *)(m + offset[7]);
        d.inverse_exponent = (int8_t *)(m + offset[8]);
        d.vector = (int64_t *)(void *)(m + offset[9]);
        d.norm = (uint64_t *)(void *)(m + offset[10]);
        d.rows32 = (int32_t *)(void *)(m + offset[11]);
        d.pairs = (int16_t *)(void *)(m + offset[12]);
        d.error = (int16_t *)(void *)(m + offset[13]);
        d.sum = (int32_t *)(void *)(m + offset[14]);
    }
    return d;
}

/* An element as q22: q * 2^(quarters / 4). */
LQ__INLINE int64_t lq__dense_value(int32_t q, int32_t quarters)
{
    static const int64_t root[4] = {1073741824, 1276901417, 1518500250, 1805811302}; /* q30 */
    int32_t shift = 30 - LQ__DENSE_Q - (quarters >> 2);
    int64_t v = q * root[quarters & 3];
    if (shift <= 0) { /* beyond what a file form may hold */
        return q ? (int64_t)1 << 28 : 0;
    }
    return shift > 62 ? 0 : (v + ((int64_t)1 << (shift - 1))) >> shift;
}

/* Quarter octaves of a row's unit, kept where lq__dense_value works. */
LQ__INLINE int32_t lq__dense_quarters(int32_t precision, int32_t sigma_floor, int32_t sigma)
{
    return lq__clamp((precision - LQ__MAX(sigma, sigma_floor)) >> 2, -240, 28);
}

/* Exponent e, -3 .. 20, for a row whose sum of squares is norm in units of 2^-2q: the norm over
   2^e stays below 2^15 in q15, with room for the rounding of 8192 elements. */
LQ__STATIC int32_t lq__dense_exponent(uint64_t norm, int32_t q)
{
    int32_t e = -3;
    for (; e < 20; e++) { /* sqrt(norm) 2^(15 - q - e) <= 32000 */
        int32_t shift = 2 * (15 - q - e);
        uint64_t limit = 1024000000u;
        if (shift <= 0 ? -shift >= 34 || norm <= limit << -shift : norm <= limit >> shift) {
            break;
        }
    }
    return e;
}

LQ__INLINE int16_t lq__dense_round(int64_t v, int32_t q, int32_t e)
{
    int32_t shift = q + e - 15;
    int64_t r = shift > 0 ? (v + ((int64_t)1 << (shift - 1))) >> shift : v * ((int64_t)1 << -shift);
    return (int16_t)(r > 32767 ? 32767 : r < -32767 ? -32767 : r);
}

/* Reads the elements: q into the forward matrix, squares of their values into norm. */
LQ__STATIC int lq__dense_read(lq__dense_place *d, lq__bit_reader *r, const lq_profile *p,
                              const lq__dense_form *f)
{
    const int16_t *sigma = p->sigma + (lq__profile_rows(p) - p->dims);
    size_t stride = lq__even(p->dims);
    size_t i;
    size_t j;
    memset(d->norm, 0, (size_t)p->dims * 8);
    for (i = 0; i < f->rank; i++) {
        uint32_t octaves = lq__bit_get(r, 4);
        uint32_t k = lq__bit_get(r, 4);
        int32_t quarters = lq__dense_quarters(f->precision, f->floor, sigma[i]);
        int16_t *row = d->forward + i * stride;
        if (sigma[i] == LQ_SIGMA_DEAD) {
            return LQ_E_DATA;
        }
        quarters += 4 * (int32_t)octaves;
        d->forward_exponent[i] = (int8_t)octaves; /* until the row is built */
        for (j = 0; j < p->dims; j++) {
            int32_t q = lq__rice_get(r, k);
            int64_t v = lq__dense_value(q, quarters);
            if (v >= (int64_t)1 << 28 || v <= -((int64_t)1 << 28)) {
                return LQ_E_DATA;
            }
            row[j] = (int16_t)q;
            d->norm[j] += (uint64_t)((v >> 3) * (v >> 3));
        }
        row[stride - 1] = p->dims & 1 ? 0 : row[stride - 1];
        if (r->bad) {
            return LQ_E_DATA;
        }
    }
    return LQ_OK;
}

/* v (n) = metric of a slice times v: q22 plus 15 less the metric's exponent, below 2^57. */
LQ__STATIC void lq__dense_metric(int64_t *v, int64_t *out, const uint8_t *triangle, size_t n)
{
    size_t i;
    size_t j;
    for (i = 0; i < n; i++) {
        out[i] = 0;
    }
    for (i = 0; i < n; i++) {
        for (j = 0; j <= i; j++, triangle += 2) {
            int64_t g = (int16_t)lq__load16(triangle);
            out[i] += g * v[j];
            out[j] += j < i ? g * v[i] : 0;
        }
    }
    memcpy(v, out, n * sizeof *v);
}

/* Row i of the forward matrix from its elements q, in place. */
LQ__STATIC int lq__dense_forward_row(lq__dense_place *d, const lq_profile *p,
                                     const lq__dense_form *f, size_t i, int32_t quarters)
{
    int16_t *row = d->forward + i * lq__even(p->dims);
    const uint8_t *triangle = f->metrics;
    int64_t *v = d->vector;
    uint64_t most = 1;
    uint64_t norm = 0;
    int32_t down;
    int32_t e;
    size_t at = 0;
    size_t j;
    uint32_t s;
    for (j = 0; j < p->dims; j++) {
        v[j] = lq__dense_value(row[j], quarters);
    }
    for (s = 0; s < p->slice_count && f->metric == LQ__METRIC_STORED; s++) {
        size_t n = d->slice_dims[s];
        int32_t down_to_q22 = 15 + 128 - (int32_t)(f->slices[4 * s + 3] ^ 0x80u);
        lq__dense_metric(v + at, v + p->dims, triangle, n);
        for (j = at; j < at + n; j++) {
            v[j] >>= down_to_q22;
        }
        triangle += n * (n + 1);
        at += n;
    }
    for (j = 0; j < p->dims; j++) {
        most = LQ__MAX(most, (uint64_t)(v[j] < 0 ? -v[j] : v[j]));
    }
    down = (int32_t)lq__log2_floor(most) - 24;
    down = LQ__MAX(down, 0);
    for (j = 0; j < p->dims; j++) {
        v[j] >>= down;
        norm += (uint64_t)(v[j] * v[j]);
    }
    e = lq__dense_exponent(norm, LQ__DENSE_Q - down);
    if (e > LQ__DENSE_EXPONENT) {
        return LQ_E_DATA;
    }
    for (j = 0; j < p->dims; j++) {
        row[j] = lq__dense_round(v[j], LQ__DENSE_Q - down, e);
    }
    d->forward_exponent[i] = (int8_t)(e - 15);
    return LQ_OK;
}

/* ---- the forward matrix, mended ----
   The transpose of a rounded basis is not its inverse: what rounding put into one coefficient's
   vector leaks into it from all others. One Newton step, F + (I - F R) F, makes the leak quadratic.
   64 rows of F at a time, in place: rows that are mended already serve as well. */

/* error (64, rank) = I - F R in q15 for rows first .. first + count. A row that is far from the
   inverse belongs to no basis of ours and stays as it is. */
LQ__STATIC void lq__dense_error(lq__dense_place *d, const lq_profile *p, const lq__dense_form *f,
                                size_t first, size_t count)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t stride = lq__even(f->rank);
    uint8_t shift[LQ__TOKENS];
    int8_t exponent[LQ__TOKENS];
    size_t c;
    size_t j;
    size_t r;
    size_t t;
    for (r = 0; r < count; r++) { /* sums are q18 of R times the row's unit: to q26 */
        exponent[r] = (int8_t)(d->forward_exponent[first + r] + 26 - 18);
    }
    for (c = 0; c < f->rank; c += LQ__TOKENS) {
        size_t columns = LQ__MIN(f->rank - c, LQ__TOKENS);
        int32_t *out = d->sum;
        memset(d->rows32, 0, (size_t)p->dims * LQ__TOKENS * 4);
        for (j = 0; j < p->dims; j++) {
            int32_t up = 1 << (d->inverse_exponent[j] + 3);
            for (t = 0; t < columns; t++) {
                d->rows32[j * LQ__TOKENS + t] = d->inverse[j * stride + c + t] * up;
            }
        }
        lq__dense_pairs(d->pairs, shift, d->rows32, p->dims);
        kernels->product(out, d->forward + first * lq__even(p->dims), lq__even(p->dims), count,
                         d->pairs, p->dims);
        kernels->shift_rows(out, count, shift, exponent);
        for (r = 0; r < count; r++) {
            for (t = 0; t < columns; t++) {
                int32_t e = (first + r == c + t) * (1 << 26) - out[r * LQ__TOKENS + t];
                d->error[r * stride + c + t] = (int16_t)lq__clamp((e + 1024) >> 11, -32767, 32767);
            }
        }
    }
    for (r = 0; r < count; r++) {
        int16_t *row = d->error + r * stride;
        uint64_t norm = 0;
        for (t = 0; t < f->rank; t++) {
            norm += (uint64_t)((int32_t)row[t] * row[t]);
        }
        if (norm > (uint64_t)20000 * 20000) {
            memset(row, 0, stride * 2);
        }
        row[stride - 1] = f->rank & 1 ? 0 : row[stride - 1];
    }
}

LQ__STATIC void lq__dense_mend(lq__dense_place *d, const lq_profile *p, const lq__dense_form *f,
                               size_t first)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t count = LQ__MIN(f->rank - first, LQ__TOKENS);
    size_t stride = lq__even(p->dims);
    uint8_t shift[LQ__TOKENS];
    int32_t out[8 * LQ__TOKENS];
    size_t c;
    size_t i;
    size_t r;
    size_t t;
    lq__dense_error(d, p, f, first, count);
    for (c = 0; c < p->dims; c += LQ__TOKENS) { /* sum = F + error F in q18 */
        size_t columns = LQ__MIN(p->dims - c, LQ__TOKENS);
        memset(d->rows32, 0, (size_t)f->rank * LQ__TOKENS * 4);
        for (i = 0; i < f->rank; i++) {
            int32_t up = 1 << (d->forward_exponent[i] + 15 + 3);
            for (t = 0; t < columns; t++) {
                d->rows32[i * LQ__TOKENS + t] = d->forward[i * stride + c + t] * up;
            }
        }
        lq__dense_pairs(d->pairs, shift, d->rows32, f->rank);
        for (r = 0; r < count; r++) {
            if (r % 8 == 0) {
                kernels->product(out, d->error + r * lq__even(f->rank), lq__even(f->rank),
                                 LQ__MIN(count - r, 8), d->pairs, f->rank);
            }
            for (t = 0; t < columns; t++) {
                int64_t more = (int64_t)out[r % 8 * LQ__TOKENS + t] * ((int64_t)1 << shift[t]);
                more = (more + 16384) >> 15; /* clamped for the sake of hostile matrices */
                more = LQ__MAX(LQ__MIN(more, (int64_t)1 << 28), -((int64_t)1 << 28));
                d->sum[r * p->dims + c + t] =
                    d->rows32[(first + r) * LQ__TOKENS + t] + (int32_t)more;
            }
        }
    }
    for (r = 0; r < count; r++) {
        int16_t *row = d->forward + (first + r) * stride;
        uint64_t norm = 0;
        int32_t e;
        for (c = 0; c < p->dims; c++) {
            int64_t v = d->sum[r * p->dims + c];
            norm += (uint64_t)(v * v);
        }
        e = lq__dense_exponent(norm, 18);
        for (c = 0; c < p->dims; c++) {
            row[c] = lq__dense_round(d->sum[r * p->dims + c], 18, e);
        }
        d->forward_exponent[first + r] = (int8_t)(e - 15);
    }
}

/* Both matrices from the elements. */
LQ__STATIC int lq__dense_build(lq__dense_place *d, const lq_profile *p, const lq__dense_form *f)
{
    const int16_t *sigma = p->sigma + (lq__profile_rows(p) - p->dims);
    size_t forward_stride = lq__even(p->dims);
    size_t inverse_stride = lq__even(f->rank);
    size_t i;
    size_t j;
    for (j = 0; j < p->dims; j++) {
        d->inverse_exponent[j] = (int8_t)lq__dense_exponent(d->norm[j], LQ__DENSE_Q - 3);
        if (d->inverse_exponent[j] > LQ__DENSE_EXPONENT) {
            return LQ_E_DATA;
        }
        d->inverse[j * inverse_stride + inverse_stride - 1] = 0;
    }
    for (i = 0; i < f->rank; i++) {
        int32_t quarters = lq__dense_quarters(f->precision, f->floor, sigma[i]);
        quarters += 4 * d->forward_exponent[i];
        for (j = 0; j < p->dims; j++) {
            int64_t v = lq__dense_value(d->forward[i * forward_stride + j], quarters);
            d->inverse[j * inverse_stride + i] =
                lq__dense_round(v, LQ__DENSE_Q, d->inverse_exponent[j]);
        }
        if (lq__dense_forward_row(d, p, f, i, quarters)) {
            return LQ_E_DATA;
        }
    }
    for (i = 0; i < f->rank; i += LQ__TOKENS) {
        lq__dense_mend(d, p, f, i);
    }
    return LQ_OK;
}

LQ__STATIC void lq__dense_fill(lq__dense_place *d, const lq_profile *p, const lq__dense_form *f,
                               const uint8_t *src, size_t src_bytes)
{
    lq_basis *b = d->basis;
    size_t j;
    uint32_t s;
    for (s = 0; s < p->slice_count; s++) {
        d->slice_dims[s] = lq__load16(f->slices + 4 * s);
        d->slice_exponent[s] = (int8_t)((int32_t)(f->slices[4 * s + 2] ^ 0x80u) - 128);
    }
    for (j = 0; j < p->dims; j++) {
        d->center[j] = (int16_t)lq__load16(f->center + 2 * j);
    }
    lq_blake2s_128(b->hash, src, src_bytes);
    b->dims = p->dims;
    b->slice_count = p->slice_count;
    b->rank = f->rank;
    b->stream = p->stream;
    b->encodes = f->metric != LQ__METRIC_LEFT_OUT;
    b->center_exponent = f->center_exponent;
    b->forward_stride = (uint32_t)lq__even(p->dims);
    b->inverse_stride = (uint32_t)lq__even(f->rank);
    b->slice_dims = d->slice_dims;
    b->slice_exponent = d->slice_exponent;
    b->center = d->center;
    b->forward = d->forward;
    b->inverse = d->inverse;
    b->forward_exponent = d->forward_exponent;
    b->inverse_exponent = d->inverse_exponent;
    b->sigma = p->sigma + (lq__profile_rows(p) - p->dims);
}

LQ__STATIC int lq__profile_load_dense(lq_profile *p, void *mem, size_t mem_bytes, size_t *needed,
                                      const uint8_t *src, size_t src_bytes)
{
    lq__dense_form f;
    lq__dense_place d;
    lq__bit_reader r;
    int status = lq__dense_form_read(&f, p, src, src_bytes);
    if (status) {
        return status;
    }
    d = lq__dense_place_of(NULL, p, f.rank);
    *needed = d.bytes;
    if (!mem || mem_bytes < d.bytes) {
        return LQ_E_SPACE;
    }
    d = lq__dense_place_of(mem, p, f.rank);
    p->mean = d.rows;
    p->sigma = d.rows + lq__profile_rows(p);
    r.src = f.bits;
    r.count = f.bits_bytes * 8;
    r.at = 0;
    r.bad = 0;
    status = lq__profile_get_rows(p, &r, src[7], lq__profile_rows(p) - p->dims + f.rank);
    if (!status) {
        status = lq__dense_read(&d, &r, p, &f);
    }
    if (!status) {
        status = lq__bits_end(&r);
    }
    if (!status) {
        lq__dense_fill(&d, p, &f, src, src_bytes);
        status = lq__dense_build(&d, p, &f);
    }
    if (status) {
        return status;
    }
    p->dense = d.basis;
    memcpy(p->basis_hash, d.basis->hash, 16);
    return LQ_OK;
}

/* All forms but the dense one. */
LQ__STATIC int lq__profile_load_rows(lq_profile *p, void *mem, size_t mem_bytes, size_t *needed,
                                     const uint8_t *src, size_t src_bytes)
{
    size_t rows = lq__profile_rows(p);
    size_t held = rows;
    size_t fixed = LQ__PROFILE_HEADER;
    lq__bit_reader r;
    int status;
    if (src[6] == LQ__FORM_NAMED) {
        size_t rank;
        fixed += 18;
        if (src_bytes < fixed) {
            return LQ_E_DATA;
        }
        rank = lq__load16(src + LQ__PROFILE_HEADER + 16);
        if (rank == 0 || rank > p->dims) {
            return LQ_E_DATA;
        }
        memcpy(p->basis_hash, src + LQ__PROFILE_HEADER, 16);
        held = rows - p->dims + rank;
    }
    *needed = lq_profile_bytes(rows);
    if (lq__profile_place(p, mem, mem_bytes, rows)) {
        return LQ_E_SPACE;
    }
    r.src = src + fixed;
    r.count = (src_bytes - fixed) * 8;
    r.at = 0;
    r.bad = 0;
    status = lq__profile_get_rows(p, &r, src[7], held);
    return status ? status : lq__bits_end(&r);
}

LQ_API int lq_profile_load(lq_profile *profile, void *mem, size_t mem_bytes, size_t *needed,
                           const uint8_t *src, size_t src_bytes)
{
    lq_profile p;
    int status;
    if (!profile || !needed || !src) {
        return LQ_E_ARG;
    }
    *needed = 0;
    status = lq__profile_header(&p, src, src_bytes);
    if (status) {
        return status;
    }
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (lq__load32(src + 16) != lq__profile_checksum(src, src_bytes)) {
        return LQ_E_DATA;
    }
#endif
    status = src[6] == LQ__FORM_DENSE
                 ? lq__profile_load_dense(&p, mem, mem_bytes, needed, src, src_bytes)
                 : lq__profile_load_rows(&p, mem, mem_bytes, needed, src, src_bytes);
    if (!status) {
        *profile = p;
    }
    return status;
}

/* ================================================================================================
   >>calibrate   eigenvectors of a symmetric matrix; the Karhunen-Loeve basis of a group

   The eigenvectors:
   1. Householder tridiagonalisation by panels: a panel's reflectors are found from matrix-vector
      products with the matrix as it was at the panel's start, which is updated once by all of them
      (rank 2 x panel). LAPACK Working Note 2; Golub & Van Loan, Matrix Computations, 8.3.
   2. Divide and conquer on the tridiagonal matrix: halves joined by a rank-one update, whose
      eigenvalues are roots of the secular equation (Cuppen 1981). Roots are kept as distance to the
      nearest pole and the update is recomputed from them, so that the vectors are orthogonal
      however close the roots lie (Gu & Eisenstat 1995). Leaves: implicit QR, Golub & Van Loan
      8.3.5.
   3. The reflectors applied to the eigenvectors in blocks.
   Matrices of eigenvectors are stored transposed: a row is a vector.
   ============================================================================================== */
/* Keeps -ffast-math from turning (a - b) - c into a - (b + c) across a call. */
#if defined(__GNUC__) || defined(__clang__)
#define LQ__EIGEN_APART __attribute__((noinline))
#else
#define LQ__EIGEN_APART
#endif

#define LQ__EIGEN_EPS 2.220446049250313e-16
#define LQ__EIGEN_PANEL 32u  /* reflectors between two updates of the matrix */
#define LQ__EIGEN_BLOCK 64u  /* reflectors applied together to the eigenvectors */
#define LQ__EIGEN_LEAF 32u   /* largest matrix left to QR */
#define LQ__EIGEN_ROWS 64u   /* rows of a product whose left factor is packed at a time */
#define LQ__EIGEN_DEPTH 256u /* summands of a product taken at a time */

/* The multiplication's register tile (TALL, WIDE), written out by these so that compilers keep it
   in registers. clang spills 4 by 4 when it has 16 registers of two doubles. */
#if defined(__AVX512F__)
#define LQ__EIGEN_TALL 8u
#define LQ__EIGEN_ROWS_OF(X) LQ__EIGEN_8_ROWS(X)
#elif defined(__clang__) && (defined(__x86_64__) || defined(__i386__))
#define LQ__EIGEN_TALL 2u
#define LQ__EIGEN_ROWS_OF(X) LQ__EIGEN_2_ROWS(X)
#else
#define LQ__EIGEN_TALL 4u
#define LQ__EIGEN_ROWS_OF(X) LQ__EIGEN_4_ROWS(X)
#endif
#if defined(__AVX__)
#define LQ__EIGEN_WIDE 8u
#define LQ__EIGEN_COLUMNS(X, r) X(r, 0) X(r, 1) X(r, 2) X(r, 3) X(r, 4) X(r, 5) X(r, 6) X(r, 7)
#else
#define LQ__EIGEN_WIDE 4u
#define LQ__EIGEN_COLUMNS(X, r) X(r, 0) X(r, 1) X(r, 2) X(r, 3)
#endif
#define LQ__EIGEN_ZERO(r, j) double r##j = 0;
#define LQ__EIGEN_LOAD(r, j) double r##j = b[j];
#define LQ__EIGEN_MUL_ADD(r, j) r##j += x * y##j;
#define LQ__EIGEN_KEEP(r, j) tile[j] = r##j;
#define LQ__EIGEN_ROW_ZERO(r, i) LQ__EIGEN_COLUMNS(LQ__EIGEN_ZERO, r)
#define LQ__EIGEN_ROW_MUL_ADD(r, i) \
    x = a[i];                       \
    LQ__EIGEN_COLUMNS(LQ__EIGEN_MUL_ADD, r)
#define LQ__EIGEN_ROW_KEEP(r, i)         \
    LQ__EIGEN_COLUMNS(LQ__EIGEN_KEEP, r) \
    tile += LQ__EIGEN_WIDE;
#define LQ__EIGEN_2_ROWS(X) X(c0, 0) X(c1, 1)
#define LQ__EIGEN_4_ROWS(X) LQ__EIGEN_2_ROWS(X) X(c2, 2) X(c3, 3)
#define LQ__EIGEN_8_ROWS(X) LQ__EIGEN_4_ROWS(X) X(c4, 4) X(c5, 5) X(c6, 6) X(c7, 7)

/* Everything in the workspace. Arrays without a size have n elements. */
typedef struct lq__eigen_work {
    size_t n;
    double *a;       /* (n, n) upper triangle; after step 1 row k holds reflector k from k + 1 on */
    double *z;       /* (n, n) eigenvectors of the tridiagonal matrix */
    double *left;    /* (ROWS, n) packed left factor */
    double *right;   /* packed right factor: (n / 2, n / 2) or (2 BLOCK, n), padded */
    double *panel;   /* (2 BLOCK, n) */
    double *product; /* (ROWS, BLOCK) */
    double *diagonal; /* of the tridiagonal matrix, then its eigenvalues in the order of z's rows */
    double *off;      /* off-diagonal */
    double *tau;      /* I - tau v v' */
    double *update;   /* z of the rank-one update, of each row */
    double *pole;     /* secular equation: poles, ascending */
    double *weight;   /* z at the poles */
    double *square;   /* z^2; later the recomputed z */
    double *shift;    /* root i is pole[origin[i]] + shift[i] */
    double *scale;    /* 1 / norm of eigenvector i */
    double *delta;    /* pole - pole[origin] of the root at hand */
    size_t *origin;
    size_t *order;
    size_t *slot;  /* row of z of each pole */
    size_t *group; /* poles by kind: left, both, right */
    size_t *kind;  /* of each row of z */
    double norm;   /* of the tridiagonal matrix: its largest element */
} lq__eigen_work;

LQ__INLINE size_t lq__eigen_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

LQ__INLINE double lq__eigen_abs(double x)
{
    return x < 0 ? -x : x;
}

LQ__INLINE double lq__eigen_pow2(int exponent)
{
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

/* Square root to about an ulp; 0 for x <= 0. A first guess of 1 / sqrt(x) from the exponent, four
   Newton steps for that, one for the root. */
LQ__STATIC double lq__sqrt_f64(double x)
{
    uint64_t bits;
    double r;
    double s;
    int i;
    if (x < 1e-290) {
        return x > 0 ? lq__sqrt_f64(x * lq__eigen_pow2(200)) * lq__eigen_pow2(-100) : 0.0;
    }
    memcpy(&bits, &x, 8);
    bits = 0x5fe6eb50c7b537a9u - (bits >> 1);
    memcpy(&r, &bits, 8);
    for (i = 0; i < 4; i++) {
        r = r * (1.5 - 0.5 * x * r * r);
    }
    s = x * r;
    return s + 0.5 * r * (x - s * s);
}

/* sqrt(x^2 + y^2) without underflow. */
LQ__STATIC double lq__eigen_length(double x, double y)
{
    double big = lq__eigen_abs(x);
    double less = lq__eigen_abs(y);
    if (big < less) {
        double t = big;
        big = less;
        less = t;
    }
    if (!(big > 1e-290)) {
        return 0;
    }
    less /= big;
    return big * lq__sqrt_f64(1 + less * less);
}

/* ---- vectors ---- */
LQ__STATIC double lq__eigen_dot(const double *x, const double *y, size_t count)
{
    double s[4];
    double s0 = 0;
    double s1 = 0;
    double s2 = 0;
    double s3 = 0;
    size_t i;
    for (i = 0; i + 4 <= count; i += 4) {
        s0 += x[i] * y[i];
        s1 += x[i + 1] * y[i + 1];
        s2 += x[i + 2] * y[i + 2];
        s3 += x[i + 3] * y[i + 3];
    }
    s[0] = s0;
    s[1] = s1;
    s[2] = s2;
    s[3] = s3;
    for (; i < count; i++) {
        s[0] += x[i] * y[i];
    }
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* y += a x + b w */
LQ__STATIC void lq__eigen_add(double *y, double a, const double *x, double b, const double *w,
                              size_t count)
{
    size_t i;
    for (i = 0; i + 4 <= count; i += 4) {
        double y0 = y[i] + a * x[i] + b * w[i];
        double y1 = y[i + 1] + a * x[i + 1] + b * w[i + 1];
        double y2 = y[i + 2] + a * x[i + 2] + b * w[i + 2];
        double y3 = y[i + 3] + a * x[i + 3] + b * w[i + 3];
        y[i] = y0;
        y[i + 1] = y1;
        y[i + 2] = y2;
        y[i + 3] = y3;
    }
    for (; i < count; i++) {
        y[i] += a * x[i] + b * w[i];
    }
}

/* x, y = c x + s y, c y - s x */
LQ__STATIC void lq__eigen_rotate(double *x, double *y, double c, double s, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        double t = c * x[i] + s * y[i];
        y[i] = c * y[i] - s * x[i];
        x[i] = t;
    }
}

/* ---- products ----
   Factors are packed in strips of TALL rows (left) or WIDE columns (right): strip by strip, summand
   by summand, zeros up to a full strip. */

/* c (m, n) = or += left (m, k) right (k, n); row i of c lies at c + rows[i] * stride, or at
   c + i * stride where rows is NULL.
     left_stride, right_stride   doubles from strip to strip */
typedef struct lq__eigen_product {
    double *c;
    const size_t *rows;
    size_t stride;
    size_t m;
    size_t n;
    size_t k;
    const double *left;
    const double *right;
    size_t left_stride;
    size_t right_stride;
    int add;
} lq__eigen_product;

/* Packs `count` vectors of src, `tile` to a strip: element p of vector i is at src[p * stride + i],
   times `sign`. */
LQ__STATIC void lq__eigen_pack_rows(double *dst, size_t tile, size_t strip, const double *src,
                                    size_t stride, size_t count, size_t k, double sign)
{
    size_t i;
    size_t p;
    size_t r;
    for (i = 0; i < count; i += tile) {
        size_t width = lq__eigen_min(count - i, tile);
        for (p = 0; p < k; p++) {
            for (r = 0; r < width; r++) {
                dst[p * tile + r] = sign * src[p * stride + i + r];
            }
            for (; r < tile; r++) {
                dst[p * tile + r] = 0;
            }
        }
        dst += strip;
    }
}

/* The same where element p of vector i is at src[i * stride + p]. */
LQ__STATIC void lq__eigen_pack_columns(double *dst, size_t tile, size_t strip, const double *src,
                                       size_t stride, size_t count, size_t k, double sign)
{
    size_t i;
    size_t p;
    size_t r;
    for (i = 0; i < count; i += tile) {
        size_t width = lq__eigen_min(count - i, tile);
        for (r = 0; r < tile; r++) {
            const double *from = src + (i + (r < width ? r : 0)) * stride;
            double factor = r < width ? sign : 0.0;
            for (p = 0; p < k; p++) {
                dst[p * tile + r] = factor * from[p];
            }
        }
        dst += strip;
    }
}

/* tile (TALL, WIDE) = a b of k summands. */
LQ__STATIC void lq__eigen_tile(double *tile, const double *a, const double *b, size_t k)
{
    size_t p;
    LQ__EIGEN_ROWS_OF(LQ__EIGEN_ROW_ZERO)
    for (p = 0; p < k; p++) {
        double x;
        LQ__EIGEN_COLUMNS(LQ__EIGEN_LOAD, y)
        LQ__EIGEN_ROWS_OF(LQ__EIGEN_ROW_MUL_ADD)
        a += LQ__EIGEN_TALL;
        b += LQ__EIGEN_WIDE;
    }
    LQ__EIGEN_ROWS_OF(LQ__EIGEN_ROW_KEEP)
}

/* A tile to its place in c. */
LQ__STATIC void lq__eigen_put(const lq__eigen_product *p, const double *tile, size_t i0, size_t j0,
                              int add)
{
    size_t rows = lq__eigen_min(p->m - i0, LQ__EIGEN_TALL);
    size_t columns = lq__eigen_min(p->n - j0, LQ__EIGEN_WIDE);
    size_t i;
    size_t j;
    for (i = 0; i < rows; i++) {
        double *c = p->c + (p->rows ? p->rows[i0 + i] : i0 + i) * p->stride + j0;
        const double *t = tile + i * LQ__EIGEN_WIDE;
        if (add) {
            for (j = 0; j < columns; j++) {
                c[j] += t[j];
            }
        } else {
            memcpy(c, t, columns * sizeof(double));
        }
    }
}

LQ__STATIC void lq__eigen_multiply(const lq__eigen_product *p)
{
    double tile[LQ__EIGEN_TALL * LQ__EIGEN_WIDE];
    size_t k0 = 0;
    size_t i;
    size_t j;
    do {
        size_t depth = lq__eigen_min(p->k - k0, LQ__EIGEN_DEPTH);
        for (j = 0; j < p->n; j += LQ__EIGEN_WIDE) {
            const double *b = p->right + j / LQ__EIGEN_WIDE * p->right_stride;
            for (i = 0; i < p->m; i += LQ__EIGEN_TALL) {
                const double *a = p->left + i / LQ__EIGEN_TALL * p->left_stride;
                lq__eigen_tile(tile, a + k0 * LQ__EIGEN_TALL, b + k0 * LQ__EIGEN_WIDE, depth);
                lq__eigen_put(p, tile, i, j, p->add || k0);
            }
        }
        k0 += LQ__EIGEN_DEPTH;
    } while (k0 < p->k);
}

/* ---- step 1: tridiagonal form ---- */

/* Four rows r = 0 .. 3 of `a` at once: y += sum f[r] a[r], s[r] += a[r] x. */
LQ__STATIC void lq__eigen_four_rows(double *s, double *y, const double *a, size_t stride,
                                    const double *x, const double *f, size_t count)
{
    const double *a1 = a + stride;
    const double *a2 = a1 + stride;
    const double *a3 = a2 + stride;
    double f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
    double s00 = 0, s01 = 0, s02 = 0, s03 = 0;
    double s10 = 0, s11 = 0, s12 = 0, s13 = 0;
    double s20 = 0, s21 = 0, s22 = 0, s23 = 0;
    double s30 = 0, s31 = 0, s32 = 0, s33 = 0;
    double lanes[16];
    size_t j;
    for (j = 0; j + 4 <= count; j += 4) {
        double x0 = x[j], x1 = x[j + 1], x2 = x[j + 2], x3 = x[j + 3];
        double y0 = y[j], y1 = y[j + 1], y2 = y[j + 2], y3 = y[j + 3];
        double p0 = a[j], p1 = a[j + 1], p2 = a[j + 2], p3 = a[j + 3];
        s00 += p0 * x0, s01 += p1 * x1, s02 += p2 * x2, s03 += p3 * x3;
        y0 += f0 * p0, y1 += f0 * p1, y2 += f0 * p2, y3 += f0 * p3;
        p0 = a1[j], p1 = a1[j + 1], p2 = a1[j + 2], p3 = a1[j + 3];
        s10 += p0 * x0, s11 += p1 * x1, s12 += p2 * x2, s13 += p3 * x3;
        y0 += f1 * p0, y1 += f1 * p1, y2 += f1 * p2, y3 += f1 * p3;
        p0 = a2[j], p1 = a2[j + 1], p2 = a2[j + 2], p3 = a2[j + 3];
        s20 += p0 * x0, s21 += p1 * x1, s22 += p2 * x2, s23 += p3 * x3;
        y0 += f2 * p0, y1 += f2 * p1, y2 += f2 * p2, y3 += f2 * p3;
        p0 = a3[j], p1 = a3[j + 1], p2 = a3[j + 2], p3 = a3[j + 3];
        s30 += p0 * x0, s31 += p1 * x1, s32 += p2 * x2, s33 += p3 * x3;
        y0 += f3 * p0, y1 += f3 * p1, y2 += f3 * p2, y3 += f3 * p3;
        y[j] = y0, y[j + 1] = y1, y[j + 2] = y2, y[j + 3] = y3;
    }
    lanes[0] = s00, lanes[1] = s01, lanes[2] = s02, lanes[3] = s03;
    lanes[4] = s10, lanes[5] = s11, lanes[6] = s12, lanes[7] = s13;
    lanes[8] = s20, lanes[9] = s21, lanes[10] = s22, lanes[11] = s23;
    lanes[12] = s30, lanes[13] = s31, lanes[14] = s32, lanes[15] = s33;
    for (; j < count; j++) {
        lanes[0] += a[j] * x[j];
        lanes[4] += a1[j] * x[j];
        lanes[8] += a2[j] * x[j];
        lanes[12] += a3[j] * x[j];
        y[j] += f0 * a[j] + f1 * a1[j] + f2 * a2[j] + f3 * a3[j];
    }
    for (j = 0; j < 4; j++) {
        s[j] += (lanes[4 * j] + lanes[4 * j + 1]) + (lanes[4 * j + 2] + lanes[4 * j + 3]);
    }
}

/* y = A x for a symmetric matrix of which only the upper triangle is read, each element once. */
LQ__STATIC void lq__eigen_symmetric_times(double *y, const double *a, size_t stride,
                                          const double *x, size_t count)
{
    size_t i;
    size_t j;
    size_t r;
    memset(y, 0, count * sizeof(double));
    for (i = 0; i < count; i += 4) {
        const double *row = a + i * stride + i;
        size_t rows = lq__eigen_min(count - i, 4);
        for (r = 0; r < rows; r++) {
            y[i + r] += row[r * stride + r] * x[i + r];
            for (j = r + 1; j < rows; j++) {
                y[i + r] += row[r * stride + j] * x[i + j];
                y[i + j] += row[r * stride + j] * x[i + r];
            }
        }
        if (rows == 4) {
            lq__eigen_four_rows(y + i, y + i + 4, row + 4, stride, x + i + 4, x + i, count - i - 4);
        }
    }
}

/* Reflector I - tau v v' with v[0] = 1 that maps x to (beta, 0, ...); v replaces x.
   Golub & Van Loan 5.1.3. Returns tau. */
LQ__STATIC double lq__eigen_reflector(double *x, size_t count, double *beta)
{
    double alpha = x[0];
    double tail = lq__eigen_dot(x + 1, x + 1, count - 1);
    double length;
    double factor;
    size_t i;
    x[0] = 1;
    if (!(tail > 1e-280)) { /* beyond every digit of a matrix of norm 1 */
        memset(x + 1, 0, (count - 1) * sizeof(double));
        *beta = alpha;
        return 0;
    }
    length = lq__sqrt_f64(alpha * alpha + tail);
    *beta = alpha < 0 ? length : -length;
    factor = 1 / (alpha - *beta);
    for (i = 1; i < count; i++) {
        x[i] *= factor;
    }
    return (*beta - alpha) / *beta;
}

/* Reflector k of the panel that starts at `first`: brings row k up to date, finds v (into row k)
   and w = tau (A v) - (tau / 2)(tau v' A v) v (into the panel), with which A becomes
   A - v w' - w v'. */
LQ__STATIC void lq__eigen_reduce_row(lq__eigen_work *work, size_t first, size_t k)
{
    size_t n = work->n;
    size_t count = n - k - 1;
    double *row = work->a + k * n;
    double *v = row + k + 1;
    double *w = work->panel + (k - first) * n + k + 1;
    double half;
    size_t q;
    size_t i;
    for (q = first; q < k; q++) {
        const double *vq = work->a + q * n + k;
        const double *wq = work->panel + (q - first) * n + k;
        lq__eigen_add(row + k, -vq[0], wq, -wq[0], vq, n - k);
    }
    work->diagonal[k] = row[k];
    if (count == 0) {
        return;
    }
    work->tau[k] = lq__eigen_reflector(v, count, &work->off[k]);
    lq__eigen_symmetric_times(w, row + n + k + 1, n, v, count);
    for (q = first; q < k; q++) {
        const double *vq = work->a + q * n + k + 1;
        const double *wq = work->panel + (q - first) * n + k + 1;
        double vv = lq__eigen_dot(vq, v, count);
        double wv = lq__eigen_dot(wq, v, count);
        lq__eigen_add(w, -wv, vq, -vv, wq, count);
    }
    half = -0.5 * work->tau[k] * work->tau[k] * lq__eigen_dot(w, v, count);
    for (i = 0; i < count; i++) {
        w[i] = work->tau[k] * w[i] + half * v[i];
    }
}

/* A - V'W - W'V for rows and columns from `start`, with the panel's reflectors [first, start). */
LQ__STATIC void lq__eigen_update(lq__eigen_work *work, size_t first, size_t start)
{
    size_t n = work->n;
    size_t count = n - start;
    size_t k = start - first;
    size_t strip = 2 * k * LQ__EIGEN_WIDE;
    size_t left_strip = 2 * k * LQ__EIGEN_TALL;
    const double *v = work->a + first * n + start;
    const double *w = work->panel + start;
    lq__eigen_product p;
    size_t i;
    lq__eigen_pack_rows(work->right, LQ__EIGEN_WIDE, strip, w, n, count, k, 1.0);
    lq__eigen_pack_rows(work->right + k * LQ__EIGEN_WIDE, LQ__EIGEN_WIDE, strip, v, n, count, k,
                        1.0);
    memset(&p, 0, sizeof(p));
    p.stride = n;
    p.k = 2 * k;
    p.left = work->left;
    p.left_stride = left_strip;
    p.right_stride = strip;
    p.add = 1;
    for (i = 0; i < count; i += LQ__EIGEN_ROWS) {
        p.m = lq__eigen_min(count - i, LQ__EIGEN_ROWS);
        p.n = count - i;
        p.c = work->a + (start + i) * n + start + i;
        p.right = work->right + i / LQ__EIGEN_WIDE * strip;
        lq__eigen_pack_rows(work->left, LQ__EIGEN_TALL, left_strip, v + i, n, p.m, k, -1.0);
        lq__eigen_pack_rows(work->left + k * LQ__EIGEN_TALL, LQ__EIGEN_TALL, left_strip, w + i, n,
                            p.m, k, -1.0);
        lq__eigen_multiply(&p);
    }
}

LQ__STATIC void lq__eigen_tridiagonal(lq__eigen_work *work)
{
    size_t first;
    size_t k;
    for (first = 0; first < work->n; first += LQ__EIGEN_PANEL) {
        size_t end = lq__eigen_min(work->n, first + LQ__EIGEN_PANEL);
        for (k = first; k < end; k++) {
            lq__eigen_reduce_row(work, first, k);
        }
        if (end < work->n) {
            lq__eigen_update(work, first, end);
        }
    }
    work->norm = 0;
    for (k = 0; k < work->n; k++) {
        double d = lq__eigen_abs(work->diagonal[k]);
        double e = k + 1 < work->n ? lq__eigen_abs(work->off[k]) : 0.0;
        d = d < e ? e : d;
        work->norm = work->norm < d ? d : work->norm;
    }
}

/* ---- step 2: eigenvectors of the tridiagonal matrix ---- */

/* One implicit QR step with Wilkinson's shift on rows [low, high]; the rotations go into the rows
   of z, columns [first, first + count). */
LQ__STATIC void lq__eigen_qr_step(lq__eigen_work *work, size_t low, size_t high, size_t first,
                                  size_t count)
{
    double *d = work->diagonal;
    double *e = work->off;
    double t = e[high - 1];
    double half = 0.5 * (d[high - 1] - d[high]);
    double length = lq__eigen_length(half, t);
    double x = d[low] - d[high] + t * (t / (half < 0 ? half - length : half + length));
    double y = e[low];
    size_t k;
    for (k = low; k < high; k++) {
        double r = lq__eigen_length(x, y);
        double c = r > 0 ? x / r : 1.0;
        double s = r > 0 ? y / r : 0.0;
        double dk = d[k];
        double cross = 2 * c * s * e[k];
        if (k > low) {
            e[k - 1] = r;
        }
        e[k] = c * s * (d[k + 1] - dk) + (c * c - s * s) * e[k];
        d[k] = c * c * dk + cross + s * s * d[k + 1];
        d[k + 1] = s * s * dk - cross + c * c * d[k + 1];
        lq__eigen_rotate(work->z + k * work->n + first, work->z + (k + 1) * work->n + first, c, s,
                         count);
        x = e[k];
        if (k + 1 < high) {
            y = s * e[k + 1];
            e[k + 1] *= c;
        }
    }
}

/* Eigenvectors of the block [first, first + count) by QR. Returns -1 when it does not converge. */
LQ__STATIC int lq__eigen_leaf(lq__eigen_work *work, size_t first, size_t count)
{
    double less = 0.5 * LQ__EIGEN_EPS * work->norm;
    size_t high = first + count - 1;
    size_t steps = 0;
    size_t i;
    for (i = first; i <= high; i++) {
        work->z[i * work->n + i] = 1;
    }
    while (high > first) {
        size_t low = high;
        while (low > first && lq__eigen_abs(work->off[low - 1]) > less) {
            low--;
        }
        if (low == high) {
            high--;
        } else if (steps++ < 64 * LQ__EIGEN_LEAF) {
            lq__eigen_qr_step(work, low, high, first, count);
        } else {
            return -1;
        }
    }
    return 0;
}

/* order[0 .. count) such that key[order[i]] ascends. Heap sort. */
LQ__STATIC void lq__eigen_sort(size_t *order, const double *key, size_t first, size_t count)
{
    size_t end = count;
    size_t start = count / 2;
    size_t i;
    for (i = 0; i < count; i++) {
        order[i] = first + i;
    }
    while (end > 1) {
        size_t at;
        size_t child;
        size_t moved;
        if (start > 0) {
            moved = order[--start];
        } else {
            moved = order[--end];
            order[end] = order[0];
        }
        at = start;
        while ((child = 2 * at + 1) < end) {
            if (child + 1 < end && key[order[child]] < key[order[child + 1]]) {
                child++;
            }
            if (!(key[moved] < key[order[child]])) {
                break;
            }
            order[at] = order[child];
            at = child;
        }
        order[at] = moved;
    }
}

enum { LQ__EIGEN_LEFT = 0, LQ__EIGEN_BOTH = 1, LQ__EIGEN_RIGHT = 2 };

/* The update's z: the last column of the left half's rows, the first of the right half's. */
LQ__STATIC void lq__eigen_rank_one(lq__eigen_work *work, size_t first, size_t middle, size_t count,
                                   double off)
{
    size_t i;
    for (i = first; i < first + count; i++) {
        int left = i < middle;
        double x = work->z[i * work->n + (left ? middle - 1 : middle)];
        work->kind[i] = left ? LQ__EIGEN_LEFT : LQ__EIGEN_RIGHT;
        work->update[i] = (!left && off < 0 ? -x : x) * 0.70710678118654752;
    }
}

/* Deflation: rows whose z is negligible are eigenvectors already; of two rows with (nearly) one
   eigenvalue a rotation makes one of them such. The rest become poles. Returns their number.
   Cuppen 1981; Dongarra & Sorensen 1987. */
LQ__STATIC size_t lq__eigen_deflate(lq__eigen_work *work, size_t first, size_t count, double rho)
{
    double tolerance = 8 * LQ__EIGEN_EPS * work->norm;
    double *d = work->diagonal;
    double *u = work->update;
    size_t poles = 0;
    size_t i;
    lq__eigen_sort(work->order, d, first, count);
    for (i = 0; i < count; i++) {
        size_t row = work->order[i];
        if (!(rho * lq__eigen_abs(u[row]) > tolerance)) {
            continue;
        }
        if (poles > 0) {
            size_t last = work->slot[poles - 1];
            double length = lq__eigen_length(u[last], u[row]);
            double c = u[row] / length;
            double s = -u[last] / length;
            double gap = d[row] - d[last];
            if (lq__eigen_abs(gap * c * s) <= tolerance) {
                double dl = d[last];
                lq__eigen_rotate(work->z + last * work->n + first, work->z + row * work->n + first,
                                 c, s, count);
                d[last] = dl * c * c + d[row] * s * s;
                d[row] = dl * s * s + d[row] * c * c;
                u[row] = length;
                if (work->kind[row] != work->kind[last]) {
                    work->kind[row] = LQ__EIGEN_BOTH;
                }
                poles--;
            }
        }
        work->slot[poles++] = row;
    }
    for (i = 0; i < poles; i++) {
        work->pole[i] = d[work->slot[i]];
        work->weight[i] = u[work->slot[i]];
        work->square[i] = work->weight[i] * work->weight[i];
    }
    return poles;
}

/* delta = pole - pole[origin] */
LQ__EIGEN_APART LQ__STATIC void lq__eigen_differences(double *delta, const double *pole,
                                                      size_t count, size_t origin)
{
    double from = pole[origin];
    size_t i;
    for (i = 0; i < count; i++) {
        delta[i] = pole[i] - from;
    }
}

/* Sums of square / (delta - x) and of its derivative over [from, to). */
LQ__STATIC void lq__eigen_secular_sums(const lq__eigen_work *work, size_t from, size_t to, double x,
                                       double *sum, double *slope)
{
    const double *delta = work->delta;
    const double *square = work->square;
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    double t0 = 0, t1 = 0, t2 = 0, t3 = 0;
    size_t i;
    for (i = from; i + 4 <= to; i += 4) {
        double r0 = 1 / (delta[i] - x), r1 = 1 / (delta[i + 1] - x);
        double r2 = 1 / (delta[i + 2] - x), r3 = 1 / (delta[i + 3] - x);
        double q0 = square[i] * r0, q1 = square[i + 1] * r1;
        double q2 = square[i + 2] * r2, q3 = square[i + 3] * r3;
        s0 += q0, s1 += q1, s2 += q2, s3 += q3;
        t0 += q0 * r0, t1 += q1 * r1, t2 += q2 * r2, t3 += q3 * r3;
    }
    for (; i < to; i++) {
        double r = 1 / (delta[i] - x);
        s0 += square[i] * r;
        t0 += square[i] * r * r;
    }
    *sum = (s0 + s1) + (s2 + s3);
    *slope = (t0 + t1) + (t2 + t3);
}

/* The root x of c x^2 - a x + b = 0 that continues the interpolation's branch. */
LQ__STATIC double lq__eigen_quadratic(double a, double b, double c)
{
    double root = a * a - 4 * b * c;
    root = lq__sqrt_f64(lq__eigen_abs(root));
    if (a > 0) {
        return 2 * b / (a + root);
    }
    return c < 0 || c > 0 ? (a - root) / (2 * c) : 0.0;
}

/* A point well inside (low, high), neither of which lie on different sides of 0. */
LQ__STATIC double lq__eigen_between(double low, double high)
{
    double inner = high > 0 ? low : high;
    double outer = high > 0 ? high : low;
    if (!(lq__eigen_abs(inner) > 0)) {
        return outer / 16;
    }
    if (lq__eigen_abs(outer) > 4 * lq__eigen_abs(inner)) {
        double middle = lq__sqrt_f64(lq__eigen_abs(inner)) * lq__sqrt_f64(lq__eigen_abs(outer));
        return outer < 0 ? -middle : middle;
    }
    return low + 0.5 * (high - low);
}

/* Where the search for root i starts: origin, bracket (low, high), first guess. */
LQ__STATIC double lq__eigen_root_start(lq__eigen_work *work, size_t i, size_t poles, double inverse,
                                       double *low, double *high)
{
    const double *square = work->square;
    double gap;
    double sum;
    double slope;
    double c;
    size_t j;
    work->origin[i] = i;
    lq__eigen_differences(work->delta, work->pole, poles, i);
    if (i + 1 == poles) {
        sum = 0;
        for (j = 0; j < poles; j++) {
            sum += square[j];
        }
        *low = 0;
        *high = sum / inverse * (1 + 8 * LQ__EIGEN_EPS);
        return 0.5 * *high;
    }
    gap = work->delta[i + 1];
    lq__eigen_secular_sums(work, 0, poles, 0.5 * gap, &sum, &slope);
    sum += inverse;
    c = sum + (square[i] - square[i + 1]) / (0.5 * gap);
    if (sum > 0) {
        *low = 0;
        *high = 0.5 * gap;
        return lq__eigen_quadratic(c * gap + square[i] + square[i + 1], square[i] * gap, c);
    }
    work->origin[i] = i + 1;
    lq__eigen_differences(work->delta, work->pole, poles, i + 1);
    *low = -0.515625 * gap;
    *high = 0;
    return lq__eigen_quadratic(square[i] + square[i + 1] - c * gap, -square[i + 1] * gap, c);
}

/* Root i of 1 / rho + sum square / (pole - x) = 0, between poles i and i + 1. Each step fits the
   terms on either side by one pole (Bunch, Nielsen & Sorensen 1978; Li, LAPACK Working Note 89) and
   is kept inside a bracket. Returns -1 when it does not converge. */
LQ__STATIC int lq__eigen_root(lq__eigen_work *work, size_t i, size_t poles, double inverse)
{
    double low;
    double high;
    double x = lq__eigen_root_start(work, i, poles, inverse, &low, &high);
    int step;
    for (step = 0; step < 400; step++) {
        double psi, psi_slope, phi, phi_slope;
        double f, left, right, next;
        if (!(x > low && x < high) || (step > 12 && step % 2)) {
            x = lq__eigen_between(low, high);
            if (!(x > low && x < high)) {
                x = lq__eigen_abs(low) > lq__eigen_abs(high) ? low : high;
                break;
            }
        }
        lq__eigen_secular_sums(work, 0, i + 1, x, &psi, &psi_slope);
        lq__eigen_secular_sums(work, i + 1, poles, x, &phi, &phi_slope);
        f = inverse + psi + phi;
        if (lq__eigen_abs(f) <= 4 * LQ__EIGEN_EPS * (inverse - psi + phi)) {
            break;
        }
        if (f > 0) {
            high = x;
        } else {
            low = x;
        }
        left = work->delta[i] - x;
        if (i + 1 < poles) {
            right = work->delta[i + 1] - x;
            next = lq__eigen_quadratic((left + right) * f - left * right * (psi_slope + phi_slope),
                                       left * right * f, f - left * psi_slope - right * phi_slope);
        } else {
            next = left * f / (f - left * psi_slope);
        }
        x += f * next < 0 ? next : -f / (psi_slope + phi_slope);
    }
    work->shift[i] = x;
    return step < 400 ? 0 : -1;
}

/* The z for which the computed roots are exact (Gu & Eisenstat 1995, from Loewner's formula), into
   `square`; then the eigenvectors' norms. */
LQ__STATIC void lq__eigen_refit(lq__eigen_work *work, size_t poles)
{
    double *delta = work->delta;
    double *z = work->square;
    size_t i;
    size_t j;
    for (j = 0; j < poles; j++) {
        z[j] = 1;
    }
    for (i = 0; i < poles; i++) {
        double x = work->shift[i];
        double pole = work->pole[i];
        lq__eigen_differences(delta, work->pole, poles, work->origin[i]);
        for (j = 0; j < i; j++) {
            z[j] *= (delta[j] - x) / (work->pole[j] - pole);
        }
        z[i] *= delta[i] - x;
        for (j = i + 1; j < poles; j++) {
            z[j] *= (delta[j] - x) / (work->pole[j] - pole);
        }
    }
    for (j = 0; j < poles; j++) {
        double root = lq__sqrt_f64(lq__eigen_abs(z[j]));
        z[j] = work->weight[j] < 0 ? -root : root;
    }
    for (i = 0; i < poles; i++) {
        double x = work->shift[i];
        double sum = 0;
        lq__eigen_differences(delta, work->pole, poles, work->origin[i]);
        for (j = 0; j < poles; j++) {
            double t = z[j] / (delta[j] - x);
            sum += t * t;
        }
        work->scale[i] = 1 / lq__sqrt_f64(sum);
    }
}

/* Packs eigenvectors [i0, i0 + m) of the update as a left factor: their elements at the poles of
   `group`. */
LQ__STATIC void lq__eigen_pack_vectors(lq__eigen_work *work, size_t poles, size_t i0, size_t m,
                                       const size_t *group, size_t k)
{
    size_t i;
    size_t p;
    for (i = 0; i < m || i % LQ__EIGEN_TALL; i++) {
        double *to = work->left + i / LQ__EIGEN_TALL * k * LQ__EIGEN_TALL + i % LQ__EIGEN_TALL;
        double x;
        double scale;
        if (i >= m) {
            for (p = 0; p < k; p++) {
                to[p * LQ__EIGEN_TALL] = 0;
            }
            continue;
        }
        x = work->shift[i0 + i];
        scale = work->scale[i0 + i];
        lq__eigen_differences(work->delta, work->pole, poles, work->origin[i0 + i]);
        for (p = 0; p < k; p++) {
            to[p * LQ__EIGEN_TALL] = work->square[group[p]] / (work->delta[group[p]] - x) * scale;
        }
    }
}

/* New vectors from old in columns [column, column + columns), to which the k poles of `group`
   contribute. */
LQ__STATIC void lq__eigen_combine(lq__eigen_work *work, size_t poles, const size_t *group, size_t k,
                                  size_t column, size_t columns)
{
    lq__eigen_product p;
    size_t i;
    size_t j;
    size_t r;
    memset(&p, 0, sizeof(p));
    p.c = work->z + column;
    p.stride = work->n;
    p.n = columns;
    p.k = k;
    p.left = work->left;
    p.right = work->right;
    p.left_stride = k * LQ__EIGEN_TALL;
    p.right_stride = k * LQ__EIGEN_WIDE;
    for (i = 0; i < k; i++) {
        const double *row = work->z + work->slot[group[i]] * work->n + column;
        for (j = 0; j < columns; j += LQ__EIGEN_WIDE) {
            double *to = work->right + j * k + i * LQ__EIGEN_WIDE;
            for (r = 0; r < LQ__EIGEN_WIDE; r++) {
                to[r] = j + r < columns ? row[j + r] : 0.0;
            }
        }
    }
    for (i = 0; i < poles; i += LQ__EIGEN_ROWS) {
        p.m = lq__eigen_min(poles - i, LQ__EIGEN_ROWS);
        p.rows = work->slot + i;
        lq__eigen_pack_vectors(work, poles, i, p.m, group, k);
        lq__eigen_multiply(&p);
    }
}

/* Joins the solved halves [first, middle) and [middle, first + count) by their off-diagonal. */
LQ__STATIC int lq__eigen_merge(lq__eigen_work *work, size_t first, size_t middle, size_t count,
                               double off)
{
    double rho = 2 * lq__eigen_abs(off);
    size_t counts[3];
    size_t poles;
    size_t kind;
    size_t at = 0;
    size_t i;
    lq__eigen_rank_one(work, first, middle, count, off);
    poles = lq__eigen_deflate(work, first, count, rho);
    if (poles == 0) {
        return 0;
    }
    for (i = 0; i < poles; i++) {
        if (lq__eigen_root(work, i, poles, 1 / rho)) {
            return -1;
        }
    }
    lq__eigen_refit(work, poles);
    for (kind = LQ__EIGEN_LEFT; kind <= LQ__EIGEN_RIGHT; kind++) {
        counts[kind] = 0;
        for (i = 0; i < poles; i++) {
            if (work->kind[work->slot[i]] == kind) {
                work->group[at++] = i;
                counts[kind]++;
            }
        }
    }
    lq__eigen_combine(work, poles, work->group, counts[0] + counts[1], first, middle - first);
    lq__eigen_combine(work, poles, work->group + counts[0], counts[1] + counts[2], middle,
                      first + count - middle);
    for (i = 0; i < poles; i++) {
        work->diagonal[work->slot[i]] = work->pole[work->origin[i]] + work->shift[i];
    }
    return 0;
}

/* Eigenvectors of the block [first, first + count) of the tridiagonal matrix. Recursion: log2(n)
   deep. */
LQ__STATIC int lq__eigen_divide(lq__eigen_work *work, size_t first, size_t count)
{
    size_t middle = first + count / 2;
    double off;
    if (count <= LQ__EIGEN_LEAF) {
        return lq__eigen_leaf(work, first, count);
    }
    off = work->off[middle - 1];
    work->diagonal[middle - 1] -= lq__eigen_abs(off);
    work->diagonal[middle] -= lq__eigen_abs(off);
    if (lq__eigen_divide(work, first, middle - first) ||
        lq__eigen_divide(work, middle, first + count - middle)) {
        return -1;
    }
    return lq__eigen_merge(work, first, middle, count, off);
}

/* ---- step 3: back to the eigenvectors of the matrix ---- */

/* Reflectors [first, end) as one: H[end - 1] .. H[first] = I - V'U, with rows
   u_p = tau_p (v_p - sum over q < p of (v_p v_q) u_q). Both (end - first, n - first - 1) in the
   panel. Compact WY: Schreiber & Van Loan 1989. */
LQ__STATIC void lq__eigen_reflector_block(lq__eigen_work *work, size_t first, size_t end)
{
    size_t n = work->n;
    size_t count = n - first - 1;
    size_t p;
    size_t q;
    size_t i;
    for (p = 0; p < end - first; p++) {
        double *v = work->panel + p * n;
        double *u = work->panel + (LQ__EIGEN_BLOCK + p) * n;
        double tau = work->tau[first + p];
        memset(v, 0, p * sizeof(double));
        memcpy(v + p, work->a + (first + p) * n + first + p + 1, (count - p) * sizeof(double));
        memcpy(u, v, count * sizeof(double));
        for (q = 0; q < p; q++) {
            const double *vq = work->panel + q * n;
            const double *uq = work->panel + (LQ__EIGEN_BLOCK + q) * n;
            lq__eigen_add(u, -lq__eigen_dot(v + p, vq + p, count - p), uq, 0.0, uq, count);
        }
        for (i = 0; i < count; i++) {
            u[i] *= tau;
        }
    }
}

/* z = z - (z V') U for the block of reflectors [first, end). */
LQ__STATIC void lq__eigen_apply_block(lq__eigen_work *work, size_t first, size_t end)
{
    size_t n = work->n;
    size_t count = n - first - 1;
    size_t k = end - first;
    double *v = work->right;
    double *u = work->right + LQ__EIGEN_BLOCK * count;
    lq__eigen_product p;
    size_t i;
    memset(&p, 0, sizeof(p));
    lq__eigen_reflector_block(work, first, end);
    lq__eigen_pack_columns(v, LQ__EIGEN_WIDE, count * LQ__EIGEN_WIDE, work->panel, n, k, count,
                           1.0);
    lq__eigen_pack_rows(u, LQ__EIGEN_WIDE, k * LQ__EIGEN_WIDE, work->panel + LQ__EIGEN_BLOCK * n, n,
                        count, k, 1.0);
    p.left = work->left;
    for (i = 0; i < n; i += LQ__EIGEN_ROWS) {
        double *z = work->z + i * n + first + 1;
        p.m = lq__eigen_min(n - i, LQ__EIGEN_ROWS);
        lq__eigen_pack_columns(work->left, LQ__EIGEN_TALL, count * LQ__EIGEN_TALL, z, n, p.m, count,
                               1.0);
        p.c = work->product;
        p.stride = LQ__EIGEN_BLOCK;
        p.n = k;
        p.k = count;
        p.right = v;
        p.left_stride = count * LQ__EIGEN_TALL;
        p.right_stride = count * LQ__EIGEN_WIDE;
        p.add = 0;
        lq__eigen_multiply(&p);
        lq__eigen_pack_columns(work->left, LQ__EIGEN_TALL, k * LQ__EIGEN_TALL, work->product,
                               LQ__EIGEN_BLOCK, p.m, k, -1.0);
        p.c = z;
        p.stride = n;
        p.n = count;
        p.k = k;
        p.right = u;
        p.left_stride = k * LQ__EIGEN_TALL;
        p.right_stride = k * LQ__EIGEN_WIDE;
        p.add = 1;
        lq__eigen_multiply(&p);
    }
}

LQ__STATIC void lq__eigen_back(lq__eigen_work *work)
{
    size_t end = work->n - 1;
    while (end > 0) {
        size_t first = (end - 1) / LQ__EIGEN_BLOCK * LQ__EIGEN_BLOCK;
        lq__eigen_apply_block(work, first, end);
        end = first;
    }
}

/* ---- entry ---- */

/* Doubles of the packed right factor, the largest of the three steps'. */
LQ__STATIC size_t lq__eigen_right_count(size_t n)
{
    size_t half = (n + 1) / 2 + LQ__EIGEN_WIDE;
    size_t blocks = 2 * LQ__EIGEN_BLOCK * (n + LQ__EIGEN_WIDE);
    return half * half < blocks ? blocks : half * half;
}

LQ__STATIC size_t lq__eigen_workspace_bytes(size_t n)
{
    size_t doubles = n * n + LQ__EIGEN_ROWS * (n + LQ__EIGEN_BLOCK) + lq__eigen_right_count(n) +
                     2 * LQ__EIGEN_BLOCK * n + LQ__EIGEN_ROWS * LQ__EIGEN_BLOCK + 10 * n;
    return 64 + doubles * sizeof(double) + 5 * n * sizeof(size_t);
}

LQ__STATIC void lq__eigen_layout(lq__eigen_work *work, double *a, size_t n, void *workspace)
{
    unsigned char *bytes = (unsigned char *)workspace;
    void *start = bytes + (64 - ((uintptr_t)bytes & 63)) % 64;
    void *after;
    work->n = n;
    work->a = a;
    work->z = (double *)start;
    work->left = work->z + n * n;
    work->right = work->left + LQ__EIGEN_ROWS * (n + LQ__EIGEN_BLOCK);
    work->panel = work->right + lq__eigen_right_count(n);
    work->product = work->panel + 2 * LQ__EIGEN_BLOCK * n;
    work->diagonal = work->product + LQ__EIGEN_ROWS * LQ__EIGEN_BLOCK;
    work->off = work->diagonal + n;
    work->tau = work->off + n;
    work->update = work->tau + n;
    work->pole = work->update + n;
    work->weight = work->pole + n;
    work->square = work->weight + n;
    work->shift = work->square + n;
    work->scale = work->shift + n;
    work->delta = work->scale + n;
    after = work->delta + n;
    work->origin = (size_t *)after;
    work->order = work->origin + n;
    work->slot = work->order + n;
    work->group = work->slot + n;
    work->kind = work->group + n;
    work->norm = 0;
}

/* Exponent of the largest element; -1 through *bad for NaN or infinity. */
LQ__STATIC int lq__eigen_exponent(const double *a, size_t count, int *bad)
{
    uint64_t largest = 0;
    int exponent;
    size_t i;
    for (i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, &a[i], 8);
        bits &= 0x7fffffffffffffffu;
        largest = largest < bits ? bits : largest;
    }
    exponent = (int)(largest >> 52) - 1023;
    *bad = exponent == 1024 ? -1 : 0;
    return exponent < -1000 ? (largest ? -1000 : 0) : exponent > 1000 ? 1000 : exponent;
}

/* Eigenvectors of a symmetric matrix, eigenvalues descending.
     a          (n, n), n >= 1; destroyed. Row i becomes the unit eigenvector of values[i]
     workspace  lq__eigen_workspace_bytes(n), aligned for double
   Returns 0, or -1: NaN or infinity in a, or no convergence.
   Errors ||A v - w v|| and ||V V' - I|| are of the order of 1e-16 sqrt(n), that of ||A|| too. */
LQ__STATIC int lq__eigen_symmetric(double *a, double *values, size_t n, void *workspace)
{
    lq__eigen_work work;
    int bad;
    int exponent = lq__eigen_exponent(a, n * n, &bad);
    double scale = lq__eigen_pow2(-exponent);
    size_t i;
    if (bad) {
        return -1;
    }
    lq__eigen_layout(&work, a, n, workspace);
    for (i = 0; i < n * n; i++) {
        a[i] *= scale;
    }
    lq__eigen_tridiagonal(&work);
    memset(work.z, 0, n * n * sizeof(double));
    if (lq__eigen_divide(&work, 0, n)) {
        return -1;
    }
    lq__eigen_back(&work);
    lq__eigen_sort(work.order, work.diagonal, 0, n);
    scale = lq__eigen_pow2(exponent);
    for (i = 0; i < n; i++) {
        size_t row = work.order[n - 1 - i];
        values[i] = work.diagonal[row] * scale;
        memcpy(a + i * n, work.z + row * n, n * sizeof(double));
    }
    return 0;
}
/* ---- logarithms, powers, roots: doubles from the integer mathematics of >>base ---- */
/* log2 of a positive normal number, to about 2^-16. */
LQ__STATIC double lq__log2_f64(double x)
{
    uint64_t u;
    memcpy(&u, &x, 8);
    return (double)lq__log2_q16((u & 0xfffffffffffffu) | (uint64_t)1 << 52) / 65536 +
           (double)(u >> 52) - 1075;
}

/* 2^x for |x| < 1000. */
LQ__STATIC double lq__exp2_f64(double x)
{
    int32_t q16 = (int32_t)(x * 65536 + (x < 0 ? -0.5 : 0.5));
    uint64_t u = (uint64_t)((q16 >> 16) + 1023) << 52;
    double power;
    memcpy(&power, &u, 8);
    return power * (double)lq__exp2_q30((uint32_t)q16 & 65535u) / 1073741824.0;
}

/* ---- samples ---- */
/* Covariances are summed in tiles of 8 rows and 32 columns: both are padded with zeros to that. */
LQ__INLINE size_t lq__klt_pad(size_t n)
{
    return (n + 31) & ~(size_t)31;
}

/* sums (pad, pad) += block' block for block (tokens, pad), the tiles that reach the triangle
   j <= i. */
LQ__STATIC void lq__outer_c(float *sums, const float *block, size_t tokens, size_t pad)
{
    size_t i;
    size_t j;
    size_t t;
    size_t r;
    size_t c;
    for (i = 0; i < pad; i += 8) {
        for (j = 0; j < i + 8; j += 8) {
            float acc[8][8] = {{0}};
            for (t = 0; t < tokens; t++) {
                const float *a = block + t * pad + i;
                const float *b = block + t * pad + j;
                for (r = 0; r < 8; r++) {
                    for (c = 0; c < 8; c++) {
                        acc[r][c] += a[r] * b[c];
                    }
                }
            }
            for (r = 0; r < 8; r++) {
                for (c = 0; c < 8; c++) {
                    sums[(i + r) * pad + j + c] += acc[r][c];
                }
            }
        }
    }
}

#if LQ__X86
LQ__TARGET_AVX2 static void lq__outer_avx2(float *sums, const float *block, size_t tokens,
                                           size_t pad)
{
    size_t i;
    size_t j;
    size_t t;
    int r;
    for (i = 0; i < pad; i += 4) {
        for (j = 0; j < i + 4; j += 16) {
            __m256 acc[4][2];
            for (r = 0; r < 4; r++) {
                acc[r][0] = _mm256_setzero_ps();
                acc[r][1] = _mm256_setzero_ps();
            }
            for (t = 0; t < tokens; t++) {
                const float *a = block + t * pad + i;
                __m256 b0 = _mm256_loadu_ps(block + t * pad + j);
                __m256 b1 = _mm256_loadu_ps(block + t * pad + j + 8);
                for (r = 0; r < 4; r++) {
                    __m256 x = _mm256_set1_ps(a[r]);
                    acc[r][0] = _mm256_add_ps(acc[r][0], _mm256_mul_ps(x, b0));
                    acc[r][1] = _mm256_add_ps(acc[r][1], _mm256_mul_ps(x, b1));
                }
            }
            for (r = 0; r < 4; r++) {
                float *s = sums + (i + (size_t)r) * pad + j;
                _mm256_storeu_ps(s, _mm256_add_ps(_mm256_loadu_ps(s), acc[r][0]));
                _mm256_storeu_ps(s + 8, _mm256_add_ps(_mm256_loadu_ps(s + 8), acc[r][1]));
            }
        }
    }
}

LQ__TARGET_AVX512 static void lq__outer_avx512(float *sums, const float *block, size_t tokens,
                                               size_t pad)
{
    size_t i;
    size_t j;
    size_t t;
    int r;
    for (i = 0; i < pad; i += 8) {
        for (j = 0; j < i + 8; j += 32) {
            __m512 acc[8][2];
            for (r = 0; r < 8; r++) {
                acc[r][0] = _mm512_setzero_ps();
                acc[r][1] = _mm512_setzero_ps();
            }
            for (t = 0; t < tokens; t++) {
                const float *a = block + t * pad + i;
                __m512 b0 = _mm512_loadu_ps(block + t * pad + j);
                __m512 b1 = _mm512_loadu_ps(block + t * pad + j + 16);
                for (r = 0; r < 8; r++) {
                    __m512 x = _mm512_set1_ps(a[r]);
                    acc[r][0] = _mm512_fmadd_ps(x, b0, acc[r][0]);
                    acc[r][1] = _mm512_fmadd_ps(x, b1, acc[r][1]);
                }
            }
            for (r = 0; r < 8; r++) {
                float *s = sums + (i + (size_t)r) * pad + j;
                _mm512_storeu_ps(s, _mm512_add_ps(_mm512_loadu_ps(s), acc[r][0]));
                _mm512_storeu_ps(s + 16, _mm512_add_ps(_mm512_loadu_ps(s + 16), acc[r][1]));
            }
        }
    }
}
#endif

/* Fitting is outside the promise of equal results, so each level may sum as it likes. */
LQ__STATIC void lq__outer(float *sums, const float *block, size_t tokens, size_t pad)
{
#if LQ__X86
    int level = lq__cpu_level();
    if (level == 2) {
        lq__outer_avx512(sums, block, tokens, pad);
        return;
    }
    if (level == 1) {
        lq__outer_avx2(sums, block, tokens, pad);
        return;
    }
#endif
    lq__outer_c(sums, block, tokens, pad);
}

/* The geometry without its basis: samples are in no basis. */
LQ__STATIC lq_geometry lq__klt_geometry(const lq_geometry *g)
{
    lq_geometry plain = *g;
    plain.basis = LQ_BASIS_IDENTITY;
    plain.dense = NULL;
    return plain;
}

/* Floats of the metrics of all slices. */
LQ__STATIC size_t lq__klt_metric_floats(const lq_geometry *g)
{
    size_t sum = 0;
    uint32_t s;
    for (s = 0; s < g->slice_count && g->stream == LQ_K; s++) {
        size_t pad = lq__klt_pad(g->slice_dims[s]);
        sum += pad * pad;
    }
    return sum;
}

LQ_API size_t lq_klt_bytes(const lq_geometry *geometry)
{
    lq_geometry g;
    size_t pad;
    if (!geometry) {
        return 0;
    }
    g = lq__klt_geometry(geometry);
    if (lq_geometry_rows(&g) == 0) {
        return 0;
    }
    pad = lq__klt_pad(lq_geometry_dims(&g));
    return 64 +
           4 * (3 * pad + 2 * pad * pad + 3 * (size_t)g.slice_count + lq__klt_metric_floats(&g));
}

LQ_API int lq_klt_init(lq_klt *klt, void *mem, size_t mem_bytes, const lq_geometry *geometry)
{
    size_t bytes = lq_klt_bytes(geometry);
    size_t pad;
    float *at;
    if (!klt || bytes == 0) {
        return LQ_E_ARG;
    }
    if (!mem || mem_bytes < bytes) {
        return LQ_E_SPACE;
    }
    memset(klt, 0, sizeof *klt);
    klt->geometry = lq__klt_geometry(geometry);
    pad = lq__klt_pad(lq_geometry_dims(&klt->geometry));
    at = (float *)(void *)((uint8_t *)mem + ((0 - (size_t)(uintptr_t)mem) & 63));
    memset(at, 0, bytes - 64);
    klt->products[0] = at;
    klt->products[1] = at + pad * pad;
    at += 2 * pad * pad;
    klt->center = at;
    klt->sum[0] = at + pad;
    klt->sum[1] = at + 2 * pad;
    at += 3 * pad;
    klt->metric = at;
    at += lq__klt_metric_floats(&klt->geometry);
    klt->gain_sum = at;
    klt->energy = at + 2 * (size_t)klt->geometry.slice_count;
    return LQ_OK;
}

LQ_API size_t lq_klt_workspace_bytes(const lq_geometry *geometry)
{
    size_t dims = lq_geometry_dims(geometry);
    return dims ? LQ__TOKENS * lq__klt_pad(dims) * 4 + 64 : 0;
}

/* NaN, infinity, magnitudes from 2^40; of V, whose gains end there, from 2^31. */
LQ__STATIC int lq__klt_check(const void *src, size_t stride, size_t dims, int type, size_t tokens,
                             uint32_t stream)
{
    uint32_t limit = (127u + (stream == LQ_V ? 31u : 40u)) << 23;
    const uint8_t *p = (const uint8_t *)src;
    size_t t;
    size_t d;
    for (t = 0; t < tokens; t++, p += stride * lq_type_bytes(type)) {
        for (d = 0; d < dims; d++) {
            uint32_t u = lq__element_bits(p, d, type) & 0x7fffffffu;
            if (u >= limit) {
                return u >= 0x7f800000u ? LQ_E_DATA : LQ_E_RANGE;
            }
        }
    }
    return LQ_OK;
}

/* One slice of a block into columns `at` .. of block (64, pad): RoPE undone, V over its gain. */
LQ__STATIC int lq__klt_load(lq_klt *klt, float *block, size_t pad, uint32_t s, const uint8_t *p,
                            size_t stride, int type, const lq_positions *positions, size_t tokens)
{
    const lq_geometry *g = &klt->geometry;
    size_t dims = g->slice_dims[s];
    size_t t;
    size_t d;
    int status = LQ_OK;
    for (t = 0; t < tokens && !status; t++, p += stride * lq_type_bytes(type)) {
        float *row = block + t * pad;
        status = lq_f32_from_type(row, p, dims, type);
        if (!status && g->stream == LQ_V) {
            int32_t gain;
            float scale;
            status = lq__gain_of(&gain, p, dims, type);
            if (status) {
                break;
            }
            scale = 1.0f / lq__gain_f32(gain);
            klt->gain_sum[2 * s] += (float)gain;
            klt->gain_sum[2 * s + 1] += (float)(gain * gain);
            for (d = 0; d < dims; d++) {
                row[d] *= scale;
            }
        }
    }
    if (!status && g->rope) {
        status = lq_rope_undo_f32(block, tokens, dims, pad, g->rope, positions);
    }
    for (t = 0; t < tokens && g->stream == LQ_K && !status; t++) {
        for (d = 0; d < dims; d++) {
            klt->energy[s] += block[t * pad + d] * block[t * pad + d];
        }
    }
    return status;
}

/* A block in its columns to the sums: fitted or held out. */
LQ__STATIC void lq__klt_block(lq_klt *klt, float *block, size_t pad, size_t tokens)
{
    int which = klt->blocks % 8 == 7;
    size_t dims = lq_geometry_dims(&klt->geometry);
    size_t t;
    size_t d;
    for (t = 0; t < tokens && klt->blocks == 0; t++) {
        for (d = 0; d < dims; d++) {
            klt->center[d] += block[t * pad + d] / (float)tokens;
        }
    }
    for (t = 0; t < tokens; t++) {
        for (d = 0; d < dims; d++) {
            block[t * pad + d] -= klt->center[d];
            klt->sum[which][d] += block[t * pad + d];
        }
    }
    lq__outer(klt->products[which], block, tokens, pad);
    klt->tokens += which ? 0 : tokens;
    klt->held_out += which ? tokens : 0;
    klt->blocks++;
}

/* Tokens src_first .. of src; positions are already theirs. */
LQ__STATIC int lq__klt_add_from(lq_klt *klt, const lq_vectors *src, size_t src_first,
                                const lq_positions *positions, size_t tokens, void *workspace)
{
    const lq_geometry *g = &klt->geometry;
    size_t element = lq_type_bytes(src->type);
    size_t pad;
    float *block;
    size_t first;
    uint32_t s;
    int status = LQ_OK;
    for (s = 0; s < g->slice_count && !status; s++) {
        size_t stride = src->token_stride ? src->token_stride : g->slice_dims[s];
        status = lq__klt_check((const uint8_t *)src->slices[s] + src_first * stride * element,
                               stride, g->slice_dims[s], src->type, tokens, g->stream);
    }
    pad = lq__klt_pad(lq_geometry_dims(g));
    block = (float *)(void *)((uint8_t *)workspace + ((0 - (size_t)(uintptr_t)workspace) & 63));
    for (first = 0; first < tokens && !status; first += LQ__TOKENS) {
        size_t n = LQ__MIN(tokens - first, LQ__TOKENS);
        lq_positions at = lq__positions_or_none(positions, first);
        size_t column = 0;
        memset(block, 0, LQ__TOKENS * pad * 4);
        for (s = 0; s < g->slice_count && !status; s++) {
            size_t dims = g->slice_dims[s];
            size_t stride = src->token_stride ? src->token_stride : dims;
            const uint8_t *p =
                (const uint8_t *)src->slices[s] + (src_first + first) * stride * element;
            status = lq__klt_load(klt, block + column, pad, s, p, stride, src->type, &at, n);
            column += dims;
        }
        if (!status) {
            lq__klt_block(klt, block, pad, n);
        }
    }
    return status;
}

LQ_API int lq_klt_add(lq_klt *klt, const lq_vectors *src, const lq_positions *positions,
                      size_t tokens, void *workspace, size_t workspace_bytes)
{
    if (!klt || !src || !src->slices || lq_type_bytes(src->type) == 0 || !workspace ||
        (klt->geometry.rope && !positions)) {
        return LQ_E_ARG;
    }
    if (workspace_bytes < lq_klt_workspace_bytes(&klt->geometry)) {
        return LQ_E_SPACE;
    }
    return lq__klt_add_from(klt, src, 0, positions, tokens, workspace);
}

/* Queries src_first ..; positions are already theirs. */
LQ__STATIC int lq__klt_add_queries_from(lq_klt *klt, const lq_vectors *queries,
                                        const uint32_t *reads, size_t heads, size_t src_first,
                                        const lq_positions *positions, size_t tokens,
                                        void *workspace)
{
    const lq_geometry *g = &klt->geometry;
    size_t element = lq_type_bytes(queries->type);
    float *block;
    size_t first;
    size_t h;
    int status = LQ_OK;
    for (h = 0; h < heads && !status; h++) {
        size_t dims = reads[h] < g->slice_count ? g->slice_dims[reads[h]] : 0;
        size_t stride = queries->token_stride ? queries->token_stride : dims;
        status =
            dims ? lq__klt_check((const uint8_t *)queries->slices[h] + src_first * stride * element,
                                 stride, dims, queries->type, tokens, LQ_K)
                 : LQ_E_ARG;
    }
    block = (float *)(void *)((uint8_t *)workspace + ((0 - (size_t)(uintptr_t)workspace) & 63));
    for (h = 0; h < heads && !status; h++) {
        float *metric = klt->metric;
        size_t dims = g->slice_dims[reads[h]];
        size_t pad = lq__klt_pad(dims);
        size_t stride = queries->token_stride ? queries->token_stride : dims;
        uint32_t s;
        size_t t;
        for (s = 0; s < reads[h]; s++) {
            metric += lq__klt_pad(g->slice_dims[s]) * lq__klt_pad(g->slice_dims[s]);
        }
        for (first = 0; first < tokens && !status; first += LQ__TOKENS) {
            size_t n = LQ__MIN(tokens - first, LQ__TOKENS);
            lq_positions at = lq__positions_or_none(positions, first);
            memset(block, 0, LQ__TOKENS * pad * 4);
            for (t = 0; t < n && !status; t++) {
                const uint8_t *p = (const uint8_t *)queries->slices[h];
                status = lq_f32_from_type(block + t * pad,
                                          p + (src_first + first + t) * stride * element, dims,
                                          queries->type);
            }
            if (!status && g->rope) {
                status = lq_rope_undo_f32(block, n, dims, pad, g->rope, &at);
            }
            lq__outer(metric, block, n, pad);
        }
    }
    klt->queries += status ? 0 : heads * tokens;
    return status;
}

LQ_API int lq_klt_add_queries(lq_klt *klt, const lq_vectors *queries, const uint32_t *reads,
                              size_t heads, const lq_positions *positions, size_t tokens,
                              void *workspace, size_t workspace_bytes)
{
    if (!klt || klt->geometry.stream != LQ_K || !queries || !queries->slices || !reads ||
        !workspace || lq_type_bytes(queries->type) == 0 || (klt->geometry.rope && !positions)) {
        return LQ_E_ARG;
    }
    if (workspace_bytes < lq_klt_workspace_bytes(&klt->geometry)) {
        return LQ_E_SPACE;
    }
    return lq__klt_add_queries_from(klt, queries, reads, heads, 0, positions, tokens, workspace);
}

/* ---- the query metric ---- */
/* Everything the making of a profile keeps. Slice s has its matrices at offset[s]. */
typedef struct lq__klt_work {
    const lq_klt *klt;
    double step;
    double beta;
    double tolerance;
    int absolute;
    int own;
    size_t dims;
    size_t pad;
    double *matrix;   /* (dims, dims) covariance, then eigenvectors as rows */
    double *judge;    /* (dims, dims) covariance of the held-out tokens */
    double *mean;     /* (dims) of all tokens */
    double *value;    /* (dims) eigenvalues */
    double *variance; /* (dims) of the held-out tokens */
    double *diagonal; /* (dims) of the covariance */
    double *row;      /* (dims) */
    double *whiten;   /* A of each slice: errors of A x are alike in all directions */
    double *unwhiten; /* and its inverse */
    double logit;     /* sum over slices of tr(A^-1 M A^-1), M the moment of a query */
    double *square;   /* (largest slice)^2, three of them */
    void *eigen;
    int32_t *exponent; /* (slices) unit 2^exponent */
    int metric;
    int32_t sigma_floor; /* coefficients below the step are held as precisely as those of the step:
                            outliers of their own must not leak */
    lq_profile profile;
    int16_t *rows;    /* the profile's */
    uint32_t *zigzag; /* (dims) */
    lq_klt_report report;
} lq__klt_work;

#define LQ__KLT_DISTANCES 41

/* Sum over distances 2^(k / 4), k = 0 .. 40, of the queries' second moment, turned back by the
   distance: what a key sees of them (log-uniform distances from 1 to 1024). out, turned (n, n). */
LQ__STATIC int lq__klt_moment(double *out, const float *sum, size_t n, const lq_rope *rope,
                              float *turn)
{
    size_t pad = lq__klt_pad(n);
    int steps = rope ? LQ__KLT_DISTANCES : 1;
    int k;
    size_t i;
    size_t j;
    memset(out, 0, n * n * sizeof *out);
    for (k = 0; k < steps; k++) {
        lq_positions at = {0, 0, NULL};
        int pass;
        int status = LQ_OK;
        at.first = (int64_t)(lq__exp2_f64(k / 4.0) + 0.5);
        for (i = 0; i < n; i++) {
            for (j = 0; j < n; j++) {
                turn[i * n + j] = j <= i ? sum[i * pad + j] : sum[j * pad + i];
            }
        }
        for (pass = 0; pass < 2 && rope; pass++) { /* R (R S)' */
            for (i = 0; i < n && !status; i++) {
                status = lq_rope_apply_f32(turn + i * n, 1, n, n, rope, &at);
            }
            for (i = 0; i < n; i++) {
                for (j = 0; j < i; j++) {
                    float x = turn[i * n + j];
                    turn[i * n + j] = turn[j * n + i];
                    turn[j * n + i] = x;
                }
            }
        }
        if (status) {
            return status;
        }
        for (i = 0; i < n * n; i++) {
            out[i] += (double)turn[i];
        }
    }
    return LQ_OK;
}

/* out (n, n) = sum over k of scale[k] row_k row_k'. */
LQ__STATIC void lq__klt_compose(double *out, const double *rows, const double *scale, size_t n)
{
    size_t i;
    size_t j;
    size_t k;
    memset(out, 0, n * n * sizeof *out);
    for (k = 0; k < n; k++) {
        const double *v = rows + k * n;
        for (i = 0; i < n; i++) {
            double x = v[i] * scale[k];
            for (j = 0; j < n; j++) {
                out[i * n + j] += x * v[j];
            }
        }
    }
}

/* A and its inverse for slice s: the query moment's eigenvalues over their mean, at least 1e-4, to
   the power beta / 2, scaled to mean square 1, times unit (x comes in powers of two). */
LQ__STATIC int lq__klt_whiten(lq__klt_work *w, uint32_t s, const float *sum, double *a,
                              double *inverse, double unit)
{
    const lq_rope *rope = w->klt->geometry.rope;
    size_t n = w->klt->geometry.slice_dims[s];
    double *moment = w->square;
    double *value = w->row;
    double per_query = w->klt->geometry.slice_count / (double)LQ__MAX(w->klt->queries, 1) /
                       (rope ? LQ__KLT_DISTANCES : 1);
    double mean = 0;
    double power = 0;
    double most = 0;
    size_t i;
    int status;
    if (w->klt->queries && w->beta > 0) {
        status = lq__klt_moment(moment, sum, n, rope, (float *)(void *)(w->square + n * n));
        if (status || lq__eigen_symmetric(moment, value, n, w->eigen)) {
            return status ? status : LQ_E_INTERNAL;
        }
    } else {
        for (i = 0; i < n * n; i++) {
            moment[i] = i % (n + 1) == 0;
        }
        for (i = 0; i < n; i++) {
            value[i] = 1;
        }
    }
    for (i = 0; i < n; i++) { /* a query's, of 41 distances (one without RoPE) */
        mean += value[i] / (double)n;
        w->variance[i] = w->klt->queries && w->beta > 0 ? LQ__MAX(value[i], 0.0) * per_query : 0;
    }
    for (i = 0; i < n; i++) {
        double relative = mean > 1e-200 ? value[i] / mean : 1;
        value[i] = lq__exp2_f64(lq__log2_f64(LQ__MAX(relative, 1e-4)) * w->beta / 2);
        power += value[i] * value[i] / (double)n;
    }
    power = lq__sqrt_f64(power);
    for (i = 0; i < n; i++) { /* eigenvectors' values: no direction below 1/32 of the largest */
        most = LQ__MAX(most, value[i]);
    }
    for (i = 0; i < n; i++) {
        value[i] = LQ__MAX(value[i], most / 32) * unit / power;
        w->logit += w->variance[i] / (value[i] * value[i]) * lq__exp2_f64(2 * w->exponent[s]);
    }
    lq__klt_compose(a, moment, value, n);
    for (i = 0; i < n; i++) {
        value[i] = 1 / value[i];
    }
    lq__klt_compose(inverse, moment, value, n);
    return LQ_OK;
}

/* Units, A and its inverse of all slices. */
LQ__STATIC int lq__klt_metrics(lq__klt_work *w)
{
    const lq_klt *klt = w->klt;
    const lq_geometry *g = &klt->geometry;
    const float *sum = klt->metric;
    size_t at = 0;
    uint32_t s;
    w->metric = g->stream == LQ_K;
    for (s = 0; s < g->slice_count && w->metric; s++) {
        size_t n = g->slice_dims[s];
        double count = (double)(klt->tokens + klt->held_out) * (double)n;
        double rms = lq__sqrt_f64((double)klt->energy[s] / count);
        int status;
        w->exponent[s] = 0;
        rms = w->absolute || rms < 1e-12 ? 1 : rms;
        if (!w->absolute) {
            w->exponent[s] = (int32_t)(lq__log2_f64(rms) + 100.5) - 100;
        }
        status = lq__klt_whiten(w, s, sum, w->whiten + at, w->unwhiten + at,
                                lq__exp2_f64(w->exponent[s]) / rms);
        if (status) {
            return status;
        }
        at += n * n;
        sum += lq__klt_pad(n) * lq__klt_pad(n);
    }
    return LQ_OK;
}

/* ---- covariances ---- */
/* row (dims) = A row, slice by slice; `a` holds the matrices of all slices, symmetric ones. */
LQ__STATIC void lq__klt_apply(const lq__klt_work *w, const double *a, double *row)
{
    const lq_geometry *g = &w->klt->geometry;
    uint32_t s;
    size_t i;
    size_t j;
    for (s = 0; s < g->slice_count; s++) {
        size_t n = g->slice_dims[s];
        double *out = w->square;
        memset(out, 0, n * sizeof *out);
        for (i = 0; i < n; i++) {
            for (j = 0; j < n; j++) {
                out[j] += row[i] * a[i * n + j];
            }
        }
        memcpy(row, out, n * sizeof *out);
        row += n;
        a += n * n;
    }
}

LQ__STATIC void lq__klt_transpose(double *m, size_t n)
{
    size_t i;
    size_t j;
    size_t ib;
    size_t jb;
    for (ib = 0; ib < n; ib += 32) {
        for (jb = 0; jb <= ib; jb += 32) {
            for (i = ib; i < LQ__MIN(ib + 32, n); i++) {
                for (j = jb; j < LQ__MIN(jb + 32, i); j++) {
                    double x = m[i * n + j];
                    m[i * n + j] = m[j * n + i];
                    m[j * n + i] = x;
                }
            }
        }
    }
}

/* Covariance of the fitted (0), held-out (1) or all (2) tokens about the mean of all, of A x. */
LQ__STATIC void lq__klt_covariance(const lq__klt_work *w, double *m, int which)
{
    const lq_klt *klt = w->klt;
    size_t n = w->dims;
    const float *product = klt->products[which & 1];
    const float *sum = klt->sum[which & 1];
    const double all = which == 2;
    double count = (double)(which ? klt->held_out : klt->tokens) + all * (double)klt->tokens;
    double *unit = w->row;
    size_t i;
    size_t j;
    uint32_t s;
    int pass;
    for (s = 0, i = 0; s < klt->geometry.slice_count; s++) {
        for (j = 0; j < klt->geometry.slice_dims[s]; j++) {
            unit[i++] = lq__exp2_f64(-w->exponent[s]);
        }
    }
    for (i = 0; i < n; i++) {
        double a = ((double)sum[i] + all * (double)klt->sum[1][i]) / count;
        double mean_a = w->mean[i] - (double)klt->center[i];
        for (j = 0; j <= i; j++) {
            double b = ((double)sum[j] + all * (double)klt->sum[1][j]) / count;
            double square =
                (double)product[i * w->pad + j] + all * (double)klt->products[1][i * w->pad + j];
            double mean_b = w->mean[j] - (double)klt->center[j];
            double c = square / count - a * mean_b - mean_a * b + mean_a * mean_b;
            m[i * n + j] = c * unit[i] * unit[j];
            m[j * n + i] = m[i * n + j];
        }
    }
    for (pass = 0; pass < 2 && w->metric; pass++) { /* A (A C)' */
        for (i = 0; i < n; i++) {
            lq__klt_apply(w, w->whiten, m + i * n);
        }
        lq__klt_transpose(m, n);
    }
}

/* variance[i] = row_i judge row_i', for eight rows of `matrix` at a time. */
LQ__STATIC void lq__klt_variances(const lq__klt_work *w, double *variance)
{
    size_t n = w->dims;
    size_t i;
    size_t j;
    size_t k;
    size_t r;
    size_t c;
    for (i = 0; i < n; i += 8) {
        size_t rows = LQ__MIN(n - i, 8);
        for (r = 0; r < rows; r++) {
            variance[i + r] = 0;
        }
        for (j = 0; j < n; j += 32) {
            size_t columns = LQ__MIN(n - j, 32);
            double y[8][32] = {{0}};
            for (k = 0; k < n; k++) {
                const double *h = w->judge + k * n + j;
                for (r = 0; r < rows; r++) {
                    double x = w->matrix[(i + r) * n + k];
                    for (c = 0; c < columns; c++) {
                        y[r][c] += x * h[c];
                    }
                }
            }
            for (r = 0; r < rows; r++) {
                for (c = 0; c < columns; c++) {
                    variance[i + r] += y[r][c] * w->matrix[(i + r) * n + j + c];
                }
            }
        }
    }
}

/* Weight of the diagonal that minimises the expected error of a covariance of so many tokens
   (Schaefer & Strimmer 2005, target D): the variance of its elements over their squares.
   Neighbouring tokens are alike: half of them count. */
LQ__STATIC double lq__klt_shrinkage(const double *m, size_t n, double tokens)
{
    double trace = 0;
    double squares = 0;
    double diagonal = 0;
    double off = 0;
    size_t i;
    size_t j;
    for (i = 0; i < n; i++) {
        trace += m[i * n + i];
        diagonal += m[i * n + i] * m[i * n + i];
        for (j = 0; j < n; j++) {
            squares += m[i * n + j] * m[i * n + j];
        }
    }
    off = squares - diagonal;
    if (!(off > 0)) {
        return 1;
    }
    trace = (trace * trace - diagonal + off) / (tokens / 2) / off;
    return LQ__MIN(trace, 1.0);
}

/* Bits an element at the step when coefficients of variance v are coded as if it were sigma2. */
LQ__STATIC double lq__klt_bits(const double *sigma2, const double *v, size_t n, double step)
{
    double floor2 = step * step / 12;
    double bits = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double model = LQ__MAX(sigma2[i], 0.0) + floor2;
        bits += 0.5 * lq__log2_f64(model / floor2) +
                0.72134752 * ((LQ__MAX(v[i], 0.0) + floor2) / model - 1);
    }
    return bits / (double)n;
}

/* Eigenvectors of matrix, shrunk, and two guesses at the variances: the eigenvalues, and those of
   the tokens themselves, v'Cv = (l - s v'Dv) / (1 - s). The better one by `variance` stays in
   value. */
LQ__STATIC int lq__klt_eigen(lq__klt_work *w, double shrink)
{
    size_t n = w->dims;
    double *own = w->row;
    double bits;
    size_t i;
    size_t j;
    for (i = 0; i < n; i++) {
        w->diagonal[i] = w->matrix[i * n + i];
        for (j = 0; j < n; j++) {
            w->matrix[i * n + j] *= i == j ? 1 : 1 - shrink;
        }
    }
    if (lq__eigen_symmetric(w->matrix, w->value, n, w->eigen)) {
        return LQ_E_INTERNAL;
    }
    lq__klt_variances(w, w->variance);
    for (i = 0; i < n; i++) {
        const double *v = w->matrix + i * n;
        double of_diagonal = 0;
        for (j = 0; j < n; j++) {
            of_diagonal += v[j] * v[j] * w->diagonal[j];
        }
        own[i] = shrink < 1 ? (w->value[i] - shrink * of_diagonal) / (1 - shrink) : w->value[i];
    }
    bits = lq__klt_bits(w->value, w->variance, n, w->step);
    if ((w->own || w->klt->held_out) && lq__klt_bits(own, w->variance, n, w->step) < bits) {
        memcpy(w->value, own, n * sizeof *own);
    }
    w->report.basis_bits = (float)lq__klt_bits(w->value, w->variance, n, w->step);
    w->report.shrinkage = (float)shrink;
    return LQ_OK;
}

/* The eigenbasis of the shrunk covariance, judged on the held-out tokens against the channels as
   they are; the better one stays in `matrix`, its variances over all tokens in `value`. */
LQ__STATIC int lq__klt_choose(lq__klt_work *w)
{
    const lq_klt *klt = w->klt;
    size_t n = w->dims;
    double fitted = (double)klt->tokens;
    double held = w->own ? 0 : (double)klt->held_out;
    int which = w->own ? 2 : 0;
    size_t i;
    int status;
    lq__klt_covariance(w, w->matrix, which);
    lq__klt_covariance(w, w->judge, held > 0 ? 1 : which);
    for (i = 0; i < n; i++) {
        w->value[i] = w->matrix[i * n + i];
        w->variance[i] = w->judge[i * n + i];
    }
    w->report.channel_bits = (float)lq__klt_bits(w->value, w->variance, n, w->step);
    status = lq__klt_eigen(w, w->own ? 0 : lq__klt_shrinkage(w->matrix, n, fitted));
    if (status) {
        return status;
    }
    if (w->report.basis_bits > w->report.channel_bits) {
        w->report.shrinkage = 1;
        w->report.basis_bits = w->report.channel_bits;
        lq__klt_covariance(w, w->matrix, which);
        for (i = 0; i < n; i++) {
            w->value[i] = w->matrix[i * n + i];
            w->variance[i] = w->judge[i * n + i];
        }
        memset(w->matrix, 0, n * n * sizeof *w->matrix);
        for (i = 0; i < n; i++) {
            w->matrix[i * n + i] = 1;
        }
    }
    for (i = 0; i < n && held > 0; i++) {
        w->value[i] = (w->value[i] * fitted + w->variance[i] * held) / (fitted + held);
    }
    return LQ_OK;
}

/* Falling variance: lattices' blocks and the dead tail rely on it. Selection, since the order is
   nearly right. */
LQ__STATIC void lq__klt_sort(lq__klt_work *w)
{
    size_t n = w->dims;
    size_t i;
    size_t j;
    for (i = 0; i + 1 < n; i++) {
        size_t best = i;
        double *a = w->matrix + i * n;
        double *b;
        double x;
        for (j = i + 1; j < n; j++) {
            best = w->value[j] > w->value[best] ? j : best;
        }
        if (best == i) {
            continue;
        }
        b = w->matrix + best * n;
        memcpy(w->row, a, n * sizeof *a);
        memcpy(a, b, n * sizeof *a);
        memcpy(b, w->row, n * sizeof *a);
        x = w->value[i];
        w->value[i] = w->value[best];
        w->value[best] = x;
    }
}

/* ---- the profile's file form ---- */
LQ__INLINE int32_t lq__klt_round(double x)
{
    return (int32_t)(x < 0 ? x - 0.5 : x + 0.5);
}

/* 16 log2 of a standard deviation, from the variance. */
LQ__STATIC int16_t lq__klt_sigma(double variance)
{
    return (int16_t)(variance > 1e-60 ? LQ__MAX(lq__klt_round(8 * lq__log2_f64(variance)), -4096)
                                      : -4096);
}

/* Means and deviations; the rank: coefficients above the class that a codec takes for dead, at
   least one. */
LQ__STATIC void lq__klt_rows(lq__klt_work *w)
{
    const lq_klt *klt = w->klt;
    const lq_geometry *g = &klt->geometry;
    size_t lead = g->stream == LQ_V ? g->slice_count : 0;
    double tokens = (double)(klt->tokens + klt->held_out);
    double least = 0.19 * w->step;
    lq_profile *p = &w->profile;
    size_t i;
    memset(p, 0, sizeof *p);
    p->stream = g->stream;
    p->basis = LQ_BASIS_DENSE;
    p->slice_count = g->slice_count;
    p->dims = (uint32_t)w->dims;
    p->mean = w->rows;
    p->sigma = w->rows + lead + w->dims;
    for (i = 0; i < lead; i++) {
        double mean = (double)klt->gain_sum[2 * i] / tokens;
        double square = (double)klt->gain_sum[2 * i + 1] / tokens - mean * mean;
        p->mean[i] = (int16_t)lq__klt_round(mean);
        p->sigma[i] = lq__klt_sigma(LQ__MAX(square, 0.25));
    }
    w->report.rank = 0;
    for (i = 0; i < w->dims; i++) {
        p->mean[lead + i] = 0;
        p->sigma[lead + i] = lq__klt_sigma(w->value[i]);
        if (w->value[i] > least * least || i == 0) {
            w->report.rank = (uint32_t)(i + 1);
        }
    }
}

/* The centre in slice units, i16 each of 2^exponent, which is returned. */
LQ__STATIC int32_t lq__klt_put_center(lq__klt_work *w, uint8_t *dst)
{
    const lq_geometry *g = &w->klt->geometry;
    double most = 1e-30;
    int32_t exponent;
    size_t i;
    size_t k = 0;
    uint32_t s;
    for (s = 0; s < g->slice_count; s++) {
        for (i = 0; i < g->slice_dims[s]; i++, k++) {
            double c = w->mean[k] * lq__exp2_f64(-w->exponent[s]);
            w->row[k] = c;
            most = LQ__MAX(most, c < 0 ? -c : c);
        }
    }
    exponent = (int32_t)(lq__log2_f64(most / 32000) + 64) - 63;
    exponent = LQ__MAX(exponent, -40);
    for (k = 0; k < w->dims; k++) {
        int32_t q = lq__klt_round(w->row[k] * lq__exp2_f64(-exponent));
        lq__store16(dst + 2 * k, (uint32_t)q & 65535u);
    }
    return exponent;
}

/* A'A of one slice, its lower triangle, i16 each of 2^(exponent - 15), which is returned. */
LQ__STATIC int32_t lq__klt_put_metric(lq__klt_work *w, uint8_t *dst, const double *a, size_t n)
{
    double *square = w->square;
    double most = 1e-30;
    int32_t e;
    size_t i;
    size_t j;
    size_t k;
    memset(square, 0, n * n * sizeof *square);
    for (i = 0; i < n; i++) {
        for (k = 0; k < n; k++) {
            for (j = 0; j <= i; j++) {
                square[i * n + j] += a[i * n + k] * a[k * n + j];
            }
        }
        most = LQ__MAX(most, square[i * n + i]); /* no element is larger */
    }
    e = (int32_t)(lq__log2_f64(most / 0.99) + 64) - 63;
    e = LQ__MAX(LQ__MIN(e, 15), -16);
    for (i = 0; i < n; i++) {
        for (j = 0; j <= i; j++, dst += 2) {
            int32_t q = lq__klt_round(square[i * n + j] * lq__exp2_f64(15 - e));
            lq__store16(dst, (uint32_t)lq__clamp(q, -32767, 32767) & 65535u);
        }
    }
    return e;
}

/* What stands before the bits; returns its bytes. */
LQ__STATIC size_t lq__klt_put_fixed(lq__klt_work *w, uint8_t *dst, int32_t precision)
{
    const lq_geometry *g = &w->klt->geometry;
    uint8_t *slice = dst + LQ__DENSE_FIXED;
    uint8_t *at = slice + 4 * (size_t)g->slice_count;
    const double *a = w->whiten;
    uint32_t s;
    lq__store16(dst + 20, w->report.rank);
    dst[22] = (uint8_t)(w->metric ? LQ__METRIC_STORED : LQ__METRIC_NONE);
    dst[23] = (uint8_t)lq__klt_put_center(w, at);
    lq__store16(dst + 24, (uint32_t)precision & 65535u);
    lq__store16(dst + 26, (uint32_t)w->sigma_floor & 65535u);
    at += 2 * w->dims;
    for (s = 0; s < g->slice_count; s++, slice += 4) {
        size_t n = g->slice_dims[s];
        lq__store16(slice, (uint32_t)n);
        slice[2] = (uint8_t)w->exponent[s];
        slice[3] = 0;
        if (w->metric) {
            slice[3] = (uint8_t)lq__klt_put_metric(w, at, a, n);
            at += n * (n + 1);
            a += n * n;
        }
    }
    return (size_t)(at - dst);
}

/* The order that codes the zigzagged elements in the fewest bits. */
LQ__STATIC uint32_t lq__rice_order(const uint32_t *zigzag, size_t count)
{
    uint64_t best_bits = UINT64_MAX;
    uint32_t best = 0;
    uint32_t k;
    size_t j;
    for (k = 0; k < 16; k++) {
        uint64_t sum = 0;
        for (j = 0; j < count; j++) {
            sum += lq__rice_bits(zigzag[j], k);
        }
        if (sum < best_bits) {
            best_bits = sum;
            best = k;
        }
    }
    return best;
}

/* One coefficient's elements, rounded to its unit and Rice coded. Adds to the loss. LQ_E_RANGE: an
   element beyond what the matrices hold: a metric that all but ignores a direction. */
LQ__STATIC int lq__klt_put_row(lq__klt_work *w, lq__bit_writer *bits, size_t i, int32_t precision)
{
    size_t lead = lq__profile_rows(&w->profile) - w->dims;
    int32_t quarters = lq__dense_quarters(precision, w->sigma_floor, w->profile.sigma[lead + i]);
    double unit = lq__exp2_f64(quarters / 4.0);
    double error = 0;
    double most = 0;
    uint32_t octaves = 0;
    uint32_t order;
    size_t j;
    memcpy(w->row, w->matrix + i * w->dims, w->dims * sizeof *w->row);
    if (w->metric) {
        lq__klt_apply(w, w->unwhiten, w->row);
    }
    for (j = 0; j < w->dims; j++) {
        most = LQ__MAX(most, w->row[j] < 0 ? -w->row[j] : w->row[j]);
    }
    for (; octaves < 15 && most / unit > 32000; octaves++) {
        unit *= 2;
    }
    if (!(most < 63) || most / unit > 32000) {
        return LQ_E_RANGE;
    }
    for (j = 0; j < w->dims; j++) {
        double x = w->row[j] / unit;
        int32_t q = lq__klt_round(x);
        w->zigzag[j] = lq__zigzag(q);
        error += (x - q) * (x - q);
    }
    w->report.basis_loss += (float)(error * unit * unit * w->value[i]);
    order = lq__rice_order(w->zigzag, w->dims);
    lq__bit_put(bits, octaves, 4);
    lq__bit_put(bits, order, 4);
    for (j = 0; j < w->dims; j++) {
        lq__rice_put(bits, lq__unzigzag(w->zigzag[j]), order);
    }
    return LQ_OK;
}

LQ__STATIC int lq__klt_write(lq__klt_work *w, uint8_t *dst, size_t *written)
{
    size_t lead = lq__profile_rows(&w->profile) - w->dims;
    size_t rows = lead + w->report.rank;
    double unit = w->step * lq__sqrt_f64(w->tolerance / w->report.rank);
    int32_t precision = (int32_t)(16 * lq__log2_f64(unit) + 8192) - 8192;
    lq__bit_writer bits;
    size_t fixed;
    size_t i;
    w->sigma_floor = lq__klt_round(16 * lq__log2_f64(w->step));
    lq__profile_head(dst, &w->profile, LQ__FORM_DENSE, rows);
    fixed = lq__klt_put_fixed(w, dst, precision);
    if (dst[23] < 128 && dst[23] > 16) { /* a mean beyond any model's */
        return LQ_E_RANGE;
    }
    bits.dst = dst + fixed;
    bits.capacity = lq_klt_profile_bound(w->klt) - fixed;
    bits.at = 0;
    bits.full = 0;
    lq__profile_put_rows(&bits, dst, &w->profile, rows);
    w->report.basis_loss = 0;
    for (i = 0; i < w->report.rank; i++) {
        int status = lq__klt_put_row(w, &bits, i, precision);
        if (status) {
            return status;
        }
    }
    if (bits.full) {
        return LQ_E_INTERNAL;
    }
    w->report.basis_loss *= (float)(12 / (w->step * w->step * (double)w->dims));
    *written = fixed + (bits.at + 7) / 8;
    lq__store32(dst + 16, lq__profile_checksum(dst, *written));
    return LQ_OK;
}

LQ_API size_t lq_profile_strip(uint8_t *file, size_t count)
{
    lq__dense_form f;
    lq_profile p;
    size_t fixed;
    if (!file || lq__profile_header(&p, file, count) || file[6] != LQ__FORM_DENSE ||
        lq__dense_form_read(&f, &p, file, count) || f.metric != LQ__METRIC_STORED) {
        return count;
    }
    fixed = (size_t)(f.metrics - file);
    file[22] = LQ__METRIC_LEFT_OUT;
    memmove(file + fixed, f.bits, f.bits_bytes);
    count = fixed + f.bits_bytes;
    lq__store32(file + 16, lq__profile_checksum(file, count));
    return count;
}

/* Variance in steps^2 of a deviation. */
LQ__INLINE double lq__variance_in_steps(int32_t sigma, int32_t log_step)
{
    return sigma == LQ_SIGMA_DEAD ? 0 : lq__exp2_f64(sigma / 8.0 - log_step / 32768.0);
}

LQ_API int lq_fit_pays(int *pays, const lq_fit *fit, const lq_profile *p, uint64_t tokens)
{
    const double floor2 = 1.0 / 12;
    int32_t log_step;
    double gain = 0;
    double cost = 0;
    double share;
    size_t lead;
    size_t rows;
    size_t i;
    if (!pays || !fit || !p || fit->tokens == 0 || !lq__profile_valid(p)) {
        return LQ_E_ARG;
    }
    rows = lq__profile_rows(p);
    if (rows != lq_geometry_rows(&fit->geometry)) {
        return LQ_E_ARG;
    }
    lead = rows - p->dims;
    log_step = lq__log2_of_f32(fit->step);
    share = (double)fit->tokens / (double)(fit->tokens + (fit->geometry.dense ? LQ__FIT_PRIOR : 0));
    for (i = lead; i < rows; i++) { /* sums are q10, q20 */
        double n = (double)fit->tokens;
        double mean = (double)fit->sum[i] / 1024 / n;
        double square = (double)fit->sum_squares[i] / 1048576 / n;
        double old = lq__variance_in_steps(p->sigma[i], log_step) + floor2;
        double fitted = LQ__MAX(square - mean * mean, 0.0) + floor2;
        double after = share * fitted + (1 - share) * old; /* as lq_fit_profile will have it */
        if (p->sigma[i] == LQ_SIGMA_DEAD) {
            continue;
        }
        gain += 0.5 * (lq__log2_f64(old) - lq__log2_f64(after));
        gain += 0.72134752 * ((square + floor2) / old -
                              (fitted + (1 - share) * (1 - share) * mean * mean) / after);
        if (fitted > 0.13) { /* two numbers fitted to n tokens flatter themselves by so much */
            gain -= 2.885 * share / n;
        }
        cost += fitted > 1 ? 12 : fitted > 0.13 ? 7 : 3; /* bits of a row in the file form, about */
    }
    cost += 8 * (LQ__PROFILE_HEADER + 18 + 12 + 52);
    *pays = gain * (double)tokens > cost;
    return LQ_OK;
}

LQ_API size_t lq_klt_profile_bound(const lq_klt *klt)
{
    const lq_geometry *g = klt ? &klt->geometry : NULL;
    size_t dims = lq_geometry_dims(g);
    size_t bytes;
    uint32_t s;
    if (dims == 0) {
        return 0;
    }
    bytes = LQ__DENSE_FIXED + 4 * (size_t)g->slice_count + 2 * dims;
    for (s = 0; s < g->slice_count && g->stream == LQ_K; s++) {
        bytes += (size_t)g->slice_dims[s] * (g->slice_dims[s] + 1);
    }
    return bytes + lq_profile_save_bound(lq_geometry_rows(g)) + dims * (dims * 17 + 8) / 8 + 1;
}

/* Places everything in mem; NULL mem: only counts. */
LQ__STATIC size_t lq__klt_place(lq__klt_work *w, const lq_klt *klt, void *mem)
{
    const lq_geometry *g = &klt->geometry;
    size_t n = lq_geometry_dims(g);
    size_t slices = 0;
    size_t largest = 0;
    size_t bytes[14];
    size_t offset[14];
    size_t at = mem ? (0 - (size_t)(uintptr_t)mem) & 63 : 64;
    uint8_t *m = (uint8_t *)mem;
    uint32_t s;
    size_t i;
    for (s = 0; s < g->slice_count; s++) {
        size_t d = g->slice_dims[s];
        slices += g->stream == LQ_K ? d * d : 0;
        largest = LQ__MAX(largest, d);
    }
    bytes[0] = n * n * 8;
    bytes[1] = n * n * 8;
    bytes[2] = n * 8;
    bytes[3] = n * 8;
    bytes[4] = n * 8;
    bytes[5] = n * 8;
    bytes[6] = slices * 8;
    bytes[7] = slices * 8;
    bytes[8] = largest * largest * 16;
    bytes[9] = lq__eigen_workspace_bytes(n);
    bytes[10] = (size_t)g->slice_count * 4;
    bytes[11] = lq_geometry_rows(g) * 4;
    bytes[12] = n * 4;
    bytes[13] = n * 8;
    for (i = 0; i < 14; i++) {
        offset[i] = at;
        at += lq__align64(bytes[i]);
    }
    if (m) {
        w->matrix = (double *)(void *)(m + offset[0]);
        w->judge = (double *)(void *)(m + offset[1]);
        w->mean = (double *)(void *)(m + offset[2]);
        w->value = (double *)(void *)(m + offset[3]);
        w->variance = (double *)(void *)(m + offset[4]);
        w->row = (double *)(void *)(m + offset[5]);
        w->whiten = (double *)(void *)(m + offset[6]);
        w->unwhiten = (double *)(void *)(m + offset[7]);
        w->square = (double *)(void *)(m + offset[8]);
        w->eigen = m + offset[9];
        w->exponent = (int32_t *)(void *)(m + offset[10]);
        w->rows = (int16_t *)(void *)(m + offset[11]);
        w->zigzag = (uint32_t *)(void *)(m + offset[12]);
        w->diagonal = (double *)(void *)(m + offset[13]);
    }
    return at;
}

LQ_API size_t lq_klt_profile_workspace_bytes(const lq_klt *klt)
{
    lq__klt_work w;
    return klt && lq_geometry_dims(&klt->geometry) ? lq__klt_place(&w, klt, NULL) : 0;
}

LQ_API int lq_klt_profile(const lq_klt *klt, uint8_t *dst, size_t dst_bytes, size_t *written,
                          const lq_klt_desc *desc, lq_klt_report *report, void *workspace,
                          size_t workspace_bytes)
{
    lq__klt_work w;
    double count;
    size_t i;
    int status;
    if (!written) {
        return LQ_E_ARG;
    }
    *written = 0;
    if (!klt || !dst || !desc || !workspace || klt->tokens < 64 || !(desc->beta <= 1) ||
        !(desc->tolerance >= 0) || !(desc->tolerance <= 1) || desc->absolute < 0 ||
        desc->absolute > 1 || desc->own < 0 || desc->own > 1 ||
        (desc->step != 0 && !lq__step_valid(desc->step))) {
        return LQ_E_ARG;
    }
    if (dst_bytes < lq_klt_profile_bound(klt) ||
        workspace_bytes < lq_klt_profile_workspace_bytes(klt)) {
        return LQ_E_SPACE;
    }
    memset(&w, 0, sizeof w);
    (void)lq__klt_place(&w, klt, workspace);
    w.klt = klt;
    w.dims = lq_geometry_dims(&klt->geometry);
    w.pad = lq__klt_pad(w.dims);
    w.step = desc->step > 0 ? (double)desc->step : 0.1;
    w.beta = desc->beta < 0 ? 0 : desc->beta > 0 ? (double)desc->beta : 0.5;
    w.tolerance = desc->tolerance > 0 ? (double)desc->tolerance : 0.02;
    w.absolute = desc->absolute;
    w.own = desc->own;
    count = (double)(klt->tokens + klt->held_out);
    for (i = 0; i < w.dims; i++) {
        double sum = (double)klt->sum[0][i] + (double)klt->sum[1][i];
        w.mean[i] = (double)klt->center[i] + sum / count;
    }
    memset(w.exponent, 0, (size_t)klt->geometry.slice_count * 4);
    status = lq__klt_metrics(&w);
    w.report.logit_weight = (float)(w.logit / ((double)klt->geometry.slice_count * (double)w.dims));
    if (!status) {
        status = lq__klt_choose(&w);
    }
    if (status) {
        return status;
    }
    lq__klt_sort(&w);
    lq__klt_rows(&w);
    status = lq__klt_write(&w, dst, written);
    if (!status && report) {
        *report = w.report;
    }
    return status;
}

/* ================================================================================================
   >>page   the page codec: front, quantizer, coder into bytes and back

   A page is a body and a four-byte trailer (>>manual), so that bodies start where pages start.
   ============================================================================================== */
#define LQ__TRAILER 4u
#define LQ__IN_FLIGHT 8u

/* Decoding data of one coefficient. */
typedef struct lq__row_data {
    int32_t mean;      /* q12 */
    int32_t dead_zone; /* q12 */
    int32_t shift[4];  /* q12: how far inside |k| = 1, 2, 3, more the centroid lies */
    int32_t wiener;    /* q15, for lattices */
} lq__row_data;

struct lq_codec {
    lq_codec_desc desc; /* resolved: no defaults left */
    size_t dims;
    size_t lead;        /* gain rows */
    size_t matrix_rows; /* of the coder: gains, coefficients and cosets */
    size_t alive;       /* coefficients up to the last that is not dead */
    int means;          /* some coefficient has one */
    lq__row_data *rows; /* (dims) */
    int32_t *gain_mean; /* (lead) */
    uint8_t *classes;   /* (lead + dims) */
    lq_rans_plan plan;
};

/* Defaults, and what contradicts. Returns the number of rows, 0 if not valid. */
LQ__STATIC size_t lq__codec_resolve(lq_codec_desc *d)
{
    size_t rows;
    size_t dims;
    d->page = d->page ? d->page : LQ_PAGE_CODED;
    if (d->geometry.basis == 0) {
        d->geometry.basis = d->profile ? d->profile->basis : (uint32_t)LQ_BASIS_IDENTITY;
    }
    if (d->geometry.basis == LQ_BASIS_DENSE && !d->geometry.dense && d->profile) {
        d->geometry.dense = d->profile->dense;
    }
    rows = lq_geometry_rows(&d->geometry);
    dims = lq_geometry_dims(&d->geometry);
    if (rows == 0 || d->profile_index > 255) {
        return 0;
    }
    if (d->page == LQ_PAGE_RAW) {
        d->type = d->type ? d->type : LQ_F16;
        return lq_type_bytes(d->type) && !d->quantizer && !d->bits ? rows : 0;
    }
    d->quantizer = d->quantizer ? d->quantizer : LQ_Z;
    if (d->type || !lq__step_valid(d->step) || !d->profile) {
        return 0;
    }
    if (d->page == LQ_PAGE_FIXED) {
        d->bits = d->bits ? d->bits : 4;
        return lq_fixed_bytes(dims, d->quantizer, d->bits) && !d->geometry.dense ? rows : 0;
    }
    return d->page == LQ_PAGE_CODED && d->tables && !d->bits && lq_lattice_dims(d->quantizer) ? rows
                                                                                              : 0;
}

LQ_API size_t lq_codec_bytes(const lq_codec_desc *desc)
{
    lq_codec_desc d;
    size_t rows;
    if (!desc) {
        return 0;
    }
    d = *desc;
    rows = lq__codec_resolve(&d);
    return rows ? 64 + lq__align64(sizeof(lq_codec)) + lq__align64(rows * sizeof(lq__row_data)) +
                      lq__align64(rows * 4) + lq__align64(rows) + lq_rans_plan_bytes(rows)
                : 0;
}

/* Coefficients of a dense basis below this class, 0.21 steps, are dead: one in a million would
   leave the dead zone, and the matrix need not be read for them. */
#define LQ__CLASS_LIVE 15

/* Class of a standard deviation (16 log2 units) for a step (q16 log2): 0 is dead. */
LQ__STATIC uint8_t lq__class_of(int32_t sigma, int32_t log_step)
{
    int32_t eighths;
    if (sigma == LQ_SIGMA_DEAD) {
        return 0;
    }
    eighths = (sigma * 4096 - log_step + 4096) >> 13; /* 8 log2(sigma / step), rounded */
    return (uint8_t)lq__clamp(eighths + LQ_CLASS_ONE, 0, LQ_CLASS_MAX);
}

/* sigma^2 / (sigma^2 + D) in q15, with D the quantizer's error in steps^2: the factor on a lattice
   point that minimises the squared error. Measured optimum at 1, 1.5 and 2 bits of E8: 0.691,
   0.844, 0.921; this gives 0.686, 0.844, 0.923. */
LQ__STATIC int32_t lq__wiener_q15(int quantizer, uint32_t class_)
{
    uint32_t moment = quantizer == LQ_D4 ? 7100u : 4698u;   /* q16: 0.10833, 0.071682 */
    int32_t octaves = 2 * (LQ_CLASS_ONE - (int32_t)class_); /* -2 log2(sigma / step) in eighths */
    int32_t whole = octaves >> 3;
    uint64_t ratio = (uint64_t)moment * lq__exp2_q30((uint32_t)(octaves & 7) << 13); /* q46 */
    ratio = whole >= 0 ? ratio << whole : whole < -40 ? 0 : ratio >> -whole;
    return (int32_t)(((uint64_t)1 << 31) / (65536 + (ratio >> 30)));
}

LQ__STATIC void lq__row_data_init(lq__row_data *row, const lq_codec_desc *d, uint32_t class_)
{
    uint32_t k;
    row->dead_zone = 0;
    row->wiener = lq__wiener_q15(d->quantizer, class_);
    for (k = 0; k < 4; k++) {
        row->shift[k] = 0;
    }
    if (d->page == LQ_PAGE_CODED && class_) {
        row->dead_zone = lq__dead_zone_q12(d->tables, class_);
        for (k = 0; k < 4; k++) {
            row->shift[k] = lq__centroid_q12(d->tables, class_, k + 1);
        }
    }
}

/* Rows of a codec whose profile fits. */
LQ__STATIC int lq__codec_rows(lq_codec *c, void *plan_mem, size_t plan_bytes)
{
    const lq_codec_desc *d = &c->desc;
    const lq_profile *p = d->profile;
    uint8_t *classes = c->classes;
    int32_t log_step = lq__log2_of_f32(d->step);
    size_t i;
    uint32_t s;
    for (s = 0; s < d->geometry.slice_count; s++) {
        if (!lq__step_valid(lq__slice_step(&d->geometry, s, d->step))) {
            return LQ_E_RANGE;
        }
    }
    for (i = 0; i < c->lead; i++) {
        classes[i] = lq__class_of(p->sigma[i], 0);
        classes[i] = LQ__MAX(classes[i], LQ_CLASS_ONE); /* a gain is never dead */
        if (p->mean[i] > LQ__GAIN_MAX || p->mean[i] < -LQ__GAIN_MAX) {
            return LQ_E_RANGE;
        }
        c->gain_mean[i] = p->mean[i];
    }
    for (i = 0; i < c->dims; i++) {
        int status =
            lq__mean_q12(&c->rows[i].mean, p->mean[c->lead + i], p->mean_exponent, d->step);
        if (status) {
            return status;
        }
        classes[c->lead + i] = lq__class_of(p->sigma[c->lead + i], log_step);
        if (d->geometry.dense && classes[c->lead + i] < LQ__CLASS_LIVE) {
            classes[c->lead + i] = 0;
        }
        lq__row_data_init(&c->rows[i], d, classes[c->lead + i]);
        c->alive = classes[c->lead + i] ? i + 1 : c->alive;
        if (d->geometry.dense && c->alive > d->geometry.dense->rank) {
            return LQ_E_FORMAT;
        }
        c->means |= c->rows[i].mean != 0;
    }
    if (d->page != LQ_PAGE_CODED) {
        return LQ_OK;
    }
    return lq_rans_plan_init(&c->plan, plan_mem, plan_bytes, classes, c->lead + c->dims, c->lead,
                             d->quantizer);
}

LQ_API int lq_codec_init(lq_codec **codec, void *mem, size_t mem_bytes, const lq_codec_desc *desc)
{
    size_t bytes = lq_codec_bytes(desc);
    lq_codec *c;
    const lq_profile *p;
    uint8_t *at;
    size_t rows;
    if (!codec || bytes == 0) {
        return LQ_E_ARG;
    }
    if (!mem || mem_bytes < bytes) {
        return LQ_E_SPACE;
    }
    at = (uint8_t *)mem + ((0 - (size_t)(uintptr_t)mem) & 63);
    c = (lq_codec *)(void *)at;
    memset(c, 0, sizeof *c);
    c->desc = *desc;
    rows = lq__codec_resolve(&c->desc);
    c->dims = lq_geometry_dims(&c->desc.geometry);
    c->lead = rows - c->dims;
    c->matrix_rows = rows;
    p = c->desc.profile;
    at += lq__align64(sizeof(lq_codec));
    c->rows = (lq__row_data *)(void *)at;
    at += lq__align64(rows * sizeof(lq__row_data));
    c->gain_mean = (int32_t *)(void *)at;
    at += lq__align64(rows * 4);
    c->classes = at;
    at += lq__align64(rows);
    if (c->desc.page != LQ_PAGE_RAW) {
        int status;
        if (!lq__profile_valid(p) || p->stream != c->desc.geometry.stream ||
            p->basis != c->desc.geometry.basis || p->dims != c->dims ||
            p->slice_count != c->desc.geometry.slice_count ||
            (c->desc.geometry.dense &&
             lq__hash_differs(p->basis_hash, c->desc.geometry.dense->hash))) {
            return LQ_E_FORMAT;
        }
        status = lq__codec_rows(c, at, lq_rans_plan_bytes(rows));
        if (status) {
            return status;
        }
        c->matrix_rows = c->desc.page == LQ_PAGE_CODED ? c->plan.rows : rows;
        LQ_ASSERT(c->matrix_rows <= rows + rows / 8); /* what lq__codec_sizes_of counts on */
    }
    *codec = c;
    return LQ_OK;
}

/* ---- sizes ---- */
LQ_API size_t lq_codec_page_bound(const lq_codec *c)
{
    const lq_codec_desc *d;
    if (!c) {
        return 0;
    }
    d = &c->desc;
    if (d->page == LQ_PAGE_RAW) {
        return LQ__TRAILER + LQ__TOKENS * c->dims * lq_type_bytes(d->type);
    }
    if (d->page == LQ_PAGE_FIXED) {
        return LQ__TRAILER +
               LQ__TOKENS * (lq_fixed_bytes(c->dims, d->quantizer, d->bits) + c->lead);
    }
    return LQ__TRAILER + lq_rans_bound(c->matrix_rows, LQ__TOKENS);
}

/* The workspace: int32 or float rows, gains, then the coder's matrices of the pages in flight. */
typedef struct lq__workspace {
    int32_t *rows;   /* (dims, 64) */
    float *floats;   /* (dims, 64): aliases rows' memory only through memcpy */
    int16_t *pairs;  /* (dims + 1, 64): where the floats will be, read before they are written */
    int16_t *gains;  /* (lead, 64) */
    int16_t *values; /* (in flight, matrix_rows, 64) */
    uint8_t *coder;
    size_t coder_bytes;
} lq__workspace;

LQ_API size_t lq_codec_workspace_bytes(const lq_codec *c)
{
    size_t bytes;
    if (!c) {
        return 0;
    }
    bytes = 64 + lq__align64(LQ__TOKENS * (c->dims * 8 + c->lead * 2));
    if (c->desc.page == LQ_PAGE_CODED) {
        bytes += LQ__IN_FLIGHT * c->matrix_rows * LQ__TOKENS * 2 +
                 lq_rans_workspace_bytes(c->matrix_rows, LQ__IN_FLIGHT);
    }
    return bytes;
}

LQ__STATIC lq__workspace lq__workspace_place(const lq_codec *c, void *workspace)
{
    lq__workspace w;
    uint8_t *at = (uint8_t *)workspace + ((0 - (size_t)(uintptr_t)workspace) & 63);
    w.rows = (int32_t *)(void *)at;
    w.floats = (float *)(void *)(at + LQ__TOKENS * c->dims * 4);
    w.pairs = (int16_t *)(void *)w.floats;
    w.gains = (int16_t *)(void *)(at + LQ__TOKENS * c->dims * 8);
    at += lq__align64(LQ__TOKENS * (c->dims * 8 + c->lead * 2));
    w.values = (int16_t *)(void *)at;
    at += LQ__IN_FLIGHT * c->matrix_rows * LQ__TOKENS * 2;
    w.coder = at;
    w.coder_bytes =
        c->desc.page == LQ_PAGE_CODED ? lq_rans_workspace_bytes(c->matrix_rows, LQ__IN_FLIGHT) : 0;
    return w;
}

/* ---- the trailer ---- */
LQ__STATIC void lq__trailer_store(uint8_t *p, const lq_codec_desc *d, size_t tokens)
{
    p[0] = (uint8_t)d->page; /* layout 0: interchange order */
    p[1] = (uint8_t)(d->page == LQ_PAGE_RAW ? d->type : d->quantizer | d->bits << 4);
    p[2] = (uint8_t)tokens;
    p[3] = (uint8_t)d->profile_index;
}

LQ_API int lq_page_inspect(lq_page_info *info, const uint8_t *page, size_t page_bytes)
{
    lq_page_info i;
    const uint8_t *p;
    if (!info || !page) {
        return LQ_E_ARG;
    }
    if (page_bytes < LQ__TRAILER) {
        return LQ_E_DATA;
    }
    p = page + (page_bytes - LQ__TRAILER);
    i.page = p[0];
    i.quantizer = i.page == LQ_PAGE_RAW ? 0 : p[1] & 15;
    i.bits = i.page == LQ_PAGE_RAW ? 0 : p[1] >> 4;
    i.type = i.page == LQ_PAGE_RAW ? p[1] : 0;
    i.tokens = p[2];
    i.profile_index = p[3];
    if (i.page < LQ_PAGE_RAW || i.page > LQ_PAGE_CODED ||
        (i.page == LQ_PAGE_RAW ? !lq_type_bytes(i.type) : !lq_lattice_dims(i.quantizer))) {
        return LQ_E_FORMAT;
    }
    if (i.tokens == 0 || i.tokens > LQ__TOKENS) {
        return LQ_E_DATA;
    }
    *info = i;
    return LQ_OK;
}

/* Whether a page is one of this codec's with this many tokens. */
LQ__STATIC int lq__trailer_check(const lq_codec *c, const uint8_t *page, size_t page_bytes,
                                 size_t tokens)
{
    uint8_t want[LQ__TRAILER];
    size_t i;
    if (!page || page_bytes < LQ__TRAILER) {
        return LQ_E_DATA;
    }
    lq__trailer_store(want, &c->desc, tokens);
    for (i = 0; i < LQ__TRAILER; i++) {
        if (page[page_bytes - LQ__TRAILER + i] != want[i]) {
            return i == 2 ? LQ_E_DATA : LQ_E_FORMAT;
        }
    }
    return LQ_OK;
}

/* ---- encoding ---- */
LQ__STATIC size_t lq__raw_encode(const lq_codec *c, uint8_t *dst, const lq_vectors *src,
                                 size_t first, size_t tokens)
{
    const lq_geometry *g = &c->desc.geometry;
    size_t element = lq_type_bytes(src->type);
    uint8_t *at = dst;
    size_t t;
    size_t d;
    uint32_t s;
    for (t = first; t < first + tokens; t++) {
        for (s = 0; s < g->slice_count; s++) {
            size_t dims = g->slice_dims[s];
            size_t stride = src->token_stride ? src->token_stride : dims;
            const uint8_t *p = (const uint8_t *)src->slices[s] + t * stride * element;
            for (d = 0; d < dims; d++) {
                uint32_t u = lq__element_bits(p, d, src->type);
                if (c->desc.type == LQ_F32) {
                    lq__store32(at, u);
                } else if (c->desc.type == src->type) { /* every bit, of NaNs too */
                    uint16_t h;
                    memcpy(&h, p + 2 * d, 2);
                    lq__store16(at, h);
                } else {
                    lq__store16(at,
                                c->desc.type == LQ_F16 ? lq__f16_of_bits(u) : lq__bf16_of_bits(u));
                }
                at += lq_type_bytes(c->desc.type);
            }
        }
    }
    return (size_t)(at - dst);
}

/* Codes token by token, then the gains, a signed byte each (quarter octaves). */
LQ__STATIC void lq__fixed_page_encode(const lq_codec *c, uint8_t *dst, const lq__workspace *w,
                                      size_t tokens)
{
    const lq_codec_desc *d = &c->desc;
    size_t token_bytes = lq_fixed_bytes(c->dims, d->quantizer, d->bits);
    uint8_t *gains = dst + tokens * token_bytes;
    int32_t y[64];
    size_t t;
    size_t i;
    size_t j;
    for (t = 0; t < tokens; t++) {
        for (i = 0; i < c->dims; i += 64) {
            size_t n = LQ__MIN(c->dims - i, 64);
            for (j = 0; j < n; j++) {
                y[j] = w->rows[(i + j) * LQ__TOKENS + t] - c->rows[i + j].mean;
            }
            lq__fixed_pack(dst + t * token_bytes + i / 8 * (size_t)d->bits, y, n, d->quantizer,
                           d->bits);
        }
        for (i = 0; i < c->lead; i++) {
            *gains++ = (uint8_t)w->gains[i * LQ__TOKENS + t];
        }
    }
}

/* Whether coefficients i .. i + n are a lattice block: whole, and none of them dead (as >>rans has
   it). The coset row of a block of 8 is in the matrix all the same. */
LQ__INLINE int lq__lattice_at(const lq_codec *c, size_t i, size_t n)
{
    return n > 1 && n == lq_lattice_dims(c->desc.quantizer) &&
           lq__block_is_lattice(c->classes + c->lead + i, n);
}

/* Coefficients (q12 rows) to the coder's matrix. */
LQ__STATIC int lq__quantize_rows(const lq_codec *c, int16_t *values, const lq__workspace *w)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t block = lq_lattice_dims(c->desc.quantizer);
    int32_t most = 0;
    int32_t mean[8];
    size_t i;
    size_t j;
    for (j = 0; j < c->lead * LQ__TOKENS; j++) {
        values[j] = (int16_t)(w->gains[j] - c->gain_mean[j / LQ__TOKENS]);
    }
    values += c->lead * LQ__TOKENS;
    for (i = 0; i < c->alive; i += block) { /* what lies behind is dead and not read */
        size_t n = LQ__MIN(block, c->dims - i);
        const int32_t *y = w->rows + i * LQ__TOKENS;
        int16_t *z = values + (n == 8) * LQ__TOKENS;
        int32_t m = 0;
        for (j = 0; j < n; j++) {
            mean[j] = c->rows[i + j].mean;
        }
        if (lq__lattice_at(c, i, n)) {
            m = n == 4 ? kernels->d4_rows(z, y, mean)
                       : kernels->e8_rows(values, y, mean, c->desc.quantizer == LQ_E8_RELAXED);
        } else {
            for (j = 0; j < n; j++) {
                int32_t of_row = kernels->z_row(z + j * LQ__TOKENS, y + j * LQ__TOKENS, mean[j],
                                                c->rows[i + j].dead_zone);
                m = c->classes[c->lead + i + j] ? LQ__MAX(m, of_row) : m; /* dead: not coded */
            }
        }
        most = LQ__MAX(most, m);
        values = z + n * LQ__TOKENS;
    }
    return most > 32767 ? LQ_E_RANGE : LQ_OK;
}

/* One page's front, and its body where that needs no coder. */
LQ__STATIC int lq__page_begin(const lq_codec *c, uint8_t *dst, size_t *body, int16_t *values,
                              const lq__workspace *w, const lq_vectors *src,
                              const lq_positions *positions, size_t first, size_t tokens)
{
    const lq_codec_desc *d = &c->desc;
    int status;
    if (d->page == LQ_PAGE_RAW) {
        *body = lq__raw_encode(c, dst, src, first, tokens);
        return LQ_OK;
    }
    status = lq__front(w->rows, w->gains, w->pairs, &d->geometry, d->step, c->alive, src, first,
                       positions, tokens);
    if (status) {
        return status;
    }
    if (d->page == LQ_PAGE_FIXED) {
        *body = tokens * (lq_fixed_bytes(c->dims, d->quantizer, d->bits) + c->lead);
        lq__fixed_page_encode(c, dst, w, tokens);
        return LQ_OK;
    }
    return lq__quantize_rows(c, values, w);
}

/* Up to LQ__IN_FLIGHT pages into dst, one behind the other. */
LQ__STATIC int lq__batch_encode(const lq_codec *c, uint8_t *dst, size_t dst_bytes, size_t *used,
                                size_t *page_bytes, const lq_vectors *src,
                                const lq_positions *positions, size_t first, size_t tokens,
                                const lq__workspace *w)
{
    lq_rans_page pages[LQ__IN_FLIGHT];
    size_t bound = lq_codec_page_bound(c);
    size_t count = (tokens + LQ__TOKENS - 1) / LQ__TOKENS;
    size_t at = 0;
    size_t i;
    int coded = c->desc.page == LQ_PAGE_CODED;
    if (dst_bytes / bound < count) {
        return LQ_E_SPACE;
    }
    for (i = 0; i < count; i++) {
        size_t n = LQ__MIN(tokens - i * LQ__TOKENS, LQ__TOKENS);
        size_t body = 0;
        lq_positions from = lq__positions_from(positions, i * LQ__TOKENS);
        int status;
        pages[i].values = w->values + i * c->matrix_rows * LQ__TOKENS;
        pages[i].bytes = dst + i * bound;
        pages[i].bytes_count = bound - LQ__TRAILER;
        pages[i].tokens = (uint32_t)n;
        status = lq__page_begin(c, dst + i * bound, &body, coded ? pages[i].values : NULL, w, src,
                                &from, first + i * LQ__TOKENS, n);
        if (status) {
            return status;
        }
        pages[i].written = body;
    }
    if (coded) {
        int status =
            lq_rans_encode(c->desc.tables, &c->plan, pages, count, w->coder, w->coder_bytes);
        if (status) {
            return status;
        }
    }
    for (i = 0; i < count; i++) {
        memmove(dst + at, pages[i].bytes, pages[i].written);
        at += pages[i].written;
        lq__trailer_store(dst + at, &c->desc, pages[i].tokens);
        at += LQ__TRAILER;
        page_bytes[i] = pages[i].written + LQ__TRAILER;
    }
    *used = at;
    return LQ_OK;
}

/* Tokens src_first .. of src; positions are already theirs. All arguments have been checked. */
LQ__STATIC int lq__encode_from(const lq_codec *c, uint8_t *dst, size_t dst_bytes, size_t *written,
                               size_t *page_bytes, const lq_vectors *src, size_t src_first,
                               const lq_positions *positions, size_t tokens, void *workspace)
{
    lq__workspace w = lq__workspace_place(c, workspace);
    size_t at = 0;
    size_t first;
    for (first = 0; first < tokens; first += LQ__IN_FLIGHT * LQ__TOKENS) {
        size_t n = LQ__MIN(tokens - first, LQ__IN_FLIGHT * LQ__TOKENS);
        lq_positions from = lq__positions_from(positions, first);
        size_t used;
        int status =
            lq__batch_encode(c, dst + at, dst_bytes - at, &used, page_bytes + first / LQ__TOKENS,
                             src, &from, src_first + first, n, &w);
        if (status) {
            return status;
        }
        at += used;
        LQ_ASSERT(at <= dst_bytes);
    }
    *written = at;
    return LQ_OK;
}

LQ_API int lq_codec_encode(const lq_codec *c, uint8_t *dst, size_t dst_bytes, size_t *written,
                           size_t *page_bytes, const lq_vectors *src, const lq_positions *positions,
                           size_t tokens, void *workspace, size_t workspace_bytes)
{
    lq_positions none = {0, 0, NULL};
    if (!written) {
        return LQ_E_ARG;
    }
    *written = 0;
    if (!c || !dst || !page_bytes || !src || !src->slices || lq_type_bytes(src->type) == 0 ||
        !workspace || (c->desc.geometry.rope && c->desc.page != LQ_PAGE_RAW && !positions)) {
        return LQ_E_ARG;
    }
    if (workspace_bytes < lq_codec_workspace_bytes(c)) {
        return LQ_E_SPACE;
    }
    return lq__encode_from(c, dst, dst_bytes, written, page_bytes, src, 0,
                           positions ? positions : &none, tokens, workspace);
}

/* ---- decoding ---- */
LQ__STATIC int lq__raw_decode(const lq_codec *c, const lq_vectors_out *dst, size_t first,
                              size_t tokens, const uint8_t *p, size_t body)
{
    const lq_geometry *g = &c->desc.geometry;
    size_t element = lq_type_bytes(c->desc.type);
    size_t t;
    size_t d;
    uint32_t s;
    if (body != tokens * c->dims * element) {
        return LQ_E_DATA;
    }
    for (t = first; t < first + tokens; t++) {
        for (s = 0; s < g->slice_count; s++) {
            size_t dims = g->slice_dims[s];
            size_t stride = dst->token_stride ? dst->token_stride : dims;
            uint8_t *out = (uint8_t *)dst->slices[s] + t * stride * lq_type_bytes(dst->type);
            for (d = 0; d < dims; d++, p += element) {
                uint32_t u = element == 4              ? lq__load32(p)
                             : c->desc.type == LQ_BF16 ? (uint32_t)lq__load16(p) << 16
                                                       : lq__bits_of_f16(lq__load16(p));
                if (c->desc.type == dst->type && element == 2) {
                    uint16_t h = lq__load16(p);
                    memcpy(out + 2 * d, &h, 2);
                } else {
                    lq__element_store(out, d, dst->type, lq__f32_of_bits(u));
                }
            }
        }
    }
    return LQ_OK;
}

/* Fixed page to q12 rows and gains. */
LQ__STATIC int lq__fixed_page_decode(const lq_codec *c, const lq__workspace *w, const uint8_t *p,
                                     size_t body, size_t tokens)
{
    const lq_codec_desc *d = &c->desc;
    size_t token_bytes = lq_fixed_bytes(c->dims, d->quantizer, d->bits);
    const uint8_t *gains = p + tokens * token_bytes;
    int32_t y[64];
    size_t t;
    size_t i;
    size_t j;
    if (body != tokens * (token_bytes + c->lead)) {
        return LQ_E_DATA;
    }
    if (tokens < LQ__TOKENS) { /* the inverse basis runs on all columns */
        memset(w->rows, 0, LQ__TOKENS * c->dims * 4);
    }
    for (t = 0; t < tokens; t++) {
        for (i = 0; i < c->dims; i += 64) {
            size_t n = LQ__MIN(c->dims - i, 64);
            lq__fixed_unpack(y, p + t * token_bytes + i / 8 * (size_t)d->bits, n, d->quantizer,
                             d->bits);
            for (j = 0; j < n; j++) {
                w->rows[(i + j) * LQ__TOKENS + t] = y[j] * (LQ__ONE / 2) + c->rows[i + j].mean;
            }
        }
        for (i = 0; i < c->lead; i++) {
            w->gains[i * LQ__TOKENS + t] = (int16_t)((int32_t)(*gains++ ^ 0x80u) - 128);
        }
    }
    return LQ_OK;
}

/* Coefficients that a page needs for its inverse basis: in a dense basis those up to the last that
   is not zero. Rows from there on are not dequantized. */
LQ__STATIC size_t lq__rows_in_use(const lq_codec *c, const int16_t *values)
{
    size_t block = lq_lattice_dims(c->desc.quantizer);
    size_t i = c->alive;
    if (!c->desc.geometry.dense) {
        return c->dims;
    }
    while (i > 0 && !c->means) {
        size_t first = (i - 1) / block * block; /* of the last block; E8's has a coset row more */
        const int16_t *z = values + (first + (block == 8 ? first / 8 : 0)) * LQ__TOKENS;
        size_t n = (LQ__MIN(block, c->dims - first) + (block == 8)) * LQ__TOKENS;
        int any = 0;
        size_t t;
        for (t = 0; t < n; t++) {
            any |= z[t];
        }
        if (any) {
            break;
        }
        i = first;
    }
    return i;
}

/* The coder's matrix to q12 rows and gains; tells how many rows the inverse basis needs. */
LQ__STATIC int lq__dequantize_rows(const lq_codec *c, const int16_t *values, const lq__workspace *w,
                                   size_t *in_use)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    size_t block = lq_lattice_dims(c->desc.quantizer);
    size_t i;
    size_t j;
    size_t t;
    for (j = 0; j < c->lead * LQ__TOKENS; j++) {
        int32_t gain = values[j] + c->gain_mean[j / LQ__TOKENS];
        if (gain > LQ__GAIN_MAX || gain < -LQ__GAIN_MAX) {
            return LQ_E_DATA;
        }
        w->gains[j] = (int16_t)gain;
    }
    values += c->lead * LQ__TOKENS;
    *in_use = lq__rows_in_use(c, values);
    for (i = 0; i < *in_use; i += block) {
        size_t n = LQ__MIN(block, c->dims - i);
        const int16_t *coset = values;
        int lattice = lq__lattice_at(c, i, n);
        values += (n == 8) * LQ__TOKENS;
        for (j = 0; j < n; j++, values += LQ__TOKENS) {
            const lq__row_data *row = &c->rows[i + j];
            int32_t *y = w->rows + (i + j) * LQ__TOKENS;
            if (!lattice) {
                kernels->centroid_row(y, values, row->shift, row->mean);
                continue;
            }
            for (t = 0; t < LQ__TOKENS; t++) {
                int32_t p = 2 * values[t] + (n == 8 ? coset[t] : 0);
                y[t] = (int32_t)(((int64_t)p * row->wiener) >> 4) + row->mean;
            }
        }
    }
    return LQ_OK;
}

/* Dense basis: the first in_use q12 rows of coefficients to floats (dims, 64). The sums are units
   of step * 2^(shift + exponent - 27); the centre joins them before the gain. */
LQ__STATIC void lq__dense_floats(const lq_codec *c, const lq__workspace *w, size_t in_use,
                                 size_t tokens)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    const lq_geometry *g = &c->desc.geometry;
    const lq_basis *b = g->dense;
    float center_unit = lq__f32_of_bits((uint32_t)(b->center_exponent + 127) << 23);
    uint8_t shift[LQ__TOKENS];
    float unit[LQ__TOKENS];
    float gain[LQ__TOKENS];
    size_t row = 0;
    size_t d;
    size_t t;
    uint32_t s;
    lq__dense_pairs(w->pairs, shift, w->rows, in_use);
    kernels->product(w->rows, b->inverse, b->inverse_stride, c->dims, w->pairs, in_use);
    for (s = 0; s < g->slice_count; s++) {
        float slice = lq__slice_step(g, s, 1.0f);
        for (t = 0; t < LQ__TOKENS; t++) {
            gain[t] = c->lead && t < tokens ? lq__gain_f32(w->gains[s * LQ__TOKENS + t]) : slice;
            unit[t] = c->desc.step * lq__f32_of_bits((uint32_t)(127 - 27 + shift[t]) << 23);
            unit[t] *= gain[t];
        }
        for (d = 0; d < g->slice_dims[s]; d++, row++) {
            float scale = lq__f32_of_bits((uint32_t)(b->inverse_exponent[row] + 127) << 23);
            kernels->center_floats(w->floats + row * LQ__TOKENS, w->rows + row * LQ__TOKENS, unit,
                                   gain, scale, (float)b->center[row] * center_unit);
        }
    }
}

/* Identity and Hadamard: q12 rows to floats (dims, 64). */
LQ__STATIC void lq__slice_floats(const lq_codec *c, const lq__workspace *w, size_t tokens)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    const lq_geometry *g = &c->desc.geometry;
    int32_t *rows = w->rows;
    float *floats = w->floats;
    float unit[LQ__TOKENS];
    size_t d;
    size_t t;
    uint32_t s;
    for (s = 0; s < g->slice_count; s++) {
        size_t dims = g->slice_dims[s];
        int rotated = g->basis == LQ_BASIS_HADAMARD;
        for (t = 0; t < LQ__TOKENS; t++) {
            unit[t] = c->desc.step * (rotated ? 1.0f / 64 : 1.0f / 4096);
            unit[t] *= c->lead && t < tokens ? lq__gain_f32(w->gains[s * LQ__TOKENS + t]) : 1.0f;
        }
        if (rotated) { /* q6: the sums of a block stay inside 32 bits whatever the page says */
            for (d = 0; d < dims * LQ__TOKENS; d++) {
                rows[d] = (rows[d] + 32) >> 6;
            }
            lq__rotate_rows(rows, dims, 1);
        }
        for (d = 0; d < dims; d++) {
            kernels->float_row(floats + d * LQ__TOKENS, rows + d * LQ__TOKENS, unit);
        }
        rows += dims * LQ__TOKENS;
        floats += dims * LQ__TOKENS;
    }
}

/* q12 rows to vectors: inverse basis in integers, then the floats: step, gain, RoPE. */
LQ__STATIC void lq__back(const lq_codec *c, const lq__workspace *w, size_t in_use,
                         const lq_vectors_out *dst, size_t first, const lq_positions *positions,
                         size_t tokens)
{
    const lq__row_kernels *kernels = lq__rows_of_level();
    const lq_geometry *g = &c->desc.geometry;
    size_t element = lq_type_bytes(dst->type);
    const float *floats = w->floats;
    float vector[8][32];
    size_t d;
    size_t k;
    size_t t;
    uint32_t s;
    if (g->dense) {
        lq__dense_floats(c, w, in_use, tokens);
    } else {
        lq__slice_floats(c, w, tokens);
    }
    if (g->rope) {
        lq__apply_rope(w->floats, g, positions, tokens);
    }
    for (s = 0; s < g->slice_count; s++) {
        size_t dims = g->slice_dims[s];
        size_t stride = (dst->token_stride ? dst->token_stride : dims) * element;
        uint8_t *out = (uint8_t *)dst->slices[s] + first * stride;
        for (t = 0; t < tokens; t += 8) {
            size_t columns = LQ__MIN(tokens - t, 8);
            for (d = 0; d < dims; d += 32) {
                size_t n = LQ__MIN(dims - d, 32);
                kernels->turn_rows(vector[0], floats + d * LQ__TOKENS + t, n);
                for (k = 0; k < columns; k++) {
                    kernels->store_row(out + (t + k) * stride + d * element, vector[k], n,
                                       dst->type);
                }
            }
        }
        floats += dims * LQ__TOKENS;
    }
}

LQ__STATIC int lq__batch_decode(const lq_codec *c, const lq_vectors_out *dst,
                                const lq_positions *positions, size_t first, size_t tokens,
                                const uint8_t *const *sources, const size_t *page_bytes,
                                const lq__workspace *w)
{
    lq_rans_page pages[LQ__IN_FLIGHT];
    size_t count = (tokens + LQ__TOKENS - 1) / LQ__TOKENS;
    int coded = c->desc.page == LQ_PAGE_CODED;
    int status;
    size_t i;
    for (i = 0; i < count; i++) {
        size_t n = LQ__MIN(tokens - i * LQ__TOKENS, LQ__TOKENS);
        status = lq__trailer_check(c, sources[i], page_bytes[i], n);
        if (status) {
            return status;
        }
        pages[i].values = w->values + i * c->matrix_rows * LQ__TOKENS;
        pages[i].bytes = (uint8_t *)(uintptr_t)sources[i];
        pages[i].bytes_count = page_bytes[i] - LQ__TRAILER;
        pages[i].tokens = (uint32_t)n;
    }
    if (coded) {
        status = lq_rans_decode(c->desc.tables, &c->plan, pages, count, w->coder, w->coder_bytes);
        if (status) {
            return status;
        }
    }
    for (i = 0; i < count; i++) {
        size_t at = first + i * LQ__TOKENS;
        size_t body = page_bytes[i] - LQ__TRAILER;
        lq_positions from = lq__positions_from(positions, i * LQ__TOKENS);
        size_t in_use = c->dims;
        if (c->desc.page == LQ_PAGE_RAW) {
            status = lq__raw_decode(c, dst, at, pages[i].tokens, sources[i], body);
        } else {
            status = coded ? lq__dequantize_rows(c, pages[i].values, w, &in_use)
                           : lq__fixed_page_decode(c, w, sources[i], body, pages[i].tokens);
        }
        if (status) {
            return status;
        }
        if (c->desc.page != LQ_PAGE_RAW) {
            lq__back(c, w, in_use, dst, at, &from, pages[i].tokens);
        }
    }
    return LQ_OK;
}

/* Pages to tokens dst_first .. of dst; positions are already theirs. */
LQ__STATIC int lq__decode_at(const lq_codec *c, const lq_vectors_out *dst, size_t dst_first,
                             const lq_positions *positions, size_t tokens,
                             const uint8_t *const *pages, const size_t *page_bytes, void *workspace)
{
    lq__workspace w = lq__workspace_place(c, workspace);
    size_t first;
    for (first = 0; first < tokens; first += LQ__IN_FLIGHT * LQ__TOKENS) {
        size_t n = LQ__MIN(tokens - first, LQ__IN_FLIGHT * LQ__TOKENS);
        size_t page = first / LQ__TOKENS;
        lq_positions from = lq__positions_from(positions, first);
        int status = lq__batch_decode(c, dst, &from, dst_first + first, n, pages + page,
                                      page_bytes + page, &w);
        if (status) {
            return status;
        }
    }
    return LQ_OK;
}

LQ_API int lq_codec_decode(const lq_codec *c, const lq_vectors_out *dst,
                           const lq_positions *positions, size_t tokens,
                           const uint8_t *const *pages, const size_t *page_bytes, void *workspace,
                           size_t workspace_bytes)
{
    lq_positions none = {0, 0, NULL};
    if (!c || !dst || !dst->slices || lq_type_bytes(dst->type) == 0 || !workspace ||
        (tokens && (!pages || !page_bytes)) ||
        (c->desc.geometry.rope && c->desc.page != LQ_PAGE_RAW && !positions)) {
        return LQ_E_ARG;
    }
    if (workspace_bytes < lq_codec_workspace_bytes(c)) {
        return LQ_E_SPACE;
    }
    return lq__decode_at(c, dst, 0, positions ? positions : &none, tokens, pages, page_bytes,
                         workspace);
}
/* ================================================================================================
   >>bits   rate control: what a step costs and loses, and how groups share bits

   Coefficients are Gaussian given their class, and a class has one table: so the rate is the code
   length under that table, and with centroids c_k for reconstruction the error is
   sigma^2 - sum p_k c_k^2. The dead zone of a class is the one that is best at a slope of error
   against bits proportional to step^2, the same for all classes; so groups that share one step have
   one slope, and weights w move a group's step by 1 / sqrt(w).
   ============================================================================================== */
/* Bits and error (in steps^2) of one coefficient of a class. */
LQ__STATIC lq_rate lq__rate_of_class(const lq_tables *tables, uint32_t class_)
{
    double variance = lq__exp2_f64(((int32_t)class_ - LQ_CLASS_ONE) / 4.0);
    const lq__rans_table *t;
    double rest = 1;
    lq_rate rate;
    int k;
    rate.bits = 0;
    rate.error = variance;
    if (class_ == 0) {
        return rate;
    }
    if (class_ >= 45) { /* sigma 2.8 steps: the values have tails outside of the table */
        rate.bits = 2.0471 + 0.5 * lq__log2_f64(variance);
        rate.error = 1.0 / 12;
        return rate;
    }
    t = &tables->table[lq__table_of((int)class_, LQ__AT_0)];
    for (k = -15; k <= 15; k++) {
        uint32_t freq = k < t->low || k > t->high ? 0 : t->code_freq[k + 16];
        double p = freq / 65536.0;
        double c = 0;
        if (k) {
            uint32_t size = (uint32_t)(k < 0 ? -k : k);
            c = size - lq__centroid_q12(tables, class_, size) / 4096.0;
        }
        rate.bits += freq ? p * (16 - lq__log2_f64(freq)) : 0;
        rate.error -= p * c * c;
        rest -= p;
    }
    rate.error -= rest * (t->high + 1) * (t->high + 1); /* escapes are coded too */
    rate.error = LQ__MAX(rate.error, 0.0);
    return rate;
}

/* Bits of a gain: a plain table of its class. */
LQ__STATIC double lq__rate_of_gain(int32_t sigma)
{
    double octaves = LQ__MAX(sigma, 0) / 16.0;
    return 2.0471 + octaves;
}

LQ_API int lq_rate_of(lq_rate *rate, const lq_tables *tables, const lq_profile *p, float step)
{
    lq_rate of_class[LQ_CLASS_MAX + 1];
    size_t lead;
    size_t i;
    int32_t log_step;
    if (!rate || !tables || !p || !lq__step_valid(step) || !lq__profile_valid(p)) {
        return LQ_E_ARG;
    }
    for (i = 0; i <= LQ_CLASS_MAX; i++) {
        of_class[i] = lq__rate_of_class(tables, (uint32_t)i);
    }
    lead = lq__profile_rows(p) - p->dims;
    log_step = lq__log2_of_f32(step);
    rate->bits = 0;
    rate->error = 0;
    for (i = 0; i < lead; i++) {
        rate->bits += lq__rate_of_gain(p->sigma[i]);
    }
    for (i = lead; i < lq__profile_rows(p); i++) { /* between the classes on both sides */
        double at = LQ_CLASS_ONE + (p->sigma[i] - log_step / 4096.0) / 2;
        uint32_t class_ = lq__class_of(p->sigma[i], log_step);
        if (class_ == 0 || (p->basis == LQ_BASIS_DENSE && class_ < LQ__CLASS_LIVE)) {
            rate->error += lq__variance_in_steps(p->sigma[i], log_step);
            continue;
        }
        at = LQ__MAX(1.0, LQ__MIN(at, LQ_CLASS_MAX - 1.0));
        class_ = (uint32_t)at;
        at -= class_;
        rate->bits += (1 - at) * of_class[class_].bits + at * of_class[class_ + 1].bits;
        rate->error += (1 - at) * of_class[class_].error + at * of_class[class_ + 1].error;
    }
    rate->error *= (double)step * (double)step;
    return LQ_OK;
}

/* All groups at base / sqrt(weight); the sum of what is asked for. */
LQ__STATIC int lq__rate_sum(lq_rate_group *groups, size_t count, const lq_tables *tables, int kind,
                            double base, double *sum)
{
    size_t i;
    *sum = 0;
    for (i = 0; i < count; i++) {
        int status;
        groups[i].step = (float)(base / lq__sqrt_f64(groups[i].weight));
        status = lq_rate_of(&groups[i].rate, tables, groups[i].profile, groups[i].step);
        if (status) {
            return status;
        }
        *sum +=
            kind == LQ_RATE_BITS ? groups[i].rate.bits : groups[i].rate.error * groups[i].weight;
    }
    return LQ_OK;
}

LQ_API int lq_rate_split(lq_rate_group *groups, size_t count, const lq_tables *tables, int kind,
                         double target)
{
    int32_t low = -20 * 64; /* log2 of the base step in 1/64 octaves: a finer one than this .. */
    int32_t high = 20 * 64;
    double sum;
    size_t i;
    int status;
    if (!groups || count == 0 || !tables || (kind != LQ_RATE_BITS && kind != LQ_RATE_ERROR) ||
        !(target > 0)) {
        return LQ_E_ARG;
    }
    for (i = 0; i < count; i++) {
        if (!(groups[i].weight >= 1e-12) || !(groups[i].weight <= 1e12)) {
            return LQ_E_ARG;
        }
    }
    /* bits fall with the step and errors grow: the finest step that meets a target in bits, the
       coarsest that meets one in errors */
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        status = lq__rate_sum(groups, count, tables, kind, lq__exp2_f64(middle / 64.0), &sum);
        if (status) {
            return status;
        }
        if ((kind == LQ_RATE_BITS) == (sum <= target)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high = kind == LQ_RATE_BITS ? high : low;
    status = lq__rate_sum(groups, count, tables, kind, lq__exp2_f64(high / 64.0), &sum);
    return status ? status : sum <= target ? LQ_OK : LQ_E_RANGE;
}

/* ================================================================================================
   >>archive   many pages in one growing, randomly readable, checksummed file
   ============================================================================================== */

/* The manual tells the format. A writer collects one segment's directory in the caller's buffer; a
   reader keeps the directories as they are in the file, with an index beside them that is made of
   offsets. Everything in them is checked once, in lq_archive_open; whatever reads them afterwards
   relies on that. */

enum {
    LQ__RECORD_HEAD = 8, /* type, flags, payload bytes */
    LQ__RECORD_GROUP = 1,
    LQ__RECORD_ROPE = 2,
    LQ__RECORD_PROFILE = 3,
    LQ__RECORD_RUN = 4,
    LQ__RECORD_META = 5,
    LQ__RECORD_SKIPPABLE = 1, /* flag */
    LQ__GROUP_FIXED = 12,     /* payload bytes in front of the variable part */
    LQ__GROUP_SLICE = 8,
    LQ__ROPE_FIXED = 8,
    LQ__PROFILE_FIXED = 4,
    LQ__RUN_FIXED = 44,
    LQ__RUN_AFFINE = 12,
    LQ__META_FIXED = 4,
    LQ__PROFILE_EMBEDDED = 1,
    LQ__PROFILE_EXTERNAL = 2,
    LQ__POSITIONS_ORDINAL = 0, /* bits 1 .. 15 of a run's flags */
    LQ__POSITIONS_AFFINE = 1,
    LQ__POSITIONS_LIST = 2,
    LQ__ARCHIVE_VERSION = 1,
    LQ__ARCHIVE_XXH32 = 1,
    LQ__ARCHIVE_BLAKE2S = 1,
    LQ__ARCHIVE_ROPE_NONE = 0xffff,
    LQ__ARCHIVE_TRIES = 16, /* footers that a recovery looks behind: bounds the work */
    LQ__ARCHIVE_WINDOW = 1024
};

/* The first byte is not ASCII, the rest meets every newline conversion (after PNG's). */
static const uint8_t lq__archive_magic[8] = {0x89, 'L', 'Q', 'K', 'V', 0x0d, 0x0a, 0x1a};
static const uint8_t lq__footer_magic[4] = {'L', 'Q', 'F', 0x9a};

static const uint64_t lq__no_footer = ~(uint64_t)0;
static const uint64_t lq__token_limit = (uint64_t)1 << 63;

LQ__INLINE uint64_t lq__align_up(uint64_t x, uint64_t align) /* align a power of two */
{
    return (x + align - 1) & ~(align - 1);
}

LQ__INLINE int64_t lq__i64_of_bits(uint64_t u)
{
    int64_t i;
    memcpy(&i, &u, 8);
    return i;
}

LQ__INLINE int32_t lq__i32_of_bits(uint32_t u)
{
    int32_t i;
    memcpy(&i, &u, 4);
    return i;
}

LQ__INLINE int lq__finite_bits(uint32_t u)
{
    return (u & 0x7f800000u) != 0x7f800000u;
}

/* A fuzzer cannot guess hashes; it must get past them to reach the code behind. */
LQ__INLINE int lq__checksum_ok(uint32_t stored, const uint8_t *src, size_t count)
{
#if defined(FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
    (void)stored;
    (void)src;
    (void)count;
    return 1;
#else
    return stored == lq__xxh32(src, count, 0);
#endif
}

/* Does first + i * stride stay inside int64 for i = 0 .. last? */
LQ__STATIC int lq__affine_ok(int64_t first, int64_t stride, uint32_t last)
{
    int64_t far;
    if (last == 0) {
        return 1;
    }
    if (stride > INT64_MAX / (int64_t)last || stride < -(INT64_MAX / (int64_t)last)) {
        return 0;
    }
    far = stride * (int64_t)last;
    return far >= 0 ? first <= INT64_MAX - far : first >= INT64_MIN - far;
}

/* ---- writer ---- */

/* The status that every call starts from; poison comes first. */
LQ__STATIC int lq__writer_ready(const lq_archive_writer *writer, uint32_t in_run)
{
    if (!writer) {
        return LQ_E_ARG;
    }
    if (writer->failed) {
        return LQ_E_IO;
    }
    return writer->finished || writer->in_run != in_run ? LQ_E_ARG : LQ_OK;
}

LQ__STATIC int lq__writer_room(const lq_archive_writer *writer, uint64_t count)
{
    return writer->write_fn || count <= writer->mem_bytes - writer->written;
}

/* Needs lq__writer_room. Only a callback can fail here, and that poisons the writer. */
LQ__STATIC int lq__writer_put(lq_archive_writer *writer, const void *src, size_t count)
{
    if (count == 0) {
        return LQ_OK;
    }
    if (!writer->write_fn) {
        memcpy(writer->mem + (size_t)writer->written, src, count);
    } else if (writer->write_fn(writer->user, src, count)) {
        writer->failed = 1;
        return LQ_E_IO;
    }
    writer->offset += count;
    writer->written += count;
    return LQ_OK;
}

LQ__STATIC int lq__writer_pad(lq_archive_writer *writer, uint64_t count)
{
    static const uint8_t zeros[256] = {0};
    while (count) {
        size_t part = (size_t)LQ__MIN(count, sizeof zeros);
        int status = lq__writer_put(writer, zeros, part);
        if (status) {
            return status;
        }
        count -= part;
    }
    return LQ_OK;
}

/* Directory bytes of a record. */
LQ__INLINE uint64_t lq__record_bytes(uint64_t payload)
{
    return LQ__RECORD_HEAD + lq__align_up(payload, 4);
}

/* A new record of zeros at the end of the directory: its payload, or NULL when there is no room.
   Callers check everything first: the record counts from here on. */
LQ__STATIC uint8_t *lq__record_add(lq_archive_writer *writer, uint32_t type, uint32_t flags,
                                   uint64_t payload)
{
    uint8_t *p = writer->directory + writer->directory_used;
    if (lq__record_bytes(payload) > writer->directory_bytes - writer->directory_used) {
        return NULL;
    }
    memset(p, 0, (size_t)lq__record_bytes(payload));
    lq__store16(p, type);
    lq__store16(p + 2, flags);
    lq__store32(p + 4, (uint32_t)payload);
    writer->directory_used += (size_t)lq__record_bytes(payload);
    writer->record_count++;
    return p + LQ__RECORD_HEAD;
}

/* Hands out the next id of a kind. */
LQ__STATIC void lq__take_id(uint32_t *count, uint32_t *id)
{
    if (id) {
        *id = *count;
    }
    ++*count;
}

LQ__STATIC int lq__writer_set(lq_archive_writer *writer, const lq_archive_writer_desc *desc)
{
    size_t most = 0xfffffffcu; /* the footer holds a directory's size in 32 bits */
    if (!desc || !desc->directory || (desc->write_fn ? 1 : 0) == (desc->mem ? 1 : 0)) {
        return LQ_E_ARG;
    }
    memset(writer, 0, sizeof *writer);
    writer->write_fn = desc->write_fn;
    writer->user = desc->user;
    writer->mem = (uint8_t *)desc->mem;
    writer->mem_bytes = desc->mem_bytes;
    writer->directory = (uint8_t *)desc->directory;
    writer->directory_bytes = LQ__MIN(desc->directory_bytes, most);
    writer->footer = lq__no_footer;
    return LQ_OK;
}

LQ_API int lq_archive_writer_init(lq_archive_writer *writer, const lq_archive_writer_desc *desc)
{
    lq_archive_writer w;
    uint8_t header[LQ_ARCHIVE_HEADER_BYTES] = {0};
    int status;
    if (!writer || lq__writer_set(&w, desc)) {
        return LQ_E_ARG;
    }
    if (!lq__writer_room(&w, sizeof header)) {
        return LQ_E_SPACE;
    }
    memcpy(header, lq__archive_magic, sizeof lq__archive_magic);
    lq__store16(header + 8, LQ__ARCHIVE_VERSION);
    header[10] = LQ__ARCHIVE_XXH32;
    header[11] = LQ__ARCHIVE_BLAKE2S;
    lq__store32(header + 28, lq__xxh32(header, 28, 0));
    status = lq__writer_put(&w, header, sizeof header);
    if (status) {
        return status;
    }
    w.segment_start = w.offset;
    *writer = w;
    return LQ_OK;
}

LQ_API int lq_archive_writer_append(lq_archive_writer *writer, const lq_archive_writer_desc *desc,
                                    const lq_archive_reader *reader)
{
    lq_archive_writer w;
    if (!writer || !reader || reader->segment_count == 0 || lq__writer_set(&w, desc)) {
        return LQ_E_ARG;
    }
    w.offset = reader->end;
    w.segment_start = reader->end;
    w.footer = reader->end - LQ_ARCHIVE_FOOTER_BYTES;
    w.group_count = reader->group_count;
    w.rope_count = reader->rope_count;
    w.profile_count = reader->profile_count;
    *writer = w;
    return LQ_OK;
}

/* Needs finite floats; the sign of a zero is not kept. */
LQ__INLINE uint32_t lq__plain_zero(uint32_t u)
{
    return u == 0x80000000u ? 0 : u;
}

LQ__STATIC int lq__rope_check(const lq_rope *rope)
{
    uint32_t magnitude;
    uint32_t i;
    if (!rope || !rope->freqs || rope->layout > LQ_ROPE_ADJACENT) {
        return LQ_E_ARG;
    }
    if (rope->rotary_dims < 2 || rope->rotary_dims > LQ_ARCHIVE_MAX_DIMS || rope->rotary_dims % 2) {
        return LQ_E_RANGE;
    }
    magnitude = lq__plain_zero(lq__bits_of_f32(rope->magnitude));
    if (!lq__finite_bits(magnitude)) {
        return LQ_E_DATA;
    }
    if (magnitude >> 31) {
        return LQ_E_RANGE;
    }
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        uint32_t f = lq__plain_zero(lq__bits_of_f32(rope->freqs[i]));
        if (!lq__finite_bits(f)) {
            return LQ_E_DATA;
        }
        if (f >= 0x43800000u) { /* 256, or negative */
            return LQ_E_RANGE;
        }
    }
    return LQ_OK;
}

LQ_API int lq_archive_add_rope(lq_archive_writer *writer, const lq_rope *rope, uint32_t *id)
{
    int status = lq__writer_ready(writer, 0);
    uint32_t magnitude;
    uint32_t i;
    uint8_t *p;
    if (status) {
        return status;
    }
    status = lq__rope_check(rope);
    if (status) {
        return status;
    }
    if (writer->rope_count >= LQ__ARCHIVE_ROPE_NONE) {
        return LQ_E_RANGE;
    }
    p = lq__record_add(writer, LQ__RECORD_ROPE, 0, LQ__ROPE_FIXED + 2 * rope->rotary_dims);
    if (!p) {
        return LQ_E_SPACE;
    }
    magnitude = lq__plain_zero(lq__bits_of_f32(rope->magnitude));
    p[0] = rope->layout ? (uint8_t)rope->layout : (uint8_t)LQ_ROPE_HALF;
    lq__store16(p + 2, rope->rotary_dims);
    lq__store32(p + 4, magnitude ? magnitude : lq__bits_of_f32(1.0f));
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        uint32_t f = lq__plain_zero(lq__bits_of_f32(rope->freqs[i]));
        lq__store32(p + LQ__ROPE_FIXED + 4 * i, f);
    }
    lq__take_id(&writer->rope_count, id);
    return LQ_OK;
}

LQ__STATIC int lq__group_check(const lq_archive_writer *writer, const lq_archive_group_desc *group)
{
    uint32_t dims = 0;
    size_t i;
    if (!group || !group->slices || (group->stream != LQ_K && group->stream != LQ_V)) {
        return LQ_E_ARG;
    }
    if (group->rope != LQ_ARCHIVE_NONE && group->rope >= writer->rope_count) {
        return LQ_E_RANGE;
    }
    if (group->slice_count < 1 || group->slice_count > LQ_ARCHIVE_MAX_SLICES) {
        return LQ_E_RANGE;
    }
    for (i = 0; i < group->slice_count; i++) {
        const lq_slice *s = &group->slices[i];
        if (s->layer > 0xffff || s->head > 0xffff || s->first_dim > 0xffff || s->dims < 1 ||
            s->dims > LQ_ARCHIVE_MAX_DIMS - dims || s->dims > 0x10000 - s->first_dim) {
            return LQ_E_RANGE;
        }
        dims += s->dims;
    }
    return LQ_OK;
}

LQ_API int lq_archive_add_group(lq_archive_writer *writer, const lq_archive_group_desc *group,
                                uint32_t *id)
{
    int status = lq__writer_ready(writer, 0);
    uint8_t *p;
    size_t i;
    if (status) {
        return status;
    }
    status = lq__group_check(writer, group);
    if (status) {
        return status;
    }
    p = lq__record_add(writer, LQ__RECORD_GROUP, 0,
                       LQ__GROUP_FIXED + LQ__GROUP_SLICE * (uint64_t)group->slice_count);
    if (!p) {
        return LQ_E_SPACE;
    }
    p[0] = (uint8_t)group->stream;
    lq__store16(p + 2, group->rope); /* LQ_ARCHIVE_NONE becomes 0xffff */
    memcpy(p + 4, group->page_rule, 4);
    lq__store16(p + 8, (uint32_t)group->slice_count);
    p += LQ__GROUP_FIXED;
    for (i = 0; i < group->slice_count; i++, p += LQ__GROUP_SLICE) {
        lq__store16(p, group->slices[i].layer);
        lq__store16(p + 2, group->slices[i].head);
        lq__store16(p + 4, group->slices[i].first_dim);
        lq__store16(p + 6, group->slices[i].dims);
    }
    lq__take_id(&writer->group_count, id);
    return LQ_OK;
}

LQ_API int lq_archive_add_profile(lq_archive_writer *writer, const lq_archive_profile_desc *profile,
                                  uint32_t *id)
{
    int status = lq__writer_ready(writer, 0);
    size_t count;
    uint8_t *p;
    if (status) {
        return status;
    }
    if (!profile || (profile->bytes ? 1 : 0) == (profile->hash ? 1 : 0) ||
        (profile->bytes ? 1 : 0) != (profile->count ? 1 : 0)) {
        return LQ_E_ARG;
    }
    count = profile->bytes ? profile->count : 16;
    p = count > writer->directory_bytes /* a sum cannot overflow then */
            ? NULL
            : lq__record_add(writer, LQ__RECORD_PROFILE, 0, LQ__PROFILE_FIXED + (uint64_t)count);
    if (!p) {
        return LQ_E_SPACE;
    }
    p[0] = profile->bytes ? LQ__PROFILE_EMBEDDED : LQ__PROFILE_EXTERNAL;
    memcpy(p + LQ__PROFILE_FIXED, profile->bytes ? profile->bytes : profile->hash, count);
    lq__take_id(&writer->profile_count, id);
    return LQ_OK;
}

LQ_API int lq_archive_add_meta(lq_archive_writer *writer, uint32_t tag, const void *src,
                               size_t count)
{
    int status = lq__writer_ready(writer, 0);
    uint8_t *p;
    if (status) {
        return status;
    }
    if (!src && count) {
        return LQ_E_ARG;
    }
    p = count > writer->directory_bytes
            ? NULL
            : lq__record_add(writer, LQ__RECORD_META, LQ__RECORD_SKIPPABLE,
                             LQ__META_FIXED + (uint64_t)count);
    if (!p) {
        return LQ_E_SPACE;
    }
    lq__store32(p, tag);
    if (count) {
        memcpy(p + LQ__META_FIXED, src, count);
    }
    return LQ_OK;
}

/* ---- writer: runs ---- */

LQ__INLINE int64_t lq__stride_of(const lq_positions *positions)
{
    return positions->stride ? positions->stride : 1;
}

/* The cheapest of the three forms that holds these positions. */
LQ__STATIC uint32_t lq__positions_form(const lq_archive_run_desc *run)
{
    int64_t stride = lq__stride_of(&run->positions);
    if (run->positions.list) {
        return LQ__POSITIONS_LIST;
    }
    if (stride == 1 && run->positions.first >= 0 &&
        (uint64_t)run->positions.first == run->first_token) {
        return LQ__POSITIONS_ORDINAL;
    }
    return stride >= INT32_MIN && stride <= INT32_MAX ? LQ__POSITIONS_AFFINE : LQ__POSITIONS_LIST;
}

LQ__INLINE uint64_t lq__positions_bytes(uint32_t form, uint32_t tokens)
{
    return form == LQ__POSITIONS_ORDINAL  ? 0
           : form == LQ__POSITIONS_AFFINE ? (uint64_t)LQ__RUN_AFFINE
                                          : 8 * (uint64_t)tokens;
}

LQ__INLINE uint32_t lq__run_tokens_per_page(const lq_archive_run_desc *run)
{
    return run->tokens_per_page ? run->tokens_per_page : 64;
}

/* Pages that `tokens` fill; both above 0. */
LQ__INLINE uint32_t lq__run_pages(uint32_t tokens, uint32_t tokens_per_page)
{
    return (tokens - 1) / tokens_per_page + 1;
}

LQ__STATIC uint64_t lq__run_payload(const lq_archive_run_desc *run)
{
    uint32_t pages = lq__run_pages(run->token_count, lq__run_tokens_per_page(run));
    return LQ__RUN_FIXED + lq__positions_bytes(lq__positions_form(run), run->token_count) +
           8 * (uint64_t)pages;
}

LQ_API size_t lq_archive_run_bytes(const lq_archive_run_desc *run)
{
    uint64_t bytes;
    if (!run || run->token_count == 0) {
        return 0;
    }
    bytes = lq__record_bytes(lq__run_payload(run));
    return bytes > SIZE_MAX ? 0 : (size_t)bytes;
}

LQ__INLINE uint32_t lq__run_align(const lq_archive_run_desc *run)
{
    return run->align ? run->align : run->code == LQ_PAGE_CODED ? 1 : 64;
}

LQ__STATIC int lq__run_desc_check(const lq_archive_writer *writer, const lq_archive_run_desc *run)
{
    uint32_t align;
    uint32_t step;
    if (!run) {
        return LQ_E_ARG;
    }
    align = lq__run_align(run);
    step = lq__plain_zero(lq__bits_of_f32(run->step));
    if ((align & (align - 1)) || align > LQ_ARCHIVE_MAX_ALIGN || run->code > 0xff) {
        return LQ_E_RANGE;
    }
    if (run->group >= writer->group_count ||
        (run->profile != LQ_ARCHIVE_NONE && run->profile >= writer->profile_count)) {
        return LQ_E_RANGE;
    }
    if (run->token_count == 0 || run->tokens_per_page > 0xffff ||
        run->first_token > lq__token_limit - run->token_count) {
        return LQ_E_RANGE;
    }
    if (!lq__finite_bits(step)) {
        return LQ_E_DATA;
    }
    if (step >> 31) {
        return LQ_E_RANGE;
    }
    if (!run->positions.list && !lq__affine_ok(run->positions.first, lq__stride_of(&run->positions),
                                               run->token_count - 1)) {
        return LQ_E_RANGE;
    }
    return LQ_OK;
}

/* Returns the end of what it stored. */
LQ__STATIC uint8_t *lq__positions_store(uint8_t *p, uint32_t form, const lq_archive_run_desc *run)
{
    const lq_positions *from = &run->positions;
    int64_t stride = lq__stride_of(from);
    uint32_t i;
    if (form == LQ__POSITIONS_AFFINE) {
        lq__store64(p, (uint64_t)from->first);
        lq__store32(p + 8, (uint32_t)(int32_t)stride);
    } else if (form == LQ__POSITIONS_LIST) {
        for (i = 0; i < run->token_count; i++) {
            int64_t at = from->list ? from->list[i] : from->first + (int64_t)i * stride;
            lq__store64(p + 8 * (size_t)i, (uint64_t)at);
        }
    }
    return p + (size_t)lq__positions_bytes(form, run->token_count);
}

LQ_API int lq_archive_run_begin(lq_archive_writer *writer, const lq_archive_run_desc *run)
{
    int status = lq__writer_ready(writer, 0);
    uint32_t form;
    uint8_t *p;
    size_t start;
    if (status) {
        return status;
    }
    status = lq__run_desc_check(writer, run);
    if (status) {
        return status;
    }
    start = writer->directory_used;
    form = lq__positions_form(run);
    p = lq__record_add(writer, LQ__RECORD_RUN, form << 1, lq__run_payload(run));
    if (!p) {
        return LQ_E_SPACE;
    }
    writer->in_run = 1;
    writer->run_start = start;
    writer->run_align = lq__run_align(run);
    writer->run_base = lq__align_up(writer->offset, writer->run_align);
    writer->run_end = 0;
    writer->run_page = 0;
    writer->run_page_count = lq__run_pages(run->token_count, lq__run_tokens_per_page(run));
    lq__store32(p, run->group);
    lq__store32(p + 4, run->profile);
    lq__store64(p + 8, run->sequence);
    lq__store64(p + 16, run->first_token);
    lq__store32(p + 24, run->token_count);
    lq__store16(p + 28, lq__run_tokens_per_page(run));
    p[30] = (uint8_t)run->code;
    p[31] = (uint8_t)lq__log2_floor(writer->run_align);
    lq__store32(p + 32, lq__plain_zero(lq__bits_of_f32(run->step)));
    lq__store64(p + 36, writer->run_base);
    writer->run_pages = lq__positions_store(p + LQ__RUN_FIXED, form, run);
    return LQ_OK;
}

LQ_API int lq_archive_write_page(lq_archive_writer *writer, const void *src, size_t count)
{
    int status = lq__writer_ready(writer, 1);
    uint64_t start;
    uint64_t pad;
    uint8_t *entry;
    if (status) {
        return status;
    }
    if (!src || count == 0 || writer->run_page == writer->run_page_count) {
        return LQ_E_ARG;
    }
    start = lq__align_up(writer->run_end, writer->run_align);
    if (start > 0xffffffffu || count > 0xffffffffu - start) {
        return LQ_E_RANGE;
    }
    pad = writer->run_base + start - writer->offset;
    if (!lq__writer_room(writer, pad + count)) {
        return LQ_E_SPACE;
    }
    status = lq__writer_pad(writer, pad);
    if (status) {
        return status;
    }
    status = lq__writer_put(writer, src, count);
    if (status) {
        return status;
    }
    entry = writer->run_pages + 8 * (size_t)writer->run_page;
    writer->run_end = start + count;
    writer->run_page++;
    lq__store32(entry, (uint32_t)writer->run_end);
    lq__store32(entry + 4, lq__xxh32((const uint8_t *)src, count, 0));
    return LQ_OK;
}

LQ_API int lq_archive_run_end(lq_archive_writer *writer)
{
    int status = lq__writer_ready(writer, 1);
    if (status) {
        return status;
    }
    if (writer->run_page != writer->run_page_count) {
        return LQ_E_ARG;
    }
    writer->in_run = 0;
    writer->run_count++;
    writer->page_count += writer->run_page_count;
    return LQ_OK;
}

LQ_API int lq_archive_run_drop(lq_archive_writer *writer)
{
    int status = lq__writer_ready(writer, 1);
    if (status) {
        return status;
    }
    writer->in_run = 0;
    writer->directory_used = writer->run_start;
    writer->record_count--;
    return LQ_OK;
}

/* ---- writer: segments ---- */

LQ__STATIC void lq__footer_store(uint8_t *footer, const lq_archive_writer *writer, uint64_t offset)
{
    memcpy(footer, lq__footer_magic, 4);
    lq__store32(footer + 4, (uint32_t)writer->directory_used);
    lq__store64(footer + 8, offset);
    lq__store64(footer + 16, writer->footer);
    lq__store32(footer + 24, writer->record_count);
    lq__store32(footer + 28, writer->run_count);
    lq__store64(footer + 32, writer->page_count);
    lq__store32(footer + 40, lq__xxh32(writer->directory, writer->directory_used, 0));
    lq__store32(footer + 44, lq__xxh32(footer, 44, 0));
}

LQ_API int lq_archive_flush_segment(lq_archive_writer *writer)
{
    int status = lq__writer_ready(writer, 0);
    uint8_t footer[LQ_ARCHIVE_FOOTER_BYTES];
    uint64_t offset;
    uint64_t pad;
    if (status) {
        return status;
    }
    if (writer->record_count == 0 && writer->footer != lq__no_footer &&
        writer->offset == writer->segment_start) {
        return LQ_OK;
    }
    offset = lq__align_up(writer->offset, 4);
    pad = offset - writer->offset;
    if (!lq__writer_room(writer, pad + writer->directory_used + sizeof footer)) {
        return LQ_E_SPACE;
    }
    lq__footer_store(footer, writer, offset);
    status = lq__writer_pad(writer, pad);
    if (!status) {
        status = lq__writer_put(writer, writer->directory, writer->directory_used);
    }
    if (!status) {
        status = lq__writer_put(writer, footer, sizeof footer);
    }
    if (status) {
        return status;
    }
    writer->footer = writer->offset - sizeof footer;
    writer->segment_start = writer->offset;
    writer->directory_used = 0;
    writer->record_count = 0;
    writer->run_count = 0;
    writer->page_count = 0;
    return LQ_OK;
}

LQ_API int lq_archive_finish(lq_archive_writer *writer)
{
    int status = lq_archive_flush_segment(writer);
    if (status) {
        return status;
    }
    writer->finished = 1;
    return LQ_OK;
}

/* ---- reader: checks of records ---- */

/* A run's record, taken apart. */
typedef struct lq__run_view {
    uint32_t group;
    uint32_t profile;
    uint64_t sequence;
    uint64_t first_token;
    uint32_t token_count;
    uint32_t tokens_per_page;
    uint32_t page_count;
    uint32_t form;
    uint64_t base;
    uint64_t align;
    const uint8_t *positions;
    const uint8_t *pages;
} lq__run_view;

/* Counts of 0 in a hostile record give page_count 0, an align_log2 above 31 is cut: both are
   refused by the caller that checks. */
LQ__STATIC void lq__run_view_set(lq__run_view *v, const uint8_t *record)
{
    const uint8_t *p = record + LQ__RECORD_HEAD;
    uint64_t position_bytes;
    v->group = lq__load32(p);
    v->profile = lq__load32(p + 4);
    v->sequence = lq__load64(p + 8);
    v->first_token = lq__load64(p + 16);
    v->token_count = lq__load32(p + 24);
    v->tokens_per_page = lq__load16(p + 28);
    v->page_count = v->token_count && v->tokens_per_page
                        ? lq__run_pages(v->token_count, v->tokens_per_page)
                        : 0;
    v->form = (uint32_t)lq__load16(record + 2) >> 1;
    v->align = (uint64_t)1 << (p[31] & 31);
    v->base = lq__load64(p + 36);
    v->positions = p + LQ__RUN_FIXED;
    position_bytes = lq__positions_bytes(v->form, v->token_count);
    v->pages = position_bytes <= lq__load32(record + 4) - LQ__RUN_FIXED
                   ? v->positions + (size_t)position_bytes
                   : v->positions;
}

LQ__INLINE int64_t lq__affine_first(const lq__run_view *v)
{
    return lq__i64_of_bits(lq__load64(v->positions));
}

LQ__INLINE int64_t lq__affine_stride(const lq__run_view *v)
{
    return lq__i32_of_bits(lq__load32(v->positions + 8));
}

/* The pages must follow each other, none empty, and end before `limit`, the directory. */
LQ__STATIC int lq__run_pages_check(const lq__run_view *v, uint64_t limit)
{
    uint64_t start = 0;
    uint32_t i;
    if ((v->base & (v->align - 1)) || v->base < LQ_ARCHIVE_HEADER_BYTES || v->base > limit) {
        return LQ_E_DATA;
    }
    for (i = 0; i < v->page_count; i++) {
        uint32_t end = lq__load32(v->pages + 8 * (size_t)i);
        if (end <= start || end > limit - v->base) {
            return LQ_E_DATA;
        }
        start = lq__align_up(end, v->align);
    }
    return LQ_OK;
}

LQ__STATIC int lq__run_check(const lq_archive_reader *r, const uint8_t *record, uint64_t limit)
{
    const uint8_t *p = record + LQ__RECORD_HEAD;
    uint64_t payload = lq__load32(record + 4);
    uint32_t flags = lq__load16(record + 2);
    uint32_t step;
    lq__run_view v;
    if ((flags & 1) || flags >> 1 > LQ__POSITIONS_LIST) {
        return LQ_E_FORMAT;
    }
    if (payload < LQ__RUN_FIXED) {
        return LQ_E_DATA;
    }
    lq__run_view_set(&v, record);
    if (v.page_count == 0 || payload != LQ__RUN_FIXED + lq__positions_bytes(v.form, v.token_count) +
                                            8 * (uint64_t)v.page_count) {
        return LQ_E_DATA;
    }
    step = lq__load32(p + 32);
    if (v.group >= r->group_count ||
        (v.profile != LQ_ARCHIVE_NONE && v.profile >= r->profile_count) ||
        v.first_token > lq__token_limit - v.token_count || step >= 0x7f800000u || p[31] > 31 ||
        v.align > LQ_ARCHIVE_MAX_ALIGN) {
        return LQ_E_DATA;
    }
    if (v.form == LQ__POSITIONS_AFFINE &&
        (lq__affine_stride(&v) == 0 ||
         !lq__affine_ok(lq__affine_first(&v), lq__affine_stride(&v), v.token_count - 1))) {
        return LQ_E_DATA;
    }
    return lq__run_pages_check(&v, limit);
}

LQ__STATIC int lq__group_record_check(const lq_archive_reader *r, const uint8_t *p,
                                      uint32_t payload)
{
    uint32_t rope;
    uint32_t slices;
    uint32_t dims = 0;
    uint32_t i;
    if (payload < LQ__GROUP_FIXED) {
        return LQ_E_DATA;
    }
    rope = lq__load16(p + 2);
    slices = lq__load16(p + 8);
    if ((p[0] != LQ_K && p[0] != LQ_V) || p[1] || lq__load16(p + 10) ||
        (rope != LQ__ARCHIVE_ROPE_NONE && rope >= r->rope_count) || slices < 1 ||
        slices > LQ_ARCHIVE_MAX_SLICES || payload != LQ__GROUP_FIXED + LQ__GROUP_SLICE * slices) {
        return LQ_E_DATA;
    }
    for (i = 0, p += LQ__GROUP_FIXED; i < slices; i++, p += LQ__GROUP_SLICE) {
        uint32_t n = lq__load16(p + 6);
        if (n < 1 || n > LQ_ARCHIVE_MAX_DIMS - dims || n > 0x10000u - lq__load16(p + 4)) {
            return LQ_E_DATA;
        }
        dims += n;
    }
    return LQ_OK;
}

LQ__STATIC int lq__rope_record_check(const uint8_t *p, uint32_t payload)
{
    uint32_t dims;
    uint32_t magnitude;
    uint32_t i;
    if (payload < LQ__ROPE_FIXED) {
        return LQ_E_DATA;
    }
    dims = lq__load16(p + 2);
    magnitude = lq__load32(p + 4);
    if ((p[0] != LQ_ROPE_HALF && p[0] != LQ_ROPE_ADJACENT) || p[1] || dims < 2 || dims % 2 ||
        dims > LQ_ARCHIVE_MAX_DIMS || magnitude == 0 || magnitude >= 0x7f800000u ||
        payload != LQ__ROPE_FIXED + 2 * dims) {
        return LQ_E_DATA;
    }
    for (i = 0; i < dims / 2; i++) {
        if (lq__load32(p + LQ__ROPE_FIXED + 4 * i) >= 0x43800000u) { /* 256; negative; not finite */
            return LQ_E_DATA;
        }
    }
    return LQ_OK;
}

LQ__STATIC int lq__profile_record_check(const uint8_t *p, uint32_t payload)
{
    if (payload <= LQ__PROFILE_FIXED || p[1] || p[2] || p[3]) {
        return LQ_E_DATA;
    }
    if (p[0] == LQ__PROFILE_EMBEDDED) {
        return LQ_OK;
    }
    return p[0] == LQ__PROFILE_EXTERNAL && payload == LQ__PROFILE_FIXED + 16 ? LQ_OK : LQ_E_DATA;
}

/* Checks a record of which head and payload are in bounds, and counts it. */
LQ__STATIC int lq__record_check(lq_archive_reader *r, const uint8_t *record, uint64_t limit)
{
    const uint8_t *p = record + LQ__RECORD_HEAD;
    uint32_t type = lq__load16(record);
    uint32_t flags = lq__load16(record + 2);
    uint32_t payload = lq__load32(record + 4);
    int status = LQ_OK;
    if (type >= LQ__RECORD_GROUP && type <= LQ__RECORD_PROFILE && flags) {
        return LQ_E_FORMAT;
    }
    switch (type) {
    case LQ__RECORD_GROUP:
        status = lq__group_record_check(r, p, payload);
        r->group_count++;
        break;
    case LQ__RECORD_ROPE:
        status = lq__rope_record_check(p, payload);
        r->rope_count++;
        break;
    case LQ__RECORD_PROFILE:
        status = lq__profile_record_check(p, payload);
        r->profile_count++;
        break;
    case LQ__RECORD_RUN:
        status = lq__run_check(r, record, limit);
        r->run_count++;
        if (!status) {
            r->page_count += lq__run_pages(lq__load32(p + 24), lq__load16(p + 28));
        }
        break;
    case LQ__RECORD_META:
        if (flags != LQ__RECORD_SKIPPABLE) {
            return LQ_E_FORMAT;
        }
        status = payload < LQ__META_FIXED ? LQ_E_DATA : LQ_OK;
        r->meta_count++;
        break;
    default:
        return flags & LQ__RECORD_SKIPPABLE ? LQ_OK : LQ_E_FORMAT;
    }
    return status;
}

/* ---- reader: opening ---- */

/* What lq_archive_open sums over the footers. */
typedef struct lq__chain {
    uint64_t segments;
    uint64_t records;
    uint64_t runs;
    uint64_t directory_bytes;
} lq__chain;

LQ__STATIC int lq__reader_get(const lq_archive_reader *r, uint64_t offset, void *dst, size_t count)
{
    if (offset > r->size || count > r->size - offset) {
        return LQ_E_DATA;
    }
    if (count == 0) {
        return LQ_OK;
    }
    if (r->file) {
        memcpy(dst, r->file + (size_t)offset, count);
        return LQ_OK;
    }
    return r->read_fn(r->user, offset, dst, count) ? LQ_E_IO : LQ_OK;
}

LQ__STATIC int lq__header_check(const lq_archive_reader *r)
{
    uint8_t header[LQ_ARCHIVE_HEADER_BYTES];
    uint32_t bad = 0;
    size_t i;
    int status = lq__reader_get(r, 0, header, sizeof header);
    if (status) {
        return status;
    }
    for (i = 0; i < sizeof lq__archive_magic; i++) {
        bad |= header[i] ^ (uint32_t)lq__archive_magic[i];
    }
    if (bad || lq__load16(header + 8) != LQ__ARCHIVE_VERSION || header[10] != LQ__ARCHIVE_XXH32) {
        return LQ_E_FORMAT;
    }
    if (!lq__checksum_ok(lq__load32(header + 28), header, 28)) {
        return LQ_E_DATA;
    }
    for (i = 12; i < 28; i++) {
        bad |= header[i];
    }
    return bad || header[11] != LQ__ARCHIVE_BLAKE2S ? LQ_E_FORMAT : LQ_OK;
}

/* A footer is one only where it says it is: its directory ends at it. That the previous footer
   lies before the directory makes every walk end. */
LQ__STATIC int lq__footer_check(const uint8_t *f, uint64_t at)
{
    uint64_t bytes = lq__load32(f + 4);
    uint64_t offset = lq__load64(f + 8);
    uint64_t previous = lq__load64(f + 16);
    uint64_t records = lq__load32(f + 24);
    uint32_t bad = 0;
    size_t i;
    for (i = 0; i < 4; i++) {
        bad |= f[i] ^ (uint32_t)lq__footer_magic[i];
    }
    if (bad || !lq__checksum_ok(lq__load32(f + 44), f, 44)) {
        return LQ_E_DATA;
    }
    if (offset > at || at - offset != bytes || offset % 4 || bytes % 4 ||
        offset < LQ_ARCHIVE_HEADER_BYTES || records > bytes / LQ__RECORD_HEAD ||
        lq__load32(f + 28) > records || lq__load64(f + 32) > bytes / 8) {
        return LQ_E_DATA;
    }
    if (previous != lq__no_footer &&
        (previous < LQ_ARCHIVE_HEADER_BYTES || previous > offset ||
         offset - previous < LQ_ARCHIVE_FOOTER_BYTES || previous % 4)) {
        return LQ_E_DATA;
    }
    return LQ_OK;
}

/* Walks from the footer at `at` to the first and keeps copies, newest first, as far as mem goes:
   a file that changes meanwhile cannot disagree with its sums. */
LQ__STATIC int lq__chain_walk(const lq_archive_reader *r, uint64_t at, uint8_t *mem,
                              size_t mem_bytes, lq__chain *chain)
{
    uint8_t f[LQ_ARCHIVE_FOOTER_BYTES];
    memset(chain, 0, sizeof *chain);
    while (at != lq__no_footer) {
        int status = lq__reader_get(r, at, f, sizeof f);
        if (!status) {
            status = lq__footer_check(f, at);
        }
        if (status) {
            return status;
        }
        if (mem_bytes / sizeof f > chain->segments) {
            memcpy(mem + sizeof f * (size_t)chain->segments, f, sizeof f);
        }
        chain->segments++;
        chain->directory_bytes += lq__load32(f + 4);
        chain->records += lq__load32(f + 24);
        chain->runs += lq__load32(f + 28);
        at = lq__load64(f + 16);
    }
    return LQ_OK;
}

LQ__STATIC int lq__directory_check(lq_archive_reader *r, const uint8_t *f, const uint8_t *p)
{
    uint32_t bytes = lq__load32(f + 4);
    uint32_t records = 0;
    uint32_t runs = r->run_count;
    uint64_t pages = r->page_count;
    uint32_t at = 0;
    if (!lq__checksum_ok(lq__load32(f + 40), p, bytes)) {
        return LQ_E_DATA;
    }
    while (at < bytes) {
        uint32_t payload;
        uint32_t i;
        int status;
        if (bytes - at < LQ__RECORD_HEAD) {
            return LQ_E_DATA;
        }
        payload = lq__load32(p + at + 4);
        if (payload > bytes - at - LQ__RECORD_HEAD) { /* all are multiples of 4: padding fits too */
            return LQ_E_DATA;
        }
        for (i = payload; i % 4; i++) {
            if (p[at + LQ__RECORD_HEAD + i]) {
                return LQ_E_DATA;
            }
        }
        status = lq__record_check(r, p + at, lq__load64(f + 8));
        if (status) {
            return status;
        }
        at += (uint32_t)lq__record_bytes(payload);
        records++;
    }
    return records == lq__load32(f + 24) && r->run_count - runs == lq__load32(f + 28) &&
                   r->page_count - pages == lq__load64(f + 32)
               ? LQ_OK
               : LQ_E_DATA;
}

/* The runs of one group and sequence hang in one chain, newest first. */
LQ__INLINE uint32_t lq__run_hash(uint32_t group, uint64_t sequence)
{
    uint64_t h = (sequence + group * 0xc2b2ae3d27d4eb4fu) * 0x9e3779b185ebca87u;
    return (uint32_t)(h >> 32 ^ h >> 15);
}

LQ__STATIC uint64_t lq__run_heads(uint64_t runs)
{
    return runs ? (uint64_t)1 << lq__log2_floor(2 * runs - 1) : 1;
}

/* Number of the first record of a kind in the index. */
LQ__STATIC uint32_t lq__index_first(const lq_archive_reader *r, uint32_t type)
{
    return (type > LQ__RECORD_GROUP ? r->group_count : 0) +
           (type > LQ__RECORD_ROPE ? r->rope_count : 0) +
           (type > LQ__RECORD_PROFILE ? r->profile_count : 0) +
           (type > LQ__RECORD_RUN ? r->run_count : 0);
}

/* Notes where each record of a checked directory lies; first[type] is the next entry of a kind. */
LQ__STATIC void lq__index_fill(const lq_archive_reader *r, uint8_t *index, uint8_t *next,
                               uint8_t *heads, uint32_t *first, size_t start, size_t bytes)
{
    size_t at = start;
    while (at < start + bytes) {
        const uint8_t *record = r->directories + at;
        const uint8_t *p = record + LQ__RECORD_HEAD;
        uint32_t type = lq__load16(record);
        if (type == LQ__RECORD_RUN) {
            uint32_t run = first[type] - lq__index_first(r, LQ__RECORD_RUN);
            uint32_t head = lq__run_hash(lq__load32(p), lq__load64(p + 8)) & r->head_mask;
            memcpy(next + 4 * (size_t)run, heads + 4 * (size_t)head, 4);
            lq__store32(heads + 4 * (size_t)head, run);
        }
        if (type >= LQ__RECORD_GROUP && type <= LQ__RECORD_META) {
            lq__store64(index + 8 * (size_t)first[type]++, at);
        }
        at += (size_t)lq__record_bytes(lq__load32(record + 4));
    }
}

/* Loads the directories behind the copied footers, oldest first, and checks and counts them. */
LQ__STATIC int lq__chain_check(lq_archive_reader *r, const uint8_t *footers, size_t segments,
                               uint8_t *directories)
{
    size_t used = 0;
    size_t s;
    for (s = segments; s-- > 0;) {
        const uint8_t *f = footers + LQ_ARCHIVE_FOOTER_BYTES * s;
        uint64_t offset = lq__load64(f + 8);
        size_t at = r->file ? (size_t)offset : used;
        int status = LQ_OK;
        if (!r->file) {
            status = lq__reader_get(r, offset, directories + used, lq__load32(f + 4));
        }
        if (!status) {
            status = lq__directory_check(r, f, r->directories + at);
        }
        if (status) {
            return status;
        }
        used += lq__load32(f + 4);
    }
    return LQ_OK;
}

/* Lays out mem: footers, directories (unless they lie in the file's bytes), index, chains. */
LQ__STATIC int lq__chain_load(lq_archive_reader *r, const lq__chain *chain, uint8_t *mem)
{
    size_t segments = (size_t)chain->segments;
    uint8_t *directories = mem + LQ_ARCHIVE_FOOTER_BYTES * segments;
    uint8_t *index = directories + (r->file ? 0 : (size_t)chain->directory_bytes);
    uint8_t *next = index + 8 * (size_t)chain->records;
    uint8_t *heads = next + 4 * (size_t)chain->runs;
    uint32_t first[LQ__RECORD_META + 1];
    uint32_t type;
    size_t used = 0;
    size_t s;
    int status;
    r->directories = r->file ? r->file : directories;
    status = lq__chain_check(r, mem, segments, directories);
    if (status) {
        return status;
    }
    r->segment_count = (uint32_t)segments;
    r->index = index;
    r->next = next;
    r->heads = heads;
    r->head_mask = (uint32_t)(lq__run_heads(chain->runs) - 1);
    memset(heads, 0xff, 4 * (size_t)lq__run_heads(chain->runs));
    for (type = 0; type <= LQ__RECORD_META; type++) {
        first[type] = lq__index_first(r, type);
    }
    for (s = segments; s-- > 0;) {
        const uint8_t *f = mem + LQ_ARCHIVE_FOOTER_BYTES * s;
        size_t bytes = lq__load32(f + 4);
        lq__index_fill(r, index, next, heads, first, r->file ? (size_t)lq__load64(f + 8) : used,
                       bytes);
        used += bytes;
    }
    return LQ_OK;
}

/* Opens what the footer at `at` ends. `source` holds size and callbacks only. */
LQ__STATIC int lq__open_at(lq_archive_reader *reader, const lq_archive_reader *source, uint64_t at,
                           uint8_t *mem, size_t mem_bytes, size_t *needed)
{
    lq_archive_reader r = *source;
    lq__chain chain;
    uint64_t bytes;
    int status = lq__chain_walk(&r, at, mem, mem_bytes, &chain);
    if (status) {
        return status;
    }
    if (chain.records > 0xfffffffeu || chain.segments > 0xfffffffeu) {
        return LQ_E_RANGE;
    }
    bytes = LQ_ARCHIVE_FOOTER_BYTES * chain.segments + (r.file ? 0 : chain.directory_bytes) +
            8 * chain.records + 4 * chain.runs + 4 * lq__run_heads(chain.runs);
    if (bytes > SIZE_MAX) {
        return LQ_E_RANGE;
    }
    *needed = (size_t)bytes;
    if (bytes > mem_bytes) {
        return LQ_E_SPACE;
    }
    status = lq__chain_load(&r, &chain, mem);
    if (status) {
        *needed = 0;
        return status;
    }
    r.end = at + LQ_ARCHIVE_FOOTER_BYTES;
    *reader = r;
    return LQ_OK;
}

/* Scans backwards for a footer whose archive is sound; footers lie at multiples of 4. */
LQ__STATIC int lq__recover(lq_archive_reader *reader, const lq_archive_reader *source,
                           uint64_t recover_bytes, uint8_t *mem, size_t mem_bytes, size_t *needed)
{
    uint8_t window[LQ__ARCHIVE_WINDOW + LQ_ARCHIVE_FOOTER_BYTES];
    uint64_t high = (source->size - LQ_ARCHIVE_FOOTER_BYTES) / 4 * 4 + 4; /* one past the next */
    uint64_t low = LQ_ARCHIVE_HEADER_BYTES;
    uint32_t tries = 0;
    if (recover_bytes < source->size - low) {
        low = lq__align_up(source->size - recover_bytes, 4);
    }
    while (high > low) {
        size_t count =
            high - low < LQ__ARCHIVE_WINDOW ? (size_t)(high - low) : (size_t)LQ__ARCHIVE_WINDOW;
        uint64_t start = high - count;
        size_t i;
        int status = lq__reader_get(source, start, window, count - 4 + LQ_ARCHIVE_FOOTER_BYTES);
        if (status) {
            return status;
        }
        for (i = count; i > 0; i -= 4) {
            if (lq__footer_check(window + i - 4, start + i - 4)) {
                continue;
            }
            status = lq__open_at(reader, source, start + i - 4, mem, mem_bytes, needed);
            if (status != LQ_E_DATA || ++tries == LQ__ARCHIVE_TRIES) {
                return status;
            }
        }
        high = start;
    }
    return LQ_E_DATA;
}

LQ_API int lq_archive_open(lq_archive_reader *reader, const lq_archive_source *source, void *mem,
                           size_t mem_bytes, size_t *needed)
{
    lq_archive_reader r;
    size_t ignored;
    int status;
    if (!needed) {
        needed = &ignored;
    }
    *needed = 0;
    if (!reader || !source || (source->bytes ? 1 : 0) == (source->read_fn ? 1 : 0) ||
        (!mem && mem_bytes)) {
        return LQ_E_ARG;
    }
    if (source->size > (uint64_t)1 << 60 || (source->bytes && source->size > SIZE_MAX)) {
        return LQ_E_RANGE;
    }
    memset(&r, 0, sizeof r);
    r.file = (const uint8_t *)source->bytes;
    r.read_fn = source->read_fn;
    r.user = source->user;
    r.size = source->size;
    status = lq__header_check(&r);
    if (status) {
        return status;
    }
    if (r.size < LQ_ARCHIVE_HEADER_BYTES + LQ_ARCHIVE_FOOTER_BYTES) {
        return LQ_E_DATA;
    }
    if (source->recover_bytes) {
        return lq__recover(reader, &r, source->recover_bytes, (uint8_t *)mem, mem_bytes, needed);
    }
    return lq__open_at(reader, &r, r.size - LQ_ARCHIVE_FOOTER_BYTES, (uint8_t *)mem, mem_bytes,
                       needed);
}

/* ---- reader: queries ---- */

LQ__STATIC const uint8_t *lq__record(const lq_archive_reader *r, uint32_t type, uint32_t id)
{
    size_t i = (size_t)lq__index_first(r, type) + id;
    return r->directories + (size_t)lq__load64(r->index + 8 * i);
}

LQ_API int lq_archive_group(const lq_archive_reader *reader, uint32_t id,
                            lq_archive_group_desc *group, lq_slice *slices, size_t capacity)
{
    const uint8_t *p;
    uint32_t rope;
    size_t i;
    if (!reader || !group || (!slices && capacity)) {
        return LQ_E_ARG;
    }
    if (id >= reader->group_count) {
        return LQ_E_RANGE;
    }
    p = lq__record(reader, LQ__RECORD_GROUP, id) + LQ__RECORD_HEAD;
    rope = lq__load16(p + 2);
    group->stream = p[0];
    group->rope = rope == LQ__ARCHIVE_ROPE_NONE ? LQ_ARCHIVE_NONE : rope;
    memcpy(group->page_rule, p + 4, 4);
    group->slice_count = lq__load16(p + 8);
    group->slices = slices;
    if (!slices) {
        return LQ_OK;
    }
    if (capacity < group->slice_count) {
        return LQ_E_SPACE;
    }
    p += LQ__GROUP_FIXED;
    for (i = 0; i < group->slice_count; i++, p += LQ__GROUP_SLICE) {
        slices[i].layer = lq__load16(p);
        slices[i].head = lq__load16(p + 2);
        slices[i].first_dim = lq__load16(p + 4);
        slices[i].dims = lq__load16(p + 6);
    }
    return LQ_OK;
}

LQ_API int lq_archive_rope(const lq_archive_reader *reader, uint32_t id, lq_rope *rope,
                           float *freqs, size_t capacity)
{
    const uint8_t *p;
    size_t i;
    if (!reader || !rope || (!freqs && capacity)) {
        return LQ_E_ARG;
    }
    if (id >= reader->rope_count) {
        return LQ_E_RANGE;
    }
    p = lq__record(reader, LQ__RECORD_ROPE, id) + LQ__RECORD_HEAD;
    rope->freqs = freqs;
    rope->layout = p[0];
    rope->rotary_dims = lq__load16(p + 2);
    rope->magnitude = lq__f32_of_bits(lq__load32(p + 4));
    if (!freqs) {
        return LQ_OK;
    }
    if (capacity < rope->rotary_dims / 2) {
        return LQ_E_SPACE;
    }
    for (i = 0; i < rope->rotary_dims / 2; i++) {
        freqs[i] = lq__f32_of_bits(lq__load32(p + LQ__ROPE_FIXED + 4 * i));
    }
    return LQ_OK;
}

LQ_API int lq_archive_profile(const lq_archive_reader *reader, uint32_t id,
                              lq_archive_profile_desc *profile)
{
    const uint8_t *record;
    const uint8_t *p;
    if (!reader || !profile) {
        return LQ_E_ARG;
    }
    if (id >= reader->profile_count) {
        return LQ_E_RANGE;
    }
    record = lq__record(reader, LQ__RECORD_PROFILE, id);
    p = record + LQ__RECORD_HEAD;
    memset(profile, 0, sizeof *profile);
    if (p[0] == LQ__PROFILE_EXTERNAL) {
        profile->hash = p + LQ__PROFILE_FIXED;
    } else {
        profile->bytes = p + LQ__PROFILE_FIXED;
        profile->count = lq__load32(record + 4) - LQ__PROFILE_FIXED;
    }
    return LQ_OK;
}

LQ_API int lq_archive_meta(const lq_archive_reader *reader, uint32_t tag, const uint8_t **bytes,
                           size_t *count)
{
    uint32_t i;
    if (!reader || !bytes || !count) {
        return LQ_E_ARG;
    }
    *bytes = NULL;
    *count = 0;
    for (i = reader->meta_count; i-- > 0;) {
        const uint8_t *record = lq__record(reader, LQ__RECORD_META, i);
        if (lq__load32(record + LQ__RECORD_HEAD) == tag) {
            *bytes = record + LQ__RECORD_HEAD + LQ__META_FIXED;
            *count = lq__load32(record + 4) - LQ__META_FIXED;
            return LQ_OK;
        }
    }
    return LQ_E_RANGE;
}

LQ_API int lq_archive_run(const lq_archive_reader *reader, uint32_t run, lq_archive_run_info *info)
{
    const uint8_t *record;
    const uint8_t *p;
    lq__run_view v;
    if (!reader || !info) {
        return LQ_E_ARG;
    }
    if (run >= reader->run_count) {
        return LQ_E_RANGE;
    }
    record = lq__record(reader, LQ__RECORD_RUN, run);
    p = record + LQ__RECORD_HEAD;
    lq__run_view_set(&v, record);
    memset(info, 0, sizeof *info);
    info->desc.group = v.group;
    info->desc.profile = v.profile;
    info->desc.sequence = v.sequence;
    info->desc.first_token = v.first_token;
    info->desc.token_count = v.token_count;
    info->desc.tokens_per_page = v.tokens_per_page;
    info->desc.code = p[30];
    info->desc.align = (uint32_t)v.align;
    info->desc.step = lq__f32_of_bits(lq__load32(p + 32));
    if (v.form == LQ__POSITIONS_ORDINAL) {
        info->desc.positions.first = (int64_t)v.first_token;
        info->desc.positions.stride = 1;
    } else if (v.form == LQ__POSITIONS_AFFINE) {
        info->desc.positions.first = lq__affine_first(&v);
        info->desc.positions.stride = lq__affine_stride(&v);
    }
    info->page_count = v.page_count;
    info->listed = v.form == LQ__POSITIONS_LIST;
    info->offset = v.base;
    info->bytes = lq__load32(v.pages + 8 * ((size_t)v.page_count - 1));
    return LQ_OK;
}

LQ__STATIC void lq__page_ref_set(lq_page_ref *ref, const lq__run_view *v, uint32_t run,
                                 uint32_t page)
{
    const uint8_t *entry = v->pages + 8 * (size_t)page;
    uint64_t start = page ? lq__align_up(lq__load32(entry - 8), v->align) : 0;
    uint32_t first = page * v->tokens_per_page; /* below token_count */
    memset(ref, 0, sizeof *ref);
    ref->offset = v->base + start;
    ref->bytes = (uint32_t)(lq__load32(entry) - start);
    ref->checksum = lq__load32(entry + 4);
    ref->first_token = v->first_token + first;
    ref->token_count = LQ__MIN(v->tokens_per_page, v->token_count - first);
    ref->run = run;
    ref->page = page;
}

LQ_API int lq_archive_run_page(const lq_archive_reader *reader, uint32_t run, uint32_t page,
                               lq_page_ref *ref)
{
    lq__run_view v;
    if (!reader || !ref) {
        return LQ_E_ARG;
    }
    if (run >= reader->run_count) {
        return LQ_E_RANGE;
    }
    lq__run_view_set(&v, lq__record(reader, LQ__RECORD_RUN, run));
    if (page >= v.page_count) {
        return LQ_E_RANGE;
    }
    lq__page_ref_set(ref, &v, run, page);
    return LQ_OK;
}

/* The newest run of a chain's start, or LQ_ARCHIVE_NONE. */
LQ__STATIC uint32_t lq__chain_head(const lq_archive_reader *r, uint32_t group, uint64_t sequence)
{
    return lq__load32(r->heads + 4 * (size_t)(lq__run_hash(group, sequence) & r->head_mask));
}

LQ_API int lq_archive_find(const lq_archive_reader *reader, uint32_t group, uint64_t sequence,
                           uint64_t token, lq_page_ref *ref)
{
    lq__run_view v;
    uint32_t run;
    if (!reader || !ref) {
        return LQ_E_ARG;
    }
    if (group >= reader->group_count) {
        return LQ_E_RANGE;
    }
    run = lq__chain_head(reader, group, sequence);
    for (; run != LQ_ARCHIVE_NONE; run = lq__load32(reader->next + 4 * (size_t)run)) {
        lq__run_view_set(&v, lq__record(reader, LQ__RECORD_RUN, run));
        if (v.group == group && v.sequence == sequence && token >= v.first_token &&
            token - v.first_token < v.token_count) {
            uint32_t at = (uint32_t)(token - v.first_token);
            lq__page_ref_set(ref, &v, run, at / v.tokens_per_page);
            return LQ_OK;
        }
    }
    return LQ_E_RANGE;
}

LQ_API int lq_archive_tokens(const lq_archive_reader *reader, uint32_t group, uint64_t sequence,
                             uint64_t *count)
{
    lq__run_view v;
    uint32_t run;
    if (!reader || !count) {
        return LQ_E_ARG;
    }
    *count = 0;
    if (group >= reader->group_count) {
        return LQ_E_RANGE;
    }
    run = lq__chain_head(reader, group, sequence);
    for (; run != LQ_ARCHIVE_NONE; run = lq__load32(reader->next + 4 * (size_t)run)) {
        lq__run_view_set(&v, lq__record(reader, LQ__RECORD_RUN, run));
        if (v.group == group && v.sequence == sequence) {
            *count = LQ__MAX(*count, v.first_token + v.token_count);
        }
    }
    return LQ_OK;
}

LQ_API int lq_archive_positions(const lq_archive_reader *reader, uint32_t run, uint32_t first,
                                size_t count, int64_t *dst)
{
    lq__run_view v;
    size_t i;
    if (!reader || (!dst && count)) {
        return LQ_E_ARG;
    }
    if (run >= reader->run_count) {
        return LQ_E_RANGE;
    }
    lq__run_view_set(&v, lq__record(reader, LQ__RECORD_RUN, run));
    if (first > v.token_count || count > v.token_count - first) {
        return LQ_E_RANGE;
    }
    for (i = 0; i < count; i++) {
        size_t at = first + i;
        if (v.form == LQ__POSITIONS_ORDINAL) {
            dst[i] = (int64_t)(v.first_token + at);
        } else if (v.form == LQ__POSITIONS_AFFINE) {
            dst[i] = lq__affine_first(&v) + (int64_t)at * lq__affine_stride(&v);
        } else {
            dst[i] = lq__i64_of_bits(lq__load64(v.positions + 8 * at));
        }
    }
    return LQ_OK;
}

LQ_API int lq_archive_page(const lq_archive_reader *reader, const lq_page_ref *ref, void *buffer,
                           size_t buffer_bytes, const uint8_t **page)
{
    const uint8_t *p;
    int status;
    if (!page) {
        return LQ_E_ARG;
    }
    *page = NULL;
    if (!reader || !ref || reader->segment_count == 0) {
        return LQ_E_ARG;
    }
    if (ref->offset > reader->end || ref->bytes > reader->end - ref->offset) {
        return LQ_E_RANGE;
    }
    if (reader->file) {
        p = reader->file + (size_t)ref->offset;
    } else {
        if (!buffer) {
            return LQ_E_ARG;
        }
        if (buffer_bytes < ref->bytes) {
            return LQ_E_SPACE;
        }
        status = lq__reader_get(reader, ref->offset, buffer, ref->bytes);
        if (status) {
            return status;
        }
        p = (const uint8_t *)buffer;
    }
    if (!lq__checksum_ok(ref->checksum, p, ref->bytes)) {
        return LQ_E_DATA;
    }
    *page = p;
    return LQ_OK;
}

/* ---- a group's tokens in one call ---- */
/* A stack of pieces in the caller's workspace, each at a multiple of 64. */
typedef struct lq__arena {
    uint8_t *at;
    size_t left;
} lq__arena;

LQ__STATIC void *lq__arena_take(lq__arena *a, size_t bytes)
{
    void *p = a->at;
    bytes = lq__align64(bytes);
    if (!a->at || bytes > a->left) {
        a->at = NULL;
        a->left = 0;
        return NULL;
    }
    a->at += bytes;
    a->left -= bytes;
    return p;
}

LQ__STATIC lq__arena lq__arena_of(void *mem, size_t bytes)
{
    lq__arena a;
    size_t skip = (0 - (size_t)(uintptr_t)mem) & 63;
    a.at = mem && bytes >= skip ? (uint8_t *)mem + skip : NULL;
    a.left = a.at ? bytes - skip : 0;
    return a;
}

/* The largest codec, workspace and page of a geometry with `dims` and `slices`: E8 has the most
   rows, a coded page the largest bound. */
typedef struct lq__codec_sizes {
    size_t codec;
    size_t workspace;
    size_t page;
} lq__codec_sizes;

LQ__STATIC lq__codec_sizes lq__codec_sizes_of(size_t dims, size_t slices)
{
    lq__codec_sizes s;
    size_t rows = dims + slices;
    size_t matrix = rows + dims / 8;
    s.codec = 64 + lq__align64(sizeof(lq_codec)) + lq__align64(rows * sizeof(lq__row_data)) +
              lq__align64(rows * 4) + lq__align64(rows) + lq_rans_plan_bytes(rows);
    s.workspace = 64 + lq__align64(LQ__TOKENS * (dims * 8 + slices * 2)) +
                  LQ__IN_FLIGHT * matrix * LQ__TOKENS * 2 +
                  lq_rans_workspace_bytes(matrix, LQ__IN_FLIGHT);
    s.page =
        LQ__TRAILER + LQ__MAX(lq_rans_bound(matrix, LQ__TOKENS), LQ__TOKENS * (dims * 4 + slices));
    return s;
}

/* What packing keeps in its workspace. */
typedef struct lq__pack {
    const lq_archive_pack_desc *desc;
    lq_geometry geometry; /* in the basis of the profile, where one is given */
    lq_archive_writer *writer;
    const lq_vectors *src;
    const lq_positions *positions;
    lq_fit fit;
    lq_profile profile;
    void *fit_mem;
    void *fit_workspace;
    void *profile_mem;
    uint8_t *profile_file;
    void *codec_mem;
    void *codec_workspace;
    uint8_t *pages;
    size_t rows;
    lq__codec_sizes sizes;
    lq_profile calibrated;
    uint8_t *dense_file;
    void *dense_mem;
    size_t dense_bytes;
    void *klt_mem;
    void *klt_workspace;
} lq__pack;

LQ__STATIC lq_geometry lq__pack_geometry(const lq_archive_pack_desc *d)
{
    lq_geometry g = d->geometry;
    if (d->profile && d->profile->basis == LQ_BASIS_DENSE && !g.dense) {
        g.basis = LQ_BASIS_DENSE;
        g.dense = d->profile->dense;
    }
    return g;
}

/* Memory that calibration takes: the sums; samples or the making; the file form, twice; the basis.
 */
typedef struct lq__pack_sizes {
    size_t klt;
    size_t workspace;
    size_t file;
    size_t dense;
} lq__pack_sizes;

LQ__STATIC lq__pack_sizes lq__pack_sizes_of(const lq_archive_pack_desc *d)
{
    lq__pack_sizes s;
    lq_profile p;
    lq_klt klt;
    memset(&s, 0, sizeof s);
    if (!d->calibrate) {
        return s;
    }
    memset(&klt, 0, sizeof klt);
    memset(&p, 0, sizeof p);
    klt.geometry = lq__klt_geometry(&d->geometry);
    p.stream = d->geometry.stream;
    p.slice_count = d->geometry.slice_count;
    p.dims = (uint32_t)lq_geometry_dims(&d->geometry);
    s.klt = lq_klt_bytes(&klt.geometry);
    s.workspace =
        LQ__MAX(lq_klt_workspace_bytes(&klt.geometry), lq_klt_profile_workspace_bytes(&klt));
    s.file = lq_klt_profile_bound(&klt);
    s.dense = lq__dense_place_of(NULL, &p, p.dims).bytes;
    return s;
}

LQ__STATIC int lq__pack_place(lq__pack *p, lq__arena *a)
{
    const lq_geometry *g = &p->geometry;
    lq__pack_sizes s = lq__pack_sizes_of(p->desc);
    p->fit_mem = lq__arena_take(a, lq_fit_bytes(g));
    p->fit_workspace = lq__arena_take(a, lq_fit_workspace_bytes(g));
    p->profile_mem = lq__arena_take(a, lq_profile_bytes(p->rows));
    p->profile_file = (uint8_t *)lq__arena_take(a, lq_profile_save_bound(p->rows));
    p->codec_mem = lq__arena_take(a, p->sizes.codec);
    p->codec_workspace = lq__arena_take(a, p->sizes.workspace);
    p->klt_mem = lq__arena_take(a, s.klt);
    p->klt_workspace = lq__arena_take(a, s.workspace);
    p->dense_file = (uint8_t *)lq__arena_take(a, s.file);
    p->dense_mem = lq__arena_take(a, s.dense);
    p->dense_bytes = s.dense;
    p->pages = (uint8_t *)lq__arena_take(a, p->sizes.page * LQ__IN_FLIGHT);
    return p->pages ? LQ_OK : LQ_E_SPACE;
}

LQ_API size_t lq_archive_pack_workspace_bytes(const lq_archive_pack_desc *desc)
{
    lq__codec_sizes s;
    lq__pack_sizes c;
    lq_geometry g;
    size_t rows = desc ? lq_geometry_rows(&desc->geometry) : 0;
    if (rows == 0) {
        return 0;
    }
    g = lq__pack_geometry(desc);
    s = lq__codec_sizes_of(lq_geometry_dims(&g), g.slice_count);
    c = lq__pack_sizes_of(desc);
    return 64 * 12 + lq_fit_bytes(&g) + lq_fit_workspace_bytes(&g) + lq_profile_bytes(rows) +
           lq_profile_save_bound(rows) + s.codec + s.workspace + s.page * LQ__IN_FLIGHT + c.klt +
           c.workspace + c.file + c.dense;
}

/* Tokens [first, first + count) through one codec as one run. */
LQ__STATIC int lq__pack_run(lq__pack *p, lq_codec_desc *d, uint32_t profile_id, size_t first,
                            size_t count)
{
    lq_archive_run_desc run;
    lq_codec *codec;
    size_t done;
    size_t i;
    int status;
    if (count == 0) {
        return LQ_OK;
    }
    status = lq_codec_init(&codec, p->codec_mem, p->sizes.codec, d);
    if (status) {
        return status;
    }
    memset(&run, 0, sizeof run);
    run.group = p->desc->group;
    run.profile = profile_id;
    run.sequence = p->desc->sequence;
    run.first_token = p->desc->first_token + first;
    run.token_count = (uint32_t)count;
    run.code = (uint32_t)codec->desc.page;
    run.step = codec->desc.page == LQ_PAGE_RAW ? 0.0f : codec->desc.step;
    run.positions = lq__positions_or_none(p->positions, first);
    if (!p->positions) {
        run.positions.first = (int64_t)run.first_token;
    }
    status = lq_archive_run_begin(p->writer, &run);
    for (done = 0; done < count && !status; done += LQ__IN_FLIGHT * LQ__TOKENS) {
        size_t n = LQ__MIN(count - done, LQ__IN_FLIGHT * LQ__TOKENS);
        size_t page_bytes[LQ__IN_FLIGHT];
        size_t written;
        const uint8_t *at = p->pages;
        lq_positions positions = lq__positions_or_none(p->positions, first + done);
        status =
            lq__encode_from(codec, p->pages, p->sizes.page * LQ__IN_FLIGHT, &written, page_bytes,
                            p->src, first + done, &positions, n, p->codec_workspace);
        for (i = 0; i * LQ__TOKENS < n && !status; i++) {
            status = lq_archive_write_page(p->writer, at, page_bytes[i]);
            at += page_bytes[i];
        }
    }
    if (!status) {
        return lq_archive_run_end(p->writer);
    }
    if (p->writer->in_run && lq_archive_run_drop(p->writer)) {
        return status;
    }
    return status;
}

/* Stores the fit so far as a profile of the archive. */
LQ__STATIC int lq__pack_profile(lq__pack *p, uint32_t *id)
{
    lq_archive_profile_desc d = {NULL, 0, NULL};
    int status = lq_fit_profile(&p->fit, &p->profile, p->profile_mem, lq_profile_bytes(p->rows));
    if (!status) {
        status =
            lq_profile_save(p->profile_file, lq_profile_save_bound(p->rows), &d.count, &p->profile);
    }
    if (status) {
        return status;
    }
    d.bytes = p->profile_file;
    return lq_archive_add_profile(p->writer, &d, id);
}

/* Fits and codes tokens [first, tokens): all at once, or in the stages of a stream. */
LQ__STATIC int lq__pack_fitted(lq__pack *p, lq_codec_desc *d, size_t first, size_t tokens)
{
    uint32_t id = 0;
    size_t start = first;
    int status =
        lq_fit_init(&p->fit, p->fit_mem, lq_fit_bytes(&p->geometry), &p->geometry, p->desc->step);
    if (status) {
        return status;
    }
    d->profile = &p->profile;
    while (start < tokens) { /* the stage that ends one refit also holds the page that caused it */
        size_t stage = start == first ? LQ__TOKENS : start - first;
        size_t end = p->desc->refit && tokens - start > stage ? start + stage : tokens;
        lq_positions positions = lq__positions_or_none(p->positions, start);
        status =
            lq__fit_add_from(&p->fit, p->src, start, &positions, end - start, p->fit_workspace);
        if (!status) {
            status = lq__pack_profile(p, &id);
        }
        if (!status) {
            status = lq__pack_run(p, d, id, start, end - start);
        }
        if (status) {
            return status;
        }
        start = end;
    }
    return LQ_OK;
}

/* A calibrated profile, refitted in stages: a stage is coded as its predecessors were, or by a
   refit to all tokens before it where that saves more than its profile and run take. */
LQ__STATIC int lq__pack_refitted(lq__pack *p, lq_codec_desc *d, size_t first, size_t tokens)
{
    uint32_t id = p->desc->profile_id;
    size_t begin = first; /* of the run that is not written yet */
    size_t start = first;
    int status =
        lq_fit_init(&p->fit, p->fit_mem, lq_fit_bytes(&p->geometry), &p->geometry, p->desc->step);
    while (start < tokens && !status) {
        size_t stage = start == first ? LQ__TOKENS : start - first;
        size_t end = tokens - start > stage ? start + stage : tokens;
        lq_positions positions = lq__positions_or_none(p->positions, start);
        int pays = 0;
        if (start > first) {
            status = lq_fit_pays(&pays, &p->fit, d->profile, end - start);
        }
        if (!status && pays) {
            status = lq__pack_run(p, d, id, begin, start - begin);
            begin = start;
            d->profile = &p->profile;
            if (!status) {
                status = lq__pack_profile(p, &id);
            }
        }
        if (!status && end < tokens) {
            status =
                lq__fit_add_from(&p->fit, p->src, start, &positions, end - start, p->fit_workspace);
        }
        start = end;
    }
    return status ? status : lq__pack_run(p, d, id, begin, tokens - begin);
}

/* Fits a basis to tokens [first, tokens) and stores its profile without what only encoding needs,
   if its bytes and the pages' that it makes are fewer than those of channels. *id is its id, or
   LQ_ARCHIVE_NONE. */
LQ__STATIC int lq__pack_calibrate(lq__pack *p, size_t first, size_t tokens, uint32_t *id)
{
    const lq_archive_pack_desc *desc = p->desc;
    const lq_geometry *g = &p->geometry;
    lq__pack_sizes s = lq__pack_sizes_of(desc);
    lq_klt_desc k = {0, 0, 1, 0, 1};
    lq_klt_report report;
    lq_archive_profile_desc file = {NULL, 0, NULL};
    lq_positions positions = lq__positions_or_none(p->positions, first);
    double dims = (double)lq_geometry_dims(g);
    size_t needed;
    lq_klt klt;
    int status;
    *id = LQ_ARCHIVE_NONE;
    if (tokens - first < 2 * LQ__TOKENS) {
        return LQ_OK;
    }
    k.step = desc->step;
    status = lq_klt_init(&klt, p->klt_mem, s.klt, g);
    if (!status) {
        status =
            lq__klt_add_from(&klt, p->src, first, &positions, tokens - first, p->klt_workspace);
    }
    if (!status && desc->queries && g->stream == LQ_K) {
        status = lq__klt_add_queries_from(&klt, desc->queries, desc->reads, desc->query_heads,
                                          first, &positions, tokens - first, p->klt_workspace);
    }
    if (!status) {
        status = lq_klt_profile(&klt, p->dense_file, s.file, &file.count, &k, &report,
                                p->klt_workspace, s.workspace);
    }
    if (!status) {
        status = lq_profile_load(&p->calibrated, p->dense_mem, p->dense_bytes, &needed,
                                 p->dense_file, file.count);
    }
    if (status) {
        return status;
    }
    file.count = lq_profile_strip(p->dense_file, file.count);
    if ((double)(report.channel_bits - report.basis_bits) * dims * (double)(tokens - first) <
        8 * (double)file.count) {
        return LQ_OK;
    }
    file.bytes = p->dense_file;
    return lq_archive_add_profile(p->writer, &file, id);
}

/* The tokens behind the sinks, by the profile that is given or made. */
LQ__STATIC int lq__pack_rest(lq__pack *p, lq_codec_desc *d, size_t first, size_t tokens)
{
    const lq_archive_pack_desc *desc = p->desc;
    if (desc->calibrate && d->page != LQ_PAGE_FIXED) {
        uint32_t id;
        int status = lq__pack_calibrate(p, first, tokens, &id);
        if (status) {
            return status;
        }
        if (id != LQ_ARCHIVE_NONE) {
            d->profile = &p->calibrated;
            d->geometry.basis = LQ_BASIS_DENSE;
            d->geometry.dense = p->calibrated.dense;
            return lq__pack_run(p, d, id, first, tokens - first);
        }
    }
    if (!desc->profile) {
        return lq__pack_fitted(p, d, first, tokens);
    }
    d->profile = desc->profile;
    return desc->refit && desc->profile->dense
               ? lq__pack_refitted(p, d, first, tokens)
               : lq__pack_run(p, d, desc->profile_id, first, tokens - first);
}

LQ_API int lq_archive_pack(lq_archive_writer *writer, const lq_archive_pack_desc *desc,
                           const lq_vectors *src, const lq_positions *positions, size_t tokens,
                           void *workspace, size_t workspace_bytes)
{
    lq__arena arena = lq__arena_of(workspace, workspace_bytes);
    lq_codec_desc d;
    lq__pack p;
    size_t sinks;
    int status;
    if (!writer || !desc || !src || !src->slices || lq_type_bytes(src->type) == 0 ||
        (desc->geometry.rope && !positions) || tokens > 0x7fffffffu) {
        return LQ_E_ARG;
    }
    memset(&p, 0, sizeof p);
    p.desc = desc;
    p.writer = writer;
    p.src = src;
    p.positions = positions;
    p.geometry = lq__pack_geometry(desc);
    p.rows = lq_geometry_rows(&p.geometry);
    if (p.rows == 0 || (desc->calibrate && (desc->profile || desc->refit)) ||
        (desc->queries && (!desc->calibrate || !desc->queries->slices || !desc->reads ||
                           lq_type_bytes(desc->queries->type) == 0))) {
        return LQ_E_ARG;
    }
    p.sizes = lq__codec_sizes_of(lq_geometry_dims(&desc->geometry), desc->geometry.slice_count);
    if (lq__pack_place(&p, &arena)) {
        return LQ_E_SPACE;
    }
    memset(&d, 0, sizeof d);
    d.tables = desc->tables;
    d.geometry = desc->geometry;
    sinks = desc->first_token ? 0 : desc->sinks == LQ_NO_SINKS ? 0 : desc->sinks ? desc->sinks : 4;
    sinks = desc->page == LQ_PAGE_RAW ? tokens : LQ__MIN(sinks, tokens);
    d.page = LQ_PAGE_RAW;
    d.type = src->type;
    status = lq__pack_run(&p, &d, LQ_ARCHIVE_NONE, 0, sinks);
    if (status || sinks == tokens) {
        return status;
    }
    d.page = desc->page;
    d.type = 0;
    d.quantizer = desc->quantizer;
    d.bits = desc->bits;
    d.step = desc->step;
    return lq__pack_rest(&p, &d, sinks, tokens);
}

/* ---- reading ---- */
typedef struct lq__unpack {
    const lq_archive_reader *reader;
    const lq_archive_unpack_desc *desc;
    lq_geometry geometry;
    lq_rope rope;
    lq_slice *slices;
    uint32_t *slice_dims;
    float *freqs;
    lq_profile profile;
    void *profile_mem;
    lq_profile embedded; /* the profile with a dense basis that dense_mem holds; dims 0: none */
    void *dense_mem;
    size_t dense_bytes;
    size_t rows;
    size_t dims;
    lq__codec_sizes sizes;
    void *codec_mem;
    void *codec_workspace;
    uint8_t *pages;
    float *page_floats; /* (dims, 64): pages that are only partly asked for */
    void **page_slices;
    int64_t *positions; /* (in flight, 64) */
    lq_codec *codec;
    uint32_t codec_run; /* what the codec was built for */
    lq_page_info codec_info;
} lq__unpack;

/* Dims of an existing group, from its record. */
LQ__STATIC size_t lq__group_dims(const lq_archive_reader *reader, uint32_t group, size_t *slices)
{
    lq_archive_group_desc g;
    const uint8_t *p;
    size_t dims = 0;
    size_t i;
    if (!reader || lq_archive_group(reader, group, &g, NULL, 0)) {
        return 0;
    }
    p = lq__record(reader, LQ__RECORD_GROUP, group) + LQ__RECORD_HEAD + LQ__GROUP_FIXED;
    for (i = 0; i < g.slice_count; i++) {
        dims += lq__load16(p + i * LQ__GROUP_SLICE + 6);
    }
    *slices = g.slice_count;
    return dims;
}

/* Memory for the largest dense basis that the archive holds for a group of these dims. */
LQ__STATIC size_t lq__unpack_dense_bytes(const lq_archive_reader *reader, size_t dims)
{
    size_t most = 0;
    uint32_t id;
    for (id = 0; id < reader->profile_count; id++) {
        lq_archive_profile_desc d;
        lq_profile p;
        size_t needed = 0;
        if (lq_archive_profile(reader, id, &d) || !d.bytes ||
            lq__profile_header(&p, d.bytes, d.count) || d.bytes[6] != LQ__FORM_DENSE ||
            p.dims != dims || lq_profile_load(&p, NULL, 0, &needed, d.bytes, d.count) == LQ_OK) {
            continue;
        }
        most = LQ__MAX(most, needed);
    }
    return most;
}

LQ_API size_t lq_archive_unpack_workspace_bytes(const lq_archive_reader *reader, uint32_t group)
{
    lq__codec_sizes s;
    size_t slices = 0;
    size_t dims = lq__group_dims(reader, group, &slices);
    if (dims == 0) {
        return 0;
    }
    s = lq__codec_sizes_of(dims, slices);
    return 64 * 13 + slices * (sizeof(lq_slice) + 4 + sizeof(void *)) + dims * 2 +
           lq__unpack_dense_bytes(reader, dims) + lq_profile_bytes(dims + slices) + s.codec +
           s.workspace + s.page * (LQ__IN_FLIGHT + 1) + dims * LQ__TOKENS * 4 +
           LQ__IN_FLIGHT * LQ__TOKENS * 8;
}

LQ__STATIC int lq__unpack_place(lq__unpack *u, lq__arena *a, size_t slices)
{
    u->slices = (lq_slice *)lq__arena_take(a, slices * sizeof(lq_slice));
    u->slice_dims = (uint32_t *)lq__arena_take(a, slices * 4);
    u->page_slices = (void **)lq__arena_take(a, slices * sizeof(void *));
    u->freqs = (float *)lq__arena_take(a, u->dims * 2);
    u->profile_mem = lq__arena_take(a, lq_profile_bytes(u->dims + slices));
    u->dense_bytes = lq__unpack_dense_bytes(u->reader, u->dims);
    u->dense_mem = lq__arena_take(a, u->dense_bytes);
    u->codec_mem = lq__arena_take(a, u->sizes.codec);
    u->codec_workspace = lq__arena_take(a, u->sizes.workspace);
    u->page_floats = (float *)lq__arena_take(a, u->dims * LQ__TOKENS * 4);
    u->positions = (int64_t *)lq__arena_take(a, LQ__IN_FLIGHT * LQ__TOKENS * 8);
    u->pages = (uint8_t *)lq__arena_take(a, u->sizes.page * (LQ__IN_FLIGHT + 1));
    return u->pages ? LQ_OK : LQ_E_SPACE;
}

/* The group's geometry: slices, and its rope if it has one. */
LQ__STATIC int lq__unpack_geometry(lq__unpack *u, size_t slice_count)
{
    lq_archive_group_desc g;
    size_t i;
    int status = lq_archive_group(u->reader, u->desc->group, &g, u->slices, slice_count);
    if (status) {
        return status;
    }
    for (i = 0; i < slice_count; i++) {
        u->slice_dims[i] = u->slices[i].dims;
        u->page_slices[i] =
            i ? (float *)u->page_slices[i - 1] + LQ__TOKENS * u->slice_dims[i - 1] : u->page_floats;
    }
    u->geometry.stream = g.stream;
    u->geometry.slice_count = (uint32_t)slice_count;
    u->geometry.slice_dims = u->slice_dims;
    if (g.rope != LQ_ARCHIVE_NONE) {
        status = lq_archive_rope(u->reader, g.rope, &u->rope, NULL, 0);
        if (!status && u->rope.rotary_dims > u->dims) {
            status = LQ_E_DATA;
        }
        if (!status) {
            status = lq_archive_rope(u->reader, g.rope, &u->rope, u->freqs, u->dims / 2);
        }
        u->geometry.rope = &u->rope;
    }
    if (!status && lq_geometry_rows(&u->geometry) == 0) {
        status = LQ_E_DATA;
    }
    return status;
}

/* Loads an embedded profile with a dense basis, unless it is the one that is there. */
LQ__STATIC int lq__unpack_embedded(lq__unpack *u, const uint8_t *bytes, size_t count)
{
    uint8_t digest[16];
    size_t needed;
    int status;
    lq_blake2s_128(digest, bytes, count);
    if (u->embedded.dims && !lq__hash_differs(digest, u->embedded.basis_hash)) {
        return LQ_OK;
    }
    u->embedded.dims = 0;
    status = lq_profile_load(&u->embedded, u->dense_mem, u->dense_bytes, &needed, bytes, count);
    return status == LQ_E_SPACE ? LQ_E_FORMAT : status;
}

/* The dense basis of that name: the caller's, or one that the archive holds. */
LQ__STATIC const lq_basis *lq__unpack_basis(lq__unpack *u, const uint8_t *hash)
{
    const lq_profile *c = u->desc->calibrated;
    uint32_t id;
    if (c && c->dense && !lq__hash_differs(c->dense->hash, hash)) {
        return c->dense;
    }
    for (id = 0; id < u->reader->profile_count; id++) {
        lq_archive_profile_desc d;
        lq_profile p;
        if (!lq_archive_profile(u->reader, id, &d) && d.bytes &&
            !lq__profile_header(&p, d.bytes, d.count) && d.bytes[6] == LQ__FORM_DENSE &&
            p.dims == u->dims && !lq__unpack_embedded(u, d.bytes, d.count) &&
            !lq__hash_differs(u->embedded.dense->hash, hash)) {
            return u->embedded.dense;
        }
    }
    return NULL;
}

/* Loads profile `id`: embedded, or the caller's if its hash is the one that the archive names. */
LQ__STATIC int lq__unpack_profile(lq__unpack *u, uint32_t id)
{
    const lq_profile *c = u->desc->calibrated;
    lq_archive_profile_desc p;
    size_t needed;
    int status = lq_archive_profile(u->reader, id, &p);
    if (status) {
        return LQ_E_DATA;
    }
    if (!p.bytes && c && c->dense && !lq__hash_differs(c->dense->hash, p.hash)) {
        u->profile = *c;
        return LQ_OK;
    }
    if (!p.bytes) {
        uint8_t digest[16];
        if (!u->desc->profile) {
            return LQ_E_FORMAT;
        }
        lq_blake2s_128(digest, u->desc->profile, u->desc->profile_bytes);
        if (lq__hash_differs(digest, p.hash)) {
            return LQ_E_FORMAT;
        }
        p.bytes = u->desc->profile;
        p.count = u->desc->profile_bytes;
    }
    if (p.count > 6 && p.bytes[6] == LQ__FORM_DENSE) {
        status = lq__unpack_embedded(u, p.bytes, p.count);
        u->profile = u->embedded;
        return status;
    }
    status = lq_profile_load(&u->profile, u->profile_mem, lq_profile_bytes(u->rows), &needed,
                             p.bytes, p.count);
    if (!status && u->profile.basis == LQ_BASIS_DENSE) {
        u->profile.dense = lq__unpack_basis(u, u->profile.basis_hash);
        status = u->profile.dense ? LQ_OK : LQ_E_FORMAT;
    }
    return status == LQ_E_SPACE ? LQ_E_FORMAT : status;
}

/* Whether two pages of a run have one codec. */
LQ__INLINE int lq__unpack_same(const lq_page_info *a, const lq_page_info *b)
{
    return a->page == b->page && a->quantizer == b->quantizer && a->bits == b->bits &&
           a->type == b->type && a->profile_index == b->profile_index;
}

/* The codec of a page: built anew only where run, code or profile change. */
LQ__STATIC int lq__unpack_codec(lq__unpack *u, uint32_t run, const lq_page_info *info)
{
    lq_archive_run_info r;
    lq_codec_desc d;
    int status;
    if (u->codec && u->codec_run == run && lq__unpack_same(&u->codec_info, info)) {
        return LQ_OK;
    }
    u->codec = NULL;
    memset(&d, 0, sizeof d);
    status = lq_archive_run(u->reader, run, &r);
    if (status) {
        return status;
    }
    d.tables = u->desc->tables;
    d.geometry = u->geometry;
    d.page = info->page;
    d.quantizer = info->quantizer;
    d.bits = info->bits;
    d.type = info->type;
    d.profile_index = info->profile_index;
    if (info->page != LQ_PAGE_RAW) {
        if (r.desc.profile == LQ_ARCHIVE_NONE ||
            info->profile_index >= u->reader->profile_count - r.desc.profile) {
            return LQ_E_DATA;
        }
        status = lq__unpack_profile(u, r.desc.profile + info->profile_index);
        if (status) {
            return status;
        }
        if (u->profile.dims != u->dims || u->profile.slice_count != u->geometry.slice_count) {
            return LQ_E_FORMAT;
        }
        d.profile = &u->profile;
        d.step = r.desc.step;
    }
    status = lq_codec_init(&u->codec, u->codec_mem, u->sizes.codec, &d);
    if (status) { /* the archive's words, not the caller's: a contradiction in them is bad data */
        u->codec = NULL;
        if (status == LQ_E_ARG && d.profile && u->profile.dense) { /* of other slices */
            return LQ_E_FORMAT;
        }
        return status == LQ_E_ARG || status == LQ_E_SPACE ? LQ_E_DATA : status;
    }
    u->codec_run = run;
    u->codec_info = *info;
    return LQ_OK;
}

/* Tokens [skip, skip + count) of page_floats to dst from token `at` on. */
LQ__STATIC void lq__unpack_part(const lq__unpack *u, const lq_vectors_out *dst, size_t at,
                                size_t skip, size_t count)
{
    uint32_t s;
    size_t t;
    size_t i;
    for (s = 0; s < u->geometry.slice_count; s++) {
        size_t dims = u->slice_dims[s];
        size_t stride = dst->token_stride ? dst->token_stride : dims;
        for (t = 0; t < count; t++) {
            const float *from = (const float *)u->page_slices[s] + (skip + t) * dims;
            uint8_t *to = (uint8_t *)dst->slices[s] + (at + t) * stride * lq_type_bytes(dst->type);
            for (i = 0; i < dims; i++) {
                lq__element_store(to, i, dst->type, from[i]);
            }
        }
    }
}

/* Where the next newer run begins that covers a token behind `token`: there `run` ends to count. */
LQ__STATIC uint64_t lq__unpack_until(const lq__unpack *u, uint64_t token, uint32_t run)
{
    const lq_archive_reader *r = u->reader;
    uint64_t until = UINT64_MAX;
    uint32_t i = lq__chain_head(r, u->desc->group, u->desc->sequence);
    for (; i != run; i = lq__load32(r->next + 4 * (size_t)i)) { /* newest first: run is in the
        chain */
        lq__run_view v;
        lq__run_view_set(&v, lq__record(r, LQ__RECORD_RUN, i));
        if (v.group == u->desc->group && v.sequence == u->desc->sequence && v.first_token > token) {
            until = LQ__MIN(until, v.first_token);
        }
    }
    return until;
}

/* Pages in flight: consecutive whole pages of one run and codec. They lie in a ring of one page
   more, so that the next can be read and looked at before they are decoded. */
#define LQ__RING (LQ__IN_FLIGHT + 1)
typedef struct lq__unpack_batch {
    const uint8_t *pages[LQ__IN_FLIGHT];
    size_t page_bytes[LQ__IN_FLIGHT];
    size_t count;
    size_t tokens;
    size_t at;   /* where in dst the first token goes */
    size_t slot; /* of the ring: the next page's */
    lq_page_ref last;
    uint64_t first; /* token of the first page, counted from the run's first */
} lq__unpack_batch;

LQ__STATIC int lq__unpack_positions(lq__unpack *u, lq_positions *positions, uint32_t run,
                                    uint64_t first, size_t count)
{
    positions->first = 0;
    positions->stride = 0;
    positions->list = u->positions;
    return lq_archive_positions(u->reader, run, (uint32_t)first, count, u->positions);
}

LQ__STATIC int lq__unpack_flush(lq__unpack *u, lq__unpack_batch *b, const lq_vectors_out *dst)
{
    lq_positions positions;
    int status;
    if (b->count == 0) {
        return LQ_OK;
    }
    status = lq__unpack_positions(u, &positions, b->last.run, b->first, b->tokens);
    if (!status) {
        status = lq__decode_at(u->codec, dst, b->at, &positions, b->tokens, b->pages, b->page_bytes,
                               u->codec_workspace);
    }
    b->count = 0;
    b->tokens = 0;
    return status;
}

/* One page, of which only some tokens are wanted. */
LQ__STATIC int lq__unpack_partial(lq__unpack *u, const lq_vectors_out *dst, size_t at,
                                  const lq_page_ref *ref, uint64_t in_run, const uint8_t *page,
                                  size_t skip, size_t count)
{
    lq_vectors_out whole;
    lq_positions positions;
    size_t page_bytes = ref->bytes;
    int status = lq__unpack_positions(u, &positions, ref->run, in_run, ref->token_count);
    if (status) {
        return status;
    }
    whole.slices = u->page_slices;
    whole.token_stride = 0;
    whole.type = LQ_F32;
    status = lq__decode_at(u->codec, &whole, 0, &positions, ref->token_count, &page, &page_bytes,
                           u->codec_workspace);
    if (!status) {
        lq__unpack_part(u, dst, at, skip, count);
    }
    return status;
}

/* The next page of the range: read, looked at, decoded or added to the batch. *found tokens of it.
*/
LQ__STATIC int lq__unpack_page(lq__unpack *u, lq__unpack_batch *b, const lq_vectors_out *dst,
                               uint64_t token, size_t at, size_t wanted, size_t *found)
{
    lq_archive_run_info run;
    lq_page_ref ref;
    lq_page_info info;
    const uint8_t *page;
    uint64_t skip;
    int whole;
    int joins;
    int status = lq_archive_find(u->reader, u->desc->group, u->desc->sequence, token, &ref);
    if (!status) {
        status = lq_archive_run(u->reader, ref.run, &run);
    }
    if (status) {
        return status;
    }
    if (ref.token_count > LQ__TOKENS || ref.bytes > u->sizes.page) {
        return LQ_E_DATA;
    }
    skip = token - ref.first_token;
    *found = LQ__MIN((size_t)(ref.token_count - skip), wanted);
    *found = (size_t)LQ__MIN((uint64_t)*found, lq__unpack_until(u, token, ref.run) - token);
    whole = *found == ref.token_count;
    status =
        lq_archive_page(u->reader, &ref, u->pages + b->slot * u->sizes.page, u->sizes.page, &page);
    b->slot = (b->slot + 1) % LQ__RING;
    if (!status) {
        status = lq_page_inspect(&info, page, ref.bytes);
    }
    if (status) {
        return status;
    }
    joins = whole && b->count && b->count < LQ__IN_FLIGHT && b->last.run == ref.run &&
            b->last.page + 1 == ref.page && b->last.token_count == LQ__TOKENS &&
            lq__unpack_same(&u->codec_info, &info);
    status = joins ? LQ_OK : lq__unpack_flush(u, b, dst);
    if (!status) {
        status = lq__unpack_codec(u, ref.run, &info);
    }
    if (status) {
        return status;
    }
    if (!whole) {
        return lq__unpack_partial(u, dst, at, &ref, ref.first_token - run.desc.first_token, page,
                                  (size_t)skip, *found);
    }
    if (b->count == 0) {
        b->at = at;
        b->first = ref.first_token - run.desc.first_token;
    }
    b->last = ref;
    b->pages[b->count] = page;
    b->page_bytes[b->count++] = ref.bytes;
    b->tokens += *found;
    return LQ_OK;
}

LQ__STATIC int lq__unpack_range(lq__unpack *u, const lq_vectors_out *dst, uint64_t first,
                                size_t tokens)
{
    lq__unpack_batch b;
    size_t at = 0;
    memset(&b, 0, sizeof b);
    while (at < tokens) {
        size_t found = 0;
        int status = lq__unpack_page(u, &b, dst, first + at, at, tokens - at, &found);
        if (status) {
            return status;
        }
        at += found;
    }
    return lq__unpack_flush(u, &b, dst);
}

LQ_API int lq_archive_unpack(const lq_archive_reader *reader, const lq_archive_unpack_desc *desc,
                             const lq_vectors_out *dst, uint64_t first, size_t tokens,
                             void *workspace, size_t workspace_bytes)
{
    lq__arena arena = lq__arena_of(workspace, workspace_bytes);
    lq__unpack u;
    size_t slices = 0;
    int status;
    if (!reader || !desc || !dst || !dst->slices || lq_type_bytes(dst->type) == 0) {
        return LQ_E_ARG;
    }
    if (desc->group >= reader->group_count || tokens > UINT64_MAX - first) {
        return LQ_E_RANGE;
    }
    memset(&u, 0, sizeof u);
    u.reader = reader;
    u.desc = desc;
    u.dims = lq__group_dims(reader, desc->group, &slices);
    u.rows = u.dims + slices;
    u.sizes = lq__codec_sizes_of(u.dims, slices);
    if (lq__unpack_place(&u, &arena, slices)) {
        return LQ_E_SPACE;
    }
    status = lq__unpack_geometry(&u, slices);
    return status ? status : lq__unpack_range(&u, dst, first, tokens);
}
/* ================================================================================================
   >>dispatch   CPU level, kernel tables
   ============================================================================================== */
#if LQ__X86
#include <cpuid.h>

LQ__STATIC uint64_t lq__xgetbv(void)
{
    uint32_t low;
    uint32_t high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

/* What CPU and operating system offer: 0, 1 (AVX2, F16C, BMI2) or 2 (AVX-512 F BW DQ VL VBMI VBMI2
   VNNI). */
LQ__STATIC int lq__cpu_detect(void)
{
    uint32_t a;
    uint32_t b;
    uint32_t c;
    uint32_t d;
    uint64_t enabled;
    const uint32_t avx2 = 1u << 3 | 1u << 5 | 1u << 8;                 /* BMI AVX2 BMI2
    */
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL
    */
    const uint32_t avx512_c = 1u << 1 | 1u << 6 | 1u << 11;            /* VBMI VBMI2 VNNI */
    const uint32_t base = 1u << 23 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29; /* POPCNT XSAVE
    .. */
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & base) != base) {
        return 0;
    }
    enabled = lq__xgetbv();
    if ((enabled & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) != avx2) {
        return 0;
    }
    return (enabled & 0xe6) == 0xe6 && (b & avx512) == avx512 && (c & avx512_c) == avx512_c ? 2 : 1;
}
#else
LQ__STATIC int lq__cpu_detect(void)
{
    return 0;
}
#endif

/* The only state: the level in force plus one, 0 while it is not known. */
#if defined(__GNUC__) || defined(__clang__)
static int lq__cpu_state;
#define LQ__LOAD_RELAXED(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define LQ__STORE_RELAXED(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#else
static volatile long lq__cpu_state;
#define LQ__LOAD_RELAXED(p) (*(p))
#define LQ__STORE_RELAXED(p, v) (*(p) = (v))
#endif

static int lq__cpu_level(void)
{
    int state = (int)LQ__LOAD_RELAXED(&lq__cpu_state);
    if (state == 0) {
        state = lq__cpu_detect() + 1;
        LQ__STORE_RELAXED(&lq__cpu_state, state);
    }
    return state - 1;
}

LQ_API int lq_cpu_limit(int level)
{
    int most = lq__cpu_detect();
    level = level < 0 || level > most ? most : level;
    LQ__STORE_RELAXED(&lq__cpu_state, level + 1);
    return level;
}

LQ_API int lq_cpu_level(void)
{
    return lq__cpu_level();
}

static const lq__row_kernels *lq__rows_of_level(void)
{
#define LQ__ROWS(v)                                                                          \
    {                                                                                        \
        lq__fixed_row_##v, lq__scale_row_##v, lq__sincos_row_##v, lq__rope_rows_##v,         \
            lq__butterfly_rows_##v, lq__z_row_##v, lq__d4_rows_##v, lq__e8_rows_##v,         \
            lq__centroid_row_##v, lq__float_row_##v, lq__rope_floats_##v, lq__store_row_##v, \
            lq__butterfly_##v, lq__product_##v, lq__energy_rows_##v, lq__pair_rows_##v,      \
            lq__shift_rows_##v, lq__center_floats_##v, lq__turn_rows_##v                     \
    }
#if LQ__X86
    static const lq__row_kernels table[3] = {LQ__ROWS(c), LQ__ROWS(avx2), LQ__ROWS(avx512)};
#else
    static const lq__row_kernels table[1] = {LQ__ROWS(c)};
#endif
#undef LQ__ROWS
    return &table[lq__cpu_level()];
}

/* ================================================================================================
   >>end   undefinitions, change log, licence
   ============================================================================================== */
#if LQ__X86 && defined(__cplusplus) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#ifndef LQ__KEEP_INTERNALS /* a test of the library's insides keeps them */
#undef LQ__INLINE
#undef LQ__STATIC
#undef LQ__X86
#undef LQ__TARGET_AVX2
#undef LQ__TARGET_AVX512
#undef LQ__MIN
#undef LQ__MAX
#undef LQ__TOKENS
#undef LQ__HADAMARD_MAX
#undef LQ__ONE
#undef LQ__MULADD_AVX2
#undef LQ__LOAD_AVX2
#undef LQ__STORE_AVX2
#undef LQ__LOAD_AVX512
#undef LQ__STORE_AVX512
#undef LQ__MULADD_AVX512
#undef LQ__RANS_SIMD
#undef LQ__TOKENS_MAX
#undef LQ__LANES
#undef LQ__FLIGHT
#undef LQ__FLIGHT_ENCODE
#undef LQ__TAIL
#undef LQ__BIG
#undef LQ__MASS_COUNT
#undef LQ__AT_0
#undef LQ__AT_1_4
#undef LQ__AT_1_2
#undef LQ__AT_3_4
#undef LQ__AT_0_PLAIN
#undef LQ__FREQ_NARROW
#undef LQ__BY_COSET
#undef LQ__BY_PARITY
#undef LQ__BY_BOTH
#undef LQ__KEEP_IN_REGISTER
#undef LQ__OPAQUE
#undef LQ__INLINE_256
#undef LQ__INLINE_512
#undef LQ__STATIC_256
#undef LQ__STATIC_512
#undef LQ__FRAME_256
#undef LQ__FRAME_512
#undef LQ__HIDE_CONSTANT
#undef LQ__ROW_BYTES
#undef LQ__EACH_OF_8
#undef LQ__PAYLOAD_BYTES
#undef LQ__RAW_BYTES
#undef LQ__DIMS_MAX
#undef LQ__SLICES_MAX
#undef LQ__GAIN_MAX
#undef LQ__DEAD_DELTA
#undef LQ__PROFILE_HEADER
#undef LQ__TRAILER
#undef LQ__IN_FLIGHT
#undef LQ__SHIFTED_MAX
#undef LQ__RICE_ONES
#undef LQ__PROFILE_MAGIC
#undef LQ__DENSE_FIXED
#undef LQ__DENSE_Q
#undef LQ__DENSE_EXPONENT
#undef LQ__EIGEN_APART
#undef LQ__EIGEN_EPS
#undef LQ__EIGEN_PANEL
#undef LQ__EIGEN_BLOCK
#undef LQ__EIGEN_LEAF
#undef LQ__EIGEN_ROWS
#undef LQ__EIGEN_DEPTH
#undef LQ__EIGEN_TALL
#undef LQ__EIGEN_ROWS_OF
#undef LQ__EIGEN_WIDE
#undef LQ__EIGEN_COLUMNS
#undef LQ__EIGEN_ZERO
#undef LQ__EIGEN_LOAD
#undef LQ__EIGEN_MUL_ADD
#undef LQ__EIGEN_KEEP
#undef LQ__EIGEN_ROW_ZERO
#undef LQ__EIGEN_ROW_MUL_ADD
#undef LQ__EIGEN_ROW_KEEP
#undef LQ__EIGEN_2_ROWS
#undef LQ__EIGEN_4_ROWS
#undef LQ__EIGEN_8_ROWS
#undef LQ__CLASS_LIVE
#undef LQ__FIT_PRIOR
#undef LQ__KLT_DISTANCES
#undef LQ__RING
#undef LQ__LOAD_RELAXED
#undef LQ__STORE_RELAXED
#endif
#endif /* LATTICEQUANT_IMPLEMENTATION */

/* Change log
   0.1.0  transforms, Z, D4 and E8, rANS coder, fitted and calibrated profiles, pages, archive, rate
          control. Formats version 1.

   MIT License

   Copyright (c) 2026 The latticequant.h authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
   associated documentation files (the "Software"), to deal in the Software without restriction,
   including without limitation the rights to use, copy, modify, merge, publish, distribute,
   sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
   furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all copies or
   substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
   BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
   NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
   DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
