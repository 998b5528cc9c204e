#!/usr/bin/python3 -I
"""A jailer for tests: takes the published command line, and nothing else, and checks what it is given.

It does not change its uid and stays outside of the jail, because the monitor of the tests (firecracker.py) makes
namespaces in the place of a machine. It looks instead at whether the uid could use what is in the jail.
"""

import json
import os
import re
import shutil
import stat
import sys


def refuse(why):
    print(f"jailer of the tests: {why}", file=sys.stderr)
    sys.exit(1)


def behaviour(arguments):
    """The tests say in the file of the kernel how the monitor behaves."""
    base = arguments["--chroot-base-dir"][0]
    root = os.path.join(base, os.path.basename(arguments["--exec-file"][0]), arguments["--id"][0], "root")
    with open(os.path.join(root, "kernel")) as kernel:
        return root, json.load(kernel)


def parse(argv):
    known = {"--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--resource-limit"}
    found, rest = {}, []
    while argv:
        name = argv.pop(0)
        if name == "--":
            rest = argv
            break
        if name not in known or not argv:
            refuse(f"unknown option {name}")
        found.setdefault(name, []).append(argv.pop(0))
    if set(found) != known or any(len(v) != 1 for k, v in found.items() if k != "--resource-limit"):
        refuse("options are missing or given twice")
    return found, rest


def check(arguments, root):
    uid, gid = int(arguments["--uid"][0]), int(arguments["--gid"][0])
    if not re.fullmatch("[A-Za-z0-9-]{1,64}", arguments["--id"][0]):
        refuse("the id is not one")
    if "firecracker" not in os.path.basename(arguments["--exec-file"][0]):
        refuse("the monitor's name")
    if uid < 65536 or uid != gid:
        refuse("the uid is not one of the run's own")
    limits = dict(limit.split("=") for limit in arguments["--resource-limit"])
    if set(limits) != {"fsize", "no-file"}:
        refuse("resource limits")
    if os.environ.keys() - {"LC_CTYPE"}:
        refuse(f"the environment is not empty: {sorted(os.environ)}")
    # The one beyond the standard streams is the directory that is being read.
    if len(os.listdir("/proc/self/fd")) > 4:
        refuse(f"descriptors are open: {os.listdir('/proc/self/fd')}")
    if os.getppid() != 1:
        refuse("it is not in a namespace of its own")
    if os.listdir("/sys/class/net") and [line for line in open("/proc/net/dev") if ":" in line and "lo:" not in line]:
        refuse("there is a network")
    for name in sorted(os.listdir(root)):
        found = os.lstat(os.path.join(root, name))
        own, mode = found.st_uid == uid and found.st_gid == gid, stat.S_IMODE(found.st_mode)
        if name == "work.ext4":
            usable = own and mode == 0o600 and found.st_size <= int(limits["fsize"]) and found.st_nlink == 1
        elif name.startswith("v.sock_"):
            usable = own and mode == 0o600 and stat.S_ISSOCK(found.st_mode)
        elif name == "archive":
            usable = own and mode == 0o600
        else:
            # Shared with other runs: readable, and not the monitor's to write to.
            usable = found.st_uid == 0 and mode == 0o444
        if not usable:
            refuse(f"{name} has mode {mode:o} and uid {found.st_uid}")


def main():
    if sys.argv[1:] == ["--version"]:
        print("Jailer v1.16.0")
        return
    arguments, rest = parse(sys.argv[1:])
    root, wanted = behaviour(arguments)
    if wanted.get("jailer") == "fails":
        refuse("it was told to fail")
    if wanted.get("jailer") == "hangs":
        import time

        time.sleep(1000)
    check(arguments, root)
    program = os.path.basename(arguments["--exec-file"][0])
    shutil.copy(arguments["--exec-file"][0], os.path.join(root, program))
    os.chown(root, int(arguments["--uid"][0]), int(arguments["--gid"][0]))
    os.chdir(root)
    identity = f"--id={arguments['--id'][0]}"
    os.execve(f"./{program}", [f"./{program}", identity, "--start-time-us=1", "--start-time-cpu-us=1", *rest], {})


main()
