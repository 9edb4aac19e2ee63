//! Asks pgvigil which server to read from: ureq 3 and `serde_json`. (Not run by our tests.)

/// Host and port for a read that must see what was written up to `lsn`, which is what `SELECT pg_current_wal_flush_lsn()` said on the
/// primary after the commit. `None`: read from the primary.
pub fn server_for(pgvigil: &str, cluster: &str, lsn: &str) -> Option<(String, u16)> {
    let answer: serde_json::Value = ureq::get(format!("{pgvigil}/api/v1/clusters/{cluster}/route"))
        .query("lsn", lsn)
        .query("wait", "500ms")
        .query("fallback", "primary")
        .call()
        .ok()?
        .body_mut()
        .read_json()
        .ok()?;
    Some((answer["host"].as_str()?.to_owned(), answer["port"].as_u64()?.try_into().ok()?))
}
