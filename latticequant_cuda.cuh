/* latticequant_cuda.cuh 0.1.0 - the live cache of latticequant.h on NVIDIA GPUs, in one file
   SPDX-License-Identifier: MIT (text in latticequant.h)

   >>readme
   Pages of 8, 4, 3 or 2 bits a number, or E8 at 4, which lie in device memory in the order in which
   the tensor cores take them: appended to, sealed to the same bytes as on the CPU, attended as the
   integers that they are, and exchanged with latticequant.h without loss; and coded pages of
   archives decoded. Needs the CUDA Toolkit alone; compute capability 8.0 or newer.

       #include "latticequant.h"                    its implementation: here, or in a .c file
       #define LATTICEQUANT_CUDA_IMPLEMENTATION     in one .cu file
       #include "latticequant_cuda.cuh"

       lq_cuda_layer_init(&layer, pool, pool_bytes, state, state_bytes, &desc);     of each layer
       lq_cuda_append(&layer, &batch, &k, &v, stream);                              in each step
       lq_cuda_attend(&layer, &batch, &attend, stream);

       lq_cuda_codec_init(&codec, mem, mem_bytes, staging, staging_bytes, &codec_desc, stream);
       lq_cuda_decode(&codec, &vectors, &coded, workspace, workspace_bytes, stream);

       nvcc -O3 -arch=sm_90 examples/cuda_decode.cu -o cuda_decode && ./cuda_decode
       with -arch=sm_90a lq_cuda_decode uses wgmma on Hopper

   ------------------------------------------------------------------------------------------------
   >>manual
   Contents (search for the tag):
     >>readme >>manual   this comment
     >>config >>types    instances, descriptors
     >>api               declarations
     >>layout            implementation from here: kinds, a page's layout, plans of memory, host
                         copies
     >>turn              vectors to integers, as >>turn and >>seal of latticequant.h
     >>append            means, pages sealed, raw tokens kept
     >>stream            pages into shared memory
     >>attend            attention of a step's queries
     >>transfer          saved caches to the device and back
     >>restore           coded pages of archives to vectors
     >>end               undefinitions

   CONCEPTS (those of latticequant.h; in addition)
   slot     a sequence's place in the state of a layer: raw tokens, sums, means. One for each
            sequence that can live at a time.
   page     64 tokens of all kv heads of a layer, keys and values. Pages lie in a pool; a sequence's
            page table names its pages in order: page j holds the tokens sinks + 64 j and on. A page
            id is the same in the pools of all layers.
   batch    the sequences of a launch: slots, tokens before this step, tokens in this step, page
            tables.
   codec    what decodes the coded pages of one group: its profile, basis and step (lq_codec_desc),
            as the device has it. Pages of a group are decoded in one call; a prefix of many layers
            is many calls, best in a few streams, so that one layer's streams of bits are read while
            another's basis is multiplied. What comes out is for an engine's own cache, or for
            lq_cuda_append.
   The caller hands out page ids and slots and counts tokens; all of it is read on the device, so
   that a step can be captured in a graph. A page id may stand in several tables (forks share full
   pages). A sequence of n tokens needs lq_cuda_pages_of(&desc, n) of them.

   MEMORY of the caller, all of it on the device
     pool       lq_cuda_pool_bytes, aligned to 128: pages of one layer
     state      lq_cuda_state_bytes, aligned to 128: of one layer; zeros before its first use
                (lq_cuda_clear for a slot that is used again)
     workspace  lq_cuda_attend_workspace_bytes, aligned to 128, zeros before its first use; may
                serve all layers of the same dims and all calls of one stream
     codec      lq_cuda_codec_bytes, aligned to 128; to decode lq_cuda_decode_workspace_bytes,
                aligned to 128, with anything in it, not shared by calls that may run at the same
                time
   Functions allocate nothing, never synchronise and keep no pointers. They return LQ_OK, LQ_E_ARG,
   LQ_E_SPACE, or LQ_E_INTERNAL where a launch failed (cudaGetLastError tells why).

   BAD INPUT. Page ids, slots and token counts are checked on the device; what is out of range sets
   a bit in batch.flags, and is left out or cut. Any bytes may stand in pages: levels and scales are
   then wrong, nothing else is. Of coded pages the same ones are refused, by a bit of flags, that
   lq_codec_decode refuses.

   PAGE ON THE DEVICE, layout 1. Of a page each head has its own part, `head bytes`
   (lq_cuda_page_bytes over kv heads), a multiple of 16:
   .- part of a head ---------------------------------------------------------------------------.
   | levels of K  | levels of V  | scales of K u8[64] | scales of V u8[64] | header u8[16]       |
   '--------------------------------------------------------------------------------------------'
     header   i8 base of K's scales, i8 of V's; u8 1: some scale of K is 0; u8 the same of V; zeros
     unit     8 levels: of K 8 dims of a token, from a multiple of 8 on; of V 8 tokens of a dim.
              `steps` is dims / 32 rounded up (80 dims have the room of 96).
              K  token 8 g + j, dims 32 i + 8 t ..:   lane 4 g + t, unit j steps + i
              V  dim 8 d + g, tokens 8 (4 s + t) ..:  lane 4 g + t, unit 4 s steps + d
     words    4 units of a lane, 4 n .. 4 n + 3, are a group of W 32-bit words: Z8 8, Z4 and E8 4,
              Z3 3, Z2 2. Word p of group n of a lane is word
              ((n (W / v) + p / v) 32 + lane) v + p mod v of its levels, v = min(W, 4) (Z3: 1)
              Z8  unit k has words 2 k and 2 k + 1, a byte a level: code xor 128
              Z4  unit k is word k, nibble e is code e; E8 the same
              Z3  nibble e of word k has code e of unit k in its low three bits, for k < 3, and bit
                  k of code e of unit 3 above them
              Z2  half k mod 2 of word k / 2; codes 0 .. 3 from bit 4 e on, 4 .. 7 from bit 4 e - 14
     Codes, scales and bases are those of tiles ("Hot tiles" of latticequant.h); the coset of E8 is
     the parity of a unit, as there. So tiles become pages and pages tiles by moving bits alone.
     A lane has its fragments of A of m16n8k32: of K 16 tokens by 32 dims, of V 16 dims by 32
     tokens; and the words of a granule, eight tokens that are sealed together, are nobody else's.

   WHAT IT DOES NOT DO
   Keys whose RoPE the cache knows (lq_kv_desc.rope: keys with a bias), keys and values of unlike
   dims or kinds, 6 and 5 bits, MLA, windows below 24, warm pages, saving from the device, coded
   pages other than of Z in dense bases, runs with an order (whose pages have steps of their own),
   encoding them, attention to them as they are, prefill kernels (a prompt is appended in one call,
   but attends 8 queries at a time), eviction, truncation, shifts. */

/* ================================================================================================
   >>config   instances                                                       >>types   descriptors
   ============================================================================================== */
#ifndef LATTICEQUANT_CUDA_H
#define LATTICEQUANT_CUDA_H

#ifndef LATTICEQUANT_H
#include "latticequant.h"
#endif
#include <cuda_runtime_api.h>

#ifdef __cplusplus
#define LQ_CUDA_API extern "C" LQ_MUST
#else
#define LQ_CUDA_API extern LQ_MUST
#endif

/* Bits of lq_cuda_batch.flags. */
enum {
    LQ_CUDA_BAD_PAGE = 1,   /* an id outside the pool, or more tokens than the table has pages */
    LQ_CUDA_BAD_SLOT = 2,   /* outside the state */
    LQ_CUDA_BAD_COUNT = 4,  /* more tokens in a step than batch.most */
    LQ_CUDA_BAD_NUMBER = 8, /* NaN, infinity, bf16 above 2^120: keys, values, queries, logits */
    LQ_CUDA_CUT = 16,       /* vectors much smaller than others of their page became zeros */
    LQ_CUDA_BAD_DATA = 32   /* a coded page is damaged, or none of the codec */
};

/* A layer's cache.
     kv_heads   1 .. 1024
     dims       of a head, keys and values: a multiple of 16 that an instance covers
     quantizer, bits  as in lq_kv_policy: LQ_Z (default 0) with 8, 4 (default 0), 3, 2; LQ_E8 with 4
     type       of raw tokens, and of keys and values that come: LQ_F16 (default 0) or LQ_BF16
     sinks      default 0 means 4; LQ_KV_NONE: none; at most 64
     window     default 0 means 64; at least 24 and at most 65536
     sequences  slots
     pages      in the pool
     table      entries of each page table: pages that a sequence can have, at most 65536 */
typedef struct lq_cuda_desc {
    uint32_t kv_heads;
    uint32_t dims;
    int quantizer;
    int bits;
    int type;
    uint32_t sinks;
    uint32_t window;
    uint32_t sequences;
    uint32_t pages;
    uint32_t table;
} lq_cuda_desc;

typedef struct lq_cuda_layer {
    lq_cuda_desc desc; /* nothing left to a default */
    uint8_t *pool;
    uint8_t *state;
} lq_cuda_layer;

/* The sequences of a launch; arrays are on the device.
     count   1 .. 1024
     most    tokens that a sequence may get in this step, at most: an upper bound for the launch
     slots   (count); NULL: 0, 1 ..
     tokens  (count) of each sequence before this step
     added   (count) of each in this step; NULL: `most` of each
     tables  (count, desc.table) page ids
     flags   one word: bits are set where something is wrong */
typedef struct lq_cuda_batch {
    uint32_t count;
    uint32_t most;
    const uint32_t *slots;
    const uint32_t *tokens;
    const uint32_t *added;
    const uint32_t *tables;
    uint32_t *flags;
} lq_cuda_batch;

/* Vectors on the device: element d of head h of token t of sequence s lies at s * sequence_stride +
   t * token_stride + h * head_stride + d, in elements of the layer's type. All but d come in
   multiples of 8, and data is aligned to 16. */
typedef struct lq_cuda_view {
    const void *data;
    size_t sequence_stride;
    size_t token_stride;
    size_t head_stride;
} lq_cuda_view;

/* Attention of the last `queries` tokens of each sequence, this step's included.
     heads      query heads, a multiple of kv_heads
     queries    1 .. 8; default 0 means 1
     type       of q and out: LQ_F16 (default 0), LQ_BF16, LQ_F32
     q, out     (count, queries, heads, dims), with RoPE; aligned to 16
     scale      default 0 means 1 / sqrt(dims)
     softcap, window, window_sinks, slopes  as in lq_kv_attend_desc; window default 0: none; slopes
                (heads) on the device. Positions are token numbers
     lse        (count, queries, heads), LQ_KV_NOTHING where nothing was seen; default NULL
     workspace  see the manual */
typedef struct lq_cuda_attend_desc {
    uint32_t heads;
    uint32_t queries;
    int type;
    const void *q;
    void *out;
    float scale;
    float softcap;
    uint32_t window;
    int window_sinks;
    const float *slopes;
    float *lse;
    void *workspace;
    size_t workspace_bytes;
} lq_cuda_attend_desc;

/* ================================================================================================
   >>api
   ============================================================================================== */
/* Whether a descriptor is valid and has an instance: LQ_OK, LQ_E_ARG. */
LQ_CUDA_API int lq_cuda_check(const lq_cuda_desc *desc);

/* Sizes; 0: desc is not valid. */
LQ_CUDA_API size_t lq_cuda_page_bytes(const lq_cuda_desc *desc);
LQ_CUDA_API size_t lq_cuda_pool_bytes(const lq_cuda_desc *desc);
LQ_CUDA_API size_t lq_cuda_state_bytes(const lq_cuda_desc *desc);

/* Pages that a sequence of so many tokens takes, and tokens of them that are in pages. */
LQ_CUDA_API uint32_t lq_cuda_pages_of(const lq_cuda_desc *desc, uint32_t tokens);
LQ_CUDA_API uint32_t lq_cuda_sealed_of(const lq_cuda_desc *desc, uint32_t tokens);

/* Makes a layer of memory on the device. LQ_E_ARG: NULL, not valid, or not aligned to 128;
   LQ_E_SPACE: fewer bytes than the functions above say. */
LQ_CUDA_API int lq_cuda_layer_init(lq_cuda_layer *layer, void *pool, size_t pool_bytes, void *state,
                                   size_t state_bytes, const lq_cuda_desc *desc);

/* Makes a slot that of an empty sequence. */
LQ_CUDA_API int lq_cuda_clear(const lq_cuda_layer *layer, uint32_t slot, cudaStream_t stream);

/* Makes slot `to` that of a sequence like `from`, and page to_page a copy of from_page, which is
   the one that is not full (LQ_KV_NONE: there is none). Full pages are shared: their ids stand in
   both tables. */
LQ_CUDA_API int lq_cuda_fork(const lq_cuda_layer *layer, uint32_t to, uint32_t from,
                             uint32_t to_page, uint32_t from_page, cudaStream_t stream);

/* Appends the tokens of a step to all sequences of a batch: what leaves their windows is sealed, to
   the bytes that lq_kv_append makes of the same vectors, the others are kept raw. Keys come with
   their RoPE. Page tables must have ids for the tokens after this step. */
LQ_CUDA_API int lq_cuda_append(const lq_cuda_layer *layer, const lq_cuda_batch *batch,
                               const lq_cuda_view *k, const lq_cuda_view *v, cudaStream_t stream);

/* Bytes of workspace for batches of up to `count` sequences on the current device; 0: not valid. */
LQ_CUDA_API size_t lq_cuda_attend_workspace_bytes(const lq_cuda_desc *desc, uint32_t heads,
                                                  uint32_t queries, uint32_t count);

/* Attention of a batch that has been appended to. Sums of floats: equal from run to run for the
   same batch on the same device. */
LQ_CUDA_API int lq_cuda_attend(const lq_cuda_layer *layer, const lq_cuda_batch *batch,
                               const lq_cuda_attend_desc *desc, cudaStream_t stream);

/* A page's part of head h (of lq_cuda_page_bytes / kv_heads bytes) in host memory, from tiles of
   latticequant.h and back, for all bytes of tiles alike: k_tile and v_tile have dims * 8 * bits +
   64 bytes, the layout of "Hot tiles" there. tokens: those from there on are left out (zeros).
   LQ_E_ARG: NULL, or desc not valid. */
LQ_CUDA_API int lq_cuda_part_from_tiles(uint8_t *part, const lq_cuda_desc *desc,
                                        const uint8_t *k_tile, const uint8_t *v_tile, int k_base,
                                        int v_base, uint32_t tokens);
LQ_CUDA_API int lq_cuda_part_to_tiles(uint8_t *k_tile, uint8_t *v_tile, int *k_base, int *v_base,
                                      const lq_cuda_desc *desc, const uint8_t *part,
                                      uint32_t tokens);

/* The same on the device, of `count` pages of a layer: ids (count) on the device; tiles of K
   (count, kv heads, dims * 8 * bits + 64), likewise V; bases (count, 2, kv_heads) i8; tokens
   (count), NULL: 64. Ids outside the pool set flags. */
LQ_CUDA_API int lq_cuda_pages_from_tiles(const lq_cuda_layer *layer, const uint32_t *ids,
                                         uint32_t count, const uint8_t *k_tiles,
                                         const uint8_t *v_tiles, const int8_t *bases,
                                         const uint32_t *tokens, uint32_t *flags,
                                         cudaStream_t stream);
LQ_CUDA_API int lq_cuda_pages_to_tiles(const lq_cuda_layer *layer, const uint32_t *ids,
                                       uint32_t count, uint8_t *k_tiles, uint8_t *v_tiles,
                                       int8_t *bases, const uint32_t *tokens, uint32_t *flags,
                                       cudaStream_t stream);

/* A sequence of a saved cache (lq_kv_save, lq_kv_export) to the device: the layer of number
   `number` in the file goes into slot `slot` and the pages `ids` (host memory, lq_cuda_pages_of),
   and goes on as it would on the CPU.
     sequence   its name in the archive
     tokens     becomes how many it has, also where LQ_E_SPACE comes back
     staging    host memory (best pinned), in use until the stream gets there
     staging_bytes  lq_cuda_load_bytes
   LQ_E_ARG; LQ_E_SPACE: staging, or fewer than the pages that are needed; LQ_E_RANGE: no such
   sequence or layer; LQ_E_FORMAT: not a cache like this layer, or with what the manual says is not
   done; LQ_E_FULL: more pages than desc.table; LQ_E_DATA: damaged; LQ_E_IO. Safe for untrusted
   input. */
LQ_CUDA_API size_t lq_cuda_load_bytes(const lq_cuda_desc *desc, uint32_t tokens);
LQ_CUDA_API int lq_cuda_load(const lq_cuda_layer *layer, uint32_t slot, const uint32_t *ids,
                             size_t id_count, const lq_archive_reader *reader, uint64_t sequence,
                             uint32_t number, uint32_t *tokens, void *staging, size_t staging_bytes,
                             cudaStream_t stream);

/* ---- coded pages of archives, decoded on the device ---- */
/* A page codec on the device: what lq_codec_init makes of a descriptor, as device memory has it.
   Private but for the first two; valid as long as its memory.
     gains  of a token
     dims   of the group */
typedef struct lq_cuda_codec {
    uint32_t gains;
    uint32_t dims;
    uint8_t *mem;
    float step;
    uint32_t profile_index;
    uint32_t wide;     /* coefficients, the last that is not dead and before, to a multiple of 64 */
    uint32_t lead;     /* gains, to a multiple of 8 */
    uint32_t raw_rows; /* rows with raw bits, and the bits of a token */
    uint32_t raw_bits;
    uint32_t tables;
    uint32_t tiles; /* of 128 dims */
    uint32_t waves; /* pairs of all ropes */
    size_t coded;   /* where each of its arrays begins */
    size_t raws;
    size_t columns;
    size_t means;
    size_t planes;
    size_t quads;
    size_t turns;
    size_t bytes;
} lq_cuda_codec;

/* Pages of a codec, all on the device.
     bytes, bytes_count  memory that they are in, aligned to 16; below 2 GB a page
     offsets    (ceil(tokens / 64)) where in it each begins
     sizes      of each page, its trailer included
     tokens     1 ..: page i has tokens 64 i .. 64 i + 63, the last one those that are left
     positions  (tokens); NULL: first + i * stride. Not read where no slice has a RoPE
     stride     default 0 means 1
     flags      one word: LQ_CUDA_BAD_DATA is set where a page is none of this codec */
typedef struct lq_cuda_pages {
    const uint8_t *bytes;
    size_t bytes_count;
    const uint64_t *offsets;
    const uint32_t *sizes;
    uint32_t tokens;
    const int64_t *positions;
    int64_t first;
    int64_t stride;
    uint32_t *flags;
} lq_cuda_pages;

/* Where vectors go: element d of token t of slice s to slices[s] + t * token_stride + d, in
   elements of `type`, LQ_F16 (default 0) or LQ_BF16. slices: on the device, pointers to there.
   Into pages of an engine's own cache, if block_tokens is not 0: token t then lies at
   slices[s] + blocks[t / block_tokens] * block_stride + t mod block_tokens * token_stride.
     blocks  on the device, below block_count: others set LQ_CUDA_BAD_PAGE, and get nothing */
typedef struct lq_cuda_vectors {
    void *const *slices;
    size_t token_stride;
    int type;
    const uint32_t *blocks;
    uint32_t block_count;
    uint32_t block_tokens;
    size_t block_stride;
} lq_cuda_vectors;

/* Bytes of device memory for a codec, and of host memory to make it in; 0: desc is not one that the
   device decodes. */
LQ_CUDA_API size_t lq_cuda_codec_bytes(const lq_codec_desc *desc);
LQ_CUDA_API size_t lq_cuda_codec_staging_bytes(const lq_codec_desc *desc);

/* Makes a codec in device memory. The device decodes coded pages of LQ_Z in dense bases: of keys,
   of values, of both. Takes milliseconds on the host for a basis of 2,048 dims.
     mem      aligned to 128
     staging  host memory (best pinned), aligned to 16, in use until the stream gets there
   LQ_E_ARG: NULL, not aligned, a descriptor that is not valid; LQ_E_FORMAT: pages of another code,
   quantizer or basis, a profile that does not fit; LQ_E_RANGE: as lq_codec_init; LQ_E_SPACE. */
LQ_CUDA_API int lq_cuda_codec_init(lq_cuda_codec *codec, void *mem, size_t mem_bytes, void *staging,
                                   size_t staging_bytes, const lq_codec_desc *desc,
                                   cudaStream_t stream);

/* Bytes of workspace on the device to decode so many tokens in one call; 0: NULL or too many. */
LQ_CUDA_API size_t lq_cuda_decode_workspace_bytes(const lq_cuda_codec *codec, uint32_t tokens);

/* Pages to vectors: the integers are those of lq_codec_decode, up to the matrix' sums; floats
   behind them have its 24 bits, but are rounded once more: of a million numbers of f16 about 50 are
   the next ones.
     workspace  aligned to 128, of lq_cuda_decode_workspace_bytes(codec, pages->tokens)
   LQ_E_ARG, LQ_E_SPACE, LQ_E_INTERNAL as above. Any bytes may stand in pages: vectors are then
   anything, and a flag tells. */
LQ_CUDA_API int lq_cuda_decode(const lq_cuda_codec *codec, const lq_cuda_vectors *dst,
                               const lq_cuda_pages *pages, void *workspace, size_t workspace_bytes,
                               cudaStream_t stream);

#endif /* LATTICEQUANT_CUDA_H */

/* ================================================================================================
   >>layout   kinds, a page's layout, plans of memory, copies on the host
   ============================================================================================== */
#if defined(LATTICEQUANT_CUDA_IMPLEMENTATION) && !defined(LATTICEQUANT_CUDA_ONCE)
#define LATTICEQUANT_CUDA_ONCE
#ifndef __CUDACC__
#error "the implementation of latticequant_cuda.cuh is for nvcc"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <string.h>

/* What is compiled: kind and dims up to a multiple of 32 (64, 96, 128, 192, 256; 96 serves 80).
   Define it before the #include for others. */
#ifndef LQ_CUDA_INSTANCES
#define LQ_CUDA_INSTANCES(X) X(Z4, 128) X(E8, 128)
#endif

/* kind, quantizer, bits, words of 4 units, 1: levels are looked up in two halves (>>attend) */
#define LQ__CU_KINDS(X)  \
    X(Z8, LQ_Z, 8, 8, 0) \
    X(Z4, LQ_Z, 4, 4, 1) \
    X(Z3, LQ_Z, 3, 3, 0) \
    X(Z2, LQ_Z, 2, 2, 0) \
    X(E8, LQ_E8, 4, 4, 1)

#define LQ__CU_NAME(kind, quantizer, bits, words, halves) LQ__CU_##kind,
enum { LQ__CU_NONE, LQ__CU_KINDS(LQ__CU_NAME) LQ__CU_END };
#undef LQ__CU_NAME

#define LQ__CU_BOTH static __host__ __device__ __forceinline__
#define LQ__CU_DEVICE static __device__ __forceinline__
#define LQ__CU_TOKENS 64u
#define LQ__CU_NOTHING (-1e30f)
#define LQ__CU_SEQUENCES 1024u /* of a batch */

static __host__ __device__ constexpr int lq__cu_words(int kind)
{
#define LQ__CU_ROW(name, quantizer, bits, words, halves) kind == LQ__CU_##name ? words:
    return LQ__CU_KINDS(LQ__CU_ROW) 0;
#undef LQ__CU_ROW
}

static __host__ __device__ constexpr int lq__cu_bits(int kind)
{
#define LQ__CU_ROW(name, quantizer, bits, words, halves) kind == LQ__CU_##name ? bits:
    return LQ__CU_KINDS(LQ__CU_ROW) 0;
#undef LQ__CU_ROW
}

static __host__ __device__ constexpr bool lq__cu_halves(int kind)
{
#define LQ__CU_ROW(name, quantizer, bits, words, halves) kind == LQ__CU_##name ? halves:
    return LQ__CU_KINDS(LQ__CU_ROW) 0;
#undef LQ__CU_ROW
}

/* Words that lie side by side in a lane's load. */
static __host__ __device__ constexpr int lq__cu_vector(int kind)
{
    return lq__cu_words(kind) == 3 ? 1 : lq__cu_words(kind) > 4 ? 4 : lq__cu_words(kind);
}

/* Word p of group n of a lane, from the first word of K's or V's levels on. */
LQ__CU_BOTH uint32_t lq__cu_word_at(int kind, uint32_t n, uint32_t p, uint32_t lane)
{
    const uint32_t v = (uint32_t)lq__cu_vector(kind);
    return ((n * ((uint32_t)lq__cu_words(kind) / v) + p / v) * 32 + lane) * v + p % v;
}

/* Where a level lies: its lane, unit and place in the unit. */
typedef struct lq__cu_place {
    uint32_t lane;
    uint32_t unit;
    uint32_t e;
} lq__cu_place;

LQ__CU_BOTH lq__cu_place lq__cu_find(int stream, uint32_t steps, uint32_t token, uint32_t dim)
{
    lq__cu_place p;
    if (stream == LQ_K) {
        p.lane = token / 8 * 4 + dim / 8 % 4;
        p.unit = token % 8 * steps + dim / 32;
        p.e = dim % 8;
    } else {
        p.lane = dim % 8 * 4 + token / 8 % 4;
        p.unit = token / 32 * 4 * steps + dim / 8;
        p.e = token % 8;
    }
    return p;
}

LQ__CU_BOTH uint32_t lq__cu_load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The code of a level; levels: those of K or V. */
LQ__CU_BOTH uint32_t lq__cu_code(const uint8_t *levels, int kind, lq__cu_place at)
{
    const uint32_t n = at.unit / 4;
    const uint32_t k = at.unit % 4;
    uint32_t code = 0;
    uint32_t b;
    switch (lq__cu_bits(kind)) {
    case 8:
        return levels[4 * lq__cu_word_at(kind, n, 2 * k + at.e / 4, at.lane) + at.e % 4] ^ 128u;
    case 4:
        return lq__cu_load32(levels + 4 * lq__cu_word_at(kind, n, k, at.lane)) >> 4 * at.e & 15u;
    case 3:
        if (k < 3) {
            return lq__cu_load32(levels + 4 * lq__cu_word_at(kind, n, k, at.lane)) >> 4 * at.e & 7u;
        }
        for (b = 0; b < 3; b++) {
            code |=
                (lq__cu_load32(levels + 4 * lq__cu_word_at(kind, n, b, at.lane)) >> (4 * at.e + 3) &
                 1u)
                << b;
        }
        return code;
    default:
        b = k % 2 * 16 + at.e % 4 * 4 + at.e / 4 * 2;
        return lq__cu_load32(levels + 4 * lq__cu_word_at(kind, n, k / 2, at.lane)) >> b & 3u;
    }
}

/* Codes of Z2, a nibble each, as 16 bits. */
LQ__CU_BOTH uint32_t lq__cu_half(uint32_t nibbles)
{
    return (nibbles & 0x3333u) | (nibbles >> 16 & 0x3333u) << 2;
}

/* A group's words from its units: a nibble a code, of Z8 two words of bytes. */
LQ__CU_BOTH void lq__cu_join(uint32_t *words, int kind, const uint32_t *units)
{
    if (kind == LQ__CU_Z2) {
        words[0] = lq__cu_half(units[0]) | lq__cu_half(units[1]) << 16;
        words[1] = lq__cu_half(units[2]) | lq__cu_half(units[3]) << 16;
        return;
    }
    if (kind == LQ__CU_Z3) {
        for (int k = 0; k < 3; k++) {
            words[k] = (units[k] & 0x77777777u) | (units[3] >> k & 0x11111111u) << 3;
        }
        return;
    }
    for (int k = 0; k < lq__cu_words(kind); k++) {
        words[k] = units[k];
    }
}

/* ---- tiles of latticequant.h ("Hot tiles" of its manual) ---- */
typedef struct lq__cu_tile_place {
    uint32_t byte;
    uint32_t shift;
    uint32_t more_byte; /* Z3's third bit */
    uint32_t more_shift;
} lq__cu_tile_place;

LQ__CU_BOTH lq__cu_tile_place lq__cu_tile_find(int kind, int stream, uint32_t dims, uint32_t token,
                                               uint32_t dim)
{
    const uint32_t fours = kind == LQ__CU_Z8 ? 1 : lq__cu_bits(kind) == 4 ? 2 : 4;
    const uint32_t lane = stream == LQ_K ? token : dim;
    const uint32_t depth = stream == LQ_K ? dim : token;
    const uint32_t vectors = (stream == LQ_K ? dims : LQ__CU_TOKENS) / 4 / fours;
    const uint32_t blocks = (stream == LQ_K ? LQ__CU_TOKENS : dims) / 16;
    const uint32_t b = lane / 16;
    const uint32_t g = b & ~3u;
    const uint32_t left = blocks - g < 4 ? blocks - g : 4;
    const uint32_t n = g * vectors + depth / 4 / fours * left + b - g;
    const uint32_t j = lane % 16 * 4 + depth % 4;
    const uint32_t q = depth / 4 % fours;
    lq__cu_tile_place p;
    p.byte = 64 * n + j;
    p.shift = 8 / fours * q;
    p.more_byte = 16 * dims + 32 * n + 8 * q + j / 8;
    p.more_shift = j % 8;
    return p;
}

LQ__CU_BOTH uint32_t lq__cu_tile_code(const uint8_t *tile, int kind, lq__cu_tile_place p)
{
    uint32_t code = tile[p.byte];
    if (kind == LQ__CU_Z8) return code;
    code = code >> p.shift & (lq__cu_bits(kind) == 4 ? 15u : 3u);
    return kind == LQ__CU_Z3 ? code | (tile[p.more_byte] >> p.more_shift & 1u) << 2 : code;
}

/* ---- plans of memory ---- */
/* What kernels know of a layer; offsets are in a slot of its state. */
typedef struct lq__cu_plan {
    uint8_t *pool;
    uint8_t *state;
    uint32_t kind;
    uint32_t heads;
    uint32_t dims;
    uint32_t steps; /* of 32 dims */
    uint32_t is_bf16;
    uint32_t sinks;
    uint32_t window;
    uint32_t ring; /* raw tokens behind the sinks: window + 8 */
    uint32_t slots;
    uint32_t pages;
    uint32_t table;
    uint32_t levels; /* bytes of K's levels, and of V's */
    uint32_t part;   /* bytes of a head in a page */
    uint32_t epochs;
    uint32_t number; /* bytes of a mean: its unit i32, i16 (dims) */
    uint32_t shape;  /* bytes of a shape: u32 stretched, u8 (dims) half octaves */
    size_t raw[2];   /* K, V: (heads, sinks + ring, dims) */
    size_t sums[2];  /* (heads, dims) i64 */
    size_t means[2]; /* (epochs of the stream, heads) */
    size_t shapes;   /* (shapes, heads) */
    size_t slot;     /* bytes */
} lq__cu_plan;

/* Epoch of page j: epochs begin with pages 0, 2, 4, 6, 8, 12, 16, 24, 32 .. */
LQ__CU_BOTH uint32_t lq__cu_epoch(uint32_t j)
{
    uint32_t octave = 0;
    uint32_t e;
    if (j < 4) return j / 2;
#ifdef __CUDA_ARCH__
    octave = 31 - (uint32_t)__clz((int)j);
#else
    while (j >> octave > 1) {
        octave++;
    }
#endif
    e = 2 * octave - 2;
    return e + (j >= 3u << (octave - 1));
}

/* The page that an epoch begins with; the inverse. */
LQ__CU_BOTH uint32_t lq__cu_epoch_page(uint32_t e)
{
    return e < 2 ? 2 * e : (2 + e % 2) << e / 2;
}

/* Tokens that are not raw, sinks included, when there are n. */
LQ__CU_BOTH uint32_t lq__cu_sealed(uint32_t sinks, uint32_t window, uint32_t n)
{
    return n > sinks + window ? sinks + (n - sinks - window) / 8 * 8 : sinks;
}

static int lq__cu_kind_of(const lq_cuda_desc *d)
{
    const int quantizer = d->quantizer ? d->quantizer : LQ_Z;
    const int bits = d->bits ? d->bits : 4;
#define LQ__CU_ROW(name, q, b, words, halves) \
    if (quantizer == (q) && bits == (b)) {    \
        return LQ__CU_##name;                 \
    }
    LQ__CU_KINDS(LQ__CU_ROW)
#undef LQ__CU_ROW
    return LQ__CU_NONE;
}

/* Whether there is an instance. */
static int lq__cu_is_compiled(int kind, uint32_t wide)
{
#define LQ__CU_ROW(name, dims) \
    if (kind == LQ__CU_##name && wide == (dims)) return 1;
    LQ_CUDA_INSTANCES(LQ__CU_ROW)
#undef LQ__CU_ROW
    return 0;
}

/* A desc with its defaults; what is wrong is found later. */
static lq_cuda_desc lq__cu_whole(const lq_cuda_desc *desc)
{
    lq_cuda_desc d = *desc;
    d.quantizer = d.quantizer ? d.quantizer : LQ_Z;
    d.bits = d.bits ? d.bits : 4;
    d.type = d.type ? d.type : LQ_F16;
    d.sinks = d.sinks ? d.sinks : 4;
    d.window = d.window ? d.window : 64;
    return d;
}

static int lq__cu_plan_init(lq__cu_plan *p, const lq_cuda_desc *d)
{
    const int kind = lq__cu_kind_of(d);
    size_t at = 0;
    memset(p, 0, sizeof *p);
    if (kind == LQ__CU_NONE || d->dims == 0 || d->dims % 16 || d->dims > 256 || d->kv_heads == 0 ||
        d->kv_heads > 1024 || (d->type != LQ_F16 && d->type != LQ_BF16) ||
        (d->sinks > 64 && d->sinks != LQ_KV_NONE) || d->window < 24 || d->window > 65536 ||
        d->sequences == 0 || d->pages == 0 || d->table == 0 || d->table > 65536 ||
        !lq__cu_is_compiled(kind, (d->dims + 31) / 32 * 32)) {
        return LQ_E_ARG;
    }
    p->kind = (uint32_t)kind;
    p->heads = d->kv_heads;
    p->dims = d->dims;
    p->steps = (d->dims + 31) / 32;
    p->is_bf16 = d->type == LQ_BF16;
    p->sinks = d->sinks == LQ_KV_NONE ? 0 : d->sinks;
    p->window = d->window;
    p->ring = d->window + 8;
    p->slots = d->sequences;
    p->pages = d->pages;
    p->table = d->table;
    p->levels = p->steps * (uint32_t)lq__cu_words(kind) * 256;
    p->part = 2 * p->levels + 2 * LQ__CU_TOKENS + 16;
    p->epochs = lq__cu_epoch(d->table - 1) + 1;
    p->number = 4 + 2 * d->dims;
    p->shape = 4 + d->dims;
    for (int v = 0; v < 2; v++) {
        p->raw[v] = at;
        at += (size_t)p->heads * (p->sinks + p->ring) * p->dims * 2;
        p->sums[v] = at;
        at += (size_t)p->heads * p->dims * 8;
        p->means[v] = at;
        at += (size_t)(v ? (p->epochs + 3) / 4 : p->epochs) * p->heads * p->number;
        at = (at + 15) / 16 * 16;
    }
    p->shapes = at;
    at += (size_t)((p->epochs + 3) / 4) * p->heads * p->shape;
    p->slot = (at + 127) / 128 * 128;
    return LQ_OK;
}

static int lq__cu_plan_of(lq__cu_plan *p, const lq_cuda_layer *layer)
{
    int status = layer ? lq__cu_plan_init(p, &layer->desc) : LQ_E_ARG;
    if (status == LQ_OK) {
        p->pool = layer->pool;
        p->state = layer->state;
    }
    return status;
}

extern "C" int lq_cuda_check(const lq_cuda_desc *desc)
{
    if (!desc) return LQ_E_ARG;
    lq_cuda_desc d = lq__cu_whole(desc);
    lq__cu_plan p;
    return lq__cu_plan_init(&p, &d);
}

extern "C" size_t lq_cuda_page_bytes(const lq_cuda_desc *desc)
{
    if (!desc) return 0;
    lq_cuda_desc d = lq__cu_whole(desc);
    lq__cu_plan p;
    return lq__cu_plan_init(&p, &d) == LQ_OK ? (size_t)p.part * p.heads : 0;
}

extern "C" size_t lq_cuda_pool_bytes(const lq_cuda_desc *desc)
{
    return desc ? lq_cuda_page_bytes(desc) * desc->pages : 0;
}

extern "C" size_t lq_cuda_state_bytes(const lq_cuda_desc *desc)
{
    if (!desc) return 0;
    lq_cuda_desc d = lq__cu_whole(desc);
    lq__cu_plan p;
    return lq__cu_plan_init(&p, &d) == LQ_OK ? p.slot * p.slots : 0;
}

extern "C" uint32_t lq_cuda_sealed_of(const lq_cuda_desc *desc, uint32_t tokens)
{
    if (!desc) return 0;
    lq_cuda_desc d = lq__cu_whole(desc);
    d.sinks = d.sinks == LQ_KV_NONE ? 0 : d.sinks;
    return lq__cu_sealed(d.sinks, d.window, tokens) - d.sinks;
}

extern "C" uint32_t lq_cuda_pages_of(const lq_cuda_desc *desc, uint32_t tokens)
{
    return (lq_cuda_sealed_of(desc, tokens) + 63) / 64;
}

extern "C" int lq_cuda_layer_init(lq_cuda_layer *layer, void *pool, size_t pool_bytes, void *state,
                                  size_t state_bytes, const lq_cuda_desc *desc)
{
    if (!layer || !pool || !state || lq_cuda_check(desc) != LQ_OK || (uintptr_t)pool % 128 ||
        (uintptr_t)state % 128) {
        return LQ_E_ARG;
    }
    if (pool_bytes < lq_cuda_pool_bytes(desc) || state_bytes < lq_cuda_state_bytes(desc)) {
        return LQ_E_SPACE;
    }
    layer->desc = lq__cu_whole(desc);
    layer->pool = (uint8_t *)pool;
    layer->state = (uint8_t *)state;
    return LQ_OK;
}

static int lq__cu_launched(void)
{
    return cudaPeekAtLastError() == cudaSuccess ? LQ_OK : LQ_E_INTERNAL;
}

extern "C" int lq_cuda_clear(const lq_cuda_layer *layer, uint32_t slot, cudaStream_t stream)
{
    lq__cu_plan p;
    if (lq__cu_plan_of(&p, layer) != LQ_OK || slot >= p.slots) return LQ_E_ARG;
    return cudaMemsetAsync(p.state + slot * p.slot, 0, p.slot, stream) == cudaSuccess
               ? LQ_OK
               : LQ_E_INTERNAL;
}

extern "C" int lq_cuda_fork(const lq_cuda_layer *layer, uint32_t to, uint32_t from,
                            uint32_t to_page, uint32_t from_page, cudaStream_t stream)
{
    const cudaMemcpyKind kind = cudaMemcpyDeviceToDevice;
    lq__cu_plan p;
    if (lq__cu_plan_of(&p, layer) != LQ_OK || to >= p.slots || from >= p.slots || to == from) {
        return LQ_E_ARG;
    }
    size_t page = (size_t)p.part * p.heads;
    if (from_page != LQ_KV_NONE) {
        if (from_page >= p.pages || to_page >= p.pages || from_page == to_page) return LQ_E_ARG;
        if (cudaMemcpyAsync(p.pool + to_page * page, p.pool + from_page * page, page, kind,
                            stream) != cudaSuccess) {
            return LQ_E_INTERNAL;
        }
    }
    return cudaMemcpyAsync(p.state + to * p.slot, p.state + from * p.slot, p.slot, kind, stream) ==
                   cudaSuccess
               ? LQ_OK
               : LQ_E_INTERNAL;
}

/* ---- tiles to parts of pages and back ---- */
/* Group n of a lane of K's or V's levels from a tile; columns from `tokens` on are zeros. */
LQ__CU_BOTH void lq__cu_group_from_tile(uint8_t *levels, const uint8_t *tile, int kind, int stream,
                                        uint32_t dims, uint32_t steps, uint32_t n, uint32_t lane,
                                        uint32_t tokens)
{
    uint32_t units[8];
    for (uint32_t k = 0; k < 8; k++) {
        units[k] = 0;
    }
    for (uint32_t k = 0; k < 32; k++) {
        const uint32_t unit = 4 * n + k / 8;
        uint32_t dim;
        uint32_t code = 0;
        uint32_t e = k % 8;
        uint32_t token;
        if (stream == LQ_K) {
            token = lane / 4 * 8 + unit / steps;
            dim = unit % steps * 32 + lane % 4 * 8 + e;
        } else {
            token = (unit / (4 * steps) * 4 + lane % 4) * 8 + e;
            dim = unit % (4 * steps) * 8 + lane / 4;
        }
        if (token < tokens && dim < dims) {
            code = lq__cu_tile_code(tile, kind, lq__cu_tile_find(kind, stream, dims, token, dim));
        }
        if (kind == LQ__CU_Z8) {
            units[k / 4] |= (code ^ 128u) << k % 4 * 8;
        } else {
            units[k / 8] |= code << 4 * e;
        }
    }
    uint32_t words[8];
    lq__cu_join(words, kind, units);
    for (uint32_t k = 0; k < (uint32_t)lq__cu_words(kind); k++) {
        uint8_t *to = levels + 4 * lq__cu_word_at(kind, n, k, lane);
        to[0] = (uint8_t)words[k];
        to[1] = (uint8_t)(words[k] >> 8);
        to[2] = (uint8_t)(words[k] >> 16);
        to[3] = (uint8_t)(words[k] >> 24);
    }
}

/* Byte i of a tile's levels from a part of a page. */
LQ__CU_BOTH uint8_t lq__cu_tile_byte(const uint8_t *levels, int kind, int stream, uint32_t dims,
                                     uint32_t steps, uint32_t i, uint32_t tokens)
{
    const uint32_t fours = kind == LQ__CU_Z8 ? 1 : lq__cu_bits(kind) == 4 ? 2 : 4;
    const uint32_t width = 8 / fours;
    const uint32_t second = 16 * dims; /* where Z3's third bits begin */
    const uint32_t vectors = (stream == LQ_K ? dims : LQ__CU_TOKENS) / 4 / fours;
    const uint32_t blocks = (stream == LQ_K ? LQ__CU_TOKENS : dims) / 16;
    const bool third = kind == LQ__CU_Z3 && i >= second;
    const uint32_t n = third ? (i - second) / 32 : i / 64;
    const uint32_t g = n / (4 * vectors) * 4;
    const uint32_t left = blocks - g < 4 ? blocks - g : 4;
    const uint32_t block = g + (n - g * vectors) % left;
    const uint32_t vector = (n - g * vectors) / left;
    uint32_t byte = 0;
    for (uint32_t x = 0; x < (third ? 8u : fours); x++) {
        const uint32_t j = third ? (i - second) % 8 * 8 + x : i % 64;
        const uint32_t q = third ? (i - second) % 32 / 8 : x;
        const uint32_t lane = block * 16 + j / 4;
        const uint32_t depth = (vector * fours + q) * 4 + j % 4;
        const uint32_t token = stream == LQ_K ? lane : depth;
        const uint32_t dim = stream == LQ_K ? depth : lane;
        if (token < tokens) {
            const uint32_t code = lq__cu_code(levels, kind, lq__cu_find(stream, steps, token, dim));
            byte |= third ? (code >> 2) << x : (code & ((1u << width) - 1)) << width * x;
        }
    }
    return (uint8_t)byte;
}

/* A stream's scales, base and flag in a part. */
LQ__CU_BOTH void lq__cu_scales_from_tile(uint8_t *scales, uint8_t *header, int v,
                                         const uint8_t *from, int base, uint32_t tokens)
{
    uint8_t zero = 0;
    for (uint32_t t = 0; t < LQ__CU_TOKENS; t++) {
        scales[t] = t < tokens ? from[t] : (uint8_t)0;
        zero |= t < tokens && from[t] == 0;
    }
    header[v] = (uint8_t)base;
    header[2 + v] = zero;
}

extern "C" int lq_cuda_part_from_tiles(uint8_t *part, const lq_cuda_desc *desc,
                                       const uint8_t *k_tile, const uint8_t *v_tile, int k_base,
                                       int v_base, uint32_t tokens)
{
    if (!part || !desc || !k_tile || !v_tile) return LQ_E_ARG;
    lq_cuda_desc d = lq__cu_whole(desc);
    lq__cu_plan p;
    if (lq__cu_plan_init(&p, &d) != LQ_OK) return LQ_E_ARG;
    memset(part, 0, p.part);
    for (int v = 0; v < 2; v++) {
        const uint8_t *tile = v ? v_tile : k_tile;
        for (uint32_t n = 0; n < 2 * p.steps; n++) {
            for (uint32_t lane = 0; lane < 32; lane++) {
                lq__cu_group_from_tile(part + v * p.levels, tile, (int)p.kind, v ? LQ_V : LQ_K,
                                       p.dims, p.steps, n, lane, tokens);
            }
        }
        lq__cu_scales_from_tile(part + 2 * p.levels + 64 * v, part + 2 * p.levels + 128, v,
                                tile + p.dims * 8 * (uint32_t)d.bits, v ? v_base : k_base, tokens);
    }
    return LQ_OK;
}

extern "C" int lq_cuda_part_to_tiles(uint8_t *k_tile, uint8_t *v_tile, int *k_base, int *v_base,
                                     const lq_cuda_desc *desc, const uint8_t *part, uint32_t tokens)
{
    if (!part || !desc || !k_tile || !v_tile || !k_base || !v_base) return LQ_E_ARG;
    lq_cuda_desc d = lq__cu_whole(desc);
    lq__cu_plan p;
    if (lq__cu_plan_init(&p, &d) != LQ_OK) return LQ_E_ARG;
    for (int v = 0; v < 2; v++) {
        uint8_t *tile = v ? v_tile : k_tile;
        const uint32_t bytes = p.dims * 8 * (uint32_t)d.bits;
        for (uint32_t i = 0; i < bytes; i++) {
            tile[i] = lq__cu_tile_byte(part + v * p.levels, (int)p.kind, v ? LQ_V : LQ_K, p.dims,
                                       p.steps, i, tokens);
        }
        for (uint32_t i = 0; i < LQ__CU_TOKENS; i++) {
            tile[bytes + i] = i < tokens ? part[2 * p.levels + 64 * (uint32_t)v + i] : (uint8_t)0;
        }
    }
    *k_base = (int8_t)part[2 * p.levels + 128];
    *v_base = (int8_t)part[2 * p.levels + 129];
    return LQ_OK;
}

/* One block a page and head: tiles to parts. */
static __global__ void __launch_bounds__(128)
    lq__cu_from_tiles_kernel(lq__cu_plan p, const uint32_t *ids, const uint8_t *k_tiles,
                             const uint8_t *v_tiles, const int8_t *bases, const uint32_t *tokens,
                             uint32_t *flags)
{
    const uint32_t page = blockIdx.x / p.heads;
    const uint32_t head = blockIdx.x % p.heads;
    const uint32_t id = ids[page];
    const uint32_t count = tokens ? min(tokens[page], LQ__CU_TOKENS) : LQ__CU_TOKENS;
    const uint32_t bytes = p.dims * 8 * (uint32_t)lq__cu_bits((int)p.kind) + LQ__CU_TOKENS;
    if (id >= p.pages) {
        atomicOr(flags, LQ_CUDA_BAD_PAGE);
        return;
    }
    uint8_t *part = p.pool + ((size_t)id * p.heads + head) * p.part;
    for (uint32_t i = threadIdx.x; i < 2 * 64 * p.steps; i += blockDim.x) {
        const uint32_t v = i / (64 * p.steps);
        const uint32_t at = i % (64 * p.steps);
        lq__cu_group_from_tile(part + v * p.levels,
                               (v ? v_tiles : k_tiles) + (size_t)blockIdx.x * bytes, (int)p.kind,
                               v ? LQ_V : LQ_K, p.dims, p.steps, at / 32, at % 32, count);
    }
    if (threadIdx.x < 2) {
        const uint32_t v = threadIdx.x;
        const uint8_t *tile = (v ? v_tiles : k_tiles) + (size_t)blockIdx.x * bytes;
        lq__cu_scales_from_tile(part + 2 * p.levels + 64 * v, part + 2 * p.levels + 128, (int)v,
                                tile + bytes - LQ__CU_TOKENS,
                                bases[(page * 2 + v) * p.heads + head], count);
    } else if (threadIdx.x < 14) {
        part[2 * p.levels + 130 + threadIdx.x] = 0;
    }
}

static __global__ void __launch_bounds__(128)
    lq__cu_to_tiles_kernel(lq__cu_plan p, const uint32_t *ids, uint8_t *k_tiles, uint8_t *v_tiles,
                           int8_t *bases, const uint32_t *tokens, uint32_t *flags)
{
    const uint32_t page = blockIdx.x / p.heads;
    const uint32_t head = blockIdx.x % p.heads;
    const uint32_t id = ids[page];
    const uint32_t count = tokens ? min(tokens[page], LQ__CU_TOKENS) : LQ__CU_TOKENS;
    const uint32_t levels = p.dims * 8 * (uint32_t)lq__cu_bits((int)p.kind);
    const uint32_t bytes = levels + LQ__CU_TOKENS;
    if (id >= p.pages) {
        atomicOr(flags, LQ_CUDA_BAD_PAGE);
        return;
    }
    const uint8_t *part = p.pool + ((size_t)id * p.heads + head) * p.part;
    for (uint32_t i = threadIdx.x; i < 2 * bytes; i += blockDim.x) {
        const uint32_t v = i / bytes;
        const uint32_t at = i % bytes;
        uint8_t *tile = (v ? v_tiles : k_tiles) + (size_t)blockIdx.x * bytes;
        if (at < levels) {
            tile[at] = lq__cu_tile_byte(part + v * p.levels, (int)p.kind, v ? LQ_V : LQ_K, p.dims,
                                        p.steps, at, count);
        } else {
            tile[at] = at - levels < count ? part[2 * p.levels + 64 * v + at - levels] : (uint8_t)0;
        }
    }
    if (threadIdx.x < 2) {
        bases[(page * 2 + threadIdx.x) * p.heads + head] =
            (int8_t)part[2 * p.levels + 128 + threadIdx.x];
    }
}

extern "C" int lq_cuda_pages_from_tiles(const lq_cuda_layer *layer, const uint32_t *ids,
                                        uint32_t count, const uint8_t *k_tiles,
                                        const uint8_t *v_tiles, const int8_t *bases,
                                        const uint32_t *tokens, uint32_t *flags,
                                        cudaStream_t stream)
{
    lq__cu_plan p;
    if (lq__cu_plan_of(&p, layer) != LQ_OK || !ids || !k_tiles || !v_tiles || !bases || !flags ||
        count > 0x7fffffffu / p.heads) {
        return LQ_E_ARG;
    }
    if (count) {
        lq__cu_from_tiles_kernel<<<count * p.heads, 128, 0, stream>>>(p, ids, k_tiles, v_tiles,
                                                                      bases, tokens, flags);
    }
    return lq__cu_launched();
}

extern "C" int lq_cuda_pages_to_tiles(const lq_cuda_layer *layer, const uint32_t *ids,
                                      uint32_t count, uint8_t *k_tiles, uint8_t *v_tiles,
                                      int8_t *bases, const uint32_t *tokens, uint32_t *flags,
                                      cudaStream_t stream)
{
    lq__cu_plan p;
    if (lq__cu_plan_of(&p, layer) != LQ_OK || !ids || !k_tiles || !v_tiles || !bases || !flags ||
        count > 0x7fffffffu / p.heads) {
        return LQ_E_ARG;
    }
    if (count) {
        lq__cu_to_tiles_kernel<<<count * p.heads, 128, 0, stream>>>(p, ids, k_tiles, v_tiles, bases,
                                                                    tokens, flags);
    }
    return lq__cu_launched();
}

/* ================================================================================================
   >>turn   vectors on their way into a page: integers, as >>turn and >>seal of latticequant.h

   A warp has a granule: eight tokens of one head's keys or values. Lane 4 j + c holds of token j
   the dims 32 i + 8 c .. + 7, for each i: three stages of the Hadamard transform are inside a
   lane's eight, two between the four lanes of a token, the others between registers. The tables are
   those of latticequant.h; the tests compare bytes.
   ============================================================================================== */
/* Sign bits of the basis, of dims 0 .. 255. */
static __constant__ uint32_t lq__cu_signs[8] = {0xa2df7714u, 0xb103f415u, 0x55d6717eu, 0xd535708du,
                                                0xb9aca6bau, 0xa49df7ceu, 0xcfce5cb6u, 0x3fdaff66u};

static __constant__ uint32_t lq__cu_twelfth[12] = {
    1073741824u, 1137589835u, 1205234447u, 1276901417u, 1352829926u, 1433273380u,
    1518500250u, 1608794974u, 1704458901u, 1805811301u, 1913190429u, 2026954652u};

/* See lq__hot_bound and lq__hot_cells of latticequant.h. */
typedef struct lq__cu_bound {
    uint32_t rung[12];
    int32_t base;
    int32_t octaves; /* of factors: the cells' */
    int16_t factor[16];
} lq__cu_bound;

static __constant__ lq__cu_bound lq__cu_bounds[LQ__CU_END - 1] = {
    /* Z8, and E8 in V */
    {{2130706432u, 1128702414u, 1195818552u, 1266925624u, 1342260942u, 1422075931u, 1506636966u,
      1596226263u, 1691142815u, 1791703400u, 1898243628u, 2011119068u},
     -83,
     12 * 17,
     {2048, 1933, 1825, 1722, 1625, 1534, 1448, 1367, 1290, 1218, 1149, 1085, 1024, 967, 912}},
    /* Z4 */
    {{1150581473u, 1218998607u, 1291484036u, 1368279674u, 1449641817u, 1535842005u, 1627167923u,
      1723924363u, 1826434240u, 1935039671u, 2050103118u, 1086004296u},
     -85,
     12 * 16 - 2,
     {1024, 967, 912, 861, 813, 767, 724, 683, 645, 609, 575, 542, 512, 483, 456}},
    /* Z3 */
    {{1331691520u, 1410878018u, 1494773191u, 1583657030u, 1677826177u, 1777594914u, 1883296208u,
      1995282829u, 2113928519u, 1119814625u, 1186402267u, 1256949417u},
     -87,
     12 * 16 - 5,
     {967, 912, 861, 813, 767, 724, 683, 645, 609, 575, 542, 512, 483, 456, 431}},
    /* Z2 */
    {{1811100467u, 1918794104u, 2032891539u, 1076886780u, 1140921800u, 1208764541u, 1280641421u,
      1356792323u, 1437471393u, 1522947890u, 1613507084u, 1709451208u},
     -93,
     12 * 16 - 10,
     {1024, 967, 912, 861, 813, 767, 724, 683, 645, 609, 575, 542, 512, 483, 456}},
    /* E8 in K */
    {{1118620877u, 1185137535u, 1255609480u, 1330271906u, 1409373989u, 1493179728u, 1581968815u,
      1676037576u, 1775699956u, 1881288570u, 1993155810u, 2111675022u},
     -84,
     12 * 17,
     {2170, 2048, 1933, 1825, 1722, 1625, 1534, 1448, 1367, 1290, 1218, 1149, 1085, 1024, 967}}};

LQ__CU_DEVICE const lq__cu_bound *lq__cu_bound_of(int kind, int stream)
{
    return &lq__cu_bounds[(kind == LQ__CU_E8 && stream == LQ_V ? LQ__CU_Z8 : kind) - 1];
}

/* Of a level, from zero outwards: the first cell that is its, and its place in half cells. */
typedef struct lq__cu_level {
    uint8_t from;
    uint8_t spot;
} lq__cu_level;

static __constant__ lq__cu_level lq__cu_levels_z4[8] = {
    {0, 11}, {11, 32}, {22, 55}, {33, 78}, {46, 105}, {60, 135}, {78, 175}, {100, 226}};
static __constant__ lq__cu_level lq__cu_levels_z3[4] = {{0, 21}, {22, 66}, {46, 118}, {77, 190}};
static __constant__ lq__cu_level lq__cu_levels_z2[2] = {{0, 43}, {46, 143}};

/* E8's levels, rising, and the last one at or below 0 .. 127. */
static __constant__ int8_t lq__cu_rising_e8[32] = {
    -127, -106, -92, -80, -71, -62, -55, -48, -41, -35, -30, -24, -18, -13, -8,  -3,
    3,    8,    13,  18,  24,  30,  35,  41,  48,  55,  62,  71,  80,  92,  106, 127};

/* Tables of a block in shared memory. */
typedef struct lq__cu_tables {
    uint32_t cells[128];  /* squared error, level << 16; E8: bracket of 0 .. 127 */
    int2 brackets[2][32]; /* E8: by coset and bracket: levels of first and second, their z << 16 */
} lq__cu_tables;

LQ__CU_DEVICE uint32_t lq__cu_shared(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

LQ__CU_DEVICE uint32_t lq__cu_permute(uint32_t low, uint32_t high, uint32_t selectors)
{
    uint32_t x;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(x) : "r"(low), "r"(high), "r"(selectors));
    return x;
}

/* c += A B of m16n8k32, A s8 and B s8; or B u8, such as weights. */
template <bool WEIGHTS>
LQ__CU_DEVICE void lq__cu_mma(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1)
{
    if (WEIGHTS) {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
}

LQ__CU_DEVICE int32_t lq__cu_log2(uint32_t x)
{
    return 31 - __clz((int)x);
}

LQ__CU_DEVICE int32_t lq__cu_octave(int32_t x)
{
    return (x + 12 * 1024) / 12 - 1024;
}

/* Made by all threads of a block; a barrier follows. */
template <int KIND> static __device__ void lq__cu_make_tables(lq__cu_tables *t)
{
    for (uint32_t a = threadIdx.x; a < 128; a += blockDim.x) {
        if (KIND == LQ__CU_E8) {
            uint32_t j = 15;
            for (uint32_t k = 16; k < 31; k++) {
                j += (int32_t)a >= lq__cu_rising_e8[k];
            }
            t->cells[a] = j;
        } else if (KIND != LQ__CU_Z8) {
            const lq__cu_level *of = KIND == LQ__CU_Z4   ? lq__cu_levels_z4
                                     : KIND == LQ__CU_Z3 ? lq__cu_levels_z3
                                                         : lq__cu_levels_z2;
            uint32_t level = 0;
            for (uint32_t k = 1; k < 1u << (lq__cu_bits(KIND) - 1); k++) {
                level += a >= of[k].from;
            }
            int32_t e = (int32_t)(2 * a + 1) - of[level].spot;
            t->cells[a] = (uint32_t)(e * e) | level << 16;
        }
    }
    for (uint32_t i = threadIdx.x; i < 64 && KIND == LQ__CU_E8; i += blockDim.x) {
        const uint32_t c = i / 32;
        const uint32_t j = min(i % 32, 30u);
        const uint32_t first = (j & 1u) == c ? j : j + 1;
        const uint32_t second = (j & 1u) == c ? (j < 30 ? j + 2 : j - 2) : (j ? j - 1 : 3);
        t->brackets[c][i % 32].x =
            (int32_t)((uint32_t)(uint16_t)lq__cu_rising_e8[first]) | (int32_t)((first >> 1) << 16);
        t->brackets[c][i % 32].y = (int32_t)((uint32_t)(uint16_t)lq__cu_rising_e8[second]) |
                                   (int32_t)((second >> 1) << 16);
    }
}

/* What is known of a token. */
typedef struct lq__cu_token {
    int32_t unit;
    uint32_t most;
    int32_t exponent;
    int32_t code;
    int32_t rung;
    bool none;
} lq__cu_token;

/* lq__hot_aim of one token. */
LQ__CU_DEVICE void lq__cu_aim(lq__cu_token *t, const lq__cu_bound *bound, int32_t norm,
                              int32_t base)
{
    t->exponent = 0;
    t->code = 0;
    t->rung = 0;
    t->none = t->most == 0;
    if (t->most) {
        const int32_t octave = lq__cu_log2(t->most);
        const uint32_t m = t->most << (30 - octave);
        const int32_t exponent = 12 * (t->unit - base) - 6 * norm + 12 * octave;
        int32_t rung = 0;
        for (int k = 0; k < 12; k++) {
            rung += m > bound->rung[k];
        }
        t->rung = rung;
        t->code = exponent + bound->base + rung + 192;
        t->exponent = exponent - 12 * 13;
        t->none = t->code < -11;
    }
}

/* Factor of scale k - 1 steps from the one that just fits. */
LQ__CU_DEVICE int32_t lq__cu_factor(const lq__cu_token *t, const lq__cu_bound *bound, int32_t k)
{
    if (t->none) return 0;
    if (t->code >= 2 && t->code <= 254) return bound->factor[t->rung + k];
    int32_t code = min(max(t->code + k - 1, 1), 255);
    int32_t q = t->exponent + bound->octaves - (code - 192);
    int32_t octave = (q + 12 * 256) / 12 - 256;
    if (octave >= 14) return 32767;
    return octave < -1 ? 0 : (int32_t)((lq__cu_twelfth[q - 12 * octave] >> (29 - octave)) + 1) >> 1;
}

/* lq__hot_choose_base: scales are the tile's 64. All lanes get the new base; *cut is raised where
   something is lost. */
static __device__ int32_t lq__cu_choose_base(const lq__cu_token *t, const lq__cu_bound *bound,
                                             int32_t norm, int32_t base, uint8_t *scales, bool *cut)
{
    const uint32_t lane = threadIdx.x % 32;
    const int32_t old = base;
    const uint32_t mine[2] = {scales[lane], scales[lane + 32]};
    const int32_t held = (int32_t)__reduce_max_sync(~0u, max(mine[0], mine[1]));
    lq__cu_token at = *t;
    lq__cu_aim(&at, bound, norm, 0);
    int32_t top = __reduce_max_sync(~0u, at.most ? at.code : -12 * 1024);
    int32_t low = __reduce_min_sync(~0u, at.most ? at.code : 12 * 1024);
    if (top < low) return base;
    if (held == 0) {
        base = top < 60 ? lq__cu_octave(top - 60) : top > 240 ? lq__cu_octave(top - 216) : 0;
    }
    int32_t least = lq__cu_octave(top - 254 + 11);
    if (held) least = max(least, old - (255 - held) / 12);
    base = max(min(base, lq__cu_octave(low - 2)), least);
    base = min(max(base, -120), 120);
    if (held && base != old) {
        for (int k = 0; k < 2; k++) {
            const int32_t code = (int32_t)mine[k] - 12 * (base - old);
            const bool there = mine[k] && code >= -11;
            *cut |= mine[k] && !there;
            scales[lane + 32 * k] = (uint8_t)(there ? min(max(code, 1), 255) : 0);
        }
    }
    at.code -= 12 * base;
    *cut |= at.most && (at.code < -11 || at.code > 255);
    __syncwarp();
    return base;
}

/* lq__hot_e8: a block of eight, y in quarters of a unit, to nibbles; returns the cost. */
static __device__ uint32_t lq__cu_e8(uint32_t *nibbles, const int32_t *y, const lq__cu_tables *t)
{
    uint32_t bracket[8];
    uint32_t best = 0;
    uint32_t best_cost = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int32_t u = min(max(y[i] >> 2, -128), 127);
        bracket[i] = u >= 0 ? t->cells[u] : 30u - t->cells[~u];
    }
#pragma unroll
    for (uint32_t c = 0; c < 2; c++) {
        uint32_t least = 0xffffffffu;
        uint32_t cost = 0;
        uint32_t n = 0;
        uint32_t moved = 0; /* n's change, if the parity is wrong */
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int2 of = t->brackets[c][bracket[i]];
            const int32_t d = min(abs(y[i] - 4 * (int16_t)(of.x & 0xffff)), 255);
            const int32_t e = min(abs(y[i] - 4 * (int16_t)(of.y & 0xffff)), 255);
            const uint32_t more = (uint32_t)max(e * e - d * d, 0);
            n |= ((uint32_t)of.x >> 16) << 4 * i;
            cost += (uint32_t)(d * d);
            if (more < least) {
                least = more;
                moved = (((uint32_t)of.x ^ (uint32_t)of.y) >> 16) << 4 * i;
            }
        }
        cost = min(cost, 65535u);
        if ((__popc(n & 0x11111111u) & 1u) != c) {
            n ^= moved;
            cost = min(cost + least, 65535u);
        }
        if (cost < best_cost) {
            best = n;
            best_cost = cost;
        }
    }
    *nibbles = best ^ (best >> 1 & 0x77777777u);
    return best_cost;
}

/* Eight lanes 4 j + c hold words of eight nibbles: transposed over j. */
LQ__CU_DEVICE uint32_t lq__cu_turn_nibbles(uint32_t w, uint32_t j)
{
    const uint32_t masks[3] = {0x0f0f0f0fu, 0x00ff00ffu, 0x0000ffffu};
#pragma unroll
    for (int b = 0; b < 3; b++) {
        const uint32_t m = masks[b];
        const int shift = 4 << b;
        const uint32_t other = __shfl_xor_sync(~0u, w, 4 << b);
        w = j >> b & 1u ? (other >> shift & m) | (w & ~m) : (w & m) | (other & m) << shift;
    }
    return w;
}

/* The same of bytes, in two words. */
LQ__CU_DEVICE void lq__cu_turn_bytes(uint32_t *w, uint32_t j)
{
    const uint32_t masks[2] = {0x00ff00ffu, 0x0000ffffu};
    const uint32_t got = __shfl_xor_sync(~0u, j & 4u ? w[0] : w[1], 16);
    w[j & 4u ? 0 : 1] = got;
#pragma unroll
    for (int b = 0; b < 2; b++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const uint32_t m = masks[b];
            const int shift = 8 << b;
            const uint32_t other = __shfl_xor_sync(~0u, w[k], 4 << b);
            w[k] = j >> b & 1u ? (other >> shift & m) | (w[k] & ~m)
                               : (w[k] & m) | (other & m) << shift;
        }
    }
}

/* The same of 16-bit numbers, in four words. */
LQ__CU_DEVICE void lq__cu_turn_shorts(uint32_t *w, uint32_t j)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint32_t got = __shfl_xor_sync(~0u, j & 4u ? w[k] : w[k + 2], 16);
        if (j & 4u) {
            w[k] = got;
        } else {
            w[k + 2] = got;
        }
    }
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const uint32_t got = __shfl_xor_sync(~0u, j & 2u ? w[k] : w[k + 1], 8);
        if (j & 2u) {
            w[k] = got;
        } else {
            w[k + 1] = got;
        }
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t other = __shfl_xor_sync(~0u, w[k], 4);
        w[k] = j & 1u ? other >> 16 | (w[k] & 0xffff0000u) : (w[k] & 0xffffu) | other << 16;
    }
}

LQ__CU_DEVICE float lq__cu_float(uint32_t half, uint32_t is_bf16)
{
    return is_bf16 ? __uint_as_float(half << 16) : __half2float(__ushort_as_half((uint16_t)half));
}

/* A mean: its unit, then i16 (dims); what a number of it is worth. */
LQ__CU_DEVICE float lq__cu_mean_unit(const uint8_t *number)
{
    return __uint_as_float((127u - 14u + *(const uint32_t *)(const void *)number) << 23);
}

/* 2^(halves / 2), halves 0 .. 8. */
LQ__CU_DEVICE float lq__cu_stretch(uint32_t halves)
{
    return __uint_as_float((127u + halves / 2) << 23) * (halves & 1u ? 1.41421356f : 1.0f);
}

/* Less the mean, in fixed point, rotated, as X of at most 2^14; in: this lane's eights. shape: of
   keys, or NULL. Returns whether all are finite and not too large. */
template <int NK>
static __device__ bool lq__cu_turn(int32_t (*x)[8], lq__cu_token *token, const uint4 *in,
                                   uint32_t is_bf16, uint32_t dims, const uint8_t *number,
                                   const uint8_t *shape)
{
    const uint32_t c = threadIdx.x % 4;
    const uint32_t block = dims & (0u - dims);
    const float mean_unit = lq__cu_mean_unit(number);
    const bool stretched = shape && *(const uint32_t *)(const void *)shape;
    uint32_t most = 0;
    float scale;
    int32_t shift;
    int32_t half;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t d = 32u * i + 8 * c;
        const uint32_t pairs[4] = {in[i].x, in[i].y, in[i].z, in[i].w};
        uint32_t means[4] = {0, 0, 0, 0};
        if (d < dims) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                means[k] = *(const uint32_t *)(const void *)(number + 4 + 2 * d + 4 * k);
            }
        }
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const uint32_t raw = e & 1 ? pairs[e / 2] >> 16 : pairs[e / 2] & 0xffffu;
            const int32_t m = (int16_t)(e & 1 ? means[e / 2] >> 16 : means[e / 2] & 0xffffu);
            float f = __fsub_rn(lq__cu_float(raw, is_bf16), __fmul_rn((float)m, mean_unit));
            if (stretched && d < dims) {
                f = __fmul_rn(f, lq__cu_stretch(shape[4 + d + e]));
                f = fminf(fmaxf(f, -1.5e38f), 1.5e38f);
            }
            x[i][e] = __float_as_int(f);
            most = max(most, __float_as_uint(f) & 0x7fffffffu);
        }
    }
    most = max(most, __shfl_xor_sync(~0u, most, 1));
    most = max(most, __shfl_xor_sync(~0u, most, 2));
    token->unit = max((int32_t)(most >> 23) - 127 - 19, -120);
    scale = __uint_as_float((uint32_t)(127 - token->unit) << 23);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t signs = lq__cu_signs[i] >> 8 * c;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const int32_t v = __float2int_rn(__fmul_rn(__int_as_float(x[i][e]), scale));
            x[i][e] = signs >> e & 1u ? -v : v;
        }
#pragma unroll
        for (int h = 1; h < 8; h *= 2) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if ((e & h) == 0) {
                    const int32_t a = x[i][e];
                    const int32_t b = x[i][e + h];
                    x[i][e] = a + b;
                    x[i][e + h] = a - b;
                }
            }
        }
#pragma unroll
        for (int h = 1; h < 4; h *= 2) {
            if (8u * h < block) {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    const int32_t other = __shfl_xor_sync(~0u, x[i][e], h);
                    x[i][e] = c & (uint32_t)h ? other - x[i][e] : x[i][e] + other;
                }
            }
        }
    }
#pragma unroll
    for (int h = 1; h < NK; h *= 2) {
        if (32u * h < block) {
#pragma unroll
            for (int i = 0; i < NK; i++) {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    if ((i & h) == 0 && i + h < NK) {
                        const int32_t a = x[i][e];
                        const int32_t b = x[i + h][e];
                        x[i][e] = a + b;
                        x[i + h][e] = a - b;
                    }
                }
            }
        }
    }
    token->most = 0;
#pragma unroll
    for (int i = 0; i < NK; i++) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            token->most = max(token->most, (uint32_t)abs(x[i][e]));
        }
    }
    token->most = max(token->most, __shfl_xor_sync(~0u, token->most, 1));
    token->most = max(token->most, __shfl_xor_sync(~0u, token->most, 2));
    shift = token->most ? lq__cu_log2(token->most) - 13 : 0;
    half = shift > 0 ? 1 << (shift - 1) : 0;
#pragma unroll
    for (int i = 0; i < NK; i++) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            x[i][e] = shift > 0 ? (x[i][e] + half) >> shift : x[i][e] * (1 << -shift);
        }
    }
    return most < 0x7b800000u; /* 2^120 */
}

/* y in quarters of a unit, within +-1020. */
LQ__CU_DEVICE int32_t lq__cu_y(int32_t x, int32_t factor)
{
    return min(max((x * factor + (1 << 14)) >> 15, -1020), 1020);
}

/* The scale of least cost of three, of a token: 0, 1 or 2. */
LQ__CU_DEVICE uint32_t lq__cu_cheapest(const uint32_t *costs)
{
    const uint64_t first = (uint64_t)costs[0] * 912;
    const uint64_t middle = (uint64_t)costs[1] * 1024;
    const uint64_t last = (uint64_t)costs[2] * 1149;
    const uint64_t least = min(first, middle);
    return last < least ? 2 : middle < first ? 1 : 0;
}

/* Codes of a lane's eights, a nibble each (Z8: bytes, in two words), and the scale's code. */
template <int KIND, int NK, int STREAM>
static __device__ uint32_t lq__cu_quantize(uint32_t (*words)[2], int32_t (*x)[8],
                                           const lq__cu_token *t, const lq__cu_bound *bound,
                                           const lq__cu_tables *tables, uint32_t dims)
{
    const int32_t f1 = lq__cu_factor(t, bound, 1);
    const uint32_t j = threadIdx.x % 32 / 4;
    uint32_t best = 1;
    if (KIND == LQ__CU_Z8) {
#pragma unroll
        for (int i = 0; i < NK; i++) {
            words[i][0] = 0;
            words[i][1] = 0;
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const int32_t y = lq__cu_y(x[i][e], f1) + 2 - (x[i][e] < 0);
                words[i][e / 4] |= (uint32_t)(min(max(y >> 2, -127), 127) & 255) << e % 4 * 8;
            }
        }
    } else if (KIND == LQ__CU_E8 && STREAM == LQ_V) {
#pragma unroll
        for (int i = 0; i < NK; i++) {
            uint32_t w[4];
            int32_t y[8];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                w[e] = (uint32_t)(lq__cu_y(x[i][2 * e], f1) & 0xffff) |
                       (uint32_t)lq__cu_y(x[i][2 * e + 1], f1) << 16;
            }
            lq__cu_turn_shorts(w, j);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                y[e] = (int16_t)(e & 1 ? w[e / 2] >> 16 : w[e / 2] & 0xffffu);
            }
            (void)lq__cu_e8(words[i], y, tables);
        }
    } else {
        uint32_t costs[3] = {0, 0, 0};
        uint32_t own[3][NK];
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const int32_t f = lq__cu_factor(t, bound, k);
#pragma unroll
            for (int i = 0; i < NK; i++) {
                const bool there = 32u * i + threadIdx.x % 4 * 8 < dims;
                if (KIND == LQ__CU_E8) {
                    int32_t y[8];
                    uint32_t cost;
#pragma unroll
                    for (int e = 0; e < 8; e++) {
                        y[e] = lq__cu_y(x[i][e], f);
                    }
                    cost = lq__cu_e8(&own[k][i], y, tables);
                    costs[k] += there ? cost : 0;
                } else {
                    own[k][i] = 0;
#pragma unroll
                    for (int e = 0; e < 8; e++) {
                        const uint32_t a = (uint32_t)min(abs(x[i][e]) * f >> 16, 127);
                        const uint32_t cell = tables->cells[a];
                        const uint32_t half = 1u << (lq__cu_bits(KIND) - 1);
                        const uint32_t level = cell >> 16;
                        costs[k] += there ? cell & 0xffffu : 0;
                        own[k][i] |= (x[i][e] < 0 ? half - 1 - level : half + level) << 4 * e;
                    }
                }
            }
        }
#pragma unroll
        for (int k = 0; k < 3; k++) {
            costs[k] += __shfl_xor_sync(~0u, costs[k], 1);
            costs[k] += __shfl_xor_sync(~0u, costs[k], 2);
        }
        best = lq__cu_cheapest(costs);
#pragma unroll
        for (int i = 0; i < NK; i++) {
            words[i][0] = best == 0 ? own[0][i] : best == 1 ? own[1][i] : own[2][i];
        }
    }
    return t->none ? 0 : (uint32_t)min(max(t->code + (int32_t)best - 1, 1), 255);
}

/* ================================================================================================
   >>append   means and shapes of epochs, pages sealed, raw tokens kept

   Three launches a step: fit (sums, and what epochs that begin are given; of long steps by clusters
   of blocks), seal (a warp a page, head and stream, granule by granule; heads of 128 dims have a
   kernel of their own), keep (new raw tokens, when nobody reads the old ones any more).
   ============================================================================================== */
typedef struct lq__cu_batch {
    uint32_t count;
    uint32_t most;
    const uint32_t *slots;
    const uint32_t *tokens;
    const uint32_t *added;
    const uint32_t *tables;
    uint32_t *flags;
} lq__cu_batch;

typedef struct lq__cu_source {
    const uint16_t *data;
    size_t sequence_stride;
    size_t token_stride;
    size_t head_stride;
} lq__cu_source;

/* A sequence of a batch, within bounds whatever the arrays say. */
typedef struct lq__cu_sequence {
    uint8_t *state; /* NULL: it is none */
    uint32_t old;   /* tokens */
    uint32_t now;
    uint32_t sealed; /* before */
    uint32_t to;     /* after */
} lq__cu_sequence;

static __device__ lq__cu_sequence lq__cu_sequence_of(const lq__cu_plan *p, const lq__cu_batch *b,
                                                     uint32_t s)
{
    const uint32_t slot = b->slots ? b->slots[s] : s;
    const uint32_t room = p->sinks + p->window + p->table * LQ__CU_TOKENS;
    uint32_t added = b->added ? b->added[s] : b->most;
    lq__cu_sequence q;
    uint32_t wrong = 0;
    q.old = b->tokens[s];
    q.state = p->state + slot * p->slot;
    if (slot >= p->slots) {
        wrong |= LQ_CUDA_BAD_SLOT;
        q.state = NULL;
    }
    if (added > b->most) {
        wrong |= LQ_CUDA_BAD_COUNT;
        added = b->most;
    }
    if (q.old > room || added > room - q.old) {
        wrong |= LQ_CUDA_BAD_PAGE;
        q.old = min(q.old, room);
        added = min(added, room - q.old);
    }
    q.now = q.old + added;
    q.sealed = lq__cu_sealed(p->sinks, p->window, q.old);
    q.to = lq__cu_sealed(p->sinks, p->window, q.now);
    if (wrong) atomicOr(b->flags, wrong);
    return q;
}

/* Where raw token t of a head lies: sinks, then a ring. */
LQ__CU_DEVICE uint16_t *lq__cu_raw(const lq__cu_plan *p, const lq__cu_sequence *q, int v,
                                   uint32_t head, uint32_t t)
{
    const uint32_t row = t < p->sinks ? t : p->sinks + (t - p->sinks) % p->ring;
    return (uint16_t *)(void *)(q->state + p->raw[v]) +
           ((size_t)head * (p->sinks + p->ring) + row) * p->dims;
}

/* Token t: raw, or one of the new ones. */
LQ__CU_DEVICE const uint16_t *lq__cu_row(const lq__cu_plan *p, const lq__cu_sequence *q,
                                         const lq__cu_source *src, int v, uint32_t s, uint32_t head,
                                         uint32_t t)
{
    if (t < q->old) return lq__cu_raw(p, q, v, head, t);
    return src->data + s * src->sequence_stride + (t - q->old) * src->token_stride +
           head * src->head_stride;
}

LQ__CU_BOTH size_t lq__cu_number_at(const lq__cu_plan *p, int v, uint32_t epoch, uint32_t head)
{
    return p->means[v] + (size_t)((v ? epoch / 4 : epoch) * p->heads + head) * p->number;
}

LQ__CU_BOTH size_t lq__cu_shape_at(const lq__cu_plan *p, uint32_t epoch, uint32_t head)
{
    return p->shapes + (size_t)(epoch / 4 * p->heads + head) * p->shape;
}

#define LQ__CU_FIT 512u   /* threads of a block that fits: two fit in, so that clusters find room */
#define LQ__CU_CLUSTER 8  /* blocks of a cluster that does */
#define LQ__CU_BEGINS 32u /* epochs that begin in a step, at most */

/* The largest of all threads' numbers; their sum. All threads wait. */
static __device__ uint64_t lq__cu_most(uint64_t x, uint64_t *shared)
{
    for (int h = 16; h; h /= 2) {
        const uint64_t other = __shfl_xor_sync(~0u, x, h);
        x = max(x, other);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    for (uint32_t i = 0; i < LQ__CU_FIT / 32; i++) {
        x = max(x, shared[i]);
    }
    return x;
}

static __device__ int64_t lq__cu_sum(int64_t x, int64_t *shared)
{
    for (int h = 16; h; h /= 2) {
        x += __shfl_xor_sync(~0u, x, h);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (uint32_t i = 0; i < LQ__CU_FIT / 32; i++) {
        x += shared[i];
    }
    return x;
}

/* x, at most +-8191, in 2^-14. */
LQ__CU_DEVICE int32_t lq__cu_summand(uint32_t half, uint32_t is_bf16)
{
    const float f = fminf(fmaxf(lq__cu_float(half, is_bf16), -8191.0f), 8191.0f);
    return (int32_t)__fmul_rn(f, 16384.0f);
}

/* lq__kv_fit_mean: thread d < dims has dim d. */
static __device__ void lq__cu_fit_mean(uint8_t *number, int64_t sum, int64_t count, uint32_t dims,
                                       uint64_t *shared)
{
    const uint64_t size = threadIdx.x < dims ? (uint64_t)(sum < 0 ? -sum : sum) : 0;
    const int64_t most = (int64_t)lq__cu_most(size, shared) / count;
    uint32_t unit = 0;
    while ((most + ((int64_t)1 << unit >> 1)) >> unit > 2047) {
        unit++;
    }
    int64_t half = (int64_t)1 << unit >> 1;
    if (threadIdx.x < dims) {
        const int32_t m = (int32_t)((sum / count + half) >> unit);
        ((int16_t *)(void *)(number + 4))[threadIdx.x] = (int16_t)((m & 4095) ^ 2048) - 2048;
    }
    if (threadIdx.x == 0) *(uint32_t *)(void *)number = unit;
}

/* floor(2 log2 x). */
LQ__CU_DEVICE int32_t lq__cu_half_octaves(uint64_t x)
{
    const int32_t octave = 63 - __clzll((long long)x);
    const uint64_t m = octave > 31 ? x >> (octave - 31) : x << (31 - octave);
    return 2 * octave + (m >= 3037000500u);
}

/* lq__kv_fit_shape without RoPE, from tokens at .. at + 31: thread d < dims has dim d. */
static __device__ void lq__cu_fit_shape(const lq__cu_plan *p, const lq__cu_sequence *q,
                                        const lq__cu_source *src, uint32_t s, uint32_t head,
                                        uint32_t at, uint8_t *shape, const uint8_t *number,
                                        uint64_t *shared)
{
    const uint32_t d = threadIdx.x;
    const bool mine = d < p->dims;
    uint32_t most = 0;
    uint32_t eight = 0;
    int64_t power = 0;
    int32_t mean = 0;
    int32_t halves = 0;
    uint32_t raws[16];
#pragma unroll
    for (uint32_t i = 0; i < 16; i++) { /* all on their way before the first is needed */
        const uint32_t e = mine ? d : 0;
        raws[i] = lq__cu_row(p, q, src, 0, s, head, at + 2 * i)[e] |
                  (uint32_t)lq__cu_row(p, q, src, 0, s, head, at + 2 * i + 1)[e] << 16;
    }
#pragma unroll
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t raw = raws[i / 2] >> i % 2 * 16 & 0xffffu;
        most = max(most, __float_as_uint(lq__cu_float(raw, p->is_bf16)) & 0x7fffffffu);
    }
    most = mine ? most : 0;
    most = (uint32_t)lq__cu_most(most, shared);
    int32_t unit = max((int32_t)(most >> 23) - 127 - 19, -120) + 6;
    float scale = __uint_as_float((uint32_t)(127 - unit) << 23);
    if (mine) {
        const float m = __fmul_rn((float)((const int16_t *)(const void *)(number + 4))[d],
                                  lq__cu_mean_unit(number));
        const uint32_t bits = min(__float_as_uint(m) & 0x7fffffffu, most);
        mean = __float2int_rn(__fmul_rn(__uint_as_float(bits), scale));
        mean = m < 0 ? -mean : mean;
    }
#pragma unroll
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t raw = raws[i / 2] >> i % 2 * 16 & 0xffffu;
        const float f = lq__cu_float(raw, p->is_bf16);
        const uint32_t x = (uint32_t)(__float2int_rn(__fmul_rn(f, scale)) - mean);
        eight += x * x >> 5;
    }
    power = 32 * (int64_t)eight / 32;
    int64_t largest = (int64_t)max(lq__cu_most(mine ? (uint64_t)power : 0, shared), (uint64_t)1);
    uint32_t shift = largest >> 24 ? (uint32_t)(63 - __clzll(largest)) - 23 : 0;
    if (mine) {
        const int32_t down = lq__cu_half_octaves((uint64_t)largest) -
                             lq__cu_half_octaves((uint64_t)max(power, (int64_t)1));
        halves = min((down + 2) >> 2, 8);
        shape[4 + d] = (uint8_t)halves;
        power >>= shift;
    }
    int64_t plain = lq__cu_sum(mine ? power : 0, (int64_t *)shared);
    int64_t left = lq__cu_sum(mine ? power << halves : 0, (int64_t *)shared);
    int64_t spread = lq__cu_sum(mine ? 0x10000 >> halves : 0, (int64_t *)shared);
    left = left / (int64_t)p->dims + 1;
    if (d == 0) {
        *(uint32_t *)(void *)shape = left * spread / 0x10000 < plain / 2;
    }
}

/* Blocks of a cluster, which share a head and stream: how many, and which this is. */
LQ__CU_DEVICE uint32_t lq__cu_ranks(void)
{
    uint32_t x = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(x));
#endif
    return x;
}

LQ__CU_DEVICE uint32_t lq__cu_rank(void)
{
    uint32_t x = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(x));
#endif
    return x;
}

/* All blocks of a cluster wait. */
LQ__CU_DEVICE void lq__cu_meet(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
#endif
}

/* The sum of a number of a cluster's blocks, which all have it at the same place. */
static __device__ int64_t lq__cu_sum_blocks(const int64_t *mine)
{
    const uint32_t ranks = lq__cu_ranks();
    int64_t x = *mine;
#if __CUDA_ARCH__ >= 900
    if (ranks > 1) x = 0;
    for (uint32_t r = 0; r < ranks && ranks > 1; r++) {
        uint32_t at;
        int64_t y;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(at)
                     : "r"(lq__cu_shared(mine)), "r"(r));
        asm volatile("ld.shared::cluster.s64 %0, [%1];" : "=l"(y) : "r"(at) : "memory");
        x += y;
    }
#endif
    (void)ranks;
    return x;
}

/* The sum of dim d over those of tokens from .. to - 1 that a block, `rank` of `ranks`, has, to
   thread d: each thread has four dims of some tokens. All threads wait. */
static __device__ int64_t lq__cu_sum_tokens(const lq__cu_plan *p, const lq__cu_sequence *q,
                                            const lq__cu_source *src, int stream, uint32_t s,
                                            uint32_t head, uint32_t from, uint32_t to,
                                            uint32_t rank, uint32_t ranks, int64_t *room)
{
    const uint32_t fours = p->dims / 4;
    const uint32_t groups = LQ__CU_FIT / fours;
    const uint32_t d = threadIdx.x % fours * 4;
    const uint32_t group = threadIdx.x / fours;
    const uint32_t step = groups * ranks;
    int64_t sum[4] = {0, 0, 0, 0};
    if (group < groups) {
        const size_t stride = step * src->token_stride;
        const uint16_t *row;
        uint32_t t = from + rank * groups + group;
        for (; t < to && t < q->old; t += step) {
            const uint2 four =
                *(const uint2 *)(const void *)(lq__cu_raw(p, q, stream, head, t) + d);
            sum[0] += lq__cu_summand(four.x & 0xffffu, p->is_bf16);
            sum[1] += lq__cu_summand(four.x >> 16, p->is_bf16);
            sum[2] += lq__cu_summand(four.y & 0xffffu, p->is_bf16);
            sum[3] += lq__cu_summand(four.y >> 16, p->is_bf16);
        }
        row = src->data + s * src->sequence_stride + head * src->head_stride + d +
              (size_t)(max(t, q->old) - q->old) * src->token_stride;
        while (t < to) { /* eight rows under way */
            uint2 four[8];
            int32_t eight[4] = {0, 0, 0, 0}; /* of at most 2^27 each */
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) {
                four[i] = t + i * step < to ? *(const uint2 *)(const void *)(row + i * stride)
                                            : make_uint2(0, 0);
            }
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) {
                eight[0] += lq__cu_summand(four[i].x & 0xffffu, p->is_bf16);
                eight[1] += lq__cu_summand(four[i].x >> 16, p->is_bf16);
                eight[2] += lq__cu_summand(four[i].y & 0xffffu, p->is_bf16);
                eight[3] += lq__cu_summand(four[i].y >> 16, p->is_bf16);
            }
            for (int i = 0; i < 4; i++) {
                sum[i] += eight[i];
            }
            t += 8 * step;
            row += 8 * stride;
        }
        for (uint32_t i = 0; i < 4; i++) {
            room[group * p->dims + d + i] = sum[i];
        }
    }
    __syncthreads();
    sum[0] = 0;
    for (uint32_t i = 0; i < groups && threadIdx.x < p->dims; i++) {
        sum[0] += room[i * p->dims + threadIdx.x];
    }
    __syncthreads();
    return sum[0];
}

/* What an epoch that begins with token t is given, of its sums `all`, thread d's of dim d. */
static __device__ void lq__cu_fit_epoch(const lq__cu_plan *p, const lq__cu_sequence *q,
                                        const lq__cu_source *src, int stream, uint32_t s,
                                        uint32_t head, uint32_t t, int64_t all, uint64_t *shared)
{
    const uint32_t epoch = lq__cu_epoch((t - p->sinks) / LQ__CU_TOKENS);
    uint8_t *number = q->state + lq__cu_number_at(p, stream, epoch, head);
    lq__cu_fit_mean(number, all, t + 8 + p->window - p->sinks, p->dims, shared);
    if (stream == 0 && epoch % 4 == 0) {
        __syncthreads();
        lq__cu_fit_shape(p, q, src, s, head, t, q->state + lq__cu_shape_at(p, epoch, head), number,
                         shared);
    }
    __syncthreads();
}

/* A block, or a cluster, for a head, stream and sequence: takes tokens that are sealed into the
   sums, and gives epochs that begin their means and shapes; in a cluster each block some of them,
   when the sums are done. parts: (33, dims), of each such epoch, and of all in the end, what this
   block has. */
static __global__ void __launch_bounds__(LQ__CU_FIT, 2)
    lq__cu_fit_kernel(lq__cu_plan p, lq__cu_batch b, lq__cu_source k, lq__cu_source v)
{
    extern __shared__ int64_t parts[];
    __shared__ uint64_t shared[LQ__CU_FIT / 32];
    __shared__ int64_t room[4 * LQ__CU_FIT];
    __shared__ uint32_t begins[LQ__CU_BEGINS];
    const uint32_t s = blockIdx.y;
    const uint32_t ranks = lq__cu_ranks();
    const uint32_t rank = lq__cu_rank();
    const uint32_t x = blockIdx.x / ranks;
    const int stream = (int)(x / p.heads);
    const uint32_t head = x % p.heads;
    const lq__cu_source src = stream ? v : k;
    const lq__cu_sequence q = lq__cu_sequence_of(&p, &b, s);
    const uint32_t d = threadIdx.x;
    const uint32_t mine = min(d, p.dims - 1);
    uint32_t count = 0;
    int64_t sum = 0;
    if (!q.state || q.sealed == q.to) return;
    int64_t *sums = (int64_t *)(void *)(q.state + p.sums[stream]) + (size_t)head * p.dims;
    if (rank == 0) sum = sums[mine];
#pragma unroll 1
    for (uint32_t t = q.sealed; t < q.to;) {
        const uint32_t epoch = lq__cu_epoch((t - p.sinks) / LQ__CU_TOKENS);
        const uint32_t next = min(lq__cu_epoch_page(epoch + 1) * LQ__CU_TOKENS + p.sinks, q.to);
        if (t == p.sinks + lq__cu_epoch_page(epoch) * LQ__CU_TOKENS &&
            (stream == 0 || epoch % 4 == 0)) {
            int64_t all = sum; /* and what is behind, by the block whose epoch it is */
            if ((count + count / ranks) % ranks == rank) {
                all += lq__cu_sum_tokens(&p, &q, &src, stream, s, head, t, t + 8 + p.window, 0, 1,
                                         room);
            }
            if (d < p.dims) parts[count * p.dims + d] = all;
            if (d == 0) begins[count] = t;
            count++;
        }
        sum += lq__cu_sum_tokens(&p, &q, &src, stream, s, head, t, next, rank, ranks, room);
        t = next;
    }
    if (d < p.dims) parts[count * p.dims + d] = sum;
    __syncthreads();
    lq__cu_meet();
#pragma unroll 1
    for (uint32_t i = 0; i < count; i++) {
        if ((i + i / ranks) % ranks == rank) { /* each fourth one has a shape, too */
            lq__cu_fit_epoch(&p, &q, &src, stream, s, head, begins[i],
                             lq__cu_sum_blocks(&parts[i * p.dims + mine]), shared);
        }
    }
    if (d < p.dims && rank == 0) sums[d] = lq__cu_sum_blocks(&parts[count * p.dims + d]);
    lq__cu_meet(); /* nobody leaves whose sums are still read */
}

/* Starts it: long steps with eight blocks for each sum, where there are clusters. */
static int lq__cu_fit_start(const lq__cu_plan *p, const lq__cu_batch *b, const lq__cu_source *k,
                            const lq__cu_source *v, cudaStream_t stream)
{
    const size_t parts = (size_t)(LQ__CU_BEGINS + 1) * p->dims * sizeof(int64_t);
    cudaFuncAttributes is;
    cudaLaunchConfig_t how = {};
    cudaLaunchAttribute cluster = {};
    if (cudaFuncSetAttribute(lq__cu_fit_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)parts) != cudaSuccess) {
        return LQ_E_INTERNAL;
    }
    if (b->most < 1024 || cudaFuncGetAttributes(&is, lq__cu_fit_kernel) != cudaSuccess ||
        is.ptxVersion < 90) {
        lq__cu_fit_kernel<<<dim3(2 * p->heads, b->count), LQ__CU_FIT, parts, stream>>>(*p, *b, *k,
                                                                                       *v);
        return lq__cu_launched();
    }
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = LQ__CU_CLUSTER;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
    how.gridDim = dim3(LQ__CU_CLUSTER * 2 * p->heads, b->count);
    how.blockDim = dim3(LQ__CU_FIT);
    how.dynamicSmemBytes = parts;
    how.stream = stream;
    how.attrs = &cluster;
    how.numAttrs = 1;
    (void)cudaLaunchKernelEx(&how, lq__cu_fit_kernel, *p, *b, *k, *v);
    return lq__cu_launched();
}

/* A warp's words of a granule into a page, by way of room: there each lane's units are in order. */
template <int KIND, int NK, int STREAM>
static __device__ void lq__cu_put_granule(uint8_t *levels, uint32_t granule, uint32_t (*words)[2],
                                          uint32_t *room)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t j = lane / 4;
    const uint32_t c = lane % 4;
    const uint32_t lanes = STREAM == LQ_K ? 4 : 8; /* whose words these are */
    const uint32_t first = STREAM == LQ_K ? 0 : granule / 4 * NK;
    const int two = KIND == LQ__CU_Z8 ? 2 : 1;
    uint32_t *to = (uint32_t *)(void *)levels;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t at = STREAM == LQ_K ? (j * NK + i) * 4 + c : (4 * i + c) * 8 + j;
        if (STREAM == LQ_V && KIND == LQ__CU_Z8) {
            lq__cu_turn_bytes(words[i], j);
        } else if (STREAM == LQ_V && KIND != LQ__CU_E8) {
            words[i][0] = lq__cu_turn_nibbles(words[i][0], j);
        }
#pragma unroll
        for (int h = 0; h < two; h++) {
            room[at * two + h] = words[i][h];
        }
    }
    __syncwarp();
    for (uint32_t x = lane; x < 8 * NK; x += 32) {
        const uint32_t n = x / lanes;
        const uint32_t y = x % lanes;
        const uint32_t owner = STREAM == LQ_K ? granule * 4 + y : y * 4 + granule % 4;
        uint32_t units[8];
        uint32_t own[8];
#pragma unroll
        for (int k = 0; k < 4 * two; k++) {
            units[k] = room[((4 * n + k / two) * lanes + y) * two + k % two];
        }
        lq__cu_join(own, KIND, units);
        if (lq__cu_vector(KIND) == 4) {
#pragma unroll
            for (int k = 0; k < lq__cu_words(KIND); k += 4) {
                *(uint4 *)(void *)(to + lq__cu_word_at(KIND, first + n, k, owner)) =
                    make_uint4(own[k], own[k + 1], own[k + 2], own[k + 3]);
            }
        } else {
#pragma unroll
            for (int k = 0; k < lq__cu_words(KIND); k++) {
                to[lq__cu_word_at(KIND, first + n, k, owner)] = own[k];
            }
        }
    }
    __syncwarp();
}

/* What a warp knows of the page that it seals. */
typedef struct lq__cu_sealing {
    uint8_t *part;
    const uint8_t *number;
    const uint8_t *shape;
    const lq__cu_tables *tables;
    uint32_t *room;
    uint32_t *flags;
    int32_t base;
    bool zero; /* some scale is 0 */
} lq__cu_sealing;

/* Aims a granule's tokens, each lane one, at the page's base, which may become another. */
static __device__ void lq__cu_settle(lq__cu_sealing *s, lq__cu_token *t, const lq__cu_bound *bound,
                                     uint8_t *scales, uint32_t dims, uint32_t granule, bool fine)
{
    const uint32_t lane = threadIdx.x % 32;
    const int32_t norm = lq__cu_log2(dims & (0u - dims));
    bool cut = false;
    if (!__all_sync(~0u, fine)) {
        if (lane == 0) atomicOr(s->flags, LQ_CUDA_BAD_NUMBER);
        t->most = fine ? t->most : 0;
        t->unit = fine ? t->unit : 0;
    }
    lq__cu_aim(t, bound, norm, s->base);
    if (__all_sync(~0u, s->base == 0 && (t->most == 0 || (t->code >= 72 && t->code <= 228)))) {
        return;
    }
    s->base = lq__cu_choose_base(t, bound, norm, s->base, scales, &cut);
    lq__cu_aim(t, bound, norm, s->base);
    if (__any_sync(~0u, cut) && lane == 0) atomicOr(s->flags, LQ_CUDA_CUT);
    s->zero = s->zero || __any_sync(~0u, (lane < granule * 8 && scales[lane] == 0) ||
                                             (lane + 32 < granule * 8 && scales[lane + 32] == 0));
}

/* A granule's eight tokens, whose numbers are `in`, into a part of a page. */
template <int KIND, int NK, int STREAM>
static __device__ void lq__cu_seal_granule(lq__cu_sealing *s, uint32_t granule, const uint4 *in,
                                           const lq__cu_plan *p)
{
    const lq__cu_bound *bound = lq__cu_bound_of(KIND, STREAM);
    const int v = STREAM == LQ_V;
    const uint32_t lane = threadIdx.x % 32;
    uint8_t *scales = s->part + 2 * p->levels + 64 * v;
    int32_t x[NK][8];
    uint32_t words[NK][2];
    lq__cu_token t;
    const bool fine = lq__cu_turn<NK>(x, &t, in, p->is_bf16, p->dims, s->number,
                                      STREAM == LQ_K ? s->shape : NULL);
    lq__cu_settle(s, &t, bound, scales, p->dims, granule, fine);
    uint32_t scale = lq__cu_quantize<KIND, NK, STREAM>(words, x, &t, bound, s->tables, p->dims);
    lq__cu_put_granule<KIND, NK, STREAM>(s->part + v * p->levels, granule, words, s->room);
    s->zero = s->zero || __any_sync(~0u, scale == 0);
    if (lane % 4 == 0) scales[granule * 8 + lane / 4] = (uint8_t)scale;
    __syncwarp();
}

/* ---- heads of 128 dims: the Hadamard transform by tensor cores ----
   Four dims (bits 0 and 1 of their numbers) are transformed as floats, which hold these integers
   exactly, the other 32 (bits 2 .. 6) by m16n8k32, a product for each of the three bytes of a
   number; A is the transform's matrix, all 1 and -1. A's columns are what a lane of B has in
   memory's order; A's rows are chosen so that a lane ends up with what makes words:

     lane 4 g + t has tokens 2 t and 2 t + 1; number [o][y] of each, y = 2 tile + half of C:
       K  dims o + 4 half + 8 (g / 2) + 32 tile + 64 (g mod 2):       units of two tokens
       V  dims o + 4 (g / 4) + 8 (2 tile + half) + 32 (g mod 4):      bytes of four words

   A lane pair 4 g + t, 4 (g ^ 1) + t has the same tokens; lane 4 g + t sees to token 2 t + g mod 2,
   where something is to be known of a token once. */
#define LQ__CU_MAGIC 12582912.0f /* 1.5 * 2^23: a float's low bits become an integer's */

/* Tables of a warp: of dim d its sign and minus its mean times that, and its stretch. */
typedef struct lq__cu_centre {
    float2 of[128];
    float stretch[128];
} lq__cu_centre;

static __device__ void lq__cu_centre_init(lq__cu_centre *centre, const uint8_t *number,
                                          const uint8_t *shape)
{
    const float unit = lq__cu_mean_unit(number);
    const int16_t *means = (const int16_t *)(const void *)(number + 4);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t d = 32 * i + threadIdx.x % 32;
        const float sign = lq__cu_signs[i] >> threadIdx.x % 32 & 1u ? -1.0f : 1.0f;
        const float mean = __fmul_rn((float)means[d], unit);
        centre->of[d] = make_float2(sign, sign > 0 ? -mean : mean);
        centre->stretch[d] = lq__cu_stretch(shape[4 + d]);
    }
    __syncwarp();
}

/* A of both tiles of a lane. */
template <int STREAM> static __device__ void lq__cu_hadamard(uint32_t (*a)[4])
{
    const uint32_t g = threadIdx.x % 32 / 4;
    const uint32_t t = threadIdx.x % 4;
#pragma unroll
    for (uint32_t tile = 0; tile < 2; tile++) {
#pragma unroll
        for (uint32_t r = 0; r < 4; r++) {
            const uint32_t half = r & 1u;
            const uint32_t row = STREAM == LQ_K ? half | (g >> 1) << 1 | tile << 3 | (g & 1u) << 4
                                                : half << 1 | tile << 2 | g >> 2 | (g & 3u) << 3;
            a[tile][r] = 0;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t column = r >> 1 | t << 1 | i << 3;
                const uint32_t odd = (uint32_t)__popc(row & column) & 1u;
                a[tile][r] |= (odd ? 0xffu : 1u) << 8 * i;
            }
        }
    }
}

LQ__CU_DEVICE float lq__cu_larger(float x, float y) /* |y|; NaN stays */
{
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(fabsf(y)));
    return z;
}

/* A lane's numbers as floats. */
LQ__CU_DEVICE void lq__cu_floats(float (*x)[8], const uint4 *in, uint32_t is_bf16)
{
    if (is_bf16) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t pairs[4] = {in[i].x, in[i].y, in[i].z, in[i].w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                x[i][2 * k] = __uint_as_float(pairs[k] << 16);
                x[i][2 * k + 1] = __uint_as_float(pairs[k] & 0xffff0000u);
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t pairs[4] = {in[i].x, in[i].y, in[i].z, in[i].w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float2 two = __half22float2(*(const __half2 *)(const void *)&pairs[k]);
                x[i][2 * k] = two.x;
                x[i][2 * k + 1] = two.y;
            }
        }
    }
}

/* Floats to integers plus LQ__CU_MAGIC, times scale and transformed over four dims each. */
LQ__CU_DEVICE void lq__cu_fours(float (*x)[8], float scale)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int e = 0; e < 8; e += 4) {
            float *p = &x[i][e];
            p[0] = __fmaf_rn(p[0], scale, LQ__CU_MAGIC);
#pragma unroll
            for (int k = 1; k < 4; k++) {
                p[k] = __fsub_rn(__fmaf_rn(p[k], scale, LQ__CU_MAGIC), LQ__CU_MAGIC);
            }
            const float a = __fadd_rn(p[0], p[1]); /* with the magic number */
            const float b = __fsub_rn(p[0], p[1]);
            const float u = __fadd_rn(p[2], p[3]);
            const float v = __fsub_rn(p[2], p[3]);
            p[0] = __fadd_rn(a, u);
            p[1] = __fadd_rn(b, v);
            p[2] = __fsub_rn(a, u);
            p[3] = __fsub_rn(b, v);
        }
    }
}

/* Vectors less their means, with signs, to floats that are integers plus LQ__CU_MAGIC, transformed
   over four dims each. Returns the exponent of their unit; *most: bits of the largest. */
static __device__ int32_t lq__cu_centred(float (*x)[8], uint32_t *most, const uint4 *in,
                                         uint32_t is_bf16, const lq__cu_centre *centre,
                                         bool stretched)
{
    const uint32_t c = threadIdx.x % 4;
    float largest = 0;
    lq__cu_floats(x, in, is_bf16);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 *of = (const float4 *)(const void *)&centre->of[32 * i + 8 * c];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float4 two = of[k];
            x[i][2 * k] = fmaf(x[i][2 * k], two.x, two.y);
            x[i][2 * k + 1] = fmaf(x[i][2 * k + 1], two.z, two.w);
        }
        if (stretched) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float f = __fmul_rn(x[i][e], centre->stretch[32 * i + 8 * c + e]);
                x[i][e] = fminf(fmaxf(f, -1.5e38f), 1.5e38f);
            }
        }
#pragma unroll
        for (int e = 0; e < 8; e++) {
            largest = lq__cu_larger(largest, x[i][e]);
        }
    }
    *most = __float_as_uint(largest);
    *most = max(*most, __shfl_xor_sync(~0u, *most, 1));
    *most = max(*most, __shfl_xor_sync(~0u, *most, 2));
    const int32_t unit = max((int32_t)(*most >> 23) - 127 - 19, -120);
    const float scale = __uint_as_float((uint32_t)(127 - unit) << 23);
    lq__cu_fours(x, scale);
    return unit;
}

/* The other 32 dims; out: y[o][2 tile + half][token of two]. */
static __device__ void lq__cu_transform(int32_t (*y)[4][2], const float (*x)[8],
                                        const uint32_t (*a)[4])
{
    const int32_t less = threadIdx.x % 32 < 4 ? -(1 << 27) : 0; /* 32 * 2^22, in row 0 */
#pragma unroll
    for (int o = 0; o < 4; o++) {
        uint32_t bytes[3][2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t u0 = __float_as_uint(x[0][4 * h + o]);
            const uint32_t u1 = __float_as_uint(x[1][4 * h + o]);
            const uint32_t u2 = __float_as_uint(x[2][4 * h + o]);
            const uint32_t u3 = __float_as_uint(x[3][4 * h + o]);
            const uint32_t v0 = lq__cu_permute(u0, u1, 0x5140u);
            const uint32_t v1 = lq__cu_permute(u2, u3, 0x5140u);
            bytes[0][h] = lq__cu_permute(v0, v1, 0x5410u);
            bytes[1][h] = lq__cu_permute(v0, v1, 0x7632u);
            bytes[2][h] = lq__cu_permute(lq__cu_permute(u0, u1, 0x0062u),
                                         lq__cu_permute(u2, u3, 0x0062u), 0x5410u);
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            int32_t c[4] = {0, 0, 0, 0};
#pragma unroll
            for (int b = 2; b >= 0; b--) {
                lq__cu_mma<true>(c, a[tile][0], a[tile][1], a[tile][2], a[tile][3], bytes[b][0],
                                 bytes[b][1]);
                if (b) {
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        c[k] = c[k] * 256 + (b == 1 && tile == 0 && k < 2 ? less : 0);
                    }
                }
            }
            y[o][2 * tile][0] = c[0];
            y[o][2 * tile][1] = c[1];
            y[o][2 * tile + 1][0] = c[2];
            y[o][2 * tile + 1][1] = c[3];
        }
    }
}

/* The largest of this lane's token: of the two tokens' numbers of all lanes g. */
LQ__CU_DEVICE uint32_t lq__cu_largest(const int32_t (*y)[4][2])
{
    const bool second = threadIdx.x & 4u;
    uint32_t most[2] = {0, 0};
    uint32_t mine;
#pragma unroll
    for (int o = 0; o < 4; o++) {
#pragma unroll
        for (int k = 0; k < 8; k++) {
            most[k % 2] = max(most[k % 2], (uint32_t)abs(y[o][k / 2][k % 2]));
        }
    }
    mine = max(second ? most[1] : most[0], __shfl_xor_sync(~0u, second ? most[0] : most[1], 4));
    mine = max(mine, __shfl_xor_sync(~0u, mine, 8));
    return max(mine, __shfl_xor_sync(~0u, mine, 16));
}

/* This lane's token's number and the other's, in the tokens' order. */
LQ__CU_DEVICE void lq__cu_both(uint32_t *both, uint32_t mine)
{
    const uint32_t other = __shfl_xor_sync(~0u, mine, 4);
    both[0] = threadIdx.x & 4u ? other : mine;
    both[1] = threadIdx.x & 4u ? mine : other;
}

/* Words of four lanes t, one for each of them: to lane t those that are its, in lanes' order. */
LQ__CU_DEVICE void lq__cu_trade(uint32_t *w)
{
    const bool odd = threadIdx.x & 1u;
    const bool high = threadIdx.x & 2u;
    const uint32_t a0 = odd ? w[1] : w[0];
    const uint32_t a1 = odd ? w[3] : w[2];
    const uint32_t b0 = __shfl_xor_sync(~0u, odd ? w[0] : w[1], 1);
    const uint32_t b1 = __shfl_xor_sync(~0u, odd ? w[2] : w[3], 1);
    const uint32_t l0 = odd ? b0 : a0; /* of lanes t and t ^ 1, rising: for o below 2 */
    const uint32_t h0 = odd ? a0 : b0;
    const uint32_t l1 = odd ? b1 : a1; /* for o from 2 on */
    const uint32_t h1 = odd ? a1 : b1;
    const uint32_t l2 = __shfl_xor_sync(~0u, high ? l0 : l1, 2);
    const uint32_t h2 = __shfl_xor_sync(~0u, high ? h0 : h1, 2);
    w[0] = high ? l2 : l0;
    w[1] = high ? h2 : h0;
    w[2] = high ? l1 : l2;
    w[3] = high ? h1 : h2;
}

/* Bytes that are 0xff where x is negative, of four numbers. */
LQ__CU_DEVICE uint32_t lq__cu_negative(float x0, float x1, float x2, float x3)
{
    const uint32_t a = lq__cu_permute(__float_as_uint(x0), __float_as_uint(x1), 0x00fbu);
    const uint32_t b = lq__cu_permute(__float_as_uint(x2), __float_as_uint(x3), 0x00fbu);
    return lq__cu_permute(a, b, 0x5410u);
}

/* base + floor(|x| factor), the address of a cell's byte: all come as floats so small that their
   bits are the integers. */
LQ__CU_DEVICE uint32_t lq__cu_cell(float x, float factor, float base)
{
    float y;
    asm("fma.rm.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(fabsf(x)), "f"(factor), "f"(base));
    return __float_as_uint(y);
}

LQ__CU_DEVICE uint32_t lq__cu_error_at(uint32_t at)
{
    uint32_t x;
    asm("ld.shared.u8 %0, [%1];" : "=r"(x) : "r"(at));
    return x;
}

LQ__CU_DEVICE uint32_t lq__cu_code_at(uint32_t at) /* behind the errors */
{
    uint32_t x;
    asm("ld.shared.u8 %0, [%1 + 260];" : "=r"(x) : "r"(at));
    return x;
}

/* Tables of cells 0 .. 256, 128 and more as 127: what a square is the error of, and codes of
   positive numbers. A table of bytes has no bank conflicts. */
typedef struct lq__cu_cells {
    uint8_t error[260];
    uint8_t code[260];
} lq__cu_cells;

template <int KIND> static __device__ void lq__cu_make_bytes(lq__cu_cells *b)
{
    const lq__cu_level *of = KIND == LQ__CU_Z4   ? lq__cu_levels_z4
                             : KIND == LQ__CU_Z3 ? lq__cu_levels_z3
                                                 : lq__cu_levels_z2;
    const uint32_t half = 1u << (lq__cu_bits(KIND) - 1);
    for (uint32_t i = threadIdx.x; i < 260; i += blockDim.x) {
        const uint32_t a = min(i, 127u);
        uint32_t level = 0;
        for (uint32_t k = 1; k < half; k++) {
            level += a >= of[k].from;
        }
        b->error[i] = (uint8_t)abs((int32_t)(2 * a + 1) - of[level].spot);
        b->code[i] = (uint8_t)(half + level);
    }
}

/* What a lane knows of its two tokens. */
typedef struct lq__cu_pair {
    uint32_t shift[2]; /* of numbers, 64 more */
    uint32_t factor[3][2];
} lq__cu_pair;

LQ__CU_DEVICE void lq__cu_pair_init(lq__cu_pair *p, const lq__cu_token *t,
                                    const lq__cu_bound *bound)
{
    const uint32_t f0 = (uint32_t)lq__cu_factor(t, bound, 0);
    const uint32_t f1 = (uint32_t)lq__cu_factor(t, bound, 1);
    const uint32_t f2 = (uint32_t)lq__cu_factor(t, bound, 2);
    const uint32_t shift = (uint32_t)((t->most ? lq__cu_log2(t->most) - 13 : 0) + 64);
    uint32_t both[2][2];
    lq__cu_both(both[0], f0 | f1 << 16);
    lq__cu_both(both[1], f2 | shift << 16);
#pragma unroll
    for (int v = 0; v < 2; v++) {
        p->factor[0][v] = both[0][v] & 0xffffu;
        p->factor[1][v] = both[0][v] >> 16;
        p->factor[2][v] = both[1][v] & 0xffffu;
        p->shift[v] = both[1][v] >> 16;
    }
}

/* Numbers to X of at most 2^14. */
LQ__CU_DEVICE void lq__cu_shorten(int32_t (*y)[4][2], const lq__cu_pair *p)
{
    const bool up = __any_sync(~0u, p->shift[0] <= 64 || p->shift[1] <= 64);
#pragma unroll
    for (int v = 0; v < 2; v++) {
        const int32_t down = max((int32_t)p->shift[v] - 64, 0);
        const int32_t half = 1 << down >> 1;
        if (up) {
#pragma unroll
            for (int k = 0; k < 16; k++) {
                y[k / 4][k % 4][v] *= 1 << max(64 - (int32_t)p->shift[v], 0);
            }
        }
#pragma unroll
        for (int k = 0; k < 16; k++) {
            y[k / 4][k % 4][v] = (y[k / 4][k % 4][v] + half) >> down;
        }
    }
}

/* Where a factor is large: all beyond the last cell is alike. */
static __device__ void lq__cu_clip(int32_t (*y)[4][2], const lq__cu_pair *p)
{
    asm volatile(""); /* a branch, rather than what is done under a predicate each time */
#pragma unroll
    for (int v = 0; v < 2; v++) {
        const int32_t most = (int32_t)((1u << 24) / max(p->factor[0][v], 1u));
#pragma unroll
        for (int k = 0; k < 16; k++) {
            y[k / 4][k % 4][v] = min(max(y[k / 4][k % 4][v], -most), most);
        }
    }
}

/* Costs of this lane's token, of both tokens' costs of all lanes g. */
LQ__CU_DEVICE uint32_t lq__cu_total(const uint32_t *costs)
{
    const bool second = threadIdx.x & 4u;
    uint32_t mine = second ? costs[1] : costs[0];
    mine += __shfl_xor_sync(~0u, second ? costs[0] : costs[1], 4);
    mine += __shfl_xor_sync(~0u, mine, 8);
    return mine + __shfl_xor_sync(~0u, mine, 16);
}

/* Numbers' codes by a factor: words of a lane's units, K [token][tile], V [o] (bytes of four
   dims). */
template <int KIND, int STREAM>
LQ__CU_DEVICE void lq__cu_pack(uint32_t *words, const float (*x)[4][2], const float *factor,
                               float base)
{
    const uint32_t mask = 0x11111111u * ((1u << lq__cu_bits(KIND)) - 1);
    if (STREAM == LQ_K) {
#pragma unroll
        for (int k = 0; k < 4; k++) { /* token, tile */
            const int v = k / 2;
            uint32_t w = 0;
#pragma unroll
            for (int e = 7; e >= 0; e--) {
                const float z = x[e % 4][k % 2 * 2 + e / 4][v];
                w = w * 16 + lq__cu_code_at(lq__cu_cell(z, factor[v], base));
            }
            const uint32_t even = lq__cu_negative(x[0][k % 2 * 2][v], x[2][k % 2 * 2][v],
                                                  x[0][k % 2 * 2 + 1][v], x[2][k % 2 * 2 + 1][v]);
            const uint32_t others = lq__cu_negative(x[1][k % 2 * 2][v], x[3][k % 2 * 2][v],
                                                    x[1][k % 2 * 2 + 1][v], x[3][k % 2 * 2 + 1][v]);
            words[k] = w ^ (((even & 0x0f0f0f0fu) | (others & 0xf0f0f0f0u)) & mask);
        }
    } else {
#pragma unroll
        for (int o = 0; o < 4; o++) {
            uint32_t w = 0;
#pragma unroll
            for (int k = 3; k >= 0; k--) {
                w = w * 16 + lq__cu_code_at(lq__cu_cell(x[o][k][1], factor[1], base));
                w = w * 16 + lq__cu_code_at(lq__cu_cell(x[o][k][0], factor[0], base));
            }
            const uint32_t even = lq__cu_negative(x[o][0][0], x[o][1][0], x[o][2][0], x[o][3][0]);
            const uint32_t others = lq__cu_negative(x[o][0][1], x[o][1][1], x[o][2][1], x[o][3][1]);
            words[o] = w ^ (((even & 0x0f0f0f0fu) | (others & 0xf0f0f0f0u)) & mask);
        }
    }
}

/* Codes of Z, packed. Returns which of three scales this lane's token has. */
template <int KIND, int STREAM>
static __device__ uint32_t lq__cu_codes(uint32_t *words, const int32_t (*y)[4][2],
                                        const lq__cu_pair *p, const lq__cu_cells *bytes)
{
    const float small = __uint_as_float((127u - 60u) << 23);
    const float base = __uint_as_float(lq__cu_shared(bytes));
    const float tiny = __uint_as_float((127u - 105u) << 23); /* 2^-149 is 1: 2^-16 of the product */
    float x[4][4][2];
    float factors[3][2];
    uint32_t costs[3][2] = {};
    uint32_t total[3];
    uint32_t best[2];
#pragma unroll
    for (int v = 0; v < 2; v++) {
#pragma unroll
        for (int k = 0; k < 3; k++) {
            factors[k][v] = (float)p->factor[k][v] * tiny;
        }
#pragma unroll
        for (int k = 0; k < 16; k++) {
            x[k / 4][k % 4][v] = (float)y[k / 4][k % 4][v] * small;
        }
    }
#pragma unroll
    for (int k = 0; k < 32; k++) {
        const float z = x[k / 8][k / 2 % 4][k % 2];
#pragma unroll
        for (int f = 0; f < 3; f++) {
            const uint32_t e = lq__cu_error_at(lq__cu_cell(z, factors[f][k % 2], base));
            costs[f][k % 2] += e * e;
        }
    }
#pragma unroll
    for (int f = 0; f < 3; f++) {
        total[f] = lq__cu_total(costs[f]);
    }
    const uint32_t mine = lq__cu_cheapest(total);
    lq__cu_both(best, mine);
#pragma unroll
    for (int v = 0; v < 2; v++) {
        factors[0][v] = best[v] == 0 ? factors[0][v] : best[v] == 1 ? factors[1][v] : factors[2][v];
    }
    lq__cu_pack<KIND, STREAM>(words, x, factors[0], base);
    return mine;
}

/* Codes of E8 in V: words of four dims, complete. */
static __device__ void lq__cu_codes_e8v(uint32_t *words, const int32_t (*y)[4][2],
                                        const lq__cu_pair *p, const lq__cu_tables *tables)
{
    int32_t block[8];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t w[4];
#pragma unroll
        for (int o = 0; o < 4; o++) {
            w[o] = (uint32_t)(lq__cu_y(y[o][k][0], (int32_t)p->factor[1][0]) & 0xffff) |
                   (uint32_t)lq__cu_y(y[o][k][1], (int32_t)p->factor[1][1]) << 16;
        }
        lq__cu_trade(w);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            block[e] = (int16_t)(e & 1 ? w[e / 2] >> 16 : w[e / 2] & 0xffffu);
        }
        (void)lq__cu_e8(&words[k], block, tables);
    }
}

/* In K: words [token][tile]. */
static __device__ uint32_t lq__cu_codes_e8k(uint32_t *words, const int32_t (*y)[4][2],
                                            const lq__cu_pair *p, const lq__cu_tables *tables)
{
    int32_t block[8];
    uint32_t own[3][4];
    uint32_t total[3];
    uint32_t best[2];
#pragma unroll 1
    for (int f = 0; f < 3; f++) {
        uint32_t costs[2] = {0, 0};
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int v = k / 2;
            const uint32_t factor = f == 0   ? p->factor[0][v]
                                    : f == 1 ? p->factor[1][v]
                                             : p->factor[2][v];
#pragma unroll
            for (int e = 0; e < 8; e++) {
                block[e] = lq__cu_y(y[e % 4][k % 2 * 2 + e / 4][v], (int32_t)factor);
            }
            costs[v] += lq__cu_e8(&w[k], block, tables);
        }
        const uint32_t sum = lq__cu_total(costs);
#pragma unroll
        for (int i = 0; i < 3; i++) {
            total[i] = f == i ? sum : total[i];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                own[i][k] = f == i ? w[k] : own[i][k];
            }
        }
    }
    const uint32_t mine = lq__cu_cheapest(total);
    lq__cu_both(best, mine);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t b = best[k / 2];
        words[k] = b == 0 ? own[0][k] : b == 1 ? own[1][k] : own[2][k];
    }
    return mine;
}

/* A lane's words into a part of a page: the units of a group. */
template <int KIND, int STREAM>
static __device__ void lq__cu_put_words(uint8_t *levels, uint32_t granule, uint32_t *w)
{
    const uint32_t g = threadIdx.x % 32 / 4;
    const uint32_t t = threadIdx.x % 4;
    uint32_t *to = (uint32_t *)(void *)levels;
    uint32_t units[8];
    uint32_t own[8];
    uint32_t group;
    uint32_t owner;
    if (STREAM == LQ_K) { /* this lane's token: half of the dims are the other lane's */
        const bool second = g & 1u;
        const uint32_t x = __shfl_xor_sync(~0u, second ? w[0] : w[2], 4);
        const uint32_t y = __shfl_xor_sync(~0u, second ? w[1] : w[3], 4);
        units[0] = second ? x : w[0];
        units[1] = second ? y : w[1];
        units[2] = second ? w[2] : x;
        units[3] = second ? w[3] : y;
        group = 2 * t + (g & 1u);
        owner = granule * 4 + g / 2;
    } else {
        if (KIND != LQ__CU_E8) {
            lq__cu_trade(w);
            const uint32_t p0 = lq__cu_permute(w[0], w[1], 0x5140u);
            const uint32_t p1 = lq__cu_permute(w[2], w[3], 0x5140u);
            const uint32_t q0 = lq__cu_permute(w[0], w[1], 0x7362u);
            const uint32_t q1 = lq__cu_permute(w[2], w[3], 0x7362u);
            w[0] = lq__cu_permute(p0, p1, 0x5410u);
            w[1] = lq__cu_permute(p0, p1, 0x7632u);
            w[2] = lq__cu_permute(q0, q1, 0x5410u);
            w[3] = lq__cu_permute(q0, q1, 0x7632u);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            units[k] = w[k];
        }
        group = granule / 4 * 4 + (g & 3u);
        owner = (g / 4 * 4 + t) * 4 + granule % 4;
    }
    lq__cu_join(own, KIND, units);
    if (lq__cu_words(KIND) == 4) {
        *(uint4 *)(void *)(to + lq__cu_word_at(KIND, group, 0, owner)) =
            make_uint4(own[0], own[1], own[2], own[3]);
    } else {
#pragma unroll
        for (int k = 0; k < lq__cu_words(KIND); k++) {
            to[lq__cu_word_at(KIND, group, (uint32_t)k, owner)] = own[k];
        }
    }
}

/* A granule's eight tokens of 128 dims. */
template <int KIND, int STREAM>
static __device__ void lq__cu_seal_granule_128(lq__cu_sealing *s, uint32_t granule, const uint4 *in,
                                               const lq__cu_plan *p, const lq__cu_centre *centre,
                                               const uint32_t (*a)[4], const lq__cu_cells *bytes)
{
    const lq__cu_bound *bound = lq__cu_bound_of(KIND, STREAM);
    const int v = STREAM == LQ_V;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t mine = 2 * (lane % 4) + (lane / 4 & 1u); /* this lane's token */
    uint8_t *scales = s->part + 2 * p->levels + 64 * v;
    float x[4][8];
    int32_t y[4][4][2];
    uint32_t words[4];
    uint32_t most;
    lq__cu_token t;
    lq__cu_pair pair;
    const int32_t unit =
        lq__cu_centred(x, &most, in, p->is_bf16, centre,
                       STREAM == LQ_K && *(const uint32_t *)(const void *)s->shape);
    lq__cu_transform(y, x, a);
    t.most = lq__cu_largest(y);
    t.unit = __shfl_sync(~0u, unit, (int)(4 * mine));
    const bool fine = __shfl_sync(~0u, most, (int)(4 * mine)) < 0x7b800000u; /* 2^120 */
    lq__cu_settle(s, &t, bound, scales, 128, granule, fine);
    lq__cu_pair_init(&pair, &t, bound);
    lq__cu_shorten(y, &pair);
    uint32_t best = 1;
    if (KIND == LQ__CU_E8 && STREAM == LQ_V) {
        lq__cu_codes_e8v(words, y, &pair, s->tables);
    } else if (KIND == LQ__CU_E8) {
        best = lq__cu_codes_e8k(words, y, &pair, s->tables);
    } else {
        if (__any_sync(~0u, !t.none && (t.code < 2 || t.code > 254))) lq__cu_clip(y, &pair);
        best = lq__cu_codes<KIND, STREAM>(words, y, &pair, bytes);
    }
    lq__cu_put_words<KIND, STREAM>(s->part + v * p->levels, granule, words);
    const uint32_t scale = t.none ? 0 : (uint32_t)min(max(t.code + (int32_t)best - 1, 1), 255);
    s->zero = s->zero || __any_sync(~0u, scale == 0);
    if (lane < 8) scales[granule * 8 + mine] = (uint8_t)scale;
    __syncwarp();
}

/* What a warp seals: granules of a page of a head and stream, tokens at .. end. Returns whether
   there are any. */
typedef struct lq__cu_task {
    lq__cu_sequence q;
    lq__cu_source from;
    lq__cu_sealing of;
    uint8_t *header;
    uint32_t s;
    uint32_t head;
    int stream;
    uint32_t first;
    uint32_t at;
    uint32_t end;
} lq__cu_task;

static __device__ bool lq__cu_task_of(lq__cu_task *k, const lq__cu_plan *p, const lq__cu_batch *b,
                                      const lq__cu_source *from_k, const lq__cu_source *from_v)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t x = blockIdx.x * 4 + threadIdx.x / 32;
    k->s = blockIdx.y;
    k->stream = (int)blockIdx.z; /* first all of K: less code at a time */
    k->head = x % p->heads;
    k->from.data = k->stream ? from_v->data : from_k->data;
    k->from.sequence_stride = k->stream ? from_v->sequence_stride : from_k->sequence_stride;
    k->from.token_stride = k->stream ? from_v->token_stride : from_k->token_stride;
    k->from.head_stride = k->stream ? from_v->head_stride : from_k->head_stride;
    k->q = lq__cu_sequence_of(p, b, k->s);
    if (k->q.sealed == k->q.to || !k->q.state) return false;
    const uint32_t page = (k->q.sealed - p->sinks) / LQ__CU_TOKENS + x / p->heads;
    const uint32_t epoch = lq__cu_epoch(page);
    k->first = p->sinks + page * LQ__CU_TOKENS;
    k->at = max(k->q.sealed, k->first);
    k->end = min(k->q.to, k->first + LQ__CU_TOKENS);
    if (k->at >= k->end) return false;
    const uint32_t id = page < p->table ? b->tables[(size_t)k->s * p->table + page] : LQ_KV_NONE;
    if (id >= p->pages) {
        if (lane == 0) atomicOr(b->flags, LQ_CUDA_BAD_PAGE);
        return false;
    }
    k->of.part = p->pool + ((size_t)id * p->heads + k->head) * p->part;
    k->of.number = k->q.state + lq__cu_number_at(p, k->stream, epoch, k->head);
    k->of.shape = k->q.state + lq__cu_shape_at(p, epoch, k->head);
    k->of.flags = b->flags;
    k->header = k->of.part + 2 * p->levels + 128;
    k->of.base = k->at == k->first ? 0 : (int8_t)k->header[k->stream];
    k->of.zero = k->at == k->first ? false : k->header[2 + k->stream] != 0;
    if (k->at == k->first) {
        uint8_t *scales = k->of.part + 2 * p->levels + 64 * k->stream;
        scales[lane] = 0;
        scales[lane + 32] = 0;
        if (k->stream && lane < 12) k->header[4 + lane] = 0;
        __syncwarp();
    }
    return true;
}

/* A lane's numbers of eight tokens from `at` on: 32 i + 8 c .. of token j. */
template <int NK>
LQ__CU_DEVICE void lq__cu_rows(uint4 *in, const lq__cu_task *k, const lq__cu_plan *p, uint32_t at)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint16_t *row = lq__cu_row(p, &k->q, &k->from, k->stream, k->s, k->head, at + lane / 4);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t d = 32u * i + lane % 4 * 8;
        in[i] = d < p->dims ? *(const uint4 *)(const void *)(row + d) : make_uint4(0, 0, 0, 0);
    }
}

/* Pages that the sequences of a step take granules in, one a warp and head and stream; the rows of
   a granule come while the one before is sealed. */
template <int KIND, int NK>
static __global__ void __launch_bounds__(128)
    lq__cu_seal_kernel(lq__cu_plan p, lq__cu_batch b, lq__cu_source k, lq__cu_source v)
{
    __shared__ lq__cu_tables tables;
    __shared__ uint32_t rooms[4][NK * 32 * (KIND == LQ__CU_Z8 ? 2 : 1)];
    lq__cu_task task;
    uint4 in[NK];
    uint4 next[NK];
    lq__cu_make_tables<KIND>(&tables);
    __syncthreads();
    if (!lq__cu_task_of(&task, &p, &b, &k, &v)) return;
    task.of.tables = &tables;
    task.of.room = rooms[threadIdx.x / 32];
    lq__cu_rows<NK>(next, &task, &p, task.at);
    for (; task.at < task.end; task.at += 8) {
        const uint32_t granule = (task.at - task.first) / 8;
#pragma unroll
        for (int i = 0; i < NK; i++) {
            in[i] = next[i];
        }
        if (task.at + 8 < task.end) lq__cu_rows<NK>(next, &task, &p, task.at + 8);
        if (task.stream) {
            lq__cu_seal_granule<KIND, NK, LQ_V>(&task.of, granule, in, &p);
        } else {
            lq__cu_seal_granule<KIND, NK, LQ_K>(&task.of, granule, in, &p);
        }
    }
    if (threadIdx.x % 32 == 0) {
        task.header[task.stream] = (uint8_t)task.of.base;
        task.header[2 + task.stream] = task.of.zero;
    }
}

/* The same of heads of 128 dims; a stream's granules. */
template <int KIND, int STREAM>
static __device__ void lq__cu_seal_page_128(lq__cu_task *task, const lq__cu_plan *p,
                                            lq__cu_centre *centre, const lq__cu_cells *bytes)
{
    uint32_t a[2][4];
    uint4 in[4];
    uint4 next[4];
    lq__cu_rows<4>(next, task, p, task->at);
    lq__cu_centre_init(centre, task->of.number, task->of.shape);
    lq__cu_hadamard<STREAM>(a);
#pragma unroll 1
    for (; task->at < task->end; task->at += 8) {
        const uint32_t granule = (task->at - task->first) / 8;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            in[i] = next[i];
        }
        if (task->at + 8 < task->end) lq__cu_rows<4>(next, task, p, task->at + 8);
        lq__cu_seal_granule_128<KIND, STREAM>(&task->of, granule, in, p, centre, a, bytes);
    }
}

template <int KIND>
static __global__ void __launch_bounds__(128, 4)
    lq__cu_seal_128_kernel(lq__cu_plan p, lq__cu_batch b, lq__cu_source k, lq__cu_source v)
{
    __shared__ lq__cu_tables tables;
    __shared__ lq__cu_cells bytes;
    __shared__ __align__(16) lq__cu_centre centres[4];
    lq__cu_task task;
    if (KIND == LQ__CU_E8) {
        lq__cu_make_tables<KIND>(&tables);
    } else {
        lq__cu_make_bytes<KIND>(&bytes);
    }
    __syncthreads();
    if (!lq__cu_task_of(&task, &p, &b, &k, &v)) return;
    task.of.tables = &tables;
    if (task.stream) {
        lq__cu_seal_page_128<KIND, LQ_V>(&task, &p, &centres[threadIdx.x / 32], &bytes);
    } else {
        lq__cu_seal_page_128<KIND, LQ_K>(&task, &p, &centres[threadIdx.x / 32], &bytes);
    }
    if (threadIdx.x % 32 == 0) {
        task.header[task.stream] = (uint8_t)task.of.base;
        task.header[2 + task.stream] = task.of.zero;
    }
}

/* Starts the one that serves a layer; that of 128 dims is there where an instance has these. */
template <int KIND, bool THERE> struct lq__cu_seal_128 {
    static bool start(const lq__cu_plan *, const lq__cu_batch *, const lq__cu_source *,
                      const lq__cu_source *, dim3, cudaStream_t)
    {
        return false;
    }
};

template <int KIND> struct lq__cu_seal_128<KIND, true> {
    static bool start(const lq__cu_plan *p, const lq__cu_batch *b, const lq__cu_source *k,
                      const lq__cu_source *v, dim3 grid, cudaStream_t stream)
    {
        if (p->dims != 128) return false;
        lq__cu_seal_128_kernel<KIND><<<grid, 128, 0, stream>>>(*p, *b, *k, *v);
        return true;
    }
};

template <int KIND, int NK>
static void lq__cu_seal_start(const lq__cu_plan *p, const lq__cu_batch *b, const lq__cu_source *k,
                              const lq__cu_source *v, cudaStream_t stream)
{
    const uint32_t pages = (b->most + 7) / LQ__CU_TOKENS + 2;
    const dim3 grid((pages * p->heads + 3) / 4, b->count, 2);
    if (!lq__cu_seal_128 < KIND, NK == 4 && KIND != LQ__CU_Z8 > ::start(p, b, k, v, grid, stream)) {
        lq__cu_seal_kernel<KIND, NK><<<grid, 128, 0, stream>>>(*p, *b, *k, *v);
    }
}

/* New tokens that stay raw: a warp a token and head and stream. */
static __global__ void __launch_bounds__(128)
    lq__cu_keep_kernel(lq__cu_plan p, lq__cu_batch b, lq__cu_source k, lq__cu_source v)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t x = blockIdx.x * 4 + threadIdx.x / 32;
    const uint32_t s = blockIdx.y;
    const int stream = (int)(x / p.heads & 1u);
    const uint32_t head = x % p.heads;
    const uint32_t i = x / (2 * p.heads);
    const lq__cu_sequence q = lq__cu_sequence_of(&p, &b, s);
    const uint32_t sink = q.old < p.sinks ? min(p.sinks, q.now) - q.old : 0; /* new ones that are */
    const uint32_t from = max(max(q.old, q.to), p.sinks);
    const uint32_t t = i < sink ? q.old + i : from + (i - sink);
    if (!q.state || t >= q.now) return;
    if (lane * 8 < p.dims) {
        const uint16_t *row = lq__cu_row(&p, &q, stream ? &v : &k, stream, s, head, t);
        uint16_t *to = lq__cu_raw(&p, &q, stream, head, t);
        *(uint4 *)(void *)(to + lane * 8) = *(const uint4 *)(const void *)(row + lane * 8);
    }
}

static bool lq__cu_batch_of(lq__cu_batch *to, const lq_cuda_batch *b)
{
    if (!b || b->count == 0 || b->count > LQ__CU_SEQUENCES || b->most > 0x7fffffu || !b->tokens ||
        !b->tables || !b->flags) {
        return false;
    }
    to->count = b->count;
    to->most = b->most;
    to->slots = b->slots;
    to->tokens = b->tokens;
    to->added = b->added;
    to->tables = b->tables;
    to->flags = b->flags;
    return true;
}

static bool lq__cu_source_of(lq__cu_source *to, const lq_cuda_view *v)
{
    if (!v || !v->data || (uintptr_t)v->data % 16 || v->sequence_stride % 8 ||
        v->token_stride % 8 || v->head_stride % 8) {
        return false;
    }
    to->data = (const uint16_t *)v->data;
    to->sequence_stride = v->sequence_stride;
    to->token_stride = v->token_stride;
    to->head_stride = v->head_stride;
    return true;
}

extern "C" int lq_cuda_append(const lq_cuda_layer *layer, const lq_cuda_batch *batch,
                              const lq_cuda_view *k, const lq_cuda_view *v, cudaStream_t stream)
{
    lq__cu_plan p;
    lq__cu_batch b;
    lq__cu_source from_k;
    lq__cu_source from_v;
    uint32_t raw;
    if (lq__cu_plan_of(&p, layer) != LQ_OK || !lq__cu_batch_of(&b, batch) ||
        !lq__cu_source_of(&from_k, k) || !lq__cu_source_of(&from_v, v) || b.most == 0) {
        return LQ_E_ARG;
    }
    raw = min(b.most, p.sinks + p.ring);
    if (lq__cu_fit_start(&p, &b, &from_k, &from_v, stream) != LQ_OK) return LQ_E_INTERNAL;
#define LQ__CU_ROW(name, wide)                                                           \
    if (p.kind == LQ__CU_##name && p.steps * 32 == (wide)) {                             \
        lq__cu_seal_start<LQ__CU_##name, (wide) / 32>(&p, &b, &from_k, &from_v, stream); \
    }
    LQ_CUDA_INSTANCES(LQ__CU_ROW)
#undef LQ__CU_ROW
    lq__cu_keep_kernel<<<dim3((raw * 2 * p.heads + 3) / 4, b.count), 128, 0, stream>>>(p, b, from_k,
                                                                                       from_v);
    return lq__cu_launched();
}

/* ================================================================================================
   >>stream   parts of pages into shared memory: each warp has a ring of its own

   From compute capability 9.0 on one bulk copy a part, counted by an mbarrier; below, 16 bytes a
   lane and copy, in groups. A part whose id is outside the pool is not copied, and told.
   ============================================================================================== */
/* A warp's ring: room for a few halves of parts, the levels of K and then all that follows, so that
   the next keys come while values are attended. Copies are begun and waited for in one order. */
typedef struct lq__cu_ring {
    uint32_t at;     /* shared memory */
    uint32_t bars;   /* mbarriers, one a half */
    uint32_t halves; /* 1 .. LQ__CU_HALVES */
    uint32_t levels; /* bytes of a first half */
    uint32_t rest;   /* bytes of a second half: the room of each */
    uint32_t begun;  /* place of the next copy */
    uint32_t done;   /* place of the next wait */
    uint32_t phases; /* of the waits, a bit a place */
} lq__cu_ring;

LQ__CU_DEVICE void lq__cu_ring_init(lq__cu_ring *r, uint8_t *at, uint64_t *bars, uint32_t halves,
                                    uint32_t levels, uint32_t part)
{
    r->at = lq__cu_shared(at);
    r->bars = lq__cu_shared(bars);
    r->halves = halves;
    r->levels = levels;
    r->rest = part - levels;
    r->begun = 0;
    r->done = 0;
    r->phases = 0;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 < halves) {
        asm volatile(
            "mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(r->bars + 8 * (threadIdx.x % 32))
            : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
}

/* Begins the copy of a half of a part, of NULL: none, but its turn is taken. */
LQ__CU_DEVICE void lq__cu_ring_begin(lq__cu_ring *r, const uint8_t *from, uint32_t second)
{
    const uint32_t to = r->at + r->begun * r->rest;
    const uint32_t bytes = second ? r->rest : r->levels;
#if __CUDA_ARCH__ >= 900
    const uint32_t bar = r->bars + 8 * r->begun;
    if (threadIdx.x % 32 == 0) {
        if (from) {
            uint64_t once; /* read once: what else is in the second-level cache stays */
            asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(once));
            from += second ? r->levels : 0;
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar),
                         "r"(bytes)
                         : "memory");
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                         ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
                         "l"(from), "r"(bytes), "r"(bar), "l"(once)
                         : "memory");
        } else {
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
        }
    }
#else
    from += from && second ? r->levels : 0;
    for (uint32_t i = threadIdx.x % 32 * 16; i < bytes && from; i += 512) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    r->begun = r->begun + 1 == r->halves ? 0 : r->begun + 1;
}

/* Waits for a phase of an mbarrier. */
LQ__CU_DEVICE void lq__cu_bar_wait(uint32_t bar, uint32_t phase)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra there;\n"
                 "bra again;\n"
                 "there:\n"
                 "}" ::"r"(bar),
                 "r"(phase)
                 : "memory");
#endif
}

/* Waits for the oldest copy; returns where it is. Without bulk copies as many groups as there are
   halves are always under way: begin takes place also where there is nothing to copy. */
LQ__CU_DEVICE uint32_t lq__cu_ring_wait(lq__cu_ring *r)
{
    const uint32_t at = r->at + r->done * r->rest;
#if __CUDA_ARCH__ >= 900
    lq__cu_bar_wait(r->bars + 8 * r->done, r->phases >> r->done & 1u);
    r->phases ^= 1u << r->done;
#else
    switch (r->halves) {
    case 1:
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        break;
    case 2:
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        break;
    case 3:
        asm volatile("cp.async.wait_group 2;" ::: "memory");
        break;
    default:
        asm volatile("cp.async.wait_group 3;" ::: "memory");
        break;
    }
    __syncwarp();
#endif
    r->done = r->done + 1 == r->halves ? 0 : r->done + 1;
    return at;
}

LQ__CU_DEVICE uint32_t lq__cu_lds(uint32_t at)
{
    uint32_t x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(at));
    return x;
}

LQ__CU_DEVICE uint2 lq__cu_lds2(uint32_t at)
{
    uint2 x;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(at));
    return x;
}

LQ__CU_DEVICE uint4 lq__cu_lds4(uint32_t at)
{
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(at));
    return x;
}

/* ================================================================================================
   >>attend   attention of a step's queries

   A page's scores are integer products: rows of A are levels, 8 columns of B are four query rows in
   15 bits, high bytes and low bytes apart; so 8-bit products cost no accuracy. Weights are 16 bits
   in the same way. An A register is levels of four codes, by one PRMT: its selectors are the codes'
   nibbles. A selector has an index of three bits, and a fourth that makes a byte of the sign of the
   table's. So levels of four bits take two tables: one of negative levels less 1, by the codes,
   which gives -1 where a code is positive; one of positive levels, by the codes inverted, which
   gives 0 where it is negative. Both products go into one sum, which is then less by the sum of B:
   that is what it begins with (K), or what is added in the end (V). 7 instructions for 8 levels, 5
   of them for the unit that PRMT belongs to.

   Work is cut into items: a page, or all raw tokens, of a sequence, kv head and block of query
   rows. Each block of threads has an equal run of items, whatever the sequences' lengths. Within a
   run what belongs together is summed by its warps; then a warp for each query row joins these,
   and, where a sum is cut between blocks, the last one to come for a row joins the parts, in their
   order. Where blocks have several sums, each begins with items that are only there to stand for
   the time that it takes apart from pages. Raw tokens are an item, the last one of a sum, that
   stands for many.

   A block that has little to do lasts as long as its loads wait for each other, so: where blocks
   have one sum each, a multiprocessor has one block of many warps; a warp's first copy is begun
   before queries are prepared, and of a step's loads none waits for another; pages leave the
   second-level cache first, so that code and what all blocks read stay there.
   ============================================================================================== */
#define LQ__CU_WARPS 16 /* at most: a warp's lanes have these by two slots */
#define LQ__CU_HALVES 4 /* of a warp's ring, at most */
#ifndef LQ__CU_LEAD
#define LQ__CU_LEAD 24u
#endif
#ifndef LQ__CU_TRAIL
#define LQ__CU_TRAIL 9u /* items that the one of raw tokens stands for, but itself */
#endif
#define LQ__CU_SLOTS 8u /* of shapes, and of means of values, that a sequence can have */
#define LQ__CU_EPOCHS 32u
#define LQ__CU_RAW 16u /* raw tokens that a warp has at a time */

typedef struct lq__cu_attention {
    lq__cu_plan p;
    lq__cu_batch b;
    const void *q;
    void *out;
    float *lse;
    const float *slopes;
    float scale;   /* of logits, times log2 e */
    float softcap; /* 0: none */
    float softcap_inverse;
    uint32_t window;
    uint32_t window_sinks;
    uint32_t heads;
    uint32_t queries;
    uint32_t group;  /* query heads of a kv head */
    uint32_t rows;   /* queries * group */
    uint32_t blocks; /* of rows, of a kv head */
    uint32_t lead;   /* items in front of a sum that are none */
    int type;
    uint32_t halves;     /* of a warp's ring */
    uint32_t raw_halves; /* of one that has raw tokens */
    uint32_t raw_at; /* where in a warp's room its sums of raw tokens are; at 0 those of pages */
    uint32_t warp_bytes;
    float2 *sums;       /* (2 grid, rows of a block): largest logit, sum */
    float *parts;       /* (2 grid, rows of a block, wide) */
    uint32_t *counters; /* (count, kv heads, blocks, rows of a block) */
} lq__cu_attention;

/* A sum's parts: a sequence, kv head and block of rows, and the items of these that are at hand. */
typedef struct lq__cu_segment {
    lq__cu_sequence q;
    uint32_t s;
    uint32_t head;
    uint32_t block;
    uint32_t page;  /* the first that is seen */
    uint32_t pages; /* from there on */
    uint32_t raw;   /* tokens: the item behind the pages */
    uint32_t first; /* items that are at hand */
    uint32_t last;
    uint32_t items; /* all */
    uint32_t
        flat; /* number of its first item in the launch; in front of it are `lead` that are none,
                       behind the last one LQ__CU_TRAIL */
} lq__cu_segment;

LQ__CU_DEVICE float lq__cu_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Tables of a kind. E8: those of coset 0 and of coset 1. */
static __constant__ uint32_t lq__cu_lookups[LQ__CU_END][8] = {
    {0},
    {0},
    /* Z4: -128 -99 -77 -60, -45 -32 -19 -7; 127 98 76 59, 44 31 18 6 */
    {0xc4b39d80u, 0xf9ede0d3u, 0x3b4c627fu, 0x06121f2cu},
    /* Z3: -127 -79 -44 -14, 14 44 79 127 */
    {0xf2d4b181u, 0x7f4f2c0eu},
    /* Z2: -127 -38 38 127 */
    {0x7f26da81u},
    /* E8: -128 -93 -56 -72, -9 -19 -42 -31; 24 35 13 3, 62 48 80 106; in coset 1 -107 -81 -49 -63,
       -4 -14 -36 -25; 30 41 18 8, 71 55 92 127 */
    {0xb8c8a380u, 0xe1d6edf7u, 0x030d2318u, 0x6a50303eu, 0xc1cfaf95u, 0xe7dcf2fcu, 0x0812291eu,
     0x7f5c3747u}};

/* The same in registers, by way of shared memory: where the compiler knows them, or knows that
   they are the same in all lanes, it moves them anew for each PRMT. E8's stay in shared memory.
   minus: -1, unknown likewise: inverting by a multiplication keeps the unit free that PRMT
   takes. */
template <int KIND> struct lq__cu_lookup {
    uint32_t t[4];
    uint32_t minus;
    uint32_t at;

    __device__ __forceinline__ void
    init(const uint32_t *shared) /* (2, 12): lanes alike have one each */
    {
        at = lq__cu_shared(shared + threadIdx.x % 2 * 12);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            t[i] = lq__cu_lds(at + 4 * i);
        }
        minus = lq__cu_lds(at + 32);
    }
};

LQ__CU_DEVICE uint32_t lq__cu_multiply_add(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t x;
    asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(x) : "r"(a), "r"(b), "r"(c));
    return x;
}

/* Levels of unit k of a group as A registers: a: low four, high four; of kinds in halves a are the
   negative ones and n the positive. */
template <int KIND>
LQ__CU_DEVICE void lq__cu_open(uint32_t *a, uint32_t *n, const uint32_t *w, int k,
                               const lq__cu_lookup<KIND> *of)
{
    if (KIND == LQ__CU_Z8) {
        a[0] = w[2 * k];
        a[1] = w[2 * k + 1];
    } else if (KIND == LQ__CU_Z2) {
        const uint32_t x = w[k / 2] & 0x33333333u;
        const uint32_t y = w[k / 2] >> 2 & 0x33333333u;
        a[0] = lq__cu_permute(of->t[0], of->t[0], k & 1 ? x >> 16 : x);
        a[1] = lq__cu_permute(of->t[0], of->t[0], k & 1 ? y >> 16 : y);
    } else if (KIND == LQ__CU_Z3) {
        uint32_t x = w[k < 3 ? k : 0] & 0x77777777u;
        if (k == 3) {
            x = (w[0] >> 3 & 0x11111111u) | (w[1] >> 2 & 0x22222222u) | (w[2] >> 1 & 0x44444444u);
        }
        a[0] = lq__cu_permute(of->t[0], of->t[1], x);
        a[1] = lq__cu_permute(of->t[0], of->t[1], x >> 16);
    } else {
        const uint32_t x = w[k];
        const uint32_t y = x >> 16;
        const uint32_t not_x = lq__cu_multiply_add(x, of->minus, of->minus);
        const uint32_t not_y = lq__cu_multiply_add(y, of->minus, of->minus);
        uint32_t t[4];
        if (KIND == LQ__CU_E8) {
            const uint4 four = lq__cu_lds4(of->at + ((uint32_t)__popc(x) & 1u) * 16);
            t[0] = four.x;
            t[1] = four.y;
            t[2] = four.z;
            t[3] = four.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                t[i] = of->t[i];
            }
        }
        a[0] = lq__cu_permute(t[0], t[1], x);
        a[1] = lq__cu_permute(t[0], t[1], y);
        n[0] = lq__cu_permute(t[2], t[3], not_x);
        n[1] = lq__cu_permute(t[2], t[3], not_y);
    }
}

/* Group n of this lane's words, from shared memory. */
template <int KIND> LQ__CU_DEVICE void lq__cu_take(uint32_t *w, uint32_t levels, uint32_t n)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int p = 0; p < lq__cu_words(KIND); p += lq__cu_vector(KIND)) {
        const uint32_t at = levels + 4 * lq__cu_word_at(KIND, n, p, lane);
        if (lq__cu_vector(KIND) == 4) {
            const uint4 x = lq__cu_lds4(at);
            w[p] = x.x;
            w[p + 1] = x.y;
            w[p + 2] = x.z;
            w[p + 3] = x.w;
        } else if (lq__cu_vector(KIND) == 2) {
            const uint2 x = lq__cu_lds2(at);
            w[p] = x.x;
            w[p + 1] = x.y;
        } else {
            w[p] = lq__cu_lds(at);
        }
    }
}

/* What a warp has of four NB query rows: lane 4 g + t of rows 4 n + t, dims 8 u + g. */
template <int NK, int NB> struct lq__cu_state {
    float acc[NB][4 * NK];
    float most[NB]; /* of all eight lanes of a row */
    float sum[NB];  /* this lane's part, since the last mean of values */
    float even[NB]; /* likewise of the weights: what sums in halves lack */
};

/* What raw tokens need in shared memory. */
template <int NK, int NB> struct lq__cu_raw_room {
    uint32_t fragments[NB][32][4 * NK]; /* of queries */
    float scale[NB * 4];
    float2 sums[LQ__CU_WARPS][NB * 4]; /* logit, sum */
};

/* A block's shared memory: rings and sums (warps, warp_bytes), then these. */
template <int NK, int NB> struct lq__cu_room {
    uint32_t fragments[LQ__CU_SLOTS][NB][32][2 * NK]; /* of queries, by shape */
    float scale[LQ__CU_SLOTS][NB * 4];
    int32_t high[LQ__CU_SLOTS][NB * 4]; /* sums of their bytes */
    int32_t low[LQ__CU_SLOTS][NB * 4];
    float shift[LQ__CU_EPOCHS][NB * 4]; /* query . mean */
    float slope[NB * 4];
    float2 sums[LQ__CU_WARPS][LQ__CU_SLOTS][NB * 4]; /* by mean of values: sum, its logit */
    float most[LQ__CU_WARPS][NB * 4];                /* the largest logit of a warp's pages */
    lq__cu_raw_room<NK, NB> raw;
    float v_mean[LQ__CU_SLOTS][32 * NK];
    uint32_t used[LQ__CU_WARPS];
    __align__(16) uint32_t lookup[2 * 12];
    uint32_t from;  /* the first block that has a part of this segment */
    uint32_t parts; /* of how many blocks it is */
    uint64_t bars[LQ__CU_WARPS * LQ__CU_HALVES];
    uint32_t flat[LQ__CU_SEQUENCES + 1]; /* items of sequences before, all heads */
};

/* The sequence s: what there is to attend to. */
static __device__ void lq__cu_look(lq__cu_segment *g, const lq__cu_attention *a, uint32_t s)
{
    uint32_t seen = 0; /* the first token that some query sees */
    g->s = s;
    g->q = lq__cu_sequence_of(&a->p, &a->b, s);
    if (!g->q.state) {
        g->q.now = 0;
        g->q.to = a->p.sinks;
        g->q.state = a->p.state;
    }
    uint32_t pages = (g->q.to - a->p.sinks + 63) / LQ__CU_TOKENS;
    if (a->window && g->q.now > a->queries + a->window) {
        seen = g->q.now - a->queries - a->window + 1;
    }
    g->page = seen > a->p.sinks ? min((seen - a->p.sinks) / LQ__CU_TOKENS, pages) : 0;
    g->pages = pages - g->page;
    g->raw = min(g->q.now, a->p.sinks) + (g->q.now > g->q.to ? g->q.now - g->q.to : 0);
    g->items = g->pages + 1;
}

/* Items of all sequences in front of each, added up, to shared memory: where there are few by each
   warp for itself, else by the block, which waits. */
template <int NK, int NB>
static __device__ const uint32_t *lq__cu_count(lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                               lq__cu_segment *mine)
{
    const uint32_t lane = threadIdx.x % 32;
    const bool few = a->b.count <= 32;
    uint32_t *flat = room->flat + (few ? threadIdx.x / 32 * 33 : 0);
#pragma unroll 1
    for (uint32_t s = few ? lane : threadIdx.x; s < a->b.count; s += blockDim.x) {
        lq__cu_look(mine, a, s);
        flat[s + 1] = (a->lead + mine->items + LQ__CU_TRAIL) * a->p.heads * a->blocks;
    }
    if (few) {
        __syncwarp();
    } else {
        __syncthreads();
    }
    if (few || threadIdx.x < 32) {
        uint32_t before = 0;
        if (lane == 0) flat[0] = 0;
#pragma unroll 1
        for (uint32_t s = 0; s < a->b.count; s += 32) {
            uint32_t x = s + lane < a->b.count ? flat[s + lane + 1] : 0;
#pragma unroll
            for (int h = 1; h < 32; h *= 2) {
                const uint32_t y = __shfl_up_sync(~0u, x, h);
                x += lane >= (uint32_t)h ? y : 0;
            }
            x += before;
            if (s + lane < a->b.count) flat[s + lane + 1] = x;
            before = __shfl_sync(~0u, x, 31);
        }
    }
    if (few) {
        __syncwarp();
    } else {
        __syncthreads();
    }
    return flat;
}

/* How items are dealt out: `each` to a block, and one more to `more` of them. No block has none:
   where items are few, so are blocks. */
typedef struct lq__cu_deal {
    uint32_t items;
    uint32_t blocks;
    uint32_t each;
    uint32_t more;
} lq__cu_deal;

LQ__CU_DEVICE lq__cu_deal lq__cu_deal_of(uint32_t items)
{
    lq__cu_deal d;
    d.items = items;
    d.blocks = min(gridDim.x, items);
    d.each = items / d.blocks;
    d.more = items - d.each * d.blocks;
    return d;
}

/* Where the run of block c begins: floor(c items / blocks). Blocks are below 2^11, so that the
   float is exact enough. */
LQ__CU_DEVICE uint32_t lq__cu_begin(uint32_t c, const lq__cu_deal *d)
{
    c = min(c, d->blocks);
    return c * d->each + (uint32_t)__fdividef((float)(c * d->more) + 0.5f, (float)d->blocks);
}

/* The block that has an item. */
LQ__CU_DEVICE uint32_t lq__cu_owner(uint32_t item, const lq__cu_deal *d)
{
    uint32_t c =
        min((uint32_t)((float)item * __fdividef((float)d->blocks, (float)d->items)), d->blocks - 1);
    while (lq__cu_begin(c, d) > item) {
        c--;
    }
    while (lq__cu_begin(c + 1, d) <= item) {
        c++;
    }
    return c;
}

/* What lane s has looked up. */
LQ__CU_DEVICE void lq__cu_hear(lq__cu_segment *g, const lq__cu_segment *mine, uint32_t s)
{
    const uint64_t state = (uint64_t)(uintptr_t)mine->q.state;
    const uint32_t low = __shfl_sync(~0u, (uint32_t)state, (int)s);
    const uint32_t high = __shfl_sync(~0u, (uint32_t)(state >> 32), (int)s);
    g->s = s;
    g->q.state = (uint8_t *)(uintptr_t)((uint64_t)high << 32 | low);
    g->q.now = __shfl_sync(~0u, mine->q.now, (int)s);
    g->q.to = __shfl_sync(~0u, mine->q.to, (int)s);
    g->page = __shfl_sync(~0u, mine->page, (int)s);
    g->pages = __shfl_sync(~0u, mine->pages, (int)s);
    g->raw = __shfl_sync(~0u, mine->raw, (int)s);
    g->items = g->pages + 1;
}

/* The segment that item `flat` is in, up to `end`. mine: what this lane has looked
   up, where all sequences have been heard of that way. */
static __device__ void lq__cu_segment_at(lq__cu_segment *g, const uint32_t *flats,
                                         const lq__cu_attention *a, uint32_t flat, uint32_t end,
                                         const lq__cu_segment *mine, bool heard)
{
    uint32_t s = 0;
    uint32_t count = a->b.count;
    while (count > 1) { /* the last one that begins at or before it */
        const uint32_t half = count / 2;
        if (flats[s + half] <= flat) {
            s += half;
            count -= half;
        } else {
            count = half;
        }
    }
    if (heard) {
        lq__cu_hear(g, mine, s);
    } else {
        lq__cu_look(g, a, s);
    }
    uint32_t rest = flat - flats[s];
    uint32_t which = rest / (a->lead + g->items + LQ__CU_TRAIL);
    g->head = which;
    g->block = 0;
    if (a->blocks > 1) {
        g->head = which / a->blocks;
        g->block = which % a->blocks;
    }
    rest -= which * (a->lead + g->items + LQ__CU_TRAIL);
    g->flat = flat - rest + a->lead;
    g->first = min(g->items, max(rest, a->lead) - a->lead);
    g->last = min(g->items, max(rest + (end - flat), a->lead) - a->lead);
}

/* Hadamard butterflies of a vector over a warp, dim 32 i + lane. */
template <int NK> LQ__CU_DEVICE void lq__cu_spin(float *x, uint32_t block)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 1; h < 32; h *= 2) {
        if ((uint32_t)h < block) {
#pragma unroll
            for (int i = 0; i < NK; i++) {
                const float y = __shfl_xor_sync(~0u, x[i], h);
                x[i] = lane & (uint32_t)h ? y - x[i] : x[i] + y;
            }
        }
    }
#pragma unroll
    for (int h = 1; h < NK; h *= 2) {
        if (32u * h < block) {
#pragma unroll
            for (int i = 0; i < NK; i++) {
                if ((i & h) == 0 && i + h < NK) {
                    const float u = x[i];
                    const float v = x[i + h];
                    x[i] = u + v;
                    x[i + h] = u - v;
                }
            }
        }
    }
}

/* A row of queries, dim 32 i + lane, as it lies in memory; and as floats, times scale. Apart, so
   that what else is needed is on its way before the first is waited for. */
template <int NK, int NB>
LQ__CU_DEVICE void lq__cu_query_load(uint32_t *bits, const lq__cu_attention *a,
                                     const lq__cu_segment *g, uint32_t row)
{
    const uint32_t r = g->block * NB * 4 + row;
    const uint32_t head = g->head * a->group + r % a->group;
    const size_t at = (((size_t)g->s * a->queries + r / a->group) * a->heads + head) * a->p.dims;
    const uint32_t dims = r < a->rows ? a->p.dims : 0;
    if (a->type == LQ_F32) {
#pragma unroll
        for (int i = 0; i < NK; i++) {
            const uint32_t d = 32u * i + threadIdx.x % 32;
            bits[i] = d < dims ? ((const uint32_t *)a->q)[at + d] : 0;
        }
    } else {
#pragma unroll
        for (int i = 0; i < NK; i++) {
            const uint32_t d = 32u * i + threadIdx.x % 32;
            bits[i] = d < dims ? ((const uint16_t *)a->q)[at + d] : 0;
        }
    }
}

template <int NK>
LQ__CU_DEVICE void lq__cu_query(float *x, const uint32_t *bits, const lq__cu_attention *a)
{
#pragma unroll
    for (int i = 0; i < NK; i++) {
        x[i] = a->scale * (a->type == LQ_F32 ? __uint_as_float(bits[i])
                                             : lq__cu_float(bits[i], a->type == LQ_BF16));
    }
}

LQ__CU_DEVICE float lq__cu_warp_most(float x)
{
#pragma unroll
    for (int h = 1; h < 32; h *= 2) {
        x = fmaxf(x, __shfl_xor_sync(~0u, x, h));
    }
    return x;
}

/* To bytes, as fragments of B for one shape; by a warp. */
template <int NK, int NB>
static __device__ void lq__cu_fragment(lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                       float *x, uint32_t slot, uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t block = a->p.dims & (0u - a->p.dims);
    float most = 0;
    float inverse;
    int32_t high = 0;
    int32_t low = 0;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        x[i] = lq__cu_signs[i] >> lane & 1u ? -x[i] : x[i];
    }
    lq__cu_spin<NK>(x, block);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        most = fmaxf(most, fabsf(x[i]));
    }
    most = fmaxf(lq__cu_warp_most(most), 1e-30f);
    inverse = __fdividef(32639.0f, most);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const int32_t z = min(max(__float2int_rn(x[i] * inverse), -32639), 32639);
        const int32_t h = (z + 128) >> 8;
        const uint32_t column = row % 4 * 2;
        uint8_t *at = (uint8_t *)room->fragments[slot][row / 4][column * 4 + lane / 8] +
                      (2 * i + lane % 8 / 4) * 4 + lane % 4;
        at[0] = (uint8_t)h;
        at[4 * 2 * NK * 4] = (uint8_t)(z - 256 * h); /* the next column: four lanes on */
        high += h;
        low += z - 256 * h;
    }
    high = __reduce_add_sync(~0u, high);
    low = __reduce_add_sync(~0u, low);
    if (lane == 0) {
        room->scale[slot][row] = most * (1.0f / 32639.0f) * rsqrtf((float)block);
        room->high[slot][row] = high;
        room->low[slot][row] = low;
    }
}

LQ__CU_DEVICE uint16_t lq__cu_half_of(float x, uint32_t is_bf16)
{
    return is_bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x))
                   : __half_as_ushort(__float2half_rn(x));
}

/* For raw tokens: two columns again, a half and what it lacks, relative to the largest. Lane 4 n +
   t of column n has dims 32 i + 8 t + e: registers 4 i + e / 2. */
template <int NK, int NB>
static __device__ void lq__cu_raw_fragment(lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                           float *x, uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    float most = 0;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        most = fmaxf(most, fabsf(x[i]));
    }
    most = lq__cu_warp_most(most);
    if (!(most <= 1.3e30f) && lane == 0) {
        atomicOr(a->b.flags, LQ_CUDA_BAD_NUMBER);
    }
    most = fmaxf(most, 1e-30f);
    const float inverse = __fdividef(1.0f, most);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const float y = x[i] * inverse;
        const uint16_t high = lq__cu_half_of(y, a->p.is_bf16);
        const float rest = y - lq__cu_float(high, a->p.is_bf16);
        uint16_t *at =
            (uint16_t *)room->raw.fragments[row / 4][row % 4 * 8 + lane / 8] + 8 * i + lane % 8;
        at[0] = high;
        at[4 * 4 * NK * 2] = lq__cu_half_of(rest, a->p.is_bf16);
    }
    if (lane == 0) room->raw.scale[row] = most;
}

/* query . mean of the epochs of a shape, first .. last at most; in two steps, so that all is on its
   way before the first is waited for. */
template <int NK> struct lq__cu_epoch_means {
    uint32_t unit; /* lane e: of the e-th */
    int16_t of[4][NK];
};

template <int NK>
LQ__CU_DEVICE void lq__cu_shift_load(lq__cu_epoch_means<NK> *m, const lq__cu_attention *a,
                                     const lq__cu_segment *g, uint32_t epoch, uint32_t first,
                                     uint32_t last)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t mine = min(max(epoch + lane % 4, first), last);
    m->unit =
        *(const uint32_t *)(const void *)(g->q.state + lq__cu_number_at(&a->p, 0, mine, g->head));
#pragma unroll
    for (uint32_t e = 0; e < 4; e++) {
        const uint8_t *number =
            g->q.state + lq__cu_number_at(&a->p, 0, min(max(epoch + e, first), last), g->head);
        const int16_t *mean = (const int16_t *)(const void *)(number + 4);
#pragma unroll
        for (int i = 0; i < NK; i++) {
            m->of[e][i] = mean[min(32u * i + lane, a->p.dims - 1)];
        }
    }
}

template <int NK, int NB>
static __device__ void lq__cu_shift(lq__cu_room<NK, NB> *room, const lq__cu_epoch_means<NK> *m,
                                    const float *x, uint32_t epoch, uint32_t first, uint32_t last,
                                    uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    float sum[4] = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t e = 0; e < 4; e++) {
#pragma unroll
        for (int i = 0; i < NK; i++) {
            sum[e] = fmaf(x[i], (float)m->of[e][i], sum[e]);
        }
    }
#pragma unroll
    for (int h = 1; h < 32; h *= 2) {
#pragma unroll
        for (uint32_t e = 0; e < 4; e++) {
            sum[e] += __shfl_xor_sync(~0u, sum[e], h);
        }
    }
    if (lane < 4 && epoch + lane >= first && epoch + lane <= last) {
        const float mine = lane == 0 ? sum[0] : lane == 1 ? sum[1] : lane == 2 ? sum[2] : sum[3];
        room->shift[epoch + lane - first][row] =
            mine * __uint_as_float((127u - 14u + m->unit) << 23);
    }
}

/* Means of values of a slot, as floats; by a warp. */
template <int NK, int NB>
static __device__ void lq__cu_value_means(lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                          const lq__cu_segment *g, uint32_t epoch, uint32_t slot)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint8_t *number = g->q.state + lq__cu_number_at(&a->p, 1, epoch, g->head);
    const float unit = lq__cu_mean_unit(number);
    int16_t means[NK];
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t d = 32u * i + lane;
        means[i] = d < a->p.dims ? ((const int16_t *)(const void *)(number + 4))[d] : (int16_t)0;
    }
#pragma unroll
    for (int i = 0; i < NK; i++) {
        room->v_mean[slot][32 * i + lane] = (float)means[i] * unit;
    }
}

/* A query row for a shape and its epochs, of `first` .. `last`; by a warp. */
template <int NK, int NB>
static __device__ void lq__cu_prepare_row(lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                          const lq__cu_segment *g, uint32_t slot, uint32_t first,
                                          uint32_t last, uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t epoch = (first / 4 + slot) * 4;
    const uint8_t *shape = g->q.state + lq__cu_shape_at(&a->p, epoch, g->head);
    uint32_t bits[NK];
    uint32_t halves[NK];
    float x[NK];
    lq__cu_epoch_means<NK> means;
    lq__cu_query_load<NK, NB>(bits, a, g, row);
    const uint32_t stretched = *(const uint32_t *)(const void *)shape;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        halves[i] = shape[4 + min(32u * i + lane, a->p.dims - 1)];
    }
    lq__cu_shift_load<NK>(&means, a, g, epoch, first, last);
    lq__cu_query<NK>(x, bits, a);
    lq__cu_shift<NK, NB>(room, &means, x, epoch, first, last, row);
    if (stretched) {
#pragma unroll
        for (int i = 0; i < NK; i++) {
            x[i] = __fdividef(x[i], lq__cu_stretch(halves[i]));
        }
    }
    lq__cu_fragment<NK, NB>(room, a, x, slot, row);
}

/* Shares of that work: a row for a shape or for raw tokens, or the means of a slot. */
template <int NB> LQ__CU_DEVICE uint32_t lq__cu_shares(const lq__cu_segment *g, uint32_t pages)
{
    const uint32_t first = lq__cu_epoch(g->page + g->first);
    const uint32_t last = pages > g->first ? lq__cu_epoch(g->page + pages - 1) : first;
    const uint32_t shapes = pages > g->first ? last / 4 - first / 4 + 1 : 0;
    return (shapes + (g->last > g->pages)) * NB * 4 + shapes;
}

/* Queries of a segment, for all epochs of its pages and for raw tokens; means of values. By the
   block. Each warp has a row for a shape or for raw tokens, or the means of a slot at a time. */
template <int NK, int NB>
static __device__ void lq__cu_prepare(lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                      const lq__cu_segment *g, uint32_t from, uint32_t to)
{
    constexpr uint32_t rows = NB * 4;
    const uint32_t warps = blockDim.x / 32;
    const uint32_t first = lq__cu_epoch(from);
    const uint32_t last = to > from ? lq__cu_epoch(to - 1) : first;
    const uint32_t shapes = to > from ? last / 4 - first / 4 + 1 : 0;
    const uint32_t raw = g->last > g->pages ? rows : 0;
    if (threadIdx.x < rows) {
        const uint32_t r = g->block * rows + threadIdx.x;
        room->slope[threadIdx.x] = r < a->rows && a->slopes
                                       ? a->slopes[g->head * a->group + r % a->group] * 1.44269504f
                                       : 0.0f;
    }
#pragma unroll 1
    for (uint32_t y = threadIdx.x / 32; y < shapes * rows + raw + shapes; y += warps) {
        if (y < shapes * rows) {
            lq__cu_prepare_row<NK, NB>(room, a, g, y / rows, first, last, y % rows);
        } else if (y < shapes * rows + raw) {
            uint32_t bits[NK];
            float x[NK];
            lq__cu_query_load<NK, NB>(bits, a, g, y % rows);
            lq__cu_query<NK>(x, bits, a);
            lq__cu_raw_fragment<NK, NB>(room, a, x, y % rows);
        } else {
            const uint32_t slot = y - shapes * rows - raw;
            lq__cu_value_means<NK, NB>(room, a, g, (first / 4 + slot) * 4, slot);
        }
    }
}

/* Logits in units of log2 e: softcap. */
LQ__CU_DEVICE float lq__cu_cap(float x, float softcap, float inverse)
{
    const float e = lq__cu_exp2(fabsf(x) * (2.0f * inverse)); /* exp(2 |logit| / softcap) */
    return copysignf(softcap * 1.44269504f * (1.0f - __fdividef(2.0f, e + 1.0f)), x);
}

/* Scales of eight codes: 2^((code - 192) / 12 + base). A code is put into the mantissa of a float
   near 1, so that one multiplication and subtraction, exact up to the last rounding, give the
   exponent. */
LQ__CU_DEVICE void lq__cu_scales(float *scales, uint2 codes, float less)
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const uint32_t x =
            lq__cu_permute(j < 4 ? codes.x : codes.y, 0x3f800000u, 0x7604u | j % 4 << 4);
        scales[j] = lq__cu_exp2(fmaf(__uint_as_float(x), 2730.666748046875f, less));
    }
}

/* Logits of a page to weights in 16 bits: fragments of B for both halves of its tokens. `s`:
   integer products, by token 8 g + j. */
template <int NK, int NB>
LQ__CU_DEVICE void lq__cu_weigh(uint32_t (*w)[4], float *alpha, float *beta,
                                lq__cu_state<NK, NB> *st, float (*s)[8], const float *vs,
                                bool halves)
{
    const uint32_t lane = threadIdx.x % 32;
    float top = 0;
    float inverse;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        top = fmaxf(top, vs[j]);
    }
#pragma unroll
    for (int h = 4; h < 32; h *= 2) {
        top = fmaxf(top, __shfl_xor_sync(~0u, top, h));
    }
    top = fmaxf(top, 1e-30f);
    inverse = __fdividef(65535.0f, top);
#pragma unroll
    for (int n = 0; n < NB; n++) {
        const uint32_t part = lane / 4 & 1u;
        float most = LQ__CU_NOTHING;
        float larger;
        float share;
        float sum = 0;
        uint32_t high[2];
        uint32_t low[2];
        uint32_t u[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            most = fmaxf(most, s[n][j]);
        }
#pragma unroll
        for (int h = 4; h < 32; h *= 2) {
            most = fmaxf(most, __shfl_xor_sync(~0u, most, h));
        }
        larger = fmaxf(st->most[n], most);
        alpha[n] = lq__cu_exp2(st->most[n] - larger);
        share = lq__cu_exp2(most - larger);
        beta[n] = share * top * (1.0f / 65535.0f);
        st->most[n] = larger;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float e = lq__cu_exp2(s[n][j] - most);
            sum += e;
            u[j] = __float_as_uint(fmaf(e * vs[j], inverse, 8388608.0f));
        }
        st->sum[n] = fmaf(st->sum[n], alpha[n], sum * share);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t x =
                lq__cu_permute(u[4 * i], u[4 * i + 1], 0x5140u); /* low, high bytes */
            const uint32_t y = lq__cu_permute(u[4 * i + 2], u[4 * i + 3], 0x5140u);
            low[i] = lq__cu_permute(x, y, 0x5410u);
            high[i] = lq__cu_permute(x, y, 0x7632u);
        }
        if (halves) {
            const uint32_t h = __dp4a(high[0], 0x01010101u, __dp4a(high[1], 0x01010101u, 0u));
            const uint32_t l = __dp4a(low[0], 0x01010101u, __dp4a(low[1], 0x01010101u, 0u));
            st->even[n] = fmaf(st->even[n], alpha[n], (float)(h * 256 + l) * beta[n]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int from = (4 * half + (int)(lane % 4)) * 4 + (int)(lane / 8);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t h = __shfl_sync(~0u, high[i], from);
                const uint32_t l = __shfl_sync(~0u, low[i], from);
                w[n][2 * half + i] = part ? l : h;
            }
        }
    }
}

/* What a warp's pages of a segment have in common. */
template <int NK, int NB> struct lq__cu_view {
    uint32_t fragments[NB][2 * NK];
    float scale[NB];
    float shift[NB];
    int32_t high[NB];
    int32_t low[NB];
    uint32_t position[NB]; /* of the queries */
    float slope[NB];
    uint32_t first_epoch;
    uint32_t epoch; /* whose numbers these are */
    uint32_t until; /* the page that the next one begins with */
};

/* Numbers of another epoch; the sum of weights goes where the mean of values is another. */
template <int NK, int NB>
LQ__CU_DEVICE void lq__cu_change(lq__cu_view<NK, NB> *v, lq__cu_state<NK, NB> *st,
                                 lq__cu_room<NK, NB> *room, uint32_t epoch)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t t = lane % 4;
    const bool begin = v->epoch == LQ_KV_NONE;
    const bool other = begin || epoch / 4 != v->epoch / 4;
    const bool end = epoch >= LQ_KV_NONE - 1;
    const uint32_t slot = end ? 0 : epoch / 4 - v->first_epoch / 4;
#pragma unroll
    for (int n = 0; n < NB; n++) {
        if (other && !begin) {
            float sum = st->sum[n];
#pragma unroll
            for (int h = 4; h < 32; h *= 2) {
                sum += __shfl_xor_sync(~0u, sum, h);
            }
            if (lane < 4) {
                room->sums[threadIdx.x / 32][v->epoch / 4 - v->first_epoch / 4][4 * n + t] =
                    make_float2(sum, st->most[n]);
            }
            st->sum[n] = 0;
        }
        if (other && !end) {
#pragma unroll
            for (int i = 0; i < 2 * NK; i++) {
                v->fragments[n][i] = room->fragments[slot][n][lane][i];
            }
            v->scale[n] = room->scale[slot][4 * n + t];
            v->high[n] = room->high[slot][4 * n + t];
            v->low[n] = room->low[slot][4 * n + t];
        }
        if (!end) v->shift[n] = room->shift[epoch - v->first_epoch][4 * n + t];
    }
    v->epoch = epoch;
    v->until = lq__cu_epoch_page(epoch + 1);
}

/* Masks, slopes and softcap of a page's logits, in which they are rare. */
template <int NK, int NB>
LQ__CU_DEVICE void lq__cu_bend(float (*s)[8], const uint32_t *position, const float *slope,
                               const lq__cu_attention *a, uint32_t first, uint32_t end)
{
    const uint32_t g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < NB; n++) {
#pragma unroll
        for (uint32_t j = 0; j < 8; j++) {
            const uint32_t token = first + 8 * g + j;
            float x = s[n][j];
            if (a->softcap != 0.0f) {
                x = lq__cu_cap(x, a->softcap, a->softcap_inverse);
            }
            x += slope[n] * ((float)token - (float)position[n]);
            if (token >= end || token > position[n] ||
                (a->window && token + a->window <= position[n])) {
                x = -INFINITY;
            }
            s[n][j] = x;
        }
    }
}

/* A page's keys: integer products of tokens 8 g + j. at: their levels in shared memory. */
template <int KIND, int NK, int NB>
LQ__CU_DEVICE void lq__cu_page_keys(float (*s)[8], const lq__cu_view<NK, NB> *v,
                                    const lq__cu_lookup<KIND> *of, uint32_t at)
{
    constexpr bool halves = lq__cu_halves(KIND);
    constexpr int together = NK % 2 ? 2 : 1; /* sixteens of tokens whose units fill groups */
#pragma unroll
    for (int x = 0; x < 4; x += together) {
        uint32_t words[together * NK / 2][8];
#pragma unroll
        for (int i = 0; i < together * NK / 2; i++) {
            lq__cu_take<KIND>(words[i], at, x * NK / 2 + i);
        }
#pragma unroll
        for (int y = 0; y < together; y++) {
            int32_t c[NB][4];
#pragma unroll
            for (int n = 0; n < NB; n++) {
                c[n][0] = halves ? v->high[n] : 0;
                c[n][1] = halves ? v->low[n] : 0;
                c[n][2] = c[n][0];
                c[n][3] = c[n][1];
            }
#pragma unroll
            for (int i = 0; i < NK; i++) {
                const int u0 = y * 2 * NK + i;
                const int u1 = u0 + NK;
                uint32_t a0[2];
                uint32_t a1[2];
                uint32_t n0[2];
                uint32_t n1[2];
                lq__cu_open<KIND>(a0, n0, words[u0 / 4], u0 % 4, of);
                lq__cu_open<KIND>(a1, n1, words[u1 / 4], u1 % 4, of);
#pragma unroll
                for (int n = 0; n < NB; n++) {
                    lq__cu_mma<false>(c[n], a0[0], a1[0], a0[1], a1[1], v->fragments[n][2 * i],
                                      v->fragments[n][2 * i + 1]);
                    if (halves) {
                        lq__cu_mma<false>(c[n], n0[0], n1[0], n0[1], n1[1], v->fragments[n][2 * i],
                                          v->fragments[n][2 * i + 1]);
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < NB; n++) {
                s[n][2 * (x + y)] = (float)(c[n][0] * 256 + c[n][1]);
                s[n][2 * (x + y) + 1] = (float)(c[n][2] * 256 + c[n][3]);
            }
        }
    }
}

/* Its weights and values, added to sums; tokens from `first` on, below `end`. at: what follows the
   levels of keys in its part. */
template <int KIND, int NK, int NB>
LQ__CU_DEVICE void lq__cu_page_values(lq__cu_state<NK, NB> *st, float (*s)[8],
                                      const lq__cu_view<NK, NB> *v, const lq__cu_lookup<KIND> *of,
                                      const lq__cu_attention *a, uint32_t at, uint32_t first,
                                      uint32_t end)
{
    constexpr bool halves = lq__cu_halves(KIND);
    constexpr uint32_t levels = NK * (uint32_t)lq__cu_words(KIND) * 256;
    const uint32_t g = threadIdx.x % 32 / 4;
    const uint32_t header = lq__cu_lds(at + levels + 128);
    const uint2 k_codes = lq__cu_lds2(at + levels + 8 * g);
    const uint2 v_codes = lq__cu_lds2(at + levels + 64 + 8 * g);
    float ks[8];
    float vs[8];
    uint32_t w[NB][4];
    float alpha[NB];
    float beta[NB];
    lq__cu_scales(ks, k_codes, (float)(int8_t)header - 2746.666748046875f);
    lq__cu_scales(vs, v_codes, (float)(int8_t)(header >> 8) - 2746.666748046875f);
    if (header & 0xffff0000u) { /* some scale is 0 */
#pragma unroll
        for (int j = 0; j < 8; j++) {
            ks[j] = (j < 4 ? k_codes.x : k_codes.y) >> j % 4 * 8 & 255u ? ks[j] : 0.0f;
            vs[j] = (j < 4 ? v_codes.x : v_codes.y) >> j % 4 * 8 & 255u ? vs[j] : 0.0f;
        }
    }
#pragma unroll
    for (int n = 0; n < NB; n++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            s[n][j] = fmaf(s[n][j] * ks[j], v->scale[n], v->shift[n]);
        }
    }
    if (first + 64 > end || a->softcap != 0.0f || a->slopes || a->window) {
        lq__cu_bend<NK, NB>(s, v->position, v->slope, a, first, end);
    }
    lq__cu_weigh<NK, NB>(w, alpha, beta, st, s, vs, halves);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        uint32_t w0[8];
        uint32_t w1[8];
        lq__cu_take<KIND>(w0, at, i);
        lq__cu_take<KIND>(w1, at, NK + i);
#pragma unroll
        for (int m = 0; m < 4; m += 2) {
            uint32_t a0[4]; /* rows g of both halves of the tokens: low, high, low, high */
            uint32_t a1[4];
            uint32_t n0[4];
            uint32_t n1[4];
            lq__cu_open<KIND>(a0, n0, w0, m, of);
            lq__cu_open<KIND>(a1, n1, w0, m + 1, of);
            lq__cu_open<KIND>(a0 + 2, n0 + 2, w1, m, of);
            lq__cu_open<KIND>(a1 + 2, n1 + 2, w1, m + 1, of);
#pragma unroll
            for (int n = 0; n < NB; n++) {
                int32_t c[4] = {0, 0, 0, 0};
                float *acc = &st->acc[n][4 * i + m];
                lq__cu_mma<true>(c, a0[0], a1[0], a0[1], a1[1], w[n][0], w[n][1]);
                lq__cu_mma<true>(c, a0[2], a1[2], a0[3], a1[3], w[n][2], w[n][3]);
                if (halves) {
                    lq__cu_mma<true>(c, n0[0], n1[0], n0[1], n1[1], w[n][0], w[n][1]);
                    lq__cu_mma<true>(c, n0[2], n1[2], n0[3], n1[3], w[n][2], w[n][3]);
                }
                acc[0] = fmaf(acc[0], alpha[n], (float)(c[0] * 256 + c[1]) * beta[n]);
                acc[1] = fmaf(acc[1], alpha[n], (float)(c[2] * 256 + c[3]) * beta[n]);
            }
        }
    }
}

/* ---- raw tokens: f16 or bf16 rows in device memory ---- */
template <bool BF16>
LQ__CU_DEVICE void lq__cu_mma_half(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    if (BF16) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, "
            "%7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

/* Eight numbers of the x-th of 16 raw tokens; of others, where there are none: these weigh nothing.
   row: of this lane's token in memory; the others' are asked for. Nothing is conditional, so that
   loads do not wait for each other. */
LQ__CU_DEVICE uint4 lq__cu_raw_eight(const uint16_t *rows, uint32_t row, uint32_t x, uint32_t d,
                                     uint32_t dims)
{
    row = __shfl_sync(~0u, row, (int)x);
    return *(const uint4 *)(const void *)(rows + (size_t)row * dims + min(d, dims - 8));
}

/* Weights as A: rows are the block's, first halves and then what these lack; columns are tokens 2
   t, + 1, + 8, + 9. */
template <int NB, bool BF16> LQ__CU_DEVICE void lq__cu_raw_weights(uint32_t *p, float (*e)[2])
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t g = lane / 4;
#pragma unroll
    for (int r = 0; r < 2; r++) { /* the other eight tokens */
        uint32_t high = 0;
        uint32_t low = 0;
#pragma unroll
        for (int o = 0; o < 2; o++) {
            const int from = (int)((2 * (lane % 4) + o) * 4 + g % 4);
            float x = __shfl_sync(~0u, e[0][r], from);
            if (NB == 2) {
                const float y = __shfl_sync(~0u, e[NB - 1][r], from);
                x = g < 4 ? x : y;
            } else {
                x = g < 4 ? x : 0.0f;
            }
            uint16_t h = lq__cu_half_of(x, BF16);
            high |= (uint32_t)h << 16 * o;
            low |= (uint32_t)lq__cu_half_of(x - lq__cu_float(h, BF16), BF16) << 16 * o;
        }
        p[2 * r] = high;
        p[2 * r + 1] = low;
    }
}

/* Logits of 16 raw tokens from `first` on, of which k are the keys: s[n][r] of token 8 r + g and
   row 4 n + t. */
template <int NK, int NB, bool BF16>
LQ__CU_DEVICE void lq__cu_raw_scores(float (*s)[2], const uint4 (*k)[2],
                                     const lq__cu_room<NK, NB> *room, const lq__cu_attention *a,
                                     const lq__cu_segment *g, uint32_t first)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t sinks = min(a->p.sinks, g->q.now);
    float c[NB][4] = {};
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t a0[4] = {k[i][0].x, k[i][1].x, k[i][0].y, k[i][1].y};
        const uint32_t a1[4] = {k[i][0].z, k[i][1].z, k[i][0].w, k[i][1].w};
#pragma unroll
        for (int n = 0; n < NB; n++) {
            const uint32_t *b = room->raw.fragments[n][lane] + 4 * i;
            lq__cu_mma_half<BF16>(c[n], a0, b[0], b[1]);
            lq__cu_mma_half<BF16>(c[n], a1, b[2], b[3]);
        }
    }
#pragma unroll
    for (int n = 0; n < NB; n++) {
        const uint32_t row = 4 * n + lane % 4;
        const uint32_t position = g->q.now - a->queries + (g->block * NB * 4 + row) / a->group;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t i = first + 8 * r + lane / 4;
            const uint32_t t = i < sinks ? i : g->q.to + (i - sinks);
            float y = (c[n][2 * r] + c[n][2 * r + 1]) * room->raw.scale[row];
            if (a->softcap != 0.0f) {
                y = lq__cu_cap(y, a->softcap, a->softcap_inverse);
            }
            y += room->slope[row] * ((float)t - (float)position);
            if (i >= g->raw || t > position ||
                (a->window && t + a->window <= position && !(a->window_sinks && i < sinks))) {
                y = -INFINITY;
            }
            s[n][r] = y;
        }
    }
}

/* Logits to weights; the warp's largest and sum; returns what its sums so far are times. */
template <int NK, int NB>
LQ__CU_DEVICE float lq__cu_raw_weigh(float (*s)[2], lq__cu_room<NK, NB> *room)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    float old = 0;
#pragma unroll
    for (int n = 0; n < NB; n++) {
        const float2 all = room->raw.sums[warp][4 * n + lane % 4];
        float most = fmaxf(s[n][0], s[n][1]);
        float share;
        float sum;
#pragma unroll
        for (int h = 4; h < 32; h *= 2) {
            most = fmaxf(most, __shfl_xor_sync(~0u, most, h));
        }
        most = fmaxf(most, all.x);
        share = lq__cu_exp2(all.x - most);
        s[n][0] = lq__cu_exp2(s[n][0] - most);
        s[n][1] = lq__cu_exp2(s[n][1] - most);
        sum = s[n][0] + s[n][1];
#pragma unroll
        for (int h = 4; h < 32; h *= 2) {
            sum += __shfl_xor_sync(~0u, sum, h);
        }
        sum = fmaf(all.y, share, sum);
        share = __shfl_sync(~0u, share, (int)(lane / 4 % 4));
        old = lane / 16 == (uint32_t)n ? share : old;
        __syncwarp();
        if (lane < 4) {
            room->raw.sums[warp][4 * n + lane] = make_float2(most, sum);
        }
    }
    return old;
}

/* Where this lane's of 16 raw tokens from `first` on lies, in rows; the last one again, where there
   are fewer. */
LQ__CU_DEVICE uint32_t lq__cu_raw_place(const lq__cu_attention *a, const lq__cu_segment *g,
                                        uint32_t first)
{
    const uint32_t sinks = min(a->p.sinks, g->q.now);
    const uint32_t nth = min(first + threadIdx.x % LQ__CU_RAW, g->raw - 1);
    const uint32_t token = nth < sinks ? nth : g->q.to + (nth - sinks);
    const uint32_t place =
        token < a->p.sinks ? token : a->p.sinks + (token - a->p.sinks) % a->p.ring;
    return g->head * (a->p.sinks + a->p.ring) + place;
}

/* Asks for these rows, for which nobody waits yet. */
LQ__CU_DEVICE void lq__cu_raw_prefetch(const lq__cu_attention *a, const lq__cu_segment *g,
                                       uint32_t first)
{
    const uint32_t bytes = a->p.dims * 2;
    const uint8_t *row = g->q.state + a->p.raw[threadIdx.x % 32 / LQ__CU_RAW] +
                         (size_t)lq__cu_raw_place(a, g, first) * bytes;
#pragma unroll 1
    for (uint32_t at = 0; at < bytes; at += 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(row + at));
    }
}

/* 16 raw tokens of a segment, numbered from `first` on: added to sums in shared memory. All that is
   read is on its way before the first of it is used. */
template <int NK, int NB, bool BF16>
static __device__ void lq__cu_raw_item(float *part, lq__cu_room<NK, NB> *room,
                                       const lq__cu_attention *a, const lq__cu_segment *g,
                                       uint32_t first)
{
    constexpr int chunks = (NK + 1) / 2; /* of 64 dims */
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = lane / 4; /* of sums; of keys the token, of values the dim */
    const uint32_t mine = lq__cu_raw_place(a, g, first);
    const uint16_t *k_rows = (const uint16_t *)(const void *)(g->q.state + a->p.raw[0]);
    const uint16_t *v_rows = (const uint16_t *)(const void *)(g->q.state + a->p.raw[1]);
    uint4 k[NK][2];
    uint4 v[chunks][4]; /* tokens 2 t, + 1, + 8, + 9: dims 64 x + 8 g .. */
    uint32_t p[4];
    float s[NB][2];
    float old;
#pragma unroll
    for (int i = 0; i < NK; i++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            k[i][r] =
                lq__cu_raw_eight(k_rows, mine, 8 * r + row, 32u * i + lane % 4 * 8, a->p.dims);
        }
    }
#pragma unroll
    for (int x = 0; x < chunks; x++) {
#pragma unroll
        for (int y = 0; y < 4; y++) {
            v[x][y] = lq__cu_raw_eight(v_rows, mine, 2 * (lane % 4) + y / 2 * 8 + y % 2,
                                       64u * x + 8 * row, a->p.dims);
        }
    }
    lq__cu_raw_scores<NK, NB, BF16>(s, k, room, a, g, first);
    old = lq__cu_raw_weigh<NK, NB>(s, room);
    lq__cu_raw_weights<NB, BF16>(p, s);
#pragma unroll
    for (int x = 0; x < chunks; x++) {
        float *sum = part + row % (NB * 4) * 32 * NK + 64 * x + 16 * (lane % 4);
        const bool there = row < NB * 4 && 64u * x + 16 * (lane % 4) < 32 * NK;
        float c[8][4];
        float before[8][2];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            before[j][0] = there ? sum[j] : 0.0f;
            before[j][1] = there ? sum[8 + j] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t pick = j % 2 ? 0x7632u : 0x5410u;
            uint32_t w[4];
#pragma unroll
            for (int y = 0; y < 4; y++) {
                w[y] = j / 2 == 0   ? v[x][y].x
                       : j / 2 == 1 ? v[x][y].y
                       : j / 2 == 2 ? v[x][y].z
                                    : v[x][y].w;
            }
            c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0;
            lq__cu_mma_half<BF16>(c[j], p, lq__cu_permute(w[0], w[1], pick),
                                  lq__cu_permute(w[2], w[3], pick));
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (there) {
                sum[j] = fmaf(before[j][0], old, c[j][0] + c[j][2]);
                sum[8 + j] = fmaf(before[j][1], old, c[j][1] + c[j][3]);
            }
        }
    }
}

/* ---- sums of warps, and of blocks ---- */
/* Means of values, by the weights that pages of their slots have, to out; returns this lane's part
   of the sum of weights. */
template <int NK, int NB>
LQ__CU_DEVICE float lq__cu_add_means(float *out, const lq__cu_room<NK, NB> *room, uint32_t used,
                                     float most, uint32_t slots, uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    float sum = 0;
#pragma unroll 1
    for (uint32_t slot = 0; slot < slots; slot++) {
        float2 x = make_float2(0.0f, LQ__CU_NOTHING);
        if (used & 1u) x = room->sums[lane][slot][row];
        float share = x.x * lq__cu_exp2(x.y - most);
        sum += share;
#pragma unroll
        for (int h = 1; h < 32; h *= 2) {
            share += __shfl_xor_sync(~0u, share, h);
        }
#pragma unroll
        for (int i = 0; i < NK; i++) {
            out[i] = fmaf(share, room->v_mean[slot][32 * i + lane], out[i]);
        }
    }
    return sum;
}

/* A row of the block: its largest logit and sum, and its values, dim 32 i + lane, turned back and
   with their means, not yet over the sum; by a warp, when all have left what they have. */
template <int NK, int NB>
static __device__ float2 lq__cu_join_warps(float *out, const uint8_t *shared,
                                           const lq__cu_room<NK, NB> *room,
                                           const lq__cu_attention *a, uint32_t slots, uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warps = blockDim.x / 32;
    const uint32_t block = a->p.dims & (0u - a->p.dims);
    const uint32_t used = lane < warps ? room->used[lane] : 0;
    const float hot = used & 1u ? room->most[lane][row] : LQ__CU_NOTHING;
    const float2 raw = used & 2u ? room->raw.sums[lane][row] : make_float2(LQ__CU_NOTHING, 0.0f);
    const float most = lq__cu_warp_most(fmaxf(hot, raw.x));
    const float hot_weight = used & 1u ? lq__cu_exp2(hot - most) : 0.0f;
    const float raw_weight = used & 2u ? lq__cu_exp2(raw.x - most) : 0.0f;
    const uint32_t have_raw = __ballot_sync(~0u, raw_weight > 0);
    const float *of = (const float *)(const void *)shared + row * 32 * NK + lane;
    float sum = raw.y * raw_weight;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        out[i] = 0;
    }
#pragma unroll 4
    for (uint32_t w = 0; w < warps; w++) {
        const float weight = __shfl_sync(~0u, hot_weight, (int)w);
#pragma unroll
        for (int i = 0; i < NK; i++) { /* where the weight is 0 anything may lie there */
            const float x = of[w * (a->warp_bytes / 4) + 32 * i];
            out[i] = weight > 0 ? fmaf(x, weight, out[i]) : out[i];
        }
    }
    lq__cu_spin<NK>(out, block);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        out[i] *= rsqrtf((float)block);
        out[i] = lq__cu_signs[i] >> lane & 1u ? -out[i] : out[i];
    }
#pragma unroll 1
    for (uint32_t left = have_raw; left; left &= left - 1) {
        const uint32_t w = (uint32_t)__ffs((int)left) - 1;
        const float weight = __shfl_sync(~0u, raw_weight, (int)w);
#pragma unroll
        for (int i = 0; i < NK; i++) {
            out[i] = fmaf(of[w * (a->warp_bytes / 4) + a->raw_at / 4 + 32 * i], weight, out[i]);
        }
    }
    sum += lq__cu_add_means<NK, NB>(out, room, used, most, slots, row);
#pragma unroll
    for (int h = 1; h < 32; h *= 2) {
        sum += __shfl_xor_sync(~0u, sum, h);
    }
    if (lane == 0 && (!(fabsf(most) < 1.1e30f) || !(sum < 1.1e30f))) {
        atomicOr(a->b.flags, LQ_CUDA_BAD_NUMBER);
    }
    return make_float2(most, sum);
}

/* A row of a segment, its sums complete, to the caller: x of dims 32 i + lane. */
template <int NK>
static __device__ void lq__cu_give(const lq__cu_attention *a, const lq__cu_segment *g, uint32_t r,
                                   const float *x, float2 all)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t head = g->head * a->group + r % a->group;
    const size_t at = ((size_t)g->s * a->queries + r / a->group) * a->heads + head;
    const float inverse = all.y > 0 ? __fdividef(1.0f, all.y) : 0.0f;
    if (r >= a->rows) return;
#pragma unroll
    for (int i = 0; i < NK; i++) {
        const uint32_t d = 32u * i + lane;
        const float y = all.y > 0 ? x[i] * inverse : 0.0f;
        if (d >= a->p.dims) break;
        if (a->type == LQ_F32) {
            ((float *)a->out)[at * a->p.dims + d] = y;
        } else {
            ((uint16_t *)a->out)[at * a->p.dims + d] = lq__cu_half_of(y, a->type == LQ_BF16);
        }
    }
    if (lane == 0 && a->lse) {
        a->lse[at] = all.y > 0 ? (all.x + log2f(all.y)) * 0.693147181f : LQ__CU_NOTHING;
    }
}

/* Where block from + i has left its part of a segment: the first block at the end of its run,
   others at the beginning. */
LQ__CU_DEVICE size_t lq__cu_part_at(uint32_t from, uint32_t i)
{
    return 2 * (size_t)(from + i) + (i == 0);
}

/* Joins the parts of a row of a segment, of `count` blocks, into out; by a warp of the last of
   them. Lane i has the logit and sum of part i of 32. */
template <int NK, int NB>
static __device__ float2 lq__cu_join_blocks(float *out, const lq__cu_attention *a, uint32_t from,
                                            uint32_t count, uint32_t row)
{
    constexpr uint32_t rows = NB * 4;
    constexpr uint32_t wide = 32 * NK;
    constexpr uint32_t ahead = 32 / NK; /* parts under way */
    const uint32_t lane = threadIdx.x % 32;
    float2 all = make_float2(LQ__CU_NOTHING, 0.0f);
#pragma unroll
    for (int i = 0; i < NK; i++) {
        out[i] = 0;
    }
#pragma unroll 1
    for (uint32_t first = 0; first < count; first += 32) {
        const uint32_t n = min(count - first, 32u);
        float2 mine = make_float2(LQ__CU_NOTHING, 0.0f);
        float weight = 0;
        if (lane < n) mine = __ldcg(&a->sums[lq__cu_part_at(from, first + lane) * rows + row]);
#pragma unroll 1
        for (uint32_t k = 0; k < n; k += ahead) {
            float part[ahead][NK];
#pragma unroll
            for (uint32_t y = 0; y < ahead; y++) {
                const size_t at = lq__cu_part_at(from, first + min(k + y, n - 1)) * rows + row;
#pragma unroll
                for (int i = 0; i < NK; i++) {
                    part[y][i] = __ldcg(&a->parts[at * wide + 32 * i + lane]);
                }
            }
            if (k == 0) {
                const float larger = fmaxf(all.x, lq__cu_warp_most(mine.x));
                const float share = lq__cu_exp2(all.x - larger);
                weight = lane < n ? lq__cu_exp2(mine.x - larger) : 0.0f;
                float more = mine.y * weight;
#pragma unroll
                for (int h = 1; h < 32; h *= 2) {
                    more += __shfl_xor_sync(~0u, more, h);
                }
                all = make_float2(larger, fmaf(all.y, share, more));
#pragma unroll
                for (int i = 0; i < NK; i++) {
                    out[i] *= share;
                }
            }
#pragma unroll
            for (uint32_t y = 0; y < ahead; y++) {
                const float w = __shfl_sync(~0u, weight, (int)min(k + y, 31u));
#pragma unroll
                for (int i = 0; i < NK; i++) {
                    out[i] = k + y < n ? fmaf(part[y][i], w, out[i]) : out[i];
                }
            }
        }
    }
    return all;
}

/* A row of a segment: what this block has of it, and, where others have parts of it, all of it by
   the last of them; to the caller. */
template <int NK, int NB>
static __device__ void lq__cu_finish(const uint8_t *shared, const lq__cu_room<NK, NB> *room,
                                     const lq__cu_attention *a, const lq__cu_segment *g,
                                     uint32_t slots, uint32_t row)
{
    constexpr uint32_t rows = NB * 4;
    constexpr uint32_t wide = 32 * NK;
    const uint32_t lane = threadIdx.x % 32;
    float out[NK];
    float2 all = lq__cu_join_warps<NK, NB>(out, shared, room, a, slots, row);
    if (room->parts > 1) {
        const size_t at = lq__cu_part_at(room->from, blockIdx.x - room->from) * rows + row;
        uint32_t *counter =
            a->counters + ((g->s * a->p.heads + g->head) * a->blocks + g->block) * rows + row;
        uint32_t before = 0;
#pragma unroll
        for (int i = 0; i < NK; i++) {
            __stcg(&a->parts[at * wide + 32 * i + lane], out[i]);
        }
        if (lane == 0) __stcg(&a->sums[at], all);
        __syncwarp();
        if (lane == 0) {
            asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
                         : "=r"(before)
                         : "l"(counter)
                         : "memory");
            if (before + 1 == room->parts) *counter = 0;
        }
        before = __shfl_sync(~0u, before, 0);
        __syncwarp();
        if (before + 1 != room->parts) return;
        all = lq__cu_join_blocks<NK, NB>(out, a, room->from, room->parts, row);
    }
    lq__cu_give<NK>(a, g, g->block * rows + row, out, all);
}

/* Warps of a block at most: as many as registers do for; E8 is faster with more of these. */
static __host__ __device__ constexpr uint32_t lq__cu_most_warps(int kind, uint32_t steps,
                                                                uint32_t rows)
{
    return steps > 4 || rows > 4 ? LQ__CU_WARPS / 2 : kind == LQ__CU_E8 ? 12 : LQ__CU_WARPS;
}

/* The part of a page's head; NULL: there is none. */
LQ__CU_DEVICE const uint8_t *lq__cu_part_of(const lq__cu_attention *a, const uint8_t *pool,
                                            uint32_t id)
{
    return id < a->p.pages ? pool + (uint64_t)id * (a->p.heads * a->p.part) : NULL;
}

/* Begins what comes next, when all lanes have read what was there. */
LQ__CU_DEVICE void lq__cu_ring_next(lq__cu_ring *ring, const uint8_t *part, uint32_t second,
                                    bool more)
{
    __syncwarp();
#if __CUDA_ARCH__ >= 900
    if (more) lq__cu_ring_begin(ring, part, second);
#else
    lq__cu_ring_begin(ring, more ? part : NULL, second);
#endif
}

/* Ids of a warp's next three pages: items `item`, item + warps .. below `end`. */
typedef struct lq__cu_ids {
    uint32_t of[3];
} lq__cu_ids;

LQ__CU_DEVICE uint32_t lq__cu_id_of(const lq__cu_attention *a, const lq__cu_segment *g,
                                    uint32_t item, uint32_t end)
{
    return item < end ? __ldg(a->b.tables + (size_t)g->s * a->p.table + g->page + item)
                      : LQ_KV_NONE;
}

/* A warp's sums of pages to shared memory. */
template <int NK, int NB>
LQ__CU_DEVICE void lq__cu_leave(float *to, lq__cu_room<NK, NB> *room, lq__cu_state<NK, NB> *st)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < NB; n++) {
#pragma unroll
        for (int h = 4; h < 32; h *= 2) {
            st->even[n] += __shfl_xor_sync(~0u, st->even[n], h);
        }
#pragma unroll
        for (int i = 0; i < 4 * NK; i++) {
            to[(4 * n + lane % 4) * 32 * NK + 8 * i + lane / 4] = st->acc[n][i] + st->even[n];
        }
        if (lane < 4) {
            room->most[threadIdx.x / 32][4 * n + lane] = st->most[n];
        }
    }
}

/* A warp's pages of a segment: items `item`, item + warps .. below `end`; sums to shared memory. */
template <int KIND, int NK, int NB>
static __device__ void lq__cu_pages(float *to, lq__cu_ring *ring, lq__cu_room<NK, NB> *room,
                                    const lq__cu_attention *a, const lq__cu_segment *g,
                                    const lq__cu_lookup<KIND> *of, uint32_t item, uint32_t end,
                                    lq__cu_ids ids)
{
    const uint32_t warps = blockDim.x / 32;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t halves = ring->halves;
    const uint8_t *pool = a->p.pool + g->head * a->p.part;
    lq__cu_state<NK, NB> st;
    lq__cu_view<NK, NB> v;
#pragma unroll
    for (int n = 0; n < NB; n++) {
        const uint32_t r = g->block * NB * 4 + 4 * n + lane % 4;
        st.most[n] = LQ__CU_NOTHING;
        st.sum[n] = 0;
        st.even[n] = 0;
#pragma unroll
        for (int i = 0; i < 4 * NK; i++) {
            st.acc[n][i] = 0;
        }
        v.position[n] = g->q.now - a->queries + r / a->group;
        v.slope[n] = room->slope[4 * n + lane % 4];
    }
    v.first_epoch = lq__cu_epoch(g->page + g->first);
    v.epoch = LQ_KV_NONE;
    v.until = 0;
#pragma unroll 1
    for (; item < end; item += warps) {
        const uint32_t page = g->page + item;
        const bool there = ids.of[0] < a->p.pages;
        const uint32_t id = lq__cu_id_of(a, g, item + 3 * warps, end);
        float s[NB][8];
        if (page >= v.until) lq__cu_change<NK, NB>(&v, &st, room, lq__cu_epoch(page));
        uint32_t at = lq__cu_ring_wait(ring);
        if (there) {
            lq__cu_page_keys<KIND, NK, NB>(s, &v, of, at);
        } else if (lane == 0) {
            atomicOr(a->b.flags, LQ_CUDA_BAD_PAGE);
        }
        /* half k of the warp's pages makes room for half k + halves */
        uint32_t ahead = halves / 2;
        uint32_t next = ahead == 0 ? ids.of[0] : ahead == 1 ? ids.of[1] : ids.of[2];
        lq__cu_ring_next(ring, lq__cu_part_of(a, pool, next), halves & 1u,
                         item + ahead * warps < end);
        at = lq__cu_ring_wait(ring);
        if (there) {
            lq__cu_page_values<KIND, NK, NB>(&st, s, &v, of, a, at,
                                             a->p.sinks + page * LQ__CU_TOKENS, g->q.to);
        }
        ahead = (halves + 1) / 2;
        next = ahead == 1 ? ids.of[1] : ids.of[2];
        lq__cu_ring_next(ring, lq__cu_part_of(a, pool, next), (halves & 1u) ^ 1u,
                         item + ahead * warps < end);
        ids.of[0] = ids.of[1];
        ids.of[1] = ids.of[2];
        ids.of[2] = id;
    }
    lq__cu_change<NK, NB>(&v, &st, room, LQ_KV_NONE - 1);
    __syncwarp();
    lq__cu_leave<NK, NB>(to, room, &st);
}

/* A warp's raw tokens of a segment, 16 at a time from `first` on; sums to shared memory. */
template <int NK, int NB, bool BF16>
static __device__ void lq__cu_raw_items(float *to, lq__cu_room<NK, NB> *room,
                                        const lq__cu_attention *a, const lq__cu_segment *g,
                                        uint32_t first)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
    for (uint32_t x = lane; x < NB * 4 * 32 * NK; x += 32) {
        to[x] = 0;
    }
    if (lane < NB * 4) {
        room->raw.sums[threadIdx.x / 32][lane] = make_float2(LQ__CU_NOTHING, 0.0f);
    }
    __syncwarp();
#pragma unroll 1
    for (; first < g->raw; first += blockDim.x / 32 * LQ__CU_RAW) {
        lq__cu_raw_item<NK, NB, BF16>(to, room, a, g, first);
    }
}

/* Which blocks have parts of a segment. */
template <int NK, int NB>
LQ__CU_DEVICE void lq__cu_find_parts(lq__cu_room<NK, NB> *room, const lq__cu_segment *g,
                                     const lq__cu_deal *deal)
{
    const bool whole = g->first == 0 && g->last == g->items;
    const uint32_t from = whole ? blockIdx.x : lq__cu_owner(g->flat, deal);
    room->from = from;
    room->parts = whole ? 1 : lq__cu_owner(g->flat + g->items - 1, deal) + 1 - from;
}

/* A segment of a block's run: its sums to where they belong. */
template <int KIND, int NK, int NB>
static __device__ void lq__cu_segment_run(uint8_t *shared, lq__cu_room<NK, NB> *room,
                                          lq__cu_ring *ring, const lq__cu_attention *a,
                                          const lq__cu_segment *g, const lq__cu_deal *deal)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t warps = blockDim.x / 32;
    const uint32_t pages = max(min(g->last, g->pages), g->first); /* items up to there are pages */
    const uint32_t item = g->first + warp;
    const uint8_t *pool = a->p.pool + g->head * a->p.part;
    float *mine = (float *)(void *)(shared + warp * a->warp_bytes);
    /* Raw tokens go first to warps that have a page less than others. */
    const uint32_t turn = (warp + warps - (pages - g->first) % warps) % warps;
    const bool raw = g->last > g->pages && turn * LQ__CU_RAW < g->raw;
    lq__cu_ids ids;
#pragma unroll
    for (uint32_t i = 0; i < 3; i++) {
        ids.of[i] = lq__cu_id_of(a, g, item + i * warps, pages);
    }
    if (raw) lq__cu_raw_prefetch(a, g, turn * LQ__CU_RAW);
    ring->halves = raw ? a->raw_halves : a->halves;
    ring->begun = 0;
    ring->done = 0;
    const uint32_t early = warp < lq__cu_shares<NB>(g, pages) ? 1 : ring->halves;
#pragma unroll 1
    for (uint32_t i = 0; i < early; i++) { /* first what keeps nobody waiting */
        lq__cu_ring_next(ring, lq__cu_part_of(a, pool, i < 2 ? ids.of[0] : ids.of[1]), i & 1u,
                         item + i / 2 * warps < pages);
    }
#pragma unroll 1
    for (uint32_t i = lane; i < LQ__CU_SLOTS * NB * 4; i += 32) {
        (&room->sums[warp][0][0])[i] = make_float2(0.0f, LQ__CU_NOTHING);
    }
    if (lane == 0) room->used[warp] = (item < pages ? 1u : 0u) | (raw ? 2u : 0u);
    lq__cu_prepare<NK, NB>(room, a, g, g->page + g->first, g->page + pages);
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = early; i < ring->halves; i++) {
        lq__cu_ring_next(ring, lq__cu_part_of(a, pool, i < 2 ? ids.of[0] : ids.of[1]), i & 1u,
                         item + i / 2 * warps < pages);
    }
    if (threadIdx.x == blockDim.x - 1) lq__cu_find_parts(room, g, deal);
    if (raw) { /* while the first pages come */
        if (a->p.is_bf16) {
            lq__cu_raw_items<NK, NB, true>(mine + a->raw_at / 4, room, a, g, turn * LQ__CU_RAW);
        } else {
            lq__cu_raw_items<NK, NB, false>(mine + a->raw_at / 4, room, a, g, turn * LQ__CU_RAW);
        }
    }
    if (item < pages) {
        lq__cu_lookup<KIND> of;
        of.init(room->lookup);
        lq__cu_pages<KIND, NK, NB>(mine, ring, room, a, g, &of, item, pages, ids);
    }
    __syncthreads();
    const uint32_t from = lq__cu_epoch(g->page + g->first);
    const uint32_t to = pages > g->first ? lq__cu_epoch(g->page + pages - 1) : from;
#pragma unroll 1
    for (uint32_t row = warp; row < NB * 4; row += warps) {
        lq__cu_finish<NK, NB>(shared, room, a, g, pages > g->first ? to / 4 - from / 4 + 1 : 0,
                              row);
    }
}

template <int KIND, int NK, int NB>
static __global__ void __launch_bounds__(lq__cu_most_warps(KIND, NK, 4 * NB) * 32, 1)
    lq__cu_attend_kernel(const __grid_constant__ lq__cu_attention a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t warps = blockDim.x / 32;
    lq__cu_room<NK, NB> *room = (lq__cu_room<NK, NB> *)(void *)(shared + warps * a.warp_bytes);
    lq__cu_ring ring;
    { /* each warp asks for a line of the arguments, so that they come at the same time */
        const uint32_t at = min(warp * 16, (uint32_t)sizeof a / 4 - 1);
        asm volatile("" ::"r"(((const uint32_t *)(const void *)&a)[at]));
    }
    if (threadIdx.x < 24) {
        const uint32_t i = threadIdx.x % 12;
        room->lookup[threadIdx.x] = i < 8 ? lq__cu_lookups[KIND][i] : 0u - 1u;
    }
    lq__cu_ring_init(&ring, shared + warp * a.warp_bytes, room->bars + warp * LQ__CU_HALVES,
                     a.halves, a.p.levels, a.p.part);
    __syncthreads();
    lq__cu_segment mine;
    memset(&mine, 0, sizeof mine);
    const uint32_t *flats = lq__cu_count<NK, NB>(room, &a, &mine);
    const lq__cu_deal deal = lq__cu_deal_of(flats[a.b.count]);
    uint32_t flat = lq__cu_begin(blockIdx.x, &deal);
    const uint32_t end = lq__cu_begin(blockIdx.x + 1, &deal);
    bool first = true;
    while (flat < end) {
        lq__cu_segment g;
        lq__cu_segment_at(&g, flats, &a, flat, end, &mine, first && a.b.count <= 32);
        first = false;
        flat = min(end, g.flat + g.items + LQ__CU_TRAIL);
        if (g.first >= g.last) { /* what is only there to take time */
            continue;
        }
        lq__cu_segment_run<KIND, NK, NB>(shared, room, &ring, &a, &g, &deal);
        if (flat >= end) break;
        __syncthreads();
#if __CUDA_ARCH__ >= 900
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
        for (uint32_t i = 0; i < ring.halves; i++) { /* empty groups: the ring begins anew */
            (void)lq__cu_ring_wait(&ring);
        }
#endif
    }
}

/* The launch of a batch on the current device. */
typedef struct lq__cu_launch {
    uint32_t warps;
    uint32_t halves;
    uint32_t raw_halves;
    uint32_t raw_at;
    uint32_t warp_bytes;
    size_t shared;
    uint32_t grid;
    uint32_t most; /* of all grids */
    uint32_t half; /* rows of a block of rows: 4 or 8 */
    uint32_t lead;
    uint32_t blocks;
} lq__cu_launch;

template <int NK> static size_t lq__cu_room_bytes(uint32_t rows)
{
    return rows == 4 ? sizeof(lq__cu_room<NK, 1>) : sizeof(lq__cu_room<NK, 2>);
}

static size_t lq__cu_room_of(uint32_t steps, uint32_t rows)
{
    switch (steps) {
    case 2:
        return lq__cu_room_bytes<2>(rows);
    case 3:
        return lq__cu_room_bytes<3>(rows);
    case 4:
        return lq__cu_room_bytes<4>(rows);
    case 6:
        return lq__cu_room_bytes<6>(rows);
    default:
        return lq__cu_room_bytes<8>(rows);
    }
}

/* Rings of up to `warps` warps in so many bytes of shared memory: whether they have room. */
static bool lq__cu_shape_rings(lq__cu_launch *l, const lq__cu_plan *p, size_t bytes, uint32_t warps)
{
    const uint32_t half = p->part - p->levels;
    const uint32_t sums = l->half * 32 * p->steps * 4;
    const uint32_t least = max(2 * half, max(half, sums) + sums);
    l->warps = (uint32_t)min(bytes / least, (size_t)warps);
    if (l->warps == 0) return false;
    l->halves = (uint32_t)min(bytes / l->warps / half, (size_t)LQ__CU_HALVES);
    l->warp_bytes = max(l->halves * half, max(half, sums) + sums);
    l->raw_at = l->warp_bytes - sums;
    l->raw_halves = min(l->raw_at / half, l->halves);
    return true;
}

/* A block a multiprocessor; where it would have several sums, two of half as many warps, one of
   which attends while the other joins what it has. */
static int lq__cu_shape_launch(lq__cu_launch *l, const lq__cu_plan *p, uint32_t rows,
                               uint32_t count)
{
    int device = 0;
    int processors = 0;
    int each = 0;
    int most = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) !=
            cudaSuccess ||
        cudaDeviceGetAttribute(&each, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) !=
            cudaSuccess ||
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
            cudaSuccess) {
        return LQ_E_INTERNAL;
    }
    l->half = rows <= 4 ? 4 : 8;
    l->blocks = (rows + l->half - 1) / l->half;
    l->most = (uint32_t)processors * 2;
    const uint32_t sums = count * p->heads * l->blocks;
    const size_t room = lq__cu_room_of(p->steps, l->half);
    const uint32_t warps = lq__cu_most_warps((int)p->kind, p->steps, l->half);
    uint32_t blocks = warps > LQ__CU_WARPS / 2 && sums > (uint32_t)processors ? 2 : 1;
    for (; blocks > 0; blocks--) {
        const size_t mine = min((size_t)most, (size_t)each / blocks - 1024);
        if (mine <= room || !lq__cu_shape_rings(l, p, mine - room, warps / blocks) ||
            (blocks == 2 && l->warps < warps / 2)) {
            continue;
        }
        l->shared = l->warps * l->warp_bytes + room;
        l->grid = (uint32_t)processors * blocks;
        /* as many blocks for each, so that alike ones are cut alike */
        const uint32_t left = l->grid % sums;
        l->lead = left * 10 <= l->grid ? 0 : LQ__CU_LEAD;
        l->grid -= l->lead ? 0 : left;
        return LQ_OK;
    }
    return LQ_E_ARG;
}

/* Where the parts of a workspace lie; returns bytes. */
static size_t lq__cu_workspace(lq__cu_attention *a, const lq__cu_launch *l, const lq__cu_plan *p,
                               uint32_t count, uint8_t *at)
{
    const size_t parts = (size_t)2 * l->most * 8; /* 8 rows at most */
    const size_t bytes = parts * 8 + parts * 32 * p->steps * 4;
    if (at) {
        a->sums = (float2 *)(void *)at;
        a->parts = (float *)(void *)(at + parts * 8);
        a->counters = (uint32_t *)(void *)(at + bytes);
    }
    return bytes + (size_t)count * p->heads * l->blocks * l->half * 4;
}

extern "C" size_t lq_cuda_attend_workspace_bytes(const lq_cuda_desc *desc, uint32_t heads,
                                                 uint32_t queries, uint32_t count)
{
    if (!desc) return 0;
    lq_cuda_desc d = lq__cu_whole(desc);
    queries = queries ? queries : 1;
    lq__cu_plan p;
    lq__cu_launch l;
    if (lq__cu_plan_init(&p, &d) != LQ_OK || heads == 0 || heads % p.heads || heads > 65536 ||
        queries > 8 || count == 0 || count > LQ__CU_SEQUENCES ||
        lq__cu_shape_launch(&l, &p, heads / p.heads * queries, 1) != LQ_OK) {
        return 0;
    }
    return lq__cu_workspace(NULL, &l, &p, count, NULL);
}

template <int KIND, int NK, int NB>
static int lq__cu_start(const lq__cu_attention *a, const lq__cu_launch *l, cudaStream_t stream)
{
    if (cudaFuncSetAttribute(lq__cu_attend_kernel<KIND, NK, NB>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)l->shared) != cudaSuccess) {
        return LQ_E_INTERNAL;
    }
    lq__cu_attend_kernel<KIND, NK, NB><<<l->grid, l->warps * 32, l->shared, stream>>>(*a);
    return lq__cu_launched();
}

extern "C" int lq_cuda_attend(const lq_cuda_layer *layer, const lq_cuda_batch *batch,
                              const lq_cuda_attend_desc *desc, cudaStream_t stream)
{
    lq__cu_attention a;
    lq__cu_launch l;
    memset(&a, 0, sizeof a);
    if (!desc || lq__cu_plan_of(&a.p, layer) != LQ_OK || !lq__cu_batch_of(&a.b, batch)) {
        return LQ_E_ARG;
    }
    a.queries = desc->queries ? desc->queries : 1;
    a.type = desc->type ? desc->type : LQ_F16;
    if (desc->heads == 0 || desc->heads % a.p.heads || desc->heads > 65536 || a.queries > 8 ||
        a.type < LQ_F32 || a.type > LQ_BF16 || !desc->q || !desc->out || (uintptr_t)desc->q % 16 ||
        (uintptr_t)desc->out % 16 || !desc->workspace || (uintptr_t)desc->workspace % 128 ||
        !(desc->scale >= 0) || !(desc->softcap >= 0) || desc->window > 0x7fffffffu) {
        return LQ_E_ARG;
    }
    a.heads = desc->heads;
    a.group = desc->heads / a.p.heads;
    a.rows = a.group * a.queries;
    if (lq__cu_shape_launch(&l, &a.p, a.rows, a.b.count) != LQ_OK) return LQ_E_ARG;
    if (desc->workspace_bytes <
        lq__cu_workspace(&a, &l, &a.p, a.b.count, (uint8_t *)desc->workspace)) {
        return LQ_E_SPACE;
    }
    a.q = desc->q;
    a.out = desc->out;
    a.lse = desc->lse;
    a.slopes = desc->slopes;
    a.scale = (desc->scale > 0 ? desc->scale : 1.0f / sqrtf((float)a.p.dims)) * 1.44269504f;
    a.softcap = desc->softcap;
    a.softcap_inverse = desc->softcap > 0 ? 1.0f / desc->softcap : 0.0f;
    a.window = desc->window;
    a.window_sinks = desc->window_sinks != 0;
    a.blocks = l.blocks;
    a.lead = l.lead;
    a.halves = l.halves;
    a.raw_halves = l.raw_halves;
    a.raw_at = l.raw_at;
    a.warp_bytes = l.warp_bytes;
#define LQ__CU_ROW(name, wide)                                                            \
    if (a.p.kind == LQ__CU_##name && a.p.steps * 32 == (wide)) {                          \
        return l.half == 4 ? lq__cu_start<LQ__CU_##name, (wide) / 32, 1>(&a, &l, stream)  \
                           : lq__cu_start<LQ__CU_##name, (wide) / 32, 2>(&a, &l, stream); \
    }
    LQ_CUDA_INSTANCES(LQ__CU_ROW)
#undef LQ__CU_ROW
    return LQ_E_INTERNAL;
}

/* ================================================================================================
   >>transfer   saved caches to the device

   The record of a live cache ("LIVE CACHE" of latticequant.h) is read number by number; all that
   follows from it is made in staging memory, and copied.
   ============================================================================================== */
typedef struct lq__cu_tape {
    const uint8_t *data;
    size_t count;
    size_t at;
    bool bad; /* it has ended too soon; zeros are read then */
} lq__cu_tape;

static const uint8_t *lq__cu_bytes(lq__cu_tape *t, size_t count)
{
    const uint8_t *p = t->data + t->at;
    if (t->bad || count > t->count - t->at) {
        t->bad = true;
        return NULL;
    }
    t->at += count;
    return p;
}

static uint32_t lq__cu_word(lq__cu_tape *t)
{
    const uint8_t *p = lq__cu_bytes(t, 4);
    return p ? lq__cu_load32(p) : 0;
}

static uint64_t lq__cu_number(lq__cu_tape *t)
{
    const uint64_t low = lq__cu_word(t);
    return low | (uint64_t)lq__cu_word(t) << 32;
}

/* Numbers that are not looked at. */
static void lq__cu_skip(lq__cu_tape *t, uint64_t count, uint64_t each)
{
    if (each && count > (t->count - t->at) / each) {
        t->bad = true;
        return;
    }
    (void)lq__cu_bytes(t, (size_t)(count * each));
}

/* A layer as its descriptor has it. */
typedef struct lq__cu_saved_layer {
    uint32_t heads;
    uint32_t dims[2];
    uint32_t v_in_k;
    uint32_t rotary;
    uint32_t streams;
    uint64_t number_bytes[2]; /* of an epoch, all heads */
    uint64_t shape_bytes;     /* 0: it has none */
    uint32_t warm[2];
    bool fits; /* it is a layer like that of the device */
} lq__cu_saved_layer;

/* The policies of a stream. */
static void lq__cu_read_policies(lq__cu_tape *t, lq__cu_saved_layer *y, int v, const lq__cu_plan *p,
                                 const lq_cuda_desc *d, bool *warm)
{
    const uint32_t count = lq__cu_word(t);
    const uint64_t mean = 1 + y->dims[v] / 2 * (uint64_t)3;
    if (count != 1 && count != y->heads) {
        t->bad = true;
        return;
    }
    for (uint32_t i = 0; i < count && !t->bad; i++) {
        const uint32_t kind = lq__cu_word(t);
        const uint32_t quantizer = lq__cu_word(t);
        const uint32_t bits = lq__cu_word(t);
        const uint64_t times = count == 1 ? y->heads : 1;
        (void)lq__cu_word(t);
        uint32_t named = lq__cu_word(t);
        if (named) (void)lq__cu_bytes(t, 16);
        if (kind != LQ_KV_RAW && !named) {
            y->number_bytes[v] += times * (mean + (kind == LQ_KV_WARM ? 2 + y->dims[v] : 0));
        }
        if (kind != LQ_KV_RAW && v == 0) {
            y->shape_bytes = y->heads * (uint64_t)(4 + y->dims[0] / 2 + (y->rotary ? 96 : 0));
        }
        y->warm[v] += kind == LQ_KV_WARM;
        *warm = *warm || kind == LQ_KV_WARM;
        y->fits = y->fits && kind == LQ_KV_HOT && quantizer == (uint32_t)d->quantizer &&
                  bits == (uint32_t)d->bits && y->heads == p->heads && y->dims[v] == p->dims;
    }
}

static void lq__cu_read_layer(lq__cu_tape *t, lq__cu_saved_layer *y, uint32_t number,
                              const lq__cu_plan *p, const lq_cuda_desc *d, bool *warm)
{
    memset(y, 0, sizeof *y);
    y->heads = lq__cu_word(t);
    (void)lq__cu_word(t); /* owner, window: what is given back is refused later */
    (void)lq__cu_word(t);
    if (y->heads == 0) return;
    y->dims[0] = lq__cu_word(t);
    y->dims[1] = lq__cu_word(t);
    y->v_in_k = lq__cu_word(t);
    y->rotary = lq__cu_word(t);
    (void)lq__cu_word(t);
    uint32_t like = lq__cu_word(t);
    if (y->heads > 1024 || y->dims[0] > 1024 || y->dims[1] > 1024) {
        t->bad = true;
        return;
    }
    if (y->rotary && like == number) {
        lq__cu_skip(t, 2 + (uint64_t)y->rotary / 2, 4);
    }
    y->streams = y->v_in_k ? 1 : 2;
    y->fits = y->streams == 2 && y->rotary == 0;
    for (int v = 0; v < (int)y->streams; v++) {
        lq__cu_read_policies(t, y, v, p, d, warm);
    }
}

/* What a record says of the layer that is wanted. */
typedef struct lq__cu_saved {
    uint64_t tokens;
    uint64_t group; /* of its keys */
    uint64_t sealed;
    uint64_t pages;
    uint64_t epochs;
    const uint8_t *sums[2];
    const uint8_t *numbers[2];
    const uint8_t *shapes;
} lq__cu_saved;

/* The counts, page table and numbers of a layer; into `s` where it is the one. */
static int lq__cu_read_numbers(lq__cu_tape *t, const lq__cu_saved_layer *y, const lq__cu_plan *p,
                               lq__cu_saved *s, bool wanted)
{
    const uint64_t added = lq__cu_number(t);
    const uint64_t sealed = lq__cu_number(t);
    const uint64_t gone = lq__cu_number(t);
    bool fits = y->fits && gone == 0;
    (void)lq__cu_number(t); /* where the ring begins */
    uint64_t epochs = lq__cu_number(t);
    uint64_t opened = lq__cu_number(t);
    uint64_t pages = lq__cu_number(t);
    if (t->bad || epochs > 64 || pages > 0x7fffffff) return LQ_E_DATA;
    fits = fits && sealed == lq__cu_sealed(p->sinks, p->window, (uint32_t)s->tokens) &&
           added == sealed - p->sinks && opened == pages && pages == (added + 63) / 64 &&
           epochs == (pages ? lq__cu_epoch((uint32_t)pages - 1) + 1 : 0);
    for (uint64_t i = 0; i < pages && !t->bad; i++) {
        const uint64_t entry = lq__cu_number(t);
        const uint64_t tokens = i + 1 < pages ? 64 : added - 64 * i;
        fits = fits && (entry & 0xffff) == tokens && (entry >> 17 & 3) == 0 &&
               entry >> 32 == lq__cu_epoch((uint32_t)i);
    }
    for (int v = 0; v < (int)y->streams && !t->bad; v++) {
        const uint64_t own = v ? (epochs + 3) / 4 : epochs;
        const uint8_t *sums = t->data + t->at;
        lq__cu_skip(t, (uint64_t)y->heads * y->dims[v], 8);
        const uint8_t *numbers = t->data + t->at;
        lq__cu_skip(t, own, y->number_bytes[v]);
        if (wanted) {
            s->sums[v] = sums;
            s->numbers[v] = numbers;
        }
        if (v == 0 && y->shape_bytes && epochs) {
            if (wanted) s->shapes = t->data + t->at;
            /* Where windows are short there is one more; such caches are not taken. */
            lq__cu_skip(t, (epochs + 3) / 4, y->shape_bytes);
        }
        if (y->warm[v]) return LQ_E_FORMAT;
    }
    if (t->bad) return LQ_E_DATA;
    if (wanted) {
        s->sealed = sealed;
        s->pages = pages;
        s->epochs = epochs;
        return fits ? LQ_OK : LQ_E_FORMAT;
    }
    return LQ_OK;
}

/* Finds a layer in a sequence's record. */
static int lq__cu_read_record(lq__cu_saved *s, const lq__cu_plan *p, const lq_cuda_desc *d,
                              const lq_archive_reader *reader, uint64_t sequence, uint32_t number)
{
    lq__cu_tape t;
    bool warm = false;
    memset(&t, 0, sizeof t);
    memset(s, 0, sizeof *s);
    if (sequence > 0xffffffffu - 0x564b514cu) return LQ_E_RANGE;
    int status = lq_archive_meta(reader, 0x564b514cu + (uint32_t)sequence, &t.data, &t.count);
    if (status != LQ_OK) return status;
    if (lq__cu_number(&t) != 6) return t.bad ? LQ_E_DATA : LQ_E_FORMAT;
    lq__cu_tape desc;
    memset(&desc, 0, sizeof desc);
    uint64_t i = lq__cu_number(&t);
    desc.count = (size_t)i;
    if (i > t.count || !(desc.data = lq__cu_bytes(&t, desc.count))) return LQ_E_DATA;
    uint32_t layers = lq__cu_word(&desc);
    (void)lq__cu_number(&desc); /* tokens that there was room for, step_tokens */
    if (lq__cu_word(&desc) != p->sinks || lq__cu_word(&desc) != p->window ||
        lq__cu_word(&desc) != (uint32_t)d->type || lq__cu_word(&desc) != 0) {
        return desc.bad ? LQ_E_DATA : LQ_E_FORMAT;
    }
    if (number >= layers) return LQ_E_RANGE;
    lq__cu_tape again = desc;
    for (uint32_t l = 0; l < layers && !desc.bad; l++) {
        lq__cu_saved_layer y;
        lq__cu_read_layer(&desc, &y, l, p, d, &warm);
    }
    s->tokens = lq__cu_number(&t);
    if (lq__cu_number(&t) != p->sinks || lq__cu_number(&t) != 0 || warm) {
        return t.bad || desc.bad ? LQ_E_DATA : LQ_E_FORMAT;
    }
    (void)lq__cu_number(&t); /* clipped */
    s->group = lq__cu_number(&t);
    if (t.bad || desc.bad || s->tokens > (t.count - t.at) / 16) return LQ_E_DATA;
    uint64_t first = 0; /* positions go up by 1 */
    for (i = 0; i < s->tokens; i++) {
        const uint64_t position = lq__cu_number(&t);
        first = i ? first : position;
        if (position - first != i) return LQ_E_FORMAT;
    }
    lq__cu_skip(&t, s->tokens, 8); /* masses */
    for (uint32_t l = 0; l <= number; l++) {
        lq__cu_saved_layer y;
        lq__cu_read_layer(&again, &y, l, p, d, &warm);
        if (y.heads == 0) {
            status = l == number ? LQ_E_FORMAT : LQ_OK;
        } else {
            status = lq__cu_read_numbers(&t, &y, p, s, l == number);
            s->group += l < number ? y.streams : 0;
        }
        if (status != LQ_OK) return status;
    }
    return LQ_OK;
}

/* A slot's sums, means and shapes. */
static int lq__cu_load_numbers(uint8_t *state, const lq__cu_plan *p, const lq__cu_saved *s)
{
    for (int v = 0; v < 2; v++) {
        const uint8_t *from = s->numbers[v];
        /* two words, whatever the order of bytes here */
        for (uint32_t i = 0; i < p->heads * p->dims; i++) {
            uint64_t x = lq__cu_load32(s->sums[v] + 8 * i);
            x |= (uint64_t)lq__cu_load32(s->sums[v] + 8 * i + 4) << 32;
            memcpy(state + p->sums[v] + 8 * i, &x, 8);
        }
        for (uint64_t e = 0; e < (v ? (s->epochs + 3) / 4 : s->epochs); e++) {
            for (uint32_t h = 0; h < p->heads; h++) {
                uint8_t *to = state + p->means[v] + (e * p->heads + h) * p->number;
                const uint32_t unit = *from++;
                if (unit > 24) return LQ_E_DATA;
                memcpy(to, &unit, 4);
                for (uint32_t i = 0; i < p->dims; i += 2, from += 3) {
                    const uint32_t two = from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16;
                    const int16_t x[2] = {(int16_t)((int32_t)(two & 4095u ^ 2048u) - 2048),
                                          (int16_t)((int32_t)(two >> 12 ^ 2048u) - 2048)};
                    memcpy(to + 4 + 2 * i, x, 4);
                }
            }
        }
    }
    for (uint64_t e = 0; e < (s->epochs + 3) / 4; e++) {
        for (uint32_t h = 0; h < p->heads; h++) {
            const uint8_t *from = s->shapes + (e * p->heads + h) * (4 + p->dims / 2);
            uint8_t *to = state + p->shapes + (e * p->heads + h) * p->shape;
            const uint32_t stretched = from[0];
            if (stretched > 1) return LQ_E_DATA;
            if (from[1]) return LQ_E_FORMAT;
            memcpy(to, &stretched, 4);
            for (uint32_t i = 0; i < p->dims; i++) {
                to[4 + i] = from[4 + i / 2] >> i % 2 * 4 & 15u;
                if (to[4 + i] > 8) return LQ_E_DATA;
            }
        }
    }
    return LQ_OK;
}

/* Where pages of an archive are read to, and what has been found. */
typedef struct lq__cu_loading {
    const lq__cu_plan *p;
    const lq__cu_saved *s;
    uint8_t *pages;
    uint8_t *state;
    uint8_t *buffer;
    size_t buffer_bytes;
    uint64_t raw; /* tokens that have been found, K and V */
    uint64_t hot; /* pages */
} lq__cu_loading;

static int lq__cu_load_raw(lq__cu_loading *l, int v, const uint8_t *page, const lq_page_ref *ref)
{
    const lq__cu_plan *p = l->p;
    const size_t row = (size_t)p->dims * 2;
    if (ref->bytes < ref->token_count * row * p->heads + 4) return LQ_E_DATA;
    for (uint32_t i = 0; i < ref->token_count; i++) {
        const uint64_t t = ref->first_token + i;
        if (t >= l->s->tokens || (t >= p->sinks && t < l->s->sealed)) return LQ_E_DATA;
        for (uint32_t h = 0; h < p->heads; h++) {
            const uint64_t at = t < p->sinks ? t : p->sinks + (t - p->sinks) % p->ring;
            memcpy(l->state + p->raw[v] + ((size_t)h * (p->sinks + p->ring) + at) * row,
                   page + ((size_t)i * p->heads + h) * row, row);
        }
        l->raw++;
    }
    return LQ_OK;
}

static int lq__cu_load_hot(lq__cu_loading *l, int v, const uint8_t *page, const lq_page_ref *ref)
{
    const lq__cu_plan *p = l->p;
    const size_t tile = (size_t)p->dims * 8 * (size_t)lq__cu_bits((int)p->kind) + LQ__CU_TOKENS;
    const uint64_t j = (ref->first_token - p->sinks) / LQ__CU_TOKENS;
    const int stream = v ? LQ_V : LQ_K;
    if (ref->first_token < p->sinks || (ref->first_token - p->sinks) % LQ__CU_TOKENS ||
        j >= l->s->pages || ref->bytes < (tile + 1) * p->heads + 4 ||
        ref->first_token + ref->token_count > l->s->sealed) {
        return LQ_E_DATA;
    }
    for (uint32_t h = 0; h < p->heads; h++) {
        uint8_t *part = l->pages + ((size_t)j * p->heads + h) * p->part;
        for (uint32_t n = 0; n < 2 * p->steps; n++) {
            for (uint32_t lane = 0; lane < 32; lane++) {
                lq__cu_group_from_tile(part + (size_t)v * p->levels, page + h * tile, (int)p->kind,
                                       stream, p->dims, p->steps, n, lane, ref->token_count);
            }
        }
        lq__cu_scales_from_tile(part + 2 * p->levels + 64 * v, part + 2 * p->levels + 128, v,
                                page + (h + 1) * tile - LQ__CU_TOKENS,
                                (int8_t)page[p->heads * tile + h], ref->token_count);
    }
    l->hot++;
    return LQ_OK;
}

/* All pages of the layer's runs. */
static int lq__cu_load_runs(lq__cu_loading *l, const lq_archive_reader *reader, uint64_t sequence)
{
    for (uint32_t r = 0; r < reader->run_count; r++) {
        lq_archive_run_info info;
        int status = lq_archive_run(reader, r, &info);
        if (status != LQ_OK) return status;
        if (info.desc.sequence != sequence || info.desc.group < l->s->group ||
            info.desc.group > l->s->group + 1 || info.ordered) {
            continue;
        }
        int v = info.desc.group != l->s->group;
        for (uint32_t i = 0; i < info.page_count; i++) {
            lq_page_ref ref;
            const uint8_t *page = NULL;
            status = lq_archive_run_page(reader, r, i, &ref);
            if (status == LQ_OK && ref.bytes > l->buffer_bytes) {
                status = LQ_E_DATA;
            }
            if (status == LQ_OK) {
                status = lq_archive_page(reader, &ref, l->buffer, l->buffer_bytes, &page);
            }
            if (status == LQ_OK) {
                status = info.desc.code == LQ_PAGE_HOT   ? lq__cu_load_hot(l, v, page, &ref)
                         : info.desc.code == LQ_PAGE_RAW ? lq__cu_load_raw(l, v, page, &ref)
                                                         : LQ_E_FORMAT;
            }
            if (status != LQ_OK) return status;
        }
    }
    return l->hot == 2 * l->s->pages &&
                   l->raw == 2 * (l->s->tokens -
                                  (l->s->sealed > l->p->sinks ? l->s->sealed - l->p->sinks : 0))
               ? LQ_OK
               : LQ_E_DATA;
}

/* Bytes of the largest page in a file. */
static size_t lq__cu_file_page(const lq__cu_plan *p)
{
    const size_t tile = (size_t)p->dims * 8 * (size_t)lq__cu_bits((int)p->kind) + LQ__CU_TOKENS;
    const size_t raw = (size_t)p->dims * 2 * LQ__CU_TOKENS;
    return (max(tile + 1, raw) * p->heads + 4 + 127) / 128 * 128;
}

extern "C" size_t lq_cuda_load_bytes(const lq_cuda_desc *desc, uint32_t tokens)
{
    if (!desc) return 0;
    lq_cuda_desc d = lq__cu_whole(desc);
    lq__cu_plan p;
    if (lq__cu_plan_init(&p, &d) != LQ_OK) return 0;
    return (size_t)lq_cuda_pages_of(desc, tokens) * p.part * p.heads + p.slot +
           lq__cu_file_page(&p) + 128;
}

extern "C" int lq_cuda_load(const lq_cuda_layer *layer, uint32_t slot, const uint32_t *ids,
                            size_t id_count, const lq_archive_reader *reader, uint64_t sequence,
                            uint32_t number, uint32_t *tokens, void *staging, size_t staging_bytes,
                            cudaStream_t stream)
{
    const cudaMemcpyKind kind = cudaMemcpyHostToDevice;
    lq__cu_plan p;
    if (lq__cu_plan_of(&p, layer) != LQ_OK || slot >= p.slots || !reader || !tokens ||
        (!ids && id_count)) {
        return LQ_E_ARG;
    }
    *tokens = 0;
    lq__cu_saved s;
    int status = lq__cu_read_record(&s, &p, &layer->desc, reader, sequence, number);
    if (status != LQ_OK) return status;
    if (s.pages > p.table || s.tokens > 0xffffffffu) return LQ_E_FULL;
    *tokens = (uint32_t)s.tokens;
    if (!staging || id_count < s.pages ||
        staging_bytes < lq_cuda_load_bytes(&layer->desc, *tokens)) {
        return LQ_E_SPACE;
    }
    for (uint64_t i = 0; i < s.pages; i++) {
        if (ids[i] >= p.pages) return LQ_E_ARG;
    }
    size_t page = (size_t)p.part * p.heads;
    lq__cu_loading l;
    l.p = &p;
    l.s = &s;
    l.state = (uint8_t *)staging + ((0 - (uintptr_t)staging) & 15);
    l.pages = l.state + p.slot;
    l.buffer = l.pages + s.pages * page;
    l.buffer_bytes = lq__cu_file_page(&p);
    l.raw = 0;
    l.hot = 0;
    memset(l.state, 0, p.slot + s.pages * page);
    status = lq__cu_load_numbers(l.state, &p, &s);
    if (status == LQ_OK) status = lq__cu_load_runs(&l, reader, sequence);
    for (uint64_t i = 0; i < s.pages && status == LQ_OK;) { /* pages side by side in one copy */
        uint64_t n = 1;
        while (i + n < s.pages && ids[i + n] == ids[i] + n) {
            n++;
        }
        if (cudaMemcpyAsync(p.pool + ids[i] * page, l.pages + i * page, n * page, kind, stream) !=
            cudaSuccess) {
            status = LQ_E_INTERNAL;
        }
        i += n;
    }
    if (status == LQ_OK &&
        cudaMemcpyAsync(p.state + slot * p.slot, l.state, p.slot, kind, stream) != cudaSuccess) {
        status = LQ_E_INTERNAL;
    }
    return status;
}

/* ================================================================================================
   >>restore   coded pages of archives to vectors: rANS, dequantizing, a dense basis

   Four launches: a warp a page decodes its stream to values by token; a warp for a few tokens makes
   these the int16 columns of the matrix product, in two planes of bytes, and finds units, gains and
   the sines of its positions; the product runs on the tensor cores, and its sums become vectors.

   The host makes all that a codec knows of its profile, as "DECODING PAGES" of latticequant.h
   tells: tables of intervals by class, what raw bits each row has, centroids, means. A row's table
   is 768 bytes:
     buckets    (64) of 1024 slots: u32 the last slots of the interval that holds the first one, and
                2^16 times that of the next one; u32 where the former is in the table
     intervals  (32) u32 slots; u32 first slot + 2^16 value
   Rows that are not coded have a table of one interval of 2^16 slots, which leaves states as they
   are: so rows need no branches.
   ============================================================================================== */
#define LQ__CU_ESCAPE (-32768) /* in place of a value that is still to be read */
#define LQ__CU_TABLE 768u
#define LQ__CU_WORDS 2048u /* bytes of a warp's ring of words; 16 more are its first ones again */
#define LQ__CU_RANS_WARPS 4u
#define LQ__CU_DECODED (1u << 24) /* tokens of a call, at most */

/* A row that is coded. */
typedef struct lq__cu_coded {
    uint32_t before; /* raw bits of rows before it, of a token */
    uint16_t table;  /* 0: of rows that are not coded */
    uint16_t raw;
} lq__cu_coded;

/* Rows with raw bits, by their columns of values. */
typedef struct lq__cu_raw_row {
    uint32_t before;
    uint16_t column;
    uint16_t raw;
} lq__cu_raw_row;

/* A coefficient: q12 mean; what 1, 2, 3, 4 and more are less than their q12. Of 256 coefficients
   the e-th of 32 eights are side by side. */
typedef struct lq__cu_column {
    int32_t mean;
    int16_t shift[4];
    int32_t unused;
} lq__cu_column;

/* Four pairs of dims of a slice, a + k stride and b + k stride: of those that a RoPE turns
   together, or of any. Arrays have those of a and then those of b. */
typedef struct lq__cu_quad {
    float scale[8];
    float center[8];
    float bias[8];
    float slice_step;
    int32_t gain; /* -1: keys */
    int32_t wave; /* the first pair's among those of all ropes; -1: none */
    uint32_t slice;
    uint16_t a;
    uint16_t b;
    uint16_t stride;
    uint16_t count;
    uint32_t dims; /* of the slice */
    uint32_t unused;
} lq__cu_quad;

/* A pair of a RoPE: turns per position, and the factor of its sines. */
typedef struct lq__cu_turn_of {
    uint64_t step;
    float magnitude;
    uint32_t unused;
} lq__cu_turn_of;

/* ---- on the host: the Gaussian in integers ---- */
static uint64_t lq__cu_exp2_q30(uint32_t x)
{
    static const uint32_t root[16] = {1518500250u, 1276901417u, 1170923762u, 1121280436u,
                                      1097253708u, 1085434106u, 1079572136u, 1076653033u,
                                      1075196443u, 1074468888u, 1074105294u, 1073923544u,
                                      1073832680u, 1073787251u, 1073764537u, 1073753181u};
    uint64_t m = (uint64_t)1 << 30;
    for (uint32_t k = 0; k < 16; k++) {
        if (x >> (15 - k) & 1) m = (m * root[k] + ((uint64_t)1 << 29)) >> 30;
    }
    return m;
}

static uint64_t lq__cu_eighths(int eighths)
{
    const uint32_t up = (uint32_t)(eighths + 48);
    return (lq__cu_exp2_q30((up & 7) << 13) << (up >> 3)) >> 6;
}

static uint64_t lq__cu_exp2_neg(uint64_t e)
{
    const uint64_t n = e >> 32;
    const uint64_t f = ((uint64_t)1 << 32) - (e & 0xffffffffu);
    if (n > 40) return 0;
    if (f >> 32) return ((uint64_t)1 << 36) >> n;
    uint64_t m = lq__cu_exp2_q30((uint32_t)(f >> 16));
    m += (m * ((f & 65535) * 45426 >> 16)) >> 32;
    return (m << 6) >> (n + 1);
}

static uint64_t lq__cu_gauss(uint64_t t)
{
    return lq__cu_exp2_neg(((t * t >> 8) * 3098164009u) >> 24);
}

#define LQ__CU_MASSES 2048u

static void lq__cu_masses(uint64_t *mass) /* (LQ__CU_MASSES + 1) */
{
    mass[0] = 0;
    for (uint64_t i = 0; i < LQ__CU_MASSES; i++) {
        mass[i + 1] = mass[i] + lq__cu_gauss(256 * i + 128);
    }
}

static uint64_t lq__cu_mass(const uint64_t *mass, uint64_t t)
{
    const uint64_t i = min(t >> 16, (uint64_t)LQ__CU_MASSES);
    const uint64_t next = i < LQ__CU_MASSES ? mass[i + 1] - mass[i] : 0;
    return mass[i] + (next * (t & 65535) >> 16);
}

static int32_t lq__cu_dead_zone(int class_)
{
    const int eighths = class_ - LQ_CLASS_ONE;
    if (class_ > 53) return 0;
    if (eighths <= -12) return 29491;
    uint64_t zone = 3932 * lq__cu_eighths(-2 * eighths);
    zone += eighths < 8 ? 46 * lq__cu_eighths(-6 * eighths) : 0;
    return (int32_t)min(zone >> 30, (uint64_t)29491);
}

/* Offsets of cells, as a codec numbers its tables: class + 7, five of each. */
enum { LQ__CU_AT_0, LQ__CU_AT_1_4, LQ__CU_AT_1_2, LQ__CU_AT_3_4, LQ__CU_AT_PLAIN };

static int32_t lq__cu_edge(int k, uint32_t offset, int32_t zone)
{
    const int32_t edge = k * 65536 - 32768;
    if (offset == LQ__CU_AT_0) return k > 0 ? edge + zone : edge - zone;
    return offset == LQ__CU_AT_PLAIN ? edge : edge + (int32_t)offset * 16384;
}

/* What 1, 2, 3, 4 and more are less than their q12. */
static void lq__cu_centroids(int16_t *shift, const uint64_t *mass, int class_)
{
    const uint64_t sigma = lq__cu_eighths(class_ - LQ_CLASS_ONE > 48 ? 48 : class_ - LQ_CLASS_ONE);
    for (int k = 1; k < 5; k++) {
        if (class_ > 53) {
            const uint32_t down = 2 * (uint32_t)(class_ - LQ_CLASS_ONE);
            uint64_t slope = ((uint64_t)1 << 60) / (lq__cu_eighths((int)(down & 7)) * 12);
            slope = (slope >> (down >> 3)) * (uint64_t)k >> 18;
            shift[k - 1] = (int16_t)min(slope, (uint64_t)2048);
            continue;
        }
        const uint64_t inverse = lq__cu_eighths(LQ_CLASS_ONE - class_);
        const int32_t zone = lq__cu_dead_zone(class_);
        const uint64_t a = (uint64_t)lq__cu_edge(k, LQ__CU_AT_0, zone) * inverse >> 30;
        const uint64_t b = (uint64_t)lq__cu_edge(k + 1, LQ__CU_AT_0, zone) * inverse >> 30;
        const uint64_t m = lq__cu_mass(mass, b << 8) - lq__cu_mass(mass, a << 8);
        uint64_t at;
        if (m >> 24) {
            at = ((lq__cu_gauss(a) - lq__cu_gauss(b)) * (sigma >> 10) + m / 2) / m;
        } else {
            const uint64_t span = min(((uint64_t)16 << 32) / (a + 65536), b - a);
            uint64_t sum = 0;
            uint64_t moment = 0;
            for (uint64_t j = 1; j < 64; j += 2) {
                const uint64_t d = span * j >> 6;
                const uint64_t weight = lq__cu_exp2_neg((a * d + d * d / 2) * 94548 >> 16) >> 12;
                sum += weight;
                moment += weight * d;
            }
            at = (a + moment / max(sum, (uint64_t)1)) * (sigma >> 10) >> 24;
        }
        shift[k - 1] = (int16_t)(k * 4096 - (int32_t)at);
    }
}

/* ---- on the host: tables ---- */
/* Intervals of a table in their order, by value + 16, the escape 0. */
typedef struct lq__cu_intervals {
    uint32_t slots[32];
    uint8_t order[32];
} lq__cu_intervals;

typedef struct lq__cu_kinds {
    uint8_t rare[32]; /* the escape first */
    uint8_t big[32];
    uint32_t rares;
    uint32_t bigs;
} lq__cu_kinds;

static uint32_t lq__cu_single_end(uint32_t at, uint32_t ideal, uint32_t next)
{
    const uint32_t least = at % 1024 ? (at / 1024 + 1) * 1024 : at + 1;
    uint32_t end = max(ideal, least);
    const uint32_t inside = end % 1024;
    if (inside && inside + next < 1024) {
        const bool down = end - inside >= least && 2 * inside + next <= 1024;
        end = down ? end - inside : end - inside + 1024 - next;
    }
    return end;
}

/* The order called single, big number k first; its loss, UINT64_MAX: it cannot be done. */
static uint64_t lq__cu_single(lq__cu_intervals *t, const uint32_t *freq, const lq__cu_kinds *kinds,
                              uint32_t k)
{
    uint32_t placed = 1;
    uint32_t n = 1;
    uint32_t at = freq[0];
    uint32_t ideal = at;
    uint64_t loss = 0;
    t->order[0] = 0;
    t->slots[0] = at;
    for (uint32_t i = 0; i < kinds->bigs; i++) {
        const uint8_t big = kinds->big[(i + k) % kinds->bigs];
        uint32_t rare = 0;
        uint32_t end = lq__cu_single_end(at, ideal + freq[big], 1024);
        uint32_t least = UINT32_MAX;
        ideal += freq[big];
        for (uint32_t j = 1; j < kinds->rares; j++) {
            const uint32_t to = lq__cu_single_end(at, ideal, freq[kinds->rare[j]]);
            const uint32_t off = to > ideal ? to - ideal : ideal - to;
            if (!(placed >> j & 1) && off < least) {
                rare = j;
                end = to;
                least = off;
            }
        }
        if (i == kinds->bigs - 1) {
            end = 65536 - (rare ? freq[kinds->rare[rare]] : 0);
            if (lq__cu_single_end(at, end, 1024) != end) return UINT64_MAX;
        }
        t->order[n] = big;
        t->slots[n++] = end - at;
        least = end - at > freq[big] ? end - at - freq[big] : freq[big] - (end - at);
        loss += ((uint64_t)least * least << 16) / freq[big];
        at = end;
        if (rare) {
            placed |= 1u << rare;
            t->order[n] = kinds->rare[rare];
            t->slots[n] = freq[t->order[n]];
            at += t->slots[n++];
            ideal += freq[kinds->rare[rare]];
        }
    }
    return loss;
}

static void lq__cu_plain_order(lq__cu_intervals *t, const uint32_t *freq, const lq__cu_kinds *kinds)
{
    uint32_t r = 0;
    uint32_t b = 0;
    for (uint32_t s = 0; s < kinds->rares + kinds->bigs; s++) {
        bool is_rare = s < 2 || s >= 2 * kinds->bigs + 2 || s % 2;
        is_rare = (is_rare && r < kinds->rares) || b == kinds->bigs;
        t->order[s] = is_rare ? kinds->rare[r++] : kinds->big[b++];
        t->slots[s] = freq[t->order[s]];
    }
}

/* Frequencies by value + 16, the escape's at 0, to intervals; returns how many. */
static uint32_t lq__cu_place_intervals(lq__cu_intervals *best, uint32_t *freq)
{
    lq__cu_kinds kinds;
    lq__cu_intervals turn;
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint32_t rarest = 0;
        memset(&kinds, 0, sizeof kinds);
        kinds.rares = 1;
        for (uint32_t i = 1; i < 32; i++) {
            if (freq[i] >= 1024) {
                kinds.big[kinds.bigs++] = (uint8_t)i;
            } else if (freq[i]) {
                kinds.rare[kinds.rares++] = (uint8_t)i;
                rarest = rarest == 0 || freq[i] <= freq[rarest] ? i : rarest;
            }
        }
        if (kinds.rares <= kinds.bigs + 3) break;
        freq[0] += freq[rarest];
        freq[rarest] = 0;
    }
    lq__cu_plain_order(best, freq, &kinds);
    for (uint32_t i = 0; i < kinds.bigs && kinds.rares <= kinds.bigs + 1; i++) {
        memset(&turn, 0, sizeof turn);
        const uint64_t loss = lq__cu_single(&turn, freq, &kinds, i);
        if (loss < least) {
            least = loss;
            *best = turn;
        }
    }
    return kinds.rares + kinds.bigs;
}

/* A table of intervals; to: LQ__CU_TABLE bytes. */
static void lq__cu_table_of(uint32_t *to, const lq__cu_intervals *of, uint32_t count)
{
    uint32_t last[34];
    uint32_t at = 0;
    for (uint32_t s = 0; s < 32; s++) { /* what is behind the last one is never found */
        const uint32_t i = s < count ? of->order[s] : 0;
        to[128 + 2 * s] = s < count ? of->slots[s] : 1;
        to[129 + 2 * s] = (at & 0xffffu) | (uint32_t)(i ? (int32_t)i - 16 : LQ__CU_ESCAPE) << 16;
        at += s < count ? of->slots[s] : 0;
        last[s] = s < count ? at - 1 : 65535;
    }
    last[32] = last[33] = 65535;
    for (uint32_t b = 0, s = 0; b < 64; b++) {
        while (last[s] < b * 1024) {
            s++;
        }
        to[2 * b] = last[s] | last[s + 1] << 16;
        to[2 * b + 1] = 512 + 8 * s;
    }
}

/* The table of a number: (class + 7) 5 + offset. */
static void lq__cu_gauss_table(uint32_t *to, const uint64_t *mass, uint32_t number)
{
    const int class_ = (int)(number / 5) - 7;
    const uint32_t offset = number % 5;
    const uint64_t inverse = lq__cu_eighths(LQ_CLASS_ONE - class_);
    const uint64_t whole = mass[LQ__CU_MASSES];
    const int32_t zone = lq__cu_dead_zone(class_);
    uint32_t freq[32] = {0};
    uint32_t sum = 0;
    uint32_t most = 1;
    int64_t below = 0;
    for (int k = -15; k <= 16; k++) {
        const int32_t edge = lq__cu_edge(k, offset, zone);
        int64_t m = (int64_t)lq__cu_mass(mass, (uint64_t)(edge < 0 ? -edge : edge) * inverse >> 22);
        m = edge < 0 ? -m : m;
        if (k > -15) {
            const uint32_t f =
                (uint32_t)((((uint64_t)(m - below) << 15) + whole / 2) / whole); /* of k - 1 */
            freq[k + 15] = f < 16 ? 0 : f;
            sum += freq[k + 15];
            most = freq[k + 15] > freq[most] ? (uint32_t)(k + 15) : most;
        }
        below = m;
    }
    freq[0] = sum + 16 > 65536 ? 16 : 65536 - sum;
    freq[most] += 65536 - sum - freq[0];
    lq__cu_intervals of;
    memset(&of, 0, sizeof of);
    const uint32_t count = lq__cu_place_intervals(&of, freq);
    lq__cu_table_of(to, &of, count);
}

/* ---- on the host: a codec's plan ---- */
static int32_t lq__cu_log2_q16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint64_t m = (uint64_t)((u & 0x7fffffu) | 0x800000u) << 8;
    int32_t r = 23;
    for (int i = 0; i < 16; i++) {
        m = m * m >> 31;
        r = r * 2;
        if (m >> 32) {
            m >>= 1;
            r++;
        }
    }
    return r + ((int32_t)(u >> 23) - 150) * 65536;
}

static uint32_t lq__cu_class(int32_t sigma, int32_t log_step)
{
    if (sigma == LQ_SIGMA_DEAD) return 0;
    const int32_t eighths = (sigma * 4096 - log_step + 4096) >> 13;
    return (uint32_t)min(max(eighths + LQ_CLASS_ONE, 0), LQ_CLASS_MAX);
}

/* lq_codec's q12 of a mean. */
static int lq__cu_mean_q12(int32_t *q12, int32_t mean, int32_t exponent, float step)
{
    uint32_t u;
    memcpy(&u, &step, 4);
    const int32_t shift = exponent + 12 - ((int32_t)(u >> 23) - 150);
    const int64_t m = (u & 0x7fffffu) | 0x800000u;
    *q12 = 0;
    if (mean == 0 || shift < 0) return LQ_OK;
    if (shift > 46) return LQ_E_RANGE;
    const int64_t a = (int64_t)mean * ((int64_t)1 << shift);
    const int64_t value = a < 0 ? -((-a + m / 2) / m) : (a + m / 2) / m;
    if (value > (1 << 24) || value < -(1 << 24)) return LQ_E_RANGE;
    *q12 = (int32_t)value;
    return LQ_OK;
}

static uint32_t lq__cu_column_at(uint32_t i)
{
    return i / 256 * 256 + i % 8 * 32 + i % 256 / 8;
}

static float lq__cu_pow2(int32_t exponent)
{
    const uint32_t u = exponent <= -127 ? 0 : (uint32_t)(min(exponent, 127) + 127) << 23;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static const lq_basis *lq__cu_basis_of(const lq_codec_desc *d)
{
    return d->geometry.dense ? d->geometry.dense : d->profile->dense;
}

static bool lq__cu_is_value(const lq_geometry *g, uint32_t s)
{
    return (g->roles ? g->roles[s].stream : g->stream) == LQ_V;
}

static const lq_rope *lq__cu_rope_of(const lq_geometry *g, uint32_t s)
{
    return g->roles ? g->roles[s].rope : g->rope;
}

/* Whether no slice before s has its rope. */
static bool lq__cu_first_of_rope(const lq_geometry *g, uint32_t s)
{
    const lq_rope *rope = lq__cu_rope_of(g, s);
    uint32_t i = 0;
    while (rope && i < s && lq__cu_rope_of(g, i) != rope) {
        i++;
    }
    return rope && i == s;
}

/* Quads of a slice: pairs of its rope, then others. To: NULL where they are only counted. */
static uint32_t lq__cu_slice_quads(lq__cu_quad *to, const lq_geometry *g, uint32_t s)
{
    const lq_rope *rope = lq__cu_rope_of(g, s);
    const uint32_t turned = rope ? rope->rotary_dims : 0;
    const uint32_t left = g->slice_dims[s] - turned;
    uint32_t n = 0;
    for (uint32_t part = 0; part < 2; part++) { /* an odd one has a pair that is not there */
        const uint32_t pairs = part ? (left + 1) / 2 : turned / 2;
        const bool adjacent = !part && rope && rope->layout == LQ_ROPE_ADJACENT;
        for (uint32_t i = 0; i < pairs; i += 4, n++) {
            if (!to) continue;
            lq__cu_quad *q = &to[n];
            memset(q, 0, sizeof *q);
            q->slice = s;
            q->dims = g->slice_dims[s];
            q->wave = part ? -1 : (int32_t)i;
            q->a = (uint16_t)(part ? turned + i : adjacent ? 2 * i : i);
            q->b = (uint16_t)(part ? turned + pairs + i : adjacent ? 2 * i + 1 : pairs + i);
            q->stride = adjacent ? 2 : 1;
            q->count = (uint16_t)min(pairs - i, 4u);
        }
    }
    return n;
}

/* What is asked of a descriptor, and sizes; mem and what depends on sigmas is left out. */
static int lq__cu_codec_plan(lq_cuda_codec *c, const lq_codec_desc *d)
{
    const char *why;
    int status = lq_codec_check(d, &why);
    memset(c, 0, sizeof *c);
    if (status) return status;
    const lq_geometry *g = &d->geometry;
    if ((d->page && d->page != LQ_PAGE_CODED) || (d->quantizer && d->quantizer != LQ_Z) ||
        !lq__cu_basis_of(d)) {
        return LQ_E_FORMAT;
    }
    const lq_profile *p = d->profile;
    const lq_basis *b = lq__cu_basis_of(d);
    const int32_t log_step = lq__cu_log2_q16(d->step);
    uint32_t alive = 0;
    uint32_t quads = 0;
    size_t at = 0;
    for (uint32_t i = 0; i < p->dims; i++) {
        alive = lq__cu_class(p->sigma[p->gains + i], log_step) >= 15 ? i + 1 : alive;
    }
    if (alive > b->rank) return LQ_E_FORMAT;
    c->gains = p->gains;
    c->dims = p->dims;
    c->step = d->step;
    c->profile_index = d->profile_index;
    c->wide = max((alive + 63) / 64 * 64, 64u);
    c->lead = (p->gains + 7) / 8 * 8;
    for (uint32_t s = 0; s < g->slice_count; s++) {
        quads += lq__cu_slice_quads(NULL, g, s);
        c->waves += lq__cu_first_of_rope(g, s) ? lq__cu_rope_of(g, s)->rotary_dims / 2 : 0;
    }
    c->tiles = (quads + 15) / 16;
    c->coded = at;
    at += (c->lead + c->wide) * sizeof(lq__cu_coded);
    c->raws = at;
    at += (c->lead + c->wide) * sizeof(lq__cu_raw_row);
    c->columns = at;
    at += (c->wide + 255) / 256 * 256 * sizeof(lq__cu_column);
    c->means = at;
    at += (c->lead * 4 + 15) / 16 * 16;
    c->turns = at;
    at += c->waves * sizeof(lq__cu_turn_of);
    c->quads = (at + 127) / 128 * 128;
    at = c->quads + c->tiles * 16 * sizeof(lq__cu_quad);
    c->planes = at;
    at += (size_t)2 * c->tiles * 128 * c->wide;
    c->bytes = at; /* where the tables are */
    return LQ_OK;
}

#define LQ__CU_TABLES_MOST 128u /* of 15 .. 53, of those less 8, of 46 .. 53, of gains: below 120 */

LQ_CUDA_API size_t lq_cuda_codec_bytes(const lq_codec_desc *desc)
{
    lq_cuda_codec c;
    if (!desc || lq__cu_codec_plan(&c, desc) != LQ_OK) return 0;
    return c.bytes + LQ__CU_TABLES_MOST * LQ__CU_TABLE;
}

LQ_CUDA_API size_t lq_cuda_codec_staging_bytes(const lq_codec_desc *desc)
{
    const size_t bytes = lq_cuda_codec_bytes(desc);
    return bytes ? bytes + (LQ__CU_MASSES + 1) * sizeof(uint64_t) : 0;
}

/* Rows: classes, raw bits, tables. */
static int lq__cu_codec_rows(lq_cuda_codec *c, uint8_t *image, const uint64_t *mass,
                             const lq_codec_desc *d)
{
    const lq_profile *p = d->profile;
    const int32_t log_step = lq__cu_log2_q16(d->step);
    lq__cu_coded *coded = (lq__cu_coded *)(void *)(image + c->coded);
    lq__cu_raw_row *raws = (lq__cu_raw_row *)(void *)(image + c->raws);
    lq__cu_column *columns = (lq__cu_column *)(void *)(image + c->columns);
    int32_t *means = (int32_t *)(void *)(image + c->means);
    uint16_t number[LQ__CU_TABLES_MOST];
    uint32_t have = 0;
    lq__cu_intervals none;
    memset(number, 0, sizeof number);
    memset(&none, 0, sizeof none);
    none.slots[0] = 65536;
    none.order[0] = 16; /* value 0 */
    lq__cu_table_of((uint32_t *)(void *)(image + c->bytes), &none, 1);
    number[0] = 0xffff;
    c->tables = 1;
    for (uint32_t i = 0; i < c->lead + c->wide; i++) { /* in `raw` first the class */
        const uint32_t k = i - c->lead;
        uint32_t class_ = 0;
        if (i < c->gains) {
            class_ = max(lq__cu_class(p->sigma[i], 0), (uint32_t)LQ_CLASS_ONE);
            if (p->mean[i] > 127 || p->mean[i] < -127) return LQ_E_RANGE;
            means[i] = p->mean[i];
        } else if (i >= c->lead && k < p->dims) {
            class_ = lq__cu_class(p->sigma[p->gains + k], log_step);
            class_ = class_ < 15 ? 0 : class_;
            const int status = lq__cu_mean_q12(&columns[lq__cu_column_at(k)].mean,
                                               p->mean[p->gains + k], p->mean_exponent, d->step);
            if (status) return status;
            if (class_) lq__cu_centroids(columns[lq__cu_column_at(k)].shift, mass, (int)class_);
        }
        coded[i].raw = (uint16_t)class_;
        coded[i].before = class_ > 53 ? (class_ - 46) / 8 : 0; /* and here raw bits */
        have += coded[i].before;
    }
    for (uint32_t k = c->wide; k < p->dims; k++) { /* what is not decoded is checked all the same */
        int32_t mean;
        const int status = lq__cu_mean_q12(&mean, p->mean[p->gains + k], p->mean_exponent, d->step);
        if (status) return status;
    }
    while (have < 14) { /* the highest class that can spare a bit, of equal ones the first */
        uint32_t best = c->lead + c->wide;
        for (uint32_t i = c->lead; i < c->lead + c->wide; i++) {
            const uint32_t class_ = coded[i].raw;
            const uint32_t own = class_ > 53 ? (class_ - 46) / 8 : 0;
            if (class_ >= 25 + 8 * own && coded[i].before == own &&
                (best == c->lead + c->wide || class_ > coded[best].raw)) {
                best = i;
            }
        }
        if (best == c->lead + c->wide) break;
        coded[best].before++;
        have++;
    }
    for (uint32_t i = 0; i < c->lead + c->wide; i++) {
        const uint32_t class_ = coded[i].raw;
        const uint32_t raw = coded[i].before;
        coded[i].before = c->raw_bits;
        coded[i].raw = (uint16_t)raw;
        coded[i].table = 0;
        if (class_ == 0) continue;
        const uint32_t offset = raw == 1      ? LQ__CU_AT_1_4
                                : raw         ? LQ__CU_AT_1_2
                                : i < c->lead ? LQ__CU_AT_PLAIN
                                              : LQ__CU_AT_0;
        const uint32_t wanted = (class_ - 8 * raw + 7) * 5 + offset;
        uint32_t t = 0;
        while (t < c->tables && number[t] != wanted) {
            t++;
        }
        if (t == LQ__CU_TABLES_MOST) return LQ_E_INTERNAL;
        if (t == c->tables) {
            number[t] = (uint16_t)wanted;
            lq__cu_gauss_table((uint32_t *)(void *)(image + c->bytes + t * LQ__CU_TABLE), mass,
                               wanted);
            c->tables++;
        }
        coded[i].table = (uint16_t)t;
        if (raw) {
            raws[c->raw_rows].before = c->raw_bits;
            raws[c->raw_rows].column = (uint16_t)(i < c->lead ? c->wide + i : i - c->lead);
            raws[c->raw_rows++].raw = (uint16_t)raw;
            c->raw_bits += raw;
        }
    }
    return LQ_OK;
}

/* Row r of quad `n`, 0 .. 7 as its arrays, among the rows of the matrix: pairs lie eight rows
   apart, in the two halves of 16 rows that a warp has. */
static uint32_t lq__cu_matrix_row(size_t n, uint32_t r)
{
    return (uint32_t)(n / 2) * 16 + r / 4 * 8 + (uint32_t)(n % 2) * 4 + r % 4;
}

/* Operands of the product lie as its stages want them: of 128 rows and 64 coefficients 8 KB of high
   bytes, then 8 KB of low ones, a row's four chunks of 16 swizzled by bits 1 and 2 of its number.
   Where the high byte of coefficient i of row r is; tile by tile, coefficients first. */
#define LQ__CU_DEEP 64u
#define LQ__CU_PLANE (128 * LQ__CU_DEEP)

LQ__CU_BOTH size_t lq__cu_operand_at(uint32_t wide, uint32_t r, uint32_t i)
{
    const size_t tile = (size_t)(r / 128) * (wide / LQ__CU_DEEP) + i / LQ__CU_DEEP;
    return tile * (2 * LQ__CU_PLANE) + r % 128 * LQ__CU_DEEP + ((i / 16 % 4) ^ (r >> 1 & 3u)) * 16 +
           i % 16;
}

/* Numbers of a quad's dims, and their rows of the basis. */
static void lq__cu_codec_quad(uint8_t *high, lq__cu_quad *q, size_t n, const lq_cuda_codec *c,
                              const lq_codec_desc *d, size_t first)
{
    const lq_geometry *g = &d->geometry;
    const lq_basis *b = lq__cu_basis_of(d);
    const uint32_t s = q->slice;
    const bool value = lq__cu_is_value(g, s);
    q->gain = value ? (int32_t)(g->roles ? g->roles[s].gain : s) : -1;
    q->slice_step = value ? b->ratio : lq__cu_pow2(b->slice_exponent[s]);
    for (uint32_t r = 0; r < 8; r++) {
        const uint32_t dim = (r < 4 ? q->a : q->b) + r % 4 * q->stride;
        const size_t at = first + dim;
        q->bias[r] = -0.0f; /* nothing, of any sign */
        if (r % 4 >= q->count || dim >= g->slice_dims[s]) continue;
        q->scale[r] = lq__cu_pow2(b->inverse_exponent[at]);
        q->center[r] = (float)b->mean[at] * lq__cu_pow2(b->mean_exponent);
        if (c->gains) {
            q->bias[r] =
                (float)b->center[at] * lq__cu_pow2(b->center_exponent + b->slice_exponent[s]);
        }
        for (uint32_t i = 0; i < min(c->wide, b->rank); i++) {
            const int32_t m = b->inverse[at * b->inverse_stride + i];
            const size_t to = lq__cu_operand_at(c->wide, lq__cu_matrix_row(n, r), i);
            high[to] = (uint8_t)((uint32_t)m >> 8);
            high[to + LQ__CU_PLANE] = (uint8_t)m;
        }
    }
}

static uint64_t lq__cu_phase_step(float freq) /* turns a position, times 2^64 */
{
    uint32_t u;
    memcpy(&u, &freq, 4);
    const uint32_t e = u >> 23;
    const uint64_t m = e ? (u & 0x7fffffu) | 0x800000u : u & 0x7fffffu;
    const uint32_t shift = 150 - (e ? e : 1);
    uint64_t low = m * 0x9391054au;
    const uint64_t high = m * 0x28be60dbu + (low >> 32);
    low &= 0xffffffffu;
    if (shift <= 32) return high << (32 - shift) | low >> shift;
    return shift - 32 > 63 ? 0 : high >> (shift - 32);
}

/* Quads and planes of all slices. */
static size_t lq__cu_codec_basis(lq_cuda_codec *c, uint8_t *image, const lq_codec_desc *d)
{
    const lq_geometry *g = &d->geometry;
    lq__cu_quad *quads = (lq__cu_quad *)(void *)(image + c->quads);
    size_t n = 0;
    size_t first = 0;
    for (uint32_t s = 0; s < g->slice_count; s++) {
        const uint32_t count = lq__cu_slice_quads(quads + n, g, s);
        for (uint32_t i = 0; i < count; i++, n++) {
            lq__cu_codec_quad(image + c->planes, &quads[n], n, c, d, first);
        }
        first += g->slice_dims[s];
    }
    return n;
}

/* Pairs of all ropes, one rope behind the other; `count` quads are told where theirs are. */
static void lq__cu_codec_turns(lq_cuda_codec *c, uint8_t *image, const lq_codec_desc *d,
                               size_t count)
{
    const lq_geometry *g = &d->geometry;
    lq__cu_quad *quads = (lq__cu_quad *)(void *)(image + c->quads);
    lq__cu_turn_of *turns = (lq__cu_turn_of *)(void *)(image + c->turns);
    uint32_t at = 0;
    for (uint32_t s = 0; s < g->slice_count; s++) {
        const lq_rope *rope = lq__cu_rope_of(g, s);
        if (!lq__cu_first_of_rope(g, s)) continue;
        for (size_t n = 0; n < count; n++) {
            const bool turns_so = lq__cu_rope_of(g, quads[n].slice) == rope;
            quads[n].wave += quads[n].wave >= 0 && turns_so ? (int32_t)at : 0;
        }
        for (uint32_t i = 0; i < rope->rotary_dims / 2; i++, at++) {
            turns[at].step = lq__cu_phase_step(rope->freqs[i]);
            turns[at].magnitude = (rope->magnitude > 0 ? rope->magnitude : 1.0f) / 1073741824.0f;
        }
    }
}

LQ_CUDA_API int lq_cuda_codec_init(lq_cuda_codec *codec, void *mem, size_t mem_bytes, void *staging,
                                   size_t staging_bytes, const lq_codec_desc *desc,
                                   cudaStream_t stream)
{
    lq_cuda_codec c;
    if (!codec || !mem || !staging || !desc || (uintptr_t)mem % 128 || (uintptr_t)staging % 16) {
        return LQ_E_ARG;
    }
    int status = lq__cu_codec_plan(&c, desc);
    if (status) return status;
    const size_t bytes = c.bytes + LQ__CU_TABLES_MOST * LQ__CU_TABLE;
    uint8_t *image = (uint8_t *)staging;
    uint64_t *mass = (uint64_t *)(void *)(image + bytes);
    if (mem_bytes < bytes || staging_bytes < bytes + (LQ__CU_MASSES + 1) * sizeof(uint64_t)) {
        return LQ_E_SPACE;
    }
    memset(image, 0, bytes);
    lq__cu_masses(mass);
    status = lq__cu_codec_rows(&c, image, mass, desc);
    if (status) return status;
    lq__cu_codec_turns(&c, image, desc, lq__cu_codec_basis(&c, image, desc));
    c.mem = (uint8_t *)mem;
    *codec = c;
    return cudaMemcpyAsync(mem, image, c.bytes + c.tables * LQ__CU_TABLE, cudaMemcpyHostToDevice,
                           stream) == cudaSuccess
               ? LQ_OK
               : LQ_E_INTERNAL;
}

/* ---- a call ---- */
/* What kernels know of it. Tokens of `rows` are those of whole pages, and of whole tiles. */
typedef struct lq__cu_decoding {
    lq_cuda_codec c;
    lq_cuda_pages from;
    uint32_t pages;
    uint32_t rows;
    int16_t *values;  /* (rows, wide + lead) */
    uint8_t *columns; /* (rows, wide) int16 */
    float *units;     /* (rows) */
    float *gains;     /* (rows, gains) */
    float2 *waves;    /* (rows, waves) cosine, sine */
    lq_cuda_vectors to;
    uint32_t is_bf16;
    uint32_t stages;
} lq__cu_decoding;

static size_t lq__cu_decode_place(lq__cu_decoding *d, uint8_t *at)
{
    const lq_cuda_codec *c = &d->c;
    uint8_t *const start = at;
    d->rows = (d->from.tokens + 127) / 128 * 128;
    d->pages = (d->from.tokens + 63) / 64;
    d->values = (int16_t *)(void *)at;
    at += (size_t)d->rows * (c->wide + c->lead) * 2;
    d->columns = at;
    at += (size_t)d->rows * c->wide * 2;
    d->units = (float *)(void *)at;
    at += (size_t)d->rows * 4;
    d->waves = (float2 *)(void *)at;
    at += (size_t)d->rows * c->waves * 8;
    d->gains = (float *)(void *)at;
    at += (size_t)d->rows * c->gains * 4;
    return (size_t)(at - start);
}

/* ---- rANS ---- */
/* A warp's page: lane l has the state of tokens l and l + 32. Its words come through a ring in
   shared memory: byte b of the page's memory, from a multiple of 16 on, at b mod LQ__CU_WORDS. */
typedef struct lq__cu_stream {
    const uint8_t *p;
    uint32_t n;
    uint32_t x;
    const uint8_t *from; /* the multiple of 16 at or before p */
    uint32_t ring;
    uint32_t filled; /* bytes from `from` on that were asked for */
    uint32_t at;     /* the next word's byte, from there on */
    uint32_t end;    /* of the memory that may be read */
    uint32_t below;  /* mask of the lanes before this one */
} lq__cu_stream;

/* The int16 value of eight, e of four words. */
LQ__CU_DEVICE int32_t lq__cu_of_eight(const uint4 *w, int e)
{
    const uint32_t x = e / 2 == 0 ? w->x : e / 2 == 1 ? w->y : e / 2 == 2 ? w->z : w->w;
    return e % 2 ? (int32_t)x >> 16 : (int16_t)(x & 0xffffu);
}

LQ__CU_DEVICE uint32_t lq__cu_u16(const uint8_t *p, uint32_t at, uint32_t n)
{
    return at + 2 <= n ? p[at] | (uint32_t)p[at + 1] << 8 : 0;
}

/* First states; whether they are some. */
static __device__ bool lq__cu_stream_begin(lq__cu_stream *s, uint32_t tokens)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t lanes = min(tokens, 32u);
    const uint32_t octaves = (lanes + 1) / 2;
    uint32_t sum;
    if (s->n < octaves) return false;
    const uint32_t octave = lane < lanes ? s->p[lane / 2] >> 4 * (lane & 1u) & 15u : 0;
    sum = octave;
#pragma unroll
    for (int h = 1; h < 32; h *= 2) {
        const uint32_t y = __shfl_up_sync(~0u, sum, h);
        sum += lane >= (uint32_t)h ? y : 0;
    }
    const uint32_t bits = __shfl_sync(~0u, sum, 31);
    const uint32_t size = octaves + (bits + 7) / 8;
    if (s->n < size + 2 * lanes || (lanes & 1u && s->p[octaves - 1] >> 4) ||
        (bits & 7u && s->p[size - 1] >> (bits & 7u))) {
        return false;
    }
    const uint32_t from =
        octaves + (sum - octave) / 8; /* what is read lies before lane 0's lo's end */
    const uint32_t three = s->p[from] | (uint32_t)s->p[min(from + 1, s->n - 1)] << 8 |
                           (uint32_t)s->p[min(from + 2, s->n - 1)] << 16;
    const uint32_t high = 1u << octave | (three >> ((sum - octave) & 7u) & ((1u << octave) - 1));
    s->x = lane < lanes ? high << 16 | lq__cu_u16(s->p, size + 2 * lane, s->n) : 1u << 16;
    s->at = (uint32_t)(s->p - s->from) + size + 2 * lanes;
    s->filled = s->at / 16 * 16;
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(s->below));
    return true;
}

/* Asks for the words that four rows may take behind those that are asked for, 512 bytes, where
   there is room for them, once those have come. */
LQ__CU_DEVICE void lq__cu_words_more(lq__cu_stream *s)
{
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
    if (s->filled - s->at / 16 * 16 <= LQ__CU_WORDS - 512) {
        const uint32_t at = s->filled + 16 * (threadIdx.x % 32);
        const uint32_t there = at < s->end ? min(s->end - at, 16u) : 0;
        const uint32_t to = s->ring + at % LQ__CU_WORDS;
        const uint8_t *from = s->from + (there ? at : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                     "r"(there)
                     : "memory");
        if (at % LQ__CU_WORDS == 0) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + LQ__CU_WORDS),
                         "l"(from), "r"(there)
                         : "memory");
        }
        s->filled += 512;
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* A symbol of each lane that is there: its value is in the high half. table: shared memory. */
template <bool FULL>
LQ__CU_DEVICE uint32_t lq__cu_symbol(lq__cu_stream *s, uint32_t table, bool there)
{
    const uint32_t slot = s->x << 16;
    const uint2 bucket = lq__cu_lds2(table + (s->x >> 7 & 0x1f8u));
    uint32_t at = table + bucket.y;
    at += slot > bucket.x << 16 ? 8 : 0;
    at += slot > (bucket.x | 0xffffu) ? 8 : 0;
    const uint2 of = lq__cu_lds2(at);
    const uint32_t y =
        of.x * (s->x >> 16) + lq__cu_permute(s->x, 0, 0x4410u) - lq__cu_permute(of.y, 0, 0x4410u);
    const bool need = (FULL || there) && y < 65536u;
    const uint32_t needs = __ballot_sync(~0u, need);
    const uint32_t k = s->ring + (s->at + 2 * (uint32_t)__popc(needs & s->below)) % LQ__CU_WORDS;
    uint32_t low;
    uint32_t high;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(low) : "r"(k) : "memory");
    asm volatile("ld.shared.u8 %0, [%1 + 1];" : "=r"(high) : "r"(k) : "memory");
    const uint32_t z = need ? lq__cu_permute(low | high << 8, y, 0x5410u) : y;
    s->x = FULL || there ? z : s->x;
    s->at += 2 * (uint32_t)__popc(needs);
    return FULL || there ? of.y : 0;
}

/* The raw section: the bits of the last states in shared memory, zeros behind them, then bytes. */
typedef struct lq__cu_section {
    const uint8_t *p; /* bytes at .. n - 1 */
    uint32_t at;
    uint32_t n;
    const uint32_t *first;
    uint32_t firsts; /* bits there */
    uint32_t total;
} lq__cu_section;

/* 32 bits from bit `at` on, zeros behind the last one. */
LQ__CU_DEVICE uint32_t lq__cu_section_bits(const lq__cu_section *s, uint32_t at)
{
    uint32_t x = 0;
    uint32_t have = 0;
    if (at < s->firsts) {
        x = __funnelshift_r(s->first[at / 32], s->first[at / 32 + 1], at);
        have = s->firsts - at;
    }
    if (have < 32) {
        const uint32_t bit = at < s->firsts ? 0 : at - s->firsts;
        const uint32_t byte = s->at + bit / 8;
        uint64_t y = 0;
        for (uint32_t i = 0; i < 5; i++) {
            y |= byte + i < s->n ? (uint64_t)s->p[byte + i] << 8 * i : 0;
        }
        x |= (uint32_t)(y >> (bit & 7u)) << have;
    }
    return x;
}

/* The last states to `first`, zeros before; their bits. */
static __device__ uint32_t lq__cu_payload(uint32_t *first, uint32_t state, uint32_t tokens)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t octave = (uint32_t)lq__cu_log2(max(state >> 16, 1u));
    const uint64_t high = (state >> 16) - (1u << octave);
    const uint64_t bits = octave | high << 4 | (uint64_t)(state & 0xffffu) << (4 + octave);
    uint32_t sum = lane < tokens ? 20 + octave : 0;
    const uint32_t mine = sum;
#pragma unroll
    for (int h = 1; h < 32; h *= 2) {
        const uint32_t y = __shfl_up_sync(~0u, sum, h);
        sum += lane >= (uint32_t)h ? y : 0;
    }
    if (mine) {
        const uint32_t at = sum - mine;
        atomicOr(&first[at / 32], (uint32_t)(bits << at % 32));
        atomicOr(&first[at / 32 + 1], (uint32_t)(bits << at % 32 >> 32));
        if (at % 32) atomicOr(&first[at / 32 + 2], (uint32_t)(bits >> (64 - at % 32)));
    }
    __syncwarp();
    return __shfl_sync(~0u, sum, 31);
}

/* Rows with raw bits get them, two at a time. values: this page's. Escapes get theirs later. */
static __device__ void lq__cu_merge(int16_t *values, const lq__cu_decoding *d,
                                    const lq__cu_section *s, uint32_t tokens)
{
    const lq__cu_raw_row *raws = (const lq__cu_raw_row *)(const void *)(d->c.mem + d->c.raws);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t k = 0; k < d->c.raw_rows; k += 2) {
        int16_t *to[4];
        int32_t v[4];
        uint32_t bits[4];
        uint32_t raw[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) { /* all on its way before the first is needed */
            const lq__cu_raw_row row = raws[min(k + i / 2, d->c.raw_rows - 1)];
            const uint32_t t = min(lane + 32 * (i % 2), tokens - 1);
            raw[i] = row.raw;
            to[i] = values + (size_t)t * (d->c.wide + d->c.lead) + row.column;
            v[i] = *to[i];
            bits[i] = lq__cu_section_bits(s, row.before * tokens + t * row.raw);
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const bool there = k + i / 2 < d->c.raw_rows && lane + 32 * (i % 2) < tokens;
            if (there && v[i] != LQ__CU_ESCAPE) {
                *to[i] = (int16_t)((uint32_t)v[i] << raw[i] | (bits[i] & ((1u << raw[i]) - 1)));
            }
        }
    }
}

/* A value that escaped, of a token: its code at bit *at of the section. */
static __device__ bool lq__cu_escape(int32_t *value, uint32_t *at, const lq__cu_section *s,
                                     const lq__cu_coded *row, uint32_t token, uint32_t tokens)
{
    uint32_t code = lq__cu_section_bits(s, *at);
    const uint32_t zeros = (uint32_t)__ffs((int)(code | 32768u)) - 1;
    const uint32_t raw = lq__cu_section_bits(s, row->before * tokens + token * row->raw);
    if (zeros == 15 || s->total - *at < 2 * zeros + 3) return false;
    code = (code >> (zeros + 1) & ((1u << (zeros + 2)) - 1)) + (1u << (zeros + 2)) - 4;
    *at += 2 * zeros + 3;
    const int32_t h = (int32_t)(code >> 1) ^ -(int32_t)(code & 1u);
    *value = h * (1 << row->raw) + (int32_t)(raw & ((1u << row->raw) - 1));
    return code <= 65535 && *value >= -32768 && *value <= 32767;
}

/* All escapes of a page, in eights of rows that have some; whether the section ends behind them. */
static __device__ bool lq__cu_escapes(int16_t *values, const lq__cu_decoding *d,
                                      const lq__cu_section *s, uint32_t tokens,
                                      const uint32_t *eights, uint32_t count)
{
    const lq__cu_coded *coded = (const lq__cu_coded *)(const void *)(d->c.mem + d->c.coded);
    const uint32_t lane = threadIdx.x % 32;
    const size_t stride = d->c.wide + d->c.lead;
    uint32_t at = d->c.raw_bits * tokens;
    bool fine = at <= s->total;
    for (uint32_t i = 0; i < count && fine; i++) {
        if (!(eights[i / 32] >> i % 32 & 1u)) continue;
        int16_t *v = values + (8 * i < d->c.lead ? d->c.wide + 8 * i : 8 * i - d->c.lead);
        uint4 w[2];
        for (int h = 0; h < 2; h++) {
            w[h] = *(const uint4 *)(const void *)(v + (lane + 32 * h) * stride);
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            uint64_t left =
                __ballot_sync(~0u, lane < tokens && lq__cu_of_eight(&w[0], k) == LQ__CU_ESCAPE);
            left |= (uint64_t)__ballot_sync(~0u, lane + 32 < tokens &&
                                                     lq__cu_of_eight(&w[1], k) == LQ__CU_ESCAPE)
                    << 32;
            for (; left && fine; left &= left - 1) {
                const lq__cu_coded of = coded[8 * i + k];
                const uint32_t token = (uint32_t)__ffsll((long long)left) - 1;
                int32_t value = 0;
                fine = lq__cu_escape(&value, &at, s, &of, token, tokens);
                if (token % 32 == lane) v[token * stride + k] = (int16_t)value;
            }
        }
    }
    if (!fine || (s->n > s->at && s->total - at >= 8)) return false;
    for (at += 32 * lane; at < s->total; at += 1024) {
        const uint32_t bits = lq__cu_section_bits(s, at);
        fine = fine && (s->total - at < 32 ? bits << (32 - (s->total - at)) : bits) == 0;
    }
    return __all_sync(~0u, fine);
}

/* The rows of a page, eight at a time; which eights have escapes. */
template <bool FULL>
static __device__ void lq__cu_page_rows(int16_t *values, lq__cu_stream *s, uint32_t tables,
                                        const lq__cu_decoding *d, uint32_t tokens, uint32_t *eights)
{
    const lq__cu_coded *coded = (const lq__cu_coded *)(const void *)(d->c.mem + d->c.coded);
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t stride = d->c.wide + d->c.lead;
    const uint32_t count = stride / 8;
    const bool first = lane < tokens;
    const bool second = lane + 32 < tokens;
    uint32_t next = __ldg(&coded[lane % 8].table);
    for (int i = 0; i < 3; i++) { /* four rows take at most 512 bytes, and begin anywhere */
        lq__cu_words_more(s);
    }
#pragma unroll 1
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t mine = tables + next * LQ__CU_TABLE;
        const uint32_t column = 8 * i < d->c.lead ? d->c.wide + 8 * i : 8 * i - d->c.lead;
        uint32_t out[2][4];
        uint32_t least = 0xffffffffu;
        next = __ldg(&coded[min(8 * i + 8 + lane % 8, stride - 1)].table);
#pragma unroll 1
        for (int k = 0; k < 8; k += 2) { /* few instructions: a warp's code must stay near it */
            uint32_t v[2][2];
            if (k % 4 == 0) lq__cu_words_more(s);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const uint32_t table = __shfl_sync(~0u, mine, k + r);
                v[0][r] = lq__cu_symbol<FULL>(s, table, first);
                v[1][r] = lq__cu_symbol<FULL>(s, table, second);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                out[h][0] = out[h][1];
                out[h][1] = out[h][2];
                out[h][2] = out[h][3];
                out[h][3] = lq__cu_permute(v[h][0], v[h][1], 0x7632u);
                least = min(least, min(v[h][0] ^ 0x80000000u, v[h][1] ^ 0x80000000u));
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(
                             values + (size_t)(lane + 32 * h) * stride + column),
                         "r"(out[h][0]), "r"(out[h][1]), "r"(out[h][2]), "r"(out[h][3])
                         : "memory"); /* which the compiler would cut */
        }
        if (__any_sync(~0u, least < 65536) && lane == 0) eights[i / 32] |= 1u << i % 32;
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
}

static __global__ void __launch_bounds__(LQ__CU_RANS_WARPS * 32, 9)
    lq__cu_rans_kernel(const __grid_constant__ lq__cu_decoding d)
{
    extern __shared__ __align__(16) uint32_t tables[];
    __shared__ uint32_t firsts[LQ__CU_RANS_WARPS][40];
    __shared__ uint32_t eights[LQ__CU_RANS_WARPS][68];
    __shared__ __align__(16) uint8_t rings[LQ__CU_RANS_WARPS][LQ__CU_WORDS + 16];
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t page = blockIdx.x * LQ__CU_RANS_WARPS + warp;
    const uint4 *from = (const uint4 *)(const void *)(d.c.mem + d.c.bytes);
    for (uint32_t i = threadIdx.x; i < d.c.tables * (LQ__CU_TABLE / 16); i += blockDim.x) {
        ((uint4 *)(void *)tables)[i] = from[i];
    }
    for (uint32_t i = lane; i < 68; i += 32) {
        eights[warp][i] = 0;
        if (i < 40) firsts[warp][i] = 0;
    }
    __syncthreads();
    if (page >= d.pages) return;
    const uint32_t tokens = min(d.from.tokens - page * 64, 64u);
    const uint64_t offset = d.from.offsets[page];
    const uint32_t size = d.from.sizes[page];
    int16_t *values = d.values + (size_t)page * 64 * (d.c.wide + d.c.lead);
    lq__cu_stream s;
    bool fine = size >= 4 && offset <= d.from.bytes_count && size <= d.from.bytes_count - offset;
    s.p = d.from.bytes + (fine ? offset : 0);
    s.n = fine ? size - 4 : 0;
    s.from = s.p - (uintptr_t)s.p % 16;
    s.end =
        (uint32_t)min((uint64_t)(d.from.bytes + d.from.bytes_count - s.from), (uint64_t)size + 16);
    s.ring = lq__cu_shared(rings[warp]);
    fine = fine && s.p[s.n] == LQ_PAGE_CODED && s.p[s.n + 1] == LQ_Z && s.p[s.n + 2] == tokens &&
           s.p[s.n + 3] == d.c.profile_index;
    fine = fine && lq__cu_stream_begin(&s, tokens);
    if (fine) {
        lq__cu_section r;
        if (tokens == 64) {
            lq__cu_page_rows<true>(values, &s, lq__cu_shared(tables), &d, tokens, eights[warp]);
        } else {
            lq__cu_page_rows<false>(values, &s, lq__cu_shared(tables), &d, tokens, eights[warp]);
        }
        r.p = s.p;
        r.n = s.n;
        r.at = s.at - (uint32_t)(s.p - s.from);
        fine = r.at <= r.n;
        r.at = min(r.at, r.n);
        r.first = firsts[warp];
        r.firsts = lq__cu_payload(firsts[warp], s.x, tokens);
        r.total = r.firsts + 8 * (r.n - r.at);
        fine = fine && d.c.raw_bits * tokens <= r.total;
        if (fine) {
            lq__cu_merge(values, &d, &r, tokens);
            fine = lq__cu_escapes(values, &d, &r, tokens, eights[warp], (d.c.wide + d.c.lead) / 8);
        }
    } else {
        for (uint32_t i = lane; i < 8 * (d.c.wide + d.c.lead); i += 32) {
            ((uint4 *)(void *)values)[i] = make_uint4(0, 0, 0, 0);
        }
    }
    if (!fine && lane == 0) atomicOr(d.from.flags, LQ_CUDA_BAD_DATA);
}

/* ---- columns of the product ---- */
/* q12 of a value; two: the four shifts. */
LQ__CU_DEVICE int32_t lq__cu_q12(int32_t k, uint2 two, int32_t mean)
{
    const uint32_t n = min((uint32_t)abs(k), 4u); /* selects a shift and its sign, if not 0 */
    const int32_t shift = (int32_t)lq__cu_permute(two.x, two.y, 0x76eeu + 0x2222u * n);
    return k * 4096 + mean - min(max(k, -1), 1) * shift;
}

/* cosine and sine of a phase, times 2^30. */
static __device__ void lq__cu_sincos(int32_t *sine, int32_t *cosine, uint32_t phase)
{
    const uint32_t quadrant = (phase + 0x20000000u) >> 30;
    const int32_t r = (int32_t)(phase - (quadrant << 30));
    const int32_t a = (int32_t)(((int64_t)r * 1686629713 + ((int64_t)1 << 29)) >> 30);
    const int32_t z = (int32_t)(((int64_t)a * a + ((int64_t)1 << 29)) >> 30);
    int32_t s = 2959;
    int32_t c = -296;
    s = (int32_t)((int64_t)s * z >> 30) - 213044;
    s = (int32_t)((int64_t)s * z >> 30) + 8947849;
    s = (int32_t)((int64_t)s * z >> 30) - 178956971;
    s = a + (int32_t)((int64_t)(int32_t)((int64_t)s * z >> 30) * a >> 30);
    c = (int32_t)((int64_t)c * z >> 30) + 26631;
    c = (int32_t)((int64_t)c * z >> 30) - 1491308;
    c = (int32_t)((int64_t)c * z >> 30) + 44739243;
    c = (int32_t)((int64_t)c * z >> 30) - 536870912;
    c = (1 << 30) + (int32_t)((int64_t)c * z >> 30);
    *sine = (int32_t)(quadrant & 1u ? c : s);
    *cosine = (int32_t)(quadrant & 1u ? s : c);
    if (quadrant & 2u) *sine = -*sine;
    if ((quadrant + 1) & 2u) *cosine = -*cosine;
}

/* Gains and sines of a token; by a warp. */
static __device__ void lq__cu_token_numbers(const lq__cu_decoding *d, uint32_t t)
{
    const uint32_t lane = threadIdx.x % 32;
    const int32_t *means = (const int32_t *)(const void *)(d->c.mem + d->c.means);
    const lq__cu_turn_of *turns = (const lq__cu_turn_of *)(const void *)(d->c.mem + d->c.turns);
    const bool there = t < d->from.tokens;
    const int16_t *values = d->values + (size_t)t * (d->c.wide + d->c.lead) + d->c.wide;
    for (uint32_t i = lane; i < d->c.gains; i += 32) {
        int32_t g = there ? values[i] + means[i] : 0;
        if (g > 127 || g < -127) {
            atomicOr(d->from.flags, LQ_CUDA_BAD_DATA);
            g = 0;
        }
        const float quarter =
            g & 2 ? (g & 1 ? 1.681792831f : 1.414213562f) : (g & 1 ? 1.189207115f : 1.0f);
        d->gains[(size_t)t * d->c.gains + i] =
            quarter * __uint_as_float((uint32_t)((g >> 2) + 127) << 23);
    }
    int64_t position = d->from.first + (int64_t)t * d->from.stride;
    if (d->c.waves && d->from.positions && there) position = d->from.positions[t];
    for (uint32_t i = lane; i < d->c.waves; i += 32) {
        int32_t sine;
        int32_t cosine;
        lq__cu_sincos(&sine, &cosine, (uint32_t)((uint64_t)position * turns[i].step >> 32));
        d->waves[(size_t)t * d->c.waves + i] =
            make_float2(__fmul_rn((float)cosine, turns[i].magnitude),
                        __fmul_rn((float)sine, turns[i].magnitude));
    }
}

#define LQ__CU_COLUMNS 2 /* tokens of a warp */

/* A warp's tokens: first what their columns' squares sum to, then the columns. */
static __global__ void __launch_bounds__(128, 9)
    lq__cu_columns_kernel(const __grid_constant__ lq__cu_decoding d)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t first = (blockIdx.x * 4 + threadIdx.x / 32) * LQ__CU_COLUMNS;
    const uint32_t stride = d.c.wide + d.c.lead;
    const uint4 *columns = (const uint4 *)(const void *)(d.c.mem + d.c.columns);
    uint64_t energy[LQ__CU_COLUMNS] = {};
    uint32_t shift[LQ__CU_COLUMNS] = {};
#pragma unroll 1
    for (uint32_t column = 8 * lane; column < d.c.wide; column += 256) {
        uint4 w[LQ__CU_COLUMNS];
#pragma unroll
        for (int t = 0; t < LQ__CU_COLUMNS; t++) {
            const size_t at = (size_t)min(first + t, d.from.tokens - 1) * stride + column;
            w[t] = *(const uint4 *)(const void *)(d.values + at);
        }
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const uint4 of = __ldg(&columns[column / 256 * 256 + 32 * e + lane]);
#pragma unroll
            for (int t = 0; t < LQ__CU_COLUMNS; t++) {
                const int32_t v =
                    lq__cu_q12(lq__cu_of_eight(&w[t], e), make_uint2(of.y, of.z), (int32_t)of.x) >>
                    4;
                energy[t] += (uint64_t)((int64_t)v * v);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < LQ__CU_COLUMNS; t++) {
        uint64_t limit = 3633789;
#pragma unroll
        for (int h = 1; h < 32; h *= 2) {
            energy[t] += __shfl_xor_sync(~0u, energy[t], h);
        }
        while (energy[t] > limit) {
            limit *= 4;
            shift[t]++;
        }
        if (lane == 0) {
            d.units[first + t] = __fmul_rn(d.c.step, __uint_as_float((127 - 27 + shift[t]) << 23));
        }
    }
#pragma unroll 1
    for (uint32_t column = 8 * lane; column < d.c.wide; column += 256) {
        uint4 w[LQ__CU_COLUMNS];
        uint32_t high[LQ__CU_COLUMNS][2];
        uint32_t low[LQ__CU_COLUMNS][2];
        int32_t x[LQ__CU_COLUMNS][2];
#pragma unroll
        for (int t = 0; t < LQ__CU_COLUMNS; t++) {
            const size_t at = (size_t)min(first + t, d.from.tokens - 1) * stride + column;
            w[t] = *(const uint4 *)(const void *)(d.values + at);
        }
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const uint4 of = __ldg(&columns[column / 256 * 256 + 32 * e + lane]);
#pragma unroll
            for (int t = 0; t < LQ__CU_COLUMNS; t++) {
                const int32_t c =
                    lq__cu_q12(lq__cu_of_eight(&w[t], e), make_uint2(of.y, of.z), (int32_t)of.x);
                const int32_t y = (c + (1 << shift[t] >> 1)) >> shift[t]; /* below 2^15 - 128 */
                if (e % 2 == 0) {
                    x[t][0] = y;
                    continue;
                }
                const uint32_t h =
                    lq__cu_permute((uint32_t)(x[t][0] + 128), (uint32_t)(y + 128), 0x0051u);
                const uint32_t l = lq__cu_permute((uint32_t)x[t][0], (uint32_t)y, 0x0040u);
                high[t][e / 4] = e % 4 == 1 ? h : lq__cu_permute(high[t][e / 4], h, 0x5410u);
                low[t][e / 4] = e % 4 == 1 ? l : lq__cu_permute(low[t][e / 4], l, 0x5410u);
            }
        }
#pragma unroll
        for (int t = 0; t < LQ__CU_COLUMNS; t++) {
            uint8_t *to = d.columns + lq__cu_operand_at(d.c.wide, first + (uint32_t)t, column);
            *(uint2 *)(void *)to = make_uint2(high[t][0], high[t][1]);
            *(uint2 *)(void *)(to + LQ__CU_PLANE) = make_uint2(low[t][0], low[t][1]);
        }
    }
    for (uint32_t t = 0; t < LQ__CU_COLUMNS; t++) {
        lq__cu_token_numbers(&d, first + t);
    }
}

/* ---- the product ----
   Sums of int16 by int16 as four products of bytes: of high and low planes of both, the matrix' low
   bytes without sign. A block has 64 dims and 128 tokens, and half a multiprocessor, so that one
   multiplies while another gives its vectors out. Warp w has rows 16 w .. 16 w + 15 of the block's:
   lane 4 g + t rows g and g + 8, a pair of dims, of tokens 8 n + 2 t and + 1. Compiled for sm_90a
   wgmma multiplies, else mma.sync. Sums become halves in shared memory, then vectors. */
#define LQ__CU_ROWS (64 * LQ__CU_DEEP) /* of a plane of the matrix that a block has */
#define LQ__CU_STAGE (2 * LQ__CU_ROWS + 2 * LQ__CU_PLANE) /* bytes of the matrix, of columns */
#define LQ__CU_STAGES 3u                                  /* at most */
#define LQ__CU_PITCH 144u /* bytes of a token's halves in shared memory */

/* Where chunk `chunk` of 16 bytes of row `row` lies in a plane of a stage. */
LQ__CU_DEVICE uint32_t lq__cu_swizzle(uint32_t row, uint32_t chunk)
{
    return row * LQ__CU_DEEP + (chunk ^ (row >> 1 & 3u)) * 16;
}

/* What is copied next: coefficients k LQ__CU_DEEP .. of a tile, which are numbered dims first.
   Where there are bulk copies bar is the first of the stages' mbarriers, and one thread copies. */
typedef struct lq__cu_next {
    uint32_t at; /* stages */
    uint32_t bar;
    uint32_t stage; /* what comes next goes there */
    uint32_t tile;
    uint32_t k;
    const uint8_t *a;
    const uint8_t *b; /* NULL: there is no more */
} lq__cu_next;

LQ__CU_DEVICE void lq__cu_next_tile(lq__cu_next *next, const lq__cu_decoding *d, uint32_t tile)
{
    const uint32_t tokens = tile / (2 * d->c.tiles) * 128;
    const uint32_t half = tile % (2 * d->c.tiles);
    next->tile = tile;
    next->k = 0;
    next->a =
        d->c.mem + d->c.planes + (size_t)(half / 2 * 256) * d->c.wide + half % 2 * LQ__CU_ROWS;
    next->b = tokens < d->rows ? d->columns + (size_t)tokens * d->c.wide * 2 : NULL;
}

LQ__CU_DEVICE void lq__cu_next_init(lq__cu_next *next, const lq__cu_decoding *d, uint8_t *stages,
                                    uint64_t *bars)
{
    next->at = lq__cu_shared(stages);
    next->bar = lq__cu_shared(bars);
    next->stage = 0;
    lq__cu_next_tile(next, d, blockIdx.x);
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x < d->stages) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(next->bar + 8 * threadIdx.x)
                     : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
#endif
    __syncthreads();
}

#if __CUDA_ARCH__ >= 900
LQ__CU_DEVICE void lq__cu_bulk(uint32_t to, const uint8_t *from, uint32_t bytes, uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
                 "%2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
#endif

/* Asks for a stage, if there is one, and goes on. */
LQ__CU_DEVICE void lq__cu_stage(lq__cu_next *next, const lq__cu_decoding *d)
{
    const uint32_t to = next->at + next->stage * LQ__CU_STAGE;
#if __CUDA_ARCH__ >= 900
    const uint32_t bar = next->bar + 8 * next->stage;
    if (threadIdx.x == 0 && next->b) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar),
                     "r"(LQ__CU_STAGE)
                     : "memory");
        lq__cu_bulk(to, next->a, LQ__CU_ROWS, bar);
        lq__cu_bulk(to + LQ__CU_ROWS, next->a + LQ__CU_PLANE, LQ__CU_ROWS, bar);
        lq__cu_bulk(to + 2 * LQ__CU_ROWS, next->b, 2 * LQ__CU_PLANE, bar);
    }
#else
    for (uint32_t i = threadIdx.x * 16; i < LQ__CU_STAGE && next->b; i += blockDim.x * 16) {
        const uint8_t *from = i < LQ__CU_ROWS       ? next->a + i
                              : i < 2 * LQ__CU_ROWS ? next->a + LQ__CU_PLANE + (i - LQ__CU_ROWS)
                                                    : next->b + (i - 2 * LQ__CU_ROWS);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    next->stage = next->stage + 1 == d->stages ? 0 : next->stage + 1;
    next->a += 2 * LQ__CU_PLANE;
    next->b += next->b ? 2 * LQ__CU_PLANE : 0;
    if (++next->k * LQ__CU_DEEP == d->c.wide) lq__cu_next_tile(next, d, next->tile + gridDim.x);
}

/* Waits for a stage's copies, of which at least `stages` - 1 were asked for since. All threads wait
   for each other. */
LQ__CU_DEVICE void lq__cu_stage_wait(const lq__cu_next *next, const lq__cu_decoding *d,
                                     uint32_t stage, uint32_t phase)
{
#if __CUDA_ARCH__ >= 900
    lq__cu_bar_wait(next->bar + 8 * stage, phase);
    (void)d;
#else
    if (d->stages == LQ__CU_STAGES) {
        asm volatile("cp.async.wait_group %0;" ::"n"(LQ__CU_STAGES - 2) : "memory");
    } else {
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    (void)next;
    (void)stage;
    (void)phase;
#endif
    __syncthreads();
}

/* Sums of a lane: [n][0], [1] of its first row and two tokens, [2], [3] of its second. */
typedef struct lq__cu_sums {
    int32_t high[16][4];
    int32_t middle[16][4];
    int32_t low[16][4];
} lq__cu_sums;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* c += A B of m64n128k32, both in shared memory in rows of 64 bytes, chunks swizzled. */
#define LQ__CU_FOUR(c, n) "+r"(c[n][0]), "+r"(c[n][1]), "+r"(c[n][2]), "+r"(c[n][3])
#define LQ__CU_WGMMA(c, a, b, types)                                                            \
    asm volatile(                                                                               \
        "wgmma.mma_async.sync.aligned.m64n128k32.s32." types                                    \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "    \
        "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, " \
        "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
        "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, 1;"             \
        : LQ__CU_FOUR(c, 0), LQ__CU_FOUR(c, 1), LQ__CU_FOUR(c, 2), LQ__CU_FOUR(c, 3),           \
          LQ__CU_FOUR(c, 4), LQ__CU_FOUR(c, 5), LQ__CU_FOUR(c, 6), LQ__CU_FOUR(c, 7),           \
          LQ__CU_FOUR(c, 8), LQ__CU_FOUR(c, 9), LQ__CU_FOUR(c, 10), LQ__CU_FOUR(c, 11),         \
          LQ__CU_FOUR(c, 12), LQ__CU_FOUR(c, 13), LQ__CU_FOUR(c, 14), LQ__CU_FOUR(c, 15)        \
        : "l"(a), "l"(b))

/* What wgmma knows a matrix by: its address, 512 bytes from eight rows to the next, swizzled. */
LQ__CU_DEVICE uint64_t lq__cu_matrix(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3fffu) | (uint64_t)1 << 16 | (uint64_t)32 << 32 |
           (uint64_t)2 << 62;
}

LQ__CU_DEVICE void lq__cu_multiply(lq__cu_sums *s, uint32_t at)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (uint32_t k = 0; k < LQ__CU_DEEP; k += 32) {
        const uint64_t a_high = lq__cu_matrix(at + k);
        const uint64_t a_low = lq__cu_matrix(at + LQ__CU_ROWS + k);
        const uint64_t b_high = lq__cu_matrix(at + 2 * LQ__CU_ROWS + k);
        const uint64_t b_low = lq__cu_matrix(at + 2 * LQ__CU_ROWS + LQ__CU_PLANE + k);
        LQ__CU_WGMMA(s->high, a_high, b_high, "s8.s8");
        LQ__CU_WGMMA(s->middle, a_high, b_low, "s8.s8");
        LQ__CU_WGMMA(s->middle, a_low, b_high, "u8.s8");
        LQ__CU_WGMMA(s->low, a_low, b_low, "u8.s8");
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

LQ__CU_DEVICE void lq__cu_multiplied(void)
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

#undef LQ__CU_FOUR
#else
LQ__CU_DEVICE void lq__cu_matrices(uint32_t *r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* c += A B, A s8 or u8. */
template <bool LOW>
LQ__CU_DEVICE void lq__cu_mma_bytes(int32_t *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    if (LOW) {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        lq__cu_mma<false>(c, a[0], a[1], a[2], a[3], b0, b1);
    }
}

LQ__CU_DEVICE void lq__cu_multiply(lq__cu_sums *s, uint32_t at)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = threadIdx.x / 32 * 16 + lane % 16;
    const uint32_t token = lane % 8 + lane / 16 * 8;
#pragma unroll
    for (uint32_t k = 0; k < LQ__CU_DEEP / 16; k += 2) {
        uint32_t a[2][4];
        lq__cu_matrices(a[0], at + lq__cu_swizzle(row, k + lane / 16));
        lq__cu_matrices(a[1], at + LQ__CU_ROWS + lq__cu_swizzle(row, k + lane / 16));
#pragma unroll
        for (uint32_t n = 0; n < 16; n += 2) {
            const uint32_t from = at + lq__cu_swizzle(token + 8 * n, k + lane / 8 % 2);
            uint32_t h[4];
            uint32_t l[4];
            lq__cu_matrices(h, from + 2 * LQ__CU_ROWS);
            lq__cu_matrices(l, from + 2 * LQ__CU_ROWS + LQ__CU_PLANE);
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                lq__cu_mma_bytes<false>(s->high[n + i], a[0], h[2 * i], h[2 * i + 1]);
                lq__cu_mma_bytes<false>(s->middle[n + i], a[0], l[2 * i], l[2 * i + 1]);
                lq__cu_mma_bytes<true>(s->low[n + i], a[1], l[2 * i], l[2 * i + 1]);
            }
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                lq__cu_mma_bytes<true>(s->middle[n + i], a[1], h[2 * i], h[2 * i + 1]);
            }
        }
    }
}

LQ__CU_DEVICE void lq__cu_multiplied(void)
{
}

#endif

/* What a token's pair of dims is told of it. */
typedef struct lq__cu_of_token {
    float unit;
    float size;
    float2 wave;
} lq__cu_of_token;

/* The sums of a lane's pair to halves in shared memory: of a token first all a, then all b. */
LQ__CU_DEVICE void lq__cu_halves_out(uint8_t *halves, const lq__cu_decoding *d, lq__cu_sums *s,
                                     uint32_t tile)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t pair = threadIdx.x / 32 * 8 + lane / 4;
    const uint32_t k = pair % 4;
    const lq__cu_quad *q = (const lq__cu_quad *)(const void *)(d->c.mem + d->c.quads) +
                           tile % (2 * d->c.tiles) * 8 + pair / 4;
    const uint32_t first = tile / (2 * d->c.tiles) * 128 + 2 * (lane % 4);
    const float scale[2] = {q->scale[k], q->scale[4 + k]};
    const float center[2] = {q->center[k], q->center[4 + k]};
    const float bias[2] = {q->bias[k], q->bias[4 + k]};
    const float slice_step = q->slice_step;
    const bool turned = q->wave >= 0 && k < q->count;
    const float *gains = q->gain < 0 ? NULL : d->gains + q->gain;
    const float2 *waves = d->waves + (turned ? (uint32_t)q->wave + k : 0);
    uint8_t *to = halves + 2 * (lane % 4) * LQ__CU_PITCH + 2 * pair;
#pragma unroll
    for (int n = 0; n < 16; n++) {
#pragma unroll
        for (int f = 0; f < 4; f++) {
            s->high[n][f] = (int32_t)(((uint32_t)s->high[n][f] << 16) +
                                      ((uint32_t)s->middle[n][f] << 8) + (uint32_t)s->low[n][f]);
        }
    }
#pragma unroll
    for (int from = 0; from < 16; from += 8) {
        lq__cu_of_token of[16];
#pragma unroll
        for (int i = 0; i < 16; i++) { /* all on their way before the first is needed */
            const size_t t = first + 8 * (uint32_t)(from + i / 2) + i % 2;
            of[i].unit = d->units[t];
            of[i].size = gains ? gains[t * d->c.gains] : 1.0f;
            of[i].wave = turned ? waves[t * d->c.waves] : make_float2(1.0f, 0.0f);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int n = from + i / 2;
            const float size = __fmul_rn(of[i].size, slice_step);
            const float unit = __fmul_rn(of[i].unit, size);
            float x[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                x[r] = __fmaf_rn((float)s->high[n][i % 2 + 2 * r], __fmul_rn(unit, scale[r]),
                                 __fmul_rn(center[r], size));
            }
            if (turned) {
                const float u = x[0];
                const float v = x[1];
                x[0] = __fsub_rn(__fmul_rn(u, of[i].wave.x), __fmul_rn(v, of[i].wave.y));
                x[1] = __fadd_rn(__fmul_rn(v, of[i].wave.x), __fmul_rn(u, of[i].wave.y));
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                *(uint16_t *)(void *)(to + (uint32_t)(8 * n + i % 2) * LQ__CU_PITCH + 64 * r) =
                    lq__cu_half_of(__fadd_rn(x[r], bias[r]), d->is_bf16);
            }
        }
    }
}

/* Halves of a block to where vectors go: four of a token at a time, side by side where
   they are. */
LQ__CU_DEVICE void lq__cu_vectors_out(const lq__cu_decoding *d, const uint8_t *halves,
                                      uint32_t tile)
{
    const uint32_t mine = threadIdx.x % 8;
    const uint32_t chunk = threadIdx.x % 16; /* eight of a, eight of b */
    const lq__cu_quad *q = (const lq__cu_quad *)(const void *)(d->c.mem + d->c.quads) +
                           tile % (2 * d->c.tiles) * 8 + mine;
    const uint32_t first = chunk < 8 ? q->a : q->b;
    const uint32_t stride = q->stride;
    const uint32_t count =
        q->count == 0 ? 0 : min((uint32_t)q->count, (q->dims - first + stride - 1) / stride);
    const uint32_t tokens = tile / (2 * d->c.tiles) * 128;
    if (count == 0) return;
    uint16_t *slice = (uint16_t *)d->to.slices[q->slice] + first;
    const bool aligned = count == 4 && stride == 1 && (uintptr_t)slice % 8 == 0 &&
                         (d->to.token_stride | d->to.block_stride) % 4 == 0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x / 16; i < 128; i += 8) {
        const uint2 four = *(const uint2 *)(const void *)(halves + i * LQ__CU_PITCH + 8 * chunk);
        const uint32_t t = tokens + i;
        size_t at = (size_t)t * d->to.token_stride;
        if (t >= d->from.tokens) break;
        if (d->to.block_tokens) {
            const uint32_t block = d->to.blocks[t / d->to.block_tokens];
            at = block * d->to.block_stride + t % d->to.block_tokens * d->to.token_stride;
            if (block >= d->to.block_count) {
                atomicOr(d->from.flags, LQ_CUDA_BAD_PAGE);
                continue;
            }
        }
        uint16_t *to = slice + at;
        if (aligned) {
            *(uint2 *)(void *)to = four;
            continue;
        }
        for (uint32_t k = 0; k < count; k++) {
            to[k * stride] = (uint16_t)((k < 2 ? four.x : four.y) >> 16 * (k % 2));
        }
    }
}

/* Blocks have tiles by turns; the next one's stages come while a tile is given out. */
static __global__ void __launch_bounds__(128, 2)
    lq__cu_product_kernel(const __grid_constant__ lq__cu_decoding d)
{
    extern __shared__ __align__(1024) uint8_t stages[];
    __shared__ uint64_t bars[LQ__CU_STAGES];
    const uint32_t count = d.c.wide / LQ__CU_DEEP;
    const uint32_t tiles = 2 * d.c.tiles * (d.rows / 128);
    uint8_t *halves = stages + d.stages * LQ__CU_STAGE;
    lq__cu_next next;
    uint32_t stage = 0;
    uint32_t phase = 0;
    lq__cu_next_init(&next, &d, stages, bars);
#pragma unroll 1
    for (uint32_t k = 0; k + 1 < d.stages; k++) {
        lq__cu_stage(&next, &d);
    }
#pragma unroll 1
    for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        lq__cu_sums s = {};
#pragma unroll 1
        for (uint32_t k = 0; k < count; k++) {
            lq__cu_stage_wait(&next, &d, stage, phase);
            lq__cu_multiply(&s, next.at + stage * LQ__CU_STAGE);
            lq__cu_stage(&next, &d); /* meanwhile, where all have multiplied before they waited */
            lq__cu_multiplied();
            stage++;
            if (stage == d.stages) {
                stage = 0;
                phase ^= 1u;
            }
        }
        lq__cu_halves_out(halves, &d, &s, tile);
        __syncthreads();
        lq__cu_vectors_out(&d, halves, tile);
    }
}

/* The launches of a call. */
static int lq__cu_rans_start(const lq__cu_decoding &d, cudaStream_t stream)
{
    const uint32_t blocks = (d.pages + LQ__CU_RANS_WARPS - 1) / LQ__CU_RANS_WARPS;
    const uint32_t bytes = d.c.tables * LQ__CU_TABLE;
    if (cudaFuncSetAttribute(lq__cu_rans_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)bytes) != cudaSuccess) {
        return LQ_E_INTERNAL;
    }
    lq__cu_rans_kernel<<<blocks, LQ__CU_RANS_WARPS * 32, bytes, stream>>>(d);
    return lq__cu_launched();
}

static int lq__cu_columns_start(const lq__cu_decoding &d, cudaStream_t stream)
{
    lq__cu_columns_kernel<<<d.rows / (4 * LQ__CU_COLUMNS), 128, 0, stream>>>(d);
    return lq__cu_launched();
}

static int lq__cu_product_start(const lq__cu_decoding &d, cudaStream_t stream)
{
    int device = 0;
    int most = 0;
    int processors = 0;
    lq__cu_decoding mine = d;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) !=
            cudaSuccess ||
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
            cudaSuccess) {
        return LQ_E_INTERNAL;
    }
    const uint32_t halves = 128 * LQ__CU_PITCH;
    const uint32_t tiles = 2 * d.c.tiles * (d.rows / 128);
    mine.stages =
        min(((uint32_t)most - 1024 - halves) / LQ__CU_STAGE, LQ__CU_STAGES); /* of 99 KB: 2 */
    const uint32_t bytes = mine.stages * LQ__CU_STAGE + halves;
    if (cudaFuncSetAttribute(lq__cu_product_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)bytes) != cudaSuccess) {
        return LQ_E_INTERNAL;
    }
    lq__cu_product_kernel<<<min(tiles, 2 * (uint32_t)processors), 128, bytes, stream>>>(mine);
    return lq__cu_launched();
}

LQ_CUDA_API size_t lq_cuda_decode_workspace_bytes(const lq_cuda_codec *codec, uint32_t tokens)
{
    lq__cu_decoding d;
    if (!codec || tokens == 0 || tokens > LQ__CU_DECODED) return 0;
    memset(&d, 0, sizeof d);
    d.c = *codec;
    d.from.tokens = tokens;
    return lq__cu_decode_place(&d, NULL);
}

LQ_CUDA_API int lq_cuda_decode(const lq_cuda_codec *codec, const lq_cuda_vectors *dst,
                               const lq_cuda_pages *pages, void *workspace, size_t workspace_bytes,
                               cudaStream_t stream)
{
    lq__cu_decoding d;
    memset(&d, 0, sizeof d);
    if (!codec || !dst || !dst->slices || !pages || !pages->bytes || (uintptr_t)pages->bytes % 16 ||
        !pages->offsets || !pages->sizes || !pages->flags || pages->tokens == 0 ||
        pages->tokens > LQ__CU_DECODED ||
        (dst->type && dst->type != LQ_F16 && dst->type != LQ_BF16) || dst->token_stride == 0 ||
        (dst->block_tokens && !dst->blocks) || !workspace || (uintptr_t)workspace % 128) {
        return LQ_E_ARG;
    }
    d.c = *codec;
    d.from = *pages;
    d.from.stride = pages->stride ? pages->stride : 1;
    d.to = *dst;
    d.to.block_stride = dst->block_tokens ? dst->block_stride : 0;
    d.is_bf16 = dst->type == LQ_BF16;
    if (workspace_bytes < lq__cu_decode_place(&d, (uint8_t *)workspace)) return LQ_E_SPACE;
    int status = lq__cu_rans_start(d, stream);
    if (status == LQ_OK) status = lq__cu_columns_start(d, stream);
    return status == LQ_OK ? lq__cu_product_start(d, stream) : status;
}

/* ================================================================================================
   >>end
   ============================================================================================== */
#undef LQ__CU_KINDS
#undef LQ__CU_STAGE
#undef LQ__CU_ROWS
#undef LQ__CU_PLANE
#undef LQ__CU_PITCH
#undef LQ__CU_DEEP
#undef LQ__CU_STAGES
#undef LQ__CU_TABLES_MOST
#undef LQ__CU_MASSES
#undef LQ__CU_DECODED
#undef LQ__CU_RANS_WARPS
#undef LQ__CU_TABLE
#undef LQ__CU_WORDS
#undef LQ__CU_COLUMNS
#undef LQ__CU_ESCAPE
#undef LQ__CU_BOTH
#undef LQ__CU_DEVICE
#undef LQ__CU_TOKENS
#undef LQ__CU_NOTHING
#undef LQ__CU_SEQUENCES
#undef LQ__CU_SLOTS
#undef LQ__CU_EPOCHS
#undef LQ__CU_RAW
#undef LQ__CU_TRAIL
#undef LQ__CU_LEAD
#undef LQ__CU_FIT
#undef LQ__CU_CLUSTER
#undef LQ__CU_BEGINS
#undef LQ__CU_MAGIC
#undef LQ__CU_WARPS
#undef LQ__CU_HALVES
#endif /* LATTICEQUANT_CUDA_IMPLEMENTATION */
