/* latticequant.h with its implementation. With LQ_LINKED only its declarations: run.sh compiles the
   implementation once for all tests that include this file. inside.h has some insides; tests that need
   more of them include latticequant.h themselves. */
#if !defined(LQ_LINKED)
#define LATTICEQUANT_IMPLEMENTATION
#endif
#include "../latticequant.h"
