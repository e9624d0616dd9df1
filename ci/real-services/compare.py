#!/usr/bin/env python3
"""compare.py DIFFERENCES RECORDS: compares the records of our backend with the real one's, scenario
by scenario. A difference is accepted if DIFFERENCES describes it, with its reason."""

import fnmatch
import json
import os
import sys


def load(directory, name):
    with open(os.path.join(directory, f"{name}.json")) as file:
        return json.load(file)


def expectation(kind, value):
    """What the real one leaves behind (27.1 the host route to the server) is no example, nor that it
    says at times twice that it stops (27.1, in one run of several)."""
    if kind == "signals" and value is not None:
        return [entry for n, entry in enumerate(value) if entry != "S 2,16" or value[n - 1 : n] != [entry]]
    if kind != "user" or value is None:
        return value
    return [["left behind", []] if isinstance(entry, list) and entry[:1] == ["left behind"] else entry
            for entry in value]


def figures(records):
    """Time to connect and memory, from the plain scenario."""
    return records.get("plain", {}).get("figures")


def accepted(differences, suite, backend, scenario, kind, ours):
    for entry in differences:
        if (fnmatch.fnmatch(suite, entry.get("suite", "*"))
                and fnmatch.fnmatch(backend, entry.get("backend", "*"))
                and scenario == entry["scenario"] and ours in entry.get(kind, [])):
            return entry["reason"]
    return None


def main():
    with open(sys.argv[1]) as file:
        differences = json.load(file)
    directory = sys.argv[2]
    suite = os.path.basename(directory)
    theirs = load(directory, "upstream")
    print(f"{suite:7} figures of the real backend: {figures(theirs)}")
    failures = 0
    for backend in (b for b in ("direct", "netcfg") if os.path.exists(os.path.join(directory, b + ".json"))):
        ours = load(directory, backend)
        print(f"{suite:7} figures of ours, {backend}: {figures(ours)}")
        for scenario, record in ours.items():
            expected = theirs.get(scenario, {})
            for kind in ("signals", "user", "error"):
                want, got = expectation(kind, expected.get(kind)), record.get(kind)
                if want == got:
                    verdict = "same"
                elif reason := accepted(differences, suite, backend, scenario, kind, got):
                    verdict = f"differs: {reason}"
                else:
                    failures += 1
                    verdict = f"DIFFERS\n    real: {want}\n    ours: {got}"
                if want or got:
                    print(f"{suite:7} {backend:7} {scenario:18} {kind:8} {verdict}")
    sys.exit(1 if failures else 0)


main()
