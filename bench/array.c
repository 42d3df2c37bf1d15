/* cc -O2 bench/array.c -o array_bench -lm && ./array_bench
   What lq_compress and lq_quantize cost and lose, from the repository's root. Gaussian rows at 3
   bits, in whole bytes, as MSE * 4^R; the keys of the sample beside lq_archive_pack at the same
   step; speed in and out, thread CPU clock, median of 11, tables given; and rows at a fixed rate,
   their error over that of the best step for all rows and of the best step for each. Checksums are
   of the bytes. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum { TURNS = 11, DIMS = 128, ROWS = 16384, COUNT = ROWS * DIMS };
enum { K_LAYERS = 2, K_HEADS = 3, K_TOKENS = 768, K_DIMS = 64, K_ROW = K_HEADS * K_DIMS };

static float x[COUNT], y[COUNT];
static uint8_t out[COUNT * 4 + 44];
static const lq_tables *tables;

static void must(int status, const char *what)
{
    if (status) {
        fprintf(stderr, "%s: %s\n", what, lq_status_string(status));
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double u, v;
    memcpy(&u, a, sizeof u);
    memcpy(&v, b, sizeof v);
    return (u > v) - (u < v);
}

static double median(double *t)
{
    qsort(t, TURNS, sizeof *t, compare);
    return t[TURNS / 2];
}

static double uniform(void)
{
    static uint64_t state = 1;
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) / 9007199254740992.0;
}

static double squares(const float *a, const float *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double e = (double)a[i] - (b ? (double)b[i] : 0);
        sum += e * e;
    }
    return sum;
}

/* In and out; prints a line. */
static void array(size_t rows, int quantizer, float bits, void *work, size_t work_bytes)
{
    size_t count = rows * DIMS, bytes = 0;
    double in[TURNS], back[TURNS], rate;
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    d.quantizer = quantizer;
    d.bits = bits;
    d.tables = tables;
    for (int i = 0; i < TURNS; i++) {
        double t = now();
        must(lq_compress(out, sizeof out, &bytes, x, rows, DIMS, LQ_F32, &d, work, work_bytes),
             "lq_compress");
        in[i] = now() - t;
        t = now();
        must(lq_decompress(y, sizeof y, LQ_F32, out, bytes, tables, work, work_bytes),
             "lq_decompress");
        back[i] = now() - t;
    }
    rate = 8.0 * (double)bytes / (double)count;
    printf("%6d x %d  %-11s %.4f bits  MSE*4^R %.4f  in %.2f  out %.2f GB/s of f32  %08x\n",
           (int)rows, DIMS, quantizer == LQ_Z ? "Z" : quantizer == LQ_D4 ? "D4" : "E8", rate,
           squares(x, y, count) / squares(x, NULL, count) * pow(4, rate),
           4e-9 * (double)count / median(in), 4e-9 * (double)count / median(back),
           (unsigned)lq_xxh32(out, bytes, 0));
}

/* One layer of the sample. */
static void keys(const uint16_t *k, const lq_rope *rope, float step, void *work, size_t work_bytes)
{
    static const lq_slice slices[K_HEADS] = {{0, 0, 0, K_DIMS, 0, 0}, {0, 1, 0, K_DIMS, 0, 0}, {0, 2, 0, K_DIMS, 0, 0}};
    static const uint32_t dims[K_HEADS] = {K_DIMS, K_DIMS, K_DIMS};
    static const lq_positions positions = {0, 1, NULL};
    static uint16_t rows[K_TOKENS * K_ROW];
    static uint8_t directory[1 << 16];
    lq_vectors src = {NULL, 0, LQ_F16};
    size_t bytes, t;
    lq_archive_writer_desc wd;
    memset(&wd, 0, sizeof wd);
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    lq_archive_pack_desc pd;
    memset(&pd, 0, sizeof pd);
    lq_compress_desc d;
    memset(&d, 0, sizeof d);
    const void *heads[K_HEADS];
    for (int h = 0; h < K_HEADS; h++) {
        const uint16_t *head = k + (size_t)h * K_TOKENS * K_DIMS;
        heads[h] = head;
        for (t = 0; t < K_TOKENS; t++) {
            memcpy(rows + t * K_ROW + h * K_DIMS, head + t * K_DIMS, K_DIMS * 2);
        }
    }
    wd.mem = out;
    wd.mem_bytes = sizeof out;
    wd.directory = directory;
    wd.directory_bytes = sizeof directory;
    group.stream = pd.geometry.stream = LQ_K;
    group.slices = slices;
    group.slice_count = K_HEADS;
    src.slices = heads;
    pd.tables = tables;
    pd.geometry.slice_count = K_HEADS;
    pd.geometry.slice_dims = dims;
    pd.geometry.rope = rope;
    pd.step = step;
    lq_archive_writer w;
    must(lq_archive_writer_init(&w, &wd), "writer");
    must(lq_archive_add_rope(&w, rope, &group.rope), "rope");
    must(lq_archive_add_group(&w, &group, &pd.group), "group");
    must(lq_archive_pack(&w, &pd, &src, &positions, K_TOKENS, work, work_bytes), "pack");
    must(lq_archive_finish(&w), "finish");
    d.tables = tables;
    d.rope = rope;
    d.head_dims = K_DIMS;
    d.step = step;
    must(lq_compress(out, sizeof out, &bytes, rows, K_TOKENS, K_ROW, LQ_F16, &d, work, work_bytes),
         "lq_compress");
    printf("keys, step %.2f: lq_archive_pack %lu bytes, lq_compress %lu: %+.2f %%\n", (double)step,
           (unsigned long)w.offset, (unsigned long)bytes,
           100.0 * ((double)bytes / (double)w.offset - 1));
}

