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
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from scripts.lib.models import heads, packed
from scripts.lib.models.forward import batch_losses, halving, rows_at_once
from scripts.lib.models.loading import (
    block_linears,
    decoder_blocks,
    is_empty_bias,
    load_dense,
    load_empty,
    load_outer,
    quantization_of,
)
from scripts.lib.runtime.devices import has_room
from scripts.lib.runtime.logs import Progress
from scripts.lib.runtime.shortages import Refused

FULL = "float32"
MOST_STATES, BY_WEIGHTS = 4 * 2**30, 8  # bytes of all windows' hidden states, and more for each byte of the weights
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


class Passing(NamedTuple):
    """Token windows on their way through a model.

    states: hidden states [n, window, width], which each block changes.
    given: what a block is given besides, by the windows of a batch and the number of the block: args, kwargs.
    batches: places of the windows that pass at once.
    """

    states: torch.Tensor
    given: dict[tuple[int, int], tuple]
    batches: list[slice]


class Blockwise:
    """A model of which embedding, last norm and head are in memory, and one block at a time.

    names: of its blocks. linears: names of the linear layers in them.

    Args:
        folder: Hugging Face model folder, in any format that `load_dense` reads.
        dtype: of the weights.
        device: where it runs.
        exact_head: whether in half precision final norm and head are in float32.

    Raises:
        NotByBlocks: its blocks cannot be told in its files.
        ValueError: as `load_dense`.
    """

    def __init__(self, folder: Path, dtype: str, device: str, exact_head: bool = True):
        self.folder, self.dtype, self.device = folder, getattr(torch, dtype), device
        empty = load_empty(folder)
        self.names, self.linears = _names_of_blocks(empty, folder, dtype), set(block_linears(empty))
        self._take(load_outer(folder, empty, dtype, Place).to(device), dtype == FULL or not exact_head)

    def _take(self, model: nn.Module, ready: bool) -> None:
        """Have a model in which places stand for blocks; `ready`: its head is as it is to be."""
        self.model, self.ready = model, ready
        self.places = [model.get_submodule(name) for name in self.names]
        self.several = False  # whether a block returns several things, of which the first is its states
        self.state = 0  # bytes of a token's hidden state, once it is learned

    def states(self, windows: np.ndarray, batch_size: int) -> torch.Tensor:
        """Output of the last block on token windows [n, window]: [n, window, width], in the weights' dtype.

        They are on the device if they take no more than a quarter of its free memory, else in the host's.

        Raises:
            NotByBlocks: the model does more than to pass states from block to block.
            Refused: the states are far larger than the model.
        """
        passing = self.begin(windows, batch_size)
        progress = Progress(len(self.places), "blocks")
        for number in range(len(self.places)):
            self.run(number, passing)
            progress.update(number + 1)
        return passing.states

    @torch.inference_mode()
    def begin(self, windows: np.ndarray, batch_size: int) -> Passing:
        """Token windows [n, window] as the first block gets them.

        Raises:
            NotByBlocks, Refused: as `states`.
        """
        batches = list(_batches(windows, batch_size))
        if batches:
            if not self.state:
                self._learn_form(windows[:1, :PROBE])
            self._require_room(windows.size)
        return Passing(*self._embed(windows, batches), batches)

    @torch.inference_mode()
    def run(self, number: int, *several: Passing) -> None:
        """Pass windows, of one length or of several, through a block, which is read if need be, and gone afterwards.

        Raises:
            NotByBlocks: as `states`.
        """
        block = self.read(number)
        for passing in several:
            states = passing.states
            for batch in passing.batches:
                args, kwargs = passing.given[batch.stop - batch.start, number]
                output = block(states[batch].to(self.device), *args, **kwargs)
                output = output[0] if self.several else output
                if output.dtype != states.dtype or output.shape != states[batch].shape:
                    raise NotByBlocks("a block's states are of another type or shape than those it is given")
                states[batch] = output
        self._leave(block)

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
        """See whether a block returns one thing or several, and how large states are, on a few tokens."""

        def run(place: Place, states: torch.Tensor, given: tuple):
            self.state = states.nbytes // windows.size
            self.several = not torch.is_tensor(self.read(place.number)(states, *given[0], **given[1]))
            raise _Reached

        self._pass(_ids(windows, self.device), run)

    def _require_room(self, tokens: int) -> None:
        """Check that hidden states of so many tokens are not far larger than the model: width costs a file little.

        Raises:
            Refused: they are.
        """
        most = MOST_STATES + BY_WEIGHTS * self._weights
        if (size := tokens * self.state) > most:
            raise Refused(
                f"hidden states of {tokens} tokens take {size / 1e9:.1f} GB, {self.state} bytes each, and a model of "
                f"{self._weights / 1e9:.2f} GB is given {most / 1e9:.1f} GB at most"
            )

    @cached_property
    def _weights(self) -> int:
        """Bytes of all weights, counted once: tasks begin with thousands of batches."""
        blocks = (place.block for place in self.places)
        return sum(tensor.nbytes for part in (self.model, *blocks) for tensor in part.state_dict().values())

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

    def tensors(self) -> set[str]:
        """Names of all tensors of the model."""
        inside = {f"{self.names[place.number]}.{name}" for place in self.places for name in place.block.state_dict()}
        return set(self.model.state_dict()) | inside

    @torch.inference_mode(False)
    def read(self, number: int) -> nn.Module:
        """A block with its weights, on the device.

        Raises:
            ValueError: as `load_dense`.
        """
        place, prefix = self.places[number], f"{self.names[number]}."
        known = place.block.state_dict()
        if known and not any(tensor.is_meta for tensor in known.values()):
            return place.block
        quantization, state = quantization_of(self.folder), {}
        for name, tensor in packed.read_dense(self.folder, quantization, self.device, prefix):
            if (inner := name.removeprefix(prefix)) in known:
                state[inner] = tensor.to(self.dtype).to(self.device)
            elif quantization and not is_empty_bias(name, tensor):
                raise ValueError(f"{self.folder} does not load cleanly: the model has no {name}")
        place.block.load_state_dict(state, assign=True)
        return place.block.eval().requires_grad_(False)

    def _leave(self, block: nn.Module) -> None:
        block.to("meta")


