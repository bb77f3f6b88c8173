"""lines: what a study varies decides colours and labels; seeds repeat each other."""

import polars as pl
import pytest

from scripts.lib.report.lines import drawing, factors, setting
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import two_peaks, write_study

IDENTITY = ("trajectory", "family", "root", "kind", "parent", "parent_checkpoint")


def trunk(name: str, family: str, **coordinates) -> dict:
    return dict(zip(IDENTITY, (name, family, name, "trunk", None, None), strict=True)) | coordinates


def branch(name: str, family: str, parent: str, start: int, **coordinates) -> dict:
    place = (name, family, parent, "branch", parent, f"step-{start}")
    return dict(zip(IDENTITY, place, strict=True)) | coordinates


def checkpoints(*rows: dict) -> pl.DataFrame:
    """One checkpoint of each trajectory of these rows of `runs`."""
    return pl.DataFrame(
        [
            {
                **{"trajectory": row["trajectory"], "checkpoint": "step-900", "parent": _origin(row), "step": 900},
                **{"tokens": 9000, "source": "train", "phase": "stable", "learning_rate": 1e-3},
                "peak_learning_rate": 5e-3,
            }
            for row in rows
        ]
    )


def _origin(row: dict) -> str | None:
    return f"{row['parent']}/{row['parent_checkpoint']}" if row["parent"] else None


def families(weight_decays=(0.0, 0.5), seeds=(1, 2)) -> list[dict]:
    """A family of trunks and one of cooldowns, whose steps and schedules differ from the trunks'."""
    rows = []
    for decay in weight_decays:
        for seed in seeds:
            name, own = f"t-{decay}-{seed}", {"optimizer.weight_decay": decay, "seed": seed}
            rows.append(trunk(name, "t", **own, **{"schedule.name": "constant", "steps": 1400}))
            for start in (400, 600):
                cooled = {"schedule.name": "wsd", "steps": start + 300}
                rows.append(branch(f"c{start}-{decay}-{seed}", f"c{start}", name, start, **own, **cooled))
    return rows


def test_a_study_of_weight_decay_is_told_by_weight_decay():
    rows = families()
    assert factors(pl.DataFrame(rows)) == ["optimizer.weight_decay"]
    drawn = drawing(checkpoints(*rows), pl.DataFrame(rows))
    assert drawn.groups == ("weight decay 0", "weight decay 0.5")
    assert {line.label for line in drawn.lines if line.group == "weight decay 0"} == {
        "weight decay 0 · run",
        "weight decay 0 · branch from step 400",
        "weight decay 0 · branch from step 600",
    }


def test_seeds_are_one_line_and_groups_differ_in_colour_and_marker():
    rows = families()
    drawn = drawing(checkpoints(*rows), pl.DataFrame(rows))
    assert len(drawn.lines) == 6
    assert {len(line.tracks) for line in drawn.lines} == {2}
    looks = {line.group: (line.color, line.marker) for line in drawn.lines}
    assert len({color for color, _ in looks.values()}) == len({marker for _, marker in looks.values()}) == 2
    assert {line.dashes for line in drawn.lines} == {"-", "--"}


def test_branches_of_a_family_that_leave_at_other_checkpoints_are_lines_of_their_own():
    rows = [trunk("t-1", "t", seed=1), trunk("t-2", "t", seed=2)]
    rows += [branch(f"c-{seed}-{start}", "c", f"t-{seed}", start, seed=seed) for seed in (1, 2) for start in (400, 600)]
    lines = drawing(checkpoints(*rows), pl.DataFrame(rows)).lines
    assert [(line.label, len(line.tracks)) for line in lines] == [
        ("run", 2),
        ("branch from step 400", 2),
        ("branch from step 600", 2),
    ]


def test_where_only_seeds_differ_kinds_have_the_colours():
    rows = families(weight_decays=(0.5,))
    assert factors(pl.DataFrame(rows)) == []
    drawn = drawing(checkpoints(*rows), pl.DataFrame(rows))
    assert drawn.groups == ("",)
    assert [line.label for line in drawn.lines] == ["run", "branch from step 400", "branch from step 600"]
    assert len({line.color for line in drawn.lines}) == 2


def test_settings_that_move_together_are_told_once():
    rows = [trunk(f"t{steps}", f"t{steps}", **{"schedule.decay.end": steps, "steps": steps}) for steps in (100, 200)]
    assert factors(pl.DataFrame(rows)) == ["schedule.decay.end"]


def test_branches_of_one_checkpoint_may_vary_something_of_their_own():
    own = [branch(f"b{end}", f"b{end}", "t", 400, **{"schedule.decay.end": end}) for end in (500, 900)]
    rows = [trunk("t", "t", **{"schedule.decay.end": None}), *own]
    drawn = drawing(checkpoints(*rows), pl.DataFrame(rows))
    assert set(drawn.groups) == {"t", "decay end 500", "decay end 900"}


def test_published_runs_are_told_by_name():
    rows = [trunk(name, name, seed=None) for name in ("olmo2-1b", "smollm3-3b")]
    assert drawing(checkpoints(*rows), pl.DataFrame(rows)).groups == ("olmo2-1b", "smollm3-3b")


def test_the_made_up_study_varies_its_peak_rate(tmp_path):
    tables = tabulate(**write_study(tmp_path, two_peaks(), {"nf4": (4, 0.003)}, documents=10).arguments())
    drawn = drawing(tables["checkpoints"], tables["runs"])
    assert drawn.groups == ("peak rate 1.5e-3", "peak rate 6e-3")
    assert [line.kind for line in drawn.lines] == ["trunk", "branch", "average"] * 2
    assert drawn.tracks["low-cooldown"].start == "step-2000"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("optimizer.name", "muon", "optimizer muon"),
        ("optimizer.weight_decay", 0.5, "weight decay 0.5"),
        ("schedule.peak", 6e-3, "peak rate 6e-3"),
        ("schedule.peak", 1.2e-2, "peak rate 1.2e-2"),
        ("model.hidden_size", 64, "hidden size 64"),
        ("schedule.name", "wsd", "schedule wsd"),
    ],
)
def test_settings_are_written_as_people_do(name, value, text):
    assert setting(name, value) == text
