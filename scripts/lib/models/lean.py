"""Imports that transformers need not do; imported before its models by whatever starts many short processes.

With its first model transformers imports hqq (with torch's compiler), scikit-learn, torchao and SciPy's optimizers
where they are installed, for quantized caches, assisted generation, a quantizer and losses that nothing here uses: two
fifths of the CPU time that such a process takes to start.
"""

from transformers import utils

for name in ("hqq", "sklearn", "torchao", "scipy"):
    setattr(utils, f"is_{name}_available", lambda *args, **kwargs: False)
