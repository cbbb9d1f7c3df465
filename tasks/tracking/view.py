"""How a study's experiment looks in the MLflow UI: a description, and a saved view with the columns to compare by.

The UI keeps a saved view as an experiment tag (seen in MLflow 3.17: JSON, deflated, base64). One that another version
cannot read is not listed there; nothing else depends on it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from typing import Any

VIEW = "comparison"  # …/#/experiments/<id>/runs?viewStateShareKey=comparison
TAG = f"mlflow.sharedViewState.{VIEW}"
COLUMNS = (
    "params.`G`",
    "params.`C`",
    "metrics.`test_error_pct`",
    "metrics.`macs`",
    "metrics.`paper_flops`",
    "metrics.`params`",
    "metrics.`latency_ms`",
    "metrics.`latency_ratio`",
    "metrics.`latency_ms_plain`",
    "metrics.`file_bytes`",
    "attributes.`Models`",
)
TRADES, TRAINING, FIGURES = "What an error costs", "Training", "Final figures"  # sections of the charts
SCATTERS = (("macs", "test_error_pct"), ("latency_ms", "test_error_pct"), ("params", "test_error_pct"))
LINES = ("validation_error_pct", "train_error_pct", "train_loss", "condensing_stage", "kept_pct", "learning_rate")
BARS = ("test_error_pct", "macs", "params", "latency_ms", "latency_ratio", "file_bytes")
NOTE = """Settings of the study **{study}**: one run is one real training of one setting; the stages that follow add to
it. Open the saved view *Comparison* (Views) for the columns that settings are compared by.

- `G` groups of the 1x1 convolutions, `C` condensation factor (each group keeps 1/C of its inputs).
- `test_error_pct` top-1 error of the exported file on the whole test set.
- `macs`, `paper_flops`, `params` of the grouped form, which is what ships. One MAC is one multiply-add;
  the paper's FLOPs are MACs plus one operation per ReLU element and those of the average pools.
- `latency_ms` median at batch 1 on one thread, `latency_ratio` its ratio to MobileNetV1 measured in turn with it
  (below 1 is faster); the hardware is in the artifact `benchmark/latency.json`. Both are of the exported (lowered)
  file; `latency_ms_plain` and the like are of its other forms, artifacts in `forms`. `latency_ms_<device>` and
  `latency_ratio_<device>` are the same on another device (tag `device.<device>`, artifact `benchmark/<device>.json`).
- `condensing_stage` by epoch shows where connections were dropped.
"""


def experiment_tags(study: str, time_ms: int) -> dict[str, str]:
    """Tags that a new experiment gets."""
    return {
        "mlflow.experimentKind": "custom_model_development",  # else the UI offers what language models need
        "mlflow.note.content": NOTE.format(study=study),
        TAG: saved_view("Comparison", time_ms),
    }


def link(base: str, experiment_id: str) -> str:
    """Where a browser sees an experiment's comparison; without ``workflowType`` the UI opens a page for agents."""
    query = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def saved_view(name: str, time_ms: int) -> str:
    """The content of the tag that makes a saved view called ``name``."""
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "compareRunCharts": list(_charts()),
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True} for name in (TRADES, TRAINING, FIGURES)
        ],
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": time_ms, "updatedAt": time_ms, "state": f"deflate;{packed}"})


def _charts() -> Iterator[dict[str, Any]]:
    for x, y in SCATTERS:
        axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
        yield _chart("SCATTER", TRADES, f"{y} against {x}", **axes)
    for metric in LINES:
        options = {
            "metricKey": metric,
            "lineSmoothness": 0,
            "xAxisScaleType": "linear",
            "scaleType": "linear",
            "range": {},
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
        yield _chart("LINE", TRAINING, metric, **options)
    for metric in BARS:
        yield _chart("BAR", FIGURES, metric, metricKey=metric)


def _chart(kind: str, section: str, name: str, **options: Any) -> dict[str, Any]:
    return {
        "uuid": f"{kind} {name}",
        "type": kind,
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": name,
        **options,
    }
