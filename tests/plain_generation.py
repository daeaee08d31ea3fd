"""Generation once more, plainly and slowly: one sentence at a time, no cache, Python lists. And the models it is tested on."""

import decoders
import torch
from fairseq.data import Dictionary
from torch import nn

PAD, EOS = 1, 2
POSITIONS = 64
INF = float("inf")


class Model(nn.Module):
    """As much of a fairseq language model as a generator needs."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def max_positions(self):
        return self.decoder.settings.max_positions


def model_pair(family):
    """transformers' model of a family, and ours with its weights."""
    if family == "gpt2":
        theirs, ours = decoders.gpt2(n_positions=POSITIONS, our_max_positions=POSITIONS)
    elif family == "opt":
        theirs, ours = decoders.opt(max_position_embeddings=POSITIONS, do_layer_norm_before=False, word_embed_proj_dim=16)
    else:
        theirs, ours = decoders.llama(max_position_embeddings=POSITIONS, tie_word_embeddings=False)
    return theirs, Model(ours)


def dictionary():
    words = Dictionary()
    for number in range(decoders.VOCABULARY - len(words)):
        words.add_symbol(f"w{number}")
    assert (words.pad(), words.eos(), len(words)) == (PAD, EOS, decoders.VOCABULARY)
    return words


def prompts(*lengths, seed=0):
    """Random prompts, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(rows, lengths):
        row[:length] = torch.randint(4, decoders.VOCABULARY, (length,), generator=generator)
    return rows


def batch(rows, **more):
    return {"net_input": {"src_tokens": rows}, **more}


# ---------------------------------------------------------------------- the rules, plainly


@torch.no_grad()
def scores_after(model, prompt, output):
    return model.decoder(torch.tensor([[*prompt, *output]]))[0, -1].double()


def repeats(output, size):
    """Symbols that would make an n-gram of *output* occur twice."""
    ngrams = {tuple(output[i : i + size]) for i in range(len(output) - size + 1)}
    return [ngram[-1] for ngram in ngrams if size == 1 or ngram[:-1] == tuple(output[1 - size :])] if size else []


def log_probabilities(scores, output, settings, given=None):
    """Of the next symbols; nothing forbids the *given* one."""
    scores = scores / settings.temperature
    for symbol in set(output):
        factor = settings.repetition_penalty
        scores[symbol] = scores[symbol] * factor if scores[symbol] < 0 else scores[symbol] / factor
    forbidden = [*settings.never, *repeats(output, settings.no_repeat_ngram)]
    forbidden += settings.stops if len(output) < settings.min_len else []
    forbidden = [symbol for symbol in forbidden if symbol != given]
    if settings.rules == "lora":
        scores[forbidden] = -INF
        return scores.log_softmax(0)
    scores = scores.log_softmax(0)
    scores[forbidden] = -INF
    return scores


def final(total, length, settings):
    return total / length**settings.length_penalty if settings.normalize else total


def search(scores_of, settings, limit):
    """Beam search, with the next symbols' scores ``scores_of(output)``: the best hypotheses as (score, output)."""
    beams, found = [(0.0, [])], []
    for length in range(1, limit + 1):
        candidates = []
        for total, output in beams:
            logs = log_probabilities(scores_of(output), output, settings)
            candidates += [(total + log, [*output, symbol]) for symbol, log in enumerate(logs.tolist()) if log > -INF]
        candidates.sort(key=lambda candidate: -candidate[0])
        ended = [output[-1] in settings.stops for _, output in candidates]
        for (total, output), end in list(zip(candidates, ended))[: settings.beam]:
            if end or length == limit:
                found.append((final(total, length, settings), output))
        if settings.rules == "lora":  # those of the best that ended have no successor; it goes on to the longest length
            beams = [candidate for candidate, end in list(zip(candidates, ended))[: settings.beam] if not end]
        else:
            beams = [candidate for candidate, end in zip(candidates, ended) if not end][: settings.beam]
            if len(found) >= settings.beam:
                break
    return sorted(found, key=lambda hypothesis: -hypothesis[0])[: settings.nbest]
