"""
Counts the words of the files named on the command line; Ctrl-C and SIGTERM end it in good order.
"""

import collections
import sys

from broadway_sync import DrainTimeoutError, IterableProducer, Pipeline, PipelineFailedError, run_until_signal


class CountWords:
    def __init__(self):
        self.words = collections.Counter()

    def handle_message(self, processor, message, context):
        return message.update_data(lambda line: line.lower().split())

    def handle_batch(self, batcher, messages, batch_info, context):
        # The only batch processor, so nobody else touches the counter.
        for message in messages:
            self.words.update(message.data)
        return messages


def read_lines(paths):
    for path in paths:
        with open(path, encoding="utf-8") as file:
            yield from file


def main(paths):
    handler = CountWords()
    pipeline = Pipeline(
        handler,
        name="words",
        producer={"module": (IterableProducer, {"iterable": read_lines(paths)})},
        processors={"default": {"concurrency": 2, "max_demand": 100}},
        batchers={"default": {"concurrency": 1, "batch_size": 1000}},
    )
    try:
        run_until_signal(pipeline)
    except PipelineFailedError as error:
        print("failed:", error.__cause__, file=sys.stderr)
        return 1
    except DrainTimeoutError as error:
        print(f"stopped with {error.left_behind} lines not counted", file=sys.stderr)
        return 1
    for word, count in handler.words.most_common(3):
        print(count, word)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
