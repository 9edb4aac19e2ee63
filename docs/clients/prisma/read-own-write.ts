// Writes on the primary and reads it on a replica that has it: PRIMARY_URL, PGVIGIL_URL, CLUSTER in the environment.

import { close, position, primary, reader } from "./reader.js";

await primary.$executeRaw`CREATE TABLE IF NOT EXISTS note (id bigserial PRIMARY KEY, text text NOT NULL)`;
const { id } = await primary.note.create({ data: { text: "from Prisma" } });
const from = await reader(await position());
const found = await from.note.findUnique({ where: { id } });
const [{ port, fallback }] = await from.$queryRaw<{ port: number; fallback: boolean }[]>`
  SELECT inet_server_port() AS port, NOT pg_is_in_recovery() AS fallback`;
console.log(JSON.stringify({ port, fallback, found: found?.text === "from Prisma" }));
await close();
