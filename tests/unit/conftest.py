from collections.abc import Iterator

import pytest

from application.model_pool import ModelPool
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import FakeModelRepository, speech_spec, text_spec


@pytest.fixture
def repository() -> Iterator[FakeModelRepository]:
    """Four models of 1 GiB each; the pool must keep every promise about them."""
    fake = FakeModelRepository(text_spec("a:1b"), text_spec("b:1b"), text_spec("c:1b"), speech_spec("ear:base"), gpus=1)
    yield fake
    assert fake.violations == []


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def pool(repository: FakeModelRepository, events: RecordedEvents) -> ModelPool:
    """A pool with a keep_alive of 300 s and a load timeout of 60 s, for tests under virtual time."""
    return ModelPool(repository, LoopClock(), events, keep_alive=300.0, load_timeout=60.0)
