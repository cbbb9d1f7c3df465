/* Part of geometry.h: the layout for channels in the lanes (channels.h). */

enum {
    WIDE = REGISTERS >= 32 ? 14 : 6, NARROW = REGISTERS >= 32 ? 7 : 5, /* pixels of a 1x1 tile */
    X_BYTES = 32 << 10 /* of gathered inputs, if a tile does not need more: they should stay in the first-level cache */
};

static geometry measure_panels(geometry g) {
    const int sevens = (g.W + 6) / 7 * 7, fours = (g.W + 3) / 4 * 4;
    const int width = (sevens <= fours ? sevens : fours) + 1; /* of a row of z, in pixels: a zero is the last */
    g.across = sevens <= fours ? 7 : 4;
    g.pitch = g.W;
    g.columns = (g.W + LANES - 1) / LANES;
    g.step = g.H;
    g.feature_plane = plane((long)g.H * g.W + LANES); /* rows are stored in whole vectors */
    g.z_pitch = (long)width * LANES;
    g.lead = g.z_pitch + LANES;
    g.z_plane = g.lead + (g.H + 1) * g.z_pitch + LANES; /* the last pixel is for idle ones */
    g.turned = ((long)g.H * g.W + LANES - 1) / LANES * LANES * LANES;
    return g;
}

static void fill_at(const geometry *g, int *at) {
    for (int h = 0; h < g->H; h++)
        for (int w = 0; w < g->W; w++) *at++ = (int)(g->lead + h * g->z_pitch + w * LANES);
    for (int i = 0; i < WIDE; i++) *at++ = (int)g->z_plane - LANES;
}

/* Pixels whose inputs of a group are gathered at once. */
static int panel_pixels(const dense_layer *l, int pixels) {
    const int fit = X_BYTES / ((int)sizeof(float) * (l->reads + 1)) / WIDE * WIDE;
    return fit > pixels ? pixels : fit < WIDE ? WIDE : fit;
}

INLINE long gathered_row(const dense_layer *l, int pixels) {
    return (panel_pixels(l, pixels) + LANES - 1) / LANES * LANES;
}

static long gathered_floats(const dense_layer *l, const geometry *g) {
    return l->reads * gathered_row(l, g->H * g->W) + WIDE;
}

static void clear_panel_edges(const geometry *g, float *z, long panels) {
    for (long panel = 0; panel < panels; panel++, z += g->z_plane) {
        memset(z, 0, g->lead * sizeof(float));
        for (int h = 0; h < g->H; h++) {
            float *end = z + g->lead + h * g->z_pitch + g->W * LANES;
            memset(end, 0, (g->z_pitch - g->W * LANES) * sizeof(float));
        }
        memset(z + g->lead + g->H * g->z_pitch, 0, (g->z_pitch + LANES) * sizeof(float));
    }
}
