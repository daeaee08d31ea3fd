"""``--arch sharp_gpt2``, ``sharp_opt_1_3b``, ``sharp_smollm2_135m``, ...: published decoders as fairseq language models.

The network is `sharp_plugins.networks.decoder.Decoder`, the shapes are in decoder_sizes.py, the flags in decoder_config.py.
``python -m sharp_plugins.convert`` makes checkpoints of it.
"""

from contextlib import nullcontext
from typing import Dict, Optional

from fairseq import hub_utils
from fairseq.models import FairseqIncrementalDecoder, FairseqLanguageModel, register_model
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.utils import safe_getattr
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from sharp_plugins.models import fairseq_lm
from sharp_plugins.models.decoder_config import DecoderConfig, settings_of
from sharp_plugins.models.decoder_hub import DecoderHub
from sharp_plugins.models.decoder_sizes import register_sizes
from sharp_plugins.models.tied import check_tied
from sharp_plugins.networks.decoder import Attends, Decoder
from sharp_plugins.networks.kv_cache import KVCache

STATE = "sharp_decoder"  # where a decoder's cache is in fairseq's incremental state


class TextDecoder(Decoder, FairseqIncrementalDecoder):
    """`Decoder` as fairseq calls its decoders.

    Example::

        >>> import torch
        >>> from fairseq.data import Dictionary
        >>> config = DecoderConfig(decoder_layers=1, decoder_embed_dim=24, max_target_positions=8)
        >>> decoder = TextDecoder(config, Dictionary())  # of the four special symbols alone
        >>> scores, _ = decoder(torch.tensor([[0, 3]]))
        >>> scores.shape
        torch.Size([1, 2, 4])
    """

    def __init__(self, args, dictionary):
        super().__init__(settings_of(args, dictionary), dictionary)
        if safe_getattr(args, "checkpoint_activations", False) or safe_getattr(args, "offload_activations", False):
            offload = safe_getattr(args, "offload_activations", False)
            for layer in self.layers:
                checkpoint_wrapper(layer, offload_to_cpu=offload)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out=None,
        incremental_state: Optional[Dict] = None,
        features_only: bool = False,
        src_lengths: Optional[Tensor] = None,
        cache: Optional[Attends] = None,
        token_embeddings: Optional[Tensor] = None,
        scored: Optional[Tensor] = None,
        **unused,
    ):
        """Scores (B, T, symbols), or features (B, T, width) for *features_only*, and a dict.

        Args:
            incremental_state: fairseq's, for this decoder alone. It holds what was read before, and of *prev_output_tokens* only
                what follows is read; T counts that.
            cache: what stands before these tokens, where there is no *incremental_state*.
            token_embeddings: (B, T, width of the table of words) in the place of those of *prev_output_tokens*.
            scored: (B, C), int64, the positions of each row whose scores are wanted, which then are (B, C, symbols).
        """
        if incremental_state is not None:
            cache = incremental_state.get(STATE)
            if cache is None:
                cache = incremental_state[STATE] = self.new_cache(prev_output_tokens.size(0))
            prev_output_tokens = prev_output_tokens[:, cache.read :]
        x = self.features(prev_output_tokens, cache, token_embeddings)
        if scored is not None:
            x = x.gather(1, scored.unsqueeze(-1).expand(-1, -1, x.size(-1)))
        return (x if features_only else self.output_layer(x)), {"attn": None}

    def extract_features(self, prev_output_tokens: Tensor, **inputs):
        """The last layer's output (B, T, width), and a dict."""
        return self.forward(prev_output_tokens, features_only=True, **inputs)

    def new_cache(self, rows: int) -> KVCache:
        """The cache of *rows* that have not begun. A model with a trained prefix has it in here."""
        pairs = [] if self.prefix is None else self.prefix.keys_and_values()
        return KVCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in pairs])

    def reorder_incremental_state(self, incremental_state: Dict, new_order: Tensor) -> None:
        """Let row i go on from what was row ``new_order[i]``, as fairseq's beam search asks for."""
        if STATE in incremental_state:
            incremental_state[STATE].reorder(new_order)

    def upgrade_state_dict_named(self, state_dict, name):
        """Take a checkpoint of fairseq's ``transformer_lm`` too, see fairseq_lm.py.

        Raises:
            ValueError: the checkpoint is of a model that computes something else.
        """
        prefix = f"{name}." if name else ""
        fairseq_lm.upgrade(state_dict, prefix, self.settings)
        if self.settings.tied:
            check_tied(state_dict, f"{prefix}embed_tokens.weight", f"{prefix}output_projection.weight", "--untied-output")
        return state_dict

    def max_positions(self) -> int:
        return self.settings.max_positions - (0 if self.prefix is None else self.prefix.length)


@register_model("sharp_decoder", dataclass=DecoderConfig)
class DecoderModel(FairseqLanguageModel):
    """A published decoder for fairseq's language-model tasks.

    Example, with what ``python -m sharp_plugins.convert DIRECTORY OUT`` wrote::

        hub = DecoderModel.from_pretrained("OUT", checkpoint_file="model.pt", user_dir="sharp_plugins")
        scores, _ = hub.models[0](tokens)  # (B, T, symbols)
    """

    @classmethod
    def hub_models(cls):
        return {}

    @classmethod
    def from_pretrained(cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", **kwargs) -> DecoderHub:
        """The models of a directory with their task; arguments as in fairseq."""
        found = hub_utils.from_pretrained(
            model_name_or_path, checkpoint_file, data_name_or_path, archive_map=cls.hub_models(), **kwargs
        )
        return DecoderHub(found["args"], found["task"], found["models"])

    def prepare_for_inference_(self, cfg):
        """Called by fairseq's programs before they generate: they halve the weights for ``--fp16``, and this for ``--bf16``."""
        super().prepare_for_inference_(cfg)
        if cfg.common.bf16:
            self.bfloat16()

    @classmethod
    def build_model(cls, args, task):
        """The model.

        Raises:
            ValueError: a flag is out of range, or two contradict each other.
        """
        if len(task.source_dictionary) != len(task.target_dictionary):
            raise ValueError("--output-dictionary-size: this model reads and writes the same symbols; leave it out")
        with open_dict(args) if OmegaConf.is_config(args) else nullcontext():
            if safe_getattr(args, "max_target_positions") is None:
                args.max_target_positions = safe_getattr(args, "tokens_per_sample") or task.max_positions()
        return cls(TextDecoder(args, task.target_dictionary))


register_sizes()
