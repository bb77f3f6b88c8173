"""slice: against direct evaluation of the same models, and against exact derivatives."""

from types import SimpleNamespace

import numpy as np
import polars
import pytest
import torch
from transformers import AutoModelForCausalLM

from scripts import slice as stage
from scripts.evaluate_loss import evaluate_loss
from scripts.lib.analysis.mechanism import bend, slope
from scripts.lib.data.windows import load_windows, segments
from scripts.lib.models.between import random_line
from scripts.lib.models.loading import block_linears, load_dense
from scripts.lib.runtime import manifests
from scripts.lib.runtime.shortages import Refused
from scripts.quantizers.rtn import quantize
from scripts.slice import ALONG, BLOCK, LAYER, OUTER, POINTS, RANDOM, SCHEMA, Sliced, main, segments_of, spread

RECIPE = {"algorithm": "rtn", "library": "rtn", "bits": 3, "group_size": 16, "symmetric": True}


@pytest.fixture
def rounded(tiny_model, tmp_path):
    """The tiny model, quantized."""
    quantize(tiny_model, RECIPE, None, "cpu").save(tmp_path / "rounded")
    return tmp_path / "rounded"


@pytest.fixture
def windows(token_stream):
    return load_windows(token_stream, 32, 5)


@pytest.fixture
def sliced(tiny_model, rounded, windows):
    return Sliced(tiny_model, rounded, windows, 2, 1, "cpu")


