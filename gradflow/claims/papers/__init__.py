"""A folder a paper: its statements (``__init__``), its setting, and a file a theorem or figure.

A file's builders make claims: they take an instance or several of them, options, and the claim's
``id``; its ``DEFAULTS`` build the registered claims. So a statement can be weighed on a law, data
or a start of one's own:

>>> from gradflow.claims.papers.lin2021directional.rates import norm_constant
>>> from gradflow.claims.papers.lin2021directional.setting import instance
>>> claim = norm_constant(instance(gf.Gaussian(4), [1.0, 0.0, 0.0, -2.0]), id="mine/norm")
>>> gf.claims.weigh(claim, gf.claims.Lab())

They read the public façade, and the framework of `gradflow.claims`.
"""
