"""hbone: cryptographic identities and mutually authenticated tunnels for every program on a network.

This package imports next to nothing on its own, so that `import hbone` and `hbone --version` cost nothing.
"""

from hbone import native

__version__ = "0.1.0"

native.use()
