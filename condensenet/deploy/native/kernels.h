/* The kernels of a dense block, for the instruction set that the file which includes this was made for (../../simd).
   LARGER and SMALLER pick the second operand where one is NaN, so a NaN in it is kept.

   A plane has rows of `pitch` floats, at least one more than the width, and the rest is zero. So the zero to the right
   of a row is also the zero to the left of the next, and every row starts on a whole vector. Two rows that fit into
   one vector share it (`share` is 2). Planes of features are not zero beside the image: only the 1x1 convolution reads
   them, and its outputs there are set to zero. */

#include "block.h"

#include <sched.h>

enum {
    TILE = REGISTERS / 4, TILE_3X3 = REGISTERS / 8, /* the widest tiles of outputs */
    CACHE_BYTES = 3 << 19, STRIP = 16 /* features that exceed the cache go through all layers in strips of rows */
};

#include "geometry.h"
#include "pointwise.h"
#include "spatial.h"
#include "channels.h"
#include "edges.h"

/* Moves the rows of z that the next features need to its front, from the last finished row of features on. */
static void slide(const geometry *g, int planes, progress *p) {
    const int drop = p->done - 1 - p->z_first, kept = p->z_done - (p->done - 1);
    for (int c = 0; c < planes; c++) {
        float *rows = p->z + c * g->z_plane + g->lead;
        memmove(rows, rows + (long)drop * g->pitch, kept * g->pitch * sizeof(float));
    }
    p->z_first += drop;
}

/* Computes a layer as far as its input features are ready (rows below `ready`); returns its own finished rows. */
static int advance(const geometry *g, const dense_layer *l, float *features, progress *p, int ready) {
    const int planes = l->groups * l->outs, to = ready == g->H ? g->H : ready - 1;
    pointwise(g, l, 0, l->groups, features, p, p->z_done, ready);
    p->z_done = ready;
    if (ready == g->H) zero_row(g, 0, planes, p, g->H);
    if (to > p->done) {
        spatial(g, l, 0, l->groups_3x3, features, p, p->done, to);
        p->done = to;
    }
    if (ready < g->H) slide(g, planes, p);
    return p->done;
}

/* Moves the rows of features that are still needed to the front: [from, to) of the image, of which `first` is there. */
static void roll(const geometry *g, int features, float *rows, int first, int from, int to) {
    for (int c = 0; c < features; c++) {
        float *plane = rows + c * g->feature_plane;
        memmove(plane, plane + (long)(from - first) * g->pitch, (long)(to - from) * g->pitch * sizeof(float));
    }
}

/* Strip by strip through all layers, so each finds the output of the previous one in the cache. */
static void run_strips(const dense_block *b, const geometry *g, const float *image, float *features, progress first,
                       float *out) {
    const long z_floats = widest(b) * g->z_plane;
    progress p[b->layers + 1];
    for (int l = 0; l < b->layers; l++) {
        p[l] = first;
        p[l].z += (g->step < g->H ? l : 0) * z_floats;
    }
    int taken = 0, given = 0, ready = 0, top = 0; /* top: the first row of the image that is in the planes */
    while (taken < g->H) {
        const int from = taken;
        taken += taken == 0 && g->step < g->H ? b->layers + (g->H - b->layers) % g->step : g->step; /* so the last strip is full */
        if (taken > g->H) taken = g->H;
        float *origin = features - (long)top * g->pitch; /* where row 0 would be */
        take_rows(g, b->inputs, 0, 1, image, origin, from, taken);
        ready = taken;
        for (int l = 0; l < b->layers && ready > 0; l++) ready = advance(g, b->layer + l, origin, &p[l], ready);
        give(g, b, 0, 1, origin, out, given, ready);
        given = ready;
        if (g->rolling && taken < g->H) {
            const int next = given / 2 * 2; /* pairs of rows are averaged */
            roll(g, b->features, features, top, next, taken);
            top = next;
        }
    }
}

