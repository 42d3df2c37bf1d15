/* cc -std=c99 -O2 tests/test_export.c -o test_export -lm    A session in one call each way, in a
   cache made from what the file says of it; what lq_kv_load says of caches of another kind; copies
   into other policies; damaged, cut and hostile files. `test_export N`: so many of those. */
#include "header.h"

#include "check.h"
#include "source.h"
#include "unpack.h"

enum { LAYERS = 5, HEADS = 2, DIMS = 32, WIDE = 64, TOKENS = 300, ROOM = 360, KINDS = 5 };
enum { PROFILES = 2 * HEADS, QUERY_HEADS = 4, MOST = 8 << 20 };
enum { HOT, MIXED, WARM, LATENT, RAW };

static const lq_tables *tables;
static float vectors[2][TOKENS * HEADS * WIDE];
static float freqs[WIDE / 2];
static lq_rope ropes[2];
static lq_profile profiles[PROFILES];
static const lq_profile *given[2 * LAYERS * HEADS]; /* as lq_kv_desc has them */
static const lq_profile *shuffled[PROFILES + 1];

/* ---- caches ---- */
typedef struct cache {
    lq_kv_desc desc;
    lq_kv_layer layers[LAYERS];
    lq_kv_policy heads[2 * HEADS];
    lq_kv kv;
    void *mem;
} cache;

static void describe_layers(cache *c)
{
    lq_kv_policy *p = c->heads;
    p[0].kind = p[1].kind = p[3].kind = LQ_KV_HOT;
    p[0].bits = 8;
    p[1].quantizer = LQ_E8;
    p[2].kind = LQ_KV_RAW;
    p[3].bits = 2;
    c->layers[0].heads = p;
    c->layers[1].window = 40; /* gives back */
    c->layers[1].rope = &ropes[1];
    c->layers[1].k_dims = WIDE;
    c->layers[1].kv_heads = 1;
    c->layers[1].rope_first = 8;
    c->layers[2].kv_heads = LQ_KV_NONE;
    c->layers[3].share = 1;
    c->layers[3].window = 70;
    c->layers[4].v.kind = LQ_KV_HOT;
    c->layers[4].v.bits = 3;
}

static void describe(cache *c, int kind)
{
    lq_kv_desc *d = &c->desc;
    memset(c, 0, sizeof *c);
    d->layers = LAYERS;
    d->kv_heads = HEADS;
    d->k_dims = DIMS;
    d->tokens = ROOM;
    d->window = 20;
    d->rope = &ropes[0];
    if (kind == MIXED) {
        d->layer = c->layers;
        d->sinks = LQ_KV_NONE;
        d->type = LQ_BF16;
        d->v_dims = 16;
        d->step_tokens = 16;
        d->sparse = 1;
        describe_layers(c);
    } else if (kind == WARM) {
        d->layer = c->layers;
        d->tables = tables;
        d->profiles = given;
        d->k.kind = d->v.kind = LQ_KV_WARM;
        d->k.quantizer = LQ_E8;
        d->k.step = 0.5f;
        d->v.step = 0.25f;
        d->v.bits = 6;
        c->layers[3].k.kind = LQ_KV_HOT;
    } else if (kind == LATENT) {
        d->k_dims = WIDE;
        d->kv_heads = 1;
        d->v_in_k = 1;
        d->v_dims = WIDE - DIMS;
        d->rope_first = WIDE - DIMS;
        d->window = LQ_KV_NONE;
    } else if (kind == RAW) {
        d->type = LQ_F32;
        d->k.kind = d->v.kind = LQ_KV_RAW;
    }
}

static void make(cache *c)
{
    c->mem = source_alloc(lq_kv_bytes(&c->desc));
    CHECK(lq_kv_init(&c->kv, c->mem, lq_kv_bytes(&c->desc), &c->desc) == LQ_OK);
}

static void drop(cache *c)
{
    lq_kv_free(&c->kv);
    free(c->mem);
}

static int has_own(const cache *c, uint32_t l)
{
    return !c->desc.layer || (c->layers[l].kv_heads != LQ_KV_NONE && c->layers[l].share == 0);
}

/* Appends tokens first .. end of the numbers, 50 at a time. */
static void fill(const cache *c, lq_kv *kv, size_t first, size_t end)
{
    while (first < end) {
        size_t n = end - first < 50 ? end - first : 50;
        for (uint32_t l = 0; l < LAYERS; l++) {
            lq_kv_view k;
            memset(&k, 0, sizeof k);
            lq_kv_view v;
            memset(&v, 0, sizeof v);
            k.data = vectors[0] + first * HEADS * WIDE;
            v.data = vectors[1] + first * HEADS * WIDE;
            k.token_stride = v.token_stride = HEADS * WIDE;
            if (has_own(c, l)) {
                CHECK(lq_kv_append(kv, l, &k, c->desc.v_in_k ? NULL : &v, NULL, n) == LQ_OK);
            }
        }
        first += n;
    }
}

/* A cache with something of everything: shifted positions, evicted tokens, masses. */
static void build(cache *c, int kind)
{
    describe(c, kind);
    make(c);
    fill(c, &c->kv, 0, 250);
    uint8_t keep[250];
    for (size_t i = 0; i < 250; i++) {
        lq_kv_mass(&c->kv)[i] = (float)i / 4;
        keep[i] = i % 50 != 33;
    }
    CHECK(lq_kv_evict(&c->kv, keep, 250) == LQ_OK);
    CHECK(lq_kv_shift(&c->kv, 100, lq_kv_tokens(&c->kv) - 100, 1000) == LQ_OK);
}

