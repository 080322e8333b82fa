"""What the service does with its domain. asyncio is allowed here; frameworks, files and weights are not."""
