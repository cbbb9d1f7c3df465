"""A dense block and its pooling as single operations in training on a CPU, where the compiled kernels can do them."""

from condensenet.models.fused.block import fused_average_pool, fused_dense_block
from condensenet.models.fused.conditions import can_fuse_block, can_fuse_pool

__all__ = ["can_fuse_block", "can_fuse_pool", "fused_average_pool", "fused_dense_block"]
