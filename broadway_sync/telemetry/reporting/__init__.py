"""
What the reporters share: events become small sums here, on the stages' threads; everything that may take time or fail
(clients, sockets, names to resolve) happens on threads of the reporters.
"""
