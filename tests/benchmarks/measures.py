"""The measurements: each returns a dictionary of numbers, in CPU seconds or as ratios of them."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars
import psutil
import torch
from transformers import AutoTokenizer

from scripts.evaluate_loss import evaluate_loss
from scripts.lib.checks.gate import check_levels
from scripts.lib.checks.layer_errors import describe_layer
from scripts.lib.checks.sizes import zstd_bits
from scripts.lib.models.folders import count_parameters
from scripts.lib.models.forward import batches, logits
from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import load_dense
from scripts.lib.models.packed import READERS
from scripts.lib.runtime import manifests
from scripts.train import OrderedWindows, build_model, train

SMALL = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
LARGER = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8}
MEMORY_SIZES = {  # weights in millions: shape
    40: {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "num_attention_heads": 8},
    200: {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 15, "num_attention_heads": 16},
}
HUNDRED_MILLION = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 14, "num_attention_heads": 12}
VOCABULARY, WINDOW, BATCH = 2048, 128, 32
STAGES = {
    "publish": "scripts.publish",
    "train": "scripts.train",
    "quantize": "scripts.quantize",
    "quantize (GPTQModel)": "scripts.quantize, gptqmodel",
    "evaluate_loss": "scripts.evaluate_loss",
    "evaluate_tasks": "scripts.lib.models.loading, lm_eval.models.huggingface",
    "tabulate": "scripts.tabulate",
    "plot": "scripts.plot",
}


def seconds(work) -> float:
    """CPU seconds that a call takes, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def model_folder(folder: Path, shape: dict, tokenizer: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A random Llama of the given shape, saved with a tokenizer."""
    torch.manual_seed(0)
    build_model({"architecture": "llama", **shape}, VOCABULARY, WINDOW, 0).to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def random_windows(count: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocabulary, size=(count, WINDOW)).astype(np.uint16)


def loss_throughput(folder: Path, windows: int, repeats: int) -> dict:
    """evaluate_loss's speed over that of the two bare forward passes that it needs, loading left out of both."""
    data = random_windows(windows)
    models = [load_dense(folder), load_dense(folder)]

    def forward() -> None:
        with torch.inference_mode():
            for first in range(0, windows, 16):
                ids = torch.from_numpy(data[first : first + 16].astype(np.int64))
                for model in models:
                    model(input_ids=ids, use_cache=False)

    def whole() -> None:
        evaluate_loss(folder, folder, data, 16, "float32", "cpu")

    def loading() -> None:
        evaluate_loss(folder, folder, data[:0], 16, "float32", "cpu")

    forward()
    loading()
    ratios = [seconds(forward) / (seconds(whole) - seconds(loading)) for _ in range(repeats)]
    return {"ratio": statistics.median(ratios)}


def training_throughput(tokenizer: Path, steps: int, repeats: int) -> dict:
    """A link's speed over that of a bare PyTorch loop on the same model, windows and optimizer."""
    schedule = {"name": "constant", "peak": 1e-3, "warmup": 1}
    optimizer = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "gradient_clip": 1.0}
    run = {"model": {"architecture": "llama", **SMALL}, "window": WINDOW, "batch_size": BATCH, "micro_batch_size": None}
    run |= {"optimizer": optimizer, "schedule": schedule, "seed": 1, "precision": "float32"}
    with tempfile.TemporaryDirectory() as scratch:
        folder, vocabulary = Path(scratch), len(AutoTokenizer.from_pretrained(tokenizer))
        np.save(folder / "tokens.npy", random_windows(256, vocabulary).ravel())
        manifests.write(folder / "lineage.json", {})

        def link(name: str, end: int) -> float:
            span = {"start": 0, "end": end, "keep": [end], "restart": False}
            places = (folder / "tokens.npy", tokenizer, None, folder / "lineage.json", folder / "state", folder / name)
            return seconds(lambda: train(run, span, *places, threads=1, device="cpu", save_every=10**6))

        link("first", 1)
        ratios = []
        for number in range(repeats):
            both = (
                link(f"long-{number}", steps + 1) - link(f"short-{number}", 1),
                bare_training(run, steps, vocabulary),
            )
            ratios.append(both[1] / both[0])
    return {"ratio": statistics.median(ratios)}


def bare_training(run: dict, steps: int, vocabulary: int) -> float:
    """CPU seconds of a plain loop."""
    model = build_model(run["model"], vocabulary, WINDOW, 0).train()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    order = OrderedWindows(random_windows(256, vocabulary), BATCH * steps, 1)

    def loop() -> None:
        for step in range(steps):
            rows = np.stack([order[step * BATCH + row] for row in range(BATCH)]).astype(np.int64)
            ids = torch.from_numpy(rows)
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()

    return seconds(loop)


