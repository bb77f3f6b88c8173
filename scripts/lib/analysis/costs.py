"""What each job of a study cost, read from Snakemake's benchmark files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

COSTS = {
    **dict.fromkeys(("rule", "trajectory", "checkpoint", "method", "dataset"), pl.String),
    **dict.fromkeys(("wall_seconds", "cpu_seconds"), pl.Float64),
    **dict.fromkeys(("peak_memory_bytes", "bytes_written"), pl.Int64),
    "device": pl.String,
}
MEBIBYTE = 1024 * 1024  # unit of max_rss, io_in and io_out in Snakemake's benchmark files


def costs_table(
    folder: Path, points: dict, recipes: dict, evaluations: list[dict], slices: Iterable[Path | str]
) -> pl.DataFrame:
    """One row a job of this study that has a benchmark file.

    Args:
        folder: results/benchmarks; files lie at {rule}/<wildcards>.tsv.
        points: checkpoint manifests by (trajectory, checkpoint).
        recipes: manifests of quantized cells by (trajectory, checkpoint, method).
        evaluations: metadata of evaluations, with `stage` and `dataset` (corpus or suite).
        slices: parquets of the stage slice, whose checkpoints have their layers described, too.
    """
    jobs = [*_shared_jobs(folder, recipes, evaluations), *_training_jobs(folder, points)]
    jobs += _jobs_of_slices(folder, slices)
    for cell, recipe in recipes.items():
        jobs.append(("quantize", *cell, None, recipe.get("device"), folder.joinpath("quantize", *cell)))
    for result in evaluations:
        place = (result["trajectory"], result["checkpoint"], result["method"], result["dataset"])
        jobs.append((result["stage"], *place, result.get("device"), folder.joinpath(result["stage"], *place)))
    rows = []
    for *names, device, path in jobs:
        path = path.with_name(f"{path.name}.tsv")
        if path.exists():
            rows.append({**dict(zip(COSTS, names, strict=False)), **read_benchmark(path), "device": device})
    columns = {name: [row.get(name) for row in rows] for name in COSTS}
    order = ("rule", "trajectory", "checkpoint", "method", "dataset")
    return pl.DataFrame(columns, schema=COSTS).sort(order, nulls_last=False)


def _shared_jobs(folder: Path, recipes: dict, evaluations: list[dict]) -> Iterator[tuple]:
    """Jobs that belong to a corpus: those of evaluation and of calibration."""
    corpora = {result["dataset"] for result in evaluations if result["stage"] == "evaluate_loss"}
    corpora |= {(recipe.get("calibration") or {}).get("corpus") for recipe in recipes.values()} - {None}
    for corpus in sorted(corpora):
        yield ("corpus", None, None, None, corpus, None, folder / "corpus" / corpus)
        for path in sorted(folder.glob(f"tokenize/*/{corpus}-*.tsv")):
            yield ("tokenize", None, None, None, f"{path.parent.name}/{path.stem}", None, path.with_suffix(""))


def _training_jobs(folder: Path, points: dict) -> Iterator[tuple]:
    """Links of training, and one job a checkpoint that was published, fetched or averaged."""
    for trajectory in sorted({trajectory for trajectory, _ in points}):
        for path in sorted(folder.glob(f"train/{trajectory}/*.tsv")):
            yield ("train", trajectory, path.stem, None, None, None, path.with_suffix(""))
    for trajectory, checkpoint in points:
        for rule in ("publish", "fetch", "average"):
            yield (rule, trajectory, checkpoint, None, None, None, folder / rule / trajectory / checkpoint)


def _jobs_of_slices(folder: Path, slices: Iterable[Path | str]) -> list[tuple]:
    """The jobs that sliced cells, and those that described the layers of their checkpoints, each once."""
    found = {}
    for said in map(pl.read_parquet_metadata, slices):
        point, corpus, device = (said["trajectory"], said["checkpoint"]), said["corpus"], said.get("device")
        cell = (*point, said["method"])
        found["slice", *cell, corpus, device, folder.joinpath("slice", *cell, corpus)] = None
        path = folder.joinpath("describe_layers", *point, corpus)
        found["describe_layers", *point, None, corpus, device, path] = None
    return list(found)


def read_benchmark(path: Path) -> dict:
    """Seconds and bytes of one benchmark file (its last line); None for what Snakemake could not sample ("NA", "-")."""
    columns = dict.fromkeys(("s", "cpu_time", "max_rss", "io_out"), pl.Float64)
    lines = pl.read_csv(path, separator="\t", null_values=["NA", "-"], schema_overrides=columns, raise_if_empty=False)
    last = lines.tail(1).to_dicts()[0] if len(lines) else {}

    def size(column: str) -> int | None:
        mebibytes = last.get(column)
        return None if mebibytes is None else round(mebibytes * MEBIBYTE)

    return {
        "wall_seconds": last.get("s"),
        "cpu_seconds": last.get("cpu_time"),
        "peak_memory_bytes": size("max_rss"),
        "bytes_written": size("io_out"),
    }
