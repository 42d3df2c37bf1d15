/* lm_self.h - part of lm.c: text that the model writes itself, to calibrate on without data

   Many passages begin with short seeds, half of them prose and half code, and go on with tokens
   drawn from the model's own distribution. Where it ends a document, the passage goes on with
   another seed of its kind. All passages advance together, one token of each at a time, so the
   weights are read once for all; the text depends on --seed alone, not on the threads. Many short
   passages serve better than few long ones: their subjects differ more. */
#ifndef LM_SELF_H
#define LM_SELF_H

#include "lm_model.h"

/* No seed ends in a space: the tokens that follow bring their own. */
static const char *const lm_self_prose[] = {
    "The",
    "In 1987,",
    "Dear",
    "She said, \"",
    "Once upon a time",
    "How do I",
    "What is",
    "-",
    "1.",
    "\"No,\" he",
    "According to",
    "It was",
    "We",
    "My",
    "For many years,",
    "The city of",
    "During the war,",
    "Researchers at",
    "Ingredients:\n",
    "Chapter 1\n\n",
    "A",
    "If you",
    "Question:",
    "There are",
    "When I was",
    "John",
    "Water",
    "On Monday,",
    "Abstract:",
    "Why",
    "They had",
    "The history of",
    "Music",
    "To whom it may concern,\n\n",
    "In mathematics,",
    "He was born in",
    "The river",
    "Today",
    "Animals",
    "A: Hello.\nB:",
    "The film",
    "Although",
    "Steps:\n1.",
    "Summary:",
};

static const char *const lm_self_code[] = {
    "def",
    "#include <",
    "import",
    "class",
    "for (int i = 0;",
    "function",
    "static int",
    "#!/bin/sh\n",
    "from typing import",
    "public class",
    "if __name__ ==",
    "SELECT",
    "<html>\n",
    "const",
    "    return",
    "{\n  \"name\":",
    "#",
    "//",
    "/*",
    "int main(",
    "try:",
    "package",
    "struct",
    "    def __init__(self,",
    "while",
    "var",
    "\"\"\"",
    "let",
    "#define",
    "CREATE TABLE",
    "print(",
    "fn",
    "using namespace std;\n",
    "import numpy as np\n",
    "@property\n",
    "async def",
    "    for i in range(",
    "void",
    "raise",
    "x =",
    "template <",
    "assert",
    "import os\nimport sys\n",
    "    if not",
};

enum {
    LM_SELF_PROSE = (int)(sizeof lm_self_prose / sizeof lm_self_prose[0]),
    LM_SELF_CODE = (int)(sizeof lm_self_code / sizeof lm_self_code[0]),
    LM_SELF_MOST = LM_SELF_PROSE > LM_SELF_CODE ? LM_SELF_PROSE : LM_SELF_CODE
};

typedef struct lm_self {
    lm_model *model;
    lm_vocab *vocab;
    size_t passages;
    size_t tokens;
    size_t seed;
    double temperature;
} lm_self;

/* One passage at work: tokens that wait come before any that are drawn. */
typedef struct lm__pen {
    uint64_t random;
    uint32_t *ids;
    lm_tokens waiting;
    size_t taken;
    size_t kind;
    size_t next_seed;
} lm__pen;

typedef struct lm__desk_of_pens {
    const lm_self *self;
    lm_tokens seeds[2][LM_SELF_MOST]; /* prose, code; in the order of use */
    size_t seed_count[2];
    lm_tokens gap;
    lm__pen *pens;
    lm_cache *caches;
    uint32_t *step;
    float *logits;
    size_t position;
} lm__desk_of_pens;

/* ---- seeds ---- */

static void lm__self_seeds(lm__desk_of_pens *d)
{
    static const char *const *const lists[2] = {lm_self_prose, lm_self_code};
    lm_vocab *v = d->self->vocab;
    uint64_t random = lm_random_start(d->self->seed, 0);
    size_t kind, i, j;
    d->seed_count[0] = LM_SELF_PROSE;
    d->seed_count[1] = LM_SELF_CODE;
    lm_encode(v, (const uint8_t *)"\n\n", 2, &d->gap);
    for (kind = 0; kind < 2; kind++) {
        lm_tokens *seeds = d->seeds[kind];
        for (i = 0; i < d->seed_count[kind]; i++) {
            const char *text = lists[kind][i];
            lm_encode(v, (const uint8_t *)text, strlen(text), &seeds[i]);
        }
        for (i = d->seed_count[kind] - 1; i > 0; i--) {
            lm_tokens other = seeds[i];
            j = (size_t)(lm_random(&random) * (double)(i + 1));
            seeds[i] = seeds[j];
            seeds[j] = other;
        }
    }
}

static void lm__self_push(lm_tokens *to, const lm_tokens *from, size_t skip)
{
    for (size_t i = skip; i < from->count; i++) {
        lm_tokens_push(to, from->id[i]);
    }
}

/* The passage's next seed; a later one stands behind an empty line. */
static void lm__self_begin(lm__desk_of_pens *d, lm__pen *pen, int later)
{
    const lm_tokens *seed = &d->seeds[pen->kind][pen->next_seed % d->seed_count[pen->kind]];
    size_t skip = later && d->self->vocab->add_bos ? 1 : 0;
    pen->next_seed += (d->self->passages + 1) / 2;
    pen->waiting.count = 0;
    pen->taken = 0;
    if (later) lm__self_push(&pen->waiting, &d->gap, skip);
    lm__self_push(&pen->waiting, seed, skip);
}

/* ---- drawing ---- */

