"""train: real small runs; links, kills and branches leave the same weights as an undisturbed run."""

import os
import signal

import polars
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from scripts import train as stage
from scripts.lib.models.optimizers import muon_and_adamw
from scripts.lib.runtime import manifests
from scripts.lib.study.plan import load_plan
from scripts.train import OrderedWindows, build_model, train

RUN = {
    "model": {
        "architecture": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "window": 16,
    "batch_size": 4,
    "micro_batch_size": None,
    "optimizer": {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "gradient_clip": 1.0},
    "schedule": {"name": "constant", "peak": 1e-2, "warmup": 2},
    "seed": 1,
    "precision": "float32",
}


@pytest.fixture
def link(tmp_path, token_stream, tiny_tokenizer):
    """A function that trains one link below tmp_path and returns its folder."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")

    def run_link(name, start, end, keep, restart=False, parent=None, run=RUN, **settings):
        manifests.write(tmp_path / f"{name}.json", {"run": run, "start": start})
        span = {"start": start, "end": end, "keep": keep, "restart": restart}
        arguments = (run, span, token_stream, tmp_path / "tokenizer", parent, tmp_path / f"{name}.json")
        machine = {"threads": 1, "device": "cpu", "save_every": 3} | settings
        train(*arguments, tmp_path / "state" / name, tmp_path / name, **machine)
        return tmp_path / name

    return run_link


def weights(folder, step):
    return load_file(folder / f"step-{step}" / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


MUON = RUN["optimizer"] | {"name": "muon", "momentum": 0.95}


@pytest.fixture(params=["llama", "gpt_neox", "muon"])
def run(request):
    if request.param == "muon":
        return RUN | {"optimizer": MUON}
    return RUN | {"model": RUN["model"] | {"architecture": request.param}}


def test_a_run_cut_into_links_equals_the_uncut_one(link, run):
    whole = link("whole", 0, 12, [4, 8, 12], run=run)
    first = link("first", 0, 6, [4], restart=True, run=run)
    second = link("second", 6, 12, [8, 12], parent=first, run=run)
    assert equal(weights(first, 4), weights(whole, 4))
    for step in (8, 12):
        assert equal(weights(second, step), weights(whole, step))
    assert not (whole / "state").exists()
    assert (first / "state").is_dir()
    assert not equal(weights(whole, 8), weights(whole, 12))


def test_a_killed_link_goes_on_and_ends_the_same(link, tmp_path, monkeypatch):
    undisturbed = link("undisturbed", 0, 10, [2, 5, 10])
    read = OrderedWindows.__getitem__
    seen = []

    def until_the_eighth_step(self, index):
        seen.append(index)
        if index >= 8 * RUN["batch_size"]:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OrderedWindows, "__getitem__", until_the_eighth_step)
        link("killed", 0, 10, [2, 5, 10])
    assert not (tmp_path / "killed").exists()
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(OrderedWindows, "__getitem__", lambda self, index: seen.append(index) or read(self, index))
        resumed = link("killed", 0, 10, [2, 5, 10])
    assert min(seen) == 6 * RUN["batch_size"], "it should go on from its own checkpoint at step 6"
    for step in (2, 5, 10):
        assert equal(weights(resumed, step), weights(undisturbed, step))
    assert not (tmp_path / "state" / "killed").exists()


def test_the_end_of_the_time_saves_a_state_to_go_on_from(link, tmp_path, monkeypatch):
    undisturbed = link("undisturbed", 0, 10, [2, 5, 10])
    read = OrderedWindows.__getitem__

    def told_after_the_seventh_step(self, index):
        """A batch is read while the one before it is computed."""
        if index == 7 * RUN["batch_size"] + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, index)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(stage.Stopped, match="at step 7; the next attempt goes on from"):
        patch.setattr(OrderedWindows, "__getitem__", told_after_the_seventh_step)
        link("stopped", 0, 10, [2, 5, 10])
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "stopped").exists()
    assert (tmp_path / "state/stopped/trainer/checkpoint-7" / stage.COMPLETE).is_file()
    resumed = link("stopped", 0, 10, [2, 5, 10])
    for step in (2, 5, 10):
        assert equal(weights(resumed, step), weights(undisturbed, step))


FULL = "CUDA out of memory. GPU 0 has a total capacity of 23.6 GiB"


@pytest.mark.parametrize(("fitting", "refused"), [(2, False), (0, True)])
def test_a_gpu_that_is_too_small_for_a_batch_takes_parts_of_it(link, tmp_path, monkeypatch, fitting, refused):
    whole = link("whole", 0, 8, [2, 8], restart=True)
    before, seen = LlamaForCausalLM.forward, []

    def forward(self, input_ids, **kwargs):
        seen.append(len(input_ids))
        if len(input_ids) > fitting:
            raise torch.OutOfMemoryError(FULL)
        return before(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    found = link("found", 0, 8, [2, 8], restart=True)
    assert list(dict.fromkeys(seen)) == [4, 2, 1][: 3 if refused else 2]
    if refused:
        assert FULL in manifests.read(found / stage.REFUSED)["reason"]
        assert {path.name for path in found.iterdir()} == {stage.REFUSED, "log.parquet"}
    else:
        for name, tensor in weights(found, 8).items():
            assert tensor.allclose(weights(whole, 8)[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.full
def test_two_processes_train_as_one_does(link):
    """Over gloo, from the state of one, for 50 steps: the same windows in each, in the same forward passes."""
    trunk = link("trunk", 0, 4, [], restart=True)
    halves = RUN | {"micro_batch_size": 2}
    one = link("one", 4, 54, [54], parent=trunk, run=halves, save_every=100)
    two = link("two", 4, 54, [54], parent=trunk, processes=2, save_every=100)
    for name, tensor in weights(two, 54).items():
        expected = weights(one, 54)[name]
        assert (tensor - expected).norm() < 1e-5 * expected.norm(), name
    logs = [polars.read_parquet(folder / "log.parquet") for folder in (one, two)]
    assert logs[1]["step"].to_list() == list(range(5, 55))
    assert logs[1]["loss"].to_list() == pytest.approx(logs[0]["loss"].to_list(), rel=1e-5)


def test_two_gpus_in_sight_do_not_double_the_batch(tmp_path, monkeypatch):
    """The Trainer takes as many as torch counts; here it is told of two, and stays on the CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    link = {"start": 0, "end": 4, "keep": [], "restart": False}
    settings = stage._arguments(RUN, link, tmp_path, 10, "cuda", 4, 1)
    assert settings.n_gpu == 1
    assert settings.train_batch_size == 4


def test_another_lineage_does_not_resume(link, tmp_path, monkeypatch):
    fresh = link("fresh", 0, 8, [8], run=RUN | {"seed": 2})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="stop"):
        patch.setattr(stage, "link_tree", lambda *_: (_ for _ in ()).throw(OSError("stop")))
        link("changed", 0, 8, [8])
    assert (tmp_path / "state" / "changed").is_dir()
    assert equal(weights(link("changed", 0, 8, [8], run=RUN | {"seed": 2}), 8), weights(fresh, 8))


