"""Exit with 0 if an HTTP server answers with success. The image has no curl.

python -m cluster.healthcheck http://127.0.0.1:5000/health
"""

from __future__ import annotations

import argparse
import sys
import urllib.request

TIMEOUT_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.healthcheck", description=__doc__.splitlines()[0])
    parser.add_argument("url", metavar="URL")
    url = parser.parse_args().url
    try:
        urllib.request.urlopen(url, timeout=TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
