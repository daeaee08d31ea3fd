"""The eight tasks of GLUE that the δ-SAM paper reports: files, columns, labels, metrics.

Columns are named as in the files of gluebenchmark.com, or as in files where tasks share names (``label``).

Sources: Wang et al. 2019, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding",
Table 1 and section 3 (metrics, labels); the numbers of rows are those of the published files.
"""

from typing import Dict, NamedTuple, Tuple

Names = Tuple[str, ...]


class Split(NamedTuple):
    """A part of a task's data.

    names: of its file, without ``.tsv``: the published one, then those of stand-ins for it, such as a sample.
    rows: in the published file.
    submission: the file that the server wants predictions in; empty for a split whose labels are public.
    """

    names: Names
    rows: int
    submission: str = ""


class Task(NamedTuple):
    """A task.

    sentences: one or two; each the names that its column may have.
    label: names that the column of the labels may have.
    classes: their labels in the files, in the order of the model's outputs; empty where a score is predicted.
    metrics: GLUE's, as `sharp_plugins.runs.metrics` and fairseq's ``sentence_prediction`` criterion name them.
    selected: the one in Table 1 of the δ-SAM paper, which also chooses a run's best epoch.
    splits: fairseq's name of a split -> the split.
    """

    name: str
    sentences: Tuple[Names, ...]
    label: Names
    classes: Names
    metrics: Names
    selected: str
    splits: Dict[str, Split]

    @property
    def is_regression(self) -> bool:
        return not self.classes


# What tables call the metrics.
LABELS = {"accuracy": "accuracy", "f1": "F1", "mcc": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}

# STS-B's scores are from 0 to 5. The model predicts a fifth of them, as in fairseq's own recipe for GLUE.
MOST = 5.0

# Columns of CoLA's published train and dev files, which have no line of names.
COLA_COLUMNS = ("source", "label", "mark", "sentence")

PAIR = (("sentence1",), ("sentence2",))
ENTAILMENT = ("entailment", "not_entailment")
BINARY = ("0", "1")


def _splits(submission: str, train: int, dev: int, test: int, train_names: Names = (), dev_names: Names = ()):
    return {
        "train": Split(("train", *train_names), train),
        "valid": Split(("dev", *dev_names), dev),
        "test": Split(("test",), test, submission),
    }


TASKS = {
    task.name: task
    for task in (
        Task("CoLA", (("sentence",),), ("label",), BINARY, ("mcc",), "mcc", _splits("CoLA", 8551, 1043, 1063)),
        Task("SST-2", (("sentence",),), ("label",), BINARY, ("accuracy",), "accuracy", _splits("SST-2", 67349, 872, 1821)),
        Task(
            "MRPC",
            (("#1 String", "sentence1"), ("#2 String", "sentence2")),
            ("Quality", "label"),
            BINARY,
            ("accuracy", "f1"),
            "accuracy",
            _splits("MRPC", 3668, 408, 1725),
        ),
        Task("STS-B", PAIR, ("score", "label"), (), ("pearson", "spearman"), "pearson", _splits("STS-B", 5749, 1500, 1379)),
        Task(
            "QQP",
            (("question1", "sentence1"), ("question2", "sentence2")),
            ("is_duplicate", "label"),
            BINARY,
            ("accuracy", "f1"),
            "accuracy",
            _splits("QQP", 363846, 40430, 390965, ("train_20k",), ("heldout_from_train",)),
        ),
        Task(
            "MNLI",
            PAIR,
            ("gold_label", "label"),
            ("contradiction", "neutral", "entailment"),
            ("accuracy",),
            "accuracy",
            {
                "train": Split(("train", "train_10k"), 392702),
                "valid": Split(("dev_matched",), 9815),
                "valid1": Split(("dev_mismatched",), 9832),
                "test": Split(("test_matched",), 9796, "MNLI-m"),
                "test1": Split(("test_mismatched",), 9847, "MNLI-mm"),
            },
        ),
        Task(
            "QNLI",
            (("question", "sentence1"), ("sentence", "sentence2")),
            ("label",),
            ENTAILMENT,
            ("accuracy",),
            "accuracy",
            _splits("QNLI", 104743, 5463, 5463, ("train_10k",)),
        ),
        Task("RTE", PAIR, ("label",), ENTAILMENT, ("accuracy",), "accuracy", _splits("RTE", 2490, 277, 3000)),
    )
}

# Without these a task cannot be trained.
REQUIRED = ("train", "valid")

# What the development sets are called where rows of the training set take their place and choose the epoch.
REPORTED = {"valid": "dev", "valid1": "dev1"}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"--tasks {name}: there is no such task; choose from {', '.join(TASKS)}")
    return TASKS[name]
