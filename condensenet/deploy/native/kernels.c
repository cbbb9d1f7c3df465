/* The kernels for each instruction set, and the choice for this CPU. */

#include "block.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { CACHE_BYTES = 3 << 19, STRIP = 16 }; /* features that exceed the cache go through all layers in strips of rows */

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define NAME(x) x##_v4
#define LANES 16
#define LARGER(a, b) _mm512_max_ps(a, b)
#define SMALLER(a, b) _mm512_min_ps(a, b)
#define TILE 8
#define TILE_3X3 4
#include "kernels.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define NAME(x) x##_v3
#define LANES 8
#define LARGER(a, b) _mm256_max_ps(a, b)
#define SMALLER(a, b) _mm256_min_ps(a, b)
#define TILE 4
#define TILE_3X3 2
#include "kernels.h"
#pragma GCC pop_options
#endif

#define NAME(x) x##_any
#define LANES 4
#if defined(__x86_64__)
#define TILE 4
#define TILE_3X3 2
#define LARGER(a, b) _mm_max_ps(a, b)
#define SMALLER(a, b) _mm_min_ps(a, b)
#elif defined(__aarch64__)
#define TILE 8
#define TILE_3X3 4
#define LARGER(a, b) vmaxq_f32(a, b)
#define SMALLER(a, b) vminq_f32(a, b)
#else
#define TILE 4
#define TILE_3X3 2
#define CHOOSE(a, b, k) (vec)(((a k b) & (mask)(a)) | (~(a k b) & (mask)(b)))
#define LARGER(a, b) CHOOSE(a, b, >)
#define SMALLER(a, b) CHOOSE(a, b, <)
#endif
#include "kernels.h"

const dense_kernels *dense_kernels_of_this_cpu(void) {
    const char *most = getenv("CONDENSENET_LANES"); /* for tests: at most so many floats in a vector */
    const int lanes = most ? atoi(most) : 16;
    (void)lanes;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (lanes >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &kernels_v4;
    if (lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kernels_v3;
#endif
    return &kernels_any;
}
