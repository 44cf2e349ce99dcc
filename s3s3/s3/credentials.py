"""TODO."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ..errors import AccessDenied
from ..model import Endpoint, Secret
from .signing import Credentials

_KEYS_GOOD_FOR_S = 60.0


class CredentialProvider:
    """The keys of an endpoint: those configured, else those of boto3's chain (environment, profile, instance role).

    The chain is asked when keys are first needed, in a thread since it may do requests of its own, and again every
    minute, which costs nothing unless they are about to expire.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._name = endpoint.name
        self._table = endpoint.table
        self._good_until_s = 0.0
        self._keys: Credentials | None = None
        self._found: Any = None
        self._asking = asyncio.Lock()
        if endpoint.access_key_id is not None:
            secret = endpoint.secret_access_key or Secret("")
            self._keys = Credentials(endpoint.access_key_id, secret, endpoint.session_token)
            self._good_until_s = float("inf")

    def at_hand(self) -> Credentials | None:
        """Return the keys where nobody needs to be asked for them."""
        return self._keys if time.monotonic() < self._good_until_s else None

    async def keys(self) -> Credentials:
        """Return the keys. Raises AccessDenied where none are to be found."""
        async with self._asking:
            keys = self.at_hand()
            if keys is None:
                keys = await asyncio.to_thread(self._ask_chain)
                self._keys = keys
                self._good_until_s = time.monotonic() + _KEYS_GOOD_FOR_S
            return keys

    def _ask_chain(self) -> Credentials:
        import botocore.session  # noqa: PLC0415  as above: for who has no keys configured
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            if self._found is None:
                self._found = botocore.session.Session().get_credentials()
            frozen = self._found.get_frozen_credentials() if self._found is not None else None
        except BotoCoreError as error:
            raise self._none(str(error)) from error
        if frozen is None or not frozen.access_key:
            raise self._none("no credentials are configured, and boto3 finds none")
        token = Secret(frozen.token) if frozen.token else None
        return Credentials(frozen.access_key, Secret(frozen.secret_key), token)

    def _none(self, message: str) -> AccessDenied:
        advice = f"set aws_access_key_id and aws_secret_access_key in {self._table}, or boto3's environment or profile"
        return AccessDenied(message, store=self._name, advice=advice)
