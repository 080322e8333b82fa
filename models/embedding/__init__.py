"""Vectors of texts: a bidirectional encoder, pooled and normalised."""
