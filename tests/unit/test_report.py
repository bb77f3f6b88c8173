import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.laws.table import laws_table
from scripts.lib.analysis.mechanism import mechanism_tables
from scripts.lib.analysis.metrics import TASK, rows_in
from scripts.lib.report.captions import caption
from scripts.lib.report.numbers import effect
from scripts.lib.report.tables import described
from scripts.plot import FIGURES
from scripts.tabulate import tabulate
from tests.unit import planted, planted_laws
from tests.unit.synthetic_study import two_peaks, write_loss, write_slice, write_study

ROOT = Path(__file__).parents[2]
CAPTIONS = sorted((ROOT / "reports/captions").glob("*.rst"))
CITATION = "title: trajquant\nversion: 0.1.0\nauthors:\n  - {given-names: Ada, family-names: Lovelace}\n"
REPORT = """
from pathlib import Path
from scripts.report import report
pages = [Path("reports/report.py"), Path("reports/page.html")]
outputs = [Path("results/report/made-up.html"), Path("results/report/made-up.ipynb")]
theme = {"style": "darkgrid", "context": "paper"}
report("made-up", "A made-up <img> study", theme, Path("results/tables/made-up"), *pages, *outputs)
"""
METHODS = pl.DataFrame(
    {
        **{"method": ["awq-gptq-w3", "mixed"], "recipe": ["awq-gptq-w3", "mixed"], "draw": [1, None]},
        **{"algorithm": ["gptq", "gguf"], "transform": ["awq", None]},
        **{"library": ["llmcompressor", "gguf"], "package_version": ["0.14.0.1", None], "bits": [3, None]},
        **{"group_size": [32, 256], "symmetric": [True, False], "bits_per_weight": [3.5, 4.25]},
        **{"weight_error": [0.24168, 0.1], "weight_error_lowest": [0.2, 0.1], "weight_error_highest": [0.3, 0.1]},
        **{"calibration": ["corpus docstrings, samples 128", None], "cells": [12, 2]},
    }
)
VERSIONS = pl.DataFrame({"package": ["torch"], "version": ["2.13.0"], "used_for": ["models"]})
Tables = dict[str, pl.DataFrame]


def made_up(folder: Path, points: list, **options) -> Tables:
    """The tables of a made-up study, with one refused cell."""
    study = write_study(folder, points, documents=40, **options)
    write_loss(study, (*points[0][:2], "nf4"), 1.0, 0.0, 0, status="refused", reason="loss is <not> finite")
    claims = {
        "decay-raises": planted.claim("decay-raises"),
        "gptq-beats-rtn": planted.claim("gptq-beats-rtn", references={planted.METHOD: "rtn-w3-g32"}),
    }
    rows = planted.lineage(points, {"low": 1, "high": 1})
    tables = tabulate(**study.arguments(), claims=claims, lineage=rows)
    few = planted_laws.Design(seeds=(1, 2, 3), peaks=(6e-3,), bits=(2, 3))
    laws = planted_laws.follow(planted_laws.tables(few), ("kumar",), np.random.default_rng(3))
    for point in points:
        write_slice(study, (*point[:2], "gptq-w3-g32"), 0.2, (3.0, 0.01, 0.06, 0.002))
    tables |= mechanism_tables("made-up", study.slices, tables["checkpoints"], tables["methods"])
    return {**tables, "methods": METHODS, "versions": VERSIONS, "laws": laws_table("made-up", laws, 0.95)}


def clone(folder: Path, tables: Tables) -> Path:
    """A clone that holds nothing of a study but its tables."""
    for name in ("scripts", "reports"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "published"))
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "CITATION.cff").write_text(CITATION)
    for name in ("tables/made-up", "report"):
        (folder / "results" / name).mkdir(parents=True)
    for name, table in tables.items():
        table.write_parquet(folder / f"results/tables/made-up/{name}.parquet")
    return folder


def render(folder: Path, tables: Tables) -> str:
    """The page of these tables, made in a clone in which its notebook lies too."""
    subprocess.run([sys.executable, "-c", REPORT], cwd=clone(folder, tables), check=True)
    return (folder / "results/report/made-up.html").read_text()


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    return made_up(tmp_path_factory.mktemp("study"), two_peaks())


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tables) -> Path:
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("clone")
    patch.setenv("HOME", "/proc/no-home")
    render(folder, tables)
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def page(tree) -> str:
    return (tree / "results/report/made-up.html").read_text()


@pytest.fixture(scope="module")
def notebook(tree) -> dict:
    return json.loads((tree / "results/report/made-up.ipynb").read_text())


def outputs(notebook: dict) -> list:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def html(output: dict) -> str:
    return "".join(output["data"]["text/html"])


def test_the_page_is_one_file_that_needs_no_network(page):
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://", bare)
    assert not re.search(r"<(link|iframe|img)\b|<script [^>]*src=|@import", bare)
    assert len(page) < 20_000_000


