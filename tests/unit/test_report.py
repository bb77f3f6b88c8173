import re
from pathlib import Path

import pytest

from scripts.plot import FIGURES, plot
from scripts.report import caption, report
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import two_peaks, write_loss, write_study

REPORTS = Path("reports")
CITATION = "title: trajquant\nversion: 0.1.0\nauthors:\n  - {given-names: Ada, family-names: Lovelace}\n"


def render(folder: Path, points: list, **options) -> str:
    """The report of a made-up study, with one refused cell if there is a quantized one."""
    study = write_study(folder, points, documents=40, **options)
    write_loss(study, (*points[0][:2], "nf4"), 1.0, 0.0, 0, status="refused", reason="loss is <not> finite")
    for name, table in tabulate(**study.arguments(draws=100)).items():
        table.write_parquet(folder / f"{name}.parquet")
    for name in FIGURES:
        plot(name, folder / "measurements.parquet", folder / "checkpoints.parquet", [], *_images(folder, name))
    (folder / "CITATION.cff").write_text(CITATION)
    report(
        "made-up",
        "A made-up study",
        sorted(folder.glob("*.parquet")),
        [folder / f"{name}.svg" for name in FIGURES],
        sorted((REPORTS / "captions").glob("*.rst")),
        [*study.checkpoints, *study.quantized],
        REPORTS / "report.py",
        REPORTS / "page.html",
        folder / "CITATION.cff",
        folder / "report.html",
    )
    return (folder / "report.html").read_text()


def _images(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.svg", folder / f"{name}.png"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("report")
    patch.setenv("HOME", "/proc/no-home")
    yield render(folder, two_peaks())
    patch.undo()


def test_the_page_is_one_file_that_needs_no_network(page):
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://", bare)
    assert not re.search(r"<(link|script|iframe|img)\b|@import", bare)
    assert len(page) < 20_000_000


def test_the_page_has_all_parts_and_a_table_of_contents(page):
    parts = ("Finding", "Figures", "Methods", "Measurements", "Missing cells", "Costs", "Versions", "How to cite")
    contents = page[page.index("<nav") : page.index("</nav>")]
    for part in parts:
        assert f">{part}</a>" in contents
        assert f'id="{part.replace(" ", "-")}"' in page
    for name in FIGURES:
        assert f'href="#{name}"' in contents
    assert page.count("<svg") == len(FIGURES)


def test_the_finding_has_numbers_of_the_tables(page):
    finding = page[page.index('class="finding"') : page.index("</p>", page.index('class="finding"'))]
    assert "higher in 2 of 2 cases than without the decay" in finding
    assert "lower in 18 of 18 cases than that of rtn-w3-g32" in finding


def test_missing_cells_are_listed_with_their_reasons_escaped(page):
    assert "loss is &lt;not&gt; finite" in page


def test_code_is_hidden_and_sources_are_cited(page):
    assert "pages.show" not in page
    assert "arXiv:2510.06213" in page
    assert "Ada Lovelace: trajquant, version 0.1.0." in page


def test_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_study_with_one_checkpoint_has_a_report_too(tmp_path):
    text = render(tmp_path, two_peaks()[:1], tasks=False)
    assert "No decay of the learning rate can be compared" in text
    assert "No tasks were evaluated" in text


@pytest.mark.parametrize("path", sorted((REPORTS / "captions").glob("*.rst")), ids=lambda path: path.stem)
def test_captions_name_the_study(path):
    for figure in FIGURES:
        assert "study demo" in caption(path, "demo", figure)


def test_every_figure_has_a_caption_of_its_own():
    texts = {caption(REPORTS / "captions/figure.rst", "demo", figure) for figure in FIGURES}
    assert len(texts) == len(FIGURES)
