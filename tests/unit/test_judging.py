"""Judging: planted worlds end in the right verdict, or in none, through the tables that tabulate writes."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.effects import MEASURES
from scripts.lib.analysis.judging import COMPARISONS, VERDICTS
from scripts.lib.runtime.config_files import read_yaml
from scripts.lib.study.claims import fix
from scripts.tabulate import tabulate
from tests.unit.planted import ENDS, METHOD, claim, lineage, points, world
from tests.unit.synthetic_study import Study, write_checkpoint, write_loss, write_quantized, write_slice

OPPOSED = ("decay-raises", "rate-not-tokens", "tokens-raise")


def tables(study, rows: list[dict], *names: str, record="", neighbours=(), **claims: dict) -> dict[str, pl.DataFrame]:
    listed = {name: claim(name) for name in names} | claims
    return tabulate(**study.arguments(), neighbours=neighbours, claims=listed, lineage=rows, record=record)


def primary(found: dict[str, pl.DataFrame]) -> dict[str, dict]:
    """The deciding row of each claim."""
    return {row["claim"]: row for row in found["verdicts"].filter(pl.col("primary")).iter_rows(named=True)}


@pytest.mark.parametrize(
    ("tokens", "decay", "verdicts"),
    [
        (0.0, 0.0, ("refuted", "supported", "refuted")),
        (0.5, 0.0, ("refuted", "refuted", "supported")),
        (0.0, 0.5, ("supported", "supported", "refuted")),
        (0.5, 0.5, ("supported", "refuted", "supported")),
    ],
    ids=["neither", "tokens only", "rate only", "both"],
)
def test_planted_worlds_are_found(tmp_path, tokens, decay, verdicts):
    found = primary(tables(*world(tmp_path, tokens, decay), *OPPOSED))
    assert tuple(found[name]["verdict"] for name in OPPOSED) == verdicts
    assert {row["runs"] for row in found.values()} == {3}
    assert all(row["adjusted"] for row in found.values())
    assert found["decay-raises"]["effect"] == pytest.approx(decay, abs=0.05)
    assert found["tokens-raise"]["effect"] == pytest.approx(tokens, abs=0.05)
    assert found["tokens-raise"]["slope"] == pytest.approx(tokens, abs=0.06)
    assert found["tokens-raise"]["unit"] == "log ratio per doubling"
    assert found["decay-raises"]["slope"] is None


def test_the_worlds_cannot_be_told_apart_in_single_runs(tmp_path):
    """Published runs whose rate falls while tokens grow: nothing of it is answered, whatever the world is like."""
    study, _ = world(tmp_path, 0.5, 0.5)
    stable = [point for point in points(1) if point[0] == "run-1"][:2]
    alone = [*stable, ("run-1", "step-2400", None, 2400, 0.0, 6e-3, "decay")]
    rows = lineage(alone, {"run-1": None})
    rows[0] |= {"decay_start": 2000, "decay_end": 2400, "decay_rate": 6e-3}
    part = dataclasses.replace(
        study,
        circumstances=[c | {"phase": "decay"} if c["step"] == 2400 else c for c in study.circumstances],
        checkpoints=[path for path in study.checkpoints if path.parts[-3] == "run-1"],
        quantized=[path for path in study.quantized if path.parts[-4] == "run-1"],
        losses=[path for path in study.losses if path.parts[-4] == "run-1"],
    )
    found = primary(tables(part, rows, *OPPOSED))
    assert {row["verdict"] for row in found.values()} == {"not identifiable"}
    assert {row["effect"] for row in found.values()} == {None}
    assert "in a single run the rate falls while tokens grow" in found["decay-raises"]["reason"]


def test_a_stable_phase_that_is_not_settled_is_not_judged(tmp_path):
    study, rows = world(tmp_path, 0.5, 0.0)
    for row in rows:
        row["weight_decay"] = 0.1
    found = primary(tables(study, rows, *OPPOSED, "stable-stays"))
    assert found["decay-raises"]["verdict"] == "refuted"  # it compares two runs at the same step
    for name in ("rate-not-tokens", "tokens-raise", "stable-stays"):
        assert found[name]["verdict"] == "not identifiable"
        assert "not settled: rate x weight decay x steps is 1." in found[name]["reason"]


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_below_three_seeds_there_is_a_sentence_about_these_runs_only(tmp_path, seeds):
    found = primary(tables(*world(tmp_path, 0.5, 0.5, seeds), *OPPOSED))
    assert {row["verdict"] for row in found.values()} == {"this run only"}
    assert not any(row["adjusted"] for row in found.values())
    assert found["decay-raises"]["reason"] == "in these runs only, documents counted; other runs may differ"
    assert found["decay-raises"]["effect"] == pytest.approx(0.5, abs=0.05)


def test_draws_of_calibration_text_widen_the_interval_of_one_run(tmp_path):
    methods = (METHOD, f"{METHOD}@2", f"{METHOD}@3")
    (row,) = primary(tables(*world(tmp_path, 0.0, 0.5, (1,), methods=methods), "decay-raises")).values()
    assert "documents and 3 draws of calibration text counted" in row["reason"]
    assert row["lower"] < row["effect"] < row["upper"]
    assert row["upper"] - row["lower"] > 0.01
    assert row["method"] == METHOD


def test_further_draws_of_one_end_neither_weigh_it_more_nor_are_taken_for_draws_of_all(tmp_path):
    """Draws are asked for by block: here one of three cooldowns has two more, and its trunk at that step."""
    methods = (METHOD, f"{METHOD}@2", f"{METHOD}@3")
    study, rows = world(tmp_path, 0.0, 0.5, (1,), methods=methods)
    some = dataclasses.replace(
        study,
        quantized=[path for path in study.quantized if "@" not in path.parts[-2] or path.parts[-3] == "step-1400"],
        losses=[path for path in study.losses if "@" not in path.parts[-2] or path.parts[-3] == "step-1400"],
    )
    found = tables(some, rows, "decay-raises")
    pairs = found["comparisons"].filter(measure="kl")
    assert sorted(pairs["step"]) == [1400, 1400, 1400, 1900, 2400]
    (row,) = primary(found).values()
    assert row["effect"] == pytest.approx(pairs.group_by("step").agg(pl.col("effect").mean())["effect"].mean())
    assert "3 draws" not in row["reason"]
    assert "documents and draws of calibration text counted" in row["reason"]  # as the ledger has them


def test_neighbours_widen_the_interval_of_one_run(tmp_path):
    study, rows = world(tmp_path, 0.0, 0.5, (1,))
    bare, wide = (
        primary(tables(study, rows, "decay-raises", "tokens-raise", neighbours=groups))
        for groups in ([], [[("run-1", f"step-{end}") for end in ENDS]])
    )
    for name in ("decay-raises", "tokens-raise"):
        assert "documents and neighbouring checkpoints counted" in wide[name]["reason"]
        assert wide[name]["effect"] == bare[name]["effect"]
        assert wide[name]["lower"] < bare[name]["lower"] <= bare[name]["upper"] < wide[name]["upper"]


def test_an_effect_is_the_mean_within_a_seed_then_over_seeds(tmp_path):
    found = tables(*world(tmp_path, 0.0, 0.5), "decay-raises")
    part = found["comparisons"].filter(claim="decay-raises", measure="kl")
    assert len(part) == 9  # three cooldowns of each of three seeds
    assert part.select("step").equals(part.select(step="reference_step"))
    means = part.group_by("replicate").agg(pl.col("effect").mean()).sort("replicate")
    assert means["replicate"].to_list() == ["seed 1", "seed 2", "seed 3"]
    assert primary(found)["decay-raises"]["effect"] == pytest.approx(means["effect"].mean())
    logs = np.log(part["value"].to_numpy() / part["reference_value"].to_numpy())
    assert np.allclose(logs, part["effect"].to_numpy())


def test_along_an_axis_the_last_is_compared_with_the_first(tmp_path):
    found = tables(*world(tmp_path, 0.5, 0.0), "tokens-raise")
    part = found["comparisons"].filter(measure="kl")
    assert len(part) == 6  # two later ends against the first, in each of three seeds
    last = part.filter(pl.col("step") == ENDS[-1])
    assert primary(found)["tokens-raise"]["effect"] == pytest.approx(last["effect"].mean())
    doublings = math.log2(ENDS[-1] / ENDS[0])
    raw = np.log(last["value"].to_numpy() / last["reference_value"].to_numpy())
    assert np.allclose(raw / doublings, last["effect"].to_numpy())
    assert last["axis_value"].to_list() == last["tokens"].to_list()


def sweep(root, seeds, effect: float) -> tuple[Study, list[dict]]:
    """Runs of three weight decays, each seen at the end of its decay; KL falls by `effect` with each doubling."""
    study, generator, rows = Study(root), np.random.default_rng(3), []
    for seed in seeds:
        for decay in (0.25, 0.5, 1.0):
            end = (f"wd{decay}-seed{seed}", "step-2400", None, 2400, 0.0, 6e-3, "decay")
            write_checkpoint(study, end)
            write_quantized(study, end[:2], METHOD, 3)
            error = 0.02 * math.exp(-effect * math.log2(decay) + 0.01 * generator.standard_normal())
            for method, harm in (("none", 0.0), (METHOD, error)):
                write_loss(study, (*end[:2], method), 3.0, harm, 60)
            span = {"decay_start": 2000, "decay_end": 2400, "decay_rate": 6e-3}
            rows += [row | span for row in lineage([end], {end[0]: seed}, decay)]
    return study, rows


@pytest.mark.parametrize(("effect", "verdict", "monotone"), [(0.3, "supported", True), (0.0, "refuted", None)])
def test_a_sweep_has_a_slope_and_an_order(tmp_path, effect, verdict, monotone):
    found = tables(*sweep(tmp_path, (1, 2, 3), effect), "weight-decay-lowers")
    (row,) = primary(found).values()
    assert (row["verdict"], row["monotone"], row["runs"]) == (verdict, monotone, 3)
    assert row["effect"] == pytest.approx(-2 * effect, abs=0.05)  # two doublings, from the lowest to the highest
    assert row["slope"] == pytest.approx(-effect, abs=0.05)
    assert row["slope_lower"] < row["slope"] < row["slope_upper"]
    assert set(found["comparisons"]["reference_axis_value"]) == {0.25}


def peaks(root, effect: float) -> tuple[Study, list[dict]]:
    """Runs of three peak rates and seeds at the ends of their decays, sliced: only how far they are bent differs."""
    study, generator, rows = Study(root), np.random.default_rng(3), []
    for seed in (1, 2, 3):
        for peak in (1.5e-3, 3e-3, 6e-3):
            end = (f"peak{peak}-seed{seed}", "step-2400", None, 2400, 0.0, peak, "decay")
            write_checkpoint(study, end)
            write_quantized(study, end[:2], METHOD, 3)
            for method, harm in (("none", 0.0), (METHOD, 0.02)):
                write_loss(study, (*end[:2], method), 3.0, harm, 60)
            half = 0.03 * math.exp(effect * math.log2(peak / 3e-3) + 0.01 * generator.standard_normal())
            write_slice(study, (*end[:2], METHOD), 0.2, (3.0, 0.001, half))
            span = {"decay_start": 2000, "decay_end": 2400, "decay_rate": peak}
            rows += [row | span for row in lineage([end], {end[0]: seed})]
    return study, rows


@pytest.mark.parametrize(("effect", "verdict"), [(-0.3, "supported"), (0.0, "refuted")])
def test_a_claim_on_curvature_is_decided_by_slices(tmp_path, effect, verdict):
    study, rows = peaks(tmp_path, effect)
    (row,) = primary(tables(study, rows, "higher-rate-flatter")).values()
    assert (row["verdict"], row["runs"], row["unit"]) == (verdict, 3, "log ratio per doubling")
    assert row["effect"] == pytest.approx(effect, abs=0.02)
    assert row["lower"] < row["effect"] < row["upper"]


def test_a_claim_on_curvature_says_nothing_without_slices(tmp_path):
    study, rows = peaks(tmp_path, -0.3)
    study.slices.clear()
    found = tables(study, rows, "higher-rate-flatter")
    assert primary(found)["higher-rate-flatter"]["verdict"] == "no comparison"
    assert found["comparisons"].filter(measure="curvature").is_empty()


def test_a_sweep_of_two_seeds_tells_of_these_runs_only(tmp_path):
    (row,) = primary(tables(*sweep(tmp_path, (1, 2), 0.3), "weight-decay-lowers")).values()
    assert (row["verdict"], row["monotone"], row["replicates"]) == ("this run only", None, "seed 1, seed 2")


def test_averages_are_compared_with_their_run_and_with_its_cooldown(tmp_path):
    found = tables(*world(tmp_path, 0.0, 0.5), "lawa-lowers", "lawa-beats-cooldown")
    rows = primary(found)
    assert rows["lawa-lowers"]["verdict"] == "supported"
    assert rows["lawa-lowers"]["effect"] == pytest.approx(-0.3, abs=0.05)
    part = found["comparisons"].filter(claim="lawa-beats-cooldown", measure="loss")
    assert set(part["reference_phase"]) == {"decay"}
    assert rows["lawa-beats-cooldown"]["verdict"] == "refuted"  # it has the higher loss before quantization
    assert rows["lawa-beats-cooldown"]["unit"] == "nats per token"


def test_an_average_is_compared_with_itself_unquantized(tmp_path):
    found = tables(*world(tmp_path, 0.0, 0.5), "swa-reverses")
    (row,) = primary(found).values()
    assert (row["verdict"], row["runs"], row["unit"]) == ("refuted", 3, "bits per byte")
    of_cells = found["measurements"].filter(phase="average", metric="bits_per_byte", method=METHOD)
    assert row["effect"] == pytest.approx(of_cells["difference"].mean())
    pairs = found["comparisons"].filter(measure="penalty_bits")
    assert pairs.select("method", "reference_method").unique().rows() == [(METHOD, "none")]
    assert pairs["effect"].to_list() == pytest.approx(pairs["value"].to_list())
    assert set(pairs["reference_value"]) == {0.0}
    assert found["comparisons"].filter(measure="kl").is_empty(), "the divergence from itself is none, and has no ratio"


def test_gptq_is_compared_with_round_to_nearest_on_the_same_checkpoint(tmp_path):
    methods = (METHOD, "rtn-w3-g32")
    beats = claim("gptq-beats-rtn", references={METHOD: "rtn-w3-g32"})
    found = tables(*world(tmp_path, 0.0, 0.0, methods=methods), **{"gptq-beats-rtn": beats})
    part = found["comparisons"].filter(measure="kl")
    assert set(part["method"]) == {METHOD}
    assert set(part["reference_method"]) == {"rtn-w3-g32"}
    assert part.select("trajectory", "checkpoint").equals(
        part.select(trajectory="reference_trajectory", checkpoint="reference_checkpoint")
    )
    assert primary(found)["gptq-beats-rtn"]["verdict"] == "refuted"  # both are as good here


def test_published_models_are_replicates_by_name(tmp_path):
    study, rows = world(tmp_path, 0.0, 0.5)
    for row in rows:
        row |= {"seed": None}
    (row,) = primary(tables(study, rows, "decay-raises")).values()
    assert (row["runs"], row["replicates"], row["verdict"]) == (3, "run-1, run-2, run-3", "supported")


def test_other_measures_and_methods_decide_nothing(tmp_path):
    methods = (METHOD, "rtn-w3-g32")
    raises = claim("decay-raises", references={name: name for name in methods})
    found = tables(*world(tmp_path, 0.0, 0.5, methods=methods), **{"decay-raises": raises})["verdicts"]
    assert found["primary"].to_list() == [True] + [False] * (len(found) - 1)
    assert set(found.filter(method="rtn-w3-g32")["measure"]) == {"kl"}
    others = found.filter(pl.col("measure") != "kl")
    assert set(others["measure"]) == {"relative_error", "penalty", "gain_kept", "loss"}
    assert others["verdict"].null_count() == len(others)
    assert others["smallest"].null_count() == len(others)
    assert not others["adjusted"].any()


def test_verdicts_say_when_the_claim_was_written_down_and_whether_it_changed(tmp_path):
    study, rows = world(tmp_path / "study", 0.0, 0.5)
    record, listed = tmp_path / "claims.jsonl", {name: claim(name) for name in ("decay-raises", "tokens-raise")}
    before = primary(tables(study, rows, **listed, record=record))["decay-raises"]
    assert (before["hash"], before["fixed"], before["changed"]) == (None, None, None)
    fix(listed, record, 0)
    changed = {"smallest": {"effect": 0.6, "reason": "so that it is refuted"}}
    after = primary(tables(study, rows, **listed | {"decay-raises": claim("decay-raises", **changed)}, record=record))
    assert after["decay-raises"]["changed"]
    assert after["decay-raises"]["measured_before"] == 0
    assert len(after["decay-raises"]["hash"]) == 64
    assert not after["tokens-raise"]["changed"]


def test_what_is_not_measured_yet_is_no_comparison(tmp_path):
    study, rows = world(tmp_path, 0.0, 0.5)
    part = dataclasses.replace(study, quantized=[], losses=[path for path in study.losses if path.parts[-2] == "none"])
    (row,) = primary(tables(part, rows, "decay-raises")).values()
    assert row["verdict"] == "no comparison"
    assert "no pair is measured yet" in row["reason"]


def test_a_study_without_claims_has_empty_tables(tmp_path):
    study, _ = world(tmp_path, 0.0, 0.0, (1,))
    found = tabulate(**study.arguments())
    assert dict(found["comparisons"].schema) == COMPARISONS
    assert dict(found["verdicts"].schema) == VERDICTS
    assert found["comparisons"].is_empty()
    assert found["verdicts"].is_empty()


def test_measures_of_claims_are_those_that_are_defined():
    known = read_yaml("workflow/schemas/claim.schema.yaml")["properties"]
    assert set(known["also"]["items"]["enum"]) == MEASURES.keys() - {"gain"}
    assert set(known["measure"]["enum"]) == {name for name, item in MEASURES.items() if item.value is not None}
