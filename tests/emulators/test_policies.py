"""NetworkPolicies as chains of iptables, walked as the kernel does; and who waits for them."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ekiben.emulators.kubernetes.layout import HOST, NODE, PODS
from ekiben.emulators.kubernetes.policies import cni
from ekiben.emulators.kubernetes.policies.__main__ import JUMPS, Guard, transaction
from ekiben.emulators.kubernetes.policies.rules import FORWARD, INPUT, Chains, Pod, chains, pod_of, selected
from tests.waiting import PATIENCE_S, until

NETWORK = PODS.rpartition(".")[0]
WEB, DB, JOB, OTHER, STRANGER = (f"{NETWORK}.{last}" for last in (5, 6, 7, 8, 99))
METADATA = "169.254.169.254"
SHOP = {
    WEB: Pod(namespace="shop", labels={"app": "web", "tier": "front"}, ports=[("http", "TCP", 8080), ("dns", "UDP", 5300)]),
    DB: Pod(namespace="shop", labels={"app": "db"}, ports=[("http", "TCP", 9090)]),
    JOB: Pod(namespace="shop", labels={"app": "job"}),
    OTHER: Pod(namespace="bank", labels={"app": "web"}, ports=[("http", "TCP", 7070)]),
}  # fmt: skip
NAMESPACES = {
    "shop": {"kubernetes.io/metadata.name": "shop", "team": "a"},
    "bank": {"kubernetes.io/metadata.name": "bank"},
}
Spec = Mapping[str, Any]


def passes(found: Chains, source: str, target: str, port: int = 80, protocol: str = "tcp") -> bool:
    """Does the first packet of a connection come through?"""
    packet = {"-s": source, "-d": target, "-p": protocol, "--dport": str(port)}

    def of(option: str, wanted: str) -> bool:
        if option in ("-s", "-d"):
            return ip_address(packet[option]) in ip_network(wanted)
        if option == "--dport":
            low, _, high = wanted.partition(":")
            return int(low) <= port <= int(high or low)
        return packet[option] == wanted

    def walk(chain: str) -> bool:
        """False: it was dropped."""
        for rule in found[chain]:
            words = rule.split()
            if "conntrack" in words:
                continue  # nothing has begun
            at = dict(pairwise(words))
            unlike = words[words.index("!") + 1] if "!" in words else ""
            if not all(of(option, at[option]) != (option == unlike) for option in packet if option in words):
                continue
            if "-g" in words:
                return walk(at["-g"])
            if at["-j"] in ("RETURN", "DROP"):
                return at["-j"] == "RETURN"
            if not walk(at["-j"]):
                return False
        return True

    return walk(INPUT if target == NODE else FORWARD)


def policy(namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace}, "spec": spec}


def of(*policies: Spec) -> Chains:
    return chains(policies, SHOP, NAMESPACES)


def allowed(found: Chains, target: str, port: int = 80, protocol: str = "tcp") -> set[str]:
    """Of the pods those that come through to `target`, and the machine and a stranger on the node's other side where they do."""
    return {one for one in (*SHOP, HOST, "192.0.2.7") if one != target and passes(found, one, target, port, protocol)}


EVERYBODY = {WEB, DB, JOB, OTHER, HOST, "192.0.2.7"}


def test_without_policies_everybody_reaches_everybody_but_no_pod_that_nobody_knows() -> None:
    found = of()
    assert allowed(found, DB) == EVERYBODY - {DB}
    assert passes(found, DB, NODE, 53, "udp")
    assert not passes(found, STRANGER, DB)
    assert not passes(found, STRANGER, NODE)
    assert not passes(found, DB, STRANGER)


def test_a_pod_that_is_chosen_is_reached_by_the_node_and_itself_alone() -> None:
    found = of(policy(podSelector={"matchLabels": {"app": "db"}}))
    assert allowed(found, DB) == {HOST}
    assert passes(found, DB, DB)
    assert passes(found, DB, WEB), "nothing is said of what it reaches"
    assert allowed(found, WEB) == EVERYBODY - {WEB}


