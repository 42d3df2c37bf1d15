/* cc -O2 examples/calibrate.c -o calibrate -lm */

/* calibrate.c - profiles of a model, fitted once to .npy dumps of its KV cache

       ./calibrate                                             the sample in tests/data
       ./calibrate --k k.npy --v v.npy --q q.npy --out model.lqp
       ./calibrate --joint --group 10 --step 0.5 --k ... --out model.lqp
       ./calibrate --show model.lqp

   --help tells which types, orders and shapes of .npy it takes.

   A profile is a Karhunen-Loeve basis of a group of heads, with the deviations of its coefficients;
   that of K is made in the metric of the queries. With --joint keys and values of a group of layers
   share one: the fewest bits. The file is an archive without runs: how K was
   rotated, then of each group its slices and its profile. pack_kv --profile and lm read it.

   The sample's profiles are fitted to 512 of its tokens and judged on the 252 behind them, beside
   the form that needs no calibration, means and deviations of the channels as they are. Steps of K
   are relative in both: to the root mean square of what the mean of each channel leaves of a
   group's keys, RoPE undone. Bits are whole archives, in which a profile of the model is a hash:
   its bytes stand apart. */
#define KF_PROGRAM "calibrate"
#define KF_NO_ROPE "--no-rope"
#include "kv_files.h"

enum { CAL_SETS = 256, CAL_FITTED = 512 };

/* K, V and queries of one text, and the position of the first token of each. */
typedef struct cal_set {
    kf_tensor of[3];
    size_t first[3];
} cal_set;

/* A row of a tensor is a head of a layer. A group is slice_count rows of K or V from `first` on, or
   with --joint those of the layers from `first` on: of each its rows of K, then of V. */
typedef struct cal_group {
    lq_geometry geometry;
    size_t first;
    lq_klt klt;
    uint8_t *profile;
    size_t profile_bytes;
    lq_klt_report report;
} cal_group;

typedef struct cal_job {
    const char *files[3][CAL_SETS];
    size_t count[3];
    const char *out;
    const char *show;
    double theta; /* 0: no RoPE */
    int layout;
    size_t group_layers; /* 0: groups are single heads */
    int joint;
    double step;
    double beta;
    double ratio;     /* 0: the library's default, */
    double tolerance; /* as here */
    const char *model;
    size_t sinks;
    kf_tensor shape[3]; /* of the first set, without data */
    uint32_t *dims[2];  /* of each row of K and V; joint: [0] of each slice of a group */
    lq_role *roles;     /* joint */
    lq_rope rope;
    float *freqs;
    cal_group *groups; /* K's, then V's */
    size_t group_count;
    void *workspace;
    size_t workspace_bytes;
} cal_job;

/* ---------------------------------------------------------------------------------------- input */

static void cal_load(cal_job *job, size_t index, cal_set *set)
{
    memset(set, 0, sizeof *set);
    for (int i = 0; i < 3; i++) {
        kf_tensor *t = &set->of[i];
        kf_tensor *shape = &job->shape[i];
        if (!job->count[i]) continue;
        kf_load(t, job->files[i][index]);
        if (index == 0) {
            *shape = *t;
            shape->data = NULL;
        }
        if (t->layers != shape->layers || t->heads != shape->heads || t->dim != shape->dim) {
            kf_fail("%s: wrong shape, layers, heads or dim are not those of %s", t->name,
                    shape->name);
        }
    }
    kf_check_shapes(&set->of[0], &set->of[1], &set->of[2], job->theta > 0.0);
    set->first[2] = set->of[0].tokens - set->of[2].tokens;
}

static void cal_free(cal_set *set)
{
    for (int i = 0; i < 3; i++) {
        free(set->of[i].data);
    }
}

/* Where the rows of t begin, the first `skip` tokens left out. To be freed. */
static void **cal_rows(const kf_tensor *t, size_t skip)
{
    size_t size = t->dim * lq_type_bytes(t->type);
    void **rows = (void **)kf_alloc(t->layers * t->heads, sizeof *rows);
    for (size_t i = 0; i < t->layers * t->heads; i++) {
        rows[i] = (uint8_t *)t->data + (i * t->tokens + skip) * size;
    }
    return rows;
}

/* Tokens [first, first + count) as floats. */
static kf_tensor cal_cut(const kf_tensor *src, size_t first, size_t count)
{
    kf_tensor t = *src;
    void **rows = cal_rows(src, first);
    t.tokens = count;
    t.type = LQ_F32;
    t.data = kf_alloc(t.layers * t.heads * count, t.dim * sizeof(float));
    for (size_t i = 0; i < t.layers * t.heads; i++) {
        if (lq_f32_from_type((float *)t.data + i * count * t.dim, rows[i], count * t.dim,
                             src->type)) {
            kf_fail("%s: cannot be read", src->name);
        }
    }
    free(rows);
    return t;
}

