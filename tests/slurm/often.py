"""Snakemake, asking Slurm for the states of its jobs every 2 s; by itself it asks ever more rarely while none ends."""

import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, value: None)

if __name__ == "__main__":
    sys.exit(main())
