"""Tables and pictures from training logs. Nothing in here imports fairseq."""
