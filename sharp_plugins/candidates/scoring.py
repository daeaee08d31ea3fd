"""Scores of candidates, with each prompt read once.

What the candidates of an example have in common at their beginning is read once: the prompt, and symbols with which all of them
go on. The rest of each candidate is read behind it. So nothing of a prompt is computed twice, and candidates of one symbol cost
nothing beside their prompt.
"""

from typing import Dict, List, Sequence

import torch
from torch import Tensor

from sharp_plugins.candidates.prompt_cache import PromptCache
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.prompted.dataset import pad_right

# Columns of prompts and candidates that are attended to at once, of all rows together: bounds the copies of a layer's keys.
COLUMNS = 1 << 15
# Positions whose scores over all symbols are in memory at once.
POSITIONS = 256


def in_common(sequences: Sequence[Tensor]) -> int:
    """How many symbols all sequences begin with, leaving to each one or more.

    >>> in_common([torch.tensor([5, 6, 7, 8]), torch.tensor([5, 6, 9])])
    2
    """
    most = min(map(len, sequences)) - 1
    first = sequences[0][:most]
    same = torch.stack([sequence[:most] == first for sequence in sequences]).all(0)
    return int(same.long().cumprod(0).sum())


@torch.no_grad()
def score_candidates(decoder: Decoder, examples: Sequence[Dict], pad: int) -> List[Tensor]:
    """The scores of each example's candidates, fp32: means of log-probabilities of their own symbols.

    Args:
        decoder: in evaluation mode.
        examples: with "sequences", int64 tensors of prompt and candidate, and "counted", see prepared.py.
        pad: a symbol for padding.

    Example; the decoder is yours::

        rows = [torch.tensor([5, 6, 7]), torch.tensor([5, 6, 8, 9])]
        score_candidates(decoder, [{"sequences": rows, "counted": [1, 2]}], pad=1)  # [tensor([-3.1, -2.7])]
    """
    device = decoder.embed_tokens.weight.device
    shared = [in_common(example["sequences"]) for example in examples]
    lengths = torch.tensor(shared, device=device)
    prefix = [] if decoder.prefix is None else decoder.prefix.keys_and_values()
    cache = PromptCache(lengths, decoder.settings.max_positions, prefix)
    # Nothing may be in common, where prompts were cut at different places and there is no start. Then one symbol is read in vain.
    prompts = [example["sequences"][0][: max(length, 1)] for example, length in zip(examples, shared)]
    of_prompts = decoder.features(pad_right(prompts, pad).to(device), cache)

    found: List[Tensor] = []  # features (n, width) at the positions that predict what is counted, of one candidate after the other
    targets, sizes = [], []
    rests = []  # (example, place in `found`, what is read behind the common beginning)
    for number, (example, length) in enumerate(zip(examples, shared)):
        for sequence, count in zip(example["sequences"], example["counted"]):
            first = len(sequence) - count - 1  # the position that predicts the first counted symbol
            found.append(of_prompts[number, first:length])
            targets.append(sequence[-count:])
            sizes.append(count)
            if len(sequence) - 1 > length:
                rests.append((number, len(found) - 1, sequence[length:-1]))
    for chunk in in_chunks(rests, cache.columns):
        rows = pad_right([rest for _, _, rest in chunk], pad).to(device)
        cache.follow(torch.tensor([number for number, _, _ in chunk], device=device))
        features = decoder.features(rows, cache)
        for row, (_, place, rest) in zip(features, chunk):
            missing = sizes[place] - len(found[place])
            found[place] = torch.cat([found[place], row[len(rest) - missing : len(rest)]])
    log_probs = log_probabilities(decoder, torch.cat(found), torch.cat(targets).to(device))
    scores = torch.stack([part.mean() for part in log_probs.split(sizes)])
    return list(scores.split([len(example["counted"]) for example in examples]))


def in_chunks(rests: List, columns: int) -> List[List]:
    """*rests* in lists that are read at once, those of like length together."""
    chunks: List[List] = []
    for rest in sorted(rests, key=lambda rest: len(rest[2])):  # ascending: the last of a chunk is its longest
        width = columns + len(rest[2])
        if not chunks or (len(chunks[-1]) + 1) * width > COLUMNS:
            chunks.append([])
        chunks[-1].append(rest)
    return chunks


def log_probabilities(decoder: Decoder, features: Tensor, targets: Tensor) -> Tensor:
    """(N,) fp32, the log-probabilities of *targets* (N,) by *features* (N, width)."""
    parts = zip(features.split(POSITIONS), targets.split(POSITIONS))
    return torch.cat(
        [decoder.output_layer(part).log_softmax(-1, dtype=torch.float32).gather(1, wanted[:, None])[:, 0] for part, wanted in parts]
    )
