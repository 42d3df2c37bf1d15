/* cc -std=c99 -O2 tests/test_bias.c -o test_bias -lm    Live caches of keys with a large mean that
   RoPE turns, of uneven dims, of numbers of any size; queries and biases at the ends of floats. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { D = 64, GROUP = 2, QUERIES = 8, MOST = 8192 };

typedef struct sample {
    size_t tokens;
    double theta[D / 2];
    double k[MOST][D]; /* as the cache gets them: floats */
    double v[MOST][D];
    double q[QUERIES * GROUP][D];
} sample;

typedef struct recipe {
    double bias;      /* radius of the mean of pairs 4, 6, 8, 10 */
    double deviation; /* of dims 0, 8, 16 .. 56; of the others 1 */
    double value;     /* deviation of values */
    int gaps;         /* positions leave out every fifth, and a thousand in the middle */
} recipe;

typedef struct choice {
    int kind;
    int quantizer;
    int bits;
    float k_step;
    float v_step;
    int rope;
} choice;

static sample sample_;
static const lq_tables *tables_;

static int64_t position_of(const recipe *how, size_t t)
{
    return how->gaps ? (int64_t)(t + t / 4 + (t > 500 ? 1000 : 0)) : (int64_t)t;
}

static void turn(double *x, const double *theta, int64_t p)
{
    for (size_t i = 0; i < D / 2; i++) {
        double c = cos(theta[i] * (double)p);
        double s = sin(theta[i] * (double)p);
        double a = x[i] * c - x[i + D / 2] * s;
        x[i + D / 2] = x[i + D / 2] * c + x[i] * s;
        x[i] = a;
    }
}

static void make(sample *s, const recipe *how, size_t tokens)
{
    source_seed = 5;
    s->tokens = tokens;
    for (size_t i = 0; i < D / 2; i++) {
        s->theta[i] = (double)(float)pow(1e6, -2.0 * (double)i / D);
    }
    for (size_t t = 0; t < tokens; t++) {
        for (size_t i = 0; i < D; i++) {
            size_t pair = i % (D / 2);
            s->k[t][i] = source_gauss() * (i % 8 ? 1.0 : how->deviation);
            s->k[t][i] += pair >= 4 && pair <= 10 && pair % 2 == 0 ? how->bias * 0.7071 : 0.0;
            s->v[t][i] = source_gauss() * how->value;
        }
        turn(s->k[t], s->theta, position_of(how, t));
        for (size_t i = 0; i < D; i++) {
            s->k[t][i] = (double)(float)s->k[t][i];
            s->v[t][i] = (double)(float)s->v[t][i];
        }
    }
    for (size_t t = 0; t < QUERIES * GROUP; t++) {
        for (size_t i = 0; i < D; i++) {
            s->q[t][i] = source_gauss();
        }
        turn(s->q[t], s->theta, position_of(how, tokens - 1));
    }
}

/* Attention in doubles. */
static void attend(const sample *s, size_t q, double *out)
{
    double most = -1e300;
    double sum = 0;
    for (size_t i = 0; i < D; i++) {
        out[i] = 0;
    }
    for (size_t t = 0; t < s->tokens; t++) {
        double logit = 0;
        for (size_t i = 0; i < D; i++) {
            logit += s->q[q][i] * s->k[t][i] / 8;
        }
        if (logit > most) {
            for (size_t i = 0; i < D; i++) {
                out[i] *= exp(most - logit);
            }
            sum *= exp(most - logit);
            most = logit;
        }
        double w = exp(logit - most);
        sum += w;
        for (size_t i = 0; i < D; i++) {
            out[i] += w * s->v[t][i];
        }
    }
    for (size_t i = 0; i < D; i++) {
        out[i] /= sum;
    }
}

static void desc_of(lq_kv_desc *d, const sample *s, const choice *c, int type)
{
    static float freqs[D / 2];
    static lq_rope rope;
    memset(d, 0, sizeof *d);
    memset(&rope, 0, sizeof rope);
    for (size_t i = 0; i < D / 2; i++) {
        freqs[i] = (float)s->theta[i];
    }
    rope.rotary_dims = D;
    rope.freqs = freqs;
    d->layers = 1;
    d->kv_heads = 1;
    d->k_dims = D;
    d->tokens = s->tokens;
    d->window = LQ_KV_NONE;
    d->type = type;
    d->tables = tables_;
    d->k.kind = d->v.kind = c->kind;
    d->k.quantizer = d->v.quantizer = c->quantizer;
    d->k.bits = d->v.bits = c->bits;
    d->k.step = c->k_step;
    d->v.step = c->v_step;
    d->rope = c->rope ? &rope : NULL;
}

