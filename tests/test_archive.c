/* cc -std=c99 -O2 -o test_archive test_archive.c && ./test_archive [mutations] */
static unsigned long long steps_done; /* bytes hashed, records looked at, steps of searches */
#define LQ__WORK(n) ((void)(steps_done += (n)))
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include <stdlib.h>

#include "check.h"

/* ---- helpers: random numbers, sinks, sources ---- */

static uint64_t random_state = 0x853c49e6748fea9bu;

static uint32_t random_u32(void) /* xorshift64* */
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)(random_state * 0x2545f4914f6cdd1du >> 32);
}

static void *xmalloc(size_t count) /* exact size, so that sanitizers see one byte too many */
{
    void *p = malloc(count ? count : 1);
    if (!p) abort();
    return p;
}

static uint8_t *heap_copy(const uint8_t *src, size_t count)
{
    uint8_t *p = (uint8_t *)xmalloc(count);
    if (count) memcpy(p, src, count);
    return p;
}

enum { SINK_BYTES = 1 << 20 };

/* Fails for good after `limit` bytes, and writes as far as that. */
typedef struct sink {
    uint8_t bytes[SINK_BYTES];
    size_t count;
    size_t limit;
} sink;

static sink out;

static int sink_write(void *user, const void *src, size_t count)
{
    sink *s = (sink *)user;
    size_t part = count < s->limit - s->count ? count : s->limit - s->count;
    CHECK(count > 0);
    memcpy(s->bytes + s->count, src, part);
    s->count += part;
    return part < count;
}

static uint8_t directory_memory[1 << 18];

static lq_archive_writer_desc sink_desc(size_t limit)
{
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    out.count = 0;
    out.limit = limit;
    d.write_fn = sink_write;
    d.user = &out;
    d.directory = directory_memory;
    d.directory_bytes = sizeof directory_memory;
    return d;
}

typedef struct memory_source {
    const uint8_t *bytes;
    size_t count;
    uint32_t reads_left; /* fails afterwards */
} memory_source;

static int source_read(void *user, uint64_t offset, void *dst, size_t count)
{
    memory_source *m = (memory_source *)user;
    CHECK(count > 0 && offset <= m->count && count <= m->count - offset);
    if (m->reads_left == 0) return 1;
    m->reads_left--;
    memcpy(dst, m->bytes + offset, count);
    return 0;
}

/* An archive opened from exact-size heap memory. */
typedef struct opened {
    lq_archive_reader r;
    memory_source from;
    uint8_t *file;
    void *mem;
} opened;

static void opened_free(opened *o)
{
    free(o->file);
    free(o->mem);
}

static int open_copy(opened *o, const uint8_t *bytes, size_t count, int callback, uint64_t recover)
{
    size_t needed = 0;
    size_t again = 0;
    memset(o, 0, sizeof *o);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    o->file = heap_copy(bytes, count);
    o->from.bytes = o->file;
    o->from.count = count;
    o->from.reads_left = 0xffffffffu;
    if (callback) {
        source.read_fn = source_read;
        source.user = &o->from;
    } else {
        source.bytes = o->file;
    }
    source.size = count;
    source.recover_bytes = recover;
    int status = lq_archive_open(&o->r, &source, NULL, 0, &needed);
    if (status != LQ_E_SPACE) {
        CHECK(status < 0 && needed == 0);
        return status;
    }
    CHECK(needed > 0 && needed <= 3 * count + 64);
    o->mem = xmalloc(needed);
    CHECK(lq_archive_open(&o->r, &source, o->mem, needed - 1, &again) == LQ_E_SPACE);
    CHECK(again == needed && o->r.segment_count == 0);
    status = lq_archive_open(&o->r, &source, o->mem, needed, &again);
    while (recover && status == LQ_E_SPACE) { /* it fell back on a chain that needs more */
        CHECK(again > needed && again <= 3 * count + 64);
        needed = again;
        free(o->mem);
        o->mem = xmalloc(needed);
        status = lq_archive_open(&o->r, &source, o->mem, needed, &again);
    }
    CHECK(status || (recover ? again <= needed : again == needed));
    CHECK(status == LQ_OK || o->r.segment_count == 0);
    return status;
}

/* ---- one number for everything that a reader answers ---- */

static void fold(uint32_t *hash, uint64_t value)
{
    uint8_t b[8];
    for (int i = 0; i < 8; i++) {
        b[i] = (uint8_t)(value >> 8 * i);
    }
    *hash = lq_xxh32(b, 8, *hash);
}

static void fold_float(uint32_t *hash, float value)
{
    uint32_t u;
    memcpy(&u, &value, 4);
    fold(hash, u);
}

static int answer_ids(const lq_archive_reader *r, uint32_t *hash)
{
    static lq_slice slices[LQ_ARCHIVE_MAX_SLICES];
    static float freqs[LQ_ARCHIVE_MAX_DIMS / 2];
    for (uint32_t i = 0; i < r->group_count; i++) {
        lq_archive_group_desc g;
        CHECK(lq_archive_group(r, i, &g, slices, LQ_ARCHIVE_MAX_SLICES) == LQ_OK);
        CHECK(g.rope == LQ_ARCHIVE_NONE || g.rope < r->rope_count);
        fold(hash, g.stream | (uint64_t)g.rope << 32);
        *hash = lq_xxh32(g.page_rule, 4, *hash);
        for (size_t k = 0; k < g.slice_count; k++) {
            fold(hash, slices[k].layer | (uint64_t)slices[k].head << 32);
            fold(hash, slices[k].first_dim | (uint64_t)slices[k].dims << 32);
        }
    }
    for (uint32_t i = 0; i < r->rope_count; i++) {
        lq_rope rope;
        CHECK(lq_archive_rope(r, i, &rope, freqs, LQ_ARCHIVE_MAX_DIMS / 2) == LQ_OK);
        fold(hash, rope.layout | (uint64_t)rope.rotary_dims << 32);
        fold_float(hash, rope.magnitude);
        for (size_t k = 0; k < rope.rotary_dims / 2; k++) {
            CHECK(freqs[k] >= 0.0f && freqs[k] < 256.0f);
            fold_float(hash, freqs[k]);
        }
    }
    for (uint32_t i = 0; i < r->profile_count; i++) {
        lq_archive_profile_desc p;
        CHECK(lq_archive_profile(r, i, &p) == LQ_OK);
        CHECK((p.bytes != NULL) != (p.hash != NULL) && (p.bytes != NULL) == (p.count > 0));
        *hash = p.bytes ? lq_xxh32(p.bytes, p.count, *hash) : lq_xxh32(p.hash, 16, *hash + 1);
    }
    const uint8_t *bytes;
    size_t count;
    for (uint32_t i = 0; i < 10; i++) {
        int status = lq_archive_meta(r, i, &bytes, &count);
        CHECK(status == LQ_OK || status == LQ_E_RANGE);
        *hash = status ? *hash : lq_xxh32(bytes, count, *hash + i);
    }
    return LQ_OK;
}

static int answer_page(const lq_archive_reader *r, const lq_page_ref *ref, uint32_t *hash)
{
    CHECK(ref->bytes > 0 && ref->offset >= 32 && ref->offset <= r->end);
    CHECK(ref->bytes <= r->end - ref->offset);
    fold(hash, ref->offset);
    fold(hash, ref->bytes | (uint64_t)ref->checksum << 32);
    fold(hash, ref->first_token);
    fold(hash, ref->token_count);
    uint8_t *buffer = r->file ? NULL : (uint8_t *)xmalloc(ref->bytes);
    const uint8_t *page;
    int status = lq_archive_page(r, ref, buffer, buffer ? ref->bytes : 0, &page);
    CHECK(status == LQ_OK || status == LQ_E_DATA);
    CHECK((status == LQ_OK) == (page != NULL));
    if (page) *hash = lq_xxh32(page, ref->bytes, *hash);
    free(buffer);
    return status;
}

/* Looks up a token and checks that it is in the page found. */
static void answer_token(const lq_archive_reader *r, const lq_archive_run_desc *d, uint64_t token,
                         uint32_t *hash)
{
    lq_page_ref ref;
    CHECK(lq_archive_find(r, d->group, d->sequence, token, &ref) == LQ_OK);
    CHECK(token >= ref.first_token && token - ref.first_token < ref.token_count);
    CHECK(ref.bytes > 0 && ref.offset <= r->end && ref.bytes <= r->end - ref.offset);
    uint64_t end;
    CHECK(lq_archive_tokens(r, d->group, d->sequence, &end) == LQ_OK && end > token);
    fold(hash, ref.run | (uint64_t)ref.page << 32);
    fold(hash, end);
}

static int answers(const lq_archive_reader *r, uint32_t *hash)
{
    *hash = 1;
    fold(hash, r->run_count | (uint64_t)r->meta_count << 32);
    int status = answer_ids(r, hash);
    for (uint32_t i = 0; !status && i < r->run_count; i++) {
        lq_archive_run_info info;
        CHECK(lq_archive_run(r, i, &info) == LQ_OK);
        CHECK(info.desc.group < r->group_count && info.page_count > 0);
        CHECK(info.offset <= r->end && info.bytes <= r->end - info.offset);
        fold(hash, info.desc.group | (uint64_t)info.desc.profile << 32);
        fold(hash, info.desc.sequence);
        fold(hash, info.desc.first_token);
        fold(hash, info.desc.token_count | (uint64_t)info.desc.tokens_per_page << 32);
        fold(hash, info.desc.code | (uint64_t)info.desc.align << 32);
        fold_float(hash, info.desc.step);
        for (uint32_t k = 0; k < 8; k++) { /* from both ends and between */
            uint32_t at = (uint32_t)((uint64_t)(info.desc.token_count - 1) * k / 7);
            int64_t position;
            CHECK(lq_archive_positions(r, i, at, 1, &position) == LQ_OK);
            fold(hash, (uint64_t)position);
            answer_token(r, &info.desc, info.desc.first_token + at, hash);
        }
        for (uint32_t k = 0; !status && k < info.page_count; k++) {
            lq_page_ref ref;
            CHECK(lq_archive_run_page(r, i, k, &ref) == LQ_OK);
            status = answer_page(r, &ref, hash);
        }
    }
    return status;
}

