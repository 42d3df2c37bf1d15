/* kv_files.h - part of pack_kv.c and calibrate.c: .npy arrays, archives, profiles, errors

   The program defines KF_PROGRAM, its name, and KF_NO_ROPE, the option that says so, and includes
   this first: every error is one line on
   stderr and exit code 1, and an output file appears under its name only when it is whole and, on
   POSIX systems, on the disk. */
#ifndef KV_FILES_H
#define KV_FILES_H

#if defined(__unix__) || defined(__APPLE__)
#define KF_POSIX
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#endif

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef KF_POSIX
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#define KF_SAMPLE "tests/data/smollm2-135m-l10-l20-"

/* What a file may hold: numbers in this byte order, and what they become here. */
typedef struct kf_dtype {
    const char *descr;
    const char *title;
    int type;
    size_t bytes;
    int big;
} kf_dtype;

/* NumPy writes what it does not know as void bytes: a bf16 of ml_dtypes is V2. */
static const kf_dtype kf_dtypes[] = {
    {"<f2", "f16", LQ_F16, 2, 0},         {">f2", "f16", LQ_F16, 2, 1},
    {"<f4", "f32", LQ_F32, 4, 0},         {">f4", "f32", LQ_F32, 4, 1},
    {"<f8", "f64 as f32", LQ_F32, 8, 0},  {">f8", "f64 as f32", LQ_F32, 8, 1},
    {"<V2", "bf16", LQ_BF16, 2, 0},       {">V2", "bf16", LQ_BF16, 2, 1},
    {"|V2", "bf16", LQ_BF16, 2, 0},       {"bfloat16", "bf16", LQ_BF16, 2, 0},
    {"<bfloat16", "bf16", LQ_BF16, 2, 0}, {">bfloat16", "bf16", LQ_BF16, 2, 1},
};

enum { KF_DTYPES = (int)(sizeof kf_dtypes / sizeof kf_dtypes[0]) };

/* Axes of a file: KF_OF_LAYER is [heads][tokens][dim]; the batch, in front of the layers or behind
   them, is 1. The numbers are in archives of pack_kv. */
enum { KF_PLAIN, KF_OF_LAYER, KF_BATCH_FIRST, KF_BATCH_SECOND, KF_AXES };

#define KF_SHAPES                                                                              \
    "[layers][heads][tokens][dim], [heads][tokens][dim] of one layer, or either with a batch " \
    "axis of 1"

/* data is [layers][heads][tokens][dim] of `type`, in this machine's byte order; NULL: not given
     axes   of the file, one of KF_PLAIN ...
     title  of the type in the file */
typedef struct kf_tensor {
    const char *name;
    const char *title;
    int axes;
    int type;
    size_t layers;
    size_t heads;
    size_t tokens;
    size_t dim;
    void *data;
} kf_tensor;

typedef struct kf_bytes {
    uint8_t *at;
    size_t count;
    size_t room;
} kf_bytes;

/* -------------------------------------------------------------------- errors, memory, progress */

static char *kf_partial; /* the unfinished output file, if there is one */
static size_t kf_shown;  /* columns of the progress line */

static void kf_progress(const char *what, size_t done, size_t total)
{
#ifdef KF_POSIX
    static int terminal = -1;
    if (terminal < 0) terminal = isatty(2);
    if (terminal && what) {
        int percent = (int)(100.0 * (double)done / (double)total);
        int n = fprintf(stderr, "\r%-24.24s %3d %%", what, percent);
        kf_shown = n > 0 ? (size_t)n : 0;
    } else if (terminal && kf_shown) {
        (void)fprintf(stderr, "\r%*s\r", (int)kf_shown, "");
        kf_shown = 0;
    }
#else
    (void)what;
    (void)done;
    (void)total;
#endif
}

#if defined(__GNUC__)
__attribute__((noreturn, format(printf, 1, 2)))
#endif
static void
kf_fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    char line[1024];
    (void)vsnprintf(line, sizeof line, format, list);
    va_end(list);
    for (char *at = line; *at; at++) { /* names come from outside: keep them printable */
        if ((unsigned char)*at < 32 || *at == 127) *at = '?';
    }
    if (kf_partial) (void)remove(kf_partial);
    kf_progress(NULL, 0, 1);
    (void)fflush(stdout);
    (void)fprintf(stderr, KF_PROGRAM ": %s\n", line);
    exit(1);
}

