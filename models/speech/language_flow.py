"""A recording that is listened to for its language only."""

from collections.abc import Mapping, Sequence

from domain.transcription import DetectionRequest, TranscriptionRequest
from models.speech.flow import Flow, Row, Slot, State


class LanguageFlow(Flow):
    """Windows that are listened to for their language only."""

    def __init__(self, request: DetectionRequest) -> None:
        super().__init__(
            TranscriptionRequest(priority=request.priority, client=request.client, multilingual=True),
            None,
            (),
            lambda _channel, low, high: (low + high) // 2,
        )
        self.heard: list[Mapping[str, float]] = []

    def hear_language(self, slot: Slot, probabilities: Mapping[str, float]) -> None:
        """How likely each language is in `slot`."""
        slot.language, slot.state = "", State.DONE
        self.heard.append(probabilities)

    def hold(self, rows: Sequence[Row]) -> list[Row]:
        """Nothing more is wanted of windows whose language was heard."""
        assert all(row.slot.state is State.DONE for row in rows)
        return []

    def _row(self, slot: Slot) -> Row:
        return self.listening_row(slot)
