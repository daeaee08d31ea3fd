"""The command ``python -m sharp_plugins.webnlg score``."""

import json
from pathlib import Path
from typing import Dict

from sharp_plugins.files.writing import write_text
from sharp_plugins.webnlg.corpus import find_split, read_split
from sharp_plugins.webnlg.scores.evaluation import scores_of, systems
from sharp_plugins.webnlg.scores.hypotheses import FORMS, read_hypotheses
from sharp_plugins.webnlg.scores.meteor import find_java, meteor_scores
from sharp_plugins.webnlg.scores.printed import breakdown_tables, scores_table, significance_tables
from sharp_plugins.webnlg.scores.significance import TESTS, check_numbers, compare

DESCRIPTION = (
    "Score a system's texts with BLEU, chrF++ and TER in three ways: sacrebleu's, the WebNLG challenge's of 2017, and LoRA's."
)


def add_score_arguments(parser) -> None:
    """The command's flags."""
    words = "the texts: what fairseq-generate printed, one line for each input, or JSON lines"
    parser.add_argument("hypotheses", type=Path, metavar="HYPOTHESES", help=words)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the corpus")
    parser.add_argument("--split", default="test", metavar="SPLIT", help="which part of it (default: test)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the scores, not rounded, into a file too")
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


def run_score(args) -> str:
    """Score, and write what was asked for; returns what to print.

    Raises:
        ValueError: something does not fit; nothing was written.
    """
    check_numbers(args.samples, args.seed)
    if args.meteor_jar is not None:
        find_java(args.meteor_jar, args.meteor_paraphrases)
    elif args.meteor_paraphrases is not None:
        raise ValueError("--meteor-paraphrases: there is no --meteor-jar that it belongs to")
    paths = [args.hypotheses, *args.against]
    for path in args.against:
        if paths.count(path) > 1:
            raise ValueError(f"--against {path}: it is compared with itself, or given twice")
    entries = read_split(find_split(args.data, args.split))
    texts = {str(path): read_hypotheses(path, entries, args.format) for path in paths}
    named = {name: systems(hypotheses, entries) for name, hypotheses in texts.items()}
    first = named[str(args.hypotheses)]
    scores: Dict = scores_of(first, entries)
    shown = [told_counts(args.split, scores["counts"]), scores_table(scores)]
    if args.meteor_jar is not None:
        scores["meteor"] = meteor_scores(first, entries, args.meteor_jar, args.meteor_paraphrases)
        shown[1] = scores_table(scores)
    if args.breakdown:
        shown.append(breakdown_tables(scores["breakdown"]))
    if args.against:
        scores["significance"] = compare(named, entries, args.significance, args.samples, args.seed)
        shown.append(significance_tables(scores["significance"]))
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")
    return "\n".join(shown).rstrip("\n")


def told_counts(split: str, counts: Dict[str, int]) -> str:
    """Of how many inputs the scores are.

    >>> told_counts("test", {"all": 3, "seen": 2, "unseen": 1})
    'test: 3 inputs, 2 seen, 1 unseen\\n'
    """
    parts = ", ".join(f"{count} {'inputs' if group == 'all' else group}" for group, count in counts.items())
    return f"{split}: {parts}\n"
