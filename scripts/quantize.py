"""quantize: one method applied to one checkpoint; saved, checked in a fresh process, and only then put in place."""

import dataclasses
import gc
import logging
import tempfile
from pathlib import Path

import numpy as np
import polars
import torch
import yaml

from scripts.lib.checks.gate import Gate, save_projections, summarize
from scripts.lib.checks.layer_errors import LAYERS
from scripts.lib.checks.sizes import model_sizes
from scripts.lib.data.windows import draw_windows, text_seed
from scripts.lib.models.blockwise import FULL, NotByBlocks, Resident, mean_losses, passed
from scripts.lib.models.forward import rows_at_once, window_losses
from scripts.lib.models.loading import (
    all_finite,
    block_linears,
    load_empty,
    load_tokenizer,
    own_code,
    packed,
    unsupported_tensors,
)
from scripts.lib.runtime import manifests
from scripts.lib.runtime.clock import Clock
from scripts.lib.runtime.devices import pick_device
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.shortages import Refused, refusing
from scripts.lib.study.libraries import distributions, libraries, transforms
from scripts.quantizers import Quantized, load_quantizer, load_transform
from scripts.quantizers.support import refusal

FUNCTION_TOLERANCE = 1e-3  # largest difference of logits after a transform, relative to their standard deviation


def quantize(
    model_folder: Path,
    recipe: dict,
    calibration: np.ndarray | None,
    probe: np.ndarray,
    out: Path,
    records: Path,
    dtype: str = "float32",
    device: str = "cpu",
) -> dict:
    """Quantize a model folder and publish the result only if it reloads as what it was in memory.

    Args:
        model_folder: the unquantized checkpoint.
        recipe: the method, as in its recipe file.
        calibration: token windows [samples, window], or None for a method that needs no data.
        probe: token windows [n, window] on which the model in memory and the reloaded one are compared.
        out: the quantized model's folder; whole, or empty if the cell is refused.
        records: the table of layers (parquet), as in `layers.LAYERS`; empty if the cell is refused.
        dtype: in which the study evaluates.
        device: "cpu" or "cuda".

    Returns:
        The part of the manifest that the quantization itself knows: status, reason, grid, layers, sizes and times.
    """
    clock, model_folder = Clock(), Path(model_folder).resolve()  # libraries are run elsewhere
    try:
        check_support(model_folder, recipe)
        clock.lap("check")
        with (
            Gate(torch.get_num_threads(), device) as gate,
            tempfile.TemporaryDirectory() as scratch,
            manifests.staged_folder(out) as saved,
        ):
            request = _make(model_folder, recipe, calibration, probe, saved, Path(scratch), device, clock)
            about = {name: request.pop(name) for name in ("format", "function_gap")}
            seconds = request.pop("seconds")
            about |= {name: request["grid"][name] for name in ("group_size", "symmetric")}
            about["bits"] = None if request["grid"]["layer_bits"] else request["grid"]["bits"]
            free_memory(device)
            request |= {"folder": str(saved.resolve()), "dtype": dtype, "device": device}
            verdict = gate.check(request)
            clock.lap("gate")
            if verdict["reason"]:
                raise Refused(verdict["reason"])
            verdict |= summarize(verdict.pop("rows"), seconds, records)
    except Refused as refused:
        return refuse(str(refused), out, records)
    files = manifests.describe_files(out)
    about |= {"bytes": sum(entry["bytes"] for entry in files.values()), "revision": manifests.weights_hash(files)}
    clock.lap("hash")
    about["sizes"] = model_sizes(model_folder, out, polars.read_parquet(records))
    clock.lap("sizes")
    return {"status": "ok", **about, **verdict, "files": files, "seconds": clock.laps}


def refuse(reason: str, out: Path, records: Path) -> dict:
    """Write an empty model folder and an empty table of layers; returns what the manifest says of it."""
    out.mkdir(parents=True, exist_ok=True)
    polars.DataFrame(schema=LAYERS).write_parquet(records)
    return {"status": "refused", "reason": reason}


def _make(model_folder, recipe, calibration, probe, saved, scratch, device, clock) -> dict:
    """Quantize and save; what the gate needs to know of the model, which no longer is in memory then."""
    library = load_quantizer(recipe["library"])
    clock.lap("import")
    reference, gap = model_folder, None
    if "transform" in recipe:
        reference = scratch / "transformed"
        with refusing(transforms().package):
            load_transform()(model_folder, recipe, calibration, reference, device)
            gap = compare_functions(model_folder, reference, probe, device)
        clock.lap("transform")
    with refusing(recipe["library"]):
        quantized = library(reference, recipe, calibration, device)
        clock.lap("quantize")
        losses = save_and_run(quantized, saved, scratch / "expected.safetensors", probe, device, clock)
    with refusing("the tokenizer"):
        load_tokenizer(model_folder).save_pretrained(saved)
    own_code.carry(model_folder, saved)
    np.save(scratch / "probe.npy", probe)
    return {
        "format": quantized.format,
        "function_gap": gap,
        "reference": str(Path(reference).resolve()),
        "expected": str(scratch / "expected.safetensors"),
        "windows": str(scratch / "probe.npy"),
        "losses": losses.tolist(),
        "grid": dataclasses.asdict(quantized.grid),
        "seconds": quantized.seconds,
    }