def test_all_of_a_namespace_and_no_other() -> None:
    found = of(policy(podSelector={}, policyTypes=["Ingress", "Egress"]))
    for one in (WEB, DB, JOB):
        assert allowed(found, one) == {HOST}
        assert not passes(found, one, NODE, 53, "udp")
        assert not passes(found, one, OTHER)
    assert allowed(found, OTHER) == {HOST, "192.0.2.7"}


@pytest.mark.parametrize(
    ("peers", "who"),
    [
        ([{"podSelector": {}}], {DB, JOB}),
        ([{"podSelector": {"matchLabels": {"app": "db"}}}], {DB}),
        ([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db", "none"]}]}}], {JOB}),
        ([{"namespaceSelector": {}}], {DB, JOB, OTHER}),
        ([{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}], {OTHER}),
        ([{"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "job"}}}], {JOB}),
        ([{"namespaceSelector": {"matchLabels": {"team": "b"}}}, {"podSelector": {"matchLabels": {"app": "db"}}}], {DB}),
        ([{"ipBlock": {"cidr": f"{DB}/31"}}], {DB, JOB}),
        ([{"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{DB}/32", "192.0.2.0/24"]}}], {JOB, OTHER}),
        ([{"ipBlock": {"cidr": f"{DB}/32", "except": [PODS]}}, {"ipBlock": {"cidr": "::/0"}}], set()),
        ([], {DB, JOB, OTHER, "192.0.2.7"}),
        (None, {DB, JOB, OTHER, "192.0.2.7"}),
    ],
)  # fmt: skip
def test_who_is_let_in(peers: list[Spec] | None, who: set[str]) -> None:
    found = of(policy(podSelector={"matchLabels": {"app": "web"}}, ingress=[{} if peers is None else {"from": peers}]))
    assert allowed(found, WEB) == who | {HOST}
    assert allowed(found, OTHER) == EVERYBODY - {OTHER}, "a policy is for pods of its namespace"


@pytest.mark.parametrize(
    ("port", "which"),
    [
        ({"port": 80}, {("tcp", 80)}),
        ({"port": 80, "protocol": "UDP"}, {("udp", 80)}),
        ({"port": 80, "endPort": 8080}, {("tcp", 80), ("tcp", 8080)}),
        ({"port": "http"}, {("tcp", 8080)}),
        ({"port": "dns"}, set()),
        ({"port": "dns", "protocol": "UDP"}, {("udp", 5300)}),
        ({"protocol": "UDP"}, {("udp", 80), ("udp", 5300)}),
        ({"port": "nobody"}, set()),
    ],
)
def test_what_is_let_in(port: Spec, which: set[tuple[str, int]]) -> None:
    found = of(
        policy(
            podSelector={"matchLabels": {"tier": "front"}}, ingress=[{"from": [{"podSelector": {}}], "ports": [port]}]
        )
    )
    every = (("tcp", 80), ("udp", 80), ("tcp", 8080), ("udp", 5300), ("tcp", 8081))
    assert {(protocol, number) for protocol, number in every if passes(found, DB, WEB, number, protocol)} == which


def test_a_port_s_name_is_that_of_the_pod_that_is_called() -> None:
    found = of(
        policy(
            podSelector={"matchLabels": {"app": "job"}}, egress=[{"ports": [{"port": "http"}]}], policyTypes=["Egress"]
        )
    )
    assert [passes(found, JOB, one, port) for one, port in ((WEB, 8080), (DB, 9090), (OTHER, 7070))] == [True] * 3
    assert [passes(found, JOB, one, 80) for one in (WEB, DB, OTHER, NODE)] == [False] * 4
    near = [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]
    found = of(policy(podSelector={"matchLabels": {"app": "job"}}, egress=near, policyTypes=["Egress"]))
    assert [passes(found, JOB, one, port) for one, port in ((WEB, 8080), (OTHER, 7070))] == [True, False]


def test_everywhere_but_the_address_that_hands_out_credentials() -> None:
    out = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{METADATA}/32"]}}, {"ipBlock": {"cidr": "::/0"}}]}]
    found = of(policy(podSelector={"matchLabels": {"app": "job"}}, egress=out))
    assert all(
        passes(found, JOB, one) for one in (WEB, OTHER, NODE, HOST, "169.254.169.253", "169.254.169.255", "1.1.1.1")
    )
    assert not passes(found, JOB, METADATA)
    assert allowed(found, JOB) == {HOST}, (
        "the kinds that are not said: what comes in always, what goes out where there are rules"
    )


def test_what_one_policy_lets_through_no_other_keeps_back_and_both_ends_have_their_say() -> None:
    shut = policy(podSelector={}, policyTypes=["Ingress", "Egress"])
    to_db = policy(
        podSelector={"matchLabels": {"app": "web"}}, egress=[{"to": [{"podSelector": {}}]}], policyTypes=["Egress"]
    )
    found = of(shut, to_db)
    assert not passes(found, WEB, DB)
    assert not passes(found, WEB, OTHER)
    from_web = policy(
        podSelector={"matchLabels": {"app": "db"}}, ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]
    )
    found = of(shut, to_db, from_web)
    assert passes(found, WEB, DB)
    assert not passes(found, WEB, DB, 81)
    assert not passes(found, JOB, DB)


def test_selectors() -> None:
    labels = {"a": "1"}
    assert selected({}, labels)
    assert selected({"matchLabels": None, "matchExpressions": None}, {})
    table: list[tuple[str, list[str], bool, bool]] = [
        ("In", ["1"], True, False), ("In", ["2"], False, False), ("NotIn", ["1"], False, True), ("Exists", [], True, False),
        ("DoesNotExist", [], False, True),
    ]  # fmt: skip
    for operator, values, with_a, without in table:
        expression = {"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}
        assert (selected(expression, labels), selected(expression, {})) == (with_a, without), operator


def item(name: str, uid: str, address: str = "", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "labels": {"app": name}},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}], **more},
        "status": {"phase": "Running", "podIP": address} if address else {"phase": "Pending"},
    }


