"""What answers of a hub may be, and locks: nothing else gets past `client` and `locks`."""

import jsonschema

from scripts.lib.runtime.untrusted import one_line, parse_json

COMMIT = "^[0-9a-f]{40}\\Z"
SIZE = {"type": "integer", "minimum": 0, "maximum": 2**53}

# JSON Schema takes 3.0 for an integer; readers of sizes do not.
_INTEGERS = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_INTEGERS)


def _text(what: str, pattern: str) -> dict:
    return {"type": "string", "description": what, "pattern": pattern}


def _object(required: dict, optional: dict | None = None, **more) -> dict:
    return {"type": "object", "required": list(required), "properties": required | (optional or {}), **more}


_COMMIT = _text("commit", COMMIT)
_REPO = _text("name of a repository", "^(?!.*\\.\\.)[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?\\Z")
_BLOB = _text("hash of git's", COMMIT)
_SHA256 = _text("SHA-256", "^[0-9a-f]{64}\\Z")
# No part of a path is empty, `.` or `..`, or longer than file systems take.
_PATH = _text("file of a repository", "^(?!(.*/)?\\.{0,2}(/|\\Z))(?!.*[^/]{201})[^\\x00-\\x1f\\x7f\\ud800-\\udfff]+\\Z")
_NAME = _text("name of a branch or tag", "^[^\\x00-\\x20\\x7f\\ud800-\\udfff~^:?*\\[\\\\]{1,250}\\Z")
_SIBLING = _object(
    {"rfilename": _PATH, "size": SIZE, "blobId": _BLOB},
    {"lfs": {"anyOf": [{"type": "null"}, _object({"sha256": _SHA256})]}},
)
_REFS = {"type": "array", "items": _object({"name": _NAME})}
_FILE = _object(
    {"bytes": SIZE},
    {"sha256": _SHA256, "blob": _BLOB, "name": _PATH},
    additionalProperties=False,
    oneOf=[{"required": ["sha256"]}, {"required": ["blob"]}],
)
_LOCKED = _object(
    {
        "repo": _REPO,
        "commit": _COMMIT,
        "files": {"type": "object", "propertyNames": _PATH, "additionalProperties": _FILE},
    },
    additionalProperties=False,
)

COMMIT_OF_REVISION = _object({"sha": _COMMIT})
FILES_OF_REVISION = _object({"sha": _COMMIT, "siblings": {"type": "array", "items": _SIBLING}})
REFS = _object({"branches": _REFS, "tags": _REFS})
LOCK = _object(
    {"revisions": {"type": "object", "additionalProperties": _LOCKED}},
    {"tokenizer": _LOCKED},
    additionalProperties=False,
)


def read(content: bytes, schema: dict) -> dict:
    """JSON that fits a schema.

    Raises:
        ValueError: it does not, or is no JSON; one line with the first mistake.
    """
    found = parse_json(content, "it")
    for mistake in _Validator(schema).iter_errors(found):
        mistake = jsonschema.exceptions.best_match([mistake])
        where = ".".join(map(str, mistake.absolute_path))
        known = f"{mistake.instance!r} is no {mistake.schema.get('description')}"
        message = known if mistake.validator == "pattern" else mistake.message
        raise ValueError(one_line(f"`{where}`: {message}" if where else message, longest=200))
    return found
