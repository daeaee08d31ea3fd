"""Fine-tune an encoder on GLUE with several methods and seeds, and compare.

    python examples/glue/run.py --backbone DIR --data DIR --tasks RTE CoLA --methods base sam dsam --seeds 1 2 3

README.md beside this file says what it makes; the work is done by `sharp_plugins.glue.runs`.
"""

import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]
logging.basicConfig(level=logging.ERROR)  # before fairseq, which logs while it is imported

from sharp_plugins.glue.runs import main

if __name__ == "__main__":
    sys.exit(main(configs=HERE / "configs"))
