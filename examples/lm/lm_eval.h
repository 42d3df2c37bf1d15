/* lm_eval.h - part of lm.c: what a codec does to the model's predictions

   The text is cut into evenly spaced passages. Every codec sees the same tokens as a raw cache that
   runs beside it, so each figure is a difference at one token: the change of the log-likelihood,
   and the divergence of the predicted distribution from the raw one, KLD = sum p ln(p / q), over
   the whole vocabulary. Codecs see chunks of 64, each raw until its end; a cache that is live codes
   its tokens itself, and takes them one by one, or in eights where its window is wide.

   With a prefix (what a session file or a store of prefixes does) the raw model runs it once for
   all. Every codec takes its keys and values and codes them whole, all but the sinks; then the tail
   runs on each cache, itself raw. Only the tail is compared. */
#ifndef LM_EVAL_H
#define LM_EVAL_H

#include "lm_kinds.h"
#include "lm_model.h"

/* Bytes that the caches of codecs in flight may take; more codecs run in several rounds, and the
   raw model with each round. */
#define LM_CACHE_BUDGET ((size_t)5 << 28)

/* ---- logits ---- */

typedef struct lm_row {
    double log_sum;
    size_t best;
} lm_row;

/* ln of the sum of exponentials, and the largest. Floats are summed in short runs of 16 lanes and
   the runs in double, which keeps the result good to 1e-7. */
static lm_row lm_row_read(const float *x, size_t count)
{
    lm_row r = {0.0, 0};
    float top = x[0];
    double total = 0.0;
    size_t i, j, run;
    for (i = 1; i < count; i++) {
        top = x[i] > top ? x[i] : top;
    }
    while (r.best + 1 < count && x[r.best] < top) {
        r.best++;
    }
    for (i = 0; i < count; i += run) {
        float sum[16] = {0};
        run = count - i < 1024 ? count - i : 1024;
        for (j = 0; j + 16 <= run; j += 16) {
            for (size_t l = 0; l < 16; l++) {
                sum[l] += lm_exp(x[i + j + l] - top);
            }
        }
        for (; j < run; j++) {
            sum[0] += lm_exp(x[i + j] - top);
        }
        for (j = 0; j < 16; j++) {
            total += (double)sum[j];
        }
    }
    r.log_sum = (double)top + log(total);
    return r;
}

/* KLD of the distribution of y from that of x. */
static double lm_divergence(const float *x, lm_row rx, const float *y, lm_row ry, size_t count)
{
    float shift = (float)rx.log_sum;
    double total = 0.0;
    double mass = 0.0;
    size_t i, j, run;
    for (i = 0; i < count; i += run) {
        float sum[16] = {0};
        float weight[16] = {0};
        run = count - i < 1024 ? count - i : 1024;
        for (j = 0; j + 16 <= run; j += 16) {
            for (size_t l = 0; l < 16; l++) {
                float p = lm_exp(x[i + j + l] - shift);
                sum[l] += p * (x[i + j + l] - y[i + j + l]);
                weight[l] += p;
            }
        }
        for (; j < run; j++) {
            float p = lm_exp(x[i + j] - shift);
            sum[0] += p * (x[i + j] - y[i + j]);
            weight[0] += p;
        }
        for (j = 0; j < 16; j++) {
            total += (double)sum[j];
            mass += (double)weight[j];
        }
    }
    return total / mass - (rx.log_sum - ry.log_sum);
}

/* ---- the passages ---- */

/* Where in the prefix the part begins that a repeating tail says again. */
enum { LM_REPEAT_FROM = 200 };

/* prefix 0: all `tokens` of a passage are compared; else what follows it, or, with `repeat`, as
   many of the prefix's own again. */
typedef struct lm_eval {
    lm_model *model;
    const uint32_t *ids;
    size_t id_count;
    size_t tokens;
    size_t prefix;
    int repeat;
    size_t passages;
    size_t sinks;
    size_t window;
    size_t chunk;
    const char *const *specs;
    size_t spec_count;
} lm_eval;

