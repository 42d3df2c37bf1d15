/* lm_calibrate.h - part of lm.c: profiles of a model, from passages of text

   The model reads every passage; K, V and Q of all tokens but the sinks go into one lq_klt a group
   and stream; several groupings may share the reading. What comes out is an archive without runs:
   the model's RoPE, and for each group its slices and its profile. lm_profiles.h reads it. */
#ifndef LM_CALIBRATE_H
#define LM_CALIBRATE_H

#include "lm_eval.h"

/* What all groupings of one run share.
     passages    (passage_count) of `tokens` tokens each, of which the first `sinks` are left out
     step        finest steps to serve, of keys and of values
     beta        exponent of the query metric; 0: none
     own         the passages are what will be coded: fit all of them
     undo_rope   0: keys are taken as they are
     joint       keys and values in one basis, with a gain a layer; their step is then `ratio` times
                 that of the keys, which step[0] is
     tolerance   what rounding the basis may add to the step's error; 0: the library's default */
typedef struct lm_calibration {
    lm_model *model;
    const uint32_t **passages;
    size_t passage_count;
    size_t tokens;
    size_t sinks;
    double step[2];
    double beta;
    int own;
    int undo_rope;
    int joint;
    double ratio;
    double tolerance;
    double seconds_forward;
} lm_calibration;

/* What came of a grouping; two of each: keys, values; all of them first where they are joint. Means
   are over groups, bits an element. */
typedef struct lm_calibrated {
    size_t groups[2];
    size_t dims; /* of a group: the widest */
    size_t tokens;
    size_t bytes;
    double seconds_adding;
    double seconds_solving;
    double rank[2];
    double basis_bits[2];
    double channel_bits[2];
    double shrinkage[2];
    double basis_loss[2];
} lm_calibrated;

typedef struct lm__fit {
    lq_geometry geometry;
    lq_role *roles; /* joint */
    lq_klt klt;
    size_t first_layer;
    size_t layers;
    size_t first_head;
    size_t heads;
    size_t query_heads;
    uint32_t *reads;
    const void **vectors;
    const void **queries;
    void *memory;
    uint8_t *profile;
    size_t profile_bytes;
    lq_klt_report report;
    const char *fault; /* what is wrong with the descriptor, or NULL */
    int status;
} lm__fit;

/* A chunk's tokens behind the sinks: [layers][LM_CHUNK][heads][head_dim] each. */
typedef struct lm_taken {
    float *q;
    float *k;
    float *v;
    size_t position;
    size_t skipped;
    size_t tokens;
    const lm_geometry *g;
} lm_taken;

/* One grouping, and the file that it makes.
     heads   kv heads in a group: all of them, or 1
     layers  consecutive layers in a group; 1 where heads is 1
   The sizes are known before any of them is taken. */
typedef struct lm_fitter {
    const lm_calibration *c;
    const lm_taken *taken;
    size_t heads;
    size_t layers;
    const char *out;
    lm__fit *fits;
    size_t count;
    lq_rope rope;
    uint32_t *slice_dims;
    uint8_t *workspace;
    size_t workspace_bytes; /* of a worker */
    size_t sum_bytes;       /* of all groups while reading */
    size_t solving_bytes;   /* at most so many on top */
    float unit;             /* of the keys of all groups, see lm__fit_unit */
    lm_progress progress;
    FILE *file;
    char beside[1040];
    lm_calibrated result;
} lm_fitter;

/* ---- groups ---- */

/* Fits that a place of the model has: keys and values, or both in one. */
static size_t lm__fits_a_place(const lm_fitter *f)
{
    return f->c->joint ? 1 : 2;
}

/* What the slices of a joint group are, layer by layer: keys of the heads, values of the heads, with
   a gain a layer. */
static void lm__fit_roles(const lm_fitter *f, lm__fit *fit)
{
    size_t slices = 2 * fit->layers * fit->heads;
    fit->roles = (lq_role *)lm_alloc(slices, sizeof *fit->roles);
    for (size_t s = 0; s < slices; s++) {
        int value = s / fit->heads % 2 == 1;
        fit->roles[s].stream = value ? LQ_V : LQ_K;
        fit->roles[s].gain = value ? (uint32_t)(s / fit->heads / 2) : 0;
        fit->roles[s].rope = value || !f->c->undo_rope ? NULL : &f->rope;
    }
    fit->geometry.roles = fit->roles;
}

/* Which slice of a fit the keys of a head are. */
static uint32_t lm__fit_slice(const lm__fit *fit, size_t layer, size_t head)
{
    size_t streams = fit->geometry.stream == LQ_KV ? 2 : 1;
    return (uint32_t)(layer * fit->heads * streams + head - fit->first_head);
}