def test_the_page_has_all_parts_and_a_table_of_contents(page):
    parts = ("Answers", "What to ship", "All claims", "Figures", "Noise", "Runs", "Measurements", "Methods")
    parts += ("Missing cells", "Costs", "Versions", "How to cite")
    contents = page[page.index("<nav") : page.index("</nav>")]
    figures = [name.replace("_", " ").capitalize() for name in FIGURES if name not in ("overview", "claims")]
    for part in (*parts, *figures):
        assert f">{part}</a>" in contents
        assert f'id="{part.replace(" ", "-")}"' in page
    assert re.findall(r'<figure><svg [^>]*aria-label="(\w+)"', page) == list(FIGURES)


def test_the_answers_come_before_all_figures(page):
    places = [page.index(part) for part in ('class="card ', 'id="What-to-ship"', "<figure>", 'id="All-claims"')]
    assert places == sorted(places)


def test_figures_have_the_theme_of_the_study(page):
    background = "#eaeaf2"  # seaborn's, in style darkgrid
    assert page.count(f"fill: {background}") >= len(FIGURES) - 1


def test_cards_have_the_numbers_of_the_verdicts(page, tables):
    from bs4 import BeautifulSoup

    cards = {card.find("code").get_text(): card for card in BeautifulSoup(page, "html.parser").find_all("article")}
    primary = tables["verdicts"].filter("primary").drop_nulls("effect")
    assert cards.keys() == set(primary["claim"])
    for row in primary.iter_rows(named=True):
        told = cards[row["claim"]].get_text()
        for part in (row["says"], row["source"], row["replicates"], effect(row), row["verdict"].capitalize()):
            assert part in told
    assert "Smallest effect that matters: +10.5" in cards["decay-raises"].get_text()
    assert "Fewer than three runs say nothing about training" in cards["decay-raises"].get_text()


def test_the_head_says_on_what_text_losses_rest(page, tables):
    (row,) = tables["datasets"].drop_nulls("tokens").to_dicts()
    assert row["documents"] == 40
    assert 30 < row["effective_documents"] < 40
    assert f"Losses on docstrings: 40 documents (as good as {row['effective_documents']:.0f} of equal size)" in page
    assert re.search(r"Clone at commit <code>\w+</code>", page)


def test_runs_are_listed_with_what_varies(page, tables):
    head, *body = rows(page, "runs")
    assert head == ["trajectory", "kind", "from", "architecture", "parameters", "seed", "peak rate", "step", "tokens"]
    assert len(body) == len(tables["runs"])
    (low,) = (row for row in body if row[0] == "low-cooldown")
    assert low[1:7] == ["branch", "low, step-2000", "llama", "1.23 M", "1", "1.5e-3"]


def test_verdicts_are_all_there(page, tables):
    head, *body = rows(page, "verdicts")
    assert len(body) == len(tables["verdicts"])
    assert {row[head.index("verdict")] for row in body} == {*tables["verdicts"].filter("primary")["verdict"], "–"}


def test_missing_cells_are_listed_with_their_reasons_escaped(page):
    assert "loss is &lt;not&gt; finite" in page


def test_the_title_is_a_text(page):
    assert "<h1>A made-up &lt;img&gt; study</h1>" in page
    assert "<img> study" not in page


def rows(page: str, name: str) -> list[list[str]]:
    """Texts of the cells of a table of the page; its first row is the head."""
    from bs4 import BeautifulSoup

    table = BeautifulSoup(page, "html.parser").find("th", id=re.compile(f"^{name}-")).find_parent("table")
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]


def test_methods_are_described(page):
    head, first, second = rows(page, "methods")
    assert head[:4] == ["recipe", "algorithm", "library", "bits"]
    assert first[:7] == ["awq-gptq-w3", "awq + gptq", "llmcompressor 0.14.0.1", "3", "32", "yes", "3.50"]
    assert first[7:] == ["–", "0.2417 [0.2000, 0.3000]", "corpus docstrings, samples 128", "12"]
    assert second == ["mixed", "gguf", "gguf", "mixed", "256", "no", "4.25", "–", "0.1000 [0.1000, 0.1000]", "–", "2"]


def test_methods_are_described_by_the_loss_that_they_add():
    losses = pl.DataFrame({"method": ["mixed", "mixed", "none"], "difference": [0.1, 0.3, 0.0]})
    losses = losses.with_columns(metric=pl.lit("cross_entropy"), subset=pl.lit(None, pl.String))
    page = described(METHODS, losses).as_raw_html()
    assert [row[7] for row in rows(page, "methods")] == ["loss added", "–", "+0.20 [+0.10,\u00a0+0.30]"]


def test_noise_is_told_by_source_or_why_it_is_not(page):
    head, *body = rows(page, "noise")
    assert head[:5] == ["method", "dataset", "measure", "unit", "documents"]
    assert {row[0] for row in body if len(row) > 1} == {"gptq-w3-g32", "gptq-w4-g32", "nf4", "rtn-w3-g32"}
    (kl,) = (row for row in body if row[:3] == ["nf4", "docstrings", "KL"])
    assert re.fullmatch(r"[\d.e-]+ \(\d+\)", kl[4])
    assert kl[5:] == ["–"] * 4
    assert "calibration, nf4, rtn-w3-g32: uses no calibration text" in page


