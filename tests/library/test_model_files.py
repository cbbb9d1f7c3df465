"""Model files and checkpoints that were changed after they were written: refused in one line that names the entry."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import pickle
import struct
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch
from bounds import within_bounds
from hypothesis import assume, example, given
from hypothesis import strategies as st
from networks import SMALL, condensed, random_network
from training_example import AUGMENT, MODEL, TRAIN, write_stripes

from condensenet import CondenseNet, convert, load_model
from condensenet.models.storage import model_file, parse_plain
from condensenet.training import TrainingFailed, checkpoint_files, fit

BYTES = {"training": model_file(condensed(SMALL)), "grouped": model_file(convert(condensed(SMALL).eval()))}
MASK = "blocks.0.0.conv_1x1.group_mask"
WEIGHT = "blocks.0.0.conv_3x3.conv.weight"


def write(path, content: dict[str, Any]):
    torch.save(content, path)
    return path


def changed(form: str, name: str, change) -> dict[str, Any]:
    """The content of a model file without a checksum, in which the tensor ``name`` is changed."""
    content = torch.load(io.BytesIO(BYTES[form]), weights_only=True)
    del content["sha256"]
    content["state_dict"][name] = change(content["state_dict"][name])
    return content


def test_a_file_without_a_checksum_is_one_of_before_and_still_loads(tmp_path):
    loaded = load_model(write(tmp_path / "model.pt", changed("training", WEIGHT, lambda weight: weight)))
    assert model_file(loaded) == BYTES["training"]


def test_one_changed_bit_of_a_weight_is_noticed(tmp_path):
    content = torch.load(io.BytesIO(BYTES["training"]), weights_only=True)
    content["state_dict"][WEIGHT].view(torch.int32)[0, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match=r"sha256 differs from what was saved: one of its values was changed$"):
        load_model(write(tmp_path / "model.pt", content))


def with_nan(tensor):
    return torch.full_like(tensor, torch.nan)


@pytest.mark.parametrize(
    ("form", "name", "change", "message"),
    [
        ("training", WEIGHT, with_nan, f"state_dict.{WEIGHT} has a value that is not finite"),
        ("training", WEIGHT, lambda t: t.to(torch.complex64), f"state_dict.{WEIGHT} is complex64, not float32"),
        ("training", WEIGHT, lambda t: t.to_sparse(), f"state_dict.{WEIGHT} is sparse coo float32, not dense"),
        ("training", WEIGHT, lambda t: t.bfloat16(), f"state_dict.{WEIGHT} is bfloat16, not float32"),
        ("training", WEIGHT, lambda t: t[:-1].clone(), f"state_dict.{WEIGHT} has shape .*, not "),
        (
            "training",
            WEIGHT,
            lambda t: t[:1].clone().expand(t.shape),
            f"state_dict.{WEIGHT} repeats some of its values",
        ),
        ("training", WEIGHT, lambda t: 3, f"state_dict.{WEIGHT} is int, not a tensor"),
        ("training", WEIGHT, lambda t: [t], f"state_dict.{WEIGHT} is list, not a tensor"),
        ("training", "\x1b[31m", None, r"state_dict.\\x1b\[31m is not known"),
        ("training", MASK, lambda t: torch.full(t.shape, 77, dtype=torch.uint8), f"{MASK} is uint8, not bool"),
        ("training", MASK, torch.zeros_like, f"{MASK} keeps 0 inputs per group: equal numbers of "),
        ("training", MASK, lambda t: t.flip(0).logical_or(torch.arange(len(t))[:, None] == 0), f"{MASK} keeps .* and "),
        ("training", "norm.running_var", lambda t: -t - 1, "state_dict.norm.running_var has a negative value"),
        ("grouped", "blocks.0.0.conv_1x1.index", lambda t: t + 10**6, "conv_1x1.index has a value outside of "),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, form, name, change, message):
    path = tmp_path / "model.pt"
    if change is None:
        content = changed(form, WEIGHT, lambda weight: weight)
        content["state_dict"][name] = torch.zeros(1)
    else:
        content = changed(form, name, change)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(write(path, content))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("stage", [99, -1, 0.0, None, True, "1"])
def test_a_wrong_condensing_stage_is_named(tmp_path, stage):
    content = changed("training", WEIGHT, lambda weight: weight)
    content["condensing_stage"] = stage
    with pytest.raises(ValueError, match=r"condensing_stage=.* is not that of its masks, 1"):
        load_model(write(tmp_path / "model.pt", content))


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path):
    content = changed("training", WEIGHT, lambda weight: weight)
    content["config"]["growth_rates"] = (512, 512)
    with pytest.raises(ValueError, match=r"a file of \d+ bytes cannot hold its \d+ weights"):
        load_model(write(tmp_path / "model.pt", content))


def test_a_compressed_file_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    source, target = zipfile.ZipFile(io.BytesIO(BYTES["training"])), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with source, target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("archive/data/bomb", bytes(10**7))
    with pytest.raises(ValueError, match="is not a file of plain tensors, or is incomplete"):
        load_model(path)


def nested(count: int) -> bytes:
    """A pickled dictionary whose key is a tuple of tuples, so many inside each other."""
    return b"\x80\x02}" + b")" + b"\x85" * count + b"K\x01s."


def remembered(count: int) -> bytes:
    """The same by way of the unpickler's memo."""
    return b"\x80\x02)q\x00" + b"h\x00\x85q\x00" * count + b"}h\x00K\x01s."


