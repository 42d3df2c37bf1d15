/* lm_live.h - part of lm.c: lq_kv as the cache of the model

   No floats are kept beside it: a layer's tokens go in, its queries come out. A spec says how keys
   and values are kept, as hot:4, or KEYS/VALUES as hot:8/4, or live:z:k=STEP,v=STEP for coded
   pages. To add a fixed policy of lq_kv: a row in the table below. */
#ifndef LM_LIVE_H
#define LM_LIVE_H

#include "lm_profiles.h"

typedef struct lm_live_word {
    const char *word;
    lq_kv_policy policy;
} lm_live_word;

static const lm_live_word lm_live_words[] = {
    {"8", {LQ_KV_HOT, LQ_Z, 8, 0}},   {"6", {LQ_KV_HOT, LQ_Z, 6, 0}},
    {"5", {LQ_KV_HOT, LQ_Z, 5, 0}},   {"4", {LQ_KV_HOT, LQ_Z, 4, 0}},
    {"3", {LQ_KV_HOT, LQ_Z, 3, 0}},   {"2", {LQ_KV_HOT, LQ_Z, 2, 0}},
    {"e8", {LQ_KV_HOT, LQ_E8, 4, 0}}, {"raw", {LQ_KV_RAW, 0, 0, 0}},
};

enum { LM_LIVE_WORDS = (int)(sizeof lm_live_words / sizeof lm_live_words[0]) };

/* Tokens enter pages in eights. A step of eight sees itself coded, all but what is in the window:
   with none, eights would look worse than the single tokens of real use. */
enum { LM_LIVE_STEP = 8, LM_LIVE_WINDOW = 32 };

/* page_bytes: of the keys and of the values of all layers in a page. */
typedef struct lm_live {
    lq_kv kv;
    lq_kv_desc desc;
    lq_rope rope;
    void *memory;
    size_t bytes;
    size_t page_bytes[2];
    void *tables;             /* warm: the coder's */
    lm_profiles *profiles;    /* warm, of a file: NULL fits them to the sequence */
    const lq_profile **shelf; /* (layers, keys and values, heads) */
    size_t shelf_count;
    uint32_t heads;
    float *mass; /* [layers][tokens] attention of a session that is to be packed, or NULL */
    const char *spec;
    lm_tally tally;
    struct lm__live_tail *tail; /* where a prefix is resumed, else NULL */
} lm_live;

/* Raw tokens behind a prefix, and room to join their attention to that of the prefix. */
typedef struct lm__live_tail {
    size_t prefix;
    lq_kv kv;
    lq_kv_desc desc;
    void *memory;
    size_t bytes;
    float *rows; /* two of (LM_CHUNK, kv_heads, head_dim) */
    float *out;  /* (LM_CHUNK, heads, head_dim) */
    float *lse;  /* two of (LM_CHUNK, heads) */
} lm__live_tail;

/* ---- specs ---- */

static const lq_kv_policy *lm__live_word(const char *word, size_t count)
{
    for (size_t i = 0; i < LM_LIVE_WORDS; i++) {
        if (strlen(lm_live_words[i].word) == count &&
            memcmp(lm_live_words[i].word, word, count) == 0) {
            return &lm_live_words[i].policy;
        }
    }
    return NULL;
}

/* Coded pages: QUANTIZER:k=STEP,v=STEP, perhaps @FILE. */
static const char *lm__live_coded(const char *words, lq_kv_policy policies[2])
{
    size_t count = strcspn(words, ":");
    int quantizer = quantizer_named(words, count);
    float k, v;
    int used = 0;
    memset(policies, 0, 2 * sizeof *policies);
    policies[0].quantizer = quantizer;
    if (quantizer == 0 || quantizer > LQ_E8_RELAXED ||
        sscanf(words + count, ":k=%f,v=%f%n", &k, &v, &used) != 2 ||
        (words[count + (size_t)used] != 0 && words[count + (size_t)used] != '@')) {
        return "coded pages are z, d4, e8 or e8r, then :k=STEP,v=STEP, then nothing or @FILE";
    }
    policies[0].kind = LQ_KV_WARM;
    policies[1] = policies[0];
    policies[0].step = k;
    policies[1].step = v;
    return NULL;
}

/* The policies of keys and values; PREFIX alone means 4 bits. NULL, or one line about the spec. */
static const char *lm_live_parse(const char *spec, lq_kv_policy policies[2])
{
    const char *words = strchr(spec, ':') != NULL ? strchr(spec, ':') + 1 : "4";
    const lq_kv_policy *k, *v;
    if (strchr(words, ':') != NULL) return lm__live_coded(words, policies);
    const char *slash = strchr(words, '/');
    k = lm__live_word(words, slash != NULL ? (size_t)(slash - words) : strlen(words));
    v = slash != NULL ? lm__live_word(slash + 1, strlen(slash + 1)) : k;
    if (k == NULL || v == NULL) {
        return "words are 8, 6, 5, 4, e8, 3, 2, raw, or KEYS/VALUES of them";
    }
    policies[0] = *k;
    policies[1] = *v;
    return NULL;
}

