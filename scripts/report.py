"""report: a study's tables and figures as a notebook and as one HTML file, from the notebook template in reports/."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHORT = 24  # characters of a cell that no line is broken in


def report(
    study: str,
    title: str,
    theme: dict,
    tables: Path,
    template: Path,
    page: Path,
    html: Path,
    notebook: Path,
    unfinished: bool = False,
) -> None:
    """Execute the notebook template on a study's tables; write the notebook with its outputs, and the page.

    Args:
        study, title: name of the study and title of the page.
        theme: of figures, the config's section `plot`.
        tables: folder of the parquet files of tabulate; the notebook names it as seen from the root of the clone.
        template: notebook in jupytext's percent form.
        page: Jinja template of the HTML around the notebook.
        html, notebook: output files.
        unfinished: whether results are missing that a run may still bring; the page begins with them then.

    Raises:
        papermill.PapermillExecutionError: a cell of the template failed; the message shows the cell and the error.
    """
    names = {"study": study, "title": title, "theme": theme, "tables": os.path.relpath(tables, ROOT)}
    parameters = names | {"unfinished": unfinished}
    with tempfile.TemporaryDirectory() as scratch, _own_settings(Path(scratch)):
        executed = _execute(template, parameters, Path(scratch))
    notebook.write_text(_as_json(executed))
    html.write_text(_in_page(_as_html(executed), title, page))


@contextmanager
def _own_settings(folder: Path) -> Iterator[None]:
    """Keep IPython and Jupyter out of the home folder, which may not be writable."""
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    settings = {name: str(folder / name.lower()) for name in names}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _execute(template: Path, parameters: dict, scratch: Path):
    """Run the template from the root of the clone and return the notebook, without times and paths of this run."""
    import jupytext
    import papermill

    source, executed = scratch / "template.ipynb", scratch / "executed.ipynb"
    jupytext.write(jupytext.read(template), source)
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(ROOT), "request_save_on_cell_execute": False}
    notebook = papermill.execute_notebook(str(source), str(executed), parameters, **options)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for shown in (output.data for output in cell.get("outputs", []) if "data" in output):
            if "text/html" in shown:
                shown.pop("text/plain", None)  # which names addresses in memory
    for part in (notebook, *notebook.cells):
        for name in ("papermill", "execution"):
            part.metadata.pop(name, None)
    return notebook


def _as_json(notebook) -> str:
    import nbformat

    return nbformat.writes(notebook) + "\n"


def _as_html(notebook) -> str:
    """The notebook's outputs and text as HTML, without its code, its tables in the style of the page."""
    from nbconvert import HTMLExporter

    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if "gt_table" in shown.get("text/html", ""):
                shown["text/html"] = _in_style_of_page(shown["text/html"])
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    return exporter.from_notebook_node(notebook)[0]


def _in_style_of_page(text: str) -> str:
    """Tables of great_tables without the style sheet that each brings, in a frame that scrolls."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for sheet in soup.find_all("style"):
        sheet.decompose()
    for table in soup.find_all("table", class_="gt_table"):
        table.parent.attrs = {"class": "scroll"}
    for cell in soup.find_all("td"):
        if len(cell.get_text()) <= SHORT:
            cell["class"] = [*cell.get("class", []), "short"]
    return str(soup)


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
        snakemake.params.theme,
        Path(snakemake.input.tables[0]).parent,
        *(Path(snakemake.input[name]) for name in ("template", "page")),
        *(Path(snakemake.output[name]) for name in ("html", "notebook")),
    )
