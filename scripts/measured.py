"""measured: mark a checkpoint of which all is measured, and delete the hidden states that its losses shared."""

import shutil
from pathlib import Path


def measured(hidden: Path | str, mark: Path | str) -> None:
    """Delete the folder `hidden`, if there is one, and write the mark, an empty file."""
    shutil.rmtree(hidden, ignore_errors=True)
    Path(mark).write_text("")


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], f"measured {snakemake.wildcards.trajectory}/{snakemake.wildcards.checkpoint}")
    measured(snakemake.params.hidden, snakemake.output[0])
