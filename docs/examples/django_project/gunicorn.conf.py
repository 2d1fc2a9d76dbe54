"""
Run with: gunicorn --config gunicorn.conf.py config.wsgi
"""

bind = "127.0.0.1:8000"
workers = 2
threads = 4
timeout = 40  # a worker that drains does not say that it is alive: above the pipelines' `shutdown`, 30 seconds

pipelines = []


def post_worker_init(worker):
    # In each worker, after the fork: threads do not survive one.
    from shop.pipelines import activities

    pipelines.append(activities().start())


def worker_exit(server, worker):
    from shop.pipelines import activity_buffer

    if pipelines:
        activity_buffer.close()  # requests that are late are refused: nobody would take what they push
    for pipeline in pipelines:
        pipeline.stop()
