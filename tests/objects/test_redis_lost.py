"""The shared tier when its server dies, hangs, or is not the one meant: readers go on, and it comes back by itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cached.errors import BadConfig
from cached.objects.sealed import Seal
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.objects.redis_kit import CACHE, SECRET, Server, Watched, eventually, free_port, needs_redis

pytestmark = needs_redis
SEAL = Seal(SECRET)


@asynccontextmanager
async def opened(url: str, *args, **options):
    tier = Watched(url, *args, **options)
    try:
        yield tier
    finally:
        await tier.close()


def on(tier: Watched):
    return lambda: tier.state == "on"


def test_a_server_that_is_killed_is_missed_once_and_returns_by_itself(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("key", b"value", 600)
            server.kill()
            for _ in range(20):
                assert await tier.get("key") is None
                assert not await tier.set("key", b"value", 600)
                assert await tier.delete(["key"]) == 0
            assert re.fullmatch(r"lost since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", tier.state)
            assert [tier.state in trouble for trouble in tier.troubles] == [True]
            assert tier.noted() == ["redis.lost"]
            assert tier.counts["redis.failed"] + tier.counts["redis.skipped"] == 60
            assert tier.counts["redis.failed"] <= 3
            server.start()
            await eventually(on(tier))
            assert tier.noted() == ["redis.lost", "redis.returned"]
            assert await tier.get("key") is None
            assert await tier.set("key", b"value", 600)
            assert await tier.get("key") == b"value"
            assert tier.troubles == []

    asyncio.run(main())


def test_a_server_that_hangs_is_waited_for_once_and_returns_by_itself(server):
    async def main():
        async with opened(server.url, timeout=0.25) as tier:
            await eventually(tier.ping)
            await eventually(lambda: tier.set("key", b"value", 600))
            await eventually(on(tier))
            said = len(tier.notes)
            server.freeze()
            try:
                before = tier.counts["redis.failed"]
                assert await tier.get("key") is None
                assert tier.state.startswith("lost since")
                for _ in range(1000):
                    assert await tier.get("key") is None
                assert tier.counts["redis.failed"] == before + 1, "a thousand readers did not wait"
                assert tier.noted()[said:] == ["redis.lost"]
                assert "no answer within 0.25 s" in tier.notes[-1][1]
            finally:
                server.thaw()
            await eventually(on(tier))
            assert tier.noted()[said : said + 2] == ["redis.lost", "redis.returned"]
            await eventually(lambda: _is(tier.get("key"), b"value"))

    asyncio.run(main())


async def _is(value, wanted) -> bool:
    return await value == wanted


def test_answers_that_came_too_late_are_never_taken_for_others(server):
    async def main():
        async with opened(server.url, timeout=0.25) as tier:
            await eventually(tier.ping)
            for number in range(20):
                await eventually(lambda n=number: tier.set(f"{n}", b"%d" % n, 600))
            server.freeze()
            try:
                found = await asyncio.gather(*(tier.get(f"{number}") for number in range(20)))
                assert found == [None] * 20
            finally:
                server.thaw()
            for number in reversed(range(20)):
                await eventually(lambda n=number: _is(tier.get(f"{n}"), b"%d" % n))
            assert not tier.counts["redis.forged"]

    asyncio.run(main())


def test_a_reader_who_gives_up_is_no_failure_of_the_server(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("a", b"value a", 600)
            assert await tier.set("b", b"value b", 600)
            server.freeze()
            try:
                readers = [asyncio.create_task(tier.get("a")) for _ in range(5)]
                await asyncio.sleep(0.05)
                for reader in readers:
                    reader.cancel()
                await asyncio.gather(*readers, return_exceptions=True)
                assert all(reader.cancelled() for reader in readers)
            finally:
                server.thaw()
            assert await tier.get("b") == b"value b"
            assert await tier.get("a") == b"value a"
            assert not tier.counts
            assert tier.state == "on"

    asyncio.run(main())


def test_a_server_that_hangs_from_the_beginning_is_waited_for_once(server):
    async def main():
        async with opened(server.url, timeout=2.0) as tier:
            server.freeze()
            try:
                for _ in range(20):
                    assert await tier.get("key") is None
                assert tier.counts == {"redis.skipped": 20}
                assert tier.notes == [], "the background has longer, and has not given up yet"
            finally:
                server.thaw()
            await eventually(lambda: tier.set("key", b"value", 600))

    asyncio.run(main())


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_server_that_is_not_there_yet_is_found_when_it_is(server, way):
    server.kill()
    server.socket.unlink(missing_ok=True)

    async def main():
        async with opened(server.url if way == "tcp" else server.unix_url) as tier:
            assert await tier.get("key") is None
            assert tier.state.startswith("lost since")
            assert not await tier.ping()
            server.start()
            await eventually(on(tier))
            assert await tier.set("key", b"value", 600)
            assert await tier.get("key") == b"value"

    asyncio.run(main())


def test_something_that_is_no_redis_is_lost_and_harms_nobody():
    async def main():
        async def babble(reader, writer):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        strange = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = strange.sockets[0].getsockname()[1]
        async with strange, opened(f"redis://127.0.0.1:{port}") as tier:
            assert await tier.get("key") is None
            assert tier.state.startswith("lost since")

    asyncio.run(main())


def test_a_list_of_servers_that_are_no_cluster_is_refused_in_words(short, server):
    async def main():
        async with opened(f"{server.url},redis://127.0.0.1:{free_port()}") as tier:
            assert not await tier.set("key", b"value", 60)
            assert tier.state == "off"
            assert "names several servers" in tier.troubles[0]

    asyncio.run(main())
    with server.raw() as raw:
        assert raw.dbsize() == 0


class Certificates:
    """An authority and a certificate for 127.0.0.1, as PEM files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
        authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
        place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        is_authority = x509.BasicConstraints(ca=True, path_length=None)
        made = _builder(issuer, issuer, authority).add_extension(is_authority, critical=True)
        self.ca.write_bytes(made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made = _builder(subject, issuer, own).add_extension(place, critical=False)
        self.certificate.write_bytes(
            made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        self.key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def options(self) -> tuple[str, ...]:
        files = ("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key))
        return (*files, "--tls-ca-cert-file", str(self.ca), "--tls-auth-clients", "no")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def test_over_tls_only_the_server_of_the_authority_named_is_believed(short):
    right, wrong = Certificates(short / "right"), Certificates(short / "wrong")
    server = Server(short / "r", *CACHE, *right.options(), "--requirepass", "open", tls=True, user=":open")
    try:

        async def main():
            url = f"rediss://:open@127.0.0.1:{server.port}"
            async with opened(f"{url}?ca={right.ca}") as tier:
                assert await tier.set("key", b"value", 60)
                assert await tier.get("key") == b"value"
                assert tier.troubles == []
            for other in (
                f"{url}?ca={wrong.ca}",
                url,
                url.replace("127.0.0.1", "localhost") + f"?ca={right.ca}",
            ):
                async with opened(other) as tier:
                    assert await tier.get("key") is None
                    assert tier.state.startswith("lost since")
            async with opened(f"redis://:open@127.0.0.1:{server.port}") as tier:
                assert await tier.get("key") is None

        asyncio.run(main())
    finally:
        server.kill()


def test_a_file_of_authorities_that_is_none_is_refused(short):
    (short / "ca.pem").write_text("not a certificate")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(BadConfig, match="cannot take certificates"):
            Watched(f"rediss://:open@127.0.0.1:1?ca={short / name}")
