"""What the Trainer does beside its own while it trains a run: rates, kept steps, a watch for what diverges.

transformers' Trainer and what it imports write to the terminal: import this when a job's log is open.
"""

import logging
import math
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback

from scripts.lib.models.together import in_any
from scripts.lib.runtime.logs import Progress
from scripts.lib.runtime.manifests import staged_folder


class FollowSchedule(TrainerCallback):
    """Sets the learning rate of every update from the schedule, so that a branch follows its own from its first."""

    def __init__(self, rate: Callable[[int], float]):
        self.rate = rate

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        rate = float(self.rate(state.global_step))
        for group in optimizer.param_groups:
            group["lr"] = rate


class SetOptimizer(TrainerCallback):
    """Gives the optimizer the run's own settings, where a branch has loaded those of its trunk with the trunk's state.

    Of the groups of parameters (Muon's, if any, and AdamW's two) only the last has no weight decay: norms and biases.

    momentum: of Muon.
    """

    def __init__(self, momentum: float | None = None):
        self.momentum = momentum

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        of_adamw = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
        *decayed, last = optimizer.param_groups
        for group, decay in [*((group, args.weight_decay) for group in decayed), (last, 0.0)]:
            group.update(of_adamw if "betas" in group else {"momentum": self.momentum}, weight_decay=decay)


class LogWeightNorm(TrainerCallback):
    """Adds to each line of the Trainer's log the norm of all weights together."""

    @torch.no_grad()
    def on_log(self, args, state, control, model=None, **kwargs):
        if "loss" in state.log_history[-1]:
            norms = torch.stack([weight.norm() for weight in model.parameters()])
            state.log_history[-1]["weight_norm"] = float(norms.norm())


class KeepSteps(TrainerCallback):
    """Saves the kept steps as model folders, asks for the restart point's state at the end, shows progress.

    Stops a run that diverged; `refused` says at which step that was seen, and in what.
    """

    def __init__(self, rate: Callable[[int], float], link: dict, folder: Path, tokenizer):
        self.rate, self.link, self.folder, self.tokenizer = rate, link, folder, tokenizer
        self.progress = Progress(link["end"] - link["start"], f"steps from {link['start']}")
        self.refused = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite((logs or {}).get(name, 0.0))]
        if wrong and not self.refused:
            self.refuse(state.global_step, "its loss" if wrong[0] == "loss" else "the norm of its gradient", control)

    def refuse(self, step: int, what: str, control) -> None:
        """Stop the run, and keep no step from this one on."""
        self.refused = {"step": step, "reason": f"training diverged: {what} was not finite at step {step}"}
        logging.getLogger("trajquant").warning(self.refused["reason"])
        control.should_training_stop = True

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step in (*self.link["keep"], self.link["end"]) and not is_finite(model):
            self.refuse(state.global_step, "a weight", control)
            return
        if state.global_step in self.link["keep"] and state.is_world_process_zero:
            with staged_folder(self.folder / f"step-{state.global_step}") as scratch:
                model.save_pretrained(scratch)
                self.tokenizer.save_pretrained(scratch)
        if state.global_step == self.link["end"] and self.link["restart"]:
            control.should_save = True
        rate = float(self.rate(state.global_step))
        loss = f"loss {state.log_history[-1]['loss']:.3f}, " if "loss" in (state.log_history or [{}])[-1] else ""
        self.progress.update(state.global_step - self.link["start"], f"{loss}learning rate {rate:.2e}")


class StopOnSignal(TrainerCallback):
    """While it is entered, SIGTERM ends training after the step that is being made, with its state saved."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "StopOnSignal":
        self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self.before)

    def _ask(self, *_) -> None:
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):
        if in_any(self.asked, args.device):
            control.should_save = control.should_training_stop = True


class MarkComplete(TrainerCallback):
    """Marks each of the Trainer's checkpoints with an empty file, once all its own files are written."""

    def __init__(self, name: str):
        self.name = name

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.name).touch()


def is_finite(model: torch.nn.Module) -> bool:
    """Whether all weights of a model are."""
    return all(bool(tensor.isfinite().all()) for tensor in model.parameters())
