"""One real cluster for all tests of this folder, installed where it is missing, and the smoke study run on it."""

import pytest

from tests.slurm.cluster import Cluster, install
from tests.slurm.runs import Head, command
from tests.tools import copy_tree


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    install()
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), cores=2)  # two jobs a node hide each other's waiting
    yield cluster.start()
    cluster.stop()


@pytest.fixture
def cluster(slurm, done):
    """The cluster after the smoke study, idle before a test and with an empty queue after it."""
    slurm.wait_until_idle()
    yield slurm
    left = slurm.jobs()
    slurm.cancel_all()
    assert not left, f"orphaned jobs: {left}"


@pytest.fixture(scope="session")
def going(slurm, finished, tmp_path_factory):
    """The smoke study while it runs under Slurm; a second head, and `make recover`, have been tried in its folder."""
    tree = copy_tree(tmp_path_factory.mktemp("study") / "tree")
    head = Head(slurm, tree, "smoke")
    head.running("tokenizer")
    head.second = Head(slurm, tree, "smoke").finish(fails=True)
    head.recovery = command(slurm, tree, "recover")
    yield head
    if head.process.poll() is None:
        head.kill()


@pytest.fixture(scope="session")
def done(going):
    """The smoke study after it has run under Slurm."""
    going.finish(900)
    return going