static void run_channels(const dense_block *b, const geometry *g, const float *image, float *features,
                         const progress *p, float *out) {
    take_rows(g, b->inputs, 0, 1, image, features, 0, g->H);
    for (const dense_layer *l = b->layer; l < b->layer + b->layers; l++) {
        channels_1x1(g, l, 0, l->groups, features, p);
        channels_3x3(g, l, 0, l->groups_3x3 / l->set, features, p);
    }
    give(g, b, 0, 1, features, out, 0, g->H);
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
} image_job;

enum { CHUNKS = 8 }; /* of input or output channels */

static int phases(const dense_block *b) { return 2 * b->layers + 2; }

static int parts_of(const dense_block *b, int phase) {
    if (phase == 0 || phase == phases(b) - 1) return CHUNKS;
    const dense_layer *l = b->layer + (phase - 1) / 2;
    return phase % 2 ? l->groups : b->in_lanes ? l->groups_3x3 / l->set : l->groups_3x3;
}

static void do_part(const image_job *j, int phase, int part) {
    const dense_block *b = j->b;
    const geometry *g = j->g;
    const dense_layer *l = b->layer + (phase - 1) / 2;
    if (phase == 0)
        take_rows(g, b->inputs, part, CHUNKS, j->image, j->features, 0, g->H);
    else if (phase == phases(b) - 1)
        give(g, b, part, CHUNKS, j->features, j->out, 0, g->H);
    else if (b->in_lanes && phase % 2)
        channels_1x1(g, l, part, part + 1, j->features, &j->p);
    else if (b->in_lanes)
        channels_3x3(g, l, part, part + 1, j->features, &j->p);
    else if (phase % 2)
        pointwise(g, l, part, part + 1, j->features, &j->p, 0, g->H);
    else {
        zero_row(g, part * l->ins, (part + 1) * l->ins, &j->p, g->H);
        spatial(g, l, part, part + 1, j->features, &j->p, 0, g->H);
    }
}

static void take_part(void *arguments, unsigned long number) {
    (void)number;
    const image_job *j = arguments;
    for (int phase = 0; phase < phases(j->b); phase++) {
        const int parts = parts_of(j->b, phase);
        int part;
        while ((part = __atomic_fetch_add(&j->taken[phase], 1, __ATOMIC_RELAXED)) < parts) {
            do_part(j, phase, part);
            __atomic_fetch_add(&j->finished[phase], 1, __ATOMIC_RELEASE);
        }
        for (int turns = 0; __atomic_load_n(&j->finished[phase], __ATOMIC_ACQUIRE) < parts; turns++)
            if (turns > 10000) sched_yield(); /* a wait of microseconds, unless the other thread lost its core */
    }
}

static void run_together(const dense_block *b, const geometry *g, const float *image, float *features, progress p,
                         float *out, const workers *w) {
    int counts[2 * phases(b)];
    memset(counts, 0, sizeof counts);
    image_job job = {b, g, image, features, out, p, counts, counts + phases(b)};
    w->run(w->pool, take_part, CHUNKS, &job);
}

static void run(const dense_block *b, const float *image, float *scratch, float *out, const workers *w) {
    geometry g = measure(b, !w);
    unsigned long start[AREAS + 1];
    areas(b, &g, start);
#define AREA(name) (void *)((char *)scratch + start[name])
    float *features = AREA(FEATURES);
    const progress p = {.z_first = -1, .z = AREA(Z), .x = AREA(X), .x_group = w ? x_floats(b, &g) : 0, .turned = AREA(TURNED)};
    g.keep = AREA(KEEP);
    g.at = AREA(AT);
    fill_keep(&g, AREA(KEEP));
    if (b->in_lanes) fill_at(&g, AREA(AT));
    if (b->in_lanes) clear_panel_edges(&g, p.z, z_planes(b, &g));
    else clear_edges(&g, p.z, z_planes(b, &g));
#undef AREA
    if (w) run_together(b, &g, image, features, p, out, w);
    else if (b->in_lanes) run_channels(b, &g, image, features, &p, out);
    else run_strips(b, &g, image, features, p, out);
}

const dense_kernels NAME(dense_kernels) = {TILE, TILE_3X3, LANES >= 8 ? LANES : 0, scratch_bytes, run};
