/* The kernels of a dense block, written once with GCC's vector extensions and compiled for each instruction set by
   kernels.c, which defines LANES, NAME(), the widest tiles of outputs TILE and TILE_3X3, and LARGER and SMALLER, which
   pick the second operand where one is NaN, so a NaN in it is kept.

   A plane has rows of `pitch` floats, at least one more than the width, and the rest is zero. So the zero to the right
   of a row is also the zero to the left of the next, and every row starts on a whole vector. Two rows that fit into
   one vector share it (`share` is 2). Planes of features are not zero beside the image: only the 1x1 convolution reads
   them, and its outputs there are set to zero. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES)));
typedef float NAME(vec_u) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int NAME(mask) __attribute__((vector_size(4 * LANES)));
#define vec NAME(vec)
#define vec_u NAME(vec_u)
#define mask NAME(mask)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32") /* sums stay in registers only if no loop indexes them */

INLINE vec NAME(load)(const float *p) { return *(const vec_u *)p; }
INLINE void NAME(store)(float *p, vec v) { *(vec_u *)p = v; }
#define load NAME(load)
#define store NAME(store)
INLINE vec NAME(all)(float x) { return x - (vec){0}; } /* x + 0 would be an addition: -0 + 0 is not -0 */
#define all NAME(all)

#include "geometry.h"
#include "pointwise.h"
#include "spatial.h"
#include "edges.h"

/* Moves the rows of z that the next features need to its front, from the last finished row of features on. */
static void NAME(slide)(const geometry *g, int planes, progress *p) {
    const int drop = p->done - 1 - p->z_first, kept = p->z_done - (p->done - 1);
    for (int c = 0; c < planes; c++) {
        float *rows = p->z + c * g->z_plane + g->lead;
        memmove(rows, rows + (long)drop * g->pitch, kept * g->pitch * sizeof(float));
    }
    p->z_first += drop;
}

/* Computes a layer as far as its input features are ready (rows below `ready`); returns its own finished rows. */
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

/* Strip by strip through all layers, so each finds the output of the previous one in the cache. */
static void NAME(run_strips)(const dense_block *b, geometry *g, const float *image, float *features, float *z, float *x,
                             float *out) {
    const int planes = NAME(widest)(b);
    progress p[b->layers + 1];
    for (int l = 0; l < b->layers; l++)
        p[l] = (progress){.z_first = -1, .z = z + (g->step < g->H ? l : 0) * planes * g->z_plane, .x = x};
    int taken = 0, given = 0, ready = 0;
    while (taken < g->H) {
        const int from = taken;
        taken += taken == 0 && g->step < g->H ? b->layers + (g->H - b->layers) % g->step : g->step; /* so the last strip is full */
        if (taken > g->H) taken = g->H;
        NAME(take_rows)(g, b->inputs, 0, 1, image, features, from, taken);
        ready = taken;
        for (int l = 0; l < b->layers && ready > 0; l++) ready = NAME(advance)(g, b->layer + l, features, &p[l], ready);
        NAME(give)(g, b, 0, 1, features, out, given, ready);
        given = ready;
    }
}

/* One image by several threads, in phases: every thread takes the next part of a phase, and the next phase starts when
   all parts are finished. Only parts that were taken are waited for, so not all threads need to take part, and a block
   needs only one call of the thread pool. */
typedef struct {
    const dense_block *b;
    const geometry *g;
    const float *image;
    float *features, *out;
    progress p;
    int *taken, *finished; /* parts, by phase */
} NAME(job);

enum { NAME(CHUNKS) = 8 }; /* of input or output channels */

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
            if (turns > 10000) sched_yield(); /* a wait of microseconds, unless the other thread lost its core */
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
#undef load
#undef store
#undef all
#undef geometry
#undef progress
#undef NAME
#undef LANES
#undef TILE
#undef TILE_3X3
#undef LARGER
#undef SMALLER
