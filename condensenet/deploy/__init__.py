"""A trained network made ready for use: converted, counted, exported, made fast and timed."""
