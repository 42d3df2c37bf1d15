/* cc -O3 -march=native examples/lm/lm.c -o lm -lm -lpthread */

/* lm.c - a language model in C, to judge a KV codec by what it does to one

   Runs a GGUF file of the Llama family (llama, qwen2, qwen3; whole and little-endian, byte-level
   BPE) with a cache that goes through a codec:

       ./lm generate "The capital of France is" --model M.gguf --kv hot:4
       ./lm generate "It was" --model M.gguf --kv hot:4 --save it.lq
       ./lm generate --resume it.lq --model M.gguf
       ./lm eval q8_0 q4_0 hq4_0 hot:4 --model M.gguf --text book.txt
       ./lm eval q4_0 hot:4 --model M.gguf --text book.txt --resume 1024:256
       ./lm dump --model M.gguf --text book.txt --layers 10,20 --out book
       ./lm calibrate --self --model M.gguf --out model.lqp
       ./lm eval cold:z:k=0.65,v=0.6@model.lqp --model M.gguf --text book.txt
       ./lm info --model M.gguf

   lm_gguf.h reads the file, lm_token.h the text, lm_model.h computes, lm_cache.h holds the cache in
   floats and lm_live.h the one of lq_kv, lm_kinds.h the list of codecs, lm_session.h saves and
   resumes, lm_eval.h compares, lm_calibrate.h makes profiles, lm_self.h text to make them from. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <stddef.h>

#include "lm_calibrate.h"
#include "lm_eval.h"
#include "lm_self.h"
#include "lm_session.h"

/* What an option that may come several times was given. */
typedef struct lm_list {
    const char **at;
    size_t count;
} lm_list;

#define LM_UNSET SIZE_MAX

typedef struct lm_options {
    const char *mode;
    const char *model;
    const char *text; /* the last of texts */
    const char *out;  /* likewise */
    lm_list texts;
    lm_list outs;
    lm_list groups;
    const char *kv;
    const char *pre;
    const char *order;
    const char *layers;
    const char *save;
    const char *profile;
    const char *quantizer;
    double past;
    double safe;
    const char *resume;
    size_t tokens;
    size_t tokens_given; /* 0: they are as the mode likes it */
    size_t passages;
    size_t sinks;  /* LM_UNSET: as the mode likes it */
    size_t window; /* likewise */
    size_t chunk;
    size_t threads;
    size_t count;
    size_t seed;
    size_t queries;
    size_t top;         /* 0: as the mode likes it */
    double temperature; /* below 0: likewise */
    double step;
    double step_v;
    double beta;
    double ratio;
    double tolerance;
    int joint;
    int repeat;
    int self;
    int warm;
    int own;
    int json;
    int chat;
    const char **words;
    size_t word_count;
} lm_options;

static const char lm_usage[] =
    "usage: lm MODE [arguments] --model FILE.gguf [options]\n"
    "\n"
    "  generate PROMPT     continue the prompt, greedily\n"
    "    --kv CODEC          the cache's codec (default f32); hot:8, :6, :5, :4, :e8, :3, :2,\n"
    "                        hot:8/4 (keys/values) and live:raw are live, without floats beside\n"
    "    --window N          last tokens that stay raw (default: live 64, others 0)\n"
    "    --sinks N           first ones (default 4)\n"
    "    --count N           tokens at most (default 128)\n"
    "    --temperature T     sample instead, from the --top N (default 40) likeliest\n"
    "    --seed N            of the sampling (default 1)\n"
    "    --chat              wrap the prompt as a user's message (ChatML)\n"
    "    --save FILE         keep the session, with a live cache\n"
    "    --resume FILE       go on with one, or with the PROMPT behind it; options as they were\n"
    "    --profile FILE.lqp  save it packed, with the profiles of calibrate --joint; also to resume\n"
    "    --quantizer Q       of packing: z (default), d4, e8, e8r, t8; t64 with 1.2 times the step\n"
    "                        loses as much and is 8 to 10 % smaller, but slower\n"
    "    --step S            of packing (default 0.8), --step-v of profiles of values (0.8)\n"
    "    --past E            finer steps for what was attended to: exponent, as 0.25\n"
    "    --safe E            for what can expect it (default 0.15, with --past 0)\n";

static const char lm_usage_more[] =
    "  eval [CODEC ...]    perplexity, KLD and bits of codecs (default: all rivals)\n"
    "    --text FILE         on passages of this text\n"
    "    --tokens N          a passage (default 1024)\n"
    "    --passages N        evenly spaced (default 4)\n"
    "    --sinks N           first tokens that stay raw (default 4)\n"
    "    --window N          last tokens that stay raw, of every codec (default 0)\n"
    "    --chunk N           tokens that are coded together, after they were seen raw, or that a\n"
    "                        live cache takes at a time: 1, 2, 4, ... 64 (default 64, live 1, or\n"
    "                        8 with a window of 32)\n"
    "    --resume P:T        a prefix of P tokens runs raw and is coded whole, all but the sinks;\n"
    "                        the next T, themselves raw, are judged on what is read back\n"
    "    --repeat            they are tokens 200, 201, ... of the prefix again\n"
    "  calibrate           profiles of the model, for eval's SPEC@FILE\n"
    "    --text FILE         on passages of this text; several times for several texts\n"
    "    --self              or on text that the model writes itself (--seed, --temperature 1)\n"
    "    --tokens N          a passage (default 1024, with --self 192)\n"
    "    --passages N        of each text (default 20), or with --self in all (default 256)\n"
    "    --group G           what is coded together: head, layer (default), or N layers\n"
    "    --step S            finest step that the profiles serve (default 0.2)\n"
    "    --step-v S          that of the values, if it is another\n"
    "    --joint             keys and values in one basis, with one step\n"
    "    --ratio R           joint: the values' step, relative to their size, over the keys'\n"
    "                        (default 1.4)\n"
    "    --tolerance T       error of the rounded basis over the step's (default 0.02)\n"
    "    --beta B            exponent of the query metric, 0 to 1 (default 0.5; 0: none)\n"
    "    --warm              keep RoPE (the codecs are warm:, not cold:)\n"
    "    --own               for coding these very passages: SPEC,own=1@FILE counts the file's "
    "bytes\n"
    "    --out FILE.lqp      after each --group its own, where there are several\n"
    "  dump                K after RoPE, V and Q as .npy, f16 [layers][heads][tokens][channels]\n"
    "    --text FILE --tokens N --layers 10,20 --out PREFIX\n"
    "    --queries N         only the last N tokens' queries (default all)\n"
    "  tokens --text FILE  token numbers, one a line\n"
    "  info                what the file holds\n"
    "  codecs              the list (NAME/NAME gives K and V different ones)\n"
    "\n"
    "  --order gguf        channels as the file has them, llama's in adjacent pairs (default:\n"
    "                      half-split)\n"
    "  --pre NAME          how text is cut: smollm, gpt-2, llama-bpe, qwen2 (default: as the\n"
    "                      file says); with llama-bpe it begins with a BOS, if the file does not\n"
    "                      say otherwise; none is added to a text that begins with one\n"
    "  --threads N         (default 2)      --json   for machines\n"
    "  LM_MODEL in the environment stands in for --model.\n";

/* ---- command line ---- */

enum { LM_OPTION_WORD, LM_OPTION_LIST, LM_OPTION_SIZE, LM_OPTION_REAL, LM_OPTION_FLAG };

