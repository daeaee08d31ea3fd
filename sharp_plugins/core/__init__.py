"""The methods on tensors: torch and NumPy only. Nothing here imports fairseq, or anything else of the plugin."""
