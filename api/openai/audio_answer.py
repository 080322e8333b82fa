"""Transcripts as this dialect writes them."""

from collections.abc import AsyncGenerator
from math import ceil

from api.openai.audio_body import AudioOptions
from api.openai.envelope import Json
from api.streaming import Record
from api.transcripts import english_name, usage_body, verbose_segment_body, word_body
from application.transcribe_audio import TranscriptionStarted
from domain.transcription import Segment, Transcript, TranscriptionEvent

HEARD_PER_SECOND = 50
"""What Whisper's encoder makes of a second of sound, which is to its decoder what a prompt's tokens are."""


def json_content(transcript: Transcript, options: AudioOptions) -> Json:
    """The body of the formats `json` and `verbose_json`."""
    if options.response_format == "json":
        return {"text": transcript.text, "usage": usage_body(transcript)}
    content: Json = {
        "task": transcript.task.value,
        "language": english_name(transcript.language) or "",
        "duration": round(transcript.duration, 2),
        "text": transcript.text,
        "usage": usage_body(transcript),
    }
    if "segment" in options.granularities:
        content["segments"] = [verbose_segment_body(segment) for segment in transcript.segments]
    if "word" in options.granularities:
        content["words"] = [word_body(word) for segment in transcript.segments for word in segment.words]
    return content


def _tokens(transcript: Transcript, written: int) -> Json:
    """Usage as the official client wants it at the end of a stream: not in seconds, as everywhere else."""
    heard = ceil(transcript.duration_after_vad * HEARD_PER_SECOND)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "output_tokens": written,
        "total_tokens": heard + written,
        "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
    }


async def text_events(
    events: AsyncGenerator[TranscriptionStarted | TranscriptionEvent, None],
) -> AsyncGenerator[Record, None]:
    """What is heard as deltas, which join to the text of the last event."""
    held_back, has_begun, written = "", False, 0
    async for event in events:
        if isinstance(event, Segment):
            written += len(event.tokens)
            # White space is told with what follows it: the whole text has none at its ends.
            text = f"{held_back}{event.text}" if has_begun else event.text.lstrip()
            delta = text.rstrip()
            held_back = text[len(delta) :]
            if delta:
                has_begun = True
                yield {"type": "transcript.text.delta", "delta": delta}
        elif isinstance(event, Transcript):
            yield {"type": "transcript.text.done", "text": event.text, "usage": _tokens(event, written)}
