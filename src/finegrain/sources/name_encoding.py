"""The encoding of the file names in an archive or a folder."""

import functools
import re
from collections import Counter
from pathlib import Path

from finegrain.core import log
from finegrain.core.errors import UserError

_CANDIDATES = {
    "cp437": "DOS's code page 437",
    "gb18030": "GB 18030 (Chinese)",
    "cp932": "Shift-JIS (Japanese)",
}
"""In order of preference where they fit equally well. Every name is valid in the first one."""
_OTHERS = {"big5": "Big5 (Chinese)", "cp866": "DOS's code page 866 (Cyrillic)"}
"""Encodings that charset-normalizer chooses from where no candidate fits."""
_FITS = 0.5
"""Share of common characters below which no candidate fits."""
_MAX_PARTS = 1_000
_LATIN_LETTERS = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜáíóúñÑß"
_KANA = "".join(map(chr, range(0x3041, 0x3100)))
_WORD = re.compile(r"[@-\U0010ffff]+")
"""No second byte of a character in GB 18030's two bytes, or in Shift-JIS, is less than ``@``."""


class NameEncoding:
    """The encoding of those names of an archive that are not UTF-8.

    Every candidate that can decode all of them is rated by its share of common characters among those that
    are not ASCII: Chinese characters of GB 2312; kana and the kanji of JIS level 1; accented letters, less
    than half of their word. Others, such as box-drawing characters, come from decoding wrongly. The best one
    is used for all of them; if even it fits badly, charset-normalizer chooses from Big5 and code page 866.

    Args:
        given: Python's name of the encoding of all names that are not marked as UTF-8; None means a guess.
    """

    def __init__(self, given: str | None = None) -> None:
        self._given = given
        self._guess: str | None = None
        self.count = 0
        """Number of names that are not UTF-8."""
        self._example = b""
        self._valid = list(_CANDIDATES)
        self._common: Counter[str] = Counter()
        self._all: Counter[str] = Counter()
        self._parts: set[bytes] = set()
        """Names of folders and files that are not ASCII: as many as a guess needs."""

    def add(self, raw: bytes) -> None:
        """Consider a name."""
        if utf8_text(raw) is not None:
            return
        self.count += 1
        self._guess = None
        self._example = self._example or raw
        if len(self._parts) < _MAX_PARTS:
            self._parts.update(part for part in raw.split(b"/") if not part.isascii())
        for encoding in list(self._valid):
            try:
                text = raw.decode(encoding)
            except UnicodeDecodeError:
                self._valid.remove(encoding)
                continue
            for word in _WORD.findall(text):
                self._all[encoding] += sum(not letter.isascii() for letter in word)
                if encoding != "cp437" or _is_latin(word):
                    self._common[encoding] += sum(letter in _common(encoding) for letter in word)

    @property
    def name(self) -> str:
        """Python's name of the encoding; code page 437 if no name was considered."""
        if self._guess is None:
            self._guess = self._given or self._best_guess()
        return self._guess

    def _best_guess(self) -> str:
        shares = {encoding: self._common[encoding] / max(1, self._all[encoding]) for encoding in self._valid}
        best = max(self._valid, key=shares.__getitem__)
        if shares[best] >= _FITS or not self._parts:
            return best
        from charset_normalizer import from_bytes  # slow to import, and rarely needed

        text = b"\n".join(sorted(self._parts))
        found = from_bytes(text, cp_isolation=[*_CANDIDATES, *_OTHERS, "cp949"]).best()
        return found.encoding if found and found.encoding in _OTHERS else best

    def decode(self, raw: bytes, flagged: bool = False) -> str:
        """Decode a name: as UTF-8 if it is valid.

        Some short names are valid by chance: "cat" in Chinese is then an accented e. They are read like the
        names that are not UTF-8 if that gives nothing but common characters.

        Args:
            flagged: whether the archive marks the name as UTF-8.

        Raises:
            UserError: it is neither in the given encoding nor UTF-8.
        """
        if raw.isascii() or (flagged and utf8_text(raw) is not None):
            return raw.decode("utf-8")
        if self._given:
            return self._decode_as_given(raw)
        if is_surely_utf8(raw):
            return raw.decode("utf-8")
        other = raw.decode(self.name, "replace")
        if utf8_text(raw) is None:
            return other
        text = raw.decode("utf-8")
        by_chance = (
            self.name in ("gb18030", "cp932")
            and all(letter.isascii() or letter in _common(self.name) for letter in other)
            and not any(map(_is_latin, _WORD.findall(text)))
        )
        return other if by_chance else text

    def _decode_as_given(self, raw: bytes) -> str:
        try:
            return raw.decode(self.name)
        except UnicodeDecodeError:
            if (text := utf8_text(raw)) is not None:
                return text
        shown = raw.decode("ascii", "backslashreplace")
        raise UserError(
            f"params.yaml: dataset.name_encoding: {self.name}: the name {shown} is in another encoding"
        )

    def report(self, file: Path) -> None:
        """Print which encoding was assumed, if there was any name that is not UTF-8."""
        if self.count and not self._given:
            known = _CANDIDATES | _OTHERS
            log.info(
                f"{file}: {self.count} names are not UTF-8; read as {known[self.name]}, such as "
                f"{self.decode(self._example)}; if that is wrong, set dataset.name_encoding"
            )


def decode_name(raw: bytes) -> str:
    """Decode a single name: as UTF-8 if it is valid, otherwise as DOS's code page 437."""
    return NameEncoding().decode(raw)


def utf8_text(raw: bytes) -> str | None:
    """The bytes as text if they are UTF-8, otherwise None."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def is_surely_utf8(raw: bytes) -> bool:
    """Whether a name is UTF-8 and cannot be two-byte characters of another encoding."""
    text = utf8_text(raw)
    return text is not None and (text.isascii() or max(text) >= "\u0800")


def _is_latin(word: str) -> bool:
    """Whether less than half of the letters of a word are accented, and at least one."""
    return 0 < 2 * sum(not letter.isascii() for letter in word) < len(word)


@functools.cache
def _common(encoding: str) -> frozenset[str]:
    """Common characters of an encoding that are not ASCII."""
    if encoding == "cp437":
        return frozenset(_LATIN_LETTERS)
    if encoding == "gb18030":  # GB 2312, rows 16 to 87
        pairs = (bytes((first, second)) for first in range(0xB0, 0xF8) for second in range(0xA1, 0xFF))
        return frozenset("".join(pair.decode("gb2312", "ignore") for pair in pairs))
    pairs = (bytes((first, second)) for first in range(0x88, 0x98) for second in range(0x40, 0xFD))
    return frozenset(_KANA + "".join(pair.decode("cp932", "ignore") for pair in pairs)) - frozenset(
        map(chr, range(128))
    )
