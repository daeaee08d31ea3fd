"""The config in a checkpoint of fairseq's."""

import argparse
from typing import Dict


def config_of(state, part: str) -> Dict:
    """The settings of one part (``"task"``, ``"model"``) of a checkpoint's config; empty where it has none."""
    cfg = state.get("cfg") if isinstance(state, dict) else None
    found = cfg.get(part) if isinstance(cfg, dict) else None
    found = vars(found) if isinstance(found, argparse.Namespace) else found  # as fairseq's legacy parts are
    return found if isinstance(found, dict) else {}
