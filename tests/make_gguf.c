/* cc -O2 tests/make_gguf.c -o make_gguf    Writes a tiny random GGUF model, sound or broken. */

/* make_gguf OUT [FORMAT [TWIST]]: two layers of 256 channels with weights in any format that lm.c
   reads, the same bytes everywhere. A twist is one deviation: a feature (untied output, another
   architecture, RoPE scalings) or a fault that a reader must refuse. `make_gguf list` names
   them. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAKE_EMBD = 256, MAKE_LAYERS = 2, MAKE_HEADS = 4, MAKE_KV = 2, MAKE_DIM = 64 };
enum { MAKE_FFN = 256, MAKE_CONTEXT = 512, MAKE_TOKENS = 256 + 6 + 3, MAKE_TENSORS = 40 };

typedef struct make_tensor {
    char name[40];
    uint32_t format;
    size_t cols;
    size_t rows;
    float size;
    int bias;
    uint64_t offset;
} make_tensor;

typedef struct maker {
    uint8_t *data;
    size_t count;
    size_t room;
    uint64_t random;
    uint32_t format;
    uint64_t keys;
    const char *twist;
    const char *arch;
    make_tensor tensors[MAKE_TENSORS];
    size_t tensor_count;
} maker;

typedef struct make_format {
    const char *name;
    uint32_t id;
    size_t items;
    size_t bytes;
} make_format;

static const make_format make_formats[] = {
    {"F32", 0, 1, 4},       {"F16", 1, 1, 2},       {"BF16", 30, 1, 2},     {"Q8_0", 8, 32, 34},
    {"Q4_0", 2, 32, 18},    {"Q4_1", 3, 32, 20},    {"Q5_0", 6, 32, 22},    {"Q5_1", 7, 32, 24},
    {"Q2_K", 10, 256, 84},  {"Q3_K", 11, 256, 110}, {"Q4_K", 12, 256, 144}, {"Q5_K", 13, 256, 176},
    {"Q6_K", 14, 256, 210},
};

enum { MAKE_FORMATS = (int)(sizeof make_formats / sizeof make_formats[0]) };

static const char *const make_features[] = {
    "untied", "linear", "scale-linear", "yarn",    "yarn-own", "freqs",    "llama3",
    "biased", "qwen2",  "qwen3",        "bos-key", "whole",    "split-one"};

/* Each must end in one line and exit code 1, whatever the mode. */
static const char *const make_faults[] = {
    "magic",          "version",       "tensor-count", "key-count",     "key-length",
    "value-type",     "string-length", "array-count",  "array-type",    "tensor-name",
    "dims-zero",      "dims-five",     "shape-zero",   "shape-huge",    "tensor-type",
    "row-length",     "offset-far",    "offset-wraps", "alignment",     "arch",
    "experts",        "no-layers",     "many-layers",  "no-heads",      "heads",
    "odd-rope",       "wide-rope",     "value-length", "negative-embd", "missing-key",
    "missing-tensor", "extra-tensor",  "twice-tensor", "wrong-shape",   "eps-nan",
    "rope-base",      "scaling",       "tokenizer",    "pre",           "merge-unknown",
    "merge-space",    "token-types",   "bos",          "few-tokens",    "heads-array",
    "sliding",        "scaling-below", "no-bias",      "no-norm",       "extra-norm",
    "big-endian",     "split",         "split-last",   "adapter",       "no-arch",
    "no-bos",
};

enum {
    MAKE_FEATURES = (int)(sizeof make_features / sizeof make_features[0]),
    MAKE_FAULTS = (int)(sizeof make_faults / sizeof make_faults[0])
};

static int make_is(const maker *m, const char *twist)
{
    return strcmp(m->twist, twist) == 0;
}

static int make_arch(const maker *m, const char *arch)
{
    return strcmp(m->arch, arch) == 0;
}

/* Of a head, in keys and values. */
static uint32_t make_dim(const maker *m)
{
    return make_arch(m, "qwen3") ? 2 * MAKE_DIM : MAKE_DIM;
}

