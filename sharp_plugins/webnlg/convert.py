"""``python -m sharp_plugins.webnlg convert``: a corpus in any form as the project's JSON lines."""

from pathlib import Path
from typing import Dict, List

from sharp_plugins.command_line import output_directory
from sharp_plugins.files.writing import filling
from sharp_plugins.webnlg.corpus import SPLITS, CorpusError, files_of, find_split, has_xml, read_split
from sharp_plugins.webnlg.entry import Entry, NoSplit
from sharp_plugins.webnlg.published import CORPORA
from sharp_plugins.webnlg.readers import tofix
from sharp_plugins.webnlg.readers.json_lines import line_of
from sharp_plugins.webnlg.readers.official import ENGLISH
from sharp_plugins.webnlg.seen import PUBLISHED, TRAINING, with_seen
from sharp_plugins.webnlg.texts import ALL, GOOD, choose_texts

AS_IT_IS = "data"
DESCRIPTION = (
    "Read a corpus, check it, and write it as JSON lines: WebNLG's XML and JSON of all releases, E2E NLG's CSV, DART's JSON, "
    "JSON lines. sharp_plugins/webnlg/readers/README.md says how the files may be called."
)


def add_convert_arguments(parser) -> None:
    """The flags of the command."""
    words = "a corpus: a directory with train, dev and test (or some of them), or one file"
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=words)
    parser.add_argument("--out", type=output_directory, required=True, metavar="OUT", help="directory to write SPLIT.jsonl to")
    words = "texts of train and dev: all, with the others than good marked, or only the good ones; test keeps all (default: all)"
    parser.add_argument("--texts", choices=[ALL, GOOD], default=ALL, help=words)
    words = "whether a test input's category is seen, where the data do not say it: left open (data), by the list of the 2017 "
    words += "challenge (published), by what is in train (training) (default: data)"
    parser.add_argument("--seen", choices=[AS_IT_IS, PUBLISHED, TRAINING], default=AS_IT_IS, help=words)
    words = f"of the texts, where a release has several: en, ru (default: {ENGLISH})"
    parser.add_argument("--language", default=ENGLISH, metavar="L", help=words)
    words = "fetch what is missing of a published corpus into --data first"
    parser.add_argument("--download", choices=CORPORA, help=words)


def run_convert(args) -> str:
    """The command; returns what it prints.

    Raises:
        OSError, ValueError: a corpus cannot be fetched, read or written.
    """
    if args.download:
        from sharp_plugins.webnlg.download import download

        download(args.download, args.data)
    try:
        return convert(args.data, args.out, args.texts, args.seen, args.language)
    except CorpusError as error:
        raise ValueError(f"--data: {error}") from error


def convert(data: Path, out: Path, texts: str = ALL, seen: str = AS_IT_IS, language: str = ENGLISH) -> str:
    """Write ``out/SPLIT.jsonl`` for each split of *data*, when all of them have been read; all of them or none.

    Returns:
        what was written, in words.

    Raises:
        OSError: a file cannot be written.
        ValueError: the corpus cannot be read, what would be written is what is read, or *out* holds another corpus.

    Example::

        print(convert(Path("webnlg_challenge_2017"), Path("corpus"), texts="good", seen="published"))
    """
    paths = splits_of(data)
    places = {split: out / f"{split}.jsonl" for split in paths}
    read = {file.resolve() for path in paths.values() for file in files_of(path)}
    for place in places.values():
        if place.resolve() in read:
            raise ValueError(f"--out {out}: {place.name} is what is read; choose another directory")
    if (out / tofix.NAME).is_file():
        raise ValueError(f"--out {out}: its {tofix.NAME} would mark texts of what is written; choose another directory")
    corpus = {split: read_split(path, language) for split, path in paths.items()}
    if seen != AS_IT_IS:
        told = "test" if "test" in corpus or len(corpus) > 1 else next(iter(corpus))  # one file, whatever its name
        if told not in corpus:
            raise ValueError(f"--seen {seen}: {data} has no test set, whose categories it would tell")
        if seen == TRAINING and "train" not in corpus or told == "train":
            raise ValueError(f"--seen {seen}: {data} has no {'test' if told == 'train' else 'training'} set to go by")
        corpus[told] = with_seen(corpus[told], seen, corpus.get("train", ()))
    corpus = choose_texts(corpus, texts)
    written = {places[split].name: "".join(f"{line_of(entry)}\n" for entry in entries) for split, entries in corpus.items()}
    check_others(out, written, is_a_part=data in paths.values())
    with filling(out, last=list(written)[-1]) as unfinished:
        for name, text in written.items():
            (unfinished / name).write_text(text, encoding="utf-8")
    return "\n".join(f"{places[split]}: {in_words(entries)}" for split, entries in corpus.items())


def check_others(out: Path, written: Dict[str, str], is_a_part: bool) -> None:
    """Raise ValueError where *out* holds a split of another corpus, of which some splits would stay and some be replaced.

    Args:
        written: the text of each file that is to be written.
        is_a_part: whether it is one split, which others may lie beside.
    """
    others = [] if is_a_part else [f"{split}.jsonl" for split in SPLITS]
    for name in dict.fromkeys([*written, *others]):
        path = out / name
        if path.is_file() and (name not in written or path.read_bytes() != written[name].encode()):
            raise ValueError(
                f"--out {out}: its {name} is of another corpus or of other flags; choose another directory, or remove it"
            )


def splits_of(data: Path) -> Dict[str, Path]:
    """The splits that are there; of a file, and of a directory that is full of XML files, the one that it is.

    Raises:
        CorpusError: there is none.
    """
    if data.is_file():
        return {Path(data.name.removesuffix(".gz")).stem: data}
    if not data.is_dir():
        raise CorpusError(f"{data}: no such file or directory")
    found, first = {}, None
    for split in SPLITS:
        try:
            found[split] = find_split(data, split)
        except NoSplit as error:
            first = first or error
    if not found and has_xml(data):
        return {data.resolve().name: data}
    if not found:
        raise CorpusError(f"{first}; and neither dev nor test, and no XML file lies in {data} itself")
    return found


def in_words(entries: List[Entry]) -> str:
    """How much a split has.

    >>> entry = Entry("1", "Food", True, (("Bacon", "partOf", "BLT"),), ("It has bacon.", "bacon it"), (True, False))
    >>> in_words([entry])
    '1 inputs, 2 texts (1 of them not good), 1 categories, 1 inputs of seen and 0 of unseen categories'
    """
    bad = sum(not good for entry in entries for good in entry.good)
    words = f"{len(entries)} inputs, {sum(len(entry.refs) for entry in entries)} texts"
    words += f" ({bad} of them not good)" if bad else ""
    words += f", {len({entry.category for entry in entries})} categories"
    seen = [entry.seen for entry in entries if entry.seen is not None]
    return words + (f", {sum(seen)} inputs of seen and {len(seen) - sum(seen)} of unseen categories" if seen else "")
