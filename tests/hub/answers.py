"""What the local hub keeps and answers: files, listings, errors; and what goes wrong on demand."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """A stored file; the ETag of an LFS file is the sha256 of its bytes, that of another one its git blob."""

    path: Path
    size: int
    sha256: str
    blob: str
    lfs: bool
    etag: str

    def sizes(self, digest: str, missing: int) -> dict:
        """Size and LFS part of a listing; `digest` is the name that the endpoint gives to the sha256."""
        size = self.size - missing
        return {"size": size} | ({"lfs": {digest: self.sha256, "size": size, "pointerSize": 134}} if self.lfs else {})


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose unquoted address matches `where`; fields may be combined.

    An address is `/REPO/resolve/REVISION/NAME` (the client asks by HEAD first), `/api/models/REPO/...` or, for the
    bytes of an LFS file, `/lfs/SHA256?repo=REPO&commit=COMMIT&filename=NAME`.
    """

    where: str = ""  # regular expression, searched; empty matches every request
    times: float = 1  # math.inf: never ends
    method: str = "GET|HEAD"
    delay: float = 0  # seconds before the answer starts; a download counts as running meanwhile
    status: int = 0  # instead of the answer: 429, 503, 401, 403, 404, ...
    code: str | None = None  # X-Error-Code of that status, e.g. GatedRepo
    retry_after: int | None = None  # header of that status, in seconds
    missing: int = 0  # sizes in listings and answers to HEAD are too small by so many bytes
    corrupt: bool = False  # a bit of the last of a file's bytes is flipped: same size, another checksum
    cut: float = math.inf  # the connection is closed after so many of a file's bytes (per answer)
    stall: float = 0  # seconds between the last of those bytes and the close; it runs meanwhile, even without a client
    reset: bool = False  # that close is a TCP reset, which the client does not survive as it does an early end
    raw: bytes | None = None  # bytes instead of an answer, and, with `drip`, "a" after "a" without end
    says: bytes | None = None  # the content of a listing instead of the right one
    drip: float = 0  # seconds before each byte of the content
    hits: int = 0  # requests that met this fault

    def meets(self, method: str, address: str, download: bool) -> bool:
        """Faults of bytes meet downloads only, and those of metadata the rest, so that HEAD does not use them up."""
        fits = not self.missing if download else not self.corrupt and self.cut == math.inf
        fits = fits and re.fullmatch(self.method, method) and re.search(self.where, address)
        return self.hits < self.times and bool(fits)


@dataclass
class Answer:
    status: int
    headers: dict[str, object]
    body: bytes = b""
    download: bool = False  # the body holds bytes of a file


def error(status: int, code: str | None, message: str, more: dict | None = None) -> Answer:
    """An error as the hub reports it: the client chooses its exception by X-Error-Code. `more` are headers."""
    headers = {"X-Error-Code": code, "X-Error-Message": message, **(more or {})}
    headers = {name: value for name, value in headers.items() if value is not None}
    return Answer(status, headers, json.dumps({"error": message}).encode())


def listing(content: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(content).encode())


def refs(kind: str, names: dict[str, str]) -> list[dict]:
    return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit} for name, commit in names.items()]


def part(file: File, wanted: str | None, headers: dict) -> Answer:
    """The bytes of a file that a Range header asks for: 206, 416 if there are none, 200 without a range."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", "ETag": file.etag, **headers}
    content = file.path.read_bytes()
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if not match:
        return Answer(200, headers, content, download=True)
    start, end = int(match[1]), min(int(match[2] or file.size) + 1, file.size)
    if start >= end:
        return Answer(416, {"Content-Range": f"bytes */{file.size}"})
    return Answer(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{file.size}"}, content[start:end], True)
