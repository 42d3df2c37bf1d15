/* cc -std=c99 -O2 tests/test_lm.c -o test_lm -lm -lpthread    Tests of examples/lm/lm.c. */

/* test_lm DIR [MODEL.gguf ...]: works in DIR, which must exist, on tiny random models of its own;
   with SmolLM2-135M-Instruct (Q4_1) or Qwen2.5-Coder-0.5B-Instruct (Q4_K_M) it also checks the
   numbers that an independent implementation gave. Bad input ends lm.c, so those runs are
   forked. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

int lm_main(int argc, char **argv);
int make_main(int argc, char **argv);

#define main lm_main
#include "../examples/lm/lm.c"
#undef main
#define main make_main
#include "make_gguf.c"
#undef main

#include "check.h"

#include <sys/resource.h>
#include <sys/wait.h>

enum { OUTPUT = 1 << 16 };

static char dir[200];
static char tiny[256];
static char text_path[256];
static char output[OUTPUT];
static char errors[OUTPUT];
static size_t output_bytes;
static size_t file_limit; /* a run that writes a longer file is killed there; 0: none */

/* ---- running lm ---- */

static void path_in(char *dst, size_t bytes, const char *name)
{
    (void)snprintf(dst, bytes, "%s/lm-test-%s", dir, name);
}

static int write_file(const char *path, const void *data, size_t count)
{
    FILE *file = fopen(path, "wb");
    int ok = file != NULL && fwrite(data, 1, count, file) == count;
    if (file != NULL && fclose(file) != 0) ok = 0;
    return ok;
}

static size_t read_file(const char *path, char *dst, size_t room)
{
    FILE *file = fopen(path, "rb");
    size_t n = file != NULL ? fread(dst, 1, room - 1, file) : 0;
    dst[n] = '\0';
    if (file != NULL) fclose(file);
    return n;
}

static void child(int argc, char **argv, const char *out, const char *err)
{
    struct rlimit limit;
    limit.rlim_cur = file_limit;
    limit.rlim_max = file_limit;
    if (file_limit > 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(98);
    if (freopen(out, "wb", stdout) == NULL || freopen(err, "wb", stderr) == NULL) {
        _exit(99);
    }
    int code = lm_main(argc, argv);
    exit(code);
}

/* Runs lm with the words of the line (separated by |); returns its exit code, or -1 for a signal.
   What it wrote is in output and errors. */
__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    static char line[4096];
    int argc = 0;
    int status = 0;
    va_list list;
    va_start(list, format);
    (void)vsnprintf(line, sizeof line, format, list);
    va_end(list);
    char *argv[40];
    argv[argc++] = dir;
    for (char *at = line; at != NULL && argc < 39; argc++) {
        char *bar = strchr(at, '|');
        argv[argc] = at;
        if (bar != NULL) *bar++ = '\0';
        at = bar;
    }
    argv[argc] = NULL;
    char out[256];
    path_in(out, sizeof out, "out");
    char err[256];
    path_in(err, sizeof err, "err");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) child(argc, argv, out, err);
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return -2;
    output_bytes = read_file(out, output, sizeof output);
    (void)read_file(err, errors, sizeof errors);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* One line that begins with the program's name, and exit code 1. */
static int refused(int code)
{
    size_t n = strlen(errors);
    int ok = code == 1 && strncmp(errors, "lm: ", 4) == 0 && n > 10 && errors[n - 1] == '\n' &&
             strchr(errors, '\n') == errors + n - 1;
    if (!ok) fprintf(stderr, "exit code %d, message: %s\n", code, errors);
    return ok;
}

/* ---- kernels ---- */

static uint32_t noise_state = 7;

static float noise(void)
{
    noise_state = noise_state * 1664525u + 1013904223u;
    return (float)(int32_t)noise_state * (1.0f / 2147483648.0f);
}

static void test_exp(void)
{
    double worst = 0.0;
    for (float x = -87.0f; x < 88.0f; x += 0.013f) {
        double error = fabs((double)lm_exp(x) / exp((double)x) - 1.0);
        worst = error > worst ? error : worst;
    }
    CHECK(worst < 3e-7);
    CHECK(lm_exp(-1e30f) > 0.0f && lm_exp(-1e30f) < 1e-37f);
    CHECK(lm_exp(0.0f) == 1.0f);
}

/* A matrix with an odd shape and an odd number of tokens. */
static void test_multiply(lm_pool *pool)
{
    enum { INPUTS = 37, OUTPUTS = 3 * LM_COLS + 5, TOKENS = 13 };
    static float weights[OUTPUTS][INPUTS], x[TOKENS][INPUTS], out[TOKENS][OUTPUTS];
    static float left[16 * INPUTS];
    double worst = 0.0;
    size_t t, i, j;
    lm_matrix w;
    w.outputs = OUTPUTS;
    w.inputs = INPUTS;
    w.panels = (float *)lm_alloc(lm_panels(&w) * LM_COLS, INPUTS * sizeof(float));
    w.bias = (float *)lm_alloc(OUTPUTS, sizeof(float));
    for (i = 0; i < OUTPUTS; i++) {
        w.bias[i] = noise();
        for (j = 0; j < INPUTS; j++) {
            weights[i][j] = noise();
            w.panels[(i / LM_COLS * INPUTS + j) * LM_COLS + i % LM_COLS] = weights[i][j];
        }
    }
    for (i = 0; i < TOKENS * INPUTS; i++) {
        x[i / INPUTS][i % INPUTS] = noise();
    }
    lm_product p;
    p.matrix = &w;
    p.out = out[0];
    p.stride = OUTPUTS;
    lm_multiply(pool, left, x[0], TOKENS, &p, 1);
    for (t = 0; t < TOKENS; t++) {
        for (i = 0; i < OUTPUTS; i++) {
            double sum = (double)w.bias[i];
            for (j = 0; j < INPUTS; j++) {
                sum += (double)weights[i][j] * (double)x[t][j];
            }
            worst = fabs(sum - (double)out[t][i]) > worst ? fabs(sum - (double)out[t][i]) : worst;
        }
    }
    CHECK(worst < 1e-5);
    lm_matrix_free(&w);
}

/* Attention of one query against stored keys and values, in double. */
static void attend_plain(const float *q, const float *k, const float *v, size_t keys, size_t stride,
                         size_t dim, double *out)
{
    double total = 0.0;
    size_t t, i;
    memset(out, 0, dim * sizeof *out);
    for (t = 0; t < keys; t++) {
        double dot = 0.0;
        for (i = 0; i < dim; i++) {
            dot += (double)q[i] * (double)k[t * stride + i];
        }
        dot = exp(dot / sqrt((double)dim));
        total += dot;
        for (i = 0; i < dim; i++) {
            out[i] += dot * (double)v[t * stride + i];
        }
    }
    for (i = 0; i < dim; i++) {
        out[i] /= total;
    }
}

/* Steps of 64, 64 and 23 tokens and then single ones; 4 heads over 2; `again` times.
   Returns the worst error. */
static double attention_error(lm_pool *pool, const char *spec, size_t dim, size_t again)
{
    enum { DIMS = 24, TOKENS = 154, HEADS = 4, KV = 2, STEPS = 6 };
    static float q[TOKENS * HEADS * DIMS], k[TOKENS * KV * DIMS], v[TOKENS * KV * DIMS];
    static float out[TOKENS * HEADS * DIMS];
    static const size_t steps[STEPS] = {64, 64, 23, 1, 1, 1};
    double worst = 0.0;
    size_t i, t, h, at;
    lm_geometry g;
    memset(&g, 0, sizeof g);
    lm_cache_desc d;
    memset(&d, 0, sizeof d);
    g.layers = 1;
    g.heads = HEADS;
    g.kv_heads = KV;
    g.head_dim = dim;
    d.spec = spec;
    d.capacity = TOKENS;
    for (i = 0; i < TOKENS * HEADS * DIMS; i++) {
        q[i] = 3.0f * noise();
        k[i % (TOKENS * KV * DIMS)] = noise();
        v[i % (TOKENS * KV * DIMS)] = noise();
    }
    lm_cache c;
    lm_cache_open(&c, &g, pool, &d);
    for (i = 0, at = 0; i<again * STEPS; at = ++i % STEPS> 0 ? at + steps[(i - 1) % STEPS] : 0) {
        size_t kv = at * KV * dim;
        size_t n = steps[i % STEPS];
        if (at == 0) c.reset(c.state);
        c.append(c.state, 0, k + kv, v + kv, at, n);
        c.attend(c.state, 0, q + 2 * kv, out + 2 * kv, at, n);
        c.end_step(c.state, at, n);
    }
    double want[DIMS];
    for (i = 0; i < TOKENS * HEADS; i++) {
        t = i / HEADS;
        h = i % HEADS;
        attend_plain(q + i * dim, k + h / 2 * dim, v + h / 2 * dim, t + 1, KV * dim, dim, want);
        for (at = 0; at < dim; at++) {
            double error = fabs(want[at] - (double)out[i * dim + at]);
            worst = error > worst ? error : worst;
        }
    }
    c.close(c.state);
    return worst;
}

static void test_attention(lm_pool *pool)
{
    double raw = attention_error(pool, "live:raw", 24, 2);
    double eight = attention_error(pool, "hot:8", 24, 1);
    double four = attention_error(pool, "hot:4", 16, 1);
    CHECK(attention_error(pool, NULL, 20, 1) < 2e-6);
    CHECK(raw < 2e-3 && eight < 0.03 && eight > raw && four > eight && four < 0.5);
    CHECK(attention_error(pool, "hot:e8/raw", 24, 2) > raw);
}

/* ---- the chunks that a codec gets ---- */

typedef struct spy {
    size_t positions[8];
    size_t tokens[8];
    size_t count;
    size_t finished;
    int queries_right;
} spy;

static const char *spy_code(void *state, lm_chunk *c, lm_bill *bill)
{
    spy *s = (spy *)state;
    s->positions[s->count] = c->position;
    s->tokens[s->count++] = c->tokens;
    for (size_t t = 0; t < c->tokens; t++) {
        float tag = (float)(c->position + t);
        s->queries_right &= c->q == NULL || c->q[(c->tokens + t) * 8] == -tag; /* second head */
        s->queries_right &= c->k[t * 8] == tag && c->v[t * 8 + 7] == tag;
        c->k[t * 8] = 0.0f;
    }
    bill->key_bytes += c->tokens;
    return NULL;
}

static const char *spy_finish(void *state, lm_bill *bill)
{
    ((spy *)state)->finished++;
    bill->shared_bytes += 5;
    return NULL;
}

