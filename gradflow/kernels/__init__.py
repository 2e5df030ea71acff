r"""Kernels of random features, :math:`K(x,x')=E_w[\varphi(w\cdot x)\varphi(w\cdot x')]`.

Gram matrices by closed form (`arc_cosine`, `ntk`, `arcsine`, `gaussian`, `shifted_arc_cosine`) and,
for any activation, by quadrature (`gram`); their rank (`numerical_rank`); Gegenbauer coefficients
of activations and the eigenvalues of the kernels on the sphere (`gegenbauer_coefficients`,
`spectrum`); whether a kernel is strictly positive definite (`positive_definite_criterion`).
Source: `benson2020over`.
"""

from gradflow.kernels.criterion import Decision as Decision
from gradflow.kernels.criterion import (
    positive_definite_criterion as positive_definite_criterion,
)
from gradflow.kernels.gegenbauer import Coefficients as Coefficients
from gradflow.kernels.gegenbauer import Spectrum as Spectrum
from gradflow.kernels.gegenbauer import gegenbauer_coefficients as gegenbauer_coefficients
from gradflow.kernels.gegenbauer import gegenbauer_polynomials as gegenbauer_polynomials
from gradflow.kernels.gegenbauer import multiplicity as multiplicity
from gradflow.kernels.gegenbauer import spectrum as spectrum
from gradflow.kernels.gram import arc_cosine as arc_cosine
from gradflow.kernels.gram import arcsine as arcsine
from gradflow.kernels.gram import gaussian as gaussian
from gradflow.kernels.gram import gram as gram
from gradflow.kernels.gram import ntk as ntk
from gradflow.kernels.gram import shifted_arc_cosine as shifted_arc_cosine
from gradflow.kernels.rank import Rank as Rank
from gradflow.kernels.rank import numerical_rank as numerical_rank
