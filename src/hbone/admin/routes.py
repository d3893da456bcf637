"""From a request to the row that answers it."""

from collections.abc import Awaitable, Callable, Iterable
from difflib import get_close_matches
from typing import Final, Generic, TypeVar

from hbone.admin.messages import Answer, Request, text_answer
from hbone.values import dataclass

READ: Final = ("GET", "HEAD")
GET_ONLY: Final = ("GET",)
POST: Final = ("POST",)

C = TypeVar("C")
Guard = Callable[[Request], Answer | None]
Before = Callable[[str], Awaitable[None]]
"""Awaited with the path that was asked for before the answer is made, which itself never waits: a process that shows
others collects what they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[C]):
    """One row of a table: what is asked how, what for, and the answer from what the process offers, a C.

    `parameters` are those that the help tells of, as they are written in a URL.
    """

    path: str
    help: str
    answer: Callable[[C, Request], Answer]
    methods: tuple[str, ...] = READ
    parameters: tuple[str, ...] = ()

    def bind(self, context: C) -> "Route":
        return Route(
            path=self.path,
            help=self.help,
            methods=self.methods,
            parameters=self.parameters,
            answer=lambda request: self.answer(context, request),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An endpoint of one running process."""

    path: str
    help: str
    methods: tuple[str, ...]
    parameters: tuple[str, ...]
    answer: Callable[[Request], Answer]


def everybody(_: Request) -> None:
    """The guard of what anybody may ask."""


class Routes:
    """All that one listener answers. `guard` refuses before anything else is looked at."""

    def __init__(self, routes: Iterable[Route], guard: Guard = everybody) -> None:
        self._routes = {route.path: route for route in routes}
        self._guard = guard

    def answer(self, request: Request) -> Answer:
        refused = self._guard(request)
        if refused is not None:
            return refused
        route = self._routes.get(request.path) or self._routes.get(request.path.rstrip("/"))
        if route is None:
            return self._unknown(request.path)
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            return text_answer(f"{route.path} takes {allowed}: {route.help}", 405, {"allow": allowed})
        return route.answer(request)

    def _unknown(self, path: str) -> Answer:
        near = get_close_matches(path[:200], self._routes, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(self._routes)}"
        return text_answer(f"nothing at {path[:200]!r}; {hint}", 404)