typedef struct lm_result {
    const char *spec;
    double bits_k;
    double bits_v;
    double bits;
    double ppl_ratio;
    double ppl_se;
    double kld;
    double kld_se;
    double kld_p999;
    double top1;
    double seconds;
    size_t profile_bytes;
} lm_result;

/* One codec, or the raw cache, on its way through the text. */
typedef struct lm__runner {
    lm_cache cache;
    double *loss;
    double *kld;
    size_t losses;
    size_t klds;
    size_t agreed;
    double seconds;
} lm__runner;

typedef struct lm__compare_job {
    const lm_model *model;
    const float *raw;
    const float *coded;
    lm_row *raw_rows;
    lm_row *coded_rows;
    double *kld;
} lm__compare_job;

static void lm__compare_row(void *context, size_t i, size_t worker)
{
    const lm__compare_job *job = (const lm__compare_job *)context;
    size_t vocab = job->model->vocab;
    (void)worker;
    if (job->coded == NULL) {
        job->raw_rows[i] = lm_row_read(job->raw + i * vocab, vocab);
        return;
    }
    job->coded_rows[i] = lm_row_read(job->coded + i * vocab, vocab);
    job->kld[i] = lm_divergence(job->raw + i * vocab, job->raw_rows[i], job->coded + i * vocab,
                                job->coded_rows[i], vocab);
}

/* Where passage i starts: as far apart as the text allows. */
static size_t lm_passage_start(const lm_eval *e, size_t i)
{
    size_t step = e->id_count / e->passages;
    return i * (step > e->tokens ? step : e->tokens);
}

/* The tokens at `at` of the passage that starts there, and those that follow. */
static const uint32_t *lm__passage_ids(const lm_eval *e, size_t start, size_t at)
{
    size_t back = e->repeat && at >= e->prefix ? e->prefix - LM_REPEAT_FROM : 0;
    return e->ids + start + at - back;
}

static void lm__count_losses(const lm_eval *e, lm__runner *r, const float *logits,
                             const lm_row *rows, size_t start, size_t at, size_t n)
{
    const uint32_t *ids = lm__passage_ids(e, start, at);
    for (size_t i = 0; i < n && at + i + 1 < e->tokens; i++) {
        uint32_t target = ids[i + 1];
        double loss = rows[i].log_sum - (double)logits[i * e->model->vocab + target];
        if (!(loss < 1e30)) {
            lm_fail("%s: the logits at token %zu are not finite",
                    r->cache.spec ? r->cache.spec : "raw", at + i);
        }
        r->loss[r->losses++] = loss;
    }
}

typedef struct lm__desk {
    float *raw;
    float *coded;
    lm_row raw_rows[LM_CHUNK];
    lm_row coded_rows[LM_CHUNK];
} lm__desk;

/* The logits of a chunk, in steps that suit the cache. */
static void lm__eval_forward(const lm_eval *e, lm__runner *r, float *logits, size_t start,
                             size_t at, size_t n)
{
    size_t i, step;
    for (i = 0; i < n; i += step) {
        step = n - i < r->cache.step ? n - i : r->cache.step;
        lm_forward(e->model, &r->cache, lm__passage_ids(e, start, at + i), at + i, step);
        lm_logits(e->model, logits + i * e->model->vocab, 0, step);
    }
}

/* The prefix through the raw cache. */
static void lm__eval_prefix(const lm_eval *e, lm__runner *raw, size_t start)
{
    double begin = lm_seconds();
    size_t at, n;
    for (at = 0; at < e->prefix; at += n) {
        n = e->prefix - at < LM_CHUNK ? e->prefix - at : LM_CHUNK;
        lm_forward(e->model, &raw->cache, lm__passage_ids(e, start, at), at, n);
    }
    raw->seconds += lm_seconds() - begin;
}

