"""What fairseq has measured, in its checkpoints: plain numbers and tensors, which torch's safe loader reads.

fairseq's metrics from scipy and scikit-learn (``--best-checkpoint-metric pearson``, ``f1``) are NumPy numbers, and the counts of
``--eval-bleu`` are NumPy arrays. It saves them as they are, and the loader refuses them: a run that stopped cannot be resumed. Here
an array is saved as a tensor, and is an array again when it is loaded.
"""

import numpy
import torch
from fairseq.logging.meters import MetersDict

from sharp_plugins.host.patching import wrap

# In a meter's state: which of its values were arrays. fairseq without the plugin does not look at it, and can add to the tensors.
ARRAYS = "sharp_plugins_arrays"


def _plain(value):
    return value.item() if isinstance(value, numpy.generic) else value


def _is_array(value) -> bool:
    return isinstance(value, numpy.ndarray) and value.dtype.kind in "bifc"  # of other kinds torch has no tensors


def _with_tensors(state: dict) -> dict:
    arrays = [name for name, value in state.items() if _is_array(value)]
    if not arrays:
        return {name: _plain(value) for name, value in state.items()}
    tensors = {name: torch.from_numpy(state[name].copy()) for name in arrays}
    return {**{name: _plain(value) for name, value in state.items()}, **tensors, ARRAYS: arrays}


def _with_arrays(state: dict) -> dict:
    return {**state, **{name: state[name].numpy() for name in state.get(ARRAYS, ())}}


def _wrap_get_smoothed_value(get_smoothed_value):
    def get_plain_value(self, key):  # which becomes the checkpoint's val_loss and best
        return _plain(get_smoothed_value(self, key))

    return get_plain_value


def _wrap_state_dict(state_dict):
    def state_dict_with_tensors(self):
        return [(*which, _with_tensors(state)) for *which, state in state_dict(self)]

    return state_dict_with_tensors


def _wrap_load_state_dict(load_state_dict):
    def load_state_dict_with_arrays(self, state_dict):
        load_state_dict(self, [(*which, _with_arrays(state)) for *which, state in state_dict])

    return load_state_dict_with_arrays


def install() -> None:
    wrap(MetersDict, "get_smoothed_value", _wrap_get_smoothed_value)
    wrap(MetersDict, "state_dict", _wrap_state_dict)
    wrap(MetersDict, "load_state_dict", _wrap_load_state_dict)
