/* cc -std=c99 -O2 tests/test_session.c -o test_session -lm    A session file survives a kill.
   A child writes the newer state of a sequence and dies after so many bytes, by SIGKILL or by
   _exit with bytes still in its buffer; the parent opens the file and must find the old state or
   the new one, whole, and go on as if nothing had happened. Three ways of writing: a file of its
   own, renamed when it is complete; another segment at the end of the archive; and the first save
   of all. `test_session quick` kills fewer children. */
#if defined(__unix__) || defined(__APPLE__)
#define SESSION_POSIX
#if !defined(_XOPEN_SOURCE)
#define _XOPEN_SOURCE 700
#endif
#endif

#include "header.h"

#include "check.h"
#include "source.h"

#if !defined(SESSION_POSIX)

int main(void)
{
    printf("skipped: no fork\n");
    CHECK(1);
    return check_report("test_session");
}

#else

#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAYERS = 2, KV_HEADS = 2, HEADS = 4, DIMS = 16, ROW = KV_HEADS * DIMS };
enum { OLD = 101, NEW = 140, OTHER = 30, MOST = 160 }; /* tokens */
enum { NAME = 7, OTHER_NAME = 9 };
enum { FILE_MOST = 1 << 17, OPEN_BYTES = 1 << 14, BUFFER = 512 };

/* Everything that a cache says, and what its next token makes of it. */
typedef struct state {
    size_t tokens;
    float read[LAYERS][2][MOST * ROW];
    float out[LAYERS][HEADS * DIMS];
    float next[LAYERS][HEADS * DIMS];
} state;

static float vectors[LAYERS][2][MOST * ROW];
static float queries[HEADS * DIMS];
static state old_state;
static state new_state;
static state other_state;
static state none; /* of no tokens */
static lq_kv old_kv;
static lq_kv new_kv;
static lq_kv other_kv;
static lq_kv back_kv;
static char folder[512];
static char path[600];
static char spare[600];

static lq_kv_desc session_desc(void)
{
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    d.layers = LAYERS;
    d.kv_heads = KV_HEADS;
    d.k_dims = DIMS;
    d.tokens = MOST;
    d.window = 20;
    d.sequences = 2;
    d.v.kind = LQ_KV_HOT;
    d.v.quantizer = LQ_E8;
    return d;
}

static void *make(lq_kv *kv)
{
    lq_kv_desc d = session_desc();
    void *mem = source_zeros(lq_kv_bytes(&d));
    CHECK(lq_kv_init(kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    return mem;
}

/* Appends tokens of `vectors` until there are so many. */
static void grow(lq_kv *kv, size_t tokens)
{
    size_t t = lq_kv_tokens(kv);
    for (uint32_t l = 0; l < LAYERS; l++) {
        lq_kv_view k;
        memset(&k, 0, sizeof k);
        lq_kv_view v;
        memset(&v, 0, sizeof v);
        k.data = vectors[l][0] + t * ROW;
        v.data = vectors[l][1] + t * ROW;
        CHECK(lq_kv_append(kv, l, &k, &v, NULL, tokens - t) == LQ_OK);
    }
}

static void attend(const lq_kv *kv, float (*out)[HEADS * DIMS])
{
    for (uint32_t l = 0; l < LAYERS; l++) {
        lq_kv_attend_desc d;
        memset(&d, 0, sizeof d);
        d.layer = l;
        d.heads = HEADS;
        d.q.data = queries;
        d.out.data = out[l];
        CHECK(lq_kv_attend(kv, &d) == LQ_OK);
    }
}

/* The last thing done to kv: it gets another token. */
static void look(state *s, lq_kv *kv)
{
    memset(s, 0, sizeof *s);
    s->tokens = lq_kv_tokens(kv);
    if (s->tokens == 0) return;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t v = 0; v < 2; v++) {
            lq_kv_view_out out;
            memset(&out, 0, sizeof out);
            out.data = s->read[l][v];
            CHECK(lq_kv_read(kv, l, v ? LQ_V : LQ_K, &out, 0, s->tokens, NULL, 0) == LQ_OK);
        }
    }
    attend(kv, s->out);
    grow(kv, s->tokens + 1);
    attend(kv, s->next);
}

