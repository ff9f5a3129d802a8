"""Which names belong together though they differ: `1_ir` and `1_vis`, `S1` and `s1`, `7` and `007`.

Strings alone; `io.pairing` lists the folders. A name is a path below its folder without suffix,
with "/" between its parts. Its last part is cut into tokens: runs of digits, of signs such as "_",
and of letters. A *label* is what the names of one folder have in common and the partners lack.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from mgdn_jax.errors import InputError

ENOUGH = 0.8
"""Share of the smallest folder that a rule must pair, and of a folder that must carry a label."""

_WORDS = """
    ir nir swir mwir lwir tir fir infrared thermal therm flir
    vi vis visible rgb color colour gray grey mono tv eo opt optical pan ms hs sar depth guide
    ct cbct mr mri pet spect us fdg flair dwi adc pd gfp pc
    near far fore front back foreground background fg bg
    under over underexposed overexposed underexposure overexposure ue oe dark bright low high
    short long middle mid flash noflash ambient dolp aop red green blue
    fused fusion fuse result results output out pred prediction gt truth groundtruth target ref
    reference label labels mask masks seg segmentation
"""
WORDS = frozenset(_WORDS.split())
"""What pictures of one kind are marked with; such a word is a label even beside a digit (IR1)."""
_NUMBERED = re.compile(r"(t[12]w?|(cam|camera|ch|channel|band|sensor|source|src|input)[0-9]{1,2})")
_SIDES = ("abcdefgh", "iv")  # letters that tell sources apart: 1a and 1b, i1 and v1
_SIGNS = r"\s_\-.,;()\[\]{}+~@#&=!"
_TOKEN = re.compile(rf"[0-9]+|[{_SIGNS}]+|[^0-9{_SIGNS}]+")

Tokens: TypeAlias = tuple[str, ...]
Table: TypeAlias = Mapping[str, str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Match:
    """Names that belong together.

    Attributes:
      groups: key to one name per table, sorted naturally.
      gaps: name to the numbers of the tables that lack a partner of it.
      rule: how names were compared ("without 'ir' and 'vis'", for instance); empty where the names
        of every group are equal.
    """

    groups: dict[str, tuple[str, ...]]
    gaps: dict[str, tuple[int, ...]]
    rule: str


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sorting key by which "shot10" comes after "shot9"; numbers may have any length."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    # Without leading zeros the longer number is the larger one, and equally long ones sort as text.
    numbers = [part.lstrip("0") if _is_number(part) else None for part in parts]
    return [
        (1, 0, part) if number is None else (0, len(number), number)
        for part, number in zip(parts, numbers, strict=True)
    ]


def folded(text: str) -> str:
    """The text without regard to capitals and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def match(tables: Sequence[Table], titles: Sequence[str] = ()) -> Match:
    """Finds the names that belong together, each of at most one group.

    Equal names come first, then names that are equal without regard to capitals and Unicode form.
    Where these are fewer than `ENOUGH` of the smallest table, the first of these rules counts that
    pairs so many of the others: numbers without leading zeros; without known words (`WORDS`, or the
    table's own title); without other labels that signs set apart. If none does, the equal names are
    all.

    Args:
      tables: for each folder its names, and what messages call them (paths).
      titles: names of the folders; a folder's own name is a known word.

    Returns:
      The groups, none where no rule holds.

    Raises:
      InputError: two names of a table could belong to one of another.
    """
    names = [[_Name.of(name) for name in table] for table in tables]
    certain = _by_spelling(names, tables)
    if certain.share >= ENOUGH:
        return certain.match()
    clash: InputError | None = None
    paired = {(k, name) for group in certain.groups.values() for k, name in enumerate(group)}
    others = [[name for name in x if (k, name) not in paired] for k, x in enumerate(names)]
    for attempt in _attempts(others, titles or [""] * len(tables)):
        try:
            result = _by_keys(attempt, certain, tables)
        except InputError as error:
            clash = clash or error
        else:
            if result is not None:
                return result.match()
    if clash is not None and not certain.groups:
        raise clash
    return certain.match()


# ------------------------------------------------------------------------------ names and keys


