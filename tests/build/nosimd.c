/* LQ_NO_SIMD: the C code only, and no SIMD header. */
#define LQ_NO_SIMD
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

#if defined(_IMMINTRIN_H_INCLUDED) || defined(__IMMINTRIN_H)
#error "LQ_NO_SIMD includes immintrin.h"
#endif

int main(void)
{
    return lq_cpu_limit(-1) == 0 && lq_cpu_level() == 0 ? 0 : 1;
}
