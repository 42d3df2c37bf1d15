/* lm_codecs.h - part of lm.c: the codecs of latticequant.h as the evaluation sees them

   Coded pages hold all kv heads of a layer, keys and values apart; fixed pages hold one head, since
   one step serves all their coefficients. Nothing is calibrated: means and deviations are fitted
   to the sequence itself and refitted when 1, 2, 4, 8, ... pages are full, the sinks left out. All
   bytes are counted: pages with their directory entries (8), profiles with theirs (12), and a run
   (52) at each refit.

   With a file of profiles (SPEC@FILE.lqp) groups and bases are the file's, steps of keys are in the
   profile's own unit, and a sequence pays one run a group: the file belongs to the model, so its
   bytes stand beside. With refit=1 means and deviations in that basis are fitted to the pages
   before when 1, 2, 4, 8, ... are full, where that pays; then profile and run are counted. With
   own=1 the file was calibrated on the very sequence: each sequence pays for its profiles. */
#ifndef LM_CODECS_H
#define LM_CODECS_H

#include "lm_profiles.h"

enum { LM_PAGE_ENTRY = 8, LM_PROFILE_ENTRY = 12, LM_RUN_ENTRY = 52 };

/* The step that quantizes a unit Gaussian with the least error at 2, 3, 4 and 8 bits (Max 1960),
   and for E8's 4 bits the best of a scan (bench/rd.c). */
static double lm__loading(int quantizer, int bits)
{
    if (quantizer == LQ_E8) return 0.3450;
    return bits == 2 ? 0.9957 : bits == 3 ? 0.5860 : bits == 4 ? 0.3352 : 0.0308;
}

/* One group: keys or values.
     runs        (run_count) its slices, layer * kv_heads + head
     calibrated  its profile, or NULL: then it is fitted to the sequence; and what it takes in an
                 archive of its own
     current     the profile in use
     fitted      to the sequence */
typedef struct lm__group {
    lq_geometry geometry;
    const size_t *runs;
    size_t run_count;
    const lq_profile *calibrated;
    size_t calibrated_bytes;
    const lq_profile *current;
    lq_profile fitted;
    lq_fit fit;
    float step;
    uint64_t pages;
    void *fit_memory;
    void *profile_memory;
    uint8_t *codec_memory;
    size_t codec_room;
    lq_codec *codec;
} lm__group;

typedef struct lm__library {
    size_t head_dim;
    size_t kv_heads;
    size_t runs_total; /* layers * kv_heads */
    int page;
    int quantizer;
    int bits;
    double step[2]; /* of keys, relative to lm__unit; of values, to the gain */
    double past;    /* 0, or the exponent by which tokens that got attention have finer steps, */
    double safe;    /* or such as can expect it, */
    uint32_t ahead; /* of queries so far ahead; 0: as the library says */
    int refit;      /* a calibrated profile */
    int own;        /* the profiles are the sequence's */
    int undo_rope;
    const char *fault;     /* what is wrong with a codec, or NULL */
    lm_profiles *profiles; /* or NULL */
    const lq_tables *tables;
    void *tables_memory;
    uint32_t *slice_dims;
    size_t *runs; /* 0, 1, 2, ... */
    lq_rope rope;
    lm__group *groups;
    size_t group_count;
    uint8_t *workspace;
    size_t workspace_bytes;
    uint8_t *page_bytes;
    size_t page_capacity;
    const void **slices;
    void **slices_out;
} lm__library;

/* What steps of a group's keys are relative to: the root mean square of what the mean of each
   channel leaves of x [run][tokens][head_dim], RoPE undone whether or not the codec does that. */
