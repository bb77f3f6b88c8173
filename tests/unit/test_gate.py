"""gate: what is saved or reloads wrongly, provoked on purpose, is caught each time with a reason."""

import dataclasses
import gc
import resource
import signal
import sys
import weakref

import numpy as np
import pytest
import torch
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform import QuIPModifier
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from scripts.lib.checks.gate import (
    Gate,
    Mismatch,
    check_levels,
    check_size,
    compare_losses,
    compare_weights,
    judge,
    project,
    save_projections,
)
from scripts.lib.models import blockwise
from scripts.lib.models.blockwise import Blockwise
from scripts.lib.models.forward import window_losses
from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import load_dense
from scripts.lib.runtime.shortages import Refused, refusing
from scripts.quantizers import load_quantizer
from scripts.quantizers.llmcompressor import integer_scheme, run
from scripts.quantizers.rtn import round_to_nearest
from scripts.quantizers.tools import run_program
from tests.unit.test_quantize import CALIBRATION, PROBE, RTN, recipe


class Saved:
    """A model quantized and saved as the stage does it, and the question to the gate; tests break it in between."""

    def __init__(self, source, tmp_path, method, forward_first=False):
        tmp_path.mkdir(exist_ok=True)
        self.folder = tmp_path / "saved"
        quantized = load_quantizer(method["library"])(source, method, CALIBRATION, "cpu")
        save_projections(quantized.weights(), tmp_path / "expected.safetensors")
        losses = window_losses(quantized.model, PROBE) if forward_first else None
        quantized.save(self.folder)
        losses = window_losses(quantized.model, PROBE) if losses is None else losses
        np.save(tmp_path / "probe.npy", PROBE)
        self.question = {
            "reference": str(source),
            "folder": str(self.folder),
            "expected": str(tmp_path / "expected.safetensors"),
            "windows": str(tmp_path / "probe.npy"),
            "losses": losses.tolist(),
            "dtype": "float32",
            "device": "cpu",
            "grid": dataclasses.asdict(quantized.grid),
        }

    def change(self, edit):
        path = self.folder / "model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    def reason(self, **changes):
        return judge(**self.question | changes)["reason"]


@pytest.fixture
def rounded(tiny_model, tmp_path):
    return Saved(tiny_model, tmp_path, RTN)


def first(tensors, part):
    return next(name for name in sorted(tensors) if part in name and name.endswith("weight"))


def test_a_correct_save_passes(rounded):
    assert rounded.reason() is None
    assert rounded.reason(dtype="bfloat16") is None


def test_a_changed_weight_is_caught(rounded):
    rounded.change(lambda tensors: tensors[first(tensors, "mlp")].mul_(1.5))
    assert "from the quantized model in memory" in rounded.reason()


def test_one_changed_number_is_caught(rounded):
    def edit(tensors):
        tensors[first(tensors, "mlp")][3, 5] += 0.5

    rounded.change(edit)
    assert "from the quantized model in memory" in rounded.reason()


def test_a_changed_kept_tensor_is_caught(rounded):
    rounded.change(lambda tensors: tensors[first(tensors, "embed")].add_(1e-6))
    assert "was to stay as it is" in rounded.reason()


def test_a_missing_tensor_is_caught(rounded):
    rounded.change(lambda tensors: tensors.pop(first(tensors, "mlp")))
    assert "does not reload" in rounded.reason()


def test_an_unexpected_tensor_is_caught(rounded):
    rounded.change(lambda tensors: tensors.update({"model.rotation": torch.ones(4)}))
    assert "does not reload" in rounded.reason()


def test_a_truncated_file_is_caught(rounded):
    path = rounded.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "does not reload" in rounded.reason()


def test_more_values_than_the_bits_allow_are_caught(rounded):
    assert "2 bits allow 4" in rounded.reason(grid=rounded.question["grid"] | {"bits": 2})


def test_a_loss_that_moved_is_caught(rounded):
    losses = [loss + 0.01 for loss in rounded.question["losses"]]
    assert "in memory and" in rounded.reason(losses=losses)
    assert "nan in memory" in rounded.reason(losses=[float("nan")] * len(losses))


