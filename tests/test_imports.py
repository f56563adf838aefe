"""What each script imports before it does anything: start-up is paid by every job."""

import ast

from conftest import REPOSITORY

LIBRARY = REPOSITORY / "workflow/consilience"
SCRIPTS = REPOSITORY / "workflow/scripts"
# Seconds or large parts of one: torch 1.2, sklearn and scipy.stats 0.6 each, the others 0.1 to 0.5.
HEAVY = {
    "clip",
    "cv2",
    "jinja2",
    "lime",
    "matplotlib",
    "pandas",
    "pytorch_grad_cam",
    "scipy.stats",
    "skimage",
    "sklearn",
    "torch",
    "torchvision",
}


def names_at_once(tree):
    """Yield the modules that a module imports as it is imported itself, and whence."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        # Neither functions nor classes' methods; `with` and `try` at the top are run.
        inner = [node] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.With | ast.Try | ast.If):
            inner = [one for one in ast.walk(node) if isinstance(one, ast.Import | ast.ImportFrom)]
        for one in inner:
            if isinstance(one, ast.Import):
                yield from ((alias.name, None) for alias in one.names)
            else:
                base = ("consilience." if one.level else "") + (one.module or "")
                for alias in one.names:
                    yield base.rstrip("."), alias.name


def imported(path, seen):
    """Return the heavy packages that importing a module loads by our own import statements."""
    found = set()
    for module, name in names_at_once(ast.parse(path.read_text())):
        parts = module.split(".")
        if parts[0] != "consilience":
            whole = f"{module}.{name}" if name else module
            found |= {one for one in HEAVY if whole == one or whole.startswith(f"{one}.")}
            continue
        ours = LIBRARY / f"{(parts[1:] or [name])[0]}.py"
        if ours.is_file() and ours not in seen:
            seen.add(ours)
            found |= imported(ours, seen)
    return found


TORCH = {"torch", "torchvision"}
LIME = {"lime", "skimage"}  # sklearn where it fits
STATS = {"scipy.stats"}
MAPS = {"cv2", "skimage"}
EXPECTED = {
    "audit_metrics": TORCH | LIME | MAPS,
    "calibrate_trust": STATS,
    "check_explain_params": LIME,
    "check_sanity": TORCH | LIME,
    "check_study": TORCH,
    "compare_explanations": MAPS,
    "draw_thumbnails": LIME | {"matplotlib"},
    "embed_concepts": TORCH,
    "embed_probe": TORCH,
    "explain_cam": TORCH | {"pytorch_grad_cam"},
    "explain_lime": TORCH | LIME,
    "export_explain_params": LIME,
    "extract_activations": TORCH,
    "judge_dissection": STATS,
    "judge_study": STATS,
    "judge_trust": STATS,
    "measure_effects": TORCH,
    "measure_faithfulness": TORCH,
    "measure_responses": TORCH | STATS,
    "plant_neurons": STATS,
    "predict": TORCH,
    "rank_entrants": TORCH | STATS | MAPS,
    "repeat_lime": TORCH | LIME | STATS,
    "select_wrong": TORCH,
    "train_classifier": TORCH,
    "train_clip": TORCH,
    "write_report": {"jinja2", "matplotlib"},
}
"""Scripts that are not named load none of :data:`HEAVY`."""


def test_scripts_import_no_more_than_they_use():
    found = {path.stem: imported(path, set()) for path in sorted(SCRIPTS.glob("*.py"))}
    assert {name: heavy for name, heavy in found.items() if heavy} == EXPECTED
