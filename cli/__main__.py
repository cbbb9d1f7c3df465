"""``python -m cli``: the same as ``condensenet``."""

from cli.main import main

main()
