"""The composition root: settings in, a working application out, by plain constructor calls."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from api.services import MIB, Defaults, Exposure, Limits, Services
from application.answer_query import AnswerQuery
from application.device_arbiter import DeviceArbiter, Sharing
from application.embed_texts import EmbedTexts
from application.events import Publish
from application.generate_text import GenerateText
from application.joined_repository import JoinedRepository
from application.manage_models import ManageModels
from application.model_pool import ModelPool
from application.ports import Clock, SystemProbe
from application.shortages import Shortages
from application.transcribe_audio import TranscribeAudio
from domain.listening import Preset
from domain.memory import MemoryBounds
from domain.model import LoadOptions
from infrastructure.addresses import AddressRules
from infrastructure.clock import SystemClock
from infrastructure.fetch import FetchLimits, SafeFetcher
from infrastructure.key_file import KeptKeys
from infrastructure.log import EventLog
from infrastructure.outbound import OutboundPolicy
from infrastructure.providers.repository import ProvidedModels
from ingle.exposure import is_loopback
from ingle.external_models import external_models, llm_alias
from ingle.keys import keys_of
from ingle.model_store import aliases, open_store
from ingle.settings import Settings
from ingle.settings_sources import masked
from models.budget import BudgetPolicy
from models.library import StoredLibrary
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder, DecodeLimits
from models.speech.options import EngineOptions as SpeechOptions
from models.store import ModelStore
from models.system import MachineProbe
from models.text.loader import EngineOptions
from models.text.scheduler import Limits as BatchLimits
from models.tokenizers import StoredTokenizers

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Application:
    """Everything that the server and the command line use, wired; `close` gives it all back."""

    store: ModelStore
    pool: ModelPool
    generate: GenerateText
    transcribe: TranscribeAudio
    embed: EmbedTexts
    probe: SystemProbe
    services: Services
    repository: OptimizedModelRepository
    library: StoredLibrary
    external: ProvidedModels
    fetcher: SafeFetcher
    keys: KeptKeys | None

    async def close(self) -> None:
        """End what runs, unload every model."""
        try:
            await self.pool.close()
        finally:
            await self.external.close()
            self.repository.close()
            self.library.close()


def build(settings: Settings) -> Application:
    """Wire everything; nothing is loaded, opened or started."""
    keys = keys_of(settings)
    clock: Clock = SystemClock()
    publish: Publish = EventLog()
    threads = settings.cpu_threads or usable_cores()
    store = open_store(settings)
    shortages = Shortages()
    bounds = MemoryBounds.below(settings.max_memory_usage)
    repository = OptimizedModelRepository(
        store, _decoder(settings), _load_policy(settings, threads, bounds), on_shortage=shortages.tell
    )
    provided = external_models(settings)
    names = {**llm_alias(provided), **aliases(settings)}
    external = ProvidedModels(provided, clock)
    pool = ModelPool(
        JoinedRepository(repository, external, names) if provided else repository,
        clock,
        publish,
        keep_alive=settings.keep_alive,
        load_timeout=settings.load_timeout,
        default_options=LoadOptions(device=settings.device_type),
        speech_options=LoadOptions(device=settings.speech_device or settings.device_type),
        arbiter=DeviceArbiter(Sharing(settings.device_sharing), settings.device_max_hold),
        bounds=bounds,
        shortages=shortages,
    )
    generate = GenerateText(pool, clock, publish)
    transcribe = TranscribeAudio(pool, clock, publish)
    embed = EmbedTexts(pool, clock, publish)
    library = StoredLibrary(store)
    fetcher = _fetcher(settings)
    probe = MachineProbe(version("ingle"), threads, store.free_bytes)
    services = Services(
        pool=pool,
        generate=generate,
        answer=AnswerQuery(generate, settings.context_template),
        transcribe=transcribe,
        embed=embed,
        library=library,
        manage=ManageModels(pool, library, publish),
        tokenizers=StoredTokenizers(store),
        probe=probe,
        fetcher=fetcher,
        clock=clock,
        uploads_dir=settings.data_dir / "uploads",
        version=version("ingle"),
        started_at=clock.monotonic(),
        limits=Limits(
            body_bytes=int(settings.max_body_mb * MIB),
            upload_bytes=int(settings.max_upload_mb * MIB),
            generation_seconds=settings.max_generation_time,
            queue=settings.max_queue,
            new_tokens=settings.max_new_tokens,
            transcription_seconds=settings.transcribe_timeout,
            keep_alive=settings.keep_alive,
        ),
        keys=keys,
        exposure=Exposure(
            guard_hosts=keys is None or is_loopback(settings.http_host),
            allowed_hosts=frozenset(settings.allowed_hosts),
            origins=frozenset(settings.origins),
            docs=settings.docs,
        ),
        defaults=Defaults(
            model=settings.default_model,
            speech_model=settings.default_speech_model,
            speech_beam_size=Preset(settings.speech_preset).beam_size,
            speech_device=settings.speech_device or settings.device_type,
            **_given(analysis_temperature=settings.generation_temperature),
        ),
        aliases=names,
        providers=external,
        max_workers=settings.max_workers,
        max_processes=settings.max_processes,
        heartbeats={"engine": repository.engines_are_well},
        readiness={"engine": repository.engines_are_well, "memory": pool.has_memory},
        settings=_public(settings),
    )
    return Application(
        store, pool, generate, transcribe, embed, probe, services, repository, library, external, fetcher, keys
    )


def usable_cores() -> int:
    """Cores that this process may use, which a container or taskset can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decoder(settings: Settings) -> AudioDecoder:
    return AudioDecoder(
        DecodeLimits(
            formats=settings.audio_formats,
            max_seconds=settings.max_audio_seconds,
            timeout_seconds=settings.decode_timeout,
            min_free_bytes=int(settings.disk_floor_gb * GIB),
        ),
        processes=settings.max_processes,
        # Not in the system's folder for temporary files, which may lie in memory.
        spool_dir=settings.data_dir / "uploads",
    )


