"""
The verbs of ``airflow mlops``.

Imported by every ``airflow`` command, so it loads nothing: each verb is imported when it is used.
"""

from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command

_MODEL = Arg(("model",), help="name of the model")
_VERSION = Arg(("model",), help="model version, name@version")
_JSON = Arg(("--json",), help="print JSON instead of text", action="store_true")
_REASON = Arg(("--reason",), help="why; it is put on record", required=True)
_BY = Arg(("--by",), help="who decides; the user of this shell if not given", default=None)
_LAST = Arg(("--last",), help="how many of the newest entries", type=int, default=5)
_TO = Arg(
    ("--to",),
    help="version to return to, or a moment such as 1997-05-01: whoever was champion then, by the "
    "clock of the data; the previous champion if not given",
)
_DRY_RUN = Arg(
    ("--dry-run",), help="look whether it can serve, change nothing", action="store_true"
)
_FORCE = Arg(
    ("--force",), help="go back although a check failed; it is put on record", action="store_true"
)
_WHY_BACK = Arg(("--reason",), help="why; it is put on record", default="")
_AT = Arg(
    ("--at",),
    help="who was champion at a moment such as 1997-06-01, by the clock of the data, and why",
)
_OTHER = Arg(("other",), help="the version to compare with, name@version")
_ANY = Arg(
    ("model",),
    help="name@version of a model, or name.features@fs-... of a feature set; with --data, of a "
    "dataset",
)
_SETS = Arg(
    ("model",),
    nargs="?",
    help="a model, or one feature set, name.features@fs-...; all models if not given",
)
_SOURCE = Arg(("--source",), help="print the archived code of the set, too", action="store_true")
_DATA = Arg(("--data",), help="of a dataset, not of a model", action="store_true")
_HTML = Arg(("--html",), help="print a page instead of Markdown", action="store_true")
_TOLERANCE = Arg(
    ("--tolerance",),
    help="distance of two predictions up to which they count as the same",
    type=float,
    default=1e-6,
)
_PARAMS = Arg(("--params",), help="parameters of the training function, as JSON", default="{}")
_FEATURES = Arg(
    ("--features",),
    help="train with an earlier feature set, name@fs-..., as `airflow mlops lineage` names it",
)
_ROWS = Arg(("--data",), help="train on an earlier version of the rows, name@version or name@tag")
_SPAN = Arg(("--window",), help="how much history to learn from, such as 91d")
_DATASET = Arg(("dataset",), help="name of a dataset")
_DATA_VERSION = Arg(("version",), help="name@version or name@tag of a dataset")
_TAG = Arg(("tag",), help="the name, such as audit-1997")
_MOVE = Arg(("--move",), help="take the name from another version", action="store_true")
_REMOVE = Arg(("--remove",), help="take the name away", action="store_true")
_KEY = Arg(("--key",), help="value of the key column; as often as there are keys", action="append")
_WHY_FORGET = Arg(
    ("--reason",), help="why, without naming anybody; it is put on record", default=""
)
_SOME_MODEL = Arg(("model",), nargs="?", help="only this model; all if not given")
_OLDER = Arg(("--older",), help="age from which something may go, such as 90d", default="90d")
_APPLY = Arg(("--apply",), help="do it; else it is only looked at", action="store_true")
_CONSTRAINTS = Arg(
    ("--constraints",), help="file of pins: also say what it would change, before it is installed"
)
_DAG_FILE = Arg(("dags",), help="Dag file that declares a Lifecycle")
_HISTORY = Arg(
    ("--data",), help="Parquet file: rows in the order of time, with their labels", required=True
)
_OTHER_POLICY = Arg(
    ("--policy",), help="another Dag file, whose triggers, gates and windows are replayed"
)
_POLICY_MODEL = Arg(("--policy-model",), help="which one of that file, if it declares several")
_ONE_MODEL = Arg(("--model",), help="which one, if the file declares several")
_WINDOW = Arg(
    ("--window",), help="rows of a window, or its length such as 7d; the policy's if not given"
)
_WARMUP = Arg(("--warmup",), help="windows before the first model", type=int, default=26)
_LABEL_DELAY = Arg(
    ("--label-delay",), help="windows after which labels arrive", type=int, default=0
)
_SHUFFLE = Arg(
    ("--shuffle",),
    help="seed with which rows get other times, so that nothing changes any more: a policy should "
    "then keep still",
    type=int,
)
_TIME = Arg(("--time",), help="column of the time, if it is not the policy's")
_LABEL = Arg(("--label",), help="column of the label, if it is not the policy's")
_PLOT = Arg(("--plot",), help="draw the losses and retrains into this file, .png or .svg")
_ABOUT = tuple(
    Arg((f"--{name}",), help=f"the report of {what}", action="store_true")
    for name, what in (
        ("drift", "one window's drift: each column before and now"),
        ("performance", "the loss over time, with decisions and alarms"),
        ("system", "what every task used"),
        ("dependencies", "packages that differ from training"),
    )
)
_NUMBER = Arg(
    ("--window",), help="number of a window; the newest if not given", type=int, default=None
)
_OUT = Arg(("--out",), help="file to write; else the page is printed", default="")
_WHOSE_GATES = Arg(("model",), nargs="?", help="with --gates: name of the model")
_GATES = Arg(
    ("--gates",),
    help="judge bad models, made on purpose, by the gates of the model",
    action="store_true",
)
_DECLARED = Arg(("--dags",), help="Dag file that declares it; else the Dag folder is searched")
_NO_TRIGGER = Arg(
    ("--no-trigger",), help="only record the request; the next tick answers", action="store_true"
)


