"""A real connection for each documented form of `[pubsub] url`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
import trustme

from s3s3.errors import RedisUnavailable
from s3s3.queue.connection import check_version, subscriber
from s3s3.queue.redis_calls import translate_errors
from s3s3.scripts.demo.process import Process, ServerFailed
from s3s3.scripts.demo.redis_server import RedisServer, find_redis_server
from s3s3.scripts.demo.servers import HOST, free_ports
from s3s3.tasks import timeout
from tests.conftest import REPOSITORY
from tests.queue.test_connection import client_of, new_cluster, use_every_operation
from tests.waiting import eventually

pytestmark = pytest.mark.real

PASSWORD = "se/same@#?%25"
ENCODED = "se%2Fsame%40%23%3F%2525"


async def works(url: str) -> None:
    """Run every operation of the queue, and receive a published message."""
    async with client_of(url) as client:
        await use_every_operation(client)
    async with client_of(url) as client, subscriber(client) as pubsub:
        with translate_errors():
            await pubsub.subscribe("backup")
            await client.publish("backup", "key")
            async with timeout(10):
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        assert message["data"] == "key"
                        return


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and cert.pem and key.pem for this machine."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST, "localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    return folder


def tls_options(certificates: Path) -> dict[str, str]:
    (port,) = free_ports(1)
    files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "ca.pem"}
    paths = {name: str(certificates / file) for name, file in files.items()}
    return {"tls-port": str(port), "tls-auth-clients": "no", **paths}


@contextmanager
def tls_server(certificates: Path, **options: str) -> Iterator[tuple[RedisServer, str]]:
    """A server with TLS, and its TLS port."""
    directives = {**tls_options(certificates), **{name.replace("_", "-"): value for name, value in options.items()}}
    try:
        server = RedisServer(options=directives)
        server.start()
    except ServerFailed:
        pytest.skip("this redis-server was built without TLS")
    with closing(server):
        yield server, directives["tls-port"]


# -- one server


async def test_a_plain_url_works(redis_url: str) -> None:
    await works(redis_url)


async def test_a_password_with_special_characters_works_when_encoded() -> None:
    with RedisServer(options={"requirepass": PASSWORD}) as server:
        await works(server.url.replace("//", f"//:{ENCODED}@"))
        await works(server.url.replace("//", f"//default:{ENCODED}@").replace("/0", "/1"))


@pytest.mark.parametrize("options", ["", "?db=2"])
async def test_a_unix_socket_works(tmp_path_factory: pytest.TempPathFactory, options: str) -> None:
    folder = tmp_path_factory.mktemp("socket")
    socket = folder / "redis.sock"
    with RedisServer(options={"unixsocket": str(socket)}):
        await works(f"unix://{socket}{options}")


async def test_a_unix_socket_with_a_password_works(tmp_path: Path) -> None:
    socket = Path("/tmp") / f"s3s3-{tmp_path.name}.sock"  # a socket's path has at most 107 bytes
    with RedisServer(options={"unixsocket": str(socket), "requirepass": PASSWORD}):
        await works(f"unix://:{ENCODED}@{socket}")
    socket.unlink(missing_ok=True)


async def test_a_missing_unix_socket_is_unavailable(tmp_path: Path) -> None:
    async with client_of(f"unix://{tmp_path}/nothing.sock") as client:
        with pytest.raises(RedisUnavailable, match="cannot be reached"):
            await check_version(client)


async def test_tls_works_with_an_authority_of_your_own(certificates: Path) -> None:
    with tls_server(certificates, requirepass="sesame") as (_, port):
        url = f"rediss://:sesame@{HOST}:{port}/0"
        await works(f"{url}?ssl_ca_certs={certificates}/ca.pem")
        async with client_of(url) as client:
            with pytest.raises(RedisUnavailable, match="certificate verify failed"):
                await check_version(client)


# -- Sentinel


@contextmanager
def sentinel(folder: Path, master_port: int | str, *directives: str, port: int | None = None) -> Iterator[int]:
    """A sentinel of "mymaster"; yields its port."""
    port = port or free_ports(1)[0]
    configuration = folder / "sentinel.conf"
    lines = [f"bind {HOST}", f"dir {folder}", f"sentinel monitor mymaster {HOST} {master_port} 1", *directives]
    if not any(line.startswith("port") for line in directives):
        lines.append(f"port {port}")
    configuration.write_text("\n".join(lines) + "\n")
    log = folder / "sentinel.log"
    command: list[str | Path] = [find_redis_server(), configuration, "--sentinel"]
    process = Process("sentinel", command, log=log, ready=lambda: "monitor master mymaster" in log.read_text())
    process.start()
    try:
        process.wait_ready()
        yield port
    finally:
        process.kill()


async def test_a_sentinel_without_a_password_finds_a_master_with_one(tmp_path: Path) -> None:
    with (
        RedisServer(options={"requirepass": PASSWORD}) as server,
        sentinel(tmp_path, server.port, f'sentinel auth-pass mymaster "{PASSWORD}"') as port,
    ):
        await works(f"redis+sentinel://:{ENCODED}@{HOST}:{port}/mymaster/1")


@pytest.mark.parametrize("own", ["another", "se%2Fsame%40%23%3F%2525"])
async def test_the_sentinels_password_may_be_their_own_or_the_servers(tmp_path: Path, own: str) -> None:
    password = "another" if own == "another" else PASSWORD
    with (
        RedisServer(options={"requirepass": PASSWORD}) as server,
        sentinel(
            tmp_path, server.port, f'sentinel auth-pass mymaster "{PASSWORD}"', f'requirepass "{password}"'
        ) as port,
    ):
        url = f"redis+sentinel://:{ENCODED}@{HOST}:{port}/mymaster"
        await works(f"{url}?sentinel_password={own}")
        async with client_of(url) as client:
            with pytest.raises(RedisUnavailable, match=r"the sentinels refuse the password: set \?sentinel_password"):
                await check_version(client)


async def test_a_refused_sentinel_password_is_not_in_the_message(tmp_path: Path) -> None:
    with RedisServer() as server, sentinel(tmp_path, server.port, "requirepass another") as port:
        async with client_of(f"redis+sentinel://:sesame@{HOST}:{port}/mymaster?sentinel_password=wrongpw") as client:
            with pytest.raises(RedisUnavailable) as caught:
                await check_version(client)
    assert f"in [pubsub] url: No master found for 'mymaster' : {HOST}:{port} - " in str(caught.value)
    assert "wrongpw" not in str(caught.value)
    assert "sesame" not in str(caught.value)


async def test_tls_and_its_options_reach_sentinels_and_master(certificates: Path, tmp_path: Path) -> None:
    tls = tls_options(certificates)
    lines = [f"{name} {value}" for name, value in tls.items()]
    with (
        tls_server(certificates, requirepass="sesame") as (_, master_port),
        sentinel(
            tmp_path, master_port, *lines, "port 0", "tls-replication yes", "sentinel auth-pass mymaster sesame",
            "requirepass another",
        ),
    ):  # fmt: skip
        await works(
            f"rediss+sentinel://:sesame@localhost:{tls['tls-port']}/mymaster"
            f"?ssl_ca_certs={certificates}/ca.pem&sentinel_password=another"
        )


# -- Cluster


def form_cluster(server: RedisServer, password: str) -> None:
    with redis.Redis.from_url(server.url, password=password) as node:
        node.execute_command("CLUSTER ADDSLOTS", *range(16384))
        eventually(lambda: node.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


async def test_a_cluster_with_a_password_works() -> None:
    options = {"cluster-enabled": "yes", "requirepass": PASSWORD}
    with closing(new_cluster(lambda: RedisServer(options=options))) as server:
        form_cluster(server, PASSWORD)
        await works(f"redis+cluster://:{ENCODED}@{HOST}:{server.port}")


@pytest.mark.long
async def test_a_cluster_with_tls_works(certificates: Path) -> None:
    with tls_server(certificates):  # skips this test where the server was built without TLS
        pass
    options: dict[str, str] = {}

    def make() -> RedisServer:
        options.update(tls_options(certificates), **{"cluster-enabled": "yes", "tls-cluster": "yes"})
        return RedisServer(options=options)

    with closing(new_cluster(make)) as server:
        form_cluster(server, "")
        await works(f"rediss+cluster://{HOST}:{options['tls-port']}?ssl_ca_certs={certificates}/ca.pem")


# -- permissions


def documented_user(server: RedisServer, **replaced: str) -> str:
    """Create the user of docs/how-to/redis.md; return its URL."""
    text = (REPOSITORY / "docs/how-to/redis.md").read_text()
    command = text.partition("ACL SETUSER s3s3 ")[2].partition("```")[0]
    rules = ["reset" if rule == "on" else rule.replace("PASSWORD", "sesame") for rule in command.split()]
    rules = [rule for rule in rules if rule not in replaced.values()]
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "s3s3", *rules, "on")
    return server.url.replace("//", "//s3s3:sesame@")


async def test_the_documented_user_can_run_every_operation_of_the_queue() -> None:
    with RedisServer() as server:
        await works(documented_user(server))


async def test_a_user_that_may_not_run_info_is_no_problem() -> None:
    with RedisServer() as server:
        async with client_of(documented_user(server, without="+info")) as client:
            assert await check_version(client) == "unknown"


async def test_a_renamed_info_is_no_problem(tmp_path: Path) -> None:
    included = tmp_path / "renamed.conf"
    included.write_text("rename-command INFO HIDDEN\n")
    with RedisServer(options={"include": str(included)}) as server:
        async with client_of(server.url) as client:
            assert await check_version(client) == "unknown"


async def test_another_channel_or_key_is_refused_by_name() -> None:
    with RedisServer() as server:
        async with client_of(documented_user(server)) as client:
            for call in (lambda: client.publish("another", "k"), lambda: client.get("another")):
                with pytest.raises(RedisUnavailable, match="lacks permissions"), translate_errors():
                    await call()
