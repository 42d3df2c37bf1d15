/* cc -std=c99 -O2 -fsanitize=address,undefined tests/test_hostile.c -o test_hostile && ./test_hostile
   [mutations] Mutated archives, profiles and pages. Half of them get their checksums mended, so
   that the decoders behind see them; every buffer has its exact size. Nothing may crash, and
   errors leave no object. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { TOKENS = 70, DIMS = 8, HEADS = 2, ARCHIVES = 16, KINDS = 14, JOINT = KINDS };
enum { NAMED = 11 }; /* the archive with an external profile */
enum { TRAILER = 4, FILE_MAX = 1 << 16, OUT_TOKENS = 16 };

static const lq_tables *tables;

typedef struct blob {
    uint8_t *bytes;
    size_t count;
} blob;

static blob archives[ARCHIVES];
static blob external;         /* the profile that one archive names by its hash */
static uint64_t statuses[16]; /* how often each status came back */
static uint32_t served;       /* mutated dense profiles that made a codec, */
static uint32_t served_joint; /* and joint ones */

static void seen(int status)
{
    CHECK(status <= 0 && status >= LQ_E_IO);
    statuses[-status & 15]++;
}

static uint32_t load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

/* ---- the archives to start from ---- */
static void add_heads(lq_archive_writer *w, uint32_t stream, uint32_t rope_id, uint32_t *id)
{
    lq_slice slices[HEADS] = {{0, 0, 0, DIMS, 0, 0}, {0, 1, 0, DIMS, 0, 0}};
    lq_archive_group_desc g;
    memset(&g, 0, sizeof g);
    g.stream = stream;
    g.rope = rope_id;
    g.slices = slices;
    g.slice_count = HEADS;
    CHECK(lq_archive_add_group(w, &g, id) == LQ_OK);
}

typedef struct kind {
    int page;
    int quantizer;
    int bits;
    uint32_t basis;
    int refit;
    int dense; /* 1: calibrated; 2: a refit that names a calibrated profile */
} kind;

static const kind kinds[KINDS] = {
    {0, LQ_Z, 0, 0, 0, 0},
    {0, LQ_D4, 0, 2, 0, 0},
    {0, LQ_E8, 0, 0, 1, 0},
    {0, LQ_E8_RELAXED, 0, 2, 0, 0},
    {0, LQ_TRELLIS_8, 0, 2, 0, 0},
    {0, LQ_TRELLIS_64, 0, 0, 0, 1},
    {LQ_PAGE_FIXED, LQ_Z, 3, 0, 0, 0},
    {LQ_PAGE_FIXED, LQ_E8, 4, 2, 0, 0},
    {LQ_PAGE_FIXED, LQ_Z, 8, 0, 1, 0},
    {LQ_PAGE_RAW, 0, 0, 0, 0, 0},
    {0, LQ_Z, 0, 0, 1, 0},
    {0, LQ_Z, 0, 0, 0, 0}, /* with the external profile */
    {0, LQ_Z, 0, 0, 0, 1},
    {0, LQ_E8, 0, 0, 0, 2},
};

/* ---- calibrated profiles ---- */
typedef struct dense {
    blob file;
    blob refit_file;
    lq_profile profile;
    lq_profile refit;
    void *mem;
    void *refit_mem;
} dense;

static dense calibrated[3]; /* by stream */

/* Correlated heads; K has a metric, and its rope is the archives'. */
static void dense_make(dense *c, uint32_t stream, const lq_rope *rope)
{
    static const uint32_t dims[HEADS] = {DIMS, DIMS};
    static const uint32_t reads[HEADS] = {0, 1};
    static float x[HEADS][TOKENS * DIMS];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_positions positions = {0, 3, NULL};
    lq_klt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.step = 0.2f;
    desc.unit = 1;
    lq_geometry g;
    memset(&g, 0, sizeof g);
    g.stream = stream;
    g.slice_count = HEADS;
    g.slice_dims = dims;
    g.rope = rope;
    for (size_t i = 0; i < TOKENS * DIMS; i++) {
        x[0][i] = (float)(source_integer_gauss() * (1 + (double)(i % DIMS)));
        x[1][i] = x[0][i] / 2 + (float)source_integer_gauss();
    }
    const void *slices[HEADS];
    slices[0] = x[0];
    slices[1] = x[1];
    v.slices = slices;
    void *mem = source_alloc(lq_klt_bytes(&g));
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, lq_klt_bytes(&g), &g) == LQ_OK);
    size_t bytes = lq_klt_profile_workspace_bytes(&klt) + lq_klt_workspace_bytes(&g);
    void *workspace = source_alloc(bytes);
    CHECK(lq_klt_add(&klt, &v, &positions, TOKENS, workspace, bytes) == LQ_OK);
    CHECK(stream == LQ_V || lq_klt_add_queries(&klt, &v, reads, HEADS, &positions, TOKENS,
                                               workspace, bytes) == LQ_OK);
    c->file.bytes = (uint8_t *)source_alloc(lq_klt_profile_bound(&klt));
    CHECK(lq_klt_profile(&klt, c->file.bytes, lq_klt_profile_bound(&klt), &c->file.count, &desc,
                         NULL, workspace, bytes) == LQ_OK);
    free(workspace);
    free(mem);
    CHECK(lq_profile_load(&c->profile, NULL, 0, &bytes, c->file.bytes, c->file.count) ==
          LQ_E_SPACE);
    c->mem = source_alloc(bytes);
    CHECK(!lq_profile_load(&c->profile, c->mem, bytes, &bytes, c->file.bytes, c->file.count));
    g.basis = LQ_BASIS_DENSE;
    g.dense = c->profile.dense;
    bytes = lq_profile_bytes(lq_geometry_rows(&g));
    c->refit_mem = source_alloc(bytes);
    CHECK(lq_profile_init(&c->refit, c->refit_mem, bytes, &g, 2.0f) == LQ_OK);
    bytes = lq_profile_save_bound(lq_geometry_rows(&g));
    c->refit_file.bytes = (uint8_t *)source_alloc(bytes);
    CHECK(!lq_profile_save(c->refit_file.bytes, bytes, &c->refit_file.count, &c->refit));
}

