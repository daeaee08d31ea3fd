"""Data-to-text generation: reading the corpus and scoring the output. Nothing in here imports fairseq."""
