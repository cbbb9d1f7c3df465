"""Tiny networks gain nothing from several threads: each test runs with one, unless it asks for more."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass
