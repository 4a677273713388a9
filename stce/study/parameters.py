"""The parameters of every notebook: what they mean and which values they take."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

from stce.engine.device import named
from stce.engine.storage import path_of
from stce.models.weights import near

__all__ = ["HOME", "NOTEBOOKS", "PARAMETERS", "Parameter", "check", "check_all", "read"]

# The notebooks live beside the package in a checkout; STCE_HOME names another checkout.
HOME = path_of(os.environ.get("STCE_HOME", Path(__file__).resolve().parents[2]))


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default (which sets its type), its meaning and its bounds."""

    default: object
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple | None = None
    length: int | None = None

    def allowed(self) -> str:
        """Say in words which values it takes."""
        if isinstance(self.default, list):
            inner = "str" if self.default == [] else type(self.default[0]).__name__
            kind = f"a list of {self.length or 'any number of'} {inner}"
        else:
            kind = type(self.default).__name__
        if self.choices:
            kind += ", one of " + ", ".join(map(repr, self.choices))
        if self.low is not None:
            kind += f", at least {self.low:g}"
        if self.high is not None:
            kind += f", at most {self.high:g}"
        return kind

    def accepts(self, value: object) -> bool:
        """Tell whether the value has the right type and lies within bounds."""
        if isinstance(self.default, list):
            inner = Parameter(self.default[0] if self.default else "", "", self.low, self.high)
            sized = isinstance(value, list) and self.length in (None, len(value))
            return sized and all(inner.accepts(v) for v in value)
        kinds = (int, float) if isinstance(self.default, float) else type(self.default)
        alike = isinstance(value, bool) == isinstance(self.default, bool)
        if not (isinstance(value, kinds) and alike) or self.choices and value not in self.choices:
            return False
        if isinstance(value, int | float) and not abs(value) < 2**63:  # or is no number at all
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


_COMMON = {
    "run_folder": Parameter("../data/runs/actors", "Folder of the run."),
    "seed": Parameter(0, "Seeds everything random in this stage.", low=0),
    "device": Parameter("auto", "auto, cpu, cuda or cuda:N."),
    "n_jobs": Parameter(-1, "Processes; -1 for one a core.", low=-1),
    "scheduler": Parameter("", "Address of a Dask scheduler; empty for this machine alone."),
    "force": Parameter(False, "Compute even if the finished stage matches."),
}

