"""The trackers: write losses, scores and settings to TensorBoard, Weights & Biases and MLflow.

Each is built with the run folder, the recipe's tables and what was sent before (`gantk_cluster.track.Sent`),
in which it stores its name of the run. `put` takes numbers; `end` takes whether the training has
finished.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any

import tomli_w

from gantk.files import expect_inside
from gantk.runs.folder import flat
from gantk_cluster.track import Sent

# first parts of the names of entries, in their order within a step
EXPERIMENT = "gantk"  # of MLflow's runs
KINDS = ("losses", "training", "validation", "scores")


class TensorBoard:
    """Writes TensorBoard event files to tensorboard/ of the run folder.

    `tensorboard --logdir runs` compares all runs.
    """

    def __init__(self, run: Path, recipe: dict[str, Any], sent: Sent):
        from torch.utils.tensorboard import SummaryWriter

        folder = str(expect_inside(run, run / "tensorboard"))
        again = sent.step >= 0
        # entries after the last step were written before a kill
        self.writer = SummaryWriter(folder, purge_step=sent.step + 1 if again else None)
        if not again:
            self.writer.add_text("recipe", f"```\n{tomli_w.dumps(recipe)}```", 0)

    def put(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, step: int, finished: bool) -> None:
        self.writer.close()


class WandB:
    """Records the training as a run of Weights & Biases.

    Without an account on this machine the run is written to wandb/ of the run folder. `wandb sync
    --append RUN/wandb/offline-run-*` uploads it later, with all its resumed parts.
    """

    def __init__(
        self,
        run: Path,
        recipe: dict[str, Any],
        sent: Sent,
        *,
        project: str = "gantk",  # project of the run
    ):
        import wandb

        expect_inside(run, run / "wandb")
        account = "online" if wandb.login(prompt=False) else "offline"
        mode = os.environ.get("WANDB_MODE", account)
        sent.id = sent.id or secrets.token_hex(4)
        self.run = wandb.init(
            project=project,
            id=sent.id,
            name=run.name,
            dir=str(run),
            config=recipe,
            mode=mode,
            resume=None if mode == "offline" else "allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=30),
        )
        self.run.define_metric("*", step_metric="step")

    def put(self, step: int, values: dict[str, float]) -> None:
        # wandb skips a known step
        row = len(KINDS) * step + KINDS.index(next(iter(values)).split("/")[0])
        self.run.log(values | {"step": step}, step=row, commit=True)

    def end(self, step: int, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class MLflow:
    """Records the training as a run of MLflow.

    Without a server, named by MLFLOW_TRACKING_URI, the run is written to mlflow.db beside the run folder; `mlflow ui
    --backend-store-uri sqlite:///runs/mlflow.db` shows it.
    """

    def __init__(
        self,
        run: Path,
        recipe: dict[str, Any],
        sent: Sent,
    ):
        # do not wait minutes for a server
        for name, value in (("MAX_RETRIES", "1"), ("TIMEOUT", "10")):
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)

        import mlflow.entities

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.mlflow = mlflow
        beside = run.absolute().parent
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        local = None if uri else (beside / "mlflow-artifacts").as_uri()
        self.client = mlflow.MlflowClient(tracking_uri=uri or f"sqlite:///{beside / 'mlflow.db'}")
        if sent.id is None:
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found:
                of = found.experiment_id
            else:
                of = self.client.create_experiment(EXPERIMENT, artifact_location=local)
            sent.id = self.client.create_run(of, run_name=run.name).info.run_id
            for key, value in flat(recipe, between="/"):
                self.client.log_param(sent.id, key, str(value)[:500])

        self.id = sent.id
        self.client.update_run(self.id, status="RUNNING")  # also after a resume

    def put(self, step: int, values: dict[str, float]) -> None:
        now = round(1000 * time.time())
        metrics = [self.mlflow.entities.Metric(*each, now, step) for each in values.items()]
        self.client.log_batch(self.id, metrics)

    def end(self, step: int, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")
