"""A trained checkpoint as a model to compute with: see `sharp_plugins.models.loading`, which stands lower, for tasks."""

from sharp_plugins.models.loading import Loaded, by_length, load_model, read_state

__all__ = ["Loaded", "by_length", "load_model", "read_state"]
