"""evaluate_loss: cross-entropy of one cell on fixed windows, with its divergence from the unquantized baseline."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars
import torch

from scripts.lib.data.text_bytes import segment_bytes, token_sizes
from scripts.lib.data.windows import load_windows, segments
from scripts.lib.models import heads, own_code
from scripts.lib.models.blockwise import FULL, PROBE, Blockwise, NotByBlocks
from scripts.lib.models.forward import halving
from scripts.lib.models.loading import load_dense, load_tokenizer, require_fit
from scripts.lib.runtime import manifests
from scripts.lib.runtime.devices import pick_device
from scripts.lib.runtime.logs import Progress, open_log
from scripts.lib.runtime.shortages import Refused, refusing

SCHEMA = {
    "window": polars.Int32,
    "document": polars.String,
    "tokens": polars.Int32,
    "bytes": polars.Float64,
    "nll": polars.Float64,
    "kl": polars.Float64,
    "agree": polars.Int32,
}
CHUNK = {"cpu": 2**17, "cuda": 2**26}  # logits that are compared at a time; 512 KiB fit the cache of one core


Predictor = Callable[[slice, torch.Tensor], torch.Tensor]  # logits, from a place among the windows and the ids there


class Shared(NamedTuple):
    """A file of hidden states that the cells of a checkpoint share, and what decides them."""

    path: Path
    key: str


def evaluate_loss(
    model_folder: Path,
    baseline_folder: Path | None,
    windows: np.ndarray,
    batch_size: int,
    dtype: str,
    device: str,
    shared: Shared | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per-token losses of a model on token windows.

    In half precision final norm and head run in float32, and the baseline is compared with itself in float32: what the
    type alone does to its predictions is the floor of the divergences.

    Args:
        model_folder: the cell's model.
        baseline_folder: the unquantized checkpoint; None if the cell is the baseline itself.
        windows: token ids [n, window].
        batch_size: windows a forward pass.
        dtype, device: of both models.
        shared: where the baseline's hidden states are for all cells of a checkpoint; None: nowhere.

    Returns:
        nll: negative log-likelihood, nats, float64 [n, window - 1]; column i belongs to the token at position i + 1.
        kl: KL(baseline || model) of the predictions, nats, same shape; for the baseline zeros, or in half precision
            KL(baseline in float32 || baseline).
        agree: whether the most likely token is the baseline's, same shape; for the baseline true, or in half precision
            whether it is that of the baseline in float32.
    """
    baseline, settings = None, (windows, batch_size)
    if baseline_folder:
        baseline = predictor(baseline_folder, *settings, dtype, device, shared)
    elif dtype != FULL:
        baseline = predictor(model_folder, *settings, FULL, device)
    model = predictor(model_folder, *settings, dtype, device, None if baseline_folder else shared)
    shape = (len(windows), windows.shape[1] - 1)
    nll, kl, agree = np.zeros(shape), np.zeros(shape), np.ones(shape, dtype=bool)
    progress = Progress(len(windows), "windows")
    with torch.inference_mode():
        for first in range(0, len(windows), batch_size):
            batch = slice(first, min(first + batch_size, len(windows)))
            rows = torch.arange(batch.start, batch.stop)
            parts = halving(lambda part: measure(model, baseline, windows, part, device), rows)
            nll[batch], *compared = map(np.concatenate, zip(*parts, strict=True))
            if compared:
                kl[batch], agree[batch] = compared
            progress.update(batch.stop)
    return nll, kl, agree


def predictor(
    folder: Path, windows: np.ndarray, batch_size: int, dtype: str, device: str, shared: Shared | None = None
) -> Predictor:
    """What gives a model's logits of a batch, from its place among the windows and its token ids.

    A model that cannot be run block by block is loaded whole.
    """
    try:
        model = Blockwise(folder, dtype, device)
        states = model.kept(*shared, windows.shape) if shared else None
        if states is None:
            states = model.states(windows, batch_size)
            if shared:
                model.keep(states, *shared)
                kept = model.kept(*shared, windows.shape)
                states = states if kept is None else kept
        return lambda batch, ids: model.logits(ids, states[batch])
    except NotByBlocks as reason:
        logging.getLogger(__name__).info("%s is loaded whole: %s", folder, reason)
    whole = load(folder, dtype, windows, device)
    return lambda batch, ids: whole(input_ids=ids, use_cache=False).logits


