"""A small study with made-up but plausible numbers, written as the real stages write theirs."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from scripts.lib.runtime import manifests
from scripts.slice import POINTS, SCHEMA

METHODS = {"rtn-w3-g32": (3, 0.020), "gptq-w3-g32": (3, 0.014), "gptq-w4-g32": (4, 0.004), "nf4": (4, 0.0033)}
TOKENS_PER_STEP = 3072
PIECES = {"block": ("model.layers.0", "model.layers.1"), "layer": ("mlp.up_proj.weight",)}
BENCHMARK = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
Point = tuple[str, str, str | None, int, float, float, str]  # trajectory, checkpoint, parent, step, rate, peak, phase


@dataclass
class Study:
    """Paths of what was written, the folder of benchmark files, and each checkpoint's place in its training."""

    root: Path
    circumstances: list[dict] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    quantized: list[Path] = field(default_factory=list)
    losses: list[Path] = field(default_factory=list)
    tasks: list[Path] = field(default_factory=list)
    slices: list[Path] = field(default_factory=list)

    @property
    def benchmarks(self) -> Path:
        return self.root / "benchmarks"

    def runs(self) -> list[dict]:
        """Each trajectory a family of its own, of seed 1; trunks, branches and averages by their parents, and their
        peak rates."""
        parents = {place["trajectory"]: place["parent"] for place in self.circumstances}
        phases = {place["trajectory"]: place["phase"] for place in self.circumstances}
        peaks = {place["trajectory"]: place["peak_learning_rate"] for place in self.circumstances}
        runs = []
        for name, origin in parents.items():
            parent, _, checkpoint = (origin or "").partition("/")
            kind = "average" if phases[name] == "average" else "branch" if parent else "trunk"
            run = {"trajectory": name, "family": name, "root": parent or name, "kind": kind, "parent": parent or None}
            coordinates = {"schedule.peak": peaks[name], "seed": 1}
            runs.append(run | {"parent_checkpoint": checkpoint or None, "coordinates": coordinates})
        return runs

    def training(self) -> list[dict]:
        """Logs of training of trunks and branches up to their last checkpoint, a row every tenth step, in two links."""
        logs = []
        for run in (run for run in self.runs() if run["kind"] != "average"):
            places = [place for place in self.circumstances if place["trajectory"] == run["trajectory"]]
            first = int((run["parent_checkpoint"] or "step-0").removeprefix("step-")) + 10
            steps = np.arange(first, places[-1]["step"] + 1, 10)
            frame = pl.DataFrame(
                {
                    **{"step": steps, "loss": 2.7 + 22 / steps**0.5, "gradient_norm": 1.0 + 10 / steps},
                    **{"weight_norm": 30 + steps / 100, "learning_rate": places[-1]["learning_rate"]},
                }
            )
            files = []
            for number, part in enumerate((frame[: len(frame) // 2], frame[len(frame) // 2 :])):
                files.append(self.root / f"log-{run['trajectory']}-{number}.parquet")
                part.write_parquet(files[-1])
            logs.append({"trajectory": run["trajectory"], "tokens_per_step": TOKENS_PER_STEP, "files": files})
        return logs

    def arguments(self) -> dict:
        """Arguments of tabulate."""
        names = ("circumstances", "checkpoints", "quantized", "losses", "tasks", "slices", "benchmarks")
        found = {name: getattr(self, name) for name in names}
        return {
            "study": "made-up",
            "runs": self.runs(),
            "schedules": [],
            "training": self.training(),
            **found,
            "confidence": 0.95,
        }


def two_peaks() -> list[Point]:
    """Two trunks, each with a cooldown from step 2000 and with averages."""
    points = []
    for name, peak in (("low", 1.5e-3), ("high", 6e-3)):
        for step in (400, 1000, 1400, 2000, 2200, 2400):
            points.append((name, f"step-{step}", None, step, peak, peak, "stable"))
        for step, share in ((2200, 0.5), (2400, 0.0)):
            rate = share * peak
            points.append((f"{name}-cooldown", f"step-{step}", f"{name}/step-2000", step, rate, peak, "decay"))
        points.append((f"{name}-lawa", "step-2400", name, 2400, peak, peak, "average"))
    return points


def write_study(root: Path, points: list[Point], methods=METHODS, documents: int = 300, tasks: bool = True) -> Study:
    """Write a study of these checkpoints and methods; tasks only where a trajectory ends."""
    study = Study(root)
    ends = {point[0]: point[1] for point in points}
    for point in points:
        write_checkpoint(study, point)
        for method in ("none", *methods):
            bits, strength = methods.get(method, (None, 0.0))
            if bits:
                write_quantized(study, point[:2], method, bits)
            loss, error = made_up_loss(point), made_up_error(point) * strength
            write_loss(study, (*point[:2], method), loss, error, documents)
            if tasks and ends[point[0]] == point[1]:
                write_tasks(study, (*point[:2], method), error, documents)
    write_benchmark(study, "train/low/1")
    write_benchmark(study, "corpus/docstrings")
    write_benchmark(study, "tokenize/bpe/docstrings-train")
    write_benchmark(study, "corpus/of-another-study")
    return study


def made_up_loss(point: Point) -> float:
    """Loss falls with the step, faster with the rate; averages lie between."""
    _, _, _, step, rate, peak, phase = point
    share = {"average": 0.35}.get(phase, rate / peak)
    return 2.6 + 22 / step**0.5 + (0.12 + 8 * peak) * share


def made_up_error(point: Point) -> float:
    """Errors rise with the step, jump as the rate falls, and are lower at a high peak."""
    _, _, _, step, rate, peak, phase = point
    share = {"average": 1.1}.get(phase, rate / peak)
    return (step / 2400) ** 0.6 * (1.0 + 0.8 * (1 - share)) * (1.5e-3 / peak) ** 0.12


def write_checkpoint(study: Study, point: Point, **changes) -> None:
    """Manifest of one checkpoint."""
    trajectory, checkpoint, parent, step, rate, peak, phase = point
    path = study.root / "checkpoints" / trajectory / checkpoint / "manifest.json"
    content = {
        **{"kind": "checkpoint", "status": "ok", "trajectory": trajectory, "checkpoint": checkpoint},
        **{"source": "average" if phase == "average" else "train", "architecture": "llama"},
        **{"parameters": 1_234_567, "bytes": 4_938_268, "revision": "0" * 64, "versions": {"torch": "2.13.0"}},
    }
    manifests.write(path, {**content, **changes})
    study.checkpoints.append(path)
    study.circumstances.append(
        {
            **{"trajectory": trajectory, "checkpoint": checkpoint, "parent": parent, "phase": phase},
            **{"step": step, "tokens": step * TOKENS_PER_STEP, "learning_rate": rate, "peak_learning_rate": peak},
        }
    )


def write_quantized(study: Study, cell: tuple[str, str], method: str, bits: int, **changes) -> None:
    """Manifest of one quantized cell."""
    path = study.root.joinpath("quantized", *cell, method, "manifest.json")
    algorithm = method.partition("-")[0]
    draw = int(method.partition("@")[2] or 1) if algorithm == "gptq" else None
    library = {"rtn": "rtn", "gptq": "gptqmodel", "nf4": "bitsandbytes"}[algorithm]
    grid = {"group_size": 32, "symmetric": True}
    content = {
        **{"kind": "quantized", "status": "ok", "reason": None, "trajectory": cell[0], "checkpoint": cell[1]},
        **{"method": method, "algorithm": algorithm, "library": library, "bits": bits},
        **{"recipe_name": method.partition("@")[0], "draw": draw, "run_seed": None},
        **grid,
        "package": {"gptqmodel": "GPTQModel", "bitsandbytes": "bitsandbytes"}.get(library),
        "recipe": {"algorithm": algorithm, "library": library, "bits": bits, **grid},
        **{"bits_per_weight": bits + 0.5, "weight_error": 0.4 / 2**bits},
        "sizes": {
            **{"packed": 150_000 * bits + 1_000_000, "packed_zstd": 140_000 * bits + 900_000},
            **{"unquantized": 4_938_268, "unquantized_zstd": 4_500_000},
        },
        **{"calibration": {"corpus": "docstrings"}, "device": "cpu", "versions": {"torch": "2.13.0"}},
    }
    manifests.write(path, {**content, **changes})
    write_benchmark(study, f"quantize/{cell[0]}/{cell[1]}/{method}")
    study.quantized.append(path)


def write_loss(study: Study, cell: tuple, loss: float, error: float, documents: int = 300, **metadata) -> Path:
    """Loss parquet of one cell, two segments a document; the same documents for all cells."""
    generator = np.random.default_rng(7)
    tokens = generator.integers(20, 120, 2 * documents)
    effect = error * loss * (1 + 0.8 * generator.standard_normal(2 * documents))
    frame = pl.DataFrame(
        {
            "window": pl.Series(range(2 * documents), dtype=pl.Int32) // 4,
            "document": [f"{number // 2:016x}" for number in range(2 * documents)],
            "tokens": tokens.astype(np.int32),
            "bytes": 4.0 * tokens,
            "nll": tokens * (loss + 0.5 * generator.standard_normal(2 * documents) + effect),
            "kl": tokens * error * 1.2,
            "agree": np.round(tokens * (1 - min(1, 4 * error))).astype(np.int32),
        }
    )
    path = study.root.joinpath("evaluated", *cell, "loss-docstrings.parquet")
    return _write_parquet(study, frame, path, cell, study.losses, {"corpus": "docstrings", **metadata})


def write_tasks(study: Study, cell: tuple, error: float, documents: int = 100, **metadata) -> Path:
    """Task parquet of one cell: a choice task and bits per byte."""
    generator = np.random.default_rng(11)
    luck, size = generator.random(documents), generator.integers(50, 400, documents).astype(float)
    bits = 1.4 * (1 + error) + 0.2 * generator.standard_normal(documents)
    columns = {"document": pl.Series(range(documents), dtype=pl.Int32)}
    parts = [
        pl.DataFrame({"task": task, "metric": metric, **columns, "value": value, "weight": weight})
        for task, metric, value, weight in (
            ("continuation", "accuracy", (luck < 0.55 - 1.5 * error).astype(float), np.ones(documents)),
            ("continuation", "accuracy_norm", (luck < 0.6 - 1.5 * error).astype(float), np.ones(documents)),
            ("last_word", "accuracy", (luck < 0.25 - error).astype(float), np.ones(documents)),
            ("rolling", "bits_per_byte", bits, size),
        )
    ]
    path = study.root.joinpath("evaluated", *cell, "tasks-own.parquet")
    return _write_parquet(study, pl.concat(parts), path, cell, study.tasks, {"suite": "own", **metadata})


def write_slice(study: Study, cell: tuple, size: float, curve: tuple, documents: int = 30, **metadata) -> Path:
    """Slice parquet of one cell, whose loss along the way is a polynomial.

    Args:
        curve: coefficients of the loss in powers of t, nats per token; those of the random way are half as large.
    """
    tokens = np.random.default_rng(5).integers(20, 120, documents)
    luck = 1 + 0.2 * np.random.default_rng(6).standard_normal(documents)
    ways = [(moved, None, t, factor) for moved, factor in (("along", 1), ("random", 0.5)) for t in POINTS[moved]]
    ways += [(moved, part, 1.0, 0.3) for moved, names in PIECES.items() for part in names]
    parts = []
    for moved, part, t, factor in ways:
        added = factor * sum(number * t**power for power, number in enumerate(curve) if power)
        place = {"moved": moved, "part": part, "t": t}
        sums = {"nll": tokens * (curve[0] + luck * added), "kl": tokens * factor * t**2 / 2}
        names = {"document": [f"{number:016x}" for number in range(documents)], "tokens": tokens.astype(np.int32)}
        frame = pl.DataFrame({**names, **sums}).with_columns(pl.lit(v).alias(n) for n, v in place.items())
        parts.append(frame.select(*SCHEMA).cast(SCHEMA))
    path = study.root.joinpath("evaluated", *cell, "slice-docstrings.parquet")
    about = {"corpus": "docstrings", "size": repr(size), **metadata}
    return _write_parquet(study, pl.concat(parts), path, cell, study.slices, about)


def write_benchmark(study: Study, name: str) -> None:
    """One of Snakemake's benchmark files."""
    path = study.benchmarks / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BENCHMARK + "12.5\t0:00:12\t512.0\t900.0\t500.0\t501.0\tNA\t3.5\t99.0\t11.25\n")


def _write_parquet(study, frame: pl.DataFrame, path: Path, cell: tuple, paths: list[Path], metadata: dict) -> Path:
    names = dict(zip(("trajectory", "checkpoint", "method"), cell, strict=True))
    defaults = {"status": "ok", "reason": "", "dtype": "float32", "device": "cpu", "threads": "1"}
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path, metadata={**names, **defaults, **metadata})
    kind = path.stem.partition("-")[0].replace("loss", "evaluate_loss").replace("tasks", "evaluate_tasks")
    write_benchmark(study, f"{kind}/{'/'.join(cell)}/{path.stem.partition('-')[2]}")
    if path not in paths:
        paths.append(path)
    return path