/* Opens, asks everything, closes. */
static int ask(const uint8_t *bytes, size_t count, int callback, uint64_t recover, uint32_t *hash,
               uint64_t *end)
{
    opened o;
    int status = open_copy(&o, bytes, count, callback, recover);
    *end = 0;
    if (!status) {
        *end = o.r.end;
        CHECK(o.r.end <= count);
        status = answers(&o.r, hash);
    }
    opened_free(&o);
    return status;
}

/* ---- a sample archive of three segments ---- */

static int write_run(lq_archive_writer *w, const lq_archive_run_desc *d, size_t page_bytes)
{
    uint8_t page[64];
    uint32_t tokens_per_page = d->tokens_per_page ? d->tokens_per_page : 64;
    uint32_t pages = (d->token_count + tokens_per_page - 1) / tokens_per_page;
    int status = lq_archive_run_begin(w, d);
    for (uint32_t i = 0; !status && i < pages; i++) {
        size_t count = page_bytes + i % 3;
        for (size_t k = 0; k < count; k++) {
            page[k] = (uint8_t)(k * 31 + i * 7 + d->group * 3 + 0x80);
        }
        status = lq_archive_write_page(w, page, count);
    }
    return status ? status : lq_archive_run_end(w);
}

static lq_archive_run_desc run_desc(uint32_t group, uint64_t sequence, uint64_t first,
                                    uint32_t tokens)
{
    lq_archive_run_desc d;
    memset(&d, 0, sizeof d);
    d.group = group;
    d.profile = LQ_ARCHIVE_NONE;
    d.sequence = sequence;
    d.first_token = first;
    d.token_count = tokens;
    d.tokens_per_page = 8;
    d.positions.first = (int64_t)first;
    d.code = LQ_PAGE_CODED;
    d.step = 0.25f;
    return d;
}

static const float sample_freqs[4] = {1.0f, 0.25f, 0.0625f, 0.0f};
static const uint8_t sample_hash[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const lq_slice sample_slices[3] = {
    {0, 0, 0, 64, 0, 0}, {0, 1, 0, 64, 0, 0}, {65535, 65535, 65472, 64, 0, 0}};

static int sample_ids(lq_archive_writer *w)
{
    lq_rope rope;
    uint32_t id = 99;
    memset(&rope, 0, sizeof rope);
    lq_archive_group_desc g;
    memset(&g, 0, sizeof g);
    lq_archive_profile_desc p;
    memset(&p, 0, sizeof p);
    rope.freqs = sample_freqs;
    rope.rotary_dims = 8;
    int status = lq_archive_add_rope(w, &rope, &id);
    CHECK(status || id == 0);
    g.stream = LQ_K;
    g.page_rule[0] = 9;
    g.slices = sample_slices;
    g.slice_count = 2;
    status = status ? status : lq_archive_add_group(w, &g, &id);
    CHECK(status || id == 0);
    g.stream = LQ_V;
    g.rope = LQ_ARCHIVE_NONE;
    g.slice_count = 3;
    status = status ? status : lq_archive_add_group(w, &g, &id);
    CHECK(status || id == 1);
    p.bytes = (const uint8_t *)"profile";
    p.count = 7;
    status = status ? status : lq_archive_add_profile(w, &p, &id);
    CHECK(status || id == 0);
    p.bytes = NULL;
    p.count = 0;
    p.hash = sample_hash;
    status = status ? status : lq_archive_add_profile(w, &p, &id);
    CHECK(status || id == 1);
    return status ? status : lq_archive_add_meta(w, 7, "abc", 3);
}

static int sample_segment(lq_archive_writer *w, int segment)
{
    static const int64_t list[11] = {5, -7, 9, INT64_MAX, INT64_MIN, 0, 1, 2, 3, 4, 5};
    lq_archive_run_desc d;
    int status = LQ_OK;
    if (segment == 0) {
        status = sample_ids(w);
        d = run_desc(0, 42, 0, 20);
        status = status ? status : write_run(w, &d, 10);
        d = run_desc(1, 42, 0, 20);
        d.code = LQ_PAGE_RAW;
        d.profile = 1;
        d.positions.first = 100;
        d.positions.stride = -3;
        status = status ? status : write_run(w, &d, 33);
    } else if (segment == 1) {
        d = run_desc(0, 42, 16, 11); /* 16 .. 19 are written again */
        d.profile = 0;
        d.positions.list = list;
        status = write_run(w, &d, 5);
        d = run_desc(1, 42, 20, 8);
        status = status ? status : lq_archive_run_begin(w, &d);
        status = status ? status : lq_archive_write_page(w, "dropped", 7);
        status = status ? status : lq_archive_run_drop(w);
        status = status ? status : lq_archive_add_meta(w, 7, "newer", 5);
        status = status ? status : lq_archive_add_meta(w, 8, NULL, 0);
    } else {
        lq_archive_group_desc g;
        uint32_t id = 99;
        memset(&g, 0, sizeof g);
        g.stream = LQ_K;
        g.rope = 0;
        g.slices = sample_slices + 1;
        g.slice_count = 1;
        status = lq_archive_add_group(w, &g, &id);
        CHECK(status || id == 2);
        d = run_desc(2, ~(uint64_t)0, ((uint64_t)1 << 63) - 9, 9);
        d.align = 4;
        d.positions.first = INT64_MIN;
        d.positions.stride = (int64_t)1 << 40;
        status = status ? status : write_run(w, &d, 1);
    }
    return status ? status : lq_archive_flush_segment(w);
}

/* Sizes of the file after 1, 2 and 3 segments. */
static int sample_write(lq_archive_writer *w, const lq_archive_writer_desc *desc, size_t *sizes)
{
    int status = lq_archive_writer_init(w, desc);
    for (int segment = 0; !status && segment < 3; segment++) {
        status = sample_segment(w, segment);
        sizes[segment] = (size_t)w->offset;
    }
    return status ? status : lq_archive_finish(w);
}

static uint8_t *sample; /* of 3 segments, in heap memory of exact size */
static size_t sample_sizes[3];
static size_t sample_bytes;
static uint32_t sample_answers[3];

static void sample_make(void)
{
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    lq_archive_writer w;
    CHECK(sample_write(&w, &d, sample_sizes) == LQ_OK);
    CHECK(w.offset == out.count && w.written == out.count && sample_sizes[2] == out.count);
    sample_bytes = out.count;
    sample = heap_copy(out.bytes, out.count);
    uint64_t end;
    for (int i = 0; i < 3; i++) {
        CHECK(ask(sample, sample_sizes[i], 0, 0, &sample_answers[i], &end) == LQ_OK);
        CHECK(end == sample_sizes[i]);
    }
    CHECK(sample_answers[0] != sample_answers[1] && sample_answers[1] != sample_answers[2]);
}

/* ---- hashes ---- */

static void test_hashes(void)
{
    static const struct {
        size_t count;
        uint32_t seed0;
        uint32_t seed1; /* seed 0x9e3779b1 */
        const char *blake;
    } vectors[16] = {/* python: xxhash.xxh32(d[:n], seed), hashlib.blake2s(d[:n], digest_size=16),
           d = bytes((i * 7 + 3) & 255 for i in range(300)) */
                     {0, 0x02cc5d05u, 0x36b78ae7u, "64550d6ffe2c0a01a14aba1eade0200c"},
                     {1, 0x21ae663au, 0x99bafee8u, "c1ed3b23e01841e7df8d50a1d7ae2622"},
                     {3, 0xcd3d2242u, 0x51c57254u, "db6c589e44485844a9ee953bef7d02da"},
                     {4, 0x725479f2u, 0xf9528875u, "b009ac161b51bc8bad1c0c479bc14176"},
                     {15, 0x82d3c84du, 0x321e160fu, "331c8a6e4f803d36ba2376b1e0949221"},
                     {16, 0x8845547du, 0xd392828cu, "37223b0430f22500d5a03da94a4ffec8"},
                     {17, 0x450e5f84u, 0x65172c35u, "b8609b7c7fae0f67ff1c271634aa0e81"},
                     {31, 0x1f73d3c7u, 0x54462da7u, "f0e929c43d62d79d59f6de5b11a3170c"},
                     {32, 0xe988ccb7u, 0x9537b9d6u, "27ce6d44f34226c3e454328622104529"},
                     {63, 0x0bedc2f7u, 0xa484df78u, "2d01b00bbbfa144b2092ea2114ba23d0"},
                     {64, 0xecd2ac44u, 0x5049438au, "eaaba519d35f1a789892e51860c15a11"},
                     {65, 0xc0428c29u, 0xeaaac7a2u, "a1d89afda4bd7197ecb46086bdb38e30"},
                     {100, 0x73091a4du, 0x037b139bu, "fd10c53069c3e878cf20d62c248ce374"},
                     {128, 0x4a61f5b0u, 0xd4cc4715u, "eb278f7cd6d45f872624be7c61ce7967"},
                     {255, 0x8362bf14u, 0x692dd475u, "e8bcb35e399727e163b3e50ef75f0021"},
                     {300, 0x559fce62u, 0xb4c61c2du, "39d87b558d8539a7db45be89a5e604eb"}};
    uint8_t data[300];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 7 + 3);
    }
    uint8_t digest[16];
    char text[33];
    for (size_t i = 0; i < 16; i++) {
        uint8_t *exact = heap_copy(data, vectors[i].count);
        CHECK(lq_xxh32(exact, vectors[i].count, 0) == vectors[i].seed0);
        CHECK(lq_xxh32(exact, vectors[i].count, 0x9e3779b1u) == vectors[i].seed1);
        lq_blake2s_128(digest, exact, vectors[i].count);
        for (size_t k = 0; k < 16; k++) {
            sprintf(text + 2 * k, "%02x", digest[k]);
        }
        CHECK(memcmp(text, vectors[i].blake, 32) == 0);
        free(exact);
    }
    CHECK(lq_xxh32("abc", 3, 0) == 0x32d153ffu && lq_xxh32(NULL, 0, 0) == 0x02cc5d05u);
    lq_blake2s_128(digest, NULL, 0);
    CHECK(digest[0] == 0x64 && digest[15] == 0x0c);
}

