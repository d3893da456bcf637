"""A setting that is a token's file, as it should be, or the token itself: which of the two."""

from typing import Final

HIDDEN: Final = "(a token)"
_PATHS: Final = ("/", "./", "../", "~")
_LONGEST_PART: Final = 64  # of a path that somebody wrote; what is longer is a secret in base64


def names_a_file(source: str) -> bool:
    """Whether this can only be a path. What is not sure is a secret as far as printing goes."""
    if len(source) > 4096:
        return False
    return source.startswith(_PATHS) and max(map(len, source.split("/"))) <= _LONGEST_PART


def shown(source: str) -> str:
    """What may be printed of it."""
    return source if names_a_file(source) else HIDDEN
