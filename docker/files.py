"""What no linter knows about the files in docker/: `python3 docker/files.py`, at the top of the repository.

Prints every fault, and ends with 1 if there is one. With `--expressions FILE`, writes the dashboard's queries as rules, for promtool.
"""

import argparse
import ipaddress
import json
import pathlib
import re
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent
TABLE = TOP / "crates/obol-relay/src/metrics.rs"
faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def load_yaml(path):
    return yaml.safe_load(path.read_text())


# ---- metrics: the table in the source, and everything that names one


def constants(source):
    """Label sets and lists of label values that the table names: CLASS, LIMITS, ..."""
    lists = {
        name: set(re.findall(r'"(\w+)"', values))
        for name, values in re.findall(r"const (\w+): &\[&str\] = &\[(.*?)\];", source, re.S)
    }
    labels = {
        name: (label, set(re.findall(r'"(\w+)"', values)))
        for name, label, values in re.findall(r'const (\w+): \(&str, &\[&str\]\) = \("(\w+)", &\[(.*?)\]\);', source)
    }
    return lists, labels


def table():
    """Metric → its labels, each with the values that it can have; and metric → its kind."""
    source = TABLE.read_text()
    lists, labels = constants(source)
    body = re.search(r"^table! \{\n(.*?)^\}", source, re.M | re.S)[1]
    found, kinds = {}, {}
    for name, kind, of_it in re.findall(r'"(obol_\w+)" (Counter|Gauge)\s+\[(.*?)\]\s+"[^"]*\.";', body, re.S):
        kinds[name], found[name] = kind, {}
        for short in re.findall(r"\b([A-Z]+)\b(?![^(]*\))", of_it):
            label, values = labels[short]
            found[name][label] = values
        for label, values in re.findall(r'\("(\w+)", (&\[[^\]]*\]|[A-Z]+)\)', of_it):
            found[name][label] = lists.get(values) or set(re.findall(r'"(\w+)"', values))
    rows = len(re.findall(r'"obol_\w+" (?:Counter|Gauge)', body))
    if rows != len(found) or rows < 40:
        sys.exit(f"files.py: {TABLE} has {rows} metrics, and {len(found)} were understood: its form has changed")
    return found, kinds


# Labels that Prometheus adds to whatever it reads.
FROM_PROMETHEUS = {"instance", "job", "relay"}
OF_PROMETHEUS = {"up"}


def check_expression(where, expr, metrics, kinds):
    names = set()
    for name, selector in re.findall(r"\b(up|obol_[a-z0-9_]+)\b(?:\{([^}]*)\})?", expr):
        if name in OF_PROMETHEUS:
            continue
        names.add(name)
        if name not in metrics:
            fault(where, f"there is no metric {name}")
            continue
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector or ""):
            if label in FROM_PROMETHEUS:
                continue
            if label not in metrics[name]:
                fault(where, f"{name} has no label {label}")
            elif operator in ("=", "!=") and value not in metrics[name][label]:
                fault(where, f"{name} has no series with {label}={value!r}")
    for function, name in re.findall(r"\b(rate|increase|irate|deriv|delta)\(\s*(obol_\w+)", expr):
        counter = kinds.get(name) == "Counter"
        if name in kinds and counter != (function in ("rate", "increase", "irate")):
            fault(where, f"{function}() of {name}, which is a {kinds[name].lower()}")
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expr) for label in group.split(",")}
    known = FROM_PROMETHEUS | {label for name in names for label in metrics.get(name, {})}
    for label in grouped - known:
        fault(where, f"groups by {label}, which none of its metrics has")
    return names