def get_cli_commands() -> list[GroupCommand]:
    """Return the command group; called by Airflow through the provider manifest."""
    verbs = (
        *_decisions(),
        *_policies(),
        *_versions(),
        *_datasets(),
        _verb(
            "dependencies",
            "is the champion, with the packages of this shell, what it was in training?",
            _MODEL,
            _CONSTRAINTS,
            module="monitoring",
        ),
        _verb(
            "report",
            "what one monitor found, as a page of HTML with pictures",
            _MODEL,
            *_ABOUT,
            _NUMBER,
            _OUT,
            module="monitoring",
        ),
        _verb(
            "doctor",
            "check connections, schema, ledger and aliases, or what the gates of a model let pass",
            _WHOSE_GATES,
            _GATES,
            _DECLARED,
            module="doctor",
        ),
        _verb("migrate", "bring schema mlops of the ledger's database to the newest version"),
    )
    return [GroupCommand("mlops", "Models: decisions, champions, rollbacks", subcommands=verbs)]


def _decisions() -> tuple[ActionCommand, ...]:
    return (
        _verb("status", "who is champion, and what the monitors found last", _MODEL),
        _verb(
            "history", "every decision on a model, checked against its chain of hashes", _MODEL, _AT
        ),
        _verb(
            "retrain",
            "ask for a retrain; decided by the next run of the monitor",
            _MODEL,
            _REASON,
            _PARAMS,
            _FEATURES,
            _ROWS,
            _SPAN,
            _BY,
            _NO_TRIGGER,
        ),
        _verb("promote", "make a version champion", _VERSION, _REASON, _BY),
        _verb(
            "reject",
            "turn a candidate down; a stage of its rollout ends, too",
            _VERSION,
            _REASON,
            _BY,
        ),
        _verb(
            "rollback",
            "return to an earlier champion, with all that belongs to it",
            _MODEL,
            _TO,
            _WHY_BACK,
            _BY,
            _DRY_RUN,
            _FORCE,
        ),
    )


def _policies() -> tuple[ActionCommand, ...]:
    return (
        _policy_verb(
            "why",
            "the last decisions: evidence, thresholds, what would have to change",
            _MODEL,
            _LAST,
        ),
        _policy_verb("plan", "what the next tick would do, without doing it", _MODEL),
        _policy_verb(
            "simulate",
            "replay a policy over a table of the past: retrains, loss, cost",
            _DAG_FILE,
            _HISTORY,
            _OTHER_POLICY,
            _POLICY_MODEL,
            _ONE_MODEL,
            _WINDOW,
            _WARMUP,
            _LABEL_DELAY,
            _SHUFFLE,
            _TIME,
            _LABEL,
            _PLOT,
        ),
    )


def _versions() -> tuple[ActionCommand, ...]:
    return (
        _version_verb("diff", "what changed between two versions", _ANY, _OTHER, _DATA),
        _version_verb(
            "features", "feature sets, and which versions learnt from them", _SETS, _SOURCE
        ),
        _version_verb("lineage", "where a version comes from, and what became of it", _VERSION),
        _version_verb("card", "what people read about a version", _ANY, _DATA, _HTML),
        _version_verb("reproduce", "train a version again, and compare", _VERSION, _TOLERANCE),
    )


def _datasets() -> tuple[ActionCommand, ...]:
    return (
        _data_verb("versions", "versions of a dataset, and their tags", _DATASET),
        _data_verb("tag", "name a version of a dataset", _DATA_VERSION, _TAG, _MOVE, _REMOVE, _BY),
        _data_verb(
            "restore", "make an earlier version of a dataset the newest again", _DATA_VERSION, _BY
        ),
        _data_verb(
            "adopt", "take the rows of a dataset as another tool has left them", _DATASET, _BY
        ),
        _data_verb(
            "forget",
            "remove the rows of a person from every version of a dataset",
            _DATASET,
            _KEY,
            _WHY_FORGET,
            _BY,
            _APPLY,
        ),
        _data_verb(
            "gc",
            "remove what nobody needs; says what is pinned by what",
            _SOME_MODEL,
            _OLDER,
            _BY,
            _APPLY,
        ),
    )


def _verb(name: str, text: str, *arguments: Arg, module: str = "verbs") -> ActionCommand:
    return ActionCommand(
        name=name,
        help=text,
        func=lazy_load_command(f"airflow_mlops.cli.{module}.{name}"),
        args=(*arguments, _JSON),
    )


def _version_verb(name: str, text: str, *arguments: Arg) -> ActionCommand:
    return _verb(name, text, *arguments, module="versions")


def _data_verb(name: str, text: str, *arguments: Arg) -> ActionCommand:
    return _verb(name, text, *arguments, module="datasets")


def _policy_verb(name: str, text: str, *arguments: Arg) -> ActionCommand:
    return _verb(name, text, *arguments, module="policies")
