"""The one error the local servers raise: a fault the user can act on, told in one line."""


class ServiceError(Exception):
    """A local server cannot be installed, started, reached or stopped."""