/* Steps of 64, 64, 1, 1 and 30 tokens behind 4 sinks; the caller closes the cache. */
static lm_store *run_spy(spy *s, lm_cache *c, lm_pool *pool, size_t window, size_t chunk)
{
    static const size_t steps[] = {64, 64, 1, 1, 30};
    static float q[64 * 16], k[64 * 8], out[64 * 16];
    size_t i, t, at;
    memset(s, 0, sizeof *s);
    lm_geometry g;
    memset(&g, 0, sizeof g);
    s->queries_right = 1;
    g.layers = 1;
    g.heads = 2;
    g.kv_heads = 1;
    g.head_dim = 8;
    lm_cache_desc d;
    d.spec = "f32";
    d.capacity = 200;
    d.sinks = 4;
    d.window = window;
    d.chunk = chunk;
    d.prefix = 0;
    lm_store *store = lm_store_open(c, &g, pool, &d);
    store->codec.close(store->codec.state);
    store->codec.close = NULL;
    store->codec.state = s;
    store->codec.code = spy_code;
    store->codec.finish = spy_finish;
    if (window == 0) {
        store->chunk_q = (float *)lm_alloc(2 * LM_CHUNK, 8 * sizeof(float));
    }
    c->reset(c->state);
    for (i = 0, at = 0; i < 5; at += steps[i++]) {
        for (t = 0; t < steps[i]; t++) {
            k[t * 8] = (float)(at + t);
            k[t * 8 + 7] = (float)(at + t);
            q[t * 16 + 8] = -(float)(at + t);
        }
        c->append(c->state, 0, k, k, at, steps[i]);
        c->attend(c->state, 0, q, out, at, steps[i]);
        c->end_step(c->state, at, steps[i]);
    }
    return store;
}

static void test_chunks(lm_pool *pool)
{
    static const size_t ends[] = {32, 64, 96, 128, 160};
    spy s;
    lm_cache c;
    lm_store *store = run_spy(&s, &c, pool, 0, 0);
    c.flush(c.state);
    lm_tally tally;
    c.tally(c.state, &tally);
    CHECK(s.queries_right == 1);
    CHECK(s.count == 3 && s.positions[0] == 4 && s.tokens[0] == 60 && s.positions[1] == 64);
    CHECK(s.tokens[1] == 64 && s.positions[2] == 128 && s.tokens[2] == 32);
    CHECK(s.finished == 1 && tally.bill.key_bytes == 156 && tally.bill.shared_bytes == 5);
    CHECK(*lm__key(store, 0, 0, 3) == 3.0f && *lm__key(store, 0, 0, 4) == 0.0f);
    CHECK(tally.elements == 156 * 8);
    c.close(c.state);
    (void)run_spy(&s, &c, pool, 40, 32);
    CHECK(s.count == 3 && c.step == 32);
    c.flush(c.state);
    for (size_t i = 0; i < 5; i++) {
        CHECK(s.positions[i] == (i > 0 ? ends[i - 1] : 4));
        CHECK(s.positions[i] + s.tokens[i] == ends[i]);
    }
    CHECK(s.count == 5);
    c.close(c.state);
}

/* ---- tensor formats ---- */

typedef struct format_case {
    const char *name;
    float at[8];  /* elements 0, 1, 15, 16, 17, 31, items / 2 + 5, items - 1 */
    double sum;   /* of element i times i % 7 + 1 */
    size_t scale; /* where it stands, and whether a minimum follows */
    int minimum;
} format_case;

/* Blocks of bytes 37 i + 11 with scales 1/16 and 1/32, read by the `gguf` package of Python. */
static const format_case format_cases[] = {
    {"Q8_0", {5.3125f, 7.625f, -8.0f, -5.6875f, -3.375f, -3.0f, 5.875f, -3.0f}, -38.625, 0, 0},
    {"Q4_0", {-0.1875f, 0.125f, -0.5f, -0.1875f, -0.0625f, 0.0f, -0.5f, 0.0f}, 1.75, 0, 0},
    {"Q4_1",
     {0.96875f, 0.28125f, 0.65625f, 0.59375f, 0.78125f, 0.78125f, 0.34375f, 0.78125f},
     59.8125,
     0,
     1},
    {"Q5_0", {0.5625f, -0.125f, -0.75f, 0.875f, 0.0f, 0.0625f, -0.375f, 0.0625f}, 7, 0, 0},
    {"Q5_1",
     {1.21875f, 1.53125f, 1.90625f, 1.21875f, 0.34375f, 0.34375f, 1.90625f, 0.34375f},
     117,
     0,
     1},
    {"Q4_K",
     {19.71875f, -1.59375f, 10.03125f, 19.71875f, -1.59375f, 10.03125f, 9.375f, 3.03125f},
     13134.3125,
     0,
     1},
    {"Q2_K",
     {2.0625f, 0.0f, 1.375f, -0.09375f, -0.09375f, -0.09375f, -0.09375f, 0.28125f},
     501.96875,
     80,
     1},
    {"Q3_K", {5.0625f, -6.75f, -3.375f, -6.0f, 8.0f, 4.0f, 0.5f, 2.625f}, 185.25, 108, 0},
    {"Q5_K",
     {50.71875f, -1.59375f, 10.03125f, 50.71875f, -1.59375f, 10.03125f, 48.375f, 6.78125f},
     28709.8125,
     0,
     1},
    {"Q6_K", {-89.4375f, 106.0f, -19.875f, -27.0f, 32.0f, -6.0f, 22.75f, -3.75f}, 617.3125, 208, 0},
};

static void test_format(const format_case *want)
{
    static const size_t places[] = {0, 1, 15, 16, 17, 31, 0, 0};
    double sum = 0.0;
    const lm_format *f = lm_formats;
    while (strcmp(f->name, want->name) != 0) {
        f++;
    }
    uint8_t block[256];
    for (size_t i = 0; i < f->bytes; i++) {
        block[i] = (uint8_t)(37 * i + 11);
    }
    memcpy(block + want->scale, "\x00\x2c", 2);
    if (want->minimum) memcpy(block + want->scale + 2, "\x00\x28", 2);
    float x[256];
    f->decode(x, block);
    for (size_t i = 0; i < 8; i++) {
        size_t place = i < 6 ? places[i] : i == 6 ? f->items / 2 + 5 : f->items - 1;
        CHECK(x[place] == want->at[i]);
    }
    for (size_t i = 0; i < f->items; i++) {
        sum += (double)x[i] * (double)(i % 7 + 1);
    }
    CHECK(sum == want->sum);
}

static void test_small_formats(void)
{
    float x;
    lm__block_f32(&x, (const uint8_t *)"\x00\x00\x20\xc1");
    CHECK(x == -10.0f);
    lm__block_f16(&x, (const uint8_t *)"\x00\xc9");
    CHECK(x == -10.0f);
    lm__block_bf16(&x, (const uint8_t *)"\x20\xc1");
    CHECK(x == -10.0f);
}

/* ---- cutting text ---- */

typedef struct piece_case {
    const char *text;
    const char *pieces[4]; /* lengths in letters ('b' is 2): GPT-2, SmolLM2, Llama 3, Qwen 2 */
} piece_case;

/* Lengths that the `tokenizers` package of Python gave. */
static const piece_case piece_cases[] = {
    {"Hello there, it's 2023!", {"efacbea", "efacbaaaaaa", "efacbacaa", "efacbaaaaaa"}},
    {"a  12\n\n x", {"aacbb", "abaabb", "aaabbb", "aaaaabb"}},
    {"DON'T don't", {"caadb", "caadb", "cbdb", "cbdb"}},
    {"x\t\ty z  ", {"aaaabb", "aaaabb", "aabbb", "aabbb"}},
    {"3.14 + \xc2\xbd", {"aabbc", "aaaabab", "aabbab", "aaaabab"}},
    {"\xe4\xb8\xad\xe6\x96\x87 caf\xc3\xa9", {"ff", "ff", "ff", "ff"}},
    {"1234567\r\n  end", {"gcd", "aaaaaaacd", "ccabad", "aaaaaaabad"}},
};

static void cut(int pre, const char *text, char *lengths)
{
    const uint8_t *s = (const uint8_t *)text;
    size_t count = strlen(text);
    size_t at = 0;
    while (at < count) {
        size_t limit = lm__stretch(pre, s, count, at);
        size_t n = lm__piece(pre, s + at, limit - at);
        *lengths++ = (char)('a' + n - 1);
        at += n;
    }
    *lengths = '\0';
}

static void test_cutting(void)
{
    char lengths[256];
    for (size_t i = 0; i < sizeof piece_cases / sizeof piece_cases[0]; i++) {
        for (int pre = 0; pre < 4; pre++) {
            cut(pre, piece_cases[i].text, lengths);
            if (!CHECK(strcmp(lengths, piece_cases[i].pieces[pre]) == 0)) {
                fprintf(stderr, "  case %zu, rule %d: %s\n", i, pre, lengths);
            }
        }
    }
}

static void test_tokens(void)
{
    static const uint32_t want[] = {261, 'b', 259, 264, 'x', 257};
    static const char text[] = " theband<|im_end|>xthe";
    lm_gguf g;
    lm_tokens ids = {NULL, 0, 0};
    lm_gguf_open(&g, tiny);
    lm_vocab v;
    lm_vocab_open(&v, &g, NULL);
    lm_encode(&v, (const uint8_t *)text, sizeof text - 1, &ids);
    CHECK(ids.count == 6 && memcmp(ids.id, want, sizeof want) == 0);
    free(ids.id);
    memset(&ids, 0, sizeof ids);
    for (size_t i = 0; i < 60000; i++) { /* one long word */
        output[i] = "thean"[i % 5];
    }
    lm_encode(&v, (const uint8_t *)output, 60000, &ids);
    CHECK(ids.count == 24000 && ids.id[0] == 257 && ids.id[1] == 258);
    ids.count = 0;
    lm__encode_piece(&v, (const uint8_t *)"<|end|>", 7, &ids);
    v.pre = LM_PRE_LLAMA3; /* a piece that is a token, although no merges lead to it */
    lm__encode_piece(&v, (const uint8_t *)"<|end|>", 7, &ids);
    CHECK(ids.count == 8 && ids.id[7] == 262);
    free(ids.id);
    lm_vocab_close(&v);
    lm_gguf_close(&g);
}

/* The ids of a text as that pre-tokenizer of the file gives them. */
static int encodes(const char *twist, const char *pre, const char *text, const char *want)
{
    char path[256];
    lm_tokens ids = {NULL, 0, 0};
    path_in(path, sizeof path, "bos.gguf");
    CHECK(make_file(path, "F32", twist));
    lm_gguf g;
    lm_gguf_open(&g, path);
    lm_vocab v;
    lm_vocab_open(&v, &g, pre);
    lm_encode(&v, (const uint8_t *)text, strlen(text), &ids);
    output[0] = '\0';
    for (size_t i = 0; i < ids.count; i++) {
        (void)snprintf(output + strlen(output), 16, "%u ", ids.id[i]);
    }
    int ok = strcmp(output, want) == 0;
    if (!ok) {
        fprintf(stderr, "  '%s' of '%s', %s: %s\n", text, twist, pre ? pre : "its own", output);
    }
    free(ids.id);
    lm_vocab_close(&v);
    lm_gguf_close(&g);
    (void)remove(path);
    return ok;
}

