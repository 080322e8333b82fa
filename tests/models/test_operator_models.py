"""models.toml: what the operator adds, what is wanted for each model, and slips that are named."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ModelNotFound
from domain.model import LoadOptions, ModelSpec, Residence, Task, WeightFormat
from domain.preset import Preset
from models.catalog import Catalog
from models.operator_models import OperatorModels
from models.sources.registries import registries
from models.store import ModelStore
from tests.fakes.registry import COMMIT, Registry
from tests.models.pulling import BOXED, HASTY, ROOMY, unheard
from tests.models.weight_files import GGUF_FIELDS, QWEN, gguf, write


def parse(text: str) -> OperatorModels:
    return OperatorModels.parse(tomllib.loads(text))


def opened(root: Path, registry: Registry, catalog: Catalog, text: str, **more: Any) -> ModelStore:
    operators = parse(text)
    sources = registries(index_url=registry.index_url, hub_url=registry.hub_url, patience=HASTY)
    return ModelStore(root, operators.over(catalog), sources, limits=ROOMY, operators=operators, **more)


def test_a_model_of_the_hub_is_added_under_a_name_of_its_own(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    registry.add_repository("org/coder", {"a-q4_k_m.gguf": gguf(GGUF_FIELDS, {"a": (4, 4)}), "a-q8_0.gguf": b"other"})
    text = f"""
        [[model]]
        name = "Coder:big"
        source = "hf.co/org/coder:q4_k_m"
        revision = "{COMMIT}"
        title = "Our coder"
        aliases = ["coder"]
        """
    store = opened(tmp_path, registry, catalog, text)
    assert "Coder:big" in [entry.spec.id for entry in store.known()]
    with pytest.raises(ModelNotFound, match="run `ingle models pull Coder:big`"):
        store.find("coder")
    model = store.pull("coder", unheard)
    assert (model.spec.id, model.spec.title, model.spec.parameters) == ("Coder:big", "Our coder", 16)
    assert [file.name for file in model.files] == ["a-q4_k_m.gguf"]
    assert opened(tmp_path, registry, catalog, text).find("coder").spec == model.spec
    assert opened(tmp_path, registry, catalog, "").find("coder:big").spec.parameters == 16, "it stays installed"


def test_a_model_that_lies_elsewhere_is_offered_from_there(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    write(tmp_path / "elsewhere", QWEN)
    text = f"""
        [[model]]
        name = "ours:1"
        path = "{tmp_path / "elsewhere"}"
        [[model]]
        name = "gone"
        path = "{tmp_path / "nowhere"}"
        """
    store = opened(tmp_path / "models", registry, catalog, text)
    model = store.find("ours:1")
    assert model.directory == tmp_path / "elsewhere"
    assert model.is_placed
    assert [model.spec.id for model in store.installed()] == ["ours:1"]
    with pytest.raises(Exception, match="'gone' cannot be loaded: No such file"):
        store.find("gone")


def test_how_a_model_is_wanted_reaches_its_spec_and_those_made_from_it(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = opened(
        tmp_path,
        registry,
        catalog,
        f"""
        [[model]]
        name = "{BOXED}"
        quantization = "none"
        dtype = "bfloat16"
        device = "cpu"
        context_length = 4096
        num_parallel = 4
        threads = 1
        keep_alive = -1
        pinned = true
        preload = true
        system = "Be brief."
        [model.parameters]
        temperature = 0
        stop = "END"
        num_predict = -1
        """,
    )
    spec = store.pull(BOXED, unheard).spec
    assert spec.residence == Residence(LoadOptions("cpu", "bfloat16", "none", 4096, 4, 1), math.inf, True, True)
    parameters = (("num_predict", -1), ("stop", ("END",)), ("temperature", 0.0))
    assert spec.preset == Preset(system="Be brief.", parameters=parameters)
    twin = store.copy(BOXED, "twin").spec
    assert twin.residence == spec.residence
    assert twin.preset.system == "Be brief."


def test_what_the_operator_leaves_open_is_as_the_catalogue_has_it(catalog: Catalog) -> None:
    spec = ModelSpec(
        "a:1", "A", Task.TEXT, WeightFormat.GGUF, residence=Residence(LoadOptions(dtype="float32", threads=3))
    )
    wish = OperatorModels.parse({"model": [{"name": "a:1", "threads": 1, "num_parallel": 2}]})
    assert wish.applied_to(spec).residence == Residence(LoadOptions(dtype="float32", num_parallel=2, threads=1))
    other = ModelSpec("b:1", "B", Task.TEXT, WeightFormat.GGUF, residence=spec.residence)
    assert wish.applied_to(other).residence == spec.residence


def test_an_added_model_takes_the_place_of_one_of_the_catalogue(catalog: Catalog) -> None:
    merged = parse(f'[[model]]\nname = "{BOXED}"\nsource = "hf.co/org/other"').over(catalog)
    entry = merged.get(BOXED)
    assert entry is not None
    assert entry.spec.hub_id == "org/other"
    assert len(merged.entries) == len(catalog.entries)


def test_provider_tables_are_handed_on_as_they_stand() -> None:
    assert parse('[[provider]]\nname = "cloud"\nkind = "openai"').providers == ({"name": "cloud", "kind": "openai"},)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[models]]", "'models' is not known here"),
        ("[model]\nname = 'a'", r"'model' must be written as \[\[model\]\]"),
        ("[[model]]\nname = '../x'", "name must be a model's name"),
        ("[[model]]", "name must be a model's name"),
        ("[[model]]\nname = 'a'\nspeed = 4", "model 'a', speed: is not known"),
        ("[[model]]\nname = 'a'\n[[model]]\nname = 'A'", "the name 'a' is given twice"),
        ("[[model]]\nname = 'a'\n[[model]]\nname = 'b'\naliases = ['a']", "the name 'a' is given twice"),
        ("[[model]]\nname = 'a'\naliases = 'b'", "aliases: must be a list of texts"),
        ("[[model]]\nname = 'a'\naliases = ['b c']", "aliases: 'b c' is not a name"),
        ("[[model]]\nname = 'a'\nsource = 'https://x'", "source: must be hf.co/"),
        ("[[model]]\nname = 'a'\nsource = 'hf.co/a/b'\npath = '/x'", "path: a model has a source or a path"),
        ("[[model]]\nname = 'a'\nsource = 'hf.co/a/b'\nrevision = 'main'", "revision: must be a commit"),
        ("[[model]]\nname = 'a'\nrevision = 'main'", "revision: needs a source"),
        ("[[model]]\nname = 'a'\npath = 'here'", "path: must begin with / or ~"),
        ("[[model]]\nname = 'a'\nquantization = 'int3'", "quantization: quantization must be one of"),
        ("[[model]]\nname = 'a'\ncontext_length = -1", "context_length: num_ctx must be between"),
        ("[[model]]\nname = 'a'\ncontext_length = true", "context_length: must be a whole number"),
        ("[[model]]\nname = 'a'\nnum_parallel = 5000", "num_parallel: num_parallel must be between"),
        ("[[model]]\nname = 'a'\nthreads = -1", "threads: threads must be between"),
        ("[[model]]\nname = 'a'\nkeep_alive = 'soon'", "keep_alive: "),
        ("[[model]]\nname = 'a'\npinned = 'yes'", "pinned: must be true or false"),
        ("[[model]]\nname = 'a'\nsystem = 1", "system: must be a text"),
        ("[[model]]\nname = 'a'\nparameters = 1", "parameters: must be a table"),
        ("[[model]]\nname = 'a'\nparameters = {temperature = 3}", "parameters: temperature must be"),
        ("[[model]]\nname = 'a'\nparameters = {temperature = '1'}", "parameters: temperature must be a number"),
        ("[[model]]\nname = 'a'\nparameters = {top_k = 1.5}", "parameters: top_k must be a whole number"),
        ("[[model]]\nname = 'a'\nparameters = {num_ctx = -1}", "parameters: num_ctx must be between"),
        ("[[model]]\nname = 'a'\nparameters = {heat = 1}", "parameters: heat is not known"),
        ("[[model]]\nname = 'a'\nparameters = {stop = 1}", "parameters: stop must be a list of texts"),
    ],
)
def test_a_slip_is_refused_and_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@pytest.mark.parametrize("content", [b"[[model", b"\xff", b"a = " + b"[" * 5000, b"#" * (1 << 20 | 1)])
def test_a_file_that_cannot_be_read_names_itself(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"models\.toml"):
        OperatorModels.load(path)
