"""Run a Python script that loads checkpoints and no plugin, with torch.load replaced by the safe loader:

python -m sharp_plugins.files.safely scripts/average_checkpoints.py --inputs run --num-epoch-checkpoints 5 --output average.pt
"""

import os
import runpy
import sys

import torch

from sharp_plugins.files import safe_load


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    del sys.argv[0]
    torch.load = safe_load.torch_load
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))  # as Python does for a script
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