typedef struct lm_option {
    const char *name;
    int kind;
    size_t field;
    size_t min;
    size_t max;
} lm_option;

static const lm_option lm_option_list[] = {
    {"--model", LM_OPTION_WORD, offsetof(lm_options, model), 0, 0},
    {"--text", LM_OPTION_LIST, offsetof(lm_options, texts), 0, 0},
    {"--out", LM_OPTION_LIST, offsetof(lm_options, outs), 0, 0},
    {"--kv", LM_OPTION_WORD, offsetof(lm_options, kv), 0, 0},
    {"--pre", LM_OPTION_WORD, offsetof(lm_options, pre), 0, 0},
    {"--order", LM_OPTION_WORD, offsetof(lm_options, order), 0, 0},
    {"--layers", LM_OPTION_WORD, offsetof(lm_options, layers), 0, 0},
    {"--tokens", LM_OPTION_SIZE, offsetof(lm_options, tokens), LM_CHUNK, 1u << 24},
    {"--passages", LM_OPTION_SIZE, offsetof(lm_options, passages), 1, 100000},
    {"--sinks", LM_OPTION_SIZE, offsetof(lm_options, sinks), 0, 1u << 24},
    {"--window", LM_OPTION_SIZE, offsetof(lm_options, window), 0, 1u << 24},
    {"--chunk", LM_OPTION_SIZE, offsetof(lm_options, chunk), 1, LM_CHUNK},
    {"--save", LM_OPTION_WORD, offsetof(lm_options, save), 0, 0},
    {"--resume", LM_OPTION_WORD, offsetof(lm_options, resume), 0, 0},
    {"--profile", LM_OPTION_WORD, offsetof(lm_options, profile), 0, 0},
    {"--quantizer", LM_OPTION_WORD, offsetof(lm_options, quantizer), 0, 0},
    {"--past", LM_OPTION_REAL, offsetof(lm_options, past), 0, 1},
    {"--safe", LM_OPTION_REAL, offsetof(lm_options, safe), 0, 1},
    {"--threads", LM_OPTION_SIZE, offsetof(lm_options, threads), 1, 256},
    {"--count", LM_OPTION_SIZE, offsetof(lm_options, count), 0, 1u << 24},
    {"--seed", LM_OPTION_SIZE, offsetof(lm_options, seed), 0, 0xffffffffu},
    {"--queries", LM_OPTION_SIZE, offsetof(lm_options, queries), 1, 1u << 24},
    {"--top", LM_OPTION_SIZE, offsetof(lm_options, top), 1, 64},
    {"--temperature", LM_OPTION_REAL, offsetof(lm_options, temperature), 0, 100},
    {"--group", LM_OPTION_LIST, offsetof(lm_options, groups), 0, 0},
    {"--step", LM_OPTION_REAL, offsetof(lm_options, step), 0, 16},
    {"--step-v", LM_OPTION_REAL, offsetof(lm_options, step_v), 0, 16},
    {"--beta", LM_OPTION_REAL, offsetof(lm_options, beta), 0, 1},
    {"--ratio", LM_OPTION_REAL, offsetof(lm_options, ratio), 0, 16},
    {"--tolerance", LM_OPTION_REAL, offsetof(lm_options, tolerance), 0, 1},
    {"--joint", LM_OPTION_FLAG, offsetof(lm_options, joint), 0, 0},
    {"--repeat", LM_OPTION_FLAG, offsetof(lm_options, repeat), 0, 0},
    {"--self", LM_OPTION_FLAG, offsetof(lm_options, self), 0, 0},
    {"--warm", LM_OPTION_FLAG, offsetof(lm_options, warm), 0, 0},
    {"--own", LM_OPTION_FLAG, offsetof(lm_options, own), 0, 0},
    {"--json", LM_OPTION_FLAG, offsetof(lm_options, json), 0, 0},
    {"--chat", LM_OPTION_FLAG, offsetof(lm_options, chat), 0, 0},
};

static void lm_option_set(lm_options *o, const lm_option *option, const char *text)
{
    char *field = (char *)o + option->field;
    char *end = NULL;
    int on = 1;
    if (option->kind == LM_OPTION_FLAG) {
        memcpy(field, &on, sizeof on);
        return;
    }
    if (text == NULL) lm_fail("%s wants a value", option->name);
    if (option->kind == LM_OPTION_LIST) {
        lm_list *list = (lm_list *)(void *)field;
        list->at[list->count++] = text;
    } else if (option->kind == LM_OPTION_WORD) {
        memcpy(field, &text, sizeof text);
    } else if (option->kind == LM_OPTION_SIZE) {
        unsigned long long n;
        errno = 0;
        n = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < option->min ||
            n > option->max) {
            lm_fail("%s wants a number from %zu to %zu, not '%s'", option->name, option->min,
                    option->max, text);
        }
        size_t size = (size_t)n;
        memcpy(field, &size, sizeof size);
    } else {
        double x = strtod(text, &end);
        if (end == text || *end != '\0' || !(x >= 0.0 && x <= (double)option->max)) {
            lm_fail("%s wants a number from 0 to %zu, not '%s'", option->name, option->max, text);
        }
        memcpy(field, &x, sizeof x);
    }
}

static void lm_options_read(lm_options *o, int argc, char **argv)
{
    size_t known = sizeof lm_option_list / sizeof lm_option_list[0];
    memset(o, 0, sizeof *o);
    o->model = getenv("LM_MODEL");
    o->order = "half";
    o->sinks = LM_UNSET;
    o->window = LM_UNSET;
    o->threads = 2;
    o->count = 128;
    o->seed = LM_UNSET;
    o->temperature = -1.0;
    o->step = -1.0;
    o->safe = -1.0;
    o->mode = argv[1];
    o->beta = 0.5;
    o->words = (const char **)lm_alloc(4 * (size_t)argc, sizeof *o->words);
    o->texts.at = o->words + argc;
    o->outs.at = o->texts.at + argc;
    o->groups.at = o->outs.at + argc;
    size_t j;
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0) {
            o->words[o->word_count++] = argv[i];
            continue;
        }
        for (j = 0; j < known && strcmp(argv[i], lm_option_list[j].name) != 0; j++) {
        }
        if (j == known) lm_fail("unknown option '%s' (run 'lm help')", argv[i]);
        lm_option_set(o, &lm_option_list[j], i + 1 < argc ? argv[i + 1] : NULL);
        i += lm_option_list[j].kind != LM_OPTION_FLAG;
    }
    o->text = o->texts.count > 0 ? o->texts.at[o->texts.count - 1] : NULL;
    o->out = o->outs.count > 0 ? o->outs.at[o->outs.count - 1] : NULL;
    if (o->resume == NULL || strcmp(o->mode, "generate") != 0) { /* a session brings its own */
        o->sinks = o->sinks != LM_UNSET ? o->sinks : 4;
        o->seed = o->seed != LM_UNSET ? o->seed : 1;
        o->top = o->top > 0 ? o->top : 40;
    }
    if (o->chunk > 0 && LM_CHUNK % o->chunk != 0) {
        lm_fail("--chunk wants a power of two up to %d, not %zu", LM_CHUNK, o->chunk);
    }
    if (o->passages == 0) {
        o->passages = strcmp(o->mode, "calibrate") != 0 ? 4 : o->self ? 256 : 20;
    }
    if (o->step < 0.0) o->step = strcmp(o->mode, "generate") == 0 ? 0.8 : 0.2;
    o->tokens_given = o->tokens;
    if (o->tokens == 0) o->tokens = o->self ? 192 : 1024;
    if (strcmp(o->order, "half") != 0 && strcmp(o->order, "gguf") != 0) {
        lm_fail("--order wants 'half' or 'gguf', not '%s'", o->order);
    }
}

