/* cc -std=c99 -O2 tests/test_check.c -o test_check -lm    Descriptors that are refused.
   Every field of every descriptor is set in turn to each kind of value that it must not have: the
   lq_*_check of the descriptor names that field, and the function that takes the descriptor returns
   the same status. lq_kv_desc and its parts are in test_kv.c. */
#include "header.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "source.h"

enum { DIMS = 16, TOKENS = 128 };

static const lq_tables *tables;
static float numbers[TOKENS * DIMS]; /* finite */
static float freqs[4096];
static uint8_t room[1 << 20]; /* whatever a function asks for */

/* A check said `status` and `message`: it should say `want`, and name `field` unless that is
   LQ_OK. */
static void named(int status, const char *message, int want, const char *field, int line)
{
    size_t n = strlen(field);
    int ok = status == want;
    if (want == LQ_OK) {
        ok = ok && message == NULL;
    } else {
        ok = ok && message && strncmp(message, field, n) == 0 && message[n] == ':';
    }
    CHECK(ok);
    if (!ok) {
        fprintf(stderr, "  line %d: %s wanted with %d: %d, %s\n", line, field, want, status,
                message ? message : "no message");
    }
}

/* With d and good the section's descriptors: d is good but for `change`. SAYS is the section's
   check, with &message; USES the status of what takes d. */
#define REFUSED(want, field, change)                       \
    do {                                                   \
        const char *message = "x";                         \
        int said;                                          \
        d = good;                                          \
        change;                                            \
        said = SAYS;                                       \
        named(said, message, want, field, __LINE__);       \
        CHECK(USES == (want));                             \
    } while (0)
#define ACCEPTED(change) REFUSED(LQ_OK, "", change)
#define BAD(field, change) REFUSED(LQ_E_ARG, field, change)

/* ---- ropes and geometries ---- */
static lq_rope good_rope(void)
{
    lq_rope rope;
    memset(&rope, 0, sizeof rope);
    rope.freqs = freqs;
    rope.rotary_dims = 8;
    return rope;
}

static int use_rope(const lq_rope *rope)
{
    static const lq_positions none = {0, 0, NULL};
    float x[DIMS] = {0};
    return lq_rope_apply_f32(x, 1, DIMS, DIMS, rope, &none);
}

