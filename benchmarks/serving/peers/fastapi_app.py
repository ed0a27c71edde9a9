"""FastAPI as its tutorial has it: a Pydantic body, one path."""

import os

import numpy as np
import xgboost
from fastapi import FastAPI
from pydantic import BaseModel

booster = xgboost.Booster(model_file=os.environ["MODEL"])
app = FastAPI()


class Body(BaseModel):
    rows: list[list[float]]


@app.post("/predict")
async def predict(body: Body) -> list[float]:
    return booster.inplace_predict(np.asarray(body.rows, np.float32)).tolist()
