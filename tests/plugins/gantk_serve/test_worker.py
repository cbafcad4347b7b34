"""What `gantk serve` does with the series of an Orthanc, shown with a stand-in of its REST calls."""

import errno
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import read_json

pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "gantk[dicom]"')

import pydicom
from dicom_files import change, head, series
from orthanc_double import OrthancDouble
from serving import study, tiny_model

from gantk.errors import UserError
from gantk_serve.orthanc import Away, Orthanc, Refused, WrongAnswer, parse_record
from gantk_serve.rules import Rules
from gantk_serve.worker import MAX_ATTEMPTS, Worker


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def orthanc():
    return OrthancDouble()


@pytest.fixture(scope="module")
def loaded() -> dict:
    """The models that any worker has loaded, by name."""
    return {}


@pytest.fixture
def work(tmp_path, model, loaded, orthanc, monkeypatch):
    """`work(steps)` of one worker after another, all with the same folder and rule."""
    monkeypatch.setattr("gantk_serve.worker.RETRY_SECONDS", 0.0)

    def keep(name, model):
        loaded[name] = model
        return model

    def step(steps: int = 2, name: str = "serve", quiet: float = 3600.0, **rule) -> Worker:
        rule = {"model": model, "to": "T2"} | rule
        service = {"folder": str(tmp_path / name), "quiet": quiet, "device": "cpu"}
        (tmp_path / name).mkdir(exist_ok=True)
        worker = Worker(Rules.model_validate({"service": service, "rules": [rule]}), orthanc, print)
        worker.name = name
        load = worker._load
        worker.model = lambda name: loaded[name] if name in loaded else keep(name, load(name))
        for _ in range(steps):
            worker.step()
        return worker

    return step


@pytest.fixture
def scan(orthanc, tmp_path) -> str:
    """The name of a series of three slices in Orthanc."""
    return orthanc.add(*study(tmp_path / "s", 1))


def record(orthanc, series: str) -> dict:
    return parse_record(orthanc.metadata.get(series, b"").decode())


def refusal(orthanc, series: str) -> str:
    """Why a series was refused."""
    found = record(orthanc, series)
    assert found["outcome"] == "refused"
    return found["reason"]


def edit(file: Path, **elements) -> None:
    """Change elements of a DICOM file."""
    made = pydicom.dcmread(file)
    change(made, **elements)
    made.save_as(file)


def test_a_stable_series_becomes_one_derived_series(work, orthanc, tmp_path):
    files = study(tmp_path / "s", 1, slices=4)
    name = orthanc.add(*files)
    work(4)

    ((uid, made),) = orthanc.derived().items()
    sources = {each.SourceImageSequence[0].ReferencedSOPInstanceUID for each in made}
    assert sources == {pydicom.dcmread(file).SOPInstanceUID for file in files}
    assert made[0].SeriesDescription.startswith("synthetic T2, input does not fit, cyclegan 0.1.0")
    found = record(orthanc, name)
    assert (found["outcome"], found["derived"]) == ("done", [uid])
    assert "fits the training data: " in found["notes"]


def test_a_rule_refuses_series_that_do_not_fit(work, orthanc, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1, slices=4))
    work(fits="partly")
    told = refusal(orthanc, name)

    assert orthanc.derived() == {}
    assert "fits the training data: no, but the rule asks for partly; " in told


