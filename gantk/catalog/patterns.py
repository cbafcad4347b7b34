"""The words by which names of files and folders are read: a table of patterns, data and no code.

Domain. The first rule that finds both domains decides:
    0. nnU-Net's dataset.json names the channel: `p1_0000` is read as `p1_T1`
    1. a folder is named after the domain, or a usual synonym of it: `CT/007.png`, `p1/T1w/1.png`
    2. a word of the file's name is: `007_CT.png`, `sub-01_T1w.nii.gz`
    3. folders end in A and B: `trainA/`, `trainB/`
    4. there are exactly two folders, in alphabetical order
Patient. The first of these that is there decides:
    1. a folder, or a word of the file's name, that says person: `sub-01`, `Case003`, `002_S_0295`
    2. the first numbered folder that is no visit's, version's, scanner's or group's: `siteA/p07`
    3. the volume's name without contrast, date and visit: `IXI002-Guys` of `IXI002-Guys-T1.nii.gz`;
       with the folder if sites use the same names: `Berlin/001` of `Berlin/001_T1.nii.gz`; the
       folder if it is nothing else, or a series: `Meier` of `Meier/2020-01-02_T1_ax.nii.gz`
    4. of pictures, the number before the number of the slice: `12` of `12_030.png`
    Words before running numbers (`kirby_102.png`, `tcga_007.png`) may be patients: gantk asks.
Everything else: `gantk data check SCANS --table scans.csv` writes what these rules understood, with
empty cells where they do not know; users complete the table and train with it.

A new public set with names of its own is one more alternative here, and a line in the tests.
"""

from __future__ import annotations

import re

# --- splits

# `train`, `Testing`, `imagesTr`, and glued to what follows: `trainA`, `TrainT1`, `traint1`,
# `test_b`; not `trainers`.
SPLIT_WORD = re.compile(
    r"^(?i:training|train|testing|test|validation|valid|val|dev|imagestr|imagests|imagesva?l?)"
    r"(?=[A-Z0-9_\-. ]|[a-z]\d|[ab]$|$)"
)
SPLITS = {"tr": "train", "te": "test", "ts": "test", "va": "validation", "de": "validation"}

# --- masks

# A folder of masks, which is no domain: `labelsTr`, `masks`.
MASK_FOLDER = re.compile(r"(?i)(label|mask|seg|segmentation|annotation)s?(tr|ts|va?l?)?")
# A file's name: `1_mask`, `segmentation-0`, `tumorMask`, `x_dseg`, `LabelsForTesting`,
# `consensus_gt`, `lesions`, `GOLD_STANDARD`, FreeSurfer's `aparc.a2009s+aseg`, `wmparc`, `ribbon`;
# not `masked`, nor `lesion`, a class.
MASK_NAME = re.compile(
    r"(?i:mask|maske|msk|seg|segm|segmentation|segmentierung|label|annotation|parc|parcellation)[sS]?\d*(?![a-z])"
    r"|(?:^|[\W_])(?i:gt|lesions|ribbon)$|(?i:gold[\W_]?standard)"
)

# The word of a name for an image without skull: `T1_brain`, `t1_bet`, `T1_to_SRI_brain`.
STRIPPED_WORD = re.compile(r"(?i)[\W_]+(?:brain|bet|(?:skull[\W_]?)?stripped)(?=[\W_]|$)")

# --- visits, versions, scanners

