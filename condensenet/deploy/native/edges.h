/* Part of kernels.h: the input of a block and its outputs. */

typedef struct { float *data; long plane, pitch; } planes; /* distances in floats */

/* Copies whole vectors where a row of features has room for them: what lies beside the image is never used. */
static void take_rows(const geometry *g, int channels, const float *image, float *features, int from, int to) {
    const float *end = image + (long)channels * g->H * g->W;
    for (int c = 0; c < channels; c++)
        for (int h = from; h < to; h++) {
            const float *row = image + ((long)c * g->H + h) * g->W;
            float *x = features + c * g->feature_plane + (long)h * g->pitch;
            if (g->pitch < g->columns * LANES || row + g->columns * LANES > end) memcpy(x, row, g->W * sizeof(float));
            else for (int v = 0; v < g->columns; v++) store(x + v * LANES, load(row + v * LANES));
        }
}

static void give_all(const geometry *g, int first, int last, const float *features, float *out) {
    for (int c = first; c < last; c++)
        for (int h = 0; h < g->H; h++)
            memcpy(out + ((long)c * g->H + h) * g->W, features + c * g->feature_plane + (long)h * g->pitch,
                   g->W * sizeof(float));
}

/* Rows [from, to) of the 2x2 means; an odd last row or column is dropped. */
static void give_average(const geometry *g, int first, int last, const float *features, planes out, int from, int to) {
    const int width = g->W / 2;
    mask even, odd;
    for (int i = 0; i < LANES; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
    for (int c = first; c < last; c++)
        for (int h = from; h < to; h++) {
            const float *above = features + c * g->feature_plane + 2L * h * g->pitch, *below = above + g->pitch;
            float *row = out.data + c * out.plane + h * out.pitch;
            for (int w = 0; w < width; w += LANES) {
                const vec a = load(above + 2 * w) + load(below + 2 * w);
                const vec b = load(above + 2 * w + LANES) + load(below + 2 * w + LANES);
                const vec mean = (__builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd)) * 0.25f;
                if (w + LANES <= (to - h) * out.pitch) store(row + w, mean); /* also over rows that come next */
                else memcpy(row + w, &mean, (width - w) * sizeof(float));
            }
        }
}

/* The mean over all pixels of relu(scale * x + shift). */
static void give_mean(const geometry *g, const dense_block *b, int first, int last, const float *features,
                            float *out) {
    for (int c = first; c < last; c++) {
        const float *x = features + c * g->feature_plane;
        vec sum = {0};
        for (int h = 0; h < g->H; h += g->share)
            for (int v = 0; v < g->columns; v++) {
                mask keep = g->keep[v];
                if (g->share == 2 && h + 1 == g->H)
                    for (int i = LANES / 2; i < LANES; i++) keep[i] = 0;
                const vec y = LARGER((vec){0}, load(x + (long)h * g->pitch + v * LANES) * b->scale[c] + b->shift[c]);
                sum += (vec)((mask)y & keep);
            }
        float total = 0;
        for (int i = 0; i < LANES; i++) total += sum[i];
        out[c] = total / ((float)g->H * g->W);
    }
}

/* The output of a block for the features [first, last), as far as rows [from, to) of them allow. */
static void give(const geometry *g, const dense_block *b, int first, int last, const float *features, planes out,
                 int from, int to) {
    if (b->pool == POOL_AVERAGE) give_average(g, first, last, features, out, from / 2, to / 2);
    else if (to == g->H && b->pool == POOL_NONE) give_all(g, first, last, features, out.data);
    else if (to == g->H) give_mean(g, b, first, last, features, out.data);
}
