"""`gantk serve` beside a real PACS: Orthanc and DCMTK on the loopback address."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest

pytest.importorskip("pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"')
pytest.importorskip("fastapi", reason='needs fastapi: pip install "gantk[serve]"')

import pydicom
import requests
from pydicom import uid
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE
from serving import (
    GANTK,
    SENDER,
    Process,
    Server,
    free_ports,
    listens,
    store,
    study,
    tiny_model,
    wait_for,
)

PROGRAMS = ("Orthanc", "storescu", "findscu")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
ORTHANC = "ORTHANC"  # AE title
ELSEWHERE = "ELSEWHERE"  # AE title of a peer at another address
ROUTE = """
function OnStableStudy(study, tags, metadata)
  for _, each in pairs(ParseJson(RestApiGet('/studies/' .. study .. '/instances'))) do
    SendToModality(each['ID'], 'GANTK')
  end
end
"""
NAMES = ("zweifel", "amalie", "mrn-77", "19431207", "1943-12-07")  # of `serving.study`
QUIET_SECONDS = 12.0  # a sender on a busy machine pauses for seconds
SECONDS = 180.0  # for a round trip, on a busy machine


class Orthanc(Process):
    """An Orthanc that sends each study that it gets to gantk; its REST interface."""

    def __init__(self, folder: Path, port: int, gantk_port: int, transcoding: str = ""):
        (http,) = free_ports(1)
        self.port = port
        self.http = http
        script = folder / "route.lua"
        settings = {
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
            "HttpPort": http,
            "DicomPort": port,
            "DicomAet": ORTHANC,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomModalities": {GANTK: [GANTK, "127.0.0.1", gantk_port]},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "LuaScripts": [str(script)],
            "Plugins": [],
            "StableAge": 2,
        }
        if transcoding:
            settings["IngestTranscoding"] = transcoding
        configuration = folder / "orthanc.json"
        super().__init__(folder, "orthanc-server", ["Orthanc", configuration])
        script.write_text(ROUTE)
        configuration.write_text(json.dumps(settings))

    def start(self) -> None:  # type: ignore[override]
        super().start(lambda: listens(self.http) and listens(self.port))

    def rest(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.http}/{path}", timeout=60)

    def instances(self) -> list[pydicom.Dataset]:
        """All that it holds, read back, by position."""
        numbers = self.rest("instances").json()
        contents = [self.rest(f"instances/{each}/file").content for each in numbers]
        found = [pydicom.dcmread(DicomBytesIO(content)) for content in contents]
        return sorted(found, key=lambda each: each.ImagePositionPatient[2])

    def derived(self) -> list[pydicom.Dataset]:
        """The instances that gantk has made."""
        return [each for each in self.instances() if each.get("SyntheticData") == "YES"]

    def store(self, files: list[Path], syntax: str = "-xe") -> None:
        """Send files by DCMTK's storescu, which proposes a transfer syntax."""
        program = ["storescu", syntax, "-aet", SENDER, "-aec", ORTHANC, "127.0.0.1", str(self.port)]
        subprocess.run([*program, *map(str, files)], check=True, capture_output=True, timeout=120)

    def find(self, folder: Path, study_uid: str) -> list[pydicom.Dataset]:
        """The series of a study by DCMTK's findscu."""
        folder.mkdir()
        keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study_uid}"]
        keys += ["SeriesInstanceUID", "SeriesDescription", "Modality"]
        program = ["findscu", "-S", "-X", "-od", str(folder), "-aec", ORTHANC]
        for key in keys:
            program += ["-k", key]
        program += ["127.0.0.1", str(self.port)]
        subprocess.run(program, check=True, capture_output=True, timeout=120)
        return [pydicom.dcmread(file, force=True) for file in sorted(folder.iterdir())]


class Hospital:
    """An Orthanc and a service that send to each other."""

    def __init__(self, folder: Path, model: Path, transcoding: str = ""):
        self.folder = folder
        self.port, orthanc_port, self.http = free_ports(3)
        self.orthanc = Orthanc(folder, orthanc_port, self.port, transcoding)
        peers = [
            {"title": SENDER, "host": "127.0.0.1"},
            {"title": ELSEWHERE, "host": "192.0.2.7"},  # an address for documentation: RFC 5737
            {"title": ORTHANC, "host": "127.0.0.1", "port": orthanc_port},
        ]
        rule = {"when": {"contrast": "T1"}, "model": str(model), "to": "T2", "send": ORTHANC}
        rules = {
            "service": {"quiet": QUIET_SECONDS, "retry": 0.5, "keep_inputs": 1.0},
            "dicom": {"port": self.port},
            "http": {"port": self.http},
            "peers": peers,
            "rules": [rule],
        }
        self.server = Server(folder, rules)

    def __enter__(self) -> Hospital:
        self.orthanc.start()
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()
        self.orthanc.__exit__()

    def ended(self, study_uid: str) -> bool:
        """Whether there are jobs of a study, and all have ended."""
        jobs = [job for job in self.server.jobs() if job.study == study_uid]
        return bool(jobs) and all(job.state in ("sent", "failed") for job in jobs)

    def inputs(self) -> list[pydicom.Dataset]:
        """What the service has received and kept."""
        return [pydicom.dcmread(file) for file in (self.server.folder / "inputs").rglob("*.dcm")]


