"""
Run with: gunicorn --config gunicorn.conf.py "shop:create_app()"
"""

bind = "127.0.0.1:8000"
workers = 2
threads = 4
graceful_timeout = 30  # for the requests that a worker is in, and then for the drain
timeout = 30  # a worker that drains longer is killed; above the pipeline's `shutdown`


def post_worker_init(worker):
    from shop import broadway

    worker.clicks = broadway.make("clicks", worker.wsgi).start()


def worker_exit(server, worker):
    if not hasattr(worker, "clicks"):  # it ended before it began
        return
    from shop import clicks

    clicks.close()  # what late requests push is refused: nobody would take it
    worker.clicks.stop()
