"""A validation that generates: ``--eval-bleu`` and the flags beside it.

A batch of the validation set may bring prompts (`ValidationDataset`). They are continued while its loss is computed. What BLEU and
chrF++ count in the texts goes into the batch's logging output, which fairseq adds up over batches and ranks.
"""

import logging
import time
from dataclasses import fields
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from sharp_plugins.files.text import parse_json
from sharp_plugins.generation.flags import REFUSED, GenerationFlags, settings_of
from sharp_plugins.generation.generator import Generator
from sharp_plugins.models.run_settings import setting
from sharp_plugins.prompted.lines import Lines
from sharp_plugins.prompted.summed_scores import SIZES, scores, statistics
from sharp_plugins.prompted.validation_data import ValidationDataset

logger = logging.getLogger(__name__)

ARGS = "--eval-bleu-args"
# In a logging output: one tensor of how many texts and tokens, of the seconds, and of the scores' statistics.
KEY = "_generation"
COUNTS = 3


def joined(*symbols: str) -> str:
    """Symbols with blanks between them, each once.

    >>> joined("a b", "b c")
    'a b c'
    """
    return " ".join(dict.fromkeys(" ".join(symbols).split()))


def read_flags(text: str, task_flags: GenerationFlags) -> Tuple[Any, GenerationFlags]:
    """Generation flags from JSON: fairseq's, greedy where none is given, and those of the task, changed by what is given.

    Raises:
        ValueError: it is no JSON object, or has a name or a value that no generation flag has.

    >>> flags, more = read_flags('{"max_len_b": 64, "beam_rules": "lora"}', GenerationFlags(stop_symbols="x"))
    >>> flags.beam, flags.max_len_b, str(more.beam_rules), more.stop_symbols
    (1, 64, 'lora', 'x')
    """
    given = parse_json(text, ARGS)
    if not isinstance(given, dict):
        raise ValueError(f"{ARGS} {text}: not a JSON object but a {type(given).__name__}")
    flags, more = OmegaConf.structured(GenerationConfig(beam=1)), OmegaConf.structured(task_flags)
    unknown = sorted(name for name in given if name.startswith("_") or not (name in flags or name in more))
    if unknown:
        known = sorted({f.name for kind in (GenerationConfig, GenerationFlags) for f in fields(kind)} - {"_name", *REFUSED})
        raise ValueError(f"{ARGS}: {', '.join(unknown)} is no generation flag; there are {', '.join(known)}")
    for name, value in given.items():
        try:
            (flags if name in flags else more)[name] = value
        except OmegaConfBaseException as error:
            raise ValueError(f"{ARGS}: {name} cannot be {value!r}: {str(error).splitlines()[0]}") from None
    return flags, GenerationFlags(**{f.name: more[f.name] for f in fields(GenerationFlags) if not f.name.startswith("_")})


