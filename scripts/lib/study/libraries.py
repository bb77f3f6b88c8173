"""Quantization libraries as their files describe them: the literal `ABOUT`, read without importing the library."""

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, validate

FOLDER = Path(__file__).parents[2] / "quantizers"
TRANSFORMS = "transforms"  # the file that describes what is done before rounding


@dataclass(frozen=True)
class Library:
    """A library: fields as in workflow/schemas/library.schema.yaml."""

    algorithms: dict[str, dict]
    stored: str
    package: str | None = None
    uses: tuple[str, ...] = ()
    built: dict[str, str] | None = None
    own_code: str | None = None
    name: str = field(default="", kw_only=True)

    @property
    def distributions(self) -> tuple[str, ...]:
        """Distributions whose versions belong to what it makes."""
        return (*([self.package] if self.package else []), *self.uses)


@cache
def libraries() -> dict[str, Library]:
    """All libraries that recipes may name.

    Raises:
        ConfigError: a description is not a literal or does not fit its schema.
    """
    return {name: library for name, library in _described().items() if name != TRANSFORMS}


def transforms() -> Library:
    """What may be done before rounding, and by which distributions; described like a library."""
    return _described()[TRANSFORMS]


def algorithm(recipe: dict) -> dict:
    """What a recipe's library says of its algorithm."""
    return libraries()[recipe["library"]].algorithms[recipe["algorithm"]]


def distributions(recipe: dict) -> tuple[str, ...]:
    """Distributions whose versions belong to a recipe's results, besides those that all models share."""
    found = libraries()[recipe["library"]].distributions
    return tuple(dict.fromkeys(found + (transforms().distributions if "transform" in recipe else ())))


@cache
def _described() -> dict[str, Library]:
    found = {path.stem: about(path) for path in sorted(FOLDER.glob("*.py"))}
    return {name: Library(**content, name=name) for name, content in found.items() if content is not None}


def about(path: Path) -> dict | None:
    """The literal `ABOUT` of a Python file, or None if it has none.

    Raises:
        ConfigError: it is not a literal or does not fit its schema.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["ABOUT"]:
            try:
                content = ast.literal_eval(node.value)
            except ValueError as error:
                raise ConfigError(
                    f"{path}: `ABOUT` must be a literal, to be read without an import: {error}"
                ) from error
            validate(content, "library", f"{path}: `ABOUT`")
            return content
    return None
