"""The house: imports run downhill, single owners, limits of size, and a light import."""

import ast
import functools
import io
import pathlib
import re
import subprocess
import sys
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "mgdn_jax"

# A room may import rooms of lower rank, and its own files. `__init__` only hands names on lazily.
RANKS = {
    "errors": -1, "arguments": 0, "image": 0, "lazy": 0, "moved": 0,
    "io": 1, "layers": 1, "losses": 1, "metrics": 1, "bilevel": 1,
    "quantities": 1,
    "systems": 2,
    "weights": 3, "data": 3,
    "fusing": 4, "evaluation": 4, "training": 4,
    "serving": 5,
    "cli": 6, "__main__": 7, "__init__": 7,
}  # fmt: skip
OWNERS = {
    "torch": "weights/conversion.py",
    "orbax": "training/checkpoints.py",
    "etils": "training/places.py",
    "tensorflow_datasets": "data/",
    "grain": "data/",
    "PIL": "io/",
    "tifffile": "io/tiff.py",
    "rawpy": "io/raw.py",
    "pillow_heif": "io/heif.py",
    "pydicom": "io/dicom.py",
    "nibabel": "io/nifti.py",
    "OpenEXR": "io/exr.py",
    "av": "io/video",
    "jax2onnx": "serving/programs.py",
    "onnxruntime": "serving/programs.py",
    "cv2": "fusing/",
    "ray": "serving/ray",
    "tensorboardX": "training/logs.py",
    "ml_collections": ("training/loop.py", "cli/train.py"),
}
FILE_LINES, FUNCTION_LINES = 500, 80


@functools.cache
def rooms():
    """(room, path, tree) of every file; read once, for reading takes a second or three."""
    return list(_read())


def _read():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        yield room, path, ast.parse(path.read_text())


def imported(tree):
    """(top-level module, parts below it) of every import, function bodies included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, *parts = alias.name.split(".")
                yield first, parts
        elif isinstance(node, ast.ImportFrom) and node.module:
            first, *parts = node.module.split(".")
            for alias in node.names:
                yield first, [*parts, alias.name]


def docstring_lines(tree):
    """Numbers of the lines that docstrings take."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


def code_lines(text):
    """Numbers of the lines that hold code: no docstrings, comments or blank lines."""
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*silent, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - set(docstring_lines(ast.parse(text)))


def test_every_room_has_a_rank():
    assert {room for room, _, _ in rooms()} == RANKS.keys()


