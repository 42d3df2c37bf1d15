/* lm_session.h - part of lm.c: a conversation in a file, to go on with exactly

   What lq_kv_export writes: the cache, and a note of the program's own with the tokens, the state
   of the sampling and what the model was. It is written beside the old file, flushed to the disk
   and renamed over it: whenever the program ends, the name stands for the old session or the new
   one, whole. */
#ifndef LM_SESSION_H
#define LM_SESSION_H

#include "lm_kinds.h"
#include "lm_model.h"

/* How a session is packed.
     profiles  calibrated for the model (lm calibrate), whose groups its slices make
     step      of the keys (and of groups of both), step_v of values
     past      0, or the exponent of the attention that tokens got,
     safe      and of that which they can expect
     asked     for that; else profiles without queries do without */
typedef struct lm_packing {
    lm_profiles *profiles;
    double step;
    double step_v;
    double past;
    double safe;
    int asked;
    int quantizer;
} lm_packing;

enum { LM_SESSION_FIELDS = 13, LM_SESSION_SPEC = 64 };

/* What generate knows.
     ids          the text; the cache holds them all, but for a prompt that was just added
     held         so many of them
     next         drawn after the last of them and not yet part of the text, or LM_NONE
     random       state of the sampling
     spec, sinks, window  of the cache
     temperature, top     of the sampling */
typedef struct lm_session {
    lm_tokens ids;
    size_t held;
    uint32_t next;
    uint64_t random;
    char spec[LM_SESSION_SPEC];
    uint32_t sinks;
    uint32_t window;
    double temperature;
    uint32_t top;
} lm_session;

/* ---- the record ---- */

static void lm__put32(uint8_t *p, uint32_t n)
{
    for (size_t i = 0; i < 4; i++) {
        p[i] = (uint8_t)(n >> 8 * i);
    }
}

static void lm__put64(uint8_t *p, uint64_t n)
{
    lm__put32(p, (uint32_t)n);
    lm__put32(p + 4, (uint32_t)(n >> 32));
}

/* What must be the same for a cache to make sense: sizes, the order of channels, the weights. */
static void lm__session_model(const lm_model *m, uint32_t fields[7])
{
    fields[0] = (uint32_t)m->g.layers;
    fields[1] = (uint32_t)m->g.heads;
    fields[2] = (uint32_t)m->g.kv_heads;
    fields[3] = (uint32_t)m->g.head_dim;
    fields[4] = (uint32_t)m->vocab;
    fields[5] = (uint32_t)m->g.adjacent;
    fields[6] = lq_xxh32(m->file.data, m->file.bytes, 0);
}

/* Version, model (7), sinks, window, top, next, count, each uint32; random, temperature, each 8
   bytes; the spec, filled with zeros; the tokens. */
static size_t lm__session_record_bytes(size_t tokens)
{
    return 4 * LM_SESSION_FIELDS + 16 + LM_SESSION_SPEC + 4 * tokens;
}

static void lm__session_pack(uint8_t *dst, const lm_session *s, const lm_model *m)
{
    uint32_t fields[LM_SESSION_FIELDS] = {1};
    lm__session_model(m, fields + 1);
    fields[8] = s->sinks;
    fields[9] = s->window;
    fields[10] = s->top;
    fields[11] = s->next;
    fields[12] = (uint32_t)s->ids.count;
    for (size_t i = 0; i < LM_SESSION_FIELDS; i++) {
        lm__put32(dst + 4 * i, fields[i]);
    }
    dst += 4 * LM_SESSION_FIELDS;
    uint64_t bits;
    memcpy(&bits, &s->temperature, 8);
    lm__put64(dst, s->random);
    lm__put64(dst + 8, bits);
    memcpy(dst + 16, s->spec, LM_SESSION_SPEC);
    for (size_t i = 0; i < s->ids.count; i++) {
        lm__put32(dst + 16 + LM_SESSION_SPEC + 4 * i, s->ids.id[i]);
    }
}

