"""Sharpness-aware training for fairseq: ``fairseq-train --user-dir sharp_plugins --optimizer dsam ...``.

Importing the package registers its optimizers, criterions and models with fairseq, where there is a
fairseq. `sharp_plugins.perturbation`, `guardedness`, `balancedness`, `pairs` and `lora` need torch and NumPy alone.
"""

import importlib.util

__version__ = "0.1.0"

if importlib.util.find_spec("fairseq") is not None:
    from sharp_plugins import criterions  # noqa: F401  dsam_* criterions
    from sharp_plugins.convert import bpe as _bpe  # noqa: F401  --bpe sharp_tokenizer
    from sharp_plugins import optim  # noqa: F401  sam, dsam, bar
    from sharp_plugins.models import adapter as _adapter, bert as _bert, lora as _lora  # noqa: F401  --arch adapter, sharp_bert, lora
    from sharp_plugins import host

    host.install()
