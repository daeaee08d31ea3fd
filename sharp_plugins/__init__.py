"""Sharpness-aware training for fairseq: ``fairseq-train --user-dir sharp_plugins --optimizer dsam ...``.

Importing the package imports nothing else and changes nothing. It is put into fairseq

* by fairseq, where it loads the package as its ``--user-dir`` (in a hydra config ``common.user_dir``, in its hub ``user_dir``);
* by `register`, in a program that uses fairseq's functions, and in a user dir of one's own that is loaded beside it.

`sharp_plugins.perturbation`, `guardedness`, `balancedness`, `pairs` and `lora` need torch and NumPy alone.
"""

import sys

__version__ = "0.1.0"


def register() -> None:
    """Put the plugin into fairseq: its optimizers, criterions, models and tokenizer, the wrappers around fairseq's trainer in which they
    work, and the repairs of fairseq. Repeated calls change nothing.

    Raises:
        ImportError: fairseq is not installed. An installed one that cannot be imported raises what it raises.

    Example::

        import sharp_plugins

        sharp_plugins.register()
        args = options.parse_args_and_arch(options.get_training_parser(), [..., "--optimizer", "sam"])
    """
    from sharp_plugins import criterions, host, optim  # noqa: F401
    from sharp_plugins.convert import bpe  # noqa: F401
    from sharp_plugins.models import adapter, bert, lora  # noqa: F401

    host.install()


class _Path(list):
    """The package's ``__path__``, which notices that fairseq wants the package as its ``--user-dir``.

    fairseq imports the package and then every file in its models/, where `sharp_plugins.models.register` waits. But if the
    program has imported the package before, fairseq imports nothing: it only looks whether the directory is in ``__path__``.
    """

    def __contains__(self, directory):
        found = super().__contains__(directory)
        if found and sys._getframe(1).f_code.co_name == "import_user_module":
            register()
        return found


__path__ = _Path(__path__)
