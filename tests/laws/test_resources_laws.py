"""Whatever bytes arrive as a resource: a value or a reason, never another error."""

from hypothesis import given
from hypothesis import strategies as st

from hbone.discovery.model import Workload
from hbone.discovery.resources import AddressDecoder, InvalidResource, service_resource, workload_resource
from hbone.proto import workload_pb2 as pb

numbers = st.integers(0, 2**32 - 1)
texts = st.text(max_size=20)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    workload = pb.Workload(
        uid="u",
        namespace=draw(texts),
        service_account=draw(texts),
        trust_domain=draw(texts),
        addresses=draw(st.lists(st.binary(max_size=17), max_size=3)),
        services={draw(texts): pb.PortList(ports=[pb.Port(service_port=draw(numbers), target_port=draw(numbers))])},
    )
    raw = bytearray(pb.Address(workload=workload).SerializeToString())
    for position, value in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)):
        raw[position % len(raw)] = value
    return bytes(raw)


@given(st.one_of(st.binary(max_size=200), messages()))
def test_any_bytes_give_a_value_or_a_reason(raw: bytes) -> None:
    try:
        value = AddressDecoder().decode("u", raw)
    except InvalidResource as error:
        assert error.what
        return
    again = workload_resource(value) if isinstance(value, Workload) else service_resource(value)
    assert AddressDecoder().decode("u", again.body) == value