/* Everything that a cache says of its tokens, in one number; asks nothing of what is not there. */
static uint32_t look(const lq_kv *kv)
{
    static float x[HEADS * WIDE * 2];
    uint32_t hash = (uint32_t)lq_kv_tokens(kv);
    for (uint32_t l = 0; l < LAYERS; l++) {
        int status;
        for (size_t t = 0; t < lq_kv_tokens(kv); t++) {
            for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
                lq_kv_view_out out;
                memset(&out, 0, sizeof out);
                memset(x, 0, sizeof x);
                out.data = x;
                status = lq_kv_read(kv, l, stream, &out, t, 1, NULL, 0);
                hash = lq_xxh32(&status, sizeof status, hash);
                hash = status == LQ_OK ? lq_xxh32(x, sizeof x, hash) : hash;
            }
        }
        lq_kv_attend_desc a;
        memset(&a, 0, sizeof a);
        memset(x, 0, sizeof x);
        a.layer = l;
        a.heads = QUERY_HEADS;
        a.q.data = vectors[0];
        a.out.data = x;
        status = lq_kv_attend(kv, &a);
        hash = lq_xxh32(&status, sizeof status, hash);
        hash = status == LQ_OK ? lq_xxh32(x, sizeof x, hash) : hash;
    }
    for (size_t t = 0; t < lq_kv_tokens(kv); t++) {
        int64_t at = 0;
        CHECK(lq_kv_position(kv, t, &at) == LQ_OK);
        hash = lq_xxh32(&at, sizeof at, hash);
    }
    return hash;
}

/* ---- files ---- */
typedef struct blob {
    uint8_t bytes[MOST];
    size_t count;
    size_t calls;
    size_t good; /* calls that succeed */
} blob;

static blob files[2 * KINDS + 2];

static int put(void *user, const void *bytes, size_t count)
{
    blob *b = (blob *)user;
    CHECK(b->calls <= b->good && b->count + count <= MOST);
    if (b->calls++ == b->good) return 1;
    memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
    return 0;
}

static int get(void *user, uint64_t offset, void *dst, size_t count)
{
    const blob *b = (const blob *)user;
    CHECK(offset + count <= b->count);
    memcpy(dst, b->bytes + offset, count);
    return 0;
}

static int save(blob *b, const lq_kv *kv, const lq_kv_export_desc *desc, size_t good)
{
    size_t bytes = lq_kv_export_workspace_bytes(kv, desc);
    void *work = source_alloc(bytes);
    b->count = b->calls = 0;
    b->good = good;
    CHECK(lq_kv_export(kv, put, b, desc, work, bytes - 1) == LQ_E_SPACE && b->calls == 0);
    int status = lq_kv_export(kv, put, b, desc, work, bytes);
    free(work);
    return status;
}

static lq_archive_source source_of(blob *b, int reads)
{
    lq_archive_source s;
    memset(&s, 0, sizeof s);
    s.size = b->count;
    if (reads) {
        s.read_fn = get;
        s.user = b;
    } else {
        s.bytes = b->bytes;
    }
    return s;
}

/* A cache from the file, in memory of up to `most` bytes at any address. */
static int load(lq_kv *kv, uint8_t **mem, size_t *bytes, blob *b, const lq_kv_import_desc *desc,
                size_t most, int reads)
{
    lq_archive_source s = source_of(b, reads);
    size_t had = 0;
    *mem = NULL;
    for (int calls = 0;; calls++) {
        int status = lq_kv_import(kv, *mem ? *mem + 1 : NULL, had, bytes, &s, desc);
        if (status != LQ_OK) CHECK(kv->pool == NULL && kv->sequence == NULL);
        CHECK((status == LQ_OK || status == LQ_E_SPACE) == (*bytes != 0));
        if (status != LQ_E_SPACE || *bytes > most) {
            CHECK(calls <= 4);
            return status;
        }
        CHECK(*bytes > had);
        had = *bytes;
        free(*mem);
        *mem = (uint8_t *)source_alloc(had + 1);
        memset(*mem, 0xee, had + 1);
    }
}

static int open_file(lq_archive_reader *reader, blob *b, void **index)
{
    lq_archive_source s = source_of(b, 0);
    size_t needed = 0;
    int status = lq_archive_open(reader, &s, NULL, 0, &needed);
    *index = NULL;
    if (status == LQ_E_SPACE) {
        *index = source_alloc(needed);
        status = lq_archive_open(reader, &s, *index, needed, &needed);
    }
    return status;
}

static lq_kv_import_desc with_profiles(void)
{
    lq_kv_import_desc d;
    memset(&d, 0, sizeof d);
    d.profiles = shuffled;
    d.profile_count = PROFILES + 1;
    return d;
}

/* ---- there and back ---- */
static const char note_text[] = "ids of the tokens";

/* Goes on alike: the imported cache and the one that was saved, fork by fork. */
static void go_on(cache *c, lq_kv *back, blob *b)
{
    blob *other = &files[2 * KINDS];
    fill(c, &c->kv, 250, TOKENS);
    fill(c, back, 250, TOKENS);
    CHECK(look(&c->kv) == look(back));
    CHECK(save(other, &c->kv, NULL, SIZE_MAX) == LQ_OK && save(b, back, NULL, SIZE_MAX) == LQ_OK);
    CHECK(other->count == b->count && memcmp(other->bytes, b->bytes, b->count) == 0);
}

