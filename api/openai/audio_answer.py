"""Transcripts as this dialect writes them."""

from collections.abc import AsyncGenerator

from api.openai.audio_body import AudioOptions
from api.openai.envelope import Json
from api.streaming import Record
from api.transcripts import english_name, usage_body, verbose_segment_body, word_body
from application.transcribe_audio import TranscriptionStarted
from domain.transcription import Segment, Transcript, TranscriptionEvent


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


async def text_events(
    events: AsyncGenerator[TranscriptionStarted | TranscriptionEvent, None],
) -> AsyncGenerator[Record, None]:
    """What is heard as deltas, which join to the text of the last event."""
    held_back, has_begun = "", False
    async for event in events:
        if isinstance(event, Segment):
            # White space is told with what follows it: the whole text has none at its ends.
            text = f"{held_back}{event.text}" if has_begun else event.text.lstrip()
            delta = text.rstrip()
            held_back = text[len(delta) :]
            if delta:
                has_begun = True
                yield {"type": "transcript.text.delta", "delta": delta}
        elif isinstance(event, Transcript):
            yield {"type": "transcript.text.done", "text": event.text, "usage": usage_body(event)}
