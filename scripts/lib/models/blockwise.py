"""Running a model block by block: each decoder block is read once and passes over all windows before the next one.

So no more than one block is in memory, beside embedding and head and the windows' hidden states, and whoever has the
hidden states needs no block at all for the logits. Each block gets what it gets in one pass through the whole model,
in the same batches: the numbers are the same, bit for bit.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from scripts.lib.models import heads, packed
from scripts.lib.models.loading import decoder_blocks, is_empty_bias, load_empty, load_outer, quantization_of
from scripts.lib.runtime.devices import has_room
from scripts.lib.runtime.logs import Progress

FULL = "float32"
PROBE = 8  # tokens of a forward pass that shows which module is which
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them
KEY, SEVERAL, STATES = "of", "several", "states"  # what a file of hidden states holds


class NotByBlocks(Exception):
    """This model cannot be run block by block, for a reason that the log shows; as a whole it can."""


class Place(nn.Module):
    """Stands where a decoder block was, and does what `Blockwise` has set: `act(place, states, arguments)`.

    block: the block itself, whose weights are on no device; no part of this module.
    """

    def __init__(self, block: nn.Module, number: int):
        super().__init__()
        self.__dict__["block"] = block
        self.number, self.act = number, None

    def __getattr__(self, name: str):
        """What models ask of their blocks, such as the kind of their attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args, **kwargs):
        arguments = dict(kwargs)
        states = arguments.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        return self.act(self, states, (args[1:], arguments))


class _Reached(Exception):
    """A pass through a model has come to where it was to end."""


class Blockwise:
    """A model of which embedding, last norm and head are in memory, and one block at a time.

    Args:
        folder: Hugging Face model folder, in any format that `load_dense` reads.
        dtype: of the weights; in half precision final norm and head are in float32.
        device: where it runs.

    Raises:
        NotByBlocks: its blocks cannot be told in its files.
        ValueError: as `load_dense`.
    """

    def __init__(self, folder: Path, dtype: str, device: str):
        self.folder, self.dtype, self.device = folder, getattr(torch, dtype), device
        self.names = _names_of_blocks(folder, dtype)
        self.model = load_outer(folder, dtype, Place).to(device)
        self.places = [self.model.get_submodule(name) for name in self.names]
        self.several = False  # whether a block returns several things, of which the first is its states
        self.ready = dtype == FULL

    @torch.inference_mode()
    def states(self, windows: np.ndarray, batch_size: int) -> torch.Tensor:
        """Output of the last block on token windows [n, window]: [n, window, width], in the weights' dtype.

        They are on the device if they take no more than a quarter of its free memory, else in the host's.

        Raises:
            NotByBlocks: the model does more than to pass states from block to block.
        """
        batches = list(_batches(windows, batch_size))
        if batches:
            self._learn_form(windows[:1, :PROBE])
        states, given = self._embed(windows, batches)
        progress = Progress(len(self.places), "blocks")
        for place in self.places:
            block = self._read(place)
            for batch in batches:
                args, kwargs = given[batch.stop - batch.start, place.number]
                output = block(states[batch].to(self.device), *args, **kwargs)
                output = output[0] if self.several else output
                if output.dtype != states.dtype or output.shape != states[batch].shape:
                    raise NotByBlocks("a block's states are of another type or shape than those it is given")
                states[batch] = output
            block.to("meta")
            progress.update(place.number + 1)
        return states

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, window, vocabulary] of windows [n, window], whose last block has given these states."""
        if not self.ready:
            self._set(lambda place, found, given: self._as_returned(found))
            heads.use_float32(self.model, ids[:1, :PROBE])
            self.ready = True
        last = states.to(self.device)
        self._set(lambda place, found, given: self._as_returned(last if place is self.places[-1] else found))
        return self.model(input_ids=ids, use_cache=False).logits

    def keep(self, states: torch.Tensor, path: Path, key: str) -> None:
        """Write hidden states of all windows to a file, in one step.

        Args:
            key: what they are of: all that decides them.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file({STATES: states.cpu()}, scratch, {KEY: key, SEVERAL: str(self.several)})
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)

    def kept(self, path: Path, key: str, windows: tuple[int, int]):
        """Hidden states of all windows from a file, of which slices are read when they are asked for; None if they are
        not there, are of something else, or cannot be read, as after a crash of the machine.

        Args:
            key: as of `keep`.
            windows: their shape, [n, window].
        """
        if not path.is_file():
            return None
        try:
            file = safe_open(path, "pt")
            about, states = file.metadata() or {}, file.get_slice(STATES)
        except SafetensorError as error:
            logging.getLogger(__name__).warning("%s cannot be read, and is made again: %s", path, error)
            return None
        if about.get(KEY) != key:
            return None
        found = (states.get_dtype(), states.get_shape())
        expected = (DTYPES[self.dtype], [*windows, self._width() or found[1][-1]])
        if found != expected:
            logging.getLogger(__name__).warning(
                "%s holds %s %s where %s %s are asked for, and is made again", path, *found, *expected
            )
            return None
        self.several = about[SEVERAL] == str(True)
        return states

    def _width(self) -> int | None:
        """Numbers of a token's hidden state; None where the config of own code does not say."""
        return getattr(self.model.config.get_text_config(), "hidden_size", None)

    def _as_returned(self, states: torch.Tensor):
        return (states, None, None) if self.several else states

    def _set(self, act) -> None:
        for place in self.places:
            place.act = act

    def _learn_form(self, windows: np.ndarray) -> None:
        """See whether a block returns one thing or several, on a few tokens."""

        def run(place: Place, states: torch.Tensor, given: tuple):
            self.several = not torch.is_tensor(self._read(place)(states, *given[0], **given[1]))
            place.block.to("meta")
            raise _Reached

        self._pass(_ids(windows, self.device), run)

    def _embed(self, windows: np.ndarray, batches: list[slice]) -> tuple[torch.Tensor, dict]:
        """What the first block is given of all windows [n, window, width]; and what each is given besides.

        Returns:
            states, and {(windows in the batch, number of the block): (args, kwargs)}.
        """
        all_states, given = None, {}
        for batch in batches:
            passed = []

            def record(place: Place, states: torch.Tensor, others: tuple, passed=passed):
                if place.number != len(passed) or (passed and states.data_ptr() != passed[0].data_ptr()):
                    raise NotByBlocks("the model does more than to pass states from block to block")
                if not _alike(given.setdefault((len(states), place.number), others), others):
                    raise NotByBlocks("what a block is given besides states depends on the text")
                passed.append(states)
                if place is self.places[-1]:
                    raise _Reached
                return self._as_returned(states)

            self._pass(_ids(windows[batch], self.device), record)
            if all_states is None:
                size = len(windows) * passed[0][0].nbytes
                device = self.device if has_room(4 * size, self.device) else "cpu"
                all_states = passed[0].new_empty((len(windows), *passed[0].shape[1:]), device=device)
            all_states[batch] = passed[0]
        return all_states, given

    def _pass(self, ids: torch.Tensor, act) -> None:
        """Pass windows through the model until `act` raises _Reached."""
        self._set(act)
        with contextlib.suppress(_Reached):
            self.model(input_ids=ids, use_cache=False)

    def _read(self, place: Place) -> nn.Module:
        """A block with its weights, on the device."""
        prefix = f"{self.names[place.number]}."
        quantization, state = quantization_of(self.folder), {}
        known = place.block.state_dict()
        for name, tensor in packed.read_dense(self.folder, quantization, self.device, prefix):
            if (inner := name.removeprefix(prefix)) in known:
                state[inner] = tensor.to(self.dtype).to(self.device)
            elif quantization and not is_empty_bias(name, tensor):
                raise ValueError(f"{self.folder} does not load cleanly: the model has no {name}")
        place.block.load_state_dict(state, assign=True)
        return place.block.eval().requires_grad_(False)


