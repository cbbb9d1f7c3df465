#ifndef CONDENSENET_PARSE_H
#define CONDENSENET_PARSE_H

#include "block.h"

#include <stddef.h>
#include <stdint.h>

/* integers: pool, input channels, layers; by layer: G, R, K, groups of the 3x3 convolution, its outputs by group, then
   index (G, R), rising (G,), channel (G, K).
   numbers: by layer: bound (G, R), bias (G, K), weight (G, K, R), weight_3x3 (groups, makes, ins, 3, 3); scale and shift
   (features,) where the pool is the mean of all pixels.
   NULL if they do not fit one another, or there is no memory; to be freed with free(). Height and width
   are left for the caller to set. */
dense_block *parse_block(const int64_t *integers, size_t n_integers, const float *numbers, size_t n_numbers,
                         const dense_kernels *kernels);

#endif
