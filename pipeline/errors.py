"""The exceptions a user can meet. Each message says what is wrong, where, and what to do.

`exit_code` is what the command line returns: 2 for wrong configuration or input, 1 for a job that failed.
"""


class StagedKDError(Exception):
    """Base of everything that is raised on purpose."""

    exit_code = 1


class ConfigError(StagedKDError, ValueError):
    """A recipe (or --set) says something that cannot be: name the dotted path, the value and what is allowed."""

    exit_code = 2


class InputError(StagedKDError, ValueError):
    """Data, weights or a workspace that the recipe points to do not fit: name the file and the mend."""

    exit_code = 2


class CapacityError(ConfigError):
    """The cluster can never become large enough: the message shows the arithmetic."""


class JobError(StagedKDError, RuntimeError):
    """A job failed or was lost to another owner; what was committed stays and the same command goes on from there."""


class StorageError(JobError, OSError):
    """A store refused or had trouble for long: nothing about the file itself, so never a quarantine."""
