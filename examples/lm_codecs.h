/* lm_codecs.h - part of lm.c: the codecs of latticequant.h as the evaluation sees them

   Coded pages hold all kv heads of a layer, keys and values apart; fixed pages hold one head, since
   one step serves all their coefficients. Nothing is calibrated: means and deviations are fitted
   to the sequence itself and refitted when 1, 2, 4, 8, ... pages are full, the sinks left out. All
   bytes are counted: pages with their directory entries (8), profiles with theirs (12), and a run
   (52) at each refit. */
#ifndef LM_CODECS_H
#define LM_CODECS_H

#include "lm_cache.h"
#define LQ_STATIC
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum { LM_PAGE_ENTRY = 8, LM_PROFILE_ENTRY = 12, LM_RUN_ENTRY = 52 };

/* The step that quantizes a unit Gaussian with the least error at 2, 3, 4 and 8 bits (Max 1960),
   and for E8's 4 bits the best of a scan (bench/rd.c). */
static double lm__loading(int quantizer, int bits)
{
    if (quantizer == LQ_E8) {
        return 0.3450;
    }
    return bits == 2 ? 0.9957 : bits == 3 ? 0.5860 : bits == 4 ? 0.3352 : 0.0308;
}

/* One group: the keys or the values of a layer, or of one head. */
typedef struct lm__group {
    lq_geometry geometry;
    lq_fit fit;
    lq_profile profile;
    float step;
    uint64_t pages;
    void *fit_memory;
    void *profile_memory;
    void *codec_memory;
    lq_codec *codec;
} lm__group;

typedef struct lm__library {
    size_t heads; /* in a group */
    size_t head_dim;
    int page;
    int quantizer;
    int bits;
    double step[2]; /* of keys, relative to the layer's root mean square; of values, to the gain */
    const lq_tables *tables;
    void *tables_memory;
    uint32_t *slice_dims;
    lq_rope rope;
    lm__group *groups; /* (layers * kv_heads / heads, 2) */
    size_t group_count;
    size_t codec_bytes;
    void *workspace;
    size_t workspace_bytes;
    uint8_t *page_bytes;
    size_t page_capacity;
    const void **slices;
    void **slices_out;
} lm__library;

static double lm__rms(const float *x, size_t count)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum / (double)count) + 1e-6;
}

/* Fixed pages have one step: the loading of the mean deviation of the coefficients. */
static double lm__fixed_step(const lm__library *l, const lm__group *g)
{
    size_t lead = lq_geometry_rows(&g->geometry) - lq_geometry_dims(&g->geometry);
    double sum = 0;
    size_t i;
    for (i = 0; i < g->profile.dims; i++) {
        double octaves = g->profile.sigma[lead + i] / 16.0;
        sum += g->profile.sigma[lead + i] == LQ_SIGMA_DEAD ? 0.0 : pow(4.0, octaves);
    }
    return lm__loading(l->quantizer, l->bits) * sqrt(sum / (double)g->profile.dims);
}

static int lm__group_refit(lm__library *l, lm__group *g, uint64_t *bytes)
{
    size_t rows = lq_geometry_rows(&g->geometry);
    uint8_t *file = (uint8_t *)lm_alloc(lq_profile_save_bound(rows), 1);
    lq_codec_desc d;
    size_t written;
    int status = lq_fit_profile(&g->fit, &g->profile, g->profile_memory, lq_profile_bytes(rows));
    if (!status) {
        status = lq_profile_save(file, lq_profile_save_bound(rows), &written, &g->profile);
    }
    free(file);
    if (status) {
        return status;
    }
    *bytes += written + LM_PROFILE_ENTRY + LM_RUN_ENTRY;
    memset(&d, 0, sizeof d);
    d.tables = l->tables;
    d.profile = &g->profile;
    d.geometry = g->geometry;
    d.page = l->page;
    d.quantizer = l->quantizer;
    d.bits = l->page == LQ_PAGE_FIXED ? l->bits : 0;
    d.step = l->page == LQ_PAGE_FIXED ? (float)lm__fixed_step(l, g) : g->step;
    return lq_codec_init(&g->codec, g->codec_memory, l->codec_bytes, &d);
}

