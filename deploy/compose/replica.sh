#!/bin/bash
# Copies the primary the first time, then follows it by its slot.
set -euo pipefail
export PGPASSWORD=$REPLICATION_PASSWORD

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  install --directory --owner=postgres --group=postgres --mode=0700 "$PGDATA"
  gosu postgres pg_basebackup --pgdata="$PGDATA" --write-recovery-conf --slot=replica --checkpoint=fast \
    --dbname="host=$PRIMARY user=replicator application_name=replica"
fi
exec gosu postgres postgres -cshared_preload_libraries=pg_stat_statements -ccluster_name=replica