def test_imports_run_downhill():
    wrong = []
    for room, path, tree in rooms():
        if room == "__init__":
            continue
        for package, parts in imported(tree):
            other = parts[0] if package == "mgdn_jax" and parts else room
            if other in RANKS and other != room and RANKS[other] >= RANKS[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {'.'.join(parts)}")
    assert not wrong


def test_no_package_imports_itself_in_a_circle():
    uses = {}
    for _, path, tree in rooms():
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        uses[name] = {".".join(p) for k, p in imported(tree) if k == "mgdn_jax" and p}
        uses[name] |= {".".join(p[:-1]) for k, p in imported(tree) if k == "mgdn_jax" and p[1:]}
    # A file names its own package where it imports a sibling from it.
    uses = {
        name: {u for u in used if u in uses and not f"{name}.".startswith(f"{u}.")}
        for name, used in uses.items()
    }
    while leaves := {name for name, used in uses.items() if not used}:
        uses = {name: used - leaves for name, used in uses.items() if name not in leaves}
    assert not uses


def test_systems_do_not_import_each_other():
    folder = PACKAGE / "systems"
    names = {path.parent.name for path in folder.glob("*/network.py")}
    assert names >= {"cddfuse", "lkc_funet", "mgdn", "pyramid", "refusion"}
    for name in names:
        for path in (folder / name).glob("*.py"):
            seen = {p[1] for k, p in imported(ast.parse(path.read_text())) if p[:1] == ["systems"]}
            assert not seen & (names - {name}), path


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_single_owners(library):
    users = {
        path.relative_to(PACKAGE).as_posix()
        for _, path, tree in rooms()
        if any(package == library for package, _ in imported(tree))
    }
    assert users
    assert all(user.startswith(OWNERS[library]) for user in users)


@pytest.mark.parametrize("call", [".pmap(", ".shard_map("])
def test_maps_over_devices_live_in_one_file(call):
    users = [path for _, path, _ in rooms() if call in path.read_text()]
    assert users == [PACKAGE / "training" / "parallel.py"]


def test_no_file_and_no_function_is_too_large():
    large = []
    for _, path, tree in rooms():
        name, lines = path.relative_to(PACKAGE), code_lines(path.read_text())
        if len(lines) > FILE_LINES:
            large.append(f"{name}: {len(lines)}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = len(lines & set(range(node.lineno, node.end_lineno + 1)))
                if count > FUNCTION_LINES:
                    large.append(f"{name}:{node.name}: {count}")
    assert not large


def test_nothing_is_found_out_by_looking():
    """What a recipe or a network can do is written in the contract, not guessed."""
    guesses = []
    for room, path, tree in rooms():
        if room not in ("systems", "weights", "fusing", "training"):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            with_default = name == "getattr" and len(node.args) == 3
            if with_default or name in ("hasattr", "inspect.getmembers"):
                guesses.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {name}")
            # A loader's arguments are config fields, which may be misspelt: that is what it is for.
            if name == "inspect.signature" and path.name != "config.py":
                guesses.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {name}")
    assert not guesses


def test_public_names_have_docstrings():
    bare = []
    for _, path, tree in rooms():
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{path.name}:{node.name}")
    assert not bare


def python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light():
    """No device, no torch, no TensorFlow, nothing heavy; counted in modules, not in seconds."""
    code = (
        "import sys, mgdn_jax; mgdn_jax.__all__; dir(mgdn_jax)\n"
        "heavy = {'jax', 'flax', 'torch', 'tensorflow', 'scipy', 'numpy', 'PIL', 'orbax'}\n"
        "ours = sorted(name for name in sys.modules if name.startswith('mgdn'))\n"
        "print(sorted(heavy & sys.modules.keys()), ours)"
    )
    assert python(code) == "[] ['mgdn_jax', 'mgdn_jax.lazy', 'mgdn_jax.moved']"


def test_use_needs_neither_torch_nor_tensorflow_nor_a_device():
    """Nor, for fusing, the parts of SciPy that take half a second and 50 MB."""
    code = (
        "import sys, mgdn_jax; mgdn_jax.load; mgdn_jax.Fuser; mgdn_jax.convert\n"
        "slow = {'scipy.stats', 'scipy.optimize', 'scipy.interpolate'} & sys.modules.keys()\n"
        "mgdn_jax.training.fit; mgdn_jax.data.prepare; mgdn_jax.metrics.evaluate\n"
        "from jax._src import xla_bridge\n"
        "torch = {'torch', 'tensorflow'} & sys.modules.keys()\n"
        "print(sorted(torch), sorted(slow), len(xla_bridge._backends))"
    )
    assert python(code) == "[] [] 0"


def test_listing_systems_imports_none_of_them():
    code = (
        "import sys, mgdn_jax; print(sorted(mgdn_jax.list_systems()))\n"
        "print(sorted(m for m in sys.modules if m.startswith('mgdn_jax.systems.')))"
    )
    names = sorted(path.parent.name for path in (PACKAGE / "systems").glob("*/network.py"))
    assert python(code) == f"{names}\n['mgdn_jax.systems.finding']"
    code = "import sys, mgdn_jax; mgdn_jax.list_systems(); mgdn_jax.list_models()\n"
    assert python(code + "print(sorted({'jax', 'flax', 'orbax'} & sys.modules.keys()))") == "[]"


SURFACE = (
    "Deghoster DepthUpsampler Fuser InputError bilevel convert create data evaluate evaluation "
    "export fuse_folders fuse_video list_models list_presets list_systems load merge_exposures "
    "metrics training upsample_depth"
)


def test_the_public_face():
    import mgdn_jax

    assert sorted(mgdn_jax.__all__) == SURFACE.split()
    assert all(getattr(mgdn_jax, name) is not None for name in mgdn_jax.__all__)
    assert dir(mgdn_jax) == sorted(mgdn_jax.__all__)


def test_unknown_names_are_attribute_errors():
    import mgdn_jax

    with pytest.raises(AttributeError, match="no attribute 'fusr'"):
        _ = mgdn_jax.fusr
    assert set(mgdn_jax.__all__) <= set(dir(mgdn_jax))
    assert mgdn_jax.InputError.__mro__[1] is ValueError


def test_the_default_model_is_bundled_with_its_card():
    from mgdn_jax.weights import zoo

    path = zoo.bundled()[zoo.DEFAULT]
    assert path.with_suffix(".md").is_file()
    card = zoo.describe(path)["card"]
    assert {"task", "inputs", "trained_on", "figures", "training"} <= card.keys()
    text = path.with_suffix(".md").read_text() + str(card)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", text)
