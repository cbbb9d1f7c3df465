/* Part of kernels.h: both convolutions of a layer with output channels in the lanes, for groups with many outputs.

   Pixels are broadcast one by one, so none of a narrow image's lanes are idle. Planes of features are pixels without
   gaps. z consists of panels of LANES floats a pixel: what a set of 3x3 groups reads. A set is one group, or two where
   a group makes half a vector; those two are interleaved, so a pair is broadcast at once. Rows of a panel have one zero
   pixel or more at the end, as planes have (kernels.h). parse.c arranges outputs of the 1x1 convolution by set. */

enum { ROWS = REGISTERS >= 32 ? 4 : 2 }; /* of a 3x3 tile */

INLINE int tile_pixels(int left) { /* as few idle pixels as two widths allow */
    return left % WIDE == 0 || left % WIDE > NARROW ? WIDE : NARROW;
}

/* All inputs of a group at `count` pixels, clamped, one input after the other. */
static void gather_pixels(const geometry *g, const dense_layer *l, int group, int count, const float *x, long row, float *to) {
    const int *index = l->index + (long)group * l->reads;
    const float *bound = l->bound + (long)group * l->reads;
    int r = 0;
    for (; r < l->rising[group]; r++, to += row)
        for (int p = 0; p < count; p += LANES) store(to + p, LARGER(all(bound[r]), load(x + index[r] * g->feature_plane + p)));
    for (; r < l->reads; r++, to += row)
        for (int p = 0; p < count; p += LANES) store(to + p, SMALLER(all(bound[r]), load(x + index[r] * g->feature_plane + p)));
}

/* V vectors of outputs at Q pixels: like pointwise_tile(). */
INLINE void channels_tile(const int V, const int Q, long reads, const float *bias, const float *weight, const float *x,
                          long row, const char *ahead, long step, vec *sum) {
    UNROLL for (int v = 0; v < V; v++)
        UNROLL for (int q = 0; q < Q; q++) sum[v * Q + q] = load(bias + v * LANES);
    for (long r = 0; r < reads; r++) {
        __builtin_prefetch(ahead + r * step, 0, 2);
        __builtin_prefetch(ahead + r * step + step / 2, 0, 2);
        vec w[2];
        UNROLL for (int v = 0; v < V; v++) w[v] = load(weight + (r * V + v) * LANES);
        UNROLL for (int q = 0; q < Q; q++) {
            const vec pixel = all(x[r * row + q]);
            UNROLL for (int v = 0; v < V; v++) sum[v * Q + q] += pixel * w[v];
        }
    }
    UNROLL for (int j = 0; j < V * Q; j++) sum[j] = LARGER((vec){0}, sum[j]);
}

/* Where output j of a 1x1 group goes in z. */
INLINE long place_of(const geometry *g, const dense_layer *l, int group, int j) {
    const int run = l->outs / l->groups_3x3 * l->set, set = j / run, at = group * run + j % run;
    return ((long)set * (l->ins * l->set / LANES) + at / LANES) * g->z_plane + at % LANES;
}

INLINE void store_halves(float *low, float *high, vec v) {
    memcpy(low, &v, sizeof v / 2);
    memcpy(high, (char *)&v + sizeof v / 2, sizeof v / 2);
}

/* Vectors, or halves of them, of outputs from j on. */
INLINE void into_panels(const int V, const int Q, const geometry *g, const dense_layer *l, int group, int j,
                        const vec *sum, const int *at, float *z) {
    const int halves = l->outs / l->groups_3x3 * l->set < LANES;
    UNROLL for (int v = 0; v < V; v++) {
        float *low = z + place_of(g, l, group, j + v * LANES);
        if (halves) {
            float *high = z + place_of(g, l, group, j + v * LANES + LANES / 2);
            UNROLL for (int q = 0; q < Q; q++) store_halves(low + at[q], high + at[q], sum[v * Q + q]);
        } else
            UNROLL for (int q = 0; q < Q; q++) store(low + at[q], sum[v * Q + q]);
    }
}

INLINE void channels_outputs(const int V, const int Q, const geometry *g, const dense_layer *l, int group, int j,
                             const float *x, long row, const int *at, const progress *p, const char *ahead, long step) {
    vec sum[28];
    const long output = (long)group * l->outs + j;
    channels_tile(V, Q, l->reads, l->bias + output, l->weight + output * l->reads, x, row, ahead, step, sum);
    into_panels(V, Q, g, l, group, j, sum, at, p->z);
}

/* The 1x1 groups [first, last). */
static void channels_1x1(const geometry *g, const dense_layer *l, int first, int last, const float *features,
                         const progress *p) {
    const int pixels = g->H * g->W, most = panel_pixels(l, pixels);
    const long row = gathered_row(l, pixels), slots = (long)l->groups * l->outs * pixels / (2 * LANES * WIDE) + 1;
    const long step = l->ahead_bytes / (slots * (l->reads | 1)) + 1;
    for (int group = first; group < last; group++) {
        float *x = p->x;
        long slot = slots * group / l->groups;
        for (int m = 0; m < pixels; m += most) {
            const int count = pixels - m < most ? pixels - m : most;
            gather_pixels(g, l, group, count, features + m, row, x);
            for (int j = 0, V; j < l->outs; j += V * LANES) {
                V = l->outs - j >= 2 * LANES ? 2 : 1;
                for (int q = 0, Q; q < count; q += Q, slot++) {
                    const char *ahead = l->ahead + (slot < slots ? slot : 0) * step * l->reads;
                    Q = tile_pixels(count - q);
                    if (V == 2 && Q == WIDE) channels_outputs(2, WIDE, g, l, group, j, x + q, row, g->at + m + q, p, ahead, step);
                    else if (V == 2) channels_outputs(2, NARROW, g, l, group, j, x + q, row, g->at + m + q, p, ahead, step);
                    else if (Q == WIDE) channels_outputs(1, WIDE, g, l, group, j, x + q, row, g->at + m + q, p, ahead, step);
                    else channels_outputs(1, NARROW, g, l, group, j, x + q, row, g->at + m + q, p, ahead, step);
                }
            }
        }
    }
}

