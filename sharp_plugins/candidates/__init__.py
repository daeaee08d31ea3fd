"""A prompt and its possible continuations: a language model chooses the likeliest, and learns to choose the right one."""
