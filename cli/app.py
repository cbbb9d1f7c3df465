"""The commands and their options. ``--help`` imports nothing heavy: every command imports its module when it runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import names
from condensenet.preprocessing import MAX_PIXELS

app = typer.Typer(
    name="condensenet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="CondenseNet: train, predict, export, time and compare. CONDENSENET_TRACEBACK=1 shows where an error arose.",
)


class Form(StrEnum):
    LOWERED = "lowered"
    PLAIN = "plain"
    NATIVE = "native"


class Target(StrEnum):
    MODEL = "model"
    GROUPED = "grouped"
    AUTHORS = "authors"


Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from condensenet import __version__

        print(f"condensenet {__version__}")
        raise typer.Exit


@app.command()
def train(
    folder: Annotated[
        Path, typer.Argument(help="FOLDER/CLASS/*.jpg; or with train/ and test/ (or val/) in it; or Parquet files.")
    ],
    out: Annotated[Path | None, typer.Option(help="Workspace for all that is made. (default: runs/FOLDER)")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Input size in pixels. (default: by the images, or --from)", min=1, max=MAX_PIXELS),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A network by name. (default: by the size)", autocompletion=names.presets_beginning),
    ] = None,
    groups: Annotated[int | None, typer.Option(help="G, groups of the 1x1 convolutions. (default: 4)", min=1)] = None,
    condensation: Annotated[
        int | None, typer.Option(help="C: each group keeps 1/C of its inputs. (default: 4)", min=1)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: by the number of images.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: by the number of images.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: by the batch size.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Fine-tune this model: a model.pt or an authors' checkpoint.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. (default: 1, or one for each GPU)", min=1)] = None,
    max_corrupt: Annotated[int, typer.Option(help="Corrupt images to leave out.", min=0)] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train on your own images, without a configuration file. An interrupted training resumes by the same command."""
    from cli.training import Options, run

    options = Options(
        size=size,
        model=model,
        groups=groups,
        condensation=condensation,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        start=start,
        workers=workers,
        max_corrupt=max_corrupt,
        seed=seed,
    )
    run(folder, out, options)


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="model.pt, an ONNX file, a folder with one or hf-hub:OWNER/NAME.",
            callback=names.model_file,
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", callback=names.image_files)],
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 5,
    as_json: Json = False,
) -> None:
    """The likeliest classes of images, prepared as the model's training prepared them."""
    from cli.predicting import run

    run(model, images, top, as_json)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="model.pt, a folder or hf-hub:OWNER/NAME.", callback=names.model_file),
    ],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    form: Annotated[Form, typer.Option(help="docs/LIBRARY.md says which runtime wants which.")] = Form.LOWERED,
    size: Annotated[int | None, typer.Option(help="Input size. (default: the model's)", min=1, max=MAX_PIXELS)] = None,
    runtime: Annotated[
        str, typer.Option(help="For the lowered form: onnxruntime, openvino, litert, mnn or ncnn.")
    ] = "onnxruntime",
    measure: Annotated[bool, typer.Option("--measure", help="Lower by timing on this machine, not by rules.")] = False,
) -> None:
    """Write a model as an ONNX file and compare it with PyTorch."""
    from cli.exporting import run

    run(model, out, form.value, size, runtime, measure)


@app.command()
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="ONNX files, model.pt or network names.", callback=names.networks_or_files
        ),
    ],
    size: Annotated[int | None, typer.Option(help="Input size. (default: the model's)", min=1, max=MAX_PIXELS)] = None,
    threads: Annotated[list[int], typer.Option(help="Threads; 0: all cores. Repeatable.", min=0)] = [1],  # noqa: B006
    runs: Annotated[int, typer.Option(help="Measured rounds.", min=50)] = 50,
    as_json: Json = False,
) -> None:
    """Time models on this machine in ONNX Runtime, batch 1, in turn with MobileNetV1; a model.pt in every form."""
    from cli.benchmarking import run

    run(models, size, threads, runs, as_json)


@app.command()
def cost(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FILE",
            help="A network's name or a model file.",
            autocompletion=names.presets_beginning,
            callback=names.network_or_file,
        ),
    ],
    size: Annotated[
        int | None, typer.Option(help="Input size. (default: the model's or its data set's)", min=1, max=MAX_PIXELS)
    ] = None,
    groups: Annotated[int | None, typer.Option(help="G, for a name.", min=1)] = None,
    condensation: Annotated[int | None, typer.Option(help="C, for a name.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Multiply-adds (MACs), the paper's FLOPs and parameters of one image."""
    from cli.costs import run

    run(model, size, groups, condensation, as_json)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="A model of this library or the authors' code.", callback=names.model_file),
    ],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[
        Target, typer.Option(help="model: as it is; grouped: for inference; authors: for the authors' code.")
    ] = Target.MODEL,
    stem: Annotated[str | None, typer.Option(help="If an authors' file does not tell: cifar or imagenet.")] = None,
    groups: Annotated[int | None, typer.Option(help="If an authors' file does not tell: G.", min=1)] = None,
    condensation: Annotated[int | None, typer.Option(help="If an authors' file does not tell: C.", min=1)] = None,
) -> None:
    """Convert between training form, grouped form and the authors' checkpoints."""
    from cli.converting import run

    run(source, out, to.value, stem=stem, groups_1x1=groups, condensation_factor=condensation)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def demo(context: typer.Context) -> None:
    """The whole pipeline on handwritten digits, in a checkout; options are those of python -m flows.reproduce."""
    from cli.workspaces import run_in_checkout

    run_in_checkout("flows.reproduce", context.args)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A checkout or the workspace of a training.")] = Path(),
) -> None:
    """Write the report of a checkout's study anew; or time what `train` made, write its report and register it."""
    from cli.reporting import run

    run(folder)


@app.command()
def ui(
    folder: Annotated[Path, typer.Argument(help="A checkout or the workspace of a training.")] = Path(),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Show all runs in the MLflow UI, on this machine only; Ctrl-C ends it."""
    from cli.workspaces import serve_ui

    serve_ui(folder, port)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What works here: versions, compiled kernels, instruction set, GPU, servers. Status 1 if something is broken."""
    from cli.checkup import run

    sys.exit(run(as_json))