static void dense_free(dense *c)
{
    free(c->file.bytes);
    free(c->refit_file.bytes);
    free(c->mem);
    free(c->refit_mem);
}

static void pack_group(lq_archive_writer *w, const kind *k, uint32_t stream, uint32_t group,
                       const lq_rope *rope, size_t first, size_t tokens, const lq_profile *profile,
                       uint32_t profile_id)
{
    static const uint32_t dims[HEADS] = {DIMS, DIMS};
    static float x[HEADS][TOKENS * DIMS];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_positions positions = {0, 0, NULL};
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    for (size_t i = 0; i < TOKENS * DIMS; i++) {
        x[0][i] = (float)(source_integer_gauss() * (1 + (double)(i % DIMS)));
        x[1][i] = (float)(source_integer_gauss() * 0.5 + 1);
    }
    const void *slices[HEADS];
    slices[0] = x[0];
    slices[1] = x[1];
    v.slices = slices;
    positions.first = (int64_t)(3 * first);
    positions.stride = stream == LQ_K ? 3 : 1;
    d.tables = tables;
    d.geometry.stream = stream;
    d.geometry.basis = k->basis;
    d.geometry.slice_count = HEADS;
    d.geometry.slice_dims = dims;
    d.geometry.rope = rope;
    d.group = group;
    d.first_token = first;
    d.page = k->page;
    d.quantizer = k->page == LQ_PAGE_RAW ? 0 : k->quantizer;
    d.bits = k->bits;
    d.step = 0.4f;
    d.refit = k->refit;
    d.profile = profile;
    d.profile_id = profile_id;
    size_t workspace_bytes = lq_archive_pack_workspace_bytes(&d);
    void *workspace = source_alloc(workspace_bytes);
    CHECK(lq_archive_pack(w, &d, &v, &positions, tokens, workspace, workspace_bytes) == LQ_OK);
    free(workspace);
}

static void external_make(lq_profile *profile, void *mem, size_t mem_bytes, const lq_rope *rope)
{
    static const uint32_t dims[HEADS] = {DIMS, DIMS};
    lq_geometry g;
    memset(&g, 0, sizeof g);
    g.stream = LQ_K;
    g.slice_count = HEADS;
    g.slice_dims = dims;
    g.rope = rope;
    CHECK(lq_profile_init(profile, mem, mem_bytes, &g, 2.0f) == LQ_OK);
    external.bytes = (uint8_t *)source_alloc(lq_profile_save_bound(HEADS * DIMS));
    CHECK(!lq_profile_save(external.bytes, lq_profile_save_bound(HEADS * DIMS), &external.count,
                           profile));
}

/* Two runs: one with the calibrated profile, embedded or by its name, one with a refit. */
static void pack_dense(lq_archive_writer *w, const kind *k, uint32_t group, const lq_rope *rope)
{
    dense *c = &calibrated[LQ_K];
    lq_archive_profile_desc p = {NULL, 0, NULL};
    uint32_t id = 0;
    if (c->file.count == 0) {
        dense_make(c, LQ_K, rope);
        dense_make(&calibrated[LQ_V], LQ_V, NULL);
    }
    p.bytes = k->dense == 1 ? c->file.bytes : NULL;
    p.count = k->dense == 1 ? c->file.count : 0;
    p.hash = k->dense == 1 ? NULL : c->profile.basis_hash;
    CHECK(lq_archive_add_profile(w, &p, &id) == LQ_OK);
    pack_group(w, k, LQ_K, group, rope, 0, TOKENS, &c->profile, id);
    p.bytes = c->refit_file.bytes;
    p.count = c->refit_file.count;
    p.hash = NULL;
    CHECK(lq_archive_add_profile(w, &p, &id) == LQ_OK);
    pack_group(w, k, LQ_K, group, rope, TOKENS, 20, &c->refit, id);
}

static void archive_make(blob *out, size_t which)
{
    static const float freqs[3] = {1.0f, 0.1f, 0.01f};
    lq_rope rope = {NULL, 6, LQ_ROPE_HALF, 1.0f};
    const kind *k = &kinds[which];
    uint8_t *file = (uint8_t *)source_alloc(FILE_MAX);
    uint8_t *directory = (uint8_t *)source_alloc(FILE_MAX);
    uint32_t rope_id = 0;
    uint32_t id = 0;
    uint32_t profile_id = 0;
    int named = which == NAMED;
    rope.freqs = freqs;
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    d.mem = file;
    d.mem_bytes = FILE_MAX;
    d.directory = directory;
    d.directory_bytes = FILE_MAX;
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    CHECK(lq_archive_add_rope(&w, &rope, &rope_id) == LQ_OK);
    lq_profile profile;
    int16_t profile_mem[2 * HEADS * DIMS + 1];
    if (named) {
        lq_archive_profile_desc p = {NULL, 0, NULL};
        external_make(&profile, profile_mem, sizeof profile_mem, &rope);
        uint8_t digest[16];
        lq_blake2s_128(digest, external.bytes, external.count);
        p.hash = digest;
        CHECK(lq_archive_add_profile(&w, &p, &profile_id) == LQ_OK);
    }
    add_heads(&w, LQ_K, rope_id, &id);
    if (k->dense) {
        pack_dense(&w, k, id, &rope);
    } else {
        pack_group(&w, k, LQ_K, id, &rope, 0, TOKENS, named ? &profile : NULL, profile_id);
    }
    CHECK(lq_archive_add_meta(&w, 1, "hostile", 7) == LQ_OK);
    CHECK(lq_archive_flush_segment(&w) == LQ_OK);
    add_heads(&w, LQ_V, LQ_ARCHIVE_NONE, &id);
    pack_group(&w, k, LQ_V, id, NULL, 0, TOKENS, NULL, 0);
    if (!named) pack_group(&w, k, LQ_V, id, NULL, TOKENS, 20, NULL, 0);
    CHECK(lq_archive_finish(&w) == LQ_OK);
    out->count = (size_t)w.offset;
    out->bytes = source_copy(file, out->count);
    free(file);
    free(directory);
}