static void test_session(int kind, int reads)
{
    lq_kv_import_desc desc = with_profiles();
    lq_kv_export_desc with;
    blob *b = &files[kind];
    const uint8_t *note = NULL;
    size_t note_bytes = 77;
    memset(&with, 0, sizeof with);
    cache c;
    build(&c, kind);
    desc.note = &note;
    desc.note_bytes = &note_bytes;
    if (reads) {
        with.note = note_text;
        with.note_bytes = sizeof note_text;
    }
    CHECK(save(b, &c.kv, &with, SIZE_MAX) == LQ_OK);
    size_t bytes;
    uint8_t *mem;
    lq_kv back;
    CHECK(load(&back, &mem, &bytes, b, &desc, SIZE_MAX, reads) == LQ_OK);
    CHECK(note_bytes == with.note_bytes && (note != NULL) == reads);
    CHECK(lq_kv_tokens(&back) == 245 && look(&back) == look(&c.kv));
    CHECK(memcmp(lq_kv_mass(&back), lq_kv_mass(&c.kv), 245 * sizeof(float)) == 0);
    CHECK(!reads || memcmp(note, note_text, note_bytes) == 0);
    memset(b->bytes, 0, b->count); /* the file is not needed any more */
    go_on(&c, &back, &files[2 * KINDS + 1]);
    CHECK(!reads || memcmp(note, note_text, note_bytes) == 0);
    CHECK(save(b, &c.kv, reads ? &with : NULL, SIZE_MAX) == LQ_OK); /* for what follows */
    lq_kv_free(&back);
    free(mem);
    drop(&c);
}

/* What stays in use is the front of the memory. */
static void test_rest(int kind)
{
    lq_kv_import_desc desc = with_profiles();
    lq_archive_source s = source_of(&files[kind], 1);
    size_t bytes;
    uint8_t *mem;
    lq_kv kv;
    CHECK(load(&kv, &mem, &bytes, &files[kind], &desc, SIZE_MAX, 1) == LQ_OK);
    uint32_t hash = look(&kv);
    lq_kv_free(&kv);
    free(mem);
    mem = (uint8_t *)source_alloc(bytes + (1 << 20));
    CHECK(lq_kv_import(&kv, mem, bytes + (1 << 20), &bytes, &s, &desc) == LQ_OK);
    memset(mem + bytes, 0xcc, 1 << 20);
    CHECK(look(&kv) == hash);
    lq_kv_free(&kv);
    uint8_t *kept = (uint8_t *)source_alloc(bytes);
    CHECK(lq_kv_import(&kv, kept, bytes, &bytes, &s, &desc) == LQ_E_SPACE);
    free(kept);
    free(mem);
}

/* A write that fails, at each of the calls. */
static void test_writing(int kind)
{
    blob *b = &files[2 * KINDS];
    cache c;
    build(&c, kind);
    CHECK(save(b, &c.kv, NULL, SIZE_MAX) == LQ_OK);
    size_t calls = b->calls;
    for (size_t i = 0; i < calls; i++) {
        CHECK(save(b, &c.kv, NULL, i) == LQ_E_IO && b->calls == i + 1);
        uint8_t *mem;
        size_t bytes;
        lq_kv kv;
        CHECK(load(&kv, &mem, &bytes, b, NULL, SIZE_MAX, 0) == LQ_E_DATA);
        free(mem);
    }
    drop(&c);
}

/* ---- packed ---- */
static void test_packed(int kind)
{
    lq_kv_import_desc desc = with_profiles();
    lq_kv_export_desc with;
    blob *b = &files[KINDS + kind];
    blob *other = &files[2 * KINDS];
    memset(&with, 0, sizeof with);
    lq_kv_pack_desc pack;
    memset(&pack, 0, sizeof pack);
    with.pack = &pack;
    pack.tables = tables;
    pack.k_step = 0.05f;
    pack.v_step = 0.05f;
    cache c;
    build(&c, kind);
    CHECK(save(b, &c.kv, &with, SIZE_MAX) == LQ_OK);
    desc.tables = kind % 2 ? tables : NULL;
    size_t bytes;
    uint8_t *mem;
    lq_kv back;
    CHECK(load(&back, &mem, &bytes, b, &desc, SIZE_MAX, kind % 2) == LQ_OK);
    CHECK(lq_kv_tokens(&back) == 245);
    cache own;
    describe(&own, kind); /* the same by hand */
    make(&own);
    lq_archive_reader reader;
    void *index;
    CHECK(open_file(&reader, b, &index) == LQ_OK);
    CHECK(lq_kv_load_check(&own.kv, &reader, 0, NULL) == LQ_E_RANGE);
    void *work = source_alloc(lq_kv_unpack_workspace_bytes(&own.kv, &reader, 0));
    CHECK(unpack(&own.kv, &reader, tables, 0, work,
                       lq_kv_unpack_workspace_bytes(&own.kv, &reader, 0)) == LQ_OK);
    CHECK(look(&own.kv) == look(&back));
    CHECK(save(other, &own.kv, NULL, SIZE_MAX) == LQ_OK);
    bytes = other->count;
    CHECK(save(&files[2 * KINDS + 1], &back, NULL, SIZE_MAX) == LQ_OK);
    CHECK(files[2 * KINDS + 1].count == bytes &&
          memcmp(files[2 * KINDS + 1].bytes, other->bytes, bytes) == 0);
    pack.tables = NULL; /* a descriptor that cannot be */
    CHECK(lq_kv_export_workspace_bytes(&c.kv, &with) == 0);
    CHECK(lq_kv_export(&c.kv, put, b, &with, work, 1) == LQ_E_ARG);
    lq_kv_free(&back);
    free(work);
    free(index);
    free(mem);
    drop(&own);
    drop(&c);
}

