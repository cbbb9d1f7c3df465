/* A dense block in inference, and the interface of its kernels.

   The 1x1 convolution of each dense layer reads some of the features so far, group by group. Each input is clamped from
   below or from above, which is what remains of batch norm and ReLU after folding (deploy/lowering/folding.py). Then
   come bias, ReLU, channel shuffle, and a 3x3 group convolution, whose k new features are appended. */

#ifndef CONDENSENET_BLOCK_H
#define CONDENSENET_BLOCK_H

typedef struct {
    int groups, reads, outs;          /* of the 1x1 convolution: G, and per group R inputs and K outputs */
    const int *index;                 /* (G, R) features */
    const int *rising;                /* (G,): how many inputs are clamped from below, not from above: the first ones */
    const float *bound;               /* (G, R) */
    const float *bias;                /* (G, K) */
    const int *channel;               /* (G, K): the channel of an output after the shuffle */
    const float *weight;              /* by group, then by tile of outputs: (R, tile) */
    int groups_3x3, ins, makes;       /* of the 3x3 convolution: groups, and per group inputs and outputs */
    const float *weight_3x3;          /* by group, then by tile of outputs: (ins, column, tile, row) */
    int set;                          /* groups of the 3x3 convolution whose outputs share a vector, if in_lanes */
    int first;                        /* the feature that its first output becomes */
    const char *ahead;                /* prefetched during the 1x1 convolution: all weights up to the next one */
    long ahead_bytes;
} dense_layer;

enum { POOL_NONE, POOL_AVERAGE, POOL_GLOBAL };

typedef struct {
    int inputs, features;             /* input channels, and all features at the end */
    int layers;
    dense_layer *layer;
    int in_lanes;                     /* output channels are in the lanes of vectors (channels.h), not pixels */
    int pool;                         /* none; 2x2 average; the mean over all pixels of relu(scale * x + shift) */
    const float *scale, *shift;       /* (features,), only for the mean */
    int height, width;
} dense_block;

/* Runs task(part, arguments) for every part below parts, possibly in parallel. */
typedef struct {
    void (*run)(void *pool, void (*task)(void *, unsigned long), unsigned long parts, void *arguments);
    void *pool;
} workers;

/* One set for each instruction set. `scratch` is scratch_bytes() of uninitialized memory. */
typedef struct {
    int tile_1x1, tile_3x3;           /* the widest tile of outputs that the weights are laid out for */
    int lanes;                        /* of vectors of outputs; 0: pixels are in the lanes always */
    unsigned long (*scratch_bytes)(const dense_block *);
    void (*run)(const dense_block *, const float *image, float *scratch, float *out, const workers *);
} dense_kernels;

/* The next tile of outputs: the largest power of two that fits. Weight layout and loops use the same rule. */
static inline int tile_of(int left, int widest) {
    int tile = widest;
    while (tile > left) tile /= 2;
    return tile;
}

const dense_kernels *dense_kernels_of_this_cpu(void);

#endif