/* 0 where the record is not one that lm__session_pack makes. */
static int lm__session_unpack(lm_session *s, const uint32_t *fields, const uint8_t *src,
                              const lm_model *m)
{
    s->sinks = fields[8];
    s->window = fields[9];
    s->top = fields[10];
    s->next = fields[11];
    s->held = fields[12];
    s->random = lm_load64(src);
    uint64_t bits = lm_load64(src + 8);
    memcpy(&s->temperature, &bits, 8);
    memcpy(s->spec, src + 16, LM_SESSION_SPEC);
    for (size_t i = 0; i < s->held; i++) {
        uint32_t id = lm_load32(src + 16 + LM_SESSION_SPEC + 4 * i);
        if (id >= m->vocab) return 0;
        lm_tokens_push(&s->ids, id);
    }
    return s->held > 0 && s->spec[LM_SESSION_SPEC - 1] == '\0' && lm_spec_live(s->spec) &&
           s->temperature >= 0.0 && s->temperature <= 100.0 && s->top >= 1 && s->top <= 64 &&
           s->sinks <= 1u << 24 && s->window <= 1u << 24 &&
           (s->next < m->vocab || s->next == LM_NONE);
}

/* ---- writing ---- */

static int lm__session_write(void *user, const void *bytes, size_t count)
{
    return fwrite(bytes, 1, count, (FILE *)user) != count;
}

/* The attention mass of a group's layers. */
static float *lm__session_past(const lm_model *m, const lm_live *live,
                                  const lm_profile_group *group)
{
    size_t tokens = lq_kv_tokens(&live->kv);
    float *weights = (float *)lm_alloc(tokens, sizeof *weights);
    size_t i, t;
    for (i = 0; i < group->run_count; i++) {
        const float *mass = live->mass + group->runs[i] / m->g.kv_heads * live->desc.tokens;
        for (t = 0; t < tokens; t++) {
            weights[t] += mass[t];
        }
    }
    if (lq_kv_importance(&live->kv, weights, weights)) {
        lm_fail("the attention of the session's tokens makes no sense");
    }
    return weights;
}

/* What a group's tokens can expect, or NULL. */
static float *lm__session_safe(const lm_live *live, const lq_kv_pack_group *group, int asked)
{
    float *weights = (float *)lm_alloc(lq_kv_tokens(&live->kv), sizeof *weights);
    size_t bytes = lq_kv_expect_workspace_bytes(&live->kv);
    void *work = lm_alloc(bytes, 1);
    int status = lq_kv_expect(&live->kv, weights, group, NULL, work, bytes);
    if (status == LQ_E_FORMAT && !asked) {
        free(weights);
        weights = NULL;
    } else if (status) {
        lm_fail("--safe: %s", status == LQ_E_FORMAT ? "the profiles were calibrated without queries"
                                                    : lq_status_string(status));
    }
    free(work);
    return weights;
}

/* Weights of a group, or NULL. */
static float *lm__session_weights(const lm_packing *packing, const lm_model *m,
                                  const lm_live *live, const lm_profile_group *from,
                                  const lq_kv_pack_group *group)
{
    float *past = packing->past > 0.0 && live->mass ? lm__session_past(m, live, from) : NULL;
    float *safe = packing->safe > 0.0 ? lm__session_safe(live, group, packing->asked)
                                       : NULL;
    if (past == NULL || safe == NULL) return past != NULL ? past : safe;
    if (lq_weights_mix(past, past, safe, (float)(packing->safe / (packing->past + packing->safe)),
                       lq_kv_tokens(&live->kv))) {
        lm_fail("the weights of the session's tokens make no sense");
    }
    free(safe);
    return past;
}

/* What lq_kv_pack is told; lm__session_ungroup frees it. */
static void lm__session_groups(lq_kv_pack_desc *pack, const lm_packing *packing, const lm_model *m,
                               const lm_live *live)
{
    const lm_profiles *p = packing->profiles;
    lq_kv_pack_group *groups = (lq_kv_pack_group *)lm_alloc(p->group_count, sizeof *groups);
    size_t g, i;
    for (g = 0; g < p->group_count; g++) {
        const lm_profile_group *from = &p->groups[g];
        lq_slice *slices = (lq_slice *)lm_alloc(from->run_count, sizeof *slices);
        for (i = 0; i < from->run_count; i++) {
            slices[i].layer = (uint32_t)(from->runs[i] / m->g.kv_heads);
            slices[i].head = (uint32_t)(from->runs[i] % m->g.kv_heads);
            slices[i].dims = (uint32_t)m->g.head_dim;
            slices[i].stream = from->roles ? from->roles[i].stream : from->stream;
        }
        groups[g].slices = slices;
        groups[g].slice_count = from->run_count;
        groups[g].profile = &from->profile;
        groups[g].step = (float)(from->stream == LQ_V ? packing->step_v : packing->step);
        groups[g].weights = lm__session_weights(packing, m, live, from, &groups[g]);
    }
    pack->groups = groups;
    pack->group_count = p->group_count;
    pack->quantizer = packing->quantizer;
    pack->exponent = (float)((live->mass != NULL ? packing->past : 0.0) + packing->safe);
}

