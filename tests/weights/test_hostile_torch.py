"""PyTorch files that somebody made to do harm, or that hold other things than plain tensors."""

import functools
import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from golden import Golden

from mgdn_jax.errors import InputError
from mgdn_jax.weights import conversion


def refusal(path):
    """What the reader says against a file."""
    with pytest.raises(InputError) as caught:
        conversion.read_torch(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.isprintable()
    return sentence


def saved(torch, folder, tensors, **options):
    path = folder / "net.pth"
    torch.save(tensors, path, **options)
    return path


UNUSUAL = {
    "sparse": lambda torch: torch.eye(3).to_sparse(),
    "rows": lambda torch: torch.eye(3).to_sparse_csr(),
    "wide": lambda torch: torch.sparse_coo_tensor([[0], [0]], [1.0], (10**9, 10**9)),
    "quantised": lambda torch: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    "channels": lambda torch: torch.quantize_per_channel(
        torch.zeros(3, 3), torch.ones(3), torch.zeros(3), 0, torch.qint8
    ),
    "meta": lambda torch: torch.empty(3, device="meta"),
    "huge": lambda torch: torch.empty(10**15, device="meta"),
    "complex": lambda torch: torch.zeros(3, dtype=torch.complex64),
    "conjugate": lambda torch: torch.ones(3, dtype=torch.complex64).conj(),
    "nested": lambda torch: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's own, about what is being made
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_tensors_are_refused_by_name(torch, tmp_path, kind):
    tensors = {"good": torch.zeros(2), "the.odd.one": UNUSUAL[kind](torch)}
    sentence = refusal(saved(torch, tmp_path, {"params": tensors}))
    assert "'the.odd.one' is a " in sentence or "plain tensors" in sentence


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_numbers_of_every_width_become_float32(torch, tmp_path, kind):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, kind))
    read = conversion.read_torch(saved(torch, tmp_path, {"a": tensor}))["a"]
    assert read.dtype == np.float32
    assert np.array_equal(read, tensor.float().numpy())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_repeated_values_take_no_room(torch, tmp_path, old, kind):
    """A kilobyte that stands for gigabytes is refused, one that stands for less takes no more."""
    one = torch.ones(1, dtype=getattr(torch, kind))
    options = {"_use_new_zipfile_serialization": not old}
    path = saved(torch, tmp_path, {"a": one.expand(3 * 10**9)}, **options)
    assert path.stat().st_size < 4000
    assert "has 3,000,000,000 parameters" in refusal(path)
    many = {str(i): one.expand(10**8) for i in range(3)}
    assert "MGDN_MAX_PARAMETERS" in refusal(saved(torch, tmp_path, many, **options))
    path = saved(torch, tmp_path, {"a": one.expand(2 * 10**8)}, **options)
    tracemalloc.start()
    read = conversion.read_torch(path)["a"]
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert read.shape == (2 * 10**8,)
    assert read.strides == (0,)


def test_windows_over_one_storage_count_as_what_they_show(torch, tmp_path):
    windows = torch.zeros(40_000).as_strided((20_000, 20_000), (1, 1))
    assert "has 400,000,000 parameters" in refusal(saved(torch, tmp_path, {"a": windows}))
    shared = torch.arange(40.0)  # many tensors in one storage, as some programs save them
    tensors = {str(i): shared[i : i + 2] for i in range(30)}
    read = conversion.read_torch(saved(torch, tmp_path, tensors))
    assert all(np.array_equal(read[str(i)], [i, i + 1]) for i in range(30))


def archive(torch, folder, change=None, **options):
    """A file of ten numbers, packed again; `change` maps a name and its content to another one."""
    content = io.BytesIO()
    torch.save({"a": torch.arange(10.0)}, content)
    path = folder / "net.pth"
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w", **options) as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, change(entry.filename, data) if change else data)
    return path


def grown(part, name, data):
    return data + bytes(4 * 10**7) * name.endswith(part)


def test_archives_are_not_unpacked_to_more_than_they_hold(torch, tmp_path):
    deflated = {"compression": zipfile.ZIP_DEFLATED}
    small = archive(torch, tmp_path, **deflated)
    assert np.array_equal(conversion.read_torch(small)["a"], np.arange(10))
    for part in ("/0", ".pkl", "version"):
        swollen = functools.partial(grown, part)
        large = archive(torch, tmp_path, swollen, **deflated)
        assert large.stat().st_size < 10**6
        assert "declares more than it holds" in refusal(large)


