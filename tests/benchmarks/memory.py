"""Memory of one stage, in a process of its own: `measures.memory_of_stages` starts it."""

import json
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from scripts.evaluate_loss import evaluate_loss
from scripts.lib.models.loading import load_dense
from scripts.quantize import quantize
from tests.benchmarks.measures import Peaks, anonymous_bytes, random_windows

WINDOWS = random_windows(4)


def quantize_model(folder: Path, dtype: str, out: Path) -> None:
    """The stage `quantize` with round-to-nearest."""
    recipe = yaml.safe_load(Path("config/recipes/rtn-w3-g32.yaml").read_text())
    result = quantize(folder, recipe, None, WINDOWS, out / "model", out / "layers.parquet", dtype)
    if result["status"] != "ok":
        raise RuntimeError(result["reason"])


def loss_of_model(folder: Path, dtype: str, out: Path) -> None:
    """The stage `evaluate_loss`, of a quantized model and its baseline."""
    evaluate_loss(out / "model", folder, WINDOWS, 2, dtype, "cpu")


def load_for_tasks(folder: Path, dtype: str, out: Path) -> None:
    """What the stage `evaluate_tasks` does first, and a forward pass."""
    with torch.inference_mode():
        load_dense(out / "model", dtype)(input_ids=torch.from_numpy(WINDOWS[:2].astype("int64")), use_cache=False)


PARTS = {"quantize": quantize_model, "loss": loss_of_model, "tasks": load_for_tasks}


def main() -> None:
    """Run a part on a tiny model and then on the one asked for, and print what that took."""
    part, folder, dtype, warm, place = sys.argv[1:]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if part != "quantize":
            quantize_model(Path(warm), dtype, Path(scratch))
        PARTS[part](Path(warm), dtype, Path(scratch))
    base = anonymous_bytes()
    with Peaks() as peaks:
        PARTS[part](Path(folder), dtype, Path(place))
    found = {part: peaks.own - base} | ({"gate": peaks.children - base} if part == "quantize" else {})
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main()
