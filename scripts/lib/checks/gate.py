"""The publish gate: a saved quantized model, reloaded in a fresh process, is what it was in memory, or is refused.

Libraries save models that reload as something else without an error. What is checked: the files load with no key
missing or unexpected; tensors that were to stay are bit-identical to the source; quantized weights equal those in
memory, seen through random projections; they have no more values than their bits allow; and the loss on a few windows
is that of the model in memory, computed there by the library's own kernels.

`python -m scripts.lib.checks.gate` is that process: it imports what it needs, waits for the path of a request, and
answers.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scripts.lib.checks.layer_errors import LAYERS, LayerErrors, describe_layer
from scripts.lib.checks.sizes import zstd_bits
from scripts.lib.models.forward import window_losses
from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense, quantization_of
from scripts.lib.models.packed import describe_layers
from scripts.lib.runtime.shortages import is_shortage

ROOT = Path(__file__).parents[3]
WEIGHT_TOLERANCE = 2e-3  # of projections, relative to a row's norm: three standard errors of scales in half precision
ROW_FLOOR = 1e-5  # the same for rows of tiny weights, relative to the largest norm
BIAS_TOLERANCE = 2**-11  # half precision, in which GPTQ's files keep the biases of quantized layers
LOSS_TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 1e-2}  # nats a token, ...
SHIFT_TOLERANCE = 0.05  # ... and of the loss that quantization added: kernels of damaged models differ more
TABLES = 2**14  # bits of a layer's tables, whatever its size: bitsandbytes has two of 256 floats
PROJECTIONS = 4


class Gate:
    """The gate's process, started early so that its imports run beside the quantization."""

    def __init__(self, threads: int):
        self.threads = threads
        command = [sys.executable, "-m", "scripts.lib.checks.gate", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT)

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()

    def check(self, request: dict, folder: Path) -> dict:
        """The verdict on a saved model, as `judge` gives it.

        Args:
            request: arguments of `judge`, paths absolute.
            folder: scratch folder for the question and the answer.

        Raises:
            RuntimeError: the process died; why is in the log of this job.
        """
        question, answer = folder / "request.json", folder / "verdict.json"
        question.write_text(json.dumps(request | {"answer": str(answer)}))
        with contextlib.suppress(BrokenPipeError):  # it is dead already; its status says so
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.close()
        status = self.process.wait()
        if status or not answer.is_file():
            raise RuntimeError(f"the process that checks quantized models ended with status {status}; see above")
        return json.loads(answer.read_text())


def judge(
    reference: str,
    folder: str,
    expected: str,
    windows: str,
    losses: list[float],
    dtype: str,
    device: str,
    grid: dict,
    seconds: dict[str, float],
    records: str,
) -> dict:
    """Whether a saved model is what it was in memory; and what its rounding did to each layer.

    Args:
        reference: model folder that was rounded: the checkpoint, or what a transform made of it.
        folder: the saved quantized model.
        expected: safetensors with the `project`ions of the quantized layers as they were in memory, by name.
        windows: token windows [n, window] (npy).
        losses: mean loss of each window in memory, nats a token.
        dtype: in which the study evaluates.
        device: where models run, one at a time.
        grid: a `Grid` as a mapping.
        seconds: what each layer took to quantize, as far as the library tells.
        records: where to write the table of layers (parquet), if the model passes.

    Returns:
        reason: why it is refused, or None. If None also: layers (names), bits_per_weight, weight_error, output_error,
        loss (nats a token of the reference, in memory, and reloaded).
    """
    try:
        rows, losses = _judge(
            reference, folder, load_file(expected), np.load(windows), losses, dtype, device, Grid(**grid)
        )
    except Mismatch as mismatch:
        return {"reason": str(mismatch)}
    table = polars.DataFrame([row | {"seconds": seconds.get(row["layer"])} for row in rows], schema=LAYERS)
    table.write_parquet(records)
    weights = table["weights"]
    means = {
        name: float((table[name] * weights).sum() / weights.sum())
        for name in ("bits_per_weight", "weight_error", "output_error")
    }
    loss = {name: float(value) for name, value in losses.items()}
    return {"reason": None, "layers": table["layer"].to_list(), **means, "loss": loss}


