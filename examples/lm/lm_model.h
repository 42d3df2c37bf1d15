/* lm_model.h - part of lm.c: a transformer of the Llama family, from a GGUF file to logits

   Weights become floats once, in the panels of lm_math.h. Where the file's rows of the query and
   key projections make adjacent pairs turn (llama), they are put back into half-split order
   (channel i turns with i + dims / 2), which is how the models were trained and how other programs
   show K. To add an architecture: a row in lm_archs. */
#ifndef LM_MODEL_H
#define LM_MODEL_H

#include "lm_cache.h"
#include "lm_token.h"

/* What tells the architectures apart.
     adjacent  the file's order of query and key channels: pairs 2 i, 2 i + 1
     biases    queries, keys and values must have one (else they may)
     norms     each head of queries and keys is normed before it turns */
typedef struct lm_arch {
    const char *name;
    int adjacent;
    int biases;
    int norms;
} lm_arch;

static const lm_arch lm_archs[] = {
    {"llama", 1, 0, 0},
    {"qwen2", 0, 1, 0},
    {"qwen3", 0, 0, 1},
};

enum { LM_ARCHS = (int)(sizeof lm_archs / sizeof lm_archs[0]) };

typedef struct lm_layer {
    float *attention_norm;
    float *ffn_norm;
    float *q_norm; /* (head_dim), or NULL */
    float *k_norm;
    lm_matrix q;
    lm_matrix k;
    lm_matrix v;
    lm_matrix o;
    lm_matrix gate;
    lm_matrix up;
    lm_matrix down;
} lm_layer;

/* Sees a layer's rotated queries and keys and its values, [n][heads][head_dim]. */
typedef struct lm_tap {
    void *user;
    void (*layer)(void *user, size_t layer, const float *q, const float *k, const float *v,
                  size_t position, size_t n);
} lm_tap;

typedef struct lm_model {
    lm_gguf file;
    const lm_arch *arch;
    lm_geometry g;
    size_t turning; /* rows at the front of each head that the file has in adjacent order */
    size_t embd;
    size_t ffn;
    size_t vocab;
    size_t context;
    float eps;
    float rope_base;
    lm_layer *layers;
    float *output_norm;
    lm_matrix output;
    lm_tensor *embedding;
    lm_pool pool;
    float *rope;
    float *turn;
    size_t turn_tokens;
    float *x;
    float *y;
    float *q;
    float *k;
    float *v;
    float *gate;
    float *up;
    float *left;
    lm_tap tap;
} lm_model;

/* ---- loading ---- */

/* NULL where there is none of that name. */
static lm_tensor *lm__find_tensor(lm_model *m, const char *name)
{
    lm_gguf *f = &m->file;
    size_t i;
    for (i = 0; i < f->tensor_count && !lm_same(f->tensors[i].name, name); i++) {
    }
    return i < f->tensor_count ? &f->tensors[i] : NULL;
}

static lm_tensor *lm__tensor(lm_model *m, const char *name, size_t rows, size_t cols)
{
    lm_tensor *t = lm__find_tensor(m, name);
    if (t == NULL) lm_fail("%s: tensor '%s' is missing", m->file.path, name);
    if (t->rows != rows || t->cols != cols) {
        lm_fail("%s: tensor '%s' is %zu x %zu where the metadata says %zu x %zu", m->file.path,
                name, t->rows, t->cols, rows, cols);
    }
    t->used = 1;
    return t;
}

static float *lm__load_vector(lm_model *m, const char *name, size_t count)
{
    const lm_tensor *t = lm__tensor(m, name, 1, count);
    float *x = (float *)lm_alloc(count, sizeof *x);
    lm_tensor_row(x, t, 0);
    return x;
}

/* Where output row r of a projection stands in the file: heads of dim rows, of which the first
   `turning` were interleaved from two halves. turning 0 leaves the order alone. */
static size_t lm__file_row(size_t r, size_t dim, size_t turning)
{
    size_t i = turning > 0 ? r % dim : 0;
    if (i >= turning) return r;
    return r - i + (i < turning / 2 ? 2 * i : 2 * (i - turning / 2) + 1);
}

