/* cc -std=c99 -O2 tests/test_golden.c -o test_golden -lm    Streams that may not change, from the root:
     golden/hashes.txt   length, XXH32 and BLAKE2s-128 of what the encoder makes (golden.h), at all
     levels golden/NAME.lqa     archives and saves of released formats, which must stay decodable
     golden/NAME.f16     what tokens of them decode to
     golden/NAME.lqp     calibrated profiles: floats made them, so they are kept as they are
     golden/v1-counts.*  tables of counts, a page and its numbers
     golden/rows-*      rows of polar codes, sketches, codebooks, TurboQuant, KakeyaLattice (.bin),
     decoded (.f32)
     golden/digest.txt   the one digest of digest.c
   `test_golden --write` writes them anew: after a release only for a new format, with a new NAME. A
   profile that is there stays.
   */
#include "header.h"

#include "check.h"
#include "golden.h"

/* Archives: 72 tokens, of which 60 .. 71 are compared: the end of one page and all of the next. */
enum { FILE_TOKENS = 72, FIRST = 60, COMPARED = FILE_TOKENS - FIRST, FILES = 18 };

enum { DENSE = 99 }; /* no kind of golden_kinds */
typedef struct golden_file_kind {
    const char *name;
    size_t kind;
    int how; /* refit: in the basis of Hadamard */
} golden_file_kind;

static const golden_file_kind file_of[FILES] = {
    {"v1-coded-z", 0, GOLDEN_REFIT},
    {"v1-coded-e8", 2, GOLDEN_PLAIN},
    {"v1-coded-d4", 1, GOLDEN_REFIT},
    {"v1-coded-e8-relaxed", 3, GOLDEN_REFIT},
    {"v1-coded-z-far", 0, GOLDEN_FAR},
    {"v1-coded-e8-far", 2, GOLDEN_FAR},
    {"v1-coded-e8-relaxed-far", 3, GOLDEN_FAR},
    {"v1-fixed-z8", 4, GOLDEN_REFIT},
    {"v1-fixed-z4", 5, GOLDEN_PLAIN},
    {"v1-fixed-z3", 6, GOLDEN_REFIT},
    {"v1-fixed-z2", 7, GOLDEN_PLAIN},
    {"v1-fixed-e8", 8, GOLDEN_REFIT},
    {"v1-raw-f16", 9, GOLDEN_PLAIN},
    {"v1-coded-trellis-8", GOLDEN_TRELLIS_8, GOLDEN_REFIT},
    {"v1-coded-trellis-64", GOLDEN_TRELLIS_64, GOLDEN_PLAIN},
    {"v1-coded-trellis-8-far", GOLDEN_TRELLIS_8, GOLDEN_ODD},
    {"v1-coded-trellis-64-far", GOLDEN_TRELLIS_64, GOLDEN_FAR},
    {"v1-dense", DENSE, 0}};

static const lq_tables *tables;

/* ---- hashes ---- */
static FILE *hashes;
static int writing;

static void hash_line(char *line, size_t room, const char *name, const void *bytes, size_t count)
{
    uint8_t digest[16];
    int at = snprintf(line, room, "%s %lu %08x ", name, (unsigned long)count,
                      (unsigned)lq_xxh32(bytes, count, 0));
    lq_blake2s_128(digest, bytes, count);
    for (int i = 0; i < 16; i++) {
        at += snprintf(line + at, room - (size_t)at, "%02x", digest[i]);
    }
}

static void compare(const char *name, const void *bytes, size_t count)
{
    char line[200];
    char want[200] = "";
    hash_line(line, sizeof line, name, bytes, count);
    golden_digest_add(bytes, count);
    if (writing) {
        fprintf(hashes, "%s\n", line);
        return;
    }
    if (!fgets(want, sizeof want, hashes)) want[0] = 0;
    want[strcspn(want, "\r\n")] = 0;
    if (!CHECK(strcmp(line, want) == 0)) {
        fprintf(stderr, "    is:  %s\n    was: %s\n", line, want);
    }
}

/* After all streams. */
static void test_digest(void)
{
    char text[33];
    char want[40] = "";
    FILE *f = fopen("tests/golden/digest.txt", writing ? "w" : "r");
    golden_digest_text(text);
    if (!CHECK(f != NULL)) return;
    if (writing) {
        fprintf(f, "%s\n", text);
    } else {
        CHECK(fgets(want, sizeof want, f) != NULL && strncmp(text, want, 32) == 0);
    }
    fclose(f);
}

