import os
from pathlib import Path

import django

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "for development only")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True

# [pipelines]
INSTALLED_APPS = [
    "broadway_sync.integrations.django",
    "shop",
]

BROADWAY_PIPELINES = {
    "invoices": "shop.pipelines.invoices",
}
# [end of pipelines]

# [databases]
if "PGDATABASE" in os.environ:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ.get("PGUSER", ""),
            "PASSWORD": os.environ.get("PGPASSWORD", ""),
            "HOST": os.environ.get("PGHOST", ""),
            "PORT": os.environ.get("PGPORT", ""),
            "CONN_MAX_AGE": 60,  # seconds; with 0 each callback would connect anew
            "CONN_HEALTH_CHECKS": True,  # a connection that has died meanwhile is replaced before it is used
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SQLITE_FILE", str(BASE_DIR / "db.sqlite3")),
            "OPTIONS": {"timeout": 30},  # seconds to wait for the others that write
        }
    }
    if django.VERSION >= (5, 1):
        # Take the lock when a transaction begins, not in its middle, where waiting does not help.
        DATABASES["default"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE"
# [end of databases]
