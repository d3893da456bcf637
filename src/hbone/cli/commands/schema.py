"""`hbone schema`: JSON Schema of a settings file."""

import json

import click


@click.command()
@click.argument("what", type=click.Choice(["node", "control"]), metavar="node|control")
def schema(what: str) -> None:
    """Print the JSON Schema of node.yaml or control.yaml.

    Each setting has its meaning, default, limits, what a change takes to apply (x-applies), and in x-environment the
    variables that set it. For an editor that completes and checks while you type, write it to a file
    and put `# yaml-language-server: $schema=FILE` into the first line of the settings.
    """
    from hbone.config.schema import MODELS, json_schema

    click.echo(json.dumps(json_schema(MODELS[what]), indent=2, ensure_ascii=False))
