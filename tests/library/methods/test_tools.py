"""What editors and type checkers see of the methods."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jedi
import pytest

ROOT = Path(__file__).parents[3]

USER_FILE = """\
import grass_optax

reveal_type(grass_optax.grassjump(1e-3))
grass_optax.scale_by_grassjump(rank=4, weight_decay=0.1)
grass_optax.grassjump(1e-3, completion="all")
grass_optax.badam(1e-3, order="ascending")
"""


def script(code):
    return jedi.Script(code, project=jedi.Project(ROOT, added_sys_path=[ROOT]))


def test_completion_offers_the_arguments_of_a_method():
    code = "import grass_optax\ngrass_optax.grassjump(1e-3, wei"
    names = {completion.name for completion in script(code).complete()}
    assert {"weight_decay=", "weight_dimension_numbers="} <= names


@pytest.mark.parametrize("name", ["scale_by_grassjump", "scale_by_badam"])
def test_a_direction_has_a_signature_and_a_docstring(name):
    (signature,) = script(f"import grass_optax\ngrass_optax.{name}(").get_signatures()
    names = [parameter.name for parameter in signature.params]
    first = ["rank", "update_proj_gap"] if name == "scale_by_grassjump" else ["switch_gap"]
    assert names[: len(first)] == first
    assert {"b1", "b2", "inner", "mu_dtype", "key"} <= set(names)
    assert "weight_decay" not in names
    assert "Args:" in signature.docstring()


def test_go_to_definition_finds_the_source_of_a_direction():
    (definition,) = script("import grass_optax\ngrass_optax.scale_by_coap").goto(follow_imports=True)
    assert definition.module_name == "grass_optax.methods._coap"
    assert definition.type == "function"


def test_a_type_checker_finds_misuse_and_the_type_of_the_result(tmp_path):
    (tmp_path / "user.py").write_text(USER_FILE)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)]
    quiet = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # do not look for a newer version
    report = json.loads(subprocess.run(command, capture_output=True, text=True, env=quiet, check=False).stdout)
    by_line = {d["range"]["start"]["line"] + 1: (d["severity"], d["message"]) for d in report["generalDiagnostics"]}
    assert sorted(by_line) == [3, 4, 5]
    assert by_line[3] == ("information", 'Type of "grass_optax.grassjump(0.001)" is "GradientTransformationExtraArgs"')
    assert by_line[4] == ("error", 'No parameter named "weight_decay"')
    assert by_line[5][0] == "error"
    assert "\"Literal['all']\" is not assignable to type \"Literal['isotropic']\"" in by_line[5][1]
