"""Transport-level exceptions; `s3.error_mapping` maps them to s3s3's errors."""

from __future__ import annotations


class TransportError(Exception):
    """A request that got no complete response.

    Attributes:
        sent: part of the request was written to the connection.
        answered: the response head was received.
        reused: the connection had served a request before, so the store may have closed it meanwhile.
    """

    sent = False
    answered = False
    reused = False


class ConnectFailed(TransportError):
    """No connection; `__cause__` is the reason."""


class TlsFileInvalid(Exception):
    """A file of certificates or a key cannot be used; the cause of a ConnectFailed."""

    def __init__(self, setting: str, path: str, reason: OSError) -> None:
        super().__init__(f"cannot use {setting} {path}: {getattr(reason, 'reason', None) or reason.strerror or reason}")
        self.setting = setting


class ProxyRefused(Exception):
    """A proxy has not opened a tunnel; `status` is that of its response, 0 for none. The cause of a ConnectFailed."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ConnectionLost(TransportError):
    """The connection was lost; `__cause__` is the reason, None if the peer closed it."""


class TransportTimeout(TransportError):
    """A limit of `limits.Timeouts` was exceeded; the message names it and the progress made in that time."""


class ProtocolError(TransportError):
    """The response is not HTTP/1.x."""


class PrematureResponse(TransportError):
    """The store reported success before it had the whole body."""


class BodyLengthMismatch(TransportError):
    """A streamed body has more or fewer bytes than announced. The connection was reset."""


class ContentMD5Mismatch(TransportError):
    """A body does not have the MD5 of its Content-MD5 header."""