/* ---- what differs ---- */
static const struct {
    const char *field;
    int kind; /* of the file */
} differences[] = {
    {"layers", HOT}, {"kv_heads", HOT}, {"k_dims", HOT}, {"v_dims", HOT}, {"sinks", HOT},
    {"window", HOT}, {"type", HOT}, {"sparse", HOT}, {"kind", HOT}, {"quantizer", HOT},
    {"bits", HOT}, {"step", WARM}, {"bits", WARM}, {"quantizer", WARM}, {"profiles", WARM},
    {"profiles", WARM}, {"rope", HOT}, {"rope", HOT}, {"rope", HOT}, {"rope", HOT},
    {"rope_first", MIXED}, {"v_in_k", LATENT}, {"v_dims", LATENT}, {"layer[].window", MIXED},
    {"layer[].share", MIXED}, {"layer[].heads", MIXED}, {"kind", MIXED}, {"rope", MIXED},
    {"kv_heads", MIXED},
};

enum { DIFFERENCES = (int)(sizeof differences / sizeof differences[0]) };

/* RoPE, profiles and what layers have of their own. */
static void differ_more(cache *c, int which)
{
    static lq_rope rope;
    static const lq_profile *others[2 * LAYERS * HEADS];
    lq_kv_desc *d = &c->desc;
    rope = ropes[0];
    memcpy(others, given, sizeof others);
    switch (which) {
    case 14:
        others[1] = given[0];
        d->profiles = others;
        break;
    case 15:
        others[0] = NULL;
        d->profiles = others;
        break;
    case 16:
        d->rope = NULL;
        break;
    case 17:
        rope.layout = LQ_ROPE_ADJACENT;
        d->rope = &rope;
        break;
    case 18:
        rope.magnitude = 1.5f;
        d->rope = &rope;
        break;
    case 19:
        rope.rotary_dims = 8;
        d->rope = &rope;
        break;
    case 20:
        c->layers[1].rope_first = 16;
        break;
    case 21:
        d->v_in_k = 0;
        break;
    case 22:
        d->v_dims = 24;
        break;
    case 23:
        c->layers[3].window = 71;
        break;
    case 24:
        c->layers[3].share = 0;
        c->layers[3].kv_heads = LQ_KV_NONE;
        break;
    case 25:
        c->layers[0].heads = NULL;
        break;
    case 26:
        c->heads[2].kind = LQ_KV_HOT;
        break;
    case 27:
        c->layers[1].rope = &ropes[0];
        c->layers[1].rope_first = 8;
        break;
    default:
        c->layers[2].kv_heads = 1;
        break;
    }
}

static void differ(cache *c, int which)
{
    lq_kv_desc *d = &c->desc;
    switch (which) {
    case 0:
        d->layers--;
        break;
    case 1:
        d->kv_heads++;
        break;
    case 2:
        d->k_dims = 64;
        break;
    case 3:
        d->v_dims = 16;
        break;
    case 4:
        d->sinks = 5;
        break;
    case 5:
        d->window = 21;
        break;
    case 6:
        d->type = LQ_BF16;
        break;
    case 7:
        d->sparse = 1;
        break;
    case 8:
        d->v.kind = LQ_KV_RAW;
        break;
    case 9:
        d->k.quantizer = LQ_E8;
        break;
    case 10:
        d->v.bits = 8;
        break;
    case 11:
        d->v.step = 0.26f;
        break;
    case 12:
        d->v.bits = 7;
        break;
    case 13:
        d->k.quantizer = LQ_D4;
        break;
    default:
        differ_more(c, which);
        break;
    }
}

static int begins(const char *text, const char *field)
{
    size_t n = strlen(field);
    return text && strncmp(text, field, n) == 0 && text[n] == ':';
}

static void test_differences(void)
{
    for (int i = 0; i < DIFFERENCES + 1; i++) {
        int kind = i < DIFFERENCES ? differences[i].kind : HOT;
        const char *message = "x";
        cache c;
        describe(&c, kind);
        if (i < DIFFERENCES) {
            differ(&c, i);
        } else { /* what may differ */
            c.desc.tokens = 400;
            c.desc.sequences = 2;
            c.desc.step_tokens = 9;
        }
        make(&c);
        lq_archive_reader reader;
        void *index;
        CHECK(open_file(&reader, &files[kind], &index) == LQ_OK);
        int status = lq_kv_load_check(&c.kv, &reader, 0, &message);
        void *work = source_alloc(lq_kv_load_workspace_bytes(&c.kv));
        if (i < DIFFERENCES) {
            if (!CHECK(status == LQ_E_FORMAT && begins(message, differences[i].field))) {
                fprintf(stderr, "%d: %s, not %s\n", i, message ? message : "-",
                        differences[i].field);
            }
        } else {
            CHECK(status == LQ_OK && message == NULL);
        }
        CHECK(lq_kv_load(&c.kv, &reader, 0, work, lq_kv_load_workspace_bytes(&c.kv)) == status);
        CHECK((lq_kv_tokens(&c.kv) != 0) == (status == LQ_OK));
        CHECK(lq_kv_load_check(NULL, &reader, 0, &message) == LQ_E_ARG);
        CHECK(lq_kv_load_check(&c.kv, NULL, 0, NULL) == LQ_E_ARG);
        CHECK(lq_kv_load_check(&c.kv, &reader, 1, &message) == LQ_E_RANGE && message == NULL);
        CHECK(lq_kv_load_check(&c.kv, &reader, (uint64_t)1 << 32, NULL) == LQ_E_RANGE);
        free(work);
        free(index);
        drop(&c);
    }
}

