"""Measures: what one parquet of evaluate_loss or evaluate_tasks says about a cell, document by document."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from scripts.lib.analysis.metrics import LOSS_METRICS, Part


@dataclass
class Measure:
    """One metric of one cell on one dataset, or on a subset of its tokens (None: all of them).

    Sums and sizes are by document; all three arrays have shape (documents,). A task has a suite.
    """

    cell: tuple[str, str, str]
    stage: str
    dataset: str
    subset: str | None
    metric: str
    dtype: str
    documents: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray
    suite: str | None = None


def read_loss(frame: pl.DataFrame, cell: tuple[str, str, str], metadata: dict) -> list[Measure]:
    """The metrics of loss of one cell from its segments, summed by document in file order; one measure a part.

    Raises:
        ValueError: the file is of an older version, without a column that a metric needs.
    """
    lacking = {name for metric in LOSS_METRICS for part in metric.parts for name in _names(part)} - set(frame.columns)
    if lacking:
        raise ValueError(
            f"the loss of {'/'.join(cell)} on {metadata['corpus']} was measured by an older version and lacks "
            f"{', '.join(sorted(lacking))}; measure it again (`snakemake ... -R evaluate_loss`)"
        )
    documents, codes = np.unique(frame["document"].to_numpy(), return_inverse=True)

    def by_document(column: pl.Expr) -> np.ndarray:
        weights = frame.select(column).to_series().to_numpy().astype(np.float64)
        return np.bincount(codes, weights=weights, minlength=len(documents))

    dataset, dtype = metadata["corpus"], metadata["dtype"]
    return [
        Measure(
            *(cell, "evaluate_loss", dataset, part.subset, metric.name, dtype, documents),
            *(by_document(part.total), by_document(part.weight)),
        )
        for metric in LOSS_METRICS
        for part in metric.parts
    ]


def _names(part: Part) -> list[str]:
    """Columns of evaluate_loss that a part of a metric reads."""
    return [*part.total.meta.root_names(), *part.weight.meta.root_names()]


def read_tasks(frame: pl.DataFrame, cell: tuple[str, str, str], metadata: dict) -> list[Measure]:
    """One measure a (task, metric) of one cell."""
    measures = []
    for (task, metric), part in frame.sort("task", "metric", "document").group_by(
        "task", "metric", maintain_order=True
    ):
        documents, weights = part["document"].to_numpy(), part["weight"].to_numpy()
        sums = part["value"].to_numpy() * weights
        place = (cell, "evaluate_tasks", task, None, metric, metadata["dtype"])
        measures.append(Measure(*place, documents, sums, weights, metadata["suite"]))
    return measures


def aligned(measures: list[Measure]) -> list[Measure]:
    """The same over all documents that any measure of their dataset has, in one order; zeros where one has none."""
    found = {}
    for dataset in dict.fromkeys(measure.dataset for measure in measures):
        parts = [measure.documents for measure in measures if measure.dataset == dataset]
        found[dataset] = np.unique(np.concatenate(parts))
    return [_spread(measure, found[measure.dataset]) for measure in measures]


def _spread(measure: Measure, documents: np.ndarray) -> Measure:
    sums, sizes = np.zeros((2, len(documents)))
    columns = np.searchsorted(documents, measure.documents)
    sums[columns], sizes[columns] = measure.sums, measure.sizes
    return replace(measure, documents=documents, sums=sums, sizes=sizes)


def paired(measures: list[Measure], missing: dict) -> list[Measure]:
    """The measures that are finite and have a baseline over the same documents; the others go to `missing`."""
    bad = {}
    for measure in measures:
        if not np.isfinite(measure.sums).all() or not measure.sizes.sum() > 0:
            of = f" of {measure.subset}" if measure.subset else ""
            bad.setdefault((measure.cell, measure.dataset, measure.subset), f"{measure.metric}{of} is not finite")

    def why_bad(measure: Measure) -> str | None:
        place = (measure.cell, measure.dataset)
        return bad.get((*place, None)) or bad.get((*place, measure.subset))

    baselines = {(*m.cell[:2], *_what(m)): m for m in measures if m.cell[2] == "none" and not why_bad(m)}
    kept = []
    for measure in measures:
        reason = why_bad(measure) or _unpaired(measure, baselines.get((*measure.cell[:2], *_what(measure))))
        if reason:
            missing[*measure.cell, measure.stage, measure.dataset, reason] = None
        else:
            kept.append(measure)
    return kept


def _what(measure: Measure) -> tuple[str, str | None, str]:
    return measure.dataset, measure.subset, measure.metric


def _unpaired(measure: Measure, baseline: Measure | None) -> str | None:
    """Why a measure cannot be compared with its baseline; None if it can."""
    if baseline is None:
        return "no baseline: method none has no result for this checkpoint and dataset"
    if measure.dtype != baseline.dtype:
        return f"evaluated in {measure.dtype}, but its baseline in {baseline.dtype}"
    same = np.array_equal(measure.documents, baseline.documents) and np.array_equal(measure.sizes, baseline.sizes)
    return None if same else "not evaluated on the same documents and tokens as its baseline"
