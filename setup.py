"""Which folders are packages: a new one is found, and configs/ goes into the wheel too.

All else is in pyproject.toml, which cannot say both at once.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mgdn_jax*"]), "mgdn_jax.configs"],
    package_dir={"mgdn_jax.configs": "configs"},
)
