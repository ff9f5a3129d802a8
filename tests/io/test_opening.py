"""Files that somebody names: what is opened, what is JSON, what is written where."""

import json
import os
import socket

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import scores, summaries
from mgdn_jax.fusing import transforms
from mgdn_jax.io import depth, disk, files, objects, opening

READERS = {
    "pictures": files.read_image,
    "pages": files.read_pages,
    "maps": depth.read_depth,
    "scores": scores.read_tables,
    "means": summaries.read_summaries,
    "transforms": transforms.read_transforms,
    "JSON": objects.read_object,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fifo(name):
    os.mkfifo(name)


def listener(name):
    socket.socket(socket.AF_UNIX).bind(name)


KINDS = {
    "pipe": (fifo, "not a regular file"),
    "device": (lambda name: os.symlink("/dev/zero", name), "not a regular file"),
    "socket": (listener, "not a regular file"),
    "link": (lambda name: (os.mkfifo("pipe"), os.symlink("pipe", name)), "not a regular file"),
    "folder": (os.mkdir, "is a folder where"),
    "dangling": (lambda name: os.symlink("nowhere", name), "does not exist"),
    "loop": (lambda name: os.symlink(name, name), "cannot be read"),
    "empty": (lambda name: open(name, "w").close(), "is empty"),
}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(kind, reader):
    make, message = KINDS[kind]
    make("x.png")
    with pytest.raises(InputError, match=message):
        READERS[reader]("x.png")


@pytest.mark.parametrize("reader", READERS)
def test_names_that_no_disk_takes(reader):
    for name in ("x" * 5000 + ".png", "a\0b.png"):
        with pytest.raises(InputError, match="cannot be read") as caught:
            READERS[reader](name)
        assert len(str(caught.value)) < 200


def test_files_of_text():
    with open("x.csv", "wb") as file:
        file.write(b"\xef\xbb\xbfa,\xc3\xa9\n")
    assert opening.read_text("x.csv") == "a,é\n"
    with open("y.csv", "wb") as file:
        file.truncate(2**22 + 1)
    with pytest.raises(InputError, match="has more than 4 MiB; give a text file"):
        opening.read_text("y.csv", most=2**22)
    for data in ("a".encode("utf-16"), b"\xe9", b"a\0b"):
        with pytest.raises(InputError, match="no text in UTF-8 where a text file is expected"):
            opening.decoded(data, "x")


GOOD = {"a": [1, 2.5, None, True, {"b": "é"}], "c": 2**63}
BAD = {
    "[]": "it is a list",
    "3": "it is a number",
    '"x"': "it is a text",
    "true": "it is a truth value",
    "null": "it is null",
    "": "Expecting value",
    '{"a":': "Expecting value",
    "[" * 50_000: "nested too deeply",
    '{"a":' * 50_000: "nested too deeply",
    '{"a":' * 65 + "1" + "}" * 65: "nested too deeply",
    '{"a": 1' + "0" * 400 + "}": "the number 100000000000... of 401 digits is too large",
    '{"a": -99999999999999999999}': "too large",
    '{"a": 1e400}': "the number 1e400 is too large",
    '{"a": NaN}': "it holds NaN",
    '{"a": -Infinity}': "it holds -Infinity",
    '{"a": 1, "b": 2, "a": 3}': "the key 'a' comes twice",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:12])
def test_json_that_is_no_object(text):
    with pytest.raises(InputError, match=r"x.json holds no JSON") as caught:
        objects.object_of(text, "x.json", "make it again")
    assert BAD[text] in str(caught.value)
    assert str(caught.value).endswith("; make it again.")
    assert len(str(caught.value)) < 200


def test_json_that_is_one():
    with open("x.json", "w", encoding="utf-8-sig") as file:
        json.dump(GOOD, file)
    assert objects.read_object("x.json") == GOOD
    value = objects.object_of('{"a": NaN, "b": Infinity}', "x", has_nan=True)
    assert np.isnan(value["a"])
    assert value["b"] == np.inf
    with open("x.json", "wb") as file:
        file.write(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="no text in UTF-8"):
        objects.read_object("x.json")


def test_fields_of_an_object():
    content = {"count": 3, "flag": True, "names": ["a"], "text": "x"}
    assert objects.field(content, "count", int, "x") == 3
    assert objects.field(content, "flag", bool, "x") is True
    for key, kind, message in (
        ("flag", int, "x has a truth value for 'flag'; do it again"),
        ("count", list, "x has a number for 'count'"),
        ("none", str, "x lacks 'none'"),
    ):
        with pytest.raises(InputError, match=message):
            objects.field(content, key, kind, "x", "do it again")


def test_folders_are_not_made_behind_links():
    pixels = np.zeros((2, 2), np.uint8)
    os.symlink("far/away/x.png", "file.png")
    os.symlink("far", "folder")
    os.mkdir("here")
    os.symlink("here/x.png", "good.png")
    for name in ("file.png", "folder/x.png", "folder/day/x.png"):
        for check in (files.check_output, lambda name: files.write_image(name, pixels)):
            with pytest.raises(InputError, match=r"is a link to .*, which does not exist"):
                check(name)
    for make in (disk.make_folder, files.check_folder):
        with pytest.raises(InputError, match="which does not exist"):
            make("folder")
    with pytest.raises(InputError, match="which does not exist"):
        depth.write_depth("folder/x.npy", np.ones((2, 2)), "m")
    with pytest.raises(InputError, match="which does not exist"):
        transforms.write_transforms("folder/x.json", {})
    assert not os.path.exists("far")
    # Where the folder is, a link is followed.
    assert files.write_image("good.png", pixels) == files.Path.cwd() / "here/x.png"
    assert os.path.islink("good.png")


def test_names_as_long_as_a_disk_takes():
    pixels = np.zeros((2, 2), np.uint8)
    longest = "x" * 251 + ".png"
    files.write_image(longest, pixels)
    assert os.listdir() == [longest]
    with pytest.raises(InputError, match="is too long a name"):
        files.check_output("x" + longest)
