"""findings: which sentence follows from which intervals, and that its numbers are those of the tables."""

import itertools

import polars as pl
import pytest

from scripts.lib.analysis.contrasts import AVERAGED, CONTRASTS, DECAY, GPTQ, PEAK
from scripts.lib.report.findings import CAVEAT, NOTHING, corpora, finding, interval, narrow_methods, points, verdict
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import two_peaks, write_study

HIGHER, LOWER, UNRESOLVED = (0.001, 0.003), (-0.003, -0.001), (-0.001, 0.002)  # intervals of the difference of errors
HERE, THERE = 0.018, 0.016  # relative errors of both sides
SPACE = "\u00a0"


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, pl.DataFrame]:
    return tabulate(**write_study(tmp_path_factory.mktemp("study"), two_peaks(), documents=30).arguments())


def pair(bounds: tuple[float, float] | None, kind: str = DECAY, number: int = 1, **changes) -> dict:
    """A row of `contrasts`: the `number`th run's cooldown against its trunk at the same step."""
    side = {"method": "gptq-w3-g32", "checkpoint": "step-2400", "phase": "decay", "step": 2400, "learning_rate": 0.0}
    reference = {f"reference_{name}": value for name, value in side.items()}
    return {
        **{"study": "made-up", "kind": kind, "dataset": "docstrings", "bits": 3, **side, **reference},
        **{"trajectory": f"run{number}-cooldown", "baseline": 3.0, "relative": HERE, "lower": 0.017, "upper": 0.019},
        **{"reference_trajectory": f"run{number}", "reference_baseline": 3.1, "reference_relative": THERE},
        **{"reference_lower": 0.015, "reference_upper": 0.017, "difference": HERE - THERE},
        **dict(zip(("difference_lower", "difference_upper"), bounds or (None, None), strict=True)),
        **changes,
    }


def tell(tables: dict, *rows: dict) -> str:
    """The finding on the made-up study, with these contrasts."""
    contrasts = pl.DataFrame([[row[name] for name in CONTRASTS] for row in rows], CONTRASTS, orient="row")
    return finding(tables["measurements"], tables["checkpoints"], contrasts, "docstrings").replace(SPACE, " ")


# --- one pair --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "word"),
    [
        (HIGHER, "higher"),
        (LOWER, "lower"),
        (UNRESOLVED, "not resolved"),
        ((0.0, 0.002), "not resolved"),
        ((-0.002, 0.0), "not resolved"),
        (None, "not resolved"),
    ],
)
def test_errors_differ_only_if_the_interval_leaves_out_zero(bounds, word):
    assert verdict(pair(bounds)) == word


def test_the_verdict_is_that_of_the_pair_not_of_two_overlapping_intervals():
    """Errors whose own intervals overlap may differ: both are measured on the same documents."""
    assert verdict(pair(HIGHER, lower=0.010, upper=0.030, reference_lower=0.010, reference_upper=0.030)) == "higher"


def test_errors_are_told_in_percent_and_differences_in_points():
    row = pair(HIGHER)
    assert interval(row) == f"1.80{SPACE}% [1.70, 1.90]"
    assert interval(row, "reference_") == f"1.60{SPACE}% [1.50, 1.70]"
    assert interval(row | {"lower": None}) == f"1.80{SPACE}%"
    assert points(row) == "+0.20 [+0.10, +0.30]"
    assert points(pair(None)) == "+0.20"


# --- several pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((HIGHER,), "higher in 1 of 1 case than"),
        ((HIGHER, HIGHER), "higher in 2 of 2 cases than"),
        ((LOWER, HIGHER, HIGHER), "higher in 2 of 3 cases and lower in 1 than"),
        ((UNRESOLVED, LOWER), "lower in 1 of 2 cases and not resolved in 1 than"),
        ((UNRESOLVED, LOWER, HIGHER), "higher in 1 of 3 cases and lower in 1 and not resolved in 1 than"),
        ((UNRESOLVED, UNRESOLVED), "not resolvably higher or lower in any of 2 cases than"),
    ],
)
def test_cases_are_counted_by_verdict(tables, bounds, words):
    told = tell(tables, *(pair(each, number=number) for number, each in enumerate(bounds)))
    assert f"the 3-bit error (gptq-w3-g32) is {words} without the decay" in told


def test_each_case_is_told_with_its_verdict_where_they_differ(tables):
    told = tell(tables, pair(HIGHER), pair(UNRESOLVED, number=2, reference_step=2000))
    first = "1.80 % [1.70, 1.90] in run1-cooldown against 1.60 % [1.50, 1.70] in run1 (both at step 2400), higher"
    second = "in run2-cooldown against 1.60 % [1.50, 1.70] in run2 (steps 2400 and 2000), not resolved"
    assert f"{first}; 1.80 % [1.70, 1.90] {second}" in told
    assert "(both at step 2400), higher" not in tell(tables, pair(HIGHER), pair(HIGHER, number=2))


