/* What the encoder makes of inputs that are made of integers alone, stream by stream: the same
   bytes on every machine, compiler, flag set and SIMD level. Shared by test_golden.c and digest.c.
   */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "source.h"

enum { GOLDEN_TOKENS = 130, GOLDEN_SLICES = 2, GOLDEN_DIMS = 40, GOLDEN_WIDE = 24 };
enum { GOLDEN_BYTES = 1 << 20, GOLDEN_TRAILER = 4 };

typedef void (*golden_sink)(const char *name, const void *bytes, size_t count);

static const lq_tables *golden_tables;
static uint8_t *golden_buffer;
static golden_sink golden_out;
static int golden_errors;

static char golden_prefix[40]; /* of the group at hand, for the streams' names */

static void golden_ok(int status)
{
    golden_errors += status != LQ_OK;
}

static void golden_put(const char *name, const void *bytes, size_t count)
{
    char full[100];
    snprintf(full, sizeof full, "%s%s", golden_prefix, name);
    golden_out(full, bytes, count);
}

/* As little-endian bytes. */
static void golden_put16(const char *name, const uint16_t *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        golden_buffer[2 * i] = (uint8_t)x[i];
        golden_buffer[2 * i + 1] = (uint8_t)(x[i] >> 8);
    }
    golden_put(name, golden_buffer, 2 * count);
}

/* Multiples of 2^-20 below 2^15: exact in double; as float rounded once. */
static float golden_number(double scale)
{
    return (float)(source_integer_gauss() * scale);
}

/* ---- kernels ---- */
static void golden_halves(void)
{
    static float x[4096];
    static uint16_t h[4096];
    source_seed = 11;
    for (uint32_t i = 0; i < 4096; i++) {
        uint32_t u = (uint32_t)source_u64();
        memcpy(&x[i], &u, 4);
        if ((u & 0x7f800000u) == 0x7f800000u) { /* no signalling NaNs: x87 registers quieten them */
            x[i] = (float)i;
        }
    }
    golden_ok(lq_type_from_f32(h, x, 4096, LQ_F16));
    golden_put16("f16", h, 4096);
    golden_ok(lq_type_from_f32(h, x, 4096, LQ_BF16));
    golden_put16("bf16", h, 4096);
}

static void golden_lattices(void)
{
    static const char *const names[5] = {"", "points-z", "points-d4", "points-e8",
                                         "points-e8-relaxed"};
    static const int bits[4] = {8, 4, 3, 2};
    static float x[4096];
    static int16_t points[4096];
    static uint8_t bytes[8 * 4096];
    source_seed = 12;
    for (int i = 0; i < 4096; i++) {
        x[i] = golden_number(i % 7 == 0 ? 200 : 2);
        x[i] = i % 5 ? x[i] : (float)((int)source_below(64) - 32) / 8; /* ties */
    }
    for (int quantizer = LQ_Z; quantizer <= LQ_E8_RELAXED; quantizer++) {
        golden_ok(lq_lattice_nearest(points, x, 4096, 0.75f, quantizer));
        for (int i = 0; i < 4096; i++) {
            bytes[2 * i] = (uint8_t)(uint16_t)points[i];
            bytes[2 * i + 1] = (uint8_t)((uint16_t)points[i] >> 8);
        }
        golden_put(names[quantizer], bytes, 8192);
    }
    for (int i = 0; i < 4; i++) {
        golden_ok(lq_fixed_encode(bytes, sizeof bytes, x, 4091, 0.5f, LQ_Z, bits[i]));
        golden_put("fixed-z", bytes, lq_fixed_bytes(4091, LQ_Z, bits[i]));
    }
    golden_ok(lq_fixed_encode(bytes, sizeof bytes, x, 4096, 0.5f, LQ_E8, 4));
    golden_put("fixed-e8", bytes, lq_fixed_bytes(4096, LQ_E8, 4));
}

/* ---- groups ---- */
typedef struct golden_group {
    lq_geometry geometry;
    uint32_t dims[GOLDEN_SLICES];
    float freqs[8];
    lq_rope rope;
    lq_positions positions;
    float x[GOLDEN_TOKENS * GOLDEN_DIMS];
    uint16_t half[GOLDEN_TOKENS * GOLDEN_DIMS];
    const void *slices[GOLDEN_SLICES];
    lq_vectors vectors;
} golden_group;

static golden_group golden_;

/* K has a RoPE over the first 16 dims with frequencies that are dyadic fractions. */
static void golden_group_make(golden_group *g, uint32_t stream, uint32_t basis, int type)
{
    memset(g, 0, sizeof *g);
    source_seed = 100 + stream;
    g->dims[0] = GOLDEN_WIDE;
    g->dims[1] = GOLDEN_DIMS - GOLDEN_WIDE;
    g->geometry.stream = stream;
    g->geometry.basis = basis;
    g->geometry.slice_count = GOLDEN_SLICES;
    g->geometry.slice_dims = g->dims;
    for (size_t i = 0; i < 8; i++) {
        g->freqs[i] = (float)(4096 - 500 * (int)i) / 4096;
    }
    g->rope.freqs = g->freqs;
    g->rope.rotary_dims = 16;
    g->rope.layout = basis == LQ_BASIS_HADAMARD ? LQ_ROPE_ADJACENT : LQ_ROPE_HALF;
    g->rope.magnitude = 1.25f;
    g->geometry.rope = stream == LQ_K ? &g->rope : NULL;
    g->positions.first = 1000;
    g->positions.stride = 7;
    for (size_t t = 0; t < GOLDEN_TOKENS; t++) {
        for (size_t i = 0; i < GOLDEN_DIMS; i++) {
            double scale = (double)(1 + (int)(i * i % 31)) / 8;
            double mean = i % 5 ? 0 : (double)i / 4;
            double x = source_integer_gauss() * scale + mean;
            g->x[t * GOLDEN_DIMS + i] = (float)(stream == LQ_V ? x * (double)(1u << t % 8) : x);
        }
    }
    /* every third token is zero in one slice */
    for (size_t i = 0; i < GOLDEN_TOKENS * GOLDEN_DIMS; i++) {
        if (i % GOLDEN_DIMS < GOLDEN_WIDE && i / GOLDEN_DIMS % 50 == 3) {
            g->x[i] = 0;
        }
    }
    golden_ok(lq_type_from_f32(g->half, g->x, GOLDEN_TOKENS * GOLDEN_DIMS, LQ_F16));
    if (type == LQ_BF16) {
        golden_ok(lq_type_from_f32(g->half, g->x, GOLDEN_TOKENS * GOLDEN_DIMS, LQ_BF16));
    }
    g->slices[0] = type == LQ_F32 ? (const void *)g->x : (const void *)g->half;
    g->slices[1] =
        type == LQ_F32 ? (const void *)(g->x + GOLDEN_WIDE) : (const void *)(g->half + GOLDEN_WIDE);
    g->vectors.slices = g->slices;
    g->vectors.token_stride = GOLDEN_DIMS;
    g->vectors.type = type;
}

