"""What to ship: agreement with a calculation by hand, planted worlds, and the way through tabulate."""

import math

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.choices import Candidate, choices_table, choose, front, near_end, sentences
from scripts.lib.analysis.tables import CHOICES
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import two_peaks, write_study

CHECKPOINTS = ("step-100", "step-200", "step-300", "step-400")
METHODS = {"two": (1000, 2.25), "three": (1500, 3.25), "none": (9000, 32.0)}
SHIFT = {("step-200", "two"): 0.1, ("step-400", "two"): 0.5, ("step-300", "three"): 0.05, ("step-400", "none"): -0.2}


def candidate(checkpoint: str, method: str, size: int, bits: float, loss: np.ndarray, tokens: np.ndarray) -> Candidate:
    return Candidate(("own", checkpoint, method), size, round(0.9 * size), bits, loss * tokens, tokens)


def twelve(documents: int = 60) -> list[Candidate]:
    """Four checkpoints by three methods, whose losses differ by much more than their noise."""
    generator = np.random.default_rng(3)
    tokens, difficulty = generator.integers(20, 200, documents).astype(float), generator.normal(4, 0.5, documents)
    return [
        candidate(
            *(checkpoint, method, *about),
            difficulty + SHIFT.get((checkpoint, method), 0.3) + generator.normal(0, 0.02, documents),
            tokens,
        )
        for checkpoint in CHECKPOINTS
        for method, about in METHODS.items()
    ]


def test_agrees_with_a_calculation_by_hand():
    models = twelve()
    rows = {(row["checkpoint"], row["method"]): row for row in choose(models, 0.95)}

    def loss(one: Candidate, start: int) -> float:
        return sum(one.losses[start::2]) / sum(one.tokens[start::2])

    best = {}
    for model in models:
        smaller = [other for other in models if other.bytes <= model.bytes]
        is_best = all(loss(model, 0) <= loss(other, 0) for other in smaller)
        row = rows[model.cell[1:]]
        assert row["loss"] == pytest.approx(loss(model, 1))
        assert row["loss_lower"] < row["loss"] < row["loss_upper"]
        assert row["on_front"] == is_best
        if not is_best:
            assert "runner_up" not in row
            continue
        best[model.cell[2]] = model.cell[1]
        second = min((other for other in smaller if other is not model), key=lambda other: loss(other, 0))
        assert row["runner_up"] == "/".join(second.cell)
        assert row["regret"] == pytest.approx(loss(second, 1) - loss(model, 1))
        # the interval of a difference of two means of the same tokens: that of a mean of differences by document
        tokens = model.tokens[1::2]
        difference = (second.losses - model.losses)[1::2] - row["regret"] * tokens
        error = math.sqrt(sum(difference**2)) / sum(tokens)
        assert (row["regret_upper"] - row["regret_lower"]) / 2 == pytest.approx(2.05 * error, rel=0.1)
        assert row["regret_lower"] > 0
        assert row["best_probability"] == 1
    assert best == {"two": "step-200", "three": "step-300", "none": "step-400"}
    assert sum(row["best_probability"] for row in rows.values()) == pytest.approx(3)


def test_planted_dominated_options_never_win():
    """Larger and worse by three standard errors, in many worlds: neither on the front nor probable."""
    generator = np.random.default_rng(0)
    tokens = np.full(80, 100.0)
    for _ in range(50):
        common = generator.normal(4, 0.5, 80)
        good = candidate("step-2", "small", 1000, 2.0, common + generator.normal(0, 0.1, 80), tokens)
        bad = [
            candidate("step-1", name, size, 4.0, common + 0.1 + generator.normal(0, 0.1, 80), tokens)
            for name, size in (("same size", 1000), ("larger", 1200), ("largest", 5000))
        ]
        rows = choose([*bad, good], 0.95)
        assert [row["on_front"] for row in rows] == [False, False, False, True]
        assert all(row["best_probability"] < 0.05 for row in rows[:3])


