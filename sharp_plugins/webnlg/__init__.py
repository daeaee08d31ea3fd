"""Data-to-text generation: a benchmark of corpora in WebNLG's shape. fairseq is imported only where it is used."""
