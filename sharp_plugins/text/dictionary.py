"""fairseq's dictionaries from elsewhere."""

from pathlib import Path

from fairseq.data import Dictionary

from sharp_plugins.files.unreadable import what_it_is


def read_dictionary(path: Path) -> Dictionary:
    """fairseq's dictionary of a ``dict.txt``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it cannot be read.
    """
    other = what_it_is(path, is_text=True)
    if other:
        raise ValueError(f"{path}: cannot be read: {other}")
    try:
        return Dictionary.load(str(path))
    except OSError:
        raise
    except Exception as error:  # fairseq raises RuntimeErrors and bare ones too
        raise ValueError(f"{path}: cannot be read: {error}") from error
