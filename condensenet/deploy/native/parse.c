/* A dense block from the two lists in the file: checked, and laid out for the kernels. */

#include "layout.h"
#include "memory.h"
#include "parse.h"

#include <stdlib.h>
#include <string.h>

typedef struct { const int64_t *next, *end; } integers;
typedef struct { const float *next, *end; } floats;
typedef struct { char *next; } room; /* one allocation for all data of a block, in order of use */

enum { LARGEST = 1 << 20, LINE = 64, MOST_LAYERS = 4096 }; /* of counts: a product of two fits into a long */

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
    if (!l->index || !l->rising || !l->channel || !l->bound) return 0;
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

static int parse(dense_block *b, integers ints, floats numbers, const dense_kernels *kernels, int in_lanes, room in) {
    b->in_lanes = in_lanes;
    int layers;
    if (!take(&ints, POOL_NONE, POOL_GLOBAL, &b->pool) || !take(&ints, 1, LARGEST, &b->inputs) ||
        !take(&ints, 0, MOST_LAYERS, &layers))
        return 0;
    b->features = b->inputs;
    b->layer = carve(&in, layers, sizeof(dense_layer));
    b->layers = layers;
    for (int l = 0; l < layers; l++) {
        if (!parse_layer(&ints, &numbers, kernels, in_lanes, b->features, &in, b->layer + l)) return 0;
        b->features += b->layer[l].groups_3x3 * b->layer[l].makes;
        if (b->features > LARGEST) return 0;
    }
    for (int l = 0; l < layers; l++) {
        const char *end = l + 1 < layers ? (const char *)b->layer[l + 1].weight_3x3 : in.next;
        b->layer[l].ahead = (const char *)b->layer[l].weight_3x3;
        b->layer[l].ahead_bytes = end - b->layer[l].ahead;
    }
    if (b->pool == POOL_GLOBAL) {
        b->scale = copy(&numbers, b->features, &in);
        b->shift = copy(&numbers, b->features, &in);
        if (!b->scale || !b->shift) return 0;
    }
    return ints.next == ints.end && numbers.next == numbers.end;
}

static int suits_lanes(const dense_block *b, int lanes) {
    for (int l = 0; l < b->layers; l++)
        if (!set_of(b->layer + l, lanes)) return 0;
    return b->layers > 0;
}

dense_block *parse_block(const int64_t *ints, size_t n_ints, const float *numbers, size_t n_numbers,
                         const dense_kernels *kernels) {
    const size_t layers = n_ints < 3 || ints[2] < 0 || ints[2] > MOST_LAYERS ? 0 : ints[2];
    const size_t pieces = 7 * layers + 4; /* each starts on a cache line */
    dense_block *b = large_alloc(sizeof *b + layers * sizeof(dense_layer) + (n_ints + n_numbers) * 4 + pieces * LINE);
    if (!b) return NULL;
    room in = {(char *)b};
    carve(&in, 1, sizeof *b);
    const integers all_ints = {ints, ints + n_ints};
    const floats all_numbers = {numbers, numbers + n_numbers};
    if (parse(b, all_ints, all_numbers, kernels, 0, in)) {
        if (suits_lanes(b, kernels->lanes)) parse(b, all_ints, all_numbers, kernels, 1, in);
        return b;
    }
    free(b);
    return NULL;
}
