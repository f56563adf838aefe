"""Lists of words that users write, one a line: concepts, and the names of classes."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from .errors import ConsilienceError, printable, shown
from .files import read_text

MOST_WORDS = 75
"""In one concept: CLIP takes 77 tokens, a word is one at least, and two mark start and end."""


def _split(text: str) -> list[str]:
    """Split at line ends: LF, CRLF or CR.

    Not ``splitlines``: it would also split at separators that a phrase may hold.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _check_seen(word: str, where: str) -> None:
    if not word.isprintable() and any(unicodedata.category(c) == "Cc" for c in word):
        raise ConsilienceError(f"{where}: {shown(word)} holds control characters; remove them")


@dataclass(frozen=True)
class ConceptList:
    """The words of a concept file, in its order, and what was left out.

    Attributes
    ----------
    words
        Each once, without white space around it.
    blank
        Lines that hold nothing, by number, from 1.
    repeated
        Lines that hold a word that an earlier line has, by number, with the word.
    cleaned
        Lines from which characters that are not seen were removed, by number.
    """

    words: tuple[str, ...]
    blank: tuple[int, ...]
    repeated: tuple[tuple[int, str], ...]
    cleaned: tuple[int, ...]

    def __str__(self) -> str:
        """Say in a line what was kept and what was left out."""
        said = f"{len(self.words)} concepts"
        if self.blank:
            said += f"; {len(self.blank)} blank lines left out"
        if self.repeated:
            shown = ", ".join(f"{word!r} (line {line})" for line, word in self.repeated[:5])
            more = f" and {len(self.repeated) - 5} more" if len(self.repeated) > 5 else ""
            said += f"; {len(self.repeated)} repeated left out: {shown}{more}"
        if self.cleaned:
            shown = ", ".join(map(str, self.cleaned[:5]))
            more = f" and {len(self.cleaned) - 5} more" if len(self.cleaned) > 5 else ""
            said += f"; invisible characters removed from line {shown}{more}"
        return said


def read_concepts(path: str | Path) -> ConceptList:
    """Read concept words, one a line.

    UTF-8 with or without a byte order mark; lines end in LF, CRLF or CR. Blank lines and words
    that were there before are left out and reported, and so are characters that are not seen
    (Unicode's category Cf: zero-width spaces and joiners, soft hyphens, byte order marks). Case
    counts.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, is larger than any list of words, is not UTF-8, holds control
        characters or a text longer than CLIP takes, or has no word.
    """
    words, blank, repeated, cleaned = {}, [], [], []
    for number, line in enumerate(_split(read_text(path)), start=1):
        seen = line
        if not line.isprintable():
            # They come with copying, and byte order marks with joining files.
            seen = "".join(c for c in line if unicodedata.category(c) != "Cf")
        if seen != line:
            cleaned.append(number)
        word = " ".join(seen.split())
        _check_seen(word, f"{printable(path)}, line {number}")
        if word.count(" ") >= MOST_WORDS:
            raise ConsilienceError(
                f"{printable(path)}, line {number}: {shown(word)} has {word.count(' ') + 1} words; "
                f"CLIP takes {MOST_WORDS} at most, one concept a line"
            )
        if not word:
            blank.append(number)
        elif word in words:
            repeated.append((number, word))
        else:
            words[word] = None
    if not words:
        raise ConsilienceError(f"{printable(path)}: no concept in it; write one a line")
    return ConceptList(tuple(words), tuple(blank), tuple(repeated), tuple(cleaned))


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read class names, one a line in the order of the logits; empty lines at the end are cut.

    Places365's own list is taken as it is: ``/a/airfield 0`` is airfield, and the numbers must be
    those of the lines. Of two classes one name is allowed, as torchvision's own lists have it.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, is not UTF-8, holds control characters or no name, or numbers
        its classes in another order.
    """
    place = printable(path)
    names = tuple(line.strip() for line in _split(read_text(path).rstrip()))
    if names == ("",):
        raise ConsilienceError(f"{place}: no class in it; write one a line")
    for number, name in enumerate(names, start=1):
        _check_seen(name, f"{place}, line {number}")
    numbered = [re.fullmatch(r"/\w/(\S+) ([0-9]{1,9})", name) for name in names]
    if not all(numbered):
        return names
    for index, found in enumerate(numbered):
        if int(found[2]) != index:
            raise ConsilienceError(
                f"{place}, line {index + 1}: numbered {found[2]} instead of {index}; the classes "
                "must stand in the order of the logits"
            )
    return tuple(found[1] for found in numbered)
