"""What no schema can say of a request that is well formed, put right before it is sent."""

import re
from datetime import datetime, timedelta, timezone

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    # What is waited for will not come, so nobody waits for long. A wait that cannot be read is asked for all the same.
    query = case.query or {}
    if isinstance(query.get("wait"), str) and re.fullmatch(r"[0-9.]+(m?s)?", query["wait"]):
        query["wait"] = "20ms"
    # A silence ends in the future.
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("until"), str):
        try:
            ends = datetime.fromisoformat(body["until"].upper().replace("Z", "+00:00"))
        except ValueError:
            return
        if ends.tzinfo is not None:
            body["until"] = (datetime.now(timezone.utc) + timedelta(days=30)).isoformat()
