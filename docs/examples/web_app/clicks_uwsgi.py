"""
What uWSGI loads, in each worker (`lazy-apps`).
"""

import uwsgi
from clicks import application, drain, start

__all__ = ["application"]

start()
uwsgi.atexit = drain
