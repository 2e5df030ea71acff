"""The bibliography: what each citation key in the docstrings and verdicts stands for."""

from __future__ import annotations

from dataclasses import dataclass

from gradflow.validation import fail


@dataclass(frozen=True)
class Source:
    """One bibliographic entry.

    Attributes
    ----------
    key : str
        As cited, for example ``lin2021faster``.
    kind : str
        BibTeX entry type.
    authors : tuple of str
        "First Last" each.
    title, venue, year : str
    fields : tuple of (name, value)
        Further BibTeX fields.
    arxiv : str
        Identifier, or "".
    """

    key: str
    kind: str
    authors: tuple[str, ...]
    title: str
    year: str
    venue: str = ""
    arxiv: str = ""
    fields: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """The entry as one line of plain text."""
        parts = [", ".join(self.authors).strip("{}"), self.title]
        if self.venue:
            parts.append(self.venue)
        if self.arxiv:
            parts.append(f"arXiv:{self.arxiv}")
        return ". ".join(parts) + f" ({self.year})."

    def bibtex(self) -> str:
        """The entry in BibTeX."""
        name = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}
        entries = [
            ("author", " and ".join(_last_first(a) for a in self.authors)),
            ("title", "{" + self.title + "}"),
            ("year", self.year),
        ]
        if self.venue:
            entries.append((name.get(self.kind, "howpublished"), self.venue))
        if self.arxiv:
            entries += [("eprint", self.arxiv), ("archivePrefix", "arXiv")]
        entries += list(self.fields)
        body = ",\n".join(f"  {k} = {{{v}}}" for k, v in entries)
        return f"@{self.kind}{{{self.key},\n{body}\n}}"


def _last_first(author: str) -> str:
    if author.startswith("{"):  # a body, not a person
        return author
    first, _, last = author.rpartition(" ")
    return f"{last}, {first}" if first else f"{{{last}}}"


_NEURIPS = "Advances in Neural Information Processing Systems"
_ICML = "Proceedings of the 38th International Conference on Machine Learning"
_PMLR_139 = ("series", "Proceedings of Machine Learning Research 139")
_ICLR = "International Conference on Learning Representations"

