"""Exit with 0 if an HTTP server answers with success. The image has no curl.

python -m cluster.healthcheck http://127.0.0.1:5000/health
"""

from __future__ import annotations

import sys
import urllib.request

TIMEOUT_S = 5.0


def main() -> None:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=TIMEOUT_S).close()
    except (OSError, ValueError, IndexError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