/* ---- what it takes ---- */

/* Bytes of an empty cache's only page. */
static size_t lm__live_page(const lq_kv_desc *like, const lq_kv_policy *k, const lq_kv_policy *v)
{
    lq_kv_desc d = *like;
    size_t page = 0;
    d.k = *k;
    d.v = *v;
    d.tokens = 1;
    d.pages = 1;
    size_t bytes = lq_kv_bytes(&d);
    void *memory = lm_alloc(bytes, 1);
    lq_kv_account account;
    lq_kv kv;
    if (bytes > 0 && lq_kv_init(&kv, memory, bytes, &d) == LQ_OK) {
        page = lq_kv_stats(&kv, &account) == LQ_OK ? account.free_bytes : 0;
        lq_kv_free(&kv);
    }
    free(memory);
    return page;
}

/* Keys and values apart: a page with the others raw, less what those take. */
static void lm__live_pages(lm_live *l)
{
    static const lq_kv_policy raw = {LQ_KV_RAW, 0, 0, 0};
    size_t half = lm__live_page(&l->desc, &raw, &raw) / 2;
    if (l->desc.k.kind == LQ_KV_WARM) {
        return; /* each is another size: keys and values share the bill */
    }
    l->page_bytes[0] = lm__live_page(&l->desc, &l->desc.k, &raw) - half;
    l->page_bytes[1] = lm__live_page(&l->desc, &raw, &l->desc.v) - half;
}

/* ---- the cache ---- */

__attribute__((noreturn)) static void lm__live_fail(const lm_live *l, const char *what,
                                                    size_t layer, size_t position,
                                                    const char *why)
{
    lm_fail("cache '%s': %s of layer %zu at token %zu: %s", l->spec, what, layer, position, why);
}

/* Why attention failed. */
static const char *lm__live_why(const lq_kv *kv, const lq_kv_attend_desc *a, int status)
{
    const char *why;
    return lq_kv_attend_check(kv, a, &why) ? why : lq_status_string(status);
}

/* Floats of n tokens to a cache, l's own or its tail's. */
static void lm__live_put(const lm_live *l, lq_kv *kv, size_t layer, const float *k, const float *v,
                         size_t position, size_t n)
{
    lq_kv_view keys, values;
    memset(&keys, 0, sizeof keys);
    memset(&values, 0, sizeof values);
    keys.data = k;
    values.data = v;
    int status = lq_kv_append(kv, (uint32_t)layer, &keys, &values, NULL, n);
    if (status) {
        lm__live_fail(l, "keys and values", layer, position, lq_status_string(status));
    }
}

static void lm__live_append(void *state, size_t layer, const float *k, const float *v,
                            size_t position, size_t n)
{
    lm_live *l = (lm_live *)state;
    lm__live_put(l, &l->kv, layer, k, v, position, n);
}

static void lm__live_attend(void *state, size_t layer, const float *q, float *out, size_t position,
                            size_t n)
{
    lm_live *l = (lm_live *)state;
    lq_kv_attend_desc a;
    memset(&a, 0, sizeof a);
    a.layer = (uint32_t)layer;
    a.heads = l->heads;
    a.queries = n;
    a.q.data = q;
    a.out.data = out;
    a.mass = l->mass != NULL ? l->mass + layer * l->desc.tokens : NULL;
    int status = lq_kv_attend(&l->kv, &a);
    if (status) {
        lm__live_fail(l, "attention", layer, position, lm__live_why(&l->kv, &a, status));
    }
}

static void lm__live_end_step(void *state, size_t position, size_t n)
{
    (void)state;
    (void)position;
    (void)n;
}

/* ---- behind a prefix ---- */

/* Tokens leave the ring for pages in groups of 64 or 8, so some of the raw tokens behind the prefix
   go in too: then all of the prefix is in pages. Attention does not look at them. */
static void lm__live_take(void *state, const lm_store *raw, size_t held)
{
    lm_live *l = (lm_live *)state;
    const lm_geometry *g = &raw->g;
    size_t more = l->desc.sinks == LQ_KV_NONE ? 0 : l->desc.sinks;
    size_t end = lm_round_up(l->tail->prefix - more, LM_CHUNK) + more;
    float *k = l->tail->rows;
    float *v = k + LM_CHUNK * g->kv_heads * g->head_dim;
    size_t at, layer, i, n;
    end = end < held ? end : held;
    for (at = 0; at < end; at += n) {
        n = end - at < LM_CHUNK ? end - at : LM_CHUNK;
        for (layer = 0; layer < g->layers; layer++) {
            for (i = 0; i < n * g->kv_heads; i++) {
                lm__get(raw, layer, i % g->kv_heads, at + i / g->kv_heads, k + i * g->head_dim,
                        v + i * g->head_dim);
            }
            lm__live_append(l, layer, k, v, at, n);
        }
    }
}

static void lm__tail_append(void *state, size_t layer, const float *k, const float *v,
                            size_t position, size_t n)
{
    lm_live *l = (lm_live *)state;
    lm__live_put(l, &l->tail->kv, layer, k, v, position, n);
}

/* The prefix, and the tail up to each query. */
static void lm__tail_attend(void *state, size_t layer, const float *q, float *out, size_t position,
                            size_t n)
{
    lm_live *l = (lm_live *)state;
    lm__live_tail *t = l->tail;
    size_t rows = n * l->heads;
    lq_positions positions = {0, 1, NULL};
    lq_kv_attend_desc a;
    memset(&a, 0, sizeof a);
    a.layer = (uint32_t)layer;
    a.heads = l->heads;
    a.queries = n;
    a.q.data = q;
    a.out.data = t->out;
    a.lse = t->lse;
    int status = lq_kv_attend(&t->kv, &a);
    positions.first = (int64_t)position;
    a.positions = &positions;
    a.all = 1;
    a.count = t->prefix;
    a.out.data = out;
    a.lse = t->lse + rows;
    status = status ? status : lq_kv_attend(&l->kv, &a);
    status =
        status ? status : lq_attend_merge(out, t->lse + rows, t->out, t->lse, rows, l->desc.k_dims);
    if (status) {
        lm__live_fail(l, "attention", layer, position, lm__live_why(&l->kv, &a, status));
    }
}

/* Adds what is in pages to the bill; means are shared. */
static void lm__live_flush(void *state)
{
    lm_live *l = (lm_live *)state;
    size_t numbers = (size_t)l->desc.layers * l->desc.kv_heads * l->desc.k_dims;
    size_t raw, pages;
    lq_kv_account a;
    if (lq_kv_stats(&l->kv, &a)) lm_fail("cache '%s' has no account", l->spec);
    raw = (a.tokens - a.hot_tokens) * 2 * numbers * sizeof(uint16_t);
    pages = a.used_bytes - raw;
    l->tally.bill.key_bytes += a.pages * l->page_bytes[0];
    l->tally.bill.value_bytes += a.pages * l->page_bytes[1];
    l->tally.bill.shared_bytes += pages - a.pages * (l->page_bytes[0] + l->page_bytes[1]);
    l->tally.elements += (uint64_t)a.hot_tokens * numbers;
}

static void lm__live_reset(void *state)
{
    lm_live *l = (lm_live *)state;
    lq_kv_free(&l->kv);
    if (lq_kv_init(&l->kv, l->memory, l->bytes, &l->desc)) {
        lm_fail("cache '%s' cannot begin again", l->spec);
    }
    if (l->tail != NULL) {
        lq_kv_free(&l->tail->kv);
        if (lq_kv_init(&l->tail->kv, l->tail->memory, l->tail->bytes, &l->tail->desc)) {
            lm_fail("cache '%s' cannot begin again", l->spec);
        }
    }
}

static void lm__live_tally(const void *state, lm_tally *tally)
{
    *tally = ((const lm_live *)state)->tally;
}

static void lm__live_close(void *state)
{
    lm_live *l = (lm_live *)state;
    lq_kv_free(&l->kv);
    if (l->tail != NULL) {
        lq_kv_free(&l->tail->kv);
        free(l->tail->memory);
        free(l->tail->rows);
        free(l->tail->out);
        free(l->tail->lse);
        free(l->tail);
    }
    if (l->profiles != NULL) lm_profiles_close(l->profiles);
    free(l->shelf);
    free(l->mass);
    free(l->tables);
    free(l->memory);
    free(l);
}

static void lm__live_desc(lm_live *l, const lm_geometry *g, const lm_cache_desc *d)
{
    lm_rope_of(&l->rope, g);
    l->desc.layers = (uint32_t)g->layers;
    l->desc.kv_heads = (uint32_t)g->kv_heads;
    l->desc.k_dims = (uint32_t)g->head_dim;
    l->desc.tokens = d->capacity;
    l->desc.sinks = d->sinks > 0 ? (uint32_t)d->sinks : LQ_KV_NONE;
    l->desc.window = d->window > 0 ? (uint32_t)d->window : LQ_KV_NONE;
    l->desc.rope = g->rope_dims > 0 ? &l->rope : NULL;
    l->heads = (uint32_t)g->heads;
}

