/* Part of kernels.h: the layout of the scratch memory of a call. */

typedef struct {
    int H, W, pitch, share, columns;     /* columns: vectors in a row; 1 if two rows share one */
    int step, rows;                      /* rows of the image at a time; rows of a plane of z */
    long feature_plane, z_plane, lead;   /* in floats; the first row of z starts at lead */
    int masked;                          /* whether a row ends within a vector */
    const mask *keep;                    /* by vector of a row, plus as many as a tile spans */
} geometry;

typedef struct {
    int z_first, z_done, done; /* z's first row, and the rows done of z and of features */
    float *z, *x;              /* the 1x1 convolution's outputs, and its gathered inputs by group */
    long x_group;
} progress;

static int widest(const dense_block *b) {
    int planes = 1;
    for (int l = 0; l < b->layers; l++)
        if (b->layer[l].groups * b->layer[l].outs > planes) planes = b->layer[l].groups * b->layer[l].outs;
    return planes;
}

enum { AHEAD = 8 }; /* at most so many vectors in a tile */

INLINE long plane(long floats) { /* an odd number of whole vectors: neighbours use other cache sets */
    return ((floats + LANES - 1) / LANES | 1) * LANES;
}

static geometry measure(const dense_block *b, int in_strips) {
    geometry g = {.H = b->height, .W = b->width, .share = 1};
    if (LANES >= 8 && g.W + 1 <= LANES / 2) g.share = 2, g.pitch = LANES / 2, g.columns = 1;
    else g.pitch = (g.W + LANES) / LANES * LANES, g.columns = (g.W + LANES - 1) / LANES;
    g.lead = LANES + (g.share == 2 ? LANES / 2 : 0);
    g.step = g.H;
    if (in_strips && g.share == 1 && b->features * plane((long)g.H * g.pitch) * sizeof(float) > CACHE_BYTES && g.H > STRIP)
        g.step = STRIP;
    g.rows = (g.step < g.H ? g.step + b->layers : g.H) + 4;
    g.feature_plane = plane((long)(g.H + g.share - 1) * g.pitch);
    g.z_plane = plane(g.lead + (long)(g.rows + g.share) * g.pitch + LANES);
    g.masked = g.share == 2 || g.W % LANES != 0;
    return g;
}

static mask *make_keep(geometry *g, mask *keep) {
    for (int v = 0; v < g->columns + AHEAD; v++)
        for (int i = 0; i < LANES; i++)
            keep[v][i] = (g->share == 2 ? i % g->pitch : v % g->columns * LANES + i) < g->W ? -1 : 0;
    g->keep = keep;
    return keep + g->columns + AHEAD;
}

static unsigned long z_floats(const dense_block *b, const geometry *g) { /* in strips, each layer has its own */
    return (g->step < g->H ? b->layers : 1) * widest(b) * g->z_plane;
}

/* A group's gathered inputs, for as many vectors as the widest tile has. */
static long x_floats(const dense_block *b) {
    long most = 0;
    for (int l = 0; l < b->layers; l++)
        if (b->layer[l].reads > most) most = b->layer[l].reads;
    return most * 4 * LANES;
}

static long x_groups(const dense_block *b) {
    long most = 0;
    for (int l = 0; l < b->layers; l++)
        if (b->layer[l].groups > most) most = b->layer[l].groups;
    return most;
}

static unsigned long scratch_bytes(const dense_block *b) {
    unsigned long most = 0;
    for (int in_strips = 0; in_strips < 2; in_strips++) {
        const geometry g = measure(b, in_strips);
        const unsigned long floats = b->features * g.feature_plane + z_floats(b, &g) +
                                     x_floats(b) * x_groups(b);
        const unsigned long bytes = (g.columns + AHEAD) * sizeof(mask) + floats * sizeof(float);
        if (bytes > most) most = bytes;
    }
    return most;
}

static void zero_row(const geometry *g, int first, int last, const progress *p, int row) { /* of some planes */
    for (int c = first; c < last; c++)
        memset(p->z + c * g->z_plane + g->lead + (long)(row - p->z_first) * g->pitch, 0, g->pitch * sizeof(float));
}

/* Zeros above the image, and beside it where no vector of a row is stored. */
static void clear_edges(const geometry *g, float *z, long planes) {
    const int beside = g->pitch - g->columns * LANES;
    for (long c = 0; c < planes; c++) {
        float *plane = z + c * g->z_plane;
        memset(plane, 0, (g->lead + g->pitch) * sizeof(float));
        for (int row = 0; beside > 0 && row < g->rows; row++)
            memset(plane + g->lead + (long)row * g->pitch + g->columns * LANES, 0, beside * sizeof(float));
    }
}
