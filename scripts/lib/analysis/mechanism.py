"""What a penalty is made of: how far quantization moves the weights, how the loss bends in that direction, the rest.

The loss along the way is L(t), with the weights (1 - t) W + t W_q. To second order the penalty L(1) - L(0) is
L'(0) + L''(0) / 2, and L''(0) = size^2 * curvature, where size = |W_q - W| / |W|. So

    ln penalty = ln size^2 + ln(curvature / 2) + ln(penalty / (L''(0) / 2)),

of which the last term is what bending alone does not explain: the slope and higher orders. Pure functions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from scripts.lib.analysis.metrics import KL
from scripts.lib.analysis.tables import CELL, POINT, table

ALONG, RANDOM = "along", "random"
PARTS = ("block", "layer")
NEAR = 0.25  # nearest point of a way, from which its derivatives are taken, with that twice as far
WHOLE = (ALONG, None, 1.0)  # the quantized model itself
LOSS = "nll"
ABOUT = {
    **dict.fromkeys(("study", "trajectory", "family", "checkpoint"), pl.String),
    **POINT,
    **dict.fromkeys(("method", "recipe"), pl.String),
    **{"draw": pl.Int64, "dataset": pl.String},
}
NUMBERS = (
    *("size", "penalty", "penalty_stderr", "slope", "slope_stderr", "bend", "curvature", "curvature_stderr"),
    *("remainder", KL.name, "kl_curvature", "log_penalty", "log_size", "log_curvature", "log_remainder"),
    *("random_penalty", "random_curvature", "sum_of_blocks", "sum_of_layers"),
)
MECHANISM = {
    **ABOUT,
    **dict.fromkeys(NUMBERS, pl.Float64),
    **dict.fromkeys(("tokens_measured", "documents"), pl.Int64),
    "reason": pl.String,
}
MECHANISM_PARTS = {
    **ABOUT,
    **dict.fromkeys(("moved", "part"), pl.String),
    **dict.fromkeys(("penalty", "penalty_stderr", "share", KL.name), pl.Float64),
}
Key = tuple[str, str | None, float]  # moved, part, t, as the stage slice writes them


@dataclass(frozen=True)
class Slice:
    """What the stage slice measured of a cell.

    Attributes:
        sums: by what was measured ("nll" or KL's name) and point, over each document, nats: (documents,).
        tokens: of each document, (documents,).
        size: |W_q - W| / |W|.
    """

    sums: dict[tuple[str, Key], np.ndarray]
    tokens: np.ndarray
    documents: tuple[str, ...]
    size: float

    def mean(self, terms: dict[Key, float], column: str = LOSS) -> tuple[float, float]:
        """A sum of means over tokens, each times its factor; with the standard error of documents (ratio estimator)."""
        sums = sum(factor * self.sums[column, key] for key, factor in terms.items())
        mean, count = sums.sum() / self.tokens.sum(), len(sums)
        if count < 2:
            return float(mean), float("nan")
        rest = sums - mean * self.tokens
        return float(mean), float(np.sqrt(count / (count - 1) * (rest**2).sum()) / self.tokens.sum())


def read(path: Path | str) -> tuple[dict[str, str], Slice | None]:
    """The metadata of a parquet of the stage slice, and what is in it; None if the cell was refused."""
    metadata = pl.read_parquet_metadata(path)
    if metadata["status"] != "ok":
        return metadata, None
    rows = pl.read_parquet(path)
    sums, tokens = {}, None
    for key, part in rows.partition_by("moved", "part", "t", as_dict=True, maintain_order=True).items():
        ordered = part.sort("document")
        sums |= {(column, key): ordered[column].to_numpy() for column in (LOSS, KL.name)}
        tokens = ordered["tokens"].to_numpy().astype(float)
    return metadata, Slice(sums, tokens, tuple(ordered["document"]), float(metadata["size"]))


def slope(moved: str = ALONG) -> dict[Key, float]:
    """L'(0) as factors of losses: central differences at two distances, extrapolated to none (Richardson, 1911)."""
    factors = {}
    for h, weight in ((NEAR, 4 / 3), (2 * NEAR, -1 / 3)):
        factors |= {(moved, None, h): weight / (2 * h), (moved, None, -h): -weight / (2 * h)}
    return factors


def bend(moved: str = ALONG) -> dict[Key, float]:
    """L''(0) in the same way; of divergences, which have no slope, it is the Fisher information's along the way."""
    factors = {(ALONG, None, 0.0): 0.0}
    for h, weight in ((NEAR, 4 / 3), (2 * NEAR, -1 / 3)):
        factors |= {(moved, None, h): weight / h**2, (moved, None, -h): weight / h**2}
        factors[ALONG, None, 0.0] -= 2 * weight / h**2
    return factors


def added(point: Key = WHOLE) -> dict[Key, float]:
    """What the weights of a point add to the loss."""
    return {point: 1.0, (ALONG, None, 0.0): -1.0}


def split(cell: Slice) -> dict[str, float | None]:
    """The row of a cell: all of `NUMBERS`; logarithms are None where what they are of is not positive."""
    penalty, penalty_error = cell.mean(added())
    (first, first_error), (second, second_error) = cell.mean(slope()), cell.mean(bend())
    squared = cell.size**2
    half = second / 2
    bends = half > 0
    return {
        "size": cell.size,
        "penalty": penalty,
        "penalty_stderr": penalty_error,
        "slope": first,
        "slope_stderr": first_error,
        "bend": second,
        "curvature": second / squared,
        "curvature_stderr": second_error / squared,
        "remainder": penalty - first - half,
        KL.name: cell.mean({WHOLE: 1.0}, KL.name)[0],
        "kl_curvature": cell.mean(bend(), KL.name)[0] / squared,
        "log_penalty": _log(penalty),
        "log_size": _log(squared),
        "log_curvature": _log(half / squared),
        "log_remainder": _log(penalty / half) if bends else None,
        "random_penalty": cell.mean(added((RANDOM, None, 1.0)))[0],
        "random_curvature": cell.mean(bend(RANDOM))[0] / squared,
        **{f"sum_of_{kind}s": sum(row["penalty"] for row in parts(cell) if row["moved"] == kind) for kind in PARTS},
    }


def parts(cell: Slice) -> list[dict]:
    """The rows of a cell's parts: what each adds to the loss by itself, and that as a share of the whole penalty."""
    penalty, rows = cell.mean(added())[0], []
    for column, key in cell.sums:
        if column == LOSS and key[0] in PARTS:
            own, error = cell.mean(added(key))
            share = own / penalty if penalty else None
            row = {"moved": key[0], "part": key[1], "penalty": own, "penalty_stderr": error, "share": share}
            rows.append(row | {KL.name: cell.mean({key: 1.0}, KL.name)[0]})
    return rows


def bends(slices: Iterable[Path | str]) -> dict[tuple[str, tuple[str, str, str]], dict[str, tuple[float, float]]]:
    """What each document of a sliced cell adds to its curvature, and its tokens, by dataset and cell, for claims.

    Args:
        slices: parquets of the stage slice.
    """
    found = {}
    for metadata, cell in map(read, slices):
        if cell is not None:
            sums = sum(factor * cell.sums[LOSS, key] for key, factor in bend().items()) / cell.size**2
            place = metadata["corpus"], tuple(metadata[name] for name in CELL)
            found[place] = dict(zip(cell.documents, zip(sums, cell.tokens, strict=True), strict=True))
    return found


def mechanism_tables(
    study: str, slices: Iterable[Path | str], checkpoints: pl.DataFrame, methods: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """The tables `mechanism`, a row a cell, and `mechanism_parts`, a row a block and kind of layer of a cell.

    Args:
        study: its name.
        slices: parquets of the stage slice.
        checkpoints, methods: the tables.
    """
    points = {(row["trajectory"], row["checkpoint"]): row for row in checkpoints.to_dicts()}
    recipes = {row["method"]: row for row in methods.to_dicts()}
    whole, pieces = [], []
    for path in slices:
        metadata, cell = read(path)
        about = {"study": study, "dataset": metadata["corpus"]} | {name: metadata[name] for name in CELL}
        point, recipe = points.get((about["trajectory"], about["checkpoint"]), {}), recipes.get(about["method"], {})
        about |= {name: point.get(name) for name in ("family", *POINT)}
        about |= {name: recipe.get(name) for name in ("recipe", "draw")}
        if cell is None:
            whole.append(about | {"reason": metadata["reason"]})
            continue
        sizes = {"tokens_measured": int(cell.tokens.sum()), "documents": len(cell.tokens)}
        whole.append(about | split(cell) | sizes)
        pieces += [about | row for row in parts(cell)]
    order = (*CELL, "dataset")
    return {
        "mechanism": table(whole, MECHANISM, order),
        "mechanism_parts": table(pieces, MECHANISM_PARTS, order),
    }


def layers_table(study: str, files: Iterable[Path | str], checkpoints: pl.DataFrame) -> pl.DataFrame:
    """The table `layers`: a row a layer of a checkpoint, with the numbers that the stage describe_layers writes.

    Args:
        study, checkpoints: as of `mechanism_tables`.
        files: its parquets; those of refused checkpoints have no rows.
    """
    points = checkpoints.select("trajectory", "checkpoint", "family", *POINT)
    place = ("trajectory", "checkpoint")
    frames = []
    for path in files:
        metadata = pl.read_parquet_metadata(path)
        about = {"study": study, **{name: metadata[name] for name in place}, "dataset": metadata["corpus"]}
        columns = [pl.lit(value, pl.String).alias(name) for name, value in about.items()]
        frames.append(pl.read_parquet(path).select(*columns, pl.all()))
    if not frames:
        return pl.DataFrame(schema={"study": pl.String, **points.schema, "dataset": pl.String, "layer": pl.String})
    found = pl.concat(frames).join(points, on=list(place), how="left", maintain_order="left")
    return found.select("study", *points.columns, pl.exclude("study", *points.columns))


def _log(value: float) -> float | None:
    return float(np.log(value)) if value > 0 else None