def test_a_planted_tie_is_not_called():
    """Two equal models of one size, in 200 worlds: called in about 5 %, each as often the more probable."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(50, 150, 120).astype(float)
    called, probability = 0, []
    for _ in range(200):
        common = generator.normal(4, 0.5, 120)
        models = [candidate(name, "m", 1000, 3.0, common + generator.normal(0, 0.1, 120), tokens) for name in "ab"]
        rows = choose(models, 0.95)
        called += any(row.get("regret_lower", 0) > 0 for row in rows)
        probability.append(rows[0]["best_probability"])
    assert called <= 12  # one-sided 2.5 % of 200 is 5
    assert np.mean(probability) == pytest.approx(0.5, abs=0.07)


def test_the_same_model_twice_is_a_tie_to_the_last_digit():
    tokens, loss = np.full(20, 10.0), np.random.default_rng(0).normal(4, 0.5, 20)
    rows = choose([candidate(name, "three", 1000, 3.0, loss, tokens) for name in ("a", "b")], 0.95)
    assert [row["best_probability"] for row in rows] == [0.5, 0.5]
    (row,) = [row for row in rows if row["on_front"]]
    assert (row["regret"], row["regret_lower"], row["regret_upper"]) == (0, 0, 0)
    (told,) = sentences(as_table(rows))
    assert "a of own by three" in told
    assert "b of own by three" in told
    assert "best with a probability of 0.50" in told
    assert told.endswith("these documents do not tell which is better.")


def test_the_regret_of_the_lucky_is_not_too_high():
    """Twenty equal models: judged by the documents that chose, the best of them would seem better than it is."""
    generator, tokens, regrets = np.random.default_rng(2), np.full(60, 100.0), []
    for _ in range(100):
        models = [candidate(str(k), "m", 1000, 3.0, 4 + generator.normal(0, 0.1, 60), tokens) for k in range(20)]
        regrets += [row["regret"] for row in choose(models, 0.95) if row["on_front"]]
    assert abs(np.mean(regrets)) < 3 * np.std(regrets) / 10


def test_the_front_takes_the_first_of_equals():
    assert front(np.array([2, 1, 2, 3, 1]), np.array([1.0, 2.0, 1.0, 1.0, 3.0])) == [1, 0]


def test_near_the_end():
    points = {("trunk", f"step-{step}"): {"step": step, "tokens": 10 * step} for step in (100, 199, 200, 400)}
    points |= {("early", "step-50"): {"step": 50, "tokens": 500}, ("early", "step-60"): {"step": 60, "tokens": None}}
    assert near_end(points) == {("trunk", "step-200"), ("trunk", "step-400"), ("early", "step-60")}


# --- sentences -------------------------------------------------------------------------------------------------------


def as_table(rows: list[dict], run: str = "own") -> pl.DataFrame:
    return pl.DataFrame([{"run": run, "dataset": "text", **row} for row in rows], CHOICES, strict=False)


def test_sentences_name_size_choice_and_next_best():
    told = sentences(as_table(choose(twelve(), 0.95)).sort("bytes"))
    assert len(told) == 3
    start, rest = told[0].split(": ")
    assert start == "Up to 2.25 bits a weight (0.001 MB and 0.0009 MB after zstd)"
    assert rest.startswith("step-200 of own by two, loss 3.")
    assert "; next best step-" in rest
    assert "worse by 0.19" in rest or "worse by 0.20" in rest
    assert rest.endswith("] nats a token.")
    assert "step-400 of own unquantized" in told[2]


def test_a_size_with_one_candidate_has_no_next_best():
    models = [model for model in twelve() if model.cell[1] == "step-200"]
    assert sentences(as_table(choose(models, 0.95)).sort("bytes"))[0].endswith("; nothing else is as small.")


def test_sentences_name_the_run_where_there_are_several():
    rows = choose(twelve(), 0.95)
    told = sentences(pl.concat([as_table(rows, "first"), as_table(rows, "second")]))
    assert [text.split(" on ")[0] for text in told] == ["first"] * 3 + ["second"] * 3
    assert sentences(pl.DataFrame(schema=CHOICES)) == []


# --- through tabulate ------------------------------------------------------------------------------------------------


def test_every_run_of_a_study_gets_its_choice(tmp_path):
    methods = {"rtn-w3-g32": (3, 0.02), "gptq-w4-g32": (4, 0.004), "gptq-w4-g32@2": (4, 0.0001)}
    study = write_study(tmp_path, two_peaks(), methods, documents=60, tasks=False)
    table = tabulate(**study.arguments())["choices"]
    assert set(table["run"]) == {"low", "high"}
    assert set(table["method"]) == {"none", "rtn-w3-g32", "gptq-w4-g32"}, "draw 1 alone"
    steps = table.filter(run="low", trajectory="low")["checkpoint"].unique().sort().to_list()
    assert steps == ["step-1400", "step-2000", "step-2200", "step-2400"]
    assert len(table) == 2 * 3 * (4 + 2 + 1)
    assert table.filter(method="rtn-w3-g32")["bytes"].unique().to_list() == [1_450_000]
    assert table.filter(method="none")["bits_per_weight"][0] == pytest.approx(32, rel=1e-3)
    for _, part in table.filter("on_front").group_by("run"):
        assert part["method"].to_list() == ["rtn-w3-g32", "gptq-w4-g32", "none"]
        assert set(part["trajectory"].str.split("-").list[-1]) == {"cooldown"}, "the lowest loss, as it is made up"
    assert len(sentences(table)) == 6


def test_without_quantized_models_there_is_nothing_to_choose():
    assert choices_table("none", [], {}, {}, {}, 0.95).schema == CHOICES
