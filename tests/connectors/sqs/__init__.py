"""
SQSProducer: its pure parts, with a fake client, and on real servers (``test_broker_*``).
"""
