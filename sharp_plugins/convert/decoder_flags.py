"""The command line of a converted decoder: the named architecture that is closest, and flags for what differs."""

from typing import Any, Dict, List, Optional, Tuple

from sharp_plugins.convert.decoder_names import DERIVED, with_derived
from sharp_plugins.models.decoder_config import DEFAULTS
from sharp_plugins.models.decoder_sizes import SIZES


def decoder_flags(model: Dict[str, Any], family: str) -> List[str]:
    """``--arch`` with the named architecture that is closest, and flags for the settings in which *model* differs.

    Args:
        model: settings by the names of `DecoderConfig`; what is left out is as the flag's default.
        family: "gpt2", "opt" or "llama". Its own architectures go first.

    >>> decoder_flags({"decoder_layers": 24, "decoder_embed_dim": 1024, "decoder_ffn_embed_dim": 4096,
    ...     "decoder_attention_heads": 16, "max_target_positions": 512}, "gpt2")
    ['--arch', 'sharp_gpt2_medium', '--max-target-positions', '512']
    """
    arch, settings = closest(model, family)
    flags = ["--arch", arch]
    for name, value in settings.items():
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return flags


def closest(model: Dict[str, Any], family: str) -> Tuple[str, Dict[str, Any]]:
    """The named architecture of `decoder_flags`, and the settings in which *model* differs from it, as a config has them."""
    wanted = _whole(model)
    candidates = {arch: settings for arch in SIZES if (settings := _differences(arch, wanted)) is not None}
    # Of a setting that is on, the flag has no value.
    length = {arch: sum(1 if value is True else 2 for value in settings.values()) for arch, settings in candidates.items()}
    arch = min(candidates, key=lambda arch: (_family(arch) != family, length[arch]))
    return arch, candidates[arch]


def _family(arch: str) -> str:
    return next((family for family in ("gpt2", "opt") if arch.startswith(f"sharp_{family}")), "llama")


def _differences(arch: str, wanted: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """A derived value is left out where it equals what the model will derive.

    Returns:
        None where a switch that the architecture has set would have to be taken back.
    """
    usual, found = _whole(SIZES[arch]), {}
    for name, value in wanted.items():
        if value == usual[name] or (name in DERIVED and SIZES[arch].get(name) is None and value == DERIVED[name](wanted)):
            continue
        if value is False:
            return None
        found[name] = value
    return found


def _whole(settings: Dict[str, Any]) -> Dict[str, Any]:
    """All settings, the derived ones too."""
    return with_derived({**DEFAULTS, **settings})
