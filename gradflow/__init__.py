"""gradflow: gradient flows of two-layer networks as ODEs, to the accuracy at which theory can be
checked.

A *risk* and a start make a *flow*; an *integrator* turns the flow into a *trajectory*;
*observables*
read the trajectory; *derivations* predict what they must read; *claims* hold the two against each
other. Names are imported on first use, so that ``import gradflow`` stays light. JAX is switched to
64-bit floats on import.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from gradflow._jax import enable_x64 as _enable_x64

_enable_x64()

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gradflow import benchmarking as benchmarking
    from gradflow import certificates as certificates
    from gradflow import claims as claims
    from gradflow import kernels as kernels
    from gradflow import observables as observables
    from gradflow import protocols as protocols
    from gradflow import rates as rates
    from gradflow import recipes as recipes
    from gradflow import symbolic as symbolic
    from gradflow.benchmarking.work_precision import work_precision as work_precision
    from gradflow.certificates.certificate import Certificate as Certificate
    from gradflow.certificates.certificate import certify as certify
    from gradflow.claims.verification import verify as verify
    from gradflow.data import datasets as datasets
    from gradflow.data.laws.laws import Gaussian as Gaussian
    from gradflow.data.laws.laws import SphericalLaw as SphericalLaw
    from gradflow.data.laws.laws import StudentT as StudentT
    from gradflow.data.laws.laws import UniformBall as UniformBall
    from gradflow.data.laws.laws import UniformSphere as UniformSphere
    from gradflow.data.laws.radial_law import RadialLaw as RadialLaw
    from gradflow.data.teachers import LinearTeacher as LinearTeacher
    from gradflow.data.teachers import NetworkTeacher as NetworkTeacher
    from gradflow.integration import IntegrationError as IntegrationError
    from gradflow.integration import IntegrationWarning as IntegrationWarning
    from gradflow.integration import integrate as integrate
    from gradflow.integrators import save as save
    from gradflow.integrators import until as until
    from gradflow.integrators.driver import integrator_names as integrator_names
    from gradflow.integrators.settings import SmallStartWarning as SmallStartWarning
    from gradflow.losses import cross_entropy as cross_entropy
    from gradflow.losses import exponential as exponential
    from gradflow.losses import hinge as hinge
    from gradflow.losses import logistic as logistic
    from gradflow.losses import loss as loss
    from gradflow.losses import soft_logistic as soft_logistic
    from gradflow.losses import squared as squared
    from gradflow.many.starts import integrate_many as integrate_many
    from gradflow.networks.activations import AbstractActivation as AbstractActivation
    from gradflow.networks.activations import LeakyReLU as LeakyReLU
    from gradflow.networks.activations import PiecewiseLinear as PiecewiseLinear
    from gradflow.networks.activations import ShiftedReLU as ShiftedReLU
    from gradflow.networks.activations import UnstatedKinkWarning as UnstatedKinkWarning
    from gradflow.networks.activations import absolute as absolute
    from gradflow.networks.activations import activation as activation
    from gradflow.networks.activations import elu as elu
    from gradflow.networks.activations import erf as erf
    from gradflow.networks.activations import fourier as fourier
    from gradflow.networks.activations import gelu as gelu
    from gradflow.networks.activations import hard_tanh as hard_tanh
    from gradflow.networks.activations import leaky_relu as leaky_relu
    from gradflow.networks.activations import linear as linear
    from gradflow.networks.activations import monomial as monomial
    from gradflow.networks.activations import piecewise_linear as piecewise_linear
    from gradflow.networks.activations import probit_erf as probit_erf
    from gradflow.networks.activations import relu as relu
    from gradflow.networks.activations import shifted_relu as shifted_relu
    from gradflow.networks.activations import sigmoid as sigmoid
    from gradflow.networks.activations import softplus as softplus
    from gradflow.networks.activations import swish as swish
    from gradflow.networks.activations import tanh as tanh
    from gradflow.networks.deep_linear import DeepLinear as DeepLinear
    from gradflow.networks.networks import LinearPredictor as LinearPredictor
    from gradflow.networks.networks import TwoLayer as TwoLayer
    from gradflow.networks.parameters import TwoLayerParams as TwoLayerParams
    from gradflow.networks.random_features import RandomFeatures as RandomFeatures
    from gradflow.numerics.vectors import angle as angle
    from gradflow.numerics.vectors import log_tan_half as log_tan_half
    from gradflow.numerics.vectors import perpendicular as perpendicular
    from gradflow.order import DescentOrder as DescentOrder
    from gradflow.order import descent_order as descent_order
    from gradflow.order import first_order_error as first_order_error
    from gradflow.paths import steps as steps
    from gradflow.paths.descent import descend as descend
    from gradflow.paths.file import load as load
    from gradflow.paths.saving import NeedsRiskWarning as NeedsRiskWarning
    from gradflow.paths.trajectory import Trajectory as Trajectory
    from gradflow.plots.trajectory import plot as plot
    from gradflow.rates import Estimate as Estimate
    from gradflow.recipes.errors import RecipeError as RecipeError
    from gradflow.recipes.recipe import Recipe as Recipe
    from gradflow.recipes.recipe import recipe as recipe
    from gradflow.registry import register as register
    from gradflow.risks.empirical import EmpiricalRisk as EmpiricalRisk
    from gradflow.risks.function import FunctionRisk as FunctionRisk
    from gradflow.risks.population.gaussian_kernels import gaussian_kernel as gaussian_kernel
    from gradflow.risks.population.population import PopulationRisk as PopulationRisk
    from gradflow.risks.regularised import Regularised as Regularised
    from gradflow.sweeps.errors import SweepError as SweepError
    from gradflow.sweeps.errors import SweepWarning as SweepWarning
    from gradflow.sweeps.sweep import sweep as sweep
    from gradflow.symbolic import derive as derive

#: Public names by the module that defines them; one line a group.
_EXPORTS = {
    # activations, losses, networks, laws of the inputs, teachers
    "gradflow.networks.activations": (
        "AbstractActivation LeakyReLU PiecewiseLinear ShiftedReLU UnstatedKinkWarning absolute "
        "activation elu erf fourier gelu hard_tanh leaky_relu linear monomial piecewise_linear "
        "probit_erf relu shifted_relu sigmoid softplus swish tanh"
    ),
    "gradflow.losses": ("cross_entropy exponential hinge logistic loss soft_logistic squared"),
    "gradflow.networks.networks": "LinearPredictor TwoLayer",
    "gradflow.networks.deep_linear": "DeepLinear",
    "gradflow.networks.parameters": "TwoLayerParams",
    "gradflow.networks.random_features": "RandomFeatures",
    "gradflow.data.laws.laws": "Gaussian SphericalLaw StudentT UniformBall UniformSphere",
    "gradflow.data.laws.radial_law": "RadialLaw",
    "gradflow.data.teachers": "LinearTeacher NetworkTeacher",
    "gradflow.registry": "register",
    # risks: of a data set, of a law, of any JAX function
    "gradflow.risks.empirical": "EmpiricalRisk",
    "gradflow.risks.population.population": "PopulationRisk",
    "gradflow.risks.function": "FunctionRisk",
    "gradflow.risks.regularised": "Regularised",
    "gradflow.risks.population.gaussian_kernels": "gaussian_kernel",
    # integration: the flow, and gradient descent beside it
    "gradflow.paths.descent": "descend",
    "gradflow.integrators.driver": "integrator_names",
    "gradflow.integrators.settings": "SmallStartWarning",
    "gradflow.integration": "IntegrationError IntegrationWarning integrate",
    "gradflow.order": "DescentOrder descent_order first_order_error",
    "gradflow.many.starts": "integrate_many",
    "gradflow.sweeps.sweep": "sweep",
    "gradflow.sweeps.errors": "SweepError SweepWarning",
    "gradflow.paths.trajectory": "Trajectory",
    "gradflow.paths.file": "load",
    "gradflow.paths.saving": "NeedsRiskWarning",
    # a flow as a file says it
    "gradflow.recipes.recipe": "Recipe recipe",
    "gradflow.recipes.errors": "RecipeError",
    # solvers, measured
    "gradflow.benchmarking.work_precision": "work_precision",
    # limits, certified
    "gradflow.certificates.certificate": "Certificate certify",
    # predictions, rates and claims
    "gradflow.symbolic": "derive",
    "gradflow.rates": "Estimate",
    "gradflow.claims.verification": "verify",
    # directions of vectors, without cancellation
    "gradflow.numerics.vectors": "angle log_tan_half perpendicular",
    # pictures
    "gradflow.plots.trajectory": "plot",
}
_MODULES = {
    "benchmarking": "gradflow.benchmarking",
    "until": "gradflow.integrators.until",
    "save": "gradflow.integrators.save",
    "certificates": "gradflow.certificates",
    "claims": "gradflow.claims",
    "datasets": "gradflow.data.datasets",
    "kernels": "gradflow.kernels",
    "observables": "gradflow.observables",
    "protocols": "gradflow.protocols",
    "rates": "gradflow.rates",
    "recipes": "gradflow.recipes",
    "steps": "gradflow.paths.steps",
    "symbolic": "gradflow.symbolic",
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        value = _import_module(_MODULES[name])
    elif name in _HOME:
        value = getattr(_import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'gradflow' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
