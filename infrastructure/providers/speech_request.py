"""A TranscriptionRequest in the words of a speech server, or a refusal that names what those words cannot say."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from domain.errors import UnsupportedParameter
from domain.listening import DecodingOptions, GuardOptions, VadOptions
from domain.transcription import Channel, SpeechTask, TranscriptionRequest
from infrastructure.providers.entry import ProvidedModel, SpeechShape
from infrastructure.providers.upload import Upload

_TRANSLATIONS = "/audio/translations"


@dataclass(frozen=True, slots=True)
class SpeechCall:
    """What is sent, and where to below the provider's base."""

    path: str
    form: Upload


def speech_call_to(model: ProvidedModel, audio: Path, request: TranscriptionRequest) -> SpeechCall:
    """The call that `request` is. Raises UnsupportedParameter, with the field's name."""
    shape = model.provider.speech_shape
    _refuse_what_cannot_be_said(model, shape, request)
    return _as_openai(model, audio, request) if shape is SpeechShape.OPENAI else _as_asr(audio, request)


def _as_openai(model: ProvidedModel, audio: Path, request: TranscriptionRequest) -> SpeechCall:
    fields = [("model", model.remote_name), ("response_format", "verbose_json")]
    translates = request.task is SpeechTask.TRANSLATE
    if request.language is not None and not translates:
        fields.append(("language", request.language))
    if request.prompt:
        fields.append(("prompt", request.prompt))
    if request.decoding.temperature != 0:
        fields.append(("temperature", f"{request.decoding.temperature:g}"))
    if not translates:
        kinds = ("segment", "word") if request.wants_words else ("segment",)
        fields += [("timestamp_granularities[]", kind) for kind in kinds]
    path = _TRANSLATIONS if translates else SpeechShape.OPENAI.path
    return SpeechCall(path, Upload(audio, "file", tuple(fields)))


def _as_asr(audio: Path, request: TranscriptionRequest) -> SpeechCall:
    query = {
        "task": request.task.value,
        "output": "json",
        "vad_filter": "true" if request.vad.enabled else "false",
        "word_timestamps": "true" if request.wants_words else "false",
    }
    if request.language is not None:
        query["language"] = request.language
    if request.prompt:
        query["initial_prompt"] = request.prompt
    return SpeechCall(f"{SpeechShape.ASR.path}?{urlencode(query)}", Upload(audio, "audio_file"))


def _refuse_what_cannot_be_said(model: ProvidedModel, shape: SpeechShape, request: TranscriptionRequest) -> None:
    openai = shape is SpeechShape.OPENAI
    usual = DecodingOptions()
    decoding = request.decoding
    # Every server has its own beam, and the one that is asked for is a preset of this one.
    known = replace(usual, beam_size=decoding.beam_size)
    if openai and not isinstance(decoding.temperature, tuple):
        known = replace(known, temperature=decoding.temperature)
    said = {
        "languages": not request.languages,
        "multilingual": not request.multilingual,
        "hotwords": not request.hotwords,
        "condition_on_previous_text": not request.condition_on_previous_text,
        "clip_timestamps": not request.clips,
        "channel": request.channel is Channel.MIX,
        "hallucination_guard": request.guard == GuardOptions(),
        "vad_filter": openai is False or request.vad.enabled,
        "vad_threshold": replace(request.vad, enabled=True) == VadOptions(),
        **{
            name: getattr(decoding, name) == getattr(known, name)
            for name in ("best_of", "patience", "length_penalty", "repetition_penalty", "no_repeat_ngram_size")
        },
        "temperature": decoding.temperature == known.temperature,
        "word_timestamps": not (openai and request.word_timestamps and request.task is SpeechTask.TRANSLATE),
    }
    for name, can_be_said in said.items():
        if not can_be_said:
            raise UnsupportedParameter(
                f"{name} cannot be had from '{model.name}', which is a model of another server", field=name
            )