class Validation:
    """Texts for the prompts of a validation set, and their scores.

    Args:
        args: generation flags as JSON.
        task_flags: generation flags that the task has beside fairseq's. Its stop symbols hold beside those of *args*.
        lines: what makes texts of symbols.
        print_samples: whether one text of each batch is logged.

    Raises:
        ValueError: *args* cannot be used.

    Example::

        validation = Validation('{"beam": 5}', GenerationFlags(), dictionary, Lines(encoding))
        logging_output.update(validation.step(sample, model))
        validation.reduce([logging_output])  # logs bleu, chrf, and the costs
    """

    def __init__(self, args: str, task_flags: GenerationFlags, dictionary: Dictionary, lines: Lines, print_samples: bool = False):
        flags, more = read_flags(args, task_flags)
        more.stop_symbols = joined(task_flags.stop_symbols, more.stop_symbols)
        try:
            self.settings = settings_of(flags, dictionary, more)
        except ValueError as error:
            raise ValueError(f"{ARGS}: {error}") from None
        self.dictionary, self.lines, self.print_samples = dictionary, lines, print_samples

    def check(self, model: Any, data: ValidationDataset) -> None:
        """Raise ValueError where *model* cannot generate, or has no room for the outputs after the prompts of *data*."""
        try:
            generator = Generator([model], self.dictionary, self.settings)
            for length in (max(data.lengths), min(data.lengths)):  # with --max-len-a a short prompt may have no output
                generator.check_room([model], int(length))
        except TypeError as error:
            raise ValueError(f"--eval-bleu: {str(error).removeprefix('--path: ')}") from None
        except ValueError as error:
            raise ValueError(f"{ARGS}: {error}") from None
        texts = sum(len(each.texts) for each in data.inputs)
        logger.info("--eval-bleu: a validation continues %d prompts, and scores them by %d references", len(data.inputs), texts)

    # ------------------------------------------------------------------ a batch

    def step(self, sample: Dict[str, Any], model: Any) -> Dict[str, Tensor]:
        """Continue what *sample* brings. Returns an entry for the logging output, of zeros where it brings nothing."""
        counts = torch.zeros(COUNTS + sum(SIZES.values()), dtype=torch.float64)
        for batch in sample.get("generation", ()):
            started = time.perf_counter()
            outputs, texts = self.generate(batch, model)
            counts[COUNTS:] += statistics(texts, batch["references"])
            counts[:COUNTS] += torch.tensor([len(texts), sum(map(len, outputs)), time.perf_counter() - started])
            if self.print_samples:
                logger.info("example hypothesis: %s", texts[0])
                logger.info("example reference: %s", batch["references"][0][0])
        return {KEY: counts}

    def generate(self, batch: Dict[str, Any], model: Any) -> Tuple[Sequence[Tensor], Sequence[str]]:
        """The best output of each prompt, with its end, and as text."""
        # A new one each time, whose samples do not depend on what was generated before.
        generator = Generator([model], self.dictionary, self.settings)
        outputs = [found[0]["tokens"] for found in generator.ended_alike(generator.generate([model], batch))]
        return outputs, [self.lines.decode(self.dictionary.string(each)) for each in outputs]

    # ------------------------------------------------------------------ all batches

    @staticmethod
    def reduce(logging_outputs: Sequence[Dict[str, Any]]) -> None:
        """Log the scores of all texts, and what they cost; nothing for logging outputs of training."""
        found = [output[KEY] for output in logging_outputs if KEY in output]
        if not found:
            return
        # fairseq saves these sums with a checkpoint: a tensor is what its safe loader reads.
        metrics.log_scalar_sum(KEY, torch.stack(found).sum(0).cpu())
        ranks = distributed_utils.get_data_parallel_world_size()
        for name in SIZES:
            metrics.log_derived(name, lambda meters, name=name: scores(meters[KEY].sum[COUNTS:])[name], 30)
        metrics.log_derived("gen_texts", lambda meters: float(meters[KEY].sum[0]), 300)
        metrics.log_derived("gen_seconds", lambda meters: round(float(meters[KEY].sum[2]) / ranks, 2), 301)
        for place, what in enumerate(("texts", "tokens")):
            metrics.log_derived(f"gen_{what}_per_s", lambda meters, place=place: speed(meters[KEY].sum, place, ranks), 302)


def speed(sums: Tensor, place: int, ranks: int) -> float:
    """How many texts (*place* 0) or tokens (1) a second, by all ranks together."""
    return round(float(sums[place]) * ranks / max(float(sums[2]), 1e-9), 2)


class GeneratesInValidation(FairseqTask):
    """A task whose validation generates where it has a `Validation`. fairseq's trainer and ``fairseq-validate`` call what is here.

    Example::

        task.validation = Validation('{"beam": 5}', GenerationFlags(), task.dictionary, lines)
        task.datasets["valid"] = ValidationDataset(...)  # its batches bring prompts
    """

    validation: Optional[Validation] = None

    def get_batch_iterator(self, dataset, **settings):
        """fairseq's; of a `ValidationDataset` the batches bring their prompts."""
        iterator = super().get_batch_iterator(dataset, **settings)
        if isinstance(dataset, ValidationDataset):
            last = setting(self.cfg, "max_valid_steps", None)
            limits = settings.get("max_tokens"), settings.get("max_sentences")
            dataset.share_out(iterator, *limits, max_steps=None if last is None else last + 1)  # fairseq takes one step more
        return iterator

    def valid_step(self, sample, model, criterion):
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.validation is not None:
            logging_output.update(self.validation.step(sample, model))
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        Validation.reduce(logging_outputs)
