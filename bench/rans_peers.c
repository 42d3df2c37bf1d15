/* cc -O3 bench/rans_peers.c -o rans_peers -lhtscodecs -lm
   The entropy coder against htscodecs' 32-way rANS (Debian: libhtscodecs-dev), in one process on
   one core: thread CPU time, round-robin, medians of 15 rounds, both sides verified.
   Source: pages of 64 tokens by 192 coefficients, Gaussian rows, a class of its own for every row,
   sigma 6.7 down to 0.8 steps, median 2.2, rounded with Z's dead zone. htscodecs gets the same
   symbols as bytes in blocks of 1 MiB; it builds a table a block, we have a table a row. Msym/s is
   million coefficients a second.
   Then bytes of other kinds, 1 MiB each, pages of 64 tokens by 1024 rows: a table of counts (with
   its file), the best Gaussian class, and htscodecs at its widest; medians of 15. */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 199309L /* clock_gettime under -std=c99 */
#endif
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include <htscodecs/rANS_static4x16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PAGES = 256,
    BATCH = 8,
    ROWS = 192,
    ROOM = 8192, /* of a page's stream */
    SYMBOLS = PAGES * ROWS * 64,
    BLOCK = 1 << 20,
    ROUNDS = 15,
    RUNS = 24
};

typedef struct run {
    char name[40];
    double encode[ROUNDS];
    double decode[ROUNDS];
    size_t bytes;
    int ours;
    int option; /* CPU level, or the bits of rans_set_cpu */
    int quantizer;
    uint32_t checksum; /* of all streams */
} run;

static run runs[RUNS];
static int run_count;
static const lq_tables *tables;
static lq_rans_plan plans[5];
static uint8_t classes[ROWS];
static int16_t *values[5];
static int16_t *batch;
static uint8_t *symbols;
static uint8_t *streams;
static uint8_t *workspace;
static size_t workspace_bytes;

static uint64_t seed = 12345;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t random64(void)
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double gauss(void)
{
    double u = ((double)(random64() >> 11) + 0.5) / 9007199254740992.0;
    double v = (double)(random64() >> 11) / 9007199254740992.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static double sigma_of(int class_)
{
    return pow(2.0, (class_ - LQ_CLASS_ONE) / 8.0);
}

static void die(const char *what)
{
    fprintf(stderr, "rans_peers: %s\n", what);
    exit(1);
}

/* Integers of Z; for E8 those of its nearest points. */
static void make_values(int quantizer)
{
    int16_t *v = values[quantizer];
    for (size_t p = 0; p < PAGES; p++) {
        if (quantizer == LQ_Z) {
            for (size_t i = 0; i < ROWS; i++) {
                double sigma = sigma_of(classes[i]);
                double dead = lq__dead_zone_q12(tables, classes[i]) / 4096.0;
                for (size_t t = 0; t < 64; t++) {
                    double x = gauss() * sigma;
                    *v++ = (int16_t)(floor(fabs(x) + 0.5 - dead) * (x < 0 ? -1 : 1));
                }
            }
            continue;
        }
        for (size_t i = 0; i < ROWS; i += 8, v += 9 * 64) {
            for (size_t t = 0; t < 64; t++) {
                double x[8];
                double best = 1e9;
                for (int j = 0; j < 8; j++) {
                    x[j] = gauss() * sigma_of(classes[i + (size_t)j]);
                }
                for (int coset = 0; coset < 2; coset++) {
                    double z[8];
                    double sum = 0;
                    double error = 0;
                    double worst = -1;
                    int which = 0;
                    for (int j = 0; j < 8; j++) {
                        double y = x[j] - 0.5 * coset;
                        z[j] = floor(y + 0.5);
                        double d = fabs(y - z[j]);
                        sum += z[j];
                        error += d * d;
                        if (d > worst) {
                            worst = d;
                            which = j;
                        }
                    }
                    if (fmod(fabs(sum), 2) > 0.5) {
                        z[which] += x[which] - 0.5 * coset < z[which] ? -1 : 1;
                        error += 1 - 2 * worst;
                    }
                    if (error < best) {
                        best = error;
                        v[t] = (int16_t)coset;
                        for (int j = 0; j < 8; j++) {
                            v[(size_t)(j + 1) * 64 + t] = (int16_t)z[j];
                        }
                    }
                }
            }
        }
    }
}

static uint32_t checksum(const uint8_t *p, size_t n, uint32_t h)
{
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 16777619u; /* FNV-1a */
    }
    return h;
}

