#ifndef CONDENSENET_LAYOUT_H
#define CONDENSENET_LAYOUT_H

#include "block.h"

/* Weights in the order in which the kernels read them; `w` is as in the file (parse.h). All write as many
   floats as they read. */
void tile_1x1(const dense_layer *l, int widest, const float *w, float *to);
void tile_3x3(const dense_layer *l, int widest, const float *w, float *to);
void tile_classifier(const dense_classifier *c, int tile, const float *w, float *to);
void turn_stem(const dense_stem *s, const float *w, float *to);

/* For vectors of outputs (channels.h): how many groups of the 3x3 convolution are a set, or 0 if the layer does not suit
   vectors of so many lanes. */
int set_of(const dense_layer *l, int lanes);
/* The outputs of each 1x1 group by set, and its groups in turn, for a layer whose `set` is known. */
void order_bias(const dense_layer *l, int lanes, const float *bias, float *to);
void order_1x1(const dense_layer *l, int lanes, const float *w, float *to);
void order_3x3(const dense_layer *l, int lanes, const float *w, float *to);

#endif
