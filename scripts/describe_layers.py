"""describe_layers: what the weights and inputs of each layer of a checkpoint look like before quantization."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars
import torch

from scripts.lib.checks.layer_statistics import COLUMNS, Inputs, describe_weight
from scripts.lib.models import own_code
from scripts.lib.models.blockwise import FULL, Blockwise, NotByBlocks
from scripts.lib.models.loading import require_fit
from scripts.lib.runtime import manifests
from scripts.lib.runtime.devices import pick_device
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.shortages import Refused, refusing
from scripts.slice import chosen_windows

SCHEMA = {"layer": polars.String, **dict.fromkeys(COLUMNS, polars.Float64)}


def described(folder: Path, windows: np.ndarray, batch_size: int, device: str) -> Iterator[dict]:
    """A row a linear layer of the decoder blocks, block by block, as SCHEMA.

    Args:
        folder: the checkpoint's model.
        windows: token ids [n, window], whose hidden states are its layers' inputs.
        batch_size: windows a forward pass.

    Raises:
        Refused: the model cannot be run block by block.
    """
    try:
        model = Blockwise(folder, FULL, device, exact_head=False)
        passing = model.begin(windows, batch_size)
        for number, name in enumerate(model.names):
            layers = {
                f"{name}.{inner}": layer
                for inner, layer in model.read(number).named_modules()
                if f"{name}.{inner}" in model.linears
            }
            rows = {layer: {"layer": layer} | describe_weight(module.weight) for layer, module in layers.items()}
            inputs = {layer: Inputs(module.in_features, module.weight.device) for layer, module in layers.items()}
            hooks = [module.register_forward_hook(inputs[layer].add) for layer, module in layers.items()]
            model.run(number, passing)
            for hook in hooks:
                hook.remove()
            yield from (row | inputs[layer].describe() for layer, row in rows.items())
    except NotByBlocks as whole:
        raise Refused(f"this model cannot be run block by block: {whole}") from None


def main(snakemake) -> None:
    """Describe one checkpoint as the rule asks and write its parquet; one that is or was refused has an empty one.

    Raises:
        ValueError: a model's own code is not as it was pinned.
    """
    params, point = snakemake.params, manifests.read(snakemake.input.manifest)
    torch.set_num_threads(params.threads)
    device, reason = pick_device(params.device), point.get("reason")
    table = polars.DataFrame(schema=SCHEMA)
    if point["status"] == "ok":
        folder = Path(snakemake.input.weights)
        own_code.is_trusted(folder)
        try:
            windows, chosen = chosen_windows(snakemake.input.validation[1], params)
            with refusing("transformers"):
                require_fit(folder, params.window)
                rows = described(folder, windows[chosen], params.batch_size, device)
                table = polars.DataFrame(list(rows), SCHEMA)
        except Refused as refused:
            reason = str(refused)
    metadata = {name: snakemake.wildcards[name] for name in ("trajectory", "checkpoint", "corpus")} | {
        "status": "refused" if reason else "ok",
        "reason": reason or "",
        "windows": str(params.windows),
        "device": device,
        "threads": str(params.threads),
        "revision": point.get("revision", ""),
    }
    table.write_parquet(snakemake.output[0], metadata=metadata)


if __name__ == "__main__":
    open_log(snakemake.log[0], f"describe_layers {Path(snakemake.output[0]).parent} {snakemake.wildcards.corpus}")
    main(snakemake)
