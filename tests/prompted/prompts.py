"""A small decoder with a tokenizer of its own, in a directory as the converter writes it, and prompts with texts."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import toy  # which registers the plugin
import torch
from fairseq import models, options
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from sharp_plugins.convert.conversion import checkpoint
from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer

MODEL = (
    "--arch sharp_decoder --decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 "
    "--max-target-positions 64"
).split()
NAMES = ["Ann", "Bob", "Cara", "Dan", "Eve"]
PLACES = ["Bonn", "Graz", "Lille", "Turin"]
MERGES = ["Ġ t", "h e", "Ġt he", "Ġ l", "i v", "Ġl iv", "Ġliv e", "Ġlive s", "Ġ i", "Ġi n"]


def tokenizer(is_gpt2: bool = True) -> DecoderTokenizer:
    """Bytes and some merges. GPT-2's way: one special token, which is in front of nothing; else one each for begin and end."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<|endoftext|>"] if is_gpt2 else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = list(bytes_to_unicode().values())
    tokens = [*special, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [tuple(merge.split()) for merge in MERGES]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    roles = {"eos_token": special[-1], "bos_token": special[0] if is_gpt2 else special[1]}
    return DecoderTokenizer(backend, roles, rows=len(tokens) + 2, family="gpt2" if is_gpt2 else "llama")


def write_backbone(directory: Path, is_gpt2: bool = True, flags=()) -> Path:
    """A converted decoder with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    own = tokenizer(is_gpt2)
    own.save(directory)
    line = ["--task", "language_modeling", *MODEL, "--unused-symbols", " ".join(own.unused), *flags, "."]
    args = options.parse_args_and_arch(options.get_training_parser(), line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(1)
    model = models.build_model(cfg.model, SimpleNamespace(target_dictionary=own.dictionary()))
    torch.save(checkpoint(cfg, model.state_dict()), directory / "model.pt")
    return directory


def pairs(count: int, start: int = 0):
    """Prompts and their texts, of different lengths."""
    found = []
    for i in range(start, start + count):
        name, place = NAMES[i % 5] * (1 + i % 3), PLACES[i % 4]
        found.append((f"{name} : livesIn : {place}", [f"{name} lives in {place}.", f"In {place} lives {name}."][: 1 + i % 2]))
    return found


def write_lines(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": p, "texts": t}) + "\n" for p, t in rows), encoding="utf-8")
    return path


def write_texts(directory: Path):
    """JSON lines of three splits: the flags that name them."""
    sizes = {"train": 32, "valid": 6, "test": 5}
    parts = [(f"--{split}", write_lines(directory / f"{split}.jsonl", pairs(n, n))) for split, n in sizes.items()]
    return [str(word) for part in parts for word in part]


def prepare(backbone: Path, out: Path, *flags) -> Path:
    from sharp_plugins.prompted.__main__ import main

    assert main(["prepare", "--backbone", str(backbone), "--out", str(out), *map(str, flags)]) == 0
    return out


assert toy.PLUGIN
