"""Several processes from one command: torch's launcher runs it again, once for each device."""

from __future__ import annotations

import logging
import os
import signal
import sys

from lenient.core import processes, processors


def launch(devices: int) -> int:
    """Run this very command in `devices` processes that know of each other; return the exit code for all.

    They share their fate: where one dies, the others are stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # the processes speak for themselves
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    if not processors.given():
        os.environ[processors.THREADS] = str(max(processors.available() // devices, 1))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id="lenient",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        with processes.safe_path():
            elastic_launch(config, sys.executable)("-m", "lenient", *sys.argv[1:])
    except SignalException:
        return 130
    except ChildFailedError as error:
        codes = {number: failure.exitcode for number, failure in error.failures.items()}
        for number, code in codes.items():
            if code < 0 and code != -signal.SIGTERM:  # those that the launcher stopped were stopped by SIGTERM
                name = signal.Signals(-code).name
                print(f"lenient: rank {number} died of {name}; the others were stopped", file=sys.stderr)
                return 5
        first: int = error.get_first_failure()[1].exitcode
        return first if first > 0 else 1
    return 0