def test_a_step_kept_later_than_a_kill_is_not_missed(link, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="stop"):
        patch.setattr(stage, "link_tree", lambda *_: (_ for _ in ()).throw(OSError("stop")))
        link("run", 0, 8, [8])
    assert {path.name for path in link("run", 0, 8, [4, 8]).glob("step-*")} == {"step-4", "step-8"}


def test_a_branch_follows_its_own_schedule_from_its_first_step(link):
    trunk = link("trunk", 0, 6, [], restart=True)
    still = RUN | {"schedule": {"name": "constant", "peak": 1e-12, "warmup": 0}}
    branch = link("branch", 6, 8, [7, 8], parent=trunk, run=still)
    before = load_file(trunk / "state" / "model.safetensors")
    for name, tensor in weights(branch, 8).items():
        assert tensor.allclose(before[name], atol=1e-9), name
    log = polars.read_parquet(link("log", 0, 10, [10]) / "log.parquet")
    assert log["step"].to_list() == [*range(1, 11)]
    assert log["learning_rate"].to_list() == pytest.approx([5e-3, *[1e-2] * 9])


def test_a_branch_has_its_own_weight_decay_from_its_first_step(link):
    trunk = link("trunk", 0, 6, [], restart=True, run=RUN | {"optimizer": RUN["optimizer"] | {"weight_decay": 0.0}})
    plain, decayed = (
        weights(link(f"decay{decay}", 6, 7, [7], parent=trunk, run=RUN | {"optimizer": settings}), 7)
        for decay in (0.0, 0.5)
        for settings in [RUN["optimizer"] | {"weight_decay": decay}]
    )
    before = load_file(trunk / "state" / "model.safetensors")
    for name, tensor in decayed.items():
        lost = 0 if "norm" in name else 1e-2 * 0.5 * before[name]  # AdamW: rate x decay x weight, beside Adam's step
        assert tensor.allclose(plain[name] - lost, atol=1e-7), name


def test_a_branch_may_change_the_order_of_the_data(link):
    trunk = link("trunk", 0, 6, [], restart=True)
    same = link("same", 6, 8, [8], parent=trunk)
    assert equal(weights(link("again", 6, 8, [8], parent=trunk, run=RUN | {"data_seed": 1}), 8), weights(same, 8))
    assert not equal(weights(link("other", 6, 8, [8], parent=trunk, run=RUN | {"data_seed": 2}), 8), weights(same, 8))


