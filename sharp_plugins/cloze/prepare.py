"""Sentences in prompts as data for ``--task cloze``: tokenised by a layout, checked line by line, binarized."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Optional

import tokenizers
import torch
from fairseq.data import Dictionary, indexed_dataset

from sharp_plugins import __version__
from sharp_plugins.cloze.encoding import Encoding
from sharp_plugins.cloze.layout import Layout
from sharp_plugins.cloze.prepared import DICTIONARY, PARTS, STAMP, TOKENIZER_FILES, VERSION, Prepared, read_prepared
from sharp_plugins.cloze.reader import Row, read_rows
from sharp_plugins.files.writing import filling, sha256, write_text
from sharp_plugins.text.encoder_directory import Backbone
from sharp_plugins.text.stamped import check_out, holds

# Rows that are tokenised at once.
BATCH = 1000
LEAST = 4  # <s>, a token, the mask, </s>


def prepare(
    files: Dict[str, Path],
    backbone: Backbone,
    layout: Layout,
    out,
    too_long: str = "refuse",
    tell: Callable[[str], None] = lambda line: None,
    max_length: Optional[int] = None,
) -> Prepared:
    """Write the data for *backbone* into the directory *out*. Where it holds the same data already, nothing is done.

    Args:
        files: of each split, see `read_rows`.
        too_long: what is done with rows of the training set whose mask would be cut away: "refuse" or "skip". In other splits
            they are refused.
        tell: is given a line about each split, and about each row that is left out.
        max_length: in the place of the layout's.

    Raises:
        OSError: a file cannot be opened.
        ValueError: the backbone has no language-model head, the layout does not fit its vocabulary or its positions, a line cannot
            be used (named by file and line), or *out* holds something else.
    """
    out = Path(out)
    check_out(out)
    check_head(backbone)
    if max_length is not None:
        layout = replace(layout, max_length=max_length)
    if not LEAST <= layout.max_length <= backbone.max_positions:
        what, advice = ("--max-length", "") if max_length is not None else ("--layout: max_length", "; --max-length gives another")
        allowed = f"from {LEAST} to {backbone.max_positions}, the model's positions"
        raise ValueError(f"{what} must be {allowed}, and is {layout.max_length}{advice}")
    try:
        encoding = Encoding(layout, backbone.tokenizer, backbone.dictionary)
    except ValueError as error:
        raise ValueError(f"--layout: {error}") from None
    source = {
        "layout": layout.as_dict(),
        "files": {split: [path.name, sha256(path)] for split, path in files.items()},
        "too_long": too_long,
        "backbone": {name: sha256(backbone.directory / name) for name in (DICTIONARY, *TOKENIZER_FILES)},
    }
    own = {DICTIONARY, *TOKENIZER_FILES}
    own |= {f"{split}.{part}.{ending}" for split in files for part in PARTS for ending in ("bin", "idx")}
    if holds(out, STAMP, VERSION, source, own):
        prepared = read_prepared(out)
        tell(f"{out}: nothing to do, all was there")
        return prepared
    with filling(out, last=STAMP) as unfinished:
        for name in (DICTIONARY, *TOKENIZER_FILES):
            shutil.copyfile(backbone.directory / name, unfinished / name)
        facts = {split: _write(unfinished, split, path, encoding, too_long, tell) for split, path in files.items()}
        stamp = {
            "version": VERSION,
            "source": source,
            "facts": facts,
            "arch": backbone.arch,
            "max_positions": backbone.max_positions,
            "words": encoding.words,
            "made_with": {"sharp_plugins": __version__, "tokenizers": tokenizers.__version__},
        }
        write_text(unfinished / STAMP, json.dumps(stamp, ensure_ascii=False, indent=2) + "\n")
    tell(f"{out}: written")
    return read_prepared(out)


def check_head(backbone: Backbone) -> None:
    """Raise ValueError where the words at a mask would be a new head's: random."""
    if not backbone.has_lm_head:
        published = "lm_head.*" if backbone.family == "roberta" else "cls.predictions.*"
        raise ValueError(
            f"--backbone {backbone.directory}: it has no masked-language-model head, which fills the mask; the published one "
            f"had none ({published}) or not all of it. Convert one that has it"
        )


# ---------------------------------------------------------------------- one split


def _write(directory: Path, split: str, path: Path, encoding: Encoding, too_long: str, tell) -> Dict:
    """Write a split, and return its numbers."""
    dictionary, layout = encoding.dictionary, encoding.layout
    builders = [_builder(directory, split, part, dictionary) for part in PARTS]
    facts: Dict = {
        **dict.fromkeys(("rows", "longest", "shortened", "unknown", "skipped"), 0),
        "classes": dict.fromkeys(layout.classes, 0),
    }
    rows = read_rows(path, layout)
    while batch := list(islice(rows, BATCH)):
        for row, found in zip(batch, encoding.sequences([row.sentences for row in batch])):
            if found.special:
                raise ValueError(f"{row.where}: a sentence has the special symbol {found.special[0]} in it")
            if not found.has_mask:
                _cut_away(row, layout.max_length, split, too_long, tell)
                facts["skipped"] += 1
                continue
            for builder, item in zip(builders, (found.symbols, [row.label])):
                builder.add_item(torch.tensor(item, dtype=torch.long))
            facts["rows"] += 1
            facts["longest"] = max(facts["longest"], len(found.symbols))
            facts["shortened"] += found.is_shortened
            facts["unknown"] += found.symbols.count(dictionary.unk())
            facts["classes"][layout.classes[row.label]] += 1
    if not facts["rows"]:
        raise ValueError(f"{path}: no row in it" + (" whose mask would be left" if facts["skipped"] else ""))
    for part, builder in zip(PARTS, builders):
        builder.finalize(str(directory / f"{split}.{part}.idx"))
    classes = ", ".join(f"{name}: {count}" for name, count in facts["classes"].items())
    kinds = {"shortened": "shortened", "unknown": "unknown tokens", "skipped": "skipped"}
    notes = [f", {facts[what]} {words}" for what, words in kinds.items() if facts[what]]
    tell(f"{split}: {facts['rows']} rows ({classes}), at most {facts['longest']} tokens{''.join(notes)}")
    absent = [name for name, count in facts["classes"].items() if not count]
    if absent:
        tell(f"warning: {path}: no row of class {', '.join(absent)}")
    return facts


def _builder(directory: Path, split: str, part: str, dictionary: Dictionary):
    return indexed_dataset.make_builder(str(directory / f"{split}.{part}.bin"), impl="mmap", vocab_size=len(dictionary))


def _cut_away(row: Row, most: int, split: str, too_long: str, tell) -> None:
    """Say that a row is left out.

    Raises:
        ValueError: it may not be.
    """
    cause = f"{row.where}: the mask is cut away: it stands behind the first {most} tokens"
    if split != "train" or too_long != "skip":
        advice = "a larger --max-length or a limit of the sentence (in the layout) keeps it"
        raise ValueError(f"{cause}; {advice}{', and --too-long skip leaves such rows out' if split == 'train' else ''}")
    tell(f"warning: {cause}; left out")
