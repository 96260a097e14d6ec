"""What all errors of bad input have in common; it imports nothing, as ``fastgan --help`` must not wait for torch."""


class InputError(ValueError):
    """Something that was given cannot be used. The message is one sentence, which the command line shows."""
