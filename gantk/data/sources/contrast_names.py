"""What names call the usual contrasts: which word of a name it is, and what is left of the name without it."""

from __future__ import annotations

import re

from gantk.data.sources.file_names import words_of

# In lower case.
SYNONYMS = {
    "t1": ("t1w", "t1n"),
    "t1ce": ("t1c", "t1gd", "t1post", "t1ca", "t1wce", "t1wc", "t1wgd", "t1wpost"),
    "t2": ("t2w",),
    "flair": ("t2flair", "t2f", "fla"),
    "pd": ("pdw",),
    "mr": ("mri",),
    "dwi": (),
    "adc": (),
    "swi": (),
    "ct": (),
    "pet": (),
}
MEANING = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}
WORD_ENDS = re.compile(r"([^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z]))")  # kept by `split`: word, end, word, ...


def plain(contrast: str) -> str:
    """A contrast's name as one word in lower case: `T1-Gd` is t1gd."""
    return "".join(words_of(contrast)).lower()


def contrast_in(name: str, wanted: set[str]) -> tuple[str | None, str]:
    """The first word of a name, or two joined, that is a contrast (T2_FLAIR is one), and the name without it.

    `wanted` are further words, in lower case, that count as contrasts. What stands behind `to` (`regtoFLAIR`,
    `T1_to_T2`) is where the image was brought, not what it shows. A name without a contrast: None and the name.
    """
    pieces = WORD_ENDS.split(name)
    places = [i for i in range(0, len(pieces), 2) if pieces[i]]
    words = [pieces[i].lower() for i in places]
    known = wanted | MEANING.keys()
    for i, word in enumerate(words):
        if i and words[i - 1].endswith("to"):
            continue
        both = word + words[i + 1] if i + 1 < len(words) else ""
        if both in known or word in known:
            last = places[i + 1] if both in known else places[i]
            rest = "".join(pieces[: places[i]]) + "".join(pieces[last + 1 :])
            return both if both in known else word, re.sub(r"([_\-. ])[_\-. ]+", r"\1", rest).strip("_-. ")
    return None, name


def same_contrast(word: str, wanted: str) -> bool:
    """Whether two words in lower case are usual names of one contrast."""
    return word == wanted or (word in MEANING and MEANING[word] == MEANING.get(wanted))
