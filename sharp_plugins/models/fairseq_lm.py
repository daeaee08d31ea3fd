"""Checkpoints of fairseq's own ``transformer_lm`` for `sharp_plugins.models.decoder`, where the two compute the same.

They do with learned positions, layer norms, biases and ``--no-scale-embedding``: GPT-2's and OPT's choices. The flags of the
architecture (sizes, ``--activation-fn``, ``--untied-output``, ``--decoder-post-norm``) are the user's to repeat.
"""

import logging
import re
from typing import Any, Dict

from sharp_plugins.networks.decoder_settings import DecoderSettings

logger = logging.getLogger(__name__)

# What the first text in a parameter's name says about the checkpoint.
NOT_HERE = {
    "layernorm_embedding.": "a normalisation of the embeddings (--layernorm-embedding)",
    "adaptive_softmax.": "an adaptive softmax (--adaptive-softmax-cutoff)",
    "quant_noise.": "quantization (--quant-noise-pq)",
    ".encoder_attn.": "attention to an encoder",
    ".attn_ln.": "a normalisation of the heads (--scale-attn)",
    ".ffn_layernorm.": "a normalisation in the feed-forward parts (--scale-fc)",
    ".w_resid": "scaled residuals (--scale-resids)",
    ".c_attn": "scaled heads (--scale-heads)",
}
RENAMED = {"project_in_dim.": "project_in.", "project_out_dim.": "project_out."}


def upgrade(state: Dict[str, Any], prefix: str, settings: DecoderSettings) -> None:
    """Change *state* in place, if it is of ``transformer_lm``, to what a decoder of *settings* loads.

    Args:
        prefix: of the decoder's names in *state*, "decoder." in fairseq's checkpoints.

    Raises:
        ValueError: the checkpoint's model, or the one of *settings*, has a part that the other has not.
    """
    version = state.pop(f"{prefix}version", None)
    if version is None:  # each of fairseq's transformer decoders has one
        return
    where, go_on = "this checkpoint is of fairseq's transformer_lm", "train on with --arch transformer_lm"
    for name in state:
        for part, what in NOT_HERE.items():
            if name.startswith(prefix) and part in name:
                raise ValueError(f"{where}, and has {what}, which sharp_decoder has not: {go_on}")
    if float(version.reshape(-1)[0]) <= 2:
        raise ValueError(f"{where} before fairseq 0.6, without a last normalisation: {go_on}")
    for needed, is_so in {
        "--decoder-positions learned": settings.positions == "learned",
        "--decoder-norm layer": settings.norm == "layer",
        "no --decoder-gated-ffn": not settings.gated,
        "no --no-attention-bias": settings.attention_bias,
        "no --no-ffn-bias": settings.ffn_bias,
    }.items():
        if not is_so:
            raise ValueError(f"{where}, which needs {needed}")
    table = f"{prefix}embed_positions.weight"
    if table not in state:
        raise ValueError(f"{where}, and has no table of positions (trained without --decoder-learned-pos): {go_on}")
    has_norm, wants_norm = f"{prefix}layer_norm.weight" in state, settings.pre_norm and settings.final_norm
    if wants_norm and not has_norm:
        raise ValueError(
            f"{where}, and has no normalisation after the last layer: it needs --decoder-post-norm if it was trained without "
            "--decoder-normalize-before, else --no-decoder-final-norm"
        )
    if has_norm and not wants_norm:
        raise ValueError(
            f"{where}, and has a normalisation after the last layer: it needs no "
            f"{'--no-decoder-final-norm' if settings.pre_norm else '--decoder-post-norm'}"
        )
    state[table] = state[table][2:]  # fairseq's first position has the row after padding's
    for name in [name for name in state if name.startswith(prefix)]:
        new = name
        for old, by in RENAMED.items():
            new = new.replace(old, by)
        new = re.sub(r"embed_out$", "output_projection.weight", new)
        state[new] = state.pop(name)
    state.setdefault(f"{prefix}output_projection.weight", state[f"{prefix}embed_tokens.weight"])
    logger.warning(
        f"{where}. Its weights do not say all about it. It must have been trained with --no-scale-embedding, --activation-fn "
        f"{settings.activation} and {'' if settings.pre_norm else 'without '}--decoder-normalize-before"
    )