static void test_bos(void)
{
    static const char *const names[] = {"llama-bpe", "llama3", "llama-v3",
                                        "qwen2",     "smollm", "gpt-2"};
    for (size_t i = 0; i < 6; i++) { /* the file does not say: Llama 3 only */
        CHECK(encodes("llama3", names[i], "the", i < 3 ? "262 257 " : "257 "));
    }
    CHECK(encodes("", "llama-bpe", "the", "257 ")); /* the file says no */
    CHECK(encodes("bos-key", NULL, "the", "262 257 "));
    CHECK(encodes("bos-key", NULL, "<|end|>the", "262 257 "));
    CHECK(encodes("bos-key", NULL, "<|end|><|end|>", "262 262 "));
    CHECK(encodes("bos-key", NULL, "the<|end|>", "262 257 262 "));
    CHECK(encodes("bos-key", NULL, "<|im_end|>", "262 264 "));
    CHECK(encodes("bos-key", NULL, "", "262 "));
    CHECK(encodes("", NULL, "<|end|>the", "262 257 "));
    CHECK(encodes("", NULL, "", ""));
    CHECK(encodes("whole", NULL, "the the", "262 257 261 ")); /* no merge leads to " the" */
    CHECK(encodes("whole", "qwen2", "the the", "257 32 257 "));
}

/* ---- RoPE ---- */

static void test_rope(void)
{
    static const size_t pairs[] = {0, 3, 8, 12, 16, 20, 31};
    static const float yarn[] = {1.0f,          0.42169651f,    0.071153842f,  0.015203258f,
                                 0.0024999999f, 0.00079056947f, 3.3338038e-05f};
    char path[256];
    path_in(path, sizeof path, "rope.gguf");
    CHECK(make_file(path, "F32", "yarn"));
    lm_model m;
    lm_model_open(&m, path, 1, 0);
    for (size_t i = 0; i < 7; i++) { /* the `transformers` package of Python */
        CHECK(fabsf(m.rope[pairs[i]] / yarn[i] - 1.0f) < 1e-5f);
    }
    CHECK(fabsf(m.g.rope_magnitude - 1.1386294f) < 1e-6f);
    lm_model_close(&m);
    CHECK(make_file(path, "F32", "linear"));
    lm_model_open(&m, path, 1, 0);
    CHECK(fabsf(m.rope[0] - 0.25f) < 1e-7f && fabsf(m.rope[16] - 0.0025f) < 1e-8f);
    CHECK(m.g.rope_magnitude == 1.0f);
    lm_model_close(&m);
    CHECK(lm__file_row(64, 64, 64) == 64 && lm__file_row(65, 64, 64) == 66);
    CHECK(lm__file_row(96, 64, 64) == 65 && lm__file_row(70, 64, 0) == 70);
    CHECK(lm__file_row(63, 64, 32) == 63 && lm__file_row(16, 64, 32) == 1);
    (void)remove(path);
}

/* ---- other architectures ---- */

typedef struct model_case {
    const char *twist;
    uint32_t first;
    float logits[5]; /* of tokens 0, 97, 116, 259, 264 behind 128 */
} model_case;

/* Models of make_gguf.c as `transformers` ran them in float32, built by hand from the same weights
   (Llama, Qwen2 and Qwen3ForCausalLM). Over all 128 x 265 logits lm.c was within 1.3e-4. */
static const model_case model_cases[] = {
    {"", 257, {-14.59453f, 6.84929f, 5.53103f, 25.56236f, -3.3456f}},
    {"biased", 257, {-8.64085f, -2.98745f, 7.48639f, 13.79335f, -3.79452f}},
    {"qwen2", 257, {-6.78917f, -3.36235f, 10.35305f, 14.96515f, -4.70868f}},
    {"qwen3", 257, {-11.52588f, 2.59973f, 1.33967f, 21.73587f, -0.04677f}},
    {"linear", 257, {-14.41549f, 6.85607f, 5.85234f, 25.71861f, -3.53656f}},
    {"scale-linear", 257, {-14.41549f, 6.85607f, 5.85234f, 25.71861f, -3.53656f}},
    {"yarn", 257, {-13.85585f, 6.77143f, 5.84648f, 25.76134f, -3.90301f}},
    {"yarn-own", 257, {-15.18093f, 6.77511f, 5.50355f, 24.97003f, -3.23811f}},
    {"freqs", 257, {-14.60558f, 6.831f, 5.34903f, 25.63836f, -3.30403f}},
    {"llama3", 262, {-9.34238f, -12.54417f, -0.82083f, -20.78621f, -22.95585f}},
};

/* What stands in the file of that name, as tokens; the caller frees both. */
static lm_tokens open_model(lm_model *m, const char *path, const char *text, int as_in_file)
{
    lm_options o;
    memset(&o, 0, sizeof o);
    o.model = path;
    o.text = text;
    o.order = as_in_file ? "gguf" : "half";
    o.threads = 2;
    lm_open_model(m, &o);
    lm_tokens ids = lm_read_text(m, &o);
    lm_model_load(m);
    return ids;
}

static void test_model(const model_case *want, int as_in_file)
{
    static const size_t places[5] = {0, 97, 116, 259, 264};
    static float logits[MAKE_TOKENS];
    char path[256];
    path_in(path, sizeof path, "case.gguf");
    char text[256];
    path_in(text, sizeof text, "case.txt");
    for (size_t i = 0; i < 600; i++) {
        output[i] = "the sand and the tide, then another 12 hands\n"[i % 45];
    }
    CHECK(write_file(text, output, 600) && make_file(path, "F32", want->twist));
    lm_model m;
    lm_tokens ids = open_model(&m, path, text, as_in_file);
    CHECK(ids.count > 128 && ids.id[0] == want->first);
    lm_cache c;
    (void)lm_store_raw(&c, &m.g, &m.pool, 128);
    lm_forward(&m, &c, ids.id, 0, 64);
    lm_forward(&m, &c, ids.id + 64, 64, 64);
    lm_logits(&m, logits, 63, 1);
    for (size_t i = 0; i < 5; i++) {
        if (!CHECK(fabsf(logits[places[i]] - want->logits[i]) < 1e-3f)) {
            fprintf(stderr, "  model '%s', order %d: %g, not %g\n", want->twist, as_in_file,
                    (double)logits[places[i]], (double)want->logits[i]);
        }
    }
    c.close(c.state);
    free(ids.id);
    lm_model_close(&m);
    CHECK(remove(path) == 0 && remove(text) == 0);
}

static void test_models(void)
{
    for (size_t i = 0; i < sizeof model_cases / sizeof model_cases[0]; i++) {
        test_model(&model_cases[i], 0);
        test_model(&model_cases[i], 1);
    }
}

/* ---- rivals ---- */

static void test_rivals(void)
{
    static float x[64 * 64], y[64 * 64];
    size_t c, i;
    int e, m, s;
    for (i = 0; i < 64 * 64; i++) {
        x[i] = noise() + noise() + noise();
    }
    for (c = 0; c < RV_CODEC_COUNT; c++) {
        for (s = RV_KEY; s <= RV_VALUE; s++) {
            double error = 0.0;
            double power = 0.0;
            double rate = (double)rv_codecs[c].bits(64, 64, s) / (64 * 64);
            rv_codecs[c].round_trip(y, x, 64, 64, s);
            for (i = 0; i < 64 * 64; i++) {
                error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
                power += (double)x[i] * (double)x[i];
            }
            CHECK(error / power < 3.0 * pow(4.0, 1.0 - rate) + 0.001 && rate < 9.0);
        }
    }
    for (e = -9; e < 9; e++) { /* every e4m3 value is its own nearest */
        for (m = 8; m < 16; m++) {
            float value = ldexpf((float)m / 8.0f, e);
            int exact = e >= -6 || m % (1 << (-6 - e)) == 0;
            CHECK((rv__through_e4m3(value) == value) == (exact && value <= 448.0f));
        }
    }
    x[0] = -8.0f;
    for (i = 1; i < 32; i++) {
        x[i] = (float)(i % 16) - 8.0f;
    }
    rv_q4_0(y, x, 1, 32, RV_KEY);
    CHECK(memcmp(x, y, 32 * sizeof *x) == 0);
    x[3] = 1e30f;
    x[5] = -1e38f;
    x[7] = 0.0f;
    x[7] /= x[7];
    for (c = 0; c < RV_CODEC_COUNT; c++) { /* nothing to compare: it must only not trap */
        rv_codecs[c].round_trip(y, x, 3, 20, RV_KEY);
    }
    CHECK(rv_find("q4_0") != NULL && rv_find("q4") == NULL);
}

/* ---- whole runs on the tiny model ---- */

static double field(const char *line, const char *key)
{
    char quoted[64];
    (void)snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = line != NULL ? strstr(line, quoted) : NULL;
    return at != NULL ? strtod(at + strlen(quoted), NULL) : -1e9;
}

/* The line of the last run's JSON that is about this codec. */
static const char *line_of(const char *codec)
{
    char key[64];
    (void)snprintf(key, sizeof key, "{\"codec\":\"%s\"", codec);
    return strstr(output, key);
}

static void test_eval(void)
{
    static const char eval[] = "eval|f32|f16|q8_0|q4_0|f32/q4_0|--json|--text|%s|--model|%s"
                               "|--tokens|150|--passages|2|%s|%s";
    static char first[OUTPUT];
    CHECK(run(eval, text_path, tiny, "--threads", "2") == 0);
    double ppl = field(output, "raw_ppl");
    CHECK(ppl > 1.0 && ppl < 1e6);
    CHECK(field(line_of("f32"), "kld") == 0.0 && field(line_of("f32"), "top1") == 1.0);
    CHECK(field(line_of("f32"), "bits") == 32.0 && field(line_of("f16"), "bits") == 16.0);
    CHECK(field(line_of("q4_0"), "bits_k") == 4.5 && field(line_of("f32/q4_0"), "bits") == 18.25);
    CHECK(field(line_of("f16"), "kld") < field(line_of("q8_0"), "kld") + 1e-7);
    CHECK(field(line_of("q8_0"), "kld") < field(line_of("q4_0"), "kld"));
    CHECK(field(line_of("f32/q4_0"), "kld") > 0.0);
    memcpy(first, output, sizeof first);
    CHECK(run(eval, text_path, tiny, "--threads", "1") == 0);
    CHECK(field(output, "raw_ppl") == field(first, "raw_ppl"));
    CHECK(field(line_of("q4_0"), "kld") == field(strstr(first, "{\"codec\":\"q4_0\""), "kld"));
    CHECK(run(eval, text_path, tiny, "--order", "gguf") == 0);
    CHECK(fabs(field(output, "raw_ppl") / ppl - 1.0) < 1e-4);
    CHECK(field(line_of("q4_0"), "kld") != field(strstr(first, "{\"codec\":\"q4_0\""), "kld"));
    CHECK(run("eval|--text|%s|--model|%s|--tokens|64|--passages|1", text_path, tiny) == 0);
    CHECK(strstr(output, "| kivi2 ") != NULL && strstr(output, "| hq4_0 ") != NULL);
}

