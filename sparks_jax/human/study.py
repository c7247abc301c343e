"""The design of a study: who sees which images, with which explanations, and is asked about which.

A participant learns from images with what the model said of them, some groups with an explanation beside, and then
predicts what the model says of new images, which have none. That is done in several sessions, with more examples each
time. Right is what the model said, be it true or not. Before that come a few trials for practice, which are told at
once what the model said, look the same in all groups and count for nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

BASELINE, CONTROL = "baseline", "control"  # no explanation; a map that knows nothing of the model
FORMAT = "sparks_jax study 1"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Item(NamedTuple):
    """An image of the pool, as it is used.

    Attributes:
        image: Its index in the pool.
        predicted: The class that the model says.
        label: The class that it is of.
    """

    image: int
    predicted: int
    label: int


class Check(NamedTuple):
    """A question that says what to answer: is anybody reading?

    Attributes:
        before: Index of the question that it comes before.
        answer: The class that it asks for.
    """

    before: int
    answer: int


class Session(NamedTuple):
    """What is learnt from, then asked.

    Attributes:
        examples: Those that are new in this session; the earlier ones are seen again.
        questions: In no order: each participant has another one.
        checks: Between them.
    """

    examples: tuple[Item, ...]
    questions: tuple[Item, ...]
    checks: tuple[Check, ...]


class Study(NamedTuple):
    """A study, whole: what is in it is what a reader needs to repeat it and to grade the answers.

    Attributes:
        title: What participants are told that it is called.
        classes: Names of the answers.
        methods: Names of the explanations compared, beside `BASELINE` and `CONTROL`.
        sessions: In order.
        seed: Of everything drawn.
        practice: Asked before the first session and told at once; in no session, and never counted.
    """

    title: str
    classes: tuple[str, ...]
    methods: tuple[str, ...]
    sessions: tuple[Session, ...]
    seed: int
    practice: tuple[Item, ...] = ()

    @classmethod
    def design(
        cls,
        predictions: Any,
        labels: Any,
        *,
        classes: Sequence[str],
        methods: Sequence[str],
        seed: int,
        title: str = "What does the model say?",
        examples: Sequence[int] = (5, 10, 15),
        questions: int = 7,
        checks: int = 1,
        practice: int = 3,
        wrong: float = 0.5,
        groups: Any = None,
    ) -> "Study":
        """Draw the sets of a study from a pool of images: disjoint, balanced over classes and over the model's errors.

        Examples have every class equally often, and within a class images that the model is right and wrong about in
        the share asked for; so have questions, and practice; all to within one image, in each session and over all.
        Practice is drawn last: the sessions are the same with any number of its trials.

        Args:
            predictions: `(n,)` the class that the model says of each image of the pool.
            labels: `(n,)` the class of each.
            classes: Their names; images of others (an index beyond) are not drawn.
            methods: Names of the explanations compared.
            seed: Of the draws.
            title: What participants are told that it is called.
            examples: How many have been seen in each session, all together.
            questions: In each session.
            checks: Questions that say what to answer, in each session.
            practice: Trials before the first session, told at once what the model said, without explanations for
                anybody; 0: none.
            wrong: Share of images that the model is wrong about; 0.5 tells the model from the truth best.
            groups: `(n,)` which images are alike (of one photograph, of one animal): of each group one at most is used.

        Raises:
            ValueError: For a pool without enough images of a kind, names used twice, a schedule that falls.

        Example:
            >>> predictions, labels = np.arange(80) % 2, np.arange(80) // 2 % 2
            >>> study = Study.design(predictions, labels, classes=("wolf", "husky"), methods=("rise",), seed=0)
            >>> study.schedule, study.conditions
            ((5, 10, 15), ('baseline', 'control', 'rise'))
            >>> [sum(q.predicted for q in session.questions) for session in study.sessions]  # of seven each
            [4, 3, 4]

        Reference:
            Colin et al. 2022, What I cannot predict, I do not understand, arXiv:2112.04417.
        """
        names = BASELINE, CONTROL, *methods
        _check_names(classes, names)
        _check_counts(examples, questions, checks, practice, wrong)
        rng = np.random.default_rng(seed)
        pool = _Pool(predictions, labels, groups, classes, rng)
        learnt, asked = (_kinds(len(classes), wrong, role) for role in (0, 1))
        new = np.diff([0, *examples])
        sets = [([next(learnt) for _ in range(n)], [next(asked) for _ in range(questions)]) for n in new]
        tried = list(islice(_kinds(len(classes), wrong, 0), practice))
        pool.check([kind for pair in sets for kinds in pair for kind in kinds] + tried)
        sessions = []
        for kinds in sets:
            shown, questioned = ([pool.draw(kind) for kind in part] for part in kinds)
            places = np.sort(rng.choice(np.arange(1, questions + 1), checks, replace=False))
            told = tuple(Check(int(p), int(rng.integers(len(classes)))) for p in places)
            sessions.append(Session(_shuffled(shown, rng), _shuffled(questioned, rng), told))
        return cls(
            title, tuple(classes), tuple(methods), tuple(sessions), seed, _shuffled([*map(pool.draw, tried)], rng)
        )

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the groups of participants: the baseline, the control, and one for each method."""
        return BASELINE, CONTROL, *self.methods

    @property
    def schedule(self) -> tuple[int, ...]:
        """How many examples have been seen in each session, all together."""
        return tuple(int(k) for k in np.cumsum([len(session.examples) for session in self.sessions]))

    @property
    def pages(self) -> dict[str, str]:
        """From a letter, which says nothing to a participant, to the condition on that page."""
        order = np.random.default_rng([self.seed, 1]).permutation(len(self.conditions))
        return {LETTERS[place]: self.conditions[i] for place, i in enumerate(order)}

    @property
    def identity(self) -> str:
        """Twelve digits that change with anything in the study: answers are told by them which they belong to."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:12]

    def answers(self) -> np.ndarray:
        """What the model says of every question: `(sessions, questions)`."""
        return np.array([[item.predicted for item in session.questions] for session in self.sessions])

    def allocation(self, num: int) -> tuple[str, ...]:
        """The condition of each of so many participants: every condition once in each block, in random order."""
        size = len(self.conditions)
        blocks = [np.random.default_rng([self.seed, 2, b]).permutation(size) for b in range(-(-num // size))]
        return tuple(self.conditions[i] for block in blocks for i in block)[:num]

    def as_json(self) -> str:
        """The study as text, which `from_json` reads.

        Example:
            >>> study = Study("Wolves", ("wolf", "husky"), ("rise",), (), 0)
            >>> Study.from_json(study.as_json()) == study
            True
        """
        held = {"format": FORMAT, **self._asdict()}
        if not self.practice:  # as before there was any: the same text, and so the same identity
            del held["practice"]
        return json.dumps(held, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Study":
        """The study of a text that `as_json` wrote.

        Args:
            text: All of it.

        Raises:
            ValueError: If it is not one, or not whole, or shows an image twice.
        """
        try:
            held = json.loads(text)
            if held["format"] != FORMAT:
                raise ValueError(f"its format is {held['format']!r}, expected {FORMAT!r}")
            read = lambda kind, part: tuple(kind(*map(int, entry)) for entry in part)
            sessions = tuple(
                Session(read(Item, examples), read(Item, questions), read(Check, checks))
                for examples, questions, checks in held["sessions"]
            )
            practice = read(Item, held.get("practice", ()))
            study = cls(
                held["title"], tuple(held["classes"]), tuple(held["methods"]), sessions, int(held["seed"]), practice
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"this is no study, or not a whole one: {error or type(error).__name__}") from None
        _check_names(study.classes, study.conditions)
        told = [item.predicted for item in items(study)] + [c.answer for s in sessions for c in s.checks]
        if not all(0 <= answer < len(study.classes) for answer in told):
            raise ValueError(f"the study has answers beyond its {len(study.classes)} classes: it was changed by hand")
        check_disjoint(study)
        return study


def items(study: Study) -> Iterator[Item]:
    """Every image of the study: for practice, then in the order of the sessions, examples before questions.

    Example:
        >>> item = Item(7, 0, 1)
        >>> [i.image for i in items(Study("t", ("a", "b"), (), (Session((item,), (), ()),), 0))]
        [7]

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    yield from study.practice
    for session in study.sessions:
        yield from session.examples
        yield from session.questions