/* --------------------------------------------------------------------------------------- groups */

/* Which row slice i of a group is, of K or, *value, of V. */
static size_t cal_row(const cal_job *job, const cal_group *g, size_t i, int *value)
{
    size_t keys = job->shape[0].heads;
    size_t both = keys + job->shape[1].heads;
    *value = g->geometry.stream == LQ_V;
    if (g->geometry.stream != LQ_KV) return g->first + i;
    *value = i % both >= keys;
    return *value ? (g->first + i / both) * job->shape[1].heads + i % both - keys
                  : (g->first + i / both) * keys + i % both;
}

/* Where a group's slices are, from the rows of K and V. To be freed. */
static const void **cal_slices(const cal_job *job, const cal_group *g, void **const rows[2])
{
    const void **slices = (const void **)kf_alloc(g->geometry.slice_count, sizeof *slices);
    for (size_t i = 0; i < g->geometry.slice_count; i++) {
        int value;
        size_t row = cal_row(job, g, i, &value);
        slices[i] = rows[value][row];
    }
    return slices;
}

/* stream: K 0, V 1; of joint groups 0. */
static void cal_open_group(cal_job *job, cal_group *g, int stream, size_t first, size_t count)
{
    size_t dims = 0;
    for (size_t i = 0; i < count; i++) {
        dims += job->dims[stream][i];
    }
    if (count > LQ_ARCHIVE_MAX_SLICES || dims > LQ_ARCHIVE_MAX_DIMS) {
        kf_fail("--group: %.0f heads with %.0f dims are too many for one group", (double)count,
                (double)dims);
    }
    g->first = first;
    g->geometry.stream = job->joint ? LQ_KV : stream ? LQ_V : LQ_K;
    g->geometry.slice_count = (uint32_t)count;
    g->geometry.slice_dims = job->dims[stream];
    g->geometry.roles = job->roles;
    g->geometry.rope = stream || job->joint || !job->freqs ? NULL : &job->rope;
    const char *why;
    if (lq_geometry_check(&g->geometry, &why)) {
        kf_fail("%s: %s", job->shape[stream].name, why);
    }
    size_t bytes = lq_klt_bytes(&g->geometry);
    void *sums = kf_alloc(bytes, 1);
    if (lq_klt_init(&g->klt, sums, bytes, &g->geometry)) {
        kf_fail("%s: its groups cannot be fitted", job->shape[stream].name);
    }
    bytes = lq_klt_profile_workspace_bytes(&g->klt) + lq_klt_workspace_bytes(&g->geometry);
    job->workspace_bytes = bytes > job->workspace_bytes ? bytes : job->workspace_bytes;
}

/* Groups of keys and values: what the slices of the widest one are, with a gain a layer. */
static void cal_open_joint(cal_job *job)
{
    const kf_tensor *k = &job->shape[0];
    const kf_tensor *v = &job->shape[1];
    size_t both = k->heads + v->heads;
    size_t layers = kf_min(job->group_layers, k->layers);
    job->dims[0] = (uint32_t *)kf_alloc(layers * both, sizeof *job->dims[0]);
    job->roles = (lq_role *)kf_alloc(layers * both, sizeof *job->roles);
    for (size_t i = 0; i < layers * both; i++) {
        int value = i % both >= k->heads;
        job->dims[0][i] = (uint32_t)(value ? v->dim : k->dim);
        job->roles[i].stream = value ? LQ_V : LQ_K;
        job->roles[i].gain = value ? (uint32_t)(i / both) : 0;
        job->roles[i].rope = value || !job->freqs ? NULL : &job->rope;
    }
    job->groups = (cal_group *)kf_alloc(k->layers, sizeof *job->groups);
    for (size_t l = 0; l < k->layers; l += layers) {
        cal_open_group(job, &job->groups[job->group_count++], 0, l,
                       kf_min(layers, k->layers - l) * both);
    }
}

/* Groups of keys, then of values. */
static void cal_open_apart(cal_job *job)
{
    size_t rows[2], i;
    for (int stream = 0; stream < 2; stream++) {
        const kf_tensor *t = &job->shape[stream];
        rows[stream] = t->layers * t->heads;
        job->dims[stream] = (uint32_t *)kf_alloc(rows[stream], sizeof *job->dims[stream]);
        for (i = 0; i < rows[stream]; i++) {
            job->dims[stream][i] = (uint32_t)t->dim;
        }
    }
    job->groups = (cal_group *)kf_alloc(rows[0] + rows[1], sizeof *job->groups);
    for (int stream = 0; stream < 2; stream++) {
        size_t most = job->group_layers ? job->group_layers * job->shape[stream].heads : 1;
        for (i = 0; i < rows[stream]; i += most) {
            cal_open_group(job, &job->groups[job->group_count++], stream, i,
                           kf_min(most, rows[stream] - i));
        }
    }
}

