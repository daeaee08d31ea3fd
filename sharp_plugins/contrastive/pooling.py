"""From an encoder's output to one vector for each sentence.

    cls          the first symbol's
    mean         the mean over the sentence's symbols, those around it included
    mean-padded  the mean over all positions of a padded row

The third is what Mirror-BERT's code does with BERT, whose rows are padded to 50 symbols in training and to 64 in its tests. There
padding has an embedding and hidden states like any symbol; attention sees it as queries only, and not as keys. fairseq's encoders
clear the embeddings of padding, so `keeping_padding` puts them back.
"""

from contextlib import contextmanager
from typing import Iterator

import torch
from fairseq.models.transformer import TransformerEncoderBase
from torch import Tensor, nn

POOLINGS = ("cls", "mean", "mean-padded")


def pooled(features: Tensor, is_token: Tensor, pooling: str) -> Tensor:
    """(B, D) vectors in fp32.

    Args:
        features: (B, T, D), the last layer's output.
        is_token: (B, T), False for padding.
        pooling: one of `POOLINGS`.

    >>> features = torch.tensor([[[1.0], [3.0], [8.0]]])
    >>> is_token = torch.tensor([[True, True, False]])
    >>> [pooled(features, is_token, pooling).item() for pooling in POOLINGS]
    [1.0, 2.0, 4.0]
    """
    if pooling == "cls":
        return features[:, 0].float()
    if pooling == "mean-padded":
        return features.float().mean(1)
    weights = is_token.unsqueeze(-1).float()
    return (features.float() * weights).sum(1) / weights.sum(1)


@contextmanager
def keeping_padding(encoder: nn.Module) -> Iterator[None]:
    """Within, fairseq's *encoder* (a ``TransformerEncoder``) treats padding as published encoders do: as symbols that attend and
    are not attended to."""
    embedded, whole = [], getattr(encoder, "whole_rows", None)

    def note(module, inputs, output):
        embedded.append(output)  # (B, T, D), the last step of the embedding, before fairseq clears padding

    def put_back(module, inputs):
        return (embedded.pop().transpose(0, 1), *inputs[1:])

    encoder.whole_rows = True  # `sharp_plugins.models.bert` looks at it: padding counts here
    # The encoder's own dropout is called once in a pass, on the embeddings.
    handles = [encoder.dropout_module.register_forward_hook(note), encoder.layers[0].register_forward_pre_hook(put_back)]
    try:
        yield
    finally:
        encoder.whole_rows = whole
        for handle in handles:
            handle.remove()


def sentence_vectors(model: nn.Module, tokens: Tensor, pad: int, pooling: str) -> Tensor:
    """(B, D) vectors in fp32 of the sentences *tokens* (B, T), int64, padded on the right with *pad*.

    Args:
        model: fairseq's, an encoder such as ``sharp_bert`` or ``roberta``.
    """
    inputs = {"src_tokens": tokens, "features_only": True}
    # One sentence, and one type; by default padding would have the second's.
    inputs["token_types"] = torch.zeros_like(tokens)
    if pooling == "mean-padded":
        with keeping_padding(inner_encoder(model)):
            features = model(**inputs)[0]
    else:
        features = model(**inputs)[0]
    return pooled(features, tokens.ne(pad), pooling)


def inner_encoder(model: nn.Module) -> nn.Module:
    """The ``TransformerEncoder`` inside a fairseq model, which may be wrapped for several workers.

    Raises:
        ValueError: there is none.
    """
    for name, module in model.named_modules():
        if name.split(".")[-1] == "sentence_encoder" and isinstance(module, TransformerEncoderBase):
            return module
    raise ValueError(f"--arch: sentence vectors are those of a BERT or RoBERTa, and not of {type(model).__name__}")


def check_pooling(model: nn.Module, pooling: str) -> None:
    """Raise ValueError where a model is no encoder, or has what *pooling* does not know."""
    encoder = inner_encoder(model)
    if pooling != "mean-padded":
        return
    if encoder.quant_noise is not None:
        raise ValueError("--pooling mean-padded does not know --quant-noise-pq: leave it out")
    if getattr(encoder, "encoder_layerdrop", 0):
        raise ValueError("--pooling mean-padded does not know --encoder-layerdrop, which may drop the first layer: leave it out")
