/* Part of kernels.h: the input of a block and its outputs. */

/* Copies whole vectors, also past the end of a row: values there are never used. */
static void take_rows(const geometry *g, int channels, int part, int parts, const float *image, float *features,
                            int from, int to) {
    for (int c = channels * part / parts; c < channels * (part + 1) / parts; c++)
        for (int h = from; h < to; h++) {
            const float *row = image + ((long)c * g->H + h) * g->W;
            float *x = features + c * g->feature_plane + (long)h * g->pitch;
            if (row + g->columns * LANES > image + (long)channels * g->H * g->W) memcpy(x, row, g->W * sizeof(float));
            else if (g->share == 2) memcpy(x, row, LANES / 2 * sizeof(float));
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
static void give_average(const geometry *g, int first, int last, const float *features, float *out, int from,
                               int to) {
    const int height = g->H / 2, width = g->W / 2;
    mask even, odd;
    for (int i = 0; i < LANES; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
    for (int c = first; c < last; c++)
        for (int h = from; h < to; h++) {
            const float *above = features + c * g->feature_plane + 2L * h * g->pitch, *below = above + g->pitch;
            float *row = out + ((long)c * height + h) * width;
            for (int w = 0; w < width; w += LANES) {
                const vec a = load(above + 2 * w) + load(below + 2 * w);
                const vec b = load(above + 2 * w + LANES) + load(below + 2 * w + LANES);
                const vec mean = (__builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd)) * 0.25f;
                const int left = width - w; /* then come later rows of this plane, or the next plane */
                if (left >= LANES || (long)h * width + w + LANES <= (long)height * width) store(row + w, mean);
                else memcpy(row + w, &mean, left * sizeof(float));
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

/* The output of the block, as far as rows [from, to) of the features allow. */
static void give(const geometry *g, const dense_block *b, int part, int parts, const float *features, float *out,
                       int from, int to) {
    const int first = b->features * part / parts, last = b->features * (part + 1) / parts;
    if (b->pool == POOL_AVERAGE) give_average(g, first, last, features, out, from / 2, to / 2);
    else if (to == g->H && b->pool == POOL_NONE) give_all(g, first, last, features, out);
    else if (to == g->H) give_mean(g, b, first, last, features, out);
}
