"""
Flask: callbacks with the application context, and ``flask broadway run``. Needs the extra ``flask``.

.. code-block:: python

    broadway = Broadway()

    @broadway.pipeline("orders")
    def orders(app):
        return Pipeline(Orders(), name="orders", producer=..., processors=...)

    def create_app():
        app = Flask(__name__)
        broadway.init_app(app)
        return app
"""

from __future__ import annotations

from ...errors import ConfigurationError

try:
    import flask  # noqa: F401 - what follows needs it
except ImportError as error:
    raise ConfigurationError(
        "broadway_sync.integrations.flask needs Flask, which is not installed: pip install 'broadway_sync[flask]'"
    ) from error

from .context import AppContext
from .extension import Broadway

__all__ = ["AppContext", "Broadway"]
