"""Processes that torchrun would have started, forked from this one, which has imported torch already."""

import multiprocessing
import os
import socket
import time
from queue import Empty

import torch

from fastgan.training.distributed import Distributed


def in_processes(world_size, function, *args, **environment):
    """What ``function(*args)`` returns in each of as many processes, in the order of their ranks."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
    processes = [
        context.Process(target=_call, args=(queue, {"RANK": str(rank), **common}, function, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        results = {}
        until = time.monotonic() + 120
        while len(results) < world_size:
            try:
                rank, result = queue.get(timeout=0.2)
                results[rank] = result
            except Empty:
                assert time.monotonic() < until, "the processes wait for each other"
                assert not any(process.exitcode for process in processes), "a process has died"
        for error in results.values():
            if isinstance(error, BaseException):
                raise error
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return [results[rank] for rank in sorted(results)]


def _call(queue, environment, function, args):
    torch.set_num_threads(1)
    os.environ |= environment
    try:
        result = function(*args)
    except BaseException as error:
        result = error
    queue.put((int(environment["RANK"]), result))


def on_ranks(world_size, function, *args):
    """What ``function(ranks, *args)`` returns on each rank."""
    return in_processes(world_size, _joined, function, args)


def _joined(function, args):
    with Distributed.from_environment() as distributed:
        result = function(distributed, *args)
        torch.distributed.barrier()
    return result
