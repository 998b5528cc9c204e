#!/usr/bin/env bash
# Installs the cargo tools that are missing: cargo-nextest, which runs the tests, and with `--audit`
# cargo-deny, for the check of advisories before a release (docs/decisions/0007). Both are built from
# source, which takes minutes.
set -euo pipefail

install() {
  local tool=$1 version=$2
  if cargo "${tool#cargo-}" --version > /dev/null 2>&1; then
    echo "tools: $tool is there"
    return 0
  fi
  echo "tools: building $tool $version (minutes)"
  timeout 1500 cargo install --locked --quiet "$tool" --version "$version"
}

install cargo-nextest 0.9.143
if [ "${1:-}" = --audit ]; then
  # Beside the tests' tools: the newest one knows the newest advisories.
  cargo deny --version > /dev/null 2>&1 || timeout 1500 cargo install --locked --quiet cargo-deny
fi
