"""train: one link of a controlled run, from one restart point (or from scratch) to the next, with the Trainer."""

import gc
import json
import logging
import os
import shutil
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scripts.lib.data.windows import load_windows
from scripts.lib.models.together import run_together
from scripts.lib.runtime import manifests
from scripts.lib.runtime.devices import pick_device
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.manifests import link_tree, staged_folder
from scripts.lib.runtime.shortages import is_device_full, is_shortage, kind_and_message
from scripts.lib.study import schedules

LOGGED = {"step": "step", "loss": "loss", "gradient_norm": "grad_norm", "weight_norm": "weight_norm"}
REFUSED = "refused.json"  # step, reason: in the folder of a link that diverged, beside the steps kept before
COMPLETE = "complete"  # in each of the Trainer's own checkpoints, written last: without it one is not resumed from


def train(
    run: dict,
    link: dict,
    tokens: Path,
    tokenizer: Path,
    parent: Path | None,
    lineage: Path,
    state: Path,
    out: Path,
    threads: int,
    device: str,
    save_every: int,
    processes: int = 1,
) -> None:
    """Train one link and write its folder.

    The link's folder holds `step-N/`, a model folder for each kept step, `log.parquet` (of each step: loss in nats per
    token, learning rate, norms of gradient and weights; the loss is that of the update that ends at the step) and,
    where the link ends at a restart point, `state/`, the Trainer's checkpoint there. A killed job goes on from its last
    own checkpoint in `state`, if that was made under the same lineage; at SIGTERM, which a cluster sends at the end of
    the time, it saves one more.

    A run that diverges is stopped: its link holds the steps kept before and `refused.json`, and no state. A link that
    would go on from it holds the same `refused.json` alone. Where a GPU's memory is full, fewer windows pass at once,
    with more passes a step; a run of which not one window fits is refused too.

    Args:
        run: the trajectory: model, window (tokens), batch_size (windows a step), optimizer, schedule, seed, precision;
            data_seed, where the order of the data has another seed.
        link: start, end (steps), keep (steps in (start, end]), restart (whether to keep the state at the end).
        tokens: the training split's token stream.
        tokenizer: tokenizer folder, copied into each kept model folder.
        parent: folder of the link that this one goes on from; None at step 0.
        lineage: file that says what shapes this link's weights; its text guards `state` against a changed recipe.
        state: folder for the job's own resumption, outside the outputs.
        out: the link's folder, made whole or not at all.
        threads: torch threads; part of the numbers, because it changes the order of sums.
        device: "cpu", "cuda" or "auto".
        save_every: steps between the job's own checkpoints.
        processes: that train together, on a GPU each; a divisor of the batch. A step's windows are the same whatever
            their number, which changes the order of sums alone.

    Raises:
        ValueError: the corpus has not one whole window, or the architecture is unknown to transformers.
    """
    if parent and (parent / REFUSED).is_file():
        with staged_folder(out) as scratch:
            manifests.write(scratch / REFUSED, manifests.read(parent / REFUSED))
        return
    _forget_other_lineage(state, lineage)
    share = run["batch_size"] // processes
    size = micro_batch(share, min(run["micro_batch_size"] or share, share))
    while size:
        resume = _resume_point(state, link["keep"], parent)
        try:
            settings = (resume, threads, device, save_every, size, share // size)
            refused, history = run_together(train_part, (run, link, tokens, tokenizer, state, *settings), processes)
            break
        except Exception as error:
            if not is_device_full(error) or is_shortage(error):
                raise
            reason = f"training needs more memory than the GPU has: {kind_and_message(error)}"
            refused, history = {"step": link["start"] + 1, "reason": reason}, []
        size = micro_batch(share, size // 2)
        logging.getLogger("trajquant").warning(f"{reason}; windows a forward pass from here on: {size}")
        gc.collect()
        torch.cuda.empty_cache()
    with staged_folder(out) as scratch:
        for step in link["keep"]:
            if not refused or step < refused["step"]:
                link_tree(state / "kept" / f"step-{step}", scratch / f"step-{step}")
        if refused:
            manifests.write(scratch / REFUSED, refused)
        elif link["restart"]:
            link_tree(state / "trainer" / f"checkpoint-{link['end']}", scratch / "state")
        training_log(history, run["schedule"], link["start"]).write_parquet(scratch / "log.parquet")
    shutil.rmtree(state)


def micro_batch(batch: int, most: int) -> int:
    """Windows a forward pass: the largest divisor of a process's share of a batch that is at most `most`; 0 of none."""
    return next((size for size in range(most, 0, -1) if batch % size == 0), 0)


def train_part(
    run: dict,
    link: dict,
    tokens: Path,
    tokenizer: Path,
    state: Path,
    resume: str | None,
    threads: int,
    device: str,
    save_every: int,
    micro: int,
    passes: int,
) -> tuple[dict | None, list[dict]]:
    """Train from where there is a state to the end of a link; kept steps and states are in the folder `state`.

    Args:
        resume: folder of the state to go on from; None for a new model.
        micro: windows a forward pass of this process.
        passes: of this process a step.

    Returns:
        why the run was stopped (step, reason) or None, and the Trainer's log.

    Raises:
        Stopped: SIGTERM came; the state of the last step is saved.
    """
    from transformers import Trainer, set_seed  # they and their libraries speak as they are imported: to the log

    from scripts.lib.models.callbacks import (
        FollowSchedule,
        KeepSteps,
        LogWeightNorm,
        MarkComplete,
        SetOptimizer,
        StopOnSignal,
    )
    from scripts.lib.models.optimizers import muon_and_adamw

    device = pick_device(device)
    if device == "cuda":
        use_deterministic_kernels()
    torch.set_num_threads(threads)
    windows = load_windows(tokens, run["window"])
    set_seed(run["seed"])
    text = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    if resume:  # the Trainer alone would leave GPT-NeoX's head as it is: its name in the file is an older one
        model = AutoModelForCausalLM.from_pretrained(resume, dtype=torch.float32, local_files_only=True)
    else:
        model = build_model(run["model"], len(text), run["window"], text.eos_token_id)
    rate = partial(schedules.learning_rate, run["schedule"])
    keeper = KeepSteps(rate, link, state / "kept", text)
    with StopOnSignal() as signals:
        trainer = Trainer(
            model=model,
            args=_arguments(run, link, state / "trainer", save_every, device, micro, passes),
            train_dataset=OrderedWindows(windows, run["batch_size"] * link["end"], run.get("data_seed", run["seed"])),
            data_collator=_stack,
            callbacks=[
                *(keeper, LogWeightNorm(), FollowSchedule(rate), SetOptimizer(run["optimizer"].get("momentum"))),
                *(MarkComplete(COMPLETE), signals),
            ],
        )
        if run["optimizer"].get("name") == "muon":
            decayed = trainer.get_decay_parameter_names(model)
            adamw = trainer.get_optimizer_cls_and_kwargs(trainer.args)
            own = run["optimizer"]["weight_decay"], run["optimizer"]["momentum"]
            trainer.optimizer = muon_and_adamw(model, decayed, *own, *adamw)
        trainer.train(resume_from_checkpoint=resume)
    if trainer.state.global_step < link["end"] and not keeper.refused:
        raise Stopped(f"SIGTERM at step {trainer.state.global_step}; the next attempt goes on from there")
    return keeper.refused, trainer.state.log_history


class Stopped(Exception):
    """Training was asked to end before its last step."""


def use_deterministic_kernels() -> None:
    """Have a GPU add in a fixed order where torch takes such a kernel by itself, which it does not for attention's.

    cuBLAS reads its variable when it is first used.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def build_model(model: dict, vocabulary: int, window: int, end_token: int):
    """A new model of the given shape, weights drawn from the current seed, in float32.

    Args:
        model: `architecture`, a transformers model type such as "llama" or "gpt_neox", and that type's config fields.
        vocabulary: number of tokens, the embedding's rows.
        window: tokens a window, the model's longest context.
        end_token: id of the end-of-text token.
    """
    shape = {key: value for key, value in model.items() if key != "architecture"}
    ends = {"bos_token_id": end_token, "eos_token_id": end_token, "pad_token_id": end_token}
    config = AutoConfig.for_model(
        model["architecture"], vocab_size=vocabulary, max_position_embeddings=window, use_cache=False, **ends, **shape
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


class OrderedWindows(torch.utils.data.Dataset):
    """Windows in the order of training: item i of the run is fixed by the seed alone, wherever a job starts.

    Each pass over the corpus is one permutation, drawn from (seed, pass).
    """

    def __init__(self, windows: np.ndarray, length: int, seed: int):
        self.windows, self.length, self.seed = windows, length, seed
        self._order = lru_cache(maxsize=2)(self._draw)

    def _draw(self, number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, number]).permutation(len(self.windows))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> np.ndarray:
        number, place = divmod(index, len(self.windows))
        return self.windows[self._order(number)[place]]


def training_log(history: list[dict], schedule: dict, start: int) -> polars.DataFrame:
    """The Trainer's log after step `start` as a table: step, loss (nats per token), learning_rate, norms."""
    rows = [entry for entry in history if "loss" in entry and entry["step"] > start]
    columns = {new: [row[old] for row in rows] for new, old in LOGGED.items()}
    rates = schedules.learning_rate(schedule, columns["step"])
    floats = dict.fromkeys(("loss", "gradient_norm", "weight_norm"), polars.Float64)
    return polars.DataFrame(columns | {"learning_rate": rates}).cast(floats)


def _arguments(run: dict, link: dict, folder: Path, save_every: int, device: str, micro: int, passes: int):
    """The Trainer's settings, with one GPU a process: on all that it sees it would train with a larger batch."""
    from transformers import TrainingArguments

    optimizer = run["optimizer"]
    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=link["end"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        learning_rate=schedules.peak(run["schedule"]),
        lr_scheduler_type="constant",
        weight_decay=optimizer["weight_decay"],
        adam_beta1=optimizer["beta1"],
        adam_beta2=optimizer["beta2"],
        adam_epsilon=optimizer["epsilon"],
        max_grad_norm=optimizer["gradient_clip"],
        bf16=run["precision"] == "bfloat16",
        use_cpu=device == "cpu",
        ddp_find_unused_parameters=False,
        seed=run["seed"],
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
    )
    settings._n_gpu = min(1, settings.n_gpu)
    return settings


def _resume_point(state: Path, keep: list[int], parent: Path | None) -> str | None:
    """This job's newest complete checkpoint with all kept steps before it saved, else the parent's state, else None."""
    missing = [step for step in keep if not (state / "kept" / f"step-{step}").is_dir()]
    own = {int(path.parent.name.rpartition("-")[2]): path.parent for path in state.glob(f"trainer/*/{COMPLETE}")}
    usable = [step for step in own if step < min(missing, default=step + 1)]
    chosen = own.get(max(usable, default=None))
    for folder in state.glob("trainer/checkpoint-*"):
        if folder != chosen:
            shutil.rmtree(folder)
    if chosen:
        return str(chosen)
    return str(parent / "state") if parent else None


def _forget_other_lineage(state: Path, lineage: Path) -> None:
    """Empty the resumption folder unless it was filled under the same lineage."""
    record = state / "lineage.json"
    text = lineage.read_text()
    if not record.is_file() or json.loads(record.read_text()) != json.loads(text):
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        record.write_text(text)


def _stack(windows: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Token windows as a batch; the model itself shifts labels by one."""
    ids = torch.from_numpy(np.stack(windows).astype(np.int64))
    return {"input_ids": ids, "labels": ids}


if __name__ == "__main__":
    open_log(snakemake.log[0], f"train {snakemake.wildcards.trajectory} {snakemake.wildcards.link}")
    train(
        snakemake.params.run,
        snakemake.params.link,
        Path(snakemake.input.tokens),
        Path(snakemake.input.tokenizer),
        Path(snakemake.input.parent) if snakemake.input.get("parent") else None,
        Path(snakemake.input.lineage),
        Path(snakemake.params.state),
        Path(snakemake.output[0]),
        snakemake.params.threads,
        snakemake.params.device,
        snakemake.params.save_every,
        snakemake.params.processes,
    )