/* ---- round trips ---- */

static void test_sample_ids(const lq_archive_reader *r)
{
    CHECK(r->segment_count == 3 && r->group_count == 3 && r->rope_count == 1);
    CHECK(r->profile_count == 2 && r->run_count == 4 && r->meta_count == 3);
    CHECK(r->page_count == 3 + 3 + 2 + 2);
    lq_archive_group_desc g;
    lq_slice slices[3];
    CHECK(lq_archive_group(r, 1, &g, slices, 3) == LQ_OK);
    CHECK(g.stream == LQ_V && g.rope == LQ_ARCHIVE_NONE && g.slice_count == 3);
    CHECK(memcmp(slices, sample_slices, sizeof slices) == 0 && g.page_rule[0] == 9);
    CHECK(lq_archive_group(r, 1, &g, slices, 2) == LQ_E_SPACE);
    CHECK(lq_archive_group(r, 0, &g, NULL, 0) == LQ_OK && g.slice_count == 2 && !g.slices);
    CHECK(g.rope == 0 && g.stream == LQ_K);
    CHECK(lq_archive_group(r, 3, &g, slices, 3) == LQ_E_RANGE);
    lq_rope rope;
    float freqs[4];
    CHECK(lq_archive_rope(r, 0, &rope, freqs, 4) == LQ_OK);
    CHECK(rope.freqs == freqs && memcmp(freqs, sample_freqs, sizeof freqs) == 0);
    CHECK(rope.layout == LQ_ROPE_HALF && rope.rotary_dims == 8 && rope.magnitude == 1.0f);
    CHECK(lq_archive_rope(r, 0, &rope, freqs, 3) == LQ_E_SPACE);
    CHECK(lq_archive_rope(r, 0, &rope, NULL, 0) == LQ_OK && !rope.freqs);
    CHECK(lq_archive_rope(r, 1, &rope, freqs, 4) == LQ_E_RANGE);
    lq_archive_profile_desc p;
    CHECK(lq_archive_profile(r, 0, &p) == LQ_OK && !p.hash);
    CHECK(p.count == 7 && memcmp(p.bytes, "profile", 7) == 0);
    CHECK(lq_archive_profile(r, 1, &p) == LQ_OK && !p.bytes && p.count == 0);
    CHECK(memcmp(p.hash, sample_hash, 16) == 0);
    CHECK(lq_archive_profile(r, 2, &p) == LQ_E_RANGE);
    const uint8_t *bytes;
    size_t count;
    CHECK(lq_archive_meta(r, 7, &bytes, &count) == LQ_OK);
    CHECK(count == 5 && memcmp(bytes, "newer", 5) == 0);
    CHECK(lq_archive_meta(r, 8, &bytes, &count) == LQ_OK && count == 0);
    CHECK(lq_archive_meta(r, 9, &bytes, &count) == LQ_E_RANGE && !bytes);
}

static void test_sample_runs(const lq_archive_reader *r)
{
    lq_archive_run_info info;
    CHECK(lq_archive_run(r, 0, &info) == LQ_OK && info.desc.align == 1 && !info.listed);
    CHECK(info.desc.positions.first == 0 && info.desc.positions.stride == 1);
    CHECK(info.desc.step == 0.25f && info.page_count == 3 && info.bytes == 10 + 11 + 12);
    CHECK(info.offset == LQ_ARCHIVE_HEADER_BYTES && info.desc.code == LQ_PAGE_CODED);
    CHECK(lq_archive_run(r, 1, &info) == LQ_OK && info.desc.align == 64 && info.offset % 64 == 0);
    CHECK(info.bytes == 64 + 64 + 35 && info.desc.profile == 1);
    CHECK(info.desc.positions.first == 100 && info.desc.positions.stride == -3);
    int64_t positions[20];
    CHECK(lq_archive_positions(r, 1, 1, 19, positions) == LQ_OK);
    CHECK(positions[0] == 97 && positions[18] == 100 - 3 * 19);
    CHECK(lq_archive_positions(r, 1, 20, 0, NULL) == LQ_OK);
    CHECK(lq_archive_positions(r, 1, 20, 1, positions) == LQ_E_RANGE);
    CHECK(lq_archive_positions(r, 1, 21, 0, positions) == LQ_E_RANGE);
    CHECK(lq_archive_positions(r, 1, 1, 20, positions) == LQ_E_RANGE);
    CHECK(lq_archive_positions(r, 1, 1, SIZE_MAX, positions) == LQ_E_RANGE);
    CHECK(lq_archive_positions(r, 4, 0, 1, positions) == LQ_E_RANGE);
    CHECK(lq_archive_run(r, 2, &info) == LQ_OK && info.listed && info.desc.profile == 0);
    CHECK(lq_archive_positions(r, 2, 1, 4, positions) == LQ_OK);
    CHECK(positions[0] == -7 && positions[2] == INT64_MAX && positions[3] == INT64_MIN);
    CHECK(lq_archive_run(r, 3, &info) == LQ_OK && info.listed); /* the stride passes int32 */
    CHECK(lq_archive_positions(r, 3, 8, 1, positions) == LQ_OK);
    CHECK(positions[0] == INT64_MIN + 8 * ((int64_t)1 << 40));
    CHECK(lq_archive_run(r, 4, &info) == LQ_E_RANGE);
    lq_page_ref ref;
    CHECK(lq_archive_run_page(r, 0, 2, &ref) == LQ_OK && ref.token_count == 4);
    CHECK(lq_archive_run_page(r, 0, 3, &ref) == LQ_E_RANGE);
    CHECK(lq_archive_run_page(r, 4, 0, &ref) == LQ_E_RANGE);
    CHECK(lq_archive_find(r, 0, 42, 15, &ref) == LQ_OK && ref.run == 0 && ref.page == 1);
    CHECK(ref.first_token == 8 && ref.token_count == 8 && ref.bytes == 11);
    CHECK(lq_archive_find(r, 0, 42, 16, &ref) == LQ_OK && ref.run == 2 && ref.page == 0);
    CHECK(lq_archive_find(r, 0, 42, 26, &ref) == LQ_OK && ref.run == 2 && ref.token_count == 3);
    CHECK(lq_archive_find(r, 0, 42, 27, &ref) == LQ_E_RANGE);
    CHECK(lq_archive_find(r, 0, 43, 0, &ref) == LQ_E_RANGE);
    CHECK(lq_archive_find(r, 1, 42, 20, &ref) == LQ_E_RANGE); /* the dropped run */
    CHECK(lq_archive_find(r, 3, 42, 0, &ref) == LQ_E_RANGE);
    CHECK(lq_archive_find(r, 2, ~(uint64_t)0, ((uint64_t)1 << 63) - 1, &ref) == LQ_OK);
    CHECK(lq_archive_find(r, 2, ~(uint64_t)0, (uint64_t)1 << 63, &ref) == LQ_E_RANGE);
    uint64_t count;
    CHECK(lq_archive_tokens(r, 0, 42, &count) == LQ_OK && count == 27);
    CHECK(lq_archive_tokens(r, 2, ~(uint64_t)0, &count) == LQ_OK && count == (uint64_t)1 << 63);
    CHECK(lq_archive_tokens(r, 0, 1, &count) == LQ_OK && count == 0);
    CHECK(lq_archive_tokens(r, 3, 42, &count) == LQ_E_RANGE);
}

static void test_page_errors(opened *o)
{
    lq_page_ref ref;
    int callback = !o->r.file;
    CHECK(lq_archive_run_page(&o->r, 1, 1, &ref) == LQ_OK && ref.bytes == 34);
    const uint8_t *page;
    uint8_t buffer[64];
    CHECK(lq_archive_page(&o->r, &ref, buffer, 34, &page) == LQ_OK && page[0] == 0x80 + 7 + 3);
    CHECK(lq_archive_page(&o->r, &ref, buffer, 33, &page) == (callback ? LQ_E_SPACE : LQ_OK));
    CHECK(lq_archive_page(&o->r, &ref, NULL, 0, &page) == (callback ? LQ_E_ARG : LQ_OK));
    o->from.reads_left = 0;
    CHECK(lq_archive_page(&o->r, &ref, buffer, 64, &page) == (callback ? LQ_E_IO : LQ_OK));
    o->from.reads_left = 0xffffffffu;
    ref.checksum ^= 1;
    CHECK(lq_archive_page(&o->r, &ref, buffer, 64, &page) == LQ_E_DATA && !page);
    ref.offset = o->r.end - 33;
    CHECK(lq_archive_page(&o->r, &ref, buffer, 64, &page) == LQ_E_RANGE);
    ref.offset = ~(uint64_t)0;
    CHECK(lq_archive_page(&o->r, &ref, buffer, 64, &page) == LQ_E_RANGE);
    CHECK(lq_archive_page(NULL, &ref, buffer, 64, &page) == LQ_E_ARG && !page);
    CHECK(lq_archive_page(&o->r, NULL, buffer, 64, &page) == LQ_E_ARG);
    CHECK(lq_archive_page(&o->r, &ref, buffer, 64, NULL) == LQ_E_ARG);
}

static void test_round_trip(void)
{
    static uint8_t memory[1 << 14];
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    uint32_t hash;
    uint64_t end;
    for (int callback = 0; callback < 2; callback++) {
        opened o;
        CHECK(open_copy(&o, sample, sample_bytes, callback, 0) == LQ_OK);
        test_sample_ids(&o.r);
        test_sample_runs(&o.r);
        test_page_errors(&o);
        opened_free(&o);
        CHECK(ask(sample, sample_bytes, callback, 0, &hash, &end) == LQ_OK);
        CHECK(hash == sample_answers[2] && end == sample_bytes);
        CHECK(ask(sample, sample_bytes, callback, UINT64_MAX, &hash, &end) == LQ_OK);
        CHECK(hash == sample_answers[2] && end == sample_bytes);
    }
    d.write_fn = NULL; /* into memory: the same bytes */
    d.mem = memory;
    d.mem_bytes = sizeof memory;
    lq_archive_writer w;
    size_t sizes[3];
    CHECK(sample_write(&w, &d, sizes) == LQ_OK && w.offset == sample_bytes);
    CHECK(memcmp(memory, sample, sample_bytes) == 0);
}

