"""Every measurement runs; none of them is held to a time."""

import math
from pathlib import Path

import pytest

from tests.benchmarks import measures

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.full
def test_every_measurement_gives_numbers(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    folder = measures.model_folder(tmp_path / "model", TINY, tmp_path / "tokenizer")
    found = [
        measures.loss_throughput(folder, 16, 1),
        measures.training_throughput(tmp_path / "tokenizer", 2, 1),
        measures.gate_nanoseconds(3, 1),
        measures.quantize_parts(folder, Path("config/recipes/rtn-w3-g32.yaml"), 8),
        measures.memory_of_stages(folder, "bfloat16", folder),
        {"publish": measures.child_seconds("import scripts.publish")},
    ]
    assert all(math.isfinite(value) for numbers in found for value in numbers.values())
    assert found[0]["ratio"] > 0
    assert measures.start_up_share(tmp_path / "none.parquet", {}) is None
