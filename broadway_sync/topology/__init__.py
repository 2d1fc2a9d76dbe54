"""
The stages of a pipeline and what connects them. Read ``topology.py`` first, then one stage.
"""