static void *kf_alloc(size_t count, size_t size)
{
    if (size && count > (size_t)-1 / 2 / size) {
        kf_fail("an array of %.0f bytes does not fit in memory", (double)count * (double)size);
    }
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) {
        kf_fail("out of memory (%.0f bytes wanted)", (double)count * (double)size);
    }
    return p;
}

/* A write callback that collects bytes. */
static int kf_collect(void *user, const void *bytes, size_t count)
{
    kf_bytes *b = (kf_bytes *)user;
    if (count > b->room - b->count) {
        size_t room = b->room * 2 > b->count + count ? b->room * 2 : b->count + count + 65536;
        uint8_t *at = (uint8_t *)realloc(b->at, room);
        if (!at) return -1;
        b->at = at;
        b->room = room;
    }
    if (count) {
        memcpy(b->at + b->count, bytes, count);
        b->count += count;
    }
    return 0;
}

static size_t kf_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---------------------------------------------------------------------------------------- .npy */

/* Elements of a shape, or a failure: every product and every limit is checked here. */
static size_t kf_elements(const kf_tensor *t)
{
    const size_t shape[4] = {t->layers, t->heads, t->tokens, t->dim};
    const size_t limit[4] = {65535, 65535, 0x7fffffff, LQ_ARCHIVE_MAX_DIMS};
    const char *const axis[4] = {"layers", "heads", "tokens", "dim"};
    size_t n = 1;
    for (int i = 0; i < 4; i++) {
        if (shape[i] == 0) {
            kf_fail("%s: the shape has a 0 (%s)", t->name, axis[i]);
        }
        if (n > (size_t)-1 / 8 / shape[i]) {
            kf_fail("%s: the shape is too large for this machine", t->name);
        }
        n *= shape[i];
    }
    for (int i = 0; i < 4; i++) {
        if (shape[i] > limit[i]) {
            kf_fail("%s: %.0f %s, more than %.0f", t->name, (double)shape[i], axis[i],
                    (double)limit[i]);
        }
    }
    return n;
}

/* Between this byte order and this machine's; the same both ways. */
static void kf_order(void *data, size_t count, size_t bytes, int big)
{
    uint8_t *p = (uint8_t *)data;
    const uint16_t one = 1;
    size_t i, j;
    uint8_t low;
    memcpy(&low, &one, 1);
    if (big == !low) return;
    for (i = 0; i < count; i++, p += bytes) {
        for (j = 0; j < bytes / 2; j++) {
            uint8_t kept = p[j];
            p[j] = p[bytes - 1 - j];
            p[bytes - 1 - j] = kept;
        }
    }
}

/* Skips blanks, and `c` behind them if it is there. */
static int kf_accept(const char **at, char c)
{
    while (**at == ' ' || **at == '\n' || **at == '\t') {
        ++*at;
    }
    if (**at != c) return 0;
    *at += c != '\0';
    return 1;
}

/* A quoted word; an empty one if there is none. */
static void kf_quoted(const char **at, char *word, size_t room)
{
    size_t n = 0;
    char quote = kf_accept(at, '\'') ? '\'' : kf_accept(at, '"') ? '"' : '\0';
    while (quote && **at && **at != quote && n + 1 < room) {
        word[n++] = *(*at)++;
    }
    if (quote && **at == quote) {
        ++*at;
    } else {
        n = 0;
    }
    word[n] = '\0';
}

/* A tuple of numbers: how many, or -1. Numbers beyond size_t become its maximum. */
static int kf_tuple(const char **at, size_t dims[5])
{
    int n = 0;
    if (!kf_accept(at, '(')) {
        return -1;
    }
    while (!kf_accept(at, ')')) {
        size_t value = 0;
        if (**at < '0' || **at > '9') return -1;
        for (; **at >= '0' && **at <= '9'; ++*at) {
            size_t digit = (size_t)(**at - '0');
            value = value > ((size_t)-1 - digit) / 10 ? (size_t)-1 : value * 10 + digit;
        }
        if (n < 5) dims[n] = value;
        n += n < 1000;
        if (!kf_accept(at, ',') && (*at)[strspn(*at, " ")] != ')') {
            return -1;
        }
    }
    return n;
}

