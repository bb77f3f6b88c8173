"""tabulate: everything that was measured for a study, as tidy tables."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from scripts.lib.analysis import metrics, resampling
from scripts.lib.analysis.contrasts import contrasts_table
from scripts.lib.analysis.costs import costs_table
from scripts.lib.analysis.measures import Measure, paired, read_loss, read_tasks
from scripts.lib.analysis.methods import methods_table, versions_table
from scripts.lib.analysis.metrics import CROSS_ENTROPY, METRICS
from scripts.lib.analysis.noise import NO_REPEAT, document_errors, noise_table
from scripts.lib.analysis.tables import (
    CELL,
    CHECKPOINTS,
    MEASUREMENTS,
    MISSING,
    NUMBERS,
    POINT,
    RECIPE,
    SCHEDULES,
    runs_table,
    table,
    write_csv,
)
from scripts.lib.runtime import manifests

CHECKPOINT_ORDER = ("trajectory", "step", "checkpoint")
LOSS = (CROSS_ENTROPY.name, None)  # the metric and the subset of which `contrasts` compares errors
CHECKPOINT_STAGES = {"hub": "fetch", "average": "average"}


def tabulate(
    study: str,
    runs: Iterable[dict],
    circumstances: Iterable[dict],
    schedules: Iterable[dict],
    checkpoints: Iterable[str | Path],
    quantized: Iterable[str | Path],
    losses: Iterable[str | Path],
    tasks: Iterable[str | Path],
    benchmarks: str | Path,
    confidence: float,
    draws: int,
    seed: int,
    refused: Iterable[dict] = (),
    neighbours: Iterable[Iterable[tuple[str, str]]] = (),
    repeat: str | Path | None = None,
    no_repeat: str | None = None,
) -> dict[str, pl.DataFrame]:
    """The tables of a study by name, as `TABLES` of scripts/lib/analysis/tables.py lists them, rows in a fixed order.

    `contrasts` compares pairs of cells of `measurements`; `costs` alone holds times.

    Args:
        study: name of the study.
        runs: of each trajectory: trajectory, family, root, kind, parent, parent_checkpoint; coordinates, by name.
        circumstances: of each checkpoint: trajectory, checkpoint, parent, step, tokens, learning_rate,
            peak_learning_rate, phase.
        schedules: learning rates of runs, fine enough to be drawn: {"trajectory", "steps", "tokens", "learning_rate"}
            each, with lists of equal length.
        checkpoints, quantized: manifests of its checkpoints and quantized cells, refused ones too.
        losses, tasks: parquets of evaluate_loss and evaluate_tasks, those of the baseline (method `none`) too.
        benchmarks: folder of Snakemake's benchmark files; files that do not exist are left out.
        confidence, draws, seed: coverage of intervals (0.95, say), number and seed of the resamples of documents.
        refused: cells that were not run: trajectory, checkpoint, method, reason.
        neighbours: groups of (trajectory, checkpoint) in a stable phase of one trajectory.
        repeat: table `measurements` of the same study computed once more; None if there is none.
        no_repeat: why there is none, where one was named.

    Raises:
        ValueError: a result belongs to a checkpoint or a quantized cell whose manifest was not given, or two suites
            hold a task of the same name.
    """
    runs = list(runs)
    families = {run["trajectory"]: {"family": run["family"]} for run in runs}
    places = _by_cell(circumstances, CELL[:2])
    points = _by_cell(map(manifests.read, checkpoints), CELL[:2])
    points = {cell: manifest | places[cell] | families[cell[0]] for cell, manifest in points.items()}
    recipes = _by_cell(map(manifests.read, quantized), CELL)
    methods = {cell[2]: manifest["recipe"] for cell, manifest in recipes.items()}
    missing = _refused(points, recipes)
    missing |= {(*(cell[name] for name in CELL), "quantize", None, cell["reason"]): None for cell in refused}
    measures, evaluations = _read_all(losses, tasks, points, recipes, missing)
    measures, known_runs = paired(measures, missing), runs_table(runs)
    measurements, samples = _measurements(study, measures, points, recipes, (confidence, draws, seed))
    good = table([p for p in points.values() if p["status"] == "ok"], CHECKPOINTS, CHECKPOINT_ORDER)
    return {
        "runs": known_runs,
        "checkpoints": good,
        "schedules": _schedules(schedules),
        "measurements": measurements,
        "contrasts": contrasts_table(measurements, good, methods, samples, confidence),
        "noise": noise_table(
            study,
            measurements,
            known_runs,
            document_errors(measures),
            neighbours,
            None if repeat is None else pl.read_parquet(repeat),
            no_repeat or NO_REPEAT,
        ),
        "missing": table([dict(zip(MISSING, (study, *row), strict=True)) for row in missing], MISSING, tuple(MISSING)),
        "costs": costs_table(Path(benchmarks), points, recipes, evaluations),
        "methods": methods_table(recipes.values()),
        "versions": versions_table([*points.values(), *recipes.values()]),
    }


def _by_cell(items: Iterable[dict], names: tuple[str, ...]) -> dict[tuple, dict]:
    return {tuple(item[name] for name in names): item for item in items}


def _schedules(curves: Iterable[dict]) -> pl.DataFrame:
    """One row per step of every curve."""
    rows = [
        dict(zip(SCHEDULES, (curve["trajectory"], *point), strict=True))
        for curve in curves
        for point in zip(*(curve[name] for name in ("steps", "tokens", "learning_rate")), strict=True)
    ]
    return table(rows, SCHEDULES, ("trajectory", "step"))


def _refused(points: dict, recipes: dict) -> dict[tuple, None]:
    """Rows of `missing` (without the study) for checkpoints and quantized cells that were refused."""
    rows = {}
    for cell, point in points.items():
        if point["status"] != "ok":
            rows[*cell, None, CHECKPOINT_STAGES.get(point["source"], "publish"), None, point["reason"]] = None
    for cell, recipe in recipes.items():
        if recipe["status"] != "ok":
            rows[*cell, "quantize", None, recipe["reason"]] = None
    return rows


def _read_all(losses, tasks, points, recipes, missing: dict) -> tuple[list[Measure], list[dict]]:
    """All measures of usable parquets, and the metadata of all parquets; what is refused goes to `missing`."""
    measures, evaluations = [], []
    refused = {row[:3] for row in missing}
    for stage, paths, read in (("evaluate_loss", losses, read_loss), ("evaluate_tasks", tasks, read_tasks)):
        for path in paths:
            metadata = {"stage": stage, **pl.read_parquet_metadata(path)}
            cell = tuple(metadata[name] for name in CELL)
            dataset = metadata["corpus" if stage == "evaluate_loss" else "suite"]
            evaluations.append({**metadata, "dataset": dataset})
            _require_manifests(path, cell, points, recipes)
            if cell in refused or (*cell[:2], None) in refused:
                continue  # refused before it was evaluated, and listed so
            frame = pl.read_parquet(path)
            if metadata["status"] != "ok" or frame.is_empty():
                missing[*cell, stage, dataset, metadata.get("reason") or "the result has no rows"] = None
                continue
            measures += read(frame, cell, metadata)
    return measures, evaluations


def _require_manifests(path, cell: tuple[str, str, str], points: dict, recipes: dict) -> None:
    if cell[:2] not in points:
        raise ValueError(f"{path} measures {cell[0]}/{cell[1]}, but that checkpoint's manifest is not an input")
    if cell[2] != "none" and cell not in recipes:
        raise ValueError(f"{path} measures {'/'.join(cell)}, but the manifest of that quantized cell is not an input")


def _measurements(study: str, measures: list[Measure], points: dict, recipes: dict, bootstrap: tuple) -> tuple:
    """The table `measurements`, and the relative errors of cross-entropy under each resample by dataset and cell."""
    rows, samples = [], {}
    for dataset in sorted({measure.dataset for measure in measures}):
        part = [measure for measure in measures if measure.dataset == dataset]
        found, samples[dataset] = _rows(part, *bootstrap)
        rows += [{"study": study, **_describe(row, points, recipes)} for row in found]
    return table(rows, MEASUREMENTS, (*CHECKPOINT_ORDER, "method", "dataset", "metric", "subset")), samples


def _rows(measures: list[Measure], confidence: float, draws: int, seed: int) -> tuple[list[dict], dict]:
    """Rows of `measurements` for all measures of one dataset, resampled together.

    Returns:
        The rows, and the relative error of cross-entropy under each resample by cell, arrays of shape (draws,).
    """
    documents = np.unique(np.concatenate([measure.documents for measure in measures]))
    sums, sizes = np.zeros((2, len(measures), len(documents)))
    for index, measure in enumerate(measures):
        columns = np.searchsorted(documents, measure.documents)
        sums[index, columns], sizes[index, columns] = measure.sums, measure.sizes
    places = {(*m.cell, m.metric, m.subset): index for index, m in enumerate(measures)}
    if len(places) < len(measures):
        raise ValueError(f"{measures[0].dataset} is a task of two suites of this study; give one of them another name")
    base = np.array([places[(*m.cell[:2], "none", m.metric, m.subset)] for m in measures])
    values, errors = resampling.mean(sums, sizes), resampling.clustered_stderr(sums, sizes)
    samples = resampling.bootstrap_means(sums, sizes, draws, seed, measures[0].dataset)
    share = np.array([METRICS[m.metric].error == metrics.RELATIVE for m in measures])
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.where(share, samples / samples[:, base] - 1, samples - samples[:, base])
    lower, upper = resampling.interval(contrast, confidence)
    single = (sizes > 0).sum(axis=1) < 2
    bounds = [(None, None) if single[i] else (lower[i], upper[i]) for i in range(len(measures))]
    rows = [_row(m, values[i], errors[i], values[base[i]], *bounds[i]) for i, m in enumerate(measures)]
    losses = {m.cell: contrast[:, i] for i, m in enumerate(measures) if (m.metric, m.subset) == LOSS}
    return rows, losses


def _row(measure: Measure, value, stderr, baseline, lower, upper) -> dict:
    loss = measure.stage == "evaluate_loss"
    relative = metrics.error_of(METRICS[measure.metric], value, baseline)
    numbers = (value, stderr, baseline, value - baseline, relative, lower, upper)
    return {
        **dict(zip(CELL, measure.cell, strict=True)),
        "metric": measure.metric,
        "dataset": measure.dataset,
        "subset": measure.subset,
        "dtype": measure.dtype,
        **dict(zip(NUMBERS, map(_number, numbers), strict=True)),
        "n": round(measure.sizes.sum()) if loss else len(measure.documents),
    }


def _number(value) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _describe(row: dict, points: dict, recipes: dict) -> dict:
    """A row with what the manifests of its checkpoint and its quantized cell say."""
    point = points[row["trajectory"], row["checkpoint"]]
    recipe = recipes.get(tuple(row[name] for name in CELL), {})
    return {
        **row,
        **{name: point[name] for name in ("family", *POINT)},
        **{name: recipe.get(name) for name in RECIPE},
        **{"recipe": recipe.get("recipe_name"), "draw": recipe.get("draw")},
    }


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], f"tabulate {snakemake.params.study}")
    tables = tabulate(
        snakemake.params.study,
        snakemake.params.runs,
        snakemake.params.circumstances,
        snakemake.params.schedules,
        *(snakemake.input.get(name, []) for name in ("checkpoints", "quantized", "losses", "tasks")),
        snakemake.params.benchmarks,
        snakemake.params.confidence,
        snakemake.params.bootstrap,
        snakemake.params.seed,
        snakemake.params.refused,
        snakemake.params.neighbours,
        snakemake.input.get("repeat") or None,
        snakemake.params.no_repeat,
    )
    for name, rows in tables.items():
        rows.write_parquet(snakemake.output[f"{name}_parquet"])
        write_csv(rows, snakemake.output[f"{name}_csv"])
