"""Which group sizes fit which widths; read without a library, so that plans know it too."""

WIDTH_OF = {"mxfp4": 32, "nvfp4": 16} | dict.fromkeys(("q2_k", "q3_k_m", "q4_k_m", "q6_k"), 256)


def width_refusal(recipe: dict, widths: dict[str, int]) -> str | None:
    """Why a method's groups do not fit a model, or None.

    Args:
        recipe: as in its file.
        widths: input columns of layers that are to be quantized, by what the message calls them.
    """
    size = recipe.get("group_size", WIDTH_OF.get(recipe["algorithm"], -1))
    for name, width in widths.items():
        if recipe["library"] == "llamacpp" and width % size:
            return f"K-quants need widths that are multiples of {size}, and {name} has {width}"
        if size > 0 and width % size:
            return f"group_size {size} does not divide the width {width} of {name}"
    return None
