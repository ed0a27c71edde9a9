"""LitServe as its documentation has it: decode, predict, encode."""

import os
import sys

import litserve
import numpy as np
import xgboost


class Api(litserve.LitAPI):
    def setup(self, device):
        self.booster = xgboost.Booster(model_file=os.environ["MODEL"])

    def decode_request(self, request):
        return np.asarray(request["rows"], np.float32)

    def predict(self, rows):
        return self.booster.inplace_predict(rows)

    def encode_response(self, output):
        return output.tolist()


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