typedef struct lm__load_job {
    const lm_tensor *tensor;
    lm_matrix *matrix;
    size_t dim;
    size_t turning;
    float *rows;
} lm__load_job;

static void lm__load_panel(void *context, size_t index, size_t worker)
{
    const lm__load_job *job = (const lm__load_job *)context;
    const lm_matrix *w = job->matrix;
    float *row = job->rows + worker * w->inputs;
    float *panel = w->panels + index * w->inputs * LM_COLS;
    size_t j, i;
    for (j = 0; j < LM_COLS && index * LM_COLS + j < w->outputs; j++) {
        lm_tensor_row(row, job->tensor, lm__file_row(index * LM_COLS + j, job->dim, job->turning));
        for (i = 0; i < w->inputs; i++) {
            panel[i * LM_COLS + j] = row[i];
        }
    }
}

static void lm__load_tensor(lm_model *m, lm_matrix *w, const lm_tensor *t, size_t turning)
{
    w->outputs = t->rows;
    w->inputs = t->cols;
    w->panels = (float *)lm_alloc(lm_panels(w) * LM_COLS, w->inputs * sizeof(float));
    lm__load_job job;
    job.tensor = t;
    job.matrix = w;
    job.dim = m->g.head_dim;
    job.turning = turning;
    job.rows = (float *)lm_alloc(m->pool.workers, w->inputs * sizeof(float));
    lm_parallel(&m->pool, lm__load_panel, &job, lm_panels(w));
    free(job.rows);
}

static void lm__load_matrix(lm_model *m, lm_matrix *w, size_t layer, const char *name,
                            size_t outputs, size_t inputs, size_t turning)
{
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%zu.%s.weight", layer, name);
    lm__load_tensor(m, w, lm__tensor(m, full, outputs, inputs), turning);
}

/* The bias of queries, keys or values, in the order of their rows. */
static void lm__load_bias(lm_model *m, lm_matrix *w, size_t layer, const char *name, size_t turning)
{
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%zu.%s.bias", layer, name);
    if (!m->arch->biases && lm__find_tensor(m, full) == NULL) return;
    float *x = lm__load_vector(m, full, w->outputs);
    w->bias = (float *)lm_alloc(w->outputs, sizeof *w->bias);
    for (size_t i = 0; i < w->outputs; i++) {
        w->bias[i] = x[lm__file_row(i, m->g.head_dim, turning)];
    }
    free(x);
}

/* A tensor of one row of a layer. */
static float *lm__load_norm(lm_model *m, size_t layer, const char *name, size_t count)
{
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%zu.%s.weight", layer, name);
    return lm__load_vector(m, full, count);
}

static void lm__load_attention(lm_model *m, size_t i)
{
    lm_layer *l = &m->layers[i];
    size_t q_rows = m->g.heads * m->g.head_dim;
    size_t kv_rows = m->g.kv_heads * m->g.head_dim;
    l->attention_norm = lm__load_norm(m, i, "attn_norm", m->embd);
    lm__load_matrix(m, &l->q, i, "attn_q", q_rows, m->embd, m->turning);
    lm__load_matrix(m, &l->k, i, "attn_k", kv_rows, m->embd, m->turning);
    lm__load_matrix(m, &l->v, i, "attn_v", kv_rows, m->embd, 0);
    lm__load_matrix(m, &l->o, i, "attn_output", m->embd, q_rows, 0);
    lm__load_bias(m, &l->q, i, "attn_q", m->turning);
    lm__load_bias(m, &l->k, i, "attn_k", m->turning);
    lm__load_bias(m, &l->v, i, "attn_v", 0);
    if (m->arch->norms) {
        l->q_norm = lm__load_norm(m, i, "attn_q_norm", m->g.head_dim);
        l->k_norm = lm__load_norm(m, i, "attn_k_norm", m->g.head_dim);
    }
}

