/* The kernels of a dense block, written once in GCC's vector extensions and compiled for each instruction set by
   kernels.c, which defines LANES, NAME(), the widest tiles TILE and TILE_3X3 of
   outputs, and LARGER and SMALLER: of two vectors, lane by lane,
   the second where they do not compare, so that a NaN stays one.

   A plane has rows of `pitch` floats, at least one more than the width, the rest zero: the zero to the right of a row
   is also the zero to the left of the next, and all rows start on a whole vector. Where two rows fit into one vector
   they share it (`share` is 2). Planes of features are not zero beside the image: only the 1x1 convolution reads
   them, whose outputs there are set to zero. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES)));
typedef float NAME(vec_u) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int NAME(mask) __attribute__((vector_size(4 * LANES)));
#define vec NAME(vec)
#define vec_u NAME(vec_u)
#define mask NAME(mask)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32") /* sums stay in registers only where no loop indexes them */

typedef struct {
    int H, W, pitch, share, columns;     /* vectors of a row; with share 2, of two rows: 1 */
    int step, rows;                      /* rows of the image at a time, and rows of a plane of z */
    long feature_plane, z_plane, lead;   /* floats; the first row of z starts at lead */
    int masked;                          /* whether a row ends within a vector */
    const mask *keep;                    /* by vector from the start of a row on, and as many more as a tile takes */
} NAME(geometry);
#define geometry NAME(geometry)

typedef struct {
    int z_first, z_done, done; /* z's first row, and rows done: of z, of features */
    float *z, *x;              /* the 1x1 convolution's outputs, and its inputs at some vectors, by group */
    long x_group;
} NAME(progress);
#define progress NAME(progress)

INLINE vec NAME(load)(const float *p) { return *(const vec_u *)p; }
INLINE void NAME(store)(float *p, vec v) { *(vec_u *)p = v; }
#define load NAME(load)
#define store NAME(store)
INLINE vec NAME(all)(float x) { return x - (vec){0}; } /* x + 0 would be an addition: -0 + 0 is not -0 */
#define all NAME(all)

/* Q vectors of pixels of all inputs of a group, clamped, one input behind the other. */
INLINE void NAME(gather)(const int Q, const geometry *g, const dense_layer *l, int group, const float *features, long at,
                         float *to) {
    const int *index = l->index + (long)group * l->reads;
    const float *bound = l->bound + (long)group * l->reads;
    int r = 0;
    for (; r < l->rising[group]; r++)
        UNROLL for (int q = 0; q < Q; q++)
            store(to + (r * Q + q) * LANES, LARGER(all(bound[r]), load(features + index[r] * g->feature_plane + at + q * LANES)));
    for (; r < l->reads; r++)
        UNROLL for (int q = 0; q < Q; q++)
            store(to + (r * Q + q) * LANES, SMALLER(all(bound[r]), load(features + index[r] * g->feature_plane + at + q * LANES)));
}

/* C outputs at Q vectors of pixels: bias + sum over the inputs r of weight[r][c] * x[r], clamped at zero.
   On the way it fetches, step by step, what comes next in memory: the weights of a deep layer fill the second-level
   cache and come too late when they are asked for only when they are needed. */
INLINE void NAME(pointwise_tile)(const int C, const int Q, const dense_layer *l, int group, int c0, const float *weight,
                                 const float *x, long stride, const char *ahead, long step, vec *sum) {
    UNROLL for (int c = 0; c < C; c++) {
        const vec bias = all(l->bias[group * l->outs + c0 + c]);
        UNROLL for (int q = 0; q < Q; q++) sum[c * Q + q] = bias;
    }
    for (long r = 0; r < l->reads; r++) {
        __builtin_prefetch(ahead + r * step, 0, 2);
        vec v[8];
        UNROLL for (int q = 0; q < Q; q++) v[q] = load(x + r * stride + q * LANES);
        UNROLL for (int c = 0; c < C; c++) {
            const vec w = all(weight[r * C + c]);
            UNROLL for (int q = 0; q < Q; q++) sum[c * Q + q] += v[q] * w;
        }
    }
    UNROLL for (int j = 0; j < C * Q; j++) sum[j] = LARGER((vec){0}, sum[j]);
}

