"""The table of the operator's window. The index page, the reference and `hbone get` come from it.

A new thing to show is a view in `hbone.telemetry.views`, a method of `AdminSource`, a Listing, and a row here.
What changes the process is a POST and says so.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final

from hbone.admin import listings
from hbone.admin.dump import config_dump
from hbone.admin.guard import refusal
from hbone.admin.index import index_page
from hbone.admin.jsontext import Listed, json_answer
from hbone.admin.levels import merged
from hbone.admin.listings import Listing
from hbone.admin.messages import Answer, Request, text_answer
from hbone.admin.routes import POST, READ, Endpoint, Route, Routes
from hbone.admin.source import AdminSource, Levels
from hbone.config.levels import InvalidLevel
from hbone.telemetry.views import ConnectionView, TunnelView
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the rows look at and act on."""

    source: AdminSource
    levels: Levels


def _listed(listing: Listing, read: Callable[[AdminSource], Iterable[object]]) -> Endpoint[Window]:
    return Endpoint(
        path=listing.path,
        help=listing.help,
        answer=lambda window, request: json_answer(Listed(read(window.source)), request.layout),
    )


def _connections(source: AdminSource) -> list[ConnectionView]:
    return sorted(source.connections(), key=attrgetter("age_s"), reverse=True)


def _tunnels(source: AdminSource) -> list[TunnelView]:
    return sorted(source.tunnels(), key=attrgetter("id"))


def _config_dump(window: Window, request: Request) -> Answer:
    return json_answer(config_dump(window.source), request.layout)


def _process(window: Window, request: Request) -> Answer:
    return json_answer(window.source.process(), request.layout)


def _logging(window: Window, request: Request) -> Answer:
    levels = window.levels
    change = request.query.get("level")
    before = levels.levels
    try:
        if "reset" in request.query:
            levels.reset_levels()
        if change is not None:
            levels.set_levels(merged(levels.levels, change))
    except InvalidLevel as error:
        levels.set_levels(before)
        return text_answer(f"Invalid level provided: {error}\n{LOGGING_HELP}", 400)
    return text_answer(f"current log level is {levels.levels}")


def _quit(window: Window, _: Request) -> Answer:
    return Answer(body=b"shutdown now\n", after=window.source.quit)


LOGGING_HELP: Final = """\
usage: POST /logging                            show the levels in force
       POST /logging?level=debug                change the level of everything
       POST /logging?level=proxy=debug,net=warn  change it for parts
       POST /logging?reset                      back to what the settings say"""

INDEX_PATH: Final = "/"

ENDPOINTS: Final[tuple[Endpoint[Window], ...]] = (
    Endpoint(path="/config_dump", help="everything in one document, in ztunnel's shape", answer=_config_dump),
    _listed(listings.WORKLOADS, lambda source: source.workloads()),
    _listed(listings.SERVICES, lambda source: source.services()),
    _listed(listings.POLICIES, lambda source: source.policies()),
    _listed(listings.CONNECTIONS, _connections),
    _listed(listings.TUNNELS, _tunnels),
    _listed(listings.CERTIFICATES, lambda source: source.certificates()),
    _listed(listings.ROOTS, lambda source: source.roots()),
    _listed(listings.LISTENERS, lambda source: source.listeners()),
    Endpoint(path=listings.PROCESS.path, help=listings.PROCESS.help, answer=_process),
    Endpoint(
        path="/logging",
        help="show the log levels in force, or change them",
        methods=POST,
        parameters=("level=proxy=debug", "reset"),
        answer=_logging,
    ),
    Endpoint(path="/quitquitquit", help="shut this process down, as SIGTERM does", methods=POST, answer=_quit),
)


def window_routes(window: Window, more: Iterable[Route] = ()) -> Routes:
    """All that the window of a process answers, with its index page; `more` are rows of other tables."""
    rows = (*(endpoint.bind(window) for endpoint in ENDPOINTS), *more)
    index = Route(
        path=INDEX_PATH,
        help="this page",
        methods=READ,
        parameters=(),
        answer=lambda _: index_page(window.source.process(), rows),
    )
    return Routes((index, *rows), guard=refusal)