/* The tensor's four axes from those of the file; `text` is the shape as it is written there. */
static void kf_axes(kf_tensor *t, const size_t *dims, int rank, const char *text, size_t count)
{
    static const char batch[] = "a batch of more than 1";
    static const char wrong[] = "not that of a KV cache";
    size_t all[4] = {1, 0, 0, 0}; /* a missing axis of layers is 1 */
    int from = 0;                 /* the file's axis that becomes axis i */
    t->axes = rank == 4      ? KF_PLAIN
              : rank == 3    ? KF_OF_LAYER
              : rank != 5    ? KF_AXES
              : dims[0] == 1 ? KF_BATCH_FIRST
              : dims[1] == 1 ? KF_BATCH_SECOND
                             : KF_AXES;
    if (t->axes == KF_AXES) {
        kf_fail("%s: shape %.*s, %d axes, %s: wanted " KF_SHAPES, t->name, (int)kf_min(count, 100),
                text, rank, rank == 5 ? batch : wrong);
    }
    for (int i = t->axes == KF_OF_LAYER; i < 4; i++, from++) {
        from +=
            (t->axes == KF_BATCH_FIRST && from == 0) || (t->axes == KF_BATCH_SECOND && from == 1);
        all[i] = dims[from];
    }
    t->layers = all[0];
    t->heads = all[1];
    t->tokens = all[2];
    t->dim = all[3];
}

/* What a descr names, or a failure. */
static const kf_dtype *kf_find_dtype(const kf_tensor *t, const char *descr)
{
    int i;
    for (i = 0; i < KF_DTYPES && strcmp(descr, kf_dtypes[i].descr) != 0; i++) {
    }
    if (i == KF_DTYPES) {
        kf_fail("%s: dtype '%s', not f16, bf16, f32 or f64: wanted '<f2', '<V2' or 'bfloat16', "
                "'<f4', '<f8', or one of these with '>'",
                t->name, descr);
    }
    return &kf_dtypes[i];
}

/* The Python dictionary in front of the numbers. */
static const kf_dtype *kf_npy_header(kf_tensor *t, const char *at, int *fortran)
{
    char descr[64] = "";
    size_t dims[5] = {0, 0, 0, 0, 0};
    const char *shape = at;
    size_t shape_bytes = 0;
    int rank = -1;
    int good = kf_accept(&at, '{');
    *fortran = -1;
    char key[16];
    while (good && !kf_accept(&at, '}')) {
        kf_quoted(&at, key, sizeof key);
        good = kf_accept(&at, ':');
        if (good && !strcmp(key, "descr") && !descr[0]) {
            if (at[strspn(at, " ")] == '[') {
                kf_fail("%s: a structured dtype, not one number an element", t->name);
            }
            kf_quoted(&at, descr, sizeof descr);
            good = descr[0] != '\0';
        } else if (good && !strcmp(key, "fortran_order") && *fortran < 0) {
            (void)kf_accept(&at, ' ');
            *fortran = !strncmp(at, "True", 4);
            good = *fortran || !strncmp(at, "False", 5);
            at += good ? 5 - *fortran : 0;
        } else if (good && !strcmp(key, "shape") && rank < 0) {
            at += strspn(at, " ");
            shape = at;
            rank = kf_tuple(&at, dims);
            shape_bytes = (size_t)(at - shape);
            good = rank >= 0;
        } else {
            good = 0;
        }
        good = good && (kf_accept(&at, ',') || *at == '}');
    }
    if (!good || !kf_accept(&at, '\0') || !descr[0] || *fortran < 0 || rank < 0) {
        kf_fail("%s: the .npy header is malformed", t->name);
    }
    const kf_dtype *dtype = kf_find_dtype(t, descr);
    kf_axes(t, dims, rank, shape, shape_bytes);
    t->type = dtype->type;
    t->title = dtype->title;
    return dtype;
}

