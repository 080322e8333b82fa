"""Workers that are remembered in memory."""

from collections.abc import Collection, Sequence

from application.job_ports import WorkerRecord


class InMemoryWorkers:
    """A WorkerRegister."""

    def __init__(self) -> None:
        self.records: dict[str, WorkerRecord] = {}

    async def seen(self, worker: WorkerRecord) -> None:
        """Note it."""
        self.records[worker.worker_id] = worker

    async def workers(self) -> Sequence[WorkerRecord]:
        """All of them."""
        return list(self.records.values())

    async def forget(self, worker_ids: Collection[str]) -> None:
        """These have ended."""
        for worker_id in worker_ids:
            self.records.pop(worker_id, None)