/* ---- what modes share ---- */

static void lm_open_model(lm_model *m, const lm_options *o)
{
    if (o->model == NULL) {
        lm_fail("no model: give --model FILE.gguf, or set LM_MODEL");
    }
    lm_model_open(m, o->model, o->threads, strcmp(o->order, "gguf") == 0);
}

/* The tokens of a text, read whole. */
static lm_tokens lm_read_file(const lm_model *m, const char *path, const char *pre)
{
    lm_tokens ids = {NULL, 0, 0};
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &info) != 0) {
        lm_fail("%s: cannot open it (%s)", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size > (off_t)1 << 30) {
        lm_fail("%s: not a file of at most 1 GiB", path);
    }
    size_t bytes = (size_t)info.st_size;
    uint8_t *text = (uint8_t *)lm_alloc(bytes, 1);
    if (fread(text, 1, bytes, file) != bytes) {
        lm_fail("%s: cannot read it", path);
    }
    fclose(file);
    lm_vocab vocab;
    lm_vocab_open(&vocab, &m->file, pre);
    lm_encode(&vocab, text, bytes, &ids);
    lm_vocab_close(&vocab);
    free(text);
    return ids;
}

static lm_tokens lm_read_text(const lm_model *m, const lm_options *o)
{
    if (o->text == NULL) lm_fail("no text: give --text FILE");
    return lm_read_file(m, o->text, o->pre);
}

/* Ends the program if a text has too few tokens for the passages. */
static void lm_check_passages(const lm_model *m, const lm_options *o, const char *path,
                              size_t count)
{
    if (o->tokens > m->context) {
        lm_fail("--tokens %zu is longer than the model's context of %zu", o->tokens, m->context);
    }
    if (o->sinks >= o->tokens) {
        lm_fail("--sinks %zu leaves nothing of %zu tokens to code", o->sinks, o->tokens);
    }
    if (o->window != LM_UNSET && o->tokens - o->sinks < o->window + 8) {
        lm_fail("--window %zu leaves nothing of %zu tokens to code", o->window, o->tokens);
    }
    if (path != NULL && (count < o->tokens || count / o->tokens < o->passages)) {
        lm_fail("%s: %zu tokens; %zu passages of %zu need %zu", path, count, o->passages, o->tokens,
                o->passages * o->tokens);
    }
}

/* Between quotes; the strings come from the command line and may hold anything. */
static void lm_json_string(const char *name, const char *text)
{
    printf("\"%s\":\"", name);
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 32) {
            printf("\\u%04x", (unsigned)*text);
        } else {
            printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
        }
    }
    printf("\"");
}

/* ---- eval ---- */

/* What a plot joins: a kind's own curve; or the spec without its last part, its numbers; or the
   name of the file of profiles, with that unless it is plain cold:z. */
static void lm_curve_name(char *dst, size_t bytes, const char *spec)
{
    const lm_codec_kind *kind = lm_codec_find(spec);
    size_t n = strcspn(spec, "@");
    const char *file = strrchr(spec, '/') ? strrchr(spec, '/') + 1 : spec + n + 1;
    size_t head = n;
    while (head > 0 && spec[head] != ':') {
        head--;
    }
    if (spec[n] == '@' && head == 6 && memcmp(spec, "cold:z", 6) == 0) {
        (void)snprintf(dst, bytes, "ours, calibrated %.*s", (int)strcspn(file, "."), file);
    } else if (spec[n] == '@') {
        (void)snprintf(dst, bytes, "ours, calibrated %.*s %.*s", (int)strcspn(file, "."), file,
                       (int)head, spec);
    } else if (head > 0) {
        (void)snprintf(dst, bytes, "%.*s", (int)head, spec);
    } else {
        (void)snprintf(dst, bytes, "%s", strchr(spec, '/') || !kind ? spec : kind->curve);
    }
}

static void lm_print_json(const lm_options *o, const lm_eval *e, const lm_result *r, double ppl)
{
    printf("{");
    lm_json_string("model", o->model);
    printf(",");
    lm_json_string("text", o->text);
    printf(",\"tokens\":%zu,\"passages\":%zu,\"sinks\":%zu,\"window\":%zu,\"chunk\":%zu,",
           e->tokens, e->passages, e->sinks, e->window, e->chunk > 0 ? e->chunk : LM_CHUNK);
    printf("\"prefix\":%zu,\"repeat\":%d,", e->prefix, e->repeat);
    lm_json_string("order", o->order);
    printf(",\"raw_ppl\":%.6f}\n", ppl);
    char curve[128];
    for (size_t i = 0; i < e->spec_count; i++, r++) {
        lm_curve_name(curve, sizeof curve, r->spec);
        printf("{");
        lm_json_string("codec", r->spec);
        printf(",");
        lm_json_string("curve", curve);
        printf(",\"bits\":%.6f,\"bits_k\":%.6f,\"bits_v\":%.6f,\"profile_bytes\":%zu,", r->bits,
               r->bits_k, r->bits_v, r->profile_bytes);
        printf("\"ppl_ratio\":%.6f,\"ppl_se\":%.6f,\"kld\":%.8f,\"kld_se\":%.8f,", r->ppl_ratio,
               r->ppl_se, r->kld, r->kld_se);
        printf("\"kld_p999\":%.6f,\"top1\":%.6f,\"seconds\":%.2f}\n", r->kld_p999, r->top1,
               r->seconds);
    }
}

static void lm_print_table(const lm_options *o, const lm_eval *e, const lm_result *r, double ppl)
{
    size_t width = 12;
    for (size_t i = 0; i < e->spec_count; i++) {
        width = strlen(r[i].spec) > width ? strlen(r[i].spec) : width;
    }
    printf("%s: %zu x %zu tokens, raw perplexity %.4f, %zu raw sinks, ", o->text, e->passages,
           e->tokens - e->prefix, ppl, e->sinks);
    if (e->prefix > 0) {
        printf("%s a prefix of %zu", e->repeat ? "repeated from" : "behind", e->prefix);
    } else {
        printf("raw window of %zu", e->window);
    }
    printf(", %s order\n\n", o->order);
    printf("| %-*s | bits K | bits V |  bits | perplexity       | KLD               | 99.9 %% | "
           "same top-1 | profile |\n",
           (int)width, "codec");
    printf("|-%.*s-|-------:|-------:|------:|-----------------:|------------------:|-------:|"
           "-----------:|--------:|\n",
           (int)width, "----------------------------------------------------------------------");
    for (size_t i = 0; i < e->spec_count; i++, r++) {
        printf("| %-*s | %6.3f | %6.3f | %5.3f | %+6.2f %% +- %.2f | %.5f +- %.5f | %6.3f | "
               "%8.2f %% | %7zu |\n",
               (int)width, r->spec, r->bits_k, r->bits_v, r->bits, 100.0 * (r->ppl_ratio - 1.0),
               100.0 * r->ppl_se, r->kld, r->kld_se, r->kld_p999, 100.0 * r->top1,
               r->profile_bytes);
    }
}

