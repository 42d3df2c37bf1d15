#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

int two_tu_b(void);

int two_tu_b(void)
{
    return lq_cpu_level();
}