static double lm__unit(const lm__library *l, const lm__group *g, const float *x, size_t tokens,
                       size_t position)
{
    size_t count = tokens * l->head_dim;
    float *turned = (float *)lm_alloc(count, sizeof *turned);
    lq_positions at = {0, 1, NULL};
    double sum = 0;
    size_t r, t, d;
    at.first = (int64_t)position;
    for (r = 0; r < g->run_count; r++) {
        memcpy(turned, x + g->runs[r] * count, count * sizeof *turned);
        if (l->rope.rotary_dims > 0 &&
            lq_rope_undo_f32(turned, tokens, l->head_dim, l->head_dim, &l->rope, &at)) {
            lm_fail("keys from position %zu on cannot be turned back", position);
        }
        for (d = 0; d < l->head_dim; d++) {
            double mean = 0;
            for (t = 0; t < tokens; t++) {
                mean += (double)turned[t * l->head_dim + d] / (double)tokens;
            }
            for (t = 0; t < tokens; t++) {
                double y = (double)turned[t * l->head_dim + d] - mean;
                sum += y * y;
            }
        }
    }
    free(turned);
    return sqrt(sum / (double)(g->run_count * count)) + 1e-6;
}

/* Fixed pages have one step: the loading of the mean deviation of the coefficients. */
static double lm__fixed_step(const lm__library *l, const lm__group *g)
{
    size_t lead = lq_geometry_rows(&g->geometry) - lq_geometry_dims(&g->geometry);
    double sum = 0;
    for (size_t i = 0; i < g->fitted.dims; i++) {
        double octaves = g->fitted.sigma[lead + i] / 16.0;
        sum += g->fitted.sigma[lead + i] == LQ_SIGMA_DEAD ? 0.0 : pow(4.0, octaves);
    }
    return lm__loading(l->quantizer, l->bits) * sqrt(sum / (double)g->fitted.dims);
}

/* Replaces a buffer that is too small; what it held is lost. */
static void lm__grow(uint8_t **p, size_t *room, size_t bytes)
{
    if (bytes > *room) {
        free(*p);
        *p = (uint8_t *)lm_alloc(bytes, 1);
        *room = bytes;
    }
}

/* Builds the codec of the current profile, and sees that there is room for what it makes. */
static int lm__group_codec(lm__library *l, lm__group *g, float step)
{
    lq_codec_desc d;
    memset(&d, 0, sizeof d);
    d.tables = l->tables;
    d.profile = g->current;
    d.geometry = g->geometry;
    d.page = l->page;
    d.quantizer = l->quantizer;
    d.bits = l->page == LQ_PAGE_FIXED ? l->bits : 0;
    d.step = step;
    int status = lq_codec_check(&d, &l->fault);
    if (status) return status;
    size_t bytes = lq_codec_bytes(&d);
    lm__grow(&g->codec_memory, &g->codec_room, bytes);
    status = lq_codec_init(&g->codec, g->codec_memory, g->codec_room, &d);
    if (!status) {
        lm__grow(&l->workspace, &l->workspace_bytes, lq_codec_workspace_bytes(g->codec));
        lm__grow(&l->page_bytes, &l->page_capacity, lq_codec_page_bound(g->codec));
    }
    return status;
}

static int lm__group_refit(lm__library *l, lm__group *g, uint64_t *bytes)
{
    size_t rows = lq_geometry_rows(&g->geometry);
    uint8_t *file = (uint8_t *)lm_alloc(lq_profile_save_bound(rows), 1);
    size_t written;
    int status = lq_fit_profile(&g->fit, &g->fitted, g->profile_memory, lq_profile_bytes(rows));
    if (!status) {
        status = lq_profile_save(file, lq_profile_save_bound(rows), &written, &g->fitted);
    }
    free(file);
    if (status) return status;
    g->current = &g->fitted;
    *bytes += written + LM_PROFILE_ENTRY + LM_RUN_ENTRY;
    return lm__group_codec(l, g, l->page == LQ_PAGE_FIXED ? (float)lm__fixed_step(l, g) : g->step);
}

/* The first chunk of a sequence. */
static int lm__group_begin(lm__library *l, lm__group *g, const lm_chunk *c, uint64_t *bytes)
{
    int is_value = g->geometry.stream == LQ_V;
    double unit =
        is_value || g->calibrated ? 1.0 : lm__unit(l, g, c->k, c->tokens, c->position);
    int status = LQ_OK;
    g->step = (float)(l->step[is_value] * unit);
    g->current = g->calibrated;
    if (g->calibrated) {
        *bytes += LM_RUN_ENTRY + (l->own ? LM_PROFILE_ENTRY + g->calibrated_bytes : 0);
        status = lm__group_codec(l, g, g->step);
    }
    if (!status && g->fit_memory) {
        status =
            lq_fit_init(&g->fit, g->fit_memory, lq_fit_bytes(&g->geometry), &g->geometry, g->step);
    }
    return status;
}

