/* lm_profiles.h - part of lm.c: a file of calibrated profiles, held against the model

   An archive without runs, as `lm calibrate` writes it: profile i belongs to group i. Codecs that
   name the same file share what was read from it. */
#ifndef LM_PROFILES_H
#define LM_PROFILES_H

#include "lm_cache.h"
#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"
#include "../quantizer_names.h"

/* Why a file could not be written; NULL: it could. */
static const char *lm_why(int status)
{
    if (status == LQ_E_IO) return strerror(errno);
    return status ? lq_status_string(status) : NULL;
}

/* One group of the file.
     runs     (run_count) of each slice, layer * kv_heads + head: its place in an lm_chunk
     roles    (run_count) of LQ_KV, without ropes; else NULL
     decodes  bytes of its file form without what only encoding needs */
typedef struct lm_profile_group {
    uint32_t stream;
    size_t run_count;
    size_t *runs;
    lq_role *roles;
    size_t decodes;
    lq_profile profile;
    void *memory;
} lm_profile_group;

typedef struct lm_profiles {
    struct lm_profiles *next;
    char *path;
    size_t users;
    size_t bytes;
    int undo_rope;
    uint8_t *file;
    void *index;
    lq_archive_reader reader;
    lm_profile_group *groups;
    size_t group_count;
} lm_profiles;

static lm_profiles *lm__shelf;

static void lm_rope_of(lq_rope *rope, const lm_geometry *g)
{
    rope->freqs = g->rope;
    rope->rotary_dims = (uint32_t)g->rope_dims;
    rope->layout = g->adjacent ? LQ_ROPE_ADJACENT : LQ_ROPE_HALF;
    rope->magnitude = g->rope_magnitude;
}

/* ---- reading ---- */

