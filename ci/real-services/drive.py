#!/usr/bin/env python3
"""Runs inside a root with OpenVPN 3 Linux: starts a system bus, drives the `openvpn3` command line
through scenarios, and writes what the backend signalled and what the user saw as JSON."""

import base64
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

SERVER = "10.97.0.1"
# The same, where it takes a route.
FAR_SERVER = "10.98.0.1"
HERE = "/srv/rs"


def read(name):
    with open(f"{HERE}/{name}") as file:
        return file.read()


def profile(port=1194, proto="udp", ca="ca.crt", key="client.key", extra=""):
    text = f"client\ndev tun\nremote {SERVER} {port} {proto}\nremote-cert-tls server\n{extra}\n"
    text += f"<ca>\n{read(ca)}</ca>\n"
    if key:
        text += f"<cert>\n{read('client.crt')}</cert>\n<key>\n{read(key)}</key>\n"
    else:
        text += "setenv CLIENT_CERT 0\n"
    return text


class Recorder:
    """Signals of backends, once each: what goes to the session manager."""

    def __init__(self, bus):
        self.bus = bus
        self.signals = []
        self.log = []
        self.manager = None
        self.start()

    def start(self):
        """On a bus that has just been started."""
        self.monitor = subprocess.Popen(
            ["dbus-monitor", "--system", "type='signal',interface='net.openvpn.v3.backends'"],
            stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, args=(self.monitor.stdout,), daemon=True).start()
        time.sleep(0.5)

    def listen(self, lines):
        head = re.compile(r"signal time=\S+ sender=(\S+) -> destination=(\S+) .*path=(\S+); .*member=(\S+)")
        current = None
        for line in lines:
            match = head.match(line)
            if match:
                _, destination, path, member = match.groups()
                if member == "RegistrationRequest":
                    self.manager = destination
                wanted = member in ("StatusChange", "AttentionRequired")
                own = path == "/net/openvpn/v3/backends/session" and destination == self.manager
                current = [time.monotonic(), member, []] if wanted and own else None
                if current:
                    self.signals.append(current)
                elif member == "Log":
                    current = [time.monotonic(), member, []]
                    self.log.append(current)
            elif not line.startswith(" "):
                current = None
            elif current is not None:
                current[2].append(line.strip())

    def connect_time(self):
        """Milliseconds from Connect, which is told by (2,2), to (2,7)."""
        start = None
        for moment, member, values in self.signals:
            if member == "StatusChange" and values[:2] == ["uint32 2", "uint32 2"]:
                start = moment
            if member == "StatusChange" and values[:2] == ["uint32 2", "uint32 7"] and start:
                return round((moment - start) * 1000)
        return None

    def logged(self, text):
        """Whether a backend has told this in its log."""
        return any(text in line for _, _, values in list(self.log) for line in values)

    def take(self):
        """What came since the last call: `S 2,6 text`, `A 1,1 text`."""
        time.sleep(0.3)
        signals, self.signals = self.signals, []
        result = []
        for _, member, values in signals:
            numbers = [v.split()[1] for v in values if v.startswith("uint32")]
            text = next((v[8:-1] for v in values if v.startswith("string")), "")
            text = re.sub(r"/configuration/\S+", "/configuration/X", text)
            text = re.sub(r"\brs\d+:", "NAME:", text)
            result.append(f"{member[0]} {','.join(numbers)} {text}".rstrip())
        return result

    def wait(self, code, limit=15.0):
        """Until a status has come."""
        end = time.monotonic() + limit
        want = [f"uint32 {n}" for n in code.split(",")]
        while time.monotonic() < end:
            if any(s[1] == "StatusChange" and s[2][:2] == want for s in list(self.signals)):
                return True
            time.sleep(0.05)
        print(f"no status {code}", file=sys.stderr)
        return False


def run(*arguments, answers=(), limit=25):
    """`openvpn3 ARGUMENTS` on a terminal; answers are (prompt, text). Exit status and output."""
    answers = list(answers)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("openvpn3", ["openvpn3", *arguments])
    output, end = "", time.monotonic() + limit
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            output += data.decode(errors="replace")
        if answers and answers[0][0] in output.rsplit("\n", 1)[-1]:
            os.write(terminal, answers.pop(0)[1].encode() + b"\n")
            output += "\n"
    else:
        os.kill(pid, 9)
        output += "\n(time limit)"
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    output = output.replace("\r", "")
    print(f"$ openvpn3 {' '.join(arguments)}: {code}\n{output}", file=sys.stderr)
    return code, output


