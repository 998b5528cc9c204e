#!/usr/bin/python3 -I
"""A machine monitor for tests, behind Firecracker's published interface (version 1).

It refuses what that interface does not know, in any order but the published one. Its machine is a set of namespaces:
the archive is unpacked, the drives become block devices, the guest is started as the kernel would start it, with a
directory of Unix sockets in the place of the vsock. How it misbehaves, a test says in the file of the kernel.
"""

import fcntl
import http.server
import json
import os
import socketserver
import struct
import subprocess
import sys
import threading
import time

BEHAVIOUR = {}
if os.path.exists("kernel"):
    with open("kernel") as kernel:
        BEHAVIOUR = json.load(kernel)


class Refused(Exception):
    pass


# The fields of each request: name, type, and whether it must be there.
FIELDS = {
    "logger": {"level": (str, False), "log_path": (str, False), "show_level": (bool, False)},
    "machine-config": {
        "vcpu_count": (int, True),
        "mem_size_mib": (int, True),
        "smt": (bool, False),
        "track_dirty_pages": (bool, False),
    },
    "boot-source": {"kernel_image_path": (str, True), "initrd_path": (str, False), "boot_args": (str, False)},
    "drives": {
        "drive_id": (str, True),
        "path_on_host": (str, False),
        "is_root_device": (bool, True),
        "is_read_only": (bool, False),
    },
    "vsock": {"guest_cid": (int, True), "uds_path": (str, True)},
    "entropy": {},
    "actions": {"action_type": (str, True)},
    "vm": {"state": (str, True)},
}


def checked(kind, body):
    fields = FIELDS[kind]
    if not isinstance(body, dict) or set(body) - set(fields):
        raise Refused(f"{kind}: unknown fields")
    for name, (wanted, required) in fields.items():
        if name not in body:
            if required:
                raise Refused(f"{kind}: {name} is missing")
        elif type(body[name]) is not wanted:
            raise Refused(f"{kind}: {name} is of another type")
    return body


