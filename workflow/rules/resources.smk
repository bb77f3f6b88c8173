# What the jobs of each rule ask a cluster for; how much is worked out in scripts/lib/resources.py.

from scripts.lib.resources import needs
from scripts.lib.site import gpu_request, load_site

try:
    SITE = load_site()
except ConfigError as error:
    raise WorkflowError(str(error)) from None

NEEDS = needs(PLAN)
GPU = gpu_request(SITE) if DEVICE == "cuda" else {}


def asks(rule):
    """Memory and run time of a rule's jobs; both double with each attempt."""

    def memory(wildcards, attempt):
        return NEEDS[rule].at(attempt).memory

    def minutes(wildcards, attempt):
        return NEEDS[rule].at(attempt).minutes

    return {"mem_mb": memory, "runtime": minutes}
