"""The families of config/README.md: two seeds x two weight decays, each with a cooldown and an average."""

import itertools

import pytest
import yaml

from tests.tools import copy_tree, dry_run, job_counts
from tests.workflow.test_documents import FILES

FAMILIES = ("pair", "pair-cooldown", "pair-lawa")
MEMBERS = [f"seed{seed}-weight_decay{decay}" for seed, decay in itertools.product((1, 2), ("0", "0.5"))]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What a dry-run of their study prints."""
    tree = copy_tree(tmp_path_factory.mktemp("families") / "tree")
    for path in ("config/studies/pair.yaml", *(f"config/trajectories/{name}.yaml" for name in FAMILIES)):
        (tree / path).write_text(yaml.safe_dump(FILES[path], sort_keys=False))
    return dry_run(tree, "pair")


def test_every_member_has_its_jobs(said):
    jobs = job_counts(said)
    assert jobs["train"] == 3 * 4, "two links of each trunk, for it is cut at its restart point, and each cooldown"
    assert (jobs["publish"], jobs["average"]) == (3 * 4 + 4, 4)
    assert (jobs["quantize"], jobs["evaluate_loss"]) == (3 * 4, 2 * 3 * 4)
    for family, member in itertools.product(FAMILIES, MEMBERS):
        assert f"results/quantized/{family}-{member}/step-300/rtn-w3-g32/manifest.json" in said


def test_members_are_listed_with_their_families_and_coordinates(said):
    lines = [line.split() for line in said.splitlines()]
    head = ["trajectory", "family", "kind", "parent", "optimizer.weight_decay", "schedule.name", "seed"]
    (start,) = [number for number, line in enumerate(lines) if line == head]
    kinds = {"pair": ("trunk", "constant"), "pair-cooldown": ("branch", "wsd"), "pair-lawa": ("average", "constant")}
    assert lines[start + 1 : start + 13] == [
        [
            *(f"{family}-{member}", family, kind, "-" if kind == "trunk" else f"pair-{member}"),
            *(member.rpartition("decay")[2], schedule, member[4]),
        ]
        for family, (kind, schedule) in sorted(kinds.items(), key=lambda item: f"{item[0]}-s")
        for member in MEMBERS
    ]


def test_jobs_say_which_member_they_are_of(said):
    assert "trajectory=pair-cooldown-seed2-weight_decay0.5" in said
