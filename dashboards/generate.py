#!/usr/bin/env python3
"""Writes the Grafana dashboards that stand beside it: what they have in common is said once, here.

    dashboards/generate.py [FOLDER]      FOLDER: where to write them; by default where it stands itself
"""

import json
import pathlib
import sys

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CLUSTER = 'cluster=~"$cluster"'
TARGET = 'cluster=~"$cluster",target=~"$target"'
NAME = "{{cluster}}/{{target}}"
WIDTH = 24

# Limits as the built-in rules have them.
LAG = [("green", None), ("orange", 5), ("red", 60)]
USED = [("green", None), ("orange", 0.8), ("red", 0.95)]
NONE_IS_GOOD = [("green", None), ("red", 1)]
SAMPLE = [("green", None), ("orange", 10), ("red", 30)]
TRANSACTION = [("green", None), ("orange", 600)]
LOCK = [("green", None), ("orange", 60)]
PLAIN = [("blue", None)]

YES_IS_GOOD = {"0": ("no", "red"), "1": ("yes", "green")}
YES_IS_BAD = {"0": ("no", "green"), "1": ("yes", "red")}


def query(expr, legend="", **more):
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, **more}


def steps(limits):
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in limits]}


def words(meanings):
    options = {value: {"text": text, "color": color, "index": n} for n, (value, (text, color)) in enumerate(meanings.items())}
    return [{"type": "value", "options": options}]


def link(title, uid, **variables):
    taken = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&var-datasource=${{datasource}}{taken}"}


TO_TARGET = link("This target", "pgvigil-target", cluster="${__field.labels.cluster}", target="${__field.labels.target}")
TO_CLUSTER = link("This cluster", "pgvigil-cluster", cluster="${__field.labels.cluster}")
ROW_TO_CLUSTER = link("This cluster", "pgvigil-cluster", cluster="${__data.fields.cluster}")
ROW_TO_TARGET = link(
    "This target", "pgvigil-target", cluster="${__data.fields.cluster}", target="${__data.fields.target}"
)


def panel(kind, title, description, queries, unit, width, height, limits=None, none=None, links=None, mappings=None, **more):
    defaults = {"unit": unit}
    if limits:
        defaults["thresholds"] = steps(limits)
    if none:
        defaults["noValue"] = none
    if links:
        defaults["links"] = links
    if mappings:
        defaults["mappings"] = words(mappings)
    defaults.update(more.pop("defaults", {}))
    targets = [{**target, "refId": chr(ord("A") + n)} for n, target in enumerate(queries)]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        **more,
    }


def stat(title, description, expr, unit="short", limits=PLAIN, none="unknown", width=4, links=None, mappings=None, legend=""):
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "wideLayout": True,
    }
    queries = [query(expr, legend, instant=True, range=False)]
    return panel("stat", title, description, queries, unit, width, 4, limits, none, links, mappings, options=options)


def graph(title, description, queries, unit="short", limits=None, width=12, height=8, links=(TO_TARGET,), stacked=False, overrides=()):
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10 if stacked else 0, "showPoints": "never", "spanNulls": False}
    if stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    if limits:
        custom["thresholdsStyle"] = {"mode": "dashed"}
    queries = [query(expr, legend) for expr, legend in queries]
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel(
        "timeseries", title, description, queries, unit, width, height, limits, None, list(links),
        defaults={"custom": custom}, overrides=list(overrides), options=options,
    )


def timeline(title, description, expr, legend, mappings, width=12, height=7, links=(TO_TARGET,)):
    options = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel(
        "state-timeline", title, description, [query(expr, legend)], "short", width, height, None, None, list(links), mappings,
        options=options,
    )


HIDDEN = {"Time": True, "__name__": True, "instance": True, "job": True}


def table(title, description, expr, columns, unit="short", none="none", value=None, width=12, height=7, links=(ROW_TO_TARGET,), limits=None, mappings=None):
    """`value`: the heading of the reading; without it the reading, which is always 1, is not shown."""
    organize = {
        "excludeByName": dict(HIDDEN) if value else {**HIDDEN, "Value": True},
        "indexByName": {name: n for n, name in enumerate([*columns, *(["Value"] if value else [])])},
        "renameByName": {"Value": value} if value else {},
    }
    queries = [query(expr, "", instant=True, range=False, format="table")]
    options = {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}
    return panel(
        "table", title, description, queries, unit, width, height, limits, none, list(links), mappings,
        options=options, transformations=[{"id": "organize", "options": organize}],
    )


