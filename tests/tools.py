"""Running the workflow in a copy of the tree, as a user would."""

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import polars
import yaml

from scripts.lib.report.contents import FIGURES
from scripts.lib.study.trajectories.families import Families
from scripts.lib.study.trajectories.reading import add_trajectories
from tests import starts

ROOT = Path(__file__).parents[1]
RULES = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
DERIVED = (
    ".git",
    ".venv",
    ".venv-auto-gptq",
    ".llama.cpp",
    ".snakemake",
    "resources",
    "results",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
)
MAKES_TABLES = [rule.split(":")[0] for rule in RULES.split("\nrule ")[1:] if "**table_files(" in rule]
AFTER_CELLS = dict.fromkeys(MAKES_TABLES, 1) | {"plot": len(FIGURES), "report": 1, "all": 1}


def copy_tree(target: Path) -> Path:
    """A copy of the project without what it derives."""
    return Path(shutil.copytree(ROOT, target, symlinks=True, ignore=shutil.ignore_patterns(*DERIVED)))


def command(study: str, *arguments: str) -> list[str]:
    """The command of README.md; arguments (targets, options) stand before --configfile, which takes several values."""
    start = [sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/local", "--cores", "2"]
    return [*start, *arguments, "--configfile", f"config/studies/{study}.yaml"]


def snakemake(tree: Path, study: str, *arguments: str, fails: bool = False) -> str:
    """Run the workflow in a tree and return what it printed; `fails` says whether it is to fail."""
    done = subprocess.run(
        command(study, *arguments), cwd=tree, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout[-5000:]
    return done.stdout


def dry_run(tree: Path, study: str, *arguments: str, fails: bool = False) -> str:
    """What a dry-run of the workflow in a tree prints; `fails` says whether it is to fail."""
    done = starts.dry_run(tree, *command(study, *arguments)[3:])
    assert (done.returncode != 0) == fails, done.stdout[-5000:]
    return done.stdout


def planned(tree: Path, study: str, *arguments: str) -> dict[str, int]:
    """Jobs by rule that a run would do."""
    return job_counts(dry_run(tree, study, *arguments))


def job_counts(output: str) -> dict[str, int]:
    """Jobs by rule in what a dry-run printed."""
    if "Nothing to be done" in output:
        return {}
    table = output.split("Job stats:")[1].strip().splitlines()[2:]
    rows = [re.fullmatch(r"(\w+)\s+(\d+)", line) for line in table[: table.index("")]]
    return {row[1]: int(row[2]) for row in rows if row and row[1] != "total"}


def edit(path: Path, change) -> None:
    """Change a YAML file by a function of its content."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def write_own_run(tree: Path) -> None:
    """A local trajectory `my-run` of four checkpoints, with just what is checked of them before a run."""
    checkpoints = [{"path": f"my-run/step-{step}", "step": step} for step in (6000, 8000, 9000, 10000)]
    schedule = {"name": "cosine", "peak": 3e-4, "warmup": 500, "end": 10000}
    content = {"source": "local", "checkpoints": checkpoints, "tokens_per_step": 524288, "schedule": schedule}
    (tree / "config/trajectories/my-run.yaml").write_text(yaml.safe_dump(content))
    for checkpoint in checkpoints:
        write_model(tree / checkpoint["path"])


def write_model(folder: Path) -> None:
    """The smallest folder that counts as a whole model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def measurements(tree: Path, study: str) -> polars.DataFrame:
    """The measurements of a study on all tokens, without the study's name."""
    table = polars.read_parquet(tree / f"results/tables/{study}/measurements.parquet").drop("study")
    return table.filter(polars.col("subset").is_null())


def add_trajectory(plan, name: str, folder: Path, where: str):
    """Read one trajectory of a folder of trajectory files into a plan."""
    (name,) = add_trajectories(plan, name, Families(folder), where)
    return plan.trajectories[name]
