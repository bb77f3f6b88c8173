"""report: the tables and figures of a study as one self-contained HTML file, from the notebook template in reports/."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]


def report(
    study: str,
    title: str,
    tables: list[Path],
    figures: list[Path],
    captions: list[Path],
    manifests: list[Path],
    template: Path,
    page: Path,
    citation: Path,
    output: Path,
) -> None:
    """Execute the notebook template on a study's tables and write the page.

    Args:
        study, title: name of the study and title of the page.
        tables: parquet files of tabulate; the stem of each is the table's name.
        figures: SVG files in the order in which they are shown; stems are names.
        captions: reStructuredText captions, `figure` for all figures and one a table; stems are names.
        manifests: manifests of checkpoints and quantized cells.
        template: notebook in jupytext's percent form.
        page: Jinja template of the HTML around the notebook.
        citation: CITATION.cff.
        output: the HTML file.

    Raises:
        papermill.PapermillExecutionError: a cell of the template failed; the message shows the cell and the error.
    """
    parameters = {
        "study": study,
        "title": title,
        "tables": _by_stem(tables),
        "figures": _by_stem(figures),
        "captions": {
            **{path.stem: caption(path, study) for path in captions if path.stem != "figure"},
            **{path.stem: caption(_only(captions, "figure"), study, path.stem) for path in figures},
        },
        "manifests": [str(path.resolve()) for path in manifests],
        "citation": str(citation.resolve()),
    }
    with tempfile.TemporaryDirectory() as scratch, _own_settings(Path(scratch)):
        body = _execute(template, parameters, Path(scratch))
    output.write_text(_in_page(body, title, page))


def caption(path: Path, study: str, figure: str | None = None) -> str:
    """A caption's text, with `snakemake.wildcards` filled in as Snakemake's own report does."""
    import jinja2

    job = SimpleNamespace(wildcards=SimpleNamespace(study=study, figure=figure))
    return jinja2.Template(path.read_text()).render(snakemake=job).strip()


def _only(paths: list[Path], stem: str) -> Path:
    return next(path for path in paths if path.stem == stem)


def _by_stem(paths: list[Path]) -> dict[str, str]:
    return {path.stem: str(path.resolve()) for path in paths}


@contextmanager
def _own_settings(folder: Path) -> Iterator[None]:
    """Keep IPython and Jupyter out of the home folder, which may not be writable; let the kernel import `scripts`."""
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings = {**{name: str(folder / name.lower()) for name in names}, "PYTHONPATH": paths}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _execute(template: Path, parameters: dict, scratch: Path) -> str:
    """Run the template and return its outputs and text as HTML without its code."""
    import jupytext
    import papermill
    from nbconvert import HTMLExporter

    source, executed = scratch / "template.ipynb", scratch / "executed.ipynb"
    jupytext.write(jupytext.read(template), source)
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(ROOT), "request_save_on_cell_execute": False}
    notebook = papermill.execute_notebook(str(source), str(executed), parameters, **options)
    exporter = HTMLExporter(template_name="basic", exclude_input=True)
    return exporter.from_notebook_node(notebook)[0]


def _in_page(body: str, title: str, page: Path) -> str:
    """The notebook's HTML inside the page, with its headings as table of contents."""
    import jinja2
    from bs4 import BeautifulSoup
    from markupsafe import Markup

    headings = BeautifulSoup(body, "html.parser").find_all(["h2", "h3"], id=True)
    contents = [{"id": tag["id"], "text": tag.get_text().rstrip("¶"), "deep": tag.name == "h3"} for tag in headings]
    template = jinja2.Environment(autoescape=True).from_string(page.read_text())
    return template.render(title=title, contents=contents, body=Markup(body))


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], f"report {snakemake.wildcards.study}")
    report(
        snakemake.wildcards.study,
        snakemake.params.title,
        *([Path(p) for p in snakemake.input[name]] for name in ("tables", "figures", "captions", "manifests")),
        *(Path(snakemake.input[name]) for name in ("template", "page", "citation")),
        Path(snakemake.output[0]),
    )
