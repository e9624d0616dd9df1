#!/usr/bin/env python3
"""Runs the contenders of ci/bench and writes the results. Called by ci/bench, which sees to
packages, binaries and the Debian root."""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

CLIENT_NS, SERVER_NS = f"ovpn-bench-c-{os.getpid()}", f"ovpn-bench-s-{os.getpid()}"
OUTER = {CLIENT_NS: "198.51.100.1", SERVER_NS: "198.51.100.2"}
MTU = 1400
# 64-byte packets that every contender and its server can take, per second.
EQUAL_LOAD = 50_000
# What must hold: (ours, other, measurement, at most, aim). Client CPU-seconds per GB, or for small
# packets per million of them.
GOALS = [
    ("ours-2.7", "openvpn2-2.7", "tcp up", 0.20, 0.15),
    ("ours-2.7", "openvpn2-2.7", "tcp down", 0.40, 0.30),
    ("ours-2.7", "openvpn3-2.7", "tcp up", 0.33, 0.22),
    ("ours-2.7", "openvpn3-2.7", "tcp down", 0.60, 0.45),
    ("ours-ours", "wireguard-go", "tcp up", 0.40, 0.40),
    ("ours-ours", "wireguard-go", "tcp down", 0.40, 0.40),
    ("ours-ours", "yardstick", "tcp up", 1.3, 1.1),
    ("ours-ours", "yardstick", "tcp down", 1.3, 1.1),
    *(("ours-2.7", other, f"load {d}", 1.0, 1.0)
      for other in ("openvpn2-2.7", "openvpn3-2.7") for d in ("up", "down")),
    *(("ours-ours", "wireguard-go", f"load {d}", 1.0, 1.0) for d in ("up", "down")),
]
TITLES = {
    "ours-2.7": "this client → OpenVPN 2.7 server",
    "openvpn2-2.7": "OpenVPN 2.7 client → OpenVPN 2.7 server",
    "openvpn3-2.7": "OpenVPN 3 Linux client → OpenVPN 2.7 server",
    "ours-ours": "this data path at both ends",
    "wireguard-go": "wireguard-go at both ends",
    "yardstick": "yardstick at both ends",
}
KINDS = {
    "tcp": "one TCP stream",
    "tcp8": "eight TCP streams",
    "udp": "UDP, 1,200 bytes",
    "small": "UDP, 64-byte packets, as many as there can be",
    "load": f"UDP, 64-byte packets, {EQUAL_LOAD:,} offered each second",
}
SMALL = ("small", "load")


def run(*command, check=True, **more):
    return subprocess.run(command, check=check, capture_output=True, text=True, **more).stdout


def ip(namespace, *arguments, check=True):
    return run("ip", "-n", namespace, *arguments, check=check)


def tasks_cpu(pids):
    """CPU nanoseconds of each thread of these processes, from the scheduler's own count."""
    tasks = {}
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                tasks[task] = int(file.read().split()[0])
    return tasks


def spent(before, pids):
    """CPU seconds that these processes have spent since `tasks_cpu` gave `before`."""
    return sum(cpu - before.get(task, 0) for task, cpu in tasks_cpu(pids).items()) / 1e9


