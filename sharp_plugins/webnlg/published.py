"""Where data-to-text corpora are published, and the checksums of their files, each at a commit that does not change.

WebNLG's files are many: a file of ``manifests/`` has a line for each, with SHA-256, bytes and name.
"""

from pathlib import Path
from typing import Dict, List

from sharp_plugins.files.download import Source
from sharp_plugins.files.text import text_lines

MANIFESTS = Path(__file__).with_name("manifests")
GITHUB = "https://raw.githubusercontent.com/"

WEBNLG_2017 = GITHUB + "fuzihaofzh/webnlg-dataset/1c777e22cc3f3f8c50ecd791c72756a53663cea8/webnlg_challenge_2017/"
# Release v3.0 in English, as the organisers of the 2020 challenge gave it out.
WEBNLG_2020 = GITHUB + "WebNLG/challenge-2020/af4f18f01c718592b2358277bc52e955d0d49cf8/data/en/"
# E2E's training set and DART's training and test sets: checksums and sizes as the library datasets recorded them
# (huggingface/datasets, datasets/{e2e_nlg,dart}/dataset_infos.json). Of the other files that record and the file itself agree.
E2E = GITHUB + "tuetschek/e2e-dataset/ab0d967dd5729ce455ef14ba9ffafc456a335264/"
# Version 1.1.1 before its files were changed in 2021: the one that LoRA's and prefix tuning's repositories hold.
DART = GITHUB + "Yale-LILY/dart/88559db76e5acb6a84e160f483b47d979e8e1220/data/v1.1.1/"


def _listed(base: str, name: str) -> List[Source]:
    lines = (line.split(" ") for _, line in text_lines(MANIFESTS / name))
    return [Source(base, path, int(size), checksum) for checksum, size, path in lines]


def sources() -> Dict[str, List[Source]]:
    """The files of each corpus that can be fetched.

    >>> {name: len(files) for name, files in sources().items()}
    {'webnlg2017': 105, 'webnlg2020': 177, 'e2e': 3, 'dart': 3}
    """
    return {
        "webnlg2017": _listed(WEBNLG_2017, "webnlg2017.txt"),
        "webnlg2020": _listed(WEBNLG_2020, "webnlg2020.txt"),
        "e2e": [
            Source(E2E, "trainset.csv", 9340189, "f27d48df45815288ab15619d47a79028c300fbb7f42e373668aba0b98c1d57c6"),
            Source(E2E, "devset.csv", 1161305, "fc26b78cdb849c80545f513b223d1e051138b43882eeb79e3eb153e689c864f9"),
            Source(E2E, "testset_w_refs.csv", 1310822, "edc8db685e39bb9824d5bd70c18b1c9b0412d14b527aa960e2d1c8251ee15ccd"),
        ],
        "dart": [
            Source(
                DART, "dart-v1.1.1-full-train.json", 22001131, "0671b56f4b090ccf1c0187364d45c6f1214421d6f1081a21800596860f314e70"
            ),
            Source(DART, "dart-v1.1.1-full-dev.json", 2370637, "5038f3543b6d59b94ac4e3f69d15a0b01d8578913f862142e7c560200dd6e434"),
            Source(DART, "dart-v1.1.1-full-test.json", 5001020, "c772553b482dd5fc7b8ad90d68889062a2603e28d4449ee1f162006819e0565e"),
        ],
    }


CORPORA = ("webnlg2017", "webnlg2020", "e2e", "dart")
