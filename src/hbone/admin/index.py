"""The page at `/`: what can be asked here."""

from collections.abc import Iterable
from html import escape

from hbone.admin.messages import HTML, Answer
from hbone.admin.routes import Route
from hbone.telemetry.views import ProcessView

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>hbone {role}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }}
td, th {{ text-align: left; padding: .25rem 1.5rem .25rem 0; vertical-align: top }}
code, td:nth-child(2) {{ font-family: ui-monospace, monospace }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181d; color: #dde }} a {{ color: #8bf }} }}
</style>
<h1>hbone {role}</h1>
<p>{state}, process {pid}, version {version}</p>
<table>
<tr><th>Method<th>Path<th>What
{rows}
</table>
<p>On a terminal: <code>hbone get workloads</code>, or any of the paths above with curl; <code>?pretty</code> indents.
</html>
"""

# Nothing is loaded from anywhere, no form goes anywhere, and nobody may frame it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"


def index_page(process: ProcessView, routes: Iterable[Route]) -> Answer:
    """The page for a process and what its window answers."""
    state = f"{process.state}, waiting for {', '.join(process.pending)}" if process.pending else process.state
    page = _PAGE.format(
        role=escape(process.role),
        state=escape(state),
        pid=process.pid,
        version=escape(process.version),
        rows="\n".join(_row(route) for route in routes),
    )
    return Answer(content_type=HTML, body=page.encode(), headers={"content-security-policy": _POLICY})


def _row(route: Route) -> str:
    path = escape(route.path)
    parameters = "".join(f"<br>{path}?{escape(parameter)}" for parameter in route.parameters)
    linked = f'<a href="{path}">{path}</a>' if "GET" in route.methods else path
    return f"<tr><td>{route.methods[0]}<td>{linked}{parameters}<td>{escape(route.help)}"
