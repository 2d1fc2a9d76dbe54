"""
A pipeline on a spool; the connector is found by its name.
"""

import tempfile
import time

from off_broadway_spool import Spool

from broadway_sync import Pipeline, connectors

SpoolProducer = connectors.load("spool")


class Shout:
    def handle_message(self, processor, message, context):
        return message.update_data(lambda data: data.decode().upper())

    def handle_batch(self, batcher, messages, batch_info, context):
        print(*(message.data for message in messages))
        return messages


if __name__ == "__main__":
    print(connectors.available()["spool"])
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(folder)
        spool.create()
        for word in ("may", "the", "files", "be", "with", "you"):
            spool.put(word.encode())
        with Pipeline(
            Shout(),
            name="shout",
            producer={"module": (SpoolProducer, {"folder": folder})},
            processors={"default": {"concurrency": 1}},
            batchers={"default": {"batch_size": 3}},
        ):
            while spool.remaining():
                time.sleep(0.05)
