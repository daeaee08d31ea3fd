"""``--arch sharp_bert``: BERT (Devlin et al. 2019) and encoders of its shape, on fairseq's RoBERTa.

fairseq has RoBERTa and no BERT. The two differ in what stands here:

* token types: an embedding that tells the second sentence of a pair from the first is added to each token's;
* positions are counted from 0 (in fairseq's RoBERTa from 2, after the padding index);
* the normalisations' epsilon is 1e-12 (1e-5);
* on a CPU, rows of like length are encoded together, so that little is padded.

All else is fairseq's own: layers, language-model head, classification heads, their flags and their checkpoints. The
special symbols ``<s> <pad> </s> <unk> <mask>`` stand for BERT's ``[CLS] [PAD] [SEP] [UNK] [MASK]``, and a pair is
``<s> a </s> b </s>``: ``--task sentence_prediction --init-token 0``, without ``--separator-token``.

``python -m sharp_plugins.convert`` makes checkpoints of it from published ones.
"""

import math
from contextlib import nullcontext
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaEncoder, RobertaModel
from fairseq.models.roberta.model import base_architecture as roberta_architecture
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from fairseq.utils import safe_getattr
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from sharp_plugins.models.tied import check_tied
from sharp_plugins.networks.length_groups import groups_by_length


def token_types_of(tokens: Tensor, eos: int) -> Tensor:
    """0 up to and with a row's first end-of-sentence symbol ([SEP]), 1 after it: (B, T) int64 from *tokens* (B, T).

    Example, ``<s> a </s> b </s>`` with 2 for the end of a sentence::

        >>> import torch
        >>> token_types_of(torch.tensor([[0, 7, 2, 8, 2]]), eos=2).tolist()
        [[0, 0, 0, 1, 1]]
    """
    ends = tokens.eq(eos).long()
    return (ends.cumsum(dim=1) - ends).clamp(max=1)