/* Ends the program at a spec that nothing can be made of, before time is spent. */
static void lm_check_specs(const lm_eval *e)
{
    for (size_t i = 0; i < e->spec_count; i++) {
        lm_cache_desc d;
        d.spec = e->specs[i];
        d.capacity = 2;
        d.sinks = e->sinks;
        d.window = e->window;
        d.chunk = e->chunk;
        d.prefix = e->prefix > 0 ? 1 : 0;
        lm_cache cache;
        lm_cache_open(&cache, &e->model->g, &e->model->pool, &d);
        cache.close(cache.state);
    }
}

/* "P:T"; then the options say the whole passage's tokens. */
static size_t lm_eval_prefix(lm_options *o)
{
    unsigned long long p = 0;
    unsigned long long t = 0;
    char end = 0;
    if (o->resume == NULL) {
        if (o->repeat) lm_fail("--repeat wants --resume P:T");
        return 0;
    }
    if (o->resume[0] < '0' || o->resume[0] > '9' ||
        sscanf(o->resume, "%9llu:%9llu%c", &p, &t, &end) != 2 || p < LM_CHUNK || t < LM_CHUNK) {
        lm_fail("eval's --resume wants PREFIX:TAIL, as 1024:256, both of at least %d tokens",
                LM_CHUNK);
    }
    if (o->tokens_given || o->window != LM_UNSET || o->chunk > 0) {
        lm_fail("--resume says how many tokens, and all of the prefix is coded: no --tokens, "
                "--window, --chunk");
    }
    if (o->sinks + 8 > p || (o->repeat && LM_REPEAT_FROM + t > p)) {
        lm_fail("--resume %s: the prefix is too short", o->resume);
    }
    o->tokens = (size_t)(p + t);
    return (size_t)p;
}

static void lm_eval_open(lm_eval *e, lm_model *m, lm_options *o)
{
    static const char *rivals[RV_CODEC_COUNT];
    for (size_t i = 0; i < RV_CODEC_COUNT; i++) {
        rivals[i] = rv_codecs[i].name;
    }
    e->model = m;
    e->prefix = lm_eval_prefix(o);
    e->repeat = o->repeat;
    e->tokens = o->tokens;
    e->passages = o->passages;
    e->sinks = o->sinks;
    e->window = o->window != LM_UNSET ? o->window : 0;
    e->chunk = o->chunk;
    e->specs = o->word_count > 0 ? o->words : rivals;
    e->spec_count = o->word_count > 0 ? o->word_count : RV_CODEC_COUNT;
}

static void lm_mode_eval(lm_options *o)
{
    lm_model m;
    lm_open_model(&m, o);
    lm_eval e;
    lm_eval_open(&e, &m, o);
    lm_check_specs(&e);
    lm_tokens ids = lm_read_text(&m, o);
    e.ids = ids.id;
    e.id_count = ids.count;
    lm_check_passages(&m, o, o->text, e.id_count);
    lm_model_load(&m);
    lm_result *results;
    results = (lm_result *)lm_alloc(e.spec_count, sizeof *results);
    double ppl = lm_eval_run(&e, results);
    if (o->json) {
        lm_print_json(o, &e, results, ppl);
    } else {
        lm_print_table(o, &e, results, ppl);
    }
    free(results);
    free(ids.id);
    lm_model_close(&m);
}

/* ---- generate ---- */

/* The likeliest token, or one drawn from the `top` likeliest. */
static uint32_t lm_sample(const float *x, size_t vocab, lm_session *s)
{
    size_t top = s->temperature > 0.0 ? s->top : 1;
    size_t n = 0;
    size_t i, j;
    double total = 0.0;
    uint32_t best[64];
    for (i = 0; i < vocab; i++) {
        if (n == top && !(x[i] > x[best[n - 1]])) continue;
        n += n < top;
        for (j = n - 1; j > 0 && x[i] > x[best[j - 1]]; j--) {
            best[j] = best[j - 1];
        }
        best[j] = (uint32_t)i;
    }
    if (top == 1) return best[0];
    double weight[64];
    for (j = 0; j < n; j++) {
        weight[j] = exp(((double)x[best[j]] - (double)x[best[0]]) / s->temperature);
        total += weight[j];
    }
    total *= lm_random(&s->random);
    for (j = 0; j + 1 < n && total >= weight[j]; j++) {
        total -= weight[j];
    }
    return best[j];
}

/* Behind a session's text the first message ends the one before it. */
static lm_tokens lm_read_prompt(lm_vocab *vocab, const lm_options *o)
{
    lm_tokens ids = {NULL, 0, 0};
    const char *prompt = o->words[0];
    size_t room = strlen(prompt) + 128;
    char *text = (char *)lm_alloc(room, 1);
    if (o->chat) {
        const char *mark = "<|im_start|>";
        uint32_t id = lm_find_token(vocab, (const uint8_t *)mark, strlen(mark));
        if (id == LM_NONE || !vocab->special[id]) {
            lm_fail("%s: --chat needs a model with %s in its vocabulary", o->model, mark);
        }
        (void)snprintf(text, room, "%s%suser\n%s<|im_end|>\n%sassistant\n",
                       o->resume != NULL ? "<|im_end|>\n" : "", mark, prompt, mark);
    } else {
        (void)snprintf(text, room, "%s", prompt);
    }
    lm_encode(vocab, (const uint8_t *)text, strlen(text), &ids);
    free(text);
    return ids;
}

/* Seconds and tokens of the prompt and of what was generated. */
typedef struct lm_speed {
    double seconds[2];
    size_t tokens[2];
} lm_speed;

/* Puts the tokens that the cache does not hold into it; returns how many the last step had. */
static size_t lm_generate_feed(lm_model *m, lm_cache *cache, lm_session *s, lm_progress *progress)
{
    size_t first = s->held;
    size_t n = 0;
    while (s->held < s->ids.count) {
        n = s->ids.count - s->held;
        n = n < LM_CHUNK - s->held % LM_CHUNK ? n : LM_CHUNK - s->held % LM_CHUNK;
        lm_forward(m, cache, s->ids.id + s->held, s->held, n);
        s->held += n;
        if (s->ids.count - first > LM_CHUNK) {
            lm_progress_show(progress, (double)(s->held - first) / (double)(s->ids.count - first));
        }
    }
    return n;
}

/* Ends with one token drawn more than written, so that a session goes on with it. */
static void lm_generate(lm_model *m, lm_vocab *vocab, lm_cache *cache, lm_session *s, size_t count,
                        lm_speed *speed)
{
    float *logits = (float *)lm_alloc(m->vocab, sizeof *logits);
    size_t end = s->ids.count + count;
    double begin = lm_seconds();
    memset(speed, 0, sizeof *speed);
    lm_progress progress;
    lm_progress_begin(&progress, "prompt");
    speed->tokens[0] = s->ids.count - s->held;
    for (;;) {
        if (s->held < s->ids.count) {
            size_t n = lm_generate_feed(m, cache, s, &progress);
            lm_logits(m, logits, n - 1, 1);
            s->next = lm_sample(logits, m->vocab, s);
        }
        if (s->ids.count == end - count) {
            lm_progress_end(&progress);
            speed->seconds[0] = lm_seconds() - begin;
        }
        if (s->next == vocab->eos || s->ids.count >= end || s->ids.count >= m->context) break;
        lm_decode_to(vocab, s->next, stdout);
        fflush(stdout);
        lm_tokens_push(&s->ids, s->next);
        s->next = LM_NONE;
    }
    printf("\n");
    speed->tokens[1] = s->ids.count - (end - count);
    speed->seconds[1] = lm_seconds() - begin - speed->seconds[0];
    free(logits);
}