/* ---- groups of keys and values: two ropes, a gain that two slices share, an order ---- */
enum { JOINT_SLICES = 5, JOINT_DIMS = JOINT_SLICES * DIMS, JOINT_TOKENS = 1100 };

typedef struct joint {
    blob file;
    lq_profile profile;
    void *mem;
    lq_geometry geometry;
    lq_role roles[JOINT_SLICES];
    lq_rope ropes[2];
} joint;

static joint joined;
static const float joint_freqs[4] = {1.0f, 0.1f, 0.01f, 0.001f};
static const uint32_t joint_dims[JOINT_SLICES] = {DIMS, DIMS, DIMS, DIMS, DIMS};
static float joint_x[JOINT_TOKENS * JOINT_DIMS];
static const void *joint_slices[JOINT_SLICES];

/* Keys of two ropes and of none around values of one gain: one state drives them all. */
static void joint_make(void)
{
    lq_vectors v = {NULL, JOINT_DIMS, LQ_F32};
    lq_positions positions = {0, 1, NULL};
    size_t needed = 0;
    for (size_t t = 0; t < JOINT_TOKENS; t++) {
        double state = source_integer_gauss();
        for (size_t d = 0; d < JOINT_DIMS; d++) {
            joint_x[t * JOINT_DIMS + d] =
                (float)(state * (double)(d % 7) / 3 + source_integer_gauss() * 0.2 + 1);
        }
    }
    for (uint32_t s = 0; s < JOINT_SLICES; s++) {
        lq_role *r = &joined.roles[s];
        joint_slices[s] = joint_x + s * DIMS;
        r->stream = s == 1 || s == 2 ? LQ_V : LQ_K;
        r->rope = s == 0 ? &joined.ropes[0] : s == 3 ? &joined.ropes[1] : NULL;
    }
    for (uint32_t s = 0; s < 2; s++) {
        joined.ropes[s].freqs = joint_freqs;
        joined.ropes[s].rotary_dims = s ? 4 : 8;
        joined.ropes[s].layout = s ? LQ_ROPE_ADJACENT : LQ_ROPE_HALF;
        joined.ropes[s].magnitude = 1;
    }
    joined.geometry.stream = LQ_KV;
    joined.geometry.slice_count = JOINT_SLICES;
    joined.geometry.slice_dims = joint_dims;
    joined.geometry.roles = joined.roles;
    v.slices = joint_slices;
    lq_klt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.step = 0.2f;
    desc.model = 9;
    void *mem = source_alloc(lq_klt_bytes(&joined.geometry));
    lq_klt klt;
    CHECK(!lq_klt_init(&klt, mem, lq_klt_bytes(&joined.geometry), &joined.geometry));
    size_t bytes = lq_klt_profile_workspace_bytes(&klt) + lq_klt_workspace_bytes(&joined.geometry);
    void *work = source_alloc(bytes);
    CHECK(!lq_klt_add(&klt, &v, &positions, JOINT_TOKENS, work, bytes));
    joined.file.bytes = (uint8_t *)source_alloc(lq_klt_profile_bound(&klt));
    CHECK(!lq_klt_profile(&klt, joined.file.bytes, lq_klt_profile_bound(&klt), &joined.file.count,
                          &desc, NULL, work, bytes));
    free(work);
    free(mem);
    CHECK(lq_profile_load(&joined.profile, NULL, 0, &needed, joined.file.bytes,
                          joined.file.count) == LQ_E_SPACE);
    joined.mem = source_alloc(needed);
    CHECK(!lq_profile_load(&joined.profile, joined.mem, needed, &needed, joined.file.bytes,
                           joined.file.count));
}