/* n tokens through the raw cache (runner 0) and all codecs. */
static void lm__eval_chunk(const lm_eval *e, lm__runner *runners, size_t count, lm__desk *desk,
                           size_t start, size_t at, size_t n)
{
    size_t c, i;
    lm__compare_job job;
    job.model = e->model;
    job.raw = desk->raw;
    job.raw_rows = desk->raw_rows;
    job.coded_rows = desk->coded_rows;
    for (c = 0; c < count; c++) {
        lm__runner *r = &runners[c];
        double begin = lm_seconds();
        const lm_row *rows = c == 0 ? desk->raw_rows : desk->coded_rows;
        float *logits = c == 0 ? desk->raw : desk->coded;
        if (c > 0 && e->prefix > 0 && at == e->prefix) {
            r->cache.take(r->cache.state, (const lm_store *)runners[0].cache.state, at + n);
        }
        lm__eval_forward(e, r, logits, start, at, n);
        job.coded = c == 0 ? NULL : desk->coded;
        job.kld = r->kld + r->klds;
        lm_parallel(&e->model->pool, lm__compare_row, &job, n);
        lm__count_losses(e, r, logits, rows, start, at, n);
        for (i = 0; i < n && c > 0; i++) {
            r->agreed += desk->raw_rows[i].best == desk->coded_rows[i].best;
        }
        r->klds += c > 0 ? n : 0;
        r->seconds += lm_seconds() - begin;
    }
}

/* ---- results ---- */

static int lm__by_size(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static double lm__mean(const double *x, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += x[i];
    }
    return sum / (double)count;
}

/* Standard error of the mean. */
static double lm__error(const double *x, size_t count)
{
    double mean = lm__mean(x, count);
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (x[i] - mean) * (x[i] - mean);
    }
    return count > 1 ? sqrt(sum / (double)(count - 1) / (double)count) : 0.0;
}

/* Sorts x. */
static double lm__quantile(double *x, size_t count, double q)
{
    double at = q * (double)(count - 1);
    size_t i = (size_t)at;
    qsort(x, count, sizeof *x, lm__by_size);
    return i + 1 < count ? x[i] + (at - (double)i) * (x[i + 1] - x[i]) : x[i];
}

static void lm__conclude(lm__runner *r, const double *raw_loss, lm_result *out)
{
    lm_tally t;
    r->cache.tally(r->cache.state, &t);
    double elements = t.elements > 0 ? (double)t.elements : 1.0;
    out->spec = r->cache.spec;
    out->bits_k = 8.0 * (double)t.bill.key_bytes / elements;
    out->bits_v = 8.0 * (double)t.bill.value_bytes / elements;
    out->bits = 0.5 * (out->bits_k + out->bits_v + 8.0 * (double)t.bill.shared_bytes / elements);
    for (size_t i = 0; i < r->losses; i++) {
        r->loss[i] -= raw_loss[i];
    }
    out->ppl_ratio = exp(lm__mean(r->loss, r->losses));
    out->ppl_se = out->ppl_ratio * lm__error(r->loss, r->losses);
    out->kld = lm__mean(r->kld, r->klds);
    out->kld_se = lm__error(r->kld, r->klds);
    out->kld_p999 = lm__quantile(r->kld, r->klds, 0.999);
    out->top1 = (double)r->agreed / (double)r->klds;
    out->seconds = r->seconds;
    out->profile_bytes = t.profile_bytes;
}

/* Opens the caches of a round, the raw one first. */
static void lm__runners_open(const lm_eval *e, lm__runner *runners, size_t first, size_t count)
{
    size_t all = e->tokens * e->passages;
    lm_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = e->tokens;
    d.sinks = e->sinks;
    d.window = e->window;
    for (size_t c = 0; c <= count; c++) {
        d.spec = c > 0 ? e->specs[first + c - 1] : NULL;
        d.chunk = c > 0 ? e->chunk : 0;
        d.prefix = e->prefix;
        lm_cache_open(&runners[c].cache, &e->model->g, &e->model->pool, &d);
        runners[c].loss = (double *)lm_alloc(all, sizeof(double));
        runners[c].kld = (double *)lm_alloc(all, sizeof(double));
    }
}

