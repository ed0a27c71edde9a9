"""Save the model as MLflow keeps models: mlflow_model.py MODEL FOLDER."""

import sys

import mlflow
import xgboost

mlflow.xgboost.save_model(
    xgboost.Booster(model_file=sys.argv[1]), sys.argv[2], pip_requirements=["xgboost-cpu"], model_format="ubj"
)
