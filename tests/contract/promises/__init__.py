"""The promises, one file for each group: importing this puts all of them into `every_method.PROMISES`."""

from promises import strength, twins, clipping, micro_batches, schedules, logs, resume, optimizer_state, faults, overflow  # isort: skip

__all__ = ["strength", "twins", "clipping", "micro_batches", "schedules", "logs", "resume", "optimizer_state", "faults", "overflow"]
