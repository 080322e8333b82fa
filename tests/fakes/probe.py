"""A machine made of values."""

from collections.abc import Sequence

from application.ports import Gpu, SystemInfo


class FakeProbe:
    """A SystemProbe of a four-core machine with the GPUs that the test wants."""

    def __init__(self, gpus: Sequence[Gpu] = (), models_free_bytes: int = 50 << 30) -> None:
        self.gpus = tuple(gpus)
        self.models_free_bytes = models_free_bytes

    def system_info(self) -> SystemInfo:
        """The machine as it is now."""
        return SystemInfo(
            cpu_model="Imaginary CPU @ 3.00GHz",
            cpu_cores=4,
            cpu_threads=8,
            isa=("avx2", "avx512f"),
            gpus=self.gpus,
            kernels={"cpu": "none: this machine is imaginary"},
            versions={"python": "3.11.0", "torch": "2.13.0+cpu"},
            models_free_bytes=self.models_free_bytes,
        )

    def devices(self) -> Sequence[str]:
        """The devices that a load may name, `cpu` first."""
        return ["cpu", *(f"cuda:{gpu.index}" for gpu in self.gpus)]
