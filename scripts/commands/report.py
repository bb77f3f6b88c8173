"""make report STUDY=X: the report of what is there, in the middle of a run or after failed jobs.

It goes to results/partial/STUDY/, beside Snakemake's own, of which it touches nothing: a later run takes up the rest.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from scripts.lib.analysis.tables import MISSING, write_csv
from scripts.lib.cluster import runs
from scripts.lib.cluster.forecast import MAKING_CHECKPOINTS
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import coordinates
from scripts.lib.study.plan import BASELINE, Cell, Plan, load_plan
from scripts.lib.study.replicates import repeat
from scripts.report import report
from scripts.tabulate import tabulate

TEMPLATE, PAGE = Path("reports/report.py"), Path("reports/page.html")


def render(plan: Plan, going_on: bool) -> Path:
    """Make the tables, the notebook and the page of what a study has so far.

    Args:
        plan: the study.
        going_on: whether a run may still bring what is missing.

    Returns:
        The page.
    """
    study, theme = plan.config["study"], plan.config["plot"]
    place = Path(plan.paths.partial(study["name"]))
    absent = list(lacking(plan, going_on))
    tables = with_lacking(tabulate(**arguments(plan)), study["name"], absent)
    (place / "tables").mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(place / "tables" / f"{name}.parquet")
        write_csv(table, place / "tables" / f"{name}.csv")
    html = place / f"{study['name']}.html"
    outputs = html, html.with_suffix(".ipynb")
    report(study["name"], study["title"], theme, place / "tables", TEMPLATE, PAGE, *outputs, bool(absent))
    return html


def arguments(plan: Plan) -> dict:
    """The arguments of `tabulate` by name, of what a study has so far."""
    name = plan.config["study"]["name"]
    again, no_repeat = repeat(plan)
    return {
        "study": name,
        "runs": coordinates.runs(plan),
        "circumstances": plan.circumstances(),
        "schedules": plan.schedules(),
        "training": plan.training_logs(),
        **results(plan),
        "benchmarks": plan.paths.benchmarks(""),
        "confidence": plan.config["tabulate"]["confidence"],
        "refused": plan.refused_cells(),
        "neighbours": plan.neighbours,
        "repeat": again,
        "no_repeat": no_repeat,
        "claims": plan.claims,
        "lineage": plan.lineage(),
        "record": plan.paths.claims(name),
    }


def with_lacking(tables: dict[str, pl.DataFrame], study: str, absent: list[dict]) -> dict[str, pl.DataFrame]:
    """The tables, `missing` with rows of what was not measured yet, as of `lacking`, before its own."""
    rows = [dict.fromkeys(MISSING) | {"study": study} | row for row in absent]
    return tables | {"missing": pl.concat([pl.DataFrame(rows, schema=MISSING), tables["missing"]])}


def results(plan: Plan) -> dict[str, list[str]]:
    """Whole files that tabulate reads, by kind; results of a cell only where its manifests are there too."""
    points = {
        point: f"{plan.paths.checkpoint(point[0], f'step-{point[1]}')}/manifest.json" for point in plan.checkpoints
    }
    there = {point for point, path in points.items() if is_whole(path)}
    cells = [cell for cell in plan.cells if (cell.trajectory, cell.step) in there]
    made = {cell: f"{plan.paths.quantized(*cell.names)}/manifest.json" for cell in cells if cell.method != BASELINE}
    made = {cell: path for cell, path in made.items() if is_whole(path)}
    cells = [cell for cell in cells if cell.method == BASELINE or cell in made]
    measured = {"evaluate_loss": [], "evaluate_tasks": [], "slice": [], "describe_layers": []}
    for cell in cells:
        for stage, _, path in plan.evaluations(cell):
            if is_whole(path):
                measured[stage].append(path)
    return {
        "checkpoints": [points[point] for point in sorted(there)],
        "quantized": list(made.values()),
        "losses": measured["evaluate_loss"],
        "tasks": measured["evaluate_tasks"],
        "slices": measured["slice"],
    }


def lacking(plan: Plan, going_on: bool) -> Iterator[dict]:
    """Rows for the table `missing` of what is not there: the first step of each cell's way that has no result."""
    for cell in plan.cells:
        trajectory, checkpoint, _ = cell.names
        point = f"{plan.paths.checkpoint(trajectory, checkpoint)}/manifest.json"
        logs = [f"{plan.paths.logs(rule)}/{trajectory}/{checkpoint}.log" for rule in MAKING_CHECKPOINTS]
        logs += sorted(map(str, Path(plan.paths.logs("train"), trajectory).glob("*.log")), reverse=True)
        way = [("checkpoint", None, point, logs)]
        if cell.method != BASELINE:
            log = f"{plan.paths.logs('quantize')}/{'/'.join(cell.names)}.log"
            way.append(("quantize", None, f"{plan.paths.quantized(*cell.names)}/manifest.json", [log]))
        gap = next((step for step in way if not is_whole(step[2])), None)
        for stage, dataset, path, tried in [gap] if gap else measurements(plan, cell):
            if not is_whole(path):
                names = dict(zip(("trajectory", "checkpoint", "method"), cell.names, strict=True))
                yield names | {"stage": stage, "dataset": dataset, "reason": reason(tried, going_on)}


def measurements(plan: Plan, cell: Cell) -> Iterator[tuple[str, str, str, list[str]]]:
    """(stage, corpus or suite, file, logs) of all that is measured of a cell."""
    for stage, name, path in plan.evaluations(cell):
        yield stage, name, path, [f"{plan.paths.logs(stage)}/{'/'.join(cell.names)}/{name}.log"]


def reason(logs: list[str], going_on: bool) -> str:
    """Why something is missing, from the log of the job that was to make it."""
    log = next((path for path in logs if Path(path).is_file()), None)
    if log is None:
        return "not measured yet"
    return f"begun, not ended: {log}" if going_on else f"ended without a result: see {log}"


def is_whole(path: str) -> bool:
    """Whether a JSON or parquet file is there and can be read: a running job may be in the middle of writing it."""
    try:
        if path.endswith(".json"):
            json.loads(Path(path).read_text())
        else:
            pl.read_parquet_metadata(path)
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return False
    return True


def main() -> None:
    """Render a study's report and say where it is."""
    try:
        plan, head = load_plan(*sys.argv[1:]), runs.holder()
        going_on = bool(head) and runs.is_alive(head) is not False
        print(f"wrote {render(plan, going_on)}")
    except ConfigError as error:
        sys.exit(f"report: {error}")


if __name__ == "__main__":
    main()
