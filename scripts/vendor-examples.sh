#!/usr/bin/env bash
# Puts the libraries of each framework example into build/examples/NAME, for the Python that the sandbox
# has (/usr/bin/python3). A folder that already holds what its requirements.txt asks for is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for requirements in examples/*/requirements.txt; do
  name=$(basename "$(dirname "$requirements")")
  target=build/examples/$name
  stamp=$(sha256sum < "$requirements" | cut -c1-64)-$version
  if [ "$(cat "$target.stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "examples: $name is vendored"
    continue
  fi
  echo "examples: vendoring $name (a minute)"
  for attempt in 1 2 3; do
    rm -rf "$target"
    mkdir -p build/examples
    if timeout 400 python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts \
      --target "$target" --python-version "$version" --only-binary=:all: -r "$requirements" 2> "$target.log"; then
      break
    fi
    if [ "$attempt" = 3 ]; then
      echo "examples: $name cannot be vendored:" >&2
      tail -5 "$target.log" >&2
      exit 1
    fi
  done
  find "$target" -name __pycache__ -type d -prune -exec rm -rf {} +
  rm -rf "$target/bin"
  echo "$stamp" > "$target.stamp"
done
