#include "layout.h"

/* From (G, K, R) to (R, tile) by group and by tile of outputs. */
void tile_1x1(const dense_layer *l, int widest, const float *w, float *to) {
    for (int g = 0; g < l->groups; g++)
        for (int c = 0, tile; c < l->outs; c += tile) {
            tile = tile_of(l->outs - c, widest);
            for (int r = 0; r < l->reads; r++)
                for (int k = c; k < c + tile; k++) *to++ = w[((long)g * l->outs + k) * l->reads + r];
        }
}

/* From (groups, makes, ins, row, column) to (ins, column, tile, row) by group and by tile of outputs. */
void tile_3x3(const dense_layer *l, int widest, const float *w, float *to) {
    for (int g = 0; g < l->groups_3x3; g++)
        for (int c = 0, tile; c < l->makes; c += tile) {
            tile = tile_of(l->makes - c, widest);
            for (int i = 0; i < l->ins; i++)
                for (int column = 0; column < 3; column++)
                    for (int k = c; k < c + tile; k++)
                        for (int row = 0; row < 3; row++)
                            *to++ = w[(((long)g * l->makes + k) * l->ins + i) * 9 + row * 3 + column];
        }
}

/* From (classes, reads) to (reads, tile) by tile of classes. */
void tile_classifier(const dense_classifier *c, int tile, const float *w, float *to) {
    for (int first = 0; first < c->classes; first += tile)
        for (int r = 0; r < c->reads; r++)
            for (int k = first; k < c->classes && k < first + tile; k++) *to++ = w[(long)k * c->reads + r];
}

/* From (outs, taps) to (taps, outs). */
void turn_stem(const dense_stem *s, const float *w, float *to) {
    const long taps = (long)s->channels * s->kernel * s->kernel;
    for (long tap = 0; tap < taps; tap++)
        for (int k = 0; k < s->outs; k++) *to++ = w[k * taps + tap];
}

/* The nth output of a 1x1 group among those that group `to` of the 3x3 convolution reads; -1 if there are fewer. */
static int output_to(const dense_layer *l, int group, int to, int nth) {
    for (int k = 0; k < l->outs; k++)
        if (l->channel[group * l->outs + k] / l->ins == to && nth-- == 0) return k;
    return -1;
}

/* All 3x3 groups read equally many outputs of each 1x1 group. */
static int shuffles_evenly(const dense_layer *l) {
    const int each = l->outs / l->groups_3x3;
    for (int g = 0; g < l->groups; g++)
        for (int q = 0; q < l->groups_3x3; q++)
            if (output_to(l, g, q, each - 1) < 0) return 0;
    return 1;
}

int set_of(const dense_layer *l, int lanes) {
    const int set = lanes > 0 && l->makes % lanes == 0 ? 1 : l->makes * 2 == lanes && l->groups_3x3 % 2 == 0 ? 2 : 0;
    if (!set || l->outs % lanes || l->outs % l->groups_3x3) return 0;
    const int run = l->outs / l->groups_3x3 * set; /* outputs of a 1x1 group that lie side by side */
    if ((run % lanes && run * 2 != lanes) || l->ins * set % lanes) return 0;
    return shuffles_evenly(l) ? set : 0;
}

/* Which output of a 1x1 group comes j-th. */
static int output_at(const dense_layer *l, int group, int j) {
    const int run = l->outs / l->groups_3x3 * l->set, within = j % run;
    return output_to(l, group, j / run * l->set + within % l->set, within / l->set);
}

void order_bias(const dense_layer *l, int lanes, const float *bias, float *to) {
    (void)lanes;
    for (int g = 0; g < l->groups; g++)
        for (int j = 0; j < l->outs; j++) *to++ = bias[g * l->outs + output_at(l, g, j)];
}

/* From (G, K, R) to (R, lanes or twice as many) by group and tile. */
void order_1x1(const dense_layer *l, int lanes, const float *w, float *to) {
    for (int g = 0; g < l->groups; g++)
        for (int c = 0, tile; c < l->outs; c += tile) {
            tile = l->outs - c >= 2 * lanes ? 2 * lanes : lanes;
            for (int j = 0; j < tile; j++) {
                const float *from = w + ((long)g * l->outs + output_at(l, g, c + j)) * l->reads;
                for (int r = 0; r < l->reads; r++) to[r * tile + j] = from[r];
            }
            to += (long)tile * l->reads;
        }
}

/* The input of group q of the 3x3 convolution that lies i-th in its panels. */
static int input_at(const dense_layer *l, int q, int i) {
    const int each = l->outs / l->groups_3x3, group = i / each;
    return l->channel[group * l->outs + output_to(l, group, q, i % each)] % l->ins;
}

/* From (groups, makes, ins, row, column) to (panel, row, input, column, lanes) by set and vector of outputs. */
void order_3x3(const dense_layer *l, int lanes, const float *w, float *to) {
    const int set = l->set, inputs = lanes / set; /* of a panel */
    for (int s = 0; s < l->groups_3x3 / set; s++)
        for (int c = 0; c < l->makes * set; c += lanes)
            for (int first = 0; first < l->ins; first += inputs, to += 9 * inputs * lanes)
                for (int i = 0; i < inputs; i++)
                    for (int j = 0; j < lanes; j++) {
                        const int q = s * set + j % set, output = (c + j) / set;
                        const float *from = w + (((long)q * l->makes + output) * l->ins + input_at(l, q, first + i)) * 9;
                        for (int tap = 0; tap < 9; tap++) to[((tap / 3 * inputs + i) * 3 + tap % 3) * lanes + j] = from[tap];
                    }
}