def changed(folder, out, change):
    """A copy of a model folder with other weights; `change` gets the model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        change(model)
    model.save_pretrained(out)
    return out


def mixed(source, rounded, out, chosen):
    """A model folder with the weights of `rounded` in the layers that are chosen by name."""
    weights = {name: layer.weight for name, layer in block_linears(load_dense(rounded)).items() if chosen(name)}

    def change(model):
        for name, weight in weights.items():
            model.get_submodule(name).weight.copy_(weight)

    return changed(source, out, change)


def same(point, expected):
    return np.array_equal(point.nll, expected[0]) and np.array_equal(point.kl, expected[1])


def test_the_ends_of_the_way_are_the_models_themselves(sliced, tiny_model, rounded, windows):
    points = {point.t: point for point in sliced.along()}
    assert tuple(points) == POINTS[ALONG]
    for t, folder in ((0, tiny_model), (1, rounded)):
        assert same(points[t], evaluate_loss(folder, tiny_model, windows, 2, "float32", "cpu"))
    again = {point.t: point for point in sliced.along()}
    assert all(np.array_equal(points[t].nll, again[t].nll) for t in points)


def test_between_the_ends_weights_are_weighted_means(sliced, tiny_model, rounded, windows, tmp_path):
    one, other = load_dense(tiny_model), load_dense(rounded).state_dict()

    def move(model):
        for name, item in model.named_parameters():
            item.copy_(torch.lerp(one.state_dict()[name], other[name], 0.5))

    folder = changed(tiny_model, tmp_path / "half", move)
    point = next(point for point in sliced.along() if point.t == 0.5)
    assert same(point, evaluate_loss(folder, tiny_model, windows, 2, "float32", "cpu"))


def test_parts_are_models_of_which_only_that_is_quantized(sliced, tiny_model, rounded, windows, tmp_path):
    blocks, layers = list(sliced.by_block()), list(sliced.by_layer())
    assert [point.part for point in blocks] == sliced.model.names
    for number, point in enumerate([*blocks, *layers]):
        kind = f".{point.part.removesuffix('.weight')}"
        inside = f"{point.part}." if point.moved == BLOCK else None
        chosen = (lambda name, inside=inside: inside in name) if inside else (lambda name, kind=kind: kind in name)
        folder = mixed(tiny_model, rounded, tmp_path / str(number), chosen)
        assert same(point, evaluate_loss(folder, tiny_model, windows, 2, "float32", "cpu")), point.part


def test_a_random_direction_moves_each_layer_as_far(sliced):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 16, generator=draw)
    other = weight + 0.1 * torch.randn(8, 16, generator=draw)
    moved = random_line(1, 3)("name", weight, other) - weight
    assert float(moved.norm()) == pytest.approx(float((other - weight).norm()), rel=1e-5)
    assert torch.allclose(random_line(-0.5, 3)("name", weight, other) - weight, -0.5 * moved, atol=1e-6)
    assert not torch.allclose(random_line(1, 4)("name", weight, other) - weight, moved, atol=1e-3)
    assert not torch.allclose(random_line(1, 3)("another", weight, other) - weight, moved, atol=1e-3)
    assert [point.t for point in sliced.at_random()] == list(POINTS[RANDOM])


def test_the_size_is_that_of_all_quantized_weights(sliced, tiny_model, rounded):
    one, other = (block_linears(load_dense(folder)) for folder in (tiny_model, rounded))
    squares = [(float((other[name].weight - one[name].weight).square().sum()), one[name].weight) for name in one]
    expected = sum(gap for gap, _ in squares) / sum(float(weight.square().sum()) for _, weight in squares)
    assert sliced.size == pytest.approx(expected**0.5, rel=1e-5)


def test_rounded_embeddings_are_a_part_too(tiny_model, rounded, windows, tmp_path):
    def change(model):
        model.get_input_embeddings().weight.mul_(8).round_().div_(8)

    outer = changed(tiny_model, tmp_path / "outer", change)
    point = next(Sliced(tiny_model, changed(rounded, tmp_path / "all", change), windows, 2, 1, "cpu").by_block())
    assert point.part == OUTER
    assert same(point, evaluate_loss(outer, tiny_model, windows, 2, "float32", "cpu"))


def test_what_cannot_be_sliced_is_refused(tiny_model, windows, tmp_path):
    def rescale(model):
        next(item for item in model.parameters() if item.ndim == 1).mul_(2)

    with pytest.raises(Refused, match="has the checkpoint's weights"):
        Sliced(tiny_model, tiny_model, windows, 2, 1, "cpu")
    with pytest.raises(Refused, match="rescales or rotates weights"):
        Sliced(tiny_model, changed(tiny_model, tmp_path / "rescaled", rescale), windows, 2, 1, "cpu")


def test_losses_that_are_not_finite_are_refused(tiny_model, rounded, windows, tmp_path):
    def explode(model):
        next(reversed(block_linears(model).values())).weight.fill_(torch.inf)

    points = Sliced(tiny_model, changed(rounded, tmp_path / "exploded", explode), windows, 2, 1, "cpu").points()
    with pytest.raises(Refused, match="the loss is not finite where all of it is moved by -1"):
        list(points)


def test_a_model_of_too_many_blocks_is_not_sliced(tiny_model, rounded, windows, monkeypatch):
    monkeypatch.setattr(stage, "MOST_BLOCKS", 1)
    with pytest.raises(Refused, match="this model has 2 blocks, and 1 at most are sliced"):
        Sliced(tiny_model, rounded, windows, 2, 1, "cpu")


def test_slope_and_bend_are_the_exact_derivatives(tiny_model, windows, tmp_path):
    """Against a gradient and a Hessian-vector product along W_q - W, in float64, of a model trained a little."""
    ids = torch.from_numpy(windows.astype(np.int64))

    def train(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            with torch.enable_grad():
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    source, rounded = changed(tiny_model, tmp_path / "trained", train), tmp_path / "rounded"
    quantize(source, RECIPE | {"bits": 4}, None, "cpu").save(rounded)
    model, other = load_dense(source, "float64"), load_dense(rounded, "float64").state_dict()
    direction = {name: other[name] - item for name, item in model.named_parameters()}

    def loss(t):
        moved = {name: item + t * direction[name] for name, item in model.named_parameters()}
        logits = torch.func.functional_call(model, moved, kwargs={"input_ids": ids, "use_cache": False}).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (first,) = torch.autograd.grad(loss(t), t, create_graph=True)
        (second,) = torch.autograd.grad(first, t)
    way = {
        (point.moved, point.part, point.t): point.nll.mean(dtype=np.float64)
        for point in Sliced(source, rounded, windows, 2, 1, "cpu", "float64").along()
    }
    found = [sum(factor * way[key] for key, factor in terms.items()) for terms in (slope(), bend())]
    assert found[1] == pytest.approx(second.item(), rel=0.01)
    assert found[0] == pytest.approx(first.item(), rel=0.01, abs=0.01 * abs(second.item()))


def test_windows_are_spread_evenly():
    assert spread(9, 3).tolist() == [0, 4, 8]
    assert spread(3, 64).tolist() == [0, 1, 2]
    assert spread(512, 64).size == 64


def test_segments_are_those_of_the_chosen_windows(token_stream):
    documents, chosen = token_stream.with_name("stream-documents.parquet"), np.array([2, 7, 19])
    found = segments_of(documents, 32, 20, chosen)
    whole = segments(documents, 32, 20)
    for number, window in enumerate(chosen):
        columns = ("document", "first", "last")
        one, other = found.filter(window=number).select(columns), whole.filter(window=window).select(columns)
        assert one.equals(other)
        assert one.height


@pytest.fixture
def cell(tiny_model, rounded, tmp_path, token_stream):
    """A function that slices the quantized model as its rule does, and gives the metadata and rows of its table."""

    def run(status="ok", windows=4):
        manifest = {"status": status, "revision": "a", "reason": None if status == "ok" else "it was broken"}
        manifests.write(tmp_path / "manifest.json", manifest)
        files = [tmp_path / "tokens.json", token_stream, token_stream.with_name("stream-documents.parquet")]
        folders = {"weights": rounded, "baseline": tiny_model}
        settings = {"window": 16, "evaluated": 40, "windows": windows, "batch_size": 2, "seed": 1, "device": "cpu"}
        asked = SimpleNamespace(
            input=SimpleNamespace(manifest=tmp_path / "manifest.json", validation=files, **folders),
            params=SimpleNamespace(threads=torch.get_num_threads(), **settings),
            wildcards={"trajectory": "a", "checkpoint": "step-1", "method": "rtn", "corpus": "text"},
            output=[str(tmp_path / "slice.parquet")],
        )
        main(asked)
        return polars.read_parquet_metadata(asked.output[0]), polars.read_parquet(asked.output[0])

    return run


def test_a_cells_table(cell, tiny_model, rounded, token_stream):
    metadata, table = cell()
    assert dict(table.schema) == SCHEMA
    assert (metadata["status"], metadata["method"], metadata["windows"]) == ("ok", "rtn", "4")
    assert 0 < float(metadata["size"]) < 1
    assert set(table["moved"]) == {ALONG, RANDOM, BLOCK, LAYER}
    chosen = load_windows(token_stream, 16, 40)[[0, 13, 26, 39]]
    nll, kl, _ = evaluate_loss(rounded, tiny_model, chosen, 2, "float32", "cpu")
    end = table.filter(moved=ALONG, t=1.0)
    assert end["tokens"].sum() == nll.size
    assert end["nll"].sum() == pytest.approx(nll.sum())
    assert end["kl"].sum() == pytest.approx(kl.sum())
    sizes = table.group_by("moved", "part", "t").agg(polars.sum("tokens"), polars.col("document").n_unique())
    assert sizes.select("tokens", "document").unique().height == 1


def test_a_refused_cell_has_an_empty_table(cell, monkeypatch):
    metadata, table = cell(status="refused")
    assert (metadata["status"], metadata["reason"], table.height) == ("refused", "it was broken", 0)

    def fail(*_):
        raise stage.NotByBlocks("its blocks are not in a list")

    monkeypatch.setattr(stage, "Between", fail)
    metadata, table = cell()
    assert (metadata["status"], table.height) == ("refused", 0)
    assert "cannot be run block by block: its blocks are not in a list" in metadata["reason"]
