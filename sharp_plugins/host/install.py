"""Put the plugin into fairseq: every wrapper and repair of this folder, in one place."""

from sharp_plugins.host import (
    flags,
    frozen,
    legacy_ddp,
    loading,
    logs,
    memory,
    mends,
    meters,
    nan_detector,
    patience,
    run_length,
    saving,
    smoothing,
    start_up,
    state,
    update,
)


def install() -> None:
    """Put the plugin into fairseq. Repeated calls change nothing."""
    mends.install()
    meters.install()
    nan_detector.install()
    patience.install()
    legacy_ddp.install()
    memory.install()
    smoothing.install()
    loading.install()
    saving.install()
    flags.install()
    frozen.install()
    start_up.install()
    run_length.install()
    update.install()
    logs.install()
    state.install()