/* Before a page is coded: what it is to be coded with. */
static int lm__group_learn(lm__library *l, lm__group *g, const lq_vectors *src,
                           const lq_positions *positions, size_t tokens, uint64_t *bytes)
{
    int due = g->calibrated && lq_fit_due(g->pages);
    int status = LQ_OK;
    g->pages++;
    if (due) {
        status = lq_fit_pays(&due, &g->fit, g->current, g->fit.tokens);
        if (!status && due) status = lm__group_refit(l, g, bytes);
    }
    if (!status) {
        status = lq_fit_add(&g->fit, src, positions, tokens, l->workspace, l->workspace_bytes);
    }
    if (!status && !g->calibrated && lq_fit_due(g->pages)) {
        status = lm__group_refit(l, g, bytes);
    }
    return status;
}

/* One chunk of one group: fit, encode, count, decode in place. */
static int lm__group_code(lm__library *l, lm__group *g, const lm_chunk *c, uint64_t *bytes)
{
    const lq_role *roles = g->geometry.roles;
    size_t tokens = c->tokens;
    lq_positions positions = {0, 1, NULL};
    int status = g->current ? LQ_OK : lm__group_begin(l, g, c, bytes);
    positions.first = (int64_t)c->position;
    for (size_t i = 0; i < g->run_count; i++) {
        uint32_t stream = roles ? roles[i].stream : g->geometry.stream;
        float *x = (stream == LQ_V ? c->v : c->k) + g->runs[i] * tokens * l->head_dim;
        l->slices[i] = x;
        l->slices_out[i] = x;
    }
    lq_vectors src;
    src.slices = l->slices;
    src.token_stride = 0;
    src.type = LQ_F32;
    lq_vectors_out dst;
    dst.slices = l->slices_out;
    dst.token_stride = 0;
    dst.type = LQ_F32;
    if (!status && g->fit_memory) {
        status = lm__group_learn(l, g, &src, &positions, tokens, bytes);
    }
    size_t written;
    size_t page_bytes;
    if (!status) {
        status = lq_codec_encode(g->codec, l->page_bytes, l->page_capacity, &written, &page_bytes,
                                 &src, &positions, tokens, l->workspace, l->workspace_bytes);
    }
    const uint8_t *page;
    if (!status) {
        *bytes += written + LM_PAGE_ENTRY;
        page = l->page_bytes;
        status = lq_codec_decode(g->codec, &dst, &positions, tokens, &page, &page_bytes,
                                 l->workspace, l->workspace_bytes);
    }
    return status;
}

static const char *lm__library_code(void *state, lm_chunk *c, lm_bill *bill)
{
    lm__library *l = (lm__library *)state;
    for (size_t i = 0; i < l->group_count; i++) {
        lm__group *g = &l->groups[i];
        uint64_t bytes = 0;
        int status = lm__group_code(l, g, c, &bytes);
        if (g->geometry.stream == LQ_KV) {
            bill->shared_bytes += bytes;
        } else if (g->geometry.stream == LQ_V) {
            bill->value_bytes += bytes;
        } else {
            bill->key_bytes += bytes;
        }
        if (status) return l->fault ? l->fault : lq_status_string(status);
    }
    return NULL;
}

static void lm__library_reset(void *state)
{
    lm__library *l = (lm__library *)state;
    for (size_t i = 0; i < l->group_count; i++) {
        l->groups[i].pages = 0;
        l->groups[i].current = NULL;
    }
}

static void lm__library_close(void *state)
{
    lm__library *l = (lm__library *)state;
    for (size_t i = 0; i < l->group_count; i++) {
        free(l->groups[i].fit_memory);
        free(l->groups[i].profile_memory);
        free(l->groups[i].codec_memory);
    }
    if (l->profiles) lm_profiles_close(l->profiles);
    free(l->groups);
    free(l->runs);
    free(l->tables_memory);
    free(l->slice_dims);
    free(l->workspace);
    free(l->page_bytes);
    free(l->slices);
    free(l->slices_out);
    free(l);
}

