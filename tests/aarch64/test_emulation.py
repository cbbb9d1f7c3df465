"""If the emulated machine cannot be made, one line says so and nothing is left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import emulation
import pytest


def test_a_machine_without_the_tools_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(emulation.Unavailable, match="only on x86-64 Linux with apt-get and dpkg-deb"):
        emulation.emulator(tmp_path / "cache")


@pytest.mark.parametrize(
    ("seconds", "command", "message"),
    [
        (5, ("sh", "-c", "echo first >&2; echo mirror away >&2; exit 100"), "sh failed: mirror away"),
        (0.2, ("sleep", "30"), "sleep: .*timed out"),
        (5, ("no-such-program",), "no-such-program"),
    ],
)
def test_a_command_that_fails_or_takes_too_long_leaves_nothing_half_made(
    seconds: float, command: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(emulation, "SETUP_S", seconds)

    def make(root: Path, deadline: emulation.Deadline) -> None:
        (root / "half").touch()
        deadline.run(*command)

    with pytest.raises(emulation.Unavailable, match=message) as caught:
        emulation._made(tmp_path / "cache/system", make)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_what_is_made_once_is_not_made_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(root: Path, _: emulation.Deadline) -> None:
        made.append(root)
        (root / "complete").touch()

    for _ in range(2):
        assert (emulation._made(tmp_path / "cache/system", make) / "complete").exists()
    assert len(made) == 1


def test_an_error_inside_the_emulation_is_reported(emulated: emulation.Emulator) -> None:
    assert emulated.python("-c", "import platform; print(platform.machine())") == "aarch64\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        emulated.python("-c", "1 / 0")
    with pytest.raises(subprocess.TimeoutExpired):
        emulated.python("-c", "import time; time.sleep(30)", timeout=2)
