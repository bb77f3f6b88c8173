"""The architecture as a picture, made from the imports: `python -m tests.workflow.architecture` prints it for
scripts/README.md."""

import grimp

ROOMS = ("report", "cluster", "analysis", "study", "checks", "models", "hub", "data", "runtime")


def room_of(module: str) -> str | None:
    """Which box of the picture a module is in: a room of scripts/lib, quantizers, commands, or the stages."""
    parts = module.split(".")[1:]
    if not parts or parts == ["lib"]:
        return None
    if parts[0] == "lib":
        return parts[1]
    return parts[0] if parts[0] in ("quantizers", "commands") else "stages"


def imports() -> set[tuple[str, str]]:
    """Pairs of boxes, of which the first imports the second."""
    graph = grimp.build_graph("scripts", cache_dir=None)
    modules = [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]
    pairs = {(room_of(one), room_of(other)) for one, other in modules}
    return {(one, other) for one, other in pairs if one and other and one != other}


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without those pairs that follow from others, which would only hide the picture."""

    def reachable(start: str, skip: tuple[str, str]) -> set[str]:
        found, left = set(), [start]
        while left:
            box = left.pop()
            more = {other for one, other in pairs if one == box and (one, other) != skip} - found
            found |= more
            left += more
        return found

    return {pair for pair in pairs if pair[1] not in reachable(pair[0], pair)}


def picture() -> str:
    """A Mermaid flow chart: an arrow from each box to what it imports, without arrows that others imply."""
    lines = [f"    {one} --> {other}" for one, other in sorted(reduced(imports()))]
    return "\n".join(["flowchart TD", *lines])


if __name__ == "__main__":
    print(picture())
