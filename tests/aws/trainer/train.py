"""A script as it is written for SageMaker's ModelTrainer: arguments, SM_ variables and /opt/ml. Nothing of Ekiben is in it."""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=0.0)
    parser.add_argument("--label", type=str, default="none")
    parser.add_argument("--fail", type=json.loads, default=False)
    parser.add_argument("--model-dir", type=Path, default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--points", type=Path, default=os.environ["SM_CHANNEL_POINTS"])
    args = parser.parse_args()
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))

    told = json.loads(os.environ["SM_TRAINING_ENV"])
    assert told["hyperparameters"] == json.loads(os.environ["SM_HPS"])
    assert told["channel_input_dirs"] == {"points": str(args.points)}
    assert json.loads(os.environ["SM_HP_SCALE"]) == args.scale
    assert os.environ["SM_CURRENT_HOST"] in json.loads(os.environ["SM_HOSTS"])
    assert os.environ["SM_CURRENT_HOST"] == told["resource_config"]["current_host"]
    config = json.loads((base / "input/config/hyperparameters.json").read_text())
    assert config["label"] == args.label
    assert sorted(os.listdir(base / "input/data/points")) == sorted(os.listdir(args.points))

    if args.fail:
        Path(os.environ["SM_OUTPUT_FAILURE"]).write_text(f"{args.label}: told to fail")
        sys.exit(2)
    rows = [json.loads(line) for path in sorted(args.points.iterdir()) for line in path.read_text().splitlines()]
    slope = args.scale * sum(row["y"] for row in rows) / sum(row["x"] for row in rows)
    (base / "model" / "model.json").write_text(json.dumps({"slope": slope, "label": args.label}))
    (base / "output" / "data" / "slope.json").write_text(json.dumps(slope))
    Path(os.environ["SM_OUTPUT_DATA_DIR"], "rows.txt").write_text(str(len(rows)))
    print("trained by", args.label)


if __name__ == "__main__":
    main()