/* To people, or to machines that ask for it. */
static void lm_generate_report(const lm_options *o, const lm_speed *speed, const lm_cache *cache)
{
    double rate[2];
    int live = lm_spec_live(cache->spec);
    for (int i = 0; i < 2; i++) {
        rate[i] = speed->seconds[i] > 0.0 ? (double)speed->tokens[i] / speed->seconds[i] : 0.0;
    }
    lq_kv_account a;
    memset(&a, 0, sizeof a);
    if ((!o->json && !isatty(2)) ||
        (live && lq_kv_stats(&((const lm_live *)cache->state)->kv, &a))) {
        return;
    }
    fprintf(stderr,
            o->json ? "{\"prompt_tokens\":%zu,\"prompt_rate\":%.2f,\"tokens\":%zu,\"rate\":%.2f"
                    : "%zu tokens, %.1f a second; then %zu, %.1f a second",
            speed->tokens[0], rate[0], speed->tokens[1], rate[1]);
    if (live) {
        fprintf(stderr,
                o->json
                    ? ",\"kv_tokens\":%zu,\"kv_bytes\":%zu,\"kv_bits\":%.4f,\"kv_f16_bytes\":%zu,"
                      "\"kv_block_bytes\":%zu"
                    : "; cache of %zu tokens: %zu bytes, %.2f bits a number (f16: %zu), in a "
                      "block of %zu",
                a.tokens, a.used_bytes, (double)a.bits, a.f16_bytes,
                a.page_bytes + a.free_bytes + a.raw_bytes + a.table_bytes + a.workspace_bytes);
    }
    fprintf(stderr, o->json ? "}\n" : "\n");
}

/* The options of a new session, or those of the file where nothing else was said; what changes the
   cache must not be said otherwise. */
static void lm_session_options(lm_session *s, const lm_options *o)
{
    lq_kv_policy given[2], saved[2];
    int fresh = o->resume == NULL;
    if (fresh) {
        s->next = LM_NONE;
        s->sinks = (uint32_t)o->sinks;
        s->window = o->window != LM_UNSET ? (uint32_t)o->window : lm_spec_live(o->kv) ? 64 : 0;
        (void)snprintf(s->spec, sizeof s->spec, "%s", lm_spec_live(o->kv) ? o->kv : "");
    } else if (o->kv != NULL &&
               (!lm_spec_live(o->kv) || lm_live_parse(o->kv, given) != NULL ||
                lm_live_parse(s->spec, saved) != NULL || memcmp(given, saved, sizeof saved) != 0)) {
        lm_fail("%s: saved with --kv %s, not %s", o->resume, s->spec, o->kv);
    } else if ((o->sinks != LM_UNSET && o->sinks != s->sinks) ||
               (o->window != LM_UNSET && o->window != s->window)) {
        lm_fail("%s: saved with --sinks %u --window %u, not others", o->resume, s->sinks,
                s->window);
    }
    if (fresh || o->seed != LM_UNSET) {
        s->random = o->seed * 0x9e3779b97f4a7c15u + 0x1234567;
    }
    if (fresh || o->top > 0) s->top = (uint32_t)o->top;
    if (fresh || o->temperature >= 0.0) {
        s->temperature = o->temperature > 0.0 ? o->temperature : 0.0;
    }
}

/* The prompt behind what there is; it takes the place of the token that was drawn. */
static void lm_session_prompt(lm_session *s, lm_vocab *vocab, const lm_model *m,
                              const lm_options *o)
{
    lm_tokens prompt = {NULL, 0, 0};
    if (o->word_count > 0) {
        prompt = lm_read_prompt(vocab, o);
        s->next = LM_NONE;
    }
    for (size_t i = o->resume != NULL && vocab->add_bos ? 1 : 0; i < prompt.count; i++) {
        lm_tokens_push(&s->ids, prompt.id[i]);
    }
    free(prompt.id);
    if (s->ids.count == 0 || (s->next == LM_NONE && s->held == s->ids.count)) {
        lm_fail("the prompt is empty");
    }
    if (s->ids.count > m->context) {
        lm_fail("the prompt's %zu tokens are more than the model's context of %zu", s->ids.count,
                m->context);
    }
}

static void lm_generate_open(lm_model *m, lm_vocab *vocab, lm_cache *cache, lm_session *s,
                             const lm_packing *packing, const lm_options *o)
{
    lm_session_file file;
    memset(&file, 0, sizeof file);
    if (o->resume != NULL) lm_session_open(&file, s, o->resume, m);
    lm_session_options(s, o);
    lm_session_prompt(s, vocab, m, o);
    lm_cache_desc d;
    d.spec = s->spec[0] != '\0' ? s->spec : o->kv;
    d.capacity = m->context - s->ids.count < o->count ? m->context : s->ids.count + o->count;
    d.sinks = s->sinks;
    d.window = s->window;
    d.chunk = 0;
    d.prefix = 0;
    lm_cache_open(cache, &m->g, &m->pool, &d);
    if (o->save != NULL && o->past > 0.0 && o->resume == NULL) {
        lm_live_watch((lm_live *)cache->state);
    }
    if (o->resume != NULL) {
        double begin = lm_seconds();
        lm_session_load(&file, s, (lm_live *)cache->state, packing->profiles);
        fprintf(stderr, "resumed %zu tokens in %.2f s\n", s->held, lm_seconds() - begin);
    }
}

/* What --profile says; the file is the model's. */
static void lm_packing_open(lm_packing *p, const lm_model *m, const lm_options *o)
{
    memset(p, 0, sizeof *p);
    if (o->profile == NULL) {
        if (o->past > 0.0) lm_fail("--past wants --profile");
        if (o->safe > 0.0) lm_fail("--safe wants --profile");
        if (o->quantizer) lm_fail("--quantizer wants --profile");
        return;
    }
    if (o->save == NULL && o->resume == NULL) {
        lm_fail("--profile wants --save or --resume");
    }
    p->profiles = lm_profiles_open(o->profile, &m->g, 1);
    p->quantizer = o->quantizer ? quantizer_named(o->quantizer, strlen(o->quantizer)) : LQ_Z;
    if (!p->quantizer) lm_fail("--quantizer: z, d4, e8, e8r, t8 or t64, not '%s'", o->quantizer);
    p->step = o->step;
    p->step_v = o->step_v > 0.0 ? o->step_v : 0.8;
    p->past = o->past;
    p->asked = o->safe > 0.0;
    p->safe = o->safe >= 0.0 ? o->safe : o->past > 0.0 ? 0.0 : 0.15;
    if (p->past + p->safe > 1.0) lm_fail("--past and --safe: together at most 1");
}