static void lm__fit_group(lm_fitter *f, lm__fit *fit, size_t stream)
{
    const lm_geometry *g = f->taken->g;
    size_t l, h;
    size_t slices = fit->layers * fit->heads * (stream == LQ_KV ? 2 : 1);
    fit->geometry.stream = (uint32_t)stream;
    fit->geometry.slice_count = (uint32_t)slices;
    fit->geometry.slice_dims = f->slice_dims;
    fit->vectors = (const void **)lm_alloc(slices, sizeof *fit->vectors);
    if (stream == LQ_KV) {
        lm__fit_roles(f, fit);
    } else if (stream == LQ_K && f->c->undo_rope) {
        fit->geometry.rope = &f->rope;
    }
    if (stream == LQ_V || !(f->c->beta > 0.0)) return;
    fit->reads = (uint32_t *)lm_alloc(fit->layers * g->heads, sizeof *fit->reads);
    fit->queries = (const void **)lm_alloc(fit->layers * g->heads, sizeof *fit->queries);
    for (l = 0; l < fit->layers; l++) {
        for (h = 0; h < g->heads; h++) {
            size_t head = h * g->kv_heads / g->heads;
            if (head >= fit->first_head && head < fit->first_head + fit->heads) {
                fit->reads[fit->query_heads] = lm__fit_slice(fit, l, head);
                fit->queries[fit->query_heads++] =
                    f->taken->q + ((fit->first_layer + l) * LM_CHUNK * g->heads + h) * g->head_dim;
            }
        }
    }
}

/* The slices of a fit lead to the first token of the chunk. */
static void lm__fit_vectors(const lm_fitter *f, lm__fit *fit)
{
    const lm_geometry *g = f->taken->g;
    for (size_t s = 0; s < fit->geometry.slice_count; s++) {
        size_t block = s / fit->heads;
        int joint = fit->geometry.stream == LQ_KV;
        int value = joint ? block % 2 == 1 : fit->geometry.stream == LQ_V;
        size_t layer = fit->first_layer + (joint ? block / 2 : block);
        size_t row = layer * LM_CHUNK * g->kv_heads + fit->first_head + s % fit->heads;
        fit->vectors[s] = (value ? f->taken->v : f->taken->k) + row * g->head_dim;
    }
}

/* Keys and values of each group in turn, or both at once. */
static void lm__fit_groups(lm_fitter *f)
{
    const lm_geometry *g = f->taken->g;
    size_t across = g->kv_heads / f->heads;
    size_t fits = lm__fits_a_place(f);
    f->count = fits * across * ((g->layers + f->layers - 1) / f->layers);
    f->fits = (lm__fit *)lm_alloc(f->count, sizeof *f->fits);
    for (size_t i = 0; i < f->count; i++) {
        lm__fit *fit = &f->fits[i];
        fit->first_layer = i / fits / across * f->layers;
        fit->layers =
            g->layers - fit->first_layer < f->layers ? g->layers - fit->first_layer : f->layers;
        fit->first_head = i / fits % across * f->heads;
        fit->heads = f->heads;
        lm__fit_group(f, fit, f->c->joint ? LQ_KV : i % 2 ? LQ_V : LQ_K);
        lm__fit_vectors(f, fit);
    }
}

static void lm__fit_sizes(lm_fitter *f)
{
    size_t largest = 0;
    for (size_t i = 0; i < f->count; i++) {
        lm__fit *fit = &f->fits[i];
        size_t bytes = lq_klt_bytes(&fit->geometry);
        if (bytes == 0) {
            lm_fail("--group: a group of %zu layers has %zu dims, which is too many", fit->layers,
                    (size_t)fit->geometry.slice_count * f->taken->g->head_dim);
        }
        fit->klt.geometry = fit->geometry; /* all that the sizes depend on */
        f->sum_bytes += bytes;
        f->solving_bytes += lq_klt_profile_bound(&fit->klt);
        largest = lm__max(largest, lq_klt_workspace_bytes(&fit->geometry));
        largest = lm__max(largest, lq_klt_profile_workspace_bytes(&fit->klt));
    }
    f->workspace_bytes = lm_round_up(largest, 64);
    f->solving_bytes += f->workspace_bytes * f->c->model->pool.workers;
}

/* The file grows beside its name, so that the name never stands for half a calibration. */
static void lm__file_begin(lm_fitter *f)
{
    int n = snprintf(f->beside, sizeof f->beside, "%s.part", f->out);
    if (n < 0 || (size_t)n >= sizeof f->beside) {
        lm_fail("--out: too long a name");
    }
    f->file = fopen(f->beside, "wb");
    if (f->file == NULL) {
        lm_fail("%s: cannot write it (%s)", f->beside, strerror(errno));
    }
}

