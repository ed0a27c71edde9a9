"""Where the cluster lies: its addresses, its folders, and the configuration files of its parts.

All of it is in namespaces of its own (network, mounts, processes), so fixed names and numbers meet none of this machine's; only
the addresses are seen from outside, by the routes over the pair of virtual devices.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from ekiben.emulators.kubernetes.policies import cni

__all__ = [
    "CGROUP",
    "DEVICE",
    "HOST",
    "INGRESS",
    "INGRESS_INSIDE",
    "INGRESS_NAME",
    "NODE",
    "NODE_NAME",
    "PODS",
    "REGISTRY",
    "SERVER",
    "SERVICES",
    "Layout",
    "state_dir",
]

# A second cluster beside the first, for tests of how one ends: in the environment of those who use it.
NUMBER = "EKIBEN_CLUSTER"
_NUMBER = 1 if os.environ.get(NUMBER) == "1" else 0
# Networks that RFC 2544 keeps for benchmarks, which no home or office has.
_NETWORK = f"198.{18 + _NUMBER}"
HOST, NODE, PREFIX = f"{_NETWORK}.0.1", f"{_NETWORK}.0.2", 30
PODS, SERVICES = f"{_NETWORK}.64.0/18", f"{_NETWORK}.128.0/18"
API_SERVICE = f"{_NETWORK}.128.1"
NODE_NAME = "ekiben"
API_PORT, REGISTRY_PORT, PROXY_PORT = 6443, 5000, 3128
SERVER = f"https://{NODE}:{API_PORT}"
REGISTRY = f"{NODE}:{REGISTRY_PORT}"
# Where the ingress listens, for all and for pods, and the Service by which pods find it.
INGRESS, INGRESS_INSIDE = f"{NODE}:80", f"{NODE}:8081"
INGRESS_NAME = "ingress.knative-serving.svc.cluster.local"
DEVICE, PEER = f"ekiben{_NUMBER}", "node0"
CGROUP = f"ekiben-cluster{_NUMBER}"
ETCD = "http://127.0.0.1:2379"
# Inside, /run is the cluster's own and empty at each start.
CONTAINERD = "/run/containerd/containerd.sock"
CNI_PLUGINS = "/usr/lib/cni"
# In the state folder: proof that it lives, how it is reached, and what its keeper and first process say.
LOCK, ABOUT, LOG = "lock", "cluster.json", "cluster.log"
# A line on the first process's standard output when all is started.
READY = "ready"


def state_dir() -> Path:
    """The folder of the cluster's state: one for this user."""
    import platformdirs

    return (Path(platformdirs.user_state_dir("ekiben")) / f"cluster{_NUMBER or ''}").resolve()


@dataclass(frozen=True)
class Layout:
    """The folders and files below a state folder."""

    state: Path
    bin: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def cni(self) -> Path:
        """The folder of the CNI plugin that is ours."""
        return self.etc / "cni-plugins"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def data(self) -> Path:
        """What survives a stop: etcd, images, volumes, the registry."""
        return self.state / "data"

    @property
    def volumes(self) -> Path:
        return self.data / "volumes"

    @property
    def bound(self) -> dict[Path, str]:
        """Folders of ours that stand, inside, where Kubernetes writes without being asked."""
        return {self.state / "var-lib": "/var/lib", self.state / "var-log": "/var/log"}

    @property
    def hidden(self) -> bool:
        """Do those folders hide what is needed inside?"""
        return any(place.is_relative_to(target) for place in (self.state, self.bin) for target in self.bound.values())

    def config_of(self, user: str) -> Path:
        return self.etc / f"{user}.kubeconfig"


def write_configs(at: Layout) -> None:
    """The configuration files of what reads files."""
    at.etc.mkdir(parents=True, exist_ok=True)
    (at.etc / "containerd.toml").write_text(_containerd(at), "utf-8")
    (at.etc / "kubelet.json").write_text(json.dumps(_kubelet(at), indent=1), "utf-8")
    (at.etc / "registry.json").write_text(json.dumps(_registry(at), indent=1), "utf-8")
    (at.etc / "resolv.conf").write_text(f"nameserver {NODE}\n", "ascii")
    networks = at.etc / "cni"
    networks.mkdir(exist_ok=True)
    (networks / "10-ekiben.conflist").write_text(json.dumps(_networks(), indent=1), "ascii")
    plugin = at.cni / cni.TYPE
    plugin.parent.mkdir(exist_ok=True)
    plugin.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(cni.__file__)}\n", "utf-8")
    plugin.chmod(0o700)
    # Whatever registry an image's name says, it is asked for here first.
    mirror = at.etc / "registries" / "_default"
    mirror.mkdir(parents=True, exist_ok=True)
    (mirror / "hosts.toml").write_text(
        f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n', "ascii"
    )


def _networks() -> dict[str, object]:
    """A point-to-point device for each pod: everything is routed, so that kube-proxy's rules see it, also between neighbours."""
    ranges = [[{"subnet": PODS}]]
    address = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}
    return {
        "cniVersion": "1.0.0",
        "name": "ekiben",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": address},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": cni.TYPE},
        ],
    }


def _containerd(at: Layout) -> str:
    snapshotters = ", ".join(
        f'"io.containerd.snapshotter.v1.{name}"' for name in ("btrfs", "zfs", "blockfile", "devmapper", "erofs")
    )
    return f"""version = 3
root = "{at.data}/containerd"
state = "/run/containerd/state"
disabled_plugins = [{snapshotters}, "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{CONTAINERD}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{at.data}/containerd/opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{REGISTRY}/pause:1"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{at.etc}/registries"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{CNI_PLUGINS}", "{at.cni}"]
  conf_dir = "{at.etc}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "/usr/sbin/runc"
  SystemdCgroup = false
"""


def _kubelet(at: Layout) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE,
        "healthzBindAddress": "127.0.0.1",
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        "failCgroupV1": False,
        "failSwapOn": False,
        # Where the machine does not let anybody raise these, the defaults keep the kubelet from starting.
        "oomScoreAdj": 0,
        "maxOpenFiles": 16384,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(at.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(at.pki / "node.crt"),
        "tlsPrivateKeyFile": str(at.pki / "node.key"),
        "clusterDNS": [NODE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(at.etc / "resolv.conf"),
        "volumePluginDir": str(at.etc / "volume-plugins"),
        # The machine's own disk fills and empties by other hands: only what is nearly full drives pods away.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # A test looks often: what has changed is to be seen within a second.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "10s",
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def _registry(at: Layout) -> dict[str, object]:
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(at.data / "registry")}, "delete": {"enabled": True}},
        "http": {"addr": f"{NODE}:{REGISTRY_PORT}"},
    }
