"""``penstock completion``: what a shell needs to complete the commands of both programs.

Read `completion_command`.
"""

from __future__ import annotations

import click

_PROGRAMS = ("penstock", "penstock-train")
_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> int:
    """Write what SHELL needs to complete commands and options.

    \b
    bash:  eval "$(penstock completion bash)"                              in ~/.bashrc
    zsh:   eval "$(penstock completion zsh)"                               in ~/.zshrc
    fish:  penstock completion fish > ~/.config/fish/completions/penstock.fish
    """  # noqa: D301 - click reads the character
    from click.shell_completion import get_completion_class

    writer = get_completion_class(shell)
    assert writer is not None
    for program in _PROGRAMS:
        variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
        click.echo(writer(click.Command(program), {}, program, variable).source())
    return 0
