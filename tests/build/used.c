/* What a program has of the library that makes one call of it: USED 0 none, 1 lq_lattice_nearest,
   2 lq_rans_decode with its tables. run.sh measures it. */
#include <string.h>

#if !defined(LQ_LINKED)
#define LATTICEQUANT_IMPLEMENTATION
#endif
#if USED > 0
#include "../../latticequant.h"
#endif

#if USED == 2
static unsigned char memory[500000];
static unsigned char workspace[60000];
static unsigned char bytes[100];
static unsigned char plan_memory[1000];
static int16_t values[512];
#endif

int main(int argc, char **argv)
{
#if USED == 1
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    x[0] = (float)argc;
    (void)argv;
    int16_t points[8];
    return lq_lattice_nearest(points, x, 8, 1, argc > 1 ? LQ_D4 : LQ_E8) != LQ_OK || points[7] < 0;
#elif USED == 2
    uint8_t classes[8] = {40, 40, 40, 40, 40, 40, 40, 40};
    (void)argv;
    lq_rans_page page;
    memset(&page, 0, sizeof page);
    page.values = values;
    page.bytes = bytes;
    page.bytes_count = sizeof bytes;
    page.tokens = 64;
    const lq_tables *tables;
    lq_rans_plan plan;
    if (lq_tables_init(&tables, memory, sizeof memory) != LQ_OK ||
        lq_rans_plan_init(&plan, plan_memory, sizeof plan_memory, classes, 8, 0,
                          argc > 1 ? LQ_D4 : LQ_E8) != LQ_OK) {
        return 1;
    }
    return lq_rans_decode(tables, &plan, &page, 1, workspace, sizeof workspace) != LQ_E_DATA;
#else
    (void)argv;
    return argc < 0;
#endif
}