/* Both sides find their input in cache and write to a buffer that is used again: eight pages here,
   a block of 1 MiB there. Copies and checks are not timed. */
static void run_ours(run *r, int round)
{
    const lq_rans_plan *plan = &plans[r->quantizer];
    size_t count = plan->rows * 64;
    lq_cpu_limit(r->option);
    r->encode[round] = 0;
    r->decode[round] = 0;
    r->bytes = 0;
    r->checksum = 2166136261u;
    lq_rans_page pages[BATCH];
    for (size_t first = 0; first < PAGES; first += BATCH) {
        const int16_t *src = values[r->quantizer] + first * count;
        memset(pages, 0, sizeof pages);
        memcpy(batch, src, BATCH * count * 2);
        for (size_t i = 0; i < BATCH; i++) {
            pages[i].values = batch + i * count;
            pages[i].bytes = streams + i * ROOM;
            pages[i].bytes_count = ROOM;
            pages[i].tokens = 64;
        }
        double t = now();
        if (lq_rans_encode(tables, plan, pages, BATCH, workspace, workspace_bytes)) {
            die("encode");
        }
        r->encode[round] += now() - t;
        for (size_t i = 0; i < BATCH; i++) {
            r->checksum = checksum(pages[i].bytes, pages[i].written, r->checksum);
            pages[i].bytes_count = pages[i].written;
            r->bytes += pages[i].written;
        }
        t = now();
        if (lq_rans_decode(tables, plan, pages, BATCH, workspace, workspace_bytes)) {
            die("decode");
        }
        r->decode[round] += now() - t;
        if (memcmp(batch, src, BATCH * count * 2)) die("our round trip");
    }
    lq_cpu_limit(-1);
}

static void run_peer(run *r, int round, size_t all)
{
    static uint8_t block[BLOCK];
    rans_set_cpu(r->option);
    r->encode[round] = 0;
    r->decode[round] = 0;
    r->bytes = 0;
    r->checksum = 2166136261u;
    for (size_t i = 0; i < all; i += BLOCK) {
        unsigned count = (unsigned)(all - i < BLOCK ? all - i : BLOCK);
        unsigned size = rans_compress_bound_4x16(count, RANS_ORDER_X32);
        memcpy(block, symbols + i, count);
        double t = now();
        if (!rans_compress_to_4x16(block, count, streams, &size, RANS_ORDER_X32)) {
            die("htscodecs encode");
        }
        r->encode[round] += now() - t;
        r->checksum = checksum(streams, size, r->checksum);
        r->bytes += size;
        memset(block, 0, count);
        t = now();
        if (!rans_uncompress_to_4x16(streams, size, block, &count)) {
            die("htscodecs decode");
        }
        r->decode[round] += now() - t;
        if (memcmp(symbols + i, block, count)) die("htscodecs round trip");
    }
}

static void add(const char *name, int ours, int option, int quantizer)
{
    run *r = &runs[run_count++];
    snprintf(r->name, sizeof r->name, "%s", name);
    r->ours = ours;
    r->option = option;
    r->quantizer = quantizer;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x)
{
    qsort(x, ROUNDS, sizeof *x, compare);
    return x[ROUNDS / 2];
}

