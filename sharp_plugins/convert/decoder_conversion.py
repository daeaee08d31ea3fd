"""A published decoder (GPT-2, OPT, Llama; a directory or a GGUF file) as a fairseq checkpoint with its dictionary and tokenizer.

The checkpoint is written weight by weight, each read when its turn comes: a model need not fit into memory.
"""

import re
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq import models

from sharp_plugins.convert.conversion import check_out, checkpoint, training_config
from sharp_plugins.convert.decoder_config import FAMILIES, DecoderModelSettings, read_decoder_config
from sharp_plugins.convert.decoder_flags import decoder_flags
from sharp_plugins.convert.decoder_names import ANCHOR
from sharp_plugins.convert.decoder_weights import check_rows, decoder_weights
from sharp_plugins.convert.gguf_source import gguf_config, gguf_weights
from sharp_plugins.convert.stored import FILES as WEIGHTS
from sharp_plugins.convert.stored import Stored, stored_weights
from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.files.gguf import GGUF
from sharp_plugins.files.text import read_json
from sharp_plugins.files.torch_writer import Later, Pending, write_torch
from sharp_plugins.files.writing import filling
from sharp_plugins.models import decoder  # noqa: F401  sharp_decoder
from sharp_plugins.text import bpe
from sharp_plugins.text.decoder_files import all_ends, read_decoder_backend
from sharp_plugins.text.decoder_tokenizer import ROLES, DecoderTokenizer
from sharp_plugins.text.gguf_tokenizer import read_gguf_backend

# Number formats of what is written.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "published": None}
PREFIX = "decoder."
# How the names of a published directory's files end.
OTHERS = (".safetensors", ".bin", ".json", ".txt", ".model", ".pt", ".pth")
PART = re.compile(r"-\d{5}-of-\d{5}$")  # how the names end of a model's several GGUF files, which are refused when one is read


class ConvertedDecoder(NamedTuple):
    """What `convert_decoder` wrote, for a message."""

    family: str  # "gpt2", "opt" or "llama"
    flags: List[str]  # the architecture's flags for fairseq-train
    symbols: int  # entries of the dictionary
    unused: List[str]  # of them, those that the published model has not
    start: Optional[str]  # the symbol before a text
    further_ends: List[str]  # symbols that may end a text, beside </s>
    positions: int  # longest sequence
    weights: int  # numbers in the model
    dtypes: List[str]  # number formats in the file
    left_out: List[str]  # names of published weights without a place in the model


def gguf_in(source: Path) -> Optional[Path]:
    """The GGUF file that *source* is, or the only one in a directory without other weights; None where there is none.

    Raises:
        ValueError: the directory has several, or *source* is one of a directory's files.
    """
    if source.is_file():
        if source.suffix in OTHERS:
            raise ValueError(f"{source}: SOURCE is a GGUF file or a directory; name the directory, {source.parent}")
        return source
    if not source.is_dir() or any((source / name).is_file() for name in WEIGHTS):
        return None
    files = sorted(source.glob("*.gguf"))
    if len(files) > 1 and not any(PART.search(file.stem) for file in files):
        raise ValueError(f"{source}: it has {len(files)} GGUF files; name one of them, such as {files[0]}")
    return files[0] if files else None


def is_decoder(source) -> bool:
    """Whether *source* is a GGUF file, or a directory of a decoder whose type is known.

    Raises:
        ValueError: config.json cannot be read, or the directory has several GGUF files.
    """
    source = Path(source)
    if gguf_in(source):
        return True
    config = source / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    return isinstance(kind, str) and kind in FAMILIES