/* Saves the session and tells its bytes. */
static void lm_generate_save(const lm_session *s, const lm_model *m, const lm_live *live,
                             const lm_packing *packing, const lm_options *o)
{
    double begin = lm_seconds();
    size_t numbers = 2 * m->g.layers * m->g.kv_heads * m->g.head_dim;
    size_t tokens = lq_kv_tokens(&live->kv);
    size_t bytes =
        lm_session_save(s, o->save, m, live, packing->profiles != NULL ? packing : NULL);
    fprintf(stderr, "saved %zu tokens in %.2f s: %zu bytes, %.3f bits a number, f16 / %.1f\n",
            tokens, lm_seconds() - begin, bytes, 8.0 * (double)bytes / (double)(numbers * tokens),
            2.0 * (double)(numbers * tokens) / (double)bytes);
}

static void lm_mode_generate(const lm_options *o)
{
    lm_session s;
    memset(&s, 0, sizeof s);
    if (o->word_count > 1 || (o->word_count == 0 && o->resume == NULL)) {
        lm_fail("generate wants one prompt (in quotes)");
    }
    if (o->save != NULL && o->resume == NULL && !lm_spec_live(o->kv)) {
        lm_fail("--save wants a live cache, as --kv hot:4");
    }
    lm_model m;
    lm_open_model(&m, o);
    lm_vocab vocab;
    lm_vocab_open(&vocab, &m.file, o->pre);
    lm_packing packing;
    lm_packing_open(&packing, &m, o);
    lm_cache cache;
    lm_generate_open(&m, &vocab, &cache, &s, &packing, o);
    lm_model_load(&m);
    for (size_t i = s.held; i < s.ids.count && !o->chat; i++) {
        lm_decode_to(&vocab, s.ids.id[i], stdout);
    }
    fflush(stdout);
    lm_speed speed;
    lm_generate(&m, &vocab, &cache, &s, o->count, &speed);
    lm_generate_report(o, &speed, &cache);
    if (o->save != NULL) {
        lm_generate_save(&s, &m, (const lm_live *)cache.state, &packing, o);
    }
    if (packing.profiles != NULL) lm_profiles_close(packing.profiles);
    cache.close(cache.state);
    free(s.ids.id);
    lm_vocab_close(&vocab);
    lm_model_close(&m);
}

/* ---- calibrate ---- */

/* "head", "layer" or a number of layers. */
static void lm_calibration_group(const lm_model *m, const char *group, size_t *heads,
                                 size_t *layers)
{
    char *end;
    unsigned long n = strtoul(group, &end, 10);
    *heads = m->g.kv_heads;
    *layers = 1;
    if (strcmp(group, "head") == 0) {
        *heads = 1;
    } else if (strcmp(group, "layer") != 0) {
        if (group[0] < '0' || group[0] > '9' || *end != '\0' || n == 0 || n > m->g.layers) {
            lm_fail("--group wants 'head', 'layer' or a number of layers up to %zu, not '%s'",
                    m->g.layers, group);
        }
        *layers = n;
    }
}

/* Passages, evenly spaced, of every text. Returns the texts' tokens, which the caller frees. */
static lm_tokens *lm_calibration_texts(lm_calibration *c, const lm_options *o)
{
    lm_tokens *texts = (lm_tokens *)lm_alloc(o->texts.count, sizeof *texts);
    size_t i, p;
    c->passage_count = o->texts.count * o->passages;
    c->passages = (const uint32_t **)lm_alloc(c->passage_count, sizeof *c->passages);
    for (i = 0; i < o->texts.count; i++) {
        texts[i] = lm_read_file(c->model, o->texts.at[i], o->pre);
        lm_check_passages(c->model, o, o->texts.at[i], texts[i].count);
        for (p = 0; p < o->passages; p++) {
            c->passages[i * o->passages + p] = texts[i].id + p * (texts[i].count / o->passages);
        }
    }
    return texts;
}

/* Room for text that is still to be written. */
static lm_tokens *lm_calibration_blank(lm_calibration *c, const lm_options *o)
{
    lm_tokens *text = (lm_tokens *)lm_alloc(1, sizeof *text);
    lm_check_passages(c->model, o, NULL, 0);
    text->id = (uint32_t *)lm_alloc(o->passages * o->tokens, sizeof *text->id);
    text->count = o->passages * o->tokens;
    c->passage_count = o->passages;
    c->passages = (const uint32_t **)lm_alloc(c->passage_count, sizeof *c->passages);
    for (size_t p = 0; p < o->passages; p++) {
        c->passages[p] = text->id + p * o->tokens;
    }
    return text;
}

/* Writes the text; returns the seconds that it took. */
static double lm_calibration_write(const lm_calibration *c, const lm_options *o, uint32_t *ids,
                                   size_t batch)
{
    double begin = lm_seconds();
    lm_vocab vocab;
    lm_vocab_open(&vocab, &c->model->file, o->pre);
    lm_self s;
    s.model = c->model;
    s.vocab = &vocab;
    s.passages = o->passages;
    s.tokens = o->tokens;
    s.seed = o->seed;
    s.temperature = o->temperature > 0.0 ? o->temperature : 1.0;
    lm_self_write(&s, ids, batch);
    lm_vocab_close(&vocab);
    return lm_seconds() - begin;
}

/* Told before any of it is taken. */
static void lm_calibration_memory(const lm_options *o, const lm_fitter *fitters, size_t count,
                                  size_t caches)
{
    size_t sums = 0;
    size_t solving = 0;
    for (size_t i = 0; i < count; i++) {
        sums += fitters[i].sum_bytes;
        solving = lm__max(solving, fitters[i].solving_bytes);
    }
    if (o->json) {
        printf("{\"sampling_memory\":%zu,\"reading_memory\":%zu,\"solving_memory\":%zu}\n", caches,
               sums, sums + solving);
    } else {
        printf("memory beside the model: %.1f MB of sums while reading, at most %.1f MB solving",
               1e-6 * (double)sums, 1e-6 * (double)(sums + solving));
        printf(caches > 0 ? ", %.1f MB of caches while sampling\n" : "\n", 1e-6 * (double)caches);
    }
    fflush(stdout);
}

static void lm_calibration_json(const lm_options *o, const lm_fitter *f, const char *group,
                                double sampling)
{
    static const char *const names[2] = {"keys", "values"};
    const lm_calibrated *r = &f->result;
    printf("{");
    lm_json_string("model", o->model);
    printf(",");
    lm_json_string("out", f->out);
    printf(",");
    lm_json_string("group", group);
    printf(",\"groups\":%zu,\"tokens\":%zu,\"bytes\":%zu,\"share\":%.6f,",
           r->groups[0] + r->groups[1], r->tokens, r->bytes,
           (double)r->bytes / (double)f->c->model->file.bytes);
    printf("\"seconds_sampling\":%.2f,\"seconds_forward\":%.2f,\"seconds_fitting\":%.2f,", sampling,
           f->c->seconds_forward, r->seconds_adding + r->seconds_solving);
    printf("\"seconds_adding\":%.2f,\"seconds_solving\":%.2f}\n", r->seconds_adding,
           r->seconds_solving);
    for (int s = 0; s < (f->c->joint ? 1 : 2); s++) {
        printf("{\"stream\":\"%s\",\"dims\":%zu,\"rank\":%.2f,\"basis_bits\":%.4f,"
               "\"channel_bits\":%.4f,\"shrinkage\":%.4f,\"basis_loss\":%.4f}\n",
               f->c->joint ? "both" : names[s], r->dims, r->rank[s], r->basis_bits[s],
               r->channel_bits[s], r->shrinkage[s], r->basis_loss[s]);
    }
}

static void lm_calibration_table(const lm_fitter *f, double sampling)
{
    static const char *const names[2] = {"keys", "values"};
    const lm_calibrated *r = &f->result;
    printf("\n%s: %zu + %zu groups of %zu dims, %zu bytes, %.2f %% of the model's file\n", f->out,
           r->groups[0], r->groups[1], r->dims, r->bytes,
           100.0 * (double)r->bytes / (double)f->c->model->file.bytes);
    printf("%zu tokens; sampling %.1f s, forward passes %.1f s, fitting %.1f s (adding %.1f, "
           "solving %.1f)\n\n",
           r->tokens, sampling, f->c->seconds_forward, r->seconds_adding + r->seconds_solving,
           r->seconds_adding, r->seconds_solving);
    printf("| mean of groups | rank | bits at the finest step | as channels | shrinkage | "
           "basis loss |\n|---|---:|---:|---:|---:|---:|\n");
    for (int s = 0; s < (f->c->joint ? 1 : 2); s++) {
        printf("| %s | %.1f | %.3f | %.3f | %.4f | %.4f |\n", f->c->joint ? "both" : names[s],
               r->rank[s], r->basis_bits[s], r->channel_bits[s], r->shrinkage[s], r->basis_loss[s]);
    }
}

/* What the options say, checked; the passages come after. */
static void lm_calibration_open(lm_calibration *c, lm_model *m, const lm_options *o)
{
    if ((o->texts.count > 0) == (o->self != 0)) {
        lm_fail("calibrate wants --text FILE, or --self");
    }
    if (o->outs.count == 0 ||
        (o->groups.count > 0 || o->outs.count > 1 ? o->groups.count != o->outs.count : 0)) {
        lm_fail("calibrate wants --out FILE.lqp, one for each --group");
    }
    if (!(o->step > 1e-3) || (o->step_v != 0.0 && !(o->step_v > 1e-3))) {
        lm_fail("--step: too small");
    }
    if (o->joint && (o->step_v != 0.0 || o->warm)) {
        lm_fail("--joint: %s", o->warm ? "--warm attends keys and values apart"
                                       : "the values' step is --ratio times the keys'");
    }
    if (!o->joint && o->ratio != 0.0) lm_fail("--ratio wants --joint");
    memset(c, 0, sizeof *c);
    c->model = m;
    c->tokens = o->tokens;
    c->sinks = o->sinks;
    c->step[0] = o->step;
    c->step[1] = o->step_v > 0.0 ? o->step_v : o->step;
    c->beta = o->beta;
    c->joint = o->joint;
    c->ratio = o->ratio;
    c->tolerance = o->tolerance;
    c->undo_rope = !o->warm;
    c->own = o->own;
}

/* All groupings, planned. */
static lm_fitter *lm_calibration_fitters(const lm_calibration *c, const lm_options *o,
                                         const lm_taken *t)
{
    lm_fitter *fitters = (lm_fitter *)lm_alloc(o->outs.count, sizeof *fitters);
    size_t heads, layers;
    if (c->passage_count * (c->tokens - c->sinks) < 128) {
        lm_fail("%zu tokens are too few to calibrate on",
                c->passage_count * (c->tokens - c->sinks));
    }
    for (size_t i = 0; i < o->groups.count; i++) {
        lm_calibration_group(c->model, o->groups.at[i], &heads, &layers);
    }
    for (size_t i = 0; i < o->outs.count; i++) {
        lm_calibration_group(c->model, o->groups.count > 0 ? o->groups.at[i] : "layer", &heads,
                             &layers);
        lm_fitter_open(&fitters[i], c, t, heads, layers, o->outs.at[i]);
    }
    return fitters;
}

static void lm_mode_calibrate(const lm_options *o)
{
    size_t batch = 0;
    double sampling = 0.0;
    lm_model m;
    lm_open_model(&m, o);
    lm_calibration c;
    lm_calibration_open(&c, &m, o);
    lm_tokens *texts = o->self ? lm_calibration_blank(&c, o) : lm_calibration_texts(&c, o);
    lm_taken taken;
    lm_taken_open(&taken, &m.g);
    lm_fitter *fitters = lm_calibration_fitters(&c, o, &taken);
    if (o->self) {
        batch = lm_self_batch(&m.g, o->passages, o->tokens, LM_CACHE_BUDGET);
    }
    lm_calibration_memory(o, fitters, o->outs.count, batch * lm_store_bytes(&m.g, o->tokens));
    lm_model_load(&m);
    if (o->self) sampling = lm_calibration_write(&c, o, texts[0].id, batch);
    lm_calibrate(&c, &taken, fitters, o->outs.count);
    for (size_t i = 0; i < o->outs.count; i++) {
        if (o->json) {
            lm_calibration_json(o, &fitters[i], o->groups.count > 0 ? o->groups.at[i] : "layer",
                                sampling);
        } else {
            lm_calibration_table(&fitters[i], sampling);
        }
        lm_fitter_close(&fitters[i]);
    }
    for (size_t i = 0; i < (o->self ? 1 : o->texts.count); i++) {
        free(texts[i].id);
    }
    lm_taken_close(&taken);
    free(fitters);
    free(texts);
    free(c.passages);
    lm_model_close(&m);
}

/* ---- dump ---- */

/* One array of the dump, [layers][heads][tokens][dim] halves. */
typedef struct lm_array {
    uint16_t *data;
    size_t layers;
    size_t heads;
    size_t tokens;
    size_t dim;
    size_t first;
} lm_array;

typedef struct lm_dump {
    size_t slot[1024];
    lm_array q;
    lm_array k;
    lm_array v;
} lm_dump;

static void lm__dump_put(lm_array *a, size_t layer, const float *x, size_t position, size_t n)
{
    size_t t, h, i;
    for (t = 0; t < n; t++) {
        if (position + t < a->first) continue;
        for (h = 0; h < a->heads; h++) {
            size_t row = (layer * a->heads + h) * a->tokens + position + t - a->first;
            for (i = 0; i < a->dim; i++) {
                float value = x[(t * a->heads + h) * a->dim + i];
                a->data[row * a->dim + i] = rv_half_from_float(value);
            }
        }
    }
}

static void lm__dump_layer(void *user, size_t layer, const float *q, const float *k, const float *v,
                           size_t position, size_t n)
{
    lm_dump *d = (lm_dump *)user;
    if (d->slot[layer] > 0) {
        lm__dump_put(&d->q, d->slot[layer] - 1, q, position, n);
        lm__dump_put(&d->k, d->slot[layer] - 1, k, position, n);
        lm__dump_put(&d->v, d->slot[layer] - 1, v, position, n);
    }
}

/* "10,20" or NULL for all; returns how many. */
static size_t lm__dump_layers(lm_dump *d, const lm_model *m, const char *list)
{
    size_t count = 0;
    for (size_t i = 0; list == NULL && i < m->g.layers; i++) {
        d->slot[i] = ++count;
    }
    while (list != NULL) {
        char *end;
        unsigned long n = strtoul(list, &end, 10);
        if (list[0] < '0' || list[0] > '9' || (*end != ',' && *end != '\0') || n >= m->g.layers ||
            d->slot[n] > 0) {
            lm_fail("--layers wants numbers below %zu, each once, with commas between",
                    m->g.layers);
        }
        d->slot[n] = ++count;
        list = *end == ',' ? end + 1 : NULL;
    }
    return count;
}

