"""Certificates of limits: KKT points of the max-margin problem polished to rounding, exact
hard-margin solutions and their evidence, stationary points with their spectra, and minimisers of
the total-variation problem with their dual certificates."""

from __future__ import annotations

from gradflow.certificates.certificate import Certificate as Certificate
from gradflow.certificates.certificate import certify as certify
from gradflow.certificates.global_margin import GlobalMargin as GlobalMargin
from gradflow.certificates.global_margin import global_max_margin as global_max_margin
from gradflow.certificates.kkt import KKTResidual as KKTResidual
from gradflow.certificates.kkt import Sliding as Sliding
from gradflow.certificates.kkt import kkt_residual as kkt_residual
from gradflow.certificates.margin import Contradiction as Contradiction
from gradflow.certificates.margin import HardMargin as HardMargin
from gradflow.certificates.margin import Separability as Separability
from gradflow.certificates.margin import contradictions as contradictions
from gradflow.certificates.margin import hard_margin_svm as hard_margin_svm
from gradflow.certificates.margin import separable as separable
from gradflow.measures.dual import DecayRates as DecayRates
from gradflow.measures.dual import DualCertificate as DualCertificate
from gradflow.measures.dual import decay_rates as decay_rates
from gradflow.measures.dual import dual_certificate as dual_certificate
from gradflow.measures.tv_minimiser import AtomicMeasure as AtomicMeasure
from gradflow.measures.tv_minimiser import TVMinimiser as TVMinimiser
from gradflow.measures.tv_minimiser import orthonormal_teachers as orthonormal_teachers
from gradflow.measures.tv_minimiser import tv_minimiser as tv_minimiser
