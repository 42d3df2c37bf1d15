/* cc -O2 examples/pack_kv.c -o pack_kv -lm */

/* pack_kv.c - a KV cache in .npy files to an archive and back, with the damage measured

       ./pack_kv                                             the sample in tests/data
       ./pack_kv --k k.npy --v v.npy --q q.npy --out kv.lq --bits 2.5
       ./pack_kv --unpack kv.lq --k k.npy --v v.npy

   It prints what the archive costs and what it does to attention, beside q8_0, q4_0, Hadamard +
   q4_0 and 4-bit Lloyd-Max on the same data, then writes the archive, reads it again and verifies
   it. Groups are the heads of a layer, K and V apart; the profile is fitted to the sequence, so
   nothing is calibrated and everything that decoding needs is in the file.

   Errors: K is judged by its logits, mean square of q . (k' - k) / sqrt(dim) over the causal pairs
   of the given queries; V by the attention output, mean square of sum p (v' - v), p from the raw K.
   The first tokens (--sinks) stay raw for all codecs alike and do not count in the table. */
#if defined(__unix__) || defined(__APPLE__)
#define PK_POSIX
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#endif

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef PK_POSIX
#include <sys/stat.h>
#include <unistd.h>
#endif

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include "../bench/rivals.h"

#define PK_SAMPLE "tests/data/smollm2-135m-l10-l20-"
#define PK_META 0x564b4b50u /* "PKKV" */

enum {
    PK_META_BYTES = 56,
    PK_OURS = 3,
    PK_RIVALS = 4,
    PK_CODECS = PK_OURS + PK_RIVALS,
    PK_RUNS = 9,
    PK_RANGES = 6
};

/* data is [layers][heads][tokens][dim] of `type`, in this machine's byte order; NULL: not given */
typedef struct pk_tensor {
    const char *name;
    int type;
    size_t layers;
    size_t heads;
    size_t tokens;
    size_t dim;
    void *data;
} pk_tensor;

typedef struct pk_bytes {
    uint8_t *at;
    size_t count;
    size_t room;
} pk_bytes;

/* Steps of K and V. */
typedef struct pk_steps {
    const char *name;
    double of[2];
} pk_steps;

typedef struct pk_options {
    const char *files[3]; /* K, V, queries */
    const char *out;
    const char *unpack;
    const char *rope;
    const char *quantizer;
    double step;
    double vstep;
    double bits;
    double bytes;
    double theta;
    double sinks;
} pk_options;

typedef struct pk_job {
    pk_options options;
    pk_tensor kv[2];
    pk_tensor queries;
    const lq_tables *tables;
    void *tables_mem;
    lq_rope rope; /* freqs NULL: none */
    float *freqs;
    int quantizer;
    size_t sinks;
    pk_steps ours[PK_OURS]; /* ours[1] is what the archive gets */
    size_t ours_count;
    int fault_stream; /* where packing failed */
    size_t fault_layer;
} pk_job;

/* One cell of the table. */
typedef struct pk_cell {
    double bytes;
    double elements;
    double noise;
    double power;
    double error; /* below 0: not known */
} pk_cell;

/* --------------------------------------------------------------- errors, memory, progress, time */

static char *pk_partial; /* the unfinished output file, if there is one */
static size_t pk_shown;  /* columns of the progress line */