static void test_rope(void)
{
    static const float wrong[5] = {-1.0f, 256.0f, NAN, INFINITY, -INFINITY};
    const lq_rope good = good_rope();
    lq_rope d;
    CHECK(lq_rope_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_rope_check(&d, &message)
#define USES use_rope(&d)
    ACCEPTED((void)d);
    ACCEPTED(d.magnitude = 16.0f);
    BAD("freqs", d.freqs = NULL);
    BAD("rotary_dims", d.rotary_dims = 0);
    BAD("rotary_dims", d.rotary_dims = 7);
    BAD("rotary_dims", d.rotary_dims = 65538);
    BAD("rotary_dims", d.rotary_dims = 0xfffffffeu);
    BAD("layout", d.layout = 3);
    BAD("layout", d.layout = 0xffffffffu);
    BAD("magnitude", d.magnitude = 0.5f);
    BAD("magnitude", d.magnitude = 16.5f);
    BAD("magnitude", d.magnitude = -1.0f);
    BAD("magnitude", d.magnitude = NAN);
    BAD("magnitude", d.magnitude = INFINITY);
    for (size_t i = 0; i < 5; i++) {
        freqs[3] = wrong[i];
        BAD("freqs", (void)d);
        freqs[3] = 0.5f;
    }
#undef SAYS
#undef USES
}

static int use_geometry(const lq_geometry *geometry)
{
    CHECK(lq_profile_init(NULL, NULL, 0, geometry, 1.0f) == LQ_E_ARG);
    CHECK((lq_geometry_rows(geometry) == 0) == (lq_fit_bytes(geometry) == 0));
    lq_profile p;
    return lq_profile_init(&p, room, sizeof room, geometry, 1.0f);
}

static const uint32_t two_slices[2] = {8, 8};

static lq_geometry good_geometry(void)
{
    lq_geometry g;
    memset(&g, 0, sizeof g);
    g.stream = LQ_K;
    g.slice_count = 2;
    g.slice_dims = two_slices;
    return g;
}

static void test_geometry(void)
{
    static const uint32_t none[2] = {8, 0};
    static const uint32_t many[2] = {16000, 385};
    static const uint32_t over[2] = {0xffffffffu, 9};
    static const uint16_t of_basis[2] = {8, 8};
    static const uint16_t no_gains[2] = {LQ_GAIN_NONE, LQ_GAIN_NONE};
    const lq_geometry good = good_geometry();
    lq_rope rope = good_rope();
    lq_geometry d;
    lq_basis basis;
    memset(&basis, 0, sizeof basis);
    basis.dims = DIMS;
    basis.slice_count = 2;
    basis.stream = LQ_K;
    basis.slice_dims = of_basis;
    basis.slice_gain = no_gains;
    CHECK(lq_geometry_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_geometry_check(&d, &message)
#define USES use_geometry(&d)
    ACCEPTED((void)d);
    ACCEPTED(d.rope = &rope);
    ACCEPTED((d.basis = LQ_BASIS_DENSE, d.dense = &basis));
    BAD("stream", d.stream = 0);
    BAD("stream", d.stream = 4);
    BAD("roles", d.stream = LQ_KV);
    BAD("basis", d.basis = 4);
    BAD("basis", d.basis = 0xffffffffu);
    BAD("slice_count", d.slice_count = 0);
    BAD("slice_count", d.slice_count = 4097);
    BAD("slice_dims", d.slice_dims = NULL);
    BAD("slice_dims", d.slice_dims = none);
    BAD("slice_dims", d.slice_dims = many);
    BAD("slice_dims", d.slice_dims = over);
    BAD("dense", d.basis = LQ_BASIS_DENSE);
    BAD("dense", d.dense = &basis);
    BAD("dense", (d.basis = LQ_BASIS_DENSE, d.dense = &basis, d.stream = LQ_V));
    basis.dims = 24;
    BAD("dense", (d.basis = LQ_BASIS_DENSE, d.dense = &basis));
    rope.rotary_dims = 10;
    BAD("rotary_dims", d.rope = &rope);
    rope.rotary_dims = 9;
    BAD("rotary_dims", d.rope = &rope);
    rope.rotary_dims = 8;
    rope.layout = 5;
    BAD("layout", d.rope = &rope);
#undef SAYS
#undef USES
}

/* What each slice is. */
static void test_roles(void)
{
    static const uint32_t dims[4] = {8, 8, 8, 8};
    static const uint16_t of_basis[4] = {8, 8, 8, 8};
    lq_rope rope = good_rope();
    lq_role roles[4];
    uint16_t gains[4] = {LQ_GAIN_NONE, 0, 0, LQ_GAIN_NONE};
    lq_geometry good = good_geometry();
    lq_geometry d;
    lq_basis basis;
    memset(&basis, 0, sizeof basis);
    basis.dims = 32;
    basis.slice_count = 4;
    basis.stream = LQ_KV;
    basis.gains = 1;
    basis.slice_dims = of_basis;
    basis.slice_gain = gains;
    memset(roles, 0, sizeof roles);
    roles[0].stream = roles[3].stream = LQ_K;
    roles[1].stream = roles[2].stream = LQ_V;
    good.stream = LQ_KV;
    good.slice_count = 4;
    good.slice_dims = dims;
    good.roles = roles;
#define SAYS lq_geometry_check(&d, &message)
#define USES use_geometry(&d)
    ACCEPTED((void)d);
    ACCEPTED((d.basis = LQ_BASIS_DENSE, d.dense = &basis));
    CHECK(lq_geometry_rows(&good) == 33);
    BAD("roles", d.roles = NULL);
    BAD("rope", d.rope = &rope);
    BAD("roles", d.stream = LQ_K);
    BAD("roles", d.stream = LQ_V);
    BAD("stream", d.stream = 4);
    BAD("roles", roles[0].stream = 0);
    BAD("roles", roles[0].stream = LQ_KV);
    roles[0].stream = LQ_K;
    BAD("roles", roles[0].gain = 1);
    roles[0].gain = 0;
    BAD("roles", roles[1].gain = 1);
    roles[1].gain = 0;
    BAD("roles", roles[2].gain = 2);
    ACCEPTED(roles[2].gain = 1);
    BAD("dense", (d.basis = LQ_BASIS_DENSE, d.dense = &basis)); /* of other gains */
    roles[2].gain = 0;
    roles[1].rope = &rope;
    BAD("roles", (void)d);
    roles[1].rope = NULL;
    roles[3].rope = &rope;
    ACCEPTED((void)d);
    rope.rotary_dims = 10;
    BAD("rotary_dims", (void)d);
    rope.rotary_dims = 8;
    rope.layout = 5;
    BAD("layout", (void)d);
    rope.layout = 0;
    roles[3].stream = LQ_V; /* a gain comes back behind a key */
    roles[3].rope = NULL;
    roles[2].stream = LQ_K;
    BAD("roles", (void)d);
    ACCEPTED(roles[3].gain = 1);
    BAD("dense", (d.basis = LQ_BASIS_DENSE, d.dense = &basis));
    BAD("dense", d.basis = LQ_BASIS_DENSE);
#undef SAYS
#undef USES
}

/* ---- calibration ---- */
static int use_klt(const lq_klt *klt, const lq_klt_desc *desc)
{
    size_t written;
    size_t dst = lq_klt_profile_bound(klt);
    size_t bytes = lq_klt_profile_workspace_bytes(klt);
    return lq_klt_profile(klt, room, dst, &written, desc, NULL, room + dst, bytes);
}

static void test_klt(void)
{
    static uint8_t mem[1 << 16];
    static const lq_positions none = {0, 0, NULL};
    lq_geometry g = good_geometry();
    lq_klt_desc good;
    lq_klt_desc d;
    memset(&good, 0, sizeof good);
    lq_vectors src;
    memset(&src, 0, sizeof src);
    const void *slices[2];
    slices[0] = numbers;
    slices[1] = numbers + 8;
    src.slices = slices;
    src.token_stride = DIMS;
    src.type = LQ_F32;
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, sizeof mem, &g) == LQ_OK);
    CHECK(lq_klt_add(&klt, &src, &none, TOKENS, room, sizeof room) == LQ_OK);
    CHECK(lq_klt_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_klt_check(&d, &message)
#define USES use_klt(&klt, &d)
    ACCEPTED((void)d);
    ACCEPTED(d.beta = -1.0f);
    ACCEPTED(d.tolerance = 1.0f);
    BAD("step", d.step = -1.0f);
    BAD("step", d.step = 1e-38f);
    BAD("step", d.step = 1e38f);
    BAD("step", d.step = NAN);
    BAD("step", d.step = INFINITY);
    BAD("beta", d.beta = 1.5f);
    BAD("beta", d.beta = NAN);
    BAD("beta", d.beta = -NAN);
    BAD("beta", d.beta = INFINITY);
    ACCEPTED(d.unit = 3.0f);
    BAD("unit", d.unit = NAN);
    BAD("unit", d.unit = INFINITY);
    BAD("unit", d.unit = -1.0f);
    ACCEPTED(d.scale = 0.125f);
    BAD("scale", d.scale = -0.1f);
    BAD("scale", d.scale = NAN);
    BAD("scale", d.scale = INFINITY);
    BAD("tolerance", d.tolerance = -0.1f);
    BAD("tolerance", d.tolerance = 1.5f);
    BAD("tolerance", d.tolerance = NAN);
    BAD("tolerance", d.tolerance = INFINITY);
    BAD("own", d.own = 2);
    BAD("own", d.own = -1);
    ACCEPTED((d.ratio = 16.0f, d.model = UINT64_MAX));
    ACCEPTED(d.ratio = 0.0625f);
    BAD("ratio", d.ratio = 0.06f);
    BAD("ratio", d.ratio = 16.1f);
    BAD("ratio", d.ratio = -3.0f);
    BAD("ratio", d.ratio = NAN);
    BAD("ratio", d.ratio = INFINITY);
#undef SAYS
#undef USES
}

/* ---- pages and arrays ---- */
static int use_codec(const lq_codec_desc *desc)
{
    CHECK(lq_codec_init(NULL, room, sizeof room, desc) == LQ_E_ARG);
    lq_codec *codec;
    return lq_codec_init(&codec, room, sizeof room, desc);
}

static void test_codec(void)
{
    static uint8_t mem[1 << 12];
    static const float steps[7] = {0.0f, -1.0f, 1e-38f, 1e38f, NAN, INFINITY, -INFINITY};
    static const uint32_t odd[2] = {8, 4};
    lq_codec_desc good;
    lq_codec_desc d;
    lq_profile other;
    memset(&good, 0, sizeof good);
    good.tables = tables;
    good.geometry = good_geometry();
    good.step = 0.25f;
    lq_profile profile;
    CHECK(lq_profile_init(&profile, mem, sizeof mem, &good.geometry, 1.0f) == LQ_OK);
    good.profile = &profile;
    other = profile;
    CHECK(lq_codec_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_codec_check(&d, &message)
#define USES use_codec(&d)
    ACCEPTED((void)d);
    ACCEPTED((d.page = LQ_PAGE_FIXED, d.tables = NULL, d.bits = 2));
    ACCEPTED((d.page = LQ_PAGE_RAW, d.type = LQ_BF16, d.step = 0, d.profile = NULL));
    BAD("tables", d.tables = NULL);
    BAD("profile", d.profile = NULL);
    BAD("stream", d.geometry.stream = 7);
    BAD("slice_count", d.geometry.slice_count = 0);
    BAD("page", d.page = -1);
    BAD("page", d.page = LQ_PAGE_HOT);
    BAD("page", d.page = 0x7fffffff);
    BAD("quantizer", d.quantizer = -1);
    BAD("quantizer", d.quantizer = LQ_TRELLIS_64 + 1);
    BAD("quantizer", (d.page = LQ_PAGE_FIXED, d.quantizer = LQ_D4));
    BAD("quantizer", (d.page = LQ_PAGE_FIXED, d.quantizer = 77));
    BAD("quantizer", (d.page = LQ_PAGE_FIXED, d.quantizer = LQ_E8, d.geometry.slice_dims = odd));
    BAD("quantizer", (d.page = LQ_PAGE_RAW, d.quantizer = LQ_Z));
    BAD("bits", d.bits = 4);
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.bits = 5));
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.bits = -4));
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.quantizer = LQ_E8, d.bits = 3));
    BAD("bits", (d.page = LQ_PAGE_RAW, d.bits = 8));
    BAD("type", d.type = LQ_F16);
    BAD("type", (d.page = LQ_PAGE_RAW, d.type = 4));
    BAD("type", (d.page = LQ_PAGE_RAW, d.type = -1));
    for (size_t i = 0; i < 7; i++) {
        BAD("step", d.step = steps[i]);
    }
    BAD("profile_index", d.profile_index = 256);
    BAD("profile_index", d.profile_index = 0xffffffffu);
    REFUSED(LQ_E_FORMAT, "profile", (other.dims = 8, d.profile = &other));
    other.dims = DIMS;
    REFUSED(LQ_E_FORMAT, "profile", (other.stream = 9, d.profile = &other));
    other.stream = LQ_K;
    REFUSED(LQ_E_FORMAT, "profile", (d.geometry.basis = LQ_BASIS_HADAMARD));
    other.basis = LQ_BASIS_DENSE; /* without the matrix */
    BAD("dense", d.profile = &other);
