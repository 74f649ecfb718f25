"""The jobs from a shell or a cluster: `python -m maml_toolkit train --run runs/first --epochs 20`."""

from maml_toolkit.commands import app, options, summary

__all__ = ["app", "options", "summary"]

if __name__ == "__main__":
    app()
