"""Recipes: a flow, or a sweep of flows, as a file says it; nothing in a file is evaluated.

=============== ==================================================================================
key or table    what it says
=============== ==================================================================================
``title``       free text
``observe``     names of observables (``gf.observables.names()``)
``certificate`` ``true``: certify the limit (``gf.certify``)
``series``      ``true``: a sweep keeps observables at the times of ``save_at``, not the last only
``[data]``      ``dataset``, a name of ``gf.datasets``, and its arguments; or ``file`` (``.npz``,
                ``.csv``, ``.nc``, beside the recipe) and the names of its arrays ``X``, ``y``,
                ``weights``, ``offset`` (lists of names: columns); or these arrays; or ``law``, a
                kind of law of the inputs, and its arguments
``[teacher]``   of a law: ``direction``, or ``net`` with ``params`` (as a start)
``[net]``       ``kind`` of network and its arguments; ``dim`` may be left to the data; an
                ``activation`` is a name of ``gf`` or ``{kind = ..., ...}``; random features are
                drawn by ``seed``
``[risk]``      ``loss``, ``reduction``, ``tv`` and ``l2`` (`gf.Regularised`)
``[start]``     ``seed``, ``scale``, ``scheme``; or ``file`` with the names of ``inner``, ``outer``,
                ``bias``, ``weight``; or these arrays, or ``layers``
``[until]``     ``time``, ``log_time``, ``clock``, ``loss``, ``gradient``, ``direction``, ``steps``:
                the first that is met
``[integrate]`` arguments of ``gf.integrate``; ``save_at`` are times, a list's rule, or
                ``{log_times = ...}``, ``{clock = ...}``
``[grid]``      of a sweep: a key, as ``"start.seed"``, and its values
=============== ==================================================================================

Lists of numbers may be rules: ``{range = 20}``, ``{linspace = [a, b, n]}``, ``{logspace = [a, b,
n]}`` (:mod:`gradflow.recipes.values`).

A recipe reads risks, starts and horizons by the names of the register and of ``gf``, and hands them
to ``gf.integrate``. It knows no command line.
"""
