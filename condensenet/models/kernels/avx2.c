#if defined(__x86_64__)
#include "../../simd/avx2.h"
#include "bodies.h"
#endif
