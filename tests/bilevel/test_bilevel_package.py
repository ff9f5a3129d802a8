"""The package: what it offers, and that it knows no image and no fusion."""

import ast
import pathlib

from mgdn_jax import bilevel


def test_public_names():
    assert set(bilevel.__all__) == {
        *("MODES", "Auxiliary", "MetaAux", "PyTree", "RankOne", "Solution", "Solver", "Trainable"),
        *("INITIALISATIONS", "InitialisationAux", "initialisation_gradient"),
        *("check", "combine", "meta_gradient", "partition"),
        *("scale_by_length", "scale_by_max_abs"),
    }
    assert set(bilevel.__all__) <= set(dir(bilevel))


def test_imports_of_ours_are_errors_alone():
    modules = set()
    for path in pathlib.Path(bilevel.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    ours = {name for name in modules if name.split(".")[0] == "mgdn_jax"}
    assert {name for name in ours if not name.startswith("mgdn_jax.bilevel.")} == {
        "mgdn_jax.errors"
    }
