"""One real cluster for all tests of this folder, installed where it is missing, and a small study run on it.

The study `few` has every kind of job that is submitted, and no more: a part of the study `smoke`, which `finished` ran
on this machine alone.
"""

import pytest
import yaml

from tests.slurm.cluster import Cluster, install
from tests.slurm.runs import Head, command
from tests.tools import copy_tree

CELLS = [
    {"trajectories": ["smoke-cooldown"], "checkpoints": "last", "methods": ["rtn-w3-g32", "nf4"], "loss": ["smoke"]},
    {"trajectories": ["smoke-cooldown"], "checkpoints": "last", "methods": ["nf4"], "tasks": ["smoke"]},
]


def add_few(tree):
    """Write the study `few` into a tree."""
    study = yaml.safe_load((tree / "config/studies/smoke.yaml").read_text())
    study["study"] = {"name": "few", "title": "A part of the smoke study", "cells": CELLS}
    (tree / "config/studies/few.yaml").write_text(yaml.safe_dump(study))
    return tree


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    install()
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), cores=2)  # two jobs a node hide each other's waiting
    yield cluster.start()
    cluster.stop()


@pytest.fixture
def cluster(slurm, done):
    """The cluster after the study `few`, idle before a test and with an empty queue after it."""
    slurm.wait_until_idle()
    yield slurm
    left = slurm.jobs()
    slurm.cancel_all()
    assert not left, f"orphaned jobs: {left}"


@pytest.fixture(scope="session")
def going(slurm, finished, tmp_path_factory):
    """The study `few` while it runs under Slurm; a second head, and `make recover`, have been tried in its folder."""
    tree = add_few(copy_tree(tmp_path_factory.mktemp("study") / "tree"))
    head = Head(slurm, tree, "few", often=True)
    head.running("tokenizer")
    head.second = Head(slurm, tree, "few").finish(fails=True)
    head.recovery = command(slurm, tree, "recover")
    yield head
    if head.process.poll() is None:
        head.kill()


@pytest.fixture(scope="session")
def done(going):
    """The study `few` after it has run under Slurm."""
    going.finish()
    return going
