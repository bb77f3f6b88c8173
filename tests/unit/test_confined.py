"""confined: what a call in a child process may take, and what is said of one that fails."""

import contextlib
import os
import resource
import signal
import time

import numpy as np
import pytest

from scripts.lib.runtime.confined import TimeOnCore, TooLongError, confined, more_memory, streamed


@pytest.fixture(autouse=True)
def busy(monkeypatch):
    """A machine with much other work takes long for a second of a core."""
    monkeypatch.setattr("scripts.lib.runtime.confined.WAITED", 200)


def fail(error):
    raise error


def forever():
    while True:
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fail(ValueError("no tokenizer\n")), "^no tokenizer $"),
        (lambda: fail(KeyError("x")), "^KeyError: 'x'$"),
        (lambda: np.ones(10**8), r"^it takes more than 0\.0 GB$"),
        (lambda: os.abort(), r"^it takes more than 0\.0 GB, or its process fell \(status -6\)$"),
        (forever, "^it takes more than 1 s$"),
    ],
)
def test_how_a_call_fails_is_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        confined(call, 10**7, 1)


def test_a_child_that_linux_kills_is_no_failure_of_the_call():
    with pytest.raises(MemoryError, match="the machine has too little memory"):
        confined(lambda: os.kill(os.getpid(), signal.SIGKILL), 10**7, 1)


def test_a_call_that_sleeps_ends(monkeypatch):
    monkeypatch.setattr("scripts.lib.runtime.confined.WAITED", 0.2)
    with pytest.raises(ValueError, match=r"^it takes more than 0\.2 s$"):
        confined(lambda: time.sleep(60), 10**7, 1)


def test_a_call_that_does_not_fail_says_nothing():
    assert confined(lambda: 5, 10**7, 1) is None


def test_memory_is_bounded_for_a_while():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with more_memory(10**7), pytest.raises(MemoryError):
        np.ones(10**8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert np.ones(10**7).size == 10**7


def counted(after):
    """Two numbers, then what a function does."""
    yield from (1, 2)
    after()


def test_each_item_has_its_own_time():
    def slowly():
        for number in range(4):
            end = time.process_time() + 0.7
            while time.process_time() < end:
                pass
            yield number

    assert list(streamed(slowly, 10**8, 1)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (forever, "^it takes more than 1 s$"),
        (lambda: fail(ValueError("no\nrow")), "^no row$"),
        (lambda: np.ones(10**8), r"^it takes more than 0\.0 GB$"),
        (lambda: os.abort(), r"its process fell \(status -6\)$"),
    ],
)
def test_what_comes_before_a_failure_is_given(after, message):
    got = []
    with pytest.raises(ValueError, match=message):
        got.extend(streamed(lambda: counted(after), 10**7, 1))
    assert got == [1, 2]


def test_a_child_ends_with_its_reader():
    def numbers():
        yield os.getpid()
        while True:
            yield 0

    rows = streamed(numbers, 10**8, 9)
    child = next(rows)
    rows.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_large_file_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.lib.runtime.confined.LARGEST_JSON", 1000)
    with pytest.raises(ValueError, match="File too large"):
        confined(lambda: (tmp_path / "a").write_bytes(b"a" * 2000), 10**8, 9)


def test_all_times_on_a_core_count_together():
    allowed = TimeOnCore(0.4)
    spent = allowed.spent()(lambda seconds: work(seconds) or seconds)
    assert spent(0.1) == 0.1
    assert 0.1 < allowed.left < 0.35
    with pytest.raises(TooLongError, match=r"^it takes more than 0\.4 s of a core$"):
        spent(60)
    with pytest.raises(TooLongError), allowed.spent():
        work(60)
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
    work(0.1)


def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_an_end_that_a_library_passes_over_comes_again():
    with pytest.raises(TooLongError), TimeOnCore(0.1).spent():
        with contextlib.suppress(TooLongError):
            work(60)
        work(60)
