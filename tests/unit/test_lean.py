"""lean: a process that loads models does not import what it never uses."""

import subprocess
import sys

CODE = """
import sys
import scripts.lib.checks.gate
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM, LlamaForCausalLM
print("IMPORTED", *(name for name in ("hqq", "sklearn", "torchao", "scipy.optimize") if name in sys.modules))
"""


def test_heavy_packages_stay_out():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition("IMPORTED")[2].split() == []