class Resident(Blockwise):
    """A model in the host's memory, whose blocks come to the device one at a time; on leaving it is as it was.

    Raises:
        NotByBlocks: it has no list of blocks.
    """

    def __init__(self, model: nn.Module, device: str):
        try:
            self.blocks = decoder_blocks(model)
        except ValueError as error:
            raise NotByBlocks(str(error)) from None
        self.names, self.device = list(self.blocks), device
        for number, (name, block) in enumerate(self.blocks.items()):
            model.set_submodule(name, Place(block, number))
        self._take(model.to(device), ready=True)

    def __enter__(self) -> "Resident":
        return self

    def __exit__(self, *_) -> None:
        for name, block in self.blocks.items():
            self.model.set_submodule(name, block)
        self.model.to("cpu")

    def read(self, number: int) -> nn.Module:
        """A block on the device."""
        return self.places[number].block.to(self.device)

    def _leave(self, block: nn.Module) -> None:
        block.to("cpu")


class Whole:
    """A model that cannot be run block by block, used as `Blockwise` is: all of it is one block.

    Args:
        folder, dtype: as of `load_dense`.
        device: to which it comes when it runs.
    """

    def __init__(self, folder: Path, dtype: str, device: str):
        quantization, self.device = quantization_of(folder), device
        layers = packed.read_layers(folder, quantization, device) if quantization else None
        self.names, self.model = [""], load_dense(folder, dtype, layers)
        self.linears = set(block_linears(self.model))

    def tensors(self) -> set[str]:
        """Names of all tensors of the model."""
        return set(self.model.state_dict())

    def read(self, number: int) -> nn.Module:
        """The model, wherever it is."""
        return self.model

    def begin(self, windows: np.ndarray, batch_size: int) -> Passing:
        """Nothing passes before there are to be logits."""
        return Passing(torch.empty(len(windows), 0), {}, [])

    def run(self, number: int, passing: Passing) -> None:
        """Nothing, too."""

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, window, vocabulary] of windows [n, window]."""
        return self.model.to(self.device)(input_ids=ids, use_cache=False).logits


def passed(folder: Path, dtype: str, device: str, windows: np.ndarray) -> tuple[Blockwise | Whole, torch.Tensor]:
    """A model, by blocks or else whole, and its hidden states of token windows [n, window]; with its head as it is."""
    try:
        model = Blockwise(folder, dtype, device, exact_head=False)
        return model, model.states(windows, rows_at_once(windows, model.model.config.vocab_size))
    except NotByBlocks as reason:
        logging.getLogger(__name__).info("%s is loaded whole: %s", folder, reason)
    model = Whole(folder, dtype, device)
    return model, model.begin(windows, 1).states


def mean_losses(model: Blockwise | Whole, states: torch.Tensor, windows: np.ndarray) -> np.ndarray:
    """As `forward.window_losses` of a model, whose hidden states of the windows are these."""
    tokens = torch.from_numpy(windows.astype(np.int64))

    def measure(rows: torch.Tensor) -> torch.Tensor:
        batch = slice(int(rows[0]), int(rows[-1]) + 1)
        ids = tokens[batch].to(model.device)
        return batch_losses(model.logits(ids, states[batch]).float(), ids)

    rows = torch.arange(len(windows)).split(rows_at_once(windows, model.model.config.vocab_size))
    with torch.inference_mode():
        return torch.cat([loss for part in rows for loss in halving(measure, part)]).numpy()


def _names_of_blocks(model: nn.Module, folder: Path, dtype: str) -> list[str]:
    """Names of the decoder blocks of a model, here without its weights.

    Raises:
        NotByBlocks: it has none; or its files do not hold what is in them, and nothing else, under the same names.
    """
    quantization = quantization_of(folder)
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
