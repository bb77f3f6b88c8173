"""make publish-study STUDY=X: what the report of a study rests on, finished or not, to reports/published/X.

From there `make redraw STUDY=X` makes verdicts, figures and report again, without weights and without results/.
"""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from scripts.commands.redraw import draw, tables_of
from scripts.commands.report import arguments, lacking
from scripts.lib.report import published
from scripts.lib.report.numbers import DASH, effect, smallest
from scripts.lib.runtime import manifests
from scripts.lib.runtime.clone import commit
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.plan import Plan, load_plan
from scripts.tabulate import tabulate


def publish(folder: Path, given: dict, about: dict, absent: list[dict]) -> None:
    """Write a published study, in the place of what was published of it before.

    Args:
        folder: of the study, below `published.FOLDER`.
        given: the arguments of `tabulate`, by name.
        about: study, title, theme and how it was run; what is missing is added.
        absent: what was not measured yet, as of `lacking`.

    Raises:
        RuntimeError: nothing is measured yet, or the verdicts that follow from the folder are not those that follow
            from the results; nothing is published then.
    """
    if not given["losses"] and not given["tasks"]:
        raise RuntimeError(f"nothing of `{about['study']}` is measured yet: run it first")
    measured = tabulate(**given)
    with manifests.staged_folder(folder) as scratch:
        published.pack(scratch, given, measured, absent)
        tables = tables_of(scratch)
        changed = published.changed_verdicts(measured["verdicts"], tables["verdicts"])
        if changed:
            raise RuntimeError("\n".join(["verdicts change when they are published:", *changed]))
        published.write_tables(tables, scratch / "tables")
        draw(tables, about["theme"], scratch / "figures")
        about = about | {"missing": len(absent)}
        manifests.write(scratch / published.ABOUT, about)
        (scratch / "README.md").write_text(page(about, tables))


def about_study(plan: Plan) -> dict:
    """What a study is called, with its scale, and by what it was run: commit, day, machine."""
    study, scale = plan.config["study"], plan.config.get("scale")
    return {
        "study": "-".join([study["name"], *([scale["name"]] if scale else [])]),
        "title": study["title"] + (f", at scale {scale['name']}" if scale else ""),
        "theme": plan.config["plot"],
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine() | {"threads": plan.config["compute"]["threads"]},
    }


def machine() -> dict:
    """The processor's model, cores that this process may use, the GPU if there is one, and the versions below them."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def page(about: dict, tables: dict[str, pl.DataFrame]) -> str:
    """A published study on one page: verdicts, the main figure, and how it was run."""
    missing, machine = tables["missing"], about["machine"]
    state = f"**Not finished**, {about['missing']} cells or results missing. " if about["missing"] else ""
    lines = [
        *(f"# {about['title']}", ""),
        f"{state}Published on {about['date']} from commit {about['commit'] or 'unknown'}, on "
        f"{machine['gpu'] or machine['processor']} (cores: {machine['cores']}, torch threads: {machine['threads']}). "
        f"`make redraw STUDY={about['study']}` makes verdicts, figures and report again from this folder alone.",
        *("", "| Claim | Verdict | Effect | Smallest that matters | Runs |", "|---|---|---|---|---|"),
    ]
    for row in tables["verdicts"].filter("primary").to_dicts():
        known = row["effect"] is not None
        words = (row["says"], row["verdict"], effect(row) if known else DASH, smallest(row), row["runs"])
        lines.append(f"| {' | '.join(str(word).replace('|', '/') for word in words)} |")
    lines += ["", "![overview](figures/overview.svg)", ""]
    if len(missing):
        counts = missing.group_by("stage", "reason", maintain_order=True).len()
        lines += ["| Missing | Reason | Cells |", "|---|---|---|"]
        lines += [f"| {' | '.join(str(word).replace('|', '/') for word in row)} |" for row in counts.rows()]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Publish a study and say where it is and how large."""
    try:
        plan = load_plan(*sys.argv[1:])
        about = about_study(plan)
        absent = [row | {"reason": row["reason"].partition(": ")[0]} for row in lacking(plan, going_on=False)]
        folder = published.FOLDER / about["study"]
        publish(folder, arguments(plan), about, absent)
    except (ConfigError, RuntimeError) as error:
        sys.exit(f"publish-study: {error}")
    size = published.size(folder)
    print(f"wrote {folder}, {size / 1e6:.1f} MB; missing: {len(absent)}")
    if (whole := published.size(published.FOLDER)) > published.MOST_BYTES:
        sys.exit(f"publish-study: {published.FOLDER} has {whole / 1e6:.1f} MB, above {published.MOST_BYTES / 1e6:.0f}")


if __name__ == "__main__":
    main()
