/* Part of kernels.h: what lies where in the scratch memory of a call, in bytes from its start. */

typedef struct {
    geometry g;
    unsigned long keep, pixels;         /* tables of the geometry */
    unsigned long features, slab;       /* by slab */
    int in_place;                       /* the block before writes its means where its features are */
} block_place;

typedef struct {
    block_place block[MOST_BLOCKS];
    unsigned long map[2];               /* the input of even and of odd blocks that go in strips: the means of the one before */
    unsigned long z, z_slab, x, x_thread, turned, turned_thread, rows, rows_thread;
    unsigned long means, end;
} places;

static unsigned long claim(unsigned long *end, unsigned long bytes) {
    const unsigned long start = *end;
    *end += (bytes + 63) / 64 * 64;
    return start;
}

static void at_least(unsigned long *most, unsigned long value) {
    if (value > *most) *most = value;
}

/* Features of neighbouring blocks are alive at the same time, those of every other one are not. */
static void place_block(const dense_network *n, int number, size image, int threads, places *at, unsigned long areas[2]) {
    const dense_block *b = &n->block[number];
    block_place *own = &at->block[number];
    const geometry *g = &own->g;
    own->g = measure(b, image, threads);
    const int slabs = g->slabs > 1 ? g->slabs : 1;
    own->slab = (b->features * g->feature_plane * sizeof(float) + 63) / 64 * 64;
    own->in_place = !g->slabs && number > 0;
    own->keep = claim(&at->end, (g->columns + AHEAD) * sizeof(mask));
    own->pixels = claim(&at->end, b->in_lanes ? (g->H * g->W + WIDE) * sizeof(int) : 0);
    at_least(&areas[number % 2], slabs * own->slab);
    at_least(&at->z_slab, (z_planes(b, g) * g->z_plane * sizeof(float) + 63) / 64 * 64);
    at_least(&at->x_thread, (x_floats(b, g) * sizeof(float) + 63) / 64 * 64);
    if (b->in_lanes) at_least(&at->turned_thread, g->turned * sizeof(float));
}

static void place(const dense_network *n, size image, int threads, places *at) {
    memset(at, 0, sizeof *at);
    unsigned long areas[2] = {0, 0}, maps[2] = {0, 0};
    int slabs = 1;
    size now = size_after_stem(&n->stem, image);
    for (int b = 0; b < n->blocks; b++) {
        place_block(n, b, now, threads, at, areas);
        if (at->block[b].g.slabs > slabs) slabs = at->block[b].g.slabs;
        const unsigned long input = (unsigned long)n->block[b].inputs * now.height * now.width * sizeof(float);
        if (b > 0 && !at->block[b].in_place) at_least(&maps[b % 2], input);
        now = (size){now.height / 2, now.width / 2};
    }
    const unsigned long even = claim(&at->end, areas[0]), odd = claim(&at->end, areas[1]);
    for (int b = 0; b < n->blocks; b++) at->block[b].features = b % 2 ? odd : even;
    for (int i = 0; i < 2; i++) at->map[i] = claim(&at->end, maps[i]);
    at->z = claim(&at->end, slabs * at->z_slab);
    at->x = claim(&at->end, threads * at->x_thread);
    at->turned = claim(&at->end, threads * at->turned_thread);
    at->rows_thread = n->stem.outs ? stem_floats(&n->stem, image) * sizeof(float) : 0;
    at->rows = claim(&at->end, threads * at->rows_thread);
    at->means = claim(&at->end, n->block[n->blocks - 1].features * sizeof(float));
}

static unsigned long scratch_bytes(const dense_network *n, size image, int threads) {
    places at;
    place(n, image, threads, &at);
    return at.end;
}