@dataclasses.dataclass(frozen=True)
class _Name:
    """A name, or what is left of it.

    Attributes:
      whole: the name.
      folder: its parts but the last, folded.
      tokens: of the last part, in NFC; fewer where labels were taken away.
      is_plain: whether the labels of its table are not in it.
    """

    whole: str
    folder: str
    tokens: Tokens
    is_plain: bool = False

    @classmethod
    def of(cls, whole: str) -> _Name:
        folder, _, last = whole.rpartition("/")
        tokens = _TOKEN.findall(unicodedata.normalize("NFC", last))
        return cls(whole, folded(folder), tuple(tokens))

    @property
    def words(self) -> Tokens:
        """Folded tokens."""
        return tuple(map(folded, self.tokens))

    @property
    def stem(self) -> str:
        """The key of a group whose first name this is."""
        folder, slash, _ = self.whole.rpartition("/")
        return unicodedata.normalize("NFC", folder) + slash + "".join(self.tokens)

    def key(self, has_zeros: bool = True) -> str:
        """What partners have in common; empty where nothing is left."""
        words = self.words if has_zeros else _without_zeros(self.words)
        return f"{self.folder}/{''.join(words)}" if any(map(_is_text, words)) else ""

    def without(self, label: Tokens, *, may_touch: bool) -> _Name:
        """The name less a label, or as it is where that does not occur once."""
        places = _places(self.words, label, may_touch)
        return self if len(places) != 1 else self.cut(places[0], len(label))

    def cut(self, place: int, count: int) -> _Name:
        """The name less some tokens and the signs beside them; one sign stays between words."""
        left, right = self.tokens[:place], self.tokens[place + count :]
        sign = ""
        if left and not _is_text(left[-1]):
            *_, sign = left
            left = left[:-1]
        if right and not _is_text(right[0]):
            sign, right = sign or right[0], right[1:]
        joint = (re.sub(r"[()\[\]{}]", "", sign) or "_",) if left and right else ()
        return dataclasses.replace(self, tokens=left + joint + right)


def _is_text(token: str) -> bool:
    return re.match(f"[{_SIGNS}]", token) is None


def _is_number(token: str) -> bool:
    return re.match("[0-9]", token) is not None


def _without_zeros(words: Tokens) -> Tokens:
    """Numbers less their leading zeros; not decimals, where 1.05 is another number than 1.5."""

    def plain(k: int) -> str:
        is_decimal = k >= 2 and words[k - 1] in (".", ",") and _is_number(words[k - 2])
        return words[k] if is_decimal or not _is_number(words[k]) else words[k].lstrip("0") or "0"

    return tuple(map(plain, range(len(words))))


def _places(words: Tokens, label: Tokens, may_touch: bool) -> list[int]:
    """Where a label stands, set apart by signs, or (`may_touch`) beside a digit on one side."""
    places = []
    for k in range(len(words) - len(label) + 1):
        if words[k : k + len(label)] == label:
            beside = (*words[max(k - 1, 0) : k], *words[k + len(label) : k + len(label) + 1])
            if sum(map(_is_text, beside)) <= may_touch:
                places.append(k)
    return places


# ------------------------------------------------------------------------------------ outcomes


@dataclasses.dataclass(frozen=True)
class _Result:
    """Groups of names, before the rest is sorted into gaps."""

    groups: dict[str, tuple[_Name, ...]]
    keys: list[dict[str, list[_Name]]]  # for each table, what partners have in common
    rule: str

    @property
    def share(self) -> float:
        """Groups among the names of the smallest table."""
        return len(self.groups) / max(1, min(sum(map(len, keys.values())) for keys in self.keys))

    def match(self) -> Match:
        paired = {(k, name.whole) for g in self.groups.values() for k, name in enumerate(g)}
        loose: dict[str, list[tuple[int, str]]] = {}
        for number, keys in enumerate(self.keys):
            for key, names in keys.items():
                whole = [(number, name.whole) for name in names]
                loose.setdefault(key, []).extend(entry for entry in whole if entry not in paired)
        gaps: dict[str, set[int]] = {}
        tables = set(range(len(self.keys)))
        for entries in filter(None, loose.values()):
            numbers = {number for number, _ in entries}
            if len(numbers) == len(entries) < len(tables):  # partners that lack another one
                gaps.setdefault(entries[0][1], set()).update(tables - numbers)
                continue
            for number, name in entries:
                gaps.setdefault(name, set()).update(tables - {number})
        return Match(
            {
                key: tuple(name.whole for name in self.groups[key])
                for key in sorted(self.groups, key=natural)
            },
            {name: tuple(sorted(gaps[name])) for name in sorted(gaps, key=natural)},
            self.rule,
        )


def _by_spelling(names: Sequence[Sequence[_Name]], tables: Sequence[Table]) -> _Result:
    """Groups of equal names, and of names that are equal but for capitals and Unicode form."""
    wholes = [{name.whole: name for name in table} for table in names]
    equal = [whole for whole in wholes[0] if all(whole in other for other in wholes[1:])]
    groups = {whole: tuple(table[whole] for table in wholes) for whole in equal}
    rests = [[name for name in table if name.whole not in groups] for table in names]
    forms = [_sorted_in(rest, folded) for rest in rests]
    rule = ""
    for form in forms[0]:
        if all(form in other for other in forms[1:]):
            _check_single([other[form] for other in forms], tables)
            group = tuple(other[form][0] for other in forms)
            key = unicodedata.normalize("NFC", group[0].whole)
            groups[group[0].whole if key in wholes[0] else key] = group
            rule = "without regard to capitals and Unicode form"
    return _Result(groups, [_sorted_in(table, folded) for table in names], rule)