static uint32_t make_random(maker *m)
{
    uint64_t z = (m->random += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

/* ---- bytes ---- */

static void make_bytes(maker *m, const void *src, size_t count)
{
    if (m->room - m->count < count) {
        uint8_t *grown = (uint8_t *)calloc(1, m->room * 2 + count);
        if (grown == NULL) exit(2);
        if (m->count > 0) memcpy(grown, m->data, m->count);
        free(m->data);
        m->data = grown;
        m->room = m->room * 2 + count;
    }
    if (count > 0) memcpy(m->data + m->count, src, count);
    m->count += count;
}

static void make_number(maker *m, uint64_t n, size_t count)
{
    uint8_t b[8];
    for (size_t i = 0; i < count; i++) {
        b[make_is(m, "big-endian") ? count - 1 - i : i] = (uint8_t)(n >> (8 * i));
    }
    make_bytes(m, b, count);
}

static void make_string(maker *m, const char *s)
{
    make_number(m, strlen(s), 8);
    make_bytes(m, s, strlen(s));
}

static void make_float(maker *m, float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    make_number(m, u, 4);
}

/* Powers of two and their sums are all that the scales here need: exact in 10 bits. */
static void make_half(maker *m, float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    make_number(m, (u >> 16 & 0x8000u) | (((u & 0x7fffffffu) - 0x38000000u) >> 13), 2);
}

/* ---- metadata ---- */

static void make_key(maker *m, const char *name, uint32_t type)
{
    if (make_is(m, "key-length") && strcmp(name, "llama.block_count") == 0) {
        make_number(m, (uint64_t)-1, 8);
        make_bytes(m, name, strlen(name));
    } else {
        make_string(m, name);
    }
    make_number(m, type, 4);
    m->keys++;
}

/* A key of the architecture's own. */
static void make_own_key(maker *m, const char *name, uint32_t type)
{
    char full[80];
    (void)snprintf(full, sizeof full, "%s.%s", m->arch, name);
    make_key(m, full, type);
}

static void make_own_size(maker *m, const char *name, uint32_t value)
{
    make_own_key(m, name, 4);
    make_number(m, value, 4);
}

static void make_size(maker *m, const char *name, uint32_t value)
{
    make_key(m, name, 4);
    make_number(m, value, 4);
}

static void make_word(maker *m, const char *name, const char *value)
{
    make_key(m, name, 8);
    make_string(m, value);
}

static void make_own_real(maker *m, const char *name, float value)
{
    make_own_key(m, name, 6);
    make_float(m, value);
}

static void make_sizes(maker *m)
{
    uint32_t layers = make_is(m, "no-layers") ? 0 : make_is(m, "many-layers") ? 3 : MAKE_LAYERS;
    uint32_t embd = make_is(m, "negative-embd") ? 0xffffff00u : MAKE_EMBD;
    if (!make_is(m, "no-arch")) make_word(m, "general.architecture", m->arch);
    make_word(m, "general.type", make_is(m, "adapter") ? "adapter" : "model");
    make_own_size(m, make_is(m, "missing-key") ? "blocks" : "block_count", layers);
    make_own_size(m, "context_length", MAKE_CONTEXT);
    make_own_size(m, "embedding_length", embd);
    make_own_size(m, "feed_forward_length", MAKE_FFN);
    if (make_is(m, "heads-array")) {
        make_own_key(m, "attention.head_count", 9);
        make_number(m, 4, 4);
        make_number(m, 1, 8);
        make_number(m, MAKE_HEADS, 4);
    } else {
        make_own_size(m, "attention.head_count", make_is(m, "no-heads") ? 0 : MAKE_HEADS);
    }
    make_own_size(m, "attention.head_count_kv", make_is(m, "heads") ? 3 : MAKE_KV);
    make_own_size(m, "expert_count", make_is(m, "experts") ? 8 : 0);
    if (make_is(m, "sliding")) {
        make_own_size(m, "attention.sliding_window", 128);
    }
}

/* As llama-gguf-split writes them; the parts behind the first have no other keys. */
static void make_parts(maker *m)
{
    int last = make_is(m, "split-last");
    if (last || make_is(m, "split") || make_is(m, "split-one")) {
        make_key(m, "split.no", 2);
        make_number(m, last ? 2 : 0, 2);
        make_key(m, "split.count", 2);
        make_number(m, make_is(m, "split-one") ? 1 : 3, 2);
    }
}

static void make_channels(maker *m)
{
    float zero = 0.0f;
    if (make_arch(m, "llama")) {
        make_own_size(m, "rope.dimension_count",
                      make_is(m, "odd-rope")    ? 63
                      : make_is(m, "wide-rope") ? 128
                                                : MAKE_DIM);
        make_own_size(m, "attention.value_length", make_is(m, "value-length") ? 32 : MAKE_DIM);
    } else if (make_arch(m, "qwen3")) {
        make_own_size(m, "attention.key_length", make_dim(m));
        make_own_size(m, "attention.value_length", make_dim(m));
    }
    make_own_real(m, "attention.layer_norm_rms_epsilon",
                  make_is(m, "eps-nan") ? zero / zero : 1e-5f);
    make_own_real(m, "rope.freq_base", make_is(m, "rope-base") ? 0.5f : 10000.0f);
}

/* Keys as files have them: with a type, with a factor alone, and with the name of before. */
static void make_scaling(maker *m)
{
    int yarn = make_is(m, "yarn") || make_is(m, "yarn-own");
    char type[80];
    (void)snprintf(type, sizeof type, "%s.rope.scaling.type", m->arch);
    if (make_is(m, "scale-linear")) {
        make_own_real(m, "rope.scale_linear", 4.0f);
    } else if (!make_is(m, "linear") && !make_is(m, "scaling-below")) {
        make_word(m, type, make_is(m, "scaling") ? "wavy" : yarn ? "yarn" : "none");
    }
    if (!make_is(m, "scale-linear")) {
        make_own_real(m, "rope.scaling.factor", make_is(m, "scaling-below") ? 0.25f : 4.0f);
    }
    if (make_is(m, "yarn-own")) {
        make_own_size(m, "rope.scaling.original_context_length", 128);
        make_own_real(m, "rope.scaling.yarn_beta_fast", 16.0f);
        make_own_real(m, "rope.scaling.yarn_beta_slow", 2.0f);
        make_own_real(m, "rope.scaling.attn_factor", 0.5f);
    }
    make_size(m, "general.alignment", make_is(m, "alignment") ? 24 : 32);
    if (make_is(m, "string-length")) {
        make_key(m, "general.name", 8);
        make_number(m, (uint64_t)1 << 63, 8);
    } else {
        make_word(m, "general.name", "tiny\nrandom");
    }
}

/* Bytes in GPT-2's printable form, six merges, three special tokens. */
static void make_tokens(maker *m)
{
    static const char *const joined[] = {"th", "the", "an", "and", "\xc4\xa0t", "\xc4\xa0the"};
    static const char *const special[] = {"<|end|>", "<|im_start|>", "<|im_end|>"};
    uint32_t count = make_is(m, "few-tokens") ? MAKE_TOKENS - 1 : MAKE_TOKENS;
    uint32_t b, moved;
    make_key(m, "tokenizer.ggml.tokens", 9);
    make_number(m, make_is(m, "array-type") ? 9 : 8, 4);
    make_number(m, make_is(m, "array-count") ? (uint64_t)1 << 61 : count, 8);
    moved = 256;
    for (b = 0; b < 256; b++) {
        int printable = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        uint32_t c = printable ? b : moved++;
        char s[3] = {0, 0, 0};
        s[0] = (char)(c < 128 ? c : 0xc0 | c >> 6);
        s[1] = (char)(c < 128 ? 0 : 0x80 | (c & 63));
        make_string(m, s);
    }
    for (uint32_t i = 0; i < 6; i++) {
        make_string(m, joined[i]);
    }
    for (uint32_t i = 0; i < 3 - (MAKE_TOKENS - count); i++) {
        make_string(m, special[i]);
    }
}

static void make_tokenizer(maker *m)
{
    static const char *const pairs[] = {"t h", "th e", "a n", "an d", "\xc4\xa0 t", "\xc4\xa0t he"};
    static const char *const good[] = {"t h", "th e", "a n", "an d", "\xc4\xa0 t", "\xc4\xa0 the"};
    uint32_t types = make_is(m, "token-types") ? MAKE_TOKENS - 1 : MAKE_TOKENS;
    int llama3 = make_is(m, "llama3") || make_is(m, "whole") || make_is(m, "no-bos");
    uint32_t merges = make_is(m, "whole") ? 5 : 6; /* without the one that makes " the" */
    make_word(m, "tokenizer.ggml.model", make_is(m, "tokenizer") ? "llama" : "gpt2");
    make_word(m, "tokenizer.ggml.pre",
              make_is(m, "pre")       ? "unheard-of"
              : llama3                ? "llama-bpe"
              : make_arch(m, "llama") ? "smollm"
                                      : "qwen2");
    make_tokens(m);
    make_key(m, "tokenizer.ggml.merges", 9);
    make_number(m, 8, 4);
    make_number(m, merges, 8);
    for (uint32_t i = 0; i < merges; i++) {
        int unknown = make_is(m, "merge-unknown") && i == 5;
        make_string(m, unknown ? pairs[i] : make_is(m, "merge-space") && i == 3 ? "and" : good[i]);
    }
    make_key(m, "tokenizer.ggml.token_type", 9);
    make_number(m, 5, 4);
    make_number(m, types, 8);
    for (uint32_t i = 0; i < types; i++) {
        make_number(m, i < 262 ? 1 : 3, 4);
    }
    if (!make_is(m, "no-bos")) {
        make_size(m, "tokenizer.ggml.bos_token_id", make_is(m, "bos") ? MAKE_TOKENS : 262);
    }
    make_size(m, "tokenizer.ggml.eos_token_id", 262);
    if (!llama3) {
        make_key(m, "tokenizer.ggml.add_bos_token", make_is(m, "value-type") ? 13 : 7);
        make_number(m, make_is(m, "bos-key") ? 1 : 0, 1);
    }
}

/* ---- tensors ---- */

static make_tensor *make_add(maker *m, const char *name, uint32_t format, size_t cols, size_t rows,
                             float size)
{
    make_tensor *t = &m->tensors[m->tensor_count++];
    (void)snprintf(t->name, sizeof t->name, "%s.weight", name);
    t->format = format;
    t->cols = cols;
    t->rows = rows;
    t->size = size;
    return t;
}

/* Biases, those of keys large; norms of heads. */
static void make_extras(maker *m, int l)
{
    static const char *const parts[3] = {"attn_q", "attn_k", "attn_v"};
    size_t dim = make_dim(m);
    for (int i = 0; i < 3 && (make_is(m, "biased") || make_arch(m, "qwen2")); i++) {
        make_tensor *t =
            make_add(m, "", 0, (i == 0 ? MAKE_HEADS : MAKE_KV) * dim, 1, i == 1 ? 8.0f : 1.0f);
        (void)snprintf(t->name, sizeof t->name, "blk.%d.%s.bias", l, parts[i]);
        t->bias = 1;
        m->tensor_count -= make_is(m, "no-bias") && i == 1;
    }
    char name[32];
    for (int i = 0; i < 2 && (make_is(m, "extra-norm") || make_arch(m, "qwen3")); i++) {
        (void)snprintf(name, sizeof name, "blk.%d.%s_norm", l, parts[i]);
        (void)make_add(m, name, 0, dim, 1, 1.0f);
        m->tensor_count -= make_is(m, "no-norm") && i == 1;
    }
}

static void make_layer(maker *m, int l)
{
    static const char *const names[7] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                         "ffn_gate", "ffn_up", "ffn_down"};
    size_t dim = make_dim(m);
    size_t cols[7] = {MAKE_EMBD, MAKE_EMBD, MAKE_EMBD, 0, MAKE_EMBD, MAKE_EMBD, MAKE_FFN};
    size_t rows[7] = {0, 0, 0, MAKE_EMBD, MAKE_FFN, MAKE_FFN, MAKE_EMBD};
    rows[0] = MAKE_HEADS * dim;
    rows[1] = MAKE_KV * dim;
    rows[2] = rows[1];
    cols[3] = rows[0];
    char name[32];
    (void)snprintf(name, sizeof name, "blk.%d.attn_norm", l);
    (void)make_add(m, name, 0, MAKE_EMBD, 1, 1.0f);
    (void)snprintf(name, sizeof name, "blk.%d.ffn_norm", l);
    (void)make_add(m, name, 0, MAKE_EMBD, 1, 1.0f);
    for (size_t i = 0; i < 7; i++) {
        (void)snprintf(name, sizeof name, "blk.%d.%s", l, names[i]);
        if (!make_is(m, "missing-tensor") || i != 3) {
            (void)make_add(m, name, m->format, cols[i],
                           rows[i] / (make_is(m, "wrong-shape") && i == 4 ? 2 : 1), 0.06f);
        }
    }
    make_extras(m, l);
}

static void make_list(maker *m)
{
    (void)make_add(m, "token_embd", m->format, MAKE_EMBD, MAKE_TOKENS, 1.0f);
    (void)make_add(m, "output_norm", 0, MAKE_EMBD, 1, 1.0f);
    for (int l = 0; l < MAKE_LAYERS; l++) {
        make_layer(m, l);
    }
    if (make_is(m, "untied")) {
        (void)make_add(m, "output", m->format, MAKE_EMBD, MAKE_TOKENS, 0.06f);
    }
    if (make_is(m, "freqs") || make_is(m, "llama3")) {
        (void)make_add(m, "rope_freqs", 0, MAKE_DIM / 2, 1, 1.0f);
    }
    if (make_is(m, "extra-tensor") || make_is(m, "twice-tensor")) {
        (void)make_add(m, make_is(m, "extra-tensor") ? "blk.0.attn_q_norm" : "output_norm", 0,
                       MAKE_EMBD, 1, 1.0f);
    }
}

static const make_format *make_find(uint32_t id)
{
    size_t i;
    for (i = 0; make_formats[i].id != id; i++) {
    }
    return &make_formats[i];
}

static void make_infos(maker *m)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < m->tensor_count; i++) {
        make_tensor *t = &m->tensors[i];
        const make_format *f = make_find(t->format);
        int first = i == 0;
        uint32_t dims = t->rows > 1 ? 2 : 1;
        uint64_t far = offset;
        make_number(m, first && make_is(m, "tensor-name") ? 1000000 : strlen(t->name), 8);
        make_bytes(m, t->name, strlen(t->name));
        dims = first && make_is(m, "dims-zero") ? 0 : first && make_is(m, "dims-five") ? 5 : dims;
        make_number(m, dims, 4);
        make_number(m, first && make_is(m, "row-length") && f->items > 1 ? t->cols - 1 : t->cols,
                    8);
        if (t->rows > 1) {
            make_number(m,
                        first && make_is(m, "shape-zero")   ? 0
                        : first && make_is(m, "shape-huge") ? (uint64_t)1 << 62
                                                            : t->rows,
                        8);
        }
        make_number(m, first && (make_is(m, "tensor-type") || make_is(m, "arch")) ? 77 : t->format,
                    4);
        far = first && make_is(m, "offset-far") ? (uint64_t)1 << 40 : far;
        far = first && make_is(m, "offset-wraps") ? (uint64_t)0 - 32 : far;
        make_number(m, far, 8);
        t->offset = offset;
        offset += (t->cols / f->items * f->bytes * t->rows + 31) / 32 * 32;
    }
}

