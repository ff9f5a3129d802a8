import errno
import os
import resource
import stat

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec, files
from mgdn_jax.io.pixels import from_float, to_float


def picture(height=6, width=5, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, 255, (height, width, 3)).astype(dtype)


def save(path, pixels=None):
    path.write_bytes(codec.encode(picture() if pixels is None else pixels, path.suffix))
    return path


def test_reading_names_the_file_and_what_is_wrong(tmp_path):
    good = save(tmp_path / "good.png")
    np.testing.assert_array_equal(files.read_image(good), picture())
    np.testing.assert_array_equal(files.read_image(str(good)), picture())
    (tmp_path / "empty.png").touch()
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:60])
    save(tmp_path / "nan.tif", np.full((2, 2), np.nan, np.float32))
    cases = {
        "missing.png": "does not exist",
        "": "is a folder",
        "empty.png": "is empty",
        "half.png": "is damaged or truncated",
        "nan.tif": "holds NaN",
        "good.png/x": "cannot be read",
        "zero\0byte": "cannot be read",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            files.read_image(f"{tmp_path}/{name}")
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_reading_without_permission(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match="may not be read"):
        files.read_image(tmp_path / "secret.png")


def test_writing_makes_folders_replaces_whole_and_keeps_permissions(tmp_path):
    target = tmp_path / "new" / "deep" / "out.png"
    files.write_image(target, picture())
    np.testing.assert_array_equal(files.read_image(target), picture())
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    target.chmod(0o640)
    link = tmp_path / "link.png"
    link.symlink_to(target)
    files.write_image(link, picture(3, 3))
    assert link.is_symlink()
    assert files.read_image(target).shape == (3, 3, 3)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(target.parent) == ["out.png"]


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync", "os.chmod"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, failing, failure
):
    target = save(tmp_path / "out.png")
    before = target.read_bytes()

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(failing, fail)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        files.write_image(target, picture(3, 3))
    monkeypatch.undo()
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_truly_full_disk(tmp_path):
    # The limit on file sizes makes write() itself fail half-way, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(InputError, match=r"out\.bmp cannot be written \(file too large\)"):
            files.write_image(tmp_path / "out.bmp", picture(300, 400))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_outputs_that_cannot_be(tmp_path, monkeypatch):
    plain = save(tmp_path / "plain.png")
    (tmp_path / "device.png").symlink_to("/dev/null")
    cases = {
        "": "is a folder",
        "out.gif": "image type",
        "out": "image type",
        "device.png": "not a regular file",
        "plain.png/out.png": "is not a folder",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            files.check_output(f"{tmp_path}/{name}")
    assert files.check_output(plain) == plain.resolve()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="is not writable"):
        files.check_output(tmp_path / "deep" / "out.png")


def test_conversion_to_float_is_exact_and_back_is_rounded():
    for dtype, largest in ((np.uint8, 255), (np.uint16, 65535)):
        every = np.arange(largest + 1).astype(dtype)
        values = to_float(every)
        np.testing.assert_array_equal(values, (every / largest).astype(np.float32))
        np.testing.assert_array_equal(from_float(values, np.dtype(dtype)), every)
    levels = np.array([-0.2, 0.499 / 255, 0.501 / 255, 254.6 / 255, 1.7], np.float32)
    assert from_float(levels, np.dtype(np.uint8)).tolist() == [0, 0, 1, 255, 255]
    assert from_float(levels, None) is levels
    assert from_float(levels, np.dtype(np.float64)).dtype == np.float64
