"""What a GPU does with the stages' functions: run as `python -m tests.gpu.measure OUT` from the root.

Each part runs in a process of its own, with a limit in seconds; what it finds is a line of JSON in OUT/findings.jsonl
as soon as it is known, and on the terminal; what else it says is in OUT/PART.log. All models have random weights and
all text is random tokens, so losses mean nothing and times do. Without a GPU, or with `--tiny`, all is tiny.
"""

import argparse
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

LIMITS = {  # seconds that a part may take, in the order in which they run
    "machine": 40,
    "methods": 100,
    "training": 110,
    "faults": 70,
    "streaming": 110,
    "memory": 60,
    "tasks": 50,
    "jobs": 110,
    "cell": 360,
}
BUDGET = 900  # seconds for all parts: what is left when one begins is its limit too
PEAK = {"float32": 67e12, "bfloat16": 989e12}  # FLOP/s of an H100 SXM without sparsity and without TF32, its datasheet
END = 0  # the end-of-text token

LLAMA, OLMO2 = {"architecture": "llama"}, {"architecture": "olmo2"}
PYTHIA = {"architecture": "gpt_neox"}
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {  # of each part, as they are and tiny; `vocabulary` and `window` in tokens
    "methods": {"vocabulary": 512, "window": 128, **TINY},
    "cell": {  # OLMo-2-1B's: 1.48 G weights
        **{"vocabulary": 100352, "window": 2048},
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 16},
    },
    "training": {  # Pythia-160M's
        **{"vocabulary": 50304, "window": 2048},
        **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    },
    "jobs": {  # config/scales/gpu.yaml's
        **{"vocabulary": 2048, "window": 128},
        **{"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
    },
    "large": {  # Llama-2-7B's
        **{"vocabulary": 32000, "window": 2048},
        **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    },
}


class Part:
    """One part's place: where its findings go, whether all is tiny, and a folder that ends with it."""

    def __init__(self, name: str, out: Path, tiny: bool, scratch: Path):
        self.name, self.out, self.tiny, self.scratch = name, out, tiny, scratch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def shape(self, of: str) -> dict:
        """A model's shape, with `vocabulary` and `window`."""
        return SHAPES["methods"] if self.tiny else SHAPES[of]

    def found(self, **facts) -> None:
        """Write down one finding."""
        line = json.dumps({"part": self.name, **facts}, default=str)
        with open(self.out / "findings.jsonl", "a") as file:
            file.write(line + "\n")

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Write down that something failed, and go on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.found(what=what, failed=f"{type(error).__name__}: {error}"[:600])


class Memory:
    """Most memory that the GPU's processes together and this one's tensors hold, in GB, within the `with` block.

    moments: [(monotonic seconds, GB of all processes)].
    """

    def __enter__(self) -> "Memory":
        self.moments, self.done = [], threading.Event()
        if torch.cuda.is_available():
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()

    @property
    def tensors(self) -> float:
        """Most that this process's tensors held."""
        return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0

    def peak(self, first: float = 0.0, last: float = float("inf")) -> float:
        """Most that all processes held between two moments."""
        return max((used for moment, used in self.moments if first <= moment <= last), default=0.0)

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            self.moments.append((time.monotonic(), used_memory()))


def used_memory() -> float:
    """GB of the GPU that are taken, by whatever process."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def seconds(work: Callable, *args) -> tuple[float, object]:
    """Wall seconds of a call, the GPU's work included, and what it returned."""
    wait()
    start = time.perf_counter()
    result = work(*args)
    wait()
    return time.perf_counter() - start, result


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --------------------------------------------------------------------------------------------- models and text


def write_tokenizer(folder: Path) -> None:
    """A word tokenizer of 64 tokens with an end-of-text token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<|endoftext|>": END} | {f"w{number}": number for number in range(1, 64)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w1"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **ends).save_pretrained(folder)


def write_model(folder: Path, shape: dict, dtype: str, device: str) -> tuple[Path, int]:
    """A model folder with random weights, made on the device, in shards of 2 GB; and its number of weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    fields = {key: value for key, value in shape.items() if key not in ("vocabulary", "window", "architecture")}
    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    context = {"vocab_size": shape["vocabulary"], "max_position_embeddings": max(shape["window"], 4096)}
    config = AutoConfig.for_model(shape["architecture"], **context, **ends, **fields)
    config.tie_word_embeddings = False
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="2GB")
    write_tokenizer(folder)
    return folder, sum(weight.numel() for weight in model.parameters())