static void sample(void *work, size_t work_bytes)
{
    static uint8_t raw[K_LAYERS * K_TOKENS * K_ROW * 2];
    static uint16_t k[K_LAYERS * K_TOKENS * K_ROW];
    static float freqs[K_DIMS / 2];
    lq_rope rope = {freqs, K_DIMS, LQ_ROPE_HALF, 0};
    FILE *file = fopen("tests/data/smollm2-135m-l10-l20-k.npy", "rb");
    if (!file || fseek(file, 128, SEEK_SET) || fread(raw, 1, sizeof raw, file) != sizeof raw) {
        printf("no sample: run from the repository's root\n");
        return;
    }
    (void)fclose(file);
    for (size_t i = 0; i < sizeof raw / 2; i++) {
        k[i] = (uint16_t)(raw[2 * i] | (uint32_t)raw[2 * i + 1] << 8);
    }
    for (size_t i = 0; i < K_DIMS / 2; i++) {
        freqs[i] = (float)pow(1e5, -(double)i / 32);
    }
    for (size_t i = 0; i < K_LAYERS; i++) {
        keys(k + i * K_TOKENS * K_ROW, &rope, 0.29f, work, work_bytes);
        keys(k + i * K_TOKENS * K_ROW, &rope, 0.57f, work, work_bytes);
    }
}

/* Error of the best of many steps for all of `count` numbers. */
static double best_step(size_t first, size_t count, int quantizer, int bits)
{
    double least = squares(x + first, NULL, count), step;
    for (step = bits == 8 ? 0.01 : 0.1; step < 2; step *= 1.03) {
        must(lq_fixed_encode(out, sizeof out, x + first, count, (float)step, quantizer, bits),
             "lq_fixed_encode");
        must(lq_fixed_decode(y, out, sizeof out, count, (float)step, quantizer, bits),
             "lq_fixed_decode");
        least = fmin(least, squares(x + first, y, count));
    }
    return least;
}

static void fixed_rows(int quantizer, int bits)
{
    const size_t few = 512;
    size_t row_bytes = lq_quantize_row_bytes(DIMS, quantizer, bits), r;
    double in[TURNS], back[TURNS], error, each = 0;
    for (int i = 0; i < TURNS; i++) {
        double t = now();
        must(lq_quantize(out, sizeof out, x, ROWS, DIMS, LQ_F32, quantizer, bits), "lq_quantize");
        in[i] = now() - t;
        t = now();
        must(lq_dequantize(y, sizeof y, LQ_F32, out, sizeof out, ROWS, DIMS, quantizer, bits),
             "lq_dequantize");
        back[i] = now() - t;
    }
    uint32_t sum = lq_xxh32(out, ROWS * row_bytes, 0);
    error = squares(x, y, few * DIMS);
    for (r = 0; r < few; r++) {
        each += best_step(r * DIMS, DIMS, quantizer, bits);
    }
    printf("rows of %s %d: MSE %.6f, over the best step %.3f, over the best of each row %.3f;  "
           "in %.2f  out %.2f G numbers/s  %08x\n",
           quantizer == LQ_Z ? "Z" : "E8", bits, error / (double)(few * DIMS),
           error / best_step(0, few * DIMS, quantizer, bits), error / each,
           1e-9 * COUNT / median(in), 1e-9 * COUNT / median(back), (unsigned)sum);
}

int main(void)
{
    size_t work_bytes = (size_t)1 << 25, i;
    void *work = malloc(work_bytes), *mem = malloc(lq_tables_bytes());
    must(lq_tables_init(&tables, mem, lq_tables_bytes()), "lq_tables_init");
#if defined(__VERSION__)
    printf("compiler %s, CPU level %d\n", __VERSION__, lq_cpu_level());
#endif
    for (i = 0; i < COUNT; i++) {
        x[i] = (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
    }
    array(1000, LQ_Z, 3, work, work_bytes);
    array(1000, LQ_D4, 3, work, work_bytes);
    array(1000, LQ_E8, 3, work, work_bytes);
    array(ROWS, LQ_Z, 3, work, work_bytes);
    array(ROWS, LQ_E8, 3, work, work_bytes);
    array(ROWS, LQ_Z, 4, work, work_bytes);
    sample(work, work_bytes);
    fixed_rows(LQ_E8, 4);
    fixed_rows(LQ_Z, 8);
    fixed_rows(LQ_Z, 4);
    fixed_rows(LQ_Z, 3);
    fixed_rows(LQ_Z, 2);
    free(work);
    free(mem);
    return 0;
}
