/* lm_cache.h - part of lm.c: the KV cache that the model sees, and the codecs behind it

   The model talks to an lm_cache: append a layer's keys and values, attend with its queries, end
   the step. lm_store is the one implementation here: plain floats, and a codec that every 64
   tokens gets the finished chunk of all layers, counts the bytes that it would store, and puts
   what a reader would get back in its place. So attention sees the decoded past and the raw
   current chunk, which is what a cache with a window of raw tokens does.

   To add a codec: write an open function and a row in lm_kinds.h. A cache with an attention of its
   own fills an lm_cache; lm_live.h does so for lq_kv. */
#ifndef LM_CACHE_H
#define LM_CACHE_H

#include "lm_math.h"

enum { LM_CHUNK = 64 };

/* What a codec must know about the model. Key channels are in half-split order: channel i turns
   with channel i + rope_dims / 2 by the angle position * rope[i]; with `adjacent`, 2 i with
   2 i + 1. Rotated keys are also scaled by rope_magnitude (1 but for YaRN). */
typedef struct lm_geometry {
    size_t layers;
    size_t heads;
    size_t kv_heads;
    size_t head_dim;
    size_t rope_dims;
    const float *rope;
    float rope_magnitude;
    int adjacent;
} lm_geometry;

/* Consecutive tokens of one sequence, all layers. The codec overwrites k and v. */
typedef struct lm_chunk {
    size_t position;
    size_t tokens;
    float *k;       /* [layers][kv_heads][tokens][head_dim], after RoPE */
    float *v;       /* [layers][kv_heads][tokens][head_dim] */
    const float *q; /* [layers][heads][tokens][head_dim] after RoPE, or NULL unless wanted */
} lm_chunk;

/* A prefix that is coded as one, behind the sinks.
     mass  [layers][mass_stride] attention that the prefix's own queries gave each of its tokens from
           `position` on: mean over the query heads and over the queries from that token on */
typedef struct lm_whole {
    lm_chunk chunk;
    const float *mass;
    size_t mass_stride;
} lm_whole;

/* Bytes that the codec would have written; shared is what belongs to neither (directories). */
typedef struct lm_bill {
    uint64_t key_bytes;
    uint64_t value_bytes;
    uint64_t shared_bytes;
} lm_bill;

/* code, whole and finish add to the bill and return NULL, or one line that says what went wrong.
   whole (or NULL) is for prefixes, instead of code chunk by chunk. finish ends a sequence (it may be
   NULL), reset begins the next (likewise). */
typedef struct lm_codec {
    void *state;
    size_t profile_bytes;
    int wants_queries;
    const char *(*code)(void *state, lm_chunk *chunk, lm_bill *bill);
    const char *(*whole)(void *state, lm_whole *whole, lm_bill *bill);
    const char *(*finish)(void *state, lm_bill *bill);
    void (*reset)(void *state);
    void (*close)(void *state);
} lm_codec;

/* What a cache is opened with.
     spec      NULL: raw floats
     capacity  tokens
     sinks     first tokens, never coded
     window    at least so many last tokens are not coded
     chunk     a divisor of LM_CHUNK: tokens that are coded together, and the longest step of the
               evaluation; 0: what suits the cache
     prefix    0, or so many first tokens come by take, which codes them all, and none behind them
               is ever coded */
typedef struct lm_cache_desc {
    const char *spec;
    size_t capacity;
    size_t sinks;
    size_t window;
    size_t chunk;
    size_t prefix;
} lm_cache_desc;

typedef struct lm_cache lm_cache;
typedef struct lm_store lm_store;

/* A kind of codec runs in the cache below, or is a cache: it has one of open and live. They return
   NULL, or one line about the spec. A kind owns every spec that is its prefix or begins with its
   prefix and one of ":/@". */
typedef struct lm_codec_kind {
    const char *prefix;
    const char *curve;
    const char *usage;
    const char *(*open)(lm_codec *codec, const char *spec, const lm_geometry *g);
    const char *(*live)(lm_cache *cache, const lm_geometry *g, const lm_cache_desc *d);
} lm_codec_kind;

