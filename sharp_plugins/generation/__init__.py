"""Text after a prompt: greedy and beam search and sampling behind ``fairseq-generate`` and ``fairseq-interactive``."""

from sharp_plugins.generation.beam_cache import BeamCache
from sharp_plugins.generation.flags import GenerationFlags, build_generator, settings_of
from sharp_plugins.generation.generator import Generator
from sharp_plugins.generation.outputs import Hypothesis
from sharp_plugins.generation.sampling import GreedySearch, Sampling
from sharp_plugins.generation.search import BeamSearch
from sharp_plugins.generation.settings import SearchSettings

__all__ = [
    "BeamCache",
    "BeamSearch",
    "GenerationFlags",
    "Generator",
    "GreedySearch",
    "Hypothesis",
    "Sampling",
    "SearchSettings",
    "build_generator",
    "settings_of",
]