static void pk_progress(const char *what, size_t done, size_t total)
{
#ifdef PK_POSIX
    static int terminal = -1;
    if (terminal < 0) {
        terminal = isatty(2);
    }
    if (terminal && what) {
        int percent = (int)(100.0 * (double)done / (double)total);
        int n = fprintf(stderr, "\r%-24.24s %3d %%", what, percent);
        pk_shown = n > 0 ? (size_t)n : 0;
    } else if (terminal && pk_shown) {
        (void)fprintf(stderr, "\r%*s\r", (int)pk_shown, "");
        pk_shown = 0;
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
pk_fail(const char *format, ...)
{
    char line[1024];
    char *at;
    va_list list;
    va_start(list, format);
    (void)vsnprintf(line, sizeof line, format, list);
    va_end(list);
    for (at = line; *at; at++) { /* names come from outside: keep them printable */
        if ((unsigned char)*at < 32 || *at == 127) {
            *at = '?';
        }
    }
    if (pk_partial) {
        (void)remove(pk_partial);
    }
    pk_progress(NULL, 0, 1);
    (void)fflush(stdout);
    (void)fprintf(stderr, "pack_kv: %s\n", line);
    exit(1);
}

static void *pk_alloc(size_t count, size_t size)
{
    void *p;
    if (size && count > (size_t)-1 / 2 / size) {
        pk_fail("an array of %.0f bytes does not fit in memory", (double)count * (double)size);
    }
    p = calloc(count ? count : 1, size ? size : 1);
    if (!p) {
        pk_fail("out of memory (%.0f bytes wanted)", (double)count * (double)size);
    }
    return p;
}

/* A write callback that collects bytes. */
static int pk_collect(void *user, const void *bytes, size_t count)
{
    pk_bytes *b = (pk_bytes *)user;
    if (count > b->room - b->count) {
        size_t room = b->room * 2 > b->count + count ? b->room * 2 : b->count + count + 65536;
        uint8_t *at = (uint8_t *)realloc(b->at, room);
        if (!at) {
            return -1;
        }
        b->at = at;
        b->room = room;
    }
    if (count) {
        memcpy(b->at + b->count, bytes, count);
        b->count += count;
    }
    return 0;
}

/* Seconds of this thread's CPU time. */
static double pk_now(void)
{
#ifdef PK_POSIX
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
#endif
    return (double)clock() / CLOCKS_PER_SEC;
}

static size_t pk_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int pk_compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* ----------------------------------------------------------------------------------------- .npy */

/* Elements of a shape, or a failure: every product and every limit is checked here. */
static size_t pk_elements(const pk_tensor *t)
{
    const size_t shape[4] = {t->layers, t->heads, t->tokens, t->dim};
    const size_t limit[4] = {65535, 65535, 0x7fffffff, LQ_ARCHIVE_MAX_DIMS};
    const char *const axis[4] = {"layers", "heads", "tokens", "dim"};
    size_t n = 1;
    int i;
    for (i = 0; i < 4; i++) {
        if (shape[i] == 0) {
            pk_fail("%s: the shape has a 0 (%s)", t->name, axis[i]);
        }
        if (n > (size_t)-1 / 8 / shape[i]) {
            pk_fail("%s: the shape is too large for this machine", t->name);
        }
        n *= shape[i];
    }
    for (i = 0; i < 4; i++) {
        if (shape[i] > limit[i]) {
            pk_fail("%s: %.0f %s, more than %.0f", t->name, (double)shape[i], axis[i],
                    (double)limit[i]);
        }
    }
    return n;
}

/* Between the file's little-endian order and this machine's; the same both ways. */
static void pk_little_endian(void *data, size_t count, int type)
{
    uint8_t *p = (uint8_t *)data;
    size_t i;
    for (i = 0; type == LQ_F16 && i < count; i++, p += 2) {
        uint16_t u = (uint16_t)(p[0] | p[1] << 8);
        memcpy(p, &u, 2);
    }
    for (i = 0; type == LQ_F32 && i < count; i++, p += 4) {
        uint32_t u = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        memcpy(p, &u, 4);
    }
}

/* Skips blanks, and `c` behind them if it is there. */
static int pk_accept(const char **at, char c)
{
    while (**at == ' ' || **at == '\n' || **at == '\t') {
        ++*at;
    }
    if (**at != c) {
        return 0;
    }
    *at += c != '\0';
    return 1;
}

/* A quoted word; an empty one if there is none. */
static void pk_quoted(const char **at, char *word, size_t room)
{
    size_t n = 0;
    char quote = pk_accept(at, '\'') ? '\'' : pk_accept(at, '"') ? '"' : '\0';
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
static int pk_tuple(const char **at, size_t dims[4])
{
    int n = 0;
    if (!pk_accept(at, '(')) {
        return -1;
    }
    while (!pk_accept(at, ')')) {
        size_t value = 0;
        if (**at < '0' || **at > '9') {
            return -1;
        }
        for (; **at >= '0' && **at <= '9'; ++*at) {
            size_t digit = (size_t)(**at - '0');
            value = value > ((size_t)-1 - digit) / 10 ? (size_t)-1 : value * 10 + digit;
        }
        if (n < 4) {
            dims[n] = value;
        }
        n += n < 1000;
        if (!pk_accept(at, ',') && (*at)[strspn(*at, " ")] != ')') {
            return -1;
        }
    }
    return n;
}

/* The Python dictionary in front of the numbers. */
static void pk_npy_header(pk_tensor *t, const char *at)
{
    char key[16];
    char descr[16] = "";
    size_t dims[4] = {0, 0, 0, 0};
    int rank = -1;
    int fortran = -1;
    int good = pk_accept(&at, '{');
    while (good && !pk_accept(&at, '}')) {
        pk_quoted(&at, key, sizeof key);
        good = pk_accept(&at, ':');
        if (good && !strcmp(key, "descr") && !descr[0]) {
            pk_quoted(&at, descr, sizeof descr);
            good = descr[0] != '\0';
        } else if (good && !strcmp(key, "fortran_order") && fortran < 0) {
            (void)pk_accept(&at, ' ');
            fortran = !strncmp(at, "True", 4);
            good = fortran || !strncmp(at, "False", 5);
            at += good ? 5 - fortran : 0;
        } else if (good && !strcmp(key, "shape") && rank < 0) {
            rank = pk_tuple(&at, dims);
            good = rank >= 0;
        } else {
            good = 0;
        }
        good = good && (pk_accept(&at, ',') || *at == '}');
    }
    if (!good || !pk_accept(&at, '\0') || !descr[0] || fortran < 0 || rank < 0) {
        pk_fail("%s: the .npy header is malformed", t->name);
    }
    t->type = !strcmp(descr, "<f2") ? LQ_F16 : !strcmp(descr, "<f4") ? LQ_F32 : 0;
    if (!t->type) {
        pk_fail("%s: dtype '%s', not little-endian f16 or f32 ('<f2', '<f4')", t->name, descr);
    }
    if (fortran) {
        pk_fail("%s: Fortran order, not C order", t->name);
    }
    if (rank != 4) {
        pk_fail("%s: %d axes, not [layers][heads][tokens][dim]", t->name, rank);
    }
    t->layers = dims[0];
    t->heads = dims[1];
    t->tokens = dims[2];
    t->dim = dims[3];
}

/* Reads magic, version and header; the file stands at the numbers afterwards. */
static void pk_npy_front(pk_tensor *t, FILE *file)
{
    uint8_t front[12];
    size_t bytes;
    size_t wide = 0;
    char *text;
    if (fread(front, 1, 10, file) != 10 || memcmp(front, "\223NUMPY", 6) != 0) {
        pk_fail("%s: not a .npy file", t->name);
    }
    if (front[6] < 1 || front[6] > 3 || front[7] != 0) {
        pk_fail("%s: .npy version %d.%d is unknown", t->name, front[6], front[7]);
    }
    bytes = front[8] | (size_t)front[9] << 8;
    if (front[6] > 1) {
        wide = fread(front + 10, 1, 2, file);
        bytes |= (size_t)front[10] << 16 | (size_t)front[11] << 24;
    }
    if ((front[6] > 1 && wide != 2) || bytes > 65535) {
        pk_fail("%s: the .npy header is malformed", t->name);
    }
    text = (char *)pk_alloc(bytes + 1, 1);
    t->data = text; /* still reachable if the header is bad */
    if (fread(text, 1, bytes, file) != bytes) {
        pk_fail("%s: cut short in the .npy header", t->name);
    }
    if (memchr(text, '\0', bytes)) {
        pk_fail("%s: the .npy header is malformed", t->name);
    }
    pk_npy_header(t, text);
    free(text);
    t->data = NULL;
}

static void pk_no_nan(const pk_tensor *t, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        uint32_t u = 0;
        uint16_t h = 0;
        int bad;
        if (t->type == LQ_F16) {
            memcpy(&h, (const uint8_t *)t->data + 2 * i, 2);
            bad = (h & 0x7c00u) == 0x7c00u;
        } else {
            memcpy(&u, (const uint8_t *)t->data + 4 * i, 4);
            bad = (u & 0x7f800000u) == 0x7f800000u;
        }
        if (bad) {
            size_t token = i / t->dim;
            pk_fail("%s: NaN or infinity at layer %.0f, head %.0f, token %.0f, dim %.0f", t->name,
                    (double)(token / t->tokens / t->heads), (double)(token / t->tokens % t->heads),
                    (double)(token % t->tokens), (double)(i % t->dim));
        }
    }
}

static void pk_load(pk_tensor *t, const char *name)
{
    FILE *file;
    size_t count, bytes;
    size_t got = 0;
    long here;
    double rest;
    t->name = name;
    file = fopen(name, "rb");
    if (!file) {
        pk_fail("%s: cannot open (%s)", name, strerror(errno));
    }
    pk_npy_front(t, file);
    count = pk_elements(t);
    bytes = count * lq_type_bytes(t->type);
    here = ftell(file);
    if (here >= 0 && fseek(file, 0, SEEK_END) == 0) { /* not a pipe: look before taking memory */
        rest = (double)(ftell(file) - here);
        if (rest < (double)bytes || fseek(file, here, SEEK_SET) != 0) {
            pk_fail("%s: cut short (%.0f bytes of numbers, the shape wants %.0f)", name, rest,
                    (double)bytes);
        }
    }
    t->data = malloc(bytes);
    if (!t->data) {
        pk_fail("%s: %.0f bytes do not fit in memory", name, (double)bytes);
    }
    while (got < bytes) {
        size_t n = fread((uint8_t *)t->data + got, 1, pk_min(bytes - got, (size_t)1 << 24), file);
        if (n == 0) {
            pk_fail("%s: cut short (%.0f bytes of numbers, the shape wants %.0f)", name,
                    (double)got, (double)bytes);
        }
        got += n;
        if (bytes > (size_t)1 << 26) {
            pk_progress("reading", got, bytes);
        }
    }
    if (fgetc(file) != EOF) {
        pk_fail("%s: bytes behind the numbers that the shape wants", name);
    }
    (void)fclose(file);
    pk_little_endian(t->data, count, t->type);
    pk_no_nan(t, count);
    pk_progress(NULL, 0, 1);
}

/* --------------------------------------------------------------------------------- output files */

static char *pk_beside(const char *name)
{
    size_t n = strlen(name);
    char *tmp = (char *)pk_alloc(n + 5, 1);
    memcpy(tmp, name, n);
    memcpy(tmp + n, ".tmp", 5);
    return tmp;
}

static FILE *pk_create(const char *name)
{
    FILE *file;
#ifdef PK_POSIX
    struct stat info;
    if (stat(name, &info) == 0 && !S_ISREG(info.st_mode)) {
        pk_fail("%s: cannot write (not a regular file)", name);
    }
#endif
    pk_partial = pk_beside(name);
    file = fopen(pk_partial, "wb");
    if (!file) {
        int error = errno;
        free(pk_partial);
        pk_partial = NULL;
        pk_fail("%s: cannot write (%s)", name, strerror(error));
    }
    return file;
}

static void pk_forget_partial(void)
{
    free(pk_partial);
    pk_partial = NULL;
}

/* Fails now rather than after the work when nothing can be written there. */
static void pk_probe(const char *name)
{
    FILE *file = pk_create(name);
    (void)fclose(file);
    (void)remove(pk_partial);
    pk_forget_partial();
}

/* Writes head and body to NAME.tmp and, when all of it is there, makes that NAME. */
static void pk_save(const char *name, const void *head, size_t head_bytes, const void *body,
                    size_t body_bytes)
{
    FILE *file = pk_create(name);
    int bad = fwrite(head, 1, head_bytes, file) != head_bytes;
    bad = bad || fwrite(body, 1, body_bytes, file) != body_bytes;
    bad = fflush(file) != 0 || bad;
    bad = fclose(file) != 0 || bad;
#ifdef _WIN32
    (void)(bad || remove(name));
#endif
    if (bad || rename(pk_partial, name) != 0) {
        pk_fail("%s: cannot write (%s)", name, strerror(errno));
    }
    pk_forget_partial();
}

static void pk_save_npy(const char *name, const pk_tensor *t)
{
    char text[256];
    char front[256];
    size_t count = pk_elements(t);
    int used = snprintf(text, sizeof text,
                        "{'descr': '<f%d', 'fortran_order': False, "
                        "'shape': (%.0f, %.0f, %.0f, %.0f), }",
                        (int)lq_type_bytes(t->type), (double)t->layers, (double)t->heads,
                        (double)t->tokens, (double)t->dim);
    size_t bytes = ((size_t)used + 11 + 63) / 64 * 64;
    memset(front, ' ', sizeof front);
    memcpy(front, "\223NUMPY\1\0", 8);
    front[8] = (char)((bytes - 10) & 255);
    front[9] = (char)((bytes - 10) >> 8);
    memcpy(front + 10, text, (size_t)used);
    front[bytes - 1] = '\n';
    pk_little_endian(t->data, count, t->type);
    pk_save(name, front, bytes, t->data, count * lq_type_bytes(t->type));
}

/* -------------------------------------------------------------------------------------- packing */

/* Heads in a group: all of the layer, if the format's limits allow. */
static size_t pk_group_heads(const pk_tensor *t)
{
    size_t most = pk_min(LQ_ARCHIVE_MAX_SLICES, LQ_ARCHIVE_MAX_DIMS / t->dim);
    return pk_min(t->heads, most);
}

static size_t pk_groups(const pk_tensor *t)
{
    size_t heads = pk_group_heads(t);
    return (t->heads + heads - 1) / heads;
}

static uint8_t *pk_put32(uint8_t *p, uint32_t u)
{
    p[0] = (uint8_t)u;
    p[1] = (uint8_t)(u >> 8);
    p[2] = (uint8_t)(u >> 16);
    p[3] = (uint8_t)(u >> 24);
    return p + 4;
}

static uint32_t pk_get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The record that makes --unpack need nothing else: version, pairing of RoPE (0: none), theta as a
   double, then type (0: stream not there), layers, heads, tokens and dim of K and of V. */
static void pk_meta(const pk_job *job, int streams, uint8_t *meta)
{
    uint64_t theta;
    int i;
    memcpy(&theta, &job->options.theta, 8);
    meta = pk_put32(meta, 1);
    meta = pk_put32(meta, job->freqs ? job->rope.layout : 0);
    meta = pk_put32(meta, (uint32_t)theta);
    meta = pk_put32(meta, (uint32_t)(theta >> 32));
    for (i = 0; i < 2; i++) {
        const pk_tensor *t = &job->kv[i];
        int there = t->data && (streams >> i & 1);
        meta = pk_put32(meta, there ? (uint32_t)t->type : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->layers : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->heads : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->tokens : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->dim : 0);
    }
}

/* Room for the directory of a stream: runs, profiles and groups as lq_archive_writer_desc tells. */
static size_t pk_directory_bytes(const pk_tensor *t)
{
    size_t heads = pk_group_heads(t);
    size_t runs = 2 * 64 + 8 * (t->tokens / 64 + 3) + 16;
    size_t group = 24 + 8 * heads + 16 + lq_profile_save_bound(heads * (t->dim + 1));
    return t->layers * pk_groups(t) * (runs + group) + 16 + 2 * t->dim + 4;
}

typedef struct pk_packer {
    lq_archive_writer writer;
    uint32_t rope;
    lq_slice *slices;
    uint32_t *dims;
    const void **vectors;
    void *workspace;
    size_t workspace_bytes;
} pk_packer;

/* Heads [first, first + count) of a layer, as one group. */
static int pk_pack_group(const pk_job *job, pk_packer *p, int stream, double step, size_t layer,
                         size_t first, size_t count)
{
    const pk_tensor *t = &job->kv[stream];
    size_t bytes = t->tokens * t->dim * lq_type_bytes(t->type);
    lq_archive_group_desc group;
    lq_archive_pack_desc d;
    lq_vectors src;
    lq_positions positions = {0, 1, NULL};
    size_t i;
    int status;
    memset(&group, 0, sizeof group);
    memset(&d, 0, sizeof d);
    for (i = 0; i < count; i++) {
        p->slices[i].layer = (uint32_t)layer;
        p->slices[i].head = (uint32_t)(first + i);
        p->slices[i].first_dim = 0;
        p->slices[i].dims = (uint32_t)t->dim;
        p->dims[i] = (uint32_t)t->dim;
        p->vectors[i] = (const uint8_t *)t->data + (layer * t->heads + first + i) * bytes;
    }
    group.stream = stream ? LQ_V : LQ_K;
    group.rope = stream ? LQ_ARCHIVE_NONE : p->rope;
    group.slices = p->slices;
    group.slice_count = count;
    status = lq_archive_add_group(&p->writer, &group, &d.group);
    if (status) {
        return status;
    }
    d.tables = job->tables;
    d.geometry.stream = group.stream;
    d.geometry.slice_count = (uint32_t)count;
    d.geometry.slice_dims = p->dims;
    d.geometry.rope = stream || !job->freqs ? NULL : &job->rope;
    d.sinks = job->sinks ? (uint32_t)job->sinks : LQ_NO_SINKS;
    d.quantizer = job->quantizer;
    d.step = (float)step;
    if (p->workspace_bytes < lq_archive_pack_workspace_bytes(&d)) {
        free(p->workspace);
        p->workspace_bytes = lq_archive_pack_workspace_bytes(&d);
        p->workspace = pk_alloc(p->workspace_bytes, 1);
    }
    src.slices = p->vectors;
    src.token_stride = 0;
    src.type = t->type;
    return lq_archive_pack(&p->writer, &d, &src, &positions, t->tokens, p->workspace,
                           p->workspace_bytes);
}

/* All groups of a stream. */
static int pk_pack_stream(pk_job *job, pk_packer *p, int stream, double step)
{
    const pk_tensor *t = &job->kv[stream];
    size_t most = pk_group_heads(t);
    size_t layer, head;
    int status = LQ_OK;
    for (layer = 0; layer < t->layers; layer++) {
        if (t->layers * t->heads * t->tokens * t->dim > (size_t)1 << 22) {
            pk_progress(stream ? "packing V" : "packing K", layer, t->layers);
        }
        for (head = 0; head < t->heads; head += most) {
            status =
                pk_pack_group(job, p, stream, step, layer, head, pk_min(most, t->heads - head));
            if (status) {
                job->fault_stream = stream;
                job->fault_layer = layer;
                return status;
            }
        }
    }
    return LQ_OK;
}

/* The archive of the streams in the mask (1: K, 2: V) into dst. */
static int pk_pack(pk_job *job, const pk_steps *steps, int streams, pk_bytes *dst)
{
    lq_archive_writer_desc w;
    pk_packer p;
    uint8_t meta[PK_META_BYTES];
    size_t most = 0;
    int stream, status;
    memset(&w, 0, sizeof w);
    memset(&p, 0, sizeof p);
    w.directory_bytes = 256;
    for (stream = 0; stream < 2; stream++) {
        const pk_tensor *t = &job->kv[stream];
        if (t->data && (streams >> stream & 1)) {
            w.directory_bytes += pk_directory_bytes(t);
            most = pk_group_heads(t) > most ? pk_group_heads(t) : most;
        }
    }
    dst->count = 0;
    w.write_fn = pk_collect;
    w.user = dst;
    w.directory = pk_alloc(w.directory_bytes, 1);
    p.slices = (lq_slice *)pk_alloc(most, sizeof *p.slices);
    p.dims = (uint32_t *)pk_alloc(most, sizeof *p.dims);
    p.vectors = (const void **)pk_alloc(most, sizeof *p.vectors);
    p.rope = LQ_ARCHIVE_NONE;
    pk_meta(job, streams, meta);
    status = lq_archive_writer_init(&p.writer, &w);
    if (!status) {
        status = lq_archive_add_meta(&p.writer, PK_META, meta, sizeof meta);
    }
    if (!status && job->freqs && (streams & 1)) {
        status = lq_archive_add_rope(&p.writer, &job->rope, &p.rope);
    }
    for (stream = 0; stream < 2 && !status; stream++) {
        if (job->kv[stream].data && (streams >> stream & 1)) {
            status = pk_pack_stream(job, &p, stream, steps->of[stream]);
        }
    }
    if (!status) {
        status = lq_archive_finish(&p.writer);
    }
    free(w.directory);
    free(p.slices);
    free(p.dims);
    free(p.vectors);
    free(p.workspace);
    pk_progress(NULL, 0, 1);
    return status;
}

static void pk_must_pack(pk_job *job, const pk_steps *steps, int streams, pk_bytes *dst)
{
    int status = pk_pack(job, steps, streams, dst);
    int stream = job->fault_stream;
    if (status == LQ_E_RANGE) {
        pk_fail("%s: layer %.0f has values beyond 2048 steps of %g: take a larger %s",
                job->kv[stream].name, (double)job->fault_layer, steps->of[stream],
                stream ? "--vstep" : "--step");
    }
    if (status) {
        pk_fail("%s: cannot pack layer %.0f (%s)", job->kv[stream].name, (double)job->fault_layer,
                lq_status_string(status));
    }
}

/* ------------------------------------------------------------------------------------ unpacking */

typedef struct pk_reader {
    lq_archive_reader reader;
    void *mem;
    const char *name;
} pk_reader;

static void pk_open(pk_reader *r, const lq_archive_source *source, const char *name)
{
    uint8_t none[1];
    size_t needed = 0;
    int status;
    r->name = name;
    r->mem = NULL;
    status = lq_archive_open(&r->reader, source, none, 0, &needed);
    if (status == LQ_E_SPACE) {
        r->mem = pk_alloc(needed, 1);
        status = lq_archive_open(&r->reader, source, r->mem, needed, &needed);
    }
    if (status) {
        pk_fail("%s: not a whole archive (%s)", name, lq_status_string(status));
    }
}

/* Tokens [first, first + count) of all heads of a layer into dst, [heads][count][dim] of `type`.
   The groups of the stream start at id `base`. */
static void pk_unpack_layer(const pk_reader *r, const lq_tables *tables, const pk_tensor *t,
                            size_t base, size_t layer, size_t first, size_t count, int type,
                            void *dst)
{
    size_t most = pk_group_heads(t);
    size_t bytes = count * t->dim * lq_type_bytes(type);
    void **slices = (void **)pk_alloc(most, sizeof *slices);
    void *workspace = NULL;
    size_t workspace_bytes = 0;
    lq_archive_unpack_desc d;
    lq_vectors_out out;
    size_t head, i;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    out.slices = slices;
    out.token_stride = 0;
    out.type = type;
    for (head = 0; head < t->heads; head += most) {
        size_t room;
        int status;
        d.group = (uint32_t)(base + layer * pk_groups(t) + head / most);
        room = lq_archive_unpack_workspace_bytes(&r->reader, d.group);
        if (room > workspace_bytes) {
            free(workspace);
            workspace = pk_alloc(room, 1);
            workspace_bytes = room;
        }
        for (i = 0; i < most && head + i < t->heads; i++) {
            slices[i] = (uint8_t *)dst + (head + i) * bytes;
        }
        status = lq_archive_unpack(&r->reader, &d, &out, first, count, workspace, workspace_bytes);
        if (status) {
            pk_fail("%s: cannot unpack group %u (%s)", r->name, d.group, lq_status_string(status));
        }
    }
    free(slices);
    free(workspace);
}

/* -------------------------------------------------------------------------- errors of attention */

static float pk_dot(const float *a, const float *b, size_t n)
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

/* One layer of a tensor as floats; NULL if there is none. */
static float *pk_layer(const pk_tensor *t, size_t layer)
{
    size_t n = t->data ? t->heads * t->tokens * t->dim : 0;
    float *x = (float *)pk_alloc(n, sizeof *x);
    if (n == 0 || lq_f32_from_type(x, (const uint8_t *)t->data + layer * n * lq_type_bytes(t->type),
                                   n, t->type)) {
        free(x);
        return NULL;
    }
    return x;
}

/* Mean square of q . delta / sqrt(dim); delta is k' - k of all heads of the layer. */
static double pk_logit_error(const pk_job *job, const float *q, const float *delta)
{
    const pk_tensor *k = &job->kv[0];
    const pk_tensor *t = &job->queries;
    double sum = 0.0;
    double pairs = 0.0;
    size_t h, i, s;
    for (h = 0; h < t->heads; h++) {
        const float *d = delta + h / (t->heads / k->heads) * k->tokens * k->dim;
        for (i = 0; i < t->tokens; i++) {
            const float *x = q + (h * t->tokens + i) * t->dim;
            size_t end = k->tokens - t->tokens + i + 1;
            for (s = 0; s < end; s++) {
                double e = (double)pk_dot(x, d + s * k->dim, k->dim);
                sum += e * e;
            }
            pairs += (double)end;
        }
    }
    return sum / pairs / (double)k->dim;
}

/* Attention weights of one query over tokens [0, end) of raw keys. */
static void pk_attention(float *p, const float *q, const float *k, size_t end, size_t dim)
{
    double scale = 1.0 / sqrt((double)dim);
    double most = -HUGE_VAL;
    double sum = 0.0;
    size_t s;
    for (s = 0; s < end; s++) {
        p[s] = (float)((double)pk_dot(q, k + s * dim, dim) * scale);
        most = (double)p[s] > most ? (double)p[s] : most;
    }
    for (s = 0; s < end; s++) {
        double e = exp((double)p[s] - most);
        p[s] = (float)e;
        sum += e;
    }
    for (s = 0; s < end; s++) {
        p[s] = (float)((double)p[s] / sum);
    }
}

/* Mean square of sum p delta; delta is v' - v of all heads of the layer. */
static double pk_output_error(const pk_job *job, const float *q, const float *k, const float *delta)
{
    const pk_tensor *t = &job->queries;
    const pk_tensor *v = &job->kv[1];
    size_t tokens = v->tokens;
    size_t dim = job->kv[0].dim;
    float *p = (float *)pk_alloc(tokens, sizeof *p);
    double *out = (double *)pk_alloc(v->dim, sizeof *out);
    double sum = 0.0;
    size_t h, i, s, j;
    for (h = 0; h < t->heads; h++) {
        const float *keys = k + h / (t->heads / job->kv[0].heads) * tokens * dim;
        const float *d = delta + h / (t->heads / v->heads) * tokens * v->dim;
        for (i = 0; i < t->tokens; i++) {
            size_t end = tokens - t->tokens + i + 1;
            pk_attention(p, q + (h * t->tokens + i) * dim, keys, end, dim);
            memset(out, 0, v->dim * sizeof *out);
            for (s = 0; s < end; s++) {
                for (j = 0; j < v->dim; j++) {
                    out[j] += (double)(p[s] * d[s * v->dim + j]);
                }
            }
            for (j = 0; j < v->dim; j++) {
                sum += out[j] * out[j];
            }
        }
    }
    free(p);
    free(out);
    return sum / ((double)t->heads * (double)t->tokens * (double)v->dim);
}

/* ---------------------------------------------------------------------------------------- table */

/* Whether the errors of a stream can be measured. */
static int pk_judged(const pk_job *job, int stream)
{
    const pk_tensor *q = &job->queries;
    const pk_tensor *t = &job->kv[stream];
    return q->data && t->data && q->heads % t->heads == 0;
}

/* Fills noise, power and error of a cell; y is what the codec made of the layer's x. Changes y. */
static void pk_judge(const pk_job *job, int stream, size_t layer, const float *x, float *y,
                     pk_cell *cell)
{
    const pk_tensor *t = &job->kv[stream];
    size_t count = t->heads * t->tokens * t->dim;
    size_t i;
    cell->elements = (double)(t->heads * (t->tokens - job->sinks) * t->dim);
    cell->noise = 0.0;
    cell->power = 0.0;
    for (i = 0; i < count; i++) {
        int raw = i / t->dim % t->tokens < job->sinks;
        y[i] = raw ? 0.0f : y[i] - x[i];
        cell->noise += (double)y[i] * (double)y[i];
        cell->power += raw ? 0.0 : (double)x[i] * (double)x[i];
    }
    cell->error = -1.0;
    if (pk_judged(job, stream)) {
        float *q = pk_layer(&job->queries, layer);
        float *k = stream ? pk_layer(&job->kv[0], layer) : NULL;
        cell->error = stream ? pk_output_error(job, q, k, y) : pk_logit_error(job, q, y);
        free(q);
        free(k);
    }
}

/* Bytes of each layer in an archive of one stream, without the numbers of the sinks: its pages and
   directory records, and an even share of the rest (header, footer, RoPE, padding). */
static void pk_layer_bytes(const pk_job *job, const pk_reader *r, int stream, uint64_t size,
                           pk_cell *cells, size_t stride)
{
    const pk_tensor *t = &job->kv[stream];
    double sinks = (double)(t->heads * job->sinks * t->dim * lq_type_bytes(t->type));
    double rest = (double)size;
    size_t layer;
    uint32_t i;
    for (layer = 0; layer < t->layers; layer++) {
        cells[layer * stride].bytes = 0.0;
    }
    for (i = 0; i < r->reader.run_count; i++) {
        lq_archive_run_info info;
        lq_archive_profile_desc profile;
        double bytes;
        int status = lq_archive_run(&r->reader, i, &info);
        memset(&profile, 0, sizeof profile);
        if (!status && info.desc.profile != LQ_ARCHIVE_NONE) {
            status = lq_archive_profile(&r->reader, info.desc.profile, &profile);
        }
        if (status) {
            pk_fail("%s: cannot account for run %u (%s)", t->name, i, lq_status_string(status));
        }
        bytes = (double)info.bytes + (double)lq_archive_run_bytes(&info.desc);
        bytes += profile.bytes ? 12.0 + (double)profile.count : 0.0;
        cells[info.desc.group / pk_groups(t) * stride].bytes += bytes;
        rest -= bytes;
    }
    for (layer = 0; layer < t->layers; layer++) {
        cells[layer * stride].bytes += rest / (double)t->layers - sinks;
    }
}

/* Ours: packs the stream as an archive of its own. cells[layer * stride] are filled. */
static void pk_measure_ours(pk_job *job, const pk_steps *steps, int stream, pk_cell *cells,
                            size_t stride)
{
    const pk_tensor *t = &job->kv[stream];
    float *y = (float *)pk_alloc(t->heads * t->tokens * t->dim, sizeof *y);
    pk_bytes bytes = {NULL, 0, 0};
    lq_archive_source source;
    pk_reader r;
    size_t layer;
    pk_must_pack(job, steps, 1 << stream, &bytes);
    memset(&source, 0, sizeof source);
    source.bytes = bytes.at;
    source.size = bytes.count;
    pk_open(&r, &source, "the archive in memory");
    pk_layer_bytes(job, &r, stream, bytes.count, cells, stride);
    for (layer = 0; layer < t->layers; layer++) {
        float *x = pk_layer(t, layer);
        pk_progress(steps->name, layer, t->layers);
        pk_unpack_layer(&r, job->tables, t, 0, layer, 0, t->tokens, LQ_F32, y);
        pk_judge(job, stream, layer, x, y, &cells[layer * stride]);
        free(x);
    }
    pk_progress(NULL, 0, 1);
    free(y);
    free(r.mem);
    free(bytes.at);
}

static void pk_measure_rival(const pk_job *job, const rv_codec *codec, int stream, pk_cell *cells,
                             size_t stride)
{
    const pk_tensor *t = &job->kv[stream];
    size_t size = t->tokens * t->dim;
    float *y = (float *)pk_alloc(t->heads * size, sizeof *y);
    size_t layer, h;
    for (layer = 0; layer < t->layers; layer++) {
        float *x = pk_layer(t, layer);
        pk_progress(codec->title, layer, t->layers);
        for (h = 0; h < t->heads; h++) {
            codec->round_trip(y + h * size, x + h * size, t->tokens, t->dim,
                              stream ? RV_VALUE : RV_KEY);
        }
        cells[layer * stride].bytes =
            (double)(t->heads *
                     codec->bits(t->tokens - job->sinks, t->dim, stream ? RV_VALUE : RV_KEY)) /
            8.0;
        pk_judge(job, stream, layer, x, y, &cells[layer * stride]);
        free(x);
    }
    pk_progress(NULL, 0, 1);
    free(y);
}

static void pk_print_cell(const pk_job *job, int stream, const pk_cell *c)
{
    if (!job->kv[stream].data) {
        printf("   %10s %7s %9s %9s", "-", "-", "-", "-");
        return;
    }
    printf("   %10.0f %7.3f %9.2e", c->bytes,
           c->elements > 0.0 ? 8.0 * c->bytes / c->elements : 0.0,
           c->power > 0.0 ? c->noise / c->power : 0.0);
    if (c->error < 0.0) {
        printf(" %9s", "-");
    } else {
        printf(" %9.2e", c->error);
    }
}

/* Rows of one layer, or of all of them (layer = layers). cells: [codec][layer][stream]. */
static void pk_print_rows(const pk_job *job, const char *const *names, size_t codecs, size_t layers,
                          size_t layer, const pk_cell *cells)
{
    size_t first = layer < layers ? layer : 0;
    size_t end = layer < layers ? layer + 1 : layers;
    size_t c, l;
    int stream;
    if (layer < layers) {
        printf("layer %.0f\n", (double)layer);
    } else {
        printf("all layers\n");
    }
    for (c = 0; c < codecs; c++) {
        printf("  %-16s", names[c]);
        for (stream = 0; stream < 2; stream++) {
            pk_cell sum = {0.0, 0.0, 0.0, 0.0, 0.0};
            for (l = first; l < end; l++) {
                const pk_cell *cell = &cells[(c * layers + l) * 2 + (size_t)stream];
                sum.bytes += cell->bytes;
                sum.elements += cell->elements;
                sum.noise += cell->noise;
                sum.power += cell->power;
                sum.error += cell->error / (double)(end - first);
            }
            pk_print_cell(job, stream, &sum);
        }
        printf("\n");
    }
}

static void pk_table(pk_job *job)
{
    static const char *const ids[PK_RIVALS] = {"q8_0", "q4_0", "hq4_0", "tq4"};
    static const char *const titles[PK_RIVALS] = {"q8_0", "q4_0", "Hadamard + q4_0",
                                                  "Lloyd-Max 4 bit"};
    const char *names[PK_CODECS];
    size_t layers = job->kv[job->kv[0].data ? 0 : 1].layers;
    size_t codecs = job->ours_count + PK_RIVALS;
    pk_cell *cells = (pk_cell *)pk_alloc(codecs * layers * 2, sizeof *cells);
    size_t c;
    int stream;
    for (c = 0; c < codecs; c++) {
        size_t rival = c - job->ours_count;
        names[c] = c < job->ours_count ? job->ours[c].name : titles[rival];
        for (stream = 0; stream < 2; stream++) {
            pk_cell *to = &cells[c * layers * 2 + (size_t)stream];
            if (job->kv[stream].data && c < job->ours_count) {
                pk_measure_ours(job, &job->ours[c], stream, to, 2);
            } else if (job->kv[stream].data) {
                pk_measure_rival(job, rv_find(ids[rival]), stream, to, 2);
            }
        }
    }
    printf("%18s   %10s %7s %9s %9s   %10s %7s %9s %9s\n", "", "K bytes", "bits/el", "rel. MSE",
           "logit err", "V bytes", "bits/el", "rel. MSE", "out. err");
    for (c = 0; c <= layers; c++) {
        if (c < layers || layers > 1) {
            pk_print_rows(job, names, codecs, layers, c, cells);
        }
    }
    free(cells);
}

/* --------------------------------------------------------------------------------------- search */

static double pk_elements_of(const pk_job *job, int stream, size_t tokens)
{
    const pk_tensor *t = &job->kv[stream];
    return t->data ? (double)t->layers * (double)t->heads * (double)tokens * (double)t->dim : 0.0;
}

/* Scales both steps until the archive takes between 99 % and 100 % of the target: --bytes all of
   it, --bits an element without the sinks, as in the table. Twice the step is one bit less. */
static void pk_search(pk_job *job)
{
    double sinks = 0.0;
    double elements = 0.0;
    double target = job->options.bytes;
    double log_scale = 0.0;
    double fine = -30.0;
    double coarse = 30.0;
    double size = 0.0;
    pk_bytes bytes = {NULL, 0, 0};
    int i;
    for (i = 0; i < 2; i++) {
        sinks += pk_elements_of(job, i, job->sinks) * (double)lq_type_bytes(job->kv[i].type);
        elements += pk_elements_of(job, i, job->kv[i].tokens - job->sinks);
    }
    if (job->options.bits > 0.0) {
        target = job->options.bits * elements / 8.0 + sinks;
    }
    for (i = 0; i < 40; i++) {
        pk_steps steps = job->ours[0];
        int status;
        steps.of[0] *= exp2(log_scale);
        steps.of[1] *= exp2(log_scale);
        status = pk_pack(job, &steps, 3, &bytes);
        size = status ? HUGE_VAL : (double)bytes.count;
        if (status && status != LQ_E_RANGE && status != LQ_E_ARG) {
            pk_must_pack(job, &steps, 3, &bytes);
        }
        if (size <= target && size >= 0.99 * target) {
            job->ours[0] = steps;
            free(bytes.at);
            return;
        }
        fine = size > target ? log_scale : fine;
        coarse = size > target ? coarse : log_scale;
        log_scale += (size - 0.995 * target) * 8.0 / elements;
        if (!(log_scale > fine && log_scale < coarse) || i > 5) {
            log_scale = (fine + coarse) / 2.0;
        }
    }
    free(bytes.at);
    pk_fail("%s: no step makes an archive of %.0f bytes (%g bits an element)",
            job->kv[job->kv[0].data ? 0 : 1].name, target, (target - sinks) * 8.0 / elements);
}

/* -------------------------------------------------------------------------- speed and verifying */

/* All of an archive's floats: [stream][layer] ... one behind the other. */
static void pk_decode_all(const pk_job *job, const pk_reader *r, int type, int streams,
                          uint8_t *dst)
{
    size_t base = 0;
    size_t layer;
    int stream;
    for (stream = 0; stream < 2; stream++) {
        const pk_tensor *t = &job->kv[stream];
        size_t bytes = t->heads * t->tokens * t->dim * lq_type_bytes(type);
        if (!t->data || !(streams >> stream & 1)) {
            continue;
        }
        for (layer = 0; layer < t->layers; layer++, dst += bytes) {
            pk_unpack_layer(r, job->tables, t, base, layer, 0, t->tokens, type, dst);
        }
        base += t->layers * pk_groups(t);
    }
}

/* Times packing and unpacking of one stream; the bytes of every run must be the same. */
static void pk_speed(pk_job *job, const pk_steps *steps, int stream)
{
    double elements = pk_elements_of(job, stream, job->kv[stream].tokens);
    double pack[PK_RUNS];
    double unpack[PK_RUNS];
    uint8_t *dst = (uint8_t *)pk_alloc((size_t)elements, 2);
    pk_bytes bytes = {NULL, 0, 0};
    pk_reader r;
    int most = elements > 5e7 ? 3 : PK_RUNS;
    uint32_t hash = 0;
    int i;
    for (i = 0; i < most; i++) {
        lq_archive_source source;
        double start = pk_now();
        pk_must_pack(job, steps, 1 << stream, &bytes);
        pack[i] = pk_now() - start;
        memset(&source, 0, sizeof source);
        source.bytes = bytes.at;
        source.size = bytes.count;
        if (i && lq_xxh32(bytes.at, bytes.count, 0) != hash) {
            pk_fail("%s: packing twice gave different bytes", job->kv[stream].name);
        }
        hash = lq_xxh32(bytes.at, bytes.count, 0);
        start = pk_now();
        pk_open(&r, &source, "the archive in memory");
        pk_decode_all(job, &r, LQ_F16, 1 << stream, dst);
        unpack[i] = pk_now() - start;
        free(r.mem);
    }
    qsort(pack, (size_t)most, sizeof pack[0], pk_compare);
    qsort(unpack, (size_t)most, sizeof unpack[0], pk_compare);
    printf("%s: compress %.0f MB/s, restore %.0f MB/s (of f16; thread CPU time, median of %d)\n",
           stream ? "V" : "K", elements * 2e-6 / pack[most / 2], elements * 2e-6 / unpack[most / 2],
           most);
    free(dst);
    free(bytes.at);
}

/* A read callback on a FILE. */
static int pk_read_at(void *user, uint64_t offset, void *dst, size_t count)
{
    FILE *file = (FILE *)user;
    if (offset > LONG_MAX || fseek(file, (long)offset, SEEK_SET) != 0) {
        return -1;
    }
    return fread(dst, 1, count, file) != count;
}

/* Token ranges of the file, each against the whole. */
static void pk_verify_ranges(const pk_job *job, const pk_reader *r, const uint8_t *whole)
{
    uint32_t seed = 1;
    size_t base = 0;
    size_t i, h;
    int stream;
    for (stream = 0; stream < 2; stream++) {
        const pk_tensor *t = &job->kv[stream];
        size_t row = t->dim * 4;
        uint8_t *part;
        if (!t->data) {
            continue;
        }
        part = (uint8_t *)pk_alloc(t->heads * t->tokens, row);
        for (i = 0; i < t->layers * PK_RANGES; i++) {
            size_t layer = i % t->layers;
            size_t first = (seed = seed * 1664525u + 1013904223u) % t->tokens;
            size_t count = 1 + (seed >> 8) % pk_min(t->tokens - first, 200);
            const uint8_t *at = whole + layer * t->heads * t->tokens * row;
            pk_unpack_layer(r, job->tables, t, base, layer, first, count, LQ_F32, part);
            for (h = 0; h < t->heads; h++) {
                if (memcmp(part + h * count * row, at + (h * t->tokens + first) * row,
                           count * row)) {
                    pk_fail("%s: tokens %.0f to %.0f differ from the whole", r->name, (double)first,
                            (double)(first + count - 1));
                }
            }
        }
        free(part);
        base += t->layers * pk_groups(t);
        whole += t->layers * t->heads * t->tokens * row;
    }
}

/* The written file against the archive in memory: floats, ranges, and the bytes of plain C. */
static void pk_verify(pk_job *job, const pk_steps *steps, const pk_bytes *bytes, const char *name)
{
    size_t elements = (size_t)(pk_elements_of(job, 0, job->kv[0].tokens) +
                               pk_elements_of(job, 1, job->kv[1].tokens));
    uint8_t *ours = (uint8_t *)pk_alloc(elements, 4);
    uint8_t *theirs = (uint8_t *)pk_alloc(elements, 4);
    FILE *file = fopen(name, "rb");
    lq_archive_source source;
    pk_bytes again = {NULL, 0, 0};
    pk_reader r;
    memset(&source, 0, sizeof source);
    source.size = bytes->count;
    source.bytes = bytes->at;
    pk_open(&r, &source, name);
    pk_decode_all(job, &r, LQ_F32, 3, ours);
    free(r.mem);
    source.bytes = NULL;
    source.read_fn = pk_read_at;
    source.user = file;
    if (!file) {
        pk_fail("%s: cannot open (%s)", name, strerror(errno));
    }
    pk_open(&r, &source, name);
    pk_decode_all(job, &r, LQ_F32, 3, theirs);
    if (memcmp(ours, theirs, elements * 4)) {
        pk_fail("%s: the file decodes to other numbers than the archive in memory", name);
    }
    pk_verify_ranges(job, &r, theirs);
    free(r.mem);
    (void)fclose(file);
    free(ours);
    free(theirs);
    (void)lq_cpu_limit(elements > (size_t)1 << 26 ? -1 : 0); /* plain C takes long */
    pk_must_pack(job, steps, 3, &again);
    (void)lq_cpu_limit(-1);
    if (again.count != bytes->count || memcmp(again.at, bytes->at, bytes->count)) {
        pk_fail("%s: packing again gave different bytes", name);
    }
    free(again.at);
    printf("verified: read again, any token range equals the whole, packing again%s gives the same "
           "bytes\n",
           elements > (size_t)1 << 26 ? "" : " without SIMD");
}

/* ------------------------------------------------------------------------------------- two jobs */

static void pk_tables(pk_job *job)
{
    job->tables_mem = pk_alloc(lq_tables_bytes(), 1);
    if (lq_tables_init(&job->tables, job->tables_mem, lq_tables_bytes())) {
        pk_fail("the coder's tables do not build: please report");
    }
}

/* The shapes of K, V and queries must fit each other. */
static void pk_check_shapes(const pk_job *job)
{
    const pk_tensor *k = &job->kv[0];
    const pk_tensor *v = &job->kv[1];
    const pk_tensor *q = &job->queries;
    if (k->data && v->data && (k->layers != v->layers || k->tokens != v->tokens)) {
        pk_fail("%s: wrong shape, layers or tokens are not those of %s", v->name, k->name);
    }
    if (q->data && (q->layers != k->layers || q->dim != k->dim || q->tokens > k->tokens ||
                    q->heads % k->heads != 0)) {
        pk_fail("%s: wrong shape, not queries of the last tokens of %s", q->name, k->name);
    }
    if (k->data && strcmp(job->options.rope, "none") != 0 && k->dim % 2 != 0) {
        pk_fail("%s: wrong shape for RoPE, an odd dim (--rope none if there was none)", k->name);
    }
}

static void pk_rope(pk_job *job)
{
    size_t dim = job->kv[0].dim;
    size_t i;
    if (!job->kv[0].data || !strcmp(job->options.rope, "none")) {
        return;
    }
    job->freqs = (float *)pk_alloc(dim / 2, sizeof *job->freqs);
    for (i = 0; i < dim / 2; i++) {
        job->freqs[i] = (float)pow(job->options.theta, -2.0 * (double)i / (double)dim);
    }
    job->rope.freqs = job->freqs;
    job->rope.rotary_dims = (uint32_t)dim;
    job->rope.layout = job->options.rope[0] == 'h' ? LQ_ROPE_HALF : LQ_ROPE_ADJACENT;
}

/* Steps. Ours by default are three: V's relative to each vector's gain, as the format has them, and
   K's in proportion to the root mean square of all K, to two digits. */
static void pk_choose_steps(pk_job *job)
{
    static const double k_of_rms[PK_OURS] = {0.28, 0.37, 0.6};
    static const double v_steps[PK_OURS] = {0.2, 0.325, 0.7};
    static const char *const names[PK_OURS] = {"ours, fine", "ours, middle", "ours, small"};
    const pk_options *o = &job->options;
    double power = 0.0;
    double unit;
    size_t layer, i;
    for (layer = 0; layer < job->kv[0].layers; layer++) {
        size_t n = job->kv[0].heads * job->kv[0].tokens * job->kv[0].dim;
        float *x = pk_layer(&job->kv[0], layer);
        for (i = 0; i < n; i++) {
            power += (double)x[i] * (double)x[i];
        }
        free(x);
    }
    power = power > 0.0 ? sqrt(power / pk_elements_of(job, 0, job->kv[0].tokens)) : 1.0;
    for (i = 0; i < PK_OURS; i++) {
        unit = pow(10.0, floor(log10(power * k_of_rms[i])) - 1.0);
        job->ours[i].name = names[i];
        job->ours[i].of[0] = floor(power * k_of_rms[i] / unit + 0.5) * unit;
        job->ours[i].of[1] = v_steps[i];
    }
    job->ours_count = PK_OURS;
    if (o->step > 0.0 || o->vstep > 0.0 || o->bits > 0.0 || o->bytes > 0.0) {
        job->ours[0] = job->ours[1];
        job->ours[0].name = "ours";
        job->ours[0].of[0] = o->step > 0.0 ? o->step : job->ours[0].of[0];
        job->ours[0].of[1] = o->vstep > 0.0 ? o->vstep : job->ours[0].of[1];
        job->ours_count = 1;
    }
    if (o->bits > 0.0 || o->bytes > 0.0) {
        pk_search(job);
    }
}

static void pk_print_input(const pk_job *job)
{
    static const char *const what[3] = {"K", "V", "queries"};
    int i;
    for (i = 0; i < 3; i++) {
        const pk_tensor *t = i < 2 ? &job->kv[i] : &job->queries;
        if (t->data) {
            printf("%-8s %s: %.0f layers, %.0f heads, %.0f tokens, %.0f dims, %s\n", what[i],
                   t->name, (double)t->layers, (double)t->heads, (double)t->tokens, (double)t->dim,
                   t->type == LQ_F16 ? "f16" : "f32");
        }
    }
    if (job->freqs) {
        printf("RoPE undone before coding: theta %g, %s pairs. ", job->options.theta,
               job->rope.layout == LQ_ROPE_HALF ? "half-split" : "adjacent");
    }
    printf("First %.0f tokens raw, not counted below.\n", (double)job->sinks);
    for (i = 0; i < (int)job->ours_count; i++) {
        printf("%s%s: step %.3g for K, %.3g for V", i ? "; " : "", job->ours[i].name,
               job->ours[i].of[0], job->ours[i].of[1]);
    }
    printf(" (quantizer %s)\n", job->options.quantizer);
}

static void pk_run_pack(pk_job *job)
{
    const pk_options *o = &job->options;
    const pk_steps *steps;
    pk_bytes bytes = {NULL, 0, 0};
    double raw = 0.0;
    int i;
    pk_probe(o->out);
    for (i = 0; i < 3; i++) {
        if (o->files[i]) {
            pk_load(i < 2 ? &job->kv[i] : &job->queries, o->files[i]);
        }
    }
    pk_check_shapes(job);
    job->sinks = (size_t)o->sinks;
    job->sinks = pk_min(job->sinks, job->kv[job->kv[0].data ? 0 : 1].tokens);
    pk_rope(job);
    pk_tables(job);
    pk_choose_steps(job);
    pk_print_input(job);
    pk_table(job);
    steps = &job->ours[job->ours_count > 1];
    for (i = 0; i < 2; i++) {
        raw += 2.0 * pk_elements_of(job, i, job->kv[i].tokens);
        if (job->kv[i].data) {
            pk_speed(job, steps, i);
        }
    }
    pk_must_pack(job, steps, 3, &bytes);
    pk_save(o->out, "", 0, bytes.at, bytes.count);
    printf("%s (%s): %.0f bytes with everything in it, %.2f times smaller than f16\n", o->out,
           steps->name, (double)bytes.count, raw / (double)bytes.count);
    pk_verify(job, steps, &bytes, o->out);
    free(bytes.at);
}

static void pk_read_all(const char *name, pk_bytes *dst)
{
    uint8_t block[2048];
    FILE *file = fopen(name, "rb");
    size_t n = 1;
    if (!file) {
        pk_fail("%s: cannot open (%s)", name, strerror(errno));
    }
    while (n > 0) {
        n = fread(block, 1, sizeof block, file);
        if (pk_collect(dst, block, n)) {
            pk_fail("%s: does not fit in memory", name);
        }
    }
    if (ferror(file)) {
        pk_fail("%s: cannot read (%s)", name, strerror(errno));
    }
    (void)fclose(file);
}

/* Whether group `id` of the archive is heads [head, ...) of a layer of this stream. */
static int pk_group_fits(const pk_reader *r, size_t id, int stream, const pk_tensor *t,
                         size_t layer, size_t head)
{
    size_t count = pk_min(pk_group_heads(t), t->heads - head);
    lq_slice *slices;
    lq_archive_group_desc d;
    uint64_t tokens;
    size_t i;
    int fits;
    if (id >= r->reader.group_count) {
        return 0;
    }
    slices = (lq_slice *)pk_alloc(count, sizeof *slices);
    fits = !lq_archive_group(&r->reader, (uint32_t)id, &d, slices, count) &&
           d.slice_count == count && d.stream == (stream ? LQ_V : LQ_K) &&
           !lq_archive_tokens(&r->reader, (uint32_t)id, 0, &tokens) && tokens == t->tokens;
    for (i = 0; i < count && fits; i++) {
        fits = slices[i].layer == layer && slices[i].head == head + i && slices[i].first_dim == 0 &&
               slices[i].dims == t->dim;
    }
    free(slices);
    return fits;
}

/* The shapes in the archive, checked against its groups. */
static void pk_read_meta(pk_job *job, const pk_reader *r)
{
    const uint8_t *meta;
    size_t count;
    size_t group = 0;
    int i;
    if (lq_archive_meta(&r->reader, PK_META, &meta, &count) || count != PK_META_BYTES ||
        pk_get32(meta) != 1) {
        pk_fail("%s: an archive, but not one of pack_kv", r->name);
    }
    for (i = 0; i < 2; i++) {
        pk_tensor *t = &job->kv[i];
        const uint8_t *p = meta + 16 + 20 * i;
        size_t layer, head;
        int fits = 1;
        t->name = r->name;
        t->type = pk_get32(p) < 3 ? (int)pk_get32(p) : -1;
        t->layers = pk_get32(p + 4);
        t->heads = pk_get32(p + 8);
        t->tokens = pk_get32(p + 12);
        t->dim = pk_get32(p + 16);
        if (t->type == 0) {
            continue;
        }
        (void)pk_elements(t);
        for (layer = 0; layer < t->layers && fits; layer++) {
            for (head = 0; head < t->heads && fits; head += pk_group_heads(t)) {
                fits = pk_group_fits(r, group++, i, t, layer, head);
            }
        }
        if (!fits || t->type < 0) {
            pk_fail("%s: its shape record does not fit its groups", r->name);
        }
    }
}

static void pk_run_unpack(pk_job *job)
{
    const pk_options *o = &job->options;
    pk_bytes bytes = {NULL, 0, 0};
    lq_archive_source source;
    pk_reader r;
    size_t base = 0;
    size_t layer;
    int i;
    pk_read_all(o->unpack, &bytes);
    memset(&source, 0, sizeof source);
    source.bytes = bytes.at;
    source.size = bytes.count;
    pk_open(&r, &source, o->unpack);
    pk_read_meta(job, &r);
    pk_tables(job);
    for (i = 0; i < 2; i++) {
        pk_tensor *t = &job->kv[i];
        size_t layer_bytes = t->heads * t->tokens * t->dim * lq_type_bytes(t->type);
        if (o->files[i] && !t->type) {
            pk_fail("%s: holds no %s", o->unpack, i ? "V" : "K");
        }
        if (!t->type) {
            continue;
        }
        t->data = o->files[i] ? pk_alloc(t->layers, layer_bytes) : NULL;
        for (layer = 0; layer < t->layers && t->data; layer++) {
            pk_progress("unpacking", layer, t->layers);
            pk_unpack_layer(&r, job->tables, t, base, layer, 0, t->tokens, t->type,
                            (uint8_t *)t->data + layer * layer_bytes);
        }
        base += t->layers * pk_groups(t);
    }
    pk_progress(NULL, 0, 1);
    for (i = 0; i < 2; i++) {
        if (o->files[i]) {
            pk_save_npy(o->files[i], &job->kv[i]);
            printf("%s: %.0f layers, %.0f heads, %.0f tokens, %.0f dims\n", o->files[i],
                   (double)job->kv[i].layers, (double)job->kv[i].heads, (double)job->kv[i].tokens,
                   (double)job->kv[i].dim);
        }
    }
    free(r.mem);
    free(bytes.at);
}

/* --------------------------------------------------------------------------------- command line */

static const char pk_usage[] =
    "usage: pack_kv [--k FILE] [--v FILE] [--q FILE] [options]    pack, measure and verify\n"
    "       pack_kv --unpack ARCHIVE [--k OUT.npy] [--v OUT.npy]  restore, in the type it came in\n"
    "\n"
    "FILEs are .npy, f16 or f32, C order, [layers][heads][tokens][dim]; keys after RoPE,\n"
    "positions from 0; queries are those of the last tokens. Without FILEs: the sample in\n"
    "tests/data.\n"
    "\n"
    "  --out FILE        the archive (default kv.lq)\n"
    "  --step S          step of K, in its own unit (default: from the rms of K)\n"
    "  --vstep S         step of V, relative to the gain of each vector (default 0.325)\n"
    "  --bits B          or: search the steps for B bits an element, sinks not counted\n"
    "  --bytes N         or: search the steps for a file of N bytes\n"
    "  --theta T         RoPE's base (default 100000)\n"
    "  --rope KIND       half, adjacent or none (default half)\n"
    "  --sinks N         first tokens that stay raw (default 4)\n"
    "  --quantizer Q     z, d4 or e8 (default z)\n";

/* A number of [min, max], whole if `whole`. */
static double pk_number(const char *option, const char *text, double min, double max, int whole)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= min && x <= max) || (whole && floor(x) != x)) {
        pk_fail("%s wants a %snumber from %g to %g, not '%s'", option, whole ? "whole " : "", min,
                max, text);
    }
    return x;
}

