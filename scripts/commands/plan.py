"""make plan STUDY=X: what a study will download, store and compute, before it does; offline. It starts nothing."""

import argparse
import os
import sys
from pathlib import Path

import yaml

from scripts.lib.analysis import comparisons, identifiability
from scripts.lib.analysis.places import places
from scripts.lib.cluster.forecast import Forecast, make_forecast, peak_disk, sizes_by_trajectory
from scripts.lib.cluster.requests import PROCESS_MB, needs
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.runtime.text import aligned
from scripts.lib.study import coordinates
from scripts.lib.study.plan import config_files, load_plan
from scripts.lib.study.preflight import describe_refused, require_folders, require_sources

PROFILE = Path("workflow/profiles/local/config.yaml")


def jobs_at_once(threads: int) -> int:
    """Jobs that the local profile runs side by side on this machine."""
    cores = yaml.safe_load(PROFILE.read_text())["cores"]
    cores = len(os.sched_getaffinity(0)) if cores == "all" else int(cores)
    return max(1, cores // threads)


def describe(forecast: Forecast) -> str:
    """All that is known of a study's cost, for people."""
    name = forecast.plan.config["study"]["name"]
    found = [part(forecast) for part in (_trajectories, _runs, _stages, _totals, _machine, _claims, _notes)]
    lines = [line for part in found if part for line in ("", *part)]
    return "\n".join([f"study {name}, {forecast.at_once} jobs at once; nothing is started", *lines])


def _runs(forecast: Forecast) -> list[str]:
    return coordinates.describe(forecast.plan)


def _trajectories(forecast: Forecast) -> list[str]:
    rows = [("trajectory", "checkpoints", "download GB", "largest GB", "jobs", "job hours", "sizes from")]
    for name, sizes in sizes_by_trajectory(forecast.plan, forecast.jobs).items():
        jobs = [job for job in forecast.jobs if job.trajectory == name]
        one = len(sizes["sources"]) == 1
        sources = ", ".join(source if one else f"{source} ({n})" for source, n in sorted(sizes["sources"].items()))
        numbers = (str(sizes["checkpoints"]), _gb(sizes["download"]), _gb(sizes["largest"]), str(len(jobs)))
        rows.append((name, *numbers, _hours(forecast.seconds(jobs)), sources))
    return aligned(rows, "<>>>>><")


def _stages(forecast: Forecast) -> list[str]:
    at_once = f"wall ({forecast.at_once})"
    rows = [("stage", "jobs", "to do", "hours", "of", "to do", at_once, "by default", "measured", "numbers")]
    for stage in dict.fromkeys(job.stage for job in forecast.jobs):
        jobs = [job for job in forecast.jobs if job.stage == stage]
        left = [job for job in jobs if not job.done]
        unit, number = forecast.units(stage)
        known, outcome = len(forecast.measured.get(stage, ())), forecast.outcome(jobs)
        hours = (_hours(number * forecast.seconds(jobs)), unit, _hours(number * forecast.seconds(left)))
        others = (number * forecast.seconds(jobs, forecast.defaults), outcome and number * outcome)
        source = f"measured ({known} job{'s' * (known > 1)})" if known else "default"
        rows.append((stage, str(len(jobs)), str(len(left)), *hours, _hours(forecast.wall(left)), *map(_hours, others)))
        rows[-1] += (source,)
    return aligned(rows, "<>>><>>>><")


def _totals(forecast: Forecast) -> list[str]:
    left = [job for job in forecast.jobs if not job.done]
    sizes = sizes_by_trajectory(forecast.plan, forecast.jobs).values()
    missing, whole = (sum(row[key] for row in sizes) for key in ("download_left", "download"))
    lines = [
        f"downloads of checkpoints: {_gb(missing)} GB to fetch, {_gb(whole)} GB in all",
        f"peak disk of weights: {_gb(peak_disk(forecast.plan, forecast.jobs, forecast.at_once))} GB",
        f"jobs: {len(left)} to do, {len(forecast.jobs)} in all",
    ]
    for unit in sorted({forecast.units(job.stage)[0] for job in forecast.jobs}):
        hours = [_hours(forecast.unit_seconds(jobs, unit)) for jobs in (left, forecast.jobs)]
        lines.append(f"{unit}-hours: {hours[0]} to do, {hours[1]} in all")
    return [*lines, f"hours: {_hours(forecast.wall(left))} to do, with {forecast.at_once} jobs at once"]


def _machine(forecast: Forecast) -> list[str]:
    """Threads and jobs at once that suit this machine's cores and memory, for a study that has not begun.

    The largest job is the largest that has run, once each trajectory has quantized cells.
    """
    if forecast.plan.config["compute"]["device"] == "cuda":
        return []
    asked = [need for name in forecast.plan.trajectories for need in needs(forecast.plan, name).values() if need]
    seen = set(forecast.plan.trajectories) == {names[0] for names in forecast.measured.get("quantize", ())}
    held = forecast.peak if seen else 1e6 * max((need.memory for need in asked), default=PROCESS_MB)
    cores, memory = len(os.sched_getaffinity(0)), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    jobs = propose_jobs(cores, memory, held)
    source = "measured" if seen else "as a cluster is asked"
    return [
        f"this machine: {cores} cores and {_gb(memory)} GB; a job holds up to {_gb(held)} GB ({source})",
        f"  proposed: `compute: {{threads: {cores // jobs}}}` with {jobs} jobs at once; "
        "a study that has begun keeps its threads: they are part of its numbers",
    ]


def propose_jobs(cores: int, memory: float, held: float) -> int:
    """Jobs at once that use a machine best: as many as memory holds, up to one a core.

    Threads of one job share its work with losses, jobs side by side have none in common.

    Args:
        memory, held: bytes of the machine, of which a tenth stays free, and of the largest job.
    """
    return max(1, min(cores, int(0.9 * memory / held)))


def _claims(forecast: Forecast) -> list[str]:
    """For each claim the comparisons that the study will make, and those that it refuses."""
    plan, lines = forecast.plan, []
    found = places(plan.circumstances(), plan.lineage())
    for name, claim in plan.claims.items():
        selection = comparisons.select(claim["compare"], found)
        lines += comparisons.in_full(name, selection, claim["compare"].get("equal") == "baseline")
    factors = identifiability.varied(found) if lines else {}
    if factors:
        told = ", ".join(f"{name} {factor:.1f}" for name, factor in factors.items())
        lines.append(f"varied in runs trained here, with variance inflation (1: alone; inf: never alone): {told}")
    return lines


def _notes(forecast: Forecast) -> list[str]:
    device = forecast.plan.config["compute"]["device"]
    if device == "cuda":
        rates = "default numbers of a GPU are an estimate, not measured"
    else:
        rates = "default numbers are those of a CPU" + (" (`device: auto` may find a GPU)" if device == "auto" else "")
    return [
        *describe_refused(forecast.plan),
        "Jobs are Snakemake's own: to do is what it would run now.",
        f"Times: {rates}.",
        "Measured ones, from benchmark files, hold for the machine and device that ran those jobs, and no other.",
        "Sizes: lock = files as `make resolve` found them; folder = files here; estimate = weights times their dtype.",
    ]


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f}" if size >= 1e9 or not size else f"{size / 1e9:.2g}"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3f}"


def positive(text: str) -> int:
    """A number of jobs that a user gave.

    Raises:
        ValueError: it is no whole number, or less than 1.
    """
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make plan")
    parser.add_argument("files", nargs="*", metavar="STUDY CONFIG")
    parser.add_argument("--jobs", type=positive, help="jobs at once; what the local profile allows if not given")
    given = parser.parse_args()
    try:
        plan = load_plan(*given.files)
        require_sources(plan)
        require_folders(plan)
        at_once = given.jobs or jobs_at_once(plan.config["compute"]["threads"])
        print(describe(make_forecast(plan, config_files(*given.files), at_once)))
    except ConfigError as error:
        sys.exit(f"plan: {error}")


if __name__ == "__main__":
    main()
