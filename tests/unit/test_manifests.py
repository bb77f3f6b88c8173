"""Manifests: hashes follow content alone, and nothing half written is ever taken for a result."""

import os

import pytest

from scripts.lib.runtime import manifests


def test_hashes_follow_content_not_time(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "config.json").write_text("{}")
    os.utime(tmp_path / "a" / "model.safetensors", (0, 0))
    first, second = (manifests.describe_files(tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert manifests.weights_hash(first) == manifests.weights_hash(second)
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert manifests.weights_hash(manifests.describe_files(tmp_path / "b")) == manifests.weights_hash(first)
    (tmp_path / "b" / "model.safetensors").write_bytes(b"other")
    assert manifests.weights_hash(manifests.describe_files(tmp_path / "b")) != manifests.weights_hash(first)


def test_write_and_read(tmp_path):
    manifests.write(tmp_path / "deep" / "manifest.json", {"a": 1})
    assert manifests.read(tmp_path / "deep" / "manifest.json") == {"a": 1}
    (tmp_path / "broken.json").write_text('{"a":')
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON"):
        manifests.read(tmp_path / "broken.json")


def test_a_staged_folder_is_whole_or_absent(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), manifests.staged_folder(target) as scratch:
        (scratch / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.tmp").mkdir()  # left by a killed job
    (tmp_path / ".out.tmp" / "stale").touch()
    with manifests.staged_folder(target) as scratch:
        (scratch / "whole").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_linked_tree_shares_its_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / ".snakemake_timestamp").touch()
    manifests.link_tree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").samefile(tmp_path / "a" / "file")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["file"]