/* ---- a prefix as an archive ---- */
/* An archive in memory: the names of the profiles, the groups, their pages. */
typedef struct lm__pack {
    lq_archive_writer writer;
    uint8_t *file;
    uint8_t *directory;
    float *weights;
    uint8_t *workspace;
    size_t workspace_bytes;
} lm__pack;

/* Rows of a group in a prefix. */
static void lm__whole_rows(lm__library *l, const lm__group *g, const lm_chunk *c)
{
    const lq_role *roles = g->geometry.roles;
    for (size_t i = 0; i < g->run_count; i++) {
        uint32_t stream = roles ? roles[i].stream : g->geometry.stream;
        float *x = (stream == LQ_V ? c->v : c->k) + g->runs[i] * c->tokens * l->head_dim;
        l->slices[i] = x;
        l->slices_out[i] = x;
    }
}

/* A group's record and the name of its profile. */
static int lm__whole_group(lm__library *l, lm__pack *p, const lm__group *g, uint32_t rope)
{
    lq_slice *slices = (lq_slice *)lm_alloc(g->run_count, sizeof *slices);
    lq_archive_profile_desc name = {NULL, 0, NULL};
    lq_archive_group_desc d;
    memset(&d, 0, sizeof d);
    for (size_t i = 0; i < g->run_count; i++) {
        slices[i].layer = (uint32_t)(g->runs[i] / l->kv_heads);
        slices[i].head = (uint32_t)(g->runs[i] % l->kv_heads);
        slices[i].dims = (uint32_t)l->head_dim;
        slices[i].stream = g->geometry.roles ? g->geometry.roles[i].stream : 0;
    }
    d.stream = g->geometry.stream;
    d.rope = g->geometry.stream == LQ_V ? LQ_ARCHIVE_NONE : rope;
    d.slices = slices;
    d.slice_count = g->run_count;
    name.hash = g->calibrated->dense->hash;
    int status = lq_archive_add_group(&p->writer, &d, NULL);
    free(slices);
    return status ? status : lq_archive_add_profile(&p->writer, &name, NULL);
}

/* Weights of a group: attention mass, averaged over its layers, or what is expected, or both. */
static int lm__whole_weights(lm__library *l, lm__pack *p, const lm__group *g, const lm_whole *w,
                             const lq_vectors *src, const lq_positions *positions)
{
    size_t i, t;
    size_t tokens = w->chunk.tokens;
    lq_expect_desc d = {0, 0};
    d.ahead = l->ahead;
    memset(p->weights, 0, tokens * sizeof *p->weights);
    for (i = 0; i < g->run_count && l->past > 0.0; i++) {
        for (t = 0; t < tokens; t++) {
            p->weights[t] += w->mass[g->runs[i] / l->kv_heads * w->mass_stride + t];
        }
    }
    if (!(l->safe > 0.0)) return LQ_OK;
    float *expected = l->past > 0.0 ? p->weights + tokens : p->weights;
    lm__grow(&p->workspace, &p->workspace_bytes,
             lq_profile_expect_workspace_bytes(&g->geometry, tokens));
    int status = lq_profile_expect(expected, g->calibrated, &g->geometry, src, positions, tokens,
                                   &d, p->workspace, p->workspace_bytes);
    if (status == LQ_E_FORMAT) l->fault = "safe=: the profiles were calibrated without queries";
    if (status || !(l->past > 0.0)) return status;
    return lq_weights_mix(p->weights, p->weights, expected, (float)(l->safe / (l->past + l->safe)),
                          tokens);
}

