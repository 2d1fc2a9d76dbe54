"""
Dead letters: failed messages that are stored before they are acknowledged.
"""