static void test_generate(void)
{
    static char first[OUTPUT];
    CHECK(run("generate|sand|--count|90|--model|%s", tiny) == 0);
    CHECK(strncmp(output, "sand", 4) == 0 && strlen(output) >= 90);
    memcpy(first, output, sizeof first);
    CHECK(run("generate|sand|--count|90|--model|%s|--kv|f32|--threads|1", tiny) == 0);
    CHECK(strcmp(first, output) == 0);
    CHECK(run("generate|sand|--count|90|--model|%s|--kv|tq3", tiny) == 0);
    CHECK(run("generate|the|--count|20|--model|%s|--temperature|2|--seed|5", tiny) == 0);
    memcpy(first, output, sizeof first);
    CHECK(run("generate|the|--count|20|--model|%s|--temperature|2|--seed|5", tiny) == 0);
    CHECK(strcmp(first, output) == 0);
    CHECK(run("generate|the|--count|20|--model|%s|--temperature|2|--seed|6", tiny) == 0);
    CHECK(strcmp(first, output) != 0);
    CHECK(run("generate|hi|--chat|--count|5|--model|%s", tiny) == 0);
    CHECK(run("generate|the|--count|10000|--model|%s", tiny) == 0);
}

/* KLD of the tail by this file's own means: the prefix's keys and values through q4_0, all but 4
   sinks; distributions in double. */
static double resumed_kld(lm_model *m, const uint32_t *ids, const uint32_t *tail, size_t prefix)
{
    float *logits = (float *)lm_alloc(2 * 64, m->vocab * sizeof *logits);
    double total = 0.0;
    float k[64], v[64];
    size_t t, i, run;
    lm_cache c[2];
    for (i = 0; i < 2; i++) {
        lm_store *s = lm_store_raw(&c[i], &m->g, &m->pool, prefix + 64);
        for (t = 0; t < prefix; t += 64) {
            lm_forward(m, &c[i], ids + t, t, 64);
        }
        for (t = 4; t < prefix && i > 0; t++) {
            for (run = 0; run < m->g.layers * m->g.kv_heads; run++) {
                lm__get(s, run / m->g.kv_heads, run % m->g.kv_heads, t, k, v);
                rv_q4_0(k, k, 1, 64, RV_KEY);
                rv_q4_0(v, v, 1, 64, RV_VALUE);
                lm__put(s, run / m->g.kv_heads, run % m->g.kv_heads, t, k, v);
            }
        }
        lm_forward(m, &c[i], tail, prefix, 64);
        lm_logits(m, logits + i * 64 * m->vocab, 0, 64);
        c[i].close(c[i].state);
    }
    for (t = 0; t < 64; t++) {
        const float *x = logits + t * m->vocab;
        const float *y = logits + (64 + t) * m->vocab;
        double sum[2] = {0.0, 0.0};
        for (i = 0; i < m->vocab; i++) {
            sum[0] += exp((double)x[i]);
            sum[1] += exp((double)y[i]);
        }
        for (i = 0; i < m->vocab; i++) {
            double p = exp((double)x[i]) / sum[0];
            total += p * ((double)x[i] - (double)y[i] - log(sum[0] / sum[1]));
        }
    }
    free(logits);
    return total / 64.0;
}

static void test_resumed(void)
{
    static const char eval[] = "eval|f32|q8_0|q4_0|live:raw|hot:8|hot:4|hot:e8|live:8/raw"
                               "|--json|--text|%s|--model|%s|--resume|320:64|--passages|1|%s|%s";
    double want, again, ppl, raw, eight;
    lm_model m;
    lm_tokens ids = open_model(&m, tiny, text_path, 0);
    want = resumed_kld(&m, ids.id, ids.id + 320, 320);
    again = resumed_kld(&m, ids.id, ids.id + 200, 320);
    CHECK(run(eval, text_path, tiny, "--threads", "2") == 0);
    ppl = field(output, "raw_ppl");
    CHECK(field(output, "prefix") == 320.0 && field(output, "tokens") == 384.0);
    CHECK(want > 0.0 && fabs(field(line_of("q4_0"), "kld") / want - 1.0) < 0.01);
    CHECK(field(line_of("f32"), "kld") == 0.0 && field(line_of("f32"), "top1") == 1.0);
    CHECK(field(line_of("q4_0"), "bits") == 4.5 && field(line_of("f32"), "bits") == 32.0);
    raw = field(line_of("live:raw"), "kld");
    eight = field(line_of("hot:8"), "kld");
    CHECK(raw >= 0.0 && raw < 1e-6 && eight > raw && eight < want / 16.0);
    CHECK(field(line_of("hot:4"), "kld") < want && field(line_of("hot:e8"), "kld") < want);
    CHECK(field(line_of("hot:4"), "bits_k") > 4.0 && field(line_of("hot:4"), "bits") < 5.0);
    CHECK(run(eval, text_path, tiny, "--repeat", "--threads|1") == 0);
    CHECK(fabs(field(line_of("q4_0"), "kld") / again - 1.0) < 0.01 && again != want);
    CHECK(field(output, "repeat") == 1.0 && field(output, "raw_ppl") != ppl);
    CHECK(run("eval|hot:4|--text|%s|--model|%s|--resume|100:70|--passages|3|--sinks|0", text_path,
              tiny) == 0);
    CHECK(strstr(output, "3 x 70 tokens") != NULL && strstr(output, "prefix of 100") != NULL);
    free(ids.id);
    lm_model_close(&m);
}

/* A prefix of 100 tokens behind 4 sinks: 32 tokens more fill the last page, and nothing else. */
static void test_resumed_live(void)
{
    static const char *const specs[] = {"hot:4", "live:z:k=0.2,v=0.3", "q4_0"};
    lm_model m;
    lm_tokens ids = open_model(&m, tiny, text_path, 0);
    for (size_t i = 0; i < 3; i++) {
        size_t numbers = m.g.layers * m.g.kv_heads * m.g.head_dim;
        lm_cache raw, c;
        lm_cache_desc d;
        memset(&d, 0, sizeof d);
        d.capacity = 164;
        d.sinks = 4;
        (void)lm_store_open(&raw, &m.g, &m.pool, &d);
        d.spec = specs[i];
        d.prefix = 100;
        lm_cache_open(&c, &m.g, &m.pool, &d);
        raw.reset(raw.state);
        c.reset(c.state);
        lm_forward(&m, &raw, ids.id, 0, 64);
        lm_forward(&m, &raw, ids.id + 64, 64, 64);
        lm_forward(&m, &raw, ids.id + 128, 128, 36);
        c.take(c.state, (const lm_store *)raw.state, 164);
        lm_forward(&m, &c, ids.id + 100, 100, 28);
        lm_forward(&m, &c, ids.id + 128, 128, 36);
        c.flush(c.state);
        lm_tally tally;
        c.tally(c.state, &tally);
        CHECK(tally.elements == (i < 2 ? 128 : 96) * numbers);
        c.close(c.state);
        raw.close(raw.state);
    }
    free(ids.id);
    lm_model_close(&m);
}

static void test_live_eval(void)
{
    static const char eval[] =
        "eval|q4_0|hot:8|hot:6|hot:5|hot:4|hot:4/8|hot:e8|live:raw"
        "|live:8/raw|--json|--text|%s|--model|%s|--tokens|196|--passages|1|%s|%s";
    static char first[OUTPUT];
    double raw, eight, four;
    CHECK(run(eval, text_path, tiny, "--threads", "1") == 0);
    raw = field(line_of("live:raw"), "kld");
    eight = field(line_of("hot:8"), "kld");
    four = field(line_of("hot:4"), "kld");
    CHECK(raw >= 0.0 && raw < 1e-6 && field(line_of("live:raw"), "top1") == 1.0);
    CHECK(eight < 1e-5 && four > eight && four < 0.01 && field(line_of("hot:e8"), "kld") < 0.01);
    CHECK(field(line_of("hot:6"), "kld") > eight && field(line_of("hot:5"), "kld") < four);
    CHECK(field(line_of("hot:6"), "kld") < field(line_of("hot:5"), "kld"));
    CHECK(field(line_of("hot:6"), "bits_k") - field(line_of("hot:4"), "bits_k") == 2.0);
    CHECK(field(line_of("hot:8"), "top1") > 0.95 && field(line_of("hot:4"), "top1") > 0.8);
    CHECK(field(line_of("live:raw"), "bits") >= 16.0 && field(line_of("live:raw"), "bits") < 17.0);
    CHECK(field(line_of("live:8/raw"), "bits_v") == field(line_of("live:raw"), "bits_v"));
    CHECK(field(line_of("live:8/raw"), "bits_k") == field(line_of("hot:8"), "bits_k"));
    CHECK(field(line_of("hot:4/8"), "bits_v") == field(line_of("hot:8"), "bits_v"));
    CHECK(field(line_of("hot:4"), "bits_k") > 4.0 && field(line_of("hot:4"), "bits_k") < 5.0);
    memcpy(first, output, sizeof first);
    CHECK(run("eval|hot:4|--json|--text|%s|--model|%s|--tokens|196|--passages|1", text_path,
              tiny) == 0);
    CHECK(field(line_of("hot:4"), "kld") == four);
    CHECK(run(eval, text_path, tiny, "--chunk", "8") == 0);
    CHECK(field(line_of("hot:4"), "kld") > four);
    CHECK(field(line_of("hot:4"), "bits") == field(strstr(first, "{\"codec\":\"hot:4\""), "bits"));
    CHECK(run(eval, text_path, tiny, "--window", "100") == 0);
    CHECK(field(line_of("hot:4"), "kld") < four);
    CHECK(field(line_of("q4_0"), "kld") < field(strstr(first, "{\"codec\":\"q4_0\""), "kld"));
    CHECK(run("eval|hot|--text|%s|--model|%s|--tokens|64|--passages|1", text_path, tiny) == 0);
    CHECK(strstr(output, "| hot ") != NULL);
}

/* ---- sessions ---- */

static char session[256];
static char profile[256];

