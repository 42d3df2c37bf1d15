/* lm_gguf.h - part of lm.c: errors, checked memory, files that are written whole, the GGUF file

   A whole model in one little-endian file of version 3. The file is memory-mapped and nothing in it
   is believed: every count, length and offset is held against the bytes that are left before it is
   used. Bad input ends the program with one line. */
#ifndef LM_GGUF_H
#define LM_GGUF_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../rivals.h"

/* ---- errors and memory ---- */

/* Names inside a file may hold anything; what reaches the terminal is printable. */
static void lm_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 32 || *text == 127) *text = '?';
    }
}

__attribute__((noreturn, format(printf, 1, 2))) static void lm_fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    char line[512];
    (void)vsnprintf(line, sizeof line, format, list);
    va_end(list);
    lm_printable(line);
    fflush(stdout);
    fprintf(stderr, "lm: %s\n", line);
    fflush(stderr);
    _Exit(1);
}

/* Zeroed memory for count items; the program has nothing useful to do without it. */
static void *lm_alloc(size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / 2 / size) {
        lm_fail("a table of %zu items is too large for this machine", count);
    }
    void *p = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (p == NULL) lm_fail("out of memory (%zu bytes wanted)", count * size);
    return p;
}

/* ---- types ---- */

/* Bytes inside the mapped file; not terminated. */
typedef struct lm_bytes {
    const uint8_t *at;
    size_t count;
} lm_bytes;

typedef struct lm_key {
    lm_bytes name;
    uint32_t type;
    uint32_t item_type;
    size_t item_count;
    const uint8_t *value;
} lm_key;

typedef struct lm_tensor {
    lm_bytes name;
    size_t type;
    size_t rows;
    size_t cols;
    const uint8_t *data;
    int used;
} lm_tensor;

typedef struct lm_gguf {
    const char *path;
    void *map;
    const uint8_t *data;
    size_t bytes;
    size_t cursor;
    lm_key *keys;
    size_t key_count;
    lm_tensor *tensors;
    size_t tensor_count;
} lm_gguf;

enum {
    LM_U8,
    LM_I8,
    LM_U16,
    LM_I16,
    LM_U32,
    LM_I32,
    LM_F32,
    LM_BOOL,
    LM_STRING,
    LM_ARRAY,
    LM_U64,
    LM_I64,
    LM_F64,
    LM_TYPE_COUNT
};

static const size_t lm__type_bytes[LM_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static int lm_same(lm_bytes a, const char *b)
{
    return a.count == strlen(b) && memcmp(a.at, b, a.count) == 0;
}

/* ---- writing ---- */

/* The name is on the disk when its folder is. */
static void lm__keep_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash != NULL ? (size_t)(slash - path) + 1 : 1;
    char *folder = (char *)lm_alloc(n + 1, 1);
    memcpy(folder, slash != NULL ? path : ".", n);
    int fd = open(folder, O_RDONLY);
    free(folder);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
}

/* Closes what was written to `beside`, flushed to the disk, and renames it to `path`: whenever the
   program ends, the name stands for the old file or the new one, whole. Ends the program where that
   fails, or where `why` is not NULL. */
static void lm_keep(FILE *file, const char *beside, const char *path, const char *why)
{
    int bad = ferror(file) != 0 || fflush(file) != 0 || fsync(fileno(file)) != 0;
    int error = errno;
    if (fclose(file) != 0 && !bad) {
        bad = 1;
        error = errno;
    }
    if (!bad && !why && rename(beside, path) != 0) {
        bad = 1;
        error = errno;
    }
    if (bad || why) {
        (void)remove(beside);
        lm_fail("%s: cannot write it (%s)", path, why ? why : strerror(error));
    }
    lm__keep_folder(path);
}

/* ---- little-endian ---- */

static uint16_t lm_load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t lm_load32(const uint8_t *p)
{
    return (uint32_t)lm_load16(p) | (uint32_t)lm_load16(p + 2) << 16;
}