/* Opens the codec that the spec names, or ends the program; lm_kinds.h holds the list. */
static void lm_codec_open(lm_codec *codec, const char *spec, const lm_geometry *g);

/* ---- the cache ---- */

/* What the sequences of a cache took, for `elements` numbers of keys and as many of values. */
typedef struct lm_tally {
    lm_bill bill;
    uint64_t elements;
    size_t profile_bytes;
} lm_tally;

/* position is that of the first of the n tokens; k and v are [n][kv_heads][head_dim], q and out
   [n][heads][head_dim]. end_step comes after the last layer, flush at the end of a sequence. take
   fills a cache that was opened with a prefix from a raw store of `held` tokens, perhaps of more.
   `step` is the longest step in which tokens see each other much as one at a time. */
struct lm_cache {
    void *state;
    const char *spec;
    size_t step;
    void (*append)(void *state, size_t layer, const float *k, const float *v, size_t position,
                   size_t n);
    void (*attend)(void *state, size_t layer, const float *q, float *out, size_t position,
                   size_t n);
    void (*end_step)(void *state, size_t position, size_t n);
    void (*take)(void *state, const lm_store *raw, size_t held);
    void (*flush)(void *state);
    void (*reset)(void *state);
    void (*tally)(const void *state, lm_tally *tally);
    void (*close)(void *state);
};

/* Keys lie as [layer][head][token / 8][channel][token % 8] and values as [layer][head]
   [channel / 8][token][channel % 8]: both are left operands of lm_tile as they are. */
struct lm_store {
    lm_geometry g;
    lm_pool *pool;
    size_t capacity;
    size_t value_rows;
    float *k;
    float *v;
    float *scratch;
    size_t scratch_floats;
    lm_codec codec;
    int has_codec;
    size_t sinks;
    size_t window;
    size_t chunk;
    size_t prefix;
    size_t coded;
    size_t filled;
    float *chunk_k;
    float *chunk_v;
    float *chunk_q;
    float *mass; /* of a raw store with a prefix: [workers][layers][capacity], else NULL */
    lm_bill bill;
    uint64_t elements;
    const char *spec;
};

static float *lm__key(const lm_store *s, size_t layer, size_t head, size_t token)
{
    size_t run = (layer * s->g.kv_heads + head) * s->capacity * s->g.head_dim;
    return s->k + run + token / LM_ROWS * LM_ROWS * s->g.head_dim + token % LM_ROWS;
}

static float *lm__value(const lm_store *s, size_t layer, size_t head, size_t channel, size_t token)
{
    size_t run = (layer * s->g.kv_heads + head) * s->capacity * s->value_rows;
    return s->v + run + (channel / LM_ROWS * s->capacity + token) * LM_ROWS + channel % LM_ROWS;
}

/* Copies one vector of a head in or out. */
static void lm__put(lm_store *s, size_t layer, size_t head, size_t token, const float *k,
                    const float *v)
{
    float *at = lm__key(s, layer, head, token);
    for (size_t i = 0; i < s->g.head_dim; i++) {
        at[i * LM_ROWS] = k[i];
        *lm__value(s, layer, head, i, token) = v[i];
    }
}

static void lm__get(const lm_store *s, size_t layer, size_t head, size_t token, float *k, float *v)
{
    const float *at = lm__key(s, layer, head, token);
    for (size_t i = 0; i < s->g.head_dim; i++) {
        k[i] = at[i * LM_ROWS];
        v[i] = *lm__value(s, layer, head, i, token);
    }
}

static void lm__store_append(void *state, size_t layer, const float *k, const float *v,
                             size_t position, size_t n)
{
    lm_store *s = (lm_store *)state;
    size_t t, h;
    for (t = 0; t < n; t++) {
        for (h = 0; h < s->g.kv_heads; h++) {
            size_t at = (t * s->g.kv_heads + h) * s->g.head_dim;
            lm__put(s, layer, h, position + t, k + at, v + at);
        }
    }
}