/* One chunk of one group: fit, encode, count, decode in place. */
static int lm__group_code(lm__library *l, lm__group *g, float *x, size_t tokens, size_t position,
                          double relative_step, uint64_t *bytes)
{
    lq_vectors src;
    lq_vectors_out dst;
    lq_positions positions = {0, 1, NULL};
    const uint8_t *page = l->page_bytes;
    size_t written;
    size_t page_bytes;
    size_t h;
    int status = LQ_OK;
    positions.first = (int64_t)position;
    for (h = 0; h < l->heads; h++) {
        l->slices[h] = x + h * tokens * l->head_dim;
        l->slices_out[h] = x + h * tokens * l->head_dim;
    }
    src.slices = l->slices;
    src.token_stride = 0;
    src.type = LQ_F32;
    dst.slices = l->slices_out;
    dst.token_stride = 0;
    dst.type = LQ_F32;
    if (g->pages == 0) {
        double unit = g->geometry.stream == LQ_K ? lm__rms(x, l->heads * tokens * l->head_dim) : 1;
        g->step = (float)(relative_step * unit);
        status =
            lq_fit_init(&g->fit, g->fit_memory, lq_fit_bytes(&g->geometry), &g->geometry, g->step);
    }
    if (!status) {
        status = lq_fit_add(&g->fit, &src, &positions, tokens, l->workspace, l->workspace_bytes);
    }
    if (!status && lq_fit_due(++g->pages)) {
        status = lm__group_refit(l, g, bytes);
    }
    if (!status) {
        status = lq_codec_encode(g->codec, l->page_bytes, l->page_capacity, &written, &page_bytes,
                                 &src, &positions, tokens, l->workspace, l->workspace_bytes);
    }
    if (!status) {
        *bytes += written + LM_PAGE_ENTRY;
        status = lq_codec_decode(g->codec, &dst, &positions, tokens, &page, &page_bytes,
                                 l->workspace, l->workspace_bytes);
    }
    return status;
}

static const char *lm__library_code(void *state, lm_chunk *c, lm_bill *bill)
{
    lm__library *l = (lm__library *)state;
    size_t run = l->heads * c->tokens * l->head_dim;
    size_t i;
    for (i = 0; i < l->group_count; i++) {
        int is_value = (int)(i & 1);
        float *x = (is_value ? c->v : c->k) + i / 2 * run;
        int status = lm__group_code(l, &l->groups[i], x, c->tokens, c->position, l->step[is_value],
                                    is_value ? &bill->value_bytes : &bill->key_bytes);
        if (status) {
            return lq_status_string(status);
        }
    }
    return NULL;
}

static void lm__library_reset(void *state)
{
    lm__library *l = (lm__library *)state;
    size_t i;
    for (i = 0; i < l->group_count; i++) {
        l->groups[i].pages = 0;
    }
}

static void lm__library_close(void *state)
{
    lm__library *l = (lm__library *)state;
    size_t i;
    for (i = 0; i < l->group_count; i++) {
        free(l->groups[i].fit_memory);
        free(l->groups[i].profile_memory);
        free(l->groups[i].codec_memory);
    }
    free(l->groups);
    free(l->tables_memory);
    free(l->slice_dims);
    free(l->workspace);
    free(l->page_bytes);
    free(l->slices);
    free(l->slices_out);
    free(l);
}

/* ---- specs ---- */
/* One word of a spec: z, d4, e8, e8r; 2, 3, 4, 8; k=STEP; v=STEP. */
static int lm__library_word(lm__library *l, const char *word, size_t count)
{
    static const char *const names[4] = {"z", "d4", "e8", "e8r"};
    int i;
    for (i = 0; i < 4; i++) {
        if (strlen(names[i]) == count && memcmp(names[i], word, count) == 0) {
            l->quantizer = LQ_Z + i;
            return 1;
        }
    }
    if (count == 1 && strchr("2348", word[0])) {
        l->bits = word[0] - '0';
        return 1;
    }
    if (count > 2 && (word[0] == 'k' || word[0] == 'v') && word[1] == '=') {
        char *end;
        double step = strtod(word + 2, &end);
        l->step[word[0] == 'v'] = step;
        return end == word + count && step > 1e-4 && step < 100;
    }
    return 0;
}

static const char *lm__library_parse(lm__library *l, const char *spec)
{
    const char *at = spec + strcspn(spec, ":");
    l->page = memcmp(spec, "hot", 3) == 0 ? LQ_PAGE_FIXED : LQ_PAGE_CODED;
    l->quantizer = LQ_Z;
    l->bits = 4;
    l->step[0] = 0.35;
    l->step[1] = 0.7;
    while (*at) {
        size_t count = strcspn(++at, ":,");
        if (!lm__library_word(l, at, count)) {
            return "words are z, d4, e8, e8r, k=STEP, v=STEP, and for hot 2, 3, 4 or 8";
        }
        at += count;
    }
    return NULL;
}

