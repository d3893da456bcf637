"""Error codes: RFC 9113 §7."""

import pytest

from hbone.errors import PeerViolation, TunnelFailure
from hbone.protocol.codes import ConnectionViolation, ErrorCode, StreamViolation, code_name


@pytest.mark.parametrize(
    ("code", "name"), [(0, "NO_ERROR"), (0x8, "CANCEL"), (0xD, "HTTP_1_1_REQUIRED"), (0x1F, "0x1f")]
)
def test_a_code_is_named_as_in_the_rfc_and_an_unknown_one_by_its_number(code: int, name: str) -> None:
    assert code_name(code) == name


def test_a_violation_carries_its_code_and_says_how_it_was_answered() -> None:
    error = StreamViolation(ErrorCode.STREAM_CLOSED, "DATA after END_STREAM", stream_id=5)
    assert error.code is ErrorCode.STREAM_CLOSED
    assert str(error) == "DATA after END_STREAM: answered with RST_STREAM STREAM_CLOSED"
    assert vars(error)["stream_id"] == 5


def test_a_connection_violation_is_the_peers_fault_and_a_lost_tunnel() -> None:
    error = ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "PING of 7 bytes")
    assert isinstance(error, PeerViolation)
    assert isinstance(error, TunnelFailure)
    assert error.flag == "H2_HANDSHAKE_FAILURE"
    assert str(error).endswith("GOAWAY FRAME_SIZE_ERROR")
