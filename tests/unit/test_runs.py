"""Heads: who leads a run, and whether it still lives."""

import json
import os
import socket
import subprocess
import sys

import pytest

from scripts.lib.cluster import runs


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.delenv(runs.HEAD_JOB, raising=False)
    return tmp_path / ".snakemake/head.json"


def test_this_process_is_alive_until_it_says_that_it_ended(record):
    assert runs.holder(record) is None
    runs.claim(False, record)
    head = runs.holder(record)
    assert runs.is_alive(head)
    assert runs.describe(head).startswith(f"process {os.getpid()} on {socket.gethostname()}, since 2")
    runs.release(record)
    assert runs.holder(record) is None


def test_a_process_that_has_ended_is_not(record):
    code = f"from scripts.lib.cluster import runs; from pathlib import Path; runs.claim(False, Path({str(record)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert runs.is_alive(runs.holder(record)) is False


def test_one_that_nobody_has_waited_for_is_not_either(record):
    code = f"from scripts.lib.cluster import runs; from pathlib import Path; runs.claim(False, Path({str(record)!r}))"
    then = "; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code + then], stdin=-1, stdout=-1) as process:
        assert process.stdout.readline()
        assert runs.is_alive(runs.holder(record))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # until it has ended, leaving it a zombie
        assert runs.is_alive(runs.holder(record)) is False


def test_another_process_with_the_same_number_is_not_taken_for_it(record):
    runs.claim(False, record)
    head = runs.holder(record)
    assert not runs.is_alive(head | {"started": head["started"] - 10})


def test_another_host_cannot_be_seen(record):
    runs.claim(False, record)
    assert runs.is_alive(runs.holder(record) | {"host": "elsewhere"}) is None


def test_a_record_that_was_cut_off_counts_as_none(record):
    record.parent.mkdir()
    record.write_text(json.dumps({"host": "x"})[:5])
    assert runs.holder(record) is None
