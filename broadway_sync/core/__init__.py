"""
Decisions without input or output: no thread, no lock, no clock. Time is an argument, in monotonic seconds.
"""
