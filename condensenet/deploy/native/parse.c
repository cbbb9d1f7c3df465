/* Dense blocks from the two lists in the file: checked, and laid out for the kernels. */

#include "layout.h"
#include "memory.h"
#include "parse.h"

#include <stdlib.h>
#include <string.h>

typedef struct { const int64_t *next, *end; } integers;
typedef struct { const float *next, *end; } floats;
typedef struct { char *next; } room; /* one allocation for all data of a network, in order of use */

enum { LARGEST = 1 << 20, MOST_LAYERS = 4096, MOST_TAPS = 1 << 8 }; /* of counts: a product of two fits into a long */
enum {
    LINE = 64,
    LAYER_INTEGERS = 7,    /* that a layer has at least */
    BEYOND = 16 * LINE,    /* readable at the end, where whole vectors of a stem or a classifier are loaded */
    MOST_BEHIND = 1 << 20, /* prefetched of what follows the last layer: half of a second-level cache */
};

static void *carve(room *in, long count, size_t size) {
    void *piece = in->next;
    in->next += (count * size + LINE - 1) / LINE * LINE;
    return piece;
}

static int take(integers *from, int64_t least, int64_t most, int *to) {
    if (from->next == from->end || *from->next < least || *from->next > most) return 0;
    *to = (int)*from->next++;
    return 1;
}

static int *take_all(integers *from, long count, int64_t below, room *in) {
    if (count > from->end - from->next) return NULL;
    int *to = carve(in, count, sizeof(int));
    for (long i = 0; i < count; i++)
        if (!take(from, 0, below - 1, to + i)) return NULL;
    return to;
}

static const float *take_floats(floats *from, long count) {
    if (count > from->end - from->next) return NULL;
    from->next += count;
    return from->next - count;
}

static float *copy(floats *from, long count, room *in) {
    const float *source = take_floats(from, count);
    return source ? memcpy(carve(in, count, sizeof(float)), source, count * sizeof(float)) : NULL;
}

typedef void layout(const dense_layer *l, int width, const float *w, float *to);

static float *arranged(layout *as, const dense_layer *l, int width, floats *from, long count, room *in) {
    const float *source = take_floats(from, count);
    float *to = source ? carve(in, count, sizeof(float)) : NULL;
    if (to) as(l, width, source, to);
    return to;
}

/* Whether each number below `count` occurs once. */
static int is_permutation(const int *list, long count) {
    char *seen = calloc(count, 1);
    long once = 0;
    for (long i = 0; seen && i < count; i++) once += !seen[list[i]]++;
    free(seen);
    return once == count;
}

/* Weights by tile, or by vector of outputs where all layers suit that: then the block has been parsed once before. */
static int parse_layer(integers *ints, floats *numbers, const dense_kernels *kernels, int in_lanes, int first, room *in,
                       dense_layer *l) {
    if (!take(ints, 1, LARGEST, &l->groups) || !take(ints, 0, LARGEST, &l->reads) || !take(ints, 1, LARGEST, &l->outs) ||
        !take(ints, 1, LARGEST, &l->groups_3x3) || !take(ints, 1, LARGEST, &l->makes))
        return 0;
    const long reads = (long)l->groups * l->reads, outs = (long)l->groups * l->outs;
    if (reads > LARGEST || outs > LARGEST || (long)l->groups_3x3 * l->makes > LARGEST || outs % l->groups_3x3) return 0;
    l->ins = (int)(outs / l->groups_3x3);
    l->first = first;
    l->index = take_all(ints, reads, first, in);
    l->rising = take_all(ints, l->groups, (int64_t)l->reads + 1, in);
    l->channel = take_all(ints, outs, outs, in);
    l->bound = copy(numbers, reads, in);
    if (!l->index || !l->rising || !l->channel || !l->bound || !is_permutation(l->channel, outs)) return 0;
    l->set = in_lanes ? set_of(l, kernels->lanes) : 0;
    if (l->set) {
        l->bias = arranged(order_bias, l, kernels->lanes, numbers, outs, in);
        l->weight = arranged(order_1x1, l, kernels->lanes, numbers, outs * l->reads, in);
        l->weight_3x3 = arranged(order_3x3, l, kernels->lanes, numbers, 9 * outs * l->makes, in);
    } else {
        l->bias = copy(numbers, outs, in);
        l->weight = arranged(tile_1x1, l, kernels->tile_1x1, numbers, outs * l->reads, in);
        l->weight_3x3 = arranged(tile_3x3, l, kernels->tile_3x3, numbers, 9 * outs * l->makes, in);
    }
    return l->bias && l->weight && l->weight_3x3;
}

static int parse_layers(integers *ints, floats *numbers, const dense_kernels *kernels, room *in, dense_block *b) {
    if (!take(ints, 1, (ints->end - ints->next) / LAYER_INTEGERS, &b->layers)) return 0;
    b->features = b->inputs;
    b->layer = carve(in, b->layers, sizeof(dense_layer));
    for (dense_layer *l = b->layer; l < b->layer + b->layers; l++) {
        if (!parse_layer(ints, numbers, kernels, b->in_lanes, b->features, in, l)) return 0;
        b->features += l->groups_3x3 * l->makes;
        if (b->features > LARGEST) return 0;
    }
    return 1;
}

static int begins(integers *from, int section) {
    const int here = from->next != from->end && *from->next == section;
    from->next += here;
    return here;
}

