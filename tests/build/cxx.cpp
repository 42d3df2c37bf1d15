// The implementation as C++, used from C++.
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

#include <vector>

int main()
{
    std::vector<float> x(24, 0.25f);
    std::vector<int16_t> points(x.size());
    int ok = lq_lattice_nearest(points.data(), x.data(), x.size(), 0.5f, LQ_D4) == LQ_OK;
    std::vector<uint8_t> code(lq_fixed_bytes(x.size(), LQ_Z, 3));
    ok =
        ok && lq_fixed_encode(code.data(), code.size(), x.data(), x.size(), 0.5f, LQ_Z, 3) == LQ_OK;
    return ok ? 0 : 1;
}