static void lm__load_layer(lm_model *m, size_t i)
{
    lm_layer *l = &m->layers[i];
    lm__load_attention(m, i);
    l->ffn_norm = lm__load_norm(m, i, "ffn_norm", m->embd);
    lm__load_matrix(m, &l->gate, i, "ffn_gate", m->ffn, m->embd, 0);
    lm__load_matrix(m, &l->up, i, "ffn_up", m->ffn, m->embd, 0);
    lm__load_matrix(m, &l->down, i, "ffn_down", m->embd, m->ffn, 0);
}

/* ---- metadata ---- */

typedef struct lm_name {
    char text[96];
} lm_name;

/* A key of the architecture's own, as llama.block_count. */
static lm_name lm__own(const lm_model *m, const char *key)
{
    lm_name n;
    (void)snprintf(n.text, sizeof n.text, "%s.%s", m->arch->name, key);
    return n;
}

static size_t lm__own_size(const lm_model *m, const char *key, long fallback, size_t max)
{
    lm_name n = lm__own(m, key);
    return lm_key_size(&m->file, n.text, fallback, max);
}

static float lm__own_float(const lm_model *m, const char *key, float fallback)
{
    lm_name n = lm__own(m, key);
    return lm_key_float(&m->file, n.text, fallback);
}

/* A size that the metadata must give, between 1 and max. */
static size_t lm__size(const lm_model *m, const char *key, long fallback, size_t max)
{
    size_t n = lm__own_size(m, key, fallback, max);
    if (n == 0) {
        lm_fail("%s: metadata key '%s.%s' is zero", m->file.path, m->arch->name, key);
    }
    return n;
}

static void lm__load_arch(lm_model *m)
{
    lm_bytes name = lm_key_string(&m->file, "general.architecture");
    if (name.count == 0) {
        lm_fail("%s: metadata key 'general.architecture' is missing", m->file.path);
    }
    size_t i;
    for (i = 0; i < LM_ARCHS && !lm_same(name, lm_archs[i].name); i++) {
    }
    if (i == LM_ARCHS) {
        lm_fail("%s: architecture '%.*s'; this program runs llama, qwen2, qwen3", m->file.path,
                (int)(name.count < 64 ? name.count : 64), (const char *)name.at);
    }
    m->arch = &lm_archs[i];
}

/* What would change the result and is not done here. */
static void lm__refuse_features(const lm_model *m)
{
    if (lm__own_size(m, "expert_count", 0, 65536) != 0) {
        lm_fail("%s: mixtures of experts are not supported", m->file.path);
    }
    if (lm__own_size(m, "attention.value_length", (long)m->g.head_dim, 1024) != m->g.head_dim) {
        lm_fail("%s: keys and values of different lengths are not supported", m->file.path);
    }
    if (lm__own_size(m, "attention.sliding_window", 0, SIZE_MAX) != 0) {
        lm_fail("%s: sliding attention is not supported", m->file.path);
    }
}

static void lm__load_sizes(lm_model *m)
{
    m->g.layers = lm__size(m, "block_count", -1, 1024);
    m->context = lm__size(m, "context_length", -1, 1u << 24);
    m->embd = lm__size(m, "embedding_length", -1, 1u << 17);
    m->ffn = lm__size(m, "feed_forward_length", -1, 1u << 19);
    m->g.heads = lm__size(m, "attention.head_count", -1, 1024);
    m->g.kv_heads = lm__size(m, "attention.head_count_kv", (long)m->g.heads, 1024);
    m->g.head_dim = lm__size(m, "attention.key_length", (long)(m->embd / m->g.heads), 1024);
    m->g.rope_dims = lm__size(m, "rope.dimension_count", (long)m->g.head_dim, 1024);
    m->eps = lm__own_float(m, "attention.layer_norm_rms_epsilon", 1e-5f);
    m->rope_base = lm__own_float(m, "rope.freq_base", 10000.0f);
    if (m->g.heads % m->g.kv_heads != 0 || m->g.rope_dims > m->g.head_dim ||
        m->g.rope_dims % 2 != 0 || m->rope_base < 1.0f) {
        lm_fail("%s: %zu heads, %zu kv heads, %zu channels, %zu turning do not fit together",
                m->file.path, m->g.heads, m->g.kv_heads, m->g.head_dim, m->g.rope_dims);
    }
    lm__refuse_features(m);
}

