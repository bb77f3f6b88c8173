"""A local stand-in for the HTTP interface of the Hugging Face Hub: what downloads need, and faults on demand.

It differs from the real hub in five points: no `X-Xet-*` headers, so that the client downloads by plain HTTP; a small
file is answered at once, where the real hub redirects to a cache on the same host; a tree listing has one page, all
files and no folders; links to the LFS store do not expire; commits have full hashes. Data sets are `datasets/...`.
"""

import hashlib
import json
import re
import socket
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from weakref import WeakSet

from tests.hub.answers import Answer, Fault, File, error, listing, part, refs

LARGEST_BLOB = 64 * 1024  # a larger file is stored as LFS, in bytes
LFS_SUFFIXES = (".safetensors", ".bin")
RESOLVE = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
WHAT = r"(/(?P<what>revision|tree|refs|paths-info)(/(?P<revision>[^/]+)(/(?P<below>.+))?)?)?"
API = re.compile(rf"/api/(models/|(?=datasets/))(?P<repo>.+?){WHAT}")


@dataclass
class Repo:
    """Branches and tags point to commits, and a commit holds the whole tree; tests may set `tags` and `token`."""

    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    token: str | None = None  # if set, the repo is gated: its files are for this token, its listings stay public


class Server(ThreadingHTTPServer):
    def handle_error(self, request, address) -> None:
        """A client that has gone is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, address)


class Hub:
    """The server, a context manager; `folder` receives the bytes, `endpoint` is what clients take as hub.

    `requests` lists (method, unquoted address, Range header, whether a token came), `most_at_once` is the largest
    number of downloads answered at the same time (a short body takes no time: delay it, to see downloads overlap).
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None, bool]] = []
        self.running: set[Handler] = set()
        self.most_at_once = 0
        self.closing, self.lock = threading.Event(), threading.Lock()
        self.connections: WeakSet[socket.socket] = WeakSet()
        self.server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        # HEAD follows redirects within one host name and would lose the metadata: the store needs another name.
        self.store = f"http://localhost:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        """Also ends kept-alive connections, whose threads would otherwise answer a later hub with the same port."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, repo: str, branch: str, files: dict[str, bytes] | Path) -> str:
        """Make a commit that holds just these files, let the branch point to it and return its hash.

        The hash follows from repo, names and bytes: branches with the same files point to the same commit.
        """
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        commit = {name: self.keep(name, files[name]) for name in sorted(files)}
        content = json.dumps([repo, [(name, file.sha256) for name, file in commit.items()]])
        key = hashlib.sha1(content.encode()).hexdigest()
        stored = self.repos.setdefault(repo, Repo())
        stored.commits[key] = commit
        stored.branches[branch] = key
        return key

    def move(self, repo: str, branch: str, files: dict[str, bytes] | Path) -> str:
        """Like `add`, for a branch that exists; its old commit remains reachable by hash."""
        assert branch in self.repos[repo].branches, f"{repo} has no branch {branch}"
        return self.add(repo, branch, files)

    def fault(self, where: str = "", **fields) -> Fault:
        self.faults.append(Fault(where, **fields))
        return self.faults[-1]

    def keep(self, name: str, content: bytes) -> File:
        """Store bytes. The git object of an LFS file is a pointer to it."""
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = len(content) > LARGEST_BLOB or name.endswith(LFS_SUFFIXES)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        git = pointer if lfs else content
        (self.folder / sha256).write_bytes(content)
        blob = hashlib.sha1(b"blob %d\0" % len(git) + git).hexdigest()
        return File(self.folder / sha256, len(content), sha256, blob, lfs, f'"{sha256 if lfs else blob}"')

    def strike(self, method: str, address: str, download: bool) -> list[Fault]:
        """The faults that a request meets, counted."""
        with self.lock:
            met = [fault for fault in self.faults if fault.meets(method, address, download)]
            for fault in met:
                fault.hits += 1
        return met

    def start(self, download: "Handler") -> None:
        with self.lock:
            self.running.add(download)
            self.most_at_once = max(self.most_at_once, len(self.running))

    def answer(self, address: str, wanted: str | None, token: str, missing: int = 0) -> Answer:
        """The answer to a GET; `wanted` is the Range header, `missing` a fault of sizes."""
        url, query = urlsplit(address), dict(parse_qsl(urlsplit(address).query))
        if url.path.startswith("/lfs/"):
            file = self.repos[query["repo"]].commits[query["commit"]][query["filename"]]
            return part(file, wanted, {})
        match = RESOLVE.fullmatch(url.path) or API.fullmatch(url.path)
        asked = {key: unquote(value) for key, value in match.groupdict().items() if value} if match else {}
        name, repo, what = asked.get("repo"), self.repos.get(asked.get("repo")), asked.get("what")
        if repo is None:  # without a token, the real hub does not tell a missing repo from a private one
            return error(404 if token else 401, "RepoNotFound", "Repository not found")
        if what == "refs":
            return listing({"branches": refs("heads", repo.branches), "tags": refs("tags", repo.tags), "converts": []})
        revision = asked.get("revision", "main")
        commit = {**repo.tags, **repo.branches}.get(revision, revision)
        if commit not in repo.commits:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if match.re is RESOLVE:
            return self.resolve(name, commit, asked["name"], wanted, token, missing)
        files = [(path, file) for path, file in repo.commits[commit].items() if path.startswith(asked.get("below", ""))]
        if what == "paths-info":
            named = [path for name, path in parse_qsl(url.query) if name == "paths"]
            files = [(path, file) for path, file in files if path in named]
        if what in ("tree", "paths-info"):
            return listing([{"type": "file", "path": p, "oid": f.blob} | f.sizes("oid", missing) for p, f in files])
        siblings = [{"rfilename": p, "blobId": f.blob} | f.sizes("sha256", missing) for p, f in files]
        if "blobs" not in query:  # then the real hub, too, tells names only
            siblings = [{"rfilename": path} for path, _ in files]
        about = {"id": name.removeprefix("datasets/"), "sha": commit, "gated": bool(repo.token) and "manual"}
        return listing(about | {"siblings": siblings})

    def resolve(self, name: str, commit: str, path: str, wanted: str | None, token: str, missing: int) -> Answer:
        """A plain file itself; of an LFS file the metadata and a redirect to the store."""
        repo, headers = self.repos[name], {"X-Repo-Commit": commit}
        if repo.token not in (None, token):
            return error(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        file = repo.commits[commit].get(path)
        if file is None:
            return error(404, "EntryNotFound", "Entry not found", headers)
        if not file.lfs:
            return part(file, wanted, headers)
        query = urlencode({"repo": name, "commit": commit, "filename": path}, quote_via=quote)
        location = f"{self.store}/lfs/{file.sha256}?{query}"
        headers |= {"X-Linked-Etag": file.etag, "X-Linked-Size": file.size - missing, "Location": location}
        return Answer(302, headers, f"Found. Redirecting to {location}".encode())


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive between requests as the real hub does."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart: without this, each answer may wait 40 ms

    def do_GET(self) -> None:
        hub, address = self.hub, unquote(self.path)
        hub.connections.add(self.connection)
        wanted, token = self.headers.get("Range"), self.headers.get("Authorization", "").removeprefix("Bearer ")
        hub.requests.append((self.command, address, wanted, bool(token)))
        answer = hub.answer(self.path, wanted, token)
        download = answer.download and self.command == "GET"
        faults = hub.strike(self.command, address, download)
        if missing := sum(fault.missing for fault in faults):
            answer = hub.answer(self.path, wanted, token, missing)
        for fault in faults:
            if fault.status:
                answer = error(fault.status, fault.code, "A fault of the test", {"Retry-After": fault.retry_after})
            if fault.says is not None:
                answer = Answer(200, answer.headers, fault.says)
        if download:
            hub.start(self)
        try:
            hub.closing.wait(sum(fault.delay for fault in faults))
            self.send(answer, faults, missing if self.command == "HEAD" else 0)
        except ConnectionError:  # the client has gone
            self.close_connection = True
        finally:
            hub.running.discard(self)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Forms, of paths to tell about, are answered as queries are."""
        self.path += f"?{self.rfile.read(int(self.headers['Content-Length'])).decode()}"
        self.do_GET()

    def send(self, answer: Answer, faults: list[Fault], missing: int) -> None:
        """Send an answer; `faults` are those of a file's bytes, `missing` shortens the Content-Length of HEAD."""
        body, drip = answer.body, sum(fault.drip for fault in faults)
        for fault in faults:
            if fault.raw is not None:
                self.wfile.write(fault.raw)
                while drip and not self.hub.closing.wait(drip):
                    self.wfile.write(b"a")
                self.close_connection = True
                return
        if body and any(fault.corrupt for fault in faults):
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response_only(answer.status)  # which, unlike send_response, prints nothing
        for name, value in {**answer.headers, "Content-Length": len(body) - missing}.items():
            self.send_header(name, str(value))
        self.end_headers()
        body = b"" if self.command == "HEAD" else body
        if drip:
            for byte in body:
                if self.hub.closing.wait(drip):
                    break
                self.wfile.write(bytes([byte]))
            self.close_connection = True
            return
        cut = min(faults, key=lambda fault: fault.cut, default=Fault())
        if cut.cut >= len(body):
            self.wfile.write(body[:-1])
            self.hub.running.discard(self)  # before the last byte, with which the client may start its next download
            self.wfile.write(body[-1:])
            return
        self.wfile.write(body[: cut.cut])
        self.hub.closing.wait(cut.stall)
        self.close_connection = True
        if cut.reset:  # RST, and not the FIN of the server's own shutdown
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