static uint64_t lm_load64(const uint8_t *p)
{
    return (uint64_t)lm_load32(p) | (uint64_t)lm_load32(p + 4) << 32;
}

static float lm_load_float(const uint8_t *p)
{
    uint32_t u = lm_load32(p);
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static float lm_load_half(const uint8_t *p)
{
    return rv_float_from_half(lm_load16(p));
}

/* ---- tensor formats ---- */

static void lm__block_f32(float *dst, const uint8_t *src)
{
    dst[0] = lm_load_float(src);
}

static void lm__block_f16(float *dst, const uint8_t *src)
{
    dst[0] = lm_load_half(src);
}

static void lm__block_bf16(float *dst, const uint8_t *src)
{
    uint32_t u = (uint32_t)lm_load16(src) << 16;
    memcpy(dst, &u, 4);
}

static void lm__block_q8_0(float *dst, const uint8_t *src)
{
    float d = lm_load_half(src);
    for (size_t i = 0; i < 32; i++) {
        dst[i] = (float)(int8_t)src[2 + i] * d;
    }
}

/* The four 32-blocks: 16 bytes of low nibbles (element i) and high nibbles (element i + 16); the
   5-bit forms keep their fifth bits apart in one 32-bit word. */
static void lm__block_nibbles(float *dst, const uint8_t *low, uint32_t fifth, float d, float m)
{
    for (size_t i = 0; i < 16; i++) {
        uint32_t a = (low[i] & 15u) | ((fifth >> i & 1u) << 4);
        uint32_t b = (uint32_t)(low[i] >> 4) | ((fifth >> (i + 16) & 1u) << 4);
        dst[i] = (float)a * d + m;
        dst[i + 16] = (float)b * d + m;
    }
}

static void lm__block_q4_0(float *dst, const uint8_t *src)
{
    float d = lm_load_half(src);
    lm__block_nibbles(dst, src + 2, 0, d, -8.0f * d);
}

static void lm__block_q4_1(float *dst, const uint8_t *src)
{
    lm__block_nibbles(dst, src + 4, 0, lm_load_half(src), lm_load_half(src + 2));
}

static void lm__block_q5_0(float *dst, const uint8_t *src)
{
    float d = lm_load_half(src);
    lm__block_nibbles(dst, src + 6, lm_load32(src + 2), d, -16.0f * d);
}

static void lm__block_q5_1(float *dst, const uint8_t *src)
{
    lm__block_nibbles(dst, src + 8, lm_load32(src + 4), lm_load_half(src), lm_load_half(src + 2));
}

/* 256 elements: f16 scale and f16 minimum of the whole, 8 six-bit scales and 8 six-bit minima in
   12 bytes, of Q5_K 32 bytes of fifth bits (bit b of byte i: element 32 b + i), 128 bytes of
   nibbles (64 elements in each run of 32 bytes, low halves first). */
static void lm__block_scaled(float *dst, const uint8_t *src, const uint8_t *fifth)
{
    float d = lm_load_half(src);
    float dmin = lm_load_half(src + 2);
    const uint8_t *s = src + 4;
    const uint8_t *q = src + (fifth != NULL ? 48 : 16);
    size_t b, i;
    for (b = 0; b < 8; b++) {
        uint32_t scale, low;
        float step, offset;
        if (b < 4) {
            scale = s[b] & 63u;
            low = s[b + 4] & 63u;
        } else {
            scale = (s[b + 4] & 15u) | ((uint32_t)(s[b - 4] >> 6) << 4);
            low = (uint32_t)(s[b + 4] >> 4) | ((uint32_t)(s[b] >> 6) << 4);
        }
        step = d * (float)scale;
        offset = dmin * (float)low;
        for (i = 0; i < 32; i++) {
            uint32_t n = (uint32_t)(q[b / 2 * 32 + i] >> (b % 2 * 4)) & 15u;
            n |= fifth != NULL ? (uint32_t)(fifth[i] >> b & 1) << 4 : 0;
            dst[b * 32 + i] = step * (float)n - offset;
        }
    }
}

static void lm__block_q4_k(float *dst, const uint8_t *src)
{
    lm__block_scaled(dst, src, NULL);
}

static void lm__block_q5_k(float *dst, const uint8_t *src)
{
    lm__block_scaled(dst, src, src + 16);
}

/* 256 elements: 16 bytes of scale (low) and minimum (high nibble) of each 16 elements, 64 bytes of
   bit pairs (128 elements in each run of 32 bytes, lowest first), f16 scale and f16 minimum. */
static void lm__block_q2_k(float *dst, const uint8_t *src)
{
    float d = lm_load_half(src + 80);
    float dmin = lm_load_half(src + 82);
    for (size_t i = 0; i < 256; i++) {
        uint32_t pair = (uint32_t)(src[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3u;
        uint8_t scale = src[i / 16];
        dst[i] = d * (float)(scale & 15) * (float)pair - dmin * (float)(scale >> 4);
    }
}

/* 256 elements: 32 bytes of third bits (as the fifth of Q5_K), 64 bytes of bit pairs (as Q2_K), 16
   six-bit scales of each 16 elements, less 32, in 12 bytes, f16. A third bit of 0 subtracts 4. */
static void lm__block_q3_k(float *dst, const uint8_t *src)
{
    float d = lm_load_half(src + 108);
    const uint8_t *s = src + 96;
    for (size_t i = 0; i < 256; i++) {
        size_t b = i / 16;
        uint32_t low = b < 8 ? s[b] & 15u : (uint32_t)(s[b - 8] >> 4);
        uint32_t scale = low | ((uint32_t)(s[8 + b % 4] >> (b / 4 * 2)) & 3u) << 4;
        int pair = src[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        int third = src[i % 32] >> (i / 32) & 1;
        dst[i] = d * (float)((int)scale - 32) * (float)(pair - (third ? 0 : 4));
    }
}

/* 256 elements: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, f16. */
static void lm__block_q6_k(float *dst, const uint8_t *src)
{
    float d = lm_load_half(src + 208);
    size_t b, i;
    for (b = 0; b < 8; b++) {
        const uint8_t *low = src + b / 4 * 64 + b % 2 * 32;
        const uint8_t *high = src + 128 + b / 4 * 32;
        for (i = 0; i < 32; i++) {
            uint32_t nibble = (uint32_t)(low[i] >> (b % 4 / 2 * 4)) & 15u;
            uint32_t pair = (uint32_t)(high[i] >> (b % 4 * 2)) & 3u;
            float scale = d * (float)(int8_t)src[192 + b * 2 + i / 16];
            dst[b * 32 + i] = scale * (float)((int)(nibble | pair << 4) - 32);
        }
    }
}

typedef struct lm_format {
    const char *name;
    uint32_t id;
    size_t items;
    size_t bytes;
    void (*decode)(float *dst, const uint8_t *src);
} lm_format;

static const lm_format lm_formats[] = {
    {"F32", 0, 1, 4, lm__block_f32},        {"F16", 1, 1, 2, lm__block_f16},
    {"BF16", 30, 1, 2, lm__block_bf16},     {"Q8_0", 8, 32, 34, lm__block_q8_0},
    {"Q4_0", 2, 32, 18, lm__block_q4_0},    {"Q4_1", 3, 32, 20, lm__block_q4_1},
    {"Q5_0", 6, 32, 22, lm__block_q5_0},    {"Q5_1", 7, 32, 24, lm__block_q5_1},
    {"Q2_K", 10, 256, 84, lm__block_q2_k},  {"Q3_K", 11, 256, 110, lm__block_q3_k},
    {"Q4_K", 12, 256, 144, lm__block_q4_k}, {"Q5_K", 13, 256, 176, lm__block_q5_k},
    {"Q6_K", 14, 256, 210, lm__block_q6_k},
};

enum { LM_FORMAT_COUNT = (int)(sizeof lm_formats / sizeof lm_formats[0]) };

/* One row of a tensor as floats. */
static void lm_tensor_row(float *dst, const lm_tensor *t, size_t row)
{
    const lm_format *f = &lm_formats[t->type];
    const uint8_t *src = t->data + row * (t->cols / f->items) * f->bytes;
    for (size_t i = 0; i < t->cols; i += f->items) {
        f->decode(dst + i, src);
        src += f->bytes;
    }
}

/* ---- reading the file ---- */

static const uint8_t *lm__take(lm_gguf *g, size_t count)
{
    const uint8_t *p = g->data + g->cursor;
    if (count > g->bytes - g->cursor) {
        lm_fail("%s: the file ends inside its header (at byte %zu)", g->path, g->bytes);
    }
    g->cursor += count;
    return p;
}

static size_t lm__take_size(lm_gguf *g)
{
    uint64_t n = lm_load64(lm__take(g, 8));
    return n > SIZE_MAX ? SIZE_MAX : (size_t)n;
}

static lm_bytes lm__take_string(lm_gguf *g)
{
    lm_bytes s;
    s.count = lm__take_size(g);
    s.at = lm__take(g, s.count);
    return s;
}

static void lm__take_value(lm_gguf *g, lm_key *key)
{
    size_t i, size;
    key->type = lm_load32(lm__take(g, 4));
    if (key->type >= LM_TYPE_COUNT) {
        lm_fail("%s: metadata key '%.*s' has the unknown type %u", g->path, (int)key->name.count,
                (const char *)key->name.at, key->type);
    }
    key->item_type = key->type;
    key->item_count = 1;
    if (key->type == LM_ARRAY) {
        key->item_type = lm_load32(lm__take(g, 4));
        key->item_count = lm__take_size(g);
        if (key->item_type >= LM_TYPE_COUNT || key->item_type == LM_ARRAY) {
            lm_fail("%s: metadata key '%.*s' is an array of an unsupported type", g->path,
                    (int)key->name.count, (const char *)key->name.at);
        }
    }
    key->value = g->data + g->cursor;
    size = key->item_type == LM_STRING ? 8 : lm__type_bytes[key->item_type];
    if (key->item_count > (g->bytes - g->cursor) / size) {
        lm_fail("%s: metadata key '%.*s' claims %zu items, more than the file holds", g->path,
                (int)key->name.count, (const char *)key->name.at, key->item_count);
    }
    if (key->item_type != LM_STRING) {
        (void)lm__take(g, key->item_count * size);
        return;
    }
    for (i = 0; i < key->item_count; i++) {
        (void)lm__take_string(g);
    }
}

/* Shape, type and place of one tensor; its offset is checked once the data's start is known. */
static size_t lm__take_tensor(lm_gguf *g, lm_tensor *t)
{
    uint32_t dims, id;
    t->name = lm__take_string(g);
    if (t->name.count > 64) {
        lm_fail("%s: a tensor's name is %zu bytes long (64 at most)", g->path, t->name.count);
    }
    dims = lm_load32(lm__take(g, 4));
    if (dims < 1 || dims > 4) {
        lm_fail("%s: tensor '%.*s' has %u dimensions", g->path, (int)t->name.count,
                (const char *)t->name.at, dims);
    }
    t->rows = 1;
    for (size_t i = 0; i < dims; i++) {
        size_t n = lm__take_size(g);
        if (n < 1 || n > 0x7fffffff || (i > 0 && t->rows > 0x7fffffff / n)) {
            lm_fail("%s: tensor '%.*s' has an impossible shape", g->path, (int)t->name.count,
                    (const char *)t->name.at);
        }
        if (i == 0) {
            t->cols = n;
        } else {
            t->rows *= n;
        }
    }
    id = lm_load32(lm__take(g, 4));
    for (t->type = 0; t->type < LM_FORMAT_COUNT && lm_formats[t->type].id != id; t->type++) {
    }
    if (t->type == LM_FORMAT_COUNT) {
        lm_fail("%s: tensor '%.*s' has type %u; this program reads F32, F16, BF16, Q8_0, Q4_0, "
                "Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K",
                g->path, (int)t->name.count, (const char *)t->name.at, id);
    }
    return lm__take_size(g);
}

static void lm__place_tensor(lm_gguf *g, lm_tensor *t, size_t start, size_t offset)
{
    const lm_format *f = &lm_formats[t->type];
    size_t row, room;
    if (t->cols % f->items != 0) {
        lm_fail("%s: tensor '%.*s' has rows of %zu, not a multiple of %s's %zu", g->path,
                (int)t->name.count, (const char *)t->name.at, t->cols, f->name, f->items);
    }
    row = t->cols / f->items * f->bytes;
    room = start <= g->bytes && offset <= g->bytes - start ? g->bytes - start - offset : 0;
    if (t->rows > room / row) {
        lm_fail("%s: tensor '%.*s' lies outside the file (truncated?)", g->path, (int)t->name.count,
                (const char *)t->name.at);
    }
    t->data = g->data + start + offset;
}

static void lm__map(lm_gguf *g, const char *path)
{
    int fd = open(path, O_RDONLY);
    g->path = path;
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        lm_fail("%s: cannot open it (%s)", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size < 24 || (uintmax_t)info.st_size > SIZE_MAX) {
        lm_fail("%s: not a GGUF file", path);
    }
    g->bytes = (size_t)info.st_size;
    g->map = mmap(NULL, g->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (g->map == MAP_FAILED) {
        lm_fail("%s: cannot map it (%s)", path, strerror(errno));
    }
    close(fd);
    g->data = (const uint8_t *)g->map;
}

static const lm_key *lm_find_key(const lm_gguf *g, const char *name)
{
    for (size_t i = 0; i < g->key_count; i++) {
        if (lm_same(g->keys[i].name, name)) return &g->keys[i];
    }
    return NULL;
}

/* The whole number under that key; where it is absent, fallback, or an error if that is < 0. */
static size_t lm_key_size(const lm_gguf *g, const char *name, long fallback, size_t max)
{
    const lm_key *key = lm_find_key(g, name);
    uint64_t n = 0;
    if (key == NULL) {
        if (fallback < 0) {
            lm_fail("%s: metadata key '%s' is missing", g->path, name);
        }
        return (size_t)fallback;
    }
    switch (key->type) {
    case LM_U8:
    case LM_I8:
    case LM_BOOL:
        n = key->value[0];
        break;
    case LM_U16:
    case LM_I16:
        n = lm_load16(key->value);
        break;
    case LM_U32:
    case LM_I32:
        n = lm_load32(key->value);
        break;
    case LM_U64:
    case LM_I64:
        n = lm_load64(key->value);
        break;
    default:
        lm_fail("%s: metadata key '%s' is not a whole number", g->path, name);
    }
    if (n > max) {
        lm_fail("%s: metadata key '%s' is out of range", g->path, name);
    }
    return (size_t)n;
}

static float lm_key_float(const lm_gguf *g, const char *name, float fallback)
{
    const lm_key *key = lm_find_key(g, name);
    float x = fallback;
    if (key != NULL) {
        if (key->type != LM_F32) {
            lm_fail("%s: metadata key '%s' is not a float", g->path, name);
        }
        x = lm_load_float(key->value);
    }
    if (!(x >= 0.0f && x <= 1e12f)) {
        lm_fail("%s: metadata key '%s' is out of range", g->path, name);
    }
    return x;
}

/* The string under that key, empty where it is absent. */
static lm_bytes lm_key_string(const lm_gguf *g, const char *name)
{
    const lm_key *key = lm_find_key(g, name);
    lm_bytes s = {NULL, 0};
    if (key != NULL) {
        if (key->type != LM_STRING) {
            lm_fail("%s: metadata key '%s' is not a string", g->path, name);
        }
        s.count = (size_t)lm_load64(key->value);
        s.at = key->value + 8;
    }
    return s;
}

/* An array of the given item type, or an error. */
static const lm_key *lm_key_array(const lm_gguf *g, const char *name, uint32_t item_type)
{
    const lm_key *key = lm_find_key(g, name);
    if (key == NULL || key->type != LM_ARRAY || key->item_type != item_type) {
        lm_fail("%s: metadata key '%s' is missing or of the wrong type", g->path, name);
    }
    return key;
}

/* What stands in front of the metadata. */
static void lm__take_header(lm_gguf *g)
{
    if (memcmp(lm__take(g, 4), "GGUF", 4) != 0) {
        lm_fail("%s: not a GGUF file", g->path);
    }
    uint32_t version = lm_load32(lm__take(g, 4));
    if (version != 0 && (version & 0xffff) == 0) {
        lm_fail("%s: a big-endian GGUF file (version %u); this program reads little-endian ones",
                g->path, version >> 24 | (version >> 8 & 0xff00));
    }
    if (version != 3) {
        lm_fail("%s: GGUF version %u; this program reads version 3", g->path, version);
    }
    g->tensor_count = lm__take_size(g);
    g->key_count = lm__take_size(g);
    if (g->tensor_count > 65536 || g->key_count > 65536) {
        lm_fail("%s: the header claims %zu tensors and %zu keys (65536 at most)", g->path,
                g->tensor_count, g->key_count);
    }
}

/* Files that hold a part of a model, or something beside one. */
static void lm__refuse_parts(const lm_gguf *g)
{
    size_t parts = lm_key_size(g, "split.count", 1, SIZE_MAX);
    lm_bytes type = lm_key_string(g, "general.type");
    if (parts > 1) {
        lm_fail("%s: part %zu of %zu of a split model; this program reads whole ones "
                "(llama-gguf-split --merge joins the parts)",
                g->path, lm_key_size(g, "split.no", 0, 65535) + 1, parts);
    }
    if (type.count > 0 && !lm_same(type, "model")) {
        lm_fail("%s: not a model (general.type is '%.*s')", g->path,
                (int)(type.count < 64 ? type.count : 64), (const char *)type.at);
    }
}

/* Maps the file and reads its metadata; lm_gguf_tensors has to follow. */
static void lm_gguf_open(lm_gguf *g, const char *path)
{
    const uint16_t one = 1;
    memset(g, 0, sizeof *g);
    uint8_t low;
    memcpy(&low, &one, 1);
    if (low == 0) {
        lm_fail("%s: its weights are little-endian and used in place; this machine is not", path);
    }
    lm__map(g, path);
    lm__take_header(g);
    g->keys = (lm_key *)lm_alloc(g->key_count, sizeof *g->keys);
    for (size_t i = 0; i < g->key_count; i++) {
        g->keys[i].name = lm__take_string(g);
        if (g->keys[i].name.count > 256) {
            lm_fail("%s: a metadata key is %zu bytes long", path, g->keys[i].name.count);
        }
        lm__take_value(g, &g->keys[i]);
    }
    lm__refuse_parts(g);
}

/* Reads the tensors' names and shapes, behind the metadata. */
static void lm_gguf_tensors(lm_gguf *g)
{
    size_t *offsets = (size_t *)lm_alloc(g->tensor_count, sizeof *offsets);
    size_t i, align, start;
    g->tensors = (lm_tensor *)lm_alloc(g->tensor_count, sizeof *g->tensors);
    for (i = 0; i < g->tensor_count; i++) {
        offsets[i] = lm__take_tensor(g, &g->tensors[i]);
    }
    align = lm_key_size(g, "general.alignment", 32, 65536);
    if (align == 0 || (align & (align - 1)) != 0) {
        lm_fail("%s: an alignment of %zu is no power of two", g->path, align);
    }
    start = g->cursor + (align - g->cursor % align) % align;
    for (i = 0; i < g->tensor_count; i++) {
        lm__place_tensor(g, &g->tensors[i], start, offsets[i]);
    }
    free(offsets);
}

static void lm_gguf_close(lm_gguf *g)
{
    (void)munmap(g->map, g->bytes);
    free(g->keys);
    free(g->tensors);
    memset(g, 0, sizeof *g);
}

#endif