/* The bytes that the manual promises; tells where a change would break the format. */
static void test_overhead(void)
{
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    lq_archive_run_desc run = run_desc(0, 1, 0, 100);
    CHECK(lq_archive_run_bytes(&run) == 52 + 8 * 13);
    run.positions.stride = 2;
    CHECK(lq_archive_run_bytes(&run) == 64 + 8 * 13);
    run.positions.stride = (int64_t)1 << 31;
    CHECK(lq_archive_run_bytes(&run) == 52 + 8 * 13 + 8 * 100);
    run.tokens_per_page = 0;
    CHECK(lq_archive_run_bytes(&run) == 52 + 8 * 2 + 8 * 100);
    run.token_count = 0;
    CHECK(lq_archive_run_bytes(&run) == 0 && lq_archive_run_bytes(NULL) == 0);
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK && w.offset == 32);
    CHECK(lq_archive_finish(&w) == LQ_OK && w.offset == 80);
    uint32_t hash;
    uint64_t end;
    CHECK(ask(out.bytes, 80, 0, 0, &hash, &end) == LQ_OK && end == 80);
    CHECK(ask(out.bytes, 80, 1, UINT64_MAX, &hash, &end) == LQ_OK && end == 80);
    CHECK(lq_xxh32(sample, sample_bytes, 0) == 0x2f807349u); /* golden: format version 1 */
}

/* ---- appending ---- */

static void test_append(void)
{
    lq_archive_writer_desc d;
    lq_archive_writer w;
    uint32_t hash;
    uint64_t end;
    for (int callback = 0; callback < 2; callback++) {
        for (int cut = 0; cut < 2; cut++) { /* append segments cut + 1 .. 2 */
            uint8_t *file = (uint8_t *)xmalloc(sample_bytes);
            memcpy(file, sample, sample_sizes[cut]);
            opened o;
            CHECK(open_copy(&o, file, sample_sizes[cut], callback, 0) == LQ_OK);
            d = sink_desc(SINK_BYTES);
            CHECK(lq_archive_writer_append(&w, &d, &o.r) == LQ_OK);
            opened_free(&o);
            CHECK(lq_archive_flush_segment(&w) == LQ_OK && out.count == 0); /* nothing new */
            for (int segment = cut + 1; segment < 3; segment++) {
                CHECK(sample_segment(&w, segment) == LQ_OK);
            }
            CHECK(lq_archive_finish(&w) == LQ_OK && w.offset == sample_bytes);
            CHECK(w.written == out.count && out.count == sample_bytes - sample_sizes[cut]);
            memcpy(file + sample_sizes[cut], out.bytes, out.count);
            CHECK(memcmp(file, sample, sample_bytes) == 0);
            CHECK(ask(file, sample_bytes, callback, 0, &hash, &end) == LQ_OK);
            CHECK(hash == sample_answers[2]);
            free(file);
        }
    }
}

/* A file that ends behind segment `whole` - 1 with something after it. */
static void check_cut(const uint8_t *bytes, size_t count, int callback)
{
    uint32_t hash = 0;
    uint64_t end;
    int whole = 0;
    int status = ask(bytes, count, callback, 0, &hash, &end);
    while (whole < 3 && sample_sizes[whole] <= count) {
        whole++;
    }
    if (whole && sample_sizes[whole - 1] == count) {
        CHECK(status == LQ_OK && hash == sample_answers[whole - 1]);
    } else {
        CHECK(status == LQ_E_DATA);
    }
    status = ask(bytes, count, callback, UINT64_MAX, &hash, &end);
    if (whole) {
        CHECK(status == LQ_OK && hash == sample_answers[whole - 1]);
        CHECK(end == sample_sizes[whole - 1]);
        status = ask(bytes, count, callback, count - sample_sizes[whole - 1] + 48, &hash, &end);
        CHECK(status == LQ_OK);
        status = ask(bytes, count, callback, count - sample_sizes[whole - 1] + 47, &hash, &end);
        CHECK(status == LQ_E_DATA);
    } else {
        CHECK(status == LQ_E_DATA);
    }
}

static void test_interrupted(void)
{
    for (size_t n = 0; n < sample_bytes; n++) { /* truncation */
        check_cut(sample, n, (int)(n & 1));
        check_cut(sample, n, (int)(~n & 1));
    }
    for (size_t n = 0; n < sample_bytes; n++) { /* a write that fails after n bytes */
        lq_archive_writer_desc d = sink_desc(n);
        lq_archive_run_desc run = run_desc(0, 1, 0, 1);
        lq_archive_writer w;
        memset(&w, 0, sizeof w);
        size_t sizes[3];
        CHECK(sample_write(&w, &d, sizes) == LQ_E_IO);
        CHECK(out.count == n && memcmp(out.bytes, sample, n) == 0);
        if (n >= 32) {
            lq_rope rope;
            memset(&rope, 0, sizeof rope);
            lq_archive_group_desc g;
            memset(&g, 0, sizeof g);
            lq_archive_profile_desc p;
            memset(&p, 0, sizeof p);
            out.limit = SINK_BYTES; /* it would work again: the writer must not */
            CHECK(lq_archive_add_rope(&w, &rope, NULL) == LQ_E_IO);
            CHECK(lq_archive_add_group(&w, &g, NULL) == LQ_E_IO);
            CHECK(lq_archive_add_profile(&w, &p, NULL) == LQ_E_IO);
            CHECK(lq_archive_add_meta(&w, 1, NULL, 0) == LQ_E_IO);
            CHECK(lq_archive_run_begin(&w, &run) == LQ_E_IO);
            CHECK(lq_archive_write_page(&w, "x", 1) == LQ_E_IO);
            CHECK(lq_archive_run_end(&w) == LQ_E_IO && lq_archive_run_drop(&w) == LQ_E_IO);
            CHECK(lq_archive_flush_segment(&w) == LQ_E_IO && lq_archive_finish(&w) == LQ_E_IO);
            CHECK(out.count == n);
        }
    }
}

/* An append that fails after n bytes leaves the archive as it was, and can be done again. */
static void test_interrupted_append(void)
{
    size_t whole = sample_bytes - sample_sizes[0];
    for (size_t n = 0; n < whole; n++) {
        uint8_t *file = (uint8_t *)xmalloc(sample_bytes);
        lq_archive_writer_desc d = sink_desc(n);
        memcpy(file, sample, sample_sizes[0]);
        opened o;
        CHECK(open_copy(&o, file, sample_sizes[0], 0, 0) == LQ_OK);
        lq_archive_writer w;
        CHECK(lq_archive_writer_append(&w, &d, &o.r) == LQ_OK);
        opened_free(&o);
        int status = sample_segment(&w, 1);
        status = status ? status : sample_segment(&w, 2);
        CHECK(status == LQ_E_IO && out.count == n);
        memcpy(file + sample_sizes[0], out.bytes, n);
        check_cut(file, sample_sizes[0] + n, (int)(n & 1));
        CHECK(open_copy(&o, file, sample_sizes[0] + n, 1, UINT64_MAX) == LQ_OK);
        if (o.r.end == sample_sizes[0]) {
            d = sink_desc(SINK_BYTES);
            CHECK(lq_archive_writer_append(&w, &d, &o.r) == LQ_OK);
            CHECK(sample_segment(&w, 1) == LQ_OK && sample_segment(&w, 2) == LQ_OK);
            CHECK(out.count == whole && memcmp(out.bytes, sample + sample_sizes[0], whole) == 0);
        }
        opened_free(&o);
        free(file);
    }
}

/* ---- arguments ---- */

/* The call must fail and leave the writer as it is. */
#define REFUSED(w, call, expected)                          \
    do {                                                    \
        lq_archive_writer before_;                          \
        memcpy(&before_, &(w), sizeof before_);             \
        CHECK((call) == (expected));                        \
        CHECK(memcmp(&before_, &(w), sizeof before_) == 0); \
    } while (0)

static void test_writer_init(void)
{
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    lq_archive_reader none;
    memset(&none, 0, sizeof none);
    CHECK(lq_archive_writer_init(NULL, &d) == LQ_E_ARG);
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, NULL) == LQ_E_ARG);
    uint8_t memory[32];
    d.mem = memory;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_E_ARG);
    d.write_fn = NULL;
    d.mem_bytes = 31;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_E_SPACE);
    d.mem_bytes = 32;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    REFUSED(w, lq_archive_finish(&w), LQ_E_SPACE);
    d.mem = NULL;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_E_ARG);
    d = sink_desc(SINK_BYTES);
    CHECK(lq_archive_writer_append(&w, &d, NULL) == LQ_E_ARG);
    CHECK(lq_archive_writer_append(&w, &d, &none) == LQ_E_ARG);
    opened o;
    CHECK(open_copy(&o, sample, sample_bytes, 0, 0) == LQ_OK);
    CHECK(lq_archive_writer_append(NULL, &d, &o.r) == LQ_E_ARG);
    CHECK(lq_archive_writer_append(&w, NULL, &o.r) == LQ_E_ARG);
    d.directory = NULL;
    CHECK(lq_archive_writer_append(&w, &d, &o.r) == LQ_E_ARG);
    CHECK(lq_archive_writer_init(&w, &d) == LQ_E_ARG);
    opened_free(&o);
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static void test_rope_errors(lq_archive_writer *w)
{
    static const struct {
        uint32_t bits;
        int freq;
        int magnitude;
    } floats[8] = {{0x00000000u, LQ_OK, LQ_OK},           {0x80000000u, LQ_OK, LQ_OK},
                   {0x437fffffu, LQ_OK, LQ_OK},           {0x43800000u, LQ_E_RANGE, LQ_OK},
                   {0xbf800000u, LQ_E_RANGE, LQ_E_RANGE}, {0x7f800000u, LQ_E_DATA, LQ_E_DATA},
                   {0xff800000u, LQ_E_DATA, LQ_E_DATA},   {0x7fc00000u, LQ_E_DATA, LQ_E_DATA}};
    static float freqs[LQ_ARCHIVE_MAX_DIMS / 2 + 1];
    lq_rope rope;
    memset(&rope, 0, sizeof rope);
    rope.freqs = freqs;
    rope.rotary_dims = 8;
    for (size_t i = 0; i < 8; i++) {
        freqs[3] = float_of(floats[i].bits);
        CHECK(lq_archive_add_rope(w, &rope, NULL) == floats[i].freq);
        freqs[3] = 0;
        rope.magnitude = float_of(floats[i].bits);
        CHECK(lq_archive_add_rope(w, &rope, NULL) == floats[i].magnitude);
        rope.magnitude = 0;
    }
    REFUSED(*w, lq_archive_add_rope(w, NULL, NULL), LQ_E_ARG);
    rope.layout = 3;
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_ARG);
    rope.layout = LQ_ROPE_ADJACENT;
    rope.rotary_dims = 0;
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_RANGE);
    rope.rotary_dims = 7;
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_RANGE);
    rope.rotary_dims = LQ_ARCHIVE_MAX_DIMS + 2;
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_RANGE);
    rope.rotary_dims = LQ_ARCHIVE_MAX_DIMS;
    CHECK(lq_archive_add_rope(w, &rope, NULL) == LQ_OK);
    rope.freqs = NULL;
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_ARG);
    rope.freqs = freqs;
    rope.rotary_dims = 2;
    w->rope_count = 0xfffe;
    CHECK(lq_archive_add_rope(w, &rope, NULL) == LQ_OK);
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_RANGE);
}

