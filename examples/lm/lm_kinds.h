/* lm_kinds.h - part of lm.c: the list of codecs, and the rivals as codecs of that list

   A codec of the library is a header that fills an lm_codec, an include here, and a row. A policy
   of lq_kv is a row in lm_live.h. */
#ifndef LM_KINDS_H
#define LM_KINDS_H

#include "lm_codecs.h"
#include "lm_live.h"

/* ---- rivals as a codec ---- */

typedef struct lm__rival {
    const rv_codec *part[2];
    size_t runs;
    size_t head_dim;
} lm__rival;

static void lm__rival_f16(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    for (size_t i = 0; i < n * d; i++) {
        dst[i] = rv_through_half(src[i]);
    }
}

static size_t lm__rival_f16_bits(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * d * 16;
}

static void lm__rival_raw(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    memmove(dst, src, n * d * sizeof *dst);
}

static size_t lm__rival_raw_bits(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * d * 32;
}

static const rv_codec lm__plain[2] = {
    {"f32", "f32", lm__rival_raw_bits, lm__rival_raw},
    {"f16", "f16", lm__rival_f16_bits, lm__rival_f16},
};

static const char *lm__rival_code(void *state, lm_chunk *c, lm_bill *bill)
{
    const lm__rival *r = (const lm__rival *)state;
    uint64_t bits[2] = {0, 0};
    for (int s = RV_KEY; s <= RV_VALUE; s++) {
        for (size_t i = 0; i < r->runs; i++) {
            float *x = (s == RV_KEY ? c->k : c->v) + i * c->tokens * r->head_dim;
            r->part[s]->round_trip(x, x, c->tokens, r->head_dim, s);
            bits[s] += r->part[s]->bits(c->tokens, r->head_dim, s);
        }
    }
    bill->key_bytes += (bits[RV_KEY] + 7) / 8;
    bill->value_bytes += (bits[RV_VALUE] + 7) / 8;
    return NULL;
}

static const rv_codec *lm__find_rival(const char *name, size_t count)
{
    for (size_t i = 0; i < 2; i++) {
        if (strlen(lm__plain[i].name) == count && memcmp(lm__plain[i].name, name, count) == 0) {
            return &lm__plain[i];
        }
    }
    for (size_t i = 0; i < RV_CODEC_COUNT; i++) {
        if (strlen(rv_codecs[i].name) == count && memcmp(rv_codecs[i].name, name, count) == 0) {
            return &rv_codecs[i];
        }
    }
    return NULL;
}

/* NAME, or NAME/NAME for keys and values apart. */
static const char *lm__rival_open(lm_codec *codec, const char *spec, const lm_geometry *g)
{
    const char *slash = strchr(spec, '/');
    lm__rival *r = (lm__rival *)lm_alloc(1, sizeof *r);
    r->part[RV_KEY] = lm__find_rival(spec, slash ? (size_t)(slash - spec) : strlen(spec));
    r->part[RV_VALUE] = slash ? lm__find_rival(slash + 1, strlen(slash + 1)) : r->part[RV_KEY];
    r->runs = g->layers * g->kv_heads;
    r->head_dim = g->head_dim;
    codec->state = r;
    codec->code = lm__rival_code;
    codec->close = free;
    return r->part[0] && r->part[1] ? NULL : "no codec of that name";
}

/* ---- the registration ---- */

/* The curve is what a plot joins; a spec with numbers of its own (NAME:...:NUMBERS) makes one
   with all that differ in the last part only. */
