"""The registered optimizers. Importing this package registers ``sam``, ``dsam`` and ``bar`` with fairseq."""

from sharp_plugins.optim.bar import BAR, BARConfig
from sharp_plugins.optim.dsam import DSAM, DSAMConfig
from sharp_plugins.optim.sam import SAM, SAMConfig

__all__ = ["BAR", "BARConfig", "SAM", "SAMConfig", "DSAM", "DSAMConfig"]