static void test_group_errors(lq_archive_writer *w)
{
    static const struct {
        lq_slice slice;
        int status;
    } slices[10] = {{{65535, 65535, 65535, 1, 0, 0}, LQ_OK},
                    {{65536, 0, 0, 1, 0, 0}, LQ_E_RANGE},
                    {{0, 65536, 0, 1, 0, 0}, LQ_E_RANGE},
                    {{0, 0, 65536, 1, 0, 0}, LQ_E_RANGE},
                    {{0, 0, 0, 0, 0, 0}, LQ_E_RANGE},
                    {{0, 0, 65535, 2, 0, 0}, LQ_E_RANGE},
                    {{0, 0, 0, 16384, 0, 0}, LQ_OK},
                    {{0, 0, 0, 16385, 0, 0}, LQ_E_RANGE},
                    {{0, 0, 0xffffffffu, 1, 0, 0}, LQ_E_RANGE},
                    {{0, 0, 0, 0xffffffffu, 0, 0}, LQ_E_RANGE}};
    static lq_slice many[LQ_ARCHIVE_MAX_SLICES + 1];
    lq_archive_group_desc g;
    memset(&g, 0, sizeof g);
    g.stream = LQ_K;
    g.rope = LQ_ARCHIVE_NONE;
    g.slice_count = 1;
    for (size_t i = 0; i < 10; i++) {
        g.slices = &slices[i].slice;
        CHECK(lq_archive_add_group(w, &g, NULL) == slices[i].status);
    }
    for (size_t i = 0; i <= LQ_ARCHIVE_MAX_SLICES; i++) {
        many[i].dims = 4;
    }
    g.slices = many;
    g.slice_count = LQ_ARCHIVE_MAX_SLICES;
    CHECK(lq_archive_add_group(w, &g, NULL) == LQ_OK);
    many[9].dims = 5;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_RANGE);
    many[9].dims = 1;
    g.slice_count++;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_RANGE);
    g.slice_count = 0;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_RANGE);
    g.slice_count = 1;
    g.rope = w->rope_count;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_RANGE);
    g.rope = LQ_ARCHIVE_NONE;
    g.stream = 3;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_ARG);
    g.stream = 0;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_ARG);
    g.stream = LQ_V;
    g.slices = NULL;
    REFUSED(*w, lq_archive_add_group(w, &g, NULL), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_group(w, NULL, NULL), LQ_E_ARG);
}

static void test_other_errors(lq_archive_writer *w)
{
    lq_archive_profile_desc p;
    memset(&p, 0, sizeof p);
    REFUSED(*w, lq_archive_add_profile(w, NULL, NULL), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_profile(w, &p, NULL), LQ_E_ARG);
    p.bytes = sample_hash;
    REFUSED(*w, lq_archive_add_profile(w, &p, NULL), LQ_E_ARG);
    p.count = SIZE_MAX;
    REFUSED(*w, lq_archive_add_profile(w, &p, NULL), LQ_E_SPACE);
    p.count = 16;
    p.hash = sample_hash;
    REFUSED(*w, lq_archive_add_profile(w, &p, NULL), LQ_E_ARG);
    p.bytes = NULL;
    REFUSED(*w, lq_archive_add_profile(w, &p, NULL), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_meta(w, 0, NULL, 1), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_meta(w, 0, sample_hash, SIZE_MAX), LQ_E_SPACE);
    CHECK(lq_archive_finish(NULL) == LQ_E_ARG && lq_archive_add_rope(NULL, NULL, NULL) == LQ_E_ARG);
}

static void test_run_desc_errors(lq_archive_writer *w)
{
    lq_archive_run_desc good = run_desc(0, 1, 0, 20);
    lq_archive_run_desc bad[17];
    for (size_t i = 0; i < 17; i++) {
        bad[i] = good;
    }
    bad[0].group = w->group_count;
    bad[1].profile = w->profile_count;
    bad[2].token_count = 0;
    bad[3].tokens_per_page = 65536;
    bad[4].code = 256;
    bad[5].align = 3;
    bad[6].align = 2 * LQ_ARCHIVE_MAX_ALIGN;
    bad[7].step = -1.0f;
    bad[8].first_token = ((uint64_t)1 << 63) - 19;
    bad[9].first_token = ~(uint64_t)0;
    bad[10].positions.first = INT64_MAX - 18;
    bad[11].positions.stride = INT64_MAX;
    bad[12].positions.stride = INT64_MIN;
    bad[13].positions.first = INT64_MIN + 18;
    bad[13].positions.stride = -1;
    bad[14].step = float_of(0x7f800000u);
    bad[15].step = float_of(0xff800000u);
    bad[16].step = float_of(0x7fc00001u);
    for (size_t i = 0; i < 17; i++) {
        REFUSED(*w, lq_archive_run_begin(w, &bad[i]), i < 14 ? LQ_E_RANGE : LQ_E_DATA);
    }
    REFUSED(*w, lq_archive_run_begin(w, NULL), LQ_E_ARG);
    good.token_count = 0xffffffffu;
    good.tokens_per_page = 1;
    REFUSED(*w, lq_archive_run_begin(w, &good), LQ_E_SPACE);
}

static void test_run_errors(lq_archive_writer *w)
{
    lq_archive_run_desc d = run_desc(0, 1, 0, 9);
    lq_archive_run_desc edge = run_desc(0, 1, ((uint64_t)1 << 63) - 9, 9);
    lq_rope rope;
    memset(&rope, 0, sizeof rope);
    test_run_desc_errors(w);
    REFUSED(*w, lq_archive_write_page(w, "x", 1), LQ_E_ARG);
    REFUSED(*w, lq_archive_run_end(w), LQ_E_ARG);
    REFUSED(*w, lq_archive_run_drop(w), LQ_E_ARG);
    edge.step = float_of(0x80000000u);
    edge.positions.first = INT64_MAX - 8;
    CHECK(write_run(w, &edge, 1) == LQ_OK);
    edge.positions.first = INT64_MIN;
    edge.positions.stride = INT64_MAX / 8;
    CHECK(write_run(w, &edge, 1) == LQ_OK);
    CHECK(lq_archive_run_begin(w, &d) == LQ_OK);
    REFUSED(*w, lq_archive_run_begin(w, &d), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_rope(w, &rope, NULL), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_meta(w, 1, NULL, 0), LQ_E_ARG);
    REFUSED(*w, lq_archive_flush_segment(w), LQ_E_ARG);
    REFUSED(*w, lq_archive_finish(w), LQ_E_ARG);
    REFUSED(*w, lq_archive_write_page(w, NULL, 1), LQ_E_ARG);
    REFUSED(*w, lq_archive_write_page(w, "x", 0), LQ_E_ARG);
    REFUSED(*w, lq_archive_run_end(w), LQ_E_ARG);
    CHECK(lq_archive_write_page(w, "x", 1) == LQ_OK);
    w->run_end += 0xfffffff0u; /* as if it had been a large page */
    w->offset += 0xfffffff0u;
    REFUSED(*w, lq_archive_write_page(w, directory_memory, 15), LQ_E_RANGE);
    CHECK(lq_archive_write_page(w, directory_memory, 14) == LQ_OK);
    REFUSED(*w, lq_archive_write_page(w, "x", 1), LQ_E_ARG);
    CHECK(lq_archive_run_end(w) == LQ_OK);
    w->run_end = 0;
    CHECK(lq_archive_finish(w) == LQ_OK);
    REFUSED(*w, lq_archive_finish(w), LQ_E_ARG);
    REFUSED(*w, lq_archive_add_meta(w, 1, NULL, 0), LQ_E_ARG);
    REFUSED(*w, lq_archive_run_begin(w, &d), LQ_E_ARG);
}

static void test_writer_errors(void)
{
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    CHECK(sample_ids(&w) == LQ_OK);
    test_group_errors(&w);
    test_other_errors(&w);
    test_run_errors(&w);
    d = sink_desc(SINK_BYTES);
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    test_rope_errors(&w);
}

