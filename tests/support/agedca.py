"""A CA that has ended."""

import random

from hbone.ca.authority import CaKeys, CertificateAuthority, Lifetimes
from hbone.net.clock import SystemClock, new_key
from hbone.times import WallTime
from tests.support.controlplane import DOMAIN


def aged_authority() -> CertificateAuthority:
    """Root and intermediate ended a minute ago."""
    return CertificateAuthority.create(
        DOMAIN,
        CaKeys(root=new_key(), intermediate=new_key()),
        now=WallTime(SystemClock().wall() - 3600),
        rng=random.Random(5),
        lifetimes=Lifetimes(root_s=3540, intermediate_s=3540),
    )
