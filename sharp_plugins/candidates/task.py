"""``--task candidates``: a language model learns which of several candidates follows a prompt.

The data are those of ``python -m sharp_plugins.candidates prepare``, and the criterion is ``candidates``. What a model is built
from and checked against is as for ``--task prompted_generation``, whose class this one goes on from.
"""

from typing import Any, Dict, Optional

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.tasks import register_task

from sharp_plugins.candidates import criterion  # noqa: F401  registers it
from sharp_plugins.candidates.config import CandidatesConfig
from sharp_plugins.candidates.dataset import CandidatesDataset
from sharp_plugins.candidates.prepared import COMMAND, load_parts, read_candidates
from sharp_plugins.models.run_settings import setting
from sharp_plugins.prompted.task import PromptedGeneration


@register_task("candidates", dataclass=CandidatesConfig)
class Candidates(PromptedGeneration):
    """The choice of a candidate, by a `FairseqLanguageModel`.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: they are no data of this task, are of another model, or a flag does not fit.

    Example, with data that are prepared::

        task = Candidates.setup_task(CandidatesConfig(data="DATA"))
        task.load_dataset("valid")
        sample = task.dataset("valid").collater([task.dataset("valid")[0]])
        sample["candidates"], sample["answers"]
    """

    read_data = staticmethod(read_candidates)
    has_candidates = True

    def __init__(self, cfg):
        if not cfg.data:
            raise ValueError(f"--task candidates needs data: the directory that `{COMMAND}` wrote")
        super().__init__(cfg)

    def load_dataset(self, split: str, **unused) -> CandidatesDataset:
        """Load a split.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: a sequence is too long, but of the training data, where it is left out.
        """
        parts = load_parts(self.prepared, split, self.dictionary)
        is_train = split == setting(self.cfg, "train_subset", "train")
        if not is_train:
            self.check_lengths(split)
        self.datasets[split] = CandidatesDataset(*parts, self.dictionary.pad(), self.only_scored, is_train)
        return self.datasets[split]

    def build_criterion(self, cfg, from_checkpoint=False):
        """The criterion.

        Raises:
            ValueError: it is for other tasks.
        """
        name = getattr(cfg, "_name", None) or getattr(cfg, "criterion", None)
        module = getattr(CRITERION_REGISTRY.get(name), "__module__", "")
        if module.startswith(("fairseq.", "sharp_plugins.")) and name != "candidates":
            raise ValueError(
                f"--criterion {name}: it is for other tasks than candidates, whose criterion is --criterion candidates"
            )
        return super(PromptedGeneration, self).build_criterion(cfg, from_checkpoint)

    def check_vocabulary(self, saved: Optional[Dict[str, Any]], where) -> None:
        """A checkpoint may have been trained on texts after prompts, whose format is another."""
        super().check_vocabulary({**saved, "format": self.prepared.format} if saved else saved, where)

    # ------------------------------------------------------------------ what prompted_generation has, and this task has not

    def build_generator(self, *args, **kwargs):
        raise ValueError(
            "--task candidates writes no texts: `python -m sharp_plugins.candidates evaluate` chooses among candidates, and --task "
            "prompted_generation writes"
        )

    def build_dataset_for_inference(self, src_tokens, src_lengths, **kwargs):
        return self.build_generator()
