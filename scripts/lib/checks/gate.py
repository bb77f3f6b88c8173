"""The publish gate: a saved quantized model, reloaded in a fresh process, is what it was in memory, or is refused.

Libraries save models that reload as something else without an error. What is checked: the files load with no key
missing or unexpected; tensors that were to stay are bit-identical to the source; quantized weights equal those in
memory, seen through random projections; they have no more values than their bits allow; and the loss on a few windows
is that of the model in memory, computed there by the library's own kernels.

That process begins before the library is imported. Where one thread computes on a CPU it is a fork, which has imported
all that it needs; otherwise it starts anew, for threads of OpenMP and contexts of CUDA do not outlive a fork.
"""

import contextlib
import logging
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import polars
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scripts.lib.checks.layer_errors import LAYERS, LayerErrors, describe_layer
from scripts.lib.checks.sizes import zstd_bits
from scripts.lib.models.blockwise import FULL, Blockwise, NotByBlocks, Whole, mean_losses, passed
from scripts.lib.models.forward import rows_at_once
from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import all_finite, quantization_of
from scripts.lib.models.packed import Stored, describe_layers
from scripts.lib.runtime.shortages import Refused, is_shortage, refusing

WEIGHT_TOLERANCE = 2e-3  # of projections, relative to a row's norm: three standard errors of scales in half precision
ROW_FLOOR = 1e-5  # the same for rows of tiny weights, relative to the largest norm
BIAS_TOLERANCE = 2**-11  # half precision, in which GPTQ's files keep the biases of quantized layers
LOSS_TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 1e-2}  # nats a token, ...
SHIFT_TOLERANCE = 0.05  # ... and of the loss that quantization added: kernels of damaged models differ more
TABLES = 2**14  # bits of a layer's tables, whatever its size: bitsandbytes has two of 256 floats
PROJECTIONS = 4


class Gate:
    """The gate's process, started early: the library is not in it, and where it starts anew it does so meanwhile.

    Args:
        threads: with which it computes.
        device: where it does.
    """

    def __init__(self, threads: int, device: str):
        context = multiprocessing.get_context("fork" if threads == 1 and device == "cpu" else "spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_answer, args=(threads, self.connection, there), daemon=True)
        self.process.start()
        there.close()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_) -> None:
        self.connection.close()
        self.process.join()

    def check(self, request: dict) -> dict:
        """What `judge` says of a saved model.

        Args:
            request: its arguments, paths absolute.

        Raises:
            RuntimeError: the process died; why is in the log of this job.
        """
        try:
            self.connection.send(request)
            return self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            raise RuntimeError(
                f"the process that checks quantized models ended with status {status}; see above"
            ) from None


def _answer(threads: int, other: Connection, connection: Connection) -> None:
    """In the gate's process: answer one request; nothing to do if the other end closes without one."""
    other.close()
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError):
        request = connection.recv()
        connection.send(judge(**request))


def summarize(rows: list[dict], seconds: dict[str, float], records: Path) -> dict:
    """Write the table of layers, and say what a manifest does of them.

    Args:
        rows: as `judge` gives them.
        seconds: what each layer took to quantize, as far as the library tells.
        records: where to write the table (parquet).

    Returns:
        layers (names), and the means over all weights of bits_per_weight, weight_error and output_error.
    """
    table = polars.DataFrame([row | {"seconds": seconds.get(row["layer"])} for row in rows], schema=LAYERS)
    table.write_parquet(records)
    weights = table["weights"]
    means = {
        name: float((table[name] * weights).sum() / weights.sum())
        for name in ("bits_per_weight", "weight_error", "output_error")
    }
    return {"layers": table["layer"].to_list(), **means}


