/* Part of kernels.h: the first convolution and the classifier. */

enum { STEM_VECTORS = REGISTERS / 2 > LANES ? REGISTERS / 2 / LANES : 1, CLASS_VECTORS = 4 };

INLINE long stem_row(const dense_stem *s, size image) { /* in floats: a padded row, as far as a tile reads */
    const long outs = size_after_stem(s, image).width, tiles = (outs + LANES - 1) / LANES;
    return (tiles * LANES - 1) * s->stride + s->kernel + image.width + 2 * s->padding - (outs - 1) * s->stride - s->kernel;
}

static long stem_floats(const dense_stem *s, size image) {
    return (s->channels * s->kernel * stem_row(s, image) + 15) / 16 * 16;
}

/* The rows of the image that row h of the output reads, with zeros around them. */
static void pad_rows(const dense_stem *s, const float *image, size of, int h, float *to) {
    const long row = stem_row(s, of);
    for (int c = 0; c < s->channels; c++)
        for (int r = 0; r < s->kernel; r++, to += row) {
            const int y = h * s->stride - s->padding + r;
            memset(to, 0, (y < 0 || y >= of.height ? row : s->padding) * sizeof(float));
            if (y < 0 || y >= of.height) continue;
            memcpy(to + s->padding, image + ((long)c * of.height + y) * of.width, of.width * sizeof(float));
            memset(to + s->padding + of.width, 0, (row - s->padding - of.width) * sizeof(float));
        }
}

/* V vectors of outputs at LANES pixels. */
INLINE void stem_tile(const int V, const long stride, const dense_stem *s, const float *x, long row,
                      const float *weight, vec *sum) {
    UNROLL for (int j = 0; j < V * LANES; j++) sum[j] = (vec){0};
    for (long r = 0; r < (long)s->channels * s->kernel; r++, x += row)
        for (int tap = 0; tap < s->kernel; tap++, weight += s->outs) {
            vec w[STEM_VECTORS];
            UNROLL for (int v = 0; v < V; v++) w[v] = load(weight + v * LANES);
            UNROLL for (int q = 0; q < LANES; q++) {
                const vec pixel = all(x[tap + q * stride]);
                UNROLL for (int v = 0; v < V; v++) sum[v * LANES + q] += pixel * w[v];
            }
        }
}

/* Outputs from k on at the pixels from w on, of a row that starts at `to`. */
INLINE void stem_outputs(const int V, const geometry *g, const dense_stem *s, const float *x, long row, int k, int w,
                         float *to) {
    vec sum[STEM_VECTORS * LANES];
    const float *weight = s->weight + k;
    if (s->stride == 1) stem_tile(V, 1, s, x + w, row, weight, sum);
    else if (s->stride == 2) stem_tile(V, 2, s, x + 2L * w, row, weight, sum);
    else stem_tile(V, s->stride, s, x + (long)w * s->stride, row, weight, sum);
    UNROLL for (int v = 0; v < V; v++) {
        turn(sum + v * LANES);
        for (int i = 0; i < LANES && k + v * LANES + i < s->outs; i++)
            store_part(to + (k + v * LANES + i) * g->feature_plane + w, sum[v * LANES + i], g->W - w);
    }
}

/* Rows [from, to) of the convolution of the image become the first features. */
static void stem_rows(const geometry *g, const dense_stem *s, const float *image, size of, float *rows, float *features,
                      int from, int to) {
    for (int h = from; h < to; h++) {
        pad_rows(s, image, of, h, rows);
        for (int k = 0; k < s->outs;) {
            const int many = s->outs - k >= STEM_VECTORS * LANES;
            for (int w = 0; w < g->W; w += LANES)
                if (many) stem_outputs(STEM_VECTORS, g, s, rows, stem_row(s, of), k, w, features + (long)h * g->pitch);
                else stem_outputs(1, g, s, rows, stem_row(s, of), k, w, features + (long)h * g->pitch);
            k += many ? STEM_VECTORS * LANES : LANES;
        }
    }
}

/* V vectors of classes, of a tile that is `width` wide. Its weights lie one behind the other and come from memory. */
INLINE void classes_tile(const int V, const dense_classifier *c, const float *means, const float *bias,
                         const float *weight, int width, float *out) {
    enum { AHEAD_FLOATS = 1024 };
    vec sum[CLASS_VECTORS];
    UNROLL for (int v = 0; v < V; v++) sum[v] = load(bias + v * LANES);
    for (int r = 0; r < c->reads; r++, weight += width) {
        const vec mean = all(means[c->index[r]]);
        UNROLL for (int v = 0; v < V; v++) {
            __builtin_prefetch(weight + v * LANES + AHEAD_FLOATS, 0, 2);
            sum[v] += mean * load(weight + v * LANES);
        }
    }
    UNROLL for (int v = 0; v < V; v++) store_part(out + v * LANES, sum[v], width - v * LANES);
}

static int class_tiles(const dense_classifier *c) {
    return (c->classes + CLASS_VECTORS * LANES - 1) / (CLASS_VECTORS * LANES);
}

/* The tiles [first, last) of classes. */
static void classify(const dense_classifier *c, int first, int last, const float *means, float *out) {
    for (int tile = first; tile < last; tile++) {
        const int k = tile * CLASS_VECTORS * LANES, left = c->classes - k;
        const int width = left < CLASS_VECTORS * LANES ? left : CLASS_VECTORS * LANES;
        const float *weight = c->weight + (long)k * c->reads;
        if (width > 3 * LANES) classes_tile(4, c, means, c->bias + k, weight, width, out + k);
        else if (width > 2 * LANES) classes_tile(3, c, means, c->bias + k, weight, width, out + k);
        else if (width > LANES) classes_tile(2, c, means, c->bias + k, weight, width, out + k);
        else classes_tile(1, c, means, c->bias + k, weight, width, out + k);
    }
}