static void print_machine(void)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    const char *name = "unknown";
    while (f && fgets(line, sizeof line, f)) {
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            line[strcspn(line, "\n")] = 0;
            name = strchr(line, ':') + 2;
            break;
        }
    }
    printf("CPU %s, level %d; compiler %s%s; flags as in the first line of the source\n", name,
           lq_cpu_limit(-1),
#if defined(__clang__)
           "clang ", __clang_version__
#elif defined(__GNUC__)
           "gcc ", __VERSION__
#else
           "", "unknown"
#endif
    );
    if (f) fclose(f);
}

static void setup(void)
{
    static uint8_t plan_mem[2][ROWS * 64];
    void *mem = malloc(lq_tables_bytes());
    double t = now();
    if (!mem || lq_tables_init(&tables, mem, lq_tables_bytes())) die("tables");
    printf("tables: %.2f ms, %u bytes\n", 1e3 * (now() - t), (unsigned)lq_tables_bytes());
    for (size_t i = 0; i < ROWS; i++) {
        classes[i] =
            (uint8_t)(51 - 20 * i / ROWS + random64() % 5); /* sigma 6.7 .. 0.8 */
    }
    if (lq_rans_plan_init(&plans[LQ_Z], plan_mem[0], sizeof plan_mem[0], classes, ROWS, 0, LQ_Z) ||
        lq_rans_plan_init(&plans[LQ_E8], plan_mem[1], sizeof plan_mem[1], classes, ROWS, 0,
                          LQ_E8)) {
        die("plan");
    }
    workspace_bytes = lq_rans_workspace_bytes(plans[LQ_E8].rows, BATCH);
    workspace = (uint8_t *)malloc(workspace_bytes);
    streams = (uint8_t *)malloc(2 * BLOCK);
    batch = (int16_t *)malloc(BATCH * plans[LQ_E8].rows * 128);
    values[LQ_Z] = (int16_t *)malloc(PAGES * plans[LQ_Z].rows * 128);
    values[LQ_E8] = (int16_t *)malloc(PAGES * plans[LQ_E8].rows * 128);
    symbols = (uint8_t *)malloc(SYMBOLS);
    if (!workspace || !streams || !batch || !values[LQ_Z] || !values[LQ_E8] || !symbols) {
        die("memory");
    }
    make_values(LQ_Z);
    make_values(LQ_E8);
    for (size_t i = 0; i < SYMBOLS; i++) {
        symbols[i] = (uint8_t)(values[LQ_Z][i] + 128);
    }
}

/* ---- bytes that are not Gaussian ---- */
enum { KIND_ROWS = 1024, KIND_PAGES = BLOCK / (KIND_ROWS * 64) };

/* Of a kind into symbols; what it is called. */
static const char *make_kind(int kind)
{
    static const char *const name[6] = {"binary, 0.5",  "binary, 0.02", "uniform, 16",
                                        "Laplace, b 3", "Gaussian, 3",  "English text"};
    const char *const text[4] = {"bench/text/prose.txt", "text/prose.txt", "bench/text/code.txt",
                                 "text/code.txt"};
    size_t have = 0;
    for (size_t i = 0; i < BLOCK && kind < 5; i++) {
        double u = ((double)(random64() >> 11) + 0.5) / 9007199254740992.0;
        double x = kind == 0   ? u < 0.5
                   : kind == 1 ? u < 0.02
                   : kind == 2 ? floor(u * 16)
                   : kind == 3 ? floor(0.5 + 128 + 3 * (u < 0.5 ? log(2 * u) : -log(2 - 2 * u)))
                               : floor(128.5 + 3 * gauss());
        symbols[i] = (uint8_t)x;
    }
    for (size_t i = 0; i < 4 && kind == 5 && !have; i++) {
        FILE *f = fopen(text[i], "rb");
        have = f ? fread(symbols, 1, BLOCK, f) : 0;
        if (f) fclose(f);
    }
    for (size_t i = have; i < BLOCK && have; i++) {
        symbols[i] = symbols[i - have];
    }
    return kind < 5 || have ? name[kind] : NULL;
}

