"""Claims: those that are shipped, what a study may list, and the record that fixes them before the data."""

import json
import re
from pathlib import Path

import pytest
from snakemake.utils import update_config

from scripts.lib.analysis.effects import MEASURES
from scripts.lib.runtime.config_files import ConfigError, load_named, read_yaml
from scripts.lib.study import claims
from scripts.lib.study.plan import make_plan

SHIPPED = sorted(path.stem for path in Path("config/claims").glob("*.yaml"))
CLAIM = {
    **{"says": "It is so.", "source": "somebody", "evidence": "none", "compare": {"what": "decay", "distance": 0.02}},
    **{"measure": "kl", "method": {"algorithm": "rtn", "bits": 3}, "direction": "higher"},
    "smallest": {"effect": 0.1, "reason": "none"},
}


@pytest.fixture
def plan(tmp_path):
    """A function that plans a study of the smoke run with these claims; files of claims may be added to its folder."""
    for path in Path("config").iterdir():
        (tmp_path / path.name).symlink_to(path.resolve())
    (tmp_path / "claims").unlink()
    (tmp_path / "claims").mkdir()
    for path in Path("config/claims").glob("*.yaml"):
        (tmp_path / "claims" / path.name).write_text(path.read_text())

    def make(*listed, methods=("rtn-w3-g32", "gptq-w3-g32"), loss=("smoke",), runs=("smoke",)):
        config = read_yaml("config/default.yaml")
        update_config(config, read_yaml("config/studies/smoke.yaml"))
        block = {"trajectories": list(runs), "methods": list(methods), "loss": list(loss)}
        config["study"] = {"name": "made-up", "title": "made up", "claims": list(listed), "cells": [block]}
        return make_plan(config, tmp_path)

    make.folder = tmp_path / "claims"
    return make


def write(folder: Path, **changes) -> None:
    (folder / "made-up.yaml").write_text(json.dumps(CLAIM | changes))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_claim_that_is_shipped_is_valid_and_says_whose_it_is(name):
    claim = load_named("config/claims", "claim", name)
    assert claim["says"].endswith(".")
    assert claim["source"]
    assert "gain_kept" not in claim["measure"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_claim_that_is_shipped_can_be_listed(plan, name):
    methods = ("gptq-w3-g32", "rtn-w3-g32", "rtn-w2-g32", "rtn-w6-g64", "rtn-w8-channel")
    made = plan(name, methods=methods, runs=("smoke", "cosine"))
    assert made.claims[name]["method"] in methods
    assert made.claims[name]["dataset"] == "smoke"


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        ("rtn-w8-channel", {"algorithm": "rtn", "bits": 8, "group_size": -1}),
        ("rtn-w6-g64", {"algorithm": "rtn", "bits": 6}),
    ],
)
@pytest.mark.parametrize("measure", ["loss_bits", "penalty_bits"])
def test_bits_per_byte_after_8_bits_a_row_or_6_can_decide(plan, recipe, method, measure):
    """What the contest that trains for an artifact of so many bytes is scored by."""
    write(plan.folder, measure=measure, method=method)
    claim = plan("made-up", methods=["rtn-w8-channel", "rtn-w8-g64", "rtn-w6-g64"]).claims["made-up"]
    assert (claim["method"], claim["measure"]) == (recipe, measure)
    assert MEASURES[measure].unit == "bits per byte"


