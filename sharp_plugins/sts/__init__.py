"""Unsupervised sentence similarity: the seven test sets, and Mirror-BERT's training with SAM, δ-SAM and R3F."""
