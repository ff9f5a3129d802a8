"""The one exception a user is meant to read."""


class InputError(ValueError):
    """A file, field or argument is not usable; the message is one sentence with the cure.

    The command line prints the message alone and exits with code 2. Raised at the edges only
    (files, checkpoints, configs, arguments); inside the package ordinary exceptions propagate.
    """
