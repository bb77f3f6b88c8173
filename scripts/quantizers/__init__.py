"""Quantization libraries behind one interface: one file a library, imported only when a recipe asks for it.

Each module has `quantize(model_folder, recipe, calibration, out, device) -> dict`: it writes a Hugging Face model
folder to `out` and returns {"format", "bits", "group_size", "symmetric", "bits_per_weight", "dense"}; `dense` maps the
names of the quantized layers to their dequantized weights [out, in] (float32, CPU) as they were in memory.
"""

import importlib

LIBRARIES = ("rtn", "gptqmodel", "bitsandbytes")


class Refused(Exception):
    """This cell cannot be computed, for a reason that the report shows; the job itself has not failed."""


def load_quantizer(library: str):
    """The `quantize` function of a library, imported now.

    Raises:
        KeyError: there is no such library; recipes are checked against their schema before.
    """
    if library not in LIBRARIES:
        raise KeyError(f"there is no quantizer `{library}`; there are: {', '.join(LIBRARIES)}")
    return importlib.import_module(f"scripts.quantizers.{library}").quantize