HTML = b"<html>Sign in to the hospital's network</html>"
WRONG_ANSWERS = {
    "changes, a page": ("GET", "/changes", HTML),
    "changes, half": ("GET", "/changes", b'{"Changes": [{"Seq": 1, "Cha'),
    "changes, null": ("GET", "/changes", b"null"),
    "changes, a text for a number": (
        "GET",
        "/changes",
        b'{"Changes": [{"Seq": "1", "ChangeType": "", "ID": "", "Date": ""}], "Done": true}',
    ),
    "changes, the same again": (
        "GET",
        "/changes",
        b'{"Changes": [{"Seq": 0, "ChangeType": "", "ID": "", "Date": ""}], "Done": false}',
    ),
    "series, a page": ("POST", "/tools/bulk-content", HTML),
    "series, an object": ("POST", "/tools/bulk-content", b"{}"),
    "series, without a state": ("POST", "/tools/bulk-content", b'[{"ID": "a"}]'),
    "instances, a page": ("GET", "/instances", HTML),
    "instances, without UIDs": (
        "GET",
        "/instances",
        b'[{"ID": "a", "FileUuid": "b", "MainDicomTags": {}}]',
    ),
    "instances, numbers": ("GET", "/instances", b"[1, 2]"),
    "instances, none": ("GET", "/instances", b"[]"),
    "instances, a path": (
        "GET",
        "/instances",
        b'[{"ID": "../x", "FileUuid": "b", "MainDicomTags": {"SOPInstanceUID": "1"}}]',
    ),
    "instances, deep": ("GET", "/instances", b"[" * 100_000),
    "file, a page": ("GET", "/file", HTML),
    "file, empty": ("GET", "/file", b""),
    "digest, a page": ("GET", "/md5", HTML),
    "lookup, a page": ("POST", "/tools/lookup", HTML),
    "lookup, half": ("POST", "/tools/lookup", b'[{"ID": "'),
    "stored, a page": ("POST", "/instances", HTML),
    "stored, not": ("POST", "/instances", b'{"Status": "FilteredOut"}'),
    "record, not stored": ("PUT", "/metadata/4268", HTML),
}


@pytest.mark.parametrize("kind", WRONG_ANSWERS)
def test_a_wrong_answer_loses_nothing(work, orthanc, tmp_path, kind):
    method, path, content = WRONG_ANSWERS[kind]
    scan = orthanc.add(*study(tmp_path / "s", 1))
    worker = work(0)
    orthanc.wrong[method, path] = content
    for _ in range(3):
        with suppress(Away, Refused):
            worker.step()
    assert record(orthanc, scan).get("outcome", "waiting") in ("waiting", "translating", "posting")
    assert worker.mark.read == 0 or scan in worker.waiting

    orthanc.wrong.clear()
    with suppress(Away):
        work(4)

    assert record(orthanc, scan)["outcome"] == "done"
    assert len(orthanc.derived()) == 1


def test_a_file_that_never_arrives_whole_stops_no_other(work, orthanc, tmp_path):
    bad = orthanc.add(*study(tmp_path / "a", 1))
    good = orthanc.add(*study(tmp_path / "b", 2))
    first = next(name for name, each in orthanc.files.items() if each["series"] == bad)
    orthanc.wrong["GET", f"{first}/file"] = b"DICM"
    work(4)

    assert record(orthanc, bad)["outcome"] == "waiting"
    assert "has not the MD5" in record(orthanc, bad)["reason"]
    assert record(orthanc, good)["outcome"] == "done"


WRONG_RECORDS = [
    b"5",
    b"[]",
    b"<html>",
    b'{"outcome": 5}',
    b'{"outcome": "done", "state": ["a"]}',
    b'{"outcome": "sending", "derived": []}',
    b'{"outcome": "translating", "attempts": "many"}',
    b'{"outcome": "done", "derived": {"a": 1}}',
    b'{"outcome": "waiting", "time": "yesterday"}',
]


@pytest.mark.parametrize("content", WRONG_RECORDS)
def test_a_record_of_another_shape_counts_as_none(work, orthanc, scan, content, capsys):
    orthanc.metadata[scan] = content
    work(4)

    assert record(orthanc, scan)["outcome"] == "done"
    assert "its record has a shape that gantk does not write" in capsys.readouterr().out


def test_a_mark_of_another_shape_begins_anew(work, orthanc, scan, tmp_path):
    (tmp_path / "serve").mkdir()
    for content in (b"[]", b'{"read": 3, "last": 5}', b'{"read": 3, "last": {}}', b"\xff"):
        (tmp_path / "serve" / "changes.json").write_bytes(content)
        work(0)
    work(4)

    assert record(orthanc, scan)["outcome"] == "done"


def test_a_series_that_still_arrives_is_left_alone(work, orthanc, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1), stable=False)
    work()
    assert orthanc.derived() == {}

    orthanc.make_stable(name)
    work()
    assert len(orthanc.derived()) == 1


def test_stability_is_not_believed_after_a_restart(work, orthanc, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1), stable=False)
    orthanc.stable.add(name)  # without a change: so does an Orthanc that was killed
    work()

    assert orthanc.derived() == {}


