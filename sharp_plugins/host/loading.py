"""Every file that fairseq loads is loaded without running code that it holds, whatever fairseq's and torch's defaults are.

fairseq's last version passes ``weights_only=False``, torch before 2.6 does so by default, and an environment variable can make
later ones do it. Its modules below see a torch whose ``load`` is `sharp_plugins.files.safe_load.load`, and others an ``eval`` that
knows plain values alone: a checkpoint's settings are such expressions, and fairseq would run them as Python. torch and the
builtins stay as they are for everybody else.
"""

import importlib
import os
import shutil
import tarfile
import tempfile

import torch
from fairseq.distributed import utils as distributed_utils

from sharp_plugins.files import literals, safe_load
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
    "fairseq.criterions.ctc",
    "fairseq.data.audio.raw_audio_dataset",
    "fairseq.data.codedataset",
    "fairseq.models.fconv",
    "fairseq.models.fconv_lm",
    "fairseq.models.fconv_self_att",
    "fairseq.models.hubert.hubert",
    "fairseq.models.lightconv_lm",
    "fairseq.models.multires_hubert.multires_hubert",
    "fairseq.models.speech_to_text.s2t_wav_transformer",
    "fairseq.models.transformer_lm",
    "fairseq.models.wav2vec.wav2vec",
    "fairseq.models.wav2vec.wav2vec2",
    "fairseq.optim.adafactor",
    "fairseq.optim.adam",
    "fairseq.optim.adamax",
    "fairseq.optim.cpu_adam",
    "fairseq.optim.fused_lamb",
    "fairseq.utils",
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


def _refuse_to_load(repo_or_dir, model, *args, **how):
    raise ValueError(
        f"the model's own config.yaml names {repo_or_dir}:{model} to speak with, and loading that would download code and run "
        "it; predict without synthesize_speech, load a model for text to speech that you trust, and give it the text"
    )


def load_no_code_that_a_config_names() -> None:
    """``predict(..., synthesize_speech=True)`` of a speech-to-text model hands what its config.yaml names to torch.hub.load."""
    for module in _modules(["fairseq.models.speech_to_text.hub_interface"]):
        if module.torch is torch:
            module.torch = View(torch, hub=View(torch.hub, load=_refuse_to_load))


def _open_archive(name, *args, **kwargs):
    archive = tarfile.open(name, *args, **kwargs)
    try:
        _check_archive(name, archive)
    except BaseException:
        archive.close()
        raise
    archive.extraction_filter = tarfile.data_filter
    return archive


def _check_archive(name, archive) -> None:
    """Raise ValueError where an archive would write outside of its place or fill the disk, or could not be kept from it."""
    # fairseq also moves the part that all names begin with: it must be below the directory that was extracted to.
    outside = [entry for entry in archive.getnames() if os.path.isabs(entry) or ".." in entry.split("/")]
    if outside:
        raise ValueError(f"{name}: it would write outside of its own directory, to {outside[0]}")
    for link in _links_outside(archive):
        raise ValueError(f"{name}: its link {link.name} leads outside of its own directory, to {link.linkname}")
    size = sum(member.size for member in archive.getmembers() if member.isfile())
    for directory in (tempfile.gettempdir(), os.path.dirname(os.path.abspath(name))):  # it is moved from there to here
        free = shutil.disk_usage(directory).free
        if size > free:
            raise ValueError(f"{name}: it would unpack to {size} bytes, and {free} are free in {directory}")
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(
            "this Python extracts archives wherever they say; extract it by hand and give the directory, or use Python "
            "3.10.12, 3.11.4 or a later one"
        )


def _links_outside(archive):
    """Symbolic links that lead outside of the part that fairseq moves. data_filter looks at where they are before that. Names
    tell it, as no name may go through a link, nor a link up again behind a step down."""
    top = os.path.normpath(os.path.commonprefix(archive.getnames()))  # as fairseq finds it
    links = {os.path.normpath(member.name): member for member in archive.getmembers() if member.issym()}
    for member in archive.getmembers():
        above = os.path.normpath(member.name)
        while above := os.path.dirname(above):
            if above in links:
                yield links[above]
    for place, link in links.items():
        steps = [step for step in link.linkname.split("/") if step not in ("", ".")]
        ups = steps.count("..")
        target = os.path.normpath(os.path.join(os.path.dirname(place), link.linkname))
        inside = target == top or target.startswith(f"{top}/")
        if steps[:ups] != [".."] * ups or not inside:
            yield link


def extract_archives_in_their_place() -> None:
    """``from_pretrained("model.tar.gz")`` lets an archive write to any path that it names; here to below its own directory."""
    for module in _modules(["fairseq.file_utils"]):
        if module.tarfile is tarfile:
            module.tarfile = View(tarfile, open=_open_archive)


def install() -> None:
    load_checkpoints_safely()
    let_ranks_send_what_they_have()
    evaluate_no_code()
    load_no_code_that_a_config_names()
    extract_archives_in_their_place()