static void cal_open(cal_job *job)
{
    if (job->shape[0].heads && job->theta > 0.0) {
        job->freqs = kf_rope(&job->rope, job->theta, job->shape[0].dim, job->layout);
    }
    if (job->joint) {
        cal_open_joint(job);
    } else {
        cal_open_apart(job);
    }
    job->workspace = kf_alloc(job->workspace_bytes, 1);
}

/* -------------------------------------------------------------------------------------- fitting */

/* The queries of a group: of its rows of K, each of which `readers` of them read. */
static int cal_add_queries(cal_job *job, cal_group *g, void **rows, const kf_tensor *t,
                           const lq_positions *at, size_t tokens)
{
    size_t readers = t->heads / job->shape[0].heads;
    size_t count = 0, i, r;
    size_t most = g->geometry.slice_count * readers;
    uint32_t *reads = (uint32_t *)kf_alloc(most, sizeof *reads);
    const void **slices = (const void **)kf_alloc(most, sizeof *slices);
    for (i = 0; i < g->geometry.slice_count; i++) {
        int value;
        size_t row = cal_row(job, g, i, &value);
        for (r = 0; r < readers && !value; r++, count++) {
            reads[count] = (uint32_t)i;
            slices[count] = rows[row * readers + r];
        }
    }
    const lq_vectors src = {slices, 0, t->type};
    int status = lq_klt_add_queries(&g->klt, &src, reads, count, at, tokens, job->workspace,
                                    job->workspace_bytes);
    free(slices);
    free(reads);
    return status;
}

/* K, V or queries (which; joint: 0 is K and V) of a set into the sums of the groups that they
   concern. */
static void cal_add(cal_job *job, const cal_set *set, int which)
{
    const kf_tensor *t = &set->of[which];
    size_t skip = job->sinks > set->first[which] ? job->sinks - set->first[which] : 0;
    void **rows = cal_rows(t, skip);
    void **values = job->joint && which == 0 ? cal_rows(&set->of[1], skip) : NULL;
    void **const both[2] = {rows, values ? values : rows};
    for (size_t i = 0; i < job->group_count && skip < t->tokens; i++) {
        cal_group *g = &job->groups[i];
        lq_positions at = {0, 1, NULL};
        int status;
        if (!job->joint && (g->geometry.stream == LQ_V) != (which == 1)) continue;
        kf_progress("adding", i, job->group_count);
        at.first = (int64_t)(set->first[which] + skip);
        if (which == 2) {
            status = cal_add_queries(job, g, rows, t, &at, t->tokens - skip);
        } else {
            const void **slices = cal_slices(job, g, both);
            const lq_vectors src = {slices, 0, t->type};
            status = lq_klt_add(&g->klt, &src, &at, t->tokens - skip, job->workspace,
                                job->workspace_bytes);
            free(slices);
        }
        if (status) {
            kf_fail("%s: cannot be fitted (%s)", t->name, lq_status_string(status));
        }
    }
    kf_progress(NULL, 0, 1);
    free(values);
    free(rows);
}

/* Numbers of different types become floats where one group holds both. */
static void cal_add_set(cal_job *job, const cal_set *set)
{
    cal_set all = *set;
    int mixed = job->joint && set->of[0].type != set->of[1].type;
    for (int i = 0; i < 2 && mixed; i++) {
        all.of[i] = cal_cut(&set->of[i], 0, set->of[i].tokens);
    }
    for (int i = 0; i < 3; i++) {
        if (set->of[i].data && !(job->joint && i == 1)) cal_add(job, &all, i);
    }
    for (int i = 0; i < 2 && mixed; i++) {
        free(all.of[i].data);
    }
}

/* One unit for the keys of all groups: their root mean square, means taken away. */
static float cal_key_unit(const cal_job *job)
{
    const lq_klt **klts = (const lq_klt **)kf_alloc(job->group_count, sizeof *klts);
    for (size_t i = 0; i < job->group_count; i++) {
        klts[i] = &job->groups[i].klt;
    }
    float unit = lq_klt_unit_of(klts, job->group_count);
    free(klts);
    return unit;
}

