"""autogptq: GPTQ by auto-gptq 0.7.1 itself, the archived predecessor of GPTQModel, in an environment of its own.

It needs transformers 4, so it runs as a process of `.venv-auto-gptq` (`make auto-gptq`); it quantizes with CUDA only.
Files of the `gptq` format that are made here are read there, which tests/integration/test_auto_gptq.py checks.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import quantization_of
from scripts.lib.models.packed import read_layers
from scripts.lib.runtime.shortages import Refused
from scripts.quantizers import Quantized, autogptq_worker
from scripts.quantizers.tools import require, run_program

ABOUT = {
    "built": {"file": ".venv-auto-gptq/done", "target": "auto-gptq"},
    "own_code": "auto-gptq is run with transformers 4, for which a repository's own code was not pinned",
    "stored": "packed",
    "algorithms": {
        "gptq": {
            "title": "GPTQ",
            "description": "GPTQ by auto-gptq 0.7.1 in its own environment; quantizes with CUDA only.",
            "settings": {
                "bits": {"enum": [2, 3, 4, 8], "description": "Bits a weight."},
                "group_size": "group_size",
                "symmetric": "symmetric",
                "damping": "damping",
                "desc_act": "desc_act",
                "calibration": "calibration",
            },
            "passes": 8,  # Hessians, inverses and column updates: 4 to 7
        },
    },
}


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray, device: str) -> Quantized:
    """Quantize with auto-gptq's GPTQ, in its own process, which also runs what it made; `save` copies the files.

    Raises:
        Refused: no CUDA device is used, or its environment is not built.
    """
    if device != "cuda":
        raise Refused("auto-gptq quantizes with CUDA only, and this job has no CUDA device")
    scratch = tempfile.TemporaryDirectory()
    folder = Path(scratch.name)
    source, made = older_reader(model_folder, folder / "source"), folder / "model"
    np.save(folder / "calibration.npy", calibration)
    request = {"do": "quantize", "source": str(source), "recipe": recipe, "out": str(made), "device": device}
    ask(request | {"calibration": str(folder / "calibration.npy")})

    def losses(windows: np.ndarray) -> np.ndarray:
        np.save(folder / "windows.npy", windows)
        output = {"windows": str(folder / "windows.npy"), "out": str(folder / "losses.npy")}
        ask({"do": "losses", "folder": str(made), "device": device} | output)
        return np.load(folder / "losses.npy")

    def save(out: Path) -> None:
        for file in made.iterdir():
            shutil.copy2(file, out / file.name)
        scratch.cleanup()

    return Quantized(
        model=None,
        weights=lambda: read_layers(made, quantization_of(made)),
        save=save,
        format="gptq",
        grid=Grid(recipe["bits"], recipe["group_size"], recipe["symmetric"]),
        losses=losses,
    )


def older_reader(model_folder: Path, out: Path) -> Path:
    """A model folder as transformers 4 reads it: links to its files, and the rotary base where that looks for it."""
    out.mkdir()
    for file in model_folder.iterdir():
        if file.name != "config.json":
            (out / file.name).symlink_to(file.resolve())
    config = json.loads((model_folder / "config.json").read_text())
    config |= {"rope_theta": theta} if (theta := (config.get("rope_parameters") or {}).get("rope_theta")) else {}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    return out


def ask(*requests: dict) -> None:
    """Have something done in auto-gptq's environment: functions of autogptq_worker.py (`do`) and their arguments.

    Raises:
        Refused: the environment is not built.
        RuntimeError: auto-gptq failed.
        ChildProcessError: it was killed.
    """
    python = require("autogptq").parent / "bin/python"
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(requests, file)
        file.flush()
        run_program([python, "-m", autogptq_worker.__name__, file.name], "auto-gptq")