#undef SAYS
#undef USES
}

static int use_compress(const lq_compress_desc *desc, size_t rows, size_t dims, int type)
{
    size_t written;
    size_t bytes = lq_compress_workspace_bytes(rows, dims, type, desc);
    uint8_t *work = (uint8_t *)source_alloc(bytes ? bytes : 1);
    int status = lq_compress(room, sizeof room, &written, numbers, rows, dims, type, desc, work,
                             bytes);
    free(work);
    return status;
}

static void test_compress(void)
{
    static const lq_positions at = {3, 1, NULL};
    lq_rope rope = good_rope();
    size_t rows = TOKENS;
    size_t dims = DIMS;
    int type = LQ_F32;
    lq_compress_desc good;
    lq_compress_desc d;
    memset(&good, 0, sizeof good);
    CHECK(lq_compress_check(NULL, 4, 4, LQ_F32, NULL) == LQ_OK);
#define SAYS lq_compress_check(&d, rows, dims, type, &message)
#define USES use_compress(&d, rows, dims, type)
    ACCEPTED((void)d);
    ACCEPTED((d.rope = &rope, d.positions = &at, d.head_dims = 8));
    BAD("page", d.page = LQ_PAGE_RAW);
    BAD("page", d.page = -1);
    BAD("page", d.page = 9);
    BAD("quantizer", d.quantizer = -1);
    BAD("quantizer", d.quantizer = 7);
    BAD("quantizer", (d.page = LQ_PAGE_FIXED, d.quantizer = LQ_E8_RELAXED));
    BAD("bits", d.bits = -1.0f);
    BAD("bits", d.bits = 16.5f);
    BAD("bits", d.bits = NAN);
    BAD("bits", d.bits = INFINITY);
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.bits = 3.5f));
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.bits = 5.0f));
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.quantizer = LQ_E8, d.bits = 8.0f));
    BAD("step", d.step = -1.0f);
    BAD("step", d.step = 1e38f);
    BAD("step", d.step = NAN);
    BAD("step", d.step = INFINITY);
    BAD("step", (d.step = 1.0f, d.bits = 3.0f));
    BAD("error", d.error = -0.1f);
    BAD("error", d.error = 1.1f);
    BAD("error", d.error = 1e-4f);
    BAD("error", d.error = NAN);
    BAD("error", d.error = INFINITY);
    BAD("error", (d.error = 0.1f, d.step = 1.0f));
    BAD("error", (d.error = 0.1f, d.bits = 1.0f));
    BAD("error", (d.error = 0.1f, d.page = LQ_PAGE_FIXED));
    BAD("keep_means", d.keep_means = 2);
    BAD("keep_means", d.keep_means = -1);
    BAD("positions", d.positions = &at);
    BAD("head_dims", d.head_dims = 8);
    BAD("head_dims", (d.rope = &rope, d.head_dims = 12));
    BAD("head_dims", (d.rope = &rope, d.head_dims = 0xffffffffu));
    rope.rotary_dims = 10;
    BAD("rotary_dims", (d.rope = &rope, d.head_dims = 8));
    rope.rotary_dims = 8;
    rope.magnitude = NAN;
    BAD("magnitude", (d.rope = &rope));
    dims = 12;
    BAD("quantizer", (d.page = LQ_PAGE_FIXED, d.quantizer = LQ_E8));
    dims = 0;
    BAD("dims", (void)d);
    dims = 0x80000000u;
    BAD("dims", (void)d);
    dims = DIMS;
    rows = SIZE_MAX;
    BAD("rows", (void)d);
    rows = TOKENS;
    type = 0;
    BAD("type", (void)d);
    type = 4;
    BAD("type", (void)d);
