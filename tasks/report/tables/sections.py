"""All tables, by section of the report."""

from __future__ import annotations

from tasks.report.published import Published
from tasks.report.results import Study
from tasks.report.tables import classes, cost, latency, literature, overview, provenance, training
from tasks.report.tables.cells import Table


def report_tables(study: Study, published: Published) -> dict[str, list[Table]]:
    """Results, Training, Details and Provenance; the overview comes first."""
    comparison = literature.comparison_table(study, published)
    return {
        "Results": [overview.overview_table(study, published), *([comparison] if comparison else [])],
        "Training": [training.training_table(study)],
        "Details": [
            latency.form_table(study),
            latency.latency_table(study),
            cost.cost_table(study),
            classes.class_table(study),
        ],
        "Provenance": [provenance.execution_table(study)],
    }