/* ---- checksums that fit what was changed ---- */
static uint32_t load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store32(uint8_t *p, uint32_t n)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(n >> 8 * i);
    }
}

/* Of a file of one segment; its directory is in front of the footer. */
static void mend(uint8_t *file, size_t count)
{
    uint8_t *f = file + count - LQ_ARCHIVE_FOOTER_BYTES;
    store32(f + 40, lq_xxh32(f - load32(f + 4), load32(f + 4), 0));
    store32(f + 44, lq_xxh32(f, 44, 0));
}

/* Where the record of a cache is in a file: META of this tag. */
static uint8_t *record_of(blob *b, uint32_t tag, size_t *count)
{
    lq_archive_reader reader;
    const uint8_t *bytes = NULL;
    void *index;
    CHECK(open_file(&reader, b, &index) == LQ_OK);
    CHECK(lq_archive_meta(&reader, tag, &bytes, count) == LQ_OK);
    free(index);
    return b->bytes + (bytes - b->bytes);
}

static void test_versions(void)
{
    static const uint32_t tags[2] = {0x564b514c, 0x434b514c};
    for (int i = 0; i < 2; i++) {
        blob *b = &files[i ? KINDS + HOT : HOT];
        size_t count;
        uint8_t *record = record_of(b, tags[i], &count);
        const char *message = NULL;
        record[0]--; /* the version before */
        mend(b->bytes, b->count);
        uint8_t *mem;
        size_t bytes;
        lq_kv kv;
        CHECK(load(&kv, &mem, &bytes, b, NULL, SIZE_MAX, 0) == LQ_E_FORMAT);
        free(mem);
        cache c;
        describe(&c, HOT);
        make(&c);
        lq_archive_reader reader;
        void *index;
        CHECK(open_file(&reader, b, &index) == LQ_OK);
        if (i == 0) {
            CHECK(lq_kv_load_check(&c.kv, &reader, 0, &message) == LQ_E_FORMAT);
            CHECK(begins(message, "version"));
        } else {
            CHECK(lq_kv_unpack_workspace_bytes(&c.kv, &reader, 0) == 0);
        }
        free(index);
        drop(&c);
        record[0]++;
        mend(b->bytes, b->count);
    }
}

/* ---- calibrated profiles ---- */
static void test_profiles(void)
{
    lq_kv_import_desc desc = with_profiles();
    uint8_t missing[16];
    desc.missing = missing;
    memset(missing, 0, sizeof missing);
    size_t bytes;
    uint8_t *mem;
    lq_kv kv;
    CHECK(load(&kv, &mem, &bytes, &files[WARM], &desc, SIZE_MAX, 0) == LQ_OK);
    lq_kv_free(&kv);
    free(mem);
    desc.profile_count--; /* without the one that is first in the file */
    CHECK(load(&kv, &mem, &bytes, &files[WARM], &desc, SIZE_MAX, 0) == LQ_E_FORMAT);
    uint8_t name[16];
    CHECK(lq_kv_profile_name(given[0], name) == LQ_OK && memcmp(name, missing, 16) == 0);
    free(mem);
    desc.missing = NULL;
    desc.profile_count = 0;
    CHECK(load(&kv, &mem, &bytes, &files[WARM], &desc, SIZE_MAX, 0) == LQ_E_FORMAT);
    free(mem);
    desc.profiles = NULL;
    desc.profile_count = 1;
    CHECK(load(&kv, &mem, &bytes, &files[WARM], &desc, SIZE_MAX, 0) == LQ_E_ARG);
    free(mem);
    CHECK(lq_kv_profile_name(NULL, name) == LQ_E_ARG);
    CHECK(lq_kv_profile_name(given[0], NULL) == LQ_E_ARG);
}