class Mismatch(Exception):
    """The saved model is not what it was to be; the message names the tensor."""


def _judge(reference, folder, expected, windows, losses, dtype, device, grid) -> tuple[list[dict], dict]:
    """Rows of the table of layers, and losses by where they were measured."""
    source = load_dense(reference)
    try:
        model = load_dense(folder)
        quantization = quantization_of(folder)
        stored = describe_layers(folder, quantization) if quantization else {}
    except Exception as error:
        if is_shortage(error):
            raise
        raise Mismatch(f"the saved model does not reload: {type(error).__name__}: {error}") from error
    compare_names(block_linears(source), expected, stored)
    compare_tensors(source, model, expected, half_biases=bool(stored) and quantization["quant_method"] == "gptq")
    rows = []
    for name in expected:
        layer, columns = model.get_submodule(name), None
        size = grid.nominal.get(name)
        if name in stored:
            size, columns = 8 * stored[name].bytes / layer.weight.numel(), stored[name].columns
            check_size(name, size, layer.weight.numel(), grid)
        steps = check_levels(name, layer.weight.data, grid, columns)
        smaller = zstd_bits(name, layer.weight.data, grid, steps, size, columns)
        weight = source.get_submodule(name).weight.data
        row = describe_layer(name, weight, layer.weight.data, grid, size, columns)
        rows.append(row | {"bits_per_weight_zstd": smaller})
    errors = LayerErrors(source.to(device), model, list(expected))
    losses = {"source": window_losses(source, windows).mean(), "memory": np.mean(losses)}
    source.to("cpu")
    losses["reloaded"] = window_losses(model.to(device), windows).mean()
    compare_losses(losses["memory"], losses["reloaded"], losses["source"], "float32")
    if dtype != "float32":
        del model
        losses[dtype] = window_losses(load_dense(folder, dtype).to(device), windows).mean()
        compare_losses(losses["reloaded"], losses[dtype], losses["source"], dtype)
    return [row | errors.of(row["layer"]) for row in rows], losses


def compare_names(layers: dict, expected: dict, stored: dict) -> None:
    """Check that all linear layers of the blocks are quantized, in memory and (where files pack them) in the files.

    Raises:
        Mismatch: one is not; the message names some.
    """
    for what, found in (("in memory", expected), ("in the files", stored or expected)):
        if set(found) != set(layers):
            names = sorted(set(found) ^ set(layers))
            raise Mismatch(f"{len(names)} layers are not quantized {what}, or are no layers of blocks: {names[:4]}")


def check_size(name: str, size: float, weights: int, grid: Grid) -> None:
    """Check that a layer takes at most twice its bits and four, and its tables: files may hold what nobody declared.

    Args:
        size: bits a weight in the files.
        weights: their number.

    Raises:
        Mismatch: it takes more; the message names it.
    """
    bits = grid.bits_of(name)
    if not size <= 2 * bits + 4 + TABLES / weights:
        raise Mismatch(f"{name} takes {size:.1f} bits a weight for a grid of {bits}")


def project(weight: torch.Tensor) -> torch.Tensor:
    """A weight [out, in] seen through fixed random directions: [out, 4], float32; a change of any part of it shows."""
    directions = torch.randn(weight.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(0))
    return weight.float().cpu() @ directions


def save_projections(weights: Iterator[tuple[str, torch.Tensor]], path: Path) -> None:
    """Write the projections of quantized layers, taken one at a time."""
    save_file({name: project(weight) for name, weight in weights}, path)


