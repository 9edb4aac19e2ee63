#!/usr/bin/env python3
"""Draws the dashboards that stand beside it as SVG, with what a Prometheus answers to their queries: their places, titles, series,
limits and units. It is a drawing and no Grafana, which has its own way to show them.

    dashboards/draw.py PROMETHEUS FOLDER [SECONDS]     for example http://127.0.0.1:9090 docs/src/images 300
"""

import html
import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

COLUMN, ROW, GAP = 50, 32, 6
POINTS = 60
PALETTE = ["#2f6fb3", "#c05a1e", "#3a8a46", "#8d4fa8", "#b08a00", "#218c8c", "#b33a5e", "#6b6b6b"]
NAMED = {"green": "#3a8a46", "orange": "#c97a12", "red": "#c0392b", "blue": "#2f6fb3", "purple": "#8d4fa8", "yellow": "#b08a00"}
# What a person would choose at the top.
CHOSEN = {"pgvigil-cluster": {"cluster": "c"}, "pgvigil-target": {"cluster": "c", "target": "r1"}}


def ask(base, path, **parameters):
    with urllib.request.urlopen(f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
        return json.load(answer)["data"]["result"]


def told(value, unit):
    if math.isinf(value):
        return "∞"
    if unit in ("bytes", "Bps"):
        for size, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.1f} {name}" + ("/s" if unit == "Bps" else "")
        return f"{value:.0f} B" + ("/s" if unit == "Bps" else "")
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.3g} ms" if value else "0 s"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.3e}"


def name_of(legend, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), legend).strip() or "value"


def text(x, y, words, size=11, color="#333", anchor="start", weight="normal", width=None):
    if width and len(words) * size * 0.56 > width:
        words = words[: max(1, int(width / (size * 0.56)) - 1)] + "…"
    look = f' font-size="{size}"' + (f' fill="{color}"' if color != "#333" else "")
    look += f' text-anchor="{anchor}"' if anchor != "start" else ""
    look += f' font-weight="{weight}"' if weight != "normal" else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{look}>{html.escape(words)}</text>'


def limited(value, limits):
    color = "blue"
    for step in limits:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return NAMED.get(color, color)


def meaning(value, mappings):
    for mapping in mappings:
        found = mapping["options"].get(f"{value:g}")
        if found:
            return found["text"], NAMED.get(found["color"], found["color"])
    return None


