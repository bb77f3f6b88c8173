"""lineage: a small file that says all that shapes the weights of one link, so that what follows reruns when it changes.

Which steps a link keeps and where it ends do not shape its weights and are not in it.
"""

from pathlib import Path

from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import open_log


def lineage(run: dict, start: int, threads: int, processes: int, tokens: Path, parent: Path | None) -> dict:
    """What shapes a link's weights.

    Args:
        run: the trajectory's model, window, batch, optimizer, schedule, seed and precision.
        start: the step that the link starts from.
        threads, processes: torch threads, and processes that train together; they set the order of sums.
        tokens: manifest of the training tokens.
        parent: lineage file of the link that it goes on from.
    """
    return {
        "kind": "lineage",
        "start": start,
        "run": run,
        "threads": threads,
        "processes": processes,
        "tokens": manifests.read(tokens)["sha256"],
        "parent": manifests.read(parent) if parent else None,
    }


if __name__ == "__main__":
    open_log(snakemake.log[0], f"lineage {snakemake.wildcards.trajectory} {snakemake.wildcards.link}")
    content = lineage(
        snakemake.params.run,
        snakemake.params.start,
        snakemake.params.threads,
        snakemake.params.processes,
        snakemake.input.tokens,
        snakemake.input.get("parent"),
    )
    manifests.write(snakemake.output[0], content)