def load(folder: Path, dtype: str, windows: np.ndarray, device: str) -> torch.nn.Module:
    """A model on its device, in half precision with a head in float32."""
    model = load_dense(folder, dtype).to(device)
    if dtype != FULL and len(windows):
        heads.use_float32(model, torch.from_numpy(windows[:1, :PROBE].astype(np.int64)).to(device))
    return model


def measure(
    model: Predictor, baseline: Predictor | None, windows: np.ndarray, rows: torch.Tensor, device: str
) -> list[np.ndarray]:
    """nll, kl and agree of adjacent windows, as `compare` gives them; only nll without a baseline.

    Args:
        windows: all windows [n, window].
        rows: numbers of those that are measured.
    """
    batch = slice(int(rows[0]), int(rows[-1]) + 1)
    ids = torch.from_numpy(windows[batch].astype(np.int64)).to(device)
    logits = model(batch, ids)
    return compare(logits, baseline(batch, ids) if baseline is not None else None, ids)


def compare(logits: torch.Tensor, reference: torch.Tensor | None, ids: torch.Tensor) -> list[np.ndarray]:
    """nll, kl and agree of one batch, each [n, window - 1]; only nll without a reference.

    Done for a few rows of logits at a time, so that they stay in the processor's cache.

    Args:
        logits, reference: of the model and of the baseline, [n, window, vocabulary], float32.
        ids: the windows, [n, window].
    """
    rows = max(1, CHUNK[logits.device.type] // logits.shape[-1])
    target = ids.roll(-1, dims=1)  # what each position predicts; the last one predicts nothing and is dropped below
    tensors = [tensor.flatten(0, 1).split(rows) for tensor in (target, logits, reference) if tensor is not None]
    columns = zip(*(compare_rows(*part) for part in zip(*tensors, strict=True)), strict=True)
    return [torch.cat(column).view(ids.shape)[:, :-1].cpu().numpy() for column in columns]


def compare_rows(
    target: torch.Tensor, logits: torch.Tensor, reference: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """nll, kl, agree of rows of logits [rows, vocabulary]; only nll without a reference."""
    logits, target = logits.float(), target[:, None]
    nll = -torch.log_softmax(logits, dim=-1).gather(-1, target).squeeze(-1)
    if reference is None:
        return (nll,)
    reference = reference.float()
    log_total = logits.gather(-1, target).squeeze(-1) + nll
    return nll, divergence(reference, logits, log_total), most_likely(reference) == most_likely(logits)


def divergence(reference: torch.Tensor, logits: torch.Tensor, log_total: torch.Tensor) -> torch.Tensor:
    """KL(softmax(reference) || softmax(logits)) over the last dimension, nats; `log_total` is logits' logsumexp.

    sum_v p_v (r_v - z_v) - logsumexp(r) + logsumexp(z), with p = softmax(r) and logsumexp(r) = max r - ln max p, which
    costs a tenth of torch.logsumexp.
    """
    probabilities = torch.softmax(reference, dim=-1)
    mean_gap = torch.linalg.vecdot(probabilities, reference - logits)
    return mean_gap - (reference.amax(-1) - probabilities.amax(-1).log()) + log_total


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """Index of the largest value of each row, the first of equal ones; on a CPU NumPy finds it ten times as fast."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def by_segment(parts: polars.DataFrame, nll: np.ndarray, kl: np.ndarray, agree: np.ndarray) -> polars.DataFrame:
    """Sums over the segments of windows: one row a (window, document), as SCHEMA.

    Args:
        parts: window, document, first, last (positions in the window, half open), from `windows.segments`, and bytes.
        nll, kl, agree: per-token values [n, window - 1]; column i belongs to position i + 1.
    """
    rows = parts["window"].to_numpy()
    first, last = parts["first"].to_numpy() - 1, parts["last"].to_numpy() - 1

    def sums(values: np.ndarray) -> np.ndarray:
        running = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1, dtype=np.float64)], axis=1)
        return running[rows, last] - running[rows, first]

    columns = {"tokens": last - first, "nll": sums(nll), "kl": sums(kl), "agree": sums(agree).astype(np.int32)}
    return parts.select("window", "document", "bytes").with_columns(**columns).cast(SCHEMA).select(*SCHEMA)


def refusal(nll: np.ndarray, vocabulary: int) -> str | None:
    """Why these losses cannot be used, or None.

    A mean loss that is not finite, or above three times that of guessing (ln of the vocabulary), is a broken model.
    """
    if not np.isfinite(nll).all():
        return f"the loss is not finite for {np.count_nonzero(~np.isfinite(nll))} of {nll.size} tokens"
    if nll.mean() > 3 * np.log(vocabulary):
        guessing = np.log(vocabulary)
        return f"the loss is {nll.mean():.1f} nats a token, far above guessing ({guessing:.1f}): the model is broken"
    return None


def shared_states(snakemake, device: str) -> Shared | None:
    """Where the baseline's hidden states are or will be; None where no other cell needs them.

    Their key holds all that decides them. What a killed run, or another version, left is taken only if it is the same.
    """
    if not snakemake.params.hidden:
        return None
    files = {"tokens": snakemake.input.validation[0]}
    files["checkpoint"] = snakemake.input.get("baseline_manifest") or snakemake.input.manifest
    key = {name: manifests.sha256(path) for name, path in files.items()} | {"device": device}
    for name in ("window", "windows", "batch_size", "dtype", "threads", "code"):
        key[name] = snakemake.params[name]
    return Shared(Path(snakemake.params.hidden), json.dumps(key | manifests.versions(("torch", "transformers"))))


def main(snakemake) -> None:
    """Evaluate one cell as the rule asks and write its parquet; a cell that is or was refused has an empty one.

    Raises:
        ValueError: a model's own code is not as it was pinned.
    """
    params, cell = snakemake.params, manifests.read(snakemake.input.manifest)
    torch.set_num_threads(params.threads)
    device = pick_device(params.device)
    reason = cell.get("reason")
    table = polars.DataFrame(schema=SCHEMA)
    if cell["status"] == "ok":
        tokens_manifest, tokens, documents = snakemake.input.validation
        baseline = Path(snakemake.input.baseline) if snakemake.input.get("baseline") else None
        model = Path(snakemake.input.weights)
        for folder in filter(None, (model, baseline)):
            own_code.is_trusted(folder)
        settings = (params.batch_size, params.dtype, device, shared_states(snakemake, device))
        try:
            windows = load_windows(tokens, params.window, None if params.windows == "all" else params.windows)
            with refusing("transformers"):
                require_fit(model, params.window)
                results = evaluate_loss(model, baseline, windows, *settings)
            reason = refusal(results[0], manifests.read(tokens_manifest)["vocabulary"])
            if reason is None:
                with refusing("the tokenizer"):
                    sizes = token_sizes(load_tokenizer(snakemake.input.tokenizer))
                parts = segments(documents, params.window, len(windows))
                text = polars.Series("bytes", segment_bytes(parts, params.window, tokens, documents, sizes))
                table = by_segment(parts.with_columns(text), *results)
        except Refused as refused:
            reason = str(refused)
    names = ("trajectory", "checkpoint", "method", "corpus")
    metadata = {name: snakemake.wildcards.get(name, "none") for name in names} | {
        "status": "refused" if reason else "ok",
        "reason": reason or "",
        "dtype": params.dtype,
        "device": device,
        "threads": str(params.threads),
        "window": str(params.window),
        "revision": cell.get("revision", ""),
    }
    table.write_parquet(snakemake.output[0], metadata=metadata)


if __name__ == "__main__":
    open_log(snakemake.log[0], f"evaluate_loss {Path(snakemake.output[0]).parent} {snakemake.wildcards.corpus}")
    main(snakemake)
