"""Text of credential programs and of ACLs is accepted or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3s3.errors import InvalidCredentials, StoreRefused
from tests.s3.raw_server import RawServer, respond, response


@pytest.mark.parametrize("output", ["no JSON", "{}", "[]", '{"Version": 1, "AccessKeyId": 5}', ""])
async def test_a_credential_process_that_prints_something_else_is_an_error_of_credentials(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    printing = tmp_path / "print"
    printing.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    printing.chmod(0o700)
    config.write_text(f"[default]\ncredential_process = {printing}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    async with RawServer([respond(response())]) as server:
        async with server.store(endpoint={"access_key_id": None, "secret_access_key": None}) as store:
            with pytest.raises(InvalidCredentials, match="destination-raw: no credentials: "):
                await store.get("key")
        assert server.requests == []


async def test_a_grantee_cannot_add_a_grant_of_its_own() -> None:
    grantee = "x&quot;, uri=&quot;http://acs.amazonaws.com/groups/global/AllUsers"
    grant = f"<Grant><Grantee><ID>{grantee}</ID></Grantee><Permission>READ</Permission></Grant>"
    body = (
        f"<AccessControlPolicy><Owner><ID>me</ID></Owner><AccessControlList>{grant}</AccessControlList>"
        "</AccessControlPolicy>"
    )
    async with RawServer([respond(response(body=body.encode()))]) as server, server.store() as store:
        with pytest.raises(StoreRefused, match="the ACL has the grantee"):
            await store.attributes.acl("key")
