"""Tokenizers: texts to the symbols of a model, and back."""
