"""Paths before rules see them, and templates."""

import pytest

from hbone.addr import InvalidAddress
from hbone.policy.paths import Normalization, check_template, is_template, path_of, template_pattern


@pytest.mark.parametrize(
    ("target", "normalization", "path"),
    [
        ("/a?x=1#y", Normalization.BASE, "/a"),
        ("/a/./b/../c", Normalization.BASE, "/a/c"),
        ("/a/..", Normalization.BASE, "/"),
        ("/../a/.", Normalization.BASE, "/a/"),
        ("/%61%2f", Normalization.BASE, "/a%2F"),
        ("/a\\b", Normalization.BASE, "/a/b"),
        ("/a//b", Normalization.BASE, "/a//b"),
        ("/a//b", Normalization.MERGE_SLASHES, "/a/b"),
        ("/a//../b", Normalization.MERGE_SLASHES, "/a/b"),  # slashes are merged last, as Envoy does
        ("/a//..//../b", Normalization.MERGE_SLASHES, "/a/b"),
        ("/a%2f%5Cb", Normalization.DECODE_AND_MERGE_SLASHES, "/a/b"),
        ("/a%2f/../b", Normalization.DECODE_AND_MERGE_SLASHES, "/a/b"),
        ("/a/../b?x", Normalization.NONE, "/a/../b"),
        ("*", Normalization.BASE, "*"),
    ],
)
def test_a_path_is_made_plain(target: str, normalization: Normalization, path: str) -> None:
    assert path_of(target, normalization) == path


@pytest.mark.parametrize(
    ("template", "path", "fits"),
    [
        ("/a/{*}", "/a/b", True),
        ("/a/{*}", "/a/", False),
        ("/a/{*}", "/a/b/c", False),
        ("/{*}/b", "/a/b", True),
        ("/a/{**}", "/a/", True),
        ("/a/{**}", "/a", False),  # the slash before it is Envoy's to ask for, as the one behind it
        ("/a/{**}", "/a/b/c", True),
        ("/a/{**}/", "/a/b/", True),
        ("/a/{**}/", "/a//", True),
        ("/a/{**}/", "/a/b", False),
        ("/a/{**}/z", "/a/b/c/z", True),
        ("/a/{**}/z", "/a//z", True),
        ("/a/{**}/z", "/a/z", False),
        ("/a/{**}/z", "/a/b", False),
        ("/a.b/{*}", "/axb/c", False),
    ],
)
def test_a_template_fits_segments(template: str, path: str, fits: bool) -> None:
    check_template(template)
    assert is_template(template)
    assert (template_pattern(template).fullmatch(path) is not None) is fits


@pytest.mark.parametrize(
    "template", ["a/{*}", "/a/{*}.txt", "/a*/{*}", "/{**}/{**}", "/{**}/{*}", "/{*}/{x}", "/{*}//b"]
)
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(InvalidAddress):
        check_template(template)
