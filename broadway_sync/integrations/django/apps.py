"""
The app's configuration.
"""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.core import checks

from ...around import add_ours
from .checks import check_connections, check_pipelines, check_setting, check_started
from .connections import care


class BroadwayConfig(AppConfig):  # type: ignore[misc]
    """
    Put ``"broadway_sync.integrations.django"`` into ``INSTALLED_APPS``.
    """

    name = "broadway_sync.integrations.django"
    label = "broadway_sync"
    verbose_name = "broadway_sync"

    def ready(self) -> None:
        """
        Register the system checks; put the care of connections around every pipeline that starts from now on.
        """
        for check in (check_setting, check_started, check_connections):
            checks.register(check, "broadway_sync")
        # These call the functions that make pipelines, which is too much for every `manage.py migrate`.
        checks.register(check_pipelines, "broadway_sync", deploy=True)
        if getattr(settings, "BROADWAY_CONNECTION_CARE", True):
            add_ours(care)