static void cal_solve(cal_job *job)
{
    lq_klt_desc d;
    memset(&d, 0, sizeof d);
    d.step = (float)job->step;
    d.beta = job->beta > 0.0 ? (float)job->beta : -1.0f;
    d.unit = cal_key_unit(job);
    d.ratio = (float)job->ratio;
    d.tolerance = (float)job->tolerance;
    d.model = job->model ? kf_model(job->model) : 0;
    const char *why;
    if (lq_klt_check(&d, &why)) kf_fail("%s", why);
    for (size_t i = 0; i < job->group_count; i++) {
        cal_group *g = &job->groups[i];
        size_t bound = lq_klt_profile_bound(&g->klt);
        uint8_t *profile = (uint8_t *)kf_alloc(bound, 1);
        kf_progress("solving", i, job->group_count);
        if (g->klt.tokens < 64) {
            kf_fail("%.0f tokens behind the sinks are too few to fit to",
                    (double)(g->klt.tokens + g->klt.held_out));
        }
        int status = lq_klt_profile(&g->klt, profile, bound, &g->profile_bytes, &d, &g->report,
                                    job->workspace, job->workspace_bytes);
        if (status) {
            kf_fail("%s: no profile comes out (%s)", job->shape[g->geometry.stream == LQ_V].name,
                    lq_status_string(status));
        }
        if (job->joint && g->report.basis_bits >= g->report.channel_bits) {
            (void)fprintf(stderr,
                          KF_PROGRAM ": layers %.0f ..: on held-out tokens no basis is better than "
                                     "plain channels: more tokens than %.0f for %.0f dims\n",
                          (double)g->first, (double)g->klt.tokens,
                          (double)lq_geometry_dims(&g->geometry));
        }
        g->profile = (uint8_t *)kf_alloc(g->profile_bytes, 1);
        memcpy(g->profile, profile, g->profile_bytes);
        free(profile);
    }
    kf_progress(NULL, 0, 1);
}

static void cal_print_fit(const cal_job *job, size_t bytes)
{
    for (int stream = 0; stream < 2; stream++) {
        double n = 0.0, rank = 0.0, bits = 0.0, channels = 0.0;
        for (size_t i = 0; i < job->group_count; i++) {
            const cal_group *g = &job->groups[i];
            if ((g->geometry.stream == LQ_V) == stream) {
                n += 1.0;
                rank += (double)g->report.rank;
                bits += (double)g->report.basis_bits;
                channels += (double)g->report.channel_bits;
            }
        }
        if (n > 0.0) {
            printf("%s: groups %.0f, mean rank %.1f; on held-out tokens at step %g expected bits "
                   "an element %.3f, of plain channels %.3f\n",
                   job->joint ? "K and V" : stream ? "V" : "K", n, rank / n, job->step, bits / n,
                   channels / n);
        }
    }
    printf("%.0f bytes of profiles from %.0f tokens\n", (double)bytes,
           (double)(job->groups[0].klt.tokens + job->groups[0].klt.held_out));
}

/* ------------------------------------------------------------------------------------- archives */

/* Tokens from position `first` on, floats, through an archive of all groups of a stream.
     profiles  NULL: without calibration
     t         of K and V, or of both in joint groups */
typedef struct cal_trial {
    const lq_tables *tables;
    const kf_profiles *profiles;
    const kf_tensor *t[2];
    size_t first;
    uint32_t stream;
    double step;
} cal_trial;

/* The unit of a group's keys in a trial; groups of several layers are consecutive rows too. */
static double cal_unit(const cal_group *g, const cal_trial *c)
{
    kf_tensor rows = *c->t[0];
    rows.heads *= rows.layers;
    rows.layers = 1;
    return kf_unit(&rows, 0, g->first, g->geometry.slice_count, 0, g->geometry.rope,
                   (int64_t)c->first);
}

/* The tokens of a trial into group `id`; `profile` NULL: what is fitted to them. */
static int cal_pack(lq_archive_writer *w, const cal_job *job, const cal_trial *c,
                    const cal_group *g, uint32_t id, const lq_profile *profile)
{
    void **const rows[2] = {cal_rows(c->t[0], 0), cal_rows(c->t[1], 0)};
    const void **slices = cal_slices(job, g, rows);
    const lq_vectors src = {slices, 0, LQ_F32};
    lq_positions at = {0, 1, NULL};
    lq_archive_profile_desc name = {NULL, 0, NULL};
    lq_archive_pack_desc d;
    int status = LQ_OK;
    memset(&d, 0, sizeof d);
    d.tables = c->tables;
    d.geometry = g->geometry;
    d.group = id;
    d.first_token = c->first;
    d.profile = profile;
    d.step = (float)(profile || c->stream == LQ_V ? c->step : c->step * cal_unit(g, c));
    d.model = profile && job->model ? kf_model(job->model) : 0;
    if (profile) {
        name.hash = profile->dense->hash;
        status = lq_archive_add_profile(w, &name, &d.profile_id);
    }
    const char *why;
    if (!status && lq_archive_pack_check(w, &d, &why)) {
        kf_fail("%s: %s", c->t[0]->name, why);
    }
    at.first = (int64_t)c->first;
    void *workspace = kf_alloc(lq_archive_pack_workspace_bytes(&d), 1);
    if (!status) {
        status = lq_archive_pack(w, &d, &src, &at, c->t[0]->tokens, workspace,
                                 lq_archive_pack_workspace_bytes(&d));
    }
    free(workspace);
    free(slices);
    free(rows[0]);
    free(rows[1]);
    return status;
}