PARAMETERS: dict[str, dict[str, Parameter]] = {
    "train": {
        "dataset": Parameter("actors", "Data set, see stce.datasets."),
        "dataset_options": Parameter({}, "Options of the data set's loader."),
        "weights": Parameter("", "To begin with: a pretrained network's name, or a file."),
        "trainable": Parameter("all", "What of them is trained.", choices=("all", "head", "none")),
        "class_map": Parameter({}, "Your classes, and what the network of the weights calls them."),
        "network": Parameter("c3d", "Architecture.", choices=("c3d", "r3d18", "i3d")),
        "width": Parameter(0.125, "Multiplies the channels; 1 is the paper's.", 0.01, 4),
        "dropout": Parameter(0.3, "Dropout before the last layers.", 0, 0.95),
        "frame_size": Parameter([60, 60], "Frames are resized to this, in pixels.", 16, length=2),
        "crop": Parameter([56, 56], "Input size, cut from the resized frames.", 16, length=2),
        "n_frames": Parameter(16, "Consecutive frames a clip.", 2),
        "max_frames": Parameter(0, "Keep only the middle frames of a video; 0 keeps all.", 0),
        "epochs": Parameter(30, "Passes over the training videos.", 1),
        "batch_size": Parameter(16, "Clips a step.", 1),
        "lr": Parameter(0.05, "Learning rate (the peak of a one-cycle schedule).", 1e-8, 10),
        "momentum": Parameter(0.9, "Momentum of SGD.", 0, 0.999),
        "weight_decay": Parameter(0.0005, "L2 penalty of SGD.", 0, 1),
        "max_norm": Parameter(1.0, "Longer gradients are shortened to it; 0 for never.", 0),
        "schedule": Parameter("onecycle", "Learning-rate schedule.", choices=("step", "onecycle")),
        "lr_step": Parameter(50, "Epochs between falls of the step schedule.", 1),
        "lr_gamma": Parameter(0.1, "Factor of each fall.", 0, 1),
        "flip": Parameter(True, "Mirror half of the training clips."),
        "amp": Parameter(False, "Compute in bfloat16 on a GPU, where that is safe."),
    },
    "segment": {
        "classes": Parameter([], "Classes to explain; empty for all."),
        "n_discovery": Parameter(20, "Training clips a class to find concepts in.", 1),
        "n_test": Parameter(24, "Test clips a class for ablation; 0 for all.", 0),
        "n_segments": Parameter([15, 30, 60], "Segments a clip at each resolution.", 1),
        "compactness": Parameter(20.0, "SLIC: nearness in space-time against colour.", 1e-6),
        "sigma": Parameter(0.5, "SLIC: smoothing, in pixels.", 0),
        "spacing": Parameter([1.0, 1.0, 1.0], "SLIC: voxel size in t, y, x.", 1e-6, length=3),
        "segment_on": Parameter(
            "pixels",
            "Clips are cut by pixels, or by features: a map of the network.",
            choices=("pixels", "features"),
        ),
        "slic": Parameter(
            "scikit-image",
            "SLIC by scikit-image on the CPU, or by torch on the device, for a GPU.",
            choices=("scikit-image", "torch"),
        ),
        "min_fraction": Parameter(0.001, "Smaller supervoxels are dropped.", 0, 0.5),
        "jaccard": Parameter(0.5, "Above this overlap two supervoxels are duplicates.", 0, 1),
    },
    "cluster": {
        "layer": Parameter("", "Layer l; empty for the paper's (fc7, or global average pool)."),
        "concept_layer": Parameter("", "Where concepts are found and told; empty for layer l."),
        "features": Parameter(
            "supervoxels",
            "One by one (the paper), pooled, or hidden at the layer named.",
        ),
        "stretch": Parameter(
            False, "Stretch supervoxels to the input size (the paper) or leave them in place."
        ),
        "n_concepts": Parameter(15, "Clusters a class.", 1, 63),
        "n_keep": Parameter(40, "Supervoxels kept a concept.", 1),
        "feature_batch": Parameter(64, "Supervoxels a forward pass.", 1),
    },
    "tcav": {
        "n_groups": Parameter(50, "Groups of random clips.", 2),
        "random_source": Parameter(
            "textures",
            "Textures, clips of other classes, your films, or your HMDB51.",
            choices=("textures", "others", "folder", "hmdb"),
        ),
        "random_folder": Parameter("../data/hmdb51", "Folder of your films, or of your HMDB51."),
        "n_random_clips": Parameter(2000, "Random clips to draw the groups from.", 2),
        "random_from": Parameter(
            "clips",
            "Negatives: whole clips, their supervoxels, or those like the concept's.",
            choices=("clips", "supervoxels", "matched"),
        ),
        "target": Parameter("logit", "Class output of eq. 1.", choices=("logit", "log_prob")),
        "strength": Parameter(1.0, "Inverse regularisation of the CAVs.", 1e-6, 1e6),
        "n_bootstrap": Parameter(1000, "Resamples for intervals.", 10),
    },
    "ablate": {
        "q_max": Parameter(5, "Concepts added or removed.", 1, 63),
        "n_random_orders": Parameter(5, "Random orders a class.", 1),
        "n_matched": Parameter(2, "Draws of as many random voxels as the ranking shows.", 0),
        "assign": Parameter(
            "true", "Whose concepts explain a test clip.", choices=("true", "predicted")
        ),
        "ablate_batch": Parameter(64, "Masked clips a forward pass.", 1),
        "amp": Parameter(False, "Compute in bfloat16, on processors that do so faster."),
    },
    "visualize": {
        "class_name": Parameter("", "Class shown; empty for the best-recognised one."),
        "n_shown": Parameter(2, "Most and least important concepts shown.", 1, 10),
        "scale": Parameter(3, "Enlargement of the clips shown.", 1, 20),
    },
    "validate": {
        "n_null": Parameter(200, "Random sets, and shuffled heads, of the tests.", 19),
        "n_randomised": Parameter(
            1, "Networks randomised from the top down, the last one wholly.", 1, 40
        ),
        "n_sgd": Parameter(5, "Random groups that the SGD classifiers are fitted to.", 3),
        "others": Parameter([], "Folders of the same run with other seeds, to compare with."),
        "n_clips": Parameter(1, "Test clips a class for controls, baselines and variants.", 1),
        "n_controls": Parameter(2, "Draws of each control and of the random order, a clip.", 1),
        "n_changed": Parameter(6, "Test clips a class whose first concepts are changed.", 1),
        "fills": Parameter(["mean", "blur", "noise"], "What hidden voxels may hold."),
        "tried": Parameter(
            ["fc7/log_prob/in place", "conv5b/logit/pooled"],
            "Variants tried: layer/target/features; layers as the network names them.",
        ),
        "n_discovery_tried": Parameter(4, "Discovery clips a class for the variants.", 2),
    },
}
PARAMETERS = {stage: {**own, **_COMMON} for stage, own in PARAMETERS.items()}

