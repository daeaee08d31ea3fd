"""The flags that ``prepare`` and ``run`` have in common, and what they stand for: a backbone, and tasks with their data."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

from sharp_plugins.fewshot.data import Maker
from sharp_plugins.fewshot.samples import Sampler
from sharp_plugins.fewshot.task import CLOZE, DECODER, Task
from sharp_plugins.fewshot.task_files import find_task, named_tasks
from sharp_plugins.files.writing import sha256

TASKS = "names of tasks that come with the plugin, or YAML files (default: all of the backbone's kind)"
# The symbol before a prompt, by family, where it is not the model's own: MeZO's code sets OPT's to <s>.
STARTS = {"opt": "<s>"}


def add_data_arguments(parser) -> None:
    """Add them to an argparse parser."""
    words = (
        "directory that `python -m sharp_plugins.convert` wrote of an encoder with its masked-language-model head, or of a decoder"
    )
    parser.add_argument("--backbone", metavar="DIR", type=Path, required=True, help=words)
    words = "directories with the tasks' files, such as SST-2/train.tsv; of a task's names the first that is in any of them is "
    words += "taken, from the first directory that has it"
    parser.add_argument("--data", metavar="DIR", type=Path, nargs="+", required=True, help=words)
    words = "examples of each class to train on, and as many as the development set; of encoders (default: 512)"
    parser.add_argument("--k", metavar="K", type=int, nargs="+", help=words)
    words = "examples to train on, beside a development set of the task's size; of decoders (default: the task's, 1000)"
    parser.add_argument("--examples", metavar="N", type=int, nargs="+", help=words)
    words = (
        "refuse fewer examples of a class than --k, to train on or in the development set, or in all than --examples, or a class "
    )
    words += "with none in one of the sets (default: a warning, as in MeZO's code)"
    parser.add_argument("--strict", action="store_true", help=words)
    words = (
        "the symbol before a decoder's prompt; auto: what the model has seen before a text; none: no symbol (default: auto; OPT: "
    )
    parser.add_argument("--start", metavar="SYMBOL", help=words + "<s>, as in MeZO's code)")
    words = "the most symbols of a sequence (default: the task's of encoders, and the model's of decoders)"
    parser.add_argument("--max-positions", metavar="N", type=int, help=words)


class Source(NamedTuple):
    """What the flags stand for.

    Attributes:
        kind: of tasks, "cloze" for an encoder and "decoder" for a decoder.
        backbone: for the making of data: `text.encoder_directory.Backbone` or `text.decoder_directory.DecoderDirectory`.
        family: as the converter names it.
        checksums: of the backbone's files.
        tasks: by name, in the order given.
        makers: of the tasks' data, by name.
        axis: what a sample's size is called: "k", or "examples".
        sizes: of samples.
    """

    kind: str
    backbone: Any
    family: str
    checksums: Dict[str, str]
    tasks: Dict[str, Task]
    makers: Dict[str, Maker]
    axis: str
    sizes: List[int]


def kind_of(directory: Path) -> str:
    """Which kind of tasks a backbone is for, by what it holds."""
    from sharp_plugins.text.decoder_tokenizer import FILE  # here and below, so that --help imports no fairseq

    return DECODER if (directory / FILE).is_file() else CLOZE


def source_of(args) -> Source:
    """Read the backbone and the tasks.

    Args:
        args: of `add_data_arguments`, and ``tasks``: names and YAML files, or None for all that come with the plugin.

    Raises:
        OSError: a file is not there.
        ValueError: the backbone or a task cannot be used, or a flag is for the other kind.
    """
    if not (args.backbone / "model.pt").is_file():  # it would pass for an encoder's
        raise FileNotFoundError(
            f"--backbone {args.backbone}: no model.pt in it; it is what `python -m sharp_plugins.convert` wrote"
        )
    kind = kind_of(args.backbone)
    tasks = [find_task(name, kind) for name in (named_tasks(kind) if args.tasks is None else args.tasks)]
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--tasks: {', '.join(twice)} given more than once, or two files of one name")
    axis, sizes, other = ("k", args.k, "examples") if kind == CLOZE else ("examples", args.examples, "k")
    if getattr(args, other) is not None or (kind == CLOZE and args.start is not None):
        flag = f"--{other}" if getattr(args, other) is not None else "--start"
        model = "an encoder" if kind == CLOZE else "a decoder"
        instead = f" or use --{axis}" * (flag != "--start")
        raise ValueError(f"{flag}: --backbone is {model}, for which {flag} says nothing; take it out{instead}")
    sizes = _default_sizes(kind, tasks) if sizes is None else list(dict.fromkeys(sizes))
    for size in sizes:
        if size < 1:
            raise ValueError(f"--{axis} {size}: should be at least 1")
    for flag, seeds in (("--seeds", args.seeds), ("--data-seed", [getattr(args, "data_seed", None)])):
        for seed in seeds:
            if seed is not None and not 0 <= seed < 2**32:
                raise ValueError(f"{flag} {seed}: should be from 0 to {2**32 - 1}, as NumPy shuffles with it")
    for place in args.data:
        if not place.is_dir():
            raise FileNotFoundError(f"--data {place}: no such directory")
    backbone, family, files = _encoder(args.backbone) if kind == CLOZE else _decoder(args.backbone)
    checksums = {name: sha256(args.backbone / name) for name in files}
    words = {name: value for name, value in checksums.items() if name != "model.pt"}
    start = STARTS.get(family, "auto") if args.start is None else args.start or "none"
    makers = {
        task.name: Maker(task, Sampler(task, args.data), backbone, words, start, args.max_positions, args.strict) for task in tasks
    }
    return Source(kind, backbone, family, checksums, {task.name: task for task in tasks}, makers, axis, sizes)


def _default_sizes(kind: str, tasks: Sequence[Task]) -> List[int]:
    """MeZO's k, or as many rows as the tasks' files name."""
    if kind == CLOZE:
        return [512]
    named = {task.name: task.rows["train"] for task in tasks}
    if len(set(named.values())) > 1:
        each = ", ".join(f"{name}: {count}" for name, count in named.items())
        raise ValueError(
            f"--tasks: their files name different numbers of rows to train on ({each}); give --examples, or a call to each"
        )
    return list(dict.fromkeys(named.values()))


def _encoder(directory: Path):
    from sharp_plugins.text.encoder_directory import FILES, load_backbone

    backbone = load_backbone(directory)
    return backbone, backbone.family, FILES


def _decoder(directory: Path):
    from sharp_plugins.text.decoder_directory import FILES, read_decoder_directory

    try:
        backbone = read_decoder_directory(directory)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"--backbone {error}") from error
    return backbone, backbone.tokenizer.family, FILES