class Session:
    """A profile and what is done with it."""

    count = 0

    def __init__(self, recorder, text, overrides=()):
        Session.count += 1
        self.name = f"rs{Session.count}"
        self.recorder = recorder
        self.record = {"signals": [], "user": [], "figures": {}}
        path = f"/tmp/{self.name}.ovpn"
        with open(path, "w") as file:
            file.write(text)
        self.do("config-import", "--config", path, "--name", self.name, quiet=True)
        for name, value in overrides:
            self.do("config-manage", "--config", self.name, f"--{name}", value, quiet=True)
        recorder.take()

    def do(self, *arguments, answers=(), quiet=False):
        code, output = run(*arguments, answers=answers)
        if not quiet:
            command = [self.name if a == self.name else a for a in arguments]
            self.record["user"].append([" ".join(command).replace(self.name, "NAME"), code])
        return output

    def start(self, answers=()):
        return self.do("session-start", "--config", self.name, answers=answers)

    def manage(self, action):
        return self.do("session-manage", "--config", self.name, f"--{action}")

    def told(self):
        self.record["signals"] += self.recorder.take()

    def wait(self, code, limit=15.0):
        self.record["user"].append([f"status {code}", self.recorder.wait(code, limit)])

    def end(self):
        self.told()
        run("session-manage", "--config", self.name, "--disconnect")
        self.told()
        return self.record


def reachable(session, port=1194):
    """A ping through the tunnel."""
    peer = f"10.{port - 1100}.0.1"
    result = subprocess.run(["ping", "-c", "3", "-i", "0.2", "-W", "2", peer], stdout=subprocess.DEVNULL)
    session.record["user"].append([f"ping {peer}", result.returncode])


def plain(recorder):
    session = Session(recorder, profile())
    session.start()
    session.record["figures"]["connect_ms"] = recorder.connect_time()
    reachable(session)
    time.sleep(2)
    session.record["figures"]["resident_kib"] = backend_memory()
    return session.end()