/* Whether two files hold the same bytes. */
static int same_files(const char *a, const char *b)
{
    static char x[1 << 21], y[1 << 21];
    size_t n = read_file(a, x, sizeof x);
    return n > 0 && n + 1 < sizeof x && read_file(b, y, sizeof y) == n && memcmp(x, y, n) == 0;
}

/* Up to 120 tokens in one go, and the same in two runs with a session between them. Returns how
   many the second one wrote: the model may end its text before. */
static double check_resumed(const char *prompt, const char *spec, const char *options)
{
    static const char go[] = "generate|%s|--count|%d|--model|%s|--kv|%s|%s|--json%s%s";
    static char whole[OUTPUT], halves[OUTPUT];
    size_t whole_bytes, half;
    double all, before, after;
    CHECK(run(go, prompt, 120, tiny, spec, options, "", "") == 0);
    all = field(errors, "tokens");
    CHECK(field(errors, "kv_tokens") > all && field(errors, "rate") > 0.0);
    CHECK(field(errors, "kv_block_bytes") > field(errors, "kv_bytes"));
    whole_bytes = output_bytes;
    memcpy(whole, output, whole_bytes);
    CHECK(run(go, prompt, 37, tiny, spec, options, "|--save|", session) == 0);
    before = field(errors, "tokens");
    half = output_bytes - 1;
    memcpy(halves, output, half);
    CHECK(run("generate|--count|83|--model|%s|--resume|%s|--threads|1|--json", tiny, session) == 0);
    after = field(errors, "tokens");
    CHECK(before + after == all && field(errors, "prompt_tokens") == 0.0);
    CHECK(half + output_bytes == whole_bytes && memcmp(halves, whole, half) == 0);
    CHECK(memcmp(output, whole + half, output_bytes) == 0);
    return after;
}

static void test_resume(void)
{
    static const char more[] = "generate|and on|--count|%d|--model|%s|--resume|%s|--save|%s";
    double tokens = 0.0;
    tokens += check_resumed("sand", "hot:4", "--window|16");
    tokens += check_resumed("the sand", "hot:2/4", "--window|8");
    tokens += check_resumed("the tide", "hot:8/3", "--temperature|2|--seed|5|--window|0|--sinks|0");
    tokens += check_resumed("12 hands", "live:raw", "--temperature|3|--top|64|--seed|8");
    tokens += check_resumed("and then", "hot:e8", "--temperature|4|--seed|2|--window|8|--sinks|1");
    CHECK(tokens > 80.0);
    CHECK(run(more, 0, tiny, session, session) == 0 && strcmp(output, "and on\n") == 0);
    CHECK(run(more, 9, tiny, session, session) == 0 && strncmp(output, "and on", 6) == 0);
    CHECK(run("generate|--count|3|--model|%s|--resume|%s|--kv|hot:e8/e8|--seed|3|--top|9"
              "|--temperature|0.1|--window|8|--sinks|1",
              tiny, session) == 0);
    CHECK(run("generate|hi|--chat|--count|5|--model|%s|--resume|%s", tiny, session) == 0);
    CHECK(run("generate|--count|10000|--model|%s|--resume|%s|--save|%s|--json", tiny, session,
              session) == 0);
    CHECK(field(errors, "kv_tokens") <= 512.0);
}

/* What the session was saved with, and what it is resumed with. */
static void test_wrong_session(void)
{
    static const char *const options[] = {
        "--kv|hot:4|--window|8", "--kv|e8",           "--kv|f32",
        "--kv|hot:e8/4",         "--window|9",        "--sinks|0",
        "--order|gguf",          "--kv|hot:e8/e8/e8", "--temperature|101",
        "the|and|the",
    };
    char path[256];
    path_in(path, sizeof path, "other.gguf");
    CHECK(run("generate|the|--count|9|--model|%s|--kv|hot:e8|--window|8|--save|%s", tiny,
              session) == 0);
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        if (!CHECK(refused(
                run("generate|--count|3|--model|%s|--resume|%s|%s", tiny, session, options[i])))) {
            fprintf(stderr, "  with '%s'\n", options[i]);
        }
    }
    CHECK(make_file(path, "F16", "untied"));
    CHECK(refused(run("generate|--count|3|--model|%s|--resume|%s", path, session)));
    CHECK(strstr(errors, "other weights") != NULL);
    CHECK(refused(run("generate|--model|%s|--resume|%s", tiny, profile)));
    CHECK(refused(run("generate|--model|%s|--resume|%s", tiny, tiny)));
    CHECK(refused(run("generate|--model|%s|--resume|%s", tiny, dir)));
    CHECK(refused(run("generate|the|--model|%s|--kv|hot:4|--save|%s", tiny, dir)));
    CHECK(remove(path) == 0);
}

/* A session whose record has one number changed (`at` from its start), with sound checksums. */
static int write_wrong_record(const char *path, const char *data, size_t count, size_t at,
                              uint32_t number)
{
    static uint8_t file[1 << 16], directory[1 << 16], mem[1 << 16], changed[4096];
    lq_archive_source source;
    const uint8_t *record = NULL;
    size_t bytes = 0;
    memset(&source, 0, sizeof source);
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    source.bytes = data;
    source.size = count;
    d.mem = file;
    d.mem_bytes = sizeof file;
    d.directory = directory;
    d.directory_bytes = sizeof directory;
    lq_archive_reader r;
    int status = lq_archive_open(&r, &source, mem, sizeof mem, NULL);
    status = status ? status : lq_archive_meta(&r, LQ_KV_NOTE, &record, &bytes);
    if (status || bytes > sizeof changed || at + 4 > bytes) return 0;
    memcpy(changed, record, bytes);
    lm__put32(changed + at, number);
    lq_archive_writer w;
    status = lq_archive_writer_append(&w, &d, &r);
    status = status ? status : lq_archive_add_meta(&w, LQ_KV_NOTE, changed, bytes);
    status = status ? status : lq_archive_finish(&w);
    memcpy(mem, data, count);
    memcpy(mem + count, file, (size_t)w.written);
    return !status && write_file(path, mem, count + (size_t)w.written);
}

/* Cut short, with a wrong record, or with random bytes in it. */
static void test_damaged_session(size_t rounds)
{
    static char data[1 << 15];
    char path[256];
    size_t count = read_file(session, data, sizeof data);
    path_in(path, sizeof path, "mutant.lq");
    CHECK(count > 1000 && count + 1 < sizeof data);
    for (size_t i = 0; i < 12; i++) {
        CHECK(write_file(path, data, count * i / 12 + (i == 11 ? count / 13 : 0)));
        CHECK(refused(run("generate|--model|%s|--resume|%s", tiny, path)));
    }
    int code;
    for (size_t i = 0; i < 20; i++) {
        CHECK(write_wrong_record(path, data, count, i * 4 + (i == 19 ? 60u : 0u), 0xfffffff0u));
        code = run("generate|--count|3|--model|%s|--resume|%s", tiny, path);
        if (!CHECK((i >= 13 && i <= 15 && code == 0) || refused(code))) { /* random, temperature */
            fprintf(stderr, "  number %zu of the record\n", i);
        }
    }
    for (size_t i = 0; i < rounds; i++) {
        size_t at = (size_t)((noise() + 1.0f) * 0.499f * (float)count);
        char kept = data[at];
        data[at] = (char)(kept ^ (1 << i % 8));
        CHECK(write_file(path, data, count));
        data[at] = kept;
        code = run("generate|--count|2|--model|%s|--resume|%s", tiny, path);
        CHECK(code == 0 || refused(code));
    }
    CHECK(remove(path) == 0);
}

/* Killed at any byte of the new file, the old one stays as it is. */
static void test_killed_save(void)
{
    char old[256];
    path_in(old, sizeof old, "old.lq");
    char beside[280];
    (void)snprintf(beside, sizeof beside, "%s.part", session);
    CHECK(run("generate|the|--count|9|--model|%s|--kv|hot:4|--save|%s", tiny, session) == 0);
    CHECK(run("generate|the|--count|9|--model|%s|--kv|hot:4|--save|%s", tiny, old) == 0);
    CHECK(same_files(session, old));
    for (size_t i = 0; i < 8; i++) {
        file_limit = 1 + i * i * 97;
        CHECK(run("generate|--count|0|--model|%s|--resume|%s|--save|%s", tiny, session, session) ==
              -1);
        file_limit = 0;
        CHECK(same_files(session, old));
    }
    CHECK(write_file(beside, "left behind", 11));
    CHECK(run("generate|--count|0|--model|%s|--resume|%s|--save|%s", tiny, session, session) == 0);
    CHECK(same_files(session, old) && remove(beside) != 0);
    CHECK(remove(old) == 0);
}

/* The arrays of a dump against the model run token by token: the same K whatever the steps. */
static void test_dump(void)
{
    static uint8_t k[128 + 2 * 2 * 100 * 64 * 2 + 1];
    char path[280];
    char *argv[] = {path, path, path, path, path, path};
    char words[5][16] = {"dump", "--model", "--text", "--pre", "smollm"};
    double worst = 0.0;
    size_t t, i;
    char prefix[256];
    path_in(prefix, sizeof prefix, "dump");
    CHECK(run("dump|--text|%s|--model|%s|--tokens|100|--layers|1,0|--out|%s|--queries|7", text_path,
              tiny, prefix) == 0);
    CHECK(strstr(output, "-q.npy: (2, 4, 7, 64) f16") != NULL);
    (void)snprintf(path, sizeof path, "%s-k.npy", prefix);
    CHECK(read_file(path, (char *)k, sizeof k) == 128 + 2 * 2 * 100 * 64 * 2);
    CHECK(memcmp(k, "\x93NUMPY\x01\x00\x76\x00{'descr': '<f2'", 25) == 0 && k[127] == '\n');
    CHECK(strstr((const char *)k + 10, "'shape': (2, 2, 100, 64)") != NULL);
    argv[1] = words[0];
    argv[2] = words[1];
    argv[3] = tiny;
    argv[4] = words[2];
    argv[5] = text_path;
    lm_options o;
    lm_options_read(&o, 6, argv);
    lm_model m;
    lm_open_model(&m, &o);
    lm_tokens ids = lm_read_text(&m, &o);
    lm_model_load(&m);
    lm_cache c;
    lm_store *s = lm_store_raw(&c, &m.g, &m.pool, 100);
    for (t = 0; t < 100; t++) {
        lm_forward(&m, &c, ids.id + t, t, 1);
        for (i = 0; i < 64; i++) { /* layer 1 is first in the file; kv head 1 */
            float have = lm_load_half(k + 128 + ((100 + t) * 64 + i) * 2);
            double error = fabs((double)have - (double)lm__key(s, 1, 1, t)[i * LM_ROWS]);
            worst = error > worst ? error : worst;
        }
    }
    CHECK(worst < 0.02);
    c.close(c.state);
    free(ids.id);
    free(o.words);
    lm_model_close(&m);
    for (i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s-%c.npy", prefix, "kvq"[i]);
        CHECK(remove(path) == 0);
    }
}

