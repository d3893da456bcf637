"""SETTINGS: RFC 9113 §6.5."""

from typing import Any

import pytest

from hbone.errors import UsageError
from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.settings import LocalSettings, PeerSettings, Role, data_frame_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_window_bytes": 0},
        {"initial_window_bytes": 2**31},
        {"connection_window_bytes": 65_534},
        {"max_frame_bytes": 16_383},
        {"max_frame_bytes": 2**24},
        {"max_header_list_bytes": 10},
        {"max_concurrent_streams": -1},
    ],
)
def test_settings_that_the_rfc_forbids_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is "):
        LocalSettings(**wrong)


def test_a_server_announces_ztunnels_values() -> None:
    assert LocalSettings().values(Role.SERVER) == {3: 200, 4: 4_194_304, 5: 1_048_576, 6: 65_536}


def test_a_client_switches_push_off_and_says_nothing_of_streams() -> None:
    assert LocalSettings.for_client().values(Role.CLIENT) == {2: 0, 4: 4_194_304, 5: 1_048_576, 6: 16_384}
    assert 3 not in LocalSettings(max_concurrent_streams=None).values(Role.SERVER)


def test_until_its_settings_a_peer_is_taken_to_allow_a_hundred_streams_and_then_any_number() -> None:
    peer = PeerSettings()
    assert peer.max_streams == 100
    peer.apply({}, Role.CLIENT)
    assert peer.max_streams == 2**31 - 1
    peer.apply({3: 7}, Role.CLIENT)
    peer.apply({}, Role.CLIENT)
    assert peer.max_streams == 7


def test_what_binds_us_is_taken_and_the_rest_ignored() -> None:
    peer = PeerSettings()
    peer.apply({1: 0, 4: 5, 5: 20_000, 6: 1, 8: 1, 0x1A2A: 9}, Role.CLIENT)  # the last one: GREASE
    assert (peer.header_table_bytes, peer.initial_window_bytes, peer.max_frame_bytes) == (0, 5, 20_000)


def test_a_client_may_send_what_envoy_sends() -> None:
    PeerSettings().apply({2: 1, 1: 4096, 8: 1, 3: 2_147_483_647, 4: 65_535}, Role.SERVER)


@pytest.mark.parametrize(
    ("number", "value", "role", "code"),
    [
        (2, 2, Role.SERVER, ErrorCode.PROTOCOL_ERROR),
        (2, 1, Role.CLIENT, ErrorCode.PROTOCOL_ERROR),  # §6.5.2: a server must not offer to be pushed to
        (4, 2**31, Role.SERVER, ErrorCode.FLOW_CONTROL_ERROR),
        (5, 16_383, Role.SERVER, ErrorCode.PROTOCOL_ERROR),
        (5, 2**24, Role.SERVER, ErrorCode.PROTOCOL_ERROR),
        (8, 2, Role.SERVER, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_value_out_of_range_ends_the_connection_and_changes_nothing(
    number: int, value: int, role: Role, code: ErrorCode
) -> None:
    peer = PeerSettings()
    with pytest.raises(ConnectionViolation, match=f"of {value}") as caught:
        peer.apply({3: 5, number: value}, role)
    assert caught.value.code is code
    assert not peer.received
    assert peer.max_streams == 100


@pytest.mark.parametrize(
    ("peers", "ours"), [(16_384, 16_375), (16_385, 16_385), (262_144, 262_135), (16_777_215, 262_135)]
)
def test_data_frames_fill_a_tls_record_or_are_as_large_as_the_peer_takes(peers: int, ours: int) -> None:
    assert data_frame_bytes(peers) == ours