def random_windows(count: int, shape: dict, seed: int = 0) -> np.ndarray:
    """Token windows [count, window] of random tokens."""
    return np.random.default_rng(seed).integers(1, shape["vocabulary"], size=(count, shape["window"]))


def forward_flops(shape: dict, tokens: int) -> float:
    """Floating-point operations of a forward pass: two a weight and token, head included, and attention's products.

    Attention as if no position were masked, as in PaLM's appendix B (arXiv:2204.02311).
    """
    width, inner, layers = (shape[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    matrices = 2 if shape["architecture"] == "gpt_neox" else 3
    weights = layers * (4 * width**2 + matrices * width * inner) + width * shape["vocabulary"]
    return tokens * (2 * weights + 4 * layers * width * shape["window"])


def speed(shape: dict, tokens: int, taken: float, dtype: str, passes: int = 1) -> dict:
    """Tokens a second, and model FLOPs utilisation where `passes` forward passes' worth of work is done on each."""
    utilisation = passes * forward_flops(shape, tokens) / taken / PEAK[dtype]
    return {"tokens_per_second": round(tokens / taken), "mfu": round(utilisation, 4), "peak_flops": PEAK[dtype]}


# ------------------------------------------------------------------------------------------------------- the parts


def machine(part: Part) -> None:
    """Versions, and the two ceilings: matrix products and copies."""
    import accelerate
    import transformers

    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "accelerate": accelerate.__version__}
    facts |= {"python": sys.version.split()[0], "cores": len(os.sched_getaffinity(0)), "tf32": str(_tf32())}
    if part.device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count(), "context_gb": used_memory()}
        asked = "driver_version,compute_mode,memory.total,memory.used"
        told = subprocess.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True)
        facts["nvidia_smi"] = told.stdout.decode().strip()
    part.found(what="versions", **facts)
    size = 256 if part.tiny else 8192
    for dtype in ("bfloat16", "float32"):
        one, other = (torch.randn(size, size, device=part.device, dtype=getattr(torch, dtype)) for _ in range(2))
        for _ in range(2):
            one @ other
        taken, _ = seconds(lambda one=one, other=other: [one @ other for _ in range(10)])
        part.found(what="matrix product", size=size, dtype=dtype, tflops=round(20 * size**3 / taken / 1e12, 1))
    copied = torch.empty(2**20 if part.tiny else 2**32, dtype=torch.uint8, device=part.device).random_()
    target = torch.empty_like(copied)
    taken, _ = seconds(lambda: [target.copy_(copied) for _ in range(5)])
    part.found(what="copy on the device", gb_per_second=round(10 * copied.numel() / taken / 1e9))


def _tf32() -> dict:
    return {"matmul": torch.backends.cuda.matmul.allow_tf32, "precision": torch.get_float32_matmul_precision()}


GPTQ = {"algorithm": "gptq", "symmetric": True, "damping": 0.05, "desc_act": False, "group_size": 64}
MODEL = {"library": "gptqmodel", "act_group_aware": True, "gptaq": False}
METHODS = {
    "rtn-w4": {"algorithm": "rtn", "library": "rtn", "bits": 4, "group_size": 64, "symmetric": True},
    "gptq-w3": GPTQ | MODEL | {"bits": 3},
    "gptq-w4": GPTQ | MODEL | {"bits": 4},
    "gptq-w4-llmcompressor": GPTQ | {"library": "llmcompressor", "bits": 4},
    "nf4": {"algorithm": "nf4", "library": "bitsandbytes", "double_quantization": False},
    "int8": {"algorithm": "int8", "library": "bitsandbytes"},
    "hqq-w4": {"algorithm": "hqq", "library": "hqq", "bits": 4, "group_size": 64},
    "mxfp4": {"algorithm": "mxfp4", "library": "llmcompressor"},
}


