/* The implementation alone, and what tests call of its insides: what run.sh links tests with. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

#include "../inside.h"
