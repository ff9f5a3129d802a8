"""Layers that several systems share: filters, convolutions, attention; NNX as pure functions."""