/* An archive of a run without an order, and of one with: the profile embedded, or named. */
static void joint_archive(blob *out, int named)
{
    static float weights[JOINT_TOKENS];
    lq_archive_profile_desc p = {NULL, 0, NULL};
    lq_archive_writer_desc wd;
    lq_vectors v = {NULL, JOINT_DIMS, LQ_F32};
    uint8_t *file = (uint8_t *)source_alloc(FILE_MAX);
    uint8_t *directory = (uint8_t *)source_alloc(FILE_MAX);
    memset(&wd, 0, sizeof wd);
    lq_archive_group_desc g;
    memset(&g, 0, sizeof g);
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    lq_slice slices[JOINT_SLICES];
    memset(slices, 0, sizeof slices);
    wd.mem = file;
    wd.mem_bytes = FILE_MAX;
    wd.directory = directory;
    wd.directory_bytes = FILE_MAX;
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &wd) == LQ_OK);
    CHECK(!lq_archive_add_rope(&w, &joined.ropes[0], NULL));
    CHECK(!lq_archive_add_rope(&w, &joined.ropes[1], NULL));
    for (uint32_t s = 0; s < JOINT_SLICES; s++) {
        slices[s].layer = s;
        slices[s].dims = DIMS;
        slices[s].stream = joined.roles[s].stream;
        slices[s].rope = s == 3 ? 2 : s == 4 ? LQ_ARCHIVE_NONE : 0;
    }
    g.stream = LQ_KV; /* its rope is that of slice 0 */
    g.slices = slices;
    g.slice_count = JOINT_SLICES;
    CHECK(!lq_archive_add_group(&w, &g, NULL));
    p.bytes = named ? NULL : joined.file.bytes;
    p.count = named ? 0 : joined.file.count;
    p.hash = named ? joined.profile.dense->hash : NULL;
    CHECK(!lq_archive_add_profile(&w, &p, NULL));
    CHECK(!lq_archive_add_meta(&w, 1, "hostile", 7));
    for (uint32_t s = 0; s < JOINT_TOKENS; s++) {
        weights[s] = (float)(1 + source_below(1000));
    }
    d.tables = tables;
    d.geometry = joined.geometry;
    d.step = 0.4f;
    d.profile = &joined.profile;
    v.slices = joint_slices;
    for (uint32_t s = 0; s < 2; s++) {
        size_t tokens = s ? JOINT_TOKENS - 100 : 100;
        const void *rows[JOINT_SLICES];
        for (uint32_t i = 0; i < JOINT_SLICES; i++) {
            rows[i] = joint_x + i * DIMS + s * 100 * JOINT_DIMS;
        }
        v.slices = rows;
        d.weights = s ? weights + 100 : NULL;
        d.first_token = s * 100;
        size_t bytes = lq_archive_pack_workspace_bytes(&d);
        void *work = source_alloc(bytes);
        CHECK(!lq_archive_pack(&w, &d, &v, NULL, tokens, work, bytes));
        free(work);
    }
    CHECK(lq_archive_finish(&w) == LQ_OK);
    out->count = (size_t)w.offset;
    out->bytes = source_copy(file, out->count);
    free(file);
    free(directory);
}

/* ---- reading everything that opens ---- */
typedef struct stream_source {
    const uint8_t *bytes;
    size_t count;
} stream_source;

static int read_stream(void *user, uint64_t offset, void *dst, size_t count)
{
    const stream_source *s = (const stream_source *)user;
    if (offset > s->count || count > s->count - offset) {
        CHECK(0 && "read outside the file");
        return 1;
    }
    memcpy(dst, s->bytes + (size_t)offset, count);
    return 0;
}

/* Unpacks up to 16 tokens of a group into buffers of their exact size. */
static void read_group(const lq_archive_reader *r, uint32_t group)
{
    static lq_slice slices[LQ_ARCHIVE_MAX_SLICES];
    static void *out[LQ_ARCHIVE_MAX_SLICES];
    static const int types[3] = {LQ_F32, LQ_F16, LQ_BF16};
    const lq_profile *known[2] = {NULL, NULL};
    uint64_t tokens = 0;
    size_t dims = 0;
    known[0] = calibrated[LQ_K].file.count ? &calibrated[LQ_K].profile : NULL;
    known[1] = joined.mem ? &joined.profile : NULL;
    lq_archive_group_desc g;
    seen(lq_archive_group(r, group, &g, slices, LQ_ARCHIVE_MAX_SLICES));
    CHECK(g.slice_count <= LQ_ARCHIVE_MAX_SLICES);
    seen(lq_archive_tokens(r, group, 0, &tokens));
    for (uint32_t i = 0; i < g.slice_count; i++) {
        dims += slices[i].dims;
    }
    size_t workspace_bytes = lq_archive_unpack_workspace_bytes(r, group);
    if (tokens == 0 || dims > 512 || !CHECK(workspace_bytes > 0)) return;
    uint64_t first = source_below(2) ? 0 : source_below(tokens > 1000 ? 1000 : TOKENS);
    size_t count = 1 + source_below(source_below(3) ? TOKENS : OUT_TOKENS);
    lq_vectors_out v;
    v.type = types[source_below(3)];
    v.token_stride = 0;
    v.slices = out;
    uint8_t *floats = (uint8_t *)source_alloc(count * dims * lq_type_bytes(v.type));
    dims = 0;
    for (uint32_t i = 0; i < g.slice_count; i++) {
        out[i] = floats + count * dims * lq_type_bytes(v.type);
        dims += slices[i].dims;
    }
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.group = group;
    if (source_below(8)) {
        d.profile = external.bytes;
        d.profile_bytes = external.count;
        d.calibrated = known;
        d.calibrated_count = 2;
    }
    void *workspace = source_alloc(workspace_bytes);
    seen(lq_archive_unpack(r, &d, &v, first, count, workspace, workspace_bytes));
    free(workspace);
    free(floats);
}

