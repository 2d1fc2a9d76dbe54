"""
The settings of docs/examples/django_project, and what the tests need beside it.
"""

from __future__ import annotations

from config.settings import *  # noqa: F403 - this is how settings are extended
from config.settings import BROADWAY_PIPELINES as PIPELINES_OF_THE_PROJECT

ALLOWED_HOSTS = ["*"]
CACHES = {"default": {"BACKEND": "tests.integrations.django.cache.RecordingCache"}}
BROADWAY_PIPELINES = {
    **PIPELINES_OF_THE_PROJECT,
    "slow": "tests.integrations.django.pipelines:slow",
    "stuck": "tests.integrations.django.pipelines:stuck",
    "crashing": "tests.integrations.django.pipelines:crashing",
}
