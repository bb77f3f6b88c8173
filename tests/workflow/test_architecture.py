"""The picture in scripts/README.md is that of the imports, whose directions pyproject.toml holds."""

import re

from tests.tools import ROOT
from tests.workflow.architecture import ROOMS, imports, picture


def test_the_picture_is_that_of_the_imports():
    shown = re.search(r"```mermaid\n(.*?)\n```", (ROOT / "scripts/README.md").read_text(), re.DOTALL)[1]
    assert shown == picture(), "run `python -m tests.workflow.architecture` and put its output into scripts/README.md"


def test_no_room_imports_one_that_imports_it():
    pairs = imports()
    assert not {(one, other) for one, other in pairs if (other, one) in pairs}
    assert {one for one, _ in pairs} | {other for _, other in pairs} >= set(ROOMS)
