"""tabulate: everything that was measured for a study, as tidy tables."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from scripts.lib.analysis import intervals, metrics
from scripts.lib.analysis.choices import choices_table
from scripts.lib.analysis.costs import costs_table
from scripts.lib.analysis.datasets import datasets_table
from scripts.lib.analysis.effects import sums_of_cells
from scripts.lib.analysis.judging import Results, judged
from scripts.lib.analysis.measures import Measure, aligned, paired, read_loss, read_tasks
from scripts.lib.analysis.mechanism import bends
from scripts.lib.analysis.methods import methods_table, versions_table
from scripts.lib.analysis.metrics import CROSS_ENTROPY, METRICS, TOKENS_LOST
from scripts.lib.analysis.noise import NO_REPEAT, document_errors, noise_table
from scripts.lib.analysis.places import places
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
from scripts.lib.analysis.tokens_lost import Lost, estimate, history
from scripts.lib.analysis.training import training_table
from scripts.lib.runtime import manifests
from scripts.lib.study.claims import fixed

CHECKPOINT_ORDER = ("trajectory", "step", "checkpoint")
LOSS = (CROSS_ENTROPY.name, None)  # the metric and the subset that tokens lost are found by
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
    refused: Iterable[dict] = (),
    neighbours: Iterable[Iterable[tuple[str, str]]] = (),
    repeat: str | Path | None = None,
    no_repeat: str | None = None,
    claims: dict[str, dict] | None = None,
    lineage: Iterable[dict] = (),
    record: str | Path = "",
    training: Iterable[dict] = (),
    slices: Iterable[Path] = (),
) -> dict[str, pl.DataFrame]:
    """The tables of a study by name, as `TABLES` of scripts/lib/analysis/tables.py lists them, rows in a fixed order.

    `comparisons` and `verdicts` are those of the claims, `choices` says what to ship; `costs` alone holds times.

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
        confidence: coverage of intervals (0.95, say).
        refused: cells that were not run: trajectory, checkpoint, method, reason.
        neighbours: groups of (trajectory, checkpoint) in a stable phase of one trajectory.
        repeat: table `measurements` of the same study computed once more; None if there is none.
        no_repeat: why there is none, where one was named.
        claims: by name, as of `Plan.claims`; none if not given.
        lineage: of the trajectories, as of `Plan.lineage`; claims need it.
        record: file of what the claims said when the study began.
        training: logs of the runs trained here, as of `Plan.training_logs`; files that do not exist are left out.
        slices: parquets of slice, for claims on curvature.

    Raises:
        ValueError: a result belongs to a checkpoint or a quantized cell whose manifest was not given, or two suites
            hold a task of the same name.
    """
    runs = list(runs)
    families = {run["trajectory"]: {"family": run["family"]} for run in runs}
    known = _by_cell(circumstances, CELL[:2])
    points = _by_cell(map(manifests.read, checkpoints), CELL[:2])
    points = {cell: manifest | known[cell] | families[cell[0]] for cell, manifest in points.items()}
    recipes = _by_cell(map(manifests.read, quantized), CELL)
    missing = _refused(points, recipes)
    missing |= {(*(cell[name] for name in CELL), "quantize", None, cell["reason"]): None for cell in refused}
    measures, evaluations = _read_all(losses, tasks, points, recipes, missing)
    measures, known_runs = paired(measures, missing), runs_table(runs)
    good = table([p for p in points.values() if p["status"] == "ok"], CHECKPOINTS, CHECKPOINT_ORDER)
    before = history(good)
    measurements = _measurements(study, measures, points, recipes, before, confidence)
    noise = noise_table(
        study,
        measurements,
        known_runs,
        document_errors(measures),
        neighbours,
        None if repeat is None else pl.read_parquet(repeat),
        no_repeat or NO_REPEAT,
    )
    claims = claims or {}
    found = places(good.iter_rows(named=True), lineage) if claims else []
    results = _results(measures, before, recipes, slices) if claims else None
    comparisons, verdicts = judged(study, claims, found, results, fixed(claims, Path(record)), noise, confidence)
    return {
        "runs": known_runs,
        "checkpoints": good,
        "schedules": _schedules(schedules),
        "training": training_table(training),
        "datasets": datasets_table(study, measures),
        "measurements": measurements,
        "noise": noise,
        "comparisons": comparisons,
        "verdicts": verdicts,
        "choices": choices_table(
            study, measures, points, recipes, {run["trajectory"]: run["root"] for run in runs}, confidence
        ),
        "missing": table([dict(zip(MISSING, (study, *row), strict=True)) for row in missing], MISSING, tuple(MISSING)),
        "costs": costs_table(Path(benchmarks), points, recipes, evaluations, slices),
        "methods": methods_table(recipes.values()),
        "versions": versions_table([*points.values(), *recipes.values()]),
    }


def _by_cell(items: Iterable[dict], names: tuple[str, ...]) -> dict[tuple, dict]:
    return {tuple(item[name] for name in names): item for item in items}


def _results(measures: list[Measure], before: dict, recipes: dict[tuple, dict], slices: Iterable[Path]) -> Results:
    """What claims need of all that was measured."""
    whole = aligned([item for item in measures if item.stage == "evaluate_loss" and item.subset is None])
    draws, losses = {}, {}
    for (*_, method), manifest in recipes.items():
        draws.setdefault(manifest["recipe_name"], {})[manifest["draw"]] = method
    for item in whole:
        if item.cell[2] == "none" and item.metric == CROSS_ENTROPY.name:
            losses.setdefault(item.dataset, {})[item.cell[:2]] = float(item.sums.sum() / item.sizes.sum())
    return Results(sums_of_cells(whole, before, bends(slices)), draws, losses)


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


def _measurements(
    study: str, measures: list[Measure], points: dict, recipes: dict, runs: dict, confidence: float
) -> pl.DataFrame:
    rows = []
    for dataset in sorted({measure.dataset for measure in measures}):
        rows += _rows([measure for measure in measures if measure.dataset == dataset], runs, confidence)
    rows += _suite_rows(rows)
    rows = [{"study": study, **_describe(row, points, recipes)} for row in rows]
    return table(rows, MEASUREMENTS, (*CHECKPOINT_ORDER, "method", "dataset", "metric", "subset"))


def _rows(measures: list[Measure], runs: dict, confidence: float) -> list[dict]:
    """Rows of `measurements` for all measures of one dataset.

    Args:
        measures: of the dataset.
        runs: checkpoints of the runs, as `history` gives them.
        confidence: of `tabulate`.
    """
    found = aligned(measures)
    sums, sizes = (np.array([getattr(measure, name) for measure in found]) for name in ("sums", "sizes"))
    places = {(*m.cell, m.metric, m.subset): index for index, m in enumerate(measures)}
    if len(places) < len(measures):
        raise ValueError(f"{measures[0].dataset} is a task of two suites of this study; give one of them another name")
    base = np.array([places[(*m.cell[:2], "none", m.metric, m.subset)] for m in measures])
    share = np.array([METRICS[m.metric].error == metrics.RELATIVE for m in measures])[:, None]

    def contrast(means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(share, means / means[base] - 1, means - means[base])

    values, spread = intervals.jackknife(lambda means: means, sums, sizes)
    errors, influence = intervals.jackknife(contrast, sums, sizes)
    lower, upper = intervals.document_interval(errors, influence, confidence)
    _exact_bounds(measures, base, sums, sizes, confidence, lower, upper)
    numbers = zip(
        *(values, np.sqrt(intervals.variance(spread)), values[base], lower, upper),
        intervals.effective_documents(sizes),
        strict=True,
    )
    rows = [_row(measure, *row) for measure, row in zip(measures, numbers, strict=True)]
    for i in [i for i, m in enumerate(measures) if (m.metric, m.subset) == LOSS and base[i] != i]:
        run = runs.get(measures[i].cell[:2], {})
        curve = {cell: places.get((*cell, "none", *LOSS)) for cell in run}
        curve = {cell: j for cell, j in curve.items() if j is not None and np.array_equal(sizes[j], sizes[i])}
        trained = np.array([run[cell] for cell in curve], dtype=np.float64)
        lost = estimate(sums[i], sums[list(curve.values())], sizes[i], trained, confidence)
        rows.append(_lost_row(rows[i], lost))
    return rows


def _exact_bounds(measures, base, sums, sizes, confidence: float, lower: np.ndarray, upper: np.ndarray) -> None:
    """Put score intervals where every document is a hit or a miss, for model and baseline; the baseline stays 0."""
    right = sums > 0
    binary = ((sizes == 0) | (sizes == 1)).all(axis=1) & ((sums == 0) | (sums == 1)).all(axis=1)
    exact = [
        index
        for index, measure in enumerate(measures)
        if index != base[index] and binary[index] and binary[base[index]] and measure.stage == "evaluate_tasks"
    ]
    gained = (right[exact] & ~right[base[exact]]).sum(axis=1)
    lost = (~right[exact] & right[base[exact]]).sum(axis=1)
    lower[exact], upper[exact] = intervals.paired_shares(gained, lost, sizes[exact].sum(axis=1), confidence)


def _suite_rows(rows: list[dict]) -> list[dict]:
    """A row a cell, suite and metric: the mean over all tasks of the suite, two or more, each with the same weight.

    Tasks have documents of their own, so that their noise is independent. A cell that lacks one of the tasks has no
    mean; metrics with relative errors have none, nor has a suite that shares its name with one of its tasks.
    """
    groups, members = defaultdict(list), defaultdict(set)
    for row in rows:
        if row["suite"] and METRICS[row["metric"]].error != metrics.RELATIVE:
            groups[*(row[name] for name in CELL), row["suite"], row["metric"]].append(row)
            members[row["suite"], row["metric"]].add(row["dataset"])
    tasks = {(row["dataset"], row["metric"]) for row in rows}
    means = []
    for key, part in groups.items():
        if 2 <= len(part) == len(members[key[3:]]) and key[3:] not in tasks:
            means.append(_mean_row(part))
    return means


def _mean_row(rows: list[dict]) -> dict:
    """The mean of the rows of one cell's tasks."""
    columns = ("difference", "lower", "upper", "value", "baseline", "stderr", "n_effective")
    difference, low, high, value, baseline, stderr, effective = (
        np.array([row[name] for row in rows], dtype=float) for name in columns
    )
    _, lower, upper = intervals.interval_of_mean(difference, low, high)
    numbers = value.mean(), np.sqrt((stderr**2).sum()) / len(rows), baseline.mean(), lower, upper
    described = {**rows[0], "dataset": rows[0]["suite"], "n": sum(row["n"] for row in rows)}
    return described | _numbers(rows[0]["metric"], *numbers, len(rows) ** 2 / (1 / effective).sum())


