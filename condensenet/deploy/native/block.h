/* A dense block in inference: what an operator is made of, and what it works on.

   Every dense layer reads, group by group, some of the features so far, each clamped from below or from above (which
   is what remains of batch norm and ReLU: condensenet/deploy/lowering/folding.py), multiplies, adds a bias, clamps at zero,
   shuffles, and convolves 3x3 by groups into k new features behind the others. */

#ifndef CONDENSENET_BLOCK_H
#define CONDENSENET_BLOCK_H

typedef struct {
    int groups, reads, outs;          /* of the 1x1 convolution: G, and by group R inputs and K outputs */
    const int *index;                 /* (G, R) features */
    const int *rising;                /* (G,): so many of a group's inputs are clamped from below, the others from above */
    const float *bound;               /* (G, R) */
    const float *bias;                /* (G, K) */
    const int *channel;               /* (G, K): the place of an output after the shuffle */
    const float *weight;              /* by group, then by tile of outputs: (R, tile) */
    int groups_3x3, ins, makes;       /* of the 3x3 convolution: groups, and by group inputs and outputs */
    const float *weight_3x3;          /* by group, then by tile of outputs: (ins, column, tile, row) */
    int first;                        /* its first output's place among the features */
    const char *ahead;                /* what is needed after the 1x1 convolution, up to the next layer's: to be fetched */
    long ahead_bytes;
} dense_layer;

enum { POOL_NONE, POOL_AVERAGE, POOL_GLOBAL };

typedef struct {
    int inputs, features;             /* channels that come in, and all of them at the end */
    int layers;
    dense_layer *layer;
    int pool;                         /* none; 2x2 average; the mean over all pixels of relu(scale * x + shift) */
    const float *scale, *shift;       /* (features,), for the mean alone */
    int height, width;
} dense_block;

/* Runs task(part, arguments) for every part below parts, perhaps at the same time. */
typedef struct {
    void (*run)(void *pool, void (*task)(void *, unsigned long), unsigned long parts, void *arguments);
    void *pool;
} workers;

/* One set for each instruction set. `scratch` holds scratch_bytes() of memory, whatever is in it. */
typedef struct {
    int tile_1x1, tile_3x3;           /* the widest tile of outputs that the weights are laid out for */
    unsigned long (*scratch_bytes)(const dense_block *);
    void (*run)(const dense_block *, const float *image, float *scratch, float *out, const workers *);
} dense_kernels;

/* Outputs are taken in tiles of the widest size that is left: the same rule for the layout and for the loops. */
static inline int tile_of(int left, int widest) {
    int tile = widest;
    while (tile > left) tile /= 2;
    return tile;
}

const dense_kernels *dense_kernels_of_this_cpu(void);

#endif