def judge(
    reference: str,
    folder: str,
    expected: str,
    windows: str,
    losses: list[float],
    dtype: str,
    device: str,
    grid: dict,
) -> dict:
    """Whether a saved model is what it was in memory; and what its rounding did to each layer.

    Args:
        reference: model folder that was rounded: the checkpoint, or what a transform made of it.
        folder: the saved quantized model.
        expected: safetensors with the `project`ions of the quantized layers as they were in memory, by name.
        windows: token windows [n, window] (npy).
        losses: mean loss of each window in memory, nats a token.
        dtype: in which the study evaluates.
        device: where models run, a block at a time.
        grid: a `Grid` as a mapping.

    Returns:
        reason: why it is refused, or None. If None also: rows (of the table of layers, as in `LAYERS`), and loss (nats
        a token of the reference, in memory, and reloaded).
    """
    of_memory = load_file(expected), np.load(windows), losses
    try:
        with refusing("the check of the saved model"):
            rows, losses = _judge(reference, folder, *of_memory, dtype, device, Grid(**grid))
    except Refused as refused:
        return {"reason": str(refused)}
    return {"reason": None, "rows": rows, "loss": {name: float(value) for name, value in losses.items()}}


class Mismatch(Refused):
    """The saved model is not what it was to be; the message names the tensor."""


def _judge(reference, folder, expected, windows, losses, dtype, device, grid) -> tuple[list[dict], dict]:
    """Rows of the table of layers, and losses by where they were measured."""
    memory, question, found = np.mean(losses), (reference, folder, expected, windows, device, grid), None
    try:
        found = _compare(Blockwise, *question)
    except NotByBlocks as reason:
        logging.getLogger(__name__).info("models are compared whole: %s", reason)
    rows, losses = found or _compare(Whole, *question)  # outside of `except`, which holds on to what was loaded
    losses = {"source": losses["source"], "memory": memory, "reloaded": losses["reloaded"]}
    compare_losses(memory, losses["reloaded"], losses["source"], "float32")
    if dtype != FULL:
        losses[dtype] = mean_losses(*passed(folder, dtype, device, windows), windows).mean()
        compare_losses(losses["reloaded"], losses[dtype], losses["source"], dtype)
    return rows, losses


def _compare(form, reference, folder, expected, windows, device, grid) -> tuple[list[dict], dict]:
    """Rows of the table of layers, and the losses of source and reloaded model, both in float32.

    Args:
        form: `Blockwise`, which holds a block of each at a time, or `Whole`.

    Raises:
        NotByBlocks: only the other one will do.
    """
    source = form(reference, FULL, device)
    with _reloading():
        quantization = quantization_of(folder)
        stored = describe_layers(folder, quantization) if quantization else {}
        model = form(folder, FULL, device)
    compare_names(source.linears, expected, stored)
    if source.tensors() != model.tensors():
        raise Mismatch(f"tensors differ from the source's: {sorted(source.tensors() ^ model.tensors())[:4]}")
    half_biases = bool(stored) and quantization["quant_method"] == "gptq"

    def compare(before: nn.Module, after: nn.Module, prefix: str = "") -> None:
        tensors = [{prefix + name: tensor for name, tensor in part.state_dict().items()} for part in (before, after)]
        compare_tensors(*tensors, expected, half_biases, device)

    rows, size, errors = {}, rows_at_once(windows, source.model.config.vocab_size), LayerErrors()

    def check(before: nn.Module, after: nn.Module, prefix: str) -> None:
        for name in (name for name in expected if name.startswith(prefix)):
            pair = [part.get_submodule(name.removeprefix(prefix)) for part in (before, after)]
            weights = [linear.weight.data.to(device) for linear in pair]
            rows[name] = check_layer(name, *weights, grid, stored.get(name))
            errors.watch(name, *pair)

    if form is not Whole:
        compare(source.model, model.model)
    with _reloading():
        model.read(0)
    passing = source.begin(windows, size), model.begin(windows, size)
    with errors:
        for number, name in enumerate(source.names):
            before, prefix = source.read(number), f"{name}." if name else ""
            with _reloading():
                after = model.read(number)
            compare(before, after, prefix)
            check(before, after, prefix)
            source.run(number, passing[0])
            model.run(number, passing[1])
        losses = {"source": mean_losses(source, passing[0].states, windows).mean()}
    del source, before
    losses["reloaded"] = mean_losses(model, passing[1].states, windows).mean()
    return [rows[name] | errors.of(name) for name in expected], losses


