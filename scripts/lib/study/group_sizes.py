"""Which group sizes fit which widths; read without a library, so that plans know it too."""

from scripts.lib.study.libraries import algorithm


def width_refusal(recipe: dict, widths: dict[str, int]) -> str | None:
    """Why a method's groups do not fit a model, or None.

    Args:
        recipe: as in its file.
        widths: input columns of layers that are to be quantized, by what the message calls them.
    """
    size, divides = recipe.get("group_size", -1), algorithm(recipe).get("divides", 1)
    for name, width in widths.items():
        if width % divides:
            return f"{algorithm(recipe)['title']}: widths must be multiples of {divides}, and {name} has {width}"
        if size > 0 and width % size:
            return f"group_size {size} does not divide the width {width} of {name}"
    return None
