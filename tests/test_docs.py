"""The documents: links lead somewhere, lines stay short, every public name has a page."""

import ast
import importlib
import pathlib
import re
import runpy

import jax
import pytest

from mgdn_jax.systems import finding

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "mgdn_jax"
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [page for page in FRONT if page.exists()] + sorted(DOCS.rglob("*.md"))
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
WIDTH = 120


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(page):
    """(number, line) of what is neither a table's row nor inside a code fence."""
    fence = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        mark = re.match(r"\s*(`{3,})", line)
        if fence is not None:
            fence = None if line.strip() == fence else fence
        elif mark:
            fence = mark[1]
        elif not line.lstrip().startswith("|"):
            yield number, line


def anchors(page):
    """What the headings of a page are called in its address."""
    headings = [line for _, line in prose(page) if re.match(r"#{1,6} ", line)]
    slugs = set()
    for heading in headings:
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.lstrip("# ")).lower()
        slugs.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip()))
    return slugs


def links(page):
    """Targets of a page's links and pictures; those in tables count, those in code do not."""
    text = re.sub(r"^( *)(`{3,}).*?^\1\2$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "`code`", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    broken = []
    for target in links(page):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_prose_are_short(page):
    """Rows of tables and code are exempt; nothing else is."""
    assert [f"{number}: {line}" for number, line in prose(page) if len(line) > WIDTH] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"^ +- (?:\w+: )?(\S+\.md)", navigation, re.MULTILINE)
    systems = [f"systems/{name}.md" for name in finding.builtin()]  # .ci/systems_pages.py
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert sorted([*listed, *systems]) == sorted(pages)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def public_modules():
    """Dotted names of the modules that define a public function, class or constant."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if any(part.startswith("_") for part in module_of(path).split(".")):
            continue
        names = []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.append(node.name)
            elif isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.append(node.target.id)
        if any(not name.startswith("_") for name in names):
            yield module_of(path)


def test_every_public_module_has_one_page():
    single, whole = [], []
    for page in (DOCS / "api").glob("*.md"):
        blocks = re.findall(
            r"^::: (\S+)\n((?: +.*\n)*)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        for name, options in blocks:
            (whole if "show_submodules: true" in options else single).append(name)
    whole += [f"mgdn_jax.systems.{name}" for name in finding.builtin()]  # .ci/systems_pages.py
    for module in public_modules():
        homes = [name for name in whole if module == name or module.startswith(name + ".")]
        assert len(homes) + single.count(module) == 1, module
    assert {*single, *whole} <= {module_of(path) for path in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_docstrings_of_configs_name_every_preset_and_say_hours(config):
    module = runpy.run_path(str(config))
    text = module["__doc__"]
    assert not [name for name in module["PRESETS"] if not re.search(rf"\b{name}\b", text)]
    assert "Hours, machine and figures" in text


def commands(path):
    """The (config, preset, fields) of every training that a page or a config's text shows."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    for line in re.findall(r"(?:train\.py|mgdn train) .*", text):
        config = re.search(r"--config=(?:configs/)?(\w+)(?:\.py)?(?::(\w+))?(?=[\s`]|$)", line)
        if config and (ROOT / "configs" / f"{config[1]}.py").exists():
            yield config[1], config[2], re.findall(r"--config\.([\w.]+)=", line)


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name_of)
def test_trainings_that_are_shown_have_their_presets_and_fields(page):
    for name, preset, fields in commands(page):
        get_config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]
        config = get_config(preset) if preset else get_config()
        for field in fields:
            block = config
            for part in field.split("."):
                assert part in block, f"{name}:{preset} has no {field}, which is no flag then"
                block = block[part]


def test_the_swapped_loss_of_the_page_works(tmp_path, monkeypatch):
    page = (DOCS / "extend" / "losses.md").read_text(encoding="utf-8")
    source = re.search(r"```python\n(# experiments/charbonnier\.py\n.*?)```", page, re.DOTALL)[1]
    (tmp_path / "charbonnier_of_the_page.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("charbonnier_of_the_page")
    recipe = module.Recipe(
        {"preset": "ivf_small", "features": 4, "norm_groups": 4}, charbonnier=2.0
    )
    picture = jax.ShapeDtypeStruct((2, 16, 16, 1), "float32")
    params, stats = jax.eval_shape(recipe.init, jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    for drawn in (keys, None):
        batch = {"a": picture, "b": picture}
        total, (new, terms) = jax.eval_shape(recipe.loss, params, stats, batch, drawn)
        assert total.shape == ()
        assert terms.keys() == {"charbonnier", "gradient"}
        assert new["fusion"].keys() == stats["fusion"].keys()


def test_documents_named_in_the_sources_exist():
    """Docstrings and messages that name a page or a figure name one that is there."""
    folders = ("mgdn_jax", "benchmarks", "configs", "examples", "tests")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lost = []
    cards = (PACKAGE / "weights" / "bundled").glob("*.md")
    for path in [*sources, *cards, ROOT / "train.py", ROOT / ".ci" / "run"]:
        for target in re.findall(r"\bdocs/[\w/.-]+\.(?:md|csv|svg|png|jpg)", path.read_text()):
            if not (ROOT / target).exists():
                lost.append(f"{name_of(path)}: {target}")
    assert not lost
