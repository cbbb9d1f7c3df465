"""What can be said of docs/OPERATORS.md without running its commands, which `make operators-test` does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from operators import LEFT_OUT, SERVERS, Places, Step, steps

KNOWN_TO_READERS = {"<secret>", "<...>"}  # in comments: what to replace in a file


@pytest.fixture(scope="module")
def page(checkout: Path) -> list[Step]:
    return list(steps((checkout / "docs" / "OPERATORS.md").read_text()))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, "127.0.0.1:1", "secret", lambda: "0123")


def test_the_commands_are_found_with_continued_lines_joined() -> None:
    document = "## One\n```sh\na b \\\n  c\nd\n```\n```python\nno\n```\ntext\n## Two\n```sh\ne\n```\n"
    assert list(steps(document)) == [Step("One", "a b \\\n  c"), Step("One", "d"), Step("Two", "e")]


def test_every_rule_of_the_script_is_about_a_command_of_the_page(page: list[Step], places: Places) -> None:
    assert len(page) > 50
    for rule in (*LEFT_OUT, *SERVERS):
        assert any(re.search(rule, step.command) for step in page), rule
    for name in places.names:
        assert any(name in step.command for step in page), name


def test_every_placeholder_is_filled_in(page: list[Step], places: Places) -> None:
    for step in page:
        if not any(re.search(rule, step.command) for rule in LEFT_OUT):
            left = set(re.findall(r"<[a-z][a-z ]*>", places.fill_in(step.command))) - KNOWN_TO_READERS
            assert not left, step.command


def test_every_command_is_one_that_bash_can_read(page: list[Step], places: Places) -> None:
    script = "\n".join(re.sub(r"<[a-z. ]+>", "x", step.command) for step in page)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_every_target_of_make_and_file_that_is_named_exists(page: list[Step], checkout: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (checkout / "Makefile").read_text(), re.MULTILINE))
    text = (checkout / "docs" / "OPERATORS.md").read_text()
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    named = {
        name for step in page for name in re.findall(r"cluster/[\w./-]+\.(?:yaml|json|sbatch|example)", step.command)
    }
    made = {"cluster/kubernetes/secret.yaml"}
    assert len(named) > 6
    assert all((checkout / name).is_file() for name in named - made)