static double lm__self_sum(const float *x, size_t count)
{
    float lanes[16] = {0};
    double sum = 0.0;
    size_t i, j;
    for (i = 0; i + 16 <= count; i += 16) {
        for (j = 0; j < 16; j++) {
            lanes[j] += x[i + j];
        }
    }
    for (j = 0; j < 16; j++) {
        sum += (double)lanes[j];
    }
    for (i = count / 16 * 16; i < count; i++) {
        sum += (double)x[i];
    }
    return sum;
}

/* Draws from the softmax of x / temperature, over all tokens. Overwrites x. */
static uint32_t lm__self_draw(float *x, size_t count, double temperature, uint64_t *random)
{
    enum { RUN = 1024 };
    float scale = (float)(1.0 / temperature);
    float top = x[0];
    double total = 0.0;
    size_t i, end;
    for (i = 1; i < count; i++) {
        top = x[i] > top ? x[i] : top;
    }
    for (i = 0; i < count; i++) {
        x[i] = lm_exp((x[i] - top) * scale);
    }
    for (i = 0; i < count; i += RUN) {
        total += lm__self_sum(x + i, count - i < RUN ? count - i : RUN);
    }
    total *= lm_random(random);
    for (i = 0; i + RUN < count; i += RUN) {
        double sum = lm__self_sum(x + i, RUN);
        if (total < sum) break;
        total -= sum;
    }
    end = count - i < RUN ? count : i + RUN;
    for (; i + 1 < end && total >= (double)x[i]; i++) {
        total -= (double)x[i];
    }
    return (uint32_t)i;
}

static void lm__self_pick(void *context, size_t i, size_t worker)
{
    lm__desk_of_pens *d = (lm__desk_of_pens *)context;
    lm__pen *pen = &d->pens[i];
    size_t vocab = d->self->model->vocab;
    (void)worker;
    if (pen->taken == pen->waiting.count) {
        uint32_t id =
            lm__self_draw(d->logits + i * vocab, vocab, d->self->temperature, &pen->random);
        if (d->self->vocab->special[id]) {
            lm__self_begin(d, pen, 1);
        } else {
            pen->waiting.count = 0;
            pen->taken = 0;
            lm_tokens_push(&pen->waiting, id);
        }
    }
    pen->ids[d->position] = pen->waiting.id[pen->taken++];
    d->step[i] = pen->ids[d->position];
}

/* ---- passages ---- */

/* Passages [first, first + count) together. */
static void lm__self_round(lm__desk_of_pens *d, uint32_t *ids, size_t first, size_t count,
                           lm_progress *progress)
{
    const lm_self *s = d->self;
    lm_pool alone;
    lm_pool_open(&alone, 1);
    for (size_t i = 0; i < count; i++) {
        lm__pen *pen = &d->pens[i];
        pen->random = lm_random_start(s->seed, first + i + 1);
        pen->ids = ids + (first + i) * s->tokens;
        pen->kind = (first + i) & 1;
        pen->next_seed = (first + i) / 2;
        lm__self_begin(d, pen, 0);
        (void)lm_store_raw(&d->caches[i], &s->model->g, &alone, s->tokens);
    }
    for (d->position = 0; d->position < s->tokens; d->position++) {
        size_t done = first * s->tokens + count * d->position;
        lm_progress_show(progress, (double)done / (double)(s->passages * s->tokens));
        lm_parallel(&s->model->pool, lm__self_pick, d, count);
        if (d->position + 1 < s->tokens) {
            lm_step(s->model, d->caches, d->step, d->position, count);
            lm_logits(s->model, d->logits, 0, count);
        }
    }
    for (size_t i = 0; i < count; i++) {
        d->caches[i].close(d->caches[i].state);
    }
    lm_pool_close(&alone);
}

/* How many passages advance together: as many as their caches leave room for. */
static size_t lm_self_batch(const lm_geometry *g, size_t passages, size_t tokens, size_t budget)
{
    size_t room = budget / lm_store_bytes(g, tokens);
    size_t most = room < 1 ? 1 : room < LM_CHUNK ? room : LM_CHUNK;
    size_t rounds = (passages + most - 1) / most;
    return (passages + rounds - 1) / rounds;
}

/* Fills ids [passages][tokens]; `batch` passages at a time. */
static void lm_self_write(const lm_self *s, uint32_t *ids, size_t batch)
{
    lm__desk_of_pens *d = (lm__desk_of_pens *)lm_alloc(1, sizeof *d);
    size_t i, kind;
    d->self = s;
    d->pens = (lm__pen *)lm_alloc(batch, sizeof *d->pens);
    d->caches = (lm_cache *)lm_alloc(batch, sizeof *d->caches);
    d->step = (uint32_t *)lm_alloc(batch, sizeof *d->step);
    d->logits = (float *)lm_alloc(batch, s->model->vocab * sizeof(float));
    lm__self_seeds(d);
    lm_progress progress;
    lm_progress_begin(&progress, "sampling");
    for (i = 0; i < s->passages; i += batch) {
        lm__self_round(d, ids, i, s->passages - i < batch ? s->passages - i : batch, &progress);
    }
    lm_progress_end(&progress);
    for (i = 0; i < batch; i++) {
        free(d->pens[i].waiting.id);
    }
    for (kind = 0; kind < 2; kind++) {
        for (i = 0; i < d->seed_count[kind]; i++) {
            free(d->seeds[kind][i].id);
        }
    }
    free(d->gap.id);
    free(d->pens);
    free(d->caches);
    free(d->step);
    free(d->logits);
    free(d);
}

#endif