static void golden_profile(const golden_group *g, lq_profile *profile, void *mem, float step)
{
    size_t rows = lq_geometry_rows(&g->geometry);
    size_t workspace_bytes = lq_fit_workspace_bytes(&g->geometry);
    void *workspace = source_alloc(workspace_bytes);
    void *fit_mem = source_alloc(lq_fit_bytes(&g->geometry));
    size_t written = 0;
    lq_fit fit;
    golden_ok(lq_fit_init(&fit, fit_mem, lq_fit_bytes(&g->geometry), &g->geometry, step));
    golden_ok(
        lq_fit_add(&fit, &g->vectors, &g->positions, GOLDEN_TOKENS, workspace, workspace_bytes));
    golden_ok(lq_fit_profile(&fit, profile, mem, lq_profile_bytes(rows)));
    golden_ok(lq_profile_save(golden_buffer, GOLDEN_BYTES, &written, profile));
    golden_put("profile", golden_buffer, written);
    free(workspace);
    free(fit_mem);
}

/* The integers behind coded pages, little-endian. Steps are 2^-1: classes need no logarithm here.
*/
static void golden_integers(const lq_profile *p, int quantizer, const uint8_t *pages,
                            const size_t *page_bytes)
{
    size_t lead = p->stream == LQ_V ? p->slice_count : 0;
    size_t rows = lead + p->dims;
    size_t matrix = lq_rans_matrix_rows(rows, lead, quantizer);
    size_t workspace_bytes = lq_rans_workspace_bytes(matrix, 1);
    void *workspace = source_alloc(workspace_bytes);
    void *plan_mem = source_alloc(lq_rans_plan_bytes(rows));
    int16_t *values = (int16_t *)source_alloc(matrix * 64 * 2);
    uint8_t *bytes = (uint8_t *)source_alloc(matrix * 64 * 2);
    uint8_t *classes = (uint8_t *)source_alloc(rows);
    for (size_t i = 0; i < rows; i++) {
        int c = (p->sigma[i] + (i < lead ? 0 : 16) + 4097) / 2 - 2048 + LQ_CLASS_ONE;
        c = c < 0 || p->sigma[i] == LQ_SIGMA_DEAD ? 0 : c > LQ_CLASS_MAX ? LQ_CLASS_MAX : c;
        classes[i] = (uint8_t)(i < lead && c < LQ_CLASS_ONE ? LQ_CLASS_ONE : c);
    }
    lq_rans_plan plan;
    golden_ok(lq_rans_plan_init(&plan, plan_mem, lq_rans_plan_bytes(rows), classes, rows, lead,
                                quantizer));
    for (size_t page = 0; page < 3; page++) {
        lq_rans_page r;
        uint8_t *stream = source_copy(pages, page_bytes[page] - GOLDEN_TRAILER);
        memset(&r, 0, sizeof r);
        memset(values, 0, matrix * 64 * 2);
        r.values = values;
        r.bytes = stream;
        r.bytes_count = page_bytes[page] - GOLDEN_TRAILER;
        r.tokens = page < 2 ? 64 : GOLDEN_TOKENS - 128;
        golden_ok(lq_rans_decode(golden_tables, &plan, &r, 1, workspace, workspace_bytes));
        for (size_t i = 0; i < matrix * 64; i++) {
            bytes[2 * i] = (uint8_t)(uint16_t)values[i];
            bytes[2 * i + 1] = (uint8_t)((uint16_t)values[i] >> 8);
        }
        golden_put("integers", bytes, matrix * 64 * 2);
        pages += page_bytes[page];
        free(stream);
    }
    free(workspace);
    free(plan_mem);
    free(values);
    free(bytes);
    free(classes);
}

typedef struct golden_kind {
    const char *name;
    int page;
    int quantizer;
    int bits;
    int type;
    float step;
} golden_kind;

static const golden_kind golden_kinds[] = {
    {"coded-z", LQ_PAGE_CODED, LQ_Z, 0, 0, 0.5f},
    {"coded-d4", LQ_PAGE_CODED, LQ_D4, 0, 0, 0.5f},
    {"coded-e8", LQ_PAGE_CODED, LQ_E8, 0, 0, 0.5f},
    {"coded-e8-relaxed", LQ_PAGE_CODED, LQ_E8_RELAXED, 0, 0, 0.5f},
    {"fixed-z8", LQ_PAGE_FIXED, LQ_Z, 8, 0, 0.0625f},
    {"fixed-z4", LQ_PAGE_FIXED, LQ_Z, 4, 0, 0.5f},
    {"fixed-z3", LQ_PAGE_FIXED, LQ_Z, 3, 0, 0.875f},
    {"fixed-z2", LQ_PAGE_FIXED, LQ_Z, 2, 0, 1.5f},
    {"fixed-e8", LQ_PAGE_FIXED, LQ_E8, 4, 0, 0.5f},
    {"raw-f16", LQ_PAGE_RAW, 0, 0, LQ_F16, 0},
    {"raw-f32", LQ_PAGE_RAW, 0, 0, LQ_F32, 0},
    {"raw-bf16", LQ_PAGE_RAW, 0, 0, LQ_BF16, 0},
    {"coded-trellis-8", LQ_PAGE_CODED, LQ_TRELLIS_8, 0, 0, 1.0f},
    {"coded-trellis-64", LQ_PAGE_CODED, LQ_TRELLIS_64, 0, 0, 2.0f},
};

/* Of the last ones there are files alone (test_golden.c), so hashes and digest stay as they are. */
enum { GOLDEN_KINDS = sizeof golden_kinds / sizeof golden_kinds[0] - 2 };
enum { GOLDEN_TRELLIS_8 = GOLDEN_KINDS, GOLDEN_TRELLIS_64 };

