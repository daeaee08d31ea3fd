"""The command ``python -m sharp_plugins.webnlg score``."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from sharp_plugins.command_line import output_file
from sharp_plugins.files.writing import write_text
from sharp_plugins.webnlg.corpus import SPLITS, files_of, find_split, has_xml, read_split
from sharp_plugins.webnlg.entry import CorpusError, Entry, NoSplit
from sharp_plugins.webnlg.scores.evaluation import not_composed, scores_of, systems
from sharp_plugins.webnlg.scores.hypotheses import FORMS, HypothesesError, read_hypotheses
from sharp_plugins.webnlg.scores.meteor import find_java, meteor_scores
from sharp_plugins.webnlg.scores.printed import breakdown_tables, scores_table, significance_tables
from sharp_plugins.webnlg.scores.significance import TESTS, check_numbers, compare
from sharp_plugins.webnlg.seen import RULES, tell_seen
from sharp_plugins.webnlg.texts import group_by_input

DESCRIPTION = (
    "Score a system's texts with BLEU, chrF++ and TER in three ways: sacrebleu's, the WebNLG challenge's of 2017, and LoRA's."
)


def add_score_arguments(parser) -> None:
    """The command's flags."""
    words = "the texts: what fairseq-generate printed, one line for each input, or JSON lines"
    parser.add_argument("hypotheses", type=Path, metavar="HYPOTHESES", help=words)
    words = "the corpus: a directory; or the split itself, a file or a directory of XML files"
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=words)
    parser.add_argument("--split", default="test", metavar="SPLIT", help="which part of it (default: test)")
    words = (
        "tell seen categories by the list of the 2017 challenge, or by what is in DIR's training set (default: as the data say; "
    )
    words += "where they do not, by the training set if it is there, else by the list)"
    parser.add_argument("--seen", choices=RULES, help=words)
    parser.add_argument("--json", type=output_file, metavar="OUT", help="write the scores, not rounded, into a file too")
    parser.add_argument("--format", choices=FORMS, default="", help="of the texts (default: told by their content)")
    parser.add_argument("--breakdown", action="store_true", help="print the scores of each category and number of triples too")
    words = "other systems' texts: are the differences to them significant?"
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="OTHER", help=words)
    words = "the test: sacrebleu's paired bootstrap or approximate randomisation (default: bootstrap)"
    parser.add_argument("--significance", choices=list(TESTS), default="bootstrap", help=words)
    usual = ", ".join(f"{samples} of the {test}" for test, (_, samples) in TESTS.items())
    parser.add_argument("--samples", type=int, default=0, metavar="N", help=f"samples or trials (default: {usual})")
    parser.add_argument("--seed", type=int, default=12345, metavar="N", help="of the test's random numbers (default: 12345)")
    parser.add_argument("--meteor-jar", type=Path, metavar="JAR", help="score with METEOR 1.5 too")
    words = "METEOR's table of paraphrases (default: the one beside the jar)"
    parser.add_argument("--meteor-paraphrases", type=Path, metavar="FILE", help=words)


def run_score(args) -> None:
    """Score, print it, and write what was asked for.

    Raises:
        ValueError: something does not fit; nothing was written.
    """
    check_numbers(args.samples, args.seed)
    if args.meteor_jar is not None:
        find_java(args.meteor_jar, args.meteor_paraphrases)
    elif args.meteor_paraphrases is not None:
        raise ValueError("--meteor-paraphrases: there is no --meteor-jar that it belongs to")
    paths = [args.hypotheses, *args.against]
    check_places(args)
    entries, rule = tell_seen(read_split(split_of(args.data, args.split)), args.seen, lambda: read_training(args.data))
    texts, entries = read_texts(paths, entries, args.format)
    for path, number in uncomposed(texts, entries).items():
        words = (
            f"warning: {path}: input {number}, and maybe others, is not in Unicode's composed form (NFC), so that its é, say, can"
        )
        print(f"{words} differ from another text's; all is scored as it is", file=sys.stderr)
    named = {name: systems(hypotheses, entries) for name, hypotheses in texts.items()}
    first = named[str(args.hypotheses)]
    scores: Dict = scores_of(first, entries)
    shown = [told_counts(args.split, scores["counts"], rule), scores_table(scores)]
    if args.meteor_jar is not None:
        scores["meteor"] = meteor_scores(first, entries, args.meteor_jar, args.meteor_paraphrases)
        shown[1] = scores_table(scores)
    shown.append(told_signatures(scores["signatures"]))
    if args.breakdown:
        shown.append(breakdown_tables(scores["breakdown"]))
    if args.against:
        scores["significance"] = compare(named, entries, args.significance, args.samples, args.seed)
        shown.append(significance_tables(scores["significance"]))
    print("\n".join(shown).rstrip("\n"), flush=True)  # before a file that may fail to be written
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")