def read(files: list[Path]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in files]


def study_of(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0]).StudyInstanceUID)


def expect_derived(made: list[pydicom.Dataset], sources: list[pydicom.Dataset]) -> None:
    """Assert that a derived series is what it has to be for a source series, both by position."""
    assert len(made) == len(sources)
    assert len({each.SeriesInstanceUID for each in made}) == 1
    assert made[0].SeriesInstanceUID != sources[0].SeriesInstanceUID
    for new, source in zip(made, sources, strict=True):
        (reference,) = new.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert new.SyntheticData == "YES"
        assert new.ImageType[0] == "DERIVED"
        for same in (
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "PatientID",
            "PatientName",
            "Modality",
            "Rows",
            "Columns",
            "PixelSpacing",
            "ImagePositionPatient",
            "ImageOrientationPatient",
        ):
            assert new[same].value == source[same].value, same


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def hospital(model, tmp_path_factory):
    with Hospital(tmp_path_factory.mktemp("hospital"), model) as found:
        yield found


@pytest.fixture(scope="module")
def routed(hospital) -> list[Path]:
    """The T1 and the T2 series of a study that was sent to Orthanc, and came back from gantk."""
    files = study(hospital.folder / "studies", 1, ("T1", "T2"))
    hospital.orthanc.store(files)
    wait_for(lambda: len(hospital.orthanc.derived()) == 3, SECONDS, "a derived series in Orthanc")
    return files


def test_the_derived_series_is_found_by_c_find(hospital, routed, tmp_path):
    series = hospital.orthanc.find(tmp_path / "found", study_of(routed))

    described = sorted(str(each.SeriesDescription) for each in series)
    assert len(described) == 3  # T1, T2, and the T2 made of T1
    assert described[-1].startswith("synthetic T2, ")
    assert described[-1].endswith("(gantk)")


def test_the_derived_series_has_its_source_and_its_grid(hospital, routed):
    expect_derived(hospital.orthanc.derived(), read(routed[:3]))


def test_a_synthetic_series_that_comes_back_is_not_translated(hospital, routed):
    """Orthanc sends the study again, with what gantk has made."""
    wait_for(
        lambda: hospital.server.log("synthetic, left out"), SECONDS, "the series that comes back"
    )

    jobs = [job for job in hospital.server.jobs() if job.study == study_of(routed)]
    assert [job.state for job in jobs] == ["sent"]
    assert len(hospital.orthanc.derived()) == 3


@pytest.mark.parametrize(
    ("sender", "called", "reason"),
    [
        (SENDER, "SOMEBODY", "wrong AE title called"),
        ("NOBODY", GANTK, "unknown sender"),
        (ELSEWHERE, GANTK, "unknown sender"),  # its title, from an address that is not its own
    ],
)
def test_strangers_are_refused_and_logged(hospital, tmp_path, sender, called, reason):
    files = study(tmp_path, 50)
    before = len(hospital.server.log("refused"))
    program = ["storescu", "-aet", sender, "-aec", called, "127.0.0.1", str(hospital.port)]
    done = subprocess.run(
        [*program, *map(str, files)], capture_output=True, timeout=120, check=False
    )

    assert done.returncode != 0
    (line,) = wait_for(
        lambda: hospital.server.log("refused")[before:], SECONDS, "a line of the log"
    )
    assert (line["sender"], line["reason"]) == (sender, reason)
    assert not [each for each in hospital.inputs() if each.StudyInstanceUID == study_of(files)]


def test_studies_interleaved_over_two_associations_stay_apart(hospital, tmp_path):
    both = [study(tmp_path, number, slices=4) for number in (2, 3)]
    turn = threading.Barrier(2)  # after each instance, one waits for the other
    with ThreadPoolExecutor(2) as threads:
        for left in threads.map(lambda files: store(files, hospital.port, pause=turn.wait), both):
            assert left == []

    for files in both:
        wait_for(lambda: hospital.ended(study_of(files)), SECONDS, "its translation")  # noqa: B023
        made = [
            each for each in hospital.orthanc.derived() if each.StudyInstanceUID == study_of(files)
        ]
        expect_derived(made, read(files))


