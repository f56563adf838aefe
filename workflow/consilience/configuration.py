"""Check a study's configuration before any job starts, and fill its defaults in.

As a command,

    python -m consilience.configuration studies/mine.yaml

says what is wrong with a study, line and key, without Snakemake, which reads the files first and
does not always name the line.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path

import jsonschema
import jsonschema.validators
import yaml

from . import pickles, words
from .errors import ConsilienceError, printable, shown
from .extensions import Entry, find_entries
from .files import read_text
from .registry import KINDS

SCHEMA = Path(__file__).parent.parent / "schemas" / "config.schema.yaml"
DEFAULT = Path(__file__).parent.parent.parent / "config.yaml"
"""The default study, that every other is merged over."""


_MOST_NODES = 200_000
_DEEPEST = 100

CATEGORIES = Path(__file__).parent.parent / "categories"
"""Folder of the lists of words by category that come with the project."""

HOW = ("assets_dir", "assets_mirror", "device", "store")
"""Keys that say how a study runs, not what it computes: no step is done again for them."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one winning."""

    def compose_mapping_node(self, anchor):
        # Here and not where mappings are made of nodes: by then anchors are merged into them.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                mark = key.start_mark
                raise ConsilienceError(
                    f"{mark.name}, line {mark.line + 1}: key {shown(key.value)} is given twice; "
                    "keep one"
                )
            seen.add(key.value)
        return node

    def read_document(self):
        """Return the document, whose anchors must not make it grow without bound."""
        node = self.get_single_node()
        _measure(node, {})
        return None if node is None else self.construct_document(node)


def _measure(node: yaml.Node | None, known: dict[int, int], depth: int = 0) -> int:
    """Count the nodes of a document with each alias written out."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES  # until it is counted: a node that holds itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        size = 1
        for part in parts:
            for child in part if isinstance(part, tuple) else (part,):
                size += _measure(child, known, depth + 1)
        known[id(node)] = size
    if known[id(node)] >= _MOST_NODES or depth > _DEEPEST:
        mark = node.start_mark
        raise ConsilienceError(
            f"{mark.name}, line {mark.line + 1}: holds too much, by itself or with its aliases "
            "written out; make it smaller"
        )
    return known[id(node)]


def _unique_keys(path: str, pairs: list[tuple]) -> dict:
    """Make a mapping of JSON's pairs, in which no key may be given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConsilienceError(f"{path}: key {shown(twice)} is given twice; keep one")
    return found


def read_yaml(path: str | Path) -> dict:
    """Read a mapping from a file of YAML (or JSON, as Snakemake takes it too).

    Raises
    ------
    ConsilienceError
        If the file cannot be read, is not YAML, is no mapping, gives a key twice, or is nested or
        grows by aliases without bound.
    """
    text, place = read_text(path), printable(path)
    try:
        try:
            content = json.loads(text, object_pairs_hook=partial(_unique_keys, place))
        except ValueError:
            loader = _UniqueKeyLoader(text)  # a subclass of SafeLoader
            loader.name = place
            try:
                content = loader.read_document()
            finally:
                loader.dispose()
    except ConsilienceError:
        raise
    except yaml.YAMLError as error:
        raise ConsilienceError(f"{place}{_say_yaml(error, text)}") from None
    except RecursionError:
        raise ConsilienceError(f"{place}: is nested too deeply; make it simpler") from None
    except Exception as error:  # a date or number that is none
        raise ConsilienceError(f"{place}: not YAML ({printable(error)[:200]})") from None
    if not isinstance(content, Mapping):
        raise ConsilienceError(f"{place}: must be a mapping of keys to values")
    return dict(content)


def find_categories(name: str | Path) -> Path:
    """Return where a list of words by category lies: one that comes with the project, by its name,
    or a file of the user's, by its path."""
    ours = CATEGORIES / f"{name}.csv"
    # os.path says of a name that no file can have that it is none; Path raises.
    return ours if ours.parent == CATEGORIES and os.path.isfile(ours) else Path(name)


def _merge(base: Mapping, over: Mapping) -> dict:
    """Merge as Snakemake does: mappings key by key, all else whole."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = _merge(merged[key], value)
        merged[key] = value
    return merged


def read_study(paths: Sequence[str | Path]) -> dict:
    """Read a study's files, merged over the default one after another."""
    study: dict = {}
    for path in (DEFAULT, *paths):
        study = _merge(study, read_yaml(path))
    return study


