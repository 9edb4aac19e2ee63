"""Reads each dashboard with Grafana's own model and writes it again. What is lost on the way is not known there: misspelt, or in
the wrong place.    roundtrip.py DASHBOARD.json..."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# The plugin of Prometheus reads these of an annotation; the model knows what all annotations have.
KNOWN = ("/titleFormat", "/textFormat")


def lost(before, after, path=""):
    if isinstance(before, dict):
        for key, value in before.items():
            if not isinstance(after, dict) or key not in after:
                yield f"{path}/{key}"
            else:
                yield from lost(value, after[key], f"{path}/{key}")
    elif isinstance(before, list):
        for n, value in enumerate(before):
            yield from lost(value, after[n] if isinstance(after, list) and n < len(after) else None, f"{path}[{n}]")


found = []
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        before = json.load(file)
    after = json.loads(JSONEncoder().encode(Dashboard.from_json(before)))
    found += [f"{name}: {path}" for path in lost(before, after) if not path.endswith(KNOWN)]
print("\n".join(found))
sys.exit(bool(found))
