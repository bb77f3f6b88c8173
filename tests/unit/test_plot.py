import re
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from scripts.lib.analysis.judging import VERDICTS
from scripts.lib.analysis.mechanism import mechanism_tables
from scripts.lib.analysis.tracks import short_count, short_rate, tracks
from scripts.lib.report import figures
from scripts.lib.report.forest import NO_CLAIMS
from scripts.lib.report.laws import NOTHING_LEFT_OUT
from scripts.lib.report.mechanism import NOTHING_SLICED, WAYS
from scripts.lib.runtime.config_files import read_yaml
from scripts.plot import (
    FIGURES,
    NO_TASKS,
    NOTHING_MEASURED,
    NOTHING_QUANTIZED,
    NOTHING_TRAINED,
    TOO_LITTLE,
    method_order,
    noise_of_a_cell,
    plot,
)
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import METHODS, two_peaks, write_slice, write_study

Tables = dict[str, pl.DataFrame]
THEME = read_yaml("config/default.yaml")["plot"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    return tabulate(**write_study(tmp_path_factory.mktemp("study"), two_peaks(), documents=30).arguments())


def draw(folder: Path, name: str, tables: Tables, theme=THEME, **changes: pl.DataFrame) -> str:
    """The figure as SVG, made from these tables with some changed."""
    plot(name, theme, tables | changes, svg=folder / "figure.svg")
    return (folder / "figure.svg").read_text()


@pytest.fixture(scope="module")
def plain(tables, tmp_path_factory):
    """Each figure of these tables by its name, as SVG; drawn once."""
    return cache(lambda name: draw(tmp_path_factory.mktemp("plain"), name, tables))


def big(tables: Tables, count: int = 60) -> Tables:
    """`count` checkpoints in each of two runs, ten methods."""
    row = tables["measurements"].filter(trajectory="low", method="nf4", metric="cross_entropy").row(0, named=True)
    point = tables["checkpoints"].filter(trajectory="low").row(0, named=True)
    trunk = tables["runs"].filter(trajectory="low").row(0, named=True)
    points, rows, runs = [], [], []
    for run, peak in (("a", 1e-3), ("b", 2e-3)):
        runs.append({**trunk, **dict.fromkeys(("trajectory", "family", "root"), run), "schedule.peak": peak})
        for step in range(1, count + 1):
            place = {"trajectory": run, "checkpoint": f"step-{step}", "step": step, "tokens": step * 10**9}
            points.append({**point, **place, "peak_learning_rate": peak, "learning_rate": peak})
            for number in range(11):
                error = number * step / 1e4 - 1e-4
                change = {"relative": error, "lower": error, "upper": error, "value": 3 + error, "baseline": 3.0}
                rows.append({**row, **place, **change, "method": f"m{number}" if number else "none", "bits": 3})
    made = {"measurements": rows, "checkpoints": points, "runs": runs}
    return tables | {name: pl.DataFrame(part, tables[name].schema) for name, part in made.items()}


CURVES = [name for name in FIGURES if name not in ("claims", "training", "mechanism", "laws")]
# What stands in figures that show no method: these tables leave some of them empty.
WORDS = {"claims": NO_CLAIMS, "training": "weight norm", "mechanism": NOTHING_SLICED, "laws": NOTHING_LEFT_OUT}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_every_time_and_keeps_text(tables, tmp_path, name):
    drawn = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        files = {kind: folder / f"{name}.{kind}" for kind in figures.FORMATS}
        plot(name, THEME, tables, **files)
        drawn.append({kind: path.read_bytes() for kind, path in files.items()})
    assert drawn[0] == drawn[1]
    assert drawn[0]["png"].startswith(b"\x89PNG")
    assert drawn[0]["pdf"].startswith(b"%PDF")
    svg = drawn[0]["svg"].decode()
    assert "<text" in svg
    assert WORDS.get(name, "gptq-w3-g32") in svg
    assert not re.search(r"dc:date|matplotlib\.org", svg)


def test_the_mechanism_has_a_panel_for_each_of_its_factors(tmp_path, tables):
    study = write_study(tmp_path / "study", two_peaks(), documents=30)
    for point in two_peaks():
        write_slice(study, (*point[:2], "gptq-w3-g32"), 0.2, (3.0, 0.01, 0.06, 0.002))
    made = mechanism_tables("made-up", study.slices, tables["checkpoints"], tables["methods"])
    svg = draw(tmp_path, "mechanism", tables, **made)
    for words in ("gptq-w3-g32", *(line for text in WAYS.values() for line in text.split("\n"))):
        assert words in svg
    assert ">nf4<" not in svg


def test_a_loss_that_bends_down_has_no_curvature_in_the_figure(tmp_path, tables):
    study = write_study(tmp_path / "study", two_peaks(), documents=30)
    for point in two_peaks():
        write_slice(study, (*point[:2], "gptq-w3-g32"), 0.2, (3.0, 0.09, -0.01))
    made = mechanism_tables("made-up", study.slices, tables["checkpoints"], tables["methods"])
    assert "curvature" in draw(tmp_path, "mechanism", tables, **made)


def test_the_theme_is_seen(tables, tmp_path, plain):
    changes = [{"context": "talk"}, {"style": "darkgrid"}, {"palette": "deep"}, {"font_scale": 2.0}]
    assert {key for change in changes for key in change} == THEME.keys()
    drawn = {draw(tmp_path, "loss_vs_tokens", tables, theme=THEME | change) for change in changes}
    assert len(drawn | {plain("loss_vs_tokens")}) == 1 + len(changes)


def test_every_theme_that_is_allowed_exists():
    keys = read_yaml("workflow/schemas/config.schema.yaml")["properties"]["plot"]["properties"]
    for key, allowed in keys.items():
        for value in allowed.get("enum", []):
            figures.use_style(THEME | {key: value})


def empty(name: str) -> str:
    """What a figure says instead of drawing where no quantized model was measured."""
    return NO_TASKS if name == "tasks" else NOTHING_QUANTIZED


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("case", ["methods missing in one run", "branches alone"])
def test_a_figure_of_a_part_shows_all_its_methods(tables, tmp_path, name, case):
    branches = pl.col("trajectory").is_in(["low-cooldown", "high-cooldown"])
    part = {
        "methods missing in one run": {
            "measurements": tables["measurements"].filter(
                (pl.col("method") != "nf4") | (pl.col("trajectory") == "high")
            )
        },
        "branches alone": {place: tables[place].filter(branches) for place in ("measurements", "checkpoints")},
    }[case]
    shown = {method for method in METHODS if method in draw(tmp_path, name, tables, **part)}
    if name == "overview":
        assert len(shown) == 2
    else:
        assert shown == METHODS.keys()


@pytest.mark.parametrize("name", ["overview", "error_vs_tokens", "baseline_vs_quantized"])
def test_no_panel_has_one_or_two_dots(tables, tmp_path, name):
    rare = (pl.col("method") != "nf4") | (pl.col("checkpoint") == "step-400")
    assert ">nf4<" not in draw(tmp_path, name, tables, measurements=tables["measurements"].filter(rare))
    alone = tables["measurements"].filter(trajectory="low", step=400)
    svg = draw(tmp_path, name, tables, measurements=alone)
    assert TOO_LITTLE in svg


@pytest.mark.parametrize("name", CURVES)
def test_without_quantized_models_only_the_baseline_is_drawn(tables, tmp_path, name):
    svg = draw(tmp_path, name, tables, measurements=tables["measurements"].filter(method="none"))
    assert ("none (baseline)" if name == "loss_vs_tokens" else empty(name)) in svg
    assert not any(method in svg for method in METHODS)


@pytest.mark.parametrize("name", CURVES)
def test_without_measurements_a_figure_says_so(tables, tmp_path, name):
    svg = draw(tmp_path, name, tables, measurements=tables["measurements"].clear())
    assert (NOTHING_MEASURED if name == "loss_vs_tokens" else empty(name)) in svg


@pytest.mark.parametrize("name", [name for name in CURVES if name not in ("tasks", "overview")])
def test_all_of_ten_methods_are_shown_at_many_checkpoints(tables, tmp_path, name):
    svg = draw(tmp_path, name, big(tables))
    assert {number for number in range(1, 11) if f">m{number}<" in svg} == set(range(1, 11))


def test_training_is_drawn_of_runs_that_were_trained_here_alone(tables, tmp_path, plain):
    assert "peak rate 1.5e-3" in plain("training")
    assert "branches" in plain("training")
    assert "averages" not in plain("training")
    assert NOTHING_TRAINED in draw(tmp_path, "training", tables, training=tables["training"].clear())


def test_a_study_without_tasks_says_so(tables, tmp_path):
    losses = tables["measurements"].filter(metric="cross_entropy")
    assert NO_TASKS in draw(tmp_path, "tasks", tables, measurements=losses)


def test_axes_say_whether_they_are_relative(plain):
    assert "relative error of loss" in plain("error_vs_tokens")
    assert "nats per token" in plain("loss_vs_tokens")


@pytest.mark.parametrize("name", ["overview", "error_vs_tokens", "errors_by_method"])
def test_what_the_study_varies_is_named(tables, tmp_path, plain, name):
    assert "peak rate 1.5e-3" in plain(name)
    renamed = tables["runs"].rename({"schedule.peak": "optimizer.weight_decay"})
    svg = draw(tmp_path, name, tables, runs=renamed)
    assert "weight decay" in svg
    assert "peak rate" not in svg


def test_the_overview_shows_the_methods_that_decide_and_the_band_of_noise(tables, tmp_path):
    row = dict.fromkeys(VERDICTS) | {"primary": True, "method": "nf4", "dataset": "docstrings"}
    verdicts = pl.DataFrame([[row[name] for name in VERDICTS]], VERDICTS, orient="row")
    svg = draw(tmp_path, "overview", tables, verdicts=verdicts)
    assert ">nf4<" in svg
    assert ">gptq-w4-g32<" not in svg
    assert "noise of one cell" in svg
    silent = tables["noise"].with_columns(standard_deviation=pl.lit(None, pl.Float64))
    assert "noise of one cell" not in draw(tmp_path, "overview", tables, noise=silent)


def test_noise_of_a_cell_counts_seeds_instead_of_what_they_hold():
    rows = [("documents", 3.0), ("calibration", 4.0), ("neighbours", 12.0), ("numerics", 100.0), ("seeds", 4.0)]
    place = {"measure": "loss", "method": "m", "dataset": "d"}
    noise = pl.DataFrame([place | {"source": source, "standard_deviation": value} for source, value in rows])
    assert noise_of_a_cell(noise, *place.values()) == pytest.approx(2 * 5)
    assert noise_of_a_cell(noise.filter(pl.col("source") != "seeds"), *place.values()) == pytest.approx(2 * 13)
    assert noise_of_a_cell(noise, "kl", "m", "d") is None


def test_schedules_are_drawn_at_full_resolution(tables, tmp_path, plain):
    tokens = range(0, 7_000_000, 10_000)
    schedule = pl.DataFrame({"trajectory": "low", "tokens": tokens, "learning_rate": [1e-3, 5e-4] * 350})
    fine = draw(tmp_path, "error_vs_tokens", tables, schedules=schedule)
    assert len(fine) > len(plain("error_vs_tokens")) + 10_000


def test_an_unknown_figure_is_refused_with_the_known_ones(tables, tmp_path):
    with pytest.raises(ValueError, match=r"no figure 'pie'.*loss_vs_tokens"):
        draw(tmp_path, "pie", tables)


def test_tracks_know_trunks_branches_and_averages(tables):
    found = {track.name: track for track in tracks(tables["checkpoints"])}
    assert [track.kind for track in found.values()] == ["trunk", "branch", "average"] * 2
    assert (found["low-cooldown"].start, found["low-cooldown"].family) == ("step-2000", "low")


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