def _say_yaml(error: yaml.YAMLError, text: str) -> str:
    """Say where YAML is broken and how."""
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", None)
    line = mark.line if mark else text.count("\n", 0, position) if position is not None else None
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    if "\\t" in what:
        what += "; indent with spaces"
    return (f", line {line + 1}" if line is not None else "") + f": {printable(what)}"


def _problems_of_form(value, path: tuple = (), depth: int = 0) -> Iterator[str]:
    """Say which values are of no kind that a study can have, wherever they stand."""
    key = _key(path)
    if depth > _DEEPEST:
        yield f"{key}: is nested too deeply"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(name, str):
                yield from _problems_of_form(item, (*path, name), depth + 1)
            else:
                yield f"{key}: the key {shown(name)} is no text; put it in quotes"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems_of_form(item, (*path, index), depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key}: {value} is not a finite number"
    elif isinstance(value, int) and value.bit_length() > 63:
        yield f"{key}: {shown(value)} is out of all bounds"
    elif isinstance(value, str) and "\0" in value:
        yield f"{key}: {shown(value)} holds a null character; remove it"


def _fill_defaults(value, schema: Mapping):
    """Return ``value`` with the schema's defaults for keys that are not there, at every depth."""
    if isinstance(value, Mapping) and "properties" in schema:
        filled = dict(value)
        for key, sub in schema["properties"].items():
            if key not in filled and "default" in sub:
                filled[key] = copy.deepcopy(sub["default"])
            if key in filled:
                filled[key] = _fill_defaults(filled[key], sub)
        return filled
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [_fill_defaults(item, schema["items"]) for item in value]
    return value


