/* Vectors of LANES floats in GCC's extensions, for one instruction set.

   A source file is compiled for one instruction set: it includes avx512.h, avx2.h or baseline.h, which define LANES,
   REGISTERS and NAME(), and then the bodies, which are written once. Only what other files call needs NAME(). */

#ifndef CONDENSENET_VECTORS_H
#define CONDENSENET_VECTORS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32") /* sums stay in registers only where no loop indexes them */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float half_u __attribute__((vector_size(2 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float *p) { return *(const vec_u *)p; }
INLINE void store(float *p, vec v) { *(vec_u *)p = v; }
INLINE vec all(float x) { return x - (vec){0}; } /* x + 0 would be an addition: -0 + 0 is not -0 */
INLINE vec keep(mask m, vec v) { return (vec)(m & (mask)v); }

/* The first `count` floats, the rest zero; all of them where count is LANES or more. */
INLINE vec load_part(const float *p, long count) {
    if (count >= LANES) return load(p);
    vec v = {0};
    if (count > 0) memcpy(&v, p, count * sizeof(float));
    return v;
}
INLINE void store_part(float *p, vec v, long count) {
    if (count >= LANES) store(p, v);
    else if (count > 0) memcpy(p, &v, count * sizeof(float));
}

INLINE float total(vec v) { /* by halves */
    for (int n = LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}

INLINE void exchange(const int step, vec *v) {
    mask low, high;
    UNROLL for (int i = 0; i < LANES; i++) {
        low[i] = i & step ? LANES + i - step : i;
        high[i] = i & step ? LANES + i : i + step;
    }
    UNROLL for (int i = 0; i < LANES; i++)
        if (!(i & step)) {
            const vec a = v[i], b = v[i + step];
            v[i] = __builtin_shuffle(a, b, low);
            v[i + step] = __builtin_shuffle(a, b, high);
        }
}

INLINE void turn(vec *v) { /* rows of a square become columns */
    if (LANES >= 16) exchange(8, v);
    if (LANES >= 8) exchange(4, v);
    exchange(2, v);
    exchange(1, v);
}

/* LANES rows of LANES floats become columns. */
INLINE void transpose(const float *from, long from_row, float *to, long to_row) {
    vec v[LANES];
    UNROLL for (int i = 0; i < LANES; i++) v[i] = load(from + i * from_row);
    turn(v);
    UNROLL for (int i = 0; i < LANES; i++) store(to + i * to_row, v[i]);
}

#endif
