"""KServe's Python server with a model of one's own, version 1 of its protocol."""

import logging
import os
import sys

import kserve
import numpy as np
import xgboost


class Cancer(kserve.Model):
    def __init__(self):
        super().__init__("cancer")
        self.booster = xgboost.Booster(model_file=os.environ["MODEL"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": self.booster.inplace_predict(np.asarray(payload["instances"], np.float32)).tolist()}


if __name__ == "__main__":
    server = kserve.ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, enable_latency_logging=False)
    logging.disable(logging.INFO)
    server.start([Cancer()])