/* Appends all tokens, some at a time. */
static void fill(lq_kv *kv, const sample *s, const recipe *how)
{
    static float k[256 * D];
    static float v[256 * D];
    int64_t list[256];
    size_t t = 0;
    while (t < s->tokens) {
        size_t n = 1 + source_below(256);
        n = n < s->tokens - t ? n : s->tokens - t;
        lq_kv_view kview;
        memset(&kview, 0, sizeof kview);
        lq_positions at;
        memset(&at, 0, sizeof at);
        for (size_t i = 0; i < n * D; i++) {
            k[i] = (float)s->k[t + i / D][i % D];
            v[i] = (float)s->v[t + i / D][i % D];
        }
        for (size_t i = 0; i < n; i++) {
            list[i] = position_of(how, t + i);
        }
        at.list = list;
        lq_kv_view vview = kview;
        kview.data = k;
        vview.data = v;
        CHECK(lq_kv_append(kv, 0, &kview, &vview, &at, n) == LQ_OK);
        t += n;
    }
}

/* The relative error of attention's outputs. */
static double error_of(const lq_kv *kv, const sample *s)
{
    static float q[QUERIES * GROUP * D];
    static float out[QUERIES * GROUP * D];
    lq_kv_attend_desc a;
    double error = 0;
    double power = 0;
    memset(&a, 0, sizeof a);
    for (size_t i = 0; i < QUERIES * GROUP * D; i++) {
        q[i] = (float)s->q[i / D][i % D];
    }
    a.heads = GROUP;
    a.queries = QUERIES;
    a.all = 1;
    a.q.data = q;
    a.out.data = out;
    CHECK(lq_kv_attend(kv, &a) == LQ_OK);
    double want[D];
    for (size_t i = 0; i < QUERIES * GROUP; i++) {
        attend(s, i, want);
        for (size_t j = 0; j < D; j++) {
            double e = (double)out[i * D + j] - want[j];
            error += e * e;
            power += want[j] * want[j];
        }
    }
    return sqrt(error / power);
}

/* What lq_kv_read gives, as the keys and values of `s`: attention to it must be the same. */
static void read_back(const lq_kv *kv, sample *s)
{
    static float x[MOST * D];
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    out.data = x;
    for (int v = 0; v < 2; v++) {
        CHECK(lq_kv_read(kv, 0, v ? LQ_V : LQ_K, &out, 0, s->tokens, NULL, 0) == LQ_OK);
        for (size_t i = 0; i < s->tokens * D; i++) {
            (v ? s->v : s->k)[i / D][i % D] = (double)x[i];
        }
    }
}

/* The error of one cache; levels agree, and so do attention and what is read. */
static double judge(const recipe *how, const choice *c, size_t tokens)
{
    sample *s = &sample_;
    make(s, how, tokens);
    lq_kv_desc d;
    desc_of(&d, s, c, LQ_F16);
    void *mem = source_alloc(lq_kv_bytes(&d));
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    fill(&kv, s, how);
    double error = error_of(&kv, s);
    read_back(&kv, s);
    double read = error_of(&kv, s);
    CHECK(read < (how->bias > 0.0 ? 0.05 : 0.02));
    free(mem);
    return error;
}

static const choice hot[4] = {{LQ_KV_HOT, LQ_Z, 4, 0, 0, 0},
                              {LQ_KV_HOT, LQ_E8, 4, 0, 0, 0},
                              {LQ_KV_HOT, LQ_Z, 3, 0, 0, 0},
                              {LQ_KV_WARM, LQ_Z, 0, 0.35f, 0.35f, 0}};

/* A mean of norm 100 in each of four pairs that turn within an epoch. */
static void test_turning_means(size_t tokens)
{
    static const char *const names[4] = {"hot 4", "E8", "hot 3", "warm"};
    for (int i = 0; i < 4; i++) {
        choice c = hot[i];
        recipe how = {0.0, 1.0, 1.0, 0};
        double plain = judge(&how, &c, tokens);
        how.bias = 100;
        double without = judge(&how, &c, tokens);
        c.rope = 1;
        double with = judge(&how, &c, tokens);
        how.gaps = 1;
        double gaps = judge(&how, &c, tokens);
        printf("%s: error %.3f; biased %.3f, RoPE known %.3f, positions with gaps %.3f\n", names[i],
               plain, without, with, gaps);
        CHECK(plain > 0.005 && with < plain * 1.15 && gaps < plain * 1.15);
        CHECK(i < 3 || without < 1.15 * plain); /* a warm page's classes follow; tiles want RoPE */
    }
}