@pytest.mark.parametrize("make", [nested, remembered])
@pytest.mark.parametrize("legacy", [False, True])
def test_tuples_deep_inside_each_other_do_not_end_the_process(tmp_path, make, legacy):
    path = tmp_path / "deep.pt"
    if legacy:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(pickle.dumps({}, 2), make(200_000), 1))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", make(200_000))
            archive.writestr("archive/version", "3")
    code = "import sys; from condensenet.models.storage import read_plain; read_plain(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("deep.pt is not a file of plain tensors, or is incomplete\n")


def archive(content: bytes) -> bytes:
    """An archive as torch reads it, whose pickle is ``content``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3")
    return buffer.getvalue()


def end_64(entries: int, size: int, offset: int) -> bytes:
    return struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)


def with_two_directories(seen: bytes, unseen: bytes) -> bytes:
    """Two archives in one: Python's reader finds the directory of ``seen``, torch's that of ``unseen``."""
    parts = []
    for content in (unseen, seen):
        start, end = content.index(b"PK\1\2"), content.rindex(b"PK\5\6")
        parts.append((content[:start], bytearray(content[start:end])))
    (records, directory), (seen_records, seen_directory) = parts
    entries, at = 2, 0
    for _ in range(entries):  # its records come after those of the other
        name, extra, comment = struct.unpack_from("<3H", seen_directory, at + 28)
        (offset,) = struct.unpack_from("<L", seen_directory, at + 42)
        struct.pack_into("<L", seen_directory, at + 42, offset + len(records))
        at += 46 + name + extra + comment
    body = records + seen_records
    located = len(body) + len(directory)
    body += directory + end_64(entries, len(directory), len(body))
    body += seen_directory + end_64(entries, len(seen_directory), len(body))
    body += struct.pack("<4sLQL", b"PK\6\7", 0, located, 1)
    return body + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)


def legacy(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue().replace(pickle.dumps({}, 2), content, 1)


HARMLESS, DEEP = nested(1), nested(300)


@pytest.mark.parametrize(
    "content",
    [
        archive(DEEP),
        with_two_directories(seen=archive(HARMLESS), unseen=archive(DEEP)),
        legacy(DEEP) + archive(HARMLESS),
        archive(DEEP) + archive(HARMLESS),
    ],
    ids=["deep", "two-directories", "legacy-and-archive", "two-archives"],
)
def test_a_file_that_two_readers_read_differently_is_refused(content):
    with pytest.raises(ValueError, match="is not a file of plain tensors, or is incomplete"):
        parse_plain(content, "model.pt")


@pytest.mark.parametrize(
    "content", [archive(HARMLESS), with_two_directories(archive(HARMLESS), archive(HARMLESS)), legacy(HARMLESS)]
)
def test_what_those_files_are_made_of_is_what_torch_reads(content):
    assert torch.load(io.BytesIO(content), weights_only=True) == {((),): 1}


def test_padding_with_zeros_after_an_archive_does_no_harm_and_anything_else_is_refused():
    content = archive(HARMLESS)
    assert parse_plain(content + bytes(16), "model.pt") == parse_plain(content, "model.pt") == {((),): 1}
    with pytest.raises(ValueError, match="is not a file of plain tensors, or is incomplete"):
        parse_plain(content + bytes(16) + b"1", "model.pt")


@pytest.mark.parametrize("zipped", [False, True])
def test_plain_data_with_few_tuples_is_read(zipped):
    content = {"a": [(1, (2, (3,)))] * 1000, (1, ("b",)): {"c": torch.ones(2)}}
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    assert str(parse_plain(buffer.getvalue(), "plain.pt")) == str(content)


def test_a_whole_network_in_another_type_comes_back(tmp_path):
    model = random_network(SMALL).bfloat16()
    (tmp_path / "model.pt").write_bytes(model_file(model))
    assert load_model(tmp_path / "model.pt").stem.weight.dtype is torch.bfloat16


def test_strides_are_not_in_the_file():
    """Found by damaging bytes: where an axis has one element, any stride means the same."""
    model = random_network(SMALL)
    expected = model_file(model)
    assert model_file(model.to(memory_format=torch.channels_last)) == expected
    weight = next(value for value in model.parameters() if value.ndim == 4 and value.shape[3] == 1)
    weight.data = weight.data.contiguous().as_strided(weight.shape, (*weight.data.contiguous().stride()[:3], 0))
    assert model_file(model) == expected


def load_or_say_why(path):
    """The model, or None if it is refused in one line."""
    with within_bounds():
        try:
            return load_model(path)
        except ValueError as error:
            if not str(error).isprintable():
                raise
            return None


@given(st.sampled_from(["training", "grouped"]), st.data())
def test_any_damaged_byte_is_noticed_or_harmless(tmp_path_factory, form, data):
    """The parts of a file that are not what it holds, such as padding, may change."""
    damaged = bytearray(BYTES[form])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.pt"
    path.write_bytes(damaged)
    loaded = load_or_say_why(path)
    assert loaded is None or model_file(loaded) == BYTES[form]


LEAVES = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([torch.zeros(2), torch.zeros((), dtype=torch.complex64), torch.zeros(1).to_sparse()]),
)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@given(st.sampled_from(["form", "config", "condensing_stage", "state_dict", "sha256"]), ANYTHING)
@example("config", {"block_depths": [10**9], "growth_rates": [8]})
@example("config", {"block_depths": [2, 2], "growth_rates": [8, 16], "\n": 1})
def test_anything_in_the_place_of_an_entry(tmp_path_factory, key, value):
    content = torch.load(io.BytesIO(BYTES["training"]), weights_only=True)
    content[key] = value
    path = write(tmp_path_factory.mktemp("other") / "model.pt", content)
    load_or_say_why(path)


@given(st.binary(max_size=300))
def test_any_bytes(data):
    with within_bounds(), pytest.raises(ValueError, match=r"is not a file of plain tensors|contains code"):
        parse_plain(data, "model.pt")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(the data, the content of a checkpoint after one of two epochs)."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    data = write_stripes(folder / "data")
    epochs = fit(CondenseNet(MODEL), data, AUGMENT, TRAIN, checkpoints=folder / "saved")
    next(epochs)
    epochs.close()
    return data, checkpoint_files.load_newest(folder / "saved")


def resumed(tmp_path, data, content):
    checkpoint_files.save(tmp_path, 5, content)
    return next(fit(CondenseNet(MODEL), data, AUGMENT, TRAIN, checkpoints=tmp_path))


def replace(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return content


def test_an_untouched_checkpoint_is_resumed(tmp_path, checkpoint):
    data, content = checkpoint
    assert resumed(tmp_path, data, content).epoch == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("trainer",), None, "trainer is missing"),
        (("environment",), 3, "environment is missing"),
        (("trainer", "step"), 10**9, "trainer.step=1000000000 is not allowed: the training has "),
        (("trainer", "step"), -1, "trainer.step=-1 is not allowed: a finite number, 0 or more"),
        (("trainer", "step"), 1.5, "trainer.step=1.5 is not allowed"),
        (("trainer", "elapsed_s"), float("nan"), "trainer.elapsed_s=nan is not allowed"),
        (("trainer", "history"), [{}], "trainer.history.0 does not have the keys "),
        (("trainer", "history"), [{}] * 9, "trainer.history does not have a row for each"),
        (("trainer", "optimizer"), {"velocities": []}, "trainer.optimizer.velocities is list, not a list of "),
        (("trainer", "optimizer", "velocities", 0), torch.zeros(1), r"trainer.optimizer.velocities.0 has shape \(1,\)"),
        (("trainer", "model", "stem.weight"), torch.zeros(1), r"trainer.model.stem.weight has shape \(1,\)"),
        (("trainer", "model", "norm.running_var"), None, "trainer.model.norm.running_var is NoneType, not a tensor"),
        (("trainer", "surprise"), 1, "trainer.surprise is not known"),
    ],
)
def test_a_replaced_entry_of_a_checkpoint_is_named(tmp_path, checkpoint, path, value, message):
    data, content = checkpoint
    with pytest.raises(ValueError, match=message) as caught:
        resumed(tmp_path, data, replace(content, path, value))
    assert str(caught.value).isprintable()


ENTRIES = [
    (),
    ("fingerprint",),
    ("fingerprint", "train.seed"),
    ("fingerprint", "model.block_depths"),
    ("fingerprint", "unknown"),
    ("environment",),
    ("environment", "torch"),
    ("environment", "unknown"),
    ("trainer",),
    ("trainer", "step"),
    ("trainer", "elapsed_s"),
    ("trainer", "learning_rate"),
    ("trainer", "epoch_totals"),
    ("trainer", "history"),
    ("trainer", "history", 0),
    ("trainer", "history", 0, "epoch"),
    ("trainer", "history", 0, "validation_error_pct"),
    ("trainer", "model"),
    ("trainer", "model", "stem.weight"),
    ("trainer", "model", "norm.num_batches_tracked"),
    ("trainer", "optimizer"),
    ("trainer", "optimizer", "velocities"),
    ("trainer", "optimizer", "velocities", 0),
]


@contextmanager
def logged():
    """The messages that the library logs meanwhile; hypothesis does not go with pytest's ``caplog``."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("condensenet")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def goes_on_or_says_why(folder, data):
    """Resume what is in ``folder`` and train an epoch more. Refusals and warnings, which are returned, are one line."""
    with within_bounds(), logged() as lines:
        epochs = fit(CondenseNet(MODEL), data, AUGMENT, TRAIN, checkpoints=folder)
        try:
            assert [row.epoch for row in islice(epochs, 2)] == [1, 2]
        except (ValueError, TrainingFailed) as error:
            lines.append(str(error))
        finally:
            epochs.close()
    assert all(line.isprintable() for line in lines)
    return lines