def memory(pids):
    """Largest resident size so far, MiB."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as file:
            total += int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1))
    return total / 1024


def inside(namespace, program):
    """Processes of this program in a network namespace."""
    wanted = os.stat(f"/run/netns/{namespace}").st_ino
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            exe = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            if exe == program and os.stat(f"/proc/{pid}/ns/net").st_ino == wanted:
                found.append(int(pid))
        except OSError:
            pass
    return found


class Lab:
    def __init__(self, options):
        self.options = options
        self.logs = os.path.join(options.work, "logs")
        os.makedirs(self.logs, exist_ok=True)
        self.shared = os.path.join(options.root, "srv/bench")
        os.makedirs(self.shared, exist_ok=True)
        self.make_pki()

    def make_pki(self):
        here = self.shared
        run(self.options.testlab, "pki", here)
        text = [f"client\ndev tun\nnobind\nremote {OUTER[SERVER_NS]} 1194 udp\nremote-cert-tls server",
                f"data-ciphers {self.options.cipher}\nauth {self.options.auth}\ntun-mtu {MTU}\n"
                "auth-nocache"]
        for tag, name in (("ca", "ca.crt"), ("cert", "client.crt"), ("key", "client.key")):
            with open(f"{here}/{name}") as file:
                text.append(f"<{tag}>\n{file.read()}</{tag}>")
        with open(f"{here}/bench.ovpn", "w") as file:
            file.write("\n".join(text) + "\n")

    @contextmanager
    def namespaces(self):
        try:
            run(self.options.testlab, "wire", CLIENT_NS, SERVER_NS,
                "--at-client", f"{OUTER[CLIENT_NS]}/24", "--at-server", f"{OUTER[SERVER_NS]}/24")
            yield
        finally:
            run(self.options.testlab, "remove", CLIENT_NS, SERVER_NS)

    @contextmanager
    def process(self, name, *command, env=None):
        """A program that runs until the block ends."""
        log = open(os.path.join(self.logs, f"{name}.log"), "w")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, **(env or {})}, start_new_session=True)
        try:
            yield process
        finally:
            self.end(process)
            log.close()

    @staticmethod
    def end(process):
        """Ends a program and what it has started: its group, since what runs in a root has a shell
        in front of it."""
        try:
            os.killpg(process.pid, signal.SIGTERM)
            for _ in range(100):
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def in_namespace(self, namespace, *command):
        return ("nsenter", f"--net=/run/netns/{namespace}", *command)

    def in_root(self, namespace, *command, pid_namespace=False):
        """A command in the Debian root and a network namespace. With a process namespace, all that
        the command leaves behind ends with it."""
        script = '. "$1"; root=$2; shift 2; in_root "$root" "$@"'
        wrapped = ("bash", "-c", script, "bench", f"{self.options.repo}/ci/lib/roots.sh",
                   self.options.root, *self.in_namespace(namespace, *command))
        if pid_namespace:
            wrapped = ("unshare", "--pid", "--fork", "--kill-child", *wrapped)
        return wrapped

    def log_of(self, name):
        with open(os.path.join(self.logs, f"{name}.log"), errors="replace") as file:
            return file.read()

    def wait_for(self, what, condition, *names, limit=30):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            result = condition()
            if result:
                return result
            time.sleep(0.1)
        for name in names:
            print(self.log_of(name)[-3000:], file=sys.stderr)
        sys.exit(f"ci/bench: {what} did not happen within {limit} s; logs above")

    @contextmanager
    def openvpn_server(self):
        command = ["openvpn", "--cd", "/srv/bench", "--dev", "tun", "--server", "10.8.0.0",
                   "255.255.255.0", "--topology", "subnet", "--proto", "udp", "--ca", "ca.crt",
                   "--cert", "server.crt", "--key", "server.key", "--dh", "none", "--keepalive",
                   "10", "60", "--tun-mtu", str(MTU), "--data-ciphers", self.options.cipher,
                   "--auth", self.options.auth, "--disable-dco", "--verb", "3"]
        with self.process("server", *self.in_root(SERVER_NS, *command)):
            self.wait_for("the server's start", lambda: "Initialization Sequence Completed"
                          in self.log_of("server"), "server")
            yield

    def reachable(self, target):
        command = self.in_namespace(CLIENT_NS, "ping", "-n", "-c", "1", "-W", "1", target)
        return subprocess.run(command, capture_output=True).returncode == 0

    @contextmanager
    def against_openvpn(self, program, name, command):
        with self.openvpn_server(), self.process(name, *command):
            self.wait_for(f"{name}'s connection", lambda: self.reachable("10.8.0.1"), name, "server")
            yield inside(CLIENT_NS, program), "10.8.0.1"

    # The contenders. Each yields the client's processes and the server's address in the tunnel.

    def ours_2_7(self):
        command = self.in_namespace(CLIENT_NS, f"{self.options.bin}/ovpn-client", "connect",
                                    f"{self.shared}/bench.ovpn", "--dco", "off", "--output", "json")
        return self.against_openvpn("ovpn-client", "ours", command)

    def openvpn2_2_7(self):
        command = self.in_root(CLIENT_NS, "openvpn", "--config", "/srv/bench/bench.ovpn", "--disable-dco")
        return self.against_openvpn("openvpn", "openvpn2", command)

    def openvpn3_2_7(self):
        # D-Bus services of a desktop that are not there make calls wait.
        script = """
            rm -f /run/dbus/pid /usr/share/dbus-1/system-services/org.freedesktop.hostname1.service
            mkdir -p /run/dbus
            dbus-daemon --system --nofork --nopidfile &
            sleep 1
            openvpn3 config-import --config /srv/bench/bench.ovpn --name bench
            openvpn3 session-start --config bench
            wait
        """
        command = self.in_root(CLIENT_NS, "bash", "-c", script, pid_namespace=True)
        return self.against_openvpn("openvpn3-service-client", "openvpn3", command)

    @contextmanager
    def two_ends(self, name, commands, device, program):
        """Two equal programs with a device each, addressed here."""
        with self.process(f"{name}-s", *commands[SERVER_NS]), self.process(f"{name}-c", *commands[CLIENT_NS]):
            for n, namespace in enumerate((CLIENT_NS, SERVER_NS), start=1):
                own = device[namespace]
                self.wait_for(f"{name}'s device", lambda: own in ip(namespace, "-o", "link"),
                              f"{name}-c", f"{name}-s")
                ip(namespace, "addr", "add", f"10.98.0.{n}/24", "dev", own)
                ip(namespace, "link", "set", own, "mtu", str(MTU), "up")
                if program == "wireguard-go":
                    self.configure_wireguard(namespace, own)
            self.wait_for(f"{name}'s connection", lambda: self.reachable("10.98.0.2"),
                          f"{name}-c", f"{name}-s")
            yield inside(CLIENT_NS, program), "10.98.0.2"

    def static(self, name, binary, mirrored):
        ends = (OUTER[CLIENT_NS] + ":5000", OUTER[SERVER_NS] + ":5000")
        commands = {
            CLIENT_NS: self.in_namespace(CLIENT_NS, binary, "bench0", *ends),
            SERVER_NS: self.in_namespace(SERVER_NS, binary, "bench0", *reversed(ends), *mirrored),
        }
        device = {CLIENT_NS: "bench0", SERVER_NS: "bench0"}
        return self.two_ends(name, commands, device, os.path.basename(binary))

    def ours_ours(self):
        return self.static("static", f"{self.options.bin}/examples/static_tunnel", ("--mirrored",))

    def yardstick(self):
        return self.static("yardstick", self.options.yardstick, ())

    def wireguard_go(self):
        # The control socket is named after the device, and both ends share a file system.
        device = {CLIENT_NS: "wgc", SERVER_NS: "wgs"}
        commands = {ns: self.in_root(ns, "wireguard-go", "-f", name) for ns, name in device.items()}
        return self.two_ends("wireguard", commands, device, "wireguard-go")

    def configure_wireguard(self, namespace, device):
        keys = {}
        for ns in (CLIENT_NS, SERVER_NS):
            path = f"{self.shared}/{'c' if ns == CLIENT_NS else 's'}.wg"
            if not os.path.exists(path):
                with open(path, "w") as file:
                    os.chmod(path, 0o600)
                    file.write(run(*self.in_root(ns, "wg", "genkey")))
            with open(path) as file:
                keys[ns] = run(*self.in_root(ns, "wg", "pubkey"), input=file.read()).strip()
        other = SERVER_NS if namespace == CLIENT_NS else CLIENT_NS
        private = "c.wg" if namespace == CLIENT_NS else "s.wg"
        run(*self.in_root(namespace, "wg", "set", device, "listen-port", "5000", "private-key",
                          f"/srv/bench/{private}", "peer", keys[other], "allowed-ips", "10.98.0.0/24",
                          "endpoint", f"{OUTER[other]}:5000"))

    # Measurements.

    def iperf(self, target, seconds, *arguments):
        command = self.in_namespace(CLIENT_NS, "iperf3", "-c", target, "-t", str(seconds), "-J", *arguments)
        for attempt in range(3):
            output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
            end = json.loads(output).get("end") if output else None
            if end:
                return end
            time.sleep(1)
        sys.exit(f"ci/bench: iperf3 failed: {output[-500:]}")

    def taken(self):
        """Packets that the client has taken from its tunnel device so far."""
        for link in json.loads(ip(CLIENT_NS, "-s", "-j", "link")):
            if link["ifname"] not in ("lo", "eth0"):
                return link["stats64"]["tx"]["packets"]
        return 0

    def measure(self, pids, target, kind, direction, seconds):
        # 36 bytes, and 28 of headers.
        small = ["-u", "-l", "36", "-b"]
        arguments = {"tcp": [], "tcp8": ["-P", "8"], "udp": ["-u", "-b", "0", "-l", "1200"],
                     "small": [*small, "0"], "load": [*small, str(EQUAL_LOAD * 36 * 8)]}[kind]
        before, taken = tasks_cpu(pids), self.taken()
        end = self.iperf(target, seconds, *arguments, *(["-R"] if direction == "down" else []))
        cpu = spent(before, pids)
        if "sum_received" not in end:
            sys.exit(f"ci/bench: unexpected iperf3 result: {str(end)[:500]}")
        received = end["sum_received"]
        result = {"gbit": received["bits_per_second"] / 1e9, "cpu_per_gb": cpu / (received["bytes"] / 1e9)}
        if kind in ("udp", *SMALL):
            packets = received["packets"] - received["lost_packets"]
            result["packets_per_second"] = packets / received["seconds"]
            result["taken_per_second"] = (self.taken() - taken) / received["seconds"]
            result["cpu_per_million"] = cpu / (packets / 1e6) if packets else None
        return result

    def latency(self, target, direction, seconds):
        """Round trips while a TCP stream fills the tunnel, milliseconds."""
        command = self.in_namespace(CLIENT_NS, "ping", "-n", "-i", "0.02", "-w", str(seconds), target)
        ping = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.iperf(target, seconds + 1, *(["-R"] if direction == "down" else []))
        times = sorted(float(t) for t in re.findall(r"time=([\d.]+)", ping.communicate()[0]))
        if not times:
            return {}
        return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}

    def both_ways(self, target, seconds):
        """A TCP stream in each direction at the same time, Gbit/s: `--bidir`."""
        end = self.iperf(target, seconds, "--bidir")
        rates = (end["sum_received"], end["sum_received_bidir_reverse"])
        return dict(zip(("up", "down"), (rate["bits_per_second"] / 1e9 for rate in rates)))

    def contend(self, name, seconds, kinds):
        contender = getattr(self, name.replace("-", "_").replace(".", "_"))
        results = {}
        with self.namespaces(), self.process("iperf", *self.in_namespace(SERVER_NS, "iperf3", "-s")):
            with contender() as (pids, target):
                if not pids:
                    sys.exit(f"ci/bench: {name}: the client's process was not found")
                for kind in kinds:
                    if kind == "both":
                        results["both"] = self.both_ways(target, seconds)
                        continue
                    for direction in ("up", "down"):
                        if kind == "latency":
                            value = self.latency(target, direction, seconds)
                        else:
                            value = self.measure(pids, target, kind, direction, seconds)
                        results[f"{kind} {direction}"] = value
                results["memory"] = {"mib": memory(pids)}
                time.sleep(1)
                before = tasks_cpu(pids)
                time.sleep(3)
                results["idle"] = {"cpu": spent(before, pids) / 3}
        return results


def median(samples, measurement, field):
    values = [s[measurement][field] for s in samples if (s.get(measurement) or {}).get(field) is not None]
    return statistics.median(values) if values else None


def number(value, digits=2):
    return "–" if value is None else f"{value:.{digits}f}"


def table(samples, machine):
    def cell(name, measurement, field, digits=2, scale=1.0):
        value = median(samples[name], measurement, field)
        return number(value if value is None else value * scale, digits)

    lines = [f"Machine: {machine}.", ""]
    for kind, title in KINDS.items():
        if not any(f"{kind} up" in s for runs in samples.values() for s in runs):
            continue
        small = kind in SMALL
        unit = "client CPU-s per million packets" if small else "client CPU-s per GB"
        lines += [f"**{title}**", "",
                  f"| | {unit}, up | down | {'kpackets/s delivered' if small else 'Gbit/s'}, up | down |"
                  + (" kpackets/s sent by the client, up |" if small else ""),
                  "|---|---|---|---|---|" + ("---|" if small else "")]
        for name in samples:
            field, rate = ("cpu_per_million", "packets_per_second") if small else ("cpu_per_gb", "gbit")
            scale = 1e-3 if small else 1.0
            lines.append(f"| {TITLES[name]} | " + " | ".join(
                [cell(name, f"{kind} {d}", field) for d in ("up", "down")]
                + [cell(name, f"{kind} {d}", rate, 1, scale) for d in ("up", "down")]
                + ([cell(name, f"{kind} up", "taken_per_second", 1, scale)] if small else [])) + " |")
        lines.append("")
    if any("latency up" in s for runs in samples.values() for s in runs):
        lines += ["**Round trip under load, ms (median / 99th percentile)**", "", "| | up | down |", "|---|---|---|"]
        for name in samples:
            lines.append(f"| {TITLES[name]} | " + " | ".join(
                f"{cell(name, f'latency {d}', 'p50')} / {cell(name, f'latency {d}', 'p99')}"
                for d in ("up", "down")) + " |")
        lines.append("")
    if any("both" in s for runs in samples.values() for s in runs):
        lines += ["**A stream in each direction at once, Gbit/s up + down**: " + "; ".join(
            f"{TITLES[n]} {cell(n, 'both', 'up')} + {cell(n, 'both', 'down')}" for n in samples), ""]
    lines += ["**Client CPU while idle, ms per second**: " + "; ".join(
        f"{TITLES[n]} {cell(n, 'idle', 'cpu', 2, 1000)}" for n in samples), ""]
    lines += ["**Client memory, MiB (largest)**: " + "; ".join(
        f"{TITLES[n]} {cell(n, 'memory', 'mib', 1)}" for n in samples), ""]
    return lines


def judge(samples):
    """The goals, as lines of a table, and whether all are met."""
    lines = ["**Client CPU as a ratio**", "", "| | ratio | at most | aim |", "|---|---|---|---|"]
    met = True
    for ours, other, measurement, limit, aim in GOALS:
        if ours in samples and other in samples:
            field = "cpu_per_million" if measurement.split()[0] in SMALL else "cpu_per_gb"
            a, b = (median(samples[n], measurement, field) for n in (ours, other))
            if a is None or b is None:
                continue
            ratio = a / b
            met &= ratio <= limit
            verdict = "met, aim reached" if ratio <= aim else "met" if ratio <= limit else "**missed**"
            lines.append(f"| {TITLES[ours]} / {TITLES[other]}, {measurement} | {ratio:.2f} ({verdict}) "
                         f"| {limit} | {aim} |")
        elif ours in samples:
            lines.append(f"| {TITLES[ours]} / {TITLES[other]}, {measurement} | not measured | {limit} | {aim} |")
    # What must be larger: (ours, other, measurement, field, at least, aim).
    wanted = [("ours-ours", "wireguard-go", f"tcp {d}", "gbit", 1.6, 2) for d in ("up", "down")]
    wanted += [("ours-ours", "ours-ours", f"tcp8 {d}", "gbit", 0.9, 1) for d in ("up", "down")]
    for ours, others in (("ours-ours", ["wireguard-go"]), ("ours-2.7", ["openvpn2-2.7", "openvpn3-2.7"])):
        wanted += [(ours, other, f"{kind} {d}", "packets_per_second", 1, 1)
                   for other in others for kind in ("udp", "small") for d in ("up", "down")]
        # What an OpenVPN server takes of a flood says as much about the server, which gets the share
        # of the processor that the scheduler gives it.
        wanted += [(ours, other, "small up", "taken_per_second", 1, 1) for other in others]
    for ours, other, measurement, field, least, aim in wanted:
        if ours not in samples or other not in samples:
            continue
        against = measurement.replace("tcp8", "tcp") if ours == other else measurement
        a, b = median(samples[ours], measurement, field), median(samples[other], against, field)
        if a is None or b is None:
            continue
        ratio = a / b
        met &= ratio >= least
        verdict = "met, aim reached" if ratio >= aim else "met" if ratio >= least else "**missed**"
        what = "one stream's" if ours == other else TITLES[other]
        kind = "sending rate" if field == "taken_per_second" else "rate"
        lines.append(f"| {kind} of {TITLES[ours]} / {what}, {measurement} | {ratio:.2f} ({verdict}) "
                     f"| at least {least} | {aim} |")
    return lines + [""], met


def svg(samples, machine, cipher):
    rows = [(name, d, median(samples[name], f"tcp {d}", "cpu_per_gb")) for name in samples for d in ("up", "down")]
    rows = [row for row in rows if row[2] is not None]
    if not rows:
        return None
    left, width, height, top = 330, 430, 20, 54
    scale = width / max(value for _, _, value in rows)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" '
             f'height="{top + len(rows) * height + len(samples) * 8 + 30}" font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="white"/>',
             '<text x="12" y="20" font-size="14" font-weight="bold">Client CPU-seconds per GB, one TCP stream, '
             f'{cipher} (ChaCha20 for WireGuard)</text>',
             f'<text x="12" y="38" fill="#555">{machine}; medians; shorter is better</text>']
    y = top
    previous = None
    for name, direction, value in rows:
        if previous not in (None, name):
            y += 8
        if previous != name:
            parts.append(f'<text x="12" y="{y + 14}">{TITLES[name]}</text>')
        previous = name
        color = "#1a7f6b" if name.startswith("ours") else "#9aa5b1"
        opacity = 1 if direction == "up" else 0.7
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end" fill="#555">{direction}</text>')
        parts.append(f'<rect x="{left}" y="{y + 2}" width="{max(1, value * scale):.1f}" height="{height - 5}" '
                     f'fill="{color}" fill-opacity="{opacity}"/>')
        parts.append(f'<text x="{left + value * scale + 6:.1f}" y="{y + 14}">{value:.2f}</text>')
        y += height
    return "\n".join(parts + ["</svg>", ""])


def machine_name():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    return f"{model.group(1).strip() if model else 'unknown CPU'}, {os.cpu_count()} CPUs, Linux {os.uname().release}"


def main():
    parser = argparse.ArgumentParser(description="see ci/bench")
    for name in ("repo", "bin", "testlab", "root", "work", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--yardstick")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--kinds")
    parser.add_argument("--cipher", default="AES-256-GCM")
    parser.add_argument("--auth", default="SHA1")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--seconds", type=int)
    options = parser.parse_args()
    repetitions = options.repetitions or (2 if options.quick else 5)
    seconds = options.seconds or (2 if options.quick else 5)
    names = [n for n in TITLES if n != "yardstick" or options.yardstick]
    if options.only:
        unknown = set(options.only.split(",")) - set(names)
        if unknown:
            sys.exit(f"ci/bench: no such contender: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        names = [n for n in names if n in options.only.split(",")]
    kinds = [*KINDS, "both", "latency"]
    if options.kinds:
        kinds = [k for k in kinds if k in options.kinds.split(",")]
    load = os.getloadavg()[0]
    if load > 0.5 * os.cpu_count():
        print(f"ci/bench: the machine is busy (load {load:.1f}): ratios only, no absolute numbers", file=sys.stderr)
    lab = Lab(options)
    samples = {name: [] for name in names}
    # Interleaved, so that whatever else the machine does hits all alike.
    for repetition in range(repetitions):
        for name in names:
            result = lab.contend(name, seconds, kinds)
            samples[name].append(result)
            shown = "  ".join(f"{k} {number(v.get('cpu_per_gb'))} s/GB {number(v.get('gbit'))} Gbit/s"
                              for k, v in result.items() if v.get("cpu_per_gb") is not None)
            print(f"[{repetition + 1}/{repetitions}] {name}: {shown}", file=sys.stderr, flush=True)
    machine = machine_name()
    goals, met = judge(samples)
    text = "\n".join(goals + table(samples, machine))
    os.makedirs(options.out, exist_ok=True)
    with open(f"{options.out}/results.json", "w") as file:
        json.dump({"machine": machine, "load_at_start": load, "samples": samples}, file, indent=1)
    with open(f"{options.out}/table.md", "w") as file:
        file.write(text)
    picture = svg(samples, machine, options.cipher)
    if picture:
        with open(f"{options.out}/bench.svg", "w") as file:
            file.write(picture)
    print(text)
    print(f"in {options.out}: results.json, table.md, bench.svg")
    sys.exit(0 if met else 1)


main()
