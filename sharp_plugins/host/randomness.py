"""The random generators that an update draws from, so that a pass can draw what another has drawn."""

import random

import numpy
import torch


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
        loads_beside = cfg.dataset.num_workers == 0 and cfg.dataset.data_buffer_size > 0
        self.states = None if loads_beside else (random.getstate(), numpy.random.get_state())

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
