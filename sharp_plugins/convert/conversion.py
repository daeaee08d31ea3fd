"""A published checkpoint, as files of transformers, as a fairseq checkpoint with its dictionary and tokenizer."""

import argparse
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq import models, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor

from sharp_plugins.convert.published_settings import Settings, read_settings
from sharp_plugins.convert.weights import INSIDE, TOKEN_TYPES, fairseq_weights, read_weights
from sharp_plugins.files.torch_writer import save_torch
from sharp_plugins.files.writing import filling
from sharp_plugins.models import bert  # noqa: F401  sharp_bert
from sharp_plugins.text import bpe
from sharp_plugins.text.decoder_tokenizer import FILE as DECODER
from sharp_plugins.text.encoder_directory import FILES, PUBLISHED
from sharp_plugins.text.tokenizer import PairFormat, Tokenizer

ARCHITECTURES = {"bert": ("sharp_bert_base", "sharp_bert_large", "sharp_minilm"), "roberta": ("roberta_base", "roberta_large")}
# What is written beside dict.txt, by names that the files of other models have too.
WRITTEN = ("model.pt", "tokenizer.json", "special_tokens_map.json")
# Tables are often padded to a multiple of 64 or 128 rows, for speed.
PADDING_ROWS = 127


class Converted(NamedTuple):
    """What `convert` wrote, for a message."""

    type: str  # "bert" or "roberta"
    flags: List[str]  # the architecture's flags for fairseq-train
    symbols: int  # entries of the dictionary
    weights: int  # numbers in the model
    has_lm_head: bool  # whether the language-model head is the published one
    left_out: List[str]  # names of published weights without a place in fairseq's model
    pairs: PairFormat  # how the published tokenizer puts two sentences together
    redrawn: int  # how many of the last layers have new random weights
    dropped: int  # how many of the last layers were left out


def convert(directory, out, redrawn: int = 0, keep: Optional[int] = None) -> Converted:
    """Convert the checkpoint in *directory* and write ``model.pt`` and the files of `Tokenizer.save` into *out*.

    Each file appears under its name when it is complete, and ``model.pt`` last.

    Args:
        redrawn: how many of the last layers get new random weights in the place of the published ones, the same each time, as
            Zhang et al. 2021 ("Revisiting Few-sample BERT Fine-tuning", section 5) do before fine-tuning.
        keep: how many layers, from the first, make the new model (default: all). *redrawn* counts among them.

    Raises:
        FileNotFoundError: a file of the checkpoint is not there.
        ValueError: a file cannot be read, the architecture is another one, the parts do not fit together, or there are not
            so many layers.
        OSError: a file cannot be written.
        ImportError: tokenizers or safetensors is not installed.
    """
    directory, out = Path(directory), Path(out)
    check_out(out, directory, is_decoder=False)
    settings = read_settings(directory / "config.json")
    tokenizer = Tokenizer.load(directory)
    check_vocabulary(directory, tokenizer, settings.vocabulary)
    pairs = pair_format(directory, tokenizer, settings)
    published, left_out = fairseq_weights(read_weights(directory), settings, tokenizer.published_ids, where=directory)
    if settings.type == "bert" and not pairs.has_types:
        # The tokenizer marks no second sentence, and so the model has never seen another type than the first.
        published[TOKEN_TYPES] = published[TOKEN_TYPES][:1].clone()
        settings.model["token_types"] = 1
    published, dropped = first_layers(published, settings, keep, where=directory)
    flags = architecture_flags(settings)
    cfg = build_config(flags, settings)
    state = complete_state(directory, published, cfg, tokenizer, redrawn)
    has_lm_head = "encoder.lm_head.bias" in published

    with filling(out, last="model.pt") as unfinished:
        tokenizer.save(unfinished)
        written = {**checkpoint(cfg, state), PUBLISHED: {"lm_head": has_lm_head}}
        save_torch(written, unfinished / "model.pt", out / "model.pt")
    numbers = {value.data_ptr(): value.numel() for value in state.values()}  # tied ones once
    return Converted(
        type=settings.type,
        flags=flags,
        symbols=len(tokenizer.symbols),
        weights=sum(numbers.values()),
        has_lm_head=has_lm_head,
        left_out=left_out,
        pairs=pairs,
        redrawn=redrawn,
        dropped=dropped,
    )


def first_layers(
    published: Dict[str, Tensor], settings: Settings, keep: Optional[int], where: Path
) -> Tuple[Dict[str, Tensor], int]:
    """The *published* weights, under fairseq's names, without the layers behind the first *keep*; and how many those are.

    *settings* have the new number of layers afterwards.
    """
    layers = settings.model["encoder_layers"]
    if keep is None:
        return published, 0
    if not 1 <= keep <= layers:
        raise ValueError(f"--keep-layers {keep}: {where} has {layers} layers; give a number from 1 to {layers}")
    settings.model["encoder_layers"] = keep
    dropped = tuple(f"{INSIDE}.layers.{layer}." for layer in range(keep, layers))
    return {name: value for name, value in published.items() if not name.startswith(dropped)}, layers - keep


