"""The error of the commands and the service: a fault that the user can act on."""


class ServiceError(Exception):
    """A command or a part of the service fails. The message is one line for the user."""
