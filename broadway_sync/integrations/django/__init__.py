"""
Pipelines in a Django project: an app to put into ``INSTALLED_APPS``.

It keeps the database connections of pipelines' threads as Django keeps those of requests, brings ``manage.py
runpipeline`` for the pipelines in ``BROADWAY_PIPELINES``, system checks, and, in ``.testing``, what tests need.
"""

from __future__ import annotations

from .connections import connection_care
from .pipelines import load_pipeline, pipeline_targets

__all__ = ["load_pipeline", "pipeline_targets", "connection_care"]
