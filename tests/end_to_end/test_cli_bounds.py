"""`verifkit bounds` as a user meets it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.test_cli import HOLDING, MODEL, VIOLATED, ZOO, mistake, run
from verifkit.io.onnx import load_model
from verifkit.io.vnnlib import load_property
from verifkit.query import Query
from verifkit.registry import create

NAMES = ["input", "dense1", "relu1", "dense2", "relu2", "logits"]
RESIDUAL = ZOO / "digits-conv-residual.onnx"


def table_of(text: str) -> list[list[str]]:
    """The rows below the head, cell by cell."""
    return [line.split() for line in text.split("\n\n", 1)[1].splitlines()[1:]]


@pytest.fixture(scope="module")
def exact() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the library says of the same question."""
    result = create("crown").verify(Query(load_model(str(MODEL)), load_property(str(HOLDING))))
    assert result.bounds is not None
    return {name: (layer.lower, layer.upper) for name, layer in result.bounds.layers.items()}


def test_a_line_for_every_layer_rounded_outward(exact: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    done = run("bounds", MODEL, HOLDING)
    assert done.returncode == 0, done
    assert done.stderr == ""
    first, verdict, time, blank, *_ = done.stdout.splitlines()
    assert first == "bounds: 6 layers by crown, about the network, real semantics, rounded arithmetic"
    assert verdict.startswith("verdict: unknown - ")
    assert time.startswith("time: ")
    assert blank == ""
    rows = table_of(done.stdout)
    assert [row[0] for row in rows] == NAMES
    assert [row[1] for row in rows] == ["input", "affine", "relu", "affine", "relu", "affine"]
    for name, _, shape, size, low, high, width, *counts in rows:
        lower, upper = exact[name]
        assert shape == "x".join(map(str, lower.shape))
        assert int(size) == lower.size
        least, most = Fraction(float(lower.min())), Fraction(float(upper.max()))
        assert least - abs(least) / 1000 <= Fraction(low) <= least
        assert most <= Fraction(high) <= most + abs(most) / 1000
        assert float(width) == pytest.approx(float((upper - lower).mean()), rel=1e-3)
        if name.startswith("dense"):
            assert counts == [str(((lower < 0) & (upper > 0)).sum()), str((lower >= 0).sum()), str((upper <= 0).sum())]
        else:
            assert counts == ["-", "-", "-"]


def test_one_layer_has_a_line_for_every_entry(exact: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    done = run("bounds", MODEL, HOLDING, "--layer", "logits")
    assert done.returncode == 0, done
    assert done.stdout.startswith("bounds: 1 layer by crown, ")
    lines = done.stdout.split("\n\n", 1)[1].splitlines()
    lower, upper = (end.reshape(-1).tolist() for end in exact["logits"])
    assert len(lines) == 10
    for k, line in enumerate(lines):
        place, ends = line.split("  ", 1)
        assert place == f"logits[0, {k}]"
        low, high = (Fraction(text.strip()) for text in ends.strip().strip("[]").split(","))
        assert Fraction(lower[k]) - Fraction(1, 10**6) <= low <= Fraction(lower[k])
        assert Fraction(upper[k]) <= high <= Fraction(upper[k]) + Fraction(1, 10**6)


def test_json_and_the_file_hold_the_floats_themselves(
    exact: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> None:
    done = run("bounds", MODEL, HOLDING, "--json", "--out", tmp_path / "bounds.npz")
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "UNKNOWN"
    assert answer["verifier"] == "crown"
    assert [layer["name"] for layer in answer["layers"]] == NAMES
    with np.load(tmp_path / "bounds.npz") as held:
        assert sorted(held) == sorted(f"{name}.{end}" for name in NAMES for end in ("lower", "upper"))
        for layer in answer["layers"]:
            for end, values in zip(("lower", "upper"), exact[layer["name"]], strict=True):
                np.testing.assert_array_equal(np.reshape(layer[end], layer["shape"]), values)
                np.testing.assert_array_equal(held[f"{layer['name']}.{end}"], values)
    assert answer["layers"][1]["phases"].keys() == {"active", "inactive", "unstable"}
    assert answer["layers"][2]["phases"] is None


def test_one_layer_alone_goes_to_json_and_file(tmp_path: Path) -> None:
    done = run(
        "bounds", MODEL, HOLDING, "--verifier", "interval", "--layer", "relu1", "--json", "--out", tmp_path / "a"
    )
    assert [layer["name"] for layer in json.loads(done.stdout)["layers"]] == ["relu1"]
    with np.load(tmp_path / "a") as held:
        assert sorted(held) == ["relu1.lower", "relu1.upper"]


def test_the_verdict_does_not_change_the_status() -> None:
    done = run("bounds", MODEL, VIOLATED, "--verifier", "interval")
    assert done.returncode == 0, done
    assert "verdict: unknown" in done.stdout
    holding = run("bounds", ZOO / "digits-conv-maxpool.onnx", HOLDING)
    assert holding.returncode == 0
    assert "verdict: unsat" in holding.stdout
    assert "maxpool1" in holding.stdout


def test_a_verifier_that_cannot_take_the_question_names_who_bounds_its_layers() -> None:
    done = run("bounds", MODEL, HOLDING, "--verifier", "smoothing")
    assert done.returncode == 1, done
    reason = done.stdout.splitlines()[1]
    assert reason.startswith("reason: unsupported - smoothing: ")
    able = reason.partition("; ask ")[2].split(", ")
    assert {"crown", "interval"} <= set(able)
    assert not {"milp", "pgd", "auto", "smoothing", "bab"} & set(able)


@pytest.mark.parametrize("verifier", ["milp", "pgd", "auto"])
def test_a_verifier_without_bounds_says_who_has_them(verifier: str, tmp_path: Path) -> None:
    done = run("bounds", MODEL, HOLDING, "--verifier", verifier, "--out", tmp_path / "none.npz")
    assert done.returncode == 1, done
    first, reason, *_ = done.stdout.splitlines()
    assert first == "bounds: none"
    assert reason.startswith(f"reason: unsupported - {verifier} gives no bounds of layers; ask ")
    assert "crown" in reason
    assert "interval" in reason
    assert "milp" not in reason.partition("; ask ")[2]
    assert not (tmp_path / "none.npz").exists()
    answer = json.loads(run("bounds", MODEL, HOLDING, "--verifier", verifier, "--json").stdout)
    assert answer["layers"] is None
    assert answer["reason"] == "unsupported"


def test_a_question_that_cannot_be_taken_is_refused_as_by_verify() -> None:
    done = run("bounds", MODEL, HOLDING, "--verifier", "smoothing")
    assert done.returncode == 1
    assert "reason: unsupported - smoothing: input sets of norm inf are not supported" in done.stdout


def test_out_of_time() -> None:
    done = run("bounds", RESIDUAL, HOLDING, "--timeout", 1e-6)
    assert done.returncode == 1, done
    assert done.stdout.startswith("bounds: none\nreason: timeout - time ran out")


def test_several_cases_are_named(tmp_path: Path) -> None:
    spec = tmp_path / "two.vnnlib"
    names = [f"X_{i}" for i in range(64)] + [f"Y_{j}" for j in range(10)]
    zero = " ".join(f"(<= X_{i} 0) (>= X_{i} 0)" for i in range(64))
    one = " ".join(f"(<= X_{i} 0.5) (>= X_{i} 0.4)" for i in range(64))
    declared = "".join(f"(declare-const {name} Real)" for name in names)
    spec.write_text(f"{declared}(assert (or (and {zero} (>= Y_0 100)) (and {one} (>= Y_0 7))))")
    done = run("bounds", MODEL, spec, "--layer", "input")
    assert done.returncode == 0, done
    assert "cases: 2; a layer is the hull of its bounds over them" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["input[0,", "63]", "[0,", "0.5]"]


def test_an_unsafe_set_without_inputs_has_nothing_to_bound(tmp_path: Path) -> None:
    spec = tmp_path / "empty.vnnlib"
    inputs = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(64))
    outputs = "".join(f"(declare-const Y_{j} Real)" for j in range(10))
    spec.write_text(f"{inputs}{outputs}(assert (or (and (>= X_0 2) (>= Y_0 0)) (and (>= X_1 2) (>= Y_0 0))))")
    done = run("bounds", MODEL, spec)
    assert done.returncode == 1, done
    assert done.stdout.splitlines()[1] == "reason: the unsafe set admits no input: there is nothing to bound"


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    assert "no layer is called 'logit'; did you mean 'logits'? there are: input, dense1" in mistake(
        "bounds", MODEL, HOLDING, "--layer", "logit"
    )
    assert "does not exist" in mistake("bounds", tmp_path / "no.onnx", HOLDING)
    assert "cannot be written" in mistake("bounds", MODEL, HOLDING, "--out", tmp_path / "none" / "a.npz")
    assert "no verifier is called" in mistake("bounds", MODEL, HOLDING, "--verifier", "crwon")
    assert "missing argument" in mistake("bounds", MODEL).lower()


def on_terminal(columns: int, *arguments: object) -> list[str]:
    """What a terminal of this width gets, line by line."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "verifkit.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        parts = []
        while True:
            try:
                part = os.read(reader, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(reader)
    assert process.returncode == 0
    return b"".join(parts).decode().replace("\r", "").splitlines()


def test_a_narrow_terminal_breaks_names_and_cuts_no_number() -> None:
    plain = table_of(run("bounds", RESIDUAL, HOLDING).stdout)
    wide = on_terminal(120, "bounds", RESIDUAL, HOLDING)
    assert [line.split() for line in wide[5:]] == plain
    narrow = on_terminal(80, "bounds", RESIDUAL, HOLDING)
    assert all(len(line) <= 80 for line in narrow[2:])
    assert [line.split() for line in narrow[6:]] == [[*row[:3], *row[4:]] for row in plain]
    tiny = on_terminal(40, "bounds", RESIDUAL, HOLDING)
    assert "inactive" in tiny[5]