def methods(part: Part) -> None:
    """Each library on a tiny Llama and a tiny OLMo-2: a process a library, all at once on the one GPU."""
    for architecture in ("llama", "olmo2"):
        shape = SHAPES["methods"] | {"architecture": architecture}
        write_model(part.scratch / architecture, shape, "float32", "cpu")
    code = "import sys; from tests.gpu import measure; measure.quantize_tiny(*sys.argv[1:])"
    libraries = {}
    for name, recipe in METHODS.items():
        libraries.setdefault(recipe["library"], []).append(name)
    begun = time.perf_counter()
    started = []
    for library, names in libraries.items():
        log = open(part.out / f"methods-{library}.log", "w")  # noqa: SIM115
        command = [sys.executable, "-c", code, str(part.out), str(part.scratch), str(int(part.tiny)), *names]
        started.append((library, subprocess.Popen(command, stdout=log, stderr=log)))
        if part.device == "cpu":
            started[-1][1].wait()
    for library, process in started:
        if status := process.wait():
            part.found(what=library, failed=f"its process ended with status {status}")
    part.found(what="all libraries at once on one device", processes=len(started), seconds=time.perf_counter() - begun)


def quantize_tiny(out: str, scratch: str, tiny: str, *names: str) -> None:
    """In a process of its own: methods on both tiny models, and losses of the results on CPU and device."""
    from scripts import quantize as stage
    from scripts.evaluate_loss import evaluate_loss

    part = Part("methods", Path(out), bool(int(tiny)), Path(scratch))
    torch.set_num_threads(1)
    shape = SHAPES["methods"]
    calibration, probe = random_windows(64, shape, 1), random_windows(4, shape, 2)
    for architecture in ("llama", "olmo2"):
        for name in names:
            place, facts = part.scratch / f"{architecture}-{name}", {}
            with part.trying(f"{name} on {architecture}"), Memory() as memory, lies(stage) as where:
                recipe = METHODS[name]
                data = calibration if recipe["algorithm"] == "gptq" else None
                folder = part.scratch / architecture
                settings = (place / "model", place / "layers.parquet", "bfloat16", part.device)
                place.mkdir()
                taken, result = seconds(stage.quantize, folder, recipe, data, probe, *settings)
                facts = {key: result.get(key) for key in ("status", "reason", "bits_per_weight", "loss", "seconds")}
                part.found(
                    what=f"{name} on {architecture}",
                    **facts,
                    wall=taken,
                    model_after_library=where,
                    tensors_gb=memory.tensors,
                )
            if facts.get("status") != "ok":
                continue
            with part.trying(f"loss of {name} on {architecture}"):
                windows = random_windows(8, shape, 3)
                for dtype in ("float32", "bfloat16"):
                    here, there = (
                        evaluate_loss(place / "model", folder, windows, 4, dtype, device)
                        for device in ("cpu", part.device)
                    )
                    part.found(
                        what=f"loss of {name} on {architecture}, CPU against device",
                        dtype=dtype,
                        nll=float(here[0].mean()),
                        mean_difference=float(there[0].mean() - here[0].mean()),
                        largest_difference=float(np.abs(there[0] - here[0]).max()),
                        kl=[float(here[1].mean()), float(there[1].mean())],
                        agree=[float(here[2].mean()), float(there[2].mean())],
                    )


@contextmanager
def lies(stage) -> Iterator[list]:
    """Where models lie and what their tensors have taken when their library is done, of each call within the block."""
    found, save_and_run = [], stage.save_and_run

    def looking(quantized, *args):
        if quantized.model is not None:
            found.append(sorted({str(tensor.device) for tensor in quantized.model.state_dict().values()}))
        return save_and_run(quantized, *args)

    stage.save_and_run = looking
    try:
        yield found
    finally:
        stage.save_and_run = save_and_run


def cell(part: Part) -> None:
    """Cells of 1.5 G weights: round-to-nearest and GPTQ to 4 bits with their gates, and loss against the baseline."""
    torch.set_num_threads(1 if part.tiny else 8)
    shape = LLAMA | part.shape("cell")
    taken, (folder, weights) = seconds(write_model, part.scratch / "model", shape, "bfloat16", part.device)
    part.found(what="model", weights=weights, seconds=taken, **shape)
    free()
    own = {"bits": 4, "group_size": 64 if part.tiny else 128}
    quantize_large(part, "rtn", METHODS["rtn-w4"] | own, folder, shape)
    measure_pair(part, folder, shape)
    quantize_large(part, "gptq", GPTQ | MODEL | own, folder, shape)


