"""What is done to a text before it is scored, in each of the literature's two ways.

The challenge of 2017 prepares references and outputs in different orders (its script ``evaluation.py``, functions
``bleu_ref_files_gen``, ``read_participant`` and ``write_to_file``). A reference is split first and made ASCII last, so that
``32°C`` becomes ``32 deg c``. An output is made ASCII first and split last, so that it becomes ``32degc``. Both orders are kept
here: the published numbers were made with them.
"""

import re


def ascii_of(text: str) -> str:
    """The text in ASCII, by the tables of Unidecode, with which the challenge's numbers were made: ``Besiktaş`` is ``Besiktas``.

    Raises:
        ImportError: Unidecode is not installed.
    """
    # Here, and no sooner: it is under the GPL, and nothing else uses it.
    from unidecode import unidecode

    return unidecode(text)


def split_words(text: str) -> str:
    """Put spaces around each character that is no letter, digit or underscore, and single spaces between all.

    >>> split_words("The runway's length is 1,095.0 m.")
    "The runway ' s length is 1 , 095 . 0 m ."
    """
    return " ".join(" ".join(re.split(r"(\W)", text)).split())


def challenge_reference(text: str) -> str:
    """A reference as the challenge of 2017 prepares it, ``multi-bleu.perl -lc`` included.

    >>> challenge_reference("Besiktaş plays at 32°C.")
    'besiktas plays at 32 deg c .'
    """
    return " ".join(ascii_of(split_words(text).lower()).lower().split())


def challenge_hypothesis(text: str) -> str:
    """An output as the challenge of 2017 prepares it, ``multi-bleu.perl -lc`` included.

    >>> challenge_hypothesis("Besiktaş plays at 32°C.")
    'besiktas plays at 32degc .'
    """
    return split_words(ascii_of(ascii_of(text.strip()).lower())).lower()


def lora_text(text: str) -> str:
    """A reference or an output as LoRA's ``gpt2_decode.py --tokenize --lower`` prepares it.

    >>> lora_text("Besiktaş's 32°C")
    "besiktaş ' s 32 ° c"
    """
    return split_words(text.lower())
