"""The command `mgdn`."""