/* ---- what a descriptor may be changed in, and what is wrong from the start ---- */
static void test_inspect(void)
{
    lq_kv_import_desc with;
    lq_archive_reader reader;
    lq_kv_desc d;
    void *index;
    size_t needed;
    for (int kind = 0; kind < 2 * KINDS; kind++) {
        with = with_profiles();
        with.tables = tables;
        CHECK(open_file(&reader, &files[kind], &index) == LQ_OK);
        CHECK(lq_kv_inspect(&d, NULL, 0, &needed, &reader, &with) == LQ_E_SPACE && needed);
        void *mem = source_alloc(needed);
        CHECK(lq_kv_inspect(&d, mem, needed - 1, &needed, &reader, &with) == LQ_E_SPACE);
        CHECK(lq_kv_inspect(&d, mem, needed, &needed, &reader, &with) == LQ_OK);
        CHECK(lq_kv_check(&d, NULL) == LQ_OK && d.layers == LAYERS && d.tokens == ROOM);
        CHECK(d.window == (kind % KINDS == LATENT ? LQ_KV_NONE : 20));
        CHECK(d.sinks == (kind % KINDS == MIXED ? LQ_KV_NONE : 4));
        CHECK(d.layer && d.layer[0].k.kind + (d.layer[0].heads != NULL) > 0);
        with.tokens = 1000;
        with.sequences = 3;
        CHECK(lq_kv_inspect(&d, mem, needed, &needed, &reader, &with) == LQ_OK);
        CHECK(d.tokens == 1000 && d.sequences == 3);
        with.sequences = 65537;
        CHECK(lq_kv_inspect(&d, mem, needed, &needed, &reader, &with) == LQ_E_ARG && needed == 0);
        CHECK(lq_kv_inspect(&d, NULL, 0, &needed, &reader, &with) == LQ_E_SPACE);
        with.sequence = 1;
        CHECK(lq_kv_inspect(&d, mem, needed, &needed, &reader, &with) == LQ_E_RANGE);
        with.sequence = (uint64_t)1 << 32;
        CHECK(lq_kv_inspect(&d, mem, 0, &needed, &reader, &with) == LQ_E_RANGE);
        CHECK(lq_kv_inspect(NULL, mem, 0, &needed, &reader, NULL) == LQ_E_ARG);
        CHECK(lq_kv_inspect(&d, mem, 0, NULL, &reader, NULL) == LQ_E_ARG);
        CHECK(lq_kv_inspect(&d, NULL, 1, &needed, &reader, NULL) == LQ_E_ARG);
        CHECK(lq_kv_inspect(&d, mem, 0, &needed, NULL, NULL) == LQ_E_ARG);
        free(mem);
        free(index);
    }
}

static void test_arguments(void)
{
    lq_kv_import_desc desc = with_profiles();
    lq_archive_source s = source_of(&files[HOT], 0);
    uint8_t mem[64];
    size_t bytes;
    CHECK(lq_kv_import(NULL, mem, 64, &bytes, &s, NULL) == LQ_E_ARG);
    lq_kv kv;
    CHECK(lq_kv_import(&kv, NULL, 64, &bytes, &s, NULL) == LQ_E_ARG);
    CHECK(lq_kv_import(&kv, mem, 64, NULL, &s, NULL) == LQ_E_ARG);
    CHECK(lq_kv_import(&kv, mem, 64, &bytes, NULL, NULL) == LQ_E_ARG && bytes == 0);
    desc.tokens = 294; /* there are 295 */
    uint8_t *room;
    CHECK(load(&kv, &room, &bytes, &files[HOT], &desc, SIZE_MAX, 0) == LQ_E_FULL);
    free(room);
    desc.tokens = 295;
    CHECK(load(&kv, &room, &bytes, &files[HOT], &desc, SIZE_MAX, 0) == LQ_OK);
    CHECK(lq_kv_tokens(&kv) == 295 && lq_kv_room(&kv) == 0);
    lq_kv_free(&kv);
    free(room);
    cache c;
    describe(&c, HOT);
    make(&c);
    lq_kv_export_desc with;
    memset(&with, 0, sizeof with);
    with.note_bytes = 1; /* of nothing */
    CHECK(lq_kv_export_workspace_bytes(&c.kv, &with) == 0);
    CHECK(lq_kv_export(&c.kv, put, &files[2 * KINDS], &with, mem, 64) == LQ_E_ARG);
    CHECK(lq_kv_export(&c.kv, NULL, NULL, NULL, mem, 64) == LQ_E_ARG);
    CHECK(lq_kv_export(&c.kv, put, &files[2 * KINDS], NULL, NULL, 64) == LQ_E_ARG);
    CHECK(lq_kv_export(NULL, put, &files[2 * KINDS], NULL, mem, 64) == LQ_E_ARG);
    CHECK(lq_kv_export_workspace_bytes(NULL, NULL) == 0);
    lq_kv_view k;
    memset(&k, 0, sizeof k);
    k.data = vectors[0];
    CHECK(lq_kv_append(&c.kv, 0, &k, &k, NULL, 1) == LQ_OK); /* within a step */
    CHECK(lq_kv_export(&c.kv, put, &files[2 * KINDS], NULL, mem, 64) == LQ_E_RANGE);
    drop(&c);
}

/* ---- copies ---- */
/* From raw floats: the same bytes as if the numbers had come to it. From others: near. */
static void test_copy(int to)
{
    cache from;
    describe(&from, RAW);
    cache c;
    describe(&c, to);
    cache direct;
    describe(&direct, to);
    from.desc.rope = c.desc.rope;
    from.desc.kv_heads = c.desc.kv_heads;
    from.desc.k_dims = c.desc.k_dims;
    from.desc.v_dims = c.desc.v_dims;
    from.desc.v_in_k = c.desc.v_in_k;
    from.desc.rope_first = c.desc.rope_first;
    if (to == MIXED) { /* whose layers are unlike */
        memcpy(from.layers, c.layers, sizeof from.layers);
        from.layers[0].heads = NULL;
        from.layers[1].window = 0;
        memset(&from.layers[4].v, 0, sizeof from.layers[4].v);
        from.desc.layer = from.layers;
    }
    make(&from);
    make(&c);
    make(&direct);
    fill(&c, &from.kv, 0, 280);
    fill(&c, &direct.kv, 0, 280);
    size_t bytes = lq_kv_copy_workspace_bytes(&c.kv, &from.kv);
    void *work = source_alloc(bytes);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes - 1) == LQ_E_SPACE);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes) == LQ_OK);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes) == LQ_E_ARG);
    CHECK(save(&files[2 * KINDS], &c.kv, NULL, SIZE_MAX) == LQ_OK);
    CHECK(save(&files[2 * KINDS + 1], &direct.kv, NULL, SIZE_MAX) == LQ_OK);
    CHECK(files[2 * KINDS].count == files[2 * KINDS + 1].count &&
          memcmp(files[2 * KINDS].bytes, files[2 * KINDS + 1].bytes, files[2 * KINDS].count) == 0);
    CHECK(lq_kv_truncate(&c.kv, 0) == LQ_OK);
    free(work);
    drop(&from);
    drop(&c);
    drop(&direct);
}