/* Where RoPE is stretched.
     factor     1: it is not
     yarn       by YaRN, else evenly
     original   tokens that the model was trained on before
     fast, slow  turns within those, between which YaRN goes from none to all
     magnitude  of turned vectors */
typedef struct lm_scaling {
    double factor;
    int yarn;
    double original;
    double fast;
    double slow;
    double magnitude;
} lm_scaling;

/* YaRN (arXiv 2309.00071, section 3.2): channel pairs that turn often keep their frequency, slow
   ones are interpolated, with a ramp between 32 and 1 turns within the original context. */
static double lm__yarn_ramp(const lm_model *m, const lm_scaling *s, size_t pair)
{
    double scale = (double)m->g.rope_dims / (2.0 * log((double)m->rope_base));
    double low = floor(scale * log(s->original / (s->fast * 6.283185307179586)));
    double high = ceil(scale * log(s->original / (s->slow * 6.283185307179586)));
    low = low > 0.0 ? low : 0.0;
    high = high < (double)m->g.rope_dims - 1.0 ? high : (double)m->g.rope_dims - 1.0;
    double x = ((double)pair - low) / (high - low > 0.001 ? high - low : 0.001);
    return x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x;
}

/* A factor without a type stretches evenly; scale_linear is the name that older files have. */
static void lm__load_scaling(const lm_model *m, lm_scaling *s)
{
    lm_name key = lm__own(m, "rope.scaling.type");
    lm_bytes type = lm_key_string(&m->file, key.text);
    double factor = (double)lm__own_float(m, "rope.scaling.factor", 0.0f);
    s->yarn = lm_same(type, "yarn");
    if (type.count > 0 && !s->yarn && !lm_same(type, "linear") && !lm_same(type, "none")) {
        lm_fail("%s: unknown RoPE scaling '%.*s'", m->file.path,
                (int)(type.count < 64 ? type.count : 64), (const char *)type.at);
    }
    if (!(factor > 0.0)) {
        factor = (double)lm__own_float(m, "rope.scale_linear", 0.0f);
    }
    s->factor = factor > 0.0 && !lm_same(type, "none") ? factor : 1.0;
    s->original =
        (double)lm__own_size(m, "rope.scaling.original_context_length", (long)m->context, 1u << 24);
    s->fast = (double)lm__own_float(m, "rope.scaling.yarn_beta_fast", 32.0f);
    s->slow = (double)lm__own_float(m, "rope.scaling.yarn_beta_slow", 1.0f);
    s->magnitude = (double)lm__own_float(m, "rope.scaling.attn_factor", 1.0f);
    if (s->yarn) s->magnitude *= 1.0 + 0.1 * log(s->factor);
    if (!(s->factor >= 1.0 && s->original >= 1.0 && s->fast > 0.0 && s->slow > 0.0 &&
          s->magnitude > 0.0)) {
        lm_fail("%s: RoPE scaling by %g from %g tokens", m->file.path, s->factor, s->original);
    }
}

static void lm__load_rope(lm_model *m)
{
    size_t pairs = m->g.rope_dims / 2;
    float *divide = NULL;
    lm_scaling s;
    lm__load_scaling(m, &s);
    if (lm__find_tensor(m, "rope_freqs.weight") != NULL) {
        divide = lm__load_vector(m, "rope_freqs.weight", pairs);
    }
    m->rope = (float *)lm_alloc(pairs, sizeof *m->rope);
    for (size_t i = 0; i < pairs; i++) {
        double w = pow((double)m->rope_base, -2.0 * (double)i / (double)m->g.rope_dims);
        double ramp = s.yarn ? lm__yarn_ramp(m, &s, i) : 1.0;
        w = w * (1.0 - ramp) + w / s.factor * ramp;
        if (divide != NULL && divide[i] > 0.0f) w /= (double)divide[i];
        m->rope[i] = (float)w;
    }
    m->g.rope = m->rope;
    m->g.rope_magnitude = (float)s.magnitude;
    free(divide);
}

