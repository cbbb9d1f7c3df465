"""The report's figures: error against cost and latency, training curves, maps of kept connections."""
