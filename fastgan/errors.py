"""What all errors of bad input have in common; this imports nothing, as ``fastgan --help`` must not wait for torch."""


class InputError(ValueError):
    """Something that was given cannot be used. The message is one sentence, which the command line shows."""


def first_line(error: Exception) -> str:
    """What an error of somebody else says first, for a sentence of ours; its type where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
