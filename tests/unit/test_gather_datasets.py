"""gather_datasets: what stands for a suite's data changes when one of them does."""

from scripts.gather_datasets import gather_datasets
from scripts.lib.runtime import manifests


def test_all_files_are_listed_in_order(tmp_path):
    for name in ("b", "a"):
        manifests.write(
            tmp_path / f"{name}.json", {"kind": "dataset", "status": "ok", "repo": name, "sha256": name * 4}
        )
    gather_datasets([tmp_path / "b.json", tmp_path / "a.json"], "c0ffee", tmp_path / "suite.json")
    made = manifests.read(tmp_path / "suite.json")
    assert made["prompts"] == "c0ffee"
    assert made["files"] == [{"repo": "b", "sha256": "bbbb"}, {"repo": "a", "sha256": "aaaa"}]
