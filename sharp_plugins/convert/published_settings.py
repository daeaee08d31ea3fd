"""A published ``config.json`` as the settings of a fairseq architecture."""

from pathlib import Path
from typing import Dict, NamedTuple

from sharp_plugins.files.text import read_json

# fairseq's setting -> the name in config.json
SIZES = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
}
DROPOUTS = {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
# The name in config.json -> fairseq's
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_accurate", "gelu_pytorch_tanh": "gelu_accurate", "relu": "relu"}

BERT_EPS, ROBERTA_EPS = 1e-12, 1e-5
# The first position of RoBERTa's tables is after its padding index, 1.
ROBERTA_OFFSET = 2
ROBERTA_TYPES = 2  # where a config does not say it, as in transformers; the published ones have 1
DECODERS = "'gpt2', 'llama' and 'opt'"  # which decoder_config.py reads


class Settings(NamedTuple):
    """What ``config.json`` says."""

    type: str  # "bert" or "roberta"
    vocabulary: int  # rows of the table of words
    model: Dict[str, object]  # fairseq's settings
    token_types: int  # rows of the table of token types


def read_settings(path: Path) -> Settings:
    """Read ``config.json``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another architecture, or of a variant that fairseq's encoder cannot compute.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; a published checkpoint is a directory with config.json")
    config = read_json(path)
    kind = config.get("model_type")
    if kind not in ("bert", "roberta"):
        raise ValueError(
            f"{path}: model_type is {kind!r}; only 'bert' (of any size) and 'roberta' are converted, and the decoders {DECODERS}"
        )
    config.setdefault("layer_norm_eps", BERT_EPS)  # the first files do not say it
    if kind == "roberta":
        config.setdefault("type_vocab_size", ROBERTA_TYPES)
    _check_values(path, kind, config)
    _check_variant(path, kind, config)

    model = {own: config[theirs] for own, theirs in (SIZES | DROPOUTS).items()}
    model["activation_fn"] = ACTIVATIONS[config["hidden_act"]]
    if kind == "bert":
        model.update(token_types=config["type_vocab_size"], layer_norm_eps=config["layer_norm_eps"])
    else:
        model["max_positions"] -= ROBERTA_OFFSET
    return Settings(kind, config["vocab_size"], model, config["type_vocab_size"])


def _check_values(path: Path, kind: str, config: Dict) -> None:
    sizes = ["vocab_size", *SIZES.values(), "type_vocab_size"]
    others = [*DROPOUTS.values(), "layer_norm_eps"]
    missing = [name for name in (*sizes, *others, "hidden_act") if name not in config]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing")
    for name in sizes:
        if type(config[name]) is not int or config[name] < 1:
            raise ValueError(f"{path}: {name} must be a whole number, 1 or larger, and is {config[name]!r}")
    for name in others:
        if not (isinstance(config[name], (int, float)) and 0 <= config[name] < 1):
            raise ValueError(f"{path}: {name} must be a number from 0 to below 1, and is {config[name]!r}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(f"{path}: hidden_size is no multiple of num_attention_heads")


def _check_variant(path: Path, kind: str, config: Dict) -> None:
    needed = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
    if kind == "roberta":
        needed.update(layer_norm_eps=ROBERTA_EPS, pad_token_id=ROBERTA_OFFSET - 1)  # as fairseq's roberta has them
    for name, value in needed.items():
        if config.get(name) not in (value, None):
            raise ValueError(f"{path}: {name} is {config[name]!r}; in a {kind} to convert it must be {value!r}")
    if not isinstance(config["hidden_act"], str) or config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"{path}: hidden_act is {config['hidden_act']!r}; fairseq has {', '.join(ACTIVATIONS)}")
