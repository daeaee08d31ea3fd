"""What the processes of tests/processes.py are forked from: fairseq imported, and a command line read once. Nothing of the plugin.

hydra reads its grammar where a command line becomes a config for the first time, which takes as long as a short training.
"""

import gc
import importlib
import os

# fairseq_cli.train first: what is imported first sets the log up, and the processes of `start` train.
for name in ("fairseq_cli.train", "fairseq_cli.generate", "fairseq.data.data_utils_fast", "torch._dynamo"):
    importlib.import_module(name)

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

LINE = ["DATA", "--arch", "transformer", "--optimizer", "adam", "--lr", "0.1", "--criterion", "label_smoothed_cross_entropy"]
convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), LINE))
# Where this file is found was told by PYTHONPATH, which is not for the processes.
os.environ.pop("PYTHONPATH", None)
before = os.environ.pop("SHARP_TEST_PYTHONPATH", None)
if before is not None:
    os.environ["PYTHONPATH"] = before
# The processes' collectors need not look at what all of them keep, and so need not copy it either.
gc.collect()
gc.freeze()
