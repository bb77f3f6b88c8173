import re
from pathlib import Path

import polars as pl
import pytest

from scripts.lib.analysis.tracks import families, short_count, short_rate, tracks
from scripts.lib.report import figures
from scripts.lib.runtime.config_files import read_yaml
from scripts.plot import FIGURES, NO_TASKS, NOTHING_MEASURED, NOTHING_QUANTIZED, method_order, plot
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import METHODS, two_peaks, write_study

NO_SCHEDULES = pl.DataFrame(schema={"trajectory": pl.String, "tokens": pl.Int64, "learning_rate": pl.Float64})
Tables = dict[str, pl.DataFrame]
THEME = read_yaml("config/default.yaml")["plot"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    return tabulate(**write_study(tmp_path_factory.mktemp("study"), two_peaks(), documents=30).arguments())


def draw(
    folder: Path, name: str, measurements: pl.DataFrame, checkpoints: pl.DataFrame, schedules=None, theme=THEME
) -> str:
    folder.mkdir(exist_ok=True)
    measurements.write_parquet(folder / "m.parquet")
    checkpoints.write_parquet(folder / "c.parquet")
    (NO_SCHEDULES if schedules is None else schedules).write_parquet(folder / "s.parquet")
    paths = (folder / f"{name}.svg", folder / f"{name}.png")
    plot(name, theme, *(folder / f"{table}.parquet" for table in "mcs"), *paths)
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    return paths[0].read_text()


def big(tables: Tables, count: int = 60) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`count` checkpoints in each of two runs, ten methods."""
    row = tables["measurements"].filter(trajectory="low", method="nf4", metric="cross_entropy").row(0, named=True)
    point = tables["checkpoints"].filter(trajectory="low").row(0, named=True)
    points, rows = [], []
    for run, peak in (("a", 1e-3), ("b", 2e-3)):
        for step in range(1, count + 1):
            place = {"trajectory": run, "checkpoint": f"step-{step}", "step": step, "tokens": step * 10**9}
            points.append({**point, **place, "peak_learning_rate": peak, "learning_rate": peak})
            for number in range(11):
                error = number * step / 1e4 - 1e-4
                change = {"relative": error, "lower": error, "upper": error, "value": 3 + error, "baseline": 3.0}
                rows.append({**row, **place, **change, "method": f"m{number}" if number else "none", "bits": 3})
    return (pl.DataFrame(rows, tables["measurements"].schema), pl.DataFrame(points, tables["checkpoints"].schema))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_every_time_and_keeps_text(tables, tmp_path, name):
    first = draw(tmp_path / "one", name, tables["measurements"], tables["checkpoints"])
    assert first == draw(tmp_path / "two", name, tables["measurements"], tables["checkpoints"])
    assert "<text" in first
    assert "rtn-w3-g32" in first
    assert not re.search(r"dc:date|matplotlib\.org", first)


def test_the_theme_is_seen(tables, tmp_path):
    shown = tables["measurements"], tables["checkpoints"]
    changes = [{}, {"context": "talk"}, {"style": "darkgrid"}, {"palette": "deep"}, {"font_scale": 2.0}]
    assert {key for change in changes for key in change} == THEME.keys()
    drawn = [draw(tmp_path, "loss_vs_tokens", *shown, theme=THEME | change) for change in changes]
    assert len(set(drawn)) == len(changes)


def test_every_theme_that_is_allowed_exists():
    keys = read_yaml("workflow/schemas/config.schema.yaml")["properties"]["plot"]["properties"]
    for key, allowed in keys.items():
        for value in allowed.get("enum", []):
            figures.use_style(THEME | {key: value})


def empty(name: str) -> str:
    """What a figure says instead of drawing where no quantized model was measured."""
    return NO_TASKS if name == "tasks" else NOTHING_QUANTIZED


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("case", ["single checkpoint", "methods missing in one run", "branch alone"])
def test_a_figure_of_a_part_shows_all_its_methods(tables, tmp_path, name, case):
    measurements, checkpoints = tables["measurements"], tables["checkpoints"]
    match case:
        case "single checkpoint":
            measurements, checkpoints = (t.filter(trajectory="low", step=400) for t in (measurements, checkpoints))
        case "methods missing in one run":
            measurements = measurements.filter((pl.col("method") != "nf4") | (pl.col("trajectory") == "high"))
        case "branch alone":
            measurements, checkpoints = (t.filter(trajectory="low-cooldown") for t in (measurements, checkpoints))
    svg = draw(tmp_path, name, measurements, checkpoints)
    if (name, case) == ("tasks", "single checkpoint"):  # no task was evaluated there
        assert NO_TASKS in svg
    else:
        assert {method for method in METHODS if method in svg} == METHODS.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_without_quantized_models_only_the_baseline_is_drawn(tables, tmp_path, name):
    svg = draw(tmp_path, name, tables["measurements"].filter(method="none"), tables["checkpoints"])
    assert ("none (baseline)" if name == "loss_vs_tokens" else empty(name)) in svg
    assert not any(method in svg for method in METHODS)


@pytest.mark.parametrize("name", FIGURES)
def test_without_measurements_a_figure_says_so(tables, tmp_path, name):
    svg = draw(tmp_path, name, tables["measurements"].clear(), tables["checkpoints"])
    assert (NOTHING_MEASURED if name == "loss_vs_tokens" else empty(name)) in svg


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "tasks"])
def test_all_of_ten_methods_are_shown_at_many_checkpoints(tables, tmp_path, name):
    svg = draw(tmp_path, name, *big(tables))
    assert {number for number in range(1, 11) if f">m{number}<" in svg} == set(range(1, 11))


def test_a_study_without_tasks_says_so(tables, tmp_path):
    losses = tables["measurements"].filter(metric="cross_entropy")
    assert NO_TASKS in draw(tmp_path, "tasks", losses, tables["checkpoints"])


def test_axes_say_whether_they_are_relative(tables, tmp_path):
    assert "relative error of loss" in draw(tmp_path, "error_vs_tokens", tables["measurements"], tables["checkpoints"])
    assert "nats per token" in draw(tmp_path, "loss_vs_tokens", tables["measurements"], tables["checkpoints"])


def test_schedules_are_drawn_at_full_resolution(tables, tmp_path):
    tokens = range(0, 7_000_000, 10_000)
    schedule = pl.DataFrame({"trajectory": "low", "tokens": tokens, "learning_rate": [1e-3, 5e-4] * 350})
    plain = draw(tmp_path, "error_vs_tokens", tables["measurements"], tables["checkpoints"])
    fine = draw(tmp_path, "error_vs_tokens", tables["measurements"], tables["checkpoints"], schedule)
    assert len(fine) > len(plain) + 10_000


def test_an_unknown_figure_is_refused_with_the_known_ones(tables, tmp_path):
    with pytest.raises(ValueError, match=r"no figure 'pie'.*loss_vs_tokens"):
        draw(tmp_path, "pie", tables["measurements"], tables["checkpoints"])


def test_tracks_know_trunks_branches_and_averages(tables):
    found = {track.name: track for track in tracks(tables["checkpoints"])}
    assert [track.kind for track in found.values()] == ["trunk", "branch", "average"] * 2
    assert (found["low-cooldown"].start, found["low-cooldown"].family) == ("step-2000", "low")
    assert list(families(list(found.values())).values()) == ["peak rate 1.5e-3", "peak rate 6e-3"]


def test_a_bare_parent_is_left_at_its_last_checkpoint_before(tables):
    bare = tables["checkpoints"].with_columns(pl.col("parent").str.split("/").list.first())
    assert {track.name: track.start for track in tracks(bare)}["low-cooldown"] == "step-2000"


def test_methods_are_ordered_by_bits(tables):
    order = method_order(tables["measurements"])
    assert order[0] == "none"
    assert set(order[1:3]) == {method for method, (bits, _) in METHODS.items() if bits == 3}


@pytest.mark.parametrize(("rate", "text"), [(0.0, "0"), (3e-3, "3e-3"), (1.5e-4, "1.5e-4")])
def test_rates_are_written_as_people_do(rate, text):
    assert short_rate(rate) == text


@pytest.mark.parametrize(("count", "text"), [(400, "400"), (7_372_800, "7.37 M"), (11e12, "11 T")])
def test_counts_are_written_as_people_do(count, text):
    assert short_count(count) == text