def backend_memory():
    """Resident memory of the backend in KiB."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status") as file:
                status = dict(line.split(":", 1) for line in file)
        except OSError:
            continue
        # The kernel cuts names off.
        if "openvpn3-service-client".startswith(status["Name"].strip()) and len(status["Name"].strip()) == 15:
            with open(f"/proc/{pid}/cmdline") as file:
                if "service-client" in file.read():
                    return int(status["VmRSS"].split()[0])
    return None


def tcp(recorder):
    session = Session(recorder, profile(1195, "tcp"))
    session.start()
    reachable(session, 1195)
    return session.end()


def pause(recorder):
    session = Session(recorder, profile())
    session.start()
    session.told()
    session.manage("pause")
    session.wait("2,14")
    session.told()
    session.manage("resume")
    session.wait("2,7")
    reachable(session)
    session.told()
    session.manage("restart")
    session.wait("2,7")
    reachable(session)
    return session.end()


def statistics(recorder):
    session = Session(recorder, profile())
    session.start()
    reachable(session)
    output = session.do("session-stats", "--config", session.name, "--json")
    names = json.loads(output[output.index("{"):])
    for name in ("BYTES_IN", "BYTES_OUT", "PACKETS_IN", "PACKETS_OUT", "TUN_BYTES_IN", "TUN_PACKETS_IN"):
        session.record["user"].append([f"statistics {name}", int(names.get(name, 0)) > 0])
    listing = session.do("sessions-list")
    for text in ("Connection, Client connected", "Device:", session.name):
        session.record["user"].append([f"list: {text}".replace(session.name, "NAME"), text in listing])
    return session.end()


def two_sessions(recorder):
    first = Session(recorder, profile())
    second = Session(recorder, profile(1195, "tcp"))
    first.start()
    first.told()
    second.start()
    second.told()
    reachable(first)
    reachable(second, 1195)
    one, two = first.end(), second.end()
    return {"figures": {}, "signals": one["signals"] + two["signals"], "user": one["user"] + two["user"]}


LOGIN = "auth-user-pass"


def user(name, password="secret"):
    return [("User name", name), ("Password", password)]


def password(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    session.start(user("plain"))
    reachable(session, 1196)
    return session.end()


def wrong_password(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    output = session.start(user("plain", "wrong"))
    session.record["user"].append(["says so", "authentication failed" in output])
    return session.end()


class Proxy:
    """An HTTP proxy that wants Basic authentication, for as long as it is used with `with`."""

    AUTHORIZATION = b"Basic " + base64.b64encode(b"proxyuser:proxysecret")

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.listen, daemon=True).start()
        return self.listener.getsockname()[1]

    def __exit__(self, *_):
        self.listener.close()

    def listen(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return
            head += byte
        if b"Proxy-Authorization: " + self.AUTHORIZATION not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"rs\"\r\n"
                           b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            client.close()
            return
        host, port = head.split()[1].decode().rsplit(":", 1)
        server = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=self.copy, args=(server, client), daemon=True).start()
        self.copy(client, server)

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # Closed by the other direction.
            pass


def proxy_login(recorder):
    """A proxy that the profile gives no credentials for: a wrong password, then the right one."""
    with Proxy() as port:
        session = Session(recorder, profile(1195, "tcp", extra=f"http-proxy 127.0.0.1 {port}"))
        answers = [("proxy username", "proxyuser"), ("proxy password", "wrong"),
                   ("proxy username", "proxyuser"), ("proxy password", "proxysecret")]
        session.start(answers)
        reachable(session, 1195)
        return session.end()


def static_challenge(recorder):
    text = profile(1196, key=None, extra=LOGIN + '\nstatic-challenge "Your PIN" 1')
    session = Session(recorder, text)
    session.start(user("static") + [("PIN", "4711")])
    reachable(session, 1196)
    return session.end()


def dynamic_challenge(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    session.start(user("dynamic") + [("code", "4711")])
    reachable(session, 1196)
    return session.end()


def crtext(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    session.start(user("crtext") + [("Code", "123456")])
    session.wait("2,7")
    reachable(session, 1196)
    return session.end()


def crtext_wrong(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    session.start(user("crtext") + [("Code", "9")])
    return session.end()


def open_url(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    output = session.start(user("url"))
    session.record["user"].append(["shows the address", "https://login.example/start?x=1" in output])
    session.wait("2,7")
    reachable(session, 1196)
    return session.end()


def web_auth(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    output = session.start(user("webauth"))
    session.record["user"].append(["shows the address", "https://login.example/web" in output])
    session.wait("2,7")
    reachable(session, 1196)
    return session.end()


def revocation_list(recorder):
    """Somebody else is revoked. A configuration manager makes a quoted word of the block."""
    session = Session(recorder, profile() + f"<crl-verify>\n{read('client-revoked.crl')}</crl-verify>\n")
    session.start()
    reachable(session)
    return session.end()


def revoked_server(recorder):
    session = Session(recorder, profile() + f"<crl-verify>\n{read('server-revoked.crl')}</crl-verify>\n")
    session.start()
    session.wait("2,10")
    return session.end()


def fingerprint(name):
    output = subprocess.check_output(["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", f"{HERE}/{name}"],
                                     text=True)
    return output.strip().split("=")[1]


def peer_fingerprint(recorder):
    """Of the server's certificate and of another one."""
    prints = "\n".join(fingerprint(name) for name in ("other.crt", "server.crt"))
    session = Session(recorder, profile() + f"<peer-fingerprint>\n{prints}\n</peer-fingerprint>\n")
    session.start()
    reachable(session)
    return session.end()


EXPIRING_PORT = 1201


def expired_token(recorder):
    """The server's token lasts for a few seconds; the login that is known follows it."""
    session = Session(recorder, profile(EXPIRING_PORT, key=None, extra=LOGIN))
    session.start(user("plain"))
    session.told()
    session.wait("2,7", 30)
    reachable(session, EXPIRING_PORT)
    return session.end()


def passphrase(recorder):
    session = Session(recorder, profile(key="client-encrypted.key"))
    session.start([("passphrase", "opensesame")])
    reachable(session)
    return session.end()


def wrong_passphrase(recorder):
    session = Session(recorder, profile(key="client-encrypted.key"))
    session.start([("passphrase", "wrong")])
    session.wait("2,10")
    return session.end()


def wrong_ca(recorder):
    session = Session(recorder, profile(ca="other.crt"))
    session.start()
    session.wait("2,10")
    return session.end()


def unusable_profile(recorder):
    session = Session(recorder, profile(extra="dev-type tap\nproto-force nothing"))
    session.start()
    return session.end()


