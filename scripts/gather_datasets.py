"""gather_datasets: one small file that stands for all data that a suite's tasks read from a hub, and for their prompts.

Each of a study's evaluations has it as input, not the hundred files themselves: plans of many cells stay small.
"""

from pathlib import Path

from scripts.lib.runtime import manifests


def gather_datasets(fetched: list[str], prompts: str, out: Path | str) -> None:
    """Write what the manifests of a suite's data say.

    Args:
        fetched: manifests that fetch_dataset wrote.
        prompts: a hash of the harness's files of the suite's tasks.
        out: JSON to write: kind, status, prompts, and files: a list of repo, commit, file, bytes, sha256, rows.
    """
    files = [manifests.read(path) for path in fetched]
    files = [{key: value for key, value in made.items() if key not in ("kind", "status")} for made in files]
    manifests.write(out, {"kind": "datasets", "status": "ok", "prompts": prompts, "files": files})


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], f"gather_datasets {snakemake.wildcards.suite}")
    gather_datasets(snakemake.input.manifests, snakemake.params.prompts, snakemake.output[0])
