"""A GGUF file as what a published directory would hold: its config.json, its weights, its tokenizer.

llama.cpp has names of its own, and another order of the rows of a Llama's queries and keys: within each head the two numbers that
turn together stand side by side, and in the published files half a head apart. GPT-2's matrices lie as in PyTorch.
"""

from typing import Any, Callable, Dict, Optional

from torch import Tensor

from sharp_plugins.convert.stored import Stored
from sharp_plugins.files.gguf import GGUF
from sharp_plugins.files.gguf_header import Header

# Names in config.json -> in the header, after the architecture's name.
SIZES = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
}
GPT2_SIZES = dict(zip(("n_layer", "n_positions", "n_embd", "n_inner", "n_head"), SIZES.values()))
# Names of the parts of a layer in the file -> the published ones.
LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
NAMES = {
    "llama": ({"token_embd": "embed_tokens", "output_norm": "norm"}, "layers", LLAMA_LAYER),
    "gpt2": ({"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f"}, "h", GPT2_LAYER),
}
# What a header may say that is not computed.
REFUSED = ("expert_count", "rope.scale_linear", "attention.clamp_kqv", "attention.max_alibi_bias", "embedding_scale")


def gguf_config(file: GGUF) -> Dict[str, Any]:
    """What config.json would hold.

    Raises:
        ValueError: the file holds a model of another architecture, or a variant that is not computed.
    """
    try:
        return _config(file)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def _config(file: GGUF) -> Dict[str, Any]:
    parts = Header(file.settings).get("split.count", "a whole number", 1)
    if parts > 1:
        raise ValueError(f"it is one of {parts} parts; join them first: llama-gguf-split --merge FIRST-PART WHOLE (of llama.cpp)")
    kind = Header(file.settings).get("general.architecture", "a text")
    if kind not in NAMES:
        raise ValueError(f"general.architecture is {kind!r}; of GGUF files {' and '.join(NAMES)} are converted")
    own, tokens = Header(file.settings, f"{kind}."), Header(file.settings, "tokenizer.ggml.")
    sizes = GPT2_SIZES if kind == "gpt2" else SIZES
    config: Dict[str, Any] = {theirs: own.get(name, "a whole number") for theirs, name in sizes.items()}
    missing = [name for name, value in config.items() if value is None]
    if missing:
        raise ValueError(f"its header has no size for {', '.join(missing)}")
    if "token_embd.weight" not in file.tensors:
        raise ValueError("it has no token_embd.weight, the table of words")
    config.update(model_type=kind, vocab_size=file.tensors["token_embd.weight"].shape[0])
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    for role, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        config[f"{role}_token_id"] = tokens.get(f"{name}_token_id", "a whole number")
    width, heads = (config[name] for name in (("n_embd", "n_head") if kind == "gpt2" else ("hidden_size", "num_attention_heads")))
    turned = own.get("rope.dimension_count", "a whole number")
    head = own.get("attention.key_length", "a whole number", turned or width // max(heads, 1))
    _check_variant(file, own, head, context=own.get("context_length", "a whole number"))
    if kind == "gpt2":
        return {**config, "layer_norm_epsilon": own.get("attention.layer_norm_epsilon", "a number", 1e-5)}
    config["num_key_value_heads"] = own.get("attention.head_count_kv", "a whole number")
    config["head_dim"] = head
    config["rms_norm_eps"] = own.get("attention.layer_norm_rms_epsilon", "a number", 1e-6)
    config["rope_theta"] = own.get("rope.freq_base", "a number", 10000.0)
    scaling = own.get("rope.scaling.type", "a text", "none")
    if scaling != "none":
        config["rope_scaling"] = {"rope_type": scaling, "factor": own.get("rope.scaling.factor", "a number")}
    config["attention_bias"], config["mlp_bias"] = ("blk.0.attn_q.bias" in file.tensors), ("blk.0.ffn_up.bias" in file.tensors)
    return config


def _check_variant(file: GGUF, own: Header, head: int, context: int) -> None:
    """Raise ValueError where the header describes what is not computed.

    Args:
        head: numbers in a head of queries and keys.
        context: the longest sequence.
    """
    found = [own.front + name for name in REFUSED if own.settings.get(own.front + name)]
    if "rope_freqs.weight" in file.tensors:
        found.append("rope_freqs.weight, the scaling of Llama 3.1's positions")
    for name in ("rope.dimension_count", "attention.value_length"):  # part of a head is turned, or values have another width
        size = own.get(name, "a whole number", head)
        if size != head:
            found.append(f"{own.front}{name} {size} in heads of {head}")
    window = own.get("attention.sliding_window", "a whole number", 0)
    if 0 < window < context:
        found.append(f"{own.front}attention.sliding_window {window} in a context of {context}")
    if found:
        raise ValueError(f"it has {found[0]}, which is not converted from GGUF; take the published directory")


def gguf_weights(file: GGUF, config: Dict[str, Any]) -> Dict[str, Stored]:
    """The weights by their published names, dequantized to fp32 when they are read.

    Raises:
        ValueError: the queries' or keys' rows are not those of the heads, or a layer has a weight that such a model has not.
    """
    kind = config["model_type"]
    result = {}
    for name, place in file.tensors.items():
        published = _published_name(kind, name)
        if published is None and name.startswith("blk."):  # the model would compute something else without it
            raise ValueError(f"{file.path}: {name} is there, and a {kind} has no such weight")
        change = _change(kind, name, config)
        shape = place.shape[::-1] if change is _transposed else place.shape
        result[published or name] = Stored(shape, "F32", _reader(file, name, change))
    return result


def _published_name(kind: str, name: str) -> Optional[str]:
    once, layers, parts = NAMES[kind]
    if name == "output.weight":
        return "lm_head.weight"
    part, _, end = name.rpartition(".")
    if part in once:
        return f"{once[part]}.{end}"
    blk, _, rest = part.partition(".")
    number, _, inside = rest.partition(".")
    return f"{layers}.{number}.{parts[inside]}.{end}" if blk == "blk" and inside in parts else None


def _change(kind: str, name: str, config: Dict[str, Any]) -> Optional[Callable[[Tensor], Tensor]]:
    part, _, end = name.rpartition(".")
    if kind == "gpt2":
        is_matrix = end == "weight" and part.startswith("blk.") and not part.endswith("_norm")
        return _transposed if is_matrix else None
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"] or config["num_attention_heads"]}
    count = heads.get(part.rpartition(".")[2])
    return None if count is None else lambda tensor: halves_apart(tensor, count)


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t()


def halves_apart(tensor: Tensor, heads: int) -> Tensor:
    """Rows (heads · head, ...), within each head 0, h, 1, h + 1, ... of 2h, in the order 0, 1, ..., 2h - 1.

    >>> import torch
    >>> halves_apart(torch.tensor([0, 2, 1, 3]), heads=1)
    tensor([0, 1, 2, 3])
    """
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _reader(file: GGUF, name: str, change: Optional[Callable[[Tensor], Tensor]]) -> Callable[[], Tensor]:
    return lambda: file.tensor(name) if change is None else change(file.tensor(name))
