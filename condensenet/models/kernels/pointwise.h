/* 1x1 group convolution over BN and ReLU, and the way back: panel by panel of pixels, which are gathered once, lie one
   behind the other in the cache, and are multiplied from there. Rows of the features are whole megabytes apart, so that
   a product which reads them where they lie finds neither cache lines nor pages twice.

   G groups of K outputs and R inputs; input r of group g is row index[g * R + r] of x, standardised. */

#include "threads.h"

enum {
    WIDE = REGISTERS / 4,         /* outputs of a tile: 8 or 4 */
    STRETCH = 3 * LANES,          /* pixels of a tile */
    PANEL_BYTES = 96 << 10,       /* of gathered inputs, going forward */
    PANEL = 144 / STRETCH * STRETCH, /* pixels of a panel, going back */
    AHEAD = 4,                    /* rows that are fetched before they are needed */
    PANELS = 8                    /* whose sums are taken in float before they go on in double */
};

/* C rows at Q vectors of pixels: sum over i of w[i][c] * x[i][q]. C and Q are constants to the compiler. */
INLINE void multiply(const int C, const int Q, long depth, const float *w, long w_row, const float *x, long x_row, vec *sum) {
    UNROLL for (int j = 0; j < C * Q; j++) sum[j] = (vec){0};
    for (long i = 0; i < depth; i++) {
        vec v[3];
        UNROLL for (int q = 0; q < Q; q++) v[q] = load(x + i * x_row + q * LANES);
        UNROLL for (int c = 0; c < C; c++) {
            const vec u = all(w[i * w_row + c]);
            UNROLL for (int q = 0; q < Q; q++) sum[c * Q + q] += v[q] * u;
        }
    }
}

/* relu(scale * x + shift) of a group's inputs at `count` pixels from m on, zeros behind them up to `width`. */
INLINE void gather(long inputs, long M, long m, long count, long width, const float *x, const long *index,
                   const float *scale, const float *shift, float *panel) {
    for (long r = 0; r < inputs; r++) {
        const float *from = x + index[r] * M + m, s = scale[r], b = shift[r];
        const float *next = x + index[r + AHEAD < inputs ? r + AHEAD : r] * M + m; /* far away: nothing fetches it by itself */
        float *to = panel + r * width;
        for (long p = 0; p < width; p += LANES) {
            __builtin_prefetch(next + p);
            const vec t = load_part(from + p, count - p) * s + b;
            store(to + p, keep(~(t <= 0), t)); /* NaN stays NaN, here and below: the loss must tell of it */
        }
    }
}

typedef struct {
    long groups, outputs, inputs, M; /* G; K and R of a group; pixels */
    const float *x, *scale, *shift;
    const long *index;
} pointwise_shape;

/* Rows [k, k + C) of y at STRETCH pixels of a panel. */
#define TILE_OF_Y(C) { \
        vec sum[3 * (C)]; \
        multiply(C, 3, s->inputs, w + k, s->outputs, panel + p, width, sum); \
        for (int c = 0; c < (C); c++) \
            for (int q = 0; q < 3; q++) \
                store_part(y + (k + c) * s->M + m + p + q * LANES, sum[3 * c + q], count - p - q * LANES); \
        k += (C); \
    }

static void pointwise_columns(const pointwise_shape *s, long from, long to, const float *w_t, float *y_all) {
    const long fit = PANEL_BYTES / (STRETCH * sizeof(float)) / (s->inputs + 1), width = (fit < 1 ? 1 : fit > 8 ? 8 : fit) * STRETCH;
    float *panel = zeros((size_t)s->inputs * width, sizeof(float));
    for (long m = from; m < to; m += width)
        for (long g = 0; g < s->groups; g++) {
            const long count = smaller(width, to - m), first = g * s->inputs;
            const float *w = w_t + first * s->outputs;
            float *y = y_all + g * s->outputs * s->M;
            gather(s->inputs, s->M, m, count, width, s->x, s->index + first, s->scale + first, s->shift + first, panel);
            for (long k = 0; k < s->outputs;) {
                const long left = s->outputs - k, start = k;
                for (long p = 0; p < count; p += STRETCH) {
                    k = start;
                    if (WIDE >= 8 && left >= 8) TILE_OF_Y(8) else if (left >= 4) TILE_OF_Y(4)
                    else if (left >= 2) TILE_OF_Y(2) else TILE_OF_Y(1)
                }
            }
        }
    free(panel);
}

