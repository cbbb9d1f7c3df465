/* All kernels, for the instruction set that the file which includes this was made for. */

#include "conv3x3.h"
#include "pointwise.h"
#include "pooling.h"
#include "rows.h"