static void lm__load_buffers(lm_model *m)
{
    size_t q_width = m->g.heads * m->g.head_dim;
    size_t kv_width = m->g.kv_heads * m->g.head_dim;
    size_t widest = lm__max(q_width, lm__max(m->embd, m->ffn));
    m->x = (float *)lm_alloc(LM_CHUNK, m->embd * sizeof(float));
    m->y = (float *)lm_alloc(LM_CHUNK, widest * sizeof(float));
    m->q = (float *)lm_alloc(LM_CHUNK, widest * sizeof(float));
    m->k = (float *)lm_alloc(LM_CHUNK, kv_width * sizeof(float));
    m->v = (float *)lm_alloc(LM_CHUNK, kv_width * sizeof(float));
    m->gate = (float *)lm_alloc(LM_CHUNK, m->ffn * sizeof(float));
    m->up = (float *)lm_alloc(LM_CHUNK, m->ffn * sizeof(float));
    m->left = (float *)lm_alloc(LM_CHUNK, widest * sizeof(float));
}

/* Metadata and shapes only; lm_model_load reads the weights. */
static void lm_model_open(lm_model *m, const char *path, size_t threads, int as_in_file)
{
    memset(m, 0, sizeof *m);
    lm_gguf_open(&m->file, path);
    lm__load_arch(m); /* first: the tensors of others may be of other types */
    lm_gguf_tensors(&m->file);
    lm__load_sizes(m);
    m->g.adjacent = as_in_file && m->arch->adjacent;
    m->turning = m->arch->adjacent && !as_in_file ? m->g.rope_dims : 0;
    m->vocab = lm_key_array(&m->file, "tokenizer.ggml.tokens", LM_STRING)->item_count;
    lm_pool_open(&m->pool, threads);
    lm__load_rope(m);
}

static void lm_model_load(lm_model *m)
{
    lm_gguf *f = &m->file;
    lm_progress progress;
    lm_progress_begin(&progress, "load");
    m->embedding = lm__tensor(m, "token_embd.weight", m->vocab, m->embd);
    m->output_norm = lm__load_vector(m, "output_norm.weight", m->embd);
    m->layers = (lm_layer *)lm_alloc(m->g.layers, sizeof *m->layers);
    for (size_t i = 0; i < m->g.layers; i++) {
        lm_progress_show(&progress, (double)i / (double)m->g.layers);
        lm__load_layer(m, i);
    }
    lm_progress_end(&progress);
    lm__load_tensor(m, &m->output,
                    lm__find_tensor(m, "output.weight") == NULL
                        ? m->embedding
                        : lm__tensor(m, "output.weight", m->vocab, m->embd),
                    0);
    for (size_t i = 0; i < f->tensor_count; i++) {
        if (!f->tensors[i].used) {
            lm_fail("%s: tensor '%.*s' is not part of a %s model that this program knows", f->path,
                    (int)f->tensors[i].name.count, (const char *)f->tensors[i].name.at,
                    m->arch->name);
        }
    }
    lm__load_buffers(m);
}

static void lm_model_close(lm_model *m)
{
    for (size_t i = 0; m->layers != NULL && i < m->g.layers; i++) {
        lm_layer *l = &m->layers[i];
        free(l->attention_norm);
        free(l->ffn_norm);
        free(l->q_norm);
        free(l->k_norm);
        lm_matrix_free(&l->q);
        lm_matrix_free(&l->k);
        lm_matrix_free(&l->v);
        lm_matrix_free(&l->o);
        lm_matrix_free(&l->gate);
        lm_matrix_free(&l->up);
        lm_matrix_free(&l->down);
    }
    free(m->layers);
    free(m->output_norm);
    lm_matrix_free(&m->output);
    free(m->rope);
    free(m->turn);
    free(m->x);
    free(m->y);
    free(m->q);
    free(m->k);
    free(m->v);
    free(m->gate);
    free(m->up);
    free(m->left);
    lm_pool_close(&m->pool);
    lm_gguf_close(&m->file);
}

/* ---- forward ---- */

