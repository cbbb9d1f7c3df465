"""Text from outside (file names, class names, parameters) in messages and reports: one line, no control codes.

Nothing here imports torch.
"""

from __future__ import annotations

MAX_SHOWN = 200  # characters of a value in a message
MAX_BITS = 1000  # of an integer that is written out; Python refuses to write very long ones


def escaped(text: str) -> str:
    r"""``text`` with an escape, such as ``\n``, ``\x1b`` or ``\u202e``, for every character that is not printable.

    Printable is what ``str.isprintable`` says: no line breaks, no control characters, none that change the direction of
    writing, no lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(value: object) -> str:
    """``repr`` of a value in one line, cut off after 200 characters; an integer of more than 1000 bits by its size."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"<an integer of {value.bit_length()} bits>"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # such an integer inside, or lists within lists
        return f"<a {type(value).__name__}>"
    return escaped(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def message_of(error: BaseException) -> str:
    """The message of an error in one printable line; its type if it has none."""
    return escaped(" ".join(str(error).split())) or type(error).__name__
