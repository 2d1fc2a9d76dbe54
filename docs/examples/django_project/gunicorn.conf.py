"""
Run with: gunicorn --config gunicorn.conf.py config.wsgi
"""

bind = "127.0.0.1:8000"
workers = 2
threads = 4
# A worker that was told to end has this long for the requests it is in, and then for the drain: above the pipelines'
# `shutdown`, 30 seconds.
graceful_timeout = 45
timeout = 45  # the same for a worker that ends by itself: it does not say that it is alive while it drains

pipelines = []


def post_worker_init(worker):
    # In each worker, after the fork: threads do not survive one.
    from shop.pipelines import activities

    pipelines.append(activities().start())


def worker_exit(server, worker):
    if not pipelines:  # it ended before it began
        return
    from shop.pipelines import activity_buffer

    activity_buffer.close()  # what late requests push is refused: nobody would take it
    for pipeline in pipelines:
        pipeline.stop()
