"""What must work with the lowest versions that pyproject.toml allows: import, public face, one fuse."""