@given(st.sampled_from(ENTRIES), ANYTHING)
@example(("fingerprint", "train.seed"), torch.zeros(2))
@example(("fingerprint", "train.seed"), "1\n\x1b[2J")
@example(("fingerprint", "model.block_depths"), [torch.zeros(2), 1])
@example(("fingerprint", "un\nknown"), 1)
@example(("fingerprint", 3), 1)
@example(("environment", "un\nknown"), 1)
@example(("trainer", "elapsed_s"), 10**400)
@example(("trainer", "history", 0, "epoch"), 10**400)
@example(("trainer", "history", 0, "epoch"), 3)
@example(("trainer", "step"), 7)
def test_anything_in_the_place_of_an_entry_of_a_checkpoint(tmp_path_factory, checkpoint, path, value):
    data, content = checkpoint
    folder = tmp_path_factory.mktemp("other")
    checkpoint_files.save(folder, 5, replace(content, path, value) if path else value)
    goes_on_or_says_why(folder, data)


@given(st.booleans(), st.data())
def test_any_damaged_byte_of_a_checkpoint_is_noticed_or_harmless(tmp_path_factory, checkpoint, named_anew, draw):
    """Also where the file is named by the checksum of what is in it now."""
    data, content = checkpoint
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / checkpoint_files.save(folder, 5, content)
    damaged = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] ^= draw.draw(st.integers(1, 255))
    assume(damaged != path.read_bytes())
    path.write_bytes(damaged)
    if named_anew:
        path.rename(folder / f"checkpoint-00000005-{hashlib.sha256(damaged).hexdigest()[:16]}.pt")
    lines = goes_on_or_says_why(folder, data)
    assert named_anew or f"checkpoint {path.name} is damaged (its checksum differs): " in lines[0]
