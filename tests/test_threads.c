/* cc -std=c99 -O2 tests/test_threads.c -o test_threads -lm -lpthread    Const functions from two threads
   on the same objects, each with workspace of its own: both get what one alone gets. run.sh also
   builds it with -fsanitize=thread, which reports any write. */
#if defined(__unix__) || defined(__APPLE__)
#define THREADS_POSIX
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#endif

#include "header.h"

#include "check.h"
#include "source.h"
#include "unpack.h"

#if !defined(THREADS_POSIX)

int main(void)
{
    printf("skipped: no pthreads\n");
    CHECK(1);
    return check_report("test_threads");
}

#else

#include <pthread.h>

enum { LAYERS = 3, KV_HEADS = 2, HEADS = 4, DIMS = 32, TOKENS = 400, ROW = KV_HEADS * DIMS };
enum { FILE_MOST = 1 << 20, KINDS = 4 };

static const lq_tables *tables;
static lq_kv kv;
static lq_archive_reader readers[2]; /* of a saved and of a packed cache */
static lq_profile profile;
static float vectors[TOKENS * ROW];
static float freqs[DIMS / 2];
static lq_rope rope;

/* What a thread makes of the shared objects. */
typedef struct work {
    uint32_t hash;
    int failed;
    size_t count; /* of file */
    uint8_t file[FILE_MOST];
    float floats[TOKENS * ROW];
} work;

static work works[3];

static void add(work *w, const void *bytes, size_t count)
{
    w->hash = lq_xxh32(bytes, count, w->hash);
}

static void fine(work *w, int status)
{
    w->failed += status != LQ_OK;
}

/* Everything that asks the cache alone, or with the files. */
static void ask_kv(work *w)
{
    fine(w, lq_kv_load_check(&kv, &readers[0], 5, NULL));
    uint8_t name[16];
    fine(w, lq_kv_profile_name(&profile, name));
    add(w, name, sizeof name);
    int64_t position;
    fine(w, lq_kv_position(&kv, 300, &position));
    lq_kv_account account;
    fine(w, lq_kv_stats(&kv, &account));
    size_t numbers[8];
    numbers[0] = lq_kv_tokens(&kv);
    numbers[1] = lq_kv_room(&kv);
    numbers[2] = lq_kv_attend_workspace_bytes(&kv);
    numbers[3] = lq_kv_load_workspace_bytes(&kv);
    numbers[4] = lq_kv_read_workspace_bytes(&kv);
    numbers[5] = lq_kv_unpack_workspace_bytes(&kv, &readers[1], 5);
    numbers[6] = lq_kv_export_workspace_bytes(&kv, NULL);
    numbers[7] = lq_kv_copy_workspace_bytes(&kv, &kv);
    w->failed += numbers[5] == 0;
    add(w, numbers, sizeof numbers);
    add(w, &position, sizeof position);
    add(w, &account.used_bytes, sizeof account.used_bytes);
}

static void attend_kv(work *w)
{
    size_t bytes = lq_kv_attend_workspace_bytes(&kv);
    void *workspace = source_alloc(bytes);
    float mass[TOKENS];
    for (uint32_t l = 0; l < LAYERS; l++) {
        lq_kv_attend_desc d;
        memset(&d, 0, sizeof d);
        memset(mass, 0, sizeof mass);
        d.layer = l;
        d.heads = HEADS;
        d.q.data = vectors;
        d.out.data = w->floats;
        d.mass = mass;
        d.top_pages = 2;
        d.workspace = workspace;
        d.workspace_bytes = bytes;
        fine(w, lq_kv_attend(&kv, &d));
        add(w, w->floats, HEADS * DIMS * sizeof *w->floats);
        add(w, mass, sizeof mass);
    }
    free(workspace);
}

static void read_kv(work *w)
{
    size_t bytes = lq_kv_read_workspace_bytes(&kv);
    void *workspace = source_alloc(bytes);
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    out.data = w->floats;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
            w->failed +=
                lq_kv_read(&kv, l, stream, &out, 0, 300, workspace, bytes - 1) != LQ_E_SPACE;
            fine(w, lq_kv_read(&kv, l, stream, &out, 0, 300, workspace, bytes));
            add(w, w->floats, 300 * ROW * sizeof *w->floats);
        }
    }
    free(workspace);
}

