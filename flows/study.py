"""Which ``params.yaml`` a flow uses: the file as it is, with a few values changed, or composed anew from ``conf/``.

DVC composes it (by Hydra), so a flow and ``dvc exp run -S study=…`` write the same file. Another study never replaces
uncommitted edits of ``params.yaml``.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from condensenet.file_locks import lock, try_lock
from condensenet.files import write_atomically
from condensenet.text import message_of, shown
from tasks import params, paths, plain_yaml
from tasks.errors import UserError
from tasks.locks import lock_file

Overrides = Mapping[str, Any] | Sequence[str] | None
CONFIG = paths.STUDIES.parent
OF_VALUES = (ValueError, TypeError, AttributeError, KeyError, RecursionError)  # which they let through for odd values
MAX_OVERRIDES = 2**13  # characters of all of them: Hydra's parser takes four times as long for twice as many
ALONE_S = 1.0  # within which of several flows that begin together one writes the parameters of all


def compose_params(study: str | None, overrides: Overrides, settings: Sequence[str] | None = None) -> str:
    """The new text of ``params.yaml``, valid and with all ``settings``. Changes nothing.

    With ``study`` the file is composed anew (base, study, overrides). Without it the overrides are applied to the
    file as it is, edits included. Raises ``UserError``.
    """
    changes = as_hydra(overrides)
    if study is None and not changes:
        _check_settings(params.load(), settings)
        return paths.PARAMS.read_text()
    if study is not None and not (paths.STUDIES / f"{study}.yaml").is_file():
        studies = ", ".join(sorted(path.stem for path in paths.STUDIES.glob("*.yaml")))
        raise UserError(f"study={study!r} is not allowed: {studies}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        _compose(file, study, changes)
        try:
            _check_settings(params.load(file), settings)
        except UserError as error:
            raise UserError(str(error).replace(str(file), str(paths.PARAMS))) from None
        return file.read_text()


@contextmanager
def params_in_use(text: str, *, composed: bool) -> Iterator[list[str]]:
    """Write ``text`` to ``params.yaml`` and keep it unchanged inside the block; yields the keys whose values changed.

    Raises ``UserError`` if that would replace uncommitted edits (``composed``) or the parameters of another running
    flow. The previous file is kept in ``state/params/``.
    """
    wanted = plain_yaml.parse(text)
    with lock_file("params.lock").open("a+") as file:
        lock(file, shared=True)  # held by every running flow
        changed = remaining = changed_keys(_parsed(paths.PARAMS), wanted)
        if changed and composed and _has_uncommitted_edits():
            raise UserError(
                f"{paths.PARAMS} has uncommitted edits that another study would replace: "
                "commit them, stash them (git stash), or run without a study"
            )
        deadline = time.monotonic() + ALONE_S
        while remaining and time.monotonic() < deadline:
            if try_lock(file):
                _replace(text)
            else:  # the lock is lost, so of several that begin together one gets it
                time.sleep(random.uniform(0, ALONE_S / 20))
            lock(file, shared=True)
            remaining = changed_keys(_parsed(paths.PARAMS), wanted)
        if remaining:
            raise UserError("another flow is running here with other parameters: wait until it ends")
        yield changed


def as_hydra(overrides: Overrides) -> list[str]:
    """``{"train.epochs": 7}`` or ``["train.epochs=7"]`` as Hydra's override strings; raises ``UserError``.

    Those that refer to other values, ``${...}``, are refused: a few can stand for billions of values, or for a secret
    in the environment of a worker.
    """
    if overrides is None:
        return []
    if isinstance(overrides, Mapping):
        try:
            overrides = [f"{key}={_hydra_value(value)}" for key, value in overrides.items()]
        except RecursionError:
            raise UserError("overrides are nested too deeply") from None
    if sum(map(len, overrides)) > MAX_OVERRIDES:
        raise UserError(f"overrides of more than {MAX_OVERRIDES} characters are not allowed: write a study")
    for item in overrides:
        if "=" not in item:
            raise UserError(f"override {shown(item)} is not allowed: key=value, for example train.epochs=7")
        if plain_yaml.REFERENCE in item:
            raise UserError(f"override {shown(item)} is not allowed: ${{...}} is not replaced, give the value itself")
    return list(overrides)


def changed_keys(old: object, new: object, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [prefix or "everything"]
    keys = [*new, *(key for key in old if key not in new)]
    dotted = {key: f"{prefix}.{key}" if prefix else str(key) for key in keys}
    absent = object()
    return [name for key in keys for name in changed_keys(old.get(key, absent), new.get(key, absent), dotted[key])]


def _check_settings(planned: params.Params, settings: Sequence[str] | None) -> None:
    for name in settings or ():
        planned.setting(name)


def _compose(file: Path, study: str | None, overrides: list[str]) -> None:
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides, compose_and_dump
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if study is None:
        _check_plain(params.read(paths.PARAMS))  # DVC bounds neither the time nor the memory that a file takes
    try:
        if study is None:
            shutil.copyfile(paths.PARAMS, file)
            apply_overrides(file, overrides)
        else:
            compose_and_dump(
                file, str(CONFIG.resolve()), None, "config", str(Path.cwd()), [f"study={study}", *overrides]
            )
    except FileNotFoundError:
        raise UserError(f"{paths.PARAMS} is missing: run from the folder that holds it") from None
    except (DvcException, HydraException, OmegaConfBaseException, YAMLError, *OF_VALUES) as error:
        reason = message_of(error.__cause__ or error)[: plain_yaml.MAX_REASON]
        raise UserError(f"overrides {shown(overrides)}: {reason}") from None


def _check_plain(raw: object) -> None:
    try:
        plain_yaml.check_plain(raw)
    except ValueError as error:
        raise UserError(f"{paths.PARAMS}: {error}") from None


def _hydra_value(value: object) -> str:
    """Hydra reads JSON, except that keys of mappings are not quoted."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(_hydra_value(item) for item in value) + "]"
    return json.dumps(value)


def _has_uncommitted_edits() -> bool:
    """Whether the file differs both from the last commit and from what we wrote last."""
    if not paths.PARAMS.exists():
        return False
    current = paths.PARAMS.read_bytes()
    if any(path.is_file() and path.read_bytes() == current for path in _written()):
        return False
    return differs_from_commit()


def differs_from_commit() -> bool:
    """Whether ``params.yaml`` is not what the last commit has, or there is no commit."""
    committed = subprocess.run(["git", "show", f"HEAD:./{paths.PARAMS}"], capture_output=True, check=False)
    return committed.returncode != 0 or committed.stdout != paths.PARAMS.read_bytes()


def _replace(text: str) -> None:
    """A kill between any two lines leaves in ``params.yaml`` what is in one of the files that we wrote."""
    last, before = _written()
    if paths.PARAMS.exists():
        write_atomically(last.with_name(time.strftime("params-%Y%m%d-%H%M%S.yaml")), paths.PARAMS.read_bytes())
    if last.exists():
        write_atomically(before, last.read_bytes())
    write_atomically(last, text.encode())
    write_atomically(paths.PARAMS, text.encode())


def _written() -> tuple[Path, Path]:
    """Copies of what we wrote last, and before."""
    folder = paths.state() / "params"
    return folder / "composed.yaml", folder / "composed-before.yaml"


def _parsed(path: Path) -> object:
    try:
        return plain_yaml.load(path)
    except (OSError, ValueError):
        return None
