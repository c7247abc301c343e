"""What a bundle says: the records of its JSON files, field by field, with their ranges.

`README.md` beside this file explains every field, its unit, and how a page reads a bundle. `records` turns these
types into JSON and back, and says what is wrong and where; `bundle` reads, writes and checks whole folders.
"""

import math
from typing import Annotated, NamedTuple

FORMAT = "sparks-lens"
VERSION = 1  # raised when a field changes its meaning or goes; new fields with a default do not raise it


class Within(NamedTuple):
    """The range of a number, both ends included."""

    low: float
    high: float


class Pattern(NamedTuple):
    """What a text looks like, as a regular expression that it matches whole."""

    expression: str
    means: str


Share = Annotated[float, Within(0.0, 1.0)]
Cosine = Annotated[float, Within(-1.0, 1.0)]
Coordinate = Annotated[float, Within(-1.0, 1.0)]
Positive = Annotated[float, Within(0.0, math.inf)]
Count = Annotated[int, Within(0, math.inf)]
Digest = Annotated[str, Pattern(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal")]
FileName = Annotated[str, Pattern(r"(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_./-]*", "a relative name with / between folders")]
Name = Annotated[str, Pattern(r"[a-z0-9][a-z0-9_-]*", "lower case letters, digits, - and _")]

# Columns of the parts of `ClassRecord.arrays` and `AtlasRecord.arrays`.
POINT_COLUMNS = ("x", "y", "concept", "cluster", "label", "correct", "score", "explained", "tile", "image")
CONCEPT_COLUMNS = ("class", "concept", "x", "y", "share", "own_cosine")


# --- parts that recur -------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A number with its confidence interval at `AtlasRecord.level`."""

    value: float
    low: float
    high: float


class Proportion(NamedTuple):
    """`number` out of `total`, with Wilson's interval; `value` is None where `total` is 0."""

    value: Share | None
    low: Share
    high: Share
    number: Count
    total: Count


class Part(NamedTuple):
    """One array inside an array file: float32, little-endian, in C order."""

    name: Name
    offset: Count
    shape: list[Count]
    columns: list[str] | None = None


class ArrayFile(NamedTuple):
    """An array file and what lies in it."""

    file: FileName
    sha256: Digest
    bytes: Count
    parts: list[Part]


class ImageFile(NamedTuple):
    """An image file."""

    file: FileName
    sha256: Digest
    width: Count
    height: Count


# --- one class --------------------------------------------------------------------------------------------


class Crop(NamedTuple):
    """A part of an image with much of a concept."""

    image: ImageFile
    row: Count
    box: Annotated[list[Share], "top, left, height, width"]
    amount: float


class Picture(NamedTuple):
    """What a concept looks like to the network: an image made from noise."""

    image: ImageFile
    method: str
    steps: Count
    seed: Count
    score: float


class Alignment(NamedTuple):
    """How much a concept points to a class."""

    label: Count
    name: str
    cosine: Cosine


class Known(NamedTuple):
    """The share of a concept's where-maps that lies on something known to be in the images."""

    name: str
    share: Interval


class SubConcept(NamedTuple):
    """A part that a concept is made of, at an earlier layer."""

    importance: Interval
    energy: Share
    crops: list[Crop]


class Decomposition(NamedTuple):
    """A concept taken apart at an earlier layer."""

    layer: str
    relative_error: Positive
    concepts: list[SubConcept]


class Concept(NamedTuple):
    """One concept of a class."""

    name: str | None
    importance: Interval
    share: float
    important: bool
    sobol: Interval | None
    prevalence: Proportion
    reliability: Proportion
    energy: Share
    dead: bool
    stability: Cosine | None
    own_cosine: Cosine | None
    alignment: list[Alignment]
    xy: Annotated[list[Coordinate], "x, y"]
    picture: Picture | None
    crops: list[Crop]
    known: list[Known]
    parts: Decomposition | None


class Importance(NamedTuple):
    """How the importance of concepts was found, and what it leaves out."""

    method: str
    exact: bool
    unit: str
    origin: float
    score: Interval
    explained: Interval
    residual: Interval
    sobol_total: Interval | None


class Metrics(NamedTuple):
    """Whether to trust the concepts of a class."""

    relative_error: Positive
    r_squared: float | None
    logit_r_squared: float | None
    stability: Share | None
    c_deletion: float | None
    c_insertion: float | None
    c_fidelity: float | None
    agreement: Share | None


class Cluster(NamedTuple):
    """A group of images that are recognised by the same set of concepts."""

    concepts: list[Count]
    prevalence: Proportion
    reliability: Proportion


class Strategies(NamedTuple):
    """How the plane of images was made, and the groups in it."""

    embedding: str
    perplexity: Positive
    seed: Count
    clusters: list[Cluster]


class Confusion(NamedTuple):
    """Another class that this one is confused with."""

    label: Count
    name: str
    share: Proportion
    rows: list[Count]


class Rival(NamedTuple):
    """A class whose logit is kept for every image; the first is the class itself."""

    label: Count
    name: str


class Exhibit(NamedTuple):
    """An image that is shown large, with a map of each concept."""

    image: ImageFile
    row: Count


class BlackBox(NamedTuple):
    """How the maps `where_black_box` of the exhibits were found: by what hiding parts of an image changes."""

    method: str
    evaluations: Count
    seed: Count


class Sheet(NamedTuple):
    """Small pictures of images, side by side in one file."""

    image: ImageFile
    tile: Count
    columns: Count
    number: Count


class ClassRecord(NamedTuple):
    """`classes/<id>.json`: everything about one class."""

    format: str
    version: int
    fingerprint: str
    id: Name
    label: Count
    name: str
    num_images: Count
    num_labelled: Count
    recall: Proportion
    precision: Proportion
    score: Interval
    importance: Importance
    concepts: list[Concept]
    metrics: Metrics
    strategies: Strategies
    taken_for: list[Confusion]
    mistaken: list[Confusion]
    rivals: list[Rival]
    names: list[str] | None
    exhibits: list[Exhibit]
    sheet: Sheet | None
    arrays: ArrayFile
    bank: ArrayFile
    notes: list[str] = []
    black_box: BlackBox | None = None


# --- one atlas, and the bundle ----------------------------------------------------------------------------


class ClassEntry(NamedTuple):
    """A line of the index: enough to list, search and draw a card of a class."""

    id: Name
    label: Count
    name: str
    file: FileName
    sha256: Digest
    num_images: Count
    precision: Share | None
    num_concepts: Count
    num_important: Count
    shares: list[float]
    cover: FileName | None


class Model(NamedTuple):
    """The network."""

    name: str
    about: str
    size: Count
    num_classes: Count
    layer: str
    affine_head: bool
    load: str | None


class Data(NamedTuple):
    """The images."""

    name: str
    about: str
    num_images: Count
    labelled: bool
    accuracy: Proportion


class AtlasRecord(NamedTuple):
    """`atlas.json`: the index of one atlas, a model on a set of images."""

    format: str
    version: int
    fingerprint: str
    id: Name
    title: str
    about: str
    finished: bool
    level: Share
    model: Model
    data: Data
    class_names: list[str]
    settings: dict[str, str | int | float | bool | None]
    classes: list[ClassEntry]
    arrays: ArrayFile | None
    known: list[str] = []


class AtlasEntry(NamedTuple):
    """A line of `lens.json`."""

    id: Name
    title: str
    about: str
    file: FileName
    num_classes: Count


class LensRecord(NamedTuple):
    """`lens.json`: which atlases a bundle holds."""

    format: str
    version: int
    atlases: list[AtlasEntry]