/* Every size of the file's memory and of the directory: LQ_E_SPACE, and the writer as it was. */
static void test_space(void)
{
    size_t directory_most = sample_sizes[0];
    for (size_t n = 32; n < sample_bytes + directory_most; n++) {
        size_t mem_bytes = n < sample_bytes ? n : sample_bytes;
        size_t directory_bytes = n < sample_bytes ? sizeof directory_memory : n - sample_bytes;
        uint8_t *mem = (uint8_t *)xmalloc(mem_bytes);
        uint8_t *directory = (uint8_t *)xmalloc(directory_bytes);
        lq_archive_writer_desc d;
        memset(&d, 0, sizeof d);
        d.mem = mem;
        d.mem_bytes = mem_bytes;
        d.directory = directory;
        d.directory_bytes = directory_bytes;
        lq_archive_writer w;
        size_t sizes[3];
        int status = sample_write(&w, &d, sizes);
        CHECK(status == LQ_E_SPACE || (status == LQ_OK && mem_bytes == sample_bytes));
        if (status) { /* whatever fits is in order: it can be finished where there is room */
            if (w.in_run) CHECK(lq_archive_run_drop(&w) == LQ_OK);
            status = lq_archive_finish(&w);
            CHECK(status == LQ_OK || (status == LQ_E_SPACE && mem_bytes == n));
        }
        if (!status) {
            uint32_t hash;
            uint64_t end;
            CHECK(ask(mem, (size_t)w.offset, 0, 0, &hash, &end) == LQ_OK);
        }
        free(mem);
        free(directory);
    }
}

static void test_reader_errors(void)
{
    static uint8_t mem[4096];
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    lq_archive_reader none;
    memset(&none, 0, sizeof none);
    source.size = sample_bytes;
    lq_archive_reader r;
    size_t needed;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_E_ARG);
    source.bytes = sample;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, NULL) == LQ_OK);
    CHECK(lq_archive_open(NULL, &source, mem, sizeof mem, &needed) == LQ_E_ARG);
    CHECK(lq_archive_open(&r, NULL, mem, sizeof mem, &needed) == LQ_E_ARG);
    CHECK(lq_archive_open(&r, &source, NULL, 1, &needed) == LQ_E_ARG);
    source.read_fn = source_read;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_E_ARG);
    source.bytes = NULL;
    source.size = ((uint64_t)1 << 60) + 1;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_E_RANGE);
    source.size = sample_bytes;
    memory_source from;
    source.user = &from;
    from.bytes = sample;
    from.count = sample_bytes;
    for (uint32_t reads = 0; reads < 7; reads++) { /* header, 3 footers, 3 directories */
        from.reads_left = reads;
        memset(&r, 0xcc, sizeof r);
        CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_E_IO);
        CHECK(r.group_count == 0xccccccccu);
        source.recover_bytes = UINT64_MAX;
        from.reads_left = reads;
        CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_E_IO);
        source.recover_bytes = 0;
    }
    from.reads_left = 7;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_OK);
    lq_archive_run_info info;
    CHECK(lq_archive_run(NULL, 0, &info) == LQ_E_ARG && lq_archive_run(&r, 0, NULL) == LQ_E_ARG);
    lq_page_ref ref;
    CHECK(lq_archive_find(NULL, 0, 0, 0, &ref) == LQ_E_ARG);
    CHECK(lq_archive_find(&r, 0, 0, 0, NULL) == LQ_E_ARG);
    CHECK(lq_archive_find(&none, 0, 0, 0, &ref) == LQ_E_RANGE);
    uint64_t count;
    CHECK(lq_archive_tokens(&none, 0, 0, &count) == LQ_E_RANGE);
    CHECK(lq_archive_tokens(&r, 0, 0, NULL) == LQ_E_ARG);
    CHECK(lq_archive_run_page(&none, 0, 0, &ref) == LQ_E_RANGE);
    CHECK(lq_archive_run_page(&r, 0, 0, NULL) == LQ_E_ARG);
    CHECK(lq_archive_positions(&r, 0, 0, 1, NULL) == LQ_E_ARG);
    CHECK(lq_archive_group(&r, 0, NULL, NULL, 0) == LQ_E_ARG);
    CHECK(lq_archive_rope(&r, 0, NULL, NULL, 0) == LQ_E_ARG);
    CHECK(lq_archive_profile(&r, 0, NULL) == LQ_E_ARG);
    CHECK(lq_archive_meta(&r, 0, NULL, &needed) == LQ_E_ARG);
}

/* ---- damage ---- */

/* Which bytes a checksum covers, and the dead bytes of the dropped run apart. */
static uint8_t *sample_coverage(void)
{
    uint8_t *covered = (uint8_t *)xmalloc(sample_bytes);
    memset(covered, 0, sample_bytes);
    memset(covered, 1, LQ_ARCHIVE_HEADER_BYTES);
    for (size_t segment = 0; segment < 3; segment++) {
        const uint8_t *footer = sample + sample_sizes[segment] - 48;
        memset(covered + lq__load64(footer + 8), 1, lq__load32(footer + 4) + 48);
    }
    opened o;
    CHECK(open_copy(&o, sample, sample_bytes, 0, 0) == LQ_OK);
    for (uint32_t i = 0; i < o.r.run_count; i++) {
        lq_archive_run_info info;
        CHECK(lq_archive_run(&o.r, i, &info) == LQ_OK);
        for (uint32_t k = 0; k < info.page_count; k++) {
            lq_page_ref ref;
            CHECK(lq_archive_run_page(&o.r, i, k, &ref) == LQ_OK);
            memset(covered + ref.offset, 1, ref.bytes);
        }
    }
    opened_free(&o);
    return covered;
}

static void test_single_bytes(void)
{
    uint8_t *covered = sample_coverage();
    uint8_t *file = heap_copy(sample, sample_bytes);
    size_t padding = 0;
    for (size_t i = 0; i < sample_bytes; i++) {
        padding += !covered[i];
        for (uint32_t change = 1; change < 256; change++) {
            uint32_t hash = 0;
            file[i] = (uint8_t)(sample[i] ^ change);
            uint64_t end;
            int status = ask(file, sample_bytes, (int)(change & 1), 0, &hash, &end);
            if (covered[i]) {
                CHECK(status == LQ_E_DATA || (i < 12 && status == LQ_E_FORMAT));
            } else {
                CHECK(status == LQ_OK && hash == sample_answers[2]);
            }
        }
        file[i] = sample[i];
    }
    CHECK(padding >= 7 && padding < 200);
    free(file);
    free(covered);
}

static void seal(uint8_t *file, size_t count, size_t footer_at)
{
    uint8_t *f = file + footer_at;
    uint64_t offset = lq__load64(f + 8);
    size_t bytes = lq__load32(f + 4);
    if (offset <= count && bytes <= count - offset) {
        lq__store32(f + 40, lq_xxh32(file + offset, bytes, 0));
    }
    lq__store32(f + 44, lq_xxh32(f, 44, 0));
}

static void seal_all(uint8_t *file)
{
    lq__store32(file + 28, lq_xxh32(file, 28, 0));
    for (int segment = 0; segment < 3; segment++) {
        seal(file, sample_bytes, sample_sizes[segment] - 48);
    }
}

/* Offset of a record of a segment in the sample. */
static size_t record_at(int segment, int record)
{
    size_t at = (size_t)lq__load64(sample + sample_sizes[segment] - 40);
    for (; record; record--) {
        at += 8 + (size_t)(lq__load32(sample + at + 4) + 3) / 4 * 4;
    }
    return at;
}

static void store(uint8_t *p, size_t count, uint64_t value)
{
    for (size_t i = 0; i < count; i++) {
        p[i] = (uint8_t)(value >> 8 * i);
    }
}

/* One field made wrong, the checksums right: each must be found by the check meant for it. */
typedef struct forgery {
    int segment;
    int record; /* -1 footer, -2 file header */
    size_t at;
    size_t count;
    uint64_t value;
    int status;
} forgery;

enum { ROPE = 0, GROUP = 1, EMBEDDED = 3, EXTERNAL = 4, META = 5, RUN = 6, RUN1 = 7 };

