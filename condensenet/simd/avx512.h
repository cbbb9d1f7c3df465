/* For x86-64 CPUs with AVX-512 (x86-64-v4). System headers come before the target is set. */

#include <immintrin.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#pragma GCC target("arch=x86-64-v4")
#define LANES 16
#define REGISTERS 32
#define NAME(x) x##_16
#define LARGER(a, b) _mm512_max_ps(a, b)
#define SMALLER(a, b) _mm512_min_ps(a, b)
#include "vectors.h"
