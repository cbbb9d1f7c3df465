/* The operator DenseBlock of the domain "condensenet" for ONNX Runtime's CPU provider: one or more dense blocks.

   Inputs: features (N, I, H, W), or images if there is a stem, and the blocks as integers and numbers (parse.h), both
   constant. Output: all features of the last block (N, F, H, W), their 2x2 means (N, F, H / 2, W / 2), or their mean over
   all pixels after BN and ReLU (N, F), or what a classifier makes of these (N, classes). */

#include "memory.h"
#include "ort.h"
#include "parse.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static int operators; /* existing ones: the last one frees the scratch memory */

typedef struct {
    const OrtApi *api;
    dense_network *network;
    const dense_kernels *kernels;
    int looked, threads;           /* attempts to count the threads, and the most that were seen at the same time */
} operator;

#define TRY(call) do { OrtStatus *failed = (call); if (failed) return failed; } while (0)

static OrtStatus *refuse(const OrtApi *api, const char *why) { return CreateStatus(ORT_INVALID_ARGUMENT, why); }

typedef struct { void *data; size_t rank, count; int64_t shape[4]; } tensor;

static OrtStatus *look_at(const OrtApi *api, const OrtValue *value, tensor *t) {
    OrtTensorTypeAndShapeInfo *info;
    TRY(GetTensorMutableData(value, &t->data));
    TRY(GetTensorTypeAndShape(value, &info));
    OrtStatus *failed = GetDimensionsCount(info, &t->rank);
    if (!failed && t->rank <= 4) failed = GetDimensions(info, t->shape, t->rank);
    ReleaseTensorTypeAndShapeInfo(info);
    t->count = 1;
    for (size_t i = 0; i < t->rank && i < 4; i++) t->count *= (size_t)t->shape[i];
    return failed;
}

static OrtStatus *constant_list(const OrtApi *api, const OrtKernelInfo *info, size_t index, tensor *t) {
    int constant = 0;
    const OrtValue *value = NULL;
    TRY(KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
    if (!constant || !value) return refuse(api, "DenseBlock: integers and numbers must be constant");
    TRY(look_at(api, value, t));
    return t->rank == 1 ? NULL : refuse(api, "DenseBlock: integers and numbers must be lists");
}

static OrtStatus *create(const OrtCustomOp *custom, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)custom;
    tensor integers, numbers;
    TRY(constant_list(api, info, 1, &integers));
    TRY(constant_list(api, info, 2, &numbers));
    operator *o = calloc(1, sizeof *o);
    if (!o) return refuse(api, "DenseBlock: no memory");
    o->api = api;
    o->kernels = dense_kernels_of_this_cpu();
    o->network = parse_network(integers.data, integers.count, numbers.data, numbers.count, o->kernels);
    if (!o->network) return free(o), refuse(api, "DenseBlock: integers and numbers do not fit one another");
    __atomic_add_fetch(&operators, 1, __ATOMIC_ACQ_REL);
    *kernel = o;
    return NULL;
}

static void destroy(void *kernel) {
    operator *o = kernel;
    free(o->network);
    free(o);
    if (__atomic_sub_fetch(&operators, 1, __ATOMIC_ACQ_REL) == 0) scratch_free_all();
}

typedef struct { const OrtApi *api; OrtKernelContext *context; } session_pool;

static void run_parts(void *pool, void (*task)(void *, unsigned long), unsigned long parts, void *arguments) {
    const session_pool *s = pool;
    const OrtApi *api = s->api;
    if (KernelContext_ParallelFor(s->context, task, parts, 0, arguments)) /* not started: run them in turn */
        for (unsigned long part = 0; part < parts; part++) task(arguments, part);
}

enum { MOST_PIXELS = 1 << 26 }; /* of an image: offsets of pixels are integers */

enum { LOOKS = 4, MEETING_NS = 2000000 };
typedef struct { int present, most, closed; } meeting;

/* Counts the parts that run at the same time within 2 ms: the API does not expose the number of threads of a session. */
static void meet(void *arguments, unsigned long part) {
    (void)part;
    meeting *m = arguments;
    struct timespec start, now;
    const int present = __atomic_add_fetch(&m->present, 1, __ATOMIC_ACQ_REL);
    for (int most = __atomic_load_n(&m->most, __ATOMIC_ACQUIRE); most < present;)
        if (__atomic_compare_exchange_n(&m->most, &most, present, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) break;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (!__atomic_load_n(&m->closed, __ATOMIC_ACQUIRE) && __atomic_load_n(&m->most, __ATOMIC_ACQUIRE) < MOST_THREADS) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec >= MEETING_NS)
            __atomic_store_n(&m->closed, 1, __ATOMIC_RELEASE);
    }
    __atomic_fetch_sub(&m->present, 1, __ATOMIC_ACQ_REL);
}

/* Counts in the first few runs, since a thread may have been busy. */
static int count_threads(operator *o, session_pool *pool) {
    if (__atomic_load_n(&o->looked, __ATOMIC_RELAXED) < LOOKS) {
        meeting m = {0, 1, 0};
        run_parts(pool, meet, MOST_THREADS, &m);
        __atomic_fetch_add(&o->looked, 1, __ATOMIC_RELAXED);
        if (m.most > __atomic_load_n(&o->threads, __ATOMIC_RELAXED)) __atomic_store_n(&o->threads, m.most, __ATOMIC_RELAXED);
    }
    return __atomic_load_n(&o->threads, __ATOMIC_RELAXED);
}

