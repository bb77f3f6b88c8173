"""What the jobs of each rule ask a cluster for, from the size of what they handle: arithmetic on the plan alone.

The numbers are meant to be too large rather than too small; a job that needs more is tried again with twice as much.
"""

import math
from dataclasses import dataclass

from scripts.lib.study.libraries import algorithm, transforms
from scripts.lib.study.sizes import DTYPES, Model
from scripts.lib.study.trajectories.averaged import Averaged
from scripts.lib.study.trajectories.trained import Trained

PROCESS_MB = 2500  # torch, transformers, lm-eval or GPTQModel: 0.5 to 1.3 GB; the Snakemakes around them: 0.4 GB
WHOLE_SPLIT = 1_000_000  # tokens of a validation split; a longer one takes further attempts, with more time
START_MINUTES = 10  # imports from a cold shared file system, and waiting for its files
THREAD_FLOPS = 6e10  # a second, of one thread of a CPU, float32: the studies smoke, methods and demo
# Of an H100: training at Pythia-160M's shape in float32 (47,000 tokens/s) and bfloat16 (217,000), and blocks of 6.7e9
# weights in bfloat16, as workflow/README.md has them; float16 is taken to be as fast.
GPU_FLOPS = {"float32": 4.5e13, "bfloat16": 2.2e14, "float16": 2.2e14}
CAUTION = {"cpu": 3, "cuda": 2}  # a request assumes so many times less
DISK_BYTES = 1e8  # a second, read, hashed and written
DOCUMENT_TOKENS, SHOT_TOKENS = 400, 160  # a question with each of its answers, and an example before them: twelve tasks
# with five examples are 47 M tokens for 38,900 documents, answers of one token sharing a pass; the demo's 450 without
MAKING = 6.5  # bytes a weight: float32, and the files' or the packed one
LOADED = 1.25  # of a model's dense size, while it is loaded
LOGITS = 2**28  # values a forward pass at most, as scripts/lib/models/forward.py has it
KINDS = 7  # of layers that are quantized in a block, of a Llama; others have fewer
CHECKS = 8  # forward passes over the probe: in memory, source (and each layer's error), reloaded, a transform's two


@dataclass(frozen=True)
class Need:
    """Memory in MB and run time in minutes of a job's first attempt."""

    memory: int
    minutes: int

    def at(self, attempt: int) -> "Need":
        """The same, doubled with every further attempt."""
        return Need(self.memory * 2 ** (attempt - 1), self.minutes * 2 ** (attempt - 1))


def needs(plan, name: str) -> dict[str, Need]:
    """What the first attempt of each rule's jobs for one trajectory asks for.

    Args:
        plan: a worked-out study (`scripts.lib.study.plan.Plan`).
        name: the trajectory; rules that belong to none ask for the same in all of them.
    """
    compute, loss = plan.config["compute"], plan.config["evaluate_loss"]
    gpu, full, own = compute["device"] == "cuda", speed(compute, "float32"), speed(compute, compute["dtype"])
    trajectory, model = plan.trajectories[name], plan.trajectories[name].model
    calibrated = [recipe for recipe in plan.recipes.values() if "calibration" in recipe]
    probe = plan.config["quantize"]["probe"]
    calibration = max((_tokens(recipe["calibration"]) for recipe in calibrated), default=0)
    passed = max([quantize_tokens(recipe, probe, model) for recipe in plan.recipes.values()], default=0)
    window = max([probe["window"], *(recipe["calibration"]["window"] for recipe in calibrated)])
    asked = max((task_tokens(plan, suite) for suite in plan.suites.values()), default=0)
    transformed = any("transform" in recipe for recipe in plan.recipes.values())
    batch = loss["batch_size"] * loss["window"]
    return {
        "tokenizer": text(),
        "tokenize": text(),
        "train": _train(trajectory, plan.config) if trajectory.source == "train" else None,
        "publish": publish(model),
        "average": _average(trajectory, compute) if trajectory.source == "average" else None,
        "quantize": quantize(model, calibration, passed, window, full, gpu, transformed),
        "evaluate_loss": evaluate_loss(model, loss_tokens(loss), batch, own, gpu, DTYPES[compute["dtype"]]),
        "slice": slicing(model, slice_tokens(plan.config), batch, full, gpu),
        "describe_layers": describing(model, slice_tokens(plan.config), batch, full, gpu),
        "evaluate_tasks": evaluate_tasks(model, asked, own, gpu, DTYPES[compute["dtype"]]),
        "tabulate": tabulate(len(plan.cells)),
    }


def flops(compute: dict, dtype: str) -> float:
    """Floating-point operations a second that a job reaches, by the section `compute`; on a CPU whatever the dtype."""
    return GPU_FLOPS[dtype] if compute["device"] == "cuda" else THREAD_FLOPS * compute["threads"]


