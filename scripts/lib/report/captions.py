"""Captions of figures and tables, from the templates in reports/captions that Snakemake's own report fills in too."""

from pathlib import Path
from types import SimpleNamespace

import jinja2

FOLDER = Path("reports/captions")


def caption(study: str, name: str, figure: str | None = None) -> str:
    """The text of reports/captions/NAME.rst for a study; figures share one file, `figure`."""
    job = SimpleNamespace(wildcards=SimpleNamespace(study=study, figure=figure))
    return jinja2.Template((FOLDER / f"{name}.rst").read_text()).render(snakemake=job).strip()