/* Plans a grouping: groups, sizes, a file that can be written. c and taken must stay. */
static void lm_fitter_open(lm_fitter *f, const lm_calibration *c, const lm_taken *taken,
                           size_t heads, size_t layers, const char *out)
{
    memset(f, 0, sizeof *f);
    f->c = c;
    f->taken = taken;
    f->heads = heads;
    f->layers = layers;
    f->out = out;
    lm_rope_of(&f->rope, taken->g);
    f->slice_dims = (uint32_t *)lm_alloc(2 * layers * heads, sizeof *f->slice_dims);
    for (size_t i = 0; i < 2 * layers * heads; i++) {
        f->slice_dims[i] = (uint32_t)taken->g->head_dim;
    }
    lm__fit_groups(f);
    lm__fit_sizes(f);
    lm__file_begin(f);
}

static void lm_fitter_close(lm_fitter *f)
{
    for (size_t i = 0; i < f->count; i++) {
        free(f->fits[i].roles);
        free(f->fits[i].reads);
        free(f->fits[i].vectors);
        free(f->fits[i].queries);
        free(f->fits[i].memory);
        free(f->fits[i].profile);
    }
    free(f->fits);
    free(f->slice_dims);
}

static void lm_taken_open(lm_taken *t, const lm_geometry *g)
{
    size_t row = g->layers * LM_CHUNK * g->head_dim;
    memset(t, 0, sizeof *t);
    t->g = g;
    t->q = (float *)lm_alloc(row * g->heads, sizeof *t->q);
    t->k = (float *)lm_alloc(row * g->kv_heads, sizeof *t->k);
    t->v = (float *)lm_alloc(row * g->kv_heads, sizeof *t->v);
}

static void lm_taken_close(lm_taken *t)
{
    free(t->q);
    free(t->k);
    free(t->v);
}

/* Ends the program if a job failed. */
static void lm__fit_check(const lm_fitter *f, const char *what)
{
    for (size_t i = 0; i < f->count; i++) {
        const lm__fit *fit = &f->fits[i];
        if (fit->status) {
            (void)remove(f->beside);
            lm_fail("%s of layer %zu, head %zu: %s failed (%s)",
                    fit->geometry.stream == LQ_KV  ? "keys and values"
                    : fit->geometry.stream == LQ_V ? "values"
                                                   : "keys",
                    fit->first_layer, fit->first_head, what,
                    fit->fault ? fit->fault : lq_status_string(fit->status));
        }
    }
}

/* ---- reading ---- */

static void lm__take_layer(void *user, size_t layer, const float *q, const float *k, const float *v,
                           size_t position, size_t n)
{
    lm_taken *t = (lm_taken *)user;
    size_t to = layer * LM_CHUNK * t->g->head_dim;
    size_t from = t->skipped * t->g->head_dim;
    size_t bytes = (n - t->skipped) * t->g->head_dim * sizeof(float);
    (void)position;
    memcpy(t->q + to * t->g->heads, q + from * t->g->heads, bytes * t->g->heads);
    memcpy(t->k + to * t->g->kv_heads, k + from * t->g->kv_heads, bytes * t->g->kv_heads);
    memcpy(t->v + to * t->g->kv_heads, v + from * t->g->kv_heads, bytes * t->g->kv_heads);
}

/* One group, one chunk. */
static void lm__fit_add(void *context, size_t index, size_t worker)
{
    lm_fitter *f = (lm_fitter *)context;
    const lm_taken *t = f->taken;
    lm__fit *fit = &f->fits[index];
    void *workspace = f->workspace + worker * f->workspace_bytes;
    lq_positions positions = {0, 1, NULL};
    positions.first = (int64_t)(t->position + t->skipped);
    lq_vectors src;
    src.slices = fit->vectors;
    src.token_stride = t->g->kv_heads * t->g->head_dim;
    src.type = LQ_F32;
    fit->status = lq_klt_add(&fit->klt, &src, &positions, t->tokens, workspace, f->workspace_bytes);
    if (!fit->status && fit->query_heads > 0) {
        src.slices = fit->queries;
        src.token_stride = t->g->heads * t->g->head_dim;
        fit->status = lq_klt_add_queries(&fit->klt, &src, fit->reads, fit->query_heads, &positions,
                                         t->tokens, workspace, f->workspace_bytes);
    }
}

