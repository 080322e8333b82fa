"""Celery as a wake-up for jobs: what is told to a broker, and a worker that listens to one. Celery lives here only."""