/* A float between -size and size with 8 significant bits, so that F16 and BF16 hold it too. */
static float make_weight(maker *m, float size)
{
    return (float)((int)(make_random(m) >> 24) - 128) / 128.0f * size;
}

static void make_scales(maker *m, uint32_t format, float size)
{
    float unit = size < 0.5f ? 0.015625f : 0.25f;
    if (format == 8) {
        make_half(m, unit / 16.0f);
    } else if (format == 2) {
        make_half(m, unit);
    } else if (format == 3) {
        make_half(m, unit);
        make_half(m, -7.5f * unit);
    } else if (format == 6) {
        make_half(m, unit / 2.0f);
    } else if (format == 7) {
        make_half(m, unit / 2.0f);
        make_half(m, -7.75f * unit);
    } else if (format == 12 || format == 13) {
        make_half(m, unit / 64.0f);
        make_half(m, unit / 8.0f);
    }
}

/* Scales that stand behind the block's random bytes: how many bytes, and what. */
static size_t make_scales_behind(maker *m, uint32_t format, float size, int write)
{
    if (write && format == 10) {
        make_half(m, size < 0.5f ? 0.0009765625f : 0.015625f);
        make_half(m, size < 0.5f ? 0.001953125f : 0.03125f);
    } else if (write && (format == 11 || format == 14)) {
        make_half(m, size < 0.5f ? 0.00006103515625f : 0.0009765625f);
    }
    return format == 10 ? 4 : format == 11 || format == 14 ? 2 : 0;
}

