/* For x86-64 CPUs with AVX2 and FMA (x86-64-v3). System headers come before the target is set. */

#include <immintrin.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#pragma GCC target("arch=x86-64-v3")
#define LANES 8
#define REGISTERS 16
#define NAME(x) x##_8
#define LARGER(a, b) _mm256_max_ps(a, b)
#define SMALLER(a, b) _mm256_min_ps(a, b)
#include "vectors.h"