static void test_hashes(int level)
{
    hashes = fopen("tests/golden/hashes.txt", writing ? "w" : "r");
    if (!CHECK(hashes != NULL)) return;
    lq_cpu_limit(level);
    CHECK(golden_make(tables, compare) == 0);
    lq_cpu_limit(-1);
    if (!writing) CHECK(fgetc(hashes) == EOF);
    fclose(hashes);
    test_digest();
}

/* ---- archives ---- */
static void path_of(char *path, size_t room, const char *name, const char *end)
{
    snprintf(path, room, "tests/golden/%s.%s", name, end);
}

static uint8_t *file_read(const char *path, size_t *count)
{
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = NULL;
    *count = 0;
    if (CHECK(f != NULL)) {
        bytes = (uint8_t *)source_alloc(1 << 16);
        *count = fread(bytes, 1, 1 << 16, f);
        fclose(f);
    }
    uint8_t *exact = source_copy(bytes, *count);
    free(bytes);
    return exact;
}

static void file_write(const char *path, const void *bytes, size_t count)
{
    FILE *f = fopen(path, "wb");
    if (CHECK(f != NULL)) {
        CHECK(fwrite(bytes, 1, count, f) == count);
        fclose(f);
    }
}

/* Tokens 60 .. 71 of both groups as floats: (stream, token, dim). */
static void decode_file(const uint8_t *file, size_t count, float *x)
{
    lq_archive_source source;
    void *mem = source_alloc(1 << 16);
    memset(&source, 0, sizeof source);
    source.bytes = file;
    source.size = count;
    lq_archive_reader reader;
    if (!CHECK(lq_archive_open(&reader, &source, mem, 1 << 16, NULL) == LQ_OK)) {
        free(mem);
        return;
    }
    const uint8_t *meta;
    size_t meta_count;
    CHECK(!lq_archive_meta(&reader, 77, &meta, &meta_count) && meta_count == 6 &&
          memcmp(meta, "golden", 6) == 0);
    for (uint32_t group = 0; group < 2; group++) {
        size_t workspace_bytes = lq_archive_unpack_workspace_bytes(&reader, group);
        void *workspace = source_alloc(workspace_bytes);
        float *to = x + group * COMPARED * GOLDEN_DIMS;
        lq_archive_unpack_desc d;
        lq_slice first[2] = {{0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}};
        lq_vectors_out out = {NULL, GOLDEN_DIMS, LQ_F32};
        memset(&d, 0, sizeof d);
        d.tables = tables;
        d.group = group;
        d.sequence = 5;
        lq_archive_group_desc info;
        CHECK(!lq_archive_group(&reader, group, &info, first, 2));
        void *slices[2];
        slices[0] = to;
        slices[1] = to + (first[0].dims == 16 ? GOLDEN_WIDE : first[0].dims); /* dense: a gap */
        out.slices = slices;
        CHECK(lq_archive_unpack(&reader, &d, &out, FIRST, COMPARED, workspace, workspace_bytes) ==
              LQ_OK);
        free(workspace);
    }
    free(mem);
}

static void test_file(int which)
{
    enum { COUNT = 2 * COMPARED * GOLDEN_DIMS };
    static float x[COUNT];
    static uint8_t halves[2 * COUNT];
    char path[100];
    path_of(path, sizeof path, file_of[which].name, "lqa");
    size_t count;
    if (writing) {
        size_t kind = file_of[which].kind;
        golden_buffer = (uint8_t *)source_alloc(GOLDEN_BYTES);
        golden_tables = tables;
        count = kind == DENSE
                    ? golden_dense_archive(FILE_TOKENS)
                    : golden_archive(&golden_kinds[kind], file_of[which].how, FILE_TOKENS);
        CHECK(golden_errors == 0);
        file_write(path, golden_buffer, count);
        free(golden_buffer);
    }
    memset(x, 0, sizeof x);
    uint8_t *file = file_read(path, &count);
    decode_file(file, count, x);
    free(file);
    path_of(path, sizeof path, file_of[which].name, "f16");
    if (writing) {
        for (int i = 0; i < COUNT; i++) {
            uint16_t h = lq_f16_from_f32(x[i]);
            halves[2 * i] = (uint8_t)h;
            halves[2 * i + 1] = (uint8_t)(h >> 8);
        }
        file_write(path, halves, sizeof halves);
    }
    file = file_read(path, &count);
    if (CHECK(count == 2 * COUNT)) {
        int bad = 0;
        for (int i = 0; i < COUNT; i++) { /* within the rounding to half, and a last bit */
            double want = (double)lq_f32_from_f16((uint16_t)(file[2 * i] | file[2 * i + 1] << 8));
            bad += !(fabs((double)x[i] - want) <= fabs(want) * 0x1p-11 * 1.01 + 0x1p-24);
        }
        CHECK(bad == 0);
    }
    free(file);
}

