"""gather_datasets: what stands for a suite's data changes when one of them does."""

from scripts.gather_datasets import gather_datasets
from scripts.lib.runtime import manifests


def gathered(folder, prompts: str, **hashes: str) -> bytes:
    """The suite's file for data sets with these hashes."""
    paths = [folder / f"{name}.json" for name in hashes]
    for path, (name, sha256) in zip(paths, hashes.items(), strict=True):
        manifests.write(path, {"kind": "dataset", "status": "ok", "repo": name, "sha256": sha256})
    gather_datasets(paths, prompts, folder / "suite.json")
    return (folder / "suite.json").read_bytes()


def test_the_file_changes_with_data_and_with_prompts(tmp_path):
    first = gathered(tmp_path / "one", "c0ffee", a="11", b="22")
    assert gathered(tmp_path / "two", "c0ffee", a="11", b="22") == first
    assert gathered(tmp_path / "two", "c0ffee", a="11", b="33") != first
    assert gathered(tmp_path / "two", "c0ffee", a="11") != first
    assert gathered(tmp_path / "two", "decaf", a="11", b="22") != first