def _key(path: Sequence) -> str:
    """Write a path such as ``["models", 0, "name"]`` as ``models[0].name``."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) else printable(part)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text or "the study"


def _describe(error: jsonschema.ValidationError) -> str:
    """Say in one line which key is wrong, its value, and what to do."""
    key = _key(error.absolute_path)
    about = " ".join(str(error.schema.get("description", "")).split())
    about = f" ({about})" if about else ""
    rule, value = error.validator, error.instance
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = sorted(set(map(str, value)) - set(known))[0]
        close = difflib.get_close_matches(unknown, known, n=1)
        full = _key([*error.absolute_path, unknown])
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return f"unknown key {full!r}; {hint}"
    if rule == "required":
        missing = next(name for name in error.validator_value if name not in value)
        return f"{_key([*error.absolute_path, missing])} is missing; add it"
    if rule == "type":
        kinds = error.validator_value
        kinds = " or ".join(kinds if isinstance(kinds, list) else [kinds])
        return f"{key}: {shown(value)} is not of type {kinds}{about}"
    if rule == "enum":
        allowed = [str(item) for item in error.validator_value]
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it must be one of {', '.join(allowed)}"
        if kind := error.schema.get("x-registered"):
            what = f"a {KINDS[kind]} that a file of `extensions` registers"
            if not allowed:
                hint = f"it must be {what}"
            elif not close:
                hint += f", or {what}"
        return f"{key}: {shown(value)} is not known; {hint}"
    if rule == "oneOf" and all("required" in option for option in error.validator_value):
        always = error.schema.get("required", ())
        options = [option["required"][0] for option in error.validator_value]
        options = [name for name in options if name not in always]
        given = [name for name in options if name in value] if isinstance(value, Mapping) else []
        had = f"has {' and '.join(given)}" if given else "has none of them"
        return f"{key}: give exactly one of {', '.join(options)}; it {had}"
    # jsonschema's message begins with the value.
    said = printable(error.message)
    said = said if len(said) <= 200 else f"{shown(value)} is not allowed"
    return f"{key}: {said}{about}"


def _problems_of_wrong(key: str, wrong: Mapping, study: Mapping) -> Iterator[str]:
    """Say how the model that is to be wrong about pictures does not suit."""
    models = {model["name"]: model for model in study["models"]}
    trained = [name for name, model in models.items() if "train" in model]
    choice = f"it must be one of {', '.join(trained)}" if trained else "this study trains none"
    if wrong["model"] not in models:
        close = difflib.get_close_matches(wrong["model"], trained, n=1)
        hint = f"did you mean {close[0]!r}?" if close else choice
        yield f"{key}: there is no model {wrong['model']!r}; {hint}"
    elif "train" not in models[wrong["model"]]:
        yield f"{key}: {wrong['model']!r} is not trained on the world; {choice}"


def _problems_of_families(models: Sequence[Mapping]) -> Iterator[str]:
    """Say which nets of one family differ in more than the seed of their training."""
    first: dict[str, Mapping] = {}
    for index, model in enumerate(models):
        if model["family"] is None:
            continue
        key = f"models[{index}] ({model['name']}).family"
        if "train" not in model:
            yield f"{key}: is of nets that are trained here; give train, or family: null"
            continue
        other = first.setdefault(model["family"], model)
        one, two = (
            {k: v for k, v in net.items() if k not in ("name", "train", "explain")}
            | {f"train.{k}": v for k, v in net["train"].items() if k != "seed"}
            for net in (model, other)
        )
        if differing := [name for name in one if one[name] != two.get(name)]:
            yield (
                f"{key}: {model['name']!r} and {other['name']!r} differ in {differing[0]}; nets of "
                "one family differ in train.seed only"
            )
        elif model is not other and model["train"]["seed"] == other["train"]["seed"]:
            yield f"{key}: {model['name']!r} and {other['name']!r} have one train.seed; change one"


def _problems_of_benchmark(benchmark: Mapping, study: Mapping, schema: Mapping) -> Iterator[str]:
    """Say what the benchmark lacks in this study."""
    if study["world"] is None:
        yield "benchmark: this study has no world, whose truth is known; give one"
        return
    yield from _problems_of_explaining(benchmark, study)
    if (neurons := benchmark["neurons"]) is not None:
        key = "benchmark.neurons"
        if not study["acts"]["dissect"]:
            yield f"{key}: acts.dissect is false; set it, or {key}: null"
        if study["concepts"] != "world" or any("world" not in s for s in study["probe"]):
            yield f"{key}: needs concepts: world, and probe pictures of the world only"
        if not study["dissection"]["untrained"] or not study["dissection"]["held_out"]:
            yield (
                f"{key}: asks which labels stand; set dissection.untrained: true and "
                "dissection.held_out above 0"
            )
        similarities = schema["properties"]["dissection"]["properties"]["similarity"]["enum"]
        for index, name in enumerate(neurons["similarities"] or []):
            if name not in similarities:
                known = ", ".join(similarities)
                yield f"{key}.similarities[{index}]: {name!r} is not known; known are {known}"
        layers = sorted({name for model in study["models"] for name in model["dissect_layers"]})
        for index, name in enumerate(neurons["beside"] or []):
            if name not in layers:
                yield (
                    f"{key}.beside[{index}]: no model has {name!r} among its dissect_layers; "
                    f"there are {', '.join(layers)}"
                )


def _problems_of_explaining(benchmark: Mapping, study: Mapping) -> Iterator[str]:
    """Say what contrast and trust lack in this study."""
    models, acts = {model["name"]: model for model in study["models"]}, study["acts"]
    for index, pair in enumerate(benchmark["contrast"]):
        for tells, name in pair.items():
            key = f"benchmark.contrast[{index}].{tells}"
            trained = [m for m in models if models[m].get("train", {}).get("target") == tells]
            if name not in trained:
                known = ", ".join(trained) or "none"
                yield f"{key}: {name!r} is not trained to tell {tells}s; there is {known}"
            elif not models[name]["explain"]:
                yield f"{key}: {name!r} is not explained; set its explain: true"
    asked = [name for name in ("contrast", "trust") if benchmark[name]]
    for name in asked:
        key = f"benchmark.{name}"
        if not study["pictures"] or any("world" not in s for s in study["pictures"]):
            yield f"{key}: needs pictures of the world, and no others"
        if not acts["agree"]:
            yield f"{key}: acts.agree is false; set it, or leave {key} out"
    if benchmark["trust"] and not (acts["cam"] and acts["lime"] and study["lime"]["repeats"]):
        yield "benchmark.trust: needs acts.cam, acts.lime and lime.repeats of 1 or more"


def _problems(study: Mapping, schema: Mapping) -> Iterator[str]:
    """What a schema cannot say: keys that must fit one another, and files that must exist."""
    has_world = study["world"] is not None

    def check_file(key: str, path: str) -> Iterator[str]:
        if not os.path.isfile(path):
            yield f"{key}: there is no file {shown(path)}; put it there or change the path"
        elif not os.access(path, os.R_OK):
            yield f"{key}: the file {shown(path)} may not be read; change its permissions"
        elif set(path) & set("{}"):
            yield f"{key}: {shown(path)} has braces, which Snakemake fills in; rename it"

    for name in ("pictures", "probe"):
        for index, source in enumerate(study[name]):
            key = f"{name}[{index}]"
            for kind in ("world", "wrong"):
                if kind in source and not has_world:
                    yield f"{key}.{kind}: this study has no world; give a folder instead"
            if "folder" in source and not os.path.isdir(source["folder"]):
                yield (
                    f"{key}.folder: there is no folder {shown(source['folder'])}; "
                    "put the pictures there or change the path"
                )
            if source.get("labels"):
                yield from check_file(f"{key}.labels", source["labels"])
            if masks := source.get("masks"):
                if not os.path.isdir(masks):
                    yield (
                        f"{key}.masks: there is no folder {shown(masks)}; "
                        "put the masks there or change the path"
                    )
                elif Path(masks).resolve() == Path(source["folder"]).resolve():
                    yield f"{key}.masks: is the pictures' own folder; give the masks another"
            if "wrong" in source:
                yield from _problems_of_wrong(f"{key}.wrong.model", source["wrong"], study)
        for kind, what in (("world", "the world is"), ("wrong", "wrong pictures are")):
            if sum(kind in source for source in study[name]) > 1:
                yield f"{name}: {what} given twice; join the two into one"

    yield from _problems_of_families(study["models"])
    benchmark = study["benchmark"] or {}
    if benchmark:
        yield from _problems_of_benchmark(benchmark, study, schema)
    if not study["models"] and not study["published"] and not benchmark.get("audit"):
        yield "models: is empty; give a model, or published descriptions to compare"
    names = [model["name"] for model in (*study["models"], *study["published"])]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"models: the name {name!r} is given twice; rename one"
    for index, entry in enumerate(study["published"]):
        key = f"published[{index}] ({entry['name']})"
        wanted = {"clip-dissect": "path", "netdissect": "paths"}[entry["format"]]
        if wanted not in entry:
            one = "one file" if wanted == "path" else "one file a layer"
            yield f"{key}: {entry['format']} is {one}; give {wanted}"
        elif wanted == "path":
            yield from check_file(f"{key}.path", entry["path"])
        else:
            for layer, path in entry["paths"].items():
                yield from check_file(f"{key}.paths.{layer}", path)
    if name := study["comparison"]["categories"]:
        known = sorted(path.stem for path in CATEGORIES.glob("*.csv"))
        if not os.path.isfile(find_categories(name)):
            yield (
                f"comparison.categories: there is no file {name!r}; put it there, change the path, "
                f"or name a list that comes with the project: {', '.join(known)}"
            )
        else:
            yield from check_file("comparison.categories", str(find_categories(name)))
    for index, model in enumerate(study["models"]):
        key = f"models[{index}] ({model['name']})"
        if "train" in model and not has_world:
            yield f"{key}.train: this study has no world; give weights or a checkpoint instead"
        if ":" in model["architecture"]:
            for name, other in (
                ("train", "a checkpoint, or weights that the function brings"),
                ("weights", "a checkpoint, or weights that the function brings"),
                ("preprocessing", "classes and transform"),
            ):
                if model.get(name):
                    yield (
                        f"{key}.{name}: is for classifiers of torchvision, not for a function of "
                        f"your own; give {other}"
                    )
        elif model["arguments"]:
            yield (
                f"{key}.arguments: are for a function of your own (architecture: module:function), "
                "not for a classifier of torchvision; remove them"
            )
        if "checkpoint" in model:
            yield from check_file(f"{key}.checkpoint", model["checkpoint"])
        if isinstance(model["classes"], str):
            yield from check_file(f"{key}.classes", model["classes"])
        if model["explain"] and study["acts"]["cam"] and not model["cam_layer"]:
            yield f"{key}.cam_layer: is missing; name the layer of the maps, or set explain: false"
    explained = [model["name"] for model in study["models"] if model["explain"]]
    if not explained and (study["acts"]["cam"] or study["acts"]["lime"]):
        yield "models: none has explain: true; set it, or acts.cam: false and acts.lime: false"
    elif explained and not study["pictures"] and (study["acts"]["cam"] or study["acts"]["lime"]):
        yield "pictures: is empty; say where the pictures to explain come from"

    if study["acts"]["lime"] and study["lime"]["params"] is not None:
        for path in dict.fromkeys(
            study["lime"]["params"].replace("{model}", name) for name in explained
        ):
            yield from check_file("lime.params", path)

    cams = schema["properties"]["cam"]["properties"]["methods"]["items"]["enum"]
    for index, method in enumerate(study["sanity"]["methods"] or []):
        key = f"sanity.methods[{index}]"
        if method not in (*cams, "lime"):
            close = difflib.get_close_matches(method, [*cams, "lime"], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(cams)}, lime"
            yield f"{key}: {shown(method)} is not known; {hint}"

    if study["clip"] is not None:
        given = [key for key, value in study["clip"].items() if value is not None]
        if len(given) != 1:
            yield (
                f"clip: give exactly one of train, path and name and set the others to null; it "
                f"has {' and '.join(given) or 'none'}"
            )
        elif given == ["train"] and not has_world:
            yield "clip.train: this study has no world; give path or name, or clip: null"
        elif given == ["path"]:
            yield from check_file("clip.path", study["clip"]["path"])
    if study["acts"]["dissect"]:
        if study["clip"] is None:
            yield "acts.dissect: needs a clip and this study has none; give one, or set it to false"
        if not study["probe"]:
            yield "probe: is empty; say where the probe pictures come from, or acts.dissect: false"
        if not any(model["dissect_layers"] for model in study["models"]):
            yield "models: none has dissect_layers; name layers, or acts.dissect: false"
        similarity = study["dissection"]["similarity"]
        chosen = study["dissection"].get(similarity, {}).get("a") == "absent-words"
        if chosen and similarity not in ("soft-wpmi", "wpmi"):
            key = f"dissection.{similarity}.a"
            yield f"{key}: absent-words is for soft-wpmi and wpmi; give a number"
        elif chosen and study["concepts"] != "world":
            yield (
                f"dissection.{similarity}.a: absent-words needs concepts: world, whose absent "
                "words are known; give a number"
            )
        if study["concepts"] is None:
            yield "concepts: is missing; name a text file with one word a line"
        elif study["concepts"] == "world":
            if not has_world:
                yield "concepts: this study has no world; name a text file with one word a line"
        else:
            yield from check_file("concepts", study["concepts"])
    if study["target"] == "labelled" and any(
        "folder" in source and not source["labels"] for source in study["pictures"]
    ):
        yield "target: labelled needs the true classes; give labels for each folder of pictures"


def _is_whole(_checker, value) -> bool:
    # To JSON Schema 2.0 is a whole number, but no range of Python's takes it.
    return type(value) is int


def _match(_validator, pattern: str, value, _schema) -> Iterator[jsonschema.ValidationError]:
    # Python's $ is before a line's end too.
    if isinstance(value, str) and (value.endswith("\n") or not re.search(pattern, value)):
        yield jsonschema.ValidationError(f"{shown(value)} does not match {pattern!r}")


_VALIDATOR = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    validators={"pattern": _match},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole),
)


@cache
def _parse_schema() -> bytes:
    """Return the schema's file as a pickle: a copy to change costs a tenth of reading it."""
    # At every start, and ten times as fast where PyYAML has its library.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return pickle.dumps(yaml.load(SCHEMA.read_text(encoding="utf-8"), loader))