def quantize_large(part: Part, name: str, recipe: dict, folder: Path, shape: dict) -> None:
    """Quantize a model, with the seconds and the GPU's memory of each step, and unpack the result."""
    from scripts import quantize as stage
    from scripts.lib.models import packed
    from scripts.lib.models.loading import quantization_of

    samples, probe = (8, 4) if part.tiny else (128, 16)
    out, records = part.scratch / name, part.scratch / f"{name}.parquet"
    data = (random_windows(samples, shape, 1), random_windows(probe, shape, 2))
    begun = time.monotonic()
    with part.trying(name), Memory() as memory, lies(stage) as where:
        taken, result = seconds(
            lambda: stage.quantize(folder, recipe, *data, out, records, "bfloat16", part.device),
        )
    if not out.is_dir():
        return
    if result["status"] != "ok":
        part.found(what=name, status=result["status"], reason=result["reason"])
        return
    end = begun
    for step, lap in result["seconds"].items():
        first, end = end, end + lap
        part.found(what=f"{name}, {step}", seconds=lap, gpu_gb_of_all=memory.peak(first, end))
    facts = {"wall": taken, "model_after_library": where, "tensors_gb": memory.tensors, "gpu_gb_of_all": memory.peak()}
    facts |= {"calibration": f"{samples} x {shape['window']} random tokens", "threads": torch.get_num_threads()}
    part.found(what=f"{name}, 4 bits", **facts, loss=result["loss"], host_gb=host_peak())
    free()
    if quantization := quantization_of(out):
        for device in dict.fromkeys((part.device, "cpu")):
            taken, count = seconds(unpack, packed.read_layers(out, quantization, device), part.tiny)
            part.found(what=f"unpacking on {device}", seconds=taken, nanoseconds_a_weight=1e9 * taken / count)


def measure_pair(part: Part, folder: Path, shape: dict) -> None:
    """Loss and divergence of a model against itself, by the size of batches."""
    from scripts.evaluate_loss import evaluate_loss

    windows = random_windows(8 if part.tiny else 96, shape, 3)
    for batch in (2, 4) if part.tiny else (4, 16):
        with part.trying(f"loss, batches of {batch}"), Memory() as memory:
            taken, found = seconds(evaluate_loss, folder, folder, windows, batch, "bfloat16", part.device)
            part.found(
                what=f"loss and divergence of two models, batches of {batch}",
                seconds=taken,
                **speed(shape, windows.size, taken, "bfloat16", 2),
                nll=float(found[0].mean()),
                kl=float(found[1].mean()),
                tensors_gb=memory.tensors,
            )
        free()


def unpack(layers: Iterator, few: bool) -> int:
    """Read quantized layers for at most some seconds; how many weights they had."""
    count, start = 0, time.monotonic()
    for _, weight in layers:
        count += weight.numel()
        if time.monotonic() - start > (1 if few else 5):
            break
    return count


def free() -> None:
    from scripts.quantize import free_memory

    free_memory("cuda" if torch.cuda.is_available() else "cpu")


