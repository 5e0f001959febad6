"""Ways by which step records reach the worker process. They differ in nothing else: the handler behind them is one."""

from pillion.transports._base import Transport

__all__ = ["Transport"]
