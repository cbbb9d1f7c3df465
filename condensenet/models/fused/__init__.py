"""Dense blocks and average pooling as single operations for training on a CPU, by the compiled kernels."""

from condensenet.models.fused.block import fused_average_pool, fused_dense_block
from condensenet.models.fused.conditions import can_fuse_block, can_fuse_pool

__all__ = ["can_fuse_block", "can_fuse_pool", "fused_average_pool", "fused_dense_block"]
