"""What is left of objects that nobody needs any more: nothing, or something that the collector has to find."""

import gc
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def no_garbage(*kinds: type) -> Generator[None]:
    """No more objects of these kinds afterwards than before, though the collector never ran."""
    gc.collect()
    before = _count(kinds)
    gc.disable()
    try:
        yield
        assert _count(kinds) == before
    finally:
        gc.enable()


def _count(kinds: tuple[type, ...]) -> Counter[str]:
    # by exact type: isinstance() would ask proxies of other tests what they are
    wanted = {id(kind): kind.__name__ for kind in kinds}
    return Counter(wanted[id(kind)] for one in gc.get_objects() if id(kind := one.__class__) in wanted)