def test_order_depends_on_the_seed_alone(token_stream):
    windows = stage.load_windows(token_stream, 16)
    order = OrderedWindows(windows, 2 * len(windows), seed=1)
    first_pass = [order[index].tolist() for index in range(len(windows))]
    assert sorted(first_pass) == sorted(windows.tolist())
    assert [order[len(windows) + index].tolist() for index in range(len(windows))] != first_pass
    again = OrderedWindows(windows, len(windows), seed=1)
    assert [again[index].tolist() for index in range(5)] == first_pass[:5]
    assert [OrderedWindows(windows, 9, seed=2)[index].tolist() for index in range(5)] != first_pass[:5]


def test_accumulated_gradients_equal_the_whole_batch(link):
    whole = link("whole", 0, 4, [4])
    parts = link("parts", 0, 4, [4], run=RUN | {"micro_batch_size": 2})
    for name, tensor in weights(whole, 4).items():
        assert tensor.allclose(weights(parts, 4)[name], atol=1e-5), name


def test_shapes():
    model = build_model(RUN["model"] | {"num_key_value_heads": 1, "tie_word_embeddings": True}, 100, 16, 0)
    assert model.config.num_key_value_heads == 1
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.max_position_embeddings == 16


def test_a_run_that_diverges_is_refused_and_so_is_what_goes_on_from_it(link):
    wild = RUN | {"schedule": RUN["schedule"] | {"peak": 1e30}}
    first = link("first", 0, 12, [1, 12], restart=True, run=wild)
    marker = manifests.read(first / "refused.json")
    assert marker["reason"].startswith("training diverged: ")
    assert not (first / "step-12").exists()
    assert not (first / "state").exists()
    second = link("second", 12, 14, [14], parent=first, run=wild)
    assert manifests.read(second / "refused.json") == marker
    assert not list(second.glob("step-*"))


def test_both_optimizers_of_the_study_train_its_model_at_its_rate(link):
    plan = load_plan("optimizer")
    for name in ("trunk-seed1", "muon-seed1"):
        run = plan.trajectories[name].shaping | {"window": 16, "batch_size": 4}
        run["schedule"] = run["schedule"] | {"warmup": 2}
        log = polars.read_parquet(link(name, 0, 10, [10], run=run) / "log.parquet")
        assert len(log) == 10
        assert log["loss"].is_finite().all()
        assert log["weight_norm"].n_unique() == 10


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else():
    model = build_model(RUN["model"] | {"architecture": "gpt_neox"}, 100, 16, 0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed = [name for name in names.values() if "norm" not in name and "bias" not in name]
    optimizer = muon_and_adamw(model, decayed, 0.1, 0.9, torch.optim.AdamW, {"lr": 1.0})
    found = [{names[id(weight)] for weight in group["params"]} for group in optimizer.param_groups]
    assert found[0] == {name for name in decayed if ".layers." in name}
    assert found[1] == {name for name in decayed if ".layers." not in name}
    assert len(found[1]) == 2, "embedding and head"
    assert found[2] == set(names.values()) - set(decayed)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert optimizer.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"


def test_muon_steps_are_torchs_own():
    """Also after the state is saved and loaded into a new optimizer."""
    model, twin = (build_model(RUN["model"], 100, 16, 0) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    ours = [muon_and_adamw(model, (), 0.1, 0.9, torch.optim.AdamW, {"lr": 1e-2}) for _ in range(2)]
    matrices = [w for name, w in twin.named_parameters() if ".layers." in name and w.ndim == 2]
    others = [w for name, w in twin.named_parameters() if not (".layers." in name and w.ndim == 2)]
    parts = [
        torch.optim.Muon(matrices, 1e-2, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, 1e-2, weight_decay=0.0),
    ]
    ids = torch.arange(16)[None]
    for step in range(4):
        if step == 2:
            ours[1].load_state_dict(ours[0].state_dict())
        for one, optimizers in ((model, [ours[step // 2]]), (twin, parts)):
            one.zero_grad()
            one(input_ids=ids, labels=ids).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        assert equal(model.state_dict(), twin.state_dict()), step


def test_the_norm_of_the_weights_is_logged(link):
    folder = link("run", 0, 4, [4])
    log = polars.read_parquet(folder / "log.parquet")
    assert log.columns == ["step", "loss", "gradient_norm", "weight_norm", "learning_rate"]
    norm = sum(float(tensor.double().square().sum()) for tensor in weights(folder, 4).values()) ** 0.5
    assert log["weight_norm"][3] == pytest.approx(norm, rel=1e-6)