/* A group, and behind it its profile or the tokens of a trial. */
static int cal_write_group(lq_archive_writer *w, const cal_job *job, size_t index, uint32_t rope,
                           const cal_trial *c)
{
    const cal_group *g = &job->groups[index];
    lq_archive_profile_desc profile = {NULL, 0, NULL};
    lq_archive_group_desc d;
    lq_slice *slices = (lq_slice *)kf_alloc(g->geometry.slice_count, sizeof *slices);
    memset(&d, 0, sizeof d);
    for (size_t i = 0; i < g->geometry.slice_count; i++) {
        int value;
        size_t row = cal_row(job, g, i, &value);
        slices[i].layer = (uint32_t)(row / job->shape[value].heads);
        slices[i].head = (uint32_t)(row % job->shape[value].heads);
        slices[i].dims = g->geometry.slice_dims[i];
        slices[i].stream = !job->joint ? 0 : value ? LQ_V : LQ_K;
    }
    d.stream = g->geometry.stream;
    d.rope = g->geometry.stream != LQ_V ? rope : LQ_ARCHIVE_NONE;
    d.slices = slices;
    d.slice_count = g->geometry.slice_count;
    uint32_t id;
    int status = lq_archive_add_group(w, &d, &id);
    free(slices);
    if (status || c) {
        return status ? status
                      : cal_pack(w, job, c, g, id,
                                 c->profiles ? &c->profiles->groups[index].profile : NULL);
    }
    profile.bytes = g->profile;
    profile.count = g->profile_bytes;
    return lq_archive_add_profile(w, &profile, NULL);
}

/* The file of the profiles, or what a trial makes. */
static void cal_write(const cal_job *job, const cal_trial *c, kf_bytes *dst)
{
    lq_archive_writer_desc d;
    uint32_t rope = LQ_ARCHIVE_NONE;
    memset(&d, 0, sizeof d);
    d.write_fn = kf_collect;
    d.user = dst;
    d.directory_bytes = 16 + 2 * (size_t)job->rope.rotary_dims;
    for (size_t i = 0; i < job->group_count; i++) {
        d.directory_bytes += 65536 + 12 * (size_t)job->groups[i].geometry.slice_count;
        d.directory_bytes += job->groups[i].profile_bytes;
    }
    d.directory = kf_alloc(d.directory_bytes, 1);
    lq_archive_writer w;
    int status = lq_archive_writer_init(&w, &d);
    if (!status && job->freqs && !(c && c->stream == LQ_V)) {
        status = lq_archive_add_rope(&w, &job->rope, &rope);
    }
    for (size_t i = 0; i < job->group_count && !status; i++) {
        if (!c || job->groups[i].geometry.stream == c->stream) {
            status = cal_write_group(&w, job, i, rope, c);
        }
    }
    if (!status) status = lq_archive_finish(&w);
    free(d.directory);
    if (status) {
        kf_fail("%s: cannot be written (%s)", c ? c->t[0]->name : "profiles",
                lq_status_string(status));
    }
}

/* --------------------------------------------------------------------------- judging the sample */

/* What comes back from the archive of a trial, less what went in, of c->t[..] into y[..]. */
static void cal_delta(const cal_job *job, const cal_trial *c, const kf_bytes *archive,
                      kf_tensor y[2])
{
    void **rows[2];
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    kf_reader r;
    kf_open_bytes(&r, archive);
    d.tables = c->tables;
    for (int s = 0; s < 2; s++) {
        y[s] = cal_cut(c->t[s], 0, c->t[s]->tokens);
        rows[s] = cal_rows(&y[s], 0);
    }
    for (size_t i = 0; i < job->group_count; i++) {
        const cal_group *g = &job->groups[i];
        void **slices = (void **)(uintptr_t)cal_slices(job, g, rows);
        const lq_vectors_out out = {slices, 0, LQ_F32};
        size_t bytes = lq_archive_unpack_workspace_bytes(&r.reader, d.group);
        if (g->geometry.stream == c->stream) {
            void *workspace = kf_alloc(bytes, 1);
            const lq_profile *known = c->profiles ? &c->profiles->groups[i].profile : NULL;
            d.calibrated = &known;
            d.calibrated_count = 1;
            if (lq_archive_unpack(&r.reader, &d, &out, c->first, y[0].tokens, workspace, bytes)) {
                kf_fail("%s: its archive cannot be read", y[0].name);
            }
            free(workspace);
            d.group++;
        }
        free(slices);
    }
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < y[s].layers * y[s].heads * y[s].tokens * y[s].dim; i++) {
            ((float *)y[s].data)[i] -= ((const float *)c->t[s]->data)[i];
        }
        free(rows[s]);
    }
    free(r.mem);
}