static const forgery forgeries[] = {
    {0, -2, 8, 2, 2, LQ_E_FORMAT},
    {0, -2, 10, 1, 2, LQ_E_FORMAT},
    {0, -2, 11, 1, 2, LQ_E_FORMAT},
    {0, -2, 12, 1, 1, LQ_E_FORMAT},
    {0, -2, 27, 1, 1, LQ_E_FORMAT},
    {2, -1, 0, 1, 'l', LQ_E_DATA},
    {2, -1, 4, 4, 0, LQ_E_DATA},
    {2, -1, 8, 8, 0, LQ_E_DATA},
    {2, -1, 8, 8, UINT64_MAX, LQ_E_DATA},
    {2, -1, 16, 8, 0, LQ_E_DATA},
    {2, -1, 16, 8, 32, LQ_E_DATA},
    {2, -1, 16, 8, 0xfffffffffffffffeu, LQ_E_DATA},
    {2, -1, 16, 8, UINT64_MAX, LQ_E_DATA}, /* its run names a rope of segment 0 */
    {2, -1, 24, 4, 1, LQ_E_DATA},
    {2, -1, 24, 4, 3, LQ_E_DATA},
    {2, -1, 24, 4, 0xffffffffu, LQ_E_DATA},
    {2, -1, 28, 4, 0, LQ_E_DATA},
    {2, -1, 28, 4, 2, LQ_E_DATA},
    {2, -1, 32, 8, 1, LQ_E_DATA},
    {2, -1, 32, 8, UINT64_MAX, LQ_E_DATA},
    {0, ROPE, 0, 2, 0, LQ_E_FORMAT},
    {0, ROPE, 0, 2, 6, LQ_E_FORMAT},
    {0, ROPE, 2, 2, 1, LQ_E_FORMAT},
    {0, ROPE, 4, 4, 20, LQ_E_DATA},
    {0, ROPE, 4, 4, 0, LQ_E_DATA},
    {0, ROPE, 4, 4, 0xffffffffu, LQ_E_DATA},
    {0, ROPE, 8, 1, 0, LQ_E_DATA},
    {0, ROPE, 8, 1, 3, LQ_E_DATA},
    {0, ROPE, 8, 1, 2, LQ_OK},
    {0, ROPE, 9, 1, 1, LQ_E_DATA},
    {0, ROPE, 10, 2, 0, LQ_E_DATA},
    {0, ROPE, 10, 2, 7, LQ_E_DATA},
    {0, ROPE, 10, 2, 10, LQ_E_DATA},
    {0, ROPE, 12, 4, 0, LQ_E_DATA},
    {0, ROPE, 12, 4, 0x80000000u, LQ_E_DATA},
    {0, ROPE, 12, 4, 0x7f800000u, LQ_E_DATA},
    {0, ROPE, 16, 4, 0x437fffffu, LQ_OK},
    {0, ROPE, 16, 4, 0x43800000u, LQ_E_DATA},
    {0, ROPE, 28, 4, 0x80000000u, LQ_E_DATA},
    {0, ROPE, 28, 4, 0x7fc00000u, LQ_E_DATA},
    {0, GROUP, 2, 2, 4, LQ_E_FORMAT},
    {0, GROUP, 4, 4, 8, LQ_E_DATA},
    {0, GROUP, 8, 1, 0, LQ_E_DATA},
    {0, GROUP, 8, 1, 3, LQ_E_DATA},
    {0, GROUP, 9, 1, 1, LQ_E_DATA},
    {0, GROUP, 10, 2, 1, LQ_E_DATA},
    {0, GROUP, 10, 2, 0xffff, LQ_OK},
    {0, GROUP, 12, 4, 0xffffffffu, LQ_OK},
    {0, GROUP, 16, 2, 0, LQ_E_DATA},
    {0, GROUP, 16, 2, 3, LQ_E_DATA},
    {0, GROUP, 16, 2, 4097, LQ_E_DATA},
    {0, GROUP, 18, 2, 1, LQ_E_DATA},
    {0, GROUP, 24, 2, 65535, LQ_E_DATA},
    {0, GROUP, 26, 2, 0, LQ_E_DATA},
    {0, GROUP, 26, 2, 16320, LQ_OK},
    {0, GROUP, 26, 2, 16321, LQ_E_DATA},
    {0, EMBEDDED, 2, 2, 2, LQ_E_FORMAT},
    {0, EMBEDDED, 4, 4, 4, LQ_E_DATA},
    {0, EMBEDDED, 8, 1, 0, LQ_E_DATA},
    {0, EMBEDDED, 8, 1, 2, LQ_E_DATA},
    {0, EMBEDDED, 11, 1, 1, LQ_E_DATA},
    {0, EMBEDDED, 19, 1, 1, LQ_E_DATA}, /* padding of a record */
    {0, EXTERNAL, 8, 1, 1, LQ_OK},
    {0, EXTERNAL, 9, 2, 1, LQ_E_DATA},
    {0, META, 2, 2, 0, LQ_E_FORMAT},
    {0, META, 2, 2, 3, LQ_E_FORMAT},
    {0, META, 0, 2, 99, LQ_OK}, /* unknown, may be skipped */
    {0, META, 0, 4, 99, LQ_E_FORMAT},
    {0, META, 4, 4, 3, LQ_E_DATA},
    {0, RUN, 2, 2, 1, LQ_E_FORMAT},
    {0, RUN, 2, 2, 6, LQ_E_FORMAT},
    {0, RUN, 2, 2, 2, LQ_E_DATA},
    {0, RUN, 2, 2, 4, LQ_E_DATA},
    {0, RUN, 4, 4, 43, LQ_E_DATA},
    {0, RUN, 8, 4, 1, LQ_OK},
    {0, RUN, 8, 4, 2, LQ_E_DATA}, /* the third group comes later */
    {0, RUN, 8, 4, 0xffffffffu, LQ_E_DATA},
    {0, RUN, 12, 4, 1, LQ_OK},
    {0, RUN, 12, 4, 2, LQ_E_DATA},
    {0, RUN, 24, 8, 0x7fffffffffffffecu, LQ_OK},
    {0, RUN, 24, 8, 0x7fffffffffffffedu, LQ_E_DATA},
    {0, RUN, 24, 8, UINT64_MAX, LQ_E_DATA},
    {0, RUN, 32, 4, 0, LQ_E_DATA},
    {0, RUN, 32, 4, 16, LQ_E_DATA},
    {0, RUN, 32, 4, 17, LQ_OK},
    {0, RUN, 32, 4, 25, LQ_E_DATA},
    {0, RUN, 32, 4, 0xffffffffu, LQ_E_DATA},
    {0, RUN, 36, 2, 0, LQ_E_DATA},
    {0, RUN, 36, 2, 20, LQ_E_DATA},
    {0, RUN, 38, 1, 255, LQ_OK},
    {0, RUN, 39, 1, 1, LQ_OK},
    {0, RUN, 39, 1, 5, LQ_E_DATA}, /* page 1 would start behind its end */
    {0, RUN, 39, 1, 6, LQ_E_DATA}, /* its base is a multiple of 32 only */
    {0, RUN, 39, 1, 17, LQ_E_DATA},
    {0, RUN, 39, 1, 32, LQ_E_DATA},
    {0, RUN, 39, 1, 255, LQ_E_DATA},
    {0, RUN, 40, 4, 0x7f7fffffu, LQ_OK},
    {0, RUN, 40, 4, 0x7f800000u, LQ_E_DATA},
    {0, RUN, 40, 4, 0x80000000u, LQ_E_DATA},
    {0, RUN, 44, 8, 31, LQ_E_DATA},
    {0, RUN, 44, 8, 0, LQ_E_DATA},
    {0, RUN, 44, 8, UINT64_MAX, LQ_E_DATA},
    {0, RUN, 44, 8, 0xffffffffffffffc0u, LQ_E_DATA},
    {0, RUN, 52, 4, 0, LQ_E_DATA},
    {0, RUN, 52, 4, 0xffffffffu, LQ_E_DATA},
    {0, RUN, 60, 4, 10, LQ_E_DATA},
    {0, RUN, 68, 4, 0xffffffffu, LQ_E_DATA},
    {0, RUN1, 44, 8, 32, LQ_E_DATA}, /* not a multiple of its 64 */
    {0, RUN1, 60, 4, 0, LQ_E_DATA},  /* stride */
    {0, RUN1, 52, 8, 0x7fffffffffffffffu, LQ_OK},
    {0, RUN1, 52, 8, 0x8000000000000000u, LQ_E_DATA}};

static void test_forgeries(void)
{
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        const forgery *f = &forgeries[i];
        uint8_t *file = heap_copy(sample, sample_bytes);
        size_t at = f->record == -2   ? 0
                    : f->record == -1 ? sample_sizes[f->segment] - 48
                                      : record_at(f->segment, f->record);
        store(file + at + f->at, f->count, f->value);
        seal_all(file);
        for (int callback = 0; callback < 2; callback++) {
            opened o;
            int status = open_copy(&o, file, sample_bytes, callback, 0);
            if (status != f->status) {
                fprintf(stderr, "forgery %u: %d instead of %d\n", (unsigned)i, status, f->status);
            }
            CHECK(status == f->status);
            opened_free(&o);
        }
        free(file);
    }
}

/* A page that ends at its directory is in order, one byte more is not. */
static void test_last_page(void)
{
    uint8_t *file = heap_copy(sample, sample_bytes);
    size_t run = record_at(2, 1);
    size_t end_at = run + 8 + 44 + 8 * 9 + 8;
    size_t room = record_at(2, 0) - (size_t)lq__load64(sample + run + 44);
    store(file + end_at, 4, room);
    seal_all(file);
    opened o;
    CHECK(open_copy(&o, file, sample_bytes, 0, 0) == LQ_OK);
    opened_free(&o);
    store(file + end_at, 4, room + 1);
    seal_all(file);
    CHECK(open_copy(&o, file, sample_bytes, 0, 0) == LQ_E_DATA);
    opened_free(&o);
    free(file);
}

/* Footers that lead in a circle. */
static void test_circles(void)
{
    uint8_t *file = heap_copy(sample, sample_bytes);
    for (int from = 0; from < 3; from++) {
        for (int to = from; to < 3; to++) {
            memcpy(file, sample, sample_bytes);
            store(file + sample_sizes[from] - 48 + 16, 8, sample_sizes[to] - 48);
            seal_all(file);
            opened o;
            CHECK(open_copy(&o, file, sample_bytes, to & 1, 0) == LQ_E_DATA);
            opened_free(&o);
        }
    }
    free(file);
}

/* A footer that is sound while its directory is not: an append that reached the disk in part. */
static void test_torn(void)
{
    uint8_t *file = heap_copy(sample, sample_bytes);
    uint32_t hash;
    uint64_t end;
    for (int callback = 0; callback < 2; callback++) {
        file[record_at(2, 0) + 9] ^= 1;
        CHECK(ask(file, sample_bytes, callback, 0, &hash, &end) == LQ_E_DATA);
        CHECK(ask(file, sample_bytes, callback, UINT64_MAX, &hash, &end) == LQ_OK);
        CHECK(hash == sample_answers[1] && end == sample_sizes[1]);
        file[record_at(1, 0) + 9] ^= 1;
        CHECK(ask(file, sample_bytes, callback, UINT64_MAX, &hash, &end) == LQ_OK);
        CHECK(hash == sample_answers[0] && end == sample_sizes[0]);
        file[record_at(0, 0) + 9] ^= 1;
        CHECK(ask(file, sample_bytes, callback, UINT64_MAX, &hash, &end) == LQ_E_DATA);
        memcpy(file, sample, sample_bytes);
    }
    file[0] ^= 1;
    CHECK(ask(file, sample_bytes, 0, UINT64_MAX, &hash, &end) == LQ_E_FORMAT);
    free(file);
}

/* Recovery far back: kilobytes of garbage behind the archive, at every alignment. */
static void test_far_recovery(void)
{
    for (size_t tail = 3000; tail < 4100; tail++) {
        uint8_t *file = (uint8_t *)xmalloc(sample_bytes + tail);
        uint32_t hash = 0;
        memcpy(file, sample, sample_bytes);
        for (size_t i = 0; i < tail; i++) {
            file[sample_bytes + i] = (uint8_t)random_u32();
        }
        memcpy(file + sample_bytes + tail % 7 * 4, sample + sample_bytes - 48, 48); /* moved */
        uint64_t end;
        CHECK(ask(file, sample_bytes + tail, (int)(tail & 1), UINT64_MAX, &hash, &end) == LQ_OK);
        CHECK(hash == sample_answers[2] && end == sample_bytes);
        CHECK(ask(file, sample_bytes + tail, 0, tail + 47, &hash, &end) == LQ_E_DATA);
        free(file);
    }
}

