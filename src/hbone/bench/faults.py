"""What can go wrong while measuring."""

from hbone.errors import HboneError, Unreachable


class NotReady(Unreachable):
    """A process that we started did not come up; carries the end of its log. Attribute: `process`."""


class SampleFailed(HboneError):
    """One measurement could not be taken; the run goes on without it."""
