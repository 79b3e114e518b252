"""The one base of errors that a user can mend; tools print them as a line without a traceback."""


class UserError(ValueError):
    """Something outside the code is wrong; the message says what, where, and what to do."""