def training(part: Part) -> None:
    """`train` at Pythia-160M's shape: tokens a second in both precisions, and kill and resume bit by bit."""
    shape = PYTHIA | part.shape("training")
    steps, batch = (6, 4) if part.tiny else (50, 32)
    for dtype in ("bfloat16", "float32"):
        with part.trying(f"training in {dtype}"), Memory() as memory:
            count = steps if dtype == "bfloat16" or part.tiny else steps // 5
            _, times, log = train_link(part, f"speed-{dtype}", shape, dtype, count, batch, micro=batch // 2)
            step = float(np.median(np.diff(times)[2:]))
            part.found(
                what=f"training in {dtype}",
                steps=count,
                windows_a_step=batch,
                windows_a_pass=batch // 2,
                seconds_a_step=step,
                **speed(shape, batch * shape["window"], step, dtype, 3),
                loss=[log["loss"][0], log["loss"][-1]],
                tensors_gb=memory.tensors,
            )
    steps, batch = 12, 4
    for dtype in ("bfloat16", "float32"):
        with part.trying(f"resumption in {dtype}"):
            settings = (shape, dtype, steps, batch)
            whole = [train_link(part, f"{name}-{dtype}", *settings)[0] for name in ("undisturbed", "again")]
            try:
                train_link(part, f"killed-{dtype}", *settings, stop=steps - 4)
                part.found(what=f"resumption in {dtype}", failed="SIGTERM did not stop it")
            except Exception as error:
                stopped = str(error)
            resumed = train_link(part, f"killed-{dtype}", *settings)[0]
            part.found(
                what=f"resumption in {dtype}",
                stopped=stopped,
                same_twice=largest_difference(whole[0], whole[1], steps),
                resumed_and_undisturbed=largest_difference(whole[0], resumed, steps),
            )


def train_link(
    part: Part, name: str, shape: dict, dtype: str, steps: int, batch: int, micro: int | None = None, stop: int = 0
) -> tuple[Path, list[float], dict]:
    """Train a link of random windows; its folder, the moments at which steps ended, and its log.

    Args:
        micro: windows a pass.
        stop: send this process SIGTERM when the windows of this step are read; 0: never.
    """
    import polars

    from scripts import train as stage
    from scripts.lib.models import callbacks
    from scripts.lib.runtime import manifests

    place, times = part.scratch, []
    if not (place / "tokens.npy").is_file():
        np.save(place / "tokens.npy", random_windows(64, shape | {"vocabulary": 64}).ravel().astype(np.uint16))
        write_tokenizer(place / "tokenizer")
        manifests.write(place / "lineage.json", {})
    model = {key: value for key, value in shape.items() if key not in ("vocabulary", "window")}
    run = {"model": model, "window": shape["window"], "batch_size": batch, "micro_batch_size": micro, "seed": 1}
    run |= {"schedule": {"name": "constant", "peak": 3e-4, "warmup": 2}, "precision": dtype}
    run["optimizer"] = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "gradient_clip": 1.0}
    span = {"start": 0, "end": steps, "keep": [steps], "restart": False}
    places = (place / "tokens.npy", place / "tokenizer", None, place / "lineage.json", place / f"state-{name}")
    read, build, ended = stage.OrderedWindows.__getitem__, stage.build_model, callbacks.LogWeightNorm.on_step_end

    def reading(self, index: int) -> np.ndarray:
        if stop and index == stop * batch + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, index)

    def ending(self, *args, **kwargs):
        wait()
        times.append(time.perf_counter())
        return ended(self, *args, **kwargs)

    stage.OrderedWindows.__getitem__ = reading
    callbacks.LogWeightNorm.on_step_end = ending
    stage.build_model = lambda model, _, *others: build(model, shape["vocabulary"], *others)
    try:
        stage.train(run, span, *places, place / name, 1 if part.tiny else 4, part.device, save_every=10**6)
    finally:
        stage.OrderedWindows.__getitem__, stage.build_model = read, build
        callbacks.LogWeightNorm.on_step_end = ended
        free()
    return place / name, times, polars.read_parquet(place / name / "log.parquet").to_dict(as_series=False)


def largest_difference(one: Path, other: Path, step: int) -> float:
    """Largest difference of two links' weights at a step; 0 where they are the same bit by bit."""
    from safetensors.torch import load_file

    first, second = (load_file(folder / f"step-{step}" / "model.safetensors") for folder in (one, other))
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def faults(part: Part) -> None:
    """What reading the code made one expect on a GPU, as far as seconds show it."""
    checks = (alive_after_gate, full_memory, together, precision_of_hqq)
    for check in checks:
        with part.trying(check.__name__):
            check(part)


def alive_after_gate(part: Part) -> None:
    """How many decoder blocks of source and reloaded model the gate holds at once, over the whole of its work."""
    from scripts.lib.checks import gate
    from scripts.lib.models.blockwise import Blockwise
    from scripts.quantize import quantize

    folder, _ = write_model(part.scratch / "gate", LLAMA | SHAPES["methods"], "float32", "cpu")
    seen, alive, read = [], [], Blockwise.read

    def reading(self, number: int):
        block = read(self, number)
        seen.append(weakref.ref(next(block.parameters())))
        alive.append(len({id(ref()) for ref in seen if ref() is not None}))
        return block

    original = gate.Gate.__init__, gate.Gate.__exit__, gate.Gate.check
    Blockwise.read = reading
    gate.Gate.__init__ = lambda self, threads, device: None
    gate.Gate.__exit__ = lambda self, *error: None
    gate.Gate.check = lambda self, request: gate.judge(**request)
    try:
        places = (part.scratch / "gate-quantized", part.scratch / "gate.parquet", "bfloat16", part.device)
        result = quantize(folder, METHODS["nf4"], None, random_windows(4, SHAPES["methods"], 2), *places)
    finally:
        Blockwise.read = read
        gate.Gate.__init__, gate.Gate.__exit__, gate.Gate.check = original
    part.found(what="blocks alive in the gate", most=max(alive), reads=len(alive), status=result["status"], fault=3)


