"""Errors that a user can mend: the commands print their message alone, without a traceback."""


class UserError(Exception):
    """Something that a user gave cannot work; the message says what, where and what to do."""


class LaunchError(UserError):
    """A command was called with something that cannot work."""


class DatasetError(UserError):
    """The data on disk is not what its layout says."""


class CheckpointMismatchError(UserError):
    """The checkpoint belongs to another architecture."""
