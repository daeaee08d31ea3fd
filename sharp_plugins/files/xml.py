"""XML from elsewhere, read so that no file unpacks to more than it is or names another file.

Entities do both ("billion laughs", external entities), and a document can define them in one place alone: its document type
declaration. A file with one is refused where the declaration begins, as by defusedxml's ``forbid_dtd``. The parser is Python's
expat itself: ElementTree's own tells of the declaration too, and goes on to expand what it defines.
"""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sharp_plugins.files.text import TextError, text_lines
from sharp_plugins.files.unreadable import what_it_is

XML = "it is an XML text"  # as `what_it_is` begins to say what should be another kind of file


class _Declared(Exception):
    pass


def _refuse(name, *where):
    raise _Declared(
        f"it has a document type declaration (<!DOCTYPE {name}>), which can define entities that unpack to any size or name other "
        "files; take the declaration out"
    )


def read_xml(path, root: str) -> Element:
    """The root element of an XML file in UTF-8, ``.gz``-compressed or not. Prefixes of names stay as they are.

    Args:
        root: the name that it must have.

    Raises:
        OSError: the file cannot be opened.
        TextError: it is not XML or not UTF-8, has a document type declaration, or another root.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "a.xml")
    ...     _ = path.write_text("<benchmark><entries/></benchmark>")
    ...     read_xml(path, "benchmark")[0].tag
    'entries'
    """
    path, tree, parser = Path(path), TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = tree.start, tree.end, tree.data
    parser.buffer_text = True
    try:
        for _, line in text_lines(path, is_free=True):
            parser.Parse(f"{line}\n")
        parser.Parse("", True)
    except expat.ExpatError as error:
        other = None if path.suffix == ".gz" else what_it_is(path, is_text=True)
        is_other = other is not None and not other.startswith(XML)
        raise TextError(f"{path}: cannot be read: {other if is_other else f'not XML: {error}'}") from None
    except _Declared as error:
        raise TextError(f"{path}: cannot be read: {error}") from None
    except TextError as error:
        raise TextError(f"{path}: not UTF-8; save it so" if XML in str(error) else str(error)) from None
    element = tree.close()
    if element.tag != root:
        raise TextError(f"{path}: cannot be read: its root is <{element.tag}>, and <{root}> is expected")
    return element
