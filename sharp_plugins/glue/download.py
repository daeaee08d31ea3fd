"""GLUE's published files, fetched where they are missing.

Addresses are those of gluebenchmark.com's tasks. The checksums are on public record in two places that made them
independently, TensorFlow Datasets (``url_checksums/glue.txt``) and Hugging Face Datasets (``glue/dataset_infos.json``,
which alone has QQP's). MRPC is not hosted with the other tasks: its texts come from SentEval, and GLUE's split of them
into train and dev from a list of ids.
"""

import shutil
import zipfile
from pathlib import Path
from typing import Callable, Dict, List

from sharp_plugins.files.download import Source, extract, fetch_missing
from sharp_plugins.files.text import text_lines
from sharp_plugins.files.writing import one_at_a_time, write_text
from sharp_plugins.glue.reader import ENDINGS
from sharp_plugins.glue.tasks import Task

GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_TRAIN, MRPC_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"

SOURCES: Dict[str, List[Source]] = {
    "CoLA": [Source(GLUE, "CoLA.zip", 376971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff")],
    "SST-2": [Source(GLUE, "SST-2.zip", 7439277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa")],
    "STS-B": [Source(GLUE, "STS-B.zip", 802872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85")],
    "QQP": [Source(GLUE, "QQP-clean.zip", 41696084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0")],
    "MNLI": [Source(GLUE, "MNLI.zip", 312783507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633")],
    "QNLI": [Source(GLUE, "QNLIv2.zip", 10627589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5")],
    "RTE": [Source(GLUE, "RTE.zip", 697150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee")],
    "MRPC": [
        Source(SENTEVAL, MRPC_TRAIN, 1047044, "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
        Source(SENTEVAL, MRPC_TEST, 441275, "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"),
        Source(GLUE, "mrpc_dev_ids.tsv", 6222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"),
    ],
}

# Where a task's files are until all of them are there.
DOWNLOADS = ".downloads"


def download(task: Task, data, show: Callable[[str], None] = print, sources=None) -> bool:
    """Make sure that all of *task*'s published files are in the directory *data*; files that are there stay as they are. Of two
    calls at once one waits for the other.

    Args:
        show: is given lines for the user.
        sources: instead of `SOURCES`.

    Returns:
        whether anything had to be fetched.

    Raises:
        OSError: the connection failed; another call goes on where this one stopped.
        ValueError: what came is not what was published.
    """
    directory, downloads = Path(data) / task.name, Path(data) / DOWNLOADS / task.name
    if _is_whole(directory, task):
        return False
    downloads.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(downloads.with_name(f"{task.name}.lock")):
        if _is_whole(directory, task):  # another call has fetched it meanwhile
            return False
        fetched = fetch_missing((sources or SOURCES)[task.name], downloads, show)
        if task.name == "MRPC":
            write_mrpc(*fetched, directory)
        else:
            unpack(fetched[0], task, directory)
        shutil.rmtree(downloads)
    return True


def _is_whole(directory: Path, task: Task) -> bool:
    return all(is_there(directory, split.names[0]) for split in task.splits.values())


def is_there(directory: Path, name: str) -> bool:
    """Whether there is a file of that name, compressed or not."""
    return any((directory / f"{name}{ending}").is_file() for ending in ENDINGS)


def unpack(archive: Path, task: Task, directory: Path) -> None:
    """Take the files that are missing out of the task's archive; those without which no run can start come last."""
    with zipfile.ZipFile(archive) as opened:
        for split in reversed(task.splits.values()):
            if not is_there(directory, split.names[0]):
                extract(opened, f"{task.name}/{split.names[0]}.tsv", directory / f"{split.names[0]}.tsv")


def write_mrpc(train: Path, test: Path, dev_ids: Path, directory: Path) -> None:
    """GLUE's MRPC from SentEval's files and the list of the pairs that GLUE uses as its development set."""
    ids = {tuple(line.split("\t")) for line in _lines(dev_ids)}
    head, *rows = _lines(train)
    is_dev = [tuple(row.split("\t")[1:3]) in ids for row in rows]
    # As the published test files: numbered, and without labels.
    names, *unlabelled = (row.split("\t", 1)[1] for row in _lines(test))
    splits = {
        "test": [f"index\t{names}", *(f"{number}\t{row}" for number, row in enumerate(unlabelled))],
        "dev": [head, *(row for row, dev in zip(rows, is_dev) if dev)],
        "train": [head, *(row for row, dev in zip(rows, is_dev) if not dev)],
    }
    for name, lines in splits.items():
        if not is_there(directory, name):
            write_text(directory / f"{name}.tsv", "".join(f"{line}\n" for line in lines))


def _lines(path: Path) -> List[str]:
    return [line for _, line in text_lines(path) if line.strip()]