static void read_everything(const lq_archive_reader *r)
{
    const uint8_t *bytes;
    size_t count;
    seen(lq_archive_meta(r, 1, &bytes, &count));
    lq_page_ref ref;
    for (uint32_t i = 0; i < r->run_count && i < 20; i++) {
        lq_archive_run_info info;
        seen(lq_archive_run(r, i, &info));
        seen(lq_archive_run_page(r, i, info.page_count - 1, &ref));
        CHECK(ref.offset + ref.bytes <= r->end);
        if (ref.token_count <= 64) {
            uint64_t list[64];
            CHECK(lq_archive_page_tokens(r, &ref, list) == LQ_OK);
            for (uint32_t t = 0; t < ref.token_count; t++) {
                CHECK(list[t] >= ref.first_token && (t == 0 || list[t] > list[t - 1]));
                CHECK(list[t] - info.desc.first_token < info.desc.token_count);
            }
        }
        int64_t positions[4];
        seen(lq_archive_positions(r, i, 0, 4, positions));
    }
    for (uint32_t i = 0; i < r->rope_count && i < 4; i++) {
        float freqs[64];
        lq_rope rope;
        seen(lq_archive_rope(r, i, &rope, freqs, 64));
    }
    for (uint32_t i = 0; i < r->profile_count && i < 8; i++) {
        lq_archive_profile_desc p;
        seen(lq_archive_profile(r, i, &p));
    }
    for (uint32_t i = 0; i < r->group_count && i < 8; i++) {
        read_group(r, i);
    }
}

static int open_and_read(const uint8_t *bytes, size_t count)
{
    static uint8_t *mem; /* of the size that the archive asks for, no more */
    static size_t mem_bytes;
    stream_source stream;
    size_t needed = 0;
    stream.bytes = bytes;
    stream.count = count;
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    lq_archive_reader reader;
    memset(&reader, 0xee, sizeof reader);
    source.size = count;
    source.recover_bytes = source_below(4) ? 0 : UINT64_MAX;
    if (source_below(4) == 0) {
        source.read_fn = read_stream;
        source.user = &stream;
    } else {
        source.bytes = bytes;
    }
    int status = lq_archive_open(&reader, &source, mem, mem_bytes, &needed);
    while (status == LQ_E_SPACE && needed > mem_bytes && needed < 1 << 24) {
        free(mem);
        mem_bytes = needed;
        mem = (uint8_t *)source_alloc(mem_bytes);
        status = lq_archive_open(&reader, &source, mem, mem_bytes, &needed);
    }
    seen(status);
    if (status == LQ_OK) {
        read_everything(&reader);
    } else {
        CHECK(reader.group_count == 0xeeeeeeeeu && (needed == 0 || status == LQ_E_SPACE));
    }
    return status;
}

/* ---- mutations ---- */
static uint8_t interesting(void)
{
    static const uint8_t bytes[12] = {0, 1, 2, 3, 4, 8, 0x40, 0x7f, 0x80, 0xfe, 0xff, 0x3f};
    return source_below(3) ? bytes[source_below(12)] : (uint8_t)source_below(256);
}

/* Changes a few bytes of [from, to). */
static void mutate(uint8_t *bytes, size_t from, size_t to)
{
    uint32_t changes = 1 + source_below(3);
    uint32_t n = (uint32_t)(to - from);
    while (changes-- && n) {
        size_t at = from + source_below(n);
        switch (source_below(4)) {
        case 0:
            bytes[at] = interesting();
            break;
        case 1:
            bytes[at] = (uint8_t)(bytes[at] ^ 1u << source_below(8));
            break;
        case 2:
            bytes[at] = (uint8_t)(bytes[at] + (source_below(2) ? 1 : 255));
            break;
        default:
            if (n >= 4) {
                at = from + source_below(n - 3);
                store32(bytes + at, source_below(2) ? load32(bytes + at) + source_below(64) - 32
                                                    : (uint32_t)source_u64());
            }
            break;
        }
    }
}

/* ---- mending: checksums made right again, along whatever the mutated numbers still point to ----
*/
static uint64_t load64(const uint8_t *p)
{
    return load32(p) | (uint64_t)load32(p + 4) << 32;
}

static void mend_profile(uint8_t *p, size_t count)
{
    if (count >= 20) {
        store32(p + 16, lq_xxh32(p + 20, count - 20, lq_xxh32(p, 16, 0)));
    }
}

/* A run's page table: end and checksum of each page. */
static void mend_run(uint8_t *file, size_t count, uint8_t *payload, size_t payload_bytes,
                     uint32_t form)
{
    uint32_t tokens = load32(payload + 24);
    uint32_t per_page = payload[28] | (uint32_t)payload[29] << 8;
    uint64_t base = load64(payload + 36);
    uint64_t align = (uint64_t)1 << (payload[31] & 31);
    uint64_t at = 44 + ((form & 3) == 1 ? 12 : (form & 3) == 2 ? 8 * (uint64_t)tokens : 0);
    uint64_t end = 0;
    at += form & 4 ? ((uint64_t)tokens + 63) / 64 + ((uint64_t)tokens + 1) / 2 : 0;
    for (; per_page && at + 8 <= payload_bytes; at += 8) {
        uint64_t start = (end + align - 1) / align * align;
        end = load32(payload + at);
        if (base <= count && end <= count - base && start < end) {
            store32(payload + at + 4, lq_xxh32(file + base + start, (size_t)(end - start), 0));
        }
    }
}

static void mend_directory(uint8_t *file, size_t count, uint8_t *directory, size_t bytes)
{
    size_t at = 0;
    while (at + 8 <= bytes) {
        uint32_t type = directory[at] | (uint32_t)directory[at + 1] << 8;
        uint32_t flags = directory[at + 2] | (uint32_t)directory[at + 3] << 8;
        size_t payload = load32(directory + at + 4);
        if (payload > bytes - at - 8) return;
        if (type == 3 && payload > 4 && directory[at + 8] == 1) {
            mend_profile(directory + at + 12, payload - 4);
        } else if (type == 4 && payload >= 44) {
            mend_run(file, count, directory + at + 8, payload, flags >> 1);
        }
        at += 8 + (payload + 3) / 4 * 4;
    }
}

