"""Text for people's terminals."""


def aligned(rows: list[tuple[str, ...]], sides: str) -> list[str]:
    """A line for each row, with columns as wide as they need.

    Args:
        sides: for each column `<`, to the left, or `>`.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map("{:{}{}}".format, row, sides, widths)).rstrip() for row in rows]
