"""Measurements of a running server, each printing one table."""
