#ifndef CONDENSENET_PARSE_H
#define CONDENSENET_PARSE_H

#include "block.h"

#include <stddef.h>
#include <stdint.h>

/* integers: pool of the last block, input channels of the first, its layers; per layer: G, R, K, groups of the 3x3
   convolution, its outputs per group, then index (G, R), rising (G,), channel (G, K). Then each of these sections that
   the network has, in this order: NEXT_BLOCK, layers, and the layers as above (more than once); STEM, channels, outs,
   kernel, stride, padding; CLASSIFIER, classes, reads, index (reads,).
   numbers: per layer of all blocks: bound (G, R), bias (G, K), weight (G, K, R), weight_3x3 (groups, makes, ins, 3, 3);
   scale and shift (features,) if the last pool is the mean over all pixels; the stem's weight (outs, channels, kernel,
   kernel); the classifier's weight (classes, reads) and bias (classes,).
   Returns NULL if they do not fit together or there is no memory; to be freed with free(). */
enum { NEXT_BLOCK = 1, STEM, CLASSIFIER };

dense_network *parse_network(const int64_t *integers, size_t n_integers, const float *numbers, size_t n_numbers,
                             const dense_kernels *kernels);

#endif
