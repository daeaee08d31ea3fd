"""Text files from elsewhere, all opened in one way; errors name the file and the line.

UTF-8, with or without a byte-order mark, gzip-compressed where the name ends in .gz. Only a line feed ends a line (texts hold other
separators), and the carriage return before it, as Windows writes it, goes. Numbers are read in one way too.
"""

import codecs
import gzip
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence, Tuple

from sharp_plugins.files.unreadable import what_it_is

BOM = b"\xef\xbb\xbf"
POINTERS = (b"version https://git-lfs", b"/annex/objects/")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# Bytes of a line; more are no line of text, and a compressed file can unpack to any number of them.
LONGEST = 1 << 24
# Bytes that a compressed file may unpack to, and how many times its own size: more of both is no text, which gzip makes 3 to 30
# times smaller.
UNPACKED, TIMES = 1 << 32, 200
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class TextError(ValueError):
    """A text cannot be read; the message says where and why."""


def byte_lines(path, is_free: bool = False, longest: int = LONGEST) -> Iterator[Tuple[int, bytes]]:
    """(number from 1, line with its end) of each line, for `decode`.

    Args:
        is_free: whether it may be any text, a page of HTML too.
        longest: bytes that a line may have.

    Raises:
        OSError: the file cannot be opened.
        TextError: it is compressed and damaged or unpacks to far too much, no text, or a line has more than *longest* bytes.
    """
    path = Path(path)
    is_packed = path.suffix == ".gz"
    other = None if is_packed or not path.stat().st_size else _other(path, is_free)
    if other:
        raise TextError(f"{path}: cannot be read: {other}")
    number, unpacked, most = 0, 0, max(UNPACKED, TIMES * path.stat().st_size) if is_packed else math.inf
    with gzip.open(path, "rb") if is_packed else open(path, "rb") as file:
        try:
            while line := file.readline(longest + 1):
                number, unpacked = number + 1, unpacked + len(line)
                if len(line) > longest:
                    raise TextError(f"{path}:{number}: the line has more than {longest} bytes; it is no text by lines")
                if unpacked > most:
                    size = path.stat().st_size
                    raise TextError(f"{path}:{number}: it unpacks from {size} to more than {most} bytes; unpack it yourself")
                if number == 1 and line.startswith(UTF16):
                    raise TextError(f"{path}:1: it is UTF-16; save it as UTF-8")
                yield number, line.removeprefix(BOM) if number == 1 else line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TextError(f"{path}:{number + 1}: cut off or damaged: {error}") from error


def _other(path: Path, is_free: bool) -> Optional[str]:
    """What a file is instead of a text, by its first bytes; free text may begin like any other file."""
    words = what_it_is(path, is_text=True)
    if words is None or not is_free:
        return words
    with open(path, "rb") as file:
        beginning = file.read(512)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)  # its last character may be cut in two
    except UnicodeDecodeError:
        return words
    return words if beginning.startswith(POINTERS) or not beginning.strip(b"\0") else None


def decode(line: bytes, where: str) -> str:
    """A line of `byte_lines` as text, without its end.

    Args:
        where: file and line, which the error begins with.

    Raises:
        TextError: it is not UTF-8.
    """
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{where}: not UTF-8: {error.reason} at byte {error.start} of the line") from None


def text_lines(path, is_free: bool = False) -> Iterator[Tuple[int, str]]:
    """(number from 1, text without its end) of each line.

    Args:
        is_free: as for `byte_lines`.

    Raises:
        OSError: the file cannot be opened.
        TextError: as `byte_lines`, or a line is not UTF-8.

    Example::

        for number, line in text_lines("train.tsv"):
            print(number, line)
    """
    for number, line in byte_lines(path, is_free):
        yield number, decode(line, f"{path}:{number}")


def parse_json(text: str, where: str):
    """The value that a text in JSON stands for.

    Raises:
        TextError: it is no JSON, or a string in it holds half of a surrogate pair, which no file can be written with.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise TextError(f"{where}: not a JSON object: {error}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and brackets in brackets
        raise TextError(f"{where}: not a JSON object that can be read: {error}") from None
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise TextError(f"{where}: {half} is half of a surrogate pair, which is no character") from None
    return value


def read_json(path, kinds: Tuple[type, ...] = (dict,)) -> Any:
    """The value in a JSON file, compressed or not: an object, if nothing else is asked for.

    Args:
        kinds: what it may be: ``dict`` for an object, ``list`` for an array.

    Raises:
        OSError: the file cannot be opened.
        TextError: it holds no such value.
    """
    path = Path(path)
    lines = byte_lines(path, longest=UNPACKED)  # published files of JSON, such as SQuAD's, are one line each
    content = b"".join(line for _, line in lines) if path.suffix == ".gz" else path.read_bytes()
    try:
        value = parse_json(content.decode("utf-8-sig"), f"{path}: cannot be read")
    except ValueError as error:  # UnicodeDecodeErrors among them
        other = (path.suffix != ".gz" and what_it_is(path, is_text=True)) or (None if isinstance(error, TextError) else str(error))
        raise TextError(f"{path}: cannot be read: {other}" if other else str(error)) from None
    if not isinstance(value, kinds):
        wanted = "a JSON object" if kinds == (dict,) else "an object or array of JSON"
        raise TextError(f"{path}: cannot be read: not {wanted} but a {type(value).__name__}")
    return value


def read_number(text: str, least: float = -math.inf, most: float = math.inf) -> Optional[float]:
    """The finite number that *text* is, from *least* to *most*; None where it is none.

    Written as in all languages of data files: digits, a decimal point, an exponent. Python's own ``float`` takes ``1_0``, ``nan``
    and digits of other scripts too.
    """
    text = text.strip()
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) and least <= value <= most else None


def read_class(text: str, classes: Sequence[str]) -> Optional[str]:
    """The one of *classes* that *text* is; of classes that are numbers in another spelling too (``1.0``, as tables with gaps are
    saved, for ``1``). None where it is none."""
    text = text.strip()
    if text in classes:
        return text
    value = read_number(text)
    return None if value is None else next((name for name in classes if read_number(name) == value), None)