/* Steps of any length give the same: a token at a time, or all at once. */
static void test_steps(void)
{
    static float first[MOST * D];
    static float second[MOST * D];
    recipe how = {30.0, 3.0, 1.0, 0};
    sample *s = &sample_;
    for (int i = 0; i < 4; i++) {
        choice c = hot[i];
        c.rope = 1;
        make(s, &how, 900);
        for (size_t window = 0; window < 2; window++) {
            for (int pass = 0; pass < 2; pass++) {
                static float k[900 * D];
                static float v[900 * D];
                lq_kv_view kview;
                size_t step = pass ? 900 : 1;
                memset(&kview, 0, sizeof kview);
                lq_kv_view_out out;
                memset(&out, 0, sizeof out);
                lq_kv_view vview = kview;
                for (size_t t = 0; t < 900 * D; t++) {
                    k[t] = (float)s->k[t / D][t % D];
                    v[t] = (float)s->v[t / D][t % D];
                }
                lq_kv_desc d;
                desc_of(&d, s, &c, LQ_F16);
                d.window = window ? 64 : LQ_KV_NONE;
                void *mem = source_alloc(lq_kv_bytes(&d));
                lq_kv kv;
                CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
                for (size_t t = 0; t < 900; t += step) {
                    kview.data = k + t * D;
                    vview.data = v + t * D;
                    CHECK(lq_kv_append(&kv, 0, &kview, &vview, NULL, step) == LQ_OK);
                }
                out.data = pass ? second : first;
                CHECK(lq_kv_read(&kv, 0, LQ_K, &out, 0, 900, NULL, 0) == LQ_OK);
                free(mem);
            }
            CHECK(memcmp(first, second, 900 * D * sizeof(float)) == 0);
        }
    }
}

/* Deviations of 50 on 8 of 64 dims: without a stretch each dim has an eighth of their error. */
static void test_uneven(void)
{
    recipe how = {0.0, 50.0, 1.0, 0};
    for (int i = 0; i < 2; i++) {
        double error = judge(&how, &hot[i], 1024);
        printf("8 dims of deviation 50: error %.3f\n", error);
        CHECK(error < 1.0);
    }
}

/* Values and keys from 1e-30 to 1e30, where the raw type reaches so far. */
static void test_sizes(void)
{
    static const double sizes[8] = {1e-30, 1e-12, 1e-5, 1e-3, 1.0, 300.0, 1.5e4, 1e30};
    sample *s = &sample_;
    for (int kind = 0; kind < 3; kind++) {
        double first = 0;
        for (size_t n = 0; n < 8; n++) {
            choice c = hot[kind];
            recipe how = {0.0, 1.0, 0.0, 0};
            double error = 0;
            double power = 0;
            how.value = sizes[4];
            make(s, &how, 300);
            for (size_t i = 0; i < 300 * D; i++) { /* f16's own rounding aside */
                s->v[i / D][i % D] *= sizes[n];
                s->k[i / D][i % D] *= sizes[n];
            }
            lq_kv_desc d;
            desc_of(&d, s, &c, n == 0 || n == 1 || n == 7 ? LQ_BF16 : LQ_F16);
            void *mem = source_alloc(lq_kv_bytes(&d));
            lq_kv kv;
            CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
            fill(&kv, s, &how);
            lq_kv_account account;
            CHECK(lq_kv_stats(&kv, &account) == LQ_OK && account.clipped == 0);
            {
                static sample copy;
                copy = *s;
                read_back(&kv, &copy);
                for (size_t i = 4 * D; i < 300 * D; i++) {
                    double e = copy.v[i / D][i % D] - s->v[i / D][i % D];
                    double f = copy.k[i / D][i % D] - s->k[i / D][i % D];
                    error += (e * e + f * f) / sizes[n] / sizes[n];
                    power += 2.0;
                }
            }
            error = sqrt(error / power);
            first = n == 0 ? error : first;
            CHECK(error < 0.25 && error < first * 1.06 + 0.002 && error > first * 0.9 - 0.002);
            free(mem);
        }
    }
}

/* Beside a value 2^30 as large as the others of its page these become zeros, and are counted. */
static void test_clipped(void)
{
    sample *s = &sample_;
    recipe how = {0.0, 1.0, 1.0, 0};
    double error = 0;
    double power = 0;
    make(s, &how, 128);
    for (size_t i = 0; i < D; i++) {
        s->v[90][i] *= 1073741824.0;
    }
    lq_kv_desc d;
    desc_of(&d, s, &hot[0], LQ_F32);
    void *mem = source_alloc(lq_kv_bytes(&d));
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    fill(&kv, s, &how);
    lq_kv_account account;
    CHECK(lq_kv_stats(&kv, &account) == LQ_OK);
    CHECK(account.clipped > 50 && account.clipped < 64);
    {
        static sample copy;
        copy = *s;
        read_back(&kv, &copy);
        for (size_t i = 0; i < D; i++) {
            double e = copy.v[90][i] - s->v[90][i];
            error += e * e;
            power += s->v[90][i] * s->v[90][i];
        }
    }
    CHECK(error < 0.03 * power);
    free(mem);
}