static void golden_pages(const golden_group *g, const lq_profile *profile, const golden_kind *k)
{
    lq_codec_desc d;
    lq_codec *codec = NULL;
    size_t page_bytes[3] = {0, 0, 0};
    size_t written = 0;
    memset(&d, 0, sizeof d);
    d.geometry = g->geometry;
    d.page = k->page;
    d.quantizer = k->quantizer;
    d.bits = k->bits;
    d.type = k->type;
    d.step = k->step;
    d.profile_index = 0x91;
    d.tables = golden_tables;
    d.profile = profile;
    void *mem = source_alloc(lq_codec_bytes(&d));
    golden_ok(lq_codec_init(&codec, mem, lq_codec_bytes(&d), &d));
    size_t workspace_bytes = lq_codec_workspace_bytes(codec);
    void *workspace = source_alloc(workspace_bytes);
    golden_ok(lq_codec_encode(codec, golden_buffer, GOLDEN_BYTES, &written, page_bytes, &g->vectors,
                              &g->positions, GOLDEN_TOKENS, workspace, workspace_bytes));
    golden_put(k->name, golden_buffer, written);
    if (k->page == LQ_PAGE_CODED && profile->basis != LQ_BASIS_DENSE) {
        golden_integers(profile, k->quantizer, golden_buffer, page_bytes);
    }
    free(workspace);
    free(mem);
}

static void golden_groups(void)
{
    static const char *const types[3] = {"f32", "f16", "bf16"};
    golden_group *g = &golden_;
    int16_t profile_mem[2 * (GOLDEN_DIMS + GOLDEN_SLICES) + 1];
    lq_profile profile;
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        for (uint32_t basis = LQ_BASIS_IDENTITY; basis <= LQ_BASIS_HADAMARD; basis++) {
            for (int type = LQ_F32; type <= LQ_BF16; type++) {
                golden_group_make(g, stream, basis, type);
                snprintf(golden_prefix, sizeof golden_prefix, "%s-%s-%s/",
                         stream == LQ_K ? "k" : "v",
                         basis == LQ_BASIS_IDENTITY ? "identity" : "hadamard", types[type - 1]);
                golden_profile(g, &profile, profile_mem, 0.5f);
                for (size_t i = 0; i < GOLDEN_KINDS; i++) {
                    golden_pages(g, &profile, &golden_kinds[i]);
                }
            }
        }
    }
}

/* ---- dense bases ---- */
/* A file of tests/golden; NULL when it is not there. */
static uint8_t *golden_file(const char *name, size_t *count)
{
    char path[100];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    FILE *f = fopen(path, "rb");
    *count = 0;
    if (!f) return NULL;
    uint8_t *bytes = (uint8_t *)source_alloc(1 << 16);
    *count = fread(bytes, 1, 1 << 16, f);
    fclose(f);
    return bytes;
}

static const char *golden_dense_name(uint32_t stream)
{
    return stream == LQ_K ? "v1-dense-k.lqp" : "v1-dense-v.lqp";
}

/* Slices of 16 and 8 dims, neighbours correlated. */
static void golden_dense_group(golden_group *g, uint32_t stream)
{
    golden_group_make(g, stream, LQ_BASIS_IDENTITY, LQ_F32);
    g->dims[0] = 16;
    g->dims[1] = 8;
    g->rope.rotary_dims = 8;
    g->geometry.basis = 0;
    for (size_t i = 1; i < GOLDEN_TOKENS * GOLDEN_DIMS; i++) {
        g->x[i] =
            i % GOLDEN_DIMS ? (float)((double)g->x[i] / 2 + (double)g->x[i - 1] / 2) : g->x[i];
    }
}

/* Loads a profile; its memory is to be freed. */
static void *golden_dense_load(lq_profile *profile, const char *name)
{
    size_t count;
    size_t needed = 0;
    uint8_t *file = golden_file(name, &count);
    void *mem = NULL;
    golden_ok(file ? LQ_OK : LQ_E_IO);
    if (file) {
        golden_ok(lq_profile_load(profile, NULL, 0, &needed, file, count) != LQ_E_SPACE);
        mem = source_alloc(needed);
        golden_ok(lq_profile_load(profile, mem, needed, &needed, file, count));
    }
    free(file);
    return mem;
}

/* The matrices that come out of a file form. */
static void golden_basis(const lq_basis *b)
{
    golden_put16("forward", (const uint16_t *)b->forward, (size_t)b->rank * b->forward_stride);
    golden_put16("inverse", (const uint16_t *)b->inverse, (size_t)b->dims * b->inverse_stride);
    golden_put("forward-exponent", b->forward_exponent, b->rank);
    golden_put("inverse-exponent", b->inverse_exponent, b->dims);
}

/* Matrices, pages, and refits. */
static void golden_dense(void)
{
    golden_group *g = &golden_;
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        lq_profile profile;
        void *mem = golden_dense_load(&profile, golden_dense_name(stream));
        if (!mem) return;
        const lq_basis *b = profile.dense;
        snprintf(golden_prefix, sizeof golden_prefix, "%s-dense/", stream == LQ_K ? "k" : "v");
        golden_basis(b);
        golden_dense_group(g, stream);
        for (size_t i = 0; i < 4; i++) {
            golden_pages(g, &profile, &golden_kinds[i]);
        }
        g->geometry.basis = LQ_BASIS_DENSE;
        g->geometry.dense = b;
        for (size_t i = 0; i < GOLDEN_TOKENS * GOLDEN_DIMS; i++) { /* not what was calibrated */
            g->x[i] *= i % 3 ? 1.0f : 4.0f;
        }
        int16_t refit_mem[2 * (GOLDEN_DIMS + GOLDEN_SLICES) + 1];
        lq_profile refit;
        golden_profile(g, &refit, refit_mem, 0.5f);
        golden_pages(g, &refit, &golden_kinds[0]);
        free(mem);
    }
}

