"""Sentence vectors that learn from pairs: two views of a text shall be closer to each other than to the other texts."""
