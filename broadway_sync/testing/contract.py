"""
The suite that a connector has to pass, on its own broker.
"""

from __future__ import annotations

from .delivery_contract import DeliveryContract
from .fault_contract import FaultContract
from .stop_contract import StopContract


class ConnectorContract(DeliveryContract, StopContract, FaultContract):
    """
    Tests of a connector, for pytest: subclass it, and define the fixture ``harness``.

    .. code-block:: python

       class TestSpool(ConnectorContract):
           @pytest.fixture
           def harness(self, tmp_path):
               return SpoolHarness(tmp_path)

    Each test gets a :class:`ConnectorHarness` of its own, on a queue that nobody else uses. A failure says what the
    suite saw and what to look at. What the harness does not offer is skipped, with the reason.
    """
