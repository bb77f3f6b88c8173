"""Asking a hub for something and waiting for it, within bounds; no answer may cost more than a message."""

import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from time import sleep

import httpx
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, parse_ratelimit_headers
from huggingface_hub.utils._http import default_client_factory

from scripts.lib.hub import answers
from scripts.lib.runtime.untrusted import one_line

# These limits are in config/README.md.
ATTEMPTS = 6  # of an answer or a file; with the waits below two to five minutes
SHORTEST_WAIT, LONGEST_WAIT = 10, 120  # seconds, where a hub does not ask for another time
LONGEST_WAITED = 900  # seconds between the attempts of an answer or a file, all told
TIMEOUT = 60  # seconds without a byte
FIRST_LINES = 120  # seconds until an answer's content begins
SLOWEST, WINDOW = 10_000, 120  # bytes a second, over so many seconds
LONGEST_HEADER = 300  # letters, of those of an error
MOST_REDIRECTS = 5
LONGEST_ASIDE = 2**16  # bytes of the content of a redirect or an error, beyond which its connection is given up
OWN = "patiently"  # marks requests whose waits are bounded there, and whose answers are checked in `client`
OF_REVISION = "revision"  # marks requests of what a revision is, wherever they are redirected to
NOWHERE = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects)
TAG = re.compile(r'(W/)?"[A-Za-z0-9_-]{1,128}"')  # an ETag that is no path


class Unavailable(Exception):
    """The hub does not give what is asked for; the message, a line, says what to do."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class Unreachable(Unavailable):
    """The hub does not answer, or only with errors; anything else that it is asked may fail too."""


class Wrong(Exception):
    """The hub gave another file than it should."""


def patiently(call, what: str):
    """The result of a call to the hub, tried again where the hub is busy or the network fails; a wrong file, once.

    Waits double from `SHORTEST_WAIT` to `LONGEST_WAIT`, with a random share, where the hub does not say how long.

    Raises:
        Unavailable: the hub says that it will not give this, asks to wait too long, or all attempts failed.
    """
    waited, wrong = 0.0, False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Wrong as error:
            if wrong:
                raise Unavailable(f"{what} came twice with another hash or size than {error}") from error
            wrong = True
            logging.getLogger("trajquant").warning("%s came with another hash or size; once more", what)
            continue
        except (RevisionNotFoundError, EntryNotFoundError) as error:
            raise Unavailable(f"{what}: the hub has no such revision or file") from error
        except GatedRepoError as error:
            raise Unavailable(f"{what}: access is granted by its owners; ask there, then set HF_TOKEN") from error
        except RepositoryNotFoundError as error:
            raise Unavailable(f"{what}: there is no such repository, or it is private: set HF_TOKEN") from error
        except (*NOWHERE, UnicodeError, OverflowError) as error:  # a host or a port that is none
            raise Unavailable(f"{what}: the hub leads to no file ({error}); is HF_ENDPOINT right?") from error
        except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if status in (401, 403):
                raise Unavailable(f"{what}: the hub refuses ({status}); set HF_TOKEN to a valid token") from error
            if is_of_this_machine(error):
                raise
            if status and status < 500 and status != 429:
                raise Unavailable(f"{what}: the hub answers {status}; are its names right, and HF_ENDPOINT?") from error
            if attempt == ATTEMPTS:
                raise Unreachable(f"{what}: the hub failed {ATTEMPTS} times, last: {in_words(error)}") from error
            wait = wait_before(attempt, error)
            if waited + wait > LONGEST_WAITED:
                raise Unavailable(f"{what}: the hub asks to wait for {wait:.0f} s; run again then") from error
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + wait))
            reason = one_line(f"{what}: {f'status {status}' if status else type(error).__name__}")
            logging.getLogger("trajquant").warning("%s: waiting for the hub until %s", reason, until)
            sleep(wait)
            waited += wait


def in_words(error: Exception) -> str:
    """What went wrong; the words of a hub are marked as its own."""
    if not isinstance(error, HfHubHTTPError):
        return str(error)
    said = f", the hub says {one_line(error.server_message, LONGEST_HEADER)!r}" if error.server_message else ""
    return f"status {error.response.status_code}{said}"


def is_of_this_machine(error: Exception) -> bool:
    """Whether an error is of the disk, not of the network: those of huggingface_hub have no number."""
    return (
        isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno is not None
    )


def wait_before(attempt: int, error: Exception) -> float:
    """Seconds to wait after a failed attempt, the first being 1."""
    asked = asked_wait(error.response.headers) if isinstance(error, HfHubHTTPError) else None
    return min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0) if asked is None else asked


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a hub asks to wait for, if it does."""
    asked = headers.get("Retry-After", "")
    try:
        limit = parse_ratelimit_headers(headers)
        wait = limit.reset_in_seconds + 1.0 if limit and limit.remaining == 0 else float(int(asked.encode("ascii")))
        return max(0.0, wait)
    except (ValueError, OverflowError):  # none is asked for, or nonsense
        return None


@contextmanager
def opened(url: str, asked: dict | None = None, headers: dict | None = None) -> Iterator[httpx.Response]:
    """The answer to a GET, not an error, its content still to be read."""
    session, headers = get_session(), build_hf_headers() | (headers or {})
    request = session.build_request("GET", url, params=asked, headers=headers, timeout=TIMEOUT, extensions={OWN: True})
    response = session.send(request, stream=True, follow_redirects=True)
    try:
        if response.is_error:  # without its content, which may have no end, too
            told = [(name, value) for name, value in response.headers.raw if len(value) < LONGEST_HEADER]
            told = [(name, value) for name, value in told if not name.lower().startswith(b"content-")]
            hf_raise_for_status(httpx.Response(response.status_code, headers=told, request=response.request))
        yield response
    finally:
        response.close()


def within(seconds: float, call: Callable):
    """The result of a call that may take so long.

    Raises:
        TimeoutError: it takes longer; it is left to itself then, and ends with this process at the latest.
    """
    future = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {seconds} s") from error


class Prompt(httpx.BaseTransport):
    """Answers that begin in time; one whose first lines come at a byte a minute keeps to every timeout of httpx.

    They set no cookies: Python's jar prints a traceback of some, and nothing here needs any.
    """

    def __init__(self, transport: httpx.BaseTransport):
        self.transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, its content still to be read; a TimeoutError where it does not begin."""
        response = within(FIRST_LINES, lambda: self.transport.handle_request(request))
        response.headers.pop("Set-Cookie", None)
        return response

    def close(self) -> None:
        self.transport.close()


class FastEnough(httpx.SyncByteStream):
    """An answer's content, as fast as is waited for: in any window of waiting, however long the reader takes.

    The waiting is measured where bytes come from the network: what a parser of HTTP keeps to itself (extensions of
    chunks, trailers) may drip without an end, too, and is no content.
    """

    def __init__(self, response: httpx.Response):
        self.stream, self.network = response.stream, response.extensions["network_stream"]
        self.aside = response.has_redirect_location or response.is_error
        self.left = LONGEST_ASIDE if self.aside else math.inf  # bytes that are taken
        self.waited, self.received = 0.0, 0  # in this window
        self.network.read = self.read  # until `close`, after which the connection may bring another answer

    def read(self, *asked, **more) -> bytes:
        """Bytes of the network; a TimeoutError where content came more slowly in the last window."""
        if self.waited >= WINDOW:
            if self.received < SLOWEST * self.waited:
                rate = self.received / self.waited
                raise TimeoutError(f"it sent {rate:.0f} bytes a second, and {SLOWEST} are waited for")
            self.waited, self.received = 0.0, 0
        since = time.monotonic()
        try:
            return type(self.network).read(self.network, *asked, **more)
        finally:
            self.waited += time.monotonic() - since

    def __iter__(self) -> Iterator[bytes]:
        """The chunks; none of a redirect or an error, whose headers say all."""
        for chunk in self.stream:
            self.received += len(chunk)
            self.left -= len(chunk)
            if self.left < 0:
                return
            if not self.aside:
                yield chunk

    def close(self) -> None:
        if vars(self.network).get("read") == self.read:
            del self.network.read
        self.stream.close()


def bound(response: httpx.Response) -> None:
    """Bound how slowly an answer's content may come, and how long the library itself would sleep before it asks again.

    Content is taken as it comes: packed, which nobody asked for, a small answer unpacks to any size. What a hub says is
    for people, with the signs that steer a terminal, is left out.

    Raises:
        Unavailable: the hub asks for longer.
    """
    response.stream = FastEnough(response)
    for name in ("Content-Encoding", "X-HF-Warning"):  # the library prints such a warning as it comes
        response.headers.pop(name, None)
    wait = asked_wait(response.headers)
    if response.is_error and not response.request.extensions.get(OWN) and wait and wait > LONGEST_WAITED:
        raise Unavailable(f"{response.request.url}: the hub asks to wait for {wait:.0f} s; run again then")


def ask_plainly(request: httpx.Request) -> None:
    """Ask for content that is not packed, also where a library asks otherwise."""
    request.headers["Accept-Encoding"] = "identity"


def keep_token(request: httpx.Request) -> None:
    """Send the token to nobody but the hub: its answers may name other hosts, of further pages or of files."""
    if not is_of_hub(request.url):
        request.headers.pop("Authorization", None)


def is_of_hub(url: httpx.URL) -> bool:
    """Whether an address is of the hub itself."""
    hub = httpx.URL(constants.ENDPOINT)
    return (url.scheme, url.host, url.port) == (hub.scheme, hub.host, hub.port)


def require_own_pages(response: httpx.Response) -> None:
    """Check that a list which goes on does so at the hub, for huggingface_hub asks for the next page wherever it is.

    Raises:
        Unavailable: it goes on elsewhere.
    """
    following = response.links.get("next", {}).get("url")
    try:
        own = following is None or is_of_hub(response.request.url.join(following))
    except (httpx.InvalidURL, ValueError):  # of which one does not know the other
        own = False
    if not own:
        raise Unavailable(
            f"{response.request.url}: the hub's list goes on at {one_line(following, LONGEST_HEADER)}, which is not of "
            f"the hub; is HF_ENDPOINT right ({constants.ENDPOINT})?"
        )


def mark(request: httpx.Request) -> None:
    """Mark a request, and with it those that it is redirected to, if it asks what a revision is."""
    request.extensions.setdefault(OF_REVISION, "/revision/" in request.url.path)


def require_names(response: httpx.Response) -> None:
    """Check what huggingface_hub and `datasets` make paths of in their caches: a file's commit and ETag, a revision.

    Raises:
        Unavailable: it is none, and would lead elsewhere.
    """
    said, asked = response.headers, response.request
    commit, tag = said.get("X-Repo-Commit"), said.get("X-Linked-Etag") or said.get("ETag")
    if commit is not None and not re.match(answers.COMMIT, commit):
        raise Unavailable(f"{asked.url}: the hub says X-Repo-Commit {commit!r}, which is no commit; is it a hub?")
    if commit is not None and tag and not response.is_error and not TAG.fullmatch(tag):
        raise Unavailable(f"{asked.url}: the hub says ETag {tag!r}, which is none that a hub gives; is it a hub?")
    if asked.extensions.get(OF_REVISION) and not asked.extensions.get(OWN) and response.is_success:
        try:
            answers.read(response.read(), answers.COMMIT_OF_REVISION)
        except ValueError as error:
            raise Unavailable(f"{asked.url}: the hub's answer is none that a hub gives ({error})") from error


def bounded_client() -> httpx.Client:
    """The client of huggingface_hub, by which `datasets` reads too, within the limits of this file."""
    found = default_client_factory()
    found.timeout, found.max_redirects = TIMEOUT, MOST_REDIRECTS
    found.event_hooks["request"] += [ask_plainly, keep_token, mark]
    found.event_hooks["response"] += [bound, require_names, require_own_pages]
    found._transport = Prompt(found._transport)  # a transport given to httpx would lose what it knows of proxies
    found._mounts = {where: way and Prompt(way) for where, way in found._mounts.items()}
    return found


set_client_factory(bounded_client)
# Xet takes hosts and names of cached files from headers, and speaks past this client.
constants.HF_HUB_DISABLE_XET = True