/* The state of a cache that lives on as it is. */
static void look_at_fork(state *s, lq_kv *kv)
{
    lq_kv child;
    CHECK(lq_kv_fork(&child, kv) == LQ_OK);
    look(s, &child);
    lq_kv_free(&child);
}

/* ---- writing, until death ---- */
typedef struct pen {
    int file;
    size_t left;  /* bytes of life */
    int buffered; /* 1: dies with a buffer full of bytes that the system has not got */
    size_t held;
    uint8_t buffer[BUFFER];
} pen;

static int pour(pen *p, const uint8_t *bytes, size_t count)
{
    while (count) {
        ssize_t n = write(p->file, bytes, count);
        if (n <= 0) return 1;
        bytes += n;
        count -= (size_t)n;
    }
    return 0;
}

static int flush(pen *p)
{
    size_t count = p->held;
    p->held = 0;
    return pour(p, p->buffer, count);
}

static void die(const pen *p)
{
    if (p->buffered) _exit(0);
    (void)kill(getpid(), SIGKILL);
    for (;;) { /* until it comes */
        (void)pause();
    }
}

static int pen_write(void *user, const void *bytes, size_t count)
{
    pen *p = (pen *)user;
    const uint8_t *src = (const uint8_t *)bytes;
    while (count) {
        size_t n = count < p->left ? count : p->left;
        if (p->buffered) {
            n = n < BUFFER - p->held ? n : BUFFER - p->held;
            memcpy(p->buffer + p->held, src, n);
            p->held += n;
        } else if (pour(p, src, n)) {
            return 1;
        }
        p->left -= n;
        src += n;
        count -= n;
        if (p->left == 0) die(p);
        if (p->held == BUFFER && flush(p)) return 1;
    }
    return 0;
}

/* Saves with a writer that is set up but for its memory. */
static int save(const lq_kv *kv, uint64_t name, lq_archive_writer *writer)
{
    size_t workspace;
    size_t directory;
    if (lq_kv_save_bytes(kv, &workspace, &directory) != LQ_OK) return 1;
    uint8_t *mem = (uint8_t *)source_alloc(workspace);
    int status = lq_kv_save(kv, writer, name, mem, workspace);
    free(mem);
    return status != LQ_OK;
}

static uint8_t directory_room[1 << 16];

static lq_archive_writer_desc pen_desc(pen *p)
{
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    d.write_fn = pen_write;
    d.user = p;
    d.directory = directory_room;
    d.directory_bytes = sizeof directory_room;
    return d;
}

/* A file of its own; returns 0 or what went wrong. */
static int write_whole(const char *name, const lq_kv *kv, size_t left, int buffered)
{
    pen p;
    lq_archive_writer_desc d = pen_desc(&p);
    memset(&p, 0, sizeof p);
    p.left = left;
    p.buffered = buffered;
    p.file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    lq_archive_writer writer;
    if (p.file < 0 || lq_archive_writer_init(&writer, &d) != LQ_OK ||
        save(&other_kv, OTHER_NAME, &writer) || save(kv, NAME, &writer) ||
        lq_archive_finish(&writer) != LQ_OK || flush(&p) || fsync(p.file) || close(p.file)) {
        return 2;
    }
    return 0;
}

/* ---- reading ---- */
static uint8_t file_bytes[FILE_MOST];
static size_t file_count;
static uint8_t open_room[OPEN_BYTES];
static lq_archive_reader reader;

static void read_file(const char *name)
{
    int file = open(name, O_RDONLY);
    ssize_t n = 1;
    file_count = 0;
    while (file >= 0 && n > 0) {
        n = read(file, file_bytes + file_count, sizeof file_bytes - file_count);
        file_count += n > 0 ? (size_t)n : 0;
    }
    if (file >= 0) (void)close(file);
    CHECK(file_count < sizeof file_bytes);
}

static int open_archive(const char *name)
{
    read_file(name);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = file_bytes;
    source.size = file_count;
    source.recover_bytes = UINT64_MAX;
    size_t needed;
    return lq_archive_open(&reader, &source, open_room, sizeof open_room, &needed);
}

/* What the file holds under a name: all of one of these states. Returns which: 0 or 1. */
static int check_loaded(uint64_t name, const state *first, const state *second)
{
    static state got;
    size_t room = lq_kv_load_workspace_bytes(&back_kv);
    uint8_t *workspace = (uint8_t *)source_alloc(room);
    CHECK(lq_kv_truncate(&back_kv, 0) == LQ_OK);
    CHECK(lq_kv_load(&back_kv, &reader, name, workspace, room) == LQ_OK);
    free(workspace);
    look(&got, &back_kv);
    int which = got.tokens == second->tokens;
    CHECK(memcmp(&got, which ? second : first, sizeof got) == 0);
    return which;
}