/* w_t is (G, R, K): the weights of one input lie side by side. */
void NAME(pointwise)(int threads, long groups, long outputs, long inputs, long M, const float *x, const long *index,
                     const float *scale, const float *shift, const float *w_t, float *y) {
    const pointwise_shape s = {groups, outputs, inputs, M, x, scale, shift, index};
    BY_COLUMNS(pointwise_columns(&s, from, to, w_t, y))
}

/* A thread's memory on the way back. */
typedef struct {
    float *dy, *dy_t, *relu; /* panels: (K, PANEL), (PANEL, padded K), (R, PANEL) */
    float *dw;               /* (R, padded K), of some panels */
    vec *shift, *scale;      /* (R,) each: sums of the gradient, and of it times x, lane by lane */
} pointwise_room;

/* The gradient of rows [r, r + C) of the inputs at STRETCH pixels of a panel, through the ReLU, into dx. */
INLINE void input_gradient(const int C, const pointwise_shape *s, long first, long r, long m, long p, long count,
                           const float *w, float *dx, const pointwise_room *room) {
    UNROLL for (int c = 0; c < C; c++) { /* the next tile's rows: nothing fetches them by itself */
        const long at = s->index[first + (r + C + c < s->inputs ? r + C + c : r + c)] * s->M + m + p;
        UNROLL for (int q = 0; q < 3; q++) {
            __builtin_prefetch(s->x + at + q * LANES);
            __builtin_prefetch(dx + at + q * LANES, 1);
        }
    }
    vec sum[24];
    multiply(C, 3, s->outputs, w + r, s->inputs, room->dy + p, PANEL, sum);
    UNROLL for (int c = 0; c < C; c++) {
        const long at = s->index[first + r + c] * s->M + m + p;
        const float scale = s->scale[first + r + c], shift = s->shift[first + r + c];
        UNROLL for (int q = 0; q < 3; q++) {
            const long left = count - p - q * LANES;
            if (left <= 0) continue;
            const vec v = load_part(s->x + at + q * LANES, left), t = v * scale + shift;
            const mask on = ~(t <= 0);
            const vec g = keep(on, sum[3 * c + q]);
            room->shift[r + c] += g;
            room->scale[r + c] += g * v;
            store(room->relu + (r + c) * PANEL + p + q * LANES, keep(on, t));
            store_part(dx + at + q * LANES, load_part(dx + at + q * LANES, left) + g * scale, left);
        }
    }
}

/* dw[r][k] += sum over the panel's pixels of relu[r][p] * dy_t[p][k], for C inputs and V vectors of outputs. */
INLINE void weight_products(const int C, const int V, long count, const float *relu, const float *dy_t, long padded, float *dw) {
    vec sum[16];
    UNROLL for (int j = 0; j < C * V; j++) sum[j] = (vec){0};
    for (long p = 0; p < count; p++) {
        vec v[2];
        UNROLL for (int q = 0; q < V; q++) v[q] = load(dy_t + p * padded + q * LANES);
        UNROLL for (int c = 0; c < C; c++) {
            const vec u = all(relu[c * PANEL + p]);
            UNROLL for (int q = 0; q < V; q++) sum[c * V + q] += v[q] * u;
        }
    }
    UNROLL for (int c = 0; c < C; c++)
        UNROLL for (int q = 0; q < V; q++) {
            float *to = dw + c * padded + q * LANES;
            store(to, load(to) + sum[c * V + q]);
        }
}

INLINE void weight_rows(const int C, long r, long count, long padded, const pointwise_room *room) {
    long k = 0;
    for (; k + 2 * LANES <= padded; k += 2 * LANES)
        weight_products(C, 2, count, room->relu + r * PANEL, room->dy_t + k, padded, room->dw + r * padded + k);
    for (; k < padded; k += LANES)
        weight_products(C, 1, count, room->relu + r * PANEL, room->dy_t + k, padded, room->dw + r * padded + k);
}

