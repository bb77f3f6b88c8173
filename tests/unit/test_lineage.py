"""lineage: what shapes a link's weights, and only that."""

from scripts.lib.runtime import manifests
from scripts.lineage import lineage


def test_it_changes_with_all_that_shapes_weights_and_with_nothing_else(tmp_path):
    manifests.write(tmp_path / "tokens.json", {"sha256": "abc", "documents": 5})
    manifests.write(tmp_path / "again.json", {"sha256": "abc", "documents": 5, "seconds": 3})
    manifests.write(tmp_path / "other.json", {"sha256": "def", "documents": 5})
    manifests.write(tmp_path / "parent.json", lineage({"seed": 1}, 0, 1, 1, tmp_path / "tokens.json", None))
    usual = {"run": {"seed": 1}, "start": 100, "threads": 1, "processes": 1}
    usual |= {"tokens": tmp_path / "tokens.json", "parent": None}
    first = lineage(*usual.values())
    assert lineage(*(usual | {"tokens": tmp_path / "again.json"}).values()) == first
    for change in (
        {"run": {"seed": 2}},
        {"start": 200},
        {"threads": 2},
        {"processes": 2},
        {"tokens": tmp_path / "other.json"},
        {"parent": tmp_path / "parent.json"},
    ):
        assert lineage(*(usual | change).values()) != first, change
