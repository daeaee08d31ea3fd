"""The criterions. Importing this package registers the regularized ones with fairseq."""

from sharp_plugins.criterions import freelb, r3f, rdrop, smart
from sharp_plugins.criterions.instances import check_criterion, sentence_losses_of, supported_criterions

__all__ = ["check_criterion", "freelb", "r3f", "rdrop", "sentence_losses_of", "smart", "supported_criterions"]
