"""What is special about one cluster: a short file that users edit, or keep elsewhere and name in TRAJQUANT_SITE.

The Slurm profile turns it into Snakemake's options; rules use it for the form in which they ask for a GPU.
"""

import os
from pathlib import Path

import yaml

from scripts.lib.runtime.config_files import ConfigError, validate

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
    if "$" in os.path.expandvars(content.get("scratch", "")):
        raise ConfigError(f"{path}: `scratch` may hold variables of the login node only, not {content['scratch']}")
    return content


def gpu_request(site: dict, number: int = 1) -> dict:
    """Snakemake resources that ask for GPUs in the form that a cluster takes, --gpus=1 or --gres=gpu:1; CPUs beside."""
    kind = site.get("gpu_type")
    beside = {"slurm_partition": site["gpu_partition"]} if "gpu_partition" in site else {}
    beside |= {"cpus_per_gpu": site["cpus_per_gpu"]} if "cpus_per_gpu" in site else {}
    if site.get("gpu_request", "gpus") == "gres":
        return {"gres": f"gpu:{kind}:{number}" if kind else f"gpu:{number}"} | beside
    return {"gpu": number} | ({"gpu_model": kind} if kind else {}) | beside
