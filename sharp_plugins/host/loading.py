"""Every file that fairseq loads is loaded without running code that it holds, whatever fairseq's and torch's defaults are.

fairseq's last version passes ``weights_only=False``, torch before 2.6 does so by default, and an environment variable can make
later ones do it. Its modules below see a torch whose ``load`` is `sharp_plugins.safe_load.load`, and others an ``eval`` that
knows plain values alone: a checkpoint's settings are such expressions, and fairseq would run them as Python. torch and the
builtins stay as they are for everybody else.
"""

import importlib
import os
import tarfile

import torch
from fairseq.distributed import utils as distributed_utils

from sharp_plugins import literals, safe_load
from sharp_plugins.host.patching import View

# Modules of fairseq that read files with torch.load.
TORCH_LOAD = (
    "fairseq.checkpoint_utils",
    "fairseq.data.codedataset",
    "fairseq.models.speech_to_text.xm_transformer",
    "fairseq.models.text_to_speech.vocoder",
    "fairseq.modules.quantization.pq.em",
)
# Modules that evaluate settings, among them those of checkpoints, or lines of files.
EVAL = (
    "fairseq.criterions.ctc", "fairseq.data.audio.raw_audio_dataset", "fairseq.data.codedataset",
    "fairseq.models.fconv", "fairseq.models.fconv_lm", "fairseq.models.fconv_self_att", "fairseq.models.hubert.hubert",
    "fairseq.models.lightconv_lm", "fairseq.models.multires_hubert.multires_hubert",
    "fairseq.models.speech_to_text.s2t_wav_transformer", "fairseq.models.transformer_lm", "fairseq.models.wav2vec.wav2vec",
    "fairseq.models.wav2vec.wav2vec2", "fairseq.optim.adafactor", "fairseq.optim.adam", "fairseq.optim.adamax",
    "fairseq.optim.cpu_adam", "fairseq.optim.fused_lamb", "fairseq.utils",
)


def _modules(names):
    """Those of the modules that this fairseq has, and that can be imported."""
    for name in names:
        try:
            yield importlib.import_module(name)
        except ImportError:  # what cannot be imported can do no harm
            continue


def load_checkpoints_safely() -> None:
    """Give fairseq's modules that load files a torch which does so safely."""
    for module in _modules(TORCH_LOAD):
        if module.torch is torch:
            module.torch = View(torch, load=safe_load.torch_load)


def _load_from_rank(f, **how):
    how.pop("weights_only", None)
    return torch.serialization.load(f, weights_only=False, **how)


def let_ranks_send_what_they_have() -> None:
    """On several ranks one reads the checkpoint, safely, and sends it to the others as a pickle with fairseq's and omegaconf's
    objects. torch from 2.6 on refuses these: no run on several ranks could go on. It is no file: what comes is the run's own,
    as all that fairseq's ranks send each other with pickle."""
    if distributed_utils.torch is torch:
        distributed_utils.torch = View(torch, load=_load_from_rank)


def evaluate_no_code() -> None:
    """Give fairseq's modules that evaluate settings an eval of plain values."""
    for module in _modules(EVAL):
        module.eval = literals.evaluate


def _open_archive(name, *args, **kwargs):
    archive = tarfile.open(name, *args, **kwargs)
    # fairseq also moves the part that all names begin with: it must be below the directory that was extracted to.
    outside = [entry for entry in archive.getnames() if os.path.isabs(entry) or ".." in entry.split("/")]
    if outside:
        raise ValueError(f"{name}: it would write outside of its own directory, to {outside[0]}")
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(
            "this Python extracts archives wherever they say; extract it by hand and give the directory, or use Python "
            "3.10.12, 3.11.4 or a later one"
        )
    archive.extraction_filter = tarfile.data_filter
    return archive


def extract_archives_in_their_place() -> None:
    """``from_pretrained("model.tar.gz")`` lets an archive write to any path that it names; here to below its own directory."""
    for module in _modules(["fairseq.file_utils"]):
        if module.tarfile is tarfile:
            module.tarfile = View(tarfile, open=_open_archive)


def install() -> None:
    load_checkpoints_safely()
    let_ranks_send_what_they_have()
    evaluate_no_code()
    extract_archives_in_their_place()
