"""Whether a model folder will load, judged as transformers judges it when it loads, but without reading its weights."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

from scripts.lib.models import lean  # noqa: F401 - before transformers' models  # isort: skip

import torch
from tokenizers import Tokenizer
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.modeling_utils import PreTrainedModel, load_state_dict
from transformers.utils import logging

from scripts.lib.models import own_code
from scripts.lib.models.folders import INDEX, validate_model_folder, weight_files
from scripts.lib.models.loading import decoder_blocks, load_empty
from scripts.lib.runtime.confined import more_memory, streamed
from scripts.lib.runtime.shortages import is_shortage
from scripts.lib.runtime.untrusted import read_json

MEMORY, SECONDS = 4 * 2**30, 100  # bytes, and time on a core, to make a model without weights and run it: some need 5 s
MOST_COUNTED = 10_000  # blocks, experts, labels: transformers makes lists of them before it makes a model
COUNTED = re.compile(r"(layers?|blocks?|experts?|labels?|depths?|replace|attention_types)\Z")  # ends of their keys
MOST_BUFFERS = 2**28  # bytes beyond those of the weights: masks and tables of positions, which no file holds
MOST_HELD = 2**31  # bytes beyond twice the weights, at any time of a pass over few tokens: Mamba 2 pads them to 256
TRIED = 8  # tokens
MOST_BLOCKS = 1_000  # of a model, of which each is read and run by itself; the deepest known have 130
WINDOW = 2_048  # tokens
MOST_WIDE, BY_WEIGHTS = 2**32, 8  # bytes of a layer's values for a window, and more for each byte of the weights
WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # others are loaded as if they were numbers
OPERATIONS = torch.ops.aten
ASKED = (OPERATIONS.is_nonzero.default, OPERATIONS.item.default, OPERATIONS._local_scalar_dense.default)  # for a number
SHAPES = re.compile(r"\b(shape|size of tensor|mat1 and mat2)")  # in torch's messages
NAMES_SHOWN, LONGEST_CAUSE = 3, 200  # tensors, characters


def require_loadable(folder: Path | str) -> None:
    """Check that a model folder is whole, and that its weights are those of the model that its config.json makes.

    Nothing is said of the weights of models that own code makes, for it is not run for this. The model is made in a
    child of this process, for what a config makes transformers do may have no end.

    Raises:
        ValueError: transformers cannot make the model, or takes more than `MEMORY` or `SECONDS` for it, or weights are
            missing, unexpected or of the wrong shape; the message names folder and tensors.
        MemoryError: the machine has too little.
    """
    folder = Path(folder)
    config = validate_model_folder(folder)
    if config.get("quantization_config") is not None:
        raise ValueError(f"{folder}/config.json has a `quantization_config`: it is quantized already; take another one")
    if "transformers_weights" in config:  # a file to load instead of those that were checked
        raise ValueError(f"{folder}/config.json: `transformers_weights` chooses other weight files; take it out")
    if (folder / INDEX).is_file() and not isinstance(read_json(folder / INDEX).get("metadata"), dict):
        raise ValueError(f"{folder / INDEX} has no `metadata`, without which transformers does not load it")
    _require_few(folder, config)
    if own_code.pinned(folder):
        return
    try:
        (problems,) = streamed(lambda: _in_child(folder), MEMORY, SECONDS)
    except ValueError as error:
        problems = f"{error} (to make the model of its config.json and to run it on {TRIED} tokens, without weights)"
    if problems:
        raise ValueError(f"{folder} does not load: {problems}")


def largest_weights(folder: Path | str) -> int:
    """Bytes of the weights of the model that a folder's config.json makes, in the widest type; made in a child.

    Raises:
        ValueError: transformers cannot make it, or takes more than `MEMORY` or `SECONDS` for it.
    """
    folder = Path(folder)
    _require_few(folder, read_json(folder / "config.json"))

    def count_in_child() -> Iterator[int]:
        torch.set_num_threads(1)
        with _silently():
            yield sum(tensor.numel() for tensor in load_empty(folder).state_dict().values()) * torch.float64.itemsize

    try:
        (size,) = streamed(count_in_child, MEMORY, SECONDS)
    except ValueError as error:
        raise ValueError(f"transformers makes no model of its config.json ({error})") from error
    return size


def _require_few(folder: Path, config: dict) -> None:
    """Check how many blocks, experts and labels a config asks for, of which transformers makes lists; ValueError."""
    if too_many := [f"`{key}` is {value}" for key, value in _counts(config) if value > MOST_COUNTED]:
        raise ValueError(f"{folder}/config.json asks for too much: {', '.join(too_many)}")


def _in_child(folder: Path) -> Iterator[str]:
    """`_problems`, in a process that torch's threads have not followed into."""
    torch.set_num_threads(1)
    yield _problems(folder)


