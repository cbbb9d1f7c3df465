#include "../../simd/baseline.h"
#include "kernels.h"
