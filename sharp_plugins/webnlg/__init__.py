"""Data-to-text generation: a benchmark of corpora in WebNLG's shape. Nothing in here imports fairseq."""
