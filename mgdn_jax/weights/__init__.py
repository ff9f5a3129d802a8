"""Weights: files that travel, bundled networks, conversion of published checkpoints, cards."""
