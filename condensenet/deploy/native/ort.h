/* The part of ONNX Runtime's C API that one operator needs, since the Python package comes without headers. The API is
   a table of functions that only grows: an entry keeps its index in all versions. Source: onnxruntime_c_api.h, struct
   OrtApi and struct OrtCustomOp, of version 17 and later. */

#ifndef CONDENSENET_ORT_H
#define CONDENSENET_ORT_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_VERSION = 17 }; /* the first with ParallelFor; ONNX Runtime 1.17 */
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_FLOAT = 1, ORT_INT64 = 7, ORT_REQUIRED = 0, ORT_DEFAULT_MEMORY = 0 };

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtApi { void *entry[275]; } OrtApi;
typedef struct { const OrtApi *(*GetApi)(uint32_t); const char *(*GetVersionString)(void); } OrtApiBase;

#define ORT(place, result, ...) ((result(*)(__VA_ARGS__))api->entry[place])
#define CreateStatus ORT(0, OrtStatus *, int, const char *)
#define CreateCustomOpDomain ORT(26, OrtStatus *, const char *, OrtCustomOpDomain **)
#define CustomOpDomain_Add ORT(27, OrtStatus *, OrtCustomOpDomain *, const OrtCustomOp *)
#define AddCustomOpDomain ORT(28, OrtStatus *, OrtSessionOptions *, OrtCustomOpDomain *)
#define GetTensorMutableData ORT(51, OrtStatus *, const OrtValue *, void **)
#define GetDimensionsCount ORT(61, OrtStatus *, const OrtTensorTypeAndShapeInfo *, size_t *)
#define GetDimensions ORT(62, OrtStatus *, const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)
#define GetTensorTypeAndShape ORT(65, OrtStatus *, const OrtValue *, OrtTensorTypeAndShapeInfo **)
#define KernelContext_GetInput ORT(90, OrtStatus *, const OrtKernelContext *, size_t, const OrtValue **)
#define KernelContext_GetOutput ORT(91, OrtStatus *, OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)
#define ReleaseTensorTypeAndShapeInfo ORT(99, void, OrtTensorTypeAndShapeInfo *)
#define KernelInfoGetConstantInput_tensor ORT(249, OrtStatus *, const OrtKernelInfo *, size_t, int *, const OrtValue **)
#define KernelContext_ParallelFor \
    ORT(274, OrtStatus *, const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)

typedef struct OrtCustomOp OrtCustomOp;
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, void *);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
    void *later[4]; /* entries of later versions, not read by this one */
};

#endif
