"""How much work the jobs of a study are, worked out from its plan: what a pace is a pace of."""

from scripts.lib.cluster import requests
from scripts.lib.study.plan import BASELINE, Plan

LOADED = {"quantize": 3, "evaluate_loss": 1, "evaluate_tasks": 1, "slice": 40}  # times that weights are moved
FASTER = 10  # disks beside a GPU than those that requests assume: 1 GB a second
# Seconds of one CPU thread a weight of 3 bits: unpacking 2.3 ns; in the gate also levels 7.5, statistics 4, codes for
# zstd 2.6, and what is compared.
PER_WEIGHT = {"quantize": 20e-9, "evaluate_loss": 2.5e-9, "evaluate_tasks": 2.5e-9, "slice": 60e-9}
COLUMNWISE = ("gptq", "gptaq")
COLUMN = 0.25e-3  # seconds of a GPU for each column that GPTQ rounds, one after another: 149 s for 1.5e9 weights (H100)
SOME_PACKAGES = 25  # work of a corpus that is not made of packages: as much as the default one


class Works:
    """How much work the jobs of a study are; 0 where only the start of a job counts.

    train, quantize, evaluate_loss, evaluate_tasks, slice: model FLOPs. fetch, publish, average: bytes. corpus,
    tokenizer, tokenize (of a train split): packages. tabulate: cells.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.models = {name: trajectory.model for name, trajectory in plan.trajectories.items()}
        self.tokenizers = {trajectory.tokenizer for trajectory in plan.trajectories.values()}
        self.quantizing = {}

    def of(self, stage: str, names: tuple[str, ...]) -> float:
        """Work of the job of a stage with these wildcards.

        Raises:
            LookupError: the plan has no trajectory (from where this stage takes them), method, link, suite, corpus or
                tokenizer of that name.
            StopIteration: a published or local trajectory has no such step.
        """
        work = getattr(self, f"_{stage}", None)
        return work(*names) if work else 0.0

    def loading(self, stage: str, names: tuple[str, ...]) -> float:
        """Seconds that the job spends on reading, writing, unpacking and checking weights, besides its work.

        On a GPU, GPTQ's columns are among them: a column takes as long for a small model as for a large one.
        """
        if stage not in LOADED:
            return 0.0
        model, gpu = self.models[names[0]], self.plan.config["compute"]["device"] == "cuda"
        seconds = LOADED[stage] * requests.moved(model) / (FASTER if gpu else 1) + PER_WEIGHT[stage] * model.parameters
        if gpu and stage == "quantize" and self.plan.recipes[names[2]]["algorithm"] in COLUMNWISE:
            seconds += COLUMN * model.parameters / model.likely_width
        return seconds

    def _corpus(self, corpus: str) -> float:
        return len(self.plan.corpora[corpus].get("packages", range(SOME_PACKAGES)))

    def _tokenizer(self, tokenizer: str) -> float:
        if tokenizer not in self.tokenizers:
            raise LookupError(tokenizer)
        corpus = self.plan.tokenizer_definition(tokenizer).get("corpus")
        return self._corpus(corpus) if corpus else 0

    def _tokenize(self, tokenizer: str, name: str) -> float:
        self._tokenizer(tokenizer)
        corpus, split = name.rsplit("-", 1)
        return self._corpus(corpus) * (split == "train")

    def _train(self, name: str, link: str) -> float:
        run = self._trajectory(name, "train")
        span = run.links[link]
        tokens = (span["end"] - span["start"]) * run.tokens_per_step
        return requests.train_flops(self.models[name], tokens)

    def _bytes(self, name: str, checkpoint: str) -> float:
        return self.plan.trajectories[name].checkpoint_bytes(int(checkpoint.removeprefix("step-")))[0]

    _fetch = _publish = _publish_local = _bytes

    def _average(self, name: str, checkpoint: str) -> float:
        return self._trajectory(name, "average").size * self._bytes(name, checkpoint)

    def _trajectory(self, name: str, source: str):
        if name not in self.plan.by_source(source):
            raise LookupError(name)
        return self.plan.trajectories[name]

    def _quantize(self, name: str, checkpoint: str, method: str) -> float:
        if (name, method) not in self.quantizing:
            model, probe = self.models[name], self.plan.config["quantize"]["probe"]
            tokens = requests.quantize_tokens(self.plan.recipes[method], probe, model)
            self.quantizing[name, method] = requests.forward_flops(model, tokens)
        return self.quantizing[name, method]

    def _evaluate_loss(self, name: str, checkpoint: str, method: str, corpus: str) -> float:
        """The cell's own model, and the baseline's head: its hidden states are shared by all cells of a checkpoint."""
        model, tokens = self.models[name], requests.loss_tokens(self.plan.config["evaluate_loss"])
        head = 0 if method == BASELINE else 2 * model.vocabulary * model.likely_width * tokens
        return requests.forward_flops(model, tokens) + head

    def _evaluate_tasks(self, name: str, checkpoint: str, method: str, suite: str) -> float:
        return requests.forward_flops(self.models[name], requests.task_tokens(self.plan, self.plan.suites[suite]))

    def _slice(self, name: str, checkpoint: str, method: str, corpus: str) -> float:
        """Each pass with the checkpoint's head beside it."""
        model, tokens = self.models[name], requests.slice_tokens(self.plan.config)
        head = 2 * model.vocabulary * model.likely_width * tokens
        return requests.slice_passes(model) * (requests.forward_flops(model, tokens) + head)

    def _describe_layers(self, name: str, checkpoint: str, corpus: str) -> float:
        return 2 * requests.forward_flops(self.models[name], requests.slice_tokens(self.plan.config))

    def _tabulate(self, study: str) -> float:
        return len(self.plan.cells)
