/* Part of kernels.h: the 3x3 group convolution, from z to new features. */

/* C outputs of a column of T vectors. S rows share a vector: then taps lie half a vector apart. */
INLINE void NAME(spatial_tile)(const int C, const int T, const int S, const geometry *g, int ins, const float *weight,
                               const float *z, float *out) {
    vec sum[16];
    UNROLL for (int j = 0; j < C * T; j++) sum[j] = (vec){0};
    for (int i = 0; i < ins; i++)
        for (int column = 0; column < 3; column++) {
            const float *x = z + i * g->z_plane + column, *w = weight + (i * 3 + column) * 3 * C;
            vec tap[12];
            UNROLL for (int j = 0; j < 3 * C; j++) tap[j] = all(w[j]);
            UNROLL for (int row = -1; row <= (T - 1) * S + 1; row++) {
                const vec v = load(x + row * g->pitch);
                UNROLL for (int d = -1; d <= 1; d++) {
                    const int under = row - d;
                    if (under >= 0 && under % S == 0 && under / S < T)
                        UNROLL for (int c = 0; c < C; c++) sum[c * T + under / S] += v * tap[c * 3 + d + 1];
                }
            }
        }
    UNROLL for (int c = 0; c < C; c++)
        UNROLL for (int t = 0; t < T; t++) store(out + c * g->feature_plane + (long)t * S * g->pitch, sum[c * T + t]);
}

/* The same for S = 1 by whole vectors alone: those that lie across two cache lines cost more than to make
   them of two that do not, where a vector is a line and there are few outputs to use it for. */
INLINE void NAME(spatial_tile_aligned)(const int C, const int T, const geometry *g, int ins, const float *weight,
                                       const float *z, float *out) {
    mask before, after;
    for (int i = 0; i < LANES; i++) before[i] = LANES - 1 + i, after[i] = 1 + i;
    vec sum[16];
    UNROLL for (int j = 0; j < C * T; j++) sum[j] = (vec){0};
    for (int i = 0; i < ins; i++) {
        const float *x = z + 1 + i * g->z_plane, *w = weight + i * 9 * C;
        vec tap[18];
        UNROLL for (int j = 0; j < 9 * C; j++) tap[j] = all(w[j]);
        UNROLL for (int row = -1; row <= T; row++) {
            const float *at = x + row * g->pitch;
            const vec middle = load(at);
            const vec v[3] = {__builtin_shuffle(load(at - LANES), middle, before), middle,
                              __builtin_shuffle(middle, load(at + LANES), after)};
            UNROLL for (int column = 0; column < 3; column++)
                UNROLL for (int d = -1; d <= 1; d++)
                    if (row - d >= 0 && row - d < T)
                        UNROLL for (int c = 0; c < C; c++)
                            sum[c * T + row - d] += v[column] * tap[(column * C + c) * 3 + d + 1];
        }
    }
    UNROLL for (int c = 0; c < C; c++)
        UNROLL for (int t = 0; t < T; t++) store(out + c * g->feature_plane + (long)t * g->pitch, sum[c * T + t]);
}

/* A column of `count` vectors, T at a time. */
INLINE void NAME(spatial_column)(const int C, const int T, const int S, const geometry *g, int ins, const float *weight,
                                 const float *z, float *out, int count) {
    int t = 0;
#define WHILE_LEFT(tile, n) for (; t + (n) <= count; t += (n)) { \
        const long down = (long)t * S * g->pitch; \
        tile; }
    if (LANES == 16 && S == 1 && C <= 2)
        WHILE_LEFT(NAME(spatial_tile_aligned)(C, 8 / C, g, ins, weight, z + down, out + down), 8 / C);
    WHILE_LEFT(NAME(spatial_tile)(C, T, S, g, ins, weight, z + down, out + down), T);
    if (T > 4) WHILE_LEFT(NAME(spatial_tile)(C, 4, S, g, ins, weight, z + down, out + down), 4);
    if (T > 2) WHILE_LEFT(NAME(spatial_tile)(C, 2, S, g, ins, weight, z + down, out + down), 2);
    WHILE_LEFT(NAME(spatial_tile)(C, 1, S, g, ins, weight, z + down, out + down), 1);
#undef WHILE_LEFT
}

INLINE void NAME(spatial_shared)(const int S, const geometry *g, const dense_layer *l, int first, int last,
                                 float *features, const progress *p, int from, int to) {
    const int count = (to - from + S - 1) / S;
    for (int group = first; group < last; group++)
        for (int c = 0, tile; c < l->makes; c += tile) {
            tile = tile_of(l->makes - c, TILE_3X3);
            const float *weight = l->weight_3x3 + ((long)group * l->makes + c) * l->ins * 9;
            const float *z = p->z + (long)group * l->ins * g->z_plane + g->lead + (long)(from - p->z_first) * g->pitch - 1;
            float *out = features + (l->first + (long)group * l->makes + c) * g->feature_plane + (long)from * g->pitch;
            for (int column = 0; column < g->columns; column++, z += LANES, out += LANES) {
                if (TILE_3X3 >= 4 && tile == 4) NAME(spatial_column)(4, 4, S, g, l->ins, weight, z, out, count);
                else if (tile == 2) NAME(spatial_column)(2, TILE_3X3 >= 4 ? 8 : 4, S, g, l->ins, weight, z, out, count);
                else NAME(spatial_column)(1, 8, S, g, l->ins, weight, z, out, count);
            }
        }
}

/* Rows [from, to) of the new features, of the 3x3 groups [first, last). */
static void NAME(spatial)(const geometry *g, const dense_layer *l, int first, int last, float *features,
                          const progress *p, int from, int to) {
    if (g->share == 2) NAME(spatial_shared)(2, g, l, first, last, features, p, from, to);
    else NAME(spatial_shared)(1, g, l, first, last, features, p, from, to);
}