# `20190302`, `2019-03-02`, with its time `20190302101500`, `02.03.2019`, `02.03.19`
_DATE = (
    r"(?:(?:19|20)\d\d[\W_]?[01]\d[\W_]?[0-3]\d(?:[0-2]\d[0-5]\d[0-5]\d)?"
    r"|[0-3]\d[-.][0-3]\d[-.](?:19|20)\d\d|[0-3]\d\.[01]\d\.\d\d)"
)
_VISIT = (
    r"(?:(?:sess?|session|visit|tp|time[\W_]?point|baseline|follow[\W_]?up|day|week|month|year"
    r"|verlauf(?:sbefund)?|(?:erst|vor|nach|verlaufs|folge|abschluss|eingangs)(?:untersuchung|kontrolle)"
    r"|nachsorge|rezidiv)[\W_]?[dmvw]?\d*"
    r"|(?:pre|post|prä|prae)"
    r"(?:[\W_]?(?:op(?:erati(?:ve|v|on))?|surgery|surgical|therapy|treatment|chemo|rt))?"
    r"|before|after|initial|vorher|nachher|(?:vor|nach)[\W_]?op"
    r"|kontrolle(?![\W_]?\d))"  # numbered ones are persons
)
_SERIES = r"(?:anat|scan|series|study|exam|run|acq|mr)[\W_]?\d+"
STARTS_WITH_DATE = re.compile(_DATE)
DATE_WORD = re.compile(rf"(?<![^\W_]){_DATE}(?![^\W_])")
# And the number of the series behind a date with its time, as dcm2niix names files.
DATE_AND_SERIES = re.compile(DATE_WORD.pattern + r"(?:(?<=\d{14})_\d{1,4}$)?")
# A date with its time, as converters of DICOM write it, and the number of series and echo.
TIME_AND_SERIES = re.compile(
    r"(?<![^\W_])((?:19|20)\d\d[01]\d[0-3]\d[0-2]\d[0-5]\d[0-5]\d)(?:_\d{1,4}[a-z]?)?(?:_e\d)?(?![^\W_])"
)
# A word that says how was scanned, not whom or when: `ax` and `tse` of `T2_tse_ax`.
SERIES_WORD = re.compile(
    r"(?i)(?<![^\W_])(?:ax(?:ial)?|tra(?:ns(?:versal|verse)?)?|sag(?:ittal)?|cor(?:onal)?|[23]d|iso"
    r"|f?t?se|frfse|ffe|tfe|gre|tirm|mp2?rage|fl[23]d\d*|flash|space|spc|blade|propeller|haste|vibe"
    r"|cube|vista)(?![^\W_])"
)
# A whole folder: `ses-01`, `2020-01-02`, `anat2`.
VISIT_FOLDER = re.compile(rf"(?i)(?:{_DATE}|{_VISIT}|anat|{_SERIES})[\W\d_]*")
# The first or last word of a name without number: `Meier_followup`, `baseline_Meier`.
OUTER_VISIT = re.compile(rf"(?i)^{_VISIT}(?![^\W_])|(?<![^\W_]){_VISIT}$")
# The same of a visit or a volunteer: `Meier_V1`, `HC_V01`.
OUTER_NUMBER = re.compile(r"(?i)^v\d+(?![^\W_])|(?<![^\W_])v\d+$")
CHANNEL_AT_END = re.compile(r"(?<=\d)_000\d$")  # of nnU-Net
# The end of a name: `007_V1`, `MR_d0129`, `00001-001`, nnU-Net's channel `_0000`.
VISIT_WORD = re.compile(
    rf"(?i)(?<![^\W_])(?:{_DATE}\d*|{_VISIT}|(?:[dmv]|mr)\d+)(?![^\W_])"
    r"|(?<=\d{5})[-_]\d{2,3}$"
    rf"|{CHANNEL_AT_END.pattern}"
)
_VERSION = (
    r"(?:raw|orig(?:inal)?s?|(?:un|pre)[-_]?proc(?:essed|essing)?|pre|pp|processed|n4(?:itk)?"
    r"|(?:bias[-_]?)?corrected|defaced|denoised|resampled|registered|normali[sz]ed"
    r"|(?:skull[-_]?)?stripped|bet|ss)"
    r"(?:[-_ ]?(?:data|images?))?"
)
# A whole folder of one version of images: `raw`, `Preprocessed_Data`, `n4`.
VERSION_FOLDER = re.compile(rf"(?i){_VERSION}")
# A word of a volume's name: `p1_T1_n4`.
VERSION_WORD = re.compile(rf"(?i)(?<![^\W_]){_VERSION}(?![^\W_])")
# The least wanted versions first: brains without skull, then what is as it was scanned.
UNWANTED_VERSIONS = (re.compile(r"(?i).*strip|bet|ss"), re.compile(r"(?i)raw|orig|unproc"))
# A whole folder of images in a standard space, beside those in the patient's own: HCP's.
STANDARD_SPACE_FOLDER = re.compile(
    r"(?i)mni(?:nonlinear|152\w*|space)?|talairach|standard[\W_]?space"
)
# A file's name, or a whole folder, of no person: `SymmetricTemplate`, `atlas`, `MNI152_T1_1mm`.
TEMPLATE = re.compile(
    r"(?i:(?:^|[\W_])(?:template|atlas))(?![a-z])|(?<=[a-z])(?:Template|Atlas)(?![a-z])"
    r"|^(?i:mni|icbm|avg|colin)[\W_]?(?:152|305|27)(?!\d)"
)
MAY_BE_TEMPLATE = re.compile(r"(?i)template|atlas|mni|icbm|avg|colin")  # somewhere in a path
# A whole folder of one scanner's images: `3T`, `GE1T5`.
SCANNER_FOLDER = re.compile(r"(?i)(?:ge|siemens|philips)?[-_ ]?(?:[137]t|1[.t]5t?)")

