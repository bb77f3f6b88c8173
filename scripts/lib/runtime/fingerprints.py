"""Which of this project's code a stage is made of, and what it does: Snakemake does not follow imports.

Counted is what a stage's script can reach by name, definition by definition, as a syntax tree: comments, docstrings,
formatting and the other half of a shared module change nothing. What has no name (`matplotlib.use("Agg")`) counts once
anything of its module is used. What cannot be told counts: a module that is used otherwise than by `module.name`, is
run as a process (`-m`) or looks its names up by itself counts whole. Only what `importlib.import_module` imports is the
caller's to name.

The fingerprint is a param of the stage's rule. As inputs files would be listed, and after a pull hashed, once a job.
"""

import hashlib
from functools import cache
from os.path import normpath
from pathlib import Path

from scripts.lib.runtime.statements import DEFINITION, Dotted, Statement, parse

# What a hub gave stays, and has its hashes; what a lock says comes as a param; what only judges files changes none.
SHAPES_NO_NUMBERS = ("scripts/lib/runtime/logs.py", "scripts/lib/hub/client.py", "scripts/lib/hub/locks.py")
SHAPES_NO_NUMBERS += ("scripts/lib/hub/patience.py", "scripts/lib/models/loadable.py")
DESCRIPTION = "ABOUT"  # of a library, for plans and reports: counts only where it is used


@cache
def fingerprint(*names: str) -> dict[str, str]:
    """What the given scripts and all that they use do: by path, the first 12 digits of a SHA-256.

    Args:
        names: paths from scripts/ without the ending, e.g. "quantize" or "../reports/report"; they count whole.
    """
    reached = Reached()
    for name in names:
        reached.use_all(normpath(f"scripts/{name}.py"), but=DESCRIPTION)
    return {path: digest(path, counted) for path, counted in sorted(reached.counted.items()) if counted}


def digest(path: str, counted: set[Statement]) -> str:
    """The first 12 digits of the SHA-256 of the counted statements of a file, in their order."""
    trees = "\n".join(statement.tree for statement in parse(path).statements if statement in counted)
    return hashlib.sha256(trees.encode()).hexdigest()[:12]


class Reached:
    """What is used, from the first script on.

    counted: statements by the path of their file.
    """

    def __init__(self) -> None:
        self.counted: dict[str, set[Statement]] = {}

    def use_all(self, path: str, but: str = "") -> None:
        """Count a file whole, as a program too, except what does nothing but give the name `but`."""
        self.touch(path)
        for statement in parse(path).statements:
            if statement.binds != {but}:
                self.count(path, statement)

    def use(self, target: Dotted) -> None:
        """Count what a dotted name stands for, if it is of this project."""
        path, rest = locate(target)
        if path and rest and rest[0] in parse(path).binding and not parse(path).opaque:
            self.touch(path)
            self.follow(path, rest)
        elif path:
            self.use_all(path)

    def follow(self, path: str, name: Dotted) -> None:
        """Count what gives a file a name, if it is not built in, and what that stands for if it is imported."""
        for statement in parse(path).binding.get(name[0], ()):
            self.count(path, statement)
            for target in statement.stand_for(name):
                self.use(target)

    def touch(self, path: str) -> None:
        """Count what happens when a file is imported, and what it imports in turn."""
        if path in self.counted:
            return
        self.counted[path] = set()
        for statement in parse(path).statements:
            if statement.always:
                self.count(path, statement)
            elif statement.binds and not isinstance(statement.node, DEFINITION):
                self.touch_imports(statement)

    def touch_imports(self, statement: Statement) -> None:
        """Touch the modules that a statement imports, with the packages that they are in."""
        for *_, loaded in statement.imports:
            for length in range(1, len(loaded) + 1):
                path, rest = locate(loaded[:length])
                if path and not rest:
                    self.touch(path)

    def count(self, path: str, statement: Statement) -> None:
        """Count a statement and all that it uses."""
        if statement in self.counted[path]:
            return
        self.counted[path].add(statement)
        self.touch_imports(statement)
        for name in statement.uses:
            self.follow(path, name)
            for target in statement.stand_for(name):
                self.use(target)
        for target in statement.processes | statement.stars:
            self.use(target)


@cache
def locate(target: Dotted) -> tuple[str | None, Dotted]:
    """The file of the longest start of a dotted name that is a module, and what is left of the name.

    None for what is not below scripts/, and for what shapes no numbers.
    """
    for length in range(len(target) if target[:1] == ("scripts",) else 0, 0, -1):
        folder = "/".join(target[:length])
        for path in (f"{folder}.py", f"{folder}/__init__.py"):
            if Path(path).is_file():
                return (None if path in SHAPES_NO_NUMBERS else path), target[length:]
    return None, target