def speed(compute: dict, dtype: str) -> float:
    """The same, as a request assumes it."""
    return flops(compute, dtype) / CAUTION["cuda" if compute["device"] == "cuda" else "cpu"]


def _train(run: Trained, config: dict) -> Need:
    processes, rate = config["train"]["processes"], speed(config["compute"], run.precision)
    steps = max(link["end"] - link["start"] for link in run.links.values())
    forward = (run.micro_batch_size or run.batch_size) * run.window
    one = train(run.model, steps, run.tokens_per_step, forward, processes * rate)
    return Need(processes * one.memory, one.minutes)


def _average(run: Averaged, compute: dict) -> Need:
    if run.calibration is None:
        return average(run.model, run.size)
    read, passes = run.size, run.size
    match run.scheme["average"]:
        case "fisher":
            passes = 3 * run.size
        case "greedy":
            read, passes = run.size**2, 2 * run.size
    work = passes * forward_flops(run.model, _tokens(run.calibration))
    return average(run.model, read, run.calibration["window"], work / speed(compute, "float32"))


def loss_tokens(loss: dict) -> int:
    """Tokens that one evaluation of loss reads, by the section `evaluate_loss`; a guess where it reads all windows."""
    return WHOLE_SPLIT if loss["windows"] == "all" else loss["windows"] * loss["window"]


def slice_tokens(config: dict) -> int:
    """Tokens that each model of a slice reads."""
    return config["slice"]["windows"] * config["evaluate_loss"]["window"]


def slice_passes(model: Model) -> float:
    """Models that a slice runs: 13 along its ways, half a one a block, and about one a kind of layer."""
    return 13 + model.blocks / 2 + KINDS


def documents(plan, suite: dict) -> int:
    """Documents that one evaluation of a suite asks at most: of this project's tasks and of the harness's own."""
    return len(suite["tasks"]) * (suite["limit"] or plan.config["evaluate_tasks"]["documents"]) + suite["asked"]


def task_tokens(plan, suite: dict) -> float:
    """Tokens that one evaluation of a suite passes through the model: of documents with their answers and examples."""
    return documents(plan, suite) * (DOCUMENT_TOKENS + SHOT_TOKENS * suite["shots"])


def train(model: Model, steps: int, batch_tokens: int, forward_tokens: int, speed: float) -> Need:
    """A link: weights, gradients and two moments in float32, and the activations of one forward pass.

    Args:
        steps: optimizer steps of the link.
        batch_tokens: tokens an optimizer step.
        forward_tokens: tokens a forward pass.
        speed: floating-point operations a second.
    """
    activations = forward_tokens * (80 * model.blocks * model.width + 16 * model.vocabulary)
    return _need(16 * model.parameters + activations, train_flops(model, steps * batch_tokens) / speed)


def train_flops(model: Model, tokens: int) -> float:
    """Work of training on some tokens: forward and backward pass."""
    return 6 * model.parameters * tokens


def _tokens(drawn: dict) -> int:
    return drawn["samples"] * drawn["window"]


def forward_passes(recipe: dict, model: Model) -> float:
    """Work of a calibrated method in forward passes over its calibration tokens, those of its transform included."""
    about, passes = algorithm(recipe), 0
    if "transform" in recipe:
        passes = transforms().algorithms[recipe["transform"]["algorithm"]]["passes"]
    return passes + about.get("passes", 0) * _times(about.get("each"), recipe, model)


def _times(each: str | None, recipe: dict, model: Model) -> float:
    """How often a method does what its library counts its passes for."""
    if each == "iteration":
        return recipe["iterations"] * 8 / recipe["calibration"]["samples"]
    return 7 * model.blocks * len(recipe["choices"]) if each == "trial" else 1


def quantize_tokens(recipe: dict, probe: dict, model: Model) -> float:
    """Tokens that pass through the model for one method, all passes together, those of the checks too."""
    calibration = _tokens(recipe["calibration"]) * forward_passes(recipe, model) if "calibration" in recipe else 0
    return calibration + CHECKS * _tokens(probe)


def forward_flops(model: Model, tokens: float) -> float:
    """Work of passing tokens through a model."""
    return 2 * model.parameters * tokens


def quantize(
    model: Model,
    calibration_tokens: int,
    forward_tokens: float,
    window: int,
    speed: float,
    gpu: bool = False,
    transformed: bool = False,
) -> Need:
    """One method: first it is made, then, in another process, source and result are compared block by block.

    Of a checkpoint in float32, whose files are mapped, GPTQ held 4.2 bytes a weight besides its tokens' inputs (`make
    benchmark`); where files hold half precision the copy in float32 is 4 more. The check holds embeddings and heads and
    a block of both; models that cannot be run by blocks, twice 4 bytes, with the second attempt.

    Args:
        calibration_tokens: whose inputs to a block are held, twice.
        forward_tokens: tokens that pass through the model, all passes together, those of the checks too.
        window: of the longest windows; up to eight pass at once, with their logits held up to six times.
        speed: floating-point operations a second.
        gpu: whether logits are held there.
        transformed: whether a method changes the weights before it rounds them: a further copy.
    """
    logits = 0 if gpu else 24 * min(8 * window * model.vocabulary, LOGITS)
    making = (MAKING + 4 * transformed) * model.parameters + 8 * calibration_tokens * model.width
    checking = 16 * model.vocabulary * model.likely_width + 12 * model.parameters / max(model.blocks, 1)
    memory = max(making, checking) + logits
    return _need(memory, forward_flops(model, forward_tokens) / speed + 3 * moved(model))


