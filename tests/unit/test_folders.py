"""Checking model folders from headers: whole ones pass, each kind of damage is named."""

import json
import shutil
import struct

import pytest
from safetensors.torch import load_file

from scripts.lib.models import folders
from scripts.lib.models.folders import count_parameters, validate_model_folder


@pytest.fixture
def folder(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def test_a_whole_folder_passes(folder):
    assert validate_model_folder(folder)["num_hidden_layers"] == 2
    weights = load_file(folder / "model.safetensors")
    assert count_parameters(folder) == sum(tensor.numel() for tensor in weights.values())


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        validate_model_folder(folder)


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        validate_model_folder(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        validate_model_folder(folder)


def test_a_missing_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors is missing"):
        validate_model_folder(folder)


def test_weights_in_too_many_files(folder, monkeypatch):
    names = [f"model-{number}.safetensors" for number in range(3)]
    for name in names:
        (folder / name).write_bytes(struct.pack("<Q", 2) + b"{}")
    where = dict(zip("abc", names, strict=True)) | {"d": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    monkeypatch.setattr(folders, "MOST_FILES", 4)
    validate_model_folder(folder)
    monkeypatch.setattr(folders, "MOST_FILES", 3)
    with pytest.raises(ValueError, match="has weights in 4 files; 3 are read at most"):
        validate_model_folder(folder)


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        validate_model_folder(tmp_path / "nowhere")
