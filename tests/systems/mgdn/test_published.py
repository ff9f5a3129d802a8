"""The published MGDN weights: converted, they reproduce the original's pictures.

Collected only where the checkpoints lie (see conftest.py); they may not be redistributed.
"""

import dataclasses

import numpy as np
import pytest
from conftest import PUBLISHED, SHARED
from golden import Golden

import mgdn_jax


@pytest.fixture(scope="module")
def golden():
    return Golden("", SHARED / "fixtures" / "mgdn" / "mgff_mff_published.npz")


def fuser(name, folder):
    target = folder / "mff.safetensors"
    report = mgdn_jax.convert(PUBLISHED.with_name(name), target, system="mgdn", preset="mff")
    assert len(report.converted) == 204
    assert len(report.skipped) == 16
    return mgdn_jax.load(target)


@pytest.mark.parametrize(
    ("file", "key"), [("62000_E.pth", "out:fused"), ("62000_G.pth", "out:fused_G")]
)
def test_crop(golden, tmp_path, file, key):
    fuse = fuser(file, tmp_path)
    out = np.asarray(fuse.network(golden.nhwc("in:a"), golden.nhwc("in:b")))
    error = np.abs(out - np.moveaxis(golden[key], 1, -1)).max()
    print(f"{file}: {error:.1e}")
    assert error <= 1e-5


def test_whole_picture_with_the_scripts_padding(golden, tmp_path):
    fuse = fuser("62000_E.pth", tmp_path)
    fused = fuse(golden["in:full_a_uint8"], golden["in:full_b_uint8"])
    difference = np.abs(fused.astype(int) - golden["out:full_fused_uint8"].astype(int))
    within = float((difference <= 1).mean())
    print(f"equal {float((difference == 0).mean()):.5%}, within one level {within:.5%}")
    assert fused.dtype == np.uint8
    assert within >= 0.999
    assert (difference > 0).sum() <= 100


def test_bfloat16_on_real_pictures(golden, tmp_path):
    fuse = fuser("62000_E.pth", tmp_path)
    config = dataclasses.replace(fuse.config, dtype="bfloat16")
    rough = mgdn_jax.Fuser("mgdn", config, fuse.params)
    images = golden.nhwc("in:a"), golden.nhwc("in:b")
    error = np.abs(np.asarray(rough.network(*images)) - np.asarray(fuse.network(*images))).max()
    print(f"bfloat16 on the published crop: {error:.1e}")
    assert 0 < error <= 2e-2