def check_alerts(metrics, kinds):
    rules = HERE / "prometheus/alerts.yml"
    tests = load_yaml(HERE / "prometheus/alerts.test.yml")["tests"]
    silent = {t["alertname"] for test in tests for t in test.get("alert_rule_test", []) if not t["exp_alerts"]}
    firing = set()
    for test in tests:
        for query in test.get("promql_expr_test", []):
            for sample in query["exp_samples"]:
                firing.update(re.findall(r'alertname="(\w+)"', sample["labels"]))
        for series in test["input_series"]:
            check_expression("alerts.test.yml", series["series"], metrics, kinds)
    alerts = [rule for group in load_yaml(rules)["groups"] for rule in group["rules"]]
    for rule in alerts:
        name = rule["alert"]
        check_expression(f"alerts.yml, {name}", rule["expr"], metrics, kinds)
        if rule["labels"].get("severity") not in ("info", "warning", "critical"):
            fault(f"alerts.yml, {name}", "no severity")
        if set(rule["annotations"]) != {"summary", "description"}:
            fault(f"alerts.yml, {name}", "wants a summary and a description")
        if name not in firing:
            fault(f"alerts.yml, {name}", "no test shows that it fires")
        if name not in silent:
            fault(f"alerts.yml, {name}", "no test shows that it is silent")
    return len(alerts)


def check_dashboard(metrics, kinds):
    path = HERE / "grafana/dashboard.json"
    board = json.loads(path.read_text())
    variables = {variable["name"] for variable in board["templating"]["list"]}
    seen, ids, places, rules = set(), set(), set(), []
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            check_expression(f"variable {variable['name']}", variable["definition"], metrics, kinds)
    for panel in board["panels"]:
        where = f"dashboard.json, panel {panel['title']!r}"
        if panel["id"] in ids:
            fault(where, f"id {panel['id']} is taken")
        ids.add(panel["id"])
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        if at["x"] + at["w"] > 24 or cells & places:
            fault(where, "lies over another panel, or beyond the edge")
        places |= cells
        if panel["type"] == "row":
            continue
        if not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            fault(where, "wants a description and a unit")
        if not panel["targets"]:
            fault(where, "shows nothing")
        for number, target in enumerate(panel["targets"]):
            expr = target["expr"]
            if target["datasource"]["uid"] != "${datasource}":
                fault(where, "asks a data source of its own")
            for variable in re.findall(r"\$\{?(\w+)", expr):
                if variable not in variables | {"__rate_interval", "__interval", "__range"}:
                    fault(where, f"there is no variable {variable}")
            seen |= check_expression(where, expr, metrics, kinds)
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expr) for label in group.split(",")}
            if not shown <= grouped | {"instance"}:
                fault(where, f"its legend names {sorted(shown - grouped)}, by which it does not group")
            plain = re.sub(r"\$\{?__\w+\}?", "5m", expr).replace("$instance", ".*")
            rules.append({"record": f"panel:{panel['id']}:query{number}", "expr": plain})
    if missing := sorted(set(metrics) - seen):
        print(f"on no panel: {', '.join(missing)}")
    return len(rules), {"groups": [{"name": "panels", "rules": rules}]}


# ---- compose.yaml: what is promised of every service


def users_of(dockerfile):
    """The user that each stage of a Dockerfile ends with."""
    users, stage = {}, None
    for line in dockerfile.read_text().splitlines():
        words = line.split()
        if words[:1] == ["FROM"]:
            stage = words[3] if len(words) > 3 else "last"
            users[stage] = users.get(words[1])
        elif words[:1] == ["USER"]:
            users[stage] = words[1]
    users["last"] = users[stage]
    return users


def check_compose():
    path = HERE / "compose.yaml"
    compose = load_yaml(path)
    subnet = ipaddress.ip_network(compose["networks"]["obol"]["ipam"]["config"][0]["subnet"])
    taken = {}
    for name, service in compose["services"].items():
        where = f"compose.yaml, {name}"
        image = service["image"]
        if ":" not in image or image.endswith(":latest"):
            fault(where, f"image {image} has no version")
        user = service.get("user")
        if build := service.get("build"):
            context = (HERE / build["context"]).resolve()
            dockerfile = context / build.get("dockerfile", "Dockerfile")
            if not dockerfile.is_file():
                fault(where, f"{dockerfile} is not there")
                continue
            user = user or users_of(dockerfile).get(build.get("target", "last"))
        if not user or user.split(":")[0] in ("0", "root"):
            fault(where, "runs as root")
        if service.get("read_only") is not True:
            fault(where, "its file system can be written")
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            fault(where, "has capabilities")
        if service.get("security_opt") != ["no-new-privileges:true"] or service.get("privileged"):
            fault(where, "may gain privileges")
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if set(limits) != {"cpus", "memory", "pids"}:
            fault(where, "has no limits of cpus, memory and pids")
        once = service.get("restart") == "no"
        if once == ("healthcheck" in service):
            fault(where, "a service that stays wants a health check, one that ends has none")
        if not once and service["healthcheck"]["test"][0] != "CMD":
            fault(where, "its health check needs a shell")
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                fault(where, f"port {port} can be reached by other machines")
        if service.get("ports") and "outside" not in service["networks"]:
            fault(where, "publishes a port, but is only in the network without a way out")
        address = service["networks"]["obol"]["ipv4_address"]
        if ipaddress.ip_address(address) not in subnet or address in taken:
            fault(where, f"address {address} is taken by {taken.get(address)}, or not of the network")
        taken[address] = name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                if not (HERE / source).exists():
                    fault(where, f"{source} is not there")
            elif source not in compose["volumes"]:
                fault(where, f"there is no volume {source}")
        for other, how in service.get("depends_on", {}).items():
            target = compose["services"].get(other)
            if target is None:
                fault(where, f"waits for {other}, which is not there")
            elif (how["condition"] == "service_completed_successfully") != (target.get("restart") == "no"):
                fault(where, f"waits for {other} in a way that never comes")
    # Every address that any file names is somebody's.
    files = [path, HERE / "prometheus/prometheus.yml", *HERE.glob("grafana/provisioning/*/*.yaml")]
    for file in files:
        for address in re.findall(r"\b10\.77\.0\.\d+\b(?!/)", file.read_text()):
            if address not in taken:
                fault(file.name, f"nobody has the address {address}")
    return len(compose["services"])


# ---- what `docker build` is given


def check_context():
    """Everything that the sources name is sent to the builder: nobody runs it where there is no Docker."""
    lines = (TOP / ".dockerignore").read_text().split()
    sent = [TOP / line[1:] for line in lines if line.startswith("!")]
    if "*" not in lines:
        fault(".dockerignore", "sends what it does not name")
    for path in sent:
        if not path.exists():
            fault(".dockerignore", f"{path.relative_to(TOP)} is not there")
    named = [TOP / "Cargo.toml", TOP / "Cargo.lock"]
    for source in [*TOP.glob("crates/**/*.rs"), *TOP.glob("benches/**/*.rs")]:
        found = re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text())
        named += [(source.parent / path).resolve() for path in found]
    for line in (HERE / "Dockerfile").read_text().splitlines():
        named += [TOP / path for path in re.findall(r"\bdocker/\w+", line) if not line.startswith("#")]
    for path in named:
        if path.exists() and not any(path == place or place in path.parents for place in sent):
            fault(".dockerignore", f"{path.relative_to(TOP)} is needed, and not sent")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--expressions", type=pathlib.Path)
    arguments = arguments.parse_args()
    metrics, kinds = table()
    alerts = check_alerts(metrics, kinds)
    queries, rules = check_dashboard(metrics, kinds)
    services = check_compose()
    check_context()
    if arguments.expressions:
        arguments.expressions.write_text(yaml.safe_dump(rules, width=1000))
    for text in faults:
        print(text, file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"{services} services, {alerts} alerts and {queries} queries of {len(metrics)} metrics")


if __name__ == "__main__":
    main()
