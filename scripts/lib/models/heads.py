"""The head of a language model, which turns hidden states into logits."""

import copy

import torch
from torch import nn


@torch.inference_mode()
def use_float32(model: nn.Module, ids: torch.Tensor) -> None:
    """Let a model in half precision compute its final norm and its logits in float32, from half-precision states.

    Logits of 16 and more are rounded to steps of 0.06 and more in bfloat16, which alone makes a divergence of about
    0.001 nats; casting them afterwards changes nothing. The final norm is found as the module whose output is the
    head's input; where something stands between the two, as in a model that scales its states, the norm stays as it is.

    Args:
        model: on the device where it is used.
        ids: token ids [n, window] of one short forward pass.

    Raises:
        ValueError: transformers does not know the model's head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(
            f"transformers does not say which layer of {type(model).__name__} is its head, so that its logits cannot "
            "be computed in float32; evaluate this model with `compute: {dtype: float32}`"
        )
    for module in (_final_norm(model, head, ids), head):
        if module is not None:
            name = next(name for name, found in model.named_modules() if found is module)
            exact = copy.deepcopy(module).float()
            exact.register_forward_pre_hook(_cast)
            model.set_submodule(name, exact)


def _cast(module: nn.Module, inputs: tuple) -> tuple:
    return tuple(item.float() if torch.is_tensor(item) else item for item in inputs)


def _final_norm(model: nn.Module, head: nn.Module, ids: torch.Tensor) -> nn.Module | None:
    """The module with weights of its own whose output is the input of the head; None if there is none."""
    outputs, inputs = [], []
    hooks = [head.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))]
    for module in model.modules():
        if module is not head and next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_hook(lambda module, args, output: outputs.append((module, output))))
    model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    places = {output.data_ptr(): module for module, output in outputs if torch.is_tensor(output)}
    return places.get(inputs[0].data_ptr())