@pytest.mark.parametrize("method", ["gptq-w3-g64", "gptq-w3-g64-natural-llmcompressor"])
def test_swapped_scales_are_caught(tiny_model, tmp_path, method):
    saved = Saved(tiny_model, tmp_path, recipe(method))
    ending = "scales" if "gptqmodel" in recipe(method)["library"] else "weight_scale"

    def swap(tensors):
        names = [name for name in sorted(tensors) if name.endswith(ending)]
        one = names[0]
        other = next(name for name in names[1:] if tensors[name].shape == tensors[one].shape)
        tensors[one], tensors[other] = tensors[other], tensors[one]

    assert saved.reason() is None
    saved.change(swap)
    assert "from the quantized model in memory" in saved.reason()


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory, tiny_tokenizer):
    """Folder of a random GPT-NeoX of width 64, which bitsandbytes' CPU kernels and GPTQModel's AWQ can handle."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("gpt_neox", vocab_size=64, max_position_embeddings=64, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.mul_(2)  # predictions far from uniform
    folder = tmp_path_factory.mktemp("models") / "wide"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="only these CPUs repack weights")
def test_bitsandbytes_saved_after_a_forward_pass_is_caught(wide_model, tmp_path):
    assert Saved(wide_model, tmp_path / "first", recipe("nf4")).reason() is None
    assert Saved(wide_model, tmp_path / "late", recipe("nf4"), forward_first=True).reason()


def test_awq_on_gpt_neox_as_transformers_reads_it_is_caught(wide_model, tmp_path, monkeypatch):
    """GPTQModel quantizes it and transformers reloads it without an error, as nonsense."""
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import AWQConfig

    monkeypatch.chdir(tmp_path)
    config = AWQConfig(bits=4, group_size=32, offload_to_disk=False)
    model = GPTQModel.load(str(wide_model), config, device="cpu", dtype=torch.bfloat16)
    windows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in CALIBRATION]
    model.quantize(windows, batch_size=8, backend=BACKEND.AWQ_TORCH)
    model.save(str(tmp_path / "awq"))
    with pytest.raises(ValueError, match="`awq` are not read"):
        load_dense(tmp_path / "awq")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "awq", dtype=torch.float32)
    expected = window_losses(load_dense(wide_model), PROBE)
    with pytest.raises(Mismatch, match="reloads wrongly"):
        compare_losses(expected.mean(), window_losses(reloaded, PROBE).mean(), expected.mean(), "float32")


def test_quip_of_llmcompressor_is_caught(tiny_model, tmp_path):
    """Its rotations are saved as tensors that no loader asks for."""
    if tiny_model.name != "llama":
        pytest.skip("it fails on GPT-NeoX while it quantizes")
    model = load_dense(tiny_model)
    scheme = integer_scheme(3, 16, True)
    run(
        model,
        [
            QuIPModifier(transform_type="random-hadamard"),
            QuantizationModifier(config_groups={"b": scheme}, ignore=["lm_head"]),
        ],
        None,
    )
    model.save_pretrained(tmp_path / "quip", save_compressed=True)
    with pytest.raises(ValueError, match="does not load cleanly"):
        load_dense(tmp_path / "quip")


def test_a_layer_left_as_it_was_is_caught(rounded):
    source = load_file(f"{rounded.question['reference']}/model.safetensors")

    def edit(tensors):
        name = first(tensors, "mlp")
        tensors[name] = source[name]
        expected = load_file(rounded.question["expected"])
        expected[name.removesuffix(".weight")] = project(source[name])
        save_file(expected, rounded.question["expected"])

    rounded.change(edit)
    assert "as it was" in rounded.reason()


def test_a_layer_that_memory_does_not_know_is_caught(rounded):
    expected = load_file(rounded.question["expected"])
    name = next(iter(expected))
    save_file({key: value for key, value in expected.items() if key != name}, rounded.question["expected"])
    assert name in rounded.reason()


def test_a_changed_row_of_small_weights_is_caught():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[3] *= 1e-3
    compare_weights("layer", weight, weight + 1, project(weight))
    changed = weight.clone()
    changed[3] = 0
    with pytest.raises(Mismatch, match="layer reloads"):
        compare_weights("layer", changed, weight + 1, project(weight))


def test_files_larger_than_their_grid_are_caught():
    check_size("layer", 3.5, 10**6, Grid(3, 16, True))
    with pytest.raises(Mismatch, match=r"28\.1 bits"):
        check_size("layer", 28.1, 10**6, Grid(3, 16, True))


def raised(call):
    """What a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def beyond_a_limit(write):
    """What writing a file raises that is larger than this process may write, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        return raised(write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_failures_of_the_machine_are_not_refusals(tmp_path):
    failures = [
        MemoryError(),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(28, "No space left on device"),
        Exception("No space left on device (os error 28)"),  # of tokenizers
        raised(lambda: torch.empty(2**55)),
        beyond_a_limit(lambda: save_file({"a": torch.ones(9999)}, tmp_path / "a")),
    ]
    for error in failures:
        with pytest.raises(type(error)), refusing("library"):
            raise error


@pytest.mark.parametrize("words", ["out of memory", "no space left", "CUDA error: x", "No space left on device"])
def test_words_of_a_stranger_are_no_failure_of_the_machine(words, tmp_path):
    save_file({words: torch.ones(2)}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        of_tensors = raised(lambda: file.get_tensor(f"not {words}"))
    of_a_layer = raised(lambda: torch.nn.Linear(2, 2).load_state_dict({words: torch.ones(2)}))
    of_a_file = raised(lambda: (tmp_path / words / "x" / ("y" * 300)).write_text(""))
    of_a_path = OSError(36, "File name too long", words)
    known = (ValueError(words), KeyError(words), AssertionError(words), Exception(f"unknown {words} (os error 28)"))
    for error in (*known, of_tensors, of_a_layer, of_a_file, of_a_path):
        with pytest.raises(Refused, match="library fails"), refusing("library"):
            raise error


class Panic(BaseException):
    """As that of pyo3, by which Rust's libraries, tokenizers among them, tell of their own mistakes."""


