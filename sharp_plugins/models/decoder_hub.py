"""What ``DecoderModel.from_pretrained`` returns: a decoder with its task, from text to text."""

from fairseq.hub_utils import GeneratorHubInterface
from torch import Tensor


class DecoderHub(GeneratorHubInterface):
    """fairseq's interface, with the task's way from text to symbols: fairseq itself asks ``--bpe`` alone, and puts an end behind
    every prompt.

    Example, with data of ``--task prompted_generation`` and a run on them::

        hub = DecoderModel.from_pretrained("RUN", "checkpoint_best.pt", "DATA", user_dir="sharp_plugins")
        hub.sample(["Ann : livesIn : Bonn"], beam=5, max_len_b=60)  # ["Ann lives in Bonn."]
    """

    def __init__(self, cfg, task, models):
        super().__init__(cfg, task, models)
        self.bpe = task.build_bpe(cfg.bpe)

    def encode(self, sentence: str) -> Tensor:
        """The symbols (T,), int64, of a raw text: of ``--task prompted_generation`` the prompt in the data's format."""
        [tokens], _ = self.task.get_interactive_tokens_and_lengths([sentence], lambda line: self.apply_bpe(self.tokenize(line)))
        return tokens
