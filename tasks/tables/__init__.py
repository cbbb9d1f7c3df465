"""The paper's FLOPs and latency tables at full size, counted and timed on this machine; no training is needed."""
