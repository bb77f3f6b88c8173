"""audit_kernels: packed models of the finished smoke study by their libraries' kernels."""

import subprocess
import sys

import polars
import pytest
import torch


@pytest.mark.full
def test_kernels_agree_with_dense_weights(tree):
    done = subprocess.run(
        [sys.executable, "-m", "scripts.commands.audit_kernels", "smoke"],
        cwd=tree,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = polars.read_parquet(tree / "results/tables/smoke/kernels.parquet")
    assert set(table["method"]) == {"gptq-w3-g16", "nf4"}
    gptq = table.filter(method="gptq-w3-g16")
    assert gptq["problem"].null_count() == gptq.height == 3
    assert gptq.select(polars.col("difference").abs().max()).item() < 1e-3
    nf4 = table.filter(method="nf4").row(0, named=True)
    if torch.cpu._is_avx512_bf16_supported():  # the width is below a block of 64: these CPUs' kernels cannot run it
        assert "invalid for input" in nf4["problem"]
    else:
        assert abs(nf4["difference"]) < 1e-2