def on_all_tokens(page: str, name: str) -> list[dict[str, str]]:
    """Rows of a table of losses, by column, without those of parts of the tokens."""
    head, *body = rows(page, name)
    found = [dict(zip(head, row, strict=True)) for row in body]
    return [row for row in found if row.pop("tokens of", "–") == "–"]


def test_losses_are_those_of_the_measurements(page, tables):
    ends, losses = on_all_tokens(page, "ends"), on_all_tokens(page, "losses")
    names = ["trajectory", "step", "method", "tokens", "learning rate", "baseline loss", "loss after"]
    assert list(ends[0]) == [*names, "relative error", "KL", "agreement"]
    assert len(ends) == len({point[0] for point in two_peaks()}) * 4
    found = tables["measurements"].filter(trajectory="low", step=2400, method="nf4").filter(pl.col("subset").is_null())
    loss, kl = (found.row(by_predicate=pl.col("metric") == name, named=True) for name in ("cross_entropy", "kl"))
    (low,) = (row for row in ends if (row["trajectory"], row["method"]) == ("low", "nf4"))
    assert list(low.values())[1:5] == ["2400", "nf4", "7.37 M", "1.5e-3"]
    assert list(low.values())[5:7] == [f"{loss['baseline']:.4f}", f"{loss['value']:.4f}"]
    assert low["relative error"].startswith(f"{100 * loss['relative']:.1f}")
    assert float(low["KL"]) == pytest.approx(kl["value"], rel=0.01)
    assert low["agreement"].endswith("%")
    assert len(losses) == len(two_peaks()) * 4 - 1  # one was refused


def test_comparisons_scores_costs_and_versions_are_all_there(page, tables):
    assert len(rows(page, "comparisons")) == 1 + len(tables["comparisons"])
    tasks = rows_in(tables["measurements"], TASK)
    assert len(rows(page, "scores")) == 1 + len(tasks)
    assert {row[0] for row in rows(page, "costs")[1:]} == set(tables["costs"]["rule"])
    assert rows(page, "versions")[1] == ["torch", "2.13.0", "models"]
    assert rows(page, "versions")[2][::2] == ["Python", "this report"]


def test_code_is_hidden_and_sources_are_cited(page):
    assert "read_parquet" not in page
    assert "arXiv:2510.06213" in page
    assert "Ada Lovelace: trajquant, version 0.1.0." in page


def test_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_notebook_shows_its_code_and_names_no_path_of_this_machine(tree, notebook):
    text = json.dumps(notebook)
    assert "pl.read_parquet" in text
    assert 'tables = \\"results/tables/made-up\\"' in text
    for path in (tree, ROOT, Path(sys.prefix), Path.home()):
        assert f"{path}/" not in text
    assert not [output for output in outputs(notebook) if output["output_type"] in ("stream", "error")]


def test_the_notebook_runs_again_from_the_tables_alone(tree, notebook, tmp_path):
    shutil.copytree(tree, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("__pycache__", "*.html"))
    folder = tmp_path / "elsewhere/results/report"
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "made-up.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    again = json.loads((folder / "made-up.ipynb").read_text())
    assert len(outputs(again)) > len(FIGURES)
    assert [html(output) for output in outputs(again)] == [html(output) for output in outputs(notebook)]


def test_a_study_with_one_checkpoint_has_a_report_too(tmp_path):
    text = render(tmp_path / "clone", made_up(tmp_path / "study", two_peaks()[:1], tasks=False))
    assert "No comparison" in text
    assert "No tasks were evaluated" in text


def test_laws_are_shown_where_they_were_fitted(tmp_path, tables, page):
    assert "Kumar et al., penalty of rtn-w2, rtn-w3" in page
    assert "All parameters and scores" in page
    text = render(tmp_path, {name: table for name, table in tables.items() if name != "laws"})
    assert "Laws are fitted by the workflow itself" in text


def test_sliced_cells_are_shown_where_there_are_any(tmp_path, tables, page):
    assert "All sliced cells" in page
    assert "mlp.up_proj.weight" in page
    rest = {name: table for name, table in tables.items() if not name.startswith("mechanism")}
    assert "What penalties are made of is told by the workflow itself" in render(tmp_path, rest)


def test_empty_tables_have_a_report_that_says_so(tmp_path, tables):
    text = render(tmp_path, {name: table.clear() for name, table in tables.items()} | {"runs": tables["runs"]})
    assert "nothing measured yet" in text
    assert "The study lists no claims to decide." in text
    assert "Nothing is replicated in this study" in text
    assert "This study slices no cell" in text
    for said in (
        "There is nothing to compare",
        "No cell was quantized",
        "No loss was measured",
        "No cell is missing",
    ):
        assert said in text


@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: path.stem)
def test_captions_name_the_study(path):
    for figure in FIGURES:
        assert "study demo" in caption("demo", path.stem, figure)


def test_every_figure_has_a_caption_of_its_own():
    assert len({caption("demo", "figure", figure) for figure in FIGURES}) == len(FIGURES)