/* Error of a stream: of the logits of queries q, or of the values. */
static double cal_error(const kf_tensor *delta, const kf_tensor *q, int values)
{
    size_t layer = delta->heads * delta->tokens * delta->dim;
    const float *x = (const float *)delta->data;
    double error = 0.0;
    for (size_t i = 0; i < delta->layers * layer && values; i++) {
        error += (double)x[i] * (double)x[i] / (double)layer;
    }
    for (size_t i = 0; i < delta->layers && !values; i++) {
        const float *queries = (const float *)q->data + i * q->heads * q->tokens * q->dim;
        error += kf_logit_error(q, queries, delta, x + i * layer);
    }
    return error / (double)delta->layers;
}

/* Prints bits an element of a stream and its error, or both errors. */
static void cal_try(const cal_job *job, const cal_trial *c, const kf_tensor *q)
{
    double numbers = 0.0;
    kf_tensor delta[2];
    kf_bytes bytes = {NULL, 0, 0};
    cal_write(job, c, &bytes);
    cal_delta(job, c, &bytes, delta);
    for (int s = 0; s < 2; s++) {
        const kf_tensor *t = c->t[s];
        int counts = c->stream == LQ_KV || (c->stream == LQ_V) == s;
        numbers += counts ? (double)t->layers * (double)(t->heads * t->tokens * t->dim) : 0.0;
    }
    printf("   %9.3f", 8.0 * (double)bytes.count / numbers);
    for (int s = 0; s < 2; s++) {
        if (c->stream == LQ_KV || (c->stream == LQ_V) == s) {
            printf(" %9.2e", cal_error(&delta[s], q, s));
        }
        free(delta[s].data);
    }
    free(bytes.at);
}

/* The tokens of `set` behind the fitted ones, with the file's profiles and without. */
static void cal_judge(const cal_job *job, const cal_set *set, const kf_bytes *file)
{
    static const double steps[3] = {0.2, 0.35, 0.7};
    kf_profiles profiles;
    size_t half = set->of[2].tokens / 2;
    memset(&profiles, 0, sizeof profiles);
    profiles.bytes = *file;
    kf_profiles_load(&profiles, "the profiles in memory");
    cal_trial c;
    memset(&c, 0, sizeof c);
    void *mem;
    c.tables = kf_tables(&mem);
    c.first = job->sinks + CAL_FITTED;
    cal_set rest;
    for (size_t i = 0; i < 3; i++) {
        size_t first = i < 2 ? c.first : half;
        rest.of[i] = cal_cut(&set->of[i], first, set->of[i].tokens - first);
    }
    c.t[0] = &rest.of[0];
    c.t[1] = &rest.of[1];
    printf(job->joint ? "the %.0f tokens behind    bits/el of both   K: logit MSE V: MSE\n"
                      : "the %.0f tokens behind     K: bits/el logit MSE   V: bits/el       MSE\n",
           (double)rest.of[0].tokens);
    for (size_t i = 0; i < 3 && job->joint; i++) {
        c.step = steps[i];
        c.profiles = &profiles;
        c.stream = LQ_KV;
        printf("step %-5g%-14s", c.step, "calibrated");
        cal_try(job, &c, &rest.of[2]);
        printf("\n");
    }
    for (size_t i = 0; i < 12 && !job->joint; i++) {
        c.step = steps[i / 4];
        c.profiles = i / 2 % 2 ? NULL : &profiles;
        c.stream = i % 2 ? LQ_V : LQ_K;
        if (i % 2 == 0) {
            printf("step %-5g%-14s", c.step, c.profiles ? "calibrated" : "no calibration");
        }
        cal_try(job, &c, &rest.of[2]);
        printf("%s", i % 2 ? "\n" : "");
    }
    profiles.bytes.at = NULL; /* the caller's */
    kf_profiles_free(&profiles);
    cal_free(&rest);
    free(mem);
}

/* ----------------------------------------------------------------------------------- three jobs */

static void cal_run_sample(cal_job *job, kf_bytes *file)
{
    cal_set all, part;
    const char *names[3];
    kf_sample(names);
    for (int i = 0; i < 3; i++) {
        job->files[i][0] = names[i];
        job->count[i] = 1;
    }
    cal_load(job, 0, &all);
    if (all.of[0].tokens < job->sinks + CAL_FITTED + all.of[2].tokens || all.of[2].tokens < 2) {
        kf_fail("%s: the sample has %.0f tokens, too few for %.0f sinks", all.of[0].name,
                (double)all.of[0].tokens, (double)job->sinks);
    }
    part = all;
    for (int i = 0; i < 3; i++) { /* half of the queries, the others judge */
        part.of[i] = cal_cut(&all.of[i], 0, i < 2 ? job->sinks + CAL_FITTED : all.of[2].tokens / 2);
    }
    cal_open(job);
    cal_add_set(job, &part);
    cal_solve(job);
    cal_write(job, NULL, file);
    cal_print_fit(job, file->count);
    cal_judge(job, &all, file);
    cal_free(&part);
    cal_free(&all);
}

