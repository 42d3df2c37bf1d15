/* quantizer_names.h - quantizers of coded pages by their names, for lm and pack_kv */
#ifndef QUANTIZER_NAMES_H
#define QUANTIZER_NAMES_H

#include <string.h>

#include "../latticequant.h"

/* The quantizer of a name of so many characters, 0 if there is none. */
static int quantizer_named(const char *name, size_t count)
{
    static const char *const names[] = {"z", "d4", "e8", "e8r", "t8", "t64"};
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++) {
        if (strlen(names[i]) == count && memcmp(names[i], name, count) == 0) return LQ_Z + i;
    }
    return 0;
}

#endif
