/* How many floats a vector may have on this CPU. */

#ifndef CONDENSENET_LANES_H
#define CONDENSENET_LANES_H

#include <stdlib.h>

/* 16, 8 or 4; CONDENSENET_LANES in the environment asks for fewer, as tests do. */
static inline int widest_lanes(void) {
    const char *most = getenv("CONDENSENET_LANES");
    const int asked = most ? atoi(most) : 0, lanes = asked > 0 ? asked : 16;
    (void)lanes;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (lanes >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 16;
    if (lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

#endif
