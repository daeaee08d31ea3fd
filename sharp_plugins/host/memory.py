"""A worker without memory, where the others' losses need its batch."""

from fairseq.trainer import Trainer

from sharp_plugins.host.patching import wrap


def install() -> None:
    """End such a run. fairseq's worker that runs out of memory goes on without its batch, and meets the others where gradients are
    added. A criterion may gather something of all workers before (its ``couples_workers``): there they would wait for ever."""

    def make(log_oom):
        def log_and_end(self, error):
            log_oom(self, error)
            flag = getattr(self.get_criterion(), "couples_workers", None)
            if flag and self.get_model().training and self.data_parallel_world_size > 1:
                raise RuntimeError(
                    "a worker has no memory left for its batch, which the loss of the other workers needs: take a smaller "
                    f"--batch-size, what the criterion offers to save memory (such as --encode-rows), or {flag}"
                ) from error

        return log_and_end

    wrap(Trainer, "_log_oom", make)
