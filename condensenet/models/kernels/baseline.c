#include "../../simd/baseline.h"
#include "bodies.h"
