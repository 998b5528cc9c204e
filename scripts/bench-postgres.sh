#!/usr/bin/env bash
# What PostgreSQL makes of one row an event, flushed before it is answered: a reference for `make bench`.
# A server of its own on a Unix socket in a directory of its own; nothing else is touched. Needs PostgreSQL and,
# when it is started by root, the user `postgres`.
set -euo pipefail
seconds=${1:-5}
bin=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | tail -1)
[ -x "$bin/pgbench" ] || { echo "bench-postgres: PostgreSQL is not installed" >&2; exit 2; }
dir=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
  chown postgres "$dir"
  as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi
cd "$dir"
stop() { "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate stop > /dev/null 2>&1 || true; rm -rf "$dir"; }
trap stop EXIT
"${as[@]}" "$bin/initdb" -D "$dir/data" -A trust -U bench > /dev/null
"${as[@]}" "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" \
  -o "-c listen_addresses='' -c unix_socket_directories='$dir' -c max_connections=1100 -c synchronous_commit=on" start > /dev/null
psql() { "${as[@]}" "$bin/psql" -h "$dir" -U bench -d postgres -qc "$1"; }
psql "CREATE TABLE events (id bigserial PRIMARY KEY, body bytea)"
echo "INSERT INTO events (body) VALUES (convert_to(repeat('x', 1024), 'UTF8'));" > "$dir/insert.sql"
chmod 644 "$dir/insert.sql"
for clients in 1 64 1024; do
  "${as[@]}" "$bin/pgbench" -h "$dir" -U bench -n -f "$dir/insert.sql" -c "$clients" -j 2 -T "$seconds" -l \
    --log-prefix="$dir/lat$clients" postgres > "$dir/out$clients" 2>&1
  rate=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$dir/out$clients" | head -1)
  # pgbench logs a line for each transaction; the third column is microseconds.
  cat "$dir"/lat"$clients".* | awk '{print $3}' | sort -n > "$dir/sorted"
  count=$(wc -l < "$dir/sorted")
  p50=$(sed -n "$((count / 2 + 1))p" "$dir/sorted")
  p99=$(sed -n "$((count * 99 / 100 + 1))p" "$dir/sorted")
  printf '%-34s %10.0f events/s  p50 %s us  p99 %s us\n' "PostgreSQL, a row each, $clients clients" "$rate" "$p50" "$p99"
done
