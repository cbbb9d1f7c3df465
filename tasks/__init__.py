"""The stages of the pipeline: one module a stage, run as `python -m tasks.<verb> [setting]`."""