static const char *pk_choice(const char *option, const char *text, const char *a, const char *b,
                             const char *c)
{
    if (strcmp(text, a) != 0 && strcmp(text, b) != 0 && strcmp(text, c) != 0) {
        pk_fail("%s wants %s, %s or %s, not '%s'", option, a, b, c, text);
    }
    return text;
}

static void pk_option(pk_options *o, const char *name, const char *value)
{
    static const char *const files[5] = {"--k", "--v", "--q", "--out", "--unpack"};
    const char **slots[5];
    int i;
    if (strncmp(name, "--", 2) != 0) {
        pk_fail("unknown option '%s' (--help lists them)", name);
    }
    if (!value) {
        pk_fail("%s wants a value (--help lists the options)", name);
    }
    slots[3] = &o->out;
    slots[4] = &o->unpack;
    for (i = 0; i < 5; i++) {
        slots[i] = i < 3 ? &o->files[i] : slots[i];
        if (!strcmp(name, files[i])) {
            *slots[i] = value;
            return;
        }
    }
    if (!strcmp(name, "--step")) {
        o->step = pk_number(name, value, 1e-9, 1e9, 0);
    } else if (!strcmp(name, "--vstep")) {
        o->vstep = pk_number(name, value, 1e-9, 1e9, 0);
    } else if (!strcmp(name, "--bits")) {
        o->bits = pk_number(name, value, 0.01, 32, 0);
    } else if (!strcmp(name, "--bytes")) {
        o->bytes = pk_number(name, value, 1, 1e15, 1);
    } else if (!strcmp(name, "--theta")) {
        o->theta = pk_number(name, value, 1, 1e12, 0);
    } else if (!strcmp(name, "--sinks")) {
        o->sinks = pk_number(name, value, 0, 1e9, 1);
    } else if (!strcmp(name, "--rope")) {
        o->rope = pk_choice(name, value, "half", "adjacent", "none");
    } else if (!strcmp(name, "--quantizer")) {
        o->quantizer = pk_choice(name, value, "z", "d4", "e8");
    } else {
        pk_fail("unknown option '%s' (--help lists them)", name);
    }
}

