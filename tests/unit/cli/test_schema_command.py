"""`hbone schema`."""

import json

import pytest
from click.testing import CliRunner

from hbone.cli.main import cli


@pytest.mark.parametrize("what", ["node", "control"])
def test_the_schema_of_a_settings_file_is_printed_as_json(what: str) -> None:
    result = CliRunner().invoke(cli, ["schema", what])
    assert result.exit_code == 0
    assert json.loads(result.output)["type"] == "object"