def _problems(folder: Path) -> str:
    """What loading would complain of, for people; nothing if it would not."""
    tensors = {}
    for file in weight_files(folder):
        tensors |= load_state_dict(file, map_location="meta")
    stored = sum(file.stat().st_size for file in weight_files(folder))
    with _silently():
        try:
            with _at_most(4 * len(tensors) + 100):
                empty = load_empty(folder)
            config = empty.config
            if hidden := sorted(key for key in vars(config) if callable(getattr(type(config), key, None))):
                return f"config.json sets {', '.join(hidden[:NAMES_SHOWN])}, by which transformers works on configs"
            buffers = sum(buffer.nbytes for buffer in empty.buffers())
            if buffers > stored + MOST_BUFFERS:
                return f"the model has {buffers} bytes of tables beside its weights, which have {stored}"
            if wrong := _too_deep(empty):
                return wrong
            settings = {
                "local_files_only": True,
                "output_loading_info": True,
                "device_map": {"": "meta"},
                "dtype": torch.float32,
                "ignore_mismatched_sizes": True,
            }
            settings["attn_implementation"] = "eager"  # whose shapes are checked without numbers too
            load = partial(type(empty).from_pretrained, None, config=config, **settings)
            model, info = load(state_dict=tensors)
            tokens, rows = _tokens(folder), empty.get_input_embeddings().weight.shape[0]
            if found := [f"{kind.removesuffix('_keys')}: {_some(names)}" for kind, names in info.items() if names]:
                return "; ".join(found)
            if wrong := _too_wide(empty, stored):
                return wrong
            if twice := _twice(model, tensors):
                return f"it has one tensor under two names: {_some(twice)}"
            if wrong := _wrong_types(load, tensors, model):
                return wrong
            if tokens > rows:
                return f"its tokenizer has ids up to {tokens - 1}, and the model {rows} tokens"
            return _wrong_pass(model)
        except Exception as error:  # whatever a config that nobody checked makes transformers raise
            if isinstance(error, MemoryError | RuntimeError) and is_shortage(error):
                raise
            return f"transformers makes no model of its config.json ({_first_line(error)})"


def _too_deep(model: PreTrainedModel) -> str:
    """Whether a model has too many blocks."""
    with suppress(ValueError, AttributeError):  # of a model without a list of blocks
        if (found := len(decoder_blocks(model))) > MOST_BLOCKS:
            return f"the model has {found} blocks, and {MOST_BLOCKS} at most are run"
    return ""


def _too_wide(model: PreTrainedModel, stored: int) -> str:
    """Which tensor is so wide that what a text or a statistic makes of it is far larger than the model's files.

    GPTQ and describe_layers keep X^T X of the inputs of a layer in float64; a window has a value for each row or column
    of any matrix, in float32, and a square of itself for each head. They cost a file little where the other side is
    short.

    Args:
        model: without its weights.
        stored: bytes of the files.
    """
    most = MOST_WIDE + BY_WEIGHTS * stored
    needed = {
        f"{name}.weight": torch.float64.itemsize * module.in_features**2
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    for name, item in model.named_parameters():
        if item.ndim > 1:
            wide = torch.float32.itemsize * WINDOW * max(item.shape[-2:])
            needed[name] = max(needed.get(name, 0), wide)
    named = {f"{name} is {list(model.get_parameter(name).shape)}": size for name, size in needed.items()}
    heads = getattr(model.config.get_text_config(), "num_attention_heads", None)
    if isinstance(heads, int):
        named[f"`num_attention_heads` is {heads}"] = torch.float32.itemsize * WINDOW**2 * heads
    what = max(named, key=named.get, default="")
    if named.get(what, 0) <= most:
        return ""
    return (
        f"{what}, which takes {named[what] / 1e9:.1f} GB for a window of {WINDOW} tokens or for statistics; a model "
        f"whose files have {stored / 1e9:.2f} GB is given {most / 1e9:.1f} GB at most"
    )


def _wrong_types(load: Callable, tensors: dict[str, torch.Tensor], model: torch.nn.Module) -> str:
    """Which parameters transformers would make of numbers that are no weights, such as codes; buffers may be integers.

    Those are missing where a state is loaded without such tensors, whatever the class calls its tensors or merges.
    Tensors of 8-bit floats are refused under any name, since torch cannot add them up, or find the largest.
    """
    others = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in WEIGHTS}
    if not others:
        return ""
    _, info = load(state_dict={name: tensors[name] for name in tensors.keys() - others.keys()})
    wrong = info["missing_keys"] & {name for name, _ in model.named_parameters(remove_duplicate=False)}
    wrong |= {name for name, dtype in others.items() if dtype.is_floating_point}
    kinds = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in others.values()}))
    return f"{kinds} is no type of weights (float16, bfloat16, float32 or 64): {_some(wrong)}" if wrong else ""