def test_entries_lie_side_by_side(torch, tmp_path):
    """An archive whose entries all lead to one place holds less than it declares."""
    path = archive(torch, tmp_path, lambda name, data: bytes(10**6) * name.endswith("/0") or data)
    with zipfile.ZipFile(path, "a") as target:
        first = next(entry for entry in target.infolist() if entry.filename.endswith("/0"))
        for number in range(100):
            copy = zipfile.ZipInfo(f"archive/data/{number + 1}")
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            copy.file_size = copy.compress_size = first.file_size
            target.filelist.append(copy)
        target._didModify = True
    assert "declares more than it holds" in refusal(path)


def test_numbers_of_the_other_byte_order_are_read(torch, tmp_path):
    def turned(name, data):
        if name.endswith("/0"):
            return np.frombuffer(data, "<f4").astype(">f4").tobytes()
        return b"big" if name.endswith("byteorder") else data

    read = conversion.read_torch(archive(torch, tmp_path, turned))["a"]
    assert np.array_equal(read, np.arange(10))


def pickled(folder, code, is_archive=True):
    path = folder / "net.pth"
    if not is_archive:
        path.write_bytes(code)
        return path
    with zipfile.ZipFile(path, "w") as target:
        for name, data in (("data.pkl", code), ("version", b"3\n"), ("byteorder", b"little")):
            target.writestr(f"archive/{name}", data)
    return path


def whole(number):
    """A number as the pickle machine reads it."""
    return b"\x8a\x06" + struct.pack("<Q", number)[:6]


LETTER = b"X\x01\x00\x00\x00a"
TUPLES = b"".join(b"q\x00h\x00\x86" for _ in range(60))
PICKLES = {
    "a key that takes years to hash": b"\x80\x02}" + LETTER + b"\x85" + TUPLES + b"K\x01s.",
    "ten terabytes of zeros": b"\x80\x02cbuiltins\nbytearray\n" + whole(10**13) + b"\x85R.",
    "a tensor made of a size": b"\x80\x02}"
    + LETTER
    + b"ctorch\nFloatTensor\n"
    + whole(10**13)
    + b"\x85Rs.",
    "a million tuples": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
    "a million steps": b"\x80\x02" + b"N0" * 500_000 + b"N.",
    "a message that takes minutes to write": b"\x80\x02X\x40\x0d\x03\x00" + b"x" * 200_000 + b"Q.",
    "a tuple of long texts": b"\x80\x02}X\xe8\x03\x00\x00"
    + b"x" * 1000
    + b"q\x00("
    + b"h\x00" * 200
    + b"tR.",
    "a call of a list": b"\x80\x02]" + LETTER + b"a)R.",
    "a text of two gigabytes": b"\x80\x02X\xff\xff\xff\x7f.",
    "no end": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("code", PICKLES.values(), ids=PICKLES.keys())
def test_pickles_are_looked_through_first(torch, tmp_path, code, is_archive):
    path = pickled(tmp_path, code, is_archive)
    sentence = refusal(path)
    assert "cannot be read as a PyTorch checkpoint" in sentence or "is empty" in sentence


def test_storages_of_the_old_form_are_counted(torch, tmp_path):
    path = saved(torch, tmp_path, {"a": torch.zeros(7)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"K\x07N") == 1
    path.write_bytes(content.replace(b"K\x07N", whole(10**11) + b"N"))
    assert "has 100,000,000,000 parameters" in refusal(path)


def test_what_is_no_file_is_not_waited_for(torch, tmp_path):
    path = tmp_path / "net.pth"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "not a regular file" in refusal(path)
    path.unlink()
    path.write_bytes(b"\x80\x02")
    os.truncate(path, 40 * 2**30)
    refusal(path)


def test_code_is_never_run(torch, tmp_path):
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(ran),))

    for content in (pickle.dumps(Trap()), pickle.dumps({"a": Trap()}, protocol=0)):
        for is_archive in (True, False):
            refusal(pickled(tmp_path, content, is_archive))
    for old in (True, False):
        refusal(saved(torch, tmp_path, {"a": Trap()}, _use_new_zipfile_serialization=not old))
    assert not ran.exists()


def test_what_is_not_finite_is_not_converted(torch, tmp_path):
    state = Golden("mgdn_mgff_mff_random").state()
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    tensors["conv_last.0.weight"] = tensors["conv_last.0.weight"].double()
    tensors["conv_last.0.weight"][0, 0, 0, 0] = 1e300  # infinite in float32
    path, target = saved(torch, tmp_path, {"params": tensors}), tmp_path / "net.safetensors"
    with pytest.raises(InputError, match=r"entry 'conv_last.0.weight' has values that are not fin"):
        conversion.convert(path, target, system="mgdn", preset="mff")
    assert not target.exists()