def fleet_table(title, description, columns, height=9):
    """One row for each cluster; each column a query by cluster, with its unit and limits."""
    targets, overrides, names = [], [], {}
    for n, (heading, expr, unit, limits) in enumerate(columns):
        letter = chr(ord("A") + n)
        targets.append(query(expr, "", instant=True, range=False, format="table"))
        names[f"Value #{letter}"] = heading
        cell = {"type": "color-text"}
        properties = [{"id": "unit", "value": unit}, {"id": "thresholds", "value": steps(limits)}, {"id": "custom.cellOptions", "value": cell}]
        overrides.append({"matcher": {"id": "byName", "options": heading}, "properties": properties})
    organize = {"excludeByName": {"Time": True}, "indexByName": {"cluster": 0}, "renameByName": names}
    transformations = [{"id": "joinByField", "options": {"byField": "cluster", "mode": "outer"}}, {"id": "organize", "options": organize}]
    # The time of each query would be a column of its own.
    organize["excludeByName"].update({f"Time {n}": True for n in range(1, len(columns) + 1)})
    return panel(
        "table", title, description, targets, "short", WIDTH, height, None, "unknown", [ROW_TO_CLUSTER],
        overrides=overrides, options={"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}, transformations=transformations,
    )


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": WIDTH, "h": 1}}


def placed(panels):
    """Numbers the panels and puts them side by side, as many in a row as fit."""
    x = y = height = 0
    for number, it in enumerate(panels, 1):
        place = it["gridPos"]
        if x + place["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        it["id"] = number
        it["gridPos"] = {"x": x, "y": y, "w": place["w"], "h": place["h"]}
        x, height = x + place["w"], max(height, place["h"])
    return panels


def variable(name, label, values, multi):
    text = {"query": values, "refId": name}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": text,
        "refresh": 2,
        "sort": 1,
        "multi": multi,
        "includeAll": multi,
        **({"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}} if multi else {}),
    }


CLUSTERS = "label_values(pgvigil_cluster_targets, cluster)"
TARGETS = 'label_values(pgvigil_target_up{cluster=~"$cluster"}, target)'


def dashboard(uid, title, description, panels, cluster=None, target=None):
    """`cluster`, `target`: whether there is a variable, and whether it takes several."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    variables = [source]
    if cluster:
        variables.append(variable("cluster", "Cluster", CLUSTERS, cluster == "many"))
    if target:
        variables.append(variable("target", "Target", TARGETS, target == "many"))
    others = {
        "type": "dashboards", "title": "pgvigil", "tags": ["pgvigil"], "asDropdown": False, "includeVars": True, "keepTime": True,
        "targetBlank": False, "icon": "external link", "tooltip": "", "url": "",
    }
    scope = CLUSTER if cluster else ""
    firing = f'pgvigil_alert{{{scope}{"," if scope else ""}state="firing"}}'
    annotation = {
        "name": "Alerts firing", "datasource": DATASOURCE, "enable": True, "iconColor": "red", "expr": firing,
        "titleFormat": "{{rule}}", "textFormat": "{{severity}} {{cluster}}/{{target}}",
    }
    return {
        "title": title, "uid": uid, "description": description, "tags": ["postgresql", "replication", "pgvigil"],
        "schemaVersion": 39, "version": 1, "editable": True, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser", "graphTooltip": 1, "links": [others], "templating": {"list": variables},
        "annotations": {"list": [annotation]}, "panels": placed(panels),
    }


def rate(series, by, selector=TARGET):
    return f"sum by ({by}) (rate({series}{{{selector}}}[$__rate_interval]))"


# What several of them show.

def bounds(title, width=WIDTH):
    dashed = lambda name: {
        "matcher": {"id": "byRegexp", "options": f".* {name}"},
        "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [4, 6]}}],
    }
    return graph(
        title,
        "Age of the oldest WAL that the primary has flushed and the replica has not replayed. Dashed: the proven bounds; where there is no upper line there is no upper bound.",
        [
            (f"pgvigil_replay_lag_seconds{{{TARGET}}}", NAME),
            (f"pgvigil_replay_lag_lower_seconds{{{TARGET}}}", NAME + " at least"),
            (f"pgvigil_replay_lag_upper_seconds{{{TARGET}}} < Inf", NAME + " at most"),
        ],
        "s", LAG, width, 9, overrides=[dashed("at least"), dashed("at most")],
    )


def causes(width=12):
    return timeline(
        "Cause of lag", "Why each replica lags: the cause to act on first. Empty while none lags. The documentation says what each means and what helps.",
        f"pgvigil_replication_cause{{{TARGET}}}", NAME + " {{cause}}", {"1": ("this", "red")}, width,
    )


def directions(width=12):
    return timeline(
        "Direction", "Where the WAL between the primary and each replica goes: it falls behind, holds, or catches up.",
        f"pgvigil_lag_direction{{{TARGET}}}", NAME + " {{direction}}", {"1": ("so", "blue")}, width,
    )


def stages(width=12):
    return graph(
        "Where the WAL waits", "WAL that each stage still has before it: not sent by the upstream, not received, not flushed, not replayed. The first stage that is high is where to look.",
        [
            (f"pgvigil_send_lag_bytes{{{TARGET}}}", NAME + " not sent"),
            (f"pgvigil_receive_lag_bytes{{{TARGET}}}", NAME + " not received"),
            (f"pgvigil_flush_lag_bytes{{{TARGET}}}", NAME + " not flushed"),
            (f"pgvigil_replay_lag_bytes{{{TARGET}}}", NAME + " not replayed"),
        ],
        "bytes", width=width,
    )


def wal_rates(width=12):
    return graph(
        "WAL rates", "WAL that the primary writes, and that each replica receives and replays, averaged over 15 seconds.",
        [
            (f"pgvigil_wal_write_bytes_per_second{{{TARGET}}}", NAME + " written"),
            (f"pgvigil_wal_receive_bytes_per_second{{{TARGET}}}", NAME + " received"),
            (f"pgvigil_wal_replay_bytes_per_second{{{TARGET}}}", NAME + " replayed"),
        ],
        "Bps", width=width,
    )


def connections(width=8):
    by = lambda what, label, text: graph(
        f"Connections by {what}", f"Client sessions of the {text} that have most; the rest as one.",
        [(f"sum by (cluster, target, {label}) (pgvigil_connections_by_{text_of[what]}{{{TARGET}}})", NAME + " {{" + label + "}}")],
        width=width, height=7, stacked=True,
    )
    text_of = {"user": "user", "application": "application", "client address": "client", "database": "database"}
    return [
        graph("Connections used", "Client sessions as a share of those that ordinary roles may use.", [(f"pgvigil_connections_used_ratio{{{TARGET}}}", NAME)], "percentunit", USED, width, 7),
        graph("Connections by state", "Client sessions by state; unknown where the role may not see the state.", [(f"sum by (state) (pgvigil_connections{{{TARGET}}})", "{{state}}")], width=width, height=7, links=(), stacked=True),
        by("database", "datname", "databases"),
        by("user", "usename", "users"),
        by("application", "application_name", "applications"),
        by("client address", "client_addr", "addresses"),
    ]


def sessions(width=8):
    return [
        graph("Idle in transaction", "How long the session that has been idle in its transaction for longest has been so. It holds locks, and keeps dead rows from being removed. The alert and the API say whose it is.", [(f"pgvigil_idle_in_transaction_oldest_seconds{{{TARGET}}}", NAME)], "s", TRANSACTION, width, 7),
        graph("Waits for locks", "How long the session that waits longest for a lock has waited, and how many wait.", [(f"pgvigil_lock_wait_longest_seconds{{{TARGET}}}", NAME + " longest"), (f"pgvigil_connections_waiting_on_locks{{{TARGET}}}", NAME + " sessions")], "s", LOCK, width, 7, overrides=[{"matcher": {"id": "byRegexp", "options": ".* sessions"}, "properties": [{"id": "unit", "value": "short"}, {"id": "custom.axisPlacement", "value": "right"}]}]),
        graph("Oldest transaction", "Age of the oldest transaction of a client session.", [(f"pgvigil_transaction_oldest_seconds{{{TARGET}}}", NAME)], "s", None, width, 7),
    ]


def slots(width=8):
    return [
        graph("WAL kept for slots", "WAL that a server keeps for each replication slot.", [(f"pgvigil_slot_retained_bytes{{{TARGET}}}", NAME + " {{slot}}")], "bytes", None, width, 7),
        graph("WAL kept for slots that nothing reads from", "It grows until the disk is full, or the slot is dropped or invalidated.", [(f"pgvigil_slot_inactive_retained_bytes{{{TARGET}}}", NAME + " {{slot}}")], "bytes", [("green", None), ("orange", 1 << 30)], width, 7),
        graph("Slots: time until lost", "When a slot loses WAL that its reader needs, should WAL go on being made as of late. Absent without a limit (max_slot_wal_keep_size); an endless time is not drawn.", [(f"pgvigil_slot_lost_in_seconds{{{TARGET}}} < Inf", NAME + " {{slot}}")], "s", [("red", None), ("orange", 3600), ("green", 86400)], width, 7),
        table("Slots that can be used no more", "Slots that were invalidated, and why: what reads from them must be rebuilt, and the slot dropped.", f"pgvigil_slot_invalidated{{{TARGET}}}", ["cluster", "target", "slot", "reason"], width=width),
        table("Slots", "What each slot is.", f"pgvigil_slot_info{{{TARGET}}}", ["cluster", "target", "slot", "slot_type", "datname", "plugin"], width=16),
    ]


def subscriptions(width=8):
    name = NAME + " {{datname}} {{subscription}}"
    return [
        graph("Subscription lag", "Age of what the publisher had flushed and the subscriber has not confirmed; where both are watched.", [(f"pgvigil_subscription_lag_seconds{{{TARGET}}}", name)], "s", [("green", None), ("orange", 300)], width, 7),
        timeline("Subscriptions that run", "Whether the apply worker of an enabled subscription runs. One that fails is started again every few seconds.", f"pgvigil_subscription_running{{{TARGET}}}", name, YES_IS_GOOD, width),
        graph("Subscription errors", "Errors of applying and of copying, per second.", [(f"rate(pgvigil_subscription_errors_total{{{TARGET}}}[$__rate_interval])", name + " {{type}}")], "cps", None, width, 7),
    ]


def poolers(width=8):
    return [
        graph("Pooler: clients", "Clients of each pool, by what they do: those that wait have no server connection.", [(f"pgvigil_pooler_clients{{{CLUSTER}}}", NAME + " {{database}}/{{user}} {{state}}")], "short", None, width, 7, ()),
        graph("Pooler: longest wait", "How long the first client of each pool's queue has waited for a server connection.", [(f"pgvigil_pooler_longest_wait_seconds{{{CLUSTER}}}", NAME + " {{database}}/{{user}}")], "s", [("green", None), ("red", 5)], width, 7, ()),
        graph("Pooler: pool used", "Server connections that are linked to a client, as a share of the pool's size.", [(f"pgvigil_pooler_pool_used_ratio{{{CLUSTER}}}", NAME + " {{database}}/{{user}}")], "percentunit", USED, width, 7, ()),
        timeline("Poolers that answer", "Whether each connection pooler answered the last poll.", f"pgvigil_pooler_up{{{CLUSTER}}}", NAME, YES_IS_GOOD, width, links=()),
        graph("Pooler: queries", "Queries a second that each pooler passes on.", [(rate("pgvigil_pooler_queries_total", "cluster, target, database", CLUSTER), NAME + " {{database}}")], "reqps", None, width, 7, ()),
        graph("Pooler: time waited", "Seconds that clients wait for a server connection, each second, all together.", [(rate("pgvigil_pooler_client_wait_seconds_total", "cluster, target, database", CLUSTER), NAME + " {{database}}")], "s", None, width, 7, ()),
    ]


def alert_table(width=12, height=8):
    return table("Alerts", "Alerts that are pending or firing.", f"pgvigil_alert{{{CLUSTER}}}", ["state", "severity", "rule", "cluster", "target"], width=width, height=height)


def fleet():
    by = lambda series, how="max": f"{how} by (cluster) ({series}{{{CLUSTER}}})"
    return dashboard(
        "pgvigil-fleet", "pgvigil: fleet", "All clusters at one glance: what is down, what lags, what fires.",
        [
            stat("Targets down", "Targets whose last poll failed.", f"sum(pgvigil_cluster_targets{{{CLUSTER}}}) - sum(pgvigil_cluster_targets_up{{{CLUSTER}}})", limits=NONE_IS_GOOD),
            stat("Clusters without one primary", "Clusters with no primary, or with several.", f"count(pgvigil_primaries{{{CLUSTER}}} != 1) or vector(0)", limits=NONE_IS_GOOD),
            stat("Worst replay lag", "The largest replay lag of any replica. Those that are not known are not in it: see the next.", f"max(pgvigil_replay_lag_seconds{{{CLUSTER}}})", "s", LAG),
            stat("Lag unknown or unproven", "Replicas whose lag is not exact: bounded from one side only, or not known at all.", f"sum(pgvigil_replay_lag_info{{{CLUSTER},certainty!=\"exact\"}}) or vector(0)", limits=NONE_IS_GOOD),
            stat("Alerts firing", "Alerts that fire now.", f"count(pgvigil_alert{{{CLUSTER},state=\"firing\"}}) or vector(0)", limits=NONE_IS_GOOD, links=[link("Alerts", "pgvigil-alerts")]),
            stat("Oldest sample", "Age of the oldest answer: what is shown is as old as this.", f"max(pgvigil_observation_age_seconds{{{CLUSTER}}})", "s", SAMPLE),
            fleet_table(
                "Clusters", "Each cluster by its worst. A click leads to the cluster.",
                [
                    ("targets", by("pgvigil_cluster_targets"), "short", PLAIN),
                    ("down", f"max by (cluster) (pgvigil_cluster_targets{{{CLUSTER}}} - pgvigil_cluster_targets_up{{{CLUSTER}}})", "short", NONE_IS_GOOD),
                    ("primaries", by("pgvigil_primaries"), "short", [("red", None), ("green", 1), ("red", 2)]),
                    ("replay lag", by("pgvigil_replay_lag_seconds"), "s", LAG),
                    ("WAL not replayed", by("pgvigil_replay_lag_bytes"), "bytes", PLAIN),
                    ("WAL written", by("pgvigil_wal_write_bytes_per_second", "sum"), "Bps", PLAIN),
                    ("connections used", by("pgvigil_connections_used_ratio"), "percentunit", USED),
                    ("kept for slots", by("pgvigil_slot_retained_bytes"), "bytes", PLAIN),
                    ("alerts firing", f"sum by (cluster) (pgvigil_alert{{{CLUSTER},state=\"firing\"}}) or 0 * max by (cluster) (pgvigil_cluster_targets{{{CLUSTER}}})", "short", NONE_IS_GOOD),
                ],
            ),
            graph("Replay lag by cluster", "The largest replay lag in each cluster.", [(by("pgvigil_replay_lag_seconds"), "{{cluster}}")], "s", LAG, links=(TO_CLUSTER,)),
            graph("WAL written by cluster", "WAL that the primary of each cluster writes.", [(by("pgvigil_wal_write_bytes_per_second", "sum"), "{{cluster}}")], "Bps", links=(TO_CLUSTER,)),
            graph("Connections used by cluster", "The highest share of connections in use of any server in each cluster.", [(by("pgvigil_connections_used_ratio"), "{{cluster}}")], "percentunit", USED, links=(TO_CLUSTER,)),
            graph("Alerts firing by cluster", "Alerts that fire, by severity.", [(f"count by (cluster, severity) (pgvigil_alert{{{CLUSTER},state=\"firing\"}})", "{{cluster}} {{severity}}")], links=(TO_CLUSTER,), stacked=True),
            row("Servers"),
            table("Targets", "What each target is by its own word.", f"pgvigil_target_info{{{CLUSTER}}}", ["cluster", "target", "role", "server_version", "flavor", "tls", "pooled"], none="none answers"),
            table("What is not measured", "Grants and extensions that are missing; the check command prints the SQL that helps.", f"pgvigil_missing{{{CLUSTER}}}", ["cluster", "target", "what"], none="nothing is missing"),
            row("The monitor itself"),
            graph("Polls", "Polls a second, by outcome.", [("sum by (outcome) (rate(pgvigil_polls_total[$__rate_interval])) > 0", "{{outcome}}")], "ops", None, 8, 7, ()),
            graph("Time a poll takes", "Median and 99th percentile over all targets.", [(f"histogram_quantile({q}, sum by (le) (rate(pgvigil_poll_duration_seconds_bucket[$__rate_interval])))", f"p{q * 100:g}") for q in (0.5, 0.99)], "s", None, 8, 7, ()),
            graph("Slow polls", "Slow polls (connections, slots, statements) a second, by outcome.", [("sum by (outcome) (rate(pgvigil_surveys_total[$__rate_interval])) > 0", "{{outcome}}")], "ops", None, 8, 7, ()),
            graph("Memory", "Resident memory of pgvigil.", [("process_resident_memory_bytes and on (instance, job) pgvigil_build_info", "{{instance}}")], "bytes", None, 8, 7, ()),
            graph("CPU", "Seconds of CPU time that pgvigil uses each second.", [("rate(process_cpu_seconds_total[$__rate_interval]) and on (instance, job) pgvigil_build_info", "{{instance}}")], "percentunit", None, 8, 7, ()),
            table("Version", "The versions of pgvigil that are scraped.", "pgvigil_build_info", ["version"], none="none is scraped", width=8, links=()),
        ],
        cluster="many",
    )


def cluster():
    return dashboard(
        "pgvigil-cluster", "pgvigil: cluster", "How far each replica of a cluster lags, how sure that is, and what stands in the way.",
        [
            stat("Targets down", "Targets whose last poll failed.", f"sum(pgvigil_cluster_targets{{{CLUSTER}}}) - sum(pgvigil_cluster_targets_up{{{CLUSTER}}})", limits=NONE_IS_GOOD),
            stat("Primaries", "Targets that say they are a primary. Anything but 1 needs a look.", f"max(pgvigil_primaries{{{CLUSTER}}})", limits=[("red", None), ("green", 1), ("red", 2)]),
            stat("Worst replay lag", "The largest replay lag of any replica chosen. Unknown lags are not in it: see certainty.", f"max(pgvigil_replay_lag_seconds{{{TARGET}}})", "s", LAG),
            stat("Lag unknown or unproven", "Replicas whose lag is not exact: bounded from one side only, or not known at all.", f"sum(pgvigil_replay_lag_info{{{TARGET},certainty!=\"exact\"}}) or vector(0)", limits=NONE_IS_GOOD),
            stat("Oldest sample", "Age of the oldest answer: what is shown is as old as this.", f"max(pgvigil_observation_age_seconds{{{TARGET}}})", "s", SAMPLE),
            stat("Alerts firing", "Alerts that fire now.", f"count(pgvigil_alert{{{CLUSTER},state=\"firing\"}}) or vector(0)", limits=NONE_IS_GOOD, links=[link("Alerts", "pgvigil-alerts", cluster="$cluster")]),
            alert_table(),
            table("How sure each lag is", "Certainty and method of each replica's lag. exact: both bounds are close; at_least: the primary is not heard, or the history is young; at_most: only an upper bound is proven; unknown: no value.", f"pgvigil_replay_lag_info{{{TARGET}}}", ["cluster", "target", "certainty", "method"], none="no replica", height=8),
            row("Lag"),
            bounds("Replay lag"),
            graph("WAL not yet replayed", "WAL that the primary has flushed and the replica has not replayed.", [(f"pgvigil_replay_lag_bytes{{{TARGET}}}", NAME)], "bytes"),
            stages(),
            graph("PostgreSQL's own measurements", "write, flush and replay lag as the replica's upstream last measured them (pg_stat_replication). They stand still between replies and vanish when the replica is cut off, or caught up and idle.", [(f"pgvigil_sender_{stage}_lag_seconds{{{TARGET}}}", f"{NAME} {stage}") for stage in ("write", "flush", "replay")], "s"),
            wal_rates(),
            row("Why a replica lags"),
            causes(),
            directions(),
            graph("Time until caught up", "At the present rate; absent while a replica does not catch up.", [(f"pgvigil_catch_up_seconds{{{TARGET}}}", NAME)], "s", None, 8, 7),
            graph("Replay stands for", "Time for which replay has not moved though there is WAL to replay.", [(f"pgvigil_replay_stalled_seconds{{{TARGET}}}", NAME)], "s", None, 8, 7),
            graph("Replay is blocked for", "Age of the transaction on the replica that replay waits for; 0 when it waits for none.", [(f"pgvigil_replay_blocked_seconds{{{TARGET}}}", NAME)], "s", None, 8, 7),
            row("Who follows whom"),
            table("Servers", "What each target is by its own word.", f"pgvigil_target_info{{{TARGET}}}", ["cluster", "target", "role", "server_version", "flavor", "tls", "pooled"], none="none answers"),
            table("Upstreams", "Where each replica gets its WAL from, seen from both sides.", f"pgvigil_upstream_info{{{TARGET}}}", ["cluster", "target", "kind", "upstream"], none="no replica"),
            timeline("Standbys that nobody serves", "Whether no server has a WAL sender for the replica.", f"pgvigil_standby_missing{{{TARGET}}}", NAME, {"0": ("served", "green"), "1": ("missing", "red")}, 8),
            graph("Synchronous standbys", "Standbys that confirm commits, those that commits wait for, and how many are missing: above 0 commits hang.", [(f"pgvigil_sync_standbys{{{TARGET}}}", NAME + " there"), (f"pgvigil_sync_standbys_required{{{TARGET}}}", NAME + " required"), (f"pgvigil_sync_standbys_missing{{{TARGET}}}", NAME + " missing")], "short", None, 8, 7),
            graph("Timeline", "The timeline of each server: a step is a promotion, a difference is a server left behind.", [(f"pgvigil_timeline{{{TARGET}}}", NAME)], "short", None, 8, 7),
            timeline("Role", "What each target has been: a change is a failover or a switchover.", f"pgvigil_target_info{{{TARGET}}}", NAME + " {{role}}", {"1": ("so", "blue")}, 8),
            graph("Undeclared standbys", "Standbys that stream from a server and are no target of the cluster.", [(f"pgvigil_undeclared_standbys{{{TARGET}}}", NAME)], "short", NONE_IS_GOOD, 8, 7),
            timeline("Up", "Whether the last poll of each target succeeded.", f"pgvigil_target_up{{{TARGET}}}", NAME, YES_IS_GOOD, 8),
            row("Slots"),
            *slots(),
            row("Connections"),
            *connections(),
            *sessions(),
            row("Logical replication"),
            *subscriptions(),
            row("Connection poolers"),
            *poolers(),
        ],
        cluster="one", target="many",
    )


def target():
    return dashboard(
        "pgvigil-target", "pgvigil: target", "One server: what it is, how far it lags and why, who streams from it, who is connected.",
        [
            stat("Answers", "Whether the last poll succeeded.", f"pgvigil_target_up{{{TARGET}}}", mappings=YES_IS_GOOD, limits=[("red", None), ("green", 1)]),
            stat("Role", "By its own word.", f"pgvigil_target_info{{{TARGET}}}", legend="{{role}} {{server_version}}", mappings={"1": ("is", "blue")}),
            stat("Replay lag", "Absent on a primary, and while it is not known.", f"pgvigil_replay_lag_seconds{{{TARGET}}}", "s", LAG, "none, or unknown"),
            stat("Sample", "Age of the last answer: what is shown is as old as this.", f"pgvigil_observation_age_seconds{{{TARGET}}}", "s", SAMPLE),
            stat("Connections used", "Client sessions as a share of those that ordinary roles may use.", f"pgvigil_connections_used_ratio{{{TARGET}}}", "percentunit", USED),
            stat("Started", "How long ago the server started.", f"time() - pgvigil_server_start_time_seconds{{{TARGET}}}", "s"),
            table("Alerts", "Alerts about this target that are pending or firing.", f"pgvigil_alert{{{TARGET}}}", ["state", "severity", "rule", "cluster", "target"], links=()),
            table("What is not measured", "Grants and extensions that are missing; the check command prints the SQL that helps.", f"pgvigil_missing{{{TARGET}}}", ["cluster", "target", "what"], none="nothing is missing", width=6, links=()),
            table("Slow poll", "What the last slow poll asked about in vain, and why.", f"pgvigil_survey_failure{{{TARGET}}}", ["cluster", "target", "topic", "reason"], none="all was answered", width=6, links=()),
            row("As a replica"),
            bounds("Replay lag", 12),
            stages(),
            causes(8),
            directions(8),
            wal_rates(8),
            timeline("WAL receiver", "Whether a WAL receiver runs on the replica.", f"pgvigil_receiver_running{{{TARGET}}}", NAME, YES_IS_GOOD, 8, links=()),
            timeline("Replay paused", "Whether replay is paused, or a pause is requested.", f"pgvigil_replay_paused{{{TARGET}}}", NAME, YES_IS_BAD, 8, links=()),
            graph("Queries that replay has ended", "Queries on the replica that replay has ended rather than wait for them, per second.", [(f"rate(pgvigil_recovery_conflicts_total{{{TARGET}}}[$__rate_interval])", NAME + " {{type}}")], "cps", None, 8, 7, ()),
            graph("Last message of the upstream", "Age of the last message from the upstream; an idle stream is silent for up to half of wal_receiver_timeout.", [(f"pgvigil_receiver_message_age_seconds{{{TARGET}}}", NAME)], "s", None, 8, 7, ()),
            table("Receives from", "What the WAL receiver does, and whom it receives from.", f"pgvigil_receiver_info{{{TARGET}}}", ["cluster", "target", "status", "sender_host", "sender_port", "slot"], none="no WAL receiver", width=8, links=()),
            graph("Clocks", "How far the server's clock is ahead of pgvigil's; behind below 0.", [(f"pgvigil_clock_skew_seconds{{{TARGET}}}", NAME)], "s", None, 8, 7, ()),
            row("Who streams from it"),
            table("WAL senders", "To whom it sends, and in which state.", f"pgvigil_wal_sender_info{{{TARGET}}}", ["cluster", "target", "application_name", "client_addr", "slot", "state", "sync_state"], none="nobody", links=()),
            graph("WAL not replayed, by standby", "WAL of this server that each standby has not replayed.", [(f"pgvigil_wal_sender_unreplayed_bytes{{{TARGET}}}", "{{application_name}} {{client_addr}} {{slot}}")], "bytes", None, 12, 7, ()),
            row("Slots"),
            *slots(),
            row("Connections"),
            *connections(),
            *sessions(),
            row("Logical replication"),
            *subscriptions(),
        ],
        cluster="one", target="one",
    )


def statements():
    one = "{{datname}} {{queryid}}"
    top = lambda series, by="cluster, target, datname, queryid": f"topk(15, {rate(series, by)})"
    share = lambda part: f"sum by (datname) (rate(pgvigil_statements_shared_blocks_{part}_total{{{TARGET}}}[$__rate_interval]))"
    return dashboard(
        "pgvigil-statements", "pgvigil: statements", "What statements cost, from pg_stat_statements: by database, and the ones that take the most time by queryid. Their texts are in pgvigil's API alone, and there only where that is wanted.",
        [
            graph("Execution time by database", "Seconds of execution a second: 1 is one session busy all the time.", [(rate("pgvigil_statements_exec_seconds_total", "cluster, target, datname"), NAME + " {{datname}}")], "s", stacked=True),
            graph("Statements that take the most time", "Seconds of execution a second, by queryid; other is all that are not told one by one.", [(top("pgvigil_statement_exec_seconds_total"), NAME + " " + one)], "s"),
            graph("Mean time", "Mean execution time of the statements that take the most time, between the last two slow polls.", [(f"pgvigil_statement_mean_seconds{{{TARGET}}}", NAME + " " + one)], "s", [("green", None), ("orange", 1)]),
            graph("Calls by database", "Executions a second.", [(rate("pgvigil_statements_calls_total", "cluster, target, datname"), NAME + " {{datname}}")], "ops", stacked=True),
            graph("Calls of the statements that take the most time", "Executions a second, by queryid.", [(top("pgvigil_statement_calls_total"), NAME + " " + one)], "ops"),
            graph("Rows of the statements that take the most time", "Rows a second that they return or change.", [(top("pgvigil_statement_rows_total"), NAME + " " + one)], "rowsps"),
            graph("Found in the cache", "Share of shared blocks that statements found in the cache, by database.", [(f"{share('hit')} / ({share('hit')} + {share('read')} > 0)", "{{datname}}")], "percentunit", links=()),
            graph("Blocks read", "Shared blocks a second that the statements that take the most time read from outside the cache.", [(top("pgvigil_statement_shared_blocks_read_total"), NAME + " " + one)], "ops"),
            graph("Blocks dirtied and written", "Shared blocks a second that the database's statements dirtied, and wrote themselves.", [(rate("pgvigil_statements_shared_blocks_dirtied_total", "cluster, target, datname"), NAME + " {{datname}} dirtied"), (rate("pgvigil_statements_shared_blocks_written_total", "cluster, target, datname"), NAME + " {{datname}} written")], "ops"),
            graph("Temporary blocks", "Temporary blocks a second: sorts and hashes that did not fit into work_mem.", [(rate("pgvigil_statements_temp_blocks_read_total", "cluster, target, datname"), NAME + " {{datname}} read"), (rate("pgvigil_statements_temp_blocks_written_total", "cluster, target, datname"), NAME + " {{datname}} written")], "ops"),
            graph("Evictions", "Entries a second that the server evicted from pg_stat_statements to make room: what is counted then has gaps.", [(rate("pgvigil_statements_evictions_total", "cluster, target"), NAME)], "cps", None, 12, 7),
            graph("Resets", "Times that entries were seen to start again.", [(f"pgvigil_statements_resets_total{{{TARGET}}}", NAME)], "short", None, 12, 7),
        ],
        cluster="one", target="many",
    )


def alerts():
    state = {"1": ("so", "red")}
    return dashboard(
        "pgvigil-alerts", "pgvigil: alerts", "What fires and has fired, what is silenced, and whether those who should hear of it do.",
        [
            *[stat(f"Firing: {severity}", f"Alerts of severity {severity} that fire now.", f'count(pgvigil_alert{{{CLUSTER},state="firing",severity="{severity}"}}) or vector(0)', limits=[("green", None), (color, 1)]) for severity, color in (("critical", "red"), ("warning", "orange"), ("info", "blue"))],
            stat("Pending", "Alerts whose condition holds, though not yet for long enough.", f'count(pgvigil_alert{{{CLUSTER},state="pending"}}) or vector(0)', limits=[("green", None), ("yellow", 1)]),
            stat("Muted", "Firing alerts of which nobody is told now.", f"sum(pgvigil_alerts_muted{{{CLUSTER}}}) or vector(0)", limits=[("green", None), ("purple", 1)]),
            stat("Silences", "Silences that are active.", 'sum(pgvigil_silences{state="active"})', limits=[("green", None), ("purple", 1)]),
            alert_table(WIDTH, 10),
            timeline("When alerts fired", "Each alert for as long as it fired.", f'pgvigil_alert{{{CLUSTER},state="firing"}}', "{{rule}} " + NAME, state, WIDTH, 10),
            graph("Firing, by rule", "How many alerts of each rule fire.", [(f'count by (rule, severity) (pgvigil_alert{{{CLUSTER},state="firing"}})', "{{rule}} {{severity}}")], links=(), stacked=True),
            graph("Firing, by cluster", "How many alerts of each cluster fire.", [(f'count by (cluster) (pgvigil_alert{{{CLUSTER},state="firing"}})', "{{cluster}}")], links=(TO_CLUSTER,), stacked=True),
            row("Who is told"),
            graph("Notifications", "Attempts to tell a notifier, by outcome: ok, transient or unclear (tried again), or permanent (someone must act).", [("sum by (notifier, outcome) (increase(pgvigil_notifications_total[$__rate_interval])) > 0", "{{notifier}} {{outcome}}")], links=(), width=8, height=7),
            graph("Muted, by reason", "Firing alerts of which nobody is told, by the reason.", [(f"sum by (cluster, reason) (pgvigil_alerts_muted{{{CLUSTER}}})", "{{cluster}} {{reason}}")], links=(), width=8, height=7, stacked=True),
            timeline("Maintenance", "Windows of maintenance while they are open.", "pgvigil_maintenance_open", "{{window}}", {"0": ("no", "green"), "1": ("open", "purple")}, 8, links=()),
            graph("Heartbeats", "Beats of the dead man's switch a second, by outcome.", [("sum by (outcome) (rate(pgvigil_heartbeats_total[$__rate_interval]))", "{{outcome}}")], "cps", None, 12, 7, ()),
            graph("Store", "Writes a second of what must outlive a restart, by outcome: one that failed would be told again, or forgotten.", [("sum by (outcome) (rate(pgvigil_store_writes_total[$__rate_interval]))", "{{outcome}}")], "cps", None, 12, 7, ()),
        ],
        cluster="many",
    )


def aws():
    of_target = lambda title, description, series, unit, limits=None, width=8: graph(title, description, [(f"pgvigil_{series}{{{TARGET}}}", NAME)], unit, limits, width, 7)
    of_node = lambda title, description, series, unit, limits=None: graph(title, description, [(f"pgvigil_redis_{series}{{{CLUSTER}}}", "{{redis}}/{{node}}")], unit, limits, 8, 7, ())
    lags = [
        (f"pgvigil_replay_lag_seconds{{{TARGET}}}", NAME + " by pgvigil"),
        (f"pgvigil_rds_replica_lag_seconds{{{TARGET}}}", NAME + " by RDS"),
        (f"pgvigil_aurora_reported_lag_seconds{{{TARGET}}}", NAME + " by Aurora"),
    ]
    theirs = f"(pgvigil_rds_replica_lag_seconds{{{TARGET}}} or pgvigil_aurora_reported_lag_seconds{{{TARGET}}})"
    return dashboard(
        "pgvigil-aws", "pgvigil: AWS", "What AWS says of instances of RDS and Aurora and of nodes of ElastiCache, beside what their servers say themselves. CloudWatch is minutes late; what is too old to be told as true is absent.",
        [
            stat("Not available", "Instances that AWS does not have as available.", f"count(pgvigil_rds_available{{{TARGET}}} == 0) or vector(0)", limits=NONE_IS_GOOD),
            stat("Replication not normal", "Read replicas whose replication AWS does not find normal.", f"count(pgvigil_rds_replication_normal{{{TARGET}}} == 0) or vector(0)", limits=NONE_IS_GOOD),
            stat("Least free storage", "Of all instances.", f"min(pgvigil_storage_free_bytes{{{TARGET}}})", "bytes", [("red", None), ("orange", 5 << 30), ("green", 10 << 30)]),
            stat("Next certificate expires", "When the first server certificate of an instance expires.", f"min(pgvigil_rds_certificate_expires_seconds{{{TARGET}}})", "s", [("red", None), ("orange", 7 * 86400), ("green", 30 * 86400)]),
            stat("Oldest datapoint", "Age of the oldest point of CloudWatch that is shown.", f"max(pgvigil_cloudwatch_datapoint_age_seconds{{{TARGET}}})", "s", [("green", None), ("orange", 300)]),
            stat("Discovery", "Whether AWS last said in full what there is; where servers are discovered.", "min(pgvigil_discovery_up)", mappings=YES_IS_GOOD, limits=[("red", None), ("green", 1)], none="not asked"),
            row("Replica lag: AWS's word and ours"),
            graph("Replica lag", "The lag by pgvigil, and what CloudWatch says of it: ReplicaLag of RDS counts the time since the last commit and so grows while nothing is written; AuroraReplicaLag is an average of a minute. The API says why they differ.", lags, "s", LAG, 12, 9),
            graph("Disagreement", "How much more AWS says than pgvigil; below 0 it says less, which hides a lag.", [(f"{theirs} - on (cluster, target) group_left () pgvigil_replay_lag_seconds{{{TARGET}}}", NAME)], "s", None, 12, 9),
            row("Instances"),
            of_target("CPU", "CPUUtilization.", "cpu_utilization_ratio", "percentunit", USED),
            of_target("Storage that is free", "FreeStorageSpace.", "storage_free_bytes", "bytes"),
            of_target("Memory that can be freed", "FreeableMemory.", "memory_freeable_bytes", "bytes"),
            of_target("Connections, by CloudWatch", "DatabaseConnections.", "database_connections", "short"),
            graph("Latency of the disk", "ReadLatency and WriteLatency: the mean of a read and of a write.", [(f"pgvigil_read_latency_seconds{{{TARGET}}}", NAME + " read"), (f"pgvigil_write_latency_seconds{{{TARGET}}}", NAME + " write")], "s", None, 8, 7),
            of_target("Requests that wait for the disk", "DiskQueueDepth.", "disk_queue_depth", "short"),
            graph("Credits that are left", "BurstBalance, and EBSByteBalance% of small instances: at 0 the disk is throttled.", [(f"pgvigil_burst_balance_ratio{{{TARGET}}}", NAME + " burst"), (f"pgvigil_ebs_byte_balance_ratio{{{TARGET}}}", NAME + " EBS bytes")], "percentunit", [("red", None), ("orange", 0.1), ("green", 0.3)], 8, 7),
            of_target("CPU credits", "CPUCreditBalance of burstable instances: at 0 the CPU is throttled.", "cpu_credit_balance", "short"),
            graph("WAL on disk", "TransactionLogsDiskUsage, ReplicationSlotDiskUsage, and OldestReplicationSlotLag.", [(f"pgvigil_transaction_logs_disk_bytes{{{TARGET}}}", NAME + " WAL"), (f"pgvigil_replication_slots_disk_bytes{{{TARGET}}}", NAME + " kept for slots"), (f"pgvigil_replication_slot_oldest_lag_bytes{{{TARGET}}}", NAME + " oldest slot")], "bytes", None, 8, 7),
            graph("Age of CloudWatch's points", "How long ago the period ended that the newest point of each metric is of.", [(f"max by (cluster, target) (pgvigil_cloudwatch_datapoint_age_seconds{{{TARGET}}})", NAME)], "s", None, 8, 7),
            row("What RDS says"),
            timeline("Status", "Each instance's status, by AWS's word.", f"pgvigil_rds_status{{{TARGET}}}", NAME + " {{status}}", {"1": ("so", "blue")}, 12),
            timeline("Replication, by RDS", "Whether AWS finds each read replica's replication normal.", f"pgvigil_rds_replication_normal{{{TARGET}}}", NAME, YES_IS_GOOD, 12),
            graph("Storage", "Storage that each instance has, and up to which it grows by itself.", [(f"pgvigil_rds_allocated_storage_bytes{{{TARGET}}}", NAME), (f"pgvigil_rds_max_storage_bytes{{{TARGET}}}", NAME + " at most")], "bytes", None, 8, 7),
            table("Pending maintenance", "What maintenance is to change.", f"pgvigil_rds_pending_maintenance{{{TARGET}}}", ["cluster", "target", "action"], width=8),
            table("Events", "What RDS reported within the last 15 minutes.", f"pgvigil_rds_event{{{CLUSTER}}}", ["cluster", "source", "category"], width=8, links=(ROW_TO_CLUSTER,)),
            row("Redis and Valkey"),
            of_node("CPU of nodes", "CPUUtilization.", "cpu_utilization_ratio", "percentunit", USED),
            of_node("CPU of the engine", "EngineCPUUtilization: of the one thread that executes commands.", "engine_cpu_utilization_ratio", "percentunit", USED),
            of_node("Memory used", "DatabaseMemoryUsagePercentage.", "memory_used_ratio", "percentunit", USED),
            of_node("Clients", "CurrConnections.", "connections", "short"),
            of_node("Evictions", "Keys that were evicted within five minutes.", "evictions_in_5m", "short", NONE_IS_GOOD),
            of_node("Found in the cache", "CacheHitRate.", "hit_ratio", "percentunit"),
            of_node("Replication lag of nodes", "ReplicationLag: of replicas alone.", "replication_lag_seconds", "s"),
            row("What AWS is asked"),
            graph("Requests to AWS", "Requests a second by API and outcome, retries included.", [("sum by (api, outcome) (rate(pgvigil_aws_requests_total[$__rate_interval]))", "{{api}} {{outcome}}")], "reqps", None, 8, 7, ()),
            graph("Metrics asked for", "Metrics an hour that GetMetricData is billed by.", [("3600 * sum(rate(pgvigil_aws_metrics_requested_total[$__rate_interval]))", "metrics an hour")], "short", None, 8, 7, ()),
        ],
        cluster="many", target="many",
    )


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for it in (fleet(), cluster(), target(), statements(), alerts(), aws()):
        (folder / f"{it['uid']}.json").write_text(json.dumps(it, indent=1, ensure_ascii=False) + "\n")


main()
