"""A published encoder as ``python -m sharp_plugins.convert`` leaves it: what data and runs need to know of it."""

from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

from fairseq.data import Dictionary

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.files.writing import sha256
from sharp_plugins.text.decoder_tokenizer import FILE as DECODER
from sharp_plugins.text.dictionary import read_dictionary
from sharp_plugins.text.tokenizer import Tokenizer

FILES = ("model.pt", "dict.txt", "tokenizer.json")
WORDS = "encoder.sentence_encoder.embed_tokens.weight"
HEAD = "encoder.lm_head."
# What a converted checkpoint's own part, beside fairseq's, is called.
PUBLISHED = "published"
# Settings of the architecture that a fine-tuned model must share.
SIZES = (
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "activation_fn",
    "token_types",
    "layer_norm_eps",
)
# What an architecture's name begins with -> the family, whose settings of fine-tuning are its own.
FAMILIES = {"sharp_minilm": "minilm", "sharp_bert": "bert", "roberta": "roberta"}


class Backbone(NamedTuple):
    """What a directory of `FILES` holds.

    arch: fairseq's architecture.
    family: one of `FAMILIES`.
    sizes: the architecture's settings.
    max_positions: length of its table of positions, special symbols included.
    init_token, separator_token: of the ``sentence_prediction`` task; the separator is None where a pair has none but
        the first sentence's end.
    checksums: of the `FILES`.
    has_lm_head: whether the masked-language-model head is the published one (`has_lm_head`).
    """

    directory: Path
    arch: str
    family: str
    sizes: Dict[str, object]
    max_positions: int
    init_token: int
    separator_token: Optional[int]
    dictionary: Dictionary
    tokenizer: Tokenizer
    checksums: Dict[str, str]
    has_lm_head: bool

    def special_symbols(self, sentences: int) -> int:
        """How many symbols the task puts around and between that many sentences."""
        return 1 + sentences + (sentences - 1 if self.separator_token is not None else 0)


def load_backbone(directory) -> Backbone:
    """Read a converted encoder.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the checkpoint is no encoder that was converted (a decoder, say), or its vocabulary is not the dictionary's.
        ImportError: tokenizers is not installed.
    """
    directory = Path(directory)
    if (directory / DECODER).is_file():
        raise ValueError(f"{directory}: it holds a converted decoder; --backbone wants an encoder, a BERT or RoBERTa")
    for name in FILES:
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name}: not there; --backbone wants what `python -m sharp_plugins.convert` wrote")
    args, rows, has_head = _read_checkpoint(directory / "model.pt")
    family = next((family for start, family in FAMILIES.items() if args["arch"].startswith(start)), None)
    if family is None:
        raise ValueError(f"{directory / 'model.pt'}: its architecture, {args['arch']}, is none of a BERT or RoBERTa")

    dictionary = read_dictionary(directory / "dict.txt")
    tokenizer = Tokenizer.load(directory)
    unknown = [symbol for symbol in tokenizer.symbols if symbol not in dictionary]
    if unknown:
        raise ValueError(
            f"{directory}: the tokenizer does not fit: {len(unknown)} of its symbols are not in dict.txt, the "
            f"first of them {unknown[0]!r}"
        )
    dictionary.add_symbol("<mask>")  # as the task does
    if len(dictionary) != rows:
        raise ValueError(f"{directory}: the vocabulary does not fit: dict.txt has {len(dictionary)} symbols, and model.pt {rows}")
    return Backbone(
        directory=directory,
        arch=args["arch"],
        family=family,
        sizes={name: args[name] for name in SIZES if name in args},
        max_positions=args["max_positions"],
        init_token=dictionary.bos(),
        separator_token=dictionary.eos() if tokenizer.pair_format().separators == 2 else None,
        dictionary=dictionary,
        tokenizer=tokenizer,
        checksums={name: sha256(directory / name) for name in FILES},
        has_lm_head=has_head,
    )


def has_lm_head(state: Any) -> bool:
    """Whether the masked-language-model head of an encoder's checkpoint was ever trained.

    A converted checkpoint says it. Of others the weights do: those of a new head are a normalisation by 1 and biases of 0.

    Args:
        state: what a checkpoint of fairseq's holds.

    >>> import torch
    >>> new = {"encoder.lm_head.layer_norm.weight": torch.ones(2), "encoder.lm_head.bias": torch.zeros(3)}
    >>> has_lm_head({"model": new}), has_lm_head({"model": {**new, "encoder.lm_head.bias": torch.ones(3)}})
    (False, True)
    """
    said = (state.get(PUBLISHED) or {}).get("lm_head")
    if said is not None:
        return bool(said)
    scale, bias = (state["model"].get(f"{HEAD}{name}") for name in ("layer_norm.weight", "bias"))
    return scale is not None and bias is not None and not (bool(scale.eq(1).all()) and not bool(bias.any()))


def _read_checkpoint(path: Path):
    """The architecture's settings, the rows of its table of words, and whether it has its language-model head."""
    state = read_torch(path, mmap=True)
    try:
        args = config_of(state, "model")
        return {**args, "arch": args.get("arch") or args["_name"]}, len(state["model"][WORDS]), has_lm_head(state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a converted encoder: {type(error).__name__}: {error}") from error
