/* Dense blocks in inference, and the interface of their kernels.

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
    const char *ahead;                /* all weights up to the next layer's 3x3 convolution, to be prefetched: */
    long ahead_bytes, later_bytes;    /* so many bytes during the 1x1 convolution, then during the 3x3 */
} dense_layer;

enum { POOL_NONE, POOL_AVERAGE, POOL_GLOBAL };

typedef struct {
    int inputs, features;             /* input channels, and all features at the end */
    int layers;
    dense_layer *layer;
    int in_lanes;                     /* output channels are in the lanes of vectors (channels.h), not pixels */
    int pool;                         /* none; 2x2 average; the mean over all pixels of relu(scale * x + shift) */
    const float *scale, *shift;       /* (features,), only for the mean */
} dense_block;

typedef struct {
    int channels, outs, kernel, stride, padding; /* no outs: no stem, the first block reads its input channels */
    const float *weight;              /* (channels, kernel, kernel, outs) and readable beyond by some vectors */
} dense_stem;

typedef struct {
    int classes, reads;               /* no classes: the output is that of the last block */
    const int *index;                 /* (reads,) features */
    const float *bias;                /* (classes,) and readable beyond, as weight is */
    const float *weight;              /* by tile of classes: (reads, tile) */
} dense_classifier;

enum { MOST_BLOCKS = 64, MOST_THREADS = 16 };

/* Each block but the last ends with 2x2 means, which the next one reads. */
typedef struct {
    dense_stem stem;
    int blocks;
    dense_block block[MOST_BLOCKS];
    dense_classifier classifier;
} dense_network;

typedef struct { int height, width; } size;

static inline size size_after_stem(const dense_stem *s, size image) {
    if (!s->outs) return image;
    if (image.height + 2 * s->padding < s->kernel || image.width + 2 * s->padding < s->kernel) return (size){0, 0};
    return (size){(image.height + 2 * s->padding - s->kernel) / s->stride + 1,
                  (image.width + 2 * s->padding - s->kernel) / s->stride + 1};
}

/* Runs task(part, arguments) for every part below parts, possibly in parallel. */
typedef struct {
    void (*run)(void *pool, void (*task)(void *, unsigned long), unsigned long parts, void *arguments);
    void *pool;
    int threads;                      /* that were seen to run at the same time; from 2 to MOST_THREADS */
} workers;

/* One set for each instruction set. `scratch` is scratch_bytes() of uninitialized memory. Every block has pixels. */
typedef struct {
    int tile_1x1, tile_3x3;           /* the widest tile of outputs that the weights are laid out for */
    int tile_classes;
    int lanes;                        /* of vectors of outputs; 0: pixels are in the lanes always */
    unsigned long (*scratch_bytes)(const dense_network *, size image, int threads);
    void (*run)(const dense_network *, const float *image, size, void *scratch, float *out, const workers *);
} dense_kernels;

/* The next tile of outputs: the largest power of two that fits. Weight layout and loops use the same rule. */
static inline int tile_of(int left, int widest) {
    int tile = widest;
    while (tile > left) tile /= 2;
    return tile;
}

const dense_kernels *dense_kernels_of_this_cpu(void);

#endif
