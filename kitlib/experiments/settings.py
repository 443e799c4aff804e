"""What an experiment's file may say: attacks, figures of a paper, evaluation, comparison, and how they fit together."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from kitlib import attacks
from kitlib.base.places import NOTEBOOKS
from kitlib.base.settings import Epsilon, KitError, Settings, choose, slug, suggestion
from kitlib.data import DataSettings
from kitlib.evaluation import defences
from kitlib.models import ModelSettings, normalisation_of
from kitlib.training import TrainingSettings


def without_null(entries: Any) -> Any:
    """A mapping without the entries that a profile has set to null."""
    return {key: value for key, value in entries.items() if value is not None} if isinstance(entries, dict) else entries


AttackOfAnyKind = Annotated[
    pydantic.SerializeAsAny[attacks.Attack],
    pydantic.BeforeValidator(lambda value: value if isinstance(value, attacks.Attack) else attacks.read(value)),
]
Attacks = Annotated[dict[str, AttackOfAnyKind], pydantic.BeforeValidator(without_null)]     # by the name in tables

PAPER_DATA = {"A": "cifar10", "B": "iq_othnccd"}
PAPER_IMAGES = {"A": 10_000, "B": 160}      # test images: CIFAR-10's, and those of paper B's authors' public notebook
RESERVED = ("clean", "combined", "worst case")      # what figures of a paper may name beside attacks
LONGEST_NAME = 200      # bytes of an attack's name as the name of a file, to which more is added


def threat_of(named: dict[str, attacks.Attack], headline: str) -> attacks.InBall:
    """The attack that stands for the threat model. Raises KitError where it is none with an epsilon."""
    found = named.get(headline)
    if not isinstance(found, attacks.InBall):
        bounded = [name for name, attack in named.items() if isinstance(attack, attacks.InBall)]
        raise KitError(f"the headline must be an attack with an eps, not '{headline}'{suggestion(headline, bounded)}")
    return found


def within(named: dict[str, attacks.Attack], headline: str) -> list[str]:
    """The attacks of the headline's norm and up to its epsilon, itself included: the worst case of one threat model is
    taken over them."""
    threat = threat_of(named, headline)
    return [name for name, attack in named.items()
            if isinstance(attack, attacks.InBall) and attack.norm == threat.norm and attack.eps <= threat.eps]


class AttackSuite(Settings):
    """The attacks of one experiment.

    `as_published` are the papers' own, flaws included; `controls` are those with eps = 0, with one flaw taken out or
    alone, or with fewer steps; `as_defined` are the attacks as their inventors define them, in the valid pixel box. One
    that a profile, or an experiment that is based on another, sets to null is left out.
    """

    as_published: Attacks = {}
    controls: Attacks = {}
    as_defined: Attacks

    def all(self) -> dict[str, attacks.Attack]:
        """Every attack by its name. Raises ValueError where two share a name, and for a targeted one."""
        groups = (self.as_published, self.controls, self.as_defined)
        merged = {name: attack for group in groups for name, attack in group.items()}
        if len(merged) < sum(map(len, groups)):
            raise ValueError("the names of attacks must differ over as_published, controls and as_defined")
        files: dict[str, str] = {}
        for name in merged:
            if name in RESERVED or not 0 < len(slug(name).encode()) <= LONGEST_NAME:
                raise ValueError(f"an attack may not be called '{name}': that means something else, or names no file")
            if files.setdefault(slug(name), name) != name:
                raise ValueError(f"attacks '{files[slug(name)]}' and '{name}' would share a file: make their names "
                                 "differ in letters or digits")
        if targeted := [name for name, attack in merged.items() if attack.targeted]:
            raise ValueError(f"attack '{targeted[0]}' is targeted; an experiment's lead away from the true label")
        return merged

    def within(self, headline: str) -> list[str]:
        """The as-defined attacks that the worst case is taken over, see `within`."""
        return within(self.as_defined, headline)

    def model_post_init(self, _context: Any) -> None:
        self.all()


class PaperFigure(Settings):
    """One number of a paper, in per cent, and which measurements answer it.

    `attack`, `as_defined` and `control` are names of the attack suite, or "clean" (no attack),
    "combined" (all as-published attacks together) or "worst case" (per image, the as-defined ones up to the
    headline's epsilon).
    `flaw`: what in the protocol the figure may come from; `control` isolates it, as the measurement with the
    flaw alone and no attack, or with the flaw removed (`control_is`). `rivals`: other explanations, each with the
    attack of the suite that measures it, or null where it was not tried. `paper_images`: how many images the figure
    stands for, where other than the experiment says.
    """

    id: str
    paper: float = pydantic.Field(ge=0, le=100)
    model: Literal["baseline", "defended"]
    attack: str
    as_defined: str
    flaw: str | None = None
    control: str | None = None
    control_is: Literal["flaw alone", "flaw removed"] | None = None
    rivals: dict[str, str | None] = {}
    paper_images: int | None = pydantic.Field(default=None, ge=1)

    @pydantic.model_validator(mode="after")
    def _flaw_has_its_control(self):
        if len({self.flaw is None, self.control is None, self.control_is is None}) > 1:
            raise ValueError("flaw, control and control_is belong together: give all three or none")
        return self

    def named(self) -> list[str]:
        """The attacks that it names."""
        named = (self.attack, self.as_defined, self.control, *self.rivals.values())
        return [name for name in named if name is not None]

    def asks(self) -> dict:
        """What has to be measured for it; a record without it does not answer the figure."""
        return self.model_dump(exclude={"flaw", "rivals", "paper_images"})


class EvaluationSettings(Settings):
    """How the models are judged.

    images: test images judged (None: all). as_defined_images: how many of them, the first ones, as-defined
    attacks are made on (None: all), because these take hundreds of passes for each image.
    keep: adversarial images kept for pictures and transfer.
    sweep: epsilons in pixels. shown: as-defined attacks whose images are shown. headline: the
    as-defined attack that stands for the threat model in confusion matrices, first looks and the worst case.
    """

    images: int | None = pydantic.Field(default=None, ge=1)
    as_defined_images: int | None = pydantic.Field(default=None, ge=1)
    keep: int = pydantic.Field(default=200, ge=1)
    shown: tuple[str, ...] = pydantic.Field(min_length=1)
    headline: str
    batch_size: int = pydantic.Field(default=128, ge=1)
    sweep: tuple[Epsilon, ...] = pydantic.Field((0.0, 2 / 255, 4 / 255, 8 / 255, 16 / 255), min_length=1)


DefenceOfAnyKind = Annotated[
    pydantic.SerializeAsAny[defences.Defence],
    pydantic.BeforeValidator(lambda value: value if isinstance(value, defences.Defence) else defences.read(value)),
]


class ComparedModel(Settings):
    """One model of a comparison: trained for it, or made from another.

    model, training: of a compared model that is trained. What they do not say is as in the experiment's `model` and
        `baseline`; another model name brings its own options and normalisation.
    preprocessing: a defence of the input in front of the trained model `of`.
    of: "baseline", "defended", or a compared model named before: what `preprocessing` stands in front of, the teacher
        of a distilled training, or, where nothing else is given, the model itself.
    why: the reason why it is compared, for the reader.
    """

    model: ModelSettings | None = None
    training: TrainingSettings | None = None
    preprocessing: DefenceOfAnyKind | None = None
    of: str | None = None
    why: str

    @pydantic.model_validator(mode="after")
    def _is_one_thing(self):
        if self.training is None and self.of is None:
            raise ValueError("say what it is: `model` or `training`, or `of` another model")
        if self.training is not None and self.preprocessing is not None:
            raise ValueError("train one compared model, and give `preprocessing` to another that is `of` it")
        if self.training is not None and self.training.needs_baseline != (self.of is not None):
            raise ValueError("a training has an `of` where its method is distilled or static, and only there")
        return self


class Trained(Settings):
    """What a trained model of an experiment is made of; `of` where another model takes part."""

    model: ModelSettings
    training: TrainingSettings
    of: str | None = None


class ComparisonSettings(Settings):
    """How compared models are judged: all by the same attacks on the same test images.

    attacks: one that a profile sets to null is left out.
    headline: the one whose images are carried from model to model, which is also made naively, and up to whose epsilon
        the worst case goes.
    images: test images (None: all). samples: draws that EOT averages over, see kitlib.evaluation.defences.
    """

    attacks: Attacks
    headline: str
    images: int | None = pydantic.Field(default=None, ge=1)
    samples: int = pydantic.Field(default=10, ge=1, le=1000)

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        threat_of(self.attacks, self.headline)
        return self

    def within(self) -> list[str]:
        """The attacks that the worst case is taken over, see `within`."""
        return within(self.attacks, self.headline)


# What notebooks were called when older records were made.
_OLDER_NOTEBOOKS = {"06_is_it_robust": "08_is_it_robust", "07_label_leaking": "06_label_leaking",
                    "08_other_defences": "07_other_defences", "09_data_audit": "09_lung_data_leak"}


class Experiment(Settings):
    """One experiment in one profile, everything resolved.

    claimed_images: how many images others say the data set has: {who: count}.
    paper_images: how many test images the paper's figures stand for (None: as PAPER_IMAGES says). margin: by how many
        points a measurement may differ from a figure of the paper and still be compatible with it; stated beforehand.
    notebooks: those from 06 on that a batch runs after notebook 05, by their names without .ipynb.
    compared_models: the models that notebooks 07 and 10 compare, judged as `comparison` says.
    """

    name: str
    title: str
    summary: str
    paper: Literal["A", "B"] | None = None
    stands_in_for: str | None = None
    data: DataSettings
    model: ModelSettings
    baseline: TrainingSettings
    defended: TrainingSettings
    attacks: AttackSuite
    evaluation: EvaluationSettings
    paper_figures: tuple[PaperFigure, ...] = ()
    claimed_images: dict[str, int] = {}
    paper_images: int | None = pydantic.Field(default=None, ge=1)
    margin: float = pydantic.Field(default=3.0, gt=0, le=100)
    notebooks: tuple[str, ...] = ()
    choices: dict[str, str] = {}
    comparison: ComparisonSettings | None = None
    compared_models: dict[str, ComparedModel] = {}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _names_of_older_records(cls, values):
        if not isinstance(values, dict):
            return values
        values = {("compared_models" if key == "contenders" else key): value for key, value in values.items()}
        if isinstance(values.get("notebooks"), (list, tuple)):
            values["notebooks"] = tuple(_OLDER_NOTEBOOKS.get(name, name) for name in values["notebooks"])
        return values

    @pydantic.field_validator("compared_models", mode="before")
    @classmethod
    def _compared_models_laid_over(cls, compared_models, info):
        """Compared models with their model and training complete; those that a profile sets to null are left out."""
        if not isinstance(compared_models, dict):
            return compared_models
        if not {"model", "baseline"} <= set(info.data):
            return {}       # what is wrong there is said already
        whole = {"model": info.data["model"], "training": info.data["baseline"]}
        whole = {part: settings.model_dump(mode="json") for part, settings in whole.items()}
        return {name: _laid_over(whole, each) for name, each in without_null(compared_models).items()}

    @property
    def stands_in(self) -> bool:
        """Whether it has other data than the paper's, so that its figures are none of the paper's. A copy of an
        experiment with pictures of one's own does, too."""
        return self.stands_in_for is not None or self.data.name != PAPER_DATA.get(self.paper or "", self.data.name)

    def trained(self, name: str) -> Trained:
        """What "baseline", "defended" or a trained compared model is made of. Raises KitError for other names."""
        if name in ("baseline", "defended"):
            training = getattr(self, name)
            return Trained(model=self.model, training=training, of="baseline" if training.needs_baseline else None)
        trained = {key: each for key, each in self.compared_models.items() if each.training}
        found = choose(name, trained, "trained compared model")
        return Trained(model=found.model, training=found.training, of=found.of)

    def model_post_init(self, _context: Any) -> None:
        for name in self.notebooks:
            if name not in further_notebooks():
                raise ValueError(f"there is no notebook '{name}' from 06 on{suggestion(name, further_notebooks())}")
        first = next(iter(self.evaluation.shown), self.evaluation.headline)
        for name in (*self.evaluation.shown, self.evaluation.headline):
            if name not in self.attacks.as_defined:
                raise ValueError(f"evaluation names '{name}'{suggestion(name, self.attacks.as_defined)}")
        for what, name in (("the headline", self.evaluation.headline), ("the first of those shown", first)):
            if not isinstance(self.attacks.as_defined[name], attacks.InBall):
                raise ValueError(f"{what} must be an attack with an eps, not '{name}'")
        known = {*RESERVED, *self.attacks.all()} - (set() if self.attacks.as_published else {"combined"})
        ids = [figure.id for figure in self.paper_figures]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"paper figure '{twice[0]}' stands twice")
        for figure in self.paper_figures:
            for name in figure.named():
                if name not in known:
                    raise ValueError(f"paper figure '{figure.id}' names attack '{name}'{suggestion(name, known)}")
        self._check_compared_models()
        self._check_normalisation()

    def _check_normalisation(self) -> None:
        """The papers' attacks work on what the network normalises pixels to; with another they would be others."""
        own = normalisation_of(self.model)
        training = [attack for each in (self.baseline, self.defended) for attack in each.training_attacks()]
        for attack in (*self.attacks.all().values(), *training):
            if not own.same(other := getattr(attack, "normalisation", own)):
                raise ValueError(f"the attack {attack.name} has the normalisation {other}, but the network {own}: "
                                 "give both the same")

    def _check_compared_models(self) -> None:
        if self.compared_models and self.comparison is None:
            raise ValueError("compared_models need a `comparison` that says how they are judged")
        models = {"baseline", "defended"}       # that are trained, of those named so far
        for name, each in self.compared_models.items():
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in ("baseline", "defended"):
                raise ValueError(f"compared model '{name}': a name is of a-z, 0-9 and _, and not 'baseline' or "
                                 "'defended'")
            if each.of is not None and each.of not in models:
                raise ValueError(f"compared model '{name}' is of '{each.of}', which is no trained model named before "
                                 f"it{suggestion(each.of, models)}")
            models |= {name} if each.training else set()

    def image_limits(self) -> dict[str, int]:
        """By the name of each as-defined attack, how many of the judged images it is made on, where not on all."""
        count = self.evaluation.as_defined_images
        return {} if count is None else dict.fromkeys(self.attacks.as_defined, count)


def further_notebooks() -> list[str]:
    """The notebooks after the five that every experiment runs, without .ipynb."""
    return [path.stem for path in lessons() if path.stem >= "06"]


def lessons() -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def solutions() -> list[Path]:
    """The notebooks that solve the lessons' exercises; they need what the lessons have made."""
    return sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))


def _laid_over(whole: dict, compared_model: Any) -> Any:
    """A trained compared model's own settings over the experiment's; anything else as it is."""
    if not isinstance(compared_model, dict) or not any(compared_model.get(part) is not None for part in whole):
        return compared_model
    return compared_model | {part: merge(whole[part], compared_model.get(part) or {}) for part in whole}


def merge(base: Any, change: Any) -> Any:
    """`change` laid over `base`: mappings merge key by key, anything else is replaced.

    A mapping that changes its `name` (another attack, another model) replaces the whole mapping,
    because the options of the old one mean nothing to the new one.
    """
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "name" in base and change.get("name", base["name"]) != base["name"]:
        return change
    return base | {key: merge(base.get(key), value) for key, value in change.items()}
