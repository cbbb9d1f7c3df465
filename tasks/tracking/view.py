"""How a study's experiment looks in the MLflow UI: a description, and a saved view with the columns to compare by."""

from __future__ import annotations

import json

VIEW = "comparison"  # …/#/experiments/<id>/runs?viewStateShareKey=comparison
TAG = f"mlflow.sharedViewState.{VIEW}"
COLUMNS = (
    "params.`G`",
    "params.`C`",
    "metrics.`test/error_pct`",
    "metrics.`cost/macs`",
    "metrics.`cost/paper_flops`",
    "metrics.`cost/params`",
    "metrics.`latency/ms`",
    "metrics.`latency/ratio`",
    "metrics.`latency/ms_plain`",
    "metrics.`export/file_bytes`",
    "attributes.`Models`",
)
ORDER = "metrics.`cost/macs`"  # in the order of time the UI folds all settings away below the study's run
NOTE = """Settings of the study **{study}**: one run is one real training of one setting; the stages that follow add to
it. Open the saved view *Comparison* (Views) for the columns that settings are compared by. The last stage, report
(after `condensenet train FOLDER`: `condensenet report WORKSPACE`), makes the run *all settings* above them, with the
table, the charts and the report, and the registered model *condensenet-{study}*, with their files and the aliases
`best-error`, `fastest` and `smallest`.

- `G` groups of the 1x1 convolutions, `C` condensation factor (each group keeps 1/C of its inputs).
- `test/error_pct` top-1 error of the exported file on the whole test set.
- `cost/macs`, `cost/paper_flops`, `cost/params` of the grouped form, which is what ships. One MAC is one multiply-add;
  the paper's FLOPs are MACs plus one operation per ReLU element and those of the average pools.
- `latency/ms` median at batch 1 on one thread, `latency/ratio` its ratio to MobileNetV1 measured alternately with it
  (below 1 is faster); the hardware is in the artifact `benchmark/latency.json`. Both are of the exported (lowered)
  file; `latency/ms_plain` and the like are of its other forms, artifacts in `forms`. `latency/ms_<device>` and
  `latency/ratio_<device>` are the same on another device (tag `device.<device>`, artifact `benchmark/<device>.json`).
- `train/condensing_stage` by epoch shows where connections were dropped.
"""


def experiment_tags(study: str, time_ms: int) -> dict[str, str]:
    """Tags that a new experiment gets."""
    return {
        "mlflow.experimentKind": "custom_model_development",  # else the UI offers what language models need
        "mlflow.note.content": NOTE.format(study=study),
        TAG: saved_view(time_ms),
    }


def link(base: str, experiment_id: str) -> str:
    """Where a browser sees an experiment's comparison; without ``workflowType`` the UI opens a page for agents."""
    query = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def saved_view(time_ms: int) -> str:
    """The content of the tag that makes the saved view; MLflow has no public call for it.

    Seen in MLflow 3.17.2, whose UI fills in what the state lacks. Nothing else depends on it: a UI that cannot read
    the tag does not list the view.
    """
    state = {"selectedColumns": COLUMNS, "columnOrder": COLUMNS, "orderByKey": ORDER, "orderByAsc": False}
    return json.dumps({"name": "Comparison", "createdAt": time_ms, "state": json.dumps(state)})