/* ---- archives ---- */
/* K and V with their dense profiles embedded. */
SOURCE_FUNC size_t golden_dense_archive(size_t tokens)
{
    static uint8_t directory[1 << 16];
    golden_group *g = &golden_;
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = golden_buffer;
    w.mem_bytes = GOLDEN_BYTES;
    w.directory = directory;
    w.directory_bytes = sizeof directory;
    lq_archive_writer writer;
    golden_ok(lq_archive_writer_init(&writer, &w));
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        lq_slice slices[GOLDEN_SLICES] = {{3, 0, 0, 16, 0, 0}, {3, 1, 8, 8, 0, 0}};
        lq_archive_profile_desc file = {NULL, 0, NULL};
        lq_profile profile;
        void *mem = golden_dense_load(&profile, golden_dense_name(stream));
        uint8_t *bytes = golden_file(golden_dense_name(stream), &file.count);
        golden_dense_group(g, stream);
        lq_archive_group_desc group;
        memset(&group, 0, sizeof group);
        lq_archive_pack_desc d;
        memset(&d, 0, sizeof d);
        file.bytes = bytes;
        group.stream = stream;
        group.rope = LQ_ARCHIVE_NONE;
        group.slices = slices;
        group.slice_count = GOLDEN_SLICES;
        if (g->geometry.rope) {
            golden_ok(lq_archive_add_rope(&writer, g->geometry.rope, &group.rope));
        }
        golden_ok(lq_archive_add_group(&writer, &group, &d.group));
        golden_ok(lq_archive_add_profile(&writer, &file, &d.profile_id));
        d.tables = golden_tables;
        d.geometry = g->geometry;
        d.sequence = 5;
        d.step = 0.5f;
        d.profile = &profile;
        d.refit = 1;
        size_t workspace_bytes = lq_archive_pack_workspace_bytes(&d);
        void *workspace = source_alloc(workspace_bytes);
        golden_ok(lq_archive_pack(&writer, &d, &g->vectors, &g->positions, tokens, workspace,
                                  workspace_bytes));
        golden_ok(lq_archive_add_meta(&writer, 77, "golden", 6));
        golden_ok(lq_archive_flush_segment(&writer));
        free(workspace);
        free(bytes);
        free(mem);
    }
    golden_ok(lq_archive_finish(&writer));
    return (size_t)writer.offset;
}

/* ---- groups of keys and values ---- */
enum { JOINT_TOKENS = 1100, JOINT_SLICES = 7, JOINT_DIMS = 100, JOINT_READS = 4 };
enum { JOINT_REFIT = 300 }; /* tokens of sequence 6 */

#define JOINT_NAME "v1-joint.lqp"

/* Of both streams, in an order of no kind; ropes are the group's, another's, or none. */
static const lq_slice golden_joint_slices[JOINT_SLICES] = {
    {0, 0, 0, 16, LQ_K, 0}, {0, 1, 0, 16, LQ_K, 0}, {0, 0, 0, 12, LQ_V, 0},
    {0, 1, 0, 12, LQ_V, 0}, {1, 0, 0, 20, LQ_K, 2}, {1, 0, 0, 12, LQ_V, 0},
    {2, 0, 4, 12, LQ_K, LQ_ARCHIVE_NONE}};

static const uint32_t golden_joint_reads[JOINT_READS] = {0, 1, 4, 6};

typedef struct golden_joint {
    lq_geometry geometry;
    uint32_t dims[JOINT_SLICES];
    lq_role roles[JOINT_SLICES];
    float freqs[2][8];
    lq_rope ropes[2];
    lq_positions positions;
    float x[JOINT_TOKENS * JOINT_DIMS];
    float weights[JOINT_TOKENS];
    const void *slices[JOINT_SLICES];
    lq_vectors vectors;
    const void *query_heads[JOINT_READS];
    lq_vectors queries;
} golden_joint;

static golden_joint golden_joint_;

/* Numbers that eight hidden ones make, and noise; keys have means, values sizes. */
static void golden_joint_numbers(golden_joint *g)
{
    source_seed = 300;
    for (size_t t = 0; t < JOINT_TOKENS; t++) {
        double hidden[8];
        for (size_t k = 0; k < 8; k++) {
            hidden[k] = source_integer_gauss();
        }
        for (size_t d = 0; d < JOINT_DIMS; d++) {
            int value = (d >= 32 && d < 56) || (d >= 76 && d < 88);
            double x = source_integer_gauss() / 8;
            for (size_t k = 0; k < 8; k++) {
                x += hidden[k] * (double)((int)((d * 7 + k * (d + 13)) % 9) - 4) / 8;
            }
            g->x[t * JOINT_DIMS + d] = (float)(value ? x * (double)(1u << (t + d / 70) % 6) + 0.5
                                                     : x + (double)(d % 5));
        }
        g->weights[t] = t % 50 == 7 ? 0.0f : (float)(1 + t * 37 % 61) / 16;
    }
}

static void golden_joint_make(golden_joint *g)
{
    static const uint32_t gains[JOINT_SLICES] = {0, 0, 0, 0, 0, 1, 0};
    size_t at = 0;
    memset(g, 0, sizeof *g);
    for (size_t i = 0; i < 8; i++) {
        g->freqs[0][i] = (float)(4096 - 500 * (int)i) / 4096;
        g->freqs[1][i] = (float)(3000 - 300 * (int)i) / 8192;
    }
    for (size_t i = 0; i < 2; i++) {
        g->ropes[i].freqs = g->freqs[i];
        g->ropes[i].rotary_dims = i ? 12 : 16;
        g->ropes[i].layout = i ? LQ_ROPE_ADJACENT : LQ_ROPE_HALF;
        g->ropes[i].magnitude = i ? 1.25f : 0;
    }
    golden_joint_numbers(g);
    for (size_t i = 0; i < JOINT_SLICES; i++) {
        const lq_slice *s = &golden_joint_slices[i];
        g->dims[i] = s->dims;
        g->roles[i].stream = s->stream;
        g->roles[i].gain = gains[i];
        g->roles[i].rope = s->stream == LQ_V || s->rope > 2 ? NULL : &g->ropes[s->rope / 2];
        g->slices[i] = g->x + at;
        at += s->dims;
    }
    for (size_t i = 0; i < JOINT_READS; i++) {
        g->query_heads[i] = g->slices[golden_joint_reads[i]];
    }
    g->geometry.stream = LQ_KV;
    g->geometry.slice_count = JOINT_SLICES;
    g->geometry.slice_dims = g->dims;
    g->geometry.roles = g->roles;
    g->positions.first = 500;
    g->positions.stride = 3;
    g->vectors.slices = g->slices;
    g->vectors.token_stride = JOINT_DIMS;
    g->vectors.type = LQ_F32;
    g->queries = g->vectors;
    g->queries.slices = g->query_heads;
}

