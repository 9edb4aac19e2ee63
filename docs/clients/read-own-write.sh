#!/bin/sh
# Writes on the primary and reads it on a replica that has it: PRIMARY_URL (without host= in its query), PGVIGIL_URL, CLUSTER in
# the environment; psql and curl.
set -eu

psql "$PRIMARY_URL" -XAtqc "CREATE TABLE IF NOT EXISTS note (id bigserial PRIMARY KEY, text text NOT NULL)" 2>/dev/null
id=$(psql "$PRIMARY_URL" -XAtqc "INSERT INTO note (text) VALUES ('from a shell') RETURNING id")
lsn=$(psql "$PRIMARY_URL" -XAtqc "SELECT pg_current_wal_flush_lsn()")

# One line: host:port. None, or pgvigil is silent: the primary.
server=$(curl -sf -m 35 -H 'accept: text/plain' \
  "$PGVIGIL_URL/api/v1/clusters/$CLUSTER/route?lsn=$lsn&wait=${WAIT:-500ms}&fallback=primary") || server=
url=$PRIMARY_URL
[ -z "$server" ] || url=$(printf '%s' "$PRIMARY_URL" | sed "s,@[^/]*/,@$server/,")
printf '%s %s\n' "${server:-primary}" "$(psql "$url" -XAtqc "SELECT text FROM note WHERE id = $id")"
