"""A worker that kills one of its children before its event loop has begun: it exists in the tests alone.

Run as ``celery -A early_death_app worker`` with this folder on PYTHONPATH.
"""

import os
import signal
import time

import psutil
from celery import bootsteps

from embedmill_worker.app import app


class KillOneChild(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer):
        child = psutil.Process().children()[0]
        os.kill(child.pid, signal.SIGKILL)
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


app.steps["consumer"].add(KillOneChild)
