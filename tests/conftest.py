"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspaces import prefect_server, served_stub, stub, stub_origin  # noqa: F401

# A shell lets what it runs in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parents[1]


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
