"""What a study will cost: seconds from work, bytes from sizes; refined by what earlier jobs took."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from scripts.lib.analysis.costs import read_benchmark
from scripts.lib.cluster import disk, requests
from scripts.lib.cluster.graph import Job, read_graph
from scripts.lib.cluster.work import Works
from scripts.lib.study.plan import BASELINE, Plan
from scripts.lib.study.sizes import quantized_bytes


@dataclass(frozen=True)
class Pace:
    """How fast the jobs of a stage are: a job takes `start` seconds, and one second more for each `rate` of work."""

    start: float
    rate: float = math.inf

    def seconds(self, work: float) -> float:
        return self.start + work / self.rate


DISK, NETWORK = requests.DISK_BYTES, 1e7  # bytes a second, of a download
DOWNLOADS = 4  # at once, as both profiles say
FETCHING = ("fetch", "fetch_tokenizer", "fetch_dataset")
MAKING_CHECKPOINTS = ("publish", "publish_local", "average", "fetch")
COMPUTING = ("train", "quantize", "evaluate_loss", "evaluate_tasks", "slice", "describe_layers")  # on a GPU if any
THREAD = requests.THREAD_FLOPS
# Work is counted as in scripts/lib/cluster/work.py. Starts, and rates for one thread of a CPU, are what jobs of the
# study demo took of a processor's time on a virtual machine with two cores (float32), as forks that share one start of
# Python (shared_start.py); evaluate_tasks is of smoke.
DEFAULTS = {
    "corpus": Pace(0, 0.6),
    "fetch_tokenizer": Pace(5),
    "tokenizer": Pace(0.5, 4),
    "tokenize": Pace(0.5, 3),
    "fetch_dataset": Pace(3),
    "train": Pace(4, THREAD),
    "publish": Pace(0.5, DISK),
    "publish_local": Pace(0.5, DISK),
    "average": Pace(0.5, DISK),
    "fetch": Pace(3, 1 / (1 / NETWORK + 2 / DISK)),  # hashed twice; not measured: networks differ
    "quantize": Pace(3, THREAD),
    "evaluate_loss": Pace(0.6, THREAD),
    "evaluate_tasks": Pace(3, THREAD),
    "slice": Pace(0.6, THREAD),
    "describe_layers": Pace(0.6, THREAD),
    "tabulate": Pace(1, 100),
    "mechanism": Pace(1),
    "laws": Pace(4),
    "plot": Pace(2.5),
    "report": Pace(5),
}
SHORT = Pace(0.5)  # of every other stage
ALONE = 6  # seconds that a job which computes takes to start a Python of its own and to import torch and transformers
ALIKE = 4  # work that differs by no more than this factor says nothing about a rate
VISIBLE = 0.1  # of the start: what less work takes is lost in what else differs between jobs, such as libraries
FEWEST = 3  # jobs that a start and a rate are fitted to


def default_paces(compute: dict, precision: str = "float32", processes: int = 1) -> dict[str, Pace]:
    """Pace of every stage where nothing was measured.

    Args:
        compute: the section of the config: device ("auto" counts as a CPU), threads, dtype.
        precision, processes: of what is trained. Methods are applied and sliced in float32, whatever the dtype.
    """
    dtypes = {"train": precision, "quantize": "float32", "slice": "float32", "describe_layers": "float32"}
    alone = compute["device"] == "cuda" or compute["threads"] > 1  # as shared_start.py has it
    paces = dict(DEFAULTS)
    for stage in COMPUTING:
        rate = requests.flops(compute, dtypes.get(stage, compute["dtype"]))
        paces[stage] = Pace(DEFAULTS[stage].start + ALONE * alone, rate)
    paces["train"] = Pace(paces["train"].start, paces["train"].rate * processes)
    return paces


def training_precision(plan: Plan) -> str:
    """That of all runs trained here, or float32 if they differ."""
    found = {plan.trajectories[name].precision for name in plan.by_source("train")}
    return found.pop() if len(found) == 1 else "float32"


def fit(points: list[tuple[float, float]], default: Pace) -> Pace:
    """Start and rate that fit measured jobs best, by least squares, neither below 0.

    Few jobs, jobs of about the same work or of hardly any, and jobs that take no longer with more work tell no rate:
    then both terms of the default are scaled by one factor.

    Args:
        points: (work, seconds) of each job.
        default: the stage's pace without measurements.
    """
    work, seconds = np.array(points, dtype=float).T
    seen = work.max() / default.rate > VISIBLE * default.start
    if seen and len(points) >= FEWEST and work.max() > ALIKE * work.min():
        (start, slope), _ = nnls(np.stack([np.ones_like(work), work / work.max()], axis=1), seconds)
        if slope > 0:
            return Pace(float(start), float(work.max() / slope))
    expected = sum(default.seconds(one) for one in work)
    factor = seconds.sum() / expected if expected else 1.0
    return Pace(default.start * factor, default.rate / factor) if factor > 0 else default


def measured(plan: Plan, works: Works) -> tuple[dict[str, dict[tuple[str, ...], tuple[float, float]]], int]:
    """Work and seconds (without `loading`) of all jobs with a benchmark file whose names this plan knows.

    Whichever study made them; jobs of refused cells are left out, for they end early.

    Returns:
        stage -> names -> (work, seconds); and the most bytes of memory that one of them held, 0 without any.
    """
    folder, found, refused, peak = Path(plan.paths.benchmarks("")), {}, {}, 0
    for path in sorted(folder.glob("*/**/*.tsv")):
        stage, *names = path.relative_to(folder).with_suffix("").parts
        names = tuple(names)
        try:
            work, loading = works.of(stage, names), works.loading(stage, names)
        except (LookupError, StopIteration):
            continue  # of another study, or of a trajectory that came from elsewhere then
        cell = Path(*names[:3])
        if stage in COMPUTING[1:] and cell not in refused:
            refused[cell] = cell.name != BASELINE and is_refused(
                Path(plan.paths.quantized(*names[:3]), "manifest.json")
            )
        cost = read_benchmark(path)
        seconds, peak = cost["wall_seconds"], max(peak, cost["peak_memory_bytes"] or 0)
        if stage in DEFAULTS and seconds is not None and not refused.get(cell):
            found.setdefault(stage, {})[names] = (work, max(seconds - loading, 0.0))
    return found, peak


def is_refused(manifest: Path) -> bool:
    """Whether a quantized cell was refused."""
    return manifest.is_file() and json.loads(manifest.read_text())["status"] == "refused"


@dataclass
class Forecast:
    """What a study will cost.

    paces, defaults: by stage; `paces` are fitted where `jobs_measured` is not 0.
    measured, peak: as `measured` returns them.
    at_once: jobs side by side.
    """

    plan: Plan
    jobs: list[Job]
    defaults: dict[str, Pace]
    paces: dict[str, Pace]
    measured: dict[str, dict]
    at_once: int
    peak: int = 0

    def seconds(self, jobs: list[Job], paces: dict[str, Pace] | None = None) -> float:
        """Seconds of jobs one after the other, by the paces in use or by others."""
        paces = self.paces if paces is None else paces
        return sum(paces.get(job.stage, SHORT).seconds(job.work) + job.loading for job in jobs)

    def outcome(self, jobs: list[Job]) -> float | None:
        """Measured seconds of jobs, if all of them were."""
        found = [self.measured.get(job.stage, {}).get(job.names) for job in jobs]
        if not found or None in found:
            return None
        return sum(seconds + job.loading for (_, seconds), job in zip(found, jobs, strict=True))

    def wall(self, jobs: list[Job]) -> float:
        """Seconds of jobs with `at_once` side by side: no less than downloads, or the longest way through the graph."""
        downloads = self.seconds([job for job in jobs if job.stage in FETCHING]) / DOWNLOADS
        return max(self.seconds(jobs) / self.at_once, downloads, self._longest_way(jobs))

    def units(self, stage: str) -> tuple[str, int]:
        """ "GPU" or "CPU", and how many of them a job of the stage holds."""
        compute = self.plan.config["compute"]
        processes = self.plan.config["train"]["processes"] if stage == "train" else 1
        if stage in COMPUTING and compute["device"] == "cuda":
            return "GPU", processes
        return "CPU", compute["threads"] * processes if stage in (*COMPUTING, "average") else 1

    def unit_seconds(self, jobs: list[Job], unit: str) -> float:
        """Seconds that jobs hold CPUs or GPUs for, each times how many."""
        held = [(job, self.units(job.stage)) for job in jobs]
        return sum(number * self.seconds([job]) for job, (kind, number) in held if kind == unit)

    def _longest_way(self, jobs: list[Job]) -> float:
        """Seconds of the slowest of the ways through the graph: of jobs that each wait for the one before."""
        wanted, until = set(jobs), []
        for job in self.jobs:
            before = max((until[place] for place in job.after), default=0.0)
            until.append(before + (self.seconds([job]) if job in wanted else 0.0))
        return max(until, default=0.0)


def make_forecast(plan: Plan, config: Sequence[Path | str], at_once: int) -> Forecast:
    """Take a study's jobs from Snakemake's graph and work out how long they take.

    Args:
        plan: a worked-out study.
        config: its config files, as `plan.config_files` has them.
        at_once: jobs side by side.
    """
    works = Works(plan)
    (found, peak), defaults = measured(plan, works), _defaults_of(plan)
    fitted = {stage: fit(list(jobs.values()), defaults[stage]) for stage, jobs in found.items()}
    return Forecast(plan, read_graph(config, works), defaults, defaults | fitted, found, at_once, peak)


def _defaults_of(plan: Plan) -> dict[str, Pace]:
    return default_paces(plan.config["compute"], training_precision(plan), plan.config["train"]["processes"])


def checkpoint_jobs(jobs: list[Job]) -> list[Job]:
    """The jobs that make or fetch a checkpoint."""
    return [job for job in jobs if job.stage in MAKING_CHECKPOINTS]


def sizes_by_trajectory(plan: Plan, jobs: list[Job]) -> dict[str, dict]:
    """Checkpoints of each trajectory in bytes.

    Returns:
        trajectory -> checkpoints, largest, bytes, download and download_left (0 unless it is published),
        sources (how many sizes come from where).
    """
    rows = {}
    for job in sorted(checkpoint_jobs(jobs), key=lambda job: job.names):
        name, step = job.names[0], int(job.names[1].removeprefix("step-"))
        size, source = plan.trajectories[name].checkpoint_bytes(step)
        empty = {"checkpoints": 0, "largest": 0, "bytes": 0, "download": 0, "download_left": 0, "sources": Counter()}
        row = rows.setdefault(name, empty)
        row["checkpoints"] += 1
        row["largest"] = max(row["largest"], size)
        row["bytes"] += size
        row["sources"][source] += 1
        if job.stage == "fetch":
            row["download"] += size
            row["download_left"] += 0 if job.done else size
    return rows


def peak_disk(plan: Plan, jobs: list[Job], at_once: int) -> int:
    """Bytes of all checkpoints that are made or fetched, and of all quantized models that lie there at the same time.

    So do the hidden states that losses share: without a budget, those of all checkpoints until the study is measured.

    Args:
        jobs: of the study.
        at_once: jobs side by side: as many models there are where the study does not keep weights.
    """
    budget, bounded, places = plan.config["fetch"]["disk_budget"], set(), []
    if budget is not None:
        bounded, held = set(plan.by_source("hub")), disk.footprints(plan)
        places = [held[lane[0]] for lane in disk.lanes(held, budget)]
    made = [job.names for job in checkpoint_jobs(jobs) if job.stage != "publish_local" and job.names[0] not in bounded]
    checkpoints = [plan.trajectories[name].checkpoint_bytes(int(step.removeprefix("step-")))[0] for name, step in made]
    kinds = Counter((cell.trajectory, cell.method) for cell in plan.cells if cell.method != BASELINE)
    sizes = [
        quantized_bytes(plan.trajectories[name].model, plan.recipes[method])
        for name, method in kinds.elements()
        if name not in bounded
    ]
    kept = sizes if plan.config["quantize"]["keep_weights"] else sorted(sizes, reverse=True)[:at_once]
    hidden = [size for (name, _), size in disk.hidden_states(plan).items() if name not in bounded]
    return sum(checkpoints) + sum(kept) + sum(places) + sum(hidden)
