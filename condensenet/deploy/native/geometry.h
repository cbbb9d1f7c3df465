/* Part of kernels.h: the layout of the scratch memory of a call. */

typedef struct {
    int H, W, pitch, share, columns;     /* columns: vectors in a row; 1 if two rows share one */
    int step, rows;                      /* rows of the image at a time; rows of a plane of z */
    int slabs;                           /* in strips: so many threads take rows of their own; else 0 */
    int rolling;                         /* in strips: rows of features are dropped after they were given out */
    long feature_plane, z_plane, lead;   /* in floats; the first row of z starts at lead */
    int masked;                          /* whether a row ends within a vector */
    const mask *keep;                    /* by vector of a row, plus as many as a tile spans */
    /* Only with channels in the lanes, where z_plane is a panel: */
    int across;                          /* pixels of a row that a 3x3 tile spans */
    long z_pitch, turned;                /* in floats: a row of a panel; a set's outputs before they become planes */
    const int *at;                       /* where a pixel lies in a panel; idle ones of a tile come last */
} geometry;

typedef struct {
    int z_first, z_done, done; /* z's first row, and the rows done of z and of features */
    float *z, *x;              /* the 1x1 convolution's outputs, and a group's gathered inputs */
    float *turned;             /* a set's outputs, before they become planes; only with channels in the lanes */
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

#include "panels.h"

/* Threads that go through all layers in strips, each with rows of its own. At a border both compute the rows that the
   layers below need: not worth it for more than an eighth of all. */
static int slabs_of(const dense_block *b, int height, int threads) {
    if (threads == 1) return 1;
    return b->pool == POOL_AVERAGE && (threads - 1) * b->layers * 8 <= height ? threads : 0;
}

static geometry measure(const dense_block *b, size image, int threads) {
    geometry g = {.H = image.height, .W = image.width, .share = 1};
    if (b->in_lanes) return measure_panels(g);
    if (LANES >= 8 && g.W + 1 <= LANES / 2) g.share = 2, g.pitch = LANES / 2, g.columns = 1;
    else g.pitch = (g.W + LANES) / LANES * LANES, g.columns = (g.W + LANES - 1) / LANES;
    g.lead = LANES + (g.share == 2 ? LANES / 2 : 0);
    g.step = g.H;
    g.slabs = slabs_of(b, g.H, threads);
    if (g.slabs && g.share == 1 && b->features * plane((long)g.H * g.pitch) * sizeof(float) > CACHE_BYTES && g.H > STRIP)
        g.step = STRIP;
    else g.slabs = 0;
    const int ahead = g.slabs > 1 ? 2 * b->layers : b->layers; /* rows of the first strip before any is finished */
    g.rows = (g.slabs ? g.step + ahead : g.H) + 4;
    g.rolling = g.slabs && b->pool == POOL_AVERAGE;
    g.feature_plane = plane((long)(g.rolling ? g.step + ahead + 3 : g.H + g.share - 1) * g.pitch);
    g.z_plane = plane(g.lead + (long)(g.rows + g.share) * g.pitch + LANES);
    g.masked = g.share == 2 || g.W % LANES != 0;
    return g;
}

static void fill_keep(const geometry *g, mask *keep) {
    for (int v = 0; v < g->columns + AHEAD; v++)
        for (int i = 0; i < LANES; i++)
            keep[v][i] = (g->share == 2 ? i % g->pitch : v % g->columns * LANES + i) < g->W ? -1 : 0;
}

static long z_planes(const dense_block *b, const geometry *g) { /* in strips, each layer has its own */
    if (b->in_lanes) return widest(b) / LANES;
    return (g->slabs ? b->layers : 1) * (long)widest(b);
}

/* A group's gathered inputs, for as many vectors as the widest tile has. */
static long x_floats(const dense_block *b, const geometry *g) {
    long most = 0;
    for (int l = 0; l < b->layers; l++) {
        const long floats = b->in_lanes ? gathered_floats(b->layer + l, g) : b->layer[l].reads * 4L * LANES;
        if (floats > most) most = floats;
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