# Notebooks that are no stage: one runs all steps at once, one looks at a run.
NOTEBOOKS: dict[str, dict[str, Parameter]] = {
    "explore": {
        "run_folder": _COMMON["run_folder"],
        "n_examples": Parameter(2, "Supervoxels shown a concept.", 1, 40),
    },
    "08_your_own": {
        "videos_folder": Parameter("", "Your videos, a sub-folder a class; empty for the run's."),
        "test_groups": Parameter(["test"], "Groups of your videos to test on."),
        "model_name": Parameter("", "Network of torchvision.models.video; empty for the run's."),
        "weights": Parameter("", "Its weights, as torch.save(model.state_dict(), ...) wrote them."),
        "mean": Parameter([0.432, 0.395, 0.376], "The network's normalisation.", 0, 1),
        "std": Parameter([0.228, 0.221, 0.217], "The network's normalisation.", 1e-6, 10),
        "layer": Parameter("pool5", "Name of the layer."),
        "class_name": Parameter("handwaving", "Class to explain."),
        "crop": Parameter([56, 56], "Input size of the network.", 16, length=2),
        "n_clips": Parameter(30, "Clips to find concepts in, and to test them on.", 2),
        "segment_on": PARAMETERS["segment"]["segment_on"],
        "n_concepts": Parameter(15, "Concepts.", 5, 63),
        "discover": Parameter(
            "kmeans", "How they are found.", choices=("kmeans", "nmf", "convex", "sae")
        ),
        "concepts": Parameter({}, "Folders of films that show concepts of your own, by name."),
        "layers": Parameter(["pool4", "pool5"], "Layers at which they are compared; [] for none."),
        "n_checked": Parameter(1, "Test clips on which it is held against saliency maps.", 1),
        "run_folder": _COMMON["run_folder"],
        "seed": _COMMON["seed"],
        "device": _COMMON["device"],
    },
}


def _unknown(name: str, valid: Iterable[str]) -> ValueError:
    return ValueError(f"Unknown parameter {name!r}; {near(name, sorted(valid))}")


def check(
    stage: str, values: Mapping[str, object], known: Mapping[str, Parameter] | None = None
) -> dict[str, object]:
    """Check the parameters of one stage and fill in the defaults.

    Parameters
    ----------
    stage : str
        A stage, such as ``"train"``, or one of `NOTEBOOKS`.
    values : mapping
        Parameters to set.
    known : mapping of str to Parameter, optional
        What another notebook takes, such as a page of the book.

    Returns
    -------
    dict
        All parameters of the stage.

    Raises
    ------
    ValueError
        If a name is unknown, a value has the wrong type or is out of bounds: the message names
        the parameter, the value and what is allowed.

    Examples
    --------
    >>> check("tcav", {"n_groups": 20})["n_groups"]
    20
    >>> check("tcav", {"n_group": 20})
    Traceback (most recent call last):
    ValueError: Unknown parameter 'n_group'; did you mean 'n_groups'?
    """
    known = known or {**PARAMETERS, **NOTEBOOKS}[stage]
    for name, value in values.items():
        if name not in known:
            raise _unknown(name, known)
        if not known[name].accepts(value):
            hint, kind = "", known[name].default
            if isinstance(kind, float) and re.fullmatch(r"[-+]?\d+[eE]-?\d+", str(value)):
                hint = re.sub("[eE](?=\\d)", "e+", str(value)).lower().replace("e", ".0e")
                hint = f" YAML takes {value} for text: write {hint}."
            if isinstance(kind, str) or kind == []:
                hint = " Text that looks like a number, or yes, no, on, off, needs quotes in YAML."
            raise ValueError(
                f"Parameter {name!r} of {stage!r} is {value!r:.999} ({type(value).__name__}); "
                f"it takes {known[name].allowed()}.{hint}"
            )
    chosen = {name: values.get(name, entry.default) for name, entry in known.items()}
    named(chosen.get("device", "auto"))
    p = SimpleNamespace(**{"weights": "", "trainable": "all", "class_map": {}, **chosen})
    head, keeps = p.trainable == "head", p.trainable == "none" or p.class_map
    if (head or keeps) and not p.weights or head and p.class_map:
        raise ValueError(
            f"trainable is {p.trainable!r} with weights={p.weights!r} and class_map={p.class_map}; "
            "head, none and a class_map need weights, and a new head no class_map."
        )
    return chosen