static void lm__session_ungroup(const lq_kv_pack_desc *pack)
{
    for (size_t g = 0; g < pack->group_count; g++) {
        free((void *)(uintptr_t)pack->groups[g].slices);
        free((void *)(uintptr_t)pack->groups[g].weights);
    }
    free((void *)(uintptr_t)pack->groups);
}

/* packing NULL: as it is. */
static int lm__session_export(FILE *file, const lm_session *s, const lm_model *m,
                              const lm_live *live, const lm_packing *packing)
{
    lq_kv_export_desc d;
    const char *why = NULL;
    void *tables = NULL;
    memset(&d, 0, sizeof d);
    lq_kv_pack_desc pack;
    memset(&pack, 0, sizeof pack);
    if (packing != NULL) {
        tables = lm_alloc(lq_tables_bytes(), 1);
        if (lq_tables_init(&pack.tables, tables, lq_tables_bytes())) {
            lm_fail("no tables");
        }
        lm__session_groups(&pack, packing, m, live);
        if (lq_kv_pack_check(&live->kv, &pack, &why)) {
            lm_fail("--profile: %s", why);
        }
        d.pack = &pack;
    }
    d.note_bytes = lm__session_record_bytes(s->ids.count);
    uint8_t *note = (uint8_t *)lm_alloc(d.note_bytes, 1);
    lm__session_pack(note, s, m);
    d.note = note;
    size_t bytes = lq_kv_export_workspace_bytes(&live->kv, &d);
    void *work = lm_alloc(bytes, 1);
    int status = lq_kv_export(&live->kv, lm__session_write, file, &d, work, bytes);
    lm__session_ungroup(&pack);
    free(tables);
    free(work);
    free(note);
    return status;
}

/* Ends the program where that fails; the old file stays then. Returns the file's bytes. */
static size_t lm_session_save(const lm_session *s, const char *path, const lm_model *m,
                              const lm_live *live, const lm_packing *packing)
{
    size_t room = strlen(path) + 6;
    char *beside = (char *)lm_alloc(room, 1);
    (void)snprintf(beside, room, "%s.part", path);
    FILE *file = fopen(beside, "wb");
    if (file == NULL) {
        lm_fail("%s: cannot write it (%s)", beside, strerror(errno));
    }
    int status = lm__session_export(file, s, m, live, packing);
    long bytes = ftell(file);
    lm_keep(file, beside, path, lm_why(status));
    free(beside);
    return bytes > 0 ? (size_t)bytes : 0;
}

/* ---- reading ---- */

typedef struct lm_session_file {
    const char *path;
    FILE *file;
    lq_archive_source source;
    lq_archive_reader reader;
    void *index;
} lm_session_file;

static int lm__session_read(void *user, uint64_t offset, void *dst, size_t count)
{
    FILE *file = (FILE *)user;
    return fseeko(file, (off_t)offset, SEEK_SET) != 0 || fread(dst, 1, count, file) != count;
}

