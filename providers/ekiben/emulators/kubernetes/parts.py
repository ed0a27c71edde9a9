"""The programs that a cluster of one node consists of, with their arguments, in the order in which they are started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from ekiben.emulators.kubernetes.layout import (
    API_PORT,
    API_SERVICE,
    ETCD,
    INGRESS,
    INGRESS_INSIDE,
    INGRESS_NAME,
    NODE,
    NODE_NAME,
    NUMBER,
    PODS,
    SERVER,
    SERVICES,
    Layout,
)
from ekiben.emulators.kubernetes.pki import Authority

__all__ = ["Part", "control", "edge", "environment", "keys", "node", "storage"]

ISSUER = "https://kubernetes.default.svc"


@dataclass(frozen=True)
class Part:
    """A program that runs as long as the cluster, and is started again when it ends."""

    name: str
    command: tuple[str, ...]


def environment(at: Layout) -> dict[str, str]:
    """What every part inherits: no variable of the user's, who may have proxies and credentials there."""
    path = os.pathsep.join([str(at.bin), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    which = {NUMBER: os.environ[NUMBER]} if NUMBER in os.environ else {}
    return {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **which}


def keys(at: Layout) -> None:
    """All keys and kubeconfigs, as far as they are not there yet."""
    authority = Authority(at.pki)
    inside = tuple("kubernetes.default.svc.cluster.local".rsplit(".", n)[0] for n in (4, 3, 2))
    authority.issue(
        "apiserver", "kube-apiserver",
        names=(*inside, "kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", API_SERVICE, NODE),
    )  # fmt: skip
    authority.issue("admin", "ekiben-admin", groups=("system:masters",))
    authority.issue("controllers", "system:kube-controller-manager")
    authority.issue("scheduler", "system:kube-scheduler")
    authority.issue("proxy", "system:kube-proxy")
    authority.issue("to-kubelet", "kube-apiserver-kubelet-client", groups=("system:masters",))
    authority.issue("front-proxy", "front-proxy")
    authority.issue("node", f"system:node:{NODE_NAME}", groups=("system:nodes",), names=(NODE_NAME, NODE))
    authority.key_pair("tokens")
    at.etc.mkdir(parents=True, exist_ok=True)
    for user in ("controllers", "scheduler", "proxy", "node"):
        authority.kubeconfig(user, SERVER, at.config_of(user))
    authority.kubeconfig("admin", SERVER, at.kubeconfig)


def storage(at: Layout) -> list[Part]:
    """What the API server and the kubelet stand on."""
    return [
        # Without fsync: a cluster for tests may forget its last moments when the machine loses power, not when it is killed.
        Part("etcd", (
            str(at.bin / "etcd"), "--unsafe-no-fsync", f"--data-dir={at.data}/etcd", f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}", "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn",
            "--auto-compaction-mode=periodic", "--auto-compaction-retention=30m", "--quota-backend-bytes=4294967296",
        )),
        Part("registry", ("/usr/bin/docker-registry", "serve", str(at.etc / "registry.json"))),
        Part("containerd", (str(at.bin / "containerd"), "-c", str(at.etc / "containerd.toml"), "-l", "warn")),
        Part("kube-apiserver", (
            str(at.bin / "kube-apiserver"), f"--etcd-servers={ETCD}", f"--secure-port={API_PORT}", f"--advertise-address={NODE}",
            f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            "--enable-admission-plugins=NodeRestriction", "--anonymous-auth=false",
            f"--tls-cert-file={at.pki}/apiserver.crt", f"--tls-private-key-file={at.pki}/apiserver.key",
            f"--client-ca-file={at.pki}/ca.crt",
            f"--service-account-key-file={at.pki}/tokens.pub", f"--service-account-signing-key-file={at.pki}/tokens.key",
            f"--service-account-issuer={ISSUER}",
            f"--kubelet-client-certificate={at.pki}/to-kubelet.crt", f"--kubelet-client-key={at.pki}/to-kubelet.key",
            f"--kubelet-certificate-authority={at.pki}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={at.pki}/ca.crt", "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-", "--enable-aggregator-routing=true",
            f"--proxy-client-cert-file={at.pki}/front-proxy.crt", f"--proxy-client-key-file={at.pki}/front-proxy.key",
        )),
    ]  # fmt: skip


def control(at: Layout) -> list[Part]:
    """What acts through the API server."""
    both = [f"--{name}={at.config_of('controllers')}" for name in CONFIGS]
    schedules = [f"--{name}={at.config_of('scheduler')}" for name in CONFIGS]
    return [
        Part("kube-controller-manager", (
            str(at.bin / "kube-controller-manager"), *both, "--bind-address=127.0.0.1", "--leader-elect=false",
            f"--service-account-private-key-file={at.pki}/tokens.key", f"--root-ca-file={at.pki}/ca.crt",
            "--use-service-account-credentials=true", f"--cluster-signing-cert-file={at.pki}/ca.crt",
            f"--cluster-signing-key-file={at.pki}/ca.key", f"--cluster-cidr={PODS}", "--allocate-node-cidrs=false",
            f"--flex-volume-plugin-dir={at.etc}/volume-plugins",
        )),
        Part("kube-scheduler", (
            str(at.bin / "kube-scheduler"), *schedules, "--bind-address=127.0.0.1", "--leader-elect=false",
        )),
    ]  # fmt: skip


def node(at: Layout) -> list[Part]:
    """What makes this machine a node."""
    return [
        Part("policies", (
            sys.executable, "-P", "-m", "ekiben.emulators.kubernetes.policies", f"--kubeconfig={at.kubeconfig}",
        )),
        Part("kubelet", (
            str(at.bin / "kubelet"), f"--config={at.etc}/kubelet.json", f"--kubeconfig={at.config_of('node')}",
            f"--hostname-override={NODE_NAME}", f"--node-ip={NODE}", "--v=1",
        )),
        Part("kube-proxy", (
            str(at.bin / "kube-proxy"), f"--kubeconfig={at.config_of('proxy')}", f"--hostname-override={NODE_NAME}",
            "--proxy-mode=iptables", f"--cluster-cidr={PODS}", "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
            "--metrics-bind-address=127.0.0.1:10249", "--healthz-bind-address=127.0.0.1:10256",
        )),
    ]  # fmt: skip


def edge(at: Layout) -> list[Part]:
    """What leads requests to Knative's revisions, once there are any."""
    return [
        Part("ingress", (
            sys.executable, "-P", "-m", "ekiben.emulators.kubernetes.ingress", f"--kubeconfig={at.kubeconfig}",
            f"--listen={INGRESS}", f"--inside={INGRESS_INSIDE}", f"--domain-internal={INGRESS_NAME}",
        )),
    ]  # fmt: skip


CONFIGS = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