/* A panel of dy as it lies, and turned. */
static void take_panel(const pointwise_shape *s, const float *dy, long m, long count, long padded, const pointwise_room *room) {
    for (long k = 0; k < s->outputs; k++)
        for (long p = 0; p < PANEL; p += LANES)
            store(room->dy + k * PANEL + p, load_part(dy + k * s->M + m + p, count - p));
    for (long k = 0; k < padded; k += LANES)
        for (long p = 0; p < PANEL; p += LANES)
            transpose(room->dy + k * PANEL + p, PANEL, room->dy_t + p * padded + k, padded);
}

static void give_sums(const pointwise_shape *s, long padded, const pointwise_room *room, double *dw, double *sums) {
    for (long r = 0; r < s->inputs; r++) {
        for (long k = 0; k < s->outputs; k++) dw[k * s->inputs + r] += room->dw[r * padded + k];
        sums[2 * r] += total(room->shift[r]);
        sums[2 * r + 1] += total(room->scale[r]);
    }
    memset(room->dw, 0, s->inputs * padded * sizeof(float));
    memset(room->shift, 0, 2 * s->inputs * sizeof(vec));
}

static void pointwise_backward_columns(const pointwise_shape *s, long from, long to, const float *dy_all, const float *w_all,
                                       float *dx, double *dw, double *sums) {
    const long padded = (s->outputs + LANES - 1) / LANES * LANES;
    pointwise_room room;
    room.dy = zeros((size_t)padded * PANEL * 2 + (size_t)s->inputs * (PANEL + padded), sizeof(float));
    room.dy_t = room.dy + padded * PANEL;
    room.relu = room.dy_t + padded * PANEL;
    room.dw = room.relu + s->inputs * PANEL;
    room.shift = zeros((size_t)s->inputs * 2, sizeof(vec));
    room.scale = room.shift + s->inputs;
    for (long g = 0; g < s->groups; g++) {
        const float *dy = dy_all + g * s->outputs * s->M, *w = w_all + g * s->outputs * s->inputs;
        const long first = g * s->inputs;
        int panels = 0;
        for (long m = from; m < to; m += PANEL) {
            const long count = smaller(PANEL, to - m);
            take_panel(s, dy, m, count, padded, &room);
            long r = 0;
#define WHILE_LEFT(C) for (; s->inputs - r >= (C); r += (C)) { \
                for (long p = 0; p < count; p += STRETCH) input_gradient(C, s, first, r, m, p, count, w, dx, &room); \
                weight_rows(C, r, count, padded, &room); \
            }
            if (WIDE >= 8) WHILE_LEFT(8)
            WHILE_LEFT(4)
            WHILE_LEFT(2)
            WHILE_LEFT(1)
#undef WHILE_LEFT
            if (++panels % PANELS == 0 || m + PANEL >= to)
                give_sums(s, padded, &room, dw + first * s->outputs, sums + 2 * first);
        }
    }
    free(room.shift);
    free(room.dy);
}

/* w is (G, K, R). dx grows by the gradient of x; dw (G, K, R) and sums (G * R, 2), of shift and of scale, are written. */
void NAME(pointwise_backward)(int threads, long groups, long outputs, long inputs, long M, const float *x,
                              const long *index, const float *scale, const float *shift, const float *w, const float *dy,
                              float *dx, double *dw, double *sums) {
    const pointwise_shape s = {groups, outputs, inputs, M, x, scale, shift, index};
    const long weights = groups * outputs * inputs, count = weights + 2 * groups * inputs;
    double *partial = zeros((size_t)(threads + 1) * count, sizeof(double)), *all_sums = partial + threads * count;
    BY_COLUMNS(pointwise_backward_columns(&s, from, to, dy, w, dx, partial + part * count, partial + part * count + weights))
    add_parts(count, threads, partial, all_sums);
    memcpy(dw, all_sums, weights * sizeof(double));
    memcpy(sums, all_sums + weights, 2 * groups * inputs * sizeof(double));
    free(partial);
}
