"""What the commands ``python -m sharp_plugins.glue``, ``.lora`` and ``.convert`` have in common."""

import sys
from typing import Callable

# What a user can mend; others are defects, and are shown with their traceback.
MENDABLE = (ValueError, OSError, ImportError)


def run_command(work: Callable[[], str]) -> int:
    """Print what *work* returns; what a user can mend is told in one line, without a traceback.

    Returns:
        the command's exit status: 0, or 1 after an error.
    """
    try:
        print(work())
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
