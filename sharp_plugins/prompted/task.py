"""``--task prompted_generation``: a language model learns to write a text after a prompt, and writes it.

The data are those of ``python -m sharp_plugins.prompted prepare``. The loss is a stock criterion's (``cross_entropy``,
``label_smoothed_cross_entropy`` and those built on them), over the texts and their ends alone, with ``--count-prompt`` over the
prompts too, and with ``--leave-out-end`` without the ends. Its mean is over the symbols that it
counts, so that learning rates mean what they mean elsewhere.
"""

import inspect
import logging
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List

import torch
from fairseq.data import data_utils
from fairseq.models import ARCH_MODEL_REGISTRY, FairseqLanguageModel
from fairseq.tasks import register_task
from fairseq.utils import safe_getattr
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from sharp_plugins.generation.flags import GenerationFlags, build_generator
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.run_settings import setting
from sharp_plugins.prompted.checkpoints import STATE, check_shape, check_vocabulary, paths_of_weights, read_checked
from sharp_plugins.prompted.checks import check_bpe, check_criterion, check_post_process, check_validation
from sharp_plugins.prompted.config import PromptedGenerationConfig
from sharp_plugins.prompted.dataset import PromptedDataset, Rows, prompts_alone
from sharp_plugins.prompted.lines import Lines, PromptDictionary, encode_lines
from sharp_plugins.prompted.prepared import COMMAND, PARTS, read_prepared
from sharp_plugins.prompted.room import check_lengths, check_room
from sharp_plugins.prompted.validation import GeneratesInValidation, Validation, joined
from sharp_plugins.prompted.validation_data import ValidationDataset, inputs_of

logger = logging.getLogger(__name__)