static int parse_blocks(integers *ints, floats *numbers, const dense_kernels *kernels, const int *in_lanes, room *in,
                        dense_network *n) {
    int pool, inputs, layers = 0;
    if (!take(ints, POOL_NONE, POOL_GLOBAL, &pool) || !take(ints, 1, LARGEST, &inputs)) return 0;
    n->blocks = 0;
    do {
        if (n->blocks == MOST_BLOCKS) return 0;
        n->block[n->blocks] = (dense_block){.inputs = inputs, .pool = POOL_AVERAGE, .in_lanes = in_lanes[n->blocks]};
        if (!parse_layers(ints, numbers, kernels, in, &n->block[n->blocks])) return 0;
        if ((layers += n->block[n->blocks].layers) > MOST_LAYERS) return 0;
        inputs = n->block[n->blocks++].features;
    } while (begins(ints, NEXT_BLOCK));
    dense_block *last = &n->block[n->blocks - 1];
    last->pool = pool;
    if (pool != POOL_GLOBAL) return 1;
    last->scale = copy(numbers, last->features, in);
    last->shift = copy(numbers, last->features, in);
    return last->scale && last->shift;
}

static int parse_stem(integers *ints, floats *numbers, room *in, const dense_block *reader, dense_stem *s) {
    if (!take(ints, 1, LARGEST, &s->channels) || !take(ints, reader->inputs, reader->inputs, &s->outs) ||
        !take(ints, 1, MOST_TAPS, &s->kernel) || !take(ints, 1, MOST_TAPS, &s->stride) ||
        !take(ints, 0, MOST_TAPS, &s->padding))
        return 0;
    const long taps = (long)s->channels * s->kernel * s->kernel;
    const float *source = taps > LARGEST ? NULL : take_floats(numbers, taps * s->outs);
    if (!source) return 0;
    float *to = carve(in, taps * s->outs, sizeof(float));
    turn_stem(s, source, to);
    s->weight = to;
    return 1;
}

static int parse_classifier(integers *ints, floats *numbers, const dense_kernels *kernels, room *in,
                            const dense_block *last, dense_classifier *c) {
    if (last->pool != POOL_GLOBAL || !take(ints, 1, LARGEST, &c->classes) || !take(ints, 0, LARGEST, &c->reads))
        return 0;
    c->index = take_all(ints, c->reads, last->features, in);
    const float *weight = c->index ? take_floats(numbers, (long)c->classes * c->reads) : NULL;
    c->bias = weight ? copy(numbers, c->classes, in) : NULL;
    if (!c->bias) return 0;
    float *to = carve(in, (long)c->classes * c->reads, sizeof(float));
    tile_classifier(c, kernels->tile_classes, weight, to);
    c->weight = to;
    return 1;
}

/* Each layer prefetches up to the next one's 1x1 weights, also across blocks, and the last one some of the classifier's.
   With channels in the lanes, where weights are many, its convolutions share that as they share multiply-adds. */
static void set_ahead(dense_network *n, const char *end) {
    for (dense_block *b = n->block + n->blocks - 1; b >= n->block; b--)
        for (dense_layer *l = b->layer + b->layers - 1; l >= b->layer; l--) {
            l->ahead = (const char *)l->weight_3x3;
            const double of_1x1 = l->reads, of_3x3 = 9.0 * l->makes; /* multiply-adds for an output of the 1x1 */
            l->later_bytes = b->in_lanes ? (long)((end - l->ahead) * of_3x3 / (of_1x1 + of_3x3)) : 0;
            l->ahead_bytes = end - l->ahead - l->later_bytes;
            end = l->ahead;
        }
}

static int parse(dense_network *n, integers ints, floats numbers, const dense_kernels *kernels, const int *in_lanes,
                 room in) {
    if (!parse_blocks(&ints, &numbers, kernels, in_lanes, &in, n)) return 0;
    const char *end = in.next;
    if (begins(&ints, STEM) && !parse_stem(&ints, &numbers, &in, n->block, &n->stem)) return 0;
    if (begins(&ints, CLASSIFIER) &&
        !parse_classifier(&ints, &numbers, kernels, &in, n->block + n->blocks - 1, &n->classifier))
        return 0;
    set_ahead(n, in.next - end > MOST_BEHIND ? end + MOST_BEHIND : in.next);
    return ints.next == ints.end && numbers.next == numbers.end;
}

static int suits_lanes(const dense_block *b, int lanes) {
    for (int l = 0; l < b->layers; l++)
        if (!set_of(b->layer + l, lanes)) return 0;
    return b->layers > 0;
}

dense_network *parse_network(const int64_t *ints, size_t n_ints, const float *numbers, size_t n_numbers,
                             const dense_kernels *kernels) {
    const size_t layers = n_ints / LAYER_INTEGERS;
    const size_t pieces = 7 * layers + 8 + MOST_BLOCKS; /* each starts on a cache line */
    dense_network *n =
        large_alloc(sizeof *n + layers * sizeof(dense_layer) + (n_ints + n_numbers) * 4 + pieces * LINE + BEYOND);
    if (!n) return NULL;
    memset(n, 0, sizeof *n);
    room in = {(char *)n};
    carve(&in, 1, sizeof *n);
    const integers all_ints = {ints, ints + n_ints};
    const floats all_numbers = {numbers, numbers + n_numbers};
    int in_lanes[MOST_BLOCKS] = {0};
    if (parse(n, all_ints, all_numbers, kernels, in_lanes, in)) {
        for (int b = 0; b < n->blocks; b++) in_lanes[b] = suits_lanes(n->block + b, kernels->lanes);
        parse(n, all_ints, all_numbers, kernels, in_lanes, in);
        return n;
    }
    free(n);
    return NULL;
}