def test_pods_of_the_node_s_own_network_and_those_that_are_over_have_no_rules() -> None:
    assert pod_of(item("a", "1")) == Pod(namespace="shop", labels={"app": "a"}, ports=[("http", "TCP", 80)])
    assert pod_of(item("a", "1", hostNetwork=True)) is None
    over = item("a", "1", WEB)
    over["status"]["phase"] = "Succeeded"
    assert pod_of(over) is None


class Kernel:
    """The table as texts of iptables-restore leave it."""

    def __init__(self) -> None:
        self.chains: Chains = {}
        self.others: list[str] = []
        self.broken = False

    def restore(self, text: str) -> None:
        if self.broken:
            raise OSError("no")
        for line in text.splitlines():
            option, _, rest = line.partition(" ")
            name, _, rule = rest.partition(" ")
            if line.startswith(":"):
                self.chains[option[1:]] = []
            elif option == "-A" and name in self.chains:
                self.chains[name].append(rule)
            elif option == "-F":
                self.chains[name].clear()
            elif option == "-X":
                assert not self.chains.pop(name)
            elif option == "-A":
                self.others.append(line)
        used = {words[-1] for rules in self.chains.values() for rule in rules if (words := rule.split())[-2] == "-g"}
        assert used <= self.chains.keys()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def guard(kernel: Kernel) -> Guard:
    made = Guard(kernel.restore)
    made.set_namespaces(
        {("", name): {"metadata": {"name": name, "labels": labels}} for name, labels in NAMESPACES.items()}
    )
    made.set_policies({("shop", "shut"): {"spec": {"podSelector": {"matchLabels": {"app": "db"}}}}})
    return made