static void make_data(maker *m)
{
    size_t i, j, k;
    for (i = 0; i < m->tensor_count; i++) {
        const make_tensor *t = &m->tensors[i];
        const make_format *f = make_find(t->format);
        for (j = 0; j < t->cols / f->items * t->rows; j++) {
            size_t end = m->count + f->bytes;
            float weight = make_weight(m, t->size);
            uint32_t u;
            memcpy(&u, &weight, 4);
            if (t->format == 0) {
                make_float(m, t->rows == 1 && !t->bias ? 1.0f + 0.5f * weight : weight);
            } else if (t->format == 1) {
                make_half(m, weight == 0.0f ? t->size / 128.0f : weight);
            } else if (t->format == 30) {
                make_number(m, u >> 16, 2);
            } else {
                make_scales(m, t->format, t->size);
                end -= make_scales_behind(m, t->format, t->size, 0);
                for (k = m->count; k < end; k++) {
                    make_number(m, make_random(m) >> 24, 1);
                }
                (void)make_scales_behind(m, t->format, t->size, 1);
            }
        }
        while (m->count % 32 != 0 && i + 1 < m->tensor_count) {
            make_number(m, 0, 1);
        }
    }
}

/* ---- the file ---- */

/* Key and tensor counts stand before what they count, so they are put in afterwards. */
static void make_patch(maker *m, size_t at, uint64_t n)
{
    for (size_t i = 0; i < 8; i++) {
        m->data[at + (make_is(m, "big-endian") ? 7 - i : i)] = (uint8_t)(n >> (8 * i));
    }
}

