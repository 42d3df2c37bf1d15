/* The implementation alone: what run.sh links tests with. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"
