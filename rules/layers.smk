# Which of a model's dissected layers share a pass over the pictures. No rules.
#
# Layers share passes over the pictures in groups. One that comes to the study later makes a group
# of its own, so that what is there already stays. Written down when a run begins, since which layers
# came first shows nowhere else; by architecture, since another one has other layers.
GROUPS_FILE = RESULTS / "index" / "layers.json"
KNOWN_GROUPS = index.read_json(GROUPS_FILE)


def network(name):
    """What decides which layers a model has, as a short digest."""
    spec = model_spec(name)
    said = [spec.get(key) for key in ("architecture", "arguments", "code")]
    return sha256(repr(said).encode()).hexdigest()[:8]


GROUPS = {
    name: index.group_layers(
        MODELS[name]["dissect_layers"],
        KNOWN_GROUPS.get(name, {}).get(network(name), {}),
    )
    for name in DISSECTED
}
# Those with a layer that the study asks for, which is not always one that it once asked for.
ASKED = [
    (name, group)
    for name in DISSECTED
    for group, layers in GROUPS[name].items()
    if set(layers) & set(MODELS[name]["dissect_layers"])
]


def write_groups():
    """Write down which layers share a pass, for the jobs and for later runs."""
    known = {
        name: KNOWN_GROUPS.get(name, {}) | {network(name): GROUPS[name]}
        for name in DISSECTED
    }
    text = json.dumps(KNOWN_GROUPS | known, indent=1, sort_keys=True) + "\n"
    with refusing():
        files.write_if_changed(GROUPS_FILE, text)


def layers_of(wildcards):
    """The layers of a group, perhaps some among them that the study asks for no more."""
    return GROUPS[wildcards.model][wildcards.group]


def wanted_layers(wildcards):
    """Those of them that the study asks for."""
    named = MODELS[wildcards.model]["dissect_layers"]
    return [layer for layer in layers_of(wildcards) if layer in named]


def by_group(pattern, model=None):
    """A pattern filled in for each group that the study asks for, of one model or of all."""
    asked = [pair for pair in ASKED if model in (None, pair[0])]
    models, groups = zip(*asked) if asked else ((), ())
    return expand(pattern, zip, model=models, group=groups, allow_missing=True)
