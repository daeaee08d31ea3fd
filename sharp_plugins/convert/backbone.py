"""A converted encoder: see `sharp_plugins.text.encoder_directory`, which stands lower, so that tasks can read one too."""

from sharp_plugins.text.encoder_directory import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
