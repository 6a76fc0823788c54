"""`trainloom model`: list, get, put, export, verify, remove and measure models."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one
from pipeline.cli.context import is_terminal, open_session, print_json, print_table
from pipeline.cli.store import add_gc

if TYPE_CHECKING:
    from pipeline.model_catalog import Model
    from pipeline.model_usage import ModelUsage
    from pipeline.session import Session

FORMATS = ("safetensors", "torchscript", "onnx")
COLUMNS = ("key", "kind", "name", "version", "class", "metrics", "size", "time")
USAGE = ("key", "kind", "name", "objects", "size", "its own", "weights", "checkpoints", "rest")
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("model", help="list, get, put, export, verify, remove or measure models")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_ls(actions)
    get = _add_action(actions, "get", _get, "write a model's weights and description into a folder")
    _add_folder(get)
    _add_put(actions)
    _add_action(actions, "rm", _rm, "remove a stored model; its weights are left to the store's garbage collection")
    verify = actions.add_parser("verify", help="read the weights of models and say which are damaged")
    verify.add_argument("keys", nargs="*", metavar="KEY", help="keys of models, or their beginnings (default: all)")
    _add_json(verify, _verify)
    export = _add_action(actions, "export", _export, "as get, with the model's provenance, in one of several formats")
    _add_folder(export)
    export.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=f"of the weights ({FORMATS[0]})")
    usage = actions.add_parser("du", help="how much of the store each model takes, the largest first")
    usage.add_argument("--limit", type=at_least_one, default=50, metavar="N", help="at most so many (50)")
    _add_json(usage, _du)
    add_gc(actions)


def _add_action(actions: Any, name: str, action: Any, text: str) -> Any:
    """The parser of an action on one model."""
    parser = actions.add_parser(name, help=text)
    parser.add_argument("key", metavar="KEY", help="the key of a model or of its task, or its beginning")
    return _add_json(parser, action)


def _add_json(parser: Any, action: Any) -> Any:
    parser.add_argument("--json", action="store_true", help="print JSON, with whole keys")
    parser.set_defaults(action=action)
    return parser


def _add_folder(parser: Any) -> None:
    parser.add_argument(
        *("-o", "--output"), required=True, type=Path, metavar="DIR", help="a folder that does not exist or is empty"
    )


def _add_ls(actions: Any) -> None:
    parser = actions.add_parser("ls", help="show models, the newest first")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--trained", action="store_true", help="only models that tasks trained")
    kind.add_argument("--stored", action="store_true", help="only models that were put")
    parser.add_argument(
        *("--filter", "-f"),
        action="append",
        default=[],
        metavar="CONDITION",
        help="column=value or an SQL condition on the columns of one kind; may be repeated, all must hold",
    )
    parser.add_argument(
        "--sort", default="-time", metavar="NAME", help="a metric (its best first) or a column; -NAME descends (-time)"
    )
    parser.add_argument("--limit", type=at_least_one, default=50, metavar="N", help="at most so many (50)")
    _add_json(parser, _ls)


def _add_put(actions: Any) -> None:
    parser = actions.add_parser("put", help="store a model that was trained elsewhere")
    parser.add_argument("file", type=Path, metavar="FILE", help="a safetensors file of its weights")
    parser.add_argument("--name", required=True, help="what the model is called")
    parser.add_argument("--version", default="", help="such as 2 (default: none)")
    parser.add_argument("--description", default="", metavar="TEXT", help="for people")
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    parser.add_argument(
        "--class",
        dest="model_class",
        metavar="MODULE.CLASS",
        help="what it is loaded as; without one it loads as a state dict only",
    )
    parser.add_argument("--params", type=_object, metavar="JSON", help="constructor arguments other than the shapes")
    parser.add_argument("--input-shape", type=_shape, metavar="N,N", help="of one example, such as 1,8,8")
    parser.add_argument("--output-shape", type=_shape, metavar="N,N", help="of one output, such as 10")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        type=_metric,
        metavar="NAME=VALUE",
        help="accuracy=0.9; of a metric of one's own also which way is better, psnr=30:max; may be repeated",
    )
    _add_json(parser, _put)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object such as {{"hidden_size": 64}}')
    return value


def _shape(text: str) -> list[int]:
    try:
        return [int(side) for side in text.split(",") if side.strip()]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape such as 1,8,8") from error


def _metric(text: str) -> tuple[str, Any]:
    name, equals, given = text.partition("=")
    value, colon, direction = given.partition(":")
    try:
        number = float(value)
    except ValueError:
        equals = ""
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no metric such as accuracy=0.9 or psnr=30:max")
    return name, (number, direction) if colon else number


def _ls(args: argparse.Namespace) -> int:
    from pipeline.errors import ConfigurationError

    if args.filter and not (args.trained or args.stored):
        raise ConfigurationError("--filter needs --trained or --stored: the two kinds of models have other columns")
    with open_session(args):
        from datajoint import AndList

        from pipeline.model_catalog import Kind, list_models

        kinds = [Kind.TRAINED] if args.trained else [Kind.STORED] if args.stored else list(Kind)
        found = list_models(kinds, AndList(args.filter) if args.filter else True, args.sort, args.limit)
    if args.json:
        print_json([_as_dict(model) for model in found])
    elif not found:
        print("no models" + (" for this filter" if args.filter else " yet; train a task, or `trainloom model put`"))
    else:
        print_table(COLUMNS, [_cells(model) for model in found])
    return 0


def _as_dict(model: Model) -> dict[str, Any]:
    from dataclasses import asdict

    values = asdict(model)
    return {"class" if name == "model_class" else name: value for name, value in values.items()}


def _cells(model: Model) -> list[object]:
    from pipeline.short_keys import shown

    metrics = [f"{name}={value:.4g}" for name in model.metrics if (value := model.value(name)) is not None]
    return [
        shown(model.key),
        model.kind.value,
        model.name,
        model.version or None,
        model.model_class["name"] if model.model_class else "state dict",
        " ".join(metrics) or None,
        None if model.size is None else _size(model.size),
        model.time,
    ]


def _size(size: int) -> str:
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def _du(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline.model_usage import usage

        found, (number, size) = usage(session, args.limit)
    if args.json:
        models = [_usage_as_dict(one) for one in found]
        print_json({"models": models, "all": {"number": number, "bytes": size}})
    elif not found:
        print("no model has anything in the store yet; train a task, or `trainloom model put`")
    else:
        print_table(USAGE, [_usage_cells(one) for one in found])
        print(f"all models together: {number} objects ({_size(size)}); what several of them share counts once")
    return 0


def _usage_as_dict(one: ModelUsage) -> dict[str, Any]:
    number, size = one.share.total
    kinds = {kind: {"number": count, "bytes": taken} for kind, (count, taken) in one.share.by_kind.items()}
    described = {"key": one.key, "kind": one.kind, "name": one.name, "number": number, "bytes": size}
    return {**described, "own_bytes": one.share.own, "kinds": kinds}


def _usage_cells(one: ModelUsage) -> list[object]:
    from pipeline.short_keys import shown

    number, size = one.share.total
    parts = [one.share.by_kind.get(kind, (0, 0))[1] for kind in ("weights", "checkpoint")]
    sizes = [size, one.share.own, *parts, size - sum(parts)]
    return [shown(one.key), one.kind, one.name or None, number, *map(_size, sizes)]


def _get(args: argparse.Namespace) -> int:
    return _write(args, FORMATS[0], with_provenance=False)


def _export(args: argparse.Namespace) -> int:
    return _write(args, args.format, with_provenance=True)


def _write(args: argparse.Namespace, form: str, *, with_provenance: bool) -> int:
    with open_session(args) as session:
        from pipeline.model_catalog import find_model
        from pipeline.model_export import Format, export, origin

        model = find_model(args.key)
        described = export(
            model,
            args.output,
            session.store,
            load=lambda: _load(model),
            form=Format(form),
            provenance=origin(model, session.settings.project, session.project_id) if with_provenance else None,
        )
    if args.json:
        print_json({"folder": str(args.output), **described})
    else:
        print(f"{args.output}: {described['weights']['file']} ({_size(described['weights']['size'])}) and model.json")
    return 0


def _load(model: Model) -> Any:
    from pipeline.model_catalog import KEYS, TABLES

    return TABLES[model.kind]().load_model({KEYS[model.kind]: model.key})


def _put(args: argparse.Namespace) -> int:
    with open_session(args):
        from schemas.stored_model import KEY, StoredModel

        key = StoredModel().put(
            args.file,
            name=args.name,
            version=args.version,
            description=args.description,
            tags=_tags(args.tag),
            model_class=args.model_class,
            params=args.params,
            input_shape=args.input_shape,
            output_shape=args.output_shape,
            metrics=dict(args.metric),
        )[KEY]
    if args.json:
        print_json({"key": key})
    else:
        print(f"{key} is stored as {args.name}")
    return 0


def _tags(given: list[str]) -> dict[str, str]:
    from pipeline.errors import ConfigurationError

    tags = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--tag takes NAME=VALUE, not {text!r}")
        tags[name] = value
    return tags


def _rm(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline.short_keys import full_key
        from schemas.stored_model import KEY, StoredModel

        key = full_key(StoredModel, args.key)
        StoredModel().remove({KEY: key})
    if args.json:
        print_json({"removed": key})
    else:
        print(f"{key} removed; its weights are left to the store's garbage collection")
    return 0


def _verify(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        found, total = _verified(session, args.keys, quiet=args.json)
    if args.json:
        print_json({"objects": total, "damaged": found})
    else:
        print(f"{total} object{'' if total == 1 else 's'} read, {len(found)} damaged")
    return 1 if found else 0


def _verified(session: Session, keys: list[str], *, quiet: bool) -> tuple[list[dict[str, Any]], int]:
    """The damaged weights, each told as soon as it is found, and how many objects were read."""
    from pipeline.model_catalog import find_model, verify

    damaged, total = [], 0
    for checked in verify(session.store, [find_model(key) for key in keys] if keys else None):
        total += 1
        if checked.damage:
            damaged.append({"address": checked.address, "models": checked.keys, "damage": checked.damage})
            if not quiet:
                print(f"{', '.join(key[:8] for key in checked.keys)}: {checked.damage}", flush=True)
        elif is_terminal() and not quiet:
            print(f"{total} read", end="\r", file=sys.stderr, flush=True)
    return damaged, total
