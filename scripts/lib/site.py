"""What is special about one cluster: a short file that users edit, or keep elsewhere and name in TRAJQUANT_SITE.

The Slurm profile turns it into Snakemake's options; rules use it for the form in which they ask for a GPU.
"""

import os
import shutil
import subprocess
from pathlib import Path

import yaml

from scripts.lib.config import ConfigError, validate

DEFAULT = "workflow/profiles/slurm/site.yaml"
VARIABLE = "TRAJQUANT_SITE"


def site_file() -> Path:
    return Path(os.environ.get(VARIABLE, DEFAULT))


def load_site() -> dict:
    """The site's settings, checked; empty if the file says nothing.

    Raises:
        ConfigError: TRAJQUANT_SITE names no file, or the file is not YAML or has an unknown key or value.
    """
    path = site_file()
    if not path.is_file():
        raise ConfigError(f"the site file {path} does not exist; correct {VARIABLE}, or unset it to use {DEFAULT}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    validate(content, "site", str(path))
    return content


def squeue_alone() -> None:
    """Keep the Slurm plugin from turning to sacct where there is no accounting.

    While the controller does not answer, the plugin (2.8.0) takes sacct for all of its attempts. Without accounting
    sacct never answers, and after the last attempt the plugin forgets its jobs and waits for ever.
    """
    if not shutil.which("sacct") or subprocess.run(["sacct"], capture_output=True, check=False).returncode == 0:
        return
    import snakemake_executor_plugin_slurm as plugin

    available = plugin.is_query_tool_available

    def is_query_tool_available(name: str) -> bool:
        return name != "sacct" and available(name)

    plugin.is_query_tool_available = is_query_tool_available


def gpu_request(site: dict) -> dict:
    """Snakemake resources that ask for one GPU in the form that a cluster takes: --gpus=1, or --gres=gpu:1.

    In the latter form the plugin must not add tasks a GPU, which `sbatch` takes together with --gpus only.
    """
    kind = site.get("gpu_type")
    partition = {"slurm_partition": site["gpu_partition"]} if "gpu_partition" in site else {}
    if site.get("gpu_request", "gpus") == "gres":
        return {"gres": f"gpu:{kind}:1" if kind else "gpu:1", "tasks_per_gpu": 0} | partition
    return {"gpu": 1} | ({"gpu_model": kind} if kind else {}) | partition
