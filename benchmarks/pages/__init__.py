"""The tables and the picture of README.md, docs/RESULTS.md and docs/PAPER.md, which ``benchmarks.results`` writes."""
