/* latticequant.h with its implementation. With LQ_LINKED only its declarations: run.sh compiles the
   implementation once for all tests that include this file. Tests of its insides include it
   themselves. */
#if !defined(LQ_LINKED)
#define LATTICEQUANT_IMPLEMENTATION
#endif
#include "../latticequant.h"
