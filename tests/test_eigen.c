/* cc -std=c99 -O2 tests/test_eigen.c -o test_eigen -lm    The eigensolver of >>calibrate: residuals and
   orthogonality on kind and unkind matrices. `test_eigen short` and `tiny` stop at smaller ones. */
#include "header.h"
#include "inside.h"

#include "check.h"
#include "source.h"

enum { CANARY = 64 };

/* ---- matrices ---- */
/* a (n, n) = H diag(w) H with six random reflections. */
static void similar(double *a, size_t n, const double *w)
{
    double *v = (double *)source_alloc(2 * n * sizeof(double));
    double *y = v + n;
    memset(a, 0, n * n * sizeof(double));
    for (size_t i = 0; i < n; i++) {
        a[i * n + i] = w[i];
    }
    for (int turn = 0; turn < 6; turn++) {
        double s = 0;
        double k = 0;
        for (size_t i = 0; i < n; i++) {
            v[i] = source_gauss();
            s += v[i] * v[i];
        }
        s = sqrt(2 / s);
        for (size_t i = 0; i < n; i++) {
            v[i] *= s;
        }
        for (size_t i = 0; i < n; i++) {
            y[i] = 0;
            for (size_t j = 0; j < n; j++) {
                y[i] += a[i * n + j] * v[j];
            }
            k += y[i] * v[i];
        }
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < i; j++) {
                a[i * n + j] += -v[i] * y[j] - y[i] * v[j] + k * v[i] * v[j];
                a[j * n + i] = a[i * n + j];
            }
            a[i * n + i] += -2 * v[i] * y[i] + k * v[i] * v[i];
        }
    }
    free(v);
}

/* Kinds whose spectrum is chosen: into w, descending. */
enum { CHOSEN = 5 };
static void spectrum(int kind, double *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double x = (double)i / (double)n;
        switch (kind) {
        case 0: /* a covariance: 1 to 1e-8 */
            w[i] = pow(10, -8 * x);
            break;
        case 1: /* three values */
            w[i] = (double)(3 - (int)(3 * i / n));
            break;
        case 2: /* one cluster */
            w[i] = 1 + 1e-14 * (double)(n - i);
            break;
        case 3: /* one large */
            w[i] = i ? 1e-15 : 1;
            break;
        default: /* both signs */
            w[i] = 1 - 2 * x;
            break;
        }
    }
}

enum { GIVEN = 17 };
/* One element of the kinds that are given by elements, j <= i. */
static double element(int kind, size_t i, size_t j, size_t n)
{
    double x = (double)i;
    switch (kind) {
    case 0:
        return source_gauss();
    case 1: /* identity */
        return i == j;
    case 2:
        return 0;
    case 3: /* diagonal */
        return i == j ? source_gauss() : 0;
    case 4: /* second differences */
        return i == j ? 2 : i == j + 1 ? -1 : 0;
    case 5: /* rank one */
        return (x + 1) * (double)(j + 1) / (double)(n * n);
    case 6: /* Wilkinson: pairs that agree to every digit */
        return i == j ? fabs(x - (double)(n - 1) / 2) : i == j + 1;
    case 7: /* Wilkinson's, glued: clusters */
        return i == j ? fabs((double)(i % 21) - 10) : i == j + 1 ? (i % 21 ? 1 : 1e-8) : 0;
    case 8:
        return source_gauss() * 1e-150;
    case 9:
        return source_gauss() * 1e150;
    case 10:
        return source_gauss() * 1e-310;
    case 11: /* graded from 1 down to 1e-300 */
        return source_gauss() * pow(10, -300 * x / (double)n);
    case 12: /* arrow */
        return i == j ? (double)(i % 7) : j == 0;
    case 13: /* ones */
        return 1;
    case 14: /* zero diagonal, nearly decoupled pairs */
        return i == j + 1 ? (i % 2 ? 1 : 1e-13) : 0;
    case 15: /* blocks of eight: exact zeros between */
        return i / 8 == j / 8 ? (double)(1 + (i ^ j) % 3) : 0;
    default: /* both signs of one magnitude */
        return i == j ? (i % 2 ? -1 : 1) : 0;
    }
}

