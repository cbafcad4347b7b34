"""The DICOM node: takes C-ECHO and C-STORE from known peers, and sends results by C-STORE."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom import uid
from pydicom.pixels import get_decoder
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from gantk.errors import UserError
from gantk_serve.addresses import cannot_listen
from gantk_serve.inbox import Inbox, Refused
from gantk_serve.journal import Journal
from gantk_serve.rules import DicomTable, PeerTable, Rules, TlsTable

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
MAX_ASSOCIATIONS = 20
TIMEOUT = 60.0  # seconds of silence in an association
UNCOMPRESSED = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian]
COMPRESSED = [
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
]


class Node:
    """Listens for peers and takes what they store."""

    def __init__(self, rules: Rules, inbox: Inbox, journal: Journal):
        self.rules = rules
        self.inbox = inbox
        self.journal = journal
        self._server = None

    def start(self) -> int:
        """Begin to listen; returns the port. UserError where that is impossible."""
        table = self.rules.dicom
        entity = _entity(table)
        entity.require_called_aet = True
        entity.maximum_associations = MAX_ASSOCIATIONS
        entity.supported_contexts = _contexts()
        handlers = [
            (evt.EVT_REQUESTED, self._expect_peer),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_CONN_CLOSE, lambda event: self.inbox.close(event.assoc)),
        ]
        secure = None if table.tls is None else tls_context(table.tls, ssl.Purpose.CLIENT_AUTH)
        try:
            self._server = entity.start_server(
                (table.host, table.port), block=False, evt_handlers=handlers, ssl_context=secure
            )
        except OSError as error:
            place = (table.host, table.port, "dicom.host, dicom.port")
            raise cannot_listen(error, *place) from None
        return self._server.server_address[1]

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()

    def _expect_peer(self, event: evt.Event) -> None:
        """Refuse an association of anybody who is not among the peers."""
        primitive = event.assoc.requestor.primitive
        title = primitive.calling_ae_title.strip()
        address = event.assoc.requestor.address
        peer = self.rules.peer(title)
        called = primitive.called_ae_title.strip()
        if peer is None or not _is_address(peer.host, address):
            reason = "unknown sender"
            code = 3  # calling AE title not recognized: PS3.8, table 9-21
        elif called != self.rules.dicom.title:
            reason = "wrong AE title called"
            code = 7
        else:
            return

        # first: where the log cannot be written, the sender is refused all the same
        event.assoc.acse.send_reject(0x01, 0x01, code)
        event.assoc.kill()
        self.journal.say("refused", sender=title, address=address, reason=reason)

    def _store(self, event: evt.Event) -> int:
        title = event.assoc.requestor.ae_title.strip()
        try:
            self.inbox.take(event.encoded_dataset(), title, event.assoc)
        except Refused as error:
            self.journal.say("instance refused", sender=title, reason=str(error))
            return CANNOT_UNDERSTAND
        except OSError as error:
            self.journal.say("instance not kept", sender=title, reason=error.strerror)
            return OUT_OF_RESOURCES
        return SUCCESS


def _contexts() -> list[PresentationContext]:
    """All storage classes with the transfer syntaxes that can be read here, and Verification.

    Deflated data are left out: a small message can hold any number of bytes.
    """
    syntaxes = UNCOMPRESSED + [each for each in COMPRESSED if _can_be_read(each)]
    contexts = [build_context(Verification, UNCOMPRESSED)]
    for context in AllStoragePresentationContexts:
        contexts.append(build_context(context.abstract_syntax, syntaxes))
    return contexts


def _can_be_read(syntax: uid.UID) -> bool:
    """Whether a package is installed that reads all images of a compressed transfer syntax."""
    packages = get_decoder(syntax).available_plugins
    reads_8_bits = syntax == uid.JPEGExtended12Bit and packages == ("pillow",)
    return bool(packages) and not reads_8_bits


def _is_address(host: str, address: str) -> bool:
    """Whether an address is one of a host's."""
    if host == address:
        return True
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):  # UnicodeError: no name of a host
        return False
    return any(each[4][0] == address for each in found)


def tls_context(table: TlsTable, purpose: ssl.Purpose) -> ssl.SSLContext:
    """The TLS settings of a server, or of a client; UserError for files that are missing or wrong."""
    try:
        context = ssl.create_default_context(purpose, cafile=table.authorities or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(table.certificate, table.key)
    except (OSError, ssl.SSLError) as error:
        what = f"the certificate or the key cannot be read: {error.strerror or error}"
        raise UserError(what, where="tls", allowed="PEM files") from None

    if purpose is ssl.Purpose.SERVER_AUTH:
        context.check_hostname = False  # AE titles and addresses identify a peer
        context.verify_mode = ssl.CERT_REQUIRED if table.authorities else ssl.CERT_NONE
    elif table.authorities:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def send(files: Sequence[Path], peer: PeerTable, own: DicomTable) -> str:
    """Send DICOM files to a peer by C-STORE; returns "" if it has all of them, else the reason."""
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    entity = _entity(own)
    for name in sorted({header.SOPClassUID for header in headers}):
        entity.add_requested_context(name, UNCOMPRESSED[:2])

    try:
        link = _associate(entity, peer, own)
    except ConnectionError as error:
        return str(error)

    try:
        for file in files:
            answer = link.send_c_store(pydicom.dcmread(file))
            if "Status" not in answer:
                return "the connection ended"
            if answer.Status not in (SUCCESS, 0xB000, 0xB006, 0xB007):  # warnings: it is stored
                return f"the peer answered with status 0x{answer.Status:04X}"
    except ValueError as error:
        return f"the peer does not take these images ({type(error).__name__})"
    except RuntimeError:  # pynetdicom: there is no association any more
        return "the connection ended"
    finally:
        link.release()
    return ""


def pull(study: str, peer: PeerTable, own: DicomTable) -> str:
    """Let a peer send a study to the service by C-MOVE; returns "" once it has sent all of it, else
    the reason.
    """
    wanted = pydicom.Dataset()
    wanted.QueryRetrieveLevel = "STUDY"
    wanted.StudyInstanceUID = study
    entity = _entity(own)
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    try:
        link = _associate(entity, peer, own)
    except ConnectionError as error:
        return str(error)

    status = None
    try:
        model = StudyRootQueryRetrieveInformationModelMove
        for answer, _ in link.send_c_move(wanted, own.title, model):
            status = answer.get("Status")
    except ValueError as error:
        return f"the peer does not move studies ({type(error).__name__})"
    finally:
        link.release()
    if status is None:
        return "the connection ended"
    return "" if status == SUCCESS else f"the peer answered with status 0x{status:04X}"


def _entity(own: DicomTable) -> AE:
    """An application entity of the service's title, which waits for nobody for ever."""
    entity = AE(ae_title=own.title)
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = TIMEOUT
    entity.connection_timeout = TIMEOUT
    return entity


def _associate(entity: AE, peer: PeerTable, own: DicomTable) -> Association:
    """An association with a peer; ConnectionError where there is none."""
    secure = None
    if peer.tls:
        if own.tls is None:
            raise ConnectionError("the peer wants TLS, but dicom.tls is missing")
        secure = (tls_context(own.tls, ssl.Purpose.SERVER_AUTH), None)

    link = entity.associate(peer.host, peer.port, ae_title=peer.title, tls_args=secure)
    if link.is_established:
        return link
    refused = "the peer refused the association"
    raise ConnectionError(refused if link.is_rejected else "no connection")