/* Cosines and sines of every position below tokens: [token][pair][2]. */
static void lm__prepare_turns(lm_model *m, size_t tokens)
{
    size_t pairs = m->g.rope_dims / 2;
    size_t t, i;
    if (tokens <= m->turn_tokens) return;
    tokens = lm_round_up(tokens, 1024);
    free(m->turn);
    m->turn = (float *)lm_alloc(tokens, 2 * pairs * sizeof(float));
    m->turn_tokens = tokens;
    for (t = 0; t < tokens; t++) {
        for (i = 0; i < pairs; i++) {
            double a = (double)t * (double)m->rope[i];
            m->turn[(t * pairs + i) * 2] = (float)cos(a) * m->g.rope_magnitude;
            m->turn[(t * pairs + i) * 2 + 1] = (float)sin(a) * m->g.rope_magnitude;
        }
    }
}

static void lm__turn(const lm_model *m, float *x, size_t heads, size_t position, size_t n)
{
    size_t pairs = m->g.rope_dims / 2;
    size_t far = m->g.adjacent ? 1 : pairs;
    size_t step = m->g.adjacent ? 2 : 1;
    size_t t, h, i;
    for (t = 0; t < n; t++) {
        const float *turn = m->turn + (position + t) * pairs * 2;
        for (h = 0; h < heads; h++) {
            float *p = x + (t * heads + h) * m->g.head_dim;
            for (i = 0; i < pairs; i++) {
                float a = p[i * step];
                float b = p[i * step + far];
                p[i * step] = a * turn[2 * i] - b * turn[2 * i + 1];
                p[i * step + far] = b * turn[2 * i] + a * turn[2 * i + 1];
            }
        }
    }
}

/* n vectors as long as the weight, perhaps in place. */
static void lm__norm(const lm_model *m, float *dst, const float *src, const float *weight,
                     size_t width, size_t n)
{
    size_t t, i;
    for (t = 0; t < n; t++) {
        const float *x = src + t * width;
        double sum = 0.0;
        for (i = 0; i < width; i++) {
            sum += (double)x[i] * (double)x[i];
        }
        float scale = (float)(1.0 / sqrt(sum / (double)width + (double)m->eps));
        for (i = 0; i < width; i++) {
            dst[t * width + i] = x[i] * scale * weight[i];
        }
    }
}

static void lm__add(float *dst, const float *src, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        dst[i] += src[i];
    }
}

static void lm__one_product(lm_model *m, const lm_matrix *w, const float *x, float *out, size_t n)
{
    lm_product p;
    p.matrix = w;
    p.out = out;
    p.stride = w->outputs;
    lm_multiply(&m->pool, m->left, x, n, &p, 1);
}

/* Queries, keys and values of n tokens, not yet rotated. */
static void lm__project(lm_model *m, size_t layer, size_t n)
{
    const lm_layer *l = &m->layers[layer];
    lm__norm(m, m->y, m->x, l->attention_norm, m->embd, n);
    lm_product p[3];
    p[0].matrix = &l->q;
    p[0].out = m->q;
    p[1].matrix = &l->k;
    p[1].out = m->k;
    p[2].matrix = &l->v;
    p[2].out = m->v;
    p[0].stride = l->q.outputs;
    p[1].stride = l->k.outputs;
    p[2].stride = l->v.outputs;
    lm_multiply(&m->pool, m->left, m->y, n, p, 3);
    if (l->q_norm != NULL) {
        lm__norm(m, m->q, m->q, l->q_norm, m->g.head_dim, n * m->g.heads);
        lm__norm(m, m->k, m->k, l->k_norm, m->g.head_dim, n * m->g.kv_heads);
    }
}

static void lm__attention(lm_model *m, lm_cache *cache, size_t layer, size_t position, size_t n)
{
    lm__project(m, layer, n);
    lm__turn(m, m->q, m->g.heads, position, n);
    lm__turn(m, m->k, m->g.kv_heads, position, n);
    if (m->tap.layer != NULL) {
        m->tap.layer(m->tap.user, layer, m->q, m->k, m->v, position, n);
    }
    cache->append(cache->state, layer, m->k, m->v, position, n);
    cache->attend(cache->state, layer, m->q, m->y, position, n);
    lm__one_product(m, &m->layers[layer].o, m->y, m->q, n);
    lm__add(m->x, m->q, n * m->embd);
}