/* Tokens in an archive: of sequence 5 sinks, then pages in the order of weights; of sequence 6 such
   as the profile was not made for, on a lattice, with refits. */
static void golden_joint_pack(const golden_joint *g, lq_archive_writer *writer,
                              lq_archive_pack_desc *d)
{
    int refit = d->sequence == 6;
    d->step = refit ? 1.5f : 0.75f;
    d->quantizer = refit ? LQ_E8 : LQ_Z;
    d->weights = refit ? NULL : g->weights;
    d->refit = refit;
    size_t workspace_bytes = lq_archive_pack_workspace_bytes(d);
    void *workspace = source_alloc(workspace_bytes);
    golden_ok(lq_archive_pack(writer, d, &g->vectors, &g->positions,
                              refit ? JOINT_REFIT : JOINT_TOKENS, workspace, workspace_bytes));
    free(workspace);
}

/* The group with both sequences. */
static void golden_joint_group(golden_joint *g, lq_archive_writer *writer,
                               const lq_profile *profile, const lq_archive_profile_desc *file)
{
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    group.stream = LQ_KV;
    group.slices = golden_joint_slices;
    group.slice_count = JOINT_SLICES;
    golden_ok(lq_archive_add_rope(writer, &g->ropes[0], &group.rope));
    golden_ok(lq_archive_add_rope(writer, &g->ropes[1], NULL));
    golden_ok(lq_archive_add_group(writer, &group, &d.group));
    golden_ok(lq_archive_add_profile(writer, file, &d.profile_id));
    d.tables = golden_tables;
    d.geometry = g->geometry;
    d.profile = profile;
    d.sequence = 5;
    golden_joint_pack(g, writer, &d);
    for (size_t i = 0; i < JOINT_REFIT * JOINT_DIMS; i++) {
        g->x[i] *= i % 3 ? 1.0f : 4.0f;
    }
    d.sequence = 6;
    golden_joint_pack(g, writer, &d);
}

/* With the profile embedded, into golden_buffer. */
SOURCE_FUNC size_t golden_joint_archive(void)
{
    static uint8_t directory[1 << 16];
    lq_archive_profile_desc file = {NULL, 0, NULL};
    lq_profile profile;
    void *mem = golden_dense_load(&profile, JOINT_NAME);
    uint8_t *bytes = golden_file(JOINT_NAME, &file.count);
    if (!mem) return 0;
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = golden_buffer;
    w.mem_bytes = GOLDEN_BYTES;
    w.directory = directory;
    w.directory_bytes = sizeof directory;
    file.bytes = bytes;
    golden_joint_make(&golden_joint_);
    lq_archive_writer writer;
    golden_ok(lq_archive_writer_init(&writer, &w));
    golden_joint_group(&golden_joint_, &writer, &profile, &file);
    golden_ok(lq_archive_finish(&writer));
    free(bytes);
    free(mem);
    return (size_t)writer.offset;
}

static void golden_joints(void)
{
    lq_profile profile;
    void *mem = golden_dense_load(&profile, JOINT_NAME);
    if (!mem) return;
    snprintf(golden_prefix, sizeof golden_prefix, "joint/");
    golden_basis(profile.dense);
    golden_put("archive", golden_buffer, golden_joint_archive());
    free(mem);
}

/* Makes of a group one of slices of 20 dims, over which blocks run; of dims that are zero or small,
   which are dead, and of numbers far out, which escape. */
static void golden_group_far(golden_group *g)
{
    g->dims[0] = GOLDEN_DIMS / 2;
    g->dims[1] = GOLDEN_DIMS / 2;
    for (size_t i = 0; i < GOLDEN_TOKENS * GOLDEN_DIMS; i++) {
        size_t d = i % GOLDEN_DIMS;
        double far = i % 97 == 11 ? 40 : 1;
        g->x[i] = (float)((double)g->x[i] * (d == 6 ? 0 : d == 30 ? far / 512 : far));
    }
    golden_ok(lq_type_from_f32(g->half, g->x, GOLDEN_TOKENS * GOLDEN_DIMS, LQ_F16));
    g->slices[1] = (const void *)(g->half + GOLDEN_DIMS / 2);
}

/* As far, without the last two dims: blocks of 8 leave some. */
static void golden_group_odd(golden_group *g)
{
    golden_group_far(g);
    g->dims[1] -= 2;
}

/* K and V of both slices, in one call and then in another, with a segment between. */
enum { GOLDEN_PLAIN, GOLDEN_REFIT, GOLDEN_FAR, GOLDEN_ODD };

static size_t golden_archive(const golden_kind *k, int how, size_t tokens)
{
    static uint8_t directory[1 << 16];
    golden_group *g = &golden_;
    int refit = how == GOLDEN_REFIT;
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = golden_buffer;
    w.mem_bytes = GOLDEN_BYTES;
    w.directory = directory;
    w.directory_bytes = sizeof directory;
    lq_archive_writer writer;
    golden_ok(lq_archive_writer_init(&writer, &w));
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        lq_slice slices[GOLDEN_SLICES] = {{3, 0, 0, GOLDEN_WIDE, 0, 0},
                                          {3, 1, 8, GOLDEN_DIMS - GOLDEN_WIDE, 0, 0}};
        golden_group_make(g, stream, refit ? LQ_BASIS_HADAMARD : LQ_BASIS_IDENTITY, LQ_F16);
        if (how >= GOLDEN_FAR) {
            if (how == GOLDEN_FAR) golden_group_far(g);
            if (how == GOLDEN_ODD) golden_group_odd(g);
            slices[0].dims = g->dims[0];
            slices[1].dims = g->dims[1];
        }
        lq_archive_group_desc group;
        memset(&group, 0, sizeof group);
        lq_archive_pack_desc d;
        memset(&d, 0, sizeof d);
        group.stream = stream;
        group.rope = LQ_ARCHIVE_NONE;
        group.slices = slices;
        group.slice_count = GOLDEN_SLICES;
        if (g->geometry.rope) {
            golden_ok(lq_archive_add_rope(&writer, g->geometry.rope, &group.rope));
        }
        golden_ok(lq_archive_add_group(&writer, &group, &d.group));
        d.tables = golden_tables;
        d.geometry = g->geometry;
        d.sequence = 5;
        d.page = k->page;
        d.quantizer = k->quantizer;
        d.bits = k->bits;
        d.step = k->step;
        d.refit = refit;
        size_t workspace_bytes = lq_archive_pack_workspace_bytes(&d);
        void *workspace = source_alloc(workspace_bytes);
        golden_ok(lq_archive_pack(&writer, &d, &g->vectors, &g->positions, tokens, workspace,
                                  workspace_bytes));
        golden_ok(lq_archive_add_meta(&writer, 77, "golden", 6));
        golden_ok(lq_archive_flush_segment(&writer));
        free(workspace);
    }
    golden_ok(lq_archive_finish(&writer));
    return (size_t)writer.offset;
}