static void lm__array_open(lm_array *a, size_t layers, size_t heads, size_t tokens, size_t first,
                           size_t dim)
{
    a->layers = layers;
    a->heads = heads;
    a->tokens = tokens - first;
    a->first = first;
    a->dim = dim;
    a->data = (uint16_t *)lm_alloc(layers * heads * a->tokens, dim * sizeof(uint16_t));
}

/* Written beside and renamed, so that the name never stands for half an array. */
static void lm__array_write(const lm_array *a, const char *prefix, const char *name)
{
    char path[1024];
    size_t count = a->layers * a->heads * a->tokens * a->dim;
    int n = snprintf(path, sizeof path, "%s-%s.npy", prefix, name);
    if (n < 0 || (size_t)n >= sizeof path) lm_fail("--out: too long a name");
    char beside[1040];
    (void)snprintf(beside, sizeof beside, "%s.part", path);
    char header[128];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    n = snprintf(header + 10, sizeof header - 10,
                 "{'descr': '<f2', 'fortran_order': False, 'shape': (%zu, %zu, %zu, %zu), }",
                 a->layers, a->heads, a->tokens, a->dim);
    header[10 + n] = ' ';
    header[sizeof header - 1] = '\n';
    FILE *file = fopen(beside, "wb");
    if (file == NULL) {
        lm_fail("%s: cannot write it (%s)", beside, strerror(errno));
    }
    (void)fwrite(header, 1, sizeof header, file);
    for (size_t i = 0; i < count; i++) {
        (void)fputc(a->data[i] & 255, file);
        (void)fputc(a->data[i] >> 8, file);
    }
    lm_keep(file, beside, path, NULL);
    printf("%s: (%zu, %zu, %zu, %zu) f16\n", path, a->layers, a->heads, a->tokens, a->dim);
}

static void lm_mode_dump(const lm_options *o)
{
    lm_dump *d = (lm_dump *)lm_alloc(1, sizeof *d);
    size_t layers, at, n;
    lm_model m;
    lm_open_model(&m, o);
    lm_tokens ids = lm_read_text(&m, o);
    if (o->out == NULL) lm_fail("no place for the arrays: give --out PREFIX");
    if (o->tokens > ids.count || o->tokens > m.context) {
        lm_fail("--tokens %zu: the text has %zu, the model's context %zu", o->tokens, ids.count,
                m.context);
    }
    layers = lm__dump_layers(d, &m, o->layers);
    n = o->queries > 0 && o->queries < o->tokens ? o->tokens - o->queries : 0;
    lm__array_open(&d->q, layers, m.g.heads, o->tokens, n, m.g.head_dim);
    lm__array_open(&d->k, layers, m.g.kv_heads, o->tokens, 0, m.g.head_dim);
    lm__array_open(&d->v, layers, m.g.kv_heads, o->tokens, 0, m.g.head_dim);
    lm_cache cache;
    (void)lm_store_raw(&cache, &m.g, &m.pool, o->tokens);
    lm_model_load(&m);
    m.tap.user = d;
    m.tap.layer = lm__dump_layer;
    lm_progress progress;
    lm_progress_begin(&progress, "dump");
    for (at = 0; at < o->tokens; at += n) {
        n = o->tokens - at < LM_CHUNK ? o->tokens - at : LM_CHUNK;
        lm_progress_show(&progress, (double)at / (double)o->tokens);
        lm_forward(&m, &cache, ids.id + at, at, n);
    }
    lm_progress_end(&progress);
    lm__array_write(&d->k, o->out, "k");
    lm__array_write(&d->v, o->out, "v");
    lm__array_write(&d->q, o->out, "q");
    free(d->q.data);
    free(d->k.data);
    free(d->v.data);
    free(d);
    free(ids.id);
    cache.close(cache.state);
    lm_model_close(&m);
}

/* ---- small modes ---- */

static void lm_mode_tokens(const lm_options *o)
{
    lm_model m;
    lm_open_model(&m, o);
    lm_tokens ids = lm_read_text(&m, o);
    for (size_t i = 0; i < ids.count; i++) {
        printf("%u\n", ids.id[i]);
    }
    free(ids.id);
    lm_model_close(&m);
}

static void lm_mode_codecs(void)
{
    for (size_t i = 0; i < LM_KIND_COUNT; i++) {
        printf("%-8s %s: %s\n", lm_codec_kinds[i].prefix, lm_codec_kinds[i].curve,
               lm_codec_kinds[i].usage);
    }
}

static void lm_mode_info(const lm_options *o)
{
    size_t types[LM_FORMAT_COUNT] = {0};
    uint64_t weights = 0;
    lm_model m;
    lm_open_model(&m, o);
    for (size_t i = 0; i < m.file.tensor_count; i++) {
        types[m.file.tensors[i].type]++;
        weights += (uint64_t)m.file.tensors[i].rows * m.file.tensors[i].cols;
    }
    printf(o->json ? "{\"architecture\":\"%s\"," : "architecture %s\n", m.arch->name);
    printf(o->json ? "\"layers\":%zu,\"embd\":%zu,\"ffn\":%zu,\"heads\":%zu,\"kv_heads\":%zu,"
                     "\"head_dim\":%zu,\"vocab\":%zu,\"context\":%zu,\"rope_base\":%g,"
                     "\"rope_dims\":%zu,\"weights\":%llu,\"kv_elements_per_token\":%zu"
                   : "layers      %zu\nembedding   %zu\nffn         %zu\nheads       %zu\n"
                     "kv heads    %zu\nhead_dim    %zu\nvocabulary  %zu\ncontext     %zu\n"
                     "rope base   %g\nrope dims   %zu\nweights     %llu\nKV elements %zu a token\n",
           m.g.layers, m.embd, m.ffn, m.g.heads, m.g.kv_heads, m.g.head_dim, m.vocab, m.context,
           (double)m.rope_base, m.g.rope_dims, (unsigned long long)weights,
           2 * m.g.layers * m.g.kv_heads * m.g.head_dim);
    for (size_t i = 0; i < LM_FORMAT_COUNT; i++) {
        if (types[i] > 0) {
            printf(o->json ? ",\"%s\":%zu" : "%-11s %zu tensors\n", lm_formats[i].name, types[i]);
        }
    }
    printf(o->json ? "}\n" : "");
    lm_model_close(&m);
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0) {
        fputs(lm_usage, argc < 2 ? stderr : stdout);
        fputs(lm_usage_more, argc < 2 ? stderr : stdout);
        return argc < 2;
    }
    lm_options o;
    lm_options_read(&o, argc, argv);
    if (strcmp(o.mode, "generate") == 0) {
        lm_mode_generate(&o);
    } else if (strcmp(o.mode, "eval") == 0) {
        lm_mode_eval(&o);
    } else if (strcmp(o.mode, "calibrate") == 0) {
        lm_mode_calibrate(&o);
    } else if (strcmp(o.mode, "dump") == 0) {
        lm_mode_dump(&o);
    } else if (strcmp(o.mode, "tokens") == 0) {
        lm_mode_tokens(&o);
    } else if (strcmp(o.mode, "codecs") == 0) {
        lm_mode_codecs();
    } else if (strcmp(o.mode, "info") == 0) {
        lm_mode_info(&o);
    } else {
        lm_fail("unknown mode '%s' (run 'lm help')", o.mode);
    }
    free(o.words);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        lm_fail("cannot write the output");
    }
    return 0;
}
