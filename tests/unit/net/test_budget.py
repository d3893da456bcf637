from hbone.net.budget import BufferBudget


class Tunnel:
    def __init__(self) -> None:
        self.told: list[str] = []

    def hold_credit(self) -> None:
        self.told.append("hold")

    def give_credit(self) -> None:
        self.told.append("give")


def test_tunnels_are_held_back_only_past_the_limit_and_only_those_that_hold_bytes() -> None:
    budget, stalled, healthy = BufferBudget(1000), Tunnel(), Tunnel()
    budget.take(stalled, 1000)
    assert stalled.told == []
    budget.take(stalled, 1)
    assert stalled.told == ["hold"]
    assert healthy.told == []
    budget.take(healthy, 1)
    assert healthy.told == ["hold"]


def test_they_get_credit_again_when_a_quarter_of_the_limit_is_free() -> None:
    budget, tunnel = BufferBudget(1000), Tunnel()
    budget.take(tunnel, 1200)
    budget.give_back(400)
    assert tunnel.told == ["hold"]
    budget.give_back(50)
    assert tunnel.told == ["hold", "give"]
    budget.take(tunnel, 300)
    assert tunnel.told == ["hold", "give", "hold"]
    budget.give_back(1050)
    assert budget.held == 0


def test_a_tunnel_that_is_gone_gets_nothing() -> None:
    budget, tunnel = BufferBudget(1000), Tunnel()
    budget.take(tunnel, 2000)
    budget.forget(tunnel)
    budget.give_back(2000)
    assert tunnel.told == ["hold"]


def test_without_a_limit_nobody_is_held_back() -> None:
    budget, tunnel = BufferBudget(), Tunnel()
    budget.take(tunnel, 1 << 40)
    assert tunnel.told == []
