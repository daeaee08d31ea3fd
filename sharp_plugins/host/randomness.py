"""The random generators that an update draws from, so that a pass can draw what another has drawn."""

import random
from typing import List, Optional

import numpy
import torch


def loads_beside(cfg) -> bool:
    """Whether fairseq's loading thread draws from Python's and NumPy's generators, ahead of the updates (``--num-workers 0``)."""
    return cfg.dataset.num_workers == 0 and cfg.dataset.data_buffer_size > 0


def numpy_state(cfg) -> Optional[List]:
    """The state of NumPy's generator as plain values, for a checkpoint. None where the updates are not alone in drawing from it.
    (Python's is not kept: fairseq seeds it in no run.)

    Example::

        state = numpy_state(trainer.cfg)
        first = numpy.random.random()
        restore_numpy_state(trainer.cfg, state)
        numpy.random.random() == first  # True
    """
    state = numpy.random.get_state()
    if loads_beside(cfg) or not isinstance(state, tuple):  # of another bit generator than fairseq seeds
        return None
    name, keys, *rest = state
    return [name, keys.tolist(), *rest]


def restore_numpy_state(cfg, state: List) -> None:
    """Put back what `numpy_state` has returned, perhaps in another process."""
    if not loads_beside(cfg):
        numpy.random.set_state(tuple(state))


class HostRandomState:
    """The states of Python's and NumPy's generators, which some models draw from (layer drop in wav2vec 2.0).

    With ``--num-workers 0`` fairseq's loading thread draws from them too, ahead of the updates: putting them back would
    repeat its draws, and is left out.

    Example::

        state = HostRandomState(trainer.cfg)
        first = random.random()
        state.restore()
        random.random() == first  # True
    """

    def __init__(self, cfg):
        self.states = None if loads_beside(cfg) else (random.getstate(), numpy.random.get_state())

    def restore(self) -> None:
        if self.states is not None:
            random.setstate(self.states[0])
            numpy.random.set_state(self.states[1])


class RandomState(HostRandomState):
    """These and torch's.

    Example::

        state = RandomState(trainer.cfg)
        first = torch.rand(1)
        state.restore()
        torch.rand(1) == first  # True
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    def restore(self) -> None:
        super().restore()
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