static void mend_archive(uint8_t *file, size_t count)
{
    uint64_t at = count - LQ_ARCHIVE_FOOTER_BYTES;
    for (int footers = 0; footers < 8; footers++) {
        uint8_t *f = file + at;
        uint64_t bytes = load32(f + 4);
        uint64_t offset = load64(f + 8);
        uint64_t previous = load64(f + 16);
        if (offset <= count && bytes <= count - offset) {
            mend_directory(file, count, file + offset, (size_t)bytes);
            store32(f + 40, lq_xxh32(file + offset, (size_t)bytes, 0));
        }
        store32(f + 44, lq_xxh32(f, 44, 0));
        if (previous >= at || at - previous < LQ_ARCHIVE_FOOTER_BYTES) break;
        at = previous;
    }
    store32(file + 28, lq_xxh32(file, 28, 0));
}

/* ---- one mutated archive ---- */
static int mutated_archive(int mend)
{
    const blob *b = &archives[source_below(ARCHIVES)];
    size_t count = b->count;
    if (!mend && source_below(4) == 0) { /* cut, or with rubbish behind */
        count = source_below(2) ? source_below((uint32_t)count) : count + 1 + source_below(64);
    }
    uint8_t *bytes = (uint8_t *)source_alloc(count);
    memset(bytes, (int)source_below(256), count);
    memcpy(bytes, b->bytes, count < b->count ? count : b->count);
    if (source_below(2) && count > 1200) { /* directory and footer are at the end */
        mutate(bytes, count - (b >= &archives[JOINT] ? 1200 : 600), count);
    } else {
        mutate(bytes, 0, count);
    }
    if (mend) mend_archive(bytes, count);
    int status = open_and_read(bytes, count);
    free(bytes);
    return status;
}

/* ---- codecs for mutated profiles and pages ---- */
enum { PAGE_TOKENS = 23 };
static const uint32_t codec_dims[HEADS] = {DIMS, DIMS};

typedef struct subject {
    lq_codec_desc desc;
    lq_profile profile;
    void *profile_mem;
    blob profile_file;
    lq_codec *codec;
    void *codec_mem;
    blob page;
} subject;

static subject subjects[2 * KINDS];

static void subject_encode(subject *s)
{
    static float x[HEADS][PAGE_TOKENS * DIMS];
    lq_vectors v = {NULL, 0, LQ_F32};
    size_t workspace_bytes = lq_codec_workspace_bytes(s->codec);
    void *workspace = source_alloc(workspace_bytes);
    size_t bound = lq_codec_page_bound(s->codec);
    uint8_t *page = (uint8_t *)source_alloc(bound);
    size_t page_bytes = 0;
    for (size_t i = 0; i < PAGE_TOKENS * DIMS; i++) {
        x[0][i] = (float)(source_integer_gauss() * (1 + (double)(i % DIMS)));
        x[1][i] = (float)(source_integer_gauss() * 0.5);
    }
    const void *slices[HEADS];
    slices[0] = x[0];
    slices[1] = x[1];
    v.slices = slices;
    CHECK(!lq_codec_encode(s->codec, page, bound, &s->page.count, &page_bytes, &v, NULL,
                           PAGE_TOKENS, workspace, workspace_bytes));
    s->page.bytes = source_copy(page, s->page.count);
    free(page);
    free(workspace);
}

static void subject_codec(subject *s)
{
    s->codec_mem = source_alloc(lq_codec_bytes(&s->desc));
    CHECK(!lq_codec_init(&s->codec, s->codec_mem, lq_codec_bytes(&s->desc), &s->desc));
    subject_encode(s);
}

static void subject_make(subject *s, const kind *k, uint32_t stream)
{
    memset(s, 0, sizeof *s);
    s->desc.tables = tables;
    s->desc.geometry.stream = stream;
    s->desc.geometry.basis = k->basis;
    s->desc.geometry.slice_count = HEADS;
    s->desc.geometry.slice_dims = codec_dims;
    s->desc.page = k->page;
    s->desc.quantizer = k->page == LQ_PAGE_RAW ? 0 : k->quantizer;
    s->desc.bits = k->bits;
    s->desc.step = 0.3f;
    s->desc.profile = &s->profile;
    if (k->dense) { /* copies, for they are freed one by one */
        const dense *c = &calibrated[stream];
        const blob *file = k->dense == 1 ? &c->file : &c->refit_file;
        s->profile = k->dense == 1 ? c->profile : c->refit;
        s->desc.geometry.basis = k->dense == 1 ? 0 : (uint32_t)LQ_BASIS_DENSE;
        s->desc.geometry.dense = k->dense == 1 ? NULL : c->profile.dense;
        s->profile_file.bytes = source_copy(file->bytes, file->count);
        s->profile_file.count = file->count;
        subject_codec(s);
        return;
    }
    size_t rows = lq_geometry_rows(&s->desc.geometry);
    s->profile_mem = source_alloc(lq_profile_bytes(rows));
    CHECK(!lq_profile_init(&s->profile, s->profile_mem, lq_profile_bytes(rows), &s->desc.geometry,
                           1));
    s->profile_file.bytes = (uint8_t *)source_alloc(lq_profile_save_bound(rows));
    CHECK(!lq_profile_save(s->profile_file.bytes, lq_profile_save_bound(rows),
                           &s->profile_file.count, &s->profile));
    subject_codec(s);
}

static void subject_free(subject *s)
{
    free(s->profile_mem);
    free(s->profile_file.bytes);
    free(s->codec_mem);
    free(s->page.bytes);
}