/* Returns the model's bytes, which the caller frees, or NULL for an unknown format. */
static uint8_t *make_model(const char *format, const char *twist, size_t *count)
{
    maker *m = (maker *)calloc(1, sizeof *m);
    size_t f;
    for (f = 0; f < MAKE_FORMATS && strcmp(make_formats[f].name, format) != 0; f++) {
    }
    if (m == NULL || f == MAKE_FORMATS) {
        free(m);
        return NULL;
    }
    m->format = make_formats[f].id;
    m->twist = twist;
    m->arch = make_is(m, "arch") ? "mamba" : "llama";
    m->arch = make_is(m, "qwen2") || make_is(m, "no-bias") ? "qwen2" : m->arch;
    m->arch = make_is(m, "qwen3") || make_is(m, "no-norm") ? "qwen3" : m->arch;
    m->random = 1;
    make_bytes(m, make_is(m, "magic") ? "GGML" : "GGUF", 4);
    make_number(m, make_is(m, "version") ? 2 : 3, 4);
    make_number(m, 0, 8);
    make_number(m, 0, 8);
    make_parts(m);
    if (!make_is(m, "split-last")) {
        make_sizes(m);
        make_channels(m);
        make_scaling(m);
        make_tokenizer(m);
    }
    make_list(m);
    make_patch(m, 8, make_is(m, "tensor-count") ? (uint64_t)1 << 60 : m->tensor_count);
    make_patch(m, 16, make_is(m, "key-count") ? (uint64_t)1 << 60 : m->keys);
    make_infos(m);
    while (m->count % 32 != 0) {
        make_number(m, 0, 1);
    }
    make_data(m);
    uint8_t *data = m->data;
    *count = m->count;
    free(m);
    return data;
}

static int make_file(const char *path, const char *format, const char *twist)
{
    size_t count = 0;
    uint8_t *data = make_model(format, twist, &count);
    FILE *file = data != NULL ? fopen(path, "wb") : NULL;
    int ok = file != NULL && fwrite(data, 1, count, file) == count;
    if (file != NULL && fclose(file) != 0) ok = 0;
    free(data);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < MAKE_FORMATS; i++) {
            printf("format %s\n", make_formats[i].name);
        }
        for (size_t i = 0; i < MAKE_FEATURES; i++) {
            printf("feature %s\n", make_features[i]);
        }
        for (size_t i = 0; i < MAKE_FAULTS; i++) {
            printf("fault %s\n", make_faults[i]);
        }
        return 0;
    }
    if (argc < 2 || !make_file(argv[1], argc > 2 ? argv[2] : "F32", argc > 3 ? argv[3] : "")) {
        fprintf(stderr, "usage: make_gguf OUT [FORMAT [TWIST]], or make_gguf list\n");
        return 1;
    }
    return 0;
}
