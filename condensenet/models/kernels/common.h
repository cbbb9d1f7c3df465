/* What the kernels share. condensenet/models/kernels/__init__.py says what each of them computes.

   Features are planar: channel c of all N images is one contiguous row of M = N * H * W floats. The work is split
   between threads by columns, by planes or by images, always in the same way for the same number of threads, and sums
   are added in the order of the threads: the same numbers come out of every run. */

#ifndef CONDENSENET_COMMON_H
#define CONDENSENET_COMMON_H

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

#ifndef LANES
#ifdef __x86_64__
#define LANES 16
#else
#define LANES 4
#endif
#endif
enum { SPAN = 512, PRODUCT_SPAN = 1024, BUNDLE_PIXELS = 1024 }; /* a bundle of images shares one sum over the lanes */
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float half_u __attribute__((vector_size(2 * LANES), aligned(4), may_alias));
typedef int mask_vec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float *p) { return *(const vec_u *)p; }
INLINE void store(float *p, vec v) { *(vec_u *)p = v; }
INLINE vec keep(mask_vec m, vec v) { return (vec)(m & (mask_vec)v); }
INLINE float total(vec v) { /* by halves */
    for (int n = LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}
/* Zeros, aligned for vectors, to be freed. Who has no memory for them is told so and ends: there is no way on. */
static inline void *zeros(size_t count, size_t size) {
    const size_t bytes = (count * size + sizeof(vec) - 1) / sizeof(vec) * sizeof(vec);
    void *room = aligned_alloc(sizeof(vec), bytes);
    if (!room) {
        fprintf(stderr, "condensenet kernels: no memory for %zu bytes\n", bytes);
        abort();
    }
    return memset(room, 0, bytes);
}

INLINE long smaller(long a, long b) { return a < b ? a : b; }
INLINE long begin_of(long count, int part, int parts) { /* multiples of SPAN, so that columns start on whole lines */
    long spans = (count + SPAN - 1) / SPAN;
    return smaller(count, spans * part / parts * SPAN);
}

#define BY_COLUMNS(call)                                                                      \
    _Pragma("omp parallel num_threads(threads)") {                                            \
        int part = omp_get_thread_num(), parts = omp_get_num_threads();                       \
        long from = begin_of(M, part, parts), to = begin_of(M, part + 1, parts);              \
        (void)part;                                                                           \
        call;                                                                                 \
    }

/* Adds up what every thread summed. */
INLINE void add_parts(long count, int parts, const double *partial, double *sums) {
    for (long i = 0; i < count; i++) {
        double sum = 0;
        for (int part = 0; part < parts; part++) sum += partial[part * count + i];
        sums[i] = sum;
    }
}

#endif
