"""The C++ example, built and run; collected where a compiler and onnxruntime's headers are."""

import os
import subprocess

import helpers
import numpy as np
import pytest
from test_export import small

from mgdn_jax.io import files
from mgdn_jax.serving import programs

HOME = os.environ.get("ONNXRUNTIME_HOME", "/usr")
pytestmark = pytest.mark.unchecked


def test_it_fuses_as_python_does(tmp_path):
    example = helpers.ROOT / "examples" / "run_exported.cpp"
    binary, program = tmp_path / "run_exported", tmp_path / "little.onnx"
    places = ["-I", f"{HOME}/include", "-I", f"{HOME}/include/onnxruntime", "-L", f"{HOME}/lib"]
    flags = ["-Wall", "-Wextra", "-Werror", "-std=c++17"]
    command = ["g++", *flags, str(example), *places, "-lonnxruntime", "-o", str(binary)]
    subprocess.run(command, check=True)
    program.write_bytes(programs.exported(small("refusion"), "onnx", None, ()))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (12, 17), np.uint8), rng.integers(0, 256, (12, 17, 3), np.uint8)
    (tmp_path / "a.pgm").write_bytes(b"P5\n17 12\n255\n" + a.tobytes())
    (tmp_path / "b.ppm").write_bytes(b"P6\n17 12\n255\n" + b.tobytes())
    words = [str(binary), *(str(tmp_path / x) for x in ("little.onnx", "a.pgm", "b.ppm", "f.pgm"))]
    environment = os.environ | {"LD_LIBRARY_PATH": f"{HOME}/lib"}
    subprocess.run(words, check=True, env=environment)
    gray = (b / np.float32(255)) @ np.array((0.299, 0.587, 0.114), np.float32)
    inputs = [x[None, ..., None].astype(np.float32) for x in (a / np.float32(255), gray)]
    wanted = programs.loaded(program, "onnx")(inputs)[0][0, ..., 0]
    got = files.read_image(tmp_path / "f.pgm")
    assert np.abs(got - 255 * np.clip(wanted, 0, 1)).max() < 0.51
    words[2] = words[1]
    broken = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert broken.returncode == 1
    assert "is no binary PGM or PPM of 8 bits" in broken.stderr
