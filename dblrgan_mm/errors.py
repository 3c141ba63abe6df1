"""Errors that the user can fix; the commands print only the message, without a traceback."""


class UserError(Exception):
    """Invalid user input or a condition the user can fix; says what, where and what to do."""


class LaunchError(UserError):
    """A command was called with invalid arguments, or its config or environment is invalid."""


class DatasetError(UserError):
    """The data on disk does not match its layout."""


class UnsafeCheckpointError(UserError):
    """The checkpoint asks to run code; it was not loaded."""


class CheckpointMismatchError(UserError):
    """The checkpoint belongs to another architecture."""
