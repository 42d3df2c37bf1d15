/* LQ_STATIC: a private copy, nothing exported, no warning about what is not used. */
#define LQ_STATIC
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

int main(void)
{
    return lq_version() == LQ_VERSION ? 0 : 1;
}