#undef SAYS
#undef USES
}

/* ---- archives ---- */
static int no_write(void *user, const void *bytes, size_t count)
{
    (void)user;
    (void)bytes;
    return count == 0;
}

static int no_read(void *user, uint64_t offset, void *dst, size_t count)
{
    (void)user;
    (void)offset;
    (void)dst;
    return count == 0;
}

static uint8_t file[1 << 16];
static uint8_t directory[1 << 14];

static int use_writer(const lq_archive_writer_desc *desc)
{
    lq_archive_writer w;
    return lq_archive_writer_init(&w, desc);
}

static void test_writer(void)
{
    lq_archive_writer_desc good;
    lq_archive_writer_desc d;
    memset(&good, 0, sizeof good);
    good.mem = file;
    good.mem_bytes = sizeof file;
    good.directory = directory;
    good.directory_bytes = sizeof directory;
    CHECK(lq_archive_writer_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_writer_check(&d, &message)
#define USES use_writer(&d)
    ACCEPTED((void)d);
    ACCEPTED((d.mem = NULL, d.mem_bytes = 0, d.write_fn = no_write));
    BAD("directory", d.directory = NULL);
    BAD("mem", d.mem = NULL);
    BAD("mem", d.write_fn = no_write);
#undef SAYS
#undef USES
}

/* An archive of a rope, a group and a profile by name; not finished. */
static lq_archive_writer begun(void)
{
    static const lq_slice slices[2] = {{0, 0, 0, 8, 0, 0}, {0, 1, 0, 8, 0, 0}};
    static const uint8_t hash[16] = {1};
    static const float steady[4] = {1, 0.5f, 0.25f, 0.125f};
    lq_archive_writer_desc desc;
    lq_rope rope = good_rope();
    memset(&desc, 0, sizeof desc);
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    lq_archive_profile_desc profile;
    memset(&profile, 0, sizeof profile);
    rope.freqs = steady;
    desc.mem = file;
    desc.mem_bytes = sizeof file;
    desc.directory = directory;
    desc.directory_bytes = sizeof directory;
    group.stream = LQ_K;
    group.slices = slices;
    group.slice_count = 2;
    profile.hash = hash;
    lq_archive_writer w;
    CHECK(lq_archive_writer_init(&w, &desc) == LQ_OK);
    CHECK(lq_archive_add_rope(&w, &rope, NULL) == LQ_OK);
    CHECK(lq_archive_add_group(&w, &group, NULL) == LQ_OK);
    CHECK(lq_archive_add_profile(&w, &profile, NULL) == LQ_OK);
    return w;
}

static int use_source(const lq_archive_source *source)
{
    lq_archive_reader r;
    return lq_archive_open(&r, source, room, sizeof room, NULL);
}

static void test_source(void)
{
    lq_archive_writer w = begun();
    lq_archive_source d;
    CHECK(lq_archive_finish(&w) == LQ_OK);
    lq_archive_source good;
    memset(&good, 0, sizeof good);
    good.bytes = file;
    good.size = w.offset;
    CHECK(lq_archive_source_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_source_check(&d, &message)
#define USES use_source(&d)
    ACCEPTED((void)d);
    ACCEPTED(d.recover_bytes = UINT64_MAX);
    BAD("bytes", d.bytes = NULL);
    BAD("read_fn", d.read_fn = no_read);
    REFUSED(LQ_E_RANGE, "size", d.size = UINT64_MAX);
    REFUSED(LQ_E_RANGE, "size", d.size = ((uint64_t)1 << 60) + 1);
#undef SAYS
#undef USES
}

static int use_archive_rope(const lq_rope *rope)
{
    lq_archive_writer w = begun();
    return lq_archive_add_rope(&w, rope, NULL);
}

static void test_archive_rope(void)
{
    const lq_rope good = good_rope();
    lq_rope d;
    CHECK(lq_archive_rope_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_rope_check(&d, &message)
#define USES use_archive_rope(&d)
    ACCEPTED((void)d);
    ACCEPTED(d.magnitude = 100.0f);
    BAD("freqs", d.freqs = NULL);
    BAD("layout", d.layout = 3);
    BAD("layout", d.layout = 0xffffffffu);
    REFUSED(LQ_E_RANGE, "rotary_dims", d.rotary_dims = 0);
    REFUSED(LQ_E_RANGE, "rotary_dims", d.rotary_dims = 9);
    REFUSED(LQ_E_RANGE, "rotary_dims", d.rotary_dims = 16386);
    REFUSED(LQ_E_RANGE, "magnitude", d.magnitude = -1.0f);
    REFUSED(LQ_E_DATA, "magnitude", d.magnitude = NAN);
    REFUSED(LQ_E_DATA, "magnitude", d.magnitude = INFINITY);
    freqs[2] = NAN;
    REFUSED(LQ_E_DATA, "freqs", (void)d);
    freqs[2] = -1.0f;
    REFUSED(LQ_E_RANGE, "freqs", (void)d);
    freqs[2] = 256.0f;
    REFUSED(LQ_E_RANGE, "freqs", (void)d);
    freqs[2] = 0.5f;
#undef SAYS
#undef USES
}

static int use_group(const lq_archive_group_desc *group)
{
    lq_archive_writer w = begun();
    return lq_archive_add_group(&w, group, NULL);
}

static void test_group(void)
{
    lq_archive_writer w = begun();
    lq_slice slices[2] = {{0, 0, 0, 64, 0, 0}, {0, 1, 0, 64, 0, 0}};
    const lq_slice fine = slices[1];
    lq_archive_group_desc good;
    lq_archive_group_desc d;
    memset(&good, 0, sizeof good);
    good.stream = LQ_V;
    good.slices = slices;
    good.slice_count = 2;
    CHECK(lq_archive_group_check(NULL, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_group_check(&w, &d, &message)
#define USES use_group(&d)
    ACCEPTED((void)d);
    BAD("slices", d.slices = NULL);
    BAD("stream", d.stream = 0);
    BAD("stream", d.stream = 3);
    REFUSED(LQ_E_RANGE, "rope", d.rope = 1);
    REFUSED(LQ_E_RANGE, "slice_count", d.slice_count = 0);
    REFUSED(LQ_E_RANGE, "slice_count", d.slice_count = 4097);
    REFUSED(LQ_E_RANGE, "slice_count", d.slice_count = SIZE_MAX);
    REFUSED(LQ_E_RANGE, "layer", slices[1].layer = 65536);
    slices[1] = fine;
    REFUSED(LQ_E_RANGE, "head", slices[1].head = 0xffffffffu);
    slices[1] = fine;
    REFUSED(LQ_E_RANGE, "first_dim", slices[1].first_dim = 65536);
    slices[1] = fine;
    REFUSED(LQ_E_RANGE, "dims", slices[1].dims = 0);
    REFUSED(LQ_E_RANGE, "dims", slices[1].dims = 16321);
    REFUSED(LQ_E_RANGE, "dims", slices[1].dims = 0xffffffffu);
    slices[1] = fine;
    REFUSED(LQ_E_RANGE, "dims", slices[1].first_dim = 65530);
    slices[1] = fine;
    ACCEPTED(slices[1].stream = LQ_V);
    BAD("stream", slices[1].stream = LQ_K);
    BAD("stream", slices[1].stream = LQ_KV);
    BAD("stream", slices[1].stream = 4);
    slices[1] = fine;
    BAD("rope", slices[1].rope = 1);
    BAD("rope", slices[1].rope = LQ_ARCHIVE_NONE);
    slices[1] = fine;
    slices[0].stream = LQ_K;
    BAD("stream", (void)d);
    ACCEPTED((d.stream = LQ_KV, slices[1].stream = LQ_V));
    ACCEPTED((d.stream = LQ_KV, slices[0].rope = 1));
    ACCEPTED((d.stream = LQ_KV, slices[0].rope = LQ_ARCHIVE_NONE));
    REFUSED(LQ_E_RANGE, "rope", (d.stream = LQ_KV, slices[0].rope = 2));
    slices[0].rope = 0;
    BAD("stream", (d.stream = LQ_KV, slices[1].stream = LQ_K));
    slices[0] = slices[1] = fine;
    d = good;
    d.rope = 1;
    CHECK(lq_archive_group_check(NULL, &d, NULL) == LQ_OK); /* ids are not looked at */
#undef SAYS
#undef USES
}

static int use_archive_profile(const lq_archive_profile_desc *profile)
{
    lq_archive_writer w = begun();
    return lq_archive_add_profile(&w, profile, NULL);
}

static void test_archive_profile(void)
{
    static const uint8_t bytes[16] = {7};
    lq_archive_profile_desc good;
    lq_archive_profile_desc d;
    memset(&good, 0, sizeof good);
    good.bytes = bytes;
    good.count = 16;
    CHECK(lq_archive_profile_check(NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_profile_check(&d, &message)
#define USES use_archive_profile(&d)
    ACCEPTED((void)d);
    ACCEPTED((d.bytes = NULL, d.count = 0, d.hash = bytes));
    BAD("bytes", (d.bytes = NULL, d.count = 0));
    BAD("count", d.count = 0);
    BAD("count", (d.bytes = NULL, d.hash = bytes));
    BAD("hash", d.hash = bytes);
#undef SAYS
#undef USES
}

static int use_run(const lq_archive_run_desc *run)
{
    lq_archive_writer w = begun();
    return lq_archive_run_begin(&w, run);
}

static void test_run(void)
{
    lq_archive_writer w = begun();
    lq_archive_run_desc good;
    lq_archive_run_desc d;
    uint8_t order[100];
    int8_t steps[2] = {-128, 127};
    memset(&good, 0, sizeof good);
    good.token_count = 100;
    good.profile = LQ_ARCHIVE_NONE;
    CHECK(lq_archive_run_check(NULL, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_run_check(&w, &d, &message)
#define USES use_run(&d)
    ACCEPTED((void)d);
    REFUSED(LQ_E_RANGE, "group", d.group = 1);
    REFUSED(LQ_E_RANGE, "profile", d.profile = 1);
    REFUSED(LQ_E_RANGE, "first_token", d.first_token = ((uint64_t)1 << 63) - 99);
    REFUSED(LQ_E_RANGE, "first_token", d.first_token = UINT64_MAX);
    REFUSED(LQ_E_RANGE, "token_count", d.token_count = 0);
    REFUSED(LQ_E_RANGE, "tokens_per_page", d.tokens_per_page = 65536);
    REFUSED(LQ_E_RANGE, "code", d.code = 256);
    REFUSED(LQ_E_RANGE, "align", d.align = 3);
    REFUSED(LQ_E_RANGE, "align", d.align = 131072);
    REFUSED(LQ_E_RANGE, "step", d.step = -1.0f);
    REFUSED(LQ_E_DATA, "step", d.step = NAN);
    REFUSED(LQ_E_DATA, "step", d.step = INFINITY);
    REFUSED(LQ_E_RANGE, "positions", d.positions.stride = INT64_MAX);
    REFUSED(LQ_E_RANGE, "positions", d.positions.stride = INT64_MIN);
    REFUSED(LQ_E_RANGE, "positions", (d.positions.first = INT64_MAX, d.positions.stride = 1));
    BAD("page_steps", d.page_steps = steps);
    memset(order, 0, 64);
    memset(order + 64, 1, 36);
    ACCEPTED((d.order = order, d.page_steps = steps));
    BAD("tokens_per_page", (d.order = order, d.tokens_per_page = 32));
    BAD("order", (d.order = order, order[70] = 0)); /* 65 and 35 */
    BAD("order", (d.order = order, order[70] = 2));
    BAD("order", (d.order = order, order[70] = 17));
    BAD("order", (d.order = order, order[70] = 255));
    BAD("order", (d.order = order, memset(order, 1, 64), memset(order + 64, 0, 36)));
    d = good;
    d.group = d.profile = 9;
    CHECK(lq_archive_run_check(NULL, &d, NULL) == LQ_OK);
#undef SAYS
#undef USES
}

/* ---- archives: a group's tokens ---- */
static int use_pack(const lq_archive_pack_desc *desc)
{
    lq_archive_writer w = begun();
    uint64_t before = w.offset;
    lq_vectors src;
    memset(&src, 0, sizeof src);
    const void *slices[2];
    slices[0] = numbers;
    slices[1] = numbers + 8;
    src.slices = slices;
    src.token_stride = DIMS;
    src.type = LQ_F32;
    int status = lq_archive_pack(&w, desc, &src, NULL, TOKENS, room, sizeof room);
    CHECK(status == LQ_OK || w.offset == before); /* not even the sinks */
    return status;
}

static void test_pack(void)
{
    static uint8_t mem[1 << 12];
    static const uint32_t reads[1] = {0};
    static const float wrong[5] = {1.5f, -1.0f, NAN, INFINITY, -INFINITY};
    lq_archive_writer w = begun();
    lq_archive_pack_desc good;
    lq_archive_pack_desc d;
    float weights[TOKENS];
    lq_profile profile;
    lq_vectors queries;
    memset(&good, 0, sizeof good);
    memset(&queries, 0, sizeof queries);
    good.tables = tables;
    good.geometry = good_geometry();
    good.step = 0.25f;
    const void *slices[1];
    slices[0] = numbers;
    queries.slices = slices;
    queries.type = LQ_F32;
    CHECK(lq_profile_init(&profile, mem, sizeof mem, &good.geometry, 1.0f) == LQ_OK);
    CHECK(lq_archive_pack_check(NULL, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_pack_check(&w, &d, &message)
#define USES use_pack(&d)
    ACCEPTED((void)d);
    ACCEPTED(d.profile = &profile);
    ACCEPTED((d.calibrate = 1, d.queries = &queries, d.reads = reads, d.query_heads = 1));
    ACCEPTED((d.page = LQ_PAGE_RAW, d.step = 0));
    BAD("tables", d.tables = NULL);
    BAD("stream", d.geometry.stream = 0);
    BAD("slice_dims", d.geometry.slice_dims = NULL);
    REFUSED(LQ_E_RANGE, "group", d.group = 1);
    REFUSED(LQ_E_RANGE, "group", d.group = 0xffffffffu);
    BAD("page", d.page = 7);
    BAD("page", d.page = -1);
    BAD("quantizer", d.quantizer = 7);
    BAD("quantizer", d.quantizer = -3);
    BAD("bits", d.bits = 3);
    BAD("bits", (d.page = LQ_PAGE_FIXED, d.bits = 7));
    BAD("step", d.step = 0.0f);
    BAD("step", d.step = -2.0f);
    BAD("step", d.step = NAN);
    BAD("step", d.step = INFINITY);
    REFUSED(LQ_E_RANGE, "profile_id", (d.profile = &profile, d.profile_id = 1));
    BAD("refit", d.refit = 2);
    BAD("refit", d.refit = -1);
    BAD("calibrate", d.calibrate = 2);
    BAD("calibrate", d.calibrate = -1);
    BAD("calibrate", (d.calibrate = 1, d.refit = 1));
    BAD("calibrate", (d.calibrate = 1, d.profile = &profile));
    BAD("queries", (d.queries = &queries, d.reads = reads));
    BAD("reads", (d.calibrate = 1, d.queries = &queries));
    queries.type = 9;
    BAD("queries", (d.calibrate = 1, d.queries = &queries, d.reads = reads));
    queries.type = LQ_F32;
    queries.slices = NULL;
    BAD("queries", (d.calibrate = 1, d.queries = &queries, d.reads = reads));
    for (size_t i = 0; i < TOKENS; i++) {
        weights[i] = (float)i;
    }
    ACCEPTED((d.profile = &profile, d.weights = weights));
    ACCEPTED((d.profile = &profile, d.weights = weights, d.exponent = 1.0f, d.weight_mean = 3e38f));
    BAD("weights", d.weights = weights); /* without a profile */
    BAD("weights", (d.profile = &profile, d.weights = weights, d.refit = 1));
    BAD("weights", (d.profile = &profile, d.weights = weights, d.page = LQ_PAGE_FIXED));
    BAD("weights", (d.profile = &profile, d.weights = weights, d.page = LQ_PAGE_RAW, d.step = 0));
    for (size_t i = 0; i < 5; i++) {
        BAD("exponent", (d.profile = &profile, d.weights = weights, d.exponent = wrong[i]));
        if (i) {
            BAD("weight_mean",
                (d.profile = &profile, d.weights = weights, d.weight_mean = wrong[i]));
        }
    }
    profile.slice_count = 1;
    REFUSED(LQ_E_FORMAT, "profile", d.profile = &profile);
#undef SAYS
#undef USES
}

static int use_unpack(const lq_archive_reader *reader, const lq_archive_unpack_desc *desc)
{
    lq_vectors_out dst;
    memset(&dst, 0, sizeof dst);
    float back[4 * DIMS];
    void *slices[2];
    slices[0] = back;
    slices[1] = back + 8;
    dst.slices = slices;
    dst.token_stride = DIMS;
    dst.type = LQ_F32;
    return lq_archive_unpack(reader, desc, &dst, 2, 4, room, sizeof room);
}

static void test_unpack(void)
{
    static uint8_t mem[1 << 12];
    static uint8_t open[1 << 12];
    static const uint8_t bytes[4] = {0};
    lq_archive_writer w = begun();
    lq_archive_pack_desc pack;
    lq_archive_unpack_desc d;
    lq_profile profile;
    const lq_profile *list = &profile;
    memset(&pack, 0, sizeof pack);
    lq_vectors src;
    memset(&src, 0, sizeof src);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    lq_archive_unpack_desc good;
    memset(&good, 0, sizeof good);
    pack.tables = good.tables = tables;
    pack.geometry = good_geometry();
    pack.step = 0.25f;
    const void *slices[2];
    slices[0] = numbers;
    slices[1] = numbers + 8;
    src.slices = slices;
    src.token_stride = DIMS;
    src.type = LQ_F32;
    CHECK(lq_archive_pack(&w, &pack, &src, NULL, TOKENS, room, sizeof room) == LQ_OK);
    CHECK(lq_archive_finish(&w) == LQ_OK);
    source.bytes = file;
    source.size = w.offset;
    lq_archive_reader reader;
    CHECK(lq_archive_open(&reader, &source, open, sizeof open, NULL) == LQ_OK);
    CHECK(lq_profile_init(&profile, mem, sizeof mem, &pack.geometry, 1.0f) == LQ_OK);
    CHECK(lq_archive_unpack_check(NULL, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_archive_unpack_check(&reader, &d, &message)
#define USES use_unpack(&reader, &d)
    ACCEPTED((void)d);
    REFUSED(LQ_E_RANGE, "group", d.group = 1);
    BAD("profile_bytes", d.profile = bytes);
    BAD("profile_bytes", d.profile_bytes = 4);
    BAD("calibrated", d.calibrated_count = 1);
    profile.stream = 9;
    BAD("calibrated", (d.calibrated = &list, d.calibrated_count = 1));
#undef SAYS
#undef USES
}

/* ---- the live cache ---- */
static lq_kv made(int sparse)
{
    static uint8_t *mem;
    lq_kv_desc desc;
    memset(&desc, 0, sizeof desc);
    lq_kv_layer layers[2];
    memset(layers, 0, sizeof layers);
    lq_kv_view view;
    memset(&view, 0, sizeof view);
    desc.layers = 2;
    desc.kv_heads = 2;
    desc.k_dims = 8;
    desc.tokens = 4 * TOKENS;
    desc.sparse = sparse;
    desc.layer = layers;
    layers[1].kv_heads = LQ_KV_NONE;
    free(mem);
    mem = (uint8_t *)source_alloc(lq_kv_bytes(&desc));
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&desc), &desc) == LQ_OK);
    view.data = numbers;
    CHECK(lq_kv_append(&kv, 0, &view, &view, NULL, TOKENS) == LQ_OK);
    return kv;
}

static void test_attend(void)
{
    static float q[2 * 8 * 8];
    static float out[2 * 8 * 8];
    const lq_positions beyond = {INT64_MAX, 1, NULL};
    lq_kv kv = made(0);
    lq_kv_attend_desc good;
    lq_kv_attend_desc d;
    memset(&good, 0, sizeof good);
    good.heads = 4;
    good.q.data = q;
    good.out.data = out;
    CHECK(lq_kv_attend_check(NULL, &good, NULL) == LQ_E_ARG);
    CHECK(lq_kv_attend_check(&kv, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_kv_attend_check(&kv, &d, &message)
#define USES lq_kv_attend(&kv, &d)
    ACCEPTED((void)d);
    ACCEPTED((d.queries = 3, d.all = 1, d.softcap = 30.0f, d.scale = -1.0f));
    BAD("layer", d.layer = 1); /* keeps none */
    BAD("layer", d.layer = 2);
    BAD("layer", d.layer = 0xffffffffu);
    BAD("heads", d.heads = 0);
    BAD("heads", d.heads = 3);
    BAD("queries", d.queries = SIZE_MAX);
    REFUSED(LQ_E_RANGE, "queries", d.queries = TOKENS + 1);
    BAD("q", d.q.data = NULL);
    BAD("q", d.q.type = 4);
    BAD("q", d.q.type = -1);
    BAD("out", d.out.data = NULL);
    BAD("out", d.out.type = 4);
    BAD("scale", d.scale = NAN);
    BAD("scale", d.scale = INFINITY);
    BAD("scale", d.scale = -INFINITY);
    BAD("softcap", d.softcap = -1.0f);
    BAD("softcap", d.softcap = NAN);
    BAD("softcap", d.softcap = INFINITY);
    BAD("window_sinks", d.window_sinks = 1);
    BAD("window_sinks", (d.window = 9, d.window_sinks = 2));
    BAD("window_sinks", (d.window = 9, d.window_sinks = -1));
    BAD("all", d.all = 2);
    BAD("all", d.all = -1);
    REFUSED(LQ_E_RANGE, "positions", d.positions = &beyond);
    REFUSED(LQ_E_RANGE, "first", d.first = TOKENS + 1);
    REFUSED(LQ_E_RANGE, "count", d.count = TOKENS + 1);
    REFUSED(LQ_E_RANGE, "count", (d.first = 1, d.count = SIZE_MAX));
    BAD("workspace", d.workspace_bytes = 5);
    REFUSED(LQ_E_SPACE, "workspace_bytes", (d.workspace = room, d.workspace_bytes = 5));
    BAD("top_pages", d.top_pages = 1);
    q[5] = NAN;
    REFUSED(LQ_E_DATA, "q", (void)d);
    q[5] = 1e36f;
    REFUSED(LQ_E_DATA, "q", (void)d);
    q[5] = 0;
    kv = made(1);
    ACCEPTED(d.top_pages = 1);
#undef SAYS
#undef USES
}

static int use_evict(lq_kv *kv, const lq_kv_evict_desc *desc)
{
    int status = lq_kv_evict_by(kv, desc);
    if (status == LQ_OK) *kv = made(0);
    return status;
}

static void test_evict(void)
{
    lq_kv kv = made(0);
    lq_kv_evict_desc good;
    lq_kv_evict_desc d;
    memset(&good, 0, sizeof good);
    good.tokens = 100;
    CHECK(lq_kv_evict_check(NULL, &good, NULL) == LQ_E_ARG);
    CHECK(lq_kv_evict_check(&kv, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_kv_evict_check(&kv, &d, &message)
#define USES use_evict(&kv, &d)
    ACCEPTED((void)d);
    ACCEPTED(d.scorer = LQ_KV_BY_AGE);
    BAD("scorer", d.scorer = 4);
    BAD("scorer", d.scorer = -1);
    BAD("first", d.first = 101);
    BAD("first", d.first = 0xfffffffeu);
    BAD("first", d.tokens = 0);
    BAD("last", d.last = 97);
    BAD("last", d.last = 0xfffffffeu);
    BAD("last", d.tokens = 60);
#undef SAYS
#undef USES
}

static int use_kv_pack(const lq_kv *kv, const lq_kv_pack_desc *desc)
{
    lq_archive_writer w = begun();
    return lq_kv_pack(kv, &w, desc, room, sizeof room);
}

static void test_kv_pack(void)
{
    static const float steps[6] = {0.0f, -1.0f, 1e38f, NAN, INFINITY, -INFINITY};
    lq_kv kv = made(0);
    lq_kv_pack_desc good;
    lq_kv_pack_desc d;
    memset(&good, 0, sizeof good);
    good.tables = tables;
    good.k_step = good.v_step = 0.5f;
    CHECK(lq_kv_pack_check(NULL, &good, NULL) == LQ_E_ARG);
    CHECK(lq_kv_pack_check(&kv, NULL, NULL) == LQ_E_ARG);
#define SAYS lq_kv_pack_check(&kv, &d, &message)
#define USES use_kv_pack(&kv, &d)
    ACCEPTED((void)d);
    BAD("tables", d.tables = NULL);
    REFUSED(LQ_E_RANGE, "sequence", d.sequence = (uint64_t)1 << 32);
    REFUSED(LQ_E_RANGE, "sequence", d.sequence = UINT64_MAX);
    for (size_t i = 0; i < 6; i++) {
        BAD("k_step", d.k_step = steps[i]);
        BAD("v_step", d.v_step = steps[i]);
    }
    BAD("quantizer", d.quantizer = 7);
    BAD("quantizer", d.quantizer = -1);
    BAD("basis", d.basis = 4);
    BAD("basis", d.basis = 0xffffffffu);
    BAD("dense", d.basis = LQ_BASIS_DENSE); /* pages of a cache have no calibrated one */
#undef SAYS
#undef USES
}

int main(void)
{
    void *mem = source_alloc(lq_tables_bytes());
    CHECK(lq_tables_init(&tables, mem, lq_tables_bytes()) == LQ_OK);
    for (size_t i = 0; i < TOKENS * DIMS; i++) {
        numbers[i] = (float)source_gauss();
    }
    for (size_t i = 0; i < 4096; i++) {
        freqs[i] = 0.5f;
    }
    test_rope();
    test_geometry();
    test_roles();
    test_klt();
    test_codec();
    test_compress();
    test_writer();
    test_source();
    test_archive_rope();
    test_group();
    test_archive_profile();
    test_run();
    test_pack();
    test_unpack();
    test_attend();
    test_evict();
    test_kv_pack();
    free(mem);
    return check_report("test_check");
}