def read_schema(entries: Sequence[Entry] = ()) -> dict:
    """Read the schema, with the names that files of the user's register among those allowed.

    Raises
    ------
    ConsilienceError
        If one is the library's own, or a key of the section that would hold its settings.
    """
    schema = pickle.loads(_parse_schema())
    places = {part["x-registered"]: part for part in _walk(schema) if "x-registered" in part}
    dissection = schema["properties"]["dissection"]["properties"]
    for entry in entries:
        place = places[entry.kind]
        if entry.name in place["enum"] or (entry.kind == "similarity" and entry.name in dissection):
            what = f"the {KINDS[entry.kind]} {entry.name!r}"
            raise ConsilienceError(
                f"{entry.path}, line {entry.line}: {what} has a name of Consilience's own; choose "
                "another"
            )
        if entry.kind == "similarity":
            # Its settings stand under its own name, and what they may be is its own business.
            dissection[entry.name] = {
                "description": f"Settings of {entry.name}, of {entry.path}.",
                "type": "object",
                "additionalProperties": False,
                "default": {},
                "properties": {name: {} for name in entry.settings},
            }
    for entry in entries:
        # A new list: an alias in the YAML is one and the same object.
        places[entry.kind]["enum"] = [*places[entry.kind]["enum"], entry.name]
    return schema


