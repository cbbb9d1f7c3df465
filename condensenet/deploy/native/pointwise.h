/* Part of kernels.h: the 1x1 group convolution, from features to z. */

/* Q vectors of pixels of all inputs of a group, clamped, one input after the other. */
INLINE void gather(const int Q, const geometry *g, const dense_layer *l, int group, const float *features, long at,
                         float *to) {
    const int *index = l->index + (long)group * l->reads;
    const float *bound = l->bound + (long)group * l->reads, *x = features + at;
    int r = 0;
    for (; r < l->rising[group]; r++)
        UNROLL for (int q = 0; q < Q; q++)
            store(to + (r * Q + q) * LANES, LARGER(all(bound[r]), load(x + index[r] * g->feature_plane + q * LANES)));
    for (; r < l->reads; r++)
        UNROLL for (int q = 0; q < Q; q++)
            store(to + (r * Q + q) * LANES, SMALLER(all(bound[r]), load(x + index[r] * g->feature_plane + q * LANES)));
}

INLINE void add_bias(const int C, const int Q, const float *bias, vec *sum) {
    UNROLL for (int c = 0; c < C; c++) {
        const vec all_pixels = all(bias[c]);
        UNROLL for (int q = 0; q < Q; q++) sum[c * Q + q] = all_pixels;
    }
}

INLINE void add_products(const int C, const int Q, const float *weight, const vec *v, vec *sum) {
#if defined(__aarch64__) /* multiplies by one lane of a vector: four weights to a register instead of one */
    if (C % LANES == 0) {
        UNROLL for (int c = 0; c < C; c += LANES) {
            const vec w = load(weight + c);
            UNROLL for (int i = 0; i < LANES; i++)
                UNROLL for (int q = 0; q < Q; q++) sum[(c + i) * Q + q] += v[q] * w[i];
        }
        return;
    }
#endif
    UNROLL for (int c = 0; c < C; c++) {
        const vec w = all(weight[c]);
        UNROLL for (int q = 0; q < Q; q++) sum[c * Q + q] += v[q] * w;
    }
}

/* C outputs at Q vectors of pixels: bias + sum over the inputs r of weight[r][c] * x[r].
   Meanwhile it prefetches what comes next in memory, step by step: the weights of a deep layer fill the second-level
   cache and would arrive too late if loaded only on use. */
INLINE void pointwise_tile(const int C, const int Q, const dense_layer *l, const float *weight, const float *x,
                           const char *ahead, long step, vec *sum) {
    for (long r = 0; r < l->reads; r++) {
        __builtin_prefetch(ahead + r * step, 0, 2);
        vec v[8];
        UNROLL for (int q = 0; q < Q; q++) v[q] = load(x + (r * Q + q) * LANES);
        add_products(C, Q, weight + r * C, v, sum);
    }
}

/* The same for inputs where they lie, if at most two tiles need them: such layers have few weights to prefetch. */
INLINE void clamped_tile(const int C, const int Q, const geometry *g, const dense_layer *l, int group, const float *weight,
                         const float *x, vec *sum) {
    const int *index = l->index + (long)group * l->reads;
    const float *bound = l->bound + (long)group * l->reads;
    long r = 0;
    vec v[8];
    for (; r < l->rising[group]; r++) {
        UNROLL for (int q = 0; q < Q; q++) v[q] = LARGER(all(bound[r]), load(x + index[r] * g->feature_plane + q * LANES));
        add_products(C, Q, weight + r * C, v, sum);
    }
    for (; r < l->reads; r++) {
        UNROLL for (int q = 0; q < Q; q++) v[q] = SMALLER(all(bound[r]), load(x + index[r] * g->feature_plane + q * LANES));
        add_products(C, Q, weight + r * C, v, sum);
    }
}