def test_many_cases_are_told_by_their_range(tables):
    rows = [pair(HIGHER, number=number, difference=number / 1000) for number in range(1, 6)]
    assert "run4-cooldown" in tell(tables, *rows[:4])
    told = tell(tables, *rows)
    assert "run4-cooldown" not in told
    assert "the differences lie between +0.10 and +0.50 percentage points" in told


def test_it_says_in_how_many_cases_the_baseline_gained(tables):
    told = tell(tables, pair(HIGHER), pair(HIGHER, number=2, baseline=3.2))
    assert "while the baseline's loss is lower in 1 of 2" in told


def test_further_methods_follow_in_brackets_and_wider_ones_are_left_out(tables):
    narrow, wide = pair(LOWER, method="rtn-w3-g32"), pair(LOWER, method="gptq-w4-g32", bits=4)
    told = tell(tables, pair(HIGHER), narrow, wide)
    assert "(rtn-w3-g32: lower in 1 of 1 case.)" in told
    assert "gptq-w4-g32" not in told


def test_peaks_are_told_at_the_lowest_equal_loss(tables):
    early = pair(LOWER, PEAK, baseline=3.5, learning_rate=6e-3, reference_learning_rate=1.5e-3, relative=0.5)
    told = tell(tables, early, early | {"baseline": 3.25, "reference_baseline": 3.24, "relative": HERE})
    assert "under the higher peak rate is lower in 2 of 2 cases; at the lowest such loss, 3.250 and 3.240" in told
    assert "it is 1.80 % [1.70, 1.90] under 6e-3 and 1.60 % [1.50, 1.70] under 1.5e-3" in told


def test_an_average_is_told_by_its_last_step_but_all_are_counted(tables):
    first = pair(LOWER, AVERAGED, trajectory="run1-lawa", step=2000, reference_step=2000, relative=0.5)
    told = tell(tables, first, pair(LOWER, AVERAGED, trajectory="run1-lawa"))
    assert "lower in 2 of 2 cases than that of their run: 1.80 % [1.70, 1.90] in run1-lawa" in told
    assert "step 2000" not in told


def test_gptq_is_told_by_means_over_all_cases_of_each_method(tables):
    rows = [pair(LOWER, GPTQ, number=n, relative=n / 100, reference_method="rtn-w3-g32") for n in (1, 2)]
    told = tell(tables, *rows, rows[0] | {"method": "gptq-w4-g32", "bits": 4})
    assert "lower in 2 of 2 cases than that of rtn-w3-g32 (means 1.50 % and 1.60 %)" in told
    assert "(gptq-w4-g32: lower in 1 of 1 case.)" in told


# --- what cannot be said ---------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_said_and_the_caveat_always(tables):
    told = tell(tables)
    assert all(sentence in told for sentence in NOTHING.values())
    assert told.startswith("On docstrings, 4 methods were measured at 18 checkpoints of 6 trajectories.")
    assert told.endswith(CAVEAT)
    rows = {kind: pair(HIGHER, kind, learning_rate=1e-3, reference_learning_rate=1e-4) for kind in NOTHING}
    for one, other in itertools.permutations(NOTHING, 2):
        assert NOTHING[other] in tell(tables, rows[one])
        assert NOTHING[one] not in tell(tables, rows[one])


def test_contrasts_of_another_corpus_are_not_told(tables):
    assert NOTHING[DECAY] in tell(tables, pair(HIGHER, dataset="c4"))


def test_a_study_without_quantized_losses_says_so(tables):
    bare = tables["measurements"].filter(method="none")
    told = finding(bare, tables["checkpoints"], tables["contrasts"], "docstrings")
    assert told.startswith("No quantized model has a loss on docstrings")
    assert corpora(bare) == ["docstrings"]


@pytest.mark.parametrize(
    ("bits", "chosen"),
    [
        ({"a": 2, "b": 3, "c": 4}, ["b"]),
        ({"a": 4, "b": 8, "c": 4}, ["a", "c"]),
        ({"a": None, "b": 4}, ["b"]),
        ({"a": None}, []),
    ],
)
def test_the_narrow_methods_have_three_bits_or_the_fewest(bits, chosen):
    losses = pl.DataFrame({"method": list(bits), "bits": list(bits.values())}, {"method": pl.String, "bits": pl.Int64})
    assert narrow_methods(losses) == chosen


def test_the_made_up_study_is_told_as_it_was_made(tables):
    """Its errors rise with the decay; its GPTQ loses less than round-to-nearest everywhere."""
    told = finding(tables["measurements"], tables["checkpoints"], tables["contrasts"], "docstrings")
    assert "is higher in 2 of 2 cases than without the decay" in told
    assert "The error of gptq-w3-g32 is lower in 18 of 18 cases than that of rtn-w3-g32" in told