INLINE void NAME(into_z)(const int C, const int Q, const geometry *g, const dense_layer *l, int group, int c0, int column,
                         const vec *sum, float *z) {
    UNROLL for (int c = 0; c < C; c++) {
        float *to = z + l->channel[group * l->outs + c0 + c] * g->z_plane;
        UNROLL for (int q = 0; q < Q; q++)
            store(to + q * LANES, g->masked ? (vec)((mask)sum[c * Q + q] & g->keep[column + q]) : sum[c * Q + q]);
    }
}

INLINE long NAME(step)(const dense_layer *l, long bytes) { /* by input and output, rounded up */
    const long weights = (long)l->outs * (l->reads | 1);
    return (bytes + weights - 1) / weights;
}

/* All outputs of a group at Q vectors. */
INLINE void NAME(pointwise_outputs)(const int Q, const geometry *g, const dense_layer *l, int group, const float *features,
                                    long at, int column, const progress *p, long z_at, const char *ahead, long bytes) {
    const float *weight = l->weight + (long)group * l->outs * l->reads;
    const long step = NAME(step)(l, bytes);
    float *x = p->x + group * p->x_group;
    int c = 0;
    NAME(gather)(Q, g, l, group, features, at, x);
#define WHILE_LEFT(C) for (; l->outs - c >= (C); c += (C), ahead += (C) * bytes / l->outs) { \
        vec sum[24]; \
        NAME(pointwise_tile)(C, Q, l, group, c, weight + (long)c * l->reads, x, Q * LANES, ahead, (C) * step, sum); \
        NAME(into_z)(C, Q, g, l, group, c, column, sum, p->z + z_at); }
    if (TILE >= 8 && Q <= 3) WHILE_LEFT(8);
    WHILE_LEFT(4);
    WHILE_LEFT(2);
    WHILE_LEFT(1);
#undef WHILE_LEFT
}

/* Rows [from, to) of z's planes, of the 1x1 groups [first, last). */
static void NAME(pointwise)(const geometry *g, const dense_layer *l, int first, int last, const float *features,
                            const progress *p, int from, int to) {
    const int whole = g->share == 2 || g->columns * LANES == g->pitch; /* rows without a gap between them */
    const int runs = whole ? 1 : to - from, few = TILE >= 8 && l->outs < 8; /* outputs: then more vectors at a time */
    const int vectors = whole ? ((to - from) * g->pitch + LANES - 1) / LANES : g->columns;
    const long bytes = l->ahead_bytes / ((long)l->groups * runs * vectors + 1); /* to fetch by vector */
    for (int group = first; group < last; group++)
        for (int run = 0; run < runs; run++) {
            const long at = (long)(from + run) * g->pitch, z_at = g->lead + (long)(from + run - p->z_first) * g->pitch;
            int v = 0;
#define WHILE_LEFT(Q) for (; vectors - v >= (Q); v += (Q)) \
            NAME(pointwise_outputs)(Q, g, l, group, features, at + v * LANES, v % g->columns, p, z_at + v * LANES, \
                                    l->ahead + (((long)group * runs + run) * vectors + v) * bytes, (Q) * bytes)
            if (few) WHILE_LEFT(4);
            if (vectors - v != 4) WHILE_LEFT(3); /* four: two and two */
            WHILE_LEFT(2);
            WHILE_LEFT(1);
#undef WHILE_LEFT
        }
}

/* C outputs of B vectors beside each other, T vectors down. S rows share a vector: then taps lie half a vector apart. */
INLINE void NAME(spatial_tile)(const int C, const int B, const int T, const int S, const geometry *g, int ins,
                               const float *weight, const float *z, float *out) {
    vec sum[32];
    UNROLL for (int j = 0; j < C * B * T; j++) sum[j] = (vec){0};
    for (int i = 0; i < ins; i++)
        for (int column = 0; column < 3; column++) {
            const float *x = z + i * g->z_plane + column, *w = weight + (i * 3 + column) * 3 * C;
            vec tap[12];
            UNROLL for (int j = 0; j < 3 * C; j++) tap[j] = all(w[j]);
            UNROLL for (int row = -1; row <= (T - 1) * S + 1; row++)
                UNROLL for (int b = 0; b < B; b++) {
                    const vec v = load(x + row * g->pitch + b * LANES);
                    UNROLL for (int d = -1; d <= 1; d++) {
                        const int under = row - d;
                        if (under >= 0 && under % S == 0 && under / S < T)
                            UNROLL for (int c = 0; c < C; c++)
                                sum[(c * B + b) * T + under / S] += v * tap[c * 3 + d + 1];
                    }
                }
        }
    UNROLL for (int c = 0; c < C; c++)
        UNROLL for (int b = 0; b < B; b++)
            UNROLL for (int t = 0; t < T; t++)
                store(out + c * g->feature_plane + (long)t * S * g->pitch + b * LANES, sum[(c * B + b) * T + t]);
}

