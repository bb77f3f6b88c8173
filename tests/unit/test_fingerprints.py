"""Imports: a stage's files are found through imports of every kind, and logging is left out."""

import pytest

from scripts.lib.runtime.fingerprints import closure, imported


def test_real_stages():
    assert "scripts/lib/models/loading.py" in closure("quantize")
    assert "scripts/quantizers/__init__.py" in closure("quantizers/rtn")
    assert "scripts/lib/models/folders.py" in closure("average"), "through publish"
    assert "scripts/lib/runtime/logs.py" not in closure("train")


@pytest.mark.parametrize(
    "line",
    [
        "import scripts.lib.a",
        "from scripts.lib import a",
        "from scripts.lib.a import f",
        "def f():\n    import scripts.lib.a",
    ],
)
def test_every_way_to_import(tmp_path, monkeypatch, line):
    (tmp_path / "scripts/lib").mkdir(parents=True)
    (tmp_path / "scripts/lib/a.py").write_text("import os\n")
    (tmp_path / "scripts/stage.py").write_text(line)
    monkeypatch.chdir(tmp_path)
    imported.cache_clear()
    assert closure("stage") == ["scripts/lib/a.py", "scripts/stage.py"]
    imported.cache_clear()