/* An edited cache, from kind to kind: positions, masses, and what attention makes of it. */
static void test_copy_edited(int kind, int to)
{
    static float x[2][QUERY_HEADS * WIDE];
    double error = 0;
    double power = 0;
    cache from;
    build(&from, kind);
    cache c;
    describe(&c, to);
    make(&c);
    size_t bytes = lq_kv_copy_workspace_bytes(&c.kv, &from.kv);
    void *work = source_alloc(bytes);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes) == LQ_OK && lq_kv_tokens(&c.kv) == 245);
    for (size_t i = 0; i < 245; i++) {
        int64_t p[2];
        CHECK(!lq_kv_position(&from.kv, i, &p[0]) && !lq_kv_position(&c.kv, i, &p[1]));
        CHECK(p[0] == p[1] && lq_kv_mass(&from.kv)[i] == lq_kv_mass(&c.kv)[i]);
    }
    lq_kv_attend_desc a;
    memset(&a, 0, sizeof a);
    a.heads = QUERY_HEADS;
    a.q.data = vectors[0] + 7;
    a.out.data = x[0];
    CHECK(lq_kv_attend(&from.kv, &a) == LQ_OK);
    a.out.data = x[1];
    CHECK(lq_kv_attend(&c.kv, &a) == LQ_OK);
    for (size_t i = 0; i < QUERY_HEADS * DIMS; i++) {
        error += pow((double)x[0][i] - (double)x[1][i], 2);
        power += pow((double)x[0][i], 2);
    }
    CHECK(error < 0.05 * power); /* 0.034, 0.020, 0.0003 */
    free(work);
    drop(&from);
    drop(&c);
}

/* What layers had given back is missing in the copy, too. */
static void test_copy_gone(void)
{
    static float x[WIDE];
    cache from;
    int gone = 0;
    build(&from, MIXED);
    cache c;
    describe(&c, MIXED);
    c.heads[0].bits = 4;
    c.desc.type = LQ_F32;
    c.desc.sparse = 0;
    make(&c);
    fill(&from, &from.kv, 250, TOKENS);
    size_t bytes = lq_kv_copy_workspace_bytes(&c.kv, &from.kv);
    void *work = source_alloc(bytes);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes) == LQ_OK);
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    out.data = x;
    for (size_t t = 0; t < lq_kv_tokens(&c.kv); t++) {
        int was = lq_kv_read(&from.kv, 1, LQ_K, &out, t, 1, NULL, 0);
        int is = lq_kv_read(&c.kv, 1, LQ_K, &out, t, 1, NULL, 0);
        CHECK(is == was || (is == LQ_E_RANGE && t + 40 + 16 < lq_kv_tokens(&c.kv)));
        gone += was == LQ_E_RANGE;
    }
    CHECK(gone > 64);
    drop(&c);
    describe(&c, HOT); /* another geometry; no room; not valid */
    make(&c);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes) == LQ_E_ARG);
    CHECK(lq_kv_copy(&c.kv, NULL, work, bytes) == LQ_E_ARG &&
          lq_kv_copy_workspace_bytes(&c.kv, NULL) == 0);
    CHECK(lq_kv_copy(NULL, &c.kv, work, bytes) == LQ_E_ARG);
    CHECK(lq_kv_copy(&c.kv, &from.kv, NULL, bytes) == LQ_E_ARG);
    drop(&c);
    describe(&c, MIXED);
    c.desc.tokens = 250;
    make(&c);
    CHECK(lq_kv_copy(&c.kv, &from.kv, work, bytes) == LQ_E_FULL && lq_kv_tokens(&c.kv) == 0);
    drop(&c);
    free(work);
    drop(&from);
}

/* ---- hostile files ---- */
static size_t statuses[16];

/* What opens must serve. */
static void use(lq_kv *kv)
{
    lq_kv_account account;
    void *work = source_alloc(lq_kv_export_workspace_bytes(kv, NULL));
    CHECK(lq_kv_stats(kv, &account) == LQ_OK);
    (void)look(kv);
    files[2 * KINDS].count = files[2 * KINDS].calls = 0;
    files[2 * KINDS].good = SIZE_MAX;
    CHECK(lq_kv_export(kv, put, &files[2 * KINDS], NULL, work,
                       lq_kv_export_workspace_bytes(kv, NULL)) == LQ_OK);
    CHECK(lq_kv_truncate(kv, 0) == LQ_OK);
    free(work);
}

