#!/bin/bash
# Run once, by the image, when the primary's data directory is new: a role for the replica with its slot, and one for pgvigil.
set -euo pipefail

psql --no-psqlrc --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set=replication_password="$REPLICATION_PASSWORD" --set=pgvigil_password="$PGVIGIL_PASSWORD" <<'SQL'
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication_password';
CREATE ROLE pgvigil LOGIN PASSWORD :'pgvigil_password';
GRANT pg_monitor TO pgvigil;
CREATE EXTENSION pg_stat_statements;
SELECT pg_create_physical_replication_slot('replica');
SQL
echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
