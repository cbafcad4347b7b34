"""Nothing leaks, the quick part: errors without a file's content, names of patients nowhere, headers left behind."""

import random

import dicom_files as made
import pytest

from gantk.errors import UserError
from gantk.formats import files as io

pytest.importorskip("pydicom")
MARKS = {"PatientName": "Qvornax^Ilse", "PatientID": "ZQ7714093", "PatientAddress": "Krumbweg 77", "OperatorsName":
         "Xubrandt", "InstitutionName": "Klinik Wolperding"}  # fmt: skip
WORDS = ("Qvornax", "Ilse", "ZQ7714093", "Krumbweg", "Xubrandt", "Wolperding")


def test_a_dicom_file_with_one_changed_byte_is_not_quoted(tmp_path, capfd):
    whole = made.series(tmp_path, made.head(1), **MARKS)[0].read_bytes()
    rng, path, refused = random.Random(0), tmp_path / "x.dcm", 0
    for _ in range(150):
        broken = bytearray(whole)
        broken[rng.randrange(128, len(whole) - 960)] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            io.read(path).facts  # noqa: B018
            io.scans(tmp_path)
        except UserError as error:
            assert len(str(error)) < 200 + len(str(path)) and not any(word in str(error) for word in WORDS)
            assert error.__cause__ is None  # which a traceback would show
            refused += 1
    assert refused > 10 and capfd.readouterr() == ("", "")


def test_a_patient_of_dicom_has_a_pseudonym_which_sorts_as_its_identifier(tmp_path):
    import pickle

    from gantk_dicom.names import pseudonym, study_pseudonym

    raw = [f"P-{number}" for number in (9, 10, 2, 33, 4, 100)]
    alias = [pseudonym(each) for each in raw]
    assert [each.of for each in sorted(alias)] == sorted(raw) and pickle.loads(pickle.dumps(alias[0])).of == raw[0]
    studies = [study_pseudonym(each, ("1.2", "3.4")) + "/plane-001" for each in alias]
    assert [each.of for each in sorted(studies)] == sorted(f"{each}/1.2/3.4/plane-001" for each in raw)
    made.series(tmp_path, made.head(2), **MARKS | {"SeriesDescription": "T1 se Qvornax ZQ7714093"})
    (scan,) = io.scans(tmp_path)
    facts = io.read(scan).facts
    assert facts["patient"] == pseudonym("ZQ7714093") != "ZQ7714093" and facts["description"] == "T1 se"
    made.series(
        tmp_path, made.head(3), SeriesInstanceUID="1.2.9", prefix="B", **MARKS | {"SeriesDescription": "ilse T2"}
    )
    assert [scan.name for scan in io.scans(tmp_path)] == ["3-T1_se", "3-T2"]


def test_an_error_quotes_at_most_200_characters_of_a_file_and_every_path_whole():
    said = str(UserError(f"'{'Doe John ' * 900}' is no split", where="x.csv, line 3"))
    assert len(said) < 300 and said.startswith("'Doe John") and said.endswith("(x.csv, line 3)")
    path = "/data" + "/very-long-name" * 40
    assert path in str(UserError(f"there is no file '{path}', as the run's own list says, which isn't the patient's"))
