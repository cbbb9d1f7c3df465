"""Text from outside stays in one printable line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condensenet.data.manifest import Manifest
from condensenet.text import escaped, message_of, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zéro, 北京 x", "zéro, 北京 x"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("line\u2028separator", r"line\u2028separator"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_is_not_printable_becomes_an_escape(text, expected):
    assert escaped(text) == expected
    assert escaped(expected) == expected


def test_a_message_is_one_printable_line_and_never_empty():
    assert message_of(ValueError("two\n  lines\t\x1b[31m")) == r"two lines \x1b[31m"
    assert message_of(ValueError()) == message_of(ValueError(" \n")) == "ValueError"


@given(st.text())
def test_any_text_becomes_printable(text):
    assert escaped(text).isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\n", r"'a\n'"),
        (10**30, str(10**30)),
        (10**5000, "<an integer of 16610 bits>"),
        ([10**5000], "<a list>"),
        ("x" * 300, "'" + "x" * 199 + "..."),
    ],
    ids=range(5),
)
def test_values_in_messages(value, expected):
    assert shown(value) == expected


def test_class_names_of_prepared_images_are_escaped(tmp_path):
    manifest = Manifest(
        name="name",
        classes=("a\nb", "\x1b[0m"),
        encoding="raw",
        image_size=8,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        splits={"train": 1, "validation": 0, "test": 1},
        fingerprint="0",
        files={},
        corrupt=("\u202e.jpg",),
    )
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(manifest.to_json())))
    loaded = Manifest.load(path)
    assert loaded.classes == (r"a\nb", r"\x1b[0m")
    assert loaded.corrupt == (r"\u202e.jpg",)