/* Saves or packs; returns the bytes of the file. */
static size_t write_kv(work *w, int pack)
{
    lq_archive_writer_desc d;
    size_t needed = 0;
    size_t directory = 0;
    memset(&d, 0, sizeof d);
    lq_kv_pack_desc p;
    memset(&p, 0, sizeof p);
    p.tables = tables;
    p.sequence = 5;
    p.k_step = p.v_step = 0.3f;
    fine(w, pack ? lq_kv_pack_bytes(&kv, &p, &needed, &directory)
                 : lq_kv_save_bytes(&kv, &needed, &directory));
    void *workspace = source_alloc(needed);
    d.mem = w->file;
    d.mem_bytes = FILE_MOST;
    d.directory = source_alloc(directory);
    d.directory_bytes = directory;
    lq_archive_writer writer;
    fine(w, lq_archive_writer_init(&writer, &d));
    fine(w, pack ? lq_kv_pack(&kv, &writer, &p, workspace, needed)
                 : lq_kv_save(&kv, &writer, 5, workspace, needed));
    fine(w, lq_archive_finish(&writer));
    add(w, w->file, (size_t)writer.offset);
    free(workspace);
    free(d.directory);
    return (size_t)writer.offset;
}

/* The packed file: its groups' tokens, ropes, runs and pages. */
static void read_archive(work *w)
{
    const lq_archive_reader *reader = &readers[1];
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    lq_vectors_out out;
    memset(&out, 0, sizeof out);
    d.tables = tables;
    d.sequence = 5;
    void *slices[KV_HEADS];
    for (uint32_t i = 0; i < KV_HEADS; i++) {
        slices[i] = w->floats + i * DIMS;
    }
    out.slices = slices;
    out.token_stride = ROW;
    out.type = LQ_F32;
    lq_archive_group_desc group;
    lq_slice list[KV_HEADS];
    for (uint32_t i = 0; i < 2 * LAYERS; i++) {
        size_t needed = lq_archive_unpack_workspace_bytes(reader, i);
        void *workspace = source_alloc(needed);
        d.group = i;
        fine(w, lq_archive_group(reader, i, &group, list, KV_HEADS));
        fine(w, lq_archive_unpack(reader, &d, &out, 10, 200, workspace, needed));
        add(w, w->floats, 200 * ROW * sizeof *w->floats);
        free(workspace);
    }
    lq_archive_run_info run;
    for (uint32_t i = 0; lq_archive_run(reader, i, &run) == LQ_OK; i++) {
        lq_page_ref ref;
        fine(w, lq_archive_run_page(reader, i, 0, &ref));
        uint8_t page[8192];
        const uint8_t *bytes;
        fine(w, lq_archive_page(reader, &ref, page, sizeof page, &bytes));
        add(w, bytes, (size_t)ref.bytes);
    }
}

/* A loaded profile, and tables: codecs of a thread's own from those of both. */
static void use_profile(work *w)
{
    uint8_t *bytes = (uint8_t *)source_alloc(lq_profile_save_bound(profile.dims));
    size_t count = 0;
    fine(w, lq_profile_save(bytes, lq_profile_save_bound(profile.dims), &count, &profile));
    add(w, bytes, count);
    free(bytes);
}

