"""The type checker behind the signatures of mgdn_jax, in tests: whole numbers are floats too."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
