from domain.memory import GpuMemory, MemoryFreed, MemoryUsage


def usage(rss: int = 0, vram: int = 0, total: int = 1000) -> MemoryUsage:
    return MemoryUsage(rss, 2 * rss, total, total - rss, (GpuMemory(0, "GPU", 100, vram),))


def test_a_gpu_s_free_memory_is_what_nobody_holds() -> None:
    assert GpuMemory(0, "GPU", total=100, used=30).free == 70


def test_the_share_of_the_process_is_in_percent_of_the_machine() -> None:
    assert usage(rss=250).process_percent == 25.0
    assert MemoryUsage(rss=5, vms=5, total=0, available=0).process_percent == 0.0


def test_what_came_free_counts_both_memories() -> None:
    assert MemoryFreed(usage(500, 80), usage(300, 50)).bytes_freed == 230


def test_what_others_took_meanwhile_is_not_subtracted() -> None:
    assert MemoryFreed(usage(300, 80), usage(500, 50)).bytes_freed == 30
    assert MemoryFreed(usage(300, 10), usage(400, 20)).bytes_freed == 0