/* Reads magic, version and header; the file stands at the numbers afterwards. */
static const kf_dtype *kf_npy_front(kf_tensor *t, FILE *file, int *fortran)
{
    uint8_t front[12];
    size_t wide = 0;
    size_t got = fread(front, 1, 10, file);
    if (got == 10 && !memcmp(front, "PK\3\4", 4)) {
        kf_fail("%s: not a .npy file but a zip archive (.npz, .pt): give the array in it", t->name);
    }
    if (got != 10 || memcmp(front, "\223NUMPY", 6) != 0) {
        kf_fail("%s: not a .npy file", t->name);
    }
    if (front[6] < 1 || front[6] > 3 || front[7] != 0) {
        kf_fail("%s: .npy version %d.%d is unknown", t->name, front[6], front[7]);
    }
    size_t bytes = front[8] | (size_t)front[9] << 8;
    if (front[6] > 1) {
        wide = fread(front + 10, 1, 2, file);
        bytes |= (size_t)front[10] << 16 | (size_t)front[11] << 24;
    }
    if ((front[6] > 1 && wide != 2) || bytes > 65535) {
        kf_fail("%s: the .npy header is malformed", t->name);
    }
    char *text = (char *)kf_alloc(bytes + 1, 1);
    t->data = text; /* still reachable if the header is bad */
    if (fread(text, 1, bytes, file) != bytes) {
        kf_fail("%s: cut short in the .npy header", t->name);
    }
    if (memchr(text, '\0', bytes)) {
        kf_fail("%s: the .npy header is malformed", t->name);
    }
    const kf_dtype *dtype = kf_npy_header(t, text, fortran);
    free(text);
    t->data = NULL;
    return dtype;
}

/* Ends the program over number i. */
static void kf_bad_number(const kf_tensor *t, size_t i, const char *what)
{
    size_t token = i / t->dim;
    kf_fail("%s: %s at layer %.0f, head %.0f, token %.0f, dim %.0f", t->name, what,
            (double)(token / t->tokens / t->heads), (double)(token / t->tokens % t->heads),
            (double)(token % t->tokens), (double)(i % t->dim));
}

static void kf_no_nan(const kf_tensor *t, size_t count)
{
    const uint16_t exponent = t->type == LQ_F16 ? 0x7c00 : 0x7f80; /* of the upper 16 bits */
    for (size_t i = 0; i < count; i++) {
        uint32_t u = 0;
        uint16_t h = 0;
        if (t->type == LQ_F32) {
            memcpy(&u, (const uint8_t *)t->data + 4 * i, 4);
            h = (uint16_t)(u >> 16);
        } else {
            memcpy(&h, (const uint8_t *)t->data + 2 * i, 2);
        }
        if ((h & exponent) == exponent) kf_bad_number(t, i, "NaN or infinity");
    }
}

/* From Fortran order, where the first axis runs fastest. */
static void kf_transpose(kf_tensor *t, size_t bytes)
{
    size_t rows = t->layers * t->heads * t->tokens;
    const uint8_t *src = (const uint8_t *)t->data;
    uint8_t *dst = (uint8_t *)malloc(rows * t->dim * bytes);
    size_t i, d;
    if (!dst) {
        kf_fail("%s: Fortran order takes twice its %.0f bytes, which do not fit in memory", t->name,
                (double)rows * (double)t->dim * (double)bytes);
    }
    for (i = 0; i < rows; i++) {
        size_t token = i % t->tokens;
        size_t head = i / t->tokens % t->heads;
        size_t layer = i / t->tokens / t->heads;
        size_t from = layer + t->layers * (head + t->heads * token);
        for (d = 0; d < t->dim; d++) {
            memcpy(dst + (i * t->dim + d) * bytes, src + (from + d * rows) * bytes, bytes);
        }
    }
    free(t->data);
    t->data = dst;
}

