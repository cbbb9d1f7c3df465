"""The zip archives that torch writes, read so that torch's reader and Python's see the same records."""

from __future__ import annotations

import io
import struct
import zipfile

from condensenet.config.checks import require

START = b"PK\3\4"  # by these bytes torch takes a file for an archive, whatever is at its end
END = struct.Struct("<4s4H2LH")  # the last bytes of an archive: numbers 5 and 6 are the directory's size and offset
LOCATOR = struct.Struct("<4sLQL")  # before them, in an archive with 64-bit offsets: number 2 is the next one's offset
END_64 = struct.Struct("<4sQ2H2L4Q")  # and before that: numbers 8 and 9 are the directory's size and offset
MAX_32 = 2**32 - 1  # where only the 64-bit end has room
END_MARK, LOCATOR_MARK, END_64_MARK = b"PK\5\6", b"PK\6\7", b"PK\6\6"


def open_archive(data: bytes) -> zipfile.ZipFile | None:
    """The archive in a ``torch.save`` file, None for the format before torch 1.6.

    Raises ``ValueError`` if its records are compressed, which torch's never are and which would let a small file stand
    for a thousand times its size, or if the directory is not where both readers look for it.
    """
    if not data.startswith(START):
        return None
    _check_end(data)
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    require(sum(entry.file_size for entry in entries) <= len(data), "it is compressed")
    require(all(entry.filename == entry.orig_filename for entry in entries), "a name in it has a zero byte")
    return archive


def _check_end(data: bytes) -> None:
    """The directory ends where the records of the end begin, and nothing but padding with zeros follows those.

    Python looks for the 64-bit end right before its locator, torch where the locator says: there they may be two.
    """
    message = "its directory is not at its end"
    at = data.rfind(END_MARK)
    require(0 <= at <= len(data) - END.size and not data[at + END.size :].strip(b"\0"), message)
    _, _, _, _, _, size, offset, _ = END.unpack_from(data, at)
    if at >= LOCATOR.size + END_64.size and data.startswith(LOCATOR_MARK, at - LOCATOR.size):
        _, _, located, _ = LOCATOR.unpack_from(data, at - LOCATOR.size)
        at -= LOCATOR.size + END_64.size
        require(located == at and data.startswith(END_64_MARK, at), message)
        size_32, offset_32 = size, offset
        *_, size, offset = END_64.unpack_from(data, at)
        require(size_32 in (size, MAX_32) and offset_32 in (offset, MAX_32), message)
    require(offset + size == at, message)