static void lm__feed_forward(lm_model *m, size_t layer, size_t n)
{
    const lm_layer *l = &m->layers[layer];
    lm__norm(m, m->y, m->x, l->ffn_norm, m->embd, n);
    lm_product p[2];
    p[0].matrix = &l->gate;
    p[0].out = m->gate;
    p[0].stride = m->ffn;
    p[1].matrix = &l->up;
    p[1].out = m->up;
    p[1].stride = m->ffn;
    lm_multiply(&m->pool, m->left, m->y, n, p, 2);
    for (size_t i = 0; i < n * m->ffn; i++) {
        m->gate[i] *= m->up[i] / (1.0f + lm_exp(-m->gate[i]));
    }
    lm__one_product(m, &l->down, m->gate, m->y, n);
    lm__add(m->x, m->y, n * m->embd);
}

static void lm__embed(lm_model *m, const uint32_t *ids, size_t n)
{
    for (size_t t = 0; t < n; t++) {
        lm_tensor_row(m->x + t * m->embd, m->embedding, ids[t]);
    }
}

/* n tokens (at most LM_CHUNK, not across a multiple of it) at the given position. Their hidden
   states stay in the model for lm_logits. */
static void lm_forward(lm_model *m, lm_cache *cache, const uint32_t *ids, size_t position, size_t n)
{
    lm__prepare_turns(m, position + n);
    lm__embed(m, ids, n);
    for (size_t i = 0; i < m->g.layers; i++) {
        lm__attention(m, cache, i, position, n);
        lm__feed_forward(m, i, n);
    }
    cache->end_step(cache->state, position, n);
}

typedef struct lm__step_job {
    lm_model *model;
    const lm_cache *caches;
    size_t layer;
    size_t position;
} lm__step_job;

static void lm__step_sequence(void *context, size_t i, size_t worker)
{
    const lm__step_job *job = (const lm__step_job *)context;
    const lm_cache *c = &job->caches[i];
    const lm_model *m = job->model;
    float *q = m->q + i * m->g.heads * m->g.head_dim;
    float *k = m->k + i * m->g.kv_heads * m->g.head_dim;
    const float *v = m->v + i * m->g.kv_heads * m->g.head_dim;
    (void)worker;
    lm__turn(m, q, m->g.heads, job->position, 1);
    lm__turn(m, k, m->g.kv_heads, job->position, 1);
    c->append(c->state, job->layer, k, v, job->position, 1);
    c->attend(c->state, job->layer, q, m->y + i * m->g.heads * m->g.head_dim, job->position, 1);
}

/* One token of each of n sequences (at most LM_CHUNK), all at one position: the weights are read
   once for all. Each sequence has a cache, opened with a pool of one worker. */
static void lm_step(lm_model *m, const lm_cache *caches, const uint32_t *ids, size_t position,
                    size_t n)
{
    lm__prepare_turns(m, position + 1);
    lm__embed(m, ids, n);
    lm__step_job job;
    job.model = m;
    job.caches = caches;
    job.position = position;
    for (size_t i = 0; i < m->g.layers; i++) {
        job.layer = i;
        lm__project(m, i, n);
        lm_parallel(&m->pool, lm__step_sequence, &job, n);
        lm__one_product(m, &m->layers[i].o, m->y, m->q, n);
        lm__add(m->x, m->q, n * m->embd);
        lm__feed_forward(m, i, n);
    }
    for (size_t i = 0; i < n; i++) {
        caches[i].end_step(caches[i].state, position, 1);
    }
}

/* Logits [n][vocab] of the last step's tokens from `first` on. */
static void lm_logits(lm_model *m, float *logits, size_t first, size_t n)
{
    lm__norm(m, m->y, m->x + first * m->embd, m->output_norm, m->embd, n);
    lm_product p;
    p.matrix = &m->output;
    p.out = logits;
    p.stride = m->vocab;
    lm_multiply(&m->pool, m->left, m->y, n, &p, 1);
}

#endif
