"""What the commands ``python -m sharp_plugins.glue``, ``.lora`` and ``.convert`` have in common."""

import sys
from typing import Callable, Optional

# What a user can mend; others are defects, and are shown with their traceback.
MENDABLE = (ValueError, OSError, ImportError)


def run_command(work: Callable[[], Optional[str]]) -> int:
    """Print what *work* returns, if anything; what a user can mend is told in one line, without a traceback.

    Returns:
        the command's exit status: 0, or 1 after an error.
    """
    try:
        text = work()
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if text is not None:
        print(text)
    return 0