/* f64 to f32, in place. */
static void kf_narrow(kf_tensor *t, size_t count)
{
    uint8_t *p = (uint8_t *)t->data;
    for (size_t i = 0; i < count; i++) {
        double wide;
        memcpy(&wide, p + 8 * i, 8);
        if (fabs(wide) > (double)FLT_MAX) { /* not NaN, which kf_no_nan finds */
            kf_bad_number(t, i,
                          wide - wide == 0.0 ? "a number too large for f32" : "NaN or infinity");
        }
        float x = (float)wide;
        memcpy(p + 4 * i, &x, 4);
    }
}

/* The file's numbers as they lie there. */
static void kf_read_numbers(kf_tensor *t, FILE *file, size_t bytes)
{
    static const char cut[] = "%s: cut short (%.0f bytes of numbers, the shape wants %.0f)";
    long here = ftell(file);
    size_t got = 0;
    if (here >= 0 && fseek(file, 0, SEEK_END) == 0) { /* not a pipe: look before taking memory */
        double rest = (double)(ftell(file) - here);
        if (rest < (double)bytes || fseek(file, here, SEEK_SET) != 0) {
            kf_fail(cut, t->name, rest, (double)bytes);
        }
    }
    t->data = malloc(bytes);
    if (!t->data) {
        kf_fail("%s: %.0f bytes do not fit in memory", t->name, (double)bytes);
    }
    while (got < bytes) {
        size_t n = fread((uint8_t *)t->data + got, 1, kf_min(bytes - got, (size_t)1 << 24), file);
        if (n == 0) kf_fail(cut, t->name, (double)got, (double)bytes);
        got += n;
        if (bytes > (size_t)1 << 26) kf_progress("reading", got, bytes);
    }
    if (fgetc(file) != EOF) {
        kf_fail("%s: bytes behind the numbers that the shape wants", t->name);
    }
}

static void kf_load(kf_tensor *t, const char *name)
{
    t->name = name;
    FILE *file = fopen(name, "rb");
    if (!file) kf_fail("%s: cannot open (%s)", name, strerror(errno));
    int fortran;
    const kf_dtype *dtype = kf_npy_front(t, file, &fortran);
    size_t count = kf_elements(t);
    kf_read_numbers(t, file, count * dtype->bytes);
    (void)fclose(file);
    kf_order(t->data, count, dtype->bytes, dtype->big);
    if (fortran) kf_transpose(t, dtype->bytes);
    if (dtype->bytes == 8) kf_narrow(t, count);
    kf_no_nan(t, count);
    kf_progress(NULL, 0, 1);
}

/* What is given (has data) of a sequence must fit together. */
static void kf_check_shapes(const kf_tensor *k, const kf_tensor *v, const kf_tensor *q, int rope)
{
    if (k->data && v->data && (k->layers != v->layers || k->tokens != v->tokens)) {
        kf_fail("%s: wrong shape, layers or tokens are not those of %s", v->name, k->name);
    }
    if (q->data && (q->layers != k->layers || q->dim != k->dim || q->tokens > k->tokens ||
                    q->heads % k->heads != 0)) {
        kf_fail("%s: wrong shape, not queries of the last tokens of %s", q->name, k->name);
    }
    if (k->data && rope && k->dim % 2 != 0) {
        kf_fail("%s: wrong shape for RoPE, an odd dim (%s if there was none)", k->name, KF_NO_ROPE);
    }
}

/* The sample of the repository: K, V and queries. */
static void kf_sample(const char *files[3])
{
    FILE *file = fopen(KF_SAMPLE "k.npy", "rb");
    if (!file) {
        kf_fail("%s: not here: run in the root of the repository, or give --k and --v",
                KF_SAMPLE "k.npy");
    }
    (void)fclose(file);
    files[0] = KF_SAMPLE "k.npy";
    files[1] = KF_SAMPLE "v.npy";
    files[2] = KF_SAMPLE "q.npy";
}

/* --------------------------------------------------------------------------------------- files */

static char *kf_beside(const char *name)
{
    size_t n = strlen(name);
    char *tmp = (char *)kf_alloc(n + 5, 1);
    memcpy(tmp, name, n);
    memcpy(tmp + n, ".tmp", 5);
    return tmp;
}

