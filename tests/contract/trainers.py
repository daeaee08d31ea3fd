"""fairseq trainers of the methods, in this process."""

import contextlib
import functools
import pickle
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import pytest
import sentences
import texts
import torch
import toy
import yaml
from every_method import PRECISIONS, Method
from fairseq.modules import MultiheadAttention
from fairseq.tasks import FairseqTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from omegaconf import ListConfig
from torch import nn

import sharp_plugins


class World(NamedTuple):
    """Three data sets of a few sentences, and a directory for files."""

    translation: Path
    sentences: Path
    texts: Path
    directory: Path


SCALE = 4  # of the loss, to begin with
LR = 0.01
ADAM = "adam --weight-decay 0.01"
# torch 2.3 and later have one for a CPU.
HAS_A_SCALER = toy.DEVICE == "cuda" or hasattr(torch.amp, "GradScaler")


@functools.lru_cache(maxsize=None)
def _parsed(world, optimizer: str, base: str, arch: str, criterion: str, decoder: bool):
    """The config of a command line, pickled: a copy of omegaconf's own shares the namespaces that are in it. Parsing a line takes
    ten times as long as building a trainer."""
    optimizer = f"{optimizer} --base-optimizer {base}" if optimizer else base
    line = f"--optimizer {optimizer} --lr {LR} --clip-norm 1 --num-workers 1 {arch}".split()
    if decoder:
        cfg = texts.config(world.texts, *line, model=[], criterion=toy.CRITERION)
        cfg.model.unused_symbols = texts.UNUSED
        return pickle.dumps(cfg)
    if not criterion:
        return pickle.dumps(toy.config(world.translation, *line, **({"model": []} if arch else {})))
    model, criterion = [*sentences.MODEL, "--num-classes", str(sentences.CLASSES)], ["--criterion", criterion]
    return pickle.dumps(
        toy.config(world.sentences / "classes", *line, model=model, criterion=criterion, task="sentence_prediction")
    )


def _set(cfg, flags: str) -> None:
    """What *flags* would have set, had they been parsed too; wherever a setting of that name is."""
    for part in f" {flags}".split(" --")[1:]:
        flag, *values = part.split()
        key, value = flag.replace("-", "_"), yaml.safe_load(" ".join(values)) if values else True
        groups = [group for group in cfg.values() if key in (vars(group) if isinstance(group, Namespace) else group or ())]
        assert groups, f"no config has --{flag}"
        for group in groups:
            is_list = isinstance(getattr(group, key), (list, ListConfig))
            setattr(group, key, [yaml.safe_load(one) for one in values[0].split(",")] if is_list else value)


def config(world, method: Method, precision: str, base: str, flags: str):
    """A config of the caller's own."""
    optimizer, own = method.flags.partition(" ")[::2]
    criterion, own_criterion = (method.criterion.flags if method.criterion else "").partition(" ")[::2]
    cfg = pickle.loads(_parsed(world, optimizer, base, method.arch, criterion, method.decoder))
    cfg.common.update({**PRECISIONS[precision], "fp16_init_scale": SCALE})
    cfg.checkpoint.save_dir = str(world.directory)
    for settings in (own, own_criterion, flags):
        _set(cfg, f" {settings}")
    return cfg


def _declare(init):
    """Attentions whose queries and keys are pairs, for BAR."""

    def init_and_declare(self, *args, **kwargs):
        init(self, *args, **kwargs)
        sharp_plugins.declare_pair(self, ["q_proj.weight", "q_proj.bias"], ["k_proj.weight", "k_proj.bias"])

    return init_and_declare


def _with_statistics(build_model):
    """Models with a batch norm after the encoder, or after a decoder's last layer."""

    def build(*args, **kwargs):
        model = build_model(*args, **kwargs)
        if not hasattr(model, "encoder"):
            model.decoder.norm = nn.BatchNorm1d(16)
            last = model.decoder.layers[-1]
            last.register_forward_hook(lambda _, inputs, x: model.decoder.norm(x.reshape(-1, 16)).view(x.shape))
            return model
        model.encoder.norm = nn.BatchNorm1d(16)

        def normalise(encoder, inputs, output):
            return {**output, "encoder_out": [encoder.norm(x.reshape(-1, 16)).view(x.shape) for x in output["encoder_out"]]}

        model.encoder.register_forward_hook(normalise)
        return model

    return build


@torch.no_grad()
def _unbalance(model) -> None:
    """Make one side of the pairs the larger in every other layer, so that BAR's both decisions occur."""
    for index, layer in enumerate(m for m in model.modules() if hasattr(m, "lora_B")):
        layer.lora_B.copy_(torch.randn(layer.lora_B.shape) * (0.05, 0.4)[index % 2])
    for index, attention in enumerate(m for m in model.modules() if hasattr(m, "q_proj") and not hasattr(m.q_proj, "lora_B")):
        (attention.q_proj if index % 2 else attention.k_proj).weight.mul_(2)
        if getattr(getattr(model, "decoder", None), "prefix", None) is not None:  # which hardly matters to a new model
            attention.v_proj.weight.mul_(8)
            attention.out_proj.weight.mul_(8)


@contextlib.contextmanager
def one_device(method: Method, statistics: bool):
    """fairseq as it makes trainers of *method* here, and loads their checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        if not method.lora and method.criterion is None:
            patch.setattr(MultiheadAttention, "__init__", _declare(MultiheadAttention.__init__))
        if toy.DEVICE == "cpu" and HAS_A_SCALER:
            # On a CPU fairseq's own scaler is off, and no update would ever be skipped.
            patch.setattr(torch.cuda.amp, "GradScaler", functools.partial(torch.amp.GradScaler, "cpu"))
        if statistics and method.criterion is None:
            for task in (FairseqTask, LanguageModelingTask):  # the latter has its own
                patch.setattr(task, "build_model", _with_statistics(task.build_model))
        yield


def build(world, method: Method, precision="fp32", *, base=ADAM, flags="", statistics=True, begun=True, load=None):
    """A trainer of *method* around *base*, with a batch norm in its model unless *statistics* is False.

    It is returned after a first update, so that the optimizer has a state to lose; before it, where *begun* is False; or as it
    goes on from the checkpoint *load*.
    """
    toy.skip_without_fp16(["--fp16"] if "fp16" in precision else [])
    cfg = config(world, method, precision, base, flags)
    with one_device(method, statistics):
        trainer = toy.trainer_from(cfg)
        _unbalance(trainer.get_model())
        if load is not None:
            trainer.load_checkpoint(str(load))
        elif begun:
            trainer.train_step(toy.batches(trainer, [4, 4]))
            assert trainer.get_num_updates() == 1
        if "fp16" in precision:
            assert trainer.optimizer.has_flat_params == (precision == "fp16")
    return trainer


_shared = {}


@contextlib.contextmanager
def shared(world, method: Method, precision):
    """A trainer for those who leave no trace in it; one that fails is forgotten."""
    key = world, method, precision
    if key not in _shared:
        _shared[key] = build(world, method, precision)
    try:
        yield _shared[key]
    except BaseException:
        _shared.pop(key, None)
        raise


def forget(world, method: Method, precision) -> None:
    _shared.pop((world, method, precision), None)


def method_of(trainer):
    """The optimizer that ``--optimizer`` names, without fairseq's mixed-precision wrapper around it."""
    optimizer = trainer.optimizer
    for attribute in ("fp32_optimizer", "wrapped_optimizer"):
        optimizer = getattr(optimizer, attribute, optimizer)
    return optimizer
