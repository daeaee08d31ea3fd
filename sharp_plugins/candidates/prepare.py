"""Prompts with candidates as data for ``--task candidates``: tokenised, checked line by line, binarized."""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Optional

import tokenizers
import torch
from fairseq.data import indexed_dataset

from sharp_plugins import __version__
from sharp_plugins.candidates.encoding import Encoder, format_with
from sharp_plugins.candidates.prepared import EXAMPLES, PARTS, VERSION, read_candidates
from sharp_plugins.candidates.reader import read_examples
from sharp_plugins.files.writing import sha256, write_text
from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.prompted.formats import MODELS_OWN
from sharp_plugins.prompted.prepared import Prepared
from sharp_plugins.runs import data
from sharp_plugins.text.decoder_directory import DICTIONARY, TOKENIZER_FILES, DecoderDirectory
from sharp_plugins.text.stamped import check_out

# Examples that are tokenised at once.
BATCH = 500


def prepare(
    files: Dict[str, Path],
    backbone: DecoderDirectory,
    out,
    start: str = MODELS_OWN,
    max_positions: Optional[int] = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Write the data for *backbone* into the directory *out*. Where it holds the same data already, nothing is done.

    Args:
        files: of each split.
        start: a symbol, ``auto`` or ``none``.
        max_positions: the most symbols of a sequence, the start among them (default: as many as the model has positions). Of longer
            ones the prompt's beginning is left out, as in MeZO's code.
        tell: is given a line about each split while it grows.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a line cannot be used, named by file and line, a setting does not fit, or *out* holds something else, data
            of other files or settings too.
    """
    out, most = Path(out), backbone.max_positions if max_positions is None else max_positions
    check_out(out)
    if not 3 <= most <= backbone.max_positions:
        raise ValueError(f"--max-positions must be from 3 to {backbone.max_positions}, the model's, and is {most}")
    format = format_with(start)
    encoding = Encoding(format, backbone.tokenizer, backbone.dictionary, backbone.start)
    copied = [name for name in (DICTIONARY, *TOKENIZER_FILES) if (backbone.directory / name).is_file()]
    source = {
        "version": VERSION,
        "format": format.as_dict(),
        "files": {split: [path.name, sha256(path)] for split, path in files.items()},
        "max_positions": most,
        "backbone": {name: sha256(backbone.directory / name) for name in copied},
        "unused": sorted(backbone.unused),
    }

    def make(directory: Path) -> Dict:
        for name in copied:
            shutil.copyfile(backbone.directory / name, directory / name)
        encoder = Encoder(encoding, backbone, most)
        return {
            "version": VERSION,
            "facts": {split: _write(directory, split, path, encoder, tell) for split, path in files.items()},
            "arch": backbone.arch,
            "max_positions": backbone.max_positions,
            "start": backbone.start,
            "stop": [],
            "made_with": {"sharp_plugins": __version__, "tokenizers": tokenizers.__version__},
        }

    endings = [f"{part}.{ending}" for part in PARTS for ending in ("bin", "idx")]
    own = [*copied, *TOKENIZER_FILES, *(f"{split}.{name}" for split in ("train", "valid", "test") for name in (*endings, EXAMPLES))]
    made = data.make_once(out, source, own, make, replaces=False)
    tell(f"{out}: written" if made else f"{out}: nothing to do, all was there")
    return read_candidates(out)


def _write(directory: Path, split: str, path: Path, encoder: Encoder, tell) -> Dict:
    """Write a split, and return its numbers."""
    sizes = (len(encoder.dictionary), None, None)
    builders = [
        indexed_dataset.make_builder(str(directory / f"{split}.{part}.bin"), impl="mmap", vocab_size=size)
        for part, size in zip(PARTS, sizes)
    ]
    facts = dict.fromkeys(("examples", "candidates", "symbols", "counted", "longest", "cut"), 0)
    examples, kept = read_examples(path), []
    while batch := list(islice(examples, BATCH)):
        for example, encoded in zip(batch, encoder(batch)):
            rows = (*((0, sequence) for sequence in encoded.sequences), (1, encoded.counted), (2, example.answers))
            for part, row in rows:
                builders[part].add_item(torch.tensor(row, dtype=torch.long))
            facts["examples"] += 1
            facts["candidates"] += len(encoded.sequences)
            facts["symbols"] += sum(map(len, encoded.sequences))
            facts["counted"] += sum(encoded.counted)
            facts["longest"] = max(facts["longest"], *(len(sequence) - 1 for sequence in encoded.sequences))  # positions
            facts["cut"] += encoded.cut
            row = {"prompt": example.prompt, "candidates": example.candidates, "answers": example.answers}
            kept.append(json.dumps(row, ensure_ascii=False) + "\n")
        if facts["examples"] % (10 * BATCH) == 0:
            tell(f"{split}: {facts['examples']} examples")
    if not facts["examples"]:
        raise ValueError(f"{path}: no example in it")
    for part, builder in zip(PARTS, builders):
        builder.finalize(str(directory / f"{split}.{part}.idx"))
    write_text(directory / f"{split}.{EXAMPLES}", "".join(kept))
    note = f", {facts['cut']} with a prompt that was cut" if facts["cut"] else ""
    words = f"{facts['candidates']} candidates of {facts['counted']} symbols, at most {facts['longest']} positions"
    tell(f"{split}: {facts['examples']} examples, {words}{note}")
    return facts