static void lm__runners_close(lm__runner *runners, size_t count)
{
    for (size_t c = 0; c <= count; c++) {
        runners[c].cache.close(runners[c].cache.state);
        free(runners[c].loss);
        free(runners[c].kld);
    }
    free(runners);
}

/* One passage through all runners of a round; `done` and `share` are of the whole. */
static void lm__eval_passage(const lm_eval *e, lm__runner *runners, size_t count, lm__desk *desk,
                             size_t passage, lm_progress *progress, double done, double share)
{
    size_t start = lm_passage_start(e, passage);
    size_t c, at, n;
    for (c = 0; c <= count; c++) {
        runners[c].cache.reset(runners[c].cache.state);
    }
    lm_progress_show(progress, done);
    lm__eval_prefix(e, &runners[0], start);
    for (at = e->prefix; at < e->tokens; at += n) {
        double part = (double)(at - e->prefix) / (double)(e->tokens - e->prefix);
        n = LM_CHUNK - at % LM_CHUNK;
        n = e->tokens - at < n ? e->tokens - at : n;
        lm_progress_show(progress, done + share * part);
        lm__eval_chunk(e, runners, count + 1, desk, start, at, n);
    }
    for (c = 0; c <= count; c++) {
        runners[c].cache.flush(runners[c].cache.state);
    }
}

/* Runs codecs [first, first + count) beside a raw cache; returns the raw perplexity. */
static double lm__eval_round(const lm_eval *e, size_t first, size_t count, lm_result *results,
                             lm_progress *progress, double done, double share)
{
    lm__runner *runners = (lm__runner *)lm_alloc(count + 1, sizeof *runners);
    lm__desk *desk = (lm__desk *)lm_alloc(1, sizeof *desk);
    double each = share / (double)e->passages;
    size_t c, p;
    desk->raw = (float *)lm_alloc(LM_CHUNK, e->model->vocab * sizeof(float));
    desk->coded = (float *)lm_alloc(LM_CHUNK, e->model->vocab * sizeof(float));
    lm__runners_open(e, runners, first, count);
    for (p = 0; p < e->passages; p++) {
        lm__eval_passage(e, runners, count, desk, p, progress, done + (double)p * each, each);
    }
    double ppl = exp(lm__mean(runners[0].loss, runners[0].losses));
    for (c = 1; c <= count; c++) {
        lm__conclude(&runners[c], runners[0].loss, &results[first + c - 1]);
    }
    lm__runners_close(runners, count);
    free(desk->raw);
    free(desk->coded);
    free(desk);
    return ppl;
}

/* Fills one result a spec; returns the perplexity with a raw cache. */
static double lm_eval_run(const lm_eval *e, lm_result *results)
{
    size_t each = lm_store_bytes(&e->model->g, e->tokens);
    size_t room = LM_CACHE_BUDGET / each;
    size_t most = room > 1 ? room - 1 : 1;
    size_t rounds = (e->spec_count + most - 1) / most;
    size_t first = 0;
    lm_progress progress;
    double ppl = 0.0;
    lm_progress_begin(&progress, "eval");
    do {
        size_t count = e->spec_count - first < most ? e->spec_count - first : most;
        double all = (double)(e->spec_count + (rounds > 0 ? rounds : 1));
        ppl = lm__eval_round(e, first, count, results, &progress,
                             ((double)first + (double)(first / most)) / all,
                             ((double)count + 1.0) / all);
        first += count;
    } while (first < e->spec_count);
    lm_progress_end(&progress);
    return ppl;
}

#endif