static void mutate(uint8_t *file)
{
    static const uint64_t edges[12] = {0,
                                       1,
                                       2,
                                       0x7f,
                                       0xff,
                                       0xffff,
                                       0x7fffffff,
                                       0x80000000u,
                                       0xffffffffu,
                                       0xfffffff8u,
                                       0x7fffffffffffffffu,
                                       UINT64_MAX};
    uint32_t changes = 1 + random_u32() % 3;
    for (; changes; changes--) {
        size_t segment = random_u32() % 3;
        size_t begin = (size_t)lq__load64(sample + sample_sizes[segment] - 40);
        size_t at = begin + random_u32() % (sample_sizes[segment] - begin);
        size_t room = sample_sizes[segment] - at;
        size_t width = (size_t)1 << random_u32() % 4;
        uint64_t value = edges[random_u32() % 12];
        if (random_u32() % 2) { /* near what was there */
            value = file[at] + (uint64_t)random_u32() % 9 - 4;
            width = 1;
        }
        store(file + at, width < room ? width : room, value);
    }
    seal_all(file);
    if (random_u32() % 8 == 0) {
        size_t at = random_u32() % sample_bytes;
        file[at] ^= (uint8_t)(1 + random_u32() % 255);
    }
}

static void test_mutations(uint32_t count)
{
    uint8_t *file = heap_copy(sample, sample_bytes);
    uint32_t opened_well = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t recover = random_u32() % 4 ? 0 : UINT64_MAX;
        memcpy(file, sample, sample_bytes);
        mutate(file);
        uint32_t hash;
        uint64_t end;
        int status = ask(file, sample_bytes, (int)(i & 1), recover, &hash, &end);
        CHECK(status == LQ_OK || status == LQ_E_DATA || status == LQ_E_FORMAT);
        opened_well += end != 0;
    }
    CHECK(opened_well >= count / 20 && opened_well <= count - count / 20);
    free(file);
}

/* ---- many runs, against a plain search; large offsets ---- */

enum { MANY = 1500 };

static void check_many(const lq_archive_reader *r, const lq_archive_run_desc *runs)
{
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t group = random_u32() % 3;
        uint64_t sequence = random_u32() % 9;
        uint64_t token = random_u32() % 600;
        uint64_t most = 0;
        uint32_t found = LQ_ARCHIVE_NONE;
        lq_page_ref ref;
        int status = lq_archive_find(r, group, sequence, token, &ref);
        for (uint32_t k = 0; k < MANY; k++) {
            uint64_t last = runs[k].first_token + runs[k].token_count;
            if (runs[k].group == group && runs[k].sequence == sequence) {
                found = token >= runs[k].first_token && token < last ? k : found;
                most = last > most ? last : most;
            }
        }
        CHECK(found == LQ_ARCHIVE_NONE ? status == LQ_E_RANGE
                                       : status == LQ_OK && ref.run == found + 3);
        uint64_t end;
        CHECK(lq_archive_tokens(r, group, sequence, &end) == LQ_OK && end == most);
    }
}

static void test_many_runs(void)
{
    static lq_archive_run_desc runs[MANY];
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    CHECK(sample_segment(&w, 0) == LQ_OK && sample_segment(&w, 2) == LQ_OK);
    CHECK(w.group_count == 3);
    int64_t positions[64];
    for (uint32_t i = 0; i < 64; i++) {
        positions[i] = (int64_t)i * i - 100;
    }
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t group = random_u32() % 3;
        uint32_t sequence = 1 + random_u32() % 8;
        uint32_t first = random_u32() % 500;
        runs[i] = run_desc(group, sequence, first, 1 + random_u32() % 64);
        runs[i].tokens_per_page = 1 + random_u32() % 20;
        runs[i].align = 1u << random_u32() % 8;
        runs[i].positions.list = i % 3 ? NULL : positions;
        CHECK(write_run(&w, &runs[i], 1 + random_u32() % 30) == LQ_OK);
        if (random_u32() % 50 == 0) {
            CHECK(lq_archive_flush_segment(&w) == LQ_OK);
        }
    }
    CHECK(lq_archive_finish(&w) == LQ_OK);
    uint32_t hash;
    uint64_t end;
    CHECK(ask(out.bytes, out.count, 1, 0, &hash, &end) == LQ_OK);
    opened o;
    CHECK(open_copy(&o, out.bytes, out.count, 0, 0) == LQ_OK);
    CHECK(o.r.run_count == MANY + 3); /* the sample's runs come first, with other sequences */
    for (uint32_t i = 0; i < MANY; i++) {
        lq_archive_run_info info;
        CHECK(lq_archive_run(&o.r, i + 3, &info) == LQ_OK);
        CHECK(info.desc.align == runs[i].align && info.offset % info.desc.align == 0);
        CHECK(info.desc.first_token == runs[i].first_token);
    }
    check_many(&o.r, runs);
    opened_free(&o);
}

/* Runs that lie over each other, the last one deepest: steps a byte of opening the archive and of
   finding all its tokens. */
static double nested_steps(uint32_t runs)
{
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    CHECK(sample_segment(&w, 0) == LQ_OK);
    for (uint32_t i = 0; i < runs; i++) {
        lq_archive_run_desc run = run_desc(0, 7, i, 2 * (runs - i));
        run.tokens_per_page = run.token_count;
        CHECK(write_run(&w, &run, 1) == LQ_OK);
    }
    CHECK(lq_archive_finish(&w) == LQ_OK);
    steps_done = 0;
    opened o;
    CHECK(open_copy(&o, out.bytes, out.count, 0, 0) == LQ_OK);
    for (uint32_t token = 0; token < 2 * runs; token++) {
        lq_page_ref ref;
        CHECK(lq_archive_find(&o.r, 0, 7, token, &ref) == LQ_OK &&
              ref.token_count == 2 * (runs - (token < runs ? token : 2 * runs - 1 - token)));
    }
    opened_free(&o);
    return (double)steps_done / (double)out.count;
}

/* Twice the file is twice the work, but for a logarithm. */
static void test_nested_runs(void)
{
    double few = nested_steps(500);
    double many = nested_steps(2000);
    printf("runs over each other: %.2f steps a byte of 500, %.2f of 2000\n", few, many);
    CHECK(many < 1.4 * few);
}

/* A file of more than 2^41 bytes of which only a few exist; the rest reads as zeros. */
typedef struct sparse_file {
    struct {
        uint64_t offset;
        size_t count;
        uint8_t bytes[256];
    } chunks[128];
    size_t chunk_count;
    uint64_t at;
} sparse_file;

static sparse_file sparse;

static int sparse_write(void *user, const void *src, size_t count)
{
    sparse_file *s = (sparse_file *)user;
    const uint8_t *p = (const uint8_t *)src;
    while (count) {
        size_t part = count < 256 ? count : 256;
        if (s->chunk_count == 128) return 1;
        s->chunks[s->chunk_count].offset = s->at;
        s->chunks[s->chunk_count].count = part;
        memcpy(s->chunks[s->chunk_count].bytes, p, part);
        s->chunk_count++;
        s->at += part;
        p += part;
        count -= part;
    }
    return 0;
}

static int sparse_read(void *user, uint64_t offset, void *dst, size_t count)
{
    const sparse_file *s = (const sparse_file *)user;
    uint8_t *p = (uint8_t *)dst;
    memset(dst, 0, count);
    for (size_t i = 0; i < s->chunk_count; i++) {
        for (size_t k = 0; k < s->chunks[i].count; k++) {
            uint64_t at = s->chunks[i].offset + k;
            if (at >= offset && at - offset < count) {
                p[at - offset] = s->chunks[i].bytes[k];
            }
        }
    }
    return 0;
}

static void test_large_offsets(void)
{
    static const uint64_t holes[3] = {(uint64_t)5 << 30, (uint64_t)1 << 41,
                                      ((uint64_t)1 << 32) - 1};
    lq_archive_writer_desc d = sink_desc(SINK_BYTES);
    static uint8_t mem[8192];
    d.write_fn = sparse_write;
    d.user = &sparse;
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &d) == LQ_OK);
    for (int segment = 0; segment < 3; segment++) {
        w.offset += holes[segment];
        sparse.at += holes[segment];
        CHECK(sample_segment(&w, segment) == LQ_OK && w.offset == sparse.at);
    }
    CHECK(lq_archive_finish(&w) == LQ_OK);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.read_fn = sparse_read;
    source.user = &sparse;
    source.size = w.offset;
    lq_archive_reader r;
    size_t needed;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_OK);
    CHECK(r.end == w.offset && r.end > (uint64_t)1 << 41);
    uint32_t hash;
    CHECK(answers(&r, &hash) == LQ_OK);
    test_sample_ids(&r);
    lq_page_ref ref;
    CHECK(lq_archive_run_page(&r, 1, 2, &ref) == LQ_OK && ref.offset > (uint64_t)5 << 30);
    CHECK(lq_archive_run_page(&r, 3, 1, &ref) == LQ_OK && ref.offset > (uint64_t)1 << 41);
    source.size += 12345; /* a tail of zeros */
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_E_DATA);
    source.recover_bytes = 12345 + 48;
    CHECK(lq_archive_open(&r, &source, mem, sizeof mem, &needed) == LQ_OK && r.end == w.offset);
}

int main(int argc, char **argv)
{
    uint32_t mutations = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100000;
    test_hashes();
    sample_make();
    test_round_trip();
    test_overhead();
    test_append();
    test_interrupted();
    test_interrupted_append();
    test_writer_init();
    test_writer_errors();
    test_space();
    test_reader_errors();
    test_single_bytes();
    test_forgeries();
    test_last_page();
    test_circles();
    test_torn();
    test_far_recovery();
    test_mutations(mutations);
    test_many_runs();
    test_nested_runs();
    test_large_offsets();
    free(sample);
    return check_report("test_archive");
}
