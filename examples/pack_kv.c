/* cc -O2 examples/pack_kv.c -o pack_kv -lm */

/* pack_kv.c - a KV cache in .npy files to an archive and back, with the damage measured

       ./pack_kv                                             the sample in tests/data
       ./pack_kv --k k.npy --v v.npy --q q.npy --out kv.lq --bits 2.5
       ./pack_kv --unpack kv.lq --k k.npy --v v.npy
       ./pack_kv --profile model.lqp                         with profiles of examples/calibrate.c

   --help tells which types, orders and shapes of .npy it takes.

   It prints what the archive costs and what it does to attention, beside q8_0, q4_0, Hadamard +
   q4_0 and 4-bit Lloyd-Max on the same data, then writes the archive, reads it again and verifies
   it. Groups are the heads of a layer, K and V apart; the profile is fitted to the sequence, so
   nothing is calibrated and everything that decoding needs is in the file. With --calibrate the
   library also fits a basis to each group, and stores it where that makes the file smaller. With
   --profile the bases are those of a model: the archive names them, and --unpack wants them again;
   in those of calibrate --joint groups hold keys and values of several layers, coded at one step.

   Steps of K are relative, group by group, to the root mean square of what the mean of each channel
   leaves of the keys, RoPE undone and the sinks left out; those of V to the gain of each vector,
   less its mean. Relative errors are of the same energy, and the last line tells the worst: an
   archive that lost more than PK_USELESS of a layer is removed, for whatever reason it did.

   Errors: K is judged by its logits, mean square of q . (k' - k) / sqrt(dim) over the causal pairs
   of the given queries; V by the attention output, mean square of sum p (v' - v), p from the raw K.
   The first tokens (--sinks) stay raw for all codecs alike and do not count in the table. */
#define KF_PROGRAM "pack_kv"
#define KF_NO_ROPE "--rope none"
#include "kv_files.h"

#include <limits.h>
#include <time.h>

#include "quantizer_names.h"
#include "rivals.h"

#define PK_META 0x564b4b50u /* "PKKV" */

#define PK_USELESS 0.75 /* of a layer's energy about its mean */

enum {
    PK_META_BYTES = 56,
    PK_OURS = 3,
    PK_RIVALS = 4,
    PK_CODECS = PK_OURS + PK_RIVALS,
    PK_RUNS = 9,
    PK_RANGES = 6
};

/* Steps of K and V. */
typedef struct pk_steps {
    const char *name;
    double of[2];
} pk_steps;

typedef struct pk_options {
    const char *files[3]; /* K, V, queries */
    const char *out;
    const char *unpack;
    const char *profile;
    const char *model;
    const char *rope;
    const char *quantizer;
    double step;
    double vstep;
    double bits;
    double bytes;
    double theta;
    double sinks;
    int calibrate;
} pk_options;

