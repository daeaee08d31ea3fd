"""Cloze prompts: an encoder fills the mask in a prompt around a sentence, and the word that fills it says the class."""