def full_memory(part: Part) -> None:
    """A GPU that is too small gets smaller batches, with the same losses, and then a refused cell."""
    from scripts.evaluate_loss import evaluate_loss
    from scripts.lib.runtime.shortages import Refused, refusing

    shape = LLAMA | SHAPES["methods"] | ({} if part.tiny else {"vocabulary": 100352})
    folder, _ = write_model(part.scratch / "full", shape, "float32", "cpu")
    windows = random_windows(64, shape, 3)
    measure = functools.partial(evaluate_loss, folder, None, windows, 64, "float32", part.device)
    with Memory() as memory:
        whole = measure()[0]
    free()
    if part.device == "cpu":
        part.found(what="a GPU that is too small", skipped="there is none", fault=6)
        return
    total = torch.cuda.get_device_properties(0).total_memory
    for share in (0.6, 0.2, 0.01):
        torch.cuda.set_per_process_memory_fraction(share * 1e9 * memory.tensors / total)
        facts = {"gb": share * memory.tensors, "needed_gb": memory.tensors, "fault": 6}
        try:
            with refusing("transformers"):
                facts |= {"largest_difference": float(np.abs(measure()[0] - whole).max())}
        except Refused as refused:
            facts |= {"refused": str(refused)}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            free()
        part.found(what="a GPU that is too small", **facts)


def together(part: Part) -> None:
    """Two processes compute on one GPU at the same time."""
    code = (
        "import torch, time; d = 'cuda' if torch.cuda.is_available() else 'cpu'; x = torch.randn(512, 512, device=d)\n"
        "end = time.time() + 2\nn = 0\n"
        "while time.time() < end: y = (x @ x).sum().item(); n += 1\nprint(n)"
    )

    def count(processes: int) -> list[int]:
        started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(processes)]
        return [int(process.communicate()[0] or -1) for process in started]

    part.found(what="products in 2 s, one process and two at once", alone=count(1), both=count(2), fault="7, 8")


def precision_of_hqq(part: Part) -> None:
    """The type in which hqq optimizes on the device."""
    from hqq.core import optimize

    from scripts.quantizers.hqq import quantize

    seen, name = set(), "optimize_weights_proximal_legacy_step"
    step = getattr(optimize, name)
    setattr(
        optimize, name, lambda weight, *args, **kwargs: seen.add(str(weight.dtype)) or step(weight, *args, **kwargs)
    )
    try:
        folder, _ = write_model(part.scratch / "hqq", LLAMA | SHAPES["methods"], "float32", "cpu")
        quantize(folder, METHODS["hqq-w4"], None, part.device)
    finally:
        setattr(optimize, name, step)
    part.found(what="hqq optimizes in", dtypes=sorted(seen), fault=9)


def memory(part: Part) -> None:
    """A batch of the tasks at its largest: 16 x 3,000 tokens at a vocabulary of 100k, log-softmax included."""
    from scripts.lib.models.loading import load_dense

    shape = LLAMA | part.shape("cell") | ({} if part.tiny else {"num_hidden_layers": 4})
    folder, _ = write_model(part.scratch / "model", shape, "bfloat16", part.device)
    free()
    rows, tokens = (2, 64) if part.tiny else (16, 3000)
    for dtype in ("bfloat16", "float32"):
        model = load_dense(folder, dtype).to(part.device)
        free()
        ids = torch.randint(1, shape["vocabulary"], (rows, tokens), device=part.device)
        weights = sum(weight.nbytes for weight in model.parameters()) / 1e9
        for cache in (True, False):
            with part.trying(f"log-softmax in {dtype}"), Memory() as watched, torch.inference_mode():
                taken, _ = seconds(
                    lambda model=model, ids=ids, cache=cache: torch.log_softmax(
                        model(input_ids=ids, use_cache=cache).logits, dim=-1, dtype=torch.float32
                    ).sum()
                )
                values = rows * tokens * shape["vocabulary"]
                part.found(
                    what=f"forward and log-softmax of {rows} x {tokens}",
                    dtype=dtype,
                    cache=cache,
                    seconds=taken,
                    weights_gb=weights,
                    peak_gb=watched.tensors,
                    bytes_a_logit=1e9 * (watched.tensors - weights) / values,
                )
            free()
        del model
        free()