def check_disjoint(study: Study) -> None:
    """Refuse a study that shows an image twice.

    Args:
        study: The study.

    Raises:
        ValueError: With the images, and where they are used.

    Example:
        >>> item = Item(7, 0, 1)
        >>> check_disjoint(Study("t", ("a", "b"), (), (Session((item,), (item,), ()),), 0))
        Traceback (most recent call last):
        ValueError: the sets of the study overlap: image 7 is used 2 times; design it again, with `groups` ...

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    twice = {image: n for image, n in Counter(item.image for item in items(study)).items() if n > 1}
    if twice:
        said = ", ".join(f"image {image} is used {n} times" for image, n in twice.items())
        raise ValueError(
            f"the sets of the study overlap: {said}; design it again, with `groups` if several images of the pool are "
            "the same"
        )


class _Pool:
    """Images of each kind, in random order, that have not been used."""

    def __init__(self, predictions: Any, labels: Any, groups: Any, classes: Sequence[str], rng: np.random.Generator):
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        groups = np.arange(predictions.size) if groups is None else np.asarray(groups)
        if predictions.ndim != 1 or not predictions.shape == labels.shape == groups.shape:
            raise ValueError(
                f"predictions has shape {predictions.shape}, labels {labels.shape} and groups {groups.shape}: expected "
                "one number for each image of the pool"
            )
        for name, given in (("predictions", predictions), ("labels", labels)):
            if not np.array_equal(given, given.astype(int)):
                raise ValueError(f"{name} holds {given[given != given.astype(int)][0]}, expected indices of classes")
        self.predictions, self.labels, self.groups, self.classes = predictions, labels, groups, classes
        order, used = rng.permutation(len(predictions)), set()
        self.left: dict[tuple[int, bool], list[int]] = {}
        for i in order:  # one image of each group, at random
            if groups[i] not in used:
                used.add(groups[i])
                self.left.setdefault((int(predictions[i]), bool(predictions[i] != labels[i])), []).append(int(i))

    def check(self, kinds: Sequence[tuple[int, bool]]) -> None:
        """Say which kinds the pool has too few of."""
        short = [
            f"{n} images that the model calls {self.classes[c]!r} and is {'wrong' if wrong else 'right'} about, where "
            f"the pool has {len(self.left.get((c, wrong), []))}"
            for (c, wrong), n in sorted(Counter(kinds).items())
            if n > len(self.left.get((c, wrong), []))
        ]
        if short:
            raise ValueError(
                f"the pool is too small: the study takes {'; '.join(short)}. Give more images, ask for fewer, or for "
                "another share `wrong`"
            )

    def draw(self, kind: tuple[int, bool]) -> Item:
        i = self.left[kind].pop()
        return Item(i, int(self.predictions[i]), int(self.labels[i]))


def _shuffled(drawn: list[Item], rng: np.random.Generator) -> tuple[Item, ...]:
    return tuple(drawn[i] for i in rng.permutation(len(drawn)))


def _kinds(num_classes: int, wrong: float, role: int) -> Iterator[tuple[int, bool]]:
    """Class and error of one image after the other: any stretch of them is balanced to within one of each.

    Classes take turns. Of the images of class c, number j is one that the model is wrong about where
    ⌊(j + 1) w + φ⌋ > ⌊j w + φ⌋, so that of any n in a row n w are, to within one; φ differs between classes, and
    examples begin with another class than questions, so that what is left over evens out.
    """
    turn = 0
    while True:
        c, j = (turn + role) % num_classes, turn // num_classes
        offset = c / num_classes
        yield c, bool(np.floor((j + 1) * wrong + offset) > np.floor(j * wrong + offset))
        turn += 1


def _check_names(classes: Sequence[str], conditions: Sequence[str]) -> None:
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(classes):
        raise ValueError(f"the classes are {list(classes)}, expected two or more that differ")
    if len(set(conditions)) < len(conditions) or not all(conditions) or len(conditions) > len(LETTERS):
        raise ValueError(
            f"the conditions are {list(conditions)}, expected at most {len(LETTERS)} names that differ: "
            f"{BASELINE!r} and {CONTROL!r} are there already"
        )


def _check_counts(examples: Sequence[int], questions: int, checks: int, practice: int, wrong: float) -> None:
    new = np.diff([0, *examples])
    if len(new) == 0 or new[0] < 1 or new.min() < 0:
        raise ValueError(
            f"the schedule of examples is {list(examples)}, expected numbers that do not fall, as 5, 10, 15"
        )
    if questions < 1 or not 0 <= checks <= questions or practice < 0 or not 0 <= wrong <= 1:
        raise ValueError(
            f"{questions} questions, {checks} checks, {practice} trials for practice, a share of {wrong} wrong: "
            "expected a question or more, checks no more than those, no less than 0 trials, and a share in [0, 1]"
        )