def _sorted_in(names: Sequence[_Name], key) -> dict[str, list[_Name]]:
    entries: dict[str, list[_Name]] = {}
    for name in names:
        entries.setdefault(key(name.whole), []).append(name)
    return entries


def _check_single(candidates: Sequence[Sequence[_Name]], tables: Sequence[Table]) -> None:
    """Refuses to choose between names of one table."""
    for number, names in enumerate(candidates):
        if len(names) > 1:
            first, second = (os.fspath(tables[number][name.whole]) for name in names[:2])
            other = 1 if number == 0 else 0
            partner = os.fspath(tables[other][candidates[other][0].whole])
            raise InputError(
                f"{first} and {second} could both belong to {partner}; "
                "rename or remove one of them."
            )


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """A rule on trial.

    Attributes:
      names: for each table what is left of its names.
      has_zeros: whether leading zeros count.
      least: groups that it must make.
      rule: the rule in words.
    """

    names: list[list[_Name]]
    has_zeros: bool
    least: int
    rule: str


def _by_keys(attempt: _Attempt, certain: _Result, tables: Sequence[Table]) -> _Result | None:
    """What a rule pairs beside what is certain; None where that is too little."""
    keys: list[dict[str, list[_Name]]] = []
    for table in attempt.names:
        entries: dict[str, list[_Name]] = {}
        for name in table:
            entries.setdefault(name.key(attempt.has_zeros), []).append(name)
        if "" in entries:
            return None
        keys.append(entries)
    common = [key for key in keys[0] if all(key in other for other in keys[1:])]
    smallest = min(map(len, attempt.names))
    if len(common) < max(attempt.least, math.ceil(ENOUGH * smallest)):
        return None
    taken = {group[0].key(attempt.has_zeros): group for group in certain.groups.values()}
    groups: dict[str, tuple[_Name, ...]] = {}
    for key in common:
        sure = [[name] for name in taken[key]] if key in taken else [[] for _ in keys]
        _check_single([a + other[key] for a, other in zip(sure, keys, strict=True)], tables)
        group = tuple(other[key][0] for other in keys)
        # A name that lacks its folder's label has a partner of its own name at most.
        is_sure = not any(name.is_plain for name in group)
        if is_sure or len({folded(name.whole) for name in group}) == 1:
            groups[group[0].stem] = group
    enough = len(groups) >= max(attempt.least, math.ceil(ENOUGH * smallest))
    rule = f"{certain.rule} or {attempt.rule}" if certain.rule else attempt.rule
    return _Result(certain.groups | groups, keys, rule) if enough else None


# ---------------------------------------------------------------------------------- the rules


def _attempts(names: Sequence[Sequence[_Name]], titles: Sequence[str]) -> Iterator[_Attempt]:
    """The rules for names that differ, the surest first."""
    plain = [list(table) for table in names]
    zeros = "without leading zeros"
    yield _Attempt(plain, False, 1, zeros)
    known, labels = _without_words(plain, titles)
    if any(labels):
        rule = _in_words(labels)
        yield _Attempt(known, True, 1, rule)
        yield _Attempt(known, False, 1, f"{rule}, {zeros}")
    for left, first in ((known, labels), (plain, [()] * len(plain))):
        bare, ends = _without_ends(left, is_first=not any(labels))
        if any(ends):
            rule = _in_words([(*a, *b) for a, b in zip(first, ends, strict=True)])
            yield _Attempt(bare, True, 2, rule)
            yield _Attempt(bare, False, 2, f"{rule}, {zeros}")


def _in_words(labels: Sequence[Sequence[str]]) -> str:
    """The labels in words, such as "without 'ir' and 'vis'"."""
    return "without " + " and ".join(dict.fromkeys(f"'{x}'" for table in labels for x in table))


def _without_words(
    names: list[list[_Name]], titles: Sequence[str]
) -> tuple[list[list[_Name]], list[tuple[str, ...]]]:
    """Names less the known words that nearly all of a table carry, and these words."""
    found = [_known_words(table, title) for table, title in zip(names, titles, strict=True)]
    shared = set(found[0]).intersection(*found[1:])
    left, labels = [], []
    for table, words in zip(names, found, strict=True):
        taken = sorted((w for w in words if w not in shared), key=len, reverse=True)
        lines = []
        for name in table:
            rest = name
            for word in taken:
                rest = rest.without(word, may_touch=words[word])
            if taken and (rest is name or not rest.key()):
                rest = dataclasses.replace(name, is_plain=True)
            lines.append(rest)
        left.append(lines)
        labels.append(tuple("".join(word) for word in taken))
    return left, labels


