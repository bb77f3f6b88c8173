"""Suite paper12 in a study: planned without a network, its data fetched once for all cells."""

import pytest

from tests.tools import copy_tree, edit, planned


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A fresh tree whose smoke study asks for suite paper12, and no hub anywhere."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    tree = copy_tree(tmp_path / "tree")
    edit(tree / "config/studies/smoke.yaml", ask_for_paper12)
    return tree


def ask_for_paper12(study):
    for block in study["study"]["cells"]:
        block["tasks"] = ["paper12"]


def test_every_split_is_fetched_once(tree):
    jobs = planned(tree, "smoke")
    assert (jobs["fetch_dataset"], jobs["gather_datasets"]) == (2 * (11 + 57), 1)
    assert jobs["evaluate_tasks"] > 1
    assert "task_documents" not in jobs
    jobs = planned(tree, "smoke", "all_prefetched")
    assert jobs.keys() == {"corpus", "fetch_dataset", "gather_datasets", "all_prefetched"}
    target = "resources/datasets/allenai--sciq/default/test/0000.parquet"
    assert planned(tree, "smoke", target) == {"fetch_dataset": 1}
