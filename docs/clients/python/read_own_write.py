"""Writes on the primary and reads it on a replica that has it: PRIMARY_URL, PGVIGIL_URL, CLUSTER in the environment."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request

import psycopg
from psycopg.conninfo import make_conninfo


def route(pgvigil: str, cluster: str, **wish: str) -> dict | None:
    """Which server to read from. None: no server will do, or pgvigil does not answer in time; then read from the primary."""
    url = f"{pgvigil}/api/v1/clusters/{urllib.parse.quote(cluster)}/route?{urllib.parse.urlencode(wish)}"
    try:
        # Longer than any `wait` here.
        with urllib.request.urlopen(url, timeout=35) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (400, 404):
            raise ValueError(error.read().decode()) from error
        return None
    except OSError:
        return None


def main() -> None:
    primary_url = os.environ["PRIMARY_URL"]
    with psycopg.connect(primary_url, autocommit=True) as primary:
        primary.execute("CREATE TABLE IF NOT EXISTS note (id bigserial PRIMARY KEY, text text NOT NULL)")
        row = primary.execute("INSERT INTO note (text) VALUES ('from Python') RETURNING id").fetchone()
        # After the commit. With synchronous_commit = off, pg_current_wal_insert_lsn().
        lsn = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()[0]
    wait = os.environ.get("WAIT", "500ms")
    server = route(os.environ["PGVIGIL_URL"], os.environ["CLUSTER"], lsn=lsn, wait=wait, fallback="primary") or {}
    where = {"host": server["host"], "port": server["port"]} if server.get("host") else {}
    with psycopg.connect(make_conninfo(primary_url, **where)) as reader:
        found = reader.execute("SELECT text FROM note WHERE id = %s", row).fetchone()
    print(json.dumps({"target": server.get("target"), "fallback": server.get("fallback"), "found": found is not None}))


if __name__ == "__main__":
    main()