/* Fills a; w is the spectrum where the answer is 1. */
static int fill(int kind, double *a, double *w, size_t n)
{
    if (kind < CHOSEN) {
        spectrum(kind, w, n);
        similar(a, n, w);
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            a[i * n + j] = element(kind - CHOSEN, i, j, n);
            a[j * n + i] = a[i * n + j];
        }
    }
    for (size_t i = 0; i < n; i++) {
        double x = (double)(i + 1);
        switch (kind - CHOSEN) {
        case 1:
            w[i] = 1;
            break;
        case 2:
            w[i] = 0;
            break;
        case 4:
            w[i] = 2 + 2 * cos(SOURCE_PI * x / (double)(n + 1));
            break;
        case 5:
            w[i] =
                i ? 0 : (double)(n + 1) * (double)(2 * n + 1) / 6 / (double)n; /* sum of squares */
            break;
        case 13:
            w[i] = i ? 0 : (double)n;
            break;
        case 16:
            w[i] = 2 * i < n + n % 2 ? 1 : -1;
            break;
        default:
            return 0;
        }
    }
    return 1;
}

/* ---- one answer ---- */
static double worst_residual;
static double worst_product;

/* Every `skip`th vector: its residual A v - w v over the norm of A, its products with all others.
   Both within a few last bits per square root of n. */
static void verify(const double *a0, const double *v, const double *w, size_t n, size_t skip)
{
    double unit = 0;
    double norm = 0;
    double residual = 0;
    double product = 0;
    double bound = 3e-15 * sqrt((double)n);
    int falling = 1;
    for (size_t i = 0; i < n * n; i++) {
        unit = fabs(a0[i]) > unit ? fabs(a0[i]) : unit;
    }
    unit = unit > 0 ? unit : 1;
    for (size_t i = 0; i < n; i++) {
        norm = fabs(w[i] / unit) > norm ? fabs(w[i] / unit) : norm;
        falling &= i == 0 || w[i - 1] >= w[i];
    }
    norm = norm > 0 ? norm : 1;
    CHECK(falling);
    for (size_t i = 0; i < n; i += skip) {
        const double *x = v + i * n;
        double r = 0;
        for (size_t j = 0; j < n; j++) {
            double s = 0;
            double p = i == j ? -1 : 0;
            for (size_t k = 0; k < n; k++) {
                s += a0[j * n + k] / unit * x[k];
                p += v[j * n + k] * x[k];
            }
            s -= w[i] / unit * x[j];
            r += s * s;
            product = fabs(p) <= product ? product : fabs(p); /* a NaN stays */
        }
        residual = sqrt(r) / norm <= residual ? residual : sqrt(r) / norm;
    }
    CHECK(residual <= bound + 1e-323 / unit); /* eigenvalues that are subnormal have few bits */
    CHECK(product <= bound);
    worst_residual = fmax(worst_residual, unit < 1e-300 ? 0 : residual / sqrt((double)n));
    worst_product = fmax(worst_product, product / sqrt((double)n));
}

