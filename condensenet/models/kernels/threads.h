/* How the kernels share work between threads, and what they keep in memory. condensenet/models/kernels/__init__.py says
   what each of them computes.

   Features are planar: channel c of all N images is one contiguous row of M = N * H * W floats. The work is split
   between threads by columns, by planes or by images, always in the same way for the same number of threads, and sums
   are added in the order of the threads: the same numbers come out of every run. */

#ifndef CONDENSENET_THREADS_H
#define CONDENSENET_THREADS_H

#include <omp.h>

enum {
    SPAN = 512,          /* columns that a sum takes in float before it goes on in double */
    BUNDLE_PIXELS = 1024 /* of images that share one sum over the lanes */
};

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