static FILE *kf_create(const char *name)
{
    FILE *file;
#ifdef KF_POSIX
    struct stat info;
    if (stat(name, &info) == 0 && !S_ISREG(info.st_mode)) {
        kf_fail("%s: cannot write (not a regular file)", name);
    }
#endif
    kf_partial = kf_beside(name);
    file = fopen(kf_partial, "wb");
    if (!file) {
        int error = errno;
        free(kf_partial);
        kf_partial = NULL;
        kf_fail("%s: cannot write (%s)", name, strerror(error));
    }
    return file;
}

static void kf_forget_partial(void)
{
    free(kf_partial);
    kf_partial = NULL;
}

/* Fails now rather than after the work when nothing can be written there. */
static void kf_probe(const char *name)
{
    FILE *file = kf_create(name);
    (void)fclose(file);
    (void)remove(kf_partial);
    kf_forget_partial();
}

/* Whether what was written is on the disk, as far as the system tells. */
static int kf_flush(FILE *file)
{
    int bad = fflush(file) != 0;
#ifdef KF_POSIX
    bad = bad || fsync(fileno(file)) != 0;
#endif
    return bad;
}

/* A new name is on the disk when its folder is. */
static void kf_flush_folder(const char *name)
{
#ifdef KF_POSIX
    const char *slash = strrchr(name, '/');
    size_t n = slash ? (size_t)(slash - name) + 1 : 1;
    char *folder = (char *)kf_alloc(n + 1, 1);
    memcpy(folder, slash ? name : ".", n);
    int fd = open(folder, O_RDONLY);
    free(folder);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
#else
    (void)name;
#endif
}

/* Writes head and body to NAME.tmp and, when all of it is on the disk, makes that NAME. */
static void kf_save(const char *name, const void *head, size_t head_bytes, const void *body,
                    size_t body_bytes)
{
    FILE *file = kf_create(name);
    int bad = fwrite(head, 1, head_bytes, file) != head_bytes;
    bad = bad || fwrite(body, 1, body_bytes, file) != body_bytes;
    bad = kf_flush(file) || bad;
    bad = fclose(file) != 0 || bad;
#ifdef _WIN32
    (void)(bad || remove(name));
#endif
    if (bad || rename(kf_partial, name) != 0) {
        kf_fail("%s: cannot write (%s)", name, strerror(errno));
    }
    kf_flush_folder(name);
    kf_forget_partial();
}

static void kf_read_all(const char *name, kf_bytes *dst)
{
    FILE *file = fopen(name, "rb");
    size_t n = 1;
    if (!file) kf_fail("%s: cannot open (%s)", name, strerror(errno));
    uint8_t block[2048];
    while (n > 0) {
        n = fread(block, 1, sizeof block, file);
        if (kf_collect(dst, block, n)) {
            kf_fail("%s: does not fit in memory", name);
        }
    }
    if (ferror(file)) kf_fail("%s: cannot read (%s)", name, strerror(errno));
    (void)fclose(file);
}

typedef struct kf_reader {
    lq_archive_reader reader;
    void *mem;
    const char *name;
} kf_reader;

static void kf_open(kf_reader *r, const lq_archive_source *source, const char *name)
{
    size_t needed = 0;
    r->name = name;
    r->mem = NULL;
    uint8_t none[1];
    int status = lq_archive_open(&r->reader, source, none, 0, &needed);
    if (status == LQ_E_SPACE) {
        r->mem = kf_alloc(needed, 1);
        status = lq_archive_open(&r->reader, source, r->mem, needed, &needed);
    }
    if (status) {
        kf_fail("%s: not a whole archive (%s)", name, lq_status_string(status));
    }
}

static void kf_open_bytes(kf_reader *r, const kf_bytes *bytes)
{
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = bytes->at;
    source.size = bytes->count;
    kf_open(r, &source, "the archive in memory");
}

/* ----------------------------------------------------------------------------------- profiles */

