"""Prompts and texts as data for ``--task prompted_generation``: tokenised, checked line by line, binarized."""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import tokenizers
import torch
from fairseq.data import indexed_dataset

from sharp_plugins import __version__
from sharp_plugins.files.writing import filling, sha256, write_text
from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.prompted.fitting import Check, Limits, fit
from sharp_plugins.prompted.formats import Format
from sharp_plugins.prompted.prepared import PARTS, STAMP, VERSION, Prepared, read_prepared
from sharp_plugins.prompted.reader import Pair, read_pairs
from sharp_plugins.prompted.references import WITH_REFERENCES, reference_file, reference_line
from sharp_plugins.text.decoder_directory import DICTIONARY, TOKENIZER_FILES, DecoderDirectory
from sharp_plugins.text.stamped import check_out, holds

SPLITS = ("train", "valid", "test")
# Pairs that are tokenised at once.
BATCH = 1000


class Inputs(NamedTuple):
    """The files of each split (`read_pairs`), and the names of the fields in them."""

    files: Dict[str, List[Path]]
    prompt_field: str = "prompt"
    text_field: Optional[str] = None


def prepare(
    inputs: Inputs, backbone: DecoderDirectory, format: Format, out, limits: Limits, tell: Callable[[str], None] = lambda line: None
) -> Prepared:
    """Write the data for *backbone* into the directory *out*. Where it holds the same data already, nothing is done.

    In training and validation each text of a prompt is a sample. In a test set each prompt is one, with its first text. Of
    validation and test sets ``SPLIT.references.jsonl`` keeps all texts of each prompt.

    Args:
        tell: is given a line about each split while it grows.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a line cannot be used, named by file and line, a limit does not fit, or *out* holds something else.
    """
    out = Path(out)
    check_out(out)
    if not 2 <= limits.positions <= backbone.max_positions:
        raise ValueError(f"--max-positions must be from 2 to {backbone.max_positions}, the model's, and is {limits.positions}")
    if not 1 <= limits.room < limits.positions:
        raise ValueError(f"--room must be from 1 to {limits.positions - 1}, and is {limits.room}")
    encoding = Encoding(format, backbone.tokenizer, backbone.dictionary, backbone.start)
    copied = [name for name in (DICTIONARY, *TOKENIZER_FILES) if (backbone.directory / name).is_file()]
    source = {
        "format": format.as_dict(),
        # In order, as prompts and texts are told apart by it; two files may have one name, in two directories.
        "files": {split: [[path.name, sha256(path)] for path in paths] for split, paths in inputs.files.items()},
        "fields": [inputs.prompt_field, inputs.text_field],
        "limits": limits._asdict(),
        "backbone": {name: sha256(backbone.directory / name) for name in copied},
        "unused": sorted(backbone.unused),
    }
    own = {DICTIONARY, *TOKENIZER_FILES, *map(reference_file, WITH_REFERENCES)}
    own |= {f"{split}.{part}.{ending}" for split in inputs.files for part in PARTS for ending in ("bin", "idx")}
    if holds(out, STAMP, VERSION, source, own):
        prepared = read_prepared(out)
        tell(f"{out}: nothing to do, all was there")
        return prepared
    if encoding.cannot_stop:
        tell(
            f"warning: the tokenizer has no symbol of {', '.join(map(repr, encoding.cannot_stop))}: generation will not stop there"
        )
    with filling(out, last=STAMP) as unfinished:
        for name in copied:
            shutil.copyfile(backbone.directory / name, unfinished / name)
        facts = {split: _write(unfinished, split, inputs, encoding, backbone, limits, tell) for split in inputs.files}
        stamp = {
            "version": VERSION,
            "source": source,
            "facts": facts,
            "arch": backbone.arch,
            "max_positions": backbone.max_positions,
            "start": backbone.start,
            "stop": encoding.stop,
            "made_with": {"sharp_plugins": __version__, "tokenizers": tokenizers.__version__},
        }
        write_text(unfinished / STAMP, json.dumps(stamp, ensure_ascii=False, indent=2) + "\n")
    tell(f"{out}: written")
    return read_prepared(out)


# ---------------------------------------------------------------------- one split


def _write(
    directory: Path, split: str, inputs: Inputs, encoding: Encoding, backbone: DecoderDirectory, limits: Limits, tell
) -> Dict:
    """Write a split, and return its numbers."""
    dictionary = encoding.dictionary
    builders = [
        indexed_dataset.make_builder(str(directory / f"{split}.{part}.bin"), impl="mmap", vocab_size=len(dictionary))
        for part in PARTS
    ]
    facts = dict.fromkeys(("samples", "prompt_symbols", "text_symbols", "longest", "cut", "skipped"), 0)
    is_test, kept, last = split == "test", [], None
    pairs = read_pairs(inputs.files[split], inputs.prompt_field, inputs.text_field)
    check = Check(encoding, backbone)
    for number, (pair, prompt, text) in enumerate(_samples(pairs, encoding, is_test), 1):
        check(pair.where, prompt, text)
        fitting = fit(prompt, text, limits, len(encoding.start), encoding.behind, pair.where)
        if fitting is None:
            facts["skipped"] += 1
        else:
            facts["cut"] += fitting is not prompt
            facts["samples"] += 1
            facts["prompt_symbols"] += len(fitting)
            facts["text_symbols"] += len(text)
            facts["longest"] = max(facts["longest"], len(fitting) + len(text) - 1)
            for builder, side in zip(builders, (fitting, text)):
                builder.add_item(torch.tensor(side, dtype=torch.long))
            if split in WITH_REFERENCES and pair is not last:
                kept.append(reference_line(pair.prompt, pair.texts, None if is_test else facts["samples"] - 1))
                last = pair
        if number % (10 * BATCH) == 0:
            tell(f"{split}: {facts['samples']} samples")
    if not facts["samples"]:
        raise ValueError(f"{inputs.files[split][0]}: no sample in it" + (" that fits the model" if facts["skipped"] else ""))
    for part, builder in zip(PARTS, builders):
        builder.finalize(str(directory / f"{split}.{part}.idx"))
    if kept:
        write_text(directory / reference_file(split), "".join(kept))
    notes = [f", {facts[what]} {what}" for what in ("cut", "skipped") if facts[what]]
    words = f"{facts['prompt_symbols']} + {facts['text_symbols']} symbols, at most {facts['longest']} positions"
    tell(f"{split}: {facts['samples']} samples, {words}{''.join(notes)}")
    return facts


def _samples(pairs: Iterator[Pair], encoding: Encoding, is_test: bool) -> Iterator[Tuple[Pair, List[int], List[int]]]:
    """Each sample's pair, and its prompt and text as symbols; a prompt is tokenised once for all its texts."""
    while batch := list(islice(pairs, BATCH)):
        chosen = [pair.texts[:1] if is_test else pair.texts for pair in batch]
        prompts = encoding.prompts([pair.prompt for pair in batch])
        texts = iter(encoding.texts([text for group in chosen for text in group]))
        for pair, prompt, group in zip(batch, prompts, chosen):
            for _ in group:
                yield pair, prompt, next(texts)
