"""Ingle's own dialect."""
