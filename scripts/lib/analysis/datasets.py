"""The table `datasets`: how much text or how many documents each number rests on."""

import numpy as np
import polars as pl

from scripts.lib.analysis.intervals import effective_documents
from scripts.lib.analysis.measures import Measure
from scripts.lib.analysis.metrics import BITS_PER_BYTE, CROSS_ENTROPY

DATASETS = {
    "study": pl.String,
    "dataset": pl.String,
    "documents": pl.Int64,
    "effective_documents": pl.Float64,
    "tokens": pl.Int64,
    "bytes": pl.Int64,
}


def datasets_table(study: str, measures: list[Measure]) -> pl.DataFrame:
    """A row a corpus or task: its documents that were evaluated, to how many of equal size they amount, and for corpora
    the tokens that were predicted and their bytes; of the cell that saw most."""
    found: dict[str, dict] = {}
    for item in measures:
        seen = item.sizes[item.sizes > 0]
        if item.subset is not None or not len(seen):
            continue
        row = found.setdefault(item.dataset, dict.fromkeys(DATASETS) | {"study": study, "dataset": item.dataset})
        if item.stage == "evaluate_loss":
            amount = {CROSS_ENTROPY.name: "tokens", BITS_PER_BYTE.name: "bytes"}.get(item.metric)
            if amount:
                row[amount] = max(row[amount] or 0, round(float(seen.sum())))
        if len(seen) > (row["documents"] or 0):
            row |= {"documents": len(seen), "effective_documents": float(effective_documents(np.asarray(seen, float)))}
    rows = [found[name] for name in sorted(found)]
    return pl.DataFrame([[row[name] for name in DATASETS] for row in rows], schema=DATASETS, orient="row")
