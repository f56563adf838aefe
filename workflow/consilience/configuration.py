"""Check a study's configuration before any job starts, and fill its defaults in."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jsonschema
import yaml

from .errors import ConsilienceError

SCHEMA = Path(__file__).parent.parent / "schemas" / "config.schema.yaml"

HOW = ("assets_dir", "assets_mirror", "device", "store")
"""Keys that say how a study runs, not what it computes: no step is done again for them."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                mark = key_node.start_mark
                raise ConsilienceError(
                    f"{mark.name}, line {mark.line + 1}: key {key!r} is given twice; keep one"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict:
    """Read a YAML mapping.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, is not YAML, is no mapping, or gives a key twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _UniqueKeyLoader)  # a subclass of SafeLoader
    except OSError as error:
        raise ConsilienceError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConsilienceError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise ConsilienceError(f"{path}{where}: {what}") from None
    if not isinstance(content, Mapping):
        raise ConsilienceError(f"{path}: must be a mapping of keys to values")
    return dict(content)


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
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the study"


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
        return f"{key}: {_shown(value)} is not of type {kinds}{about}"
    if rule == "enum":
        allowed = [str(item) for item in error.validator_value]
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it must be one of {', '.join(allowed)}"
        return f"{key}: {_shown(value)} is not known; {hint}"
    if rule == "oneOf" and all("required" in option for option in error.validator_value):
        always = error.schema.get("required", ())
        options = [option["required"][0] for option in error.validator_value]
        options = [name for name in options if name not in always]
        given = [name for name in options if name in value] if isinstance(value, Mapping) else []
        had = f"has {' and '.join(given)}" if given else "has none of them"
        return f"{key}: give exactly one of {', '.join(options)}; it {had}"
    # jsonschema's message begins with the value.
    said = error.message if len(error.message) <= 200 else f"{_shown(value)} is not allowed"
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


def _problems(study: Mapping, schema: Mapping) -> Iterator[str]:
    """What a schema cannot say: keys that must fit one another, and files that must exist."""
    has_world = study["world"] is not None

    def check_file(key: str, path: str) -> Iterator[str]:
        if not Path(path).is_file():
            yield f"{key}: there is no file {path!r}; put it there or change the path"

    for name in ("pictures", "probe"):
        for index, source in enumerate(study[name]):
            key = f"{name}[{index}]"
            for kind in ("world", "wrong"):
                if kind in source and not has_world:
                    yield f"{key}.{kind}: this study has no world; give a folder instead"
            if "folder" in source and not Path(source["folder"]).is_dir():
                yield (
                    f"{key}.folder: there is no folder {source['folder']!r}; "
                    "put the pictures there or change the path"
                )
            if source.get("labels"):
                yield from check_file(f"{key}.labels", source["labels"])
            if masks := source.get("masks"):
                if not Path(masks).is_dir():
                    yield (
                        f"{key}.masks: there is no folder {masks!r}; "
                        "put the masks there or change the path"
                    )
                elif Path(masks).resolve() == Path(source["folder"]).resolve():
                    yield f"{key}.masks: is the pictures' own folder; give the masks another"
            if "wrong" in source:
                yield from _problems_of_wrong(f"{key}.wrong.model", source["wrong"], study)
        for kind, what in (("world", "the world is"), ("wrong", "wrong pictures are")):
            if sum(kind in source for source in study[name]) > 1:
                yield f"{name}: {what} given twice; join the two into one"

    if not study["models"] and not study["published"]:
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
    if study["comparison"]["categories"]:
        yield from check_file("comparison.categories", study["comparison"]["categories"])
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
            yield f"{key}: {_shown(method)} is not known; {hint}"

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
        if chosen and study["concepts"] != "world":
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
        One line a problem, the first that the schema finds before those that need it to fit.
    """
    for path in files:
        read_yaml(path)
    # Read at every start, and ten times as fast where PyYAML has its library.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schema = yaml.load(SCHEMA.read_text(encoding="utf-8"), loader)
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: _key(error.absolute_path))
    if errors:
        raise ConsilienceError("\n".join(_describe(error) for error in errors))
    study = _fill_defaults(copy.deepcopy(dict(config)), schema)
    if said := list(_problems(study, schema)):
        raise ConsilienceError("\n".join(said))
    return study
