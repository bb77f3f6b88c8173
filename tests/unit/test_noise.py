"""noise: planted standard deviations come back, degrees of freedom count runs, and what is not replicated says so."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from scripts.lib.analysis import effects, noise
from scripts.lib.analysis.measures import Measure

STEPS = (1200, 1250, 1300, 1350, 1400, 1450)
SEEDS, DRAWS = (1, 2, 3, 4, 5, 6), (1, 2, 3)
PLANTED = {"seeds": 0.05, "calibration": 0.02, "neighbours": 0.03, "numerics": 0.01}
SHAPE = {"weight_decay": 0.5, "schedule.peak": 3e-3}


def runs_table(*rows: dict) -> pl.DataFrame:
    blank = dict.fromkeys(("family", "root", "kind", "parent", "parent_checkpoint", "seed", *SHAPE))
    rows = [blank | {"family": row["trajectory"], "root": row["trajectory"], "kind": "trunk"} | row for row in rows]
    return pl.DataFrame(rows)


def family(name: str, root: str, kind: str, seeds=SEEDS, **settings) -> list[dict]:
    """A family of runs over seeds, as the table `runs` has it."""
    own = {"family": name, "kind": kind, "data_seed": None} | SHAPE | settings
    return [own | {"trajectory": f"{name}-{s}", "root": f"{root}-{s}", "seed": s, "data_seed": s} for s in seeds]


RUNS = runs_table(*family("trunk", "trunk", "trunk"), *family("cooldown", "trunk", "branch"))
NEIGHBOURS = [[(f"trunk-{seed}", f"step-{step}") for step in STEPS] for seed in SEEDS]


def rows_of(cell: dict, kl: float, agreement: float, loss: float, base: float = 3.0) -> list[dict]:
    """Rows of `measurements` of one cell."""
    found = {"kl": (kl, 0.0), "top1_agreement": (agreement, 1.0), "cross_entropy": (loss, base)}
    return [
        cell | {"dataset": "text", "subset": None, "metric": metric, "value": value, "baseline": baseline}
        for metric, (value, baseline) in found.items()
    ]


def world(generator, planted=PLANTED, shared: bool = True) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`measurements` of a study and of its repeat.

    A seed moves all cells of a run alike, so does a draw if `shared`; neighbours scatter about a line. On logarithms of
    KL as planted, on the share of tokens that agree a tenth of it, on nats a hundredth.
    """
    rows, again = [], []
    for seed in SEEDS:
        of_seed = planted["seeds"] * generator.standard_normal()
        of_draw = {k: planted["calibration"] * generator.standard_normal() for k in DRAWS}
        for name, steps in ((f"trunk-{seed}", STEPS), (f"cooldown-{seed}", STEPS[-1:])):
            for step in steps:
                of_step = planted["neighbours"] * generator.standard_normal() + 1e-3 * step
                for method, recipe, draw in METHODS:
                    cell = {"trajectory": name, "checkpoint": f"step-{step}", "tokens": 3072 * step}
                    cell |= {"method": method, "recipe": recipe, "draw": draw}
                    text = of_draw.get(draw, 0.0) if shared else planted["calibration"] * generator.standard_normal()
                    shift = of_seed + of_step + text
                    for target in (rows, again):
                        moved = shift + planted["numerics"] * generator.standard_normal()
                        numbers = (0.05 * np.exp(moved), 0.9 + moved / 10, 3.1 + moved / 100)
                        target += rows_of(cell, *numbers)
    return pl.DataFrame(rows), pl.DataFrame(again)


METHODS = [("rtn", "rtn", None), *((f"gptq@{k}" if k > 1 else "gptq", "gptq", k) for k in DRAWS)]


def estimates(found: pl.DataFrame, **chosen) -> tuple[float, float]:
    (row,) = found.filter(**chosen).to_dicts()
    return row["standard_deviation"], row["degrees_of_freedom"]


def only(source: str) -> dict:
    return {name: (sd if name == source else 0.0) for name, sd in PLANTED.items()}


SCALES = {"kl": 1.0, "top1_agreement": 0.1, "penalty": 0.01, "loss": 0.01, "relative_error": 0.01 / 3}
HELD_BY = {
    **{"seeds": [], "calibration": ["seeds"], "neighbours": ["seeds"]},
    "numerics": ["seeds", "calibration", "neighbours"],
}
FREEDOM = {"calibration": len(SEEDS) * 2, "neighbours": len(SEEDS) * 4, "seeds": 5, "numerics": len(SEEDS)}


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_standard_deviation_comes_back_within_its_own_uncertainty(source):
    """Cells of a run share what was planted, so that only runs count: s^2 f / sigma^2 is chi-square with f degrees."""
    measured, again = world(np.random.default_rng(20), only(source))
    errors = noise.document_errors([])
    found = noise.noise_table("made-up", measured, RUNS, errors, NEIGHBOURS, again)
    for measure, scale in SCALES.items():
        value, freedom = estimates(found, source=source, measure=measure, method="gptq", dataset="text")
        assert freedom == FREEDOM[source]
        low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], freedom)
        assert low < freedom * (value / (scale * PLANTED[source])) ** 2 < high
    moved = found.filter(pl.col("standard_deviation") > 1e-6, method="gptq")
    assert set(moved["source"]) == {source, *HELD_BY[source]}


