"""The database: SQLite in a file by default, PostgreSQL where many processes share the work."""