def _row(measure: Measure, *numbers) -> dict:
    loss = measure.stage == "evaluate_loss"
    return {
        **dict(zip(CELL, measure.cell, strict=True)),
        "metric": measure.metric,
        "dataset": measure.dataset,
        "suite": measure.suite,
        "subset": measure.subset,
        "dtype": measure.dtype,
        **_numbers(measure.metric, *numbers),
        "n": round(measure.sizes.sum()) if loss else len(measure.documents),
    }


def _lost_row(loss: dict, lost: Lost) -> dict:
    """Row of the tokens that a quantized model lost, beside that of its loss."""
    numbers = (lost.value, None, 0.0, lost.value, lost.share, lost.lower, lost.upper)
    return loss | dict(zip(NUMBERS, numbers, strict=True)) | {"metric": TOKENS_LOST.name, "reason": lost.reason}


def _numbers(metric: str, value, stderr, baseline, lower, upper, effective) -> dict:
    """The columns of numbers; the interval is that of the error, see scripts/lib/analysis/metrics.py."""
    relative = metrics.error_of(METRICS[metric], value, baseline)
    numbers = (value, stderr, baseline, value - baseline, relative, lower, upper, effective)
    return dict(zip((*NUMBERS, "n_effective"), map(intervals.known, numbers), strict=True))


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
        snakemake.params.refused,
        snakemake.params.neighbours,
        snakemake.input.get("repeat") or None,
        snakemake.params.no_repeat,
        snakemake.params.claims,
        snakemake.params.lineage,
        snakemake.params.record,
        snakemake.params.training,
        snakemake.input.get("slices", []),
    )
    for name, rows in tables.items():
        rows.write_parquet(snakemake.output[f"{name}_parquet"])
        write_csv(rows, snakemake.output[f"{name}_csv"])
