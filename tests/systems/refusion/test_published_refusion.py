"""The published ReFusion weights: converted, they reproduce the original's pictures.

Collected only where the checkpoints lie (see conftest.py); they may not be redistributed.
"""

import os

import numpy as np
import pytest
from conftest import SHARED
from golden import Golden

import mgdn_jax
from mgdn_jax import image
from mgdn_jax.cli import main as cli
from mgdn_jax.io.files import read_image
from mgdn_jax.io.pixels import to_float

FIXTURES = SHARED / "fixtures" / "refusion"
PRESET = {"IVIF": "ivf", "MIF": "mif", "MFIF": "mff", "MEIF": "mef"}
PAIRS = ["IVIF/00710N", "MIF/MRI_PET_14", "MFIF/14", "MEIF/AirBellowsGap"]
if os.environ.get("MGDN_ALL_PAIRS"):  # minutes; the four above are one of each task
    PAIRS += ["IVIF/00906N", "MIF/MRI_PET_37", "MFIF/5", "MEIF/ICCV_03"]


@pytest.fixture(scope="module")
def fusers(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("refusion"), {}
    for task, preset in PRESET.items():
        source = SHARED / "weights" / "refusion" / f"ReFusion_{task}.pth"
        target = folder / f"{preset}.safetensors"
        command = ["convert", str(source), str(target), "--system", "refusion"]
        assert cli.main([*command, "--preset", preset]) == 0
        found[task] = mgdn_jax.load(target)
    return found


@pytest.mark.parametrize("task", PRESET)
def test_crop(fusers, task):
    golden = Golden("", FIXTURES / f"fusion_published_{task.lower()}.npz")
    x = golden.nhwc("in:x")
    out = np.asarray(fusers[task].network(x[..., :1], x[..., 1:]))
    error = np.abs(out - np.moveaxis(golden["out:raw"], 1, -1)).max()
    print(f"{task}: {error:.1e}")
    assert error <= 2e-5
    swapped = np.asarray(fusers[task].network(x[..., 1:], x[..., :1]))
    assert np.abs(swapped - out).max() > 0.05


@pytest.mark.parametrize("pair", PAIRS)
def test_the_published_recipe_on_whole_pictures(fusers, pair):
    golden = Golden("", FIXTURES / "published_full.npz")
    task, stem = pair.split("/")
    folder = SHARED / "data" / "refusion_cases" / task
    paths = [next((folder / side).glob(f"{stem}.*")) for side in "ab"]
    fused = fusers[task](*paths, stretch="minmax", chroma="parity")[::16, ::16]
    wanted = golden[f"out:{pair}/rgb8_s16"]
    difference = np.abs(fused.astype(int) - wanted.astype(int))
    print(f"{pair}: RGB largest {difference.max()}, equal {(difference == 0).mean():.3%}")
    assert difference.max() <= 1
    # The gray picture is the same result without the colour of its sources.
    pictures = [np.atleast_3d(to_float(read_image(path))) for path in paths]
    planes = [np.asarray(image.luminance(x)) for x in pictures]
    gray = fusers[task](*planes, stretch="minmax")[::16, ::16, 0]
    levels = np.floor(255.0 * gray + 0.5).astype(int)
    difference = np.abs(levels - golden[f"out:{pair}/gray8_s16"].astype(int))
    print(f"{pair}: gray largest {difference.max()}, equal {(difference == 0).mean():.3%}")
    assert difference.max() <= 1


def test_cards_say_how_to_run_them(fusers):
    card = fusers["MIF"].card
    assert card["inputs"] == "CT/PET/SPECT, MRI"
    assert card["inference"] == {"padding": "network", "chroma": "centred", "stretch": "none"}
    assert card["published_inference"]["stretch"] == "minmax"
    assert (fusers["MIF"].options.chroma, fusers["MIF"].options.stretch) == ("centred", "none")