@pytest.mark.parametrize("source", ["calibration", "seeds", "neighbours"])
def test_variances_are_unbiased_and_as_uncertain_as_their_degrees_say(source):
    generator, found, worlds = np.random.default_rng(3), [], 100
    for _ in range(worlds):
        measured, _ = world(generator, only(source))
        table = noise.noise_table("made-up", measured, RUNS, noise.document_errors([]), NEIGHBOURS)
        value, freedom = estimates(table, source=source, measure="kl", method="gptq", dataset="text")
        found.append((value / PLANTED[source]) ** 2)
    spread = np.sqrt(2 / freedom)  # of a chi-square variable over its degrees of freedom
    assert abs(np.mean(found) - 1) < 4 * spread / np.sqrt(worlds)
    assert np.std(found) < 1.3 * spread


def test_draws_of_cells_that_have_nothing_in_common_are_not_overrated():
    measured, _ = world(np.random.default_rng(5), only("calibration"), shared=False)
    value, freedom = estimates(noise.of_draws(noise.values(measured), ROOTS), measure="kl", method="gptq")
    assert freedom == FREEDOM["calibration"]
    assert value == pytest.approx(PLANTED["calibration"], rel=0.2), "42 cells of three draws"


ROOTS = dict(RUNS.select("trajectory", "root").iter_rows())


def test_all_sources_at_once_are_told_apart():
    measured, again = world(np.random.default_rng(0))
    found = noise.noise_table("made-up", measured, RUNS, noise.document_errors([]), NEIGHBOURS, again)
    sd = {source: estimates(found, source=source, measure="kl", method="gptq")[0] for source in PLANTED}
    numerics, draws, steps = (PLANTED[name] for name in ("numerics", "calibration", "neighbours"))
    assert sd["numerics"] == pytest.approx(numerics, rel=0.3)
    assert sd["calibration"] == pytest.approx(np.hypot(draws, numerics), rel=0.4)
    assert sd["neighbours"] == pytest.approx(np.hypot(steps, numerics), rel=0.4)
    whole = np.sqrt(sum(value**2 for value in PLANTED.values()))
    assert sd["seeds"] == pytest.approx(whole, rel=0.6), "seeds hold all others"


def test_documents_are_those_of_the_cells():
    """Against the standard error of a mean of independent documents of equal size."""
    generator, documents = np.random.default_rng(1), 400
    names, sizes = np.arange(documents).astype(str), np.full(documents, 100.0)
    base = 100 * (3 + 0.5 * generator.standard_normal(documents))
    added = 100 * (0.1 + 0.04 * generator.standard_normal(documents))
    kl = 100 * (0.05 + 0.02 * generator.standard_normal(documents))

    def measured(method, metric, sums):
        place = ("trunk-1", "step-1200", method), "evaluate_loss", "text", None, metric, "float32"
        return Measure(*place, names, sums, sizes)

    both = [measured(m, "cross_entropy", s) for m, s in (("none", base), ("rtn", base + added))]
    both += [measured(m, "kl", s) for m, s in (("none", 0 * kl), ("rtn", kl))]
    errors = noise.document_errors(both)
    cell = {"trajectory": "trunk-1", "checkpoint": "step-1200", "tokens": 1, "method": "rtn", "recipe": "rtn"}
    found = pl.DataFrame(rows_of(cell | {"draw": None}, kl.sum() / sizes.sum(), 0.9, 3.1))
    found = noise.of_documents(errors, noise.values(found))
    root = np.sqrt(documents)
    expected = {
        "penalty": added.std(ddof=1) / 100 / root,
        "loss": (base + added).std(ddof=1) / 100 / root,
        "kl": kl.std(ddof=1) / kl.mean() / root,
        "relative_error": np.std(added - added.sum() / base.sum() * base, ddof=1) / base.mean() / root,
    }
    for measure, value in expected.items():
        sd, freedom = estimates(found, measure=measure)
        assert sd == pytest.approx(value, rel=2e-3), measure
        assert 200 < freedom < documents