static void test_hostile(uint32_t i)
{
    static blob b;
    static const uint32_t numbers[8] = {0, 1, 2, 0xff, 0x400, 0x7fffffff, 0xffffffff, 0x3f800000};
    lq_kv_import_desc desc = with_profiles();
    int which = (int)source_below(2 * KINDS);
    int damaged = i % 4 == 3; /* checksums and all */
    uint32_t n = 1 + source_below(2);
    memcpy(b.bytes, files[which].bytes, files[which].count);
    b.count = files[which].count;
    size_t count;
    uint8_t *record = record_of(&b, which < KINDS ? 0x564b514c : 0x434b514c, &count);
    size_t form = load32(record + 8);
    while (n-- && !damaged) {
        size_t words = source_below(4) ? form / 4 + 4 : count / 4;
        size_t at = 4 * (size_t)source_below((uint32_t)words);
        if (source_below(2)) {
            store32(record + at, source_below(2) ? numbers[source_below(8)] : source_below(200));
        } else {
            record[at] = (uint8_t)(record[at] ^ 1u << source_below(8));
        }
    }
    if (damaged && source_below(2)) {
        b.count = source_below((uint32_t)b.count);
    } else if (damaged) {
        size_t at = source_below((uint32_t)b.count);
        b.bytes[at] = (uint8_t)(b.bytes[at] ^ 1u << source_below(8));
    } else {
        mend(b.bytes, b.count);
    }
    desc.tables = source_below(2) ? tables : NULL;
    uint8_t *mem;
    size_t bytes;
    lq_kv kv;
    int status = load(&kv, &mem, &bytes, &b, &desc, MOST, (int)source_below(2));
    statuses[-status]++;
    if (status == LQ_OK) {
        use(&kv);
        lq_kv_free(&kv);
    }
    free(mem);
}

/* ---- */
/* Of four heads of the vectors, in Hadamard's basis; values too. */
static void make_profiles(void)
{
    static const uint32_t dims = DIMS;
    for (int i = 0; i < PROFILES; i++) {
        lq_geometry g;
        const void *slice = vectors[i / HEADS] + i % HEADS * DIMS;
        memset(&g, 0, sizeof g);
        lq_vectors src;
        memset(&src, 0, sizeof src);
        g.stream = i / HEADS ? LQ_V : LQ_K;
        g.basis = LQ_BASIS_HADAMARD;
        g.slice_count = 1;
        g.slice_dims = &dims;
        src.slices = &slice;
        src.token_stride = HEADS * WIDE;
        src.type = LQ_F32;
        void *fit_mem = source_alloc(lq_fit_bytes(&g));
        void *work = source_alloc(lq_fit_workspace_bytes(&g));
        lq_fit fit;
        CHECK(lq_fit_init(&fit, fit_mem, lq_fit_bytes(&g), &g, 0.5f) == LQ_OK);
        CHECK(lq_fit_add(&fit, &src, NULL, 200, work, lq_fit_workspace_bytes(&g)) == LQ_OK);
        CHECK(lq_fit_profile(&fit, &profiles[i], source_alloc(lq_profile_bytes(DIMS + 1)),
                             lq_profile_bytes(DIMS + 1)) == LQ_OK);
        given[i] = &profiles[i]; /* layer 0; of layer 1 two */
        shuffled[PROFILES - i] = &profiles[i];
        free(fit_mem);
        free(work);
    }
    given[PROFILES + 1] = &profiles[1];
    given[PROFILES + 2] = &profiles[2];
}

int main(int argc, char **argv)
{
    uint32_t hostile = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 8000;
    void *memory = source_alloc(lq_tables_bytes());
    hostile = hostile ? hostile : 2000; /* quick */
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    for (uint32_t i = 0; i < TOKENS * HEADS * WIDE; i++) {
        vectors[0][i] = (float)source_integer_gauss() + (i % 8 == 5 ? 3.0f : 0.0f);
        vectors[1][i] = (float)source_integer_gauss();
    }
    for (uint32_t i = 0; i < WIDE / 2; i++) {
        freqs[i] = 1.0f / (float)(1 + i * i);
    }
    ropes[0].freqs = ropes[1].freqs = freqs;
    ropes[0].rotary_dims = ropes[1].rotary_dims = DIMS;
    ropes[1].layout = LQ_ROPE_ADJACENT;
    ropes[1].magnitude = 1.25f;
    make_profiles();
    for (int kind = 0; kind < KINDS; kind++) {
        test_session(kind, 1);
        test_session(kind, 0);
        test_packed(kind);
        test_rest(kind);
        test_copy(kind);
    }
    test_writing(MIXED);
    test_differences();
    test_versions();
    test_profiles();
    test_inspect();
    test_arguments();
    test_copy_edited(HOT, WARM);
    test_copy_edited(WARM, HOT);
    test_copy_edited(HOT, RAW);
    test_copy_gone();
    for (uint32_t i = 0; i < hostile; i++) {
        source_seed = ((uint64_t)i << 20) + 1; /* so that one of them can be repeated alone */
        test_hostile(i);
    }
    CHECK(statuses[0] > 0 && statuses[-LQ_E_DATA] > hostile / 8 && statuses[-LQ_E_SPACE] > 0);
    printf("%u files; statuses:", (unsigned)hostile);
    for (uint32_t i = 0; i < 10; i++) {
        printf(" %s %lu%s", lq_status_string(-(int)i), (unsigned long)statuses[i],
               i < 9 ? "," : "\n");
    }
    for (uint32_t i = 0; i < PROFILES; i++) {
        free(profiles[i].mean); /* the first of its memory's arrays */
    }
    free(memory);
    return check_report("test_export");
}
