/* The kernels of dense blocks, for the instruction set that the file which includes this was made for (../../simd).
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
#include "ends.h"
#include "places.h"

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

/* A call in phases: threads take the parts of a phase, and the next phase starts when all of them are finished. */
typedef struct { int kind, block, layer, parts; } phase;
enum { START, POINTWISE, SPATIAL, GIVE, STRIPS, CLASSIFY };

typedef struct {
    const dense_network *n;
    const places *at;
    const float *image;
    size of;
    char *scratch;
    float *out;
    int phases;
    const phase *phase;
    int *taken, *finished; /* parts, by phase; only with several threads */
} job;

static float *area(const job *j, unsigned long start) { return (float *)(j->scratch + start); }

static progress progress_of(const job *j, int thread) {
    return (progress){.z_first = -1, .z = area(j, j->at->z), .x = area(j, j->at->x + thread * j->at->x_thread),
                      .turned = area(j, j->at->turned + thread * j->at->turned_thread)};
}

/* The first rows of the image are at `features`, or would be. */
static void take(const job *j, int number, float *features, int from, int to, int thread) {
    const dense_network *n = j->n;
    const geometry *g = &j->at->block[number].g;
    if (number == 0 && n->stem.outs)
        stem_rows(g, &n->stem, j->image, j->of, area(j, j->at->rows + thread * j->at->rows_thread), features, from, to);
    else take_rows(g, n->block[number].inputs, number == 0 ? j->image : area(j, j->at->map[number % 2]), features, from, to);
}

/* Where the output of a block goes. */
static planes target(const job *j, int number) {
    const geometry *g = &j->at->block[number].g;
    const long height = g->H / 2, width = g->W / 2;
    if (number + 1 == j->n->blocks)
        return (planes){j->n->classifier.classes ? area(j, j->at->means) : j->out, height * width, width};
    const block_place *next = &j->at->block[number + 1];
    if (next->in_place) return (planes){area(j, next->features), next->g.feature_plane, next->g.pitch};
    return (planes){area(j, j->at->map[(number + 1) % 2]), height * width, width};
}

static int border(const geometry *g, int slab) { return slab == g->slabs ? g->H : g->H * slab / g->slabs / 2 * 2; }

/* The rows of a slab, strip by strip through all layers, so each finds the output of the previous one in the cache.
   At a border with the slab above, the first rows that a layer reads are real ones, not the zeros above the image. */
static void run_strips(const job *j, int number, int slab, int thread) {
    const dense_block *b = &j->n->block[number];
    const block_place *own = &j->at->block[number];
    const geometry *g = &own->g;
    const int top_row = border(g, slab), end = border(g, slab + 1), first = top_row ? top_row - b->layers : 0;
    const int last = end + b->layers < g->H ? end + b->layers : g->H, lead_in = top_row ? 2 * b->layers : b->layers;
    float *features = area(j, own->features + slab * own->slab), *z = area(j, j->at->z + slab * j->at->z_slab);
    progress p[b->layers + 1];
    clear_edges(g, z, z_planes(b, g));
    for (int l = 0; l < b->layers; l++) {
        p[l] = progress_of(j, thread);
        p[l].z = z + l * widest(b) * g->z_plane;
        if (top_row) p[l].z_first = p[l].z_done = first + l, p[l].done = first + l + 1;
    }
    int taken = first, given = top_row, top = first; /* top: the first row of the image that is in the planes */
    while (taken < last) {
        const int from = taken;
        taken += taken == first ? lead_in + (last - first - lead_in) % g->step : g->step; /* so the last strip is full */
        if (taken > last) taken = last;
        float *origin = features - (long)top * g->pitch; /* where row 0 would be */
        take(j, number, origin, from, taken, thread);
        int ready = taken;
        for (int l = 0; l < b->layers && ready > 0; l++) ready = advance(g, b->layer + l, origin, &p[l], ready);
        if (ready > end) ready = end;
        give(g, b, 0, b->features, origin, target(j, number), given, ready);
        given = ready;
        if (g->rolling && taken < last) {
            const int next = given / 2 * 2; /* pairs of rows are averaged */
            roll(g, b->features, features, top, next, taken);
            top = next;
        }
    }
}

/* The edges of z, and the rows of the input that come from elsewhere. */
static void begin(const job *j, int number, int part, int parts, int thread) {
    const dense_block *b = &j->n->block[number];
    const block_place *own = &j->at->block[number];
    const geometry *g = &own->g;
    const long all_planes = z_planes(b, g), first = all_planes * part / parts, last = all_planes * (part + 1) / parts;
    float *z = area(j, j->at->z) + first * g->z_plane;
    if (b->in_lanes) clear_panel_edges(g, z, last - first);
    else clear_edges(g, z, last - first);
    if (!own->in_place) take(j, number, area(j, own->features), g->H * part / parts, g->H * (part + 1) / parts, thread);
}

static void spatial_groups(const geometry *g, const dense_layer *l, int first, int last, float *features,
                           const progress *p) {
    zero_row(g, first * l->ins, last * l->ins, p, g->H);
    spatial(g, l, first, last, features, p, 0, g->H);
}

