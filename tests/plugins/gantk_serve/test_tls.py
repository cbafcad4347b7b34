"""With TLS nobody without a certificate of the authority sends, and what is sent is encrypted."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import requests

pynetdicom = pytest.importorskip(
    "pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"'
)
pytest.importorskip("fastapi", reason='needs FastAPI: pip install "gantk[serve]"')

from dicom_files import head, series  # noqa: E402
from pynetdicom import AE, AllStoragePresentationContexts, evt  # noqa: E402
from pynetdicom.sop_class import Verification  # noqa: E402

from gantk.errors import UserError  # noqa: E402
from gantk_serve import dicom  # noqa: E402
from gantk_serve.rules import Rules  # noqa: E402
from gantk_serve.service import Service  # noqa: E402
from gantk_serve.web import Web  # noqa: E402

SUCCESS = 0x0000
OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def make_key(folder: Path, name: str) -> Path:
    key = folder / f"{name}.key"
    command = [OPENSSL, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)]
    subprocess.run(command, check=True)
    return key


def make_authority(folder: Path, name: str) -> Path:
    key = make_key(folder, name)
    certificate = folder / f"{name}.pem"
    command = [OPENSSL, "req", "-x509", "-new", "-key", str(key), "-out", str(certificate)]
    subprocess.run([*command, "-days", "2", "-subj", f"/CN={name}"], check=True)
    return certificate


def make_certificate(folder: Path, name: str, authority: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 by an authority, and its key."""
    key = make_key(folder, name)
    request = folder / f"{name}.csr"
    ask = [OPENSSL, "req", "-new", "-key", str(key), "-out", str(request)]
    subprocess.run([*ask, "-subj", f"/CN={name}"], check=True)
    certificate = folder / f"{name}.pem"
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    sign = [OPENSSL, "x509", "-req", "-in", str(request), "-out", str(certificate), "-days", "2"]
    sign += ["-CA", str(authority), "-CAkey", str(authority.with_suffix(".key"))]
    sign += ["-CAcreateserial", "-extfile", str(extensions)]
    subprocess.run(sign, check=True, capture_output=True)
    return certificate, key


class Certificates:
    """Files of the hospital's authority and of somebody else's."""

    def __init__(self, folder: Path):
        self.authority = make_authority(folder, "hospital")
        self.server = make_certificate(folder, "server", self.authority)
        self.client = make_certificate(folder, "client", self.authority)
        self.stranger = make_certificate(folder, "stranger", make_authority(folder, "elsewhere"))

    def table(self, authorities: bool = True) -> dict[str, str]:
        """The table `tls` of a service."""
        certificate, key = map(str, self.server)
        found = {"certificate": certificate, "key": key}
        return found | ({"authorities": str(self.authority)} if authorities else {})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def client_context(certificates: Certificates, own: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    context.check_hostname = False
    if own is not None:
        context.load_cert_chain(*map(str, own))
    return context


def is_taken(port: int, file: Path, secure: ssl.SSLContext | None) -> bool:
    """Whether the node keeps an instance that is sent like this."""
    entity = AE(ae_title="PACS")
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = 30
    entity.supported_contexts = AllStoragePresentationContexts
    entity.requested_contexts = AllStoragePresentationContexts[:100]
    arguments = {} if secure is None else {"tls_args": (secure, None)}
    link = entity.associate("127.0.0.1", port, ae_title="GANTK", **arguments)
    if not link.is_established:
        return False
    answer = link.send_c_store(file)
    link.release()
    return answer.get("Status") == SUCCESS


@pytest.fixture
def node(tmp_path, certificates):
    """(service, port) of a DICOM node with TLS."""
    tables = {
        "service": {"folder": str(tmp_path / "serve")},
        "dicom": {"port": 0, "tls": certificates.table()},
        "peers": [{"title": "PACS", "host": "127.0.0.1"}],
    }
    service = Service(Rules(**tables))
    node = dicom.Node(service.rules, service.inbox, service.journal)
    yield service, node.start()
    node.stop()


def test_only_certificates_of_the_authority_send_instances(node, certificates, tmp_path):
    service, port = node
    file = series(tmp_path / "series", head(1))[0]
    assert not is_taken(port, file, None)
    assert not is_taken(port, file, client_context(certificates, None))
    assert not is_taken(port, file, client_context(certificates, certificates.stranger))
    assert service.store.counts()["received"] == 0

    assert is_taken(port, file, client_context(certificates, certificates.client))
    assert service.store.counts()["received"] == 1


@pytest.mark.parametrize("trusted", [True, False])
def test_results_are_sent_to_peers_of_the_authority_alone(trusted, certificates, tmp_path):
    certificate, key = certificates.server if trusted else certificates.stranger
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(certificate), str(key))
    got = []
    entity = AE(ae_title="PACS")
    entity.supported_contexts = [*AllStoragePresentationContexts]
    entity.add_supported_context(Verification)
    handlers = [(evt.EVT_C_STORE, lambda event: got.append(event.request) or SUCCESS)]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context
    )
    port = server.server_address[1]
    peer = {"title": "PACS", "host": "127.0.0.1", "port": port, "tls": True}
    rules = Rules(dicom={"tls": certificates.table()}, peers=[peer])
    try:
        failure = dicom.send(series(tmp_path / "series", head(1)), rules.peers[0], rules.dicom)
    finally:
        server.shutdown()

    assert (failure == "") == trusted
    assert len(got) == trusted


@pytest.mark.parametrize("authorities", [False, True])
def test_http_is_encrypted_and_may_ask_for_a_certificate(authorities, certificates, tmp_path):
    tables = {
        "service": {"folder": str(tmp_path / "serve")},
        "http": {"port": 0, "tls": certificates.table(authorities)},
    }
    web = Web(Service(Rules(**tables)))
    address = web.start()
    asked = {
        "headers": {"Authorization": f"Bearer {web.token.decode()}"},
        "verify": str(certificates.authority),
        "timeout": 60,
    }
    try:
        assert address.startswith("https://")
        own = [str(path) for path in certificates.client]
        assert requests.get(f"{address}/status", cert=tuple(own), **asked).ok
        if authorities:
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{address}/status", **asked)
        else:
            assert requests.get(f"{address}/status", **asked).ok
        with pytest.raises(requests.ConnectionError):
            requests.get(address.replace("https", "http"), **asked)
    finally:
        web.stop()


def test_files_of_tls_that_are_wrong_are_one_error(certificates, tmp_path):
    table = certificates.table() | {"key": str(tmp_path / "absent.key")}
    tables = {
        "service": {"folder": str(tmp_path / "serve")},
        "http": {"port": 0, "tls": table},
    }
    with pytest.raises(UserError, match="certificate or the key cannot be read"):
        Web(Service(Rules(**tables))).start()
