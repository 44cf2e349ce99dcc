"""Static credentials, or the boto3 credential chain, refreshed before expiry."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ..errors import AccessDenied
from ..model import Endpoint, Secret
from .signing import Credentials

#: How long credentials of boto3's chain are used before the chain is asked again, which is cheap unless they expire.
REFRESH_S = 60.0


class CredentialProvider:
    """An endpoint's configured credentials, else those of boto3's chain (environment, profile, instance role).

    The chain runs in a thread when credentials are first needed, because it may send requests of its own.

    Attributes:
        valid_until_s: when `load` must be called again, by time.monotonic.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.valid_until_s = 0.0
        self._name = endpoint.name
        self._table = endpoint.table
        self._credentials: Credentials | None = None
        self._chain: Any = None
        self._lock = asyncio.Lock()
        if endpoint.access_key_id is not None:
            secret = endpoint.secret_access_key or Secret("")
            self._credentials = Credentials(endpoint.access_key_id, secret, endpoint.session_token)
            self.valid_until_s = float("inf")

    def current(self) -> Credentials | None:
        """Return the credentials, or None if `load` must be called first."""
        return self._credentials if time.monotonic() < self.valid_until_s else None

    async def load(self) -> Credentials:
        """Return the credentials, from the chain if REFRESH_S have passed. Raises AccessDenied if there are none."""
        async with self._lock:
            credentials = self.current()
            if credentials is None:
                credentials = self._credentials = await asyncio.to_thread(self._run_chain)
                self.valid_until_s = time.monotonic() + REFRESH_S
            return credentials

    def _run_chain(self) -> Credentials:
        import botocore.session  # noqa: PLC0415  slow, and not needed with configured credentials
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            if self._chain is None:
                self._chain = botocore.session.Session().get_credentials()
            frozen = self._chain.get_frozen_credentials() if self._chain is not None else None
        except BotoCoreError as error:
            raise self._access_denied(str(error)) from error
        if frozen is None or not frozen.access_key:
            raise self._access_denied("no credentials are configured, and boto3 finds none")
        token = Secret(frozen.token) if frozen.token else None
        return Credentials(frozen.access_key, Secret(frozen.secret_key), token)

    def _access_denied(self, message: str) -> AccessDenied:
        advice = f"set aws_access_key_id and aws_secret_access_key in {self._table}, or boto3's environment or profile"
        return AccessDenied(message, store=self._name, advice=advice)