static void cal_run_files(cal_job *job, kf_bytes *file)
{
    size_t sets = job->count[0] ? job->count[0] : job->count[1];
    for (size_t i = 0; i < sets; i++) {
        cal_set set;
        cal_load(job, i, &set);
        if (i == 0) cal_open(job);
        cal_add_set(job, &set);
        cal_free(&set);
    }
    cal_solve(job);
    cal_write(job, NULL, file);
    cal_print_fit(job, file->count);
}

static void cal_show_group(const kf_group *g, const lq_tables *tables)
{
    static const float steps[4] = {0.1f, 0.2f, 0.35f, 0.7f};
    const lq_slice *last = &g->slices[g->desc.slice_count - 1];
    char layers[32], heads[32];
    (void)snprintf(layers, sizeof layers, "%u-%u", g->slices[0].layer, last->layer);
    (void)snprintf(heads, sizeof heads, "%u-%u", g->slices[0].head, last->head);
    printf("%-2s %8s %7s %5u %5u %9.0f",
           g->desc.stream == LQ_KV  ? "KV"
           : g->desc.stream == LQ_V ? "V"
                                    : "K",
           layers, heads,
           g->profile.dims, g->profile.dense->rank, (double)g->file.count);
    for (size_t i = 0; i < 4; i++) {
        lq_rate rate;
        if (lq_rate_of(&rate, tables, &g->profile, steps[i])) {
            kf_fail("layer %u, head %u: the rate is not known", g->slices[0].layer,
                    g->slices[0].head);
        }
        printf(" %6.3f", rate.bits / (double)g->profile.dims);
    }
    printf("  ");
    for (size_t i = 0; i < 16; i++) {
        printf("%02x", g->profile.dense->hash[i]);
    }
    printf("\n");
}

static void cal_run_show(const char *name)
{
    kf_profiles p;
    memset(&p, 0, sizeof p);
    kf_read_all(name, &p.bytes);
    kf_profiles_load(&p, name);
    void *mem;
    const lq_tables *tables = kf_tables(&mem);
    printf("%s: %.0f bytes, %.0f groups, ", name, (double)p.bytes.count, (double)p.count);
    lq_rope rope;
    if (lq_archive_rope(&p.r.reader, 0, &rope, NULL, 0)) {
        printf("no RoPE\n");
    } else {
        printf("RoPE undone on %u dims, %s pairs\n", rope.rotary_dims,
               rope.layout == LQ_ROPE_HALF ? "half-split" : "adjacent");
    }
    printf("     layers   heads  dims  rank     bytes     bits an element at step     hash\n");
    printf("%38s %6g %6g %6g %6g\n", "", 0.1, 0.2, 0.35, 0.7);
    for (size_t i = 0; i < p.count; i++) {
        cal_show_group(&p.groups[i], tables);
    }
    kf_profiles_free(&p);
    free(mem);
}

/* --------------------------------------------------------------------------------- command line */

static const char cal_usage[] =
    "usage: calibrate --k FILE --v FILE [--q FILE] --out MODEL.lqp [options]    fit\n"
    "       calibrate --show MODEL.lqp                                          list\n"
    "       calibrate [--out MODEL.lqp] [options]    the sample in tests/data, and how it does\n"
    "\n"
    "FILEs are .npy, [layers][heads][tokens][dim]; keys after RoPE, positions from 0; queries are\n"
    "those of the last tokens. One layer may lack its axis; a batch axis of 1 may stand in front\n"
    "of the layers or behind them. f16, bf16 (dtype V2, as ml_dtypes has it, or bfloat16), f32 or\n"
    "f64 (taken as f32), little- or big-endian, C or Fortran order. --k, --v and --q may be\n"
    "repeated: further texts of the same model.\n"
    "\n"
    "  --theta T         RoPE's base (default 100000); --no-rope: keys as they are\n"
    "  --layout KIND     pairs of RoPE, half or adjacent (default half)\n"
    "  --group G         head, layer, or so many layers that share a basis (default layer)\n"
    "  --joint           keys and values of a group share it, and its step; --k and --v both\n"
    "  --ratio R         joint: the values' step, relative to their size, over the keys'\n"
    "                    (default 1.4)\n"
    "  --tolerance T     error of the rounded basis over the step's (default 0.02)\n"
    "  --model NAME      the profiles carry it; pack_kv --model NAME takes no others\n"
    "  --step S          the finest step to serve, relative to the deviation (default 0.2)\n"
    "  --beta B          exponent of the query metric, 0 to 1 (default 0.5)\n"
    "  --sinks N         first tokens of each text that are left out (default 4)\n";