/* The same for one column and S = 1 by whole vectors alone: those that lie across two cache lines cost more than to make
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

/* B columns of `count` vectors, T at a time. */
INLINE void NAME(spatial_columns)(const int C, const int B, const int T, const int S, const geometry *g, int ins,
                                  const float *weight, const float *z, float *out, int count) {
    int t = 0;
    if (LANES == 16 && S == 1 && B == 1 && C <= 2)
        for (const int n = C == 1 ? 8 : 4; t + n <= count; t += n)
            NAME(spatial_tile_aligned)(C, C == 1 ? 8 : 4, g, ins, weight, z + (long)t * g->pitch, out + (long)t * g->pitch);
#define WHILE_LEFT(n) for (; t + (n) <= count; t += (n)) \
        NAME(spatial_tile)(C, B, n, S, g, ins, weight, z + (long)t * S * g->pitch, out + (long)t * S * g->pitch)
    WHILE_LEFT(T);
    if (T > 4) WHILE_LEFT(4);
    if (T > 2) WHILE_LEFT(2);
    WHILE_LEFT(1);
#undef WHILE_LEFT
}

INLINE void NAME(spatial_shared)(const int S, const geometry *g, const dense_layer *l, int first, int last,
                                 float *features, const progress *p, int from, int to) {
    const int count = S == 2 ? (to - from + 1) / 2 : to - from, wide = TILE >= 8;
    for (int group = first; group < last; group++)
        for (int c = 0, tile; c < l->makes; c += tile) {
            tile = tile_of(l->makes - c, TILE_3X3);
            const float *weight = l->weight_3x3 + ((long)group * l->makes + c) * l->ins * 9;
            const float *z = p->z + (long)group * l->ins * g->z_plane + g->lead + (long)(from - p->z_first) * g->pitch - 1;
            float *out = features + (l->first + (long)group * l->makes + c) * g->feature_plane + (long)from * g->pitch;
            int column = 0;
#define WHILE_LEFT(C, B, T) for (; column + (B) <= g->columns; column += (B)) \
            NAME(spatial_columns)(C, B, T, S, g, l->ins, weight, z + column * LANES, out + column * LANES, count)
            if (TILE_3X3 >= 4 && tile == 4) WHILE_LEFT(4, 1, 4);
            else if (tile == 2) WHILE_LEFT(2, 1, wide ? 8 : 4);
            else WHILE_LEFT(1, 1, 8);
#undef WHILE_LEFT
        }
}

/* Rows [from, to) of the new features, of the 3x3 groups [first, last). */
static void NAME(spatial)(const geometry *g, const dense_layer *l, int first, int last, float *features,
                          const progress *p, int from, int to) {
    if (g->share == 2) NAME(spatial_shared)(2, g, l, first, last, features, p, from, to);
    else NAME(spatial_shared)(1, g, l, first, last, features, p, from, to);
}

static void NAME(zero_row)(const geometry *g, int first, int last, const progress *p, int row) { /* of some planes */
    for (int c = first; c < last; c++)
        memset(p->z + c * g->z_plane + g->lead + (long)(row - p->z_first) * g->pitch, 0, g->pitch * sizeof(float));
}

/* Moves what the next rows still need to the front of z: the last row done of the features, the one above the next. */
static void NAME(slide)(const geometry *g, int planes, progress *p) {
    const int drop = p->done - 1 - p->z_first, kept = p->z_done - (p->done - 1);
    for (int c = 0; c < planes; c++) {
        float *rows = p->z + c * g->z_plane + g->lead;
        memmove(rows, rows + (long)drop * g->pitch, kept * g->pitch * sizeof(float));
    }
    p->z_first += drop;
}

