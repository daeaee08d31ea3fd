"""Put the plugin into fairseq: every wrapper and repair of this folder, in one place."""

from sharp_plugins.host import flags, frozen, loading, mends, saving, trainer


def install() -> None:
    """Put the plugin into fairseq. Repeated calls change nothing."""
    mends.install()
    loading.install()
    saving.install()
    flags.install()
    frozen.install()
    trainer.install()
