"""The ledger of noise: how far a measure of a quantized model moves where nothing that a study asks about has changed.

Sources are nested: seeds hold the draws of calibration text and the scatter of checkpoints too, for each run has a text
of its own and ends at one checkpoint of many. Documents are apart: all cells are measured on the same ones.

A standard deviation is that of one cell's measure, pooled over all groups of cells that differ in the source alone.
Its degrees of freedom are counted once for each run (a trunk with all that descends from it), because its cells share
their seed, their text and their arithmetic: ten checkpoints of one run with three draws are two degrees, not twenty.
All functions are pure.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from scripts.lib.analysis import effects, intervals
from scripts.lib.analysis.measures import Measure
from scripts.lib.analysis.metrics import BITS_PER_BYTE, CROSS_ENTROPY, KL, TOP1_AGREEMENT, first_draws

DOCUMENTS, CALIBRATION, NEIGHBOURS, SEEDS, NUMERICS = "documents", "calibration", "neighbours", "seeds", "numerics"
SOURCES = (DOCUMENTS, CALIBRATION, NEIGHBOURS, SEEDS, NUMERICS)
NOISE = {
    **dict.fromkeys(("study", "source", "measure", "method", "dataset", "unit"), pl.String),
    **dict.fromkeys(("standard_deviation", "degrees_of_freedom"), pl.Float64),
    "groups": pl.Int64,
    "reason": pl.String,
}
BASELINE = "none"
POINT = ("trajectory", "checkpoint")
KIND = ("measure", "method", "dataset")  # what is pooled; `method` is the recipe's name
IDENTITY = ("trajectory", "family", "root", "parent", "parent_checkpoint", "seed")  # columns of `runs`, no coordinates
NO_DRAWS = "fewer than two draws are measured: add `draws` to its cells"
NO_TEXT = "uses no calibration text"
NO_NEIGHBOURS = "no three neighbours are measured: name some in `replicates.neighbours`"
NO_SEEDS = "no runs that are measured differ in their seed alone"
NO_REPEAT = "no repeat of this study: name its folder in `replicates.numerics`"
NO_DOCUMENTS = "too few documents"


@dataclass(frozen=True)
class Noisy:
    """A measure whose noise is told, as the table `measurements` knows it; what it is stands in effects.py.

    metric: of `measurements`.
    of: the measure on the scale on which two cells are compared, from an array whose first axis is the mean of the
        quantized model and that of its baseline.
    """

    metric: str
    of: Callable[[np.ndarray], np.ndarray]


MEASURES = {
    "relative_error": Noisy(CROSS_ENTROPY.name, lambda means: means[0] / means[1] - 1),
    "penalty": Noisy(CROSS_ENTROPY.name, lambda means: means[0] - means[1]),
    "loss": Noisy(CROSS_ENTROPY.name, lambda means: means[0]),
    KL.name: Noisy(KL.name, lambda means: np.log(means[0])),
    TOP1_AGREEMENT.name: Noisy(TOP1_AGREEMENT.name, lambda means: means[0]),
    "penalty_bits": Noisy(BITS_PER_BYTE.name, lambda means: means[0] - means[1]),
    "loss_bits": Noisy(BITS_PER_BYTE.name, lambda means: means[0]),
}


def noise_table(
    study: str,
    measurements: pl.DataFrame,
    runs: pl.DataFrame,
    errors: pl.DataFrame,
    neighbours: Iterable[Iterable[tuple[str, str]]] = (),
    repeat: pl.DataFrame | None = None,
    no_repeat: str = NO_REPEAT,
) -> pl.DataFrame:
    """The table `noise`: a row a source, measure, method and corpus.

    A source that a study does not replicate for a method has one row, with the reason and without a number.

    Args:
        study: its name.
        measurements, runs: the tables.
        errors: as of `document_errors`.
        neighbours: groups of (trajectory, checkpoint) in a stable phase of one trajectory.
        repeat: `measurements` of the same study computed once more; None if there is none.
        no_repeat: why there is none.
    """
    found, roots = values(measurements), dict(runs.select("trajectory", "root").iter_rows())
    again = None if repeat is None else values(repeat)
    known = {
        DOCUMENTS: of_documents(errors, found),
        CALIBRATION: of_draws(found, roots),
        NEIGHBOURS: of_neighbours(found, neighbours),
        SEEDS: of_seeds(found, runs),
        NUMERICS: of_numerics(found, again, roots),
    }
    reasons = dict(zip(SOURCES, (NO_DOCUMENTS, NO_DRAWS, NO_NEIGHBOURS, NO_SEEDS, no_repeat), strict=True))
    methods = found.group_by("recipe").agg(pl.col("draw").is_not_null().any()).sort("recipe")
    rows = []
    for source in SOURCES:
        rows += [
            {"source": source, **row, "unit": effects.MEASURES[row["measure"]].unit} for row in known[source].to_dicts()
        ]
        for method, calibrated in methods.iter_rows():
            if method not in known[source]["method"]:
                silent = source == CALIBRATION and not calibrated
                rows.append({"source": source, "method": method, "reason": NO_TEXT if silent else reasons[source]})
    rows = [dict.fromkeys(NOISE) | {"study": study} | row for row in rows]
    place = {name: number for number, name in enumerate((*SOURCES, *MEASURES))}
    rows.sort(key=lambda row: (place[row["source"]], row["method"], row["dataset"] or "", place.get(row["measure"], 0)))
    return pl.DataFrame(rows, schema=NOISE)


def values(measurements: pl.DataFrame) -> pl.DataFrame:
    """Every measure of every quantized cell on the corpora, on its scale of comparison; what is not finite is left out.

    Returns:
        trajectory, checkpoint, tokens, recipe, draw, dataset, measure, value.
    """
    corpora = measurements.filter(pl.col("metric") == CROSS_ENTROPY.name)["dataset"].unique().implode()
    cells = measurements.filter(
        pl.col("method") != BASELINE, pl.col("subset").is_null(), pl.col("dataset").is_in(corpora)
    )
    parts = []
    for name, measure in MEASURES.items():
        part = cells.filter(pl.col("metric") == measure.metric)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = measure.of(part.select("value", "baseline").to_numpy().T)
        part = part.select(*POINT, "tokens", "recipe", "draw", "dataset", measure=pl.lit(name))
        parts.append(part.with_columns(pl.Series("value", value, pl.Float64)))
    return pl.concat(parts).filter(pl.col("value").is_finite())


def document_errors(measures: Iterable[Measure]) -> pl.DataFrame:
    """What documents do to each measure of each quantized cell.

    Args:
        measures: as `measures.paired` gives them.

    Returns:
        trajectory, checkpoint, method (as of the cell), dataset, measure, variance (that of the jackknife), freedom.
    """
    whole = {(item.dataset, item.cell, item.metric): item for item in measures if item.subset is None}
    rows = []
    for (dataset, cell, metric), item in whole.items():
        if cell[2] == BASELINE or item.stage != "evaluate_loss":
            continue
        sides = (item, whole[dataset, (*cell[:2], BASELINE), metric])
        sums, sizes = np.stack([side.sums for side in sides]), np.stack([side.sizes for side in sides])
        for name, measure in MEASURES.items():
            if measure.metric == metric:
                _, influence = intervals.jackknife(measure.of, sums, sizes)
                spread = intervals.variance(influence), intervals.degrees_of_freedom(influence)
                rows.append((*cell, dataset, name, *map(float, spread)))
    columns = dict.fromkeys((*POINT, "method", "dataset", "measure"), pl.String)
    columns |= {"variance": pl.Float64, "freedom": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row")


# --- the sources: each a row a measure, method and corpus, with standard_deviation, degrees_of_freedom, groups --------


def of_documents(errors: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Standard errors of single cells; documents are the same for all, so degrees are those of the median cell."""
    first = first_draws(found).select(*POINT, "measure", "dataset", "recipe")
    known = errors.rename({"method": "recipe"}).filter(pl.col("variance").is_finite(), pl.col("freedom").is_finite())
    joined = known.join(first, on=[*POINT, "measure", "dataset", "recipe"], maintain_order="left")
    pooled = joined.group_by("measure", "recipe", "dataset", maintain_order=True)
    return pooled.agg(
        pl.col("variance").mean().sqrt().alias("standard_deviation"),
        pl.col("freedom").median().alias("degrees_of_freedom"),
        pl.len().cast(pl.Int64).alias("groups"),
    ).rename({"recipe": "method"})