static void lm__profiles_read(lm_profiles *p)
{
    struct stat info;
    FILE *file = fopen(p->path, "rb");
    if (file == NULL || fstat(fileno(file), &info) != 0) {
        lm_fail("%s: cannot open it (%s)", p->path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size > (off_t)1 << 30) {
        lm_fail("%s: not a file of at most 1 GiB", p->path);
    }
    p->bytes = (size_t)info.st_size;
    p->file = (uint8_t *)lm_alloc(p->bytes, 1);
    if (fread(p->file, 1, p->bytes, file) != p->bytes) {
        lm_fail("%s: cannot read it", p->path);
    }
    fclose(file);
}

static void lm__profiles_index(lm_profiles *p)
{
    lq_archive_source source;
    size_t needed = 0;
    memset(&source, 0, sizeof source);
    source.bytes = p->file;
    source.size = p->bytes;
    int status = lq_archive_open(&p->reader, &source, NULL, 0, &needed);
    if (status == LQ_E_SPACE) {
        p->index = lm_alloc(needed, 1);
        status = lq_archive_open(&p->reader, &source, p->index, needed, &needed);
    }
    if (status) {
        lm_fail("%s: not a file of `lm calibrate` (%s)", p->path, lq_status_string(status));
    }
    if (p->reader.group_count == 0 || p->reader.profile_count != p->reader.group_count) {
        lm_fail("%s: %u groups and %u profiles are not a calibration", p->path,
                p->reader.group_count, p->reader.profile_count);
    }
}

/* ---- is it this model's? ---- */

static void lm__profiles_rope(const lm_profiles *p, uint32_t id, const lm_geometry *g)
{
    lq_rope have, want;
    float *freqs = (float *)lm_alloc(LQ_ARCHIVE_MAX_DIMS / 2, sizeof *freqs);
    lm_rope_of(&want, g);
    int same = lq_archive_rope(&p->reader, id, &have, freqs, LQ_ARCHIVE_MAX_DIMS / 2) == LQ_OK &&
               have.rotary_dims == want.rotary_dims && have.layout == want.layout &&
               memcmp(&have.magnitude, &want.magnitude, sizeof(float)) == 0 &&
               memcmp(freqs, want.freqs, want.rotary_dims / 2 * sizeof(float)) == 0;
    free(freqs);
    if (!same) {
        lm_fail("%s: calibrated for another RoPE than this model's", p->path);
    }
}

static void lm__profiles_group(lm_profiles *p, uint32_t id, const lm_geometry *g, uint8_t *seen)
{
    lm_profile_group *group = &p->groups[id];
    lq_slice *slices = (lq_slice *)lm_alloc(LQ_ARCHIVE_MAX_SLICES, sizeof *slices);
    lq_archive_group_desc d;
    if (lq_archive_group(&p->reader, id, &d, slices, LQ_ARCHIVE_MAX_SLICES)) {
        lm_fail("%s: group %u cannot be read", p->path, id);
    }
    group->stream = d.stream;
    group->run_count = d.slice_count;
    group->runs = (size_t *)lm_alloc(d.slice_count, sizeof *group->runs);
    group->roles =
        d.stream == LQ_KV ? (lq_role *)lm_alloc(d.slice_count, sizeof *group->roles) : NULL;
    for (size_t i = 0; i < d.slice_count; i++) {
        const lq_slice *s = &d.slices[i];
        size_t run = s->layer * g->kv_heads + s->head;
        uint32_t stream = s->stream ? s->stream : d.stream;
        if (group->roles) group->roles[i].stream = stream;
        if (s->layer >= g->layers || s->head >= g->kv_heads || s->first_dim != 0 || s->rope != 0 ||
            s->dims != g->head_dim || seen[run * 2 + (stream == LQ_V)]++) {
            lm_fail("%s: calibrated for another model (layer %u, head %u, %u dims)", p->path,
                    s->layer, s->head, s->dims);
        }
        group->runs[i] = run;
    }
    if (d.stream != LQ_V && (d.rope != LQ_ARCHIVE_NONE) != p->undo_rope) {
        lm_fail("%s: calibrated with RoPE %s: say '%s'", p->path, p->undo_rope ? "kept" : "undone",
                p->undo_rope ? "warm" : "cold");
    }
    if (d.stream != LQ_V && p->undo_rope) lm__profiles_rope(p, d.rope, g);
    free(slices);
}

static void lm__profiles_load(lm_profiles *p, uint32_t id, const lm_geometry *g)
{
    lm_profile_group *group = &p->groups[id];
    lq_archive_profile_desc d;
    size_t needed = 0;
    int status = lq_archive_profile(&p->reader, id, &d);
    if (!status && d.bytes == NULL) {
        lm_fail("%s: profile %u is kept elsewhere", p->path, id);
    }
    if (!status) {
        status = lq_profile_load(&group->profile, NULL, 0, &needed, d.bytes, d.count);
    }
    if (status == LQ_E_SPACE) {
        group->memory = lm_alloc(needed, 1);
        status = lq_profile_load(&group->profile, group->memory, needed, &needed, d.bytes, d.count);
    }
    if (status) {
        lm_fail("%s: profile %u: %s", p->path, id, lq_status_string(status));
    }
    if (group->profile.stream != group->stream || group->profile.dense == NULL ||
        group->profile.slice_count != group->run_count ||
        group->profile.dims != group->run_count * g->head_dim) {
        lm_fail("%s: profile %u does not fit its group", p->path, id);
    }
    for (size_t i = 0; group->roles && i < group->run_count; i++) {
        int value = group->roles[i].stream == LQ_V;
        group->roles[i].gain = value ? group->profile.dense->slice_gain[i] : 0;
    }
    group->decodes = lq_profile_strip(p->file + (d.bytes - p->file), d.count);
}

static void lm__profiles_check(lm_profiles *p, const lm_geometry *g)
{
    size_t runs = g->layers * g->kv_heads;
    uint8_t *seen = (uint8_t *)lm_alloc(runs, 2);
    p->group_count = p->reader.group_count;
    p->groups = (lm_profile_group *)lm_alloc(p->group_count, sizeof *p->groups);
    for (size_t i = 0; i < p->group_count; i++) {
        lm__profiles_group(p, (uint32_t)i, g, seen);
    }
    for (size_t i = 0; i < 2 * runs; i++) {
        if (!seen[i]) {
            lm_fail("%s: has no %s of layer %zu, head %zu", p->path, i % 2 ? "values" : "keys",
                    i / 2 / g->kv_heads, i / 2 % g->kv_heads);
        }
    }
    for (size_t i = 0; i < p->group_count; i++) {
        lm__profiles_load(p, (uint32_t)i, g);
    }
    free(seen);
}

/* ---- the shelf ---- */

/* The profiles of a file for a model, or the program ends: keys with RoPE undone or kept. */
static lm_profiles *lm_profiles_open(const char *path, const lm_geometry *g, int undo_rope)
{
    lm_profiles *p;
    for (p = lm__shelf; p != NULL; p = p->next) {
        if (strcmp(p->path, path) == 0 && p->undo_rope == undo_rope) {
            p->users++;
            return p;
        }
    }
    p = (lm_profiles *)lm_alloc(1, sizeof *p);
    p->path = (char *)lm_alloc(strlen(path) + 1, 1);
    memcpy(p->path, path, strlen(path) + 1);
    p->users = 1;
    p->undo_rope = undo_rope;
    lm__profiles_read(p);
    lm__profiles_index(p);
    lm__profiles_check(p, g);
    free(p->index);
    free(p->file);
    p->index = NULL;
    p->file = NULL;
    p->next = lm__shelf;
    lm__shelf = p;
    return p;
}

static void lm_profiles_close(lm_profiles *p)
{
    lm_profiles **at = &lm__shelf;
    if (--p->users > 0) return;
    while (*at != p) {
        at = &(*at)->next;
    }
    *at = p->next;
    for (size_t i = 0; i < p->group_count; i++) {
        free(p->groups[i].runs);
        free(p->groups[i].roles);
        free(p->groups[i].memory);
    }
    free(p->groups);
    free(p->path);
    free(p);
}

#endif