def check_all(values: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Check flat parameters for all stages at once and deal them out, stage by stage.

    A name goes to every stage that has it, so one ``seed`` seeds them all.

    Raises
    ------
    ValueError
        As :func:`check`; a name is unknown if no stage has it. Or if what one stage is given does
        not go together with what another is: the message names both and the remedy.

    Examples
    --------
    >>> check_all({"q_max": 20})
    Traceback (most recent call last):
    ValueError: q_max is 20, but n_concepts is 15; lower q_max or raise n_concepts.
    """
    everything = {name for known in PARAMETERS.values() for name in known}
    for name in values:
        if name not in everything:
            raise _unknown(name, everything)
    chosen = {
        stage: check(stage, {n: v for n, v in values.items() if n in known})
        for stage, known in PARAMETERS.items()
    }
    p = SimpleNamespace(**{name: value for one in chosen.values() for name, value in one.items()})
    for wrong, message in (
        (p.q_max > p.n_concepts, "q_max is {0.q_max}, but n_concepts is {0.n_concepts}; lower "
         "q_max or raise n_concepts."),
        (p.n_random_clips <= p.n_keep, "n_random_clips is {0.n_random_clips}, too few for groups "
         "of n_keep={0.n_keep}; raise it, or lower n_keep."),
        (p.random_source == "others" and len(set(p.classes)) == 1, "random_source is 'others', but "
         "classes names {0.classes[0]} alone; name a second class, or take another source."),
        (p.n_segments != sorted(set(p.n_segments)) or not p.n_segments, "n_segments is "
         "{0.n_segments}; give counts from coarse to fine, such as [15, 50, 80]."),
        (any(c > s for c, s in zip(p.crop, p.frame_size, strict=True)), "crop is {0.crop}, larger "
         "than frame_size {0.frame_size}; crop is cut from the resized frames."),
        (0 < p.max_frames < p.n_frames, "max_frames is {0.max_frames}, fewer than "
         "n_frames={0.n_frames}; give 0 to keep all frames."),
        (p.n_jobs == 0, "n_jobs is 0; give the number of processes, or -1 for one a core."),
    ):  # fmt: skip
        if wrong:
            raise ValueError(message.format(p))
    return chosen


def read(
    stage: str, namespace: Mapping[str, object], known: Mapping[str, Parameter] | None = None
) -> SimpleNamespace:
    """Collect and check the parameters that a notebook has set so far.

    To be called right after the parameters cell: papermill puts the values it was given, wrong
    names too, into the same namespace. A notebook then works from ``notebooks/``, where relative
    paths start, wherever it was started.

    Parameters
    ----------
    stage, known
        See :func:`check`.
    namespace : mapping
        The notebook's ``globals()``.

    Returns
    -------
    types.SimpleNamespace
        One attribute a parameter.

    Raises
    ------
    ValueError
        As :func:`check`.
    """
    known = known or {**PARAMETERS, **NOTEBOOKS}[stage]
    values = {
        name: value
        for name, value in namespace.items()
        if name in known
        or not name.startswith("_")
        and name not in ("In", "Out", "exit", "quit", "open")
        and not isinstance(value, ModuleType)
        and not callable(value)
    }
    if "get_ipython" in namespace and not Path("01_train.ipynb").is_file():
        with contextlib.suppress(FileNotFoundError):  # installed without notebooks
            os.chdir(HOME / "notebooks")
    return SimpleNamespace(**check(stage, values, known))
