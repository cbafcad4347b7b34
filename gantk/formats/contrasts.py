"""Usual names of contrasts (T1, FLAIR, CT, ...) as words of file names, folder names and DICOM descriptions."""

from __future__ import annotations

import re

WORD_ENDS = re.compile(r"([^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z]))")  # kept by `split`: word, end, word, ...
SYNONYMS = {
    "t1": ("t1w", "t1n"),
    "t1ce": ("t1c", "t1gd", "t1post", "t1ca", "t1wce", "t1wc", "t1wgd", "t1wpost"),
    "t2": ("t2w",),
    "flair": ("t2flair", "t2f", "fla"),
    "pd": ("pdw",),
    "mr": ("mri",),
    **dict.fromkeys(("dwi", "adc", "swi", "ct", "pet"), ()),
}
CONTRASTS = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}  # usual name -> contrast


def words_of(name: str) -> list[str]:
    """The words of a name: `brainT1_slice` -> brain, T1, slice."""
    return [word for word in WORD_ENDS.split(name)[::2] if word]


def one_word(contrast: str) -> str:
    """A contrast's name as one word in lower case: `T1-Gd` is t1gd."""
    return "".join(words_of(contrast)).lower()


def without_gaps(name: str) -> str:
    """A name from which words were taken: one separator where several follow each other, none at its ends."""
    return re.sub(r"([_\-. ])[_\-. ]+", r"\1", name).strip("_-. ")


def same_contrast(word: str, wanted: str) -> bool:
    """Whether two words in lower case are usual names of one contrast."""
    return word == wanted or (word in CONTRASTS and CONTRASTS[word] == CONTRASTS.get(wanted))


def contrast_in(name: str, wanted: set[str]) -> tuple[str | None, str]:
    """The first word of a name, or two joined, that is a contrast (T2_FLAIR is one), and the name without it.

    `wanted` are further words, in lower case, that count as contrasts. What stands behind `to` (`regtoFLAIR`,
    `T1_to_T2`) is where the image was brought, not what it shows. A name without a contrast: None and the name.
    """
    pieces = WORD_ENDS.split(name)
    places = [i for i in range(0, len(pieces), 2) if pieces[i]]
    words = [pieces[i].lower() for i in places]
    for i in range(len(words)):
        if i and words[i - 1].endswith("to"):
            continue
        for length in (2, 1):
            joined = "".join(words[i : i + length])
            if joined in wanted or joined in CONTRASTS:
                last = places[min(i + length, len(places)) - 1]
                return joined, without_gaps("".join(pieces[: places[i]] + pieces[last + 1 :]))
    return None, name


def usual_contrast(name: str) -> str | None:
    """The usual contrast that a name says: `T1w` and `x_t1n` are t1; None where it says none."""
    return CONTRASTS.get(contrast_in(name, set())[0] or "")
