"""What of the mesh is told to its nodes."""

from hbone.control.publish import Mesh
from hbone.policy.model import Scope, closed


def test_a_change_of_policies_alone_is_told_at_once() -> None:
    mesh = Mesh()
    told: list[int] = []
    mesh.on_published(lambda: told.append(len(mesh.policies)))
    policy = closed("shop", "deny", Scope.NAMESPACE, "a test")
    mesh.set_policies([policy])
    mesh.set_policies([policy])
    mesh.set_policies([])
    assert told == [1, 0]