class Panel:
    def __init__(self, panel, prometheus, chosen, now, seconds):
        self.panel, self.now, self.seconds = panel, now, seconds
        place = panel["gridPos"]
        self.x, self.y = place["x"] * COLUMN + GAP, place["y"] * ROW + GAP
        self.width, self.height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        self.defaults = panel.get("fieldConfig", {}).get("defaults", {})
        self.unit = self.defaults.get("unit", "short")
        self.limits = self.defaults.get("thresholds", {}).get("steps", [])
        self.mappings = self.defaults.get("mappings", [])
        self.series, self.answers = [], []
        for target in panel.get("targets", []):
            expr = target["expr"].replace("$__rate_interval", "15s")
            for variable in ("cluster", "target"):
                expr = expr.replace(f"${variable}", chosen.get(variable, ".*"))
            if target.get("instant"):
                self.answers.append([(found["metric"], float(found["value"][1])) for found in ask(prometheus, "query", query=expr, time=now)])
                continue
            step = max(1, seconds // POINTS)
            for found in ask(prometheus, "query_range", query=expr, start=now - seconds, end=now, step=step):
                values = [(float(at), float(value)) for at, value in found["values"]]
                self.series.append((name_of(target["legendFormat"], found["metric"]), values, step))

    def frame(self):
        title = text(self.x + 8, self.y + 16, self.panel["title"], 12, weight="600", width=self.width - 16)
        return f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="3" fill="#fff" stroke="#d5d8dc"/>' + title

    def draw(self):
        if self.panel["type"] == "row":
            return text(self.x, self.y + 18, self.panel["title"], 14, weight="600")
        return self.frame() + {"stat": self.stat, "timeseries": self.lines, "state-timeline": self.states, "table": self.table}[self.panel["type"]]()

    def nothing(self):
        words = self.defaults.get("noValue", "No data")
        return text(self.x + self.width / 2, self.y + self.height / 2 + 8, words, 12, "#777", "middle")

    def stat(self):
        answers = self.answers[0]
        if not answers:
            return self.nothing()
        labels, value = answers[0]
        known = meaning(value, self.mappings)
        words, color = known if known else (told(value, self.unit), limited(value, self.limits))
        legend = self.panel["targets"][0]["legendFormat"]
        words = name_of(legend, labels) if legend else words
        middle, below = self.x + self.width / 2, self.y + self.height / 2 + 18
        box = f'<rect x="{self.x + 1}" y="{self.y + 24}" width="{self.width - 2}" height="{self.height - 25}" fill="{color}"/>'
        return box + text(middle, below, words, 22, "#fff", "middle", "600", self.width - 10)

    def lines(self):
        series = [(name, [(at, value) for at, value in values if math.isfinite(value)], step) for name, values, step in self.series]
        series = [it for it in series if it[1]]
        if not series:
            return self.nothing()
        rows = min(3, len(series))
        left, top = self.x + 62, self.y + 28
        width, height = self.width - 72, self.height - 28 - 20 - 15 * rows
        stacked = "stacking" in self.defaults.get("custom", {})
        if stacked:
            below, added = {}, []
            for name, values, step in series:
                added.append((name, [(at, below.setdefault(at, 0.0) + value) for at, value in values], step))
                below.update(added[-1][1])
            series = added
        values = [value for _, points, _ in series for _, value in points]
        low, high = min(0.0, *values), max(values)
        high = high if high > low else low + 1
        place = lambda at, value: (left + (at - self.now + self.seconds) / self.seconds * width, top + (high - value) / (high - low) * height)
        parts = []
        for part in (0, 0.5, 1):
            y = top + part * height
            parts.append(f'<path d="M{left} {y:.0f}h{width}" stroke="#e6e8eb"/>')
            parts.append(text(left - 6, y + 4, told(high - part * (high - low), self.unit), 10, "#666", "end"))
        if "thresholdsStyle" in self.defaults.get("custom", {}):
            for step in self.limits:
                if step["value"] is not None and low <= step["value"] <= high:
                    y = place(0, step["value"])[1]
                    parts.append(f'<path d="M{left} {y:.0f}h{width}" stroke="{NAMED.get(step["color"], "#999")}" stroke-dasharray="5 4"/>')
        for number, (name, points, step) in enumerate(series):
            path, before = "", None
            for at, value in points:
                x, y = place(at, value)
                # What was not known is a gap.
                path += f'{"L" if before and at - before <= step * 1.5 else "M"}{x:.0f} {y:.0f}'
                before = at
            dash = ' stroke-dasharray="4 4"' if re.search(r" at (least|most)$", name) else ""
            parts.append(f'<path d="{path}h1" fill="none" stroke="{PALETTE[number % len(PALETTE)]}" stroke-width="1.5"{dash}/>')
        for part, words in ((0, f"-{told(self.seconds, 's')}"), (1, "now")):
            parts.append(text(left + part * width, top + height + 14, words, 10, "#666", "end" if part else "start"))
        for number, (name, points, _) in enumerate(series[:rows]):
            more = f" and {len(series) - rows} more" if number == rows - 1 and len(series) > rows else ""
            y = top + height + 28 + 15 * number
            parts.append(f'<path d="M{left} {y - 4:.0f}h14" stroke="{PALETTE[number % len(PALETTE)]}" stroke-width="3"/>')
            parts.append(text(left + 20, y, f"{name}{more}", 10, "#444", width=width - 90))
            parts.append(text(left + width, y, told(points[-1][1], self.unit), 10, "#444", "end"))
        return "".join(parts)

    def states(self):
        if not self.series:
            return self.nothing()
        room = int((self.height - 34) / 18)
        left, width = self.x + 8 + self.width * 0.42, self.width * 0.56 - 8
        parts = []
        for number, (name, values, step) in enumerate(self.series[:room]):
            y = self.y + 30 + number * 18
            parts.append(text(self.x + 8, y + 11, name, 10, "#444", width=self.width * 0.4))
            spans = []
            for at, value in values:
                if spans and spans[-1][2] == value and at - spans[-1][1] <= step * 1.5:
                    spans[-1][1] = at
                else:
                    spans.append([at, at, value])
            for since, until, value in spans:
                x = left + (since - self.now + self.seconds) / self.seconds * width
                color = (meaning(value, self.mappings) or ("", "#999"))[1]
                length = max(2, min((until - since + step) / self.seconds * width, left + width - x))
                parts.append(f'<rect x="{x:.0f}" y="{y}" width="{length:.0f}" height="14" fill="{color}"/>')
        if len(self.series) > room:
            parts.append(text(self.x + self.width - 8, self.y + 16, f"and {len(self.series) - room} more", 10, "#777", "end"))
        return "".join(parts)

    def table(self):
        by_cluster = len(self.answers) > 1
        if by_cluster:
            heads = ["cluster"] + [override["matcher"]["options"] for override in self.panel["fieldConfig"]["overrides"]]
            rules = [{it["id"]: it["value"] for it in override["properties"]} for override in self.panel["fieldConfig"]["overrides"]]
            rows = {}
            for number, answers in enumerate(self.answers):
                for labels, value in answers:
                    rows.setdefault(labels.get("cluster", ""), {})[number] = value
            cells = []
            for cluster, found in sorted(rows.items()):
                cell = lambda n: (told(found[n], rules[n]["unit"]), limited(found[n], rules[n]["thresholds"]["steps"])) if n in found else ("", "#777")
                cells.append([(cluster, "#333")] + [cell(n) for n in range(len(self.answers))])
        else:
            organize = self.panel["transformations"][0]["options"]
            heads = [organize["renameByName"].get(head, head) for head in organize["indexByName"]]
            cells = [
                [(told(value, self.unit) if head == "Value" else labels.get(head, ""), "#333") for head in organize["indexByName"]]
                for labels, value in self.answers[0]
            ]
        if not cells:
            return self.nothing()
        room = int((self.height - 46) / 18)
        each = (self.width - 16) / len(heads)
        parts = [text(self.x + 8 + n * each, self.y + 34, head, 10, "#777", width=each - 6) for n, head in enumerate(heads)]
        for number, cell in enumerate(cells[:room]):
            y = self.y + 52 + number * 18
            parts += [text(self.x + 8 + n * each, y, words, 10.5, color, width=each - 6) for n, (words, color) in enumerate(cell)]
        if len(cells) > room:
            parts.append(text(self.x + self.width - 8, self.y + 16, f"and {len(cells) - room} more", 10, "#777", "end"))
        return "".join(parts)


def main():
    prometheus, folder = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2])
    seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    now = int(time.time())
    for file in sorted(pathlib.Path(__file__).parent.glob("pgvigil-*.json")):
        dashboard = json.loads(file.read_text())
        chosen = CHOSEN.get(dashboard["uid"], {})
        panels = [Panel(panel, prometheus, chosen, now, seconds) for panel in dashboard["panels"]]
        width, bottom = 24 * COLUMN + GAP, max(panel.y + panel.height for panel in panels)
        foot = "Drawn by dashboards/draw.py from a Prometheus that scraped real servers; Grafana shows it in its own way."
        body = "".join(panel.draw() for panel in panels) + text(GAP, bottom + 20, foot, 11, "#777")
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 30}" font-family="sans-serif" fill="#333">'
        back = f'<rect width="{width}" height="{bottom + 30}" fill="#f4f5f7"/>'
        (folder / f"{dashboard['uid']}.svg").write_text(f"{head}<title>{html.escape(dashboard['title'])}</title>{back}{body}</svg>\n")


main()