static void golden_archives(void)
{
    for (size_t i = 0; i <= 9; i++) {
        golden_kind k = golden_kinds[i];
        k.type = 0;
        snprintf(golden_prefix, sizeof golden_prefix, "%s/", k.name);
        golden_put("archive", golden_buffer, golden_archive(&k, 0, GOLDEN_TOKENS));
        golden_put("archive-refit", golden_buffer, golden_archive(&k, 1, GOLDEN_TOKENS));
    }
}

/* ---- live caches: what is saved, read and packed after shifts and evictions ---- */
enum { GOLDEN_KV_TOKENS = 300, GOLDEN_KV_ROW = 2 * 32 };

static void golden_kv_desc(lq_kv_desc *d, lq_kv_layer *layers, int which)
{
    static float freqs[2][8];
    static lq_rope ropes[2];
    memset(d, 0, sizeof *d);
    memset(layers, 0, 2 * sizeof *layers);
    memset(ropes, 0, sizeof ropes);
    for (size_t i = 0; i < 8; i++) {
        freqs[0][i] = 1.0f / (float)(1 << i);
        freqs[1][i] = 0.59765625f / (float)(1 << (i / 2));
    }
    ropes[0].freqs = freqs[0];
    ropes[0].rotary_dims = 16;
    ropes[1].freqs = freqs[1];
    ropes[1].rotary_dims = 8;
    ropes[1].layout = LQ_ROPE_ADJACENT;
    d->layers = 2;
    d->kv_heads = 2;
    d->k_dims = 32;
    d->tokens = GOLDEN_KV_TOKENS;
    d->window = 20;
    d->tables = golden_tables;
    d->rope = &ropes[0];
    d->layer = layers;
    layers[1].rope = &ropes[1];
    layers[1].rope_first = 3;
    layers[1].window = 60;
    d->type = which % 3 == 0 ? LQ_F32 : which % 3 == 1 ? LQ_F16 : LQ_BF16;
    d->sparse = which == 2;
    d->k.kind = d->v.kind = which == 3 ? LQ_KV_RAW : which < 3 ? LQ_KV_HOT : LQ_KV_WARM;
    if (which < 3) {
        d->k.bits = which == 0 ? 4 : which == 1 ? 3 : 8;
        d->v.quantizer = which == 0 ? LQ_E8 : 0;
        d->v.bits = which == 0 ? 0 : 4;
    } else if (which > 3) {
        d->k.step = 0.25f;
        d->v.step = 0.375f;
        d->k.quantizer = which == 4 ? LQ_Z : LQ_E8;
        layers[1].v.kind = which == 5 ? LQ_KV_HOT : 0;
    }
}

static void golden_kv_read(const lq_kv *kv, const char *name)
{
    static float x[GOLDEN_KV_TOKENS * GOLDEN_KV_ROW];
    static uint8_t bytes[GOLDEN_KV_TOKENS * GOLDEN_KV_ROW * 4]; /* little-endian */
    lq_kv_view_out out;
    size_t tokens = lq_kv_tokens(kv);
    memset(&out, 0, sizeof out);
    out.data = x;
    for (uint32_t l = 0; l < 2; l++) {
        for (int v = 0; v < 2; v++) {
            golden_ok(lq_kv_read(kv, l, v ? LQ_V : LQ_K, &out, 0, tokens, NULL, 0));
            for (size_t i = 0; i < tokens * GOLDEN_KV_ROW; i++) {
                uint32_t u;
                memcpy(&u, x + i, 4);
                bytes[4 * i] = (uint8_t)u;
                bytes[4 * i + 1] = (uint8_t)(u >> 8);
                bytes[4 * i + 2] = (uint8_t)(u >> 16);
                bytes[4 * i + 3] = (uint8_t)(u >> 24);
            }
            golden_put(name, bytes, tokens * GOLDEN_KV_ROW * sizeof *x);
        }
    }
}

/* Saved (pack: coded) into golden_buffer. */
static void golden_kv_write(const lq_kv *kv, const char *name, int pack)
{
    lq_archive_writer_desc d;
    size_t needed = 0;
    size_t directory = 0;
    memset(&d, 0, sizeof d);
    lq_kv_pack_desc p;
    memset(&p, 0, sizeof p);
    p.tables = golden_tables;
    p.k_step = 0.25f;
    p.v_step = 0.25f;
    golden_ok(pack ? lq_kv_pack_bytes(kv, &p, &needed, &directory)
                   : lq_kv_save_bytes(kv, &needed, &directory));
    void *workspace = source_alloc(needed);
    d.mem = golden_buffer;
    d.mem_bytes = GOLDEN_BYTES;
    d.directory = source_alloc(directory);
    d.directory_bytes = directory;
    lq_archive_writer writer;
    golden_ok(lq_archive_writer_init(&writer, &d));
    golden_ok(pack ? lq_kv_pack(kv, &writer, &p, workspace, needed)
                   : lq_kv_save(kv, &writer, 1, workspace, needed));
    golden_ok(lq_archive_finish(&writer));
    golden_put(name, golden_buffer, (size_t)writer.offset);
    free(workspace);
    free(d.directory);
}

typedef struct golden_sheet {
    uint8_t *bytes;
    size_t count;
} golden_sheet;

static int golden_sheet_write(void *user, const void *bytes, size_t count)
{
    golden_sheet *f = (golden_sheet *)user;
    if (count > GOLDEN_BYTES - f->count) return 1;
    memcpy(f->bytes + f->count, bytes, count);
    f->count += count;
    return 0;
}