typedef double pair __attribute__((vector_size(4 * LANES)));

INLINE vec spread(const int U, const float *x) { /* one float, or two in turn */
    if (U == 1) return all(*x);
    double two;
    memcpy(&two, x, sizeof two);
    return (vec)(two - (pair){0});
}

/* A vector of outputs of a set of U groups at T rows of Q pixels. A pixel is broadcast once for three columns of taps. */
INLINE void channels_3x3_tile(const int U, const int T, const int Q, const geometry *g, int panels, const float *weight,
                              const float *z, float *to, int columns, const char *ahead, long step) {
    vec sum[28];
    UNROLL for (int j = 0; j < T * Q; j++) sum[j] = (vec){0};
    for (int panel = 0; panel < panels; panel++, z += g->z_plane)
        for (int row = -1; row <= 1; row++) {
            const float *x[T];
            UNROLL for (int t = 0; t < T; t++) {
                x[t] = z + (row + t) * g->z_pitch - LANES;
                __asm__("" : "+r"(x[t])); /* else GCC keeps the distance of each pixel from the first, in memory */
            }
            for (int i = 0; i < LANES; i += U, weight += 3 * LANES, ahead += step) {
                __builtin_prefetch(ahead, 0, 2);
                __builtin_prefetch(ahead + step / 2, 0, 2);
                vec tap[3];
                UNROLL for (int c = 0; c < 3; c++) tap[c] = load(weight + c * LANES);
                UNROLL for (int t = 0; t < T; t++)
                    UNROLL for (int p = 0; p < Q + 2; p++) {
                        const vec pixel = spread(U, x[t] + p * LANES + i);
                        UNROLL for (int c = 0; c < 3; c++)
                            if (p >= c && p - c < Q) sum[t * Q + p - c] += pixel * tap[c];
                    }
            }
        }
    UNROLL for (int t = 0; t < T; t++)
        UNROLL for (int q = 0; q < Q; q++)
            if (q < columns) store(to + ((long)t * g->W + q) * LANES, sum[t * Q + q]);
}

INLINE void channels_column(const int U, const int Q, const geometry *g, int panels, const float *weight, const float *z,
                            float *to, int columns, const char *ahead, long step) {
    int t = 0;
#define WHILE_LEFT(n, condition) for (; t + (n) <= g->H && (condition); t += (n)) \
        channels_3x3_tile(U, n, Q, g, panels, weight, z + t * g->z_pitch, to + (long)t * g->W * LANES, columns, \
                          ahead + t * (panels * 3 * (LANES / U) * step / ROWS), step)
    if (ROWS >= 4) WHILE_LEFT(4, g->H - t == 4 || g->H - t > 6);
    if (ROWS >= 4) WHILE_LEFT(3, 1);
    WHILE_LEFT(2, 1);
    WHILE_LEFT(1, 1);
#undef WHILE_LEFT
}

/* Vectors of a pixel's outputs become planes; those of two groups are in turn. */
INLINE void into_planes(const int U, const float *from, int pixels, float *to, long plane) {
    for (int p = 0; p < pixels; p += LANES) {
        vec v[LANES];
        UNROLL for (int i = 0; i < LANES; i++) v[i] = load(from + (p + i) * LANES);
        turn(v);
        UNROLL for (int i = 0; i < LANES; i++) store(to + (i % U * (LANES / U) + i / U) * plane + p, v[i]);
    }
}

INLINE void channels_set(const int U, const geometry *g, const dense_layer *l, int set, float *features, const progress *p) {
    const int panels = l->ins * U / LANES, makes = l->makes * U;
    const float *z = p->z + (long)set * panels * g->z_plane + g->lead;
    float *turned = p->turned;
    const long columns = (g->W + g->across - 1) / g->across, rows = (g->H + ROWS - 1) / ROWS;
    const long slots = columns * makes / LANES;
    const long bytes = l->later_bytes / (l->groups_3x3 / U * slots); /* to prefetch for a vector of outputs of a column */
    const long step = bytes / (rows * 3 * l->ins) + 1;
    const char *ahead = l->ahead + l->ahead_bytes + set * slots * bytes;
    for (int c = 0; c < makes; c += LANES) {
        const float *weight = l->weight_3x3 + ((long)set * makes + c) * l->ins * 9;
        for (int w = 0; w < g->W; w += g->across, ahead += bytes)
            if (g->across == 7)
                channels_column(U, 7, g, panels, weight, z + w * LANES, turned + w * LANES, g->W - w, ahead, step);
            else
                channels_column(U, 4, g, panels, weight, z + w * LANES, turned + w * LANES, g->W - w, ahead, step);
        into_planes(U, turned, g->H * g->W, features + (l->first + (long)set * makes + c) * g->feature_plane, g->feature_plane);
    }
}

/* The sets [first, last) of 3x3 groups. */
static void channels_3x3(const geometry *g, const dense_layer *l, int first, int last, float *features, const progress *p) {
    for (int set = first; set < last; set++)
        if (l->set == 2) channels_set(2, g, l, set, features, p);
        else channels_set(1, g, l, set, features, p);
}
