"""What a model that was made from another brings along: its own system text, parameters and first messages."""

from dataclasses import dataclass

from domain.prompt import Message, Role

ParameterValue = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's own defaults, which a request overrides one by one.

    `parameters` are named as in Ollama's `options` (`temperature`, `num_ctx`, `stop` …), each name once; whoever
    makes a preset has checked their values. `messages` stand before those of a chat; `system` is put first where a
    request brings no system message of its own. `parent` is the name of the model that this one was made from.
    """

    system: str | None = None
    parameters: tuple[tuple[str, ParameterValue], ...] = ()
    messages: tuple[Message, ...] = ()
    template: str = ""
    parent: str = ""


def opened_by(preset: Preset, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A chat with what the model brings along: its messages in front, and before all its system text.

    The system text gives way to a request whose chat begins with a system message of its own.
    """
    chat = (*preset.messages, *messages)
    if preset.system and not (messages and messages[0].role is Role.SYSTEM):
        return (Message(Role.SYSTEM, preset.system), *chat)
    return chat
