"""``--ddp-backend legacy_ddp`` (no_c10d): what fails without sharing gradients does not stop them from being shared ever after."""

from contextlib import contextmanager
from typing import Iterator

from fairseq.distributed import LegacyDistributedDataParallel

from sharp_plugins.host.patching import wrap


def _wrap_no_sync(no_sync):
    @contextmanager
    def no_sync_until_it_is_left(self) -> Iterator[None]:
        """fairseq's own stays in force after an exception, such as that of a micro-batch for which there is no memory."""
        before = self.accumulate_grads
        try:
            with no_sync(self):
                yield
        finally:
            self.accumulate_grads = before

    return no_sync_until_it_is_left


def install() -> None:
    wrap(LegacyDistributedDataParallel, "no_sync", _wrap_no_sync)