static void test_formats_run(void)
{
    char path[256];
    path_in(path, sizeof path, "format.gguf");
    for (size_t i = 0; i < MAKE_FORMATS; i++) {
        CHECK(make_file(path, make_formats[i].name, "untied"));
        CHECK(run("eval|q4_0|--json|--text|%s|--model|%s|--tokens|64|--passages|1", text_path,
                  path) == 0);
        CHECK(field(output, "raw_ppl") > 1.0 && field(line_of("q4_0"), "kld") >= 0.0);
        CHECK(run("info|--json|--model|%s", path) == 0);
        CHECK(field(output, make_formats[i].name) >= 16.0);
    }
    for (size_t i = 0; i < MAKE_FEATURES; i++) {
        CHECK(make_file(path, "F16", make_features[i]));
        CHECK(run("generate|x|--count|3|--model|%s", path) == 0);
    }
    (void)remove(path);
    CHECK(run("info|--model|%s", tiny) == 0 && strstr(output, "head_dim    64") != NULL);
    CHECK(run("codecs") == 0 && strstr(output, "hq4_0") != NULL);
    CHECK(run("tokens|--text|%s|--model|%s", text_path, tiny) == 0);
    CHECK(run("help") == 0 && strncmp(output, "usage: lm", 9) == 0);
}

/* ---- sampling ---- */

/* Three tokens of 2500 hold all the probability. */
static void test_draw(void)
{
    enum { COUNT = 2500, DRAWS = 4000 };
    static const size_t places[3] = {5, 1500, 2499};
    static const double parts[3] = {0.5, 0.3, 0.2};
    static float x[COUNT];
    size_t seen[3] = {0, 0, 0};
    uint64_t random = lm_random_start(1, 2);
    size_t i, j;
    for (i = 0; i < DRAWS; i++) {
        for (j = 0; j < COUNT; j++) {
            x[j] = -60.0f;
        }
        for (j = 0; j < 3; j++) {
            x[places[j]] = 3.0f + 2.0f * (float)log(parts[j]);
        }
        uint32_t id = lm__self_draw(x, COUNT, 2.0, &random);
        for (j = 0; j < 3; j++) {
            seen[j] += id == places[j];
        }
    }
    CHECK(seen[0] + seen[1] + seen[2] == DRAWS);
    for (j = 0; j < 3; j++) {
        CHECK(fabs((double)seen[j] / DRAWS - parts[j]) < 0.03);
    }
}

/* Two sequences that step together against each on its own. */
static void test_step(void)
{
    enum { TOKENS = 40 };
    static uint32_t ids[2][TOKENS];
    static float want[2][300], have[2][300];
    double worst = 0.0;
    size_t s, t, i;
    lm_options o;
    memset(&o, 0, sizeof o);
    o.model = tiny;
    o.order = "half";
    o.threads = 2;
    lm_model m;
    lm_open_model(&m, &o);
    lm_model_load(&m);
    lm_pool alone;
    lm_pool_open(&alone, 1);
    lm_cache caches[2];
    for (s = 0; s < 2; s++) {
        (void)lm_store_raw(&caches[s], &m.g, &m.pool, TOKENS);
        for (t = 0; t < TOKENS; t++) {
            ids[s][t] = (uint32_t)(s * 31 + t * 7) % 250;
        }
        lm_forward(&m, &caches[s], ids[s], 0, TOKENS);
        lm_logits(&m, want[s], TOKENS - 1, 1);
        caches[s].close(caches[s].state);
        (void)lm_store_raw(&caches[s], &m.g, &alone, TOKENS);
    }
    uint32_t step[2];
    for (t = 0; t < TOKENS; t++) {
        step[0] = ids[0][t];
        step[1] = ids[1][t];
        lm_step(&m, caches, step, t, 2);
    }
    lm_logits(&m, have[0], 0, 1);
    lm_logits(&m, have[1], 1, 1);
    for (s = 0; s < 2; s++) {
        for (i = 0; i < m.vocab; i++) {
            double error = fabs((double)have[s][i] - (double)want[s][i]);
            worst = error > worst ? error : worst;
        }
        caches[s].close(caches[s].state);
    }
    CHECK(worst < 1e-3);
    lm_pool_close(&alone);
    lm_model_close(&m);
}

/* ---- calibration ---- */

static void test_calibrate(void)
{
    static const char text[] = "calibrate|--text|%s|--text|%s|--passages|2|--tokens|256|--model|%s"
                               "|--json|--out|%s|%s|%s";
    char other[256];
    path_in(other, sizeof other, "other.lqp");
    CHECK(run(text, text_path, text_path, tiny, profile, "--group", "layer") == 0);
    CHECK(field(output, "groups") == 4.0 && field(output, "tokens") == 1008.0);
    CHECK(field(output, "dims") == 128.0 && field(output, "reading_memory") > 0.0);
    CHECK(field(output, "bytes") > 1000.0 && field(output, "share") < 1.0);
    CHECK(field(output, "basis_bits") <= field(output, "channel_bits"));
    CHECK(run(text, text_path, text_path, tiny, other, "--threads", "1") == 0);
    CHECK(same_files(profile, other));
    CHECK(run(text, text_path, text_path, tiny, other, "--beta", "0") == 0);
    CHECK(!same_files(profile, other));
    CHECK(run(text, text_path, text_path, tiny, other, "--step-v", "0.05") == 0);
    CHECK(!same_files(profile, other));
    CHECK(run(text, text_path, text_path, tiny, other, "--group", "head") == 0);
    CHECK(field(output, "groups") == 8.0 && field(output, "dims") == 64.0);
    CHECK(run("eval|cold:z:k=0.1,v=0.1@%s|--text|%s|--model|%s|--tokens|200|--passages|1", other,
              text_path, tiny) == 0);
    CHECK(run(text, text_path, text_path, tiny, other, "--group", "2") == 0);
    CHECK(field(output, "groups") == 2.0 && field(output, "dims") == 256.0);
    CHECK(run("eval|cold:e8:k=0.1,v=0.1@%s|--text|%s|--model|%s|--tokens|200|--passages|1", other,
              text_path, tiny) == 0);
    CHECK(run(text, text_path, text_path, tiny, other, "--group", "1") == 0);
    CHECK(same_files(profile, other));
    CHECK(remove(other) == 0);
}

static void test_calibrated_eval(void)
{
    static const char words[] = "cold:z:k=0.05,v=0.05@%s|cold:z:k=0.2,v=0.4@%s"
                                "|cold:z:k=0.2,v=0.4,refit=1@%s|cold:e8r:k=0.2,v=0.4@%s";
    char first[1200];
    (void)snprintf(first, sizeof first, words, profile, profile, profile, profile);
    CHECK(run("eval|%s|--json|--text|%s|--model|%s|--tokens|300|--passages|2", first, text_path,
              tiny) == 0);
    const char *at[4];
    at[0] = strstr(output, "{\"codec\":\"cold:z:k=0.05");
    at[1] = strstr(output, "{\"codec\":\"cold:z:k=0.2,v=0.4@");
    at[2] = strstr(output, "{\"codec\":\"cold:z:k=0.2,v=0.4,refit=1@");
    at[3] = strstr(output, "{\"codec\":\"cold:e8r");
    for (size_t i = 0; i < 4; i++) {
        CHECK(field(at[i], "bits") > 0.1 && field(at[i], "bits") < 9.0);
        CHECK(field(at[i], "profile_bytes") > 1000.0 && field(at[i], "kld") < 0.1);
    }
    CHECK(field(at[0], "kld") < field(at[1], "kld"));
    CHECK(field(at[0], "bits") > field(at[1], "bits") + 0.3);
    char line[400];
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(line, sizeof line, "\"curve\":\"ours, calibrated lm-test-profile%s\"",
                       i == 0 ? "" : " cold:e8r");
        CHECK(strstr(at[i * 3] != NULL ? at[i * 3] : "", line) != NULL);
    }
}

static void test_self(void)
{
    static const char self[] = "calibrate|--self|--passages|5|--tokens|70|--model|%s|--json"
                               "|--out|%s|%s|%s";
    char first[256];
    path_in(first, sizeof first, "first.lqp");
    char other[256];
    path_in(other, sizeof other, "other.lqp");
    CHECK(run(self, tiny, first, "--seed", "3") == 0);
    CHECK(field(output, "tokens") == 330.0 && field(output, "sampling_memory") > 0.0);
    CHECK(run(self, tiny, other, "--seed", "3|--threads|1") == 0);
    CHECK(same_files(first, other));
    CHECK(run(self, tiny, other, "--seed", "4") == 0);
    CHECK(!same_files(first, other));
    CHECK(run("eval|cold:z:k=0.1,v=0.1@%s|--json|--text|%s|--model|%s|--tokens|200|--passages|1",
              other, text_path, tiny) == 0);
    CHECK(field(strstr(output, "{\"codec\":"), "kld") < 0.1);
    CHECK(remove(first) == 0 && remove(other) == 0);
}

/* The profiles written again with one thing wrong. */
static int write_twisted(const char *path, const char *twist)
{
    static uint8_t file[1 << 21], directory[1 << 21], bytes[1 << 21], mem[1 << 16];
    lq_archive_source source;
    size_t n = read_file(profile, (char *)bytes, sizeof bytes);
    memset(&source, 0, sizeof source);
    source.bytes = bytes;
    source.size = n;
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    d.mem = file;
    d.mem_bytes = sizeof file;
    d.directory = directory;
    d.directory_bytes = sizeof directory;
    lq_archive_reader r;
    int status = lq_archive_open(&r, &source, mem, sizeof mem, NULL);
    float freqs[64];
    lq_rope rope;
    status = status ? status : lq_archive_rope(&r, 0, &rope, freqs, 64);
    lq_archive_writer w;
    status = status ? status : lq_archive_writer_init(&w, &d);
    freqs[1] *= strcmp(twist, "freqs") == 0 ? 1.5f : 1.0f;
    rope.magnitude = strcmp(twist, "magnitude") == 0 ? 2.0f : 1.0f;
    rope.rotary_dims -= strcmp(twist, "rotary") == 0 ? 2 : 0;
    status = status ? status : lq_archive_add_rope(&w, &rope, NULL);
    lq_slice slices[16];
    for (uint32_t i = 0; i < r.group_count && !status; i++) {
        lq_archive_group_desc g;
        status = lq_archive_group(&r, i, &g, slices, 16);
        slices[0].layer += strcmp(twist, "layer") == 0 ? 7 : 0;
        slices[1].head += strcmp(twist, "head") == 0 ? 7 : 0;
        slices[1].head = strcmp(twist, "twice") == 0 ? 0 : slices[1].head;
        slices[0].dims -= strcmp(twist, "dims") == 0 ? 8 : 0;
        slices[0].first_dim = strcmp(twist, "first") == 0 ? 8 : 0;
        g.slice_count -= strcmp(twist, "slices") == 0;
        if (status || (strcmp(twist, "missing") == 0 && i == 2)) continue;
        status = lq_archive_add_group(&w, &g, NULL);
        lq_archive_profile_desc p;
        status = status ? status : lq_archive_profile(&r, i ^ (strcmp(twist, "swapped") == 0), &p);
        uint8_t hash[16];
        if (!status && strcmp(twist, "external") == 0) {
            lq_blake2s_128(hash, p.bytes, p.count);
            p.bytes = NULL;
            p.count = 0;
            p.hash = hash;
        }
        p.count -= strcmp(twist, "short") == 0 && i == 3;
        if (!status && (strcmp(twist, "fewer") != 0 || i > 0)) {
            status = lq_archive_add_profile(&w, &p, NULL);
        }
    }
    status = status ? status : lq_archive_finish(&w);
    return !status && write_file(path, file, (size_t)w.offset);
}