static const lm_codec_kind lm_codec_kinds[] = {
    {"f32", "raw", "raw floats", lm__rival_open, NULL},
    {"f16", "raw", "half floats", lm__rival_open, NULL},
    {"q8_0", "llama.cpp", "blocks of 32, one scale", lm__rival_open, NULL},
    {"q5_0", "llama.cpp", "blocks of 32, one scale", lm__rival_open, NULL},
    {"q4_1", "llama.cpp q4_1", "blocks of 32, scale and minimum", lm__rival_open, NULL},
    {"q4_0", "llama.cpp", "blocks of 32, one scale", lm__rival_open, NULL},
    {"hq4_0", "Hadamard + q4_0", "q4_0 after a Hadamard rotation", lm__rival_open, NULL},
    {"tq4", "TurboQuant-MSE", "Hadamard, norm, 16 Lloyd-Max levels", lm__rival_open, NULL},
    {"tq3", "TurboQuant-MSE", "Hadamard, norm, 8 Lloyd-Max levels", lm__rival_open, NULL},
    {"tq2", "TurboQuant-MSE", "Hadamard, norm, 4 Lloyd-Max levels", lm__rival_open, NULL},
    {"kivi4", "KIVI", "K per channel, V per token, groups of 32", lm__rival_open, NULL},
    {"kivi2", "KIVI", "K per channel, V per token, groups of 32", lm__rival_open, NULL},
    {"fp8", "fp8", "e4m3, one scale per 64", lm__rival_open, NULL},
    {"cold", "ours, RoPE undone",
     "coded pages, as cold:z:k=0.65,v=0.9 or cold:z:k=0.65,v=0.6@FILE.lqp", lm__library_open, NULL},
    {"warm", "ours, RoPE kept", "coded pages, as warm:z:k=0.65,v=0.9, or @FILE.lqp likewise",
     lm__library_open, NULL},
    {"fixed", "ours, fixed pages", "fixed pages: fixed:4, fixed:3, fixed:e8", lm__library_open,
     NULL},
    {"hot", "ours, fixed width",
     "lq_kv's integers, attended as they are: hot:8, hot:6, hot:5, hot:4, hot:e8, hot:3, hot:2, "
     "hot:8/4; its bits count whole pages of 64 tokens and their means, not sinks and window",
     NULL, lm__live_open},
    {"live", "ours, live",
     "lq_kv with coded pages, decoded by attention: live:z:k=0.35,v=0.5 (k in the keys' own unit), "
     "or @FILE.lqp of calibrate --warm --group head --text; or without a code: live:raw, "
     "live:raw/4",
     NULL, lm__live_open},
};

enum { LM_KIND_COUNT = (int)(sizeof lm_codec_kinds / sizeof lm_codec_kinds[0]) };

static const lm_codec_kind *lm_codec_find(const char *spec)
{
    size_t n = strcspn(spec, ":/@");
    for (size_t i = 0; i < LM_KIND_COUNT; i++) {
        const char *prefix = lm_codec_kinds[i].prefix;
        if (strlen(prefix) == n && memcmp(prefix, spec, n) == 0) return &lm_codec_kinds[i];
    }
    return NULL;
}

static void lm_codec_open(lm_codec *codec, const char *spec, const lm_geometry *g)
{
    const lm_codec_kind *kind = lm_codec_find(spec);
    memset(codec, 0, sizeof *codec);
    if (kind == NULL) {
        lm_fail("no codec '%s' (run 'lm codecs' for the list)", spec);
    }
    const char *fault = kind->open != NULL ? kind->open(codec, spec, g) : "is a cache, not a codec";
    if (fault != NULL) lm_fail("codec '%s': %s", spec, fault);
}

/* Whether a spec names a cache of lq_kv. */
static int lm_spec_live(const char *spec)
{
    const lm_codec_kind *kind = spec != NULL ? lm_codec_find(spec) : NULL;
    return kind != NULL && kind->live != NULL;
}

/* The cache that the spec names, or the program ends. Pool and spec must outlive it. */
static void lm_cache_open(lm_cache *cache, const lm_geometry *g, lm_pool *pool,
                          const lm_cache_desc *d)
{
    if (!lm_spec_live(d->spec)) {
        (void)lm_store_open(cache, g, pool, d);
        return;
    }
    const char *fault = lm_codec_find(d->spec)->live(cache, g, d);
    if (fault != NULL) lm_fail("codec '%s': %s", d->spec, fault);
}

#endif
