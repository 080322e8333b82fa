"""An answer is the same whoever else is there, wherever its keys and values lie, and after every disturbance."""

import pytest

from domain.generation import SamplingParams
from models.text.native.library import library, why_not
from models.text.scheduler import Limits
from models.text.weights import LoadedWeights
from tests.models.running import GREEDY, Bench, load_tiny
from tests.models.tiny import save_tiny

NATIVE = pytest.mark.skipif(library() is None, reason=f"needs native kernels: {why_not()}")
KINDS = (
    "float32 qwen2",
    "float32 gemma2",
    "int8 qwen2",
    "int8 gemma2",
    pytest.param("native qwen2", marks=NATIVE),
    pytest.param("native mistral", marks=NATIVE),
)
SEEDED = SamplingParams(temperature=0.9, top_p=0.95, seed=5)
LENGTHS = (5, 33, 64, 71, 1, 100, 2, 31, 32, 17, 90, 8, 40, 65, 3, 128)
PROMPTS = [[(7 * i + 3 * j + j * j) % 500 for j in range(length)] for i, length in enumerate(LENGTHS)]
WIDE = Limits(max_running=16, chunk=32, max_prefill_tokens=64)


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedWeights:
    kind, _, family = request.param.partition(" ")
    directory = save_tiny(tmp_path_factory.mktemp("tiny") / "model", family)
    model = load_tiny(directory, int8=kind != "float32", native=kind == "native")
    assert (model.layers == "native") == (kind == "native"), model.why
    return model


def alone(loaded: LoadedWeights, ids: list[int], count: int, params: SamplingParams = GREEDY) -> list[int]:
    bench = Bench(loaded)
    return bench.run([bench.sequence(ids, count, params)])[0]


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_an_answer_is_the_same_alone_and_among_fifteen_others(loaded: LoadedWeights, params: SamplingParams) -> None:
    bench = Bench(loaded, blocks=512, limits=WIDE)
    together = bench.run([bench.sequence(ids, 16, params) for ids in PROMPTS])
    assert bench.largest_step == 16
    for place in (0, 3, 4, 15):
        assert together[place] == alone(loaded, PROMPTS[place], 16, params)


def test_a_preempted_answer_is_that_of_an_undisturbed_one(loaded: LoadedWeights) -> None:
    tight = Bench(loaded, blocks=14 if loaded.layers == "native" else 24)
    wishes = (GREEDY, SEEDED, GREEDY, SEEDED)
    asked = list(zip(PROMPTS, wishes, strict=False))
    disturbed = tight.run([tight.sequence(ids, 40, params) for ids, params in asked])
    assert tight.scheduler.preemptions > 0
    assert disturbed == [alone(loaded, ids, 40, params) for ids, params in asked]


def test_blocks_that_lie_scattered_hold_the_same_text_as_blocks_in_a_row(loaded: LoadedWeights) -> None:
    bench = Bench(loaded, limits=Limits(chunk=32, max_prefill_tokens=64, reserve=0))
    # Two sequences grow in turns, so neither finds its next block beside its last one.
    first, second = bench.sequence(PROMPTS[3], 40), bench.sequence(PROMPTS[1], 60)
    places: list[list[int]] = []
    for sequence in (first, second):
        bench.sampler.begin(sequence)
        bench.scheduler.add(sequence)
    while bench.scheduler.running or bench.scheduler.waiting:
        bench.step()
        places.append(list(first.blocks))
    assert any(blocks != list(range(blocks[0], blocks[0] + len(blocks))) for blocks in places if blocks)
    assert list(first.output_ids) == alone(loaded, PROMPTS[3], 40)


def test_a_shared_prefix_is_not_computed_again_and_changes_nothing(loaded: LoadedWeights) -> None:
    prefix, size = PROMPTS[5], 16 if loaded.layers == "native" else 8
    bench = Bench(loaded)
    bench.run([bench.sequence([*prefix, 8], 4)])
    second = bench.sequence([*prefix, 9, 9], 20)
    assert bench.run([second]) == [alone(loaded, [*prefix, 9, 9], 20)]
    assert second.cached == len(prefix) // size * size