# --- patients

# A word for a person with a number, or the identifiers of a public set.
PERSON = re.compile(
    r"(?i)(?<![a-z])(?:(?:subject|subj|sub|patient|pat|pt|case|person)[\W_]*\d+|sub-[a-z0-9]+)"
    r"|(?<!\d)\d{3}_S_\d{4,5}"  # ADNI: `002_S_0295`
)
YEAR_FOLDER = re.compile(r"(?:19|20)\d\d")
# A folder of several patients, although it has a number: `site2`, `Set2020_TrainingData`, `2019`.
SEVERAL_PATIENTS = re.compile(
    rf"(?i)^(?:train|test|val|{YEAR_FOLDER.pattern}$)"
    r"|(?<![a-z])(?:(?:train(?:ing)?|test(?:ing)?|val|validation)(?:\D*$|[\W_]*data)|dataset"
    r"|(?:site|cent(?:er|re)|hospital|scanner|batch|fold|part|disc|set|group|cohort|task|data)"
    r"[\W_]*\d*$)"
)
# A patient, and the number of a study: `Meier/7001234`, `0012345_ACC7001234`.
NAME_AND_STUDY = re.compile(r"(?P<patient>[^/]+)[/_]([A-Za-z]{0,4}\d{5,})")
LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
# Before the last word of a name, or the letter glued to its last number.
LAST_WORD = re.compile(r"(?<=.)(?:(?<=\d)(?=[a-zA-Z]$)|(?=[-_. ]+[a-zA-Z\d]+$))")

# Words that classes of images are called by, in lower case.
CLASS_WORDS = frozenset(
    [
        "yes",
        "no",
        "normal",
        "healthy",
        "tumor",
        "tumour",
        "positive",
        "negative",
        "benign",
        "malignant",
    ]
)
# Words before a running number that say nothing of the image.
IMAGE_WORDS = frozenset(
    ["image", "images", "img", "im", "pic", "picture", "photo", "scan", "slice", "frame", "file"]
)

# --- slices

_SLICE = r"(?:slice|slc|sl|plane|frame|z)"
SLICE_AT_END = re.compile(rf"(?i)(?<![a-z]){_SLICE}[\W_]*\d+\W*$")  # `slice_012`
SLICE_BEFORE_NUMBER = re.compile(rf"(?i)[\W_]*{_SLICE}?[\W_]*$")
# The text before the last number, the number, the rest.
AROUND_LAST_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)

# --- files made from others

# What SPM and CAT12 put before the name of the image that they made a file from: `wm`, `c1`, `y_`.
SPM_PREFIX = re.compile(r"(?:i?y_|u_)?[smwrau]*(?:c[1-6]|p[0-6])?")

# The places before further words of a name in lower case: `T1_brain` of `T1`, not `T1_to_T2`.
FURTHER_WORD = re.compile(r"[\W_]+(?!to[\W_])(?=.*[a-z])")
