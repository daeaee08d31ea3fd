"""Texts for training without labels: one a line."""

from typing import List

from sharp_plugins.files.text import TextError, text_lines


def read_texts(path, flag: str = "--text") -> List[str]:
    """The texts of a file, one a line; .gz is read too.

    Args:
        flag: which names the file, for the message.

    Raises:
        OSError: it cannot be opened; a FileNotFoundError where it is not there.
        ValueError: a line is empty or not UTF-8, or there is none.
    """
    texts = []
    try:
        for number, line in text_lines(path, is_free=True):
            if not line.strip():
                raise ValueError(f"{path}:{number}: the line is empty; each line is a text, so take it out")
            texts.append(line)
    except TextError as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        raise type(error)(f"{flag} {path}: cannot be read: {error.strerror}") from error
    if not texts:
        raise ValueError(f"{path}: no text in it")
    return texts
