"""Repairs of Snakemake's Slurm plugin, version 2.8.0: without them a head can wait for ever for jobs that have ended.

The Slurm profile calls `mend` before the plugin is used. tests/slurm/test_plugin.py provokes the faults on a real
Slurm; when the plugin is renewed, take one repair away after the other and run them.
"""

import functools
import itertools
import shutil
import subprocess

import snakemake_executor_plugin_slurm as plugin


@functools.cache
def accounting() -> bool:
    """Whether sacct answers; it is asked once a process."""
    try:
        return (
            bool(shutil.which("sacct")) and subprocess.run(["sacct"], capture_output=True, timeout=30).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def mend() -> None:
    """Repair the plugin in this process."""
    if not accounting():
        _squeue_alone()
    plugin.query_job_status_squeue = _every_task(plugin.query_job_status_squeue)
    plugin.pending_jobs_for_rule = _none_pending
    plugin.Executor.run_jobs = _one_request_an_array(plugin.Executor.run_jobs)


def _squeue_alone() -> None:
    """While the controller does not answer, the plugin turns to sacct for all of its attempts. Without accounting sacct
    never answers, and after the last attempt the plugin forgets its jobs."""
    available = plugin.is_query_tool_available

    def is_query_tool_available(name: str) -> bool:
        return name != "sacct" and available(name)

    plugin.is_query_tool_available = is_query_tool_available


def _every_task(query):
    """An array that is cancelled while it waits is one line in squeue, in which the plugin finds none of its tasks."""

    def query_job_status_squeue(runid: str) -> str:
        return f"{query(runid)} --array"

    return query_job_status_squeue


def _none_pending(dag, rule_name: str) -> int:
    """The plugin holds jobs back if more of their rule are ready than Snakemake gave it, and never submits them later.
    Snakemake gives it at most 100 a second, or what `jobs` allows."""
    return 0


def _one_request_an_array(run):
    """The plugin asks for all tasks of an array what the first one needs. Here each array has jobs of one request, so
    that a retry gets its larger one."""

    def run_jobs(self, jobs) -> None:
        for _, same in itertools.groupby(sorted(jobs, key=_request), key=_request):
            run(self, list(same))

    return run_jobs


def _request(job) -> list[tuple[str, str]]:
    return sorted((name, str(value)) for name, value in job.resources.items())
