"""Published encoders as fairseq checkpoints: ``python -m sharp_plugins.convert DIRECTORY OUT``."""