/* All pages of a plan: bytes, and the times of both ways. */
static size_t run_kind(const lq_tables *t, const lq_rans_plan *plan, const int16_t *src,
                       double *encode, double *decode)
{
    size_t ws_bytes = lq_rans_plan_workspace_bytes(plan, KIND_PAGES);
    size_t room = lq_rans_bound(KIND_ROWS, 64);
    uint8_t *ws = (uint8_t *)malloc(ws_bytes);
    uint8_t *bytes = (uint8_t *)malloc(KIND_PAGES * room);
    int16_t *back = (int16_t *)malloc(BLOCK * 2);
    size_t sum = 0;
    if (!ws || !bytes || !back) die("memory");
    memcpy(back, src, BLOCK * 2);
    lq_rans_page pages[KIND_PAGES];
    memset(pages, 0, sizeof pages);
    for (size_t i = 0; i < KIND_PAGES; i++) {
        pages[i].values = back + i * KIND_ROWS * 64;
        pages[i].bytes = bytes + i * room;
        pages[i].bytes_count = room;
        pages[i].tokens = 64;
    }
    double start = now();
    if (lq_rans_encode(t, plan, pages, KIND_PAGES, ws, ws_bytes)) die("encode");
    *encode = now() - start;
    for (size_t i = 0; i < KIND_PAGES; i++) {
        pages[i].bytes_count = pages[i].written;
        sum += pages[i].written;
    }
    memset(back, 0, BLOCK * 2);
    start = now();
    if (lq_rans_decode(t, plan, pages, KIND_PAGES, ws, ws_bytes)) die("decode");
    *decode = now() - start;
    if (memcmp(back, src, BLOCK * 2)) die("round trip of counts");
    free(ws);
    free(bytes);
    free(back);
    return sum;
}

/* The least bytes with any one class; the numbers' middle is 128 for bytes that have one. */
static size_t best_class(const int16_t *src, int middle)
{
    static uint8_t plan_mem[KIND_ROWS * 64];
    static uint8_t of_row[KIND_ROWS];
    int16_t *moved = (int16_t *)malloc(BLOCK * 2);
    size_t least = SIZE_MAX;
    if (!moved) die("memory");
    for (size_t i = 0; i < BLOCK; i++) {
        moved[i] = (int16_t)(src[i] - middle);
    }
    for (int class_ = 1; class_ < 90; class_++) {
        memset(of_row, class_, sizeof of_row);
        lq_rans_plan plan;
        if (lq_rans_plan_init(&plan, plan_mem, sizeof plan_mem, of_row, KIND_ROWS, KIND_ROWS,
                              LQ_Z)) {
            die("plan");
        }
        double times[2];
        size_t bytes = run_kind(tables, &plan, moved, &times[0], &times[1]);
        least = bytes < least ? bytes : least;
    }
    free(moved);
    return least;
}

