"""
Run with: gunicorn --config gunicorn.conf.py clicks:application
"""

bind = "127.0.0.1:8000"
workers = 2
threads = 4

# A worker that was told to end has this long for the requests it is in, and then for the drain.
graceful_timeout = 30
# A worker that drains does not say that it is alive; after this long it is killed. Above the pipeline's `shutdown`.
timeout = 30


def post_worker_init(worker):
    # Imported here, in the worker: at the top of this file it would be in the parent, once for all.
    from clicks import start

    start()


def worker_exit(server, worker):
    from clicks import drain

    drain()