/* ---- keys and values in one group ---- */
/* Compared are tokens 0 .. 11, four raw and the first of the first block of pages, and 1022 ..
   1033, the last of that block and the first of the next; of the second sequence 254 .. 265. */
enum { JOINT_PART = 12, JOINT_PARTS = 3, JOINT_COUNT = JOINT_PARTS * JOINT_PART * JOINT_DIMS };

static const size_t joint_first[JOINT_PARTS] = {0, 1022, 254};

/* (token, dim). */
static void joint_decode(const uint8_t *file, size_t count, float *x)
{
    lq_archive_source source;
    lq_vectors_out out = {NULL, JOINT_DIMS, LQ_F32};
    void *mem = source_alloc(1 << 16);
    memset(&source, 0, sizeof source);
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    source.bytes = file;
    source.size = count;
    d.tables = tables;
    void *slices[JOINT_SLICES];
    out.slices = slices;
    lq_archive_reader reader;
    if (CHECK(lq_archive_open(&reader, &source, mem, 1 << 16, NULL) == LQ_OK)) {
        size_t bytes = lq_archive_unpack_workspace_bytes(&reader, 0);
        void *workspace = source_alloc(bytes);
        for (int part = 0; part < JOINT_PARTS; part++, x += JOINT_PART * JOINT_DIMS) {
            size_t at = 0;
            d.sequence = part < 2 ? 5 : 6;
            for (int i = 0; i < JOINT_SLICES; at += golden_joint_slices[i].dims, i++) {
                slices[i] = x + at;
            }
            CHECK(!lq_archive_unpack(&reader, &d, &out, joint_first[part], JOINT_PART, workspace,
                                     bytes));
        }
        free(workspace);
    }
    free(mem);
}

static void test_joint(void)
{
    static float x[JOINT_COUNT];
    static uint8_t halves[2 * JOINT_COUNT];
    size_t count;
    int bad = 0;
    if (writing) {
        golden_errors = 0;
        golden_tables = tables;
        golden_buffer = (uint8_t *)source_alloc(GOLDEN_BYTES);
        count = golden_joint_archive();
        CHECK(golden_errors == 0);
        file_write("tests/golden/v1-joint.lqa", golden_buffer, count);
        free(golden_buffer);
    }
    uint8_t *file = file_read("tests/golden/v1-joint.lqa", &count);
    joint_decode(file, count, x);
    free(file);
    if (writing) {
        for (int i = 0; i < JOINT_COUNT; i++) {
            uint16_t h = lq_f16_from_f32(x[i]);
            halves[2 * i] = (uint8_t)h;
            halves[2 * i + 1] = (uint8_t)(h >> 8);
        }
        file_write("tests/golden/v1-joint.f16", halves, sizeof halves);
    }
    file = file_read("tests/golden/v1-joint.f16", &count);
    for (int i = 0; i < JOINT_COUNT && count == 2 * JOINT_COUNT; i++) { /* as in test_file */
        double want = (double)lq_f32_from_f16((uint16_t)(file[2 * i] | file[2 * i + 1] << 8));
        bad += !(fabs((double)x[i] - want) <= fabs(want) * 0x1p-11 * 1.01 + 0x1p-24);
    }
    CHECK(count == 2 * JOINT_COUNT && bad == 0);
    free(file);
}

/* ---- saves of live caches ---- */
/* Tokens 0, 6, 12 ... are compared, of edited caches 0, 12, 24 ... */
enum { LIVE_EVERY = 6, LIVE_COMPARED = LIVE_TOKENS / LIVE_EVERY };
enum { LIVE_COUNT = LIVE_LAYERS * LIVE_COMPARED * LIVE_HEADS * (LIVE_K + LIVE_V) };

