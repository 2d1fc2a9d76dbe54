from broadway_sync import ConfigurationError, DummyProducer, Pipeline


class Handler:
    def handle_message(self, processor, message, context):
        return message


try:
    Pipeline(
        Handler(),
        name="readings",
        producer={"module": (DummyProducer, {})},
        processors={"default": {"concurency": 4}},
    )
except ConfigurationError as error:
    print(error)