class PositionsFromZero(nn.Embedding):
    """Learned positions in which a row's first token that is no padding has number 0, its second 1, and so on.

    Example, with 1 for padding::

        >>> import torch
        >>> positions = PositionsFromZero(positions=8, width=4, padding_idx=1)
        >>> embedded = positions(torch.tensor([[7, 9, 1]]))
        >>> torch.equal(embedded[0, :2], positions.weight[:2])
        True
    """

    def __init__(self, positions: int, width: int, padding_idx: int):
        super().__init__(positions, width)  # its own padding_idx would leave out a row, and BERT uses all of them
        self.symbol_of_padding = padding_idx
        self.max_positions = positions

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, width) for *tokens* (B, T). Padding behind a row is numbered on, as published encoders do; most often the encoder
        clears it."""
        is_token = tokens.ne(self.symbol_of_padding)
        columns = torch.arange(tokens.size(1), device=tokens.device).clamp(max=self.max_positions - 1)
        return super().forward(torch.where(is_token, is_token.long().cumsum(dim=1) - 1, columns))


class BertTransformerEncoder(TransformerEncoder):
    """fairseq's encoder with token types, and with positions from 0.

    Example, with a `BertModel` and types of your own::

        encoder = model.encoder.sentence_encoder
        output = encoder(tokens, token_types=types)["encoder_out"][0]  # (T, B, width)
    """

    def __init__(self, args, dictionary, embed_tokens):
        super().__init__(args, dictionary, embed_tokens)
        width = embed_tokens.embedding_dim
        self.eos = dictionary.eos()
        # These two draw something for each pass over the layers, and a batch has one.
        draws = self.encoder_layerdrop > 0 or self.quant_noise is not None
        self.whole_rows = args.whole_rows or draws
        self.embed_positions = PositionsFromZero(self.max_source_positions, width, self.padding_idx)
        self.embed_token_types = nn.Embedding(args.token_types, width)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
        token_embeddings: Optional[Tensor] = None,
        token_types: Optional[Tensor] = None,
    ) -> Dict[str, List[Tensor]]:
        """What fairseq's encoder returns.

        Args:
            src_tokens: (B, T) symbols.
            token_embeddings: (B, T, width) instead of those of *src_tokens*; types and positions are added to them.
            token_types: (B, T), each below ``--token-types``; by default those of `token_types_of`.
        """
        if token_embeddings is None:
            token_embeddings = self.embed_tokens(src_tokens)
        if token_types is None:
            # A model with one type has no mark for the second sentence.
            token_types = token_types_of(src_tokens, self.eos).clamp(max=self.embed_token_types.num_embeddings - 1)
        token_embeddings = token_embeddings + self.embed_token_types(token_types)
        encode, groups = super().forward, [] if return_all_hiddens else self.groups(src_tokens)
        if len(groups) < 2:
            return encode(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        outs = []  # (T, rows, width), with zeros where a group was not padded
        for rows, width in groups:
            out = encode(src_tokens[rows, :width], token_embeddings=token_embeddings[rows, :width])["encoder_out"][0]
            outs.append(F.pad(out, (0, 0, 0, 0, 0, src_tokens.size(1) - width)))
        place = torch.cat([rows for rows, _ in groups]).argsort()
        return {
            "encoder_out": [torch.cat(outs, 1).index_select(1, place)],
            "encoder_padding_mask": [src_tokens.eq(self.padding_idx)],
            "encoder_embedding": [self.embed_scale * token_embeddings],
            "encoder_states": [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [src_tokens.ne(self.padding_idx).sum(dim=1, dtype=torch.int32).reshape(-1, 1)],
        }

    def groups(self, tokens: Tensor) -> List[Tuple[Tensor, int]]:
        """Which rows of *tokens* (B, T) are encoded together, and to how many symbols they are padded: [(rows, width), ...]."""
        if self.whole_rows or len(tokens) < 2 or tokens.device.type != "cpu":  # elsewhere the lengths would have to be waited for
            return []
        columns = torch.arange(1, tokens.size(1) + 1)
        widths = (tokens.ne(self.padding_idx) * columns).amax(1).clamp(min=1).tolist()  # padding before a row is no saving
        return [(torch.tensor(rows), widths[rows[-1]]) for rows in groups_by_length(widths)]


class BertEncoder(RobertaEncoder):
    """RoBERTa's encoder and language-model head around `BertTransformerEncoder`.

    Example, with a `BertModel`::

        features, _ = model.encoder(tokens, features_only=True)  # (B, T, width)
    """

    def __init__(self, args, dictionary):
        super().__init__(args, dictionary)
        for module in self.modules():
            if hasattr(module, "normalized_shape"):  # torch's layer normalisation, or apex's, as fairseq chooses
                module.eps = args.layer_norm_eps

    def build_encoder(self, args, dictionary, embed_tokens):
        encoder = BertTransformerEncoder(args, dictionary, embed_tokens)
        encoder.apply(init_bert_params)
        return encoder

    def forward(self, src_tokens, features_only=False, return_all_hiddens=False, masked_tokens=None, **inputs):
        """Scores of the language model (B, T, symbols), or the last layer's output (B, T, width) for *features_only*.

        *inputs* may hold ``token_types`` and ``token_embeddings``, see `BertTransformerEncoder`.
        """
        x, extra = self.extract_features(src_tokens, return_all_hiddens, **inputs)
        return (x if features_only else self.output_layer(x, masked_tokens=masked_tokens)), extra

    def extract_features(
        self, src_tokens, return_all_hiddens=False, token_embeddings=None, token_types=None, **unused
    ) -> Tuple[Tensor, Dict]:
        out = self.sentence_encoder(
            src_tokens, return_all_hiddens=return_all_hiddens, token_embeddings=token_embeddings, token_types=token_types
        )
        inner_states = out["encoder_states"] if return_all_hiddens else None
        return out["encoder_out"][0].transpose(0, 1), {"inner_states": inner_states}


@register_model("sharp_bert")
class BertModel(RobertaModel):
    """BERT for fairseq's tasks: sentence_prediction, sentence_ranking, masked_lm.

    BERT's pooler, tanh(W h_[CLS] + b), is the first half of fairseq's classification head. W and b of a converted
    checkpoint (``encoder.pooler``) become those of each head that it does not hold itself, where the inner size fits.

    Example, with what ``python -m sharp_plugins.convert DIRECTORY OUT`` wrote::

        hub = BertModel.from_pretrained("OUT", checkpoint_file="model.pt", user_dir="sharp_plugins")
        features = hub.extract_features(hub.encode("The cat sat."))  # (1, T, width)
    """

    @classmethod
    def hub_models(cls):
        return {}  # there is no archive of this model to download; the parent's hold RoBERTa

    @staticmethod
    def add_args(parser):
        RobertaModel.add_args(parser)
        parser.add_argument("--token-types", type=int, metavar="N", help="number of token types (default: BERT's 2)")
        eps = "epsilon of the layer normalisations (default: BERT's 1e-12)"
        parser.add_argument("--layer-norm-eps", type=float, metavar="E", help=eps)
        whole = "encode a batch's rows together, padded to the longest (default: on a CPU, rows of like length are encoded "
        whole += "together: padding changes nothing, and costs time)"
        parser.add_argument("--whole-rows", action="store_true", default=None, help=whole)

    @classmethod
    def build_model(cls, args, task):
        with open_dict(args) if OmegaConf.is_config(args) else nullcontext():
            architecture(args)
            if safe_getattr(args, "max_positions") is None:
                args.max_positions = safe_getattr(args, "tokens_per_sample") or task.max_positions()
            if args.token_types < 1 or not 0 < args.layer_norm_eps < math.inf:
                raise ValueError(
                    "--token-types must be 1 or larger and --layer-norm-eps a number larger than 0, and they are "
                    f"{args.token_types} and {args.layer_norm_eps}"
                )
            return cls(args, BertEncoder(args, task.source_dictionary))

    def upgrade_state_dict_named(self, state_dict, name):
        prefix = f"{name}." if name else ""
        if not self.args.untie_weights_roberta:
            table, output = f"{prefix}encoder.sentence_encoder.embed_tokens.weight", f"{prefix}encoder.lm_head.weight"
            check_tied(state_dict, table, output, "--untie-weights-roberta")
        heads = f"{prefix}classification_heads."
        heads_of_checkpoint = {key[len(heads) :].split(".")[0] for key in state_dict if key.startswith(heads)}
        pooler = {part: state_dict.pop(f"{prefix}encoder.pooler.{part}", None) for part in ("weight", "bias")}
        super().upgrade_state_dict_named(state_dict, name)  # puts new heads' own weights into the state
        if pooler["weight"] is None:
            return
        for head_name, head in self.classification_heads.items():
            if head_name not in heads_of_checkpoint and head.dense.weight.shape == pooler["weight"].shape:
                for part, value in pooler.items():
                    state_dict[f"{heads}{head_name}.dense.{part}"] = value


@register_model_architecture("sharp_bert", "sharp_bert")
def architecture(args):
    """Any size, by flags; what is not given is BERT-base's."""
    args.token_types = safe_getattr(args, "token_types", 2)
    args.layer_norm_eps = safe_getattr(args, "layer_norm_eps", 1e-12)
    args.whole_rows = safe_getattr(args, "whole_rows", False)
    roberta_architecture(args)


@register_model_architecture("sharp_bert", "sharp_bert_base")
def base_architecture(args):
    architecture(args)


@register_model_architecture("sharp_bert", "sharp_bert_large")
def large_architecture(args):
    _size(args, layers=24, width=1024, inner=4096, heads=16)


@register_model_architecture("sharp_bert", "sharp_minilm")
def minilm_architecture(args):
    """MiniLM-L6-H384 (Wang et al. 2020), the encoder of all-MiniLM-L6-v2."""
    _size(args, layers=6, width=384, inner=1536, heads=12)


def _size(args, layers: int, width: int, inner: int, heads: int) -> None:
    args.encoder_layers = safe_getattr(args, "encoder_layers", layers)
    args.encoder_embed_dim = safe_getattr(args, "encoder_embed_dim", width)
    args.encoder_ffn_embed_dim = safe_getattr(args, "encoder_ffn_embed_dim", inner)
    args.encoder_attention_heads = safe_getattr(args, "encoder_attention_heads", heads)
    architecture(args)
