"""What is looked at in a pickle before it is unpickled."""

from __future__ import annotations

import io
import pickletools
from typing import BinaryIO

from condensenet.config.checks import require
from condensenet.models.archives import open_archive

MAX_TUPLES = 100  # inside each other: those of a tensor are three
LEGACY_PICKLES = 5  # of torch's format before 1.6: magic number, version, system, the content, names of storages
TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
READS = ("GET", "BINGET", "LONG_BINGET")
WRITES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")


def check_pickles(data: bytes) -> None:
    """Raise ``ValueError`` for a ``torch.save`` file whose archive or pickle is broken, or whose tuples are too deep.

    A tuple of tuples 200,000 deep is 200 kB, and its hash recurses in C until the stack ends, and the process with it.
    """
    archive = open_archive(data)
    if archive is None:
        file = io.BytesIO(data)
        for _ in range(LEGACY_PICKLES):
            if file.tell() < len(data):
                check_pickle(file)
        return
    with archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith("data.pkl"):  # torch's reader of archives ignores case
                with archive.open(entry) as inner:
                    check_pickle(io.BytesIO(inner.read()))


def check_pickle(file: BinaryIO) -> None:
    """Read one pickle, up to its end. Of what is on the unpickler's stack only the depth of tuples is followed."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in WRITES:
            memo[len(memo) if argument is None else argument] = stack[-1] if stack else 0
            continue
        if name in READS:
            stack.append(memo.get(argument, 0))
            continue
        if name == "MARK":
            marks.append(len(stack))
            continue
        depth = _pop(opcode, stack, marks) + (name in TUPLES)
        require(depth <= MAX_TUPLES, f"more than {MAX_TUPLES} tuples are inside each other")
        stack.extend([depth] * len(opcode.stack_after))


def _pop(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> int:
    """Take what ``opcode`` takes off the stack; the largest of its depths."""
    before = opcode.stack_before
    start = len(stack)
    if pickletools.markobject in before:
        require(bool(marks), f"the pickle is broken: {opcode.name} without MARK")
        start = marks.pop()
    start -= sum(item not in (pickletools.markobject, pickletools.stackslice) for item in before)
    require(start >= 0, f"the pickle is broken: {opcode.name} takes more than there is")
    depth = max(stack[start:], default=0)
    del stack[start:]
    return depth
