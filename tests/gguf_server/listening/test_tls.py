"""Certificates: those that can be used, those that replace them, and what is said of the others."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gguf_server.cli import app
from gguf_server.doctor.finding import Verdict
from gguf_server.doctor.surroundings_checks import check_certificate
from gguf_server.listening.tls import Certificate, TlsError, read_pair
from gguf_server.settings.listening import TlsSettings
from tests.gguf_server.gateway import Gateway, gateway
from tests.gguf_server.listening.wire import LIMIT_S, Wire, get

NOW = datetime.now(UTC)
REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(tmp_path: Path, authority: trustme.CA) -> TlsSettings:
    settings = TlsSettings(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem")
    write(settings, authority.issue_cert("127.0.0.1"))
    return settings


def write(settings: TlsSettings, leaf: trustme.LeafCert) -> None:
    assert settings.certificate is not None
    assert settings.key is not None
    settings.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    settings.key.write_bytes(leaf.private_key_pem.bytes())


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def shown_to(gw: Gateway, context: ssl.SSLContext) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and the certificate that a new connection was shown. Raises `OSError` where it is refused."""
    port = urlsplit(gw.url).port
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(get())
            answer = await Wire(reader, writer).answer()
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError from error
        finally:
            writer.transport.abort()
    return answer.status, answer.headers, shown


def as_table(settings: TlsSettings) -> dict[str, object]:
    return {"tls": settings.model_dump(exclude_none=True)}