static void test_matrix(int kind, size_t n, size_t skip)
{
    size_t bytes = lq_inside_eigen_workspace_bytes(n);
    double *a0 = (double *)source_alloc(n * n * sizeof(double));
    double *a = (double *)source_alloc(n * n * sizeof(double));
    double *w = (double *)source_alloc(n * sizeof(double));
    double *want = (double *)source_alloc(n * sizeof(double));
    unsigned char *room = (unsigned char *)source_alloc(8 + bytes + CANARY);
    unsigned char *workspace = room + 8 * (kind & 1); /* any alignment of a double */
    int known = fill(kind, a0, want, n);
    int kept = 1;
    memcpy(a, a0, n * n * sizeof(double));
    memset(room, 0xff, 8 + bytes + CANARY);
    if (!CHECK(lq_inside_eigen(a, w, n, workspace) == 0)) {
        fprintf(stderr, "kind %d, n %lu\n", kind, (unsigned long)n);
    }
    for (size_t i = 0; i < CANARY; i++) {
        kept &= workspace[bytes + i] == 0xff;
    }
    CHECK(kept);
    verify(a0, a, w, n, skip);
    if (known) {
        double most = 0;
        double scale = fmax(fabs(want[0]), fabs(want[n - 1]));
        for (size_t i = 0; i < n; i++) {
            double e = fabs(w[i] - want[i]);
            most = e <= most ? most : e;
        }
        CHECK(most <= 1e-14 * sqrt((double)n) * scale);
    }
    free(a0);
    free(a);
    free(w);
    free(want);
    free(room);
}

/* NaN or infinity anywhere is refused. */
static void test_bad(size_t n)
{
    static const uint64_t bits[4] = {0x7ff0000000000000u, 0xfff0000000000000u, 0x7ff8000000000000u,
                                     0xfff0000000000001u};
    double *a = (double *)source_alloc(n * n * sizeof(double));
    double *w = (double *)source_alloc(n * sizeof(double));
    void *workspace = source_alloc(lq_inside_eigen_workspace_bytes(n));
    for (int i = 0; i < 4; i++) {
        for (size_t at = 0; at < n * n; at += n * n / 7 + 1) {
            (void)fill(CHOSEN, a, w, n);
            memcpy(&a[at], &bits[i], 8);
            CHECK(lq_inside_eigen(a, w, n, workspace) == -1);
        }
    }
    free(a);
    free(w);
    free(workspace);
}

/* The same matrix gives the same bits. */
static void test_again(size_t n)
{
    double *a[2];
    double *w[2];
    void *workspace = source_alloc(lq_inside_eigen_workspace_bytes(n));
    for (int i = 0; i < 2; i++) {
        a[i] = (double *)source_alloc(n * n * sizeof(double));
        w[i] = (double *)source_alloc(n * sizeof(double));
        source_seed = 9;
        (void)fill(0, a[i], w[i], n);
        memset(workspace, 0x33 * i, lq_inside_eigen_workspace_bytes(n));
        CHECK(lq_inside_eigen(a[i], w[i], n, workspace) == 0);
    }
    CHECK(memcmp(a[0], a[1], n * n * sizeof(double)) == 0);
    CHECK(memcmp(w[0], w[1], n * sizeof(double)) == 0);
    for (int i = 0; i < 2; i++) {
        free(a[i]);
        free(w[i]);
    }
    free(workspace);
}

/* Square roots to the last bits, over the whole range. */
static void test_sqrt(void)
{
    int bad = 0;
    CHECK(lq_inside_sqrt(0) <= 0 && lq_inside_sqrt(-1) <= 0);
    for (int e = -1020; e < 1020; e++) {
        double x = ldexp(1 + source_uniform(), e);
        bad += !(fabs(lq_inside_sqrt(x) / sqrt(x) - 1) <= 4.5e-16);
    }
    CHECK(bad == 0);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {1,  2,  3,  4,  5,  7,   31,  32,  33,
                                   34, 63, 64, 65, 66, 100, 129, 192, 257};
    int is_short = argc > 1 && strcmp(argv[1], "short") == 0;
    int tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    size_t largest = tiny ? 34 : is_short ? 129 : 257;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && sizes[i] <= largest; i++) {
        for (int kind = 0; kind < CHOSEN + GIVEN; kind++) {
            test_matrix(kind, sizes[i], 1);
        }
    }
    if (largest == 257) {
        test_matrix(0, 960, 13);
        test_matrix(CHOSEN, 577, 7);
    }
    test_bad(1);
    test_bad(2);
    test_bad(65);
    test_again(97);
    test_sqrt();
    printf("worst over sqrt(n): residual %.1e, products %.1e\n", worst_residual, worst_product);
    return check_report("test_eigen");
}
