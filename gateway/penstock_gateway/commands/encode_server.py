"""``penstock encode-server``: prompt encoders in a process of their own, for gateways on this machine or on others.

Owns arguments and messages; `penstock_gateway.remote_encoder.process` does the work. Read `encode_server_command`.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

SECRET_VARIABLE = "PENSTOCK_ENCODER_SECRET"


@click.command("encode-server")
@click.option(
    "--listen",
    default="unix:/run/penstock/encoder.sock",
    show_default=True,
    help="unix:/path, tcp://host:port or tls://host:port.",
)
@click.option(
    "--encoder",
    "names",
    multiple=True,
    default=("static-minilm-256",),
    show_default=True,
    help="A bundled name or a folder; may be given several times.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="CPU threads of one run.")
@click.option("--queue", "queue_limit", type=click.IntRange(1, 100_000), default=256, show_default=True,
              help="Texts that may wait for each transformer.")  # fmt: skip
@click.option("--health", help="host:port of /livez, /readyz and /metrics over HTTP; none without.")
@click.option("--secret-file", type=click.Path(path_type=Path), help=f"Holds the secret; else ${SECRET_VARIABLE}.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM certificate, for tls://.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key, PEM.")
@click.option("--insecure", is_flag=True, help="Accept an address beyond this machine without a secret.")
def encode_server_command(
    listen: str,
    names: tuple[str, ...],
    device: str,
    threads: int,
    queue_limit: int,
    health: str | None,
    secret_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure: bool,
) -> int:
    """Serve prompt vectors to gateways whose encoder.remote names this address, until interrupted.

    \b
    penstock encode-server --listen unix:/run/penstock/encoder.sock --encoder minilm-l6-v2
    """  # noqa: D301 - click reads the character
    import asyncio

    from penstock_gateway.remote_encoder.address import EncoderAddress
    from penstock_gateway.remote_encoder.process import EncodeServerOptions, serve_encoders
    from penstock_gateway.remote_encoder.server import EncodeServer
    from penstock_gateway.settings_deployments import model_folder
    from penstock_gateway.settings_secrets import SecretFileError, read_secret
    from penstock_routers.errors import RouterError

    def say(server: EncodeServer, port: int | None) -> None:
        health_text = "" if port is None else f"; health on port {port}"
        click.echo(f"penstock encode-server: {server.address} with {', '.join(server.services)}{health_text}", err=True)

    try:
        address = EncoderAddress.parse(listen)
        secret = read_secret(None, None if secret_file is None else str(secret_file)) or os.environ.get(
            SECRET_VARIABLE, ""
        )
        if not secret and not address.is_local and not insecure:
            raise click.ClickException(
                f"{address} can be reached from other machines: give a secret (--secret-file or ${SECRET_VARIABLE}), "
                "or --insecure"
            )
        options = EncodeServerOptions(
            address=address,
            folders=tuple(model_folder(name) for name in names),
            device="cuda" if device == "cuda" else "cpu" if device == "cpu" else "auto",
            threads=threads,
            queue_limit=queue_limit,
            secret=secret.encode(),
            certificate=tls_cert,
            key=tls_key,
            health=None if health is None else _host_and_port(health),
        )
        asyncio.run(serve_encoders(options, say))
    except RouterError as error:
        raise click.ClickException(f"{error.message} [{error.code}]") from None
    except SecretFileError as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error}") from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error.strerror or error}") from None
    return 0


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.UsageError("--health is host:port, for example 127.0.0.1:8081")
    return host, int(port)
