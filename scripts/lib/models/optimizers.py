"""Muon for the matrices of the decoder blocks, with AdamW for all else, as one optimizer."""

from collections.abc import Container

import torch

from scripts.lib.models.loading import decoder_blocks


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers that share their groups of parameters and their state with this one, which is saved and loaded.

    Groups: Muon's, then AdamW's.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.Optimizer):
        self.parts = (muon, adamw)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give both parts the groups and the state of this one."""
        muon, adamw = self.parts
        muon.param_groups, adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        muon.state = adamw.state = self.state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for part in self.parts:
            part.step()


def muon_and_adamw(
    model: torch.nn.Module, decayed: Container[str], weight_decay: float, momentum: float, adamw: type, settings: dict
) -> MuonAndAdamW:
    """The optimizer of a model: Muon updates the matrices of the decoder blocks, AdamW embeddings, head, norms, biases.

    Muon's rate is scaled to AdamW's root mean square of an update (`match_rms_adamw`, arXiv:2502.16982), so that one
    schedule and one weight decay are for both.

    Args:
        decayed: names of the weights with weight decay.
        momentum: of Muon.
        adamw, settings: AdamW's class and its settings, as the Trainer has them.
    """
    blocks = decoder_blocks(model).values()
    matrices = {id(weight) for block in blocks for weight in block.parameters() if weight.ndim == 2}
    groups = ([], [], [])
    for name, weight in model.named_parameters():
        groups[0 if id(weight) in matrices else 1 if name in decayed else 2].append(weight)
    chosen, *others = groups
    muon = torch.optim.Muon(
        chosen, settings["lr"], weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
    )
    decays = zip(others, (weight_decay, 0.0), strict=True)
    return MuonAndAdamW(muon, adamw([{"params": own, "weight_decay": decay} for own, decay in decays], **settings))