def _walk(schema) -> Iterator[Mapping]:
    """Yield every mapping in a schema."""
    if isinstance(schema, Mapping):
        yield schema
    for part in schema.values() if isinstance(schema, Mapping) else schema:
        if isinstance(part, Mapping | list):
            yield from _walk(part)


def _schema_of(config: Mapping) -> dict:
    """Read the schema, with what the configuration's own extensions register."""
    named = config.get("extensions")
    # Anything but a list of texts the schema refuses.
    known = isinstance(named, list) and all(isinstance(path, str) for path in named)
    return read_schema(find_entries(named) if known else ())


def check_place(folder: str | Path) -> None:
    """Raise where the workflow lies at a path whose braces Snakemake would fill in."""
    if set(str(folder)) & set("{}"):
        raise ConsilienceError(
            f"{printable(folder)}: the workflow lies at a path with braces, which Snakemake would "
            "fill in; rename the folder, or run the workflow from elsewhere"
        )


def check_form(config: Mapping, files: Sequence[str | Path] = ()) -> None:
    """Check what can be told of a study without looking at what it names.

    Parameters
    ----------
    config, files
        As for :func:`resolve_study`.

    Raises
    ------
    ConsilienceError
        One line a problem: the first in a file of ``extensions``, else those that the schema finds.
    """
    for path in files:
        read_yaml(path)
    if said := list(islice(_problems_of_form(config), 20)):
        raise ConsilienceError("\n".join(said))
    validator = _VALIDATOR(_schema_of(config))
    errors = sorted(validator.iter_errors(config), key=lambda error: _key(error.absolute_path))
    if errors:
        raise ConsilienceError("\n".join(_describe(error) for error in errors))


