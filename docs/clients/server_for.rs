//! Asks pgvigil which server to read from: ureq 3 and `serde_json`.

use std::time::Duration;

/// Host and port for a read that must see what was written up to `lsn`, which is what `SELECT pg_current_wal_flush_lsn()` said on the
/// primary after the commit. It may take as long as `wait` says, for example `500ms`. `None`: read from the primary.
pub fn server_for(pgvigil: &str, cluster: &str, lsn: &str, wait: &str) -> Option<(String, u16)> {
    let mut answer = ureq::get(format!("{pgvigil}/api/v1/clusters/{cluster}/route"))
        .query("lsn", lsn)
        .query("wait", wait)
        .query("fallback", "primary")
        .config()
        // Longer than any `wait` here.
        .timeout_global(Some(Duration::from_secs(35)))
        .build()
        .call()
        .ok()?;
    let route: serde_json::Value = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()?;
    Some((route["host"].as_str()?.to_owned(), route["port"].as_u64()?.try_into().ok()?))
}
