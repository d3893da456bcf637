"""Calling a control plane: where it is, and what its failures mean to us."""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError
from grpclib.client import Channel, ServiceMethod, Stream
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import H2Error

from hbone.errors import HboneError, Unreachable
from hbone.values import dataclass

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")

_PASSING = frozenset(
    {Status.UNAVAILABLE, Status.CANCELLED, Status.DEADLINE_EXCEEDED, Status.UNKNOWN, Status.INTERNAL, Status.ABORTED}
)


class ControlRefused(HboneError):
    """The control plane answered with a gRPC status other than OK. `code` is its name, `passing` whether asking
    again may help."""

    code: str
    passing: bool


class Endpoint(Protocol):
    """A control plane's address, with what it takes to be let in."""

    def channel(self) -> Channel:
        """A new channel; connects at the first call."""
        ...

    def metadata(self) -> Mapping[str, str]:
        """What goes with every call, made anew for each (tokens are replaced on disk)."""
        ...

    @property
    def remedy(self) -> str:
        """What to do when nobody answers there."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """The control socket of a `hbone up` on this machine: the kernel tells it who we are."""

    path: Path

    def channel(self) -> Channel:
        return Channel(path=str(self.path), config=Configuration())

    def metadata(self) -> Mapping[str, str]:
        return {}

    @property
    def remedy(self) -> str:
        return "start `hbone up` first"

    def __str__(self) -> str:
        return str(self.path)


def _no_tls(endpoint: Endpoint, error: ssl.SSLError) -> Unreachable:
    """In words; `error` is an OSError too, whose text is of OpenSSL's making."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            f"the connection to the control plane at {endpoint} failed",
            why=f"certificate verify failed: {error.verify_message}",
            fix="check that the roots are those of its mesh, and the address one that its certificate names",
        )
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"}:
        why, fix = "what answers there does not speak TLS", "check the address and the port"
    else:
        why, fix = (error.reason or str(error)).replace("_", " ").lower(), ""
    return Unreachable(f"the connection to the control plane at {endpoint} failed", why=why, fix=fix)


@asynccontextmanager
async def opened(
    method: ServiceMethod[_Request, _Reply], endpoint: Endpoint, *, timeout_s: float | None = None
) -> AsyncGenerator[Stream[_Request, _Reply]]:
    """A call whose request is on its way; the messages are the caller's.

    grpclib waits for ever on a connection that was lost after it was made and before the stream was known to it: a
    server that is stopping, or full. Looking once when the stream is known closes that gap.
    """
    async with method.open(timeout=timeout_s, metadata=dict(endpoint.metadata())) as stream:
        await stream.send_request()
        if stream._stream.connection.is_closing():  # pyright: ignore[reportPrivateUsage]
            raise StreamTerminatedError("the connection was closed at once")
        yield stream


@asynccontextmanager
async def calling(endpoint: Endpoint) -> AsyncGenerator[Channel]:
    """A channel for some calls; whatever fails inside is raised as ControlRefused or Unreachable."""
    channel = endpoint.channel()
    try:
        yield channel
    except GRPCError as error:
        code = error.status.name
        raise ControlRefused(
            f"the control plane at {endpoint} refused",
            why=f"{code}: {error.message or 'no reason given'}",
            code=code,
            passing=error.status in _PASSING,
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Unreachable(
            f"no control plane answers at {endpoint}", why=error.strerror or "", fix=endpoint.remedy
        ) from error
    except TimeoutError as error:
        raise Unreachable(f"the control plane at {endpoint} did not answer in time") from error
    except ssl.SSLError as error:
        raise _no_tls(endpoint, error) from error
    except (OSError, StreamTerminatedError, ProtocolError, H2Error) as error:
        raise Unreachable(f"the connection to the control plane at {endpoint} failed", why=str(error)) from error
    except DecodeError as error:
        raise Unreachable(f"what answers at {endpoint} is no control plane", why=str(error)) from error
    finally:
        channel.close()