/* ---- attention ---- */

typedef struct lm__attend_job {
    const lm_store *s;
    size_t layer;
    const float *q;
    float *out;
    size_t position;
    size_t n;
    size_t panels;
} lm__attend_job;

/* Softmax down the columns of p[keys][LM_COLS]; column j sees keys below visible + j. The sums
   stay apart, in total, and divide the output instead. What a column must not see is made so low
   that its exponential vanishes beside the column's largest. */
static void lm__softmax(float *p, size_t keys, size_t visible, float *total)
{
    size_t t, j;
    for (t = visible; t < keys; t++) {
        for (j = 0; j < LM_COLS && visible + j <= t; j++) {
            p[t * LM_COLS + j] = -1e30f;
        }
    }
    float top[LM_COLS];
    for (j = 0; j < LM_COLS; j++) {
        top[j] = -1e30f;
        total[j] = 0.0f;
    }
    for (t = 0; t < keys; t++) {
        for (j = 0; j < LM_COLS; j++) {
            float x = p[t * LM_COLS + j];
            top[j] = x > top[j] ? x : top[j];
        }
    }
    for (t = 0; t < keys; t++) {
        for (j = 0; j < LM_COLS; j++) {
            float x = lm_exp(p[t * LM_COLS + j] - top[j]);
            p[t * LM_COLS + j] = x;
            total[j] += x;
        }
    }
}

/* Attention that the tokens of a layer got, as a worker saw it. */
static float *lm__mass(const lm_store *s, size_t worker, size_t layer)
{
    return s->mass + (worker * s->g.layers + layer) * s->capacity;
}

/* One query head and LM_COLS tokens: scores = keys x queries, softmax, output = values x p. */
static void lm__attend_panel(void *context, size_t index, size_t worker)
{
    const lm__attend_job *a = (const lm__attend_job *)context;
    const lm_store *s = a->s;
    size_t dim = s->g.head_dim;
    size_t head = index / a->panels;
    size_t kv = head * s->g.kv_heads / s->g.heads;
    size_t first = index % a->panels * LM_COLS;
    size_t width = a->n - first < LM_COLS ? a->n - first : LM_COLS;
    size_t keys = a->position + first + width;
    float *queries = s->scratch + worker * s->scratch_floats;
    float *p = queries + dim * LM_COLS;
    float scale = 1.0f / sqrtf((float)dim);
    size_t i, j, t;
    for (i = 0; i < dim; i++) {
        for (j = 0; j < LM_COLS; j++) {
            const float *q = a->q + ((first + j) * s->g.heads + head) * dim;
            queries[i * LM_COLS + j] = j < width ? q[i] * scale : 0.0f;
        }
    }
    for (t = 0; t < keys; t += LM_ROWS) {
        lm_tile(p + t * LM_COLS, lm__key(s, a->layer, kv, t), queries, dim);
    }
    float total[LM_COLS];
    lm__softmax(p, keys, a->position + first + 1, total);
    for (t = 0; t < keys && s->mass != NULL && a->position < s->prefix; t++) {
        float *mass = lm__mass(s, worker, a->layer);
        for (j = 0; j < width; j++) {
            mass[t] += p[t * LM_COLS + j] / total[j];
        }
    }
    float tile[LM_ROWS * LM_COLS];
    for (i = 0; i < dim; i += LM_ROWS) {
        lm_tile(tile, lm__value(s, a->layer, kv, i, 0), p, keys);
        for (j = 0; j < width; j++) {
            float *out = a->out + ((first + j) * s->g.heads + head) * dim + i;
            for (t = 0; t < LM_ROWS && i + t < dim; t++) {
                out[t] = tile[t * LM_COLS + j] / total[j];
            }
        }
    }
}