def read_texts(paths: Sequence[Path], entries: List[Entry], form: str) -> Tuple[Dict[str, List[str]], List[Entry]]:
    """Texts by path, one for each entry; or, as LoRA's code writes them, one for each input, where an input has several entries.

    Returns:
        the texts, and what each is of.

    Raises:
        HypothesesError: the texts are not so many, or cannot be read.
    """
    try:
        return {str(path): read_hypotheses(path, entries, form) for path in paths}, entries
    except HypothesesError as error:
        grouped = group_by_input(entries)
        if len(grouped) == len(entries):
            raise
        try:
            texts = {str(path): read_hypotheses(path, grouped, form) for path in paths}
        except HypothesesError:
            raise error from None
    words = (
        f"{len(entries)} entries are {len(grouped)} inputs; one that occurs several times is scored once, with all its references"
    )
    print(words, file=sys.stderr)
    return texts, grouped


def split_of(data: Path, split: str) -> Path:
    """Where a split is: in the corpus *data*, or *data* itself where that is a file, or a directory that is full of XML files."""
    if data.is_file():
        return data
    try:
        return find_split(data, split)
    except NoSplit:
        if data.is_dir() and has_xml(data):
            return data
        raise


def check_places(args) -> None:
    """Raise ValueError where a system would be compared with itself, or what is written is what is read."""
    given = [path.resolve() for path in (args.hypotheses, *args.against)]
    for path in args.against:
        if given.count(path.resolve()) > 1:
            raise ValueError(f"--against {path}: it is compared with itself, or given twice")
    if args.json is None:
        return
    read = {*given, *(path.resolve() for path in (args.meteor_jar, args.meteor_paraphrases) if path is not None)}
    for split in dict.fromkeys((*SPLITS, args.split)):
        with suppress(CorpusError):  # a split that is not there; the one that is asked for is told when it is read
            read.update(path.resolve() for path in files_of(split_of(args.data, split)))
    if args.json.resolve() in read:
        raise ValueError(f"--json {args.json}: it is a file that is read, and would be replaced; choose another one")


def uncomposed(texts: Dict[str, List[str]], entries: Sequence[Entry]) -> Dict[str, int]:
    """Where there are texts that are not in Unicode's composed form, the number of the first input with one, from 1."""
    first = {path: not_composed(given) for path, given in texts.items()}
    first["references"] = not_composed("\n".join(entry.refs) for entry in entries)
    return {path: number for path, number in first.items() if number is not None}


def read_training(data: Path) -> Optional[List[Entry]]:
    """A corpus's training set, or None where it has none."""
    try:
        path = find_split(data, "train")
    except NoSplit:
        return None
    return read_split(path)


def told_counts(split: str, counts: Dict[str, int], rule: str) -> str:
    """Of how many inputs the scores are, and how seen categories are told.

    >>> told_counts("test", {"all": 3, "seen": 2, "unseen": 1}, "as the data say")
    'test: 3 inputs, 2 seen, 1 unseen\\nseen or unseen: as the data say\\n'
    """
    parts = ", ".join(f"{count} {'inputs' if group == 'all' else group}" for group, count in counts.items())
    return f"{split}: {parts}\nseen or unseen: {rule}\n"


def told_signatures(signatures: Dict[str, Dict[str, str]]) -> str:
    """How each number was made, a line each.

    >>> told_signatures({"sacrebleu": {"bleu": "nrefs:3|case:mixed"}})
    'sacrebleu bleu: nrefs:3|case:mixed\\n'
    """
    return "".join(f"{way} {name}: {how}\n" for way, of in signatures.items() for name, how in of.items())
