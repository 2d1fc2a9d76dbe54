"""
Programs to read and to run; none of this is installed with the library.
"""
