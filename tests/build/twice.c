/* The header twice, with and without the implementation, in every order. */
#include "../../latticequant.h"
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"
#include "../../latticequant.h"
#undef LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

int main(void)
{
    return lq_version() == LQ_VERSION ? 0 : 1;
}