typedef struct {
    operator *o;
    size of;
    const float *images;
    float *out;
    long image_floats, out_floats;
    unsigned long scratch_bytes;
    const workers *w;
    int failed;
} images_task;

static void run_image(void *arguments, unsigned long n) {
    images_task *a = arguments;
    void *scratch = scratch_borrow(a->scratch_bytes);
    if (!scratch) {
        __atomic_store_n(&a->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const float *image = a->images + n * a->image_floats;
    a->o->kernels->run(a->o->network, image, a->of, scratch, a->out + n * a->out_floats, a->w);
    scratch_give_back(scratch);
}

/* The size in the last block; without pixels if one of the blocks has none. */
static size last_size(const dense_network *n, size image) {
    size now = size_after_stem(&n->stem, image);
    for (int b = 1; b < n->blocks; b++) now = (size){now.height / 2, now.width / 2};
    return now.height < 1 || now.width < 1 ? (size){0, 0} : now;
}

static OrtStatus *shape_output(const OrtApi *api, const dense_network *n, size last, OrtKernelContext *context,
                               int64_t images, tensor *out) {
    const dense_block *b = &n->block[n->blocks - 1];
    const int half = b->pool == POOL_AVERAGE;
    const int64_t channels = n->classifier.classes ? n->classifier.classes : b->features;
    const int64_t shape[4] = {images, channels, last.height / (1 + half), last.width / (1 + half)};
    OrtValue *value;
    TRY(KernelContext_GetOutput(context, 0, shape, b->pool == POOL_GLOBAL ? 2 : 4, &value));
    return look_at(api, value, out);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    operator *o = kernel;
    const OrtApi *api = o->api;
    const dense_network *n = o->network;
    const OrtValue *value;
    tensor in, out;
    TRY(KernelContext_GetInput(context, 0, &value));
    TRY(look_at(api, value, &in));
    if (in.rank != 4 || in.shape[1] != (n->stem.outs ? n->stem.channels : n->block[0].inputs) || in.shape[2] < 1 ||
        in.shape[3] < 1 || in.shape[2] > 1 << 15 || in.shape[3] > 1 << 15 || in.shape[2] * in.shape[3] > MOST_PIXELS)
        return refuse(api, "DenseBlock: the shape of the features does not fit the block");
    const size of = {(int)in.shape[2], (int)in.shape[3]}, last = last_size(n, of);
    if (!last.height) return refuse(api, "DenseBlock: the images are too small for the blocks");
    TRY(shape_output(api, n, last, context, in.shape[0], &out));
    if (in.shape[0] == 0) return NULL;
    session_pool pool = {api, context};
    const int threads = count_threads(o, &pool), shared = threads > 1 && in.shape[0] == 1;
    const workers w = {run_parts, &pool, threads};
    images_task task = {o, of, in.data, out.data, (long)(in.count / in.shape[0]), (long)(out.count / in.shape[0]),
                        o->kernels->scratch_bytes(n, of, shared ? threads : 1), shared ? &w : NULL, 0};
    if (threads > 1 && in.shape[0] > 1) run_parts(&pool, run_image, in.shape[0], &task);
    else for (int64_t i = 0; i < in.shape[0]; i++) run_image(&task, i);
    return task.failed ? refuse(api, "DenseBlock: no memory") : NULL;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "DenseBlock"; }
static const char *provider(const OrtCustomOp *op) { return (void)op, NULL; } /* the CPU's */
static int input_type(const OrtCustomOp *op, size_t i) { return (void)op, i == 1 ? ORT_INT64 : ORT_FLOAT; }
static int output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static size_t three(const OrtCustomOp *op) { return (void)op, 3; }
static size_t one(const OrtCustomOp *op) { return (void)op, 1; }
static int required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int in_memory(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_DEFAULT_MEMORY; }
static int not_variadic(const OrtCustomOp *op) { return (void)op, 1; }
static int first_version(const OrtCustomOp *op) { return (void)op, 1; }
static int last_version(const OrtCustomOp *op) { return (void)op, INT32_MAX; }

static const OrtCustomOp dense_block_operator = {
    .version = ORT_VERSION,
    .GetName = name,
    .GetExecutionProviderType = provider,
    .GetInputType = input_type,
    .GetInputTypeCount = three,
    .GetOutputType = output_type,
    .GetOutputTypeCount = one,
    .KernelDestroy = destroy,
    .GetInputCharacteristic = required,
    .GetOutputCharacteristic = required,
    .GetInputMemoryType = in_memory,
    .GetVariadicInputMinArity = not_variadic,
    .GetVariadicInputHomogeneity = not_variadic,
    .GetVariadicOutputMinArity = not_variadic,
    .GetVariadicOutputHomogeneity = not_variadic,
    .CreateKernelV2 = create,
    .KernelComputeV2 = compute,
    .GetStartVersion = first_version,
    .GetEndVersion = last_version,
};

/* The entry point of a custom operator library. The domain is made once and never freed, since sessions use it. */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static OrtCustomOpDomain *kept;
    const OrtApi *api = base->GetApi(ORT_VERSION);
    if (!api) return NULL; /* an older runtime, which will report an unknown operator */
    OrtCustomOpDomain *domain = __atomic_load_n(&kept, __ATOMIC_ACQUIRE);
    if (!domain) {
        TRY(CreateCustomOpDomain("condensenet", &domain));
        TRY(CustomOpDomain_Add(domain, &dense_block_operator));
        __atomic_store_n(&kept, domain, __ATOMIC_RELEASE);
    }
    return AddCustomOpDomain(options, domain);
}

__attribute__((visibility("default"))) const char *source_digest(void) { return SOURCE_DIGEST; }
