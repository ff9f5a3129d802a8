"""Advice on names that do not exist."""

from mgdn_jax.errors import closest, nearest

KNOWN = ("cddfuse", "mgdn", "Qabf")


def test_the_nearest_name_or_all_of_them():
    assert nearest("mdgn", KNOWN) == "did you mean 'mgdn'?"
    assert nearest("zebra", KNOWN) == "choose one of cddfuse, mgdn, Qabf"
    assert nearest("zebra", iter(())) == "there are none"


def test_capitals_do_not_count():
    assert closest("QAB", KNOWN) == "Qabf"
    assert closest("CDDFUSE", iter(KNOWN)) == "cddfuse"
    assert closest("zebra", KNOWN) is None