/* One query head and one token: the scores of all keys, softmax, all channels. */
static void lm__attend_one(void *context, size_t head, size_t worker)
{
    const lm__attend_job *a = (const lm__attend_job *)context;
    const lm_store *s = a->s;
    size_t dim = s->g.head_dim;
    size_t kv = head * s->g.kv_heads / s->g.heads;
    size_t keys = a->position + 1;
    const float *q = a->q + head * dim;
    float *p = s->scratch + worker * s->scratch_floats;
    float *out = p + lm_round_up(keys, LM_ROWS);
    float scale = 1.0f / sqrtf((float)dim);
    float top = -1e30f;
    float total = 0.0f;
    size_t i, t;
    lm_blocks(p, q, lm__key(s, a->layer, kv, 0), LM_ROWS * dim, dim,
              lm_round_up(keys, LM_ROWS) / LM_ROWS);
    for (t = 0; t < keys; t++) {
        p[t] *= scale;
        top = p[t] > top ? p[t] : top;
    }
    for (t = 0; t < keys; t++) {
        p[t] = lm_exp(p[t] - top);
        total += p[t];
    }
    lm_blocks(out, p, lm__value(s, a->layer, kv, 0, 0), s->capacity * LM_ROWS, keys,
              s->value_rows / LM_ROWS);
    for (i = 0; i < dim; i++) {
        a->out[head * dim + i] = out[i] / total;
    }
}

static void lm__store_attend(void *state, size_t layer, const float *q, float *out, size_t position,
                             size_t n)
{
    lm_store *s = (lm_store *)state;
    size_t t, h;
    lm__attend_job a;
    a.s = s;
    a.layer = layer;
    a.q = q;
    a.out = out;
    a.position = position;
    a.n = n;
    a.panels = lm_round_up(n, LM_COLS) / LM_COLS;
    if (n == 1) {
        lm_parallel(s->pool, lm__attend_one, &a, s->g.heads);
    } else {
        lm_parallel(s->pool, lm__attend_panel, &a, s->g.heads * a.panels);
    }
    for (t = 0; t < n && s->chunk_q != NULL; t++) {
        for (h = 0; h < s->g.heads; h++) {
            size_t row = (layer * s->g.heads + h) * LM_CHUNK + (position + t) % LM_CHUNK;
            memcpy(s->chunk_q + row * s->g.head_dim, q + (t * s->g.heads + h) * s->g.head_dim,
                   s->g.head_dim * sizeof *q);
        }
    }
}

/* ---- coding a chunk ---- */

/* Moves vectors between the store and k, v [layers][kv_heads][tokens][head_dim]. */
static void lm__stage(lm_store *s, float *k, float *v, size_t from, size_t n, int back)
{
    size_t run, t;
    for (run = 0; run < s->g.layers * s->g.kv_heads; run++) {
        size_t layer = run / s->g.kv_heads;
        size_t head = run % s->g.kv_heads;
        for (t = 0; t < n; t++) {
            size_t at = (run * n + t) * s->g.head_dim;
            if (back) {
                lm__put(s, layer, head, from + t, k + at, v + at);
            } else {
                lm__get(s, layer, head, from + t, k + at, v + at);
            }
        }
    }
}

/* Queries are kept in rows of LM_CHUNK; a shorter chunk closes the gaps, front to back. */
static const float *lm__stage_queries(lm_store *s, size_t from, size_t n)
{
    if (s->chunk_q == NULL) return NULL;
    for (size_t run = 0; run < s->g.layers * s->g.heads; run++) {
        memmove(s->chunk_q + run * n * s->g.head_dim,
                s->chunk_q + (run * LM_CHUNK + from % LM_CHUNK) * s->g.head_dim,
                n * s->g.head_dim * sizeof(float));
    }
    return s->chunk_q;
}

static void lm__store_chunk(lm_store *s, size_t end)
{
    lm_chunk c;
    c.position = s->coded;
    c.tokens = end - s->coded;
    c.k = s->chunk_k;
    c.v = s->chunk_v;
    lm__stage(s, c.k, c.v, c.position, c.tokens, 0);
    c.q = lm__stage_queries(s, c.position, c.tokens);
    const char *fault = s->codec.code(s->codec.state, &c, &s->bill);
    if (fault != NULL) {
        lm_fail("codec '%s' at token %zu: %s", s->spec, c.position, fault);
    }
    lm__stage(s, c.k, c.v, c.position, c.tokens, 1);
    s->elements += (uint64_t)(c.tokens * s->g.layers * s->g.kv_heads) * s->g.head_dim;
    s->coded = end;
}

