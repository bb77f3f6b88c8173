"""The race: the reference's flow and this workflow's stages on the same cells, in one run.

The reference is written from the description of its flow: for each bit width a process that quantizes, saves, reloads,
evaluates by the library's kernels, and loads and evaluates the unquantized model again. It is plain calls of GPTQModel
with its defaults, but for the batch of calibration windows: the default of 1 is slower, so it has ours. Its jobs run
one after the other and take all cores, as PyTorch and the library do unless told otherwise.

Ours are the stages' functions, with the gate, statistics of layers, KL and a baseline: a process for each job, of one
thread, as many at a time as there are cores, as the local profile runs them.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from scripts.lib.runtime.clock import Clock

BITS, GROUP = (4, 3), 64
SHAPE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
SHAPE |= {"tie_word_embeddings": True}
VOCABULARY, WINDOW, BATCH = 32000, 128, 8
SAMPLES = {"calibration": 32, "validation": 32, "probe": 16}  # windows
LIMIT, AIM = 0.9, 0.75


def random_model(folder: Path) -> None:
    """A Llama of 110 M parameters with random weights, and a tokenizer of a few words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from scripts.train import build_model

    torch.manual_seed(0)
    model = build_model({"architecture": "llama", **SHAPE}, VOCABULARY, WINDOW, 0)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<end>": 0, "word": 1}, unk_token="word"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)


def race(model: Path | None, cores: int) -> None:
    """Run both sides; print where their time goes, their losses, and the ratio of their wall times last."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        if model is None:
            model = scratch / "model"
            random_model(model)
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        draw = np.random.default_rng(0)
        for name, count in SAMPLES.items():
            np.save(scratch / f"{name}.npy", draw.integers(1, vocabulary, size=(count, WINDOW)).astype(np.uint32))
        job = [str(model.resolve()), str(scratch)]
        theirs = timed(lambda: [run_job("reference", str(bits), *job, str(cores)) for bits in BITS])
        our = timed(lambda: run_ours(job, cores))
    print(f"CPU seconds: reference {theirs[1]:.0f}, ours {our[1]:.0f}, ratio {our[1] / theirs[1]:.2f}")
    print(f"wall seconds: reference {theirs[0]:.0f}, ours {our[0]:.0f}, limit {LIMIT}, aim {AIM}")
    print(f"ratio {our[0] / theirs[0]:.2f}")


def timed(work) -> tuple[float, float]:
    """Wall seconds of a call, and CPU seconds of the processes that it starts and ends."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_ours(job: list[str], cores: int) -> None:
    """Quantize all cells and evaluate the baseline; evaluate each cell once it is quantized."""
    with ThreadPoolExecutor(cores) as pool:
        quantized = {bits: pool.submit(run_job, "quantize", str(bits), *job, "1") for bits in BITS}
        losses = [pool.submit(run_job, "loss", "0", *job, "1")]
        for bits, done in quantized.items():
            done.result()
            losses.append(pool.submit(run_job, "loss", str(bits), *job, "1"))
        for loss in losses:
            loss.result()


def run_job(part: str, bits: str, model: str, scratch: str, threads: str) -> None:
    """Run one job in a process of its own and print where its time went.

    Raises:
        RuntimeError: it failed; its last words.
    """
    code = [sys.executable, "-m", "tests.benchmarks.race", part, bits, model, scratch, threads]
    settings = {
        "OMP_NUM_THREADS": threads,
        "GPTQMODEL_CPU_WORKERS": "2",
    }  # the default of the latter fails on two cores
    start = time.monotonic()
    done = subprocess.run(code, capture_output=True, text=True, env=os.environ | settings)
    if done.returncode:
        raise RuntimeError(f"{part}, {bits} bits, failed: {done.stderr[-2000:]}")
    seconds, losses = json.loads(done.stdout.rpartition("RESULT")[2])
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    found = "".join(f"; {name} {value:.4f}" for name, value in losses.items())
    print(f"{part}, {bits} bits: {time.monotonic() - start:.1f} s ({parts}){found}", flush=True)


def reference(bits: int, folder: Path, scratch: Path, clock: Clock) -> dict:
    """The reference's flow for one bit width."""
    from gptqmodel import GPTQConfig, GPTQModel
    from transformers import AutoModelForCausalLM

    clock.lap("start")
    model = GPTQModel.load(str(folder), GPTQConfig(bits=bits, group_size=GROUP))
    windows = [{"input_ids": row.tolist(), "attention_mask": [1] * WINDOW} for row in load(scratch, "calibration")]
    with contextlib.chdir(scratch):  # it writes logs to where it runs
        model.quantize(windows, batch_size=BATCH)
    clock.lap("quantize")
    saved = scratch / f"reference-{bits}"
    model.save(str(saved))
    del model
    clock.lap("save")
    model = GPTQModel.load(str(saved))
    clock.lap("reload")
    quantized = mean_loss(model.model, load(scratch, "validation"))
    clock.lap("evaluate")
    baseline = mean_loss(AutoModelForCausalLM.from_pretrained(folder), load(scratch, "validation"))
    clock.lap("baseline")
    return {"quantized": quantized, "baseline": baseline}


def mean_loss(model, windows: np.ndarray) -> float:
    """Mean loss over token windows [n, window], nats a token."""
    import torch

    losses = []
    with torch.inference_mode():
        for ids in torch.from_numpy(windows.astype(np.int64)).split(BATCH):
            scores = model(input_ids=ids, use_cache=False).logits
            losses.append(torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()))
    return float(torch.stack(losses).mean())


def quantize_cell(bits: int, folder: Path, scratch: Path, clock: Clock) -> dict:
    """The stage `quantize` of one cell; its parts are its own."""
    import yaml

    from scripts.quantize import quantize

    clock.lap("start")
    recipe = yaml.safe_load(Path(f"config/recipes/gptq-w{bits}-g{GROUP}.yaml").read_text())
    data = load(scratch, "calibration"), load(scratch, "probe")
    result = quantize(folder, recipe, *data, scratch / f"ours-{bits}", scratch / f"layers-{bits}.parquet")
    if result["status"] != "ok":
        raise RuntimeError(result["reason"])
    clock.laps |= result["seconds"]
    return {}


def evaluate_cell(bits: int, folder: Path, scratch: Path, clock: Clock) -> dict:
    """The stage `evaluate_loss` of one cell; 0 bits are the baseline."""
    from scripts.evaluate_loss import evaluate_loss

    clock.lap("start")
    models = (scratch / f"ours-{bits}", folder) if bits else (folder, None)
    nll, kl, _ = evaluate_loss(*models, load(scratch, "validation"), BATCH, "float32", "cpu")
    clock.lap("loss")
    return {"loss": float(nll.mean()), "kl": float(kl.mean())}


def load(scratch: Path, name: str) -> np.ndarray:
    return np.load(scratch / f"{name}.npy")


PARTS = {"reference": reference, "quantize": quantize_cell, "loss": evaluate_cell}


def main() -> None:
    """One job, as `run_job` asks for it."""
    clock = Clock()
    part, bits, model, scratch, threads = sys.argv[1:]
    import torch

    torch.set_num_threads(int(threads))
    losses = PARTS[part](int(bits), Path(model), Path(scratch), clock)
    print("RESULT" + json.dumps([clock.laps, losses]))


if __name__ == "__main__":
    main()