def compare_tensors(
    source: nn.Module, model: nn.Module, expected: dict[str, torch.Tensor], half_biases: bool = False
) -> None:
    """Compare all tensors of a reloaded model: quantized ones with their projections, all others with the source.

    Args:
        source, model: the unquantized and the reloaded model, both dense, in float32.
        expected: projections of the quantized layers.
        half_biases: whether the files keep the biases of quantized layers in half precision.

    Raises:
        Mismatch: a tensor is missing, is not finite, or differs; or a layer was left as it was.
    """
    before, after = source.state_dict(), model.state_dict()
    if set(before) != set(after):
        raise Mismatch(f"tensors differ from the source's: {sorted(set(before) ^ set(after))[:4]}")
    for name, tensor in after.items():
        if not torch.isfinite(tensor).all():
            raise Mismatch(f"{name} is not finite after quantization")
        if name.removesuffix(".weight") in expected:
            compare_weights(name, tensor, before[name], expected[name.removesuffix(".weight")])
            continue
        room = BIAS_TOLERANCE if half_biases and name.removesuffix(".bias") in expected else 0
        if (tensor - before[name]).abs().max() > room * before[name].abs().max():
            raise Mismatch(f"{name} was to stay as it is and differs from the source after reloading")


def compare_weights(name: str, weight: torch.Tensor, source: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare a reloaded weight [out, in], row by row, with its projections in memory [out, 4].

    Raises:
        Mismatch: it differs from what it was in memory, or is the source's own.
    """
    if torch.equal(weight, source) and source.any():
        raise Mismatch(f"the library left {name} as it was")
    norm = torch.linalg.norm(weight, dim=1)
    room = WEIGHT_TOLERANCE * norm + ROW_FLOOR * max(norm.max(), expected.abs().max())
    gap = (project(weight) - expected).abs().amax(dim=1)
    if not (gap <= room).all():
        worst = float((gap / room).max()) * WEIGHT_TOLERANCE
        raise Mismatch(f"{name} reloads with a relative difference of {worst:.2g} from the quantized model in memory")


def check_levels(name: str, weight: torch.Tensor, grid: Grid, columns: torch.Tensor | None) -> torch.Tensor:
    """Check that quantized weights [out, in] lie on the grid that they claim: at most 2^bits values a group.

    Args:
        columns: group of each input column [in], if columns are not grouped in their order.

    Returns:
        The smallest step between two values of each group [groups]; infinite where there is one value.

    Raises:
        Mismatch: a group has more values; the message names the layer.
    """
    bits = grid.bits_of(name)
    try:
        values = grid.groups(weight, columns).sort(dim=1).values
    except ValueError as error:
        raise Mismatch(f"{name}: {error}") from error
    gaps = values.diff(dim=1)
    count = int((gaps != 0).sum(dim=1).max()) + 1
    if count > 2**bits:
        raise Mismatch(f"{name} has {count} different weights in a group; {bits} bits allow {2**bits}")
    return gaps.masked_fill(gaps == 0, torch.inf).amin(dim=1)


def compare_losses(before: float, after: float, source: float, dtype: str) -> None:
    """Compare a quantized model's mean loss in memory with that after reloading, nats a token.

    Args:
        before, after: in memory and after reloading; or reloaded in float32 and in `dtype`.
        source: of the unquantized model, in float32.
        dtype: which tolerance holds.

    Raises:
        Mismatch: either is not finite, or they differ by more than LOSS_TOLERANCE and a share of what quantization
            added.
    """
    room = LOSS_TOLERANCE[dtype] + SHIFT_TOLERANCE * abs(after - source)
    if not abs(before - after) <= room:
        found = f"{before:.4f} in memory and {after:.4f} after reloading"
        raise Mismatch(f"the loss is {found}, in nats a token ({dtype}): it was saved or reloads wrongly")


def main() -> None:
    """Answer one request, whose path comes on standard input; nothing to do if it closes without one."""
    torch.set_num_threads(int(sys.argv[1]))
    path = sys.stdin.readline().strip()
    if not path:
        return
    request = json.loads(Path(path).read_text())
    answer = Path(request.pop("answer"))
    answer.write_text(json.dumps(judge(**request)))


if __name__ == "__main__":
    main()