static int lm__whole_pack(lm__library *l, lm__pack *p, const lm_whole *w)
{
    lq_archive_writer_desc d;
    uint32_t rope = LQ_ARCHIVE_NONE;
    lq_positions positions = {0, 1, NULL};
    size_t numbers = 2 * w->chunk.tokens * l->runs_total * l->head_dim;
    memset(&d, 0, sizeof d);
    d.mem_bytes = numbers * 4 + (1u << 20);
    d.directory_bytes = 4096 + 64 * l->runs_total + l->group_count * (w->chunk.tokens * 2 + 4096);
    d.mem = p->file = (uint8_t *)lm_alloc(d.mem_bytes, 1);
    d.directory = p->directory = (uint8_t *)lm_alloc(d.directory_bytes, 1);
    positions.first = (int64_t)w->chunk.position;
    int status = lq_archive_writer_init(&p->writer, &d);
    if (!status && l->rope.rotary_dims > 0) {
        status = lq_archive_add_rope(&p->writer, &l->rope, &rope);
    }
    for (size_t i = 0; i < l->group_count && !status; i++) {
        status = lm__whole_group(l, p, &l->groups[i], rope);
    }
    for (size_t i = 0; i < l->group_count && !status; i++) {
        lm__group *g = &l->groups[i];
        lq_archive_pack_desc pack;
        memset(&pack, 0, sizeof pack);
        lm__whole_rows(l, g, &w->chunk);
        lq_vectors src;
        src.slices = l->slices;
        src.token_stride = 0;
        src.type = LQ_F32;
        pack.tables = l->tables;
        pack.geometry = g->geometry;
        pack.group = (uint32_t)i;
        pack.first_token = w->chunk.position;
        pack.quantizer = l->quantizer;
        pack.step = (float)l->step[g->geometry.stream == LQ_V];
        pack.profile = g->calibrated;
        pack.profile_id = (uint32_t)i;
        if (l->past + l->safe > 0.0) {
            status = lm__whole_weights(l, p, g, w, &src, &positions);
            if (status) break;
            pack.weights = p->weights;
            pack.exponent = (float)(l->past + l->safe);
        }
        status = lq_archive_pack_check(&p->writer, &pack, &l->fault);
        lm__grow(&p->workspace, &p->workspace_bytes, lq_archive_pack_workspace_bytes(&pack));
        status = status ? status
                        : lq_archive_pack(&p->writer, &pack, &src, &positions, w->chunk.tokens,
                                          p->workspace, p->workspace_bytes);
    }
    return status ? status : lq_archive_finish(&p->writer);
}

static int lm__whole_unpack(lm__library *l, lm__pack *p, const lm_whole *w)
{
    lq_archive_source source;
    size_t needed = 0;
    memset(&source, 0, sizeof source);
    source.bytes = p->file;
    source.size = p->writer.offset;
    lq_archive_reader reader;
    (void)!lq_archive_open(&reader, &source, NULL, 0, &needed);
    void *index = lm_alloc(needed, 1);
    int status = lq_archive_open(&reader, &source, index, needed, &needed);
    for (size_t i = 0; i < l->group_count && !status; i++) {
        lq_archive_unpack_desc d;
        memset(&d, 0, sizeof d);
        lm__whole_rows(l, &l->groups[i], &w->chunk);
        lq_vectors_out dst;
        dst.slices = l->slices_out;
        dst.token_stride = 0;
        dst.type = LQ_F32;
        d.tables = l->tables;
        d.group = (uint32_t)i;
        d.calibrated = &l->groups[i].calibrated;
        d.calibrated_count = 1;
        lm__grow(&p->workspace, &p->workspace_bytes,
                 lq_archive_unpack_workspace_bytes(&reader, d.group));
        status = lq_archive_unpack(&reader, &d, &dst, w->chunk.position, w->chunk.tokens,
                                   p->workspace, p->workspace_bytes);
    }
    free(index);
    return status;
}

/* A prefix through an archive, all of whose bytes are counted but the profiles'. */
static const char *lm__library_whole(void *state, lm_whole *w, lm_bill *bill)
{
    lm__library *l = (lm__library *)state;
    lm__pack p;
    memset(&p, 0, sizeof p);
    p.weights = (float *)lm_alloc(2 * w->chunk.tokens, sizeof *p.weights);
    int status = lm__whole_pack(l, &p, w);
    if (!status) {
        bill->shared_bytes += p.writer.offset;
        status = lm__whole_unpack(l, &p, w);
    }
    free(p.file);
    free(p.directory);
    free(p.weights);
    free(p.workspace);
    return !status ? NULL : l->fault ? l->fault : lq_status_string(status);
}

