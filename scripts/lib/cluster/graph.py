"""Snakemake's own graph of a study: which jobs it has, what each waits for, and which are still to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake.api import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    ResourceSettings,
    SnakemakeApi,
    StorageSettings,
    WorkflowSettings,
)
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake_interface_common.exceptions import WorkflowError

from scripts.lib.cluster.work import Works
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.paths import Paths

TRIGGERS = frozenset({RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT})  # as both profiles have them


@dataclass(frozen=True)
class Job:
    """One job.

    stage: its rule.
    names: its wildcards, in the order of its benchmark's path where it has one.
    work, loading: see `work.Works`.
    trajectory: that it belongs to, if any.
    done: whether Snakemake would not run it now.
    after: places in the list of the jobs that it waits for; all are smaller than its own.
    """

    stage: str
    names: tuple[str, ...]
    work: float
    loading: float
    trajectory: str | None
    done: bool
    after: tuple[int, ...] = ()


def read_graph(config: Sequence[Path | str], works: Works) -> list[Job]:
    """All jobs of a study, as if nothing were there yet; each after those that it waits for.

    It takes as long as a dry run does, and starts nothing.

    Args:
        config: the config files that follow config/default.yaml, the study's first.
        works: of the same study's plan.

    Raises:
        ConfigError: Snakemake cannot plan the study; its message.
    """
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow_api = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(path).resolve() for path in config]),
            storage_settings=StorageSettings(),
            workflow_settings=WorkflowSettings(),
            snakefile=Path("Snakefile"),
        )
        workflow_api.dag(DAGSettings(rerun_triggers=TRIGGERS))
        try:
            workflow = workflow_api._workflow
            workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
            workflow.async_run(workflow.dag.init())
            return _jobs(workflow.dag, works)
        except WorkflowError as error:
            raise ConfigError(str(error)) from error


def _jobs(dag, works: Works) -> list[Job]:
    paths, places, found = works.plan.paths, {}, []
    for job in _in_order(dag):
        places[job] = len(found)
        after = tuple(sorted(places[before] for before in dag.dependencies[job]))
        stage, names, trajectory = job.rule.name, _names(job, paths), job.wildcards_dict.get("trajectory")
        work, loading = works.of(stage, names), works.loading(stage, names)
        found.append(Job(stage, names, work, loading, trajectory, not dag.needrun(job), after))
    return found


def _names(job, paths: Paths) -> tuple[str, ...]:
    if not job.benchmark:
        return tuple(job.wildcards_dict.values())
    return Path(job.benchmark).relative_to(paths.benchmarks(job.rule.name)).with_suffix("").parts


def _in_order(dag) -> list:
    """Jobs, each after those that it depends on; without recursion, for chains of training are long."""
    ordered, seen, left = [], set(), [(job, False) for job in sorted(dag.jobs, key=lambda job: job.jobid, reverse=True)]
    while left:
        job, ready = left.pop()
        if ready:
            ordered.append(job)
        elif job not in seen:
            seen.add(job)
            left.append((job, True))
            left.extend((before, False) for before in dag.dependencies[job] if before not in seen)
    return ordered
