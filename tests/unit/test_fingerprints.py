"""Fingerprints of meaning: what changes what a stage does changes its fingerprint, and nothing else does."""

from textwrap import dedent

import pytest

from scripts.lib.runtime import fingerprints, statements
from scripts.lib.runtime.fingerprints import SHAPES_NO_NUMBERS, fingerprint

STAGE = "scripts/stage.py"
SHARED = "scripts/lib/shared.py"
CODE = '''
"""Two halves."""
import math
from functools import cache

LIMIT = 5


def used(x):
    """Twice."""
    return helper(x) + LIMIT  # plus


def helper(x):
    return math.floor(x)


@cache
def unused(x):
    return other(x)


def other(x):
    return x
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write files below an empty project and return the fingerprint of `stage`."""
    monkeypatch.chdir(tmp_path)

    def write(files: dict[str, str]) -> dict[str, str]:
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(dedent(text))
        forget()
        return fingerprint("stage")

    yield write
    forget()


def forget():
    for remembered in (fingerprint, fingerprints.locate, statements.parse):
        remembered.cache_clear()


def differ(before: dict, after: dict) -> list[str]:
    """Files whose part in a fingerprint differs, without their endings and folders."""
    paths = sorted(path for path in before | after if before.get(path) != after.get(path))
    return [path.removesuffix(".py").rpartition("/")[2] for path in paths]


def test_real_stages():
    quantize = fingerprint("quantize", "quantizers/rtn")
    assert {"scripts/quantizers/__init__.py", "scripts/quantizers/rtn.py", "scripts/lib/models/loading.py"} <= set(
        quantize
    )
    assert "scripts/lib/models/lean.py" in quantize, "imported for what it does"
    assert "scripts/quantizers/hqq.py" not in quantize
    assert "scripts/quantizers/autogptq_worker.py" in fingerprint("quantize", "quantizers/autogptq"), "a process"
    assert "scripts/lib/models/folders.py" in fingerprint("average"), "through publish"
    assert "scripts/lib/analysis/tracks.py" in fingerprint("report", "../reports/report"), "through the template"
    for name in ("train", "fetch", "corpus"):
        assert not set(SHAPES_NO_NUMBERS) & set(fingerprint(name))


@pytest.mark.parametrize(
    "line",
    [
        "import scripts.lib.shared\nscripts.lib.shared.used(1)",
        "import scripts.lib.shared as s\ns.used(1)",
        "from scripts.lib import shared\nshared.used(1)",
        "from scripts.lib import shared as s\ns.used(1)",
        "from scripts.lib.shared import used\nused(1)",
        "from scripts.lib.shared import used as u\nu(1)",
        "from .lib.shared import used\nused(1)",
        "from . import lib\nlib.shared.used(1)",
        "def f():\n    import scripts.lib.shared\n    scripts.lib.shared.used(1)",
        "def f():\n    from scripts.lib.shared import used as u\n    u(1)",
        "class C:\n    def f(self):\n        from scripts.lib import shared\n        return shared.used",
        "try:\n    from scripts.lib.shared import used\nexcept ImportError:\n    used = None\nused(1)",
        "from scripts.lib.between import used\nused(1)",
        "from scripts.lib.between import again\nagain(1)",
    ],
)
def test_every_way_to_import(project, line):
    between = "from scripts.lib.shared import used\nfrom scripts.lib import shared\nagain = shared.used\n"
    before = project({STAGE: line, SHARED: CODE, "scripts/lib/between.py": between})
    assert differ(before, project({SHARED: CODE.replace("return x", "return -x")})) == [], "the other half"
    assert differ(before, project({SHARED: CODE.replace("math.floor", "math.ceil")})) == ["shared"]


USES = {STAGE: "from scripts.lib.shared import used\nused(1)\n"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Twice.", "Two times."),
        ('    """Twice."""\n', ""),
        ("Two halves", "Two parts"),
        ("# plus", "# and"),
        ("helper(x) + LIMIT", "(helper(x)\n        + LIMIT)"),
        ("\n\n\ndef other", "\n\nCHANGE = 1\n\n\ndef other"),
        ("return other(x)", "return other(x) + LIMIT"),
        ("from functools import cache", "from functools import lru_cache, cache\n\nBOTH = lru_cache, cache"),
    ],
)
def test_what_changes_nothing(project, old, new):
    before = project(USES | {SHARED: CODE})
    assert old in CODE
    assert differ(before, project({SHARED: CODE.replace(old, new)})) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 5", "LIMIT = 6"),
        ("math.floor(x)", "math.floor(x) + 1"),
        ("import math", "import cmath as math"),
        ("def used(x):", "@cache\ndef used(x):"),
        ("LIMIT = 5", "LIMIT = 5\nLIMIT += 1"),
        ("LIMIT = 5", "if math:\n    LIMIT = 5\nelse:\n    LIMIT = 4"),
        ("LIMIT = 5", "try:\n    LIMIT = 5\nexcept ValueError:\n    LIMIT = 4"),
        ("LIMIT = 5", "LIMIT = 5\nmath.floor = None"),
        ("LIMIT = 5", "LIMIT = 5\nprint(1)"),
        ("LIMIT = 5", "LIMIT = 5\nfor name in ():\n    setattr(math, name, None)"),
        ("LIMIT = 5", "LIMIT = 5\nimport readline"),
    ],
)
def test_what_changes_the_used_half(project, old, new):
    before = project(USES | {SHARED: CODE})
    assert old in CODE
    assert differ(before, project({SHARED: CODE.replace(old, new)})) == ["shared"]


@pytest.mark.parametrize(
    "code",
    [
        "READERS = {'a': leaf}\ndef used(x):\n    return READERS['a'](x)",
        "def wrapped(f):\n    return leaf\n@wrapped\ndef used(x):\n    return x",
        "class Base:\n    f = leaf\nclass used(Base):\n    pass",
        "def used(x, how=leaf):\n    return how(x)",
        "def used(x: leaf):\n    return x",
        "used = [leaf for _ in 'a']",
        "used = lambda x: f'{leaf(x)}'",
        "def used(x):\n    global leaf\n    leaf = 1",
        "def noted(f):\n    leaf(f)\ndef used(x):\n    return 1\n@noted\ndef elsewhere(x):\n    return 1",
        "def used(x):\n    return globals()['le' + 'af'](x)",
        "def used(x):\n    return 1\ndef __getattr__(name):\n    return 1",
        "def used(x):\n    return ['python', '-m', 'scripts.lib.shared']",
    ],
)
def test_what_a_definition_uses_is_followed(project, code):
    leaf = "def leaf(x):\n    return 1\n\n\n"
    before = project(USES | {SHARED: leaf + code})
    assert differ(before, project({SHARED: leaf.replace("1", "2") + code})) == ["shared"]


@pytest.mark.parametrize(
    "line",
    [
        "from scripts.lib import shared\ngetattr(shared, 'un' + 'used')",
        "from scripts.lib import shared\nprint(shared.__name__)",
        "from scripts.lib.shared import *\nunused(1)",
        "from scripts.lib import shared\nclass C:\n    module = shared",
        "command = ('python', '-m', 'scripts.lib.shared')",
    ],
)
def test_what_cannot_be_followed_counts_whole(project, line):
    before = project({STAGE: line, SHARED: CODE})
    assert differ(before, project({SHARED: CODE.replace("return x", "return -x")})) == ["shared"]


def test_what_a_module_does_as_a_program_counts_for_its_own_stage_only(project):
    program = "def used(x):\n    return x\n\n\nif __name__ == '__main__':\n    open_log(1)\n    used(1)\n"
    before = project({STAGE: "from scripts.other import used\nused(1)", "scripts/other.py": program})
    own = fingerprint("other")
    assert differ(before, project({"scripts/other.py": program.replace("log(1)", "log(2)")})) == []
    assert differ(own, fingerprint("other")) == ["other"]


def test_a_module_imported_for_what_it_does(project):
    effect = "from os import environ\n\n\ndef f():\n    return 1\n\n\nenviron['A'] = '1'\n"
    shared = "from scripts.lib import effect  # noqa: F401\n" + CODE.lstrip()
    before = project(USES | {SHARED: shared, "scripts/lib/effect.py": effect})
    assert differ(before, project({"scripts/lib/effect.py": effect.replace("return 1", "return 2")})) == []
    assert differ(before, project({"scripts/lib/effect.py": effect.replace("'1'", "'2'")})) == ["effect"]
    project({"scripts/lib/effect.py": effect})
    assert differ(before, project({"scripts/lib/__init__.py": "import os\nos.environ['B'] = '1'\n"})) == ["__init__"]


def test_what_an_imported_module_does_counts_though_only_its_other_half_is_used(project):
    shared = "import scripts.lib.effect\n" + CODE + "\n\ndef last():\n    return scripts.lib.effect.f()\n"
    before = project(USES | {SHARED: shared, "scripts/lib/effect.py": "def f():\n    return 1\n"})
    after = project({"scripts/lib/effect.py": "def f():\n    return 1\n\n\nprint('imported')\n"})
    assert differ(before, after) == ["effect"]


def test_the_description_of_a_library_counts_where_it_is_used(project):
    about = "ABOUT = {'package': 'a'}\n\n\ndef quantize():\n    return 1\n"
    before = project({STAGE: about})
    assert differ(before, project({STAGE: about.replace("'a'", "'b'")})) == []
    used = about.replace("return 1", "return ABOUT")
    before = project({STAGE: used})
    assert differ(before, project({STAGE: used.replace("'a'", "'b'")})) == ["stage"]


def test_circles_end(project):
    code = "from scripts import stage\n\n\ndef used(x):\n    return stage.f\n"
    assert set(project({STAGE: USES[STAGE] + "\n\ndef f():\n    return 1\n", SHARED: code})) == {STAGE, SHARED}
