"""The errors a user may meet: each says what failed and why, and carries a hint with the remedy.

    SepConvVideoError
    |- OptionsError   an option, path or combination that makes no sense
    |- VideoError     a file that cannot be read, understood or written
    |- BusyError      a target that another process is making
    |- WeightsError   weights that are missing, damaged or of another network
    |- DeviceError    a device that is missing, unusable or out of memory
    `- Interrupted    the user wants to stop: nothing failed

Messages are lower case without a final period, with paths and names in backticks:
what failed, why, the value found and the values accepted.
"""


class SepConvVideoError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        message: One line: what failed and why.
        hint: What to do about it, or an empty string.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the message and the hint apart, so that the command line can lay them out."""
        super().__init__(message)
        self.message = message
        self.hint = hint


def reason_of(error: Exception) -> str:
    """Say in lower case why the system refused something, for a message."""
    return (getattr(error, "strerror", None) or str(error)).lower()


class OptionsError(SepConvVideoError):
    """An option, a path or a combination of them that makes no sense."""


class VideoError(SepConvVideoError):
    """A video or picture that cannot be read, understood or written."""


class BusyError(SepConvVideoError):
    """A target that another process is making at the moment."""


class WeightsError(SepConvVideoError):
    """Weights that are missing, damaged or belong to another network."""


class DeviceError(SepConvVideoError):
    """A device that is missing, cannot be used or ran out of memory."""


class Interrupted(SepConvVideoError):  # noqa: N818 - nothing failed
    """The user wanted to stop: what is finished is kept, the same command goes on from there."""