_ALL = (
    Source(
        "lin2021directional",
        "misc",
        ("Dachao Lin", "Zhihua Zhang"),
        "Directional Convergence Analysis under Spherically Symmetric Distribution",
        "2021",
        arxiv="2105.03879",
    ),
    Source(
        "lin2021faster",
        "inproceedings",
        ("Dachao Lin", "Ruoyu Sun", "Zhihua Zhang"),
        "Faster Directional Convergence of Linear Neural Networks under Spherically Symmetric Data",
        "2021",
        f"{_NEURIPS} 34",
        fields=(
            ("pages", "4647--4660"),
            ("note", "Statements are cited as in the anonymous submission"),
        ),
    ),
    Source(
        "sarussi2021linear",
        "inproceedings",
        ("Roei Sarussi", "Alon Brutzkus", "Amir Globerson"),
        "Towards Understanding Learning in Neural Networks with Linear Teachers",
        "2021",
        _ICML,
        "2101.02533",
        (_PMLR_139, ("pages", "9313--9322")),
    ),
    Source(
        "benson2020over",
        "misc",
        ("Austin R. Benson", "Anil Damle", "Alex Townsend"),
        "Over-parametrized neural networks as under-determined linear systems",
        "2020",
        arxiv="2010.15959",
    ),
    Source(
        "akiyama2021learnability",
        "inproceedings",
        ("Shunta Akiyama", "Taiji Suzuki"),
        "On Learnability via Gradient Method for Two-Layer ReLU Neural Networks in "
        "Teacher-Student Setting",
        "2021",
        _ICML,
        "2106.06251",
        (_PMLR_139, ("pages", "152--162")),
    ),
    Source(
        "lyu2021margin",
        "inproceedings",
        ("Kaifeng Lyu", "Zhiyuan Li", "Runzhe Wang", "Sanjeev Arora"),
        "Gradient Descent on Two-layer Nets: Margin Maximization and Simplicity Bias",
        "2021",
        f"{_NEURIPS} 34",
        "2110.13905",
        (("pages", "12978--12991"),),
    ),
    Source(
        "lyu2020homogeneous",
        "inproceedings",
        ("Kaifeng Lyu", "Jian Li"),
        "Gradient Descent Maximizes the Margin of Homogeneous Neural Networks",
        "2020",
        _ICLR,
        "1906.05890",
    ),
    Source(
        "chizat2019lazy",
        "inproceedings",
        ("Lenaic Chizat", "Edouard Oyallon", "Francis Bach"),
        "On Lazy Training in Differentiable Programming",
        "2019",
        "Advances in Neural Information Processing Systems",
        "1812.07956",
    ),
    Source(
        "geiger2020disentangling",
        "article",
        ("Mario Geiger", "Stefano Spigler", "Arthur Jacot", "Matthieu Wyart"),
        "Disentangling feature and lazy training in deep neural networks",
        "2020",
        "Journal of Statistical Mechanics: Theory and Experiment",
        "1906.08034",
        (("pages", "113301"),),
    ),
    Source(
        "chizat2020implicit",
        "inproceedings",
        ("Lenaic Chizat", "Francis Bach"),
        "Implicit Bias of Gradient Descent for Wide Two-layer Neural Networks Trained with the "
        "Logistic Loss",
        "2020",
        "Conference on Learning Theory",
        "2002.04486",
        (("pages", "1305--1338"),),
    ),
    Source(
        "du2018balanced",
        "inproceedings",
        ("Simon S. Du", "Wei Hu", "Jason D. Lee"),
        "Algorithmic Regularization in Learning Deep Homogeneous Models: Layers are "
        "Automatically Balanced",
        "2018",
        f"{_NEURIPS} 31",
        "1806.00900",
    ),
    Source(
        "tropp2012user",
        "article",
        ("Joel A. Tropp",),
        "User-Friendly Tail Bounds for Sums of Random Matrices",
        "2012",
        "Foundations of Computational Mathematics",
        "1004.4389",
        (("volume", "12"), ("pages", "389--434")),
    ),
    Source(
        "chen2003strictly",
        "article",
        ("Debao Chen", "Valdir A. Menegatto", "Xingping Sun"),
        "A Necessary and Sufficient Condition for Strictly Positive Definite Functions on Spheres",
        "2003",
        "Proceedings of the American Mathematical Society",
        fields=(("volume", "131"), ("pages", "2733--2740")),
    ),
    Source(
        "filippov1988",
        "book",
        ("Aleksei F. Filippov",),
        "Differential Equations with Discontinuous Righthand Sides",
        "1988",
        "Kluwer Academic Publishers",
    ),
    Source(
        "clarke1983",
        "book",
        ("Frank H. Clarke",),
        "Optimization and Nonsmooth Analysis",
        "1983",
        "Wiley",
    ),
    Source(
        "tian2017analytical",
        "inproceedings",
        ("Yuandong Tian",),
        "An Analytical Formula of Population Gradient for Two-Layered ReLU Network and its "
        "Applications in Convergence and Critical Point Analysis",
        "2017",
        "Proceedings of the 34th International Conference on Machine Learning",
        "1703.00560",
    ),
    Source(
        "cho2009kernel",
        "inproceedings",
        ("Youngmin Cho", "Lawrence K. Saul"),
        "Kernel Methods for Deep Learning",
        "2009",
        f"{_NEURIPS} 22",
    ),
    Source(
        "williams1997infinite",
        "inproceedings",
        ("Christopher K. I. Williams",),
        "Computing with Infinite Networks",
        "1997",
        f"{_NEURIPS} 9",
    ),
    Source(
        "saad1995online",
        "article",
        ("David Saad", "Sara A. Solla"),
        "On-line Learning in Soft Committee Machines",
        "1995",
        "Physical Review E",
        fields=(("volume", "52"), ("number", "4"), ("pages", "4225--4243")),
    ),
    Source(
        "hairer1996solving",
        "book",
        ("Ernst Hairer", "Gerhard Wanner"),
        "Solving Ordinary Differential Equations II: Stiff and Differential-Algebraic Problems",
        "1996",
        "Springer",
    ),
    Source(
        "petzold1983automatic",
        "article",
        ("Linda Petzold",),
        "Automatic Selection of Methods for Solving Stiff and Nonstiff Systems of Ordinary "
        "Differential Equations",
        "1983",
        "SIAM Journal on Scientific and Statistical Computing 4(1)",
    ),
    Source(
        "kidger2022neural",
        "phdthesis",
        ("Patrick Kidger",),
        "On Neural Differential Equations",
        "2021",
        arxiv="2202.02435",
        fields=(("school", "University of Oxford"),),
    ),
    Source(
        "brutzkus2018sgd",
        "inproceedings",
        ("Alon Brutzkus", "Amir Globerson", "Eran Malach", "Shai Shalev-Shwartz"),
        "SGD Learns Over-parameterized Networks that Provably Generalize on Linearly Separable "
        "Data",
        "2018",
        _ICLR,
        "1710.10174",
    ),
    Source(
        "phuong2021inductive",
        "inproceedings",
        ("Mary Phuong", "Christoph H. Lampert"),
        "The Inductive Bias of ReLU Networks on Orthogonally Separable Data",
        "2021",
        _ICLR,
    ),
    Source(
        "arora2018optimization",
        "inproceedings",
        ("Sanjeev Arora", "Nadav Cohen", "Elad Hazan"),
        "On the Optimization of Deep Networks: Implicit Acceleration by Overparameterization",
        "2018",
        "Proceedings of the 35th International Conference on Machine Learning",
        "1802.06509",
    ),
    Source(
        "boursier2022orthogonal",
        "inproceedings",
        ("Etienne Boursier", "Loucas Pillaud-Vivien", "Nicolas Flammarion"),
        "Gradient Flow Dynamics of Shallow ReLU Networks for Square Loss and Orthogonal Inputs",
        "2022",
        f"{_NEURIPS} 35",
        "2206.00939",
    ),
    Source(
        "tsoy2024simplicity",
        "inproceedings",
        ("Nikita Tsoy", "Nikola Konstantinov"),
        "Simplicity Bias of Two-Layer Networks beyond Linearly Separable Data",
        "2024",
        "Proceedings of the 41st International Conference on Machine Learning",
        "2405.17299",
    ),
    Source(
        "elkabetz2021continuous",
        "inproceedings",
        ("Omer Elkabetz", "Nadav Cohen"),
        "Continuous vs. Discrete Optimization of Deep Neural Networks",
        "2021",
        f"{_NEURIPS} 34",
        "2107.06608",
    ),
    Source(
        "kunin2024rich",
        "inproceedings",
        (
            "Daniel Kunin",
            "Allan Raventós",
            "Clémentine Dominé",
            "Feng Chen",
            "David Klindt",
            "Andrew Saxe",
            "Surya Ganguli",
        ),
        "Get Rich Quick: Exact Solutions Reveal how Unbalanced Initializations Promote Rapid "
        "Feature Learning",
        "2024",
        f"{_NEURIPS} 37",
        "2406.06158",
    ),
    Source(
        "gradflow",
        "software",
        ("{gradflow contributors}",),
        "gradflow: gradient flows of two-layer neural networks as ODEs",
        "2025",
    ),
)

#: Every source by its key.
SOURCES: dict[str, Source] = {source.key: source for source in _ALL}


def cite(key: str) -> Source:
    """The source behind a citation key."""
    if key not in SOURCES:
        raise fail("key", key, "is not a citation key", "choose one of " + ", ".join(SOURCES))
    return SOURCES[key]
