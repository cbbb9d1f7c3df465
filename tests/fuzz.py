"""Try hostile input for a while: `make fuzz`

    python -m tests.fuzz --sanitized build/sanitized --seconds 1800

First all tests of the compiled parts run once with the sanitized libraries, which takes some minutes more. Then every
test that generates its input gets an equal part of the time, two of them at once; those that generate ONNX files use
the sanitized libraries too. What was found is in `.hypothesis`, so the test finds it again at once. Exits with 1 if
anything was found.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FUZZED = (
    "tests/params/test_params_fuzzed.py",
    "tests/library/test_model_files.py",
    "tests/library/test_plans_fuzzed.py",
    "tests/library/test_text.py",
    "tests/library/test_image_files.py",
    "tests/library/test_interop_configuration.py",
    "tests/library/test_authors_files_fuzzed.py",
    "tests/stages/test_parquet_fuzzed.py",
    "tests/library/test_convert.py",
    "tests/library/test_data_resident.py",
    "tests/library/test_interop.py",
    "tests/library/test_interop_saving.py",
    "tests/library/test_lowering.py",
    "tests/library/test_models.py",
)
FUZZED_COMPILED = ("tests/library/test_onnx_fuzzed.py", "tests/library/test_native.py")
COMPILED = ("tests/library/test_fused.py", *FUZZED_COMPILED)
AT_ONCE = 2
USED = """
import sys
from condensenet.deploy import runtime
from condensenet.models import kernels
print(runtime.operator_library() is not None, kernels.available(), sep="\\n")
print(kernels.__file__, file=sys.stderr)
"""
REPORT = ("-q", "--no-header", "--durations=3", "-p", "no:cacheprovider")
PYTEST = (sys.executable, "-m", "pytest", *REPORT)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", allow_abbrev=False)
    parser.add_argument("--sanitized", type=Path, required=True, help="the library with sanitized compiled parts")
    parser.add_argument("--seconds", type=float, required=True, help="for all that generate their input")
    options = parser.parse_args()
    compiled = sanitized(options.sanitized)
    check_used(options.sanitized, compiled)
    print("the tests of the compiled parts, with sanitizers", flush=True)
    if subprocess.run([*PYTEST, f"-opythonpath={options.sanitized}", *COMPILED], env=compiled, check=False).returncode:
        sys.exit("error: the sanitizers or the tests found something")
    tests = [(each, dict(os.environ)) for each in generating(FUZZED)]
    tests += [(each, compiled) for each in generating(FUZZED_COMPILED)]
    share_s = options.seconds * AT_ONCE / len(tests)
    print(f"{len(tests)} tests that generate their input, {share_s:.0f} s for each", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = sum(pool.map(lambda test: try_for(*test, share_s), tests))
    if found:
        sys.exit(f"error: {found} tests found something: keep it as an @example")
    print("nothing was found")


def sanitized(library: Path) -> dict[str, str]:
    """The environment in which Python uses ``library``."""
    runtimes = [_path_of(name) for name in ("libasan.so", "libstdc++.so")]  # torch throws across the first
    options = "detect_leaks=0:alloc_dealloc_mismatch=0:new_delete_type_mismatch=0:allocator_may_return_null=1"
    return {
        **os.environ,
        "PYTHONPATH": str(library.absolute()),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def check_used(library: Path, environment: Mapping[str, str]) -> None:
    """Exits if Python would use other compiled parts, or none: the tests would be skipped, or find nothing."""
    done = subprocess.run(
        [sys.executable, "-c", USED], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    if done.stdout.splitlines() != ["True", "True"] or not done.stderr.startswith(str(library.absolute())):
        sys.exit(f"error: {library} is not in use, or not compiled: {done.stdout}{done.stderr}")


def _path_of(name: str) -> str:
    done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def generating(files: tuple[str, ...]) -> list[str]:
    """The tests of ``files`` that hypothesis drives."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "hypothesis", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def try_for(test: str, environment: Mapping[str, str], seconds: float) -> bool:
    """Whether ``test`` failed within ``seconds``."""
    library = environment.get("PYTHONPATH", ".").split(os.pathsep)[0]
    command = [*PYTEST, f"-opythonpath={library}", test]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**environment, "HYPOTHESIS_PROFILE": "fuzz"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        failed = process.returncode != 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
        # Perhaps it was just making an example smaller: what it had found until then it finds again.
        done = subprocess.run(
            command, env={**environment, "HYPOTHESIS_PROFILE": "found"}, capture_output=True, text=True, check=False
        )
        output, failed = done.stdout, done.returncode != 0
    print(f"{time.monotonic() - began:6.0f} s  {test}{'  FAILED' if failed else ''}", flush=True)
    if failed:
        print(output, flush=True)
    return failed


if __name__ == "__main__":
    main()
