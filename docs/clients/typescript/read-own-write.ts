// Writes on the primary and reads it on a replica that has it: PRIMARY_URL, PGVIGIL_URL, CLUSTER in the environment.

import pg from "pg";
import { route } from "./route.js";

const { PRIMARY_URL, PGVIGIL_URL, CLUSTER, WAIT = "500ms" } = process.env as Record<string, string>;

const primary = new pg.Client({ connectionString: PRIMARY_URL });
await primary.connect();
await primary.query("CREATE TABLE IF NOT EXISTS note (id bigserial PRIMARY KEY, text text NOT NULL)");
const { rows: [written] } = await primary.query("INSERT INTO note (text) VALUES ('from TypeScript') RETURNING id");
// After the commit: all that this session wrote ends before it. With synchronous_commit = off, pg_current_wal_insert_lsn().
const { rows: [{ lsn }] } = await primary.query("SELECT pg_current_wal_flush_lsn() AS lsn");

const server = await route(PGVIGIL_URL, CLUSTER, { lsn, wait: WAIT, fallback: "primary" });
const url = new URL(PRIMARY_URL);
if (server?.host && server.port) [url.hostname, url.port] = [server.host, String(server.port)];
const reader = new pg.Client({ connectionString: url.href });
await reader.connect();
const { rows } = await reader.query("SELECT text FROM note WHERE id = $1", [written.id]);
console.log(JSON.stringify({ target: server?.target, fallback: server?.fallback, found: rows.length === 1 }));
await Promise.all([reader.end(), primary.end()]);