static int live_load(golden_live *live, const uint8_t *file, size_t count)
{
    lq_archive_source source;
    void *mem = source_alloc(1 << 16);
    void *workspace = source_alloc(lq_kv_load_workspace_bytes(&live->kv));
    memset(&source, 0, sizeof source);
    source.bytes = file;
    source.size = count;
    lq_archive_reader reader;
    int status = lq_archive_open(&reader, &source, mem, 1 << 16, NULL);
    if (status == LQ_OK) {
        status =
            lq_kv_load(&live->kv, &reader, 9, workspace, lq_kv_load_workspace_bytes(&live->kv));
    }
    free(workspace);
    free(mem);
    return status;
}

/* (layer, token, K then V) as half floats in little-endian bytes. */
static void live_read(const golden_live *live, size_t every, uint8_t *dst)
{
    size_t tokens = lq_kv_tokens(&live->kv);
    memset(dst, 0, 2 * LIVE_COUNT);
    for (uint32_t l = 0; l < LIVE_LAYERS; l++) {
        for (size_t t = 0; t < LIVE_COMPARED; t++) {
            for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
                size_t count = (size_t)LIVE_HEADS * (stream == LQ_K ? LIVE_K : LIVE_V);
                lq_kv_view_out out;
                memset(&out, 0, sizeof out);
                float x[LIVE_ROW];
                out.data = x;
                if (t * every < tokens) {
                    CHECK(!lq_kv_read(&live->kv, l, stream, &out, t * every, 1, NULL, 0));
                    for (size_t i = 0; i < count; i++) {
                        uint16_t h = lq_f16_from_f32(x[i]);
                        dst[2 * i] = (uint8_t)h;
                        dst[2 * i + 1] = (uint8_t)(h >> 8);
                    }
                }
                dst += 2 * count;
            }
        }
    }
}

/* A save that another machine wrote: holds the same numbers, and is saved again as the same bytes. */
static void test_live(int which)
{
    static uint8_t halves[2 * LIVE_COUNT];
    char name[40];
    int bad = 0;
    snprintf(name, sizeof name, "v1-%s", golden_live_names[which]);
    golden_errors = 0;
    golden_tables = tables;
    golden_buffer = (uint8_t *)source_alloc(GOLDEN_BYTES);
    golden_live live;
    golden_live_init(&live, which);
    char path[100];
    path_of(path, sizeof path, name, "lqa");
    if (writing) {
        golden_live_fill(&live, which);
        file_write(path, golden_buffer, golden_live_save(&live));
        CHECK(lq_kv_truncate(&live.kv, 0) == LQ_OK);
    }
    size_t count;
    uint8_t *file = file_read(path, &count);
    CHECK(live_load(&live, file, count) == LQ_OK);
    CHECK(golden_live_save(&live) == count && memcmp(golden_buffer, file, count) == 0);
    free(file);
    live_read(&live, which < LIVES ? LIVE_EVERY : 2 * LIVE_EVERY, halves);
    path_of(path, sizeof path, name, "f16");
    if (writing) file_write(path, halves, sizeof halves);
    file = file_read(path, &count);
    /* a last bit, and its rounding */
    for (int i = 0; i < LIVE_COUNT && count == 2 * LIVE_COUNT; i++) {
        uint16_t is = (uint16_t)(halves[2 * i] | halves[2 * i + 1] << 8);
        uint16_t want = (uint16_t)(file[2 * i] | file[2 * i + 1] << 8);
        double x = (double)lq_f32_from_f16(want);
        bad += !(fabs((double)lq_f32_from_f16(is) - x) <= fabs(x) * 0x1p-10 + 0x1p-24);
    }
    CHECK(count == 2 * LIVE_COUNT && bad == 0);
    CHECK(golden_errors == 0);
    free(file);
    free(golden_buffer);
    free(live.mem);
}

/* ---- profiles ---- */
static void klt_write(lq_klt *klt, const lq_klt_desc *desc, const char *name, void *workspace,
                      size_t workspace_bytes)
{
    size_t bound = lq_klt_profile_bound(klt);
    uint8_t *file = (uint8_t *)source_alloc(bound);
    size_t count;
    CHECK(!lq_klt_profile(klt, file, bound, &count, desc, NULL, workspace, workspace_bytes));
    char path[100];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    file_write(path, file, count);
    free(file);
}