def check_out(out: Path, published: Path, is_decoder: bool) -> None:
    """Raise ValueError where *out* is a file, or the directory of the *published* files or of another model's, of which some would
    be written over; or where it holds a converted model of the other kind, of which some would stay."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: it is a file, and OUT is a directory to write to")
    if out.exists() and published.exists() and out.samefile(published):
        raise ValueError(f"{out}: choose another directory to write to; this one holds the published files")
    holds_decoder = (out / DECODER).is_file()
    if holds_decoder != is_decoder and (holds_decoder or all((out / name).is_file() for name in FILES)):
        kinds = ("an encoder", "a decoder")
        raise ValueError(
            f"{out}: it holds {kinds[holds_decoder]} that was converted, and this is {kinds[is_decoder]}; choose another directory "
            "to write to"
        )
    others = [name for name in WRITTEN if (out / name).is_file()]
    # Of a conversion that was stopped while files were moved, dict.txt is there, and no model.pt.
    is_own = all((out / name).is_file() for name in FILES) or ((out / "dict.txt").is_file() and "model.pt" not in others)
    if (out / "config.json").is_file() or (others and not is_own):
        raise ValueError(
            f"{out}: it holds files of another model, of which some would be replaced; choose another directory to write to"
        )


def pair_format(directory: Path, tokenizer: Tokenizer, settings: Settings) -> PairFormat:
    """`Tokenizer.pair_format`, with a ValueError where the model has no place for it."""
    try:
        pairs = tokenizer.pair_format()
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    if settings.type == "roberta" and settings.token_types > 1 and pairs.has_types:
        raise ValueError(f"{directory}: its tokenizer tells sentences apart by token types, which fairseq's roberta has not")
    return pairs


def check_vocabulary(directory: Path, tokenizer: Tokenizer, rows: int) -> None:
    """Raise ValueError where the tokenizer's ids are not those of a table of *rows* words."""
    highest, tokens = max(tokenizer.published_ids), len(tokenizer.published_ids)
    if highest >= rows or rows - tokens > PADDING_ROWS:
        raise ValueError(
            f"{directory}: the vocabulary does not fit the model: it has {tokens} tokens with ids up to {highest} "
            f"({tokenizer.symbols[tokenizer.published_ids.index(highest)]!r}), and config.json says vocab_size {rows}"
        )


def architecture_flags(settings: Settings) -> List[str]:
    """``--arch`` with the named architecture that is closest, and flags for the settings in which it differs."""

    def flags(arch: str) -> List[str]:
        defaults = argparse.Namespace()
        ARCH_CONFIG_REGISTRY[arch](defaults)
        defaults.max_positions = defaults.max_source_positions
        differ = [name for name, value in settings.model.items() if getattr(defaults, name) != value]
        named = [part for name in differ for part in (f"--{name.replace('_', '-')}", str(settings.model[name]))]
        return ["--arch", arch, *named]

    return min(map(flags, ARCHITECTURES[settings.type]), key=len)


def build_config(flags: List[str], settings: Settings):
    """The config that ``fairseq-train`` keeps in a checkpoint of masked-language-model training with *flags*."""
    positions = str(settings.model["max_positions"])
    line = ["--task", "masked_lm", "--criterion", "masked_lm", *flags, "--max-positions", positions, "--bpe", bpe.NAME]
    line += ["--tokens-per-sample", positions, "."]  # no data yet
    return training_config(line)


def training_config(line: List[str]):
    """The config that ``fairseq-train`` makes of a command *line*."""
    args = options.parse_args_and_arch(options.get_training_parser(), line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # today's hydra complains of the way in which fairseq calls it
        return convert_namespace_to_omegaconf(args)


def complete_state(directory: Path, published: Dict[str, Tensor], cfg, tokenizer: Tokenizer, redrawn: int = 0) -> Dict[str, Tensor]:
    """The state of the fairseq model of *cfg* with the *published* weights, and with BERT's pooler beside them.

    A language-model head that was not published is as a new model's; only masked-language-model training uses it. So are the
    last *redrawn* layers.

    Raises:
        ValueError: a weight is missing or has another shape, or there are not so many layers.
    """
    layers = cfg.model.encoder_layers
    if not 0 <= redrawn <= layers:
        raise ValueError(f"--redraw-layers {redrawn}: {directory} has {layers} layers; give at most so many")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build_model(cfg.model, SimpleNamespace(source_dictionary=tokenizer.dictionary()))
    state = model.state_dict()
    for name, value in state.items():
        optional = name.startswith("encoder.lm_head.") or name.endswith(".version")
        if name not in published and not optional:
            raise ValueError(f"{directory}: its weights have none for {name}")
        if name in published and published[name].shape != value.shape:
            raise ValueError(
                f"{directory}: the weight for {name} has shape {tuple(published[name].shape)}, and by config.json it "
                f"should have {tuple(value.shape)}"
            )
    of_new = tuple(f"{INSIDE}.layers.{layer}." for layer in range(layers - redrawn, layers))
    return {**state, **{name: value for name, value in published.items() if not name.startswith(of_new)}}


def checkpoint(cfg, state: Dict[str, Tensor]) -> Dict:
    """What ``fairseq-train`` saves, before its first update and without an optimizer."""
    return {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": state,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": None, "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