def test_the_same_input_twice_is_one_series(work, orthanc, tmp_path):
    files = study(tmp_path / "s", 1)
    name = orthanc.add(*files)
    work()
    before = orthanc.derived().keys()
    orthanc.add(*files)
    work()

    assert orthanc.derived().keys() == before
    assert record(orthanc, name)["outcome"] == "done"


def test_corrected_pixels_make_another_series(work, orthanc, tmp_path):
    files = study(tmp_path / "s", 1)
    orthanc.add(*files)
    work()
    (first,) = orthanc.derived()
    made = pydicom.dcmread(files[0])
    pixels = made.pixel_array.copy()
    pixels[3, 3] += 200
    made.PixelData = pixels.tobytes()
    made.save_as(files[0])
    name = orthanc.add(files[0])
    work()

    assert len(orthanc.derived()) == 1
    (second,) = record(orthanc, name)["derived"]
    assert second != first
    assert second in orthanc.derived()


def test_slices_that_come_during_a_translation_count(work, orthanc, tmp_path, monkeypatch):
    files = study(tmp_path / "s", 1, slices=6)
    orthanc.add(*files[:4])
    import gantk

    translate = gantk.translate

    def slow(*given, **options):
        if len(orthanc.files) == 4:
            orthanc.add(*files[4:])
        return translate(*given, **options)

    monkeypatch.setattr("gantk.translate", slow)
    work(3)

    assert [len(made) for made in orthanc.derived().values()] == [6]


MIXED = {
    "patients' names": {"PatientName": "Other^One"},
    "modalities": {"Modality": "CT"},
    "frames of reference": {"FrameOfReferenceUID": "1.2.9"},
}


@pytest.mark.parametrize("kind", MIXED)
def test_mixed_series_are_refused_by_instance_number(work, orthanc, tmp_path, kind):
    files = study(tmp_path / "s", 1, slices=4)
    for file in files[2:]:
        edit(file, **MIXED[kind])
    name = orthanc.add(*files)
    work()

    told = refusal(orthanc, name)
    assert "mixes 2 patients or acquisitions" in told
    assert "instances 1, 2" in told
    assert "instances 3, 4" in told
    assert "Other" not in told
    assert orthanc.derived() == {}


def test_two_patients_with_one_series_uid_are_refused(work, orthanc, tmp_path):
    files = study(tmp_path / "s", 1, slices=4)
    for file in files[2:]:
        edit(file, PatientID="other")
    names = {orthanc.add(*files[:2]), orthanc.add(*files[2:])}
    work()

    for name in names:
        assert "2 patients or studies" in refusal(orthanc, name)


def test_a_lacking_slice_is_refused_by_instance_number(work, orthanc, tmp_path):
    files = study(tmp_path / "s", 1, slices=6)
    name = orthanc.add(*files[:2], *files[3:])
    work()

    told = refusal(orthanc, name)
    assert "is not evenly spaced" in told
    assert "'instance 2.dcm' and 'instance 4.dcm'" in told
    assert str(tmp_path) not in told


@pytest.mark.parametrize("count", [1, 4])
def test_an_aborted_series_is_refused_until_it_is_whole(work, orthanc, tmp_path, count):
    files = study(tmp_path / "s", 1, slices=6, ImagesInAcquisition=6)
    name = orthanc.add(*files[:count])
    work()
    assert f"lacks {6 - count} of the 6 images" in record(orthanc, name)["reason"]
    assert orthanc.derived() == {}

    orthanc.add(*files[count:])
    work()
    assert [len(made) for made in orthanc.derived().values()] == [6]


def test_what_no_rule_is_for_is_listed(work, orthanc, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1, ("T2",)))
    work(when={"contrast": "T1"})

    found = record(orthanc, name)
    assert (found["outcome"], found["reason"]) == ("left out", "no rule is for it")


def test_synthetic_series_are_not_translated_again(work, orthanc, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1, SyntheticData="YES"))
    other = orthanc.add(*study(tmp_path / "s", 2, SeriesDescription="synthetic T1, m 1 (gantk)"))
    work()

    assert "a synthetic image" in refusal(orthanc, name)
    assert record(orthanc, other)["reason"] == "it is synthetic"
    assert len(orthanc.files) == 6