/* A cache of the thread's own from files that both read. */
static void load_own(work *w, const lq_kv_desc *desc)
{
    void *mem = source_alloc(lq_kv_bytes(desc));
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    out.data = w->floats;
    lq_kv own;
    fine(w, lq_kv_init(&own, mem, lq_kv_bytes(desc), desc));
    for (int pass = 0; pass < 2; pass++) {
        size_t needed = pass ? lq_kv_unpack_workspace_bytes(&own, &readers[1], 5) : lq_kv_load_workspace_bytes(&own);
        void *workspace = source_alloc(needed);
        fine(w, pass ? unpack(&own, &readers[1], tables, 5, workspace, needed)
                     : lq_kv_load(&own, &readers[0], 5, workspace, needed));
        fine(w, lq_kv_read(&own, 1, LQ_K, &out, 0, 300, NULL, 0));
        add(w, w->floats, 300 * ROW * sizeof *w->floats);
        fine(w, lq_kv_truncate(&own, 0));
        free(workspace);
    }
    lq_kv_free(&own);
    free(mem);
}

static int put(void *user, const void *bytes, size_t count)
{
    work *w = (work *)user;
    if (count > FILE_MOST - w->count) return 1;
    memcpy(w->file + w->count, bytes, count);
    w->count += count;
    return 0;
}

/* Out of the cache, into one of the thread's own; and a copy of it. */
static void session(work *w, const lq_kv_desc *desc)
{
    size_t needed = lq_kv_export_workspace_bytes(&kv, NULL);
    void *workspace = source_alloc(needed);
    lq_archive_source source;
    void *mem = NULL;
    size_t bytes = 0;
    memset(&source, 0, sizeof source);
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    w->count = 0;
    fine(w, lq_kv_export(&kv, put, w, NULL, workspace, needed));
    add(w, w->file, w->count);
    free(workspace);
    source.bytes = w->file;
    source.size = w->count;
    lq_kv own;
    int status;
    while ((status = lq_kv_import(&own, mem, bytes, &bytes, &source, NULL)) == LQ_E_SPACE) {
        free(mem);
        mem = source_alloc(bytes);
    }
    fine(w, status);
    out.data = w->floats;
    fine(w, lq_kv_read(&own, 2, LQ_V, &out, 0, TOKENS, NULL, 0));
    add(w, w->floats, TOKENS * ROW * sizeof *w->floats);
    lq_kv_free(&own);
    free(mem);
    mem = source_alloc(lq_kv_bytes(desc));
    fine(w, lq_kv_init(&own, mem, lq_kv_bytes(desc), desc));
    needed = lq_kv_copy_workspace_bytes(&own, &kv);
    workspace = source_alloc(needed);
    fine(w, lq_kv_copy(&own, &kv, workspace, needed));
    fine(w, lq_kv_read(&own, 1, LQ_K, &out, 0, TOKENS, NULL, 0));
    add(w, w->floats, TOKENS * ROW * sizeof *w->floats);
    free(workspace);
    lq_kv_free(&own);
    free(mem);
}

/* What kind of cache the files are of. */
static void inspect(work *w)
{
    for (int i = 0; i < 2; i++) {
        lq_kv_import_desc with;
        memset(&with, 0, sizeof with);
        with.sequence = 5;
        lq_kv_desc d;
        size_t needed;
        w->failed += lq_kv_inspect(&d, NULL, 0, &needed, &readers[i], &with) != LQ_E_SPACE;
        void *mem = source_alloc(needed);
        fine(w, lq_kv_inspect(&d, mem, needed, &needed, &readers[i], &with));
        add(w, &d.layer[1].k, sizeof d.layer[1].k);
        free(mem);
    }
}

static lq_kv_desc shared_desc(int kind)
{
    static lq_kv_layer layers[LAYERS];
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    memset(layers, 0, sizeof layers);
    d.layers = LAYERS;
    d.kv_heads = KV_HEADS;
    d.k_dims = DIMS;
    d.tokens = TOKENS;
    d.window = 20;
    d.sparse = 1;
    d.tables = tables;
    d.rope = &rope;
    d.layer = layers;
    layers[2].v.kind = LQ_KV_RAW;
    d.k.kind = kind % 2 ? LQ_KV_WARM : LQ_KV_HOT;
    d.v.kind = kind > 1 ? LQ_KV_WARM : LQ_KV_HOT;
    d.k.step = kind % 2 ? 0.2f : 0.0f;
    d.v.step = kind > 1 ? 0.2f : 0.0f;
    return d;
}

static lq_kv_desc now;