static void lm__session_index(lm_session_file *f)
{
    lq_archive_source *source = &f->source;
    size_t needed = 0;
    f->file = fopen(f->path, "rb");
    struct stat info;
    if (f->file == NULL || fstat(fileno(f->file), &info) != 0) {
        lm_fail("%s: cannot open it (%s)", f->path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) lm_fail("%s: not a file", f->path);
    source->read_fn = lm__session_read;
    source->user = f->file;
    source->size = (uint64_t)info.st_size;
    int status = lq_archive_open(&f->reader, source, NULL, 0, &needed);
    if (status == LQ_E_SPACE) {
        f->index = lm_alloc(needed, 1);
        status = lq_archive_open(&f->reader, source, f->index, needed, &needed);
    }
    if (status) {
        lm_fail("%s: damaged, or not a file of --save (%s)", f->path, lq_status_string(status));
    }
}

/* Everything but the cache, which lm_session_load fills; or the program ends. */
static void lm_session_open(lm_session_file *f, lm_session *s, const char *path, const lm_model *m)
{
    size_t bytes = 0;
    memset(f, 0, sizeof *f);
    f->path = path;
    lm__session_index(f);
    const uint8_t *record;
    if (lq_archive_meta(&f->reader, LQ_KV_NOTE, &record, &bytes) ||
        bytes < lm__session_record_bytes(0)) {
        lm_fail("%s: an archive, but not a file of --save", path);
    }
    uint32_t fields[LM_SESSION_FIELDS];
    for (size_t i = 0; i < LM_SESSION_FIELDS; i++) {
        fields[i] = lm_load32(record + 4 * i);
    }
    if (fields[0] != 1) {
        lm_fail("%s: a session of version %u; this program knows 1", path, fields[0]);
    }
    uint32_t want[7];
    lm__session_model(m, want);
    if (memcmp(fields + 1, want, 5 * sizeof *want) != 0) {
        lm_fail("%s: saved with another model (%u layers, %u / %u heads of %u, %u tokens)", path,
                fields[1], fields[2], fields[3], fields[4], fields[5]);
    }
    if (fields[6] != want[5] || fields[7] != want[6]) {
        lm_fail("%s: saved with %s", path,
                fields[6] != want[5] ? "another --order" : "other weights of the same shape");
    }
    if (fields[12] > (bytes - lm__session_record_bytes(0)) / 4 ||
        bytes != lm__session_record_bytes(fields[12]) ||
        !lm__session_unpack(s, fields, record + 4 * LM_SESSION_FIELDS, m)) {
        lm_fail("%s: its record makes no sense", path);
    }
}

/* The profiles that a file may name: those of the cache, and those that it was packed with. */
static const lq_profile **lm__session_shelf(const lm_live *live, const lm_profiles *packed,
                                            size_t *count)
{
    *count = live->shelf_count + (packed != NULL ? packed->group_count : 0);
    const lq_profile **shelf;
    shelf = (const lq_profile **)lm_alloc(*count + 1, sizeof *shelf);
    size_t i;
    for (i = 0; i < live->shelf_count; i++) {
        shelf[i] = live->shelf[i];
    }
    for (; i < *count; i++) {
        shelf[i] = &packed->groups[i - live->shelf_count].profile;
    }
    return shelf;
}

/* Whether the file holds a cache as it was, not packed. */
static int lm__session_live(const lm_session_file *f)
{
    return f->reader.profile_count == 0;
}

/* Puts the file's cache in place of an empty one, which was opened as the session says, and closes
   the file. packed: the profiles of --profile, or NULL. */
static void lm_session_load(lm_session_file *f, const lm_session *s, lm_live *live,
                            const lm_profiles *packed)
{
    const char *why = NULL;
    int status =
        lm__session_live(f) ? lq_kv_load_check(&live->kv, &f->reader, 0, &why) : (int)LQ_OK;
    if (!lm__session_live(f) && packed == NULL) {
        lm_fail("%s: packed with calibrated profiles: say --profile FILE.lqp", f->path);
    }
    if (status) {
        lm_fail("%s: the cache cannot be read (%s)", f->path,
                why != NULL ? why : lq_status_string(status));
    }
    lq_kv_import_desc d;
    memset(&d, 0, sizeof d);
    d.tables = live->desc.tables;
    const lq_profile **shelf = lm__session_shelf(live, packed, &d.profile_count);
    d.profiles = shelf;
    d.tokens = live->desc.tokens;
    do {
        lq_kv_free(&live->kv);
        free(live->memory);
        live->memory = lm_alloc(live->bytes, 1);
        status = lq_kv_import(&live->kv, live->memory, live->bytes, &live->bytes, &f->source, &d);
    } while (status == LQ_E_SPACE);
    if (status == LQ_E_FORMAT && packed != NULL) {
        lm_fail("%s: packed with other profiles than those of --profile", f->path);
    }
    if (status) {
        lm_fail("%s: the cache cannot be read (%s)", f->path, lq_status_string(status));
    }
    free(shelf);
    if (lq_kv_tokens(&live->kv) != s->held) {
        lm_fail("%s: %zu tokens of text, %zu in the cache", f->path, s->held,
                lq_kv_tokens(&live->kv));
    }
    free(f->index);
    fclose(f->file);
}

#endif
