"""What others say of files, a hub, a lock or a folder: names stay inside their folder, JSON stays small and flat."""

import json
import os
from pathlib import Path

LARGEST_JSON = 64 * 2**20  # bytes; the largest index and tokenizer that are known have some 35 MB
MOST_JSON = 5_000_000  # lists, objects and commas, of which a small file makes much memory; 2 million are known
DEEPEST_JSON = 64  # levels; some ten are known
LONGEST_NAME = 240  # bytes of a file's name, which leaves room for `.part`
LONGEST_MESSAGE = 500  # characters


def one_line(text: object, longest: int = LONGEST_MESSAGE) -> str:
    """Text in which others' words may stand, as one line of printable characters; what is too long loses its middle."""
    text = str(text)
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return "".join(letter if letter.isprintable() else " " for letter in text)


def inside(folder: Path | str, name: str) -> Path:
    """The place of a file below a folder, by a name that comes from a listing, a lock or an index.

    Raises:
        ValueError: the name, or a link that lies in the folder, leads out of it, or no file can be called so.
    """
    root, path, parts = Path(folder).resolve(), Path(folder, name), Path(name).parts
    if not name.isprintable() or not parts or max(len(os.fsencode(part)) for part in parts) > LONGEST_NAME:
        raise ValueError(f"{name[:LONGEST_NAME]!r} is no name for a file")
    if Path(name).is_absolute() or ".." in parts or not path.resolve().is_relative_to(root):
        raise ValueError(f"{name!r} leads out of the folder that it belongs to")
    return path


def read_json(path: Path | str) -> dict:
    """The JSON object in a file.

    Raises:
        ValueError: it is too large, too deep, no JSON or no object; the message names the file.
    """
    size = Path(path).stat().st_size
    if size > LARGEST_JSON:
        raise ValueError(f"{path} has {size} bytes, and no more than {LARGEST_JSON} are read of such a file")
    return parse_json(Path(path).read_bytes(), str(path))


def parse_json(text: bytes, where: str) -> dict:
    """The JSON object in some bytes; raises ValueError as `read_json` does, with `where`."""
    if (parts := sum(map(text.count, (b"[", b"{", b",")))) > MOST_JSON:
        raise ValueError(f"{where} has {parts} values, and no more than {MOST_JSON} are read")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{where} is nested deeper than {DEEPEST_JSON} levels") from error
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds no keys and values, but {type(content).__name__}")
    level = [content]
    for _ in range(DEEPEST_JSON):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return content
    raise ValueError(f"{where} is nested deeper than {DEEPEST_JSON} levels")