def _twice(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Names of tensors that transformers takes for one of the model's, each pair as `a and b`; one would be lost.

    It puts a prefix before names or takes it off, and has other names for some (`gamma`), as its own loading does here.
    """
    mapping, own, prefix = get_model_conversion_mapping(model), model.state_dict(), model.base_model_prefix
    kinds = [[entry for entry in mapping if isinstance(entry, kind)] for kind in (WeightRenaming, WeightConverter)]
    first, twice = {}, set()
    for name in sorted(names):
        renamed, merged = rename_source_key(name, *kinds, prefix, own)
        if renamed not in own and name in own:
            renamed = name
        known = name.removeprefix(f"{prefix}.") if merged else renamed  # of many that become one, each is its own
        if (other := first.setdefault(known, name)) != name:
            twice.add(f"{other} and {name}")
    return twice


class _Excess(Exception):
    """A model takes more memory than any of its size."""


class _Bounded(TorchDispatchMode):
    """Stop a pass as soon as its tensors, with those that they are views of, have more bytes at a time than `most`.

    On the meta device they take no memory. Where a model asks whether all of a mask is set, it is told so, that the
    pass goes on; what is wrong after that may be the answer's fault.

    Attributes:
        answered: whether that happened.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most, self.held, self.answered = most, WeakIdKeyDictionary(), False

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        if operation in ASKED and given[0].is_meta and given[0].dtype == torch.bool:
            self.answered = True
            return True
        made = operation(*given, **(named or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                memory = tensor.untyped_storage()
                self.held[memory] = memory.nbytes()
        if (found := sum(self.held.values())) > self.most:
            raise _Excess(f"it takes {found / 1e9:.0f} GB or more to read {TRIED} tokens, not {self.most / 1e9:.1f}")
        return made


def _wrong_pass(model: torch.nn.Module) -> str:
    """What is wrong with a pass over a few tokens by a model without numbers; nothing where only numbers could tell."""
    tokens = torch.ones(1, TRIED, dtype=torch.long, device="meta")
    bounded = _Bounded(2 * sum(parameter.nbytes for parameter in model.parameters()) + MOST_HELD)
    try:
        with torch.inference_mode(), more_memory(MOST_HELD), bounded:
            model(input_ids=tokens, attention_mask=tokens, use_cache=False).logits  # noqa: B018 - whether there are any
    except _Excess as error:
        return str(error)
    except Exception as error:
        # Of torch's errors, those that shapes do not fit; others are of a kernel that wants numbers, or another dtype.
        told = SHAPES.search(str(error)) or is_shortage(error) or not isinstance(error, RuntimeError)
        return f"it cannot be run ({_first_line(error)})" if told and not bounded.answered else ""
    return ""


def _first_line(error: Exception) -> str:
    """The kind of an error, and the beginning of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:LONGEST_CAUSE]}"


def _tokens(folder: Path) -> int:
    """One more than the largest id that a tokenizer gives plain text; 0 if its file cannot tell.

    Added tokens are not counted: Gemma 3 has one for images that its text models have no row for.
    """
    path = folder / "tokenizer.json"
    vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=False) if path.is_file() else {}
    return max(vocabulary.values(), default=-1) + 1


def _some(names: set[str] | set[tuple]) -> str:
    """The first few names, and how many more there are; a mismatched tensor comes with both of its shapes."""
    shown = [
        name if isinstance(name, str) else "{} is {}, not {}".format(name[0], *map(list, name[1:])) for name in names
    ]
    more = f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    return ", ".join(sorted(shown)[:NAMES_SHOWN]) + more


def _counts(content: object, counted: str = "") -> Iterator[tuple[str, int]]:
    """The numbers in a config, at any depth, that say how many blocks, experts or labels there are, with their keys."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _counts(value, key if COUNTED.search(key) else "")
    elif isinstance(content, list):
        for value in content:
            yield from _counts(value, counted)
    elif counted and isinstance(content, int):
        yield counted, content


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Stop a model from being made as soon as it has more parameters than so many."""
    seen = count(1)

    def register(module, name, parameter) -> None:
        if next(seen) > most:
            raise ValueError(f"the model has more than {most} tensors, far more than the files")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _silently() -> Iterator[None]:
    """Without transformers' own report of a loading, and its progress bar."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
