"""Which of this project's Python files a stage is made of, and what they hold: Snakemake does not follow imports.

Their fingerprint is a param of the stage's rule. As inputs they would be listed, and after a pull hashed, once a job.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

# What a hub gave stays, and has its hashes; what a lock says comes as a param.
SHAPES_NO_NUMBERS = ("scripts/lib/runtime/logs.py", "scripts/lib/hub/client.py", "scripts/lib/hub/locks.py")


def closure(*names: str) -> list[str]:
    """The given scripts and all project files that they import, directly or not, except those that shape no numbers.

    Args:
        names: paths below scripts/ without the ending, e.g. "quantize" or "quantizers/rtn".

    Returns:
        Sorted paths from the root of the clone.
    """
    found, waiting = set(), [f"scripts/{name}.py" for name in names]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(imported(path))
    return sorted(found - set(SHAPES_NO_NUMBERS))


@cache
def fingerprint(*names: str) -> dict[str, str]:
    """The files of `closure` with the first 12 digits of the SHA-256 of each."""
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] for path in closure(*names)}


@cache
def imported(path: str) -> tuple[str, ...]:
    """Project files that one file imports anywhere, also inside functions."""
    modules = []
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scripts":
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names if alias.name.split(".")[0] == "scripts"]
    files = [module.replace(".", "/") for module in modules]
    candidates = [f"{file}{ending}" for file in files for ending in (".py", "/__init__.py")]
    return tuple(sorted({file for file in candidates if Path(file).is_file() and Path(file).stat().st_size}))
