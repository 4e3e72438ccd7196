"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend; the message names the flag, the value and the way out. Exit status 2."""

    def __init__(self, message):
        # A loader's worker process hands its whole traceback on as the message; ours is its last line.
        super().__init__(str(message).rpartition("UserError: ")[2].strip())
