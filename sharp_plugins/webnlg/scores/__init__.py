"""Scores of generated texts, in three ways: sacrebleu's, the WebNLG challenge's of 2017, LoRA's."""
