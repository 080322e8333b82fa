"""Everything outside the process that is not a model: logs, the clock, files, databases, other servers."""
