/* cc -std=c99 -O2 tests/test_array.c -o test_array -lm    Arrays in two calls, and rows at a fixed
   rate: `test_array quick` makes fewer cases. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { HEAD = 44, FORMS = 9 };

static const lq_tables *tables;
static int levels; /* SIMD levels to test: 0 .. levels */
static int quick;

/* ---- an array and its bytes, in memory of exactly the size that is asked for ---- */
typedef struct packed {
    uint8_t *bytes;
    size_t count;
    int status;
} packed;

static packed pack(const void *src, size_t rows, size_t dims, int type, const lq_compress_desc *d)
{
    size_t bound = lq_compress_bound(rows, dims, type);
    size_t need = lq_compress_workspace_bytes(rows, dims, type, d);
    size_t skip = source_below(70); /* any alignment */
    uint8_t *work = (uint8_t *)source_alloc(need + skip);
    uint8_t *room = (uint8_t *)source_alloc(bound);
    packed p;
    p.status = lq_compress(room, bound, &p.count, src, rows, dims, type, d, work + skip, need);
    p.bytes = source_copy(room, p.count);
    free(room);
    free(work);
    return p;
}

static int unpack(void *dst, size_t dst_bytes, int type, const uint8_t *src, size_t count)
{
    size_t need = lq_decompress_workspace_bytes(src, count);
    size_t skip = source_below(70);
    if (need > (size_t)1 << 27) {
        return LQ_E_SPACE; /* what a fuzzed head asks for */
    }
    uint8_t *work = (uint8_t *)source_alloc(need + skip);
    int status = lq_decompress(dst, dst_bytes, type, src, count, source_below(4) ? tables : NULL,
                               work + skip, need);
    free(work);
    return status;
}

/* What a fuzzer needs to get behind the checksum. */
static void mend(uint8_t *p, size_t count)
{
    if (count >= HEAD) {
        uint32_t sum = lq_xxh32(p + HEAD, count - HEAD, lq_xxh32(p, 40, 0));
        p[40] = (uint8_t)sum;
        p[41] = (uint8_t)(sum >> 8);
        p[42] = (uint8_t)(sum >> 16);
        p[43] = (uint8_t)(sum >> 24);
    }
}

static void gaussian(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)source_integer_gauss();
    }
}

static double squares(const float *x, const float *y, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double e = (double)x[i] - (y ? (double)y[i] : 0);
        sum += e * e;
    }
    return sum;
}

/* ---- shapes, types, forms ---- */
static const struct form {
    int page;
    int quantizer;
    float bits;
} forms[FORMS] = {{0, 0, 0},
                  {LQ_PAGE_CODED, LQ_D4, 2.5f},
                  {LQ_PAGE_CODED, LQ_E8, 3},
                  {LQ_PAGE_CODED, LQ_E8_RELAXED, 1.5f},
                  {LQ_PAGE_CODED, LQ_TRELLIS_8, 2},
                  {LQ_PAGE_CODED, LQ_TRELLIS_64, 0.75f},
                  {LQ_PAGE_FIXED, LQ_Z, 8},
                  {LQ_PAGE_FIXED, LQ_Z, 3},
                  {LQ_PAGE_FIXED, LQ_E8, 4}};

static void check_inspect(const packed *p, size_t rows, size_t dims, int type)
{
    lq_compress_info info;
    uint8_t *head = source_copy(p->bytes, HEAD);
    CHECK(lq_compress_inspect(&info, head, HEAD) == LQ_OK);
    CHECK(info.rows == rows && info.dims == dims && info.type == type && info.bytes == p->count);
    CHECK(p->count <= lq_compress_bound(rows, dims, type));
    CHECK(lq_compress_inspect(&info, head, HEAD - 1) == LQ_E_DATA);
    head[4] = 2;
    CHECK(lq_compress_inspect(&info, head, HEAD) == LQ_E_FORMAT);
    free(head);
}

