"""The text engine: many requests share each forward pass."""