static void *run_thread(void *arg)
{
    work *w = (work *)arg;
    for (int round = 0; round < 2; round++) {
        ask_kv(w);
        attend_kv(w);
        read_kv(w);
        (void)write_kv(w, 0);
        (void)write_kv(w, 1);
        read_archive(w);
        use_profile(w);
        load_own(w, &now);
        session(w, &now);
        inspect(w);
    }
    return NULL;
}

static void open_file(lq_archive_reader *reader, const uint8_t *bytes, size_t count, void *mem)
{
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = bytes;
    source.size = count;
    size_t needed;
    CHECK(lq_archive_open(reader, &source, mem, 1 << 16, &needed) == LQ_OK);
}

static void make_profile(void *mem)
{
    static uint32_t dims = DIMS;
    lq_geometry g;
    const void *slice = vectors;
    memset(&g, 0, sizeof g);
    lq_vectors src;
    memset(&src, 0, sizeof src);
    g.stream = LQ_K;
    g.slice_count = 1;
    g.slice_dims = &dims;
    src.slices = &slice;
    src.token_stride = ROW;
    src.type = LQ_F32;
    void *fit_mem = source_alloc(lq_fit_bytes(&g));
    void *work_mem = source_alloc(lq_fit_workspace_bytes(&g));
    lq_fit fit;
    CHECK(lq_fit_init(&fit, fit_mem, lq_fit_bytes(&g), &g, 0.2f) == LQ_OK);
    CHECK(lq_fit_add(&fit, &src, NULL, 300, work_mem, lq_fit_workspace_bytes(&g)) == LQ_OK);
    CHECK(lq_fit_profile(&fit, &profile, mem, lq_profile_bytes(DIMS)) == LQ_OK);
    free(fit_mem);
    free(work_mem);
}

static void test_kind(int kind)
{
    lq_kv_desc d = shared_desc(kind);
    void *mem = source_alloc(lq_kv_bytes(&d));
    uint8_t *files = (uint8_t *)source_alloc(2 * FILE_MOST);
    void *opened = source_alloc(1 << 17);
    now = d;
    lq_kv_view view;
    memset(&view, 0, sizeof view);
    memset(works, 0, sizeof works);
    view.data = vectors;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    for (uint32_t l = 0; l < LAYERS; l++) {
        CHECK(lq_kv_append(&kv, l, &view, &view, NULL, TOKENS) == LQ_OK);
    }
    CHECK(lq_kv_shift(&kv, 100, TOKENS - 100, 77) == LQ_OK);
    for (int i = 0; i < 2; i++) {
        size_t count = write_kv(&works[2], i);
        memcpy(files + i * FILE_MOST, works[2].file, count);
        open_file(&readers[i], files + i * FILE_MOST, count, (uint8_t *)opened + (i << 16));
    }
    works[2].hash = 0;
    (void)run_thread(&works[2]);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, run_thread, &works[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (int i = 0; i < 3; i++) {
        CHECK(works[i].failed == 0);
        CHECK(works[i].hash == works[2].hash);
    }
    lq_kv_free(&kv);
    free(mem);
    free(files);
    free(opened);
}

int main(void)
{
    void *tables_mem = source_alloc(lq_tables_bytes());
    void *profile_mem = source_alloc(lq_profile_bytes(DIMS));
    CHECK(lq_tables_init(&tables, tables_mem, lq_tables_bytes()) == LQ_OK);
    for (size_t i = 0; i < TOKENS * ROW; i++) {
        vectors[i] = (float)source_integer_gauss() + (i % 8 == 3 ? 3.0f : 0.0f);
    }
    for (size_t i = 0; i < DIMS / 2; i++) {
        freqs[i] = 1.0f / (float)(i + 1);
    }
    rope.freqs = freqs;
    rope.rotary_dims = DIMS;
    make_profile(profile_mem);
    for (int kind = 0; kind < KINDS; kind++) {
        test_kind(kind);
    }
    free(profile_mem);
    free(tables_mem);
    return check_report("test_threads");
}

#endif