def resolve_study(config: Mapping, files: Sequence[str | Path] = ()) -> dict:
    """Check a study and return it complete.

    Parameters
    ----------
    config
        The merged configuration: the default, the study's own file over it, single keys from the
        command line over that. Lists replace, mappings merge.
    files
        The files it was merged from, searched for keys given twice (which merging hides).

    Raises
    ------
    ConsilienceError
        One line a problem: the first in a file of ``extensions``, else those that the schema finds,
        else those that need it to fit.
    """
    check_form(config, files)
    schema = _schema_of(config)
    study = _fill_defaults(copy.deepcopy(dict(config)), schema)
    if said := list(_problems(study, schema)):
        raise ConsilienceError("\n".join(said))
    return study


def check_files(study: Mapping) -> None:
    """Read the lists, tables and parameters that a study names: what is wrong stops it early.

    Pictures are not looked at, nor what takes PyTorch to read.

    Parameters
    ----------
    study
        As :func:`resolve_study` returns it.

    Raises
    ------
    ConsilienceError
        One line a problem: names the file.
    """
    said = []

    def read(reader: Callable, *arguments) -> None:
        try:
            reader(*arguments)
        except ConsilienceError as error:
            said.append(str(error))

    if study["acts"]["dissect"] and study["concepts"] not in (None, "world"):
        read(words.read_concepts, study["concepts"])
    for path in dict.fromkeys(
        m["classes"] for m in study["models"] if isinstance(m["classes"], str)
    ):
        read(words.read_class_names, path)
    categories = study["comparison"]["categories"]
    # Those that come with the project are not read here.
    brought = categories and find_categories(categories).parent != CATEGORIES
    if brought or study["published"]:
        from . import descriptions  # here, since Arrow takes its time

        if brought:
            read(descriptions.read_categories, categories)
        for entry in study["published"]:
            read(descriptions.read_all, [entry])
    if study["acts"]["lime"] and (given := study["lime"]["params"]):
        names = [model["name"] for model in study["models"] if model["explain"]]
        for path in dict.fromkeys(given.replace("{model}", name) for name in names):
            read(pickles.load_plain, path)
    if said:
        raise ConsilienceError("\n".join(said))


def main(paths: Sequence[str]) -> int:
    """Say what is wrong with a study's files; return 1 where something is."""
    try:
        study = resolve_study(read_study(paths))
        check_files(study)
    except ConsilienceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"study {study['study']!r}: nothing wrong with it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