def _names_of_blocks(folder: Path, dtype: str) -> list[str]:
    """Names of a model's decoder blocks.

    Raises:
        NotByBlocks: it has none; or its files do not hold what is in them, and nothing else, under the same names.
    """
    model, quantization = load_empty(folder), quantization_of(folder)
    if dtype != FULL and (model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict):
        raise NotByBlocks(f"{type(model).__name__} keeps some weights in float32")
    try:
        blocks = decoder_blocks(model)
    except ValueError as error:
        raise NotByBlocks(str(error)) from None
    held = packed.dense_names(folder, quantization)
    ignored = re.compile("|".join([*model._keys_to_ignore_on_load_unexpected, r"rotary_emb\.inv_freq$"]))
    for name, block in blocks.items():
        inside = {f"{name}.{inner}" for inner, _ in (*block.named_parameters(), *block.named_buffers())}
        if missing := inside - held:
            raise NotByBlocks(f"its files do not hold {min(missing)}")
        others = {other for other in held - inside if other.startswith(f"{name}.") and not ignored.search(other)}
        if others and not (quantization and all(other.endswith(".bias") for other in others)):
            raise NotByBlocks(f"its files hold {min(others)}, and the model does not")
    return list(blocks)


def _batches(windows: np.ndarray, batch_size: int) -> Iterator[slice]:
    for first in range(0, len(windows), batch_size):
        yield slice(first, min(first + batch_size, len(windows)))


def _ids(windows: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(windows.astype(np.int64)).to(device)


def _alike(one, other) -> bool:
    """Whether two nested structures of arguments are the same, tensors by their values."""
    if torch.is_tensor(one):
        return torch.is_tensor(other) and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    return one is other or one == other
