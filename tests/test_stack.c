/* cc -std=c99 -O0 tests/test_stack.c -o test_stack -lm -lpthread    All that golden.h makes, in a
   thread with 64 KB of stack, at every SIMD level; prints how much of it is used. run.sh builds it
   without optimisation, too: then no function may take more than 4 KB either. */
#if defined(__unix__) || defined(__APPLE__)
#define STACK_POSIX
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#endif

#include "header.h"

#include "check.h"
#include "golden.h"

#if !defined(STACK_POSIX)

int main(void)
{
    printf("skipped: no pthreads\n");
    CHECK(1);
    return check_report("test_stack");
}

#else

#include <pthread.h>

enum { STACK_BYTES = 64 * 1024, STACK_PROMISE = 24 * 1024, STACK_FRAME = 4096, STACK_PAINT = 0xa5 };

static const lq_tables *tables;
static int errors;

static void count_only(const char *name, const void *bytes, size_t count)
{
    (void)name;
    golden_digest_add(bytes, count);
}

static void *make_all(void *unused)
{
    errors = golden_make(tables, count_only);
    return unused;
}

/* Bytes of a painted stack that have been written to: it grows down. */
static size_t used_of(const uint8_t *stack)
{
    size_t i = 0;
    while (i < STACK_BYTES && stack[i] == STACK_PAINT) {
        i++;
    }
    return STACK_BYTES - i;
}

int main(void)
{
    void *memory = source_alloc(lq_tables_bytes());
    void *room = malloc(STACK_BYTES + STACK_FRAME);
    uint8_t *stack = (uint8_t *)room;
    size_t most = 0;
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    stack += (0 - (uintptr_t)stack) & (STACK_FRAME - 1);
    for (int level = 0; level <= 2; level++) {
        lq_cpu_limit(level);
        memset(stack, STACK_PAINT, STACK_BYTES);
        pthread_attr_t attributes;
        CHECK(pthread_attr_init(&attributes) == 0 &&
              pthread_attr_setstack(&attributes, stack, STACK_BYTES) == 0);
        pthread_t thread;
        if (CHECK(pthread_create(&thread, &attributes, make_all, NULL) == 0)) {
            CHECK(pthread_join(thread, NULL) == 0 && errors == 0);
        }
        (void)pthread_attr_destroy(&attributes);
        size_t used = used_of(stack);
        CHECK(used > 0 && used <= STACK_PROMISE);
        most = used > most ? used : most;
    }
    char text[33];
    golden_digest_text(text);
    CHECK(strlen(text) == 32);
    printf("deepest: %lu of %d bytes of stack\n", (unsigned long)most, (int)STACK_BYTES);
    free(room);
    free(memory);
    return check_report("test_stack");
}

#endif