/* Takes a layer as far as the features it reads go, rows below `ready`; returns how far its own go then. */
static int NAME(advance)(const geometry *g, const dense_layer *l, float *features, progress *p, int ready) {
    const int planes = l->groups * l->outs, to = ready == g->H ? g->H : ready - 1;
    NAME(pointwise)(g, l, 0, l->groups, features, p, p->z_done, ready);
    p->z_done = ready;
    if (ready == g->H) NAME(zero_row)(g, 0, planes, p, g->H);
    if (to > p->done) {
        NAME(spatial)(g, l, 0, l->groups_3x3, features, p, p->done, to);
        p->done = to;
    }
    if (ready < g->H) NAME(slide)(g, planes, p);
    return p->done;
}

static int NAME(widest)(const dense_block *b) {
    int planes = 1;
    for (int l = 0; l < b->layers; l++)
        if (b->layer[l].groups * b->layer[l].outs > planes) planes = b->layer[l].groups * b->layer[l].outs;
    return planes;
}

enum { NAME(AHEAD) = 8 }; /* vectors of a tile, at most */

INLINE long NAME(plane)(long floats) { /* whole vectors, and an odd number: neighbouring planes meet in no cache set */
    return ((floats + LANES - 1) / LANES | 1) * LANES;
}

static geometry NAME(measure)(const dense_block *b, int in_strips) {
    geometry g = {.H = b->height, .W = b->width, .share = 1};
    if (LANES >= 8 && g.W + 1 <= LANES / 2) g.share = 2, g.pitch = LANES / 2, g.columns = 1;
    else g.pitch = (g.W + LANES) / LANES * LANES, g.columns = (g.W + LANES - 1) / LANES;
    g.lead = LANES + (g.share == 2 ? LANES / 2 : 0);
    g.step = g.H;
    if (in_strips && g.share == 1 && b->features * NAME(plane)((long)g.H * g.pitch) * sizeof(float) > CACHE_BYTES && g.H > STRIP)
        g.step = STRIP;
    g.rows = (g.step < g.H ? g.step + b->layers : g.H) + 4;
    g.feature_plane = NAME(plane)((long)(g.H + g.share - 1) * g.pitch);
    g.z_plane = NAME(plane)(g.lead + (long)(g.rows + g.share) * g.pitch + LANES);
    g.masked = g.share == 2 || g.W % LANES != 0;
    return g;
}

static mask *NAME(make_keep)(geometry *g, mask *keep) {
    for (int v = 0; v < g->columns + NAME(AHEAD); v++)
        for (int i = 0; i < LANES; i++)
            keep[v][i] = (g->share == 2 ? i % g->pitch : v % g->columns * LANES + i) < g->W ? -1 : 0;
    g->keep = keep;
    return keep + g->columns + NAME(AHEAD);
}

static unsigned long NAME(z_floats)(const dense_block *b, const geometry *g) { /* in strips every layer has its own */
    return (g->step < g->H ? b->layers : 1) * NAME(widest)(b) * g->z_plane;
}

/* A group's gathered inputs: as many vectors as the widest tile takes. */
static long NAME(x_floats)(const dense_block *b) {
    long most = 0;
    for (int l = 0; l < b->layers; l++)
        if (b->layer[l].reads > most) most = b->layer[l].reads;
    return most * 4 * LANES;
}

static long NAME(x_groups)(const dense_block *b) {
    long most = 0;
    for (int l = 0; l < b->layers; l++)
        if (b->layer[l].groups > most) most = b->layer[l].groups;
    return most;
}