def test_results_are_sent_until_the_modality_has_them(work, orthanc, scan):
    orthanc.refused = "no route to it"
    worker = work(send="PACS")
    assert record(orthanc, scan)["outcome"] == "sending"
    assert record(orthanc, scan)["reason"] == "PACS: no route to it"
    known = orthanc.metadata[scan]
    worker.step()
    assert orthanc.metadata[scan] == known
    assert orthanc.sent == []

    orthanc.refused = ""
    work(1, send="PACS")  # another process
    assert record(orthanc, scan)["outcome"] == "done"
    assert [modality for modality, _ in orthanc.sent] == ["PACS"]


CUTS = {
    "while fetching": ("GET", "/instances"),
    "while posting": ("POST", "/instances"),
    "while noting": ("PUT", "/series"),
    "while withdrawing": ("DELETE", "/series"),
    "while sending": ("POST", "/modalities"),
}


class Killed(BaseException):
    """Ends a worker at once."""


@pytest.mark.quick_cases(*(f"{cut}-killed" for cut in CUTS))
@pytest.mark.parametrize(
    "error", [Killed(), Away("gone"), Refused(507, "full")], ids=["killed", "away", "full"]
)
@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_anywhere_loses_and_doubles_nothing(work, orthanc, tmp_path, cut, error):
    files = study(tmp_path / "s", 1, slices=5)
    if cut == "while withdrawing":
        orthanc.add(*files[:3])
        work(send="PACS")
        orthanc.add(*files[3:])
    else:
        orthanc.add(*files)
    call = orthanc.call
    for number in range(1, 9):  # at the first call of this kind, the second, ...
        calls = 0

        def cut_off(method, path, number=number, **options):
            nonlocal calls
            if method == CUTS[cut][0] and path.startswith(CUTS[cut][1]):
                calls += 1
                if calls == number:
                    raise error
            return call(method, path, **options)

        orthanc.call = cut_off
        with suppress(Killed, Away, Refused):
            work(1, send="PACS")
        orthanc.call = call

    work(3, send="PACS")

    assert [len(made) for made in orthanc.derived().values()] == [5]
    (found,) = [
        parse_record(each.decode()) for each in orthanc.metadata.values() if b'"of"' not in each
    ]
    assert (found["outcome"], found["reason"]) == ("done", "")
    assert orthanc.sent


def test_two_workers_at_one_series_make_one(work, orthanc, scan, monkeypatch):
    other = work(0, "other")
    import gantk

    translate = gantk.translate
    nested = []

    def meanwhile(*given, **options):
        if not nested:
            nested.append(1)
            other.step()
        return translate(*given, **options)

    monkeypatch.setattr("gantk.translate", meanwhile)
    work(2, "one")

    assert len(orthanc.derived()) == 1
    assert record(orthanc, scan)["outcome"] == "done"


def test_an_orthanc_that_was_emptied_is_followed_anew(work, orthanc, tmp_path):
    files = [study(tmp_path / "s", number) for number in range(3)]
    for each in files:
        orthanc.add(*each)
    worker = work()
    assert len(orthanc.derived()) == 3

    orthanc.restart_empty()
    for each in files[1:]:
        orthanc.add(*each)
    worker.step()
    assert len(orthanc.derived()) == 2


def test_a_series_that_ends_the_worker_fails_at_last(work, orthanc, scan, monkeypatch):

    def end(*given, **options):
        raise Killed

    monkeypatch.setattr("gantk.translate", end)
    for number in range(MAX_ATTEMPTS):
        worker = work(0)
        worker.name = f"process {number}"
        with pytest.raises(Killed):
            worker.step()
    work(1)

    found = record(orthanc, scan)
    assert found["outcome"] == "failed"
    assert f"{MAX_ATTEMPTS} translations" in found["reason"]


def caused(cause: Exception) -> UserError:
    """The error of a reader that names the file and hides its cause."""
    try:
        try:
            raise cause
        except OSError:
            raise UserError("it cannot be read") from None
    except UserError as error:
        return error


