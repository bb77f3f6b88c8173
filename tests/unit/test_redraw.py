"""Published studies: all that their reports rest on is in their folder, and says again what was published."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from scripts.commands.publish_study import about_study, publish
from scripts.commands.redraw import redraw, tables_of
from scripts.commands.report import with_lacking
from scripts.lib.analysis.mechanism import mechanism_tables
from scripts.lib.report import published
from scripts.lib.report.contents import FIGURES
from scripts.lib.study.claims import fix, hash_of
from scripts.lib.study.plan import load_plan
from scripts.tabulate import tabulate
from tests.unit import planted
from tests.unit.synthetic_study import METHODS, two_peaks, write_loss, write_slice, write_study

STUDIES = sorted(path.parent for path in published.FOLDER.glob(f"*/{published.ABOUT}"))
ABOUT = {
    **{"study": "made-up", "title": "A made-up study", "theme": {"style": "ticks"}, "date": "2026-11-26"},
    **{"commit": "0" * 40, "machine": {"processor": "a | b", "cores": 2, "gpu": None, "threads": 1}},
}
ABSENT = [
    {
        **{"trajectory": "low", "checkpoint": "step-2600", "method": "none"},
        "stage": "checkpoint",
        "reason": "not measured yet",
    }
]


@pytest.fixture(scope="module")
def planted_study(tmp_path_factory) -> dict:
    """Arguments of tabulate for three seeds in which decays raise errors, with one refused result."""
    folder = tmp_path_factory.mktemp("study")
    study, lineage = planted.world(folder, tokens=0.0, decay=0.3)
    write_loss(study, ("run-1", "step-1400", planted.METHOD), 1.0, 0.0, 0, status="refused", reason="not finite")
    for step in planted.ENDS:
        write_slice(study, ("run-1", f"step-{step}", planted.METHOD), 0.2, (3.0, 0.01, 0.06))
    claims = {name: planted.claim(name) for name in ("decay-raises", "rate-not-tokens")}
    record = folder / "claims.jsonl"
    fix(claims, record, 0)
    again = folder / "again.parquet"
    tabulate(**study.arguments())["measurements"].with_columns(pl.col("value") * 1.01).write_parquet(again)
    curve = {"trajectory": "run-1", "steps": [0, 2400], "tokens": [0, 7_372_800], "learning_rate": [0.0, 6e-3]}
    return study.arguments() | {
        **{"claims": claims, "lineage": lineage, "record": record, "schedules": [curve]},
        "repeat": again,
        "neighbours": [[("run-1", f"step-{step}") for step in planted.ENDS]],
        "runs": [run | {"coordinates": {"seed": int(run["root"][4:])}} for run in study.runs()],
    }


@pytest.fixture(scope="module")
def made(planted_study, tmp_path_factory) -> Path:
    """That study published, and its own files gone."""
    folder = tmp_path_factory.mktemp("published") / "made-up"
    publish(folder, planted_study, ABOUT, ABSENT)
    return folder


def test_a_published_study_gives_the_same_tables(made, planted_study):
    expected = with_lacking(tabulate(**planted_study), "made-up", ABSENT)
    known = (expected[name] for name in ("checkpoints", "methods"))
    expected |= mechanism_tables("made-up", planted_study["slices"], *known)
    found = tables_of(made)
    assert list(found) == list(expected)
    for name, table in expected.items():
        assert_frame_equal(found[name], table, rel_tol=1e-9, abs_tol=1e-12)
    assert set(found["verdicts"].filter("primary")["verdict"]) == {"supported"}
    assert found["missing"]["reason"].to_list() == ["not measured yet", "not finite"]


def test_the_claims_are_as_they_were(made, planted_study):
    lines = [json.loads(line) for line in (made / published.CLAIMS).read_text().splitlines()]
    assert [line["hash"] for line in lines] == [hash_of(claim) for claim in planted_study["claims"].values()]
    verdicts = tables_of(made)["verdicts"].filter("primary")
    assert set(verdicts["hash"]) == {line["hash"] for line in lines}
    assert verdicts["changed"].to_list() == [False, False]


def test_tasks_are_published_too(tmp_path):
    given = write_study(tmp_path / "study", two_peaks()[4:8], {"nf4": METHODS["nf4"]}, documents=40).arguments()
    expected = tabulate(**given)
    (tmp_path / "made-up").mkdir()
    published.pack(tmp_path / "made-up", given, expected, [])
    found = tables_of(tmp_path / "made-up")
    assert set(found["measurements"]["dataset"]) >= {"rolling"}
    for name, table in expected.items():
        assert_frame_equal(found[name], table, rel_tol=1e-9, abs_tol=1e-12)


def test_the_page_says_what_is_missing(made):
    page = (made / "README.md").read_text()
    assert "**Not finished**, 1 cells or results missing." in page
    assert "| checkpoint | not measured yet | 1 |" in page
    assert page.count("| supported |") == 2
    assert "a | b" in page.partition("| Claim |")[0]


def test_the_scale_and_the_machine_are_named(tmp_path):
    changes = tmp_path / "changes.yaml"
    changes.write_text(f"folders: {{resources: {tmp_path}}}\nscale: {{name: same}}\n")
    plan = load_plan("smoke", str(changes))
    about = about_study(plan)
    assert (about["study"], about["title"][-14:]) == ("smoke-same", " at scale same")
    assert about["machine"]["cores"] > 0
    assert re.fullmatch(r"[0-9a-f]{12}\+?", about["commit"] or "0" * 12)


def test_nothing_is_published_of_a_study_without_results(tmp_path, planted_study):
    with pytest.raises(RuntimeError, match="nothing of `made-up` is measured yet"):
        publish(tmp_path / "made-up", planted_study | {"losses": []}, ABOUT, [])
    assert not list(tmp_path.iterdir())


def test_another_verdict_is_noticed(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "made-up")
    losses = pl.read_parquet(folder / "losses.parquet")
    losses.with_columns(pl.col("kl").sqrt()).write_parquet(folder / "losses.parquet")
    changed = published.changed_verdicts(
        pl.read_parquet(folder / "tables/verdicts.parquet"), tables_of(folder)["verdicts"]
    )
    assert any(line.startswith(f"decay-raises {planted.METHOD} kl docstrings: effect was ") for line in changed)


@pytest.mark.parametrize("study", [*STUDIES, "made-up"], ids=lambda study: getattr(study, "name", study))
def test_a_study_is_redrawn_from_its_folder_alone(study, made, tmp_path):
    folder = made if study == "made-up" else study.resolve()
    assert redraw(folder, tmp_path) == []
    assert {path.stem for path in (tmp_path / "figures").glob("*.svg")} == set(FIGURES)
    assert 'id="Answers"' in (tmp_path / f"{folder.name}.html").read_text()


def test_published_studies_are_small():
    assert published.size(published.FOLDER) < published.MOST_BYTES
