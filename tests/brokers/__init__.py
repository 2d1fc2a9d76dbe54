"""
Real brokers for the tests: each is started on 127.0.0.1, on free ports, in a folder of its own, and is gone at the end.

``fixtures.py`` is what tests use. A broker is a class with the verbs of ``broker.Broker`` (``start stop kill restart
pause resume close``) in a file of its own, beside the helpers that make a fresh queue, topic or subscription there.
``proxy.py`` puts faults into a connection, ``spawn.py`` runs a consumer in a process that can be killed.

Whatever is started is known to a guardian process (``guardian.py``) before it runs: when the test process dies, in
whatever way, the guardian kills it and removes its folder.
"""
