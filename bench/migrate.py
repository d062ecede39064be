#!/usr/bin/env python3
"""Live migration beside QEMU's: the same guest, the same host, one run, one table.

Needs /dev/kvm, qemu-system-x86_64, binutils and a release build of ringmark:

    cargo build --release && bench/migrate.py

A run is one migration between two fresh processes over a Unix socket. The systems take turns, so that whatever else the
host does meets them alike. Times are milliseconds as each system itself reports them, medians over the runs.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = 4096  # of the guest, which is x86-64
UNLIMITED = 1 << 40  # QEMU's own default is 128 MiB/s
WARM_UP = 1.0  # seconds that a guest runs before it moves
PATIENCE = 60.0  # seconds after which a migration is given up


def guest(directory: Path, hot: int) -> Path:
    """Assembles the guest with a hot region of `hot` MiB."""
    unlinked, image = directory / f"guest-{hot}.o", directory / f"guest-{hot}.elf"
    pages = (hot << 20) // PAGE
    subprocess.run(["as", "--64", "--defsym", f"PAGES={pages}", "-o", unlinked, HERE / "guest.s"], check=True)
    subprocess.run(
        ["ld", "-nostdlib", "-static", "-z", "noexecstack", "-e", "start", "-Ttext=0x200000", "-o", image, unlinked],
        check=True,
    )
    return image


def wait_for(what: str, ready, patience: float = PATIENCE):
    """Asks `ready` until it gives something."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if (found := ready()) is not None:
            return found
        time.sleep(0.002)
    sys.exit(f"{what} did not come within {patience:.0f} s")


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path: Path):
        def connect():
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(path))
                return link
            except OSError:
                link.close()
                return None

        self.lines = wait_for("QEMU's monitor", connect).makefile("rw")
        self.lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments):
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.lines, flush=True)
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                sys.exit(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Qemu:
    """QEMU with one way of tracking."""

    def __init__(self, binary: str, name: str, accel: str, streams: int):
        self.binary, self.name, self.accel, self.streams = binary, name, accel, streams

    def process(self, directory: Path, side: str, image: Path, memory: int, *more: str):
        command = [self.binary, "-machine", "q35", "-accel", self.accel, "-smp", "1"]
        command += ["-m", str(memory), "-kernel", str(image), "-nodefaults", "-display", "none", "-no-user-config"]
        command += ["-qmp", f"unix:{directory / side},server=on,wait=off", *more]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        qmp = Qmp(directory / side)
        qmp("migrate-set-parameters", **{"max-bandwidth": UNLIMITED})
        if self.streams > 1:
            qmp("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
            qmp("migrate-set-parameters", **{"multifd-channels": self.streams})
        return process, qmp

    def migrate(self, directory: Path, image: Path, memory: int) -> dict:
        address = f"unix:{directory / 'qemu-link'}"
        there, incoming = self.process(directory, "there", image, memory, "-incoming", "defer")
        here, source = self.process(directory, "here", image, memory)
        try:
            incoming("migrate-incoming", uri=address)
            # Its firmware comes first, and takes seconds where ring 0 is emulated.
            registers = lambda: source("human-monitor-command", **{"command-line": "info registers"})
            wait_for("the guest's loop", lambda: "CPL=3" in registers() or None)
            time.sleep(WARM_UP)
            source("migrate", uri=address)

            def ended():
                state = source("query-migrate")
                return state if state.get("status") in ("completed", "failed", "cancelled") else None

            state = wait_for(f"{self.name}'s end", ended)
            if state["status"] != "completed":
                sys.exit(f"{self.name}: {state}")
            wait_for("the guest there", lambda: incoming("query-status")["status"] == "running" or None)
            return {"total": state["total-time"], "downtime": state["downtime"], "transferred": state["ram"]["transferred"]}
        finally:
            for process in (here, there):
                process.kill()
                process.wait()


class Ringmark:
    """Ringmark with one way of tracking."""

    def __init__(self, binary: str, name: str, options: list[str]):
        self.binary, self.name, self.options = binary, name, options

    def migrate(self, directory: Path, image: Path, memory: int) -> dict:
        environment = dict(os.environ, XDG_RUNTIME_DIR=str(directory), RINGMARK_STORE=str(directory / "images"))
        address = f"unix:{directory / 'ringmark-link'}"
        start = lambda *words: subprocess.Popen(
            [self.binary, "--quiet", *words, "--hypervisor", "kvm"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        here = start("run", "--kernel", str(image), "--memory", f"{memory}M", "--name", "here")
        there = start("receive", address, "--name", "there")
        try:
            time.sleep(WARM_UP)
            command = [self.binary, "--quiet", "--json", "migrate", "here", address, *self.options]
            said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=PATIENCE, check=True).stdout
            state = json.loads(said)
            if state["status"] != "completed" or here.wait(timeout=10) != 0 or there.poll() is not None:
                sys.exit(f"{self.name}: {said.decode()}")
            return {"total": state["total-time"], "downtime": state["downtime"], "transferred": state["ram"]["transferred"]}
        finally:
            for process in (here, there):
                process.kill()
                process.wait()


def row(name: str, runs: list[dict]) -> list[str]:
    columns = [name]
    for field in ("total", "downtime"):
        values = sorted(run[field] for run in runs)
        columns.append(f"{statistics.median(values):.1f}")
        columns.append(f"{values[0]:.1f}–{values[-1]:.1f}")
    columns.append(f"{statistics.median(run['transferred'] for run in runs) / (1 << 20):.0f}")
    return columns


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="migrations of each system and size (10)")
    parser.add_argument("--hot", type=int, nargs="*", default=[16, 256], metavar="MIB", help="hot regions (16 256)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="guest memory (1024)")
    parser.add_argument("--ringmark", default=str(HERE.parent / "target/release/ringmark"))
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--only", help="only systems whose name matches this expression")
    parser.add_argument("--json", action="store_true", help="every run as JSON instead of the table")
    chosen = parser.parse_args()
    qemu = lambda *parts: Qemu(chosen.qemu, *parts)
    systems = [
        qemu("QEMU, bitmap", "kvm", 1),
        qemu("QEMU, ring 4096", "kvm,dirty-ring-size=4096", 1),
        qemu("QEMU, ring 4096, multifd 2", "kvm,dirty-ring-size=4096", 2),
        # Copies, as QEMU's are; the last one has nothing to compare with.
        Ringmark(chosen.ringmark, "Ringmark", ["--memory", "copy"]),
        Ringmark(chosen.ringmark, "Ringmark, --max-downtime 2ms", ["--memory", "copy", "--max-downtime", "2ms"]),
        Ringmark(chosen.ringmark, "Ringmark, --memory descriptor", ["--memory", "descriptor"]),
    ]
    systems = [system for system in systems if re.search(chosen.only or "", system.name)]
    results: dict[int, dict[str, list[dict]]] = {}
    with tempfile.TemporaryDirectory(prefix="ringmark-bench-") as scratch:
        directory = Path(scratch)
        for hot in chosen.hot:
            image = guest(directory, hot)
            found = results[hot] = {system.name: [] for system in systems}
            for _ in range(chosen.runs):
                for system in systems:
                    with tempfile.TemporaryDirectory(dir=directory) as place:
                        found[system.name].append(system.migrate(Path(place), image, chosen.memory))
    if chosen.json:
        print(json.dumps(results, indent=2))
        return
    head = ["system", "total, ms", "range", "downtime, ms", "range", "MiB sent"]
    for hot, found in results.items():
        print(f"\n{chosen.memory} MiB, 1 vCPU, {hot} MiB hot, Unix socket, medians of {chosen.runs}\n")
        rows = [row(name, runs) for name, runs in found.items()]
        print("| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1))
        for columns in rows:
            print("| " + " | ".join(columns) + " |")


if __name__ == "__main__":
    main()
