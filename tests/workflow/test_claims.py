"""Claims on the way through the workflow: what a study will compare is told before it runs, and what it claims is fixed
when its first job starts."""

import json

import pytest

from tests.tools import copy_tree, dry_run, edit, snakemake

CORPUS = "resources/corpora/smoke/manifest.json"  # made by the first job


@pytest.fixture
def fresh(tmp_path):
    return copy_tree(tmp_path / "tree")


@pytest.mark.full
def test_claims_are_fixed_by_the_first_job_and_not_by_a_dry_run(fresh):
    record = fresh / "results/claims/smoke.jsonl"
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"].update(claims=["decay-raises"]))
    said = dry_run(fresh, "smoke", CORPUS)
    assert "claim `decay-raises`: 1 comparison in seed 1" in said
    assert not record.exists()
    snakemake(fresh, "smoke", CORPUS)
    (line,) = map(json.loads, record.read_text().splitlines())
    assert (line["claim"], line["measured"], line["says"]["direction"]) == ("decay-raises", 0, "higher")
    edit(fresh / "config/claims/decay-raises.yaml", lambda claim: claim.update(direction="lower"))
    snakemake(fresh, "smoke", CORPUS, "--forcerun", "corpus")
    first, second = map(json.loads, record.read_text().splitlines())
    assert first == line
    assert second["hash"] != line["hash"]


def test_what_the_reference_study_will_compare_and_what_it_refuses(fresh):
    """Of claims about the decay and the tokens nothing can be told in published runs; soups and stages can."""
    said = dry_run(fresh, "paper", "resources/corpora/c4/manifest.json")
    told = [line for line in said.splitlines() if line.startswith("claim ")]
    assert told == [
        "claim `decay-raises`: 0 comparisons; 23 refused as not identifiable",
        "claim `rate-not-tokens`: 0 comparisons; 8 refused as not identifiable",
        "claim `tokens-raise`: 0 comparisons; 8 refused as not identifiable",
        "claim `stable-stays`: 59 comparisons in apertus-8b, open-sci-1.7b, smollm3-3b; 7 refused as not identifiable",
        "claim `peak-lowers`: 0 comparisons; 1 refused as not identifiable",
        "claim `soup-lowers`: 10 comparisons in olmo2-13b, olmo2-32b, olmo2-7b",
        "claim `sft-lowers`: 1 comparison in smollm3-3b, too few runs for a verdict",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": ["decay-rises"]}, "did you mean `decay-raises`?"),
        ({"claims": ["long-decay-lowers"]}, "no method of the study has algorithm rtn, bits 8"),
        ({"claim": ["decay-raises"]}, "unknown key `claim`; did you mean `claims`"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused_before_any_work(fresh, change, message):
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"].update(change))
    said = dry_run(fresh, "smoke", fails=True)
    assert message in said
    assert "Traceback" not in said
