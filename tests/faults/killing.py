"""A training that kills its own process, with SIGKILL, at a moment that is named beforehand.

A moment is a place in the code and the value of the step count there. Moments are sorted as a training comes by them,
so that one killed at each of them in turn and started again comes by all of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from training_example import AUGMENT, TRAIN, bits, new_model, without_time

from condensenet import ModelConfig, temporary
from condensenet.data import PreparedData
from condensenet.models.condensenet import CondenseNet
from condensenet.training import checkpoint, distributed, loop

CONFIG = replace(TRAIN, epochs=12)
STEPS_PER_EPOCH = 5
STEPS = STEPS_PER_EPOCH * CONFIG.epochs
DROPS = (10, 20, 30)  # the step counts at which connections are dropped: a sixth, a third and a half of 60
PLACES = (  # in the order in which a training comes by them at one step count
    "in the evaluation",
    "half of the checkpoint written",
    "before the checkpoint is flushed",
    "before the checkpoint takes its name",
    "before the old checkpoint is removed",
    "after a drop, its momentum not yet forgotten",
    "after a drop",
    "before the gradients are exchanged",
    "before the weights change",
    "after the weights have changed",
)
WRITING = PLACES[1:5]  # rank 0 alone does it
DROPPING = PLACES[5:7]


@dataclass(frozen=True)
class Moment:
    step: int
    place: str

    @property
    def order(self) -> tuple[int, int]:
        return self.step, PLACES.index(self.place)


def all_moments() -> list[Moment]:
    """Every moment that a whole training comes by, in order."""
    saved = [step for step in range(1, STEPS + 1) if step % STEPS_PER_EPOCH == 0 or step % 3 == 0]
    steps = {
        "in the evaluation": range(STEPS_PER_EPOCH, STEPS + 1, STEPS_PER_EPOCH),
        **dict.fromkeys(WRITING, saved),
        **dict.fromkeys(DROPPING, DROPS),
    }
    moments = [Moment(step, place) for place in PLACES for step in steps.get(place, range(STEPS))]
    return sorted(moments, key=lambda moment: moment.order)


def run(folder: Path, moment: Moment | None, model: ModelConfig, rank: int, world_size: int, meeting: str) -> None:
    """Train, or go on with it, in ``folder``; the result goes to ``folder/result-<rank>.pt``."""
    torch.set_num_threads(1)
    if world_size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder}/{meeting}", rank=rank, world_size=world_size)
    if moment is not None:
        _lie_in_wait(moment)
    network, data = new_model(model), PreparedData(folder / "data")
    history = list(loop.fit(network, data, AUGMENT, CONFIG, checkpoints=folder / "checkpoints"))
    torch.save({"bits": bits(network), "history": without_time(history)}, folder / f"result-{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _lie_in_wait(moment: Moment) -> None:
    if moment.place in WRITING:
        save = checkpoint.checkpoint_files.save

        def deadly_save(folder: Path, step: int, content: dict[str, Any]) -> str:
            if step == moment.step:
                _spoil_writing(moment.place)
            return save(folder, step, content)

        checkpoint.checkpoint_files.save = deadly_save
        return
    owner, name, after = {
        "in the evaluation": (loop, "evaluate", False),
        "after a drop, its momentum not yet forgotten": (CondenseNet, "condense_to", True),
        "after a drop": (loop.Trainer, "condense", True),
        "before the gradients are exchanged": (distributed, "average_", False),
        "before the weights change": (loop.NesterovSGD, "step", False),
        "after the weights have changed": (loop.NesterovSGD, "step", True),
    }[moment.place]
    resume = loop.Trainer.resume

    def noted(trainer: loop.Trainer) -> None:
        resume(trainer)
        _wrap(owner, name, after, lambda: trainer.step == moment.step)

    loop.Trainer.resume = noted


def _wrap(owner: Any, name: str, after: bool, due: Callable[[], bool]) -> None:
    original = getattr(owner, name)

    def deadly(*arguments: Any, **options: Any) -> Any:
        now = due()
        if now and not after:
            die()
        result = original(*arguments, **options)
        if now:
            die()
        return result

    setattr(owner, name, deadly)


def _spoil_writing(place: str) -> None:
    rename = os.replace

    def half(path: Path, mode: str) -> Any:
        file = path.open(mode)
        write = file.write

        class Half:
            def write(self, content: bytes) -> None:
                write(content[: len(content) // 2])
                file.flush()
                die()

            def fileno(self) -> int:
                return file.fileno()

            def __enter__(self) -> Half:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        return Half()

    def renamed(*names: Path) -> None:
        rename(*names)
        die()

    if place == WRITING[0]:
        temporary.open = half
    elif place == WRITING[1]:
        os.fsync = lambda _descriptor: die()
    elif place == WRITING[2]:
        os.replace = lambda *_names: die()
    else:
        os.replace = renamed
