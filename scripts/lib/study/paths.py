"""Where everything that is derived lies: one module that rules, plans and commands share.

Without arguments a place is the pattern of a rule: `Paths(...).checkpoint()` has {trajectory} and {checkpoint} in it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paths:
    """Places below the two folders of the config's section `folders`; all are texts, as Snakemake takes them."""

    resources: str
    results: str

    def corpus(self, corpus: str = "{corpus}") -> str:
        """Folder of a corpus: {split}.parquet, manifest.json."""
        return f"{self.resources}/corpora/{corpus}"

    def tokenizer(self, tokenizer: str = "{tokenizer}") -> str:
        """Folder of a tokenizer: tokenizer/, manifest.json."""
        return f"{self.resources}/tokenizers/{tokenizer}"

    def tokens(self, tokenizer: str = "{tokenizer}", corpus: str = "{corpus}", split: str = "{split}") -> str:
        """Stem of a tokenized split: .npy, .json, -documents.parquet."""
        return f"{self.resources}/tokens/{tokenizer}/{corpus}-{split}"

    def task_documents(self, corpus: str = "{corpus}") -> str:
        """Folder of the questions that are made of a corpus."""
        return f"{self.resources}/tasks/{corpus}"

    def dataset(self, dataset: str = "{dataset}", configuration: str = "{configuration}", part: str = "{part}") -> str:
        """Folder of one split of a published benchmark's data."""
        return f"{self.resources}/datasets/{dataset}/{configuration}/{part}"

    def suite_data(self, suite: str = "{suite}") -> str:
        """The file that stands for all published data of a suite."""
        return f"{self.resources}/datasets/suite-{suite}.json"

    def link(self, trajectory: str = "{trajectory}", link: str = "{link}") -> str:
        """Folder of one piece of a run; its lineage file has the same name with .json."""
        return f"{self.resources}/runs/{trajectory}/{link}"

    def state(self, *names: str) -> str:
        """Folder in which a job keeps what it needs to go on after it was killed; no output of any rule."""
        return "/".join((self.resources, "state", *names))

    def checkpoint(self, trajectory: str = "{trajectory}", checkpoint: str = "{checkpoint}") -> str:
        """Folder of a checkpoint: model/, manifest.json."""
        return f"{self.resources}/checkpoints/{trajectory}/{checkpoint}"

    def quantized(
        self, trajectory: str = "{trajectory}", checkpoint: str = "{checkpoint}", method: str = "{method}"
    ) -> str:
        """Folder of a quantized cell: model/, layers.parquet, manifest.json."""
        return f"{self.results}/quantized/{trajectory}/{checkpoint}/{method}"

    def evaluated(
        self, trajectory: str = "{trajectory}", checkpoint: str = "{checkpoint}", method: str = "{method}"
    ) -> str:
        """Folder of what was measured of a cell: loss-{corpus}.parquet, tasks-{suite}.json and .parquet."""
        return f"{self.results}/evaluated/{trajectory}/{checkpoint}/{method}"

    def loss(self, *cell: str, corpus: str = "{corpus}") -> str:
        """Losses of a cell on a corpus."""
        return f"{self.evaluated(*cell)}/loss-{corpus}.parquet"

    def tasks(self, *cell: str, suite: str = "{suite}") -> str:
        """Scores of a cell on a suite, document by document."""
        return f"{self.evaluated(*cell)}/tasks-{suite}.parquet"

    def slice(self, *cell: str, corpus: str = "{corpus}") -> str:
        """Losses on a corpus along the way from a cell's checkpoint to its quantized weights."""
        return f"{self.evaluated(*cell)}/slice-{corpus}.parquet"

    def layers(
        self, trajectory: str = "{trajectory}", checkpoint: str = "{checkpoint}", corpus: str = "{corpus}"
    ) -> str:
        """What the weights of a checkpoint's layers, and their inputs on a corpus, look like."""
        return f"{self.evaluated(trajectory, checkpoint, 'none')}/layers-{corpus}.parquet"

    def hidden(self, trajectory: str = "{trajectory}", checkpoint: str = "{checkpoint}") -> str:
        """Folder of a checkpoint's hidden states, which the losses of its methods share: {corpus}.safetensors.

        No output of any rule: who comes first makes them, and they go when the checkpoint, or the study, is measured.
        """
        return f"{self.results}/hidden/{trajectory}/{checkpoint}"

    def measured(
        self, study: str = "{study}", trajectory: str = "{trajectory}", checkpoint: str = "{checkpoint}"
    ) -> str:
        """Mark of a checkpoint of which all is measured, under a disk budget."""
        return f"{self.results}/measured/{study}/{trajectory}/{checkpoint}"

    def tables(self, study: str = "{study}") -> str:
        """Folder of a study's tables, each as .parquet and .csv."""
        return f"{self.results}/tables/{study}"

    def claims(self, study: str = "{study}") -> str:
        """What a study's claims said when its first job started, and what they said later; only appended to."""
        return f"{self.results}/claims/{study}.jsonl"

    def figures(self, study: str = "{study}") -> str:
        """Folder of a study's figures, each as .svg, .png and .pdf."""
        return f"{self.results}/figures/{study}"

    def report(self, study: str = "{study}") -> str:
        """A study's page."""
        return f"{self.results}/report/{study}.html"

    def partial(self, study: str = "{study}") -> str:
        """Folder of what `make report` makes of an unfinished study."""
        return f"{self.results}/partial/{study}"

    def notebook(self, study: str = "{study}") -> str:
        """The same page as an executed notebook."""
        return f"{self.results}/report/{study}.ipynb"

    def logs(self, rule: str) -> str:
        """Folder of a rule's logs, one a job, named after its wildcards."""
        return f"{self.results}/logs/{rule}"

    def benchmarks(self, rule: str) -> str:
        """Folder of what a rule's jobs took, a file each, named after its wildcards."""
        return f"{self.results}/benchmarks/{rule}"
