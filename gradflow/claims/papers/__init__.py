"""A folder a paper: its statements (``__init__``), its setting, and a file a theorem or figure.

They read the public façade, and the framework of `gradflow.claims`.
"""