/* ---- deaths ---- */
/* How a child ended: 1 as it should. */
static int buried(pid_t child, int buffered)
{
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return 0;
    if (WIFSIGNALED(status)) return !buffered && WTERMSIG(status) == SIGKILL;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Writes the new state to a file of its own and renames it. `left` beyond the file's size: the
   child lives to rename it. */
static void test_rename(size_t left, size_t size, int buffered)
{
    CHECK(write_whole(path, &old_kv, SIZE_MAX, 0) == 0);
    pid_t child = fork();
    if (child == 0) {
        int status = write_whole(spare, &new_kv, left, buffered);
        _exit(status ? status : rename(spare, path) ? 3 : 0);
    }
    CHECK(buried(child, buffered || left > size));
    CHECK(open_archive(path) == LQ_OK && reader.end == file_count);
    CHECK(check_loaded(NAME, &old_state, &new_state) == (left > size));
    CHECK(check_loaded(OTHER_NAME, &other_state, &none) == 0);
}

/* Adds the new state to the end of the archive that is open. */
static int write_more(size_t left, int buffered)
{
    pen p;
    lq_archive_writer_desc d = pen_desc(&p);
    off_t end = (off_t)reader.end;
    memset(&p, 0, sizeof p);
    p.left = left;
    p.buffered = buffered;
    p.file = open(path, O_WRONLY);
    lq_archive_writer writer;
    if (p.file < 0 || ftruncate(p.file, end) || lseek(p.file, end, SEEK_SET) != end ||
        lq_archive_writer_append(&writer, &d, &reader) != LQ_OK || save(&new_kv, NAME, &writer) ||
        lq_archive_finish(&writer) != LQ_OK || flush(&p) || close(p.file)) {
        return 2;
    }
    return 0;
}

/* A second child starts from what the first one left behind, and dies, too. */
static void test_append(const size_t *left, size_t size, int buffered)
{
    int newer = 0;
    CHECK(write_whole(path, &old_kv, SIZE_MAX, 0) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(open_archive(path) == LQ_OK);
        pid_t child = fork();
        if (child == 0) _exit(write_more(left[i], buffered));
        CHECK(buried(child, buffered || left[i] > size));
        newer = newer || left[i] > size || (!buffered && left[i] == size);
        CHECK(open_archive(path) == LQ_OK);
        CHECK(check_loaded(NAME, &old_state, &new_state) == newer);
        CHECK(check_loaded(OTHER_NAME, &other_state, &none) == 0);
    }
}

/* The first save of all: nothing, or the whole. */
static void test_first(size_t left, size_t size, int buffered)
{
    (void)unlink(path);
    pid_t child = fork();
    if (child == 0) _exit(write_whole(path, &new_kv, left, buffered));
    CHECK(buried(child, buffered || left > size));
    if (left > size || (!buffered && left == size)) {
        CHECK(open_archive(path) == LQ_OK);
        CHECK(check_loaded(NAME, &old_state, &new_state) == 1);
    } else {
        CHECK(open_archive(path) != LQ_OK);
    }
}

/* Bytes that `write_more` writes: only a child whose life is longer comes to its end. */
static size_t size_of_more(void)
{
    CHECK(write_whole(path, &old_kv, SIZE_MAX, 0) == 0 && open_archive(path) == LQ_OK);
    size_t before = file_count;
    CHECK(write_more(SIZE_MAX, 0) == 0 && open_archive(path) == LQ_OK);
    CHECK(check_loaded(NAME, &old_state, &new_state) == 1);
    return file_count - before;
}

/* A length of life: near the ends or anywhere, sometimes long enough. */
static size_t random_left(size_t size)
{
    switch (source_below(4)) {
    case 0:
        return 1 + source_below(40);
    case 1:
        return size + 2 - source_below(100);
    default:
        return 1 + source_below((uint32_t)size);
    }
}

static void test_all(size_t times)
{
    CHECK(write_whole(path, &new_kv, SIZE_MAX, 0) == 0);
    read_file(path);
    size_t whole = file_count;
    size_t more = size_of_more();
    printf("whole: %lu bytes, appended: %lu bytes\n", (unsigned long)whole, (unsigned long)more);
    for (size_t i = 0; i < times; i++) {
        size_t left[2];
        int buffered = i % 3 == 2;
        left[0] = random_left(more);
        left[1] = random_left(more);
        test_append(left, more, buffered);
        test_rename(random_left(whole), whole, buffered);
        test_first(random_left(whole), whole, buffered);
    }
    for (size_t i = 0; i < 4; i++) { /* the last bytes, one after the other */
        size_t left[2];
        left[0] = more - 1 + i % 3;
        left[1] = more - 1;
        test_append(left, more, 0);
        test_rename(whole - 1 + i, whole, 0);
        test_first(whole - 1 + i, whole, 0);
    }
}

static int make_folder(void)
{
    const char *where = getenv("TMPDIR");
    if (!where || !*where || strlen(where) > 400) where = P_tmpdir;
    (void)snprintf(folder, sizeof folder, "%s/test_session.XXXXXX", where);
    if (!mkdtemp(folder)) return 0;
    (void)snprintf(path, sizeof path, "%s/session", folder);
    (void)snprintf(spare, sizeof spare, "%s/session.new", folder);
    return 1;
}

int main(int argc, char **argv)
{
    int quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    float *all = &vectors[0][0][0];
    if (!make_folder()) {
        printf("skipped: no folder for temporary files\n");
        CHECK(1);
        return check_report("test_session");
    }
    for (size_t i = 0; i < sizeof vectors / 4; i++) {
        all[i] = (float)source_gauss();
    }
    for (size_t i = 0; i < HEADS * DIMS; i++) {
        queries[i] = (float)source_gauss();
    }
    void *mem[4];
    mem[0] = make(&old_kv);
    mem[1] = make(&new_kv);
    mem[2] = make(&other_kv);
    mem[3] = make(&back_kv);
    grow(&old_kv, OLD);
    grow(&new_kv, OLD);
    grow(&new_kv, NEW);
    grow(&other_kv, OTHER);
    look_at_fork(&old_state, &old_kv);
    look_at_fork(&new_state, &new_kv);
    look_at_fork(&other_state, &other_kv);
    test_all(quick ? 60 : 400);
    (void)unlink(path);
    (void)unlink(spare);
    (void)rmdir(folder);
    for (size_t i = 0; i < 4; i++) {
        free(mem[i]);
    }
    return check_report("test_session");
}

#endif