/* ---- specs ---- */
/* One word of a spec: z, d4, e8, e8r, t8, t64; 2, 3, 4, 8; k=STEP; v=STEP; refit=1. */
static int lm__library_word(lm__library *l, const char *word, size_t count)
{
    int quantizer = quantizer_named(word, count);
    if (quantizer) {
        l->quantizer = quantizer;
        return 1;
    }
    if (count == 1 && strchr("2348", word[0])) {
        l->bits = word[0] - '0';
        return 1;
    }
    char *end;
    if (count > 2 && (word[0] == 'k' || word[0] == 'v') && word[1] == '=') {
        double step = strtod(word + 2, &end);
        l->step[word[0] == 'v'] = step;
        return end == word + count && step > 1e-4 && step < 100;
    }
    if (count > 5 && memcmp(word, "past=", 5) == 0) {
        l->past = strtod(word + 5, &end);
        return end == word + count && l->past > 0.0 && l->past <= 1.0;
    }
    if (count > 5 && memcmp(word, "safe=", 5) == 0) {
        l->safe = strtod(word + 5, &end);
        return end == word + count && l->safe > 0.0 && l->safe <= 1.0;
    }
    if (count > 6 && memcmp(word, "ahead=", 6) == 0) {
        l->ahead = (uint32_t)strtod(word + 6, &end);
        return end == word + count && l->ahead > 0;
    }
    if (count == 5 && memcmp(word, "own=", 4) == 0) {
        l->own = word[4] == '1';
        return word[4] == '0' || word[4] == '1';
    }
    if (count == 7 && memcmp(word, "refit=", 6) == 0) {
        l->refit = word[6] == '1';
        return word[6] == '0' || word[6] == '1';
    }
    return 0;
}

static const char *lm__library_parse(lm__library *l, const char *spec)
{
    const char *at = spec + strcspn(spec, ":@");
    int calibrated = strchr(spec, '@') != NULL;
    l->page = memcmp(spec, "fixed", 5) == 0 ? LQ_PAGE_FIXED : LQ_PAGE_CODED;
    l->undo_rope = memcmp(spec, "cold", 4) == 0;
    l->quantizer = LQ_Z;
    l->bits = 4;
    l->step[0] = 0.75;
    l->step[1] = 0.7;
    while (*at && *at != '@') {
        size_t count = strcspn(++at, ":,@");
        if (!lm__library_word(l, at, count)) {
            return "words are z, d4, e8, e8r, t8, t64, k=STEP, v=STEP, for fixed 2, 3, 4 or 8, "
                   "and before @FILE refit=1, own=1, past=EXPONENT, safe=EXPONENT, ahead=TOKENS";
        }
        at += count;
    }
    if (calibrated && (l->page == LQ_PAGE_FIXED || !at[1])) {
        return "a file of profiles is for cold and warm: cold:z:k=0.7,v=0.6@FILE";
    }
    if (l->past + l->safe > 1.0) return "past= and safe=: together at most 1";
    if (l->ahead && !(l->safe > 0.0)) return "ahead= goes with safe=";
    return (l->refit || l->own || l->past + l->safe > 0.0) && !calibrated
               ? "refit=1, own=1, past= and safe= are for profiles of a file: SPEC@FILE"
               : NULL;
}

