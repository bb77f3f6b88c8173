"""Measures: what one parquet of evaluate_loss or evaluate_tasks says about a cell, document by document."""

from dataclasses import dataclass

import numpy as np
import polars as pl

LOSS_COLUMNS = {"cross_entropy": "nll", "kl": "kl", "top1_agreement": "agree"}


@dataclass
class Measure:
    """One metric of one cell on one dataset: sums and sizes by document, all three arrays of shape (documents,)."""

    cell: tuple[str, str, str]
    stage: str
    dataset: str
    metric: str
    dtype: str
    documents: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray


def read_loss(frame: pl.DataFrame, cell: tuple[str, str, str], metadata: dict) -> list[Measure]:
    """Cross-entropy, KL and agreement of one cell from its segments, summed by document in file order."""
    documents, codes = np.unique(frame["document"].to_numpy(), return_inverse=True)

    def by_document(column: str) -> np.ndarray:
        return np.bincount(codes, weights=frame[column].to_numpy().astype(np.float64), minlength=len(documents))

    sizes = by_document("tokens")
    return [
        Measure(
            cell, "evaluate_loss", metadata["corpus"], metric, metadata["dtype"], documents, by_document(column), sizes
        )
        for metric, column in LOSS_COLUMNS.items()
    ]


def read_tasks(frame: pl.DataFrame, cell: tuple[str, str, str], metadata: dict) -> list[Measure]:
    """One measure a (task, metric) of one cell."""
    measures = []
    for (task, metric), part in frame.sort("task", "metric", "document").group_by(
        "task", "metric", maintain_order=True
    ):
        documents, weights = part["document"].to_numpy(), part["weight"].to_numpy()
        sums = part["value"].to_numpy() * weights
        measures.append(Measure(cell, "evaluate_tasks", task, metric, metadata["dtype"], documents, sums, weights))
    return measures


def paired(measures: list[Measure], missing: dict) -> list[Measure]:
    """The measures that are finite and have a baseline over the same documents; the others go to `missing`."""
    bad = {}
    for measure in measures:
        if not np.isfinite(measure.sums).all() or not measure.sizes.sum() > 0:
            bad.setdefault((measure.cell, measure.dataset), f"{measure.metric} is not finite")
    baselines = {
        (*m.cell[:2], m.dataset, m.metric): m
        for m in measures
        if m.cell[2] == "none" and (m.cell, m.dataset) not in bad
    }
    kept = []
    for measure in measures:
        baseline = baselines.get((*measure.cell[:2], measure.dataset, measure.metric))
        reason = bad.get((measure.cell, measure.dataset)) or _unpaired(measure, baseline)
        if reason:
            missing[*measure.cell, measure.stage, measure.dataset, reason] = None
        else:
            kept.append(measure)
    return kept


def _unpaired(measure: Measure, baseline: Measure | None) -> str | None:
    """Why a measure cannot be compared with its baseline; None if it can."""
    if baseline is None:
        return "no baseline: method none has no result for this checkpoint and dataset"
    if measure.dtype != baseline.dtype:
        return f"evaluated in {measure.dtype}, but its baseline in {baseline.dtype}"
    same = np.array_equal(measure.documents, baseline.documents) and np.array_equal(measure.sizes, baseline.sizes)
    return None if same else "not evaluated on the same documents and tokens as its baseline"
