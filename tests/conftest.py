"""Every test sees four virtual CPU devices; set before JAX looks for its backends."""

import os
import pathlib
import shutil
import signal

import helpers_compiling
import jaxtyping
import pytest
from unchecked import as_users_call

helpers_compiling.surround(os.environ)

# Signatures with shapes are checked at run time here; must precede the first import of the package.
SYSTEMS = pathlib.Path(__file__).parents[1] / "mgdn_jax" / "systems"
CHECKED = [f"mgdn_jax.{room}" for room in ("layers", "losses", "bilevel")]
CHECKED += [f"mgdn_jax.systems.{path.parent.name}.losses" for path in SYSTEMS.glob("*/losses.py")]
jaxtyping.install_import_hook(CHECKED, "checked.check")

# Published checkpoints and test images may not be redistributed; their tests run where they lie.
SHARED = pathlib.Path(os.environ.get("MGDN_SHARED", pathlib.Path(__file__).parents[2] / "shared"))
NEEDS = {
    "systems/mgdn/test_published.py": ("published MGDN", "weights/mgdn/62000_E.pth"),
    "systems/refusion/test_published_refusion.py": (
        "published ReFusion",
        "weights/refusion/ReFusion_IVIF.pth",
    ),
    "systems/defusion/test_whole_defusion.py": (
        "DeFusion's whole fixtures",
        "fixtures/defusion/net_B_narrow.npz",
    ),
    "systems/emma/test_whole_emma.py": ("fixtures of EMMA", "fixtures/emma/README.md"),
    "systems/mma_unet/test_whole_mma_unet.py": (
        "fixtures of MMA-UNet",
        "fixtures/mma_unet/networks_formula.npz",
    ),
    "systems/cen/test_whole_cen.py": ("fixtures of CEN", "fixtures/cen/segmentation.npz"),
    "metrics/test_anchors.py": ("test images and anchors", "anchors/cddfuse_testsets.csv"),
    "evaluation/test_depth_anchors.py": ("depth maps and anchors", "anchors/gdsr_baselines.csv"),
    "evaluation/test_hdr_anchors.py": ("brackets and anchors", "anchors/hdr_test9_scenes.csv"),
}
PUBLISHED = SHARED / NEEDS["systems/mgdn/test_published.py"][1]
REFUSION = SHARED / NEEDS["systems/refusion/test_published_refusion.py"][1]

# Files with few and long tests: handed out first, or one worker waits for the other at the end.
FIRST = (
    *("test_cddfuse_training.py", "test_end_to_end.py", "test_refusion.py", "test_train_cli.py"),
    *("test_mgdn.py", "test_recipe_cddfuse.py", "test_meta_step.py"),
)

# Files whose tests are not for the quick loop, and why; all others are `quick`.
MARKERS = {
    "compile": (
        *("test_buckets.py", "test_cddfuse.py", "test_cddfuse_training.py", "test_end_to_end.py"),
        *("test_every_system.py", "test_fuser_network.py", "test_layers.py", "test_lkc_funet.py"),
        *("test_meta_step.py", "test_mgdn.py", "test_mgdn_mistakes.py", "test_published.py"),
        *("test_published_refusion.py", "test_recipe_cddfuse.py", "test_recipe_lkc_funet.py"),
        *("test_recipe_refusion.py", "test_refusion.py", "test_refusion_meta.py"),
        *("test_training.py", "test_tutorials.py", "test_anchors.py", "test_conversion.py"),
        *("test_dynamic_filter.py", "test_best.py", "test_cddfuse_scripts.py"),
        *("test_mgdn_benchmark.py", "test_export.py", "test_onnx.py"),
        *("test_cpp.py", "test_defusion.py", "test_whole_defusion.py", "test_recipe_defusion.py"),
        *("test_emma.py", "test_emma_training.py", "test_whole_emma.py"),
        *("test_networks_tim.py", "test_primitives_tim.py", "test_search_tim.py"),
        *("test_recipe_tim.py", "test_initialisation_tim.py", "test_search.py"),
        *("test_mma_unet.py", "test_mma_unet_training.py", "test_whole_mma_unet.py"),
        *("test_network_cen.py", "test_recipe_cen.py", "test_whole_cen.py"),
    ),
    "process": ("test_train_cli.py", "test_cli_train.py", "test_cli_progress.py"),
    "browser": ("test_report.py", "test_demo_page.py"),
}