/* Calibrates where there is no file yet. */
static void profile_write(uint32_t stream)
{
    static const uint32_t reads[2] = {0, 1};
    golden_group *g = &golden_;
    size_t count;
    uint8_t *file = golden_file(golden_dense_name(stream), &count);
    free(file);
    if (file) return;
    golden_dense_group(g, stream);
    void *mem = source_alloc(lq_klt_bytes(&g->geometry));
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, lq_klt_bytes(&g->geometry), &g->geometry) == LQ_OK);
    size_t bytes = lq_klt_profile_workspace_bytes(&klt) + lq_klt_workspace_bytes(&g->geometry);
    void *workspace = source_alloc(bytes);
    lq_klt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.step = 0.5f;
    CHECK(!lq_klt_add(&klt, &g->vectors, &g->positions, GOLDEN_TOKENS, workspace, bytes));
    CHECK(stream == LQ_V || !lq_klt_add_queries(&klt, &g->vectors, reads, 2, &g->positions,
                                                GOLDEN_TOKENS, workspace, bytes));
    klt_write(&klt, &desc, golden_dense_name(stream), workspace, bytes);
    free(workspace);
    free(mem);
}

/* As above. */
static void joint_profile_write(void)
{
    golden_joint *g = &golden_joint_;
    size_t count;
    uint8_t *file = golden_file(JOINT_NAME, &count);
    free(file);
    if (file) return;
    golden_joint_make(g);
    void *mem = source_alloc(lq_klt_bytes(&g->geometry));
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, lq_klt_bytes(&g->geometry), &g->geometry) == LQ_OK);
    size_t bytes = lq_klt_profile_workspace_bytes(&klt) + lq_klt_workspace_bytes(&g->geometry);
    void *workspace = source_alloc(bytes);
    lq_klt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.step = 0.5f;
    desc.ratio = 2.5f;
    desc.model = 0x123456789abcdef0u;
    CHECK(!lq_klt_add(&klt, &g->vectors, &g->positions, JOINT_TOKENS, workspace, bytes));
    CHECK(!lq_klt_add_queries(&klt, &g->queries, golden_joint_reads, JOINT_READS, &g->positions,
                              JOINT_TOKENS, workspace, bytes));
    klt_write(&klt, &desc, JOINT_NAME, workspace, bytes);
    free(workspace);
    free(mem);
}

/* ---- tables of counts ---- */
enum { COUNTS_ROWS = 24, COUNTS_TOKENS = 50 };

/* Rows i have table i % 3: two numbers; 1 / rank; 200 alike. A number in 16 was never counted. */
static void counts_make(const lq_rans_counts **counts, uint8_t *mem, size_t mem_bytes,
                        int16_t *values)
{
    static uint32_t of[3][200];
    lq_histogram h[3] = {{of[0], 2, 0}, {of[1], 150, -20}, {of[2], 200, -60}};
    uint32_t x = 1;
    of[0][0] = 300;
    of[0][1] = 700;
    for (uint32_t i = 0; i < 200; i++) {
        of[1][i] = 100000 / (i * 77 % 150 + 1);
        of[2][i] = 9;
    }
    CHECK(lq_rans_counts_bytes(h, 3) <= mem_bytes);
    CHECK(lq_rans_counts_init(counts, mem, mem_bytes, h, 3) == LQ_OK);
    for (uint32_t i = 0; i < COUNTS_ROWS; i++) {
        for (uint32_t t = 0; t < COUNTS_TOKENS; t++) {
            x = x * 1664525u + 1013904223u;
            values[i * 64 + t] = (int16_t)((x >> 20) % h[i % 3].count + (uint32_t)h[i % 3].low);
            if (x >> 16 & 15) continue;
            values[i * 64 + t] = (int16_t)((int32_t)(x >> 8 & 4095) - 2048);
        }
    }
}

