"""
The contract of connectors, on a spool in a temporary folder.
"""

import os

import pytest
from off_broadway_spool import Spool, SpoolProducer

from broadway_sync.testing import ConnectorContract, ConnectorHarness


class SpoolHarness(ConnectorHarness):
    is_ordered = True
    lease = 4.0
    timeout = 20.0
    redelivery_timeout = 10.0
    drop_options = {"on_failure": "reject"}
    loggers = ["off_broadway_spool"]

    def __init__(self, folder):
        self.folder = os.path.join(folder, "spool")
        self.spool = Spool(self.folder)
        self.spool.create()

    def publish(self, data):
        for item in data:
            self.spool.put(item.encode())

    def producer(self):
        return SpoolProducer, {"folder": self.folder, "lease": self.lease}

    def remaining(self):
        return self.spool.remaining()

    def take_down(self):
        os.rename(self.folder, self.folder + ".away")

    def bring_up(self):
        if not os.path.exists(self.folder):
            os.rename(self.folder + ".away", self.folder)


class TestSpool(ConnectorContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return SpoolHarness(str(tmp_path))
