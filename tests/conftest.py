"""Fixtures that all tests share, and the mark of the fast ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from workspaces import prefect_server, served_stub, stub, stub_origin  # noqa: F401

# A shell lets what it runs in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# With one process a core (pytest-xdist) more threads only get in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is generated must be dealt with in 10 s each, and what may be hostile in 2 GB (bounds.py). `make fuzz` tries many
# more: HYPOTHESIS_PROFILE=fuzz.
settings.register_profile("suite", deadline=10_000, max_examples=40)
settings.register_profile("fuzz", deadline=10_000, max_examples=20_000, print_blob=True)
settings.register_profile("found", parent=settings.get_profile("fuzz"), phases=[Phase.explicit, Phase.reuse])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

TESTS = Path(__file__).resolve().parent
CHECKOUT = TESTS.parent

# What `make test-fast` runs: no Ray, no Prefect, no server. Single tests in it opt out by the mark `slow`.
FAST = (
    "library/*",
    "golden/*",
    "cli/test_help.py",
    "cli/test_commands.py",
    "cli/test_dataset.py",
    "params/*",
    "report/*",
    "cluster/test_cluster_files.py",
    "cluster/test_operators_page.py",
    "docs/test_front_page.py",
    "docs/test_library_page.py",
    "docs/test_typed_commands.py",
)


def _is_fast(path: Path) -> bool:
    return any(path.relative_to(TESTS).match(pattern) for pattern in FAST)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m fast`` the other files are not even imported: Ray and MLflow take seconds."""
    other = config.option.markexpr == "fast" and collection_path.suffix == ".py" and not _is_fast(collection_path)
    return True if other else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_fast(item.path) and not item.get_closest_marker("slow"):
            item.add_marker("fast")


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs and real images that stand beside the checkout; users do not have them."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data beside the checkout (../shared) is not here")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small networks, and so that bits do not depend on the machine's cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
