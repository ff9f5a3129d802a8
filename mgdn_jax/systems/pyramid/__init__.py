"""Pyramid: learned gains on the details of Laplacian pyramids; this project's own."""