static void golden_kv_export(const lq_kv *kv, golden_sheet *f, const lq_kv_export_desc *desc)
{
    size_t bytes = lq_kv_export_workspace_bytes(kv, desc);
    void *workspace = source_alloc(bytes);
    f->count = 0;
    golden_ok(lq_kv_export(kv, golden_sheet_write, f, desc, workspace, bytes));
    free(workspace);
}

/* There and back: what was saved is the same, to the bit. */
static void golden_kv_session(const lq_kv *kv, int packed)
{
    lq_kv_export_desc with;
    void *mem = NULL;
    size_t bytes = 0;
    memset(&with, 0, sizeof with);
    lq_kv_pack_desc p;
    memset(&p, 0, sizeof p);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    p.tables = golden_tables;
    p.k_step = 0.25f;
    p.v_step = 0.25f;
    with.pack = packed ? &p : NULL;
    golden_sheet f;
    f.bytes = golden_buffer;
    golden_kv_export(kv, &f, &with);
    source.bytes = f.bytes;
    source.size = f.count;
    lq_kv back;
    int status;
    while ((status = lq_kv_import(&back, mem, bytes, &bytes, &source, NULL)) == LQ_E_SPACE) {
        free(mem);
        mem = source_alloc(bytes);
    }
    golden_ok(status);
    f.bytes = (uint8_t *)source_alloc(GOLDEN_BYTES);
    golden_kv_export(&back, &f, NULL);
    golden_errors += !packed && (f.count != source.size ||
                                 memcmp(f.bytes, golden_buffer, f.count) != 0);
    lq_kv_free(&back);
    free(f.bytes);
    free(mem);
}

static void golden_kv_fill(lq_kv *kv, size_t tokens)
{
    static float x[2][GOLDEN_KV_TOKENS * GOLDEN_KV_ROW];
    lq_kv_view view[2];
    memset(view, 0, sizeof view);
    for (uint32_t l = 0; l < 2; l++) {
        for (int v = 0; v < 2; v++) {
            for (size_t i = 0; i < tokens * GOLDEN_KV_ROW; i++) {
                x[v][i] = golden_number(1.0) + (i % 32 == 5 ? 40.0f : 0.0f);
            }
            view[v].data = x[v];
        }
        golden_ok(lq_kv_append(kv, l, &view[0], &view[1], NULL, tokens));
    }
}

static void golden_kv(void)
{
    for (int which = 0; which < 6; which++) {
        source_seed = 77;
        lq_kv_desc d;
        lq_kv_layer layers[2];
        golden_kv_desc(&d, layers, which);
        snprintf(golden_prefix, sizeof golden_prefix, "kv%d/", which);
        void *mem = source_alloc(lq_kv_bytes(&d));
        lq_kv kv;
        golden_ok(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d));
        golden_kv_fill(&kv, 250);
        golden_ok(lq_kv_shift(&kv, 100, 150, 12345));
        golden_ok(lq_kv_shift(&kv, 50, 50, 7));
        golden_kv_read(&kv, "shifted");
        golden_kv_write(&kv, "packed", 1);
        lq_kv_evict_desc e;
        memset(&e, 0, sizeof e);
        e.tokens = 181;
        e.scorer = LQ_KV_BY_NORM;
        golden_ok(lq_kv_evict_by(&kv, &e));
        golden_kv_write(&kv, "evicted", 0);
        golden_ok(lq_kv_truncate(&kv, 91)); /* in the middle of a page */
        golden_kv_fill(&kv, 70);
        golden_kv_write(&kv, "truncated", 0);
        golden_kv_read(&kv, "read");
        golden_kv_session(&kv, 0);
        golden_kv_session(&kv, 1);
        lq_kv_free(&kv);
        free(mem);
    }
}

/* ---- live caches: each kind of page, each raw type, shifted and evicted tokens ---- */
enum { LIVE_LAYERS = 2, LIVE_HEADS = 3, LIVE_K = 16, LIVE_V = 8, LIVE_TOKENS = 108, LIVES = 3 };
enum { LIVE_ROW = LIVE_HEADS * LIVE_K }; /* numbers of a token at most */

/* From 3 on: files alone (test_golden.c). With RoPE, and tokens that were appended to a cache from
   which some had been evicted: of two epochs, side by side in tiles; of warm ones, doubled steps. */
enum { LIVE_FILES = 6, LIVE_MORE = 60 }; /* twice */
enum { LIVE_FIVE_SIX = 5 };              /* hot, with 5 and 6 bits */

static const char *const golden_live_names[LIVE_FILES] = {
    "live-hot",        "live-warm",        "live-sparse",
    "live-hot-edited", "live-warm-edited", "live-hot-five-six-edited"};

typedef struct golden_live {
    lq_kv_desc desc;
    lq_kv_layer layers[LIVE_LAYERS];
    lq_kv_policy heads[LIVE_LAYERS][2 * LIVE_HEADS]; /* keys first */
    float freqs[LIVE_K / 2];
    lq_rope rope;
    lq_kv kv;
    void *mem;
} golden_live;

