"""Prepared images on nodes that do not see the checkout: uploaded once, and kept in a folder of limited size.

The stage uploads them to the object store under their fingerprint. A node that has the same images where the stage has
them reads those. Any other downloads them, once for all its workers and trainings, to ``CONDENSENET_CACHE`` (default:
``~/.cache/condensenet``), which holds at most ``CONDENSENET_CACHE_GB`` of them (default: 300), and no more than its
disk has room for; what was not used for the longest time is removed first, and nothing that a training uses. A download
that failed or was killed goes on at the file. If not all images fit, the node reads those that it needs when it needs
them, and keeps as many as fit; raw ones, which are read as memory, must fit. What others use is counted when a training
starts: two at once that read different images one by one may exceed the limit together.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from condensenet.data.manifest import MANIFEST, FileEntry, Manifest
from condensenet.data.shards import sync_and_close, write
from condensenet.file_locks import lock, try_lock
from condensenet.files import write_atomically
from tasks import environment
from tasks.console import progress, say, size
from tasks.object_store import ObjectStore, allow_requests
from tasks.remote_images import RemoteImages, disk_bytes

if TYPE_CHECKING:
    from condensenet.data import PreparedData

CACHE, LIMIT = "CONDENSENET_CACHE", "CONDENSENET_CACHE_GB"
DEFAULT_LIMIT_GB = 300.0
GB = 10**9
LOCK = ".lock"  # suffix of the file whose time says when the folder beside it was last used
DOWNLOAD = ".download"  # suffix of the file that the one that downloads has locked
PARTIAL = ".partial"
REMOTE = "remote.txt"  # in a folder without its images: where they are
REMOTE_THREADS = 8  # that load images for each that decodes: most of them wait for the store
ROOM = "making-room"
FREE_SHARE = 0.95  # of the disk's free space that images may take: others write there too


def upload(data: Path, manifest: Manifest, store: ObjectStore) -> ObjectStore:
    """Where ``store`` holds the images in the folder ``data``; files that are there already are not sent."""
    target = store.within(f"data/{manifest.fingerprint}")
    if target.exists(MANIFEST):
        return target
    present = target.sizes()  # an object is there as a whole or not at all
    missing = [name for name, entry in manifest.files.items() if present.get(name) != entry.bytes]
    say(f"uploading {size(_total_bytes(manifest, missing))} of prepared images to {target}")
    total = len(manifest.files)
    for name in progress(missing, total, "upload", done=total - len(missing), units="files"):
        target.upload(data / name, name)
    target.upload(data / MANIFEST, MANIFEST)  # last: with it they are complete
    return target


@contextmanager
def on_this_node(data: Path, store: ObjectStore | None) -> Iterator[Path]:
    """A folder of the images in ``store``: ``data`` if it has the same, else one in the cache, locked meanwhile.

    It may be one without the images, see ``open_data``. Raises ``ValueError`` if they cannot be kept, or a downloaded
    file is not what was prepared.
    """
    if store is None or _fingerprint(data) == store.path.rpartition("/")[2]:
        yield data
        return
    folder = _cache_folder() / store.path.rpartition("/")[2]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(LOCK).open("a+") as file:
        lock(file, shared=True)  # all who use it hold it so; who wants it alone would wait until their trainings end
        _ensure_downloaded(store, folder)
        os.utime(file.fileno())
        yield folder


def open_data(folder: Path) -> PreparedData:
    """The images of a folder that ``on_this_node`` gave."""
    from condensenet.data import PreparedData  # needs torch

    if not is_remote(folder):
        return PreparedData(folder)
    store = ObjectStore((folder / REMOTE).read_text())
    with _counting(folder.parent):
        others_gb = sum(_folder_gb(each) for each in _all_folders(folder.parent) if each != folder)
        limit = (_room_gb(folder.parent) - others_gb) * GB
    return PreparedData(folder, RemoteImages(folder, store, Manifest.load(folder / MANIFEST), limit))


def is_remote(folder: Path) -> bool:
    """Whether its images are read from the store one by one."""
    return (folder / REMOTE).exists()


def loader_threads(folder: Path, decoding_threads: int) -> int:
    """The threads that load the images of ``folder``; if they ask the store, all of them may at once."""
    if not is_remote(folder):
        return decoding_threads
    threads = REMOTE_THREADS * decoding_threads
    allow_requests(threads)
    return threads


def size_gb(manifest: Manifest) -> float:
    return _total_bytes(manifest, manifest.files) / GB


def _total_bytes(manifest: Manifest, names: Iterable[str]) -> int:
    return sum(manifest.files[name].bytes for name in names)


def _fingerprint(folder: Path) -> str | None:
    with suppress(OSError, ValueError):
        return Manifest.load(folder / MANIFEST).fingerprint
    return None


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "condensenet") / "data"


def _limit_gb() -> float:
    return environment.gigabytes(LIMIT, DEFAULT_LIMIT_GB)


def _ensure_downloaded(store: ObjectStore, folder: Path) -> None:
    with folder.with_suffix(DOWNLOAD).open("a") as file:
        lock(file)  # one of those who use it
        if folder.exists():
            _note_store(folder, store)
        else:
            _download(store, folder)


def _download(store: ObjectStore, folder: Path) -> None:
    """Fill ``folder``, which appears when it is complete and on disk: nobody looks into it again."""
    partial, content = folder.with_suffix(PARTIAL), store.read(MANIFEST)
    with _counting(folder.parent):
        partial.mkdir(exist_ok=True)  # an earlier attempt may have left it
        (partial / REMOTE).unlink(missing_ok=True)
        write(partial / MANIFEST, content)
        files = _choose_files(store, partial)
        for path in partial.iterdir():
            if path.name not in {*files, MANIFEST, REMOTE}:
                path.unlink()
    _fetch(store, partial, files)
    with _counting(folder.parent):
        partial.rename(folder)


def _choose_files(store: ObjectStore, partial: Path) -> dict[str, FileEntry]:
    """Make room for the files that the manifest in ``partial`` names: for all, or for those without images."""
    manifest = Manifest.load(partial / MANIFEST)
    used_gb, room_gb = _make_room(partial.parent)
    if used_gb <= room_gb:
        return dict(manifest.files)
    if manifest.encoding == "raw":
        shutil.rmtree(partial)
        raise ValueError(_too_little(partial.parent, used_gb, room_gb))
    write(partial / REMOTE, store.path.encode())
    return {name: entry for name, entry in manifest.files.items() if name not in manifest.all_images_files}


def _fetch(store: ObjectStore, partial: Path, files: Mapping[str, FileEntry]) -> None:
    """Download those of ``files`` that an earlier attempt has not left whole."""
    total = len(files)
    looked_at = progress(files.items(), total, "looking at what was downloaded", units="files")
    missing = {name: entry for name, entry in looked_at if not _is_whole(partial / name, entry)}
    say(f"downloading {size(sum(entry.bytes for entry in missing.values()))} of prepared images from {store}")
    for name in progress(missing, total, "download", done=total - len(missing), units="files"):
        if _download_file(store, name, partial / name) != missing[name].sha256:
            raise ValueError(f"{store}/{name} differs from what was prepared: delete {store} to upload it again")


def _is_whole(path: Path, entry: FileEntry) -> bool:
    """Whether ``path`` has the content of ``entry``, which then is on disk."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != entry.bytes:
            return False
        if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
            os.fsync(file.fileno())  # who wrote it may have been killed before
            return True
    return False


