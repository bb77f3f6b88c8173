"""lineage: what shapes a link's weights, and only that."""

from scripts.lib.runtime import manifests
from scripts.lineage import lineage


def test_it_holds_the_run_its_tokens_and_its_parents(tmp_path):
    manifests.write(tmp_path / "tokens.json", {"sha256": "abc", "documents": 5})
    manifests.write(tmp_path / "parent.json", {"start": 0})
    content = lineage({"seed": 1}, 100, 2, tmp_path / "tokens.json", tmp_path / "parent.json")
    assert content == {
        "kind": "lineage",
        "start": 100,
        "run": {"seed": 1},
        "threads": 2,
        "tokens": "abc",
        "parent": {"start": 0},
    }
    assert lineage({"seed": 1}, 0, 1, tmp_path / "tokens.json", None)["parent"] is None
