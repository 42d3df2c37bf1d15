/* cc -O2 examples/session.c -o session -lm */
/* A session in one call each way: a cache to a file, and back, where nothing is known of it. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 2, DIMS = 64, ROW = HEADS * DIMS, TOKENS = 500 };

static int write_file(void *file, const void *bytes, size_t count)
{
    return fwrite(bytes, 1, count, (FILE *)file) != count;
}

static int read_file(void *file, uint64_t offset, void *dst, size_t count)
{
    return fseek((FILE *)file, (long)offset, SEEK_SET) ||
           fread(dst, 1, count, (FILE *)file) != count;
}

int main(void)
{
    static float k[TOKENS * ROW], v[TOKENS * ROW], out[2][ROW];
    lq_kv_desc desc = {0}; /* 4 sinks, the last 64 tokens raw, the others in 4 bits */
    lq_kv_view key = {k, 0, 0, 0}, value = {v, 0, 0, 0};
    lq_kv_attend_desc attend = {0};
    lq_archive_source source = {0};
    FILE *file = tmpfile();
    lq_kv kv, back;
    void *work, *mem = NULL;
    size_t bytes, i;
    desc.layers = 1;
    desc.kv_heads = HEADS;
    desc.k_dims = DIMS;
    desc.tokens = 2 * TOKENS;
    int status = lq_kv_init(&kv, malloc(lq_kv_bytes(&desc)), lq_kv_bytes(&desc), &desc);
    for (i = 0; i < 2 * TOKENS * ROW; i++) /* what a model would make */
        (i % 2 ? k : v)[i / 2] = (float)rand() / (float)RAND_MAX - 0.5f;
    if (status || !file || lq_kv_append(&kv, 0, &key, &value, NULL, TOKENS)) return 1;

    work = malloc(bytes = lq_kv_export_workspace_bytes(&kv, NULL));
    if (lq_kv_export(&kv, write_file, file, NULL, work, bytes)) return 1;
    source.read_fn = read_file; /* or source.bytes: a file in memory */
    source.user = file;
    source.size = (uint64_t)ftell(file);
    bytes = 0;
    while ((status = lq_kv_import(&back, mem, bytes, &bytes, &source, NULL)) == LQ_E_SPACE)
        mem = realloc(mem, bytes); /* a few times, until it is enough */
    attend.heads = HEADS;
    attend.q.data = k;
    for (i = 0; i < 2 && !status; i++) {
        attend.out.data = out[i];
        status = lq_kv_attend(i ? &back : &kv, &attend);
    }
    status = status || memcmp(out[0], out[1], sizeof out[0]);
    printf("%d tokens in %lu bytes: %s\n", TOKENS, (unsigned long)source.size,
           status ? "failed" : "attention is the same, to the bit");
    return status;
}