/* One file is the tables, one a page, one its numbers. */
static void test_counts_file(void)
{
    static uint8_t mem[20000];
    static int16_t values[COUNTS_ROWS * 64];
    static int16_t decoded[COUNTS_ROWS * 64];
    static uint8_t plan_mem[COUNTS_ROWS * 64];
    static uint8_t out[2][8192];
    static uint8_t numbers[COUNTS_ROWS * COUNTS_TOKENS * 2];
    const lq_rans_counts *counts = NULL;
    static const char *const end_of[3] = {"lqrt", "rans", "s16"};
    counts_make(&counts, mem, sizeof mem, values);
    size_t written[3];
    CHECK(lq_rans_counts_save(out[0], sizeof out[0], &written[0], counts) == LQ_OK);
    size_t i;
    CHECK(lq_rans_counts_load(&counts, mem, sizeof mem, &i, out[0], written[0]) == LQ_OK);
    uint16_t table_of[COUNTS_ROWS];
    for (i = 0; i < COUNTS_ROWS; i++) {
        table_of[i] = (uint16_t)(i % 3);
    }
    lq_rans_plan plan;
    CHECK(lq_rans_plan_counts(&plan, plan_mem, sizeof plan_mem, counts, table_of, COUNTS_ROWS) ==
          LQ_OK);
    size_t ws_bytes = lq_rans_plan_workspace_bytes(&plan, 1);
    uint8_t *ws = (uint8_t *)source_alloc(ws_bytes);
    lq_rans_page page;
    memset(&page, 0, sizeof page);
    page.values = values;
    page.bytes = out[1];
    page.bytes_count = sizeof out[1];
    page.tokens = COUNTS_TOKENS;
    CHECK(lq_rans_encode(NULL, &plan, &page, 1, ws, ws_bytes) == LQ_OK);
    written[1] = page.written;
    page.values = decoded;
    page.bytes_count = page.written;
    CHECK(lq_rans_decode(NULL, &plan, &page, 1, ws, ws_bytes) == LQ_OK);
    free(ws);
    for (i = 0; i < COUNTS_ROWS * COUNTS_TOKENS; i++) {
        int16_t v = decoded[i / COUNTS_TOKENS * 64 + i % COUNTS_TOKENS];
        CHECK(v == values[i / COUNTS_TOKENS * 64 + i % COUNTS_TOKENS]);
        numbers[2 * i] = (uint8_t)((uint32_t)v & 255);
        numbers[2 * i + 1] = (uint8_t)((uint32_t)v >> 8 & 255);
    }
    const void *made[3];
    made[0] = out[0];
    made[1] = out[1];
    made[2] = numbers;
    written[2] = sizeof numbers;
    char path[100];
    for (i = 0; i < 3; i++) {
        path_of(path, sizeof path, "v1-counts", end_of[i]);
        if (writing) file_write(path, made[i], written[i]);
        size_t count;
        uint8_t *file = file_read(path, &count);
        CHECK(count == written[i] && memcmp(file, made[i], count) == 0);
        free(file);
    }
}

/* ---- rows: polar codes, sketches, codebooks, TurboQuant, KakeyaLattice ---- */
enum { ROWS = 4, ROWS_DIMS = 100 };
enum { ROWS_POLAR = 1, ROWS_QJL, ROWS_TURBO, ROWS_CODEBOOK, ROWS_KAKEYA };

/* A file is u32 each: kind, dims, rows, four numbers that say how, then the levels of its book;
   and the codes. What `of` means: radius bits, angle bits, group; signs, rounds, projection, seed;
   levels' bits and, with a sketch of dims signs, rounds, projection, seed; bits, scale (an f32);
   quantizer, range. */
typedef struct rows_kind {
    const char *name;
    uint32_t kind;
    uint32_t dims;
    uint32_t of[4];
} rows_kind;

static const rows_kind rows_of[] = {
    {"rows-polar-square", ROWS_POLAR, 64, {3, 3, 64, LQ_POLAR_SQUARE}},
    {"rows-polar-gauss", ROWS_POLAR, 96, {4, 2, 96, LQ_POLAR_GAUSS}},
    {"rows-qjl-hadamard", ROWS_QJL, 96, {96, 2, LQ_QJL_HADAMARD, 7}},
    {"rows-qjl-gaussian", ROWS_QJL, 40, {70, 3, LQ_QJL_GAUSSIAN, 9}},
    {"rows-turbo-mse", ROWS_TURBO, 96, {3, 0, 0, 0}},
    {"rows-turbo-prod", ROWS_TURBO, 64, {2, 1, LQ_QJL_GAUSSIAN, 5}},
    {"rows-codebook", ROWS_CODEBOOK, ROWS_DIMS, {5, 0x3f400000u, 0, 0}},
    {"rows-kakeya-e8", ROWS_KAKEYA, 64, {LQ_E8, 10, 0, 0}},
    {"rows-kakeya-d4", ROWS_KAKEYA, 32, {LQ_D4, 38, 0, 0}}};

