"""The HTTP API of durable jobs, under /api/v1."""
