"""The house: imports run downhill, single owners, and importing the package is light."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "mgdn_jax"

# A room may import rooms of lower rank, and its own files. `__init__` only hands names on lazily.
RANKS = {
    "errors": 0, "image": 0, "codec": 0, "disk": 0, "tiling": 0,
    "layers": 0, "losses": 0, "metrics": 0, "bilevel": 0,
    "models": 1, "baselines": 1, "optimisers": 1,
    "recipes": 2, "conversion": 2,
    "steps": 3, "data": 3, "checkpoint": 3, "files": 2, "logs": 3, "runs": 3, "rendering": 3,
    "processes": 3, "zoo": 3,
    "training": 4, "fuser": 4, "stream": 4, "scores": 3, "comparison": 4, "evaluation": 4,
    "album": 4, "cli_output": 4, "report": 5,
    "api": 5, "cli_fuse": 5, "cli_compare": 5, "cli_tools": 6, "cli_pairs": 6, "cli_eval": 7,
    "cli": 8, "__main__": 9, "__init__": 10,
}  # fmt: skip
# Among rooms of rank 0 and 3 these leaves may be used by their equals.
LEAVES = {"errors", "image", "disk", "steps"}
OWNERS = {
    "torch": {"conversion"},
    "orbax": {"checkpoint"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "PIL": {"codec"},
    "tensorboardX": {"logs"},
    "ml_collections": {"training", "runs"},
}


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        yield room, path, ast.parse(path.read_text())


def imported(tree):
    """(top-level module, second part or None) of every import, function bodies included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield parts[0], parts[1] if len(parts) > 1 else None
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if len(parts) > 1:
                yield parts[0], parts[1]
            else:
                for alias in node.names:
                    yield parts[0], alias.name


def test_every_room_has_a_rank():
    assert {room for room, _, _ in rooms()} <= RANKS.keys()


def test_imports_run_downhill():
    wrong = []
    for room, path, tree in rooms():
        if room == "__init__":
            continue
        for package, other in imported(tree):
            if package != "mgdn_jax" or other is None or other == room or other not in RANKS:
                continue
            lower = RANKS[other] < RANKS[room]
            if not lower and not (RANKS[other] == RANKS[room] and other in LEAVES):
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_systems_do_not_import_each_other():
    for folder in ("models", "recipes"):
        names = {p.stem for p in (PACKAGE / folder).glob("*.py")} - {"__init__"}
        for name in names:
            tree = ast.parse((PACKAGE / folder / f"{name}.py").read_text())
            modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            siblings = {f"mgdn_jax.{folder}.{other}" for other in names - {name}}
            assert not modules & siblings


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_single_owners(library):
    users = {
        room
        for room, _, tree in rooms()
        if any(package == library for package, _ in imported(tree))
    }
    assert users <= OWNERS[library]


def test_pmap_lives_in_training_alone():
    users = {room for room, path, _ in rooms() if ".pmap(" in path.read_text()}
    assert users == {"training"}


def test_no_room_is_too_large():
    sizes = {path.name: len(path.read_text().splitlines()) for _, path, _ in rooms()}
    assert {name: n for name, n in sizes.items() if n > 600} == {}


def test_public_names_have_docstrings():
    bare = []
    for _, path, tree in rooms():
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{path.name}:{node.name}")
    assert not bare


def test_import_is_light():
    """No device, no torch, no TensorFlow, nothing heavy; counted in modules, not in seconds."""
    code = (
        "import sys, mgdn_jax; mgdn_jax.__all__; dir(mgdn_jax)\n"
        "heavy = {'jax', 'flax', 'torch', 'tensorflow', 'scipy', 'numpy', 'PIL', 'orbax'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_use_needs_neither_torch_nor_tensorflow_nor_a_device():
    code = (
        "import sys, mgdn_jax; mgdn_jax.load; mgdn_jax.Fuser; mgdn_jax.convert\n"
        "mgdn_jax.training.fit; mgdn_jax.data.prepare; mgdn_jax.metrics.evaluate\n"
        "from jax._src import xla_bridge\n"
        "print(sorted({'torch', 'tensorflow'} & sys.modules.keys()), len(xla_bridge._backends))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] 0"


def test_unknown_names_are_attribute_errors():
    import mgdn_jax

    with pytest.raises(AttributeError, match="no attribute 'fusr'"):
        _ = mgdn_jax.fusr
    assert set(mgdn_jax.__all__) <= set(dir(mgdn_jax))
    assert mgdn_jax.InputError.__mro__[1] is ValueError


def test_the_default_model_is_bundled_with_its_card():
    from mgdn_jax import zoo

    path = zoo.bundled()[zoo.DEFAULT]
    assert path.with_suffix(".md").is_file()
    card = zoo.describe(path)["card"]
    assert {"task", "inputs", "trained_on", "figures", "training"} <= card.keys()
    text = path.with_suffix(".md").read_text() + str(card)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", text)


def test_links_of_the_documents_lead_somewhere():
    broken = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken
