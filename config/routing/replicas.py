#!/usr/bin/env python3
"""Prints the servers to read from, for what cannot ask pgvigil itself: DNS, or a pooler's list. Run it each few seconds:

    replicas.py http://127.0.0.1:9732 orders --max-lag 5s --format hosts --name reads.orders.internal >hosts.new && mv hosts.new hosts

It exits with 1 and prints nothing when pgvigil does not answer, so that what was written last stays. With no replica in, it prints
the primary. Formats: "lines" (host:port), "hosts" (for dnsmasq's --hostsdir or CoreDNS' hosts plugin), "pgdog" ([[databases]] of
pgdog.toml), "pgcat" (servers of a shard in pgcat.toml); both poolers read their file again on RELOAD.
"""

import argparse
import json
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request


def ask(url: str, cluster: str, max_lag: str) -> dict:
    query = urllib.parse.urlencode({"max_lag": max_lag, "fallback": "primary"})
    path = f"{url}/api/v1/clusters/{urllib.parse.quote(cluster)}/route?{query}"
    try:
        with urllib.request.urlopen(path, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(error.read().decode().strip())
    except OSError as error:
        sys.exit(f"{url}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("cluster")
    parser.add_argument("--max-lag", default="5s")
    parser.add_argument("--format", choices=["lines", "hosts", "pgdog", "pgcat"], default="lines")
    parser.add_argument("--name", default="reads", help="the name in DNS, or the pooler's database")
    args = parser.parse_args()

    route = ask(args.url, args.cluster, args.max_lag)
    found = [route] if route["fallback"] else [server for server in route["candidates"] if server["in"]]
    servers = [(server["host"], server["port"], server["role"]) for server in found if server["host"]]
    if not servers:
        sys.exit("no server with one host in its configuration is in")
    if args.format == "pgcat":
        print("servers = " + json.dumps([list(server) for server in servers]))
        return
    for host, port, role in servers:
        if args.format == "hosts":
            print(socket.getaddrinfo(host, port)[0][4][0], args.name)
        elif args.format == "pgdog":
            print(f'[[databases]]\nname = "{args.name}"\nhost = "{host}"\nport = {port}\nrole = "{role}"\n')
        else:
            print(f"{host}:{port}")


if __name__ == "__main__":
    main()
