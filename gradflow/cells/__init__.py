"""Neurons over the hyperplanes of the data: the arrangement, the sides, the flow's velocity there.

Arrays are NumPy's; :mod:`.forces` alone hands them to compiled programs. Imports losses and the
networks' parameters, nothing from above.
"""
