"""Published encoders and decoders as fairseq checkpoints: ``python -m sharp_plugins.convert DIRECTORY OUT``."""
