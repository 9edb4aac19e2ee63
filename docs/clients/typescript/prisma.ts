// With Prisma: one client a server, and the one that pgvigil names for each read. (Not run by our tests; route.ts is.)

import { PrismaClient } from "@prisma/client";
import { route } from "./route.js";

const primary = new PrismaClient();
const clients = new Map<string, PrismaClient>();

/** A client for reads that may be a second old; after a write, pass the position that `position` gave. */
export async function reader(lsn?: string): Promise<PrismaClient> {
  const wish = lsn ? { lsn, wait: "500ms", fallback: "primary" } : { max_lag: "1s", fallback: "primary" };
  const server = await route(process.env.PGVIGIL_URL!, "orders", wish);
  if (!server?.host || server.fallback) return primary;
  const url = new URL(process.env.DATABASE_URL!);
  [url.hostname, url.port] = [server.host, String(server.port)];
  let client = clients.get(url.host);
  if (!client) clients.set(url.host, (client = new PrismaClient({ datasourceUrl: url.href })));
  return client;
}

/** Where the write-ahead log stands after a commit of this application. */
export async function position(): Promise<string> {
  const [row] = await primary.$queryRaw<{ lsn: string }[]>`SELECT pg_current_wal_flush_lsn()::text AS lsn`;
  return row.lsn;
}
