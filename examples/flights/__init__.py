"""
Imports flight records into SQLite through a pipeline: ``python -m examples.flights``.

To be read in this order:

* ``pipeline.py``: the pipeline, from the first option to the last callback. This is what one writes.
* ``records.py``: what a flight is and why a line is not one. Knows neither pipelines nor databases.
* ``source.py``: the file, checked as a whole and then read line by line.
* ``store.py``: the tables, and how a batch gets into them once however often it is delivered.
* ``report.py``: everything that is counted and timed, from telemetry alone.
* ``display.py`` and ``__main__.py``: the terminal and the command line.
"""