def convert_decoder(source, out, dtype: str = "fp32") -> ConvertedDecoder:
    """Convert the decoder in *source* and write ``model.pt`` and the files of `DecoderTokenizer.save` into *out*.

    Each file appears under its name when it is complete, and ``model.pt`` last.

    Args:
        source: a directory as published, or a GGUF file.
        dtype: one of `DTYPES`.

    Raises:
        FileNotFoundError: a file of the checkpoint is not there.
        ValueError: a file cannot be read, the architecture is another one, or the parts do not fit together.
        ImportError: tokenizers, safetensors or gguf is not installed.

    Example::

        convert_decoder("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2").flags  # ["--arch", "sharp_smollm2_135m", ...]
    """
    source, out = Path(source), Path(out)
    check_out(out, source if source.is_dir() else source.parent, is_decoder=True)
    settings, tokenizer, further_ends, stored = _read(source)
    found = decoder_weights(stored, settings, tokenizer.published_ids, DTYPES[dtype], source)
    unused = {"unused_symbols": " ".join(tokenizer.unused)} if tokenizer.unused else {}
    flags = decoder_flags({**settings.model, **unused}, settings.family)
    cfg = build_decoder_config(flags, settings.model["max_target_positions"])
    weights = _checked(found.weights, cfg, tokenizer, source)

    with filling(out, last="model.pt") as unfinished:
        tokenizer.save(unfinished)
        pending = {id(later): Pending(later) for later in weights.values()}  # tied ones once
        state = {name: pending[id(later)] for name, later in weights.items()}
        write_torch(unfinished / "model.pt", checkpoint(cfg, state))
    return ConvertedDecoder(
        family=settings.family,
        flags=flags,
        symbols=len(tokenizer.symbols),
        unused=tokenizer.unused,
        start=tokenizer.start,
        further_ends=further_ends,
        positions=settings.model["max_target_positions"],
        weights=sum(prod(one.later.shape) for one in pending.values()),
        dtypes=sorted({str(one.later.dtype).removeprefix("torch.") for one in pending.values()}),
        left_out=found.left_out,
    )


def _read(source: Path) -> Tuple[DecoderModelSettings, DecoderTokenizer, List[str], Dict[str, Stored]]:
    """The settings, the tokenizer, the symbols beside its own that may end a text, and the weights, of which none is read yet."""
    path = gguf_in(source)
    try:
        if path is not None:
            file = GGUF(path)
            config: Dict[str, Any] = gguf_config(file)
            settings = read_decoder_config(config, path)
            backend, special, begins = read_gguf_backend(file.settings)
            stored = gguf_weights(file, config)
        else:
            config = read_json(source / "config.json")
            settings = read_decoder_config(config, source / "config.json")
            backend, special, begins = read_decoder_backend(source, config)
            stored = stored_weights(source, (ANCHOR[settings.family],))
        check_rows(stored, settings, source)  # before anything is made for each row that config.json speaks of
        ends = all_ends(config, None if path else source)
        tokenizer = DecoderTokenizer(backend, special, settings.rows, settings.family, begins, ends)
        return settings, tokenizer, _further_ends(tokenizer, ends), stored
    except ValueError as error:
        if str(error).startswith(str(source)):
            raise
        raise ValueError(f"{source}: {error}") from error


def _further_ends(tokenizer: DecoderTokenizer, ends: List[int]) -> List[str]:
    """The symbols of the published ids *ends*, beside the one that the tokenizer's files name."""
    symbols = dict(zip(tokenizer.published_ids, tokenizer.symbols))
    found = [symbols[index] for index in ends if index >= 0 and index in symbols]  # -1 is of the unused ones
    return [symbol for symbol in dict.fromkeys(found) if symbol != ROLES["eos_token"]]


def build_decoder_config(flags: List[str], positions: int):
    """The config that ``fairseq-train`` keeps in a checkpoint of language modelling with *flags*."""
    line = ["--task", "language_modeling", "--criterion", "cross_entropy", *flags, "--bpe", bpe.NAME]
    line += ["--max-target-positions", str(positions), "--tokens-per-sample", str(positions), "."]  # no data yet
    return training_config(line)


def _checked(weights: Dict[str, Later], cfg, tokenizer: DecoderTokenizer, source: Path) -> Dict[str, Later]:
    """The *weights* in the order of the model's state, by its names.

    Raises:
        ValueError: the model of *cfg* has other weights, or in other shapes.
    """
    task = SimpleNamespace(target_dictionary=tokenizer.dictionary(), source_dictionary=tokenizer.dictionary())
    try:
        with torch.device("meta"):  # names and shapes, without memory
            model = models.build_model(cfg.model, task)
    except ValueError as error:  # which names a flag of training
        setting = error.__cause__
        words = f"the decoder's {setting}" if isinstance(setting, SettingError) else str(error)
        raise ValueError(f"{source}: by its config {words}") from None
    result = {}
    for name, value in model.state_dict().items():
        later = weights.get(name.removeprefix(PREFIX))
        if later is None or tuple(later.shape) != tuple(value.shape):
            there = "none" if later is None else f"one of shape {later.shape}"
            raise ValueError(
                f"{source}: by config.json the model has {name} of shape {tuple(value.shape)}; its weights have {there}"
            )
        result[name] = later
    return result