static void test_wrong_profiles(void)
{
    static const char *const twists[] = {"freqs",   "magnitude", "rotary", "layer",  "head",
                                         "twice",   "dims",      "first",  "slices", "missing",
                                         "swapped", "external",  "short",  "fewer"};
    static const char eval[] = "eval|%s@%s|--text|%s|--model|%s|--tokens|100|--passages|1|%s|%s";
    char wrong[256];
    path_in(wrong, sizeof wrong, "wrong.lqp");
    char model[256];
    path_in(model, sizeof model, "linear.gguf");
    CHECK(write_twisted(wrong, "none"));
    CHECK(same_files(profile, wrong));
    for (size_t i = 0; i < sizeof twists / sizeof twists[0]; i++) {
        CHECK(write_twisted(wrong, twists[i]));
        if (!CHECK(refused(run(eval, "cold:z", wrong, text_path, tiny, "--seed", "1")))) {
            fprintf(stderr, "  twist '%s'\n", twists[i]);
        }
    }
    CHECK(refused(run(eval, "cold:z", profile, text_path, tiny, "--order", "gguf")));
    CHECK(refused(run(eval, "warm:z", profile, text_path, tiny, "--seed", "1")));
    CHECK(make_file(model, "F32", "linear"));
    CHECK(refused(run(eval, "cold:z", profile, text_path, model, "--seed", "1")));
    CHECK(run("calibrate|--warm|--text|%s|--passages|2|--tokens|128|--model|%s|--out|%s", text_path,
              tiny, wrong) == 0);
    CHECK(refused(run(eval, "cold:z", wrong, text_path, tiny, "--seed", "1")));
    CHECK(run(eval, "warm:z:k=0.1,v=0.1", wrong, text_path, tiny, "--seed", "1") == 0);
    CHECK(remove(wrong) == 0 && remove(model) == 0);
}

/* A file of profiles cut short is refused; with random bytes in it, refused or used. */
static void test_profile_mutations(size_t rounds)
{
    static char data[1 << 21];
    size_t count = read_file(profile, data, sizeof data);
    size_t i, j;
    char path[256];
    path_in(path, sizeof path, "mutant.lqp");
    for (i = 0; i < 12; i++) {
        CHECK(write_file(path, data, count * i / 12));
        CHECK(refused(run("eval|cold@%s|--text|%s|--model|%s|--tokens|64|--passages|1", path,
                          text_path, tiny)));
    }
    for (i = 0; i < rounds; i++) {
        char kept[4];
        size_t at[4];
        for (j = 0; j < 1 + i % 4; j++) {
            at[j] = (size_t)((noise() + 1.0f) * 0.499f * (float)(i % 3 ? 200 : count));
            kept[j] = data[at[j]];
            data[at[j]] = (char)(noise() * 127.0f);
        }
        CHECK(write_file(path, data, count));
        while (j > 0) {
            j--;
            data[at[j]] = kept[j];
        }
        int code = run("eval|cold@%s|--text|%s|--model|%s|--tokens|64|--passages|1", path,
                       text_path, tiny);
        CHECK(code == 0 || refused(code));
    }
    (void)remove(path);
}

/* ---- bad input ---- */

/* Files that are what they are, and named so. */
static const char *const named[][2] = {
    {"magic", "not a GGUF file"},
    {"version", "GGUF version 2; this program reads version 3"},
    {"big-endian", "a big-endian GGUF file (version 3)"},
    {"split", "part 1 of 3 of a split model"},
    {"split-last", "part 3 of 3 of a split model"},
    {"adapter", "not a model (general.type is 'adapter')"},
    {"arch", "architecture 'mamba'; this program runs llama, qwen2, qwen3"},
    {"no-arch", "'general.architecture' is missing"},
    {"experts", "mixtures of experts"},
    {"tokenizer", "its tokenizer is SentencePiece"},
    {"pre", "unknown pre-tokenizer 'unheard-of'"},
    {"no-bos", "'tokenizer.ggml.bos_token_id' is missing"},
};

static void test_faults(void)
{
    const size_t count = sizeof named / sizeof named[0];
    size_t found = 0;
    size_t i, j;
    char path[256];
    path_in(path, sizeof path, "fault.gguf");
    for (i = 0; i < MAKE_FAULTS; i++) {
        const char *format = strcmp(make_faults[i], "row-length") == 0 ? "Q4_0" : "F32";
        CHECK(make_file(path, format, make_faults[i]));
        if (!CHECK(refused(run("generate|x|--count|1|--model|%s", path)))) {
            fprintf(stderr, "  fault '%s'\n", make_faults[i]);
        }
        for (j = 0; j < count; j++) {
            if (strcmp(make_faults[i], named[j][0]) == 0) {
                found++;
                if (!CHECK(strstr(errors, named[j][1]) != NULL)) {
                    fprintf(stderr, "  fault '%s': %s", make_faults[i], errors);
                }
            }
        }
    }
    CHECK(found == count);
    (void)remove(path);
}

static void test_command_lines(void)
{
    static const char *const lines[] = {
        "generate|x",
        "generate|--model|%s",
        "generate||--model|%s",
        "generate|a|b|--model|%s",
        "generate|x|--model|%s|--kv|q3",
        "generate|x|--model|%s|--kv|hot:7",
        "generate|x|--model|%s|--kv|hot:4/",
        "generate|x|--model|%s|--kv|live:",
        "generate|x|--model|%s|--save|x",
        "generate|x|--model|%s|--save|x|--kv|q4_0",
        "generate|x|--model|%s|--kv|hot:4|--save|no/such/folder/x",
        "generate|--model|%s|--resume|nowhere.lq",
        "generate|x|--model|%s|--count|-1",
        "generate|x|--model|%s|--temperature|nan",
        "generate|x|--model|%s|--seed|1e9",
        "generate|x|--model|%s|--top|0",
        "generate|x|--model|%s|--threads|0",
        "generate|x|--model|%s|--frobnicate",
        "generate|x|--model|%s|--count",
        "sing|--model|%s",
        "eval|q4_0|--model|%s",
        "eval|q4_0|--model|%s|--text|nowhere.txt",
        "eval|q4_0|--model|%s|--text|.",
        "eval|q4_0/|--model|%s|--text|@",
        "eval|q4_0:8|--model|%s|--text|@",
        "eval|q9|--model|%s|--text|@",
        "eval|q4_0|--model|%s|--text|@|--tokens|513",
        "eval|q4_0|--model|%s|--text|@|--tokens|63",
        "eval|q4_0|--model|%s|--text|@|--passages|1000",
        "eval|q4_0|--model|%s|--text|@@",
        "eval|q4_0|--model|%s|--text|@|--tokens|64|--sinks|64",
        "eval|q4_0|--model|%s|--text|@|--tokens|64|--window|60",
        "eval|q4_0|--model|%s|--text|@|--chunk|3",
        "eval|q4_0|--model|%s|--text|@|--resume|256",
        "eval|q4_0|--model|%s|--text|@|--resume|256:64x",
        "eval|q4_0|--model|%s|--text|@|--resume|256:63",
        "eval|q4_0|--model|%s|--text|@|--resume|63:64",
        "eval|q4_0|--model|%s|--text|@|--resume|-256:64",
        "eval|q4_0|--model|%s|--text|@|--resume|449:64",
        "eval|q4_0|--model|%s|--text|@|--resume|64:64|--sinks|60",
        "eval|q4_0|--model|%s|--text|@|--resume|256:64|--tokens|320",
        "eval|q4_0|--model|%s|--text|@|--resume|256:64|--window|8",
        "eval|q4_0|--model|%s|--text|@|--resume|256:64|--chunk|8",
        "eval|q4_0|--model|%s|--text|@|--resume|263:64|--repeat",
        "eval|q4_0|--model|%s|--text|@|--repeat",
        "eval|hot:7|--model|%s|--text|@|--resume|256:64",
        "eval|hot:7|--model|%s|--text|@",
        "eval|q4_0|--model|%s|--text|@|--order|both",
        "eval|q4_0|--model|%s|--text|@|--pre|nope",
        "eval|cold:k=0|--model|%s|--text|@",
        "eval|cold:refit=1|--model|%s|--text|@",
        "eval|cold@nowhere.lqp|--model|%s|--text|@",
        "eval|cold@%s|--model|%s|--text|@",
        "eval|cold@|--model|%s|--text|@",
        "eval|hot:4@%s|--model|%s|--text|@",
        "eval|fixed:4@%s|--model|%s|--text|@",
        "calibrate|--model|%s|--text|@",
        "calibrate|--model|%s|--out|x",
        "calibrate|--model|%s|--self|--text|@|--out|x",
        "calibrate|--model|%s|--text|@|--passages|1|--tokens|64|--out|no/such/folder/x",
        "calibrate|--model|%s|--text|@@|--tokens|64|--out|x",
        "calibrate|--model|%s|--text|@|--passages|1|--out|x|--group|3",
        "calibrate|--model|%s|--text|@|--passages|1|--out|x|--group|0",
        "calibrate|--model|%s|--text|@|--passages|1|--out|x|--group|heads",
        "calibrate|--model|%s|--text|@|--passages|1|--out|x|--step|0",
        "calibrate|--model|%s|--text|@|--passages|1|--out|x|--beta|2",
        "calibrate|--model|%s|--self|--tokens|513|--out|x",
        "dump|--model|%s|--text|@",
        "dump|--model|%s|--text|@|--out|x|--layers|2",
        "dump|--model|%s|--text|@|--out|x|--layers|0,0",
        "dump|--model|%s|--text|@|--out|x|--layers|0,",
        "dump|--model|%s|--text|@|--out|x|--tokens|600",
        "dump|--model|%s|--text|@|--tokens|64|--out|no/such/folder/x",
        "info|--model|nowhere",
        "info|--model|.",
        "info|--model|@",
        "tokens|--model|%s",
    };
    static char line[2000];
    char short_text[256];
    path_in(short_text, sizeof short_text, "short.txt");
    CHECK(write_file(short_text, "too short", 9));
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        const char *s = lines[i];
        size_t n = 0;
        for (; *s != '\0' && n + 300 < sizeof line; s++) {
            const char *with = NULL;
            if (s[0] == '%' && s[1] == 's') {
                with = tiny;
                s++;
            } else if (s[0] == '@') {
                with = s[1] == '@' ? short_text : text_path;
                s += s[1] == '@';
            }
            if (with != NULL) {
                n += (size_t)snprintf(line + n, sizeof line - n, "%s", with);
            } else {
                line[n++] = *s;
            }
        }
        line[n] = '\0';
        if (!CHECK(refused(run("%s", line)))) {
            fprintf(stderr, "  command: %s\n", lines[i]);
        }
    }
    (void)remove(short_text);
}

