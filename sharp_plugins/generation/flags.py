"""The flags of a generation: fairseq's, further ones (`GenerationFlags`), and those of fairseq's that mean nothing here."""

from dataclasses import dataclass, field, fields
from typing import Any, Optional, Sequence

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.configs import GenerationConfig

from sharp_plugins.core.setting_error import as_flags
from sharp_plugins.generation.generator import Generator
from sharp_plugins.generation.lookup import ON_A_PROCESSOR
from sharp_plugins.generation.settings import EARLY_STOPPING, RULES, SearchSettings


@dataclass
class GenerationFlags(FairseqDataclass):
    """What fairseq's `GenerationConfig` has no flag for. A task's config inherits it.

    Example::

        @dataclass
        class MyTaskConfig(GenerationFlags):
            data: str = MISSING
    """

    stop_symbols: str = field(
        default="", metadata={"help": "symbols of the dictionary that end an output, besides </s>, with blanks between them"}
    )
    beam_rules: ChoiceEnum(list(RULES)) = field(
        default="fairseq",
        metadata={"help": "rules of the beam search: fairseq's (and transformers'), or those of the code of LoRA's paper"},
    )
    early_stopping: ChoiceEnum(list(EARLY_STOPPING)) = field(
        default="full",
        metadata={
            "help": "when a sentence is done: with as many hypotheses as beams (full; transformers' True), or when no beam gets "
            "better at its present length (heuristic; their False) or at the best one (never)"
        },
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "divides positive and multiplies negative scores of symbols that the output has already"}
    )
    lookup_tokens: Optional[int] = field(
        default=None,
        metadata={
            "help": "of greedy search with one prompt in a batch: how many tokens are guessed at a time, from what was read "
            f"before, and read in one pass; the outputs stay the same. 0: none. default: {ON_A_PROCESSOR} in fp32 on a processor, "
            "and else 0: on a GPU each token is then waited for"
        },
    )


# Settings of a search whose flags have other names.
FLAG_OF = {
    "stops": "stop-symbols", "rules": "beam-rules", "length_penalty": "lenpen", "no_repeat_ngram": "no-repeat-ngram-size",
    "unk_penalty": "unkpen", "top_k": "sampling-topk", "top_p": "sampling-topp",
}  # fmt: skip

# fairseq's flags that a generation after a prompt does not know; any other value than the default is refused.
REFUSED = {
    "match_source_len": "an output is not as long as its prompt",
    "no_early_stop": "use --early-stopping",
    "replace_unk": "outputs have no alignment to prompts",
    "score_reference": "use fairseq-validate for the loss of references",
    "constraints": "outputs cannot be made to contain given words",
    "diverse_beam_groups": "there is no diverse beam search here",
    "diverse_beam_strength": "there is no diverse beam search here",
    "diversity_rate": "there is no diverse beam search here",
    "print_alignment": "outputs have no alignment to prompts",
    "print_step": "it is for iterative refinement",
    "lm_path": "there is no second language model; --path takes several models with a colon between them",
    "lm_weight": "there is no second language model; --path takes several models with a colon between them",
    "iter_decode_eos_penalty": "it is for iterative refinement",
    "iter_decode_max_iter": "it is for iterative refinement",
    "iter_decode_force_max_iter": "it is for iterative refinement",
    "iter_decode_with_beam": "it is for iterative refinement",
    "iter_decode_with_external_reranker": "it is for iterative refinement",
    "retain_iter_history": "it is for iterative refinement",
    "retain_dropout": "generation has no dropout",
    "retain_dropout_modules": "generation has no dropout",
    "decoding_format": "it is for iterative refinement",
    "eos_token": "name further symbols that end an output with --stop-symbols",
}


def refuse_unknown(flags: Any) -> None:
    """Raise ValueError where *flags*, a `GenerationConfig`, has one that means nothing here."""
    defaults = {each.name: each.default for each in fields(GenerationConfig)}
    for name, reason in REFUSED.items():
        if getattr(flags, name, defaults.get(name)) != defaults.get(name):
            raise ValueError(f"--{name.replace('_', '-')} is not known to prompted generation: {reason}")


def settings_of(flags: Any, dictionary: Any, more: Any = None) -> SearchSettings:
    """The settings of a search.

    Args:
        flags: fairseq's `GenerationConfig`.
        dictionary: fairseq's.
        more: a config with those of `GenerationFlags`.

    Raises:
        ValueError: one of them is out of range, or means nothing here. The flag is named.

    Example::

        >>> from fairseq.data import Dictionary
        >>> settings_of(GenerationConfig(beam=10, max_len_b=64), Dictionary()).beam
        10
    """
    refuse_unknown(flags)
    more = GenerationFlags() if more is None else more
    stops = [dictionary.eos()]
    for symbol in more.stop_symbols.split():
        if symbol not in dictionary:
            raise ValueError(f"--stop-symbols: {symbol!r} is no symbol of the dictionary")
        stops.append(dictionary.index(symbol))
    settings = SearchSettings(
        stops=tuple(dict.fromkeys(stops)),
        never=(dictionary.pad(),),
        beam=flags.beam,
        nbest=flags.nbest,
        max_len_a=flags.max_len_a,
        max_len_b=flags.max_len_b,
        min_len=flags.min_len,
        length_penalty=flags.lenpen,
        normalize=not flags.unnormalized,
        rules=str(more.beam_rules),
        early_stopping=str(more.early_stopping),
        no_repeat_ngram=flags.no_repeat_ngram_size,
        repetition_penalty=more.repetition_penalty,
        unk=dictionary.unk(),
        unk_penalty=flags.unkpen,
        temperature=flags.temperature,
        lookup_tokens=more.lookup_tokens,
        sampling=flags.sampling,
        top_k=0 if flags.sampling_topk == -1 else flags.sampling_topk,  # fairseq's −1: not given
        top_p=0.0 if flags.sampling_topp == -1 else flags.sampling_topp,
    )
    with as_flags(names=FLAG_OF):
        settings.check()
    return settings


def build_generator(
    models: Sequence[Any], dictionary: Any, flags: Any, more: Any = None, longest: Optional[int] = None
) -> Generator:
    """What a task's ``build_generator`` returns.

    Args:
        models: those that will generate.
        flags, dictionary, more: as for `settings_of`.
        longest: the longest prompt of all in tokens, where it is known: what does not fit is refused before any work.

    Raises:
        ValueError: as `settings_of` and `Generator.check_room` do.
        TypeError: a model is no decoder of this project.
    """
    # fairseq's commands set torch's seed to --seed.
    generator = Generator(models, dictionary, settings_of(flags, dictionary, more), torch.initial_seed())
    if longest is not None:
        generator.check_room(models, longest)
    return generator