class Machine:
    def __init__(self):
        self.state = "Not started"
        self.config = {"drives": [], "network-interfaces": []}
        self.process = None
        self.devices = []

    def before_start(self):
        if self.state != "Not started":
            raise Refused("the operation is not supported after the start")

    def put(self, path, body):
        kind, _, name = path.strip("/").partition("/")
        if kind not in FIELDS or (name != "") != (kind == "drives") or kind == "vm":
            raise Refused(f"no such path: {path}")
        body = checked(kind, body)
        if kind == "actions":
            return self.action(body["action_type"])
        self.before_start()
        if kind == "drives":
            if name != body["drive_id"] or not os.access(body["path_on_host"], os.R_OK):
                raise Refused("drive")
            self.config["drives"] = [d for d in self.config["drives"] if d["drive_id"] != name] + [body]
        elif kind == "machine-config":
            if not 1 <= body["vcpu_count"] <= 32 or body["mem_size_mib"] < 1:
                raise Refused("machine-config")
            self.config[kind] = body
        elif kind == "boot-source":
            if not all(os.access(body[n], os.R_OK) for n in ("kernel_image_path", "initrd_path")):
                raise Refused("boot-source")
            self.config[kind] = body
        elif kind == "vsock":
            if body["guest_cid"] < 3:
                raise Refused("vsock")
            self.config[kind] = body

    def action(self, action):
        if action != "InstanceStart":
            raise Refused("action")
        self.before_start()
        if not {"boot-source", "machine-config", "vsock"} <= set(self.config):
            raise Refused("the machine is not complete")
        if BEHAVIOUR.get("boots", True):
            self.boot()
        self.state = "Running"

    def patch(self, path, body):
        # A busy one does not answer it in time: nothing may depend on it.
        raise Refused(f"no such path: {path}")

    def boot(self):
        arguments = self.config["boot-source"]["boot_args"].split()
        if "rdinit=/machine" not in arguments or any(a.startswith("root=") for a in arguments):
            raise Refused("boot_args")
        nodes = []
        for number, drive in enumerate(self.config["drives"]):
            descriptor, device = loop(drive["path_on_host"], drive["is_read_only"])
            # Held as long as the monitor lives: the device goes when its last user does.
            self.devices.append(descriptor)
            nodes.append(f"mknod dev/vd{chr(ord('a') + number)} b 7 {device}")
        unpack("archive", "machine.root")
        # A monitor connects by itself, with its uid. The guest does here, after it has given up its rights.
        for name in os.listdir("."):
            if name.startswith("v.sock_"):
                os.chmod(name, 0o666)
        script = "\n".join(
            [
                "set -e",
                "mkdir machine.tmp",
                "mount -t tmpfs none machine.tmp",
                "cp -a machine.root/. machine.tmp/",
                "here=$PWD",
                "cd machine.tmp",
                "mkdir vsock",
                "mount --bind $here vsock",
                "mknod dev/full c 1 7",
                *nodes,
                # Under its own name it would look for a vsock, and find that of the machine that these tests run in.
                "mv machine guest",
                "exec unshare --root=. -- /guest machine /vsock",
            ]
        )
        command = ["unshare", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--kill-child=KILL", "--"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        # What the guest prints would go to the console of a machine that has none.
        silent = subprocess.DEVNULL if not BEHAVIOUR.get("console") else None
        self.process = subprocess.Popen(
            [*command, "sh", "-c", script], env=environment, stdin=subprocess.DEVNULL, stdout=silent, stderr=silent
        )
        threading.Thread(target=self.wait, daemon=True).start()

    def wait(self):
        self.process.wait()
        # A machine that is off is the end of its monitor.
        os._exit(0)


def loop(path, read_only):
    """A block device of a file."""
    with open("/dev/loop-control") as control:
        for _ in range(100):
            number = fcntl.ioctl(control, 0x4C82)
            device = os.open(f"/dev/loop{number}", os.O_RDONLY if read_only else os.O_RDWR)
            file = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
            flags = (1 if read_only else 0) | 4
            information = struct.pack("<5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, flags, b"cogward", b"", b"", 0, 0)
            try:
                fcntl.ioctl(device, 0x4C0A, struct.pack("<II", file, 0) + information + b"\0" * 64)
                os.close(file)
                return device, number
            except OSError:
                # Another monitor was faster.
                os.close(file)
                os.close(device)
    raise Refused("there is no free loop device")


def unpack(archive, directory):
    """What the kernel does with a newc archive."""
    with open(archive, "rb") as file:
        data = file.read()
    os.makedirs(directory)
    at = 0
    while True:
        assert data[at : at + 6] == b"070701", "magic"
        field = [int(data[at + 6 + n * 8 : at + 14 + n * 8], 16) for n in range(13)]
        mode, size, major, minor, length = field[1], field[6], field[9], field[10], field[11]
        name = data[at + 110 : at + 109 + length].decode()
        content = (at + 110 + length + 3) & ~3
        at = (content + size + 3) & ~3
        if name == "TRAILER!!!":
            return
        path = os.path.join(directory, name)
        if mode & 0o170000 == 0o040000:
            os.makedirs(path)
        elif mode & 0o170000 == 0o020000:
            os.mknod(path, mode, os.makedev(major, minor))
        else:
            with open(path, "wb") as file:
                file.write(data[content : content + size])
        os.chmod(path, mode & 0o7777)


MACHINE = Machine()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass

    def answer(self, status, body=None):
        text = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        if text:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def misbehave(self):
        """Whether the request was answered as a test has asked for."""
        if BEHAVIOUR.get("at") != f"{self.command} {self.path}":
            return False
        what = BEHAVIOUR["do"]
        self.close_connection = True
        if what == "refuse":
            self.answer(400, {"fault_message": "the \x1b[31mtest\x07 refuses"})
        elif what == "garbage":
            self.wfile.write(b"\x00\xff\r\n\r\n" * 100)
        elif what == "half":
            self.wfile.write(b"HTTP/1.1 204 No Con")
        elif what == "hang":
            time.sleep(1000)
        elif what == "huge":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 1_000_000)
        elif what == "endless":
            while True:
                self.wfile.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
        elif what == "close":
            pass
        elif what == "die":
            os._exit(1)
        elif what == "json":
            self.answer(200, BEHAVIOUR["json"])
        return True

    def do(self, deed):
        if self.misbehave():
            return
        length = int(self.headers.get("Content-Length") or 0)
        try:
            deed(self.path, json.loads(self.rfile.read(length)))
            self.answer(204)
        except (Refused, ValueError) as error:
            self.answer(400, {"fault_message": str(error)})

    def do_GET(self):
        if self.misbehave():
            return
        answers = {"/version": {"firecracker_version": BEHAVIOUR.get("version", "1.16.0")}, "/vm/config": MACHINE.config}
        found = answers.get(self.path)
        self.answer(200 if found else 400, found or {"fault_message": "no such path"})

    def do_PUT(self):
        self.do(MACHINE.put)

    def do_PATCH(self):
        self.do(MACHINE.patch)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main():
    if sys.argv[1:] == ["--version"]:
        print("Firecracker v1.16.0")
        return
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    rest = [argument for argument in sys.argv[1:] if "=" not in argument]
    if set(options) != {"--id", "--start-time-us", "--start-time-cpu-us"} or rest[:1] != ["--api-sock"] or len(rest) != 2:
        print(f"firecracker of the tests: unknown arguments {sys.argv[1:]}", file=sys.stderr)
        sys.exit(1)
    if BEHAVIOUR.get("silent"):
        time.sleep(1000)
    print("x" * BEHAVIOUR.get("babble", 0), file=sys.stderr)
    with Server(rest[1], Handler) as server:
        server.serve_forever()


main()