def _known_words(table: Sequence[_Name], title: str) -> dict[Tokens, bool]:
    """Words of which nearly all names hold one each, and whether they may touch a digit."""
    own = tuple(_TOKEN.findall(folded(title)))
    counts: Counter[tuple[Tokens, bool]] = Counter()
    for name in table:
        words = name.words
        seen: set[tuple[Tokens, bool]] = {((word,), True) for word in words if word in WORDS}
        pairs = (words[k : k + length] for length in (2, 3) for k in range(len(words)))
        seen |= {(pair, False) for pair in pairs if _NUMBERED.fullmatch("".join(pair))}
        if any(map(str.isalpha, own)) and (own, True) not in seen:
            seen.add((own, False))
        counts.update(entry for entry in seen if len(_places(words, *entry)) == 1)
    most = max(1, len(table) - math.ceil(ENOUGH * len(table)))  # strays
    least = len(table) - most if len(table) > 2 else len(table)
    return {word: may_touch for (word, may_touch), count in counts.items() if count >= least}


def _without_ends(
    names: list[list[_Name]], *, is_first: bool
) -> tuple[list[list[_Name]], list[tuple[str, ...]]]:
    """Names less the first or last word that all of a table carry and the others do not.

    A word that is not known must be set apart by a sign, and every table must have a word in that
    place, unless it is the only label (`1` with `1_mine`).
    """
    labels: list[tuple[str, ...]] = [() for _ in names]
    lonely = []
    for place in (0, -1):
        ends = [_end(table, place) for table in names]
        depth = 0
        while all(ends) and len(set(ends)) == 1:
            depth += 1
            ends = [_end(table, place, depth) for table in names]
        if _is_opposition(ends, place):
            names = [[_less(name, place, depth) for name in table] for table in names]
            labels = [(*old, end.word) for old, end in zip(labels, ends, strict=True) if end]
        else:
            lonely += [(k, place, depth, e.word) for k, e in enumerate(ends) if e and e.is_word]
    if is_first and len(lonely) == 1 and not any(labels):
        number, place, depth, word = lonely[0]
        names = [list(table) for table in names]
        names[number] = [_less(name, place, depth) for name in names[number]]
        labels[number] = (word,)
    return names, labels


@dataclasses.dataclass(frozen=True)
class _End:
    """The token that all names of a table have in one place.

    Attributes:
      word: the token, folded.
      is_apart: whether signs set it apart.
    """

    word: str
    is_apart: bool

    @property
    def is_word(self) -> bool:
        """Whether it is letters, set apart."""
        return self.is_apart and _is_text(self.word) and not _is_number(self.word)


def _at(name: _Name, place: int, depth: int) -> int:
    return depth if place == 0 else len(name.tokens) - 1 - depth


def _less(name: _Name, place: int, depth: int) -> _Name:
    return name.cut(_at(name, place, depth), 1)


def _end(table: Sequence[_Name], place: int, depth: int = 0) -> _End | None:
    """The token so deep from the first or last place; None where names differ in it."""
    if len(table) < 2 or any(name.is_plain for name in table):
        return None
    found = set()
    for name in table:
        words, k = name.words, _at(name, place, depth)
        if not 0 <= k < len(words):
            return None
        beside = (*words[max(k - 1, 0) : k], *words[k + 1 : k + 2])
        found.add(_End(words[k], bool(beside) and not any(map(_is_text, beside))))
    return found.pop() if len(found) == 1 else None


def _is_opposition(ends: Sequence[_End | None], place: int) -> bool:
    """Whether the tokens tell the tables apart as labels do."""
    words = [end.word for end in ends if end is not None]
    if len(words) < len(ends) or len(set(words)) < 2 or not all(map(_is_text, words)):
        return False
    if all(end is not None and (end.is_word or end.word in WORDS) for end in ends):
        return True
    each = sorted(words)
    if any("".join(each) == "".join(sorted(side[: len(each)])) for side in _SIDES):
        return True
    # 1_1 and 1_2: the sources are numbered, each number set apart at the end.
    if place == -1 and all(
        end is not None and end.is_apart and _is_number(end.word) for end in ends
    ):
        numbers = sorted(map(int, words))
        return numbers in (list(range(len(words))), list(range(1, len(words) + 1)))
    return False