static void run_kinds(void)
{
    static uint32_t counts_of[256];
    static uint8_t plan_mem[KIND_ROWS * 64];
    static run peer;
    int16_t *src = (int16_t *)malloc(BLOCK * 2);
    if (!src) die("memory");
    printf("%-14s %9s %9s %9s %9s   %s\n", "bytes of", "entropy", "counts", "class", "htscodecs",
           "Msym/s: counts encode, decode; htscodecs encode, decode");
    for (int kind = 0; kind < 6; kind++) {
        lq_histogram h = {counts_of, 256, 0};
        const char *name = make_kind(kind);
        double entropy = 0;
        size_t bytes = 0;
        memset(counts_of, 0, sizeof counts_of);
        for (size_t i = 0; i < BLOCK && name; i++) {
            src[i] = symbols[i];
            counts_of[symbols[i]]++;
        }
        if (!name) continue;
        for (size_t i = 0; i < 256; i++) {
            double p = counts_of[i] / (double)BLOCK;
            entropy -= p > 0 ? p * log2(p) * BLOCK / 8 : 0;
        }
        void *mem = malloc(lq_rans_counts_bytes(&h, 1));
        const lq_rans_counts *counts;
        lq_rans_plan plan;
        if (!mem || lq_rans_counts_init(&counts, mem, lq_rans_counts_bytes(&h, 1), &h, 1) ||
            lq_rans_plan_counts(&plan, plan_mem, sizeof plan_mem, counts, NULL, KIND_ROWS)) {
            die("counts");
        }
        peer.option = RANS_CPU_ENC_AVX512 | RANS_CPU_DEC_AVX512;
        double encode[ROUNDS];
        double decode[ROUNDS];
        for (int round = 0; round < ROUNDS; round++) {
            bytes = run_kind(NULL, &plan, src, &encode[round], &decode[round]);
            run_peer(&peer, round, BLOCK);
        }
        printf("%-14s %9.0f %9u %9u %9u   %.0f, %.0f; %.0f, %.0f\n", name, entropy,
               (unsigned)(bytes + lq_rans_counts_save_bytes(counts)),
               (unsigned)best_class(src, kind < 3 ? 0 : kind < 5 ? 128 : 100),
               (unsigned)peer.bytes, BLOCK / median(encode) * 1e-6, BLOCK / median(decode) * 1e-6,
               BLOCK / median(peer.encode) * 1e-6, BLOCK / median(peer.decode) * 1e-6);
        free(mem);
    }
    free(src);
}

int main(void)
{
    static const char *const level_name[3] = {"C", "AVX2", "AVX-512"};
    double best_encode = 1e9;
    double best_decode = 1e9;
    int levels = lq_cpu_limit(-1);
    print_machine();
    setup();
    char name[40];
    for (int i = 0; i <= levels; i++) {
        snprintf(name, sizeof name, "ours, Z, %s", level_name[i]);
        add(name, 1, i, LQ_Z);
        snprintf(name, sizeof name, "ours, E8, %s", level_name[i]);
        add(name, 1, i, LQ_E8);
    }
    add("htscodecs 32x16, scalar", 0, 0, 0);
    add("htscodecs 32x16, SSE4", 0, RANS_CPU_ENC_SSE4 | RANS_CPU_DEC_SSE4, 0);
    add("htscodecs 32x16, AVX2", 0, RANS_CPU_ENC_AVX2 | RANS_CPU_DEC_AVX2, 0);
    add("htscodecs 32x16, AVX-512", 0, RANS_CPU_ENC_AVX512 | RANS_CPU_DEC_AVX512, 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < run_count; i++) {
            if (runs[i].ours) {
                run_ours(&runs[i], round);
            } else {
                run_peer(&runs[i], round, SYMBOLS);
            }
            if (round == 0) {
                printf("  %-26s %9u bytes, %.4f bits a coefficient, checksum %08x\n", runs[i].name,
                       (unsigned)runs[i].bytes, 8.0 * (double)runs[i].bytes / SYMBOLS,
                       runs[i].checksum);
            }
        }
    }
    for (int i = 0; i < run_count; i++) {
        double e = median(runs[i].encode);
        double d = median(runs[i].decode);
        if (!runs[i].ours) {
            best_encode = e < best_encode ? e : best_encode;
            best_decode = d < best_decode ? d : best_decode;
        }
    }
    printf("%-28s %14s %8s %14s %8s\n", "median of 15", "encode Msym/s", "ratio", "decode Msym/s",
           "ratio");
    for (int i = 0; i < run_count; i++) {
        double e = runs[i].encode[ROUNDS / 2];
        double d = runs[i].decode[ROUNDS / 2];
        printf("%-28s %14.0f %8.2f %14.0f %8.2f\n", runs[i].name, SYMBOLS / e * 1e-6,
               best_encode / e, SYMBOLS / d * 1e-6, best_decode / d);
    }
    run_kinds();
    return 0;
}
