"""make audit-kernels STUDY=X: every packed model of a study run by its library's own kernels, against dense weights.

Evaluations use dense weights, so that kernels do not enter the comparison of methods. Deployed models run on kernels;
this says what those add, or that they are broken.
"""

import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForCausalLM

from scripts.lib.data.windows import draw_windows
from scripts.lib.models import own_code
from scripts.lib.models.forward import window_losses
from scripts.lib.models.loading import load_dense
from scripts.lib.runtime import manifests
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.runtime.logs import Progress
from scripts.lib.study.plan import BASELINE, Plan, load_plan

SCHEMA = {
    **dict.fromkeys(("trajectory", "checkpoint", "method", "format"), pl.String),
    **dict.fromkeys(("dense", "kernels", "difference"), pl.Float64),
    "problem": pl.String,
}


def audit(plan: Plan) -> pl.DataFrame:
    """Losses of every packed model of a study on the probe, in float32, nats a token: by dense weights and by kernels.

    Returns:
        One row a cell: trajectory, checkpoint, method, format, dense, kernels, difference (kernels - dense) and, where
        the library does not run the model, the problem.

    Raises:
        FileNotFoundError: a cell is not quantized, or its weights were deleted; the message names its file.
    """
    cells, rows = [cell for cell in plan.cells if cell.method != BASELINE], []
    progress = Progress(len(cells), "models")
    for done, cell in enumerate(cells, start=1):
        place = Path(plan.paths.quantized(*cell.names))
        manifest = manifests.read(place / "manifest.json")
        if manifest["status"] == "ok" and manifest["format"] != "dense":
            probe = plan.config["quantize"]["probe"]
            tokens = plan.paths.tokens(plan.tokenizer(cell.trajectory), probe["corpus"], "calibration")
            windows = draw_windows(Path(f"{tokens}.npy"), probe)
            names = {"trajectory": cell.trajectory, "checkpoint": cell.checkpoint, "method": cell.method}
            rows.append(names | {"format": manifest["format"]} | compare(place / "model", windows))
        progress.update(done)
    return pl.DataFrame(rows, schema=SCHEMA)


def compare(folder: Path, windows: np.ndarray) -> dict:
    """Mean loss of token windows [n, window] by dense weights and by the kernels that transformers loads."""
    dense = None
    try:
        dense = float(window_losses(load_dense(folder), windows).mean())
        kernels = float(window_losses(load_kernels(folder), windows).mean())
    except Exception as error:  # one library's failure, of whatever kind, is this row's result and not the audit's end
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"dense": dense, "kernels": None, "difference": None, "problem": problem}
    return {"dense": dense, "kernels": kernels, "difference": kernels - dense, "problem": None}


def load_kernels(folder: Path) -> torch.nn.Module:
    """A packed model as transformers loads it for use, in float32 on the CPU."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # read when GPTQModel is imported; it refuses fewer
    place = {"device_map": {"": "cpu"}, "local_files_only": True, "trust_remote_code": own_code.is_trusted(folder)}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **place).eval()


def main() -> None:
    """Audit a study and write results/tables/STUDY/kernels.parquet."""
    try:
        plan = load_plan(*sys.argv[1:])
        torch.set_num_threads(plan.config["compute"]["threads"])
        table = audit(plan)
    except (ConfigError, FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    path = Path(plan.paths.tables(plan.config["study"]["name"]), "kernels.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=60, tbl_width_chars=140):
        print(table.drop("checkpoint"))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
