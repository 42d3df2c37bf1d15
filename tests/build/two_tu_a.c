/* Declarations here, the implementation in two_tu_b.c. */
#include "../../latticequant.h"

int two_tu_b(void);

int main(void)
{
    return lq_version() == LQ_VERSION && two_tu_b() == lq_cpu_level() ? 0 : 1;
}