def _note_store(folder: Path, store: ObjectStore) -> None:
    """The same images may be in another store by now, and gone from the one that they were first read from."""
    if is_remote(folder) and (folder / REMOTE).read_text() != store.path:
        write_atomically(folder / REMOTE, store.path.encode())


def _download_file(store: ObjectStore, name: str, path: Path) -> str:
    """Returns its sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in store.chunks(name):
            digest.update(chunk)
            file.write(chunk)
        sync_and_close(file)
    return digest.hexdigest()


def _make_room(cache: Path) -> tuple[float, float]:
    """Remove what was not used for the longest time until all fits, what is being downloaded too.

    Returns the GB of what is left, and those that there is room for.
    """
    room_gb = _room_gb(cache)
    locks = sorted(cache.glob(f"*{LOCK}"), key=lambda path: path.stat().st_mtime)
    sizes_gb = {path: sum(map(_folder_gb, _folders(path))) for path in locks}
    for path in locks:
        if sum(sizes_gb.values()) <= room_gb:
            break
        if _remove_unused(path):
            del sizes_gb[path]
    return sum(sizes_gb.values()), room_gb


def _room_gb(cache: Path) -> float:
    """What ``cache`` may hold: what is allowed, or less if its disk has less room."""
    held = sum(map(disk_bytes, _all_folders(cache)))
    return min(_limit_gb(), (held + FREE_SHARE * shutil.disk_usage(cache).free) / GB)


@contextmanager
def _counting(cache: Path) -> Iterator[None]:
    """Meanwhile no other process removes or renames a folder of ``cache``."""
    with (cache / ROOM).open("a") as file:
        lock(file)
        yield


def _too_little(cache: Path, used_gb: float, room_gb: float) -> str:
    used = f"trainings there use {used_gb:.2g} GB of images"
    if room_gb < _limit_gb():
        return f"{cache}: the disk of a node has room for {room_gb:.2g} GB in it, but {used}"
    return f"{LIMIT}={_limit_gb():g} is too little on a node: {used}"


def _all_folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def _folders(path: Path) -> tuple[Path, Path]:
    """What the lock file ``path`` guards."""
    return path.with_suffix(""), path.with_suffix(PARTIAL)


def _folder_gb(folder: Path) -> float:
    with suppress(OSError, ValueError):
        if not is_remote(folder):
            return size_gb(Manifest.load(folder / MANIFEST))  # what it will have, if it is being downloaded
    with suppress(OSError):
        return disk_bytes(folder) / GB  # half removed, it may have lost its manifest
    return 0.0


def _remove_unused(path: Path) -> bool:
    """Remove the folders whose lock file is ``path``, unless a training uses them; returns whether they are gone.

    The name goes first: what a killed process has half removed must not be taken for complete.
    """
    folder, partial = _folders(path)
    with path.open("a") as file, suppress(OSError):
        if try_lock(file):
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process
            if folder.exists():
                folder.rename(partial)
                shutil.rmtree(partial)
            return not partial.exists()
    return False
