"""quantize: one method applied to one checkpoint; saved, reloaded and checked, then put in place with its manifest."""

import time
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import SafetensorError

from scripts.lib import manifests
from scripts.lib.corpora import load_windows
from scripts.lib.devices import pick_device
from scripts.lib.logs import open_log
from scripts.lib.models import load_dense, load_tokenizer
from scripts.quantizers import Refused, load_quantizer

TOLERANCE = 1e-3  # largest difference between reloaded and in-memory weights, relative to a layer's largest weight


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, out: Path, device: str) -> dict:
    """Quantize a model folder and publish the result only if it reloads as what it was in memory.

    Args:
        model_folder: the unquantized checkpoint.
        recipe: the method, as in its recipe file.
        calibration: token windows [samples, window], or None for a method that needs no data.
        out: the quantized model's folder; whole, or empty if the cell is refused.
        device: "cpu" or "cuda".

    Returns:
        The part of the manifest that the quantization itself knows: status, reason, grid, layers and times.
    """
    start = time.monotonic()
    library = load_quantizer(recipe["library"])
    loaded = time.monotonic()
    try:
        with manifests.staged_folder(out) as scratch:
            result = library(model_folder, recipe, calibration, scratch, device)
            load_tokenizer(model_folder).save_pretrained(scratch)
            done = time.monotonic()
            dense = result.pop("dense")
            check_grid(dense, result["bits"], result["group_size"], in_order=not recipe.get("desc_act"))
            layers = check_reload(model_folder, scratch, dense)
    except Refused as refused:
        out.mkdir(parents=True, exist_ok=True)
        return {"status": "refused", "reason": str(refused)}
    seconds = {"import": loaded - start, "quantize": done - loaded, "check": time.monotonic() - done}
    files = manifests.describe_files(out)
    return {
        "status": "ok",
        "reason": None,
        **result,
        "bytes": sum(entry["bytes"] for entry in files.values()),
        "weight_error": total_error(layers),
        "layers": layers,
        "revision": manifests.weights_hash(files),
        "files": files,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def check_reload(source: Path, folder: Path, dense: dict[str, torch.Tensor]) -> list[dict]:
    """Reload a saved model as dense weights and compare it with the model in memory and with the source.

    Args:
        source: the unquantized model folder.
        folder: the saved quantized model.
        dense: weights [out, in] of the quantized layers as they were in memory, by name.

    Returns:
        One entry a quantized layer: name, shape, relative_error = |W - W_q| / |W| in the Frobenius norm.

    Raises:
        Refused: weights are missing, differ from those in memory or are not finite, or a tensor that was to stay
            dense differs from the source; the message names the tensor.
    """
    original = load_dense(source, "float32").state_dict()
    try:
        reloaded = load_dense(folder, "float32").state_dict()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Refused(f"the saved model does not reload: {error}") from error
    if not dense:
        raise Refused("the library left every layer as it was")
    layers = []
    for name, weight in original.items():
        layer = name.removesuffix(".weight")
        saved = reloaded[name]
        if not torch.isfinite(saved).all():
            raise Refused(f"{name} is not finite after quantization")
        if layer not in dense:
            if not torch.equal(saved, weight):
                raise Refused(f"{name} was to stay as it is and differs from the source after reloading")
            continue
        gap = (saved - dense[layer]).abs().max() / dense[layer].abs().max()
        if gap > TOLERANCE:
            raise Refused(f"{name} reloads with a relative difference of {gap:.2g} from the quantized model in memory")
        error = torch.linalg.norm(saved - weight) / torch.linalg.norm(weight)
        layers.append({"name": layer, "shape": list(weight.shape), "relative_error": float(error)})
    return layers


def check_grid(dense: dict[str, torch.Tensor], bits: int, group_size: int, in_order: bool) -> None:
    """Check that quantized weights lie on the grid that they claim: at most 2^bits values a group.

    Args:
        dense: weights [out, in] by layer.
        group_size: consecutive weights along a row that share a scale (bitsandbytes counts on across rows).
        in_order: whether groups are consecutive columns; if columns were reordered the check is not possible.

    Raises:
        Refused: a group has more values; the message names the layer.
    """
    for name, weight in dense.items() if in_order else ():
        if weight.numel() % group_size:
            raise Refused(f"group_size {group_size} does not divide the {weight.numel()} weights of {name}")
        values = weight.reshape(-1, group_size).sort(dim=1).values
        count = int((values.diff(dim=1) != 0).sum(dim=1).max()) + 1
        if count > 2**bits:
            raise Refused(f"{name} has {count} different weights in a group; {bits} bits allow {2**bits}")


def total_error(layers: list[dict]) -> float:
    """Mean of the layers' relative errors, weighted by their number of weights."""
    sizes = [np.prod(layer["shape"]) for layer in layers]
    return float(np.average([layer["relative_error"] for layer in layers], weights=sizes))


def draw_calibration(tokens: Path, calibration: dict) -> np.ndarray:
    """The windows a method looks at: [samples, window], drawn without replacement by the recipe's seed.

    Raises:
        ValueError: the calibration split has fewer windows than the recipe asks for.
    """
    windows = load_windows(tokens, calibration["window"])
    if len(windows) < calibration["samples"]:
        raise ValueError(
            f"{tokens} has {len(windows)} windows of {calibration['window']} tokens, the recipe asks for "
            f"{calibration['samples']}: lower calibration.samples or give the corpus a larger calibration share"
        )
    chosen = np.random.default_rng(calibration["seed"]).choice(len(windows), calibration["samples"], replace=False)
    return np.asarray(windows[np.sort(chosen)])


def main(snakemake) -> None:
    """Quantize one cell as the rule asks and write its manifest."""
    params, wildcards = snakemake.params, snakemake.wildcards
    torch.set_num_threads(params.threads)
    device = pick_device(params.device)
    recipe = yaml.safe_load(Path(snakemake.input.recipe).read_text())
    source = manifests.read(snakemake.input.manifest)
    settings, calibration = recipe.get("calibration"), None
    torch.manual_seed(settings["seed"] if settings else 0)
    if settings:
        calibration = draw_calibration(Path(snakemake.input.tokens), settings)
        settings = settings | {
            "tokens": int(calibration.size),
            "sha256": manifests.read(snakemake.input.tokens_manifest)["sha256"],
        }
    result = quantize(Path(snakemake.input.weights), recipe, calibration, Path(snakemake.output.model), device)
    manifest = {
        "kind": "quantized",
        "trajectory": wildcards.trajectory,
        "checkpoint": wildcards.checkpoint,
        "method": wildcards.method,
        "algorithm": recipe["algorithm"],
        "library": recipe["library"],
        **result,
        "recipe": recipe,
        "calibration": settings,
        "seed": settings["seed"] if settings else None,
        "threads": params.threads,
        "device": device,
        "source_revision": source["revision"],
        "versions": manifests.versions(),
    }
    manifests.write(snakemake.output.manifest, manifest)


if __name__ == "__main__":
    open_log(snakemake.log[0], f"quantize {Path(snakemake.output.manifest).parent}")
    main(snakemake)
