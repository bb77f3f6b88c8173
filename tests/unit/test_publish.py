"""publish: a model folder becomes a checkpoint without a second copy of its weights."""

import pytest

from scripts.lib.models.loading import load_dense
from scripts.lib.runtime import manifests
from scripts.publish import publish, publish_kept

IDENTITY = {"trajectory": "run", "checkpoint": "step-10", "source": "train"}


def test_publish_links_and_describes(tiny_model, tmp_path):
    manifest = publish(tiny_model, tmp_path / "model", IDENTITY)
    assert (tmp_path / "model" / "model.safetensors").samefile(tiny_model / "model.safetensors")
    assert IDENTITY.items() <= manifest.items()
    assert manifest["status"] == "ok"
    assert manifest["dtype"] == "float32"
    assert manifest["parameters"] == sum(p.numel() for p in load_dense(tmp_path / "model").parameters())
    assert manifest["revision"] == publish(tiny_model, tmp_path / "again", IDENTITY)["revision"]


def test_a_broken_folder_is_not_published(tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        publish(tmp_path / "source", tmp_path / "model", IDENTITY)
    assert not (tmp_path / "model").exists()


def test_a_step_that_a_diverged_run_did_not_reach_is_refused(tiny_model, tmp_path):
    run = tmp_path / "from-0"
    manifests.link_tree(tiny_model, run / "step-5")
    manifests.write(run / "refused.json", {"step": 7, "reason": "training diverged"})
    refused = publish_kept(run, tmp_path / "model", IDENTITY)
    assert (refused["status"], refused["reason"], refused["revision"]) == ("refused", "training diverged", "")
    assert list((tmp_path / "model").iterdir()) == []
    assert publish_kept(run, tmp_path / "kept", IDENTITY | {"checkpoint": "step-5"})["status"] == "ok"
