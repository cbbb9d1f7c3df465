"""The stages of the pipeline: one module per stage, run as `python -m tasks.<verb> [setting]`."""