def gate_nanoseconds(bits: int, repeats: int) -> dict[str, float]:
    """CPU nanoseconds a weight that the gate spends on a layer of GPTQ's: unpacking, levels, statistics, and codes."""
    rows, columns, group = 1536, 576, 64
    draw, grid = torch.Generator().manual_seed(0), Grid(bits, group, True)

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, shape, generator=draw).int()

    stored = {
        "qweight": words(columns * bits // 32, rows),
        "qzeros": words(columns // group, rows * bits // 32),
        "scales": torch.rand(columns // group, rows, generator=draw).half(),
        "g_idx": torch.arange(columns).int() // group,
    }
    source, weight = torch.randn(rows, columns, generator=draw), READERS["gptq"](stored, {"bits": bits})
    steps = check_levels("layer", weight, grid, None)
    work = {
        "unpack": lambda: READERS["gptq"](stored, {"bits": bits}),
        "levels": lambda: check_levels("layer", weight, grid, None),
        "statistics": lambda: describe_layer("layer", source, weight, grid, bits, None),
        "codes": lambda: zstd_bits("layer", weight, grid, steps, bits),
    }
    return {name: 1e9 * min(seconds(call) for _ in range(repeats)) / weight.numel() for name, call in work.items()}


def quantize_parts(folder: Path, recipe: Path, samples: int) -> dict:
    """Wall seconds of a quantize job's parts, the whole over the bare library call, and peak memory over the model.

    In a process of its own, as a job is. `check` reads the checkpoint, `start` is importing the library, `gate` waiting
    for the fresh process, which has been importing since the job began, `hash` reads the result. `memory` is the job's
    peak in excess of what it holds after `quantize`'s imports, over the weights in float32; `gate_memory` is that of
    the process that checks. Both are anonymous memory: weights that are mapped from files in float32 are not in it, for
    the kernel gives their pages back when memory is short. `passes` is the library call in forward passes over all
    calibration tokens, which `passes` in the description of its library counts.
    """
    code = CHILD.format(folder=str(folder), recipe=str(recipe), samples=samples)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.rpartition("RESULT")[2])
    laps, size = found["seconds"], 4 * count_parameters(folder)
    library = laps["quantize"] + laps.get("transform", 0)
    parts = {
        "library": library,
        "start": laps["import"],
        **{name: laps[name] for name in ("check", "save", "run", "gate", "hash")},
    }
    peaks = {name: (found[name] - found["base"]) / size for name in ("memory", "gate_memory")}
    if found["forward"]:
        peaks["passes"] = library / found["forward"]
    return parts | {"ratio": sum(parts.values()) / library} | peaks


CHILD = """
import json, tempfile
from pathlib import Path
import torch, yaml
torch.set_num_threads(1)
from scripts.quantize import quantize
from tests.benchmarks.measures import Peaks, anonymous_bytes, forward_seconds, random_windows
recipe = yaml.safe_load(Path("{recipe}").read_text())
data, probe = random_windows({samples}) if "calibration" in recipe else None, random_windows(16)
base = anonymous_bytes()
forward = 0 if data is None else forward_seconds(Path("{folder}"), data)
with tempfile.TemporaryDirectory() as place, Peaks() as peaks:
    result = quantize(Path("{folder}"), recipe, data, probe, Path(place) / "model", Path(place) / "layers.parquet")
assert result["status"] == "ok", result["reason"]
found = dict(seconds=result["seconds"], forward=forward, base=base, memory=peaks.own, gate_memory=peaks.children)
print("RESULT" + json.dumps(found))
"""


def memory_of_stages(folder: Path, dtype: str, warm: Path) -> dict[str, float]:
    """Peak anonymous memory of stages in bytes a weight of the model, beside what they hold after imports and a run.

    quantize: round-to-nearest, in the process that makes it; gate: in the one that checks it; loss: of the result with
    its baseline; tasks: of the result as that stage loads it, with a forward pass. Each in a process of its own.

    Args:
        folder: the model.
        dtype: in which the study evaluates.
        warm: a tiny model, run first.
    """
    found, weights = {}, count_parameters(folder)
    with tempfile.TemporaryDirectory() as place:
        for part in ("quantize", "loss", "tasks"):
            command = [sys.executable, "-m", "tests.benchmarks.memory", part, folder, dtype, warm, place]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found |= json.loads(done.stdout.rpartition("RESULT")[2])
    return {stage: held / weights for stage, held in found.items()}


def forward_seconds(folder: Path, data: np.ndarray) -> float:
    """Wall seconds of one pass of token windows [n, window] through a model, the faster of two."""
    model, found = load_dense(folder), []
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in batches(data, model):
                logits(model, batch)
        found.append(time.perf_counter() - start)
    return min(found)


def anonymous_bytes(process: psutil.Process | None = None) -> int:
    """Resident memory of a process, by default this one, that no file backs."""
    memory = (process or psutil.Process()).memory_info()
    return memory.rss - memory.shared


class Peaks:
    """Peaks of anonymous memory of this process and of its largest child, looked at 20 times a second."""

    def __init__(self):
        self.own, self.children, self.done = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peaks":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            self.own = max(self.own, anonymous_bytes())
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.children = max(self.children, anonymous_bytes(child))


def import_seconds(repeats: int) -> dict[str, float]:
    """CPU seconds that each stage's process spends on imports, in processes of their own."""
    return {stage: min(child_seconds(f"import {names}") for _ in range(repeats)) for stage, names in STAGES.items()}


def child_seconds(code: str) -> float:
    """CPU seconds of a Python process that runs some code."""
    program = f"{code}\nimport time\nprint('seconds', time.process_time())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.rpartition("seconds")[2])


def start_up_share(costs: Path, imports: dict[str, float]) -> dict | None:
    """Share of a finished study's CPU time that went into imports; None without its table `costs`."""
    if not costs.is_file():
        return None
    table = polars.read_parquet(costs).filter(polars.col("rule").is_in(list(imports)))
    gptq = polars.col("method").str.starts_with("gptq") & (polars.col("rule") == "quantize")
    stage = polars.when(gptq).then(polars.lit("quantize (GPTQModel)")).otherwise(polars.col("rule"))
    table = table.with_columns(stage=stage).with_columns(start=polars.col("stage").replace_strict(imports))
    rows = table.group_by("stage").agg(polars.len(), polars.col("cpu_seconds", "start").sum()).sort("stage")
    return {"stages": rows.to_dicts(), "share": table["start"].sum() / table["cpu_seconds"].sum()}