/* Chunks end at multiples of their length, the last one at the end. */
static void lm__store_code(lm_store *s, size_t end)
{
    end = s->prefix > 0 && s->prefix < end ? s->prefix : end;
    while (s->has_codec && s->coded < end) {
        size_t next = (s->coded / s->chunk + 1) * s->chunk;
        lm__store_chunk(s, next < end ? next : end);
    }
}

static void lm__store_end_step(void *state, size_t position, size_t n)
{
    lm_store *s = (lm_store *)state;
    s->filled = position + n;
    if (s->filled > s->window) {
        lm__store_code(s, (s->filled - s->window) / s->chunk * s->chunk);
    }
}

/* The attention mass of tokens from `first` on, into [layers][n]. */
static void lm__store_mass(const lm_store *raw, float *mass, size_t first, size_t n)
{
    size_t l, t, w;
    for (l = 0; l < raw->g.layers; l++) {
        for (t = 0; t < n; t++) {
            float queries = (float)((raw->prefix - first - t) * raw->g.heads);
            float sum = 0.0f;
            for (w = 0; w < raw->pool->workers; w++) {
                sum += lm__mass(raw, w, l)[first + t];
            }
            mass[l * n + t] = sum / queries;
        }
    }
}

/* The prefix at once. */
static void lm__store_whole(lm_store *s, const lm_store *raw)
{
    size_t runs = s->g.layers * s->g.kv_heads;
    size_t n = s->prefix - s->coded;
    float *mass = (float *)lm_alloc(s->g.layers * n, sizeof *mass);
    lm_whole w;
    memset(&w, 0, sizeof w);
    w.chunk.position = s->coded;
    w.chunk.tokens = n;
    w.chunk.k = (float *)lm_alloc(runs * n, s->g.head_dim * sizeof(float));
    w.chunk.v = (float *)lm_alloc(runs * n, s->g.head_dim * sizeof(float));
    lm__store_mass(raw, mass, s->coded, n);
    w.mass = mass;
    w.mass_stride = n;
    lm__stage(s, w.chunk.k, w.chunk.v, s->coded, n, 0);
    const char *fault = s->codec.whole(s->codec.state, &w, &s->bill);
    if (fault != NULL) lm_fail("codec '%s': %s", s->spec, fault);
    lm__stage(s, w.chunk.k, w.chunk.v, s->coded, n, 1);
    s->elements += (uint64_t)(runs * n) * s->g.head_dim;
    s->coded = s->prefix;
    free(w.chunk.k);
    free(w.chunk.v);
    free(mass);
}

/* Both have the same geometry and capacity. */
static void lm__store_take(void *state, const lm_store *raw, size_t held)
{
    lm_store *s = (lm_store *)state;
    size_t runs = s->g.layers * s->g.kv_heads;
    (void)held;
    memcpy(s->k, raw->k, runs * s->capacity * s->g.head_dim * sizeof *s->k);
    memcpy(s->v, raw->v, runs * s->capacity * s->value_rows * sizeof *s->v);
    if (s->has_codec && s->codec.whole != NULL && s->coded < s->prefix) {
        lm__store_whole(s, raw);
    }
    lm__store_code(s, s->prefix);
}

static void lm__store_flush(void *state)
{
    lm_store *s = (lm_store *)state;
    const char *fault = NULL;
    lm__store_code(s, s->filled);
    if (s->has_codec && s->codec.finish != NULL) {
        fault = s->codec.finish(s->codec.state, &s->bill);
    }
    if (fault != NULL) lm_fail("codec '%s' at its end: %s", s->spec, fault);
}

static void lm__store_tally(const void *state, lm_tally *tally)
{
    const lm_store *s = (const lm_store *)state;
    tally->bill = s->bill;
    tally->elements = s->elements;
    tally->profile_bytes = s->codec.profile_bytes;
}

