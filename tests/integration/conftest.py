"""The smoke study, run once for real; tests that change something work in a copy of the finished tree."""

import shutil

import pytest

from tests.tools import copy_tree, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A tree in which the smoke study has been run to its report; not to be changed."""
    tree = copy_tree(tmp_path_factory.mktemp("smoke") / "tree")
    snakemake(tree, "smoke")
    return tree


@pytest.fixture
def tree(finished, tmp_path):
    """A copy of the finished tree that a test may change; times are kept, as they are on a user's disk."""
    return shutil.copytree(finished, tmp_path / "tree", symlinks=True)
