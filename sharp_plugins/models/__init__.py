"""Models that fairseq finds by ``--user-dir``: every file here is imported by it, and `register` puts the plugin into it."""
