"""Methods: a recipe under one draw of its calibration text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What is applied to a checkpoint.

    recipe: name of the recipe's file.
    draw: which text the recipe is calibrated on, from 1; None for a recipe without calibration text.
    """

    recipe: str
    draw: int | None

    @property
    def name(self) -> str:
        """As paths and tables have it; the first draw is called as its recipe, so that more draws rename nothing."""
        return self.recipe if self.draw in (None, 1) else f"{self.recipe}@{self.draw}"


def methods_of(name: str, recipe: dict, draws: int) -> list[Method]:
    """The methods that a recipe is with so many draws of calibration text; one if it uses none."""
    numbers = range(1, draws + 1) if "calibration" in recipe else [None]
    return [Method(name, number) for number in numbers]
