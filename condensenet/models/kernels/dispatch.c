/* Which of the instruction sets this CPU has, and of which sources the library is built. */

#include "../../simd/lanes.h"

#ifndef SOURCE_DIGEST
#define SOURCE_DIGEST ""
#endif
const char *source_digest(void) { return SOURCE_DIGEST; }

int lanes(void) { return widest_lanes(); }