/* One chunk of a passage through the model and into all groups. */
static void lm__fit_chunk(lm_calibration *c, lm_taken *t, lm_fitter *fitters, size_t count,
                          lm_cache *cache, const uint32_t *ids, size_t n)
{
    double begin = lm_seconds();
    t->skipped = c->sinks > t->position ? c->sinks - t->position : 0;
    t->skipped = t->skipped < n ? t->skipped : n;
    t->tokens = n - t->skipped;
    lm_forward(c->model, cache, ids + t->position, t->position, n);
    c->seconds_forward += lm_seconds() - begin;
    for (size_t i = 0; i < count && t->tokens > 0; i++) {
        lm_fitter *f = &fitters[i];
        begin = lm_seconds();
        lm_parallel(&c->model->pool, lm__fit_add, f, f->count);
        lm__fit_check(f, "adding");
        f->result.tokens += t->tokens;
        f->result.seconds_adding += lm_seconds() - begin;
    }
}

static void lm__fit_read(lm_calibration *c, lm_taken *t, lm_fitter *fitters, size_t count)
{
    size_t p, n;
    lm_cache cache;
    (void)lm_store_raw(&cache, t->g, &c->model->pool, c->tokens);
    c->model->tap.user = t;
    c->model->tap.layer = lm__take_layer;
    lm_progress progress;
    lm_progress_begin(&progress, "reading");
    for (p = 0; p < c->passage_count; p++) {
        cache.reset(cache.state);
        for (t->position = 0; t->position < c->tokens; t->position += n) {
            double done = (double)t->position / (double)c->tokens;
            n = c->tokens - t->position < LM_CHUNK ? c->tokens - t->position : LM_CHUNK;
            lm_progress_show(&progress, ((double)p + done) / (double)c->passage_count);
            lm__fit_chunk(c, t, fitters, count, &cache, c->passages[p], n);
        }
    }
    lm_progress_end(&progress);
    c->model->tap.layer = NULL;
    cache.close(cache.state);
}

/* ---- solving ---- */

/* One unit for the keys of the whole model: their root mean square, means taken away. */
static float lm__fit_unit(const lm_fitter *f)
{
    const lq_klt **klts = (const lq_klt **)lm_alloc(f->count, sizeof *klts);
    for (size_t i = 0; i < f->count; i++) {
        klts[i] = &f->fits[i].klt;
    }
    float unit = lq_klt_unit_of(klts, f->count);
    free(klts);
    return unit;
}

/* The sums go as soon as they are used, and the profile keeps its own size only. */
static void lm__fit_solve(void *context, size_t index, size_t worker)
{
    lm_fitter *f = (lm_fitter *)context;
    lm__fit *fit = &f->fits[index];
    size_t bound = lq_klt_profile_bound(&fit->klt);
    uint8_t *profile = (uint8_t *)lm_alloc(bound, 1);
    lq_klt_desc d;
    memset(&d, 0, sizeof d);
    d.step = (float)f->c->step[fit->geometry.stream == LQ_V];
    d.ratio = (float)f->c->ratio;
    d.tolerance = (float)f->c->tolerance;
    d.own = f->c->own;
    d.unit = f->unit;
    d.beta = f->c->beta > 0.0 ? (float)f->c->beta : -1.0f;
    if (worker == 0) {
        lm_progress_show(&f->progress, (double)index / (double)f->count);
    }
    fit->profile_bytes = 0;
    fit->status = lq_klt_check(&d, &fit->fault);
    if (!fit->status) {
        fit->status = lq_klt_profile(&fit->klt, profile, bound, &fit->profile_bytes, &d,
                                     &fit->report, f->workspace + worker * f->workspace_bytes,
                                     f->workspace_bytes);
    }
    free(fit->memory);
    fit->memory = NULL;
    fit->profile = (uint8_t *)lm_alloc(fit->profile_bytes, 1);
    memcpy(fit->profile, profile, fit->profile_bytes);
    free(profile);
}

/* ---- the file ---- */

static int lm__file_write(void *user, const void *bytes, size_t count)
{
    return fwrite(bytes, 1, count, (FILE *)user) != count;
}

