"""Weight files that somebody made to do harm, or that a disk did: one sentence each, and soon."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from mgdn_jax.errors import InputError
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import load_weights, save_weights

DEEP = "[" * 50_000
NOTES = {"format": "mgdn_jax", "version": "1", "system": "mgdn", "config": "{}", "card": "{}"}
READERS = (load_weights, zoo.describe)


def packed(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(*shape, kind="F32", start=0, size=None):
    count = 4 * int(np.prod(shape, dtype=object))
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + (size or count)]}


def file_of(folder, content):
    path = folder / "w.safetensors"
    path.write_bytes(content)
    return path


def refusal(reader, path):
    """What a reader says against a file."""
    with pytest.raises(InputError) as caught:
        reader(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.isprintable()
    assert len(sentence) < 600
    return sentence


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "text", ["3", "[]", "null", '"x"', "true", "NaN", DEEP, '{"a":' * 50_000, "9" * 5000, "", "{"]
)
@pytest.mark.parametrize("field", ["config", "card"])
def test_config_and_card_are_objects(tmp_path, reader, field, text):
    arrays = {"a": np.ones(1, np.float32)}
    path = file_of(tmp_path, save(arrays, metadata=NOTES | {field: text}))
    assert "lacks a readable system, config or card" in refusal(reader, path)


@pytest.mark.parametrize("text", ['{"a": 1e999}', f'{{"a": 1{"0" * 400}}}', '{"a": 1, "a": 2}'])
def test_numbers_of_a_config_are_numbers(tmp_path, text):
    path = file_of(tmp_path, save({"a": np.ones(1)}, metadata=NOTES | {"config": text}))
    assert "lacks a readable" in refusal(load_weights, path)


@pytest.mark.parametrize("block", ["inference", "preparation", "training"])
def test_blocks_of_a_card_are_objects(tmp_path, block):
    card = json.dumps({block: 3})
    path = file_of(tmp_path, save({"a": np.ones(1)}, metadata=NOTES | {"card": card}))
    assert f"'{block}' on its card is no object" in refusal(load_weights, path)


@pytest.mark.parametrize("system", ["", "a\x1b[31m", "a\nb", "x" * 5000])
def test_a_system_has_a_name(tmp_path, system):
    path = file_of(tmp_path, save({"a": np.ones(1)}, metadata=NOTES | {"system": system}))
    assert "its system is no name" in refusal(load_weights, path)


HEADERS = {
    "no length": b"\x01\x02",
    "a length beyond all": struct.pack("<Q", 2**63) + b"{}",
    "a length beyond the file": struct.pack("<Q", 99) + b"{}",
    "a list": packed(b"[]"),
    "a number": packed(b"3"),
    "nested": packed(b'{"a":' * 20_000),
    "no text": packed(b"\xff\xfe{}"),
    "notes that are a number": packed({"__metadata__": 3}),
    "a note that is a number": packed({"__metadata__": {"format": 3}}),
    "an entry that is a number": packed({"a": 3}),
    "a kind that is a list": packed({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}),
    "an unknown kind": packed({"a": entry(1, kind="C64", size=8)}, bytes(8)),
    "a fraction of an axis": packed({"a": {**entry(1), "shape": [1.0]}}, bytes(4)),
    "an axis that is true": packed({"a": {**entry(1), "shape": [True]}}, bytes(4)),
    "a negative axis": packed({"a": {**entry(1), "shape": [-1]}}, bytes(4)),
    "a thousand axes": packed({"a": entry(*[1] * 1000)}, bytes(4)),
    "empty and yet too large": packed({"a": {**entry(0), "shape": [0, 2**40, 2**40]}}),
    "an array beyond the file": packed({"a": entry(100)}, bytes(4)),
    "offsets the wrong way": packed({"a": {**entry(1), "data_offsets": [4, 0]}}, bytes(4)),
    "offsets below zero": packed({"a": {**entry(1), "data_offsets": [-4, 0]}}, bytes(4)),
    "three offsets": packed({"a": {**entry(1), "data_offsets": [0, 4, 4]}}, bytes(4)),
    "two arrays in one place": packed({"a": entry(1), "b": entry(1)}, bytes(4)),
    "a gap between arrays": packed({"a": entry(1), "b": entry(1, start=8)}, bytes(12)),
    "bytes behind the arrays": packed({"a": entry(1)}, bytes(8)),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_accounts_for_every_byte(tmp_path, content):
    path = file_of(tmp_path, content)
    assert "is damaged or not a safetensors file (" in refusal(load_weights, path)
    assert "is no weight file of this package (" in refusal(zoo.describe, path)


@pytest.mark.parametrize("reader", READERS)
def test_large_arrays_are_refused_by_what_is_declared(tmp_path, reader, monkeypatch):
    """A file of a few kilobytes on the disk, forty gigabytes long."""
    size = 40 * 2**30
    path = file_of(tmp_path, packed({"__metadata__": NOTES, "a": entry(size // 4)}))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + size)
    assert "MGDN_MAX_PARAMETERS" in refusal(reader, path)
    small = file_of(tmp_path, save({"a": np.ones(11, np.float32)}, metadata=NOTES))
    monkeypatch.setenv("MGDN_MAX_PARAMETERS", "10")
    assert "has 11 parameters, and at most 10 are allowed" in refusal(reader, small)
    monkeypatch.setenv("MGDN_MAX_PARAMETERS", "11")
    reader(small)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_waited_for(tmp_path, reader):
    path = tmp_path / "w.safetensors"
    os.mkfifo(path)
    refusal(reader, path)
    path.unlink()
    path.symlink_to("/dev/zero")
    refusal(reader, path)


@pytest.mark.parametrize("kind", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conv/kernel", "stats:norm/mean"])
def test_values_are_finite(tmp_path, kind, value, name):
    arrays = {n: np.ones((2, 3), kind) for n in ("conv/kernel", "conv/bias", "stats:norm/mean")}
    path = file_of(tmp_path, save(arrays, metadata=NOTES))
    weights = load_weights(path)
    assert {leaf.dtype for leaf in weights.params.values()} <= {np.dtype("f4"), np.dtype("f8")}
    assert all((leaf == 1).all() for leaf in weights.params.values())
    arrays[name][1, 2] = value
    path = file_of(tmp_path, save(arrays, metadata=NOTES))
    assert f"the array '{name}' has values that are not finite" in refusal(load_weights, path)


def test_values_are_finite_as_float32(tmp_path):
    path = file_of(tmp_path, save({"a": np.array([1e300])}, metadata=NOTES))
    assert "not finite" in refusal(load_weights, path)


def test_bfloat16_is_read_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(ml_dtypes.bfloat16)
    path = file_of(tmp_path, save({"a": values}, metadata=NOTES))
    read = load_weights(path).params["a"]
    assert read.dtype == np.float32
    assert np.array_equal(read, values.astype(np.float32))


def test_nothing_that_is_not_finite_is_written(tmp_path):
    path = tmp_path / "w.safetensors"
    params = {"a": np.array([1, np.nan], np.float32)}
    for half in (False, True):
        with pytest.raises(InputError, match="is not written: the array 'a'"):
            save_weights(path, system="mgdn", config={}, params=params, half=half)
    assert not path.exists()