/* Bytes of a file as they come. */
typedef struct rows_file {
    uint8_t bytes[1 << 14];
    size_t count;
    float numbers[ROWS * ROWS_DIMS]; /* what the codes decode to */
} rows_file;

static void rows_put(rows_file *f, uint32_t x)
{
    for (int i = 0; i < 4; i++) {
        f->bytes[f->count++] = (uint8_t)(x >> 8 * i);
    }
}

static void rows_polar(rows_file *f, const rows_kind *k, const float *x)
{
    lq_polar_book book;
    memset(&book, 0, sizeof book);
    CHECK(lq_polar_init(&book, k->of[0], k->of[1], k->of[2], (int)k->of[3]) == LQ_OK);
    for (size_t i = 0; i < (size_t)1 << book.radius_bits; i++) {
        rows_put(f, book.radius[i]);
    }
    for (size_t i = 0; i < (size_t)2 << book.angle_bits; i++) {
        rows_put(f, (uint32_t)book.angle[i / 2][i % 2]);
    }
    uint8_t *at = f->bytes + f->count;
    size_t bytes = ROWS * lq_polar_row_bytes(&book, k->dims);
    CHECK(lq_polar_encode(&book, at, bytes, x, ROWS, k->dims) == LQ_OK);
    CHECK(lq_polar_decode(&book, f->numbers, at, bytes, ROWS, k->dims) == LQ_OK);
    f->count += bytes;
}

/* NULL where the kind has no sketch. mem: of any alignment. */
static const lq_qjl *rows_sketch(const rows_kind *k, uint32_t signs, uint8_t **mem)
{
    lq_qjl_desc d;
    memset(&d, 0, sizeof d);
    d.dims = k->dims;
    d.signs = signs;
    d.rounds = k->of[1];
    d.projection = k->of[2];
    d.scale = LQ_QJL_UNBIASED;
    d.seed = k->of[3];
    *mem = NULL;
    if (!d.rounds) return NULL;
    *mem = (uint8_t *)source_alloc(lq_qjl_bytes(&d));
    const lq_qjl *qjl = NULL;
    CHECK(lq_qjl_init(&qjl, *mem, lq_qjl_bytes(&d), &d) == LQ_OK);
    return qjl;
}

static void rows_qjl(rows_file *f, const rows_kind *k, const float *x)
{
    uint8_t *mem;
    const lq_qjl *qjl = rows_sketch(k, k->of[0], &mem);
    size_t ws_bytes = lq_qjl_workspace_bytes(qjl);
    uint8_t *ws = (uint8_t *)source_alloc(ws_bytes);
    uint8_t *at = f->bytes + f->count;
    size_t bytes = ROWS * lq_qjl_row_bytes(qjl);
    CHECK(lq_qjl_encode(qjl, at, bytes, x, ROWS, ws, ws_bytes) == LQ_OK);
    CHECK(lq_qjl_decode(qjl, f->numbers, at, bytes, ROWS, ws, ws_bytes) == LQ_OK);
    f->count += bytes;
    free(ws);
    free(mem);
}

static void rows_levels(rows_file *f, lq_codebook *book, uint32_t bits)
{
    CHECK(lq_codebook_gauss(book, bits) == LQ_OK);
    for (size_t i = 0; i < (size_t)1 << bits; i++) {
        rows_put(f, (uint32_t)book->level[i]);
    }
}

static void rows_turbo(rows_file *f, const rows_kind *k, const float *x)
{
    uint8_t *mem;
    lq_codebook book;
    memset(&book, 0, sizeof book);
    rows_levels(f, &book, k->of[0]);
    const lq_qjl *qjl = rows_sketch(k, k->dims, &mem);
    uint32_t bits = k->of[0] + k->of[1];
    size_t ws_bytes = lq_turbo_workspace_bytes(k->dims, bits, qjl);
    uint8_t *ws = (uint8_t *)source_alloc(ws_bytes);
    uint8_t *at = f->bytes + f->count;
    size_t bytes = ROWS * lq_turbo_row_bytes(k->dims, bits, qjl);
    CHECK(lq_turbo_encode(at, bytes, x, ROWS, k->dims, bits, qjl, ws, ws_bytes) == LQ_OK);
    CHECK(lq_turbo_decode(f->numbers, at, bytes, ROWS, k->dims, bits, qjl, ws, ws_bytes) == LQ_OK);
    f->count += bytes;
    free(ws);
    free(mem);
}