def tasks(part: Part) -> None:
    """The harness on documents of made-up text, on CPU and device."""
    import polars

    from scripts.evaluate_tasks import evaluate_tasks
    from scripts.lib.runtime import manifests
    from tests.unit.test_evaluate_tasks import TASKS, write_suite
    from tests.unit.test_task_documents import make, make_corpus

    place = part.scratch
    documents = place / "tasks" / "docstrings"
    documents.mkdir(parents=True)
    make_corpus(documents / "validation.parquet", documents=12)
    make(documents)
    (place / "suites").mkdir()
    for path in TASKS.glob("docstrings-*.yaml"):
        shutil.copy(path, place / "suites")
    write_suite(place, "toy", ["docstrings-choice", "docstrings-cloze", "docstrings-rolling"])
    write_model(place / "model", LLAMA | SHAPES["methods"], "float32", "cpu")
    manifests.write(place / "manifest.json", {"kind": "checkpoint", "status": "ok"})
    names, scores = {"trajectory": "toy", "checkpoint": "step-1", "method": "none", "suite": "toy"}, []
    inputs = (place / "manifest.json", place / "model", place / "suites" / "suite-toy.yaml", place, names)
    files = (place / "results.json", place / "samples.parquet")
    for device in ("cpu", part.device):
        settings = {"dtype": "float32", "threads": 1, "device": device}
        taken, _ = seconds(evaluate_tasks, *inputs, settings, *files)
        result = json.loads(files[0].read_text())
        part.found(what=f"tasks on {device}", seconds=taken, status=result["status"], reason=result["reason"])
        scores.append(polars.read_parquet(files[1])["value"].to_numpy())
    part.found(what="tasks, CPU against device", largest_difference=float(np.abs(scores[0] - scores[1]).max()))


def jobs(part: Part) -> None:
    """What small jobs take, each a new Python: alone, and as many at once as a study at scale `gpu` would run."""
    write_model(part.scratch / "model", LLAMA | part.shape("jobs"), "float32", "cpu")
    at_once = ["train"] * 3 + ["quantize"] * 6 + ["loss"] * 3
    for kinds in (["train"], ["quantize", "train", "loss"] if part.tiny else at_once):
        code = "import sys; from tests.gpu import measure; measure.small_job(*sys.argv[1:])"
        started = []
        for number, kind in enumerate(kinds):
            place = part.scratch / f"{len(kinds)}-{number}"
            place.mkdir()
            command = [sys.executable, "-c", code, kind, str(part.out), str(part.scratch / "model"), str(place)]
            started.append((kind, time.perf_counter(), subprocess.Popen([*command, str(int(part.tiny))])))
        ended = {}
        while len(ended) < len(started):
            for number, (_, begun, process) in enumerate(started):
                if number not in ended and process.poll() is not None:
                    ended[number] = round(time.perf_counter() - begun, 2)
            time.sleep(0.05)
        for kind in dict.fromkeys(kinds):
            taken = [ended[number] for number, entry in enumerate(started) if entry[0] == kind]
            bad = sum(process.returncode != 0 for name, _, process in started if name == kind)
            part.found(what=f"job: {kind}", at_once=len(kinds), seconds=taken, **({"failed": bad} if bad else {}))