def of_draws(found: pl.DataFrame, roots: dict[str, str]) -> pl.DataFrame:
    """Draws of calibration text of one checkpoint.

    Args:
        found: as of `values`.
        roots: trajectory -> trunk that it descends from.
    """
    drawn = found.filter(pl.col("draw").is_not_null())
    return pool(spread(_in_runs(drawn, roots), *POINT))


def of_neighbours(found: pl.DataFrame, neighbours: Iterable[Iterable[tuple[str, str]]]) -> pl.DataFrame:
    """Neighbouring checkpoints about their straight line in tokens.

    Args:
        neighbours: as of `noise_table`.
    """
    groups = [(number, *point) for number, points in enumerate(neighbours) for point in points]
    named = pl.DataFrame(groups, {"run": pl.Int64} | dict.fromkeys(POINT, pl.String), orient="row")
    return pool(spread(first_draws(found).join(named, on=POINT, maintain_order="left"), trend="tokens"))


def of_seeds(found: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Runs that differ in their seed alone, at the same checkpoint.

    Args:
        runs: the table. A seed of the data that follows `seed` is no difference of its own.
    """
    designs = designs_of(runs)
    roots = dict(runs.select("trajectory", "root").iter_rows())
    rows = [(name, design, designs.get(roots[name], design)) for name, design in designs.items()]
    replicates = pl.DataFrame(rows, dict.fromkeys(("trajectory", "design", "run"), pl.String), orient="row")
    alike = first_draws(found).join(replicates, on="trajectory", maintain_order="left")
    return pool(spread(alike, "design", "checkpoint"))


def designs_of(runs: pl.DataFrame) -> dict[str, str]:
    """All that a trained run was set to but its seed, as text.

    Runs without a known seed have no entry, nor have runs of the same seed that no setting tells apart.
    """
    found, seeds = {}, defaultdict(list)
    for run in runs.iter_rows(named=True):
        if run["seed"] is not None:
            settings = {name: value for name, value in run.items() if name not in IDENTITY}
            if settings.get("data_seed") == run["seed"]:
                del settings["data_seed"]
            family = None if run["family"] == run["trajectory"] else run["family"]
            design = repr((family, sorted(settings.items())))
            found[run["trajectory"]] = design
            seeds[design].append(run["seed"])
    return {name: design for name, design in found.items() if len(set(seeds[design])) == len(seeds[design])}


def of_numerics(found: pl.DataFrame, repeat: pl.DataFrame | None, roots: dict[str, str]) -> pl.DataFrame:
    """A study and its repeat, cell by cell.

    Args:
        found, repeat: as of `values`; None without a repeat.
        roots: as of `of_draws`.
    """
    both = found.clear() if repeat is None else pl.concat([found, repeat.select(found.columns)])
    return pool(spread(_in_runs(both, roots), *POINT, "draw"))


def _in_runs(found: pl.DataFrame, roots: dict[str, str]) -> pl.DataFrame:
    return found.with_columns(pl.col("trajectory").replace(roots).alias("run"))


def spread(found: pl.DataFrame, *group: str, trend: str | None = None) -> pl.DataFrame:
    """Sums of squares within groups.

    Args:
        found: `values` with `run`, what degrees of freedom are counted for.
        group: columns that the cells of a group share, besides run, measure, recipe and corpus.
        trend: a column; squares are those about a straight line in it, fitted to each group, not about the mean.

    Returns:
        measure, method, dataset, run, squares, freedom: a row a group of enough cells.
    """
    value, lost = pl.col("value"), 1 if trend is None else 2
    squares = value.var() * (pl.len() - 1)
    if trend:
        x = pl.col(trend).cast(pl.Float64)
        squares = squares - (pl.cov(x, value) ** 2 / x.var()) * (pl.len() - 1)
    groups = found.rename({"recipe": "method"}).group_by(*KIND, "run", *group, maintain_order=True)
    sums = groups.agg(squares.alias("squares"), (pl.len().cast(pl.Int64) - lost).alias("freedom"))
    return sums.filter(pl.col("freedom") > 0, pl.col("squares").is_finite()).with_columns(
        pl.col("squares").clip(lower_bound=0)
    )


def pool(groups: pl.DataFrame) -> pl.DataFrame:
    """Standard deviation over all groups; the degrees of freedom of each run are those of its largest group."""
    runs = groups.group_by(*KIND, "run", maintain_order=True).agg(
        pl.col("squares").sum(),
        pl.col("freedom").sum().alias("weight"),
        pl.col("freedom").max(),
        pl.len().cast(pl.Int64).alias("groups"),
    )
    return runs.group_by(*KIND, maintain_order=True).agg(
        (pl.col("squares").sum() / pl.col("weight").sum()).sqrt().alias("standard_deviation"),
        pl.col("freedom").sum().cast(pl.Float64).alias("degrees_of_freedom"),
        pl.col("groups").sum(),
    )


# --- reading the ledger ----------------------------------------------------------------------------------------------


def combined(
    noise: pl.DataFrame, measure: str, method: str, dataset: str, sources: Iterable[str] = (CALIBRATION, NEIGHBOURS)
) -> tuple[float, float] | None:
    """Standard deviation of one cell's measure from several sources together, and its degrees of freedom.

    Variances add up; degrees of freedom are Satterthwaite's, V^2 / sum(v^2 / f). Sources that the ledger does not know
    add nothing. The defaults are the band of a figure: how far a point lies from where it would lie on the average over
    texts and neighbouring checkpoints. They are part of seeds, so that the two do not go together.

    Args:
        noise: the table.
        method: a recipe's name.

    Returns:
        None if none of the sources is known.
    """
    rows = noise.filter(
        pl.col("standard_deviation").is_not_null(),
        pl.col("source").is_in(list(sources)),
        measure=measure,
        method=method,
        dataset=dataset,
    )
    if rows.is_empty():
        return None
    variances, freedom = rows["standard_deviation"].to_numpy() ** 2, rows["degrees_of_freedom"].to_numpy()
    total, weight = variances.sum(), (variances**2 / freedom).sum()
    return float(np.sqrt(total)), float(total**2 / weight if weight else freedom.min())
