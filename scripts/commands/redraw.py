"""make redraw STUDY=X: tables, verdicts, figures and report of a published study, from reports/published/X alone.

Nothing is copied that can be worked out. They go to results/redrawn/X; the exit status is 1 if a verdict is not the
published one.
"""

import sys
import tempfile
from pathlib import Path

import polars as pl

from scripts.commands.report import PAGE, TEMPLATE, with_lacking
from scripts.lib.analysis.mechanism import mechanism_tables
from scripts.lib.report import contents, published
from scripts.lib.runtime import manifests
from scripts.lib.runtime.config_files import ConfigError, require_name
from scripts.plot import plot
from scripts.report import report
from scripts.tabulate import tabulate

OUT = Path("results/redrawn")


def tables_of(folder: Path) -> dict[str, pl.DataFrame]:
    """The tables of a published study, worked out again; costs and logs of training are copied."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = published.unpack(folder, Path(scratch))
        lacking = arguments.pop("lacking")
        tables = with_lacking(tabulate(**arguments), arguments["study"], lacking)
        if slices := arguments["slices"]:
            tables |= mechanism_tables(arguments["study"], slices, tables["checkpoints"], tables["methods"])
    return tables | {name: pl.read_parquet(folder / f"tables/{name}.parquet") for name in ("costs", "training")}


def draw(tables: dict[str, pl.DataFrame], theme: dict, folder: Path) -> None:
    """Write all figures as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in contents.FIGURES:
        plot(name, theme, tables, svg=folder / f"{name}.svg")


def redraw(folder: Path, out: Path) -> list[str]:
    """Make tables, figures, notebook and page of a published study.

    Args:
        folder: in which it was published.
        out: where they are written.

    Returns:
        What the verdicts say that the published ones do not, in words.
    """
    about, tables = manifests.read(folder / published.ABOUT), tables_of(folder)
    published.write_tables(tables, out / "tables")
    draw(tables, about["theme"], out / "figures")
    name = about["study"]
    pages = out / f"{name}.html", out / f"{name}.ipynb"
    report(name, about["title"], about["theme"], out / "tables", TEMPLATE, PAGE, *pages, about["missing"] > 0)
    return published.changed_verdicts(pl.read_parquet(folder / "tables/verdicts.parquet"), tables["verdicts"])


def main() -> None:
    """Redraw a published study and say where it is, and what has changed."""
    study = next(iter(sys.argv[1:]), "")
    try:
        known = [path.parent.name for path in published.FOLDER.glob(f"*/{published.ABOUT}")]
        require_name(study, known, "published study", "STUDY=NAME")
    except ConfigError as error:
        sys.exit(f"redraw: {error}")
    changed = redraw(published.FOLDER / study, OUT / study)
    print(f"wrote {OUT / study / study}.html")
    if changed:
        sys.exit("\n".join(["redraw: verdicts are not those that were published:", *changed]))
    print("all verdicts are those that were published")


if __name__ == "__main__":
    main()
