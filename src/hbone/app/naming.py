"""What a node's mesh is called: by its settings, and by what its control plane says while a rename is under way."""

from collections.abc import Iterable
from typing import Protocol

from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import DomainNames, TrustDomain


class Named(Protocol):
    """A trust domain and its further names (`hbone.control.trust_resource.DomainTrust`)."""

    @property
    def names(self) -> DomainNames: ...


class Naming:
    """`now` is all that is known: an identity of any of these names is of this mesh.

    A name that was learned stays: a node that runs through a whole rename has only the former one in its settings. It
    gives nobody anything, for whoever shows it needs a certificate that the trust of that moment vouches for.
    """

    def __init__(self, given: DomainNames) -> None:
        self._given = given
        self.now = given

    def learn(self, domains: Iterable[Named]) -> None:
        """These are the trust domains that there are now; ours is the one that shares a name with what we know."""
        found: set[TrustDomain] = {self.now.own, *self.now.aliases}
        for one in domains:
            told = {one.names.own, *one.names.aliases}
            if told & found:
                found |= told
        self.now = DomainNames(self._given.own, frozenset(found - {self._given.own}))

    def named(self, bundle: TrustBundle) -> TrustBundle:
        """With the aliases of the settings, which no control plane may have told."""
        given = self._given
        return bundle.naming((alias, given.own) for alias in given.aliases) if given.aliases else bundle