/* The file cut short anywhere must be refused; with random bytes in it, refused or run. */
static void test_mutations(size_t rounds)
{
    size_t count = 0;
    uint8_t *data = make_model("Q4_K", "", &count);
    uint8_t *copy = (uint8_t *)lm_alloc(count, 1);
    size_t i, j;
    char path[256];
    path_in(path, sizeof path, "mutant.gguf");
    for (i = 0; i < 40; i++) {
        size_t n = i < 20 ? i * i * 31 : count - 1 - (i - 20) * (count / 21);
        CHECK(write_file(path, data, n));
        CHECK(refused(run("info|--model|%s", path)));
    }
    for (i = 0; i < rounds; i++) {
        memcpy(copy, data, count);
        for (j = 0; j < 1 + i % 4; j++) {
            size_t at = (size_t)((noise() + 1.0f) * 0.499f * (float)(i % 4 ? 8000 : count));
            copy[at] = (uint8_t)((noise() + 1.0f) * 127.9f);
        }
        CHECK(write_file(path, copy, count));
        int code = run("generate|the|--count|2|--threads|1|--model|%s", path);
        CHECK(code == 0 || refused(code));
    }
    (void)remove(path);
    free(copy);
    free(data);
}

/* ---- the real model ---- */

/* The first `count` tokens of tests/data/lm-golden.txt by `transformers` in float32: perplexity,
   and at four places the likeliest token and the logits of 15 scattered ones and of that. */
typedef struct golden {
    const char *name;
    size_t vocab;
    size_t tokens; /* of the whole text */
    size_t count;
    double ppl;
    size_t places[4];
    size_t best[4];
    float logits[4][16];
} golden;

/* The largest differences of lm.c over all logits were 1.1e-4 and 0.7e-4; 2e-3 leaves room for
   compilers. */
static const golden goldens[] = {
    {"SmolLM2-135M-Instruct Q4_1",
     49152,
     680,
     512,
     28.234068236,
     {0, 63, 200, 511},
     {29, 198, 253, 30},
     {{6.25755f, 18.13685f, 11.04658f, 15.06513f, 11.48926f, 13.22396f, 15.40495f, 13.50328f,
       14.59708f, 11.92398f, 10.69821f, 15.43319f, 5.64639f, 8.61373f, 7.97408f, 27.35337f},
      {12.90141f, 11.95112f, 12.68176f, 11.484f, 12.15926f, 7.03653f, 17.90463f, 8.1499f, 6.47251f,
       10.31161f, 10.79586f, 12.38136f, 10.54311f, 10.67181f, 5.41069f, 29.25632f},
      {-5.74568f, 2.91604f, 4.70586f, -2.15234f, -1.69902f, 1.48232f, -0.97293f, 3.82481f, 3.84634f,
       0.76673f, 2.69814f, -5.65845f, -2.39847f, 0.75212f, 2.61329f, 16.54787f},
      {17.58851f, 3.30841f, 12.31171f, 8.18544f, 7.24315f, 13.24076f, 11.87064f, 9.34659f,
       12.81171f, 11.09277f, 5.23165f, 6.60182f, 9.51183f, 5.42272f, 10.58789f, 26.43501f}}},
    {"Qwen2.5-Coder-0.5B-Instruct Q4_K_M",
     151936,
     656,
     256,
     64.031746901,
     {0, 63, 200, 255},
     {1990, 4588, 315, 330},
     {{2.98711f, 1.19576f, 3.18113f, 6.15892f, 0.77358f, 1.43015f, -1.63355f, 0.61238f, 0.19061f,
       -1.65391f, -3.55887f, 1.34594f, 2.43641f, 1.09337f, -2.18139f, 10.75532f},
      {2.21536f, 0.26251f, 0.52309f, -2.16437f, -3.34233f, 0.43013f, -1.94447f, -0.68105f,
       -3.89036f, -3.96647f, -6.10517f, -0.05561f, -2.93527f, -4.32228f, -5.59266f, 13.67862f},
      {3.64254f, 0.69393f, -0.05535f, 2.12447f, -0.39758f, -6.81281f, -3.32454f, -2.1898f,
       -3.19848f, -3.75795f, -0.66951f, 0.12516f, -0.71609f, -1.4374f, -1.53632f, 16.19953f},
      {-3.38504f, -2.01488f, -2.75031f, -2.17504f, -3.2492f, -1.2856f, -3.20652f, -8.11283f,
       -1.22127f, -2.17625f, -3.06932f, -0.59986f, -2.53987f, -3.35963f, 0.41879f, 13.61338f}}},
};

static void check_golden(const golden *want, const float *logits, size_t place)
{
    size_t at = want->places[place];
    CHECK(lm_row_read(logits, want->vocab).best == want->best[place]);
    for (size_t j = 0; j < 16; j++) {
        size_t id = j < 15 ? (j * 3001 + at * 7 + 11) % want->vocab : want->best[place];
        CHECK(fabsf(logits[id] - want->logits[place][j]) < 2e-3f);
    }
}

static double golden_loss(const golden *want, lm_model *m, const lm_tokens *ids)
{
    float *logits = (float *)lm_alloc(LM_CHUNK, m->vocab * sizeof *logits);
    double loss = 0.0;
    size_t at, i, j;
    lm_cache c;
    (void)lm_store_raw(&c, &m->g, &m->pool, want->count);
    for (at = 0; at < want->count; at += LM_CHUNK) {
        lm_forward(m, &c, ids->id + at, at, LM_CHUNK);
        lm_logits(m, logits, 0, LM_CHUNK);
        for (i = 0; i < LM_CHUNK; i++) {
            const float *row = logits + i * m->vocab;
            for (j = 0; j < 4; j++) {
                if (want->places[j] == at + i) check_golden(want, row, j);
            }
            if (at + i + 1 < want->count) {
                loss += lm_row_read(row, m->vocab).log_sum - (double)row[ids->id[at + i + 1]];
            }
        }
    }
    free(logits);
    c.close(c.state);
    return loss;
}

static void test_golden(const char *path, const char *text)
{
    const golden *want = goldens;
    lm_model m;
    lm_tokens ids = open_model(&m, path, text, 0);
    while (want < goldens + sizeof goldens / sizeof goldens[0] && want->vocab != m.vocab) {
        want++;
    }
    if (CHECK(want < goldens + sizeof goldens / sizeof goldens[0])) {
        CHECK(ids.count == want->tokens);
        double loss = golden_loss(want, &m, &ids);
        CHECK(fabs(exp(loss / (double)(want->count - 1)) / want->ppl - 1.0) < 1e-4);
    }
    free(ids.id);
    lm_model_close(&m);
    CHECK(run("eval|q8_0|q4_0|--json|--resume|256:64|--passages|1|--text|%s|--model|%s", text,
              path) == 0);
    CHECK(field(line_of("q8_0"), "kld") < 0.002 && field(line_of("q8_0"), "kld") > 0.0);
    CHECK(field(line_of("q4_0"), "kld") < 0.1 && field(line_of("q4_0"), "top1") > 0.75);
    if (want == goldens) {
        CHECK(run("eval|q8_0|q4_0|hq4_0|--json|--tokens|256|--passages|1|--text|%s|--model|%s",
                  text, path) == 0);
        CHECK(field(line_of("q8_0"), "kld") < 0.0005 && field(line_of("q8_0"), "kld") > 0.0);
        CHECK(field(line_of("hq4_0"), "kld") < field(line_of("q4_0"), "kld"));
        CHECK(field(line_of("q4_0"), "kld") < 0.05 && field(line_of("q4_0"), "top1") > 0.85);
    }
}

/* Enough text for the tiny model, which has a token for each byte. */
static void make_text(void)
{
    for (size_t i = 0; i < 3000; i++) {
        output[i] = "the sand and the tide, then another 12 hands\n"[(i + i / 45 * i / 7) % 45];
    }
    CHECK(write_file(text_path, output, 3000));
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"tiny.gguf",  "text.txt", "profile.lqp",
                                        "session.lq", "out",      "err"};
    (void)snprintf(dir, sizeof dir, "%s", argc > 1 ? argv[1] : ".");
    (void)unsetenv("LM_MODEL");
    path_in(tiny, sizeof tiny, "tiny.gguf");
    path_in(text_path, sizeof text_path, "text.txt");
    path_in(profile, sizeof profile, "profile.lqp");
    path_in(session, sizeof session, "session.lq");
    CHECK(make_file(tiny, "F32", "untied"));
    make_text();
    lm_pool pool;
    lm_pool_open(&pool, 2);
    test_exp();
    test_multiply(&pool);
    test_attention(&pool);
    test_chunks(&pool);
    lm_pool_close(&pool);
    test_small_formats();
    for (size_t i = 0; i < sizeof format_cases / sizeof format_cases[0]; i++) {
        test_format(&format_cases[i]);
    }
    test_cutting();
    test_tokens();
    test_bos();
    test_rope();
    test_models();
    test_rivals();
    make_text();
    test_eval();
    test_resumed();
    test_resumed_live();
    test_live_eval();
    test_generate();
    test_resume();
    test_dump();
    test_formats_run();
    test_draw();
    test_step();
    test_calibrate();
    test_calibrated_eval();
    test_self();
    test_wrong_profiles();
    test_profile_mutations(100);
    test_wrong_session();
    test_damaged_session(60);
    test_killed_save();
    test_faults();
    test_command_lines();
    test_mutations(400);
    for (size_t i = 2; i < (size_t)argc; i++) {
        test_golden(argv[i], "tests/data/lm-golden.txt");
    }
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        path_in(path, sizeof path, names[i]);
        (void)remove(path);
    }
    return check_report("lm");
}
