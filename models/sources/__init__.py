"""Where the bytes of models come from: the Python package index, a model hub, a local directory."""
