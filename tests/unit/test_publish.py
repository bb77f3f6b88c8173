"""publish: a model folder becomes a checkpoint without a second copy of its weights."""

import pytest

from scripts.lib.models.loading import load_dense
from scripts.publish import publish

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