typedef struct pk_job {
    pk_options options;
    kf_tensor kv[2];
    kf_tensor queries;
    const lq_tables *tables;
    void *tables_mem;
    lq_rope rope; /* freqs NULL: none */
    float *freqs;
    int quantizer;
    kf_profiles profiles;  /* count 0: none */
    kf_tensor all_queries; /* --calibrate: one for each key; those that are not given are 0 */
    size_t sinks;
    pk_steps ours[PK_OURS]; /* ours[1] is what the archive gets */
    size_t ours_count;
    double *units;     /* of the keys, (layers, groups) */
    double *energy[2]; /* of K and V, (layers): about the means, without the sinks */
    const char *fault; /* what is wrong with a descriptor, or NULL */
    int fault_stream;  /* where packing failed */
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

/* ---------------------------------------------------------------------------------------- time */

/* Seconds of this thread's CPU time. */
static double pk_now(void)
{
#ifdef KF_POSIX
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
#endif
    return (double)clock() / CLOCKS_PER_SEC;
}

static int pk_compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* --------------------------------------------------------------------------------- output files */

/* In the axes that its file had; little-endian and in C order. */
static void pk_save_npy(const char *name, const kf_tensor *t)
{
    static const char *const batch[KF_AXES][2] = {{"", ""}, {"", ""}, {"1, ", ""}, {"", "1, "}};
    const char *descr = t->type == LQ_BF16 ? "<V2" : t->type == LQ_F16 ? "<f2" : "<f4";
    char layers[32] = "";
    size_t count = kf_elements(t);
    if (t->axes != KF_OF_LAYER) {
        (void)snprintf(layers, sizeof layers, "%.0f, ", (double)t->layers);
    }
    char text[256];
    int used = snprintf(text, sizeof text,
                        "{'descr': '%s', 'fortran_order': False, "
                        "'shape': (%s%s%s%.0f, %.0f, %.0f), }",
                        descr, batch[t->axes][0], layers, batch[t->axes][1], (double)t->heads,
                        (double)t->tokens, (double)t->dim);
    size_t bytes = ((size_t)used + 11 + 63) / 64 * 64;
    char front[320];
    memset(front, ' ', sizeof front);
    memcpy(front, "\223NUMPY\1\0", 8);
    front[8] = (char)((bytes - 10) & 255);
    front[9] = (char)((bytes - 10) >> 8);
    memcpy(front + 10, text, (size_t)used);
    front[bytes - 1] = '\n';
    kf_order(t->data, count, lq_type_bytes(t->type), 0);
    kf_save(name, front, bytes, t->data, count * lq_type_bytes(t->type));
}

/* -------------------------------------------------------------------------------------- packing */

/* Heads in a group: all of the layer, if the format's limits allow. */
static size_t pk_group_heads(const kf_tensor *t)
{
    size_t most = kf_min(LQ_ARCHIVE_MAX_SLICES, LQ_ARCHIVE_MAX_DIMS / t->dim);
    return kf_min(t->heads, most);
}

static size_t pk_groups(const kf_tensor *t)
{
    size_t heads = pk_group_heads(t);
    return (t->heads + heads - 1) / heads;
}

/* The calibrated group of all heads of a layer, or NULL. */
static const kf_group *pk_calibrated(const pk_job *job, int stream, size_t layer)
{
    const kf_tensor *t = &job->kv[stream];
    size_t i, h;
    for (i = 0; i < job->profiles.count; i++) {
        const kf_group *g = &job->profiles.groups[i];
        int fits = g->desc.stream == (stream ? LQ_V : LQ_K) && g->desc.slice_count == t->heads;
        for (h = 0; h < t->heads && fits; h++) {
            const lq_slice *slice = &g->slices[h];
            fits = slice->layer == layer && slice->head == h && slice->first_dim == 0 &&
                   slice->dims == t->dim;
        }
        if (fits) return g;
    }
    return NULL;
}

/* Whether a calibrated group's RoPE is that of the options, but for the last bits. */
static int pk_same_rope(const pk_job *job, const kf_group *g)
{
    if (g->desc.rope == LQ_ARCHIVE_NONE || !job->freqs) {
        return g->desc.rope == LQ_ARCHIVE_NONE && !job->freqs;
    }
    float freqs[LQ_ARCHIVE_MAX_DIMS / 2];
    lq_rope rope;
    if (lq_archive_rope(&job->profiles.r.reader, g->desc.rope, &rope, freqs,
                        LQ_ARCHIVE_MAX_DIMS / 2) ||
        rope.rotary_dims != job->rope.rotary_dims || rope.layout != job->rope.layout) {
        return 0;
    }
    for (uint32_t i = 0; i < rope.rotary_dims / 2; i++) {
        if (fabs((double)freqs[i] - (double)job->freqs[i]) > 1e-5 * (double)job->freqs[i]) return 0;
    }
    return 1;
}

/* Whether the profiles are of calibrate --joint. */
static int pk_joint(const pk_job *job)
{
    return job->profiles.count && job->profiles.groups[0].desc.stream == LQ_KV;
}

/* Groups of keys and values must hold each head once. */
static void pk_check_joint(const pk_job *job, int check_rope)
{
    const kf_tensor *kv = job->kv;
    const char *name = job->profiles.name;
    size_t layers = kv[0].layers;
    size_t both = kv[0].heads + kv[1].heads;
    if (!kv[0].type || !kv[1].type || kv[0].type != kv[1].type) {
        kf_fail("%s: keys and values share its bases: both are wanted, in one type", name);
    }
    uint8_t *seen = (uint8_t *)kf_alloc(layers, both);
    for (size_t i = 0; i < job->profiles.count; i++) {
        const kf_group *g = &job->profiles.groups[i];
        int fits = g->desc.stream == LQ_KV;
        for (size_t s = 0; s < g->desc.slice_count && fits; s++) {
            const lq_slice *slice = &g->slices[s];
            int value = slice->stream == LQ_V;
            const kf_tensor *t = &kv[value];
            fits = slice->layer < layers && slice->head < t->heads && slice->first_dim == 0 &&
                   slice->dims == t->dim && slice->rope == 0 &&
                   !seen[slice->layer * both + (value ? kv[0].heads : 0) + slice->head]++;
        }
        if (!fits) {
            kf_fail("%s: group %.0f does not fit: calibrated for another model", name, (double)i);
        }
        if (check_rope && !pk_same_rope(job, g)) {
            kf_fail("%s: calibrated for another RoPE", name);
        }
    }
    for (size_t i = 0; i < layers * both; i++) {
        if (!seen[i]) {
            kf_fail("%s: has no group of the heads of layer %.0f", name, (double)(i / both));
        }
    }
    free(seen);
}

/* Every layer must have its profiles. */
static void pk_check_profiles(const pk_job *job, int check_rope)
{
    if (pk_joint(job)) {
        pk_check_joint(job, check_rope);
        return;
    }
    for (int stream = 0; stream < 2; stream++) {
        for (size_t layer = 0; layer < job->kv[stream].layers; layer++) {
            const kf_group *g = pk_calibrated(job, stream, layer);
            if (!g) {
                kf_fail("%s: has no group of the heads of layer %.0f of %s (calibrate --group "
                        "layer makes such)",
                        job->profiles.name, (double)layer, stream ? "V" : "K");
            }
            if (stream == 0 && check_rope && !pk_same_rope(job, g)) {
                kf_fail("%s: calibrated for another RoPE", job->profiles.name);
            }
        }
    }
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

/* The record that makes --unpack need nothing else: version, 2 with joint groups, pairing of RoPE (0: none), theta as a
   double, then type (0: stream not there; above its byte the axes of the file), layers, heads,
   tokens and dim of K and of V. */
static void pk_meta(const pk_job *job, int streams, uint8_t *meta)
{
    uint64_t theta;
    memcpy(&theta, &job->options.theta, 8);
    meta = pk_put32(meta, pk_joint(job) ? 2 : 1);
    meta = pk_put32(meta, job->freqs ? job->rope.layout : 0);
    meta = pk_put32(meta, (uint32_t)theta);
    meta = pk_put32(meta, (uint32_t)(theta >> 32));
    for (int i = 0; i < 2; i++) {
        const kf_tensor *t = &job->kv[i];
        int there = t->data && (streams >> i & 1);
        meta = pk_put32(meta, there ? (uint32_t)t->type | (uint32_t)t->axes << 8 : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->layers : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->heads : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->tokens : 0);
        meta = pk_put32(meta, there ? (uint32_t)t->dim : 0);
    }
}

/* Room for the directory of a stream: runs, profiles and groups as lq_archive_writer_desc tells. */
static size_t pk_directory_bytes(const pk_job *job, const kf_tensor *t)
{
    size_t heads = pk_group_heads(t);
    size_t runs = 2 * 64 + 8 * (t->tokens / 64 + 3) + 16;
    size_t group = 24 + 8 * heads + 16 + lq_profile_save_bound(heads * (t->dim + 1));
    if (job->options.calibrate) { /* a basis of its own: at most 17 bits for dims^2, and rows */
        group += heads * t->dim * (heads * t->dim * 17 / 8 + 64) + 4096;
    }
    return t->layers * pk_groups(t) * (runs + group) + 16 + 2 * t->dim + 4;
}

/* The same for groups of keys and values. */
static size_t pk_directory_joint(const pk_job *job)
{
    size_t bytes = 16 + 2 * job->kv[0].dim + 4;
    for (size_t i = 0; i < job->profiles.count; i++) {
        bytes += 24 + 12 * job->profiles.groups[i].desc.slice_count + 32;
        bytes += 2 * 64 + 8 * (job->kv[0].tokens / 64 + 3) + 16;
    }
    return bytes;
}

typedef struct pk_packer {
    lq_archive_writer writer;
    uint32_t rope;
    lq_slice *slices;
    uint32_t *dims;
    const void **vectors;
    const void **queries;
    uint32_t *reads; /* of each of them, the slice */
    void *workspace;
    size_t workspace_bytes;
} pk_packer;

/* What the archive has of a layer's calibrated profile: its name. */
static int pk_use_profile(const pk_job *job, pk_packer *p, int stream, size_t layer,
                          lq_archive_pack_desc *d)
{
    lq_archive_profile_desc name = {NULL, 0, NULL};
    d->profile = &pk_calibrated(job, stream, layer)->profile;
    name.hash = d->profile->dense->hash;
    return lq_archive_add_profile(&p->writer, &name, &d->profile_id);
}

/* The queries that read heads [first, first + count) of a layer. */
static void pk_use_queries(const pk_job *job, pk_packer *p, size_t layer, size_t first,
                           size_t count, lq_archive_pack_desc *d, lq_vectors *src)
{
    const kf_tensor *q = &job->all_queries;
    size_t readers = q->heads / job->kv[0].heads;
    for (size_t i = 0; i < count * readers; i++) {
        size_t row = layer * q->heads + first * readers + i;
        p->queries[i] =
            (const uint8_t *)q->data + row * q->tokens * q->dim * lq_type_bytes(q->type);
        p->reads[i] = (uint32_t)(i / readers);
    }
    src->slices = p->queries;
    src->token_stride = 0;
    src->type = q->type;
    d->queries = src;
    d->reads = p->reads;
    d->query_heads = count * readers;
}

/* What steps of the keys of a group are relative to; those of a profile have it in them. */
static double pk_unit(const pk_job *job, size_t layer, size_t head)
{
    const kf_tensor *t = &job->kv[0];
    return job->profiles.count ? 1.0 : job->units[layer * pk_groups(t) + head / pk_group_heads(t)];
}

/* Heads [first, first + count) of a layer, as one group. */
static int pk_pack_group(const pk_job *job, pk_packer *p, int stream, double step, size_t layer,
                         size_t first, size_t count, const char **fault)
{
    const kf_tensor *t = &job->kv[stream];
    size_t bytes = t->tokens * t->dim * lq_type_bytes(t->type);
    lq_vectors src, queries;
    lq_positions positions = {0, 1, NULL};
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    for (size_t i = 0; i < count; i++) {
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
    int status = lq_archive_add_group(&p->writer, &group, &d.group);
    if (!status && job->profiles.count) {
        status = pk_use_profile(job, p, stream, layer, &d);
    }
    if (status) return status;
    d.calibrate = job->options.calibrate;
    if (stream == 0 && job->all_queries.data) {
        pk_use_queries(job, p, layer, first, count, &d, &queries);
    }
    d.tables = job->tables;
    d.geometry.stream = group.stream;
    d.geometry.slice_count = (uint32_t)count;
    d.geometry.slice_dims = p->dims;
    d.geometry.rope = stream || !job->freqs ? NULL : &job->rope;
    d.sinks = job->sinks ? (uint32_t)job->sinks : LQ_NO_SINKS;
    d.quantizer = job->quantizer;
    d.step = (float)(stream ? step : step * pk_unit(job, layer, first));
    if (p->workspace_bytes < lq_archive_pack_workspace_bytes(&d)) {
        free(p->workspace);
        p->workspace_bytes = lq_archive_pack_workspace_bytes(&d);
        p->workspace = kf_alloc(p->workspace_bytes, 1);
    }
    src.slices = p->vectors;
    src.token_stride = 0;
    src.type = t->type;
    status = lq_archive_pack_check(&p->writer, &d, fault);
    if (status) return status;
    return lq_archive_pack(&p->writer, &d, &src, &positions, t->tokens, p->workspace,
                           p->workspace_bytes);
}

/* Where the slices of a group of keys and values are, in arrays [layers][heads][tokens][dim]. To be
   freed. */
static void **pk_joint_rows(const pk_job *job, const kf_group *g, int type, size_t tokens,
                            void *const kv[2])
{
    void **rows = (void **)kf_alloc(g->desc.slice_count, sizeof *rows);
    for (size_t i = 0; i < g->desc.slice_count; i++) {
        const lq_slice *slice = &g->slices[i];
        int value = slice->stream == LQ_V;
        const kf_tensor *t = &job->kv[value];
        rows[i] = (uint8_t *)kv[value] + (slice->layer * t->heads + slice->head) * tokens *
                                             t->dim * lq_type_bytes(type);
    }
    return rows;
}

/* A group of keys and values. */
static int pk_pack_joint_group(const pk_job *job, pk_packer *p, const kf_group *g, double step,
                               const char **fault)
{
    void *const kv[2] = {job->kv[0].data, job->kv[1].data};
    void **rows = pk_joint_rows(job, g, job->kv[0].type, job->kv[0].tokens, kv);
    const lq_vectors src = {(const void *const *)rows, 0, job->kv[0].type};
    lq_positions positions = {0, 1, NULL};
    lq_archive_profile_desc name = {NULL, 0, NULL};
    lq_archive_group_desc group = g->desc;
    size_t count = g->desc.slice_count;
    lq_role *roles = (lq_role *)kf_alloc(count, sizeof *roles);
    uint32_t *dims = (uint32_t *)kf_alloc(count, sizeof *dims);
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    group.slices = g->slices;
    group.rope = p->rope;
    name.hash = g->profile.dense->hash;
    for (size_t i = 0; i < count; i++) {
        int value = g->slices[i].stream == LQ_V;
        roles[i].stream = g->slices[i].stream;
        roles[i].gain = value ? g->profile.dense->slice_gain[i] : 0;
        roles[i].rope = value || !job->freqs ? NULL : &job->rope;
        dims[i] = g->slices[i].dims;
    }
    d.tables = job->tables;
    d.geometry.stream = LQ_KV;
    d.geometry.slice_count = (uint32_t)count;
    d.geometry.slice_dims = dims;
    d.geometry.roles = roles;
    d.profile = &g->profile;
    d.model = job->options.model ? kf_model(job->options.model) : 0;
    d.sinks = job->sinks ? (uint32_t)job->sinks : LQ_NO_SINKS;
    d.quantizer = job->quantizer;
    d.step = (float)step;
    int status = lq_archive_add_group(&p->writer, &group, &d.group);
    if (!status) status = lq_archive_add_profile(&p->writer, &name, &d.profile_id);
    if (!status) status = lq_archive_pack_check(&p->writer, &d, fault);
    size_t bytes = lq_archive_pack_workspace_bytes(&d);
    void *workspace = kf_alloc(bytes, 1);
    if (!status) {
        status = lq_archive_pack(&p->writer, &d, &src, &positions, job->kv[0].tokens, workspace,
                                 bytes);
    }
    free(workspace);
    free(roles);
    free(dims);
    free(rows);
    return status;
}

static int pk_pack_joint(pk_job *job, pk_packer *p, double step)
{
    int status = LQ_OK;
    for (size_t i = 0; i < job->profiles.count && !status; i++) {
        const kf_group *g = &job->profiles.groups[i];
        kf_progress("packing", i, job->profiles.count);
        job->fault_stream = 0;
        job->fault_layer = g->slices[0].layer;
        status = pk_pack_joint_group(job, p, g, step, &job->fault);
    }
    return status;
}

/* All groups of a stream. */
static int pk_pack_stream(pk_job *job, pk_packer *p, int stream, double step)
{
    const kf_tensor *t = &job->kv[stream];
    size_t most = pk_group_heads(t);
    size_t layer, head;
    int status = LQ_OK;
    for (layer = 0; layer < t->layers; layer++) {
        if (t->layers * t->heads * t->tokens * t->dim > (size_t)1 << 22) {
            kf_progress(stream ? "packing V" : "packing K", layer, t->layers);
        }
        for (head = 0; head < t->heads; head += most) {
            status = pk_pack_group(job, p, stream, step, layer, head,
                                   kf_min(most, t->heads - head), &job->fault);
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
static int pk_pack(pk_job *job, const pk_steps *steps, int streams, kf_bytes *dst)
{
    size_t most = 0;
    int stream, status;
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    pk_packer p;
    memset(&p, 0, sizeof p);
    w.directory_bytes = 256;
    for (stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->kv[stream];
        if (t->data && (streams >> stream & 1)) {
            w.directory_bytes += pk_directory_bytes(job, t);
            most = pk_group_heads(t) > most ? pk_group_heads(t) : most;
        }
    }
    w.directory_bytes += pk_joint(job) ? pk_directory_joint(job) : 0;
    job->fault = NULL;
    dst->count = 0;
    w.write_fn = kf_collect;
    w.user = dst;
    w.directory = kf_alloc(w.directory_bytes, 1);
    p.slices = (lq_slice *)kf_alloc(most, sizeof *p.slices);
    p.dims = (uint32_t *)kf_alloc(most, sizeof *p.dims);
    p.vectors = (const void **)kf_alloc(most, sizeof *p.vectors);
    p.queries = (const void **)kf_alloc(job->all_queries.heads, sizeof *p.queries);
    p.reads = (uint32_t *)kf_alloc(job->all_queries.heads, sizeof *p.reads);
    p.rope = LQ_ARCHIVE_NONE;
    uint8_t meta[PK_META_BYTES];
    pk_meta(job, streams, meta);
    status = lq_archive_writer_init(&p.writer, &w);
    if (!status) {
        status = lq_archive_add_meta(&p.writer, PK_META, meta, sizeof meta);
    }
    if (!status && job->freqs && (streams & 1)) {
        status = lq_archive_rope_check(&job->rope, &job->fault);
        status = status ? status : lq_archive_add_rope(&p.writer, &job->rope, &p.rope);
    }
    if (!status && pk_joint(job)) status = pk_pack_joint(job, &p, steps->of[0]);
    for (stream = 0; stream < 2 && !status && !pk_joint(job); stream++) {
        if (job->kv[stream].data && (streams >> stream & 1)) {
            status = pk_pack_stream(job, &p, stream, steps->of[stream]);
        }
    }
    if (!status) status = lq_archive_finish(&p.writer);
    free(w.directory);
    free(p.slices);
    free(p.dims);
    free(p.vectors);
    free(p.queries);
    free(p.reads);
    free(p.workspace);
    kf_progress(NULL, 0, 1);
    return status;
}

static void pk_must_pack(pk_job *job, const pk_steps *steps, int streams, kf_bytes *dst)
{
    int status = pk_pack(job, steps, streams, dst);
    int stream = job->fault_stream;
    if (status && job->fault) {
        kf_fail("%s: layer %.0f: %s", job->kv[stream].name, (double)job->fault_layer, job->fault);
    }
    if (status == LQ_E_RANGE) {
        kf_fail("%s: layer %.0f has values too many steps of %g apart: take a larger %s",
                job->kv[stream].name, (double)job->fault_layer, steps->of[stream],
                stream ? "--vstep" : "--step");
    }
    if (status) {
        kf_fail("%s: cannot pack layer %.0f (%s)", job->kv[stream].name, (double)job->fault_layer,
                lq_status_string(status));
    }
}

/* ------------------------------------------------------------------------------------ unpacking */

/* Tokens [first, first + count) of all heads of a layer into dst, [heads][count][dim] of `type`.
   The groups of the stream start at id `base`. */
static void pk_unpack_layer(const kf_reader *r, const pk_job *job, const kf_tensor *t, size_t base,
                            size_t layer, size_t first, size_t count, int type, void *dst)
{
    size_t most = pk_group_heads(t);
    size_t bytes = count * t->dim * lq_type_bytes(type);
    void **slices = (void **)kf_alloc(most, sizeof *slices);
    void *workspace = NULL;
    size_t workspace_bytes = 0;
    size_t head, i;
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = job->tables;
    const lq_profile *calibrated;
    if (job->profiles.count) {
        calibrated = &pk_calibrated(job, t == &job->kv[1], layer)->profile;
        d.calibrated = &calibrated;
        d.calibrated_count = 1;
    }
    lq_vectors_out out;
    out.slices = slices;
    out.token_stride = 0;
    out.type = type;
    for (head = 0; head < t->heads; head += most) {
        d.group = (uint32_t)(base + layer * pk_groups(t) + head / most);
        size_t room = lq_archive_unpack_workspace_bytes(&r->reader, d.group);
        if (room > workspace_bytes) {
            free(workspace);
            workspace = kf_alloc(room, 1);
            workspace_bytes = room;
        }
        for (i = 0; i < most && head + i < t->heads; i++) {
            slices[i] = (uint8_t *)dst + (head + i) * bytes;
        }
        const char *why;
        if (lq_archive_unpack_check(&r->reader, &d, &why)) {
            kf_fail("%s: group %u: %s", r->name, d.group, why);
        }
        int status =
            lq_archive_unpack(&r->reader, &d, &out, first, count, workspace, workspace_bytes);
        if (status) {
            kf_fail("%s: cannot unpack group %u (%s)", r->name, d.group, lq_status_string(status));
        }
    }
    free(slices);
    free(workspace);
}

/* Tokens [first, first + count) of groups of keys and values, of all layers. */
static void pk_unpack_joint(const kf_reader *r, const pk_job *job, size_t first, size_t count,
                            int type, void *const kv[2])
{
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = job->tables;
    for (size_t i = 0; i < job->profiles.count; i++) {
        void **rows = pk_joint_rows(job, &job->profiles.groups[i], type, count, kv);
        const lq_vectors_out out = {rows, 0, type};
        const lq_profile *known = &job->profiles.groups[i].profile;
        d.group = (uint32_t)i;
        d.calibrated = &known;
        d.calibrated_count = 1;
        size_t bytes = lq_archive_unpack_workspace_bytes(&r->reader, d.group);
        void *workspace = kf_alloc(bytes, 1);
        int status = lq_archive_unpack(&r->reader, &d, &out, first, count, workspace, bytes);
        if (status) {
            kf_fail("%s: cannot unpack group %u (%s)", r->name, d.group, lq_status_string(status));
        }
        free(workspace);
        free(rows);
    }
}

/* -------------------------------------------------------------------------- errors of attention */

/* One layer of a tensor as floats; NULL if there is none. */
static float *pk_layer(const kf_tensor *t, size_t layer)
{
    size_t n = t->data ? t->heads * t->tokens * t->dim : 0;
    float *x = (float *)kf_alloc(n, sizeof *x);
    if (n == 0 || lq_f32_from_type(x, (const uint8_t *)t->data + layer * n * lq_type_bytes(t->type),
                                   n, t->type)) {
        free(x);
        return NULL;
    }
    return x;
}

/* Attention weights of one query over tokens [0, end) of raw keys. */
static void pk_attention(float *p, const float *q, const float *k, size_t end, size_t dim)
{
    double scale = 1.0 / sqrt((double)dim);
    double most = -HUGE_VAL;
    double sum = 0.0;
    for (size_t s = 0; s < end; s++) {
        p[s] = (float)((double)kf_dot(q, k + s * dim, dim) * scale);
        most = (double)p[s] > most ? (double)p[s] : most;
    }
    for (size_t s = 0; s < end; s++) {
        double e = exp((double)p[s] - most);
        p[s] = (float)e;
        sum += e;
    }
    for (size_t s = 0; s < end; s++) {
        p[s] = (float)((double)p[s] / sum);
    }
}

/* Mean square of sum p delta; delta is v' - v of all heads of the layer. */
static double pk_output_error(const pk_job *job, const float *q, const float *k, const float *delta)
{
    const kf_tensor *t = &job->queries;
    const kf_tensor *v = &job->kv[1];
    size_t tokens = v->tokens;
    size_t dim = job->kv[0].dim;
    float *p = (float *)kf_alloc(tokens, sizeof *p);
    double *out = (double *)kf_alloc(v->dim, sizeof *out);
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
    const kf_tensor *q = &job->queries;
    const kf_tensor *t = &job->kv[stream];
    return q->data && t->data && q->heads % t->heads == 0;
}

/* Fills noise, power and error of a cell; y is what the codec made of the layer's x. Changes y. */
static void pk_judge(const pk_job *job, int stream, size_t layer, const float *x, float *y,
                     pk_cell *cell)
{
    const kf_tensor *t = &job->kv[stream];
    size_t count = t->heads * t->tokens * t->dim;
    cell->elements = (double)(t->heads * (t->tokens - job->sinks) * t->dim);
    cell->noise = 0.0;
    cell->power = job->energy[stream][layer];
    for (size_t i = 0; i < count; i++) {
        int raw = i / t->dim % t->tokens < job->sinks;
        y[i] = raw ? 0.0f : y[i] - x[i];
        cell->noise += (double)y[i] * (double)y[i];
    }
    cell->error = -1.0;
    if (pk_judged(job, stream)) {
        float *q = pk_layer(&job->queries, layer);
        float *k = stream ? pk_layer(&job->kv[0], layer) : NULL;
        cell->error =
            stream ? pk_output_error(job, q, k, y) : kf_logit_error(&job->queries, q, t, y);
        free(q);
        free(k);
    }
}

/* Bytes of each layer in an archive of one stream, without the numbers of the sinks: its pages and
   directory records, and an even share of the rest (header, footer, RoPE, padding). */
static void pk_layer_bytes(const pk_job *job, const kf_reader *r, int stream, uint64_t size,
                           pk_cell *cells, size_t stride)
{
    const kf_tensor *t = &job->kv[stream];
    double sinks = (double)(t->heads * job->sinks * t->dim * lq_type_bytes(t->type));
    double rest = (double)size;
    for (size_t layer = 0; layer < t->layers; layer++) {
        cells[layer * stride].bytes = 0.0;
    }
    for (uint32_t i = 0; i < r->reader.run_count; i++) {
        lq_archive_run_info info;
        lq_archive_profile_desc profile;
        int status = lq_archive_run(&r->reader, i, &info);
        memset(&profile, 0, sizeof profile);
        if (!status && info.desc.profile != LQ_ARCHIVE_NONE) {
            status = lq_archive_profile(&r->reader, info.desc.profile, &profile);
        }
        if (status) {
            kf_fail("%s: cannot account for run %u (%s)", t->name, i, lq_status_string(status));
        }
        double bytes = (double)info.bytes + (double)lq_archive_run_bytes(&info.desc);
        bytes += profile.bytes ? 12.0 + (double)profile.count : 0.0;
        cells[info.desc.group / pk_groups(t) * stride].bytes += bytes;
        rest -= bytes;
    }
    for (size_t layer = 0; layer < t->layers; layer++) {
        cells[layer * stride].bytes += rest / (double)t->layers - sinks;
    }
}

/* Ours: packs the stream as an archive of its own. cells[layer * stride] are filled. */
static void pk_measure_ours(pk_job *job, const pk_steps *steps, int stream, pk_cell *cells,
                            size_t stride)
{
    const kf_tensor *t = &job->kv[stream];
    float *y = (float *)kf_alloc(t->heads * t->tokens * t->dim, sizeof *y);
    kf_bytes bytes = {NULL, 0, 0};
    pk_must_pack(job, steps, 1 << stream, &bytes);
    kf_reader r;
    kf_open_bytes(&r, &bytes);
    pk_layer_bytes(job, &r, stream, bytes.count, cells, stride);
    for (size_t layer = 0; layer < t->layers; layer++) {
        float *x = pk_layer(t, layer);
        kf_progress(steps->name, layer, t->layers);
        pk_unpack_layer(&r, job, t, 0, layer, 0, t->tokens, LQ_F32, y);
        pk_judge(job, stream, layer, x, y, &cells[layer * stride]);
        free(x);
    }
    kf_progress(NULL, 0, 1);
    free(y);
    free(r.mem);
    free(bytes.at);
}

static void pk_measure_rival(const pk_job *job, const rv_codec *codec, int stream, pk_cell *cells,
                             size_t stride)
{
    const kf_tensor *t = &job->kv[stream];
    size_t size = t->tokens * t->dim;
    float *y = (float *)kf_alloc(t->heads * size, sizeof *y);
    size_t layer, h;
    for (layer = 0; layer < t->layers; layer++) {
        float *x = pk_layer(t, layer);
        kf_progress(codec->title, layer, t->layers);
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
    kf_progress(NULL, 0, 1);
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
    if (layer < layers) {
        printf("layer %.0f\n", (double)layer);
    } else {
        printf("all layers\n");
    }
    for (c = 0; c < codecs; c++) {
        printf("  %-16s", names[c]);
        for (int stream = 0; stream < 2; stream++) {
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
    pk_cell *cells = (pk_cell *)kf_alloc(codecs * layers * 2, sizeof *cells);
    for (size_t c = 0; c < codecs; c++) {
        size_t rival = c - job->ours_count;
        names[c] = c < job->ours_count ? job->ours[c].name : titles[rival];
        for (int stream = 0; stream < 2; stream++) {
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
    for (size_t c = 0; c <= layers; c++) {
        if (c < layers || layers > 1) {
            pk_print_rows(job, names, codecs, layers, c, cells);
        }
    }
    free(cells);
}

/* --------------------------------------------------------------------------------------- search */

static double pk_elements_of(const pk_job *job, int stream, size_t tokens)
{
    const kf_tensor *t = &job->kv[stream];
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
    kf_bytes bytes = {NULL, 0, 0};
    for (int i = 0; i < 2; i++) {
        sinks += pk_elements_of(job, i, job->sinks) * (double)lq_type_bytes(job->kv[i].type);
        elements += pk_elements_of(job, i, job->kv[i].tokens - job->sinks);
    }
    if (job->options.bits > 0.0) {
        target = job->options.bits * elements / 8.0 + sinks;
    }
    for (int i = 0; i < 40; i++) {
        pk_steps steps = job->ours[0];
        steps.of[0] *= exp2(log_scale);
        steps.of[1] *= exp2(log_scale);
        int status = pk_pack(job, &steps, 3, &bytes);
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
    kf_fail("%s: no step makes an archive of %.0f bytes (%g bits an element)",
            job->kv[job->kv[0].data ? 0 : 1].name, target, (target - sinks) * 8.0 / elements);
}

/* -------------------------------------------------------------------------- speed and verifying */

/* All of an archive's floats: [stream][layer] ... one behind the other. */
static void pk_decode_all(const pk_job *job, const kf_reader *r, int type, int streams,
                          uint8_t *dst)
{
    size_t base = 0;
    void *const kv[2] = {dst, dst + (size_t)pk_elements_of(job, 0, job->kv[0].tokens) *
                                        lq_type_bytes(type)};
    if (pk_joint(job)) {
        pk_unpack_joint(r, job, 0, job->kv[0].tokens, type, kv);
        return;
    }
    for (int stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->kv[stream];
        size_t bytes = t->heads * t->tokens * t->dim * lq_type_bytes(type);
        if (!t->data || !(streams >> stream & 1)) continue;
        for (size_t layer = 0; layer < t->layers; layer++, dst += bytes) {
            pk_unpack_layer(r, job, t, base, layer, 0, t->tokens, type, dst);
        }
        base += t->layers * pk_groups(t);
    }
}

/* A joint archive's bits and errors, of all layers. */
static void pk_joint_row(pk_job *job, const pk_steps *steps)
{
    kf_bytes bytes = {NULL, 0, 0};
    pk_cell sum[2];
    memset(sum, 0, sizeof sum);
    pk_must_pack(job, steps, 3, &bytes);
    kf_reader r;
    kf_open_bytes(&r, &bytes);
    size_t elements = (size_t)(pk_elements_of(job, 0, job->kv[0].tokens) +
                               pk_elements_of(job, 1, job->kv[1].tokens));
    float *all = (float *)kf_alloc(elements, sizeof *all);
    pk_decode_all(job, &r, LQ_F32, 3, (uint8_t *)(void *)all);
    float *y = all;
    double size = (double)bytes.count;
    for (int stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->kv[stream];
        size -= pk_elements_of(job, stream, job->sinks) * (double)lq_type_bytes(t->type);
        for (size_t layer = 0; layer < t->layers; layer++, y += t->heads * t->tokens * t->dim) {
            float *x = pk_layer(t, layer);
            pk_cell cell;
            pk_judge(job, stream, layer, x, y, &cell);
            free(x);
            sum[stream].elements += cell.elements;
            sum[stream].noise += cell.noise;
            sum[stream].power += cell.power;
            sum[stream].error += cell.error / (double)t->layers;
        }
    }
    printf("  %-16s   %10.0f %7.3f", steps->name, size,
           8.0 * size / (sum[0].elements + sum[1].elements));
    for (int stream = 0; stream < 2; stream++) {
        printf("   %9.2e", sum[stream].power > 0.0 ? sum[stream].noise / sum[stream].power : 0.0);
        if (sum[stream].error < 0.0) {
            printf(" %9s", "-");
        } else {
            printf(" %9.2e", sum[stream].error);
        }
    }
    printf("\n");
    free(all);
    free(r.mem);
    free(bytes.at);
}

/* Times packing and unpacking of one stream, or of both (bits of `streams`); the bytes of every run
   must be the same. */
static void pk_speed(pk_job *job, const pk_steps *steps, int streams)
{
    double elements = (streams & 1 ? pk_elements_of(job, 0, job->kv[0].tokens) : 0.0) +
                      (streams & 2 ? pk_elements_of(job, 1, job->kv[1].tokens) : 0.0);
    double pack[PK_RUNS];
    double unpack[PK_RUNS];
    uint8_t *dst = (uint8_t *)kf_alloc((size_t)elements, 2);
    kf_bytes bytes = {NULL, 0, 0};
    kf_reader r;
    int most = elements > 5e7 ? 3 : PK_RUNS;
    uint32_t hash = 0;
    for (int i = 0; i < most; i++) {
        double start = pk_now();
        pk_must_pack(job, steps, streams, &bytes);
        pack[i] = pk_now() - start;
        if (i && lq_xxh32(bytes.at, bytes.count, 0) != hash) {
            kf_fail("%s: packing twice gave different bytes", job->kv[streams == 2].name);
        }
        hash = lq_xxh32(bytes.at, bytes.count, 0);
        start = pk_now();
        kf_open_bytes(&r, &bytes);
        pk_decode_all(job, &r, LQ_F16, streams, dst);
        unpack[i] = pk_now() - start;
        free(r.mem);
    }
    qsort(pack, (size_t)most, sizeof pack[0], pk_compare);
    qsort(unpack, (size_t)most, sizeof unpack[0], pk_compare);
    printf("%s: compress %.0f MB/s, restore %.0f MB/s (of f16; thread CPU time, median of %d)\n",
           streams == 3 ? "K and V" : streams == 2 ? "V" : "K", elements * 2e-6 / pack[most / 2], elements * 2e-6 / unpack[most / 2],
           most);
    free(dst);
    free(bytes.at);
}

/* A read callback on a FILE. */
static int pk_read_at(void *user, uint64_t offset, void *dst, size_t count)
{
    FILE *file = (FILE *)user;
    if (offset > LONG_MAX || fseek(file, (long)offset, SEEK_SET) != 0) return -1;
    return fread(dst, 1, count, file) != count;
}

/* Token ranges of the file, each against the whole. */
static void pk_verify_ranges(const pk_job *job, const kf_reader *r, const uint8_t *whole)
{
    uint32_t seed = 1;
    size_t base = 0;
    size_t i, h;
    for (int stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->kv[stream];
        size_t row = t->dim * 4;
        if (!t->data) continue;
        uint8_t *part = (uint8_t *)kf_alloc(t->heads * t->tokens, row);
        for (i = 0; i < t->layers * PK_RANGES; i++) {
            size_t layer = i % t->layers;
            size_t first = (seed = seed * 1664525u + 1013904223u) % t->tokens;
            size_t count = 1 + (seed >> 8) % kf_min(t->tokens - first, 200);
            const uint8_t *at = whole + layer * t->heads * t->tokens * row;
            pk_unpack_layer(r, job, t, base, layer, first, count, LQ_F32, part);
            for (h = 0; h < t->heads; h++) {
                if (memcmp(part + h * count * row, at + (h * t->tokens + first) * row,
                           count * row)) {
                    kf_fail("%s: tokens %.0f to %.0f differ from the whole", r->name, (double)first,
                            (double)(first + count - 1));
                }
            }
        }
        free(part);
        base += t->layers * pk_groups(t);
        whole += t->layers * t->heads * t->tokens * row;
    }
}

/* The same of groups of keys and values. */
static void pk_verify_joint(const pk_job *job, const kf_reader *r, const uint8_t *whole)
{
    uint32_t seed = 1;
    const kf_tensor *kv = job->kv;
    size_t rows[2] = {kv[0].layers * kv[0].heads, kv[1].layers * kv[1].heads};
    for (size_t i = 0; i < PK_RANGES; i++) {
        size_t first = (seed = seed * 1664525u + 1013904223u) % kv[0].tokens;
        size_t count = 1 + (seed >> 8) % kf_min(kv[0].tokens - first, 200);
        const uint8_t *at = whole;
        void *part[2];
        for (int s = 0; s < 2; s++) {
            part[s] = kf_alloc(rows[s] * count, kv[s].dim * 4);
        }
        pk_unpack_joint(r, job, first, count, LQ_F32, part);
        for (int s = 0; s < 2; s++) {
            for (size_t h = 0; h < rows[s]; h++, at += kv[s].tokens * kv[s].dim * 4) {
                size_t bytes = count * kv[s].dim * 4;
                if (memcmp((uint8_t *)part[s] + h * bytes, at + first * kv[s].dim * 4, bytes)) {
                    kf_fail("%s: tokens %.0f to %.0f differ from the whole", r->name, (double)first,
                            (double)(first + count - 1));
                }
            }
            free(part[s]);
        }
    }
}

/* The layer that lost the largest part of its energy; *loss is that part. `decoded` are floats. */
static size_t pk_worst(const pk_job *job, int stream, const uint8_t *decoded, double *loss)
{
    const kf_tensor *t = &job->kv[stream];
    size_t count = t->heads * t->tokens * t->dim;
    size_t worst = 0;
    size_t layer, i;
    *loss = 0.0;
    for (layer = 0; layer < t->layers; layer++) {
        float *x = pk_layer(t, layer);
        float *y = (float *)kf_alloc(count, sizeof *y);
        memcpy(y, decoded + layer * count * sizeof *y, count * sizeof *y);
        pk_cell cell;
        memset(&cell, 0, sizeof cell);
        for (i = 0; i < count; i++) {
            double error = (double)y[i] - (double)x[i];
            cell.noise += i / t->dim % t->tokens < job->sinks ? 0.0 : error * error;
        }
        cell.power = job->energy[stream][layer];
        cell.error = cell.power > 0.0 ? cell.noise / cell.power : 0.0;
        if (cell.error > *loss) {
            *loss = cell.error;
            worst = layer;
        }
        free(x);
        free(y);
    }
    return worst;
}

/* Prints what the decoded numbers lost; an archive that is of no use goes. */
static void pk_verify_errors(const pk_job *job, const char *name, const uint8_t *decoded)
{
    printf("verified:");
    for (int stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->kv[stream];
        if (!t->data) continue;
        double loss;
        size_t layer = pk_worst(job, stream, decoded, &loss);
        if (!(loss <= PK_USELESS)) {
            (void)remove(name);
            kf_fail("%s: useless and removed: of layer %.0f of %s %.0f %% of the energy about the "
                    "mean is lost, take a smaller %s",
                    name, (double)layer, t->name, 100.0 * loss,
                    stream && !pk_joint(job) ? "--vstep" : "--step");
        }
        printf(" of %s at most %.2e (layer %.0f) of a layer's energy about its mean is lost;",
               stream ? "V" : "K", loss, (double)layer);
        decoded += (size_t)pk_elements_of(job, stream, t->tokens) * 4;
    }
    printf("\n  ");
}

/* The written file against the archive in memory: floats, ranges, and the bytes of plain C. */
static void pk_verify(pk_job *job, const pk_steps *steps, const kf_bytes *bytes, const char *name)
{
    size_t elements = (size_t)(pk_elements_of(job, 0, job->kv[0].tokens) +
                               pk_elements_of(job, 1, job->kv[1].tokens));
    uint8_t *ours = (uint8_t *)kf_alloc(elements, 4);
    uint8_t *theirs = (uint8_t *)kf_alloc(elements, 4);
    FILE *file = fopen(name, "rb");
    lq_archive_source source;
    kf_bytes again = {NULL, 0, 0};
    memset(&source, 0, sizeof source);
    source.size = bytes->count;
    source.bytes = bytes->at;
    kf_reader r;
    kf_open(&r, &source, name);
    pk_decode_all(job, &r, LQ_F32, 3, ours);
    free(r.mem);
    source.bytes = NULL;
    source.read_fn = pk_read_at;
    source.user = file;
    if (!file) kf_fail("%s: cannot open (%s)", name, strerror(errno));
    kf_open(&r, &source, name);
    pk_decode_all(job, &r, LQ_F32, 3, theirs);
    if (memcmp(ours, theirs, elements * 4)) {
        kf_fail("%s: the file decodes to other numbers than the archive in memory", name);
    }
    if (pk_joint(job)) {
        pk_verify_joint(job, &r, theirs);
    } else {
        pk_verify_ranges(job, &r, theirs);
    }
    free(r.mem);
    (void)fclose(file);
    pk_verify_errors(job, name, theirs);
    free(ours);
    free(theirs);
    int plain = elements <= (size_t)1 << 26 && !job->options.calibrate;
    (void)lq_cpu_limit(plain ? 0 : -1); /* plain C takes long, and sums of a fit are floats */
    pk_must_pack(job, steps, 3, &again);
    (void)lq_cpu_limit(-1);
    if (again.count != bytes->count || memcmp(again.at, bytes->at, bytes->count)) {
        kf_fail("%s: packing again gave different bytes", name);
    }
    free(again.at);
    printf("read again, any token range equals the whole, packing again%s gives the same "
           "bytes\n",
           plain ? " without SIMD" : "");
}

/* ------------------------------------------------------------------------------------- two jobs */

static void pk_rope(pk_job *job)
{
    if (!job->kv[0].data || !strcmp(job->options.rope, "none")) return;
    job->freqs = kf_rope(&job->rope, job->options.theta, job->kv[0].dim,
                         job->options.rope[0] == 'h' ? LQ_ROPE_HALF : LQ_ROPE_ADJACENT);
}

/* Units of the keys of every group, and the energy of every layer. */
static void pk_measure(pk_job *job)
{
    for (int stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->kv[stream];
        const lq_rope *rope = stream == 0 && job->freqs ? &job->rope : NULL;
        size_t most = t->data ? pk_group_heads(t) : 1;
        size_t layer, head;
        job->energy[stream] = (double *)kf_alloc(t->layers, sizeof(double));
        if (stream == 0 && t->data) {
            job->units = (double *)kf_alloc(t->layers * pk_groups(t), sizeof(double));
        }
        for (layer = 0; layer < t->layers; layer++) {
            for (head = 0; head < t->heads; head += most) {
                size_t count = kf_min(most, t->heads - head);
                job->energy[stream][layer] += kf_energy(t, layer, head, count, job->sinks, rope, 0);
                if (stream == 0) {
                    job->units[layer * pk_groups(t) + head / most] =
                        kf_unit(t, layer, head, count, job->sinks, rope, 0);
                }
            }
        }
    }
}

/* Steps. Ours by default are three. */
static void pk_choose_steps(pk_job *job)
{
    static const double k_steps[PK_OURS] = {0.64, 0.84, 1.4};
    static const double v_steps[PK_OURS] = {0.2, 0.325, 0.7};
    static const char *const names[PK_OURS] = {"ours, fine", "ours, middle", "ours, small"};
    const pk_options *o = &job->options;
    for (size_t i = 0; i < PK_OURS; i++) {
        job->ours[i].name = names[i];
        job->ours[i].of[0] = k_steps[i];
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
    if (o->bits > 0.0 || o->bytes > 0.0) pk_search(job);
}

static void pk_print_input(const pk_job *job)
{
    static const char *const what[3] = {"K", "V", "queries"};
    for (int i = 0; i < 3; i++) {
        const kf_tensor *t = i < 2 ? &job->kv[i] : &job->queries;
        if (t->data) {
            printf("%-8s %s: %.0f layers, %.0f heads, %.0f tokens, %.0f dims, %s\n", what[i],
                   t->name, (double)t->layers, (double)t->heads, (double)t->tokens, (double)t->dim,
                   t->title);
        }
    }
    if (job->freqs) {
        printf("RoPE undone before coding: theta %g, %s pairs. ", job->options.theta,
               job->rope.layout == LQ_ROPE_HALF ? "half-split" : "adjacent");
    }
    printf("First %.0f tokens raw, not counted below.\n", (double)job->sinks);
    if (job->profiles.count) {
        printf("Profiles: %s, %.0f bytes that are not counted below.\n", job->profiles.name,
               (double)job->profiles.bytes.count);
    }
    for (int i = 0; i < (int)job->ours_count; i++) {
        printf("%s%s: step %.3g", i ? "; " : "", job->ours[i].name, job->ours[i].of[0]);
        if (!pk_joint(job)) printf(" for K, %.3g for V", job->ours[i].of[1]);
    }
    printf(" (quantizer %s)\n", job->options.quantizer);
}

/* A query that is 0 has no weight. */
static void pk_pad_queries(pk_job *job)
{
    const kf_tensor *q = &job->queries;
    kf_tensor *all = &job->all_queries;
    size_t row = q->dim * lq_type_bytes(q->type);
    *all = *q;
    all->tokens = job->kv[0].tokens;
    all->data = kf_alloc(q->layers * q->heads * all->tokens, row);
    for (size_t i = 0; i < q->layers * q->heads; i++) {
        memcpy((uint8_t *)all->data + ((i + 1) * all->tokens - q->tokens) * row,
               (const uint8_t *)q->data + i * q->tokens * row, q->tokens * row);
    }
}

static void pk_run_pack(pk_job *job)
{
    const pk_options *o = &job->options;
    kf_bytes bytes = {NULL, 0, 0};
    double raw = 0.0;
    kf_probe(o->out);
    for (int i = 0; i < 3; i++) {
        if (o->files[i]) {
            kf_load(i < 2 ? &job->kv[i] : &job->queries, o->files[i]);
        }
    }
    kf_check_shapes(&job->kv[0], &job->kv[1], &job->queries, strcmp(o->rope, "none") != 0);
    job->sinks = (size_t)o->sinks;
    job->sinks = kf_min(job->sinks, job->kv[job->kv[0].data ? 0 : 1].tokens);
    pk_rope(job);
    job->tables = kf_tables(&job->tables_mem);
    if (o->profile) {
        kf_read_all(o->profile, &job->profiles.bytes);
        kf_profiles_load(&job->profiles, o->profile);
        pk_check_profiles(job, 1);
    }
    if (o->calibrate && job->queries.data) pk_pad_queries(job);
    if (o->model && !pk_joint(job)) {
        kf_fail("--model wants --profile with a file of calibrate --joint");
    }
    if (o->vstep > 0.0 && pk_joint(job)) {
        kf_fail("--vstep: keys and values have one step in %s", o->profile);
    }
    pk_measure(job);
    pk_choose_steps(job);
    pk_print_input(job);
    const pk_steps *steps = &job->ours[job->ours_count > 1];
    if (pk_joint(job)) {
        printf("%18s   %10s %7s   %9s %9s   %9s %9s\n", "", "bytes", "bits/el", "K: MSE", "logits",
               "V: MSE", "output");
        for (size_t i = 0; i < job->ours_count; i++) {
            pk_joint_row(job, &job->ours[i]);
        }
        pk_speed(job, steps, 3);
    } else {
        pk_table(job);
    }
    for (int i = 0; i < 2; i++) {
        raw += 2.0 * pk_elements_of(job, i, job->kv[i].tokens);
        if (job->kv[i].data && !pk_joint(job)) pk_speed(job, steps, 1 << i);
    }
    pk_must_pack(job, steps, 3, &bytes);
    kf_save(o->out, "", 0, bytes.at, bytes.count);
    printf("%s (%s): %.0f bytes with everything in it, %.2f times smaller than f16\n", o->out,
           steps->name, (double)bytes.count, raw / (double)bytes.count);
    pk_verify(job, steps, &bytes, o->out);
    free(bytes.at);
}

/* Whether group `id` of the archive is heads [head, ...) of a layer of this stream. */
static int pk_group_fits(const kf_reader *r, size_t id, int stream, const kf_tensor *t,
                         size_t layer, size_t head)
{
    size_t count = kf_min(pk_group_heads(t), t->heads - head);
    if (id >= r->reader.group_count) return 0;
    lq_slice *slices;
    slices = (lq_slice *)kf_alloc(count, sizeof *slices);
    lq_archive_group_desc d;
    uint64_t tokens;
    int fits = !lq_archive_group(&r->reader, (uint32_t)id, &d, slices, count) &&
               d.slice_count == count && d.stream == (stream ? LQ_V : LQ_K) &&
               !lq_archive_tokens(&r->reader, (uint32_t)id, 0, &tokens) && tokens == t->tokens;
    for (size_t i = 0; i < count && fits; i++) {
        fits = slices[i].layer == layer && slices[i].head == head + i && slices[i].first_dim == 0 &&
               slices[i].dims == t->dim;
    }
    free(slices);
    return fits;
}

/* The shapes in the archive, checked against its groups, if these are not joint; the version. */
static uint32_t pk_read_meta(pk_job *job, const kf_reader *r)
{
    const uint8_t *meta;
    size_t count;
    size_t group = 0;
    if (lq_archive_meta(&r->reader, PK_META, &meta, &count) || count != PK_META_BYTES ||
        pk_get32(meta) < 1 || pk_get32(meta) > 2) {
        kf_fail("%s: an archive, but not one of pack_kv", r->name);
    }
    for (int i = 0; i < 2; i++) {
        kf_tensor *t = &job->kv[i];
        const uint8_t *p = meta + 16 + 20 * i;
        size_t layer, head;
        int fits = 1;
        t->name = r->name;
        t->type = p[0] <= LQ_BF16 && p[1] < KF_AXES && !p[2] && !p[3] ? p[0] : -1;
        t->axes = p[1] < KF_AXES ? p[1] : 0;
        t->layers = pk_get32(p + 4);
        t->heads = pk_get32(p + 8);
        t->tokens = pk_get32(p + 12);
        t->dim = pk_get32(p + 16);
        if (t->type == 0) continue;
        (void)kf_elements(t);
        for (layer = 0; layer < t->layers && fits && pk_get32(meta) == 1; layer++) {
            for (head = 0; head < t->heads && fits; head += pk_group_heads(t)) {
                fits = pk_group_fits(r, group++, i, t, layer, head);
            }
        }
        if (!fits || t->type < 0) {
            kf_fail("%s: its shape record does not fit its groups", r->name);
        }
    }
    return pk_get32(meta);
}

/* Loads --profile; every profile that the archive names must be in it. */
static void pk_need_profiles(pk_job *job, const kf_reader *r)
{
    const char *name = job->options.profile;
    size_t g = 0;
    if (name) {
        kf_read_all(name, &job->profiles.bytes);
        kf_profiles_load(&job->profiles, name);
    }
    for (uint32_t i = 0; i < r->reader.profile_count; i++) {
        lq_archive_profile_desc d;
        if (lq_archive_profile(&r->reader, i, &d) || d.bytes) continue;
        if (!name) {
            kf_fail("%s: packed with calibrated profiles: --profile must name their file", r->name);
        }
        for (g = 0; g < job->profiles.count; g++) {
            if (!memcmp(d.hash, job->profiles.groups[g].profile.dense->hash, 16)) break;
        }
        if (g == job->profiles.count) {
            kf_fail("%s: packed with other profiles than those of %s", r->name, name);
        }
    }
    if (name) pk_check_profiles(job, 0);
}

/* Whether the groups of an archive are those of the joint profiles. */
static void pk_check_archive(const pk_job *job, const kf_reader *r)
{
    int fits = r->reader.group_count == job->profiles.count && job->kv[0].type && job->kv[1].type &&
               job->kv[0].tokens == job->kv[1].tokens && job->kv[0].layers == job->kv[1].layers;
    for (size_t i = 0; i < job->profiles.count && fits; i++) {
        const kf_group *g = &job->profiles.groups[i];
        lq_slice *slices = (lq_slice *)kf_alloc(g->desc.slice_count, sizeof *slices);
        lq_archive_group_desc d;
        uint64_t tokens;
        fits = !lq_archive_group(&r->reader, (uint32_t)i, &d, slices, g->desc.slice_count) &&
               d.slice_count == g->desc.slice_count && d.stream == LQ_KV &&
               !lq_archive_tokens(&r->reader, (uint32_t)i, 0, &tokens) &&
               tokens == job->kv[0].tokens &&
               !memcmp(slices, g->slices, d.slice_count * sizeof *slices);
        free(slices);
    }
    if (!fits) kf_fail("%s: its shape record does not fit its groups", r->name);
}

static void pk_run_unpack(pk_job *job)
{
    const pk_options *o = &job->options;
    kf_bytes bytes = {NULL, 0, 0};
    size_t base = 0;
    kf_read_all(o->unpack, &bytes);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = bytes.at;
    source.size = bytes.count;
    kf_reader r;
    kf_open(&r, &source, o->unpack);
    int joint = pk_read_meta(job, &r) == 2;
    pk_need_profiles(job, &r);
    job->tables = kf_tables(&job->tables_mem);
    void *kv[2] = {NULL, NULL};
    if (joint != pk_joint(job)) {
        kf_fail("%s: packed with other profiles than those of %s", o->unpack,
                o->profile ? o->profile : "no --profile");
    }
    if (joint) {
        pk_check_archive(job, &r);
        for (int i = 0; i < 2; i++) {
            kv[i] = kf_alloc(kf_elements(&job->kv[i]), lq_type_bytes(job->kv[i].type));
        }
        pk_unpack_joint(&r, job, 0, job->kv[0].tokens, job->kv[0].type, kv);
    }
    for (int i = 0; i < 2; i++) {
        kf_tensor *t = &job->kv[i];
        size_t layer_bytes = t->heads * t->tokens * t->dim * lq_type_bytes(t->type);
        if (o->files[i] && !t->type) {
            kf_fail("%s: holds no %s", o->unpack, i ? "V" : "K");
        }
        if (!t->type) continue;
        if (joint) {
            t->data = kv[i];
            continue;
        }
        t->data = o->files[i] ? kf_alloc(t->layers, layer_bytes) : NULL;
        for (size_t layer = 0; layer < t->layers && t->data; layer++) {
            kf_progress("unpacking", layer, t->layers);
            pk_unpack_layer(&r, job, t, base, layer, 0, t->tokens, t->type,
                            (uint8_t *)t->data + layer * layer_bytes);
        }
        base += t->layers * pk_groups(t);
    }
    kf_progress(NULL, 0, 1);
    for (int i = 0; i < 2; i++) {
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
    "       pack_kv --unpack ARCHIVE [--k OUT.npy] [--v OUT.npy] [--profile MODEL.lqp]\n"
    "                                                             restore, in type and axes it "
    "came in\n"
    "\n"
    "FILEs are .npy, [layers][heads][tokens][dim]; keys after RoPE, positions from 0; queries are\n"
    "those of the last tokens. One layer may lack its axis; a batch axis of 1 may stand in front\n"
    "of the layers or behind them. f16, bf16 (dtype V2, as ml_dtypes has it, or bfloat16), f32 or\n"
    "f64 (taken as f32), little- or big-endian, C or Fortran order. --unpack restores type and\n"
    "axes, little-endian and in C order. Without FILEs: the sample in tests/data.\n"
    "\n"
    "  --out FILE        the archive (default kv.lq)\n"
    "  --step S          step of K, relative to the deviation of a group's keys from their mean,\n"
    "                    RoPE undone (default 0.84)\n"
    "  --vstep S         step of V, relative to that of each vector (default 0.325)\n"
    "  --bits B          or: search the steps for B bits an element, sinks not counted\n"
    "  --bytes N         or: search the steps for a file of N bytes\n"
    "  --theta T         RoPE's base (default 100000)\n"
    "  --rope KIND       half, adjacent or none (default half)\n"
    "  --sinks N         first tokens that stay raw (default 4)\n"
    "  --quantizer Q     z, d4, e8, e8r; t8, t64: trellises (default z)\n"
    "  --profile FILE    profiles of the model (calibrate --group layer, or --joint: then --step is\n"
    "                    of both)\n"
    "  --model NAME      joint profiles must be of calibrate --model NAME\n"
    "  --calibrate       or: fit a basis to this very sequence, stored where that pays\n";

static const char *pk_choice(const char *option, const char *text, const char *a, const char *b,
                             const char *c)
{
    if (strcmp(text, a) != 0 && strcmp(text, b) != 0 && strcmp(text, c) != 0) {
        kf_fail("%s wants %s, %s or %s, not '%s'", option, a, b, c, text);
    }
    return text;
}

static void pk_option(pk_options *o, const char *name, const char *value)
{
    static const char *const files[7] = {"--k",      "--v",       "--q",    "--out",
                                         "--unpack", "--profile", "--model"};
    if (strncmp(name, "--", 2) != 0) {
        kf_fail("unknown option '%s' (--help lists them)", name);
    }
    if (!value) kf_fail("%s wants a value (--help lists the options)", name);
    const char **slots[7];
    slots[3] = &o->out;
    slots[4] = &o->unpack;
    slots[5] = &o->profile;
    slots[6] = &o->model;
    for (int i = 0; i < 7; i++) {
        slots[i] = i < 3 ? &o->files[i] : slots[i];
        if (!strcmp(name, files[i])) {
            *slots[i] = value;
            return;
        }
    }
    if (!strcmp(name, "--step")) {
        o->step = kf_number(name, value, 1e-9, 1e9, 0);
    } else if (!strcmp(name, "--vstep")) {
        o->vstep = kf_number(name, value, 1e-9, 1e9, 0);
    } else if (!strcmp(name, "--bits")) {
        o->bits = kf_number(name, value, 0.01, 32, 0);
    } else if (!strcmp(name, "--bytes")) {
        o->bytes = kf_number(name, value, 1, 1e15, 1);
    } else if (!strcmp(name, "--theta")) {
        o->theta = kf_number(name, value, 1, 1e12, 0);
    } else if (!strcmp(name, "--sinks")) {
        o->sinks = kf_number(name, value, 0, 1e9, 1);
    } else if (!strcmp(name, "--rope")) {
        o->rope = pk_choice(name, value, "half", "adjacent", "none");
    } else if (!strcmp(name, "--quantizer")) {
        if (!quantizer_named(value, strlen(value))) {
            kf_fail("%s wants z, d4, e8, e8r, t8 or t64, not '%s'", name, value);
        }
        o->quantizer = value;
    } else {
        kf_fail("unknown option '%s' (--help lists them)", name);
    }
}

/* What the options say together. */
static void pk_settle(pk_options *o)
{
    int ways = (o->step > 0.0 || o->vstep > 0.0) + (o->bits > 0.0) + (o->bytes > 0.0);
    if (ways > 1) kf_fail("give one of --step, --bits and --bytes");
    if (o->profile && o->calibrate) {
        kf_fail("give one of --profile and --calibrate");
    }
    if (o->unpack) {
        if ((!o->files[0] && !o->files[1]) || o->files[2] || o->out || ways || o->calibrate ||
            o->model) {
            kf_fail("--unpack wants --k OUT.npy or --v OUT.npy or both, and nothing else but "
                    "--profile");
        }
    } else if (!o->files[0] && !o->files[1] && !o->files[2]) {
        kf_sample(o->files);
    } else if (o->files[2] && !o->files[0]) {
        kf_fail("--q needs --k: queries without keys say nothing");
    }
    o->out = o->out ? o->out : "kv.lq";
    for (int i = 0; i < 3; i++) {
        const char *other = o->unpack ? o->unpack : o->out;
        if (o->profile &&
            (!strcmp(o->profile, other) || (o->files[i] && !strcmp(o->profile, o->files[i])))) {
            kf_fail("%s: named twice", o->profile);
        }
        if (o->files[i] && (!strcmp(o->files[i], other) ||
                            (i > 0 && o->files[i - 1] && !strcmp(o->files[i], o->files[i - 1])))) {
            kf_fail("%s: named twice", o->files[i]);
        }
    }
}

int main(int argc, char **argv)
{
    pk_job job;
    memset(&job, 0, sizeof job);
    job.options.rope = "half";
    job.options.quantizer = "z";
    job.options.theta = 1e5;
    job.options.sinks = 4.0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            (void)fputs(pk_usage, stdout);
            return kf_finish();
        }
        if (!strcmp(argv[i], "--calibrate")) {
            job.options.calibrate = 1;
        } else {
            pk_option(&job.options, argv[i], i + 1 < argc ? argv[i + 1] : NULL);
            i++;
        }
    }
    pk_settle(&job.options);
    job.quantizer = quantizer_named(job.options.quantizer, strlen(job.options.quantizer));
    if (job.options.unpack) {
        pk_run_unpack(&job);
    } else {
        pk_run_pack(&job);
    }
    for (int i = 0; i < 2; i++) {
        free(job.kv[i].data);
    }
    free(job.queries.data);
    free(job.all_queries.data);
    free(job.units);
    free(job.energy[0]);
    free(job.energy[1]);
    kf_profiles_free(&job.profiles);
    free(job.freqs);
    free(job.tables_mem);
    return kf_finish();
}
