"""What is wrong with a copy of some data, told in few enough words to be read."""

import re
from itertools import islice, zip_longest

from .common import DataError

_OF_A_KIND, _IN_ALL, _LINE = 5, 20, 160


class Problems:
    """What is wrong with a copy, as it is found; false while nothing is.

    Of problems of one kind the first few are kept: a copy can have as many as it has pictures. Two are of one kind when
    the words that follow the subject are the same but for numbers, quotations and what is in brackets.
    """

    def __init__(self):
        self._count = 0
        self._kept: dict[str, list[tuple[int, str]]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, subject: object, what: object) -> None:
        """Keep that the subject, which is named, has something wrong with it: `add("a.png", "is empty")`."""
        kind = re.sub(r"'[^']*'|\(.*\)|[\d,.×]+", "", str(what))
        kept = self._kept.setdefault(kind, [])
        if len(kept) < _OF_A_KIND:
            kept.append((self._count, _line(f"{subject} {what}")))
        self._count += 1

    def error(self, what: str, hint: str) -> DataError:
        """One error with a problem of each kind at least, in the order they were found, and how many there are."""
        by_turns = (one for some in zip_longest(*self._kept.values()) for one in some if one)
        lines = [line for _, line in sorted(islice(by_turns, _IN_ALL))]
        if left := self._count - len(lines):
            lines.append(f"… and {left:,} more")
        return DataError("\n  ".join([f"{what}:", *lines]) + f"\n{hint}")


def _line(text: str) -> str:
    """One line of what prints everywhere, its middle left out where it is long: a name may hold anything."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= _LINE else f"{text[: _LINE // 2]} … {text[-_LINE // 2 :]}"
