/* Part of kernels.h: the 3x3 group convolution, from z to new features. */

/* The vector that starts one float before `at` (column 0), at it (1) or one after it (2), from aligned loads only: if a
   vector is as long as a cache line, a load across two lines costs more than a shuffle. */
INLINE vec beside(const float *at, const int column) {
    mask order;
    UNROLL for (int i = 0; i < LANES; i++) order[i] = column == 0 ? LANES - 1 + i : 1 + i;
    if (column == 1) return load(at);
    const float *left = column == 0 ? at - LANES : at;
    return __builtin_shuffle(load(left), load(left + LANES), order);
}

/* C outputs of a column of T vectors. If S = 2 rows share a vector, taps are half a vector apart. With few outputs per
   loaded vector, loads are the bottleneck: then only aligned ones (`whole`). Sums have the same order in any tiling. */
INLINE void spatial_tile(const int C, const int T, const int S, const int whole, const geometry *g, int ins,
                               const float *weight, const float *z, float *out) {
    vec sum[16];
    UNROLL for (int j = 0; j < C * T; j++) sum[j] = (vec){0};
    for (int i = 0; i < ins; i++)
        UNROLL for (int column = 0; column < 3; column++) {
            const float *x = z + i * g->z_plane, *w = weight + (i * 3 + column) * 3 * C;
            vec tap[12];
            UNROLL for (int j = 0; j < 3 * C; j++) tap[j] = all(w[j]);
            UNROLL for (int row = -1; row <= (T - 1) * S + 1; row++) {
                const float *at = x + row * g->pitch;
                const vec v = whole ? beside(at, column) : load(at + column - 1);
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

/* A column of `count` vectors, T at a time; by fours, what is left goes by threes rather than by two and one. */
INLINE void spatial_column(const int C, const int T, const int S, const geometry *g, int ins, const float *weight,
                           const float *z, float *out, int count) {
    const int whole = LANES == 16 && S == 1 && C <= 2;
    int t = 0;
#define WHILE_LEFT(n, condition) for (; t + (n) <= count && (condition); t += (n)) \
        spatial_tile(C, n, S, whole, g, ins, weight, z + (long)t * S * g->pitch, out + (long)t * S * g->pitch)
    if (T > 4) WHILE_LEFT(T, 1);
    WHILE_LEFT(4, count - t == 4 || count - t > 6);
    WHILE_LEFT(3, 1);
    WHILE_LEFT(2, 1);
    WHILE_LEFT(1, 1);
#undef WHILE_LEFT
}

INLINE void spatial_shared(const int S, const geometry *g, const dense_layer *l, int first, int last,
                                 float *features, const progress *p, int from, int to) {
    const int count = (to - from + S - 1) / S;
    for (int group = first; group < last; group++)
        for (int c = 0, tile; c < l->makes; c += tile) {
            tile = tile_of(l->makes - c, TILE_3X3);
            const float *weight = l->weight_3x3 + ((long)group * l->makes + c) * l->ins * 9;
            const float *z = p->z + (long)group * l->ins * g->z_plane + g->lead + (long)(from - p->z_first) * g->pitch;
            float *out = features + (l->first + (long)group * l->makes + c) * g->feature_plane + (long)from * g->pitch;
            for (int column = 0; column < g->columns; column++, z += LANES, out += LANES) {
                if (TILE_3X3 >= 4 && tile == 4) spatial_column(4, 4, S, g, l->ins, weight, z, out, count);
                else if (tile == 2) spatial_column(2, TILE_3X3 >= 4 ? 8 : 4, S, g, l->ins, weight, z, out, count);
                else spatial_column(1, 8, S, g, l->ins, weight, z, out, count);
            }
        }
}

/* Rows [from, to) of the new features, of the 3x3 groups [first, last). */
static void spatial(const geometry *g, const dense_layer *l, int first, int last, float *features,
                          const progress *p, int from, int to) {
    if (g->share == 2) spatial_shared(2, g, l, first, last, features, p, from, to);
    else spatial_shared(1, g, l, first, last, features, p, from, to);
}
