"""The line of every key: by hand, and, over random documents, the very keys that tomllib reads."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifkit.bench.suites.toml_lines import Path, key_lines

TEXT = '''\
# a "comment" = [
name = "a # b"  # not [[a]] table
"quoted key" = 1

[[group]]
model = """
x = 1
[[group]]
""\\"""" # five quotes
options = { sigma = 0.25, "a.b" = [1, 2], deep = { n = 1 } }
[[group]]
radii = [
    0.01, # one
    # none
    0.02, [
        'x', ]
]
options.n = 1_000
options.when = 1979-05-27 07:32:00.5
text = \'\'\'it''s\'\'\'\'
[group.sub]
key = -1.5e3
[plain . "dotted"]
key = true
'''


def test_lines_by_hand() -> None:
    lines = key_lines(TEXT)
    expected: dict[Path, int] = {
        ("name",): 2,
        ("quoted key",): 3,
        ("group",): 5,
        ("group", 0): 5,
        ("group", 0, "model"): 6,
        ("group", 0, "options"): 10,
        ("group", 0, "options", "sigma"): 10,
        ("group", 0, "options", "a.b"): 10,
        ("group", 0, "options", "a.b", 0): 10,
        ("group", 0, "options", "a.b", 1): 10,
        ("group", 0, "options", "deep"): 10,
        ("group", 0, "options", "deep", "n"): 10,
        ("group", 1): 11,
        ("group", 1, "radii"): 12,
        ("group", 1, "radii", 0): 13,
        ("group", 1, "radii", 1): 15,
        ("group", 1, "radii", 2): 15,
        ("group", 1, "radii", 2, 0): 16,
        ("group", 1, "options"): 18,
        ("group", 1, "options", "n"): 18,
        ("group", 1, "options", "when"): 19,
        ("group", 1, "text"): 20,
        ("group", 1, "sub"): 21,
        ("group", 1, "sub", "key"): 22,
        ("plain",): 23,
        ("plain", "dotted"): 23,
        ("plain", "dotted", "key"): 24,
    }
    assert lines == expected
    assert set(lines) == paths(tomllib.loads(TEXT))


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "a=1", "a = [[1],[],{}]", "a = {}\n", "[a]\n[b]\n[[c]]\n[[c]]"])
def test_small_texts(text: str) -> None:
    assert set(key_lines(text)) == paths(tomllib.loads(text))


def paths(value: Any, at: Path = ()) -> set[Path]:
    """Every path in what tomllib read."""
    below: list[Any] = list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return {(*at, key) for key, _ in below}.union(*(paths(entry, (*at, key)) for key, entry in below))


STRINGS = ['"a"', "'b'", '"\\"#\\\\"', '"""x\ny\\"""z"""', "'''[[q]]\n''k'''", '""""quoted"""""', "''"]
SCALARS = st.sampled_from([*STRINGS, "1", "-2.5e-3", "inf", "+nan", "true", "1979-05-27T07:32:00Z", "07:32:00", "0xff"])
GAPS = st.sampled_from(["", " ", "\n", " # ]\n", "\n\n  "])
KEYS = st.sampled_from(["a", "b-c", "1", '"d e"', "'f.g'", '"\\u0041"'])


def joined(entries: list[tuple[str, str]]) -> str:
    return "[" + "".join(f"{gap}{entry}{gap}," for gap, entry in entries) + "]"


def inline(entries: dict[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {value}" for key, value in entries.items()) + " }"


VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(st.tuples(GAPS, inner), max_size=3).map(joined) | st.dictionaries(KEYS, inner, max_size=3).map(inline)
    ),
    max_leaves=6,
)
HEADS = st.tuples(st.booleans(), st.lists(KEYS, min_size=1, max_size=2))
PAIRS = st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=2), VALUES, GAPS), max_size=4)


@given(PAIRS, st.lists(st.tuples(HEADS, PAIRS), max_size=4))
def test_the_keys_are_those_that_tomllib_reads(top: Any, tables: Any) -> None:
    def body(pairs: Any) -> str:
        return "".join(f"{'.'.join(key)} = {value} {'#' if gap else ''}\n{gap}\n" for key, value, gap in pairs)

    text = body(top)
    for (many, keys), pairs in tables:
        name = " . ".join(keys)
        text += (f"[[ {name} ]]\n" if many else f"[{name}]\n") + body(pairs)
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # a key twice
        return
    lines = key_lines(text)
    assert set(lines) == paths(read)
    written = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str) and path[-1] != "A":
            assert path[-1] in written[line - 1]