def _fetcher(settings: Settings) -> SafeFetcher:
    hosts = tuple(host.lower() for host in settings.fetch_allow_hosts)
    rules = AddressRules(settings.fetch_allow_cidrs, hosts)
    policy = OutboundPolicy(rules, frozenset(settings.fetch_ports))
    return SafeFetcher(policy, FetchLimits(total=settings.fetch_timeout))


def _load_policy(settings: Settings, threads: int, bounds: MemoryBounds) -> LoadPolicy:
    batch = BatchLimits(**_given(max_running=settings.num_parallel or None))
    return LoadPolicy(
        cpu_threads=threads,
        budget=BudgetPolicy(
            min_free_bytes=int(settings.min_memory_gb * GIB),
            max_usage=bounds.high,
            max_bytes=int(settings.memory_budget_gb * GIB),
            gpu_fraction=settings.gpu_memory_fraction,
        ),
        context_length=settings.context_length,
        speech_compute_type=settings.speech_compute_type,
        engine=EngineOptions(
            batch, settings.max_queue, settings.max_queue_tokens, speculation=settings.speculation == "auto"
        ),
        speech=SpeechOptions(
            rows=settings.speech_batch_size,
            window_seconds=settings.speech_window_seconds,
            short_windows=settings.speech_short_windows,
            batch_wait_seconds=settings.speech_batch_wait,
            max_waiting=settings.max_queue,
            max_waiting_audio_seconds=settings.max_queue_audio_seconds,
        ),
    )


def _given(**values: Any) -> dict[str, Any]:
    """Those that were set; the others keep the default of whoever takes them."""
    return {name: value for name, value in values.items() if value is not None}


def _public(settings: Settings) -> Mapping[str, object]:
    """What clients may see of the settings: neither paths nor addresses of other servers."""
    hidden = ("_dir", "_file", "_url", "_hosts", "_cidrs", "_token", "_key", "_keys")
    return {
        name: masked(value) for name, value in settings.model_dump(mode="json").items() if not name.endswith(hidden)
    }
