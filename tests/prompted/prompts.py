"""A small decoder with a tokenizer of its own, in a directory as the converter writes it, and prompts with texts."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
import toy  # which registers the plugin
from fairseq import models, options
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq.logging import metrics
from quick_config import convert_namespace_to_omegaconf

from sharp_plugins.convert.conversion import checkpoint
from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer

MODEL = (
    "--arch sharp_decoder --decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 "
    "--max-target-positions 64"
).split()
NAMES = ["Ann", "Bob", "Cara", "Dan", "Eve"]
PLACES = ["Bonn", "Graz", "Lille", "Turin"]
MERGES = ["Ġ t", "h e", "Ġt he", "Ġ l", "i v", "Ġl iv", "Ġliv e", "Ġlive s", "Ġ i", "Ġi n"]


def tokenizer_of_two_letters():
    """Llama's kind, with a symbol for all characters but x, y and the blank."""
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE({"<unk>": 0, "</s>": 1, "x": 2, "y": 3, " ": 4}, [], unk_token="<unk>"))
    return DecoderTokenizer(backend, {"eos_token": "</s>", "unk_token": "<unk>"}, rows=5, family="llama")


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


def write_backbone(directory: Path, is_gpt2: bool = True, own=None) -> Path:
    """A converted decoder with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    own = own or tokenizer(is_gpt2)
    own.save(directory)
    line = ["--task", "language_modeling", *MODEL, "--unused-symbols", " ".join(own.unused), "."]
    args = options.parse_args_and_arch(options.get_training_parser(), line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(1)
    model = models.build_model(cfg.model, SimpleNamespace(source_dictionary=own.dictionary(), target_dictionary=own.dictionary()))
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


# ---------------------------------------------------------------------- trainers, and plain computations


def trainer(data: Path, *flags, model=MODEL, criterion="cross_entropy", dropout="0", subset="train"):
    """A fairseq trainer on prepared data."""
    flags = list(flags) if "--optimizer" in flags else ["--optimizer", "sgd", *toy.SGD, *flags]
    drop = ["--dropout", dropout, "--attention-dropout", dropout]
    parts = {"model": model, "criterion": ["--criterion", criterion], "task": "prompted_generation"}
    return toy.build_trainer(data, *flags, *drop, "--num-workers", "0", "--train-subset", subset, **parts)


def ready(trainer, weights: Path):
    """*trainer* with the weights of a checkpoint and the validation data, as `fairseq_cli.train.main` makes it."""
    for split in trainer.task.validated():
        trainer.task.load_dataset(split)
    trainer.load_checkpoint(str(weights), reset_optimizer=True, reset_lr_scheduler=True, reset_meters=True)
    return trainer


def validate(trainer, subset="valid"):
    """What fairseq's validation logs."""
    with metrics.aggregate(new_root=True) as found:
        for sample in trainer.get_valid_iterator(subset).next_epoch_itr(shuffle=False, set_dataset_epoch=False):
            trainer.valid_step(sample)
    return found.get_smoothed_values()


def parts(data: Path, criterion: str, *flags, rows=7, **settings):
    """The criterion, the model in training mode with weights that are large enough to matter, and one sample."""
    built = trainer(data, *flags, criterion=criterion, **settings)
    model = built.get_model().train()
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    (sample,) = toy.batches(built, [rows])
    return built.get_criterion(), model, sample


def plain_log_probabilities(model, data: Path, rows: int, z=None, count_prompt=False, unused=3):
    """For each of the first rows of the training data: log-probabilities (n, symbols that are used) of what is counted, and its
    symbols. Read from the files, one row at a time, with the embeddings moved by z (one (T, width) for each row)."""
    from fairseq.data import data_utils

    dictionary = model.decoder.dictionary
    prompts, texts = (
        data_utils.load_indexed_dataset(str(data / f"train.{part}"), dictionary, "mmap") for part in ("prompt", "text")
    )
    used = [i for i in range(len(dictionary)) if dictionary[i] not in {0: (), 3: ("<s>", "<pad>", "<unk>")}[unused]]
    found = []
    for row in range(rows):
        whole = torch.cat([prompts[row], texts[row]]).long()
        source, embeddings = whole[None, :-1], None
        if z is not None:
            embeddings = torch.nn.functional.embedding(source, model.decoder.embed_tokens.weight) + z[row][None, : source.size(1)]
        first = 0 if count_prompt else len(prompts[row]) - 1
        logits = model(source, token_embeddings=embeddings)[0][0, first:]
        place = {symbol: i for i, symbol in enumerate(used)}
        found.append((logits[:, used].log_softmax(-1), [place[symbol] for symbol in whole[first + 1 :].tolist()]))
    return found


def plain_losses(found, smoothing=0.0):
    """(B,): (1 - ε) · -log p(target) + ε · the mean of the others, summed over each row's symbols."""
    losses = []
    for log_p, symbols in found:
        wanted = torch.full_like(log_p, smoothing / (log_p.size(-1) - 1))
        wanted[range(len(symbols)), symbols] = 1 - smoothing
        losses.append(-(wanted * log_p).sum())
    return torch.stack(losses)