/* The number that stands for a model's name in its profiles: the head of the name's hash, not 0. */
static uint64_t kf_model(const char *name)
{
    uint8_t hash[16];
    uint64_t model = 0;
    lq_blake2s_128(hash, name, strlen(name));
    for (int i = 7; i >= 0; i--) {
        model = model << 8 | hash[i];
    }
    return model ? model : 1;
}

/* One group of a file of calibrated profiles.
     file    the profile's file form
     memory  what the loaded profile lies in */
typedef struct kf_group {
    lq_archive_group_desc desc;
    lq_slice *slices;
    lq_archive_profile_desc file;
    lq_profile profile;
    void *memory;
} kf_group;

/* An archive without runs whose profile i belongs to group i, in memory. */
typedef struct kf_profiles {
    const char *name;
    kf_bytes bytes;
    kf_reader r;
    kf_group *groups;
    size_t count;
} kf_profiles;

static void kf_profile_load(kf_profiles *p, uint32_t id)
{
    kf_group *g = &p->groups[id];
    size_t needed = 0;
    size_t dims = 0;
    int status = lq_archive_group(&p->r.reader, id, &g->desc, NULL, 0);
    if (!status) {
        g->slices = (lq_slice *)kf_alloc(g->desc.slice_count, sizeof *g->slices);
        status = lq_archive_group(&p->r.reader, id, &g->desc, g->slices, g->desc.slice_count);
    }
    for (size_t i = 0; i < g->desc.slice_count && !status; i++) {
        dims += g->slices[i].dims;
    }
    if (!status) status = lq_archive_profile(&p->r.reader, id, &g->file);
    if (!status && !g->file.bytes) {
        kf_fail("%s: profile %u is kept elsewhere", p->name, id);
    }
    if (!status) {
        status = lq_profile_load(&g->profile, NULL, 0, &needed, g->file.bytes, g->file.count);
    }
    if (status == LQ_E_SPACE) {
        g->memory = kf_alloc(needed, 1);
        status =
            lq_profile_load(&g->profile, g->memory, needed, &needed, g->file.bytes, g->file.count);
    }
    if (status) {
        kf_fail("%s: profile %u is not one (%s)", p->name, id, lq_status_string(status));
    }
    if (!g->profile.dense || g->profile.stream != g->desc.stream || g->profile.dims != dims ||
        g->profile.slice_count != g->desc.slice_count) {
        kf_fail("%s: profile %u does not fit its group", p->name, id);
    }
}

/* All profiles of the archive in p->bytes, or a failure. */
static void kf_profiles_load(kf_profiles *p, const char *name)
{
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = p->bytes.at;
    source.size = p->bytes.count;
    p->name = name;
    kf_open(&p->r, &source, name);
    p->count = p->r.reader.group_count;
    if (p->count == 0 || p->r.reader.run_count || p->r.reader.profile_count != p->count) {
        kf_fail("%s: an archive, but not one of calibrated profiles", name);
    }
    p->groups = (kf_group *)kf_alloc(p->count, sizeof *p->groups);
    for (uint32_t i = 0; i < p->count; i++) {
        kf_profile_load(p, i);
    }
}

static void kf_profiles_free(kf_profiles *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->groups[i].slices);
        free(p->groups[i].memory);
    }
    free(p->groups);
    free(p->r.mem);
    free(p->bytes.at);
}

static const lq_tables *kf_tables(void **mem)
{
    *mem = kf_alloc(lq_tables_bytes(), 1);
    const lq_tables *tables;
    if (lq_tables_init(&tables, *mem, lq_tables_bytes())) {
        kf_fail("the coder's tables do not build: please report");
    }
    return tables;
}

/* RoPE over all dims of a head, at base theta. Returns its frequencies, which the caller frees. */
static float *kf_rope(lq_rope *rope, double theta, size_t dim, int layout)
{
    float *freqs = (float *)kf_alloc(dim / 2, sizeof *freqs);
    for (size_t i = 0; i < dim / 2; i++) {
        freqs[i] = (float)pow(theta, -2.0 * (double)i / (double)dim);
    }
    memset(rope, 0, sizeof *rope);
    rope->freqs = freqs;
    rope->rotary_dims = (uint32_t)dim;
    rope->layout = (uint32_t)layout;
    return freqs;
}

