"""Text after a prompt: formats, data and fairseq's task for language models that write a text when they are given another."""
