"""
Declared retries.
"""
