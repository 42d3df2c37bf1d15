/* CHECK counts; it survives NDEBUG. A test file ends with `return check_report("name");`. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

static int check_passed;
static int check_failed;

#define CHECK(condition) check_one(!!(condition), #condition, __FILE__, __LINE__)

static int check_one(int ok, const char *text, const char *file, int line)
{
    if (ok) {
        check_passed++;
    } else if (++check_failed <= 20) {
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
    }
    return ok;
}

/* One line a program; run.sh adds them up. Returns the exit code. */
static int check_report(const char *name)
{
    printf("%s: %d passed, %d failed\n", name, check_passed, check_failed);
    return check_failed != 0;
}

#endif
