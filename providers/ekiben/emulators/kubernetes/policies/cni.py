"""A CNI plugin, the last of the chain: a pod has a network when the rules for its address are in the kernel, and begins then.

It imports nothing of ours, and is run without this machine's packages: each pod waits for it.
https://www.cni.dev/docs/spec/
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

__all__ = ["DONE", "SOCKET", "TYPE", "main"]

TYPE = "ekiben-policies"
SOCKET = "/run/ekiben-policies"
VERSION = "1.0.0"
DONE = b"done\n"
# The kubelet tries again what has failed: this bounds one try, in which what answers may be started again.
PATIENCE_S = 60.0
AGAIN_AFTER_S = 0.05
TRY_AGAIN_LATER = 11


def main() -> int:
    if os.environ["CNI_COMMAND"] == "VERSION":
        print(json.dumps({"cniVersion": VERSION, "supportedVersions": [VERSION]}))
    if os.environ["CNI_COMMAND"] != "ADD":
        return 0  # addresses are forgotten with their pods
    made = json.load(sys.stdin)["prevResult"]
    told = dict(one.partition("=")[::2] for one in os.environ["CNI_ARGS"].split(";"))
    address = made["ips"][0]["address"].partition("/")[0]
    deadline = time.monotonic() + PATIENCE_S
    while (why := _asked(f"{told['K8S_POD_UID']} {address}\n", deadline)) and time.monotonic() < deadline:
        time.sleep(AGAIN_AFTER_S)
    if why:
        print(json.dumps({"cniVersion": VERSION, "code": TRY_AGAIN_LATER, "msg": f"no rules of policies: {why}"}))
        return 1
    print(json.dumps(made))
    return 0


def _asked(question: str, deadline: float) -> str:
    """Ask for the rules, and wait until they are there; why they are not."""
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(max(0.1, deadline - time.monotonic()))
            one.connect(SOCKET)
            one.sendall(question.encode("ascii"))
            return "" if one.recv(len(DONE)) == DONE else "not in time"
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