def evaluate_loss(
    model: Model, tokens: int, forward_tokens: int, speed: float, gpu: bool = False, size: int = 4
) -> Need:
    """A cell's model and the baseline over all tokens.

    Both are run block by block: held are their embeddings and heads, a block, the hidden states of all tokens, and the
    logits of one batch. A model that cannot be run so is whole in memory, and its baseline with the second attempt.

    Args:
        gpu: whether logits are held there.
        size: bytes a weight.
    """
    held = 24 * model.vocabulary * model.likely_width + size * tokens * model.likely_width
    held += size * model.parameters / max(model.blocks, 1)
    logits = 0 if gpu else 12 * forward_tokens * model.vocabulary
    memory = max(LOADED * size * model.parameters, held) + logits
    return _need(memory, 2 * forward_flops(model, tokens) / speed + moved(model))


def slicing(model: Model, tokens: int, forward_tokens: int, speed: float, gpu: bool = False) -> Need:
    """The models between two, in float32 and run block by block: as `evaluate_loss`, with more of each, many times.

    Args:
        tokens: that each of them reads.
        forward_tokens: tokens a forward pass.
        speed: floating-point operations a second.
        gpu: whether logits are held there.
    """
    one, passes = evaluate_loss(model, tokens, forward_tokens, speed, gpu), slice_passes(model)
    held = 24 * model.vocabulary * model.likely_width + 12 * model.parameters / max(model.blocks, 1)
    held += 8 * tokens * model.likely_width
    seconds = passes * (2 * forward_flops(model, tokens) / speed + 2 * moved(model))
    return Need(one.memory + math.ceil(held / 1e6), START_MINUTES + math.ceil(seconds / 60))


def describing(model: Model, tokens: int, forward_tokens: int, speed: float, gpu: bool = False) -> Need:
    """One model, block by block, with the products of its layers' inputs with themselves in float64.

    Args:
        tokens, forward_tokens, speed, gpu: as of `slicing`.
    """
    one, products = evaluate_loss(model, tokens, forward_tokens, speed, gpu), 8 * 8 * (4 * model.likely_width) ** 2
    seconds = 4 * forward_flops(model, tokens) / speed
    return Need(one.memory + math.ceil(products / 1e6), one.minutes + math.ceil(seconds / 60))


def evaluate_tasks(model: Model, tokens: float, speed: float, gpu: bool = False, size: int = 4) -> Need:
    """One model, on its way to a GPU or with the logits of its longest documents.

    Args:
        tokens: of all documents, with answers and examples.
        speed: floating-point operations a second.
        gpu: where the model runs.
        size: bytes a weight.
    """
    memory = LOADED * size * model.parameters + (0 if gpu else 24 * 2048 * model.vocabulary)
    return _need(memory, forward_flops(model, tokens) / speed + moved(model))


def publish(model: Model) -> Need:
    """Weights are hashed, and copied where they cannot be linked."""
    return _need(0, moved(model))


def average(model: Model, reads: int, window: int = 0, seconds: float = 0.0) -> Need:
    """Members are streamed in pieces; what is written is held whole, as is one model and its Fisher information.

    Args:
        reads: of a member's weights.
        window: of the longest calibration text, if any; up to eight pass at once, their logits held up to six times.
        seconds: of forward and backward passes.
    """
    held = (8 if window else 4) * model.parameters + 24 * min(8 * window * model.vocabulary, LOGITS)
    return _need(held, reads * moved(model) + seconds)


def text(documents_mb: float = 1000) -> Need:
    """Tokenizing: a few copies of the text; a minute for every 20 MB."""
    return Need(PROCESS_MB + math.ceil(4 * documents_mb), START_MINUTES + math.ceil(documents_mb / 20))


def tabulate(cells: int) -> Need:
    """Segments of all cells and what they are without each document: half a MB and a second a cell."""
    return Need(PROCESS_MB + math.ceil(cells / 2), START_MINUTES + math.ceil(cells / 60))


def moved(model: Model) -> float:
    """Seconds that a model's weights take to be read or written once."""
    return 4 * model.parameters / DISK_BYTES


def _need(extra_bytes: float, seconds: float) -> Need:
    return Need(PROCESS_MB + math.ceil(extra_bytes / 1e6), START_MINUTES + math.ceil(seconds / 60))
