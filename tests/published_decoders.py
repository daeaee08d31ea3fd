"""Small decoders in the files of transformers: its own models with random weights, and tokenizers of each kind."""

import json
from pathlib import Path
from typing import Callable, Dict, List

import torch
from published import SENTENCES, bytes_to_unicode
from torch import Tensor

MERGES = ["Ġ t", "h e", "Ġt he", "i n", "a t", "Ġ Ġ"]
# Texts that a tokenizer must give back as they were.
TEXTS = [*SENTENCES, " leading", "trailing ", "two  spaces", "", " ", "\ttab\u00a0and\u2028more"]
TEXTS.append("Alan_Bean | birthPlace | Wheeler,_Texas")


# ---------------------------------------------------------------------- tokenizers


def byte_level(first: List[str], last: List[str]) -> Dict[str, int]:
    tokens = [*first, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES), *last]
    return {token: index for index, token in enumerate(tokens)}


def write_vocabulary(directory: Path, vocabulary: Dict[str, int], **config) -> int:
    """``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``, as of GPT-2 and OPT; returns the number of tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in MERGES), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **config}))
    return len(vocabulary)


def gpt2_tokenizer(directory: Path) -> int:
    return write_vocabulary(directory, byte_level([], ["<|endoftext|>"]))


def opt_tokenizer(directory: Path) -> int:
    roles = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return write_vocabulary(directory, byte_level(["<s>", "<pad>", "</s>", "<unk>"], []), add_bos_token=True, **roles)


def smollm2_tokenizer(directory: Path, more: int = 0) -> int:
    """``tokenizer.json`` with special tokens 0, 1 and 2, and *more* tokens that no text has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    backend = Tokenizer(models.BPE(vocab=byte_level(special, [f"unseen{n}" for n in range(more)]), merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    roles = dict(zip(("unk_token", "bos_token", "eos_token"), special), pad_token=special[2])
    return _save(directory, backend, add_bos_token=False, **roles)


def llama_tokenizer(directory: Path) -> int:
    """``tokenizer.json`` as Llama 2's: sentencepiece's BPE with bytes for what it has not, and ``<s>`` before a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    pieces = ["\u2581", *"abcdefghijklmnopqrstuvwxyzTAEHI.,'!?", "\u2581t", "he", "\u2581the", "in", "\u2581\u2581"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("i", "n"), ("\u2581", "\u2581")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(back)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in tokens[:3]])
    return _save(directory, backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _save(directory: Path, backend, **config) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(content))
    return backend.get_vocab_size()


# ---------------------------------------------------------------------- models

GPT2 = dict(n_embd=24, n_layer=2, n_head=3, n_positions=96)
OPT = dict(hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=96)
OPT.update(word_embed_proj_dim=24)
LLAMA = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2)
LLAMA.update(max_position_embeddings=96, tie_word_embeddings=True)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
TOKENIZERS: Dict[str, Callable] = {"gpt2": gpt2_tokenizer, "opt": opt_tokenizer, "llama": llama_tokenizer}
ENDS = {"gpt2": lambda size: size - 1, "opt": lambda size: 2, "llama": lambda size: 2}


def write(directory: Path, family: str, tokenizer=None, padding: int = 0, **changes) -> Path:
    """A whole small decoder, as transformers saves it in safetensors; its table of words has *padding* more rows than tokens."""
    size = (tokenizer or TOKENIZERS[family])(directory)
    end = ENDS[family](size)
    begin = {"gpt2": end, "opt": end, "llama": 1}[family]
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": 1 if family == "opt" else None}
    model(family, vocab_size=size + padding, **{**ids, **changes}).save_pretrained(directory)
    return directory


def model(family: str, seed: int = 0, **config):
    """transformers' model with weights that are large enough to matter."""
    import transformers

    kinds = {"gpt2": ("GPT2", GPT2), "opt": ("OPT", OPT), "llama": ("Llama", LLAMA)}
    name, usual = kinds[family]
    settings = getattr(transformers, f"{name}Config")(**{**usual, **config})
    result = getattr(transformers, f"{name}{'LMHeadModel' if family == 'gpt2' else 'ForCausalLM'}")(settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in result.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator) + (weight.mean() > 0.9))
    return result.eval()


def weights(directory: Path) -> Dict[str, Tensor]:
    """Those of `write`."""
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def rewrite(directory: Path, tensors: Dict[str, Tensor], safe: bool = True, shards: int = 1) -> None:
    """Put *tensors* in the place of a directory's weights: safetensors or torch's files, one or several with an index."""
    from safetensors.torch import save_file

    for old in [*directory.glob("*.safetensors"), *directory.glob("*.bin"), *directory.glob("*.index.json")]:
        old.unlink()
    base, end = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    save = (lambda part, path: save_file(part, path)) if safe else torch.save
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save(tensors, directory / f"{base}.{end}")
        return
    names, places = sorted(tensors), {}
    for n in range(shards):
        place = f"{base}-{n + 1:05d}-of-{shards:05d}.{end}"
        some = names[n::shards]
        save({name: tensors[name] for name in some}, directory / place)
        places.update(dict.fromkeys(some, place))
    (directory / f"{base}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def change_config(directory: Path, **changes) -> None:
    """None takes a setting out."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