/* An empty cache; `mem` is to be freed. */
SOURCE_FUNC void golden_live_init(golden_live *live, int which)
{
    static const lq_kv_policy hot[5] = {{LQ_KV_HOT, LQ_Z, 8, 0},
                                        {LQ_KV_HOT, LQ_Z, 4, 0},
                                        {LQ_KV_HOT, LQ_Z, 3, 0},
                                        {LQ_KV_HOT, LQ_Z, 2, 0},
                                        {LQ_KV_HOT, LQ_E8, 4, 0}};
    static const lq_kv_policy five_six[2] = {{LQ_KV_HOT, LQ_Z, 5, 0}, {LQ_KV_HOT, LQ_Z, 6, 0}};
    static const lq_kv_policy warm[4] = {{LQ_KV_WARM, LQ_Z, 4, 0.5f},
                                         {LQ_KV_WARM, LQ_D4, 4, 0.5f},
                                         {LQ_KV_WARM, LQ_E8, 4, 0.5f},
                                         {LQ_KV_WARM, LQ_E8_RELAXED, 4, 0.5f}};
    static const lq_kv_policy raw = {LQ_KV_RAW, 0, 0, 0};
    int form = which == LIVE_FIVE_SIX ? 0 : which % 3;
    memset(live, 0, sizeof *live);
    for (int l = 0; l < LIVE_LAYERS; l++) {
        for (int h = 0; h < 2 * LIVE_HEADS; h++) { /* each kind for keys and for values */
            int kind = h + l * LIVE_HEADS;
            live->heads[l][h] = which == LIVE_FIVE_SIX      ? five_six[kind % 2]
                                : form == 0 && kind % 6 < 5 ? hot[kind % 6]
                                : form == 1 && kind % 6 < 4 ? warm[kind % 6]
                                : form == 1 && kind % 6 < 5 ? hot[1]
                                : form == 2                 ? hot[1 + 3 * (h % 2)]
                                                            : raw;
        }
        live->layers[l].heads = live->heads[l];
    }
    for (int l = 0; l < LIVE_K / 2; l++) {
        live->freqs[l] = which < 3 ? (float)(4096 - 500 * l) / 4096 : 1.0f / (float)(1 << l);
    }
    live->rope.freqs = live->freqs;
    live->rope.rotary_dims = LIVE_K;
    live->rope.layout = LQ_ROPE_HALF;
    live->desc.layers = LIVE_LAYERS;
    live->desc.kv_heads = LIVE_HEADS;
    live->desc.k_dims = LIVE_K;
    live->desc.v_dims = LIVE_V;
    live->desc.tokens = which < 3 ? 200 : 240;
    live->desc.window = 16;
    live->desc.type = form == 0 ? LQ_F16 : form == 1 ? LQ_BF16 : LQ_F32;
    live->desc.layer = live->layers;
    live->desc.tables = form == 1 ? golden_tables : NULL;
    live->desc.sparse = which == 2;
    live->desc.rope = which >= 2 ? &live->rope : NULL;
    live->mem = source_alloc(lq_kv_bytes(&live->desc));
    golden_ok(lq_kv_init(&live->kv, live->mem, lq_kv_bytes(&live->desc), &live->desc));
}

static void golden_live_append(golden_live *live, int which, size_t tokens)
{
    static float x[2][LIVE_TOKENS * LIVE_ROW];
    for (uint32_t l = 0; l < LIVE_LAYERS; l++) {
        lq_kv_view k;
        memset(&k, 0, sizeof k);
        lq_kv_view v;
        memset(&v, 0, sizeof v);
        for (size_t i = 0; i < tokens * LIVE_ROW; i++) {
            x[0][i] = golden_number(1) + (float)(i % 5) / 2;
            x[1][i] = golden_number(i % 3 ? 0.5 : 2);
            if (which >= 3) { /* a mean that turns slowly; tokens that are large */
                size_t t = i / LIVE_ROW;
                x[0][i] += i % LIVE_K % 8 == 7 ? 40.0f : 0.0f;
                x[0][i] *= t % 32 >= 30 ? 64.0f : 1.0f;
                x[1][i] *= t % 32 >= 20 ? 64.0f : 1.0f;
            }
        }
        k.data = x[0];
        v.data = x[1];
        golden_ok(lq_kv_append(&live->kv, l, &k, &v, NULL, tokens));
    }
}

/* Tokens, masses; from 2 on some tokens are evicted, others shifted; from 3 on, more are appended. */
static void golden_live_fill(golden_live *live, int which)
{
    source_seed = 400 + (uint64_t)which;
    golden_live_append(live, which, LIVE_TOKENS);
    uint8_t keep[LIVE_TOKENS];
    for (size_t i = 0; i < LIVE_TOKENS; i++) {
        lq_kv_mass(&live->kv)[i] = (float)i / 8;
        keep[i] = i % 16 != 9;
    }
    if (which >= 2) {
        golden_ok(lq_kv_evict(&live->kv, keep, LIVE_TOKENS));
        golden_ok(lq_kv_shift(&live->kv, 70, lq_kv_tokens(&live->kv) - 70, 5));
    }
    if (which >= 3) {
        golden_live_append(live, which, LIVE_MORE);
        golden_live_append(live, which, LIVE_MORE);
    }
}

/* Saves into golden_buffer. */
static size_t golden_live_save(const golden_live *live)
{
    size_t workspace_bytes = 0;
    size_t directory_bytes = 0;
    golden_ok(lq_kv_save_bytes(&live->kv, &workspace_bytes, &directory_bytes));
    void *workspace = source_alloc(workspace_bytes);
    void *directory = source_alloc(directory_bytes);
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = golden_buffer;
    w.mem_bytes = GOLDEN_BYTES;
    w.directory = directory;
    w.directory_bytes = directory_bytes;
    lq_archive_writer writer;
    golden_ok(lq_archive_writer_init(&writer, &w));
    golden_ok(lq_kv_save(&live->kv, &writer, 9, workspace, workspace_bytes));
    golden_ok(lq_archive_finish(&writer));
    free(directory);
    free(workspace);
    return (size_t)writer.offset;
}

static void golden_lives(void)
{
    for (int which = 0; which < LIVES; which++) {
        golden_live live;
        golden_live_init(&live, which);
        golden_live_fill(&live, which);
        golden_prefix[0] = 0;
        golden_put(golden_live_names[which], golden_buffer, golden_live_save(&live));
        free(live.mem);
    }
}

/* ---- one digest of all streams ---- */
static uint8_t golden_chain[16 + 16 + 8]; /* digest so far, digest of the stream, its length */

static void golden_digest_add(const void *bytes, size_t count)
{
    lq_blake2s_128(golden_chain + 16, bytes, count);
    for (int i = 0; i < 8; i++) {
        golden_chain[32 + i] = (uint8_t)((uint64_t)count >> 8 * i);
    }
    lq_blake2s_128(golden_chain, golden_chain, sizeof golden_chain);
}

static void golden_digest_text(char text[33])
{
    for (int i = 0; i < 16; i++) {
        snprintf(text + 2 * i, 3, "%02x", golden_chain[i]);
    }
}

/* Everything, to `sink`. Returns 0 when every call succeeded. */
static int golden_make(const lq_tables *tables, golden_sink sink)
{
    golden_tables = tables;
    golden_out = sink;
    golden_errors = 0;
    golden_prefix[0] = 0;
    memset(golden_chain, 0, sizeof golden_chain);
    golden_buffer = (uint8_t *)source_alloc(GOLDEN_BYTES);
    golden_halves();
    golden_lattices();
    golden_groups();
    golden_archives();
    golden_dense();
    golden_joints();
    golden_kv();
    golden_lives();
    free(golden_buffer);
    return golden_errors;
}

#endif