async def test_a_client_that_trusts_the_authority_is_answered_over_https(
    tls: TlsSettings, authority: trustme.CA
) -> None:
    async with gateway((), tables=as_table(tls)) as gw:
        assert gw.url.startswith("https://")
        status, headers, _ = await shown_to(gw, trusting(authority))
        assert status in (200, 503)
        assert headers["strict-transport-security"].startswith("max-age=")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_only_tls_1_2_and_newer_are_spoken(
    tls: TlsSettings, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with gateway((), tables=as_table(tls)) as gw:
        if version is ssl.TLSVersion.TLSv1_1:
            with pytest.raises(REFUSED):
                await shown_to(gw, context)
        else:
            await shown_to(gw, context)


async def test_a_new_certificate_is_shown_to_new_connections(tls: TlsSettings, authority: trustme.CA) -> None:
    context = trusting(authority)
    async with gateway((), tables=as_table(tls)) as gw:
        _, _, before = await shown_to(gw, context)
        write(tls, authority.issue_cert("127.0.0.1"))
        assert gw.entrance.certificate is not None
        gw.entrance.certificate.refresh()
        _, _, after = await shown_to(gw, context)
        assert after != before


async def test_a_pair_that_does_not_fit_together_changes_nothing_and_is_told_once(
    tls: TlsSettings, authority: trustme.CA
) -> None:
    context = trusting(authority)
    async with gateway((), tables=as_table(tls)) as gw:
        _, _, before = await shown_to(gw, context)
        assert tls.key is not None
        tls.key.write_bytes(authority.issue_cert("127.0.0.1").private_key_pem.bytes())
        assert gw.entrance.certificate is not None
        with capture_logs() as logs:
            gw.entrance.certificate.refresh()
            gw.entrance.certificate.refresh()
        (line,) = [line for line in logs if line["event"] == "new certificate not used"]
        assert "is not the key of" in line["problem"]
        assert (await shown_to(gw, context))[2] == before


def test_a_handshake_looks_for_new_files_at_most_once_a_second(tls: TlsSettings, authority: trustme.CA) -> None:
    clock = [0.0]
    certificate = Certificate(tls, now=lambda: clock[0])
    first = certificate.pair
    write(tls, authority.issue_cert("127.0.0.1"))
    clock[0] = 0.9
    handshake(certificate.context, authority)
    assert certificate.pair is first
    clock[0] = 1.1
    handshake(certificate.context, authority)
    assert certificate.pair is not first


def handshake(server: ssl.SSLContext, authority: trustme.CA) -> None:
    """In memory, as far as the server's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, there, client):
        with pytest.raises(ssl.SSLWantReadError) if side is not client else _reading():
            side.do_handshake()


class _reading:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is ssl.SSLWantReadError


async def test_only_clients_with_a_certificate_are_let_in_where_it_is_asked(
    tls: TlsSettings, authority: trustme.CA, tmp_path: Path
) -> None:
    (tmp_path / "clients.pem").write_bytes(authority.cert_pem.bytes())
    asking = tls.model_copy(update={"client_ca": tmp_path / "clients.pem"})
    async with gateway((), tables=as_table(asking)) as gw:
        with pytest.raises(REFUSED):
            await shown_to(gw, trusting(authority))
        known = trusting(authority)
        authority.issue_cert("ward-7").configure_cert(known)
        assert (await shown_to(gw, known))[0] in (200, 503)
        write(tls, authority.issue_cert("127.0.0.1"))
        assert gw.entrance.certificate is not None
        gw.entrance.certificate.refresh()
        with pytest.raises(REFUSED):
            await shown_to(gw, trusting(authority))
        assert (await shown_to(gw, known))[0] in (200, 503)


def test_files_that_cannot_be_used_are_told_apart(tls: TlsSettings, authority: trustme.CA, tmp_path: Path) -> None:
    def problem(**changed: Path) -> str:
        with pytest.raises(TlsError) as told:
            read_pair(tls.model_copy(update=changed))
        return str(told.value)

    nothing, text, other = tmp_path / "nothing.pem", tmp_path / "text.pem", tmp_path / "other.pem"
    text.write_text("no certificate")
    leaf = authority.issue_cert("127.0.0.1")
    other.write_bytes(leaf.private_key_pem.bytes())
    locked = tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert problem(certificate=nothing) == f"tls.certificate: {nothing}: No such file or directory"
    assert "holds no certificate" in problem(certificate=text)
    assert problem(key=nothing) == f"tls.key: {nothing}: No such file or directory"
    assert "holds no private key" in problem(key=text)
    assert "is not the key of" in problem(key=other)
    assert "passphrase" in problem(key=locked)
    assert problem(client_ca=nothing) == f"tls.client_ca: {nothing}: No such file or directory"
    assert "holds no certificate" in problem(client_ca=text)


@pytest.mark.parametrize(
    ("expires", "verdict", "said"),
    [
        (NOW - timedelta(days=1), Verdict.WARNING, "expired on"),
        (NOW + timedelta(days=5), Verdict.WARNING, "expires on"),
        (NOW + timedelta(days=300), Verdict.OK, "good until"),
    ],
)
def test_a_certificate_that_ends_is_a_warning(
    tls: TlsSettings, authority: trustme.CA, expires: datetime, verdict: Verdict, said: str
) -> None:
    write(tls, authority.issue_cert("127.0.0.1", not_before=NOW - timedelta(days=400), not_after=expires))
    (finding,) = check_certificate(tls)
    assert finding.verdict is verdict
    assert said in finding.message
    with capture_logs() as logs:
        Certificate(tls)
    assert bool(logs) is (verdict is Verdict.WARNING)


def test_the_configuration_check_names_the_file_at_fault(tls: TlsSettings, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[tls]\ncertificate = "{tls.certificate}"\nkey = "{tls.key}"\n[services.demo]\n')
    assert CliRunner().invoke(app, ["config", "check", "--config", str(config)]).exit_code == 0
    assert tls.key is not None
    tls.key.write_text("")
    done = CliRunner().invoke(app, ["config", "check", "--config", str(config)])
    assert done.exit_code == 2
    assert str(tls.key) in done.stderr
    served = CliRunner().invoke(
        app, ["serve", "--config", str(config), "--port", "0"], env={"GGUF_SERVER_API_KEYS": "a-key"}
    )
    assert served.exit_code == 2


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="both or none"):
        TlsSettings(key=Path("key.pem"))
