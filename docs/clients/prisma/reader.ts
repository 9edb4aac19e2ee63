// With Prisma 7: one client a server, and the one that pgvigil names for each read. route.ts is ../typescript/route.ts.

import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.js";
import { type Wish, route } from "./route.js";

const { PRIMARY_URL, PGVIGIL_URL, CLUSTER, WAIT = "500ms" } = process.env as Record<string, string>;

const client = (url: URL) => new PrismaClient({ adapter: new PrismaPg({ connectionString: url.href }) });

export const primary = client(new URL(PRIMARY_URL));
const replicas = new Map<string, PrismaClient>();

/** A client for reads that may be a second old; after a write, pass the position that `position` gave. */
export async function reader(lsn?: string): Promise<PrismaClient> {
  const wish: Wish = lsn ? { lsn, wait: WAIT, fallback: "primary" } : { max_lag: "1s", fallback: "primary" };
  const server = await route(PGVIGIL_URL, CLUSTER, wish);
  if (!server?.host || server.fallback) return primary;
  const url = new URL(PRIMARY_URL);
  [url.hostname, url.port] = [server.host, String(server.port)];
  const known = replicas.get(url.host);
  if (known) return known;
  const replica = client(url);
  replicas.set(url.host, replica);
  return replica;
}

/** Where the write-ahead log stands after a commit of this application. */
export async function position(): Promise<string> {
  const [row] = await primary.$queryRaw<{ lsn: string }[]>`SELECT pg_current_wal_flush_lsn()::text AS lsn`;
  return row.lsn;
}

export async function close(): Promise<void> {
  await Promise.all([primary, ...replicas.values()].map((client) => client.$disconnect()));
}
