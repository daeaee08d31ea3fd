"""What a converted decoder says comes next, in numbers that another implementation can be compared with."""

from typing import Dict, Iterable, Iterator, List, Optional

import torch

from sharp_plugins.convert.decoder_backbone import DecoderBackbone, load_decoder, load_decoder_model

# How messages and the flag spell that nothing stands before a text.
NONE = "none"


def logits_of(directory, texts: Iterable[str], start: Optional[str] = None) -> Iterator[Dict]:
    """For each text its ids, and the logits after its last token.

    Args:
        directory: with a converted decoder.
        start: the symbol before each text, or "none"; None for what `DecoderBackbone.start` says.

    Yields:
        ``ids``: published ids, the start's first; ``start``: the published token that it is, None for none; ``max``, ``mean``,
        ``min`` and ``logsumexp`` of the logits over the published vocabulary.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load_decoder`; ValueError also where *start* is no symbol, and where a
            text has no token, or more than the model can take, and where the logits are not finite.

    Example::

        next(logits_of("smollm2", ["The capital of France is"]))["max"]  # 17.076
    """
    backbone = load_decoder(directory)
    before = start_indices(backbone, start)
    ids_of, vocabulary = backbone.tokenizer.published_ids, backbone.dictionary
    used = torch.tensor([row for row, index in enumerate(ids_of) if index >= 0])
    model = load_decoder_model(directory)
    for number, text in enumerate(texts, start=1):
        rows = before + [vocabulary.index(symbol) for symbol in backbone.tokenizer.encode(text)]
        if not 1 <= len(rows) <= backbone.max_positions:
            hint = "; --start SYMBOL puts one before it" if not rows else ""
            raise ValueError(f"line {number}: it has {len(rows)} tokens; from 1 to {backbone.max_positions} are possible{hint}")
        with torch.inference_mode():
            features = model.decoder.features(torch.tensor([rows]))[0, -1]
            logits = model.decoder.output_layer(features)[used].double()
        if not logits.isfinite().all():
            raise ValueError(f"line {number}: the model's logits are not finite numbers")
        yield {
            "ids": [ids_of[row] for row in rows],
            "start": backbone.tokenizer.backend.id_to_token(ids_of[before[0]]) if before else None,
            "max": float(logits.max()),
            "mean": float(logits.mean()),
            "min": float(logits.min()),
            "logsumexp": float(logits.logsumexp(0)),
        }


def start_indices(backbone: DecoderBackbone, start: Optional[str]) -> List[int]:
    """The dictionary's indices of what stands before a text: one, or none.

    Args:
        start: a symbol of the dictionary or its published spelling, "none", or None for the backbone's own.

    Raises:
        ValueError: there is no such symbol, or the published model has it not.
    """
    start = backbone.start or NONE if start is None else start
    if start == NONE:
        return []
    index = backbone.tokenizer.backend.token_to_id(start)
    row = backbone.dictionary.index(start) if index is None else backbone.tokenizer.published_ids.index(index)
    symbol = backbone.dictionary[row]
    if (index is None and start not in backbone.dictionary) or symbol in backbone.tokenizer.unused:
        raise ValueError(
            f"--start {start}: the model has no such token; choose one of its vocabulary, such as {backbone.start}, or none"
        )
    return [row]