/* Columns with means and deviations of their own; every number within a step or so. */
static void check_shape(size_t rows, size_t dims, int type, const struct form *f)
{
    size_t count = rows * dims;
    size_t element = lq_type_bytes(type);
    float *x = (float *)source_alloc(count * 4);
    float *y = (float *)source_alloc(count * 4);
    void *src = source_alloc(count * element);
    void *same = source_alloc(count * element);
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    d.page = f->page;
    d.quantizer = f->quantizer;
    d.bits = f->bits;
    d.tables = source_below(4) ? tables : NULL;
    d.keep_means = source_below(4) == 0;
    gaussian(x, count);
    for (size_t i = 0; i < count; i++) {
        x[i] = x[i] * (float)(1 + i % dims % 5) + (float)(i % dims % 3) * 4;
    }
    lq_compress_info info;
    packed p;
    if (f->quantizer == LQ_E8 && f->page == LQ_PAGE_FIXED && dims % 8) {
        CHECK(lq_compress_bound(rows, dims, type) > 0);
        CHECK(lq_compress_workspace_bytes(rows, dims, type, &d) == 0);
    } else if (CHECK(lq_type_from_f32(src, x, count, type) == LQ_OK)) {
        CHECK(lq_f32_from_type(x, src, count, type) == LQ_OK);
        p = pack(src, rows, dims, type, &d);
        CHECK(p.status == LQ_OK);
        check_inspect(&p, rows, dims, type);
        CHECK(lq_compress_inspect(&info, p.bytes, p.count) == LQ_OK);
        CHECK(unpack(y, count * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
        if (rows) {
            double mean = sqrt(squares(x, y, count) / (double)count);
            CHECK(info.page == LQ_PAGE_RAW ? mean == 0 : mean < 0.8 * (double)info.step);
        }
        CHECK(unpack(same, count * element, 0, p.bytes, p.count) == LQ_OK);
        for (int level = 0; level < levels; level++) {
            (void)lq_cpu_limit(level);
            packed other = pack(src, rows, dims, type, &d);
            CHECK(other.count == p.count && memcmp(other.bytes, p.bytes, p.count) == 0);
            free(other.bytes);
            CHECK(unpack(same, count * element, 0, p.bytes, p.count) == LQ_OK);
        }
        (void)lq_cpu_limit(-1);
        free(p.bytes);
    }
    free(x);
    free(y);
    free(src);
    free(same);
}

static void test_shapes(void)
{
    static const size_t shapes[][2] = {{0, 1},   {1, 1},    {1, 8},    {2, 3},   {7, 64},
                                       {64, 16}, {65, 16},  {130, 5},  {1000, 1}, {300, 8},
                                       {3, 1500}, {70, 1032}, {513, 24}, {200, 96}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int f = 0; f < FORMS; f++) {
            check_shape(shapes[i][0], shapes[i][1], 1 + (int)source_below(3), &forms[f]);
        }
    }
}

/* ---- rate and error ---- */
static void check_rate(int quantizer, float bits, double most)
{
    const size_t rows = 1000, dims = 128, count = rows * dims;
    float *x = (float *)source_alloc(count * 4);
    float *y = (float *)source_alloc(count * 4);
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    d.quantizer = quantizer;
    d.bits = bits;
    d.tables = tables;
    gaussian(x, count);
    packed p = pack(x, rows, dims, LQ_F32, &d);
    CHECK(p.status == LQ_OK);
    CHECK(unpack(y, count * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
    double rate = 8.0 * (double)p.count / (double)count;
    CHECK(fabs(rate - (double)bits) < 0.06);
    CHECK(squares(x, y, count) / squares(x, NULL, count) * pow(4, rate) < most);
    free(p.bytes);
    memset(&d, 0, sizeof d);
    d.quantizer = quantizer;
    d.error = (float)pow(2, -(double)bits);
    p = pack(x, rows, dims, LQ_F32, &d);
    CHECK(p.status == LQ_OK);
    CHECK(unpack(y, count * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
    CHECK(fabs(sqrt(squares(x, y, count) / squares(x, NULL, count)) / (double)d.error - 1) < 0.03);
    free(p.bytes);
    free(x);
    free(y);
}

static void test_rates(void)
{
    check_rate(LQ_Z, 3, 1.48);
    check_rate(LQ_E8, 3, 1.28);
    check_rate(LQ_D4, 2, 1.38);
    check_rate(LQ_E8_RELAXED, 2, 1.33);
    check_rate(LQ_TRELLIS_8, 3, 1.2);
    check_rate(LQ_TRELLIS_64, 2, 1.2);
    check_rate(LQ_Z, 1, 1.48);
    check_rate(LQ_Z, 6, 1.5);
}

/* ---- odd numbers ---- */
static void check_exact(const float *x, size_t rows, size_t dims, double most)
{
    float *y = (float *)source_alloc(rows * dims * 4);
    packed p = pack(x, rows, dims, LQ_F32, NULL);
    CHECK(p.status == LQ_OK);
    CHECK(unpack(y, rows * dims * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
    for (size_t i = 0; i < rows * dims; i++) {
        CHECK(fabs((double)x[i] - (double)y[i]) <= most);
    }
    free(p.bytes);
    free(y);
}

/* What stands in for keys and values without a model: squared error times 4^bits over the variance
   about the columns' means, all bytes counted, of E8 at 3 bits. */
static double honest_gap(const float *x, size_t rows, size_t dims)
{
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    d.quantizer = LQ_E8;
    d.bits = 3;
    packed p = pack(x, rows, dims, LQ_F32, &d);
    CHECK(p.status == LQ_OK);
    float *y = (float *)source_alloc(rows * dims * 4);
    CHECK(unpack(y, rows * dims * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
    double error = squares(x, y, rows * dims);
    double power = 0;
    for (size_t i = 0; i < dims; i++) {
        double mean = 0;
        for (size_t t = 0; t < rows; t++) {
            mean += (double)x[t * dims + i] / (double)rows;
        }
        for (size_t t = 0; t < rows; t++) {
            power += pow((double)x[t * dims + i] - mean, 2);
        }
    }
    double bits = 8.0 * (double)p.count / (double)(rows * dims);
    free(y);
    free(p.bytes);
    return error / power * pow(4, bits);
}

static void test_stand_ins(void)
{
    enum { ROWS = 4096, DIMS = 128, COUNT = ROWS * DIMS };
    float *x = (float *)source_alloc(COUNT * 4);
    gaussian(x, COUNT);
    double plain = honest_gap(x, ROWS, DIMS);
    for (size_t i = 0; i < COUNT; i++) { /* 8 channels with a bias of 30 to 80 deviations */
        if (i % DIMS < 8) x[i] += 30.0f + 50.0f / 7 * (float)(i % DIMS);
    }
    double biased = honest_gap(x, ROWS, DIMS);
    gaussian(x, COUNT);
    for (size_t i = DIMS; i < COUNT; i++) { /* tokens that are like the one before */
        x[i] = 0.8f * x[i - DIMS] + 0.6f * x[i];
    }
    double alike = honest_gap(x, ROWS, DIMS);
    gaussian(x, COUNT);
    for (size_t t = 0; t < ROWS; t++) { /* Student's t with 4 degrees of freedom, a token's norm */
        double squared = 0;
        for (int i = 0; i < 4; i++) {
            squared += pow(source_gauss(), 2) / 4;
        }
        for (size_t i = 0; i < DIMS; i++) {
            x[t * DIMS + i] /= (float)sqrt(squared);
        }
    }
    double heavy = honest_gap(x, ROWS, DIMS);
    printf("E8 at 3 bits, error x 4^bits: Gaussian %.3f, biased channels %.3f, AR(1) %.3f, "
           "Student's t %.3f\n", plain, biased, alike, heavy);
    CHECK(plain > 1.22 && plain < 1.28);
    CHECK(fabs(biased / plain - 1) < 0.01);
    CHECK(fabs(alike / plain - 1) < 0.01);
    CHECK(heavy < plain);
    free(x);
}

static void test_odd(void)
{
    enum { ROWS = 90, DIMS = 12, COUNT = ROWS * DIMS };
    float *x = (float *)source_zeros(COUNT * 4);
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    check_exact(x, ROWS, DIMS, 0);
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = 3.0f + (float)(i % DIMS);
    }
    check_exact(x, ROWS, DIMS, 15.0 / 4096); /* constant columns: means alone */
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = (float)ldexp(source_integer_gauss(), -(int)(i % DIMS));
    }
    check_exact(x, ROWS, DIMS, 1);
    x[5] = 1e30f; /* an outlier sets the finest step */
    check_exact(x, ROWS, DIMS, 3e26);
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = 1e-39f * (float)i;
    }
    check_exact(x, ROWS, DIMS, 2e-36);
    gaussian(x, COUNT);
    d.step = 1e-6f;
    packed p = pack(x, ROWS, DIMS, LQ_F32, &d);
    CHECK(p.status == LQ_E_RANGE && p.count == 0);
    free(p.bytes);
    d.step = 0.01f;
    x[COUNT - 1] = (float)INFINITY;
    p = pack(x, ROWS, DIMS, LQ_F32, &d);
    CHECK(p.status == LQ_E_DATA);
    free(p.bytes);
    x[COUNT - 1] = 3e38f;
    p = pack(x, ROWS, DIMS, LQ_F32, NULL);
    CHECK(p.status == LQ_E_RANGE);
    free(p.bytes);
    free(x);
}

/* ---- arguments ---- */
static int refused(size_t rows, size_t dims, int type, const lq_compress_desc *d)
{
    static float x[64];
    static uint8_t out[4096];
    static uint8_t work[1 << 20];
    size_t written = 1;
    return lq_compress(out, sizeof out, &written, x, rows, dims, type, d, work, sizeof work) ==
               LQ_E_ARG &&
           written == 0 && lq_compress_workspace_bytes(rows, dims, type, d) == 0;
}

static void test_arguments(void)
{
    static const float freqs[2] = {1, 300};
    lq_rope rope = {freqs, 2, 0, 0};
    lq_rope bad = {freqs, 4, 0, 0};
    lq_positions positions = {0, 1, NULL};
    CHECK(refused(2, 0, LQ_F32, NULL));
    CHECK(refused(2, 4, 4, NULL));
    CHECK(refused(SIZE_MAX / 2, SIZE_MAX / 2, LQ_F32, NULL));
    lq_compress_desc d;
    for (int i = 0; i < 20; i++) {
        memset(&d, 0, sizeof d);
        d.page = i == 0 ? LQ_PAGE_RAW : i == 1 ? 4 : i < 5 ? LQ_PAGE_FIXED : 0;
        d.quantizer = i == 2 ? LQ_D4 : i == 5 ? 7 : 0;
        d.bits = i == 3 ? 5 : i == 6 ? -1 : i == 7 ? 17 : i == 8 ? (float)NAN : 0;
        d.error = i == 4 ? 0.1f : i == 9 ? 1e-5f : i == 10 ? 2 : i == 11 ? -1 : 0;
        d.step = i == 12 ? -1 : i == 13 ? (float)INFINITY : 0;
        d.keep_means = i == 14 ? 2 : 0;
        d.positions = i == 15 ? &positions : NULL;
        d.head_dims = i == 16 ? 2 : i == 17 ? 3 : 0;
        d.rope = i == 17 ? &rope : i == 18 ? &bad : NULL;
        if (i == 19) {
            d.error = 0.1f;
            d.step = 0.1f;
        }
        CHECK(refused(2, 4, LQ_F32, &d));
    }
}

static void test_space(void)
{
    float x[200];
    size_t need = lq_compress_workspace_bytes(20, 10, LQ_F32, NULL);
    uint8_t *work = (uint8_t *)source_alloc(need);
    gaussian(x, 200);
    packed p = pack(x, 20, 10, LQ_F32, NULL);
    CHECK(p.status == LQ_OK && p.count < 400);
    size_t written;
    for (size_t room = 0; room < p.count; room += 3) {
        uint8_t *dst = (uint8_t *)source_alloc(room);
        CHECK(lq_compress(dst, room, &written, x, 20, 10, LQ_F32, NULL, work, need) == LQ_E_SPACE);
        free(dst);
    }
    uint8_t out[2000];
    CHECK(lq_compress(out, p.count, &written, x, 20, 10, LQ_F32, NULL, work, need) == LQ_OK);
    CHECK(lq_compress(out, 2000, &written, x, 20, 10, LQ_F32, NULL, work, need - 64) ==
          LQ_E_SPACE);
    CHECK(unpack(x, 799, LQ_F32, p.bytes, p.count) == LQ_E_SPACE);
    CHECK(lq_decompress(x, 800, 0, p.bytes, p.count, NULL, work, 1000) == LQ_E_SPACE);
    CHECK(lq_decompress(x, 800, 7, p.bytes, p.count, NULL, work, need) == LQ_E_ARG);
    free(p.bytes);
    free(work);
}

/* ---- keys ---- */
/* The sample's keys, (tokens, heads, dims), beside lq_archive_pack at the same step. */
static void check_sample(const uint16_t *k, int layer, const lq_rope *rope)
{
    enum { ROW = SAMPLE_HEADS * SAMPLE_DIMS, COUNT = SAMPLE_TOKENS * ROW };
    static const lq_slice slices[SAMPLE_HEADS] = {
        {0, 0, 0, SAMPLE_DIMS, 0, 0}, {0, 1, 0, SAMPLE_DIMS, 0, 0}, {0, 2, 0, SAMPLE_DIMS, 0, 0}};
    static const uint32_t dims[SAMPLE_HEADS] = {SAMPLE_DIMS, SAMPLE_DIMS, SAMPLE_DIMS};
    static const lq_positions positions = {0, 1, NULL};
    uint16_t *rows = (uint16_t *)source_alloc(COUNT * 2);
    uint8_t *mem = (uint8_t *)source_alloc(1 << 18);
    uint8_t *directory = (uint8_t *)source_alloc(1 << 16);
    float *x = (float *)source_alloc(COUNT * 4);
    float *y = (float *)source_alloc(COUNT * 4);
    lq_vectors src = {NULL, 0, LQ_F16};
    size_t need, t, i;
    lq_archive_writer_desc wd;
    memset(&wd, 0, sizeof wd);
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    lq_archive_pack_desc pd;
    memset(&pd, 0, sizeof pd);
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    const void *heads[SAMPLE_HEADS];
    for (int h = 0; h < SAMPLE_HEADS; h++) {
        const uint16_t *head =
            k + (size_t)(layer * SAMPLE_HEADS + h) * SAMPLE_TOKENS * SAMPLE_DIMS;
        heads[h] = head;
        for (t = 0; t < SAMPLE_TOKENS; t++) {
            memcpy(rows + t * ROW + (size_t)h * SAMPLE_DIMS, head + t * SAMPLE_DIMS,
                   SAMPLE_DIMS * 2);
        }
    }
    wd.mem = mem;
    wd.mem_bytes = 1 << 18;
    wd.directory = directory;
    wd.directory_bytes = 1 << 16;
    src.slices = heads;
    group.stream = LQ_K;
    group.slices = slices;
    group.slice_count = SAMPLE_HEADS;
    pd.tables = tables;
    pd.geometry.stream = LQ_K;
    pd.geometry.slice_count = SAMPLE_HEADS;
    pd.geometry.slice_dims = dims;
    pd.geometry.rope = rope;
    pd.step = 0.55f;
    need = lq_archive_pack_workspace_bytes(&pd);
    void *work = source_alloc(need);
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &wd) == LQ_OK);
    CHECK(lq_archive_add_rope(&w, rope, &group.rope) == LQ_OK);
    CHECK(lq_archive_add_group(&w, &group, &pd.group) == LQ_OK);
    CHECK(lq_archive_pack(&w, &pd, &src, &positions, SAMPLE_TOKENS, work, need) == LQ_OK);
    CHECK(lq_archive_finish(&w) == LQ_OK);
    d.rope = rope;
    d.head_dims = SAMPLE_DIMS;
    d.step = pd.step;
    packed p = pack(rows, SAMPLE_TOKENS, ROW, LQ_F16, &d);
    CHECK(p.status == LQ_OK);
    CHECK((double)p.count < 1.03 * (double)w.offset);
    CHECK(lq_f32_from_type(x, rows, COUNT, LQ_F16) == LQ_OK);
    CHECK(unpack(y, COUNT * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
    for (i = 0; i < COUNT; i++) { /* a pair's error turns with it */
        CHECK(fabs((double)x[i] - (double)y[i]) < 1.1 * (double)d.step);
    }
    CHECK(squares(x, y, COUNT) / COUNT < (double)(d.step * d.step) / 11.5);
    free(p.bytes);
    free(work);
    free(rows);
    free(mem);
    free(directory);
    free(x);
    free(y);
}

/* Positions as a list, and as a progression in a list, come back as such. */
static void check_positions(size_t rows, size_t dims, uint32_t head_dims, int listed)
{
    enum { MOST = 300 };
    static float freqs[8] = {1, 0.3f, 0.1f, 0.03f, 0.01f, 0.003f, 0.001f, 0};
    static int64_t list[MOST];
    lq_rope rope = {freqs, 12, LQ_ROPE_ADJACENT, 1.25f};
    lq_positions positions = {0, 1, NULL};
    float *x = (float *)source_alloc(rows * dims * 4);
    float *y = (float *)source_alloc(rows * dims * 4);
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    gaussian(x, rows * dims);
    for (size_t i = 0; i < rows; i++) {
        list[i] = listed ? (int64_t)(source_u64() >> 30) : (int64_t)(1000 - 7 * (int64_t)i);
    }
    positions.list = list;
    d.rope = &rope;
    d.positions = &positions;
    d.head_dims = head_dims;
    d.step = 0.1f;
    packed p = pack(x, rows, dims, LQ_F32, &d);
    CHECK(p.status == LQ_OK);
    CHECK(p.bytes[22] == (listed ? 3 : 1));
    CHECK(unpack(y, rows * dims * 4, LQ_F32, p.bytes, p.count) == LQ_OK);
    for (size_t i = 0; i < rows * dims; i++) {
        CHECK(fabs((double)x[i] - (double)y[i]) < 0.15);
    }
    free(p.bytes);
    free(x);
    free(y);
}

static void test_keys(void)
{
    uint16_t *k = source_sample("k", SAMPLE_COUNT);
    const uint8_t *bytes = (const uint8_t *)k;
    float freqs[SAMPLE_DIMS / 2];
    lq_rope rope = {NULL, SAMPLE_DIMS, LQ_ROPE_HALF, 0};
    source_sample_freqs(freqs);
    rope.freqs = freqs;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) { /* little-endian in the file */
        k[i] = (uint16_t)(bytes[2 * i] | (uint32_t)bytes[2 * i + 1] << 8);
    }
    check_sample(k, 0, &rope);
    check_sample(k, 1, &rope);
    check_positions(300, 32, 16, 0);
    check_positions(300, 32, 16, 1);
    check_positions(200, 14, 14, 1);
    check_positions(60, 1040, 16, 0);
    free(k);
}

/* ---- rows at a fixed rate ---- */
static const int row_forms[5][2] = {{LQ_E8, 4}, {LQ_Z, 8}, {LQ_Z, 4}, {LQ_Z, 3}, {LQ_Z, 2}};

/* The least squared error of one step for all rows, as lq_fixed_* code with it. */
static double best_step(const float *x, size_t count, int quantizer, int bits)
{
    double rms = sqrt(squares(x, NULL, count) / (double)count);
    double step = rms * (bits == 8 ? 0.01 : 0.1);
    double least = squares(x, NULL, count);
    uint8_t *codes = (uint8_t *)source_alloc(count);
    float *y = (float *)source_alloc(count * 4);
    for (; step < 4 * rms; step *= 1.02) {
        CHECK(lq_fixed_encode(codes, count, x, count, (float)step, quantizer, bits) == LQ_OK);
        CHECK(lq_fixed_decode(y, codes, count, count, (float)step, quantizer, bits) == LQ_OK);
        least = fmin(least, squares(x, y, count));
    }
    free(codes);
    free(y);
    return least;
}

/* kind 0: Gaussian, 1: uniform, 2: heavy tails. `most`: error over that of the best of all steps,
   where rows are alike, and of the best for each row. */
static void check_rows(size_t rows, size_t dims, int form, int kind, double most, double most_each)
{
    int quantizer = row_forms[form][0], bits = row_forms[form][1];
    size_t row_bytes = lq_quantize_row_bytes(dims, quantizer, bits);
    size_t count = rows * dims;
    uint8_t *bytes = (uint8_t *)source_alloc(rows * row_bytes);
    uint8_t *again = (uint8_t *)source_alloc(rows * row_bytes);
    float *x = (float *)source_alloc(count * 4);
    float *y = (float *)source_alloc(count * 4);
    float *one = (float *)source_alloc(dims * 4);
    double best = 0;
    size_t i, r;
    gaussian(x, count);
    for (i = 0; i < count; i++) {
        double u = kind == 1 ? 2 * source_uniform() - 1 : (double)x[i];
        u *= kind == 2 ? fabs(u) : 1;
        x[i] = (float)(u * (most > 0 ? 1 : (double)(1 + i / dims % 9)));
    }
    CHECK(lq_quantize(bytes, rows * row_bytes, x, rows, dims, LQ_F32, quantizer, bits) == LQ_OK);
    CHECK(lq_dequantize(y, count * 4, LQ_F32, bytes, rows * row_bytes, rows, dims, quantizer,
                        bits) == LQ_OK);
    for (r = 0; r < rows; r++) {
        CHECK(lq_dequantize(one, dims * 4, LQ_F32, bytes + r * row_bytes, row_bytes, 1, dims,
                            quantizer, bits) == LQ_OK);
        CHECK(memcmp(one, y + r * dims, dims * 4) == 0);
        best += most > 0 ? best_step(x + r * dims, dims, quantizer, bits) : 0;
    }
    if (most > 0) {
        CHECK(squares(x, y, count) <= most * best_step(x, count, quantizer, bits));
        CHECK(squares(x, y, count) <= most_each * best);
    }
    for (int level = 0; level <= levels; level++) {
        (void)lq_cpu_limit(level);
        CHECK(lq_quantize(again, rows * row_bytes, x, rows, dims, LQ_F32, quantizer, bits) ==
              LQ_OK);
        CHECK(memcmp(bytes, again, rows * row_bytes) == 0);
    }
    (void)lq_cpu_limit(-1);
    free(bytes);
    free(again);
    free(x);
    free(y);
    free(one);
}

static void test_rows(void)
{
    static const size_t dims[] = {8, 16, 40, 72, 128, 520, 1024};
    int form, kind;
    for (form = 0; form < 5; form++) {
        for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
            check_rows(quick ? 7 : 40, dims[i], form, (int)(i % 3), 0, 0);
        }
        check_rows(21, 1, form == 0 ? 1 : form, 0, 0, 0);
        check_rows(21, 333, form == 0 ? 1 : form, 2, 0, 0);
        for (kind = 0; kind < 3; kind++) {
            source_seed = 5; /* of few rows the ratio to the best steps varies by 1 % */
            check_rows(quick ? 60 : 200, 128, form, kind, 1.01, 1.08);
        }
    }
}

static void test_row_arguments(void)
{
    float x[32], y[32];
    size_t i, n = lq_quantize_row_bytes(16, LQ_E8, 4);
    CHECK(n == 10 && lq_quantize_row_bytes(12, LQ_E8, 4) == 0);
    CHECK(lq_quantize_row_bytes(12, LQ_Z, 3) == 7 && lq_quantize_row_bytes(0, LQ_Z, 3) == 0);
    CHECK(lq_quantize_row_bytes(12, LQ_Z, 5) == 0 && lq_quantize_row_bytes(12, LQ_D4, 4) == 0);
    CHECK(lq_quantize_row_bytes(SIZE_MAX, LQ_Z, 8) == 0);
    gaussian(x, 32);
    uint8_t out[100];
    CHECK(lq_quantize(out, 19, x, 2, 16, LQ_F32, LQ_E8, 4) == LQ_E_SPACE);
    CHECK(lq_quantize(out, 20, x, 2, 12, LQ_F32, LQ_E8, 4) == LQ_E_ARG);
    CHECK(lq_quantize(out, 20, x, 2, 16, 0, LQ_E8, 4) == LQ_E_ARG);
    CHECK(lq_quantize(out, 20, NULL, 2, 16, LQ_F32, LQ_E8, 4) == LQ_E_ARG);
    CHECK(lq_quantize(out, 20, x, 2, 16, LQ_F32, LQ_E8, 4) == LQ_OK);
    uint16_t half[32];
    CHECK(lq_dequantize(half, 64, LQ_F16, out, 20, 2, 16, LQ_E8, 4) == LQ_OK);
    CHECK(lq_dequantize(y, 128, LQ_F32, out, 20, 2, 16, LQ_E8, 4) == LQ_OK);
    for (i = 0; i < 32; i++) {
        CHECK(half[i] == lq_f16_from_f32(y[i]));
    }
    CHECK(lq_dequantize(y, 127, LQ_F32, out, 20, 2, 16, LQ_E8, 4) == LQ_E_SPACE);
    CHECK(lq_dequantize(y, 128, LQ_F32, out, 19, 2, 16, LQ_E8, 4) == LQ_E_SPACE);
    CHECK(lq_quantize(out, 20, half, 2, 16, LQ_F16, LQ_E8, 4) == LQ_OK);
    memset(x, 0, sizeof x);
    CHECK(lq_quantize(out, 20, x, 2, 16, LQ_F32, LQ_E8, 4) == LQ_OK);
    CHECK(lq_dequantize(y, 128, LQ_F32, out, 20, 2, 16, LQ_E8, 4) == LQ_OK);
    CHECK(memcmp(x, y, sizeof x) == 0);
    x[31] = (float)NAN;
    CHECK(lq_quantize(out, 20, x, 2, 16, LQ_F32, LQ_E8, 4) == LQ_E_DATA);
    x[31] = 1e38f;
    CHECK(lq_quantize(out, 20, x, 2, 16, LQ_F32, LQ_E8, 4) == LQ_E_RANGE);
    x[31] = 1e30f; /* an outlier in zeros */
    CHECK(lq_quantize(out, 20, x, 2, 16, LQ_F32, LQ_E8, 4) == LQ_OK);
    CHECK(lq_dequantize(y, 128, LQ_F32, out, 20, 2, 16, LQ_E8, 4) == LQ_OK);
    CHECK(fabs((double)y[31] / 1e30 - 1) < 0.1);
    out[1] = 255;
    CHECK(lq_dequantize(y, 128, LQ_F32, out, 20, 2, 16, LQ_E8, 4) == LQ_E_DATA);
}

/* ---- hostile bytes ---- */
static void fuzz_one(const packed *p, void *dst, size_t dst_bytes)
{
    size_t count = source_below(3) ? p->count : source_below((uint32_t)p->count + 1);
    uint8_t *bytes = source_copy(p->bytes, count);
    uint32_t flips = source_below(4);
    uint32_t front = source_below(2);
    if (source_below(20) == 0) {
        for (flips = 0; flips < count; flips++) {
            bytes[flips] = (uint8_t)source_u64();
        }
        memcpy(bytes, p->bytes, count < 8 ? count : 8);
    }
    for (; flips && count; flips--) {
        uint32_t limit = (uint32_t)(front && count > 120 ? 120 : count);
        bytes[source_below(limit)] ^= (uint8_t)(1u << source_below(8));
    }
    if (count >= HEAD && source_below(4)) {
        for (size_t i = 0; i < 8; i++) {
            bytes[32 + i] = (uint8_t)((uint64_t)count >> 8 * i);
        }
    }
    if (source_below(8)) mend(bytes, count);
    int status = unpack(dst, dst_bytes, (int)source_below(4), bytes, count);
    CHECK(status == LQ_OK || status == LQ_E_DATA || status == LQ_E_FORMAT || status == LQ_E_SPACE);
    free(bytes);
}

static void test_fuzz(long tries)
{
    enum { COUNT = 200 * 40, KINDS = 10 };
    static float freqs[4] = {1, 0.1f, 0.01f, 0.001f};
    static int64_t list[200];
    static const uint16_t three[3] = {0x3c00, 0x4000, 0xc200}; /* 1, 2, -3 */
    lq_rope rope = {freqs, 8, 0, 0};
    lq_positions positions = {5, 3, NULL};
    float *x = (float *)source_alloc(COUNT * 4);
    gaussian(x, COUNT);
    for (int i = 0; i < 200; i++) {
        list[i] = i * i;
    }
    packed p[KINDS];
    for (int i = 0; i < KINDS; i++) {
        lq_compress_desc d;
        memset(&d, 0, sizeof d);
        d.page = i < FORMS ? forms[i].page : 0;
        d.quantizer = i < FORMS ? forms[i].quantizer : 0;
        d.bits = i < FORMS ? forms[i].bits : 0;
        if (i == 2 || i == 7) {
            positions.list = i == 7 ? list : NULL;
            d.rope = &rope;
            d.head_dims = 8;
            d.positions = &positions;
        }
        p[i] = i == 3 ? pack(three, 1, 3, LQ_F16, &d) : pack(x, 200, 40, LQ_F32, &d);
        CHECK(p[i].status == LQ_OK);
    }
    uint8_t *dst = (uint8_t *)source_alloc(COUNT * 4);
    for (long t = 0; t < tries; t++) {
        fuzz_one(&p[t % KINDS], dst, COUNT * 4);
    }
    for (int i = 0; i < KINDS; i++) {
        free(p[i].bytes);
    }
    for (long t = 0; t < tries; t++) { /* rows: any bytes */
        int form = (int)source_below(5);
        size_t dims = 8 * (1 + (size_t)source_below(20)), rows = source_below(8);
        size_t count = rows * lq_quantize_row_bytes(dims, row_forms[form][0], row_forms[form][1]);
        uint8_t *bytes = (uint8_t *)source_alloc(count);
        for (size_t k = 0; k < count; k++) {
            bytes[k] = (uint8_t)source_u64();
        }
        int status = lq_dequantize(dst, rows * dims * 4, LQ_F32, bytes, count, rows, dims,
                                   row_forms[form][0], row_forms[form][1]);
        CHECK(status == LQ_OK || status == LQ_E_DATA);
        free(bytes);
    }
    free(x);
    free(dst);
}

/* ---- the same bytes on every machine ---- */
static void test_golden(void)
{
    enum { ROWS = 203, DIMS = 24, COUNT = ROWS * DIMS };
    static const uint32_t want_error[3] = {0x2af2246cu, 0x1cd6e8bcu, 0x59e05742u}; /* Z, D4, E8 */
    static const uint32_t want[FORMS + 5] = {
        0x0abbed22u, 0x56786b21u, 0x62a58febu, 0xbb5b7e3fu, 0xefa30c73u, 0x7ee604dau, 0xb6ec9a90u,
        0x0c12387au, 0xb9af6074u, 0x5e89cc8du, 0xbc26379eu, 0x9d90f226u, 0xcf446820u, 0x5737debdu};
    static const float freqs[2] = {1, 0.0625f};
    static const lq_rope rope = {freqs, 4, LQ_ROPE_HALF, 0};
    static float x[COUNT];
    static uint8_t out[ROWS * (DIMS + 2)];
    source_seed = 77;
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)source_integer_gauss() * (float)(1 + i % 7) + (float)(i % DIMS % 5);
    }
    for (int i = 0; i < FORMS; i++) {
        lq_compress_desc d;
        memset(&d, 0, sizeof d);
        d.page = forms[i].page;
        d.quantizer = forms[i].quantizer;
        d.bits = forms[i].bits;
        packed p = pack(x, ROWS, DIMS, LQ_F32, &d);
        if (!CHECK(lq_xxh32(p.bytes, p.count, 0) == want[i])) {
            printf("form %d: 0x%08xu\n", i, (unsigned)lq_xxh32(p.bytes, p.count, 0));
        }
        free(p.bytes);
    }
    for (int i = 0; i < 3; i++) {
        lq_compress_desc d;
        memset(&d, 0, sizeof d);
        d.quantizer = 1 + i;
        d.error = 0.1f;
        d.rope = i == 1 ? &rope : NULL;
        d.head_dims = i == 1 ? 8 : 0;
        packed p = pack(x, ROWS, DIMS, LQ_F32, &d);
        if (!CHECK(lq_xxh32(p.bytes, p.count, 0) == want_error[i])) {
            printf("error %d: 0x%08xu\n", i, (unsigned)lq_xxh32(p.bytes, p.count, 0));
        }
        free(p.bytes);
    }
    for (int i = 0; i < 5; i++) {
        size_t n = ROWS * lq_quantize_row_bytes(DIMS, row_forms[i][0], row_forms[i][1]);
        CHECK(lq_quantize(out, n, x, ROWS, DIMS, LQ_F32, row_forms[i][0], row_forms[i][1]) ==
              LQ_OK);
        if (!CHECK(lq_xxh32(out, n, 0) == want[FORMS + i])) {
            printf("rows %d: 0x%08xu\n", i, (unsigned)lq_xxh32(out, n, 0));
        }
    }
}

int main(int argc, char **argv)
{
    void *mem = source_alloc(lq_tables_bytes());
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_level();
    if (lq_tables_init(&tables, mem, lq_tables_bytes())) return 1;
    test_golden();
    test_shapes();
    test_rates();
    test_odd();
    test_stand_ins();
    test_arguments();
    test_space();
    test_keys();
    test_rows();
    test_row_arguments();
    test_fuzz(quick ? 2000 : 30000);
    free(mem);
    return check_report("test_array");
}
