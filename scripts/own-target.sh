#!/usr/bin/env bash
# Clones share one target directory, so that dependencies are built once. Cargo tells the workspace's own
# crates of two clones apart only by the times of their files: a clone could run what was built from another.
# So the clone that builds next throws away what another one built of the workspace, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:?set by the Makefile}
mkdir -p "$target"
exec 9> "$target/.clone.lock"
flock 9
if [ "$(cat "$target/.clone" 2> /dev/null || true)" != "$PWD" ]; then
  if [ -d "$target/debug" ] || [ -d "$target/release" ]; then
    echo "build: $target was last used by another clone; the workspace is built anew"
    cargo clean --quiet --workspace --profile dev
    cargo clean --quiet --workspace --profile release
  fi
  echo "$PWD" > "$target/.clone"
fi
