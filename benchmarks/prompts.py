"""Prompts of a wanted length that no two requests share, so that a cache of prefixes has nothing to give."""

import random
from collections.abc import Callable

# Short and common: nearly every tokenizer has each of them, with the space before it, as one token.
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea kid body
information back parent face others level office door health person art war history party result change morning
reason research girl guy moment air teacher force education river mountain bridge garden winter summer market
"""
_TASK = "Write a long story in which all of these words occur."


class Prompts:
    """Makes prompts of a length in tokens, template included; `count` asks the server how long a text is."""

    def __init__(self, count: Callable[[str], int], seed: int = 0) -> None:
        self._random = random.Random(seed)
        few, many = self._text(20), self._text(220)
        fewer_tokens, more_tokens = count(few), count(many)
        self._per_word = (more_tokens - fewer_tokens) / 200
        self._beside = fewer_tokens - 20 * self._per_word

    def make(self, tokens: int) -> str:
        """A new prompt of about `tokens` tokens."""
        return self._text(max(1, round((tokens - self._beside) / self._per_word)))

    def _text(self, words: int) -> str:
        # The words come first, so that two prompts differ from their first token on.
        return " ".join(self._random.choices(_WORDS.split(), k=words)) + ". " + _TASK