# Second derivatives of whole networks compile for minutes: for changes to them, and releases.
LONG = "MGDN_LONG_TESTS" in os.environ

collect_ignore = [test for test, (_, path) in NEEDS.items() if not (SHARED / path).is_file()]

# The C++ example is built where a compiler and the headers of onnxruntime are.
ORT = pathlib.Path(os.environ.get("ONNXRUNTIME_HOME", "/usr"), "include")
HEADERS = [ORT / folder / "onnxruntime_c_api.h" for folder in ("", "onnxruntime")]
HAS_CPP = shutil.which("g++") is not None and any(path.is_file() for path in HEADERS)
if not HAS_CPP:
    collect_ignore.append("serving/test_cpp.py")


def pytest_configure(config) -> None:
    """Looks after the cache of compiled programs, once, before the workers use it."""
    # A shell starts what it puts into the background with Ctrl-C ignored, and children inherit
    # that: tests that interrupt theirs would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        helpers_compiling.tidy(helpers_compiling.cache_folder())


def pytest_terminal_summary(terminalreporter) -> None:
    """Says which tests were collected (the header is not shown under -q): no silent gaps."""
    for test, (what, _) in NEEDS.items():
        state = f"absent, {test} is not collected" if test in collect_ignore else "collected"
        terminalreporter.write_line(f"{what} (MGDN_SHARED): {state}")
    state = "collected" if HAS_CPP else "absent, serving/test_cpp.py is not collected"
    terminalreporter.write_line(f"headers of onnxruntime (ONNXRUNTIME_HOME): {state}")
    state = "collected" if LONG else "left out"
    terminalreporter.write_line(f"long tests (MGDN_LONG_TESTS=1): {state}")


def pytest_collection_modifyitems(config, items) -> None:
    """Leaves the tests marked `long` out unless they are asked for; slow files go first."""
    kinds = {name: kind for kind, names in MARKERS.items() for name in names}
    for item in items:
        marked = any(item.get_closest_marker(kind) for kind in (*MARKERS, "long"))
        item.add_marker(kinds.get(item.path.name, "process" if marked else "quick"))
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    if not LONG:
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True)
def compilation(request):
    """Compiles in full where a test is marked `optimised`, plainly elsewhere."""
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome from the system; nothing is downloaded."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("the package playwright is not installed: the page is not opened in a browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(names)} is on the PATH: the page is not opened in one")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="session")
def torch():
    """PyTorch, for the tests that need it: importing it takes longer than they do."""
    import torch

    return torch


@pytest.fixture(autouse=True)
def signatures(request):
    """Checks the signatures with shapes at run time, but in tests marked `unchecked`."""
    if request.node.get_closest_marker("unchecked") is None:
        yield
        return
    with as_users_call():
        yield


@pytest.fixture
def x64():
    """Arrays of the test are float64."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """source/ with 40 pairs of gray and colour, 20x24, and sets/ with "ivf", prepared from it."""
    import numpy as np

    from mgdn_jax import data
    from mgdn_jax.io import codec

    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    for kind in ("ir", "vi"):
        (folder / "source" / kind).mkdir(parents=True)
    for i in range(40):
        gray = rng.integers(0, 256, (20, 24)).astype(np.uint8)
        colour = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        for kind, picture in (("ir", gray), ("vi", colour)):
            (folder / "source" / kind / f"{i}.png").write_bytes(codec.encode_png(picture))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGDN_DATA_DIR", str(folder / "sets"))
        data.prepare("pairs", folder / "source", name="ivf")
    return folder


@pytest.fixture
def pairs(prepared, tmp_path, monkeypatch):
    """A folder of the test's own beside source/ and the set "ivf", which are there to be read."""
    monkeypatch.setenv("MGDN_DATA_DIR", str(prepared / "sets"))
    (tmp_path / "source").symlink_to(prepared / "source")
    return tmp_path
