"""fairseq's ``label_smoothed_cross_entropy`` for models with symbols that have no probability.

The mean of log p over all symbols, −inf among them, would be −inf, and the gradient NaN. All other models keep fairseq's own loss.
"""

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion

from sharp_plugins.criterions.label_smoothing import label_smoothed
from sharp_plugins.host.patching import wrap


def _wrap_compute_loss(compute_loss):
    def compute_loss_of_used_symbols(self, model, net_output, sample, reduce=True):
        unused = getattr(getattr(getattr(model, "decoder", None), "settings", None), "unused", ())
        if not unused:  # with them, without smoothing too: 0 · inf is no number
            return compute_loss(self, model, net_output, sample, reduce=reduce)
        log_probs, target = self.get_lprobs_and_target(model, net_output, sample)
        losses = label_smoothed(log_probs, target, self.eps, unused, self.padding_idx)
        return tuple(loss.sum() for loss in losses) if reduce else losses

    return compute_loss_of_used_symbols


def install() -> None:
    wrap(LabelSmoothedCrossEntropyCriterion, "compute_loss", _wrap_compute_loss)
