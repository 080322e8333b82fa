"""The few templates of Ollama that are filled here: text with places for the parts of a prompt.

Everything else of Go's template language is refused, never guessed.
"""

import re
from collections.abc import Mapping, Sequence

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.prompt import Message, Role

_PLACE = re.compile(r"\{\{ *\.(System|Prompt|Suffix|Response) *\}\}")


def check_template(template: str) -> None:
    """Raises InvalidRequest for a template that is not text with `{{ .Prompt }}` and its like."""
    if "{{" in _PLACE.sub("", template) or "Prompt" not in _PLACE.findall(template):
        raise InvalidRequest("template not supported", field="template")


def fill(template: str, *, system: str = "", prompt: str = "", suffix: str = "") -> str:
    """The text up to the place where the model goes on: `{{ .Response }}`, or the end."""
    check_template(template)
    return _filled(template, {"System": system, "Prompt": prompt, "Suffix": suffix}, is_open=True)


def fill_chat(template: str, messages: Sequence[Message]) -> str:
    """A whole chat: the template once for each turn, a turn being a system text, a question and its answer.

    Raises UnsupportedCapability for results of tools and for other roles: such a template has no place for them.
    """
    check_template(template)
    pieces: list[str] = []
    turn: dict[str, str] = {}
    for message in messages:
        place = _place_of(message)
        is_next = place in turn or "Response" in turn or (place == "System" and "Prompt" in turn)
        if is_next:
            pieces.append(_filled(template, turn, is_open=False))
            turn = {}
        turn[place] = message.content
    return "".join([*pieces, _filled(template, turn, is_open=True)])


def _place_of(message: Message) -> str:
    match message.role:
        case Role.SYSTEM:
            return "System"
        case Role.USER:
            return "Prompt"
        case Role.ASSISTANT if not message.tool_calls:
            return "Response"
        case Role.ASSISTANT | Role.TOOL:
            raise UnsupportedCapability("the model's own template has no place for tools", field="messages")
        case other:
            raise UnsupportedCapability(f"the model's own template has no place for the role {other}", field="messages")


def _filled(template: str, parts: Mapping[str, str], *, is_open: bool) -> str:
    places = {place[1]: place for place in _PLACE.finditer(template)}
    if (answer := places.get("Response")) is None:
        template += "{{ .Response }}"
    elif is_open:
        template = template[: answer.end()]
    # All places in one pass: braces in the parts mean nothing.
    return _PLACE.sub(lambda place: parts.get(place[1], ""), template)
