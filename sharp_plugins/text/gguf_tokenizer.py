"""The tokenizer in the header of a GGUF file, as the `tokenizers` library's own object.

Two kinds are read. ``gpt2`` is byte-level BPE: tokens, merges, and by name (``tokenizer.ggml.pre``) the rule that splits a text
before the merges, which llama.cpp knows by heart. ``llama`` is sentencepiece's BPE, with bytes for characters that it has not;
older files have scores instead of merges, from which the merges follow.
"""

from typing import Dict, List, Optional, Tuple

from sharp_plugins.files.gguf_header import Header

# The rules that split a text, by name. GPT-2's own is the library's; "" is that of the first files, which say none. SmolLM's own
# tokenizer takes digits one by one before. No merge joins digits, and so this matters only for a number after two spaces and for
# fractions such as ½; transformers reads the file by GPT-2's rule, and the ids here are the same as its.
GPT2_RULE = ("", "default", "gpt-2", "gpt2", "smollm")
LLAMA3_NAMES = ("llama3", "llama-v3", "llama-bpe")
LLAMA3_RULE = (*LLAMA3_NAMES, "smaug-bpe")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Types of tokens.
CONTROL, OWN = 3, 4
ROLES = {"eos_token": "eos", "bos_token": "bos", "pad_token": "padding"}
SPACE = "\u2581"
# Characters of a token; published ones have up to some hundreds, of blanks or lines. How long merges are looked for grows with
# the square.
LONGEST = 1000


def read_gguf_backend(settings: Dict) -> Tuple:
    """The `tokenizers.Tokenizer` of a header, its special token of each role that has one, and the token that it puts before
    each text (None for none), as `sharp_plugins.text.decoder_files.read_decoder_backend` gives them.

    Args:
        settings: the header's.

    Raises:
        ValueError: the header describes another kind of tokenizer, or none.
        ImportError: tokenizers is not installed.
    """
    from tokenizers import AddedToken

    header = Header(settings, "tokenizer.ggml.")
    kind, tokens = header.get("model", "a text"), header.list("tokens", "a text")
    if kind not in ("gpt2", "llama") or not tokens:
        raise ValueError(f"tokenizer.ggml.model is {kind!r}; read are 'gpt2' and 'llama', with their tokens")
    types = header.list("token_type", "a whole number") or [1] * len(tokens)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens) or len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.tokens has {len(tokens)} tokens, {len(vocabulary)} different ones, of {len(types)} types")
    long = [index for index, token in enumerate(tokens) if len(token) > LONGEST]
    if long:
        raise ValueError(
            f"tokenizer.ggml.tokens has a token, number {long[0]}, of {len(tokens[long[0]])} characters: more than {LONGEST}"
        )
    backend = (_byte_level if kind == "gpt2" else _sentencepiece)(header, vocabulary)
    backend.add_special_tokens([AddedToken(t, normalized=False) for t, of in zip(tokens, types) if of == CONTROL])
    backend.add_tokens([AddedToken(t, normalized=False) for t, of in zip(tokens, types) if of == OWN])

    special = {}
    for role, name in ROLES.items():
        index = header.get(f"{name}_token_id", "a whole number")
        if index is not None and 0 <= index < len(tokens):
            special[role] = tokens[index]
    if "eos_token" not in special:
        raise ValueError("tokenizer.ggml.eos_token_id is not there, the number of the token that ends a text")
    if backend.model.unk_token is not None:
        special["unk_token"] = backend.model.unk_token
    # What llama.cpp does where the header does not say it.
    usual = kind == "llama" or header.get("pre", "a text", "") in LLAMA3_NAMES
    begins = header.get("add_bos_token", "true or false", usual)
    return backend, special, special.get("bos_token") if begins else None


def _byte_level(header: Header, vocabulary: Dict[str, int]):
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers

    rule = header.get("pre", "a text", "")
    if rule in GPT2_RULE:
        before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif rule in LLAMA3_RULE:
        split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
        before = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        known = ", ".join(name for name in (*GPT2_RULE, *LLAMA3_RULE) if name)
        raise ValueError(f"tokenizer.ggml.pre is {rule!r}; known rules are {known}. Take the published directory instead")
    merges = header.list("merges", "a text")
    if not merges:
        raise ValueError("tokenizer.ggml.merges is not there")
    backend = Tokenizer(_bpe(vocab=vocabulary, merges=_pairs(merges), ignore_merges=rule in LLAMA3_RULE))
    backend.pre_tokenizer, backend.decoder = before, decoders.ByteLevel()
    return backend


def _sentencepiece(header: Header, vocabulary: Dict[str, int]):
    from tokenizers import Tokenizer, decoders, normalizers

    merges, scores = header.list("merges", "a text"), header.list("scores", "a number")
    if not merges and (not scores or len(scores) != len(vocabulary)):
        raise ValueError("tokenizer.ggml.merges and tokenizer.ggml.scores are not there")
    index = header.get("unknown_token_id", "a whole number")
    unknown: Optional[str] = next((token for token, i in vocabulary.items() if i == index), None)
    pairs = _pairs(merges) if merges else merges_of(vocabulary, scores)
    model = _bpe(vocab=vocabulary, merges=pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend, prepends = Tokenizer(model), header.get("add_space_prefix", "true or false", True)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prepends else spaces
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prepends else back)
    return backend


def _bpe(**parts):
    """The library's BPE, with a ValueError for its bare Exceptions."""
    from tokenizers import models

    try:
        return models.BPE(**parts)
    except Exception as error:
        raise ValueError(f"tokenizer.ggml.merges cannot be used: {error}") from None


def _pairs(merges: List[str]) -> List[Tuple[str, str]]:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("tokenizer.ggml.merges has a merge that is not of two tokens")
    return pairs


def merges_of(vocabulary: Dict[str, int], scores: List[float]) -> List[Tuple[str, str]]:
    """The merges of sentencepiece's tokens: all ways to make one of two others, those of higher scores first.

    >>> merges_of({"a": 0, "b": 1, "ab": 2, "abab": 3}, [-1.0, -2.0, -3.0, -4.0])
    [('a', 'b'), ('ab', 'ab')]
    """
    found = []
    for token, index in vocabulary.items():
        halves = [(token[:n], token[n:]) for n in range(1, len(token))]
        pairs = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
        found += [(scores[index], pair) for pair in sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))]
    found.sort(key=lambda entry: (entry[0], len(entry[1][0]), len(entry[1][1])), reverse=True)
    return [pair for _, pair in found]
