"""Time ONNX files on this machine: ``python -m condensenet.deploy.latency model.onnx [FILE ...]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from condensenet.deploy.latency.measure import MIN_RUNS, WARMUP
from condensenet.deploy.latency.time_files import describe, time_files
from condensenet.text import message_of


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: JSON on standard output, a summary on standard error."""
    options = _arguments(arguments)
    names = [str(path) for path in options.models]
    try:
        facts = time_files(
            dict(zip(names, options.models, strict=True)),
            yardstick=options.yardstick,
            batch_sizes=options.batch,
            threads=options.threads,
            runs=options.runs,
            warmup=options.warmup,
        )
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {message_of(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    for line in describe(facts):
        print(line, file=sys.stderr)
    print(json.dumps(facts, indent=1))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m condensenet.deploy.latency",
        description="Time ONNX files on this machine in turn with MobileNetV1; JSON on standard output.",
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="FILE", help="ONNX files with the same input size")
    parser.add_argument("--yardstick", type=Path, metavar="FILE", help="your own MobileNetV1 for the same images")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 0], help="0: all usable cores (default: 1 0)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="batch sizes (default: 1)")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help=f"measured rounds, {MIN_RUNS} or more")
    parser.add_argument("--warmup", type=int, default=WARMUP, help="rounds before those (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