/* -------------------------------------------------------------------------------------- energy */

/* Sum of the squares of what the mean of each channel leaves of heads [first, first + heads) of a
   layer: what a codec has to keep. RoPE, where there is one, is undone; the first `skip` tokens do
   not count. position: of token 0. */
static double kf_energy(const kf_tensor *t, size_t layer, size_t first, size_t heads, size_t skip,
                        const lq_rope *rope, int64_t position)
{
    size_t count = t->tokens > skip ? t->tokens - skip : 0;
    float *x = (float *)kf_alloc(count * t->dim, sizeof *x);
    lq_positions at = {0, 1, NULL};
    double sum = 0.0;
    size_t h, i, d;
    at.first = position + (int64_t)skip;
    for (h = first; h < first + heads && count; h++) {
        size_t row = ((layer * t->heads + h) * t->tokens + skip) * t->dim;
        if (lq_f32_from_type(x, (const uint8_t *)t->data + row * lq_type_bytes(t->type),
                             count * t->dim, t->type) ||
            (rope && lq_rope_undo_f32(x, count, t->dim, t->dim, rope, &at))) {
            kf_fail("%s: cannot be read", t->name);
        }
        for (d = 0; d < t->dim; d++) {
            double mean = 0.0;
            for (i = 0; i < count; i++) {
                mean += (double)x[i * t->dim + d] / (double)count;
            }
            for (i = 0; i < count; i++) {
                double y = (double)x[i * t->dim + d] - mean;
                sum += y * y;
            }
        }
    }
    free(x);
    return sum;
}

/* Root mean square of the same: the unit of steps; 1 where nothing is left. */
static double kf_unit(const kf_tensor *t, size_t layer, size_t first, size_t heads, size_t skip,
                      const lq_rope *rope, int64_t position)
{
    double count = (double)heads * (double)(t->tokens - kf_min(skip, t->tokens)) * (double)t->dim;
    double energy = kf_energy(t, layer, first, heads, skip, rope, position);
    return energy > 1e-30 * count ? sqrt(energy / count) : 1.0;
}

/* ---------------------------------------------------------------------------- errors of logits */

static float kf_dot(const float *a, const float *b, size_t n)
{
    float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    size_t i;
    for (i = 0; i + 4 <= n; i += 4) {
        s[0] += a[i] * b[i];
        s[1] += a[i + 1] * b[i + 1];
        s[2] += a[i + 2] * b[i + 2];
        s[3] += a[i + 3] * b[i + 3];
    }
    for (; i < n; i++) {
        s[0] += a[i] * b[i];
    }
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* Mean square of q . delta / sqrt(dim) over the causal pairs; q: queries of the last tokens of a
   layer of t; delta: k' - k of all its heads. */
static double kf_logit_error(const kf_tensor *queries, const float *q, const kf_tensor *t,
                             const float *delta)
{
    double sum = 0.0;
    double pairs = 0.0;
    size_t h, i, s;
    for (h = 0; h < queries->heads; h++) {
        const float *d = delta + h / (queries->heads / t->heads) * t->tokens * t->dim;
        for (i = 0; i < queries->tokens; i++) {
            const float *x = q + (h * queries->tokens + i) * t->dim;
            size_t end = t->tokens - queries->tokens + i + 1;
            for (s = 0; s < end; s++) {
                double e = (double)kf_dot(x, d + s * t->dim, t->dim);
                sum += e * e;
            }
            pairs += (double)end;
        }
    }
    return sum / pairs / (double)t->dim;
}

/* -------------------------------------------------------------------------------- command line */

/* A number of [min, max], whole if `whole`. */
static double kf_number(const char *option, const char *text, double min, double max, int whole)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= min && x <= max) || (whole && floor(x) != x)) {
        kf_fail("%s wants a %snumber from %g to %g, not '%s'", option, whole ? "whole " : "", min,
                max, text);
    }
    return x;
}

static int kf_finish(void)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        kf_fail("cannot write to the standard output");
    }
    return 0;
}

#endif
