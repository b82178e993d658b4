"""The one kind of error that a user can mend."""


class InputError(ValueError):
    """Wrong input from a user: one line that names the value, the rule and the mend. The command line exits with 2."""