static void cal_file(cal_job *job, int which, const char *value)
{
    if (job->count[which] == CAL_SETS) kf_fail("more than %d texts", CAL_SETS);
    job->files[which][job->count[which]++] = value;
}

static void cal_option(cal_job *job, const char *name, const char *value)
{
    static const char *const files[3] = {"--k", "--v", "--q"};
    if (strncmp(name, "--", 2) != 0) {
        kf_fail("unknown option '%s' (--help lists them)", name);
    }
    if (!value) kf_fail("%s wants a value (--help lists the options)", name);
    for (int i = 0; i < 3; i++) {
        if (!strcmp(name, files[i])) {
            cal_file(job, i, value);
            return;
        }
    }
    if (!strcmp(name, "--out")) {
        job->out = value;
    } else if (!strcmp(name, "--show")) {
        job->show = value;
    } else if (!strcmp(name, "--theta")) {
        job->theta = kf_number(name, value, 1, 1e12, 0);
    } else if (!strcmp(name, "--layout") &&
               (!strcmp(value, "half") || !strcmp(value, "adjacent"))) {
        job->layout = value[0] == 'h' ? LQ_ROPE_HALF : LQ_ROPE_ADJACENT;
    } else if (!strcmp(name, "--layout")) {
        kf_fail("--layout wants half or adjacent, not '%s'", value);
    } else if (!strcmp(name, "--group") && (!strcmp(value, "head") || !strcmp(value, "layer"))) {
        job->group_layers = value[0] == 'l';
    } else if (!strcmp(name, "--group")) {
        job->group_layers = (size_t)kf_number(name, value, 1, 65535, 1);
    } else if (!strcmp(name, "--step")) {
        job->step = kf_number(name, value, 1e-4, 100, 0);
    } else if (!strcmp(name, "--ratio")) {
        job->ratio = kf_number(name, value, 0.0625, 16, 0);
    } else if (!strcmp(name, "--tolerance")) {
        job->tolerance = kf_number(name, value, 1e-6, 1, 0);
    } else if (!strcmp(name, "--model")) {
        job->model = value;
    } else if (!strcmp(name, "--beta")) {
        job->beta = kf_number(name, value, 0, 1, 0);
    } else if (!strcmp(name, "--sinks")) {
        job->sinks = (size_t)kf_number(name, value, 0, 1e9, 1);
    } else {
        kf_fail("unknown option '%s' (--help lists them)", name);
    }
}

/* What the options say together. */
static void cal_settle(const cal_job *job, int argc)
{
    if (job->show && argc != 3) kf_fail("--show wants a file and nothing else");
    if (job->count[0] && job->count[1] && job->count[0] != job->count[1]) {
        kf_fail("every --k wants its --v: %.0f and %.0f are given", (double)job->count[0],
                (double)job->count[1]);
    }
    if (job->count[2] && job->count[2] != job->count[0]) {
        kf_fail("every --q wants its --k: %.0f and %.0f are given", (double)job->count[2],
                (double)job->count[0]);
    }
    if (job->joint && job->count[0] != job->count[1]) {
        kf_fail("--joint wants --k and --v: keys and values share a basis");
    }
    if (job->joint && !job->group_layers) kf_fail("--joint wants layers to group, not heads");
    if (job->ratio > 0.0 && !job->joint) kf_fail("--ratio wants --joint");
    if (job->count[0] + job->count[1] && !job->out) {
        kf_fail("--out wants to be given: where the profiles go");
    }
    for (int which = 0; which < 3; which++) {
        for (size_t i = 0; i < job->count[which]; i++) {
            if (!strcmp(job->files[which][i], job->out)) {
                kf_fail("%s: named twice", job->out);
            }
        }
    }
}

int main(int argc, char **argv)
{
    static cal_job job;
    kf_bytes file = {NULL, 0, 0};
    job.theta = 1e5;
    job.layout = LQ_ROPE_HALF;
    job.group_layers = 1;
    job.step = 0.2;
    job.beta = 0.5;
    job.sinks = 4;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            (void)fputs(cal_usage, stdout);
            return kf_finish();
        }
        if (!strcmp(argv[i], "--no-rope")) {
            job.theta = 0.0;
        } else if (!strcmp(argv[i], "--joint")) {
            job.joint = 1;
        } else {
            cal_option(&job, argv[i], i + 1 < argc ? argv[i + 1] : NULL);
            i++;
        }
    }
    cal_settle(&job, argc);
    if (job.show) {
        cal_run_show(job.show);
        return kf_finish();
    }
    if (job.out) kf_probe(job.out);
    if (job.count[0] + job.count[1]) {
        cal_run_files(&job, &file);
    } else {
        cal_run_sample(&job, &file);
    }
    if (job.out) {
        kf_save(job.out, "", 0, file.at, file.count);
        printf("%s: %.0f bytes\n", job.out, (double)file.count);
    }
    free(file.at);
    return kf_finish();
}
