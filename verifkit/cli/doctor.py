"""`verifkit doctor`: what is installed, who can be asked and what the others lack, and whether all answer rightly."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from verifkit.cli.output import FAILURE, print_out
from verifkit.errors import VerifkitError

if TYPE_CHECKING:
    from verifkit.bench.running.self_check import Checked

SECONDS = 10.0
"""For the self-check."""

_LICENCE_SECONDS = 10.0
_CORE = "-"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(\[.*?\])?\s*([^;]*?)\s*(?:;(.*))?")
_EXTRA = re.compile(r"(?:\s*and)?\s*extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True)
class Package:
    """extra: what installs it, "-" for what verifkit cannot do without. version: None where it is missing. condition:
    under which alone it is installed at all, empty for none.
    """

    name: str
    extra: str
    wanted: str
    version: str | None
    condition: str = ""

    @property
    def advice(self) -> str:
        if self.version is not None:
            return ""
        extra = "" if self.extra == _CORE else f"[{self.extra}]"
        return f"pip install 'verifkit{extra}'" + (f", where {self.condition}" if self.condition else "")


@dataclass(frozen=True)
class Certifier:
    """lacks: why it cannot be asked as it is, empty where it can. check, detail, seconds: of the self-check; `check` is
    empty where there was none.
    """

    name: str
    lacks: str = ""
    check: str = ""
    detail: str = ""
    seconds: float | None = None
    bad: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """facts: names and texts, in order."""

    facts: dict[str, str]
    packages: tuple[Package, ...]
    certifiers: tuple[Certifier, ...]

    @property
    def bad(self) -> list[Certifier]:
        return [certifier for certifier in self.certifiers if certifier.bad]

    def summary(self) -> str:
        if self.bad:
            return f"something is wrong with {', '.join(c.name for c in self.bad)}"
        usable = [c for c in self.certifiers if not c.lacks]
        late = [c.name for c in usable if c.check not in ("", "ok")]
        slow = f"; not answered in time: {', '.join(late)}" if late else ""
        answered = len(usable) - len(late)
        return f"all is well: {len(usable)} of {len(self.certifiers)} certifiers usable, {answered} checked{slow}"

    def to_json(self) -> dict[str, Any]:
        return {"well": not self.bad, "summary": self.summary(), **asdict(self)}

    def to_text(self) -> str:
        """Plain lines, nothing cut: the summary, facts, a line for each package and for each certifier."""
        from verifkit.supports import columns

        packages = [("package", "version", "extra", "what would help")]
        packages += [(p.name, p.version or "missing", p.extra, p.advice) for p in self.packages]
        certifiers = [("certifier", "usable", "self-check", "seconds", "what it lacks, what is wrong")]
        for c in self.certifiers:
            seconds = "-" if c.seconds is None else f"{c.seconds:.2f}"
            certifiers.append((c.name, "no" if c.lacks else "yes", c.check or "-", seconds, c.lacks or c.detail))
        facts = [f"{name}: {text}" for name, text in self.facts.items()]
        return "\n".join([self.summary(), *facts, "", *columns(packages), "", *columns(certifiers)])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def doctor(as_json: bool) -> None:
    """What is installed, which certifiers are usable and what the others lack, licences, threads; and whether every
    usable one answers tiny questions rightly, in ten seconds at most.
    """
    found = diagnose()
    print_out(json.dumps(found.to_json()) if as_json else found.to_text())
    if found.bad:
        sys.exit(FAILURE)


def diagnose() -> Diagnosis:
    """Looks at everything; raises `RunnerError` where no process can be started."""
    packages = _packages()
    return Diagnosis(_facts(), packages, _certifiers())


def _packages() -> tuple[Package, ...]:
    """What verifkit's own metadata names, each once, under the first extra that has it."""
    found: dict[str, Package] = {}
    for text in importlib.metadata.requires("verifkit") or []:
        match = _REQUIREMENT.fullmatch(text.strip())
        if match is None or match[1] == "verifkit":
            continue
        name, marker = match[1], match[4] or ""
        extra = _EXTRA.search(marker)
        try:
            version: str | None = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        condition = _EXTRA.sub("", marker).strip(" ()")
        found.setdefault(name, Package(name, extra[1] if extra else _CORE, match[3], version, condition))
    return tuple(found.values())


def _facts() -> dict[str, str]:
    import psutil

    from verifkit.bench.running.environment import usable_cores
    from verifkit.processes import can_fork, memory_available

    set_to = [f"{name}={os.environ[name]}" if name in os.environ else f"{name} not set" for name in _THREADS]
    gib = 2**30
    return {
        "verifkit": importlib.metadata.version("verifkit"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "threads": f"{', '.join(set_to)}; the workers of bench have one each",
        "workers start by": "fork" if can_fork() else "spawn",
        "memory": f"{memory_available() / gib:.1f} GiB in all, {psutil.virtual_memory().available / gib:.1f} GiB free",
        "gurobi": _gurobi(),
    }


def _gurobi() -> str:
    """The licence, looked at in a process of its own: a broken one may do anything."""
    try:
        version = importlib.metadata.version("gurobipy")
    except importlib.metadata.PackageNotFoundError:
        return "not installed; milp uses HiGHS, which needs no licence"
    code = (
        "import sys; sys.path[:] = sys.argv[1:]; from verifkit.solvers.gurobi import licence; "
        "print(licence(), file=sys.stderr)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_LICENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{version}, its licence could not be looked at in {_LICENCE_SECONDS:g} s"
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
    word = said[-1] if done.returncode == 0 else f"cannot be used: {said[-1]}"
    own = "" if word == "a full licence" else "; one of your own is found through GRB_LICENSE_FILE or ~/gurobi.lic"
    return f"{version}, {word}{own}"


def _certifiers() -> tuple[Certifier, ...]:
    from verifkit.bench.running.self_check import self_check
    from verifkit.registry import names

    lacking = {name: _lacks(name) for name in names()}
    checked = self_check([name for name, lacks in lacking.items() if not lacks], SECONDS)
    by_name = {c.name: c for c in checked}
    return tuple(_certifier(name, lacks, by_name.get(name)) for name, lacks in lacking.items())


def _certifier(name: str, lacks: str, checked: Checked | None) -> Certifier:
    if checked is None:
        return Certifier(name, lacks, bad=lacks.startswith(_BROKEN))
    return Certifier(name, lacks, checked.state, checked.detail, checked.seconds, checked.bad)


_BROKEN = "cannot be loaded: "


def _lacks(name: str) -> str:
    """Why a certifier cannot be asked as it is; empty where it can."""
    from verifkit.capabilities import Capabilities
    from verifkit.registry import verifier_class

    try:
        capabilities = verifier_class(name).capabilities
    except VerifkitError as error:
        return f"{_BROKEN}{error}"
    if not isinstance(capabilities, Capabilities):
        return f"{_BROKEN}it declares no capabilities"
    missing = capabilities.missing_modules()
    if missing:
        extras = ",".join(sorted({capabilities.modules[module] for module in missing}))
        return f"needs {', '.join(missing)}: pip install 'verifkit[{extras}]'"
    return "; ".join(f"needs the option '{option}': {what}" for option, what in capabilities.required.items())