static void lm__store_reset(void *state)
{
    lm_store *s = (lm_store *)state;
    s->coded = s->sinks;
    s->filled = 0;
    if (s->mass != NULL) {
        memset(s->mass, 0,
               s->pool->workers * s->g.layers * s->capacity * sizeof *s->mass);
    }
    if (s->has_codec && s->codec.reset != NULL) s->codec.reset(s->codec.state);
}

static void lm__store_close(void *state)
{
    lm_store *s = (lm_store *)state;
    if (s->has_codec && s->codec.close != NULL) s->codec.close(s->codec.state);
    free(s->k);
    free(s->v);
    free(s->scratch);
    free(s->chunk_k);
    free(s->chunk_v);
    free(s->chunk_q);
    free(s->mass);
    free(s);
}

/* Bytes of the two arrays, to plan with. */
static size_t lm_store_bytes(const lm_geometry *g, size_t capacity)
{
    size_t dims = g->head_dim + lm_round_up(g->head_dim, LM_ROWS);
    return g->layers * g->kv_heads * lm_round_up(capacity, LM_ROWS) * dims * sizeof(float);
}

/* A cache in floats, whose codec, if any, changes them in place. The pool and the spec must outlive
   it. */
static lm_store *lm_store_open(lm_cache *cache, const lm_geometry *g, lm_pool *pool,
                               const lm_cache_desc *d)
{
    lm_store *s = (lm_store *)lm_alloc(1, sizeof *s);
    size_t runs = g->layers * g->kv_heads;
    s->g = *g;
    s->pool = pool;
    s->capacity = lm_round_up(d->capacity, LM_ROWS);
    s->value_rows = lm_round_up(g->head_dim, LM_ROWS);
    s->k = (float *)lm_alloc(runs * s->capacity, g->head_dim * sizeof(float));
    s->v = (float *)lm_alloc(runs * s->capacity, s->value_rows * sizeof(float));
    s->scratch_floats = (g->head_dim + s->capacity) * LM_COLS;
    s->scratch = (float *)lm_alloc(pool->workers, s->scratch_floats * sizeof(float));
    s->sinks = d->sinks;
    s->coded = d->sinks;
    s->window = d->window;
    s->prefix = d->prefix;
    s->chunk = d->chunk > 0 ? d->chunk : LM_CHUNK;
    s->spec = d->spec;
    if (d->spec == NULL && d->prefix > 0) {
        s->mass = (float *)lm_alloc(pool->workers * g->layers, s->capacity * sizeof(float));
    }
    if (d->spec != NULL) {
        lm_codec_open(&s->codec, d->spec, g);
        s->has_codec = 1;
        s->chunk_k = (float *)lm_alloc(runs * LM_CHUNK, g->head_dim * sizeof(float));
        s->chunk_v = (float *)lm_alloc(runs * LM_CHUNK, g->head_dim * sizeof(float));
        if (s->codec.wants_queries && (d->window > 0 || d->prefix > 0)) {
            lm_fail("codec '%s' wants queries: it has no window, and resumes nothing", d->spec);
        }
        if (s->codec.wants_queries) {
            s->chunk_q =
                (float *)lm_alloc(g->layers * g->heads * LM_CHUNK, g->head_dim * sizeof(float));
        }
    }
    cache->state = s;
    cache->spec = d->spec;
    cache->step = s->chunk;
    cache->append = lm__store_append;
    cache->attend = lm__store_attend;
    cache->end_step = lm__store_end_step;
    cache->take = lm__store_take;
    cache->flush = lm__store_flush;
    cache->reset = lm__store_reset;
    cache->tally = lm__store_tally;
    cache->close = lm__store_close;
    return s;
}

/* The same without a codec. */
static lm_store *lm_store_raw(lm_cache *cache, const lm_geometry *g, lm_pool *pool, size_t capacity)
{
    lm_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = capacity;
    return lm_store_open(cache, g, pool, &d);
}

#endif