def held(*items: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {("shop", one["metadata"]["name"]): one for one in items}


def test_who_asks_waits_until_the_kernel_has_the_rules(kernel: Kernel, guard: Guard) -> None:
    def enforcing() -> None:
        while True:
            guard.enforce()

    answers: list[bool] = []
    asked = threading.Thread(target=lambda: answers.append(guard.wait_for("1", DB, PATIENCE_S)))
    guard.set_pods(held())
    threading.Thread(target=enforcing, daemon=True).start()
    asked.start()
    guard.set_pods(held(item("db", "1")))  # the plugin may be faster than the API's news
    asked.join()
    assert answers == [True]
    assert kernel.others == list(JUMPS)
    assert not passes(kernel.chains, WEB, DB)
    assert passes(kernel.chains, HOST, DB)
    guard.set_pods(held())
    until(lambda: len(kernel.chains) == 4, "rules that nobody needs are gone")
    assert not guard.wait_for("2", DB, patience_s=0.01), "a pod that nobody knows"


def test_an_address_that_another_had_is_the_one_s_that_was_told_last(kernel: Kernel, guard: Guard) -> None:
    guard.set_pods(held(item("db", "1", DB), item("web", "2", WEB)))
    guard.enforce()
    assert not passes(kernel.chains, WEB, DB)
    assert not guard.wait_for("2", DB, patience_s=0)  # the pod was given another network, the API does not say so yet
    guard.enforce()
    assert guard.wait_for("2", DB)
    guard.set_pods(held(item("db", "1", DB), item("web", "2", WEB), item("job", "3", JOB)))
    guard.enforce()
    assert passes(kernel.chains, JOB, DB), "it is web's"
    assert not passes(kernel.chains, JOB, WEB), "nobody's"


def test_a_kernel_that_refuses_is_asked_again(kernel: Kernel, guard: Guard) -> None:
    guard.set_pods(held(item("db", "1", DB)))
    kernel.broken = True
    with pytest.raises(OSError, match="no"):
        guard.enforce()
    assert not guard.wait_for("1", DB, patience_s=0)
    kernel.broken = False
    guard.enforce()
    assert guard.wait_for("1", DB)


def test_what_stays_is_not_touched_and_what_was_left_goes() -> None:
    found = of(policy(podSelector={}))
    assert transaction(found, found, ()) == ""
    kernel = Kernel()
    kernel.chains = {"EKIBEN-0123": [], **{name: ["-j DROP"] for name in found}}
    kernel.restore(transaction({"EKIBEN-0123": [], **{name: [] for name in found}}, found, JUMPS))
    assert kernel.chains == found


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[list[str]]:
    asked: list[str] = []

    class Asked(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode())
            if len(asked) > 1:
                self.wfile.write(cni.DONE)

    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "socket"), Asked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked
        server.shutdown()


def plugin(tmp_path: Path, command: str, told: Any = None, patience_s: float = 30) -> subprocess.CompletedProcess[str]:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(cni.__file__).parent)!r}); import cni; "
        f"cni.SOCKET, cni.PATIENCE_S = {str(tmp_path / 'socket')!r}, {patience_s}; sys.exit(cni.main())"
    )
    env = {"CNI_COMMAND": command, "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_UID=u-1"}
    words = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(
        words, env=env, input=json.dumps(told), text=True, capture_output=True, timeout=120, check=False
    )


RESULT = {"cniVersion": "1.0.0", "ips": [{"address": f"{WEB}/32"}]}


def test_the_plugin_asks_until_the_rules_are_there_and_hands_on_what_it_was_given(
    tmp_path: Path, answering: list[str]
) -> None:
    done = plugin(tmp_path, "ADD", {"name": "ekiben", "prevResult": RESULT})
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT), done.stderr
    assert answering == [f"u-1 {WEB}\n"] * 2


def test_without_rules_a_pod_has_no_network(tmp_path: Path) -> None:
    done = plugin(tmp_path, "ADD", {"name": "ekiben", "prevResult": RESULT}, patience_s=0)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == cni.TRY_AGAIN_LATER
    assert (plugin(tmp_path, "DEL").returncode, plugin(tmp_path, "DEL").stdout) == (0, "")
    assert "1.0.0" in json.loads(plugin(tmp_path, "VERSION").stdout)["supportedVersions"]
