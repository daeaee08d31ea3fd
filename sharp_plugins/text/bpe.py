"""``--bpe sharp_tokenizer``: a converted tokenizer wherever fairseq takes text, ``RobertaModel.from_pretrained(...).encode`` among
these, and ``fairseq-interactive``.

A converted checkpoint names it in its config. fairseq's hub gives each part of a config that has a setting ``data`` the model's own
directory, which holds the tokenizer too, so that the directory can be moved; ``--bpe-tokenizer`` names another one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from sharp_plugins.text.converted import load_tokenizer

NAME = "sharp_tokenizer"
FILE = "tokenizer.json"


@dataclass
class TokenizerConfig(FairseqDataclass):
    bpe_tokenizer: Optional[str] = field(
        default=None,
        metadata={
            "help": "directory that python -m sharp_plugins.convert wrote (default: the data's; in fairseq's hub the model's)"
        },
    )
    data: Optional[str] = field(default=None, metadata={"help": "set by fairseq: where to look without bpe_tokenizer"})


@register_bpe(NAME, dataclass=TokenizerConfig)
class ConvertedTokenizer:
    """Texts to a fairseq dictionary's symbols with spaces between them, and back.

    Example, with what ``python -m sharp_plugins.convert DIRECTORY OUT`` wrote of a BERT without capitals::

        bpe = ConvertedTokenizer(TokenizerConfig(bpe_tokenizer="OUT"))
        bpe.encode("The cat sat.")  # "the cat sat ."
    """

    @staticmethod
    def add_args(parser) -> None:
        # Not the dataclass's own: each setting named data is another positional argument to fairseq.
        parser.add_argument("--bpe-tokenizer", metavar="DIR", help=TokenizerConfig._get_help(TokenizerConfig(), "bpe_tokenizer"))

    def __init__(self, cfg):
        """
        Raises:
            FileNotFoundError: there is no tokenizer where the config says.
            ValueError: it cannot be read.
            ImportError: tokenizers is not installed.
        """
        places = [Path(place) for place in (cfg.bpe_tokenizer, cfg.data) if place]
        there = [place for place in places if (place / FILE).is_file()]
        if not there:
            raise FileNotFoundError(
                f"--bpe {NAME}: no {FILE} in {' or '.join(map(str, places)) or 'any directory, as none is named'}; --bpe-tokenizer "
                "names the directory that `python -m sharp_plugins.convert` wrote"
            )
        self.tokenizer = load_tokenizer(there[0])

    def encode(self, text: str) -> str:
        """The symbols of *text*, without those that stand around a sentence."""
        return " ".join(self.tokenizer.encode(text))

    def decode(self, symbols: str) -> str:
        """The text of *symbols*, as near to the one that they were made from as the tokenizer can tell."""
        return self.tokenizer.decode(symbols.split())

    def is_beginning_of_word(self, symbol: str) -> bool:
        """Whether a word begins with *symbol*, for masking whole words."""
        return self.tokenizer.begins_a_word(symbol)
