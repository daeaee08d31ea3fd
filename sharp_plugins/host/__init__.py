"""The only code that reaches into fairseq's insides.

    mends.py         repairs of fairseq on today's torch and NumPy, each with its reason
    loading.py       no file that fairseq loads runs code
    saving.py        checkpoints are whole under each of their names
    flags.py         the base optimizer's own flags on the command line
    refusals.py      what cannot be combined with the plugin's optimizers, refused by name at start-up
    effective.py     a part that would be built and then ignored is refused too
    frozen.py        nothing else in a run changes the weights that LoRA and adapters leave as they are
    passes.py        extra passes over an update's samples, as fairseq would make them
    random_state.py  the generators that a pass draws from
    trainer.py       the wrapper around Trainer.train_step in which they are made
"""

from sharp_plugins.host import flags, loading, mends, saving, trainer


def install() -> None:
    """Put the plugin into fairseq. Repeated calls change nothing."""
    mends.install()
    loading.install()
    saving.install()
    flags.install()
    trainer.install()