def test_a_panic_of_a_library_is_a_refusal():
    with pytest.raises(Refused, match="library fails on this model: Panic: "), refusing("library"):
        raise Panic
    with pytest.raises(KeyboardInterrupt), refusing("library"):
        raise KeyboardInterrupt


def test_a_program_that_finds_the_disk_full_fails_the_job():
    with pytest.raises(OSError, match="tool found the disk full"):
        run_program([sys.executable, "-c", "raise OSError(28, 'No space left on device')"], "tool")
    with pytest.raises(Refused), refusing("tool"):
        run_program([sys.executable, "-c", "raise ValueError('OSError: [Errno 28] No space left on device')"], "tool")


def test_reordered_columns_are_grouped_by_their_index():
    weight = round_to_nearest(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), 3, 16, True)
    grid = Grid(3, 16, True)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    check_levels("layer", weight, grid, None)
    check_levels("layer", weight[:, order], grid, order // 16)
    with pytest.raises(Mismatch, match="layer has"):
        check_levels("layer", weight[:, order], grid, None)


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_the_process_that_dies_fails_the_job(rounded, tmp_path):
    with Gate(1, "cpu") as process, pytest.raises(RuntimeError, match="ended with status"):
        process.check(rounded.question | {"windows": str(tmp_path / "none.npy")})


@pytest.mark.parametrize("threads", [1, 2])  # a fork, and a process that starts anew
@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_both_kinds_of_process_answer_alike(rounded, threads):
    with Gate(threads, "cpu") as process:
        assert process.process.is_alive()
        assert process.check(rounded.question) == judge(**rounded.question)


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize("method", ["rtn", "gptq-w3-g64"])  # dense and packed files
def test_one_block_of_each_model_is_in_memory(tiny_model, tmp_path, monkeypatch, method):
    """Of source and quantized model in float32, and of the one in the study's type, which comes after both."""
    saved = Saved(tiny_model, tmp_path, RTN if method == "rtn" else recipe(method))
    weights, alive, read = [], [], Blockwise.read

    def parameter(block):
        return next(block.parameters())

    def watched(model, number):
        block = read(model, number)
        gc.collect()
        weights[:] = [found for found in weights if found() is not None and found() is not parameter(block)]
        weights.append(weakref.ref(parameter(block)))
        alive.append(len(weights))
        return block

    monkeypatch.setattr(Blockwise, "read", watched)
    assert saved.reason(dtype="bfloat16") is None
    assert max(alive) == 2
    assert alive[-1] == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["rtn", "gptq-w3-g64", "nf4"])
def test_models_that_are_compared_whole_have_the_same_numbers(wide_model, tmp_path, monkeypatch, method, dtype):
    saved = Saved(wide_model, tmp_path, RTN if method == "rtn" else recipe(method))
    by_blocks = judge(**saved.question | {"dtype": dtype})
    monkeypatch.setattr(blockwise, "_names_of_blocks", not_by_blocks)
    whole = judge(**saved.question | {"dtype": dtype})
    assert by_blocks["reason"] is None
    assert whole == by_blocks


def not_by_blocks(*_):
    raise blockwise.NotByBlocks("in this test")


def test_sorted_rows_and_steps_are_those_of_plain_sorting():
    grid = Grid(4, 16, True)
    weight = round_to_nearest(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)), 4, 16, True)
    weight[0, :16], weight[1, 0] = 0, -0.0
    gaps = weight.reshape(-1, 16).sort(dim=1).values.diff(dim=1)
    assert torch.equal(check_levels("layer", weight, grid, None), gaps.where(gaps > 0, torch.inf).amin(dim=1))