@register_task("prompted_generation", dataclass=PromptedGenerationConfig)
class PromptedGeneration(GeneratesInValidation):
    """Text after a prompt, by a `FairseqLanguageModel`.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: they are no data of this task, are of another model, or a flag does not fit.

    Example, with data that are prepared::

        task = PromptedGeneration.setup_task(PromptedGenerationConfig(data="DATA"))
        task.load_dataset("valid")
        sample = task.dataset("valid").collater([task.dataset("valid")[0]])
        sample["ntokens"]  # symbols of the text, its end among them
    """

    read_data = staticmethod(read_prepared)

    @classmethod
    def setup_task(cls, cfg, **unused):
        """The task of a config, a checkpoint's too."""
        return cls(cfg)

    def __init__(self, cfg):
        super().__init__(cfg)
        if not cfg.data:
            raise ValueError(f"--task prompted_generation needs data: the directory that `{COMMAND}` wrote")
        if cfg.add_bos_token:
            raise ValueError("--add-bos-token: the format of the data says what stands before a prompt (prepare's --start)")
        check_bpe(setting(cfg, "bpe", None))
        self.prepared = self.read_data(cfg.data)
        most = cfg.max_target_positions or self.prepared.max_positions
        if cfg.tokens_per_sample and not 2 <= cfg.tokens_per_sample <= most:
            raise ValueError(f"--tokens-per-sample must be from 2 to {most}, the model's positions, and is {cfg.tokens_per_sample}")
        self.room = self.max_positions()  # until the model says that it has less
        self.dictionary = self.prepared.dictionary()
        self.prompt_dictionary = PromptDictionary(self.dictionary)
        self.encoding = self.prepared.encoding(self.dictionary)
        self.lines_read = 0  # by fairseq-interactive, of its input
        self.check_prompt = self.check_positions  # until the generator says what an output needs
        self.only_scored = False  # until the model says that it can
        self.is_adaptive = True  # until the model says that its softmax is a plain one
        if setting(cfg, "eval_bleu", False):  # the task of candidates, for one, has no such flag
            flags = (cfg.eval_bleu_args or "{}", self.generation_flags())
            self.validation = Validation(*flags, self.dictionary, Lines(self.encoding), cfg.eval_bleu_print_samples)
        self.state.add_factory(STATE, lambda: {"vocabulary": dict(self.prepared.checksums), "format": dict(self.prepared.format)})
        getattr(self.state, STATE)  # made now, so that it is saved
        logger.info("dictionary: %d symbols; format: %s", len(self.dictionary), self.prepared.format)

    @property
    def source_dictionary(self):
        return self.prompt_dictionary

    @property
    def target_dictionary(self):
        return self.dictionary

    def max_positions(self) -> int:
        """The most symbols that the model reads of a sequence."""
        return self.cfg.tokens_per_sample or self.prepared.max_positions

    def check_positions(self, length: int) -> None:
        """Raise ValueError where the model has less positions than a prompt's *length*."""
        if length > self.room:
            raise ValueError(f"a prompt has {length} symbols, and the model {self.room} positions")

    # ------------------------------------------------------------------ data and model

    def load_dataset(self, split: str, **unused) -> None:
        """Load a split, for training, validation or generation.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: a sequence is too long, but of the training data, where it is left out.
        """
        place = Path(self.cfg.data)
        parts = [data_utils.load_indexed_dataset(str(place / f"{split}.{part}"), self.dictionary, "mmap") for part in PARTS]
        if None in parts:
            raise FileNotFoundError(f"{place}: no data of {split}; there are {', '.join(self.prepared.facts)}")
        is_train = split == setting(self.cfg, "train_subset", "train")
        if not is_train:
            self.check_lengths(split)
        without_end = setting(self.cfg, "leave_out_end", False)
        settings = (*parts, self.dictionary.pad(), self.cfg.count_prompt, self.only_scored, is_train, without_end)
        self.datasets[split] = data = PromptedDataset(*settings)
        if self.validation is not None and split in self.validated():
            inputs = inputs_of(place, split, data.sizes, self.room, self.cfg.eval_bleu_inputs)
            self.datasets[split] = ValidationDataset(*settings, inputs=inputs)

    def check_lengths(self, split: str) -> None:
        """Raise ValueError where a sequence of *split* has more positions than are there, unless such ones shall be left out."""
        if not setting(self.cfg, "skip_invalid_size_inputs_valid_test", False):
            check_lengths(self.prepared, split, self.room, self.room == self.cfg.tokens_per_sample)

    def build_criterion(self, cfg, from_checkpoint=False):
        """The criterion.

        Raises:
            ValueError: it is for other tasks.
        """
        check_criterion(getattr(cfg, "_name", None) or getattr(cfg, "criterion", None), self.is_adaptive)
        return super().build_criterion(cfg, from_checkpoint)

    def build_model(self, cfg, from_checkpoint=False):
        """The model; where no flag says otherwise, with as many positions and the unused symbols of the data's own model.

        Raises:
            ValueError: it is no language model, its weights come from a checkpoint with another dictionary or shape, or the data's
                rows do not fit into it.
        """
        if not from_checkpoint:
            check_validation(self.cfg)
        sources = {p: read_checked(p, self.prepared) for p in paths_of_weights(self.cfg, from_checkpoint) if p.is_file()}
        validated = [] if from_checkpoint or setting(self.cfg, "disable_validation", False) else self.validated()
        for split in validated:
            self.check_lengths(split)
        with open_dict(cfg) if OmegaConf.is_config(cfg) else nullcontext():
            if not safe_getattr(cfg, "max_target_positions"):
                cfg.max_target_positions = self.prepared.max_positions
            name = safe_getattr(cfg, "base_arch") or safe_getattr(cfg, "_name") or safe_getattr(cfg, "arch")
            # The config of a wrapping architecture, --arch lora for one, need not have the base's defaults.
            if ARCH_MODEL_REGISTRY.get(name) is DecoderModel and not safe_getattr(cfg, "unused_symbols") and not from_checkpoint:
                cfg.unused_symbols = " ".join(self.prepared.source["unused"])
        model = super().build_model(cfg, from_checkpoint)
        if not isinstance(model, FairseqLanguageModel):
            raise ValueError(
                f"--task prompted_generation trains language models, such as --arch sharp_gpt2, and {type(model).__name__} is none"
            )
        if not from_checkpoint and hasattr(model.decoder, "settings"):
            for path, state in sources.items():
                check_shape(path, state, model.decoder.settings)
        if not from_checkpoint:
            check_room(self.prepared, model, self.max_positions())
        self.room = min(self.room, model.max_positions())  # a prefix takes some
        for split in validated:
            self.check_lengths(split)
        self.is_adaptive = getattr(model.decoder, "adaptive_softmax", None) is not None
        self.only_scored = "scored" in inspect.signature(model.decoder.forward).parameters
        if self.validation is not None:
            for split in validated:
                self.load_dataset(split)
                self.validation.check(model, self.datasets[split])
        return model

    def validated(self) -> List[str]:
        """The splits that training validates on."""
        return str(setting(self.cfg, "valid_subset", "valid")).split(",")

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Take a checkpoint's "task_state", whose dictionary must be the data's."""
        check_vocabulary(state_dict.get(STATE), self.prepared, "the checkpoint")

    # ------------------------------------------------------------------ generation

    def generation_flags(self) -> GenerationFlags:
        """The task's own, with the format's stops."""
        flags = GenerationFlags(**{f.name: self.cfg[f.name] for f in fields(GenerationFlags) if not f.name.startswith("_")})
        flags.stop_symbols = joined(*self.prepared.stop, str(self.cfg.stop_symbols or ""))
        return flags

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, prefix_allowed_tokens_fn=None):
        """What ``fairseq-generate`` and ``fairseq-interactive`` write texts with."""
        check_post_process(setting(self.cfg, "post_process", None))  # here, as in training it is a criterion's flag
        if (
            seq_gen_cls is not None
            or prefix_allowed_tokens_fn is not None
            or (extra_gen_cls_kwargs or {}).get("lm_model") is not None
        ):
            raise ValueError("--task prompted_generation has a generator of its own, without another model or rule beside it")
        room = min([self.max_positions(), *(model.max_positions() for model in models)])  # what is longer is no part of any batch
        longest = [int(n) for data in self.datasets.values() for n in data.prompts.sizes[data.sizes <= room]]
        generator = build_generator(models, self.dictionary, args, self.generation_flags(), max(longest, default=None))
        self.check_prompt = lambda length: generator.check_room(models, length)
        return generator

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """The texts for a sample's prompts.

        A sample of `load_dataset` holds prompts and texts in one row. It is changed to prompts and texts apart, which
        ``fairseq-generate`` prints afterwards.

        Args:
            prefix_tokens: ignored but for its width, which says how many symbols of each text are given (``--prefix-size``).
        """
        if constraints is not None:
            raise ValueError("--constraints: a language model's texts cannot be constrained; leave it out")
        if "prompt_lengths" in sample:
            size = 0 if prefix_tokens is None else prefix_tokens.size(1)
            sample.update(prompts_alone(sample, self.dictionary.pad()))
            prefix_tokens = sample["target"][:, :size] if size else None
        with torch.no_grad():
            return generator.ended_alike(generator.generate(models, sample, prefix_tokens=prefix_tokens))

    def build_dataset_for_inference(self, src_tokens: List[Tensor], src_lengths: List[int], constraints=None, **unused):
        """Prompts without texts; *src_tokens* are as `get_interactive_tokens_and_lengths` gives them."""
        if constraints is not None:
            raise ValueError("--constraints: a language model's texts cannot be constrained; leave it out")
        return PromptedDataset(Rows(src_tokens, src_lengths), None, self.dictionary.pad())

    def get_interactive_tokens_and_lengths(self, lines, encode_fn):
        """Prompts as symbols, without an end.

        Raises:
            ValueError: a prompt is empty, is no UTF-8, or is longer than the model; named by its line.
        """
        first, self.lines_read = self.lines_read + 1, self.lines_read + len(lines)
        unknown = {self.dictionary.unk(), self.dictionary.pad()}
        unknown.update(map(self.dictionary.index, self.prepared.source["unused"]))
        tokens = encode_lines(lines, encode_fn, self.dictionary, self.check_prompt, unknown, first)
        return tokens, [len(symbols) for symbols in tokens]

    def build_bpe(self, args):
        """The data's format and tokenizer: no ``--bpe`` is needed.

        Raises:
            ValueError: another one is asked for.
        """
        check_bpe(args)
        return Lines(self.encoding)