/* What the options say together. */
static void pk_settle(pk_options *o)
{
    int ways = (o->step > 0.0 || o->vstep > 0.0) + (o->bits > 0.0) + (o->bytes > 0.0);
    int i;
    if (ways > 1) {
        pk_fail("give one of --step, --bits and --bytes");
    }
    if (o->unpack) {
        if ((!o->files[0] && !o->files[1]) || o->files[2] || o->out || ways) {
            pk_fail("--unpack wants --k OUT.npy or --v OUT.npy or both, and nothing else");
        }
    } else if (!o->files[0] && !o->files[1] && !o->files[2]) {
        FILE *file = fopen(PK_SAMPLE "k.npy", "rb");
        if (!file) {
            pk_fail("%s: not here: run in the root of the repository, or give --k and --v",
                    PK_SAMPLE "k.npy");
        }
        (void)fclose(file);
        o->files[0] = PK_SAMPLE "k.npy";
        o->files[1] = PK_SAMPLE "v.npy";
        o->files[2] = PK_SAMPLE "q.npy";
    } else if (o->files[2] && !o->files[0]) {
        pk_fail("--q needs --k: queries without keys say nothing");
    }
    o->out = o->out ? o->out : "kv.lq";
    for (i = 0; i < 3; i++) {
        const char *other = o->unpack ? o->unpack : o->out;
        if (o->files[i] && (!strcmp(o->files[i], other) ||
                            (i > 0 && o->files[i - 1] && !strcmp(o->files[i], o->files[i - 1])))) {
            pk_fail("%s: named twice", o->files[i]);
        }
    }
}

static int pk_finish(void)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        pk_fail("cannot write to the standard output");
    }
    return 0;
}

int main(int argc, char **argv)
{
    pk_job job;
    int i;
    memset(&job, 0, sizeof job);
    job.options.rope = "half";
    job.options.quantizer = "z";
    job.options.theta = 1e5;
    job.options.sinks = 4.0;
    for (i = 1; i < argc; i += 2) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            (void)fputs(pk_usage, stdout);
            return pk_finish();
        }
        pk_option(&job.options, argv[i], i + 1 < argc ? argv[i + 1] : NULL);
    }
    pk_settle(&job.options);
    job.quantizer = job.options.quantizer[0] == 'z'   ? LQ_Z
                    : job.options.quantizer[0] == 'd' ? LQ_D4
                                                      : LQ_E8;
    if (job.options.unpack) {
        pk_run_unpack(&job);
    } else {
        pk_run_pack(&job);
    }
    for (i = 0; i < 2; i++) {
        free(job.kv[i].data);
    }
    free(job.queries.data);
    free(job.freqs);
    free(job.tables_mem);
    return pk_finish();
}