/* Decodes a page into buffers of their exact size. */
static int decode(const lq_codec *codec, const uint8_t *page, size_t page_bytes, uint32_t tokens)
{
    size_t workspace_bytes = lq_codec_workspace_bytes(codec);
    void *workspace = source_alloc(workspace_bytes);
    uint16_t *out = (uint16_t *)source_alloc(HEADS * tokens * DIMS * 2);
    void *slices[HEADS];
    lq_vectors_out v = {NULL, 0, LQ_F16};
    slices[0] = out;
    slices[1] = out + tokens * DIMS;
    v.slices = slices;
    lq_page_info info;
    seen(lq_page_inspect(&info, page, page_bytes));
    int status;
    status =
        lq_codec_decode(codec, &v, NULL, tokens, &page, &page_bytes, workspace, workspace_bytes);
    seen(status);
    free(workspace);
    free(out);
    return status;
}

static int mutated_page(void)
{
    const subject *s = &subjects[source_below(2 * KINDS)];
    size_t count = s->page.count;
    uint8_t *page;
    if (source_below(8) == 0) { /* cut in the middle: the trailer stays right */
        size_t out = 1 + source_below((uint32_t)(count < 40 ? count : 40) - 1);
        page = (uint8_t *)source_alloc(count - out);
        memcpy(page, s->page.bytes + out, count - out);
        count -= out;
    } else {
        page = source_copy(s->page.bytes, count);
    }
    if (source_below(8)) {
        mutate(page, 0, count > TRAILER ? count - TRAILER : count);
    } else {
        mutate(page, 0, count);
    }
    int status =
        decode(s->codec, page, count, source_below(16) ? PAGE_TOKENS : 1 + source_below(64));
    free(page);
    return status;
}

/* What the products of a dense basis rely on: no row of its matrices is longer than 2^15. */
static void check_basis(const lq_basis *b)
{
    double most = 0;
    for (size_t i = 0; i < b->rank + b->dims; i++) {
        const int16_t *row = i < b->rank ? b->forward + i * b->forward_stride
                                         : b->inverse + (i - b->rank) * b->inverse_stride;
        double sum = 0;
        for (size_t j = 0; j < (i < b->rank ? b->forward_stride : b->inverse_stride); j++) {
            sum += (double)row[j] * row[j];
        }
        most = sum > most ? sum : most;
    }
    CHECK(most <= 1073741824.0);
    CHECK(b->rank >= 1 && b->rank <= b->dims);
}

/* Random vectors through a codec; its pages must decode. */
static void encode(const lq_codec *codec)
{
    float x[HEADS * PAGE_TOKENS * DIMS];
    size_t bound = lq_codec_page_bound(codec);
    size_t workspace_bytes = lq_codec_workspace_bytes(codec);
    void *workspace = source_alloc(workspace_bytes);
    uint8_t *page = (uint8_t *)source_alloc(bound);
    lq_vectors v = {NULL, 0, LQ_F32};
    size_t page_bytes = 0;
    double scale = (double)(1u << source_below(9));
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        x[i] = (float)(source_integer_gauss() * scale);
    }
    const void *slices[HEADS];
    slices[0] = x;
    slices[1] = x + PAGE_TOKENS * DIMS;
    v.slices = slices;
    size_t written;
    int status = lq_codec_encode(codec, page, bound, &written, &page_bytes, &v, NULL, PAGE_TOKENS,
                                 workspace, workspace_bytes);
    seen(status);
    CHECK(status == LQ_OK || status == LQ_E_RANGE || status == LQ_E_FORMAT);
    if (status == LQ_OK) {
        CHECK(decode(codec, page, page_bytes, PAGE_TOKENS) == LQ_OK);
    }
    free(page);
    free(workspace);
}

/* A mutated profile is loaded; what loads must serve a codec, and the codec a page. */
static int mutated_profile(int mend)
{
    const subject *s = &subjects[source_below(2) ? 2 * KINDS - 1 - source_below(4) /* dense */
                                                 : source_below(2 * KINDS)];
    size_t count = s->profile_file.count;
    void *mem = NULL;
    size_t needed = 99;
    if (source_below(8) == 0) count = source_below((uint32_t)count);
    uint8_t *file = source_copy(s->profile_file.bytes, count);
    if (count) mutate(file, source_below(2) && count > 20 ? 20 : 0, count);
    if (mend) mend_profile(file, count);
    lq_profile profile;
    memset(&profile, 0xee, sizeof profile);
    int status = lq_profile_load(&profile, NULL, 0, &needed, file, count);
    CHECK(status != LQ_OK && profile.dims == 0xeeeeeeeeu);
    if (status == LQ_E_SPACE && CHECK(needed > 0 && needed <= 65536 + 512 * count)) {
        mem = source_alloc(needed);
        status = lq_profile_load(&profile, mem, needed, &needed, file, count);
        CHECK(status == LQ_OK || profile.dims == 0xeeeeeeeeu);
    } else {
        CHECK(needed == 0);
    }
    seen(status);
    if (status == LQ_OK) {
        lq_codec_desc d = s->desc;
        lq_codec *codec = NULL;
        void *codec_mem = source_alloc(lq_codec_bytes(&d));
        if (profile.dense) check_basis(profile.dense);
        d.profile = &profile;
        int built = lq_codec_init(&codec, codec_mem, lq_codec_bytes(&d), &d);
        seen(built);
        if (built == LQ_OK) {
            decode(codec, s->page.bytes, s->page.count, PAGE_TOKENS);
            if (profile.basis == LQ_BASIS_DENSE) {
                served++;
                encode(codec);
            }
        } else {
            CHECK(codec == NULL);
        }
        free(codec_mem);
    }
    free(mem);
    free(file);
    return status;
}

