// Asks pgvigil which server to read from. Needs nothing but fetch.

export interface Route {
  status: "ok" | "none";
  target: string | null;
  host: string | null;
  port: number | null;
  timeline: number | null;
  /** It is not what was asked for, but what may be answered in its place. */
  fallback: boolean;
  reasons: string[];
}

/** The parameters, as the README lists them: lsn, timeline, max_lag, wait, fallback, ... */
export type Wish = Record<string, string | number>;

/** `null`: no server will do, or pgvigil does not answer in time. Then read from the primary. */
export async function route(pgvigil: string, cluster: string, wish: Wish): Promise<Route | null> {
  const query = new URLSearchParams(Object.entries(wish).map(([key, value]) => [key, String(value)]));
  const url = `${pgvigil}/api/v1/clusters/${encodeURIComponent(cluster)}/route?${query}`;
  try {
    // Longer than any `wait` here.
    const answer = await fetch(url, { signal: AbortSignal.timeout(35_000) });
    if (answer.status === 400 || answer.status === 404) throw new TypeError(await answer.text());
    return answer.ok ? ((await answer.json()) as Route) : null;
  } catch (error) {
    if (error instanceof TypeError && error.cause === undefined) throw error;
    return null;
  }
}