def save_and_run(
    quantized: Quantized, saved: Path, expected: Path, probe: np.ndarray, device: str, clock: Clock
) -> np.ndarray:
    """Save a model, and its losses and projections in memory, in the order that its library needs."""
    save_projections(quantized.weights(), expected)
    if quantized.save_first:
        quantized.save(saved)
        clock.lap("save")
    losses = quantized.losses(probe) if quantized.losses else losses_in_memory(quantized.model, probe, device)
    clock.lap("run")
    if not quantized.save_first:
        quantized.save(saved)
        clock.lap("save")
    return losses


def losses_in_memory(model: torch.nn.Module, probe: np.ndarray, device: str) -> np.ndarray:
    """Mean losses of token windows [n, window] where the job computes: some libraries leave the model on the CPU.

    From there its blocks come to a GPU one at a time. Others forbid to move it from its device.
    """
    if next(model.parameters()).device.type == device:
        return window_losses(model, probe)
    try:
        with Resident(model, device) as resident:
            return mean_losses(resident, resident.states(probe, rows_at_once(probe, model.config.vocab_size)), probe)
    except NotByBlocks as reason:
        logging.getLogger(__name__).info("the model in memory is run whole: %s", reason)
    return window_losses(model.to(device), probe)


def free_memory(device: str) -> None:
    """Give back what the model in memory took, before another process loads models."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def check_support(model_folder: Path, recipe: dict) -> None:
    """Refuse a method that is known not to suit the model, before anything is loaded.

    Raises:
        Refused: with the reason.
        ValueError: the model's own code is not as it was pinned.
    """
    own = own_code.is_trusted(model_folder)
    with refusing("trajquant"):
        empty = load_empty(model_folder)
        layers = block_linears(empty)
        others = unsupported_tensors(empty)
    if others:
        raise Refused(
            f"blocks hold weights that are not linear layers, such as {others[0]}; they would stay as they are"
        )
    for name, tensor in packed.read_tensors(model_folder):
        if not all_finite(tensor):
            raise Refused(f"{name} of the checkpoint is not finite")
    with refusing("trajquant"):
        widths = {name: layer.in_features for name, layer in layers.items()}
        reason = refusal(recipe, empty.config.to_dict(), widths, own)
    if reason:
        raise Refused(reason)


@torch.inference_mode()
def compare_functions(source: Path, transformed: Path, probe: np.ndarray, device: str) -> float:
    """Largest difference of two models' logits on token windows [n, window], relative to their standard deviation.

    Raises:
        Refused: it is larger than FUNCTION_TOLERANCE: the transform changed what the model computes.
    """
    gaps, models = [], [passed(folder, FULL, device, probe) for folder in (source, transformed)]
    tokens, size = torch.from_numpy(probe.astype(np.int64)), rows_at_once(probe, models[0][0].model.config.vocab_size)
    for first in range(0, len(probe), size):
        batch = slice(first, first + size)
        before, after = (model.logits(tokens[batch].to(device), states[batch]) for model, states in models)
        gaps.append((after - before).abs().max() / before.std())
    gap = float(torch.stack(gaps).max())  # NaN if one is
    if not gap <= FUNCTION_TOLERANCE:
        raise Refused(f"the transform changes the model's function: logits differ by {gap:.2g} standard deviations")
    return gap


def main(snakemake) -> None:
    """Quantize one cell as the rule asks and write its manifest."""
    params, wildcards = snakemake.params, snakemake.wildcards
    torch.set_num_threads(params.threads)
    device = pick_device(params.device)
    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    source = manifests.read(snakemake.input.manifest)
    settings, calibration = recipe.get("calibration"), None
    torch.manual_seed(settings["seed"] if settings else 0)
    out, records = Path(snakemake.output.model), Path(snakemake.output.layers)
    try:
        if settings:
            tokens_manifest, tokens = snakemake.input.calibration
            seed = text_seed(settings["seed"], params.text["draw"], params.text["run_seed"])
            calibration = draw_windows(Path(tokens), settings | {"seed": seed})
            content = manifests.read(tokens_manifest)["sha256"]
            settings = settings | {"tokens": int(calibration.size), "sha256": content}
        if source["status"] != "ok":
            raise Refused(f"its checkpoint was refused: {source['reason']}")
        probe = draw_windows(Path(snakemake.input.probe[1]), params.probe)
        weights = Path(snakemake.input.weights)
        result = quantize(weights, recipe, calibration, probe, out, records, params.dtype, device)
    except Refused as refused:
        result = refuse(str(refused), out, records)
    manifest = {
        "kind": "quantized",
        **{name: wildcards[name] for name in ("trajectory", "checkpoint", "method")},
        "algorithm": recipe["algorithm"],
        "library": recipe["library"],
        **params.text,
        **result,
        "recipe": recipe,
        "calibration": settings,
        "seed": settings["seed"] if settings else None,
        "threads": params.threads,
        "device": device,
        "source_revision": source["revision"],
        "package": libraries()[recipe["library"]].package,
        "versions": manifests.versions((*manifests.PACKAGES, *distributions(recipe))),
    }
    manifests.write(snakemake.output.manifest, manifest)


if __name__ == "__main__":
    open_log(snakemake.log[0], f"quantize {Path(snakemake.output.manifest).parent}")
    main(snakemake)
