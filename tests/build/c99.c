/* The implementation alone, and a call of each chapter. Also built as C11, C17, gnu99 and C++. */
#include "../header.h"

int main(void)
{
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    int ok = lq_version() == LQ_VERSION && lq_status_string(LQ_E_DATA)[0] != 0;
    ok = ok && lq_rotate_f32(x, 1, 8) == LQ_OK && lq_unrotate_f32(x, 1, 8) == LQ_OK;
    int16_t points[8];
    ok = ok && lq_lattice_nearest(points, x, 8, 0.5f, LQ_E8) == LQ_OK;
    uint8_t code[4];
    ok = ok && lq_fixed_encode(code, sizeof code, x, 8, 2.0f, LQ_E8, 4) == LQ_OK;
    ok = ok && lq_fixed_bytes(8, LQ_Z, 3) == 3 && lq_tables_bytes() > 0;
    uint8_t digest[16];
    lq_blake2s_128(digest, "abc", 3);
    return ok && lq_xxh32("", 0, 0) == 0x02cc5d05u ? 0 : 1;
}
