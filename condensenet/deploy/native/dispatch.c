/* Which of the instruction sets this CPU has. */

#include "../../simd/lanes.h"
#include "block.h"

extern const dense_kernels dense_kernels_16, dense_kernels_8, dense_kernels_4;

const dense_kernels *dense_kernels_of_this_cpu(void) {
    const int lanes = widest_lanes();
    (void)lanes;
#if defined(__x86_64__)
    if (lanes == 16) return &dense_kernels_16;
    if (lanes == 8) return &dense_kernels_8;
#endif
    return &dense_kernels_4;
}