def test_the_two_claims_that_exclude_each_other_cannot_both_be_supported():
    one, other = (load_named("config/claims", "claim", name) for name in ("rate-not-tokens", "tokens-raise"))
    for key in ("compare", "measure", "method"):
        assert one[key] == other[key]
    assert one["smallest"]["effect"] == other["smallest"]["effect"]
    assert (one["direction"], other["direction"]) == ("equal", "higher")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("decay-rises", "study `made-up`, claims.0: there is no claim `decay-rises`"),
        ("decay-rises", "did you mean `decay-raises`?"),
        ("long-decay-lowers", "no method of the study has algorithm rtn, bits 8; add one, or say which decides"),
        ({"claim": "decay-raises", "method": "nf4"}, "claims.0.method: the study has no method `nf4`"),
        ({"claim": "decay-raises"}, "`claims.0`"),
        ({"claim": "decay-raises", "method": "nf4", "mesure": "kl"}, "unknown key `claims.0.mesure`"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(plan, listed, message):
    with pytest.raises(ConfigError) as caught:
        plan(listed)
    assert message in str(caught.value)


def test_a_claim_is_listed_once_and_needs_a_loss(plan):
    with pytest.raises(ConfigError, match="claim `decay-raises` is listed twice"):
        plan("decay-raises", {"claim": "decay-raises", "method": "rtn-w3-g32"})
    with pytest.raises(ConfigError, match="a claim needs `loss` in one block"):
        plan("decay-raises", loss=())


def test_where_several_methods_fit_the_study_says_which_decides(plan):
    methods = ("gptq-w3-g32", "gptq-w3-g16")
    with pytest.raises(ConfigError, match="2 methods of the study have algorithm gptq, bits 3: gptq-w3-g32, "):
        plan("decay-raises", methods=methods)
    made = plan({"claim": "decay-raises", "method": "gptq-w3-g16"}, methods=methods)
    assert made.claims["decay-raises"]["method"] == "gptq-w3-g16"
    assert made.claims["decay-raises"]["references"] == {name: name for name in methods}


def test_methods_are_compared_on_the_same_grid(plan):
    methods = ("rtn-w3-g32", "rtn-w4-g32", "gptq-w3-g32", "gptq-w4-g32", "gptq-w3-g16", "nf4")
    made = plan({"claim": "gptq-beats-rtn", "method": "gptq-w3-g32"}, methods=methods)
    assert made.claims["gptq-beats-rtn"]["references"] == {"gptq-w3-g32": "rtn-w3-g32", "gptq-w4-g32": "rtn-w4-g32"}


def test_a_method_without_another_on_its_grid_is_refused(plan):
    with pytest.raises(
        ConfigError, match="no method to compare `gptq-w3-g32` with; add one with algorithm rtn, library"
    ):
        plan("gptq-beats-rtn", methods=["gptq-w3-g32", "rtn-w4-g32"])


RECIPES = {path.stem: read_yaml(path) for path in Path("config/recipes").glob("*.yaml")}


@pytest.mark.parametrize("name", sorted(name for name, recipe in RECIPES.items() if recipe["algorithm"] == "gptq"))
def test_gptq_is_compared_with_round_to_nearest_of_its_grid(name):
    """Whatever its library, order of columns and calibration; the file of the partner is found by its name here."""
    grid = re.search(r"w\d-(?:g\d+|channel)(?:-asym)?", name)[0]
    partner = None if "transform" in RECIPES[name] or f"rtn-{grid}" not in RECIPES else f"rtn-{grid}"
    found = claims.references(read_yaml(Path("config/claims/gptq-beats-rtn.yaml")), RECIPES)
    assert found.get(name) == partner


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compare": {"what": "decays", "distance": 0.1}},
            "`compare.what`: 'decays' is not one of decay, axis",
        ),
        ({"compare": {"what": "decay"}}, "'distance' is a required property"),
        ({"compare": {"what": "soup", "distance": 0.1}}, "unknown key `compare.distance`"),
        ({"compare": {"what": "axis", "axis": "tokens", "at": "stable", "equal": "tokens"}}, "equal along `tokens`"),
        (
            {"compare": {"what": "axis", "axis": "schedule.peak", "at": "stable"}},
            "`schedule.peak` needs `equal` and `distance`",
        ),
        (
            {"compare": {"what": "axis", "axis": "schedule.peek", "at": "stable", "equal": "tokens", "distance": 0.1}},
            "there is no setting of a run `schedule.peek`; did you mean `schedule.peak`",
        ),
        (
            {"compare": {"what": "setting", "setting": "optimiser", "value": "muon", "than": "adamw", "distance": 0}},
            "compare.setting: there is no setting of a run `optimiser`",
        ),
        ({"measure": "gain_kept"}, "`measure`: 'gain_kept' is not one of kl, penalty"),
        ({"direction": "up"}, "`direction`: 'up' is not one of higher, lower, equal"),
        ({"smallest": {"effect": 0, "reason": "none"}}, "`smallest.effect`: 0 is less than or equal to the minimum"),
        ({"smallest": {"effect": 0.1}}, "'reason' is a required property"),
        ({"mesure": "kl"}, "unknown key `mesure`; did you mean `measure`"),
    ],
)
def test_mistakes_in_a_claim(plan, changes, message):
    write(plan.folder, **changes)
    with pytest.raises(ConfigError) as caught:
        plan("made-up")
    assert "claims/made-up.yaml" in str(caught.value)
    assert message in str(caught.value)


# --- fixed before the data -------------------------------------------------------------------------------------------


def test_a_claim_is_written_down_once(tmp_path):
    record = tmp_path / "claims/study.jsonl"
    claims.fix({"one": CLAIM}, record, 0)
    before = record.read_text()
    claims.fix({"one": dict(reversed(CLAIM.items()))}, record, 12)
    assert record.read_text() == before
    (line,) = map(json.loads, before.splitlines())
    assert (line["claim"], line["hash"], line["measured"]) == ("one", claims.hash_of(CLAIM), 0)
    assert line["says"] == CLAIM


def test_a_change_is_appended_and_said_for_ever(tmp_path):
    record, changed = tmp_path / "study.jsonl", CLAIM | {"direction": "lower"}
    claims.fix({"one": CLAIM}, record, 0)
    first = record.read_text()
    assert claims.fixed({"one": CLAIM}, record)["one"]["changed"] is False
    assert claims.fixed({"one": changed}, record)["one"]["changed"] is True  # before any further run
    claims.fix({"one": changed}, record, 3)
    assert record.read_text().startswith(first)
    claims.fix({"one": CLAIM}, record, 3)
    assert len(record.read_text().splitlines()) == 3
    found = claims.fixed({"one": CLAIM}, record)["one"]
    assert found["changed"] is True
    assert (found["hash"], found["measured"]) == (claims.hash_of(CLAIM), 0)


def test_a_claim_that_comes_late_says_so(tmp_path):
    record = tmp_path / "study.jsonl"
    claims.fix({"one": CLAIM}, record, 0)
    claims.fix({"one": CLAIM, "two": CLAIM}, record, 7)
    assert claims.fixed({"two": CLAIM}, record)["two"]["measured"] == 7


def test_what_is_not_on_record_is_not_fixed(tmp_path):
    nothing = {"hash": None, "date": None, "measured": None, "changed": None}
    assert claims.fixed({"one": CLAIM}, tmp_path / "none.jsonl") == {"one": nothing}


def test_a_further_method_changes_no_claim():
    assert claims.hash_of(CLAIM | {"references": {"a": "a"}}) == claims.hash_of(CLAIM | {"references": {}})
    assert claims.hash_of(CLAIM | {"method": "a"}) != claims.hash_of(CLAIM | {"method": "b"})