@pytest.mark.parametrize("name", noise.MEASURES)
def test_measures_are_those_of_comparisons(name):
    """What the ledger makes of means over tokens or bytes is what effects.py makes of sums over documents."""
    sums = np.random.default_rng(4).uniform(1, 2, size=(2, 6, 30))
    sums[:, 0] += sums[:, 1]  # a quantized model is worse than its baseline
    cells = [effects.Sums(*(100 * cell), np.empty((0, 30)), np.empty(0)) for cell in sums]
    effect = effects.effect(effects.MEASURES[name], *cells)

    def on_its_scale(cell):
        total = cell.total()
        numbers = {"kl": (total.kl, 0.0), "top1_agreement": (total.agree, total.tokens)}
        both = numbers.get(noise.MEASURES[name].metric, (total.quantized, total.baseline))
        bits = noise.MEASURES[name].metric == "bits_per_byte"
        return noise.MEASURES[name].of(np.array(both) / (np.log(2) * total.bytes if bits else total.tokens))

    assert on_its_scale(cells[0]) - on_its_scale(cells[1]) == pytest.approx(effect)


def test_runs_that_differ_in_more_than_the_seed_are_no_replicates():
    changed = runs_table(
        *family("trunk", "trunk", "trunk", (1, 2)),
        *family("other", "other", "trunk", (1, 2), weight_decay=0.1),
        {"trajectory": "published"},
    )
    designs = noise.designs_of(changed)
    assert designs["trunk-1"] == designs["trunk-2"] != designs["other-1"] == designs["other-2"]
    assert "published" not in designs
    own_data = changed.with_columns(data_seed=pl.when(trajectory="trunk-2").then(9).otherwise("data_seed"))
    designs = noise.designs_of(own_data)
    assert designs["trunk-1"] != designs["trunk-2"], "the order of the data differs as well as the seed"


def test_runs_in_files_of_their_own_are_replicates_too():
    alone = runs_table(*({"trajectory": f"mine-{seed}", "seed": seed} for seed in (1, 2)))
    assert len(set(noise.designs_of(alone).values())) == 1


def test_runs_of_one_seed_that_no_setting_tells_apart_are_no_replicates():
    """Such as two lists of segments of a schedule, which are no coordinate."""
    alike = runs_table(*({"trajectory": name, "seed": seed} for name, seed in (("a", 1), ("b", 1), ("c", 2))))
    assert noise.designs_of(alike) == {}


def test_what_a_study_does_not_replicate_has_a_row_with_the_reason():
    measured, _ = world(np.random.default_rng(2))
    one = measured.filter(pl.col("trajectory") == "trunk-1", pl.col("method").is_in(["rtn", "gptq"]))
    found = noise.noise_table("made-up", one, RUNS.head(1), noise.document_errors([]))
    assert found.schema == pl.Schema(noise.NOISE)
    assert found["standard_deviation"].null_count() == found["measure"].null_count() == len(found)
    said = {(row["source"], row["method"]): row["reason"] for row in found.to_dicts()}
    assert said == {
        **{("documents", method): noise.NO_DOCUMENTS for method in ("gptq", "rtn")},
        **{("calibration", "gptq"): noise.NO_DRAWS, ("calibration", "rtn"): noise.NO_TEXT},
        **{("neighbours", method): noise.NO_NEIGHBOURS for method in ("gptq", "rtn")},
        **{("seeds", method): noise.NO_SEEDS for method in ("gptq", "rtn")},
        **{("numerics", method): noise.NO_REPEAT for method in ("gptq", "rtn")},
    }


def test_a_study_without_a_quantized_model_has_an_empty_ledger():
    measured, _ = world(np.random.default_rng(2))
    none = measured.filter(pl.col("method") == "none")
    assert noise.noise_table("made-up", none, RUNS, noise.document_errors([])).is_empty()


def test_the_band_of_a_figure_adds_variances():
    rows = [("calibration", 0.3, 6.0), ("neighbours", 0.4, 12.0), ("seeds", 1.0, 2.0)]
    place = {"study": "made-up", "measure": "kl", "method": "gptq", "dataset": "text"}
    columns = ("source", "standard_deviation", "degrees_of_freedom")
    ledger = pl.DataFrame([dict.fromkeys(noise.NOISE) | place | dict(zip(columns, row, strict=True)) for row in rows])
    sd, freedom = noise.combined(ledger, "kl", "gptq", "text")
    assert sd == pytest.approx(0.5)
    assert freedom == pytest.approx(0.25**2 / (0.09**2 / 6 + 0.16**2 / 12))
    assert noise.combined(ledger, "kl", "gptq", "text", ["seeds"]) == (1.0, 2.0)
    assert noise.combined(ledger, "kl", "gptq", "text", ["numerics"]) is None
    assert noise.combined(ledger, "kl", "rtn", "text") is None
