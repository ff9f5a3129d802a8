"""The systems, a folder each, and what they have in common."""