/* Zero beside the image, in the last vector of a row. */
INLINE void into_z(const int C, const int Q, const geometry *g, const dense_layer *l, int group, int c0, int column,
                   const vec *sum, float *z) {
    const int inside = !g->masked || column + Q < g->columns;
    UNROLL for (int c = 0; c < C; c++) {
        float *to = z + l->channel[group * l->outs + c0 + c] * g->z_plane;
        UNROLL for (int q = 0; q < Q; q++) {
            const vec y = LARGER((vec){0}, sum[c * Q + q]);
            store(to + q * LANES, inside ? y : keep(g->keep[column + q], y));
        }
    }
}

INLINE long prefetch_step(const dense_layer *l, long bytes) { /* per input and output, rounded up */
    const long weights = (long)l->outs * (l->reads | 1);
    return (bytes + weights - 1) / weights;
}

/* All outputs of a group at Q vectors. */
INLINE void pointwise_outputs(const int Q, const geometry *g, const dense_layer *l, int group, const float *features,
                                    long at, int column, const progress *p, long z_at, const char *ahead, long bytes) {
    const float *weight = l->weight + (long)group * l->outs * l->reads, *bias = l->bias + group * l->outs;
    const long step = prefetch_step(l, bytes);
    float *x = p->x;
    int c = 0;
#define WHILE_LEFT(C, PRODUCTS) for (; l->outs - c >= (C); c += (C)) { \
        vec sum[24]; \
        add_bias(C, Q, bias + c, sum); \
        PRODUCTS(C); \
        into_z(C, Q, g, l, group, c, column, sum, p->z + z_at); }
#define EACH_TILE(PRODUCTS) \
        if (TILE >= 8 && Q <= 3) WHILE_LEFT(8, PRODUCTS) \
        WHILE_LEFT(4, PRODUCTS) \
        WHILE_LEFT(2, PRODUCTS) \
        WHILE_LEFT(1, PRODUCTS)
#define CLAMPED(C) clamped_tile(C, Q, g, l, group, weight + (long)c * l->reads, features + at, sum)
#define GATHERED(C) pointwise_tile(C, Q, l, weight + (long)c * l->reads, x, ahead + c * bytes / l->outs, (C) * step, sum)
    if (l->outs <= 2 * TILE) {
        EACH_TILE(CLAMPED)
    } else {
        gather(Q, g, l, group, features, at, x);
        EACH_TILE(GATHERED)
    }
#undef GATHERED
#undef CLAMPED
#undef EACH_TILE
#undef WHILE_LEFT
}

/* Rows [from, to) of z's planes, of the 1x1 groups [first, last). */
static void pointwise(const geometry *g, const dense_layer *l, int first, int last, const float *features,
                            const progress *p, int from, int to) {
    const int whole = g->share == 2 || g->columns * LANES == g->pitch; /* no gap between rows */
    const int runs = whole ? 1 : to - from, few = TILE >= 8 && l->outs < 8; /* few outputs: more vectors at a time */
    const int vectors = whole ? ((to - from) * g->pitch + LANES - 1) / LANES : g->columns;
    const long bytes = l->ahead_bytes / ((long)l->groups * runs * vectors + 1); /* to prefetch per vector */
    for (int group = first; group < last; group++)
        for (int run = 0; run < runs; run++) {
            const long at = (long)(from + run) * g->pitch, z_at = g->lead + (long)(from + run - p->z_first) * g->pitch;
            int v = 0;
#define WHILE_LEFT(Q) for (; vectors - v >= (Q); v += (Q)) \
            pointwise_outputs(Q, g, l, group, features, at + v * LANES, v % g->columns, p, z_at + v * LANES, \
                                    l->ahead + (((long)group * runs + run) * vectors + v) * bytes, (Q) * bytes)
            if (few) WHILE_LEFT(4);
            if (vectors - v != 4) WHILE_LEFT(3); /* four: two and two */
            WHILE_LEFT(2);
            WHILE_LEFT(1);
#undef WHILE_LEFT
        }
}
