"""GLUE's published files, fetched where they are missing: resumed after a stop, and used only with the right checksum.

Addresses are those of gluebenchmark.com's tasks. The checksums are on public record in two places that made them
independently, TensorFlow Datasets (``url_checksums/glue.txt``) and Hugging Face Datasets (``glue/dataset_infos.json``,
which alone has QQP's). MRPC is not hosted with the other tasks: its texts come from SentEval, and GLUE's split of them
into train and dev from a list of ids.
"""

import http.client
import shutil
import urllib.request
import zipfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from sharp_plugins.files.text import text_lines
from sharp_plugins.files.writing import replacing, sha256, write_text
from sharp_plugins.glue.reader import ENDINGS
from sharp_plugins.glue.tasks import Task

GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_TRAIN, MRPC_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"


class Source(NamedTuple):
    """A published file."""

    base: str
    name: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        return self.base + self.name


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

# A server that sends nothing for that long is given up.
SECONDS = 60
BLOCK = 1 << 16
# Where a task's files are until all of them are there.
DOWNLOADS = ".downloads"


def download(task: Task, data, show: Callable[[str], None] = print, sources=None) -> bool:
    """Make sure that all of *task*'s published files are in the directory *data*; files that are there stay as they are.

    Args:
        show: is given lines for the user.
        sources: instead of `SOURCES`.

    Returns:
        whether anything had to be fetched.

    Raises:
        OSError: the connection failed; another call goes on where this one stopped.
        ValueError: what came is not what was published.
    """
    data = Path(data)
    if all(is_there(data / task.name, split.names[0]) for split in task.splits.values()):
        return False
    fetched = []
    for source in (sources or SOURCES)[task.name]:
        path = data / DOWNLOADS / task.name / source.name
        if not path.is_file():
            show(f"fetching {source.url} ({source.size / 1e6:.1f} MB)")
            fetch(source, path)
        fetched.append(path)
    if task.name == "MRPC":
        write_mrpc(*fetched, data / task.name)
    else:
        unpack(fetched[0], task, data / task.name)
    shutil.rmtree(data / DOWNLOADS / task.name)
    return True


def is_there(directory: Path, name: str) -> bool:
    """Whether there is a file of that name, compressed or not."""
    return any((directory / f"{name}{ending}").is_file() for ending in ENDINGS)


def fetch(source: Source, path: Path) -> None:
    """Download a file, or the rest of it; it appears at *path* when its checksum is right.

    Raises:
        OSError: as `download`.
        ValueError: as `download`.
    """
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    there = part.stat().st_size if part.exists() else 0
    if there < source.size:
        request = urllib.request.Request(source.url, headers={"Range": f"bytes={there}-"} if there else {})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                whole = _whole_size(answer)
                if whole not in (None, source.size):
                    part.unlink(missing_ok=True)
                    raise ValueError(f"{source.url}: not the published file: it has {whole} bytes, and published are {source.size}")
                # A server may ignore the range and send all of it.
                with open(part, "ab" if answer.status == 206 else "wb") as file:
                    _copy(answer, file, source.size + 1 - file.tell())
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "code", None) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()  # the server's file ends before ours
                raise OSError(f"{source.url}: {error}; what was there was deleted; run this again") from error
            raise OSError(f"{source.url}: {error}; run this again to go on") from error
    size = part.stat().st_size
    if size < source.size:
        raise OSError(f"{source.url}: the connection ended at byte {size} of {source.size}; run this again to go on")
    found = sha256(part)
    if found != source.sha256:
        part.unlink()
        raise ValueError(
            f"{source.url}: not the published file ({size} bytes, published are {source.size}): its SHA-256 is {found} "
            f"and should be {source.sha256}; it was deleted"
        )
    part.rename(path)


def _copy(answer, file, most: int) -> None:
    """Copy no more than *most* bytes: a server that does not say how many there are could fill the disk."""
    while most > 0 and (block := answer.read(min(BLOCK, most))):
        file.write(block)
        most -= len(block)


def _whole_size(answer) -> Optional[int]:
    """The size of the whole file, as the server says; None where it does not."""
    part = answer.headers.get("Content-Range", "").rpartition("/")[2]
    size = part if answer.status == 206 else answer.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def unpack(archive: Path, task: Task, directory: Path) -> None:
    """Take the files that are missing out of the task's archive; those without which no run can start come last."""
    with zipfile.ZipFile(archive) as archived:
        for split in reversed(list(task.splits.values())):
            if is_there(directory, split.names[0]):
                continue
            name = f"{split.names[0]}.tsv"
            with archived.open(f"{task.name}/{name}") as member, replacing(directory / name) as new:
                with open(new, "wb") as file:
                    shutil.copyfileobj(member, file, BLOCK)


def write_mrpc(train: Path, test: Path, dev_ids: Path, directory: Path) -> None:
    """GLUE's MRPC from SentEval's files and the list of the pairs that GLUE uses as its development set."""
    ids = {tuple(line.split("\t")) for line in _text_lines(dev_ids)}
    head, *rows = _text_lines(train)
    is_dev = [tuple(row.split("\t")[1:3]) in ids for row in rows]
    # As the published test files: numbered, and without labels.
    names, *unlabelled = (row.split("\t", 1)[1] for row in _text_lines(test))
    splits = {
        "test": [f"index\t{names}", *(f"{number}\t{row}" for number, row in enumerate(unlabelled))],
        "dev": [head, *(row for row, dev in zip(rows, is_dev) if dev)],
        "train": [head, *(row for row, dev in zip(rows, is_dev) if not dev)],
    }
    for name, lines in splits.items():
        if is_there(directory, name):
            continue
        write_text(directory / f"{name}.tsv", "".join(f"{line}\n" for line in lines))


def _text_lines(path: Path) -> List[str]:
    return [line for _, line in text_lines(path) if line.strip()]
