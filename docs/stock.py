"""Write providers/ekiben/aws/stock.json, the stock images and instance types that training on AWS takes. At release time:

    uv venv /tmp/stock && uv pip install --python /tmp/stock/bin/python sagemaker-core "moto[ec2]"
    /tmp/stock/bin/python docs/stock.py

Images come from the data of the SageMaker SDK; instance types from botocore's list of those that SageMaker trains on, with the
sizes that EC2 gives them (moto carries a dump of DescribeInstanceTypes). None of these is needed to use the table.
"""

from __future__ import annotations

import datetime
import gzip
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[1] / "providers" / "ekiben" / "aws" / "stock.json"

# Ekiben's own code runs in these images, so their Python must be one that it runs on.
PYTHONS = ("py311", "py312", "py313")
IMAGES = {"cpu": "ml.m5.xlarge", "gpu": "ml.g5.xlarge"}
# What most regions have, and among equal sizes the first is taken.
FAMILIES = ("m5", "c5", "r5", "g4dn", "g5", "g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200")
# Neutral names where EC2's would be ambiguous.
GPUS = {("A100", 40960): "A100-40", ("A100", 81920): "A100-80"}


def main() -> None:
    found = {
        "source": f"sagemaker-core {metadata.version('sagemaker-core')}, botocore {metadata.version('botocore')}, "
        f"moto {metadata.version('moto')}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "images": {name: image(instance) for name, instance in IMAGES.items()},
        "instances": instances(),
    }
    text = json.dumps(found, indent=1)
    rows = re.sub(r"\[\s+([^]]*?)\s+\]", lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)
    TABLE.write_text(rows + "\n", encoding="utf-8")
    sys.stdout.write(f"{TABLE}: {len(found['instances'])} instance types\n")


def image(instance: str) -> dict[str, Any]:
    """The newest PyTorch training image: {"name": "repository:tag", "hosts": {region: registry}}."""
    from sagemaker.core import image_uris

    versions = json.loads((Path(image_uris.__file__).parent / "image_uri_config" / "pytorch.json").read_text("utf-8"))
    offered = versions["training"]["versions"]
    version, python = next(
        (version, python)
        for version in reversed(offered)
        for python in offered[version]["py_versions"]
        if python in PYTHONS
    )
    hosts, names = {}, set()
    for region in sorted(offered[version]["registries"]):
        uri = image_uris.retrieve(
            "pytorch", region, version=version, py_version=python, instance_type=instance, image_scope="training"
        )
        hosts[region], _, name = uri.partition("/")
        names.add(name)
    (name,) = names
    return {"name": name, "hosts": hosts}


def instances() -> dict[str, list[Any]]:
    """Instance type -> [vCPUs, memory in MiB, GPUs, a GPU's name], in the order in which they are taken."""
    import botocore.session
    import moto

    with gzip.open(Path(moto.__path__[0]) / "ec2" / "resources" / "instance_types.json.gz") as file:
        sizes = json.load(file)
    model = botocore.session.get_session().get_service_model("sagemaker")
    found = {}
    for name in model.shape_for("TrainingInstanceType").enum:
        family, size = name.removeprefix("ml.").split(".")[0], sizes.get(name.removeprefix("ml."))
        if family not in FAMILIES or size is None:
            continue
        gpus = [gpu for gpu in size.get("GpuInfo", {}).get("Gpus", []) if gpu["Manufacturer"] == "NVIDIA"]
        count = sum(gpu["Count"] for gpu in gpus)
        kind = gpus[0]["Name"] if gpus else ""
        memory = gpus[0]["MemoryInfo"]["SizeInMiB"] if gpus else 0
        found[name] = (
            size["VCpuInfo"]["DefaultVCpus"], size["MemoryInfo"]["SizeInMiB"], count, GPUS.get((kind, memory), kind), memory,
        )  # fmt: skip
    rank = {family: number for number, family in enumerate(FAMILIES)}

    def order(name: str) -> tuple[Any, ...]:
        vcpus, mib, gpus, _, memory = found[name]
        return gpus, memory, vcpus, mib, rank[name.removeprefix("ml.").split(".")[0]]

    return {name: list(found[name][:4]) for name in sorted(found, key=order)}


if __name__ == "__main__":
    main()
