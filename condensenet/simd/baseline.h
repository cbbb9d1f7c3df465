/* For any CPU: SSE2 on x86-64, NEON on AArch64, and whatever the compiler makes of four floats elsewhere. */

#define LANES 4
#define NAME(x) x##_4
#if defined(__x86_64__)
#include <immintrin.h>
#define REGISTERS 16
#define LARGER(a, b) _mm_max_ps(a, b)
#define SMALLER(a, b) _mm_min_ps(a, b)
#elif defined(__aarch64__)
#include <arm_neon.h>
#define REGISTERS 32
#define LARGER(a, b) vmaxq_f32(a, b)
#define SMALLER(a, b) vminq_f32(a, b)
#else
#define REGISTERS 16
#define CHOOSE(a, b, k) (vec)(((a k b) & (mask)(a)) | (~(a k b) & (mask)(b)))
#define LARGER(a, b) CHOOSE(a, b, >)
#define SMALLER(a, b) CHOOSE(a, b, <)
#endif
#include "vectors.h"
