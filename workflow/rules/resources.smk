# What the jobs of each rule ask a cluster for; how much is worked out in scripts/lib/cluster/requests.py.

from scripts.lib.cluster import requests
from scripts.lib.cluster.cluster_site import gpu_request, load_site

try:
    SITE = load_site()
except ConfigError as error:
    raise WorkflowError(str(error)) from None

NEEDS = {name: requests.needs(PLAN, name) for name in PLAN.trajectories}


def asks_for(gpus):
    """GPUs for a job that uses so many, if the study says so: of a cluster, or of this machine."""
    asked = gpu_request(SITE, gpus) if DEVICE == "cuda" else {}
    return asked | ({local_gpus.RESOURCE: gpus} if USES_LOCAL_GPU else {})


def asks(rule, gpus=0):
    """Memory and run time of a rule's jobs, which double with each attempt, up to what the site allows; and GPUs."""

    def need(wildcards, attempt):
        return NEEDS[wildcards.get("trajectory", next(iter(NEEDS)))][rule].at(attempt)

    def memory(wildcards, attempt):
        return min(need(wildcards, attempt).memory, SITE.get("max_memory", sys.maxsize))

    def minutes(wildcards, attempt):
        return min(need(wildcards, attempt).minutes, SITE.get("max_minutes", sys.maxsize))

    return {"mem_mb": memory, "runtime": minutes} | (asks_for(gpus) if gpus else {})