@contextlib.contextmanager
def _reloading() -> Iterator[None]:
    """Turn what is raised on a saved model's files into a mismatch."""
    try:
        yield
    except NotByBlocks:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        raise Mismatch(f"the saved model does not reload: {type(error).__name__}: {error}") from error


def check_layer(name: str, source: torch.Tensor, weight: torch.Tensor, grid: Grid, stored: Stored | None) -> dict:
    """Check size and levels of one layer; its row of the table of layers, without what needs inputs.

    Args:
        name: the layer.
        source, weight: before and after quantization [out, in], dense, in float32, on one device.
        grid: on which it is to lie.
        stored: how it lies in the files, where they pack it.

    Raises:
        Mismatch: it is too large, or has too many values.
    """
    size, columns = grid.nominal.get(name), None
    if stored:
        size, columns = 8 * stored.bytes / weight.numel(), stored.columns
        check_size(name, size, weight.numel(), grid)
    if columns is not None:
        columns = columns.to(weight.device)
    steps = check_levels(name, weight, grid, columns)
    smaller = zstd_bits(name, weight, grid, steps, size, columns)
    return describe_layer(name, source, weight, grid, size, columns) | {"bits_per_weight_zstd": smaller}


def compare_names(layers: set[str], expected: dict, stored: dict) -> None:
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
    return (weight.float() @ directions.to(weight.device)).cpu()


def save_projections(weights: Iterator[tuple[str, torch.Tensor]], path: Path) -> None:
    """Write the projections of quantized layers, taken one at a time."""
    save_file({name: project(weight) for name, weight in weights}, path)


def compare_tensors(
    before: dict[str, torch.Tensor],
    after: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    half_biases: bool,
    device: str,
) -> None:
    """Compare tensors of a reloaded model: quantized ones with their projections, all others with the source.

    Args:
        before, after: the same tensors of the unquantized and of the reloaded model, dense, in float32, by name.
        expected: projections of the quantized layers.
        half_biases: whether the files keep the biases of quantized layers in half precision.
        device: where they are compared, one at a time.

    Raises:
        Mismatch: a tensor is not finite, or differs; or a layer was left as it was.
    """
    for name in after:
        tensor, original = after[name].to(device), before[name].to(device)
        if not all_finite(tensor):
            raise Mismatch(f"{name} is not finite after quantization")
        if name.removesuffix(".weight") in expected:
            compare_weights(name, tensor, original, expected[name.removesuffix(".weight")])
            continue
        room = BIAS_TOLERANCE if half_biases and name.removesuffix(".bias") in expected else 0
        if not torch.equal(tensor, original) and (tensor - original).abs().max() > room * original.abs().max():
            raise Mismatch(f"{name} was to stay as it is and differs from the source after reloading")


def compare_weights(name: str, weight: torch.Tensor, source: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare a reloaded weight [out, in], row by row, with its projections in memory [out, 4].

    Raises:
        Mismatch: it differs from what it was in memory, or is the source's own.
    """
    if torch.equal(weight, source) and source.any():
        raise Mismatch(f"the library left {name} as it was")
    norm = torch.linalg.norm(weight, dim=1).cpu()
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
        gaps = sort_rows(grid.groups(weight, columns)).diff(dim=1)
    except ValueError as error:
        raise Mismatch(f"{name}: {error}") from error
    count = int(gaps.count_nonzero(dim=1).max()) + 1
    if count > 2**bits:
        raise Mismatch(f"{name} has {count} different weights in a group; {bits} bits allow {2**bits}")
    return gaps.masked_fill_(gaps == 0, torch.inf).amin(dim=1)


def sort_rows(values: torch.Tensor) -> torch.Tensor:
    """Each row in rising order; on a CPU NumPy sorts short rows twenty times as fast."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


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
