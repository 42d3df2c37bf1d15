/* cc -std=c99 -O2 tests/digest.c -o digest && ./digest [SIMD level]    One digest of all that the encoder
   makes: run.sh compares it over compilers, flags, levels and machines with golden/digest.txt. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include "golden.h"

static void collect(const char *name, const void *bytes, size_t count)
{
    (void)name;
    golden_digest_add(bytes, count);
}

int main(int argc, char **argv)
{
    void *memory = source_alloc(lq_tables_bytes());
    lq_cpu_limit(argc > 1 ? atoi(argv[1]) : -1);
    const lq_tables *tables;
    if (lq_tables_init(&tables, memory, lq_tables_bytes())) return 1;
    int errors = golden_make(tables, collect);
    if (errors) {
        fprintf(stderr, "%d calls failed\n", errors);
        return 1;
    }
    char text[33];
    golden_digest_text(text);
    printf("%s\n", text);
    free(memory);
    return 0;
}