/* Tables and profiles of coded pages. */
static const char *lm__live_codes(lm_live *l, const lm_geometry *g, const char *file)
{
    l->tables = lm_alloc(lq_tables_bytes(), 1);
    if (lq_tables_init(&l->desc.tables, l->tables, lq_tables_bytes())) return "no tables";
    if (file == NULL) return NULL;
    l->profiles = lm_profiles_open(file + 1, g, 0);
    l->tally.profile_bytes = l->profiles->bytes;
    l->shelf_count = 2 * g->layers * g->kv_heads;
    l->shelf = (const lq_profile **)lm_alloc(l->shelf_count, sizeof *l->shelf);
    for (size_t i = 0; i < l->profiles->group_count; i++) {
        const lm_profile_group *group = &l->profiles->groups[i];
        size_t layer = group->runs[0] / g->kv_heads;
        size_t head = group->runs[0] % g->kv_heads;
        if (group->run_count != 1) {
            return "the profiles of a live cache are those of single heads (--group head --warm)";
        }
        l->shelf[(2 * layer + (group->stream == LQ_V)) * g->kv_heads + head] = &group->profile;
    }
    l->desc.profiles = l->shelf;
    return NULL;
}

/* Keeps the attention that each token gets, layer by layer, from here on. */
static void lm_live_watch(lm_live *l)
{
    l->mass = (float *)lm_alloc(l->desc.layers * l->desc.tokens, sizeof *l->mass);
}

/* A cache in raw floats for what comes behind the prefix. */
static const char *lm__live_open_tail(lm_live *l, const lm_geometry *g, const lm_cache_desc *d)
{
    static const lq_kv_policy raw = {LQ_KV_RAW, 0, 0, 0};
    lm__live_tail *t = (lm__live_tail *)lm_alloc(1, sizeof *t);
    l->tail = t;
    t->prefix = d->prefix;
    t->desc = l->desc;
    t->desc.tokens = d->capacity - d->prefix;
    t->desc.type = LQ_F32;
    t->desc.k = raw;
    t->desc.v = raw;
    t->desc.profiles = NULL;
    const char *why;
    if (lq_kv_check(&t->desc, &why)) return why;
    t->bytes = lq_kv_bytes(&t->desc);
    t->memory = lm_alloc(t->bytes, 1);
    t->rows = (float *)lm_alloc(2 * LM_CHUNK * g->kv_heads, g->head_dim * sizeof(float));
    t->out = (float *)lm_alloc(LM_CHUNK * g->heads, g->head_dim * sizeof(float));
    t->lse = (float *)lm_alloc(2 * LM_CHUNK, g->heads * sizeof(float));
    return lq_kv_init(&t->kv, t->memory, t->bytes, &t->desc) ? "no memory" : NULL;
}

static void lm__live_fill(lm_cache *cache, lm_live *l, const lm_cache_desc *d)
{
    int resumes = d->prefix > 0;
    size_t step = d->window < LM_LIVE_WINDOW ? 1 : LM_LIVE_STEP;
    cache->state = l;
    cache->spec = d->spec;
    cache->step = d->chunk > 0 ? d->chunk : resumes ? LM_CHUNK : step;
    cache->append = resumes ? lm__tail_append : lm__live_append;
    cache->attend = resumes ? lm__tail_attend : lm__live_attend;
    cache->end_step = lm__live_end_step;
    cache->take = lm__live_take;
    cache->flush = lm__live_flush;
    cache->reset = lm__live_reset;
    cache->tally = lm__live_tally;
    cache->close = lm__live_close;
}

static const char *lm__live_open(lm_cache *cache, const lm_geometry *g, const lm_cache_desc *d)
{
    lm_live *l = (lm_live *)lm_alloc(1, sizeof *l);
    lq_kv_policy policies[2];
    const char *fault = lm_live_parse(d->spec, policies);
    if (fault != NULL) return fault;
    lm__live_desc(l, g, d);
    l->desc.k = policies[0];
    l->desc.v = policies[1];
    if (policies[0].kind == LQ_KV_WARM) {
        fault = lm__live_codes(l, g, strchr(d->spec, '@'));
        if (fault != NULL) return fault;
    }
    l->spec = d->spec;
    if (lq_kv_check(&l->desc, &fault)) return fault;
    l->bytes = lq_kv_bytes(&l->desc);
    l->memory = lm_alloc(l->bytes, 1);
    if (lq_kv_init(&l->kv, l->memory, l->bytes, &l->desc)) return "no memory";
    lm__live_pages(l);
    lm__live_fill(cache, l, d);
    return d->prefix > 0 ? lm__live_open_tail(l, g, d) : NULL;
}

#endif
