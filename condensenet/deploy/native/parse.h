#ifndef CONDENSENET_PARSE_H
#define CONDENSENET_PARSE_H

#include "block.h"

#include <stddef.h>
#include <stdint.h>

/* integers: pool, input channels, layers; per layer: G, R, K, groups of the 3x3 convolution, its outputs per group,
   then index (G, R), rising (G,), channel (G, K).
   numbers: per layer: bound (G, R), bias (G, K), weight (G, K, R), weight_3x3 (groups, makes, ins, 3, 3); scale and
   shift (features,) if the pool is the mean over all pixels.
   Returns NULL if they do not fit together or there is no memory; to be freed with free(). The caller sets height and
   width. */
dense_block *parse_block(const int64_t *integers, size_t n_integers, const float *numbers, size_t n_numbers,
                         const dense_kernels *kernels);

#endif
