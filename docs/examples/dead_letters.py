"""
Keeps what failed in a file, and shows it; then another pipeline handles it after all.
"""

import json
import logging
import tempfile
from pathlib import Path

from broadway_sync import IterableProducer, Pipeline
from broadway_sync.dead_letter import DeadLetter, FileLetters

logging.getLogger("broadway_sync").setLevel(logging.CRITICAL)  # the reasons are in the letters
path = Path(tempfile.mkdtemp()) / "orders.dead.jsonl"


class Orders:
    handle_failed = DeadLetter(FileLetters(path), max_run=100, max_ratio=0.5)

    def __init__(self, articles):
        self.articles = articles

    def handle_message(self, processor, message, context):
        number, article = message.data.split()
        if article not in self.articles:
            return message.fail(f"no such article: {article}")
        print("shipped:", int(number), article)
        return message


def run(articles, orders):
    producer = {"module": (IterableProducer, {"iterable": orders})}
    with Pipeline(
        Orders(articles), name="orders", producer=producer, processors={"default": {"concurrency": 1}}
    ) as pipeline:
        pipeline.join()


run({"lamp"}, ["1 lamp", "one lamp", "2 chair"])

letters = [json.loads(line) for line in path.read_text().splitlines()]
for letter in letters:
    print(f"{letter['body']!r} failed on {letter['stage']}: {letter['reason']}")

run({"lamp", "chair"}, [letter["body"] for letter in letters if letter["reason"].startswith("no such article")])
