"""A directory of binarized prompts with candidates.

DATA/SPLIT.sequence.{bin,idx}   prompt and candidate, start too: one line for each candidate, the candidates of an example in order
DATA/SPLIT.counted.{bin,idx}    one line for each example: how many of the last symbols of each of its sequences are the candidate's
DATA/SPLIT.answers.{bin,idx}    one line for each example: the right candidates, from 0
DATA/SPLIT.examples.jsonl       the examples as they were read
DATA/dict.txt                   the model's dictionary
DATA/tokenizer.json ...         its tokenizer
DATA/prepared.json              what all this was made of
"""

from fairseq.data import data_utils

from sharp_plugins.prompted.prepared import Prepared, read_prepared
from sharp_plugins.runs import data

STAMP = data.STAMP
# Changed with what is written.
VERSION = 1
COMMAND = "python -m sharp_plugins.candidates prepare"
PARTS = ("sequence", "counted", "answers")
EXAMPLES = "examples.jsonl"


def read_candidates(directory) -> Prepared:
    """What `prepare` wrote.

    Raises:
        FileNotFoundError: it did not.
        ValueError: the directory is of another version, or its dictionary or a file of its tokenizer was changed.

    Example::

        read_candidates("DATA").facts["train"]["examples"]
    """
    return read_prepared(directory, STAMP, VERSION, COMMAND)


def load_parts(prepared: Prepared, split: str, dictionary):
    """The data sets of `PARTS`.

    Raises:
        FileNotFoundError: the split is not there.
    """
    place = prepared.directory
    parts = [data_utils.load_indexed_dataset(str(place / f"{split}.{part}"), dictionary, "mmap") for part in PARTS]
    if None in parts:
        raise FileNotFoundError(f"{place}: no data of {split}; there are {', '.join(prepared.facts)}")
    return parts