def small_job(kind: str, out: str, model: str, scratch: str, tiny: str) -> None:
    """In a process of its own: one job's work on the tiny model of `jobs`."""
    part = Part("jobs", Path(out), bool(int(tiny)), Path(scratch))
    shape = LLAMA | part.shape("jobs")
    torch.set_num_threads(1)
    if kind == "train":
        times = train_link(part, "link", shape, "float32", 10 if part.tiny else 300, 16)[1]
        step = float(np.median(np.diff(times)))
        part.found(what="training at scale gpu", seconds_a_step=step, **speed(shape, 2048, step, "float32", 3))
    elif kind == "quantize":
        from scripts.quantize import quantize

        recipe = GPTQ | MODEL | {"bits": 3, "group_size": 32}
        data = (random_windows(128, shape, 1), random_windows(32, shape, 2))
        places = (part.scratch / "quantized", part.scratch / "layers.parquet", "float32", part.device)
        result = quantize(Path(model), recipe, *data, *places)
        part.found(what="GPTQ at scale gpu", status=result["status"], seconds=result.get("seconds"))
    else:
        from scripts.evaluate_loss import evaluate_loss

        windows = random_windows(16 if part.tiny else 2000, shape, 3)
        taken, _ = seconds(evaluate_loss, Path(model), Path(model), windows, 16, "float32", part.device)
        part.found(what="loss at scale gpu", windows=len(windows), seconds=taken)


def streaming(part: Part) -> None:
    """Loss of 6.7 G weights by blocks."""
    shape = LLAMA | part.shape("large")
    taken, (folder, weights) = seconds(write_model, part.scratch / "model", shape, "bfloat16", part.device)
    part.found(what="model", weights=weights, seconds=taken)
    free()
    from scripts.evaluate_loss import evaluate_loss

    windows = random_windows(4 if part.tiny else 32, shape, 3)
    with Memory() as memory:
        taken, found = seconds(evaluate_loss, folder, None, windows, 8, "bfloat16", part.device)
    part.found(
        what="loss by blocks, in bfloat16 and, for the floor, in float32",
        seconds=taken,
        tokens=windows.size,
        **speed(shape, windows.size, taken, "bfloat16"),
        nll=float(found[0].mean()),
        tensors_gb=memory.tensors,
        gpu_gb_of_all=memory.peak(),
        host_gb=host_peak(),
    )
    with part.trying("a second pass in bfloat16"), Memory() as memory:
        from scripts.lib.models.blockwise import Blockwise

        model = Blockwise(folder, "bfloat16", part.device)
        taken, _ = seconds(model.states, windows, 8)
        facts = speed(shape | {"vocabulary": 0}, windows.size, taken, "bfloat16")
        part.found(what="hidden states by blocks", seconds=taken, **facts, tensors_gb=memory.tensors)


def host_peak() -> float:
    """GB of this process's resident memory at its peak, pages of mapped files included."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


PARTS = {
    **{"machine": machine, "methods": methods, "training": training, "faults": faults, "streaming": streaming},
    **{"memory": memory, "tasks": tasks, "jobs": jobs, "cell": cell},
}


# ------------------------------------------------------------------------------------------------------ the driver


def run_part(name: str, out: Path, tiny: bool) -> None:
    """In a process of its own: one part."""
    with tempfile.TemporaryDirectory(prefix="trajquant-gpu-") as scratch:
        part = Part(name, out, tiny, Path(scratch))
        with part.trying(name):
            PARTS[name](part)


def run_all(out: Path, names: list[str], tiny: bool, budget: float) -> None:
    """Run parts one after the other, each at most its limit, and print what they find."""
    out.mkdir(parents=True, exist_ok=True)
    end, findings = time.monotonic() + budget, out / "findings.jsonl"
    findings.touch()
    for name in names:
        limit = min(LIMITS[name] * (3 if tiny else 1), end - time.monotonic())  # two slow cores
        if limit < 5:
            print(json.dumps({"part": name, "skipped": "no time is left"}), flush=True)
            continue
        begun, known = time.monotonic(), findings.stat().st_size
        options = ["--part", name, *(["--tiny"] if tiny else [])]
        with open(out / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.gpu.measure", str(out), *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = "ended at its limit"
            finally:
                end_group(process)
        print(findings.read_text()[known:], end="")
        taken = round(time.monotonic() - begun, 1)
        print(json.dumps({"part": name, "status": status, "seconds": taken}), flush=True)


def end_group(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.measure", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that all runs")
    parser.add_argument("--parts", default=",".join(LIMITS), help="comma-separated, in this order")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        run_part(asked.part, asked.out, asked.tiny)
    else:
        tiny = asked.tiny or not torch.cuda.is_available()
        run_all(asked.out, asked.parts.split(","), tiny, asked.budget)


if __name__ == "__main__":
    main()