static unsigned long NAME(scratch_bytes)(const dense_block *b) {
    unsigned long most = 0;
    for (int in_strips = 0; in_strips < 2; in_strips++) {
        const geometry g = NAME(measure)(b, in_strips);
        const unsigned long floats = b->features * g.feature_plane + NAME(z_floats)(b, &g) +
                                     NAME(x_floats)(b) * NAME(x_groups)(b);
        const unsigned long bytes = (g.columns + NAME(AHEAD)) * sizeof(mask) + floats * sizeof(float);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Whole vectors are copied, also beyond the end of a row: who reads features takes what lies beside them for nothing. */
static void NAME(take_rows)(const geometry *g, int channels, int part, int parts, const float *image, float *features,
                            int from, int to) {
    for (int c = channels * part / parts; c < channels * (part + 1) / parts; c++)
        for (int h = from; h < to; h++) {
            const float *row = image + ((long)c * g->H + h) * g->W;
            float *x = features + c * g->feature_plane + (long)h * g->pitch;
            if (row + g->columns * LANES > image + (long)channels * g->H * g->W) memcpy(x, row, g->W * sizeof(float));
            else if (g->share == 2) memcpy(x, row, LANES / 2 * sizeof(float));
            else for (int v = 0; v < g->columns; v++) store(x + v * LANES, load(row + v * LANES));
        }
}

static void NAME(give_all)(const geometry *g, int first, int last, const float *features, float *out) {
    for (int c = first; c < last; c++)
        for (int h = 0; h < g->H; h++)
            memcpy(out + ((long)c * g->H + h) * g->W, features + c * g->feature_plane + (long)h * g->pitch,
                   g->W * sizeof(float));
}

/* Rows [from, to) of 2x2 means; an odd last row or column is left out. */
static void NAME(give_average)(const geometry *g, int first, int last, const float *features, float *out, int from,
                               int to) {
    const int height = g->H / 2, width = g->W / 2;
    mask even, odd;
    for (int i = 0; i < LANES; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
    for (int c = first; c < last; c++)
        for (int h = from; h < to; h++) {
            const float *above = features + c * g->feature_plane + 2L * h * g->pitch, *below = above + g->pitch;
            float *row = out + ((long)c * height + h) * width;
            for (int w = 0; w < width; w += LANES) {
                const vec a = load(above + 2 * w) + load(below + 2 * w);
                const vec b = load(above + 2 * w + LANES) + load(below + 2 * w + LANES);
                const vec mean = (__builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd)) * 0.25f;
                const int left = width - w; /* beyond it lie rows of this plane that are yet to come, or the next plane */
                if (left >= LANES || (long)h * width + w + LANES <= (long)height * width) store(row + w, mean);
                else memcpy(row + w, &mean, left * sizeof(float));
            }
        }
}

/* The mean over all pixels of relu(scale * x + shift). */
static void NAME(give_mean)(const geometry *g, const dense_block *b, int first, int last, const float *features,
                            float *out) {
    for (int c = first; c < last; c++) {
        const float *x = features + c * g->feature_plane;
        vec sum = {0};
        for (int h = 0; h < g->H; h += g->share)
            for (int v = 0; v < g->columns; v++) {
                mask keep = g->keep[v];
                if (g->share == 2 && h + 1 == g->H)
                    for (int i = LANES / 2; i < LANES; i++) keep[i] = 0;
                const vec y = LARGER((vec){0}, load(x + (long)h * g->pitch + v * LANES) * b->scale[c] + b->shift[c]);
                sum += (vec)((mask)y & keep);
            }
        float total = 0;
        for (int i = 0; i < LANES; i++) total += sum[i];
        out[c] = total / ((float)g->H * g->W);
    }
}

/* What the block gives, of rows [from, to) of the features where that is enough. */
static void NAME(give)(const geometry *g, const dense_block *b, int part, int parts, const float *features, float *out,
                       int from, int to) {
    const int first = b->features * part / parts, last = b->features * (part + 1) / parts;
    if (b->pool == POOL_AVERAGE) NAME(give_average)(g, first, last, features, out, from / 2, to / 2);
    else if (to == g->H && b->pool == POOL_NONE) NAME(give_all)(g, first, last, features, out);
    else if (to == g->H) NAME(give_mean)(g, b, first, last, features, out);
}

/* Strip by strip through all layers, so that what one of them makes the next finds in the cache. */
static void NAME(run_strips)(const dense_block *b, geometry *g, const float *image, float *features, float *z, float *x,
                             float *out) {
    const int planes = NAME(widest)(b);
    progress p[b->layers + 1];
    for (int l = 0; l < b->layers; l++) {
        p[l] = (progress){.z_first = -1, .z = z + (g->step < g->H ? l : 0) * planes * g->z_plane, .x = x};
    }
    int taken = 0, given = 0, ready = 0;
    while (taken < g->H) {
        const int from = taken;
        taken += taken == 0 && g->step < g->H ? b->layers + (g->H - b->layers) % g->step : g->step; /* the last one is whole */
        if (taken > g->H) taken = g->H;
        NAME(take_rows)(g, b->inputs, 0, 1, image, features, from, taken);
        ready = taken;
        for (int l = 0; l < b->layers && ready > 0; l++) ready = NAME(advance)(g, b->layer + l, features, &p[l], ready);
        NAME(give)(g, b, 0, 1, features, out, given, ready);
        given = ready;
    }
}

/* One image by several threads: phases whose parts whoever is there takes one by one, each phase after the last. Nobody
   is waited for that has not begun, so that the threads need not all come; and there is one call of them for a block. */
typedef struct {
    const dense_block *b;
    const geometry *g;
    const float *image;
    float *features, *out;
    progress p;
    int *taken, *finished; /* parts, by phase */
} NAME(job);

enum { NAME(CHUNKS) = 8 }; /* of channels that come in or go out */

static int NAME(phases)(const dense_block *b) { return 2 * b->layers + 2; }

static int NAME(parts)(const dense_block *b, int phase) {
    if (phase == 0 || phase == NAME(phases)(b) - 1) return NAME(CHUNKS);
    const dense_layer *l = b->layer + (phase - 1) / 2;
    return phase % 2 ? l->groups : l->groups_3x3;
}

static void NAME(do_part)(const NAME(job) *j, int phase, int part) {
    const dense_block *b = j->b;
    const geometry *g = j->g;
    const dense_layer *l = b->layer + (phase - 1) / 2;
    if (phase == 0)
        NAME(take_rows)(g, b->inputs, part, NAME(CHUNKS), j->image, j->features, 0, g->H);
    else if (phase == NAME(phases)(b) - 1)
        NAME(give)(g, b, part, NAME(CHUNKS), j->features, j->out, 0, g->H);
    else if (phase % 2)
        NAME(pointwise)(g, l, part, part + 1, j->features, &j->p, 0, g->H);
    else {
        NAME(zero_row)(g, part * l->ins, (part + 1) * l->ins, &j->p, g->H);
        NAME(spatial)(g, l, part, part + 1, j->features, &j->p, 0, g->H);
    }
}

static void NAME(take_part)(void *arguments, unsigned long number) {
    (void)number;
    const NAME(job) *j = arguments;
    for (int phase = 0; phase < NAME(phases)(j->b); phase++) {
        const int parts = NAME(parts)(j->b, phase);
        int part;
        while ((part = __atomic_fetch_add(&j->taken[phase], 1, __ATOMIC_RELAXED)) < parts) {
            NAME(do_part)(j, phase, part);
            __atomic_fetch_add(&j->finished[phase], 1, __ATOMIC_RELEASE);
        }
        for (int turns = 0; __atomic_load_n(&j->finished[phase], __ATOMIC_ACQUIRE) < parts; turns++)
            if (turns > 10000) sched_yield(); /* microseconds at most, unless the other thread has lost its core */
    }
}

static void NAME(run_together)(const dense_block *b, const geometry *g, const float *image, float *features, float *z,
                               float *x, float *out, const workers *w) {
    int counts[2 * NAME(phases)(b)];
    memset(counts, 0, sizeof counts);
    const progress p = {.z_first = -1, .z = z, .x = x, .x_group = NAME(x_floats)(b)};
    NAME(job) job = {b, g, image, features, out, p, counts, counts + NAME(phases)(b)};
    w->run(w->pool, NAME(take_part), NAME(CHUNKS), &job);
}

/* Zeros above the image, and beside it where no vector of a row reaches. */
static void NAME(clear_edges)(const geometry *g, float *z, long planes) {
    const int beside = g->pitch - g->columns * LANES;
    for (long c = 0; c < planes; c++) {
        float *plane = z + c * g->z_plane;
        memset(plane, 0, (g->lead + g->pitch) * sizeof(float));
        for (int row = 0; beside > 0 && row < g->rows; row++)
            memset(plane + g->lead + (long)row * g->pitch + g->columns * LANES, 0, beside * sizeof(float));
    }
}

static void NAME(run)(const dense_block *b, const float *image, float *scratch, float *out, const workers *w) {
    geometry g = NAME(measure)(b, !w);
    float *features = (float *)NAME(make_keep)(&g, (mask *)scratch), *z = features + b->features * g.feature_plane;
    NAME(clear_edges)(&g, z, NAME(z_floats)(b, &g) / g.z_plane);
    float *x = z + NAME(z_floats)(b, &g);
    if (w) NAME(run_together)(b, &g, image, features, z, x, out, w);
    else NAME(run_strips)(b, &g, image, features, z, x, out);
}

static const dense_kernels NAME(kernels) = {TILE, TILE_3X3, NAME(scratch_bytes), NAME(run)};

#undef vec
#undef vec_u
#undef mask
#undef INLINE
#undef UNROLL
#undef geometry
#undef progress
#undef load
#undef all
#undef store