def test_corrupt_instances_do_not_harm_good_ones(hospital, tmp_path):
    good = study(tmp_path / "good", 4)
    harmed = study(tmp_path / "harmed", 5, slices=4)
    contents = [hospital_content(file) for file in harmed]
    rng = random.Random(11)
    link = associate(hospital.port)
    statuses = []
    for number, file in enumerate(good):
        for _ in range(8):
            damaged = corrupt(rng.choice(contents), rng)
            with patch("pynetdicom.association.encode", return_value=damaged):
                answer = link.send_c_store(pydicom.dcmread(harmed[number]))
            statuses.append(answer.get("Status"))
        assert link.send_c_store(pydicom.dcmread(file)).Status == 0
    link.release()

    assert None not in statuses  # each was answered: the association went on
    assert 0xC000 in statuses
    assert len(hospital.server.log("instance refused")) >= statuses.count(0xC000)
    wait_for(lambda: hospital.ended(study_of(good)), SECONDS, "the good study")
    made = [each for each in hospital.orthanc.derived() if each.StudyInstanceUID == study_of(good)]
    expect_derived(made, read(good))
    wait_for(
        lambda: (
            not any(hospital.server.counts()[each] for each in ("received", "running", "waiting"))
        ),
        SECONDS,
        "the end of the damaged studies",
    )
    assert hospital.server.log("error") == []


def test_nobody_is_named(hospital, routed):
    """After all that was sent above: no name, number or birth date but in DICOM files."""
    token = (hospital.server.folder / "token").read_text()
    for path in ("status", "metrics", ""):
        answer = requests.get(
            f"http://127.0.0.1:{hospital.http}/{path}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        assert answer.ok
        assert not named(answer.text), path

    for options in ([], ["--json"]):
        command = [*hospital.server.command[:4], "status", *options, str(hospital.server.rules)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        assert "1 failed" in told.stdout or "sent" in told.stdout
        assert not named(told.stdout + told.stderr)

    assert not named(hospital.server.out.read_text() + hospital.server.err.read_text())
    for path in hospital.server.folder.rglob("*"):
        assert not named(path.relative_to(hospital.server.folder).as_posix())
        if path.is_file() and path.suffix != ".dcm":
            assert not named(path.read_bytes().decode("latin-1")), path.name


@pytest.mark.parametrize(
    ("compressed", "transcoded", "received"),
    [
        # Orthanc gets it, keeps it and sends it as it is
        (True, "", uid.RLELossless),
        # gantk cannot read these without further packages, and says so: Orthanc decompresses them
        (False, uid.JPEGLosslessSV1, uid.ExplicitVRLittleEndian),
        (False, uid.JPEGExtended12Bit, uid.ExplicitVRLittleEndian),
    ],
    ids=["rle", "jpeg-lossless", "jpeg-12-bit"],
)
def test_compressed_instances_are_translated(model, tmp_path, compressed, transcoded, received):
    files = study(tmp_path / "studies", 6, bits=12, PixelRepresentation=0)
    with Hospital(tmp_path, model, transcoded) as hospital:
        if compressed:
            files = [compress(file, tmp_path / "compressed") for file in files]
        hospital.orthanc.store(files, "-xr" if compressed else "-xe")
        wait_for(lambda: len(hospital.orthanc.derived()) == 3, SECONDS, "a derived series")

        own = [each for each in hospital.orthanc.instances() if "SyntheticData" not in each]
        assert {each.file_meta.TransferSyntaxUID for each in own} == {transcoded or received}
        kept = hospital.inputs()
        assert {each.file_meta.TransferSyntaxUID for each in kept} == {received}
        # Orthanc gives new UIDs to what it compresses with a loss
        expect_derived(hospital.orthanc.derived(), own)


def compress(file: Path, folder: Path) -> Path:
    """A copy with RLE, by pydicom."""
    folder.mkdir(exist_ok=True)
    made = pydicom.dcmread(file)
    made.compress(uid.RLELossless)
    made.save_as(folder / file.name)
    return folder / file.name


def named(text: str) -> list[str]:
    """The names that a text has."""
    return [name for name in NAMES if name in text.lower()]


def associate(port: int):
    """An association as the sender."""
    entity = AE(ae_title=SENDER)
    entity.add_requested_context(uid.MRImageStorage, uid.ExplicitVRLittleEndian)
    link = entity.associate("127.0.0.1", port, ae_title=GANTK)
    assert link.is_established
    return link


def hospital_content(file: Path) -> bytes:
    """A dataset as it travels: without the file's head."""
    from pynetdicom.dsutils import encode

    return encode(pydicom.dcmread(file), is_implicit_vr=False, is_little_endian=True)


def corrupt(content: bytes, rng: random.Random) -> bytes:
    """A dataset that is cut, overwritten at some places, or nothing of one at all."""
    kind = rng.choice(("cut", "overwritten", "noise"))
    if kind == "noise":
        return rng.randbytes(500)
    if kind == "cut":
        return content[: rng.randrange(len(content)) // 2 * 2]
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 20)):
        damaged[rng.randrange(min(len(damaged), 1500))] = rng.randrange(256)
    return bytes(damaged)