static void do_part(const job *j, const phase *now, int part, int thread) {
    const dense_block *b = &j->n->block[now->block];
    const dense_layer *l = b->layer + now->layer;
    const block_place *own = &j->at->block[now->block];
    const geometry *g = &own->g;
    const progress p = progress_of(j, thread);
    float *features = area(j, own->features);
#define SHARE(of) (int)((long)(of) * part / now->parts), (int)((long)(of) * (part + 1) / now->parts)
    switch (now->kind) {
    case START: begin(j, now->block, part, now->parts, thread); break;
    case STRIPS: run_strips(j, now->block, part, thread); break;
    case POINTWISE:
        if (b->in_lanes) channels_1x1(g, l, SHARE(l->groups), features, &p);
        else pointwise(g, l, SHARE(l->groups), features, &p, 0, g->H);
        break;
    case SPATIAL:
        if (b->in_lanes) channels_3x3(g, l, SHARE(l->groups_3x3 / l->set), features, &p);
        else spatial_groups(g, l, SHARE(l->groups_3x3), features, &p);
        break;
    case GIVE: give(g, b, SHARE(b->features), features, target(j, now->block), 0, g->H); break;
    case CLASSIFY:
        classify(&j->n->classifier, SHARE(class_tiles(&j->n->classifier)), area(j, j->at->means), j->out);
        break;
    }
#undef SHARE
}

/* Only parts that were taken are waited for, so not all threads need to take part, and a call of the operator needs only
   one of the thread pool. */
static void take_part(void *arguments, unsigned long thread) {
    const job *j = arguments;
    for (int i = 0; i < j->phases; i++) {
        const int parts = j->phase[i].parts;
        int part;
        while ((part = __atomic_fetch_add(&j->taken[i], 1, __ATOMIC_RELAXED)) < parts) {
            do_part(j, &j->phase[i], part, (int)thread);
            __atomic_fetch_add(&j->finished[i], 1, __ATOMIC_RELEASE);
        }
        for (int turns = 0; __atomic_load_n(&j->finished[i], __ATOMIC_ACQUIRE) < parts; turns++)
            if (turns > 10000) sched_yield(); /* a wait of microseconds, unless the other thread lost its core */
    }
}

enum { CHUNKS = 8 }; /* of input or output channels, or of rows */

static int list_phases(const dense_network *n, const places *at, int threads, phase *to) {
    const phase *first = to;
    const int together = threads > 1, chunks = together ? CHUNKS : 1;
    for (int b = 0; b < n->blocks; b++) {
        const dense_block *block = &n->block[b];
        if (at->block[b].g.slabs) {
            *to++ = (phase){STRIPS, b, 0, at->block[b].g.slabs};
            continue;
        }
        *to++ = (phase){START, b, 0, chunks};
        for (int i = 0; i < block->layers; i++) {
            const dense_layer *l = block->layer + i;
            *to++ = (phase){POINTWISE, b, i, together ? l->groups : 1};
            *to++ = (phase){SPATIAL, b, i, !together ? 1 : block->in_lanes ? l->groups_3x3 / l->set : l->groups_3x3};
        }
        *to++ = (phase){GIVE, b, 0, chunks};
    }
    if (n->classifier.classes) *to++ = (phase){CLASSIFY, 0, 0, together ? class_tiles(&n->classifier) : 1};
    return (int)(to - first);
}

static int most_phases(const dense_network *n) {
    int most = 1;
    for (int b = 0; b < n->blocks; b++) most += 2 * n->block[b].layers + 2;
    return most;
}

static void fill_tables(const dense_network *n, places *at, char *scratch) {
    for (int b = 0; b < n->blocks; b++) {
        geometry *g = &at->block[b].g;
        g->keep = (mask *)(scratch + at->block[b].keep);
        g->at = (int *)(scratch + at->block[b].pixels);
        fill_keep(g, (mask *)(scratch + at->block[b].keep));
        if (n->block[b].in_lanes) fill_at(g, (int *)(scratch + at->block[b].pixels));
    }
}

static void run(const dense_network *n, const float *image, size of, void *scratch, float *out, const workers *w) {
    const int threads = w ? w->threads : 1;
    places at;
    phase phases[most_phases(n)];
    place(n, of, threads, &at);
    fill_tables(n, &at, scratch);
    job j = {n, &at, image, of, scratch, out, list_phases(n, &at, threads, phases), phases, NULL, NULL};
    if (!w) {
        for (int i = 0; i < j.phases; i++)
            for (int part = 0; part < phases[i].parts; part++) do_part(&j, phases + i, part, 0);
        return;
    }
    int counts[2 * j.phases];
    memset(counts, 0, sizeof counts);
    j.taken = counts;
    j.finished = counts + j.phases;
    w->run(w->pool, take_part, threads, &j);
}

const dense_kernels NAME(dense_kernels) = {
    TILE, TILE_3X3, CLASS_VECTORS * LANES, LANES >= 8 ? LANES : 0, scratch_bytes, run,
};
