"""Made-up data in the layouts of GLUE's files, and tiny encoders.

Layouts are written down here from the published files, not from what the reader knows of them: a row is
``(sentences, label)``, and each layout a line of column names (None: the file has none) with a template for a row.
"""

import gzip
import random
from pathlib import Path

import pytest

WORDS = "the cat dog sat runs on mat".split()
CLASSES = {"MNLI": ("contradiction", "neutral", "entailment"), "QNLI": ("entailment", "not_entailment")}
CLASSES["RTE"] = CLASSES["QNLI"]
SINGLE = ("CoLA", "SST-2")

PARSES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI = f"index\tpromptID\tpairID\tgenre\t{PARSES}\tsentence1\tsentence2"
MNLI_ROW = "{i}\t9\t9e\tfiction\t( b1 )\t( b2 )\t(P1)\t(P2)\t{a}\t{b}"
MRPC = "#1 ID\t#2 ID\t#1 String\t#2 String"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
STSB_ROW = "{i}\tmain-news\tfile\t2012\t00{i}\tnone\tnone\t{a}\t{b}"

# task -> layouts of the training, development and test sets
OFFICIAL = {
    "CoLA": ((None, "gj04\t{y}\t\t{a}"), (None, "gj04\t{y}\t*\t{a}"), ("index\tsentence", "{i}\t{a}")),
    "SST-2": (("sentence\tlabel", "{a}\t{y}"),) * 2 + (("index\tsentence", "{i}\t{a}"),),
    "MRPC": (("\ufeffQuality\t" + MRPC, "{y}\t7{i}\t8{i}\t{a}\t{b}"),) * 2
    + (("\ufeffindex\t" + MRPC, "{i}\t7{i}\t8{i}\t{a}\t{b}"),),
    "STS-B": ((STSB + "\tscore", STSB_ROW + "\t{y}"),) * 2 + ((STSB, STSB_ROW),),
    "QQP": (("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "5{i}\t1\t2\t{a}\t{b}\t{y}"),) * 2
    + (("id\tquestion1\tquestion2", "{i}\t{a}\t{b}"),),
    "MNLI": (
        (MNLI + "\tlabel1\tgold_label", MNLI_ROW + "\tneutral\t{y}"),
        (MNLI + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label", MNLI_ROW + "\tneutral" * 5 + "\t{y}"),
        (MNLI, MNLI_ROW),
    ),
    "QNLI": (("index\tquestion\tsentence\tlabel", "{i}\t{a}\t{b}\t{y}"),) * 2 + (("index\tquestion\tsentence", "{i}\t{a}\t{b}"),),
    "RTE": (("index\tsentence1\tsentence2\tlabel", "{i}\t{a}\t{b}\t{y}"),) * 2
    + (("index\tsentence1\tsentence2", "{i}\t{a}\t{b}"),),
}
# The same with columns of one name for all tasks; the test sets have labels, where there are any.
PLAIN = {
    "CoLA": (("source\tlabel\tauthor_mark\tsentence", "gj04\t{y}\t\t{a}"),) * 2,
    "SST-2": (("sentence\tlabel", "{a}\t{y}"),) * 3,
    "MRPC": (("label\tid1\tid2\tsentence1\tsentence2", "{y}\t7{i}\t8{i}\t{a}\t{b}"),) * 3,
    "STS-B": (("index\tgenre\tfilename\tyear\told_index\tsentence1\tsentence2\tscore", "{i}\tg\tf\t2012\t0\t{a}\t{b}\t{y}"),) * 3,
    "QQP": (("question1\tquestion2\tlabel", "{a}\t{b}\t{y}"),) * 2,
    "MNLI": (("sentence1\tsentence2\tlabel", "{a}\t{b}\t{y}"),) * 2,
    "QNLI": (("question\tsentence\tlabel", "{a}\t{b}\t{y}"),) * 2,
    "RTE": (("index\tsentence1\tsentence2\tlabel", "{i}\t{a}\t{b}\t{y}"),) * 2,
}
FILES = {"MNLI": ("train", "dev_matched", "test_matched")}


def make_rows(task: str, count: int, seed: int = 0):
    """Random sentences; the label tells whether the first word of the last one is "the" (scores: how many words)."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        sentences = tuple(" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 5))) for _ in range(1 if task in SINGLE else 2))
        if task == "STS-B":
            label = f"{len(sentences[-1].split()):.3f}"
        else:
            classes = CLASSES.get(task, ("0", "1"))
            label = classes[WORDS.index(sentences[-1].split()[0]) * len(classes) // len(WORDS)]
        rows.append((sentences, label))
    return rows


def write_file(path: Path, layout, rows) -> Path:
    """Write a file of *rows*; compressed, where its name ends in .gz."""
    head, template = layout
    lines = [] if head is None else [head]
    for i, (sentences, label) in enumerate(rows):
        lines.append(template.format(i=i, a=sentences[0], b=sentences[-1], y=label))
    text = "".join(f"{line}\n" for line in lines).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_task(directory: Path, task: str, counts=(32, 8, 4), layouts=OFFICIAL):
    """Write a task's files, and return the rows of each."""
    written = {}
    names = FILES.get(task, ("train", "dev", "test"))
    for number, (name, layout, count) in enumerate(zip(names, layouts[task], counts)):
        written[name] = make_rows(task, count, seed=number)
        write_file(Path(directory) / task / f"{name}.tsv", layout, written[name])
    return written


def convert_small(directory: Path, kind: str) -> Path:
    """A tiny encoder as `python -m sharp_plugins.convert` writes it."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    import published

    from sharp_plugins.convert.conversion import convert

    writer = {"bert": published.write_bert, "roberta": published.write_roberta}[kind]
    convert(writer(directory / "published"), directory / "converted")
    return directory / "converted"
