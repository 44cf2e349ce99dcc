"""How an exchange can end without a whole answer. `answers` says what that means."""

from __future__ import annotations


class TransportError(Exception):
    """An exchange that did not end with a whole answer.

    Attributes:
        sent: something of the request had been handed to the connection.
        answered: the head of an answer had come.
        kept: the connection had served an exchange before this one, so it may simply have been too old.
    """

    sent = False
    answered = False
    kept = False


class ConnectFailed(TransportError):
    """No connection; `__cause__` says why."""


class ConnectionLost(TransportError):
    """The connection was lost in the middle; `__cause__` says how, None means that the peer closed it."""


class TransportTimeout(TransportError):
    """No byte moved for too long, or the exchange took longer than it may."""


class ProtocolError(TransportError):
    """What came is not HTTP/1.x."""


class PrematureResponse(TransportError):
    """A store that praised a body before it had all of it."""


class BodyLengthMismatch(TransportError):
    """A body to be sent has more or fewer bytes than was promised. The connection was reset."""


class ContentMD5Mismatch(TransportError):
    """A body does not have the Content-MD5 that its head promised."""
