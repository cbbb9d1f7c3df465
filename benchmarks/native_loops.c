/* The innermost loops of the native operator, each in a function of its own, for benchmarks/predicted_cycles.py to read
   as assembly. SIMD names the header of an instruction set. */

#include SIMD
#include "../condensenet/deploy/native/kernels.h"

#define GIVE(sum) UNROLL for (unsigned j = 0; j < sizeof sum / sizeof *sum; j++) store(to + j * LANES, sum[j]); /* in registers */

#define GATHER(Q)                                                                                               \
    void loop_gather_##Q(const geometry *g, const dense_layer *l, const float *features, float *to) {                \
        gather(Q, g, l, 0, features, 0, to);                                                                    \
    }
#define POINTWISE(C, Q)                                                                                         \
    void loop_pointwise_##C##x##Q(const dense_layer *l, const float *w, const float *x, const char *a, long n, float *to) { \
        vec sum[C * Q];                                                                                         \
        add_bias(C, Q, l->bias, sum);                                                                           \
        pointwise_tile(C, Q, l, w, x, a, n, sum);                                                               \
        GIVE(sum)                                                                                               \
    }
#define CLAMPED(C, Q)                                                                                           \
    void loop_clamped_##C##x##Q(const geometry *g, const dense_layer *l, const float *w, const float *x, float *to) { \
        vec sum[C * Q];                                                                                         \
        add_bias(C, Q, l->bias, sum);                                                                           \
        clamped_tile(C, Q, g, l, 0, w, x, sum);                                                                 \
        GIVE(sum)                                                                                               \
    }
#define SPATIAL(C, T)                                                                                           \
    void loop_spatial_##C##x##T(const geometry *g, int ins, const float *w, const float *z, float *out) {            \
        spatial_tile(C, T, 1, LANES == 16 && C <= 2, g, ins, w, z, out);                                        \
    }
#define CHANNELS_1X1(V, Q)                                                                                      \
    void loop_channels_1x1_##V##x##Q(long reads, const float *b, const float *w, const float *x, long row, const char *a, \
                                long n, float *to) {                                                              \
        vec sum[V * Q];                                                                                         \
        channels_tile(V, Q, reads, b, w, x, row, a, n, sum);                                                    \
        GIVE(sum)                                                                                               \
    }
#define CHANNELS_3X3(T, Q)                                                                                      \
    void loop_channels_3x3_##T##x##Q(const geometry *g, int panels, const float *w, const float *z, float *to, int n, \
                                const char *a, long step) {                                                       \
        channels_3x3_tile(1, T, Q, g, panels, w, z, to, n, a, step);                                            \
    }

GATHER(3)
POINTWISE(4, 3)
CLAMPED(4, 3)
SPATIAL(2, 4)
SPATIAL(1, 8)
#if REGISTERS >= 32
POINTWISE(8, 3)
CLAMPED(8, 3)
SPATIAL(4, 4)
CHANNELS_1X1(2, 14)
CHANNELS_1X1(1, 14)
CHANNELS_3X3(4, 7)
#else
CHANNELS_1X1(2, 6)
CHANNELS_1X1(1, 6)
CHANNELS_3X3(2, 7)
#endif
