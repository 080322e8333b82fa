"""`ingle pull`: the short form of `ingle models pull`."""

from ingle.commands.models import pull as command

__all__ = ["command"]
