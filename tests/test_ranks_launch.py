"""Who a process is among several: torchrun's variables, srun's, and what is wrong with either."""

from __future__ import annotations

import pytest
import torch

from gantk.errors import UserError
from gantk.machine.launch import Launch, first_host, launch, slurm
from gantk.machine.runtime import _device

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node01", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[01-02]",
}


def test_a_process_alone_is_the_only_one():
    assert launch({}) == launch({"WORLD_SIZE": "1"}) == Launch()


def test_torchrun_says_who_it_is_and_how_often_it_was_started():
    assert launch(TORCHRUN) == Launch(3, 4, 1)
    elastic = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    assert launch(TORCHRUN | elastic) == Launch(3, 4, 1, 2, True, True)
    assert not launch(TORCHRUN | elastic | {"TORCHELASTIC_RESTART_COUNT": "0"}).restarted


def test_srun_is_told_as_torchrun_would_tell_it():
    environment = dict(SRUN)
    assert launch(environment) == Launch(5, 8, 1)
    assert {name: environment[name] for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR")} == {
        "WORLD_SIZE": "8",
        "RANK": "5",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "node01",
    }
    assert 1024 < int(environment["MASTER_PORT"]) < 32768


def test_steps_of_one_job_meet_at_ports_of_their_own_and_all_tasks_of_a_step_at_one():
    ports = {slurm(SRUN | {"SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(5)}
    assert len(ports) == 5
    assert slurm(SRUN)["MASTER_PORT"] == slurm(SRUN | {"SLURM_PROCID": "0"})["MASTER_PORT"]


def test_torchrun_within_srun_is_torchrun():
    assert launch(SRUN | TORCHRUN) == Launch(3, 4, 1)


@pytest.mark.parametrize("change", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": ""}])
def test_a_step_of_one_task_is_one_process(change):
    assert launch(SRUN | change) == Launch()


def test_a_batch_script_is_one_process_however_many_tasks_its_job_has():
    job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a[1-2]"}
    assert launch(job) == Launch()


def test_a_job_that_slurm_requeued_was_started_again():
    assert launch(SRUN | {"SLURM_RESTART_COUNT": "1"}).restarted
    assert launch({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}).restarts == 2  # of one task


def test_a_meeting_point_that_is_set_is_kept():
    found = slurm(SRUN | {"MASTER_ADDR": "login", "MASTER_PORT": "1234"})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("login", "1234")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node07", "node07"),
        ("node[01-04,07]", "node01"),
        ("node[3,7-9],login", "node3"),
        ("login,node[01-04]", "login"),
        ("rack[1-2]n[03,4]", "rack1n03"),
        ("gpu-a[100-101].cluster.org", "gpu-a100.cluster.org"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_ADDR"}, "no MASTER_ADDR"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (TORCHRUN | {"RANK": "4"}, "RANK is 4, and WORLD_SIZE says 4 processes, counted from 0"),
        (TORCHRUN | {"RANK": "-1"}, "RANK is '-1'"),
        (TORCHRUN | {"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        (TORCHRUN | {"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'. Allowed: a whole number from 1 to 65535"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_PROCID"}, "SLURM_PROCID is missing"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "names no host"),
    ],
)
def test_half_an_environment_is_an_error_with_a_remedy(environment, said):
    with pytest.raises(UserError) as error:
        launch(dict(environment))
    assert said in str(error.value)
    assert error.value.remedy


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert _device(None, Launch(6, 8, 2)) == torch.device("cuda:2")
    assert _device("cuda:1", Launch(6, 8, 2)) == torch.device("cuda:1")


def test_a_task_that_sees_its_own_gpu_only_takes_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _device("cuda", Launch(6, 8, 2)) == torch.device("cuda:0")


def test_more_processes_than_gpus_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError) as error:
        _device(None, Launch(6, 8, 2))
    assert "rank 6 is process 3 of its machine, which has 2 GPUs" in str(error.value)
    assert "--nproc-per-node 2" in str(error.value)
