"""The registered optimizers. Importing this package registers ``sam`` and ``dsam`` with fairseq."""

from sharp_plugins.optim.dsam import DSAM, DSAMConfig
from sharp_plugins.optim.sam import SAM, SAMConfig

__all__ = ["SAM", "SAMConfig", "DSAM", "DSAMConfig"]
