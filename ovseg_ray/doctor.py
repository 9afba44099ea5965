"""What is installed here, what this machine has, whether Ray starts, and how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ovseg_ray.cluster import auth_token, connect

Status = Literal["ok", "note", "missing", "failed"]  # only "failed" stops work; "missing" parts are optional
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
GIB = 2**30
LOW_DISK = 5 * GIB

# distribution -> what it is for; everything works without them
OPTIONAL = {
    "faiss-cpu": "nearest-neighbour search",
    "optuna": "hyper-parameter search",
    "pytest": "make test",
    "ruff": "make lint",
    "mypy": "make lint",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        part: heading it stands under.
        name: what was looked at.
        status: "ok"; "note" is worth reading; "missing" is optional; "failed" stops work.
        detail: what was found.
        cure: command or step that mends it, or empty.
    """

    part: str
    name: str
    status: Status
    detail: str
    cure: str = ""


def examine(address: str | None = None, *, debug: bool = False) -> list[Finding]:
    """Look at everything. Starts Ray (or joins the cluster at `address`) and runs one task; no network call."""
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("installed", packages),
        ("machine", machine),
        ("accelerators", accelerators),
        ("Ray", lambda: ray_starts(address, debug=debug)),
        ("optional parts", optional_parts),
        ("pretrained weights", weights),
    ]
    findings: list[Finding] = []
    for part, look in parts:
        try:
            findings += look()
        except Exception as error:  # a diagnosis goes on: whatever broke is what it reports
            text = " ".join(str(error).split())[:200]
            cure = "ovseg-ray doctor --debug" if part == "Ray" else "make install"
            findings.append(Finding(part, type(error).__name__, "failed", text, cure))
            if debug:
                raise
    return findings


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing that every command needs is broken."""
    return all(finding.status != "failed" for finding in findings)


def as_table(findings: list[Finding]) -> str:
    """The report for people."""
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            lines += ["", part] if lines else [part]
        cure = f"  ->  {finding.cure}" if finding.cure else ""
        lines.append(f"  {finding.status:<8}{finding.name:<{width}}  {finding.detail}{cure}")
    failed = sum(finding.status == "failed" for finding in findings)
    lines += ["", f"{failed} failed: mend what is marked so" if failed else "everything needed is here"]
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """The report for programs: {"healthy": bool, "findings": [...]}."""
    return json.dumps({"healthy": healthy(findings), "findings": [asdict(finding) for finding in findings]}, indent=1)


def packages() -> Iterator[Finding]:
    """Python, this package and its dependencies, against the versions that the tests ran with."""
    from packaging.requirements import Requirement

    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    yield Finding("installed", "python", "ok" if good else "failed", f"{version} ({sys.executable})")
    try:
        distribution = importlib.metadata.distribution("ovseg-ray")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("installed", "ovseg-ray", "failed", "not installed in this Python", "make install")
        return
    yield Finding("installed", "ovseg-ray", "ok", distribution.version)
    pinned = pins(CONSTRAINTS)
    for requirement in map(Requirement, distribution.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement.name, requirement.specifier.contains, pinned.get(_normal(requirement.name)))


def _package(name: str, allows: Callable[[str], bool], pin: str | None) -> Finding:
    found = _version(name)
    if found is None or not allows(found):
        detail = f"{found} does not fit" if found else "not installed"
        wanted = f"{name}=={pin}" if pin else name
        return Finding("installed", name, "failed", detail, _pip(wanted))
    if pin and found.partition("+")[0] != pin:
        return Finding("installed", name, "note", f"{found}; the tests ran with {pin}", _pip(f"{name}=={pin}"))
    return Finding("installed", name, "ok", found)


def machine() -> Iterator[Finding]:
    """Cores, memory and disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cores", "ok", f"{cores} usable ({platform.machine()}, {platform.system()})")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))  # inside a container the machine's memory is not ours
    enough = memory >= 6 * GIB
    cure = "" if enough else "the demo wants 6 GiB; close other programs"
    yield Finding("machine", "memory", "ok" if enough else "note", f"{memory / GIB:.1f} GiB", cure)
    for name, path in (("disk here", Path.cwd()), ("disk for Ray", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free
        cure = "" if free >= LOW_DISK else "make room"
        yield Finding("machine", name, "note" if cure else "ok", f"{free / GIB:.1f} GiB free ({path})", cure)


def accelerators() -> Iterator[Finding]:
    """What torch can compute on besides the CPU."""
    import torch

    from ovseg_ray.methods.precision import has_bf16

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        detail = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
        yield Finding("accelerators", f"cuda:{index}", "ok", detail)
    if torch.backends.mps.is_available():
        yield Finding("accelerators", "mps", "ok", "Apple GPU")
    elif not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            detail = f"nvidia-smi is here, but torch {torch.__version__} sees no GPU"
            yield Finding("accelerators", "cuda", "note", detail, "update the NVIDIA driver, then run nvidia-smi")
        else:
            kind = "bf16" if has_bf16(torch.device("cpu")) else "fp32"
            detail = f"torch {torch.__version__} computes on the CPU; trainings of precision auto in {kind}"
            yield Finding("accelerators", "none", "ok", detail)


def ray_starts(address: str | None, *, debug: bool = False) -> Iterator[Finding]:
    """Start Ray or join a cluster, run a task, leave again."""
    authentication = _auth()  # before `connect` or Ray set the variables in this process themselves
    started = time.monotonic()
    with connect(address, debug=debug):
        import ray

        connected = time.monotonic()
        answer = ray.get(ray.remote(_answer).options(num_cpus=0.1).remote(), timeout=120)
        answered = time.monotonic()
        resources = {key: value for key, value in ray.cluster_resources().items() if key in ("CPU", "GPU")}
        nodes = sum(node["Alive"] for node in ray.nodes())
    assert answer == "done"
    shown = ", ".join(f"{value:g} {key}" for key, value in sorted(resources.items()))
    verb = f"joined {address}" if address else "starts"
    detail = f"{verb} in {connected - started:.1f} s, first task after {answered - connected:.1f} s"
    yield Finding("Ray", "cluster", "ok", f"{detail}; {nodes} node(s), {shown}")
    yield authentication


def _auth() -> Finding:
    token = auth_token()
    given = "RAY_AUTH_TOKEN" in os.environ or token.is_file()
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None and given:
        # a cluster started beside an existing token demands it, while clients stay silent until told
        detail = "there is a token, but RAY_AUTH_MODE is not set: fine here, but clusters refuse 'ray job submit'"
        return Finding("Ray", "authentication", "note", detail, "export RAY_AUTH_MODE=token")
    shown = f"RAY_AUTH_MODE={mode or 'not set'}, token {'at ' + str(token) if given else 'none'}"
    return Finding("Ray", "authentication", "ok", shown)


def optional_parts() -> Iterator[Finding]:
    """Packages that add something."""
    for name, purpose in OPTIONAL.items():
        found = _version(name)
        status: Status = "ok" if found else "missing"
        yield Finding("optional parts", name, status, f"{found or 'for'} {purpose}", "" if found else _pip(name))


def weights() -> Iterator[Finding]:
    """Where pretrained weights would come from; nothing is fetched to find out."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    state = "has files" if (home / "hub").is_dir() and any((home / "hub").iterdir()) else "empty"
    detail = f"not tried; fetched on first use into {home} ({state})"
    cure = "without a network: name local files in the configuration, and export HF_HUB_OFFLINE=1"
    yield Finding("pretrained weights", "hub", "ok", detail, cure)


def pins(path: Path) -> dict[str, str]:
    """`name==version` lines of a constraints file, names normalised; empty where there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {_normal(name): version for name, _, version in pairs}


def _answer() -> str:
    return "done"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").lower()


def _pip(requirement: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(requirement)}"