static void rows_codebook(rows_file *f, const rows_kind *k, const float *x)
{
    lq_codebook book;
    memset(&book, 0, sizeof book);
    float scale;
    memcpy(&scale, &k->of[1], 4);
    rows_levels(f, &book, k->of[0]);
    uint8_t *at = f->bytes + f->count;
    size_t count = ROWS * (size_t)k->dims;
    size_t bytes = lq_codebook_bytes(count, k->of[0]);
    CHECK(lq_codebook_encode(&book, at, bytes, x, count, scale) == LQ_OK);
    CHECK(lq_codebook_decode(&book, f->numbers, at, bytes, count, scale) == LQ_OK);
    f->count += bytes;
}

static void rows_kakeya(rows_file *f, const rows_kind *k, const float *x)
{
    lq_kakeya_desc d = {(int)k->of[0], k->of[1]};
    size_t ws_bytes = lq_kakeya_workspace_bytes(&d, k->dims);
    uint8_t *ws = (uint8_t *)source_alloc(ws_bytes);
    uint8_t *at = f->bytes + f->count;
    size_t bytes = ROWS * lq_kakeya_row_bytes(&d, k->dims);
    CHECK(lq_kakeya_encode(&d, at, bytes, x, ROWS, k->dims, ws, ws_bytes) == LQ_OK);
    CHECK(lq_kakeya_decode(&d, f->numbers, at, bytes, ROWS, k->dims, ws, ws_bytes) == LQ_OK);
    f->count += bytes;
    free(ws);
}

/* The file and what it decodes to, as written and as they are made now. */
static void rows_compare(const rows_kind *k, const rows_file *f)
{
    uint8_t numbers[4 * ROWS * ROWS_DIMS];
    size_t count = ROWS * (size_t)k->dims;
    for (size_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, &f->numbers[i], 4);
        for (size_t j = 0; j < 4; j++) {
            numbers[4 * i + j] = (uint8_t)(u >> 8 * j);
        }
    }
    for (int i = 0; i < 2; i++) {
        char path[100];
        const uint8_t *made = i ? numbers : f->bytes;
        size_t bytes = i ? 4 * count : f->count;
        path_of(path, sizeof path, k->name, i ? "f32" : "bin");
        if (writing) file_write(path, made, bytes);
        size_t have;
        uint8_t *file = file_read(path, &have);
        CHECK(have == bytes && memcmp(file, made, bytes) == 0);
        free(file);
    }
}

static void test_rows_files(void)
{
    static void (*const make[])(rows_file *, const rows_kind *, const float *) = {
        rows_polar, rows_qjl, rows_turbo, rows_codebook, rows_kakeya};
    static rows_file f;
    float x[ROWS * ROWS_DIMS];
    for (size_t i = 0; i < sizeof rows_of / sizeof rows_of[0]; i++) {
        const rows_kind *k = &rows_of[i];
        source_seed = 90 + i;
        for (size_t j = 0; j < ROWS * (size_t)k->dims; j++) { /* rows of several sizes, and zeros */
            static const double scale[ROWS] = {1, 1.0 / 1024, 0, 300};
            x[j] = golden_number(scale[k->kind == ROWS_CODEBOOK ? 0 : j / k->dims]);
        }
        f.count = 0;
        rows_put(&f, k->kind);
        rows_put(&f, k->dims);
        rows_put(&f, ROWS);
        for (size_t j = 0; j < 4; j++) {
            rows_put(&f, k->of[j]);
        }
        make[k->kind - 1](&f, k, x);
        rows_compare(k, &f);
    }
}

int main(int argc, char **argv)
{
    void *memory = source_alloc(lq_tables_bytes());
    writing = argc > 1 && strcmp(argv[1], "--write") == 0;
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    if (writing) {
        profile_write(LQ_K);
        profile_write(LQ_V);
        joint_profile_write();
    }
    for (int level = lq_cpu_limit(-1); level >= 0; level--) {
        test_hashes(level);
        if (writing || (argc > 1 && strcmp(argv[1], "quick") == 0)) break;
    }
    for (int i = 0; i < FILES; i++) {
        test_file(i);
    }
    test_joint();
    for (int i = 0; i < LIVE_FILES; i++) {
        test_live(i);
    }
    test_counts_file();
    test_rows_files();
    free(memory);
    return check_report("test_golden");
}