/* A mutated joint profile: what loads makes a codec whose pages come back. */
static void mutated_joint(int mend)
{
    uint8_t *file = source_copy(joined.file.bytes, joined.file.count);
    size_t count = source_below(8) ? joined.file.count : source_below((uint32_t)joined.file.count);
    size_t needed = 0;
    mutate(file, 0, source_below(2) && count > 100 ? 100 : count);
    if (mend) mend_profile(file, count);
    lq_profile p;
    int status = lq_profile_load(&p, NULL, 0, &needed, file, count);
    void *mem = source_alloc(needed);
    if (status == LQ_E_SPACE && CHECK(needed <= 65536 + 1024 * joined.file.count)) {
        status = lq_profile_load(&p, mem, needed, &needed, file, count);
    }
    seen(status);
    if (status == LQ_OK && p.dense) {
        lq_codec *codec = NULL;
        check_basis(p.dense);
        lq_codec_desc d;
        memset(&d, 0, sizeof d);
        d.tables = tables;
        d.geometry = joined.geometry;
        d.geometry.basis = LQ_BASIS_DENSE;
        d.geometry.dense = p.dense;
        d.profile = &p;
        d.step = 0.3f;
        void *codec_mem = source_alloc(lq_codec_bytes(&d));
        status = lq_codec_init(&codec, codec_mem, lq_codec_bytes(&d), &d);
        seen(status);
        if (status == LQ_OK) {
            lq_vectors v = {NULL, JOINT_DIMS, LQ_F32};
            lq_vectors_out out = {NULL, 0, LQ_F16};
            lq_positions at = {0, 1, NULL};
            size_t bytes = lq_codec_workspace_bytes(codec);
            void *work = source_alloc(bytes);
            uint8_t *page = (uint8_t *)source_alloc(lq_codec_page_bound(codec));
            uint16_t *floats = (uint16_t *)source_alloc(PAGE_TOKENS * JOINT_DIMS * 2);
            void *rows[JOINT_SLICES];
            size_t page_bytes = 0;
            const uint8_t *start = page;
            for (uint32_t s = 0; s < JOINT_SLICES; s++) {
                rows[s] = floats + s * PAGE_TOKENS * DIMS;
            }
            served_joint++;
            v.slices = joint_slices;
            out.slices = rows;
            size_t written;
            status = lq_codec_encode(codec, page, lq_codec_page_bound(codec), &written,
                                     &page_bytes, &v, &at, PAGE_TOKENS, work, bytes);
            seen(status);
            CHECK(status == LQ_OK || status == LQ_E_RANGE || status == LQ_E_FORMAT);
            if (status == LQ_OK) {
                CHECK(!lq_codec_decode(codec, &out, &at, PAGE_TOKENS, &start, &page_bytes, work,
                                       bytes));
            }
            free(floats);
            free(page);
            free(work);
        }
        free(codec_mem);
    }
    free(mem);
    free(file);
}

int main(int argc, char **argv)
{
    uint32_t mutations = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 20000;
    void *memory = source_alloc(lq_tables_bytes());
    uint32_t behind = 0; /* mended archives that opened */
    uint32_t mended = 0;
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    joint_make();
    for (uint32_t i = 0; i < ARCHIVES; i++) {
        if (i >= JOINT) {
            joint_archive(&archives[i], i > JOINT);
        } else {
            archive_make(&archives[i], i);
        }
        CHECK(open_and_read(archives[i].bytes, archives[i].count) == LQ_OK);
        uint8_t *copy = source_copy(archives[i].bytes, archives[i].count);
        mend_archive(copy, archives[i].count); /* nothing to mend */
        CHECK(memcmp(copy, archives[i].bytes, archives[i].count) == 0);
        free(copy);
        if (i >= JOINT) continue;
        subject_make(&subjects[2 * i], &kinds[i], LQ_K);
        subject_make(&subjects[2 * i + 1], &kinds[i], LQ_V);
        CHECK(decode(subjects[2 * i].codec, subjects[2 * i].page.bytes, subjects[2 * i].page.count,
                     PAGE_TOKENS) == LQ_OK);
    }
    for (uint32_t i = 0; i < mutations; i++) {
        int mend = (int)(i & 1);
        source_seed = ((uint64_t)i << 20) + 1; /* so that one of them can be repeated alone */
        if (i % 8 < 4) {
            int status = mutated_archive(mend);
            mended += (uint32_t)mend;
            behind += mend && status == LQ_OK;
        } else if (i % 8 < 6) {
            if (source_below(3)) {
                mutated_profile(mend);
            } else {
                mutated_joint(mend);
            }
        } else {
            mutated_page();
        }
    }
    CHECK(mutations < 100 || behind > mended / 4);
    CHECK(mutations < 1000 || served > mutations / 200);
    CHECK(mutations < 1000 || served_joint > mutations / 400);
    CHECK(statuses[0] > 0 &&
          (mutations < 1000 || (statuses[-LQ_E_DATA] > 0 && statuses[-LQ_E_FORMAT] > 0)));
    printf("%u mutations; statuses:", (unsigned)mutations);
    for (uint32_t i = 0; i < 8; i++) {
        printf(" %s %llu", lq_status_string(-(int)i), (unsigned long long)statuses[i]);
        printf(i < 7 ? "," : "\n");
    }
    for (uint32_t i = 0; i < ARCHIVES; i++) {
        free(archives[i].bytes);
        if (i < KINDS) {
            subject_free(&subjects[2 * i]);
            subject_free(&subjects[2 * i + 1]);
        }
    }
    dense_free(&calibrated[LQ_K]);
    dense_free(&calibrated[LQ_V]);
    free(joined.file.bytes);
    free(joined.mem);
    free(external.bytes);
    free(memory);
    return check_report("test_hostile");
}
