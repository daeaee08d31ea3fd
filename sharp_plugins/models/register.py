"""Puts the plugin into fairseq, which imports this file as it does all files in the models/ of its ``--user-dir``."""

import sharp_plugins

sharp_plugins.register()