static const char *lm__library_groups(lm__library *l, int undo_rope)
{
    size_t i;
    for (i = 0; i < l->group_count; i++) {
        lm__group *g = &l->groups[i];
        lq_codec_desc d;
        lq_codec *codec;
        size_t rows;
        g->geometry.stream = i % 2 ? LQ_V : LQ_K;
        g->geometry.basis = l->page == LQ_PAGE_FIXED ? LQ_BASIS_HADAMARD : LQ_BASIS_IDENTITY;
        g->geometry.slice_count = (uint32_t)l->heads;
        g->geometry.slice_dims = l->slice_dims;
        g->geometry.rope = undo_rope && g->geometry.stream == LQ_K ? &l->rope : NULL;
        rows = lq_geometry_rows(&g->geometry);
        g->fit_memory = lm_alloc(lq_fit_bytes(&g->geometry) + 1, 1);
        g->profile_memory = lm_alloc(lq_profile_bytes(rows) + 1, 1);
        if (rows == 0 || lq_profile_init(&g->profile, g->profile_memory, lq_profile_bytes(rows),
                                         &g->geometry, 1.0f)) {
            return "this model's heads do not fit";
        }
        memset(&d, 0, sizeof d);
        d.tables = l->tables;
        d.profile = &g->profile;
        d.geometry = g->geometry;
        d.page = l->page;
        d.quantizer = l->quantizer;
        d.bits = l->page == LQ_PAGE_FIXED ? l->bits : 0;
        d.step = 1.0f;
        l->codec_bytes = lq_codec_bytes(&d);
        g->codec_memory = lm_alloc(l->codec_bytes + 1, 1);
        if (lq_codec_init(&codec, g->codec_memory, l->codec_bytes, &d)) {
            return "this quantizer has no such form";
        }
        l->workspace_bytes = lm__max(l->workspace_bytes, lq_codec_workspace_bytes(codec));
        l->workspace_bytes = lm__max(l->workspace_bytes, lq_fit_workspace_bytes(&g->geometry));
        l->page_capacity = lm__max(l->page_capacity, lq_codec_page_bound(codec));
    }
    return NULL;
}

static const char *lm__library_open(lm_codec *codec, const char *spec, const lm_geometry *g)
{
    lm__library *l = (lm__library *)lm_alloc(1, sizeof *l);
    const char *fault;
    size_t i;
    memset(l, 0, sizeof *l);
    codec->state = l;
    codec->code = lm__library_code;
    codec->reset = lm__library_reset;
    codec->close = lm__library_close;
    fault = lm__library_parse(l, spec);
    if (fault) {
        return fault;
    }
    l->heads = l->page == LQ_PAGE_FIXED ? 1 : g->kv_heads;
    l->head_dim = g->head_dim;
    l->rope.freqs = g->rope;
    l->rope.rotary_dims = (uint32_t)g->rope_dims;
    l->rope.layout = g->adjacent ? LQ_ROPE_ADJACENT : LQ_ROPE_HALF;
    l->rope.magnitude = g->rope_magnitude;
    l->tables_memory = lm_alloc(lq_tables_bytes(), 1);
    if (lq_tables_init(&l->tables, l->tables_memory, lq_tables_bytes())) {
        return "no tables";
    }
    l->slice_dims = (uint32_t *)lm_alloc(g->kv_heads, sizeof *l->slice_dims);
    l->slices = (const void **)lm_alloc(g->kv_heads, sizeof *l->slices);
    l->slices_out = (void **)lm_alloc(g->kv_heads, sizeof *l->slices_out);
    for (i = 0; i < g->kv_heads; i++) {
        l->slice_dims[i] = (uint32_t)g->head_dim;
    }
    l->group_count = 2 * g->layers * (g->kv_heads / l->heads);
    l->groups = (lm__group *)lm_alloc(l->group_count, sizeof *l->groups);
    memset(l->groups, 0, l->group_count * sizeof *l->groups);
    fault = lm__library_groups(l, memcmp(spec, "cold", 4) == 0);
    if (fault) {
        return fault;
    }
    l->workspace = lm_alloc(l->workspace_bytes, 1);
    l->page_bytes = (uint8_t *)lm_alloc(l->page_capacity, 1);
    return NULL;
}

#endif