/* What groups hold: heads of a layer, or what the file of profiles says. */
static void lm__library_groups(lm__library *l, const lm_geometry *g)
{
    size_t heads = l->page == LQ_PAGE_FIXED ? 1 : g->kv_heads;
    size_t i, s;
    l->group_count = l->profiles ? l->profiles->group_count : 2 * g->layers * (g->kv_heads / heads);
    l->groups = (lm__group *)lm_alloc(l->group_count, sizeof *l->groups);
    for (i = 0; i < l->group_count; i++) {
        lm__group *group = &l->groups[i];
        if (l->profiles) {
            const lm_profile_group *p = &l->profiles->groups[i];
            group->calibrated = &p->profile;
            group->calibrated_bytes = p->decodes;
            group->runs = p->runs;
            group->run_count = p->run_count;
            group->geometry.stream = p->stream;
            group->geometry.basis = LQ_BASIS_DENSE;
            group->geometry.dense = p->profile.dense;
            group->geometry.roles = p->roles;
        } else {
            group->runs = l->runs + i / 2 * heads;
            group->run_count = heads;
            group->geometry.stream = i % 2 ? LQ_V : LQ_K;
            group->geometry.basis =
                l->page == LQ_PAGE_FIXED ? LQ_BASIS_HADAMARD : LQ_BASIS_IDENTITY;
        }
        group->geometry.slice_count = (uint32_t)group->run_count;
        group->geometry.slice_dims = l->slice_dims;
        group->geometry.rope = l->undo_rope && group->geometry.stream == LQ_K ? &l->rope : NULL;
        for (s = 0; group->geometry.roles && s < group->run_count; s++) {
            lq_role *role = &l->profiles->groups[i].roles[s];
            role->rope = l->undo_rope && role->stream == LQ_K ? &l->rope : NULL;
        }
    }
}

/* Memory, and a codec of each group to see that there is one. */
static const char *lm__library_prepare(lm__library *l)
{
    for (size_t i = 0; i < l->group_count; i++) {
        lm__group *g = &l->groups[i];
        size_t rows = lq_geometry_rows(&g->geometry);
        float step = g->calibrated ? (float)l->step[g->geometry.stream == LQ_V] : 1.0f;
        if (rows == 0) return "this model's heads do not fit";
        if (!g->calibrated || l->refit) {
            g->fit_memory = lm_alloc(lq_fit_bytes(&g->geometry), 1);
            g->profile_memory = lm_alloc(lq_profile_bytes(rows), 1);
            lm__grow(&l->workspace, &l->workspace_bytes, lq_fit_workspace_bytes(&g->geometry));
        }
        g->current = g->calibrated;
        if (!g->calibrated) {
            g->current = &g->fitted;
            if (lq_profile_init(&g->fitted, g->profile_memory, lq_profile_bytes(rows), &g->geometry,
                                1.0f)) {
                return "this model's heads do not fit";
            }
        }
        if (lm__group_codec(l, g, step)) {
            return g->calibrated ? "this quantizer or step does not fit the profiles"
                                 : "this quantizer has no such form";
        }
        g->current = NULL;
    }
    return NULL;
}

static const char *lm__library_open(lm_codec *codec, const char *spec, const lm_geometry *g)
{
    lm__library *l = (lm__library *)lm_alloc(1, sizeof *l);
    size_t runs = g->layers * g->kv_heads;
    codec->state = l;
    codec->code = lm__library_code;
    codec->reset = lm__library_reset;
    codec->close = lm__library_close;
    const char *fault = lm__library_parse(l, spec);
    if (fault) return fault;
    if (strchr(spec, '@') != NULL) {
        l->profiles = lm_profiles_open(strchr(spec, '@') + 1, g, l->undo_rope);
        codec->profile_bytes = l->profiles->bytes;
    }
    l->head_dim = g->head_dim;
    l->kv_heads = g->kv_heads;
    l->runs_total = runs;
    if (l->profiles && l->undo_rope && !l->refit && !l->own) {
        codec->whole = lm__library_whole;
    } else if (l->past + l->safe > 0.0) {
        return "past= and safe= go with cold: and without refit=1 and own=1";
    }
    lm_rope_of(&l->rope, g);
    l->tables_memory = lm_alloc(lq_tables_bytes(), 1);
    if (lq_tables_init(&l->tables, l->tables_memory, lq_tables_bytes())) return "no tables";
    l->slice_dims = (uint32_t *)lm_alloc(2 * runs, sizeof *l->slice_dims);
    l->runs = (size_t *)lm_alloc(runs, sizeof *l->runs);
    l->slices = (const void **)lm_alloc(2 * runs, sizeof *l->slices);
    l->slices_out = (void **)lm_alloc(2 * runs, sizeof *l->slices_out);
    for (size_t i = 0; i < 2 * runs; i++) {
        l->slice_dims[i] = (uint32_t)g->head_dim;
        if (i < runs) l->runs[i] = i;
    }
    lm__library_groups(l, g);
    return lm__library_prepare(l);
}

#endif