/* Numbers that f16 cannot hold come out as its largest. */
static void test_saturation(void)
{
    sample *s = &sample_;
    recipe how = {0.0, 1.0, 1.0, 0};
    static uint16_t x[300 * D];
    lq_kv_view_out out;
    size_t large = 0;
    memset(&out, 0, sizeof out);
    out.data = x;
    out.type = LQ_F16;
    make(s, &how, 300);
    for (size_t i = 0; i < 300 * D; i++) {
        s->v[i / D][i % D] *= 40000;
    }
    lq_kv_desc d;
    desc_of(&d, s, &hot[0], LQ_F32);
    void *mem = source_alloc(lq_kv_bytes(&d));
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    fill(&kv, s, &how);
    CHECK(lq_kv_read(&kv, 0, LQ_V, &out, 0, 300, NULL, 0) == LQ_OK);
    for (size_t i = 0; i < 300 * D; i++) {
        CHECK((x[i] & 0x7fffu) <= 0x7bffu);
        large += (x[i] & 0x7fffu) == 0x7bffu;
    }
    CHECK(large > 100);
    free(mem);
}

/* Queries of any size and biases of any kind: a finite answer, or LQ_E_DATA. */
static void test_queries(void)
{
    static const float sizes[8] = {0.0f, 1e-30f, 1e4f, 2e9f, 1e20f, 1e30f, 1e38f, 3e38f};
    static const uint32_t biases[5] = {0x7f800000u, 0x7149f2cau, 0x7f7fffffu, 0xff800000u,
                                       0x7fc00000u};
    sample *s = &sample_;
    recipe how = {20.0, 1.0, 1.0, 0};
    make(s, &how, 400);
    for (int kind = 0; kind < 5; kind++) {
        choice c = kind < 4 ? hot[kind] : hot[0];
        static float q[GROUP * D];
        static float out[GROUP * D];
        static float bias[400];
        c.rope = 1;
        c.kind = kind == 4 ? LQ_KV_RAW : c.kind;
        c.bits = kind == 4 ? 0 : c.bits;
        c.quantizer = kind == 4 ? 0 : c.quantizer;
        lq_kv_desc d;
        desc_of(&d, s, &c, LQ_F16);
        void *mem = source_alloc(lq_kv_bytes(&d));
        lq_kv kv;
        CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
        fill(&kv, s, &how);
        lq_kv_attend_desc a;
        memset(&a, 0, sizeof a);
        a.heads = GROUP;
        a.q.data = q;
        a.out.data = out;
        float lse[GROUP];
        a.lse = lse;
        for (size_t n = 0; n < 8; n++) {
            for (size_t i = 0; i < GROUP * D; i++) {
                q[i] = (i % 3 ? 1.0f : -0.5f) * sizes[n];
            }
            int status = lq_kv_attend(&kv, &a);
            CHECK(status == LQ_E_DATA ||
                  (status == LQ_OK && source_finite_all(out, GROUP * D) && source_finite_all(lse, GROUP)));
            CHECK(status == (sizes[n] > 1.2e30f ? LQ_E_DATA : LQ_OK));
        }
        for (size_t i = 0; i < GROUP * D; i++) {
            q[i] = i % 3 ? 1.0f : -0.5f;
        }
        a.bias = bias;
        for (size_t n = 0; n < 5; n++) {
            memset(bias, 0, sizeof bias);
            memcpy(&bias[200], &biases[n], 4);
            int status = lq_kv_attend(&kv, &a);
            CHECK(status == (n == 4 ? LQ_E_DATA : LQ_OK));
            if (n < 3) { /* that token alone */
                static sample copy;
                double error = 0;
                copy = *s;
                read_back(&kv, &copy);
                for (size_t i = 0; i < D; i++) {
                    error += fabs((double)out[i] - copy.v[200][i]);
                }
                CHECK(error < 0.02 * D);
            }
        }
        free(mem);
    }
}

int main(int argc, char **argv)
{
    int quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    static uint8_t memory[1 << 20];
    CHECK(lq_tables_bytes() <= sizeof memory &&
          lq_tables_init(&tables_, memory, sizeof memory) == LQ_OK);
    for (int level = 0; level < 3; level++) {
        (void)lq_cpu_limit(level);
        test_turning_means(quick ? 1200 : MOST);
        test_steps();
        test_uneven();
        test_sizes();
        test_clipped();
        test_saturation();
        test_queries();
    }
    return check_report("bias");
}
