"""Pages of the systems for mkdocs.yml, so that a new system changes no list of pages.

Every folder of `mgdn_jax/systems` gets a page of the API, and every page of `docs/systems` its
place in the navigation.
"""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.parent.name for path in (ROOT / "mgdn_jax" / "systems").glob("*/__init__.py"))
REFERENCE = """# {title}

This is the code of [{title}](../systems/{name}.md): network, recipe, losses and conversion.

::: mgdn_jax.systems.{name}
    options:
      show_root_heading: false
      show_submodules: true
"""


def on_config(config):
    """Puts the pages of the systems into the navigation."""
    for section in config.nav:
        if "Systems" in section:
            section["Systems"] += [f"systems/{name}.md" for name in NAMES]
        if "API" in section:
            after = section["API"].index("api/systems.md") + 1
            section["API"][after:after] = [f"api/{name}.md" for name in NAMES]


def on_files(files, config):
    """Makes the pages of the API."""
    for name in NAMES:
        page = (ROOT / "docs" / "systems" / f"{name}.md").read_text(encoding="utf-8")
        content = REFERENCE.format(name=name, title=page.splitlines()[0].removeprefix("# "))
        files.append(File.generated(config, f"api/{name}.md", content=content))
