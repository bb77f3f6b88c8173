"""What tests/gpu measures on a GPU runs, tiny, on a CPU: nothing in it has fallen behind the stages."""

import json

import pytest

from tests.gpu import measure


@pytest.mark.parametrize("name", ["machine", "cell", "training", "streaming", "memory", "tasks"])
def test_a_part_finds_something_and_fails_at_nothing(tmp_path, name):
    measure.run_part(name, tmp_path, tiny=True)
    found = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert found
    assert not [finding for finding in found if "failed" in finding]


def test_what_runs_in_processes_of_its_own_fails_at_nothing(tmp_path):
    shape = measure.LLAMA | measure.SHAPES["methods"]
    for architecture in ("llama", "olmo2"):
        measure.write_model(tmp_path / architecture, shape | {"architecture": architecture}, "float32", "cpu")
    measure.quantize_tiny(str(tmp_path), str(tmp_path), "1", "rtn-w4")
    for kind in ("train", "loss"):
        (tmp_path / kind).mkdir()
        measure.small_job(kind, str(tmp_path), str(tmp_path / "llama"), str(tmp_path / kind), "1")
    part = measure.Part("faults", tmp_path, True, tmp_path)
    for check in (measure.alive_after_gate, measure.full_memory, measure.precision_of_hqq):
        check(part)
    found = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert not [finding for finding in found if "failed" in finding]
    assert {"largest_difference", "seconds_a_step", "most", "dtypes"} <= {key for finding in found for key in finding}


def test_every_part_has_a_limit():
    assert list(measure.PARTS) == list(measure.LIMITS)


def test_operations_of_a_forward_pass_are_two_a_weight_and_attention():
    shape = {"architecture": "llama", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2}
    weights = 2 * (4 * 16 + 3 * 4 * 8) + 4 * 10
    assert measure.forward_flops(shape | {"vocabulary": 10, "window": 5}, 3) == 3 * (2 * weights + 4 * 2 * 4 * 5)
