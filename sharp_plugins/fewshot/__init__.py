"""Few-shot tables: tasks as prompts for masked language models and for decoders, samples of their data, and runs of methods."""
