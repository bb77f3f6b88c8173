"""A repair of Snakemake's scheduler, version 9.27.1: without it the head's work grows with the square of the jobs.

Each pass over the ready jobs starts a timer, and so a thread, that asks for another pass a second later, in case the
limit of jobs a second held some back. Every job that ends begins another such chain, and none of them stops: after 90
jobs of the study `methods` there were 100 threads, and they took half a core of the two that the jobs ran on.
"""

from snakemake.scheduling.job_scheduler import JobScheduler


def mend() -> None:
    """Repair the scheduler in this process."""
    JobScheduler._schedule_reevalutation = _if_any_was_held_back(JobScheduler._schedule_reevalutation)


def _if_any_was_held_back(schedule):
    """Ask for another pass only if the limit was reached. Where cores or nodes are what lacks, a job that ends asks."""

    def schedule_reevaluation(self, delay: int) -> None:
        limiter = self.job_rate_limiter
        if limiter is None or delay != limiter.timespan or not limiter.get_free_jobs():
            schedule(self, delay)

    return schedule_reevaluation
