"""A control plane process: a CA, the mesh's state, registrations, and the socket that they are served on."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from hbone.app.bundles import BundleDoor, partner_of
from hbone.app.doors import Doors, House
from hbone.app.kept import collector_off
from hbone.app.options import domain_names, mesh_names
from hbone.app.place import Place
from hbone.app.reread import ControlFile, Reread
from hbone.app.run import Stop, calm_collector
from hbone.app.sources import FileSources, MeshFiles, Protected
from hbone.ca.authority import Lifetimes
from hbone.config.model import ControlSettings
from hbone.control import cadir
from hbone.control.admin import Admin
from hbone.control.attest_unix import Grant, UnixAccess
from hbone.control.ca_service import IssueLimits
from hbone.control.caplane import AUDIT, CaPlace, CaPlane, file_keys
from hbone.control.federation import Federation, FederationParts
from hbone.control.issue import Issuer, IssueRules
from hbone.control.jwt_mint import JwtMinter
from hbone.control.keys import KeyProvider
from hbone.control.limiter import CallerLimits
from hbone.control.publish import Mesh
from hbone.control.registrations import Registrations
from hbone.control.registry import Registry
from hbone.control.rotation import rotation_of
from hbone.control.server import ControlPlane, ControlServer
from hbone.control.statedir import intrusions, make_private
from hbone.control.unixsocket import EVERYONE, OWNER_ONLY, ControlSocket
from hbone.discovery.manifests import Defaults
from hbone.discovery.model import Workload
from hbone.discovery.store import Source
from hbone.errors import InvalidConfiguration, Problem
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock, system_rng
from hbone.net.tasks import Tasks
from hbone.telemetry.log import Logs

log = logging.getLogger("hbone.control")

KEPT = "manifests.kept"

Say = Callable[[list[str]], None]


class Control:
    """One control plane. `async with` reads its files, takes its socket, makes or loads its CA, and serves; leaving
    ends all of it. Whatever can be found wrong is found before anything is written."""

    def __init__(self, settings: ControlSettings, place: Place) -> None:
        self.settings = settings
        self.mesh = Mesh()
        self.socket_path = settings.socket or place.control_socket
        self._state = settings.state_dir or place.state
        self._tasks = Tasks("control")
        self._prepared = False
        self._serving = False
        self._groups: Mapping[str, Workload] = {}
        self._regroup: Callable[[Mapping[str, Workload]], None] = lambda _: None
        self.ca: CaPlane
        self.issuer: Issuer
        self.minter: JwtMinter
        self.doors: Doors
        self.bundles: BundleDoor
        self.federation: Federation
        self.server: ControlServer
        defaults = Defaults(
            trust_domain=settings.trust_domain,
            network=settings.network,
            cluster_id=settings.cluster_id,
            domain=settings.cluster_domain,
        )
        files = FileSources(
            manifests=settings.manifests,
            local_xds=None,
            defaults=defaults,
            names=mesh_names(settings),
            allow_empty=settings.allow_empty_mesh,
            kept=self._state / KEPT,
        )
        self.files = MeshFiles(files, self._replace)

    @property
    def ca_directory(self) -> Path:
        """Where the CA's files are: plugged-in ones, or our own in the state directory."""
        return self.settings.ca or self._state / "ca"

    @property
    def journal_path(self) -> Path:
        """The audit log of what was issued and revoked, as a file."""
        return self._state / AUDIT

    async def prepare(self) -> None:
        """Read what there is to read; raises InvalidConfiguration, UsageError. Entering does it, unless it was done."""
        with collector_off():
            await self.files.load()
        ControlSocket.check(self.socket_path)
        if self.settings.grants:
            ControlSocket.check_reachable(self.socket_path)
        if self._state.exists():
            make_private(self._state)
        if self.settings.ca is not None:
            cadir.load(self.settings.ca, TrustDomain(self.settings.trust_domain), clock=SystemClock())
        self._prepared = True

    def make_state(self) -> Callable[[], None]:
        """Make the state directory; the answer takes it away again while nothing is in it, if it was not there."""
        there = self._state.exists()
        make_private(self._state)

        def undo() -> None:
            if not there:
                with contextlib.suppress(OSError):
                    self._state.rmdir()

        return undo

    def _replace(self, source: Source, loaded: Protected) -> None:
        self.mesh.set_policies(loaded.policies)
        self.mesh.replace_all(source, loaded.state)
        self._groups = loaded.groups
        self._regroup(loaded.groups)
        if self._serving:
            self._tasks.start(self.files.keep(), name="keep manifests")

    async def __aenter__(self) -> Self:
        if not self._prepared:
            await self.prepare()
        self.make_state()
        # where others have a right at all, what it is is decided by who they are
        mode = EVERYONE if self.settings.grants else OWNER_ONLY
        listening = ControlSocket.listen(self.socket_path, mode=mode)
        async with AsyncExitStack() as undo:
            try:
                self.ca = await undo.enter_async_context(await CaPlane.open(self._place()))
                undo.push_async_callback(self._tasks.close)
                # before anybody is told anything: who is not told of a bundle that was there gives up its tunnels
                self.federation = await self._federation()
                self.ca.publish_to(self.mesh)
                house = House(settings=self.settings, ca=self.ca, mesh=self.mesh, access=self._access)
                self.doors = Doors.make(house)
                undo.callback(self.doors.close)
                self.bundles = BundleDoor(house)
                undo.callback(self.bundles.close)
                self.server = await self._server()
                self._administer(undo)
                await self.server.start(listening)
            except BaseException:
                listening.close()
                raise
            undo.push_async_callback(self.server.close)
            await self.doors.open(self.server, undo)
            await self.bundles.open(undo)
            self.files.start(self._tasks)
            self._serving = True
            self._tasks.start(self.files.keep(), name="keep manifests")
            self.federation.start(self._tasks)
            self._undo = undo.pop_all()
        return self

    def _place(self) -> CaPlace:
        """Raises InvalidConfiguration for a plugged-in CA that is none."""
        settings, clock = self.settings, SystemClock()
        trust_domain = TrustDomain(settings.trust_domain)
        return CaPlace(
            directory=self._state,
            trust_domain=trust_domain,
            clock=clock,
            rng=system_rng(),
            lifetimes=Lifetimes(root_s=settings.root_ttl_s, intermediate_s=settings.intermediate_ttl_s),
            plugged=None if settings.ca is None else cadir.load(settings.ca, trust_domain, clock=clock),
            keys=self._token(),
            plugged_from="" if settings.ca is None else str(settings.ca.absolute()),
            refresh_hint_s=settings.bundle_endpoint.refresh_hint_s,
            aliases=domain_names(settings).aliases,
        )

    async def _federation(self) -> Federation:
        ca = self.ca
        parts = FederationParts(
            store=ca.store, trust=ca.trust, clock=ca.place.clock, rng=ca.place.rng, aliases=ca.place.aliases
        )
        return await Federation.open(parts, [partner_of(one) for one in self.settings.federation])

    def _token(self) -> KeyProvider | None:
        """The CA's keys on a token, if the settings name one; raises UsageError, InvalidConfiguration."""
        found = self.settings.pkcs11
        if found is None or self.settings.ca is not None:
            return None
        from hbone.control.token_keys import TokenKeys, TokenPlace

        problems = intrusions(found.pin_file, "0600") if found.pin_file.exists() else [_no_pin(found.pin_file)]
        if problems:
            raise InvalidConfiguration(problems)
        pin = found.pin_file.read_text().strip()
        return TokenKeys(TokenPlace(module=found.module, label=found.token, pin=pin), file_keys(self._state))

    async def _server(self) -> ControlServer:
        settings, place, ca = self.settings, self.ca.place, self.ca
        self.issuer = Issuer(
            lambda: ca.authorities.signing, clock=place.clock, rng=place.rng, ledger=ca.ledger, rules=self._rules()
        )
        self.minter = JwtMinter(ca, ttl_s=settings.jwt_svid_ttl_s)
        self.doors.serve_processes(self.issuer, self.minter)
        registry = Registry(
            self.mesh.store, place.trust_domain, network=settings.network, cluster_id=settings.cluster_id
        )
        registrations = Registrations(ca.store, registry, self.mesh, place.clock, group_grace_s=settings.group_grace_s)
        registrations.regroup(self._groups)
        self._regroup = registrations.regroup
        if await registrations.restore():
            self._tasks.start(registrations.run(), name="registrations")
        return ControlServer(
            ControlPlane(
                issuer=self.issuer,
                mesh=self.mesh,
                registry=registry,
                registrations=registrations,
                callers=self.doors.callers,
                clock=place.clock,
                tokens=self.doors.tokens,
                limits=IssueLimits(CallerLimits(settings.certificate_rate), place.clock),
                minter=self.minter,
                jwt_limits=IssueLimits(CallerLimits(settings.certificate_rate), place.clock, "JWT-SVIDs"),
                local=self.doors.local,
            )
        )

    def _rules(self) -> IssueRules:
        settings = self.settings
        return IssueRules(
            default_ttl_s=settings.svid_ttl_s, max_ttl_s=settings.max_svid_ttl_s, aliases=self.ca.place.aliases
        )

    async def change(self, settings: ControlSettings) -> None:
        """Put settings in force that differ in live ones only. Raises InvalidConfiguration, with nothing changed."""
        await self.federation.change([partner_of(one) for one in settings.federation])
        self.settings = settings
        self.issuer.rules = self._rules()
        self.minter.ttl_s = settings.jwt_svid_ttl_s

    def follow(self, file: ControlFile, also: Callable[[ControlSettings], None] = lambda _: None) -> None:
        """Take the file's changes from now on; `also` is told of each."""

        async def put(settings: ControlSettings) -> None:
            await self.change(settings)
            also(settings)

        self._tasks.keep(Reread(file, self.settings, put).run, name="follow the settings")

    @property
    def _access(self) -> UnixAccess:
        names = domain_names(self.settings)
        grants: dict[int, tuple[Grant, ...]] = {}
        for rule in self.settings.grants:
            found = (Grant(namespace=one.namespace, service_account=one.service_account) for one in rule.accounts)
            grants[rule.uid] = (*grants.get(rule.uid, ()), *found)
        return UnixAccess(trust_domain=names.own, aliases=names.aliases, owner_uid=os.getuid(), grants=grants)

    def _administer(self, undo: AsyncExitStack) -> None:
        """The rotation of the root goes on where it was, and an operator can ask for things."""
        rotation = rotation_of(self.ca, self.server, self.mesh, announce_s=self.bundles.announce_s)
        undo.callback(self.server.on_answer(rotation.wake))
        self.server.administer(Admin(self.ca, rotation, self.federation.views), self._access)
        self._tasks.keep(rotation.run, name="rotation")

    async def __aexit__(self, *_: object) -> None:
        await self._undo.aclose()

    def summary(self) -> list[str]:
        """What a person at the terminal wants to know now."""
        return [
            f"control plane of {self.settings.trust_domain} is up",
            f"  identities from  {self.ca_directory}",
            f"  control socket   {self.socket_path}",
            *self.doors.lines(),
            *self.bundles.lines(),
            "next: `hbone token create --as NS/SA` here, `hbone join TOKEN` on another machine; Ctrl-C ends it",
        ]


def _no_pin(path: Path) -> Problem:
    fix = "write the token's pin into it, mode 0600"
    return Problem(what="no such file", fix=fix, field="pkcs11.pin_file", file=str(path))


async def run_control(
    settings: ControlSettings, place: Place, logs: Logs, stop: Stop, *, say: Say, file: ControlFile | None = None
) -> int:
    """A control plane until `stop`; the exit code. `file`: where its settings came from, to be followed."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    async with Control(settings, place) as control:
        if file is not None:
            control.follow(file, lambda changed: logs.take_levels(changed.logging.log_level))
        calm_collector()
        say(control.summary())
        await stop.wait()
    return 0