static int lm__file_group(lq_archive_writer *w, const lm_fitter *f, const lm__fit *fit,
                          uint32_t rope)
{
    lq_slice *slices = (lq_slice *)lm_alloc(fit->geometry.slice_count, sizeof *slices);
    for (size_t i = 0; i < fit->geometry.slice_count; i++) {
        size_t block = i / fit->heads;
        slices[i].layer = (uint32_t)(fit->first_layer + (fit->roles ? block / 2 : block));
        slices[i].head = (uint32_t)(fit->first_head + i % fit->heads);
        slices[i].dims = f->slice_dims[i];
        slices[i].stream = fit->roles ? fit->roles[i].stream : 0;
    }
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    group.stream = fit->geometry.stream;
    group.rope = fit->geometry.stream != LQ_V && f->c->undo_rope ? rope : LQ_ARCHIVE_NONE;
    group.slices = slices;
    group.slice_count = fit->geometry.slice_count;
    lq_archive_profile_desc profile;
    memset(&profile, 0, sizeof profile);
    profile.bytes = fit->profile;
    profile.count = fit->profile_bytes;
    int status = lq_archive_add_group(w, &group, NULL);
    free(slices);
    return status ? status : lq_archive_add_profile(w, &profile, NULL);
}

static int lm__file_fill(const lm_fitter *f, FILE *file, size_t *bytes)
{
    lq_archive_writer_desc d;
    uint32_t rope = LQ_ARCHIVE_NONE;
    memset(&d, 0, sizeof d);
    d.write_fn = lm__file_write;
    d.user = file;
    d.directory_bytes = 16 + 2 * (size_t)f->rope.rotary_dims;
    for (size_t i = 0; i < f->count; i++) {
        d.directory_bytes += 20 + 12 * (size_t)f->fits[i].geometry.slice_count;
        d.directory_bytes += lm_round_up(12 + f->fits[i].profile_bytes, 4);
    }
    d.directory = lm_alloc(d.directory_bytes, 1);
    lq_archive_writer w;
    int status = lq_archive_writer_init(&w, &d);
    if (!status && f->c->undo_rope) {
        status = lq_archive_add_rope(&w, &f->rope, &rope);
    }
    for (size_t i = 0; i < f->count && !status; i++) {
        status = lm__file_group(&w, f, &f->fits[i], rope);
    }
    if (!status) status = lq_archive_finish(&w);
    free(d.directory);
    *bytes = status ? 0 : (size_t)w.offset;
    return status;
}

static void lm__file_end(lm_fitter *f)
{
    int status = lm__file_fill(f, f->file, &f->result.bytes);
    lm_keep(f->file, f->beside, f->out, lm_why(status));
}

/* ---- all of it ---- */

static void lm__fit_begin(lm_fitter *f)
{
    f->workspace = (uint8_t *)lm_alloc(f->c->model->pool.workers, f->workspace_bytes);
    for (size_t i = 0; i < f->count; i++) {
        lm__fit *fit = &f->fits[i];
        size_t bytes = lq_klt_bytes(&fit->geometry);
        fit->memory = lm_alloc(bytes, 1);
        fit->status = lq_geometry_check(&fit->geometry, &fit->fault);
        if (!fit->status) {
            fit->status = lq_klt_init(&fit->klt, fit->memory, bytes, &fit->geometry);
        }
        if (!f->c->undo_rope && f->rope.rotary_dims > 0 && fit->geometry.stream == LQ_K) {
            fit->klt.kept = &f->rope;
        }
    }
    lm__fit_check(f, "a start");
}

static void lm__fit_finish(lm_fitter *f)
{
    lm_calibrated *r = &f->result;
    double begin = lm_seconds();
    f->unit = lm__fit_unit(f);
    lm_progress_begin(&f->progress, "solving");
    lm_parallel(&f->c->model->pool, lm__fit_solve, f, f->count);
    lm_progress_end(&f->progress);
    lm__fit_check(f, "solving");
    free(f->workspace);
    r->seconds_solving = lm_seconds() - begin;
    lm__file_end(f);
    r->dims = (size_t)f->fits[0].geometry.slice_count * f->taken->g->head_dim;
    for (size_t i = 0; i < f->count; i++) {
        const lq_klt_report *report = &f->fits[i].report;
        double part = (double)lm__fits_a_place(f) / (double)f->count;
        int s = f->fits[i].geometry.stream == LQ_V;
        r->groups[s]++;
        r->rank[s] += part * (double)report->rank;
        r->basis_bits[s] += part * (double)report->basis_bits;
        r->channel_bits[s] += part * (double)report->channel_bits;
        r->shrinkage[s] += part * (double)report->shrinkage;
        r->basis_loss[s] += part * (double)report->basis_loss;
    }
}

/* Reads the passages once for all groupings, solves, writes the files. */
static void lm_calibrate(lm_calibration *c, lm_taken *t, lm_fitter *fitters, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lm__fit_begin(&fitters[i]);
    }
    lm__fit_read(c, t, fitters, count);
    for (size_t i = 0; i < count; i++) {
        lm__fit_finish(&fitters[i]);
    }
}

#endif
