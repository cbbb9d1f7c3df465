"""Every path of the pipeline, once. ``dvc.yaml`` names the same files as outputs (a test compares the two).

Paths are relative to the working folder (the checkout), as DVC's are, except for what a temporary experiment of DVC
must share with its checkout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from condensenet.data import manifest

PARAMS = Path("params.yaml")
DVC_YAML = Path("dvc.yaml")  # not in the workspaces of `condensenet train`
DVC_LOCK = Path("dvc.lock")
STUDIES = Path("conf/study")
PUBLISHED = Path("conf/published.yaml")
TABLES = Path("out/tables")  # tables: the same for all studies, so no study can have this name


def checkout() -> Path:
    """The checkout itself, also when DVC runs a stage in a temporary copy of it (``dvc exp run --temp``)."""
    here = Path.cwd()
    for parent in (here, *here.parents):
        if parent.name == "exps" and parent.parts[-3:-1] == (".dvc", "tmp"):
            return parent.parents[2]
    return here


def state() -> Path:
    """What survives a killed run and is no output: checkpoints, snapshots for the tracking store, locks."""
    return checkout() / "state"


def plan_times() -> Path:
    """What planners have measured, by hardware, runtime and shape: what is in this file is not measured again."""
    return state() / "plan_times.json"


@dataclass(frozen=True)
class StudyPaths:
    """The outputs of one study, ``out/<study>/<stage>/[<setting>/]``."""

    study: str

    @property
    def root(self) -> Path:
        return Path("out") / self.study

    @property
    def data(self) -> Path:
        """prepare: the prepared images, ``manifest.json`` among them."""
        return self.root / "data"

    @property
    def yardstick(self) -> Path:
        """yardstick: MobileNetV1 as ONNX and its cost."""
        return self.root / "yardstick"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def setting(self, stage: str, setting: str) -> Path:
        """The folder of one stage of one setting: train, convert, export, evaluate or benchmark."""
        return self.root / stage / setting

    def form(self, setting: str, form: str) -> Path:
        """export: the ONNX file of one form; what ships, the lowered one, beside the folder of the others."""
        folder = self.setting("export", setting)
        return folder / ONNX if form == LOWERED else folder / FORMS / f"{form}.onnx"


# The forms of an exported model: lowered by a plan, as torch.onnx writes it, for our own operator, quantized.
LOWERED, PLAIN, NATIVE, INT8 = "lowered", "plain", "native", "int8"
ALL_FORMS = (LOWERED, PLAIN, NATIVE, INT8)

# File names within the folders above.
MANIFEST = manifest.MANIFEST  # prepare
MODEL = "model.pt"  # train (training form), convert (grouped form)
RUN = "run.json"  # train: the identity of the execution; all later stages depend on it
HISTORY = "history.csv"  # train: a row per epoch
METRICS = "metrics.json"  # train, evaluate
COST = "cost.json"  # convert, yardstick
KEPT = "kept.json"  # convert: the kept inputs of every learned group convolution, by group
ONNX = "model.onnx"  # export (lowered: what ships), yardstick
PLAN = "plan.json"  # export: how model.onnx was lowered
FORMS = "forms"  # export: a folder, <form>.onnx of the other forms
EXPORT = "export.json"  # export
PER_CLASS = "per_class.csv"  # evaluate
CONFUSION = "confusion.csv"  # evaluate: a row per image: true and predicted class
LATENCY = "latency.json"  # benchmark, tables
COST_TABLE = "cost.csv"  # tables
TABLES_MD = "tables.md"
REPORT_HTML = "report.html"
REPORT_MD = "report.md"
TABLE = "table.csv"  # report
CURVES = "curves.csv"  # report: a row per epoch and setting
SWEEP = "sweep.csv"  # the flow sweep: a row per point
ROWS = "metrics"  # report: a folder, one <setting>.json with the headline figures