ERRORS = {
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), "waiting"),
    "a read error": (OSError(errno.EIO, "Input/output error"), "waiting"),
    "no memory": (MemoryError(), "waiting"),
    "a damaged file": (OSError("cannot identify the image"), "failed"),
    "a missing part": (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "failed"),
    "a wrong input": (UserError("no"), "refused"),
    "what a full table of files stopped": (caused(OSError(errno.EMFILE, "Too many")), "waiting"),
    "a defect": (ZeroDivisionError(), "failed"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_only_what_may_pass_is_tried_again(work, orthanc, scan, monkeypatch, kind):
    error, outcome = ERRORS[kind]

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("gantk.translate", fail)
        worker = work(1)
    assert record(orthanc, scan)["outcome"] == outcome

    worker.step()
    assert len(orthanc.derived()) == (outcome == "waiting")


opens_left = 0  # of images, until one is refused; 0: none is refused


def refuse_an_open(event, arguments):
    global opens_left
    if event == "open" and opens_left and str(arguments[0]).endswith(".dcm"):
        opens_left -= 1
        if not opens_left:
            raise OSError(errno.EMFILE, "Too many open files", str(arguments[0]))


@pytest.mark.slow
def test_too_many_open_files_at_any_moment_is_tried_again(work, orthanc, tmp_path):
    global opens_left
    name = orthanc.add(*study(tmp_path / "s", 1, slices=3))
    worker = work(0)
    sys.addaudithook(refuse_an_open)
    outcomes = set()
    number = 0
    while not opens_left:  # until the last one was opened
        number += 1
        opens_left = number
        worker.step()
        outcomes.add(record(orthanc, name).get("outcome"))
    opens_left = 0

    assert number > 20
    assert outcomes <= {"waiting", "done"}
    assert [len(made) for made in orthanc.derived().values()] == [3]


def test_a_deleted_record_lets_a_series_be_tried_again(work, orthanc, scan, monkeypatch):

    def defect(*given, **options):
        raise ZeroDivisionError("Zweifel^Amalie")

    with monkeypatch.context() as patch:
        patch.setattr("gantk.translate", defect)
        worker = work(quiet=0.0)
        assert record(orthanc, scan)["outcome"] == "failed"
        assert "Zweifel" not in record(orthanc, scan)["reason"]

    del orthanc.metadata[scan]
    orthanc._change("UpdatedMetadata", scan, "series")
    worker.step()
    assert record(orthanc, scan)["outcome"] == "done"


def test_only_own_files_are_kept_and_they_are_private(work, orthanc, tmp_path, scan):
    work()
    kept = [path for path in (tmp_path / "serve").rglob("*") if path.is_file()]

    assert [path.name for path in kept] == ["changes.json"]
    assert kept[0].stat().st_mode & 0o077 == 0
    assert read_json(kept[0])["read"] == orthanc.log[-1]["Seq"]


def test_echoes_in_one_series_are_refused(work, orthanc, tmp_path):
    pixels = head(3)
    first = series(tmp_path / "1", pixels, SeriesInstanceUID="1.2.7", EchoTime=10)
    second = series(tmp_path / "2", pixels + 5, SeriesInstanceUID="1.2.7", EchoTime=90)
    for number, file in enumerate(second, start=4):
        edit(file, InstanceNumber=number)
    name = orthanc.add(*first, *second)
    work()

    told = refusal(orthanc, name)
    assert "instances 1, 2, 3 against instances 4, 5, 6" in told


def test_what_a_modality_still_has_is_told(work, orthanc, tmp_path):
    files = study(tmp_path / "s", 1, slices=6)
    name = orthanc.add(*files[:4])
    work(send="PACS")
    (first,) = orthanc.derived()
    orthanc.add(*files[4:])
    work(send="PACS")

    assert record(orthanc, name)["note"] == f"PACS may still have {first}"


def test_a_record_that_is_always_outdated_is_given_up(monkeypatch):
    """A server that answers each write with 412, whatever its ETag."""

    def call(self, method, path, **options):
        if method == "PUT":
            raise Refused(412, "outdated")
        raise Refused(404, "no such metadata")

    monkeypatch.setattr(Orthanc, "call", call)
    server = Orthanc.__new__(Orthanc)
    server.url = "http://localhost:8042"

    with pytest.raises(WrongAnswer, match="refused a record 100 times as outdated"):
        server.update_record("a", lambda record: record | {"state": "done"})
