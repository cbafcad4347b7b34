"""Small valid DICOM files of many kinds, made for the tests: what scanners, archives and
anonymisers leave.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items

AXIAL = ((1, 0, 0), (0, 1, 0))
CORONAL = ((1, 0, 0), (0, 0, -1))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
OBLIQUE = ((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6))
CLASSES = {
    "MR": uid.MRImageStorage,
    "CT": uid.CTImageStorage,
    "OT": uid.SecondaryCaptureImageStorage,
}
HEADER = {
    "SpecificCharacterSet": "ISO_IR 100",
    "StudyDate": "20200102",
    "StudyTime": "101112",
    "StudyID": "S1",
    "AccessionNumber": "A1",
    "Manufacturer": "Scanner Works",
    "ManufacturerModelName": "One",
    "ReferringPhysicianName": "",
    "SeriesDescription": "T1 se",
    "ProtocolName": "T1 se",
    "PatientName": "Doe^Jane",
    "PatientID": "P1",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "SeriesNumber": 3,
    "InstanceNumber": 1,
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.3",
    "PositionReferenceIndicator": "",
}
OWN = {
    "MR": {
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "EchoTime": 15,
        "RepetitionTime": 500,
    },
    "CT": {
        "KVP": 120,
        "AcquisitionNumber": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "RescaleType": "HU",
    },
}


def head(
    count: int = 5, rows: int = 24, columns: int = 20, seed: int = 0, top: int = 900
) -> np.ndarray:
    """int16 (slices, rows, columns), 0 outside of an ellipse; no two slices alike, no side like its
    mirror.
    """
    z, y, x = np.mgrid[:count, :rows, :columns].astype(float)
    inside = ((y - rows / 2) / rows) ** 2 + ((x - columns / 2) / columns) ** 2 < 0.18
    pattern = 300 + 20 * z + 9 * y + 4 * x + np.random.default_rng(seed).uniform(0, 60, z.shape)
    return np.where(inside, pattern * top / 900, 0).astype(np.int16)


def change(made: Dataset, **elements) -> Dataset:
    """Set elements of a header; None removes one."""
    for keyword, value in elements.items():
        if value is None:
            made.pop(keyword, None)
        else:
            setattr(made, keyword, value)
    return made


def dataset(modality: str = "MR", **elements) -> FileDataset:
    """A header with what its storage class has to have, without pixels."""
    made = change(
        Dataset(),
        SOPClassUID=CLASSES[modality],
        SOPInstanceUID=uid.generate_uid(),
        Modality=modality,
    )
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return change(made, **HEADER | OWN.get(modality, {}) | elements)


def save(made: Dataset, path: Path, numbers: np.ndarray, bits: int = 16, **elements) -> Path:
    """Write a header with pixels: (rows, columns), or (frames, rows, columns)."""
    made.Rows, made.Columns = numbers.shape[-2:]
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = 8 * numbers.dtype.itemsize
    made.BitsStored = min(bits, made.BitsAllocated)
    made.HighBit = min(bits, made.BitsAllocated) - 1
    made.PixelRepresentation = int(numbers.dtype.kind == "i")
    if numbers.ndim == 3:
        made.NumberOfFrames = len(numbers)

    made.PixelData = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    made["PixelData"].VR = "OB" if made.BitsAllocated == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    change(made, **elements).save_as(path, enforce_file_format=True)
    return path


def series(
    folder: Path,
    numbers: np.ndarray,
    *,
    modality: str = "MR",
    axes: Sequence[Sequence[float]] = AXIAL,
    origin: Sequence[float] = (-30.0, -40.0, 10.0),
    spacing: tuple[float, float] = (1.5, 1.25),
    step: float = 3.0,
    lean: Sequence[float] = (0.0, 0.0, 0.0),
    skip: Sequence[int] = (),
    prefix: str = "IM",
    **elements,
) -> list[Path]:
    """A classic series, one file a slice, named so that names say nothing of the order; its paths
    by position.

    `step` mm between slices along the normal, `lean` mm more from slice to slice (a tilted gantry),
    `skip` leaves slices out.
    """
    row, column = np.array(axes, dtype=float)
    names = np.random.default_rng(7).permutation(len(numbers))
    paths = []
    for k, plane in enumerate(numbers):
        if k not in skip:
            made = dataset(
                modality, InstanceNumber=k + 1, SliceThickness=step, PixelSpacing=list(spacing)
            )
            place = np.array(origin) + k * (step * np.cross(row, column) + np.array(lean))
            made.ImagePositionPatient = [round(float(mm), 6) for mm in place]
            made.ImageOrientationPatient = [*map(float, row), *map(float, column)]
            paths.append(save(made, folder / f"{prefix}{names[k]:03d}.dcm", plane, **elements))

    return paths


def patient(root: Path, n: int) -> None:
    """The T1 and the T2 series of patient `n`, in the folder of all patients' files."""
    for k, words in enumerate(("t1_se_tra", "t2_tse_tra")):
        header = {
            "PatientID": f"P{n}",
            "SeriesInstanceUID": f"1.2.{n}.{k}",
            "SeriesDescription": words,
            "ProtocolName": words,
            "StudyInstanceUID": f"1.3.{n}",
            "FrameOfReferenceUID": f"1.4.{n}",
        }
        series(root / "all", head(8, 24, 20, seed=10 * n + k), prefix=f"{k}-{n}-", **header)


def enhanced(
    path: Path, numbers: np.ndarray, order: Sequence[int] | None = None, echoes: int = 1
) -> Path:
    """An Enhanced MR object: frames in `order`, a slope for each, `echoes` stacks at the same
    positions.
    """
    made = dataset(
        "MR",
        SOPClassUID=uid.EnhancedMRImageStorage,
        ImageType=["ORIGINAL", "PRIMARY", "T1", "NONE"],
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=[1.5, 1.25], SliceThickness=3.0)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    made.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    planes = []
    for echo in range(echoes):
        for k in range(len(numbers)) if order is None else order:
            frame = Dataset()
            frame.PlanePositionSequence = _item(ImagePositionPatient=[-30.0, -40.0, 10.0 + 3.0 * k])
            frame.FrameContentSequence = _item(StackID="1", InStackPositionNumber=k + 1)
            frame.MREchoSequence = _item(EffectiveEchoTime=15.0 + 65.0 * echo)
            values = {"RescaleSlope": 2.0, "RescaleIntercept": float(k), "RescaleType": "US"}
            frame.PixelValueTransformationSequence = _item(**values)
            frames.append(frame)
            planes.append(numbers[k] + echo)

    made.PerFrameFunctionalGroupsSequence = Items(frames)
    return save(made, path, np.stack(planes))


def _item(**elements) -> Items:
    return Items([change(Dataset(), **elements)])