def overrides(recorder):
    values = [("server-override", SERVER), ("log-level", "5")]
    session = Session(recorder, profile().replace(f"remote {SERVER}", "remote 10.97.0.99"), values)
    session.start()
    reachable(session)
    return session.end()


def legacy_cipher(recorder):
    """A server that has CBC alone, and the override that offers it."""
    session = Session(recorder, profile(1202, extra="auth SHA256"), [("enable-legacy-algorithms", "true")])
    session.start()
    reachable(session, 1202)
    return session.end()


def listed_cipher(recorder):
    """The same without the override, the profile asks for it."""
    session = Session(recorder, profile(1202, extra="auth SHA256\ndata-ciphers AES-256-GCM:AES-256-CBC"))
    session.start()
    reachable(session, 1202)
    return session.end()


class Management:
    """A server's management interface: lines in, lines out."""

    def __init__(self, port):
        self.socket = socket.create_connection((SERVER, port), timeout=10)
        self.lines = self.socket.makefile("rw", newline="\r\n")

    def command(self, text):
        self.lines.write(text + "\r\n")
        self.lines.flush()

    def until(self, pattern):
        for line in self.lines:
            if match := re.search(pattern, line):
                return match


def posture(recorder):
    """The server asks about this host, and the device posture service of this host answers."""
    session = Session(recorder, profile(1198), [("enterprise-profile", "example1")])
    session.start()
    reachable(session, 1198)
    server = Management(7505)
    server.command("status 2")
    client = server.until(r"^CLIENT_LIST,client,.*").group().split(",")[10]
    server.command("log on")

    def ask(version, correlation, parts):
        checks = {"host_info": True, "client_time": True}
        request = {"dpc_request": {"ver": version, "correlation_id": correlation, "timestamp": "now", **checks}}
        request = json.dumps(request).encode()
        size = -(-len(request) // parts)
        for start in range(0, len(request), size):
            part = base64.b64encode(request[start:start + size]).decode()
            more = "F" if start + size < len(request) else ""
            # The only command that sends a text of ours as a control message. The server forgets the
            # client five seconds later.
            server.command(f"client-kill {client} ACC,dpc-example1,{len(part)},6{more},{part}")

    # One that the service refuses has no answer; the one after it has, and it comes in two parts.
    ask("9.9", "rs-0", 1)
    ask("1.0", "rs-1", 2)
    protocol, length, flags, answer = server.until(r"unknown control message: ACC,([^,]*),(\d+),(\w+),(.*)").groups()
    answer = answer.strip()
    session.record["user"].append(["answer", protocol, flags, int(length) == len(answer)])
    answer = json.loads(answer)["dpc_response"]
    session.record["user"].append([sorted(answer), answer["ver"], answer["correlation_id"]])
    system = answer["host_info"]["operating_system"]["uname"]["sysname"]
    session.record["user"].append(["system", system])
    session.record["user"].append(["the log tells what was refused", recorder.logged("'9.9' not supported")])
    return session.end()


def unknown_posture_profile(recorder):
    """An enterprise profile that the service has not got: the connection is made all the same."""
    session = Session(recorder, profile(1198), [("enterprise-profile", "no-such-profile")])
    session.start()
    reachable(session, 1198)
    session.record["user"].append(["the log tells it", recorder.logged("no-such-profile")])
    return session.end()


def device():
    """Name and index of the tunnel: another index is another device."""
    links = json.loads(subprocess.check_output(["ip", "-j", "-d", "link"]))
    return [(link["ifname"], link["ifindex"]) for link in links
            if link.get("linkinfo", {}).get("info_kind") in ("tun", "ovpn", "ovpn-dco")]


def overrides_tunnel(recorder):
    """A device that outlives a restart, and DNS that is left alone."""
    values = [("persist-tun", "true"), ("dns-setup-disabled", "true"), ("ipv6", "no")]
    session = Session(recorder, profile(extra="dhcp-option DNS 10.94.0.1"), values)
    resolver = contents("/etc/resolv.conf")
    session.start()
    session.record["user"].append(["resolv.conf is left alone", contents("/etc/resolv.conf") == resolver])
    session.told()
    before = device()
    session.manage("restart")
    session.wait("2,7")
    session.record["user"].append(["same device", bool(before) and device() == before])
    reachable(session)
    return session.end()


def inactive(recorder):
    session = Session(recorder, profile(1197))
    session.start()
    session.wait("2,16")
    return session.end()


def log(recorder):
    session = Session(recorder, profile(), [("log-level", "5")])
    session.start()
    session.told()
    follower = subprocess.Popen(["timeout", "12", "openvpn3", "log", "--config", session.name],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(3)
    session.manage("restart")
    session.wait("2,7")
    time.sleep(1)
    follower.terminate()
    output, _ = follower.communicate()
    print(output, file=sys.stderr)
    session.record["user"].append(["log lines arrive", "econnect" in output])
    return session.end()


def python_module(recorder):
    session = Session(recorder, profile())
    script = f"""
import dbus, time, openvpn3
bus = dbus.SystemBus()
configs = openvpn3.ConfigurationManager(bus)
sessions = openvpn3.SessionManager(bus)
config = [c for c in configs.FetchAvailableConfigs() if c.GetConfigName() == {session.name!r}][0]
s = sessions.NewTunnel(config)
time.sleep(1)
s.Ready()
s.Connect()
for _ in range(100):
    status = s.GetStatus()
    if status['minor'] == openvpn3.StatusMinor.CONN_CONNECTED:
        break
    time.sleep(0.1)
print(int(status['major'].value), int(status['minor'].value))
print(sorted(n for n in s.GetStatistics() if n.startswith('BYTES')))
s.Disconnect()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    print(result.stdout, result.stderr, file=sys.stderr)
    session.record["user"].append(["python module", result.stdout.split("\n")[:2]])
    return session.end()


OFFLOAD_SCRIPT = """
import dbus, json, openvpn3, subprocess, sys, time
name, wish = sys.argv[1], sys.argv[2] == "on"
bus = dbus.SystemBus()
config = [c for c in openvpn3.ConfigurationManager(bus).FetchAvailableConfigs() if c.GetConfigName() == name][0]
sessions = openvpn3.SessionManager(bus)
# The object comes when the backend has registered, which takes its time in a guest; the session
# manager has less patience with the real one. A proxy that could not introspect the object guesses
# argument types ever after, and wrongly: each attempt has its own.
for attempt in range(300):
    if attempt % 100 == 0:
        path = sessions.NewTunnel(config).GetPath()
    try:
        session = sessions.Retrieve(path)
        session.Ready()
        session.SetDCO(wish)
        break
    except dbus.exceptions.DBusException as error:
        refusal = error
        time.sleep(0.1)
else:
    sys.exit(f"dco could not be set: {refusal}")
result = {"told_before": bool(session.GetDCO())}
session.Connect()
for attempt in range(300):
    status = session.GetStatus()
    if status["minor"] == openvpn3.StatusMinor.CONN_CONNECTED:
        break
    time.sleep(0.1)
result["connected"] = status["minor"] == openvpn3.StatusMinor.CONN_CONNECTED
kinds = lambda: [l["linkinfo"]["info_kind"] for l in json.loads(subprocess.check_output(["ip", "-j", "-d", "link"]))
                 if l.get("linkinfo", {}).get("info_kind") in ("tun", "ovpn", "ovpn-dco")]
result["kind"] = ",".join(kinds())
result["told_after"] = bool(session.GetDCO())
try:
    session.SetDCO(not wish)
    result["refused_later"] = False
except dbus.exceptions.DBusException:
    result["refused_later"] = True
ping = ["ping", "-c", "3", "-i", "0.2", "-W", "2", "10.94.0.1"]
result["reachable"] = subprocess.run(ping, stdout=subprocess.DEVNULL).returncode == 0
session.Disconnect()
for attempt in range(50):
    if not kinds():
        break
    time.sleep(0.1)
result["left"] = kinds()
print(json.dumps(result))
"""


def offload(recorder):
    """`dco` switched on and off over D-Bus before Connect; in guests with a module (ci/vm)."""
    session = Session(recorder, profile())
    for wish in ("on", "off"):
        result = subprocess.run([sys.executable, "-c", OFFLOAD_SCRIPT, session.name, wish], capture_output=True,
                                text=True, timeout=180)
        print(result.stdout, result.stderr, file=sys.stderr)
        session.record["user"].append(json.loads(result.stdout))
    session.told()
    return session.record


# `session-start` gives up a session whose password was refused; programs need not.
WRONG_THEN_RIGHT_SCRIPT = """
import dbus, openvpn3, sys, time
bus = dbus.SystemBus()
config = [c for c in openvpn3.ConfigurationManager(bus).FetchAvailableConfigs() if c.GetConfigName() == sys.argv[1]][0]
session = openvpn3.SessionManager(bus).NewTunnel(config)
time.sleep(1)
for password in ("wrong", "secret"):
    answers = {"username": "plain", "password": password}
    slots = session.FetchUserInputSlots()
    print(sorted(slot.GetVariableName() for slot in slots))
    for slot in slots:
        slot.ProvideInput(answers[slot.GetVariableName()])
    session.Ready()
    session.Connect()
    ends = (openvpn3.StatusMinor.CONN_CONNECTED, openvpn3.StatusMinor.CONN_AUTH_FAILED)
    time.sleep(0.3)
    for attempt in range(100):
        status = session.GetStatus()
        if status["minor"] in ends:
            break
        time.sleep(0.1)
    print(status["minor"].name)
"""


def wrong_then_right_password(recorder):
    session = Session(recorder, profile(1196, key=None, extra=LOGIN))
    result = subprocess.run([sys.executable, "-c", WRONG_THEN_RIGHT_SCRIPT, session.name], capture_output=True,
                            text=True, timeout=90)
    print(result.stdout, result.stderr, file=sys.stderr)
    session.record["user"].append(["a wrong password, then the right one", result.stdout.split("\n")[:4]])
    reachable(session, 1196)
    return session.end()


TOKEN_SCRIPT = """
import base64, dbus, openvpn3, subprocess, sys, time
name, pin = sys.argv[1:3]
bus = dbus.SystemBus()
sessions = openvpn3.SessionManager(bus)
config = [c for c in openvpn3.ConfigurationManager(bus).FetchAvailableConfigs() if c.GetConfigName() == name][0]
session = sessions.NewTunnel(config)
time.sleep(1)
session.Ready()
session.Connect()
for _ in range(100):
    status = session.GetStatus()
    if status["minor"] == openvpn3.StatusMinor.CONN_CONNECTED:
        break
    for slot in session.FetchUserInputSlots():
        algorithm, _, digest = slot.GetLabel().split(":")
        print(slot.GetVariableName(), slot.GetTypeGroup()[1].name, algorithm)
        with open("/tmp/digest", "wb") as file:
            file.write(base64.b64decode(digest))
        subprocess.run(["pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--login", "--pin", pin,
                        "--id", "01", "--sign", "--mechanism", "ECDSA", "--input-file", "/tmp/digest",
                        "--output-file", "/tmp/signature"], check=True, stdout=subprocess.DEVNULL)
        with open("/tmp/signature", "rb") as file:
            slot.ProvideInput(base64.b64encode(file.read()).decode())
    time.sleep(0.1)
print(status["minor"].name)
"""


def token(recorder):
    """The private key is in a token (SoftHSM); the backend asks for signatures."""
    os.makedirs("/var/lib/softhsm/tokens", exist_ok=True)
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "rs", "--pin", "1234", "--so-pin", "1234"],
                   check=True, stdout=sys.stderr)
    subprocess.run(["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{HERE}/client.key", "-out", "/tmp/client.p8"],
                   check=True)
    subprocess.run(["softhsm2-util", "--import", "/tmp/client.p8", "--token", "rs", "--label", "client", "--id", "01",
                    "--pin", "1234"], check=True, stdout=sys.stderr)
    text = re.sub("<key>.*</key>", "", profile(), flags=re.S)
    session = Session(recorder, text)
    result = subprocess.run([sys.executable, "-c", TOKEN_SCRIPT, session.name, "1234"], capture_output=True, text=True,
                            timeout=60)
    print(result.stdout, result.stderr, file=sys.stderr)
    session.record["user"].append(["signed by the token", result.stdout.split("\n")])
    reachable(session)
    record = session.end()
    # What is to be signed is different each time.
    return record


def processes(*parts):
    """Numbers of the processes whose command line begins with a program of this name."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                program = file.read().split("\0")[0]
        except OSError:
            continue
        if any(part in os.path.basename(program) for part in parts):
            found.append(int(pid))
    return found


def wait_for(condition, limit=20.0):
    end = time.monotonic() + limit
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return result


BACKEND = "openvpn3-service-client"


def service_dies(recorder, program, restart=None):
    """A service is killed while connected: the session is undone, or goes on and can be ended. The
    next one starts in any case."""
    session = Session(recorder, profile(DNS_PORT))
    before = host()
    original = contents("/etc/resolv.conf")
    session.start()
    reachable(session, DNS_PORT)
    for pid in processes(program):
        os.kill(pid, signal.SIGKILL)
    if restart:
        restart()
    recorder.take()
    # A backend that nobody can command any more has the time to notice it.
    undone = wait_for(lambda: not processes(BACKEND), 8)
    if not undone and run("session-manage", "--config", session.name, "--restart")[0] == 0:
        session.wait("2,7")
        reachable(session, DNS_PORT)
        session.end()
        wait_for(lambda: not processes(BACKEND), 8)
    stray = processes(BACKEND)
    for pid in stray:
        os.kill(pid, signal.SIGKILL)
    session.record["user"] += [["undone" if undone else "goes on"], ["backends that stay", len(stray)],
                               ["left behind", [line for line in left_behind(before) if "resolv" in line or not stray]]]

    following = Session(recorder, profile(DNS_PORT))
    following.start()
    reachable(following, DNS_PORT)
    following.end()
    session.record["user"] += [["next", *entry] for entry in following.record["user"]]
    # When the signals come depends on who notices what first.
    session.record["signals"] = []
    # A service that was killed puts nothing back.
    with open("/etc/resolv.conf", "w") as file:
        file.write(original)
    return session.record


def session_manager_dies(recorder):
    return service_dies(recorder, "openvpn3-service-sessionmgr")


def log_service_dies(recorder):
    return service_dies(recorder, "openvpn3-service-log")


def netcfg_dies(recorder):
    return service_dies(recorder, "openvpn3-service-netcfg")


def netcfg_dies_unnoticed(recorder):
    """Nobody connects again before the end. What the service had made around the tunnel goes all the same."""
    subprocess.run(["ip", "route", "add", FAR_SERVER, "via", SERVER, "metric", "5"], check=True)
    try:
        session = Session(recorder, profile(1195, "tcp").replace(f"remote {SERVER}", f"remote {FAR_SERVER}"))
        before = host()
        session.start()
        for pid in processes("openvpn3-service-netcfg"):
            os.kill(pid, signal.SIGKILL)
        reachable(session, 1195)
        record = session.end()
        wait_for(lambda: not processes(BACKEND), 8)
        record["user"].append(["left behind", left_behind(before)])
        return record
    finally:
        subprocess.run(["ip", "route", "flush", "exact", FAR_SERVER], check=False)


def bus_dies(recorder):
    def restart():
        recorder.bus.kill()
        recorder.monitor.wait()
        recorder.bus.start()
        recorder.start()

    return service_dies(recorder, "dbus-daemon", restart)


DNS_PORT = 1199


def resolver():
    """Servers and search domains that programs see, in order."""
    lines = (contents("/etc/resolv.conf") or "").splitlines()
    return [line for line in lines if line.split()[:1] in (["nameserver"], ["search"])]


def dns(recorder):
    """On a host without systemd-resolved, whose resolv.conf only netcfg may write."""
    before = resolver()
    session = Session(recorder, profile(DNS_PORT))
    session.start()
    session.record["user"].append(["resolv.conf", resolver()[:2]])
    session.told()
    session.manage("restart")
    session.wait("2,7")
    session.record["user"].append(["resolv.conf after a restart", resolver()[:2]])
    reachable(session, DNS_PORT)
    record = session.end()
    record["user"].append(["as before", wait_for(lambda: resolver() == before, 5)])
    return record


CHANGING_PORT = 1200


def tunnel():
    """Addresses and routes, with the tunnel's name made independent of its number."""
    name = next(iter(device()), ("none", 0))[0]
    lines = []
    for what in (["address"], ["-4", "route", "show", "table", "all"], ["-6", "route", "show", "table", "all"]):
        output = subprocess.check_output(["ip", "-o", *what], text=True)
        lines += [re.sub(r"^\d+: ", "", line) for line in output.splitlines() if name in line.split() or "rs0" in line]
    # A link-local address of a TUN device is random.
    lines = [line.replace(name, "TUNNEL") for line in lines if "fe80:" not in line and "ff00:" not in line]
    return sorted(" ".join(re.sub(r"(expires|valid_lft|preferred_lft) \S+", "", line).split()) for line in lines)


def changed_push(recorder):
    """The second connection is given another address of the same subnet, and redirects the gateway, too:
    everything is as after a fresh start."""
    subprocess.run(["ip", "route", "add", "default", "via", SERVER], check=True)
    try:
        session = Session(recorder, profile(CHANGING_PORT))
        session.start()
        reachable(session, CHANGING_PORT)
        first = tunnel()
        session.told()
        session.manage("restart")
        session.wait("2,7")
        reachable(session, CHANGING_PORT)
        second = tunnel()
        session.record["user"].append(["another address", first != second])
        record = session.end()
        wait_for(lambda: not device(), 5)
        fresh = Session(recorder, profile(CHANGING_PORT))
        fresh.start()
        reachable(fresh, CHANGING_PORT)
        expected = tunnel()
        fresh.end()
        record["user"].append(["as after a fresh start", [f"- {line}" for line in expected if line not in second]
                               + [f"+ {line}" for line in second if line not in expected]])
        return record
    finally:
        wait_for(lambda: not device(), 5)
        subprocess.run(["ip", "route", "del", "default", "via", SERVER, "dev", "rs0"], check=False)


# Of 27.1 and later.
POSTURE = [posture, unknown_posture_profile]
SCENARIOS = [token, plain, tcp, pause, statistics, two_sessions, password, wrong_password,
             wrong_then_right_password, proxy_login, static_challenge, dynamic_challenge, crtext, crtext_wrong, open_url,
             web_auth, expired_token, passphrase, wrong_passphrase, wrong_ca, revocation_list, revoked_server,
             peer_fingerprint, unusable_profile, overrides, overrides_tunnel, legacy_cipher,
             listed_cipher, inactive, log,
             python_module, dns, changed_push, session_manager_dies, log_service_dies, netcfg_dies,
             netcfg_dies_unnoticed, bus_dies]


def contents(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def host():
    """What a session changes and has to change back."""
    lines = []
    for what in (["link"], ["address"], ["-4", "route", "show", "table", "all"],
                 ["-6", "route", "show", "table", "all"], ["rule"], ["-6", "rule"]):
        output = subprocess.check_output(["ip", "-o", *what], text=True)
        # Lifetimes run down by themselves.
        lines += [re.sub(r"(expires|valid_lft|preferred_lft) \S+", "", line).strip() for line in output.splitlines()]
    lines += [f"resolv.conf: {line}" for line in resolver()]
    return lines


def left_behind(before):
    """What differs from before, once the backend has had the time to end."""
    for attempt in range(50):
        now = host()
        difference = sorted([f"- {line}" for line in before if line not in now]
                            + [f"+ {line}" for line in now if line not in before])
        if not difference:
            break
        time.sleep(0.1)
    return difference


class Bus:
    """The system bus of this root."""

    def __init__(self):
        os.makedirs("/run/dbus", exist_ok=True)
        if os.path.exists("/run/dbus/pid"):
            os.unlink("/run/dbus/pid")
        # In a root without systemd this one can be asked for but never comes.
        for name in ("org.freedesktop.hostname1",):
            path = f"/usr/share/dbus-1/system-services/{name}.service"
            if os.path.exists(path):
                os.unlink(path)
        self.start()

    def start(self):
        self.daemon = subprocess.Popen(["dbus-daemon", "--system", "--nofork", "--nopidfile"],
                                       stdin=subprocess.DEVNULL, stdout=sys.stderr)
        time.sleep(0.5)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()


def main():
    # What `openvpn3-admin init-config` writes on a host without systemd-resolved.
    with open("/var/lib/openvpn3/netcfg.json", "w") as file:
        json.dump({"resolv_conf_file": "/etc/resolv.conf"}, file)
    bus = Bus()
    recorder = Recorder(bus)
    scenarios = SCENARIOS + (POSTURE if os.path.exists("/var/lib/openvpn3/deviceposture") else [])
    wanted = sys.argv[1:] or [s.__name__ for s in scenarios]
    records = {}
    try:
        for scenario in [*scenarios, offload]:
            if scenario.__name__ in wanted:
                print(f"=== {scenario.__name__}", file=sys.stderr)
                before = host()
                try:
                    records[scenario.__name__] = scenario(recorder)
                except Exception as error:  # one broken scenario must not hide the others
                    records[scenario.__name__] = {"signals": recorder.take(), "user": [], "figures": {}, "error": repr(error)}
                run("session-manage", "--cleanup")
                # That one looks for itself what is left, after each of its sessions.
                if scenario is not offload:
                    records[scenario.__name__]["user"].append(["left behind", left_behind(before)])
    finally:
        recorder.monitor.terminate()
        bus.daemon.terminate()
        bus.daemon.wait()
    json.dump(records, sys.stdout, indent=1)


main()
